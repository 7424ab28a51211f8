/* See gpu_rig.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/stats/stats.h"
#include "tests/support/daemon.h"
#include "tests/support/gpu_rig.h"
#include "tests/support/loop_run.h"

enum { WAIT_MS = 60000 };

struct gpu_rig rig;

void gpu_rig_script(const char *text)
{
	setenv("KVC_SCRIPT", text, 1);
}

static void seen_set(struct gpu_rig_seen *seen, kvc_status status, const char *detail)
{
	assert_false(seen->seen);
	seen->seen = true;
	seen->status = status;
	snprintf(seen->detail, sizeof seen->detail, "%s", detail);
}

/* ---- loop and engine ----------------------------------------------------------------------- */

static void plan_init(void)
{
	struct kvc_block_shape shape = {.layers = 2,
	                                .heads = 2,
	                                .key_dim = 64,
	                                .value_dim = 64,
	                                .tokens = 16,
	                                .dtype = KVC_DTYPE_BF16};
	struct kvc_block_codec codec;

	assert_int_equal(kvc_preset_get(kvc_preset_name(0), &codec), KVC_OK);
	assert_int_equal(kvc_image_plan_init(&rig.plan, &shape, &codec), KVC_OK);
	assert_true(rig.plan.raw_image_bytes < RIG_SLOT_BYTES);
}

void gpu_rig_open(void)
{
	uint32_t slab;

	memset(&rig, 0, sizeof rig);
	assert_int_equal(kvc_loop_open(&rig.loop), KVC_OK);
	assert_int_equal(kvc_stats_open(&rig.stats), KVC_OK);
	assert_int_equal(kvc_arena_open(RIG_ARENA_BYTES, rig.stats, &rig.arena), KVC_OK);
	assert_int_equal(kvc_slab_reserve(rig.arena, (uint64_t)RIG_JOBS * RIG_SLOT_BYTES, &slab), KVC_OK);
	rig.images = kvc_slab_data(rig.arena, slab);
	plan_init();
	assert_true(kvc_test_program("tests/fake/engine_script", rig.program));
	rig.options = (struct kvc_gpu_options){
	        .loop = rig.loop,
	        .stats = rig.stats,
	        .arena = rig.arena,
	        .program = rig.program,
	        .ordinal = 2,
	        .sms = 32,
	        .vram_bytes = RIG_VRAM_BYTES,
	        .staging_bytes = 64 << 20,
	        .hang_ms = 60000,
	};
}

void gpu_rig_close(void)
{
	kvc_arena_close(rig.arena);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
}

void gpu_rig_verdict(void *context, struct kvc_gpu *gpu, kvc_status status, const char *detail)
{
	assert_ptr_equal(context, &rig);
	assert_ptr_equal(gpu, rig.gpu);
	seen_set(&rig.verdict, status, detail);
}

static void on_up(void *context, struct kvc_gpu *gpu)
{
	assert_ptr_equal(context, &rig);
	assert_true(kvc_gpu_is_up(gpu));
	rig.ups++;
}

static void on_down(void *context, struct kvc_gpu *gpu)
{
	assert_ptr_equal(context, &rig);
	assert_false(kvc_gpu_is_up(gpu));
	rig.downs++;
}

kvc_status gpu_rig_start(const char *script)
{
	const struct kvc_gpu_events events = {on_up, on_down, &rig};

	gpu_rig_script(script);
	assert_int_equal(kvc_gpu_open(&rig.options, gpu_rig_verdict, &rig, &rig.gpu), KVC_OK);
	kvc_gpu_events_set(rig.gpu, &events);
	assert_false(rig.verdict.seen);
	gpu_rig_wait_seen(&rig.verdict);
	return rig.verdict.status;
}

static void on_closed(void *context)
{
	assert_ptr_equal(context, &rig);
	rig.closed = true;
}

void gpu_rig_stop(void)
{
	if (rig.pool)
		kvc_pool_close(rig.pool, NULL, NULL);
	if (rig.region)
		kvc_device_region_close(rig.region, NULL, NULL);
	kvc_gpu_close(rig.gpu, on_closed, &rig);
	assert_false(rig.closed);
	gpu_rig_wait(&rig.closed);
}

/* ---- memory -------------------------------------------------------------------------------- */

void gpu_rig_region_opened(void *context, struct kvc_device_region *region, kvc_status status,
                           const char *detail)
{
	(void)region;
	seen_set(context, status, detail);
}

void gpu_rig_region_open(struct gpu_rig_seen *seen, struct kvc_device_region **region)
{
	const struct kvc_gpu_import import = {.bytes = RIG_REGION_BYTES, .handle = "name"};

	memset(seen, 0, sizeof *seen);
	assert_int_equal(kvc_device_region_open(rig.gpu, &import, NULL, gpu_rig_region_opened, seen, region),
	                 KVC_OK);
	assert_false(seen->seen);
	assert_int_equal(kvc_device_region_bytes(*region), RIG_REGION_BYTES);
}

static void pool_opened(void *context, struct kvc_pool *pool, kvc_status status, const char *detail)
{
	(void)pool;
	seen_set(context, status, detail);
}

void gpu_rig_pool_open(struct gpu_rig_seen *seen, struct kvc_device_region *region, struct kvc_pool **pool)
{
	const struct kvc_pool_base keys[2] = {{region, 0}, {region, 4096}};
	const struct kvc_pool_base values[2] = {{region, 8192}, {region, 12288}};
	const struct kvc_pool_options options = {
	        .geometry = {.layers = 2,
	                     .page_tokens = 16,
	                     .pages = 8,
	                     .heads = 2,
	                     .key_dim = 64,
	                     .value_dim = 64,
	                     .dtype = KVC_DTYPE_BF16,
	                     .key = {16384, 256, 128},
	                     .value = {16384, 256, 128}},
	        .key = keys,
	        .value = values,
	};

	memset(seen, 0, sizeof *seen);
	assert_int_equal(kvc_pool_open(rig.gpu, &options, pool_opened, seen, pool), KVC_OK);
	assert_false(seen->seen);
	assert_ptr_equal(kvc_pool_gpu(*pool), rig.gpu);
}

void gpu_rig_pool(void)
{
	gpu_rig_region_open(&rig.region_open, &rig.region);
	gpu_rig_wait_seen(&rig.region_open);
	assert_int_equal(rig.region_open.status, KVC_OK);
	gpu_rig_pool_open(&rig.pool_open, rig.region, &rig.pool);
	gpu_rig_wait_seen(&rig.pool_open);
	assert_int_equal(rig.pool_open.status, KVC_OK);
}

/* ---- waiting ------------------------------------------------------------------------------- */

bool gpu_rig_never(void *context)
{
	(void)context;
	return false;
}

void gpu_rig_wait(const bool *flag)
{
	assert_true(kvc_test_run_until_set(rig.loop, flag));
}

void gpu_rig_wait_seen(const struct gpu_rig_seen *seen)
{
	gpu_rig_wait(&seen->seen);
}

struct wanted {
	const uint32_t *count;
	uint32_t least;
	const char *stat;
	int64_t value;
};

static bool counted(void *context)
{
	const struct wanted *wanted = context;

	return *wanted->count >= wanted->least;
}

void gpu_rig_wait_ups(uint32_t ups)
{
	struct wanted wanted = {.count = &rig.ups, .least = ups};

	assert_true(kvc_test_run_until(rig.loop, counted, &wanted, WAIT_MS));
}

void gpu_rig_wait_downs(uint32_t downs)
{
	struct wanted wanted = {.count = &rig.downs, .least = downs};

	assert_true(kvc_test_run_until(rig.loop, counted, &wanted, WAIT_MS));
}

int64_t gpu_rig_stat(const char *name)
{
	return kvc_stat_get(kvc_stats_cell(rig.stats, name));
}

static bool stat_is(void *context)
{
	const struct wanted *wanted = context;

	return gpu_rig_stat(wanted->stat) == wanted->value;
}

void gpu_rig_wait_stat(const char *name, int64_t value)
{
	struct wanted wanted = {.stat = name, .value = value};

	if (!kvc_test_run_until(rig.loop, stat_is, &wanted, WAIT_MS))
		print_error("%s is %lld\n", name, (long long)gpu_rig_stat(name));
	assert_int_equal(gpu_rig_stat(name), value);
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void job_done(struct kvc_engine_job *job)
{
	struct gpu_rig_job *ended = kvc_container_of(job, struct gpu_rig_job, job);

	assert_false(ended->done);
	ended->done = true;
	ended->before_down = !rig.downs;
}

void gpu_rig_submit(uint32_t n, enum kvc_engine_op op)
{
	struct gpu_rig_job *job = &rig.jobs[n];

	*job = (struct gpu_rig_job){.pages = {n, 1, 2, 3}};
	job->job = (struct kvc_engine_job){
	        .op = op,
	        .plan = &rig.plan,
	        .image = rig.images + (uint64_t)n * RIG_SLOT_BYTES,
	        .image_bytes = rig.plan.image_bytes,
	        .vram = op == KVC_ENGINE_LOWER ? 0 : KVC_VRAM_NONE,
	        .life = kvc_gpu_life(rig.gpu),
	        .done = job_done,
	};
	if (op != KVC_ENGINE_LOWER)
		job->job.device = (struct kvc_device_view){rig.pool, job->pages, 4, 5, {0}};
	kvc_engine_submit(kvc_gpu_engine(rig.gpu), &job->job);
	assert_false(job->done);
}

kvc_status gpu_rig_finish(uint32_t n)
{
	gpu_rig_wait(&rig.jobs[n].done);
	return rig.jobs[n].job.status;
}
