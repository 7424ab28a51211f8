/* Leases: the blocks that one session has pinned, as a small hash set of entry ids (open addressing, at most
 * half full). A pin holds a reference, so the id stays valid even if the block is dropped meanwhile. */
#include "daemon/base/alloc.h"
#include "daemon/cache/internal.h"

enum { SLOTS_FIRST = 16 };

struct kvc_lease {
	struct kvc_cache *cache;
	uint32_t pins_max;
	uint32_t pins;
	uint32_t slot_count; /* a power of two, or 0 */
	uint32_t *slots;     /* 1 + id, 0: empty */
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

/* The slot of an id, or the empty one where it would go. */
static uint32_t slot_of(const struct kvc_lease *lease, uint32_t id)
{
	uint32_t mask = lease->slot_count - 1;
	uint32_t slot = (id * 2654435761u) & mask;

	while (lease->slots[slot] && lease->slots[slot] != id + 1)
		slot = (slot + 1) & mask;
	return slot;
}

static kvc_status slots_grow(struct kvc_lease *lease)
{
	struct kvc_lease grown = *lease;

	grown.slot_count = lease->slot_count ? 2 * lease->slot_count : SLOTS_FIRST;
	grown.slots = kvc_calloc(grown.slot_count, sizeof *grown.slots);
	if (!grown.slots)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < lease->slot_count; i++)
		if (lease->slots[i])
			grown.slots[slot_of(&grown, lease->slots[i] - 1)] = lease->slots[i];
	kvc_free(lease->slots);
	*lease = grown;
	return KVC_OK;
}

/* Empty a slot and close the gap, so that no search ends early. */
static void slot_clear(struct kvc_lease *lease, uint32_t slot)
{
	uint32_t mask = lease->slot_count - 1;

	lease->slots[slot] = 0;
	for (uint32_t i = (slot + 1) & mask; lease->slots[i]; i = (i + 1) & mask) {
		uint32_t id = lease->slots[i] - 1;

		lease->slots[i] = 0;
		lease->slots[slot_of(lease, id)] = id + 1;
	}
}

static bool has_pin(const struct kvc_lease *lease, uint32_t id)
{
	return lease->slot_count && lease->slots[slot_of(lease, id)];
}

static kvc_status pin_add(struct kvc_lease *lease, uint32_t id)
{
	struct kvc_cache *cache = lease->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (lease->pins >= lease->pins_max || entry->pins == UINT16_MAX)
		return KVC_LIMIT;
	if (2 * (lease->pins + 1) > lease->slot_count && slots_grow(lease) != KVC_OK)
		return KVC_NO_MEMORY;
	lease->slots[slot_of(lease, id)] = id + 1;
	lease->pins++;
	kvc_entry_unlist(cache, id);
	entry->pins++;
	kvc_entry_ref(cache, id);
	kvc_stat_add(cache->count.pins, 1);
	return KVC_OK;
}

static void pin_end(struct kvc_lease *lease, uint32_t id)
{
	struct kvc_cache *cache = lease->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	lease->pins--;
	entry->pins--;
	kvc_stat_add(cache->count.pins, -1);
	if (!(entry->flags & KVC_ENTRY_LISTED) && !(kvc_entry_flight(cache, entry)))
		kvc_entry_list(cache, id, KVC_HOT);
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
	for (uint32_t i = 0; i < count; i++) {
		uint32_t id = kvc_cache_find(lease->cache, &keys[i]);

		if (id == KVC_ENTRY_NONE || !has_pin(lease, id))
			return i;
		slot_clear(lease, slot_of(lease, id));
		pin_end(lease, id);
	}
	return count;
}

void kvc_lease_close(struct kvc_lease *lease)
{
	for (uint32_t i = 0; i < lease->slot_count; i++)
		if (lease->slots[i])
			pin_end(lease, lease->slots[i] - 1);
	kvc_free(lease->slots);
	kvc_free(lease);
}
