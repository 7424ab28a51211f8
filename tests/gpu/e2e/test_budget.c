/* The VRAM tier keeps to its budget, and under pressure loses nothing.
 *
 * Four times as much is put as fits. What the tier uses is watched all the time and may never be above its
 * size; then every block must be there, from VRAM or from RAM, with the right bytes. The budget is taken from
 * the device as a whole: a daemon with a larger one takes just so much more. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gpu/e2e/load.h"

#define MIB (UINT64_C(1) << 20)

struct watch {
	struct rig *rig;
	struct kvc_client *client;
	atomic_bool stop;
	double most;
	double bytes;
	unsigned looks;
};

static void *watch_run(void *argument)
{
	struct watch *watch = argument;

	while (!atomic_load(&watch->stop)) {
		double used = kvc_server_stat(watch->client, "vram.used_bytes");

		watch->bytes = kvc_server_stat(watch->client, "vram.bytes");
		watch->most = used > watch->most ? used : watch->most;
		watch->looks++;
	}
	return NULL;
}

static const struct paged_form form = {.name = "budget", .order = PAGED_TWO_FIRST, .page_tokens = 16};

/* All blocks, and how many of them came from VRAM and RAM. The last ones first: in the order of their puts
 * each would drive out the next one. */
static void read_all(struct load_user *user, unsigned batches, uint64_t *vram, uint64_t *ram)
{
	for (unsigned i = batches; i-- > 0;) {
		assert_int_equal(load_get(user, (uint64_t)i * LOAD_BATCH, LOAD_BATCH), LOAD_BATCH);
		*vram += user->outcome.from_vram;
		*ram += user->outcome.from_ram;
	}
}

static void test_pressure(void **state)
{
	unsigned mib = driver_is_fake() ? 2 : 64;
	unsigned batches;
	char budget[16];
	struct load_counts counts = {0};
	struct load_oracle oracle;
	struct load_user user;
	struct rig rig;
	struct watch watch = {.rig = &rig};
	pthread_t watcher;
	uint64_t from_vram = 0;
	uint64_t from_ram = 0;

	(void)state;
	snprintf(budget, sizeof budget, "%uM", mib);
	load_oracle_open(&oracle, 24);
	assert_true(rig_open(&rig, &(struct rig_options){.ram = "1G", .vram = budget}));
	assert_true(load_user_open(&user, &oracle, rig.server.socket, &form, &counts));
	assert_int_equal(kvc_server_client(&rig.server, 5000, &watch.client), KVC_OK);
	batches = (unsigned)(4 * mib * MIB / kvc_namespace_image_bytes(user.ns) / LOAD_BATCH);
	assert_int_equal(pthread_create(&watcher, NULL, watch_run, &watch), 0);
	for (unsigned i = 0; i < batches; i++)
		assert_int_equal(load_put(&user, (uint64_t)i * LOAD_BATCH, LOAD_BATCH, KVC_ACK_RAM),
		                 LOAD_BATCH);
	read_all(&user, batches, &from_vram, &from_ram);
	atomic_store(&watch.stop, true);
	pthread_join(watcher, NULL);
	printf("# VRAM tier of %.0f bytes, at most %.0f used (%u looks); %u blocks put, read back %llu from "
	       "VRAM, %llu "
	       "from RAM\n",
	       watch.bytes, watch.most, watch.looks, batches * LOAD_BATCH, (unsigned long long)from_vram,
	       (unsigned long long)from_ram);
	assert_true(watch.bytes == (double)(mib * MIB));
	assert_true(watch.most > 0 && watch.most <= watch.bytes);
	assert_true(from_vram > 0 && from_ram > 0);
	assert_int_equal(from_vram + from_ram, batches * LOAD_BATCH);
	assert_int_equal(counts.wrong + counts.misses, 0);
	kvc_client_destroy(watch.client);
	load_user_close(&user);
	load_oracle_close(&oracle);
	assert_true(rig_close(&rig));
}

/* Device memory that the engine says it holds, with a tier of that size. */
static double held_with(const char *vram, uint64_t *free_bytes)
{
	struct rig rig;
	double held;

	assert_true(rig_open(&rig, &(struct rig_options){.vram = vram}));
	held = rig_gpu(&rig, "device_bytes");
	*free_bytes = driver_free_bytes();
	assert_true(rig_close(&rig));
	return held;
}

static void test_device(void **state)
{
	uint64_t free_small;
	uint64_t free_large;
	double small = held_with("64M", &free_small);
	double large = held_with("1088M", &free_large);

	(void)state;
	printf("# 1024 MiB more budget: %.0f MiB more by the engine, %.0f MiB less free on the device\n",
	       (large - small) / (double)MIB, ((double)free_small - (double)free_large) / (double)MIB);
	if (driver_is_fake())
		return;
	assert_in_range((uint64_t)(large - small), 1008 * MIB, 1040 * MIB);
	assert_in_range(free_small - free_large, 1008 * MIB, 1040 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_pressure),
	        cmocka_unit_test(test_device),
	};

	driver_open(1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
