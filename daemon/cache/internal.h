/* What the files of daemon/cache share. Nothing outside includes this.
 *
 * An entry's life:
 *
 *   put of a new key --> FILL (invisible) --encoded--> in RAM, dirty --STORE--> in RAM and on disk, clean
 *                          |       |                     |   ^   ^               |            ^
 *                          |       failed: gone          |   |   | reclaimed  evicted        LOAD
 *                          |                  evicted if |   |   +-------------+ |            |
 *              encoded on a GPU           there is no    | LOWER                 v            |
 *                          v              disk: gone <---+   |   recovery --> on disk only ---+
 *                       in VRAM -----------------------------+
 *
 * A block may rest in VRAM beside RAM and disk; what is not there counts only if it is the only copy.
 * At most one flight (FILL, LOAD, LOWER or STORE) runs for an entry at a time; operations that need its
 * result wait in its list.
 *
 * An entry in RAM is listed with the policy (daemon/policy), unless it is pinned or has a STORE flight, in
 * one of these classes: dirty (to be written), demoted (on disk too, not used since it was written), clean
 * (on disk too, used since), loose (in RAM only and not to be written: there is no disk, the write failed, or
 * the disk gave it up and nobody had used it). */
#ifndef KVC_CACHE_INTERNAL_H
#define KVC_CACHE_INTERNAL_H

#include <string.h>

#include "daemon/base/check.h"
#include "daemon/cache/cache.h"
#include "daemon/cache/counters.h"
#include "daemon/cache/expiry.h"
#include "daemon/cache/idmap.h"
#include "daemon/cache/index.h"
#include "daemon/cache/lease.h"
#include "daemon/cache/ns.h"
#include "daemon/cache/scrub.h"
#include "daemon/cache/space.h"
#include "daemon/cache/tenant.h"
#include "daemon/policy/policy.h"

#define KVC_FLIGHT_NONE 0xFFFFFFFFu

enum kvc_flight_kind {
	KVC_FLIGHT_IDLE,
	KVC_FLIGHT_FILL,
	KVC_FLIGHT_LOAD,
	KVC_FLIGHT_LOWER,
	KVC_FLIGHT_STORE
};

/* What is happening to one entry. */
struct kvc_flight {
	enum kvc_flight_kind kind;
	uint32_t entry;
	uint32_t next_free;
	struct kvc_list waiters;
	struct kvc_space_req space; /* of a load or lower */
	struct kvc_move move;       /* of a load, lower or store */
	struct kvc_record record;
	struct kvc_cache *cache;
	struct kvc_tenant *tenant; /* of a store: who is charged, whosever the block is by then */
	struct kvc_ns *ns;   /* of a lower that moves, held: its plan is in use, even if the cell is gone */
	struct kvc_gpu *gpu; /* of a lower */
	bool ahead;          /* a load that nobody had asked for when it began */
};

/* Group commit: one sync runs, later callers wait for the next. */
struct kvc_sync {
	struct kvc_move move;
	bool running;
	struct kvc_list current; /* operations that the running sync covers */
	struct kvc_list next;
};

enum kvc_cache_state {
	KVC_CACHE_COLD,
	KVC_CACHE_RECOVERING,
	KVC_CACHE_READY,
	KVC_CACHE_STOPPING,
	KVC_CACHE_STOPPED
};

/* Classes of the policy. */
enum kvc_list_kind { KVC_LIST_DIRTY, KVC_LIST_DEMOTED, KVC_LIST_CLEAN, KVC_LIST_LOOSE, KVC_LISTS };

static_assert(KVC_LISTS <= KVC_POLICY_CLASSES, "the policy tells all classes apart");

struct kvc_cache {
	struct kvc_cache_options options;
	enum kvc_cache_state state;
	struct kvc_index *index;
	struct kvc_mover *mover;
	struct kvc_mover *gpu_movers[KVC_GPUS_MAX]; /* one each of options.gpus */
	struct kvc_vram *vram;
	struct kvc_tenants tenants;
	uint32_t listed[KVC_LISTS]; /* blocks, with all policies together */
	uint64_t listed_bytes[KVC_LISTS];
	struct kvc_admit *admit;  /* NULL: no disk */
	uint64_t dirty_limit;     /* bytes in the dirty list above which the cleaner writes */
	uint64_t generation;      /* of the newest block */
	struct kvc_expiry expiry; /* of the blocks that end at some time */
	struct kvc_timer expiry_timer;
	uint32_t ops;      /* unfinished, those included that were refused at once */
	uint32_t admitted; /* unfinished, without them */
	uint64_t held;     /* blocks of requests that are not answered */
	uint64_t payload;  /* bytes of memory for what travels through sockets */
	uint32_t stores;   /* flights of that kind */
	uint32_t lowers;
	uint64_t lower_runs;
	uint32_t ahead; /* loads that were begun ahead, and their bytes */
	uint64_t ahead_bytes;
	uint32_t stores_max;
	uint64_t disk_ended_ms; /* when a load or store ended last, or the first of those that run began */
	struct kvc_flight *flights;
	uint32_t flight_count;
	uint32_t flights_used;
	uint32_t free_flights;      /* list through next_free */
	struct kvc_idmap flight_of; /* entries that have one; room for all flights */
	struct kvc_pins pins;
	struct kvc_fair space; /* tenants that wait for room */
	struct kvc_task space_task;
	struct kvc_timer space_timer; /* someone has waited for a run of pages for a moment */
	struct kvc_task stop_task;
	struct kvc_sync sync;
	struct kvc_ns_table namespaces;
	struct kvc_cache_counters count;
	struct kvc_scrub scrub;
	struct kvc_timer flush_timer;
	bool flush_over;
	bool last_sync; /* begun */
	void (*recovered)(void *context, kvc_status status);
	void (*stopped)(void *context);
	void *callback_context;
};

/* ---- entry.c: lists, references, the end of an entry ---- */

static inline struct kvc_entry *kvc_cache_entry(struct kvc_cache *cache, uint32_t id)
{
	return kvc_index_entry(cache->index, id);
}

/* The entry of a key if it is complete, else KVC_ENTRY_NONE. */
uint32_t kvc_cache_find(struct kvc_cache *cache, const struct kvc_storage_key *key);

uint8_t *kvc_entry_record(struct kvc_cache *cache, const struct kvc_entry *entry);

/* List an entry that is in RAM, unless it is pinned or dead. `parent`: if known, else KVC_ENTRY_NONE. */
void kvc_entry_list(struct kvc_cache *cache, uint32_t id, enum kvc_policy_how how, uint32_t parent);
void kvc_entry_unlist(struct kvc_cache *cache, uint32_t id);
void kvc_entry_touch(struct kvc_cache *cache, uint32_t id);

/* What class a listed entry is of has changed. */
void kvc_entry_reclass(struct kvc_cache *cache, uint32_t id);

static inline struct kvc_tenant *kvc_entry_tenant(const struct kvc_cache *cache,
                                                  const struct kvc_entry *entry)
{
	return cache->tenants.of[entry->tenant];
}

/* Blocks of a class, and their bytes. */
static inline uint32_t kvc_listed_count(const struct kvc_cache *cache, enum kvc_list_kind kind)
{
	return cache->listed[kind];
}

void kvc_entry_ref(struct kvc_cache *cache, uint32_t id);
void kvc_entry_unref(struct kvc_cache *cache, uint32_t id);

/* Whether whoever asks, and holds a reference, is the only one who uses the entry. Leases only keep it. */
static inline bool kvc_entry_used_by_one(const struct kvc_entry *entry)
{
	return entry->refs == entry->pins + 1u;
}

/* Give up the RAM of an entry that nothing refers to. What is not on disk is gone then. */
void kvc_entry_evict(struct kvc_cache *cache, uint32_t id);

/* Forget an entry in every tier; its memory goes with the last reference. */
void kvc_entry_drop(struct kvc_cache *cache, uint32_t id);

/* The entry rests at its place on disk from now on. */
void kvc_entry_placed(struct kvc_cache *cache, uint32_t id, const struct kvc_record *record);

/* The disk has given up the entry's place; or it is to. */
void kvc_entry_lose_place(struct kvc_cache *cache, uint32_t id);
void kvc_entry_forget_place(struct kvc_cache *cache, uint32_t id);

static inline bool kvc_cache_disk_writable(const struct kvc_cache *cache)
{
	return cache->options.disk && cache->options.disk->writable;
}

/* ---- hints.c ---- */

/* A new entry, before it is announced to the policy. */
void kvc_hints_new(struct kvc_cache *cache, const struct kvc_op *op, uint32_t id);

/* The block of a put becomes visible: its time to live counts from now on. KVC_NO_MEMORY. */
kvc_status kvc_hints_commit(struct kvc_op *op);

/* A put of a block that is there: see struct kvc_hints. */
void kvc_hints_merge(const struct kvc_op *op, uint32_t id);

/* Whether the block's time to live has passed. */
bool kvc_hints_over(const struct kvc_cache *cache, uint32_t id);

/* The same; if so, the block is forgotten. */
bool kvc_hints_expire(struct kvc_cache *cache, uint32_t id);

/* The entry is dropped. */
void kvc_hints_dropped(struct kvc_cache *cache, uint32_t id);

/* The cache stops: what does not outlive a restart goes now. */
void kvc_hints_stop(struct kvc_cache *cache);

/* ---- flight.c ---- */

/* A flight for an entry that has none; holds a reference. KVC_BUSY: too many. */
kvc_status kvc_flight_begin(struct kvc_cache *cache, uint32_t id, enum kvc_flight_kind kind,
                            struct kvc_flight **flight);
/* Ends it; the waiters are moved to `waiters`. */
void kvc_flight_end(struct kvc_flight *flight, struct kvc_list *waiters);
/* As if it had not begun: whoever waits for room is not woken, to try the same again. */
void kvc_flight_undo(struct kvc_flight *flight);
/* Ends one that was to bring the block into RAM: the puts and gets that waited go on. What rests nowhere by
 * now is dropped first. */
void kvc_flight_arrived(struct kvc_flight *flight, kvc_status status);
/* NULL: it has none. */
struct kvc_flight *kvc_entry_flight(struct kvc_cache *cache, uint32_t id);

static inline bool kvc_entry_in_flight(const struct kvc_entry *entry)
{
	return entry->hints & KVC_HINT_FLIGHT;
}

/* Begin loading an entry that rests on disk only. */
kvc_status kvc_load_begin(struct kvc_cache *cache, uint32_t id, bool urgent, struct kvc_flight **flight);

/* The same for an operation that may come. */
kvc_status kvc_load_ahead(struct kvc_cache *cache, uint32_t id);

/* Begin storing a dirty or loose entry. */
kvc_status kvc_store_begin(struct kvc_cache *cache, uint32_t id, struct kvc_flight **flight);

/* Whether loads or stores are under way and none has ended for so long that it is not waited for. */
bool kvc_disk_hangs(const struct kvc_cache *cache);

/* The last waiter has left: a load that has not begun to read ends, now or soon. */
void kvc_flight_left(struct kvc_flight *flight);

/* Write cold dirty blocks while there are too many, or someone waits for room, or the cache stops. */
void kvc_cleaner_run(struct kvc_cache *cache);

/* The operation waits for a sync that begins from now on. */
void kvc_sync_join(struct kvc_cache *cache, struct kvc_op *op);

/* The entry's place on disk is gone: what waits for the sync of it does not succeed. */
void kvc_sync_lost(struct kvc_cache *cache, uint32_t id);

/* One more sync, for the stop. */
void kvc_sync_last(struct kvc_cache *cache);

/* ---- lower.c ---- */

/* Begin to bring an entry that rests in VRAM and not in RAM into RAM. KVC_ENGINE_LOST: its engine ends. */
kvc_status kvc_lower_begin(struct kvc_cache *cache, uint32_t id, bool urgent, struct kvc_flight **flight);

/* Lower cold blocks while VRAM is short, or all while the cache stops. Whether any is on its way. */
bool kvc_lower_run(struct kvc_cache *cache);

/* ---- op.c, put.c, get.c ---- */

enum kvc_op_state {
	KVC_OP_IDLE,
	KVC_OP_SPACE, /* put: waits for a slab */
	KVC_OP_ENCODE,
	KVC_OP_FILL, /* put: waits for another put of the same key */
	KVC_OP_LOAD, /* get, or durable put of what is not in RAM: waits for a load or lower */
	KVC_OP_DECODE,
	KVC_OP_STORE, /* put: waits for a store */
	KVC_OP_SYNC,
	KVC_OP_STATES,
};

void kvc_op_move(struct kvc_op *op, enum kvc_op_state state);
void kvc_op_finish(struct kvc_op *op, kvc_status status);
void kvc_op_wait(struct kvc_op *op, struct kvc_flight *flight, enum kvc_op_state state);

void kvc_put_start(struct kvc_op *op);
void kvc_put_abandon(struct kvc_op *op, kvc_status status);
void kvc_put_arrived(struct kvc_op *op, kvc_status status);
void kvc_put_stored(struct kvc_op *op, kvc_status status);
void kvc_put_synced(struct kvc_op *op, kvc_status status);
void kvc_get_start(struct kvc_op *op);
void kvc_get_arrived(struct kvc_op *op, kvc_status status);

/* An operation, flight or sync has ended: is the stop complete? */
void kvc_cache_check_stopped(struct kvc_cache *cache);

#endif
