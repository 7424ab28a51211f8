/* Descriptors, and clients that are slow, many or not allowed, against the real daemon. The names of the
 * tests are rows of the fault sheet; each asserts the answer, the one counter that grew, that others are
 * served, and that no descriptor stayed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/protocol_fixture.h"
#include "tests/support/row.h"

/* ---- E1, E2: what may be attached ---------------------------------------------------------- */

static void attach_refused(int fd, int memfd, const char *what)
{
	struct kvc_test_reply reply;

	print_message("%s: ", what);
	assert_true(memfd >= 0);
	assert_int_equal(kvc_test_attach(fd, 1, memfd, 4096, &reply), KVC_INVALID);
	print_message("%s\n", kvc_test_detail(&reply));
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.INVALID", 1));
	close(memfd);
}

static void test_e1_descriptors_that_are_no_sealed_memfd(void **state)
{
	char path[KVC_TEST_PATH_BYTES + 16];
	int pair[2];
	int fd = kvc_test_client_now();
	int memfd;

	(void)state;
	snprintf(path, sizeof path, "%s/file", kvc_test_now.directory);
	memfd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(memfd, 4096), 0);
	attach_refused(fd, memfd, "memfd without seals");
	memfd = memfd_create("unsealable", MFD_CLOEXEC);
	assert_int_equal(ftruncate(memfd, 4096), 0);
	attach_refused(fd, memfd, "memfd that cannot be sealed");
	attach_refused(fd, kvc_test_sealed_memfd(4096, F_SEAL_GROW), "memfd sealed against growing only");
	attach_refused(fd, kvc_test_sealed_memfd(4096, F_SEAL_SHRINK | F_SEAL_WRITE),
	               "memfd sealed against writing");
	attach_refused(fd, kvc_test_sealed_memfd(4096, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE),
	               "future write seal");
	attach_refused(fd, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), "regular file");
	attach_refused(fd, open(path, O_PATH | O_CLOEXEC), "O_PATH");
	attach_refused(fd, open("/dev/zero", O_RDWR | O_CLOEXEC), "device");
	attach_refused(fd, open(kvc_test_now.directory, O_RDONLY | O_CLOEXEC), "directory");
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	attach_refused(fd, pair[0], "pipe");
	close(pair[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	attach_refused(fd, pair[0], "socket");
	close(pair[1]);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_e2_attached_memory_cannot_be_truncated(void **state)
{
	int memfd;
	int fd = kvc_test_client_with_region(&memfd);

	(void)state;
	assert_int_equal(ftruncate(memfd, 0), -1);
	kvc_test_assert_pings(fd);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- E4: outside of the region ------------------------------------------------------------- */

static void test_e4_offsets(void **state)
{
	static const uint64_t bad[] = {(1 << 20) - 4095, 1 << 20, INT64_MAX, UINT64_MAX - 4095, UINT64_MAX};
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	struct kvc_test_reply reply;
	int memfd;
	int fd = kvc_test_client_with_region(&memfd);

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		put = kvc_test_put_of(blocks, &block);
		block.key_offset = bad[i];
		kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "key_offset");
		put = kvc_test_put_of(blocks, &block);
		block.value_offset = bad[i];
		kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "value_offset");
	}
	put = kvc_test_put_of(blocks, &block);
	block.value_offset = (1 << 20) - KVC_TEST_BLOCK_BYTES / 2; /* the last place that fits */
	assert_int_equal(kvc_test_call(fd, KVC_VERB_PUT, &put.base, &reply), KVC_OK);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_e4_region_larger_than_memfd(void **state)
{
	static const uint64_t sizes[] = {4097, 1 << 20, INT64_MAX, UINT64_MAX};
	struct kvc_test_reply reply;
	int memfd = kvc_test_sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = kvc_test_client_now();

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		bool small = sizes[i] <= 1 << 20;

		assert_int_equal(kvc_test_attach(fd, 1, memfd, sizes[i], &reply),
		                 small ? KVC_INVALID : KVC_LIMIT);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now,
		                                   small ? "rpc.refused.INVALID" : "rpc.refused.LIMIT", 1));
	}
	assert_int_equal(kvc_test_attach(fd, 1, memfd, 4096, &reply), KVC_OK);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- E5: number of descriptors ------------------------------------------------------------- */

static void send_with_descriptors(size_t count, unsigned flags, const char *counter)
{
	int fds[253];
	uint8_t frame[256];
	size_t bytes = kvc_test_attach_frame(1, 4096, flags, frame);
	int memfd = kvc_test_sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = kvc_test_client_now();

	for (size_t i = 0; i < count; i++)
		fds[i] = memfd;
	if (count)
		assert_true(kvc_test_send_fds(fd, frame, bytes, fds, count));
	else
		assert_true(kvc_test_send(fd, frame, bytes));
	close(memfd);
	kvc_test_assert_eof(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, counter, 1));
}

static void test_e5_wrong_number_of_descriptors(void **state)
{
	(void)state;
	send_with_descriptors(0, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(2, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(4, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(253, KVC_FRAME_FD, "rpc.dropped.descriptor");
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* With a frame that announces none, with a ping, in the middle of a frame. */
static void test_e5_descriptor_out_of_place(void **state)
{
	struct kvc_frame ping = {.verb = KVC_VERB_PING, .request_id = 1};
	struct kvc_test_reply reply;
	uint8_t frame[256];
	size_t bytes = kvc_test_frame(&ping, NULL, frame);
	int memfd = kvc_test_sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = kvc_test_client_now();

	(void)state;
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	while (kvc_test_receive(fd, &reply) == KVC_TEST_REPLY) /* its reply, or not even that */
		;
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.descriptor", 1));

	fd = kvc_test_client_now();
	assert_true(kvc_test_send_fds(fd, frame, 1, &memfd, 1));
	assert_true(kvc_test_send(fd, frame + 1, bytes - 1));
	while (kvc_test_receive(fd, &reply) == KVC_TEST_REPLY)
		;
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.descriptor", 1));

	fd = kvc_test_client_now();
	assert_true(kvc_test_send_fds(fd, frame, 1, &memfd, 1));
	assert_true(kvc_test_send_fds(fd, frame + 1, 1, &memfd, 1));
	kvc_test_assert_eof(fd);
	close(memfd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.descriptor", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* Attach frames that are split and pipelined keep their own descriptors. */
static void test_e5_split_and_pipelined_attach(void **state)
{
	int memfd = kvc_test_sealed_memfd(4096, F_SEAL_SHRINK);
	struct kvc_test_reply reply;
	uint8_t frame[256];
	size_t bytes;
	int fd = kvc_test_client_now();

	(void)state;
	bytes = kvc_test_attach_frame(1, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, 5, &memfd, 1));
	assert_true(kvc_test_send(fd, frame + 5, bytes - 5));
	bytes = kvc_test_attach_frame(2, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	bytes = kvc_test_attach_frame(3, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
		assert_int_equal(reply.frame.status, KVC_OK);
	}
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D4, D5: slow clients ------------------------------------------------------------------ */

static const char *const hasty[] = {"--ram", "32M", "--threads", "2", "--stall-timeout-ms", "400", NULL};

static int setup_hasty(void **state)
{
	(void)state;
	return kvc_test_start_with(hasty);
}

/* Replies pile up: the daemon stops reading, then gives up. */
static void test_d4_client_that_does_not_read(void **state)
{
	struct kvc_frame frame = {.verb = KVC_VERB_STATS, .request_id = 1};
	struct pollfd wait;
	uint8_t bytes[KVC_FRAME_HEADER_BYTES];
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("D4");
	kvc_frame_encode(&frame, bytes);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	wait = (struct pollfd){.fd = fd, .events = POLLOUT};
	while (!(poll(&wait, 1, 30000) == 1 && wait.revents & (POLLHUP | POLLERR)))
		kvc_test_send(fd, bytes, sizeof bytes);
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.slow_reader", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d5_frame_that_does_not_end(void **state)
{
	static uint8_t bytes[1 << 16];
	size_t total = kvc_test_inline_put(bytes);
	size_t cuts[] = {1, KVC_FRAME_HEADER_BYTES - 1, KVC_FRAME_HEADER_BYTES, 40, total - 1};

	(void)state;
	KVC_ROW("D5");
	for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
		int fd = kvc_test_client_now();

		assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
		assert_true(kvc_test_send(fd, bytes, cuts[i]));
		kvc_test_assert_eof(fd);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.slow_writer", 1));
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d5_no_hello(void **state)
{
	int fd = kvc_test_connect(kvc_test_now.socket);

	(void)state;
	KVC_ROW("D5");
	kvc_test_assert_eof(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.no_hello", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* An idle client that said hello stays, however long it is silent. */
static void test_d5_idle_client_stays(void **state)
{
	int idle = kvc_test_client_now();
	int fd = kvc_test_connect(kvc_test_now.socket);

	(void)state;
	KVC_ROW("D6");
	kvc_test_assert_eof(fd); /* three stall times later at the earliest, this one has been dropped */
	kvc_test_assert_pings(idle);
	close(idle);
}

/* ---- D6, C5: many clients, few descriptors ------------------------------------------------- */

static const char *const crowded[] = {
        "--ram", "32M", "--threads", "2", "--connections", "20", "--connections-per-uid", "10", NULL};

static int setup_crowded(void **state)
{
	(void)state;
	return kvc_test_start_with(crowded);
}

static void test_d6_connection_flood(void **state)
{
	enum { FLOOD = 500, TAKEN = 9 }; /* the witness is the tenth */
	int fds[TAKEN];

	(void)state;
	KVC_ROW("D6");
	for (int i = 0; i < TAKEN; i++)
		fds[i] = kvc_test_client_now();
	for (int i = 0; i < FLOOD; i++) {
		int fd = kvc_test_connect(kvc_test_now.socket);

		assert_true(fd >= 0);
		kvc_test_assert_eof(fd);
	}
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.rejected.connections_per_uid", FLOOD));
	for (int i = 0; i < TAKEN; i++) {
		kvc_test_assert_pings(fds[i]);
		close(fds[i]);
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

enum { FEW_DESCRIPTORS = 40 };

static int setup_few_descriptors(void **state)
{
	(void)state;
	kvc_test_now.descriptors_max = FEW_DESCRIPTORS;
	return kvc_test_start_with(kvc_test_usual);
}

static int teardown_few_descriptors(void **state)
{
	kvc_test_now.descriptors_max = 0;
	return kvc_test_teardown(state);
}

/* More clients than descriptors: those over are turned away at once, and later ones are served again. */
static void test_c5_no_descriptors_left(void **state)
{
	int fds[FEW_DESCRIPTORS];
	struct kvc_test_reply reply;
	int turned_away = 0;

	(void)state;
	KVC_ROW("C5");
	for (int i = 0; i < FEW_DESCRIPTORS; i++) {
		fds[i] = kvc_test_connect(kvc_test_now.socket);
		assert_true(fds[i] >= 0);
		if (kvc_test_hello(fds[i], 1, 1) == KVC_OK)
			continue;
		turned_away++;
		close(fds[i]);
		fds[i] = -1;
	}
	assert_true(turned_away > 0 && turned_away < FEW_DESCRIPTORS);
	assert_int_equal(kvc_test_call(kvc_test_fault_now.witness, KVC_VERB_PING, NULL, &reply), KVC_OK);
	for (int i = 0; i < FEW_DESCRIPTORS; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.rejected.no_descriptors",
	                                   (unsigned)turned_away));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* A descriptor that the daemon cannot take in for want of a slot: the kernel says so, the client is dropped.
 */
static void test_c5_no_slot_for_a_descriptor(void **state)
{
	int memfd = kvc_test_sealed_memfd(4096, F_SEAL_SHRINK);
	int sender = kvc_test_client_now();
	int fds[FEW_DESCRIPTORS];
	uint8_t frame[256];
	size_t bytes = kvc_test_attach_frame(1, 4096, KVC_FRAME_FD, frame);
	int count = 0;

	(void)state;
	KVC_ROW("C5");
	for (; count < FEW_DESCRIPTORS; count++) {
		fds[count] = kvc_test_connect(kvc_test_now.socket);
		if (kvc_test_hello(fds[count], 1, 1) != KVC_OK)
			break;
	}
	assert_true(kvc_test_send_fds(sender, frame, bytes, &memfd, 1));
	kvc_row.injected++;
	kvc_test_assert_eof(sender);
	close(memfd);
	for (int i = 0; i <= count && i < FEW_DESCRIPTORS; i++)
		close(fds[i]);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- H5: who may connect ------------------------------------------------------------------- */

static const char *const guarded[] = {
        "--ram", "32M",          "--threads", "2", "--socket-mode", "0666", "--allow-uids",
        "4711",  "--allow-gids", "4712",      NULL};

static int setup_guarded(void **state)
{
	(void)state;
	return kvc_test_start_with(guarded);
}

/* Connect as another user; whether hello is answered. */
static bool served_as(uid_t uid, gid_t gid)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
			_exit(2);
		_exit(kvc_test_client(kvc_test_now.socket) >= 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status) == 0;
}

static void test_h5_users(void **state)
{
	(void)state;
	KVC_ROW("H5");
	if (geteuid() != 0) {
		print_message("needs root to become other users\n");
		skip();
	}
	assert_int_equal(chmod(kvc_test_now.directory, 0711), 0);
	assert_true(served_as(4711, 1));
	assert_true(served_as(1234, 4712));
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.rejected.user", 0));
	assert_false(served_as(1234, 1234));
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.rejected.user", 1));
	assert_false(served_as(65534, 4712));
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.rejected.user", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

#define ROW(test)         cmocka_unit_test_setup_teardown(test, kvc_test_setup, kvc_test_teardown)
#define ROW_OF(test, own) cmocka_unit_test_setup_teardown(test, own, kvc_test_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_e4_offsets),
	        ROW(test_e4_region_larger_than_memfd),
	        ROW(test_e1_descriptors_that_are_no_sealed_memfd),
	        ROW(test_e2_attached_memory_cannot_be_truncated),
	        ROW(test_e5_wrong_number_of_descriptors),
	        ROW(test_e5_descriptor_out_of_place),
	        ROW(test_e5_split_and_pipelined_attach),
	        ROW_OF(test_d4_client_that_does_not_read, setup_hasty),
	        ROW_OF(test_d5_frame_that_does_not_end, setup_hasty),
	        ROW_OF(test_d5_no_hello, setup_hasty),
	        ROW_OF(test_d5_idle_client_stays, setup_hasty),
	        ROW_OF(test_d6_connection_flood, setup_crowded),
	        cmocka_unit_test_setup_teardown(test_c5_no_descriptors_left, setup_few_descriptors,
	                                        teardown_few_descriptors),
	        cmocka_unit_test_setup_teardown(test_c5_no_slot_for_a_descriptor, setup_few_descriptors,
	                                        teardown_few_descriptors),
	        ROW_OF(test_h5_users, setup_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
