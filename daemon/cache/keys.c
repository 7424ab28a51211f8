/* Look-up, prefetch, drop and touch: operations on keys that answer at once. */
#include "daemon/cache/internal.h"

enum { AHEAD = 8 }; /* keys whose bucket is fetched into the cache before it is needed */

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

/* Backwards, so that the first block of the chain is touched last. A policy that counts uses is told of the
 * get that follows alone. */
uint32_t kvc_cache_lookup(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count,
                          uint8_t *rest)
{
	uint32_t prefix = count;

	for (uint32_t i = count; i-- > 0;) {
		uint32_t id;

		if (i >= AHEAD)
			kvc_index_prefetch(cache->index, &keys[i - AHEAD]);
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

uint32_t kvc_cache_prefetch(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	struct kvc_flight *flight;

	for (uint32_t i = count; i-- > 0;)
		kvc_cache_touch(cache, &keys[i]);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = kvc_cache_find(cache, &keys[i]);
		const struct kvc_entry *entry;

		if (id == KVC_ENTRY_NONE || cache->state != KVC_CACHE_READY)
			return i;
		entry = kvc_cache_entry(cache, id);
		if (entry->slab != KVC_EXTENT_NONE || entry->flags & KVC_ENTRY_IN_VRAM ||
		    entry->flight != KVC_FLIGHT_NONE)
			continue;
		if (kvc_load_begin(cache, id, false, &flight) != KVC_OK)
			return i;
	}
	return count;
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
