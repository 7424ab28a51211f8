/* A tile as the SIMD codec sees it: what encoder and decoder share.
 *
 * A tile is a stream of tokens * dim elements, handled in chunks of 128 whatever the dimension: since dim is
 * a multiple of 16, runs and groups never straddle chunks, except runs of 256 and more, which are rotated
 * chunk by chunk and then across chunks.
 *
 * Scratch memory: the elements of the tile, in the source type, padded to whole batches; then the means in
 * codec order, repeated until chunks and rows meet again; then a batch or a run at work. */
#ifndef KVC_SIMD_TILE_H
#define KVC_SIMD_TILE_H

#include "kernels/simd_chunk.h"

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
	bool stream;          /* restored rows bypass the caches */
	vf rotate_scale;
	vi scale_index; /* where lanes find their scale, or groups their lane */
};

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
