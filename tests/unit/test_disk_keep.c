/* Reclaiming spares what was used: it is written again first, within bounds, and never wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/prng.h"

enum { SIZE = 2, SEGMENTS = 16, ROUND = SEGMENTS * 7 }; /* records of that size that fill the tier */

static struct rig rig;

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	rig_destroy(&rig);
	return 0;
}

static void store_some(uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
}

static void use(uint32_t first, uint32_t count, uint32_t step)
{
	for (uint32_t i = first; i < first + count; i += step)
		rig.blocks[i].used = true;
}

/* One of seven, which fits the bound: all stay as long as they are used again. */
static void test_used_blocks_stay(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 70);
	for (uint32_t round = 0; round < 3; round++) {
		use(0, 70, 7);
		store_some(1000 + round * ROUND, ROUND * 3 / 4); /* less than a round with the copies */
	}
	assert_true(rig.moved >= 20);
	assert_true(rig_stat(&rig, "disk.kept_records") >= 20);
	for (uint32_t i = 0; i < 70; i += 7) {
		assert_true(rig.blocks[i].stored);
		assert_int_equal(rig_load(&rig, i), RIG_RIGHT);
	}
	assert_false(rig.blocks[1].stored);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	for (uint32_t i = 0; i < 70; i += 7)
		assert_int_equal(rig_load(&rig, i), RIG_RIGHT);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

/* Everything is used all the time: no more than a quarter is written again, and stores go on. */
static void test_bounded(void **state)
{
	int64_t kept, stored;

	(void)state;
	rig_start(&rig);
	for (uint32_t round = 0; round < 4; round++)
		for (uint32_t i = 0; i < ROUND; i++) {
			store_some(ROUND * (round % 2) + i, 1);
			use(0, 2 * ROUND, 1);
		}
	kept = rig_stat(&rig, "disk.kept_bytes");
	stored = 4 * ROUND * (int64_t)rig_record_bytes(SIZE);
	assert_true(kept > 0);
	assert_true(kept <= stored / 3); /* a quarter of what is reclaimed, to make room for three */
	rig_check_all(&rig, false);
}

/* --- faults --------------------------------------------------------------------------------------- */

static struct {
	enum kvc_io_op op;
	struct kvc_io_fault fault;
	uint32_t one_in;
	uint32_t seen;
	uint32_t met;
} plan;

static void on_plan(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != plan.op || req->wanted != rig_record_bytes(SIZE) || plan.seen++ % plan.one_in)
		return;
	plan.met++;
	*fault = plan.fault;
}

static void fault_some(enum kvc_io_op op, uint32_t one_in, struct kvc_io_fault fault)
{
	plan.op = op;
	plan.fault = fault;
	plan.one_in = one_in;
	plan.seen = plan.met = 0;
	kvc_io_fault_install(on_plan, NULL);
}

static void go_round(void)
{
	for (uint32_t i = 0; i < 70; i++)
		(void)rig_store(&rig, i, SIZE);
	use(0, 70, 7);
	for (uint32_t i = 0; i < ROUND; i++)
		(void)rig_store(&rig, 1000 + i, SIZE);
}

/* A record that cannot be read, or not soundly, is not kept; the others are. */
static void test_read_fails(void **state)
{
	static const struct kvc_io_fault faults[] = {
	        {.kind = KVC_FAULT_ERROR, .error = EIO},
	        {.kind = KVC_FAULT_FLIP, .bytes = 40, .bit = 3},
	        {.kind = KVC_FAULT_FLIP, .bytes = 600, .bit = 1},
	        {.kind = KVC_FAULT_FLIP, .bytes = 60000, .bit = 7},
	};

	(void)state;
	for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++) {
		rig_start(&rig);
		fault_some(KVC_IO_READ, 2, faults[i]);
		go_round();
		kvc_io_fault_install(NULL, NULL);
		assert_true(plan.met > 0);
		assert_true(rig.moved > 0);
		rig_check_all(&rig, true);
		rig_stop(&rig);
	}
}

static void test_write_fails(void **state)
{
	(void)state;
	rig_start(&rig);
	fault_some(KVC_IO_WRITE, 20, (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO});
	go_round();
	kvc_io_fault_install(NULL, NULL);
	assert_true(plan.met > 0);
	rig_check_all(&rig, false);
}

/* The tier closes while copies are read or written. */
static void test_close_meanwhile(void **state)
{
	struct prng prng = {.state = prng_seed("test_disk_keep")};

	(void)state;
	for (uint32_t round = 0; round < 12; round++) {
		struct rig_request *requests[40];
		uint32_t count = 20 + prng_below(&prng, 20);

		rig_start(&rig);
		store_some(0, 105);
		use(0, 105, 3);
		for (uint32_t i = 0; i < count; i++)
			requests[i] = rig_store_begin(&rig, 1000 + i, SIZE);
		for (uint32_t i = 0; i < count; i++)
			assert_int_equal(rig_end(requests[i]), KVC_OK);
		rig_stop(&rig);
		rig_start(&rig);
		assert_int_equal(rig_check_all(&rig, false), rig.recovered);
		rig_stop(&rig);
	}
}

/* Its owner drops the block while it is being copied. */
static void test_dropped_meanwhile(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 105);
	use(0, 105, 3);
	fault_some(KVC_IO_READ, 1, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD});
	for (uint32_t i = 0; i < 12 && !kvc_io_fault_held(); i++)
		store_some(1000 + i, 1);
	assert_true(kvc_io_fault_held() > 0);
	for (uint32_t i = 0; i < 105; i += 3)
		if (rig.blocks[i].stored)
			rig_forget(&rig, i);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	store_some(1100, ROUND);
	rig_check_all(&rig, false);
	for (uint32_t i = 0; i < 105; i += 3)
		assert_false(rig.blocks[i].stored);
}

static void forget_all(void)
{
	for (uint32_t i = 0; i < RIG_BLOCKS; i++)
		if (rig.blocks[i].stored)
			rig_forget(&rig, i);
}

/* Its owner drops all of a segment while some of it is being copied: its room serves again. */
static void test_all_dropped_meanwhile(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 105);
	use(0, 105, 3);
	fault_some(KVC_IO_READ, 1, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD});
	for (uint32_t i = 0; i < 12 && !kvc_io_fault_held(); i++)
		store_some(1000 + i, 1);
	assert_true(kvc_io_fault_held() > 0);
	forget_all();
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	store_some(1100, 2 * ROUND);
	rig_check_all(&rig, false);
	forget_all();
	assert_int_equal(rig_stat(&rig, "disk.free_segments"), SEGMENTS - 2); /* one open, one ready */
}

#define KEEP_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEEP_TEST(test_used_blocks_stay),
	        KEEP_TEST(test_bounded),
	        KEEP_TEST(test_read_fails),
	        KEEP_TEST(test_write_fails),
	        KEEP_TEST(test_close_meanwhile),
	        KEEP_TEST(test_dropped_meanwhile),
	        KEEP_TEST(test_all_dropped_meanwhile),
	};

	return RIG_RUN_BOTH(tests);
}
