/* Good-fit allocation of runs of pages.
 *
 * Every run, free or used, is a node. Nodes of neighbouring runs are linked in address order, so that a freed
 * run merges with free neighbours: no two free runs ever touch. Free runs hang in bins by size:
 *
 *   bin of a run of n pages: n for n < 8, else by the top bit of n and the 3 bits below it
 *
 * A reservation looks at the first few runs of its own bin, which hold any of the bin's sizes, and then takes
 * the first run of the next bin that is not empty, all of whose runs are long enough; a bitmap of bins finds
 * it in 4 steps. So both directions are O(1), and the tail that is cut off is at most 1/8 of the request when
 * free runs of all sizes are there.
 *
 * The table owns its nodes. A node's number is the handle of its run and never changes while the run is used.
 */
#include "daemon/mem/extent.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

enum {
	STEP_BITS = 3, /* 8 steps a power of two */
	STEPS = 1 << STEP_BITS,
	BINS = (32 - STEP_BITS + 1) * STEPS,
	BIN_WORDS = (BINS + 63) / 64,
	NODES_AT_START = 64,
	OWN_BIN_PROBES = 32,
};

#define NONE KVC_EXTENT_NONE

enum node_state { NODE_UNUSED, NODE_FREE, NODE_USED };

struct node {
	uint32_t first;
	uint32_t pages;
	uint32_t before; /* neighbour in address order, or NONE */
	uint32_t after;
	uint32_t bin_prev; /* free runs: in the bin, or NONE. unused nodes: bin_next links the pool */
	uint32_t bin_next;
	enum node_state state;
};

struct kvc_extents {
	struct node *nodes;
	uint32_t capacity;
	uint32_t unused; /* first node of the pool */
	uint32_t pages;
	uint32_t free_pages;
	uint32_t lowest; /* node of page 0 */
	uint64_t bin_map[BIN_WORDS];
	uint32_t bins[BINS]; /* first free run, or NONE */
};

static uint32_t bin_of(uint32_t pages)
{
	uint32_t top = 31u - (uint32_t)__builtin_clz(pages);

	if (pages < STEPS)
		return pages;
	return (top - STEP_BITS + 1) * STEPS + ((pages >> (top - STEP_BITS)) & (STEPS - 1));
}

/* --- node pool --------------------------------------------------------------------------------- */

static kvc_status pool_grow(struct kvc_extents *x, uint32_t capacity)
{
	struct node *grown = kvc_realloc(x->nodes, capacity, sizeof *grown);

	if (!grown)
		return KVC_NO_MEMORY;
	for (uint32_t i = capacity; i-- > x->capacity;) {
		grown[i].state = NODE_UNUSED;
		grown[i].bin_next = x->unused;
		x->unused = i;
	}
	x->nodes = grown;
	x->capacity = capacity;
	return KVC_OK;
}

/* There is a node to take afterwards, or KVC_NO_MEMORY. */
static kvc_status pool_ready(struct kvc_extents *x)
{
	return x->unused != NONE ? KVC_OK : pool_grow(x, x->capacity * 2);
}

static uint32_t pool_take(struct kvc_extents *x)
{
	uint32_t i = x->unused;

	KVC_INVARIANT(i != NONE);
	x->unused = x->nodes[i].bin_next;
	return i;
}

static void pool_give(struct kvc_extents *x, uint32_t i)
{
	x->nodes[i].state = NODE_UNUSED;
	x->nodes[i].bin_next = x->unused;
	x->unused = i;
}

/* --- bins -------------------------------------------------------------------------------------- */

static void bin_insert(struct kvc_extents *x, uint32_t i)
{
	struct node *node = &x->nodes[i];
	uint32_t bin = bin_of(node->pages);

	node->state = NODE_FREE;
	node->bin_prev = NONE;
	node->bin_next = x->bins[bin];
	if (node->bin_next != NONE)
		x->nodes[node->bin_next].bin_prev = i;
	x->bins[bin] = i;
	x->bin_map[bin / 64] |= 1ull << bin % 64;
	x->free_pages += node->pages;
}

static void bin_remove(struct kvc_extents *x, uint32_t i)
{
	struct node *node = &x->nodes[i];
	uint32_t bin = bin_of(node->pages);

	if (node->bin_next != NONE)
		x->nodes[node->bin_next].bin_prev = node->bin_prev;
	if (node->bin_prev != NONE)
		x->nodes[node->bin_prev].bin_next = node->bin_next;
	else
		x->bins[bin] = node->bin_next;
	if (x->bins[bin] == NONE)
		x->bin_map[bin / 64] &= ~(1ull << bin % 64);
	x->free_pages -= node->pages;
}

/* The first bin from `bin` on that is not empty, or BINS. */
static uint32_t bin_from(const struct kvc_extents *x, uint32_t bin)
{
	uint64_t mask = ~0ull << bin % 64;

	for (uint32_t word = bin / 64; word < BIN_WORDS; word++, mask = ~0ull)
		if (x->bin_map[word] & mask)
			return word * 64 + (uint32_t)__builtin_ctzll(x->bin_map[word] & mask);
	return BINS;
}

static uint32_t run_find(const struct kvc_extents *x, uint32_t pages)
{
	uint32_t own = bin_of(pages);
	uint32_t i = x->bins[own];
	uint32_t bin;

	for (int probes = OWN_BIN_PROBES; i != NONE && probes; probes--, i = x->nodes[i].bin_next)
		if (x->nodes[i].pages >= pages)
			return i;
	bin = own + 1 < BINS ? bin_from(x, own + 1) : BINS;
	return bin < BINS ? x->bins[bin] : NONE;
}

/* --- runs -------------------------------------------------------------------------------------- */

static bool is_free(const struct kvc_extents *x, uint32_t i)
{
	return i != NONE && x->nodes[i].state == NODE_FREE;
}

/* Cut a run that is in no bin after its first `pages`; the rest becomes a free run. */
static void run_cut(struct kvc_extents *x, uint32_t i, uint32_t pages)
{
	uint32_t rest = pool_take(x);
	struct node *node = &x->nodes[i];
	struct node *tail = &x->nodes[rest];

	*tail = (struct node){
	        .first = node->first + pages,
	        .pages = node->pages - pages,
	        .before = i,
	        .after = node->after,
	};
	if (tail->after != NONE)
		x->nodes[tail->after].before = rest;
	node->after = rest;
	node->pages = pages;
	bin_insert(x, rest);
}

/* Let run i swallow the run after it; both are in no bin. */
static void run_merge_after(struct kvc_extents *x, uint32_t i)
{
	struct node *node = &x->nodes[i];
	uint32_t gone = node->after;

	node->pages += x->nodes[gone].pages;
	node->after = x->nodes[gone].after;
	if (node->after != NONE)
		x->nodes[node->after].before = i;
	pool_give(x, gone);
}

static struct node *run_used(const struct kvc_extents *x, uint32_t handle)
{
	KVC_PRE(handle < x->capacity && x->nodes[handle].state == NODE_USED);
	return &x->nodes[handle];
}

kvc_status kvc_extent_reserve(struct kvc_extents *x, uint32_t pages, uint32_t *handle)
{
	uint32_t i;

	KVC_PRE(pages > 0);
	if (pages > x->free_pages)
		return KVC_NO_SPACE;
	i = run_find(x, pages);
	if (i == NONE)
		return KVC_NO_SPACE;
	if (x->nodes[i].pages > pages && pool_ready(x))
		return KVC_NO_MEMORY;
	bin_remove(x, i);
	if (x->nodes[i].pages > pages)
		run_cut(x, i, pages);
	x->nodes[i].state = NODE_USED;
	*handle = i;
	return KVC_OK;
}

kvc_status kvc_extent_shrink(struct kvc_extents *x, uint32_t handle, uint32_t pages)
{
	uint32_t after = run_used(x, handle)->after;

	KVC_PRE(pages > 0 && pages <= x->nodes[handle].pages);
	if (pages == x->nodes[handle].pages)
		return KVC_OK;
	if (is_free(x, after)) {
		bin_remove(x, after);
		run_merge_after(x, handle);
	} else if (pool_ready(x)) {
		return KVC_NO_MEMORY;
	}
	run_cut(x, handle, pages);
	return KVC_OK;
}

void kvc_extent_release(struct kvc_extents *x, uint32_t handle)
{
	struct node *node = run_used(x, handle);
	uint32_t before = node->before;

	if (is_free(x, node->after)) {
		bin_remove(x, node->after);
		run_merge_after(x, handle);
	}
	if (is_free(x, before)) {
		bin_remove(x, before);
		run_merge_after(x, before);
		handle = before;
	}
	bin_insert(x, handle);
}

uint32_t kvc_extent_first(const struct kvc_extents *x, uint32_t handle)
{
	return run_used(x, handle)->first;
}

uint32_t kvc_extent_pages(const struct kvc_extents *x, uint32_t handle)
{
	return run_used(x, handle)->pages;
}

uint32_t kvc_extents_free_pages(const struct kvc_extents *x)
{
	return x->free_pages;
}

/* --- life -------------------------------------------------------------------------------------- */

kvc_status kvc_extents_open(uint32_t pages, struct kvc_extents **extents)
{
	struct kvc_extents *x = kvc_calloc(1, sizeof *x);
	uint32_t all;

	KVC_PRE(pages > 0 && pages < NONE);
	if (!x)
		return KVC_NO_MEMORY;
	x->unused = NONE;
	x->pages = pages;
	for (uint32_t bin = 0; bin < BINS; bin++)
		x->bins[bin] = NONE;
	if (pool_grow(x, NODES_AT_START)) {
		kvc_free(x);
		return KVC_NO_MEMORY;
	}
	all = pool_take(x);
	x->nodes[all] = (struct node){.first = 0, .pages = pages, .before = NONE, .after = NONE};
	x->lowest = all;
	bin_insert(x, all);
	*extents = x;
	return KVC_OK;
}

void kvc_extents_close(struct kvc_extents *x)
{
	kvc_free(x->nodes);
	kvc_free(x);
}

/* --- check ------------------------------------------------------------------------------------- */

/* Each bin holds free runs of its sizes, linked both ways, and is marked if it is not empty. */
static bool bins_consistent(const struct kvc_extents *x, uint32_t *runs)
{
	*runs = 0;
	for (uint32_t bin = 0; bin < BINS; bin++) {
		uint32_t prev = NONE;

		if ((x->bins[bin] != NONE) != !!(x->bin_map[bin / 64] & 1ull << bin % 64))
			return false;
		for (uint32_t i = x->bins[bin]; i != NONE; prev = i, i = x->nodes[i].bin_next, ++*runs)
			if (!is_free(x, i) || bin_of(x->nodes[i].pages) != bin ||
			    x->nodes[i].bin_prev != prev)
				return false;
	}
	return true;
}

/* The runs cover the pool in address order, and no two free ones touch. */
bool kvc_extents_consistent(const struct kvc_extents *x)
{
	uint32_t page = 0, free_pages = 0, free_runs = 0, binned_runs, prev = NONE;

	for (uint32_t i = x->lowest; i != NONE; prev = i, i = x->nodes[i].after) {
		const struct node *node = &x->nodes[i];

		if (node->first != page || !node->pages || node->before != prev || node->state == NODE_UNUSED)
			return false;
		if (is_free(x, i) && is_free(x, prev))
			return false;
		page += node->pages;
		free_pages += is_free(x, i) ? node->pages : 0;
		free_runs += is_free(x, i);
	}
	return bins_consistent(x, &binned_runs) && page == x->pages && free_pages == x->free_pages &&
	       free_runs == binned_runs;
}
