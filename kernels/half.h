/* 16-bit floating-point formats in integer arithmetic: the definition, for any processor.
 *
 * Every function takes or gives bit patterns, so neither rounding mode nor flushing of subnormals matters. */
#ifndef KVC_HALF_H
#define KVC_HALF_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KVC_F32_EXPONENT  0x7F800000u
#define KVC_F32_MAGNITUDE 0x7FFFFFFFu
#define KVC_F16_EXPONENT  0x7C00u

static inline uint32_t kvc_f32_bits(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof bits);
	return bits;
}

static inline float kvc_f32_from_bits(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof x);
	return x;
}

/* value / 2^shift, to nearest, ties to even; 1 <= shift <= 31. */
static inline uint32_t kvc_shift_rne(uint32_t value, unsigned shift)
{
	uint32_t half = UINT32_C(1) << (shift - 1);

	return (value + (half - 1) + ((value >> shift) & 1u)) >> shift;
}

static inline bool kvc_f16_finite(uint16_t h)
{
	return (h & KVC_F16_EXPONENT) != KVC_F16_EXPONENT;
}

/* Widen binary16 exactly. NaNs stay NaNs, with their payload. */
static inline float kvc_f32_from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
	uint32_t exponent = (h >> 10) & 0x1Fu;
	uint32_t mantissa = h & 0x3FFu;

	if (exponent == 0x1F)
		return kvc_f32_from_bits(sign | KVC_F32_EXPONENT | mantissa << 13);
	if (exponent == 0) {
		/* 0 or subnormal: mantissa * 2^-24, exact because the product is a normal number. */
		float magnitude = (float)mantissa * 0x1p-24f;

		return kvc_f32_from_bits(sign | kvc_f32_bits(magnitude));
	}
	return kvc_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* Round to binary16, nearest even; beyond its range infinity; any NaN becomes 0x7E00. */
static inline uint16_t kvc_f16_from_f32(float x)
{
	uint32_t bits = kvc_f32_bits(x);
	uint32_t magnitude = bits & KVC_F32_MAGNITUDE;
	uint32_t sign = (bits >> 16) & 0x8000u;
	uint32_t exponent = magnitude >> 23;

	if (magnitude > KVC_F32_EXPONENT)
		return 0x7E00;
	if (magnitude >= 0x477FF000u) /* 65520 rounds up to 2^16 */
		return (uint16_t)(sign | KVC_F16_EXPONENT);
	if (exponent >= 113) /* 2^-14: a carry out of the mantissa raises the exponent, as it must */
		return (uint16_t)(sign | kvc_shift_rne(magnitude - (112u << 23), 13));
	if (exponent < 102) /* below 2^-25 */
		return (uint16_t)sign;
	return (uint16_t)(sign | kvc_shift_rne((magnitude & 0x7FFFFFu) | 0x800000u, 126 - exponent));
}

/* Round to binary16 as restored elements are: what is finite stays finite. */
static inline uint16_t kvc_f16_saturate(float x)
{
	uint16_t h = kvc_f16_from_f32(x);
	bool overflow = !kvc_f16_finite(h) && (kvc_f32_bits(x) & KVC_F32_MAGNITUDE) < KVC_F32_EXPONENT;

	return overflow ? (uint16_t)((h & 0x8000u) | 0x7BFFu) : h;
}

/* Round to bfloat16 the same way: nearest even, what is finite stays finite, any NaN becomes 0x7FC0. */
static inline uint16_t kvc_bf16_saturate(float x)
{
	uint32_t bits = kvc_f32_bits(x);
	uint32_t magnitude = bits & KVC_F32_MAGNITUDE;
	uint32_t sign = (bits >> 16) & 0x8000u;

	if (magnitude > KVC_F32_EXPONENT)
		return 0x7FC0;
	if (magnitude == KVC_F32_EXPONENT)
		return (uint16_t)(sign | 0x7F80u);
	if (magnitude > 0x7F7F0000u)
		magnitude = 0x7F7F0000u;
	return (uint16_t)(sign | kvc_shift_rne(magnitude, 16));
}

#endif
