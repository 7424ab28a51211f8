/* The SIMD levels against the scalar reference, byte for byte, on random and adversarial tiles: coded bytes,
 * the verdict "raw", decoded rows of good and of arbitrary coded bytes, and that nothing beside the rows is
 * touched.
 *
 * KVC_TEST_TILES tiles each way (many small ones, since trouble sits at edges), KVC_TEST_SEED to repeat a
 * run. */
#include "kernels/codec.h"
#include "kernels/half.h"
#include "tests/support/prng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TILES_DEFAULT 20000u
#define GAP           0xA5 /* between rows */

static const struct kvc_codec *const *levels(size_t *count)
{
	static const struct kvc_codec *found[3];
	size_t n = 0;

	for (enum kvc_simd simd = KVC_SIMD_SCALAR; simd <= KVC_SIMD_AVX512; simd++) {
		const struct kvc_codec *codec = kvc_codec_get(simd);

		if (codec)
			found[n++] = codec;
	}
	*count = n;
	return found;
}

static uint64_t tile_count(void)
{
	const char *given = getenv("KVC_TEST_TILES");

	return given ? strtoull(given, NULL, 0) : TILES_DEFAULT;
}

/* --- one case: parameters, shape, memory --- */

struct kase {
	struct kvc_codec_params params;
	struct kvc_tile_shape shape;
	size_t row_bytes;
	ptrdiff_t stride;
	size_t misalign;
	size_t area;     /* bytes from the first row to the end of the last */
	uint8_t *source; /* misalign + area bytes, exactly */
	uint8_t *dest[3];
	uint8_t *coded[3];
	void *scratch;
	size_t coded_bytes;
};

static void *allocate(size_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(memory);
	return memory;
}

/* Exactly so many bytes, so that a sanitizer sees the first one beyond. */
static void *allocate_exactly(size_t bytes)
{
	void *memory;

	assert_int_equal(posix_memalign(&memory, 64, bytes), 0);
	return memory;
}

static void choose_params(struct prng *prng, struct kvc_codec_params *params)
{
	params->bits = (uint8_t)(2 + prng_below(prng, 7));
	params->group = (uint16_t)(16u << prng_below(prng, 4));
	params->centre = prng_below(prng, 4) != 0;
	params->rotate = prng_below(prng, 2);
	params->gain = prng_below(prng, 4) != 0;
	params->clip = prng_chance(prng, 4) ? (prng_float(prng) + 1.001f) * 0.4995f : 0.0f;
}

static void choose_shape(struct prng *prng, struct kvc_tile_shape *shape)
{
	static const uint16_t small[] = {16, 32, 48, 64, 80, 96, 112, 128};
	static const uint16_t large[] = {64, 80, 96, 128, 128, 176, 192, 256, 512, 576, 768, 1008, 1024};

	shape->dtype = (enum kvc_dtype)(1 + prng_below(prng, 3));
	if (prng_chance(prng, 24)) {
		shape->dim = large[prng_below(prng, sizeof large / sizeof large[0])];
		shape->tokens = 1 + prng_below(prng, 130);
	} else {
		shape->dim = small[prng_below(prng, sizeof small / sizeof small[0])];
		shape->tokens = prng_chance(prng, 8) ? 64 + prng_below(prng, 9) : 1 + prng_below(prng, 10);
	}
}

static void kase_make(struct prng *prng, struct kase *kase)
{
	size_t gap;

	choose_params(prng, &kase->params);
	choose_shape(prng, &kase->shape);
	kase->row_bytes = kase->shape.dim * kvc_dtype_bytes(kase->shape.dtype);
	/* Aligned rows are written in another way than others. */
	gap = prng_chance(prng, 2) ? 64 * prng_below(prng, 3) : prng_below(prng, 100);
	kase->stride = (ptrdiff_t)(kase->row_bytes + gap);
	kase->misalign = prng_chance(prng, 2) ? prng_below(prng, 64) : 0;
	kase->area = (size_t)(kase->stride * (ptrdiff_t)(kase->shape.tokens - 1)) + kase->row_bytes;
	kase->coded_bytes = kvc_tile_bytes(&kase->params, &kase->shape);
	kase->source = allocate_exactly(kase->misalign + kase->area);
	kase->scratch = allocate(kvc_tile_scratch_bytes(&kase->shape));
	for (size_t i = 0; i < 3; i++) {
		kase->dest[i] = allocate_exactly(kase->misalign + kase->area);
		kase->coded[i] = aligned_alloc(16, kase->coded_bytes); /* a multiple of 16 */
		assert_non_null(kase->coded[i]);
	}
}

static void kase_free(struct kase *kase)
{
	free(kase->source);
	free(kase->scratch);
	for (size_t i = 0; i < 3; i++) {
		free(kase->dest[i]);
		free(kase->coded[i]);
	}
}

static struct kvc_rows rows_of(const struct kase *kase, uint8_t *memory)
{
	return (struct kvc_rows){.base = memory + kase->misalign, .row_stride = kase->stride};
}

/* --- contents --- */

enum content {
	NORMAL, /* with a mean of its own in each channel */
	CONSTANT,
	SUBNORMAL,  /* in the middle of zeros of both signs */
	NEARLY_BIG, /* up to just below 2^20 */
	BIG_SCALE,  /* around the largest binary16 */
	LATTICE,    /* whole numbers: ties everywhere */
	NARROW,     /* a tiny range far from zero */
	OUTLIERS,
	ANY_BITS, /* any number below 2^20 */
	STRANGE,  /* normal, but for one NaN, infinity or number of 2^20 and more */
	CONTENTS
};

static float element(struct prng *prng, enum content content, uint32_t channel)
{
	switch (content) {
	case CONSTANT:
		return 0.7f;
	case SUBNORMAL:
		return kvc_f32_from_bits((uint32_t)prng_next(prng) &
		                         (prng_chance(prng, 2) ? 0x80000000u : 0x80FFFFFFu));
	case NEARLY_BIG:
		return prng_float(prng) * 1048575.9f;
	case BIG_SCALE:
		return prng_float(prng) * 140000.0f;
	case LATTICE:
		return (float)((int)prng_below(prng, 31) - 15);
	case NARROW:
		return 1000.0f + prng_float(prng) * 0x1p-14f;
	case OUTLIERS:
		return prng_normal(prng) * (prng_chance(prng, 40) ? 300.0f : 0.1f);
	case ANY_BITS:
		return kvc_f32_from_bits((uint32_t)(prng_next(prng) % 0x49800000u) |
		                         (prng_chance(prng, 2) ? 0x80000000u : 0));
	default:
		return prng_normal(prng) + (float)(channel * 2654435761u >> 29);
	}
}

/* Truncating to bfloat16 keeps what is below 2^20 below it. */
static void put_element(uint8_t *to, enum kvc_dtype dtype, float x)
{
	uint32_t bits = kvc_f32_bits(x);
	uint16_t half = dtype == KVC_DTYPE_FP16 ? kvc_f16_saturate(x) : (uint16_t)(bits >> 16);

	if (dtype == KVC_DTYPE_FP32)
		memcpy(to, &bits, sizeof bits);
	else
		memcpy(to, &half, sizeof half);
}

static void spoil_element(struct prng *prng, const struct kase *kase)
{
	static const uint32_t strange[] = {0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF,
	                                   0x7F810000, 0x49800000, 0xC9800000, 0x7E000000,
	                                   0x497FFFFF, 0x7C007C00, 0x7C01FC01};
	uint32_t bits = strange[prng_below(prng, sizeof strange / sizeof strange[0])];
	size_t size = kvc_dtype_bytes(kase->shape.dtype);
	uint8_t *row = kase->source + kase->misalign +
	               (ptrdiff_t)prng_below(prng, kase->shape.tokens) * kase->stride;

	/* The upper half of the bits, for two-byte elements. */
	memcpy(row + prng_below(prng, kase->shape.dim) * size, (uint8_t *)&bits + 4 - size, size);
}

static void fill_source(struct prng *prng, struct kase *kase)
{
	enum content content = (enum content)prng_below(prng, CONTENTS);
	size_t size = kvc_dtype_bytes(kase->shape.dtype);

	memset(kase->source, GAP, kase->misalign + kase->area);
	for (uint32_t t = 0; t < kase->shape.tokens; t++) {
		uint8_t *row = kase->source + kase->misalign + (ptrdiff_t)t * kase->stride;

		for (uint32_t d = 0; d < kase->shape.dim; d++)
			put_element(row + d * size, kase->shape.dtype, element(prng, content, d));
	}
	if (content == STRANGE)
		spoil_element(prng, kase);
}

/* Arbitrary bytes; sometimes scales of the ordinary sort, as a reader of damaged images would meet them. */
static void fill_coded(struct prng *prng, struct kase *kase)
{
	bool tame = prng_chance(prng, 2);

	for (size_t i = 0; i < kase->coded_bytes; i++) {
		uint8_t byte = (uint8_t)prng_next(prng);

		kase->coded[0][i] = tame && i % 2 == 1 ? byte & 0xBF : byte;
	}
}

/* --- comparison --- */

static void describe(const struct kase *kase, const char *level, const char *what)
{
	const struct kvc_codec_params *p = &kase->params;

	print_error("%s: %s differ: bits %u group %u centre %d rotate %d gain %d clip %a, %u x %u dtype %d\n",
	            level, what, p->bits, p->group, p->centre, p->rotate, p->gain, (double)p->clip,
	            kase->shape.tokens, kase->shape.dim, kase->shape.dtype);
}

static void must_equal(const struct kase *kase, const char *level, const char *what, const uint8_t *a,
                       const uint8_t *b, size_t length)
{
	if (memcmp(a, b, length) != 0) {
		describe(kase, level, what);
		fail();
	}
}

/* What all levels make of the coded bytes in coded[0]. */
static void compare_decoded(struct kase *kase)
{
	size_t count;
	const struct kvc_codec *const *codecs = levels(&count);
	size_t area = kase->misalign + kase->area;

	for (size_t i = 0; i < count; i++) {
		struct kvc_rows rows = rows_of(kase, kase->dest[i]);

		memset(kase->dest[i], GAP, area);
		codecs[i]->decode(&kase->params, &kase->shape, kase->coded[0], &rows, kase->scratch);
		must_equal(kase, codecs[i]->name, "decoded rows", kase->dest[i], kase->dest[0], area);
	}
	for (size_t i = 0; i < area; i++) {
		bool inside =
		        i >= kase->misalign && (i - kase->misalign) % (size_t)kase->stride < kase->row_bytes;

		if (!inside && kase->dest[0][i] != GAP) {
			describe(kase, codecs[0]->name, "bytes beside the rows");
			fail();
		}
	}
}

/* True if the tile was coded. */
static bool compare_encoded(struct kase *kase)
{
	struct kvc_rows rows = rows_of(kase, kase->source);
	size_t count;
	const struct kvc_codec *const *codecs = levels(&count);
	bool coded[3] = {false};

	for (size_t i = 0; i < count; i++) {
		memset(kase->coded[i], (int)i, kase->coded_bytes); /* a byte left out would differ */
		coded[i] =
		        codecs[i]->encode(&kase->params, &kase->shape, &rows, kase->coded[i], kase->scratch);
		if (coded[i] != coded[0]) {
			describe(kase, codecs[i]->name, "verdicts");
			fail();
		}
		if (coded[0])
			must_equal(kase, codecs[i]->name, "coded bytes", kase->coded[i], kase->coded[0],
			           kase->coded_bytes);
	}
	return coded[0];
}

static void skip_without_simd(const char *test)
{
	size_t count;

	levels(&count);
	for (enum kvc_simd simd = KVC_SIMD_AVX2; simd <= KVC_SIMD_AVX512; simd++) {
		if (!kvc_codec_get(simd))
			print_message("%s: this processor lacks %s\n", test,
			              simd == KVC_SIMD_AVX2 ? "avx2" : "avx512");
	}
	if (count == 1)
		skip();
}

static void levels_encode_alike(void **state)
{
	struct prng prng = {.state = prng_seed(__func__)};
	uint64_t tiles = tile_count();
	uint64_t coded = 0;

	(void)state;
	skip_without_simd(__func__);
	for (uint64_t i = 0; i < tiles; i++) {
		struct kase kase;

		kase_make(&prng, &kase);
		fill_source(&prng, &kase);
		if (compare_encoded(&kase)) {
			coded++;
			compare_decoded(&kase);
		}
		kase_free(&kase);
	}
	print_message("%s: %llu tiles, %llu coded, %llu raw\n", __func__, (unsigned long long)tiles,
	              (unsigned long long)coded, (unsigned long long)(tiles - coded));
	assert_true(coded > tiles / 2 && coded < tiles); /* both roads were taken */
}

static void levels_decode_any_bytes_alike(void **state)
{
	struct prng prng = {.state = prng_seed(__func__)};
	uint64_t tiles = tile_count();

	(void)state;
	skip_without_simd(__func__);
	for (uint64_t i = 0; i < tiles; i++) {
		struct kase kase;

		kase_make(&prng, &kase);
		fill_coded(&prng, &kase);
		compare_decoded(&kase);
		kase_free(&kase);
	}
	print_message("%s: %llu tiles\n", __func__, (unsigned long long)tiles);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(levels_encode_alike),
	        cmocka_unit_test(levels_decode_any_bytes_alike),
	};

	return cmocka_run_group_tests_name("codec levels", tests, NULL, NULL);
}
