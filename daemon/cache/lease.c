/* Leases: the blocks that one session has pinned, as a small set of entry ids. A pin holds a reference, and
 * ends with the block if that is dropped, or its time to live passes: the pins of an entry are chained, so
 * that this takes as long as there are such pins, and a lease never has to be searched for blocks that are
 * gone. */
#include "daemon/base/alloc.h"
#include "daemon/cache/internal.h"

enum { PINS_FIRST = 64 };

#define PINS_MAX (1u << 31)

struct kvc_lease {
	struct kvc_cache *cache;
	uint32_t pins_max;
	struct kvc_idmap pins; /* entries, and which pin it is */
};

/* ---- pins ---------------------------------------------------------------------------------- */

/* Room for one more, of that entry. */
static kvc_status pin_reserve(struct kvc_pins *pins)
{
	uint32_t room = pins->room ? 2 * pins->room : PINS_FIRST;
	struct kvc_pin *of;

	if (kvc_idmap_reserve(&pins->first, pins->first.count + 1) != KVC_OK)
		return KVC_NO_MEMORY;
	if (pins->free != KVC_IDMAP_NONE || pins->used < pins->room)
		return KVC_OK;
	of = pins->used < PINS_MAX ? kvc_realloc(pins->of, room, sizeof *of) : NULL;
	if (!of)
		return KVC_NO_MEMORY;
	pins->of = of;
	pins->room = room;
	return KVC_OK;
}

static uint32_t pin_take(struct kvc_pins *pins)
{
	uint32_t pin = pins->free;

	if (pin == KVC_IDMAP_NONE)
		return pins->used++;
	pins->free = pins->of[pin].next;
	return pin;
}

/* Behind the first one of the entry, if there is one. Room was reserved. */
static uint32_t pin_chain(struct kvc_pins *pins, uint32_t id, struct kvc_lease *lease)
{
	uint32_t first = kvc_idmap_get(&pins->first, id);
	uint32_t pin = pin_take(pins);
	uint32_t next = first == KVC_IDMAP_NONE ? KVC_IDMAP_NONE : pins->of[first].next;

	pins->of[pin] = (struct kvc_pin){.lease = lease, .prev = first, .next = next};
	if (first == KVC_IDMAP_NONE)
		kvc_idmap_add(&pins->first, id, pin);
	else
		pins->of[first].next = pin;
	if (next != KVC_IDMAP_NONE)
		pins->of[next].prev = pin;
	return pin;
}

static void pin_unchain(struct kvc_pins *pins, uint32_t id, uint32_t pin)
{
	struct kvc_pin *gone = &pins->of[pin];

	if (gone->next != KVC_IDMAP_NONE)
		pins->of[gone->next].prev = gone->prev;
	if (gone->prev != KVC_IDMAP_NONE) {
		pins->of[gone->prev].next = gone->next;
	} else {
		kvc_idmap_remove(&pins->first, id);
		if (gone->next != KVC_IDMAP_NONE)
			kvc_idmap_add(&pins->first, id, gone->next);
	}
	gone->next = pins->free;
	pins->free = pin;
}

void kvc_pins_close(struct kvc_pins *pins)
{
	kvc_idmap_close(&pins->first);
	kvc_free(pins->of);
}

/* ---- leases -------------------------------------------------------------------------------- */

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

/* Its reference is the caller's from now on, and its place in the lease. */
static void pin_remove(struct kvc_cache *cache, uint32_t id, uint32_t pin)
{
	pin_unchain(&cache->pins, id, pin);
	kvc_cache_entry(cache, id)->pins--;
	kvc_stat_add(cache->count.pins, -1);
}

static void pin_end(struct kvc_cache *cache, uint32_t id, uint32_t pin)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	pin_remove(cache, id, pin);
	if (!kvc_policy_listed(&entry->node) && !kvc_entry_in_flight(entry))
		kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
	kvc_entry_unref(cache, id);
}

void kvc_pins_dropped(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	while (entry->pins) {
		uint32_t pin = kvc_idmap_get(&cache->pins.first, id);

		kvc_idmap_remove(&cache->pins.of[pin].lease->pins, id);
		pin_remove(cache, id, pin);
		entry->refs--;
	}
}

static kvc_status pin_add(struct kvc_lease *lease, uint32_t id)
{
	struct kvc_cache *cache = lease->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (lease->pins.count >= lease->pins_max || entry->pins == UINT16_MAX)
		return KVC_LIMIT;
	if (kvc_idmap_reserve(&lease->pins, lease->pins.count + 1) != KVC_OK ||
	    pin_reserve(&cache->pins) != KVC_OK)
		return KVC_NO_MEMORY;
	kvc_idmap_add(&lease->pins, id, pin_chain(&cache->pins, id, lease));
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
		uint32_t pin;

		if (id == KVC_ENTRY_NONE || !has_pin(lease, id))
			return i;
		pin = kvc_idmap_get(&lease->pins, id);
		kvc_idmap_remove(&lease->pins, id);
		pin_end(lease->cache, id, pin);
	}
	return count;
}

void kvc_lease_close(struct kvc_lease *lease)
{
	uint32_t slot = 0, id;

	while ((id = kvc_idmap_next(&lease->pins, &slot)) != KVC_IDMAP_NONE)
		pin_end(lease->cache, id, kvc_idmap_get(&lease->pins, id));
	kvc_idmap_close(&lease->pins);
	kvc_free(lease);
}
