/* Cells and extents of the VRAM tier. See vram.h. */
#include "daemon/cache/vram.h"

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/cache/idmap.h"
#include "daemon/cache/internal.h"

enum {
	SCAN = 64,        /* cells from the cold end that are looked at before giving up */
	LOWER_SHARE = 4,  /* a quarter of the pool is kept free or clean */
	CELLS_FIRST = 64, /* of the table */
};

struct cell {
	uint32_t entry; /* KVC_ENTRY_NONE: loose */
	uint32_t extent;
	uint32_t colder;
	uint32_t hotter; /* of a free cell: the next free one */
	uint32_t gpu;
	struct kvc_ns *ns;
	struct kvc_record record;
};

struct vram_gpu {
	struct kvc_gpu *gpu;
	struct kvc_cache *cache;
	struct kvc_extents *extents; /* NULL: no VRAM tier on this GPU */
	uint32_t pages;
	uint32_t coldest;
	uint32_t hottest;
	uint32_t lowering; /* blocks on their way down */
};

struct kvc_vram {
	struct cell *cells;
	uint32_t cell_count;
	uint32_t cells_used;
	uint32_t free;
	struct kvc_idmap by_entry; /* id of an entry -> its cell */
	kvc_stat_cell *stat_bytes;
	kvc_stat_cell *stat_used;
	kvc_stat_cell *stat_blocks;
	kvc_stat_cell *stat_evicted;
	uint32_t gpu_count;
	struct vram_gpu gpus[];
};

/* ---- cells --------------------------------------------------------------------------------- */

static struct cell *cell_of(const struct kvc_cache *cache, uint32_t number)
{
	KVC_PRE(number < cache->vram->cell_count);
	return &cache->vram->cells[number];
}

static kvc_status cells_grow(struct kvc_vram *vram)
{
	uint32_t count = vram->cell_count ? 2 * vram->cell_count : CELLS_FIRST;
	struct cell *cells = kvc_calloc(count, sizeof *cells);

	if (!cells)
		return KVC_NO_MEMORY;
	if (vram->cell_count)
		memcpy(cells, vram->cells, vram->cell_count * sizeof *cells);
	for (uint32_t i = count; i-- > vram->cell_count;) {
		cells[i].hotter = vram->free;
		vram->free = i;
	}
	kvc_free(vram->cells);
	vram->cells = cells;
	vram->cell_count = count;
	return KVC_OK;
}

/* With room in the map for the entry that it will belong to. */
static kvc_status cell_take(struct kvc_vram *vram, uint32_t *number)
{
	if (vram->free == KVC_CELL_NONE && cells_grow(vram) != KVC_OK)
		return KVC_NO_MEMORY;
	if (kvc_idmap_reserve(&vram->by_entry, vram->cells_used + 1) != KVC_OK)
		return KVC_NO_MEMORY;
	vram->cells_used++;
	*number = vram->free;
	vram->free = vram->cells[*number].hotter;
	vram->cells[*number] =
	        (struct cell){.entry = KVC_ENTRY_NONE, .colder = KVC_CELL_NONE, .hotter = KVC_CELL_NONE};
	return KVC_OK;
}

static uint64_t cell_bytes(const struct kvc_vram *vram, const struct cell *cell)
{
	return (uint64_t)kvc_extent_pages(vram->gpus[cell->gpu].extents, cell->extent) * KVC_ARENA_PAGE;
}

static void stat_extent(struct kvc_vram *vram, const struct cell *cell, int64_t sign)
{
	kvc_stat_add(vram->stat_used, sign * (int64_t)cell_bytes(vram, cell));
}

/* ---- lists, by recency --------------------------------------------------------------------- */

/* Put a cell between two neighbours, either of which may be none. */
static void list_between(struct kvc_vram *vram, uint32_t number, uint32_t colder, uint32_t hotter)
{
	struct vram_gpu *gpu = &vram->gpus[vram->cells[number].gpu];

	vram->cells[number].colder = colder;
	vram->cells[number].hotter = hotter;
	if (colder == KVC_CELL_NONE)
		gpu->coldest = number;
	else
		vram->cells[colder].hotter = number;
	if (hotter == KVC_CELL_NONE)
		gpu->hottest = number;
	else
		vram->cells[hotter].colder = number;
}

static void list_remove(struct kvc_vram *vram, uint32_t number)
{
	const struct cell *cell = &vram->cells[number];
	struct vram_gpu *gpu = &vram->gpus[cell->gpu];

	if (cell->colder == KVC_CELL_NONE)
		gpu->coldest = cell->hotter;
	else
		vram->cells[cell->colder].hotter = cell->hotter;
	if (cell->hotter == KVC_CELL_NONE)
		gpu->hottest = cell->colder;
	else
		vram->cells[cell->hotter].colder = cell->colder;
}

static void list_hot(struct kvc_vram *vram, uint32_t number)
{
	list_between(vram, number, vram->gpus[vram->cells[number].gpu].hottest, KVC_CELL_NONE);
}

uint32_t kvc_vram_cell(struct kvc_cache *cache, uint32_t id)
{
	if (!(kvc_cache_entry(cache, id)->flags & KVC_ENTRY_IN_VRAM))
		return KVC_CELL_NONE;
	return kvc_idmap_get(&cache->vram->by_entry, id);
}

void kvc_vram_touch(struct kvc_cache *cache, uint32_t id)
{
	uint32_t number = kvc_vram_cell(cache, id);

	if (number == KVC_CELL_NONE)
		return;
	list_remove(cache->vram, number);
	list_hot(cache->vram, number);
}

/* ---- attach, detach, release --------------------------------------------------------------- */

void kvc_vram_release(struct kvc_cache *cache, uint32_t number)
{
	struct kvc_vram *vram = cache->vram;
	struct cell *cell = cell_of(cache, number);

	KVC_PRE(cell->entry == KVC_ENTRY_NONE);
	stat_extent(vram, cell, -1);
	kvc_extent_release(vram->gpus[cell->gpu].extents, cell->extent);
	cell->hotter = vram->free;
	vram->free = number;
	vram->cells_used--;
}

/* The cell of the block's parent, if that rests on the same GPU. */
static uint32_t anchor_of(struct kvc_cache *cache, const struct cell *cell)
{
	static const struct kvc_storage_key none;
	const struct kvc_storage_key *parent = &cell->record.parent;
	uint32_t id = KVC_ENTRY_NONE, anchor;

	if (memcmp(parent, &none, sizeof none) != 0)
		id = kvc_index_find(cache->index, parent);
	if (id == KVC_ENTRY_NONE)
		return KVC_CELL_NONE;
	anchor = kvc_vram_cell(cache, id);
	return anchor != KVC_CELL_NONE && cell_of(cache, anchor)->gpu == cell->gpu ? anchor : KVC_CELL_NONE;
}

void kvc_vram_attach(struct kvc_cache *cache, uint32_t number, uint32_t id, struct kvc_ns *ns,
                     const struct kvc_record *record)
{
	struct cell *cell = cell_of(cache, number);
	uint32_t anchor;

	KVC_PRE(cell->entry == KVC_ENTRY_NONE && kvc_vram_cell(cache, id) == KVC_CELL_NONE);
	cell->record = *record;
	cell->ns = ns;
	ns->refs++;
	ns->tenant->vram += cell_bytes(cache->vram, cell);
	anchor = anchor_of(cache, cell);
	cell->entry = id;
	kvc_idmap_add(&cache->vram->by_entry, id, number);
	kvc_cache_entry(cache, id)->flags |= KVC_ENTRY_IN_VRAM;
	if (anchor == KVC_CELL_NONE)
		list_hot(cache->vram, number);
	else
		list_between(cache->vram, number, cell_of(cache, anchor)->colder, anchor);
	kvc_stat_add(cache->vram->stat_blocks, 1);
}

void kvc_vram_detach(struct kvc_cache *cache, uint32_t id)
{
	uint32_t number = kvc_vram_cell(cache, id);
	struct cell *cell;

	if (number == KVC_CELL_NONE)
		return;
	cell = cell_of(cache, number);
	kvc_cache_entry(cache, id)->flags &= (uint8_t)~KVC_ENTRY_IN_VRAM;
	kvc_idmap_remove(&cache->vram->by_entry, id);
	list_remove(cache->vram, number);
	cell->entry = KVC_ENTRY_NONE;
	cell->ns->tenant->vram -= cell_bytes(cache->vram, cell);
	kvc_ns_close(cell->ns);
	kvc_stat_add(cache->vram->stat_blocks, -1);
	kvc_vram_release(cache, number);
}

/* ---- room ---------------------------------------------------------------------------------- */

/* Whether the block rests in VRAM and nowhere else. */
static bool only_here(const struct kvc_entry *entry)
{
	return entry->slab == KVC_EXTENT_NONE && !(entry->flags & KVC_ENTRY_ON_DISK);
}

/* Its tenant has no room in RAM, so what it has here cannot make room for the next puts either. */
static bool is_refused(const struct kvc_cache *cache, const struct kvc_entry *entry)
{
	return kvc_entry_tenant(cache, entry)->lower_refused == cache->lower_runs;
}

/* What will stay is passed over and becomes hot: else the next search would end where this one did. */
static bool evict_one(struct kvc_cache *cache, const struct vram_gpu *gpu)
{
	uint32_t number = gpu->coldest;

	for (unsigned i = 0; i < SCAN && number != KVC_CELL_NONE; i++) {
		uint32_t id = cell_of(cache, number)->entry;
		const struct kvc_entry *entry = kvc_cache_entry(cache, id);
		uint32_t next = cell_of(cache, number)->hotter;

		if (!entry->refs && !only_here(entry)) {
			kvc_stat_add(cache->vram->stat_evicted, 1);
			kvc_vram_detach(cache, id);
			return true;
		}
		if (entry->pins || (only_here(entry) && is_refused(cache, entry)))
			kvc_vram_touch(cache, id);
		number = next;
	}
	return false;
}

static struct vram_gpu *find_gpu(struct kvc_vram *vram, const struct kvc_gpu *gpu)
{
	for (uint32_t i = 0; vram && i < vram->gpu_count; i++)
		if (vram->gpus[i].gpu == gpu)
			return &vram->gpus[i];
	return NULL;
}

kvc_status kvc_vram_reserve(struct kvc_cache *cache, const struct kvc_gpu *which, uint64_t image_bytes,
                            uint32_t *number)
{
	struct kvc_vram *vram = cache->vram;
	const struct vram_gpu *gpu = find_gpu(vram, which);
	uint64_t pages = (image_bytes + KVC_ARENA_PAGE - 1) / KVC_ARENA_PAGE;
	uint32_t extent;
	kvc_status status;

	if (!gpu || !gpu->extents || pages > gpu->pages || !kvc_gpu_is_up(which))
		return KVC_NO_SPACE;
	do
		status = kvc_extent_reserve(gpu->extents, (uint32_t)pages, &extent);
	while (status == KVC_NO_SPACE && evict_one(cache, gpu));
	if (status != KVC_OK)
		return KVC_NO_SPACE;
	status = cell_take(vram, number);
	if (status != KVC_OK) {
		kvc_extent_release(gpu->extents, extent);
		return KVC_NO_SPACE;
	}
	cell_of(cache, *number)->gpu = (uint32_t)(gpu - vram->gpus);
	cell_of(cache, *number)->extent = extent;
	stat_extent(vram, cell_of(cache, *number), 1);
	return KVC_OK;
}

static bool can_lower(const struct kvc_entry *entry)
{
	return only_here(entry) && !kvc_entry_in_flight(entry) && !(entry->flags & KVC_ENTRY_DEAD);
}

/* Go on from the cold end over the blocks that must be clean for the next puts to find room. */
static uint32_t gpu_to_lower(struct kvc_cache *cache, const struct vram_gpu *gpu, bool any,
                             struct kvc_vram_walk *walk)
{
	uint32_t wanted = gpu->pages / LOWER_SHARE;
	uint32_t number = walk->begun ? kvc_vram_cell(cache, walk->entry) : gpu->coldest;

	if (!walk->begun)
		walk->pages = gpu->extents ? kvc_extents_free_pages(gpu->extents) : wanted;
	while ((any || (walk->looked < SCAN && walk->pages < wanted)) && number != KVC_CELL_NONE) {
		const struct cell *cell = cell_of(cache, number);
		const struct kvc_entry *entry = kvc_cache_entry(cache, cell->entry);
		bool refused = is_refused(cache, entry);

		if (!refused && can_lower(entry) && !(any && entry->hints & KVC_HINT_EPHEMERAL)) {
			walk->begun = true;
			walk->entry = cell->entry;
			return cell->entry;
		}
		if (!refused && !entry->pins)
			walk->pages += kvc_extent_pages(gpu->extents, cell->extent);
		walk->looked++;
		number = cell->hotter;
	}
	return KVC_ENTRY_NONE;
}

uint32_t kvc_vram_to_lower(struct kvc_cache *cache, bool any, struct kvc_vram_walk *walk)
{
	while (cache->vram && walk->gpu < cache->vram->gpu_count) {
		const struct vram_gpu *gpu = &cache->vram->gpus[walk->gpu];
		uint32_t id = KVC_ENTRY_NONE;

		/* One that ends refuses at once, and would be asked again. */
		if (kvc_gpu_is_up(gpu->gpu) && gpu->lowering < cache->stores_max)
			id = gpu_to_lower(cache, gpu, any, walk);
		if (id != KVC_ENTRY_NONE)
			return id;
		*walk = (struct kvc_vram_walk){.gpu = walk->gpu + 1};
	}
	return KVC_ENTRY_NONE;
}

void kvc_vram_lowering(struct kvc_cache *cache, const struct kvc_gpu *which, int by)
{
	struct vram_gpu *gpu = find_gpu(cache->vram, which);

	KVC_PRE(gpu && (by > 0 || gpu->lowering > 0));
	gpu->lowering += (uint32_t)by;
}

/* ---- what cells say ------------------------------------------------------------------------ */

void kvc_vram_name(const struct kvc_cache *cache, uint32_t number, struct kvc_move *move)
{
	const struct cell *cell = cell_of(cache, number);
	const struct vram_gpu *gpu = &cache->vram->gpus[cell->gpu];

	move->vram = (uint64_t)kvc_extent_first(gpu->extents, cell->extent) * KVC_ARENA_PAGE;
	move->life = kvc_gpu_life(gpu->gpu);
}

void kvc_vram_move_submit(struct kvc_cache *cache, struct kvc_tenant *tenant, const struct kvc_gpu *which,
                          struct kvc_move *move)
{
	const struct vram_gpu *gpu = find_gpu(cache->vram, which);
	uint32_t i;

	KVC_PRE(gpu);
	i = (uint32_t)(gpu - cache->vram->gpus);
	move->gpu = kvc_gpu_engine(gpu->gpu);
	move->flow = &tenant->gpu_moves[i];
	kvc_move_submit(cache->gpu_movers[i], move);
}

struct kvc_gpu *kvc_vram_gpu(const struct kvc_cache *cache, uint32_t number)
{
	return cache->vram->gpus[cell_of(cache, number)->gpu].gpu;
}

const struct kvc_record *kvc_vram_record(const struct kvc_cache *cache, uint32_t number)
{
	return &cell_of(cache, number)->record;
}

struct kvc_ns *kvc_vram_ns(const struct kvc_cache *cache, uint32_t number)
{
	return cell_of(cache, number)->ns;
}

/* ---- life ---------------------------------------------------------------------------------- */

static uint32_t gpu_clear(struct kvc_cache *cache, const struct vram_gpu *gpu)
{
	uint32_t lost = 0;

	while (gpu->coldest != KVC_CELL_NONE) {
		uint32_t id = cell_of(cache, gpu->coldest)->entry;
		const struct kvc_entry *entry = kvc_cache_entry(cache, id);

		lost += only_here(entry) && !(entry->flags & KVC_ENTRY_DEAD) &&
		        !(entry->hints & KVC_HINT_EPHEMERAL);
		kvc_vram_detach(cache, id);
	}
	return lost;
}

/* The engine is gone, and all that rested there. What rests nowhere else is forgotten. */
static void gpu_down(void *context, struct kvc_gpu *which)
{
	struct vram_gpu *gpu = context;
	struct kvc_cache *cache = gpu->cache;
	uint32_t lost = 0;

	(void)which;
	while (gpu->coldest != KVC_CELL_NONE) {
		uint32_t id = cell_of(cache, gpu->coldest)->entry;
		bool lose = only_here(kvc_cache_entry(cache, id)) &&
		            !(kvc_cache_entry(cache, id)->flags & KVC_ENTRY_DEAD);

		kvc_vram_detach(cache, id);
		if (!lose)
			continue;
		kvc_stat_add(cache->count.lost, 1);
		kvc_entry_drop(cache, id);
		lost++;
	}
	if (lost)
		kvc_warn("%u blocks that rested in VRAM only are lost with their engine", lost);
	kvc_cache_check_stopped(cache);
}

static void gpu_up(void *context, struct kvc_gpu *gpu)
{
	(void)context;
	(void)gpu;
}

static kvc_status gpu_open(struct kvc_cache *cache, struct vram_gpu *gpu, struct kvc_gpu *which)
{
	uint64_t pages = kvc_gpu_vram_bytes(which) / KVC_ARENA_PAGE;
	struct kvc_gpu_events events = {.up = gpu_up, .down = gpu_down, .context = gpu};

	*gpu = (struct vram_gpu){
	        .gpu = which, .cache = cache, .coldest = KVC_CELL_NONE, .hottest = KVC_CELL_NONE};
	kvc_gpu_events_set(which, &events);
	if (!pages)
		return KVC_OK;
	gpu->pages = pages > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uint32_t)pages;
	kvc_stat_add(cache->vram->stat_bytes, (int64_t)gpu->pages * KVC_ARENA_PAGE);
	return kvc_extents_open(gpu->pages, &gpu->extents);
}

kvc_status kvc_vram_open(struct kvc_cache *cache, struct kvc_vram **out)
{
	uint32_t count = cache->options.gpu_count;
	struct kvc_vram *vram = kvc_calloc(1, sizeof *vram + count * sizeof vram->gpus[0]);
	kvc_status status = KVC_OK;

	if (!vram)
		return KVC_NO_MEMORY;
	vram->free = KVC_CELL_NONE;
	vram->stat_bytes = kvc_stats_cell(cache->options.stats, "vram.bytes");
	vram->stat_used = kvc_stats_cell(cache->options.stats, "vram.used_bytes");
	vram->stat_blocks = kvc_stats_cell(cache->options.stats, "vram.blocks");
	vram->stat_evicted = kvc_stats_cell(cache->options.stats, "vram.evicted");
	*out = vram;
	for (; status == KVC_OK && vram->gpu_count < count; vram->gpu_count++)
		status = gpu_open(cache, &vram->gpus[vram->gpu_count], cache->options.gpus[vram->gpu_count]);
	if (status != KVC_OK) {
		kvc_vram_close(vram);
		*out = NULL;
	}
	return status;
}

uint32_t kvc_vram_clear(struct kvc_cache *cache)
{
	uint32_t lost = 0;

	for (uint32_t i = 0; i < cache->vram->gpu_count; i++)
		lost += gpu_clear(cache, &cache->vram->gpus[i]);
	return lost;
}

void kvc_vram_close(struct kvc_vram *vram)
{
	static const struct kvc_gpu_events none;

	for (uint32_t i = 0; i < vram->gpu_count; i++) {
		KVC_PRE(vram->gpus[i].coldest == KVC_CELL_NONE);
		kvc_gpu_events_set(vram->gpus[i].gpu, &none);
		if (vram->gpus[i].extents)
			kvc_extents_close(vram->gpus[i].extents);
	}
	kvc_idmap_close(&vram->by_entry);
	kvc_free(vram->cells);
	kvc_free(vram);
}
