/* A world for the cache: the loop, the engine and the disk tier simulated in one thread, on one seed.
 *
 * sim_loop.c implements daemon/loop/loop.h over a simulated clock: nothing happens unless sim_step is called,
 * and what happens next is drawn from the seed. The engine runs the real codec; the tier keeps real records
 * in memory and fails, loses, delays and damages them as told. A failure is replayed by its seed. */
#ifndef KVC_SIM_H
#define KVC_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/gpu.h"
#include "daemon/loop/loop.h"
#include "daemon/tier/tier.h"

/* xorshift64; the state is never 0. */
struct sim_random {
	uint64_t state;
};

uint64_t sim_next(struct sim_random *random);

/* true once in `n`; never if n is 0 */
bool sim_one_in(struct sim_random *random, uint32_t n);

/* A seed from KVC_TEST_SEED, else `fallback`. */
uint64_t sim_seed(uint64_t fallback);

/* ---- loop ---- */

/* Something that will happen: an engine job ends, a disk request ends. Run in random order. */
struct sim_event {
	struct kvc_list node;
	void (*run)(struct sim_event *event);
};

kvc_status sim_loop_open(struct sim_random *random, struct kvc_loop **loop);
void sim_event_add(struct kvc_loop *loop, struct sim_event *event);

/* Run everything that is deferred, then one event, or else the next timer. False if there was nothing to do.
 */
bool sim_step(struct kvc_loop *loop);

/* Time passes and nothing happens: timers that are due by now fire at a later step. */
void sim_pass(struct kvc_loop *loop, uint64_t ms);

/* ---- engine ---- */

kvc_status sim_engine_open(struct kvc_loop *loop, struct kvc_engine **engine);

/* ---- GPU engine: implements what the cache uses of daemon/engine/gpu.h ---- */

struct sim_gpu_faults {
	uint32_t kill; /* one in n jobs: the engine is lost with all that it holds, and comes back */
	bool disorder; /* jobs end in any order */
	uint32_t flip; /* an image in VRAM has one bit flipped before it is used */
};

/* A GPU with a VRAM tier of so many bytes. */
kvc_status sim_gpu_open(struct kvc_loop *loop, struct sim_random *random, uint64_t vram_bytes,
                        struct kvc_gpu **gpu);
void sim_gpu_faults_set(struct kvc_gpu *gpu, const struct sim_gpu_faults *faults);

/* The engine is lost now; it comes back at some later step. */
void sim_gpu_kill(struct kvc_gpu *gpu);

/* Either that, or its process ends now and is reaped at some later step. */
void sim_gpu_lose(struct kvc_gpu *gpu);

/* Its process has ended, or was killed, and is not reaped; and is reaped now. */
void sim_gpu_end(struct kvc_gpu *gpu);
void sim_gpu_reap(struct kvc_gpu *gpu);

/* Its jobs do not end until that is over. */
void sim_gpu_hang(struct kvc_gpu *gpu, bool hangs);

/* All that rests in its VRAM is damaged. */
void sim_gpu_spoil(struct kvc_gpu *gpu);
void sim_gpu_free(struct kvc_gpu *gpu);

/* A pool of so many pages, each of one layer and head, keys and values of so many bytes. */
struct kvc_pool *sim_pool_open(struct kvc_gpu *gpu, uint32_t pages, uint32_t page_bytes);
void sim_pool_free(struct kvc_pool *pool);
void *sim_pool_key(struct kvc_pool *pool, uint32_t page);
void *sim_pool_value(struct kvc_pool *pool, uint32_t page);

/* ---- tier ---- */

struct sim_tier_faults {
	uint32_t store_error; /* one in n requests; 0: never */
	uint32_t load_error;
	uint32_t sync_error;
	uint32_t flip;   /* a loaded record has one bit flipped */
	uint32_t hang;   /* a request never ends until sim_tier_release */
	bool no_tenants; /* recovered records do not say whose they are */
};

struct sim_tier {
	struct kvc_tier tier;
	struct sim_tier_faults faults;
	uint32_t stores;
	uint32_t loads;
	uint32_t syncs;
	uint32_t flips;
	uint32_t errors;
};

/* A tier with room for `records` records; full, it gives up the oldest. */
kvc_status sim_tier_open(struct kvc_loop *loop, struct sim_random *random, uint32_t records,
                         struct sim_tier **tier);

/* Let requests that hang go on. */
void sim_tier_release(struct sim_tier *tier);

/* The tier gives up what it has of a block, as after a failed sync, though it may be being read: which ends
 * as if nothing had happened if it is `readable`. */
void sim_tier_lose(struct sim_tier *tier, const struct kvc_storage_key *key, bool readable);

/* Ask the owner for his note and keep it, as the disk tier does at a stop; *note is a copy of it. */
void sim_tier_note(struct sim_tier *tier, struct kvc_tier_note *note);

/* Records that the owner says what they are, as for a checkpoint. */
uint32_t sim_tier_described(struct sim_tier *tier);

/* As after a crash: forgets what was not synced if `lose`; the next recover reports the rest. */
void sim_tier_crash(struct sim_tier *tier, bool lose);

void sim_tier_free(struct sim_tier *tier);

#endif
