/* Starting from a checkpoint: it is used where it holds, costs nothing where it does not, and never brings
 * back what is not there. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "daemon/tier/checkpoint.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"

enum { SEGMENT = 1 << 20 };

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

static void store_some(uint32_t first, uint32_t count, uint32_t size)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, size), KVC_OK);
}

static char *path_of(const char *name)
{
	static char path[512];

	snprintf(path, sizeof path, "%s/%s", rig.directory, name);
	return path;
}

/* The stop writes one; the start after it reads nothing else of the segments than their headers. */
static void test_saves_the_summaries(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 60);
	assert_true(rig_stat(&rig, "disk.recovered_by_checkpoint") >= 8);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_summary"), 0);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 0);
	assert_int_equal(rig_check_all(&rig, false), 60);
	store_some(100, 10, 2); /* numbers go on, and the other file serves next */
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 70);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_summary"), 0);
	assert_int_equal(rig_check_all(&rig, false), 70);
}

/* What was dropped stays dropped, which a summary or scan would bring back. */
static void test_dropped_stays_dropped(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	for (uint32_t i = 0; i < 60; i += 2)
		rig_forget(&rig, i);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 30);
	assert_int_equal(rig_check_all(&rig, false), 30);
	assert_int_equal(rig_stat(&rig, "disk.records"), 30);
	store_some(1000, 300, 2); /* twice round, over segments with gaps */
	rig_check_all(&rig, false);
}

/* Also where nothing of a segment is left, and after more starts than one. */
static void test_all_dropped_stays_dropped(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	for (uint32_t i = 0; i < 60; i++)
		rig_forget(&rig, i);
	for (uint32_t i = 0; i < 3; i++) {
		rig_stop(&rig);
		rig_start(&rig);
		assert_int_equal(rig.recovered, 0);
		assert_int_equal(rig_stat(&rig, "disk.bad_checkpoints"), 0);
		assert_int_equal(rig_stat(&rig, "disk.free_segments") + 1, rig_stat(&rig, "disk.segments"));
	}
	store_some(100, 60, 2); /* the same segments, in other epochs */
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 60);
	assert_int_equal(rig_check_all(&rig, false), 60);
}

/* A crash after a checkpoint and more writes: old segments by checkpoint, new and reused ones otherwise. */
static void test_older_than_the_segments(void **state)
{
	uint8_t kept[2][64 * KVC_PAGE_BYTES] = {{0}};
	static const char *const names[] = {"checkpoint.0", "checkpoint.1"};
	ssize_t lengths[2];

	(void)state;
	rig_start(&rig);
	store_some(0, 90, 2);
	rig_stop(&rig);
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(path_of(names[i]), O_RDONLY);

		lengths[i] = pread(fd, kept[i], sizeof kept[i], 0);
		assert_true(lengths[i] >= 0 && lengths[i] < (ssize_t)sizeof kept[i]);
		close(fd);
	}
	rig_start(&rig);
	store_some(200, 40, 2); /* reuses some segments */
	rig_stop(&rig);
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(path_of(names[i]), O_WRONLY | O_TRUNC);

		assert_int_equal(pwrite(fd, kept[i], (size_t)lengths[i], 0), lengths[i]);
		close(fd);
	}
	rig_start(&rig);
	assert_true(rig_stat(&rig, "disk.recovered_by_checkpoint") > 0);
	assert_true(rig_stat(&rig, "disk.recovered_by_summary") > 0);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
	for (uint32_t i = 200; i < 240; i++)
		assert_true(rig.blocks[i].stored);
}

/* Any page of both files is damaged in turn, or the file cut: all that was there is still found. */
static void test_damaged(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	rig_stop(&rig);
	for (uint32_t page = 0; page < KVC_CHECKPOINT_HEAD_PAGES + 8; page++) {
		for (unsigned file = 0; file < 2; file++) {
			int fd = open(path_of(file ? "checkpoint.1" : "checkpoint.0"), O_RDWR);
			uint8_t byte;
			off_t at = (off_t)page * KVC_PAGE_BYTES + 20;

			if (pread(fd, &byte, 1, at) == 1) {
				byte ^= 0x21;
				assert_int_equal(pwrite(fd, &byte, 1, at), 1);
			}
			close(fd);
		}
		rig_start(&rig);
		assert_int_equal(rig.recovered, 60);
		assert_int_equal(rig_check_all(&rig, false), 60);
		rig_stop(&rig);
	}
	assert_int_equal(truncate(path_of("checkpoint.0"), 33 * KVC_PAGE_BYTES + 100), 0);
	assert_int_equal(truncate(path_of("checkpoint.1"), 100), 0);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 60);
	assert_int_equal(rig_check_all(&rig, false), 60);
}

/* Now and then while the tier runs, without a stop. */
static void test_now_and_then(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 100, 2);
	assert_true(rig_stat(&rig, "disk.checkpoints") >= 1);
	store_some(100, 200, 2);
	assert_true(rig_stat(&rig, "disk.checkpoints") >= 3);
	assert_int_equal(rig_stat(&rig, "disk.checkpoint_errors"), 0);
	rig_check_all(&rig, false);
}

/* --- faults --------------------------------------------------------------------------------------- */

static struct {
	enum kvc_io_op op;
	uint32_t skip;
	uint32_t times;
	struct kvc_io_fault fault;
	uint32_t met;
} plan;

/* Only on the checkpoints' files: segments are longer than this, and no other file is written so. */
static void on_checkpoints(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	char link[64], path[512];
	ssize_t length;

	(void)context;
	snprintf(link, sizeof link, "/proc/self/fd/%d", req->file->fd);
	length = readlink(link, path, sizeof path - 1);
	path[length < 0 ? 0 : length] = '\0';
	if (!strstr(path, "/checkpoint.") || req->op != plan.op)
		return;
	if (plan.skip) {
		plan.skip--;
		return;
	}
	if (!plan.times)
		return;
	plan.times--;
	plan.met++;
	*fault = plan.fault;
}

/* Each write and sync of it fails in turn: the tier stays on, the next start is as good as before. */
static void test_cannot_be_written(void **state)
{
	static const enum kvc_io_op ops[] = {KVC_IO_WRITE, KVC_IO_SYNC};

	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	for (uint32_t i = 0; i < 24; i++) {
		plan.op = ops[i % 2];
		plan.skip = i / 2;
		plan.times = 1;
		plan.fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = i % 3 ? EIO : ENOSPC};
		kvc_io_fault_install(on_checkpoints, NULL);
		rig_stop(&rig);
		kvc_io_fault_install(NULL, NULL);
		rig_start(&rig);
		assert_true(rig.tier->writable);
		assert_int_equal(rig.recovered, 60);
		assert_int_equal(rig_check_all(&rig, false), 60);
	}
	assert_true(plan.met > 10);
}

static void test_cannot_be_read(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 60, 2);
	for (uint32_t i = 0; i < 6; i++) {
		rig_stop(&rig);
		plan.op = KVC_IO_READ;
		plan.skip = i;
		plan.times = 1 + i;
		plan.fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO};
		kvc_io_fault_install(on_checkpoints, NULL);
		rig_start(&rig);
		kvc_io_fault_install(NULL, NULL);
		assert_int_equal(rig.recovered, 60);
		assert_int_equal(rig_check_all(&rig, false), 60);
	}
	assert_true(plan.met > 5);
}

/* While it is written, what it speaks of is reclaimed and written again. */
static void test_reclaimed_meanwhile(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 40, 2);
	plan.op = KVC_IO_WRITE;
	plan.skip = 1;
	plan.times = 1000;
	plan.fault = (struct kvc_io_fault){.kind = KVC_FAULT_HOLD};
	kvc_io_fault_install(on_checkpoints, NULL);
	store_some(100, 200, 2);
	assert_true(plan.met > 0);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	store_some(400, 10, 2);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

/* A store that ended after the checkpoint began is never missing afterwards. */
static void test_store_in_flight(void **state)
{
	struct rig_request *requests[40];

	(void)state;
	rig_start(&rig);
	for (uint32_t round = 0; round < 5; round++) {
		for (uint32_t i = 0; i < 40; i++)
			requests[i] = rig_store_begin(&rig, 40 * (round % 2) + i, 1);
		for (uint32_t i = 0; i < 40; i++)
			assert_int_equal(rig_end(requests[i]), KVC_OK);
	}
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 80);
}

#define CHECKPOINT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CHECKPOINT_TEST(test_saves_the_summaries),
	        CHECKPOINT_TEST(test_dropped_stays_dropped),
	        CHECKPOINT_TEST(test_all_dropped_stays_dropped),
	        CHECKPOINT_TEST(test_older_than_the_segments),
	        CHECKPOINT_TEST(test_damaged),
	        CHECKPOINT_TEST(test_now_and_then),
	        CHECKPOINT_TEST(test_cannot_be_written),
	        CHECKPOINT_TEST(test_cannot_be_read),
	        CHECKPOINT_TEST(test_reclaimed_meanwhile),
	        CHECKPOINT_TEST(test_store_in_flight),
	};

	return RIG_RUN_BOTH(tests);
}
