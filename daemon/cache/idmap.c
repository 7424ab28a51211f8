/* See idmap.h. */
#include "daemon/cache/idmap.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

enum { SLOTS_FIRST = 16 };

struct kvc_idmap_slot {
	uint32_t id;
	uint32_t number_1; /* 1 + number; 0: empty */
};

void kvc_idmap_close(struct kvc_idmap *map)
{
	kvc_free(map->slots);
	*map = (struct kvc_idmap){0};
}

/* The slot of an id, or the empty one where it would go. */
static uint32_t slot_of(const struct kvc_idmap *map, uint32_t id)
{
	uint32_t mask = map->slot_count - 1;
	uint32_t slot = (id * 2654435761u) & mask;

	while (map->slots[slot].number_1 && map->slots[slot].id != id)
		slot = (slot + 1) & mask;
	return slot;
}

uint64_t kvc_idmap_bytes(const struct kvc_idmap *map)
{
	return (uint64_t)map->slot_count * sizeof *map->slots;
}

uint32_t kvc_idmap_get(const struct kvc_idmap *map, uint32_t id)
{
	/* An empty slot holds 0, and 0 - 1 is none. */
	return map->slot_count ? map->slots[slot_of(map, id)].number_1 - 1 : KVC_IDMAP_NONE;
}

kvc_status kvc_idmap_reserve(struct kvc_idmap *map, uint32_t count)
{
	struct kvc_idmap grown = *map;

	if (2 * (uint64_t)count <= map->slot_count)
		return KVC_OK;
	if (!grown.slot_count)
		grown.slot_count = SLOTS_FIRST;
	while (grown.slot_count < 2 * (uint64_t)count)
		grown.slot_count *= 2;
	grown.slots = kvc_calloc(grown.slot_count, sizeof *grown.slots);
	if (!grown.slots)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < map->slot_count; i++)
		if (map->slots[i].number_1)
			grown.slots[slot_of(&grown, map->slots[i].id)] = map->slots[i];
	kvc_free(map->slots);
	*map = grown;
	return KVC_OK;
}

void kvc_idmap_add(struct kvc_idmap *map, uint32_t id, uint32_t number)
{
	uint32_t slot = slot_of(map, id);

	KVC_PRE(number != KVC_IDMAP_NONE && !map->slots[slot].number_1);
	map->slots[slot] = (struct kvc_idmap_slot){id, number + 1};
	map->count++;
}

/* Empty the slot and close the gap, so that no search ends early. */
void kvc_idmap_remove(struct kvc_idmap *map, uint32_t id)
{
	uint32_t mask = map->slot_count - 1;
	uint32_t slot = slot_of(map, id);

	KVC_PRE(map->slots[slot].number_1);
	map->slots[slot].number_1 = 0;
	map->count--;
	for (uint32_t i = (slot + 1) & mask; map->slots[i].number_1; i = (i + 1) & mask) {
		struct kvc_idmap_slot moved = map->slots[i];

		map->slots[i].number_1 = 0;
		map->slots[slot_of(map, moved.id)] = moved;
	}
}

uint32_t kvc_idmap_next(const struct kvc_idmap *map, uint32_t *slot)
{
	while (*slot < map->slot_count) {
		const struct kvc_idmap_slot *at = &map->slots[(*slot)++];

		if (at->number_1)
			return at->id;
	}
	return KVC_IDMAP_NONE;
}
