/* The disk tier and the end of the world: the process or the machine stops at every single disk operation of
 * a script in turn, with what the drive had not yet been told to keep lost, kept or mixed, sector by sector.
 * After the restart all that was synced is there and right, and nothing is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"
#include "tests/support/row.h"

enum { SECTOR = 512, JOURNAL = 4096, SCRIPT_STORES = 60 };

/* A write that the drive may still forget: what was there before it. */
struct volatile_write {
	int fd;
	ino_t inode;
	uint64_t offset;
	uint64_t bytes;
	uint8_t *before;
};

enum loss {
	LOSS_NONE,   /* the process died: what was handed over arrives */
	LOSS_ALL,    /* power: nothing that was not synced arrives */
	LOSS_RANDOM, /* power: any subset of the sectors arrives */
	LOSSES,
};

static struct rig rig;
static struct prng prng;

static struct {
	uint32_t crash_at; /* operation, from 1 */
	uint32_t operations;
	bool crashed;
	struct volatile_write journal[JOURNAL];
	uint32_t count;
	ino_t super;         /* inode of the superblocks; 0: crash_at counts all operations */
	uint32_t super_seen; /* operations from the first write of a superblock on */
	uint32_t torn_at;    /* sectors of the write that the crash hits; UINT32_MAX: random */
	struct rig_block promised[RIG_BLOCKS]; /* as of the crash */
} world;

/* --- the drive ------------------------------------------------------------------------------------ */

static ino_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static void journal_add(const struct kvc_io_req *req)
{
	struct volatile_write *entry = &world.journal[world.count++];
	uint64_t bytes = req->wanted - req->transferred;

	assert_true(world.count < JOURNAL);
	entry->fd = dup(req->file->fd);
	entry->inode = inode_of(entry->fd);
	entry->offset = req->offset + req->transferred;
	entry->bytes = bytes;
	entry->before = aligned_alloc(KVC_IO_ALIGN, bytes);
	memset(entry->before, 0, bytes);
	assert_true(pread(entry->fd, entry->before, bytes, (off_t)entry->offset) >= 0);
}

static void journal_drop(struct volatile_write *entry)
{
	close(entry->fd);
	free(entry->before);
}

static void journal_sync(ino_t inode)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < world.count; i++)
		if (world.journal[i].inode == inode)
			journal_drop(&world.journal[i]);
		else
			world.journal[kept++] = world.journal[i];
	world.count = kept;
}

/* Take back what did not arrive. A page at a time, as the file may be open with O_DIRECT. */
static void page_restore(const struct volatile_write *entry, uint64_t at, enum loss loss)
{
	static _Alignas(KVC_IO_ALIGN) uint8_t page[KVC_IO_ALIGN];
	off_t offset = (off_t)(entry->offset + at);

	memset(page, 0, sizeof page);
	if (pread(entry->fd, page, sizeof page, offset) <= 0)
		return; /* the file ends before it: nothing of it arrived */
	for (uint32_t sector = 0; sector < sizeof page; sector += SECTOR)
		if (loss == LOSS_ALL || prng_chance(&prng, 2))
			memcpy(page + sector, entry->before + at + sector, SECTOR);
	assert_int_equal(pwrite(entry->fd, page, sizeof page, offset), sizeof page);
}

static void journal_restore(enum loss loss)
{
	while (world.count) {
		struct volatile_write *entry = &world.journal[--world.count];

		for (uint64_t at = 0; loss != LOSS_NONE && at < entry->bytes; at += KVC_IO_ALIGN)
			page_restore(entry, at, loss);
		journal_drop(entry);
	}
}

static void crash_now(void)
{
	kvc_row.injected++;
	world.crashed = true;
	memcpy(world.promised, rig.blocks, sizeof world.promised);
}

/* The crash comes at an operation, or so many operations behind the first write of a superblock. */
static bool crash_is_due(const struct kvc_io_req *req)
{
	world.operations++;
	if (!world.super)
		return world.operations == world.crash_at;
	if (world.super_seen || (req->op == KVC_IO_WRITE && inode_of(req->file->fd) == world.super))
		world.super_seen++;
	return world.super_seen == world.crash_at;
}

static uint64_t torn_bytes(const struct kvc_io_req *req)
{
	if (world.torn_at != UINT32_MAX)
		return world.torn_at * (uint64_t)SECTOR;
	return prng_below(&prng, (uint32_t)(req->wanted / SECTOR) + 1) * (uint64_t)SECTOR;
}

/* Writes happen at once, so that what was written before a sync is known. */
static void world_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	bool now;

	(void)context;
	if (req->op == KVC_IO_READ)
		return;
	now = !world.crashed && crash_is_due(req);
	if (now)
		crash_now();
	if (now && req->op == KVC_IO_WRITE) {
		journal_add(req);
		fault->kind = KVC_FAULT_TORN;
		fault->bytes = torn_bytes(req);
	} else if (world.crashed) {
		fault->kind = KVC_FAULT_LOST;
	} else if (req->op == KVC_IO_WRITE) {
		journal_add(req);
		fault->kind = KVC_FAULT_MISDIRECT; /* to where it belongs: at once */
		fault->offset = req->offset + req->transferred;
	} else if (req->op == KVC_IO_SYNC) {
		journal_sync(inode_of(req->file->fd));
	}
}

/* --- the script ----------------------------------------------------------------------------------- */

/* Stores of all sizes, in bunches, some of them again, with syncs between; several times the tier's size. */
static void script(void)
{
	struct rig_request *bunch[4];

	for (uint32_t i = 0; i < SCRIPT_STORES && !world.crashed; i += 4) {
		for (uint32_t j = 0; j < 4; j++)
			bunch[j] = rig_store_begin(&rig, (i + j) % 50, (i + j) % 3);
		for (uint32_t j = 0; j < 4; j++)
			rig_end(bunch[j]);
		rig.blocks[(i + 1) % 50].used = true;
		if (i % 8 == 4)
			rig_sync(&rig);
	}
}

/* The same version or a newer one, and right. */
static void promises_check(void)
{
	for (uint32_t i = 0; i < RIG_BLOCKS; i++) {
		const struct rig_block *promised = &world.promised[i];

		if (!promised->synced || !promised->stored)
			continue;
		assert_true(rig.blocks[i].stored);
		assert_true(rig.blocks[i].record.generation >= promised->record.generation);
		if (rig.blocks[i].record.generation == promised->record.generation)
			assert_int_equal(rig_load(&rig, i), RIG_RIGHT);
	}
}

/* False: the script and the stop ended before the crash. */
static bool crash_run(uint32_t crash_at, enum loss loss)
{
	bool crashed;

	rig_init(&rig);
	rig.options.bytes = 4 * 512 * 1024;
	rig.options.segment_bytes = 512 * 1024;
	memset(world.promised, 0, sizeof world.promised);
	world.crash_at = crash_at;
	world.torn_at = UINT32_MAX;
	world.super = 0;
	world.operations = 0;
	world.crashed = false;
	kvc_io_fault_install(world_hook, NULL);
	rig_start(&rig);
	script();
	rig_stop(&rig);
	crashed = world.crashed;
	kvc_io_fault_install(NULL, NULL);
	journal_restore(loss);
	rig_start(&rig);
	if (crashed)
		promises_check();
	rig_check_all(&rig, true);
	/* It works on, and a second start finds the same. */
	for (uint32_t i = 100; i < 110; i++)
		assert_int_equal(rig_store(&rig, i, 1), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	rig_check_all(&rig, true);
	rig_destroy(&rig);
	return crashed;
}

static void sweep(enum loss loss)
{
	uint32_t crash_at = 1;

	while (crash_run(crash_at, loss))
		crash_at++;
	print_message("%u points\n", crash_at - 1);
	kvc_row.points += crash_at - 1;
	kvc_row.points_total += crash_at - 1;
	assert_true(crash_at > 30);
}

static void test_process_dies(void **state)
{
	(void)state;
	KVC_ROW("A1");
	sweep(LOSS_NONE);
	kvc_row_end();
}

static void test_power_fails(void **state)
{
	(void)state;
	KVC_ROW("A8");
	sweep(LOSS_ALL);
	kvc_row_end();
}

static void test_power_fails_with_reordering(void **state)
{
	const char *rounds = getenv("KVC_TEST_ROUNDS");
	int left = rounds ? atoi(rounds) : 3;

	(void)state;
	KVC_ROW("A9 B2");
	kvc_row.seed = prng.state;
	while (left-- > 0)
		sweep(LOSS_RANDOM);
	kvc_row_end();
}

/* --- a crash in the switch of superblocks --------------------------------------------------------- */

/* Many small segments, so that the epochs that a superblock allows run out. */
static void epochs_use_up(void)
{
	for (uint32_t i = 0; i < 3000 && !world.crashed; i++) {
		rig_store(&rig, i % 200, 0);
		if (i % 32 == 31)
			rig_sync(&rig);
	}
}

static void super_crash(uint32_t crash_at, uint32_t torn_at, enum loss loss)
{
	char path[KVC_TEMP_DIR_BYTES + 8];
	struct stat st;

	rig_init(&rig);
	rig.options.segment_bytes = 64 * 1024;
	rig.options.bytes = 4 * rig.options.segment_bytes;
	memset(world.promised, 0, sizeof world.promised);
	world.crash_at = crash_at;
	world.torn_at = torn_at;
	world.super_seen = 0;
	world.crashed = false;
	rig_start(&rig);
	snprintf(path, sizeof path, "%s/super", rig.directory);
	assert_int_equal(stat(path, &st), 0);
	world.super = st.st_ino;
	kvc_io_fault_install(world_hook, NULL);
	epochs_use_up();
	assert_true(world.crashed);
	rig_stop(&rig);
	kvc_io_fault_install(NULL, NULL);
	journal_restore(loss);
	rig_start(&rig);
	promises_check();
	rig_check_all(&rig, true);
	assert_int_equal(rig_store(&rig, 300, 1), KVC_OK);
	assert_int_equal(rig_load(&rig, 300), RIG_RIGHT);
	rig_destroy(&rig);
}

/* At the write itself, with every number of its sectors, at its sync, and at what follows. */
static void test_superblock_switch(void **state)
{
	(void)state;
	KVC_ROW("A4");
	for (enum loss loss = LOSS_NONE; loss < LOSSES; loss++) {
		for (uint32_t sectors = 0; sectors <= KVC_IO_ALIGN / SECTOR; sectors++)
			super_crash(1, sectors, loss);
		for (uint32_t behind = 2; behind <= 5; behind++)
			super_crash(behind, UINT32_MAX, loss);
	}
	kvc_row.points = kvc_row.points_total = LOSSES * (KVC_IO_ALIGN / SECTOR + 1 + 4);
	kvc_row_end();
}

/* --- a crash in the recovery ---------------------------------------------------------------------- */

static bool ignore_recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	(void)context;
	(void)record;
	(void)cookie;
	return false;
}

static void ignore_reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
}

static void flag_end(void *context, kvc_status status)
{
	(void)status;
	*(bool *)context = true;
}

static void flag_closed(void *context)
{
	*(bool *)context = true;
}

static uint32_t reads_left;

static void stop_reads(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != KVC_IO_READ)
		fault->kind = KVC_FAULT_LOST; /* this owner takes no record, so the tier makes room */
	else if (reads_left)
		reads_left--;
	else
		fault->kind = KVC_FAULT_HOLD;
}

/* Go through a recovery up to its n-th read and stop there. False: it has no more than that. */
static bool recover_in_part(uint32_t reads)
{
	struct kvc_tier_events events = {.recovered = ignore_recovered, .reclaimed = ignore_reclaimed};
	bool done = false, ended = false, held;

	assert_int_equal(rig_open(&rig), KVC_OK);
	reads_left = reads;
	kvc_io_fault_install(stop_reads, NULL);
	rig.tier->ops->recover(rig.tier, &events, flag_end, &ended);
	while (!kvc_io_fault_held() && !ended)
		kvc_loop_turn(rig.loop);
	held = kvc_io_fault_held() > 0;
	rig.tier->ops->close(rig.tier, flag_closed, &done);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	assert_true(kvc_test_run_until_set(rig.loop, &done));
	kvc_engine_close(rig.engine);
	kvc_io_close(rig.io);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
	rig.loop = NULL;
	return held;
}

/* At every read: by summaries, or by a scan. */
static void break_off(bool scan)
{
	uint32_t stored, reads = 0;

	rig_init(&rig);
	rig_start(&rig);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	rig_stop(&rig);
	rig_start(&rig);
	stored = rig.recovered;
	rig_stop(&rig);
	rig.options.verify_on_start = scan;
	while (reads < 60 && recover_in_part(reads))
		reads++;
	assert_true(reads > 20);
	kvc_row.injected += reads;
	kvc_row.points += reads;
	kvc_row.points_total += reads;
	rig_start(&rig);
	assert_int_equal(rig.recovered, stored);
	assert_int_equal(rig_check_all(&rig, false), stored);
	rig_destroy(&rig);
}

static void test_recovery_is_broken_off(void **state)
{
	(void)state;
	KVC_ROW("A3");
	break_off(false);
	break_off(true);
	kvc_row_end();
}

/* --- a power failure between a checkpoint and the sync of what is kept ------------------------------ */

enum { KEPT_SEGMENT = 3, PER_SEGMENT = 7, KEPT = KEPT_SEGMENT * PER_SEGMENT };

static bool sections_held;

static bool of_checkpoint(const struct kvc_io_req *req)
{
	char link[64], path[512];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", req->file->fd);
	length = readlink(link, path, sizeof path - 1);
	path[length < 0 ? 0 : length] = '\0';
	return strstr(path, "/checkpoint.");
}

/* The checkpoint waits until copies were made, and those are never synced. */
static void between_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	bool checkpoint = of_checkpoint(req);

	if (!world.crashed &&
	    ((checkpoint && sections_held) || (!checkpoint && req->op == KVC_IO_SYNC && rig.moved)))
		fault->kind = KVC_FAULT_HOLD;
	else
		world_hook(context, req, fault);
}

/* `alone`: nothing else of its segment is wanted. */
static void power_fails_between(bool alone)
{
	int64_t checkpoints;

	rig_init(&rig);
	memset(&world, 0, sizeof world);
	rig_start(&rig);
	for (uint32_t i = 0; i < 80; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	checkpoints = rig_stat(&rig, "disk.checkpoints");
	sections_held = true;
	kvc_io_fault_install(between_hook, NULL);
	rig.blocks[KEPT].used = true;
	for (uint32_t i = 1; alone && i < PER_SEGMENT; i++)
		rig_forget(&rig, KEPT + i);
	for (uint32_t i = 0; i < 100 && !rig.moved; i++)
		assert_int_equal(rig_store(&rig, 200 + i, 2), KVC_OK);
	assert_true(rig.moved > 0 && kvc_io_fault_held() > 0);
	sections_held = false;
	kvc_io_fault_release();
	while (rig_stat(&rig, "disk.checkpoints") == checkpoints)
		kvc_loop_turn(rig.loop);
	assert_true(rig.blocks[KEPT].stored && rig.blocks[KEPT].synced);
	crash_now();
	kvc_io_fault_release();
	rig_stop(&rig);
	kvc_io_fault_install(NULL, NULL);
	journal_restore(LOSS_ALL);
	rig_start(&rig);
	promises_check();
	rig_destroy(&rig);
}

/* A record whose copy did not arrive is still known where it was. */
static void test_checkpoint_beside_copies(void **state)
{
	(void)state;
	KVC_ROW("A8");
	power_fails_between(false);
	power_fails_between(true);
	kvc_row_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_process_dies),
	        cmocka_unit_test(test_power_fails),
	        cmocka_unit_test(test_power_fails_with_reordering),
	        cmocka_unit_test(test_superblock_switch),
	        cmocka_unit_test(test_recovery_is_broken_off),
	        cmocka_unit_test(test_checkpoint_beside_copies),
	};

	prng.state = prng_seed("test_disk_crash");
	kvc_log_level_now = KVC_LOG_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
