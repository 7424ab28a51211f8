/* A daemon for tests of the client: it speaks frames on a real socket from threads of its own, keeps blocks
 * raw in memory, and misbehaves on command. What it stores outlives connections, not fake_daemon_stop.
 *
 * Rules say what happens to frames of a verb; the default is an honest answer. Every function may be
 * called from any thread. Failures of the fake itself abort the test. */
#ifndef KVC_TESTS_FAKE_DAEMON_H
#define KVC_TESTS_FAKE_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvcellar.h"
#include "proto/frame.h"

struct fake_daemon;

struct fake_limits {
	uint32_t batch;
	uint32_t inflight;
	uint64_t inline_bytes;
	uint32_t deadline_ms_max;
	uint32_t padding; /* bytes of a field that nobody knows, in every answer */
};

enum fake_action {
	FAKE_ANSWER, /* honestly */
	FAKE_HOLD,   /* not, until fake_daemon_release */
	FAKE_CLOSE,  /* close the connection when the frame arrives */
	FAKE_CUT,    /* send `number` bytes of the answer, then close; all of it if it is not longer */
	FAKE_FAIL,   /* answer with status `number` and a detail */
	FAKE_RAW, /* send `bytes`, in which the 8 bytes at offset 16 are replaced by the request's id if zero
	           */
	FAKE_FREEZE, /* read nothing more from any connection until fake_daemon_release */
};

struct fake_rule {
	enum fake_action action;
	size_t number;
	const void *bytes; /* FAKE_RAW: kept by the caller until the rule is replaced */
	size_t length;
	unsigned skip;  /* frames of the verb that pass first */
	unsigned times; /* 0: always */
};

/* Listens at `path`, which must not exist. limits may be NULL. */
struct fake_daemon *fake_daemon_start(const char *path, const struct fake_limits *limits);

/* Close the listener and all connections, forget all, remove the path. */
void fake_daemon_stop(struct fake_daemon *daemon);

/* Close all connections; the listener and what is stored stay. */
void fake_daemon_disconnect(struct fake_daemon *daemon);

void fake_daemon_rule(struct fake_daemon *daemon, uint16_t verb, struct fake_rule rule);

/* Connections that the client ends stay open here until fake_daemon_release, as while the daemon still has
 * its memory. */
void fake_daemon_linger(struct fake_daemon *daemon);

/* Answer what is held, thaw and linger no more; rules stay. */
void fake_daemon_release(struct fake_daemon *daemon);

/* Wait until so many frames of the verb have arrived since the start. */
void fake_daemon_await(struct fake_daemon *daemon, uint16_t verb, unsigned frames);
unsigned fake_daemon_seen(struct fake_daemon *daemon, uint16_t verb);

/* Connections open now; blocks stored. */
unsigned fake_daemon_connections(struct fake_daemon *daemon);
size_t fake_daemon_blocks(struct fake_daemon *daemon);

#endif
