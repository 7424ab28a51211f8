/* Leases: the blocks that one session has pinned, as a small set of entry ids. A pin holds a reference, so
 * the id stays valid even if the block is dropped, or its time to live passes, meanwhile; its memory does not
 * stay then. */
#include "daemon/base/alloc.h"
#include "daemon/cache/idmap.h"
#include "daemon/cache/internal.h"

struct kvc_lease {
	struct kvc_cache *cache;
	uint32_t pins_max;
	struct kvc_idmap pins; /* numbers have no meaning */
};

kvc_status kvc_lease_open(struct kvc_cache *cache, uint32_t pins_max, struct kvc_lease **out)
{
	struct kvc_lease *lease = kvc_calloc(1, sizeof *lease);

	if (!lease)
		return KVC_NO_MEMORY;
	lease->cache = cache;
	lease->pins_max = pins_max;
	*out = lease;
	return KVC_OK;
}

static bool has_pin(const struct kvc_lease *lease, uint32_t id)
{
	return kvc_idmap_get(&lease->pins, id) != KVC_IDMAP_NONE;
}

static void pin_end(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	entry->pins--;
	kvc_stat_add(cache->count.pins, -1);
	if (!kvc_policy_listed(&entry->node) && !kvc_entry_in_flight(entry))
		kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
	kvc_entry_unref(cache, id);
}

/* Blocks that are gone do not count against the lease's limit. Removing moves others in the map: some are
 * left for the next time. */
static void dead_unpin(struct kvc_lease *lease)
{
	uint32_t slot = 0, id;

	while ((id = kvc_idmap_next(&lease->pins, &slot)) != KVC_IDMAP_NONE) {
		if (!(kvc_cache_entry(lease->cache, id)->flags & KVC_ENTRY_DEAD))
			continue;
		kvc_idmap_remove(&lease->pins, id);
		pin_end(lease->cache, id);
	}
}

static kvc_status pin_add(struct kvc_lease *lease, uint32_t id)
{
	struct kvc_cache *cache = lease->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (lease->pins.count >= lease->pins_max)
		dead_unpin(lease);
	if (lease->pins.count >= lease->pins_max || entry->pins == UINT16_MAX)
		return KVC_LIMIT;
	if (kvc_idmap_reserve(&lease->pins, lease->pins.count + 1) != KVC_OK)
		return KVC_NO_MEMORY;
	kvc_idmap_add(&lease->pins, id, 0);
	kvc_entry_unlist(cache, id);
	entry->pins++;
	kvc_entry_ref(cache, id);
	kvc_stat_add(cache->count.pins, 1);
	return KVC_OK;
}

kvc_status kvc_lease_pin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count,
                         uint32_t *done)
{
	kvc_status status = KVC_OK;

	for (*done = 0; *done < count; ++*done) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[*done]);

		if (id == KVC_ENTRY_NONE)
			break;
		status = has_pin(lease, id) ? KVC_OK : pin_add(lease, id);
		if (status != KVC_OK)
			break;
	}
	for (uint32_t i = *done; i-- > 0;)
		kvc_cache_touch(lease->cache, &keys[i]); /* where they stand when the lease ends */
	return status;
}

uint32_t kvc_lease_unpin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[i]);

		if (id == KVC_ENTRY_NONE || !has_pin(lease, id))
			return i;
		kvc_idmap_remove(&lease->pins, id);
		pin_end(lease->cache, id);
	}
	return count;
}

void kvc_lease_close(struct kvc_lease *lease)
{
	uint32_t slot = 0, id;

	while ((id = kvc_idmap_next(&lease->pins, &slot)) != KVC_IDMAP_NONE)
		pin_end(lease->cache, id);
	kvc_idmap_close(&lease->pins);
	kvc_free(lease);
}
