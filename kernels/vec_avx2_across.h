/* Sixteen lanes with AVX2, across lanes: partners, transpositions, and what only the codec does. */
#ifndef KVC_VEC_AVX2_ACROSS_H
#define KVC_VEC_AVX2_ACROSS_H

#include "kernels/vec_avx2.h"

/* Swap every lane with its partner: the lane whose channel differs by the given number. */
static inline vf vf_partner8(vf x)
{
	return (vf){_mm256_permute2f128_ps(x.lo, x.lo, 0x01), _mm256_permute2f128_ps(x.hi, x.hi, 0x01)};
}

static inline vf vf_partner16(vf x)
{
	return (vf){x.hi, x.lo};
}

static inline vf vf_partner32(vf x)
{
	return (vf){_mm256_permute_ps(x.lo, 0xB1), _mm256_permute_ps(x.hi, 0xB1)};
}

static inline vf vf_partner64(vf x)
{
	return (vf){_mm256_permute_ps(x.lo, 0x4E), _mm256_permute_ps(x.hi, 0x4E)};
}

/* (a, b) -> (a + b, a - b) over partners: one rounding each, since multiplying by +-1 is exact. */
static inline vf vf_butterfly8(vf x)
{
	const __m256 sign = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);

	return vf_fma(x, (vf){sign, sign}, vf_partner8(x));
}

static inline vf vf_butterfly16(vf x)
{
	return (vf){_mm256_add_ps(x.lo, x.hi), _mm256_sub_ps(x.lo, x.hi)};
}

static inline vf vf_butterfly32(vf x)
{
	const __m256 sign = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);

	return vf_fma(x, (vf){sign, sign}, vf_partner32(x));
}

static inline vf vf_butterfly64(vf x)
{
	const __m256 sign = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);

	return vf_fma(x, (vf){sign, sign}, vf_partner64(x));
}

static inline void half_transpose4(__m256i *r0, __m256i *r1, __m256i *r2, __m256i *r3)
{
	__m256i a = _mm256_unpacklo_epi32(*r0, *r1);
	__m256i b = _mm256_unpackhi_epi32(*r0, *r1);
	__m256i c = _mm256_unpacklo_epi32(*r2, *r3);
	__m256i d = _mm256_unpackhi_epi32(*r2, *r3);

	*r0 = _mm256_unpacklo_epi64(a, c);
	*r1 = _mm256_unpackhi_epi64(a, c);
	*r2 = _mm256_unpacklo_epi64(b, d);
	*r3 = _mm256_unpackhi_epi64(b, d);
}

/* Transpose the 4 x 4 lanes of every 128-bit part of four registers; its own inverse. */
static inline void vi_transpose4(vi r[4])
{
	half_transpose4(&r[0].lo, &r[1].lo, &r[2].lo, &r[3].lo);
	half_transpose4(&r[0].hi, &r[1].hi, &r[2].hi, &r[3].hi);
}

/* Lanes in the order of channels <-> lanes in codec order; its own inverse. */
static inline vi vi_reorder(vi x)
{
	const __m256i index = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
	__m256i low = _mm256_permutevar8x32_epi32(x.lo, index);
	__m256i high = _mm256_permutevar8x32_epi32(x.hi, index);
	__m256i even = _mm256_unpacklo_epi64(low, high);
	__m256i odd = _mm256_unpackhi_epi64(low, high);

	return (vi){_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}

/* 128-bit parts 0 and 2, or 1 and 3, of a and of b. */
static inline vf vf_even_parts(vf a, vf b)
{
	return (vf){_mm256_permute2f128_ps(a.lo, a.hi, 0x20), _mm256_permute2f128_ps(b.lo, b.hi, 0x20)};
}

static inline vf vf_odd_parts(vf a, vf b)
{
	return (vf){_mm256_permute2f128_ps(a.lo, a.hi, 0x31), _mm256_permute2f128_ps(b.lo, b.hi, 0x31)};
}

/* The inverse: a and b from their even and odd parts. */
static inline vf vf_merge_first(vf even, vf odd)
{
	return (vf){_mm256_permute2f128_ps(even.lo, odd.lo, 0x20),
	            _mm256_permute2f128_ps(even.lo, odd.lo, 0x31)};
}

static inline vf vf_merge_second(vf even, vf odd)
{
	return (vf){_mm256_permute2f128_ps(even.hi, odd.hi, 0x20),
	            _mm256_permute2f128_ps(even.hi, odd.hi, 0x31)};
}

/* Sixteen 16-bit integers, widened. */
static inline vi vi_load_u16(const void *from)
{
	return vi_widen(vh_load(from));
}

/* The lanes must be below 2^16. */
static inline void vi_store_u16(void *to, vi x)
{
	__m256i packed = _mm256_packus_epi32(x.lo, x.hi);

	_mm256_storeu_si256(to, _mm256_permute4x64_epi64(packed, 0xD8));
}

/* --- codec --- */

/* The low `bits` bits of each lane as a number, bits <= 4. */
static inline vf vf_from_code(vi x, unsigned bits)
{
	return vf_from_int(vi_and(x, vi_set1((1 << bits) - 1)));
}

/* Lane index[i] of the sixteen. */
static inline vf vf_permute(vf x, vi index)
{
	__m256 in_high0 = _mm256_castsi256_ps(_mm256_slli_epi32(index.lo, 28)); /* bit 3 to the sign */
	__m256 in_high1 = _mm256_castsi256_ps(_mm256_slli_epi32(index.hi, 28));

	return (vf){_mm256_blendv_ps(_mm256_permutevar8x32_ps(x.lo, index.lo),
	                             _mm256_permutevar8x32_ps(x.hi, index.lo), in_high0),
	            _mm256_blendv_ps(_mm256_permutevar8x32_ps(x.lo, index.hi),
	                             _mm256_permutevar8x32_ps(x.hi, index.hi), in_high1)};
}

/* All bits of the lanes below `count`. */
static inline vi lanes_below(unsigned count)
{
	__m256i bound = _mm256_set1_epi32((int)count);

	return (vi){_mm256_cmpgt_epi32(bound, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
	            _mm256_cmpgt_epi32(bound, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}

/* `count` <= 8 pairs of binary16; lane i gets half index[i] of them as *s and the next as *m. */
static inline void vf_load_scales(const uint8_t *from, unsigned count, vi index, vf *s, vf *m)
{
	__m256i raw = _mm256_maskload_epi32((const int *)(const void *)from, lanes_below(count).lo);
	vf halves = vf_widen((vh){_mm256_castsi256_si128(raw), _mm256_extracti128_si256(raw, 1)});

	*s = vf_permute(halves, index);
	*m = vf_permute(halves, vi_or(index, vi_set1(1)));
}

/* Store lanes index[0] to index[count - 1], count <= 16. */
static inline void vi_store_lanes(uint8_t *to, unsigned count, vi index, vi x)
{
	int *words = (int *)(void *)to;
	vi mask = lanes_below(count);
	vi picked = vi_from_bits(vf_permute(vf_from_bits(x), index));

	_mm256_maskstore_epi32(words, mask.lo, picked.lo);
	_mm256_maskstore_epi32(words + 8, mask.hi, picked.hi);
}

/* Four of sixteen integers in binary64. */
typedef struct {
	__m256d x;
} vd;

static inline vd vd_quarter(vi x, unsigned quarter)
{
	__m256i half = quarter < 2 ? x.lo : x.hi;
	__m128i four = quarter % 2 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half);

	return (vd){_mm256_cvtepi32_pd(four)};
}

/* n * (a + bias) - b * c of four lanes, exact as long as both products are below 2^53, then rounded. */
static inline __m128 quarter_determinant(double n, double bias, vd a, vd b, vd c)
{
	__m256d first = _mm256_mul_pd(_mm256_set1_pd(n), _mm256_add_pd(a.x, _mm256_set1_pd(bias)));

	return _mm256_cvtpd_ps(_mm256_sub_pd(first, _mm256_mul_pd(b.x, c.x)));
}

static inline vf vf_determinant_biased(double n, double bias, vi a, vi b, vi c)
{
	__m128 r[4];

	for (unsigned i = 0; i < 4; i++)
		r[i] = quarter_determinant(n, bias, vd_quarter(a, i), vd_quarter(b, i), vd_quarter(c, i));
	return (vf){_mm256_set_m128(r[1], r[0]), _mm256_set_m128(r[3], r[2])};
}

/* n * a - b * c, exact in binary64 as long as both products are below 2^53, then rounded to binary32. */
static inline vf vf_determinant(double n, vi a, vi b, vi c)
{
	return vf_determinant_biased(n, 0.0, a, b, c);
}

/* The same with an unsigned `a`: its top bit is flipped, and the bias makes up for it. */
static inline vf vf_determinant_unsigned(double n, vi a, vi b, vi c)
{
	__m256i top = _mm256_set1_epi32(INT32_MIN);

	a.lo = _mm256_xor_si256(a.lo, top);
	a.hi = _mm256_xor_si256(a.hi, top);
	return vf_determinant_biased(n, 0x1p31, a, b, c);
}

#endif
