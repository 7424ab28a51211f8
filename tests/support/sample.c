/* Deterministic blocks, and what the codec reference makes of them. */
#include "tests/support/sample.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "kernels/half.h"

uint64_t kvc_sample_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);

	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return z ^ z >> 31;
}

/* A generator for one use of one block. */
static uint64_t state_of(const struct kvc_sample_space *space, uint64_t id, uint64_t use)
{
	uint64_t mix[3] = {space->seed, id, use};

	return XXH3_64bits(mix, sizeof mix);
}

static void coding_params(const struct kvc_coding *coding, struct kvc_codec_params *params)
{
	params->bits = (uint8_t)coding->bits;
	params->group = (uint16_t)coding->group;
	params->centre = coding->centre != 0;
	params->rotate = coding->rotate != 0;
	params->gain = coding->gain != 0;
	params->clip = coding->clip;
}

kvc_status kvc_sample_space_init(struct kvc_sample_space *space, const struct kvc_namespace_options *options,
                                 uint64_t seed)
{
	memset(space, 0, sizeof *space);
	if (options->layer_coding_count)
		return KVC_UNSUPPORTED;
	space->options = *options;
	space->seed = seed;
	space->restorer = kvc_codec_get(KVC_SIMD_SCALAR);
	if (options->preset)
		return kvc_preset_get(options->preset, &space->codec);
	coding_params(&options->key_coding, &space->codec.key);
	coding_params(&options->value_coding, &space->codec.value);
	return KVC_OK;
}

void kvc_sample_key(uint64_t id, uint8_t key[KVC_SAMPLE_KEY_BYTES])
{
	uint64_t words[2] = {id, XXH3_64bits(&id, sizeof id)};

	memset(key, 0, KVC_SAMPLE_KEY_BYTES);
	memcpy(key, words, sizeof words);
}

uint32_t kvc_sample_tokens(const struct kvc_sample_space *space, uint64_t id)
{
	uint64_t state = state_of(space, id, 2);
	uint32_t full = space->options.block_tokens;
	uint64_t random = kvc_sample_random(&state);

	return random % 8 == 0 ? 1 + (uint32_t)(random / 8 % full) : full;
}

static struct kvc_block_shape shape_of(const struct kvc_sample_space *space, uint32_t tokens)
{
	return (struct kvc_block_shape){
	        .layers = space->options.layers,
	        .heads = space->options.heads,
	        .key_dim = space->options.key_dim,
	        .value_dim = space->options.value_dim,
	        .tokens = tokens,
	        .dtype = (enum kvc_dtype)space->options.element,
	};
}

static size_t kind_bytes(const struct kvc_block_shape *shape, uint32_t dim)
{
	return (size_t)shape->layers * shape->tokens * shape->heads * dim * kvc_dtype_bytes(shape->dtype);
}

size_t kvc_sample_key_bytes(const struct kvc_sample_space *space, uint64_t id)
{
	struct kvc_block_shape shape = shape_of(space, kvc_sample_tokens(space, id));

	return kind_bytes(&shape, shape.key_dim);
}

size_t kvc_sample_bytes(const struct kvc_sample_space *space, uint64_t id)
{
	struct kvc_block_shape shape = shape_of(space, kvc_sample_tokens(space, id));

	return kvc_block_raw_bytes(&shape);
}

size_t kvc_sample_bytes_max(const struct kvc_sample_space *space)
{
	struct kvc_block_shape shape = shape_of(space, space->options.block_tokens);

	return kvc_block_raw_bytes(&shape);
}

/* ---- source -------------------------------------------------------------------------------- */

static inline void store_element(enum kvc_dtype dtype, float x, uint8_t *out)
{
	uint16_t half = dtype == KVC_DTYPE_FP16 ? kvc_f16_saturate(x) : kvc_bf16_saturate(x);

	if (dtype == KVC_DTYPE_FP32)
		memcpy(out, &x, sizeof x);
	else
		memcpy(out, &half, sizeof half);
}

/* Near enough to normal: the sum of four uniform numbers, of variance 1/3. */
static float noise(uint64_t random)
{
	uint64_t sum = (random & 0xFFFF) + (random >> 16 & 0xFFFF) + (random >> 32 & 0xFFFF) + (random >> 48);

	return (float)sum * (1.0f / 32768.0f) - 4.0f;
}

/* What a strange block has in place of noise: by `kind`, and now and then only. */
static float strange(uint64_t kind, uint64_t random)
{
	switch (kind) {
	case 0:
		return random % 97 == 0 ? kvc_f32_from_bits(0x7F800000u) : noise(random);
	case 1:
		return random % 89 == 0 ? kvc_f32_from_bits(0x7FC00001u) : noise(random);
	case 2:
		return 0.0f;
	case 3:
		return 1.25f;
	case 4:
		return noise(random) * 0x1p-130f;
	case 5:
		return noise(random) * 30000.0f;
	case 6:
		return random % 2 ? -0.0f : 0.0f;
	default:
		return random % 61 == 0 ? 0x1p21f : noise(random);
	}
}

/* A block like most: noise about an offset for each channel. */
static void usual_source(enum kvc_dtype dtype, uint32_t dim, size_t count, uint64_t state, uint8_t *to)
{
	size_t step = kvc_dtype_bytes(dtype);
	uint32_t channel = 0;

	for (size_t i = 0; i < count; i++) {
		float offset = (float)(channel * 37 % 64) * 0.125f - 4.0f;

		store_element(dtype, noise(kvc_sample_random(&state)) + offset, to);
		to += step;
		channel = channel + 1 < dim ? channel + 1 : 0;
	}
}

void kvc_sample_source(const struct kvc_sample_space *space, uint64_t id, void *out)
{
	enum kvc_dtype dtype = (enum kvc_dtype)space->options.element;
	size_t step = kvc_dtype_bytes(dtype);
	size_t count = kvc_sample_bytes(space, id) / step;
	uint64_t state = state_of(space, id, 3);
	uint64_t first = kvc_sample_random(&state);
	uint8_t *to = out;

	if (first % 11 != 0) {
		usual_source(dtype, space->options.key_dim, count, state, to);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		store_element(dtype, strange(first / 11 % 8, kvc_sample_random(&state)), to);
		to += step;
	}
}

/* ---- what must come back ------------------------------------------------------------------- */

struct reference {
	struct kvc_image_plan plan;
	struct kvc_block_view view;
	const struct kvc_codec *codec;
	uint8_t *image;
	void *scratch;
	uint64_t length;
};

static bool reference_open(struct reference *reference, const struct kvc_sample_space *space, uint64_t id,
                           const void *source)
{
	struct kvc_block_shape shape = shape_of(space, kvc_sample_tokens(space, id));
	struct kvc_block_view *view = &reference->view;
	size_t scratch_bytes;

	memset(reference, 0, sizeof *reference);
	reference->codec = space->restorer;
	if (kvc_image_plan_init(&reference->plan, &shape, &space->codec) != KVC_OK)
		return false;
	kvc_block_layout_default(&shape, KVC_KIND_KEY, &view->key_layout);
	kvc_block_layout_default(&shape, KVC_KIND_VALUE, &view->value_layout);
	view->key = (void *)(uintptr_t)source;
	view->value = shape.value_dim ? (uint8_t *)view->key + kind_bytes(&shape, shape.key_dim) : NULL;
	scratch_bytes = (kvc_image_scratch_bytes(&reference->plan) + 63) / 64 * 64;
	reference->image =
	        aligned_alloc(KVC_IMAGE_ALIGN, (reference->plan.raw_image_bytes + 4095) / 4096 * 4096);
	reference->scratch = aligned_alloc(64, scratch_bytes ? scratch_bytes : 64);
	return reference->image && reference->scratch;
}

static void reference_close(struct reference *reference)
{
	free(reference->scratch);
	free(reference->image);
}

static bool reference_encode(struct reference *reference)
{
	kvc_image_encode_tiles(&reference->plan, reference->codec, &reference->view, reference->image, 0,
	                       reference->plan.tiles, reference->scratch);
	return kvc_image_seal(&reference->plan, &reference->view, reference->image,
	                      reference->plan.raw_image_bytes, &reference->length) == KVC_OK;
}

static bool reference_decode(struct reference *reference, void *out)
{
	struct kvc_image image;
	struct kvc_block_view to = reference->view;

	if (to.value)
		to.value = (uint8_t *)out + ((uint8_t *)to.value - (uint8_t *)to.key);
	to.key = out;
	return kvc_image_open(reference->image, reference->length, 0, &image) == KVC_OK &&
	       kvc_image_decode_tiles(&image, reference->codec, &to, 0, image.plan.tiles, 0,
	                              reference->scratch) == KVC_OK;
}

bool kvc_sample_restore(const struct kvc_sample_space *space, uint64_t id, const void *source, void *out)
{
	struct reference reference;
	bool ok = reference_open(&reference, space, id, source) && reference_encode(&reference) &&
	          reference_decode(&reference, out);

	reference_close(&reference);
	return ok;
}

uint64_t kvc_sample_sum_of(const void *data, size_t bytes)
{
	return XXH3_64bits(data, bytes);
}

bool kvc_sample_sum(const struct kvc_sample_space *space, uint64_t id, uint64_t *sum)
{
	size_t bytes = kvc_sample_bytes(space, id);
	void *data = malloc(bytes);
	bool ok = false;

	if (data) {
		kvc_sample_source(space, id, data);
		ok = kvc_sample_restore(space, id, data, data);
		if (ok)
			*sum = kvc_sample_sum_of(data, bytes);
	}
	free(data);
	return ok;
}

void kvc_sample_block(const struct kvc_sample_space *space, uint64_t id, uint64_t offset,
                      uint8_t key[KVC_SAMPLE_KEY_BYTES], struct kvc_block *block)
{
	kvc_sample_key(id, key);
	memset(block, 0, sizeof *block);
	block->key = key;
	block->key_bytes = KVC_SAMPLE_KEY_BYTES;
	block->tokens = kvc_sample_tokens(space, id);
	block->key_offset = offset;
	block->value_offset = offset + kvc_sample_key_bytes(space, id);
}
