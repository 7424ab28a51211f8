/* The objects of the client library and who may do what with them.
 *
 * Objects
 *   kvc_client       owns everything below.
 *   kvcc_conn        one connection: socket, output queue, reassembly. Replaced, never reused.
 *   kvcc_request     what is on the wire: a frame and, if someone waits for its answer, a call. Slots in a
 *                    table; the slot is part of the request id.
 *   kvcc_call        what a caller waits for: a sync one lives on the caller's stack, an async one in a pool.
 *   kvcc_region      what the daemon knows under an id: a memfd, an allocation in device memory, or a pool.
 *                    A memory has one at a time; kvc_memory_renew replaces it, and requests keep the one they
 *                    were sent with. A pool has one, which has the regions of its allocations as parts.
 *
 * A request whose call is gone (deadline passed) is a zombie: its id and its region stay until the daemon has
 * answered or the connection is over, because only then is it certain that the daemon no longer touches
 * the region. A region with zombies is fenced.
 *
 * Threads. client->lock guards every field that does not say otherwise. It is never held over a call that
 * can block: sendmsg, recv and ppoll run without it, under a role that one thread at a time holds:
 *   sending   conn->sending: owns the front of the output queue (requests in state SENDING)
 *   reading   conn->reading: owns the free part of the stream's buffer
 * Under the lock only calls that return at once are made, on the paths that need them: connect to a Unix
 * socket without waiting, epoll_ctl, timerfd_settime, eventfd, shutdown, close.
 *
 * Waiting. A thread that waits registers a waiter. One of them, the leader, takes the reading role and polls
 * the socket for all; the others sleep on their condition variable. Who gives up the role wakes another. */
#ifndef KVCC_OBJECTS_H
#define KVCC_OBJECTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

#include "client/arena.h"
#include "client/fail.h"
#include "client/list.h"
#include "client/stream.h"
#include "client/wire.h"
#include "kvcellar.h"
#include "proto/frame.h"

#define KVCC_NS_PER_MS        1000000ull
#define KVCC_GRACE_NS         (250 * KVCC_NS_PER_MS) /* for the daemon's own DEADLINE to arrive */
#define KVCC_BATCH_DEFAULT    1024u                  /* until the daemon has announced its limits */
#define KVCC_INFLIGHT_DEFAULT 256u
#define KVCC_INFLIGHT_MIN     4u    /* hello, open, attach and a request: with fewer it cannot reconnect */
#define KVCC_SLOTS            4096u /* most requests on the wire, whatever the daemon allows */
#define KVCC_SLOTS_RESERVED   8u    /* of those allowed, kept for hello, open, attach, close, detach */
#define KVCC_UNTAKEN_MAX      (2u * KVCC_SLOTS)    /* async calls pending or not yet taken by next */
#define KVCC_OUTPUT_BYTES_MAX (4u * 1024u * 1024u) /* queued for a socket that does not take them */
#define KVCC_NEVER            UINT64_MAX

/* ---- calls --------------------------------------------------------------------------------- */

/* IDLE -> PENDING -> DONE -> IDLE */
enum kvcc_call_state { KVCC_CALL_IDLE, KVCC_CALL_PENDING, KVCC_CALL_DONE };

struct kvcc_waiter {
	struct kvcc_node node; /* in client->waiters or client->takers while it waits */
	pthread_cond_t wake;
	bool woken;
};

/* Where the answer goes: the caller's memory, borrowed until the call is DONE. */
struct kvcc_answer {
	struct kvc_block *blocks; /* put, get: their statuses */
	size_t count;             /* blocks or keys */
	uint8_t *tiers;           /* lookup, may be NULL */
	uint8_t *data;            /* inline get */
};

struct kvcc_call {
	enum kvcc_call_state state;
	kvc_status status;            /* once DONE */
	uint64_t expire_ns;           /* when the client gives up */
	uint32_t deadline_ms;         /* for the error text */
	struct kvcc_waiter *waiter;   /* of the sync caller; NULL: async */
	struct kvcc_request *request; /* while PENDING */
	struct kvcc_node node;        /* async: in client->completions, or in the pool */
	void *tag;
	struct kvcc_answer to;
	size_t payload_block; /* inline get: where the payload stands, a block and */
	uint64_t payload_at;  /* a byte of it */
	size_t prefix;
	struct kvc_outcome outcome;
	struct kvcc_stats_reply stats;
	char detail[KVCC_DETAIL_BYTES]; /* once DONE and not KVC_OK */
};

/* ---- requests ------------------------------------------------------------------------------ */

/* FREE -> DRAFT -> QUEUED <-> SENDING -> SENT -> FREE
 *           |         |         |         `-> QUEUED (a late put becomes a drop)
 *           |         |         `-> FREE (connection over)
 *           `-> FREE  `-> FREE  (expired unsent, connection over) */
enum kvcc_request_state {
	KVCC_REQUEST_FREE,    /* in client->spare */
	KVCC_REQUEST_DRAFT,   /* being encoded by its caller, without the lock */
	KVCC_REQUEST_QUEUED,  /* in conn->output, no byte sent */
	KVCC_REQUEST_SENDING, /* in conn->output, given to sendmsg or sent in part */
	KVCC_REQUEST_SENT,    /* waiting for the daemon */
};

/* What a request means to its region: nothing, its call is pending (or it is a draft), its call is gone but
 * it may still touch the memory. */
enum kvcc_hold { KVCC_HOLD_NONE, KVCC_HOLD_USER, KVCC_HOLD_FENCE, KVCC_HOLD_COUNT };

struct kvcc_request {
	enum kvcc_request_state state;
	uint16_t slot;
	uint16_t verb;
	uint64_t id;
	struct kvcc_call *call; /* NULL: the library's own, or a zombie */
	struct kvc_namespace *ns;
	struct kvcc_region *region;
	enum kvcc_hold hold; /* as counted in region */
	unsigned tries;      /* of a late put's drop */
	bool images;         /* put, get: the blocks are images */
	size_t count;        /* blocks or keys */
	struct kvcc_buffer frame;
	uint64_t payload_bytes; /* behind the body, in the frame */
	size_t sent;            /* of the frame */
	struct kvcc_node node;  /* in conn->output or client->spare */
};

/* ---- connection ---------------------------------------------------------------------------- */

/* HELLO: hello is sent, requests may follow without waiting. READY: hello is answered. */
enum kvcc_conn_state { KVCC_CONN_HELLO, KVCC_CONN_READY, KVCC_CONN_CLOSED };

struct kvcc_conn {
	enum kvcc_conn_state state;
	int fd;
	uint64_t serial; /* of this client's connections, from 1 */
	unsigned users;  /* threads in a system call on fd or in its stream: freed by the last when CLOSED */
	bool sending;
	bool reading;
	bool blocked;          /* the socket took less than was queued: wait for POLLOUT */
	uint32_t epoll_events; /* as registered with client->epoll_fd, 0: not */
	struct kvcc_node output;
	size_t output_bytes;
	struct kvcc_stream stream;
	struct kvcc_request *receiving; /* whose payload arrives */
	bool awaited;          /* given up by this side, while the daemon may have device memory of it */
	struct kvcc_node node; /* then in client->endings, from its end to the daemon's */
};

/* ---- what is set up again after a reconnect ------------------------------------------------ */

/* Why the daemon refused to set something up; what depends on it fails with this. */
struct kvcc_refusal {
	kvc_status status; /* KVC_OK: none */
	char detail[KVCC_DETAIL_BYTES];
};

enum kvcc_region_kind { KVCC_REGION_MEMORY, KVCC_REGION_DEVICE, KVCC_REGION_POOL };

/* Regions of a pool that is being destroyed. */
struct kvcc_gone {
	size_t left;
	struct kvcc_waiter *waiter;
};

struct kvcc_region {
	uint32_t id;
	enum kvcc_region_kind kind;
	unsigned refs;
	int fd;        /* memory */
	bool imported; /* its pages may outlive the client, and be used again */
	uint64_t bytes;
	int *fds; /* device: chunks */
	unsigned fd_count;
	struct kvcc_buffer frame;   /* device, pool: what sets it up, for every connection */
	struct kvcc_region **parts; /* pool: a reference to each */
	size_t part_count;
	struct kvc_namespace *ns;        /* pool: a reference */
	uint64_t serial;                 /* connection it is attached on; 0: none */
	unsigned holds[KVCC_HOLD_COUNT]; /* its requests */
	bool lost;             /* the connection ended in a way that leaves it open whether it is touched */
	uint64_t lost_serial;  /* device, pool: the same, until that connection, an ending, is over; 0: no */
	bool retired;          /* no memory uses it: detach it when that can be sent */
	struct kvcc_node node; /* in client->regions */
	struct kvcc_refusal refusal;
	struct kvcc_waiter *waiter; /* of kvc_memory_destroy, kvc_pool_destroy */
	bool detached;              /* device, pool: a detach was sent; gone when it is answered */
	struct kvcc_gone *gone;
};

struct kvc_memory {
	struct kvc_client *client;
	struct kvcc_node node; /* in client->memories */
	struct kvcc_region *region;
	void *data;
	uint64_t bytes;
};

/* As in kvc_namespace_options. */
struct kvcc_shape {
	uint32_t layers;
	uint32_t heads;
	uint32_t dims[2]; /* key, value */
	uint32_t element;
	uint32_t element_bytes;
};

struct kvc_namespace {
	struct kvc_client *client;
	struct kvcc_node node; /* in client->namespaces */
	uint32_t id;
	unsigned refs;                 /* the owner and each request */
	uint64_t serial;               /* connection it is open on; 0: none */
	bool retired;                  /* no owner: close it when that can be sent */
	struct kvcc_buffer open_frame; /* as sent, for the next connection */
	bool prefetch;                 /* of its look-ups */
	struct kvcc_shape shape;
	uint64_t token_bytes; /* of one token as it comes, K and V of all layers */
	uint32_t block_tokens;
	_Atomic uint64_t raw_bytes; /* read without the lock, relaxed: nothing follows from them */
	_Atomic uint64_t image_bytes;
	struct kvcc_refusal refusal;
};

/* ---- client -------------------------------------------------------------------------------- */

struct kvc_client {
	/* Never changed after creation. */
	pid_t pid;
	struct sockaddr_un address;
	char name[65];
	uint32_t deadline_ms;
	int wake_fd; /* eventfd in the leader's poll set */

	pthread_mutex_t lock;
	pthread_cond_t sent;    /* no sendmsg runs; nobody is in ppoll on a connection that is over */
	struct kvcc_conn *conn; /* NULL: not connected */
	struct kvcc_node endings;
	uint64_t connects;
	struct kvc_daemon_info info;
	struct kvcc_limits limits;

	struct kvcc_request *slots[KVCC_SLOTS];
	unsigned slot_count; /* objects made */
	unsigned in_flight;  /* not FREE */
	uint64_t id_serial;
	struct kvcc_node spare;

	uint32_t next_id; /* of namespaces and regions */
	struct kvcc_node namespaces;
	struct kvcc_node memories;
	struct kvcc_node pools;
	struct kvcc_node regions;
	bool chores; /* something is retired and the daemon may not know */

	struct kvcc_node waiters;   /* of sync calls and of destroy */
	struct kvcc_node takers;    /* of kvc_client_next */
	struct kvcc_waiter *poller; /* whose thread is in ppoll */

	struct kvcc_node completions; /* async calls that are DONE, oldest first */
	struct kvcc_node call_pool;
	unsigned async_calls; /* not IDLE */
	uint64_t earliest_ns; /* no async call expires before it */

	/* Made by the first kvc_client_fd; -1 before. */
	int epoll_fd;
	int timer_fd;
	int event_fd;
	uint64_t timer_ns; /* as armed, KVCC_NEVER: not */
	bool event_set;

	struct kvcc_arena arena;
};

#endif
