/* Encoding on vectors, pass 3: the codes of a chunk and their sums (steps 5 and 6). */
#ifndef KVC_SIMD_CODES_H
#define KVC_SIMD_CODES_H

#include "kernels/simd_batch.h"

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

	KVC_UNROLL
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

	KVC_UNROLL
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

#endif
