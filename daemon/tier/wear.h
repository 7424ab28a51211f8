/* What was written to a drive: in total, and in the last day. Days are 24 hours of the tier's being on, by
 * the monotonic clock: a wall clock that jumps changes nothing. Two pages at rest, written in turn. Pure
 * functions.
 */
#ifndef KVC_WEAR_H
#define KVC_WEAR_H

#include <stdint.h>

#include "daemon/tier/segment.h"
#include "daemon/tier/tier.h"
#include "proto/kvc_status.h"

#define KVC_WEAR_SLOTS  2u
#define KVC_WEAR_DAY_MS 86400000ull

struct kvc_wear {
	uint64_t sequence; /* of two pages the higher one is in force */
	uint64_t age_ms;   /* that the tier was on */
	uint64_t day_ms;   /* age at which today began */
	uint64_t total_bytes;
	uint64_t today_bytes;
	uint64_t yesterday_bytes;
	struct kvc_tier_note note; /* the owner's */
};

/* So much time has gone, and so much was written in it. */
void kvc_wear_add(struct kvc_wear *wear, uint64_t elapsed_ms, uint64_t bytes);

/* Bytes of the last 24 hours, taking yesterday's as evenly spread. */
uint64_t kvc_wear_day_bytes(const struct kvc_wear *wear);

void kvc_wear_encode(const struct kvc_wear *wear, uint8_t page[KVC_PAGE_BYTES]);

/* The newest of both pages. KVC_CORRUPT: none is sound. */
kvc_status kvc_wear_decode(const uint8_t slots[KVC_WEAR_SLOTS * KVC_PAGE_BYTES], struct kvc_wear *wear);

#endif
