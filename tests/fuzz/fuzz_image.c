/* Any bytes as a block image: opening and decoding them must stay in bounds, with and without checksums, and
 * all SIMD levels must restore the same. The sanitizer watches the bounds: all buffers are of exactly the
 * right size. */
#include "kernels/image.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAW_MAX (UINT64_C(64) << 20) /* larger blocks are left out, for speed */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *allocate(size_t bytes)
{
	void *memory;

	if (posix_memalign(&memory, KVC_IMAGE_ALIGN, bytes ? bytes : 1) != 0) {
		fprintf(stderr, "out of memory for %zu bytes\n", bytes);
		exit(1);
	}
	return memory;
}

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "failed: %s\n", what);
		abort();
	}
}

/* Keys, then values, so that one comparison sees all; two allocations, so that a write beyond one is seen. */
struct restored {
	uint8_t *key;
	uint8_t *value;
	size_t key_bytes;
	size_t value_bytes;
};

static void restored_init(struct restored *restored, const struct kvc_block_shape *shape)
{
	size_t rows = (size_t)shape->layers * shape->heads * shape->tokens * kvc_dtype_bytes(shape->dtype);

	restored->key_bytes = rows * shape->key_dim;
	restored->value_bytes = rows * shape->value_dim;
	restored->key = allocate(restored->key_bytes);
	restored->value = allocate(restored->value_bytes);
	memset(restored->key, 0, restored->key_bytes);
	memset(restored->value, 0, restored->value_bytes);
}

static void restored_free(struct restored *restored)
{
	free(restored->key);
	free(restored->value);
}

static kvc_status decode(const struct kvc_image *image, enum kvc_simd simd, int flags,
                         struct restored *restored)
{
	const struct kvc_block_shape *shape = &image->plan.shape;
	void *scratch = allocate(kvc_image_scratch_bytes(&image->plan));
	struct kvc_block_view view = {.key = restored->key, .value = restored->value};
	kvc_status status;

	kvc_block_layout_default(shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(shape, KVC_KIND_VALUE, &view.value_layout);
	status = kvc_image_decode_tiles(image, kvc_codec_get(simd), &view, 0, image->plan.tiles, flags,
	                                scratch);
	free(scratch);
	return status;
}

static void decode_alike(const struct kvc_image *image, int flags)
{
	struct restored first;
	kvc_status status;

	restored_init(&first, &image->plan.shape);
	status = decode(image, KVC_SIMD_SCALAR, flags, &first);
	must(status == KVC_OK || !(flags & KVC_IMAGE_TRUSTED), "a trusted image decodes");
	for (enum kvc_simd simd = KVC_SIMD_AVX2; simd <= KVC_SIMD_AVX512; simd++) {
		struct restored other;

		if (!kvc_codec_get(simd))
			continue;
		restored_init(&other, &image->plan.shape);
		must(decode(image, simd, flags, &other) == status, "levels agree on the status");
		must(memcmp(first.key, other.key, first.key_bytes) == 0, "levels restore the same keys");
		must(memcmp(first.value, other.value, first.value_bytes) == 0,
		     "levels restore the same values");
		restored_free(&other);
	}
	restored_free(&first);
}

/* Parts of an image are the whole, without gaps, and verify as the whole does. */
static void parts_agree(const struct kvc_image *image)
{
	uint64_t slots = image->plan.meta_bytes, raw = image->plan.image_bytes;
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; i < image->plan.tiles;) {
		uint32_t left = image->plan.tiles - i, count = image->plan.tiles / 7 + i % 5 + 1;
		struct kvc_image_extent extent;

		count = count < left ? count : left;
		extent = kvc_image_extent(image, i, count);
		must(extent.slots.offset == slots && extent.raw.offset == raw, "parts have no gap");
		slots += extent.slots.bytes;
		raw += extent.raw.bytes;
		if (status == KVC_OK)
			status = kvc_image_verify_tiles(image, i, count);
		i += count;
	}
	must(slots == image->plan.image_bytes && raw == image->length, "parts are the whole");
	must(status == kvc_image_verify(image), "parts verify as the whole");
	must(kvc_image_is_of(image, &image->plan), "an image is of its own plan");
}

static bool open_and_decode(const uint8_t *bytes, size_t size, int flags)
{
	struct kvc_image image;

	if (kvc_image_open(bytes, size, flags, &image) != KVC_OK)
		return false;
	must(image.length == size, "the length is that of the bytes");
	if (kvc_block_raw_bytes(&image.plan.shape) <= RAW_MAX)
		decode_alike(&image, flags);
	parts_agree(&image);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = allocate(size);
	bool good;

	memcpy(bytes, data, size);
	good = open_and_decode(bytes, size, 0);
	must(open_and_decode(bytes, size, KVC_IMAGE_TRUSTED) || !good,
	     "what is good without trust is good with it");
	free(bytes);
	return 0;
}
