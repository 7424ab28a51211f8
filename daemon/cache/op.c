/* Operations: what put and get have in common. One operation = one block of one request.
 *
 *   put: IDLE -> SPACE -> ENCODE -> (durable: STORE -> SYNC ->) done
 *        IDLE -> FILL (another put of this key is under way) -> as from IDLE
 *        ENCODE -> SPACE again, when raw tiles make the image larger than planned
 *        IDLE -> LOAD -> STORE (durable, present in VRAM only, or its place is lost during a load)
 *   get: IDLE -> (on disk, or in VRAM where it is of no use: LOAD ->) DECODE -> done
 *        DECODE -> IDLE -> ... again, when the copy in VRAM was damaged and there is another */
#include "daemon/base/alloc.h"
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

#define TO(state) (1u << (state))

/* Legal moves; "done" is IDLE again. */
static const unsigned legal[KVC_OP_STATES] = {
        [KVC_OP_IDLE] = TO(KVC_OP_SPACE) | TO(KVC_OP_ENCODE) | TO(KVC_OP_FILL) | TO(KVC_OP_LOAD) |
                        TO(KVC_OP_DECODE) | TO(KVC_OP_STORE) | TO(KVC_OP_SYNC) | TO(KVC_OP_IDLE),
        [KVC_OP_SPACE] = TO(KVC_OP_ENCODE) | TO(KVC_OP_IDLE),
        [KVC_OP_ENCODE] = TO(KVC_OP_SPACE) | TO(KVC_OP_ENCODE) | TO(KVC_OP_STORE) | TO(KVC_OP_IDLE),
        [KVC_OP_FILL] = TO(KVC_OP_IDLE),
        [KVC_OP_LOAD] = TO(KVC_OP_DECODE) | TO(KVC_OP_STORE) | TO(KVC_OP_SYNC) | TO(KVC_OP_IDLE),
        [KVC_OP_DECODE] = TO(KVC_OP_IDLE),
        [KVC_OP_STORE] = TO(KVC_OP_SYNC) | TO(KVC_OP_IDLE),
        [KVC_OP_SYNC] = TO(KVC_OP_IDLE),
};

void kvc_op_move(struct kvc_op *op, enum kvc_op_state state)
{
	KVC_INVARIANT(legal[op->state] & TO(state));
	op->state = (uint8_t)state;
}

static void op_finished(struct kvc_task *task)
{
	struct kvc_op *op = kvc_container_of(task, struct kvc_op, finished);
	struct kvc_cache *cache = op->cache;

	cache->ops--;
	cache->admitted -= op->admitted;
	op->tenant->ops -= op->admitted;
	op->done(op);
	kvc_cache_check_stopped(cache);
}

void kvc_op_finish(struct kvc_op *op, kvc_status status)
{
	kvc_op_move(op, KVC_OP_IDLE);
	kvc_free(op->own_plan);
	op->own_plan = NULL;
	op->status = status;
	kvc_loop_defer(op->cache->options.loop, &op->finished);
}

void kvc_op_wait(struct kvc_op *op, struct kvc_flight *flight, enum kvc_op_state state)
{
	kvc_op_move(op, state);
	kvc_list_push(&flight->waiters, &op->wait_node);
}

/* The plan of a block with that many tokens. */
static kvc_status op_plan(struct kvc_op *op)
{
	const struct kvc_image_plan *full = &op->ns->plan;
	struct kvc_block_shape shape = full->shape;
	kvc_status status;

	op->plan = full;
	op->own_plan = NULL;
	if (op->tokens == full->shape.tokens)
		return KVC_OK;
	shape.tokens = op->tokens;
	op->own_plan = kvc_calloc(1, sizeof *op->own_plan);
	if (!op->own_plan)
		return KVC_NO_MEMORY;
	op->plan = op->own_plan;
	status = kvc_image_plan_init(op->own_plan, &shape, &full->codec);
	KVC_INVARIANT(status == KVC_OK); /* a smaller block of a shape that was checked */
	return KVC_OK;
}

/* Why an operation cannot begin now, or KVC_OK. */
static kvc_status op_admit(const struct kvc_cache *cache, const struct kvc_op *op)
{
	if (cache->state >= KVC_CACHE_STOPPING)
		return KVC_SHUTDOWN;
	if (cache->state != KVC_CACHE_READY || !kvc_tenant_op_fits(cache, op->tenant))
		return KVC_BUSY;
	return KVC_OK;
}

static void op_count(struct kvc_op *op)
{
	bool put = op->kind == KVC_OP_PUT;

	kvc_stat_add(put ? op->cache->count.puts : op->cache->count.gets, 1);
	op->tenant->count.puts += put;
	op->tenant->count.gets += !put;
	kvc_tenant_active(op->cache, op->tenant);
}

void kvc_op_submit(struct kvc_cache *cache, struct kvc_op *op)
{
	kvc_status status;

	KVC_PRE(op->done && op->tokens > 0 && op->tokens <= op->ns->plan.shape.tokens);
	KVC_PRE(!op->durable || (!op->hints.ephemeral && !op->hints.ttl_ms));
	op->cache = cache;
	op->state = KVC_OP_IDLE;
	op->cancel_status = KVC_OK;
	op->reread = false;
	op->drops = kvc_ns_drops(op->ns);
	op->entry = KVC_ENTRY_NONE;
	op->cell = KVC_CELL_NONE;
	op->from = KVC_REST_NONE;
	op->image_bytes = 0;
	op->own_plan = NULL;
	op->ends_ms = kvc_loop_now_ms(cache->options.loop) + op->hints.ttl_ms;
	op->finished = (struct kvc_task){.run = op_finished};
	op->tenant = op->ns->tenant;
	op_count(op);
	status = op_admit(cache, op);
	op->admitted = status == KVC_OK;
	cache->ops++;
	cache->admitted += op->admitted;
	op->tenant->ops += op->admitted;
	if (status == KVC_BUSY) {
		kvc_stat_add(cache->count.busy, 1);
		op->tenant->count.refused++;
	}
	if (status == KVC_OK)
		status = op_plan(op);
	if (status != KVC_OK)
		kvc_op_finish(op, status);
	else if (op->kind == KVC_OP_PUT)
		kvc_put_start(op);
	else
		kvc_get_start(op);
}

static void leave_flight(struct kvc_op *op)
{
	struct kvc_flight *flight = kvc_entry_flight(op->cache, op->entry);

	kvc_list_remove(&op->wait_node);
	if (flight)
		kvc_flight_left(flight);
}

void kvc_op_cancel(struct kvc_op *op, kvc_status status)
{
	KVC_PRE(status != KVC_OK);
	switch ((enum kvc_op_state)op->state) {
	case KVC_OP_SPACE:
		kvc_space_cancel(op->cache, &op->space);
		kvc_put_abandon(op, status);
		break;
	case KVC_OP_ENCODE:
	case KVC_OP_DECODE:
		op->cancel_status = status;
		kvc_move_cancel(&op->move);
		break;
	case KVC_OP_FILL:
	case KVC_OP_LOAD:
	case KVC_OP_STORE:
		leave_flight(op);
		kvc_op_finish(op, status);
		break;
	case KVC_OP_SYNC:
		kvc_list_remove(&op->wait_node);
		kvc_op_finish(op, status);
		break;
	case KVC_OP_IDLE: /* done already, the callback is on its way */
	case KVC_OP_STATES:
		break;
	}
}
