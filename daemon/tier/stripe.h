/* Several directories as one tier: each is a disk tier of its own, with its own lock, instance, epochs, index
 * and health. Stores go to those that are writable in turn, loads where the record is. One that fails costs
 * what rests there, and nothing else.
 *
 * A place of this tier is a child's place, with the child's number in the upper half of `segment`. */
#ifndef KVC_STRIPE_H
#define KVC_STRIPE_H

#include "daemon/stats/stats.h"
#include "daemon/tier/disk.h"
#include "daemon/tier/tier.h"

/* Takes the children, 1 to KVC_DISKS_MAX of them, each a disk tier: they are closed with it.
 * KVC_NO_MEMORY: they are still the caller's. */
kvc_status kvc_stripe_open(struct kvc_loop *loop, struct kvc_stats *stats, struct kvc_tier *const *children,
                           uint32_t count, struct kvc_tier **tier);

#endif
