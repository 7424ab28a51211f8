/* What one tenant can find out about another one, or do to it: nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/faults/daemon_world.h"
#include "tests/support/prng.h"

enum { BLOCKS = 64 };

static struct daemon_world w; /* tenant "default" */
static struct kvc_namespace *other;
static struct kvc_memory *memory;

static void world_begin(void)
{
	struct kvc_namespace_options options;

	dw_start(&w);
	options = w.space.options;
	options.tenant = "other";
	assert_int_equal(kvc_namespace_open(w.client, &options, 0, &other), KVC_OK);
	assert_int_equal(kvc_memory_create(w.client, DW_STEP, &memory), KVC_OK);
}

static int setup(void **state)
{
	(void)state;
	dw_init(&w, true);
	world_begin();
	return 0;
}

/* Without a disk: what RAM loses is lost. */
static int setup_ram(void **state)
{
	(void)state;
	dw_init(&w, false);
	world_begin();
	return 0;
}

/* The other tenant may put so many bytes a second. */
enum { OTHERS_RATE = 16 << 10 };

static int setup_quota(void **state)
{
	static char path[KVC_SERVER_PATH_BYTES + 16];
	FILE *file;

	(void)state;
	dw_init(&w, true);
	snprintf(path, sizeof path, "%s/conf", w.server.folder);
	file = fopen(path, "we");
	assert_non_null(file);
	fprintf(file, "[tenant other]\nput-rate = %d\n", OTHERS_RATE);
	assert_int_equal(fclose(file), 0);
	kvc_server_arg(&w.server, "--config", path);
	world_begin();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dw_end(&w);
	kvc_row_end();
	return 0;
}

static void fill(uint64_t first)
{
	for (uint64_t i = 0; i < BLOCKS; i += DW_BLOCKS)
		assert_int_equal(dw_put(&w, first + i, KVC_ACK_DISK), DW_BLOCKS);
}

/* One get or put of one block in a namespace; its status. */
static kvc_status transfer_one(struct kvc_namespace *ns, uint64_t id, bool put)
{
	uint8_t key[KVC_SAMPLE_KEY_BYTES];
	struct kvc_transfer transfer;
	struct kvc_block block;
	kvc_status status;

	kvc_transfer_init(&transfer, memory);
	kvc_sample_block(&w.space, id, 0, key, &block);
	status = put ? kvc_put(ns, &transfer, &block, 1, NULL) : kvc_get(ns, &transfer, &block, 1, NULL);
	return status == KVC_OK ? block.status : status;
}

static double tenant_stat(const char *tenant, const char *name)
{
	struct kvc_stat *stats;
	double value = -1;
	size_t count;

	assert_int_equal(kvc_tenant_stats(w.client, tenant, 0, &stats, &count), KVC_OK);
	for (size_t i = 0; i < count; i++)
		if (strcmp(stats[i].name, name) == 0)
			value = stats[i].value;
	kvc_stats_free(stats);
	return value;
}

/* ---- H1: a flood above the quota ----------------------------------------------------------- */

enum { REFUSED = 2000 };

struct flood {
	pthread_t thread;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint64_t accepted; /* blocks */
	uint64_t refused;
	uint64_t failed;
	atomic_bool over;
};

/* Puts one block after the other, as quickly as it is told that it may not. */
static void *flood_run(void *argument)
{
	struct flood *flood = argument;

	for (uint64_t id = 5000000; flood->refused < REFUSED; id++) {
		uint8_t key[KVC_SAMPLE_KEY_BYTES];
		struct kvc_transfer transfer;
		struct kvc_block block;
		kvc_status status;

		kvc_transfer_init(&transfer, flood->memory);
		kvc_sample_block(&w.space, id, 0, key, &block);
		status = kvc_put(flood->ns, &transfer, &block, 1, NULL);
		status = status == KVC_OK ? block.status : status;
		flood->accepted += status == KVC_OK;
		flood->refused += status == KVC_QUOTA;
		flood->failed += status != KVC_OK && status != KVC_QUOTA;
	}
	atomic_store(&flood->over, true);
	return NULL;
}

static void flood_begin(struct flood *flood)
{
	struct kvc_namespace_options options = w.space.options;

	memset(flood, 0, sizeof *flood);
	options.tenant = "other";
	assert_int_equal(kvc_server_client(&w.server, DW_DEADLINE, &flood->client), KVC_OK);
	assert_int_equal(kvc_namespace_open(flood->client, &options, 0, &flood->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(flood->client, DW_STEP, &flood->memory), KVC_OK);
	assert_int_equal(pthread_create(&flood->thread, NULL, flood_run, flood), 0);
}

/* It gets its rate and a clear answer to the rest; meanwhile this one is served as ever. */
static void a_flood_meets_its_quota(void **state)
{
	uint64_t began = kvc_server_now_ms(), gone_ms, rounds = 0;
	struct flood flood;

	(void)state;
	KVC_ROW("H1");
	fill(0);
	flood_begin(&flood);
	while (!atomic_load(&flood.over) || rounds < BLOCKS / DW_BLOCKS) {
		uint64_t first = rounds++ * DW_BLOCKS;

		assert_int_equal(dw_put(&w, BLOCKS + first, KVC_ACK_RAM), DW_BLOCKS);
		assert_int_equal(dw_get(&w, first % BLOCKS), DW_BLOCKS);
	}
	assert_int_equal(pthread_join(flood.thread, NULL), 0);
	gone_ms = kvc_server_now_ms() - began;
	kvc_row.injected += flood.refused;
	print_message("# %llu accepted, %llu refused, %llu rounds of others\n",
	              (unsigned long long)flood.accepted, (unsigned long long)flood.refused,
	              (unsigned long long)rounds);
	assert_int_equal(flood.failed, 0);
	assert_true(flood.accepted > 0);
	assert_true(tenant_stat("other", "tenant.put_bytes") <=
	            (double)OTHERS_RATE * ((double)gone_ms / 1000 + 1) + DW_STEP);
	assert_true(tenant_stat("other", "tenant.refused") >= (double)REFUSED);
	assert_true(tenant_stat("default", "tenant.refused") == 0);
	kvc_client_destroy(flood.client);
}

/* ---- H2: a scan ---------------------------------------------------------------------------- */

/* A fifth of the RAM is this tenant's, and it is left alone while the other one puts twice as much as all of
 * it. */
static void a_scan_leaves_others_alone(void **state)
{
	enum { OWN = 400, SCAN = 4000 };
	unsigned hits = 0;

	(void)state;
	KVC_ROW("H2");
	for (uint64_t i = 0; i < OWN; i += DW_BLOCKS)
		assert_int_equal(dw_put(&w, i, KVC_ACK_RAM), DW_BLOCKS);
	for (uint64_t i = 0; i < SCAN; i++) {
		assert_int_equal(transfer_one(other, i, true), KVC_OK);
		kvc_row.injected++;
	}
	assert_true(tenant_stat("other", "tenant.evicted") > (double)SCAN / 4.0);
	for (uint64_t i = 0; i < OWN; i += DW_BLOCKS)
		hits += dw_get(&w, i);
	print_message("# %u of %u blocks are there after the scan\n", hits, OWN);
	assert_true(hits >= OWN * 95 / 100);
}

/* ---- H8: a tenant is dropped --------------------------------------------------------------- */

static void a_dropped_tenant_is_forgotten(void **state)
{
	uint64_t dropped = 0;

	(void)state;
	fill(0);
	for (uint64_t i = 0; i < BLOCKS; i++)
		assert_int_equal(transfer_one(other, i, true), KVC_OK);
	assert_int_equal(kvc_tenant_drop(w.client, "other", 0, &dropped), KVC_OK);
	assert_int_equal(dropped, BLOCKS);
	for (uint64_t i = 0; i < BLOCKS; i++)
		assert_int_equal(transfer_one(other, i, false), KVC_MISS);
	assert_true(tenant_stat("other", "tenant.blocks") == 0);
	for (uint64_t i = 0; i < BLOCKS; i += DW_BLOCKS)
		assert_int_equal(dw_get(&w, i), DW_BLOCKS);
}

/* ---- H3: presence, by answer and by time --------------------------------------------------- */

struct probe {
	uint64_t ns;
	bool present; /* with the other tenant */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
	uint64_t first = ((const struct probe *)a)->ns, second = ((const struct probe *)b)->ns;

	return (first > second) - (first < second);
}

/* How well the time tells the two kinds apart: 0.5 not at all, 1 or 0 always. Equal times share their rank.
 */
static double area_under_curve(struct probe *probes, size_t count)
{
	double ranks = 0, present = 0;

	qsort(probes, count, sizeof *probes, by_time);
	for (size_t i = 0; i < count;) {
		size_t end = i;

		while (end < count && probes[end].ns == probes[i].ns)
			end++;
		for (size_t j = i; j < end; j++) {
			ranks += probes[j].present ? (double)(i + 1 + end) / 2 : 0;
			present += probes[j].present;
		}
		i = end;
	}
	return (ranks - present * (present + 1) / 2) / (present * ((double)count - present));
}

static void presence_is_not_told(void **state)
{
	size_t count = getenv("KVC_TEST_FULL") ? 1000000 : 30000 / kvc_server_patience();
	struct probe *probes = calloc(count, sizeof *probes);
	struct prng prng = {.state = prng_seed(__func__)};
	double area;

	(void)state;
	KVC_ROW("H3");
	kvc_row.seed = prng.state;
	assert_non_null(probes);
	fill(0);
	for (size_t i = 0; i < count; i++) {
		uint64_t id = prng_below(&prng, BLOCKS);
		uint64_t began;

		probes[i].present = prng_chance(&prng, 2);
		began = now_ns();
		assert_int_equal(transfer_one(other, probes[i].present ? id : 1000000 + id, false), KVC_MISS);
		probes[i].ns = now_ns() - began;
		kvc_row.injected++;
	}
	area = area_under_curve(probes, count);
	free(probes);
	print_message("# %zu probes, area under the curve %.4f\n", count, area);
	assert_true(area > 0.5 - 0.01 - 2 / 100.0 * (count < 100000) &&
	            area < 0.5 + 0.01 + 2 / 100.0 * (count < 100000));
	for (uint64_t i = 0; i < BLOCKS; i += DW_BLOCKS)
		assert_int_equal(dw_get(&w, i), DW_BLOCKS);
}

/* ---- H4: other verbs ----------------------------------------------------------------------- */

static void other_verbs_see_nothing(void **state)
{
	uint8_t bytes[BLOCKS][KVC_SAMPLE_KEY_BYTES], tiers[BLOCKS];
	struct kvc_key keys[BLOCKS];
	size_t count = 1;

	(void)state;
	KVC_ROW("H4");
	fill(0);
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_key(i, bytes[i]);
		keys[i] = (struct kvc_key){.data = bytes[i], .bytes = KVC_SAMPLE_KEY_BYTES};
	}
	assert_int_equal(kvc_lookup(w.ns, keys, BLOCKS, 0, &count, tiers), KVC_OK);
	assert_int_equal(count, BLOCKS);
	assert_int_equal(kvc_lookup(other, keys, BLOCKS, 0, &count, tiers), KVC_OK);
	assert_int_equal(count, 0);
	assert_int_equal(kvc_prefetch(other, keys, BLOCKS, 0, &count), KVC_OK);
	assert_int_equal(count, 0);
	assert_int_equal(kvc_pin(other, keys, BLOCKS, 0, &count), KVC_OK);
	assert_int_equal(count, 0);
	assert_int_equal(kvc_drop(other, keys, BLOCKS, 0, &count), KVC_OK);
	assert_int_equal(count, 0);
	assert_true(tenant_stat("default", "tenant.blocks") == (double)BLOCKS);
	assert_true(tenant_stat("default", "tenant.put_bytes") > 0);
	assert_true(tenant_stat("other", "tenant.blocks") == 0);
	assert_true(tenant_stat("other", "tenant.puts") == 0);
	kvc_row.injected += 5;
	for (uint64_t i = 0; i < BLOCKS; i += DW_BLOCKS)
		assert_int_equal(dw_get(&w, i), DW_BLOCKS);
}

/* ---- D22, D23: the same key, other contents ------------------------------------------------ */

/* The other tenant stores under the keys of this one what does not belong there: only itself gets it. */
static void poison_stays_at_home(void **state)
{
	const uint8_t *data = kvc_memory_data(memory);
	uint8_t expected[DW_STEP];

	(void)state;
	KVC_ROW("D22 D23");
	for (uint64_t id = 0; id < BLOCKS; id++) {
		size_t bytes = kvc_sample_bytes(&w.space, id);

		for (size_t i = 0; i < bytes; i += 2) /* an odd bf16 number, the same all over */
			memcpy((uint8_t *)kvc_memory_data(memory) + i, "\x80\x3F", 2);
		assert_int_equal(transfer_one(other, id, true), KVC_OK);
		kvc_row.injected++;
	}
	fill(0);
	for (uint64_t i = 0; i < BLOCKS; i += DW_BLOCKS)
		assert_int_equal(dw_get(&w, i), DW_BLOCKS);
	for (uint64_t id = 0; id < BLOCKS; id++) {
		size_t bytes = kvc_sample_bytes(&w.space, id);

		for (size_t i = 0; i < bytes; i += 2)
			memcpy(expected + i, "\x80\x3F", 2);
		assert_true(kvc_sample_restore(&w.space, id, expected, expected));
		assert_int_equal(transfer_one(other, id, false), KVC_OK);
		assert_memory_equal(data, expected, bytes);
		kvc_row.verified++;
	}
}

#define TENANTS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(a_flood_meets_its_quota, setup_quota, teardown),
	        cmocka_unit_test_setup_teardown(a_scan_leaves_others_alone, setup_ram, teardown),
	        TENANTS(a_dropped_tenant_is_forgotten),
	        TENANTS(presence_is_not_told),
	        TENANTS(other_verbs_see_nothing),
	        TENANTS(poison_stays_at_home),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
