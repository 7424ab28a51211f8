/* What the parts of the client library offer each other. The objects, and who may do what with them, are in
 * objects.h. */
#ifndef KVCC_INTERNAL_H
#define KVCC_INTERNAL_H

#include <time.h>

#include "client/alloc.h"
#include "client/fail.h"
#include "client/objects.h"

static inline uint64_t kvcc_now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

/* Functions marked (L) need the lock; (U) let go of it meanwhile. */

/* client.c */

/* Lock, or KVC_INVALID in a process forked from the client's. */
kvc_status kvcc_enter(struct kvc_client *client);
/* (U) Do what was put off, hand leadership on, bring the event descriptor up to date, unlock. */
void kvcc_leave(struct kvc_client *client);
/* The daemon's limits; takes the lock. connect: those of a daemon that has said them. */
kvc_status kvcc_limits_get(struct kvc_client *client, bool connect, uint32_t deadline_ms,
                           struct kvcc_limits *limits);

/* request.c (L) */

/* A slot in state DRAFT. own: the library's, may use the reserved slots. KVC_BUSY, KVC_NO_MEMORY. */
kvc_status kvcc_request_new(struct kvc_client *client, uint16_t verb, bool own,
                            struct kvcc_request **request);
void kvcc_request_bind(struct kvcc_request *request, struct kvc_namespace *ns, struct kvcc_region *region);
void kvcc_request_renumber(struct kvc_client *client, struct kvcc_request *request);
/* Give the slot back. Its call must be gone. */
void kvcc_request_free(struct kvc_client *client, struct kvcc_request *request);
/* Whether the daemon may have it, and has not answered. */
static inline bool kvcc_request_on_wire(const struct kvcc_request *request)
{
	return request->state == KVCC_REQUEST_SENDING || request->state == KVCC_REQUEST_SENT;
}
struct kvcc_request *kvcc_request_find(struct kvc_client *client, uint64_t id);
void kvcc_request_move(struct kvcc_request *request, enum kvcc_request_state to);
void kvcc_request_hold(struct kvc_client *client, struct kvcc_request *request, enum kvcc_hold hold);

/* call.c (L) */

void kvcc_call_begin(struct kvc_client *client, struct kvcc_call *call, struct kvcc_request *request);
/* The one end of every call; text is copied. If its request is on the wire, that becomes a zombie. */
void kvcc_call_end(struct kvc_client *client, struct kvcc_call *call, kvc_status status, const char *text);
/* Give up waiting for the answer. */
void kvcc_call_expire(struct kvc_client *client, struct kvcc_call *call);
void kvcc_calls_expire(struct kvc_client *client, uint64_t now_ns);
kvc_status kvcc_call_take_async(struct kvc_client *client, struct kvcc_call **call);
void kvcc_call_give_async(struct kvc_client *client, struct kvcc_call *call);

/* conn.c (L) */

/* (U) If the request's memory is fenced, the reason may have passed while nobody listened: take in what the
 * daemon has said since, or that it is gone. */
void kvcc_conn_refresh(struct kvc_client *client, const struct kvcc_request *request);
/* Queue an encoded draft behind what it depends on, connecting if need be. On failure it stays a draft. */
kvc_status kvcc_conn_post(struct kvc_client *client, struct kvcc_request *request);
/* Whether descriptors travel with it. */
static inline bool kvcc_request_passes(const struct kvcc_request *request)
{
	return (request->verb == KVC_VERB_ATTACH || request->verb == KVC_VERB_POOL) &&
	       (request->region->kind == KVCC_REGION_MEMORY || request->region->fd_count > 0);
}
/* Put an encoded request into the output queue of the connection there is. */
void kvcc_conn_queue(struct kvc_client *client, struct kvcc_request *request);
void kvcc_conn_ready(struct kvc_client *client, const struct kvcc_hello_reply *hello);
/* (U) The connection is over: what was sent fails with status and text, what was not goes to a new one. */
void kvcc_conn_lost(struct kvc_client *client, kvc_status status, const char *text);
/* (U) The same when it is the client that ends it: the daemon may still be at work, so regions in use stay
 * fenced. */
void kvcc_conn_abandon(struct kvc_client *client, kvc_status status, const char *text);
/* (U) That because the daemon broke the protocol. */
void kvcc_conn_broken(struct kvc_client *client, const char *why);
/* A thread is done with it: frees it if it is over and nobody else is at it. */
void kvcc_conn_release(struct kvcc_conn *conn);
void kvcc_conn_free(struct kvcc_conn *conn);
/* Close and detach what is retired. */
void kvcc_chores(struct kvc_client *client);

/* transport.c (L) (U) */

/* Send what is queued, until the socket takes no more. */
void kvcc_flush(struct kvc_client *client);
/* Receive once and process the replies; with a waiter, first poll until there is something to do for it.
 * Nobody else may be reading. */
void kvcc_receive(struct kvc_client *client, struct kvcc_waiter *waiter, uint64_t until_ns);
/* Without the lock, when no other thread uses the connection: say that nothing more comes, and wait until the
 * daemon has closed its end. */
void kvcc_conn_await_end(const struct kvcc_conn *conn, uint64_t until_ns);

/* reply.c (L) (U) */

void kvcc_reply_frame(struct kvc_client *client, struct kvcc_conn *conn, const uint8_t *body, size_t bytes);
void kvcc_reply_chunk(struct kvc_client *client, struct kvcc_conn *conn, const uint8_t *bytes, size_t length);

/* wait.c (L) */

void kvcc_waiter_init(struct kvcc_waiter *waiter);
void kvcc_waiter_destroy(struct kvcc_waiter *waiter);
/* (U) Until the waiter is woken or the time has come; drives the connection if nobody else does. */
void kvcc_wait(struct kvc_client *client, struct kvcc_node *list, struct kvcc_waiter *waiter,
               uint64_t until_ns);
void kvcc_wake(struct kvc_client *client, struct kvcc_waiter *waiter);
void kvcc_wake_takers(struct kvc_client *client);
/* If nobody reads though somebody waits, wake one who will. */
void kvcc_hand_on(struct kvc_client *client);
/* Make the leader look again at what it polls for. */
void kvcc_kick(struct kvc_client *client);

/* events.c (L) */

void kvcc_events_remove(struct kvc_client *client, struct kvcc_conn *conn);
void kvcc_events_update(struct kvc_client *client);

/* work.c: takes the lock itself */

/* A request to be made. */
struct kvcc_work {
	uint16_t verb;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	struct kvcc_region *region; /* of a pool; NULL: the memory's */
	size_t count;               /* blocks or keys */
	uint32_t deadline_ms;       /* of the whole call, as given */
	uint64_t deadline_ns;       /* when that is: kvcc_deadline */
	uint64_t grace_ns;          /* that the daemon's answer may take longer */
	/* Fills request->frame, without the lock. KVC_LIMIT, KVC_NO_MEMORY; any other failure has its text.
	 */
	kvc_status (*encode)(const struct kvcc_work *work, struct kvcc_request *request);
	const void *what; /* encode's */
	const void *payload;
	uint64_t payload_bytes;
	uint32_t wire_deadline_ms; /* what is left of the deadline, set before encode */
};

uint64_t kvcc_deadline(const struct kvc_client *client, uint32_t deadline_ms);
/* Start it: its answer goes to `to`, its completion to kvc_client_next. */
kvc_status kvcc_submit(struct kvc_client *client, const struct kvcc_work *work, const struct kvcc_answer *to,
                       void *tag);
/* Start it and wait. call->to is set by the caller. */
kvc_status kvcc_run(struct kvc_client *client, const struct kvcc_work *work, struct kvcc_call *call);
/* A request without a body. */
kvc_status kvcc_run_empty(struct kvc_client *client, uint16_t verb, uint32_t deadline_ms,
                          struct kvcc_call *call);

/* memory.c: shared memory, sealed against a change of its size. *fd is the caller's. */
kvc_status kvcc_memfd_make(uint64_t bytes, int *fd);

/* memory.c, namespace.c (L) */

void kvcc_region_ref(struct kvcc_region *region);
void kvcc_region_unref(struct kvc_client *client, struct kvcc_region *region);
/* (U) Until no call uses it. */
void kvcc_region_wait_unused(struct kvc_client *client, struct kvcc_region *region);
void kvcc_region_free(struct kvcc_region *region);
void kvcc_memory_free(struct kvc_memory *memory);
void kvcc_namespace_unref(struct kvc_client *client, struct kvc_namespace *ns);
void kvcc_namespace_free(struct kvc_namespace *ns);

#endif
