/* What all implementations of the codec share: parameter checks, sizes, the clip table, raw tiles, and which
 * implementation this processor can run. No state, no allocation. */
#include "kernels/codec.h"

#include "kernels/codec_internal.h"

#include <cpuid.h>
#include <string.h>

static bool is_power_of_two(uint32_t value)
{
	return value != 0 && (value & (value - 1)) == 0;
}

/* The largest power of two that divides value. */
static uint32_t power_of_two_in(uint32_t value)
{
	return value & (~value + 1);
}

size_t kvc_dtype_bytes(enum kvc_dtype dtype)
{
	switch (dtype) {
	case KVC_DTYPE_BF16:
	case KVC_DTYPE_FP16:
		return 2;
	case KVC_DTYPE_FP32:
		return 4;
	case KVC_DTYPE_UNSET:
		break;
	}
	return 0;
}

kvc_status kvc_codec_params_check(const struct kvc_codec_params *params)
{
	if (params->bits == KVC_BITS_RAW)
		return KVC_OK;
	if (params->bits < KVC_BITS_MIN || params->bits > KVC_BITS_MAX)
		return KVC_INVALID;
	if (params->group < KVC_GROUP_MIN || params->group > KVC_GROUP_MAX || !is_power_of_two(params->group))
		return KVC_INVALID;
	/* Written so that a NaN fails. */
	if (!(params->clip >= 0.0f && params->clip <= 1.0f))
		return KVC_INVALID;
	return KVC_OK;
}

/* Ratios with the least error after the gain step, for Gaussian groups. Rows: 2, 3, 4 bits; columns: groups
 * of 16, 32, 64, 128. From 5 bits on the full range is best. */
float kvc_clip_ratio(const struct kvc_codec_params *params, uint32_t group)
{
	static const float table[3][4] = {
	        {.82f, .72f, .66f, .60f},
	        {.96f, .92f, .86f, .80f},
	        {.98f, .98f, .96f, .92f},
	};
	unsigned column = (unsigned)__builtin_ctz(group / KVC_GROUP_MIN);

	if (params->clip > 0.0f)
		return params->clip;
	return params->bits <= 4 ? table[params->bits - 2][column] : 1.0f;
}

void kvc_tile_layout_init(struct kvc_tile_layout *layout, const struct kvc_codec_params *params,
                          const struct kvc_tile_shape *shape)
{
	uint32_t run = power_of_two_in(shape->dim);
	size_t elements = (size_t)shape->tokens * shape->dim;
	size_t means;

	assert(params->bits >= KVC_BITS_MIN && params->bits <= KVC_BITS_MAX);
	assert(shape->dim > 0 && shape->dim <= KVC_DIM_MAX && shape->dim % KVC_DIM_STEP == 0);
	assert(shape->tokens > 0 && shape->tokens <= KVC_TOKENS_MAX);
	layout->group = run < params->group ? run : params->group;
	layout->run = run;
	layout->run_log2 = (unsigned)__builtin_ctz(run);
	layout->centred = params->centre && shape->tokens >= KVC_CENTRE_TOKENS_MIN;
	means = layout->centred ? 2 * (size_t)shape->dim : 0;
	layout->scales = kvc_round_up_to(means, KVC_PLANE_ALIGN);
	layout->codes = layout->scales + kvc_round_up_to(elements / layout->group * 4, KVC_PLANE_ALIGN);
	layout->bytes = layout->codes + kvc_round_up_to(elements * params->bits / 8, KVC_PLANE_ALIGN);
}

size_t kvc_tile_raw_bytes(const struct kvc_tile_shape *shape)
{
	return (size_t)shape->tokens * shape->dim * kvc_dtype_bytes(shape->dtype);
}

size_t kvc_tile_bytes(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape)
{
	struct kvc_tile_layout layout;

	if (params->bits == KVC_BITS_RAW)
		return kvc_round_up_to(kvc_tile_raw_bytes(shape), KVC_PLANE_ALIGN);
	kvc_tile_layout_init(&layout, params, shape);
	return layout.bytes;
}

/* One float an element, padded to whole batches; means, of which the SIMD versions keep lcm(dim, chunk) <= 8
 * dim; and one run of rotation or one batch. */
size_t kvc_tile_scratch_bytes(const struct kvc_tile_shape *shape)
{
	size_t elements = kvc_round_up_to((size_t)shape->tokens * shape->dim, KVC_BATCH);

	return sizeof(float) * (elements + 8 * (size_t)shape->dim + KVC_DIM_MAX);
}

void kvc_tile_raw_store(const struct kvc_tile_shape *shape, const struct kvc_rows *source, uint8_t *out)
{
	size_t row_bytes = shape->dim * kvc_dtype_bytes(shape->dtype);
	size_t length = row_bytes * shape->tokens;

	for (uint32_t t = 0; t < shape->tokens; t++)
		memcpy(out + t * row_bytes, kvc_row_const(source, t), row_bytes);
	memset(out + length, 0, kvc_round_up_to(length, KVC_PLANE_ALIGN) - length);
}

void kvc_tile_raw_load(const struct kvc_tile_shape *shape, const uint8_t *raw, const struct kvc_rows *dest)
{
	size_t row_bytes = shape->dim * kvc_dtype_bytes(shape->dtype);

	for (uint32_t t = 0; t < shape->tokens; t++)
		memcpy(kvc_row(dest, t), raw + t * row_bytes, row_bytes);
}

/* __builtin_cpu_supports() also asks whether the operating system saves the registers. Not every compiler
 * knows F16C there, hence CPUID; AVX2 implies what the system must do for it. */
static bool cpu_has_avx2(void)
{
	unsigned a, b, c, d;

	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	       __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool cpu_has_avx512(void)
{
	return cpu_has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("avx512vnni");
}

const struct kvc_codec *kvc_codec_get(enum kvc_simd simd)
{
	__builtin_cpu_init();
	if (simd == KVC_SIMD_AUTO)
		simd = cpu_has_avx512() ? KVC_SIMD_AVX512 : cpu_has_avx2() ? KVC_SIMD_AVX2 : KVC_SIMD_SCALAR;
	switch (simd) {
	case KVC_SIMD_SCALAR:
		return &kvc_codec_scalar;
	case KVC_SIMD_AVX2:
		return cpu_has_avx2() ? &kvc_codec_avx2 : NULL;
	case KVC_SIMD_AVX512:
		return cpu_has_avx512() ? &kvc_codec_avx512 : NULL;
	case KVC_SIMD_AUTO:
		break;
	}
	return NULL;
}
