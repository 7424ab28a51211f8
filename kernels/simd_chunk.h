/* A chunk of 128 elements in registers: loading, storing, rotating. For codec_avx2.c and codec_avx512.c,
 * which compile it each with their own instructions.
 *
 * Codec order: channel c of a chunk lies in register c % 8, at the lane of word w = c / 8, which is
 * 4 * (w % 4) + w / 4. A 32-bit word of 4-bit codes holds the eight channels of one lane, so shifts unpack
 * it; the first three rotation stages need no shuffle; and a 4 x 4 transposition of lanes leads to and from
 * memory order. */
#ifndef KVC_SIMD_CHUNK_H
#define KVC_SIMD_CHUNK_H

#include "kernels/codec.h"
#include "kernels/codec_internal.h"
#include "kernels/fpenv.h"
#include "kernels/half.h"
#include "kernels/vec.h"

#include <string.h>

/* For what takes or gives a chunk: arrays of registers stay in registers only if the whole is inlined. */
#define KVC_INLINE static inline __attribute__((always_inline))

/* Before a loop over the registers of a chunk: the same end. */
#if defined(__clang__)
#define KVC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KVC_UNROLL _Pragma("GCC unroll 8")
#endif

#define LANES 16u
#define WORDS 8u /* registers of a chunk, channels of a lane */

static_assert(LANES * WORDS == KVC_CHUNK, "a chunk is eight registers");

/* Lane of word w; its own inverse. */
static inline uint32_t lane_of(uint32_t w)
{
	return w % 4 * 4 + w / 4;
}

/* --- between memory order and codec order --- */

static inline vf load16_bf16(const uint8_t *from)
{
	return vf_from_bits(vi_shl(vi_load_u16(from), 16));
}

static inline vf load16_fp16(const uint8_t *from)
{
	return vf_widen(vh_load(from));
}

static inline vf load16_fp32(const uint8_t *from)
{
	return vf_from_bits(vi_load(from));
}

/* Sixteen elements in memory order. */
static inline vf load16(enum kvc_dtype dtype, const uint8_t *from)
{
	if (dtype == KVC_DTYPE_BF16)
		return load16_bf16(from);
	return dtype == KVC_DTYPE_FP16 ? load16_fp16(from) : load16_fp32(from);
}

/* Eight registers of consecutive elements -> codec order. */
KVC_INLINE void chunk_from_memory_order(vf v[WORDS])
{
	vi low[4], high[4];

	KVC_UNROLL
	for (unsigned e = 0; e < 4; e++) {
		low[e] = vi_from_bits(vf_even_parts(v[2 * e], v[2 * e + 1]));
		high[e] = vi_from_bits(vf_odd_parts(v[2 * e], v[2 * e + 1]));
	}
	vi_transpose4(low);
	vi_transpose4(high);
	KVC_UNROLL
	for (unsigned k = 0; k < 4; k++) {
		v[k] = vf_from_bits(low[k]);
		v[k + 4] = vf_from_bits(high[k]);
	}
}

KVC_INLINE void chunk_to_memory_order(vf v[WORDS])
{
	vi low[4], high[4];

	KVC_UNROLL
	for (unsigned k = 0; k < 4; k++) {
		low[k] = vi_from_bits(v[k]);
		high[k] = vi_from_bits(v[k + 4]);
	}
	vi_transpose4(low);
	vi_transpose4(high);
	KVC_UNROLL
	for (unsigned e = 0; e < 4; e++) {
		v[2 * e] = vf_merge_first(vf_from_bits(low[e]), vf_from_bits(high[e]));
		v[2 * e + 1] = vf_merge_second(vf_from_bits(low[e]), vf_from_bits(high[e]));
	}
}

/* Two bytes an element: pairs of channels are transposed as 32-bit words, then split. */
KVC_INLINE void chunk_load_bf16(const uint8_t *from, vf v[WORDS])
{
	vi r[4];

	KVC_UNROLL
	for (unsigned e = 0; e < 4; e++)
		r[e] = vi_load(from + 64 * (size_t)e);
	vi_transpose4(r);
	KVC_UNROLL
	for (unsigned j = 0; j < 4; j++) {
		v[2 * j] = vf_from_bits(vi_shl(r[j], 16));
		v[2 * j + 1] = vf_from_bits(vi_and(r[j], vi_set1((int)0xFFFF0000)));
	}
}

KVC_INLINE void chunk_load(enum kvc_dtype dtype, const uint8_t *from, vf v[WORDS])
{
	if (dtype == KVC_DTYPE_BF16) {
		chunk_load_bf16(from, v);
		return;
	}
	KVC_UNROLL
	for (unsigned i = 0; i < WORDS; i++)
		v[i] = dtype == KVC_DTYPE_FP16 ? load16_fp16(from + 32 * (size_t)i)
		                               : load16_fp32(from + 64 * (size_t)i);
	chunk_from_memory_order(v);
}

/* The bits of bfloat16 in the upper half, what is below it undefined. No restored value is a subnormal, and
 * none comes near the top of the range: they are sums of products of binary16 numbers. */
KVC_INLINE vi bf16_upper(vf x)
{
	vi bits = vi_from_bits(x);
	vi odd = vi_and(vi_shr(bits, 16), vi_set1(1));

	return vi_add(vi_add(bits, vi_set1(0x7FFF)), odd);
}

/* Streaming keeps the lines of the destination from being read before they are overwritten as a whole. */
KVC_INLINE void store64(uint8_t *to, vi x, bool stream)
{
	if (stream)
		vi_stream(to, x);
	else
		vi_store(to, x);
}

KVC_INLINE void chunk_store_bf16(uint8_t *to, const vf v[WORDS], bool stream)
{
	vi r[4];

	KVC_UNROLL
	for (unsigned j = 0; j < 4; j++)
		r[j] = vi_or(vi_shr(bf16_upper(v[2 * j]), 16),
		             vi_and(bf16_upper(v[2 * j + 1]), vi_set1((int)0xFFFF0000)));
	vi_transpose4(r);
	KVC_UNROLL
	for (unsigned e = 0; e < 4; e++)
		store64(to + 64 * (size_t)e, r[e], stream);
}

/* What is finite stays finite. */
KVC_INLINE vh fp16_saturate(vf x)
{
	return vh_round(vf_max(vf_min(x, vf_set1(65504.0f)), vf_set1(-65504.0f)));
}

KVC_INLINE void chunk_store_fp16(uint8_t *to, vf v[WORDS], bool stream)
{
	chunk_to_memory_order(v);
	KVC_UNROLL
	for (unsigned i = 0; i < 4; i++)
		store64(to + 64 * (size_t)i, vi_join(fp16_saturate(v[2 * i]), fp16_saturate(v[2 * i + 1])),
		        stream);
}

/* With `stream`, `to` is 64-byte aligned. */
KVC_INLINE void chunk_store(enum kvc_dtype dtype, uint8_t *to, vf v[WORDS], bool stream)
{
	if (dtype == KVC_DTYPE_BF16) {
		chunk_store_bf16(to, v, stream);
		return;
	}
	if (dtype == KVC_DTYPE_FP16) {
		chunk_store_fp16(to, v, stream);
		return;
	}
	chunk_to_memory_order(v);
	KVC_UNROLL
	for (unsigned i = 0; i < WORDS; i++)
		store64(to + 64 * (size_t)i, vi_from_bits(v[i]), stream);
}

/* --- rotation --- */

KVC_INLINE void butterfly(vf *a, vf *b)
{
	vf sum = vf_add(*a, *b);

	*b = vf_sub(*a, *b);
	*a = sum;
}

/* Distances 1, 2 and 4; written out, since compilers keep arrays in registers only under constant indices. */
KVC_INLINE void rotate_registers(vf v[WORDS])
{
	butterfly(&v[0], &v[1]);
	butterfly(&v[2], &v[3]);
	butterfly(&v[4], &v[5]);
	butterfly(&v[6], &v[7]);

	butterfly(&v[0], &v[2]);
	butterfly(&v[1], &v[3]);
	butterfly(&v[4], &v[6]);
	butterfly(&v[5], &v[7]);

	butterfly(&v[0], &v[4]);
	butterfly(&v[1], &v[5]);
	butterfly(&v[2], &v[6]);
	butterfly(&v[3], &v[7]);
}

/* Step 4 up to runs of one chunk, without the factor. */
KVC_INLINE void chunk_rotate(vf v[WORDS], uint32_t run)
{
	rotate_registers(v);
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly8(v[k]);
	if (run < 32)
		return;
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly16(v[k]);
	if (run < 64)
		return;
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly32(v[k]);
	if (run < 128)
		return;
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly64(v[k]);
}

KVC_INLINE void chunk_put(float *to, const vf v[WORDS])
{
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		vf_store(to + LANES * (size_t)k, v[k]);
}

KVC_INLINE void chunk_get(const float *from, vf v[WORDS])
{
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_load(from + LANES * (size_t)k);
}

/* The stages above one chunk. */
static inline void rotate_across_chunks(float *run, uint32_t length)
{
	for (uint32_t h = KVC_CHUNK; h < length; h *= 2) {
		for (uint32_t i = 0; i < length; i += LANES) {
			vf a, b;

			if (i & h)
				continue;
			a = vf_load(run + i);
			b = vf_load(run + i + h);
			butterfly(&a, &b);
			vf_store(run + i, a);
			vf_store(run + i + h, b);
		}
	}
}

#endif
