/* Loads, stores and syncs: the work that the cache does for entries rather than for one operation. */
#include "daemon/base/log.h"
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"

enum { DISK_HANGS_MS = 500 }; /* a sound one ends something more often, however much it has to do */

/* ---- flights ---- */

kvc_status kvc_flight_begin(struct kvc_cache *cache, uint32_t id, enum kvc_flight_kind kind,
                            struct kvc_flight **out)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	uint32_t number = cache->free_flights;
	struct kvc_flight *flight;

	KVC_PRE(!kvc_entry_in_flight(entry));
	if (number == KVC_FLIGHT_NONE)
		return KVC_BUSY;
	flight = &cache->flights[number];
	cache->free_flights = flight->next_free;
	*flight = (struct kvc_flight){.kind = kind, .entry = id, .cache = cache};
	kvc_list_init(&flight->waiters);
	entry->hints |= KVC_HINT_FLIGHT;
	kvc_idmap_add(&cache->flight_of, id, number);
	cache->flights_used++;
	kvc_entry_ref(cache, id);
	*out = flight;
	return KVC_OK;
}

static void flight_free(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	uint32_t number = (uint32_t)(flight - cache->flights);

	KVC_PRE(flight->kind != KVC_FLIGHT_IDLE);
	flight->kind = KVC_FLIGHT_IDLE;
	kvc_cache_entry(cache, flight->entry)->hints &= (uint8_t)~KVC_HINT_FLIGHT;
	kvc_idmap_remove(&cache->flight_of, flight->entry);
	flight->next_free = cache->free_flights;
	cache->free_flights = number;
	cache->flights_used--;
}

void kvc_flight_end(struct kvc_flight *flight, struct kvc_list *waiters)
{
	kvc_list_init(waiters);
	kvc_list_splice(waiters, &flight->waiters);
	flight_free(flight);
	kvc_entry_unref(flight->cache, flight->entry);
}

void kvc_flight_undo(struct kvc_flight *flight)
{
	KVC_PRE(kvc_list_empty(&flight->waiters));
	flight_free(flight);
	kvc_cache_entry(flight->cache, flight->entry)->refs--;
}

struct kvc_flight *kvc_entry_flight(struct kvc_cache *cache, uint32_t id)
{
	if (!kvc_entry_in_flight(kvc_cache_entry(cache, id)))
		return NULL;
	return &cache->flights[kvc_idmap_get(&cache->flight_of, id)];
}

static struct kvc_op *waiter_pop(struct kvc_list *waiters)
{
	struct kvc_list *node = kvc_list_pop(waiters);

	return node ? kvc_container_of(node, struct kvc_op, wait_node) : NULL;
}

/* Whether the block was lost in every tier while something was on its way with it. */
static bool rests_nowhere(const struct kvc_entry *entry)
{
	return entry->slab == KVC_EXTENT_NONE && !(entry->flags & (KVC_ENTRY_ON_DISK | KVC_ENTRY_IN_VRAM));
}

void kvc_flight_arrived(struct kvc_flight *flight, kvc_status status)
{
	struct kvc_cache *cache = flight->cache;
	uint32_t id = flight->entry;
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_list waiters;
	struct kvc_op *op;

	if (!(entry->flags & KVC_ENTRY_DEAD) && rests_nowhere(entry))
		kvc_entry_drop(cache, id);
	kvc_entry_ref(cache, id);
	kvc_flight_end(flight, &waiters);
	while ((op = waiter_pop(&waiters))) {
		if (op->kind == KVC_OP_PUT)
			kvc_put_arrived(op, status);
		else
			kvc_get_arrived(op, status);
	}
	kvc_entry_unref(cache, id);
}

/* ---- the disk ---- */

static bool disk_is_busy(const struct kvc_cache *cache)
{
	return kvc_mover_pending(cache->mover, KVC_MOVE_LOAD) ||
	       kvc_mover_pending(cache->mover, KVC_MOVE_STORE);
}

static void disk_submit(struct kvc_cache *cache, struct kvc_move *move)
{
	if (!disk_is_busy(cache))
		cache->disk_ended_ms = kvc_loop_now_ms(cache->options.loop);
	kvc_move_submit(cache->mover, move);
}

static void disk_ended(struct kvc_cache *cache)
{
	cache->disk_ended_ms = kvc_loop_now_ms(cache->options.loop);
}

bool kvc_disk_hangs(const struct kvc_cache *cache)
{
	return disk_is_busy(cache) &&
	       kvc_loop_now_ms(cache->options.loop) - cache->disk_ended_ms >= DISK_HANGS_MS;
}

/* ---- loads ---- */

/* Whether what is on disk is of no use any more: it did not match, or it cannot be read. */
static bool load_lost(kvc_status status)
{
	return status == KVC_CORRUPT || status == KVC_MISS || status == KVC_IO;
}

static void load_end(struct kvc_flight *flight, kvc_status status)
{
	struct kvc_cache *cache = flight->cache;
	uint32_t id = flight->entry;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (flight->ahead) {
		cache->ahead--;
		cache->ahead_bytes -= flight->space.bytes;
	}
	if (status == KVC_CORRUPT)
		kvc_stat_add(cache->count.corrupt, 1);
	if (!(entry->flags & KVC_ENTRY_DEAD) && load_lost(status) && entry->slab == KVC_EXTENT_NONE &&
	    !(entry->flags & KVC_ENTRY_IN_VRAM))
		kvc_entry_drop(cache, id);
	kvc_flight_arrived(flight, status);
	kvc_cache_check_stopped(cache);
}

/* Its header says whose the block is, if that was not known. */
static void load_place(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);
	uint64_t bytes = kvc_slab_bytes(cache->options.arena, flight->space.slab);
	struct kvc_record record;

	if (!entry->tenant && kvc_record_parse(flight->move.slab, bytes, &record) == KVC_OK)
		kvc_tenant_adopt_id(cache, flight->entry, record.tenant);
	entry->slab = flight->space.slab;
	kvc_space_settle(cache, &flight->space);
	kvc_tenant_ram_sub(cache, flight->space.tenant, bytes);
	kvc_tenant_ram_add(cache, kvc_entry_tenant(cache, entry), bytes);
}

static void load_done(struct kvc_move *move)
{
	struct kvc_flight *flight = kvc_container_of(move, struct kvc_flight, move);
	struct kvc_cache *cache = flight->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);
	kvc_status status = move->status;

	if (status != KVC_CANCELLED)
		disk_ended(cache);
	if (status == KVC_OK && entry->flags & KVC_ENTRY_DEAD)
		status = KVC_MISS;
	if (status == KVC_OK) {
		load_place(flight);
		kvc_stat_add(cache->count.promoted, 1);
		kvc_entry_list(cache, flight->entry, KVC_POLICY_READ, KVC_ENTRY_NONE);
	} else {
		kvc_space_return(cache, &flight->space);
	}
	load_end(flight, status);
}

static void load_read(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);

	flight->record = (struct kvc_record){
	        .key = entry->key,
	        .place = entry->place,
	        .epoch = entry->epoch,
	        .image_bytes = entry->image_bytes,
	        .tokens = entry->tokens,
	};
	flight->move = (struct kvc_move){
	        .kind = KVC_MOVE_LOAD,
	        .flow = &kvc_entry_tenant(cache, entry)->moves,
	        .slab = kvc_slab_data(cache->options.arena, flight->space.slab),
	        .image_bytes = entry->image_bytes,
	        .record = &flight->record,
	        .done = load_done,
	};
	disk_submit(cache, &flight->move);
}

static void load_granted(struct kvc_space_req *req, kvc_status status)
{
	struct kvc_flight *flight = kvc_container_of(req, struct kvc_flight, space);
	struct kvc_cache *cache = flight->cache;

	if (status == KVC_OK && kvc_cache_entry(cache, flight->entry)->flags & KVC_ENTRY_ON_DISK) {
		load_read(flight);
		return;
	}
	if (status == KVC_OK) {
		kvc_space_return(cache, req);
		status = KVC_MISS;
	}
	load_end(flight, status);
}

kvc_status kvc_load_begin(struct kvc_cache *cache, uint32_t id, bool urgent, struct kvc_flight **out)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_flight *flight;
	struct kvc_list nobody;
	kvc_status status;

	KVC_PRE(entry->flags & KVC_ENTRY_ON_DISK && entry->slab == KVC_EXTENT_NONE);
	status = kvc_flight_begin(cache, id, KVC_FLIGHT_LOAD, &flight);
	if (status != KVC_OK)
		return status;
	flight->space = (struct kvc_space_req){
	        .bytes = kvc_record_bytes(entry->image_bytes),
	        .tenant = kvc_entry_tenant(cache, entry),
	        .urgent = urgent,
	        .granted = load_granted,
	};
	status = kvc_space_request(cache, &flight->space);
	if (status == KVC_OK) {
		load_read(flight);
	} else if (status != KVC_BUSY) {
		kvc_flight_end(flight, &nobody);
		return status;
	}
	*out = flight;
	return KVC_OK;
}

kvc_status kvc_load_ahead(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_flight *flight;
	kvc_status status = kvc_load_begin(cache, id, false, &flight);

	if (status != KVC_OK)
		return status;
	flight->ahead = true;
	cache->ahead++;
	cache->ahead_bytes += flight->space.bytes;
	kvc_stat_add(cache->count.read_ahead, 1);
	return KVC_OK;
}

void kvc_flight_left(struct kvc_flight *flight)
{
	if (flight->kind != KVC_FLIGHT_LOAD || flight->ahead || !kvc_list_empty(&flight->waiters))
		return;
	if (flight->space.queued) {
		kvc_space_cancel(flight->cache, &flight->space);
		load_end(flight, KVC_CANCELLED);
	} else if (flight->move.state == KVC_MOVE_QUEUED) {
		kvc_move_cancel(&flight->move);
	}
}

/* ---- stores ---- */

/* The record is on disk: the entry is clean, unless it was dropped meanwhile. */
static void store_place(struct kvc_flight *flight)
{
	struct kvc_cache *cache = flight->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, flight->entry);

	if (entry->flags & KVC_ENTRY_DEAD) {
		cache->options.disk->ops->forget(cache->options.disk, &flight->record);
		return;
	}
	entry->flags &= (uint8_t) ~(KVC_ENTRY_LOOSE | KVC_ENTRY_UNREAD);
	kvc_entry_placed(cache, flight->entry, &flight->record);
	kvc_stat_add(cache->count.demoted, 1);
}

static void store_done(struct kvc_move *move)
{
	struct kvc_flight *flight = kvc_container_of(move, struct kvc_flight, move);
	struct kvc_cache *cache = flight->cache;
	uint32_t id = flight->entry;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_list waiters;
	struct kvc_op *op;

	disk_ended(cache);
	kvc_admission_stored(cache, id, move->status);
	flight->tenant->storing -= kvc_record_bytes(entry->image_bytes);
	if (move->status == KVC_OK)
		store_place(flight);
	else
		entry->flags |= KVC_ENTRY_LOOSE;
	kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
	cache->stores--;
	kvc_flight_end(flight, &waiters);
	while ((op = waiter_pop(&waiters)))
		kvc_put_stored(op, move->status);
	kvc_space_wake(cache);
	kvc_cache_check_stopped(cache);
}

kvc_status kvc_store_begin(struct kvc_cache *cache, uint32_t id, struct kvc_flight **out)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	uint8_t *record = kvc_entry_record(cache, entry);
	struct kvc_flight *flight;
	kvc_status status = kvc_flight_begin(cache, id, KVC_FLIGHT_STORE, &flight);

	if (status != KVC_OK)
		return status;
	status = kvc_record_parse(record, kvc_slab_bytes(cache->options.arena, entry->slab), &flight->record);
	KVC_INVARIANT(status == KVC_OK);
	kvc_entry_unlist(cache, id);
	entry->flags &= (uint8_t)~KVC_ENTRY_HIT;
	flight->record.ends = entry->hints & KVC_HINT_TTL;
	entry->hints = (uint8_t)(flight->record.ends ? entry->hints | KVC_HINT_MARKED
	                                             : entry->hints & ~KVC_HINT_MARKED);
	cache->stores++;
	flight->tenant = kvc_entry_tenant(cache, entry);
	flight->tenant->storing += kvc_record_bytes(entry->image_bytes);
	flight->move = (struct kvc_move){
	        .kind = KVC_MOVE_STORE,
	        .flow = &flight->tenant->moves,
	        .slab = record,
	        .image_bytes = entry->image_bytes,
	        .record = &flight->record,
	        .cookie = id,
	        .done = store_done,
	};
	disk_submit(cache, &flight->move);
	*out = flight;
	return KVC_OK;
}

static bool has_no_flight(void *cache, uint32_t id)
{
	return !kvc_entry_in_flight(kvc_cache_entry(cache, id));
}

static bool cleaner_wanted(const struct kvc_cache *cache)
{
	if (!kvc_listed_count(cache, KVC_LIST_DIRTY) || cache->stores >= cache->stores_max ||
	    !kvc_cache_disk_writable(cache))
		return false;
	if (cache->state == KVC_CACHE_STOPPING)
		return !cache->flush_over;
	return cache->listed_bytes[KVC_LIST_DIRTY] > cache->dirty_limit || kvc_space_wanted(cache);
}

static bool disk_room(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	return kvc_tenant_disk_room(cache, kvc_entry_tenant(cache, entry),
	                            kvc_record_bytes(entry->image_bytes));
}

/* The tenant has as much on disk as it may. */
static void keep_off_disk(struct kvc_cache *cache, uint32_t id)
{
	kvc_admission_dropped(cache, id);
	kvc_cache_entry(cache, id)->flags |= KVC_ENTRY_LOOSE;
	kvc_entry_reclass(cache, id);
	kvc_space_wake(cache);
}

void kvc_cleaner_run(struct kvc_cache *cache)
{
	struct kvc_flight *flight;

	kvc_lower_run(cache);
	while (cleaner_wanted(cache)) {
		uint32_t id = kvc_tenants_to_clean(cache, has_no_flight);

		if (id == KVC_ENTRY_NONE)
			return;
		if (!disk_room(cache, id))
			keep_off_disk(cache, id);
		else if (kvc_store_begin(cache, id, &flight) != KVC_OK)
			return;
	}
}

/* ---- syncs ---- */

static void sync_start(struct kvc_cache *cache);

static void sync_done(struct kvc_move *move)
{
	struct kvc_sync *sync = kvc_container_of(move, struct kvc_sync, move);
	struct kvc_cache *cache = kvc_container_of(sync, struct kvc_cache, sync);
	struct kvc_list finished;
	struct kvc_op *op;

	kvc_list_init(&finished);
	kvc_list_splice(&finished, &sync->current);
	sync->running = false;
	if (!kvc_list_empty(&sync->next))
		sync_start(cache);
	while ((op = waiter_pop(&finished)))
		kvc_put_synced(op, move->status);
	kvc_cache_check_stopped(cache);
}

static void sync_start(struct kvc_cache *cache)
{
	struct kvc_sync *sync = &cache->sync;

	kvc_list_splice(&sync->current, &sync->next);
	sync->running = true;
	sync->move = (struct kvc_move){.kind = KVC_MOVE_SYNC, .done = sync_done};
	kvc_move_submit(cache->mover, &sync->move);
}

void kvc_sync_last(struct kvc_cache *cache)
{
	KVC_PRE(!cache->sync.running);
	sync_start(cache);
}

static void waiters_lost(struct kvc_list *waiters, uint32_t id)
{
	kvc_list_each (node, waiters) {
		struct kvc_op *op = kvc_container_of(node, struct kvc_op, wait_node);

		op->lost = op->lost || op->entry == id;
	}
}

void kvc_sync_lost(struct kvc_cache *cache, uint32_t id)
{
	waiters_lost(&cache->sync.current, id);
	waiters_lost(&cache->sync.next, id);
}

void kvc_sync_join(struct kvc_cache *cache, struct kvc_op *op)
{
	kvc_list_push(&cache->sync.next, &op->wait_node);
	if (!cache->sync.running)
		sync_start(cache);
}
