/* The daemon's disk tier, seen from outside: the epochs in the headers of its segments, and what is written.
 *
 * Nothing here asks the daemon. One thread at a time. */
#ifndef KVC_TEST_KILL_DISK_H
#define KVC_TEST_KILL_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/fault/kill_world.h"

#define KILL_SEGMENTS      64u
#define KILL_SEGMENT_BYTES (1u << 20)

/* While so many segments hold nothing newer than a block, none that holds it is reclaimed: free ones are
 * taken first, then the oldest on which no load runs. Each worker and the supervisor may have loads of one
 * run, in two segments, the scrubber has one, and one more may be on its way to its new header. */
#define KILL_SPARE (2u * (KILL_WORKERS + 1u) + 2u)

enum kill_awaited {
	KILL_AWAIT_NOTHING,
	KILL_AWAIT_SWITCH,     /* another segment than before is written */
	KILL_AWAIT_CHECKPOINT, /* a checkpoint is */
};

struct kill_disk {
	const char *folder;             /* borrowed */
	uint64_t epochs[KILL_SEGMENTS]; /* 0: no segment */
	uint64_t highest;
	uint64_t renewed; /* segments that were found in a newer epoch than before */
	int watch;        /* inotify, -1: none */
	int watch_segments;
	char last[16]; /* segment that was written last */
};

void kill_disk_init(struct kill_disk *disk, const char *folder);

/* Forget what was there: the folder is removed. */
void kill_disk_clear(struct kill_disk *disk);

/* Read the headers of all segments. */
void kill_disk_look(struct kill_disk *disk);

/* Whether the disk, as it was looked at last, has had no need to reclaim a block that was put when `mark` was
 * the highest epoch. */
bool kill_disk_keeps(const struct kill_disk *disk, uint64_t mark);

/* Watch what is written, from now to the end. Without inotify nothing is ever seen. */
void kill_disk_watch(struct kill_disk *disk);
void kill_disk_watch_end(struct kill_disk *disk);

/* Take what was seen: whether it is awaited. Does not wait; disk->watch can be polled. */
bool kill_disk_seen(struct kill_disk *disk, enum kill_awaited awaited);

#endif
