/* Linked into the test build of kvcellard (kvcellard_agent): lets a test make its allocations, its disk,
 * accept and its wall clock fail, and lets it leak.
 *
 * A thread reads commands from the descriptor named in KVC_TEST_AGENT_FD, carries them out and answers each.
 * What it sets, other threads read: relaxed atomics, as nothing else hangs on them. KVC_TEST_FAIL_START=N
 * lets the N-th allocation of the start fail, KVC_TEST_FAIL_THREAD=N the N-th creation of a thread. accept4,
 * pthread_create and clock_gettime of the daemon's own code come through here (ld --wrap). */
#include "tests/fault/agent.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/io/io_fault.h"

enum { LEAK_BYTES = 4096 };

static atomic_uint disk_ops;
static atomic_int disk_error;
static atomic_uint accept_times;
static atomic_int accept_error;
static atomic_long wall_seconds;
static atomic_long injected;
static long fail_thread; /* set before any thread */
static atomic_long threads;

/* ---- faults -------------------------------------------------------------------------------- */

int __real_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags)
{
	unsigned left = atomic_load(&accept_times);

	if (!left)
		return __real_accept4(fd, address, bytes, flags);
	atomic_store(&accept_times, left - 1);
	atomic_fetch_add(&injected, 1);
	errno = atomic_load(&accept_error);
	return -1;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument)
{
	if (fail_thread && atomic_fetch_add(&threads, 1) + 1 == fail_thread)
		return EAGAIN;
	return __real_pthread_create(thread, attributes, run, argument);
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = __real_clock_gettime(clock, now);

	if (clock == CLOCK_REALTIME)
		now->tv_sec += atomic_load(&wall_seconds);
	return result;
}

static void disk_hook(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	int error = atomic_load(&disk_error);

	(void)context;
	if (!(atomic_load(&disk_ops) & 1u << req->op))
		return;
	atomic_fetch_add(&injected, 1);
	fault->kind = error < 0 ? KVC_FAULT_HOLD : KVC_FAULT_ERROR;
	fault->error = error;
}

/* ---- leaks --------------------------------------------------------------------------------- */

static void *stay(void *argument)
{
	(void)argument;
	for (;;)
		pause();
	return NULL;
}

/* What is made here stays in sight of the leak sanitizer, which looks at what nobody can reach any more. */
static void leak(enum agent_leak kind)
{
	static void *chain;
	pthread_t thread;
	void **link;

	switch (kind) {
	case AGENT_LEAK_DESCRIPTOR:
		if (dup(STDERR_FILENO) < 0)
			abort();
		break;
	case AGENT_LEAK_THREAD:
		if (__real_pthread_create(&thread, NULL, stay, NULL) == 0)
			pthread_detach(thread);
		break;
	case AGENT_LEAK_OBJECT:
		link = kvc_calloc(1, sizeof *link);
		if (link) {
			*link = chain;
			chain = link;
		}
		break;
	case AGENT_LEAK_MAPPING:
		(void)mmap(NULL, LEAK_BYTES, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		break;
	}
}

static void eat(size_t bytes)
{
	uint8_t *memory =
	        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		abort();
}

/* ---- commands ------------------------------------------------------------------------------ */

static void carry_out(const struct agent_command *command)
{
	switch ((enum agent_what)command->what) {
	case AGENT_ALLOC:
		if (command->set)
			kvc_alloc_fail_at(command->fail_at, command->forever);
		break;
	case AGENT_ABORT:
		KVC_INVARIANT(command->what != AGENT_ABORT);
		break;
	case AGENT_DISK:
		atomic_store(&disk_error, command->error);
		atomic_store(&disk_ops, command->disk_ops);
		break;
	case AGENT_ACCEPT:
		atomic_store(&accept_error, command->error);
		atomic_store(&accept_times, command->times);
		break;
	case AGENT_LEAK:
		for (uint32_t i = 0; i < command->times; i++)
			leak((enum agent_leak)command->leak);
		break;
	case AGENT_EAT:
		eat((size_t)command->times << 20);
		break;
	case AGENT_WALL:
		atomic_store(&wall_seconds, command->seconds);
		break;
	}
}

static void *agent_run(void *argument)
{
	int fd = *(int *)argument;
	struct agent_command command;
	struct agent_answer answer;

	while (read(fd, &command, sizeof command) == (ssize_t)sizeof command) {
		carry_out(&command);
		answer.count = kvc_alloc_count();
		answer.live = kvc_alloc_live();
		answer.injected = (uint64_t)atomic_load(&injected);
		if (write(fd, &answer, sizeof answer) != (ssize_t)sizeof answer)
			break;
	}
	return NULL;
}

static long number_of(const char *name)
{
	const char *text = getenv(name);

	return text ? strtol(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void agent_start(void)
{
	static int fd;
	const char *descriptor = getenv("KVC_TEST_AGENT_FD");
	sigset_t all, before;
	pthread_t thread;

	if (number_of("KVC_TEST_FAIL_START"))
		kvc_alloc_fail_at((uint64_t)number_of("KVC_TEST_FAIL_START"), 0);
	fail_thread = number_of("KVC_TEST_FAIL_THREAD");
	if (number_of("KVC_TEST_HOLD_READS")) {
		disk_ops = 1u << KVC_IO_READ;
		disk_error = -1;
	}
	if (!descriptor)
		return;
	kvc_io_fault_install(disk_hook, NULL);
	fd = atoi(descriptor);
	/* Signals are for the loop's thread: one that came to this one would wait for the next command. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (__real_pthread_create(&thread, NULL, agent_run, &fd) != 0)
		abort();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_detach(thread);
}
