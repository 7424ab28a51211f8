/* The CPU engine: a pool of threads that share the blocks in the queues.
 *
 *        submit                       encode: straight on
 *   IDLE ------> QUEUED --> OPENING --> RUNNING --> DRAINING --> FINISHED --> IDLE
 *                   |          |     ranges go out  none is left   ^     done, on the loop
 *                   +----------+-----------------------------------+
 *                    cancelled, or the image is bad
 *
 * Each flow has a queue, whose head is worked on by all threads: each takes the next range of tiles, about
 * RANGE_BYTES of source, so that one block is as fast as the pool; where several flows have jobs they take
 * turns by range (daemon/base/fair.h), and none may have all threads: what comes of another flow finds one
 * that is free. Who finishes a job's last range seals it and posts it to the loop. A cancelled or failed job
 * hands out no further ranges.
 *
 * One thread in RESERVE is *quick*: it is woken for a job that comes to a flow which had none, and asks the
 * kernel for short turns, so that on a full machine it goes before the others, which ask for long ones
 * (daemon/base/turn.h). While several flows are about, and only one of them is busy, it takes such jobs only.
 *
 * A client's image may change at any time, so each byte of it is read once: metadata are copied and then
 * opened, a range is copied and then verified.
 *
 * The mutex guards the queues, `stop` and the private fields of all queued jobs; it is never held over codec
 * work. Each worker owns its scratch memory, which grows to the largest tile it has met. */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/base/log.h"
#include "daemon/base/turn.h"
#include "daemon/engine/engine.h"

enum {
	RANGE_BYTES = 512 << 10,
	RANGE_STEP = 8, /* ranges begin at multiples of this: the raw map has 8 tiles a byte */
	SCRATCH_ALIGN = 64,
	RESERVE = 4, /* one thread in so many is kept for other flows, if there are any */
	QUICK_US = 300,
	BULK_US = 10000,
};

enum kind { BULK, QUICK, KINDS };

struct worker {
	pthread_t thread;
	struct engine_cpu *engine;
	uint8_t *memory;  /* what was allocated */
	uint8_t *scratch; /* aligned, inside it */
	size_t scratch_bytes;
	enum kind kind;
};

/* Threads of a kind that have nothing to do. */
struct idle {
	pthread_cond_t work; /* there may be something, or stop */
	uint32_t waiting;
	uint32_t woken; /* of those, on their way */
};

struct engine_cpu {
	struct kvc_engine base;
	struct kvc_loop *loop;
	const struct kvc_codec *codec;
	pthread_mutex_t lock;
	struct idle idle[KINDS];
	struct kvc_fair fair;
	struct kvc_engine_flow nobody; /* of jobs that name no flow */
	bool stop;
	bool shared; /* as the flow's job said that was submitted last */
	uint32_t worker_count;
	struct worker workers[];
};

/* A range of tiles of a job that a worker has taken. */
struct part {
	struct kvc_engine_job *job;
	uint32_t first;
	uint32_t count;
};

static struct engine_cpu *cpu_of(struct kvc_engine *engine)
{
	return kvc_container_of(engine, struct engine_cpu, base);
}

static void job_move(struct kvc_engine_job *job, enum kvc_engine_job_state to)
{
	static const uint32_t moves[] = {
	        [KVC_JOB_IDLE] = 1u << KVC_JOB_QUEUED,
	        [KVC_JOB_QUEUED] = 1u << KVC_JOB_OPENING | 1u << KVC_JOB_RUNNING | 1u << KVC_JOB_FINISHED,
	        [KVC_JOB_OPENING] = 1u << KVC_JOB_RUNNING | 1u << KVC_JOB_FINISHED,
	        [KVC_JOB_RUNNING] = 1u << KVC_JOB_DRAINING,
	        [KVC_JOB_DRAINING] = 1u << KVC_JOB_FINISHED,
	        [KVC_JOB_FINISHED] = 1u << KVC_JOB_IDLE,
	};

	KVC_INVARIANT(moves[job->state] & 1u << to);
	job->state = to;
}

/* --- on a worker, without the lock ---------------------------------------------------------------- */

static kvc_status scratch_ready(struct worker *worker, const struct kvc_image_plan *plan)
{
	size_t bytes = kvc_image_scratch_bytes(plan);
	uint8_t *memory;

	if (bytes <= worker->scratch_bytes)
		return KVC_OK;
	memory = kvc_calloc(1, bytes + SCRATCH_ALIGN);
	if (!memory)
		return KVC_NO_MEMORY;
	kvc_free(worker->memory);
	worker->memory = memory;
	worker->scratch = memory + (-(uintptr_t)memory & (SCRATCH_ALIGN - 1));
	worker->scratch_bytes = bytes;
	return KVC_OK;
}

static kvc_status part_decode(const struct worker *worker, const struct part *part)
{
	const struct kvc_engine_job *job = part->job;

	return kvc_image_decode_tiles(&job->opened, worker->engine->codec, &job->view, part->first,
	                              part->count, 0, worker->scratch);
}

static kvc_status part_encode(const struct worker *worker, const struct part *part)
{
	const struct kvc_engine_job *job = part->job;

	kvc_image_encode_tiles(job->plan, worker->engine->codec, &job->view, job->image, part->first,
	                       part->count, worker->scratch);
	return KVC_OK;
}

/* Between a client's image and the engine's, one way or the other. */
static void part_copy(const struct part *part, uint8_t *to, const uint8_t *from)
{
	struct kvc_image_extent extent = kvc_image_extent(&part->job->opened, part->first, part->count);

	memcpy(to + extent.slots.offset, from + extent.slots.offset, extent.slots.bytes);
	memcpy(to + extent.raw.offset, from + extent.raw.offset, extent.raw.bytes);
}

static kvc_status part_take_image(const struct part *part)
{
	const struct kvc_engine_job *job = part->job;

	part_copy(part, job->image, job->external.data);
	return kvc_image_verify_tiles(&job->opened, part->first, part->count);
}

static kvc_status part_give_image(const struct part *part)
{
	const struct kvc_engine_job *job = part->job;
	kvc_status status = kvc_image_verify_tiles(&job->opened, part->first, part->count);

	if (status == KVC_OK)
		part_copy(part, job->external.data, job->image);
	return status;
}

static kvc_status part_code(struct worker *worker, const struct part *part)
{
	bool encode = part->job->op == KVC_ENGINE_ENCODE;
	kvc_status status = scratch_ready(worker, encode ? part->job->plan : &part->job->opened.plan);

	if (status)
		return status;
	return encode ? part_encode(worker, part) : part_decode(worker, part);
}

static kvc_status part_run(struct worker *worker, const struct part *part)
{
	switch (part->job->op) {
	case KVC_ENGINE_VERIFY:
		return kvc_image_verify_tiles(&part->job->opened, part->first, part->count);
	case KVC_ENGINE_TAKE:
		return part_take_image(part);
	case KVC_ENGINE_GIVE:
		return part_give_image(part);
	default:
		return part_code(worker, part);
	}
}

static bool same_shape(const struct kvc_block_shape *a, const struct kvc_block_shape *b)
{
	return a->layers == b->layers && a->heads == b->heads && a->key_dim == b->key_dim &&
	       a->value_dim == b->value_dim && a->tokens == b->tokens && a->dtype == b->dtype;
}

/* The metadata of a client's image, from where it may change to where it does not. */
static kvc_status take_meta(struct kvc_engine_job *job)
{
	const struct kvc_image_view *from = &job->external;
	uint64_t meta;

	job->length = from->bytes;
	if (from->bytes > job->image_bytes)
		return KVC_NO_SPACE;
	if (from->bytes < KVC_IMAGE_HEADER_BYTES)
		return KVC_CORRUPT;
	memcpy(job->image, from->data, KVC_IMAGE_HEADER_BYTES);
	meta = kvc_image_meta_bytes(job->image);
	if (meta < KVC_IMAGE_HEADER_BYTES || meta > from->bytes)
		return KVC_CORRUPT;
	memcpy(job->image + KVC_IMAGE_HEADER_BYTES, from->data + KVC_IMAGE_HEADER_BYTES,
	       meta - KVC_IMAGE_HEADER_BYTES);
	return KVC_OK;
}

static kvc_status take_open(struct kvc_engine_job *job)
{
	kvc_status status = take_meta(job);

	if (status == KVC_OK)
		status = kvc_image_open(job->image, job->length, 0, &job->opened);
	if (status == KVC_OK && !kvc_image_is_of(&job->opened, job->plan))
		status = KVC_SHAPE;
	return status;
}

static kvc_status give_open(struct kvc_engine_job *job)
{
	if (!kvc_image_is_of(&job->opened, job->plan))
		return KVC_CORRUPT;
	job->length = job->image_bytes;
	if (job->image_bytes > job->external.bytes)
		return KVC_LIMIT;
	memcpy(job->external.data, job->image, job->opened.plan.meta_bytes);
	return KVC_OK;
}

/* The image says itself how it is coded; to decode it, it must agree on what it decodes to. */
static kvc_status job_open(struct kvc_engine_job *job)
{
	kvc_status status;

	if (job->op == KVC_ENGINE_TAKE)
		return take_open(job);
	status = kvc_image_open(job->image, job->image_bytes, 0, &job->opened);
	if (status == KVC_OK && job->op == KVC_ENGINE_GIVE)
		status = give_open(job);
	if (status == KVC_OK && job->op == KVC_ENGINE_DECODE &&
	    !same_shape(&job->opened.plan.shape, &job->plan->shape))
		status = KVC_CORRUPT;
	return status;
}

static uint32_t range_of(const struct kvc_image_plan *plan)
{
	uint64_t tile_bytes = kvc_block_raw_bytes(&plan->shape) / plan->tiles + 1;
	uint64_t range = kvc_round_up(RANGE_BYTES / tile_bytes + 1, RANGE_STEP);

	return range < plan->tiles ? (uint32_t)range : plan->tiles;
}

static void job_seal(struct kvc_engine_job *job)
{
	job->status = job->part_status;
	if (job->status == KVC_OK && job->op == KVC_ENGINE_ENCODE)
		job->status =
		        kvc_image_seal(job->plan, &job->view, job->image, job->image_bytes, &job->length);
}

/* --- under the lock ------------------------------------------------------------------------------- */

static void queue_push(struct engine_cpu *cpu, struct kvc_engine_job *job, bool at_head)
{
	struct kvc_engine_flow *flow = job->flow;

	kvc_list_push(at_head ? flow->jobs.next : &flow->jobs, &job->node);
	kvc_fair_enter(&cpu->fair, &flow->turn);
}

static void queue_remove(struct kvc_engine_job *job)
{
	kvc_list_remove(&job->node);
	if (kvc_list_empty(&job->flow->jobs))
		kvc_fair_leave(&job->flow->turn);
}

/* Of so many threads, those that are kept for other flows: the last ones, so that there are others if not all
 * can be had. */
static uint32_t threads_kept(uint32_t threads)
{
	return threads > 1 ? (threads + RESERVE - 1) / RESERVE : 0;
}

/* Threads that one flow may keep busy. */
static uint32_t flow_threads(const struct engine_cpu *cpu)
{
	return cpu->shared ? cpu->worker_count - threads_kept(cpu->worker_count) : cpu->worker_count;
}

static const struct kvc_engine_flow *flow_of(struct kvc_fair_flow *turn)
{
	return kvc_container_of(turn, struct kvc_engine_flow, turn);
}

static struct kvc_engine_job *flow_head(const struct kvc_engine_flow *flow)
{
	return kvc_container_of(flow->jobs.next, struct kvc_engine_job, node);
}

/* Whether quick threads take prompt jobs only: a single flow has more than that. Where two have, they would
 * else keep each other's threads idle. */
static bool is_prompt_only(const struct engine_cpu *cpu)
{
	uint32_t busy = 0;

	if (!cpu->shared)
		return false;
	for (struct kvc_fair_flow *turn = kvc_fair_first(&cpu->fair); turn && busy < 2;
	     turn = kvc_fair_next(&cpu->fair, turn))
		busy += !flow_head(flow_of(turn))->prompt;
	return busy < 2;
}

/* The first job of the flow whose turn it is, of those that may have one more thread, of this kind; NULL:
 * there is none. */
static struct kvc_engine_job *queue_first(const struct engine_cpu *cpu, enum kind kind)
{
	bool prompt_only = kind == QUICK && is_prompt_only(cpu);
	struct kvc_fair_flow *turn = kvc_fair_first(&cpu->fair);

	for (; turn; turn = kvc_fair_next(&cpu->fair, turn)) {
		const struct kvc_engine_flow *flow = flow_of(turn);

		if (flow->running < flow_threads(cpu) && (!prompt_only || flow_head(flow)->prompt))
			return flow_head(flow);
	}
	return NULL;
}

static void idle_wait(struct idle *idle, pthread_mutex_t *lock)
{
	idle->waiting++;
	pthread_cond_wait(&idle->work, lock);
	idle->waiting--;
	idle->woken -= idle->woken > 0;
}

/* False: there is none to wake. */
static bool idle_wake(struct idle *idle)
{
	if (idle->woken == idle->waiting)
		return false;
	idle->woken++;
	pthread_cond_signal(&idle->work);
	return true;
}

static void idle_wake_all(struct engine_cpu *cpu)
{
	for (unsigned kind = 0; kind < KINDS; kind++) {
		cpu->idle[kind].woken = cpu->idle[kind].waiting;
		pthread_cond_broadcast(&cpu->idle[kind].work);
	}
}

/* A thread is no longer at the flow's work. What it may not go on with itself is another's to take. */
static void flow_leave(struct engine_cpu *cpu, struct kvc_engine_flow *flow)
{
	flow->running--;
	if (!kvc_list_empty(&flow->jobs))
		idle_wake(&cpu->idle[BULK]);
}

/* One thread, for a job that has come. */
static void idle_wake_for(struct engine_cpu *cpu, const struct kvc_engine_job *job)
{
	if (job->prompt && idle_wake(&cpu->idle[QUICK]))
		return;
	if (!idle_wake(&cpu->idle[BULK]) && queue_first(cpu, QUICK))
		idle_wake(&cpu->idle[QUICK]);
}

static const struct kvc_image_plan *plan_of(const struct kvc_engine_job *job)
{
	return job->op == KVC_ENGINE_ENCODE ? job->plan : &job->opened.plan;
}

/* From here on ranges can be taken. */
static void job_begin(struct engine_cpu *cpu, struct kvc_engine_job *job)
{
	const struct kvc_image_plan *plan = plan_of(job);

	job->range = range_of(plan);
	job_move(job, KVC_JOB_RUNNING);
	queue_remove(job);
	queue_push(cpu, job, true); /* it was there when it was taken */
	if (job->range < plan->tiles)
		idle_wake_all(cpu);
}

static void job_drain(struct kvc_engine_job *job)
{
	queue_remove(job);
	job_move(job, KVC_JOB_DRAINING);
}

static struct part part_take(struct engine_cpu *cpu, struct kvc_engine_job *job)
{
	uint32_t tiles = plan_of(job)->tiles;
	uint64_t tile_bytes = kvc_block_raw_bytes(&plan_of(job)->shape) / tiles;
	uint32_t left = tiles - job->next_tile;
	struct part part = {job, job->next_tile, left < job->range ? left : job->range};

	job->next_tile += part.count;
	job->parts_running++;
	kvc_fair_charge(&cpu->fair, &job->flow->turn, part.count * tile_bytes);
	if (job->next_tile == tiles)
		job_drain(job);
	return part;
}

/* Hand out no further ranges. The first cause counts. */
static void job_stop(struct kvc_engine_job *job, kvc_status cause)
{
	if (job->part_status == KVC_OK)
		job->part_status = cause;
	if (job->state == KVC_JOB_RUNNING)
		job_drain(job);
}

/* True: it was the job's last part. */
static bool part_end(const struct part *part, kvc_status status)
{
	struct kvc_engine_job *job = part->job;

	if (status != KVC_OK)
		job_stop(job, status);
	job->parts_running--;
	return job->state == KVC_JOB_DRAINING && !job->parts_running;
}

/* --- worker ----------------------------------------------------------------------------------------- */

/* Called with the lock held, which is given up for a while; the job belongs to the loop afterwards. */
static void job_finish(struct engine_cpu *cpu, struct kvc_engine_job *job)
{
	job_move(job, KVC_JOB_FINISHED);
	pthread_mutex_unlock(&cpu->lock);
	kvc_loop_post(cpu->loop, &job->finished);
	pthread_mutex_lock(&cpu->lock);
}

/* Open the image of the job at the head, alone; other workers see the next job meanwhile. */
static void worker_open(struct engine_cpu *cpu, struct kvc_engine_job *job)
{
	const bool work = job->op == KVC_ENGINE_WORK;
	kvc_status status;

	queue_remove(job);
	job_move(job, KVC_JOB_OPENING);
	job->flow->running++;
	pthread_mutex_unlock(&cpu->lock);
	status = work ? job->work(job) : job_open(job);
	pthread_mutex_lock(&cpu->lock);
	flow_leave(cpu, job->flow);
	if (!work && status == KVC_OK && !job->cancelled) {
		job_begin(cpu, job);
		return;
	}
	job->status = !work && status == KVC_OK ? KVC_CANCELLED : status;
	job_finish(cpu, job);
}

static void worker_run_part(struct worker *worker, struct kvc_engine_job *job)
{
	struct engine_cpu *cpu = worker->engine;
	struct part part = part_take(cpu, job);
	kvc_status status;

	job->flow->running++;
	pthread_mutex_unlock(&cpu->lock);
	status = part_run(worker, &part);
	pthread_mutex_lock(&cpu->lock);
	flow_leave(cpu, job->flow);
	if (!part_end(&part, status))
		return;
	pthread_mutex_unlock(&cpu->lock);
	job_seal(job);
	pthread_mutex_lock(&cpu->lock);
	job_finish(cpu, job);
}

/* The next job; NULL: stop. */
static struct kvc_engine_job *worker_wait(struct worker *worker)
{
	struct engine_cpu *cpu = worker->engine;
	struct kvc_engine_job *job = NULL;

	while (!cpu->stop && !(job = queue_first(cpu, worker->kind)))
		idle_wait(&cpu->idle[worker->kind], &cpu->lock);
	return cpu->stop ? NULL : job;
}

static void *worker_main(void *context)
{
	struct worker *worker = context;
	struct engine_cpu *cpu = worker->engine;
	struct kvc_engine_job *job;

	kvc_turn_set(worker->kind == QUICK ? QUICK_US : BULK_US);
	pthread_mutex_lock(&cpu->lock);
	while ((job = worker_wait(worker))) {
		if (job->state == KVC_JOB_RUNNING)
			worker_run_part(worker, job);
		else if (job->op == KVC_ENGINE_ENCODE)
			job_begin(cpu, job);
		else
			worker_open(cpu, job);
	}
	pthread_mutex_unlock(&cpu->lock);
	return NULL;
}

/* --- on the loop ------------------------------------------------------------------------------------ */

static void finished_run(struct kvc_task *task)
{
	struct kvc_engine_job *job = kvc_container_of(task, struct kvc_engine_job, finished);

	job_move(job, KVC_JOB_IDLE);
	job->done(job);
}

static void image_check(const struct kvc_engine_job *job)
{
	KVC_PRE(job->image && (uintptr_t)job->image % KVC_IMAGE_ALIGN == 0);
	KVC_PRE(job->plan || job->op == KVC_ENGINE_VERIFY);
	KVC_PRE(job->op != KVC_ENGINE_LOWER);
	KVC_PRE(job->op != KVC_ENGINE_ENCODE || job->image_bytes >= job->plan->image_bytes);
}

static void cpu_submit(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	struct engine_cpu *cpu = cpu_of(engine);

	KVC_PRE(job->done && job->state == KVC_JOB_IDLE);
	if (job->op == KVC_ENGINE_WORK)
		KVC_PRE(job->work);
	else
		image_check(job);
	job->engine = engine;
	if (!job->flow)
		job->flow = &cpu->nobody;
	job->finished = (struct kvc_task){.run = finished_run};
	job->next_tile = 0;
	job->parts_running = 0;
	job->cancelled = false;
	job->part_status = KVC_OK;
	job->length = 0;
	pthread_mutex_lock(&cpu->lock);
	job_move(job, KVC_JOB_QUEUED);
	job->prompt = kvc_list_empty(&job->flow->jobs) && !job->flow->running;
	job->flow->turn.weight = job->flow->weight;
	if (job->flow != &cpu->nobody)
		cpu->shared = job->shared;
	queue_push(cpu, job, false);
	idle_wake_for(cpu, job);
	pthread_mutex_unlock(&cpu->lock);
}

/* True: nobody works at the job, and nobody will. */
static bool job_cancel(struct kvc_engine_job *job)
{
	job->cancelled = true;
	if (job->state == KVC_JOB_RUNNING)
		job_stop(job, KVC_CANCELLED);
	else if (job->state == KVC_JOB_QUEUED)
		queue_remove(job);
	else
		return false;
	return !job->parts_running;
}

static void cpu_cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	struct engine_cpu *cpu = cpu_of(engine);

	pthread_mutex_lock(&cpu->lock);
	if (job_cancel(job)) {
		job->status = KVC_CANCELLED;
		job_finish(cpu, job);
	}
	pthread_mutex_unlock(&cpu->lock);
}

/* --- life ------------------------------------------------------------------------------------------- */

static void workers_join(struct engine_cpu *cpu)
{
	pthread_mutex_lock(&cpu->lock);
	cpu->stop = true;
	idle_wake_all(cpu);
	pthread_mutex_unlock(&cpu->lock);
	for (uint32_t i = 0; i < cpu->worker_count; i++) {
		pthread_join(cpu->workers[i].thread, NULL);
		kvc_free(cpu->workers[i].memory);
	}
}

static void cpu_close(struct kvc_engine *engine)
{
	struct engine_cpu *cpu = cpu_of(engine);

	KVC_PRE(!kvc_fair_first(&cpu->fair));
	workers_join(cpu);
	for (unsigned kind = 0; kind < KINDS; kind++)
		pthread_cond_destroy(&cpu->idle[kind].work);
	pthread_mutex_destroy(&cpu->lock);
	kvc_free(cpu);
}

/* As many threads as can be had; signals stay with the loop thread. */
static void workers_start(struct engine_cpu *cpu, uint32_t threads)
{
	sigset_t all, before;
	int error = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (uint32_t i = 0; i < threads && !error; i++) {
		cpu->workers[i].engine = cpu;
		cpu->workers[i].kind = i < threads - threads_kept(threads) ? BULK : QUICK;
		error = pthread_create(&cpu->workers[i].thread, NULL, worker_main, &cpu->workers[i]);
		cpu->worker_count += !error;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		kvc_warn("only %u of %u codec threads: %s", cpu->worker_count, threads, strerror(error));
}

static const struct kvc_engine_ops cpu_ops = {
        .name = "cpu",
        .submit = cpu_submit,
        .cancel = cpu_cancel,
        .close = cpu_close,
};

kvc_status kvc_engine_cpu_open(struct kvc_loop *loop, uint32_t threads, enum kvc_simd simd,
                               struct kvc_engine **engine)
{
	const struct kvc_codec *codec = kvc_codec_get(simd);
	struct engine_cpu *cpu;

	KVC_PRE(threads > 0);
	if (!codec)
		return KVC_UNSUPPORTED;
	cpu = kvc_calloc(1, sizeof *cpu + threads * sizeof(struct worker));
	if (!cpu)
		return KVC_NO_MEMORY;
	cpu->base.ops = &cpu_ops;
	cpu->loop = loop;
	cpu->codec = codec;
	pthread_mutex_init(&cpu->lock, NULL);
	for (unsigned kind = 0; kind < KINDS; kind++)
		pthread_cond_init(&cpu->idle[kind].work, NULL);
	kvc_fair_init(&cpu->fair);
	kvc_engine_flow_init(&cpu->nobody);
	workers_start(cpu, threads);
	if (!cpu->worker_count) {
		cpu_close(&cpu->base);
		return KVC_BUSY;
	}
	kvc_info("codec: %s, %u threads", codec->name, cpu->worker_count);
	*engine = &cpu->base;
	return KVC_OK;
}
