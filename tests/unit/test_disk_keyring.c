/* The disk tier's keyring at work: keys that fit and that do not, tenants that are dropped, and all that can
 * go wrong with its files. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/keyring_files.h"
#include "tests/support/row.h"
#include "tests/support/super_version.h"

enum { BLOCKS = 40, TENANTS = 4, SIZE = 1 };

static struct rig rig;
static const char *unreadable; /* name of a file; NULL: none */

static int setup(void **state)
{
	(void)state;
	rig_encrypted = true;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	unreadable = NULL;
	rig_destroy(&rig);
	kvc_row_end();
	return 0;
}

static void store_some(void)
{
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
}

static uint32_t found_anywhere(const void *needle, size_t needle_bytes)
{
	char segments[512];

	snprintf(segments, sizeof segments, "%s/segments", rig.directory);
	return rig_found_in(rig.directory, needle, needle_bytes) +
	       rig_found_in(segments, needle, needle_bytes);
}

static void wrapped_get(uint32_t tenant, uint8_t wrapped[KVC_WRAPPED_BYTES])
{
	rig_wrapped_get(rig.directory, rig.blocks[tenant].record.tenant, wrapped);
}

/* --- keys ----------------------------------------------------------------------------------------- */

static void test_the_right_key(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some();
	assert_int_equal(rig_stat(&rig, "disk.encrypted"), 1);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
	rig_restart_scanning(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
	assert_int_equal(rig_stat(&rig, "disk.corrupt"), 0);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* No other start, nor one without a key, and none of them changes anything. */
static void test_other_keys(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some();
	rig_stop(&rig);
	rig.options.key = NULL;
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_non_null(strstr(rig.detail, "is encrypted"));
	assert_non_null(strstr(rig.detail, rig.directory));
	rig.options.segment_bytes = 2u << 20; /* which would start empty */
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	rig.options.key = &rig.key;
	rig.key.bytes[0] ^= 1;
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_non_null(strstr(rig.detail, "does not open"));
	assert_non_null(strstr(rig.detail, rig.directory));
	rig.key.bytes[0] ^= 1;
	rig.options.segment_bytes = 1u << 20;
	rig_start(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* What was stored before stays readable, what comes now is encrypted; and there is no way back. */
static void test_plain_directory_takes_a_key(void **state)
{
	(void)state;
	rig.options.key = NULL;
	rig_start(&rig);
	for (uint32_t i = 0; i < BLOCKS / 2; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
	rig_stop(&rig);
	rig.options.key = &rig.key;
	rig_start(&rig);
	assert_int_equal(rig.recovered, BLOCKS / 2);
	for (uint32_t i = BLOCKS / 2; i < BLOCKS; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
	rig_stop(&rig);
	rig.options.key = NULL;
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	rig.options.key = &rig.key;
	rig_restart_scanning(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* A part of a block's image as its owner has it stands on disk in a plain directory, and not in this one. */
static void test_nothing_shows(void **state)
{
	(void)state;
	for (uint32_t encrypted = 0; encrypted < 2; encrypted++) {
		struct rig_request *request;
		uint8_t part[64];

		rig.options.key = encrypted ? &rig.key : NULL;
		rig_start(&rig);
		request = rig_store_begin(&rig, 1, SIZE);
		memcpy(part, request->req.slab + rig_image_bytes(SIZE) - 1024, sizeof part);
		assert_int_equal(rig_end(request), KVC_OK);
		assert_int_equal(rig_load(&rig, 1), RIG_RIGHT);
		rig_stop(&rig);
		assert_int_equal(found_anywhere(part, sizeof part), !encrypted);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* --- records at rest ------------------------------------------------------------------------------ */

static void record_copy(uint32_t from, uint32_t to)
{
	const struct kvc_record *records[2] = {&rig.blocks[from].record, &rig.blocks[to].record};
	size_t bytes = rig_record_bytes(SIZE);
	uint8_t *all = malloc(bytes);
	char path[512];
	int fd;

	snprintf(path, sizeof path, "%s/segments/%u", rig.directory, records[0]->place.segment);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, all, bytes, (off_t)records[0]->place.page * KVC_PAGE_BYTES), bytes);
	close(fd);
	snprintf(path, sizeof path, "%s/segments/%u", rig.directory, records[1]->place.segment);
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, all, bytes, (off_t)records[1]->place.page * KVC_PAGE_BYTES), bytes);
	close(fd);
	free(all);
}

/* A sound record of the same tenant, in another one's place. */
static void test_misplaced_record(void **state)
{
	(void)state;
	KVC_ROW("B5");
	rig_start(&rig);
	store_some();
	record_copy(0, 4);
	kvc_row.injected++;
	assert_int_equal(rig_load(&rig, 4), RIG_MISSING);
	assert_int_equal(rig_load(&rig, 0), RIG_RIGHT);
}

/* Where a block lies comes a plain record that is sound in all, with its name and another one's image. */
static void forge(uint32_t block, const uint8_t *image)
{
	struct kvc_record record = rig.blocks[block].record;
	uint8_t *all = malloc(rig_record_bytes(SIZE));
	char path[512];
	int fd;

	record.encrypted = false;
	memcpy(all + KVC_RECORD_HEADER_BYTES, image, record.image_bytes);
	kvc_record_seal(&record, all);
	snprintf(path, sizeof path, "%s/segments/%u", rig.directory, record.place.segment);
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, all, rig_record_bytes(SIZE), (off_t)record.place.page * KVC_PAGE_BYTES),
	                 rig_record_bytes(SIZE));
	close(fd);
	free(all);
}

/* Nothing plain counts in a directory that was always encrypted, nor, in one that took a key, from then on.
 */
static void test_plain_record_is_forged(void **state)
{
	uint8_t *image = malloc(rig_image_bytes(SIZE));

	(void)state;
	for (uint32_t plain_first = 0; plain_first < 2; plain_first++) {
		struct rig_request *request;

		rig.options.key = plain_first ? NULL : &rig.key;
		rig_start(&rig);
		assert_int_equal(rig_store(&rig, 0, SIZE), KVC_OK);
		rig_stop(&rig);
		rig.options.key = &rig.key;
		rig_start(&rig);
		assert_int_equal(rig_store(&rig, 4, SIZE), KVC_OK);
		request = rig_store_begin(&rig, 8, SIZE);
		memcpy(image, request->req.slab + KVC_RECORD_HEADER_BYTES, rig_image_bytes(SIZE));
		assert_int_equal(rig_end(request), KVC_OK);
		forge(4, image);
		assert_int_equal(rig_load(&rig, 4), RIG_MISSING);
		assert_int_equal(rig_load(&rig, 0), RIG_RIGHT);
		rig_restart_scanning(&rig);
		assert_int_equal(rig_stat(&rig, "disk.corrupt"), 1);
		assert_false(rig.blocks[4].stored);
		assert_int_equal(rig_check_all(&rig, false), 2);
		rig_destroy(&rig);
		rig_init(&rig);
	}
	free(image);
}

static uint64_t plain_below(const char *file)
{
	struct kvc_keyring ring;
	uint64_t found;
	size_t bytes;
	uint8_t *text = rig_file_get(rig.directory, file, &bytes);

	assert_int_equal(kvc_keyring_decode(text, (uint32_t)(bytes / KVC_PAGE_BYTES), &ring), KVC_OK);
	found = ring.plain_below;
	kvc_keyring_free(&ring);
	free(text);
	return found;
}

/* More than the directory holds, so that nothing is left of what was there. */
static void store_all_over(uint32_t first)
{
	for (uint32_t i = 0; i < 80; i++)
		assert_int_equal(rig_store(&rig, first + i, 3), KVC_OK);
}

/* When all that was plain is written over, nothing may be plain any more: a segment of then, put back, does
 * not count. Also if the keyring could not be written at first. */
static void test_plain_segment_comes_back(void **state)
{
	(void)state;
	KVC_ROW("B25");
	for (uint32_t fails = 0; fails < 2; fails++) {
		char name[32];
		uint8_t *old;
		size_t bytes;

		rig.options.key = NULL;
		rig_start(&rig);
		assert_int_equal(rig_store(&rig, 0, SIZE), KVC_OK);
		snprintf(name, sizeof name, "segments/%u", rig.blocks[0].record.place.segment);
		rig_stop(&rig);
		old = rig_file_get(rig.directory, name, &bytes);
		rig.options.key = &rig.key;
		rig_start(&rig);
		assert_int_equal(rig_load(&rig, 0), RIG_RIGHT);
		for (uint32_t i = 1; i < TENANTS; i++) /* their keys are made */
			assert_int_equal(rig_store(&rig, 100 + i, SIZE), KVC_OK);
		assert_int_equal(rig_store(&rig, 100, SIZE), KVC_OK);
		if (fails)
			rig_keyring_fault(KVC_IO_WRITE, 0, EIO);
		store_all_over(200);
		kvc_io_fault_install(NULL, NULL);
		if (fails)
			store_all_over(300);
		rig_stop(&rig);
		assert_int_equal(plain_below("keyring.0"), 1);
		assert_int_equal(plain_below("keyring.1"), 1);
		rig_file_put(rig.directory, name, old, bytes);
		kvc_row.injected++;
		free(old);
		rig_start(&rig);
		assert_int_equal(rig_load(&rig, 0), RIG_MISSING);
		rig_restart_scanning(&rig);
		assert_false(rig.blocks[0].stored);
		assert_true(rig_check_all(&rig, false) > 10);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* One bit of the encrypted image, in its first page, where the header binds it, and behind. */
static void test_flipped_bit(void **state)
{
	(void)state;
	KVC_ROW("B3");
	rig_start(&rig);
	store_some();
	for (uint32_t i = 0; i < BLOCKS; i++) {
		const struct kvc_record *record = &rig.blocks[i].record;
		off_t at = (off_t)record->place.page * KVC_PAGE_BYTES + KVC_RECORD_HEADER_BYTES +
		           (off_t)(rig_image_bytes(SIZE) - 1) * i / (BLOCKS - 1);
		char path[512];
		uint8_t byte;
		int fd;

		snprintf(path, sizeof path, "%s/segments/%u", rig.directory, record->place.segment);
		fd = open(path, O_RDWR);
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= (uint8_t)(1u << i % 8);
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		close(fd);
		kvc_row.injected++;
		assert_int_equal(rig_load(&rig, i), RIG_MISSING);
	}
	assert_int_equal(rig_stat(&rig, "disk.corrupt"), BLOCKS);
	assert_int_equal(rig_stat(&rig, "disk.reads"), 2 * BLOCKS); /* each was read once more */
}

/* --- drops ---------------------------------------------------------------------------------------- */

/* Also after a start that reads all records again. */
static void test_dropped_tenant(void **state)
{
	(void)state;
	KVC_ROW("H8");
	for (uint32_t encrypted = 0; encrypted < 2; encrypted++) {
		struct kvc_record old;

		rig.options.key = encrypted ? &rig.key : NULL;
		rig_start(&rig);
		store_some();
		old = rig.blocks[1].record;
		assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
		rig.blocks[1].record = old; /* whoever still has it in an index */
		assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
		kvc_row.injected++;
		assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
		rig_restart_scanning(&rig);
		assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
		assert_int_equal(rig_stat(&rig, "disk.forgotten_records"), BLOCKS / TENANTS);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
		assert_int_equal(rig.incarnation[1], 1);
		store_some(); /* it is welcome again */
		assert_int_equal(rig_check_all(&rig, false), BLOCKS);
		rig_stop(&rig);
		rig_start(&rig);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS);
		assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
		assert_int_equal(rig.incarnation[1], 2);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

static void test_dropped_key_is_in_no_file(void **state)
{
	uint8_t wrapped[TENANTS][KVC_WRAPPED_BYTES];

	(void)state;
	KVC_ROW("H8");
	rig_start(&rig);
	store_some();
	for (uint32_t i = 0; i < TENANTS; i++) {
		wrapped_get(i, wrapped[i]);
		assert_true(found_anywhere(wrapped[i], KVC_WRAPPED_BYTES) > 0);
	}
	assert_int_equal(rig_drop_tenant(&rig, 2), KVC_OK);
	kvc_row.injected++;
	for (uint32_t i = 0; i < TENANTS; i++)
		assert_int_equal(found_anywhere(wrapped[i], KVC_WRAPPED_BYTES), i == 2 ? 0 : 2);
}

/* A record that is put for the tenant as it was comes too late; one for the tenant as it will be, too early.
 */
static void test_other_incarnation(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some();
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	rig.incarnation[1] = 0;
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_CANCELLED);
	rig.incarnation[1] = 2;
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_UNAVAILABLE);
	rig.incarnation[1] = 1;
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
	rig.incarnation[1] = 0;
	assert_int_equal(rig_store(&rig, 5, SIZE), KVC_CANCELLED);
	rig.incarnation[1] = 2;
	assert_int_equal(rig_store(&rig, 5, SIZE), KVC_UNAVAILABLE);
}

/* Stores, loads, drops and syncs in flight together, then a stop in the middle of it. */
static void test_drops_in_flight(void **state)
{
	struct rig_request *requests[4 * BLOCKS];
	uint32_t count = 0;

	(void)state;
	rig_start(&rig);
	store_some();
	for (uint32_t i = 0; i < BLOCKS; i++) {
		if (i % 8 == 1)
			requests[count++] = rig_drop_tenant_begin(&rig, i % TENANTS);
		requests[count++] = rig_load_begin(&rig, i);
		requests[count++] = rig_store_begin(&rig, BLOCKS + i, SIZE);
	}
	for (uint32_t i = 0; i < count; i++) {
		bool load = requests[i]->req.op == KVC_TIER_LOAD;

		if (load)
			assert_int_not_equal(rig_load_end(requests[i]), RIG_WRONG);
		else
			rig_end(requests[i]);
	}
	assert_int_equal(rig.incarnation[1], BLOCKS / 8);
	rig_restart_scanning(&rig);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

/* --- faults --------------------------------------------------------------------------------------- */

/* What comes before the new table is in force: nothing has changed, and the next try succeeds. */
static void test_drop_cannot_be_written(void **state)
{
	static const struct {
		enum kvc_io_op op;
		int error;
		kvc_status status;
	} cases[] = {
	        {KVC_IO_WRITE, EIO, KVC_IO},
	        {KVC_IO_WRITE, ENOSPC, KVC_NO_SPACE},
	        {KVC_IO_SYNC, EIO, KVC_IO},
	        {KVC_IO_READ, EIO, KVC_IO},
	};

	(void)state;
	KVC_ROW("B9 B10 B11");
	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint8_t wrapped[KVC_WRAPPED_BYTES];

		rig_start(&rig);
		store_some();
		wrapped_get(1, wrapped);
		rig_keyring_fault(cases[i].op, 0, cases[i].error);
		assert_int_equal(rig_drop_tenant(&rig, 1), cases[i].status);
		assert_int_equal(rig.incarnation[1], 0);
		assert_int_equal(rig_keyring_faults(), 1);
		kvc_row.injected += rig_keyring_faults();
		assert_int_equal(rig_check_all(&rig, false), BLOCKS);
		kvc_io_fault_install(NULL, NULL);
		assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
		assert_int_equal(rig.incarnation[1], 1);
		assert_int_equal(found_anywhere(wrapped, sizeof wrapped), 0);
		rig_restart_scanning(&rig);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* A drop that was refused may have arrived. What is stored after it stays, whatever the start finds. */
static void test_refused_drop_and_then_a_store(void **state)
{
	(void)state;
	KVC_ROW("B10");
	rig_start(&rig);
	store_some();
	rig_keyring_fault(KVC_IO_SYNC, 0, EIO);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_IO);
	kvc_row.injected++;
	rig_forget(&rig, 1);
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_IO); /* it cannot be made sure of */
	kvc_io_fault_install(NULL, NULL);
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
	rig_restart_scanning(&rig);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
	assert_int_equal(rig.incarnation[1], 0);
}

/* The drop holds, but the old key is still there: it is told, and the next start or drop takes it away. */
static void test_old_key_cannot_be_overwritten(void **state)
{
	static const enum kvc_io_op ops[] = {KVC_IO_WRITE, KVC_IO_SYNC};

	(void)state;
	KVC_ROW("B9 B10");
	for (unsigned i = 0; i < 2; i++) {
		uint8_t wrapped[KVC_WRAPPED_BYTES];

		rig_start(&rig);
		store_some();
		wrapped_get(1, wrapped);
		rig_keyring_fault(ops[i], 1, EIO);
		assert_int_equal(rig_drop_tenant(&rig, 1), KVC_IO);
		kvc_row.injected += rig_keyring_faults();
		assert_int_equal(rig.incarnation[1], 1);
		assert_int_equal(rig_load(&rig, 1), RIG_MISSING);
		kvc_io_fault_install(NULL, NULL);
		rig_restart_scanning(&rig);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
		assert_int_equal(found_anywhere(wrapped, sizeof wrapped), 0);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* A tenant whose key cannot be made sure of stores nothing. */
static void test_key_cannot_be_written(void **state)
{
	static const enum kvc_io_op ops[] = {KVC_IO_WRITE, KVC_IO_SYNC, KVC_IO_READ};

	(void)state;
	KVC_ROW("B9 B10");
	for (unsigned i = 0; i < 3; i++) {
		rig_start(&rig);
		assert_int_equal(rig_store(&rig, 0, SIZE), KVC_OK);
		rig_keyring_fault(ops[i], 0, EIO);
		assert_int_equal(rig_store(&rig, 1, SIZE), KVC_IO);
		assert_int_equal(rig_store(&rig, 4, SIZE), KVC_OK); /* others do */
		kvc_row.injected += rig_keyring_faults();
		kvc_io_fault_install(NULL, NULL);
		assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
		rig_restart_scanning(&rig);
		assert_int_equal(rig.recovered, 3);
		assert_int_equal(rig_check_all(&rig, false), 3);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* One of the files is damaged in any byte, or cut: the other one serves, and both are whole afterwards. */
static void test_damaged_file(void **state)
{
	size_t bytes;

	(void)state;
	KVC_ROW("B4");
	rig_start(&rig);
	store_some();
	rig_stop(&rig);
	rig_start(&rig); /* both files are the same from here on */
	rig_stop(&rig);
	for (uint32_t i = 0; i < 32; i++) {
		const char *name = i % 2 ? "keyring.1" : "keyring.0";
		uint8_t *all = rig_file_get(rig.directory, name, &bytes);

		all[i < 16 ? i : i * 20] ^= 0x10;
		rig_file_put(rig.directory, name, all, bytes);
		kvc_row.injected++;
		free(all);
		rig_start(&rig);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS);
		rig_stop(&rig);
	}
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *all = rig_file_get(rig.directory, i ? "keyring.1" : "keyring.0", &bytes);

		all[100] ^= 1;
		rig_file_put(rig.directory, i ? "keyring.1" : "keyring.0", all, bytes);
		free(all);
	}
	assert_int_equal(rig_open(&rig), KVC_CORRUPT);
	assert_non_null(strstr(rig.detail, "keyring"));
	rig_destroy(&rig);
	rig_init(&rig);
}

/* In place of the C library's, for what is read at open. */
ssize_t read_at(int fd, void *bytes, size_t length, off_t offset) __asm__("pread");

ssize_t read_at(int fd, void *bytes, size_t length, off_t offset)
{
	char path[RIG_PATH_BYTES];

	rig_fd_path(fd, path);
	if (!unreadable || !strstr(path, unreadable))
		return syscall(SYS_pread64, fd, bytes, length, offset);
	errno = EIO;
	return -1;
}

/* A file that cannot be read may be the newer one: the other one does not take its place. */
static void test_unreadable_file(void **state)
{
	(void)state;
	rig_start(&rig);
	for (uint32_t i = 0; i < TENANTS; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
	rig_stop(&rig);
	for (uint32_t i = 0; i < 2; i++) {
		unreadable = i ? "/keyring.1" : "/keyring.0";
		assert_int_equal(rig_open(&rig), KVC_IO);
		assert_non_null(strstr(rig.detail, "keyring cannot be read"));
		unreadable = NULL;
	}
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), TENANTS);
}

/* Nor does it for want of memory, whatever it is wanted for. */
static void test_no_memory_at_open(void **state)
{
	uint8_t wrapped[KVC_WRAPPED_BYTES], now[KVC_WRAPPED_BYTES];
	uint64_t all = kvc_alloc_count();
	uint8_t *files[2];
	size_t bytes[2];

	(void)state;
	assert_int_equal(rig_open(&rig), KVC_OK);
	all = kvc_alloc_count() - all;
	rig_recover(&rig);
	assert_int_equal(rig_store(&rig, 0, SIZE), KVC_OK); /* its key is in one of them */
	rig_stop(&rig);
	wrapped_get(0, wrapped);
	for (uint32_t i = 0; i < 2; i++)
		files[i] = rig_file_get(rig.directory, i ? "keyring.1" : "keyring.0", &bytes[i]);
	for (uint64_t n = 1; n <= all; n++) {
		for (uint32_t i = 0; i < 2; i++)
			rig_file_put(rig.directory, i ? "keyring.1" : "keyring.0", files[i], bytes[i]);
		kvc_alloc_fail_at(n, 0);
		if (rig_open(&rig) == KVC_OK)
			rig_stop(&rig);
		kvc_alloc_fail_at(0, 0);
		wrapped_get(0, now);
		assert_memory_equal(now, wrapped, sizeof now);
	}
	free(files[0]);
	free(files[1]);
}

/* An older file comes back: the newer one counts, and the older one is written over. */
static void test_older_file(void **state)
{
	uint8_t wrapped[KVC_WRAPPED_BYTES];
	size_t bytes;

	(void)state;
	KVC_ROW("B25 H8");
	for (uint32_t i = 0; i < 2; i++) {
		const char *name = i ? "keyring.1" : "keyring.0";
		uint8_t *old;

		rig_start(&rig);
		store_some();
		wrapped_get(1, wrapped);
		old = rig_file_get(rig.directory, name, &bytes);
		assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
		rig_stop(&rig);
		rig_file_put(rig.directory, name, old, bytes);
		kvc_row.injected++;
		free(old);
		rig_restart_scanning(&rig);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
		assert_int_equal(found_anywhere(wrapped, sizeof wrapped), 0);
		rig_destroy(&rig);
		rig_init(&rig);
	}
}

/* The superblock of before an upgrade comes back, which knows of no keyring: the one that is there counts. */
static void test_superblock_of_before_the_keyring(void **state)
{
	uint8_t *super;
	size_t bytes;

	(void)state;
	KVC_ROW("B25 H8");
	rig_start(&rig);
	store_some();
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	rig_stop(&rig);
	super = rig_file_get(rig.directory, "super", &bytes);
	for (uint32_t i = 0; i < KVC_SUPER_SLOTS; i++)
		kvc_test_super_version(super + i * KVC_PAGE_BYTES, 2);
	rig_file_put(rig.directory, "super", super, bytes);
	kvc_row.injected++;
	free(super);
	rig.options.key = NULL;
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	rig.options.key = &rig.key;
	rig.options.verify_on_start = true;
	rig_start(&rig);
	assert_int_equal(rig.incarnation[1], 1);
	assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
}

#define KEYRING_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEYRING_TEST(test_the_right_key),
	        KEYRING_TEST(test_other_keys),
	        KEYRING_TEST(test_plain_directory_takes_a_key),
	        KEYRING_TEST(test_nothing_shows),
	        KEYRING_TEST(test_misplaced_record),
	        KEYRING_TEST(test_plain_record_is_forged),
	        KEYRING_TEST(test_plain_segment_comes_back),
	        KEYRING_TEST(test_flipped_bit),
	        KEYRING_TEST(test_dropped_tenant),
	        KEYRING_TEST(test_dropped_key_is_in_no_file),
	        KEYRING_TEST(test_other_incarnation),
	        KEYRING_TEST(test_drops_in_flight),
	        KEYRING_TEST(test_drop_cannot_be_written),
	        KEYRING_TEST(test_refused_drop_and_then_a_store),
	        KEYRING_TEST(test_old_key_cannot_be_overwritten),
	        KEYRING_TEST(test_key_cannot_be_written),
	        KEYRING_TEST(test_damaged_file),
	        KEYRING_TEST(test_unreadable_file),
	        KEYRING_TEST(test_no_memory_at_open),
	        KEYRING_TEST(test_older_file),
	        KEYRING_TEST(test_superblock_of_before_the_keyring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
