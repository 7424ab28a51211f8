/* What stores wait for does not come: they are answered, the tier takes no more of them, what is there is
 * still read, and it comes back by itself. Either one of the tier's own jobs hangs, or there is no segment to
 * be had. Loads and writes that hang are in test_disk_fault.c. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

enum {
	SIZE = 2,    /* of what is stored, seven to a segment */
	READ = 4000, /* a block of another size, for loads beside */
	OFF_MS = 20000,
	WAITING = 20,
};

static struct rig rig;

/* What is held. */
static struct {
	enum kvc_io_op op;
	uint64_t bytes; /* 0: of any length */
} plan;

static void hold_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != plan.op || (plan.bytes && req->wanted != plan.bytes))
		return;
	kvc_row.injected++;
	fault->kind = KVC_FAULT_HOLD;
}

static void hold(enum kvc_io_op op, uint64_t bytes)
{
	plan.op = op;
	plan.bytes = bytes;
	kvc_io_fault_install(hold_hook, NULL);
}

static void release(void)
{
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
}

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
	release();
	rig_destroy(&rig);
	kvc_row_end();
	return 0;
}

static void store_some(uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
}

/* Loads go on all the time. */
static bool off(void *context)
{
	struct rig *r = context;

	if (r->blocks[READ].stored)
		assert_int_equal(rig_load(r, READ), RIG_RIGHT);
	return !r->tier->writable;
}

static bool writable_again(void *context)
{
	const struct rig *r = context;

	return r->tier->writable;
}

static void stays_off_until_release(void)
{
	assert_int_equal(rig_stat(&rig, "disk.stalls"), 1);
	assert_int_equal(rig_store(&rig, 3000, SIZE), KVC_UNAVAILABLE);
	assert_false(kvc_test_run_until(rig.loop, writable_again, &rig, 1500)); /* it was tried meanwhile */
	release();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, OFF_MS));
	store_some(3100, 3);
	rig_check_all(&rig, false);
}

/* Stores more than the open segment and the one in reserve can take. */
static void waiting_stores_are_answered(void)
{
	struct rig_request *stores[WAITING];

	for (uint32_t i = 0; i < WAITING; i++)
		stores[i] = rig_store_begin(&rig, 2000 + i, SIZE);
	assert_true(kvc_test_run_until(rig.loop, off, &rig, OFF_MS));
	assert_true(kvc_io_fault_held() > 0);
	for (uint32_t i = 0; i < WAITING - 1; i++)
		(void)rig_end(stores[i]);
	assert_int_equal(rig_end(stores[WAITING - 1]), KVC_UNAVAILABLE);
}

/* --- jobs that hang ------------------------------------------------------------------------------- */

static void test_hanging_prepare(void **state)
{
	(void)state;
	KVC_ROW("B19 B20");
	rig_start(&rig);
	store_some(0, 1);
	assert_int_equal(rig_store(&rig, READ, 1), KVC_OK);
	hold(KVC_IO_ALLOCATE, 0);
	waiting_stores_are_answered();
	stays_off_until_release();
}

static void test_hanging_copy(void **state)
{
	(void)state;
	KVC_ROW("B19 B20");
	rig_start(&rig);
	store_some(0, 85);
	assert_int_equal(rig_store(&rig, READ, 1), KVC_OK);
	for (uint32_t i = 0; i < 85; i += 3)
		rig.blocks[i].used = true;
	hold(KVC_IO_READ, rig_record_bytes(SIZE));
	for (uint32_t i = 0; !kvc_io_fault_held(); i++)
		store_some(1000 + i, 1);
	waiting_stores_are_answered();
	stays_off_until_release();
}

static void test_hanging_sync(void **state)
{
	struct rig_request *sync;

	(void)state;
	KVC_ROW("B19 B20");
	rig_start(&rig);
	store_some(0, 3);
	assert_int_equal(rig_store(&rig, READ, 1), KVC_OK);
	hold(KVC_IO_SYNC, 0);
	sync = rig_sync_begin(&rig);
	assert_true(kvc_test_run_until(rig.loop, off, &rig, OFF_MS));
	assert_false(sync->done);
	stays_off_until_release();
	assert_int_equal(rig_end(sync), KVC_OK);
}

/* Of the tenant whose key is being written, and of one that comes meanwhile. */
static void test_hanging_keyring(void **state)
{
	struct rig_request *first, *second;

	(void)state;
	KVC_ROW("B19 B20");
	rig.options.key = &rig.key;
	rig_start(&rig);
	hold(KVC_IO_WRITE, 0);
	first = rig_store_begin(&rig, 0, SIZE);
	while (!kvc_io_fault_held())
		kvc_loop_turn(rig.loop);
	second = rig_store_begin(&rig, 1, SIZE);
	assert_true(kvc_test_run_until(rig.loop, off, &rig, OFF_MS));
	assert_int_equal(rig_end(first), KVC_UNAVAILABLE);
	assert_int_equal(rig_end(second), KVC_UNAVAILABLE);
	stays_off_until_release();
}

/* --- no segment ----------------------------------------------------------------------------------- */

static struct {
	bool records_fail;
	bool allocations_held;
} trouble;

/* There is no space for another file, and on demand what is written into those that are there fails. */
static void full_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op == KVC_IO_ALLOCATE && trouble.allocations_held)
		fault->kind = KVC_FAULT_HOLD;
	else if (req->op == KVC_IO_ALLOCATE)
		*fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = ENOSPC};
	else if (trouble.records_fail && req->op == KVC_IO_WRITE && req->wanted == rig_record_bytes(SIZE))
		*fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO};
	kvc_row.injected += fault->kind == KVC_FAULT_ERROR;
}

/* The files that are there are recycled until writes have failed too often in each; then another one is tried
 * all the same. A success behind each failure, so that it is not they that stop the writing. */
static void recycle_up(void)
{
	kvc_io_fault_install(full_hook, NULL);
	for (uint32_t i = 0; !rig_stat(&rig, "disk.recycled_for_space"); i++)
		store_some(100 + i, 1);
	trouble.allocations_held = true;
	for (uint32_t i = 0; i < 40 && !kvc_io_fault_held(); i++) {
		trouble.records_fail = i % 2;
		assert_int_equal(rig_store(&rig, 200 + i, SIZE), i % 2 ? KVC_IO : KVC_OK);
	}
	assert_true(kvc_io_fault_held() > 0);
	trouble.records_fail = true;
	assert_int_equal(rig_store(&rig, 300, SIZE), KVC_IO); /* in the last one */
	trouble.records_fail = false;
	assert_true(rig.tier->writable);
}

/* Stores that wait for a segment then are answered. */
static void test_nothing_to_recycle(void **state)
{
	struct rig_request *stores[WAITING];

	(void)state;
	KVC_ROW("B11");
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	store_some(0, 8); /* one segment is full, the next one open */
	recycle_up();
	for (uint32_t i = 0; i < WAITING; i++)
		stores[i] = rig_store_begin(&rig, 2000 + i, SIZE);
	trouble.allocations_held = false;
	kvc_io_fault_release();
	for (uint32_t i = 0; i < WAITING; i++)
		assert_int_equal(rig_end(stores[i]), KVC_NO_SPACE);
	assert_false(rig.tier->writable);
	assert_int_equal(rig_store(&rig, 3000, SIZE), KVC_NO_SPACE);
	assert_int_equal(rig_stat(&rig, "disk.offs"), 1);
	release();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, OFF_MS));
	store_some(3100, 3);
	rig_check_all(&rig, false);
}

#define WAIT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WAIT_TEST(test_nothing_to_recycle), WAIT_TEST(test_hanging_prepare),
	        WAIT_TEST(test_hanging_copy),       WAIT_TEST(test_hanging_sync),
	        WAIT_TEST(test_hanging_keyring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
