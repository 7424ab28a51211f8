/* The disk tier over a disk of which each request of a kind fails in turn; over other file systems; on a
 * copied directory. The tests of single faults are in tests/unit/test_disk_fault.c. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

enum { STORES = 48 };

static struct rig rig;

static struct {
	enum kvc_io_op op;
	int error;
	uint32_t at; /* from 1 */
	uint32_t seen;
	bool fired;
} plan;

static void plan_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (req->op != plan.op || ++plan.seen != plan.at)
		return;
	plan.fired = true;
	kvc_row.injected++;
	*fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = plan.error};
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_row_end();
	return 0;
}

/* --- every request in turn ------------------------------------------------------------------------ */

/* Stores of all sizes, several times the tier's size, with syncs and loads between. */
static void script(void)
{
	struct rig_request *bunch[4];

	for (uint32_t i = 0; i < STORES; i += 4) {
		for (uint32_t j = 0; j < 4; j++)
			bunch[j] = rig_store_begin(&rig, (i + j) % 40, (i + j) % 3);
		for (uint32_t j = 0; j < 4; j++)
			rig_end(bunch[j]);
		if (i % 8 == 4)
			rig_sync(&rig);
		for (uint32_t j = 0; j < 4; j++)
			if (rig.blocks[i % 40 + j].stored)
				rig_load(&rig, i % 40 + j);
	}
}

/* False: the script has fewer requests of that kind. */
static bool sweep_one(enum kvc_io_op op, int error, uint32_t at)
{
	memset(&plan, 0, sizeof plan);
	plan.op = op;
	plan.error = error;
	plan.at = at;
	rig_init(&rig);
	rig.options.bytes = 4 * 512 * 1024;
	rig.options.segment_bytes = 512 * 1024;
	kvc_io_fault_install(plan_hook, NULL);
	assert_int_equal(rig_open(&rig), KVC_OK);
	rig_recover(&rig); /* may be switched off already */
	script();
	kvc_io_fault_install(NULL, NULL);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	rig_check_all(&rig, false);
	assert_int_equal(rig_store(&rig, 100, 1), KVC_OK);
	assert_int_equal(rig_load(&rig, 100), RIG_RIGHT);
	rig_destroy(&rig);
	return plan.fired;
}

static void sweep(enum kvc_io_op op, int error)
{
	uint32_t at = 1;

	for (; sweep_one(op, error, at); at++)
		kvc_row.points++;
	kvc_row.points_total += at - 1;
	print_message("# %u requests of kind %d\n", at - 1, (int)op);
	assert_true(at > 3);
}

static void each_read_fails(void **state)
{
	(void)state;
	KVC_ROW("B8");
	sweep(KVC_IO_READ, EIO);
}

static void each_write_fails(void **state)
{
	(void)state;
	KVC_ROW("B9");
	sweep(KVC_IO_WRITE, EIO);
	sweep(KVC_IO_ALLOCATE, EIO);
}

static void each_sync_fails(void **state)
{
	(void)state;
	KVC_ROW("B10");
	sweep(KVC_IO_SYNC, EIO);
}

static void each_allocation_finds_no_space(void **state)
{
	(void)state;
	KVC_ROW("B11 B12");
	sweep(KVC_IO_ALLOCATE, EDQUOT);
	sweep(KVC_IO_WRITE, EDQUOT);
}

/* --- file systems --------------------------------------------------------------------------------- */

static void works_on(const char *parent)
{
	const char *kept = getenv("TMPDIR");
	char *before = kept ? strdup(kept) : NULL;
	struct statfs fs;

	setenv("TMPDIR", parent, 1);
	assert_int_equal(statfs(parent, &fs), 0);
	rig_init(&rig);
	if (before)
		setenv("TMPDIR", before, 1);
	else
		unsetenv("TMPDIR");
	free(before);
	rig_start(&rig);
	script();
	assert_int_equal(rig_sync(&rig), KVC_OK);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	assert_true(rig_check_all(&rig, false) > 0);
	print_message("# %s: type %lx, blocks of %ld, %s\n", parent, (unsigned long)fs.f_type,
	              (long)fs.f_bsize, rig_stat(&rig, "disk.direct") ? "O_DIRECT" : "page cache");
	rig_destroy(&rig);
	kvc_row.injected++;
}

static void other_file_systems(void **state)
{
	static const char *const parents[] = {"/tmp", "/var/tmp", "/dev/shm", "/run"};

	dev_t seen[4] = {0};
	struct stat st;

	(void)state;
	KVC_ROW("B27");
	for (size_t i = 0; i < sizeof parents / sizeof parents[0]; i++) {
		bool known = access(parents[i], W_OK) || stat(parents[i], &st);

		for (size_t j = 0; j < i && !known; j++)
			known = seen[j] == st.st_dev;
		if (known)
			continue;
		seen[i] = st.st_dev;
		works_on(parents[i]);
	}
}

/* --- a copied directory --------------------------------------------------------------------------- */

static void copy(const char *from, const char *to)
{
	char command[1200];

	snprintf(command, sizeof command, "cp -a '%.500s/.' '%.500s/'", from, to);
	assert_int_equal(system(command), 0);
}

/* A backup from the middle of the tier's life comes back: what it has is exact, and what was written after it
 * on the other side does not count. Then single files of it come back under the newer ones. */
static void restored_from_backup(void **state)
{
	char backup[KVC_TEMP_DIR_BYTES];

	(void)state;
	KVC_ROW("B25");
	rig_init(&rig);
	rig.options.bytes = 4 * 512 * 1024;
	rig.options.segment_bytes = 512 * 1024;
	kvc_test_temp_dir(backup);
	for (uint32_t round = 0; round < 4; round++) {
		rig_start(&rig);
		for (uint32_t i = 0; i < 30; i++)
			assert_int_equal(rig_store(&rig, round * 100 + i, 2), KVC_OK);
		copy(rig.directory, backup); /* while it runs: as torn as a copy can be */
		for (uint32_t i = 30; i < 60; i++)
			assert_int_equal(rig_store(&rig, round * 100 + i, 1), KVC_OK);
		rig_stop(&rig);
		if (round % 2)
			copy(backup, rig.directory);
		else
			unlinkat(AT_FDCWD, strcat(strcpy((char[600]){0}, rig.directory), "/segments/1"), 0);
		kvc_row.injected++;
		rig_start(&rig);
		rig_check_all(&rig, true);
		rig_stop(&rig);
	}
	kvc_test_temp_dir_remove(backup);
	rig_destroy(&rig);
}

/* --- alignment ------------------------------------------------------------------------------------ */

enum crooked { BUFFER, LENGTH, OFFSET, CROOKED };

/* In a child: it is to be stopped before the request goes anywhere. */
static _Noreturn void submit_crooked(enum crooked what)
{
	struct kvc_io_options options = {.backend = KVC_IO_THREADS, .depth = 4};
	static _Alignas(KVC_IO_ALIGN) uint8_t data[4 * KVC_IO_ALIGN];
	struct iovec iov = {data + (what == BUFFER ? 8 : 0), KVC_IO_ALIGN - (what == LENGTH ? 512 : 0)};
	struct kvc_file file = {.fd = 0};
	struct kvc_io_req req = {.op = KVC_IO_WRITE,
	                         .file = &file,
	                         .offset = what == OFFSET ? 512 : 0,
	                         .iov = &iov,
	                         .iov_count = 1,
	                         .done = (void (*)(struct kvc_io_req *))(uintptr_t)abort};
	struct kvc_stats *stats;
	struct kvc_loop *loop;
	struct kvc_io *io;

	if (kvc_loop_open(&loop) || kvc_stats_open(&stats) || kvc_io_open(loop, &options, stats, &io))
		_exit(2);
	kvc_io_submit(io, &req);
	_exit(0);
}

static void crooked_requests_are_stopped(void **state)
{
	(void)state;
	KVC_ROW("B14");
	for (enum crooked what = BUFFER; what < CROOKED; what++) {
		pid_t child = fork();
		int status;

		if (!child)
			submit_crooked(what);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		kvc_row.injected++;
	}
}

#define MEDIA(test) cmocka_unit_test_teardown(test, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MEDIA(each_read_fails),
	        MEDIA(each_write_fails),
	        MEDIA(each_sync_fails),
	        MEDIA(each_allocation_finds_no_space),
	        MEDIA(other_file_systems),
	        MEDIA(restored_from_backup),
	        MEDIA(crooked_requests_are_stopped),
	};

	kvc_log_level_now = KVC_LOG_ERROR;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
