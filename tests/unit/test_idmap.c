/* The map from ids to numbers against a plain array. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/cache/idmap.h"
#include "tests/support/prng.h"

enum { IDS = 3000, STEPS = 200000 };

static uint32_t model[IDS];

static void add_or_remove(struct kvc_idmap *map, uint32_t id, uint32_t number)
{
	if (model[id] != KVC_IDMAP_NONE) {
		kvc_idmap_remove(map, id);
		model[id] = KVC_IDMAP_NONE;
		return;
	}
	assert_int_equal(kvc_idmap_reserve(map, map->count + 1), KVC_OK);
	kvc_idmap_add(map, id, number);
	model[id] = number;
}

static void matches_model(void **state)
{
	struct prng random = {42};
	struct kvc_idmap map = {0};
	uint32_t count = 0, seen = 0, slot = 0, id;

	(void)state;
	memset(model, 0xFF, sizeof model);
	for (uint32_t i = 0; i < STEPS; i++) {
		id = prng_below(&random, IDS);
		assert_int_equal(kvc_idmap_get(&map, id), model[id]);
		add_or_remove(&map, id, i);
		assert_int_equal(kvc_idmap_get(&map, id), model[id]);
	}
	for (id = 0; id < IDS; id++)
		count += model[id] != KVC_IDMAP_NONE;
	assert_int_equal(map.count, count);
	while ((id = kvc_idmap_next(&map, &slot)) != KVC_IDMAP_NONE) {
		assert_int_not_equal(model[id], KVC_IDMAP_NONE);
		seen++;
	}
	assert_int_equal(seen, count);
	kvc_idmap_close(&map);
	assert_int_equal(kvc_alloc_live(), 0);
}

static void without_memory(void **state)
{
	struct kvc_idmap map = {0};

	(void)state;
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_idmap_reserve(&map, 1), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_idmap_get(&map, 7), KVC_IDMAP_NONE);
	assert_int_equal(kvc_idmap_reserve(&map, 100), KVC_OK);
	for (uint32_t id = 0; id < 100; id++)
		kvc_idmap_add(&map, id, id);
	kvc_alloc_fail_at(1, 1);
	assert_int_equal(kvc_idmap_reserve(&map, 1000), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_idmap_get(&map, 99), 99);
	kvc_idmap_close(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(matches_model),
	        cmocka_unit_test(without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
