/* The codec by itself: parameters, sizes, 16-bit formats, raw escapes, the floating-point environment, and
 * the sums of a restored KV cache at every SIMD level. test_codec_agree.c compares the levels on made-up
 * tiles. */
#include "kernels/codec.h"
#include "kernels/half.h"
#include "kernels/preset.h"
#include "tests/support/kv_slice.h"

#include <math.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xmmintrin.h>

#include <cmocka.h>

static const struct kvc_codec_params quality_key = {
        .bits = 4, .group = 32, .centre = true, .rotate = true, .gain = true};

static void *aligned(size_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);

	assert_non_null(memory);
	return memory;
}

/* The codec of that level; skips the test, by name, where the processor lacks it. */
static const struct kvc_codec *codec_or_skip(enum kvc_simd simd, const char *test)
{
	const struct kvc_codec *codec = kvc_codec_get(simd);

	if (!codec) {
		print_message("%s: this processor lacks it\n", test);
		skip();
	}
	return codec;
}

/* --- parameters and sizes --- */

static void params_out_of_range_are_refused(void **state)
{
	struct kvc_codec_params params = quality_key;

	(void)state;
	assert_int_equal(kvc_codec_params_check(&params), KVC_OK);
	for (unsigned bits = 0; bits < 256; bits++) {
		bool good = (bits >= 2 && bits <= 8) || bits == KVC_BITS_RAW;

		params.bits = (uint8_t)bits;
		assert_int_equal(kvc_codec_params_check(&params), good ? KVC_OK : KVC_INVALID);
	}
	params = quality_key;
	for (unsigned group = 0; group < 65536; group++) {
		bool good = group == 16 || group == 32 || group == 64 || group == 128;

		params.group = (uint16_t)group;
		assert_int_equal(kvc_codec_params_check(&params), good ? KVC_OK : KVC_INVALID);
	}
}

static void clip_out_of_range_is_refused(void **state)
{
	static const float good[] = {0.0f, 0.01f, 0.5f, 1.0f};
	const float bad[] = {-0.01f, 1.01f, -1.0f, INFINITY, -INFINITY, NAN};
	struct kvc_codec_params params = quality_key;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		params.clip = good[i];
		assert_int_equal(kvc_codec_params_check(&params), KVC_OK);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		params.clip = bad[i];
		assert_int_equal(kvc_codec_params_check(&params), KVC_INVALID);
	}
	params.bits = KVC_BITS_RAW; /* all else is ignored */
	params.group = 7;
	assert_int_equal(kvc_codec_params_check(&params), KVC_OK);
}

static size_t preset_bytes(const char *name, enum kvc_kind kind)
{
	struct kvc_tile_shape shape = {.tokens = 128, .dim = 128, .dtype = KVC_DTYPE_BF16};
	struct kvc_block_codec codec;

	assert_int_equal(kvc_preset_get(name, &codec), KVC_OK);
	return kvc_tile_bytes(kind == KVC_KIND_KEY ? &codec.key : &codec.value, &shape);
}

static void presets_have_their_sizes(void **state)
{
	struct kvc_block_codec codec;

	(void)state;
	assert_int_equal(preset_bytes("quality", KVC_KIND_KEY), 10496);
	assert_int_equal(preset_bytes("quality", KVC_KIND_VALUE), 5376);
	assert_int_equal(preset_bytes("compact", KVC_KIND_KEY), 8960);
	assert_int_equal(preset_bytes("compact", KVC_KIND_VALUE), 4864);
	assert_int_equal(preset_bytes("plain", KVC_KIND_KEY), 10240);
	assert_int_equal(preset_bytes("plain", KVC_KIND_VALUE), 5120);
	assert_int_equal(preset_bytes("raw", KVC_KIND_KEY), 32768);
	assert_string_equal(kvc_preset_name(0), "quality");
	for (unsigned i = 0; kvc_preset_name(i); i++) {
		assert_int_equal(kvc_preset_get(kvc_preset_name(i), &codec), KVC_OK);
		assert_int_equal(kvc_codec_params_check(&codec.key), KVC_OK);
		assert_int_equal(kvc_codec_params_check(&codec.value), KVC_OK);
	}
	assert_int_equal(kvc_preset_get("no such preset", &codec), KVC_INVALID);
}

/* Every plane by hand. */
static void tile_sizes_follow_the_format(void **state)
{
	struct kvc_codec_params params = {.bits = 3, .group = 64, .centre = true};
	struct kvc_tile_shape shape = {.tokens = 65, .dim = 80, .dtype = KVC_DTYPE_FP32};

	(void)state;
	/* 80 = 5 * 16: groups of 16. Means 160, 325 groups of 4 bytes padded to 1312, 1950 bytes of codes to
	 * 1952. */
	assert_int_equal(kvc_tile_bytes(&params, &shape), 160 + 1312 + 1952);
	shape.tokens = 63; /* not centred: 315 groups, 1260 to 1264; 1890 to 1904 */
	assert_int_equal(kvc_tile_bytes(&params, &shape), 1264 + 1904);
	assert_int_equal(kvc_tile_raw_bytes(&shape), 63 * 80 * 4);
	assert_int_equal(kvc_dtype_bytes(KVC_DTYPE_UNSET), 0);
	assert_int_equal(kvc_dtype_bytes(KVC_DTYPE_BF16), 2);
	assert_int_equal(kvc_dtype_bytes(KVC_DTYPE_FP16), 2);
	assert_int_equal(kvc_dtype_bytes(KVC_DTYPE_FP32), 4);
}

/* --- binary16 and bfloat16 --- */

/* Between each two neighbours the midpoint goes to the even one, and the next number on either side to the
 * nearer. */
static void f16_rounds_to_nearest_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7C00; h++) {
		float low = kvc_f32_from_f16((uint16_t)h);
		/* 65536 stands for what follows the largest number. */
		float high = h == 0x7BFF ? 65536.0f : kvc_f32_from_f16((uint16_t)(h + 1));
		float middle = (low + high) * 0.5f;
		uint16_t even = (uint16_t)(h + (h & 1));

		assert_int_equal(kvc_f16_from_f32(low), h);
		assert_int_equal(kvc_f16_from_f32(-low), h | 0x8000);
		assert_int_equal(kvc_f16_from_f32(middle), even);
		assert_int_equal(kvc_f16_from_f32(-middle), even | 0x8000);
		assert_int_equal(kvc_f16_from_f32(nextafterf(middle, 0.0f)), h);
		assert_int_equal(kvc_f16_from_f32(nextafterf(middle, INFINITY)), h + 1);
	}
	assert_int_equal(kvc_f16_from_f32(1e30f), 0x7C00);
	assert_int_equal(kvc_f16_from_f32(1e-30f), 0);
	assert_int_equal(kvc_f16_from_f32(-INFINITY), 0xFC00);
	assert_int_equal(kvc_f16_from_f32(-NAN), 0x7E00);
}

static void finite_elements_stay_finite(void **state)
{
	(void)state;
	assert_int_equal(kvc_f16_saturate(65519.0f), 0x7BFF);
	assert_int_equal(kvc_f16_saturate(65520.0f), 0x7BFF);
	assert_int_equal(kvc_f16_saturate(-1e30f), 0xFBFF);
	assert_int_equal(kvc_f16_saturate(INFINITY), 0x7C00);
	assert_int_equal(kvc_f16_saturate(NAN), 0x7E00);
	assert_int_equal(kvc_bf16_saturate(3.4e38f), 0x7F7F);
	assert_int_equal(kvc_bf16_saturate(-3.4e38f), 0xFF7F);
	assert_int_equal(kvc_bf16_saturate(-INFINITY), 0xFF80);
	assert_int_equal(kvc_bf16_saturate(NAN), 0x7FC0);
}

static void bf16_rounds_to_nearest_even(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 0x7F7F; h++) {
		uint32_t even = h + (h & 1);

		assert_int_equal(kvc_bf16_saturate(kvc_f32_from_bits(h << 16)), h);
		assert_int_equal(kvc_bf16_saturate(kvc_f32_from_bits(h << 16 | 0x8000u)), even);
		assert_int_equal(kvc_bf16_saturate(kvc_f32_from_bits(h << 16 | 0x7FFFu)), h);
		assert_int_equal(kvc_bf16_saturate(kvc_f32_from_bits(h << 16 | 0x8001u)), h + 1);
		assert_int_equal(kvc_bf16_saturate(kvc_f32_from_bits(h << 16 | 0x80008000u)), even | 0x8000u);
	}
}

/* --- raw tiles --- */

/* Encode 64 x 64 elements of which one is special; true if coded. */
static bool codes_with(const struct kvc_codec *codec, enum kvc_dtype dtype, const void *element)
{
	struct kvc_tile_shape shape = {.tokens = 64, .dim = 64, .dtype = dtype};
	size_t size = kvc_dtype_bytes(dtype);
	uint8_t *source = calloc(64 * 64, size);
	struct kvc_rows rows = {.base = source, .row_stride = (ptrdiff_t)(64 * size)};
	uint8_t *coded = aligned(kvc_tile_bytes(&quality_key, &shape));
	void *scratch = aligned(kvc_tile_scratch_bytes(&shape));
	bool result;

	assert_non_null(source);
	memcpy(source + 1234 * size, element, size);
	result = codec->encode(&quality_key, &shape, &rows, coded, scratch);
	free(source);
	free(coded);
	free(scratch);
	return result;
}

static bool codes_with_bits(const struct kvc_codec *codec, enum kvc_dtype dtype, uint32_t bits)
{
	uint16_t half = (uint16_t)bits;

	return dtype == KVC_DTYPE_FP32 ? codes_with(codec, dtype, &bits) : codes_with(codec, dtype, &half);
}

static void strange_tiles_are_raw(enum kvc_simd simd, const char *test)
{
	const struct kvc_codec *codec = codec_or_skip(simd, test);

	assert_true(codes_with_bits(codec, KVC_DTYPE_BF16, 0x4700));  /* 2^15 */
	assert_true(codes_with_bits(codec, KVC_DTYPE_BF16, 0x0001));  /* the least subnormal */
	assert_false(codes_with_bits(codec, KVC_DTYPE_BF16, 0x4980)); /* 2^20 */
	assert_false(codes_with_bits(codec, KVC_DTYPE_BF16, 0xC980));
	assert_false(codes_with_bits(codec, KVC_DTYPE_BF16, 0x7F80));
	assert_false(codes_with_bits(codec, KVC_DTYPE_BF16, 0xFF81));
	assert_true(codes_with_bits(codec, KVC_DTYPE_FP16, 0x7BFF));
	assert_false(codes_with_bits(codec, KVC_DTYPE_FP16, 0x7C00));
	assert_false(codes_with_bits(codec, KVC_DTYPE_FP16, 0xFE00));
	assert_true(codes_with_bits(codec, KVC_DTYPE_FP32, 0x47000000));
	assert_false(codes_with_bits(codec, KVC_DTYPE_FP32, 0x49800000));
	assert_false(codes_with_bits(codec, KVC_DTYPE_FP32, 0xFF800000));
	assert_false(codes_with_bits(codec, KVC_DTYPE_FP32, 0x7F800001));
}

static void strange_tiles_are_raw_scalar(void **state)
{
	(void)state;
	strange_tiles_are_raw(KVC_SIMD_SCALAR, __func__);
}

static void strange_tiles_are_raw_avx2(void **state)
{
	(void)state;
	strange_tiles_are_raw(KVC_SIMD_AVX2, __func__);
}

static void strange_tiles_are_raw_avx512(void **state)
{
	(void)state;
	strange_tiles_are_raw(KVC_SIMD_AVX512, __func__);
}

/* Bits of any kind go through, NaN payloads included, and nothing beside the rows is touched. */
static void raw_tiles_keep_every_bit(void **state)
{
	struct kvc_tile_shape shape = {.tokens = 3, .dim = 16, .dtype = KVC_DTYPE_FP32};
	uint8_t source[3 * 71], back[3 * 71], raw[3 * 64];
	struct kvc_rows from = {.base = source + 1, .row_stride = 70};
	struct kvc_rows to = {.base = back + 1, .row_stride = 70};

	(void)state;
	for (size_t i = 0; i < sizeof source; i++)
		source[i] = (uint8_t)(i * 37 + 0x7F);
	memset(back, 0xEE, sizeof back);
	kvc_tile_raw_store(&shape, &from, raw);
	kvc_tile_raw_load(&shape, raw, &to);
	for (size_t i = 0; i < sizeof back; i++) {
		bool inside = i >= 1 && i < 1 + 2 * 70 + 64 && (i - 1) % 70 < 64;

		assert_int_equal(back[i], inside ? source[i] : 0xEE);
	}
}

/* --- restored sums --- */

static void restore_block(const struct kvc_codec *codec, const struct kv_slice_case *kase, uint8_t *source,
                          uint8_t *dest, uint32_t tokens)
{
	struct kvc_tile_shape shape = {.tokens = tokens, .dim = KV_SLICE_DIM, .dtype = KVC_DTYPE_BF16};
	ptrdiff_t stride = KV_SLICE_HEADS * KV_SLICE_DIM * 2;
	uint8_t *coded = aligned(kvc_tile_bytes(&kase->params, &shape));
	void *scratch = aligned(kvc_tile_scratch_bytes(&shape));

	for (uint32_t head = 0; head < KV_SLICE_HEADS; head++) {
		struct kvc_rows from = {.base = source + head * KV_SLICE_DIM * 2, .row_stride = stride};
		struct kvc_rows to = {.base = dest + head * KV_SLICE_DIM * 2, .row_stride = stride};

		assert_true(codec->encode(&kase->params, &shape, &from, coded, scratch));
		codec->decode(&kase->params, &shape, coded, &to, scratch);
	}
	free(coded);
	free(scratch);
}

static void restored_slice_has_sum(const struct kvc_codec *codec, const struct kv_slice_case *kase)
{
	const size_t token_bytes = KV_SLICE_HEADS * KV_SLICE_DIM * 2;
	uint8_t *source = kv_slice_load(kase->kind);
	uint8_t *dest = aligned(KV_SLICE_BYTES);
	uint8_t sum[crypto_hash_sha256_BYTES];
	char hex[2 * sizeof sum + 1];

	for (uint32_t layer = 0; layer < KV_SLICE_LAYERS; layer++) {
		for (uint32_t t = 0; t < KV_SLICE_TOKENS; t += kase->block_tokens) {
			uint32_t left = KV_SLICE_TOKENS - t;
			size_t offset = (layer * (size_t)KV_SLICE_TOKENS + t) * token_bytes;

			restore_block(codec, kase, source + offset, dest + offset,
			              left < kase->block_tokens ? left : kase->block_tokens);
		}
	}
	crypto_hash_sha256(sum, dest, KV_SLICE_BYTES);
	sodium_bin2hex(hex, sizeof hex, sum, sizeof sum);
	assert_string_equal(hex, kase->sha256);
	free(source);
	free(dest);
}

static void restored_sums(enum kvc_simd simd, const char *test)
{
	const struct kvc_codec *codec = codec_or_skip(simd, test);

	for (size_t i = 0; i < KV_SLICE_CASES; i++)
		restored_slice_has_sum(codec, &kv_slice_cases[i]);
}

static void restored_sums_scalar(void **state)
{
	(void)state;
	restored_sums(KVC_SIMD_SCALAR, __func__);
}

static void restored_sums_avx2(void **state)
{
	(void)state;
	restored_sums(KVC_SIMD_AVX2, __func__);
}

static void restored_sums_avx512(void **state)
{
	(void)state;
	restored_sums(KVC_SIMD_AVX512, __func__);
}

/* A thread that flushes subnormals and rounds towards zero gets the same bits, and keeps its settings. */
static void control_word_does_not_matter(void **state)
{
	const unsigned odd = 0x9FC0 | 0x6000;
	unsigned usual = _mm_getcsr();

	(void)state;
	for (enum kvc_simd simd = KVC_SIMD_SCALAR; simd <= KVC_SIMD_AVX512; simd++) {
		const struct kvc_codec *codec = kvc_codec_get(simd);

		if (!codec)
			continue;
		_mm_setcsr(odd);
		restored_slice_has_sum(codec, &kv_slice_cases[0]);
		restored_slice_has_sum(codec, &kv_slice_cases[1]);
		assert_int_equal(_mm_getcsr() & ~0x3Fu, odd & ~0x3Fu);
		_mm_setcsr(usual);
	}
}

static void auto_is_the_best_there_is(void **state)
{
	const struct kvc_codec *best = kvc_codec_get(KVC_SIMD_AVX512);

	(void)state;
	if (!best)
		best = kvc_codec_get(KVC_SIMD_AVX2);
	if (!best)
		best = kvc_codec_get(KVC_SIMD_SCALAR);
	assert_ptr_equal(kvc_codec_get(KVC_SIMD_AUTO), best);
	assert_null(kvc_codec_get((enum kvc_simd)99));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(params_out_of_range_are_refused),
	        cmocka_unit_test(clip_out_of_range_is_refused),
	        cmocka_unit_test(presets_have_their_sizes),
	        cmocka_unit_test(tile_sizes_follow_the_format),
	        cmocka_unit_test(f16_rounds_to_nearest_even),
	        cmocka_unit_test(finite_elements_stay_finite),
	        cmocka_unit_test(bf16_rounds_to_nearest_even),
	        cmocka_unit_test(strange_tiles_are_raw_scalar),
	        cmocka_unit_test(strange_tiles_are_raw_avx2),
	        cmocka_unit_test(strange_tiles_are_raw_avx512),
	        cmocka_unit_test(raw_tiles_keep_every_bit),
	        cmocka_unit_test(restored_sums_scalar),
	        cmocka_unit_test(restored_sums_avx2),
	        cmocka_unit_test(restored_sums_avx512),
	        cmocka_unit_test(control_word_does_not_matter),
	        cmocka_unit_test(auto_is_the_best_there_is),
	};

	return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
