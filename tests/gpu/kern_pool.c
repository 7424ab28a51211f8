/* See kern_pool.h. */
#include "tests/gpu/kern_pool.h"

#include "tests/gpu/gpu.h"

#include <stdlib.h>
#include <string.h>

#define POISON 0x5A

uint64_t rng_next(struct rng *rng)
{
	rng->state ^= rng->state >> 12;
	rng->state ^= rng->state << 25;
	rng->state ^= rng->state >> 27;
	return rng->state * 0x2545F4914F6CDD1Du;
}

uint32_t rng_below(struct rng *rng, uint32_t bound)
{
	return (uint32_t)((rng_next(rng) >> 32) * bound >> 32);
}

/* The four outer dimensions of a pool. */
enum axis { AXIS_LAYER, AXIS_PAGE, AXIS_TOKEN, AXIS_HEAD, AXES };

/* The `number`-th order of the axes. */
static void axes_order(uint32_t number, enum axis order[AXES])
{
	enum axis left[AXES] = {AXIS_LAYER, AXIS_PAGE, AXIS_TOKEN, AXIS_HEAD};
	uint32_t count = AXES;

	for (uint32_t i = 0; i < AXES; i++) {
		uint32_t pick = number % count;

		order[i] = left[pick];
		number /= count--;
		memmove(left + pick, left + pick + 1, (count - pick) * sizeof left[0]);
	}
}

/* Strides of a place with the axes in that order, outermost first; returns the bytes of all. */
static uint64_t place_strides(struct kvc_kern_place *place, const enum axis order[AXES],
                              const uint64_t extent[AXES], uint64_t row_bytes)
{
	uint64_t stride[AXES];
	uint64_t bytes = row_bytes;

	for (uint32_t i = AXES; i-- > 0;) {
		stride[order[i]] = bytes;
		bytes *= extent[order[i]];
	}
	place->layer_stride = stride[AXIS_LAYER];
	place->page_stride = stride[AXIS_PAGE];
	place->token_stride = stride[AXIS_TOKEN];
	place->head_stride = stride[AXIS_HEAD];
	return bytes;
}

/* Both places of a pool; returns the bytes of the region. With tables: of one layer's. */
static uint64_t places_make(struct pool *pool, const struct pool_wish *wish)
{
	const struct kvc_block_shape *shape = &pool->shape;
	uint64_t extent[AXES] = {wish->tables ? 1 : shape->layers, pool->desc.pages, wish->page_tokens,
	                         shape->heads};
	uint64_t element = kvc_dtype_bytes(shape->dtype);
	uint64_t key_row = shape->key_dim * element, value_row = shape->value_dim * element;
	struct kvc_kern_place *key = &pool->desc.key, *value = &pool->desc.value;
	enum axis order[AXES];
	uint64_t key_bytes, value_bytes;

	axes_order(wish->order, order);
	if (wish->layout == POOL_FUSED) {
		key_bytes = place_strides(key, order, extent, key_row + value_row);
		place_strides(value, order, extent, key_row + value_row);
		pool->offset[1] = key_row;
		return key_bytes;
	}
	if (wish->layout == POOL_PAGED) {
		enum axis paged[AXES] = {AXIS_PAGE, AXIS_LAYER, AXIS_TOKEN, AXIS_HEAD};

		place_strides(key, paged, extent, key_row);
		place_strides(value, paged, extent, value_row);
		pool->offset[1] = key->page_stride;
		key->page_stride += value->page_stride;
		value->page_stride = key->page_stride;
		return key->page_stride * pool->desc.pages;
	}
	key_bytes = place_strides(key, order, extent, key_row);
	value_bytes = place_strides(value, order, extent, value_row);
	pool->offset[1] = key_bytes;
	return key_bytes + value_bytes;
}

/* --- allocations --- */

/* The address of what is at `at` in the mirror. */
static uint8_t *device_at(const struct pool *pool, size_t at)
{
	const struct pool_part *part = pool->parts;

	while (at - part->at >= part->bytes)
		part++;
	return part->device + (at - part->at);
}

/* From `at` in the mirror to the end of its allocation. */
static uint64_t bytes_left(const struct pool *pool, size_t at)
{
	const struct pool_part *part = pool->parts;

	while (at - part->at >= part->bytes)
		part++;
	return part->bytes - (at - part->at);
}

static void part_add(struct pool *pool, size_t bytes)
{
	pool->parts[pool->part_count++] = (struct pool_part){.at = pool->bytes, .bytes = bytes};
	pool->bytes += bytes;
}

/* Allocations of a region that comes `times` times, each `shift` bytes out of alignment. Later ones are made
 * first, so that addresses fall. */
static void parts_make(struct pool *pool, const struct pool_wish *wish, uint64_t region, uint32_t times)
{
	bool apart = wish->apart && wish->layout == POOL_SPLIT && pool->shape.value_dim;
	uint64_t keys = apart ? pool->offset[KVC_KIND_VALUE] : region;

	if (times * 2 > POOL_PARTS_MAX)
		abort();
	for (uint32_t i = 0; i < times; i++) {
		part_add(pool, keys + wish->shift);
		if (apart)
			part_add(pool, region - keys + wish->shift);
	}
	pool->offset[KVC_KIND_KEY] += wish->shift;
	pool->offset[KVC_KIND_VALUE] += apart ? 2 * wish->shift : wish->shift;
	for (uint32_t i = pool->part_count; i-- > 0;)
		pool->parts[i].device = gpu_alloc(pool->parts[i].bytes);
}

/* A table of a kind's layers, in device memory; what stands for it without one must not be looked at. */
static void table_make(struct pool *pool, struct kvc_kern_place *place, enum kvc_kind kind)
{
	uint64_t entries[POOL_PARTS_MAX], joint = 16;
	size_t bytes = pool->shape.layers * sizeof entries[0];

	for (uint32_t i = 0; i < pool->shape.layers; i++) {
		size_t at = pool->offset[kind] + i * pool->layer_stride[kind];

		entries[i] = (uint64_t)(uintptr_t)device_at(pool, at);
		joint |= entries[i];
	}
	gpu_put(pool->device_layers + kind * bytes, entries, bytes);
	place->layers = (const uint64_t *)(const void *)(pool->device_layers + kind * bytes);
	place->layers_align = (uint32_t)(joint & -joint);
	place->base = NULL;
	place->layer_stride = UINT64_MAX;
}

static void place_finish(struct pool *pool, enum kvc_kind kind)
{
	struct kvc_kern_place *place = kind == KVC_KIND_KEY ? &pool->desc.key : &pool->desc.value;

	if (kind == KVC_KIND_VALUE && pool->shape.value_dim == 0)
		return;
	place->base = device_at(pool, pool->offset[kind]);
	place->bytes = bytes_left(pool, pool->offset[kind]);
	if (pool->device_layers)
		table_make(pool, place, kind);
}

static void memory_make(struct pool *pool, const struct pool_wish *wish)
{
	uint64_t region = places_make(pool, wish);

	parts_make(pool, wish, region, wish->tables ? pool->shape.layers : 1);
	pool->layer_stride[KVC_KIND_KEY] = pool->desc.key.layer_stride;
	pool->layer_stride[KVC_KIND_VALUE] = pool->desc.value.layer_stride;
	if (wish->tables) {
		pool->layer_stride[KVC_KIND_KEY] = pool->bytes / pool->shape.layers;
		pool->layer_stride[KVC_KIND_VALUE] = pool->layer_stride[KVC_KIND_KEY];
		pool->device_layers = gpu_alloc(2 * pool->shape.layers * sizeof(uint64_t));
	}
	pool->host = malloc(pool->bytes);
	place_finish(pool, KVC_KIND_KEY);
	place_finish(pool, KVC_KIND_VALUE);
}

/* --- pages --- */

/* Distinct pages for all blocks. */
static void ids_make(struct pool *pool, struct rng *rng)
{
	uint32_t pages = (uint32_t)pool->desc.pages, used = pool->blocks * pool->block_pages;
	int64_t *all = malloc(pages * sizeof *all);

	for (uint32_t i = 0; i < pages; i++)
		all[i] = i;
	for (uint32_t i = 0; i < used; i++) {
		uint32_t other = i + rng_below(rng, pages - i);
		int64_t id = all[other];

		all[other] = all[i];
		all[i] = id;
	}
	pool->ids = all;
}

static void ids_upload(struct pool *pool)
{
	uint32_t count = pool->blocks * pool->block_pages;
	int32_t *narrow = malloc(count * sizeof *narrow);

	for (uint32_t i = 0; i < count; i++)
		narrow[i] = (int32_t)pool->ids[i];
	if (pool->desc.id_bytes == 4)
		gpu_put(pool->device_ids, narrow, count * sizeof *narrow);
	else
		gpu_put(pool->device_ids, pool->ids, count * sizeof *pool->ids);
	free(narrow);
}

void pool_make(struct pool *pool, const struct kvc_block_shape *shape, uint32_t blocks,
               const struct pool_wish *wish, struct rng *rng)
{
	memset(pool, 0, sizeof *pool);
	pool->shape = *shape;
	pool->blocks = blocks;
	pool->first_token = wish->first_token;
	pool->block_pages = (wish->first_token + shape->tokens - 1) / wish->page_tokens + 1;
	pool->desc.page_tokens = wish->page_tokens;
	pool->desc.id_bytes = wish->id_bytes;
	pool->desc.pages = blocks * pool->block_pages + wish->spare_pages;
	memory_make(pool, wish);
	pool->block_bytes = kvc_block_raw_bytes(shape);
	pool->key_bytes = pool->block_bytes / (shape->key_dim + shape->value_dim) * shape->key_dim;
	pool->data = malloc(pool->block_bytes * blocks);
	pool->device_ids = gpu_alloc(blocks * pool->block_pages * sizeof(int64_t));
	ids_make(pool, rng);
	ids_upload(pool);
}

void pool_free(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->part_count; i++)
		gpu_free(pool->parts[i].device);
	if (pool->device_layers)
		gpu_free(pool->device_layers);
	gpu_free(pool->device_ids);
	free(pool->host);
	free(pool->ids);
	free(pool->data);
}

struct kvc_block_view pool_view(const struct pool *pool, uint8_t *data, uint32_t block)
{
	struct kvc_block_view view = {.key = data + block * pool->block_bytes};

	view.value = (uint8_t *)view.key + pool->key_bytes;
	kvc_block_layout_default(&pool->shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&pool->shape, KVC_KIND_VALUE, &view.value_layout);
	return view;
}

/* Rows of one layer and kind of a block to the mirror. */
static void layer_spread(struct pool *pool, const uint8_t *rows, enum kvc_kind kind, uint32_t block,
                         uint32_t layer)
{
	const struct kvc_kern_place *place = kind == KVC_KIND_KEY ? &pool->desc.key : &pool->desc.value;
	uint32_t dim = kind == KVC_KIND_KEY ? pool->shape.key_dim : pool->shape.value_dim;
	size_t row_bytes = dim * kvc_dtype_bytes(pool->shape.dtype);

	for (uint32_t t = 0; t < pool->shape.tokens; t++) {
		uint32_t position = pool->first_token + t;
		uint64_t page =
		        (uint64_t)pool->ids[block * pool->block_pages + position / pool->desc.page_tokens];
		uint64_t at = pool->offset[kind] + page * place->page_stride +
		              layer * pool->layer_stride[kind] +
		              position % pool->desc.page_tokens * place->token_stride;

		for (uint32_t h = 0; h < pool->shape.heads; h++, rows += row_bytes)
			memcpy(pool->host + at + h * place->head_stride, rows, row_bytes);
	}
}

void pool_spread(struct pool *pool, const uint8_t *data)
{
	memset(pool->host, POISON, pool->bytes);
	for (uint32_t b = 0; b < pool->blocks; b++) {
		const uint8_t *key = data + b * pool->block_bytes;
		const uint8_t *value = key + pool->key_bytes;
		size_t key_layer = pool->key_bytes / pool->shape.layers;
		size_t value_layer = (pool->block_bytes - pool->key_bytes) / pool->shape.layers;

		for (uint32_t layer = 0; layer < pool->shape.layers; layer++) {
			layer_spread(pool, key + layer * key_layer, KVC_KIND_KEY, b, layer);
			if (pool->shape.value_dim)
				layer_spread(pool, value + layer * value_layer, KVC_KIND_VALUE, b, layer);
		}
	}
}

void pool_upload(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->part_count; i++)
		gpu_put(pool->parts[i].device, pool->host + pool->parts[i].at, pool->parts[i].bytes);
}

void pool_download(struct pool *pool)
{
	for (uint32_t i = 0; i < pool->part_count; i++)
		gpu_get(pool->host + pool->parts[i].at, pool->parts[i].device, pool->parts[i].bytes);
}

void pool_fill(struct pool *pool, int byte)
{
	for (uint32_t i = 0; i < pool->part_count; i++)
		gpu_fill(pool->parts[i].device, byte, pool->parts[i].bytes);
}
