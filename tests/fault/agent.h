/* What a test and the agent in its daemon say to each other, over a socket pair. */
#ifndef KVC_TEST_AGENT_H
#define KVC_TEST_AGENT_H

#include <stdint.h>

enum agent_what {
	AGENT_ALLOC,  /* allocations fail: fail_at, forever, if `set` */
	AGENT_ABORT,  /* a contract is broken, now. There is no answer */
	AGENT_DISK,   /* from now on requests of these kinds fail with `error`, or never end if it is negative
	               */
	AGENT_ACCEPT, /* the next `times` accepts fail with `error` */
	AGENT_WALL,   /* the wall clock is `seconds` off */
	AGENT_LEAK,   /* `times` things of the kind `leak` stay for good */
	AGENT_EAT,    /* `times` MiB more are used; there may be no answer */
};

enum agent_leak { AGENT_LEAK_DESCRIPTOR, AGENT_LEAK_THREAD, AGENT_LEAK_OBJECT, AGENT_LEAK_MAPPING };

struct agent_command {
	uint32_t what;
	int32_t error;
	uint64_t fail_at; /* as kvc_alloc_fail_at */
	int32_t forever;
	int32_t set;       /* 0: only ask */
	uint32_t disk_ops; /* bits, of enum kvc_io_op; 0: no more */
	uint32_t times;
	int64_t seconds;
	uint32_t leak;
};

struct agent_answer {
	uint64_t count; /* allocations so far */
	int64_t live;
	uint64_t injected; /* faults of the disk and of accept so far */
};

#endif
