/* Encoding on vectors, pass 2: batches are rotated and get their scales (steps 4 and 5). */
#ifndef KVC_SIMD_BATCH_H
#define KVC_SIMD_BATCH_H

#include "kernels/simd_tile.h"

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
	KVC_UNROLL
	for (unsigned k = 0; k < WORDS; k++)
		v[k] = vf_sub(v[k], vf_load(means + LANES * (size_t)k));
}

/* The end of step 4, and the extent of each lane; the chunk is left in `to`. */
KVC_INLINE void settle_chunk(const struct tile *tile, struct batch *batch, unsigned c, vf v[WORDS], float *to)
{
	vf least, most;

	if (tile->params->rotate) {
		KVC_UNROLL
		for (unsigned k = 0; k < WORDS; k++)
			v[k] = vf_mul(v[k], tile->rotate_scale);
	}
	least = most = v[0];
	KVC_UNROLL
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

#endif
