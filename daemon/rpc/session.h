/* One connection.
 *
 *            hello answered            refused, or server stops
 *   HELLO ------------------> READY -----------------------------> ENDING
 *     |                         |                                    |
 *     |   hang-up, violation,   |                                    | last reply sent
 *     +------- time-out --------+------------------------------------+
 *                                                                    v
 *                                                                 DRAINING ----------------> CLOSED
 *                                                                           no operation
 *                                                                           is left
 *
 * HELLO, READY: frames are read. ENDING: nothing is read; what runs is still answered. DRAINING: nothing is
 * sent either; operations are cancelled and waited for, and then the client's memory is unmapped, here and in
 * the GPU engines, and only then is the socket closed: a client takes the end of the connection as the
 * promise that nobody writes its memory any more.
 *
 * A session owns its descriptor, its buffers, its open namespaces, attached regions, lease and requests. Its
 * files: session.c (life), input.c (bytes to frames), dispatch.c (frames to verbs), request.c (puts and
 * gets), objects.c (namespaces and regions), device.c (device memory). Loop thread only. */
#ifndef KVC_RPC_SESSION_H
#define KVC_RPC_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/base/list.h"
#include "daemon/mem/region.h"
#include "daemon/rpc/convert.h"
#include "daemon/rpc/output.h"
#include "daemon/rpc/server.h"
#include "proto/frame.h"

/* Frames whose descriptors can wait: one that is not complete, and one that came with its end. */
#define KVC_SESSION_FDS 2u

/* Descriptors that came together. */
struct kvc_fds {
	uint32_t count;
	int fds[];
};

enum kvc_session_state {
	KVC_SESSION_HELLO,
	KVC_SESSION_READY,
	KVC_SESSION_ENDING,
	KVC_SESSION_DRAINING,
	KVC_SESSION_CLOSED,
};

/* How long something may go on without progress. due_ms 0: not running. */
struct kvc_pace {
	uint64_t due_ms;
	uint64_t bytes; /* since due_ms was set */
};

/* Bytes that came and were not yet handled, if they are no whole frame or the session may take no more. */
struct kvc_input {
	uint8_t *data;
	size_t used;
	size_t capacity;
};

/* An opened namespace; one reference of the session's, one of each request that uses it. */
struct kvc_session_ns {
	struct kvc_list node;
	struct kvc_ns *ns;
	uint32_t id;
	uint32_t refs;
};

struct kvc_session_region {
	struct kvc_list node;
	struct kvc_region *region;
	uint32_t id;
};

struct kvc_request;

struct kvc_session {
	struct kvc_list node;       /* in rpc->sessions */
	struct kvc_list paced_node; /* in rpc->paced while a pace runs */
	struct kvc_rpc *rpc;
	uint64_t number; /* for the log */
	uid_t uid;
	int fd;
	struct kvc_watch *watch;
	bool watch_read; /* what the watch is set to */
	bool watch_write;
	enum kvc_session_state state;
	struct kvc_task tick;
	struct kvc_rpc_limits limits; /* the server's, or more where hello announced more */

	/* input */
	struct kvc_input in;
	struct kvc_fds *fds[KVC_SESSION_FDS]; /* came with bytes not yet handled, oldest first */
	uint32_t fd_count;
	struct kvc_request *filling; /* put whose payload arrives */
	uint64_t skip_bytes;         /* payload of a refused request, still to come */
	struct kvc_pace in_pace;

	struct kvc_output out;
	struct kvc_pace out_pace;

	struct kvc_list requests; /* puts and gets that were not answered */
	struct kvc_list detaches; /* requests that wait until a region is unused */
	uint32_t inflight;        /* of both, and of attach, pool and detach of device memory */

	struct kvc_list namespaces;
	uint32_t namespace_count;
	struct kvc_list regions;
	struct kvc_list devices;
	uint32_t opening;      /* of devices: while there is one, no frame is taken */
	uint32_t region_count; /* of regions and devices */
	uint64_t region_bytes;
	uint64_t device_bytes;
	uint32_t chunks;         /* descriptors of them that are kept */
	struct kvc_lease *lease; /* NULL until something is pinned */
};

/* ---- session.c ----------------------------------------------------------------------------- */

/* Takes the descriptor on KVC_OK. */
kvc_status kvc_session_open(struct kvc_rpc *rpc, int fd, uid_t uid);

void kvc_session_move(struct kvc_session *session, enum kvc_session_state to);

/* End the connection at once for a violation: what runs is cancelled. Counted, logged. */
void kvc_session_drop(struct kvc_session *session, enum kvc_drop drop, const char *why);

/* The client went away. */
void kvc_session_hangup(struct kvc_session *session);

/* Read no more; close when all is answered and sent. */
void kvc_session_end(struct kvc_session *session);

/* Whether frames are still read. */
static inline bool kvc_session_is_open(const struct kvc_session *session)
{
	return session->state == KVC_SESSION_HELLO || session->state == KVC_SESSION_READY;
}

/* Whether replies still go anywhere. */
static inline bool kvc_session_can_answer(const struct kvc_session *session)
{
	return session->state <= KVC_SESSION_ENDING;
}

/* Something changed (a reply was queued, a request ended): look after the session later in this turn. */
void kvc_session_wake(struct kvc_session *session);

/* The server's limits have changed. What hello announced never shrinks: the client makes its requests by it,
 * and learns of another value by a new connection only. */
void kvc_session_limits_change(struct kvc_session *session);

/* A pace has run out since it was started. */
void kvc_session_sweep(struct kvc_session *session, uint64_t now_ms);
void kvc_session_paces_restart(struct kvc_session *session, uint64_t now_ms);

void kvc_session_pace_start(struct kvc_session *session, struct kvc_pace *pace);
void kvc_session_pace_progress(struct kvc_session *session, struct kvc_pace *pace, uint64_t bytes);
void kvc_session_pace_stop(struct kvc_session *session, struct kvc_pace *pace);

/* Room for a reply with a body of at most that many bytes, behind its header; NULL: no memory, the session
 * was dropped. */
uint8_t *kvc_session_reply_room(struct kvc_session *session, size_t body_bytes);

/* The reply that was written into the room. */
struct kvc_reply {
	uint16_t verb;
	uint64_t request_id;
	kvc_status status;
	size_t body_bytes;
	struct kvc_payload *payload; /* NULL, or taken */
};
void kvc_session_reply(struct kvc_session *session, const struct kvc_reply *reply);

/* Answer with a failure; counted. */
void kvc_session_refuse(struct kvc_session *session, const struct kvc_frame *frame, kvc_status status,
                        const struct kvc_problem *problem);

/* ---- input.c ------------------------------------------------------------------------------- */

/* Receive once and handle what is complete. */
void kvc_session_read(struct kvc_session *session);

/* Handle what was received before and could not be taken then. */
void kvc_session_resume(struct kvc_session *session);

/* Whether another request may be taken now. */
bool kvc_session_may_take(const struct kvc_session *session);

/* Whether received bytes can be used now. */
bool kvc_session_wants_input(const struct kvc_session *session);

void kvc_session_input_close(struct kvc_session *session);

/* Whether so many descriptors came with the frame that is handled. False: the session was dropped. */
bool kvc_session_fds_are(struct kvc_session *session, const struct kvc_frame *frame, uint32_t expected);

/* Close the oldest descriptors that wait. */
void kvc_session_fd_done(struct kvc_session *session);

/* ---- dispatch.c ---------------------------------------------------------------------------- */

/* A whole frame; its payload, if any, follows. The session may be dropped in it. */
void kvc_session_frame(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

/* ---- objects.c ----------------------------------------------------------------------------- */

struct kvc_session_ns *kvc_session_ns_find(struct kvc_session *session, uint32_t id);
void kvc_session_ns_unref(struct kvc_session_ns *ns);
struct kvc_session_region *kvc_session_region_find(struct kvc_session *session, uint32_t id);

/* Whether a region or pool has that id, in host or device memory. */
bool kvc_session_id_is_used(struct kvc_session *session, uint32_t id);

/* Take the region out of the session's table; the caller gets its reference. */
struct kvc_region *kvc_session_region_take(struct kvc_session *session, struct kvc_session_region *entry);

/* Release all: no request is left. */
void kvc_session_objects_close(struct kvc_session *session);

void kvc_verb_open(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_close(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_attach(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

/* ---- verbs_keys.c -------------------------------------------------------------------------- */

void kvc_verb_lookup(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_prefetch(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_pin(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_unpin(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_drop(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

/* ---- verbs_tenant.c ------------------------------------------------------------------------ */

void kvc_verb_stats(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_drop_tenant(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

#endif
