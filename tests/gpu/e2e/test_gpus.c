/* Two GPUs of one daemon: workers on both share a namespace, and so its blocks.
 *
 * What was put from one GPU is got from the other, whichever VRAM it rests in; what is dropped is gone from
 * both. Then threads on both put, get and drop the same keys, and engines are killed in turn: no wrong byte,
 * nothing but misses and what may be sent again, and the other engine does not notice. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gpu/e2e/load.h"

#define GPUS     2u
#define CONTENTS 24u
#define THREADS  4u /* two on each GPU, one of them with the keys of one on the other */
#define BACK_MS  5000u
#define AFTER    64u /* blocks between one death and the next */
#define BATCHES  16u
#define FIRST_OF UINT64_C(1000) /* the second GPU's numbers */

struct world {
	struct rig rig;
	struct load_oracle oracle;
	struct load_counts counts;
	struct load_user users[GPUS];
	struct load_thread threads[THREADS];
	struct rig_times back;
};

static struct world world;

static const struct paged_form forms[GPUS] = {
        {.name = "ipc", .order = PAGED_TWO_FIRST, .page_tokens = 16},
        {.name = "vmm", .order = PAGED_FUSED, .page_tokens = 16, .vmm = true},
};

/* ---- set up -------------------------------------------------------------------------------- */

static int setup(void **state)
{
	(void)state;
	memset(&world, 0, sizeof world);
	load_oracle_open(&world.oracle, CONTENTS);
	if (!rig_open(&world.rig, &(struct rig_options){.gpus = "0,1", .ram = "512M", .vram = "64M"}))
		return -1;
	for (unsigned gpu = 0; gpu < GPUS; gpu++) {
		driver_enter(gpu);
		if (!load_user_open(&world.users[gpu], &world.oracle, world.rig.server.socket, &forms[gpu],
		                    &world.counts)) {
			fprintf(stderr, "user of GPU %u: %s\n", gpu, kvc_last_error());
			return -1;
		}
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (unsigned gpu = 0; gpu < GPUS; gpu++) {
		driver_enter(gpu);
		load_user_close(&world.users[gpu]);
	}
	load_oracle_close(&world.oracle);
	return rig_close(&world.rig) ? 0 : -1;
}

/* ---- one after the other ------------------------------------------------------------------- */

/* All batches, from that GPU; how many came from VRAM is added up: not those with raw tiles. */
static void get_all(unsigned gpu, uint64_t first, uint64_t *from_vram)
{
	struct load_user *user = &world.users[gpu];

	driver_enter(gpu);
	for (uint64_t i = 0; i < BATCHES; i++) {
		assert_int_equal(load_get(user, first + i * LOAD_BATCH, LOAD_BATCH), LOAD_BATCH);
		*from_vram += user->outcome.from_vram;
	}
}

static void put_all(unsigned gpu, uint64_t first)
{
	driver_enter(gpu);
	for (uint64_t i = 0; i < BATCHES; i++)
		assert_int_equal(load_put(&world.users[gpu], first + i * LOAD_BATCH, LOAD_BATCH, KVC_ACK_RAM),
		                 LOAD_BATCH);
}

static void drop_all(unsigned gpu, uint64_t first)
{
	for (uint64_t i = 0; i < BATCHES; i++)
		assert_int_equal(load_drop(&world.users[gpu], first + i * LOAD_BATCH, LOAD_BATCH),
		                 LOAD_BATCH);
}

static void assert_gone(unsigned gpu, uint64_t first)
{
	uint32_t present = 0;

	for (uint64_t i = 0; i < BATCHES; i++)
		assert_int_equal(
		        load_present(&world.users[gpu], first + i * LOAD_BATCH, LOAD_BATCH, &present), 0);
}

static void test_shared(void **state)
{
	uint64_t own = 0;
	uint64_t others = 0;

	(void)state;
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		put_all(gpu, gpu * FIRST_OF);
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		get_all(gpu, gpu * FIRST_OF, &own);
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		get_all(gpu, (1 - gpu) * FIRST_OF, &others);
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		get_all(gpu, gpu * FIRST_OF, &others);
	printf("# two GPUs: %u blocks put from each; got from its own %llu of %u times from VRAM, then by "
	       "the "
	       "other and again by its own %llu of %u\n",
	       BATCHES * LOAD_BATCH, (unsigned long long)own, GPUS * BATCHES * LOAD_BATCH,
	       (unsigned long long)others, 2 * GPUS * BATCHES * LOAD_BATCH);
	assert_in_range(own, GPUS * BATCHES * LOAD_BATCH / 2, GPUS * BATCHES * LOAD_BATCH);
	assert_in_range(others, 1, 2 * GPUS * BATCHES * LOAD_BATCH);
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		drop_all(gpu, (1 - gpu) * FIRST_OF);
	for (unsigned gpu = 0; gpu < GPUS; gpu++)
		assert_gone(gpu, gpu * FIRST_OF);
	assert_true(rig_stat(&world.rig, "vram.used_bytes") == 0);
	assert_int_equal(world.counts.wrong + world.counts.misses + world.counts.refused, 0);
}

/* ---- deaths -------------------------------------------------------------------------------- */

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

static bool both_up(void)
{
	pid_t pids[GPUS];

	return rig_engines(&world.rig, pids, GPUS) == GPUS && rig_gpu_of(&world.rig, 0, "up") == 1 &&
	       rig_gpu_of(&world.rig, 1, "up") == 1;
}

static double restarts(void)
{
	return rig_gpu_of(&world.rig, 0, "restarts") + rig_gpu_of(&world.rig, 1, "restarts");
}

/* The one of the two that has lived longer, so that they die in turn. */
static pid_t victim(pid_t *other)
{
	pid_t pids[GPUS];
	unsigned count = rig_engines(&world.rig, pids, GPUS);
	bool first = count == GPUS && pids[0] < pids[1];

	assert_int_equal(count, GPUS);
	*other = pids[first ? 1 : 0];
	return pids[first ? 0 : 1];
}

static bool runs(pid_t wanted)
{
	pid_t pids[GPUS];
	unsigned count = rig_engines(&world.rig, pids, GPUS);

	for (unsigned i = 0; i < count; i++)
		if (pids[i] == wanted)
			return true;
	return false;
}

static void die_once(unsigned round)
{
	double before = restarts();
	pid_t other;
	pid_t pid = victim(&other);
	double started;

	assert_true(await_load(AFTER + round % 7));
	started = rig_now_ms();
	assert_int_equal(kill(pid, SIGKILL), 0);
	while (restarts() == before || !both_up()) {
		assert_true(rig_now_ms() < started + 4 * BACK_MS * kvc_server_patience());
		kvc_server_step();
	}
	rig_times_add(&world.back, rig_now_ms() - started);
	assert_true(restarts() == before + 1);
	assert_true(runs(other));
}

static void test_deaths(void **state)
{
	unsigned rounds = rig_rounds(20, 4);

	(void)state;
	for (unsigned i = 0; i < THREADS; i++) {
		driver_enter(i % GPUS);
		assert_true(load_thread_start(&world.threads[i], i / GPUS, &world.oracle,
		                              world.rig.server.socket, &forms[i % GPUS], &world.counts));
	}
	for (unsigned round = 0; round < rounds; round++)
		die_once(round);
	assert_true(await_load(AFTER));
	for (unsigned i = 0; i < THREADS; i++) {
		driver_enter(i % GPUS);
		load_thread_stop(&world.threads[i]);
	}
	rig_times_print(&world.back, "two GPUs, engine back");
	printf("# two GPUs: %lu blocks right, %lu wrong, %lu misses, %lu retryable, %lu refused (last %s), "
	       "%lu late\n",
	       world.counts.blocks, world.counts.wrong, world.counts.misses, world.counts.retryable,
	       world.counts.refused, kvc_status_name((kvc_status)world.counts.last_status),
	       world.counts.slow);
	assert_int_equal(world.counts.wrong + world.counts.refused + world.counts.slow, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_deaths, setup, teardown),
	};

	driver_open(GPUS);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
