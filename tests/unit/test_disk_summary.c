/* Starting from summaries: what they save, and that a bad, old or missing one costs a scan and nothing else.
 */
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
#include "daemon/tier/summary.h"
#include "tests/support/disk_rig.h"
#include "tests/support/super_version.h"

enum { SEGMENT = 1 << 20, SEGMENT_PAGES = SEGMENT / KVC_PAGE_BYTES };

static struct rig rig;

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	rig.no_checkpoint = true;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	rig_destroy(&rig);
	return 0;
}

static void store_some(uint32_t first, uint32_t count, uint32_t size)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, size), KVC_OK);
}

static int segment_open(uint32_t number)
{
	char path[512];
	int fd;

	snprintf(path, sizeof path, "%s/segments/%u", rig.directory, number);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	return fd;
}

static void page_get(uint32_t number, uint32_t page, uint8_t bytes[KVC_PAGE_BYTES])
{
	int fd = segment_open(number);

	assert_int_equal(pread(fd, bytes, KVC_PAGE_BYTES, (off_t)page * KVC_PAGE_BYTES), KVC_PAGE_BYTES);
	close(fd);
}

static void page_set(uint32_t number, uint32_t page, const uint8_t bytes[KVC_PAGE_BYTES])
{
	int fd = segment_open(number);

	assert_int_equal(pwrite(fd, bytes, KVC_PAGE_BYTES, (off_t)page * KVC_PAGE_BYTES), KVC_PAGE_BYTES);
	close(fd);
}

/* After a stop in order every segment has one, the last too, and nothing is scanned. */
static void test_saves_the_scan(void **state)
{
	int64_t reads;

	(void)state;
	rig_start(&rig);
	store_some(0, 100, 2);
	store_some(100, 30, 0);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 130);
	assert_true(rig_stat(&rig, "disk.recovered_by_summary") > 5);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 0);
	assert_int_equal(rig_check_all(&rig, false), 130);
	rig_restart_scanning(&rig); /* which is a look at every tile */
	reads = rig_stat(&rig, "disk.recovered_by_scan");
	assert_true(reads > 5);
	assert_int_equal(rig_check_all(&rig, false), 130);
}

/* Longer than what is read at first. */
static void test_long_summary(void **state)
{
	(void)state;
	rig.options.bytes = 64u << 20;
	rig.options.segment_bytes = 16u << 20;
	rig_start(&rig);
	store_some(0, 1500, 0);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 1500);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 0);
	assert_int_equal(rig_check_all(&rig, false), 1500);
}

/* Every byte of it is damaged in turn, some at a time: the segment is scanned and nothing is lost. */
static void test_damaged(void **state)
{
	(void)state;
	kvc_log_level_now = KVC_LOG_ERROR;
	rig_start(&rig);
	store_some(0, 60, 0);
	rig_stop(&rig);
	for (uint32_t at = 0; at < 2 * KVC_PAGE_BYTES; at += 331) {
		uint32_t page = SEGMENT_PAGES - 2 + at / KVC_PAGE_BYTES;
		uint8_t bytes[KVC_PAGE_BYTES];

		page_get(0, page, bytes);
		bytes[at % KVC_PAGE_BYTES] ^= 0x10;
		page_set(0, page, bytes);
		rig_start(&rig);
		assert_int_equal(rig.recovered, 60);
		assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 1);
		assert_int_equal(rig_check_all(&rig, false), 60);
		rig_stop(&rig);
		bytes[at % KVC_PAGE_BYTES] ^= 0x10;
		page_set(0, page, bytes);
	}
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_summary"), 1);
	kvc_log_level_now = KVC_LOG_INFO;
}

/* The summary of what the segment held before. */
static void test_of_an_older_epoch(void **state)
{
	uint8_t old[KVC_PAGE_BYTES], now[KVC_PAGE_BYTES];

	(void)state;
	rig.options.bytes = 4 * SEGMENT;
	rig_start(&rig);
	store_some(0, 20, 2);
	rig_stop(&rig);
	page_get(0, SEGMENT_PAGES - 1, old);
	rig_start(&rig);
	store_some(100, 80, 2);
	rig_stop(&rig);
	page_get(0, SEGMENT_PAGES - 1, now);
	assert_memory_not_equal(old, now, sizeof old);
	page_set(0, SEGMENT_PAGES - 1, old);
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 1);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

/* What a summary lists and what is there need not agree after a power failure: then it is a miss. */
static void test_lists_what_did_not_arrive(void **state)
{
	static const uint8_t zero[KVC_PAGE_BYTES];
	uint32_t right;

	(void)state;
	rig_start(&rig);
	store_some(0, 10, 1);
	rig_stop(&rig);
	for (uint32_t page = 1; page < 12; page++)
		page_set(0, page, zero);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 10);
	right = rig_check_all(&rig, true);
	assert_true(right > 0 && right < 10);
	assert_true(rig_stat(&rig, "disk.corrupt") > 0);
}

/* A directory of version 1 has no summaries, in one of version 2 they and the checkpoint are of no use. Both
 * are taken over, and are of the present version from then on. */
static void older_make(uint32_t version)
{
	char path[512];
	uint8_t slots[2 * KVC_PAGE_BYTES], last[KVC_PAGE_BYTES];
	int fd;

	for (uint32_t i = 0; i < 16; i++) {
		snprintf(path, sizeof path, "%s/segments/%u", rig.directory, i);
		if (access(path, F_OK) != 0)
			continue;
		page_get(i, SEGMENT_PAGES - 1, last);
		last[KVC_PAGE_BYTES - KVC_SUMMARY_FOOTER_BYTES + 8] =
		        (uint8_t)(version - 1); /* of a summary */
		page_set(i, SEGMENT_PAGES - 1, last);
	}
	for (uint32_t i = 0; i < 2; i++) { /* it has no keyring */
		snprintf(path, sizeof path, "%s/keyring.%u", rig.directory, i);
		assert_int_equal(unlink(path), 0);
	}
	snprintf(path, sizeof path, "%s/super", rig.directory);
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, slots, sizeof slots, 0), sizeof slots);
	kvc_test_super_version(slots, version);
	kvc_test_super_version(slots + KVC_PAGE_BYTES, version);
	assert_int_equal(pwrite(fd, slots, sizeof slots, 0), sizeof slots);
	close(fd);
}

static bool super_is_of(uint32_t version)
{
	uint8_t slots[2 * KVC_PAGE_BYTES];
	char path[512];
	int fd;

	snprintf(path, sizeof path, "%s/super", rig.directory);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, slots, sizeof slots, 0), sizeof slots);
	close(fd);
	return slots[8] == version || slots[KVC_PAGE_BYTES + 8] == version;
}

static void test_older_directory(void **state)
{
	(void)state;
	for (uint32_t version = 1; version <= 2; version++) {
		rig.options.key = NULL; /* they knew none */
		rig_start(&rig);
		store_some(0, 50, 2);
		rig_stop(&rig);
		older_make(version);
		assert_false(super_is_of(3));
		rig_start(&rig);
		assert_int_equal(rig.recovered, 50);
		assert_int_equal(rig_stat(&rig, "disk.recovered_by_summary"), 0);
		assert_int_equal(rig_check_all(&rig, false), 50);
		assert_true(super_is_of(3));
		rig_stop(&rig);
		rig_destroy(&rig);
		rig_init(&rig);
		rig.no_checkpoint = true;
	}
}

/* --- faults --------------------------------------------------------------------------------------- */

static struct {
	struct kvc_io_fault fault;
	uint32_t met;
} plan;

/* Writes that end where the segment ends. */
static void on_summaries(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != KVC_IO_WRITE || req->offset + req->wanted != SEGMENT)
		return;
	plan.met++;
	*fault = plan.fault;
}

static void fault_summaries(struct kvc_io_fault fault)
{
	plan.fault = fault;
	plan.met = 0;
	kvc_io_fault_install(on_summaries, NULL);
}

/* The records stay, the tier keeps writing, the next start scans. */
static void test_cannot_be_written(void **state)
{
	(void)state;
	rig_start(&rig);
	fault_summaries((struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO});
	store_some(0, 60, 2);
	assert_true(plan.met >= 3);
	assert_true(rig_stat(&rig, "disk.write_errors") >= 3);
	assert_int_equal(rig_stat(&rig, "disk.summaries"), 0);
	assert_int_equal(rig_check_all(&rig, false), 60);
	rig_stop(&rig);
	kvc_io_fault_install(NULL, NULL);
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_summary"), 0);
	assert_int_equal(rig_check_all(&rig, false), 60);
}

/* Torn after every sector, lost, elsewhere. */
static void test_written_badly(void **state)
{
	(void)state;
	kvc_log_level_now = KVC_LOG_ERROR;
	for (uint64_t n = 0; n < KVC_PAGE_BYTES; n += 512) {
		rig_start(&rig);
		fault_summaries((struct kvc_io_fault){.kind = KVC_FAULT_TORN, .bytes = n});
		store_some(0, 45, 2);
		rig_stop(&rig);
		assert_true(plan.met > 0);
		kvc_io_fault_install(NULL, NULL);
		rig_start(&rig);
		assert_true(rig_stat(&rig, "disk.recovered_by_scan") > 0);
		assert_int_equal(rig_check_all(&rig, false), 45);
		rig_stop(&rig);
	}
	kvc_log_level_now = KVC_LOG_INFO;
}

/* Not before the last write in the segment has ended, and the segment is not reclaimed under it. */
static void test_comes_last(void **state)
{
	struct rig_request *late;

	(void)state;
	rig_start(&rig);
	fault_summaries((struct kvc_io_fault){.kind = KVC_FAULT_HOLD});
	store_some(0, 30, 2); /* some 130 KiB each: the first segments are sealed */
	assert_true(plan.met >= 3);
	store_some(100, 5, 2);
	late = rig_store_begin(&rig, 200, 2);
	assert_int_equal(rig_end(late), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), 36);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	store_some(300, 160, 2);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 0);
}

/* Nothing of a segment that was emptied is written. */
static void test_of_nothing(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 5, 1);
	for (uint32_t i = 0; i < 5; i++)
		rig_forget(&rig, i);
	fault_summaries((struct kvc_io_fault){.kind = KVC_FAULT_NONE});
	rig_stop(&rig);
	assert_int_equal(plan.met, 0);
}

#define SUMMARY_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        SUMMARY_TEST(test_saves_the_scan),
	        SUMMARY_TEST(test_long_summary),
	        SUMMARY_TEST(test_damaged),
	        SUMMARY_TEST(test_of_an_older_epoch),
	        SUMMARY_TEST(test_lists_what_did_not_arrive),
	        SUMMARY_TEST(test_older_directory),
	        SUMMARY_TEST(test_cannot_be_written),
	        SUMMARY_TEST(test_written_badly),
	        SUMMARY_TEST(test_comes_last),
	        SUMMARY_TEST(test_of_nothing),
	};

	return RIG_RUN_BOTH(tests);
}
