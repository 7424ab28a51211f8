/* See daemon.h. */
#include "tests/support/daemon.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/row.h"
#include "tests/support/wire.h"

enum { READY_MS = 60000, END_MS = 60000, STEP_MS = 5 };

/* ---- paths --------------------------------------------------------------------------------- */

static bool beside_self(const char *name, char path[KVC_TEST_PATH_BYTES])
{
	char self[KVC_TEST_PATH_BYTES];
	ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
	char *tests;

	if (bytes < 0)
		return false;
	self[bytes] = 0;
	tests = strstr(self, "/tests/");
	if (!tests)
		return false;
	*tests = 0;
	return snprintf(path, KVC_TEST_PATH_BYTES, "%s/%s", self, name) < KVC_TEST_PATH_BYTES;
}

bool kvc_test_program(const char *name, char path[KVC_TEST_PATH_BYTES])
{
	const char *folder = getenv("KVC_BIN");

	if (!folder)
		return beside_self(name, path);
	return snprintf(path, KVC_TEST_PATH_BYTES, "%s/%s", folder, name) < KVC_TEST_PATH_BYTES;
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *walk)
{
	(void)stat;
	(void)type;
	(void)walk;
	return remove(path);
}

void kvc_test_remove_tree(const char *directory)
{
	nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

bool kvc_test_daemon_prepare(struct kvc_test_daemon *daemon, const char *const *options)
{
	const char *temporary = getenv("TMPDIR");
	size_t count = 0;

	snprintf(daemon->directory, sizeof daemon->directory, "%s/kvd-XXXXXX",
	         temporary ? temporary : "/tmp");
	if (!kvc_test_program("kvcellard", daemon->program) || !mkdtemp(daemon->directory))
		return false;
	snprintf(daemon->socket, sizeof daemon->socket, "%.200s/s", daemon->directory);
	snprintf(daemon->disk, sizeof daemon->disk, "%.200s/disk", daemon->directory);
	snprintf(daemon->log, sizeof daemon->log, "%.200s/log", daemon->directory);
	daemon->pid = 0;
	daemon->baseline.taken = false;
	daemon->args[count++] = daemon->program;
	daemon->args[count++] = "--socket";
	daemon->args[count++] = daemon->socket;
	while (*options && count + 1 < KVC_TEST_ARGS_MAX)
		daemon->args[count++] = *options++;
	daemon->args[count] = NULL;
	return !*options;
}

/* ---- start --------------------------------------------------------------------------------- */

static _Noreturn void child(const struct kvc_test_daemon *daemon)
{
	int log = open(daemon->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	struct rlimit limit = {daemon->descriptors_max, daemon->descriptors_max};

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves no daemon */
	dup2(log, STDERR_FILENO);
	close_range(3, ~0u, 0);
	if (daemon->descriptors_max)
		setrlimit(RLIMIT_NOFILE, &limit);
	execv(daemon->program, (char *const *)(uintptr_t)daemon->args);
	_exit(127);
}

bool kvc_test_daemon_spawn(struct kvc_test_daemon *daemon)
{
	kvc_row_daemon_started();
	daemon->pid = fork();
	if (daemon->pid == 0)
		child(daemon);
	return daemon->pid > 0;
}

static void log_show(const struct kvc_test_daemon *daemon)
{
	FILE *log = fopen(daemon->log, "re");
	char line[1024];

	fprintf(stderr, "%s:\n", daemon->program);
	while (log && fgets(line, sizeof line, log))
		fputs(line, stderr);
	if (log)
		fclose(log);
}

static void step(void)
{
	nanosleep(&(struct timespec){.tv_nsec = STEP_MS * 1000000}, NULL);
}

static struct kvc_baseline_of self_of(const struct kvc_test_daemon *daemon)
{
	return (struct kvc_baseline_of){
	        .pid = daemon->pid, .socket = daemon->socket, .disk = daemon->disk, .agent = -1};
}

static bool wait_ready(struct kvc_test_daemon *daemon)
{
	for (int waited = 0; waited < READY_MS; waited += STEP_MS) {
		int fd = kvc_test_connect(daemon->socket);

		if (fd >= 0) {
			close(fd);
			return true;
		}
		if (waitpid(daemon->pid, NULL, WNOHANG) == daemon->pid) {
			daemon->pid = 0;
			return false;
		}
		step();
	}
	return false;
}

bool kvc_test_daemon_restart(struct kvc_test_daemon *daemon)
{
	struct kvc_baseline_of of;

	if (!kvc_test_daemon_spawn(daemon) || !wait_ready(daemon)) {
		log_show(daemon);
		return false;
	}
	of = self_of(daemon);
	return daemon->baseline.taken || kvc_baseline_take(&daemon->baseline, &of);
}

bool kvc_test_daemon_start(struct kvc_test_daemon *daemon, const char *const *options)
{
	return kvc_test_daemon_prepare(daemon, options) && kvc_test_daemon_restart(daemon);
}

/* ---- end ----------------------------------------------------------------------------------- */

int kvc_test_daemon_wait(struct kvc_test_daemon *daemon)
{
	int status;

	for (int waited = 0; waited < END_MS; waited += STEP_MS) {
		if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
			daemon->pid = 0;
			return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
		}
		step();
	}
	return -1;
}

int kvc_test_daemon_stop(struct kvc_test_daemon *daemon, int signal)
{
	return kill(daemon->pid, signal) ? -1 : kvc_test_daemon_wait(daemon);
}

static uint64_t settle(struct kvc_test_daemon *daemon)
{
	struct kvc_baseline_of of;

	if (!daemon->baseline.taken)
		return 0;
	if (daemon->pid <= 0)
		kvc_test_daemon_restart(daemon);
	of = self_of(daemon);
	return kvc_baseline_compare(&daemon->baseline, &of);
}

bool kvc_test_daemon_end(struct kvc_test_daemon *daemon)
{
	uint64_t leaks = settle(daemon);
	int status = 0;

	if (daemon->pid > 0)
		status = kvc_test_daemon_stop(daemon, SIGTERM);
	if (daemon->pid > 0)
		kvc_test_daemon_stop(daemon, SIGKILL);
	if (status)
		log_show(daemon);
	kvc_test_remove_tree(daemon->directory);
	return status == 0 && leaks == 0;
}

/* ---- looking ------------------------------------------------------------------------------- */

int kvc_test_daemon_descriptors(const struct kvc_test_daemon *daemon)
{
	char path[64];
	int count = 0;
	DIR *folder;

	snprintf(path, sizeof path, "/proc/%d/fd", (int)daemon->pid);
	folder = opendir(path);
	if (!folder)
		return -1;
	for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder))
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}

bool kvc_test_daemon_logged(const struct kvc_test_daemon *daemon, const char *text)
{
	FILE *log = fopen(daemon->log, "re");
	char line[2048];
	bool found = false;

	while (log && !found && fgets(line, sizeof line, log))
		found = strstr(line, text) != NULL;
	if (log)
		fclose(log);
	return found;
}
