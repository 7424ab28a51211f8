/* What a test and the agent in its daemon say to each other, over a socket pair. */
#ifndef KVC_TEST_AGENT_H
#define KVC_TEST_AGENT_H

#include <stdint.h>

struct agent_command {
	uint64_t fail_at; /* as kvc_alloc_fail_at */
	int32_t forever;
	int32_t set; /* 0: only ask */
};

struct agent_answer {
	uint64_t count; /* allocations so far */
	int64_t live;
};

#endif
