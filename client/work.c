/* From a request to be made to one on its way: the path that every verb takes, sync or async. */
#include <stdio.h>
#include <string.h>

#include "client/internal.h"

uint64_t kvcc_deadline(const struct kvc_client *client, uint32_t deadline_ms)
{
	return kvcc_now_ns() + (deadline_ms ? deadline_ms : client->deadline_ms) * KVCC_NS_PER_MS;
}

static kvc_status too_late(struct kvc_client *client, const struct kvcc_work *work)
{
	return kvcc_fail(KVC_DEADLINE, "no time left to send %s: its deadline is %u ms",
	                 kvc_verb_name(work->verb),
	                 work->deadline_ms ? work->deadline_ms : client->deadline_ms);
}

/* (L) A slot for the work, and what its encoder must know. */
static kvc_status draft(struct kvc_client *client, struct kvcc_work *work, struct kvcc_request **request)
{
	const struct kvcc_limits *limits = &client->limits;
	uint64_t now = kvcc_now_ns();
	uint64_t left_ms;
	kvc_status status;

	if (work->deadline_ns <= now)
		return too_late(client, work);
	if (work->count > limits->batch)
		return kvcc_fail(KVC_LIMIT, "%zu blocks or keys in one request, the daemon takes %u",
		                 work->count, limits->batch);
	status = kvcc_request_new(client, work->verb, false, request);
	if (status != KVC_OK)
		return status;
	kvcc_request_bind(*request, work->ns, work->memory ? work->memory->region : work->region);
	(*request)->count = work->count;
	left_ms = (work->deadline_ns - now + KVCC_NS_PER_MS - 1) / KVCC_NS_PER_MS;
	if (limits->deadline_ms_max && left_ms > limits->deadline_ms_max)
		left_ms = limits->deadline_ms_max;
	work->wire_deadline_ms = left_ms < UINT32_MAX ? (uint32_t)left_ms : UINT32_MAX;
	return KVC_OK;
}

static kvc_status encode(const struct kvcc_work *work, struct kvcc_request *request)
{
	struct kvcc_buffer *frame = &request->frame;
	kvc_status status = work->encode(work, request);

	if (status == KVC_LIMIT)
		return kvcc_fail(status, "%s of %zu blocks or keys does not fit a frame of 64 KiB: use fewer",
		                 kvc_verb_name(work->verb), work->count);
	if (status != KVC_OK && status != KVC_NO_MEMORY)
		return status;
	if (status == KVC_OK && work->payload_bytes > 0)
		status = kvcc_buffer_reserve(frame, frame->length + work->payload_bytes);
	if (status != KVC_OK)
		return kvcc_fail(status, "no memory for a request");
	if (work->payload_bytes > 0)
		memcpy(frame->bytes + frame->length, work->payload, work->payload_bytes);
	frame->length += work->payload_bytes;
	request->payload_bytes = work->payload_bytes;
	return KVC_OK;
}

/* (L) (U) On KVC_OK the call is PENDING, or has ended already. */
static kvc_status place(struct kvc_client *client, const struct kvcc_work *given, struct kvcc_call *call)
{
	struct kvcc_work work = *given;
	struct kvcc_request *request;
	kvc_status status = draft(client, &work, &request);

	if (status != KVC_OK)
		return status;
	(void)pthread_mutex_unlock(&client->lock);
	status = encode(&work, request);
	(void)pthread_mutex_lock(&client->lock);
	if (status == KVC_OK) {
		kvcc_conn_refresh(client, request);
		status = kvcc_conn_post(client, request);
	}
	if (status != KVC_OK) {
		kvcc_request_free(client, request);
		return status;
	}
	call->deadline_ms = work.deadline_ms ? work.deadline_ms : client->deadline_ms;
	call->expire_ns = work.deadline_ns + work.grace_ns;
	kvcc_call_begin(client, call, request);
	kvcc_flush(client);
	return KVC_OK;
}

kvc_status kvcc_submit(struct kvc_client *client, const struct kvcc_work *work, const struct kvcc_answer *to,
                       void *tag)
{
	struct kvcc_call *call;
	kvc_status status = kvcc_enter(client);

	if (status != KVC_OK)
		return status;
	status = kvcc_call_take_async(client, &call);
	if (status == KVC_OK) {
		call->to = *to;
		call->tag = tag;
		status = place(client, work, call);
		if (status != KVC_OK)
			kvcc_call_give_async(client, call);
	}
	kvcc_leave(client);
	return status;
}

/* (L) (U) */
static kvc_status finish(struct kvc_client *client, struct kvcc_call *call)
{
	kvcc_wait(client, &client->waiters, call->waiter, call->expire_ns);
	if (call->state == KVCC_CALL_PENDING)
		kvcc_call_expire(client, call);
	return call->status;
}

kvc_status kvcc_run(struct kvc_client *client, const struct kvcc_work *work, struct kvcc_call *call)
{
	struct kvcc_waiter waiter;
	kvc_status status = kvcc_enter(client);

	if (status != KVC_OK)
		return status;
	kvcc_waiter_init(&waiter);
	call->state = KVCC_CALL_IDLE;
	call->waiter = &waiter;
	call->payload_block = 0;
	call->payload_at = 0;
	status = place(client, work, call);
	if (status == KVC_OK)
		status = finish(client, call);
	else
		(void)snprintf(call->detail, sizeof(call->detail), "%s", kvc_last_error());
	kvcc_leave(client);
	kvcc_waiter_destroy(&waiter);
	return status == KVC_OK ? KVC_OK : kvcc_fail(status, "%s", call->detail);
}

static kvc_status encode_empty(const struct kvcc_work *work, struct kvcc_request *request)
{
	(void)work;
	return kvcc_wire_empty(&request->frame);
}

kvc_status kvcc_run_empty(struct kvc_client *client, uint16_t verb, uint32_t deadline_ms,
                          struct kvcc_call *call)
{
	struct kvcc_work work = {
	        .verb = verb,
	        .deadline_ms = deadline_ms,
	        .deadline_ns = kvcc_deadline(client, deadline_ms),
	        .encode = encode_empty,
	};

	return kvcc_run(client, &work, call);
}
