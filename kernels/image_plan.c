/* Sizes and offsets of a block image: all that follows from shape and codec. Pure functions; this is where
 * shapes are bounded, so that no product below can overflow. */
#include "kernels/codec_internal.h"
#include "kernels/image_internal.h"

static bool dim_ok(uint32_t dim)
{
	return dim % KVC_DIM_STEP == 0 && dim <= KVC_DIM_MAX;
}

static uint32_t kinds(const struct kvc_block_shape *shape)
{
	return shape->value_dim ? 2 : 1;
}

static uint64_t tile_count(const struct kvc_block_shape *shape)
{
	return (uint64_t)shape->layers * shape->heads * kinds(shape);
}

/* At most 2^9 layers, 2^8 heads, 2^12 tokens, 2^11 channels of 2^2 bytes: 2^42, before the bound is applied.
 */
size_t kvc_block_raw_bytes(const struct kvc_block_shape *shape)
{
	return (size_t)shape->layers * shape->heads * shape->tokens * (shape->key_dim + shape->value_dim) *
	       kvc_dtype_bytes(shape->dtype);
}

static uint64_t raw_image_bytes(const struct kvc_block_shape *shape)
{
	struct kvc_image_meta meta;

	kvc_image_meta_init(&meta, 0, (uint32_t)tile_count(shape));
	return meta.bytes + (uint64_t)kvc_block_raw_bytes(shape);
}

kvc_status kvc_block_shape_check(const struct kvc_block_shape *shape)
{
	if (shape->layers < 1 || shape->layers > KVC_LAYERS_MAX || shape->heads < 1 ||
	    shape->heads > KVC_HEADS_MAX || shape->tokens < 1 || shape->tokens > KVC_TOKENS_MAX)
		return KVC_SHAPE;
	if (shape->key_dim == 0 || !dim_ok(shape->key_dim) || !dim_ok(shape->value_dim))
		return KVC_SHAPE;
	if (kvc_dtype_bytes(shape->dtype) == 0)
		return KVC_SHAPE;
	if (tile_count(shape) > KVC_TILES_MAX || raw_image_bytes(shape) > KVC_IMAGE_BYTES_MAX)
		return KVC_SHAPE;
	return KVC_OK;
}

void kvc_block_layout_default(const struct kvc_block_shape *shape, enum kvc_kind kind,
                              struct kvc_block_layout *layout)
{
	size_t dim = kind == KVC_KIND_KEY ? shape->key_dim : shape->value_dim;

	layout->head_stride = (ptrdiff_t)(dim * kvc_dtype_bytes(shape->dtype));
	layout->token_stride = layout->head_stride * (ptrdiff_t)shape->heads;
	layout->layer_stride = layout->token_stride * (ptrdiff_t)shape->tokens;
}

void kvc_image_meta_init(struct kvc_image_meta *meta, uint32_t override_count, uint32_t tiles)
{
	meta->raw_map =
	        (uint32_t)(KVC_IMAGE_HEADER_BYTES + override_count * sizeof(struct kvc_image_override));
	meta->raw_map_end = meta->raw_map + (tiles + 7) / 8;
	meta->sums = (uint32_t)kvc_round_up_to(meta->raw_map_end, 8);
	meta->sums_end = meta->sums + 8 * tiles;
	meta->bytes = (uint32_t)kvc_round_up_to(meta->sums_end, KVC_IMAGE_ALIGN);
}

static struct kvc_tile_shape tile_shape(const struct kvc_block_shape *shape, enum kvc_kind kind)
{
	return (struct kvc_tile_shape){
	        .tokens = shape->tokens,
	        .dim = kind == KVC_KIND_KEY ? shape->key_dim : shape->value_dim,
	        .dtype = shape->dtype,
	};
}

static uint64_t kind_bytes(const struct kvc_block_shape *shape, enum kvc_kind kind,
                           const struct kvc_codec_params *params)
{
	struct kvc_tile_shape tile = tile_shape(shape, kind);

	return tile.dim ? kvc_tile_bytes(params, &tile) : 0;
}

static uint64_t layer_bytes(const struct kvc_block_shape *shape, const struct kvc_codec_params *key,
                            const struct kvc_codec_params *value)
{
	return shape->heads *
	       (kind_bytes(shape, KVC_KIND_KEY, key) + kind_bytes(shape, KVC_KIND_VALUE, value));
}

/* Bytes of the tile slots of all layers below `layer`. */
static uint64_t layers_bytes(const struct kvc_block_shape *shape, const struct kvc_block_codec *codec,
                             uint32_t layer)
{
	uint64_t total = 0;
	uint32_t i;

	for (i = 0; i < codec->override_count && codec->overrides[i].layer < layer; i++)
		total += layer_bytes(shape, &codec->overrides[i].key, &codec->overrides[i].value);
	return total + (layer - i) * layer_bytes(shape, &codec->key, &codec->value);
}

static const struct kvc_codec_params *layer_params(const struct kvc_block_codec *codec, uint32_t layer,
                                                   enum kvc_kind kind)
{
	for (uint32_t i = 0; i < codec->override_count; i++) {
		const struct kvc_layer_override *override = &codec->overrides[i];

		if (override->layer == layer)
			return kind == KVC_KIND_KEY ? &override->key : &override->value;
	}
	return kind == KVC_KIND_KEY ? &codec->key : &codec->value;
}

struct kvc_tile_slot kvc_image_slot(const struct kvc_image_plan *plan, uint32_t layer, enum kvc_kind kind,
                                    uint32_t head)
{
	const struct kvc_block_shape *shape = &plan->shape;
	const struct kvc_block_codec *codec = &plan->codec;
	struct kvc_tile_slot slot;

	assert(layer < shape->layers && head < shape->heads);
	slot.bytes = kind_bytes(shape, kind, layer_params(codec, layer, kind));
	slot.offset = plan->meta_bytes + layers_bytes(shape, codec, layer) + head * slot.bytes;
	if (kind == KVC_KIND_VALUE) {
		const struct kvc_codec_params *key = layer_params(codec, layer, KVC_KIND_KEY);

		slot.offset += shape->heads * kind_bytes(shape, KVC_KIND_KEY, key);
	}
	return slot;
}

void kvc_image_tile_init(struct kvc_image_tile *tile, const struct kvc_image_plan *plan, uint32_t number)
{
	uint32_t heads = plan->shape.heads;
	uint32_t per_layer = heads * kinds(&plan->shape);

	assert(number < plan->tiles);
	tile->layer = number / per_layer;
	tile->kind = number % per_layer < heads ? KVC_KIND_KEY : KVC_KIND_VALUE;
	tile->head = number % heads;
	tile->params = layer_params(&plan->codec, tile->layer, tile->kind);
	tile->shape = tile_shape(&plan->shape, tile->kind);
	tile->slot = kvc_image_slot(plan, tile->layer, tile->kind, tile->head);
}

size_t kvc_image_scratch_bytes(const struct kvc_image_plan *plan)
{
	struct kvc_tile_shape tile = tile_shape(&plan->shape, KVC_KIND_KEY);

	if (plan->shape.value_dim > tile.dim)
		tile.dim = plan->shape.value_dim;
	return kvc_tile_scratch_bytes(&tile);
}

/* What is ignored is zeroed, so that equal blocks have equal images. */
static void params_normalise(struct kvc_codec_params *params, bool present)
{
	if (!present || params->bits == KVC_BITS_RAW)
		*params = (struct kvc_codec_params){.bits = KVC_BITS_RAW};
}

static kvc_status codec_check(const struct kvc_block_shape *shape, const struct kvc_block_codec *codec)
{
	if (codec->override_count > KVC_OVERRIDES_MAX)
		return KVC_INVALID;
	if (kvc_codec_params_check(&codec->key) || kvc_codec_params_check(&codec->value))
		return KVC_INVALID;
	for (uint32_t i = 0; i < codec->override_count; i++) {
		const struct kvc_layer_override *override = &codec->overrides[i];

		if (override->layer >= shape->layers || (i > 0 && override->layer <= override[-1].layer))
			return KVC_INVALID;
		if (kvc_codec_params_check(&override->key) || kvc_codec_params_check(&override->value))
			return KVC_INVALID;
	}
	return KVC_OK;
}

static void codec_normalise(struct kvc_block_codec *to, const struct kvc_block_shape *shape,
                            const struct kvc_block_codec *from)
{
	bool values = shape->value_dim != 0;

	*to = (struct kvc_block_codec){
	        .key = from->key, .value = from->value, .override_count = from->override_count};
	params_normalise(&to->key, true);
	params_normalise(&to->value, values);
	for (uint32_t i = 0; i < from->override_count; i++) {
		to->overrides[i] = from->overrides[i];
		params_normalise(&to->overrides[i].key, true);
		params_normalise(&to->overrides[i].value, values);
	}
}

/* Sizes of a plan whose shape and codec are set. */
static void plan_sizes(struct kvc_image_plan *plan)
{
	struct kvc_image_meta meta;

	plan->tiles = (uint32_t)tile_count(&plan->shape);
	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	plan->meta_bytes = meta.bytes;
	plan->payload_bytes = layers_bytes(&plan->shape, &plan->codec, plan->shape.layers);
	plan->image_bytes = plan->meta_bytes + plan->payload_bytes;
	plan->raw_image_bytes = raw_image_bytes(&plan->shape);
}

void kvc_image_plan_raw(struct kvc_image_plan *raw, const struct kvc_image_plan *plan)
{
	struct kvc_block_shape shape = plan->shape;

	*raw = (struct kvc_image_plan){.shape = shape};
	raw->codec.key.bits = KVC_BITS_RAW;
	raw->codec.value.bits = KVC_BITS_RAW;
	plan_sizes(raw);
}

kvc_status kvc_image_plan_init(struct kvc_image_plan *plan, const struct kvc_block_shape *shape,
                               const struct kvc_block_codec *codec)
{
	struct kvc_image_plan made = {.shape = *shape};
	kvc_status status = kvc_block_shape_check(shape);

	if (status == KVC_OK)
		status = codec_check(shape, codec);
	if (status != KVC_OK)
		return status;
	codec_normalise(&made.codec, shape, codec);
	plan_sizes(&made);
	if (made.image_bytes >= made.raw_image_bytes)
		kvc_image_plan_raw(&made, &made);
	*plan = made;
	return KVC_OK;
}
