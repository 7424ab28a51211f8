/* A daemon with a GPU engine for tests of the cuda plane: started, watched, its engine found and killed.
 *
 * On a GPU machine the engine is the built one, or with KVC_TEST_ENGINE another one; without a GPU it is the
 * stand-in (tests/gpu/e2e_fake.sh sets the environment). Nothing here asserts, all waits are bounded. */
#ifndef KVC_TESTS_GPU_RIG_H
#define KVC_TESTS_GPU_RIG_H

#include "tests/support/server.h"

struct rig_options {
	const char *gpus;   /* NULL: 0 */
	const char *ram;    /* of the arena; NULL: 256M */
	const char *vram;   /* of the VRAM tier; NULL: none */
	const char *sms;    /* NULL: the default */
	const char *engine; /* name of a program beside the tests ("tests/gpu/..."), or NULL */
	bool disk;
};

struct rig {
	struct kvc_server server;
	struct kvc_client *client;
	char engine[4096];
};

/* Start, and wait until the engine serves. False: it does not; the log is shown. */
bool rig_open(struct rig *rig, const struct rig_options *options);

/* The same in two steps, for who measures. No baseline is taken. */
bool rig_prepare(struct rig *rig, const struct rig_options *options);
bool rig_start(struct rig *rig);

/* Stop the daemon: false if it did not end by itself with status 0. The folder is removed. */
bool rig_close(struct rig *rig);

/* A number of one of the daemon's GPUs ("up", "regions", "device_bytes"), or of its GPU 0: -1 if it cannot be
 * had. */
double rig_gpu_of(struct rig *rig, unsigned gpu, const char *name);
double rig_gpu(struct rig *rig, const char *name);
double rig_stat(struct rig *rig, const char *name);

/* Processes of engines, at most `most`: how many there are. */
unsigned rig_engines(const struct rig *rig, pid_t *pids, unsigned most);

/* The one there is, or 0. */
pid_t rig_engine(const struct rig *rig);

/* Wait until the engine serves and is another process than `before`; 0: not within timeout_ms. */
pid_t rig_engine_await(struct rig *rig, pid_t before, uint32_t timeout_ms);

/* Times for a distribution. */
#define RIG_TIMES_MAX 4096u
struct rig_times {
	size_t count;
	double ms[RIG_TIMES_MAX];
};

void rig_times_add(struct rig_times *times, double ms);

/* `# what: n, median, 90th percentile, most`, in milliseconds. */
void rig_times_print(struct rig_times *times, const char *what);
double rig_times_most(const struct rig_times *times);

double rig_now_ms(void);

/* How often: `full`, or `small` against the stand-in; $KVC_TEST_ROUNDS overrides both. */
unsigned rig_rounds(unsigned full, unsigned small);

#endif
