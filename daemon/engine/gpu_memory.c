/* Regions and pools: what workers let the engine map, and where in it blocks lie.
 *
 * Each is an object with a number that the engine answers for. What was said at open is kept, descriptors
 * included, so that the next process can be told the same.
 *
 *   OPENING --ok--> OPEN --close--> CLOSING --answered, or engine gone--> GONE --task--> freed
 *      |  ^           |
 *      |  '--restore- LOST (engine gone) --close--> GONE
 *      |--refused, first open---> GONE
 *      '--refused, restored---> BROKEN (its worker is gone, most likely) --close--> GONE
 *
 * An object that was closed while OPENING is closed when that has ended. Requests go out in the order in
 * which they were made; those of a restore are regions first, and pools when all regions are answered. So a
 * region's close may overtake that of a pool in it, which is OPENING: the engine answers it when the pool is
 * gone. An engine that refuses a close may have it mapped, and is ended. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/base/log.h"
#include "daemon/engine/gpu_private.h"

enum object_state {
	OBJECT_OPENING,
	OBJECT_OPEN,
	OBJECT_CLOSING,
	OBJECT_LOST,
	OBJECT_BROKEN,
	OBJECT_GONE,
};

struct object;

struct object_kind {
	const char *name;
	uint32_t open_type;
	uint32_t close_type;
	enum gpu_cell cell;
	size_t (*write)(struct object *object, uint8_t *out);
	void (*opened)(struct object *object, kvc_status status, const char *detail);
	void (*free)(struct object *object);
};

struct object {
	const struct object_kind *kind;
	struct kvc_gpu *gpu;
	struct kvc_list all;  /* of gpu->regions or gpu->pools */
	struct kvc_list node; /* of gpu->requests or gpu->awaited, or of none */
	enum object_state state;
	uint32_t id;
	uint64_t sent_ms; /* its last request */
	bool asked;       /* the owner's open has not ended */
	bool closed;      /* the owner has closed it */
	const int *fds;   /* that travel with its open */
	uint32_t fd_count;
	void (*done)(void *context); /* of close, or NULL */
	void *context;
	struct kvc_task finished;
	kvc_status status; /* of an open that failed at once */
};

struct kvc_device_region {
	struct object object;
	void (*done)(void *context, struct kvc_device_region *region, kvc_status status, const char *detail);
	void *context;
	struct kvc_gpu_import import;
	int32_t pools; /* uses by pools that are not closed */
	int fds[KVC_GPU_CHUNKS_MAX];
};

struct kvc_pool {
	struct object object;
	void (*done)(void *context, struct kvc_pool *pool, kvc_status status, const char *detail);
	void *context;
	struct kvc_gpu_pool head;
	int fd; /* of its marks, once object.fd_count is 1 */
	int32_t jobs;
	uint32_t base_count; /* of keys and values */
	struct kvc_pool_base bases[];
};

static struct object *object_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct object, node);
}

static struct object *object_of_all(struct kvc_list *node)
{
	return kvc_container_of(node, struct object, all);
}

/* ---- one object ---------------------------------------------------------------------------- */

/* Nobody else knows it any more: the owner is told what it still waits for. */
static void finished_run(struct kvc_task *task)
{
	struct object *object = kvc_container_of(task, struct object, finished);

	if (object->asked)
		object->kind->opened(object, object->status, "the GPU engine is not there");
	if (object->closed && object->done)
		object->done(object->context);
	object->kind->free(object);
}

/* The engine does not have it, and need not. */
static void object_gone(struct object *object)
{
	kvc_list_remove(&object->node);
	kvc_list_remove(&object->all);
	object->state = OBJECT_GONE;
	kvc_stat_add(object->gpu->cells[object->kind->cell], -1);
	object->finished.run = finished_run;
	kvc_loop_defer(object->gpu->options.loop, &object->finished);
}

static void object_request(struct object *object, enum object_state state)
{
	object->state = state;
	kvc_list_remove(&object->node);
	kvc_list_push(&object->gpu->requests, &object->node);
	kvc_gpu_pump(object->gpu);
}

/* possible: false if what it needs is lost. */
static void object_open(struct object *object, struct kvc_list *all, const struct object_kind *kind,
                        struct kvc_gpu *gpu, bool possible)
{
	object->kind = kind;
	object->gpu = gpu;
	object->id = ++gpu->last_id;
	object->asked = true;
	kvc_list_init(&object->node);
	kvc_list_push(all, &object->all);
	kvc_stat_add(gpu->cells[kind->cell], 1);
	if (gpu->state == GPU_UP && possible) {
		object_request(object, OBJECT_OPENING);
	} else {
		object->status = KVC_ENGINE_LOST;
		object_gone(object);
	}
}

static void object_close(struct object *object, void (*done)(void *context), void *context)
{
	enum gpu_state engine = object->gpu->state;

	KVC_PRE(!object->closed && (object->state != OBJECT_GONE || object->asked));
	object->closed = true;
	object->done = done;
	object->context = context;
	if (object->state == OBJECT_LOST || object->state == OBJECT_BROKEN)
		object_gone(object);
	else if (object->state == OBJECT_OPEN && (engine == GPU_UP || engine == GPU_RESTORING))
		object_request(object, OBJECT_CLOSING);
	else if (object->state == OBJECT_OPEN)
		object->state = OBJECT_CLOSING; /* the process is ending, and has it mapped until then */
}

/* The owner's callback may close it. */
static void object_opened(struct object *object)
{
	bool asked = object->asked;

	object->state = OBJECT_OPEN;
	object->asked = false;
	if (object->closed)
		object_request(object, OBJECT_CLOSING);
	if (asked)
		object->kind->opened(object, KVC_OK, "");
}

static void object_refused(struct object *object, kvc_status status, const char *detail)
{
	if (object->asked) {
		object->asked = false;
		object_gone(object);
		object->kind->opened(object, status, detail);
		return;
	}
	kvc_warn("GPU %u: %s %u is lost: %s", object->gpu->options.ordinal, object->kind->name, object->id,
	         detail);
	object->state = OBJECT_BROKEN;
	if (object->closed)
		object_gone(object);
}

/* ---- requests and replies ------------------------------------------------------------------ */

static bool regions_usable(const struct kvc_pool *pool)
{
	for (uint32_t i = 0; i < pool->base_count; i++) {
		if (pool->bases[i].region->object.state != OBJECT_OPEN)
			return false;
	}
	return true;
}

static void pools_restore(struct kvc_gpu *gpu)
{
	gpu->pools_restored = true;
	kvc_list_each_safe (node, &gpu->pools) {
		struct object *object = object_of_all(node);

		if (object->state != OBJECT_LOST)
			continue;
		if (regions_usable(kvc_container_of(object, struct kvc_pool, object)))
			object_request(object, OBJECT_OPENING);
		else
			object_refused(object, KVC_ENGINE_LOST, "a region of it is lost");
	}
}

/* One step further, if nothing is unanswered. */
static void restore_go_on(struct kvc_gpu *gpu)
{
	if (gpu->state != GPU_RESTORING || !kvc_list_empty(&gpu->requests) || !kvc_list_empty(&gpu->awaited))
		return;
	if (!gpu->pools_restored)
		pools_restore(gpu);
	if (kvc_list_empty(&gpu->requests))
		kvc_gpu_announce(gpu);
}

void kvc_gpu_memory_restore(struct kvc_gpu *gpu)
{
	gpu->pools_restored = false;
	kvc_list_each (node, &gpu->regions) {
		struct object *object = object_of_all(node);

		if (object->state == OBJECT_LOST)
			object_request(object, OBJECT_OPENING);
	}
	restore_go_on(gpu);
}

kvc_status kvc_gpu_memory_send(struct kvc_gpu *gpu)
{
	struct kvc_gpu_header close = {.type = 0};
	struct object *object;
	kvc_status status;
	size_t bytes = sizeof close;
	bool opening;

	if (kvc_list_empty(&gpu->requests))
		return KVC_MISS;
	object = object_of(gpu->requests.next);
	opening = object->state == OBJECT_OPENING;
	close = (struct kvc_gpu_header){object->kind->close_type, object->id};
	if (opening)
		bytes = object->kind->write(object, gpu->out);
	else
		memcpy(gpu->out, &close, sizeof close);
	status = kvc_gpu_link_send(gpu, bytes, object->fds, opening ? object->fd_count : 0);
	if (status != KVC_OK)
		return status;
	object->sent_ms = kvc_loop_now_ms(gpu->options.loop);
	kvc_list_remove(&object->node);
	kvc_list_push(&gpu->awaited, &object->node);
	return KVC_OK;
}

uint64_t kvc_gpu_memory_oldest_ms(const struct kvc_gpu *gpu)
{
	return kvc_list_empty(&gpu->awaited) ? UINT64_MAX : object_of(gpu->awaited.next)->sent_ms;
}

/* Answers come in the order of requests, mostly: the one at hand is found at once. */
static struct object *awaited_find(const struct kvc_gpu *gpu, const struct kvc_gpu_reply *reply)
{
	kvc_list_each (node, &gpu->awaited) {
		struct object *object = object_of(node);
		bool opening = object->state == OBJECT_OPENING;
		uint32_t type = opening ? object->kind->open_type : object->kind->close_type;

		if (object->id == reply->header.id && type == reply->to)
			return object;
	}
	return NULL;
}

void kvc_gpu_memory_reply(struct kvc_gpu *gpu, const struct kvc_gpu_reply *reply)
{
	struct object *object = awaited_find(gpu, reply);

	if (!object || reply->status >= KVC_STATUS_COUNT) {
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST,
		             "it answered a request of type %u for %u that it does not have", reply->to,
		             reply->header.id);
		return;
	}
	kvc_gpu_progress(gpu);
	kvc_list_remove(&object->node);
	if (object->state == OBJECT_CLOSING && reply->status) {
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it did not close %s %u: %.150s", object->kind->name,
		             object->id, reply->detail);
		return;
	}
	if (object->state == OBJECT_CLOSING) {
		object_gone(object);
	} else if (reply->status) {
		object_refused(object, (kvc_status)reply->status, reply->detail);
	} else {
		object_opened(object);
	}
	restore_go_on(gpu);
}

/* ---- the end of a process ------------------------------------------------------------------ */

static void object_lose(struct object *object)
{
	kvc_list_remove(&object->node);
	if (object->state == OBJECT_BROKEN && !object->closed)
		return;
	object->status = KVC_ENGINE_LOST;
	if (object->asked || object->closed)
		object_gone(object);
	else
		object->state = OBJECT_LOST;
}

void kvc_gpu_memory_lose(struct kvc_gpu *gpu)
{
	kvc_list_each_safe (region, &gpu->regions)
		object_lose(object_of_all(region));
	kvc_list_each_safe (pool, &gpu->pools)
		object_lose(object_of_all(pool));
}

static bool all_closed(const struct kvc_list *all)
{
	kvc_list_each (node, all) {
		if (!object_of_all(node)->closed)
			return false;
	}
	return true;
}

bool kvc_gpu_memory_closed(const struct kvc_gpu *gpu)
{
	return all_closed(&gpu->regions) && all_closed(&gpu->pools);
}

/* ---- regions ------------------------------------------------------------------------------- */

static struct kvc_device_region *region_of(struct object *object)
{
	return kvc_container_of(object, struct kvc_device_region, object);
}

static size_t region_write(struct object *object, uint8_t *out)
{
	struct kvc_device_region *region = region_of(object);

	region->import.header = (struct kvc_gpu_header){KVC_GPU_IMPORT, object->id};
	memcpy(out, &region->import, sizeof region->import);
	return sizeof region->import;
}

static void region_opened(struct object *object, kvc_status status, const char *detail)
{
	struct kvc_device_region *region = region_of(object);

	region->done(region->context, region, status, detail);
}

/* Copies of our own, in `kept`, which travel with each open. */
static kvc_status fds_keep(struct object *object, int *kept, const int *fds, uint32_t count)
{
	object->fds = kept;
	for (uint32_t i = 0; i < count; i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);

		if (fd < 0)
			return kvc_status_of_errno(errno);
		kept[object->fd_count++] = fd;
	}
	return KVC_OK;
}

static void fds_close(const struct object *object)
{
	for (uint32_t i = 0; i < object->fd_count; i++)
		close(object->fds[i]);
}

static void region_free(struct object *object)
{
	fds_close(object);
	kvc_free(region_of(object));
}

static const struct object_kind region_kind = {
        .name = "region",
        .open_type = KVC_GPU_IMPORT,
        .close_type = KVC_GPU_UNIMPORT,
        .cell = GPU_CELL_REGIONS,
        .write = region_write,
        .opened = region_opened,
        .free = region_free,
};

kvc_status kvc_device_region_open(struct kvc_gpu *gpu, const struct kvc_gpu_import *import, const int *fds,
                                  void (*done)(void *context, struct kvc_device_region *region,
                                               kvc_status status, const char *detail),
                                  void *context, struct kvc_device_region **region)
{
	struct kvc_device_region *opened;
	kvc_status status;

	KVC_PRE(import->chunks <= KVC_GPU_CHUNKS_MAX && (fds || !import->chunks) && done);
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened)
		return KVC_NO_MEMORY;
	opened->import = *import;
	opened->done = done;
	opened->context = context;
	status = fds_keep(&opened->object, opened->fds, fds, import->chunks);
	if (status != KVC_OK) {
		region_free(&opened->object);
		return status;
	}
	object_open(&opened->object, &gpu->regions, &region_kind, gpu, true);
	*region = opened;
	return KVC_OK;
}

void kvc_device_region_close(struct kvc_device_region *region, void (*done)(void *context), void *context)
{
	KVC_PRE(!region->pools);
	object_close(&region->object, done, context);
}

uint64_t kvc_device_region_bytes(const struct kvc_device_region *region)
{
	return region->import.bytes;
}

/* ---- pools --------------------------------------------------------------------------------- */

static struct kvc_pool *pool_of(struct object *object)
{
	return kvc_container_of(object, struct kvc_pool, object);
}

static size_t pool_write(struct object *object, uint8_t *out)
{
	const struct kvc_pool *pool = pool_of(object);
	struct kvc_gpu_pool *head = (struct kvc_gpu_pool *)(void *)out;
	struct kvc_gpu_base *bases = (struct kvc_gpu_base *)(void *)(head + 1);

	*head = pool->head;
	head->header = (struct kvc_gpu_header){KVC_GPU_POOL_OPEN, object->id};
	for (uint32_t i = 0; i < pool->base_count; i++)
		bases[i] = (struct kvc_gpu_base){.region = pool->bases[i].region->object.id,
		                                 .offset = pool->bases[i].offset};
	return sizeof *head + pool->base_count * sizeof *bases;
}

static void regions_use(struct kvc_pool *pool, int32_t n)
{
	for (uint32_t i = 0; i < pool->base_count; i++)
		pool->bases[i].region->pools += n;
}

/* One whose open failed lets go of its regions here, if its owner has not closed it. */
static void pool_opened(struct object *object, kvc_status status, const char *detail)
{
	struct kvc_pool *pool = pool_of(object);

	if (status != KVC_OK && !object->closed)
		regions_use(pool, -1);
	pool->done(pool->context, pool, status, detail);
}

static void pool_free(struct object *object)
{
	fds_close(object);
	kvc_free(pool_of(object));
}

static const struct object_kind pool_kind = {
        .name = "pool",
        .open_type = KVC_GPU_POOL_OPEN,
        .close_type = KVC_GPU_POOL_CLOSE,
        .cell = GPU_CELL_POOLS,
        .write = pool_write,
        .opened = pool_opened,
        .free = pool_free,
};

static void bases_take(struct kvc_pool *pool, const struct kvc_pool_options *options)
{
	uint32_t layers = options->geometry.layers;

	for (uint32_t i = 0; i < pool->base_count; i++) {
		pool->bases[i] = i < layers ? options->key[i] : options->value[i - layers];
		KVC_PRE(!pool->bases[i].region->object.asked && !pool->bases[i].region->object.closed);
	}
	regions_use(pool, 1);
}

kvc_status kvc_pool_open(struct kvc_gpu *gpu, const struct kvc_pool_options *options,
                         void (*done)(void *context, struct kvc_pool *pool, kvc_status status,
                                      const char *detail),
                         void *context, struct kvc_pool **pool)
{
	uint32_t layers = options->geometry.layers;
	uint32_t count = options->geometry.value_dim ? 2 * layers : layers;
	struct kvc_pool *opened;
	kvc_status status;

	KVC_PRE(layers && layers <= KVC_LAYERS_MAX && options->key && done);
	KVC_PRE(!options->geometry.value_dim || options->value);
	KVC_PRE(options->marks <= KVC_GPU_MARKS_MAX);
	opened = kvc_calloc(1, sizeof *opened + count * sizeof opened->bases[0]);
	if (!opened)
		return KVC_NO_MEMORY;
	opened->done = done;
	opened->context = context;
	opened->base_count = count;
	opened->head.geometry = options->geometry;
	opened->head.marks = options->marks;
	status = fds_keep(&opened->object, &opened->fd, &options->marks_fd, options->marks ? 1 : 0);
	if (status != KVC_OK) {
		pool_free(&opened->object);
		return status;
	}
	bases_take(opened, options);
	object_open(&opened->object, &gpu->pools, &pool_kind, gpu, regions_usable(opened));
	*pool = opened;
	return KVC_OK;
}

void kvc_pool_close(struct kvc_pool *pool, void (*done)(void *context), void *context)
{
	KVC_PRE(!pool->jobs);
	regions_use(pool, -1);
	object_close(&pool->object, done, context);
}

struct kvc_gpu *kvc_pool_gpu(const struct kvc_pool *pool)
{
	return pool->object.gpu;
}

const struct kvc_gpu_pool_geometry *kvc_pool_geometry(const struct kvc_pool *pool)
{
	return &pool->head.geometry;
}

bool kvc_gpu_pool_usable(const struct kvc_pool *pool)
{
	return pool->object.state == OBJECT_OPEN;
}

uint32_t kvc_gpu_pool_id(const struct kvc_pool *pool)
{
	return pool->object.id;
}

void kvc_gpu_pool_use(struct kvc_pool *pool, int32_t n)
{
	pool->jobs += n;
	KVC_INVARIANT(pool->jobs >= 0);
}
