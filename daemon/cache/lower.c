/* Lowering: a block that rests in VRAM gets a copy in RAM, because someone wants it there, because it is cold
 * and VRAM is short, or because the cache stops. It stays in VRAM until that room is wanted. */
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

static void lower_end(struct kvc_flight *flight, kvc_status status)
{
	struct kvc_cache *cache = flight->cache;

	cache->lowers--;
	kvc_vram_lowering(cache, flight->gpu, -1);
	kvc_flight_arrived(flight, status);
}

/* The image stands in the slab, sealed: the block is in RAM. */
static void lower_place(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);

	kvc_record_seal(&flight->record, flight->move.slab);
	entry->slab = flight->space.slab;
	kvc_space_settle(cache, &flight->space);
	if (!cache->options.disk)
		entry->flags |= KVC_ENTRY_LOOSE;
	kvc_entry_list(cache, flight->entry, KVC_POLICY_READ, KVC_ENTRY_NONE);
	kvc_stat_add(cache->count.lowered, 1);
	if (cache->state == KVC_CACHE_STOPPING && kvc_entry_used_by_one(entry))
		kvc_vram_detach(cache, flight->entry);
}

/* What rests in VRAM is of no use. It may not be the only copy; but while others read it its room stays
 * taken, and so the whole block goes. */
static void lower_failed(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);
	bool elsewhere = entry->flags & KVC_ENTRY_ON_DISK && kvc_entry_used_by_one(entry);

	if (flight->move.status == KVC_CORRUPT)
		kvc_stat_add(cache->count.corrupt, 1);
	else if (!elsewhere)
		kvc_stat_add(cache->count.lost, 1);
	if (elsewhere)
		kvc_vram_detach(cache, flight->entry);
	else
		kvc_entry_drop(cache, flight->entry);
}

static void lower_done(struct kvc_move *move)
{
	struct kvc_flight *flight = kvc_container_of(move, struct kvc_flight, move);
	struct kvc_cache *cache = flight->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);
	bool dead = entry->flags & KVC_ENTRY_DEAD;

	kvc_ns_close(flight->ns);
	if (move->status == KVC_OK && !dead) {
		lower_place(flight);
	} else {
		kvc_space_return(cache, &flight->space);
	}
	if (!dead && move->status != KVC_OK && move->status != KVC_ENGINE_LOST)
		lower_failed(flight);
	lower_end(flight, dead && move->status == KVC_OK ? KVC_MISS : move->status);
	kvc_cleaner_run(cache);
	kvc_cache_check_stopped(cache);
}

/* KVC_MISS: the engine was lost while the block waited for room. */
static kvc_status lower_move(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	uint32_t cell = kvc_vram_cell(cache, flight->entry);

	if (cell == KVC_CELL_NONE) {
		kvc_space_return(cache, &flight->space);
		return KVC_MISS;
	}
	flight->record = *kvc_vram_record(cache, cell);
	flight->ns = kvc_vram_ns(cache, cell);
	flight->ns->refs++;
	flight->move = (struct kvc_move){
	        .kind = KVC_MOVE_LOWER,
	        .plan = kvc_ns_plan(flight->ns),
	        .slab = kvc_slab_data(cache->options.arena, flight->space.slab),
	        .image_bytes = flight->record.image_bytes,
	        .done = lower_done,
	};
	kvc_vram_name(cache, cell, &flight->move);
	kvc_vram_move_submit(cache, flight->ns->tenant, kvc_vram_gpu(cache, cell), &flight->move);
	return KVC_OK;
}

/* What else there is to lower is looked for when all who wait have been answered (space.c). Two who are
 * refused would else each ask again while the other waits, without end. */
static void lower_granted(struct kvc_space_req *req, kvc_status status)
{
	struct kvc_flight *flight = kvc_container_of(req, struct kvc_flight, space);
	struct kvc_cache *cache = flight->cache;

	if (status == KVC_OK)
		status = lower_move(flight);
	if (status == KVC_OK)
		return;
	lower_end(flight, status);
	kvc_cache_check_stopped(cache);
}

kvc_status kvc_lower_begin(struct kvc_cache *cache, uint32_t id, bool urgent, struct kvc_flight **out)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_flight *flight;
	struct kvc_gpu *gpu;
	kvc_status status;

	KVC_PRE(entry->flags & KVC_ENTRY_IN_VRAM && entry->slab == KVC_EXTENT_NONE);
	gpu = kvc_vram_gpu(cache, kvc_vram_cell(cache, id));
	if (!kvc_gpu_is_up(gpu))
		return KVC_ENGINE_LOST;
	status = kvc_flight_begin(cache, id, KVC_FLIGHT_LOWER, &flight);
	if (status != KVC_OK)
		return status;
	flight->gpu = gpu;
	flight->space = (struct kvc_space_req){
	        .bytes = kvc_record_bytes(entry->image_bytes),
	        .tenant = kvc_entry_tenant(cache, entry),
	        .urgent = urgent,
	        .granted = lower_granted,
	};
	status = kvc_space_request(cache, &flight->space);
	if (status == KVC_OK)
		status = lower_move(flight);
	if (status != KVC_OK && status != KVC_BUSY) {
		kvc_flight_undo(flight);
		return status;
	}
	cache->lowers++;
	kvc_vram_lowering(cache, gpu, 1);
	*out = flight;
	return KVC_OK;
}

/* Whether the search for more is of use after that. A tenant without room of its own in RAM is passed over
 * for this run: what it has in VRAM holds up nobody else's. */
static bool lower_one(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_tenant *tenant = kvc_entry_tenant(cache, kvc_cache_entry(cache, id));
	struct kvc_flight *flight;
	kvc_status status = kvc_lower_begin(cache, id, false, &flight);

	if (status == KVC_QUOTA || status == KVC_NO_SPACE)
		tenant->lower_refused = cache->lower_runs;
	else if (status != KVC_OK)
		return false;
	return true;
}

/* While the cache stops, everything that can still go to disk is wanted in RAM. One walk over the blocks of
 * each GPU, and at most one refusal for each tenant. */
bool kvc_lower_run(struct kvc_cache *cache)
{
	bool all = cache->state == KVC_CACHE_STOPPING;
	struct kvc_vram_walk walk = {0};
	uint32_t id;

	if (all && (cache->flush_over || !kvc_cache_disk_writable(cache)))
		return false;
	cache->lower_runs++;
	do
		id = kvc_vram_to_lower(cache, all, &walk);
	while (id != KVC_ENTRY_NONE && lower_one(cache, id));
	return cache->lowers > 0;
}
