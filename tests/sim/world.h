/* One simulated daemon for the tests of cache and mover, and operations on it. Contents of blocks are
 * numbered: what a get must restore is computed from the number by the codec, without the cache. */
#ifndef KVC_SIM_WORLD_H
#define KVC_SIM_WORLD_H

#include "daemon/cache/cache.h"
#include "tests/sim/sim.h"

enum {
	TOKENS = 16,
	DIM = 16,
	ELEMENTS = TOKENS * DIM,
	BYTES = 2 * ELEMENTS,
	ARENA = 1 << 20,
	IMAGE_ROOM = 4096,
	STEPS_MAX = 2000000,
	POOL_PAGES = 256,
	CONTENTS_KNOWN = 2048, /* remembered */
};

/* One simulated daemon. */
struct world {
	struct sim_random random;
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	struct kvc_engine *engine;
	struct sim_tier *disk;
	struct kvc_tier *tier;   /* of the cache: disk->tier, a real one, or NULL: none */
	struct kvc_gpu *gpu;     /* NULL: none */
	struct kvc_pool *pool;   /* that jobs use */
	struct kvc_gpu *gpus[2]; /* `gpu`, and another one */
	uint32_t gpu_count;
	struct kvc_pool *pools[2];
	uint32_t next_page;
	struct kvc_cache *cache;
	struct kvc_ns *ns;
	struct kvc_secret secret;
	enum kvc_op_form form;
	struct kvc_hints hints;      /* of puts from now on */
	enum kvc_policy_kind policy; /* of the next cache_begin */
	uint64_t disk_day_bytes;     /* likewise */
	bool endless; /* some timer always runs: what waits for a state does not wait for rest */
	bool recovered;
	bool stopped;
};

/* One operation with the memory that it works on. */
struct job {
	struct kvc_op op;
	struct world *world;
	uint16_t key[ELEMENTS];
	uint16_t value[ELEMENTS];
	uint8_t image_room[IMAGE_ROOM + KVC_IMAGE_ALIGN]; /* see job_image */
	uint32_t page;                                    /* of the pool, for the device form */
	bool done;
	uint32_t number; /* of the block key */
	uint32_t content;
};

/* Options of a small namespace of that tenant. */
struct kvc_ns_options ns_options(const char *tenant);

/* Open the cache over what the disk holds. */
void cache_begin(struct world *w);

/* The policy, and the bytes a day that may go to disk, of worlds that are opened from now on. */
void world_policy(enum kvc_policy_kind policy);
void world_budget(uint64_t disk_day_bytes);

/* Of worlds opened from now on: bytes a second of RAM that are scrubbed. Such a world never settles. */
void world_scrub(uint64_t rate);

/* What the puts of a numbered block say, in histories: always that it ends, always that it is ephemeral, now
 * this and now that, or nothing. */
enum block_class { BLOCK_ENDS, BLOCK_EPHEMERAL, BLOCK_MIXED, BLOCK_PLAIN };
enum block_class block_class(uint32_t number);

/* Draw the hints of the next put of a block, and whether it may be durable. */
bool hints_draw(struct world *w, uint32_t number);

/* When a block whose put has these hints, and begins now, ends at the latest; UINT64_MAX: never. */
uint64_t hints_end(const struct world *w);

/* Everything but a cache and a disk. */
void world_open_bare(struct world *w, uint64_t seed);

/* A daemon with an empty cache. disk_records 0: no disk. */
void world_open(struct world *w, uint64_t seed, uint32_t disk_records);

/* The same with a GPU whose VRAM tier holds that many full blocks. */
void world_open_gpu(struct world *w, uint64_t seed, uint32_t disk_records, uint32_t vram_blocks);

/* The same with two. */
void world_open_gpus(struct world *w, uint64_t seed, uint32_t disk_records, uint32_t vram_blocks);

/* Step until nothing is left to do. */
void settle(struct world *w);

/* The same; in an endless world, until that is set. */
void settle_until(struct world *w, const bool *set);

/* The two halves of cache_end: between them the disk tier closes. */
void cache_stop(struct world *w, uint64_t flush_ms);
void cache_free(struct world *w);

/* Stop and close the cache. */
void cache_end(struct world *w, uint64_t flush_ms);

/* Stop everything; nothing may be left allocated. */
void world_close(struct world *w);

/* A statistic by name. */
int64_t stat(struct world *w, const char *name);

/* The elements of a numbered content. */
void content_fill(uint32_t content, uint16_t *key, uint16_t *value);

/* From now on jobs and keys are of this namespace, which stays the caller's; back to the world's own before
 * the cache is closed. Returns the one before. */
struct kvc_ns *world_ns(struct world *w, struct kvc_ns *ns);

/* A statistic of a tenant by name, without "tenant.". */
int64_t tenant_stat(struct world *w, const char *tenant, const char *name);

/* The storage key of a numbered block. */
struct kvc_storage_key storage_key(struct world *w, uint32_t number);

/* Where a look-up finds it. */
uint8_t rest_of(struct world *w, uint32_t number);

/* From now on puts and gets of these functions take and give blocks in this form. */
void world_form(struct world *w, enum kvc_op_form form);

/* A job of that kind for a numbered block, not submitted. */
void job_init(struct world *w, struct job *job, enum kvc_op_kind kind, uint32_t number);

/* The job's own image, aligned, of IMAGE_ROOM bytes. */
uint8_t *job_image(struct job *job);

/* Submit a put of a content. */
void put_submit(struct world *w, struct job *job, uint32_t number, uint32_t content, bool durable);

/* Submit a get; the destination is poisoned. */
void get_submit(struct world *w, struct job *job, uint32_t number);

/* Step until the job is done; its status. */
kvc_status finish(struct world *w, struct job *job);

/* Put and finish. */
kvc_status put(struct world *w, uint32_t number, uint32_t content);

/* Whether a get restored what the codec makes of a content, which is remembered, as all worlds have the same
 * codec. Counts it as verified. */
bool restored_is(struct world *w, const struct job *job, uint32_t content);

/* Get and finish; what was restored must be that content. */
kvc_status get(struct world *w, uint32_t number, uint32_t content);

#endif
