/* The memory that one reply is parsed into: bounded, and released all at once. Serves protobuf-c, whose
 * parser asks for as much as a message claims; needs an owner's exclusion. */
#ifndef KVCC_ARENA_H
#define KVCC_ARENA_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVCC_ARENA_INLINE_BYTES 16384u /* enough for the reply to a full batch: no heap on that path */
#define KVCC_ARENA_BYTES_MAX    (1024u * 1024u) /* of one reply; the largest honest one takes a quarter */

struct kvcc_arena {
	ProtobufCAllocator allocator; /* allocator_data is the arena: the arena must not move */
	struct kvcc_arena_chunk *chunks;
	size_t total;   /* asked for since the last reset */
	size_t used;    /* of the inline bytes */
	bool exhausted; /* the heap had nothing left (not: the bound was reached) */
	_Alignas(16) uint8_t bytes[KVCC_ARENA_INLINE_BYTES];
};

void kvcc_arena_init(struct kvcc_arena *arena);
void kvcc_arena_reset(struct kvcc_arena *arena);

#endif
