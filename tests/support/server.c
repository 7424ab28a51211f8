/* Starting, watching and ending a daemon in a test. */
#include "tests/support/server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/row.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PATIENCE 8u
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PATIENCE 8u
#endif
#endif
#ifndef PATIENCE
#define PATIENCE 1u
#endif

#define KILL_TIMEOUT_MS 30000u
#define READY_MS        30000u
#define OPTIONS_BYTES   2048

unsigned kvc_server_patience(void)
{
	return PATIENCE;
}

uint64_t kvc_server_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void kvc_server_step(void)
{
	const struct timespec step = {.tv_nsec = 2000000};

	nanosleep(&step, NULL);
}

/* ---- life ---------------------------------------------------------------------------------- */

/* BIN/tests/FOLDER/PROGRAM to BIN/kvcellard. */
static bool find_program(char *program, size_t bytes)
{
	const char *bin = getenv("KVC_BIN");
	char self[4000];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

	if (bin && *bin)
		return snprintf(program, bytes, "%s/kvcellard", bin) < (int)bytes;
	if (length < 0)
		return false;
	self[length] = '\0';
	for (int up = 0; up < 3; up++) {
		char *slash = strrchr(self, '/');

		if (!slash)
			return false;
		*slash = '\0';
	}
	return snprintf(program, bytes, "%s/kvcellard", self) < (int)bytes;
}

bool kvc_server_init(struct kvc_server *server)
{
	const char *parent = getenv("TMPDIR");

	memset(server, 0, sizeof *server);
	server->agent = -1;
	if (!find_program(server->program, sizeof server->program))
		return false;
	snprintf(server->folder, sizeof server->folder, "%s/kvc-XXXXXX",
	         parent && *parent ? parent : "/var/tmp");
	if (!mkdtemp(server->folder)) {
		fprintf(stderr, "cannot make %s: %s\n", server->folder, strerror(errno));
		return false;
	}
	snprintf(server->socket, sizeof server->socket, "%s/socket", server->folder);
	snprintf(server->disk, sizeof server->disk, "%s/disk", server->folder);
	snprintf(server->log, sizeof server->log, "%s/log", server->folder);
	kvc_server_arg(server, "--socket", server->socket);
	return true;
}

void kvc_server_use_agent(struct kvc_server *server)
{
	size_t length = strlen(server->program) - strlen("kvcellard");

	snprintf(server->program + length, sizeof server->program - length, "tests/fault/kvcellard_agent");
	server->with_agent = true;
}

void kvc_server_arg(struct kvc_server *server, const char *flag, const char *value)
{
	size_t i = 0;

	while (server->args[i])
		i++;
	if (i + 3 > KVC_SERVER_ARGS_MAX)
		abort();
	server->args[i] = flag;
	server->args[i + 1] = value;
}

void kvc_server_fake_gpus(struct kvc_server *server, const char *gpus)
{
	const char *slash = strrchr(server->program, '/');

	(void)snprintf(server->engine, sizeof server->engine, "%.*s/tests/fake/kvcellar-engine-fake",
	               (int)(slash - server->program), server->program);
	kvc_server_arg(server, "--gpus", gpus);
	kvc_server_arg(server, "--gpu-engine", server->engine);
	kvc_server_arg(server, "--vram", "1M");
}

static void run_program(const struct kvc_server *server)
{
	char *argv[KVC_SERVER_ARGS_MAX + 1];
	size_t count = 0;
	int log = open(server->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	argv[count++] = (char *)(uintptr_t)server->program;
	for (size_t i = 0; server->args[i]; i++)
		argv[count++] = (char *)(uintptr_t)server->args[i];
	argv[count] = NULL;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (log >= 0) {
		dup2(log, STDOUT_FILENO);
		dup2(log, STDERR_FILENO);
	}
	execv(server->program, argv);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", server->program, strerror(errno));
	_exit(127);
}

static void agent_close(struct kvc_server *server)
{
	if (server->agent >= 0)
		close(server->agent);
	server->agent = -1;
}

/* The daemon's end of the pair, which it is told by its number; -1: there is none. */
static int agent_open(struct kvc_server *server)
{
	char number[16];
	int ends[2];

	agent_close(server);
	if (!server->with_agent || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
		return -1;
	server->agent = ends[0];
	snprintf(number, sizeof number, "%d", ends[1]);
	setenv("KVC_TEST_AGENT_FD", number, 1);
	return ends[1];
}

bool kvc_server_start(struct kvc_server *server)
{
	int theirs = agent_open(server);
	pid_t pid = fork();

	kvc_row_daemon_started();
	if (pid == 0) {
		if (theirs >= 0)
			fcntl(theirs, F_SETFD, 0);
		run_program(server);
	}
	if (theirs >= 0) {
		unsetenv("KVC_TEST_AGENT_FD");
		close(theirs);
	}
	if (pid > 0)
		server->pid = pid;
	return pid > 0;
}

void kvc_server_thread_leaks(bool tell)
{
	const char *given = getenv("TSAN_OPTIONS");
	static char before[OPTIONS_BYTES];
	char with[OPTIONS_BYTES + 32];

	if (tell) {
		setenv("TSAN_OPTIONS", before, 1);
		return;
	}
	snprintf(before, sizeof before, "%s", given ? given : "");
	snprintf(with, sizeof with, "%s:report_thread_leaks=0", before);
	setenv("TSAN_OPTIONS", with, 1);
}

bool kvc_server_wait(struct kvc_server *server, uint32_t timeout_ms, int *status)
{
	uint64_t end = kvc_server_now_ms() + timeout_ms;

	while (waitpid(server->pid, status, WNOHANG) == 0) {
		if (kvc_server_now_ms() > end)
			return false;
		kvc_server_step();
	}
	server->pid = 0;
	return true;
}

static struct kvc_baseline_of self_of(const struct kvc_server *server)
{
	return (struct kvc_baseline_of){
	        .pid = server->pid, .socket = server->socket, .disk = server->disk, .agent = server->agent};
}

bool kvc_server_answers(struct kvc_server *server, uint32_t timeout_ms)
{
	uint64_t end = kvc_server_now_ms() + timeout_ms;
	struct kvc_client *client;
	kvc_status status;
	int ended;

	if (kvc_server_client(server, 1000 * PATIENCE, &client) != KVC_OK)
		return false;
	do {
		status = kvc_ping(client, 0);
		if (status == KVC_OK || kvc_server_wait(server, 0, &ended))
			break;
		kvc_server_step();
	} while (kvc_server_now_ms() < end);
	kvc_client_destroy(client);
	return status == KVC_OK;
}

bool kvc_server_ready(struct kvc_server *server, uint32_t timeout_ms)
{
	struct kvc_baseline_of of;

	if (!kvc_server_answers(server, timeout_ms))
		return false;
	if (!server->baseline.taken) {
		of = self_of(server);
		kvc_baseline_take(&server->baseline, &of);
	}
	return true;
}

uint64_t kvc_server_settle(struct kvc_server *server)
{
	struct kvc_baseline_of of;

	if (!server->pid && (!kvc_server_start(server) || !kvc_server_ready(server, READY_MS * PATIENCE)))
		kvc_server_show_log(server);
	of = self_of(server);
	return kvc_baseline_compare(&server->baseline, &of);
}

void kvc_server_kill(struct kvc_server *server)
{
	int status;

	if (server->pid == 0)
		return;
	kill(server->pid, SIGKILL);
	kvc_server_wait(server, KILL_TIMEOUT_MS, &status);
}

bool kvc_server_stop(struct kvc_server *server, uint32_t timeout_ms)
{
	int status = -1;

	if (server->pid == 0)
		return false;
	kill(server->pid, SIGTERM);
	if (!kvc_server_wait(server, timeout_ms, &status)) {
		fprintf(stderr, "daemon did not stop within %u ms\n", timeout_ms);
		kvc_server_kill(server);
		return false;
	}
	if (status != 0)
		fprintf(stderr, "daemon stopped with status 0x%x\n", (unsigned)status);
	return status == 0;
}

/* ---- files --------------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where)
{
	(void)info;
	(void)type;
	(void)where;
	return remove(path) == 0 || errno == ENOENT ? 0 : -1;
}

static void remove_tree(const char *path)
{
	if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
		fprintf(stderr, "cannot remove %s: %s\n", path, strerror(errno));
}

void kvc_server_remove(struct kvc_server *server)
{
	kvc_server_kill(server);
	agent_close(server);
	remove_tree(server->folder);
}

void kvc_server_wipe(struct kvc_server *server)
{
	remove_tree(server->disk);
}

void kvc_server_show_log(const struct kvc_server *server)
{
	char text[8192];
	int log = open(server->log, O_RDONLY | O_CLOEXEC);
	off_t end;
	ssize_t length;

	if (log < 0)
		return;
	end = lseek(log, 0, SEEK_END);
	length = pread(log, text, sizeof text, end > (off_t)sizeof text ? end - (off_t)sizeof text : 0);
	if (length > 0)
		fprintf(stderr, "---- end of the daemon's log ----\n%.*s\n", (int)length, text);
	close(log);
}

/* ---- what it says, and what the kernel says of it ------------------------------------------ */

kvc_status kvc_server_client(const struct kvc_server *server, uint32_t deadline_ms,
                             struct kvc_client **client)
{
	struct kvc_client_options options;

	kvc_client_options_init(&options);
	options.socket_path = server->socket;
	options.deadline_ms = deadline_ms;
	return kvc_client_create(&options, client);
}

double kvc_server_stat(struct kvc_client *client, const char *name)
{
	struct kvc_stat *stats;
	size_t count;
	double value = -1;

	if (kvc_stats(client, 0, &stats, &count) != KVC_OK)
		return -1;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(stats[i].name, name) == 0)
			value = stats[i].value;
	}
	kvc_stats_free(stats);
	return value;
}

unsigned kvc_server_descriptors(const struct kvc_server *server)
{
	char path[64];
	unsigned count = 0;
	DIR *folder;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)server->pid);
	folder = opendir(path);
	if (!folder)
		return 0;
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}

uint64_t kvc_server_resident_bytes(const struct kvc_server *server)
{
	char path[64];
	unsigned long pages = 0;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/statm", (int)server->pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*u %lu", &pages) != 1)
		pages = 0;
	fclose(file);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
