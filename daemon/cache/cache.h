/* The cache: which blocks there are, where they rest, and what happens to them.
 *
 * Owns the index and the life of every entry; decides on eviction, demotion and promotion; lets daemon/mover
 * do the moving. Knows nothing of sockets or protobuf. Loop thread only. Requests on one block (kvc_op) live
 * in the caller's object; submit never calls back; `done` comes exactly once. */
#ifndef KVC_CACHE_H
#define KVC_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/key.h"
#include "daemon/cache/space.h"
#include "daemon/engine/gpu.h"
#include "daemon/loop/loop.h"
#include "daemon/mem/arena.h"
#include "daemon/mover/mover.h"
#include "daemon/policy/admit.h"
#include "daemon/policy/policy.h"
#include "daemon/stats/stats.h"
#include "daemon/tier/tier.h"
#include "kernels/image.h"
#include "proto/kvc_status.h"

struct kvc_cache;
struct kvc_ns;
struct kvc_lease;
struct kvc_tenant;

/* ---- life ---------------------------------------------------------------------------------- */

struct kvc_cache_options {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	struct kvc_engine *engine;
	struct kvc_tier *disk; /* NULL: no disk tier */
	struct kvc_gpu *const
	        *gpus; /* gpu_count of them, each with its verdict; their events become the cache's */
	uint32_t gpu_count;
	struct kvc_secret secret;    /* master secret: of the disk tier's directory, or random without one */
	uint64_t disk_day_bytes;     /* that may be written to disk in a day; 0: no limit */
	uint64_t scrub_rate;         /* bytes a second of what rests in RAM that are checked; 0: none */
	enum kvc_policy_kind policy; /* who is evicted first; 0: the default */
	uint32_t ops_max;   /* unfinished put and get operations of all callers; above: KVC_BUSY. Bounds what
	                     * requests hold, too: see kvc_ns_blocks_hold */
	uint32_t moves_max; /* blocks that are coded at a time, and blocks on their way to or from the disk */
	uint64_t hash_mask; /* 0; tests force collisions in the index */
};

kvc_status kvc_cache_open(const struct kvc_cache_options *options, struct kvc_cache **cache);

/* Take over what the disk tier holds; then done(context). Operations submitted before are refused with
 * KVC_BUSY. */
void kvc_cache_recover(struct kvc_cache *cache, void (*done)(void *context, kvc_status status),
                       void *context);

/* Graceful end: new operations end with KVC_SHUTDOWN, running ones finish, blocks that rest in RAM only are
 * written to disk (at most until flush_ms have passed), then done(context). The disk tier is not closed here.
 */
void kvc_cache_stop(struct kvc_cache *cache, uint64_t flush_ms, void (*done)(void *context), void *context);

/* After stop, and after all namespaces and leases are closed. */
void kvc_cache_close(struct kvc_cache *cache);

/* ---- tenants ------------------------------------------------------------------------------- */

#define KVC_TENANT_NAME_BYTES  65u /* with its end */
#define KVC_TENANT_BUDGETS_MAX 64u

/* What a tenant may; 0 in a number: as if nothing were said. */
struct kvc_tenant_budget {
	char name[KVC_TENANT_NAME_BYTES]; /* "*": all that are not named */
	uint64_t ram;      /* bytes that are kept for it while it is active; 0: its part by weight */
	uint64_t ram_max;  /* bytes; above, it gives up its own blocks; 0: no limit */
	uint64_t disk_max; /* likewise on disk */
	uint64_t put_rate; /* bytes of sources a second; above: KVC_QUOTA; 0: no limit */
	uint64_t get_rate; /* bytes of destinations a second, likewise */
	uint32_t weight;   /* of its part in RAM, and of its turns; 0: KVC_FAIR_WEIGHT */
};

struct kvc_tenant_budgets {
	uint64_t
	        idle_ms; /* after so long without an operation nothing is kept for a tenant; 0: ten minutes */
	uint32_t count;  /* at most KVC_TENANT_BUDGETS_MAX */
	const struct kvc_tenant_budget *of; /* borrowed during the call */
};

/* From now on. Before, and for tenants that nothing is said about: no limits, equal weights. */
void kvc_cache_budgets_set(struct kvc_cache *cache, const struct kvc_tenant_budgets *budgets);

/* What a tenant has and does. */
struct kvc_tenant_stat {
	const char *name; /* static: "tenant.ram_bytes" */
	int64_t value;
};

#define KVC_TENANT_STATS 24u

/* By name; all zero for one that is not known. Returns how many there are. */
uint32_t kvc_cache_tenant_stats(struct kvc_cache *cache, const char *tenant,
                                struct kvc_tenant_stat stats[KVC_TENANT_STATS]);

/* Forgetting a tenant: every block of it in every tier, those that are being put included, and whatever the
 * disk tier keeps for it. Blocks whose tenant is not known go too: they might be its. Puts that begin
 * meanwhile may stay. */
struct kvc_tenant_drop {
	/* set by the caller; borrowed until done */
	char tenant[KVC_TENANT_NAME_BYTES];
	void (*done)(struct kvc_tenant_drop *drop);

	/* results: KVC_OK, or the disk tier's failure (nothing of the tenant can be read, but what the disk
	 * keeps may come back after a crash) */
	kvc_status status;
	uint64_t blocks; /* that there were */

	/* private */
	struct kvc_cache *cache;
	struct kvc_list node;
	uint8_t id[16];
	struct kvc_tier_req forget;
};

/* One after the other; `done` comes once, never from inside. */
void kvc_cache_tenant_drop(struct kvc_cache *cache, struct kvc_tenant_drop *drop);

/* ---- namespaces ---------------------------------------------------------------------------- */

struct kvc_ns_options {
	const char *tenant;           /* checked by the caller: 1 to 64 of [A-Za-z0-9._-] */
	const char *model;            /* 1 to 256 bytes */
	struct kvc_block_shape shape; /* of a full block */
	struct kvc_block_codec codec;
	uint32_t shard;
	uint32_t shards;
};

/* Opened namespaces with equal options share one object. KVC_SHAPE or KVC_INVALID if shape or codec is out of
 * bounds, KVC_NO_MEMORY. A block that does not fit the arena: KVC_LIMIT. */
kvc_status kvc_ns_open(struct kvc_cache *cache, const struct kvc_ns_options *options, struct kvc_ns **ns);
void kvc_ns_close(struct kvc_ns *ns);

/* Whether a request of the namespace's tenant may begin now. KVC_QUOTA: it is above its put-rate or get-rate;
 * *rate says which rate that is (bytes a second), *wait_ms how long that lasts. Counted. */
kvc_status kvc_ns_may_begin(struct kvc_ns *ns, bool put, uint64_t *rate, uint64_t *wait_ms);

/* A request of so many blocks begins, and its memory is needed until it is answered. KVC_BUSY, counted: all
 * requests hold KVC_BLOCKS_HELD times ops_max blocks (or KVC_BLOCKS_HELD_MIN, if that is more), or their last
 * quarter is for tenants that hold less. */
#define KVC_BLOCKS_HELD     4u
#define KVC_BLOCKS_HELD_MIN 16384u
kvc_status kvc_ns_blocks_hold(struct kvc_ns *ns, uint32_t blocks);
void kvc_ns_blocks_let_go(struct kvc_ns *ns, uint32_t blocks);

/* So many bytes of memory for blocks that travel through sockets are the namespace's tenant's, of `most` that
 * all may have. KVC_BUSY, counted: likewise. The first is let through, however large it is. */
kvc_status kvc_ns_payload_hold(struct kvc_ns *ns, uint64_t bytes, uint64_t most);
void kvc_ns_payload_let_go(struct kvc_ns *ns, uint64_t bytes);

/* How often the namespace's tenant was dropped since it was opened. Keys that were derived before that, and
 * what is put under them, are of the tenant that was dropped. */
uint32_t kvc_ns_drops(const struct kvc_ns *ns);

/* Name of the namespace's tenant; lives as long as the namespace. */
const char *kvc_ns_tenant(const struct kvc_ns *ns);

/* Plan of a full block. */
const struct kvc_image_plan *kvc_ns_plan(const struct kvc_ns *ns);

/* Storage key of a block key of 1 to 64 bytes. */
void kvc_ns_key(const struct kvc_ns *ns, const void *block_key, size_t bytes, struct kvc_storage_key *key);

/* ---- one block ----------------------------------------------------------------------------- */

enum kvc_op_kind { KVC_OP_PUT = 1, KVC_OP_GET = 2 };

/* Where, and in what form, the client has the block. */
enum kvc_op_form {
	KVC_OP_HOST,   /* elements in host memory */
	KVC_OP_DEVICE, /* elements in a pool in device memory */
	KVC_OP_IMAGE,  /* an image in host memory */
};
enum kvc_rest {
	KVC_REST_NONE = 0,
	KVC_REST_VRAM = 1,
	KVC_REST_RAM = 2,
	KVC_REST_DISK = 3
}; /* as Tier on the wire */

/* Among the blocks of a tenant. */
enum kvc_priority { KVC_PRIORITY_NORMAL, KVC_PRIORITY_LOW, KVC_PRIORITY_HIGH, KVC_PRIORITIES };

/* What a client says of the blocks that it puts. Zeroed: nothing. Of a block that is there already, a later
 * put can only take back: raise the priority, put off the end, allow the disk. */
struct kvc_hints {
	uint8_t priority; /* enum kvc_priority */
	bool ephemeral;   /* never written to disk */
	uint32_t ttl_ms;  /* a miss so long after the put began, and after a restart; 0: no limit */
};

struct kvc_op {
	/* set by the caller; all borrowed until done */
	enum kvc_op_kind kind;
	struct kvc_ns *ns;
	struct kvc_storage_key key;
	struct kvc_storage_key parent; /* of a put */
	bool has_parent;
	bool durable;  /* a put: complete when on stable storage; not of an ephemeral block, nor one that ends
	                */
	uint64_t coin; /* of a put: the same for all blocks of a request, a hash; admission to disk (admit.h)
	                */
	struct kvc_hints hints; /* of a put */
	uint32_t tokens;        /* 1 to the namespace's block tokens, checked by the caller */
	enum kvc_op_form form;
	union {
		struct kvc_block_view view;     /* host: checked by the caller against its region */
		struct kvc_device_view device;  /* device: page count and first token checked by the caller */
		struct kvc_image_view external; /* image: likewise checked, KVC_IMAGE_ALIGN aligned */
	};
	void (*done)(struct kvc_op *op);

	/* Of a put, or NULL. Asked when the source has been read, before the block becomes visible; false:
	 * what was read may be wrong, the block is forgotten and the put ends with KVC_DEADLINE. */
	bool (*source_held)(const struct kvc_op *op);

	/* results. put: KVC_OK also if the block was there before (its bytes are left alone), KVC_NO_SPACE,
	 * KVC_QUOTA (over the tenant's budget, nothing was done), KVC_BUSY, ... get: KVC_OK, KVC_MISS,
	 * KVC_CONFLICT (present with other token count), ... ; the view is undefined unless KVC_OK. Device:
	 * KVC_ENGINE_LOST, KVC_INVALID (a page id is out of range). Image: KVC_INVALID (does not pass its
	 * checks), KVC_SHAPE, KVC_LIMIT (no room). KVC_CORRUPT never leaves the cache: the entry is dropped,
	 * counted and a miss is answered. */
	kvc_status status;
	uint64_t image_bytes;
	enum kvc_rest from; /* get: the tier that had it */

	/* private to the cache */
	struct kvc_cache *cache;
	struct kvc_list wait_node; /* of the flight or sync that it waits for */
	struct kvc_task finished;
	struct kvc_space_req space;
	struct kvc_move move;
	const struct kvc_image_plan *plan;
	struct kvc_image_plan *own_plan; /* of a block with fewer tokens than a full one */
	uint32_t entry;
	uint32_t cell; /* of the VRAM tier, being filled by it */
	struct kvc_tenant *tenant;
	uint8_t state;
	bool admitted;            /* counts among the unfinished ones */
	uint32_t drops;           /* kvc_ns_drops, when it began */
	uint64_t ends_ms;         /* a put with a time to live: of the loop's clock */
	bool reread;              /* a get: what rests on disk was read a second time */
	bool lost;                /* a put that waits for a sync: its place on disk is gone */
	kvc_status cancel_status; /* KVC_OK: not cancelled */
};

void kvc_op_submit(struct kvc_cache *cache, struct kvc_op *op);

/* Mark a block as used. Who gets a chain touches its last block first, so that the first stays the longest.
 */
void kvc_cache_touch(struct kvc_cache *cache, const struct kvc_storage_key *key);

/* End the operation as early as its view can be let go, with `status` (KVC_DEADLINE, KVC_CANCELLED) unless it
 * completes first. `done` still comes. */
void kvc_op_cancel(struct kvc_op *op, kvc_status status);

/* ---- keys ---------------------------------------------------------------------------------- */

/* Where each block rests (enum kvc_rest), and how many leading ones are present. Marks them as used, the
 * first of the chain as the most recently used. */
uint32_t kvc_cache_lookup(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count,
                          uint8_t *rest);

/* Start bringing leading blocks that are present into RAM: as many as fit half of it, and as what is read
 * ahead for all chains at a time may be (a quarter of RAM, and no more blocks than the moves there may be).
 * Returns how many are there or on their way. */
uint32_t kvc_cache_read_ahead(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count);

/* The same of blocks that nobody has asked for yet: marks them as used. */
uint32_t kvc_cache_prefetch(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count);

/* Forget blocks in every tier; gets that are running still complete. Returns how many there were. */
uint32_t kvc_cache_drop(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count);

/* A lease: blocks that one session keeps from being evicted. Closing releases all. Pinned blocks rest where
 * they are; at most pins_max of them. */
kvc_status kvc_lease_open(struct kvc_cache *cache, uint32_t pins_max, struct kvc_lease **lease);
void kvc_lease_close(struct kvc_lease *lease);

/* Pin, or unpin, the leading blocks that are present (that are pinned by this lease). Pinning twice counts
 * once. */
kvc_status kvc_lease_pin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count,
                         uint32_t *done);
uint32_t kvc_lease_unpin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count);

#endif
