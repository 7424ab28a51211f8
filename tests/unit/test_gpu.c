/* The core's side of a GPU engine, against a process that does as each test says
 * (tests/fake/engine_script.c): life, jobs, regions and pools, and every way in which an engine fails. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "kernels/kern.h"
#include "tests/support/gpu_rig.h"
#include "tests/support/loop_run.h"

static int setup(void **state)
{
	(void)state;
	gpu_rig_open();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	gpu_rig_close();
	return 0;
}

/* ---- start --------------------------------------------------------------------------------- */

static void test_start_and_stop(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("uuid=7"), KVC_OK);
	assert_true(kvc_gpu_is_up(rig.gpu));
	assert_int_equal(rig.ups, 1);
	assert_int_equal(gpu_rig_stat("gpu.2.up"), 1);
	assert_int_equal(gpu_rig_stat("gpu.2.device_bytes"), 1000);
	assert_int_equal(kvc_gpu_uuid(rig.gpu)[0], 7);
	assert_string_equal(kvc_gpu_name(rig.gpu), "Scripted ? GPU");
	assert_int_equal(kvc_gpu_vram_bytes(rig.gpu), RIG_VRAM_BYTES);
	gpu_rig_stop();
	assert_int_equal(gpu_rig_stat("gpu.2.up"), 0);
	assert_int_equal(rig.downs, 0);
}

/* It failed the first time: said once, with the cause, and never tried again. */
static void start_fails(const char *script, kvc_status status, const char *detail)
{
	gpu_rig_open();
	rig.options.ready_ms = strstr(script, "never") ? 50 : 0;
	print_message("%s\n", script);
	assert_int_equal(gpu_rig_start(script), status);
	if (!strstr(rig.verdict.detail, detail))
		print_error("'%s' lacks '%s'\n", rig.verdict.detail, detail);
	assert_non_null(strstr(rig.verdict.detail, detail));
	assert_false(kvc_gpu_is_up(rig.gpu));
	assert_false(kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 150));
	assert_int_equal(rig.ups + rig.downs, 0);
	gpu_rig_stop();
	gpu_rig_close();
}

static void test_start_fails(void **state)
{
	(void)state;
	start_fails("exit", KVC_ENGINE_LOST, "the process ended (exit status 3)");
	start_fails("refuse", KVC_UNAVAILABLE, "no such ? GPU");
	start_fails("never-ready", KVC_DEADLINE, "did not become ready within 50 ms");
	start_fails("wire", KVC_VERSION, "of another build: it speaks version 2, this daemon 1");
	start_fails("rubbish", KVC_ENGINE_LOST, "it sent a message of type 0, 7 bytes");
	start_fails("early", KVC_ENGINE_LOST, "at a wrong time");
}

static void test_no_program(void **state)
{
	(void)state;
	rig.options.program = "/does/not/exist";
	assert_int_equal(gpu_rig_start(""), KVC_IO);
	assert_string_equal(rig.verdict.detail, "cannot start /does/not/exist: No such file or directory");
	gpu_rig_stop();
}

static void test_nothing_is_inherited(void **state)
{
	(void)state;
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC); /* of our own parent */
	assert_int_equal(gpu_rig_start("inherited"), KVC_OK);
	gpu_rig_stop();
}

static void test_open_without_memory(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_gpu_open(&rig.options, gpu_rig_verdict, NULL, &rig.gpu), KVC_NO_MEMORY);
		kvc_alloc_fail_at(0, 0);
	}
}

/* The pair's watch, then the child. */
static void test_start_without_memory(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		gpu_rig_open();
		gpu_rig_script("");
		assert_int_equal(kvc_gpu_open(&rig.options, gpu_rig_verdict, &rig, &rig.gpu), KVC_OK);
		kvc_alloc_fail_at(n, 0);
		gpu_rig_wait_seen(&rig.verdict);
		kvc_alloc_fail_at(0, 0);
		assert_int_equal(rig.verdict.status, KVC_NO_MEMORY);
		gpu_rig_stop();
		gpu_rig_close();
	}
}

/* One that does not end when it is let go is killed. */
static void test_stop_of_one_that_lingers(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("lingers"), KVC_OK);
	gpu_rig_stop();
}

/* ---- jobs ---------------------------------------------------------------------------------- */

static void assert_asked(uint32_t n, enum kvc_engine_op op)
{
	uint32_t words[8];

	memcpy(words, rig.images + (uint64_t)n * RIG_SLOT_BYTES, sizeof words);
	assert_int_equal(words[0], op);
	assert_int_not_equal(words[1], 0);
	assert_int_equal(words[2], 5);
	assert_int_equal(words[3], 4);
	assert_int_equal(words[4], n);
	assert_int_equal(words[7], 3);
}

static void test_one_job_of_each_kind(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	gpu_rig_pool();
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	assert_int_equal(gpu_rig_finish(0), KVC_OK);
	assert_int_equal(rig.jobs[0].job.length, rig.plan.image_bytes);
	assert_asked(0, KVC_ENGINE_ENCODE);
	gpu_rig_submit(7, KVC_ENGINE_DECODE);
	assert_int_equal(gpu_rig_finish(7), KVC_OK);
	assert_asked(7, KVC_ENGINE_DECODE);
	gpu_rig_submit(1, KVC_ENGINE_LOWER);
	assert_int_equal(gpu_rig_finish(1), KVC_OK);
	gpu_rig_submit(0, KVC_ENGINE_DECODE); /* the same object again */
	assert_int_equal(gpu_rig_finish(0), KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs"), 4);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_sent"), 0);
	gpu_rig_stop();
}

/* What one turn of the loop submits travels together: one packet for each operation and pool, and as many as
 * it takes where a packet is full. */
static void test_jobs_of_a_turn_travel_together(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	gpu_rig_pool();
	for (uint32_t i = 0; i < 256; i++)
		gpu_rig_submit(i, i % 2 ? KVC_ENGINE_ENCODE : KVC_ENGINE_DECODE);
	for (uint32_t i = 0; i < 256; i++)
		assert_int_equal(gpu_rig_finish(i), KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.blocks"), 256);
	assert_int_equal(gpu_rig_stat("gpu.2.launches"), 2);
	for (uint32_t i = 0; i < 256; i++)
		assert_asked(i, i % 2 ? KVC_ENGINE_ENCODE : KVC_ENGINE_DECODE);
	for (uint32_t i = 0; i < RIG_JOBS; i++) /* 56 bytes each: 1161 to a packet */
		gpu_rig_submit(i, KVC_ENGINE_ENCODE);
	for (uint32_t i = 0; i < RIG_JOBS; i++)
		assert_int_equal(gpu_rig_finish(i), KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.launches"), 3);
	gpu_rig_stop();
}

/* Blocks of many pages fill packets. */
static void test_full_packets(void **state)
{
	static uint32_t pages[KVC_GPU_PAGES_MAX];

	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	gpu_rig_pool();
	for (uint32_t i = 0; i < 10; i++) {
		gpu_rig_submit(i, KVC_ENGINE_ENCODE);
		rig.jobs[i].job.device.pages = pages;
		rig.jobs[i].job.device.page_count = KVC_GPU_PAGES_MAX;
	}
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(gpu_rig_finish(i), KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.launches"), 4); /* 3 fit a packet */
	gpu_rig_stop();
}

/* An engine that is slow to read: the rest waits here, can be cancelled, and goes out in time. */
static void test_socket_is_full(void **state)
{
	static uint32_t pages[KVC_GPU_PAGES_MAX];
	uint32_t cancelled = 0;

	(void)state;
	assert_int_equal(gpu_rig_start("slow=3"), KVC_OK);
	gpu_rig_pool();
	for (uint32_t i = 0; i < RIG_JOBS; i++) {
		gpu_rig_submit(i, KVC_ENGINE_ENCODE);
		rig.jobs[i].job.device.pages = pages;
		rig.jobs[i].job.device.page_count = KVC_GPU_PAGES_MAX;
	}
	gpu_rig_wait(&rig.jobs[0].done);
	assert_true(gpu_rig_stat("gpu.2.jobs_queued") > 0);
	for (uint32_t i = RIG_JOBS / 2; i < RIG_JOBS; i++)
		kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[i].job);
	for (uint32_t i = 0; i < RIG_JOBS; i++) {
		kvc_status status = gpu_rig_finish(i);

		assert_true(status == KVC_OK || (status == KVC_CANCELLED && i >= RIG_JOBS / 2));
		cancelled += status == KVC_CANCELLED;
	}
	print_message("%u cancelled\n", cancelled);
	assert_true(cancelled > 0);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_queued"), 0);
	gpu_rig_stop();
}

static void test_cancel(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	gpu_rig_pool();
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[0].job);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[0].job);
	assert_false(rig.jobs[0].done);
	assert_int_equal(gpu_rig_finish(0), KVC_CANCELLED);
	gpu_rig_stop();
}

/* The engine has begun, and ends it as if nobody had asked. */
static void test_cancel_too_late(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("begun"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_submit(1, KVC_ENGINE_ENCODE);
	gpu_rig_wait_stat("gpu.2.jobs_sent", 1);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[1].job);
	assert_int_equal(gpu_rig_finish(1), KVC_OK);
	gpu_rig_stop();
}

/* Sent already, but the worker's mark has not come: the engine is told, once for each. */
static void test_cancel_what_was_sent(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("held"), KVC_OK);
	gpu_rig_pool();
	for (uint32_t i = 0; i < 3; i++)
		gpu_rig_submit(i, KVC_ENGINE_ENCODE);
	gpu_rig_wait_stat("gpu.2.jobs_sent", 3);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[2].job);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[2].job);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[0].job);
	assert_int_equal(gpu_rig_finish(2), KVC_CANCELLED);
	assert_int_equal(gpu_rig_finish(0), KVC_CANCELLED);
	assert_false(rig.jobs[1].done);
	kvc_engine_cancel(kvc_gpu_engine(rig.gpu), &rig.jobs[1].job);
	assert_int_equal(gpu_rig_finish(1), KVC_CANCELLED);
	gpu_rig_stop();
}

static void test_needs_more_room(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("no-space"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	assert_int_equal(gpu_rig_finish(0), KVC_NO_SPACE);
	assert_int_equal(rig.jobs[0].job.length, rig.plan.image_bytes + 64);
	gpu_rig_stop();
}

/* ---- the end of an engine ------------------------------------------------------------------ */

/* It ends with `fewest` jobs lost at least; `down` comes before any of them ends, and after those that were
 * answered. Then it is back, knows region and pool, and works. */
static void loses_jobs(const char *script, uint32_t jobs, uint32_t fewest)
{
	uint32_t lost = 0;

	gpu_rig_open();
	rig.options.hang_ms = strstr(script, "hang") || strstr(script, "stuck") ? 400 : 60000;
	print_message("%s\n", script);
	assert_int_equal(gpu_rig_start(script), KVC_OK);
	gpu_rig_pool();
	gpu_rig_script("");
	for (uint32_t i = 0; i < jobs; i++)
		gpu_rig_submit(i, KVC_ENGINE_ENCODE);
	for (uint32_t i = 0; i < jobs; i++) {
		kvc_status status = gpu_rig_finish(i);

		assert_true(status == KVC_OK || status == KVC_ENGINE_LOST);
		assert_int_equal(status == KVC_OK, rig.jobs[i].before_down);
		lost += status == KVC_ENGINE_LOST;
	}
	assert_true(lost >= fewest);
	gpu_rig_wait_downs(1);
	assert_int_equal(rig.downs, 1);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_lost"), lost);
	gpu_rig_wait_ups(2);
	assert_int_equal(gpu_rig_stat("gpu.2.restarts"), 1);
	assert_int_equal(gpu_rig_stat("gpu.2.pinned_bytes"), 1); /* regions, as the script counts */
	gpu_rig_submit(0, KVC_ENGINE_DECODE);
	assert_int_equal(gpu_rig_finish(0), KVC_OK);
	gpu_rig_stop();
	gpu_rig_close();
}

static void test_death(void **state)
{
	(void)state;
	loses_jobs("die-after=1", 1, 1);
	loses_jobs("die-after=100", 300, 1);
	loses_jobs("abort-after=3", 10, 1);
	loses_jobs("refuse-after=3", 10, 1);
}

static void test_hang(void **state)
{
	(void)state;
	loses_jobs("hang-after=1", 20, 1);
	loses_jobs("stuck", 1, 1);
}

static void test_hang_is_counted(void **state)
{
	(void)state;
	rig.options.hang_ms = 40;
	assert_int_equal(gpu_rig_start("import-silent"), KVC_OK);
	gpu_rig_region_open(&rig.region_open, &rig.region);
	gpu_rig_script("");
	gpu_rig_wait_seen(&rig.region_open);
	assert_int_equal(rig.region_open.status, KVC_ENGINE_LOST);
	assert_int_equal(gpu_rig_stat("gpu.2.hangs"), 1);
	rig.region = NULL; /* gone with it */
	gpu_rig_wait_ups(2);
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	gpu_rig_stop();
}

/* One job is never answered while others are. */
static void test_one_job_is_stuck(void **state)
{
	(void)state;
	rig.options.hang_ms = 30;
	assert_int_equal(gpu_rig_start("stuck"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_script("");
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	while (!rig.jobs[0].done) {
		gpu_rig_submit(1, KVC_ENGINE_ENCODE);
		gpu_rig_finish(1);
	}
	assert_int_equal(rig.jobs[0].job.status, KVC_ENGINE_LOST);
	assert_int_equal(gpu_rig_stat("gpu.2.hangs"), 1);
	gpu_rig_stop();
}

/* Likewise a request: whoever waits for its end would wait for ever. */
static void test_one_request_is_stuck(void **state)
{
	struct gpu_rig_seen stuck;
	struct kvc_device_region *region;

	(void)state;
	rig.options.hang_ms = 30;
	assert_int_equal(gpu_rig_start("import-silent"), KVC_OK);
	gpu_rig_region_open(&stuck, &region);
	while (!stuck.seen) {
		gpu_rig_submit(1, KVC_ENGINE_LOWER);
		gpu_rig_finish(1);
	}
	assert_int_equal(stuck.status, KVC_ENGINE_LOST);
	assert_int_equal(gpu_rig_stat("gpu.2.hangs"), 1);
	gpu_rig_stop();
}

/* Answers that cannot be: the engine is out of its mind. */
static void test_nonsense(void **state)
{
	static const char *const scripts[] = {"lost", "unknown", "long", "short", "status", "count", "big"};

	(void)state;
	for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
		loses_jobs(scripts[i], 1, 1);
	loses_jobs("twice", 1, 0);
}

static void test_submit_while_down(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("die-after=1"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_script("");
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	gpu_rig_wait_downs(1);
	assert_int_equal(gpu_rig_finish(0), KVC_ENGINE_LOST);
	gpu_rig_submit(1, KVC_ENGINE_ENCODE);
	assert_int_equal(gpu_rig_finish(1), KVC_ENGINE_LOST);
	gpu_rig_stop(); /* also while it is down */
}

/* A job that was made in one life and comes in the next names what is not there any more. */
static void test_vram_of_an_earlier_life(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("die-after=1"), KVC_OK);
	gpu_rig_script("");
	gpu_rig_submit(0, KVC_ENGINE_LOWER);
	assert_int_equal(gpu_rig_finish(0), KVC_ENGINE_LOST);
	gpu_rig_wait_ups(2);
	rig.jobs[0].done = false;
	kvc_engine_submit(kvc_gpu_engine(rig.gpu), &rig.jobs[0].job);
	assert_int_equal(gpu_rig_finish(0), KVC_ENGINE_LOST);
	gpu_rig_submit(0, KVC_ENGINE_LOWER);
	assert_int_equal(gpu_rig_finish(0), KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.jobs_lost"), 2);
	gpu_rig_stop();
}

/* Dead at once each time: it is tried again at growing distances, not in a storm. */
static void test_backoff(void **state)
{
	uint64_t begun = kvc_loop_now_ms(rig.loop);

	(void)state;
	assert_int_equal(gpu_rig_start("idle-death=1"), KVC_OK);
	gpu_rig_wait_downs(4);
	assert_true(kvc_loop_now_ms(rig.loop) - begun >= 100 + 200 + 400);
	gpu_rig_script("");
	gpu_rig_wait_ups(5);
	gpu_rig_stop();
}

/* After a restart that fails, it is tried again. */
static void test_restart_fails(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("idle-death=1,uuid=3"), KVC_OK);
	gpu_rig_script("refuse");
	gpu_rig_wait_downs(1);
	assert_false(kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 500));
	assert_int_equal(rig.ups, 1);
	gpu_rig_script("uuid=3");
	gpu_rig_wait_ups(2);
	assert_int_equal(rig.downs, 1);
	gpu_rig_stop();
}

/* Another device under the same number is none of ours. */
static void test_another_device_after_restart(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("idle-death=1,uuid=3"), KVC_OK);
	gpu_rig_script("uuid=4");
	gpu_rig_wait_downs(1);
	assert_false(kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 500));
	assert_int_equal(rig.ups, 1);
	gpu_rig_script("uuid=3");
	gpu_rig_wait_ups(2);
	gpu_rig_stop();
}

/* What an earlier message left in the buffer is not taken for the rest of a short one. */
static void test_half_a_ready_is_none(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("idle-death=1"), KVC_OK);
	gpu_rig_script("short-ready");
	gpu_rig_wait_downs(1);
	assert_false(kvc_test_run_until(rig.loop, gpu_rig_never, NULL, 300));
	assert_int_equal(rig.ups, 1);
	gpu_rig_script("");
	gpu_rig_wait_ups(2);
	gpu_rig_stop();
}

/* It says that it has encoded or lowered, and has not: the image that stood there before is not the block's.
 */
static void test_what_was_not_written_is_no_image(void **state)
{
	static const enum kvc_engine_op ops[] = {KVC_ENGINE_ENCODE, KVC_ENGINE_LOWER};
	struct kvc_image image;
	uint64_t length;

	(void)state;
	assert_int_equal(gpu_rig_start("idles"), KVC_OK);
	gpu_rig_pool();
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(kvc_kern_image_seal(&rig.plan, rig.images, rig.plan.image_bytes, &length),
		                 KVC_OK);
		assert_int_equal(kvc_image_open(rig.images, length, 0, &image), KVC_OK);
		gpu_rig_submit(0, ops[i]);
		assert_int_equal(gpu_rig_finish(0), KVC_OK);
		assert_int_not_equal(kvc_image_open(rig.images, length, 0, &image), KVC_OK);
	}
	gpu_rig_stop();
}

/* ---- regions and pools --------------------------------------------------------------------- */

static void test_chunks_travel(void **state)
{
	struct kvc_gpu_import import = {.bytes = 3 * 4096, .chunks = 2, .chunk_bytes = {4096, 8192}};
	int fds[2] = {memfd_create("a", MFD_CLOEXEC), memfd_create("b", MFD_CLOEXEC)};

	(void)state;
	assert_int_equal(ftruncate(fds[0], 4096), 0);
	assert_int_equal(ftruncate(fds[1], 8192), 0);
	assert_int_equal(gpu_rig_start("die-after=1"), KVC_OK);
	assert_int_equal(kvc_device_region_open(rig.gpu, &import, fds, gpu_rig_region_opened,
	                                        &rig.region_open, &rig.region),
	                 KVC_OK);
	close(fds[0]); /* ours are of no more use to it */
	close(fds[1]);
	gpu_rig_wait_seen(&rig.region_open);
	assert_int_equal(rig.region_open.status, KVC_OK);
	gpu_rig_script("");
	gpu_rig_submit(0, KVC_ENGINE_LOWER);
	gpu_rig_wait_ups(2); /* and again after a restart */
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 1);
	gpu_rig_wait_stat("gpu.2.pinned_bytes", 1);
	gpu_rig_stop();
}

static void test_descriptors_are_short(void **state)
{
	struct kvc_gpu_import import = {.bytes = 4096, .chunks = 2, .chunk_bytes = {4096, 4096}};
	const int fds[2] = {0, -1};

	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	assert_int_not_equal(kvc_device_region_open(rig.gpu, &import, fds, gpu_rig_region_opened,
	                                            &rig.region_open, &rig.region),
	                     KVC_OK);
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	gpu_rig_stop();
}

static void test_import_refused(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("import-fails"), KVC_OK);
	gpu_rig_region_open(&rig.region_open, &rig.region);
	gpu_rig_wait_seen(&rig.region_open);
	rig.region = NULL;
	assert_int_equal(rig.region_open.status, KVC_INVALID);
	assert_string_equal(rig.region_open.detail, "larger than the allocation");
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	gpu_rig_stop();
}

static void test_pool_refused(void **state)
{
	(void)state;
	assert_int_equal(gpu_rig_start("pool-fails"), KVC_OK);
	gpu_rig_region_open(&rig.region_open, &rig.region);
	gpu_rig_wait_seen(&rig.region_open);
	gpu_rig_pool_open(&rig.pool_open, rig.region, &rig.pool);
	gpu_rig_wait_seen(&rig.pool_open);
	rig.pool = NULL;
	assert_int_equal(rig.pool_open.status, KVC_SHAPE);
	gpu_rig_stop(); /* the region can be closed: nothing of the pool holds it */
}

/* Answers to what was never asked. */
static void test_nonsense_about_memory(void **state)
{
	static const char *const scripts[] = {"reply-unknown", "reply-status"};

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		gpu_rig_open();
		assert_int_equal(gpu_rig_start(scripts[i]), KVC_OK);
		gpu_rig_region_open(&rig.region_open, &rig.region);
		gpu_rig_wait_seen(&rig.region_open);
		rig.region = NULL;
		assert_int_equal(rig.region_open.status, KVC_ENGINE_LOST);
		assert_int_equal(rig.downs, 1);
		gpu_rig_stop();
		gpu_rig_close();
	}
}

/* The worker is gone when the engine comes back: its pool is lost, the engine serves others. */
static void test_region_is_lost_over_a_restart(void **state)
{
	struct gpu_rig_seen again;
	struct kvc_pool *pool;

	(void)state;
	assert_int_equal(gpu_rig_start("die-after=1"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_script("import-fails");
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	assert_int_equal(gpu_rig_finish(0), KVC_ENGINE_LOST);
	gpu_rig_wait_ups(2);
	gpu_rig_submit(1, KVC_ENGINE_ENCODE);
	assert_int_equal(gpu_rig_finish(1), KVC_ENGINE_LOST);
	gpu_rig_pool_open(&again, rig.region, &pool);
	gpu_rig_wait_seen(&again);
	assert_int_equal(again.status, KVC_ENGINE_LOST);
	gpu_rig_submit(2, KVC_ENGINE_LOWER);
	assert_int_equal(gpu_rig_finish(2), KVC_OK);
	gpu_rig_stop();
}

static void flag_set(void *context)
{
	*(bool *)context = true;
}

static void test_close_before_open_has_ended(void **state)
{
	struct gpu_rig_seen opened;
	struct kvc_device_region *region;
	bool closed = false;

	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	gpu_rig_region_open(&opened, &region);
	kvc_device_region_close(region, flag_set, &closed);
	assert_false(closed);
	gpu_rig_wait(&closed);
	assert_true(opened.seen);
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	gpu_rig_stop();
}

/* What an engine does not unmap is unmapped with it: the owner hears of it then, and not before. */
static void test_close_is_refused(void **state)
{
	bool closed = false;

	(void)state;
	assert_int_equal(gpu_rig_start("unimport-fails"), KVC_OK);
	gpu_rig_region_open(&rig.region_open, &rig.region);
	gpu_rig_wait_seen(&rig.region_open);
	gpu_rig_script("");
	kvc_device_region_close(rig.region, flag_set, &closed);
	rig.region = NULL;
	gpu_rig_wait(&closed);
	assert_int_equal(rig.downs, 1);
	gpu_rig_wait_ups(2);
	assert_int_equal(gpu_rig_stat("gpu.2.regions"), 0);
	gpu_rig_stop();
}

/* Without an engine nothing is mapped: closed at once, and not opened. */
static void test_memory_while_down(void **state)
{
	struct gpu_rig_seen opened;
	struct kvc_device_region *region;
	bool pool_closed = false, region_closed = false;

	(void)state;
	assert_int_equal(gpu_rig_start("die-after=1"), KVC_OK);
	gpu_rig_pool();
	gpu_rig_submit(0, KVC_ENGINE_ENCODE);
	gpu_rig_wait_downs(1);
	assert_int_equal(gpu_rig_finish(0), KVC_ENGINE_LOST);
	gpu_rig_region_open(&opened, &region);
	kvc_pool_close(rig.pool, flag_set, &pool_closed);
	kvc_device_region_close(rig.region, flag_set, &region_closed);
	rig.pool = NULL;
	rig.region = NULL;
	assert_false(pool_closed || region_closed);
	kvc_loop_turn(rig.loop);
	assert_true(pool_closed && region_closed && opened.seen);
	assert_int_equal(opened.status, KVC_ENGINE_LOST);
	gpu_rig_stop();
}

static void test_memory_without_memory(void **state)
{
	const struct kvc_gpu_import import = {.bytes = 4096};

	(void)state;
	assert_int_equal(gpu_rig_start(""), KVC_OK);
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_device_region_open(rig.gpu, &import, NULL, gpu_rig_region_opened,
	                                        &rig.region_open, &rig.region),
	                 KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	rig.region = NULL;
	gpu_rig_stop();
}

#define GPU_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        GPU_TEST(test_start_and_stop),
	        cmocka_unit_test(test_start_fails),
	        GPU_TEST(test_no_program),
	        GPU_TEST(test_nothing_is_inherited),
	        GPU_TEST(test_open_without_memory),
	        cmocka_unit_test(test_start_without_memory),
	        GPU_TEST(test_stop_of_one_that_lingers),
	        GPU_TEST(test_one_job_of_each_kind),
	        GPU_TEST(test_jobs_of_a_turn_travel_together),
	        GPU_TEST(test_full_packets),
	        GPU_TEST(test_socket_is_full),
	        GPU_TEST(test_cancel),
	        GPU_TEST(test_cancel_too_late),
	        GPU_TEST(test_cancel_what_was_sent),
	        GPU_TEST(test_needs_more_room),
	        cmocka_unit_test(test_death),
	        cmocka_unit_test(test_hang),
	        GPU_TEST(test_hang_is_counted),
	        GPU_TEST(test_one_job_is_stuck),
	        GPU_TEST(test_one_request_is_stuck),
	        cmocka_unit_test(test_nonsense),
	        GPU_TEST(test_submit_while_down),
	        GPU_TEST(test_vram_of_an_earlier_life),
	        GPU_TEST(test_backoff),
	        GPU_TEST(test_restart_fails),
	        GPU_TEST(test_another_device_after_restart),
	        GPU_TEST(test_half_a_ready_is_none),
	        GPU_TEST(test_what_was_not_written_is_no_image),
	        GPU_TEST(test_chunks_travel),
	        GPU_TEST(test_descriptors_are_short),
	        GPU_TEST(test_import_refused),
	        GPU_TEST(test_pool_refused),
	        cmocka_unit_test(test_nonsense_about_memory),
	        GPU_TEST(test_region_is_lost_over_a_restart),
	        GPU_TEST(test_close_before_open_has_ended),
	        GPU_TEST(test_close_is_refused),
	        GPU_TEST(test_memory_while_down),
	        GPU_TEST(test_memory_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
