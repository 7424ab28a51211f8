/* A kvcellard of a test's own: started in a temporary folder, watched, ended.
 *
 * The daemon is killed by the kernel if the test dies. Its socket, disk tier and log lie in the server's
 * folder. All waits are bounded; nothing here asserts. One thread at a time. */
#ifndef KVC_TEST_SERVER_H
#define KVC_TEST_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "client/kvcellar.h"
#include "tests/support/baseline.h"

#define KVC_SERVER_PATH_BYTES 100u
#define KVC_SERVER_ARGS_MAX   24u

struct kvc_server {
	char folder[KVC_SERVER_PATH_BYTES];
	char socket[KVC_SERVER_PATH_BYTES + 16];
	char disk[KVC_SERVER_PATH_BYTES + 16];
	char log[KVC_SERVER_PATH_BYTES + 16];
	char program[4096];
	char engine[4096];                     /* if it has GPUs */
	const char *args[KVC_SERVER_ARGS_MAX]; /* more flags, NULL-terminated; borrowed */
	pid_t pid;                             /* 0: not running */
	int agent;                             /* of the daemon that runs; -1: it has none */
	bool with_agent;                       /* kvcellard_agent is started, and not kvcellard */
	struct kvc_baseline baseline;          /* of its first start that kvc_server_ready saw */
};

/* How much longer than usual things may take here: 1, more under a sanitizer. */
unsigned kvc_server_patience(void);

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t kvc_server_now_ms(void);

/* Wait a moment: the step of a bounded poll. */
void kvc_server_step(void);

/* Make the folder ($TMPDIR/kvc-XXXXXX). The program is $KVC_BIN/kvcellard, or the one of this test's build.
 */
bool kvc_server_init(struct kvc_server *server);

/* From now on start kvcellard with an agent in it (tests/fault/agent.h), which server->agent leads to. */
void kvc_server_use_agent(struct kvc_server *server);

/* A flag for the next start; the server must have room. */
void kvc_server_arg(struct kvc_server *server, const char *flag, const char *value);

/* These GPUs, each with 1 MiB for blocks: engines over the fake device (tests/fake/device_fake.c). */
void kvc_server_fake_gpus(struct kvc_server *server, const char *gpus);

/* fork and exec; does not wait. False: it could not be forked. */
bool kvc_server_start(struct kvc_server *server);

/* A daemon that ends at once, on purpose, joins no thread, which the thread sanitizer would hold against it.
 * Those that are started between `false` and `true` may. */
void kvc_server_thread_leaks(bool tell);

/* Wait until it answers a ping. False: it ended before, or did not answer within timeout_ms. */
bool kvc_server_answers(struct kvc_server *server, uint32_t timeout_ms);

/* The same, and the first time, when nobody else may be connected, its baseline is taken,
 * which takes a second. */
bool kvc_server_ready(struct kvc_server *server, uint32_t timeout_ms);

/* Wait for its end; *status as of waitpid. False: it still runs. */
bool kvc_server_wait(struct kvc_server *server, uint32_t timeout_ms, int *status);

/* SIGKILL, and wait. */
void kvc_server_kill(struct kvc_server *server);

/* SIGTERM, and wait: true if it ended with status 0. */
bool kvc_server_stop(struct kvc_server *server, uint32_t timeout_ms);

/* All clients of it are gone: compare the daemon with its baseline, as kvc_baseline_compare says. One that
 * does not run is started, and runs then. */
uint64_t kvc_server_settle(struct kvc_server *server);

/* The folder and all in it; the daemon must not run. */
void kvc_server_remove(struct kvc_server *server);

/* Remove the disk tier: the next start begins empty. */
void kvc_server_wipe(struct kvc_server *server);

/* Print the log's end to stderr. */
void kvc_server_show_log(const struct kvc_server *server);

/* A client of this server. */
kvc_status kvc_server_client(const struct kvc_server *server, uint32_t deadline_ms,
                             struct kvc_client **client);

/* One of the daemon's statistics; -1 if it cannot be had. */
double kvc_server_stat(struct kvc_client *client, const char *name);

/* Open descriptors, and resident bytes, of the daemon. */
unsigned kvc_server_descriptors(const struct kvc_server *server);
uint64_t kvc_server_resident_bytes(const struct kvc_server *server);

#endif
