/* A GPU engine in this process: jobs run whole at a random later step, with the real codec; device memory is
 * host memory. Images in VRAM have no header, as with the real one. Stands in for daemon/engine/gpu.h.
 *
 *   UP --end--> ENDING --reaped--> DOWN --later--> UP
 *
 * As with the real one, a process that ends takes no jobs but keeps those that it has: it may still write
 * what they name, and what it said before may still be heard. */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "kernels/kern.h"
#include "tests/sim/sim.h"

enum { ROOM = 1 << 17, ALIGN = 64 };

struct kvc_gpu {
	struct kvc_engine engine;
	struct kvc_loop *loop;
	struct sim_random *random;
	struct kvc_gpu_events events;
	struct sim_gpu_faults faults;
	struct kvc_list jobs;
	struct sim_event turn; /* the next job ends */
	struct sim_event reap; /* what has ended is gone */
	struct sim_event back; /* up again */
	bool turn_queued;
	enum { DOWN, UP, ENDING } state;
	bool hangs;
	uint32_t life; /* as kvc_gpu_life */
	uint8_t *vram;
	uint64_t vram_bytes;
};

struct kvc_pool {
	struct kvc_gpu *gpu;
	uint32_t page_bytes;
	uint8_t *keys;
	uint8_t *values;
};

/* ---- pools --------------------------------------------------------------------------------- */

struct kvc_pool *sim_pool_open(struct kvc_gpu *gpu, uint32_t pages, uint32_t page_bytes)
{
	struct kvc_pool *pool = calloc(1, sizeof *pool);

	KVC_INVARIANT(pool);
	*pool = (struct kvc_pool){gpu, page_bytes, calloc(pages, page_bytes), calloc(pages, page_bytes)};
	KVC_INVARIANT(pool->keys && pool->values);
	return pool;
}

void sim_pool_free(struct kvc_pool *pool)
{
	free(pool->keys);
	free(pool->values);
	free(pool);
}

void *sim_pool_key(struct kvc_pool *pool, uint32_t page)
{
	return pool->keys + (size_t)page * pool->page_bytes;
}

void *sim_pool_value(struct kvc_pool *pool, uint32_t page)
{
	return pool->values + (size_t)page * pool->page_bytes;
}

struct kvc_gpu *kvc_pool_gpu(const struct kvc_pool *pool)
{
	return pool->gpu;
}

/* ---- jobs ---------------------------------------------------------------------------------- */

struct room {
	_Alignas(ALIGN) uint8_t image[ROOM];
	_Alignas(ALIGN) uint8_t scratch[ROOM];
};

static struct kvc_block_view view_of(const struct kvc_engine_job *job)
{
	const struct kvc_device_view *device = &job->device;
	struct kvc_block_view view = {.key = sim_pool_key(device->pool, device->pages[0]),
	                              .value = sim_pool_value(device->pool, device->pages[0])};

	kvc_block_layout_default(&job->plan->shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&job->plan->shape, KVC_KIND_VALUE, &view.value_layout);
	return view;
}

static kvc_status gather(const struct kvc_gpu *gpu, struct kvc_engine_job *job, struct room *room)
{
	struct kvc_block_view view = view_of(job);
	kvc_status status;

	kvc_image_encode_tiles(job->plan, kvc_codec_get(KVC_SIMD_SCALAR), &view, room->image, 0,
	                       job->plan->tiles, room->scratch);
	status = kvc_image_seal(job->plan, &view, room->image, job->image_bytes, &job->length);
	if (status != KVC_OK)
		return status;
	if (!job->image)
		memset(room->image, 0, KVC_IMAGE_HEADER_BYTES);
	memcpy(job->image ? job->image : gpu->vram + job->vram, room->image, job->length);
	return KVC_OK;
}

/* What rests in VRAM, with a header; without one if damage has left none that fits. */
static kvc_status vram_image(struct kvc_gpu *gpu, const struct kvc_engine_job *job, uint8_t *image)
{
	uint64_t length;
	kvc_status status;

	if (sim_one_in(gpu->random, gpu->faults.flip))
		gpu->vram[job->vram + KVC_IMAGE_HEADER_BYTES +
		          sim_next(gpu->random) % (job->image_bytes - KVC_IMAGE_HEADER_BYTES)] ^= 1;
	memcpy(image, gpu->vram + job->vram, job->image_bytes);
	status = kvc_kern_image_seal(job->plan, image, job->image_bytes, &length);
	if (status != KVC_OK)
		memset(image, 0, KVC_IMAGE_HEADER_BYTES);
	return status;
}

static kvc_status scatter(struct kvc_gpu *gpu, struct kvc_engine_job *job, struct room *room)
{
	struct kvc_block_view view = view_of(job);
	struct kvc_image image;
	kvc_status status;

	if (job->image)
		memcpy(room->image, job->image, job->image_bytes);
	else
		(void)vram_image(gpu, job, room->image);
	status = kvc_image_open(room->image, job->image_bytes, 0, &image);
	if (status != KVC_OK)
		return status;
	if (job->image && job->vram != KVC_VRAM_NONE) {
		memcpy(gpu->vram + job->vram, room->image, job->image_bytes);
		memset(gpu->vram + job->vram, 0, KVC_IMAGE_HEADER_BYTES);
	}
	return kvc_image_decode_tiles(&image, kvc_codec_get(KVC_SIMD_SCALAR), &view, 0, image.plan.tiles, 0,
	                              room->scratch);
}

/* What the job names is there, from its submission to its end. */
static void job_check(const struct kvc_gpu *gpu, const struct kvc_engine_job *job)
{
	KVC_INVARIANT(job->plan->raw_image_bytes <= ROOM);
	KVC_INVARIANT(job->vram == KVC_VRAM_NONE || (job->vram + job->image_bytes <= gpu->vram_bytes &&
	                                             job->image_bytes == job->plan->image_bytes));
}

static kvc_status job_run(struct kvc_gpu *gpu, struct kvc_engine_job *job)
{
	static struct room room;

	job_check(gpu, job);
	if (job->op == KVC_ENGINE_ENCODE)
		return gather(gpu, job, &room);
	if (job->op == KVC_ENGINE_DECODE)
		return scatter(gpu, job, &room);
	KVC_INVARIANT(job->op == KVC_ENGINE_LOWER);
	return vram_image(gpu, job, job->image);
}

/* ---- engine -------------------------------------------------------------------------------- */

static void turn_add(struct kvc_gpu *gpu)
{
	if (gpu->turn_queued || gpu->hangs || kvc_list_empty(&gpu->jobs))
		return;
	gpu->turn_queued = true;
	sim_event_add(gpu->loop, &gpu->turn);
}

static void job_end(struct kvc_engine_job *job, kvc_status status)
{
	job->status = status;
	job->done(job);
}

static struct kvc_engine_job *job_pop(struct kvc_gpu *gpu)
{
	struct kvc_list *node = kvc_list_pop(&gpu->jobs);

	return node ? kvc_container_of(node, struct kvc_engine_job, node) : NULL;
}

/* One of the first few: operations have lanes of their own, and batches are of one kind. */
static struct kvc_engine_job *job_draw(struct kvc_gpu *gpu)
{
	struct kvc_list *node = gpu->jobs.next;

	if (kvc_list_empty(&gpu->jobs))
		return NULL;
	for (uint64_t skip = gpu->faults.disorder ? sim_next(gpu->random) % 4 : 0;
	     skip && node->next != &gpu->jobs; skip--)
		node = node->next;
	kvc_list_remove(node);
	return kvc_container_of(node, struct kvc_engine_job, node);
}

static kvc_status job_result(struct kvc_gpu *gpu, struct kvc_engine_job *job)
{
	return job->cancelled ? KVC_CANCELLED : job_run(gpu, job);
}

static void back(struct sim_event *event)
{
	struct kvc_gpu *gpu = kvc_container_of(event, struct kvc_gpu, back);

	gpu->state = UP;
	if (gpu->events.up)
		gpu->events.up(gpu->events.context, gpu);
}

/* Some jobs were done and told in time; of the others some were done, and nobody heard of it. */
static void jobs_last(struct kvc_gpu *gpu)
{
	struct kvc_engine_job *job;

	while (sim_one_in(gpu->random, 2) && (job = job_draw(gpu)))
		job_end(job, job_result(gpu, job));
	kvc_list_each (node, &gpu->jobs)
		if (sim_one_in(gpu->random, 2))
			(void)job_run(gpu, kvc_container_of(node, struct kvc_engine_job, node));
}

static void gone(struct kvc_gpu *gpu)
{
	struct kvc_engine_job *job;

	gpu->state = DOWN;
	gpu->life++;
	memset(gpu->vram, 0xDB, gpu->vram_bytes);
	if (gpu->events.down)
		gpu->events.down(gpu->events.context, gpu);
	while ((job = job_pop(gpu))) {
		job_check(gpu, job);
		job_end(job, KVC_ENGINE_LOST);
	}
	sim_event_add(gpu->loop, &gpu->back);
}

void sim_gpu_end(struct kvc_gpu *gpu)
{
	if (gpu->state == UP)
		gpu->state = ENDING;
}

void sim_gpu_reap(struct kvc_gpu *gpu)
{
	KVC_PRE(gpu->state == ENDING);
	jobs_last(gpu);
	gone(gpu);
}

void sim_gpu_kill(struct kvc_gpu *gpu)
{
	if (gpu->state == UP)
		gone(gpu);
}

static void reap(struct sim_event *event)
{
	sim_gpu_reap(kvc_container_of(event, struct kvc_gpu, reap));
}

void sim_gpu_lose(struct kvc_gpu *gpu)
{
	if (gpu->state != UP)
		return;
	if (sim_one_in(gpu->random, 2)) {
		sim_gpu_kill(gpu);
		return;
	}
	sim_gpu_end(gpu);
	sim_event_add(gpu->loop, &gpu->reap);
}

static void turn(struct sim_event *event)
{
	struct kvc_gpu *gpu = kvc_container_of(event, struct kvc_gpu, turn);
	struct kvc_engine_job *job;

	gpu->turn_queued = false;
	if (gpu->state == UP && sim_one_in(gpu->random, gpu->faults.kill))
		sim_gpu_lose(gpu);
	if (gpu->state != UP)
		return;
	job = job_draw(gpu);
	if (!job)
		return;
	job->status = job_result(gpu, job);
	turn_add(gpu);
	job->done(job);
}

static void refused_run(struct kvc_task *task)
{
	job_end(kvc_container_of(task, struct kvc_engine_job, finished), KVC_ENGINE_LOST);
}

static void gpu_submit(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	struct kvc_gpu *gpu = kvc_container_of(engine, struct kvc_gpu, engine);

	job_check(gpu, job);
	job->cancelled = false;
	job->length = 0;
	if (gpu->state != UP || (job->vram != KVC_VRAM_NONE && job->life != gpu->life)) {
		job->finished.run = refused_run;
		kvc_loop_defer(gpu->loop, &job->finished);
		return;
	}
	kvc_list_push(&gpu->jobs, &job->node);
	turn_add(gpu);
}

static void gpu_cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	(void)engine;
	job->cancelled = true;
}

/* ---- life, and the rest of gpu.h that the cache uses --------------------------------------- */

kvc_status sim_gpu_open(struct kvc_loop *loop, struct sim_random *random, uint64_t vram_bytes,
                        struct kvc_gpu **out)
{
	static const struct kvc_engine_ops ops = {
	        .name = "sim gpu", .submit = gpu_submit, .cancel = gpu_cancel};
	struct kvc_gpu *gpu = kvc_calloc(1, sizeof *gpu);

	KVC_INVARIANT(gpu);
	*gpu = (struct kvc_gpu){
	        .engine.ops = &ops, .loop = loop, .random = random, .state = UP, .vram_bytes = vram_bytes};
	gpu->turn.run = turn;
	gpu->reap.run = reap;
	gpu->back.run = back;
	gpu->vram = calloc(1, vram_bytes + 1);
	KVC_INVARIANT(gpu->vram);
	kvc_list_init(&gpu->jobs);
	*out = gpu;
	return KVC_OK;
}

void sim_gpu_faults_set(struct kvc_gpu *gpu, const struct sim_gpu_faults *faults)
{
	gpu->faults = *faults;
}

void sim_gpu_hang(struct kvc_gpu *gpu, bool hangs)
{
	gpu->hangs = hangs;
	turn_add(gpu);
}

void sim_gpu_spoil(struct kvc_gpu *gpu)
{
	memset(gpu->vram, 0xFF, gpu->vram_bytes);
}

void sim_gpu_free(struct kvc_gpu *gpu)
{
	KVC_PRE(kvc_list_empty(&gpu->jobs));
	free(gpu->vram);
	kvc_free(gpu);
}

void kvc_gpu_events_set(struct kvc_gpu *gpu, const struct kvc_gpu_events *events)
{
	gpu->events = *events;
}

struct kvc_engine *kvc_gpu_engine(struct kvc_gpu *gpu)
{
	return &gpu->engine;
}

bool kvc_gpu_is_up(const struct kvc_gpu *gpu)
{
	return gpu->state == UP;
}

uint32_t kvc_gpu_life(const struct kvc_gpu *gpu)
{
	return gpu->life;
}

uint64_t kvc_gpu_vram_bytes(const struct kvc_gpu *gpu)
{
	return gpu->vram_bytes;
}
