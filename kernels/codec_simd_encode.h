/* Encoding on vectors: the third part of codec_simd.h. */
#ifndef KVC_CODEC_SIMD_ENCODE_H
#define KVC_CODEC_SIMD_ENCODE_H

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
	size_t padded = kvc_round_up_to(tile->elements, KVC_CHUNK) * tile->element_bytes;

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

/* --- groups; every lane holds what its group has in common --- */

static inline vf group_min(vf x, uint32_t group)
{
	x = vf_min(x, vf_partner8(x));
	if (group > 16)
		x = vf_min(x, vf_partner16(x));
	if (group > 32)
		x = vf_min(x, vf_partner32(x));
	return group > 64 ? vf_min(x, vf_partner64(x)) : x;
}

static inline vf group_max(vf x, uint32_t group)
{
	x = vf_max(x, vf_partner8(x));
	if (group > 16)
		x = vf_max(x, vf_partner16(x));
	if (group > 32)
		x = vf_max(x, vf_partner32(x));
	return group > 64 ? vf_max(x, vf_partner64(x)) : x;
}

static inline vi add_partner(vi x, vf partner)
{
	return vi_add(x, vi_from_bits(partner));
}

static inline vi group_sum(vi x, uint32_t group)
{
	x = add_partner(x, vf_partner8(vf_from_bits(x)));
	if (group > 16)
		x = add_partner(x, vf_partner16(vf_from_bits(x)));
	if (group > 32)
		x = add_partner(x, vf_partner32(vf_from_bits(x)));
	return group > 64 ? add_partner(x, vf_partner64(vf_from_bits(x))) : x;
}

/* Encoder settings as vectors would be reloaded anyway: as numbers. */
struct quantiser {
	float clip;
	float levels;         /* L */
	float inverse_levels; /* 1 / L */
	float inverse_group;  /* 1 / g */
	uint32_t group;
	unsigned bits;
	bool gain;
};

/* Scale and offset of the groups of a chunk. */
struct scales {
	vi pairs; /* S, and M above it */
	vf s;
	vf m;
};

static inline struct scales scales_round(vf scale, vf offset)
{
	vh s = vh_round(scale);
	vh m = vh_round(vf_add(offset, vf_set1(0.0f)));

	return (struct scales){
	        .pairs = vi_or(vi_widen(s), vi_shl(vi_widen(m), 16)), .s = vf_widen(s), .m = vf_widen(m)};
}

/* Lanes with an S or M that is not finite, as bits. */
static inline vi scales_overflow(vi pairs)
{
	vi exponents = vi_and(pairs, vi_set1(0x7C007C00));

	return vi_and(vi_add(exponents, vi_set1(0x04000400)), vi_set1((int)0x80008000));
}

/* Step 5, the range. */
static inline struct scales group_scales(const struct quantiser *quantiser, const vf x[WORDS])
{
	vf least = x[0];
	vf most = x[0];
	vf half = vf_set1(0.5f);
	vf inverse = vf_set1(quantiser->inverse_levels);
	vf middle, reach;

	for (unsigned k = 1; k < WORDS; k++) {
		least = vf_min(least, x[k]);
		most = vf_max(most, x[k]);
	}
	least = vf_add(group_min(least, quantiser->group), vf_set1(0.0f));
	most = vf_add(group_max(most, quantiser->group), vf_set1(0.0f));
	if (!(quantiser->clip < 1.0f))
		return scales_round(vf_mul(vf_sub(most, least), inverse), least);
	middle = vf_mul(vf_add(least, most), half);
	reach = vf_mul(vf_mul(vf_sub(most, least), half), vf_set1(quantiser->clip));
	return scales_round(vf_mul(vf_add(reach, reach), inverse), vf_sub(middle, reach));
}

/* x -> z, the position in levels. Groups without extent get 0. */
static inline void positions(const struct scales *scales, vf x[WORDS])
{
	vf zero = vf_set1(0.0f);
	vf inverse = vf_where(vm_less(zero, scales->s), vf_div(vf_set1(1.0f), scales->s));

	for (unsigned k = 0; k < WORDS; k++)
		x[k] = vf_mul(vf_sub(x[k], scales->m), inverse);
}

static inline vi code_of(const struct quantiser *quantiser, vf z)
{
	return vi_round(vf_min(vf_max(z, vf_set1(0.0f)), vf_set1(quantiser->levels)));
}

/* Z, the position in 1/256 levels. */
static inline vi fine_of(const struct quantiser *quantiser, vf z)
{
	float levels = quantiser->levels;
	vf within = vf_min(vf_max(z, vf_set1(-levels)), vf_set1(2.0f * levels));

	return vi_round(vf_mul(within, vf_set1(256.0f)));
}

/* Sums over a group of q, Z', q Z' and Z' Z', where Z' = Z - 128 L. |Z'| <= 384 L <= 5760, so the sum of 128
 * squares is below 2^32; and vzz and num are the same for Z' as for Z. */
struct gain_sums {
	vi q, z, qz, zz;
};

static inline struct gain_sums gain_sums(const struct quantiser *quantiser, const vf z[WORDS], const vi q[4])
{
	vi ones = vi_set1(0x00010001);
	vi centre = vi_set1((int)(128 * quantiser->levels) * 0x00010001);
	struct gain_sums sums = {vi_zero(), vi_zero(), vi_zero(), vi_zero()};

	for (unsigned k = 0; k < 4; k++) {
		vi fine = vi_pair(fine_of(quantiser, z[k]), fine_of(quantiser, z[k + 4]));

		fine = vi_sub16(fine, centre);
		sums.q = vi_dot(sums.q, q[k], ones);
		sums.z = vi_dot(sums.z, fine, ones);
		sums.qz = vi_dot(sums.qz, q[k], fine);
		sums.zz = vi_dot(sums.zz, fine, fine);
	}
	sums.q = group_sum(sums.q, quantiser->group);
	sums.z = group_sum(sums.z, quantiser->group);
	sums.qz = group_sum(sums.qz, quantiser->group);
	sums.zz = group_sum(sums.zz, quantiser->group);
	return sums;
}

/* Step 5, the gain; q has codes k and k + 4 as pairs. */
static inline vi gain_pairs(const struct quantiser *quantiser, const struct scales *scales, const vf z[WORDS],
                            const vi q[4])
{
	struct gain_sums sums = gain_sums(quantiser, z, q);
	vf per_256 = vf_set1(1.0f / 256.0f);
	vf vzz = vf_determinant_unsigned(quantiser->group, sums.zz, sums.z, sums.z);
	vf num = vf_determinant(quantiser->group, sums.qz, sums.q, sums.z);
	vf a = vf_mul(vf_div(vzz, num), per_256);
	vi shift = vi_set1((int)(128 * quantiser->levels) * (int)quantiser->group);
	vf sz = vf_from_int(vi_add(sums.z, shift));
	vf d = vf_mul(vf_sub(vf_mul(sz, per_256), vf_mul(a, vf_from_int(sums.q))),
	              vf_set1(quantiser->inverse_group));
	struct scales better = scales_round(vf_mul(scales->s, a), vf_add(scales->m, vf_mul(scales->s, d)));
	vm sane = vm_and(vm_less_equal(vf_set1(0.5f), a), vm_less_equal(a, vf_set1(2.0f)));

	return vi_select(vm_and(sane, vm_less(vf_set1(0.0f), num)), better.pairs, scales->pairs);
}

/* --- codes --- */

/* Codes k and k + 4 as pairs of 16 bits, bits <= 4 -> words of eight codes. */
static inline vi pack_pairs(const vi q[4], unsigned bits)
{
	vi x = vi_or(vi_or(q[0], vi_shl(q[1], bits)), vi_or(vi_shl(q[2], 2 * bits), vi_shl(q[3], 3 * bits)));

	if (bits == 4)
		return x;
	return vi_or(vi_and(x, vi_set1(0xFFFF)), vi_shl(vi_shr(x, 16), 4 * bits));
}

/* Words of four codes each -> the bit string. Writes 8 - bits bytes beyond its end. */
static inline void pack_any(vi low, vi high, unsigned bits, uint8_t *out)
{
	uint32_t first[LANES], second[LANES];

	vi_store(first, low);
	vi_store(second, high);
	for (unsigned w = 0; w < LANES; w++) {
		uint64_t window = first[lane_of(w)] | (uint64_t)second[lane_of(w)] << 4 * bits;

		memcpy(out + (size_t)bits * w, &window, sizeof window);
	}
}

/* Bits > 4. */
static inline void pack_wide(const struct quantiser *quantiser, const vf z[WORDS], uint8_t *out)
{
	unsigned bits = quantiser->bits;
	vi low = vi_zero();
	vi high = vi_zero();

	for (unsigned k = 0; k < 4; k++) {
		low = vi_or(low, vi_shl(code_of(quantiser, z[k]), bits * k));
		high = vi_or(high, vi_shl(code_of(quantiser, z[k + 4]), bits * k));
	}
	pack_any(low, high, bits, out);
}

/* `out` has room for 8 bytes a lane. */
static inline void pack_narrow(unsigned bits, const vi q[4], uint8_t *out)
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

/* --- one chunk --- */

struct encoder {
	struct tile tile;
	struct quantiser quantiser;
	uint8_t *out;
	vi overflow; /* lanes that met a scale beyond binary16 */
};

/* All bits of the lanes that `count` elements take. */
static inline vi lanes_taken(size_t count)
{
	uint32_t taken[LANES];

	for (uint32_t w = 0; w < LANES; w++)
		taken[lane_of(w)] = w < count / WORDS ? ~UINT32_C(0) : 0;
	return vi_load(taken);
}

static inline void load_centred(const struct tile *tile, size_t first, vf v[WORDS])
{
	const float *means = tile->means + first / KVC_CHUNK % tile->mean_chunks * KVC_CHUNK;

	chunk_load(tile->shape->dtype, tile->source + first * tile->element_bytes, v);
	if (!tile->layout.centred)
		return;
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_sub(v[k], vf_load(means + LANES * (size_t)k));
}

/* Steps 5 and 6 of `count` elements; codes go to `codes`, with room for 8 bytes a lane. */
static inline void quantise(struct encoder *encoder, size_t first, size_t count, vf v[WORDS], uint8_t *codes)
{
	const struct quantiser *quantiser = &encoder->quantiser;
	struct scales scales = group_scales(quantiser, v);
	vi overflow = scales_overflow(scales.pairs);
	uint8_t *to = encoder->out + encoder->tile.layout.scales + first / quantiser->group * 4;

	positions(&scales, v);
	if (quantiser->bits <= 4) {
		vi q[4];

		for (unsigned k = 0; k < 4; k++)
			q[k] = vi_pair(code_of(quantiser, v[k]), code_of(quantiser, v[k + 4]));
		pack_narrow(quantiser->bits, q, codes);
		if (quantiser->gain) {
			scales.pairs = gain_pairs(quantiser, &scales, v, q);
			overflow = vi_or(overflow, scales_overflow(scales.pairs));
		}
	} else {
		pack_wide(quantiser, v, codes);
	}
	if (count < KVC_CHUNK)
		overflow = vi_and(overflow, lanes_taken(count));
	encoder->overflow = vi_or(encoder->overflow, overflow);
	vi_store_scales(to, (unsigned)(count / quantiser->group), encoder->tile.scale_index, scales.pairs);
}

/* The chunk at `first`, through a buffer unless its codes can be written in place. */
static inline void emit_chunk(struct encoder *encoder, size_t first, size_t count, vf v[WORDS])
{
	unsigned bits = encoder->quantiser.bits;
	uint8_t *codes = encoder->out + encoder->tile.layout.codes + first / 8 * bits;
	uint8_t buffer[LANES * sizeof(uint64_t)];

	if (encoder->tile.params->rotate) {
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_mul(v[k], encoder->tile.rotate_scale);
	}
	if (count == KVC_CHUNK && (bits == 2 || bits == 4 || bits == 8)) {
		quantise(encoder, first, count, v, codes);
		return;
	}
	quantise(encoder, first, count, v, buffer);
	memcpy(codes, buffer, count / 8 * bits);
}

static inline void encode_chunk(struct encoder *encoder, size_t first, size_t count)
{
	vf v[WORDS];

	load_centred(&encoder->tile, first, v);
	if (encoder->tile.params->rotate)
		chunk_rotate(v, encoder->tile.layout.run);
	emit_chunk(encoder, first, count, v);
}

static inline void encode_run(struct encoder *encoder, size_t first)
{
	struct tile *tile = &encoder->tile;
	vf v[WORDS];

	for (uint32_t i = 0; i < tile->layout.run; i += KVC_CHUNK) {
		load_centred(tile, first + i, v);
		chunk_rotate(v, KVC_CHUNK);
		chunk_put(tile->run + i, v);
	}
	rotate_across_chunks(tile->run, tile->layout.run);
	for (uint32_t i = 0; i < tile->layout.run; i += KVC_CHUNK) {
		chunk_get(tile->run + i, v);
		emit_chunk(encoder, first + i, KVC_CHUNK, v);
	}
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
	};
}

/* For each group of a chunk a lane that holds its scale. */
static inline vi group_lane_index(uint32_t group)
{
	uint32_t index[LANES];

	for (uint32_t i = 0; i < LANES; i++)
		index[i] = lane_of(i * (group / WORDS) % LANES);
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

static inline void encode_chunks(struct encoder *encoder)
{
	size_t elements = encoder->tile.elements;
	size_t whole = elements / KVC_CHUNK * KVC_CHUNK;

	if (encoder->tile.run_chunks > 1) {
		for (size_t i = 0; i < whole; i += encoder->tile.layout.run)
			encode_run(encoder, i);
		return;
	}
	for (size_t i = 0; i < whole; i += KVC_CHUNK)
		encode_chunk(encoder, i, KVC_CHUNK);
	if (whole < elements)
		encode_chunk(encoder, whole, elements - whole);
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
	encode_chunks(&encoder);
	clear_padding(&encoder);
	return !vi_any(encoder.overflow);
}

#endif
