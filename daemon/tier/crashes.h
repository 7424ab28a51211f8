/* Which segments made recoveries crash: one page, checksummed. Pure functions, and safe in a signal handler.
 */
#ifndef KVC_CRASHES_H
#define KVC_CRASHES_H

#include <stdint.h>

#include "daemon/tier/segment.h"
#include "proto/kvc_status.h"

#define KVC_CRASHES_MAX 64u

struct kvc_crash {
	uint64_t epoch;
	uint32_t number; /* of the segment */
	uint32_t times;
};

struct kvc_crashes {
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint32_t count;
	struct kvc_crash of[KVC_CRASHES_MAX];
};

void kvc_crashes_encode(const struct kvc_crashes *crashes, uint8_t page[KVC_PAGE_BYTES]);

/* KVC_CORRUPT: not a sound page of this version. */
kvc_status kvc_crashes_decode(const uint8_t page[KVC_PAGE_BYTES], struct kvc_crashes *crashes);

/* How often that segment did so in that epoch. */
uint32_t kvc_crashes_times(const struct kvc_crashes *crashes, uint32_t number, uint64_t epoch);

/* Once more. When the table is full the oldest goes. */
void kvc_crashes_add(struct kvc_crashes *crashes, uint32_t number, uint64_t epoch);

#endif
