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

/* Past the caches; 64-byte aligned. */
static inline void vi_stream(void *to, vi x)
{
	_mm512_stream_si512(to, x);
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

/* Two of them side by side. */
static inline vi vi_join(vh first, vh second)
{
	return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
}

#endif
