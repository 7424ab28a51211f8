/* What the daemon answers: checked against what was asked, then handed to who asked. Anything that does not
 * fit the protocol ends the connection: after it nothing the daemon says can be trusted. */
#include <stdio.h>
#include <string.h>

#include "client/internal.h"

#define DROP_TRIES 3u

/* ---- ends of requests ---------------------------------------------------------------------- */

/* Free the request; its call, if it still has one, is the caller's to end. */
static struct kvcc_call *answered(struct kvc_client *client, struct kvcc_request *request)
{
	struct kvcc_call *call = request->call;

	request->call = NULL;
	if (call)
		call->request = NULL;
	kvcc_request_free(client, request);
	return call;
}

/* Why the daemon does not know the region: it refused it, or a part of it. */
static const struct kvcc_refusal *region_cause(const struct kvcc_region *region)
{
	for (size_t i = 0; i < region->part_count; i++) {
		if (region->parts[i]->refusal.status != KVC_OK)
			return &region->parts[i]->refusal;
	}
	return region->refusal.status != KVC_OK ? &region->refusal : NULL;
}

/* A request that failed because something it depends on was refused fails with the refusal's cause. */
static const struct kvcc_refusal *cause_of(const struct kvcc_request *request, kvc_status status)
{
	if (status != KVC_UNKNOWN_ID)
		return NULL;
	if (request->region && region_cause(request->region))
		return region_cause(request->region);
	if (request->ns && request->ns->refusal.status != KVC_OK)
		return &request->ns->refusal;
	return NULL;
}

static void end_failed(struct kvc_client *client, struct kvcc_request *request, kvc_status status,
                       const char *text)
{
	const struct kvcc_refusal *cause = cause_of(request, status);
	struct kvcc_call *call;
	char copy[KVCC_DETAIL_BYTES];

	if (cause)
		status = cause->status;
	(void)snprintf(copy, sizeof(copy), "%s", cause ? cause->detail : text);
	call = answered(client, request);
	if (call)
		kvcc_call_end(client, call, status, copy);
}

static void end_ok(struct kvc_client *client, struct kvcc_request *request)
{
	struct kvcc_call *call = answered(client, request);

	if (call)
		kvcc_call_end(client, call, KVC_OK, "");
}

/* ---- set-up -------------------------------------------------------------------------------- */

static void refuse(struct kvcc_refusal *refusal, kvc_status status, const char *text)
{
	refusal->status = status;
	(void)snprintf(refusal->detail, sizeof(refusal->detail), "%s", text);
}

static void on_hello(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                     const char *text)
{
	char refused[KVCC_DETAIL_BYTES + 64];

	if (reply->status != KVC_OK) {
		(void)snprintf(refused, sizeof(refused), "the daemon refused the connection: %s", text);
		kvcc_conn_lost(client, reply->status, refused);
		return;
	}
	if (reply->hello.limits.inflight < KVCC_INFLIGHT_MIN) {
		(void)snprintf(refused, sizeof(refused),
		               "the daemon allows %u unanswered requests, expected at least %u: raise its "
		               "option inflight",
		               reply->hello.limits.inflight, KVCC_INFLIGHT_MIN);
		kvcc_conn_lost(client, KVC_UNSUPPORTED, refused);
		return;
	}
	kvcc_conn_ready(client, &reply->hello);
	end_ok(client, request);
}

static void on_open(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                    const char *text)
{
	struct kvc_namespace *ns = request->ns;

	refuse(&ns->refusal, reply->status, text);
	if (reply->status != KVC_OK) {
		ns->serial = 0;
		end_failed(client, request, reply->status, text);
		return;
	}
	atomic_store_explicit(&ns->raw_bytes, reply->open.raw_bytes, memory_order_relaxed);
	atomic_store_explicit(&ns->image_bytes, reply->open.image_bytes, memory_order_relaxed);
	end_ok(client, request);
}

static void on_attach(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                      const char *text)
{
	struct kvcc_region *region = request->region;

	refuse(&region->refusal, reply->status, text);
	if (reply->status != KVC_OK)
		region->serial = 0;
	end_ok(client, request);
}

/* The answer to kvc_pool_register, or to the library's own setting up after a reconnect. */
static void on_pool(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                    const char *text)
{
	struct kvcc_region *region = request->region;
	const struct kvcc_refusal *cause;

	region->refusal.status = KVC_OK;
	cause = cause_of(request, reply->status);
	if (cause)
		region->refusal = *cause;
	else
		refuse(&region->refusal, reply->status, text);
	if (reply->status == KVC_OK) {
		end_ok(client, request);
		return;
	}
	region->serial = 0;
	end_failed(client, request, reply->status, text);
}

/* ---- put and get --------------------------------------------------------------------------- */

static uint64_t block_bytes(const struct kvcc_request *request, const struct kvc_block *block)
{
	return request->ns->token_bytes * block->tokens;
}

/* False: an image longer than the room for it. */
static bool lengths_fit(const struct kvcc_call *call, const struct kvcc_reply *reply)
{
	const uint64_t *lengths = reply->blocks.image_bytes;

	for (size_t i = 0; lengths && i < call->to.count; i++) {
		if (lengths[i] > call->to.blocks[i].image_bytes)
			return false;
	}
	return true;
}

static void on_blocks_ok(struct kvcc_call *call, const struct kvcc_reply *reply)
{
	for (size_t i = 0; i < call->to.count; i++) {
		call->to.blocks[i].status = (kvc_status)reply->blocks.statuses[i];
		if (reply->blocks.image_bytes && reply->blocks.statuses[i] == KVC_OK)
			call->to.blocks[i].image_bytes = reply->blocks.image_bytes[i];
	}
	call->outcome = reply->blocks.outcome;
}

/* The put's caller has its deadline behind it and may have changed the source while the daemon read it.
 * So what it stored is dropped before the memory may be used again. */
static void drop_late(struct kvc_client *client, struct kvcc_request *request, const uint32_t *statuses)
{
	request->count = kvcc_wire_put_to_drop(&request->frame, statuses, request->count);
	if (request->count == 0) {
		end_ok(client, request);
		return;
	}
	request->verb = KVC_VERB_DROP;
	kvcc_request_renumber(client, request);
	kvcc_conn_queue(client, request);
}

static void on_put(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                   const char *text)
{
	if (reply->status != KVC_OK) {
		end_failed(client, request, reply->status, text);
	} else if (!request->call && request->region) {
		drop_late(client, request, reply->blocks.statuses);
	} else {
		if (request->call)
			on_blocks_ok(request->call, reply);
		end_ok(client, request);
	}
}

/* Bytes that follow an inline get: the blocks that are there, in order. */
static uint64_t payload_expected(const struct kvcc_request *request)
{
	const struct kvcc_call *call = request->call;
	uint64_t bytes = 0;

	for (size_t i = 0; i < call->to.count; i++)
		bytes += call->to.blocks[i].status == KVC_OK ? block_bytes(request, &call->to.blocks[i]) : 0;
	return bytes;
}

static void on_get(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                   const char *text)
{
	struct kvcc_conn *conn = client->conn;
	uint64_t payload = conn->stream.frame.payload_bytes;

	if (reply->status != KVC_OK) {
		end_failed(client, request, reply->status, text);
		return;
	}
	if (request->call) {
		if (!lengths_fit(request->call, reply)) {
			kvcc_conn_broken(client, "an image longer than the room for it");
			return;
		}
		on_blocks_ok(request->call, reply);
		if (!request->region && payload != payload_expected(request)) {
			kvcc_conn_broken(client, "a payload of another length than its blocks");
			return;
		}
	}
	if (payload > 0)
		conn->receiving = request;
	else
		end_ok(client, request);
}

/* Copy into the caller's buffer, where block after block has its place whether it is there or not. */
static void place_chunk(const struct kvcc_request *request, struct kvcc_call *call, const uint8_t *bytes,
                        size_t length)
{
	uint64_t start = 0;

	for (size_t i = 0; i < call->payload_block; i++)
		start += block_bytes(request, &call->to.blocks[i]);
	while (length > 0) {
		const struct kvc_block *block = &call->to.blocks[call->payload_block];
		uint64_t left = block_bytes(request, block) - call->payload_at;
		size_t n = length < left ? length : (size_t)left;

		if (block->status != KVC_OK || left == 0) {
			start += block_bytes(request, block);
			call->payload_block++;
			call->payload_at = 0;
			continue;
		}
		memcpy(call->to.data + start + call->payload_at, bytes, n);
		call->payload_at += n;
		bytes += n;
		length -= n;
	}
}

void kvcc_reply_chunk(struct kvc_client *client, struct kvcc_conn *conn, const uint8_t *bytes, size_t length)
{
	struct kvcc_request *request = conn->receiving;

	if (request->call)
		place_chunk(request, request->call, bytes, length);
	if (conn->stream.payload_left > 0)
		return;
	conn->receiving = NULL;
	end_ok(client, request);
}

/* ---- keys, stats, the rest ------------------------------------------------------------------ */

static void on_keys(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                    const char *text)
{
	struct kvcc_call *call = request->call;

	if (reply->status != KVC_OK) {
		end_failed(client, request, reply->status, text);
		return;
	}
	if (call) {
		call->prefix = reply->keys.prefix;
		if (call->to.tiers && request->verb == KVC_VERB_LOOKUP)
			memcpy(call->to.tiers, reply->keys.tiers, call->to.count);
	}
	end_ok(client, request);
}

static void on_drop(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                    const char *text)
{
	if (reply->status == KVC_OK || request->hold != KVCC_HOLD_FENCE) {
		on_keys(client, request, reply, text);
		return;
	}
	if (++request->tries < DROP_TRIES) {
		kvcc_request_renumber(client, request);
		kvcc_conn_queue(client, request);
		return;
	}
	request->region->lost = true;
	end_ok(client, request);
}

static void on_stats(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                     const char *text)
{
	if (reply->status != KVC_OK) {
		end_failed(client, request, reply->status, text);
		return;
	}
	if (request->call)
		request->call->stats = reply->stats;
	else
		kvc_stats_free(reply->stats.stats);
	end_ok(client, request);
}

static void on_dropped(struct kvc_client *client, struct kvcc_request *request,
                       const struct kvcc_reply *reply, const char *text)
{
	if (reply->status != KVC_OK) {
		end_failed(client, request, reply->status, text);
		return;
	}
	if (request->call)
		request->call->prefix = reply->dropped;
	end_ok(client, request);
}

static void on_empty(struct kvc_client *client, struct kvcc_request *request, const struct kvcc_reply *reply,
                     const char *text)
{
	if (reply->status == KVC_OK)
		end_ok(client, request);
	else
		end_failed(client, request, reply->status, text);
}

/* Each frees the request or sends it on; text is the daemon's own, or a standard one. */
typedef void (*reply_function)(struct kvc_client *client, struct kvcc_request *request,
                               const struct kvcc_reply *reply, const char *text);

static const reply_function handlers[KVC_VERB_COUNT] = {
        [KVC_VERB_HELLO] = on_hello,         [KVC_VERB_PING] = on_empty,  [KVC_VERB_OPEN] = on_open,
        [KVC_VERB_CLOSE] = on_empty,         [KVC_VERB_PUT] = on_put,     [KVC_VERB_ATTACH] = on_attach,
        [KVC_VERB_DETACH] = on_empty,        [KVC_VERB_GET] = on_get,     [KVC_VERB_LOOKUP] = on_keys,
        [KVC_VERB_PREFETCH] = on_keys,       [KVC_VERB_PIN] = on_keys,    [KVC_VERB_UNPIN] = on_keys,
        [KVC_VERB_DROP] = on_drop,           [KVC_VERB_STATS] = on_stats, [KVC_VERB_POOL] = on_pool,
        [KVC_VERB_DROP_TENANT] = on_dropped,
};

/* ---- frames -------------------------------------------------------------------------------- */

/* NULL, or what is wrong with the header as an answer to that request. */
static const char *header_fault(const struct kvcc_conn *conn, const struct kvcc_request *request)
{
	const struct kvc_frame *frame = &conn->stream.frame;

	if (frame->flags != KVC_FRAME_REPLY)
		return "a frame that is no reply";
	if (!request || request->state != KVCC_REQUEST_SENT || request == conn->receiving)
		return "a reply to a request that is not open";
	if (frame->verb != request->verb)
		return "a reply with the verb of another request";
	if (conn->state == KVCC_CONN_HELLO && frame->verb != KVC_VERB_HELLO)
		return "a reply before that to hello";
	if (frame->payload_bytes > 0 &&
	    (frame->verb != KVC_VERB_GET || request->region || frame->status != KVC_OK))
		return "a payload where none belongs";
	return NULL;
}

static void failure_text(const struct kvcc_request *request, const struct kvcc_reply *reply, char *text)
{
	char detail[KVCC_DETAIL_BYTES / 2];

	kvcc_text_copy(detail, sizeof(detail), reply->detail ? reply->detail : "", reply->detail_bytes);
	(void)snprintf(text, KVCC_DETAIL_BYTES, "%s: %s%s%s", kvc_verb_name(request->verb),
	               kvc_status_text(reply->status), detail[0] ? ": " : "", detail);
}

/* There was no memory to read the answer. The daemon has done that work, so nothing of it is in doubt but the
 * result. */
static void unreadable(struct kvc_client *client, struct kvcc_request *request)
{
	if (request->verb == KVC_VERB_HELLO)
		kvcc_conn_abandon(client, KVC_NO_MEMORY, "no memory to read the daemon's hello");
	else if (client->conn->stream.frame.payload_bytes > 0)
		kvcc_conn_abandon(client, KVC_NO_MEMORY, "no memory to read a reply with a payload");
	else if (request->verb == KVC_VERB_PUT && request->region && !request->call)
		drop_late(client, request, NULL);
	else
		end_failed(client, request, KVC_NO_MEMORY, "no memory to read the daemon's reply");
}

void kvcc_reply_frame(struct kvc_client *client, struct kvcc_conn *conn, const uint8_t *body, size_t bytes)
{
	const struct kvc_frame *frame = &conn->stream.frame;
	struct kvcc_request *request = kvcc_request_find(client, frame->request_id);
	const char *why = header_fault(conn, request);
	struct kvcc_expected expected;
	struct kvcc_reply reply;
	char text[KVCC_DETAIL_BYTES];
	kvc_status status;

	if (why) {
		kvcc_conn_broken(client, why);
		return;
	}
	text[0] = '\0';
	expected = (struct kvcc_expected){request->verb, request->count,
	                                  request->verb == KVC_VERB_GET && request->images};
	status = kvcc_reply_decode(&expected, frame->status, body, bytes, &client->arena, &reply, &why);
	if (status == KVC_OK) {
		if (reply.status != KVC_OK)
			failure_text(request, &reply, text);
		handlers[request->verb](client, request, &reply, text);
	} else if (status == KVC_NO_MEMORY) {
		unreadable(client, request);
	} else {
		kvcc_conn_broken(client, why);
	}
	kvcc_arena_reset(&client->arena);
}
