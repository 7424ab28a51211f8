/* Requests that wait; see request.h. */
#include "daemon/rpc/request.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/rpc/device.h"
#include "daemon/rpc/pool.h"

#define REFUSAL_MS 10u /* a worker keeps the pages of a put until it is answered */

static void detaches_check(struct kvc_session *session);

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- begin and end ------------------------------------------------------------------------- */

static struct kvc_request *request_make(struct kvc_session *session, const struct kvc_frame *frame,
                                        uint32_t count, uint32_t pages)
{
	size_t ops_bytes = (size_t)count * sizeof(struct kvc_request_op);
	struct kvc_request *request =
	        kvc_calloc(1, sizeof *request + ops_bytes + (size_t)pages * sizeof *request->pages);

	if (!request)
		return NULL;
	request->pages = (void *)(request->ops + count);
	request->session = session;
	request->id = frame->request_id;
	request->verb = frame->verb;
	request->count = count;
	request->unfinished = count;
	kvc_list_push(&session->requests, &request->node);
	session->inflight++;
	kvc_stat_add(session->rpc->cells.inflight, 1);
	return request;
}

/* The namespace is there at least as long as what is held of it. */
static void held_let_go(struct kvc_request *request)
{
	kvc_ns_blocks_let_go(request->ns->ns, request->held);
	kvc_stat_add(request->session->rpc->cells.inflight_blocks, -(int64_t)request->held);
	kvc_session_ns_unref(request->ns);
}

/* Everything that it holds is let go. The session looks at itself after it. */
static void request_free(struct kvc_request *request)
{
	struct kvc_session *session = request->session;

	kvc_timer_stop(&request->timer);
	kvc_free(request->refusal);
	kvc_payload_close(request->payload);
	if (request->region)
		kvc_region_unref(request->region);
	if (request->pool)
		kvc_device_unref(request->pool);
	if (request->ns)
		held_let_go(request);
	kvc_list_remove(&request->node);
	if (session->filling == request)
		session->filling = NULL;
	kvc_free(request);
	session->inflight--;
	kvc_stat_add(session->rpc->cells.inflight, -1);
	kvc_session_wake(session);
}

/* ---- the reply ----------------------------------------------------------------------------- */

static void count_hit(struct kvc_blocks_reply *reply, const struct kvc_op *op)
{
	if (op->kind != KVC_OP_GET)
		return;
	reply->ram += op->from == KVC_REST_RAM;
	reply->disk += op->from == KVC_REST_DISK;
	reply->vram += op->from == KVC_REST_VRAM;
}

static void results_collect(const struct kvc_request *request, struct kvc_blocks_reply *reply)
{
	struct kvc_rpc *rpc = request->session->rpc;
	bool images = request->verb == KVC_VERB_GET && request->ops[0].op.form == KVC_OP_IMAGE;

	*reply = (struct kvc_blocks_reply){.count = request->count,
	                                   .statuses = rpc->statuses,
	                                   .image_bytes = images ? rpc->lengths : NULL};
	for (uint32_t i = 0; i < request->count; i++) {
		const struct kvc_op *op = &request->ops[i].op;

		rpc->statuses[i] = (uint32_t)op->status;
		rpc->lengths[i] = op->status == KVC_OK ? op->image_bytes : 0;
		if (op->status != KVC_OK)
			continue;
		reply->stored_bytes += op->image_bytes;
		count_hit(reply, op);
	}
}

/* Inline get: move the blocks that came together; the others leave no gap. */
static void payload_compact(struct kvc_request *request)
{
	struct kvc_payload *payload = request->payload;
	uint8_t *from = payload->data;

	payload->used = 0;
	for (uint32_t i = 0; i < request->count; i++) {
		const struct kvc_request_op *op = &request->ops[i];

		if (op->op.status == KVC_OK) {
			if (from != payload->data + payload->used)
				memmove(payload->data + payload->used, from, op->raw_bytes);
			payload->used += op->raw_bytes;
		}
		from += op->raw_bytes;
	}
}

static void request_answer(struct kvc_request *request)
{
	struct kvc_session *session = request->session;
	struct kvc_reply reply = {.verb = request->verb, .request_id = request->id};
	struct kvc_blocks_reply blocks;
	uint8_t *room = kvc_session_reply_room(session, kvc_pack_blocks_max(request->count));

	if (!room)
		return;
	results_collect(request, &blocks);
	reply.body_bytes = kvc_pack_blocks(&blocks, room);
	if (request->payload && request->verb == KVC_VERB_GET) {
		payload_compact(request);
		if (request->payload->used) {
			reply.payload = request->payload;
			request->payload = NULL;
		}
	}
	kvc_session_reply(session, &reply);
}

static void request_finish(struct kvc_request *request)
{
	struct kvc_session *session = request->session;

	if (kvc_session_can_answer(session))
		request_answer(request);
	request_free(request);
	detaches_check(session);
}

/* ---- running ------------------------------------------------------------------------------- */

/* It shuts its end before it tells a caller that the put has failed; the loop need not have seen that yet. */
static bool client_has_gone(const struct kvc_session *session)
{
	struct pollfd end = {.fd = session->fd, .events = POLLRDHUP};
	int gone;

	if (!kvc_session_can_answer(session))
		return true;
	do
		gone = poll(&end, 1, 0);
	while (gone < 0 && errno == EINTR);
	return gone != 0;
}

/* A source may change after the caller's deadline, whether we kept to it or were frozen meanwhile, and when
 * its client has gone: what was read then must not stay. */
static bool source_held(const struct kvc_op *op)
{
	const struct kvc_request_op *mine =
	        (const void *)((const char *)op - offsetof(struct kvc_request_op, op));
	const struct kvc_request *request = mine->request;

	if (request->payload)
		return true;
	return (!request->expires_ns || now_ns() < request->expires_ns) && !client_has_gone(request->session);
}

static void op_done(struct kvc_op *op)
{
	struct kvc_request_op *mine = kvc_container_of(op, struct kvc_request_op, op);
	struct kvc_request *request = mine->request;

	KVC_INVARIANT(request->state == KVC_REQUEST_RUNNING && request->unfinished > 0);
	mine->finished = true;
	if (--request->unfinished == 0)
		request_finish(request);
}

static void ops_cancel(struct kvc_request *request, kvc_status status)
{
	for (uint32_t i = 0; i < request->count; i++) {
		if (!request->ops[i].finished)
			kvc_op_cancel(&request->ops[i].op, status);
	}
}

static void deadline_passed(struct kvc_timer *timer)
{
	struct kvc_request *request = kvc_container_of(timer, struct kvc_request, timer);

	kvc_stat_add(request->session->rpc->cells.deadlines, 1);
	ops_cancel(request, KVC_DEADLINE);
}

/* Milliseconds left to the request; 0: none. */
static uint64_t request_left_ms(const struct kvc_request *request)
{
	uint64_t now_ms = kvc_loop_now_ms(request->session->rpc->loop);
	uint64_t left_ms = request->due_ms > now_ms ? request->due_ms - now_ms : 0;
	uint64_t left_ns;

	if (!request->expires_ns)
		return left_ms;
	left_ns = now_ns();
	left_ns = request->expires_ns > left_ns ? request->expires_ns - left_ns : 0;
	return left_ns / 1000000 < left_ms ? left_ns / 1000000 : left_ms;
}

/* Whether the request may begin, whose payload may have taken a while. */
static kvc_status run_begin(struct kvc_request *request, struct kvc_problem *problem)
{
	uint64_t left_ms = request_left_ms(request);

	if (request->drops != kvc_ns_drops(request->ns->ns))
		return kvc_problem_set(problem, KVC_CANCELLED, "tenant '%s' was dropped meanwhile",
		                       kvc_ns_tenant(request->ns->ns));
	if (left_ms == 0)
		return kvc_problem_set(problem, KVC_DEADLINE,
		                       "the deadline passed before the request could begin");
	request->timer.fire = deadline_passed;
	if (kvc_timer_start(request->session->rpc->loop, &request->timer, left_ms) != KVC_OK)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	return KVC_OK;
}

/* The payload, if any, is complete: hand all blocks to the cache. */
static void request_run(struct kvc_request *request)
{
	struct kvc_session *session = request->session;
	struct kvc_frame frame = {.verb = request->verb, .request_id = request->id};
	struct kvc_problem problem;
	kvc_status status = run_begin(request, &problem);

	if (status != KVC_OK) {
		request_free(request);
		kvc_session_refuse(session, &frame, status, &problem);
		return;
	}
	request->state = KVC_REQUEST_RUNNING;
	for (uint32_t i = request->count; i-- > 0;)
		kvc_cache_touch(session->rpc->cache, &request->ops[i].op.key);
	for (uint32_t i = 0; i < request->count; i++) {
		request->ops[i].op.coin = kvc_storage_key_hash(&request->ops[0].op.key);
		kvc_op_submit(session->rpc->cache, &request->ops[i].op);
	}
}

/* ---- payload of an inline put -------------------------------------------------------------- */

struct iovec kvc_request_fill_room(struct kvc_request *request)
{
	struct kvc_payload *payload = request->payload;

	KVC_PRE(request->state == KVC_REQUEST_FILLING);
	return (struct iovec){payload->data + payload->used, payload->bytes - payload->used};
}

void kvc_request_filled(struct kvc_request *request, size_t bytes)
{
	struct kvc_payload *payload = request->payload;

	KVC_PRE(request->state == KVC_REQUEST_FILLING && bytes <= payload->bytes - payload->used);
	payload->used += bytes;
	if (payload->used < payload->bytes)
		return;
	request->session->filling = NULL;
	request_run(request);
}

size_t kvc_request_fill(struct kvc_request *request, const uint8_t *data, size_t bytes)
{
	struct iovec room = kvc_request_fill_room(request);

	bytes = bytes < room.iov_len ? bytes : room.iov_len;
	memcpy(room.iov_base, data, bytes);
	kvc_request_filled(request, bytes);
	return bytes;
}

/* ---- building a put or a get --------------------------------------------------------------- */

struct building {
	struct kvc_session *session;
	const struct kvc_frame *frame;
	const struct kvc_blocks_request *message;
	struct kvc_problem *problem;
	struct kvc_session_ns *ns;
	struct kvc_session_region *region; /* shm */
	struct kvc_device *pool;           /* cuda */
	uint64_t raw_bytes;                /* of all blocks */
	uint64_t wait_ms;                  /* until the rate lets more through; 0: that is not why */
};

/* Blocks of any namespace of the pool's shape may lie in it. */
static kvc_status pool_find(struct building *building)
{
	const struct kvc_block_shape *shape = &kvc_ns_plan(building->ns->ns)->shape;
	struct kvc_device *pool = kvc_device_find(building->session, building->message->region);

	if (!pool || pool->kind != KVC_DEVICE_POOL)
		return kvc_problem_set(building->problem, KVC_UNKNOWN_ID, "region: %u is no pool",
		                       building->message->region);
	if (pool->shape.layers != shape->layers || pool->shape.heads != shape->heads ||
	    pool->shape.key_dim != shape->key_dim || pool->shape.value_dim != shape->value_dim ||
	    pool->shape.dtype != shape->dtype)
		return kvc_problem_set(
		        building->problem, KVC_SHAPE,
		        "region: pool %u is of another shape (layers, heads, dims, dtype) than "
		        "namespace %u",
		        pool->id, building->ns->id);
	if (building->message->mark.place > pool->marks)
		return kvc_problem_set(building->problem, KVC_INVALID,
		                       "mark.word: not one of the %u words that pool %u has", pool->marks,
		                       pool->id);
	building->pool = pool;
	return KVC_OK;
}

static kvc_status ids_find(struct building *building)
{
	const struct kvc_blocks_request *message = building->message;

	building->ns = kvc_session_ns_find(building->session, message->ns);
	if (!building->ns)
		return kvc_problem_set(building->problem, KVC_UNKNOWN_ID, "namespace: %u is not open",
		                       message->ns);
	if (message->plane == KVC_PLANE_INLINE)
		return KVC_OK;
	if (message->plane == KVC_PLANE_CUDA)
		return pool_find(building);
	building->region = kvc_session_region_find(building->session, message->region);
	if (!building->region)
		return kvc_problem_set(building->problem, KVC_UNKNOWN_ID, "region: %u is not attached",
		                       message->region);
	return KVC_OK;
}

static kvc_status tokens_check(struct building *building)
{
	const struct kvc_image_plan *plan = kvc_ns_plan(building->ns->ns);

	for (uint32_t i = 0; i < building->message->count; i++) {
		struct kvc_block_shape shape;
		uint32_t tokens = kvc_blocks_at(building->message, i).tokens;

		if (tokens > plan->shape.tokens)
			return kvc_problem_set(building->problem, KVC_SHAPE,
			                       "blocks.tokens[%u]: %u, expected 1 to %u", i, tokens,
			                       plan->shape.tokens);
		shape = kvc_layout_shape(plan, tokens);
		if (!kvc_add_u64(building->raw_bytes, kvc_block_raw_bytes(&shape), &building->raw_bytes))
			return kvc_problem_set(building->problem, KVC_LIMIT, "blocks: too many bytes");
	}
	return KVC_OK;
}

/* A tenant that is above its rate is told so before anything is begun for it. */
static kvc_status rate_check(struct building *building)
{
	bool put = building->frame->verb == KVC_VERB_PUT;
	uint64_t rate, wait_ms;

	if (kvc_ns_may_begin(building->ns->ns, put, &rate, &wait_ms) == KVC_OK)
		return KVC_OK;
	building->wait_ms = wait_ms;
	return kvc_problem_set(building->problem, KVC_QUOTA,
	                       "tenant '%s' is above its %s of %llu bytes a second; again in %llu ms",
	                       kvc_ns_tenant(building->ns->ns), put ? "put-rate" : "get-rate",
	                       (unsigned long long)rate, (unsigned long long)wait_ms);
}

/* How long the payload must be, and may be. */
static kvc_status payload_check(struct building *building)
{
	uint64_t limit = building->session->limits.inline_bytes;
	uint64_t payload_bytes = building->frame->payload_bytes;
	bool inline_plane = building->message->plane == KVC_PLANE_INLINE;
	uint64_t expected = inline_plane && building->frame->verb == KVC_VERB_PUT ? building->raw_bytes : 0;

	if (payload_bytes != expected)
		return kvc_problem_set(building->problem, KVC_INVALID,
		                       "payload: %llu bytes, expected %llu for these blocks",
		                       (unsigned long long)payload_bytes, (unsigned long long)expected);
	if (inline_plane && building->raw_bytes > limit)
		return kvc_problem_set(building->problem, KVC_LIMIT,
		                       "blocks: %llu bytes, expected at most %llu (limits.inline_bytes)",
		                       (unsigned long long)building->raw_bytes, (unsigned long long)limit);
	return KVC_OK;
}

/* The request, if there may be one of that size now. Page ids count as the blocks in whose memory they would
 * fit. */
static kvc_status request_hold(const struct building *building, struct kvc_request **made)
{
	const struct kvc_blocks_request *message = building->message;
	uint64_t pages_bytes = (uint64_t)message->page_count * sizeof(uint32_t);
	uint32_t held = message->count + (uint32_t)(pages_bytes / sizeof(struct kvc_request_op));
	struct kvc_request *request;

	if (kvc_ns_blocks_hold(building->ns->ns, held) != KVC_OK)
		return kvc_problem_set(building->problem, KVC_BUSY,
		                       "blocks: %u are over what requests that wait may have now",
		                       message->count);
	request = request_make(building->session, building->frame, message->count, message->page_count);
	if (!request) {
		kvc_ns_blocks_let_go(building->ns->ns, held);
		return kvc_problem_set(building->problem, KVC_NO_MEMORY, "out of memory");
	}
	request->ns = building->ns;
	request->ns->refs++;
	request->held = held;
	request->drops = kvc_ns_drops(building->ns->ns);
	kvc_stat_add(building->session->rpc->cells.inflight_blocks, held);
	*made = request;
	return KVC_OK;
}

static kvc_status memory_take(const struct building *building, struct kvc_request *request)
{
	kvc_status status;

	if (building->region) {
		request->region = kvc_region_ref(building->region->region);
		return KVC_OK;
	}
	if (building->pool) {
		kvc_device_ref(building->pool);
		request->pool = building->pool;
		return KVC_OK;
	}
	status = kvc_payload_open(building->session->rpc, building->ns, building->raw_bytes,
	                          &request->payload);
	return status == KVC_OK
	               ? KVC_OK
	               : kvc_problem_set(building->problem, status,
	                                 "payload: %llu bytes are over the daemon's memory for inline "
	                                 "payloads now",
	                                 (unsigned long long)building->raw_bytes);
}

/* Inline: keys, then values, both contiguous. */
static struct kvc_placement inline_placement(const struct kvc_block_shape *shape)
{
	static const struct kvc_wire_layout contiguous;
	struct kvc_block_shape keys = *shape;

	keys.value_dim = 0;
	return (struct kvc_placement){&contiguous, &contiguous, 0, kvc_block_raw_bytes(&keys)};
}

/* The message's ids live until the next one is parsed: they are copied behind those of the blocks before. */
static kvc_status pages_place(const struct building *building, struct kvc_request *request,
                              const struct kvc_wire_block *block, uint32_t i)
{
	const struct kvc_device *pool = building->pool;
	struct kvc_pool_pages pages = {pool->pages, pool->page_tokens};
	kvc_status status = kvc_pool_pages_check(&pages, block, i, building->problem);
	uint32_t *ids = request->pages;

	if (status != KVC_OK)
		return status;
	if (i)
		ids = request->ops[i - 1].pages + request->ops[i - 1].op.device.page_count;
	memcpy(ids, block->pages, block->page_count * sizeof *ids);
	request->ops[i].pages = ids;
	request->ops[i].op.device = (struct kvc_device_view){
	        .pool = pool->pool,
	        .pages = ids,
	        .page_count = block->page_count,
	        .first_token = block->first_token,
	        .mark = building->message->mark,
	};
	return KVC_OK;
}

static kvc_status image_place(const struct building *building, struct kvc_request *request,
                              const struct kvc_wire_block *block, uint32_t i)
{
	const struct kvc_region *region = request->region;

	if (block->image_bytes > region->bytes || block->key_offset > region->bytes - block->image_bytes)
		return kvc_problem_set(building->problem, KVC_SHAPE,
		                       "blocks.key_offset[%u]: %llu bytes from %llu do not lie within the "
		                       "memory's %llu",
		                       i, (unsigned long long)block->image_bytes,
		                       (unsigned long long)block->key_offset,
		                       (unsigned long long)region->bytes);
	request->ops[i].op.external =
	        (struct kvc_image_view){region->data + block->key_offset, block->image_bytes};
	return KVC_OK;
}

/* Where a block lies in host memory: at the client's offsets in its region, or next in the payload. */
static kvc_status view_place(const struct building *building, const struct kvc_request *request,
                             const struct kvc_wire_block *block, uint64_t payload_offset,
                             struct kvc_request_op *op)
{
	const struct kvc_blocks_request *message = building->message;
	struct kvc_block_shape shape = kvc_layout_shape(kvc_ns_plan(building->ns->ns), block->tokens);
	struct kvc_placement placement = {&message->key_layout, &message->value_layout, block->key_offset,
	                                  block->value_offset};
	struct kvc_window window;

	if (request->region) {
		window = (struct kvc_window){request->region->data, request->region->bytes};
	} else {
		window = (struct kvc_window){request->payload->data + payload_offset, op->raw_bytes};
		placement = inline_placement(&shape);
	}
	return kvc_layout_view(&shape, &placement, &window, &op->op.view, building->problem);
}

static kvc_status block_place(const struct building *building, struct kvc_request *request,
                              const struct kvc_wire_block *block, uint32_t i, uint64_t payload_offset)
{
	struct kvc_block_shape shape = kvc_layout_shape(kvc_ns_plan(building->ns->ns), block->tokens);
	struct kvc_request_op *op = &request->ops[i];

	op->raw_bytes = kvc_block_raw_bytes(&shape);
	op->op.form = building->message->form;
	switch (op->op.form) {
	case KVC_OP_DEVICE:
		return pages_place(building, request, block, i);
	case KVC_OP_IMAGE:
		return image_place(building, request, block, i);
	case KVC_OP_HOST:
		break;
	}
	return view_place(building, request, block, payload_offset, op);
}

static kvc_status ops_fill(const struct building *building, struct kvc_request *request)
{
	const struct kvc_blocks_request *message = building->message;
	struct kvc_ns *ns = building->ns->ns;
	uint64_t offset = 0;

	for (uint32_t i = 0; i < request->count; i++) {
		struct kvc_wire_block block = kvc_blocks_at(message, i);
		struct kvc_request_op *op = &request->ops[i];
		kvc_status status = block_place(building, request, &block, i, offset);

		if (status != KVC_OK)
			return status;
		offset += op->raw_bytes;
		op->request = request;
		op->op.kind = request->verb == KVC_VERB_PUT ? KVC_OP_PUT : KVC_OP_GET;
		op->op.ns = ns;
		op->op.tokens = block.tokens;
		op->op.durable = message->durable;
		op->op.hints = message->hints;
		op->op.done = op_done;
		op->op.source_held = source_held;
		kvc_ns_key(ns, block.key.data, block.key.bytes, &op->op.key);
		op->op.has_parent = op->op.kind == KVC_OP_PUT && block.parent.bytes;
		if (op->op.has_parent)
			kvc_ns_key(ns, block.parent.data, block.parent.bytes, &op->op.parent);
	}
	return KVC_OK;
}

static kvc_status request_build(struct building *building, struct kvc_request **built)
{
	const struct kvc_blocks_request *message = building->message;
	struct kvc_request *request = NULL;
	kvc_status status = ids_find(building);

	if (status == KVC_OK)
		status = tokens_check(building);
	if (status == KVC_OK)
		status = payload_check(building);
	if (status == KVC_OK)
		status = rate_check(building);
	if (status == KVC_OK)
		status = request_hold(building, &request);
	if (status != KVC_OK)
		return status;
	request->due_ms = kvc_loop_now_ms(building->session->rpc->loop) + message->deadline.ms;
	request->expires_ns = message->deadline.expires_ns;
	status = memory_take(building, request);
	if (status == KVC_OK)
		status = ops_fill(building, request);
	if (status == KVC_OK)
		*built = request;
	else
		request_free(request);
	return status;
}

static void refusal_due(struct kvc_timer *timer)
{
	struct kvc_request *request = kvc_container_of(timer, struct kvc_request, timer);
	struct kvc_session *session = request->session;
	struct kvc_frame frame = {.verb = request->verb, .request_id = request->id};
	struct kvc_problem problem = *request->refusal;

	request_free(request);
	if (kvc_session_can_answer(session))
		kvc_session_refuse(session, &frame, KVC_QUOTA, &problem);
}

/* Who is above its rate and asks again at once would keep the loop busy for nothing: the refusal takes a
 * moment, and is among the requests that a session may have. False: no memory. */
static bool refuse_later(struct kvc_session *session, const struct kvc_frame *frame, uint64_t wait_ms,
                         const struct kvc_problem *problem)
{
	struct kvc_request *request = request_make(session, frame, 0, 0);

	if (!request)
		return false;
	request->state = KVC_REQUEST_REFUSED;
	request->refusal = kvc_calloc(1, sizeof *problem);
	request->timer.fire = refusal_due;
	if (request->refusal && kvc_timer_start(session->rpc->loop, &request->timer,
	                                        wait_ms < REFUSAL_MS ? wait_ms : REFUSAL_MS) == KVC_OK) {
		*request->refusal = *problem;
		return true;
	}
	request_free(request);
	return false;
}

/* From the parsed message on, put and get are the same. */
static void blocks_begin(struct kvc_session *session, const struct kvc_frame *frame,
                         const struct kvc_blocks_request *message)
{
	struct kvc_problem problem;
	struct building building = {
	        .session = session, .frame = frame, .message = message, .problem = &problem};
	struct kvc_request *request = NULL;
	kvc_status status = request_build(&building, &request);

	if (status != KVC_OK) {
		if (!building.wait_ms || !refuse_later(session, frame, building.wait_ms, &problem))
			kvc_session_refuse(session, frame, status, &problem);
		return;
	}
	request->state = KVC_REQUEST_FILLING;
	if (frame->payload_bytes)
		session->filling = request;
	else
		request_run(request);
}

void kvc_verb_put(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_blocks_request message;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_put(rpc->convert, body, &session->limits, &message, &problem);

	if (status == KVC_OK)
		blocks_begin(session, frame, &message);
	else
		kvc_session_refuse(session, frame, status, &problem);
}

void kvc_verb_get(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_blocks_request message;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_get(rpc->convert, body, &session->limits, &message, &problem);

	if (status == KVC_OK)
		blocks_begin(session, frame, &message);
	else
		kvc_session_refuse(session, frame, status, &problem);
}

/* ---- detach -------------------------------------------------------------------------------- */

static void detach_answer(struct kvc_session *session, uint64_t request_id)
{
	struct kvc_reply reply = {.verb = KVC_VERB_DETACH, .request_id = request_id};

	if (kvc_session_can_answer(session) && kvc_session_reply_room(session, 0))
		kvc_session_reply(session, &reply);
}

/* The last reference is the detach's own: unmapped first, then answered. */
static void detach_finish(struct kvc_request *request)
{
	struct kvc_session *session = request->session;
	uint64_t id = request->id;

	request_free(request);
	detach_answer(session, id);
}

static void detaches_check(struct kvc_session *session)
{
	kvc_list_each_safe (node, &session->detaches) {
		struct kvc_request *request = kvc_container_of(node, struct kvc_request, node);

		if (request->region->refs == 1)
			detach_finish(request);
	}
}

static kvc_status detach_begin(struct kvc_session *session, const struct kvc_frame *frame, uint32_t id,
                               struct kvc_problem *problem)
{
	struct kvc_session_region *entry = kvc_session_region_find(session, id);
	struct kvc_device *device = kvc_device_find(session, id);
	struct kvc_request *request;

	if (device)
		return kvc_device_detach(device, frame, problem);
	if (!entry)
		return kvc_problem_set(problem, KVC_UNKNOWN_ID, "id: %u is no attached region or pool", id);
	request = request_make(session, frame, 0, 0);
	if (!request)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	request->state = KVC_REQUEST_WAITING;
	request->region = kvc_session_region_take(session, entry);
	kvc_list_remove(&request->node);
	kvc_list_push(&session->detaches, &request->node);
	return KVC_OK;
}

void kvc_verb_detach(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_problem problem;
	kvc_status status;
	uint32_t id;

	status = kvc_parse_detach(session->rpc->convert, body, &id, &problem);
	if (status == KVC_OK)
		status = detach_begin(session, frame, id, &problem);
	if (status == KVC_OK)
		detaches_check(session);
	else
		kvc_session_refuse(session, frame, status, &problem);
}

/* ---- the session's end --------------------------------------------------------------------- */

void kvc_requests_cancel(struct kvc_session *session)
{
	kvc_list_each_safe (node, &session->requests) {
		struct kvc_request *request = kvc_container_of(node, struct kvc_request, node);

		if (request->state == KVC_REQUEST_RUNNING)
			ops_cancel(request, KVC_CANCELLED);
		else
			request_free(request);
	}
	kvc_list_each_safe (waiting, &session->detaches)
		request_free(kvc_container_of(waiting, struct kvc_request, node));
}
