/* Verbs on keys alone: answered in the same turn. Nothing here allocates: keys are derived into the server's
 * buffer, the reply is encoded in place. */
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/rpc/session.h"

/* A parsed request with its keys derived. */
struct keys {
	const struct kvc_storage_key *keys;
	uint32_t count;
	bool prefetch;
};

static kvc_status keys_parse(struct kvc_session *session, struct kvc_body body, struct keys *keys,
                             struct kvc_problem *problem)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_keys_request request;
	struct kvc_session_ns *ns;
	kvc_status status = kvc_parse_keys(rpc->convert, body, &session->limits, &request, problem);

	if (status != KVC_OK)
		return status;
	ns = kvc_session_ns_find(session, request.ns);
	if (!ns)
		return kvc_problem_set(problem, KVC_UNKNOWN_ID, "namespace: %u is not open", request.ns);
	for (uint32_t i = 0; i < request.count; i++) {
		struct kvc_bytes key = kvc_keys_at(&request, i);

		kvc_ns_key(ns->ns, key.data, key.bytes, &rpc->keys[i]);
	}
	*keys = (struct keys){rpc->keys, request.count, request.prefetch};
	return KVC_OK;
}

static void reply_keys(struct kvc_session *session, const struct kvc_frame *frame,
                       const struct kvc_keys_reply *keys)
{
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};
	uint8_t *room = kvc_session_reply_room(session, kvc_pack_keys_max(keys->count));

	if (!room)
		return;
	reply.body_bytes = kvc_pack_keys(keys, room);
	kvc_session_reply(session, &reply);
}

void kvc_verb_lookup(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_problem problem;
	struct kvc_keys_reply reply;
	struct keys keys;
	kvc_status status = keys_parse(session, body, &keys, &problem);

	if (status != KVC_OK) {
		kvc_session_refuse(session, frame, status, &problem);
		return;
	}
	reply.prefix = kvc_cache_lookup(rpc->cache, keys.keys, keys.count, rpc->rest);
	reply.count = keys.count;
	reply.tiers = rpc->rest;
	if (keys.prefetch)
		(void)kvc_cache_read_ahead(rpc->cache, keys.keys, reply.prefix);
	reply_keys(session, frame, &reply);
}

/* The verbs that only count. */
typedef kvc_status (*keys_action)(struct kvc_session *session, const struct keys *keys, uint32_t *done,
                                  struct kvc_problem *problem);

static void act(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body,
                keys_action action)
{
	struct kvc_keys_reply reply = {0};
	struct kvc_problem problem;
	struct keys keys;
	kvc_status status = keys_parse(session, body, &keys, &problem);

	if (status == KVC_OK)
		status = action(session, &keys, &reply.prefix, &problem);
	if (status == KVC_OK)
		reply_keys(session, frame, &reply);
	else
		kvc_session_refuse(session, frame, status, &problem);
}

static kvc_status prefetch(struct kvc_session *session, const struct keys *keys, uint32_t *done,
                           struct kvc_problem *problem)
{
	(void)problem;
	*done = kvc_cache_prefetch(session->rpc->cache, keys->keys, keys->count);
	return KVC_OK;
}

static kvc_status drop(struct kvc_session *session, const struct keys *keys, uint32_t *done,
                       struct kvc_problem *problem)
{
	(void)problem;
	*done = kvc_cache_drop(session->rpc->cache, keys->keys, keys->count);
	return KVC_OK;
}

static kvc_status pin(struct kvc_session *session, const struct keys *keys, uint32_t *done,
                      struct kvc_problem *problem)
{
	kvc_status status = KVC_OK;

	if (!session->lease)
		status = kvc_lease_open(session->rpc->cache, session->limits.pins, &session->lease);
	if (status == KVC_OK)
		status = kvc_lease_pin(session->lease, keys->keys, keys->count, done);
	if (status != KVC_OK)
		kvc_problem_set(problem, status, "blocks cannot be pinned: %s (at most %u of one connection)",
		                kvc_status_text(status), session->limits.pins);
	return status;
}

static kvc_status unpin(struct kvc_session *session, const struct keys *keys, uint32_t *done,
                        struct kvc_problem *problem)
{
	(void)problem;
	*done = session->lease ? kvc_lease_unpin(session->lease, keys->keys, keys->count) : 0;
	return KVC_OK;
}

void kvc_verb_prefetch(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	act(session, frame, body, prefetch);
}

void kvc_verb_pin(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	act(session, frame, body, pin);
}

void kvc_verb_unpin(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	act(session, frame, body, unpin);
}

void kvc_verb_drop(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	act(session, frame, body, drop);
}
