/* Sixteen 32-bit lanes in one AVX-512 register: the vocabulary of the SIMD codec. See simd_chunk.h for the
 * order of lanes.
 *
 * Needs AVX-512 F, BW, DQ, VL and VNNI, F16C and FMA. vec_avx2.h has the same names on pairs of AVX2
 * registers. */
#ifndef KVC_VEC_AVX512_H
#define KVC_VEC_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

typedef __m512 vf;    /* binary32 */
typedef __m512i vi;   /* 32-bit integers, or pairs of 16-bit ones */
typedef __m256i vh;   /* binary16 */
typedef __mmask16 vm; /* one truth a lane */

/* --- lanes as they are --- */

static inline vf vf_set1(float x)
{
	return _mm512_set1_ps(x);
}

static inline vf vf_load(const float *from)
{
	return _mm512_loadu_ps(from);
}

static inline void vf_store(float *to, vf x)
{
	_mm512_storeu_ps(to, x);
}

static inline vf vf_add(vf a, vf b)
{
	return _mm512_add_ps(a, b);
}

static inline vf vf_sub(vf a, vf b)
{
	return _mm512_sub_ps(a, b);
}

static inline vf vf_mul(vf a, vf b)
{
	return _mm512_mul_ps(a, b);
}

static inline vf vf_div(vf a, vf b)
{
	return _mm512_div_ps(a, b);
}

/* a * b + c with one rounding: only where the product is exact. */
static inline vf vf_fma(vf a, vf b, vf c)
{
	return _mm512_fmadd_ps(a, b, c);
}

static inline vf vf_min(vf a, vf b)
{
	return _mm512_min_ps(a, b);
}

static inline vf vf_max(vf a, vf b)
{
	return _mm512_max_ps(a, b);
}

/* Four numbers, in every 128-bit part. */
static inline vf vf_load_part(const float *from)
{
	return _mm512_broadcast_f32x4(_mm_loadu_ps(from));
}

static inline vi vi_set1(int x)
{
	return _mm512_set1_epi32(x);
}

static inline vi vi_zero(void)
{
	return _mm512_setzero_si512();
}

static inline vi vi_load(const void *from)
{
	return _mm512_loadu_si512(from);
}

static inline void vi_store(void *to, vi x)
{
	_mm512_storeu_si512(to, x);
}

static inline vi vi_add(vi a, vi b)
{
	return _mm512_add_epi32(a, b);
}

static inline vi vi_and(vi a, vi b)
{
	return _mm512_and_si512(a, b);
}

static inline vi vi_or(vi a, vi b)
{
	return _mm512_or_si512(a, b);
}

static inline vi vi_shl(vi a, unsigned count)
{
	return _mm512_slli_epi32(a, count);
}

static inline vi vi_shr(vi a, unsigned count)
{
	return _mm512_srli_epi32(a, count);
}

static inline bool vi_any(vi x)
{
	return _mm512_test_epi32_mask(x, x) != 0;
}

static inline vi vi_from_bits(vf x)
{
	return _mm512_castps_si512(x);
}

static inline vf vf_from_bits(vi x)
{
	return _mm512_castsi512_ps(x);
}

/* Nearest integer, ties to even. */
static inline vi vi_round(vf x)
{
	return _mm512_cvtps_epi32(x);
}

static inline vf vf_from_int(vi x)
{
	return _mm512_cvtepi32_ps(x);
}

/* --- truths --- */

static inline vm vm_less(vf a, vf b)
{
	return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

static inline vm vm_less_equal(vf a, vf b)
{
	return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}

static inline vm vm_and(vm a, vm b)
{
	return a & b;
}

static inline vi vi_select(vm where, vi yes, vi no)
{
	return _mm512_mask_mov_epi32(no, where, yes);
}

static inline vf vf_where(vm where, vf yes) /* else 0 */
{
	return _mm512_maskz_mov_ps(where, yes);
}

/* --- 16-bit halves of a lane --- */

/* Low halves of `low` and, shifted up, of `high`. */
static inline vi vi_pair(vi low, vi high)
{
	return _mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}

static inline vi vi_sub16(vi a, vi b)
{
	return _mm512_sub_epi16(a, b);
}

static inline vi vi_min16(vi a, vi b)
{
	return _mm512_min_epi16(a, b);
}

static inline vi vi_max16(vi a, vi b)
{
	return _mm512_max_epi16(a, b);
}

/* sum + a.low * b.low + a.high * b.high, signed. */
static inline vi vi_dot(vi sum, vi a, vi b)
{
	return _mm512_dpwssd_epi32(sum, a, b);
}

/* --- binary16 --- */

static inline vh vh_round(vf x)
{
	return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf vf_widen(vh x)
{
	return _mm512_cvtph_ps(x);
}

static inline vi vi_widen(vh x)
{
	return _mm512_cvtepu16_epi32(x);
}

static inline vh vh_load(const void *from)
{
	return _mm256_loadu_si256(from);
}

static inline void vh_store(void *to, vh x)
{
	_mm256_storeu_si256(to, x);
}

/* --- across lanes --- */

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
