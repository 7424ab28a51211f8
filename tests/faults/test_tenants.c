/* What one tenant can find out about another one, or do to it: nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

static int setup(void **state)
{
	struct kvc_namespace_options options;

	(void)state;
	dw_init(&w, true);
	dw_start(&w);
	options = w.space.options;
	options.tenant = "other";
	assert_int_equal(kvc_namespace_open(w.client, &options, 0, &other), KVC_OK);
	assert_int_equal(kvc_memory_create(w.client, DW_STEP, &memory), KVC_OK);
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
	kvc_row.injected += 4;
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
	        TENANTS(presence_is_not_told),
	        TENANTS(other_verbs_see_nothing),
	        TENANTS(poison_stays_at_home),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
