/* Asynchronous file I/O over both backends: transfers, ends of files, limits, retries, bounds, faults. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/io/io.h"
#include "daemon/io/io_fault.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"
#include "tests/support/temp_dir.h"

enum { DEPTH = 4, PAGE = KVC_IO_ALIGN, BUFFER_PAGES = 64 };

static enum kvc_io_backend backend;
static char directory[KVC_TEMP_DIR_BYTES];
static int dir_fd;
static struct kvc_loop *loop;
static struct kvc_stats *stats;
static struct kvc_io *io;
static struct kvc_file file;
static uint8_t *out, *in;

static int io_setup(void **state)
{
	struct kvc_io_options options = {.backend = backend, .depth = DEPTH};

	(void)state;
	kvc_test_temp_dir(directory);
	dir_fd = open(directory, O_RDONLY | O_DIRECTORY);
	out = aligned_alloc(PAGE, BUFFER_PAGES * PAGE);
	in = aligned_alloc(PAGE, BUFFER_PAGES * PAGE);
	for (int i = 0; i < BUFFER_PAGES * PAGE; i++)
		out[i] = (uint8_t)(i * 7 + i / PAGE);
	memset(in, 0xEE, BUFFER_PAGES * PAGE);
	return kvc_loop_open(&loop) || kvc_stats_open(&stats) || kvc_io_open(loop, &options, stats, &io) ||
	       kvc_file_open(dir_fd, "data", O_RDWR | O_CREAT, &file);
}

static int io_teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_file_close(&file);
	kvc_io_close(io);
	kvc_loop_close(loop);
	kvc_stats_close(stats);
	free(out);
	free(in);
	close(dir_fd);
	kvc_test_temp_dir_remove(directory);
	kvc_row_end();
	return 0;
}

static int64_t stat_of(const char *name)
{
	return kvc_stat_get(kvc_stats_cell(stats, name));
}

/* --- one request ---------------------------------------------------------------------------------- */

struct call {
	struct kvc_io_req req;
	struct iovec iov[4];
	bool done;
};

static int done_order[64];
static int done_count;

static void call_done(struct kvc_io_req *req)
{
	struct call *call = kvc_container_of(req, struct call, req);

	assert_false(call->done);
	call->done = true;
	done_order[done_count++ % 64] = (int)req->op;
}

static void call_submit(struct call *call, enum kvc_io_op op, uint64_t page, uint8_t *data, uint32_t pages)
{
	memset(call, 0, sizeof *call);
	call->iov[0] = (struct iovec){.iov_base = data, .iov_len = pages * PAGE};
	call->req = (struct kvc_io_req){
	        .op = op,
	        .file = &file,
	        .offset = page * PAGE,
	        .iov = call->iov,
	        .iov_count = op == KVC_IO_SYNC ? 0 : 1,
	        .done = call_done,
	};
	kvc_io_submit(io, &call->req);
	assert_false(call->done);
}

static kvc_status run(enum kvc_io_op op, uint64_t page, uint8_t *data, uint32_t pages)
{
	struct call call;

	call_submit(&call, op, page, data, pages);
	assert_true(kvc_test_run_until_set(loop, &call.done));
	return call.req.status;
}

static void test_round_trip(void **state)
{
	struct call call = {.done = false};

	(void)state;
	call.iov[0] = (struct iovec){out, 3 * PAGE};
	call.iov[1] = (struct iovec){out + 3 * PAGE, PAGE};
	call.iov[2] = (struct iovec){out + 4 * PAGE, 12 * PAGE};
	call.req = (struct kvc_io_req){
	        .op = KVC_IO_WRITE, .file = &file, .iov = call.iov, .iov_count = 3, .done = call_done};
	kvc_io_submit(io, &call.req);
	assert_true(kvc_test_run_until_set(loop, &call.done));
	assert_int_equal(call.req.status, KVC_OK);
	assert_int_equal(call.req.transferred, 16 * PAGE);
	assert_int_equal(run(KVC_IO_SYNC, 0, NULL, 0), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 1, in, 15), KVC_OK);
	assert_memory_equal(in, out + PAGE, 15 * PAGE);
}

static void test_end_of_file(void **state)
{
	struct call call;

	(void)state;
	KVC_ROW("B13");
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 2), KVC_OK);
	assert_int_equal(ftruncate(file.fd, PAGE + 100), 0);
	kvc_row.injected++;
	call_submit(&call, KVC_IO_READ, 0, in, 16);
	assert_true(kvc_test_run_until_set(loop, &call.done));
	assert_int_equal(call.req.status, KVC_MISS);
	assert_int_equal(call.req.transferred, PAGE + 100);
	assert_memory_equal(in, out, PAGE + 100);
	assert_int_equal(run(KVC_IO_READ, 20, in, 1), KVC_MISS);
}

static void test_allocate(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(run(KVC_IO_ALLOCATE, 0, NULL, 32), KVC_OK);
	assert_int_equal(fstat(file.fd, &st), 0);
	assert_int_equal(st.st_size, 32 * PAGE);
}

/* A write that crosses RLIMIT_FSIZE is short at first and fails then; SIGXFSZ does not end the process. */
static void test_file_size_limit(void **state)
{
	struct rlimit before, limit;
	kvc_status crossing, past;

	(void)state;
	KVC_ROW("B12");
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = (struct rlimit){.rlim_cur = 2 * PAGE + 512, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	crossing = run(KVC_IO_WRITE, 0, out, 8);
	past = run(KVC_IO_WRITE, 8, out, 1);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(crossing, KVC_NO_SPACE);
	assert_int_equal(past, KVC_NO_SPACE);
	kvc_row.injected += 2;
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 8), KVC_OK);
	assert_int_equal(stat_of("io.errors"), 2);
}

/* --- bounds and order ----------------------------------------------------------------------------- */

static bool all_done(void *context)
{
	const struct call *calls = context;

	for (int i = 0; i < 32; i++)
		if (!calls[i].done)
			return false;
	return true;
}

static void test_depth_is_bound(void **state)
{
	static struct call calls[32];

	(void)state;
	KVC_ROW("B18");
	for (uint32_t i = 0; i < 32; i++)
		call_submit(&calls[i], KVC_IO_WRITE, i, out + i * PAGE, 1);
	assert_int_equal(stat_of("io.queued"), 32);
	kvc_row.injected += 32 - DEPTH; /* more than the ring takes */
	assert_true(kvc_test_run_until(loop, all_done, calls, 120000));
	assert_int_equal(stat_of("io.depth_reached"), DEPTH);
	assert_int_equal(stat_of("io.queued"), 0);
	assert_int_equal(stat_of("io.in_flight"), 0);
	assert_int_equal(run(KVC_IO_READ, 0, in, 32), KVC_OK);
	assert_memory_equal(in, out, 32 * PAGE);
}

/* --- faults --------------------------------------------------------------------------------------- */

struct plan {
	struct kvc_io_fault fault;
	uint32_t times;
	uint32_t asked;
};

static void plan_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	struct plan *plan = context;

	(void)req;
	plan->asked++;
	if (!plan->times)
		return;
	plan->times--;
	kvc_row.injected++;
	*fault = plan->fault;
}

static kvc_status run_with(struct plan *plan, enum kvc_io_op op, uint8_t *data, uint32_t pages)
{
	kvc_status status;

	kvc_io_fault_install(plan_hook, plan);
	status = run(op, 0, data, pages);
	kvc_io_fault_install(NULL, NULL);
	return status;
}

/* Held writes fill the depth's queue; a read that comes later overtakes those that still wait. */
static void test_reads_go_first(void **state)
{
	static struct call calls[32];
	struct plan plan = {.fault = {.kind = KVC_FAULT_NONE}};

	(void)state;
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 32), KVC_OK);
	done_count = 0;
	kvc_io_fault_install(plan_hook, &plan);
	for (uint32_t i = 0; i < 32; i++)
		call_submit(&calls[i], i < 8 ? KVC_IO_WRITE : KVC_IO_READ, i, in + i * PAGE, 1);
	plan.fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO};
	plan.times = 32; /* carried out at once, so the order of starting is the order of ending */
	assert_true(kvc_test_run_until(loop, all_done, calls, 120000));
	for (int i = 0; i < 8; i++)
		assert_int_equal(done_order[i], KVC_IO_READ);
	assert_int_equal(done_order[8], KVC_IO_WRITE);
	assert_int_equal(done_order[9], KVC_IO_READ);
}

static void test_retries(void **state)
{
	static const int errors[] = {EAGAIN, EBUSY, EINTR, ECANCELED};

	(void)state;
	KVC_ROW("B15 B17");
	for (unsigned i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = errors[i]}, .times = 3};

		assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 4), KVC_OK);
		assert_int_equal(plan.asked, 4);
	}
	assert_int_equal(stat_of("io.retries"), 12);
	assert_int_equal(run(KVC_IO_READ, 0, in, 4), KVC_OK);
	assert_memory_equal(in, out, 4 * PAGE);
}

static void test_retries_are_bound(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = EAGAIN}, .times = 1000};

	(void)state;
	KVC_ROW("B15");
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 4), KVC_BUSY);
	assert_true(plan.asked < 100);
}

/* After EAGAIN at most 1 MiB is asked for at a time, and the whole arrives. */
static void test_narrow_after_eagain(void **state)
{
	const uint32_t pages = 3 * 256 + 5;
	struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = EAGAIN}, .times = 1};
	uint8_t *large = aligned_alloc(PAGE, pages * PAGE);
	uint8_t *back = aligned_alloc(PAGE, pages * PAGE);

	(void)state;
	KVC_ROW("B15");
	for (uint32_t i = 0; i < pages * PAGE; i++)
		large[i] = (uint8_t)(i ^ i / PAGE);
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, large, pages), KVC_OK);
	assert_int_equal(plan.asked, 1 + 4);
	assert_int_equal(run(KVC_IO_READ, 0, back, pages), KVC_OK);
	assert_memory_equal(back, large, pages * PAGE);
	free(large);
	free(back);
}

static void test_short_transfers_are_resumed(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_SHORT, .bytes = 5 * PAGE + 100}, .times = 3};

	(void)state;
	KVC_ROW("B13");
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 20), KVC_OK);
	assert_int_equal(plan.asked, 4);
	plan.times = 3;
	assert_int_equal(run_with(&plan, KVC_IO_READ, in, 20), KVC_OK);
	assert_memory_equal(in, out, 20 * PAGE);
	assert_int_equal(stat_of("io.short_transfers"), 6);
}

/* No progress at all: an error in the end, never success. */
static void test_write_without_progress(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_SHORT, .bytes = 10}, .times = 1000};

	(void)state;
	KVC_ROW("B13");
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 2), KVC_NO_SPACE);
}

static void test_errors_are_told(void **state)
{
	static const struct {
		int error;
		kvc_status status;
	} rows[] = {{EIO, KVC_IO},
	            {ENOSPC, KVC_NO_SPACE},
	            {ENODEV, KVC_IO},
	            {EROFS, KVC_IO},
	            {EDQUOT, KVC_NO_SPACE}};
	static const enum kvc_io_op ops[] = {KVC_IO_READ, KVC_IO_WRITE, KVC_IO_SYNC, KVC_IO_ALLOCATE};

	(void)state;
	KVC_ROW("B12 B21 B22");
	for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
		for (unsigned op = 0; op < 4; op++) {
			struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = rows[i].error},
			                    .times = 1};

			assert_int_equal(run_with(&plan, ops[op], in, 1), rows[i].status);
			assert_int_equal(plan.asked, 1);
		}
}

static void test_direct_is_dropped_on_einval(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = EINVAL}, .times = 1};

	(void)state;
	KVC_ROW("B14 B27");
	if (!file.direct) {
		print_message("SKIP: no O_DIRECT in %s\n", directory);
		skip();
	}
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 4), KVC_OK);
	assert_false(file.direct);
	assert_false(fcntl(file.fd, F_GETFL) & O_DIRECT);
	assert_int_equal(stat_of("io.buffered_files"), 1);
	plan.times = 1;
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 4), KVC_INVALID);
}

/* Several are under way when the first one shows it: each of them is done again. */
static void test_direct_is_dropped_under_several(void **state)
{
	static struct call calls[32];
	struct plan plan = {.fault = {.kind = KVC_FAULT_ERROR, .error = EINVAL}, .times = 5};

	(void)state;
	KVC_ROW("B14 B27");
	if (!file.direct) {
		print_message("SKIP: no O_DIRECT in %s\n", directory);
		skip();
	}
	done_count = 0;
	kvc_io_fault_install(plan_hook, &plan);
	for (uint32_t i = 0; i < 32; i++)
		call_submit(&calls[i], KVC_IO_WRITE, i, out + i * PAGE, 1);
	assert_true(kvc_test_run_until(loop, all_done, calls, 120000));
	kvc_io_fault_install(NULL, NULL);
	for (uint32_t i = 0; i < 32; i++)
		assert_int_equal(calls[i].req.status, KVC_OK);
	assert_int_equal(stat_of("io.buffered_files"), 1);
	assert_int_equal(run(KVC_IO_READ, 0, in, 32), KVC_OK);
	assert_memory_equal(in, out, 32 * PAGE);
}

/* The lies of a disk are carried out as told. */
static void test_lies(void **state)
{
	struct plan lost = {.fault = {.kind = KVC_FAULT_LOST}, .times = 1};
	struct plan torn = {.fault = {.kind = KVC_FAULT_TORN, .bytes = PAGE + 700}, .times = 1};
	struct plan flip = {.fault = {.kind = KVC_FAULT_FLIP, .bytes = 5000, .bit = 3}, .times = 1};
	struct plan astray = {.fault = {.kind = KVC_FAULT_MISDIRECT, .offset = 8 * PAGE}, .times = 1};

	(void)state;
	memset(in, 0, 4 * PAGE);
	assert_int_equal(run(KVC_IO_WRITE, 0, in, 4), KVC_OK);
	assert_int_equal(run_with(&lost, KVC_IO_WRITE, out, 4), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 0, in, 4), KVC_OK);
	assert_int_equal(in[1], 0);
	assert_int_equal(run_with(&torn, KVC_IO_WRITE, out, 4), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 0, in, 4), KVC_OK);
	assert_memory_equal(in, out, PAGE + 700);
	assert_int_equal(in[PAGE + 700], 0);
	assert_int_equal(run_with(&flip, KVC_IO_WRITE, out, 4), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 0, in, 4), KVC_OK);
	assert_int_equal(in[5000], out[5000] ^ 8);
	assert_int_equal(run_with(&astray, KVC_IO_WRITE, out, 4), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 8, in, 4), KVC_OK);
	assert_memory_equal(in, out, 4 * PAGE);
}

static void test_held_request_waits(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_HOLD}, .times = 1};
	struct call call;

	(void)state;
	kvc_io_fault_install(plan_hook, &plan);
	call_submit(&call, KVC_IO_WRITE, 0, out, 1);
	kvc_loop_turn(loop);
	assert_int_equal(kvc_io_fault_held(), 1);
	assert_int_equal(run(KVC_IO_WRITE, 1, out, 1), KVC_OK); /* others pass */
	assert_false(call.done);
	kvc_io_fault_release();
	assert_true(kvc_test_run_until_set(loop, &call.done));
	assert_int_equal(call.req.status, KVC_OK);
}

/* Where the kernel has none for us, what only it has cannot be shown. */
static bool over_io_uring(void)
{
	if (!strcmp(kvc_io_backend_name(io), "io_uring"))
		return true;
	print_message("SKIP: there is no io_uring here\n");
	return false;
}

static void test_enter_fails(void **state)
{
	(void)state;
	KVC_ROW("B16");
	if (!over_io_uring())
		skip();
	kvc_io_fault_enter_fails(EAGAIN, 3);
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 1), KVC_OK);
	kvc_io_fault_enter_fails(EBUSY, 3);
	assert_int_equal(run(KVC_IO_READ, 0, in, 1), KVC_OK);
	assert_int_equal(kvc_io_fault_enter(), 0); /* all six were used */
	kvc_row.injected += 6;
}

/* --- registered memory ----------------------------------------------------------------------------- */

enum { PIECE = 16 * PAGE };

/* Requests go on while it is registered; from then on those that lie in one piece use it. */
static void test_registered_memory(void **state)
{
	int64_t before;

	(void)state;
	kvc_io_memory(io, out, BUFFER_PAGES * PAGE, PIECE);
	if (!over_io_uring())
		skip();
	while (stat_of("io.registered_bytes") < BUFFER_PAGES * PAGE)
		assert_int_equal(run(KVC_IO_WRITE, 0, out, 1), KVC_OK);
	before = stat_of("io.registered_requests");
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 16), KVC_OK);
	assert_int_equal(run(KVC_IO_WRITE, 16, out + 16 * PAGE, 3), KVC_OK);
	assert_int_equal(run(KVC_IO_WRITE, 63, out + 63 * PAGE, 1), KVC_OK);
	assert_int_equal(stat_of("io.registered_requests"), before + 3);
	assert_int_equal(run(KVC_IO_WRITE, 0, out, 17), KVC_OK);             /* across two pieces */
	assert_int_equal(run(KVC_IO_WRITE, 15, out + 15 * PAGE, 2), KVC_OK); /* likewise */
	assert_int_equal(run(KVC_IO_READ, 0, in, 17), KVC_OK);               /* elsewhere */
	assert_int_equal(stat_of("io.registered_requests"), before + 3);
	assert_memory_equal(in, out, 17 * PAGE);
	memset(out, 0, 16 * PAGE);
	assert_int_equal(run(KVC_IO_READ, 0, out, 16), KVC_OK);
	assert_int_equal(stat_of("io.registered_requests"), before + 4);
	assert_memory_equal(in, out, 16 * PAGE);
}

/* A short transfer goes on in the registered memory; what ends with the file is a miss as ever. */
static void test_registered_memory_and_faults(void **state)
{
	struct plan plan = {.fault = {.kind = KVC_FAULT_SHORT, .bytes = 5 * PAGE}, .times = 1};

	(void)state;
	kvc_io_memory(io, out, BUFFER_PAGES * PAGE, PIECE);
	if (!over_io_uring())
		skip();
	while (stat_of("io.registered_bytes") < BUFFER_PAGES * PAGE)
		assert_int_equal(run(KVC_IO_WRITE, 0, out, 1), KVC_OK);
	assert_int_equal(run_with(&plan, KVC_IO_WRITE, out, 16), KVC_OK);
	assert_int_equal(run(KVC_IO_READ, 0, in, 16), KVC_OK);
	assert_memory_equal(in, out, 16 * PAGE);
	assert_int_equal(run(KVC_IO_READ, 8, out, 16), KVC_MISS);
}

/* --- files ---------------------------------------------------------------------------------------- */

static void test_refuses_what_is_no_file(void **state)
{
	struct kvc_file other = {.fd = -1};

	(void)state;
	KVC_ROW("B26");
	assert_int_equal(symlinkat("data", dir_fd, "link"), 0);
	assert_int_equal(mkfifoat(dir_fd, "fifo", 0600), 0);
	assert_int_equal(mkdirat(dir_fd, "dir", 0700), 0);
	assert_int_equal(kvc_file_open(dir_fd, "link", O_RDWR, &other), KVC_ACCESS);
	assert_int_equal(kvc_file_open(dir_fd, "fifo", O_RDWR, &other), KVC_ACCESS);
	assert_int_equal(kvc_file_open(dir_fd, "fifo", O_RDONLY, &other), KVC_ACCESS);
	assert_int_equal(kvc_file_open(dir_fd, "dir", O_RDONLY, &other), KVC_ACCESS);
	assert_int_equal(kvc_file_open(dir_fd, "nothing", O_RDWR, &other), KVC_MISS);
	assert_int_equal(other.fd, -1);
	kvc_row.injected += 3;
}

/* --- without io_uring ----------------------------------------------------------------------------- */

static void refuse_io_uring(void)
{
	struct sock_filter code[] = {
	        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = 4, .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(77);
}

/* In a child whose kernel refuses io_uring. */
static int child_main(void)
{
	struct kvc_io_options options = {.backend = KVC_IO_URING, .depth = DEPTH};
	struct kvc_io *opened;

	refuse_io_uring();
	if (kvc_loop_open(&loop) || kvc_stats_open(&stats))
		return 2;
	if (kvc_io_open(loop, &options, stats, &opened) != KVC_UNSUPPORTED)
		return 3;
	options.backend = KVC_IO_AUTO;
	if (kvc_io_open(loop, &options, stats, &opened))
		return 4;
	return strcmp(kvc_io_backend_name(opened), "threads") ? 5 : 0;
}

static void test_io_uring_refused(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	assert_true(child >= 0);
	if (!child)
		_exit(child_main());
	KVC_ROW("C7");
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("SKIP: no seccomp here\n");
		skip();
	}
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	kvc_row.injected++;
	kvc_row_end();
}

/* In a child that may lock little memory, as a user who has no right to exceed his limit and no other
 * programs, since theirs would count. */
static int little_memory_main(void)
{
	enum { NOBODY_ELSE = 61234 };
	const struct rlimit little = {32 * PAGE, 32 * PAGE}; /* enough for the ring */
	struct kvc_io_options options = {.backend = KVC_IO_URING, .depth = DEPTH};
	uint8_t *memory = aligned_alloc(PAGE, BUFFER_PAGES * PAGE);
	int64_t registered;

	dir_fd = open(directory, O_RDONLY | O_DIRECTORY);
	if (kvc_file_open(dir_fd, "data", O_RDWR | O_CREAT, &file))
		return 2;
	if (!memory || setrlimit(RLIMIT_MEMLOCK, &little) || (geteuid() == 0 && setuid(NOBODY_ELSE)))
		return 77;
	memset(memory, 3, BUFFER_PAGES * PAGE);
	if (kvc_loop_open(&loop) || kvc_stats_open(&stats) || kvc_io_open(loop, &options, stats, &io))
		return 77;
	kvc_io_memory(io, memory, BUFFER_PAGES * PAGE, BUFFER_PAGES * PAGE);
	for (unsigned i = 0; i < 100; i++)
		if (run(KVC_IO_WRITE, 0, memory, 16) || run(KVC_IO_READ, 0, memory, 16))
			return 3;
	registered = stat_of("io.registered_bytes") + stat_of("io.registered_requests");
	kvc_io_close(io);
	free(memory);
	return registered ? 4 : 0;
}

static void test_no_memory_can_be_locked(void **state)
{
	pid_t child;
	int status;

	(void)state;
	KVC_ROW("C3");
	kvc_test_temp_dir(directory);
	child = fork();
	assert_true(child >= 0);
	if (!child)
		_exit(little_memory_main());
	assert_int_equal(waitpid(child, &status, 0), child);
	kvc_test_temp_dir_remove(directory);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		print_message("SKIP: no io_uring here, or rights cannot be given up\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
	kvc_row.injected++;
	kvc_row_end();
}

#define IO_TEST(test) cmocka_unit_test_setup_teardown(test, io_setup, io_teardown)

static int run_group(enum kvc_io_backend with)
{
	const struct CMUnitTest tests[] = {
	        IO_TEST(test_round_trip),
	        IO_TEST(test_end_of_file),
	        IO_TEST(test_allocate),
	        IO_TEST(test_file_size_limit),
	        IO_TEST(test_depth_is_bound),
	        IO_TEST(test_reads_go_first),
	        IO_TEST(test_retries),
	        IO_TEST(test_retries_are_bound),
	        IO_TEST(test_narrow_after_eagain),
	        IO_TEST(test_short_transfers_are_resumed),
	        IO_TEST(test_write_without_progress),
	        IO_TEST(test_errors_are_told),
	        IO_TEST(test_direct_is_dropped_on_einval),
	        IO_TEST(test_direct_is_dropped_under_several),
	        IO_TEST(test_lies),
	        IO_TEST(test_held_request_waits),
	        IO_TEST(test_refuses_what_is_no_file),
	};

	backend = with;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

static int run_uring_group(void)
{
	const struct CMUnitTest tests[] = {
	        IO_TEST(test_enter_fails),
	        IO_TEST(test_registered_memory),
	        IO_TEST(test_registered_memory_and_faults),
	};

	backend = KVC_IO_AUTO;
	return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest refused[] = {cmocka_unit_test(test_io_uring_refused),
	                                     cmocka_unit_test(test_no_memory_can_be_locked)};
	int failures = cmocka_run_group_tests(refused, NULL, NULL);

	failures += run_group(KVC_IO_THREADS);
	failures += run_group(KVC_IO_AUTO);
	failures += run_uring_group();
	return failures;
}
