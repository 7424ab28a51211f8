/* The disk tier when the disk behaves: stores, loads, syncs, batching, reclaiming, restarts, refusals. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/io/io_fault.h"
#include "daemon/tier/disk_private.h"
#include "daemon/tier/segment.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"
#include "tests/support/super_version.h"

static struct rig rig;

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	rig_destroy(&rig);
	kvc_row_end();
	return 0;
}

/* --- stores and loads ----------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
	(void)state;
	rig_start(&rig);
	for (uint32_t i = 0; i < 16; i++)
		assert_int_equal(rig_store(&rig, i, i % RIG_SIZES), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), 16);
	assert_int_equal(rig_stat(&rig, "disk.records"), 16);
	assert_int_equal(rig_stat(&rig, "disk.stores"), 16);
	assert_int_equal(rig_stat(&rig, "disk.loads"), 16);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	assert_true(rig_stat(&rig, "disk.syncs") >= 1);
	assert_int_equal(rig_sync(&rig), KVC_OK); /* nothing to do */
	assert_int_equal(rig_stat(&rig, "disk.errors"), 0);
}

static void store_together(uint32_t first, uint32_t count, uint32_t size)
{
	struct rig_request *requests[24];

	for (uint32_t i = 0; i < count; i++)
		requests[i] = rig_store_begin(&rig, first + i, size);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(rig_end(requests[i]), KVC_OK);
}

/* Stores of one turn go out together: many at most write_bytes at a time, few in pieces of 256 KiB, so that
 * there are several; a lone one does not wait. */
static void test_stores_are_gathered(void **state)
{
	int64_t large = (int64_t)rig_record_bytes(2), small = (int64_t)rig_record_bytes(1);
	int64_t few = 8, in_a_piece = (256 << 10) / small;

	(void)state;
	rig.options.write_bytes = (uint32_t)(2 * large);
	assert_true(2 * large > 256 << 10 && in_a_piece > 1 && in_a_piece < few);
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 100, 2), KVC_OK);
	assert_int_equal(rig_stat(&rig, "disk.writes"), 1);
	store_together(0, (uint32_t)few, 1);
	assert_int_equal(rig_stat(&rig, "disk.writes"), 1 + (few + in_a_piece - 1) / in_a_piece);
	assert_int_equal(rig_stat(&rig, "disk.write_bytes"), large + few * small);
	assert_int_equal(rig_check_all(&rig, false), 1 + few);
}

static void test_stores_are_gathered_to_write_bytes(void **state)
{
	int64_t large = (int64_t)rig_record_bytes(2);

	(void)state;
	rig.options.write_bytes = (uint32_t)(2 * large);
	rig.options.segment_bytes = 4u << 20;
	rig_start(&rig);
	store_together(0, 24, 2);
	assert_in_range(rig_stat(&rig, "disk.writes"), 12, 23); /* the last ones are few again */
	assert_int_equal(rig_check_all(&rig, false), 24);
}

/* Sealed segments, none of which has memory for more records than it holds. */
static uint32_t sealed_exactly(void)
{
	const struct kvc_disk *disk = disk_of(rig.tier);
	uint32_t sealed = 0;

	for (uint32_t i = 0; i < disk->segment_count; i++) {
		const struct disk_segment *segment = &disk->segments[i];

		if (segment->state != DISK_SEALED)
			continue;
		assert_int_equal(segment->entry_capacity, segment->entry_count);
		sealed++;
	}
	return sealed;
}

static void test_sealed_segments_have_no_spare_memory(void **state)
{
	uint32_t sealed;

	(void)state;
	rig_start(&rig);
	for (uint32_t first = 0; first < 48; first += 24)
		store_together(first, 24, 2);
	sealed = sealed_exactly();
	assert_true(sealed > 1);
	rig_stop(&rig);
	rig_start(&rig);
	assert_true(sealed_exactly() > sealed);
	assert_int_equal(rig_check_all(&rig, false), 48);
}

static void test_refuses_what_cannot_fit(void **state)
{
	(void)state;
	rig.options.bytes = 4 * 128 * 1024;
	rig.options.segment_bytes = 128 * 1024;
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 3), KVC_NO_SPACE);
	assert_int_equal(rig_store(&rig, 2, 1), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), 1);
}

/* Requests for what is nowhere: wrong epoch, wrong segment, wrong page, wrong key. */
static void test_load_of_nothing(void **state)
{
	struct kvc_record right;

	(void)state;
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	right = rig.blocks[1].record;
	rig.blocks[1].record.epoch++;
	assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
	rig.blocks[1].record = right;
	rig.blocks[1].record.place.segment = 1000;
	assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
	rig.blocks[1].record = right;
	rig.blocks[1].record.place.page = 200;
	assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
	assert_int_equal(rig_stat(&rig, "disk.missing"), 3);
	rig.blocks[1].record = right;
	rig.blocks[1].record.key.bytes[31] ^= 1;
	assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
	assert_int_equal(rig_stat(&rig, "disk.corrupt"), 1);
	rig.blocks[1].record = right;
	assert_int_equal(rig_load(&rig, 1), RIG_RIGHT);
}

/* --- reclaiming ----------------------------------------------------------------------------------- */

/* Many times the tier's size: the oldest go, what is left is right. */
static void test_reclaims_the_oldest(void **state)
{
	uint32_t stored = 0;

	(void)state;
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	for (uint32_t i = 0; i < 1000; i++)
		stored += rig.blocks[i].stored;
	assert_true(rig.blocks[999].stored && !rig.blocks[0].stored);
	assert_true(stored >= 2 * 1024 * 1024 / rig_record_bytes(2));
	assert_int_equal(rig_stat(&rig, "disk.records"), stored);
	assert_int_equal(rig_stat(&rig, "disk.used_bytes"), stored * rig_record_bytes(2));
	assert_int_equal(rig_stat(&rig, "disk.reclaimed_records"), 1000 - stored);
	assert_int_equal(rig_check_all(&rig, false), stored);
}

/* A segment of which nothing is wanted any more is free without being reclaimed. */
static void test_forgotten_segments_are_free(void **state)
{
	int64_t before;

	(void)state;
	rig.options.bytes = 8u << 20;
	rig_start(&rig);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	before = rig_stat(&rig, "disk.free_segments");
	for (uint32_t i = 0; i < 40; i++)
		rig_forget(&rig, i);
	assert_true(rig_stat(&rig, "disk.free_segments") > before);
	assert_int_equal(rig_stat(&rig, "disk.records"), 0);
	assert_int_equal(rig_stat(&rig, "disk.used_bytes"), 0);
	assert_int_equal(rig.reclaimed, 0);
	rig_forget(&rig, 3); /* again: nothing happens */
	for (uint32_t i = 100; i < 500; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	rig_check_all(&rig, false);
}

static void hold_reads(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op == KVC_IO_READ)
		fault->kind = KVC_FAULT_HOLD;
}

/* Loads in flight keep their segment from being written again; others are taken, and no load goes wrong. */
static void test_reclaim_spares_loads(void **state)
{
	struct rig_request *loads[3];

	(void)state;
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	kvc_io_fault_install(hold_reads, NULL);
	for (uint32_t i = 0; i < 3; i++)
		loads[i] = rig_load_begin(&rig, i);
	for (uint32_t i = 100; i < 300; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	assert_true(rig.blocks[0].stored); /* not reclaimed: it is being read */
	assert_int_equal(kvc_io_fault_held(), 3);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(rig_load_end(loads[i]), RIG_RIGHT);
	for (uint32_t i = 300; i < 500; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	assert_false(rig.blocks[0].stored);
	rig_check_all(&rig, false);
}

/* Loads of every segment are in flight: stores wait, and go on when a load ends. */
static void test_stores_wait_for_loads(void **state)
{
	struct rig_request *loads[64], *stores[64];
	uint32_t held = 0, last = UINT32_MAX;

	(void)state;
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	for (uint32_t i = 0; i < 200; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	kvc_io_fault_install(hold_reads, NULL);
	for (uint32_t i = 0; i < 200; i++) {
		if (!rig.blocks[i].stored || rig.blocks[i].record.place.segment == last)
			continue;
		last = rig.blocks[i].record.place.segment;
		loads[held++] = rig_load_begin(&rig, i);
	}
	for (uint32_t i = 0; i < 64; i++)
		stores[i] = rig_store_begin(&rig, 1000 + i, 2);
	for (int turn = 0; turn < 200 && !stores[0]->done; turn++)
		kvc_loop_turn(rig.loop);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	for (uint32_t i = 0; i < held; i++)
		assert_int_equal(rig_load_end(loads[i]), RIG_RIGHT);
	for (uint32_t i = 0; i < 64; i++)
		assert_int_equal(rig_end(stores[i]), KVC_OK);
	rig_check_all(&rig, false);
}

/* --- restarts ------------------------------------------------------------------------------------- */

static void restarts(bool verify)
{
	uint32_t stored = 0;

	rig.options.verify_on_start = verify;
	rig_start(&rig);
	for (uint32_t i = 0; i < 200; i++)
		assert_int_equal(rig_store(&rig, i, i % RIG_SIZES), KVC_OK);
	for (int round = 0; round < 3; round++) {
		rig_stop(&rig);
		stored = 0;
		for (uint32_t i = 0; i < RIG_BLOCKS; i++)
			stored += rig.blocks[i].stored;
		rig_start(&rig);
		assert_int_equal(rig.recovered, stored);
		assert_int_equal(rig_check_all(&rig, false), stored);
		assert_int_equal(rig_stat(&rig, "disk.records"), stored);
		for (uint32_t i = 0; i < 20; i++)
			assert_int_equal(rig_store(&rig, 300 + (uint32_t)round * 20 + i, 1), KVC_OK);
	}
	assert_int_equal(rig_stat(&rig, "disk.damaged_segments"), 0);
}

static void test_restart(void **state)
{
	(void)state;
	restarts(false);
}

static void test_restart_with_verification(void **state)
{
	(void)state;
	restarts(true);
}

static void test_restart_over_threads(void **state)
{
	(void)state;
	KVC_ROW("C7");
	rig.io_options.backend = KVC_IO_THREADS;
	kvc_row.injected++;
	restarts(false);
}

/* Starting again and again without a store costs no segment. */
static void test_idle_restarts_lose_nothing(void **state)
{
	uint32_t stored = 0;

	(void)state;
	rig.options.bytes = 4u << 20;
	rig_start(&rig);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	for (uint32_t i = 0; i < 300; i++)
		stored += rig.blocks[i].stored;
	for (int round = 0; round < 6; round++) {
		rig_stop(&rig);
		rig_start(&rig);
		assert_int_equal(rig.recovered, stored);
	}
}

/* A second version of a block: after a restart the newer one is there. */
static void test_newer_version_wins(void **state)
{
	uint64_t generation;

	(void)state;
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 7, 1), KVC_OK);
	assert_int_equal(rig_store(&rig, 8, 1), KVC_OK);
	assert_int_equal(rig_store(&rig, 7, 2), KVC_OK);
	generation = rig.blocks[7].record.generation;
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.blocks[7].record.generation, generation);
	assert_int_equal(rig_check_all(&rig, false), 2);
	assert_int_equal(rig_stat(&rig, "disk.records"), 2);
}

static void test_tier_shrinks_and_grows(void **state)
{
	(void)state;
	KVC_ROW("G4");
	rig_start(&rig);
	for (uint32_t i = 0; i < 200; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	rig_stop(&rig);
	rig.options.bytes = 8u << 20;
	kvc_row.injected++;
	rig_start(&rig);
	assert_true(rig.recovered > 0);
	assert_int_equal(rig_stat(&rig, "disk.segments"), 8);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig.options.bytes = 32u << 20;
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segments"), 32);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig.options.segment_bytes = 2u << 20; /* another geometry: it starts empty */
	rig_start(&rig);
	assert_int_equal(rig.recovered, 0);
	assert_int_equal(rig_store(&rig, 1, 3), KVC_OK);
}

static void test_default_geometry(void **state)
{
	(void)state;
	rig.options.segment_bytes = 0;
	rig.options.bytes = 64u << 20;
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segment_bytes"), 4 << 20);
	assert_int_equal(rig_stat(&rig, "disk.segments"), 16);
	rig_stop(&rig);
	rig.options.bytes = 1ull << 40; /* the size is kept, if it can be */
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segment_bytes"), 256 << 20);
}

/* --- closing -------------------------------------------------------------------------------------- */

static void flag_closed(void *context)
{
	*(bool *)context = true;
}

/* What was taken is completed, what comes later is refused. */
static void test_close_completes(void **state)
{
	struct rig_request *stores[20], *late;
	bool done = false;

	(void)state;
	rig_start(&rig);
	for (uint32_t i = 0; i < 20; i++)
		stores[i] = rig_store_begin(&rig, i, 2);
	rig.tier->ops->close(rig.tier, flag_closed, &done);
	late = rig_store_begin(&rig, 30, 2);
	assert_int_equal(rig_end(late), KVC_UNAVAILABLE);
	for (uint32_t i = 0; i < 20; i++)
		assert_true(kvc_test_run_until_set(rig.loop, &stores[i]->done));
	assert_true(kvc_test_run_until_set(rig.loop, &done));
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(stores[i]->req.status, KVC_OK);
		free(stores[i]->req.slab);
		free(stores[i]);
	}
	kvc_engine_close(rig.engine);
	kvc_io_close(rig.io);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
	rig.loop = NULL;
	rig_start(&rig);
	assert_int_equal(rig.recovered, 20);
}

static kvc_status stopped_status;

static bool take_none(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	(void)context;
	(void)record;
	(void)cookie;
	return false;
}

static void reclaim_none(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
}

static void recovery_stopped(void *context, kvc_status status)
{
	(void)context;
	stopped_status = status;
}

static void test_close_while_recovering(void **state)
{
	struct kvc_tier_events events = {.recovered = take_none, .reclaimed = reclaim_none};
	bool done = false;

	(void)state;
	rig_start(&rig);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	rig_stop(&rig);
	assert_int_equal(rig_open(&rig), KVC_OK);
	rig.tier->ops->recover(rig.tier, &events, recovery_stopped, NULL);
	rig.tier->ops->close(rig.tier, flag_closed, &done);
	assert_true(kvc_test_run_until_set(rig.loop, &done));
	assert_int_equal(stopped_status, KVC_SHUTDOWN);
	kvc_engine_close(rig.engine);
	kvc_io_close(rig.io);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
	assert_int_equal(rig_open(&rig), KVC_OK); /* and it can be closed without recovering */
}

static void test_requests_before_recovery(void **state)
{
	(void)state;
	assert_int_equal(rig_open(&rig), KVC_OK);
	assert_false(rig.tier->writable);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_UNAVAILABLE);
	assert_int_equal(rig_sync(&rig), KVC_UNAVAILABLE);
}

/* --- refusals ------------------------------------------------------------------------------------- */

/* Good until it was called four times more. */
static char *path_of(const char *name)
{
	static char paths[4][512];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof paths[0], "%s/%s", rig.directory, name);
	return path;
}

static void test_one_process_only(void **state)
{
	static struct rig second;

	(void)state;
	KVC_ROW("B24");
	rig_start(&rig);
	second = rig;
	second.loop = NULL;
	assert_int_equal(rig_open(&second), KVC_IN_USE);
	assert_non_null(strstr(second.detail, rig.directory));
	kvc_row.injected++;
	rig_stop(&rig);
	rig_start(&rig);
}

static void test_refuses_open_directories(void **state)
{
	(void)state;
	assert_int_equal(chmod(rig.directory, 0750), 0);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_non_null(strstr(rig.detail, "chmod"));
	assert_int_equal(chmod(rig.directory, 0700), 0);
	rig_start(&rig);
	rig_stop(&rig);
	assert_int_equal(chmod(path_of("secret"), 0640), 0);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_non_null(strstr(rig.detail, "secret"));
	assert_int_equal(chmod(path_of("secret"), 0600), 0);
	rig_start(&rig);
}

static void swap_for_link(const char *name)
{
	assert_int_equal(rename(path_of(name), path_of("target")), 0);
	assert_int_equal(symlink(path_of("target"), path_of(name)), 0);
}

static void swap_back(const char *name)
{
	assert_int_equal(unlink(path_of(name)), 0);
	assert_int_equal(rename(path_of("target"), path_of(name)), 0);
}

static void test_follows_no_links(void **state)
{
	static const char *const names[] = {"lock", "super", "secret", "segments", "segments/0"};

	(void)state;
	KVC_ROW("B26");
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		swap_for_link(names[i]);
		assert_int_equal(rig_open(&rig), KVC_ACCESS);
		kvc_row.injected++;
		swap_back(names[i]);
	}
	assert_int_equal(unlink(path_of("segments/0")), 0);
	assert_int_equal(mkfifo(path_of("segments/0"), 0600), 0);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_int_equal(unlink(path_of("segments/0")), 0);
	rig_start(&rig);
}

/* What the administrator names may be a link, as a service's state directory is; not one of another user. */
static void test_directory_by_link(void **state)
{
	char target[PATH_MAX];
	char *directory = rig.directory;

	(void)state;
	snprintf(target, sizeof target, "%s.target", directory);
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	assert_int_equal(rename(directory, target), 0);
	assert_int_equal(symlink(target, directory), 0);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 1);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	if (geteuid() == 0) {
		assert_int_equal(lchown(directory, 65534, 65534), 0);
		assert_int_equal(rig_open(&rig), KVC_ACCESS);
		assert_non_null(strstr(rig.detail, "a symbolic link that another user made"));
	}
	assert_int_equal(unlink(directory), 0);
	assert_int_equal(symlink("/dev/null", directory), 0);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_int_equal(unlink(directory), 0);
	assert_int_equal(rename(target, directory), 0);
	rig_start(&rig);
}

static void test_refuses_bad_sizes(void **state)
{
	static const struct {
		uint64_t bytes, segment_bytes;
	} rows[] = {{1 << 20, 0},     {1 << 20, 1 << 20},    {16 << 20, 4097},
	            {16 << 20, 4096}, {1ull << 40, 1 << 20}, {1ull << 41, 1ull << 37}};

	(void)state;
	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		rig.options.bytes = rows[i].bytes;
		rig.options.segment_bytes = rows[i].segment_bytes;
		assert_int_equal(rig_open(&rig), KVC_INVALID);
		assert_true(rig.detail[0]);
	}
}

static void super_patch(uint32_t slot, const uint8_t page[KVC_PAGE_BYTES])
{
	int fd = open(path_of("super"), O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, page, KVC_PAGE_BYTES, slot * KVC_PAGE_BYTES), KVC_PAGE_BYTES);
	close(fd);
}

/* One slot damaged: the other one serves. Both: a person must act. */
static void test_damaged_superblock(void **state)
{
	static const uint8_t zero[KVC_PAGE_BYTES];

	(void)state;
	KVC_ROW("A4 B4");
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	for (uint32_t slot = 0; slot < 2; slot++) {
		rig_stop(&rig);
		super_patch(slot, zero);
		kvc_row.injected++;
		rig_start(&rig);
		assert_int_equal(rig.recovered, 1);
		rig_check_all(&rig, false);
	}
	rig_stop(&rig);
	super_patch(0, zero);
	super_patch(1, zero);
	assert_int_equal(rig_open(&rig), KVC_CORRUPT);
	assert_non_null(strstr(rig.detail, "remove"));
	assert_int_equal(truncate(path_of("super"), 100), 0);
	assert_int_equal(rig_open(&rig), KVC_CORRUPT);
	assert_int_equal(unlink(path_of("super")), 0);
	rig_start(&rig); /* without one it is a new directory */
	assert_int_equal(rig.recovered, 0);
}

/* What a newer version wrote is refused, and left alone. */
static void test_newer_version_is_refused(void **state)
{
	uint8_t page[KVC_PAGE_BYTES], kept[KVC_PAGE_BYTES];
	int fd;

	(void)state;
	KVC_ROW("A13");
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	fd = open(path_of("super"), O_RDWR);
	assert_int_equal(pread(fd, kept, sizeof kept, KVC_PAGE_BYTES), sizeof kept);
	close(fd);
	memcpy(page, kept, sizeof page);
	kvc_test_super_version(page, 4);
	super_patch(1, page);
	assert_int_equal(rig_open(&rig), KVC_VERSION);
	kvc_row.injected++;
	assert_non_null(strstr(rig.detail, "newer"));
	super_patch(1, kept);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 1);
}

/* The process ends while a directory starts empty, behind the new keyring: the next start does, too. */
static void test_interrupted_fresh_start(void **state)
{
	(void)state;
	rig_start(&rig);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	rig.options.segment_bytes = 2u << 20;
	assert_int_equal(mkdir(path_of("new"), 0700), 0); /* where small files are written */
	assert_int_not_equal(rig_open(&rig), KVC_OK);
	assert_int_equal(rmdir(path_of("new")), 0);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 0);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 1);
}

static void test_lost_secret_starts_empty(void **state)
{
	struct kvc_secret before, after;

	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	kvc_disk_secret(rig.tier, &before);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	kvc_disk_secret(rig.tier, &after);
	assert_memory_equal(&before, &after, sizeof before);
	rig_stop(&rig);
	assert_int_equal(unlink(path_of("secret")), 0);
	kvc_row.injected++;
	rig_start(&rig);
	kvc_disk_secret(rig.tier, &after);
	assert_memory_not_equal(&before, &after, sizeof before);
	assert_int_equal(rig.recovered, 0);
}

#define DISK_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        DISK_TEST(test_round_trip),
	        DISK_TEST(test_stores_are_gathered),
	        DISK_TEST(test_stores_are_gathered_to_write_bytes),
	        DISK_TEST(test_sealed_segments_have_no_spare_memory),
	        DISK_TEST(test_refuses_what_cannot_fit),
	        DISK_TEST(test_load_of_nothing),
	        DISK_TEST(test_reclaims_the_oldest),
	        DISK_TEST(test_forgotten_segments_are_free),
	        DISK_TEST(test_reclaim_spares_loads),
	        DISK_TEST(test_stores_wait_for_loads),
	        DISK_TEST(test_restart),
	        DISK_TEST(test_restart_with_verification),
	        DISK_TEST(test_restart_over_threads),
	        DISK_TEST(test_idle_restarts_lose_nothing),
	        DISK_TEST(test_newer_version_wins),
	        DISK_TEST(test_tier_shrinks_and_grows),
	        DISK_TEST(test_default_geometry),
	        DISK_TEST(test_close_completes),
	        DISK_TEST(test_close_while_recovering),
	        DISK_TEST(test_requests_before_recovery),
	        DISK_TEST(test_one_process_only),
	        DISK_TEST(test_refuses_open_directories),
	        DISK_TEST(test_follows_no_links),
	        DISK_TEST(test_directory_by_link),
	        DISK_TEST(test_refuses_bad_sizes),
	        DISK_TEST(test_damaged_superblock),
	        DISK_TEST(test_newer_version_is_refused),
	        DISK_TEST(test_lost_secret_starts_empty),
	        DISK_TEST(test_interrupted_fresh_start),
	};

	return RIG_RUN_BOTH(tests);
}
