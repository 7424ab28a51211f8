/* Pools of device memory: registered once, known to the daemon under an id like a memory's region.
 *
 * The region of a pool has parts: the regions of the allocations that it lies in. It is set up after them,
 * and taken back before them. What a request means to its memory (fences, zombies) is the pool's region's
 * alone. */
#include "client/pool.h"

#include <string.h>
#include <unistd.h>

#include "client/cuda_export.h"
#include "client/internal.h"

#define LAYERS_MAX     512u
#define CHORE_RETRY_NS (20 * KVCC_NS_PER_MS)

void kvc_pool_options_init(struct kvc_pool_options *options)
{
	*options = (struct kvc_pool_options){.size = sizeof(*options)};
}

/* ---- checks -------------------------------------------------------------------------------- */

static kvc_status check_options(const struct kvc_namespace *ns, const struct kvc_pool_options *options,
                                struct kvc_pool **pool)
{
	const struct kvcc_shape *shape = ns ? &ns->shape : NULL;

	if (!ns || !pool || !options || options->size < sizeof(*options) || !options->key_bases)
		return kvcc_fail(
		        KVC_INVALID,
		        "kvc_pool_register: no namespace, no bases, nowhere to put the pool, or options "
		        "not made by kvc_pool_options_init");
	if (options->layers != shape->layers || options->layers > LAYERS_MAX)
		return kvcc_fail(KVC_SHAPE, "a pool of %u layers, the namespace has %u", options->layers,
		                 shape->layers);
	if (!options->value_bases != !shape->dims[1])
		return kvcc_fail(KVC_SHAPE, "value_bases: expected %s for this namespace",
		                 shape->dims[1] ? "one a layer" : "none");
	if (options->page_tokens == 0 || options->pages == 0 || options->pages > (uint64_t)UINT32_MAX + 1)
		return kvcc_fail(KVC_SHAPE, "%llu pages of %u tokens: expected 1 to 2^32 pages of 1 or more",
		                 (unsigned long long)options->pages, options->page_tokens);
	return KVC_OK;
}

static bool add_steps(uint64_t count, uint64_t stride, uint64_t *bytes)
{
	uint64_t reach;

	return !__builtin_mul_overflow(count - 1, stride, &reach) &&
	       !__builtin_add_overflow(*bytes, reach, bytes);
}

/* Bytes from a base to behind its last element. */
static kvc_status span_of(const struct kvc_pool_options *options, const struct kvc_pool_strides *strides,
                          const struct kvcc_shape *shape, unsigned kind, uint64_t *span)
{
	*span = (uint64_t)shape->dims[kind] * shape->element_bytes;
	if (add_steps(options->pages, strides->page, span) &&
	    add_steps(options->page_tokens, strides->token, span) &&
	    add_steps(shape->heads, strides->head, span))
		return KVC_OK;
	return kvcc_fail(KVC_SHAPE, "the strides of the pool lead beyond 2^64 bytes");
}

static kvc_status extents_fill(const struct kvc_pool_options *options, const struct kvcc_shape *shape,
                               struct kvcc_extent *extents, size_t count)
{
	uint64_t spans[2] = {0, 0};
	kvc_status status = span_of(options, &options->key_strides, shape, 0, &spans[0]);

	if (status == KVC_OK && options->value_bases)
		status = span_of(options, &options->value_strides, shape, 1, &spans[1]);
	for (size_t i = 0; status == KVC_OK && i < count; i++) {
		unsigned kind = i >= options->layers;
		const void *base = kind ? options->value_bases[i - options->layers] : options->key_bases[i];

		extents[i] = (struct kvcc_extent){.address = (uintptr_t)base, .bytes = spans[kind]};
		if (extents[i].address > UINT64_MAX - spans[kind])
			status = kvcc_fail(KVC_SHAPE, "the pool's pages lead beyond 2^64");
	}
	return status;
}

/* ---- the driver's side --------------------------------------------------------------------- */

/* The calling thread's context if it is of that GPU, else the GPU's primary one. */
static kvc_status context_choose(struct kvc_pool *pool, kvcc_cu_address address)
{
	const struct kvcc_cuda *cuda = pool->cuda;
	int current = -1;
	int ordinal = -1;
	kvc_status status = kvcc_export_device(cuda, address, &ordinal);
	kvcc_cu_result error;

	if (status != KVC_OK)
		return status;
	error = cuda->device_get(&pool->device, ordinal);
	if (error == 0 && cuda->context_current(&pool->context) == 0 && pool->context &&
	    cuda->context_device(&current) == 0 && current == pool->device)
		return KVC_OK;
	pool->context = NULL;
	if (error == 0)
		error = cuda->primary_retain(&pool->context, pool->device);
	if (error != 0)
		return kvcc_cuda_fail(cuda, error, "cannot use the pool's GPU");
	pool->retained = true;
	return KVC_OK;
}

kvc_status kvcc_pool_note(struct kvc_pool *pool, void *stream, struct kvcc_mark *mark)
{
	const struct kvcc_cuda *cuda = pool->cuda;
	void *popped;
	kvcc_cu_result error = cuda->context_push(pool->context);
	kvc_status status;

	if (error != 0)
		return kvcc_cuda_fail(cuda, error, "cannot use the pool's CUDA context");
	status = kvcc_marks_note(&pool->marks, stream, mark);
	(void)cuda->context_pop(&popped);
	return status;
}

/* In a forked child the driver must not be called. */
static void driver_release(struct kvc_pool *pool, bool forked)
{
	kvcc_marks_close(&pool->marks, forked ? NULL : pool->context);
	if (!forked && pool->retained)
		(void)pool->cuda->primary_release(pool->device);
}

void kvcc_pool_free(struct kvc_pool *pool, bool forked)
{
	kvcc_list_remove(&pool->node);
	driver_release(pool, forked);
	kvcc_free(pool);
}

/* ---- regions ------------------------------------------------------------------------------- */

/* Takes the export's descriptors. */
static struct kvcc_region *part_new(struct kvcc_export *item)
{
	struct kvcc_region *region = kvcc_alloc_zero(1, sizeof(*region));
	int *fds = kvcc_alloc(item->chunks + 1, sizeof(*fds));

	if (!region || !fds) {
		kvcc_free(region);
		kvcc_free(fds);
		return NULL;
	}
	kvcc_list_init(&region->node);
	region->kind = KVCC_REGION_DEVICE;
	region->refs = 1;
	region->fd = -1;
	region->bytes = item->bytes;
	memcpy(fds, item->fds, item->chunks * sizeof(*fds));
	region->fds = fds;
	region->fd_count = item->chunks;
	item->chunks = 0;
	return region;
}

/* Takes the marks' descriptor, also on failure. */
static struct kvcc_region *pool_region_new(size_t parts, int marks)
{
	struct kvcc_region *region = kvcc_alloc_zero(1, sizeof(*region));
	struct kvcc_region **list = kvcc_alloc_zero(parts, sizeof(*list));
	int *fds = kvcc_alloc(1, sizeof(*fds));

	if (!region || !list || !fds) {
		kvcc_free(region);
		kvcc_free(list);
		kvcc_free(fds);
		(void)close(marks);
		return NULL;
	}
	*fds = marks;
	region->fds = fds;
	region->fd_count = 1;
	kvcc_list_init(&region->node);
	region->kind = KVCC_REGION_POOL;
	region->refs = 1;
	region->fd = -1;
	region->parts = list;
	return region;
}

/* (L) Number it, and make the frame that attaches it. */
static kvc_status part_enlist(struct kvc_client *client, struct kvcc_region *region,
                              const struct kvcc_export *item, const uint8_t *uuid)
{
	struct kvcc_wire_device device = {
	        .uuid = uuid,
	        .bytes = item->bytes,
	        .handle = item->by_handle ? item->handle : NULL,
	        .chunks = region->fd_count,
	        .chunk_bytes = item->chunk_bytes,
	};

	region->id = client->next_id++;
	kvcc_list_append(&client->regions, &region->node);
	return kvcc_wire_attach_device(region->id, &device, &region->frame);
}

/* (L) All or, but for what the pool's region then holds, nothing. */
static kvc_status parts_enlist(struct kvc_client *client, struct kvcc_region *pool,
                               const struct kvcc_exports *exports, const uint8_t *uuid)
{
	for (size_t i = 0; i < exports->count; i++) {
		struct kvcc_region *part = part_new(exports->items[i]);

		if (!part)
			return KVC_NO_MEMORY;
		pool->parts[pool->part_count++] = part;
		if (part_enlist(client, part, exports->items[i], uuid) != KVC_OK)
			return KVC_NO_MEMORY;
	}
	return KVC_OK;
}

static kvc_status pool_enlist(struct kvc_pool *pool, struct kvc_namespace *ns, struct kvcc_wire_pool *wire,
                              const struct kvcc_exports *exports, const struct kvcc_extent *extents,
                              int marks)
{
	size_t count = wire->values ? 2 * (size_t)wire->layers : wire->layers;
	struct kvcc_region *region = pool_region_new(exports->count, marks);
	struct kvc_client *client = pool->client;
	kvc_status status = region ? kvcc_enter(client) : KVC_NO_MEMORY;

	if (status != KVC_OK) {
		if (region)
			kvcc_region_free(region);
		return status == KVC_NO_MEMORY ? kvcc_fail(status, "no memory for a pool") : status;
	}
	region->id = client->next_id++;
	region->ns = ns;
	ns->refs++;
	pool->region = region;
	kvcc_list_append(&client->regions, &region->node);
	kvcc_list_append(&client->pools, &pool->node);
	status = parts_enlist(client, region, exports, wire->uuid);
	for (size_t i = 0; status == KVC_OK && i < count; i++)
		wire->bases[i] =
		        (struct kvcc_wire_base){region->parts[extents[i].region]->id, extents[i].offset};
	wire->ns = ns->id;
	if (status == KVC_OK)
		status = kvcc_wire_pool(region->id, wire, &region->frame);
	kvcc_leave(client);
	return status == KVC_OK ? KVC_OK : kvcc_fail(status, "no memory for a pool");
}

/* ---- register ------------------------------------------------------------------------------ */

static kvc_status encode_pool(const struct kvcc_work *work, struct kvcc_request *request)
{
	(void)work;
	return kvcc_buffer_copy(&request->frame, &request->region->frame);
}

/* The daemon attaches the parts and opens the pool; its answer is waited for. */
static kvc_status announce(struct kvc_pool *pool, struct kvc_namespace *ns, uint32_t deadline_ms)
{
	struct kvcc_work work = {
	        .verb = KVC_VERB_POOL,
	        .ns = ns,
	        .region = pool->region,
	        .deadline_ms = deadline_ms,
	        .deadline_ns = kvcc_deadline(pool->client, deadline_ms),
	        .grace_ns = KVCC_GRACE_NS,
	        .encode = encode_pool,
	};
	struct kvcc_call call = {.status = KVC_OK};

	return kvcc_run(pool->client, &work, &call);
}

static struct kvc_pool *pool_new(struct kvc_namespace *ns, const struct kvc_pool_options *options,
                                 const struct kvcc_cuda *cuda)
{
	struct kvc_pool *pool = kvcc_alloc_zero(1, sizeof(*pool));

	if (!pool)
		return NULL;
	kvcc_list_init(&pool->node);
	pool->client = ns->client;
	pool->cuda = cuda;
	pool->shape = ns->shape;
	pool->pages = options->pages;
	pool->page_tokens = options->page_tokens;
	return pool;
}

/* With the pool's context current: from addresses to what the daemon is told. */
static kvc_status pool_export(struct kvc_pool *pool, struct kvc_namespace *ns, struct kvcc_wire_pool *wire,
                              struct kvcc_extent *extents, size_t count)
{
	struct kvcc_exports exports;
	kvcc_cu_result error;
	int marks;
	kvc_status status = kvcc_export(pool->cuda, extents, count, &exports);

	if (status != KVC_OK)
		return status;
	error = pool->cuda->device_uuid(wire->uuid, pool->device);
	status = error == 0 ? kvcc_marks_open(&pool->marks, pool->cuda, &marks)
	                    : kvcc_cuda_fail(pool->cuda, error, "cannot tell the GPU's UUID");
	if (status == KVC_OK)
		status = pool_enlist(pool, ns, wire, &exports, extents, marks);
	kvcc_exports_free(&exports);
	return status;
}

static kvc_status pool_make(struct kvc_pool *pool, struct kvc_namespace *ns,
                            const struct kvc_pool_options *options, size_t count)
{
	struct kvcc_extent *extents = kvcc_alloc_zero(count, sizeof(*extents));
	struct kvcc_wire_pool wire = {
	        .pages = options->pages,
	        .page_tokens = options->page_tokens,
	        .layers = options->layers,
	        .values = options->value_bases != NULL,
	        .key_strides = options->key_strides,
	        .value_strides = options->value_strides,
	        .bases = kvcc_alloc_zero(count, sizeof(*wire.bases)),
	};
	kvc_status status = extents && wire.bases ? extents_fill(options, &pool->shape, extents, count)
	                                          : kvcc_fail(KVC_NO_MEMORY, "no memory for a pool");
	kvcc_cu_result error;
	void *popped;

	if (status == KVC_OK)
		status = context_choose(pool, extents[0].address);
	if (status == KVC_OK) {
		error = pool->cuda->context_push(pool->context);
		status = error == 0 ? pool_export(pool, ns, &wire, extents, count)
		                    : kvcc_cuda_fail(pool->cuda, error, "cannot use the pool's context");
		if (error == 0)
			(void)pool->cuda->context_pop(&popped);
	}
	kvcc_free(extents);
	kvcc_free(wire.bases);
	return status;
}

kvc_status kvc_pool_register(struct kvc_namespace *ns, const struct kvc_pool_options *options,
                             struct kvc_pool **pool)
{
	const struct kvcc_cuda *cuda;
	char text[KVCC_DETAIL_BYTES];
	struct kvc_pool *made;
	kvc_status status = check_options(ns, options, pool);

	if (status == KVC_OK)
		status = kvcc_cuda_load(&cuda);
	if (status != KVC_OK)
		return status;
	made = pool_new(ns, options, cuda);
	if (!made)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a pool");
	status = pool_make(made, ns, options,
	                   options->value_bases ? 2 * (size_t)options->layers : options->layers);
	if (status == KVC_OK)
		status = announce(made, ns, options->deadline_ms);
	if (status == KVC_OK) {
		*pool = made;
		return KVC_OK;
	}
	kvcc_text_copy(text, sizeof(text), kvc_last_error(), strlen(kvc_last_error()));
	(void)kvc_pool_destroy(made); /* what is not gone by then is kvc_client_destroy's */
	return kvcc_fail(status, "%s", text);
}

/* ---- destroy ------------------------------------------------------------------------------- */

/* Each region was let go on the connection there is, and the daemon has closed those that this side gave up,
 * on which they may have been attached too. */
static bool all_gone(const struct kvc_client *client, const struct kvcc_gone *gone)
{
	return gone->left == 0 && kvcc_list_empty(&client->endings);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* (L) (U) False: not by then. */
static bool wait_gone(struct kvc_client *client, struct kvcc_gone *gone, uint64_t until_ns)
{
	struct kvcc_waiter waiter;

	kvcc_chores(client);
	while (!all_gone(client, gone) && kvcc_now_ns() < until_ns) {
		kvcc_waiter_init(&waiter);
		gone->waiter = &waiter;
		kvcc_flush(client);
		kvcc_wait(client, &client->waiters, &waiter,
		          earlier(kvcc_now_ns() + CHORE_RETRY_NS, earlier(until_ns, client->earliest_ns)));
		gone->waiter = NULL;
		kvcc_waiter_destroy(&waiter);
		kvcc_calls_expire(client, kvcc_now_ns());
		kvcc_chores(client);
	}
	return all_gone(client, gone);
}

/* (L) (U) */
static void take_back(struct kvc_client *client, struct kvc_pool *pool)
{
	struct kvcc_region *region = pool->region;

	kvcc_region_wait_unused(client, region);
	pool->gone.left = region->part_count + 1;
	region->gone = &pool->gone;
	for (size_t i = 0; i < region->part_count; i++)
		region->parts[i]->gone = &pool->gone;
	pool->region = NULL;
	kvcc_region_unref(client, region);
}

kvc_status kvc_pool_destroy(struct kvc_pool *pool)
{
	struct kvc_client *client;
	kvc_status status;
	bool gone;

	if (!pool)
		return KVC_OK;
	client = pool->client;
	status = kvcc_enter(client);
	if (status != KVC_OK)
		return status; /* a forked child: kvc_client_destroy frees it */
	if (pool->region)
		take_back(client, pool);
	gone = kvcc_list_empty(&pool->node) /* the daemon never heard of it */
	       || wait_gone(client, &pool->gone, kvcc_deadline(client, 0));
	if (gone)
		kvcc_list_remove(&pool->node);
	kvcc_leave(client);
	if (!gone)
		return kvcc_fail(KVC_DEADLINE,
		                 "the daemon at %s has not let go of the pool's memory within %u ms: it is "
		                 "overloaded or hangs. Do not free the memory, call kvc_pool_destroy again",
		                 client->address.sun_path, client->deadline_ms);
	kvcc_pool_free(pool, false);
	return KVC_OK;
}
