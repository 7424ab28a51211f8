/* Block images: layout, raw tiles, overrides, key-only blocks, and that no damaged byte gets through. */
#include "kernels/half.h"
#include "kernels/image.h"
#include "tests/support/prng.h"
#include "tests/support/row.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NAN_BITS 0x7F81u /* bfloat16, signalling */

/* A block in memory with its image. */
struct block {
	struct kvc_block_shape shape;
	struct kvc_image_plan plan;
	struct kvc_block_view source;
	struct kvc_block_view dest;
	size_t key_bytes;
	size_t value_bytes;
	uint8_t *image;
	uint64_t capacity;
	uint64_t length; /* after block_seal() */
	void *scratch;
	const struct kvc_codec *codec;
};

static void *allocate(size_t bytes)
{
	void *memory =
	        aligned_alloc(KVC_IMAGE_ALIGN, (bytes + KVC_IMAGE_ALIGN) / KVC_IMAGE_ALIGN * KVC_IMAGE_ALIGN);

	assert_non_null(memory);
	return memory;
}

static struct kvc_block_codec preset(const char *name)
{
	struct kvc_block_codec codec;

	assert_int_equal(kvc_preset_get(name, &codec), KVC_OK);
	return codec;
}

/* Elements such as keys have: a mean of its own in each channel, noise around it. */
static void fill(void *memory, size_t bytes, enum kvc_dtype dtype, uint64_t seed)
{
	struct prng prng = {.state = seed};
	size_t size = kvc_dtype_bytes(dtype);
	uint8_t *to = memory;

	for (size_t i = 0; i < bytes / size; i++) {
		float x = (float)(i % 16) - 7.5f + prng_normal(&prng);
		uint32_t bits = kvc_f32_bits(x);
		uint16_t half = dtype == KVC_DTYPE_FP16 ? kvc_f16_from_f32(x) : kvc_bf16_saturate(x);

		memcpy(to + i * size, size == 4 ? (const void *)&bits : (const void *)&half, size);
	}
}

static void view_init(struct kvc_block_view *view, const struct block *block)
{
	view->key = allocate(block->key_bytes);
	view->value = block->value_bytes ? allocate(block->value_bytes) : NULL;
	memset(view->key, 0, block->key_bytes);
	if (view->value)
		memset(view->value, 0, block->value_bytes);
	kvc_block_layout_default(&block->shape, KVC_KIND_KEY, &view->key_layout);
	kvc_block_layout_default(&block->shape, KVC_KIND_VALUE, &view->value_layout);
}

static void block_init(struct block *block, const struct kvc_block_shape *shape,
                       const struct kvc_block_codec *codec)
{
	size_t elements =
	        (size_t)shape->layers * shape->heads * shape->tokens * kvc_dtype_bytes(shape->dtype);

	*block = (struct block){.shape = *shape, .codec = kvc_codec_get(KVC_SIMD_AUTO)};
	assert_int_equal(kvc_image_plan_init(&block->plan, shape, codec), KVC_OK);
	block->key_bytes = elements * shape->key_dim;
	block->value_bytes = elements * shape->value_dim;
	view_init(&block->source, block);
	view_init(&block->dest, block);
	fill(block->source.key, block->key_bytes, shape->dtype, 1);
	if (block->source.value)
		fill(block->source.value, block->value_bytes, shape->dtype, 2);
	block->capacity = block->plan.raw_image_bytes;
	block->image = allocate(block->capacity);
	memset(block->image, 0xEE, block->capacity);
	block->scratch = allocate(kvc_image_scratch_bytes(&block->plan));
}

static void block_free(struct block *block)
{
	free(block->source.key);
	free(block->source.value);
	free(block->dest.key);
	free(block->dest.value);
	free(block->image);
	free(block->scratch);
}

static void block_seal(struct block *block)
{
	kvc_image_encode_tiles(&block->plan, block->codec, &block->source, block->image, 0, block->plan.tiles,
	                       block->scratch);
	assert_int_equal(
	        kvc_image_seal(&block->plan, &block->source, block->image, block->capacity, &block->length),
	        KVC_OK);
}

static kvc_status block_restore(struct block *block)
{
	struct kvc_image image;
	kvc_status status = kvc_image_open(block->image, block->length, 0, &image);

	if (status != KVC_OK)
		return status;
	return kvc_image_decode_tiles(&image, block->codec, &block->dest, 0, image.plan.tiles, 0,
	                              block->scratch);
}

/* The element at [layer][token][head][channel], of two bytes. */
static uint8_t *element(const struct block *block, const struct kvc_block_view *view, enum kvc_kind kind,
                        uint32_t layer, uint32_t token, uint32_t head, uint32_t channel)
{
	bool key = kind == KVC_KIND_KEY;
	size_t dim = key ? block->shape.key_dim : block->shape.value_dim;
	size_t index =
	        ((size_t)(layer * block->shape.tokens + token) * block->shape.heads + head) * dim + channel;

	return (uint8_t *)(key ? view->key : view->value) + 2 * index;
}

static void spoil(struct block *block, enum kvc_kind kind, uint32_t layer, uint32_t head)
{
	uint16_t bits = NAN_BITS;

	memcpy(element(block, &block->source, kind, layer, 1, head, 3), &bits, sizeof bits);
}

/* Rows of one tile of source and dest are the same, bit for bit. */
static bool tile_exact(const struct block *block, enum kvc_kind kind, uint32_t layer, uint32_t head)
{
	size_t dim = kind == KVC_KIND_KEY ? block->shape.key_dim : block->shape.value_dim;

	for (uint32_t t = 0; t < block->shape.tokens; t++) {
		if (memcmp(element(block, &block->source, kind, layer, t, head, 0),
		           element(block, &block->dest, kind, layer, t, head, 0), 2 * dim) != 0)
			return false;
	}
	return true;
}

static const struct kvc_block_shape small = {
        .layers = 2, .heads = 3, .key_dim = 32, .value_dim = 16, .tokens = 20, .dtype = KVC_DTYPE_BF16};

/* --- shapes and plans --- */

static void shapes_out_of_bounds_are_refused(void **state)
{
	static const struct kvc_block_shape bad[] = {
	        {0, 1, 64, 64, 16, KVC_DTYPE_BF16},      {513, 1, 64, 64, 16, KVC_DTYPE_BF16},
	        {1, 0, 64, 64, 16, KVC_DTYPE_BF16},      {1, 257, 64, 64, 16, KVC_DTYPE_BF16},
	        {1, 1, 0, 64, 16, KVC_DTYPE_BF16},       {1, 1, 24, 64, 16, KVC_DTYPE_BF16},
	        {1, 1, 1040, 64, 16, KVC_DTYPE_BF16},    {1, 1, 64, 8, 16, KVC_DTYPE_BF16},
	        {1, 1, 64, 1040, 16, KVC_DTYPE_BF16},    {1, 1, 64, 64, 0, KVC_DTYPE_BF16},
	        {1, 1, 64, 64, 4097, KVC_DTYPE_BF16},    {1, 1, 64, 64, 16, KVC_DTYPE_UNSET},
	        {1, 1, 64, 64, 16, (enum kvc_dtype)4},   {512, 256, 16, 0, 1, KVC_DTYPE_BF16},
	        {512, 64, 16, 16, 1024, KVC_DTYPE_FP32}, {UINT32_MAX, UINT32_MAX, 16, 16, 16, KVC_DTYPE_BF16},
	};
	struct kvc_block_codec codec = preset("quality");
	struct kvc_image_plan plan = {.tiles = 77};

	(void)state;
	assert_int_equal(kvc_block_shape_check(&small), KVC_OK);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(kvc_block_shape_check(&bad[i]), KVC_SHAPE);
		assert_int_equal(kvc_image_plan_init(&plan, &bad[i], &codec), KVC_SHAPE);
	}
	assert_int_equal(plan.tiles, 77);
}

static void codecs_out_of_bounds_are_refused(void **state)
{
	struct kvc_block_codec good = preset("quality");
	struct kvc_block_codec codec = good;
	struct kvc_image_plan plan;

	(void)state;
	codec.key.bits = 1;
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
	codec = good;
	codec.value.group = 48;
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
	codec = good;
	codec.override_count = KVC_OVERRIDES_MAX + 1;
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
	codec = good;
	codec.override_count = 1;
	codec.overrides[0] = (struct kvc_layer_override){.layer = 2, .key = good.key, .value = good.value};
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
	codec.override_count = 2; /* not ascending */
	codec.overrides[0].layer = 1;
	codec.overrides[1] = codec.overrides[0];
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
	codec.overrides[1].value.bits = 9;
	codec.overrides[0].layer = 0;
	assert_int_equal(kvc_image_plan_init(&plan, &small, &codec), KVC_INVALID);
}

/* Slots lie one after the other, in the order of tiles, and fill the payload. */
static void slots_fill_the_payload(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_block_shape shape = {5, 3, 128, 64, 100, KVC_DTYPE_BF16};
	struct kvc_image_plan plan;
	uint64_t next;

	(void)state;
	codec.override_count = 2;
	codec.overrides[0] = (struct kvc_layer_override){.layer = 0, .key = {.bits = 8, .group = 32}};
	codec.overrides[0].value.bits = KVC_BITS_RAW;
	codec.overrides[1] = (struct kvc_layer_override){.layer = 3, .key = codec.value, .value = codec.key};
	assert_int_equal(kvc_image_plan_init(&plan, &shape, &codec), KVC_OK);
	assert_int_equal(plan.tiles, 5 * 3 * 2);
	next = plan.meta_bytes;
	assert_int_equal(next % KVC_IMAGE_ALIGN, 0);
	for (uint32_t layer = 0; layer < shape.layers; layer++) {
		for (uint32_t i = 0; i < 2 * shape.heads; i++) {
			enum kvc_kind kind = i < shape.heads ? KVC_KIND_KEY : KVC_KIND_VALUE;
			struct kvc_tile_slot slot = kvc_image_slot(&plan, layer, kind, i % shape.heads);

			assert_int_equal(slot.offset, next);
			assert_int_equal(slot.bytes % KVC_PLANE_ALIGN, 0);
			next += slot.bytes;
		}
	}
	assert_int_equal(next, plan.image_bytes);
	assert_int_equal(next - plan.meta_bytes, plan.payload_bytes);
	assert_int_equal(kvc_image_slot(&plan, 0, KVC_KIND_VALUE, 0).bytes, 100 * 64 * 2);
}

/* A codec that saves nothing becomes the raw codec. */
static void plans_that_save_nothing_are_raw(void **state)
{
	struct kvc_block_codec codec = preset("k8v4");
	struct kvc_block_shape shape = {1, 1, 16, 16, 1, KVC_DTYPE_BF16};
	struct kvc_image_plan plan;

	(void)state;
	KVC_ROW("D15");
	assert_int_equal(kvc_image_plan_init(&plan, &shape, &codec), KVC_OK);
	assert_int_equal(plan.codec.key.bits, KVC_BITS_RAW);
	assert_int_equal(plan.codec.value.bits, KVC_BITS_RAW);
	assert_int_equal(plan.image_bytes, plan.raw_image_bytes);
	assert_int_equal(plan.payload_bytes, kvc_block_raw_bytes(&shape));
	kvc_row.injected++;
	kvc_row_end();
}

/* --- round trips --- */

static void images_restore_every_type(void **state)
{
	struct kvc_block_codec codec = preset("quality");

	(void)state;
	for (enum kvc_dtype dtype = KVC_DTYPE_BF16; dtype <= KVC_DTYPE_FP32; dtype++) {
		struct kvc_block_shape shape = {2, 2, 64, 96, 70, dtype};
		struct block block;

		block_init(&block, &shape, &codec);
		block_seal(&block);
		assert_int_equal(block.length, block.plan.image_bytes);
		assert_int_equal(block_restore(&block), KVC_OK);
		block_free(&block);
	}
}

/* What an image restores is what the tiles by themselves restore. */
static void images_restore_what_tiles_do(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_tile_shape shape = {.tokens = small.tokens, .dim = small.value_dim, .dtype = small.dtype};
	struct block block;
	_Alignas(KVC_PLANE_ALIGN) uint8_t coded[4096];
	uint8_t row[4096];
	struct kvc_rows from, to = {.base = row, .row_stride = (ptrdiff_t)(2 * small.value_dim)};

	(void)state;
	block_init(&block, &small, &codec);
	block_seal(&block);
	assert_int_equal(block_restore(&block), KVC_OK);
	from.base = element(&block, &block.source, KVC_KIND_VALUE, 1, 0, 2, 0);
	from.row_stride = block.source.value_layout.token_stride;
	assert_true(block.codec->encode(&codec.value, &shape, &from, coded, block.scratch));
	block.codec->decode(&codec.value, &shape, coded, &to, block.scratch);
	for (uint32_t t = 0; t < small.tokens; t++)
		assert_memory_equal(row + t * 2 * (size_t)small.value_dim,
		                    element(&block, &block.dest, KVC_KIND_VALUE, 1, t, 2, 0),
		                    2 * small.value_dim);
	block_free(&block);
}

/* Ranges of tiles, in any order and of any encoder, make the same bytes; what the memory held does not show.
 */
static void images_are_the_same_bytes(void **state)
{
	struct kvc_block_codec codec = preset("compact");
	struct block a, b;

	(void)state;
	block_init(&a, &small, &codec);
	block_init(&b, &small, &codec);
	spoil(&a, KVC_KIND_KEY, 1, 1);
	spoil(&b, KVC_KIND_KEY, 1, 1);
	memset(b.image, 0x11, b.capacity);
	block_seal(&a);
	b.codec = kvc_codec_get(KVC_SIMD_SCALAR);
	kvc_image_encode_tiles(&b.plan, b.codec, &b.source, b.image, 8, 4, b.scratch);
	kvc_image_encode_tiles(&b.plan, b.codec, &b.source, b.image, 0, 8, b.scratch);
	assert_int_equal(kvc_image_seal(&b.plan, &b.source, b.image, b.capacity, &b.length), KVC_OK);
	assert_int_equal(a.length, b.length);
	assert_memory_equal(a.image, b.image, a.length);
	block_free(&a);
	block_free(&b);
}

struct range {
	struct block *block;
	uint32_t first;
	uint32_t count;
};

static void *encode_range(void *argument)
{
	const struct range *range = argument;
	struct block *block = range->block;
	void *scratch = allocate(kvc_image_scratch_bytes(&block->plan));

	kvc_image_encode_tiles(&block->plan, block->codec, &block->source, block->image, range->first,
	                       range->count, scratch);
	free(scratch);
	return NULL;
}

/* Raw tiles on both sides of the bounds: their bits are set by different threads. */
static void ranges_encode_in_parallel(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_block_shape shape = {4, 3, 32, 32, 70, KVC_DTYPE_BF16};
	struct block alone, block;
	struct range ranges[] = {{&block, 0, 8}, {&block, 8, 8}, {&block, 16, 8}};
	pthread_t threads[3];

	(void)state;
	block_init(&alone, &shape, &codec);
	block_init(&block, &shape, &codec);
	for (struct block *b = &alone; b; b = b == &alone ? &block : NULL) {
		spoil(b, KVC_KIND_KEY, 1, 1);
		spoil(b, KVC_KIND_KEY, 1, 2);
		spoil(b, KVC_KIND_VALUE, 2, 0);
	}
	block_seal(&alone);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, encode_range, &ranges[i]), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_int_equal(
	        kvc_image_seal(&block.plan, &block.source, block.image, block.capacity, &block.length),
	        KVC_OK);
	assert_int_equal(block.length, alone.length);
	assert_memory_equal(block.image, alone.image, alone.length);
	block_free(&alone);
	block_free(&block);
}

static void ranges_of_tiles_decode(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_image image;
	struct block block;

	(void)state;
	block_init(&block, &small, &codec);
	spoil(&block, KVC_KIND_KEY, 0, 1);
	spoil(&block, KVC_KIND_VALUE, 1, 0);
	block_seal(&block);
	assert_int_equal(kvc_image_open(block.image, block.length, 0, &image), KVC_OK);
	assert_int_equal(image.raw_tiles, 2);
	for (uint32_t i = image.plan.tiles; i-- > 0;)
		assert_int_equal(
		        kvc_image_decode_tiles(&image, block.codec, &block.dest, i, 1, 0, block.scratch),
		        KVC_OK);
	assert_true(tile_exact(&block, KVC_KIND_KEY, 0, 1));
	assert_true(tile_exact(&block, KVC_KIND_VALUE, 1, 0));
	assert_false(tile_exact(&block, KVC_KIND_VALUE, 1, 1));
	block_free(&block);
}

static void overrides_are_kept(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_image image;
	struct block block;

	(void)state;
	codec.override_count = 1;
	codec.overrides[0] = (struct kvc_layer_override){
	        .layer = 1, .key = {.bits = KVC_BITS_RAW}, .value = {.bits = 8, .group = 16, .clip = 0.75f}};
	block_init(&block, &small, &codec);
	block_seal(&block);
	assert_int_equal(block_restore(&block), KVC_OK);
	assert_int_equal(kvc_image_open(block.image, block.length, 0, &image), KVC_OK);
	assert_int_equal(image.plan.codec.override_count, 1);
	assert_int_equal(image.plan.codec.overrides[0].layer, 1);
	assert_int_equal(image.plan.codec.overrides[0].value.bits, 8);
	assert_true(image.plan.codec.overrides[0].value.clip == 0.75f);
	assert_false(tile_exact(&block, KVC_KIND_KEY, 0, 0));
	assert_true(tile_exact(&block, KVC_KIND_KEY, 1, 0));
	assert_true(tile_exact(&block, KVC_KIND_KEY, 1, 2));
	block_free(&block);
}

static void key_only_blocks(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_block_shape shape = {3, 1, 576, 0, 66, KVC_DTYPE_BF16};
	struct kvc_image image;
	struct block block;

	(void)state;
	block_init(&block, &shape, &codec);
	assert_int_equal(block.plan.tiles, 3);
	assert_int_equal(block.plan.codec.value.bits, KVC_BITS_RAW); /* there are none: normalised */
	spoil(&block, KVC_KIND_KEY, 2, 0);
	block_seal(&block);
	assert_int_equal(block_restore(&block), KVC_OK);
	assert_int_equal(kvc_image_open(block.image, block.length, 0, &image), KVC_OK);
	assert_int_equal(image.raw_tiles, 1);
	assert_true(tile_exact(&block, KVC_KIND_KEY, 2, 0));
	block_free(&block);
}

/* --- raw tiles --- */

static void raw_tiles_keep_nan_payloads(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct block block;
	uint16_t bits;

	(void)state;
	KVC_ROW("D14");
	block_init(&block, &small, &codec);
	spoil(&block, KVC_KIND_VALUE, 0, 2);
	block_seal(&block);
	assert_int_equal(block.length, block.plan.image_bytes + small.tokens * small.value_dim * 2);
	assert_int_equal(block_restore(&block), KVC_OK);
	assert_true(tile_exact(&block, KVC_KIND_VALUE, 0, 2));
	memcpy(&bits, element(&block, &block.dest, KVC_KIND_VALUE, 0, 1, 2, 3), sizeof bits);
	assert_int_equal(bits, NAN_BITS);
	block_free(&block);
	kvc_row.injected++;
	kvc_row_end();
}

static void spoil_all(struct block *block)
{
	for (uint32_t i = 0; i < block->shape.layers * block->shape.heads; i++) {
		spoil(block, KVC_KIND_KEY, i / block->shape.heads, i % block->shape.heads);
		spoil(block, KVC_KIND_VALUE, i / block->shape.heads, i % block->shape.heads);
	}
}

static void strange_blocks_are_wholly_raw(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_image image;
	struct block block;

	(void)state;
	KVC_ROW("D14 D15");
	block_init(&block, &small, &codec);
	spoil_all(&block);
	kvc_row.injected++;
	block_seal(&block);
	assert_int_equal(block.length, block.plan.raw_image_bytes);
	assert_int_equal(kvc_image_open(block.image, block.length, 0, &image), KVC_OK);
	assert_int_equal(image.plan.codec.key.bits, KVC_BITS_RAW);
	assert_int_equal(image.raw_tiles, 0);
	assert_int_equal(block_restore(&block), KVC_OK);
	assert_memory_equal(block.source.key, block.dest.key, block.key_bytes);
	assert_memory_equal(block.source.value, block.dest.value, block.value_bytes);
	block_free(&block);
	kvc_row_end();
}

/* Too little room is said, with what is needed; encoding again from the start then works. */
static void no_space_tells_what_is_needed(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct block block;
	uint64_t needed = 0;

	(void)state;
	block_init(&block, &small, &codec);
	spoil(&block, KVC_KIND_KEY, 0, 0);
	kvc_image_encode_tiles(&block.plan, block.codec, &block.source, block.image, 0, block.plan.tiles,
	                       block.scratch);
	assert_int_equal(
	        kvc_image_seal(&block.plan, &block.source, block.image, block.plan.image_bytes, &needed),
	        KVC_NO_SPACE);
	assert_int_equal(needed, block.plan.image_bytes + small.tokens * small.key_dim * 2);
	assert_int_equal(block.image[needed], 0xEE); /* nothing was written beyond */
	block.capacity = needed;
	block_seal(&block);
	assert_int_equal(block.length, needed);
	assert_int_equal(block_restore(&block), KVC_OK);
	spoil_all(&block);
	kvc_image_encode_tiles(&block.plan, block.codec, &block.source, block.image, 0, block.plan.tiles,
	                       block.scratch);
	assert_int_equal(kvc_image_seal(&block.plan, &block.source, block.image, block.capacity, &needed),
	                 KVC_NO_SPACE);
	assert_int_equal(needed, block.plan.raw_image_bytes);
	block_free(&block);
}

/* Another process may write the source at any time. What is sealed is well-formed all the same, and raw tiles
 * are what the source was then. */
static void source_may_change_before_seal(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct block block;
	uint16_t bits = 0x3F80;

	(void)state;
	block_init(&block, &small, &codec);
	spoil(&block, KVC_KIND_KEY, 1, 2);
	kvc_image_encode_tiles(&block.plan, block.codec, &block.source, block.image, 0, block.plan.tiles,
	                       block.scratch);
	memcpy(element(&block, &block.source, KVC_KIND_KEY, 1, 1, 2, 3), &bits, sizeof bits);
	spoil(&block, KVC_KIND_VALUE, 0, 0);
	assert_int_equal(
	        kvc_image_seal(&block.plan, &block.source, block.image, block.capacity, &block.length),
	        KVC_OK);
	assert_int_equal(block_restore(&block), KVC_OK);
	assert_true(tile_exact(&block, KVC_KIND_KEY, 1, 2));
	assert_false(tile_exact(&block, KVC_KIND_VALUE, 0, 0));
	block_free(&block);
}

/* --- damage --- */

static kvc_status open_and_verify(const uint8_t *bytes, uint64_t length)
{
	struct kvc_image image;
	kvc_status status = kvc_image_open(bytes, length, 0, &image);

	return status == KVC_OK ? kvc_image_verify(&image) : status;
}

/* An image with everything in it: overrides, raw tiles, raw codecs, padding of every sort. */
static void full_image(struct block *block)
{
	struct kvc_block_codec codec = preset("quality");

	codec.override_count = 1;
	codec.overrides[0] = (struct kvc_layer_override){.layer = 1, .key = codec.value};
	codec.overrides[0].value.bits = KVC_BITS_RAW;
	block_init(block, &small, &codec);
	spoil(block, KVC_KIND_KEY, 1, 0);
	spoil(block, KVC_KIND_VALUE, 0, 1);
	block_seal(block);
	assert_int_equal(open_and_verify(block->image, block->length), KVC_OK);
}

static void every_flipped_bit_is_found(void **state)
{
	struct kvc_image image;
	struct block block;

	(void)state;
	KVC_ROW("B3");
	full_image(&block);
	for (uint64_t i = 0; i < block.length; i++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			block.image[i] ^= (uint8_t)(1u << bit);
			assert_int_equal(open_and_verify(block.image, block.length), KVC_CORRUPT);
			kvc_row.injected++;
			/* The structure by itself already tells for most of the header. */
			if (i < block.plan.meta_bytes)
				assert_int_equal(kvc_image_open(block.image, block.length, 0, &image),
				                 KVC_CORRUPT);
			block.image[i] ^= (uint8_t)(1u << bit);
		}
	}
	block_free(&block);
	kvc_row_end();
}

/* In memory of exactly that length, so that a sanitizer sees a read beyond it. */
static void every_truncation_is_found(void **state)
{
	struct block block;

	(void)state;
	KVC_ROW("D16");
	full_image(&block);
	for (uint64_t length = 0; length < block.length; length++) {
		uint8_t *cut = malloc(length ? length : 1);
		struct kvc_image image;

		assert_non_null(cut);
		memcpy(cut, block.image, length);
		kvc_row.injected++;
		assert_int_equal(kvc_image_open(cut, length, 0, &image), KVC_CORRUPT);
		assert_int_equal(kvc_image_open(cut, length, KVC_IMAGE_TRUSTED, &image), KVC_CORRUPT);
		free(cut);
	}
	block_free(&block);
	kvc_row_end();
}

static void longer_images_are_refused(void **state)
{
	struct kvc_image image;
	struct block block;

	(void)state;
	full_image(&block);
	assert_int_equal(kvc_image_open(block.image, block.length + 1, 0, &image), KVC_CORRUPT);
	block_free(&block);
}

/* Tiles before the damage are restored, the damaged one is not touched. */
static void decode_stops_at_damage(void **state)
{
	struct kvc_block_codec codec = preset("quality");
	struct kvc_tile_slot slot;
	struct kvc_image image;
	struct block block;
	uint16_t bits;

	(void)state;
	block_init(&block, &small, &codec);
	block_seal(&block);
	slot = kvc_image_slot(&block.plan, 0, KVC_KIND_KEY, 1);
	block.image[slot.offset + slot.bytes - 1] ^= 1;
	assert_int_equal(kvc_image_open(block.image, block.length, 0, &image), KVC_OK);
	assert_int_equal(kvc_image_verify(&image), KVC_CORRUPT);
	assert_int_equal(kvc_image_decode_tiles(&image, block.codec, &block.dest, 0, image.plan.tiles, 0,
	                                        block.scratch),
	                 KVC_CORRUPT);
	memcpy(&bits, element(&block, &block.dest, KVC_KIND_KEY, 0, 0, 0, 0), sizeof bits);
	assert_int_not_equal(bits, 0);
	memcpy(&bits, element(&block, &block.dest, KVC_KIND_KEY, 0, 0, 1, 0), sizeof bits);
	assert_int_equal(bits, 0);
	block_free(&block);
}

/* Without its checksums a damaged image may open; it must not be read or written out of bounds then. */
static void trusted_damage_stays_in_bounds(void **state)
{
	struct prng prng = {.state = prng_seed(__func__)};
	struct block block;

	(void)state;
	KVC_ROW("D16");
	full_image(&block);
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t at = prng_below(&prng, (uint32_t)(round % 2 ? block.plan.meta_bytes : block.length));
		uint8_t kept = block.image[at];
		struct kvc_image image;

		block.image[at] = (uint8_t)prng_next(&prng);
		kvc_row.injected++;
		if (kvc_image_open(block.image, block.length, KVC_IMAGE_TRUSTED, &image) == KVC_OK &&
		    memcmp(&image.plan.shape, &block.shape, sizeof block.shape) == 0)
			assert_int_equal(kvc_image_decode_tiles(&image, block.codec, &block.dest, 0,
			                                        image.plan.tiles, KVC_IMAGE_TRUSTED,
			                                        block.scratch),
			                 KVC_OK);
		block.image[at] = kept;
	}
	block_free(&block);
	kvc_row_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(shapes_out_of_bounds_are_refused),
	        cmocka_unit_test(codecs_out_of_bounds_are_refused),
	        cmocka_unit_test(slots_fill_the_payload),
	        cmocka_unit_test(plans_that_save_nothing_are_raw),
	        cmocka_unit_test(images_restore_every_type),
	        cmocka_unit_test(images_restore_what_tiles_do),
	        cmocka_unit_test(images_are_the_same_bytes),
	        cmocka_unit_test(ranges_encode_in_parallel),
	        cmocka_unit_test(ranges_of_tiles_decode),
	        cmocka_unit_test(overrides_are_kept),
	        cmocka_unit_test(key_only_blocks),
	        cmocka_unit_test(raw_tiles_keep_nan_payloads),
	        cmocka_unit_test(strange_blocks_are_wholly_raw),
	        cmocka_unit_test(no_space_tells_what_is_needed),
	        cmocka_unit_test(source_may_change_before_seal),
	        cmocka_unit_test(every_flipped_bit_is_found),
	        cmocka_unit_test(every_truncation_is_found),
	        cmocka_unit_test(longer_images_are_refused),
	        cmocka_unit_test(decode_stops_at_damage),
	        cmocka_unit_test(trusted_damage_stays_in_bounds),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
