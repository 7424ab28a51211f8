/* Checked arithmetic on sizes. Each returns false, and leaves *out alone, when the result does not fit. */
#ifndef KVC_CHECKED_H
#define KVC_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool kvc_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t sum;

	if (__builtin_add_overflow(a, b, &sum))
		return false;
	*out = sum;
	return true;
}

static inline bool kvc_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t product;

	if (__builtin_mul_overflow(a, b, &product))
		return false;
	*out = product;
	return true;
}

/* Round up to a multiple of `step`, a power of two; the value must be far from the top of its type. */
static inline uint64_t kvc_round_up(uint64_t value, uint64_t step)
{
	return (value + step - 1) & ~(step - 1);
}

#endif
