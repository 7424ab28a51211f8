/* Inside daemon/rpc: the server's state, shared by its files. Loop thread only. */
#ifndef KVC_RPC_SERVER_H
#define KVC_RPC_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "daemon/base/log.h"
#include "daemon/rpc/rpc.h"

/* Most bytes of one read: one frame always fits, and no session reads more before others get their turn. */
#define KVC_RPC_READ_BYTES (128u * 1024u)

/* Why a connection was ended by us, or not taken. X(name, counter) */
#define KVC_DROP_TABLE(X)                                          \
	X(BAD_FRAME, "rpc.dropped.bad_frame")                      \
	X(DESCRIPTOR, "rpc.dropped.descriptor")                    \
	X(SLOW_WRITER, "rpc.dropped.slow_writer")                  \
	X(SLOW_READER, "rpc.dropped.slow_reader")                  \
	X(NO_HELLO, "rpc.dropped.no_hello")                        \
	X(NO_MEMORY, "rpc.dropped.no_memory")                      \
	X(SOCKET, "rpc.dropped.socket_error")                      \
	X(STOP_TIMEOUT, "rpc.dropped.stop_timeout")                \
	X(USER, "rpc.rejected.user")                               \
	X(CONNECTIONS, "rpc.rejected.connections")                 \
	X(CONNECTIONS_PER_UID, "rpc.rejected.connections_per_uid") \
	X(NO_DESCRIPTORS, "rpc.rejected.no_descriptors")

enum kvc_drop {
#define KVC_DROP_ENUM(name, counter) KVC_DROP_##name,
	KVC_DROP_TABLE(KVC_DROP_ENUM)
#undef KVC_DROP_ENUM
	        KVC_DROP_COUNT
};

struct kvc_rpc_cells {
	kvc_stat_cell *connections; /* now */
	kvc_stat_cell *accepted;
	kvc_stat_cell *hangups;         /* ended by the client */
	kvc_stat_cell *inflight;        /* requests that wait for the cache, now */
	kvc_stat_cell *inflight_blocks; /* what they hold */
	kvc_stat_cell *bytes_in;
	kvc_stat_cell *bytes_out;
	kvc_stat_cell *inline_bytes; /* buffers of inline payloads, now */
	kvc_stat_cell *region_bytes; /* attached client memory, now */
	kvc_stat_cell *device_bytes; /* attached device memory, now */
	kvc_stat_cell *deadlines;    /* requests cut off by their deadline */
	kvc_stat_cell *dropped[KVC_DROP_COUNT];
	kvc_stat_cell *refused[KVC_STATUS_COUNT]; /* replies with a failure, by status */
	kvc_stat_cell *requests[KVC_VERB_COUNT];
};

enum kvc_rpc_state { KVC_RPC_IDLE, KVC_RPC_SERVING, KVC_RPC_STOPPING, KVC_RPC_STOPPED };

struct kvc_rpc {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_cache *cache;
	struct kvc_gpu *const *gpus;
	uint32_t gpu_count;
	struct kvc_rpc_limits limits;
	uint8_t boot_id[KVC_BOOT_ID_BYTES];
	const char *version;
	uint64_t started_ms;
	enum kvc_rpc_state state;
	struct kvc_rpc_cells cells;

	/* accept.c */
	int listen_fd;
	int reserve_fd; /* given up for a moment when there are no descriptors left */
	struct kvc_watch *listen_watch;
	struct kvc_timer accept_pause;

	/* sessions */
	struct kvc_list sessions;
	uint32_t session_count;
	uint64_t session_number; /* of the next one, for the log */
	struct kvc_list paced;   /* sessions with a clock running */
	struct kvc_timer sweep;
	uint64_t sweep_due_ms;

	/* shared by all sessions: used only within one callback */
	struct kvc_convert *convert;
	uint8_t *read_buffer; /* KVC_RPC_READ_BYTES */
	struct kvc_storage_key *keys;
	uint8_t *rest;
	uint32_t *statuses;
	uint64_t *lengths;

	/* descriptors of device memory that engines keep, to map it again */
	uint32_t chunks;
	uint32_t chunks_max;

	/* log lines about clients: at most LINES a second */
	uint64_t log_second;
	uint32_t log_lines;

	struct kvc_timer stop_timer;
	void (*stop_done)(void *context);
	void *stop_context;
	struct kvc_task stopped;
};

/* Whether a line about a client may be logged now: clients must not be able to fill the log. */
bool kvc_rpc_may_log(struct kvc_rpc *rpc);

#define kvc_rpc_warn(rpc, ...)                 \
	do {                                   \
		if (kvc_rpc_may_log(rpc))      \
			kvc_warn(__VA_ARGS__); \
	} while (0)

void kvc_rpc_count_drop(struct kvc_rpc *rpc, enum kvc_drop drop);

/* A session is gone: if the server is stopping and it was the last, the stop is done. */
void kvc_rpc_session_ended(struct kvc_rpc *rpc);

/* Make sure that the sweep over paced sessions runs. KVC_NO_MEMORY. */
kvc_status kvc_rpc_sweep_start(struct kvc_rpc *rpc);

/* accept.c */
kvc_status kvc_accept_open(struct kvc_rpc *rpc, int listen_fd);
void kvc_accept_close(struct kvc_rpc *rpc);

/* A uid that a socket may have: not the overflow uid that stands for any unmapped user. */
bool kvc_accept_allows(const struct kvc_rpc_limits *limits, uid_t uid, const gid_t *gids, uint32_t gid_count);

#endif
