/* Encoding on vectors, pass 1: the source is read, checked, and its means taken (steps 1 to 3). */
#ifndef KVC_SIMD_SOURCE_H
#define KVC_SIMD_SOURCE_H

#include "kernels/simd_tile.h"

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

	KVC_UNROLL
	for (unsigned j = 0; j < 8; j++)
		p[j] = vf_set1(0.0f);
	for (uint32_t t = 0; t + 8 <= tokens; t += 8, column += 8 * stride) {
		KVC_UNROLL
		for (unsigned j = 0; j < 8; j++)
			p[j] = vf_add(p[j], load16(dtype, column + j * stride));
	}
	KVC_UNROLL
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

#endif
