/* The host's side of the GPU codec that needs no GPU: checks of a job, tasks for the kernels, the header of
 * an image that was encoded there. Pure functions; built and tested without CUDA. */
#include "kernels/codec_internal.h"
#include "kernels/image_internal.h"
#include "kernels/kern_task.h"

#define PAGE_TOKENS_MAX (1u << 20) /* so that positions in pages fit 32 bits */

/* --- checks --- */

static bool product_add(uint64_t *total, uint64_t count, uint64_t stride)
{
	uint64_t product;

	return !__builtin_mul_overflow(count, stride, &product) &&
	       !__builtin_add_overflow(*total, product, total);
}

/* Rows begin at multiples of `element` bytes. */
static bool place_aligned(const struct kvc_kern_place *place, size_t element)
{
	uint64_t strides = place->page_stride | place->token_stride | place->head_stride;

	if (strides % element)
		return false;
	if (place->layers == NULL)
		return ((uintptr_t)place->base | place->layer_stride) % element == 0;
	return place->layers_align >= element && (place->layers_align & (place->layers_align - 1)) == 0 &&
	       (uintptr_t)place->layers % sizeof *place->layers == 0;
}

/* The last element of the last page, layer, token and head lies in the region; so do all others, because no
 * stride is negative. With a table each layer has a region of its own. */
static bool place_fits(const struct kvc_kern_place *place, const struct kvc_kern_pool *pool,
                       const struct kvc_block_shape *shape, uint32_t dim)
{
	size_t element = kvc_dtype_bytes(shape->dtype);
	uint32_t layers = place->layers ? 1 : shape->layers;
	uint64_t end = dim * element;

	if (!place_aligned(place, element) || (place->layers == NULL && place->base == NULL))
		return false;
	return product_add(&end, pool->pages - 1, place->page_stride) &&
	       product_add(&end, layers - 1, place->layer_stride) &&
	       product_add(&end, pool->page_tokens - 1, place->token_stride) &&
	       product_add(&end, shape->heads - 1, place->head_stride) && end <= place->bytes;
}

static kvc_status pool_check(const struct kvc_kern_pool *pool, const struct kvc_block_shape *shape)
{
	if (pool->pages == 0 || pool->page_tokens == 0 || pool->page_tokens > PAGE_TOKENS_MAX ||
	    (pool->id_bytes != 4 && pool->id_bytes != 8))
		return KVC_INVALID;
	if (!place_fits(&pool->key, pool, shape, shape->key_dim))
		return KVC_SHAPE;
	if (shape->value_dim && !place_fits(&pool->value, pool, shape, shape->value_dim))
		return KVC_SHAPE;
	return KVC_OK;
}

kvc_status kern_job_check(const struct kvc_kern_job *job)
{
	const struct kvc_image_plan *plan = job->plan;

	if (job->sms == 0 || job->count == 0 || job->blocks == NULL || job->results == NULL)
		return KVC_INVALID;
	if ((uint64_t)job->count * plan->tiles > UINT32_MAX / 2)
		return KVC_INVALID;
	return pool_check(job->pool, &plan->shape);
}

/* --- tasks --- */

static struct kern_place place_of(const struct kvc_kern_place *place, uint32_t layer)
{
	struct kern_place made = {
	        .page_stride = place->page_stride,
	        .token_stride = place->token_stride,
	        .head_stride = place->head_stride,
	        .alignment = place->page_stride | place->token_stride | place->head_stride,
	};

	if (place->layers) {
		made.layers = place->layers + layer;
		made.alignment |= place->layers_align;
	} else {
		made.base = (uint64_t)(uintptr_t)place->base + layer * place->layer_stride;
		made.layer_stride = place->layer_stride;
		made.alignment |= made.base | made.layer_stride;
	}
	return made;
}

/* With shift = ceil(log2 d) and factor = floor(2^32 (2^shift - d) / d) + 1, the quotient is exact for all n
 * that fit 32 bits (Granlund and Montgomery, "Division by invariant integers using multiplication"); n below
 * 2^31 keeps the sum in 32 bits. */
static struct kern_divisor divisor_of(uint32_t divisor)
{
	struct kern_divisor made = {.divisor = divisor};

	while ((UINT64_C(1) << made.shift) < divisor)
		made.shift++;
	made.factor = (uint32_t)((((UINT64_C(1) << made.shift) - divisor) << 32) / divisor + 1);
	return made;
}

static struct kern_pages pages_of(const struct kvc_kern_pool *pool)
{
	return (struct kern_pages){.pages = pool->pages,
	                           .page_tokens = divisor_of(pool->page_tokens),
	                           .id_bytes = pool->id_bytes};
}

/* Layers from `layer` on that share its codec: one with an override is alone. */
static uint32_t run_length(const struct kvc_image_plan *plan, uint32_t layer)
{
	const struct kvc_block_codec *codec = &plan->codec;

	for (uint32_t i = 0; i < codec->override_count; i++) {
		if (codec->overrides[i].layer == layer)
			return 1;
		if (codec->overrides[i].layer > layer)
			return codec->overrides[i].layer - layer;
	}
	return plan->shape.layers - layer;
}

static uint64_t layer_offset(const struct kvc_image_plan *plan, uint32_t layer)
{
	if (layer == plan->shape.layers)
		return plan->image_bytes;
	return kvc_image_slot(plan, layer, KVC_KIND_KEY, 0).offset;
}

static void task_raw_bytes(uint32_t raw_bytes[2], const struct kvc_block_shape *shape)
{
	uint32_t column = shape->tokens * (uint32_t)kvc_dtype_bytes(shape->dtype);

	raw_bytes[KVC_KIND_KEY] = shape->key_dim * column;
	raw_bytes[KVC_KIND_VALUE] = shape->value_dim * column;
}

/* Where the elements are, and where the slots go. */
static void task_geometry(struct kern_task *task, const struct kvc_kern_job *job,
                          const struct kvc_image_tile *tile, uint32_t number)
{
	const struct kvc_image_plan *plan = job->plan;
	const struct kvc_block_shape *shape = &plan->shape;
	struct kvc_image_meta meta;
	bool key = tile->kind == KVC_KIND_KEY;

	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	task->place = place_of(key ? &job->pool->key : &job->pool->value, tile->layer);
	task->pages = pages_of(job->pool);
	task->layers = divisor_of(run_length(plan, tile->layer));
	task->layer_slots = layer_offset(plan, tile->layer + 1) - layer_offset(plan, tile->layer);
	task->slot = tile->slot.offset;
	task->slot_bytes = (uint32_t)tile->slot.bytes;
	task->image_bytes = plan->image_bytes;
	task->heads = divisor_of(shape->heads);
	task->per_layer = plan->tiles / shape->layers;
	task->first = number;
	task->tiles = job->count * task->layers.divisor * shape->heads;
	task->tokens = shape->tokens;
	task->dim = tile->shape.dim;
	task->raw_map = meta.raw_map;
	task->sums = meta.sums;
	task_raw_bytes(task->raw_bytes, shape);
}

static void task_codec(struct kern_task *task, const struct kvc_image_tile *tile)
{
	const struct kvc_codec_params *params = tile->params;
	struct kvc_tile_layout layout;

	task->kind = (uint8_t)tile->kind;
	task->dtype = (uint8_t)tile->shape.dtype;
	task->element_bytes = (uint8_t)kvc_dtype_bytes(tile->shape.dtype);
	task->bits = params->bits;
	if (params->bits == KVC_BITS_RAW)
		return;
	kvc_tile_layout_init(&layout, params, &tile->shape);
	task->scales = (uint32_t)layout.scales;
	task->codes = (uint32_t)layout.codes;
	task->group_log2 = (uint32_t)__builtin_ctz(layout.group);
	task->run_log2 = layout.run_log2;
	task->clip = kvc_clip_ratio(params, layout.group);
	task->centred = layout.centred;
	task->rotate = params->rotate;
	task->gain = params->gain && params->bits <= 4;
}

void kern_task_init(struct kern_task *task, const struct kvc_kern_job *job, enum kvc_kind kind,
                    uint32_t layer)
{
	const struct kvc_image_plan *plan = job->plan;
	uint32_t number = layer * (plan->tiles / plan->shape.layers);
	struct kvc_image_tile tile;

	*task = (struct kern_task){.blocks = job->blocks, .results = job->results};
	if (kind == KVC_KIND_VALUE)
		number += plan->shape.heads;
	kvc_image_tile_init(&tile, plan, number);
	task_geometry(task, job, &tile, number);
	task_codec(task, &tile);
}

void kern_block_task_init(struct kern_block_task *task, const struct kvc_kern_job *job)
{
	const struct kvc_image_plan *plan = job->plan;
	const struct kvc_block_shape *shape = &plan->shape;
	struct kvc_image_meta meta;

	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	*task = (struct kern_block_task){
	        .place = {place_of(&job->pool->key, 0), place_of(&job->pool->value, 0)},
	        .pages = pages_of(job->pool),
	        .blocks = job->blocks,
	        .results = job->results,
	        .image_bytes = plan->image_bytes,
	        .raw_image_bytes = plan->raw_image_bytes,
	        .count = job->count,
	        .tiles = plan->tiles,
	        .heads = shape->heads,
	        .per_layer = plan->tiles / shape->layers,
	        .tokens = shape->tokens,
	        .row_bytes = {shape->key_dim * (uint32_t)kvc_dtype_bytes(shape->dtype),
	                      shape->value_dim * (uint32_t)kvc_dtype_bytes(shape->dtype)},
	        .raw_map = meta.raw_map,
	        .sums = meta.sums,
	};
	task_raw_bytes(task->raw_bytes, shape);
}

bool kern_task_is_fast(const struct kern_task *task)
{
	bool aligned = task->place.alignment % 16 == 0; /* loads and stores of 16 bytes */
	bool dim = task->dim == 64 || task->dim == 128 || task->dim == 256;
	bool bits = task->bits == 2 || task->bits == 4 || task->bits == 8;

	return dim && bits && task->group_log2 >= 5 && task->element_bytes == 2 &&
	       task->tokens <= KVC_KERN_FAST_TOKENS && aligned;
}

/* --- the header --- */

kvc_status kvc_kern_image_seal(const struct kvc_image_plan *plan, uint8_t *image, uint64_t capacity,
                               uint64_t *length)
{
	struct kvc_image_meta meta;
	uint64_t bytes = plan->image_bytes;
	uint32_t raw_tiles = 0;

	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	for (uint32_t i = 0; i < plan->tiles; i++) {
		struct kvc_image_tile tile;

		if (!kvc_image_raw_bit(image + meta.raw_map, i))
			continue;
		kvc_image_tile_init(&tile, plan, i);
		bytes += kvc_tile_raw_bytes(&tile.shape);
		raw_tiles++;
	}
	if (bytes > capacity)
		return KVC_CORRUPT;
	kvc_image_finish(plan, &meta, raw_tiles, bytes, image);
	*length = bytes;
	return KVC_OK;
}
