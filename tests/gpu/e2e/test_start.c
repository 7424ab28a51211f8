/* Start-up: ready within 2 s while a large arena is still being pinned, and what memory the engine takes for
 * itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gpu/e2e/load.h"

#define READY_MS 2000.0
#define PIN_S    10.0 /* and no longer: ready does not wait for it */
#define MIB      1048576.0

/* The arena's size in GiB: 64, or $KVC_TEST_RAM_GIB on a machine with less memory. */
static unsigned arena_gib(void)
{
	const char *given = getenv("KVC_TEST_RAM_GIB");

	if (given && *given)
		return (unsigned)strtoul(given, NULL, 10);
	return driver_is_fake() ? 1 : 64;
}

static const struct paged_form form = {.name = "start", .order = PAGED_TWO_FIRST, .page_tokens = 16};

/* First blocks, while the arena is being pinned. */
static void first_blocks(struct rig *rig, double started)
{
	struct load_counts counts = {0};
	struct load_oracle oracle;
	struct load_user user;

	load_oracle_open(&oracle, LOAD_BATCH);
	assert_true(load_user_open(&user, &oracle, rig->server.socket, &form, &counts));
	assert_int_equal(load_put(&user, 0, LOAD_BATCH, KVC_ACK_RAM), LOAD_BATCH);
	assert_int_equal(load_get(&user, 0, LOAD_BATCH), LOAD_BATCH);
	printf("# first blocks put and read after %.0f ms, pinned then: %.0f MiB\n", rig_now_ms() - started,
	       rig_gpu(rig, "pinned_bytes") / MIB);
	load_user_close(&user);
	load_oracle_close(&oracle);
}

static double await_pinned(struct rig *rig, double bytes, double started)
{
	while (rig_gpu(rig, "pinned_bytes") < bytes && rig_now_ms() - started < PIN_S * 1e3)
		kvc_server_step();
	return rig_now_ms() - started;
}

static void report_memory(struct rig *rig, double free_before, double vram)
{
	double taken = free_before - (double)driver_free_bytes();
	double held = rig_gpu(rig, "device_bytes");

	printf("# device memory of the engine: %.0f MiB by its own count, %.0f MiB less free on the device; "
	       "without the "
	       "VRAM tier %.0f and %.0f\n",
	       held / MIB, taken / MIB, (held - vram) / MIB, (taken - vram) / MIB);
}

static void test_start(void **state)
{
	double vram = driver_is_fake() ? 16 * MIB : 1024 * MIB;
	double ram = (double)arena_gib() * 1024 * MIB;
	double free_before = (double)driver_free_bytes();
	double started;
	double ready;
	double pinned;
	double pinned_ms;
	char size[16];
	struct rig rig;

	(void)state;
	snprintf(size, sizeof size, "%uG", arena_gib());
	assert_true(rig_prepare(&rig,
	                        &(struct rig_options){.ram = size, .vram = driver_is_fake() ? "16M" : "1G"}));
	started = rig_now_ms();
	if (!rig_start(&rig))
		kvc_server_show_log(&rig.server);
	ready = rig_now_ms() - started;
	pinned = rig_gpu(&rig, "pinned_bytes");
	printf("# --ram %s: ready after %.0f ms, pinned then: %.0f MiB of %.0f\n", size, ready, pinned / MIB,
	       ram / MIB);
	first_blocks(&rig, started);
	report_memory(&rig, free_before, vram);
	pinned_ms = await_pinned(&rig, ram, started);
	printf("# %.0f MiB pinned after %.0f ms\n", rig_gpu(&rig, "pinned_bytes") / MIB, pinned_ms);
	assert_true(rig_close(&rig));
	assert_true(ready < READY_MS * kvc_server_patience());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_start),
	};

	driver_open(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
