/* A bump allocator with heap chunks behind it. Single releases do nothing: the bound makes that safe. */
#include "client/arena.h"

#include "client/alloc.h"

struct kvcc_arena_chunk {
	struct kvcc_arena_chunk *next;
	_Alignas(16) uint8_t bytes[];
};

static void *arena_heap(struct kvcc_arena *arena, size_t bytes)
{
	struct kvcc_arena_chunk *chunk = kvcc_alloc(1, sizeof(*chunk) + bytes);

	if (!chunk) {
		arena->exhausted = true;
		return NULL;
	}
	chunk->next = arena->chunks;
	arena->chunks = chunk;
	return chunk->bytes;
}

static void *arena_take(void *data, size_t bytes)
{
	struct kvcc_arena *arena = data;
	size_t need;

	if (bytes > KVCC_ARENA_BYTES_MAX - arena->total)
		return NULL;
	need = (bytes + 15) & ~(size_t)15;
	arena->total += bytes;
	if (need > KVCC_ARENA_INLINE_BYTES - arena->used)
		return arena_heap(arena, bytes);
	arena->used += need;
	return arena->bytes + arena->used - need;
}

static void arena_give(void *data, void *memory)
{
	(void)data;
	(void)memory;
}

void kvcc_arena_init(struct kvcc_arena *arena)
{
	arena->allocator = (ProtobufCAllocator){arena_take, arena_give, arena};
	arena->chunks = NULL;
	arena->total = 0;
	arena->used = 0;
	arena->exhausted = false;
}

void kvcc_arena_reset(struct kvcc_arena *arena)
{
	while (arena->chunks) {
		struct kvcc_arena_chunk *chunk = arena->chunks;

		arena->chunks = chunk->next;
		kvcc_free(chunk);
	}
	kvcc_arena_init(arena);
}
