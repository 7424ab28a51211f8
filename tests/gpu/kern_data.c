/* See kern_data.h. */
#include "tests/gpu/kern_data.h"

#include "kernels/half.h"

#include <math.h>

enum kind {
	PLAUSIBLE, /* Gaussian with a common part and outlier channels */
	CONSTANT,
	TINY,  /* subnormal in the source type or nearly */
	GREAT, /* near the limit above which tiles are raw */
	TWO_VALUES,
	SPARSE,  /* zeros of both signs, few others */
	STEP,    /* exact ties between codes */
	SPECIAL, /* now and then not finite or too large */
	BITS,    /* any bit pattern */
	KINDS,
};

uint32_t data_kind(struct rng *rng)
{
	/* Mostly what is coded; raw tiles are the exception. */
	uint32_t pick = rng_below(rng, 100);

	if (pick < 40)
		return PLAUSIBLE;
	if (pick < 97)
		return CONSTANT + pick % (SPECIAL - CONSTANT);
	return pick < 99 ? SPECIAL : BITS;
}

static float uniform(struct rng *rng)
{
	return (float)(rng_next(rng) >> 40) * 0x1p-23f - 1.0f;
}

static float gaussian(struct rng *rng)
{
	return uniform(rng) + uniform(rng) + uniform(rng);
}

static float element(struct rng *rng, uint32_t kind, uint32_t d)
{
	switch (kind) {
	case PLAUSIBLE:
		return gaussian(rng) * (d % 37 == 5 ? 20.0f : 1.0f) + (float)(d % 7) - 3.0f;
	case CONSTANT:
		return 1.25f;
	case TINY:
		return uniform(rng) * ldexpf(1.0f, -14 - (int)(d % 3) * 55);
	case GREAT:
		return uniform(rng) * 1048575.0f;
	case TWO_VALUES:
		return rng_below(rng, 2) ? 3.0f : -0.0f;
	case SPARSE:
		return rng_below(rng, 50) ? (rng_below(rng, 2) ? 0.0f : -0.0f) : gaussian(rng) * 1e-3f;
	case STEP:
		return (float)rng_below(rng, 31) * 0.5f;
	default:
		return rng_below(rng, 3000) ? gaussian(rng) : 2097152.0f / (float)rng_below(rng, 3);
	}
}

static uint32_t element_bits(struct rng *rng, uint32_t kind, enum kvc_dtype dtype, uint32_t d)
{
	float x = element(rng, kind, d);

	if (kind == BITS)
		return (uint32_t)rng_next(rng);
	if (dtype == KVC_DTYPE_FP32)
		return kvc_f32_bits(x);
	return dtype == KVC_DTYPE_FP16 ? kvc_f16_from_f32(kind == GREAT ? x / 17.0f : x)
	                               : kvc_bf16_saturate(x);
}

void data_row(struct rng *rng, uint32_t kind, enum kvc_dtype dtype, uint32_t dim, uint8_t *row)
{
	for (uint32_t d = 0; d < dim; d++) {
		uint32_t bits = element_bits(rng, kind, dtype, d);

		memcpy(row + d * kvc_dtype_bytes(dtype), &bits, kvc_dtype_bytes(dtype));
	}
}
