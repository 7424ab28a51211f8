/* See device_pool.h. */
#include "client/cli/device_pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/cmd.h"

#define PINNED_BYTES (256u << 20) /* of the raw copies */
#define POISON       0xA5

static int cuda_failure(const struct kvc_device_pool *pool, kvcc_cu_result error, const char *what)
{
	(void)kvcc_cuda_fail(pool->cuda, error, what);
	return kvc_failure(pool->job->name, "%s", kvc_last_error());
}

static double now(void)
{
	struct timespec time;

	(void)clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- geometry ------------------------------------------------------------------------------ */

static uint64_t row_bytes(const struct kvc_device_pool *pool, unsigned kind)
{
	return pool->job->row_bytes[kind] / pool->job->settings->heads; /* of one head */
}

static void strides_set(struct kvc_device_pool *pool)
{
	uint64_t heads = pool->job->settings->heads;
	uint64_t tokens = pool->page_tokens;
	uint64_t page = pool->job->row_bytes[0] * tokens;
	uint64_t pair = page + pool->job->row_bytes[1] * tokens;

	for (unsigned kind = 0; kind < 2; kind++) {
		uint64_t row = row_bytes(pool, kind);

		pool->strides[kind] = (struct kvc_pool_strides){row * heads * tokens, row * heads, row};
		if (pool->job->settings->layout == KVC_LAYOUT_HEAD_FIRST)
			pool->strides[kind] =
			        (struct kvc_pool_strides){row * heads * tokens, row, row * tokens};
		if (pool->job->settings->layout == KVC_LAYOUT_PAGE_FIRST)
			pool->strides[kind].page = pair;
		if (pool->job->settings->layout == KVC_LAYOUT_FUSED)
			pool->strides[kind] = (struct kvc_pool_strides){pair, 2 * row, 2 * row * tokens};
	}
	pool->layer_bytes = pair * pool->pages;
	pool->value_offset = page * pool->pages;
	if (pool->job->settings->layout == KVC_LAYOUT_PAGE_FIRST)
		pool->value_offset = page;
	if (pool->job->settings->layout == KVC_LAYOUT_FUSED)
		pool->value_offset = row_bytes(pool, 0);
}

/* All page ids, shuffled. */
static void ids_shuffle(struct kvc_device_pool *pool)
{
	for (uint32_t i = 0; i < pool->pages; i++)
		pool->ids[i] = i;
	for (uint32_t i = (uint32_t)pool->pages; i > 1; i--) {
		uint32_t other = randombytes_uniform(i);
		uint32_t swapped = pool->ids[i - 1];

		pool->ids[i - 1] = pool->ids[other];
		pool->ids[other] = swapped;
	}
}

/* ---- open and close ------------------------------------------------------------------------ */

static int gpu_open(struct kvc_device_pool *pool)
{
	int ordinal = (int)pool->job->settings->gpu;
	kvcc_cu_result error;
	int count = 0;

	if (kvcc_cuda_load(&pool->cuda) != KVC_OK)
		return kvc_failure(pool->job->name, "--plane cuda: %s", kvc_last_error());
	error = pool->cuda->device_count(&count);
	if (error == 0 && ordinal >= count)
		return kvc_failure(pool->job->name, "--gpu %d: this machine has %d", ordinal, count);
	if (error == 0)
		error = pool->cuda->device_get(&pool->device, ordinal);
	if (error == 0)
		error = pool->cuda->device_name(pool->gpu, sizeof(pool->gpu), pool->device);
	if (error == 0)
		error = pool->cuda->primary_retain(&pool->context, pool->device);
	if (error == 0)
		error = pool->cuda->context_push(pool->context);
	return error == 0 ? -1 : cuda_failure(pool, error, "cannot use the GPU");
}

static int host_allocate(struct kvc_device_pool *pool)
{
	size_t layers = pool->job->layers;

	pool->layers = calloc(layers, sizeof(*pool->layers));
	pool->ids = calloc(pool->pages, sizeof(*pool->ids));
	pool->staging = malloc(pool->layer_bytes);
	for (unsigned kind = 0; kind < 2; kind++)
		pool->bases[kind] = calloc(layers, sizeof(*pool->bases[kind]));
	if (!pool->layers || !pool->ids || !pool->staging || !pool->bases[0] || !pool->bases[1])
		return kvc_failure(pool->job->name, "out of memory");
	return -1;
}

static int device_allocate(struct kvc_device_pool *pool)
{
	for (uint64_t i = 0; i < pool->job->layers; i++) {
		kvcc_cu_result error = pool->cuda->memory_alloc(&pool->layers[i], pool->layer_bytes);

		if (error != 0)
			return cuda_failure(pool, error, "no device memory for the pool: use fewer --blocks");
		pool->bases[0][i] = (const void *)(uintptr_t)pool->layers[i];
		pool->bases[1][i] = (const void *)(uintptr_t)(pool->layers[i] + pool->value_offset);
	}
	return -1;
}

static int pool_register(struct kvc_device_pool *pool)
{
	struct kvc_pool_options options;

	kvc_pool_options_init(&options);
	options.layers = (uint32_t)pool->job->layers;
	options.page_tokens = (uint32_t)pool->page_tokens;
	options.pages = pool->pages;
	options.key_bases = pool->bases[0];
	options.value_bases = pool->job->row_bytes[1] ? pool->bases[1] : NULL;
	options.key_strides = pool->strides[0];
	options.value_strides = pool->strides[1];
	if (kvc_pool_register(pool->job->ns, &options, &pool->pool) != KVC_OK)
		return kvc_failure(pool->job->name, "--plane cuda: %s", kvc_last_error());
	return -1;
}

int kvc_device_pool_open(struct kvc_device_pool *pool, struct kvc_job *job)
{
	int code;

	*pool = (struct kvc_device_pool){.job = job, .page_tokens = job->settings->page_tokens};
	if (job->settings->layout == KVC_LAYOUT_FUSED && job->row_bytes[0] != job->row_bytes[1])
		return kvc_usage_error(job->name, "--layout fused: keys and values must have the same dim");
	pool->block_pages = (job->block_tokens + pool->page_tokens - 1) / pool->page_tokens;
	pool->pages = pool->block_pages * job->blocks;
	strides_set(pool);
	code = gpu_open(pool);
	if (code < 0)
		code = host_allocate(pool);
	if (code < 0)
		code = device_allocate(pool);
	if (code < 0)
		code = pool_register(pool);
	if (code < 0)
		ids_shuffle(pool);
	return code;
}

void kvc_device_pool_close(struct kvc_device_pool *pool)
{
	bool gone = kvc_pool_destroy(pool->pool) == KVC_OK; /* before its memory is freed */
	void *popped;

	if (!gone)
		(void)kvc_failure(pool->job->name, "%s", kvc_last_error());
	for (uint64_t i = 0; gone && pool->layers && i < pool->job->layers; i++) {
		if (pool->layers[i])
			(void)pool->cuda->memory_free(pool->layers[i]);
	}
	free(pool->layers);
	free(pool->ids);
	free(pool->staging);
	free((void *)pool->bases[0]);
	free((void *)pool->bases[1]);
	if (pool->context) {
		(void)pool->cuda->context_pop(&popped);
		(void)pool->cuda->primary_release(pool->device);
	}
}

void kvc_device_pool_block(const struct kvc_device_pool *pool, size_t block, struct kvc_block *out)
{
	*out = (struct kvc_block){
	        .key = pool->job->keys[block],
	        .key_bytes = KVC_BLOCK_KEY_BYTES,
	        .tokens = (uint32_t)pool->job->block_tokens,
	        .pages = pool->ids + block * pool->block_pages,
	        .page_count = pool->block_pages,
	};
}

/* ---- contents ------------------------------------------------------------------------------ */

/* A row of a block in the staged layer. */
static uint8_t *staged_row(const struct kvc_device_pool *pool, unsigned kind, size_t block, uint64_t token,
                           uint64_t head)
{
	const struct kvc_pool_strides *strides = &pool->strides[kind];
	uint64_t page = pool->ids[block * pool->block_pages + token / pool->page_tokens];

	return pool->staging + (kind ? pool->value_offset : 0) + page * strides->page +
	       token % pool->page_tokens * strides->token + head * strides->head;
}

/* One kind of one block of the staged layer: written, or compared. False: it differs. */
static bool kind_visit(const struct kvc_device_pool *pool, unsigned kind, size_t block, const uint8_t *rows,
                       bool write)
{
	uint64_t heads = pool->job->settings->heads;
	uint64_t bytes = row_bytes(pool, kind);

	for (uint64_t i = 0; i < pool->job->block_tokens * heads; i++, rows += bytes) {
		uint8_t *there = staged_row(pool, kind, block, i / heads, i % heads);

		if (write)
			memcpy(there, rows, bytes);
		else if (memcmp(there, rows, bytes) != 0)
			return false;
	}
	return true;
}

/* The first block that differs in the staged layer, or the number of blocks. */
static size_t layer_visit(const struct kvc_device_pool *pool, const struct kvc_block_source *source,
                          uint64_t layer, bool write)
{
	const struct kvc_job *job = pool->job;
	uint64_t bytes[2] = {job->row_bytes[0] * job->block_tokens, job->row_bytes[1] * job->block_tokens};

	for (size_t block = 0; block < job->blocks; block++) {
		const uint8_t *from = source->blocks + block % source->count * source->block_bytes;

		if (!kind_visit(pool, 0, block, from + layer * bytes[0], write) ||
		    !kind_visit(pool, 1, block, from + job->layers * bytes[0] + layer * bytes[1], write))
			return block;
	}
	return job->blocks;
}

int kvc_device_pool_fill(struct kvc_device_pool *pool, const struct kvc_block_source *source)
{
	memset(pool->staging, POISON, pool->layer_bytes);
	for (uint64_t layer = 0; layer < pool->job->layers; layer++) {
		kvcc_cu_result error;

		(void)layer_visit(pool, source, layer, true);
		error = pool->cuda->copy_to_device(pool->layers[layer], pool->staging, pool->layer_bytes);
		if (error != 0)
			return cuda_failure(pool, error, "cannot fill the pool");
	}
	return -1;
}

int kvc_device_pool_compare(struct kvc_device_pool *pool, const struct kvc_block_source *expected)
{
	for (uint64_t layer = 0; layer < pool->job->layers; layer++) {
		kvcc_cu_result error =
		        pool->cuda->copy_to_host(pool->staging, pool->layers[layer], pool->layer_bytes);
		size_t wrong;

		if (error != 0)
			return cuda_failure(pool, error, "cannot read the pool");
		wrong = layer_visit(pool, expected, layer, false);
		if (wrong < pool->job->blocks)
			return kvc_failure(pool->job->name,
			                   "WRONG BYTES: layer %llu of block %zu is not what the CPU codec "
			                   "restores",
			                   (unsigned long long)layer, wrong);
	}
	return -1;
}

int kvc_device_pool_poison(struct kvc_device_pool *pool)
{
	for (uint64_t layer = 0; layer < pool->job->layers; layer++) {
		kvcc_cu_result error = pool->cuda->fill_bytes(pool->layers[layer], POISON, pool->layer_bytes);

		if (error != 0)
			return cuda_failure(pool, error, "cannot clear the pool");
	}
	return -1;
}

/* ---- raw copies ---------------------------------------------------------------------------- */

static kvcc_cu_result copy_layers(struct kvc_device_pool *pool, uint8_t *pinned, void *stream, bool out)
{
	kvcc_cu_result error = 0;

	for (uint64_t layer = 0; layer < pool->job->layers; layer++) {
		for (uint64_t at = 0; error == 0 && at < pool->layer_bytes; at += PINNED_BYTES) {
			uint64_t left = pool->layer_bytes - at;
			size_t bytes = left < PINNED_BYTES ? (size_t)left : PINNED_BYTES;
			kvcc_cu_address there = pool->layers[layer] + at;

			error = out ? pool->cuda->copy_to_host_async(pinned, there, bytes, stream)
			            : pool->cuda->copy_to_device_async(there, pinned, bytes, stream);
		}
	}
	return error == 0 ? pool->cuda->stream_synchronize(stream) : error;
}

static kvcc_cu_result copy_timed(struct kvc_device_pool *pool, uint8_t *pinned, bool out, double *gb_per_s)
{
	double raw = (double)pool->layer_bytes * (double)pool->job->layers;
	void *stream = NULL;
	kvcc_cu_result error = pool->cuda->stream_create(&stream, KVCC_CU_STREAM_NON_BLOCKING);
	double start = now();

	if (error != 0)
		return error;
	error = copy_layers(pool, pinned, stream, out);
	*gb_per_s = raw / (now() - start) / 1e9;
	(void)pool->cuda->stream_destroy(stream);
	return error;
}

/* Contents are lost. */
int kvc_device_pool_copy(struct kvc_device_pool *pool, double *out_gb_per_s, double *in_gb_per_s)
{
	void *pinned = NULL;
	double warm;
	kvcc_cu_result error = pool->cuda->host_alloc(&pinned, PINNED_BYTES, 0);

	if (error == 0)
		error = copy_timed(pool, pinned, true, &warm);
	if (error == 0)
		error = copy_timed(pool, pinned, true, out_gb_per_s);
	if (error == 0)
		error = copy_timed(pool, pinned, false, in_gb_per_s);
	if (pinned)
		(void)pool->cuda->host_free(pinned);
	return error == 0 ? -1 : cuda_failure(pool, error, "cannot copy the pool to pinned memory");
}
