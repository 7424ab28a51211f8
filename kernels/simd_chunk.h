/* The codec on vectors of sixteen lanes: included by codec_avx2.c and codec_avx512.c after their vec_*.h, and
 * by nothing else. Restores the bits that codec_scalar.c defines; steps are numbered as in docs/codec.md.
 *
 * A tile is a stream of tokens * dim elements, handled in chunks of 128 whatever the dimension: since dim is
 * a multiple of 16, runs and groups never straddle chunks, except runs of 256 and more, which are rotated
 * chunk by chunk and then across chunks.
 *
 * Codec order: channel c of a chunk lies in register c % 8, at the lane of word w = c / 8, which is
 * 4 * (w % 4) + w / 4. A 32-bit word of 4-bit codes holds the eight channels of one lane, so shifts unpack
 * it; the first three rotation stages need no shuffle; and a 4 x 4 transposition of lanes leads to and from
 * memory order.
 *
 * Scratch memory: the elements of the tile, in the source type, padded to whole batches; then the means in
 * codec order, repeated until chunks and rows meet again; then a batch or a run at work. */
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

#define LANES 16u
#define WORDS 8u /* registers of a chunk, channels of a lane */

static_assert(LANES * WORDS == KVC_CHUNK, "a chunk is eight registers");

/* What is the same for all chunks of a tile. */
struct tile {
	const struct kvc_codec_params *params;
	const struct kvc_tile_shape *shape;
	struct kvc_tile_layout layout;
	size_t elements;
	size_t element_bytes;
	uint8_t *source;      /* scratch: elements in the source type */
	float *means;         /* scratch: in codec order */
	float *run;           /* scratch: one run of rotation, in codec order */
	uint32_t mean_chunks; /* chunks until the means repeat */
	uint32_t run_chunks;  /* chunks of one run of rotation */
	vf rotate_scale;
	vi scale_index; /* where lanes find their scale, or groups their lane */
};

/* Lane of word w; its own inverse. */
static inline uint32_t lane_of(uint32_t w)
{
	return w % 4 * 4 + w / 4;
}

static inline uint32_t gcd_with_chunk(uint32_t dim)
{
	uint32_t two = dim & (~dim + 1);

	return two < KVC_CHUNK ? two : KVC_CHUNK;
}

static inline void tile_init(struct tile *tile, const struct kvc_codec_params *params,
                             const struct kvc_tile_shape *shape, void *scratch)
{
	float *floats = scratch;

	tile->params = params;
	tile->shape = shape;
	kvc_tile_layout_init(&tile->layout, params, shape);
	tile->elements = (size_t)shape->tokens * shape->dim;
	tile->element_bytes = kvc_dtype_bytes(shape->dtype);
	tile->source = scratch;
	tile->means = floats + kvc_round_up_to(tile->elements, KVC_BATCH);
	tile->mean_chunks = shape->dim / gcd_with_chunk(shape->dim);
	tile->run = tile->means + (size_t)tile->mean_chunks * KVC_CHUNK;
	tile->run_chunks = params->rotate && tile->layout.run > KVC_CHUNK ? tile->layout.run / KVC_CHUNK : 1;
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

	for (unsigned e = 0; e < 4; e++) {
		low[e] = vi_from_bits(vf_even_parts(v[2 * e], v[2 * e + 1]));
		high[e] = vi_from_bits(vf_odd_parts(v[2 * e], v[2 * e + 1]));
	}
	vi_transpose4(low);
	vi_transpose4(high);
	for (unsigned k = 0; k < 4; k++) {
		v[k] = vf_from_bits(low[k]);
		v[k + 4] = vf_from_bits(high[k]);
	}
}

KVC_INLINE void chunk_to_memory_order(vf v[WORDS])
{
	vi low[4], high[4];

	for (unsigned k = 0; k < 4; k++) {
		low[k] = vi_from_bits(v[k]);
		high[k] = vi_from_bits(v[k + 4]);
	}
	vi_transpose4(low);
	vi_transpose4(high);
	for (unsigned e = 0; e < 4; e++) {
		v[2 * e] = vf_merge_first(vf_from_bits(low[e]), vf_from_bits(high[e]));
		v[2 * e + 1] = vf_merge_second(vf_from_bits(low[e]), vf_from_bits(high[e]));
	}
}

/* Two bytes an element: pairs of channels are transposed as 32-bit words, then split. */
KVC_INLINE void chunk_load_bf16(const uint8_t *from, vf v[WORDS])
{
	vi r[4];

	for (unsigned e = 0; e < 4; e++)
		r[e] = vi_load(from + 64 * (size_t)e);
	vi_transpose4(r);
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

KVC_INLINE void chunk_store_bf16(uint8_t *to, const vf v[WORDS])
{
	vi r[4];

	for (unsigned j = 0; j < 4; j++)
		r[j] = vi_or(vi_shr(bf16_upper(v[2 * j]), 16),
		             vi_and(bf16_upper(v[2 * j + 1]), vi_set1((int)0xFFFF0000)));
	vi_transpose4(r);
	for (unsigned e = 0; e < 4; e++)
		vi_store(to + 64 * (size_t)e, r[e]);
}

KVC_INLINE void chunk_store_fp16(uint8_t *to, vf v[WORDS])
{
	vf limit = vf_set1(65504.0f);
	vf minus_limit = vf_set1(-65504.0f);

	chunk_to_memory_order(v);
	for (unsigned i = 0; i < WORDS; i++)
		vh_store(to + 32 * (size_t)i, vh_round(vf_max(vf_min(v[i], limit), minus_limit)));
}

KVC_INLINE void chunk_store(enum kvc_dtype dtype, uint8_t *to, vf v[WORDS])
{
	if (dtype == KVC_DTYPE_BF16) {
		chunk_store_bf16(to, v);
		return;
	}
	if (dtype == KVC_DTYPE_FP16) {
		chunk_store_fp16(to, v);
		return;
	}
	chunk_to_memory_order(v);
	for (unsigned i = 0; i < WORDS; i++)
		vi_store(to + 64 * (size_t)i, vi_from_bits(v[i]));
}

/* --- rotation --- */

KVC_INLINE void butterfly(vf *a, vf *b)
{
	vf sum = vf_add(*a, *b);

	*b = vf_sub(*a, *b);
	*a = sum;
}

KVC_INLINE void rotate_registers(vf v[WORDS])
{
	for (unsigned h = 1; h < WORDS; h *= 2) {
		for (unsigned i = 0; i < WORDS; i++) {
			if (!(i & h))
				butterfly(&v[i], &v[i + h]);
		}
	}
}

/* Step 4 up to runs of one chunk, without the factor. */
KVC_INLINE void chunk_rotate(vf v[WORDS], uint32_t run)
{
	rotate_registers(v);
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly8(v[k]);
	if (run < 32)
		return;
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly16(v[k]);
	if (run < 64)
		return;
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly32(v[k]);
	if (run < 128)
		return;
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_butterfly64(v[k]);
}

KVC_INLINE void chunk_put(float *to, const vf v[WORDS])
{
	for (unsigned k = 0; k < WORDS; k++)
		vf_store(to + LANES * (size_t)k, v[k]);
}

KVC_INLINE void chunk_get(const float *from, vf v[WORDS])
{
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

/* --- means --- */

static inline bool halves_finite(const uint8_t *halves, size_t count)
{
	unsigned bad = 0;

	for (size_t i = 0; i < count; i++) {
		uint16_t half;

		memcpy(&half, halves + 2 * i, sizeof half);
		bad |= !kvc_f16_finite(half);
	}
	return !bad;
}

/* The means repeated up to a whole number of chunks, in codec order; `plain` has them as they are. */
static inline void spread_means(const struct tile *tile, const float *plain)
{
	for (uint32_t chunk = 0; chunk < tile->mean_chunks; chunk++) {
		vf v[WORDS];

		for (uint32_t i = 0; i < WORDS; i++)
			v[i] = vf_load(plain + (chunk * KVC_CHUNK + i * LANES) % tile->shape->dim);
		chunk_from_memory_order(v);
		chunk_put(tile->means + (size_t)chunk * KVC_CHUNK, v);
	}
}

#endif
