/* Which handler a verb has and what it demands; and the verbs that need nothing but the session. */
#include "daemon/base/check.h"
#include "daemon/rpc/device.h"
#include "daemon/rpc/request.h"
#include "daemon/rpc/session.h"

struct verb {
	void (*run)(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
	bool descriptor; /* some may come with it */
	bool payload;    /* one may come with it */
};

/* ---- hello, ping, stats -------------------------------------------------------------------- */

static void verb_hello(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_hello_reply hello = {rpc->boot_id, rpc->version, &session->limits, rpc->gpu_count > 0};
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};
	struct kvc_hello_request request;
	struct kvc_problem problem;
	kvc_status status;
	uint8_t *room;

	status = kvc_parse_hello(rpc->convert, body, &request, &problem);
	if (status == KVC_OK &&
	    (request.protocol_min > KVC_PROTOCOL_VERSION || request.protocol_max < KVC_PROTOCOL_VERSION))
		status = kvc_problem_set(&problem, KVC_VERSION,
		                         "the client speaks protocol versions %u to %u, this daemon (%s) %u",
		                         request.protocol_min, request.protocol_max, rpc->version,
		                         KVC_PROTOCOL_VERSION);
	if (status != KVC_OK) {
		kvc_session_refuse(session, frame, status, &problem);
		kvc_session_end(session);
		return;
	}
	room = kvc_session_reply_room(session, KVC_PACK_HELLO_MAX);
	if (!room)
		return;
	session->limits = rpc->limits;
	reply.body_bytes = kvc_pack_hello(&hello, room);
	kvc_session_reply(session, &reply);
	kvc_session_move(session, KVC_SESSION_READY);
	kvc_debug("connection %llu is '%s'", (unsigned long long)session->number, request.client);
}

static void verb_ping(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};
	struct kvc_problem problem;
	kvc_status status = kvc_parse_empty(session->rpc->convert, body, &problem);

	if (status != KVC_OK)
		kvc_session_refuse(session, frame, status, &problem);
	else if (kvc_session_reply_room(session, 0))
		kvc_session_reply(session, &reply);
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct verb verbs[KVC_VERB_COUNT] = {
        [KVC_VERB_HELLO] = {verb_hello, false, false},
        [KVC_VERB_PING] = {verb_ping, false, false},
        [KVC_VERB_OPEN] = {kvc_verb_open, false, false},
        [KVC_VERB_CLOSE] = {kvc_verb_close, false, false},
        [KVC_VERB_ATTACH] = {kvc_verb_attach, true, false},
        [KVC_VERB_DETACH] = {kvc_verb_detach, false, false},
        [KVC_VERB_PUT] = {kvc_verb_put, false, true},
        [KVC_VERB_GET] = {kvc_verb_get, false, false},
        [KVC_VERB_LOOKUP] = {kvc_verb_lookup, false, false},
        [KVC_VERB_PREFETCH] = {kvc_verb_prefetch, false, false},
        [KVC_VERB_PIN] = {kvc_verb_pin, false, false},
        [KVC_VERB_UNPIN] = {kvc_verb_unpin, false, false},
        [KVC_VERB_DROP] = {kvc_verb_drop, false, false},
        [KVC_VERB_STATS] = {kvc_verb_stats, false, false},
        [KVC_VERB_POOL] = {kvc_verb_pool, true, false},
        [KVC_VERB_DROP_TENANT] = {kvc_verb_drop_tenant, false, false},
};

/* ---- what holds for all -------------------------------------------------------------------- */

/* Whether the request may be handled in this state at all. */
static kvc_status order_check(const struct kvc_session *session, const struct kvc_frame *frame,
                              struct kvc_problem *problem)
{
	bool hello = frame->verb == KVC_VERB_HELLO;

	if (session->state == KVC_SESSION_HELLO && !hello)
		return kvc_problem_set(problem, KVC_BAD_MESSAGE, "%s before hello",
		                       kvc_verb_name(frame->verb));
	if (session->state == KVC_SESSION_READY && hello)
		return kvc_problem_set(problem, KVC_BAD_MESSAGE, "a second hello");
	if (session->rpc->state == KVC_RPC_STOPPING)
		return kvc_problem_set(problem, KVC_SHUTDOWN, "the daemon is stopping");
	return KVC_OK;
}

static kvc_status extras_check(const struct kvc_session *session, const struct kvc_frame *frame,
                               struct kvc_problem *problem)
{
	const struct verb *verb = &verbs[frame->verb];
	uint64_t limit = session->limits.inline_bytes;

	if (frame->payload_bytes > limit)
		return kvc_problem_set(problem, KVC_LIMIT,
		                       "payload: %llu bytes, expected at most %llu (limits.inline_bytes)",
		                       (unsigned long long)frame->payload_bytes, (unsigned long long)limit);
	if (frame->payload_bytes && !verb->payload)
		return kvc_problem_set(problem, KVC_BAD_MESSAGE, "%s has no payload",
		                       kvc_verb_name(frame->verb));
	if (frame->flags & KVC_FRAME_FD && !verb->descriptor)
		return kvc_problem_set(problem, KVC_BAD_MESSAGE, "%s comes without a descriptor",
		                       kvc_verb_name(frame->verb));
	return KVC_OK;
}

/* A payload that is too long is not waited for, and what comes before hello is no client of ours. */
static bool refusal_ends(const struct kvc_session *session, const struct kvc_frame *frame)
{
	return session->state == KVC_SESSION_HELLO || frame->payload_bytes > session->limits.inline_bytes;
}

static void frame_run(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_problem problem;
	kvc_status status = order_check(session, frame, &problem);

	kvc_stat_add(session->rpc->cells.requests[frame->verb], 1);
	if (status == KVC_OK)
		status = extras_check(session, frame, &problem);
	if (status == KVC_OK) {
		verbs[frame->verb].run(session, frame, body);
		return;
	}
	kvc_session_refuse(session, frame, status, &problem);
	if (refusal_ends(session, frame))
		kvc_session_end(session);
}

void kvc_session_frame(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	bool announced = frame->flags & KVC_FRAME_FD;

	if (announced && session->fd_count == 0) {
		kvc_session_drop(session, KVC_DROP_DESCRIPTOR,
		                 "a frame that announces a descriptor without one");
		return;
	}
	frame_run(session, frame, body);
	if (announced && session->fd_count)
		kvc_session_fd_done(session);
	if (kvc_session_is_open(session) && !session->filling)
		session->skip_bytes = frame->payload_bytes;
}
