/* Faults of a whole daemon: broken contracts, a loop that stands still, a disk that fails or hangs below it,
 * full tables of the system, clocks, a log that nobody reads, reloads and restarts under load. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/io/io.h"
#include "tests/faults/daemon_world.h"

static struct daemon_world w;

static int setup(void **state)
{
	(void)state;
	dw_init(&w, true);
	return 0;
}

static int setup_ram(void **state)
{
	(void)state;
	dw_init(&w, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dw_end(&w);
	kvc_row_end();
	return 0;
}

static unsigned rounds(unsigned quick, unsigned full)
{
	return getenv("KVC_TEST_FULL") ? full : quick;
}

/* Bits of the kinds of requests. */
enum {
	READS = 1 << KVC_IO_READ,
	WRITES = 1 << KVC_IO_WRITE | 1 << KVC_IO_SYNC | 1 << KVC_IO_ALLOCATE,
};

static struct agent_answer disk_fails(uint32_t ops, int error)
{
	return dw_agent(&w, (struct agent_command){.what = AGENT_DISK, .disk_ops = ops, .error = error});
}

/* ---- A7: a contract is broken -------------------------------------------------------------- */

static void assertion_fails(void **state)
{
	uint64_t began_ms;
	int status;

	(void)state;
	KVC_ROW("A7");
	dw_start(&w);
	for (uint64_t i = 0; i < rounds(3, 20); i++) {
		assert_int_equal(dw_put(&w, i * DW_BLOCKS, KVC_ACK_DISK), DW_BLOCKS);
		dw_agent(&w, (struct agent_command){.what = AGENT_ABORT});
		assert_true(kvc_server_wait(&w.server, 20000, &status));
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
		kvc_row.injected++;
		began_ms = kvc_server_now_ms();
		dw_start(&w);
		assert_true(kvc_server_now_ms() - began_ms < 1000 * kvc_server_patience());
		dw_disconnect(&w);
		dw_connect(&w);
		for (uint64_t j = 0; j <= i; j++)
			assert_int_equal(dw_get(&w, j * DW_BLOCKS), DW_BLOCKS);
	}
}

/* ---- A14: the loop stands still ------------------------------------------------------------ */

/* A service manager: its socket, whose path goes to the daemon. */
static int manager_open(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%.90s/notify", w.server.folder);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	setenv("WATCHDOG_USEC", "400000", 1);
	return fd;
}

/* A message with that text within the time. */
static bool told(int fd, const char *text, int ms)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	char message[512];

	while (poll(&wait, 1, ms) == 1) {
		ssize_t bytes = recv(fd, message, sizeof message - 1, 0);

		message[bytes > 0 ? bytes : 0] = 0;
		if (strstr(message, text))
			return true;
	}
	return false;
}

/* As systemd: no ping for the whole time, SIGABRT, a start. */
static void loop_stands_still(void **state)
{
	int manager = manager_open();
	int status;

	(void)state;
	KVC_ROW("A14");
	dw_start(&w);
	assert_true(told(manager, "READY=1", 30000));
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	assert_true(told(manager, "WATCHDOG=1", 30000));
	kill(w.server.pid, SIGSTOP);
	kvc_row.injected++;
	while (told(manager, "WATCHDOG=1", 0))
		continue;
	assert_false(told(manager, "WATCHDOG=1", 1200));
	kill(w.server.pid, SIGABRT);
	kill(w.server.pid, SIGCONT);
	assert_true(kvc_server_wait(&w.server, 20000, &status));
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	dw_disconnect(&w);
	dw_start(&w);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	assert_true(told(manager, "WATCHDOG=1", 30000));
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	close(manager);
}

/* A stop does not wait for a disk tier that is being read back, however long that takes. */
static void stop_while_it_recovers(void **state)
{
	int manager;
	int status;

	(void)state;
	dw_start(&w);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	dw_disconnect(&w);
	assert_true(kvc_server_stop(&w.server, 20000));
	manager = manager_open();
	setenv("KVC_TEST_HOLD_READS", "1", 1);
	dw_spawn(&w);
	unsetenv("KVC_TEST_HOLD_READS");
	assert_true(told(manager, "reading the disk tier", 30000));
	kill(w.server.pid, SIGTERM);
	assert_true(kvc_server_wait(&w.server, 30000, &status));
	assert_int_equal(status, 0);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	dw_start(&w);
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	close(manager);
}

/* ---- the disk below a daemon --------------------------------------------------------------- */

/* With blocks on disk that RAM has no room for: the first of them come from disk. */
static unsigned fill(void)
{
	unsigned batches = rounds(300, 300);

	for (uint64_t i = 0; i < batches; i++)
		assert_int_equal(dw_put(&w, i * DW_BLOCKS, KVC_ACK_DISK), DW_BLOCKS);
	return batches;
}

/* The device is gone: what rests on it is a miss, at once; RAM serves puts and gets; then it is back. */
static void device_goes(void **state)
{
	uint64_t began_ms;

	(void)state;
	KVC_ROW("B21");
	dw_start(&w);
	fill();
	disk_fails(READS | WRITES, ENODEV);
	began_ms = kvc_server_now_ms();
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(dw_get(&w, i * DW_BLOCKS), 0);
	assert_true(kvc_server_now_ms() - began_ms < 5000 * kvc_server_patience());
	assert_int_equal(dw_put(&w, 100000, KVC_ACK_DISK), 0);
	assert_int_equal(dw_put(&w, 200000, KVC_ACK_RAM), DW_BLOCKS);
	assert_int_equal(dw_get(&w, 200000), DW_BLOCKS);
	kvc_row.injected += disk_fails(0, 0).injected;
	dw_await(&w, "disk.writable", 1);
	assert_int_equal(dw_put(&w, 300000, KVC_ACK_DISK), DW_BLOCKS);
}

/* Read-only: everything is still read, nothing is promised. */
static void disk_turns_read_only(void **state)
{
	unsigned batches, there = 0;

	(void)state;
	KVC_ROW("B22");
	dw_start(&w);
	batches = fill();
	disk_fails(WRITES, EROFS);
	for (uint64_t i = 0; i < 10; i++)
		assert_int_equal(dw_put(&w, 100000 + i * DW_BLOCKS, KVC_ACK_DISK), 0);
	for (uint64_t i = 0; i < batches; i++)
		there += dw_get(&w, i * DW_BLOCKS);
	assert_int_equal(there, batches * DW_BLOCKS);
	kvc_row.injected += disk_fails(0, 0).injected;
	dw_await(&w, "disk.writable", 1);
}

/* Reads that never end: gets end by their deadline, others are served, and SIGTERM ends the daemon in time.
 */
static void disk_hangs(void **state)
{
	uint64_t began_ms;
	int status = -1;

	(void)state;
	KVC_ROW("B20");
	kvc_server_arg(&w.server, "--stop-timeout-ms", "2000");
	kvc_server_thread_leaks(false);
	dw_start(&w);
	kvc_server_thread_leaks(true);
	fill();
	disk_fails(READS | WRITES, -1);
	w.deadline_ms = 500;
	began_ms = kvc_server_now_ms();
	assert_int_equal(dw_get(&w, 0), 0);
	assert_true(kvc_server_now_ms() - began_ms < 3000 * kvc_server_patience());
	kvc_row.injected += dw_agent(&w, (struct agent_command){.what = AGENT_ALLOC}).injected;
	w.deadline_ms = 0;
	assert_int_equal(kvc_ping(w.client, 0), KVC_OK);
	assert_int_equal(dw_put(&w, 200000, KVC_ACK_RAM), DW_BLOCKS);
	assert_int_equal(dw_get(&w, 200000), DW_BLOCKS);
	kill(w.server.pid, SIGTERM);
	assert_true(kvc_server_wait(&w.server, 10000 * kvc_server_patience(), &status));
	print_message("# ended with status 0x%x\n", (unsigned)status);
	assert_true(WIFEXITED(status));
	dw_disconnect(&w);
	dw_start(&w);
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
}

/* ---- C6: the system's tables are full ------------------------------------------------------ */

static void accept_fails(void **state)
{
	static const int errors[] = {ENFILE, ENOBUFS, ENOMEM, EMFILE, ECONNABORTED, EINTR};
	struct agent_answer answer;

	(void)state;
	KVC_ROW("C6");
	dw_start(&w);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_RAM), DW_BLOCKS);
	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		struct kvc_client *other;

		dw_agent(&w, (struct agent_command){.what = AGENT_ACCEPT, .error = errors[i], .times = 3});
		assert_int_equal(kvc_server_client(&w.server, DW_DEADLINE, &other), KVC_OK);
		assert_int_equal(dw_get(&w, 0), DW_BLOCKS); /* those who are there are served */
		for (int tries = 0; tries < 100 && kvc_ping(other, 0) != KVC_OK; tries++)
			kvc_server_step();
		assert_int_equal(kvc_ping(other, 0), KVC_OK);
		kvc_client_destroy(other);
	}
	answer = dw_agent(&w, (struct agent_command){.what = AGENT_ALLOC});
	assert_true(answer.injected >= 2 * sizeof errors / sizeof errors[0]);
	kvc_row.injected += answer.injected;
}

/* The n-th thread cannot be had: no start, with the reason, or one that serves with fewer. */
static void thread_creation_fails(void **state)
{
	unsigned failed = 0;
	char number[16];

	(void)state;
	KVC_ROW("C6");
	dw_start(&w); /* the baseline is one with all its threads */
	dw_disconnect(&w);
	assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
	for (unsigned n = 1; n <= 6; n++) {
		snprintf(number, sizeof number, "%u", n);
		setenv("KVC_TEST_FAIL_THREAD", number, 1);
		dw_spawn(&w);
		unsetenv("KVC_TEST_FAIL_THREAD");
		if (kvc_server_ready(&w.server, 30000 * kvc_server_patience())) {
			dw_connect(&w);
			assert_int_equal(dw_put(&w, 0, KVC_ACK_RAM), DW_BLOCKS);
			assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
			dw_disconnect(&w);
			assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
		} else {
			int status = 0;

			assert_true(!w.server.pid || kvc_server_wait(&w.server, 10000, &status));
			assert_false(WIFSIGNALED(status));
			failed++;
		}
		kvc_row.injected++;
	}
	print_message("# %u of 6 ended the start\n", failed);
}

/* ---- G1: the wall clock -------------------------------------------------------------------- */

/* Years forth and back, while a deadline runs, a pin is held and blocks are stored. */
static void wall_clock_jumps(void **state)
{
	static const int64_t years[] = {1, -1, 30, -50};
	struct kvc_key key;
	uint64_t began_ms;
	size_t done;

	(void)state;
	KVC_ROW("G1");
	dw_start(&w);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	key = (struct kvc_key){.data = w.keys[0], .bytes = KVC_SAMPLE_KEY_BYTES};
	assert_int_equal(kvc_pin(w.ns, &key, 1, 0, &done), KVC_OK);
	for (size_t i = 0; i < sizeof years / sizeof years[0]; i++) {
		dw_agent(&w, (struct agent_command){.what = AGENT_WALL, .seconds = years[i] * 31557600});
		kvc_row.injected++;
		began_ms = kvc_server_now_ms();
		assert_int_equal(dw_put(&w, (i + 1) * 1000, KVC_ACK_DISK), DW_BLOCKS);
		assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
		assert_true(kvc_server_now_ms() - began_ms < 5000 * kvc_server_patience());
		assert_true(dw_stat(&w, "cache.pins") == 1);
	}
	assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
	dw_disconnect(&w);
	dw_start(&w);
	for (size_t i = 0; i <= sizeof years / sizeof years[0]; i++)
		assert_int_equal(dw_get(&w, i * 1000), DW_BLOCKS);
}

/* ---- G5: the log --------------------------------------------------------------------------- */

/* Its standard error is a pipe that nobody reads; each of these connections is worth a line. */
static void log_is_not_read(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int saved = dup(STDERR_FILENO);
	uint64_t began_ms;
	int ends[2];

	(void)state;
	KVC_ROW("G5");
	assert_int_equal(pipe(ends), 0);
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	while (fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0 && write(ends[1], "full", 1) == 1)
		continue;
	fcntl(ends[1], F_SETFL, 0);
	kvc_server_arg(&w.server, "--log-level", "debug");
	snprintf(w.server.log, sizeof w.server.log, "/proc/self/fd/%d", ends[1]);
	dw_start(&w);
	close(ends[1]);
	snprintf(address.sun_path, sizeof address.sun_path, "%.107s", w.server.socket);
	began_ms = kvc_server_now_ms();
	for (unsigned i = 0; i < 300; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
		assert_int_equal(write(fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
		close(fd);
		kvc_row.injected++;
	}
	assert_int_equal(dw_put(&w, 0, KVC_ACK_RAM), DW_BLOCKS);
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	assert_true(kvc_server_now_ms() - began_ms < 5000 * kvc_server_patience());
	assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
	close(ends[0]);
	close(saved);
}

/* ---- under load ---------------------------------------------------------------------------- */

struct load {
	pthread_t thread;
	atomic_int stop;
	atomic_uint calls;
	atomic_uint failed;
	atomic_uint wrong;
};

/* Puts and gets in a client of its own, whatever happens to the daemon. */
static void *load_run(void *argument)
{
	struct load *load = argument;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint8_t key[KVC_SAMPLE_KEY_BYTES], expected[DW_STEP];
	struct kvc_transfer transfer;
	struct kvc_block block;

	if (kvc_server_client(&w.server, 2000, &client) != KVC_OK)
		return NULL;
	if (kvc_namespace_open(client, &w.space.options, 0, &ns) == KVC_OK &&
	    kvc_memory_create(client, DW_STEP, &memory) == KVC_OK) {
		kvc_transfer_init(&transfer, memory);
		for (uint64_t id = 1000000; !atomic_load(&load->stop); id = 1000000 + (id + 1) % 500) {
			kvc_status status;

			kvc_sample_block(&w.space, id, 0, key, &block);
			kvc_sample_source(&w.space, id, kvc_memory_data(memory));
			status = kvc_put(ns, &transfer, &block, 1, NULL);
			if (status == KVC_OK)
				status = kvc_get(ns, &transfer, &block, 1, NULL);
			atomic_fetch_add(&load->calls, 1);
			if (status != KVC_OK) {
				atomic_fetch_add(&load->failed, 1);
				kvc_server_step();
				continue;
			}
			kvc_sample_source(&w.space, id, expected);
			kvc_sample_restore(&w.space, id, expected, expected);
			if (block.status == KVC_OK &&
			    memcmp(expected, kvc_memory_data(memory), kvc_sample_bytes(&w.space, id)))
				atomic_fetch_add(&load->wrong, 1);
		}
	}
	kvc_client_destroy(client);
	return NULL;
}

static void load_start(struct load *load)
{
	memset(load, 0, sizeof *load);
	assert_int_equal(pthread_create(&load->thread, NULL, load_run, load), 0);
	while (atomic_load(&load->calls) < 3)
		kvc_server_step();
}

static void load_end(struct load *load)
{
	atomic_store(&load->stop, 1);
	pthread_join(load->thread, NULL);
	print_message("# %u calls under load, %u failed\n", atomic_load(&load->calls),
	              atomic_load(&load->failed));
	kvc_row.verified += atomic_load(&load->calls) - atomic_load(&load->failed);
	kvc_row.wrong += atomic_load(&load->wrong);
	assert_int_equal(atomic_load(&load->wrong), 0);
}

/* Clients keep sending while the daemon is stopped and started: errors in between, then it works again, and
 * all that was durable is there. */
static void restarts_under_load(void **state)
{
	static struct load load;

	(void)state;
	KVC_ROW("A10");
	dw_start(&w);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	load_start(&load);
	for (unsigned i = 0; i < rounds(8, 100); i++) {
		unsigned before;

		assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
		kvc_row.injected++;
		dw_start(&w);
		before = atomic_load(&load.calls) - atomic_load(&load.failed);
		while (atomic_load(&load.calls) - atomic_load(&load.failed) < before + 2)
			kvc_server_step();
		assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	}
	load_end(&load);
}

static void conf_write(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");

	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* Valid, invalid, half-written and empty files in turn: the daemon serves all the time, and takes over a
 * valid file whole or nothing. */
static void reloads_under_load(void **state)
{
	static const char *const texts[] = {
	        "[limits]\nbatch = 100\n", "[limits]\nbatch = 200\nnonsense = 1\n",
	        "[limits]\nbat",           "",
	        "[limits]\nbatch = 150\n", "[memory]\nram = 1K\n"};
	char path[KVC_SERVER_PATH_BYTES + 16];
	static struct load load;

	(void)state;
	KVC_ROW("G3");
	snprintf(path, sizeof path, "%s/conf", w.server.folder);
	conf_write(path, texts[0]);
	kvc_server_arg(&w.server, "--config", path);
	dw_start(&w);
	load_start(&load);
	for (unsigned i = 0; i < rounds(200, 1000); i++) {
		conf_write(path, texts[i % (sizeof texts / sizeof texts[0])]);
		kill(w.server.pid, SIGHUP);
		if (i % 20 == 0)
			assert_int_equal(kvc_ping(w.client, 0), KVC_OK);
		kvc_row.injected++;
	}
	assert_int_equal(dw_put(&w, 0, KVC_ACK_RAM), DW_BLOCKS);
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	load_end(&load);
	assert_int_equal(atomic_load(&load.failed), 0);
}

/* ---- G4: less RAM at the next start -------------------------------------------------------- */

static void ram_shrinks(void **state)
{
	unsigned there = 0;

	(void)state;
	KVC_ROW("G4");
	dw_start(&w);
	for (uint64_t i = 0; i < 100; i++)
		assert_int_equal(dw_put(&w, i * DW_BLOCKS, KVC_ACK_RAM), DW_BLOCKS);
	assert_true(kvc_server_stop(&w.server, 30000 * kvc_server_patience()));
	dw_disconnect(&w);
	for (size_t i = 0; w.server.args[i]; i++)
		if (!strcmp(w.server.args[i], "--ram"))
			w.server.args[i + 1] = "2M";
	kvc_row.injected++;
	dw_start(&w);
	for (uint64_t i = 0; i < 100; i++)
		there += dw_get(&w, i * DW_BLOCKS);
	assert_int_equal(there, 100 * DW_BLOCKS);
}

#define FAULT(test)        cmocka_unit_test_setup_teardown(test, setup, teardown)
#define FAULT_OF(test, by) cmocka_unit_test_setup_teardown(test, by, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        FAULT(assertion_fails),
	        FAULT(loop_stands_still),
	        FAULT(stop_while_it_recovers),
	        FAULT(device_goes),
	        FAULT(disk_turns_read_only),
	        FAULT(disk_hangs),
	        FAULT(accept_fails),
	        FAULT(thread_creation_fails),
	        FAULT(wall_clock_jumps),
	        FAULT_OF(log_is_not_read, setup_ram),
	        FAULT(restarts_under_load),
	        FAULT_OF(reloads_under_load, setup_ram),
	        FAULT(ram_shrinks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
