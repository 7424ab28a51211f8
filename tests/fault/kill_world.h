/* The world of the kill loop: which blocks there are, and what its processes tell each other.
 *
 * Block `id` = worker << 32 | run * KILL_BATCH + place in the run. So each block has one process that puts
 * and drops it, and its space follows from the id: a run lies in one space, is put by one call and dropped by
 * one. Workers send events through a pipe, in the order in which things happened; the supervisor reads them
 * into its ledger, which is the oracle: outside of the daemon, and it survives all kills.
 */
#ifndef KVC_TEST_KILL_WORLD_H
#define KVC_TEST_KILL_WORLD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/support/sample.h"
#include "tests/support/server.h"

#define KILL_WORKERS     4u
#define KILL_SPACES      6u
#define KILL_BATCH       8u
#define KILL_REGION      (4u << 20)
#define KILL_DEADLINE_MS 1000u
#define KILL_GRACE_MS    5000u /* a call that takes this much longer than its deadline hangs */

enum kill_event_kind {
	KILL_ACKED = 1, /* on stable storage, says the daemon */
	KILL_DROPPING,  /* about to be dropped: from now on it may be there or not */
	KILL_WRONG,     /* other bytes than the codec's */
	KILL_STATUS,    /* a status that must not occur */
	KILL_SLOW,      /* a call that took too long */
};

/* Written in one piece: smaller than PIPE_BUF. */
struct kill_event {
	uint32_t kind;
	uint32_t status; /* or milliseconds */
	uint64_t id;
};

/* Shared by all processes. Relaxed atomics: nothing is ordered by them. */
struct kill_board {
	atomic_int stop;
	atomic_uint_fast64_t beats[KILL_WORKERS]; /* calls made */
	atomic_uint_fast64_t used[KILL_WORKERS];  /* runs that have at least begun */
	atomic_uint_fast64_t verified;
	atomic_uint_fast64_t misses;
	atomic_uint_fast64_t failed_calls; /* the daemon was dead */
};

struct kill_world {
	struct kvc_sample_space spaces[KILL_SPACES];
	struct kill_board *board;
	uint64_t seed;
};

bool kill_world_init(struct kill_world *world, uint64_t seed);

/* The first block of a worker's run. */
static inline uint64_t kill_run_id(unsigned worker, uint64_t run)
{
	return (uint64_t)worker << 32 | run * KILL_BATCH;
}

/* The space that a block lies in. */
unsigned kill_space_of(const struct kill_world *world, uint64_t id);

/* What one worker process does until board->stop: never returns. */
_Noreturn void kill_worker_run(const struct kill_world *world, const struct kvc_server *server,
                               unsigned number, int pipe);

/* Open all namespaces, retrying while there is no daemon, until board->stop. False: stopped, or a status that
 * must not occur, in *status. */
bool kill_open_spaces(const struct kill_world *world, struct kvc_client *client,
                      struct kvc_namespace *spaces[KILL_SPACES], kvc_status *status);

/* Whether a call may end so while the daemon comes and goes. */
bool kill_status_expected(kvc_status status);

#endif
