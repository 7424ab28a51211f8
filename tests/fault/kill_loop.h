/* What the files of the kill loop's supervisor share. Nobody else includes it. */
#ifndef KVC_TEST_KILL_LOOP_H
#define KVC_TEST_KILL_LOOP_H

#include <signal.h>
#include <sys/types.h>

#include "tests/fault/kill_disk.h"
#include "tests/fault/kill_ledger.h"
#include "tests/fault/kill_world.h"

/* What kills are aimed at. */
enum kill_phase {
	KILL_AT_START, /* before, during or just after recovery */
	KILL_SOON,     /* just after the first answer */
	KILL_LOADED,
	KILL_SWITCH,     /* just after another segment is written than before */
	KILL_CHECKPOINT, /* likewise a checkpoint */
	KILL_STOP,       /* while it stops in order */
	KILL_PHASES,
};

struct kill_totals {
	unsigned kills;
	unsigned by_phase[KILL_PHASES];
	unsigned stops;
	uint64_t verified;
	uint64_t reclaimed; /* acknowledged, not there, and old enough */
	uint64_t worker_verified;
	uint64_t worker_misses;
	uint64_t worker_failed_calls;
	uint64_t by_checkpoint; /* segments recovered, as far as the daemons lived to tell */
	uint64_t by_summary;
	uint64_t by_scan;
	uint64_t recovered; /* records, likewise */
	unsigned told;      /* daemons that lived to tell */
	unsigned wrong;
	unsigned missing;
	unsigned failed_starts;
	unsigned failed_stops;
	unsigned ends; /* of the daemon by itself */
	unsigned hangs;
	unsigned bad_statuses;
};

struct kill_loop {
	struct kvc_server server;
	struct kill_world world;
	struct kill_board *board;
	struct kill_ledger ledger;
	struct kill_disk disk;
	pid_t workers[KILL_WORKERS];
	int pipe; /* events of all workers */
	uint64_t random;
	unsigned kills_wanted;
	uint32_t *start_us; /* from fork to the first answer, sorted at the end */
	unsigned starts;
	struct kill_totals totals;
};

extern volatile sig_atomic_t kill_interrupted;

uint64_t kill_pick(struct kill_loop *loop, uint64_t bound);

/* Take all events that are there. False: the workers are gone. */
bool kill_drain(struct kill_loop *loop);

/* Read back what must be there: all of it, or the newest and some others. */
void kill_check(struct kill_loop *loop, bool all);

/* The line of counts, and the line of TAP. */
void kill_report(struct kill_loop *loop, uint64_t seed);

bool kill_failed(const struct kill_totals *totals);

#endif
