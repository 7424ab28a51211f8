/* The extent allocator: random work against a plain map of pages, exact fits, merging, no memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/mem/extent.h"

enum { PAGES = 4096, RUNS = 512, STEPS = 20000 };

struct run {
	uint32_t handle;
	uint32_t pages; /* 0: not reserved */
};

static unsigned seed;
static uint8_t map[PAGES]; /* the model: 1 where a run lies */

static uint32_t below(uint32_t n)
{
	return (uint32_t)rand_r(&seed) % n;
}

static void map_set(uint32_t first, uint32_t pages, uint8_t value)
{
	for (uint32_t i = first; i < first + pages; i++) {
		assert_int_equal(map[i], !value);
		map[i] = value;
	}
}

static uint32_t map_free(void)
{
	uint32_t pages = 0;

	for (uint32_t i = 0; i < PAGES; i++)
		pages += !map[i];
	return pages;
}

static uint32_t map_longest(void)
{
	uint32_t longest = 0, length = 0;

	for (uint32_t i = 0; i < PAGES; i++) {
		length = map[i] ? 0 : length + 1;
		longest = length > longest ? length : longest;
	}
	return longest;
}

static void reserve(struct kvc_extents *x, struct run *run)
{
	uint32_t pages = 1 + below(below(4) ? 16 : 400);
	kvc_status status = kvc_extent_reserve(x, pages, &run->handle);

	if (status == KVC_NO_SPACE) {
		/* It may overlook runs that are less than 1/8 longer, no others. */
		assert_true(map_longest() < pages + pages / 8 + 1);
		return;
	}
	assert_int_equal(status, KVC_OK);
	assert_int_equal(kvc_extent_pages(x, run->handle), pages);
	run->pages = pages;
	map_set(kvc_extent_first(x, run->handle), pages, 1);
}

static void shrink(struct kvc_extents *x, struct run *run)
{
	uint32_t pages = 1 + below(run->pages);
	uint32_t first = kvc_extent_first(x, run->handle);

	assert_int_equal(kvc_extent_shrink(x, run->handle, pages), KVC_OK);
	assert_int_equal(kvc_extent_first(x, run->handle), first);
	map_set(first + pages, run->pages - pages, 0);
	run->pages = pages;
}

static void release(struct kvc_extents *x, struct run *run)
{
	map_set(kvc_extent_first(x, run->handle), run->pages, 0);
	kvc_extent_release(x, run->handle);
	run->pages = 0;
}

static void test_random_against_model(void **state)
{
	static struct run runs[RUNS];
	struct kvc_extents *x;

	(void)state;
	seed = (unsigned)getpid();
	print_message("seed %u\n", seed);
	memset(map, 0, sizeof map);
	assert_int_equal(kvc_extents_open(PAGES, &x), KVC_OK);
	for (int step = 0; step < STEPS; step++) {
		struct run *run = &runs[below(RUNS)];

		if (!run->pages)
			reserve(x, run);
		else if (below(4) == 0)
			shrink(x, run);
		else
			release(x, run);
		if (step % 16 == 0)
			assert_true(kvc_extents_consistent(x));
		assert_int_equal(kvc_extents_free_pages(x), map_free());
	}
	for (int i = 0; i < RUNS; i++)
		if (runs[i].pages)
			release(x, &runs[i]);
	assert_true(kvc_extents_consistent(x));
	assert_int_equal(kvc_extents_free_pages(x), PAGES);
	kvc_extents_close(x);
}

/* All of it in one run, again and again: freeing leaves one free run. */
static void test_whole_pool(void **state)
{
	static const uint32_t sizes[] = {1, 2, 7, 8, 9, 15, 16, 17, 255, 1000, 65537};
	struct kvc_extents *x;
	uint32_t run, more;

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		assert_int_equal(kvc_extents_open(sizes[i], &x), KVC_OK);
		for (int round = 0; round < 3; round++) {
			assert_int_equal(kvc_extent_reserve(x, sizes[i], &run), KVC_OK);
			assert_int_equal(kvc_extent_first(x, run), 0);
			assert_int_equal(kvc_extent_reserve(x, 1, &more), KVC_NO_SPACE);
			kvc_extent_release(x, run);
		}
		assert_int_equal(kvc_extent_reserve(x, sizes[i] + 1, &run), KVC_NO_SPACE);
		assert_true(kvc_extents_consistent(x));
		kvc_extents_close(x);
	}
}

static void test_largest_pool(void **state)
{
	struct kvc_extents *x;
	uint32_t run;

	(void)state;
	assert_int_equal(kvc_extents_open(KVC_EXTENT_NONE - 1, &x), KVC_OK);
	assert_int_equal(kvc_extent_reserve(x, KVC_EXTENT_NONE - 2, &run), KVC_OK);
	assert_int_equal(kvc_extents_free_pages(x), 1);
	kvc_extent_release(x, run);
	assert_true(kvc_extents_consistent(x));
	kvc_extents_close(x);
}

/* Every allocation in turn fails: the table stays whole and the caller is told. */
static void test_without_memory(void **state)
{
	static uint32_t runs[PAGES];
	struct kvc_extents *x = NULL;
	uint32_t used = 0;
	kvc_status status;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_extents_open(PAGES, &x), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_extents_open(PAGES, &x), KVC_OK);
	kvc_alloc_fail_at(1, 1);
	while ((status = kvc_extent_reserve(x, 2, &runs[used])) == KVC_OK)
		used++;
	assert_int_equal(status, KVC_NO_MEMORY);
	assert_int_equal(kvc_extent_shrink(x, runs[0], 1), KVC_NO_MEMORY);
	assert_int_equal(kvc_extent_pages(x, runs[0]), 2);
	assert_true(kvc_extents_consistent(x));
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_extent_shrink(x, runs[0], 1), KVC_OK);
	while (used)
		kvc_extent_release(x, runs[--used]);
	assert_int_equal(kvc_extents_free_pages(x), PAGES);
	kvc_extents_close(x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_random_against_model),
	        cmocka_unit_test(test_whole_pool),
	        cmocka_unit_test(test_largest_pool),
	        cmocka_unit_test(test_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
