/* Sixteen lanes with AVX-512, across lanes: partners, transpositions, and what only the codec does. */
#ifndef KVC_VEC_AVX512_ACROSS_H
#define KVC_VEC_AVX512_ACROSS_H

#include "kernels/vec_avx512.h"

/* Swap every lane with its partner: the lane whose channel differs by the given number. */
static inline vf vf_partner8(vf x)
{
	return _mm512_shuffle_f32x4(x, x, 0xB1);
}

static inline vf vf_partner16(vf x)
{
	return _mm512_shuffle_f32x4(x, x, 0x4E);
}

static inline vf vf_partner32(vf x)
{
	return _mm512_permute_ps(x, 0xB1);
}

static inline vf vf_partner64(vf x)
{
	return _mm512_permute_ps(x, 0x4E);
}

/* (a, b) -> (a + b, a - b) over partners: one rounding each, since multiplying by +-1 is exact. */
static inline vf vf_butterfly8(vf x)
{
	const vf sign = _mm512_setr_ps(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);

	return vf_fma(x, sign, vf_partner8(x));
}

static inline vf vf_butterfly16(vf x)
{
	const vf sign = _mm512_setr_ps(1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);

	return vf_fma(x, sign, vf_partner16(x));
}

static inline vf vf_butterfly32(vf x)
{
	const vf sign = _mm512_setr_ps(1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1);

	return vf_fma(x, sign, vf_partner32(x));
}

static inline vf vf_butterfly64(vf x)
{
	const vf sign = _mm512_setr_ps(1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1);

	return vf_fma(x, sign, vf_partner64(x));
}

/* Transpose the 4 x 4 lanes of every 128-bit part of four registers; its own inverse. */
static inline void vi_transpose4(vi r[4])
{
	vi a = _mm512_unpacklo_epi32(r[0], r[1]);
	vi b = _mm512_unpackhi_epi32(r[0], r[1]);
	vi c = _mm512_unpacklo_epi32(r[2], r[3]);
	vi d = _mm512_unpackhi_epi32(r[2], r[3]);

	r[0] = _mm512_unpacklo_epi64(a, c);
	r[1] = _mm512_unpackhi_epi64(a, c);
	r[2] = _mm512_unpacklo_epi64(b, d);
	r[3] = _mm512_unpackhi_epi64(b, d);
}

/* Lanes in the order of channels <-> lanes in codec order; its own inverse. */
static inline vi vi_reorder(vi x)
{
	const vi index = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);

	return _mm512_permutexvar_epi32(index, x);
}

/* 128-bit parts 0 and 2, or 1 and 3, of a and of b. */
static inline vf vf_even_parts(vf a, vf b)
{
	return _mm512_shuffle_f32x4(a, b, 0x88);
}

static inline vf vf_odd_parts(vf a, vf b)
{
	return _mm512_shuffle_f32x4(a, b, 0xDD);
}

/* The inverse: a and b from their even and odd parts. */
static inline vf vf_merge_first(vf even, vf odd)
{
	const vi index = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);

	return _mm512_permutex2var_ps(even, index, odd);
}

static inline vf vf_merge_second(vf even, vf odd)
{
	const vi index = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);

	return _mm512_permutex2var_ps(even, index, odd);
}

/* Sixteen 16-bit integers, widened. */
static inline vi vi_load_u16(const void *from)
{
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256(from));
}

static inline void vi_store_u16(void *to, vi x)
{
	_mm256_storeu_si256(to, _mm512_cvtepi32_epi16(x));
}

/* --- codec --- */

/* The low `bits` bits of each lane as a number, bits <= 4: a permutation looks at the low four bits of its
 * index only, so that a table of 16 does away with both the mask and the conversion. */
static inline vf vf_from_code(vi x, unsigned bits)
{
	static const float table[3][16] = {
	        {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3},
	        {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7},
	        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	};

	return _mm512_permutexvar_ps(x, vf_load(table[bits - 2]));
}

/* `count` <= 8 pairs of binary16; lane i gets half index[i] of them as *s and the next as *m. */
static inline void vf_load_scales(const uint8_t *from, unsigned count, vi index, vf *s, vf *m)
{
	__mmask8 mask = (__mmask8)((1u << count) - 1);
	vf halves = vf_widen(_mm256_maskz_loadu_epi32(mask, from));

	*s = _mm512_permutexvar_ps(index, halves);
	*m = _mm512_permutexvar_ps(vi_or(index, vi_set1(1)), halves);
}

/* Store lanes index[0] to index[count - 1], count <= 16. */
static inline void vi_store_lanes(uint8_t *to, unsigned count, vi index, vi x)
{
	__mmask16 mask = (__mmask16)((1u << count) - 1);

	_mm512_mask_storeu_epi32(to, mask, _mm512_permutexvar_epi32(index, x));
}

static inline __m512d wide_int(vi x, int half)
{
	return _mm512_cvtepi32_pd(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x));
}

static inline __m512d wide_unsigned(vi x, int half)
{
	return _mm512_cvtepu32_pd(half ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x));
}

static inline vf join_rounded(__m512d low, __m512d high)
{
	return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

/* n * a - b * c, exact in binary64 as long as both products are below 2^53, then rounded to binary32. */
static inline vf vf_determinant(double n, vi a, vi b, vi c)
{
	__m512d wide_n = _mm512_set1_pd(n);
	__m512d low = _mm512_fnmadd_pd(wide_int(b, 0), wide_int(c, 0), _mm512_mul_pd(wide_n, wide_int(a, 0)));
	__m512d high =
	        _mm512_fnmadd_pd(wide_int(b, 1), wide_int(c, 1), _mm512_mul_pd(wide_n, wide_int(a, 1)));

	return join_rounded(low, high);
}

/* The same with an unsigned `a`. */
static inline vf vf_determinant_unsigned(double n, vi a, vi b, vi c)
{
	__m512d wide_n = _mm512_set1_pd(n);
	__m512d low =
	        _mm512_fnmadd_pd(wide_int(b, 0), wide_int(c, 0), _mm512_mul_pd(wide_n, wide_unsigned(a, 0)));
	__m512d high =
	        _mm512_fnmadd_pd(wide_int(b, 1), wide_int(c, 1), _mm512_mul_pd(wide_n, wide_unsigned(a, 1)));

	return join_rounded(low, high);
}

#endif
