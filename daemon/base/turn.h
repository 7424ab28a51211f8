/* How long a thread's turns at a processor are.
 *
 * Where threads outnumber processors, one that wakes waits until those that run have had their turns; the
 * kernel lets one that asks for shorter turns go before one that asks for longer ones. Shares of the
 * processor are not changed. */
#ifndef KVC_TURN_H
#define KVC_TURN_H

#include <stdint.h>

/* For the calling thread, and those that it starts later. 100 us to 100 ms; source: sched_setattr(2), EEVDF.
 * Linux before 6.12 takes it without effect; what refuses it, and other policies than SCHED_OTHER and
 * SCHED_BATCH, keep what they have. */
void kvc_turn_set(uint32_t microseconds);

#endif
