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
	struct kvc_list free;
	uint64_t class_bytes;
};

struct move_class {
	struct slot_pool *pool;
	struct kvc_list queue;
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
	struct slot_pool host;
	struct slot_pool gpu;
	struct move_class classes[KVC_MOVE_KINDS];
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

static void classes_init(struct kvc_mover *mover)
{
	struct kvc_stats *stats = mover->options.stats;

	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++) {
		struct move_class *class = &mover->classes[kind];

		kvc_list_init(&class->queue);
		class->pool = kind_is_gpu(kind) ? &mover->gpu : &mover->host;
		class->stat_moves = kvc_stats_cell(stats, stat_names[kind].moves);
		class->stat_bytes = kvc_stats_cell(stats, stat_names[kind].bytes);
		class->stat_failed = kvc_stats_cell(stats, stat_names[kind].failed);
		class->stat_pending = kvc_stats_cell(stats, stat_names[kind].pending);
	}
}

static kvc_status slots_open(struct slot_pool *pool, uint32_t count, uint64_t class_bytes)
{
	kvc_list_init(&pool->free);
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

kvc_status kvc_mover_open(const struct kvc_mover_options *options, struct kvc_mover **out)
{
	struct kvc_mover *mover = kvc_calloc(1, sizeof *mover);
	kvc_status status;

	KVC_PRE(options->slots > 0);
	if (!mover)
		return KVC_NO_MEMORY;
	mover->options = *options;
	status = slots_open(&mover->host, options->slots, options->class_bytes);
	if (status == KVC_OK)
		status = slots_open(&mover->gpu, options->gpu_slots, options->gpu_class_bytes);
	if (status != KVC_OK) {
		kvc_free(mover->host.slots);
		kvc_free(mover);
		return status;
	}
	classes_init(mover);
	*out = mover;
	return KVC_OK;
}

void kvc_mover_close(struct kvc_mover *mover)
{
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++)
		KVC_PRE(kvc_mover_pending(mover, kind) == 0);
	kvc_free(mover->host.slots);
	kvc_free(mover->gpu.slots);
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
	move->status = status;
	move->length = length;
	move->state = KVC_MOVE_IDLE;
	move->slot = NULL;
	slot->move = NULL;
	kvc_list_push(&class->pool->free, &slot->node);
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
	        .plan = move->plan,
	        .image = move->slab ? move->slab + KVC_RECORD_HEADER_BYTES : NULL,
	        .image_bytes = move->image_bytes,
	        .vram = on_gpu ? move->vram : KVC_VRAM_NONE,
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

static bool class_has_room(const struct move_class *class, const struct kvc_move *move)
{
	return !class->running || class->running_bytes + move->image_bytes <= class->pool->class_bytes;
}

static void move_start(struct kvc_mover *mover, struct kvc_move *move)
{
	struct move_class *class = &mover->classes[move->kind];
	struct kvc_list *node = kvc_list_pop(&class->pool->free);
	struct kvc_move_slot *slot = kvc_container_of(node, struct kvc_move_slot, node);

	KVC_PRE(move->state == KVC_MOVE_QUEUED);
	kvc_list_remove(&move->node);
	class->queued--;
	class->running++;
	class->running_bytes += move->image_bytes;
	move->state = KVC_MOVE_RUNNING;
	move->slot = slot;
	slot->move = move;
	if (kind_is_disk(move->kind))
		request_start(slot);
	else
		job_start(slot);
}

/* Start what may run, kinds in the order of their urgency. */
static void mover_pump(struct kvc_mover *mover)
{
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++) {
		struct move_class *class = &mover->classes[kind];

		while (!kvc_list_empty(&class->queue) && !kvc_list_empty(&class->pool->free)) {
			struct kvc_move *move = kvc_container_of(class->queue.next, struct kvc_move, node);

			if (!class_has_room(class, move))
				break;
			move_start(mover, move);
		}
	}
}

void kvc_move_submit(struct kvc_mover *mover, struct kvc_move *move)
{
	struct move_class *class = &mover->classes[move->kind];

	KVC_PRE(move->state == KVC_MOVE_IDLE && move->done);
	KVC_PRE(mover->options.disk || !kind_is_disk(move->kind));
	KVC_PRE(!kind_is_gpu(move->kind) || (mover->options.gpu_slots && move->gpu));
	move->mover = mover;
	move->state = KVC_MOVE_QUEUED;
	kvc_list_push(&class->queue, &move->node);
	class->queued++;
	kvc_stat_add(class->stat_pending, 1);
	mover_pump(mover);
}

static void cancelled_run(struct kvc_task *task)
{
	struct kvc_move *move = kvc_container_of(task, struct kvc_move, cancelled);

	move->mover->classes[move->kind].queued--;
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
	kvc_list_remove(&move->node);
	move->cancelled.run = cancelled_run;
	kvc_loop_defer(mover->options.loop, &move->cancelled);
}
