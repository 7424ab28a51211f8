/* The service: connections, requests, replies. Everything here belongs to the loop thread.
 *
 * The server takes a listening socket and owns all sessions. It starts to accept when told that the cache is
 * ready, and stops by answering new requests with KVC_SHUTDOWN while running ones finish. */
#ifndef KVC_RPC_H
#define KVC_RPC_H

#include <stdint.h>
#include <sys/types.h>

#include "daemon/cache/cache.h"
#include "daemon/loop/loop.h"
#include "daemon/stats/stats.h"
#include "proto/frame.h"
#include "proto/kvc_status.h"

#define KVC_RPC_BATCH_MAX 4096u
#define KVC_RPC_IDS_MAX   32u

struct kvc_rpc;

/* May change while the server runs. */
struct kvc_rpc_limits {
	uint32_t connections;
	uint32_t connections_per_uid;
	uint32_t inflight;   /* unanswered requests of one connection: above, it is not read */
	uint32_t batch;      /* at most KVC_RPC_BATCH_MAX */
	uint32_t namespaces; /* of one connection */
	uint32_t regions;    /* and pools, of one connection */
	uint32_t pins;       /* of one connection */
	uint64_t region_bytes;
	uint64_t inline_bytes;
	uint64_t inline_budget; /* of all connections */
	uint32_t deadline_ms_default;
	uint32_t deadline_ms_max;
	uint32_t stall_ms; /* for a frame, or the next 256 KiB of a payload, to come or to go */
	uint32_t uid_count;
	uint32_t gid_count;
	uid_t uids[KVC_RPC_IDS_MAX]; /* that may connect, besides root and our own */
	gid_t gids[KVC_RPC_IDS_MAX];
};

struct kvc_rpc_options {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_cache *cache;
	struct kvc_gpu *const *gpus; /* gpu_count of them, each with its verdict; kept */
	uint32_t gpu_count;
	struct kvc_rpc_limits limits;
	uint8_t boot_id[KVC_BOOT_ID_BYTES];
	const char *version; /* static */
};

kvc_status kvc_rpc_open(const struct kvc_rpc_options *options, struct kvc_rpc **rpc);

/* Accept connections from a listening socket, which stays the caller's and must stay open until kvc_rpc_stop
 * is done. */
kvc_status kvc_rpc_serve(struct kvc_rpc *rpc, int listen_fd);

/* Serve a connected socket, which is taken on KVC_OK, as if it had been accepted from that user. */
kvc_status kvc_rpc_adopt(struct kvc_rpc *rpc, int fd, uid_t uid);

/* Connections that are open keep what hello announced to them, or get more. */
void kvc_rpc_limits_set(struct kvc_rpc *rpc, const struct kvc_rpc_limits *limits);

/* Accept no more, answer new requests with KVC_SHUTDOWN, and let running ones finish; those that still run
 * after timeout_ms are cancelled. Then done(context). Once. */
void kvc_rpc_stop(struct kvc_rpc *rpc, uint64_t timeout_ms, void (*done)(void *context), void *context);

/* After stop is done, or if nothing was ever served. */
void kvc_rpc_close(struct kvc_rpc *rpc);

#endif
