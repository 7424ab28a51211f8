/* The engine dies under load: by SIGKILL, and by an illegal address in one of its kernels.
 *
 * Two threads put and get blocks of pools on the device all the time and compare every byte that they get.
 * After each death blocks that rest in RAM and on disk must still be served, from memory of the host; the
 * engine must be back within 5 s and serve; nothing may end later than its deadline or with a status that is
 * not retryable. At the end the device has the memory that it had at the start. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gpu/e2e/load.h"

#define THREADS    2u
#define CONTENTS   24u
#define BACK_MS    5000u
#define AFTER      32u                  /* blocks between one death and the next */
#define SLACK      (UINT64_C(64) << 20) /* the driver's own, now and then */
#define RAM_FIRST  UINT64_C(1000)       /* numbers of blocks that rest in RAM */
#define DISK_FIRST UINT64_C(2000)       /* and of those that rest on disk, one a death */

struct world {
	struct rig rig;
	struct load_oracle oracle;
	struct load_counts counts;
	struct load_thread threads[THREADS];
	struct load_user host;
	struct rig_times back;
	struct rig_times served; /* RAM and disk, right after a death */
	uint64_t free_before;    /* before the daemon */
	uint64_t free_up;        /* engine up, nobody connected */
};

static struct world world;

static const struct paged_form forms[THREADS] = {
        {.name = "ipc", .order = PAGED_TWO_FIRST, .page_tokens = 16},
        {.name = "vmm", .order = PAGED_FUSED, .page_tokens = 16, .vmm = true},
};

/* ---- set up -------------------------------------------------------------------------------- */

/* Blocks on disk only: put, then the daemon starts again. */
static void rest_on_disk(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i += LOAD_BATCH)
		assert_int_equal(load_put(&world.host, DISK_FIRST + i, LOAD_BATCH, KVC_ACK_DISK), LOAD_BATCH);
	load_user_close(&world.host);
	assert_true(kvc_server_stop(&world.rig.server, 20000));
	kvc_client_destroy(world.rig.client);
	assert_true(rig_start(&world.rig));
	assert_true(load_user_open(&world.host, &world.oracle, world.rig.server.socket, NULL, &world.counts));
}

static void world_open(const char *engine, unsigned rounds)
{
	memset(&world, 0, sizeof world);
	world.free_before = driver_free_bytes();
	load_oracle_open(&world.oracle, CONTENTS);
	assert_true(rig_open(
	        &world.rig,
	        &(struct rig_options){.ram = "512M", .vram = "32M", .disk = true, .engine = engine}));
	assert_true(load_user_open(&world.host, &world.oracle, world.rig.server.socket, NULL, &world.counts));
	rest_on_disk(rounds);
	assert_int_equal(load_put(&world.host, RAM_FIRST, LOAD_BATCH, KVC_ACK_RAM), LOAD_BATCH);
	world.free_up = driver_free_bytes();
	for (unsigned i = 0; i < THREADS; i++)
		assert_true(load_thread_start(&world.threads[i], i, &world.oracle, world.rig.server.socket,
		                              &forms[i], &world.counts));
}

static void world_close(void)
{
	load_user_close(&world.host);
	assert_true(rig_close(&world.rig));
	load_oracle_close(&world.oracle);
	assert_in_range(driver_free_bytes() + SLACK, world.free_before, UINT64_MAX);
}

/* ---- one death ----------------------------------------------------------------------------- */

/* The load goes on: some blocks are put or read after now. */
static bool await_load(unsigned long blocks)
{
	unsigned long from = atomic_load(&world.counts.blocks);
	double end = rig_now_ms() + BACK_MS * kvc_server_patience();

	while (atomic_load(&world.counts.blocks) < from + blocks) {
		if (rig_now_ms() > end)
			return false;
		kvc_server_step();
	}
	return true;
}

static void serve_from_host(unsigned round)
{
	double started = rig_now_ms();

	assert_int_equal(load_get(&world.host, RAM_FIRST, LOAD_BATCH), LOAD_BATCH);
	assert_int_equal(load_get(&world.host, DISK_FIRST + round, 1), 1);
	assert_int_equal(world.host.outcome.from_disk, 1);
	rig_times_add(&world.served, rig_now_ms() - started);
}

static void die_once(int signal_number, unsigned round)
{
	pid_t before = rig_engine(&world.rig);
	double started;

	assert_int_not_equal(before, 0);
	assert_true(await_load(AFTER + round % 7));
	started = rig_now_ms();
	assert_int_equal(kill(before, signal_number), 0);
	serve_from_host(round);
	if (rig_engine_await(&world.rig, before, 4 * BACK_MS * kvc_server_patience()) == 0)
		fail_msg("death %u: the engine is not back", round);
	rig_times_add(&world.back, rig_now_ms() - started);
}

/* ---- the tests ----------------------------------------------------------------------------- */

static void report(const char *what)
{
	char line[64];

	snprintf(line, sizeof line, "%s, engine back", what);
	rig_times_print(&world.back, line);
	snprintf(line, sizeof line, "%s, RAM and disk served at once", what);
	rig_times_print(&world.served, line);
	printf("# %s: %lu blocks right, %lu wrong, %lu misses, %lu retryable, %lu refused (last %s), %lu "
	       "late\n",
	       what, world.counts.blocks, world.counts.wrong, world.counts.misses, world.counts.retryable,
	       world.counts.refused, kvc_status_name((kvc_status)world.counts.last_status),
	       world.counts.slow);
}

static void check_counts(void)
{
	assert_int_equal(world.counts.wrong, 0);
	assert_int_equal(world.counts.refused, 0);
	assert_int_equal(world.counts.slow, 0);
	assert_true(rig_times_most(&world.back) < BACK_MS * kvc_server_patience());
}

static void test_death(const char *what, const char *engine, int signal_number)
{
	unsigned rounds = rig_rounds(50, 3);
	uint64_t free_end;

	world_open(engine, rounds);
	for (unsigned round = 0; round < rounds; round++)
		die_once(signal_number, round);
	assert_true(await_load(AFTER));
	for (unsigned i = 0; i < THREADS; i++)
		load_thread_stop(&world.threads[i]);
	report(what);
	free_end = driver_free_bytes();
	printf("# %s: device memory free: %.0f MiB before the daemon, %.0f with it, %.0f after %u deaths\n",
	       what, (double)world.free_before / 1048576, (double)world.free_up / 1048576,
	       (double)free_end / 1048576, rounds);
	check_counts();
	assert_in_range(free_end + SLACK, world.free_up, UINT64_MAX);
	world_close();
}

static void test_killed(void **state)
{
	(void)state;
	test_death("SIGKILL", NULL, SIGKILL);
}

static void test_illegal_address(void **state)
{
	(void)state;
	test_death("illegal address", "tests/gpu/kvcellar-engine-faulty", SIGUSR1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_killed),
	        cmocka_unit_test(test_illegal_address),
	};

	driver_open(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
