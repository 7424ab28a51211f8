/* Step 5 of the format on one segment: 32 channels of a token in one thread's registers. A group is a segment
 * or, with its neighbours in the warp, two or four.
 *
 * Identities used, each exact:
 *  - x*2^-k - m is one fmaf: the product is exact unless it is subnormal, and then it is far below half a unit
 *    in the last place of any m but 0, with which the sum is the product, rounded once.
 *  - Rounding to an integer is adding 1.5 * 2^23: the sum's unit in the last place is 1 there, ties go to even,
 *    and the integer stands in the low bits, as BIAS + q. With a factor of 256 before, it is one fmaf.
 *  - Sums of BIAS + q and of products with it are taken modulo 2^32 and freed of BIAS at the end; the true sums
 *    are in range: at 4 bits |Z| <= 7680, so that 32 squares are below 2^31. */
#ifndef KVC_KERN_QUANT_CUH
#define KVC_KERN_QUANT_CUH

#include "kernels/dev.cuh"

#include <math.h>

#define SEGMENT       32u
#define QUANT_BIAS    0x4B400000u
#define QUANT_BIAS_F  12582912.0f /* 1.5 * 2^23: the number with these bits */
#define F16_EXPONENT  0x7C00u

/* What a segment is coded with. */
struct quant {
	float factor;   /* of the rotation: a power of two, applied to the elements */
	float clip;     /* range ratio */
	uint32_t lanes; /* threads that share a group */
	bool gain;
};

struct quant_scale {
	uint16_t scale;
	uint16_t offset;
};

DEV bool f16_finite(uint16_t h)
{
	return (h & F16_EXPONENT) != F16_EXPONENT;
}

DEV bool quant_scale_finite(struct quant_scale s)
{
	return f16_finite(s.scale) && f16_finite(s.offset);
}

/* Scale and offset of a range. */
DEV struct quant_scale quant_range(float least, float most, float inverse_levels, float clip)
{
	struct quant_scale s;

	least += 0.0f; /* no negative zero */
	most += 0.0f;
	if (clip < 1.0f) {
		float middle = (least + most) * 0.5f;
		float half = ((most - least) * 0.5f) * clip;

		s.scale = dev_f16_from_f32((half + half) * inverse_levels);
		s.offset = dev_f16_from_f32((middle - half) + 0.0f);
	} else {
		s.scale = dev_f16_from_f32((most - least) * inverse_levels);
		s.offset = dev_f16_from_f32(least + 0.0f);
	}
	return s;
}

struct quant_sums {
	int32_t q;
	int32_t z;
	int32_t qz;
	uint64_t zz;
};

/* Scale and offset with which a group keeps its mean and its projection on itself. */
DEV struct quant_scale quant_gain(struct quant_scale s, struct quant_sums sums, uint32_t size)
{
	int64_t n = size;
	int64_t num = n * sums.qz - (int64_t)sums.q * sums.z;
	int64_t vzz = n * (int64_t)sums.zz - (int64_t)sums.z * sums.z;
	float scale = dev_f32_from_f16(s.scale);
	float offset = dev_f32_from_f16(s.offset);
	float a, d;

	if (num <= 0)
		return s;
	a = dev_quotient((float)vzz, (float)num) * (1.0f / 256.0f);
	if (!(a >= 0.5f && a <= 2.0f))
		return s;
	d = ((float)sums.z * (1.0f / 256.0f) - a * (float)sums.q) * dev_reciprocal((float)size);
	s.scale = dev_f16_from_f32(scale * a);
	s.offset = dev_f16_from_f32((offset + scale * d) + 0.0f);
	return s;
}

/* Sum of BIAS << shift over the codes of a word. */
template <unsigned BITS> DEV constexpr uint32_t quant_word_bias()
{
	uint32_t bias = 0;

	for (unsigned shift = 0; shift < 32; shift += BITS)
		bias += QUANT_BIAS << shift;
	return bias;
}

enum quant_mode {
	QUANT_PLAIN, /* codes only */
	QUANT_GAIN,  /* sums, too; no element is more than a range away from the range */
	QUANT_FAR,   /* sums, too; some are */
};

/* Codes of a segment, and the sums over it. `inverse` is 0 for a group of one value: all are 0 then. */
template <unsigned BITS, enum quant_mode MODE>
DEV void quant_codes(const float x[SEGMENT], float factor, float offset, float inverse, uint32_t codes[BITS],
                     struct quant_sums *sums)
{
	const float levels = (float)((1u << BITS) - 1);
	const uint32_t bias = QUANT_BIAS;
	uint32_t q = 0, z = 0, qz = 0, zz = 0;

#pragma unroll
	for (unsigned w = 0; w < BITS; w++) {
		uint32_t word = 0;

#pragma unroll
		for (unsigned i = 0; i < 32 / BITS; i++) {
			float at = fmaf(x[w * (32 / BITS) + i], factor, -offset) * inverse;
			uint32_t code = dev_f32_bits(fminf(fmaxf(at, 0.0f), levels) + QUANT_BIAS_F);

			word += code << (i * BITS);
			if (MODE != QUANT_PLAIN) {
				float fine = MODE == QUANT_FAR ? fminf(fmaxf(at, -levels), 2.0f * levels) : at;
				uint32_t bits = dev_f32_bits(fmaf(fine, 256.0f, QUANT_BIAS_F));

				q += code;
				z += bits;
				qz += code * bits;
				zz += bits * bits;
			}
		}
		codes[w] = word - quant_word_bias<BITS>();
	}
	if (MODE != QUANT_PLAIN) {
		q -= SEGMENT * bias;
		z -= SEGMENT * bias;
		/* bias * bias is 0 modulo 2^32 */
		sums->q = (int32_t)q;
		sums->z = (int32_t)z;
		sums->qz = (int32_t)(qz - bias * (q + z));
		sums->zz = zz - 2 * bias * z;
	}
}

DEV void quant_sums_share(struct quant_sums *sums, uint32_t lanes)
{
	for (uint32_t mask = 1; mask < lanes; mask *= 2) {
		sums->q += (int32_t)dev_shuffle((uint32_t)sums->q, mask);
		sums->z += (int32_t)dev_shuffle((uint32_t)sums->z, mask);
		sums->qz += (int32_t)dev_shuffle((uint32_t)sums->qz, mask);
		sums->zz += dev_shuffle(sums->zz, mask);
	}
}

DEV void quant_extremes(const float x[SEGMENT], const struct quant *quant, float *least, float *most)
{
	float low = x[0], high = x[0];

#pragma unroll
	for (unsigned i = 1; i < SEGMENT; i++) {
		low = fminf(low, x[i]);
		high = fmaxf(high, x[i]);
	}
	for (uint32_t mask = 1; mask < quant->lanes; mask *= 2) {
		low = fminf(low, dev_shuffle(low, mask));
		high = fmaxf(high, dev_shuffle(high, mask));
	}
	/* The factor is positive: rounding, of subnormals only, keeps the order. */
	*least = low * quant->factor;
	*most = high * quant->factor;
}

/* False if an element's fine position has to be clamped: positions grow with the element. */
template <unsigned BITS> DEV bool quant_near(float least, float most, float offset, float inverse)
{
	const float levels = (float)((1u << BITS) - 1);

	return (least - offset) * inverse >= -levels && (most - offset) * inverse <= 2.0f * levels;
}

/* Codes by one of three loops. Their common part must not be moved before the branch: it would be done twice,
 * because its results are too many to be kept. Hence the opaque numbers. */
template <unsigned BITS>
DEV void quant_choose(const float x[SEGMENT], const struct quant *quant, float offset, float inverse, bool far,
                      uint32_t codes[BITS], struct quant_sums *sums)
{
	if (BITS > 4 || !quant->gain)
		quant_codes<BITS, QUANT_PLAIN>(x, quant->factor, offset, dev_opaque(inverse), codes, sums);
	else if (far)
		quant_codes<BITS, QUANT_FAR>(x, quant->factor, offset, dev_opaque(inverse), codes, sums);
	else
		quant_codes<BITS, QUANT_GAIN>(x, quant->factor, offset, dev_opaque(inverse), codes, sums);
}

/* The whole of step 5; the scale is not finite if the tile must be stored raw. Called by whole warps. */
template <unsigned BITS>
DEV struct quant_scale quant_segment(const float x[SEGMENT], const struct quant *quant, uint32_t codes[BITS])
{
	const float inverse_levels = 1.0f / (float)((1u << BITS) - 1);
	struct quant_sums sums = {0, 0, 0, 0};
	struct quant_scale s;
	float least, most, offset, inverse;

	quant_extremes(x, quant, &least, &most);
	s = quant_range(least, most, inverse_levels, quant->clip);
	offset = dev_f32_from_f16(s.offset);
	inverse = s.scale ? dev_reciprocal(dev_f32_from_f16(s.scale)) : 0.0f;
	quant_choose<BITS>(x, quant, offset, inverse, dev_any(!quant_near<BITS>(least, most, offset, inverse)), codes,
	                   &sums);
	if (BITS > 4 || !quant->gain)
		return s;
	quant_sums_share(&sums, quant->lanes);
	return quant_scale_finite(s) ? quant_gain(s, sums, quant->lanes * SEGMENT) : s;
}

/* --- rotation --- */

/* Step 4 over `lanes` threads that hold a run of lanes * 32 channels in order, without the factor. */
template <unsigned LANES> DEV void rotate_segments(float x[SEGMENT])
{
#pragma unroll
	for (unsigned h = 1; h < SEGMENT; h *= 2) {
#pragma unroll
		for (unsigned i = 0; i < SEGMENT; i++) {
			if ((i & h) == 0) {
				float a = x[i], b = x[i + h];

				x[i] = a + b;
				x[i + h] = a - b;
			}
		}
	}
#pragma unroll
	for (unsigned mask = 1; mask < LANES; mask *= 2) {
		/* The lower thread gets a + b, the upper one a - b; products with 1 and -1 are exact. */
		float sign = dev_lane() & mask ? -1.0f : 1.0f;

#pragma unroll
		for (unsigned i = 0; i < SEGMENT; i++)
			x[i] = fmaf(x[i], sign, dev_shuffle(x[i], mask));
	}
}

#endif
