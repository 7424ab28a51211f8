/* A table of ghosts, chained by hash, doubled when full. See ghost.h. */
#include "daemon/policy/ghost.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

#define NONE 0xFFFFFFFFu

enum { FIRST = 64 };

struct ghost {
	uint64_t hash;
	uint64_t bytes : 63;
	uint64_t list : 1;
	uint32_t chain; /* next of the bucket, or of the free list */
	uint32_t older;
	uint32_t newer;
};

struct ghost_list {
	uint32_t oldest;
	uint32_t newest;
	uint32_t count;
	uint64_t bytes;
};

struct kvc_ghosts {
	struct ghost *items;
	uint32_t *buckets; /* as many as items: a power of two, or 0 */
	uint32_t capacity;
	uint32_t max;
	uint32_t free;
	struct ghost_list lists[KVC_GHOST_LISTS];
};

kvc_status kvc_ghosts_open(uint32_t max, struct kvc_ghosts **out)
{
	struct kvc_ghosts *ghosts = kvc_calloc(1, sizeof *ghosts);

	if (!ghosts)
		return KVC_NO_MEMORY;
	ghosts->max = max;
	ghosts->free = NONE;
	for (unsigned list = 0; list < KVC_GHOST_LISTS; list++)
		ghosts->lists[list] = (struct ghost_list){.oldest = NONE, .newest = NONE};
	*out = ghosts;
	return KVC_OK;
}

void kvc_ghosts_close(struct kvc_ghosts *ghosts)
{
	if (!ghosts)
		return;
	kvc_free(ghosts->items);
	kvc_free(ghosts->buckets);
	kvc_free(ghosts);
}

static uint32_t *bucket_of(const struct kvc_ghosts *ghosts, uint64_t hash)
{
	return &ghosts->buckets[hash & (ghosts->capacity - 1)];
}

static void bucket_add(struct kvc_ghosts *ghosts, uint32_t number)
{
	uint32_t *head = bucket_of(ghosts, ghosts->items[number].hash);

	ghosts->items[number].chain = *head;
	*head = number;
}

/* Twice the table; all items are in use. */
static bool grow(struct kvc_ghosts *ghosts)
{
	uint32_t old = ghosts->capacity;
	uint32_t capacity = old ? 2 * old : FIRST;
	uint32_t *buckets = kvc_calloc(capacity, sizeof *buckets);
	struct ghost *items = buckets ? kvc_realloc(ghosts->items, capacity, sizeof *items) : NULL;

	if (!items) {
		kvc_free(buckets);
		return false;
	}
	kvc_free(ghosts->buckets);
	ghosts->items = items;
	ghosts->buckets = buckets;
	ghosts->capacity = capacity;
	for (uint32_t i = 0; i < capacity; i++)
		buckets[i] = NONE;
	for (uint32_t i = 0; i < old; i++)
		bucket_add(ghosts, i);
	for (uint32_t i = capacity; i-- > old;) {
		items[i].chain = ghosts->free;
		ghosts->free = i;
	}
	return true;
}

/* Out of its bucket and its list, into the free list. */
static void item_free(struct kvc_ghosts *ghosts, uint32_t number)
{
	struct ghost *ghost = &ghosts->items[number];
	struct ghost_list *list = &ghosts->lists[ghost->list];
	uint32_t *link = bucket_of(ghosts, ghost->hash);

	while (*link != number)
		link = &ghosts->items[*link].chain;
	*link = ghost->chain;
	*(ghost->older == NONE ? &list->oldest : &ghosts->items[ghost->older].newer) = ghost->newer;
	*(ghost->newer == NONE ? &list->newest : &ghosts->items[ghost->newer].older) = ghost->older;
	list->count--;
	list->bytes -= ghost->bytes;
	ghost->chain = ghosts->free;
	ghosts->free = number;
}

int kvc_ghosts_take(struct kvc_ghosts *ghosts, uint64_t hash)
{
	uint32_t number = ghosts->capacity ? *bucket_of(ghosts, hash) : NONE;

	for (; number != NONE; number = ghosts->items[number].chain) {
		if (ghosts->items[number].hash == hash) {
			int list = ghosts->items[number].list;

			item_free(ghosts, number);
			return list;
		}
	}
	return -1;
}

bool kvc_ghosts_drop_oldest(struct kvc_ghosts *ghosts, unsigned list)
{
	if (!ghosts->lists[list].count)
		return false;
	item_free(ghosts, ghosts->lists[list].oldest);
	return true;
}

static bool make_room(struct kvc_ghosts *ghosts)
{
	uint32_t count = ghosts->lists[0].count + ghosts->lists[1].count;

	if (count && count >= ghosts->max)
		return kvc_ghosts_drop_oldest(ghosts, ghosts->lists[0].count < ghosts->lists[1].count);
	return ghosts->free != NONE || (count < ghosts->max && grow(ghosts));
}

void kvc_ghosts_add(struct kvc_ghosts *ghosts, unsigned which, uint64_t hash, uint64_t bytes)
{
	struct ghost_list *list = &ghosts->lists[which];
	uint32_t number;

	KVC_PRE(which < KVC_GHOST_LISTS);
	(void)kvc_ghosts_take(ghosts, hash);
	if (!make_room(ghosts))
		return;
	number = ghosts->free;
	ghosts->free = ghosts->items[number].chain;
	ghosts->items[number] = (struct ghost){
	        .hash = hash,
	        .bytes = bytes & (UINT64_MAX >> 1),
	        .list = which & 1,
	        .older = list->newest,
	        .newer = NONE,
	};
	*(list->newest == NONE ? &list->oldest : &ghosts->items[list->newest].newer) = number;
	list->newest = number;
	list->count++;
	list->bytes += bytes;
	bucket_add(ghosts, number);
}

uint64_t kvc_ghosts_bytes(const struct kvc_ghosts *ghosts, unsigned list)
{
	return ghosts->lists[list].bytes;
}

uint32_t kvc_ghosts_count(const struct kvc_ghosts *ghosts, unsigned list)
{
	return ghosts->lists[list].count;
}

uint64_t kvc_ghosts_memory(const struct kvc_ghosts *ghosts)
{
	return sizeof *ghosts +
	       (uint64_t)ghosts->capacity * (sizeof *ghosts->items + sizeof *ghosts->buckets);
}
