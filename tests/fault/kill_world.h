/* The world of the kill loop: which blocks there are, and what its processes tell each other.
 *
 * Block `id` = worker << 32 | run * KILL_BATCH + place in the run. So each block has one process that puts
 * and drops it, and its space follows from the id: a run lies in one space, is put by one call and dropped by
 * one. Workers send events through a pipe, in the order in which things happened; the supervisor reads them
 * into its ledger, which is the oracle: outside of the daemon, and it survives all kills.
 *
 * Whoever puts a block computes what must come back with the scalar codec, and notes its checksum on the
 * board. So a read is checked by a checksum; where that is not as noted, the codec is asked again, so that a
 * number on the board that was overwritten can never pass for a wrong byte, nor hide one. */
#ifndef KVC_TEST_KILL_WORLD_H
#define KVC_TEST_KILL_WORLD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/support/sample.h"
#include "tests/support/server.h"

#define KILL_WORKERS     8u
#define KILL_SPACES      6u
#define KILL_BATCH       8u
#define KILL_REGION      (256u << 10) /* KILL_BATCH blocks of any space */
#define KILL_SUMS        8192u        /* blocks of a worker whose checksums the board has room for */
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
	uint64_t mark; /* KILL_ACKED: the board's, before the put began */
};

/* Shared by all processes. Relaxed atomics: nothing is ordered by them. */
struct kill_board {
	atomic_int stop;
	atomic_uint_fast64_t mark;                /* the highest epoch on the disk when the daemon was dead */
	atomic_uint_fast64_t beats[KILL_WORKERS]; /* calls made */
	atomic_uint_fast64_t used[KILL_WORKERS];  /* runs that have at least begun */
	atomic_uint_fast64_t verified;
	atomic_uint_fast64_t misses;
	atomic_uint_fast64_t failed_calls; /* the daemon was dead */
	atomic_uint_fast64_t sums[KILL_WORKERS][KILL_SUMS];
};

struct kill_world {
	struct kvc_sample_space spaces[KILL_SPACES];
	struct kill_board *board;
	uint64_t seed;
};

/* Some blocks of one space, for a call. Its pointers lead into itself. */
struct kill_batch {
	unsigned space;
	size_t count;
	uint64_t ids[KILL_BATCH];
	uint8_t keys[KILL_BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[KILL_BATCH];
	struct kvc_key names[KILL_BATCH];
};

bool kill_world_init(struct kill_world *world, uint64_t seed);

/* The first block of a worker's run. */
static inline uint64_t kill_run_id(unsigned worker, uint64_t run)
{
	return (uint64_t)worker << 32 | run * KILL_BATCH;
}

/* The space that a block lies in. */
unsigned kill_space_of(const struct kill_world *world, uint64_t id);

/* A batch of no blocks, in the space of block `id`; and one block more, behind the others in the memory. */
void kill_batch_init(const struct kill_world *world, struct kill_batch *batch, uint64_t id);
void kill_batch_add(const struct kill_world *world, struct kill_batch *batch, uint64_t id);

/* Note what must come back for a block. */
void kill_sum_note(const struct kill_world *world, uint64_t id, uint64_t sum);

/* Whether these are the bytes that must come back for the block. */
bool kill_bytes_right(const struct kill_world *world, uint64_t id, const void *data);

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
