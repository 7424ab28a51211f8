/* Life of the daemon: start, refusals at start, the socket's path, restart with a disk tier, reload, stop
 * under load, passed socket and notifications of the service manager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/daemon.h"
#include "tests/support/row.h"
#include "tests/support/server.h"
#include "tests/support/wire.h"

static struct kvc_test_daemon first;
static struct kvc_test_daemon second;

static const char *const small[] = {"--ram", "16M", "--threads", "1", NULL};

static int setup(void **state)
{
	(void)state;
	return kvc_test_daemon_start(&first, small) ? 0 : 1;
}

static int teardown(void **state)
{
	bool ended = kvc_test_daemon_end(&first);

	(void)state;
	kvc_row_end();
	return ended ? 0 : 1;
}

static bool exists(const char *path)
{
	struct stat stat;

	return lstat(path, &stat) == 0;
}

static void assert_served(const struct kvc_test_daemon *daemon)
{
	int fd = kvc_test_client(daemon->socket);

	assert_true(fd >= 0);
	close(fd);
}

/* Start the second with these options; it must end with that status and say so. */
static void assert_refuses(const char *const *options, int status, const char *text)
{
	assert_true(kvc_test_daemon_prepare(&second, options));
	assert_true(kvc_test_daemon_spawn(&second));
	assert_int_equal(kvc_test_daemon_wait(&second), status);
	assert_true(kvc_test_daemon_logged(&second, text));
	assert_true(kvc_test_daemon_end(&second));
}

/* ---- arguments ----------------------------------------------------------------------------- */

static void test_wrong_arguments_exit_2(void **state)
{
	(void)state;
	assert_refuses((const char *const[]){"--rma", "1G", NULL}, 2, "did you mean '--ram'?");
	assert_refuses((const char *const[]){"--ram", "lots", NULL}, 2, "--ram: 'lots' is not a size");
	assert_refuses((const char *const[]){"--config", "/does/not/exist", NULL}, 2, "/does/not/exist");
	assert_refuses((const char *const[]){"--inline-max", "1G", NULL}, 2, "inline-budget");
}

/* ---- the socket's path --------------------------------------------------------------------- */

/* A second daemon on the path of the first; the first is not disturbed. */
static void test_b24_path_taken(void **state)
{
	(void)state;
	KVC_ROW("B24");
	assert_true(kvc_test_daemon_prepare(&second, small));
	second.args[2] = first.socket;
	assert_true(kvc_test_daemon_spawn(&second));
	assert_int_equal(kvc_test_daemon_wait(&second), 1);
	assert_true(kvc_test_daemon_logged(&second, first.socket));
	assert_true(kvc_test_daemon_logged(&second, "another kvcellard uses this socket"));
	kvc_row.injected++;
	assert_true(kvc_test_daemon_end(&second));
	assert_served(&first);
}

static int listening_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_true(strlen(path) < sizeof address.sun_path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	assert_int_equal(listen(fd, 5), 0);
	return fd;
}

static void test_path_of_another_program(void **state)
{
	int fd;

	(void)state;
	assert_true(kvc_test_daemon_prepare(&second, small));
	fd = listening_socket(second.socket);
	assert_true(kvc_test_daemon_spawn(&second));
	assert_int_equal(kvc_test_daemon_wait(&second), 1);
	assert_true(kvc_test_daemon_logged(&second, "another program listens there"));
	assert_true(exists(second.socket));
	close(fd);
	assert_true(kvc_test_daemon_restart(&second)); /* now it is stale */
	assert_served(&second);
	assert_true(kvc_test_daemon_end(&second));
}

static void test_path_that_is_no_socket(void **state)
{
	int fd;

	(void)state;
	assert_true(kvc_test_daemon_prepare(&second, small));
	fd = open(second.socket, O_WRONLY | O_CREAT, 0600);
	close(fd);
	assert_true(kvc_test_daemon_spawn(&second));
	assert_int_equal(kvc_test_daemon_wait(&second), 1);
	assert_true(kvc_test_daemon_logged(&second, "is there and is not a socket"));
	assert_true(exists(second.socket));
	assert_true(kvc_test_daemon_end(&second));
}

static void test_path_too_long(void **state)
{
	static char path[200] = "/tmp/";

	(void)state;
	memset(path + 5, 'x', 150);
	assert_true(kvc_test_daemon_prepare(&second, small));
	second.args[2] = path;
	assert_true(kvc_test_daemon_spawn(&second));
	assert_int_equal(kvc_test_daemon_wait(&second), 1);
	assert_true(kvc_test_daemon_logged(&second, "1 to 107 bytes, this has 155"));
	assert_true(kvc_test_daemon_end(&second));
}

/* Killed, it leaves its socket and lock; the next one takes them over, and a clean stop leaves nothing. */
static void test_stale_socket_after_kill(void **state)
{
	char lock[KVC_TEST_PATH_BYTES + 8];

	(void)state;
	snprintf(lock, sizeof lock, "%s.lock", first.socket);
	assert_int_equal(kvc_test_daemon_stop(&first, SIGKILL), 256 + SIGKILL);
	assert_true(exists(first.socket));
	assert_true(kvc_test_daemon_restart(&first));
	assert_served(&first);
	assert_int_equal(kvc_test_daemon_stop(&first, SIGTERM), 0);
	assert_false(exists(first.socket));
	assert_false(exists(lock));
}

static void test_socket_mode(void **state)
{
	struct stat stat;

	(void)state;
	assert_int_equal(lstat(first.socket, &stat), 0);
	assert_int_equal(stat.st_mode & 0777, 0600);
	assert_true(kvc_test_daemon_start(
	        &second, (const char *const[]){"--ram", "16M", "--socket-mode", "0660", NULL}));
	assert_int_equal(lstat(second.socket, &stat), 0);
	assert_int_equal(stat.st_mode & 0777, 0660);
	assert_true(kvc_test_daemon_end(&second));
}

/* ---- blocks over a restart ----------------------------------------------------------------- */

static Kvcellar__Block block;
static Kvcellar__Block *blocks[] = {&block};

static void block_init(void)
{
	static uint8_t key[] = "prefix-0";

	kvcellar__block__init(&block);
	block.key = (ProtobufCBinaryData){8, key};
	block.tokens = 16;
}

static kvc_status put_inline(int fd, Kvcellar__Ack ack, const uint8_t *data)
{
	struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = KVC_TEST_BLOCK_BYTES};
	struct kvc_test_reply reply;
	uint8_t out[1024];
	Kvcellar__Put put;

	block_init();
	kvcellar__put__init(&put);
	put.namespace_ = 1;
	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.ack = ack;
	put.deadline_ms = 20000;
	put.n_blocks = 1;
	put.blocks = blocks;
	assert_true(kvc_test_send(fd, out, kvc_test_frame(&frame, &put.base, out)));
	assert_true(kvc_test_send(fd, data, KVC_TEST_BLOCK_BYTES));
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
	return (kvc_status)reply.frame.status;
}

static bool get_inline(int fd, const uint8_t *expected)
{
	struct kvc_test_reply reply;
	Kvcellar__Get get;
	bool equal;

	block_init();
	kvcellar__get__init(&get);
	get.namespace_ = 1;
	get.plane = KVCELLAR__PLANE__PLANE_INLINE;
	get.deadline_ms = 20000;
	get.n_blocks = 1;
	get.blocks = blocks;
	assert_int_equal(kvc_test_call(fd, KVC_VERB_GET, &get.base, &reply), KVC_OK);
	equal = reply.payload && reply.frame.payload_bytes == KVC_TEST_BLOCK_BYTES &&
	        memcmp(reply.payload, expected, KVC_TEST_BLOCK_BYTES) == 0;
	free(reply.payload);
	return equal;
}

/* An acknowledged block is there after SIGKILL; one in RAM only is there after SIGTERM. */
static void blocks_over_end(Kvcellar__Ack ack, int signal)
{
	static uint8_t data[KVC_TEST_BLOCK_BYTES];
	struct kvc_test_daemon *daemon = &second;
	int fd;

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (uint8_t)(i * 37 % 251);
	assert_true(
	        kvc_test_daemon_prepare(daemon, (const char *const[]){"--ram", "16M", "--disk-size", "64M",
	                                                              "--disk", daemon->disk, NULL}));
	assert_true(kvc_test_daemon_restart(daemon));
	fd = kvc_test_client(daemon->socket);
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_int_equal(put_inline(fd, ack, data), KVC_OK);
	assert_true(get_inline(fd, data));
	close(fd);
	kvc_test_daemon_stop(daemon, signal);
	kvc_row.injected++;
	assert_true(kvc_test_daemon_restart(daemon));
	fd = kvc_test_client(daemon->socket);
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_true(get_inline(fd, data));
	kvc_row.verified++;
	close(fd);
	assert_true(kvc_test_daemon_end(daemon));
}

static void test_c2_durable_block_survives_kill(void **state)
{
	(void)state;
	KVC_ROW("A1");
	blocks_over_end(KVCELLAR__ACK__ACK_DISK, SIGKILL);
	kvc_row_end();
}

static void test_a5_stop_writes_what_rests_in_ram(void **state)
{
	(void)state;
	KVC_ROW("A5");
	blocks_over_end(KVCELLAR__ACK__ACK_RAM, SIGTERM);
	kvc_row_end();
}

/* Two daemons on one directory of the disk tier. */
static void test_b24_disk_taken(void **state)
{
	struct kvc_test_daemon owner;

	(void)state;
	KVC_ROW("B24");
	assert_true(
	        kvc_test_daemon_prepare(&owner, (const char *const[]){"--ram", "16M", "--disk-size", "64M",
	                                                              "--disk", owner.disk, NULL}));
	assert_true(kvc_test_daemon_restart(&owner));
	assert_refuses(
	        (const char *const[]){"--ram", "16M", "--disk-size", "64M", "--disk", owner.disk, NULL}, 1,
	        owner.disk);
	kvc_row.injected++;
	assert_served(&owner);
	assert_true(kvc_test_daemon_end(&owner));
	kvc_row_end();
}

/* ---- signals ------------------------------------------------------------------------------- */

static void conf_write(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static uint32_t batch_limit(const struct kvc_test_daemon *daemon)
{
	struct kvc_test_reply reply;
	Kvcellar__HelloReply *answer;
	Kvcellar__Hello hello;
	int fd = kvc_test_connect(daemon->socket);
	uint32_t batch;

	kvcellar__hello__init(&hello);
	hello.protocol_min = hello.protocol_max = 1;
	assert_int_equal(kvc_test_call(fd, KVC_VERB_HELLO, &hello.base, &reply), KVC_OK);
	answer = kvcellar__hello_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(answer);
	batch = answer->limits->batch;
	kvcellar__hello_reply__free_unpacked(answer, NULL);
	close(fd);
	return batch;
}

static void wait_logged(const struct kvc_test_daemon *daemon, const char *text)
{
	for (int i = 0; i < 6000 && !kvc_test_daemon_logged(daemon, text); i++)
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	assert_true(kvc_test_daemon_logged(daemon, text));
}

/* A valid file is taken over as far as it can be; an invalid one changes nothing. */
static void test_g3_reload(void **state)
{
	char path[KVC_TEST_PATH_BYTES + 8];

	(void)state;
	KVC_ROW("G3");
	assert_true(kvc_test_daemon_prepare(&second, (const char *const[]){"--config", path, NULL}));
	snprintf(path, sizeof path, "%s/conf", second.directory);
	conf_write(path, "[memory]\nram = 16M\n[limits]\nbatch = 5\n");
	assert_true(kvc_test_daemon_restart(&second));
	assert_int_equal(batch_limit(&second), 5);
	conf_write(path, "[memory]\nram = 32M\n[limits]\nbatch = 6\n");
	kill(second.pid, SIGHUP);
	wait_logged(&second, "need a restart and stay as they are: ram");
	assert_int_equal(batch_limit(&second), 6);
	conf_write(path, "[limits]\nbatch = 7\nbatsh = 8\n");
	kill(second.pid, SIGHUP);
	wait_logged(&second, "conf:3: unknown option 'batsh'");
	assert_int_equal(batch_limit(&second), 6);
	kvc_row.injected += 2;
	assert_true(kvc_test_daemon_end(&second));
	kvc_row_end();
}

/* SIGTERM while requests are running: they are answered or the connection ends, and the daemon ends with 0.
 */
static void test_a5_stop_under_load(void **state)
{
	static uint8_t data[KVC_TEST_BLOCK_BYTES];
	int fd = kvc_test_client(first.socket);
	struct kvc_test_reply reply;

	(void)state;
	KVC_ROW("A5");
	assert_int_equal(kvc_test_open_ns(fd, "quality"), KVC_OK);
	for (int i = 0; i < 20; i++)
		assert_int_equal(put_inline(fd, KVCELLAR__ACK__ACK_RAM, data), KVC_OK);
	kill(first.pid, SIGTERM);
	kvc_row.injected++;
	while (kvc_test_call(fd, KVC_VERB_PING, NULL, &reply) == KVC_OK)
		;
	close(fd);
	assert_int_equal(kvc_test_daemon_wait(&first), 0);
}

/* A put whose payload does not end keeps its session busy. Its client. */
static int unfinished_put(const struct kvc_test_daemon *daemon)
{
	struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = KVC_TEST_BLOCK_BYTES};
	int fd = kvc_test_client(daemon->socket);
	struct kvc_test_reply reply;
	uint8_t out[1024];
	Kvcellar__Put put;

	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	block_init();
	kvcellar__put__init(&put);
	put.namespace_ = 1;
	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.ack = KVCELLAR__ACK__ACK_RAM;
	put.n_blocks = 1;
	put.blocks = blocks;
	assert_int_equal(kvc_test_call(fd, KVC_VERB_PING, NULL, &reply), KVC_OK);
	assert_true(kvc_test_send(fd, out, kvc_test_frame(&frame, &put.base, out)));
	return fd;
}

static void wait_inflight(const struct kvc_test_daemon *daemon)
{
	int fd = kvc_test_client(daemon->socket);
	double inflight = 0;

	for (int i = 0; i < 6000 && inflight < 1; i++) {
		Kvcellar__StatsReply *stats = kvc_test_stats(fd);

		assert_non_null(stats);
		inflight = kvc_test_stat(stats, "rpc.inflight");
		kvcellar__stats_reply__free_unpacked(stats, NULL);
	}
	close(fd);
	assert_true(inflight >= 1);
}

static void test_a5_stop_timeout_ends_what_does_not(void **state)
{
	struct kvc_test_reply reply;
	int fd;

	(void)state;
	KVC_ROW("A5");
	assert_true(kvc_test_daemon_start(
	        &second, (const char *const[]){"--ram", "16M", "--stop-timeout-ms", "300", NULL}));
	fd = unfinished_put(&second);
	wait_inflight(&second);
	assert_int_equal(kvc_test_daemon_stop(&second, SIGTERM), 0);
	kvc_row.injected++;
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_EOF);
	assert_true(kvc_test_daemon_logged(&second, "did not end before the stop timeout"));
	close(fd);
	assert_true(kvc_test_daemon_end(&second));
	kvc_row_end();
}

static void test_second_signal_ends_at_once(void **state)
{
	int fd;

	(void)state;
	kvc_server_thread_leaks(false);
	assert_true(kvc_test_daemon_start(
	        &second, (const char *const[]){"--ram", "16M", "--stop-timeout-ms", "600000", NULL}));
	kvc_server_thread_leaks(true);
	fd = unfinished_put(&second);
	wait_inflight(&second);
	kill(second.pid, SIGTERM);
	wait_logged(&second, "signal 15: stopping");
	assert_int_equal(kvc_test_daemon_stop(&second, SIGINT), 1);
	close(fd);
	assert_true(kvc_test_daemon_end(&second));
}

static void test_g11_signals_that_mean_nothing(void **state)
{
	(void)state;
	for (int i = 0; i < 200; i++) {
		kill(first.pid, SIGPIPE);
		kill(first.pid, SIGCHLD);
		kill(first.pid, SIGHUP);
	}
	assert_served(&first);
}

/* ---- service manager ----------------------------------------------------------------------- */

static bool notified(int fd, const char *text)
{
	char message[512];
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	while (poll(&wait, 1, 30000) == 1) {
		ssize_t bytes = recv(fd, message, sizeof message - 1, 0);

		message[bytes > 0 ? bytes : 0] = 0;
		if (strstr(message, text))
			return true;
	}
	return false;
}

static void test_notifications(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	KVC_ROW("A5");
	assert_true(kvc_test_daemon_prepare(&second, small));
	snprintf(address.sun_path, sizeof address.sun_path, "%.90s/notify", second.directory);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	setenv("WATCHDOG_USEC", "100000", 1);
	assert_true(kvc_test_daemon_restart(&second));
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	assert_true(notified(fd, "READY=1"));
	assert_served(&second);
	assert_true(notified(fd, "WATCHDOG=1"));
	assert_true(notified(fd, "WATCHDOG=1"));
	kill(second.pid, SIGHUP);
	assert_true(notified(fd, "RELOADING=1"));
	assert_true(notified(fd, "READY=1"));
	kill(second.pid, SIGTERM);
	assert_true(notified(fd, "STOPPING=1"));
	kvc_row.injected++;
	assert_int_equal(kvc_test_daemon_wait(&second), 0);
	close(fd);
	assert_true(kvc_test_daemon_end(&second));
	kvc_row_end();
}

/* The socket becomes descriptor 3; the shell says that its own number is the one that is meant. */
static void test_passed_socket(void **state)
{
	static const char script[] = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\"";
	char program[KVC_TEST_PATH_BYTES];
	pid_t child;
	int fd;

	(void)state;
	assert_true(kvc_test_program("kvcellard", program));
	assert_true(kvc_test_daemon_prepare(&second, small));
	fd = listening_socket(second.socket);
	child = fork();
	if (child == 0) {
		if (fd == 3 ? fcntl(fd, F_SETFD, 0) : dup2(fd, 3) < 0)
			_exit(126);
		execl("/bin/sh", "sh", "-c", script, program, "--ram", "16M", NULL);
		_exit(127);
	}
	second.pid = child;
	assert_served(&second); /* the kernel queues the connection until the daemon takes it */
	assert_int_equal(kvc_test_daemon_stop(&second, SIGTERM), 0);
	assert_true(exists(second.socket)); /* not the daemon's to remove */
	close(fd);
	assert_true(kvc_test_daemon_end(&second));
}

#define WITH_DAEMON(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_wrong_arguments_exit_2),
	        WITH_DAEMON(test_b24_path_taken),
	        cmocka_unit_test(test_path_of_another_program),
	        cmocka_unit_test(test_path_that_is_no_socket),
	        cmocka_unit_test(test_path_too_long),
	        WITH_DAEMON(test_stale_socket_after_kill),
	        WITH_DAEMON(test_socket_mode),
	        cmocka_unit_test(test_c2_durable_block_survives_kill),
	        cmocka_unit_test(test_a5_stop_writes_what_rests_in_ram),
	        cmocka_unit_test(test_b24_disk_taken),
	        cmocka_unit_test(test_g3_reload),
	        WITH_DAEMON(test_a5_stop_under_load),
	        cmocka_unit_test(test_a5_stop_timeout_ends_what_does_not),
	        cmocka_unit_test(test_second_signal_ends_at_once),
	        WITH_DAEMON(test_g11_signals_that_mean_nothing),
	        cmocka_unit_test(test_notifications),
	        cmocka_unit_test(test_passed_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
