/* The index: every block that is known, by storage key. Entries have small numbers (ids) and stable
 * addresses; a block costs one entry and one bucket head, whatever the number of blocks, and no operation's
 * time grows with it:
 *
 *   entries lie in chunks that never move; buckets split one at a time (linear hashing), so that the table
 * grows without a pause; the bucket is taken from the storage key itself, which is a keyed hash already. */
#ifndef KVC_INDEX_H
#define KVC_INDEX_H

#include <assert.h>
#include <stdint.h>

#include "daemon/base/key.h"
#include "daemon/mem/extent.h"
#include "daemon/policy/policy.h"
#include "daemon/tier/record.h"
#include "proto/kvc_status.h"

#define KVC_ENTRY_NONE 0xFFFFFFFFu

enum kvc_entry_flag {
	KVC_ENTRY_VISIBLE = 1,  /* complete: look-ups and gets may see it */
	KVC_ENTRY_DEAD = 2,     /* out of the index; freed when nothing refers to it any more */
	KVC_ENTRY_ON_DISK = 4,  /* `place` and `epoch` hold */
	KVC_ENTRY_PAID = 8,     /* admitted to disk and charged, not yet written */
	KVC_ENTRY_LOOSE = 16,   /* in RAM only, and not to be written to disk */
	KVC_ENTRY_HIT = 32,     /* used since it was written to disk */
	KVC_ENTRY_IN_VRAM = 64, /* vram.h knows where */
	KVC_ENTRY_UNREAD = 128, /* found at start, and not restored since: its image may be damaged */
};

/* Bits of kvc_entry.hints: what those who put it said of it, and what came of it; and one that has no room in
 * the flags. */
enum {
	KVC_HINT_PRIORITY = 0x03,  /* enum kvc_priority (cache.h) */
	KVC_HINT_EPHEMERAL = 0x04, /* never to disk */
	KVC_HINT_TTL = 0x08,       /* it ends at some time: hints.c knows when */
	KVC_HINT_MARKED = 0x10,    /* written to disk, if it was, in a record that no start takes over */
	KVC_HINT_AS_NORMAL = 0x20, /* listed with normal priority, whatever it has */
	KVC_HINT_DOOMED = 0x40,    /* its tenant was dropped while it was being put */
	KVC_HINT_FLIGHT = 0x80,    /* something is happening to it: flight.c knows what */
};

/* One block. 84 bytes; owned by the index, filled by the cache. What a look-up needs comes first: two lines
 * of the processor's cache at most. */
struct kvc_entry {
	struct kvc_storage_key key;
	uint32_t chain;              /* next entry of the bucket, or of the free list */
	struct kvc_policy_node node; /* what decides who is evicted first */
	uint8_t flags;
	uint8_t hints;
	uint16_t tenant; /* a small number that the cache gives its tenants, 0: not known yet */
	uint16_t tokens;
	uint32_t slab; /* in the arena, KVC_EXTENT_NONE: not in RAM */
	struct kvc_place place;
	uint32_t epoch; /* of the disk segment, its low 32 bits */
	uint32_t image_bytes;
	uint32_t refs;  /* operations, moves and leases that use it: it may not be freed, nor its slab */
	uint16_t pins;  /* leases that keep it */
	uint16_t depth; /* blocks before it in its sequence, capped */
};

static_assert(sizeof(struct kvc_entry) <= 84, "the index must stay small");

struct kvc_index;

/* hash_mask: 0 for all bits; tests give few bits to force collisions. */
kvc_status kvc_index_open(uint64_t hash_mask, struct kvc_index **index);
void kvc_index_close(struct kvc_index *index);

uint32_t kvc_index_count(const struct kvc_index *index);

/* All entries have ids below it. Those that are not in use are KVC_ENTRY_DEAD. */
uint32_t kvc_index_high(const struct kvc_index *index);

/* Bytes of memory that the index has taken. */
uint64_t kvc_index_bytes(const struct kvc_index *index);

struct kvc_entry *kvc_index_entry(struct kvc_index *index, uint32_t id);

/* The entry with that key, or KVC_ENTRY_NONE. */
uint32_t kvc_index_find(struct kvc_index *index, const struct kvc_storage_key *key);

/* Touch the memory that kvc_index_find of a key will need, and the policy if it is told of a hit, for who has
 * many to find. In steps below KVC_INDEX_STEPS, each of which reads what the one before it has fetched: the
 * bucket; the entry that it names; the one behind that, as long as it is another's, or its neighbours with
 * the policy. So some keys later is the time for the next step, and then to find. */
#define KVC_INDEX_STEPS 4u
void kvc_index_prefetch(const struct kvc_index *index, const struct kvc_storage_key *key, unsigned step);

/* A new entry with that key, which must not be there. KVC_NO_MEMORY. */
kvc_status kvc_index_insert(struct kvc_index *index, const struct kvc_storage_key *key, uint32_t *id);

/* Take out of the table; the entry itself stays until kvc_index_free. */
void kvc_index_unlink(struct kvc_index *index, uint32_t id);
void kvc_index_free(struct kvc_index *index, uint32_t id);

#endif
