/* kvcellard with GPU engines: start, refusals at start, an engine that dies, stop. Most engines are scripted
 * (tests/fake/engine_script.c), and inherit $KVC_SCRIPT through the daemon; the last are the real one over a
 * fake device (tests/fake/device_fake.c), whose folder is $KVC_FAKE_CUDA_DIR. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/daemon.h"
#include "tests/support/wire.h"

static struct kvc_test_daemon daemon_;
static char script[KVC_TEST_PATH_BYTES];

static int setup(void **state)
{
	(void)state;
	setenv("KVC_SCRIPT", "", 1);
	return kvc_test_program("tests/fake/engine_script", script) ? 0 : 1;
}

static double stat_of(const char *name)
{
	int fd = kvc_test_client(daemon_.socket);
	Kvcellar__StatsReply *stats = kvc_test_stats(fd);
	double value;

	assert_non_null(stats);
	value = kvc_test_stat(stats, name);
	kvcellar__stats_reply__free_unpacked(stats, NULL);
	close(fd);
	return value;
}

static void wait_stat(const char *name, double least)
{
	for (int i = 0; i < 6000 && stat_of(name) < least; i++)
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	assert_true(stat_of(name) >= least);
}

static void wait_logged(const char *text)
{
	for (int i = 0; i < 6000 && !kvc_test_daemon_logged(&daemon_, text); i++)
		nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
	assert_true(kvc_test_daemon_logged(&daemon_, text));
}

static void assert_refuses(const char *const *options, int status, const char *text)
{
	assert_true(kvc_test_daemon_prepare(&daemon_, options));
	assert_true(kvc_test_daemon_spawn(&daemon_));
	assert_int_equal(kvc_test_daemon_wait(&daemon_), status);
	if (!kvc_test_daemon_logged(&daemon_, text))
		print_error("not logged: %s\n", text);
	assert_true(kvc_test_daemon_logged(&daemon_, text));
	assert_true(kvc_test_daemon_end(&daemon_));
}

static void test_start_and_stop(void **state)
{
	const char *const options[] = {"--ram", "16M",          "--gpus", "0,3", "--vram",
	                               "64M",   "--gpu-engine", script,   NULL};

	(void)state;
	assert_true(kvc_test_daemon_start(&daemon_, options));
	wait_logged(", GPU 0 (Scripted ? GPU), GPU 3 (Scripted ? GPU), vram 64 MiB each");
	assert_true(stat_of("gpu.0.up") == 1);
	assert_true(stat_of("gpu.3.up") == 1);
	assert_int_equal(kvc_test_daemon_stop(&daemon_, SIGTERM), 0);
	assert_true(kvc_test_daemon_logged(&daemon_, "stopped"));
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* With the disk tier, a client and the socket open, an engine has its pair and our stderr, and nothing else:
 * also one that is started late. */
static void test_engines_inherit_nothing(void **state)
{
	const char *const options[] = {"--ram",        "16M",        "--gpus",      "0",
	                               "--gpu-engine", script,       "--disk-size", "64M",
	                               "--disk",       daemon_.disk, NULL};
	int fd;

	(void)state;
	setenv("KVC_SCRIPT", "inherited,idle-death=100", 1);
	assert_true(kvc_test_daemon_prepare(&daemon_, options));
	assert_true(kvc_test_daemon_restart(&daemon_));
	fd = kvc_test_client(daemon_.socket);
	assert_true(fd >= 0);
	wait_stat("gpu.0.restarts", 2);
	close(fd);
	assert_false(kvc_test_daemon_logged(&daemon_, "inherited:"));
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* F6: what cannot be had is said, and is no reason to go on without. */
static void test_f6_start_fails(void **state)
{
	(void)state;
	setenv("KVC_SCRIPT", "refuse", 1);
	assert_refuses((const char *const[]){"--ram", "16M", "--gpus", "0,1", "--gpu-engine", script, NULL},
	               1, "gpus: GPU 1 cannot be used: no such ? GPU");
	setenv("KVC_SCRIPT", "wire", 1);
	assert_refuses((const char *const[]){"--ram", "16M", "--gpus", "0", "--gpu-engine", script, NULL}, 1,
	               "is of another build");
	setenv("KVC_SCRIPT", "exit", 1);
	assert_refuses((const char *const[]){"--ram", "16M", "--gpus", "0", "--gpu-engine", script, NULL}, 1,
	               "the process ended (exit status 3)");
	assert_refuses(
	        (const char *const[]){"--ram", "16M", "--gpus", "0", "--gpu-engine", "/no/engine", NULL}, 1,
	        "GPU 0 cannot be used: cannot start /no/engine: No such file or directory");
}

static void test_f6_contradictions(void **state)
{
	(void)state;
	assert_refuses((const char *const[]){"--vram", "1G", NULL}, 2, "vram needs a GPU");
	assert_refuses((const char *const[]){"--gpus", "17", NULL}, 2, "'17' is not none, auto, or numbers");
}

/* `auto` on a machine without any: declared, and served by the CPU. */
static void test_f6_auto_without_devices(void **state)
{
	(void)state;
	setenv("CUDA_VISIBLE_DEVICES", "", 1);
	assert_true(kvc_test_daemon_start(&daemon_,
	                                  (const char *const[]){"--ram", "16M", "--gpus", "auto", NULL}));
	unsetenv("CUDA_VISIBLE_DEVICES");
	assert_true(kvc_test_daemon_logged(&daemon_, "no NVIDIA device in /dev: CPU only"));
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* One engine dies again and again: the service goes on. */
static void test_f3_engine_dies(void **state)
{
	const char *const options[] = {"--ram", "16M", "--gpus", "0", "--gpu-engine", script, NULL};

	(void)state;
	setenv("KVC_SCRIPT", "idle-death=20", 1);
	assert_true(kvc_test_daemon_start(&daemon_, options));
	wait_stat("gpu.0.restarts", 3);
	assert_true(kvc_test_daemon_logged(&daemon_, "engine lost: the process ended (exit status 5)"));
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* A stop does not wait for an engine that starts slowly. */
static void test_stop_while_an_engine_starts(void **state)
{
	const char *const options[] = {"--ram", "16M", "--gpus", "0", "--gpu-engine", script, NULL};

	(void)state;
	setenv("KVC_SCRIPT", "never-ready", 1);
	assert_true(kvc_test_daemon_prepare(&daemon_, options));
	assert_true(kvc_test_daemon_spawn(&daemon_));
	wait_logged("scripted engine: never ready");
	assert_int_equal(kvc_test_daemon_stop(&daemon_, SIGTERM), 0);
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* A service manager, whose socket goes to the daemons that are started until manager_end. */
static int manager_begin(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%.90s/notify", daemon_.directory);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	return fd;
}

/* Whether it was ever told that. */
static bool manager_end(int fd, const char *text)
{
	char message[512];
	bool found = false;
	ssize_t bytes;

	while ((bytes = recv(fd, message, sizeof message - 1, MSG_DONTWAIT)) > 0) {
		message[bytes] = 0;
		found |= strstr(message, text) != NULL;
	}
	unsetenv("NOTIFY_SOCKET");
	close(fd);
	return found;
}

/* Reloading does not end a start: who waits for the daemon would come too early. */
static void test_reload_while_an_engine_starts(void **state)
{
	const char *const options[] = {"--ram", "16M", "--gpus", "0", "--gpu-engine", script, NULL};
	int manager;

	(void)state;
	setenv("KVC_SCRIPT", "never-ready", 1);
	assert_true(kvc_test_daemon_prepare(&daemon_, options));
	manager = manager_begin();
	assert_true(kvc_test_daemon_spawn(&daemon_));
	wait_logged("scripted engine: never ready");
	kill(daemon_.pid, SIGHUP);
	wait_logged("configuration reloaded");
	assert_int_equal(kvc_test_daemon_stop(&daemon_, SIGTERM), 0);
	assert_false(manager_end(manager, "READY=1"));
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* Killed, the daemon leaves no engine: each sees its pair closed. What runs the tests looks for processes
 * that are left behind. */
static void test_daemon_killed(void **state)
{
	const char *const options[] = {"--ram", "16M", "--gpus", "0,1", "--gpu-engine", script, NULL};

	(void)state;
	assert_true(kvc_test_daemon_start(&daemon_, options));
	assert_int_equal(kvc_test_daemon_stop(&daemon_, SIGKILL), 256 + SIGKILL);
	assert_true(kvc_test_daemon_end(&daemon_));
}

/* ---- the real engine ----------------------------------------------------------------------- */

/* The one child of a process; 0: none. */
static pid_t child_of(pid_t parent)
{
	DIR *folder = opendir("/proc");
	pid_t found = 0;

	assert_non_null(folder);
	for (struct dirent *entry = readdir(folder); entry && !found; entry = readdir(folder)) {
		char path[300];
		int its_parent = 0;
		FILE *file;

		snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
		file = fopen(path, "re");
		if (file && fscanf(file, "%*d %*s %*c %d", &its_parent) == 1 && its_parent == parent)
			found = atoi(entry->d_name);
		if (file)
			fclose(file);
	}
	closedir(folder);
	return found;
}

/* Prepared, its engine the real one over a fake device in the daemon's own folder. */
static void prepare_real(void)
{
	static char engine[KVC_TEST_PATH_BYTES];
	const char *const options[] = {"--ram", "16M",          "--gpus", "1", "--vram",
	                               "64M",   "--gpu-engine", engine,   NULL};

	assert_true(kvc_test_program("tests/fake/kvcellar-engine-fake", engine));
	assert_true(kvc_test_daemon_prepare(&daemon_, options));
	setenv("KVC_FAKE_CUDA_DIR", daemon_.directory, 1);
}

static void test_f3_real_engine_is_killed(void **state)
{
	(void)state;
	prepare_real();
	assert_true(kvc_test_daemon_restart(&daemon_));
	wait_logged(", GPU 1 (fake GPU 1), vram 64 MiB each");
	wait_stat("gpu.1.pinned_bytes", 16 << 20);
	assert_true(stat_of("gpu.1.device_bytes") >= (64 << 20));
	for (int i = 1; i <= 3; i++) {
		pid_t engine = child_of(daemon_.pid);

		assert_true(engine > 0);
		assert_int_equal(kill(engine, SIGKILL), 0);
		wait_stat("gpu.1.restarts", i);
	}
	assert_true(kvc_test_daemon_logged(&daemon_, "engine lost: the process ended (signal 9)"));
	assert_true(stat_of("gpu.1.up") == 1);
	assert_true(kvc_test_daemon_end(&daemon_));
}

static void test_f6_real_engine_without_device(void **state)
{
	char path[KVC_TEST_PATH_BYTES + 8];
	FILE *faults;

	(void)state;
	prepare_real();
	snprintf(path, sizeof path, "%s/fault", daemon_.directory);
	faults = fopen(path, "we");
	assert_non_null(faults);
	fputs("no-device\n", faults);
	fclose(faults);
	assert_true(kvc_test_daemon_spawn(&daemon_));
	assert_int_equal(kvc_test_daemon_wait(&daemon_), 1);
	assert_true(kvc_test_daemon_logged(&daemon_, "gpus: GPU 1 cannot be used: "));
	assert_true(kvc_test_daemon_end(&daemon_));
}

#define DAEMON_TEST(test) cmocka_unit_test_setup(test, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        DAEMON_TEST(test_start_and_stop),
	        DAEMON_TEST(test_engines_inherit_nothing),
	        DAEMON_TEST(test_f6_start_fails),
	        DAEMON_TEST(test_f6_contradictions),
	        DAEMON_TEST(test_f6_auto_without_devices),
	        DAEMON_TEST(test_f3_engine_dies),
	        DAEMON_TEST(test_stop_while_an_engine_starts),
	        DAEMON_TEST(test_reload_while_an_engine_starts),
	        DAEMON_TEST(test_daemon_killed),
	        DAEMON_TEST(test_f3_real_engine_is_killed),
	        DAEMON_TEST(test_f6_real_engine_without_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
