/* A binary heap of cells that know their places in it. See expiry.h. */
#include "daemon/cache/expiry.h"

#include <assert.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

enum { CAPACITY_FIRST = 64 };

struct kvc_expiry_cell {
	uint64_t ends_ms;
	uint32_t id;
	uint32_t place; /* in the heap */
};

static_assert(sizeof(struct kvc_expiry_cell) == 16, "what a block with a time to live costs is documented");

void kvc_expiry_close(struct kvc_expiry *expiry)
{
	kvc_idmap_close(&expiry->by_id);
	kvc_free(expiry->cells);
	kvc_free(expiry->heap);
	*expiry = (struct kvc_expiry){0};
}

static struct kvc_expiry_cell *cell_of(const struct kvc_expiry *expiry, uint32_t id)
{
	uint32_t cell = kvc_idmap_get(&expiry->by_id, id);

	KVC_PRE(cell != KVC_IDMAP_NONE);
	return &expiry->cells[cell];
}

static uint64_t ends_at(const struct kvc_expiry *expiry, uint32_t place)
{
	return expiry->cells[expiry->heap[place]].ends_ms;
}

static void swap(struct kvc_expiry *expiry, uint32_t a, uint32_t b)
{
	uint32_t cell = expiry->heap[a];

	expiry->heap[a] = expiry->heap[b];
	expiry->heap[b] = cell;
	expiry->cells[expiry->heap[a]].place = a;
	expiry->cells[expiry->heap[b]].place = b;
}

static void sift_up(struct kvc_expiry *expiry, uint32_t place)
{
	while (place && ends_at(expiry, place) < ends_at(expiry, (place - 1) / 2)) {
		swap(expiry, place, (place - 1) / 2);
		place = (place - 1) / 2;
	}
}

static void sift_down(struct kvc_expiry *expiry, uint32_t place)
{
	for (;;) {
		uint64_t child = 2 * (uint64_t)place + 1;

		if (child >= expiry->count)
			return;
		if (child + 1 < expiry->count &&
		    ends_at(expiry, (uint32_t)child + 1) < ends_at(expiry, (uint32_t)child))
			child++;
		if (ends_at(expiry, place) <= ends_at(expiry, (uint32_t)child))
			return;
		swap(expiry, place, (uint32_t)child);
		place = (uint32_t)child;
	}
}

static kvc_status grow(struct kvc_expiry *expiry)
{
	uint32_t capacity = expiry->capacity ? 2 * expiry->capacity : CAPACITY_FIRST;
	struct kvc_expiry_cell *cells;
	uint32_t *heap;

	if (expiry->count < expiry->capacity)
		return KVC_OK;
	cells = kvc_realloc(expiry->cells, capacity, sizeof *cells);
	if (!cells)
		return KVC_NO_MEMORY;
	expiry->cells = cells;
	heap = kvc_realloc(expiry->heap, capacity, sizeof *heap);
	if (!heap)
		return KVC_NO_MEMORY;
	expiry->heap = heap;
	for (uint32_t i = expiry->capacity; i < capacity; i++)
		heap[i] = i;
	expiry->capacity = capacity;
	return KVC_OK;
}

kvc_status kvc_expiry_add(struct kvc_expiry *expiry, uint32_t id, uint64_t ends_ms)
{
	uint32_t place = expiry->count;
	uint32_t cell;

	if (grow(expiry) != KVC_OK || kvc_idmap_reserve(&expiry->by_id, place + 1) != KVC_OK)
		return KVC_NO_MEMORY;
	cell = expiry->heap[place];
	expiry->cells[cell] = (struct kvc_expiry_cell){ends_ms, id, place};
	kvc_idmap_add(&expiry->by_id, id, cell);
	expiry->count++;
	sift_up(expiry, place);
	return KVC_OK;
}

uint64_t kvc_expiry_get(const struct kvc_expiry *expiry, uint32_t id)
{
	return cell_of(expiry, id)->ends_ms;
}

void kvc_expiry_set(struct kvc_expiry *expiry, uint32_t id, uint64_t ends_ms)
{
	struct kvc_expiry_cell *cell = cell_of(expiry, id);

	cell->ends_ms = ends_ms;
	sift_up(expiry, cell->place);
	sift_down(expiry, cell->place);
}

void kvc_expiry_remove(struct kvc_expiry *expiry, uint32_t id)
{
	uint32_t place = cell_of(expiry, id)->place;
	uint32_t last = expiry->count - 1;

	kvc_idmap_remove(&expiry->by_id, id);
	swap(expiry, place, last);
	expiry->count--;
	if (place == last)
		return;
	sift_up(expiry, place);
	sift_down(expiry, place);
}

uint32_t kvc_expiry_first(const struct kvc_expiry *expiry, uint64_t *ends_ms)
{
	if (!expiry->count)
		return KVC_EXPIRY_NONE;
	*ends_ms = ends_at(expiry, 0);
	return expiry->cells[expiry->heap[0]].id;
}

uint64_t kvc_expiry_bytes(const struct kvc_expiry *expiry)
{
	return (uint64_t)expiry->capacity * (sizeof(struct kvc_expiry_cell) + sizeof *expiry->heap) +
	       kvc_idmap_bytes(&expiry->by_id);
}
