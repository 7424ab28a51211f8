/* Jobs of a GPU engine: the table of engine.h, jobs to packets, results to jobs.
 *
 * A job waits in `queue` until a packet takes it, then in `sent` until its result comes or the process is
 * gone. All that was submitted in one turn of the loop is there when the packet is made, so that the blocks
 * of one request travel, and are launched, together.
 *
 *   IDLE --submit--> QUEUED --packet--> RUNNING --result, or reaped--> IDLE, done
 *                      '--cancel, or refused--> FINISHED --task--> IDLE, done
 */
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/engine/gpu_private.h"

enum { SKIPS = 256 }; /* jobs of other groups that the search for more of one passes over */

static_assert(KVC_VRAM_NONE == KVC_GPU_NOWHERE, "goes out as it is");
static_assert(sizeof(struct kvc_gpu_jobs) + sizeof(struct kvc_gpu_job) + 4 * KVC_GPU_PAGES_MAX <=
                      KVC_GPU_MESSAGE_BYTES,
              "any job fits a packet");

static struct kvc_gpu *gpu_of(struct kvc_engine *engine)
{
	return kvc_container_of(engine, struct kvc_gpu, engine);
}

/* NULL: it names none. */
static struct kvc_pool *pool_of(const struct kvc_engine_job *job)
{
	return job->op == KVC_ENGINE_LOWER ? NULL : job->device.pool;
}

/* ---- ends ---------------------------------------------------------------------------------- */

/* Detach before the call: the owner may submit it again from there. */
static void job_end(struct kvc_engine_job *job)
{
	if (pool_of(job))
		kvc_gpu_pool_use(pool_of(job), -1);
	job->state = KVC_JOB_IDLE;
	job->done(job);
}

static void finished_run(struct kvc_task *task)
{
	job_end(kvc_container_of(task, struct kvc_engine_job, finished));
}

static void job_finish(struct kvc_gpu *gpu, struct kvc_engine_job *job, kvc_status status)
{
	job->status = status;
	job->state = KVC_JOB_FINISHED;
	job->finished.run = finished_run;
	kvc_loop_defer(gpu->options.loop, &job->finished);
}

/* ---- the table ----------------------------------------------------------------------------- */

static bool in_arena(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	const uint8_t *base = kvc_arena_base(gpu->options.arena);
	uint64_t bytes = kvc_arena_bytes(gpu->options.arena);

	return job->image >= base && job->image_bytes <= bytes &&
	       (uint64_t)(job->image - base) <= bytes - job->image_bytes &&
	       (job->image - base) % KVC_IMAGE_ALIGN == 0;
}

static bool in_vram(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	uint64_t bytes = gpu->options.vram_bytes;

	return job->plan->image_bytes <= bytes && job->vram <= bytes - job->plan->image_bytes;
}

static void job_check(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	KVC_PRE(job->op == KVC_ENGINE_ENCODE || job->op == KVC_ENGINE_DECODE || job->op == KVC_ENGINE_LOWER);
	KVC_PRE(job->state == KVC_JOB_IDLE && job->plan && job->done);
	KVC_PRE(job->image || job->vram != KVC_VRAM_NONE);
	KVC_PRE(!job->image || in_arena(gpu, job));
	KVC_PRE(job->vram == KVC_VRAM_NONE || in_vram(gpu, job));
	if (job->op == KVC_ENGINE_LOWER)
		KVC_PRE(job->image && job->vram != KVC_VRAM_NONE);
	else
		KVC_PRE(job->device.pool && kvc_pool_gpu(job->device.pool) == gpu && job->device.pages &&
		        job->device.page_count && job->device.page_count <= KVC_GPU_PAGES_MAX);
}

/* A job may have waited elsewhere while the engine was lost and came back: what it names in VRAM is gone, and
 * others' blocks lie there. */
static bool can_take(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	return gpu->state == GPU_UP && (!pool_of(job) || kvc_gpu_pool_usable(pool_of(job))) &&
	       (job->vram == KVC_VRAM_NONE || job->life == gpu->life);
}

/* Where an image is to come no other one may stand, which would be taken for it if the engine says that it
 * has written it and has not. */
static void image_clear(const struct kvc_engine_job *job)
{
	if (job->op != KVC_ENGINE_DECODE && job->image && job->image_bytes >= KVC_IMAGE_HEADER_BYTES)
		memset(job->image, 0, KVC_IMAGE_HEADER_BYTES);
}

static void submit(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	struct kvc_gpu *gpu = gpu_of(engine);

	job_check(gpu, job);
	job->engine = engine;
	job->length = 0;
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS], 1);
	if (pool_of(job))
		kvc_gpu_pool_use(pool_of(job), 1);
	if (!can_take(gpu, job)) {
		kvc_stat_add(gpu->cells[GPU_CELL_JOBS_LOST], 1);
		job_finish(gpu, job, KVC_ENGINE_LOST);
		return;
	}
	image_clear(job);
	job->state = KVC_JOB_QUEUED;
	kvc_list_push(&gpu->queue, &job->node);
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS_QUEUED], 1);
	kvc_gpu_pump(gpu);
}

/* What has been sent ends as it would, unless it still waits for its worker's mark: the engine is told. */
static void cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	struct kvc_gpu *gpu = gpu_of(engine);

	if (job->state == KVC_JOB_RUNNING && !gpu->slots[job->slot].cancel) {
		gpu->slots[job->slot].cancel = true;
		gpu->cancels++;
		kvc_gpu_pump(gpu);
	}
	if (job->state != KVC_JOB_QUEUED)
		return;
	kvc_list_remove(&job->node);
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS_QUEUED], -1);
	job_finish(gpu, job, KVC_CANCELLED);
}

/* Its life is kvc_gpu_close's: an engine process takes time to end. */
static void engine_close(struct kvc_engine *engine)
{
	KVC_PRE(gpu_of(engine)->state == GPU_CLOSING);
}

static const struct kvc_engine_ops gpu_ops = {
        .name = "gpu",
        .submit = submit,
        .cancel = cancel,
        .close = engine_close,
};

struct kvc_engine *kvc_gpu_engine(struct kvc_gpu *gpu)
{
	return &gpu->engine;
}

/* ---- slots --------------------------------------------------------------------------------- */

static void slot_free(struct kvc_gpu *gpu, uint32_t number)
{
	struct gpu_slot *slot = &gpu->slots[number];

	gpu->cancels -= slot->cancel;
	slot->cancel = false;
	slot->job = NULL;
	slot->generation++;
	slot->next_free = gpu->free_slot;
	gpu->free_slot = number;
}

static void slot_take(struct kvc_gpu *gpu, struct kvc_engine_job *job)
{
	struct gpu_slot *slot = &gpu->slots[gpu->free_slot];

	KVC_INVARIANT(gpu->free_slot < GPU_SLOTS && !slot->job);
	job->slot = gpu->free_slot;
	gpu->free_slot = slot->next_free;
	slot->job = job;
	slot->sent_ms = kvc_loop_now_ms(gpu->options.loop);
}

static uint64_t seq_of(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	return (uint64_t)gpu->slots[job->slot].generation << 32 | job->slot;
}

/* NULL: the engine has no such job. */
static struct kvc_engine_job *job_of(const struct kvc_gpu *gpu, uint64_t seq)
{
	uint32_t number = (uint32_t)seq;

	if (number >= GPU_SLOTS || gpu->slots[number].generation != (uint32_t)(seq >> 32))
		return NULL;
	return gpu->slots[number].job;
}

/* ---- to the engine ------------------------------------------------------------------------- */

static bool same_plan(const struct kvc_image_plan *a, const struct kvc_image_plan *b)
{
	return a == b || (memcmp(&a->shape, &b->shape, sizeof a->shape) == 0 &&
	                  memcmp(&a->codec, &b->codec, sizeof a->codec) == 0);
}

static struct kvc_mark mark_of(const struct kvc_engine_job *job)
{
	return pool_of(job) ? job->device.mark : (struct kvc_mark){0};
}

static bool same_mark(struct kvc_mark a, struct kvc_mark b)
{
	return a.place == b.place && a.value == b.value;
}

static bool same_group(const struct kvc_engine_job *a, const struct kvc_engine_job *b)
{
	return a->op == b->op && pool_of(a) == pool_of(b) && same_mark(mark_of(a), mark_of(b)) &&
	       same_plan(a->plan, b->plan);
}

static uint32_t pages_of(const struct kvc_engine_job *job)
{
	return pool_of(job) ? job->device.page_count : 0;
}

static size_t job_bytes(const struct kvc_engine_job *job)
{
	return sizeof(struct kvc_gpu_job) + pages_of(job) * sizeof(uint32_t);
}

/* Move the first job, and all others of its group as far as they fit, into `packet`. The queue is short, or
 * of few groups; the bound on jobs that are passed over keeps it linear in any case. */
static uint32_t packet_collect(struct kvc_gpu *gpu, struct kvc_list *packet)
{
	const struct kvc_engine_job *first = kvc_container_of(gpu->queue.next, struct kvc_engine_job, node);
	size_t bytes = sizeof(struct kvc_gpu_jobs);
	uint32_t skips = 0, count = 0;

	kvc_list_each_safe (node, &gpu->queue) {
		struct kvc_engine_job *job = kvc_container_of(node, struct kvc_engine_job, node);

		if (skips == SKIPS || gpu->free_slot == GPU_SLOTS)
			break;
		if (!same_group(first, job) || bytes + job_bytes(job) > KVC_GPU_MESSAGE_BYTES) {
			skips++;
			continue;
		}
		bytes += job_bytes(job);
		slot_take(gpu, job);
		kvc_list_remove(node);
		kvc_list_push(packet, node);
		count++;
	}
	return count;
}

static void job_describe(const struct kvc_gpu *gpu, const struct kvc_engine_job *job,
                         struct kvc_gpu_job *wire)
{
	*wire = (struct kvc_gpu_job){
	        .seq = seq_of(gpu, job),
	        .image = job->image ? (uint64_t)(job->image - kvc_arena_base(gpu->options.arena))
	                            : KVC_GPU_NOWHERE,
	        .image_bytes = job->image_bytes,
	        .vram = job->vram,
	        .first_token = pool_of(job) ? job->device.first_token : 0,
	        .page_count = pages_of(job),
	};
}

/* Head, jobs, then the pages of all. */
static size_t packet_write(struct kvc_gpu *gpu, const struct kvc_list *packet, uint32_t count)
{
	const struct kvc_engine_job *first = kvc_container_of(packet->next, struct kvc_engine_job, node);
	struct kvc_gpu_jobs *jobs = (struct kvc_gpu_jobs *)(void *)gpu->out;
	struct kvc_gpu_job *wire = (struct kvc_gpu_job *)(void *)(jobs + 1);
	uint8_t *pages = (uint8_t *)(wire + count);

	*jobs = (struct kvc_gpu_jobs){
	        .header = {KVC_GPU_JOBS, pool_of(first) ? kvc_gpu_pool_id(pool_of(first)) : 0},
	        .op = first->op,
	        .count = count,
	        .mark = mark_of(first),
	        .shape = first->plan->shape,
	        .codec = first->plan->codec,
	};
	kvc_list_each (node, packet) {
		const struct kvc_engine_job *job = kvc_container_of(node, struct kvc_engine_job, node);
		size_t bytes = pages_of(job) * sizeof(uint32_t);

		job_describe(gpu, job, wire++);
		if (bytes)
			memcpy(pages, job->device.pages, bytes);
		pages += bytes;
	}
	return (size_t)(pages - gpu->out);
}

/* It does not go out now: as if nothing had been collected. */
static void packet_undo(struct kvc_gpu *gpu, struct kvc_list *packet)
{
	kvc_list_each (node, packet)
		slot_free(gpu, kvc_container_of(node, struct kvc_engine_job, node)->slot);
	kvc_list_splice(packet, &gpu->queue);
	kvc_list_splice(&gpu->queue, packet);
}

kvc_status kvc_gpu_jobs_send(struct kvc_gpu *gpu)
{
	struct kvc_list packet;
	kvc_status status;
	uint32_t count;

	if (kvc_list_empty(&gpu->queue) || gpu->free_slot == GPU_SLOTS)
		return KVC_MISS;
	kvc_list_init(&packet);
	count = packet_collect(gpu, &packet);
	status = kvc_gpu_link_send(gpu, packet_write(gpu, &packet, count), NULL, 0);
	if (status != KVC_OK) {
		packet_undo(gpu, &packet);
		return status;
	}
	kvc_list_each (node, &packet)
		kvc_container_of(node, struct kvc_engine_job, node)->state = KVC_JOB_RUNNING;
	kvc_list_splice(&gpu->sent, &packet);
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS_QUEUED], -(int64_t)count);
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS_SENT], count);
	return KVC_OK;
}

/* Those that fit a packet; the rest goes with the next one. */
static uint32_t cancels_write(struct kvc_gpu *gpu, uint64_t *seqs, uint32_t most)
{
	uint32_t count = 0;

	kvc_list_each (node, &gpu->sent) {
		const struct kvc_engine_job *job = kvc_container_of(node, struct kvc_engine_job, node);

		if (count == most)
			break;
		if (gpu->slots[job->slot].cancel)
			seqs[count++] = seq_of(gpu, job);
	}
	return count;
}

kvc_status kvc_gpu_cancels_send(struct kvc_gpu *gpu)
{
	struct kvc_gpu_header *header = (struct kvc_gpu_header *)(void *)gpu->out;
	uint64_t *seqs = (uint64_t *)(void *)(header + 1);
	kvc_status status;
	uint32_t count;

	if (!gpu->cancels)
		return KVC_MISS;
	count = cancels_write(gpu, seqs, (KVC_GPU_MESSAGE_BYTES - sizeof *header) / sizeof *seqs);
	*header = (struct kvc_gpu_header){KVC_GPU_CANCEL, count};
	status = kvc_gpu_link_send(gpu, sizeof *header + count * sizeof *seqs, NULL, 0);
	for (uint32_t i = 0; status == KVC_OK && i < count; i++)
		gpu->slots[(uint32_t)seqs[i]].cancel = false;
	gpu->cancels -= status == KVC_OK ? count : 0;
	return status;
}

uint64_t kvc_gpu_jobs_oldest_ms(const struct kvc_gpu *gpu)
{
	if (kvc_list_empty(&gpu->sent))
		return UINT64_MAX;
	return gpu->slots[kvc_container_of(gpu->sent.next, struct kvc_engine_job, node)->slot].sent_ms;
}

/* ---- from the engine ----------------------------------------------------------------------- */

/* Whether an encode can have ended so: an image fits where it went and is no shorter than its header, and
 * what is said to be needed is more than was given and no more than any image of the block takes. */
static bool length_right(const struct kvc_engine_job *job, const struct kvc_gpu_result *result)
{
	uint64_t room = job->image ? job->image_bytes : job->plan->image_bytes;

	if (job->op != KVC_ENGINE_ENCODE)
		return true;
	if (result->status == KVC_NO_SPACE)
		return result->length > room && result->length <= job->plan->raw_image_bytes;
	if (result->status != KVC_OK)
		return true;
	if (!job->image)
		return result->length == job->plan->image_bytes;
	return result->length >= KVC_IMAGE_HEADER_BYTES && result->length <= room;
}

static bool status_right(const struct kvc_engine_job *job, uint32_t status)
{
	return status < KVC_STATUS_COUNT && status != KVC_MISS && status != KVC_BUSY &&
	       (status != KVC_NO_SPACE || job->op == KVC_ENGINE_ENCODE);
}

static void job_detach(struct kvc_gpu *gpu, struct kvc_engine_job *job, kvc_status status)
{
	slot_free(gpu, job->slot);
	kvc_list_remove(&job->node);
	kvc_stat_add(gpu->cells[GPU_CELL_JOBS_SENT], -1);
	job->status = status;
}

/* False: it is nonsense, and the engine is being ended; its job ends with it. */
static bool result_take(struct kvc_gpu *gpu, const struct kvc_gpu_result *result, struct kvc_list *ended)
{
	struct kvc_engine_job *job = job_of(gpu, result->seq);

	if (!job) {
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it answered a job %llx that it does not have",
		             (unsigned long long)result->seq);
		return false;
	}
	if (result->status == KVC_ENGINE_LOST) { /* then it is, and what rests in its VRAM with it */
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it says that its device is lost");
		return false;
	}
	if (!status_right(job, result->status) || !length_right(job, result)) {
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST,
		             "it answered a job of kind %d with status %u and length %llu", job->op,
		             result->status, (unsigned long long)result->length);
		return false;
	}
	job_detach(gpu, job, (kvc_status)result->status);
	job->length = job->op == KVC_ENGINE_ENCODE ? result->length : job->plan->image_bytes;
	kvc_list_push(ended, &job->node);
	return true;
}

static void ended_call(struct kvc_list *ended)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(ended)))
		job_end(kvc_container_of(node, struct kvc_engine_job, node));
}

void kvc_gpu_jobs_results(struct kvc_gpu *gpu, const struct kvc_gpu_result *results, uint32_t count)
{
	struct kvc_list ended;

	kvc_list_init(&ended);
	kvc_gpu_progress(gpu);
	for (uint32_t i = 0; i < count && result_take(gpu, &results[i], &ended); i++)
		;
	ended_call(&ended);
	if (!kvc_list_empty(&gpu->queue))
		kvc_gpu_pump(gpu);
}

/* Cancelling stays possible while they are ended one by one: whoever is called may cancel the next. */
void kvc_gpu_jobs_lose(struct kvc_gpu *gpu)
{
	struct kvc_list *node;

	while (!kvc_list_empty(&gpu->sent)) {
		struct kvc_engine_job *job = kvc_container_of(gpu->sent.next, struct kvc_engine_job, node);

		job_detach(gpu, job, KVC_ENGINE_LOST);
		kvc_stat_add(gpu->cells[GPU_CELL_JOBS_LOST], 1);
		job_end(job);
	}
	while ((node = kvc_list_pop(&gpu->queue))) {
		struct kvc_engine_job *job = kvc_container_of(node, struct kvc_engine_job, node);

		kvc_stat_add(gpu->cells[GPU_CELL_JOBS_QUEUED], -1);
		kvc_stat_add(gpu->cells[GPU_CELL_JOBS_LOST], 1);
		job->status = KVC_ENGINE_LOST;
		job_end(job);
	}
}

/* ---- life ---------------------------------------------------------------------------------- */

kvc_status kvc_gpu_jobs_open(struct kvc_gpu *gpu)
{
	gpu->slots = kvc_calloc(GPU_SLOTS, sizeof *gpu->slots);
	if (!gpu->slots)
		return KVC_NO_MEMORY;
	gpu->engine.ops = &gpu_ops;
	kvc_list_init(&gpu->queue);
	kvc_list_init(&gpu->sent);
	gpu->free_slot = GPU_SLOTS;
	for (uint32_t i = GPU_SLOTS; i > 0; i--)
		slot_free(gpu, i - 1);
	return KVC_OK;
}

void kvc_gpu_jobs_close(struct kvc_gpu *gpu)
{
	kvc_free(gpu->slots);
}
