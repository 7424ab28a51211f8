/* A worker dies in the middle of a put, or of a get.
 *
 * A victim, this program again, registers a pool and puts new blocks (or reads old ones) as fast as it can,
 * telling through a pipe which; then it is killed. Or it puts behind work that its stream never ends. The
 * daemon must give up its mapping within a second, and the device its memory; every block that is present
 * must be whole; the engine must be the same process and serve. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/gpu/e2e/load.h"

#define CONTENTS   LOAD_BATCH /* so that all batches of a victim are the same bytes in the same pages */
#define RELEASE_MS 1000u
#define SLACK      (UINT64_C(64) << 20)
#define LOOK_BACK  4u /* batches of a victim that are looked at */

/* ---- the victim ---------------------------------------------------------------------------- */

static void tell(uint32_t batch)
{
	if (write(STDOUT_FILENO, &batch, sizeof batch) != (ssize_t)sizeof batch)
		_exit(1);
}

static void victim_request(struct load_user *user, uint64_t first, uint32_t batch, bool get)
{
	struct kvc_transfer transfer;
	struct kvc_block *blocks = user->blocks;

	kvc_transfer_init(&transfer, NULL);
	transfer.pool = user->paged.pool;
	for (size_t i = 0; i < LOAD_BATCH; i++) {
		const uint64_t words[2] = {first + batch * LOAD_BATCH + i, ~(first + batch * LOAD_BATCH + i)};

		memcpy(user->keys[i], words, sizeof words);
	}
	if (get)
		kvc_get(user->ns, &transfer, blocks, LOAD_BATCH, NULL);
	else
		kvc_put(user->ns, &transfer, blocks, LOAD_BATCH, NULL);
}

/* victim SOCKET put|get|stall ipc|vmm FIRST */
static int victim_main(char *const argv[])
{
	const struct paged_form form = {.name = "victim",
	                                .order = PAGED_TWO_FIRST,
	                                .page_tokens = 16,
	                                .vmm = strcmp(argv[3], "vmm") == 0};
	uint64_t first = strtoull(argv[4], NULL, 10);
	bool get = strcmp(argv[2], "get") == 0;
	struct load_counts counts = {0};
	struct load_oracle oracle;
	struct load_user user;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	driver_open(1);
	load_oracle_open_blind(&oracle, CONTENTS);
	if (!load_user_open(&user, &oracle, argv[1], &form, &counts)) {
		fprintf(stderr, "victim: %s\n", kvc_last_error());
		return 1;
	}
	if (load_put(&user, first, LOAD_BATCH, KVC_ACK_RAM) != LOAD_BATCH)
		return 1;
	if (strcmp(argv[2], "stall") == 0)
		driver_stream_stall(NULL);
	for (uint32_t batch = get ? 0 : 1;; batch += get ? 0 : 1) {
		tell(batch);
		victim_request(&user, first, batch, get);
	}
}

struct victim {
	pid_t pid;
	int pipe;
};

static bool victim_start(struct victim *victim, const char *socket, const char *what, bool vmm,
                         uint64_t first)
{
	char number[24];
	int ends[2];

	snprintf(number, sizeof number, "%llu", (unsigned long long)first);
	if (pipe(ends) != 0)
		return false;
	victim->pid = fork();
	if (victim->pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		execl("/proc/self/exe", "victim", socket, what, vmm ? "vmm" : "ipc", number, NULL);
		_exit(127);
	}
	close(ends[1]);
	victim->pipe = ends[0];
	return victim->pid > 0;
}

/* Batches that it has told of; 0: it has ended. */
static uint32_t victim_await(const struct victim *victim, uint32_t requests)
{
	uint32_t batch = 0;
	uint32_t seen = 0;

	while (seen < requests && read(victim->pipe, &batch, sizeof batch) == (ssize_t)sizeof batch)
		seen++;
	return seen;
}

/* The last batch that it began. */
static uint32_t victim_last(const struct victim *victim)
{
	uint32_t batch = 0;

	while (read(victim->pipe, &batch, sizeof batch) == (ssize_t)sizeof batch)
		;
	close(victim->pipe);
	return batch;
}

/* ---- who watches --------------------------------------------------------------------------- */

struct world {
	struct rig rig;
	struct load_oracle oracle;
	struct load_counts counts;
	struct load_user host;
	struct load_user device;  /* a worker that lives on */
	struct rig_times gone;    /* from SIGKILL until the process is reaped */
	struct rig_times regions; /* from then on */
	struct rig_times memory;
	uint64_t free_base; /* nobody but the survivor */
	uint64_t blocks;    /* of victims: looked at, and present */
	uint64_t present;
	pid_t engine;
};

static struct world world;

static const struct paged_form survivor_form = {.name = "survivor", .order = PAGED_FUSED, .page_tokens = 32};

static int world_open(void **state)
{
	(void)state;
	memset(&world, 0, sizeof world);
	load_oracle_open(&world.oracle, CONTENTS);
	if (!rig_open(&world.rig, &(struct rig_options){.ram = "512M", .vram = "32M"}) ||
	    !load_user_open(&world.host, &world.oracle, world.rig.server.socket, NULL, &world.counts) ||
	    !load_user_open(&world.device, &world.oracle, world.rig.server.socket, &survivor_form,
	                    &world.counts))
		return -1;
	world.engine = rig_engine(&world.rig);
	return 0;
}

static int world_close(void **state)
{
	(void)state;
	load_user_close(&world.host);
	load_user_close(&world.device);
	load_oracle_close(&world.oracle);
	return rig_close(&world.rig) ? 0 : -1;
}

/* Regions of the survivor: one allocation. */
static bool released(bool *regions, bool *memory, double since)
{
	if (!*regions && rig_gpu(&world.rig, "regions") == 1) {
		*regions = true;
		rig_times_add(&world.regions, rig_now_ms() - since);
	}
	if (!*memory && (world.free_base == 0 || driver_free_bytes() + SLACK >= world.free_base)) {
		*memory = true;
		rig_times_add(&world.memory, rig_now_ms() - since);
	}
	return *regions && *memory;
}

static void await_release(void)
{
	double started = rig_now_ms();
	bool regions = false;
	bool memory = false;

	while (!released(&regions, &memory, started)) {
		if (rig_now_ms() - started > 5 * RELEASE_MS * kvc_server_patience())
			fail_msg("%s are not released", regions ? "memory" : "regions");
		kvc_server_step();
	}
	if (world.free_base == 0)
		world.free_base = driver_free_bytes();
}

/* Blocks of the last batches are whole or not there. */
static void check_blocks(uint64_t first, uint32_t last)
{
	for (uint32_t batch = last < LOOK_BACK ? 0 : last - LOOK_BACK; batch <= last; batch++) {
		uint32_t present = 0;
		int found = load_present(&world.host, first + batch * LOAD_BATCH, LOAD_BATCH, &present);

		assert_true(found >= 0);
		for (uint32_t i = 0; i < LOAD_BATCH; i++) {
			if (present >> i & 1)
				assert_int_equal(load_get(&world.host, first + batch * LOAD_BATCH + i, 1), 1);
		}
		world.blocks += LOAD_BATCH;
		world.present += (uint64_t)found;
	}
}

static void check_engine(uint64_t first)
{
	assert_int_equal(rig_engine(&world.rig), world.engine);
	assert_int_equal(load_put(&world.device, first, LOAD_BATCH, KVC_ACK_RAM), LOAD_BATCH);
	assert_int_equal(load_get(&world.device, first, LOAD_BATCH), LOAD_BATCH);
}

static void kill_once(unsigned round, const char *what, unsigned requests)
{
	uint64_t first = (uint64_t)(round + 1) << 26 | (uint64_t)(what[0] & 7)
	                                                       << 23; /* put, get, stall: 0, 7, 3 */
	uint64_t random = first;
	struct timespec moment = {.tv_nsec = 0};
	struct victim victim = {0};
	double started;
	int status;

	assert_true(victim_start(&victim, world.rig.server.socket, what, round % 2, first));
	assert_int_equal(victim_await(&victim, requests), requests);
	moment.tv_nsec = (long)(kvc_sample_random(&random) % 3000000);
	nanosleep(&moment, NULL);
	started = rig_now_ms();
	kill(victim.pid, SIGKILL);
	assert_int_equal(waitpid(victim.pid, &status, 0), victim.pid);
	assert_true(WIFSIGNALED(status));
	rig_times_add(&world.gone, rig_now_ms() - started);
	await_release();
	check_blocks(first, victim_last(&victim));
	check_engine(first | 1u << 22);
}

static void test_killed(const char *what, unsigned rounds, unsigned requests)
{
	world.gone.count = world.regions.count = world.memory.count = 0;
	world.blocks = world.present = 0;
	for (unsigned round = 0; round < rounds; round++)
		kill_once(round, what, requests + (requests > 1 ? round % 5 : 0));
	printf("# worker killed in a %s\n", what);
	rig_times_print(&world.gone, "process gone");
	rig_times_print(&world.regions, "then its regions");
	rig_times_print(&world.memory, "then device memory as before");
	printf("# of %llu blocks of its last batches %llu were present, all whole\n",
	       (unsigned long long)world.blocks, (unsigned long long)world.present);
	assert_int_equal(world.counts.wrong, 0);
	assert_true(rig_times_most(&world.regions) < RELEASE_MS * kvc_server_patience());
	assert_true(rig_times_most(&world.memory) < RELEASE_MS * kvc_server_patience());
}

static void test_mid_put(void **state)
{
	(void)state;
	test_killed("put", rig_rounds(25, 4), 2); /* and as many gets */
}

static void test_mid_get(void **state)
{
	(void)state;
	test_killed("get", rig_rounds(25, 4), 2);
}

/* The marks that the engine looks at never come. */
static void test_stalled(void **state)
{
	(void)state;
	test_killed("stall", rig_rounds(10, 2), 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_mid_put),
	        cmocka_unit_test(test_mid_get),
	        cmocka_unit_test(test_stalled),
	};

	if (argc == 5)
		return victim_main(argv);
	driver_open(1);
	return cmocka_run_group_tests(tests, world_open, world_close);
}
