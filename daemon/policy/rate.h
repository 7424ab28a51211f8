/* A token bucket: so many bytes a second, a second's worth at once. Pure: the clock is passed in
 * (CLOCK_MONOTONIC milliseconds).
 *
 * Work is let through while there is any credit, whole; so a piece larger than the bucket passes too, and
 * what it was too large for is paid off before the next one. In any time T no more passes than the rate
 * allows for T + 1 s, and one piece. */
#ifndef KVC_RATE_H
#define KVC_RATE_H

#include <stdbool.h>
#include <stdint.h>

#define KVC_RATE_MAX (1ull << 50) /* bytes a second */

struct kvc_rate {
	uint64_t per_s; /* 0: no limit */
	int64_t credit; /* in thousandths of a byte: a millisecond brings per_s of them; below zero: to be
	                 * paid off */
	uint64_t at_ms; /* when the credit was that */
};

/* A full bucket, or the same one with another rate. */
void kvc_rate_init(struct kvc_rate *rate, uint64_t per_s, uint64_t now_ms);
void kvc_rate_set(struct kvc_rate *rate, uint64_t per_s, uint64_t now_ms);

/* Whether a piece of work may pass now, and that it did. */
bool kvc_rate_ready(struct kvc_rate *rate, uint64_t now_ms);
void kvc_rate_take(struct kvc_rate *rate, uint64_t bytes);

/* Milliseconds until there is credit; 0: there is. As of the last call of kvc_rate_ready. */
uint64_t kvc_rate_wait_ms(const struct kvc_rate *rate);

#endif
