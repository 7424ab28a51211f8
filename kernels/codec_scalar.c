/* The scalar reference: the definition of codec format v1 in code. Steps are numbered as in docs/codec.md.
 *
 * Written to be read. Every floating-point operation is one IEEE binary32 operation, in the order given, and
 * the 16-bit formats are converted in integer arithmetic: any processor and compiler gets the same bits, as
 * long as it does not contract, reassociate or keep excess precision. */
#include "kernels/codec.h"
#include "kernels/codec_internal.h"
#include "kernels/fpenv.h"
#include "kernels/half.h"

#include <math.h>
#include <string.h>

#define MEAN_SUMS 8u /* partial sums of a channel, so that they can be computed side by side */

static float element_load(const uint8_t *from, enum kvc_dtype dtype)
{
	uint32_t bits;
	uint16_t half;

	if (dtype == KVC_DTYPE_FP32) {
		memcpy(&bits, from, sizeof bits);
		return kvc_f32_from_bits(bits);
	}
	memcpy(&half, from, sizeof half);
	return dtype == KVC_DTYPE_FP16 ? kvc_f32_from_f16(half) : kvc_f32_from_bits((uint32_t)half << 16);
}

/* Round to the source type. Any NaN, which only damaged scales can produce, becomes the one canonical NaN. */
static void element_store(uint8_t *to, enum kvc_dtype dtype, float x)
{
	uint32_t bits = kvc_f32_bits(x);
	uint16_t half;

	if (dtype == KVC_DTYPE_FP32) {
		if ((bits & KVC_F32_MAGNITUDE) > KVC_F32_EXPONENT)
			bits = 0x7FC00000u;
		memcpy(to, &bits, sizeof bits);
		return;
	}
	half = dtype == KVC_DTYPE_FP16 ? kvc_f16_saturate(x) : kvc_bf16_saturate(x);
	memcpy(to, &half, sizeof half);
}

static void u16_store(uint8_t *to, uint16_t value)
{
	to[0] = (uint8_t)value;
	to[1] = (uint8_t)(value >> 8);
}

static uint16_t u16_load(const uint8_t *from)
{
	return (uint16_t)(from[0] | from[1] << 8);
}

/* Steps 1 and 2: the source as binary32, read once; false if an element is not finite or too large. */
static bool load_tile(const struct kvc_tile_shape *shape, const struct kvc_rows *source, float *x)
{
	size_t size = kvc_dtype_bytes(shape->dtype);
	bool usable = true;

	for (uint32_t t = 0; t < shape->tokens; t++) {
		const uint8_t *row = kvc_row_const(source, t);

		for (uint32_t d = 0; d < shape->dim; d++, x++) {
			*x = element_load(row + d * size, shape->dtype);
			if ((kvc_f32_bits(*x) & KVC_F32_MAGNITUDE) >= KVC_MAGNITUDE_LIMIT_BITS)
				usable = false;
		}
	}
	return usable;
}

static float channel_sum(const struct kvc_tile_shape *shape, const float *channel)
{
	float p[MEAN_SUMS] = {0};

	for (uint32_t t = 0; t < shape->tokens; t++)
		p[t % MEAN_SUMS] += channel[(size_t)t * shape->dim];
	return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/* Step 3: subtract each channel's mean; false if a mean overflows binary16. */
static bool centre_tile(const struct kvc_tile_shape *shape, float *x, uint8_t *means)
{
	float scale = 1.0f / (float)shape->tokens;

	for (uint32_t d = 0; d < shape->dim; d++) {
		uint16_t half = kvc_f16_from_f32(channel_sum(shape, x + d) * scale);
		float mean = kvc_f32_from_f16(half);

		if (!kvc_f16_finite(half))
			return false;
		u16_store(means + 2 * (size_t)d, half);
		for (uint32_t t = 0; t < shape->tokens; t++)
			x[(size_t)t * shape->dim + d] -= mean;
	}
	return true;
}

/* Step 4 on one run of R = 2^log2 channels: butterflies, then a power of two. */
static void rotate_run(float *x, unsigned log2, unsigned shift)
{
	uint32_t run = UINT32_C(1) << log2;
	float scale = 1.0f / (float)(UINT32_C(1) << shift);

	for (uint32_t h = 1; h < run; h *= 2) {
		for (uint32_t i = 0; i < run; i++) {
			float a, b;

			if (i & h)
				continue;
			a = x[i];
			b = x[i + h];
			x[i] = a + b;
			x[i + h] = a - b;
		}
	}
	for (uint32_t i = 0; i < run; i++)
		x[i] *= scale;
}

static void rotate_tile(const struct kvc_tile_layout *layout, size_t elements, float *x, unsigned shift)
{
	for (size_t i = 0; i < elements; i += layout->run)
		rotate_run(x + i, layout->run_log2, shift);
}

/* What step 5 knows of one group. */
struct group {
	uint32_t size;
	float levels;    /* L */
	uint16_t scale;  /* S, as stored */
	uint16_t offset; /* M, as stored */
	uint8_t code[KVC_GROUP_MAX];
	int32_t fine[KVC_GROUP_MAX]; /* Z: position in 1/256 of a level, beyond the range too */
};

static float clamp(float x, float low, float high)
{
	if (x < low)
		return low;
	return x > high ? high : x;
}

static bool group_finite(const struct group *group)
{
	return kvc_f16_finite(group->scale) && kvc_f16_finite(group->offset);
}

/* The range: least and greatest element, the latter two drawn in by the clip ratio. */
static void group_range(struct group *group, const float *x, float clip)
{
	float inverse = 1.0f / group->levels;
	float least = x[0];
	float most = x[0];

	for (uint32_t i = 1; i < group->size; i++) {
		least = x[i] < least ? x[i] : least;
		most = x[i] > most ? x[i] : most;
	}
	least += 0.0f; /* no negative zero: which zero is the lesser differs between processors */
	most += 0.0f;
	if (clip < 1.0f) {
		float middle = (least + most) * 0.5f;
		float half = ((most - least) * 0.5f) * clip;

		group->scale = kvc_f16_from_f32((half + half) * inverse);
		group->offset = kvc_f16_from_f32((middle - half) + 0.0f);
	} else {
		group->scale = kvc_f16_from_f32((most - least) * inverse);
		group->offset = kvc_f16_from_f32(least + 0.0f);
	}
}

static void group_quantise(struct group *group, const float *x)
{
	float m = kvc_f32_from_f16(group->offset);
	float inverse = 1.0f / kvc_f32_from_f16(group->scale);
	float levels = group->levels;

	for (uint32_t i = 0; i < group->size; i++) {
		float z = (x[i] - m) * inverse;

		group->code[i] = (uint8_t)lrintf(clamp(z, 0.0f, levels));
		group->fine[i] = (int32_t)lrintf(clamp(z, -levels, 2.0f * levels) * 256.0f);
	}
}

/* Choose scale and offset anew so that the group keeps its mean and its projection on itself: rounding into a
 * clipped range shrinks, and attention averages random error away but not shrinkage. */
static void group_gain(struct group *group)
{
	int64_t n = group->size, sq = 0, sz = 0, sqz = 0, szz = 0, num;
	float s = kvc_f32_from_f16(group->scale);
	float m = kvc_f32_from_f16(group->offset);
	float a, d;

	for (uint32_t i = 0; i < group->size; i++) {
		sq += group->code[i];
		sz += group->fine[i];
		sqz += (int64_t)group->code[i] * group->fine[i];
		szz += (int64_t)group->fine[i] * group->fine[i];
	}
	num = n * sqz - sq * sz;
	if (num <= 0)
		return;
	a = ((float)(n * szz - sz * sz) / (float)num) * (1.0f / 256.0f);
	if (!(a >= 0.5f && a <= 2.0f))
		return;
	d = ((float)sz * (1.0f / 256.0f) - a * (float)sq) * (1.0f / (float)n);
	group->scale = kvc_f16_from_f32(s * a);
	group->offset = kvc_f16_from_f32((m + s * d) + 0.0f);
}

/* Step 6: codes as one little-endian bit string. A group fills whole bytes, because 16 divides its size. */
static void group_pack(const struct group *group, unsigned bits, uint8_t *out)
{
	uint32_t window = 0;
	unsigned held = 0;

	for (uint32_t i = 0; i < group->size; i++) {
		window |= (uint32_t)group->code[i] << held;
		for (held += bits; held >= 8; held -= 8) {
			*out++ = (uint8_t)window;
			window >>= 8;
		}
	}
}

/* Step 5; false if a scale or offset overflows binary16. */
static bool encode_group(struct group *group, const struct kvc_codec_params *params, const float *x,
                         float clip)
{
	group_range(group, x, clip);
	if (!group_finite(group))
		return false;
	if (group->scale == 0) {
		memset(group->code, 0, sizeof group->code);
		return true;
	}
	group_quantise(group, x);
	if (params->gain && params->bits <= 4)
		group_gain(group);
	return group_finite(group);
}

static bool encode_groups(const struct kvc_codec_params *params, const struct kvc_tile_layout *layout,
                          size_t elements, const float *x, uint8_t *out)
{
	struct group group = {.size = layout->group, .levels = (float)((1u << params->bits) - 1)};
	float clip = kvc_clip_ratio(params, layout->group);
	uint8_t *scales = out + layout->scales;
	uint8_t *codes = out + layout->codes;

	for (size_t i = 0; i < elements; i += layout->group) {
		if (!encode_group(&group, params, x + i, clip))
			return false;
		u16_store(scales, group.scale);
		u16_store(scales + 2, group.offset);
		group_pack(&group, params->bits, codes);
		scales += 4;
		codes += layout->group * params->bits / 8;
	}
	/* The padding of both planes. */
	memset(scales, 0, (size_t)(out + layout->codes - scales));
	memset(codes, 0, (size_t)(out + layout->bytes - codes));
	return true;
}

KVC_TILE_FUNCTION static bool encode_tile(const struct kvc_codec_params *params,
                                          const struct kvc_tile_shape *shape, const struct kvc_rows *source,
                                          uint8_t *out, float *x)
{
	size_t elements = (size_t)shape->tokens * shape->dim;
	struct kvc_tile_layout layout;

	kvc_tile_layout_init(&layout, params, shape);
	if (!load_tile(shape, source, x))
		return false;
	if (layout.centred && !centre_tile(shape, x, out))
		return false;
	if (params->rotate)
		rotate_tile(&layout, elements, x, layout.run_log2 / 2);
	return encode_groups(params, &layout, elements, x, out);
}

static uint32_t code_at(const uint8_t *codes, size_t index, unsigned bits)
{
	size_t bit = index * bits;
	uint32_t window = codes[bit / 8];

	if (bit % 8 + bits > 8)
		window |= (uint32_t)codes[bit / 8 + 1] << 8;
	return window >> (bit % 8) & ((1u << bits) - 1);
}

/* y = q S + M; the product is exact, so that fused and separate operations agree. */
static void dequantise(const struct kvc_codec_params *params, const struct kvc_tile_layout *layout,
                       size_t elements, const uint8_t *coded, float *y)
{
	const uint8_t *scale = coded + layout->scales;

	for (size_t i = 0; i < elements; scale += 4) {
		float s = kvc_f32_from_f16(u16_load(scale));
		float m = kvc_f32_from_f16(u16_load(scale + 2));

		for (uint32_t k = 0; k < layout->group; k++, i++)
			y[i] = (float)code_at(coded + layout->codes, i, params->bits) * s + m;
	}
}

static void store_tile(const struct kvc_tile_shape *shape, const struct kvc_tile_layout *layout,
                       const uint8_t *means, const float *y, const struct kvc_rows *dest)
{
	size_t size = kvc_dtype_bytes(shape->dtype);

	for (uint32_t t = 0; t < shape->tokens; t++) {
		uint8_t *row = kvc_row(dest, t);

		for (uint32_t d = 0; d < shape->dim; d++, y++) {
			float mean =
			        layout->centred ? kvc_f32_from_f16(u16_load(means + 2 * (size_t)d)) : 0.0f;

			element_store(row + d * size, shape->dtype, layout->centred ? *y + mean : *y);
		}
	}
}

KVC_TILE_FUNCTION static void decode_tile(const struct kvc_codec_params *params,
                                          const struct kvc_tile_shape *shape, const uint8_t *coded,
                                          const struct kvc_rows *dest, float *y)
{
	size_t elements = (size_t)shape->tokens * shape->dim;
	struct kvc_tile_layout layout;

	kvc_tile_layout_init(&layout, params, shape);
	dequantise(params, &layout, elements, coded, y);
	if (params->rotate)
		rotate_tile(&layout, elements, y, (layout.run_log2 + 1) / 2);
	store_tile(shape, &layout, coded, y, dest);
}

static bool encode(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
                   const struct kvc_rows *source, uint8_t *out, void *scratch)
{
	struct kvc_fpenv env;
	bool coded;

	kvc_fpenv_enter(&env);
	coded = encode_tile(params, shape, source, out, scratch);
	kvc_fpenv_leave(&env);
	return coded;
}

static void decode(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
                   const uint8_t *coded, const struct kvc_rows *dest, void *scratch)
{
	struct kvc_fpenv env;

	kvc_fpenv_enter(&env);
	decode_tile(params, shape, coded, dest, scratch);
	kvc_fpenv_leave(&env);
}

const struct kvc_codec kvc_codec_scalar = {.name = "scalar", .encode = encode, .decode = decode};
