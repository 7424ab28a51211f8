/* Encoding on vectors. Gives the bytes that codec_scalar.c defines; steps are numbered as in docs/codec.md.
 */
#ifndef KVC_SIMD_ENCODE_H
#define KVC_SIMD_ENCODE_H

#include "kernels/simd_chunk.h"

/* --- pass 1: read the source once --- */

/* Copy rows to scratch; false if an element is NaN, infinite, or of magnitude 2^20 and above. Twice the bits
 * of a number, which drops the sign, are compared as integers. */
static inline bool gather_16bit(struct tile *tile, const struct kvc_rows *source, uint16_t limit)
{
	size_t row_bytes = tile->shape->dim * sizeof(uint16_t);
	__m256i most = _mm256_setzero_si256();
	__m256i bound = _mm256_set1_epi16((short)limit);
	uint8_t *to = tile->source;

	for (uint32_t t = 0; t < tile->shape->tokens; t++) {
		const uint8_t *row = kvc_row_const(source, t);

		for (size_t i = 0; i < row_bytes; i += sizeof(__m256i), to += sizeof(__m256i)) {
			__m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(row + i));

			_mm256_storeu_si256((__m256i *)(void *)to, x);
			most = _mm256_max_epu16(most, _mm256_add_epi16(x, x));
		}
	}
	most = _mm256_cmpeq_epi16(_mm256_max_epu16(most, bound), most);
	return _mm256_testz_si256(most, most);
}

static inline bool gather_32bit(struct tile *tile, const struct kvc_rows *source, uint32_t limit)
{
	size_t row_bytes = tile->shape->dim * sizeof(uint32_t);
	__m256i most = _mm256_setzero_si256();
	__m256i bound = _mm256_set1_epi32((int)limit);
	uint8_t *to = tile->source;

	for (uint32_t t = 0; t < tile->shape->tokens; t++) {
		const uint8_t *row = kvc_row_const(source, t);

		for (size_t i = 0; i < row_bytes; i += sizeof(__m256i), to += sizeof(__m256i)) {
			__m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(row + i));

			_mm256_storeu_si256((__m256i *)(void *)to, x);
			most = _mm256_max_epu32(most, _mm256_add_epi32(x, x));
		}
	}
	most = _mm256_cmpeq_epi32(_mm256_max_epu32(most, bound), most);
	return _mm256_testz_si256(most, most);
}

static inline bool gather(struct tile *tile, const struct kvc_rows *source)
{
	size_t length = tile->elements * tile->element_bytes;
	size_t padded = kvc_round_up_to(tile->elements, KVC_BATCH) * tile->element_bytes;

	memset(tile->source + length, 0, padded - length);
	switch (tile->shape->dtype) {
	case KVC_DTYPE_BF16:
		return gather_16bit(tile, source, (KVC_MAGNITUDE_LIMIT_BITS >> 16) * 2);
	case KVC_DTYPE_FP16: /* all that is finite is below 2^20 */
		return gather_16bit(tile, source, KVC_F16_EXPONENT * 2);
	default:
		return gather_32bit(tile, source, KVC_MAGNITUDE_LIMIT_BITS * 2);
	}
}

/* Sums of sixteen channels, in the order that step 3 prescribes. */
static inline vf channel_sums(const struct tile *tile, enum kvc_dtype dtype, const uint8_t *column)
{
	size_t stride = tile->shape->dim * tile->element_bytes;
	uint32_t tokens = tile->shape->tokens;
	vf p[8];

	for (unsigned j = 0; j < 8; j++)
		p[j] = vf_set1(0.0f);
	for (uint32_t t = 0; t + 8 <= tokens; t += 8, column += 8 * stride) {
		for (unsigned j = 0; j < 8; j++)
			p[j] = vf_add(p[j], load16(dtype, column + j * stride));
	}
	for (unsigned j = 0; j < 8; j++) {
		if (j < tokens % 8)
			p[j] = vf_add(p[j], load16(dtype, column + j * stride));
	}
	return vf_add(vf_add(vf_add(p[0], p[4]), vf_add(p[2], p[6])),
	              vf_add(vf_add(p[1], p[5]), vf_add(p[3], p[7])));
}

/* Step 3, but for the subtraction; false if a mean overflows binary16. */
static inline bool make_means(const struct tile *tile, enum kvc_dtype dtype, uint8_t *out)
{
	float plain[KVC_DIM_MAX];
	vf factor = vf_set1(1.0f / (float)tile->shape->tokens);

	for (uint32_t d = 0; d < tile->shape->dim; d += LANES) {
		vf sums = channel_sums(tile, dtype, tile->source + d * tile->element_bytes);
		vh means = vh_round(vf_mul(sums, factor));

		vh_store(out + 2 * (size_t)d, means);
		vf_store(plain + d, vf_widen(means));
	}
	spread_means(tile, plain);
	return halves_finite(out, tile->shape->dim);
}

static inline bool make_means_of_dtype(const struct tile *tile, uint8_t *out)
{
	switch (tile->shape->dtype) {
	case KVC_DTYPE_BF16:
		return make_means(tile, KVC_DTYPE_BF16, out);
	case KVC_DTYPE_FP16:
		return make_means(tile, KVC_DTYPE_FP16, out);
	default:
		return make_means(tile, KVC_DTYPE_FP32, out);
	}
}

/* --- batches ---
 *
 * Four chunks make a batch, so that what is computed once a group fills the lanes. After reduction a "group
 * register" holds, for groups of 32 and more, chunk c of the batch in its 128-bit part c; groups of 16 keep
 * one register a chunk. */

#define BATCH (KVC_BATCH / KVC_CHUNK)

/* Encoder settings, the same for all batches of a tile. */
struct quantiser {
	float clip;
	float levels;         /* L */
	float inverse_levels; /* 1 / L */
	float inverse_group;  /* 1 / g */
	uint32_t group;
	unsigned bits;
	bool gain;
	unsigned group_registers; /* of a batch */
};

/* Scale and offset, rounded. */
struct scales {
	vi pairs; /* S, and M above it */
	vf s;
	vf m;
};

/* Sums of q, Z', q Z' and Z' Z', where Z' = Z - 128 L. |Z'| <= 384 L <= 5760, so the sum of 128 squares is
 * below 2^32; and vzz and num are the same for Z' as for Z. */
struct gain_sums {
	vf q[BATCH], z[BATCH], qz[BATCH], zz[BATCH]; /* integers in the guise of floats, for shuffling */
};

struct batch {
	vf least[BATCH];
	vf most[BATCH];
	struct scales scales[BATCH];
	float m[BATCH * LANES];       /* of the group registers: offset */
	float inverse[BATCH * LANES]; /* and 1 / scale, or 0 */
	struct gain_sums sums;
};

struct encoder {
	struct tile tile;
	struct quantiser quantiser;
	uint8_t *out;
	vi overflow; /* lanes that met a scale beyond binary16 */
};

enum reduction { LEAST, MOST, SUM };

KVC_INLINE vf reduce_pair(enum reduction reduction, vf a, vf b)
{
	if (reduction == LEAST)
		return vf_min(a, b);
	if (reduction == MOST)
		return vf_max(a, b);
	return vf_from_bits(vi_add(vi_from_bits(a), vi_from_bits(b)));
}

/* From partial results, x[c] those of chunk c, to group registers. */
KVC_INLINE void reduce_groups(enum reduction reduction, vf x[BATCH], uint32_t group)
{
	vf first, second, all;

	if (group == 16) {
		for (unsigned c = 0; c < BATCH; c++)
			x[c] = reduce_pair(reduction, x[c], vf_partner8(x[c]));
		return;
	}
	first = reduce_pair(reduction, vf_even_parts(x[0], x[1]), vf_odd_parts(x[0], x[1]));
	second = reduce_pair(reduction, vf_even_parts(x[2], x[3]), vf_odd_parts(x[2], x[3]));
	all = reduce_pair(reduction, vf_even_parts(first, second), vf_odd_parts(first, second));
	if (group > 32)
		all = reduce_pair(reduction, all, vf_partner32(all));
	if (group > 64)
		all = reduce_pair(reduction, all, vf_partner64(all));
	x[0] = all;
}

/* What of the group registers in memory concerns the lanes of chunk c. */
KVC_INLINE vf chunk_lanes(const struct quantiser *quantiser, const float *registers, unsigned c)
{
	if (quantiser->group == 16)
		return vf_load(registers + LANES * (size_t)c);
	return vf_load_part(registers + 4 * (size_t)c);
}

/* --- pass 2, per batch: rotate, find ranges --- */

KVC_INLINE void load_centred(const struct tile *tile, size_t first, vf v[WORDS])
{
	const float *means = tile->means + first / KVC_CHUNK % tile->mean_chunks * KVC_CHUNK;

	chunk_load(tile->shape->dtype, tile->source + first * tile->element_bytes, v);
	if (!tile->layout.centred)
		return;
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_sub(v[k], vf_load(means + LANES * (size_t)k));
}

/* The end of step 4, and the extent of each lane; the chunk is left in `to`. */
KVC_INLINE void settle_chunk(const struct tile *tile, struct batch *batch, unsigned c, vf v[WORDS], float *to)
{
	vf least, most;

	if (tile->params->rotate) {
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_mul(v[k], tile->rotate_scale);
	}
	least = most = v[0];
	for (unsigned k = 1; k < WORDS; k++) {
		least = vf_min(least, v[k]);
		most = vf_max(most, v[k]);
	}
	batch->least[c] = least;
	batch->most[c] = most;
	chunk_put(to, v);
}

static inline void prepare_batch(const struct tile *tile, struct batch *batch, size_t first)
{
	for (unsigned c = 0; c < BATCH; c++) {
		vf v[WORDS];

		load_centred(tile, first + c * KVC_CHUNK, v);
		if (tile->params->rotate)
			chunk_rotate(v, tile->layout.run);
		settle_chunk(tile, batch, c, v, tile->run + c * KVC_CHUNK);
	}
}

/* The same for runs of more than a chunk, which are in scratch memory already. */
static inline void prepare_batch_of_runs(const struct tile *tile, struct batch *batch, float *x)
{
	for (unsigned c = 0; c < BATCH; c++) {
		vf v[WORDS];

		chunk_get(x + c * KVC_CHUNK, v);
		settle_chunk(tile, batch, c, v, x + c * KVC_CHUNK);
	}
}

static inline void rotate_runs(const struct tile *tile, size_t first, uint32_t length)
{
	for (uint32_t i = 0; i < length; i += KVC_CHUNK) {
		vf v[WORDS];

		load_centred(tile, first + i, v);
		chunk_rotate(v, KVC_CHUNK);
		chunk_put(tile->run + i, v);
	}
	for (uint32_t i = 0; i < length; i += tile->layout.run)
		rotate_across_chunks(tile->run + i, tile->layout.run);
}

/* --- scales --- */

KVC_INLINE struct scales scales_round(vf scale, vf offset)
{
	vh s = vh_round(scale);
	vh m = vh_round(vf_add(offset, vf_set1(0.0f)));

	return (struct scales){
	        .pairs = vi_or(vi_widen(s), vi_shl(vi_widen(m), 16)), .s = vf_widen(s), .m = vf_widen(m)};
}

/* Lanes with an S or M that is not finite, as bits. */
KVC_INLINE vi scales_overflow(vi pairs)
{
	vi exponents = vi_and(pairs, vi_set1(0x7C007C00));

	return vi_and(vi_add(exponents, vi_set1(0x04000400)), vi_set1((int)0x80008000));
}

/* Step 5, the range, of one group register. */
KVC_INLINE struct scales range_scales(const struct quantiser *quantiser, vf least, vf most)
{
	vf half = vf_set1(0.5f);
	vf inverse = vf_set1(quantiser->inverse_levels);
	vf middle, reach;

	least = vf_add(least, vf_set1(0.0f));
	most = vf_add(most, vf_set1(0.0f));
	if (!(quantiser->clip < 1.0f))
		return scales_round(vf_mul(vf_sub(most, least), inverse), least);
	middle = vf_mul(vf_add(least, most), half);
	reach = vf_mul(vf_mul(vf_sub(most, least), half), vf_set1(quantiser->clip));
	return scales_round(vf_mul(vf_add(reach, reach), inverse), vf_sub(middle, reach));
}

static inline void batch_scales(const struct quantiser *quantiser, struct batch *batch)
{
	reduce_groups(LEAST, batch->least, quantiser->group);
	reduce_groups(MOST, batch->most, quantiser->group);
	for (unsigned i = 0; i < quantiser->group_registers; i++) {
		struct scales scales = range_scales(quantiser, batch->least[i], batch->most[i]);
		vf inverse = vf_div(vf_set1(1.0f), scales.s);

		/* Groups without extent get codes of 0. */
		inverse = vf_where(vm_less(vf_set1(0.0f), scales.s), inverse);
		vf_store(batch->m + LANES * (size_t)i, scales.m);
		vf_store(batch->inverse + LANES * (size_t)i, inverse);
		batch->scales[i] = scales;
	}
}

/* Step 5, the gain, of one group register. */
KVC_INLINE vi gain_pairs(const struct quantiser *quantiser, const struct scales *scales,
                         const struct gain_sums *sums, unsigned i)
{
	vi sum_q = vi_from_bits(sums->q[i]);
	vi sum_z = vi_from_bits(sums->z[i]);
	vi centre = vi_set1((int)(128 * quantiser->levels) * (int)quantiser->group);
	vf per_256 = vf_set1(1.0f / 256.0f);
	vf vzz = vf_determinant_unsigned(quantiser->group, vi_from_bits(sums->zz[i]), sum_z, sum_z);
	vf num = vf_determinant(quantiser->group, vi_from_bits(sums->qz[i]), sum_q, sum_z);
	vf a = vf_mul(vf_div(vzz, num), per_256);
	vf mean_z = vf_mul(vf_from_int(vi_add(sum_z, centre)), per_256);
	vf d = vf_mul(vf_sub(mean_z, vf_mul(a, vf_from_int(sum_q))), vf_set1(quantiser->inverse_group));
	struct scales better = scales_round(vf_mul(scales->s, a), vf_add(scales->m, vf_mul(scales->s, d)));
	vm sane = vm_and(vm_less_equal(vf_set1(0.5f), a), vm_less_equal(a, vf_set1(2.0f)));

	return vi_select(vm_and(sane, vm_less(vf_set1(0.0f), num)), better.pairs, scales->pairs);
}

static inline void batch_gain(const struct quantiser *quantiser, struct batch *batch)
{
	struct gain_sums *sums = &batch->sums;

	reduce_groups(SUM, sums->q, quantiser->group);
	reduce_groups(SUM, sums->z, quantiser->group);
	reduce_groups(SUM, sums->qz, quantiser->group);
	reduce_groups(SUM, sums->zz, quantiser->group);
	for (unsigned i = 0; i < quantiser->group_registers; i++)
		batch->scales[i].pairs = gain_pairs(quantiser, &batch->scales[i], sums, i);
}

/* --- codes --- */

/* Codes k and k + 4 as pairs of 16 bits, bits <= 4 -> words of eight codes. */
KVC_INLINE vi pack_pairs(const vi q[4], unsigned bits)
{
	vi x = vi_or(vi_or(q[0], vi_shl(q[1], bits)), vi_or(vi_shl(q[2], 2 * bits), vi_shl(q[3], 3 * bits)));

	if (bits == 4)
		return x;
	return vi_or(vi_and(x, vi_set1(0xFFFF)), vi_shl(vi_shr(x, 16), 4 * bits));
}

/* Words of four codes each -> the bit string. Writes 8 - bits bytes beyond its end. */
KVC_INLINE void pack_any(vi low, vi high, unsigned bits, uint8_t *out)
{
	uint32_t first[LANES], second[LANES];

	vi_store(first, low);
	vi_store(second, high);
	for (unsigned w = 0; w < LANES; w++) {
		uint64_t window = first[lane_of(w)] | (uint64_t)second[lane_of(w)] << 4 * bits;

		memcpy(out + (size_t)bits * w, &window, sizeof window);
	}
}

/* `out` has room for 8 bytes a lane. */
KVC_INLINE void pack_narrow(const vi q[4], unsigned bits, uint8_t *out)
{
	if (bits == 4) {
		vi_store(out, vi_reorder(pack_pairs(q, 4)));
	} else if (bits == 2) {
		vi_store_u16(out, vi_reorder(pack_pairs(q, 2)));
	} else {
		vi words = pack_pairs(q, bits);

		pack_any(words, vi_shr(words, 4 * bits), bits, out);
	}
}

/* --- pass 3, per chunk of a batch: codes and their sums --- */

/* The position z in levels, within [-L, 2L]. */
KVC_INLINE vf position(const struct quantiser *quantiser, const float *x, vf m, vf inverse)
{
	float levels = quantiser->levels;
	vf z = vf_mul(vf_sub(vf_load(x), m), inverse);

	return vf_min(vf_max(z, vf_set1(-levels)), vf_set1(2.0f * levels));
}

/* Bits <= 4. Limiting a rounded number is rounding a limited one, since the limits are whole. */
KVC_INLINE void quantise_narrow(const struct quantiser *quantiser, unsigned bits, struct batch *batch,
                                unsigned c, const float *x, uint8_t *codes)
{
	vf m = chunk_lanes(quantiser, batch->m, c);
	vf inverse = chunk_lanes(quantiser, batch->inverse, c);
	vf steps = vf_set1(256.0f);
	vi ones = vi_set1(0x00010001);
	vi levels = vi_set1((int)quantiser->levels * 0x00010001);
	vi centre = vi_set1((int)(128 * quantiser->levels) * 0x00010001);
	vi sum_q = vi_zero(), sum_z = vi_zero(), sum_qz = vi_zero(), sum_zz = vi_zero();
	vi q[4];

	for (unsigned k = 0; k < 4; k++) {
		vf a = position(quantiser, x + LANES * (size_t)k, m, inverse);
		vf b = position(quantiser, x + LANES * (size_t)(k + 4), m, inverse);
		vi fine = vi_pair(vi_round(vf_mul(a, steps)), vi_round(vf_mul(b, steps)));

		q[k] = vi_pair(vi_round(a), vi_round(b));
		q[k] = vi_min16(vi_max16(q[k], vi_zero()), levels);
		fine = vi_sub16(fine, centre);
		sum_q = vi_dot(sum_q, q[k], ones);
		sum_z = vi_dot(sum_z, fine, ones);
		sum_qz = vi_dot(sum_qz, q[k], fine);
		sum_zz = vi_dot(sum_zz, fine, fine);
	}
	batch->sums.q[c] = vf_from_bits(sum_q);
	batch->sums.z[c] = vf_from_bits(sum_z);
	batch->sums.qz[c] = vf_from_bits(sum_qz);
	batch->sums.zz[c] = vf_from_bits(sum_zz);
	pack_narrow(q, bits, codes);
}

KVC_INLINE vi code_of(const struct quantiser *quantiser, const float *x, vf m, vf inverse)
{
	vf z = position(quantiser, x, m, inverse);

	return vi_round(vf_min(vf_max(z, vf_set1(0.0f)), vf_set1(quantiser->levels)));
}

/* Bits > 4, no gain. */
static inline void quantise_wide(const struct quantiser *quantiser, const struct batch *batch, unsigned c,
                                 const float *x, uint8_t *codes)
{
	unsigned bits = quantiser->bits;
	vf m = chunk_lanes(quantiser, batch->m, c);
	vf inverse = chunk_lanes(quantiser, batch->inverse, c);
	vi low = vi_zero();
	vi high = vi_zero();

	for (unsigned k = 0; k < 4; k++) {
		low = vi_or(low, vi_shl(code_of(quantiser, x + LANES * (size_t)k, m, inverse), bits * k));
		high = vi_or(high,
		             vi_shl(code_of(quantiser, x + LANES * (size_t)(k + 4), m, inverse), bits * k));
	}
	pack_any(low, high, bits, codes);
}

/* `codes` has room for 8 bytes a lane. */
static inline void quantise_chunk(const struct quantiser *quantiser, struct batch *batch, unsigned c,
                                  const float *x, uint8_t *codes)
{
	if (quantiser->bits == 4)
		quantise_narrow(quantiser, 4, batch, c, x, codes);
	else if (quantiser->bits == 2)
		quantise_narrow(quantiser, 2, batch, c, x, codes);
	else if (quantiser->bits == 3)
		quantise_narrow(quantiser, 3, batch, c, x, codes);
	else
		quantise_wide(quantiser, batch, c, x, codes);
}

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
