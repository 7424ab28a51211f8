/* A GPU engine as the core sees it: one child process, kvcellar-engine, with a CUDA context, behind the table
 * of engine.h.
 *
 *   STARTING --ready--> UP --process ended, or hung and killed--> DOWN --back-off--> STARTING
 *       `-------------failed-----------------------------------------^
 *
 * A CUDA error that sticks ends the engine, not the core. When the process has been reaped (so that nothing
 * of it writes any memory any more) `down` is called, then every job that was under way ends with
 * KVC_ENGINE_LOST. The engine is started again with back-off; regions and pools are set up again by
 * themselves before `up` is called.
 *
 * Regions are allocations of a worker, imported by the engine; a pool says where in them keys and values lie.
 * The core never sees device memory and never links CUDA. Loop thread only. */
#ifndef KVC_GPU_H
#define KVC_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/engine.h"
#include "daemon/engine/gpu_wire.h"
#include "daemon/mem/arena.h"
#include "daemon/stats/stats.h"

#define KVC_GPUS_MAX 16u /* ordinals are below this */

struct kvc_gpu;
struct kvc_device_region;

/* ---- life ---------------------------------------------------------------------------------- */

struct kvc_gpu_events {
	/* Ready for jobs, for the first time or again. */
	void (*up)(void *context, struct kvc_gpu *gpu);

	/* The process is gone: its VRAM is empty. Jobs under way end after this. */
	void (*down)(void *context, struct kvc_gpu *gpu);
	void *context;
};

struct kvc_gpu_options {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	const char *program;    /* path of kvcellar-engine */
	uint32_t ordinal;       /* CUDA's number of the device */
	uint32_t sms;           /* most multiprocessors that a launch occupies; 0: the engine decides */
	bool low_priority;      /* of its streams */
	uint64_t vram_bytes;    /* of the VRAM tier; 0: none */
	uint64_t staging_bytes; /* device memory for images on their way, all together */
	uint32_t hang_ms;       /* no progress for so long: the engine is killed. Where workers have marks it
	                         * is above KVC_GPU_GATE_MS */
	uint32_t ready_ms;      /* it has so long to become ready; 0: 30 s */
};

/* Start the process; `verdict` comes once, unless it is closed before, when it is ready or has failed for the
 * first time (status as of the engine, detail for people: what was wrong, what to do). Only after KVC_OK is
 * it ever started again. */
kvc_status kvc_gpu_open(const struct kvc_gpu_options *options,
                        void (*verdict)(void *context, struct kvc_gpu *gpu, kvc_status status,
                                        const char *detail),
                        void *context, struct kvc_gpu **gpu);

/* Who wants to know (callbacks may be NULL); call before the loop turns again after kvc_gpu_open, or after
 * the verdict. */
void kvc_gpu_events_set(struct kvc_gpu *gpu, const struct kvc_gpu_events *events);

/* End the process and forget it, then done(context). Also before the verdict, which then does not come. No
 * job may be under way, and every pool and region must be closed (their close need not have ended). */
void kvc_gpu_close(struct kvc_gpu *gpu, void (*done)(void *context), void *context);

/* The table for its jobs: encode and decode with a device view, lower. A job submitted while it is not up,
 * or that names VRAM of an earlier life, ends with KVC_ENGINE_LOST. */
struct kvc_engine *kvc_gpu_engine(struct kvc_gpu *gpu);

bool kvc_gpu_is_up(const struct kvc_gpu *gpu);

/* Which of its processes it is: another number after each `down`. What rests in VRAM rests there in one life
 * only. */
uint32_t kvc_gpu_life(const struct kvc_gpu *gpu);

/* 16 bytes; the same after a restart (another device in its place is a failed start). After the verdict. */
const uint8_t *kvc_gpu_uuid(const struct kvc_gpu *gpu);

/* What the driver calls the device. After the verdict. */
const char *kvc_gpu_name(const struct kvc_gpu *gpu);

uint64_t kvc_gpu_vram_bytes(const struct kvc_gpu *gpu);

/* ---- regions and pools --------------------------------------------------------------------- */

/* Import a worker's allocation. `done` comes once, not from inside the call: KVC_OK; KVC_INVALID with a
 * detail (forged handle, larger than the allocation, ...); KVC_ENGINE_LOST. The descriptors are duplicated.
 * On failure the region is gone after `done`. Returns KVC_NO_MEMORY, or KVC_BUSY without descriptors to
 * duplicate to: then `done` does not come. */
kvc_status kvc_device_region_open(struct kvc_gpu *gpu, const struct kvc_gpu_import *import, const int *fds,
                                  void (*done)(void *context, struct kvc_device_region *region,
                                               kvc_status status, const char *detail),
                                  void *context, struct kvc_device_region **region);

/* Unmap; done(context), which may be NULL, when the engine no longer maps it. Its pools must be closed before
 * (their close need not have ended). A region whose open has not ended is closed when it has. */
void kvc_device_region_close(struct kvc_device_region *region, void (*done)(void *context), void *context);

uint64_t kvc_device_region_bytes(const struct kvc_device_region *region);

/* Where the elements of one kind begin in one layer: page 0, first token, first head. */
struct kvc_pool_base {
	struct kvc_device_region *region;
	uint64_t offset;
};

struct kvc_pool_options {
	struct kvc_gpu_pool_geometry geometry;
	const struct kvc_pool_base *key;   /* geometry.layers of them */
	const struct kvc_pool_base *value; /* the same, or NULL: key-only */
	int marks_fd;                      /* of the marks; kept as a copy */
	uint32_t marks;                    /* words, at most KVC_GPU_MARKS_MAX; 0: none, no descriptor */
};

/* As region open. The regions' opens have ended well. KVC_SHAPE: some page would lie outside its region. */
kvc_status kvc_pool_open(struct kvc_gpu *gpu, const struct kvc_pool_options *options,
                         void (*done)(void *context, struct kvc_pool *pool, kvc_status status,
                                      const char *detail),
                         void *context, struct kvc_pool **pool);

/* No job uses it. done(context), which may be NULL, when the engine has forgotten it. */
void kvc_pool_close(struct kvc_pool *pool, void (*done)(void *context), void *context);

struct kvc_gpu *kvc_pool_gpu(const struct kvc_pool *pool);
const struct kvc_gpu_pool_geometry *kvc_pool_geometry(const struct kvc_pool *pool);

#endif
