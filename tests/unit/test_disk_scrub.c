/* The scrubber finds what is damaged before anyone asks for it, keeps to its rate, and takes nothing else
 * away.
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
#include <xxhash.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"

enum { BLOCKS = 30, SIZE = 2 };

static struct rig rig;

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	rig.options.scrub_rate = 1u << 30;
	rig_start(&rig);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
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

static bool a_pass_is_over(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk.scrub_passes") > 0;
}

static void restart_and_pass(void)
{
	rig_stop(&rig);
	rig_start(&rig);
	assert_true(kvc_test_run_until(rig.loop, a_pass_is_over, NULL, 20000));
}

static int segment_open(uint32_t block, off_t *offset)
{
	const struct kvc_place *place = &rig.blocks[block].record.place;
	char path[512];
	int fd;

	snprintf(path, sizeof path, "%s/segments/%u", rig.directory, place->segment);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	*offset = (off_t)place->page * KVC_RECORD_ALIGN;
	return fd;
}

/* One byte of a block where it rests. */
static void damage(uint32_t block, uint64_t at)
{
	off_t offset;
	int fd = segment_open(block, &offset);
	uint8_t byte;

	offset += (off_t)at;
	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
	close(fd);
}

/* A header that is sound, and says that half a gigabyte of image comes. */
static void lengthen(uint32_t block)
{
	const uint64_t image_bytes = 512u << 20;
	uint8_t header[KVC_RECORD_HEADER_BYTES];
	XXH128_hash_t sum;
	off_t offset;
	int fd = segment_open(block, &offset);

	assert_int_equal(pread(fd, header, sizeof header, offset), sizeof header);
	memcpy(header + 48, &image_bytes, sizeof image_bytes);
	sum = XXH3_128bits(header, sizeof header - 16);
	memcpy(header + sizeof header - 16, &sum.low64, 8);
	memcpy(header + sizeof header - 8, &sum.high64, 8);
	assert_int_equal(pwrite(fd, header, sizeof header, offset), sizeof header);
	close(fd);
}

/* Nothing behind the record is touched, or the test would not survive it. */
static void test_more_image_than_was_read(void **state)
{
	(void)state;
	lengthen(9);
	restart_and_pass();
	assert_int_equal(rig_stat(&rig, "disk.scrub_bad_records"), 1);
	assert_false(rig.blocks[9].stored);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS - 1);
}

/* In the record's header, the image's header, a tile in the middle, the last one. */
static void test_finds_damage(void **state)
{
	(void)state;
	damage(3, 100);
	damage(7, KVC_RECORD_HEADER_BYTES + 8);
	damage(11, rig_record_bytes(SIZE) / 2);
	damage(20, KVC_RECORD_HEADER_BYTES + rig_image_bytes(SIZE) - 1);
	restart_and_pass();
	assert_int_equal(rig_stat(&rig, "disk.scrub_bad_records"), 4);
	assert_int_equal(rig.reclaimed, 4);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(rig.blocks[i].stored, i != 3 && i != 7 && i != 11 && i != 20);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS - 4);
	assert_int_equal(rig_stat(&rig, "disk.records"), BLOCKS - 4);
}

static void test_sound_is_left_alone(void **state)
{
	(void)state;
	restart_and_pass();
	assert_true(rig_stat(&rig, "disk.scrub_records") >= BLOCKS);
	assert_true(rig_stat(&rig, "disk.scrub_bytes") >= BLOCKS * (int64_t)rig_record_bytes(SIZE));
	assert_int_equal(rig_stat(&rig, "disk.scrub_bad_records"), 0);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* --- faults --------------------------------------------------------------------------------------- */

static struct {
	struct kvc_io_fault fault;
	uint32_t times;
	uint32_t met;
} plan;

static void on_records(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != KVC_IO_READ || req->wanted != rig_record_bytes(SIZE) || !plan.times)
		return;
	plan.times--;
	plan.met++;
	*fault = plan.fault;
}

static void fault_some(uint32_t times, struct kvc_io_fault fault)
{
	plan.fault = fault;
	plan.times = times;
	plan.met = 0;
	kvc_io_fault_install(on_records, NULL);
}

/* A transfer that went wrong is not a record that is bad; nor is an error. */
static void test_reads_twice(void **state)
{
	(void)state;
	fault_some(1, (struct kvc_io_fault){.kind = KVC_FAULT_FLIP, .bytes = 5000, .bit = 2});
	restart_and_pass();
	assert_int_equal(plan.met, 1);
	assert_int_equal(rig_stat(&rig, "disk.scrub_bad_records"), 0);
	fault_some(3, (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO});
	restart_and_pass();
	assert_int_equal(plan.met, 3);
	assert_int_equal(rig_stat(&rig, "disk.read_errors"), 3);
	kvc_io_fault_install(NULL, NULL);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

static void on_small_reads(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	if (req->op != KVC_IO_READ || req->wanted != rig_record_bytes(1))
		return;
	plan.met++;
	*fault = (struct kvc_io_fault){.kind = KVC_FAULT_MISDIRECT, .offset = *(const uint64_t *)context};
}

/* Where the record should be there is another sound one, which is longer than what was read: what a lost
 * write leaves, or a read that went astray brings. */
static void test_longer_record_in_its_place(void **state)
{
	const struct kvc_place *astray = &rig.blocks[BLOCKS].record.place;
	const struct kvc_place *place = &rig.blocks[BLOCKS + 1].record.place;
	uint64_t offset;

	(void)state;
	assert_int_equal(rig_store(&rig, BLOCKS, 3), KVC_OK);
	assert_int_equal(rig_store(&rig, BLOCKS + 1, 1), KVC_OK);
	assert_int_equal(place->segment, astray->segment);
	offset = (uint64_t)astray->page * KVC_RECORD_ALIGN;
	for (uint32_t i = 0; i <= BLOCKS; i++)
		rig_forget(&rig, i);
	plan.met = 0;
	kvc_io_fault_install(on_small_reads, &offset);
	restart_and_pass();
	assert_int_equal(plan.met, 2);
	assert_int_equal(rig_stat(&rig, "disk.scrub_bad_records"), 1);
	assert_false(rig.blocks[BLOCKS + 1].stored);
}

static bool a_read_is_held(void *context)
{
	(void)context;
	return kvc_io_fault_held() > 0;
}

static void closed(void *context)
{
	*(bool *)context = true;
}

/* The tier closes, or the segment is reclaimed, while a record is being read. */
static void test_interrupted(void **state)
{
	bool done = false;

	(void)state;
	rig_stop(&rig);
	fault_some(1, (struct kvc_io_fault){.kind = KVC_FAULT_HOLD});
	rig_start(&rig);
	assert_true(kvc_test_run_until(rig.loop, a_read_is_held, NULL, 20000));
	for (uint32_t i = 0; i < BLOCKS; i++)
		rig_forget(&rig, i);
	for (uint32_t i = 100; i < 180; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
	rig.tier->ops->close(rig.tier, closed, &done);
	kvc_loop_turn(rig.loop);
	assert_false(done);
	kvc_io_fault_release();
	kvc_io_fault_install(NULL, NULL);
	assert_true(kvc_test_run_until_set(rig.loop, &done));
	kvc_engine_close(rig.engine);
	kvc_io_close(rig.io);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
	rig.loop = NULL;
}

static bool some_scrubbed(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk.scrub_records") >= 8;
}

static void test_keeps_to_its_rate(void **state)
{
	uint64_t begun;

	(void)state;
	rig_stop(&rig);
	rig.options.scrub_rate = 2u << 20;
	rig_start(&rig);
	begun = kvc_loop_now_ms(rig.loop);
	assert_true(kvc_test_run_until(rig.loop, some_scrubbed, NULL, 20000));
	assert_true(kvc_loop_now_ms(rig.loop) - begun >= 7 * rig_record_bytes(SIZE) * 1000 / (2u << 20));
}

static bool a_second_has_gone(void *context)
{
	return kvc_loop_now_ms(rig.loop) > *(const uint64_t *)context + 1300;
}

static void nothing(struct kvc_timer *timer)
{
	(void)timer;
}

static void test_off(void **state)
{
	struct kvc_timer timer = {.fire = nothing}; /* so that the loop wakes */
	uint64_t begun;

	(void)state;
	rig_stop(&rig);
	rig.options.scrub_rate = 0;
	rig_start(&rig);
	begun = kvc_loop_now_ms(rig.loop);
	assert_int_equal(kvc_timer_start(rig.loop, &timer, 1400), KVC_OK);
	assert_true(kvc_test_run_until(rig.loop, a_second_has_gone, &begun, 20000));
	assert_int_equal(rig_stat(&rig, "disk.scrub_bytes"), 0);
	kvc_timer_stop(&timer);
}

#define SCRUB_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        SCRUB_TEST(test_finds_damage),
	        SCRUB_TEST(test_sound_is_left_alone),
	        SCRUB_TEST(test_reads_twice),
	        SCRUB_TEST(test_longer_record_in_its_place),
	        SCRUB_TEST(test_more_image_than_was_read),
	        SCRUB_TEST(test_interrupted),
	        SCRUB_TEST(test_keeps_to_its_rate),
	        SCRUB_TEST(test_off),
	};

	return RIG_RUN_BOTH(tests);
}
