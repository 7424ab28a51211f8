/* The client library when it is the client that ends a connection: by kvc_client_destroy, or because a system
 * call fails. Calls of sendmsg fail and calls of ppoll begin when a test says so. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"

#define assert_ok(call)               expect_status(call, KVC_OK, #call, __LINE__)
#define assert_status(call, expected) expect_status(call, expected, #call, __LINE__)

static void expect_status(kvc_status status, kvc_status expected, const char *what, int line)
{
	if (status != expected)
		fail_msg("line %d: %s: %s, expected %s: %s", line, what, kvc_status_name(status),
		         kvc_status_name(expected), kvc_last_error());
}

static uint64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- destroy while requests use imported memory ---------------------------------------------- */

static void import(struct fixture *f, struct kvc_memory **memory)
{
	int memfd = memfd_create("imported", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(memfd, FIXTURE_BLOCK), 0);
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_ok(kvc_memory_import(f->client, memfd, FIXTURE_BLOCK, memory));
	(void)close(memfd);
}

static void put_submit(struct fixture *f, struct kvc_memory *memory, struct kvc_block *block, uint64_t *key,
                       uint32_t deadline_ms)
{
	struct kvc_transfer transfer;

	fixture_blocks(block, key, 1, 0);
	kvc_transfer_init(&transfer, memory);
	transfer.deadline_ms = deadline_ms;
	assert_ok(kvc_put_submit(f->ns, &transfer, block, 1, NULL));
}

static void destroy_client(struct fixture *f)
{
	kvc_client_destroy(f->client);
	f->client = NULL;
	f->ns = NULL;
	f->memory = NULL;
}

/* The caller may write the memfd, which it still has, when destroy has returned. */
static void destroy_waits_until_imported_memory_is_let_go(void **state)
{
	struct kvc_memory *memory;
	uint64_t start = now_ms();
	struct kvc_block block;
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	import(&f, &memory);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD});
	put_submit(&f, memory, &block, &key, 60000);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 1);
	destroy_client(&f);
	assert_int_equal(fake_daemon_connections(f.daemon), 0);
	assert_int_equal(block.status, KVC_CANCELLED);
	assert_true(now_ms() - start < 30000); /* the end of the connection, not the deadline */
	fixture_close(&f);
}

/* No put that was read after its deadline stays, so there is an end to the waiting. */
static void destroy_waits_for_a_hanging_daemon_until_the_deadline(void **state)
{
	struct kvc_memory *memory;
	struct kvc_block block;
	struct fixture f;
	uint64_t start;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	import(&f, &memory);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_FREEZE});
	start = now_ms();
	put_submit(&f, memory, &block, &key, 100);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 1);
	destroy_client(&f);
	assert_true(now_ms() - start >= 100);
	assert_int_equal(fake_daemon_connections(f.daemon), 1);
	assert_int_equal(block.status, KVC_CANCELLED);
	fake_daemon_release(f.daemon);
	fixture_close(&f);
}

/* Nobody but the client has memory of its own: the daemon may take its time. */
static void destroy_does_not_wait_for_memory_of_its_own(void **state)
{
	uint64_t start = now_ms();
	struct kvc_block block;
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_FREEZE});
	put_submit(&f, f.memory, &block, &key, 60000);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 1);
	destroy_client(&f);
	assert_int_equal(fake_daemon_connections(f.daemon), 1);
	assert_true(now_ms() - start < 30000);
	fake_daemon_release(f.daemon);
	fixture_close(&f);
}

/* ---- destroy after a fork ---------------------------------------------------------------------- */

/* The child inherits the socket, and has no reason to know. */
static void destroy_ends_a_connection_that_a_child_holds_too(void **state)
{
	struct fixture f;
	int child_ends[2];
	int result = -1;
	pid_t child;
	char byte;

	(void)state;
	fixture_open(&f, NULL);
	assert_int_equal(pipe(child_ends), 0);
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		(void)close(child_ends[1]);
		_exit(read(child_ends[0], &byte, 1) == 0 ? 0 : 1);
	}
	(void)close(child_ends[0]);
	destroy_client(&f);
	for (unsigned tries = 0; fake_daemon_connections(f.daemon) > 0 && tries < 5000; tries++)
		(void)usleep(1000);
	assert_int_equal(fake_daemon_connections(f.daemon), 0);
	(void)close(child_ends[1]);
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_int_equal(result, 0);
	fixture_close(&f);
}

/* ---- a live connection that this side gives up ------------------------------------------------ */

/* errno of the next sendmsg; 0: none. The fake daemon uses send. */
static _Atomic int send_error;

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	ssize_t (*real)(int, const struct msghdr *, int);
	int error = atomic_exchange(&send_error, 0);

	if (error) {
		errno = error;
		return -1;
	}
	*(void **)&real = dlsym(RTLD_NEXT, "sendmsg");
	return real(fd, message, flags);
}

static void take_one(struct fixture *f, kvc_status expected)
{
	struct kvc_completion completion;
	size_t n;

	assert_ok(kvc_client_next(f->client, &completion, 1, 10000, &n));
	assert_int_equal(n, 1);
	assert_status(completion.status, expected);
}

/* The put is under way when another call fails to send: the daemon is well and may be reading. */
static void failed_send_fences_what_is_in_use(void **state)
{
	struct kvc_memory *other;
	struct kvc_block block;
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(kvc_memory_create(f.client, FIXTURE_BLOCK, &other));
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	put_submit(&f, f.memory, &block, &key, 0);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 1);
	atomic_store(&send_error, ETOOMANYREFS);
	assert_ok(kvc_ping(f.client, 0)); /* by a new connection */
	take_one(&f, KVC_DISCONNECTED);
	assert_null(strstr(kvc_last_error(), "is gone"));
	assert_non_null(strstr(kvc_last_error(), strerror(ETOOMANYREFS)));
	assert_status(fixture_get(&f, 1, 0, 0), KVC_FENCED);
	put_submit(&f, other, &block, &key, 0); /* nothing was on its way to this one */
	take_one(&f, KVC_OK);
	assert_ok(kvc_memory_renew(f.memory));
	assert_ok(fixture_get(&f, 1, 0, 0));
	kvc_memory_destroy(other);
	fixture_close(&f);
}

static void dead_daemon_fences_nothing(void **state)
{
	struct kvc_block block;
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	put_submit(&f, f.memory, &block, &key, 0);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 1);
	atomic_store(&send_error, EPIPE);
	assert_ok(kvc_ping(f.client, 0));
	take_one(&f, KVC_DISCONNECTED);
	assert_non_null(strstr(kvc_last_error(), "is gone"));
	assert_status(fixture_get(&f, 1, 77, 0), KVC_MISS);
	fixture_close(&f);
}

/* ---- threads that wait while the connection is replaced ----------------------------------------- */

/* A thread that has one stops before each ppoll until it is let pass. */
struct gate {
	sem_t arrived;
	sem_t pass;
	bool for_kick; /* then also until it would be kicked */
};

static _Thread_local struct gate *my_gate;

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *signals)
{
	int (*real)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);

	if (my_gate) {
		(void)sem_post(&my_gate->arrived);
		while (sem_wait(&my_gate->pass) != 0)
			continue;
		if (my_gate->for_kick)
			(void)poll(&fds[1], 1, -1); /* socket, wake */
	}
	*(void **)&real = dlsym(RTLD_NEXT, "ppoll");
	return real(fds, count, timeout, signals);
}

struct caller {
	struct fixture *f;
	struct gate *gate;
	uint16_t verb;
	uint32_t deadline_ms;
	pthread_t thread;
};

static void *caller_run(void *argument)
{
	const struct caller *caller = argument;
	struct kvc_key key = {"key", 3};
	size_t prefix;

	my_gate = caller->gate;
	return (void *)(intptr_t)(caller->verb == KVC_VERB_PING
	                                  ? kvc_ping(caller->f->client, caller->deadline_ms)
	                                  : kvc_lookup(caller->f->ns, &key, 1, caller->deadline_ms, &prefix,
	                                               NULL));
}

static void caller_start(struct caller *caller)
{
	assert_int_equal(pthread_create(&caller->thread, NULL, caller_run, caller), 0);
}

static kvc_status caller_join(const struct caller *caller)
{
	void *status;

	assert_int_equal(pthread_join(caller->thread, &status), 0);
	return (kvc_status)(intptr_t)status;
}

static void gate_init(struct gate *gate)
{
	assert_int_equal(sem_init(&gate->arrived, 0, 0) | sem_init(&gate->pass, 0, 0), 0);
}

static void gate_open(struct gate *gate)
{
	for (unsigned i = 0; i < 1000; i++)
		(void)sem_post(&gate->pass);
}

/* One thread still polls for the connection that is over when another, which polls for its successor, is to
 * be woken because a third could not send: the first one takes the wake-up and must pass it on. */
static void wake_up_for_the_next_leader_is_passed_on(void **state)
{
	struct gate old_gate = {.for_kick = true};
	struct gate new_gate = {.for_kick = false};
	struct fixture f;
	struct caller old = {&f, &old_gate, KVC_VERB_PING, 0, 0};
	struct caller next = {&f, &new_gate, KVC_VERB_LOOKUP, 0, 0};
	struct caller third = {&f, NULL, KVC_VERB_PING, 3000, 0};

	(void)state;
	gate_init(&old_gate);
	gate_init(&new_gate);
	fixture_open(&f, NULL);
	fake_daemon_rule(f.daemon, KVC_VERB_PING, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	fake_daemon_rule(f.daemon, KVC_VERB_LOOKUP, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	caller_start(&old);
	(void)sem_wait(&old_gate.arrived);
	fake_daemon_await(f.daemon, KVC_VERB_PING, 1);
	atomic_store(&send_error, EPIPE);
	caller_start(&next);
	(void)sem_wait(&new_gate.arrived);
	fake_daemon_await(f.daemon, KVC_VERB_LOOKUP,
	                  1); /* what comes before it is answered: let that be read */
	(void)sem_post(&new_gate.pass);
	(void)sem_wait(&new_gate.arrived);
	(void)sem_post(&old_gate.pass);
	atomic_store(&send_error, EAGAIN);
	caller_start(&third);
	assert_int_equal(caller_join(&old), KVC_DISCONNECTED);
	gate_open(&new_gate);
	assert_int_equal(caller_join(&third), KVC_OK);
	fake_daemon_release(f.daemon);
	assert_int_equal(caller_join(&next), KVC_OK);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(destroy_waits_until_imported_memory_is_let_go),
	        cmocka_unit_test(destroy_waits_for_a_hanging_daemon_until_the_deadline),
	        cmocka_unit_test(destroy_does_not_wait_for_memory_of_its_own),
	        cmocka_unit_test(destroy_ends_a_connection_that_a_child_holds_too),
	        cmocka_unit_test(failed_send_fences_what_is_in_use),
	        cmocka_unit_test(dead_daemon_fences_nothing),
	        cmocka_unit_test(wake_up_for_the_next_leader_is_passed_on),
	};

	return cmocka_run_group_tests_name("client_end", tests, NULL, NULL);
}
