/* See turn.h. */
#include "daemon/base/turn.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/log.h"

/* The kernel's struct sched_attr as first published; the header that has it does not go with libc's. */
struct attributes {
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime; /* of a turn, nanoseconds */
	uint64_t deadline;
	uint64_t period;
};

void kvc_turn_set(uint32_t microseconds)
{
	struct attributes now = {.size = sizeof now};

	if (syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) != 0 ||
	    (now.policy != SCHED_OTHER && now.policy != SCHED_BATCH))
		return;
	now.size = sizeof now;
	now.runtime = microseconds * UINT64_C(1000);
	if (syscall(SYS_sched_setattr, 0, &now, 0) != 0)
		kvc_debug("turns at the processor keep their usual length: %s", strerror(errno));
}
