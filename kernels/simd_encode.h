/* Encoding on vectors. Gives the bytes that codec_scalar.c defines; steps are numbered as in docs/codec.md.
 */
#ifndef KVC_SIMD_ENCODE_H
#define KVC_SIMD_ENCODE_H

#include "kernels/simd_codes.h"
#include "kernels/simd_source.h"

/* Codes that fill whole registers are written in place, others through a buffer. */
static inline void emit_codes(struct encoder *encoder, struct batch *batch, const float *x, size_t first,
                              size_t count)
{
	unsigned bits = encoder->quantiser.bits;
	uint8_t *codes = encoder->out + encoder->tile.layout.codes + first / 8 * bits;

	for (unsigned c = 0; c * KVC_CHUNK < count; c++) {
		size_t left = count - c * KVC_CHUNK;
		uint8_t buffer[LANES * sizeof(uint64_t)];

		if (left >= KVC_CHUNK && (bits == 2 || bits == 4 || bits == 8)) {
			quantise_chunk(&encoder->quantiser, batch, c, x, codes);
		} else {
			quantise_chunk(&encoder->quantiser, batch, c, x, buffer);
			memcpy(codes, buffer, (left < KVC_CHUNK ? left : KVC_CHUNK) / 8 * bits);
		}
		x += KVC_CHUNK;
		codes += LANES * (size_t)bits;
	}
}

/* --- one batch --- */

/* All bits of the lanes of group register i that speak of the first `count` elements of the batch. */
static inline vi lanes_taken(const struct quantiser *quantiser, unsigned i, size_t count)
{
	uint32_t taken[LANES];

	for (uint32_t lane = 0; lane < LANES; lane++) {
		size_t element = quantiser->group == 16 ? i * KVC_CHUNK + lane_of(lane) * WORDS : lane * 32;

		taken[lane] = element < count ? ~UINT32_C(0) : 0;
	}
	return vi_load(taken);
}

static inline void note_overflow(struct encoder *encoder, const struct batch *batch, size_t count)
{
	for (unsigned i = 0; i < encoder->quantiser.group_registers; i++) {
		vi overflow = scales_overflow(batch->scales[i].pairs);

		if (count < KVC_BATCH)
			overflow = vi_and(overflow, lanes_taken(&encoder->quantiser, i, count));
		encoder->overflow = vi_or(encoder->overflow, overflow);
	}
}

static inline void emit_scales(struct encoder *encoder, const struct batch *batch, size_t first, size_t count)
{
	uint32_t group = encoder->quantiser.group;
	size_t per_register = KVC_BATCH / group / encoder->quantiser.group_registers;
	size_t left = count / group;
	uint8_t *to = encoder->out + encoder->tile.layout.scales + first / group * 4;

	for (unsigned i = 0; i < encoder->quantiser.group_registers && left > 0; i++) {
		size_t here = left < per_register ? left : per_register;

		vi_store_lanes(to, (unsigned)here, encoder->tile.scale_index, batch->scales[i].pairs);
		to += here * 4;
		left -= here;
	}
}

/* Steps 5 and 6. The sources of scales that overflow are the first ones and the corrected ones. */
static inline void emit_batch(struct encoder *encoder, struct batch *batch, const float *x, size_t first)
{
	size_t left = encoder->tile.elements - first;
	size_t count = left < KVC_BATCH ? left : KVC_BATCH;

	batch_scales(&encoder->quantiser, batch);
	note_overflow(encoder, batch, count);
	emit_codes(encoder, batch, x, first, count);
	if (encoder->quantiser.gain) {
		batch_gain(&encoder->quantiser, batch);
		note_overflow(encoder, batch, count);
	}
	emit_scales(encoder, batch, first, count);
}

/* --- one tile --- */

static inline struct quantiser quantiser_of(const struct kvc_codec_params *params, uint32_t group)
{
	float levels = (float)((1u << params->bits) - 1);

	return (struct quantiser){
	        .clip = kvc_clip_ratio(params, group),
	        .levels = levels,
	        .inverse_levels = 1.0f / levels,
	        .inverse_group = 1.0f / (float)group,
	        .group = group,
	        .bits = params->bits,
	        .gain = params->gain && params->bits <= 4,
	        .group_registers = group == 16 ? BATCH : 1,
	};
}

/* For each group of a group register a lane that holds its scale. */
static inline vi group_lane_index(uint32_t group)
{
	uint32_t index[LANES];

	for (uint32_t i = 0; i < LANES; i++)
		index[i] = (group == 16 ? lane_of(2 * i % LANES) : i * (group / 32)) % LANES;
	return vi_load(index);
}

static inline void clear_padding(const struct encoder *encoder)
{
	const struct kvc_tile_layout *layout = &encoder->tile.layout;
	size_t scales_end = layout->scales + encoder->tile.elements / layout->group * 4;
	size_t codes_end = layout->codes + encoder->tile.elements / 8 * encoder->quantiser.bits;

	memset(encoder->out + scales_end, 0, layout->codes - scales_end);
	memset(encoder->out + codes_end, 0, layout->bytes - codes_end);
}

static inline void encode_batches(struct encoder *encoder)
{
	struct tile *tile = &encoder->tile;
	struct batch batch;
	uint32_t span;

	if (tile->run_chunks == 1) {
		for (size_t i = 0; i < tile->elements; i += KVC_BATCH) {
			prepare_batch(tile, &batch, i);
			emit_batch(encoder, &batch, tile->run, i);
		}
		return;
	}
	span = tile->layout.run > KVC_BATCH ? tile->layout.run : KVC_BATCH;
	for (size_t i = 0; i < tile->elements; i += span) {
		rotate_runs(tile, i, span);
		for (uint32_t j = 0; j < span; j += KVC_BATCH) {
			prepare_batch_of_runs(tile, &batch, tile->run + j);
			emit_batch(encoder, &batch, tile->run + j, i + j);
		}
	}
}

KVC_TILE_FUNCTION static bool encode_tile(const struct kvc_codec_params *params,
                                          const struct kvc_tile_shape *shape, const struct kvc_rows *source,
                                          uint8_t *out, void *scratch)
{
	struct encoder encoder = {.out = out, .overflow = vi_zero()};
	struct tile *tile = &encoder.tile;

	tile_init(tile, params, shape, scratch);
	tile->rotate_scale = vf_set1(1.0f / (float)(1u << tile->layout.run_log2 / 2));
	tile->scale_index = group_lane_index(tile->layout.group);
	encoder.quantiser = quantiser_of(params, tile->layout.group);
	if (!gather(tile, source))
		return false;
	if (tile->layout.centred && !make_means_of_dtype(tile, out))
		return false;
	encode_batches(&encoder);
	clear_padding(&encoder);
	return !vi_any(encoder.overflow);
}

#endif
