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

/* Both places of a pool; returns the bytes of the region. */
static uint64_t places_make(struct pool *pool, const struct pool_wish *wish)
{
	const struct kvc_block_shape *shape = &pool->shape;
	uint64_t extent[AXES] = {shape->layers, pool->desc.pages, wish->page_tokens, shape->heads};
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
	pool->offset[0] = 0;
	pool->bytes = places_make(pool, wish) + wish->shift;
	pool->offset[0] += wish->shift;
	pool->offset[1] += wish->shift;
	pool->host = malloc(pool->bytes);
	pool->device = gpu_alloc(pool->bytes);
	pool->desc.key.base = pool->device + pool->offset[0];
	pool->desc.key.bytes = pool->bytes - pool->offset[0];
	pool->desc.value.base = pool->device + pool->offset[1];
	pool->desc.value.bytes = pool->bytes - pool->offset[1];
	pool->block_bytes = kvc_block_raw_bytes(shape);
	pool->key_bytes = pool->block_bytes / (shape->key_dim + shape->value_dim) * shape->key_dim;
	pool->data = malloc(pool->block_bytes * blocks);
	pool->device_ids = gpu_alloc(blocks * pool->block_pages * sizeof(int64_t));
	ids_make(pool, rng);
	ids_upload(pool);
}

void pool_free(struct pool *pool)
{
	gpu_free(pool->device);
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
		uint64_t at = pool->offset[kind] + page * place->page_stride + layer * place->layer_stride +
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
	gpu_put(pool->device, pool->host, pool->bytes);
}
