/* The RAM arena: seals, slabs, bounds. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/mem/arena.h"
#include "daemon/mem/memory_limit.h"
#include "tests/support/row.h"

#define ARENA_BYTES (8ull << 20)

static struct kvc_stats *stats;

static int open_stats(void **state)
{
	(void)state;
	return kvc_stats_open(&stats) == KVC_OK ? 0 : 1;
}

static int close_stats(void **state)
{
	(void)state;
	kvc_stats_close(stats);
	kvc_row_end();
	return 0;
}

static void test_descriptor_is_sealed(void **state)
{
	struct kvc_arena *arena;
	int seals;

	(void)state;
	assert_int_equal(kvc_arena_open(ARENA_BYTES + 1, stats, &arena), KVC_OK);
	assert_int_equal(kvc_arena_bytes(arena), ARENA_BYTES);
	seals = fcntl(kvc_arena_fd(arena), F_GET_SEALS);
	assert_int_equal(seals & (F_SEAL_SHRINK | F_SEAL_GROW), F_SEAL_SHRINK | F_SEAL_GROW);
	assert_int_equal(ftruncate(kvc_arena_fd(arena), 0), -1);
	assert_int_equal(errno, EPERM);
	assert_true(fcntl(kvc_arena_fd(arena), F_GETFD) & FD_CLOEXEC);
	kvc_arena_close(arena);
}

/* Mapped where huge pages can be, and in place after a while, if there is memory to spare. */
static void test_pages_are_in_place(void **state)
{
	struct kvc_arena *arena;

	(void)state;
	assert_int_equal(kvc_arena_open(ARENA_BYTES, stats, &arena), KVC_OK);
	assert_int_equal((uintptr_t)kvc_arena_base(arena) % (2u << 20), 0);
	while (!kvc_arena_touched(arena))
		(void)sched_yield();
	assert_int_equal(kvc_stat_get(kvc_stats_cell(stats, "ram.touched_bytes")), ARENA_BYTES);
	kvc_arena_close(arena);
}

static void test_slabs(void **state)
{
	struct kvc_arena *arena;
	uint32_t a, b, c;

	(void)state;
	assert_int_equal(kvc_arena_open(ARENA_BYTES, stats, &arena), KVC_OK);
	assert_int_equal(kvc_slab_reserve(arena, 5000, &a), KVC_OK);
	assert_int_equal(kvc_slab_reserve(arena, ARENA_BYTES - 8192, &b), KVC_OK);
	assert_int_equal(kvc_slab_reserve(arena, 1, &c), KVC_NO_SPACE);
	assert_int_equal(kvc_slab_reserve(arena, ARENA_BYTES + 1, &c), KVC_NO_SPACE);
	assert_int_equal(kvc_slab_bytes(arena, a), 8192);
	assert_int_equal((uintptr_t)kvc_slab_data(arena, a) % KVC_ARENA_PAGE, 0);
	memset(kvc_slab_data(arena, a), 1, 8192);
	memset(kvc_slab_data(arena, b), 2, ARENA_BYTES - 8192);
	assert_int_equal(kvc_slab_data(arena, a)[8191], 1);
	assert_int_equal(kvc_arena_used_bytes(arena), ARENA_BYTES);
	assert_int_equal(kvc_slab_shrink(arena, b, 4096), KVC_OK);
	assert_int_equal(kvc_arena_used_bytes(arena), 12288);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(stats, "ram.used_bytes")), 12288);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(stats, "ram.slabs")), 2);
	kvc_slab_release(arena, a);
	kvc_slab_release(arena, b);
	assert_int_equal(kvc_arena_used_bytes(arena), 0);
	kvc_arena_close(arena);
}

/* Closing at once joins the thread that touches pages. */
static void test_close_while_touching(void **state)
{
	struct kvc_arena *arena;

	(void)state;
	assert_int_equal(kvc_arena_open(256ull << 20, stats, &arena), KVC_OK);
	kvc_arena_close(arena);
}

static void test_refuses_sizes(void **state)
{
	struct kvc_arena *arena = NULL;

	(void)state;
	assert_int_equal(kvc_arena_open(4096, stats, &arena), KVC_INVALID);
	assert_true(kvc_arena_open(1ull << 60, stats, &arena) != KVC_OK);
	assert_null(arena);
}

/* The kernel refuses the memory: a status and a log line, nothing left open. */
static void test_mapping_fails(void **state)
{
	struct rlimit before, none = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
	struct kvc_arena *arena = NULL;
	kvc_status status;

	(void)state;
	KVC_ROW("C3");
	assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
	none.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_AS, &none), 0);
	status = kvc_arena_open(ARENA_BYTES, stats, &arena);
	assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
	assert_int_equal(status, KVC_NO_MEMORY);
	kvc_row.injected++;
	assert_null(arena);
}

static void test_without_heap(void **state)
{
	struct kvc_arena *arena = NULL;
	int64_t live = kvc_alloc_live();

	(void)state;
	KVC_ROW("C1");
	for (uint64_t n = 1; n <= 3; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_arena_open(ARENA_BYTES, stats, &arena), KVC_NO_MEMORY);
		assert_int_equal(kvc_alloc_live(), live);
		kvc_row.injected++;
	}
	kvc_alloc_fail_at(0, 0);
}

static void test_limits_are_read(void **state)
{
	(void)state;
	assert_true(kvc_memory_available() > 0 && kvc_memory_available() < UINT64_MAX);
	assert_true(kvc_memory_cgroup_max() > 0);
}

#define ARENA_TEST(test) cmocka_unit_test_setup_teardown(test, open_stats, close_stats)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ARENA_TEST(test_descriptor_is_sealed), ARENA_TEST(test_slabs),
	        ARENA_TEST(test_pages_are_in_place),   ARENA_TEST(test_close_while_touching),
	        ARENA_TEST(test_refuses_sizes),        ARENA_TEST(test_mapping_fails),
	        ARENA_TEST(test_without_heap),         ARENA_TEST(test_limits_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
