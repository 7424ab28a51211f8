/* Decoding on vectors. Restores the bits that codec_scalar.c defines. */
#ifndef KVC_SIMD_DECODE_H
#define KVC_SIMD_DECODE_H

#include "kernels/simd_tile.h"

/* --- codes --- */

/* Bits <= 4 and a power of two: all eight codes of a lane are in one word. */
KVC_INLINE void unpack_words(vi words, unsigned bits, vf q[WORDS])
{
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		q[k] = vf_from_code(vi_shr(words, bits * k), bits);
}

/* Any width: eight codes are `bits` bytes, read as two words of four codes. */
KVC_INLINE void unpack_any(const uint8_t *codes, unsigned bits, vf q[WORDS])
{
	uint32_t low[LANES], high[LANES];
	vi mask = vi_set1((1 << bits) - 1);

	for (unsigned w = 0; w < LANES; w++) {
		uint64_t window;

		memcpy(&window, codes + (size_t)bits * w, sizeof window);
		low[lane_of(w)] = (uint32_t)window;
		high[lane_of(w)] = (uint32_t)(window >> 4 * bits);
	}
	KVC_UNROLL
	for (unsigned k = 0; k < 4; k++) {
		q[k] = vf_from_int(vi_and(vi_shr(vi_load(low), bits * k), mask));
		q[k + 4] = vf_from_int(vi_and(vi_shr(vi_load(high), bits * k), mask));
	}
}

/* Codes of a chunk as numbers; nothing beyond `length` bytes is read, codes beyond it are undefined. */
KVC_INLINE void unpack_chunk(const uint8_t *codes, size_t length, unsigned bits, vf q[WORDS])
{
	uint8_t padded[LANES * KVC_BITS_MAX + sizeof(uint64_t)] = {0};
	bool whole = length == LANES * (size_t)bits;

	if (!whole || (bits != 2 && bits != 4)) {
		memcpy(padded, codes, length);
		codes = padded;
	}
	if (bits == 2)
		unpack_words(vi_reorder(vi_load_u16(codes)), 2, q);
	else if (bits == 4)
		unpack_words(vi_reorder(vi_load(codes)), 4, q);
	else
		unpack_any(codes, bits, q);
}

/* --- one chunk --- */

/* y = q S + M for `count` elements from element `first` of the tile. */
KVC_INLINE void dequantise(const struct tile *tile, const uint8_t *coded, size_t first, size_t count,
                           vf v[WORDS])
{
	const struct kvc_tile_layout *layout = &tile->layout;
	unsigned bits = tile->params->bits;
	vf s, m;

	vf_load_scales(coded + layout->scales + first / layout->group * 4, (unsigned)(count / layout->group),
	               tile->scale_index, &s, &m);
	unpack_chunk(coded + layout->codes + first / 8 * bits, count / 8 * bits, bits, v);
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_fma(v[k], s, m);
}

/* Factor and mean. Both in one fused operation where both are wanted: the factor is a power of two and the
 * other a multiple of 2^-24, so the product is exact. */
KVC_INLINE void finish_chunk(const struct tile *tile, size_t first, vf v[WORDS])
{
	const float *means = tile->means + first / KVC_CHUNK % tile->mean_chunks * KVC_CHUNK;

	if (tile->params->rotate && tile->layout.centred) {
		KVC_UNROLL
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_fma(v[k], tile->rotate_scale, vf_load(means + LANES * (size_t)k));
	} else if (tile->params->rotate) {
		KVC_UNROLL
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_mul(v[k], tile->rotate_scale);
	} else if (tile->layout.centred) {
		KVC_UNROLL
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_add(v[k], vf_load(means + LANES * (size_t)k));
	}
}

/* --- to rows --- */

/* `bytes` is a multiple of 32. */
static inline void copy_pieces(uint8_t *to, const uint8_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += sizeof(__m256i))
		_mm256_storeu_si256((__m256i *)(void *)(to + i),
		                    _mm256_loadu_si256((const __m256i *)(const void *)(from + i)));
}

/* Elements from `first` on to where they belong, row by row. */
static inline void scatter(const struct tile *tile, const struct kvc_rows *dest, size_t first, size_t count,
                           const uint8_t *from)
{
	size_t dim = tile->shape->dim;

	while (count > 0) {
		size_t column = first % dim;
		size_t piece = dim - column < count ? dim - column : count;
		uint8_t *row = kvc_row(dest, (uint32_t)(first / dim));

		copy_pieces(row + column * tile->element_bytes, from, piece * tile->element_bytes);
		from += piece * tile->element_bytes;
		first += piece;
		count -= piece;
	}
}

KVC_INLINE void write_chunk(const struct tile *tile, const struct kvc_rows *dest, size_t first, size_t count,
                            vf v[WORDS])
{
	uint8_t buffer[KVC_CHUNK * sizeof(float)];
	size_t dim = tile->shape->dim;

	if (dim % KVC_CHUNK == 0) {
		uint8_t *row = kvc_row(dest, (uint32_t)(first / dim));

		chunk_store(tile->shape->dtype, row + first % dim * tile->element_bytes, v, tile->stream);
		return;
	}
	chunk_store(tile->shape->dtype, buffer, v, false);
	scatter(tile, dest, first, count, buffer);
}

/* --- one tile --- */

static inline void load_means(const struct tile *tile, const uint8_t *coded)
{
	float plain[KVC_DIM_MAX];

	for (uint32_t d = 0; d < tile->shape->dim; d += LANES)
		vf_store(plain + d, vf_widen(vh_load(coded + 2 * (size_t)d)));
	spread_means(tile, plain);
}

/* For every lane the place of its scale among the binary16 numbers of its chunk. */
static inline vi lane_scale_index(uint32_t group)
{
	uint32_t index[LANES];

	for (uint32_t w = 0; w < LANES; w++)
		index[lane_of(w)] = 2 * (w / (group / WORDS));
	return vi_load(index);
}

static inline void decode_run(const struct tile *tile, const uint8_t *coded, const struct kvc_rows *dest,
                              size_t first)
{
	vf v[WORDS];

	for (uint32_t i = 0; i < tile->layout.run; i += KVC_CHUNK) {
		dequantise(tile, coded, first + i, KVC_CHUNK, v);
		chunk_rotate(v, KVC_CHUNK);
		chunk_put(tile->run + i, v);
	}
	rotate_across_chunks(tile->run, tile->layout.run);
	for (uint32_t i = 0; i < tile->layout.run; i += KVC_CHUNK) {
		chunk_get(tile->run + i, v);
		finish_chunk(tile, first + i, v);
		write_chunk(tile, dest, first + i, KVC_CHUNK, v);
	}
}

static inline void decode_chunk(const struct tile *tile, const uint8_t *coded, const struct kvc_rows *dest,
                                size_t first, size_t count)
{
	vf v[WORDS];

	dequantise(tile, coded, first, count, v);
	if (tile->params->rotate)
		chunk_rotate(v, tile->layout.run);
	finish_chunk(tile, first, v);
	write_chunk(tile, dest, first, count, v);
}

/* Restored blocks are larger than the caches or about to be read by another device or processor: whole lines
 * are written past them where the rows allow it. */
static inline bool can_stream(const struct kvc_tile_shape *shape, const struct kvc_rows *dest)
{
	return shape->dim % KVC_CHUNK == 0 && ((uintptr_t)dest->base | (uintptr_t)dest->row_stride) % 64 == 0;
}

static inline void decode_chunks(const struct tile *tile, const uint8_t *coded, const struct kvc_rows *dest)
{
	size_t whole = tile->elements / KVC_CHUNK * KVC_CHUNK;

	if (tile->run_chunks > 1) {
		for (size_t i = 0; i < whole; i += tile->layout.run)
			decode_run(tile, coded, dest, i);
		return;
	}
	for (size_t i = 0; i < whole; i += KVC_CHUNK)
		decode_chunk(tile, coded, dest, i, KVC_CHUNK);
	if (whole < tile->elements)
		decode_chunk(tile, coded, dest, whole, tile->elements - whole);
}

static inline void decode_finite(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
                                 const uint8_t *coded, const struct kvc_rows *dest, void *scratch)
{
	struct tile tile;

	tile_init(&tile, params, shape, scratch);
	tile.rotate_scale = vf_set1(1.0f / (float)(1u << (tile.layout.run_log2 + 1) / 2));
	tile.scale_index = lane_scale_index(tile.layout.group);
	tile.stream = can_stream(shape, dest);
	if (tile.layout.centred)
		load_means(&tile, coded);
	decode_chunks(&tile, coded, dest);
	if (tile.stream)
		_mm_sfence(); /* before anyone is told that the rows are there */
}

/* Infinities and NaNs appear in damaged tiles only; the reference says what becomes of them. */
KVC_TILE_FUNCTION static void decode_tile(const struct kvc_codec_params *params,
                                          const struct kvc_tile_shape *shape, const uint8_t *coded,
                                          const struct kvc_rows *dest, void *scratch)
{
	struct kvc_tile_layout layout;

	kvc_tile_layout_init(&layout, params, shape);
	if (halves_finite(coded, (layout.codes - layout.scales + (layout.centred ? layout.scales : 0)) / 2))
		decode_finite(params, shape, coded, dest, scratch);
	else
		kvc_codec_scalar.decode(params, shape, coded, dest, scratch);
}

#endif
