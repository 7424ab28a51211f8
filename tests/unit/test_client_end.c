/* The client library when it is the client that ends a connection: by kvc_client_destroy, or because a system
 * call fails. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(destroy_waits_until_imported_memory_is_let_go),
	        cmocka_unit_test(destroy_waits_for_a_hanging_daemon_until_the_deadline),
	        cmocka_unit_test(destroy_does_not_wait_for_memory_of_its_own),
	        cmocka_unit_test(destroy_ends_a_connection_that_a_child_holds_too),
	        cmocka_unit_test(failed_send_fences_what_is_in_use),
	        cmocka_unit_test(dead_daemon_fences_nothing),
	};

	return cmocka_run_group_tests_name("client_end", tests, NULL, NULL);
}
