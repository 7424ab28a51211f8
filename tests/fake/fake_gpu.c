/* See fake_gpu.h. Its own memory comes from malloc, so that tests can count and fail the daemon's. */
#include "tests/fake/fake_gpu.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/check.h"

enum answer_kind { OPENED, CLOSED };

/* A region or a pool, and the answer that is due about it. */
struct object {
	struct kvc_gpu *gpu;
	bool is_pool;
	uint64_t bytes;
	unsigned users; /* pools of a region */
	struct kvc_device_region **parts;
	unsigned part_count;
	enum answer_kind due;
	bool pending; /* an answer is due */
	kvc_status status;
	void (*region_done)(void *context, struct kvc_device_region *region, kvc_status status,
	                    const char *detail);
	void (*pool_done)(void *context, struct kvc_pool *pool, kvc_status status, const char *detail);
	void (*close_done)(void *context);
	void *context;
	struct kvc_task task;
	struct kvc_list node; /* in gpu->held */
};

struct kvc_device_region {
	struct object object;
};

struct kvc_pool {
	struct object object;
	struct kvc_gpu_pool_geometry geometry;
};

struct kvc_gpu {
	struct kvc_loop *loop;
	uint8_t uuid[17];
	bool hold;
	kvc_status fails;
	bool fails_at_once;
	unsigned regions;
	unsigned pools;
	unsigned bases;
	struct kvc_list held;
	struct kvc_gpu_import import;
	struct kvc_pool_options options;
};

/* ---- control ------------------------------------------------------------------------------- */

struct kvc_gpu *kvc_fake_gpu_open(struct kvc_loop *loop, unsigned n)
{
	struct kvc_gpu *gpu = calloc(1, sizeof *gpu);

	KVC_INVARIANT(gpu && n < 10);
	gpu->loop = loop;
	memcpy(gpu->uuid, "fake-gpu-0000000", 16);
	gpu->uuid[15] = (uint8_t)('0' + n);
	kvc_list_init(&gpu->held);
	return gpu;
}

void kvc_fake_gpu_close(struct kvc_gpu *gpu)
{
	KVC_INVARIANT(gpu->regions == 0 && gpu->pools == 0 && kvc_list_empty(&gpu->held));
	free(gpu);
}

void kvc_fake_gpu_hold(struct kvc_gpu *gpu, bool hold)
{
	gpu->hold = hold;
}

void kvc_fake_gpu_fail(struct kvc_gpu *gpu, kvc_status status, bool at_once)
{
	gpu->fails = status;
	gpu->fails_at_once = at_once;
}

unsigned kvc_fake_gpu_regions(const struct kvc_gpu *gpu)
{
	return gpu->regions;
}

unsigned kvc_fake_gpu_pools(const struct kvc_gpu *gpu)
{
	return gpu->pools;
}

const struct kvc_gpu_import *kvc_fake_gpu_import(const struct kvc_gpu *gpu)
{
	return &gpu->import;
}

const struct kvc_pool_options *kvc_fake_gpu_pool(const struct kvc_gpu *gpu)
{
	return &gpu->options;
}

unsigned kvc_fake_gpu_bases(const struct kvc_gpu *gpu)
{
	return gpu->bases;
}

/* ---- answers ------------------------------------------------------------------------------- */

static void object_forget(struct object *object)
{
	if (object->is_pool)
		object->gpu->pools--;
	else
		object->gpu->regions--;
	free(object->parts);
	free(object);
}

static void opened(struct object *object)
{
	struct object copy = *object;

	if (copy.status != KVC_OK)
		object_forget(object);
	if (copy.is_pool)
		copy.pool_done(copy.context, (struct kvc_pool *)(void *)object, copy.status,
		               "as the test wants it");
	else
		copy.region_done(copy.context, (struct kvc_device_region *)(void *)object, copy.status,
		                 "as the test wants it");
}

static void answer_run(struct kvc_task *task)
{
	struct object *object = kvc_container_of(task, struct object, task);
	struct object copy = *object;

	KVC_INVARIANT(object->pending);
	object->pending = false;
	if (copy.due == OPENED) {
		opened(object);
		return;
	}
	KVC_INVARIANT(object->users == 0);
	object_forget(object);
	if (copy.close_done)
		copy.close_done(copy.context);
}

static void answer_later(struct object *object, enum answer_kind due)
{
	struct kvc_gpu *gpu = object->gpu;

	KVC_INVARIANT(!object->pending); /* nothing is closed before its open was answered */
	object->due = due;
	object->pending = true;
	object->task = (struct kvc_task){.run = answer_run};
	kvc_list_init(&object->node);
	if (gpu->hold)
		kvc_list_push(&gpu->held, &object->node);
	else
		kvc_loop_defer(gpu->loop, &object->task);
}

bool kvc_fake_gpu_release(struct kvc_gpu *gpu)
{
	struct kvc_list *node = kvc_list_pop(&gpu->held);

	if (!node)
		return false;
	kvc_loop_defer(gpu->loop, &kvc_container_of(node, struct object, node)->task);
	return true;
}

unsigned kvc_fake_gpu_held(const struct kvc_gpu *gpu)
{
	unsigned count = 0;

	kvc_list_each (node, &gpu->held)
		count++;
	return count;
}

/* ---- gpu.h --------------------------------------------------------------------------------- */

const uint8_t *kvc_gpu_uuid(const struct kvc_gpu *gpu)
{
	return gpu->uuid;
}

/* Every descriptor must be one: that is what the real one duplicates. */
static void descriptors_check(const struct kvc_gpu_import *import, const int *fds)
{
	for (uint32_t i = 0; i < import->chunks; i++)
		KVC_INVARIANT(fcntl(fds[i], F_GETFD) >= 0);
}

kvc_status kvc_device_region_open(struct kvc_gpu *gpu, const struct kvc_gpu_import *import, const int *fds,
                                  void (*done)(void *context, struct kvc_device_region *region,
                                               kvc_status status, const char *detail),
                                  void *context, struct kvc_device_region **region)
{
	struct kvc_device_region *opened_region;

	gpu->import = *import;
	descriptors_check(import, fds);
	if (gpu->fails != KVC_OK && gpu->fails_at_once)
		return gpu->fails;
	opened_region = calloc(1, sizeof *opened_region);
	KVC_INVARIANT(opened_region);
	opened_region->object = (struct object){.gpu = gpu,
	                                        .bytes = import->bytes,
	                                        .status = gpu->fails,
	                                        .region_done = done,
	                                        .context = context};
	gpu->regions++;
	*region = opened_region;
	answer_later(&opened_region->object, OPENED);
	return KVC_OK;
}

void kvc_device_region_close(struct kvc_device_region *region, void (*done)(void *context), void *context)
{
	KVC_INVARIANT(region->object.users == 0);
	region->object.close_done = done;
	region->object.context = context;
	answer_later(&region->object, CLOSED);
}

uint64_t kvc_device_region_bytes(const struct kvc_device_region *region)
{
	return region->object.bytes;
}

static void parts_note(struct kvc_pool *pool, const struct kvc_pool_options *options)
{
	unsigned layers = options->geometry.layers;
	unsigned count = options->value ? 2 * layers : layers;

	pool->object.parts = calloc(count, sizeof(struct kvc_device_region *));
	KVC_INVARIANT(pool->object.parts);
	for (unsigned i = 0; i < count; i++) {
		const struct kvc_pool_base *base =
		        i < layers ? &options->key[i] : &options->value[i - layers];

		KVC_INVARIANT(base->offset < base->region->object.bytes);
		base->region->object.users++;
		pool->object.parts[i] = base->region;
	}
	pool->object.part_count = count;
	pool->object.gpu->bases = count;
}

static void parts_drop(struct object *pool)
{
	for (unsigned i = 0; i < pool->part_count; i++)
		pool->parts[i]->object.users--;
	pool->part_count = 0;
}

kvc_status kvc_pool_open(struct kvc_gpu *gpu, const struct kvc_pool_options *options,
                         void (*done)(void *context, struct kvc_pool *pool, kvc_status status,
                                      const char *detail),
                         void *context, struct kvc_pool **pool)
{
	struct kvc_pool *opened_pool;

	gpu->options = *options;
	if (gpu->fails != KVC_OK && gpu->fails_at_once)
		return gpu->fails;
	opened_pool = calloc(1, sizeof *opened_pool);
	KVC_INVARIANT(opened_pool);
	opened_pool->object = (struct object){
	        .gpu = gpu, .is_pool = true, .status = gpu->fails, .pool_done = done, .context = context};
	opened_pool->geometry = options->geometry;
	gpu->pools++;
	if (gpu->fails == KVC_OK)
		parts_note(opened_pool, options);
	*pool = opened_pool;
	answer_later(&opened_pool->object, OPENED);
	return KVC_OK;
}

void kvc_pool_close(struct kvc_pool *pool, void (*done)(void *context), void *context)
{
	parts_drop(&pool->object);
	pool->object.close_done = done;
	pool->object.context = context;
	answer_later(&pool->object, CLOSED);
}

struct kvc_gpu *kvc_pool_gpu(const struct kvc_pool *pool)
{
	return pool->object.gpu;
}

const struct kvc_gpu_pool_geometry *kvc_pool_geometry(const struct kvc_pool *pool)
{
	return &pool->geometry;
}
