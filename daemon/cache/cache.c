/* Life of the cache: open, recover, stop, close.
 *
 *   COLD --recover--> RECOVERING --all records reported--> READY --stop--> STOPPING --flushed--> STOPPED */
#include "daemon/cache/cache.h"

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

/* Stores in flight: enough to fill several large writes, few enough that a stop is quick. */
#define STORE_BYTES_MAX (64ull << 20)
#define CLASS_BYTES_MAX (64ull << 20)

/* A GPU works on batches and has several of them under way: one is encoded while another crosses PCIe. */
#define GPU_SLOTS           256u
#define GPU_CLASS_BYTES_MAX (512ull << 20)

#define DIRTY_SHARE 2 /* half of the arena may wait for the cleaner */

static void counters_open(struct kvc_cache *cache)
{
	struct kvc_stats *stats = cache->options.stats;

	cache->count = (struct kvc_cache_counters){
	        .entries = kvc_stats_cell(stats, "cache.blocks"),
	        .index_bytes = kvc_stats_cell(stats, "cache.index_bytes"),
	        .puts = kvc_stats_cell(stats, "cache.puts"),
	        .puts_present = kvc_stats_cell(stats, "cache.puts_present"),
	        .gets = kvc_stats_cell(stats, "cache.gets"),
	        .hits_vram = kvc_stats_cell(stats, "cache.hits_vram"),
	        .hits_ram = kvc_stats_cell(stats, "cache.hits_ram"),
	        .hits_disk = kvc_stats_cell(stats, "cache.hits_disk"),
	        .misses = kvc_stats_cell(stats, "cache.misses"),
	        .corrupt = kvc_stats_cell(stats, "cache.corrupt"),
	        .reread = kvc_stats_cell(stats, "cache.reread"),
	        .lookups = kvc_stats_cell(stats, "cache.lookups"),
	        .lookup_keys = kvc_stats_cell(stats, "cache.lookup_keys"),
	        .evicted = kvc_stats_cell(stats, "cache.evicted"),
	        .lost = kvc_stats_cell(stats, "cache.lost"),
	        .demoted = kvc_stats_cell(stats, "cache.demoted"),
	        .promoted = kvc_stats_cell(stats, "cache.promoted"),
	        .read_ahead = kvc_stats_cell(stats, "cache.read_ahead"),
	        .lowered = kvc_stats_cell(stats, "cache.lowered"),
	        .raised = kvc_stats_cell(stats, "cache.raised"),
	        .recovered = kvc_stats_cell(stats, "cache.recovered"),
	        .busy = kvc_stats_cell(stats, "cache.busy"),
	        .pins = kvc_stats_cell(stats, "cache.pins"),
	        .expiring = kvc_stats_cell(stats, "cache.expiring"),
	        .expiry_bytes = kvc_stats_cell(stats, "cache.expiry_bytes"),
	        .expired = kvc_stats_cell(stats, "cache.expired"),
	        .wear_throttled = kvc_stats_cell(stats, "disk.wear_throttled"),
	        .admitted_day = kvc_stats_cell(stats, "disk.admitted_day_bytes"),
	        .scrub_bytes = kvc_stats_cell(stats, "cache.scrub_bytes"),
	        .scrub_bad = kvc_stats_cell(stats, "cache.scrub_bad_blocks"),
	        .scrub_passes = kvc_stats_cell(stats, "cache.scrub_passes"),
	        .budget_day = kvc_stats_cell(stats, "disk.budget_day_bytes"),
	        .credit = kvc_stats_cell(stats, "disk.budget_credit_bytes"),
	};
}

static kvc_status flights_open(struct kvc_cache *cache)
{
	cache->flight_count =
	        cache->options.ops_max + (2 + cache->options.gpu_count) * cache->options.moves_max;
	cache->flights = kvc_calloc(cache->flight_count, sizeof *cache->flights);
	if (!cache->flights)
		return KVC_NO_MEMORY;
	if (kvc_idmap_reserve(&cache->flight_of, cache->flight_count) != KVC_OK) {
		kvc_free(cache->flights);
		return KVC_NO_MEMORY;
	}
	cache->free_flights = KVC_FLIGHT_NONE;
	for (uint32_t i = cache->flight_count; i-- > 0;) {
		cache->flights[i].next_free = cache->free_flights;
		cache->free_flights = i;
	}
	return KVC_OK;
}

static void flights_close(struct kvc_cache *cache)
{
	kvc_idmap_close(&cache->flight_of);
	kvc_free(cache->flights);
}

static void movers_close(struct kvc_cache *cache)
{
	for (uint32_t i = 0; i < cache->options.gpu_count; i++)
		if (cache->gpu_movers[i])
			kvc_mover_close(cache->gpu_movers[i]);
	if (cache->mover)
		kvc_mover_close(cache->mover);
}

/* One for all GPUs would have its slots taken by one that hangs. */
static kvc_status movers_open(struct kvc_cache *cache)
{
	uint64_t share = kvc_arena_bytes(cache->options.arena) / 4;
	struct kvc_mover_options options = {
	        .loop = cache->options.loop,
	        .stats = cache->options.stats,
	        .engine = cache->options.engine,
	        .disk = cache->options.disk,
	        .slots = cache->options.moves_max,
	        .class_bytes = share < CLASS_BYTES_MAX ? share : CLASS_BYTES_MAX,
	};
	struct kvc_mover_options of_gpu = {
	        .loop = cache->options.loop,
	        .stats = cache->options.stats,
	        .gpu_slots = GPU_SLOTS,
	        .gpu_class_bytes = GPU_CLASS_BYTES_MAX,
	};
	kvc_status status = kvc_mover_open(&options, &cache->mover);

	for (uint32_t i = 0; status == KVC_OK && i < cache->options.gpu_count; i++)
		status = kvc_mover_open(&of_gpu, &cache->gpu_movers[i]);
	if (status != KVC_OK)
		movers_close(cache);
	return status;
}

static void lists_open(struct kvc_cache *cache)
{
	kvc_fair_init(&cache->space);
	kvc_list_init(&cache->sync.current);
	kvc_list_init(&cache->sync.next);
	cache->pins.free = KVC_IDMAP_NONE;
	cache->dirty_limit = kvc_arena_bytes(cache->options.arena) / DIRTY_SHARE;
	cache->stores_max = cache->options.moves_max / 2 ? cache->options.moves_max / 2 : 1;
}

kvc_status kvc_cache_open(const struct kvc_cache_options *options, struct kvc_cache **out)
{
	struct kvc_cache *cache = kvc_calloc(1, sizeof *cache);
	kvc_status status;

	KVC_PRE(options->ops_max > 0 && options->moves_max > 0);
	if (!cache)
		return KVC_NO_MEMORY;
	cache->options = *options;
	counters_open(cache);
	lists_open(cache);
	status = kvc_index_open(options->hash_mask, &cache->index);
	if (status != KVC_OK)
		goto fail_cache;
	status = kvc_tenants_open(cache);
	if (status != KVC_OK)
		goto fail_index;
	status = kvc_admission_open(cache);
	if (status != KVC_OK)
		goto fail_tenants;
	status = flights_open(cache);
	if (status != KVC_OK)
		goto fail_admission;
	status = movers_open(cache);
	if (status != KVC_OK)
		goto fail_flights;
	status = kvc_vram_open(cache, &cache->vram);
	if (status != KVC_OK)
		goto fail_mover;
	*out = cache;
	return KVC_OK;

fail_mover:
	movers_close(cache);
fail_flights:
	flights_close(cache);
fail_admission:
	kvc_admission_close(cache);
fail_tenants:
	kvc_tenants_close(cache);
fail_index:
	kvc_index_close(cache->index);
fail_cache:
	kvc_free(cache);
	return status;
}

/* ---- recovery ---- */

static struct kvc_tenant *tenant_recovered(struct kvc_cache *cache, const struct kvc_record *record)
{
	static const uint8_t nobody[sizeof record->tenant];
	struct kvc_tenant *tenant;

	if (!memcmp(record->tenant, nobody, sizeof nobody) ||
	    kvc_tenant_get(cache, record->tenant, &tenant) != KVC_OK)
		return kvc_tenant_unknown(&cache->tenants);
	return tenant;
}

/* A record on disk becomes an entry. Records come oldest first: a later one of the same key replaces the
 * earlier, unless it is a copy of it, which may have been torn. */
static bool record_recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	struct kvc_cache *cache = context;
	struct kvc_entry *entry;
	uint32_t id = kvc_index_find(cache->index, &record->key);

	if (record->image_bytes > KVC_IMAGE_BYTES_MAX || (record->copy && id != KVC_ENTRY_NONE))
		return false;
	if (id != KVC_ENTRY_NONE)
		kvc_entry_drop(cache, id);
	if (record->ends) /* nobody knows how long ago it was put: see hints.c */
		return false;
	if (kvc_index_insert(cache->index, &record->key, &id) != KVC_OK)
		return false;
	entry = kvc_cache_entry(cache, id);
	kvc_tenant_entry_new(cache, id, tenant_recovered(cache, record));
	entry->image_bytes = (uint32_t)record->image_bytes;
	kvc_entry_placed(cache, id, record);
	entry->tokens = (uint16_t)record->tokens;
	entry->depth = record->depth > UINT16_MAX ? UINT16_MAX : (uint16_t)record->depth;
	entry->flags = KVC_ENTRY_VISIBLE | KVC_ENTRY_ON_DISK | KVC_ENTRY_UNREAD;
	if (record->generation > cache->generation)
		cache->generation = record->generation;
	kvc_stat_add(cache->count.entries, 1);
	kvc_stat_add(cache->count.recovered, 1);
	*cookie = id;
	return true;
}

static bool same_place(const struct kvc_place *a, const struct kvc_place *b)
{
	return a->segment == b->segment && a->page == b->page;
}

static void place_reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	struct kvc_cache *cache = context;
	const struct kvc_entry *entry = kvc_cache_entry(cache, cookie);

	if (!(entry->flags & KVC_ENTRY_ON_DISK) || !same_place(&entry->place, &place))
		return;
	kvc_sync_lost(cache, cookie);
	kvc_entry_lose_place(cache, cookie);
}

/* Generations and parents are not in the index, and not needed to find a block again. */
static bool place_describe(void *context, uint32_t cookie, struct kvc_record *record)
{
	struct kvc_cache *cache = context;
	const struct kvc_entry *entry = kvc_cache_entry(cache, cookie);

	if (!(entry->flags & KVC_ENTRY_ON_DISK) || !same_place(&entry->place, &record->place) ||
	    entry->epoch != (uint32_t)record->epoch)
		return false;
	record->key = entry->key;
	record->image_bytes = entry->image_bytes;
	record->tokens = entry->tokens;
	record->depth = entry->depth;
	record->ends = entry->hints & KVC_HINT_MARKED;
	memcpy(record->tenant, kvc_entry_tenant(cache, entry)->id, sizeof record->tenant);
	return entry->tenant != 0 && !kvc_tenant_dropping(cache, record->tenant);
}

/* A block that is in RAM too becomes dirty when its place goes, and is written then. */
static bool place_keep(void *context, uint32_t cookie, struct kvc_record *record)
{
	struct kvc_cache *cache = context;
	const struct kvc_entry *entry = kvc_cache_entry(cache, cookie);

	return entry->flags & KVC_ENTRY_HIT && entry->slab == KVC_EXTENT_NONE &&
	       place_describe(context, cookie, record);
}

static bool place_moved(void *context, uint32_t cookie, struct kvc_place from,
                        const struct kvc_record *record)
{
	struct kvc_cache *cache = context;
	struct kvc_entry *entry = kvc_cache_entry(cache, cookie);

	if (!(entry->flags & KVC_ENTRY_ON_DISK) || !same_place(&entry->place, &from))
		return false;
	entry->place = record->place;
	entry->epoch = (uint32_t)record->epoch;
	entry->flags &= (uint8_t)~KVC_ENTRY_HIT;
	kvc_admission_copied(cache, cookie);
	return true;
}

static void account_save(void *context, struct kvc_tier_note *note)
{
	kvc_admission_save(context, note);
}

static void account_restore(void *context, const struct kvc_tier_note *note)
{
	kvc_admission_restore(context, note);
}

static void recover_done(void *context, kvc_status status)
{
	struct kvc_cache *cache = context;

	if (status == KVC_OK) {
		cache->state = KVC_CACHE_READY;
		kvc_scrub_start(cache);
	}
	kvc_stat_set(cache->count.index_bytes, (int64_t)kvc_index_bytes(cache->index));
	cache->recovered(cache->callback_context, status);
}

void kvc_cache_recover(struct kvc_cache *cache, void (*done)(void *context, kvc_status status), void *context)
{
	struct kvc_tier_events events = {
	        .recovered = record_recovered,
	        .reclaimed = place_reclaimed,
	        .describe = place_describe,
	        .keep = place_keep,
	        .moved = place_moved,
	        .note = account_save,
	        .noted = account_restore,
	        .context = cache,
	};

	KVC_PRE(cache->state == KVC_CACHE_COLD);
	cache->state = KVC_CACHE_RECOVERING;
	cache->recovered = done;
	cache->callback_context = context;
	if (cache->options.disk)
		cache->options.disk->ops->recover(cache->options.disk, &events, recover_done, cache);
	else
		recover_done(cache, KVC_OK);
}

/* ---- stop ---- */

static bool flushed(struct kvc_cache *cache)
{
	if (cache->flush_over || !kvc_cache_disk_writable(cache))
		return true;
	return !kvc_listed_count(cache, KVC_LIST_DIRTY) && !kvc_lower_run(cache);
}

void kvc_cache_check_stopped(struct kvc_cache *cache)
{
	uint32_t unwritten;

	if (cache->state != KVC_CACHE_STOPPING || cache->ops || cache->flights_used || cache->sync.running ||
	    cache->scrub.busy || !kvc_list_empty(&cache->tenants.drops) || !flushed(cache))
		return;
	if (cache->options.disk && !cache->last_sync && !cache->flush_over) {
		cache->last_sync = true;
		kvc_sync_last(cache);
		return;
	}
	cache->state = KVC_CACHE_STOPPED;
	unwritten = kvc_vram_clear(cache);
	kvc_timer_stop(&cache->flush_timer);
	kvc_timer_stop(&cache->expiry_timer);
	kvc_timer_stop(&cache->space_timer);
	if (kvc_listed_count(cache, KVC_LIST_DIRTY))
		kvc_warn("stop: %u blocks in RAM were not written to disk",
		         kvc_listed_count(cache, KVC_LIST_DIRTY));
	if (unwritten && cache->options.disk)
		kvc_warn("stop: %u blocks in VRAM were not written to disk", unwritten);
	cache->stopped(cache->callback_context);
}

static void flush_timeout(struct kvc_timer *timer)
{
	struct kvc_cache *cache = kvc_container_of(timer, struct kvc_cache, flush_timer);

	cache->flush_over = true;
	kvc_cache_check_stopped(cache);
}

/* The stop is complete when nothing runs; `stopped` is called from a later callback, never from inside
 * kvc_cache_stop. */
static void stop_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, stop_task);

	kvc_hints_stop(cache);
	kvc_cleaner_run(cache);
	kvc_cache_check_stopped(cache);
}

void kvc_cache_stop(struct kvc_cache *cache, uint64_t flush_ms, void (*done)(void *context), void *context)
{
	KVC_PRE(cache->state < KVC_CACHE_STOPPING);
	cache->state = KVC_CACHE_STOPPING;
	kvc_scrub_stop(cache);
	cache->stopped = done;
	cache->callback_context = context;
	cache->flush_timer.fire = flush_timeout;
	cache->flush_over =
	        !flush_ms || kvc_timer_start(cache->options.loop, &cache->flush_timer, flush_ms) != KVC_OK;
	cache->stop_task.run = stop_run;
	kvc_loop_defer(cache->options.loop, &cache->stop_task);
}

/* ---- close ---- */

/* The slabs go with the arena. */
void kvc_cache_close(struct kvc_cache *cache)
{
	KVC_PRE(cache->state == KVC_CACHE_COLD || cache->state == KVC_CACHE_STOPPED);
	KVC_PRE(!cache->namespaces.count && !cache->flights_used && !cache->ops);
	KVC_PRE(!kvc_space_wanted(cache) && !cache->space_task.queued && !cache->stop_task.queued);
	kvc_vram_close(cache->vram);
	movers_close(cache);
	flights_close(cache);
	kvc_admission_close(cache);
	kvc_tenants_close(cache);
	kvc_expiry_close(&cache->expiry);
	kvc_pins_close(&cache->pins);
	kvc_ns_table_close(&cache->namespaces);
	kvc_index_close(cache->index);
	kvc_free(cache);
}
