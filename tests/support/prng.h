/* A small random generator for tests (splitmix64): the same seed gives the same numbers everywhere. */
#ifndef KVC_TEST_PRNG_H
#define KVC_TEST_PRNG_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct prng {
	uint64_t state;
};

static inline uint64_t prng_next(struct prng *prng)
{
	uint64_t z = prng->state += UINT64_C(0x9E3779B97F4A7C15);

	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

/* Below `bound`, which is above 0. */
static inline uint32_t prng_below(struct prng *prng, uint32_t bound)
{
	return (uint32_t)((prng_next(prng) >> 32) * bound >> 32);
}

/* One in `n`. */
static inline int prng_chance(struct prng *prng, uint32_t n)
{
	return prng_below(prng, n) == 0;
}

/* In [-1, 1). */
static inline float prng_float(struct prng *prng)
{
	return (float)(int32_t)(prng_next(prng) >> 32) * 0x1p-31f;
}

/* About normal: the sum of four. */
static inline float prng_normal(struct prng *prng)
{
	return prng_float(prng) + prng_float(prng) + prng_float(prng) + prng_float(prng);
}

/* The seed of this run: KVC_TEST_SEED, or the clock. Printed, so that a failure can be repeated. */
static inline uint64_t prng_seed(const char *test)
{
	const char *given = getenv("KVC_TEST_SEED");
	struct timespec now;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	printf("%s: KVC_TEST_SEED=%llu\n", test, (unsigned long long)seed);
	return seed;
}

#endif
