/* Queues, slots and limits of moves.
 *
 *   IDLE --submit--> QUEUED --slot free, class below its bound--> RUNNING --engine or tier done--> IDLE,
 * done()
 *                      |
 *                      +------------cancel-----------------------------------------------------> IDLE, done()
 */
#include "daemon/mover/mover.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

/* What a running move needs beyond the move itself. */
struct kvc_move_slot {
	struct kvc_list node; /* of the free list */
	struct kvc_move *move;
	union {
		struct kvc_engine_job job;
		struct kvc_tier_req request;
	};
};

struct slot_pool {
	struct kvc_move_slot *slots;
	uint32_t count;
	struct kvc_list free;
	uint64_t class_bytes;
	struct kvc_fair fair[KVC_LANES];
	uint32_t passed; /* how often the front lane went before what waits in the back */
};

struct move_class {
	enum kvc_move_pool pool;
	enum kvc_move_lane lane;
	uint32_t queued;
	uint32_t running;
	uint64_t running_bytes;
	kvc_stat_cell *stat_moves;
	kvc_stat_cell *stat_bytes;
	kvc_stat_cell *stat_failed;
	kvc_stat_cell *stat_pending;
};

struct kvc_mover {
	struct kvc_mover_options options;
	struct slot_pool pools[KVC_POOLS];
	struct move_class classes[KVC_MOVE_KINDS];
	struct kvc_move_flow nobody; /* of moves that name no flow */
	struct kvc_move_flow *last;  /* who submitted last, and when; NULL: nobody yet */
	uint64_t last_ms;
	uint64_t shared_until_ms; /* several flows have been seen lately */
};

enum {
	SHARED_MS = 1000, /* how long a flow that submits nothing is still reckoned with */
	RESERVE = 4,      /* one part in so many of slots and bytes is kept for other flows then */
	PASSED_MAX = 8,   /* moves of a more urgent class, or lane, that go before one that waits */
};

static const struct {
	const char *moves;
	const char *bytes;
	const char *failed;
	const char *pending;
} stat_names[KVC_MOVE_KINDS] = {
        [KVC_MOVE_SCATTER] = {"move.scatter", "move.scatter_bytes", "move.scatter_failed",
                              "move.scatter_pending"},
        [KVC_MOVE_GATHER] = {"move.gather", "move.gather_bytes", "move.gather_failed", "move.gather_pending"},
        [KVC_MOVE_LOWER] = {"move.lower", "move.lower_bytes", "move.lower_failed", "move.lower_pending"},
        [KVC_MOVE_DECODE] = {"move.decode", "move.decode_bytes", "move.decode_failed", "move.decode_pending"},
        [KVC_MOVE_LOAD] = {"move.load", "move.load_bytes", "move.load_failed", "move.load_pending"},
        [KVC_MOVE_ENCODE] = {"move.encode", "move.encode_bytes", "move.encode_failed", "move.encode_pending"},
        [KVC_MOVE_SYNC] = {"move.sync", "move.sync_bytes", "move.sync_failed", "move.sync_pending"},
        [KVC_MOVE_STORE] = {"move.store", "move.store_bytes", "move.store_failed", "move.store_pending"},
};

static bool kind_is_gpu(enum kvc_move_kind kind)
{
	return kind == KVC_MOVE_GATHER || kind == KVC_MOVE_SCATTER || kind == KVC_MOVE_LOWER;
}

static bool kind_is_disk(enum kvc_move_kind kind)
{
	return kind == KVC_MOVE_LOAD || kind == KVC_MOVE_STORE || kind == KVC_MOVE_SYNC;
}

static enum kvc_move_pool pool_of(enum kvc_move_kind kind)
{
	if (kind_is_gpu(kind))
		return KVC_POOL_GPU;
	return kind_is_disk(kind) ? KVC_POOL_DISK : KVC_POOL_CPU;
}

static enum kvc_move_lane lane_of(enum kvc_move_kind kind)
{
	return kind < KVC_MOVE_LOWER ? KVC_LANE_FRONT : KVC_LANE_BACK;
}

static void classes_init(struct kvc_mover *mover)
{
	struct kvc_stats *stats = mover->options.stats;

	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++) {
		struct move_class *class = &mover->classes[kind];

		class->pool = pool_of(kind);
		class->lane = lane_of(kind);
		class->stat_moves = kvc_stats_cell(stats, stat_names[kind].moves);
		class->stat_bytes = kvc_stats_cell(stats, stat_names[kind].bytes);
		class->stat_failed = kvc_stats_cell(stats, stat_names[kind].failed);
		class->stat_pending = kvc_stats_cell(stats, stat_names[kind].pending);
	}
}

static kvc_status slots_open(struct slot_pool *pool, uint32_t count, uint64_t class_bytes)
{
	kvc_list_init(&pool->free);
	for (unsigned lane = 0; lane < KVC_LANES; lane++)
		kvc_fair_init(&pool->fair[lane]);
	pool->count = count;
	pool->class_bytes = class_bytes;
	if (!count)
		return KVC_OK;
	pool->slots = kvc_calloc(count, sizeof *pool->slots);
	if (!pool->slots)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < count; i++)
		kvc_list_push(&pool->free, &pool->slots[i].node);
	return KVC_OK;
}

static void pools_close(struct kvc_mover *mover)
{
	for (unsigned pool = 0; pool < KVC_POOLS; pool++)
		kvc_free(mover->pools[pool].slots);
}

static kvc_status pools_open(struct kvc_mover *mover)
{
	const struct kvc_mover_options *options = &mover->options;
	struct slot_pool *pools = mover->pools;
	kvc_status status = slots_open(&pools[KVC_POOL_CPU], options->slots, options->class_bytes);

	if (status == KVC_OK)
		status = slots_open(&pools[KVC_POOL_DISK], options->disk ? options->slots : 0,
		                    options->class_bytes);
	if (status == KVC_OK)
		status = slots_open(&pools[KVC_POOL_GPU], options->gpu_slots, options->gpu_class_bytes);
	return status;
}

kvc_status kvc_mover_open(const struct kvc_mover_options *options, struct kvc_mover **out)
{
	struct kvc_mover *mover = kvc_calloc(1, sizeof *mover);
	kvc_status status;

	KVC_PRE(options->slots > 0 || options->gpu_slots > 0);
	if (!mover)
		return KVC_NO_MEMORY;
	mover->options = *options;
	status = pools_open(mover);
	if (status != KVC_OK) {
		pools_close(mover);
		kvc_free(mover);
		return status;
	}
	classes_init(mover);
	kvc_move_flow_init(&mover->nobody, 0);
	*out = mover;
	return KVC_OK;
}

void kvc_mover_close(struct kvc_mover *mover)
{
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++)
		KVC_PRE(kvc_mover_pending(mover, kind) == 0);
	pools_close(mover);
	kvc_free(mover);
}

uint32_t kvc_mover_pending(const struct kvc_mover *mover, enum kvc_move_kind kind)
{
	return mover->classes[kind].queued + mover->classes[kind].running;
}

static void move_count(struct kvc_move *move)
{
	struct move_class *class = &move->mover->classes[move->kind];

	kvc_stat_add(class->stat_moves, 1);
	if (move->status == KVC_OK)
		kvc_stat_add(class->stat_bytes, (int64_t)move->length);
	else
		kvc_stat_add(class->stat_failed, 1);
	kvc_stat_add(class->stat_pending, -1);
}

/* ---- flows ---- */

void kvc_move_flow_init(struct kvc_move_flow *flow, uint32_t weight)
{
	*flow = (struct kvc_move_flow){0};
	for (unsigned pool = 0; pool < KVC_POOLS; pool++)
		for (unsigned lane = 0; lane < KVC_LANES; lane++)
			kvc_fair_flow_init(&flow->turns[pool][lane], weight);
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++)
		kvc_list_init(&flow->queues[kind]);
	kvc_engine_flow_init(&flow->engine);
	flow->engine.weight = weight;
}

void kvc_move_flow_weight(struct kvc_move_flow *flow, uint32_t weight)
{
	for (unsigned pool = 0; pool < KVC_POOLS; pool++)
		for (unsigned lane = 0; lane < KVC_LANES; lane++)
			flow->turns[pool][lane].weight = weight;
	flow->engine.weight = weight;
}

/* Whether several flows share the slots: two have submitted within a second of each other. */
static bool is_shared(const struct kvc_mover *mover)
{
	return mover->shared_until_ms && kvc_loop_now_ms(mover->options.loop) < mover->shared_until_ms;
}

static void flow_seen(struct kvc_mover *mover, struct kvc_move_flow *flow)
{
	uint64_t now_ms = kvc_loop_now_ms(mover->options.loop);

	if (flow == &mover->nobody)
		return;
	if (mover->last && mover->last != flow && now_ms - mover->last_ms < SHARED_MS)
		mover->shared_until_ms = now_ms + SHARED_MS;
	mover->last = flow;
	mover->last_ms = now_ms;
}

static void queue_push(struct kvc_mover *mover, struct kvc_move *move)
{
	struct move_class *class = &mover->classes[move->kind];
	struct kvc_move_flow *flow = move->flow;

	kvc_list_push(&flow->queues[move->kind], &move->node);
	flow->queued[class->pool][class->lane]++;
	kvc_fair_enter(&mover->pools[class->pool].fair[class->lane], &flow->turns[class->pool][class->lane]);
}

static void queue_remove(struct kvc_move *move)
{
	const struct move_class *class = &move->mover->classes[move->kind];
	struct kvc_move_flow *flow = move->flow;

	kvc_list_remove(&move->node);
	if (--flow->queued[class->pool][class->lane] == 0)
		kvc_fair_leave(&flow->turns[class->pool][class->lane]);
}

/* The move is over: the flow is no longer used for it. */
static void flow_left(struct kvc_move *move)
{
	move->flow->stirring -= move->kind != KVC_MOVE_SYNC;
}

/* ---- the end of a move ---- */

static void mover_pump(struct kvc_mover *mover);

/* The end of a running move: account, let others run, then tell. */
static void slot_finish(struct kvc_move_slot *slot, kvc_status status, uint64_t length)
{
	struct kvc_move *move = slot->move;
	struct kvc_mover *mover = move->mover;
	struct move_class *class = &mover->classes[move->kind];

	KVC_INVARIANT(move->state == KVC_MOVE_RUNNING);
	class->running--;
	class->running_bytes -= move->image_bytes;
	move->flow->running[class->pool]--;
	move->flow->running_bytes[move->kind] -= move->image_bytes;
	flow_left(move);
	move->status = status;
	move->length = length;
	move->state = KVC_MOVE_IDLE;
	move->slot = NULL;
	slot->move = NULL;
	kvc_list_push(&mover->pools[class->pool].free, &slot->node);
	move_count(move);
	mover_pump(mover);
	move->done(move);
}

static void job_done(struct kvc_engine_job *job)
{
	struct kvc_move_slot *slot = kvc_container_of(job, struct kvc_move_slot, job);
	bool given = job->op == KVC_ENGINE_DECODE || job->op == KVC_ENGINE_LOWER;

	slot_finish(slot, job->status, given ? job->image_bytes : job->length);
}

static void request_done(struct kvc_tier_req *request)
{
	struct kvc_move_slot *slot = kvc_container_of(request, struct kvc_move_slot, request);
	struct kvc_move *move = slot->move;

	if (move->kind == KVC_MOVE_STORE && request->status == KVC_OK)
		*move->record = request->record;
	slot_finish(slot, request->status, move->image_bytes);
}

static enum kvc_engine_op engine_op(const struct kvc_move *move)
{
	switch (move->kind) {
	case KVC_MOVE_ENCODE:
		return move->external ? KVC_ENGINE_TAKE : KVC_ENGINE_ENCODE;
	case KVC_MOVE_DECODE:
		return move->external ? KVC_ENGINE_GIVE : KVC_ENGINE_DECODE;
	case KVC_MOVE_GATHER:
		return KVC_ENGINE_ENCODE;
	case KVC_MOVE_SCATTER:
		return KVC_ENGINE_DECODE;
	default:
		return KVC_ENGINE_LOWER;
	}
}

static void job_start(struct kvc_move_slot *slot)
{
	struct kvc_move *move = slot->move;
	bool on_gpu = kind_is_gpu(move->kind);

	slot->job = (struct kvc_engine_job){
	        .op = engine_op(move),
	        .flow = &move->flow->engine,
	        .shared = is_shared(move->mover),
	        .plan = move->plan,
	        .image = move->slab ? move->slab + KVC_RECORD_HEADER_BYTES : NULL,
	        .image_bytes = move->image_bytes,
	        .vram = on_gpu ? move->vram : KVC_VRAM_NONE,
	        .life = move->life,
	        .done = job_done,
	};
	if (move->device)
		slot->job.device = *move->device;
	else if (move->external)
		slot->job.external = *move->external;
	else if (move->view)
		slot->job.view = *move->view;
	kvc_engine_submit(on_gpu ? move->gpu : move->mover->options.engine, &slot->job);
}

static void request_start(struct kvc_move_slot *slot)
{
	static const enum kvc_tier_op ops[KVC_MOVE_KINDS] = {
	        [KVC_MOVE_LOAD] = KVC_TIER_LOAD,
	        [KVC_MOVE_STORE] = KVC_TIER_STORE,
	        [KVC_MOVE_SYNC] = KVC_TIER_SYNC,
	};
	struct kvc_move *move = slot->move;
	struct kvc_tier *disk = move->mover->options.disk;

	slot->request = (struct kvc_tier_req){
	        .op = ops[move->kind],
	        .slab = move->slab,
	        .cookie = move->cookie,
	        .done = request_done,
	};
	if (move->record)
		slot->request.record = *move->record;
	disk->ops->submit(disk, &slot->request);
}

/* ---- what may run ---- */

/* Whether a move fits into the bound of its class. */
static bool class_has_room(const struct kvc_mover *mover, const struct kvc_move *move)
{
	const struct move_class *class = &mover->classes[move->kind];

	return !class->running ||
	       class->running_bytes + move->image_bytes <= mover->pools[class->pool].class_bytes;
}

/* Whether it fits into those of its flow, where that is not the only one. */
static bool flow_has_room(const struct kvc_mover *mover, const struct kvc_move *move)
{
	const struct move_class *class = &mover->classes[move->kind];
	const struct slot_pool *pool = &mover->pools[class->pool];
	const struct kvc_move_flow *flow = move->flow;
	uint64_t own = flow->running_bytes[move->kind];

	if (!is_shared(mover) || flow == &mover->nobody)
		return true;
	return flow->running[class->pool] < pool->count - pool->count / RESERVE &&
	       (!own || own + move->image_bytes <= pool->class_bytes - pool->class_bytes / RESERVE);
}

/* Less urgent classes of the flow, in which something waits, were passed over once more. */
static void flow_passed(const struct kvc_mover *mover, const struct kvc_move *move)
{
	const struct move_class *class = &mover->classes[move->kind];
	struct kvc_move_flow *flow = move->flow;

	flow->passed[move->kind] = 0;
	for (unsigned kind = move->kind + 1; kind < KVC_MOVE_KINDS; kind++)
		if (mover->classes[kind].pool == class->pool && mover->classes[kind].lane == class->lane &&
		    !kvc_list_empty(&flow->queues[kind]))
			flow->passed[kind]++;
}

static void move_start(struct kvc_mover *mover, struct kvc_move *move)
{
	struct move_class *class = &mover->classes[move->kind];
	struct slot_pool *pool = &mover->pools[class->pool];
	struct kvc_list *node = kvc_list_pop(&pool->free);
	struct kvc_move_slot *slot = kvc_container_of(node, struct kvc_move_slot, node);

	KVC_PRE(move->state == KVC_MOVE_QUEUED);
	queue_remove(move);
	flow_passed(mover, move);
	kvc_fair_charge(&pool->fair[class->lane], &move->flow->turns[class->pool][class->lane],
	                move->image_bytes);
	class->queued--;
	class->running++;
	class->running_bytes += move->image_bytes;
	move->flow->running[class->pool]++;
	move->flow->running_bytes[move->kind] += move->image_bytes;
	move->state = KVC_MOVE_RUNNING;
	move->slot = slot;
	slot->move = move;
	if (kind_is_disk(move->kind))
		request_start(slot);
	else
		job_start(slot);
}

/* A look for the next move. */
struct look {
	const struct kvc_mover *mover;
	enum kvc_move_pool pool;
	enum kvc_move_lane lane;
	uint32_t held; /* bits of kinds that a flow which is due waits for: small moves of others would else
	                * keep a large one from ever finding room */
};

/* Whether the head of the flow's queue of that kind may run now. */
static bool may_run(struct look *look, const struct kvc_move *move)
{
	uint32_t bit = 1u << move->kind;

	if (look->held & bit || !flow_has_room(look->mover, move))
		return false;
	if (!class_has_room(look->mover, move))
		look->held |= bit;
	return !(look->held & bit);
}

/* The most urgent move of a flow that may run now, or NULL; one that was passed over often is as urgent as
 * any. */
static struct kvc_move *flow_pick(struct look *look, struct kvc_move_flow *flow)
{
	struct kvc_move *pick = NULL;

	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++) {
		const struct move_class *class = &look->mover->classes[kind];
		struct kvc_move *move;

		if (class->pool != look->pool || class->lane != look->lane ||
		    kvc_list_empty(&flow->queues[kind]))
			continue;
		move = kvc_container_of(flow->queues[kind].next, struct kvc_move, node);
		if ((!pick || flow->passed[kind] >= PASSED_MAX) && may_run(look, move))
			pick = move;
	}
	return pick;
}

/* The move of the flow that is due first, of those that have one that may run. */
static struct kvc_move *lane_pick(const struct kvc_mover *mover, enum kvc_move_pool pool,
                                  enum kvc_move_lane lane)
{
	const struct kvc_fair *fair = &mover->pools[pool].fair[lane];
	struct kvc_fair_flow *turn = kvc_fair_first(fair);
	struct look look = {.mover = mover, .pool = pool, .lane = lane};
	struct kvc_move *move = NULL;

	for (; turn && !move; turn = kvc_fair_next(fair, turn))
		move = flow_pick(&look, kvc_container_of(turn, struct kvc_move_flow, turns[pool][lane]));
	return move;
}

/* The next move of a pool, or NULL: the front lane first, but after PASSED_MAX of it one that waits in the
 * back. */
static struct kvc_move *pool_pick(struct kvc_mover *mover, enum kvc_move_pool number)
{
	struct slot_pool *pool = &mover->pools[number];
	struct kvc_move *move = NULL;

	if (pool->passed < PASSED_MAX)
		move = lane_pick(mover, number, KVC_LANE_FRONT);
	if (!move)
		move = lane_pick(mover, number, KVC_LANE_BACK);
	if (!move && pool->passed >= PASSED_MAX)
		move = lane_pick(mover, number, KVC_LANE_FRONT);
	if (!move)
		return NULL;
	if (lane_of(move->kind) == KVC_LANE_BACK || !kvc_fair_first(&pool->fair[KVC_LANE_BACK]))
		pool->passed = 0;
	else if (pool->passed < PASSED_MAX)
		pool->passed++;
	return move;
}

static void mover_pump(struct kvc_mover *mover)
{
	for (unsigned pool = 0; pool < KVC_POOLS; pool++) {
		struct kvc_move *move;

		while (!kvc_list_empty(&mover->pools[pool].free) && (move = pool_pick(mover, pool)))
			move_start(mover, move);
	}
}

void kvc_move_submit(struct kvc_mover *mover, struct kvc_move *move)
{
	struct move_class *class = &mover->classes[move->kind];

	KVC_PRE(move->state == KVC_MOVE_IDLE && move->done);
	if (!move->flow)
		move->flow = &mover->nobody;
	KVC_PRE(mover->options.disk || !kind_is_disk(move->kind));
	KVC_PRE(!kind_is_gpu(move->kind) || (mover->options.gpu_slots && move->gpu));
	move->mover = mover;
	move->state = KVC_MOVE_QUEUED;
	move->flow->stirring += move->kind != KVC_MOVE_SYNC;
	flow_seen(mover, move->flow);
	queue_push(mover, move);
	class->queued++;
	kvc_stat_add(class->stat_pending, 1);
	mover_pump(mover);
}

static void cancelled_run(struct kvc_task *task)
{
	struct kvc_move *move = kvc_container_of(task, struct kvc_move, cancelled);

	move->mover->classes[move->kind].queued--;
	flow_left(move);
	move->state = KVC_MOVE_IDLE;
	move->status = KVC_CANCELLED;
	move_count(move);
	move->done(move);
}

void kvc_move_cancel(struct kvc_move *move)
{
	struct kvc_mover *mover = move->mover;

	if (move->state == KVC_MOVE_RUNNING) {
		if (kind_is_gpu(move->kind))
			kvc_engine_cancel(move->gpu, &move->slot->job);
		else if (!kind_is_disk(move->kind))
			kvc_engine_cancel(mover->options.engine, &move->slot->job);
		return;
	}
	KVC_PRE(move->state == KVC_MOVE_QUEUED);
	if (move->cancelled.queued)
		return;
	queue_remove(move);
	move->cancelled.run = cancelled_run;
	kvc_loop_defer(mover->options.loop, &move->cancelled);
}
