/* Leases: the blocks that one session has pinned, as a small set of entry ids. A pin holds a reference, so
 * the id stays valid even if the block is dropped meanwhile. */
#include <stdlib.h>

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

static kvc_status pin_add(struct kvc_lease *lease, uint32_t id)
{
	struct kvc_cache *cache = lease->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

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

static void pin_end(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	entry->pins--;
	kvc_stat_add(cache->count.pins, -1);
	if (!kvc_policy_listed(&entry->node) && !kvc_entry_flight(cache, entry))
		kvc_entry_list_again(cache, id, KVC_HOT);
	kvc_entry_unref(cache, id);
}

kvc_status kvc_lease_pin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count,
                         uint32_t *done)
{
	kvc_status status;

	for (*done = 0; *done < count; ++*done) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[*done]);

		if (id == KVC_ENTRY_NONE)
			return KVC_OK;
		status = has_pin(lease, id) ? KVC_OK : pin_add(lease, id);
		if (status != KVC_OK)
			return status;
	}
	return KVC_OK;
}

uint32_t kvc_lease_unpin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count)
{
	uint32_t pinned = 0;

	for (; pinned < count; pinned++) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[pinned]);

		if (id == KVC_ENTRY_NONE || !has_pin(lease, id))
			break;
	}
	for (uint32_t i = pinned; i-- > 0;) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[i]);

		if (id == KVC_ENTRY_NONE || !has_pin(lease, id)) /* the same key twice */
			continue;
		kvc_idmap_remove(&lease->pins, id);
		pin_end(lease->cache, id);
	}
	return pinned;
}

/* A pin of a lease that closes, by depth. */
struct closing {
	uint32_t id;
	uint32_t depth;
};

static int deeper_first(const void *left, const void *right)
{
	const struct closing *a = left, *b = right;

	return (a->depth < b->depth) - (a->depth > b->depth);
}

/* Deepest first, so that the blocks of a chain are listed with the first one the hottest; without memory for
 * that in any order. */
static void close_pins(struct kvc_lease *lease)
{
	struct closing *pins = kvc_calloc(lease->pins.count, sizeof *pins);
	uint32_t slot = 0, count = 0, id;

	while ((id = kvc_idmap_next(&lease->pins, &slot)) != KVC_IDMAP_NONE) {
		if (pins)
			pins[count++] = (struct closing){id, kvc_cache_entry(lease->cache, id)->depth};
		else
			pin_end(lease->cache, id);
	}
	if (count)
		qsort(pins, count, sizeof *pins, deeper_first);
	for (uint32_t i = 0; i < count; i++)
		pin_end(lease->cache, pins[i].id);
	kvc_free(pins);
}

void kvc_lease_close(struct kvc_lease *lease)
{
	close_pins(lease);
	kvc_idmap_close(&lease->pins);
	kvc_free(lease);
}
