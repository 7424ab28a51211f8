/* Child processes: how they end, what they inherit, and who reaps them. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/loop/child.h"
#include "tests/support/loop_run.h"

enum { MANY = 20 };

struct life {
	struct kvc_child *child;
	struct kvc_child_end end;
	bool ended;
};

static struct kvc_loop *loop;
static struct life lives[MANY];

static int open_loop(void **state)
{
	(void)state;
	/* What the test's own parent left open is not our doing. */
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	memset(lives, 0, sizeof lives);
	return kvc_loop_open(&loop) == KVC_OK ? 0 : 1;
}

static int close_loop(void **state)
{
	(void)state;
	kvc_loop_close(loop);
	return 0;
}

static void ended(void *context, const struct kvc_child_end *end)
{
	struct life *life = context;

	assert_false(life->ended);
	life->ended = true;
	life->end = *end;
}

static kvc_status start(struct life *life, const char *program, const char *command, const int *fd)
{
	const char *args[] = {program, "-c", command, NULL};
	struct kvc_child_options options = {.program = program,
	                                    .args = args,
	                                    .fds = fd,
	                                    .fd_count = fd ? 1 : 0,
	                                    .ended = ended,
	                                    .context = life};

	return kvc_child_start(loop, &options, &life->child);
}

static void shell(struct life *life, const char *command, const int *fd)
{
	assert_int_equal(start(life, "/bin/sh", command, fd), KVC_OK);
	assert_false(life->ended);
}

static void assert_ends(struct life *life, int exit_code, int signal)
{
	assert_true(kvc_test_run_until_set(loop, &life->ended));
	assert_int_equal(life->end.signal, signal);
	assert_int_equal(life->end.exit_code, exit_code);
}

static void test_exit_status(void **state)
{
	(void)state;
	shell(&lives[0], "exit 0", NULL);
	shell(&lives[1], "exit 7", NULL);
	shell(&lives[2], "kill -ABRT $$", NULL);
	assert_ends(&lives[0], 0, 0);
	assert_ends(&lives[1], 7, 0);
	assert_ends(&lives[2], 0, SIGABRT);
}

static void test_kill(void **state)
{
	(void)state;
	shell(&lives[0], "exec sleep 1000", NULL);
	kvc_child_kill(lives[0].child, SIGKILL);
	assert_ends(&lives[0], 0, SIGKILL);
}

/* Looked for in PATH without a slash; a program that is not there is told at once, and why. */
static void test_program_is_found(void **state)
{
	(void)state;
	assert_int_equal(start(&lives[0], "sh", "exit 3", NULL), KVC_OK);
	assert_ends(&lives[0], 3, 0);
	assert_int_equal(start(&lives[1], "/does/not/exist", "", NULL), KVC_IO);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(start(&lives[1], "/", "", NULL), KVC_ACCESS);
	assert_int_equal(errno, EACCES);
	assert_false(lives[1].ended);
}

static size_t read_all(int fd, char *text, size_t room)
{
	size_t used = 0;
	ssize_t bytes;

	while (used + 1 < room && (bytes = read(fd, text + used, room - used - 1)) > 0)
		used += (size_t)bytes;
	text[used] = 0;
	return used;
}

/* Descriptor 3 is what was given, 0 is empty, and nothing of ours is there besides. */
static void test_descriptors(void **state)
{
	char text[256];
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	shell(&lives[0], "cat >&3; exec ls /proc/self/fd >&3", &pair[1]);
	close(pair[1]);
	read_all(pair[0], text, sizeof text);
	assert_string_equal(text, "0\n1\n2\n3\n4\n"); /* 4: the folder, of ls itself */
	assert_ends(&lives[0], 0, 0);
	close(pair[0]);
}

/* Signals that we block or ignore are as usual there. */
static void test_signals_are_reset(void **state)
{
	(void)state;
	assert_int_equal(signal(SIGPIPE, SIG_IGN), SIG_IGN); /* the loop has done so */
	shell(&lives[0], "kill -PIPE $$; exit 1", NULL);
	assert_ends(&lives[0], 0, SIGPIPE);
}

static bool all_ended(void *context)
{
	(void)context;
	for (int i = 0; i < MANY; i++) {
		if (!lives[i].ended)
			return false;
	}
	return true;
}

static void test_many_at_once(void **state)
{
	(void)state;
	for (int i = 0; i < MANY; i++)
		shell(&lives[i], "exec sleep 1000", NULL);
	for (int i = MANY; i > 0; i--)
		kvc_child_kill(lives[i - 1].child, i % 2 ? SIGTERM : SIGKILL);
	assert_true(kvc_test_run_until(loop, all_ended, NULL, 60000));
	for (int i = 0; i < MANY; i++)
		assert_int_equal(lives[i].end.signal, (i + 1) % 2 ? SIGTERM : SIGKILL);
}

/* Somebody else's child is left for him to wait for. */
static void test_others_are_not_reaped(void **state)
{
	int status;
	pid_t other;

	(void)state;
	shell(&lives[0], "exec sleep 1000", NULL);
	other = fork();
	if (other == 0)
		_exit(9);
	shell(&lives[1], "exit 1", NULL);
	assert_ends(&lives[1], 1, 0);
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(WEXITSTATUS(status), 9);
	kvc_child_kill(lives[0].child, SIGKILL);
	assert_ends(&lives[0], 0, SIGKILL);
}

static bool signal_seen;

static void on_signal(void *context, int number)
{
	(void)context;
	assert_int_equal(number, SIGTERM);
	signal_seen = true;
}

static void test_beside_signal_handlers(void **state)
{
	(void)state;
	assert_int_equal(kvc_loop_on_signal(loop, SIGTERM, on_signal, NULL), KVC_OK);
	shell(&lives[0], "exit 2", NULL);
	raise(SIGTERM);
	assert_true(kvc_test_run_until_set(loop, &signal_seen));
	assert_ends(&lives[0], 2, 0);
}

static void test_without_memory(void **state)
{
	(void)state;
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(start(&lives[0], "/bin/sh", "exit 0", NULL), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
}

#define CHILD_TEST(test) cmocka_unit_test_setup_teardown(test, open_loop, close_loop)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        CHILD_TEST(test_exit_status),           CHILD_TEST(test_kill),
	        CHILD_TEST(test_program_is_found),      CHILD_TEST(test_descriptors),
	        CHILD_TEST(test_signals_are_reset),     CHILD_TEST(test_many_at_once),
	        CHILD_TEST(test_others_are_not_reaped), CHILD_TEST(test_beside_signal_handlers),
	        CHILD_TEST(test_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
