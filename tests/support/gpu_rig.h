/* A GPU engine under test: loop, arena, the scripted engine process, one region and pool, jobs. */
#ifndef KVC_TEST_GPU_RIG_H
#define KVC_TEST_GPU_RIG_H

#include "daemon/engine/gpu.h"

enum {
	RIG_ARENA_BYTES = 48 << 20,
	RIG_VRAM_BYTES = 1 << 20,
	RIG_SLOT_BYTES = 1 << 15, /* of the arena for each job's image */
	RIG_JOBS = 1024,
	RIG_REGION_BYTES = 1 << 20,
};

struct gpu_rig_job {
	struct kvc_engine_job job;
	uint32_t pages[4];
	bool done;
	bool before_down; /* it ended before the engine was told to be down */
};

/* A callback of an open or close, seen. */
struct gpu_rig_seen {
	bool seen;
	kvc_status status;
	char detail[KVC_GPU_DETAIL_BYTES];
};

struct gpu_rig {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_arena *arena;
	struct kvc_gpu_options options;
	char program[256];
	struct kvc_gpu *gpu;
	struct gpu_rig_seen verdict;
	uint32_t ups;
	uint32_t downs;
	bool closed;

	struct kvc_image_plan plan;
	uint8_t *images; /* RIG_JOBS slots in the arena */
	struct kvc_device_region *region;
	struct kvc_pool *pool;
	struct gpu_rig_seen region_open;
	struct gpu_rig_seen pool_open;
	struct gpu_rig_job jobs[RIG_JOBS];
};

extern struct gpu_rig rig;

/* What the engine process does from its next start on. */
void gpu_rig_script(const char *text);

/* Loop, statistics, arena. */
void gpu_rig_open(void);
void gpu_rig_close(void);

/* Open the engine and wait for the verdict. */
kvc_status gpu_rig_start(const char *script);

/* Close pool, region and engine, and wait. */
void gpu_rig_stop(void);

/* Region and pool; both must come to be. */
void gpu_rig_pool(void);
void gpu_rig_region_open(struct gpu_rig_seen *seen, struct kvc_device_region **region);
void gpu_rig_pool_open(struct gpu_rig_seen *seen, struct kvc_device_region *region, struct kvc_pool **pool);

void gpu_rig_region_opened(void *context, struct kvc_device_region *region, kvc_status status,
                           const char *detail);
void gpu_rig_verdict(void *context, struct kvc_gpu *gpu, kvc_status status, const char *detail);

/* A condition for kvc_test_run_until that is never met: run for a while. */
bool gpu_rig_never(void *context);

void gpu_rig_wait(const bool *flag);
void gpu_rig_wait_seen(const struct gpu_rig_seen *seen);
void gpu_rig_wait_ups(uint32_t ups);
void gpu_rig_wait_downs(uint32_t downs);
int64_t gpu_rig_stat(const char *name);
void gpu_rig_wait_stat(const char *name, int64_t value);

/* Job `n` of the rig: encode into, or decode from, its slot of the arena. */
void gpu_rig_submit(uint32_t n, enum kvc_engine_op op);
kvc_status gpu_rig_finish(uint32_t n);

#endif
