/* Look-up, prefetch, drop and touch: operations on keys that answer at once. */
#include "daemon/cache/internal.h"

enum {
	AHEAD = 8,       /* keys between two steps of fetching one into the processor's cache */
	CHAIN_SHARE = 2, /* part of RAM that is read ahead for one chain, */
	AHEAD_SHARE = 4, /* and that is on its way for all */
};

static uint8_t rest_of(const struct kvc_entry *entry)
{
	if (entry->flags & KVC_ENTRY_IN_VRAM)
		return KVC_REST_VRAM;
	return entry->slab != KVC_EXTENT_NONE ? KVC_REST_RAM : KVC_REST_DISK;
}

void kvc_cache_touch(struct kvc_cache *cache, const struct kvc_storage_key *key)
{
	uint32_t id = kvc_cache_find(cache, key);

	if (id != KVC_ENTRY_NONE)
		kvc_entry_touch(cache, id);
}

/* Fetch what the keys before key `i` will need. */
static void lookup_ahead(const struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t i)
{
	for (unsigned step = 0; step < KVC_INDEX_STEPS; step++) {
		uint32_t before = (KVC_INDEX_STEPS - step) * AHEAD;

		if (i >= before)
			kvc_index_prefetch(cache->index, &keys[i - before], step);
	}
}

/* Backwards, so that the first block of the chain is touched last. A policy that counts uses is told of the
 * get that follows alone. */
uint32_t kvc_cache_lookup(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count,
                          uint8_t *rest)
{
	uint32_t prefix = count;

	for (uint32_t i = count; i-- > 0;) {
		uint32_t id;

		lookup_ahead(cache, keys, i);
		id = kvc_cache_find(cache, &keys[i]);
		rest[i] = KVC_REST_NONE;
		if (id == KVC_ENTRY_NONE) {
			prefix = i;
			continue;
		}
		rest[i] = rest_of(kvc_cache_entry(cache, id));
		if (kvc_policy_by_recency(kvc_tenant_unknown(&cache->tenants)->policies[KVC_PRIORITY_NORMAL]))
			kvc_entry_touch(cache, id);
	}
	kvc_stat_add(cache->count.lookups, 1);
	kvc_stat_add(cache->count.lookup_keys, count);
	return prefix;
}

/* Whether one more block may be on its way for who has not asked for it yet. */
static bool ahead_has_room(const struct kvc_cache *cache, uint64_t bytes)
{
	return cache->ahead < cache->options.moves_max &&
	       cache->ahead_bytes + bytes <= kvc_arena_bytes(cache->options.arena) / AHEAD_SHARE;
}

/* A block of a chain that is to be in RAM. False: it cannot be. */
static bool ahead_one(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (entry->slab != KVC_EXTENT_NONE || entry->flags & KVC_ENTRY_IN_VRAM || kvc_entry_in_flight(entry))
		return true;
	return ahead_has_room(cache, kvc_record_bytes(entry->image_bytes)) &&
	       kvc_load_ahead(cache, id) == KVC_OK;
}

/* The chain was marked as used, its first block last: what is evicted for it is not its own as long as it
 * fits. */
uint32_t kvc_cache_read_ahead(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	uint64_t room = kvc_arena_bytes(cache->options.arena) / CHAIN_SHARE;

	if (cache->state != KVC_CACHE_READY)
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = kvc_cache_find(cache, &keys[i]);
		uint64_t bytes;

		if (id == KVC_ENTRY_NONE)
			return i;
		bytes = kvc_record_bytes(kvc_cache_entry(cache, id)->image_bytes);
		if (bytes > room || !ahead_one(cache, id))
			return i;
		room -= bytes;
	}
	return count;
}

uint32_t kvc_cache_prefetch(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	for (uint32_t i = count; i-- > 0;)
		kvc_cache_touch(cache, &keys[i]);
	return kvc_cache_read_ahead(cache, keys, count);
}

uint32_t kvc_cache_drop(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	uint32_t dropped = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = kvc_cache_find(cache, &keys[i]);

		if (id == KVC_ENTRY_NONE)
			continue;
		kvc_entry_drop(cache, id);
		dropped++;
	}
	return dropped;
}
