/* Random lives of regions, pools and jobs of a GPU engine whose process dies at any message, against the
 * scripted engine, which keeps account of what it is told (tests/fake/engine_script.c). KVC_TEST_SEED replays
 * a history. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/fake/engine_script.h"
#include "tests/support/gpu_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"

enum { REGIONS = 6, POOLS = 8, JOBS = 24, STEPS_MAX = 1000000, DEATHS = 6 };

/* A region, or a pool with the regions that it lies in. */
struct object {
	bool used;
	bool open;   /* opened well */
	bool closed; /* by us; gone when that is answered */
	bool opened; /* the open has ended */
	uint32_t users;
	struct object *in[2];
	struct kvc_device_region *region;
	struct kvc_pool *pool;
};

struct work {
	struct kvc_engine_job job;
	uint32_t page;
	struct object *pool; /* NULL: none, or a lower */
	bool busy;
};

struct history {
	struct prng prng;
	struct object regions[REGIONS];
	struct object pools[POOLS];
	struct work works[JOBS];
	uint32_t ended[KVC_STATUS_COUNT]; /* jobs */
	uint32_t opened[2];               /* opens that ended: badly, well */
};

static struct history history;

/* ---- ends ---------------------------------------------------------------------------------- */

static void object_forget(struct object *object)
{
	for (unsigned i = 0; i < 2; i++)
		if (object->in[i])
			object->in[i]->users--;
	memset(object, 0, sizeof *object);
}

static void object_opened(struct object *object, kvc_status status)
{
	assert_true(object->used && !object->opened);
	history.opened[status == KVC_OK]++;
	object->opened = true;
	object->open = status == KVC_OK;
	if (status != KVC_OK && !object->closed)
		object_forget(object);
}

static void region_opened(void *context, struct kvc_device_region *region, kvc_status status,
                          const char *detail)
{
	struct object *object = context;

	(void)detail;
	assert_ptr_equal(region, object->region);
	object_opened(object, status);
}

static void pool_opened(void *context, struct kvc_pool *pool, kvc_status status, const char *detail)
{
	struct object *object = context;

	(void)detail;
	assert_ptr_equal(pool, object->pool);
	object_opened(object, status);
}

static void object_closed(void *context)
{
	struct object *object = context;

	assert_true(object->used && object->closed && object->opened);
	memset(object, 0, sizeof *object);
}

static void work_done(struct kvc_engine_job *job)
{
	struct work *work = kvc_container_of(job, struct work, job);

	assert_true(work->busy);
	history.ended[job->status]++;
	work->busy = false;
	if (work->pool)
		work->pool->users--;
	work->pool = NULL;
}

/* ---- steps --------------------------------------------------------------------------------- */

static struct object *draw(struct object *objects, uint32_t count, bool used)
{
	struct object *object = &objects[prng_below(&history.prng, count)];

	return object->used == used ? object : NULL;
}

static void region_open(void)
{
	const struct kvc_gpu_import import = {.bytes = RIG_REGION_BYTES, .handle = "name"};
	struct object *region = draw(history.regions, REGIONS, false);

	if (!region)
		return;
	region->used = true;
	assert_int_equal(
	        kvc_device_region_open(rig.gpu, &import, NULL, region_opened, region, &region->region),
	        KVC_OK);
}

static void pool_open(void)
{
	struct object *pool = draw(history.pools, POOLS, false);
	struct object *in[2] = {draw(history.regions, REGIONS, true), draw(history.regions, REGIONS, true)};
	struct kvc_pool_base keys[2], values[2];
	struct kvc_pool_options options = {
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

	if (!pool || !in[0] || !in[1] || !in[0]->open || !in[1]->open || in[0]->closed || in[1]->closed)
		return;
	pool->used = true;
	for (unsigned i = 0; i < 2; i++) {
		keys[i] = values[i] = (struct kvc_pool_base){in[i]->region, 4096 * i};
		pool->in[i] = in[i];
		in[i]->users++;
	}
	assert_int_equal(kvc_pool_open(rig.gpu, &options, pool_opened, pool, &pool->pool), KVC_OK);
}

/* As with a session: what was closed before its open has ended is only closed after that. */
static void region_close(struct object *region)
{
	if (!region || region->closed || region->users)
		return;
	region->closed = true;
	kvc_device_region_close(region->region, object_closed, region);
}

static void pool_close(struct object *pool)
{
	if (!pool || pool->closed || pool->users)
		return;
	pool->closed = true;
	for (unsigned i = 0; i < 2; i++)
		pool->in[i]->users--;
	kvc_pool_close(pool->pool, object_closed, pool);
}

static void work_submit(uint32_t n)
{
	struct work *work = &history.works[n];
	struct object *pool = draw(history.pools, POOLS, true);
	bool lower = prng_chance(&history.prng, 4);

	if (work->busy || (!lower && (!pool || !pool->open || pool->closed)))
		return;
	*work = (struct work){.busy = true, .pool = lower ? NULL : pool};
	work->job = (struct kvc_engine_job){
	        .op = lower ? KVC_ENGINE_LOWER : KVC_ENGINE_ENCODE + prng_below(&history.prng, 2),
	        .plan = &rig.plan,
	        .image = rig.images + (uint64_t)n * RIG_SLOT_BYTES,
	        .image_bytes = rig.plan.image_bytes,
	        .vram = lower ? 0 : KVC_VRAM_NONE,
	        .life = kvc_gpu_life(rig.gpu),
	        .done = work_done,
	};
	if (!lower) {
		work->job.device = (struct kvc_device_view){pool->pool, &work->page, 1, 0, {0}};
		pool->users++;
	}
	kvc_engine_submit(kvc_gpu_engine(rig.gpu), &work->job);
}

static void work_cancel(struct work *work)
{
	if (work->busy)
		kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &work->job);
}

static void complaint_check(void)
{
	const uint8_t *end = kvc_arena_base(rig.arena) + kvc_arena_bytes(rig.arena);
	const char *complaint = (const char *)end - SCRIPT_COMPLAINT_BYTES;

	if (*complaint)
		fail_msg("the engine was told what cannot be: %s", complaint);
}

/* How the next process is to end: some before they are up. */
static void script_draw(void)
{
	char text[128];

	snprintf(text, sizeof text, "strict,import-chance=9,pool-chance=9,die-at=%u",
	         1 + prng_below(&history.prng, prng_chance(&history.prng, 3) ? 20 : 600));
	gpu_rig_script(text);
}

/* It is down, or comes up: some things are tried all the same. */
static bool step_waits(void)
{
	if (kvc_gpu_is_up(rig.gpu) || prng_chance(&history.prng, 4))
		return false;
	script_draw();
	(void)kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 10);
	return true;
}

static void step(void)
{
	if (step_waits())
		return;
	switch (prng_below(&history.prng, 12)) {
	case 0:
		region_open();
		break;
	case 1:
	case 2:
		pool_open();
		break;
	case 3:
		pool_close(draw(history.pools, POOLS, true));
		break;
	case 4:
		region_close(draw(history.regions, REGIONS, true));
		break;
	case 5:
		work_cancel(&history.works[prng_below(&history.prng, JOBS)]);
		break;
	case 6:
		(void)kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 1);
		break;
	default:
		work_submit(prng_below(&history.prng, JOBS));
		break;
	}
}

/* ---- the whole ----------------------------------------------------------------------------- */

static bool all_ended(void *context)
{
	(void)context;
	for (unsigned i = 0; i < JOBS; i++)
		if (history.works[i].busy)
			return false;
	return true;
}

static bool all_gone(void *context)
{
	bool gone = all_ended(context);

	for (unsigned i = 0; i < POOLS; i++)
		gone = gone && !history.pools[i].used;
	for (unsigned i = 0; i < REGIONS; i++)
		gone = gone && !history.regions[i].used;
	return gone;
}

static void history_end(void)
{
	gpu_rig_script("strict");
	assert_true(kvc_test_run_until(rig.loop, all_ended, NULL, 60000));
	for (unsigned i = 0; i < POOLS; i++)
		pool_close(history.pools[i].used ? &history.pools[i] : NULL);
	for (unsigned i = 0; i < REGIONS; i++)
		region_close(history.regions[i].used ? &history.regions[i] : NULL);
	assert_true(kvc_test_run_until(rig.loop, all_gone, NULL, 60000));
	complaint_check();
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	assert_int_equal(gpu_rig_stat("gpu.2.pools"), 0);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_queued"), 0);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_sent"), 0);
}

static void test_engines_that_die(void **state)
{
	(void)state;
	history.prng.state = prng_seed("test_gpu_histories");
	gpu_rig_open();
	assert_int_equal(gpu_rig_start("strict,die-at=40"), KVC_OK);
	for (uint32_t i = 0; rig.downs < DEATHS; i++) {
		assert_true(i < STEPS_MAX);
		step();
		complaint_check();
	}
	assert_true(history.opened[0] && history.opened[1]);
	assert_true(history.ended[KVC_OK] && history.ended[KVC_ENGINE_LOST] && history.ended[KVC_CANCELLED]);
	history_end();
	gpu_rig_stop();
	gpu_rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_engines_that_die),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
