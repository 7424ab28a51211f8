/* Any bytes as a tile: parameters and shape from the first ones, the rest as coded bytes to decode, or as
 * source elements to encode and decode. All SIMD levels must give the same bytes; the sanitizer watches the
 * bounds. */
#include "kernels/codec.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES 12u
#define TOKENS_MAX 200u
#define LEVELS     3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct kase {
	struct kvc_codec_params params;
	struct kvc_tile_shape shape;
	size_t gap;      /* between rows */
	size_t misalign; /* of the rows */
	size_t area;     /* bytes of the rows, with gaps */
	bool encode;
};

static void *allocate(size_t bytes)
{
	void *memory;

	if (posix_memalign(&memory, 64, bytes ? bytes : 1) != 0) {
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

static struct kase kase_from(const uint8_t *head)
{
	uint32_t dim = KVC_DIM_STEP * (1u + head[4] % (KVC_DIM_MAX / KVC_DIM_STEP));
	struct kase kase = {
	        .params = {.bits = (uint8_t)(KVC_BITS_MIN + head[0] % 7),
	                   .group = (uint16_t)(KVC_GROUP_MIN << head[1] % 4),
	                   .centre = head[2] & 1,
	                   .rotate = head[2] & 2,
	                   .gain = head[2] & 4,
	                   .clip = (float)head[3] / 255.0f},
	        .shape = {.dim = dim,
	                  .tokens = 1u + head[5] % TOKENS_MAX,
	                  .dtype = (enum kvc_dtype)(KVC_DTYPE_BF16 + head[6] % 3)},
	        .gap = head[7],
	        .misalign = head[8] % 64,
	        .encode = head[9] & 1,
	};
	size_t row_bytes = dim * kvc_dtype_bytes(kase.shape.dtype);

	kase.area = kase.misalign + (kase.shape.tokens - 1) * (row_bytes + kase.gap) + row_bytes;
	return kase;
}

static struct kvc_rows rows_of(const struct kase *kase, uint8_t *memory)
{
	size_t row_bytes = kase->shape.dim * kvc_dtype_bytes(kase->shape.dtype);

	return (struct kvc_rows){.base = memory + kase->misalign,
	                         .row_stride = (ptrdiff_t)(row_bytes + kase->gap)};
}

/* The input again and again; zeros if there is none. */
static void fill(uint8_t *to, size_t bytes, const uint8_t *data, size_t size)
{
	memset(to, 0, bytes);
	for (size_t i = 0; size > 0 && i < bytes; i += size)
		memcpy(to + i, data, bytes - i < size ? bytes - i : size);
}

static void decode_alike(const struct kase *kase, const uint8_t *coded)
{
	void *scratch = allocate(kvc_tile_scratch_bytes(&kase->shape));
	uint8_t *first = allocate(kase->area);

	for (unsigned i = 0; i < LEVELS; i++) {
		const struct kvc_codec *codec = kvc_codec_get((enum kvc_simd)(KVC_SIMD_SCALAR + i));
		uint8_t *dest = i == 0 ? first : allocate(kase->area);
		struct kvc_rows rows = rows_of(kase, dest);

		memset(dest, 0xA5, kase->area);
		if (codec) {
			codec->decode(&kase->params, &kase->shape, coded, &rows, scratch);
			must(memcmp(first, dest, kase->area) == 0, "levels restore the same");
		}
		if (i > 0)
			free(dest);
	}
	free(first);
	free(scratch);
}

/* True if all levels code the source; their bytes are in `coded`. */
static bool encode_alike(const struct kase *kase, uint8_t *source, uint8_t *coded, size_t bytes)
{
	void *scratch = allocate(kvc_tile_scratch_bytes(&kase->shape));
	uint8_t *other = allocate(bytes);
	struct kvc_rows rows = rows_of(kase, source);
	bool verdict =
	        kvc_codec_get(KVC_SIMD_SCALAR)->encode(&kase->params, &kase->shape, &rows, coded, scratch);

	for (enum kvc_simd simd = KVC_SIMD_AVX2; simd <= KVC_SIMD_AVX512; simd++) {
		const struct kvc_codec *codec = kvc_codec_get(simd);

		if (!codec)
			continue;
		memset(other, (int)simd, bytes);
		must(codec->encode(&kase->params, &kase->shape, &rows, other, scratch) == verdict,
		     "levels agree on what is raw");
		must(!verdict || memcmp(coded, other, bytes) == 0, "levels code the same");
	}
	free(other);
	free(scratch);
	return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kase kase;
	uint8_t *source, *coded;
	size_t bytes;

	if (size < HEAD_BYTES)
		return 0;
	kase = kase_from(data);
	must(kvc_codec_params_check(&kase.params) == KVC_OK, "parameters are in range");
	bytes = kvc_tile_bytes(&kase.params, &kase.shape);
	coded = allocate(bytes);
	source = allocate(kase.area);
	if (kase.encode) {
		fill(source, kase.area, data + HEAD_BYTES, size - HEAD_BYTES);
		if (encode_alike(&kase, source, coded, bytes))
			decode_alike(&kase, coded);
	} else {
		fill(coded, bytes, data + HEAD_BYTES, size - HEAD_BYTES);
		decode_alike(&kase, coded);
	}
	free(source);
	free(coded);
	return 0;
}
