/* When a worker's stream has come to a request: a word that the worker shares with the GPU's engine, and that
 * its stream writes, holds `value` then, or more. */
#ifndef KVC_MARK_H
#define KVC_MARK_H

#include <stdint.h>

struct kvc_mark {
	uint32_t place; /* 1 + number of the word among the pool's; 0: nothing is waited for */
	uint32_t value;
};

#endif
