/* A kvcellard with an agent in it (tests/fault/agent.c), and a client of it that knows what every block
 * holds. Everything here asserts, but for what it says it returns. */
#ifndef KVC_FAULTS_DAEMON_WORLD_H
#define KVC_FAULTS_DAEMON_WORLD_H

#include "tests/fault/agent.h"
#include "tests/support/row.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define DW_BLOCKS   8u
#define DW_STEP     8192u
#define DW_DEADLINE 20000u

struct daemon_world {
	struct kvc_server server;
	struct kvc_sample_space space;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint8_t keys[DW_BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[DW_BLOCKS];
	uint32_t deadline_ms; /* of gets and puts; 0: the client's */
};

/* Folder and flags: 8 MiB of RAM, two threads, and a disk tier if wanted. Not started. */
void dw_init(struct daemon_world *w, bool disk);

/* Start it without waiting. */
void dw_spawn(struct daemon_world *w);

/* Start it, wait until it serves, and connect. */
void dw_start(struct daemon_world *w);

/* A client, a namespace, memory. */
void dw_connect(struct daemon_world *w);
void dw_disconnect(struct daemon_world *w);

/* Disconnect, compare the daemon with its baseline (started again, if it does not run), end it, which must
 * work, and remove the folder. */
void dw_end(struct daemon_world *w);

/* Put a batch of DW_BLOCKS blocks; how many of them were KVC_OK. */
unsigned dw_put(struct daemon_world *w, uint64_t first, uint32_t ack);

/* Get a batch; how many came, each of which is exact. */
unsigned dw_get(struct daemon_world *w, uint64_t first);

/* Carry out a command. */
struct agent_answer dw_agent(struct daemon_world *w, struct agent_command command);

double dw_stat(struct daemon_world *w, const char *name);

/* Wait until a statistic is at least that. */
void dw_await(struct daemon_world *w, const char *name, double least);

#endif
