/* The disk tier when the disk misbehaves: errors, lies and damage. Each injected fault must have the outcome
 * that it is to have, and nothing wrong may ever be returned. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/io/io_fault.h"
#include "daemon/tier/segment.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"
#include "tests/support/row.h"

static struct rig rig;

/* What to do to which requests. */
static struct {
	enum kvc_io_op op;
	struct kvc_io_fault fault;
	uint32_t skip;  /* requests of that kind to let pass first */
	uint32_t times; /* then this many are met */
	uint32_t met;
	uint64_t wanted; /* 0: of any length. else only requests of that many bytes */
} plan;

static void plan_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != plan.op || (plan.wanted && req->wanted != plan.wanted))
		return;
	if (plan.skip) {
		plan.skip--;
		return;
	}
	if (!plan.times)
		return;
	plan.times--;
	plan.met++;
	kvc_row.injected++;
	*fault = plan.fault;
}

static void inject(enum kvc_io_op op, struct kvc_io_fault fault, uint32_t times)
{
	memset(&plan, 0, sizeof plan);
	plan.op = op;
	plan.fault = fault;
	plan.times = times;
	kvc_io_fault_install(plan_hook, NULL);
}

#define ERROR_OF(number) ((struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = (number)})

static void inject_nothing(void)
{
	kvc_io_fault_install(NULL, NULL);
}

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	inject_nothing();
	kvc_io_fault_release();
	rig_stop(&rig);
	(void)umount2(rig.directory, MNT_DETACH); /* in case test_small_file_system failed */
	rig_destroy(&rig);
	kvc_row_end();
	return 0;
}

static void store_some(uint32_t first, uint32_t count, uint32_t size)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, size), KVC_OK);
}

/* Good until it was called four times more. */
static char *path_of(const char *name)
{
	static char paths[4][512];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", rig.directory, name);
	return path;
}

static bool writable_again(void *context)
{
	const struct rig *r = context;

	return r->tier->writable;
}

/* --- writes --------------------------------------------------------------------------------------- */

/* The store fails, its segment is retired, the next store goes elsewhere; what was stored before stays. */
static void test_write_error(void **state)
{
	(void)state;
	KVC_ROW("B9");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_WRITE, ERROR_OF(EIO), 1);
	assert_int_equal(rig_store(&rig, 10, 1), KVC_IO);
	inject_nothing();
	assert_int_equal(plan.met, 1);
	assert_int_equal(rig_stat(&rig, "disk.write_errors"), 1);
	assert_int_equal(rig_stat(&rig, "disk.retired_segments"), 1);
	assert_true(rig.tier->writable);
	store_some(20, 3, 1);
	assert_true(rig.blocks[20].record.place.segment != rig.blocks[0].record.place.segment);
	assert_int_equal(rig_check_all(&rig, false), 6);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 6);
}

/* The first of several writes in flight fails: those behind the gap fail too, since no scan would find them,
 * and a sync says so. */
static void test_gap_takes_what_lies_behind(void **state)
{
	struct rig_request *stores[6], *sync;

	(void)state;
	KVC_ROW("B9");
	rig.options.key = NULL; /* a new tenant's key would be the first write */
	rig.options.write_bytes = (uint32_t)rig_record_bytes(1);
	rig_start(&rig);
	store_some(0, 2, 1);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	inject(KVC_IO_WRITE, ERROR_OF(EIO), 1);
	plan.skip = 1;
	for (uint32_t i = 0; i < 6; i++)
		stores[i] = rig_store_begin(&rig, 10 + i, 1);
	sync = rig_sync_begin(&rig);
	assert_int_equal(rig_end(stores[0]), KVC_OK);
	for (uint32_t i = 1; i < 6; i++)
		assert_int_equal(rig_end(stores[i]), KVC_IO);
	assert_int_equal(rig_end(sync), KVC_IO);
	inject_nothing();
	assert_int_equal(rig_sync(&rig), KVC_IO); /* it may have waited for a store that was lost */
	assert_int_equal(rig_sync(&rig), KVC_OK);
	store_some(20, 2, 1);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 5);
}

/* After three failures in a row the tier takes no more stores, loads go on, and it comes back by itself. */
static void test_writing_stops_and_comes_back(void **state)
{
	(void)state;
	KVC_ROW("B9");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_WRITE, ERROR_OF(EIO), 1000);
	for (uint32_t i = 0; i < 10 && rig.tier->writable; i++)
		assert_true(rig_store(&rig, 10 + i, 1) != KVC_OK);
	assert_false(rig.tier->writable);
	assert_int_equal(rig_stat(&rig, "disk.writable"), 0);
	assert_int_equal(rig_stat(&rig, "disk.offs"), 1);
	assert_int_equal(rig_store(&rig, 30, 1), KVC_UNAVAILABLE);
	assert_int_equal(rig_check_all(&rig, false), 3);
	inject_nothing();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	store_some(40, 3, 1);
	assert_int_equal(rig_check_all(&rig, false), 6);
}

/* A disk on which no write ever works: stores are refused, never left waiting, and segments are tried again.
 */
static void test_nothing_can_be_written(void **state)
{
	(void)state;
	KVC_ROW("B9");
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	inject(KVC_IO_WRITE, ERROR_OF(EIO), 1000000);
	for (uint32_t i = 0; i < 40; i++)
		assert_true(rig_store(&rig, i, 1) != KVC_OK);
	inject_nothing();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	store_some(100, 3, 1);
	assert_int_equal(rig_check_all(&rig, false), 3);
}

static void no_space(enum kvc_io_op op)
{
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(op, ERROR_OF(ENOSPC), 1000000);
	for (uint32_t i = 100; i < 300 && rig.tier->writable; i++)
		rig_store(&rig, i, 2);
	assert_false(rig.tier->writable);
	assert_int_equal(rig_store(&rig, 50, 1), KVC_NO_SPACE);
	assert_true(rig_stat(&rig, "disk.no_space") >= 1);
	assert_true(rig_check_all(&rig, false) >= 3);
	inject_nothing();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	store_some(60, 3, 1);
	rig_check_all(&rig, false);
}

/* From the first file on: there is nothing to recycle. */
static void test_no_space_to_allocate(void **state)
{
	(void)state;
	KVC_ROW("B11");
	inject(KVC_IO_ALLOCATE, ERROR_OF(ENOSPC), 1000000);
	assert_int_equal(rig_open(&rig), KVC_OK);
	rig_recover(&rig);
	assert_int_equal(rig_store(&rig, 50, 1), KVC_NO_SPACE);
	assert_false(rig.tier->writable);
	assert_true(rig_stat(&rig, "disk.no_space") >= 1);
	assert_int_equal(rig_stat(&rig, "disk.recycled_for_space"), 0);
	inject_nothing();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	store_some(60, 3, 1);
	assert_int_equal(rig_check_all(&rig, false), 3);
}

static void test_no_space_to_write(void **state)
{
	(void)state;
	KVC_ROW("B11");
	no_space(KVC_IO_WRITE);
}

static uint32_t newest_stored(uint32_t stored, uint32_t count)
{
	uint32_t there = 0;

	for (uint32_t i = stored - count; i < stored; i++)
		there += rig.blocks[i].stored;
	return there;
}

/* No space for more files, some are there: the oldest is recycled, and the tier goes on being written. */
static void test_no_space_recycles(void **state)
{
	(void)state;
	KVC_ROW("B11");
	rig_start(&rig);
	store_some(0, 20, 2);
	inject(KVC_IO_ALLOCATE, ERROR_OF(ENOSPC), 1000000);
	store_some(20, 100, 2);
	inject_nothing();
	assert_true(plan.met >= 1);
	assert_true(rig.tier->writable);
	assert_true(rig_stat(&rig, "disk.recycled_for_space") >= 1);
	assert_true(rig_stat(&rig, "disk.reclaimed_records") > 0);
	assert_true(rig_stat(&rig, "disk.free_segments") > 8);
	assert_int_equal(newest_stored(120, 6), 6);
	rig_check_all(&rig, false);
}

/* A real file system that is smaller than the tier. */
static void test_small_file_system(void **state)
{
	(void)state;
	KVC_ROW("B11");
	if (mount("tmpfs", rig.directory, "tmpfs", 0, "size=6m,mode=0700")) {
		print_message("SKIP: no tmpfs can be mounted here: %s\n", strerror(errno));
		skip();
	}
	rig_start(&rig);
	store_some(0, 200, 2);
	kvc_row.injected += (uint64_t)rig_stat(&rig, "disk.recycled_for_space");
	assert_true(rig_stat(&rig, "disk.recycled_for_space") >= 1);
	assert_true(rig.tier->writable);
	assert_int_equal(newest_stored(200, 12), 12);
	assert_true(rig_check_all(&rig, false) >= 12);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(newest_stored(200, 12), 12);
	store_some(300, 20, 2);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	assert_int_equal(umount(rig.directory), 0);
}

static void test_file_size_limit(void **state)
{
	struct rlimit before, limit;
	uint32_t stored;

	(void)state;
	KVC_ROW("B12");
	rig_start(&rig);
	store_some(0, 3, 1);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = (struct rlimit){.rlim_cur = 512 * 1024, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	for (stored = 0; stored < 40 && rig_store(&rig, 100 + stored, 2) == KVC_OK; stored++)
		;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	kvc_row.injected += stored < 40;
	assert_true(stored < 40);
	assert_true(rig_check_all(&rig, false) >= 3);
}

/* --- syncs ---------------------------------------------------------------------------------------- */

/* Never success after a failed sync: what was not synced is lost and told, what was stays. */
static void test_sync_error(void **state)
{
	(void)state;
	KVC_ROW("B10");
	rig_start(&rig);
	store_some(0, 3, 1);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	store_some(10, 4, 1);
	inject(KVC_IO_SYNC, ERROR_OF(EIO), 1);
	assert_int_equal(rig_sync(&rig), KVC_IO);
	inject_nothing();
	assert_int_equal(plan.met, 1);
	for (uint32_t i = 10; i < 14; i++)
		assert_false(rig.blocks[i].stored);
	assert_int_equal(rig_stat(&rig, "disk.sync_errors"), 1);
	assert_int_equal(rig_stat(&rig, "disk.lost_records"), 4);
	assert_int_equal(rig_stat(&rig, "disk.retired_segments"), 1);
	assert_int_equal(rig_check_all(&rig, false), 3);
	assert_int_equal(rig_sync(&rig),
	                 KVC_IO); /* submitted after the loss: it may have waited for the lost */
	store_some(20, 2, 1);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	assert_true(rig_check_all(&rig, false) >= 5);
}

/* Many syncs at once are one round. */
static void test_syncs_are_grouped(void **state)
{
	struct rig_request *syncs[10];

	(void)state;
	rig_start(&rig);
	store_some(0, 3, 1);
	for (uint32_t i = 0; i < 10; i++)
		syncs[i] = rig_sync_begin(&rig);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(rig_end(syncs[i]), KVC_OK);
	assert_int_equal(rig_stat(&rig, "disk.syncs"), 1);
}

/* A sync waits for the writes that are in flight when it comes. */
static void test_sync_waits_for_writes(void **state)
{
	struct rig_request *store, *sync;

	(void)state;
	rig_start(&rig);
	store_some(0, 1, 1);
	inject(KVC_IO_WRITE, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD}, 1);
	plan.wanted = rig_record_bytes(1);
	store = rig_store_begin(&rig, 1, 1);
	while (!kvc_io_fault_held())
		kvc_loop_turn(rig.loop);
	sync = rig_sync_begin(&rig);
	for (int i = 0; i < 5; i++)
		rig_load(&rig, 0);
	assert_false(sync->done);
	inject_nothing();
	kvc_io_fault_release();
	assert_int_equal(rig_end(sync), KVC_OK);
	assert_true(store->done);
	assert_int_equal(rig_end(store), KVC_OK);
}

/* --- reads ---------------------------------------------------------------------------------------- */

static void test_read_error(void **state)
{
	(void)state;
	KVC_ROW("B8");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_READ, ERROR_OF(EIO), 1);
	assert_int_equal(rig_end(rig_load_begin(&rig, 1)), KVC_IO);
	inject_nothing();
	assert_int_equal(rig_stat(&rig, "disk.read_errors"), 1);
	assert_int_equal(rig_check_all(&rig, false), 3);
}

/* Many read errors in a minute: the tier is off, and comes back by itself. */
static void test_reading_stops_and_comes_back(void **state)
{
	(void)state;
	KVC_ROW("B8");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_READ, ERROR_OF(EIO), 1000);
	for (uint32_t i = 0; i < 40 && rig.tier->writable; i++)
		assert_int_equal(rig_end(rig_load_begin(&rig, 1)), KVC_IO);
	assert_int_equal(plan.met, 16);
	assert_int_equal(rig_end(rig_load_begin(&rig, 1)), KVC_UNAVAILABLE);
	assert_int_equal(rig_store(&rig, 5, 1), KVC_UNAVAILABLE);
	inject_nothing();
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	assert_int_equal(rig_check_all(&rig, false), 3);
}

/* A record that comes back damaged is read once more. */
static void test_mismatch_is_read_again(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_READ, (struct kvc_io_fault){.kind = KVC_FAULT_FLIP, .bytes = 100, .bit = 2}, 1);
	assert_int_equal(rig_load(&rig, 1), RIG_RIGHT);
	assert_int_equal(rig_stat(&rig, "disk.corrupt"), 0);
	inject(KVC_IO_READ, (struct kvc_io_fault){.kind = KVC_FAULT_FLIP, .bytes = 100, .bit = 2}, 2);
	assert_int_equal(rig_end(rig_load_begin(&rig, 1)), KVC_CORRUPT);
	assert_int_equal(rig_stat(&rig, "disk.corrupt"), 1);
}

/* A read that brings something else: an old version of the place, another record. */
static void test_misdirected_read(void **state)
{
	(void)state;
	KVC_ROW("B6");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_READ,
	       (struct kvc_io_fault){.kind = KVC_FAULT_MISDIRECT,
	                             .offset = (uint64_t)rig.blocks[2].record.place.page * KVC_PAGE_BYTES},
	       2);
	assert_int_equal(rig_end(rig_load_begin(&rig, 1)), KVC_CORRUPT);
	inject_nothing();
	assert_int_equal(rig_check_all(&rig, false), 3);
}

static bool off(void *context)
{
	return !writable_again(context);
}

/* A read that never ends: the tier is off for all others within seconds, and on again once it has ended. */
static void test_hanging_read(void **state)
{
	struct rig_request *hangs, *waits;

	(void)state;
	KVC_ROW("B19 B20");
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_READ, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD}, 1);
	hangs = rig_load_begin(&rig, 1);
	assert_true(kvc_test_run_until(rig.loop, off, &rig, 20000));
	inject_nothing();
	assert_false(hangs->done);
	assert_int_equal(rig_stat(&rig, "disk.stalls"), 1);
	assert_int_equal(rig_end(rig_load_begin(&rig, 2)), KVC_UNAVAILABLE);
	assert_int_equal(rig_store(&rig, 5, 1), KVC_UNAVAILABLE);
	assert_false(kvc_test_run_until(rig.loop, writable_again, &rig, 1500));
	kvc_io_fault_release();
	assert_int_equal(rig_load_end(hangs), RIG_RIGHT);
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	waits = rig_load_begin(&rig, 2);
	assert_int_equal(rig_load_end(waits), RIG_RIGHT);
}

/* The same of a write; stores that wait behind it are answered. */
static void test_hanging_write(void **state)
{
	struct rig_request *hangs[20];

	(void)state;
	KVC_ROW("B19 B20");
	rig.options.write_bytes = (uint32_t)rig_record_bytes(1);
	rig_start(&rig);
	store_some(0, 3, 1);
	inject(KVC_IO_WRITE, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD}, 1000);
	for (uint32_t i = 0; i < 20; i++)
		hangs[i] = rig_store_begin(&rig, 10 + i, 1);
	assert_true(kvc_test_run_until(rig.loop, off, &rig, 20000));
	assert_int_equal(rig_end(hangs[19]), KVC_UNAVAILABLE);
	assert_false(hangs[0]->done);
	inject_nothing();
	kvc_io_fault_release();
	for (uint32_t i = 0; i < 19; i++)
		(void)rig_end(hangs[i]);
	assert_true(kvc_test_run_until(rig.loop, writable_again, &rig, 20000));
	store_some(40, 3, 1);
	rig_check_all(&rig, false);
}

/* --- lies of writes ------------------------------------------------------------------------------- */

/* Torn, lost, misdirected and flipped writes at every kind of place in a record: what comes back is right, or
 * found out. Then all of it again after a restart. */
static void lie(struct kvc_io_fault fault)
{
	rig_start(&rig);
	store_some(0, 4, 1);
	inject(KVC_IO_WRITE, fault, 1);
	assert_int_equal(rig_store(&rig, 10, 1), KVC_OK);
	inject_nothing();
	assert_int_equal(plan.met, 1);
	store_some(20, 2, 1);
	rig_check_all(&rig, true);
	rig_stop(&rig);
	rig_start(&rig);
	rig_check_all(&rig, true);
	store_some(30, 2, 1);
	rig_check_all(&rig, true);
	rig_stop(&rig);
}

static void test_torn_writes(void **state)
{
	uint64_t bytes = rig_record_bytes(1);

	(void)state;
	KVC_ROW("B1");
	for (uint64_t n = 0; n < bytes; n += n < 2048 ? 256 : 4096 + 512)
		lie((struct kvc_io_fault){.kind = KVC_FAULT_TORN, .bytes = n});
}

static void test_lost_write(void **state)
{
	(void)state;
	KVC_ROW("B7");
	lie((struct kvc_io_fault){.kind = KVC_FAULT_LOST});
}

/* A good record in the wrong place destroys what is there, and is not taken for anything. */
static void test_misdirected_writes(void **state)
{
	uint64_t pages = rig_record_bytes(1) / KVC_PAGE_BYTES;

	(void)state;
	KVC_ROW("B5");
	for (uint64_t page = 0; page < 4 * pages; page += pages - 1)
		lie((struct kvc_io_fault){.kind = KVC_FAULT_MISDIRECT, .offset = page * KVC_PAGE_BYTES});
}

static void test_flipped_writes(void **state)
{
	struct prng prng = {.state = prng_seed("test_flipped_writes")};
	uint64_t bytes = rig_record_bytes(0);

	(void)state;
	KVC_ROW("B3");
	for (uint32_t i = 0; i < 40; i++)
		lie((struct kvc_io_fault){.kind = KVC_FAULT_FLIP,
		                          .bytes = prng_below(&prng, (uint32_t)bytes),
		                          .bit = (uint8_t)prng_below(&prng, 8)});
}

/* --- files ---------------------------------------------------------------------------------------- */

/* The files are cut, deleted or exchanged while the tier runs, and found so at the next start. */
static void test_cut_files(void **state)
{
	(void)state;
	KVC_ROW("B23");
	rig_start(&rig);
	store_some(0, 20, 2);
	assert_int_equal(truncate(path_of("segments/0"), 300 * 1024), 0);
	kvc_row.injected++;
	rig_check_all(&rig, true);
	assert_true(rig_stat(&rig, "disk.missing") > 0);
	store_some(100, 20, 2);
	rig_check_all(&rig, true);
	rig_stop(&rig);
	assert_int_equal(truncate(path_of("segments/1"), 700 * 1024 + 17), 0);
	assert_int_equal(truncate(path_of("segments/2"), 100), 0);
	kvc_row.injected += 2;
	rig_start(&rig);
	rig_check_all(&rig, true);
	store_some(200, 60, 2);
	rig_check_all(&rig, true);
}

static void test_deleted_directory(void **state)
{
	(void)state;
	KVC_ROW("B23");
	rig_start(&rig);
	store_some(0, 10, 2);
	kvc_test_temp_dir_remove(rig.directory);
	kvc_row.injected++;
	assert_int_equal(rig_check_all(&rig, false), 10);
	for (uint32_t i = 100; i < 200; i++)
		rig_store(&rig, i, 2); /* may fail; must not hang */
	rig_check_all(&rig, true);
	rig_stop(&rig);
}

static void test_exchanged_files(void **state)
{
	(void)state;
	KVC_ROW("B23");
	rig_start(&rig);
	store_some(0, 20, 2);
	rig_stop(&rig);
	assert_int_equal(rename(path_of("segments/0"), path_of("other")), 0);
	assert_int_equal(rename(path_of("segments/1"), path_of("segments/0")), 0);
	assert_int_equal(rename(path_of("other"), path_of("segments/1")), 0);
	kvc_row.injected++;
	rig_start(&rig);
	assert_true(rig.recovered < 20);
	rig_check_all(&rig, false);
	store_some(100, 30, 2);
	rig_check_all(&rig, false);
}

/* Segments that another instance wrote do not count, however sound they are. */
static void test_another_instance(void **state)
{
	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	store_some(0, 20, 2);
	rig_stop(&rig);
	assert_int_equal(unlink(path_of("super")), 0);
	/* What super_create removes, a half-done copy can bring back. */
	assert_int_equal(rename(path_of("segments"), path_of("kept")), 0);
	rig_start(&rig);
	rig_stop(&rig);
	assert_int_equal(rename(path_of("segments"), path_of("empty")), 0);
	assert_int_equal(rename(path_of("kept"), path_of("segments")), 0);
	kvc_row.injected++;
	rig_start(&rig);
	assert_int_equal(rig.recovered, 0);
}

/* Every page of a segment is overwritten in turn, before a start: what is recovered is right or found out. */
static void test_damaged_pages(void **state)
{
	struct prng prng = {.state = prng_seed("test_damaged_pages")};

	(void)state;
	KVC_ROW("B4");
	rig_start(&rig);
	store_some(0, 6, 1);
	rig_stop(&rig);
	for (uint32_t page = 0; page < 64; page += 3) {
		uint8_t noise[KVC_PAGE_BYTES], kept[KVC_PAGE_BYTES];
		int fd = open(path_of("segments/0"), O_RDWR);

		for (uint32_t i = 0; i < sizeof noise; i++)
			noise[i] = (uint8_t)prng_next(&prng);
		assert_int_equal(pread(fd, kept, sizeof kept, page * KVC_PAGE_BYTES), sizeof kept);
		assert_int_equal(pwrite(fd, noise, sizeof noise, page * KVC_PAGE_BYTES), sizeof noise);
		kvc_row.injected++;
		rig.options.verify_on_start = page % 2;
		rig_start(&rig);
		rig_check_all(&rig, true);
		rig_stop(&rig);
		assert_int_equal(pwrite(fd, kept, sizeof kept, page * KVC_PAGE_BYTES), sizeof kept);
		close(fd);
	}
}

/* An older superblock comes back, with newer segments: no epoch is used again. */
static void test_older_superblock(void **state)
{
	uint8_t super[2 * KVC_PAGE_BYTES];
	uint64_t epoch;
	int fd;

	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	fd = open(path_of("super"), O_RDWR);
	assert_int_equal(pread(fd, super, sizeof super, 0), sizeof super);
	store_some(0, 1000, 2);
	epoch = rig.blocks[999].record.epoch;
	rig_stop(&rig);
	assert_int_equal(pwrite(fd, super, sizeof super, 0), sizeof super);
	kvc_row.injected++;
	close(fd);
	rig_start(&rig);
	rig_check_all(&rig, false);
	store_some(2000, 3, 2);
	assert_true(rig.blocks[2000].record.epoch > epoch);
}

/* The header of a segment names an epoch from where no counting goes on. Nothing else is lost. */
static void test_epochs_of_no_use(void **state)
{
	struct kvc_segment_header header = {.number = 1, .segment_bytes = 1u << 20};
	uint8_t page[KVC_PAGE_BYTES];

	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	for (header.epoch = UINT64_MAX - 70; header.epoch > UINT64_MAX / 3; header.epoch /= 2) {
		int fd = open(path_of("segments/1"), O_RDWR | O_CREAT, 0600);

		store_some(0, 300, 2);
		rig_stop(&rig);
		memcpy(header.instance, rig.blocks[299].record.device, sizeof header.instance);
		kvc_segment_header_encode(&header, page);
		assert_int_equal(pwrite(fd, page, sizeof page, 0), sizeof page);
		close(fd);
		kvc_row.injected++;
		rig_start(&rig);
		assert_true(rig_check_all(&rig, false) > 0);
	}
}

/* --- memory --------------------------------------------------------------------------------------- */

/* Every allocation of a life of the tier fails in turn, once, then from there on for a while. */
static void test_without_memory(void **state)
{
	int64_t live;

	(void)state;
	rig_start(&rig);
	store_some(0, 20, 1);
	rig_stop(&rig);
	live = kvc_alloc_live();
	for (uint64_t n = 1; n <= 40; n++) {
		kvc_status status;

		kvc_alloc_fail_at(n, n % 2);
		status = rig_open(&rig);
		if (status == KVC_OK) {
			rig_recover(&rig);
			for (uint32_t i = 100; i < 120; i++)
				rig_store(&rig, i, 1);
			rig_sync(&rig);
			kvc_alloc_fail_at(0, 0);
			rig_check_all(&rig, false);
			rig_stop(&rig);
		} else {
			kvc_alloc_fail_at(0, 0);
			assert_int_equal(status, KVC_NO_MEMORY);
		}
		assert_int_equal(kvc_alloc_live(), live);
	}
	rig_start(&rig);
	assert_true(rig_check_all(&rig, false) >= 20);
}

#define FAULT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        FAULT_TEST(test_write_error),
	        FAULT_TEST(test_gap_takes_what_lies_behind),
	        FAULT_TEST(test_writing_stops_and_comes_back),
	        FAULT_TEST(test_nothing_can_be_written),
	        FAULT_TEST(test_no_space_to_allocate),
	        FAULT_TEST(test_no_space_to_write),
	        FAULT_TEST(test_no_space_recycles),
	        FAULT_TEST(test_small_file_system),
	        FAULT_TEST(test_file_size_limit),
	        FAULT_TEST(test_sync_error),
	        FAULT_TEST(test_syncs_are_grouped),
	        FAULT_TEST(test_sync_waits_for_writes),
	        FAULT_TEST(test_read_error),
	        FAULT_TEST(test_reading_stops_and_comes_back),
	        FAULT_TEST(test_mismatch_is_read_again),
	        FAULT_TEST(test_misdirected_read),
	        FAULT_TEST(test_hanging_read),
	        FAULT_TEST(test_hanging_write),
	        FAULT_TEST(test_torn_writes),
	        FAULT_TEST(test_lost_write),
	        FAULT_TEST(test_misdirected_writes),
	        FAULT_TEST(test_flipped_writes),
	        FAULT_TEST(test_cut_files),
	        FAULT_TEST(test_deleted_directory),
	        FAULT_TEST(test_exchanged_files),
	        FAULT_TEST(test_another_instance),
	        FAULT_TEST(test_damaged_pages),
	        FAULT_TEST(test_older_superblock),
	        FAULT_TEST(test_epochs_of_no_use),
	        FAULT_TEST(test_without_memory),
	};

	return RIG_RUN_BOTH(tests);
}
