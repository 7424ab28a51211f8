/* Ends of blocks by time, against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/cache/expiry.h"
#include "tests/support/prng.h"

enum { IDS = 1500, STEPS = 60000, TIMES = 200 };

static uint64_t model[IDS]; /* when it ends; 0: not there */

static void step(struct kvc_expiry *expiry, struct prng *random)
{
	uint32_t id = prng_below(random, IDS);
	uint64_t ends_ms = 1 + prng_below(random, TIMES);

	if (!model[id]) {
		assert_int_equal(kvc_expiry_add(expiry, id, ends_ms), KVC_OK);
		model[id] = ends_ms;
	} else if (prng_below(random, 2)) {
		kvc_expiry_set(expiry, id, ends_ms);
		model[id] = ends_ms;
	} else {
		kvc_expiry_remove(expiry, id);
		model[id] = 0;
	}
}

static void compare(const struct kvc_expiry *expiry)
{
	uint64_t least = 0, ends_ms;
	uint32_t count = 0, first = kvc_expiry_first(expiry, &ends_ms);

	for (uint32_t id = 0; id < IDS; id++) {
		if (!model[id])
			continue;
		assert_int_equal(kvc_expiry_get(expiry, id), model[id]);
		count++;
		if (!least || model[id] < least)
			least = model[id];
	}
	assert_int_equal(expiry->count, count);
	assert_true((first == KVC_EXPIRY_NONE) == !count);
	if (!count)
		return;
	assert_int_equal(ends_ms, least);
	assert_int_equal(model[first], least);
}

static void matches_model(void **state)
{
	struct prng random = {42};
	struct kvc_expiry expiry = {0};
	uint64_t before = 0, ends_ms;
	uint32_t id;

	(void)state;
	memset(model, 0, sizeof model);
	for (uint32_t i = 0; i < STEPS; i++) {
		step(&expiry, &random);
		if (i % 100 == 0)
			compare(&expiry);
	}
	while ((id = kvc_expiry_first(&expiry, &ends_ms)) != KVC_EXPIRY_NONE) {
		assert_true(ends_ms >= before);
		before = ends_ms;
		kvc_expiry_remove(&expiry, id);
		model[id] = 0;
	}
	compare(&expiry);
	kvc_expiry_close(&expiry);
	assert_int_equal(kvc_alloc_live(), 0);
}

/* What the header says that a block costs. */
static void costs_what_it_says(void **state)
{
	enum { MANY = 100000 };
	struct kvc_expiry expiry = {0};

	(void)state;
	assert_int_equal(kvc_expiry_bytes(&expiry), 0);
	for (uint32_t id = 0; id < MANY; id++)
		assert_int_equal(kvc_expiry_add(&expiry, id, MANY - id), KVC_OK);
	print_message("%.1f bytes a block\n", (double)kvc_expiry_bytes(&expiry) / (double)MANY);
	assert_in_range(kvc_expiry_bytes(&expiry), MANY * 36ull, MANY * 2 * 36ull);
	kvc_expiry_close(&expiry);
}

/* Each allocation fails once: nothing is added, and what is there stays. */
static void without_memory(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 3; n++) {
		struct kvc_expiry expiry = {0};
		uint64_t ends_ms;

		for (uint32_t id = 0; id < 64; id++)
			assert_int_equal(kvc_expiry_add(&expiry, id, 10 + id), KVC_OK);
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_expiry_add(&expiry, 64, 1), KVC_NO_MEMORY);
		kvc_alloc_fail_at(0, 0);
		assert_int_equal(expiry.count, 64);
		assert_int_equal(kvc_expiry_first(&expiry, &ends_ms), 0);
		assert_int_equal(kvc_expiry_add(&expiry, 64, 1), KVC_OK);
		assert_int_equal(kvc_expiry_first(&expiry, &ends_ms), 64);
		kvc_expiry_close(&expiry);
		assert_int_equal(kvc_alloc_live(), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(matches_model),
	        cmocka_unit_test(costs_what_it_says),
	        cmocka_unit_test(without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
