/* The index against a simple model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/cache/index.h"
#include "tests/support/resting.h"
#include "tests/support/row.h"

enum { KEYS = 20000, STEPS = 200000 };

static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void random_seed(void)
{
	const char *seed = getenv("KVC_TEST_SEED");

	random_state = seed ? strtoull(seed, NULL, 0) : 0x9E3779B97F4A7C15ull;
	print_message("seed 0x%llx\n", (unsigned long long)random_state);
}

static struct kvc_storage_key key_of(uint64_t number)
{
	struct kvc_storage_key key = {0};

	uint64_t hash = number * 0x9E3779B97F4A7C15ull;

	memcpy(key.bytes, &hash, sizeof hash);
	memcpy(key.bytes + 24, &number, sizeof number);
	return key;
}

/* Random inserts and removals; the model is an array of ids by key number. */
static void model_run(uint64_t hash_mask, uint32_t keys, uint32_t steps)
{
	uint32_t *model = test_malloc(keys * sizeof *model);
	uint32_t present = 0;
	struct kvc_index *index;

	random_seed();
	for (uint32_t i = 0; i < keys; i++)
		model[i] = KVC_ENTRY_NONE;
	assert_int_equal(kvc_index_open(hash_mask, &index), KVC_OK);
	for (uint32_t i = 0; i < steps; i++) {
		uint32_t number = (uint32_t)(random_next() % keys);
		struct kvc_storage_key key = key_of(number);

		assert_int_equal(kvc_index_find(index, &key), model[number]);
		if (model[number] == KVC_ENTRY_NONE) {
			assert_int_equal(kvc_index_insert(index, &key, &model[number]), KVC_OK);
			present++;
		} else {
			kvc_index_unlink(index, model[number]);
			kvc_index_free(index, model[number]);
			model[number] = KVC_ENTRY_NONE;
			present--;
		}
		assert_int_equal(kvc_index_count(index), present);
	}
	kvc_index_close(index);
	test_free(model);
}

static void index_matches_model(void **state)
{
	(void)state;
	model_run(0, KEYS, STEPS);
}

/* Only 8 different hashes: every key of a bucket collides, and the whole key decides. */
static void index_survives_collisions(void **state)
{
	(void)state;
	KVC_ROW("D21");
	model_run(7, 300, 20000);
	kvc_row.injected += 20000;
	kvc_row_end();
}

static void index_stays_small(void **state)
{
	const uint32_t count = 1000000;
	struct kvc_index *index;

	(void)state;
	assert_int_equal(kvc_index_open(0, &index), KVC_OK);
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_storage_key key = key_of(i);
		uint32_t id;

		assert_int_equal(kvc_index_insert(index, &key, &id), KVC_OK);
	}
	print_message("%.1f bytes a block\n", (double)kvc_index_bytes(index) / count);
	assert_true(kvc_index_bytes(index) <= 89ull * count); /* the rest of 96 is the disk tier's */
	kvc_index_close(index);
}

/* All that the daemon keeps of it, in the cache and in the disk tier. */
static void a_block_on_disk_stays_small(void **state)
{
	const uint32_t count = 200000;
	struct kvc_resting *resting;
	uint64_t index, tier;

	(void)state;
	assert_int_equal(kvc_resting_open(count, &resting), KVC_OK);
	index = kvc_resting_index_bytes(resting);
	tier = kvc_resting_tier_bytes(resting);
	print_message("%.2f bytes a block in the index, %.2f in the tier\n", (double)index / count,
	              (double)tier / count);
	assert_true(index >= 84ull * count && tier >= 7ull * count); /* both are counted */
	assert_true(index + tier <= 96ull * count);
	kvc_resting_close(resting);
	assert_int_equal(kvc_alloc_live(), 0);
}

static void index_without_memory(void **state)
{
	struct kvc_storage_key key = key_of(1);
	struct kvc_index *index;
	uint32_t id;

	(void)state;
	for (uint64_t n = 1; n <= 3; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_index_open(0, &index), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_index_open(0, &index), KVC_OK);
	kvc_alloc_fail_at(1, 1);
	assert_int_equal(kvc_index_insert(index, &key, &id), KVC_NO_MEMORY);
	assert_int_equal(kvc_index_find(index, &key), KVC_ENTRY_NONE);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_index_insert(index, &key, &id), KVC_OK);
	kvc_index_close(index);
	assert_int_equal(kvc_alloc_live(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(index_matches_model),  cmocka_unit_test(index_survives_collisions),
	        cmocka_unit_test(index_stays_small),    cmocka_unit_test(a_block_on_disk_stays_small),
	        cmocka_unit_test(index_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
