/* Sixteen 32-bit lanes in two AVX2 registers: the vocabulary of the SIMD codec, as in vec_avx512.h.
 *
 * Needs AVX2, F16C and FMA. */
#ifndef KVC_VEC_AVX2_H
#define KVC_VEC_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

/* binary32 */
typedef struct {
	__m256 lo, hi;
} vf;

/* 32-bit integers, or pairs of 16-bit ones */
typedef struct {
	__m256i lo, hi;
} vi;

/* binary16 */
typedef struct {
	__m128i lo, hi;
} vh;

/* One truth a lane: all bits of it, or none. */
typedef struct {
	__m256 lo, hi;
} vm;

/* --- lanes as they are --- */

static inline vf vf_set1(float x)
{
	return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

static inline vf vf_load(const float *from)
{
	return (vf){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

static inline void vf_store(float *to, vf x)
{
	_mm256_storeu_ps(to, x.lo);
	_mm256_storeu_ps(to + 8, x.hi);
}

static inline vf vf_add(vf a, vf b)
{
	return (vf){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}

static inline vf vf_sub(vf a, vf b)
{
	return (vf){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}

static inline vf vf_mul(vf a, vf b)
{
	return (vf){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}

static inline vf vf_div(vf a, vf b)
{
	return (vf){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}

/* a * b + c with one rounding: only where the product is exact. */
static inline vf vf_fma(vf a, vf b, vf c)
{
	return (vf){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}

static inline vf vf_min(vf a, vf b)
{
	return (vf){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

static inline vf vf_max(vf a, vf b)
{
	return (vf){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}

/* Four numbers, in every 128-bit part. */
static inline vf vf_load_part(const float *from)
{
	__m256 parts = _mm256_broadcast_ps((const __m128 *)(const void *)from);

	return (vf){parts, parts};
}

static inline vi vi_set1(int x)
{
	return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}

static inline vi vi_zero(void)
{
	return (vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static inline vi vi_load(const void *from)
{
	const __m256i *half = from;

	return (vi){_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1)};
}

static inline void vi_store(void *to, vi x)
{
	__m256i *half = to;

	_mm256_storeu_si256(half, x.lo);
	_mm256_storeu_si256(half + 1, x.hi);
}

/* Past the caches; 64-byte aligned. */
static inline void vi_stream(void *to, vi x)
{
	__m256i *half = to;

	_mm256_stream_si256(half, x.lo);
	_mm256_stream_si256(half + 1, x.hi);
}

static inline vi vi_add(vi a, vi b)
{
	return (vi){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}

static inline vi vi_and(vi a, vi b)
{
	return (vi){_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}

static inline vi vi_or(vi a, vi b)
{
	return (vi){_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}

static inline vi vi_shl(vi a, unsigned count)
{
	return (vi){_mm256_slli_epi32(a.lo, (int)count), _mm256_slli_epi32(a.hi, (int)count)};
}

static inline vi vi_shr(vi a, unsigned count)
{
	return (vi){_mm256_srli_epi32(a.lo, (int)count), _mm256_srli_epi32(a.hi, (int)count)};
}

static inline bool vi_any(vi x)
{
	__m256i either = _mm256_or_si256(x.lo, x.hi);

	return !_mm256_testz_si256(either, either);
}

static inline vi vi_from_bits(vf x)
{
	return (vi){_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)};
}

static inline vf vf_from_bits(vi x)
{
	return (vf){_mm256_castsi256_ps(x.lo), _mm256_castsi256_ps(x.hi)};
}

/* Nearest integer, ties to even. */
static inline vi vi_round(vf x)
{
	return (vi){_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)};
}

static inline vf vf_from_int(vi x)
{
	return (vf){_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)};
}

/* --- truths --- */

static inline vm vm_less(vf a, vf b)
{
	return (vm){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}

static inline vm vm_less_equal(vf a, vf b)
{
	return (vm){_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)};
}

static inline vm vm_and(vm a, vm b)
{
	return (vm){_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}

static inline vi vi_select(vm where, vi yes, vi no)
{
	return (vi){_mm256_blendv_epi8(no.lo, yes.lo, _mm256_castps_si256(where.lo)),
	            _mm256_blendv_epi8(no.hi, yes.hi, _mm256_castps_si256(where.hi))};
}

static inline vf vf_where(vm where, vf yes) /* else 0 */
{
	return (vf){_mm256_and_ps(where.lo, yes.lo), _mm256_and_ps(where.hi, yes.hi)};
}

/* --- 16-bit halves of a lane --- */

/* Low halves of `low` and, shifted up, of `high`. */
static inline vi vi_pair(vi low, vi high)
{
	return (vi){_mm256_blend_epi16(low.lo, _mm256_slli_epi32(high.lo, 16), 0xAA),
	            _mm256_blend_epi16(low.hi, _mm256_slli_epi32(high.hi, 16), 0xAA)};
}

static inline vi vi_sub16(vi a, vi b)
{
	return (vi){_mm256_sub_epi16(a.lo, b.lo), _mm256_sub_epi16(a.hi, b.hi)};
}

static inline vi vi_min16(vi a, vi b)
{
	return (vi){_mm256_min_epi16(a.lo, b.lo), _mm256_min_epi16(a.hi, b.hi)};
}

static inline vi vi_max16(vi a, vi b)
{
	return (vi){_mm256_max_epi16(a.lo, b.lo), _mm256_max_epi16(a.hi, b.hi)};
}

/* sum + a.low * b.low + a.high * b.high, signed. */
static inline vi vi_dot(vi sum, vi a, vi b)
{
	return (vi){_mm256_add_epi32(sum.lo, _mm256_madd_epi16(a.lo, b.lo)),
	            _mm256_add_epi32(sum.hi, _mm256_madd_epi16(a.hi, b.hi))};
}

/* --- binary16 --- */

static inline vh vh_round(vf x)
{
	return (vh){_mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
	            _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

static inline vf vf_widen(vh x)
{
	return (vf){_mm256_cvtph_ps(x.lo), _mm256_cvtph_ps(x.hi)};
}

static inline vi vi_widen(vh x)
{
	return (vi){_mm256_cvtepu16_epi32(x.lo), _mm256_cvtepu16_epi32(x.hi)};
}

static inline vh vh_load(const void *from)
{
	const __m128i *half = from;

	return (vh){_mm_loadu_si128(half), _mm_loadu_si128(half + 1)};
}

static inline void vh_store(void *to, vh x)
{
	__m128i *half = to;

	_mm_storeu_si128(half, x.lo);
	_mm_storeu_si128(half + 1, x.hi);
}

/* Two of them side by side. */
static inline vi vi_join(vh first, vh second)
{
	return (vi){_mm256_set_m128i(first.hi, first.lo), _mm256_set_m128i(second.hi, second.lo)};
}

#endif
