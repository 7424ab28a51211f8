/* A real kvcellard as a child of a test, in a directory of its own under TMPDIR.
 *
 * The program is $KVC_BIN/kvcellard, or the one built with the test. Every wait is for a state, with a bound.
 */
#ifndef KVC_TEST_DAEMON_H
#define KVC_TEST_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/support/baseline.h"

#define KVC_TEST_PATH_BYTES 256
#define KVC_TEST_ARGS_MAX   48

struct kvc_test_daemon {
	pid_t pid; /* 0: not running */
	char directory[KVC_TEST_PATH_BYTES];
	char socket[KVC_TEST_PATH_BYTES]; /* directory/s */
	char disk[KVC_TEST_PATH_BYTES];   /* directory/disk; used only if an option names it */
	char log[KVC_TEST_PATH_BYTES];    /* what it wrote to stderr, of all runs */
	uint64_t descriptors_max;         /* RLIMIT_NOFILE of the next start; 0: as the test's */
	const char *args[KVC_TEST_ARGS_MAX];
	char program[KVC_TEST_PATH_BYTES];
	struct kvc_baseline baseline; /* of the first start that was waited for */
};

/* Make the directory, start with --socket and these options (NULL-terminated, borrowed until the end), and
 * wait until it accepts connections. False: it ended, or was not ready in time; its log goes to stderr. */
bool kvc_test_daemon_start(struct kvc_test_daemon *daemon, const char *const *options);

/* Only make the directory and note the options, for a daemon that is expected to fail. */
bool kvc_test_daemon_prepare(struct kvc_test_daemon *daemon, const char *const *options);

/* Start again with the same options in the same directory. */
bool kvc_test_daemon_restart(struct kvc_test_daemon *daemon);

/* Start without waiting for readiness. */
bool kvc_test_daemon_spawn(struct kvc_test_daemon *daemon);

/* Wait for its end; exit status, or 256 + signal number; -1: it did not end in time. */
int kvc_test_daemon_wait(struct kvc_test_daemon *daemon);

/* Signal, and wait. */
int kvc_test_daemon_stop(struct kvc_test_daemon *daemon, int signal);

/* Its clients are gone: compare it with its baseline, if it has one, stop it (SIGTERM), and remove the
 * directory. One that has ended is started again for that. True: it ended with 0, and as much is left as
 * there was. */
bool kvc_test_daemon_end(struct kvc_test_daemon *daemon);

/* Descriptors that it has open; -1: not to be found out. */
int kvc_test_daemon_descriptors(const struct kvc_test_daemon *daemon);

/* Whether its log has that text. */
bool kvc_test_daemon_logged(const struct kvc_test_daemon *daemon, const char *text);

/* Path of a program that was built with the test ("kvcellard"). */
bool kvc_test_program(const char *name, char path[KVC_TEST_PATH_BYTES]);

/* Remove a directory and what is in it. */
void kvc_test_remove_tree(const char *directory);

#endif
