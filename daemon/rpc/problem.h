/* What was wrong with a request, in words for its Failure reply: field, value, expectation. */
#ifndef KVC_RPC_PROBLEM_H
#define KVC_RPC_PROBLEM_H

#include "proto/kvc_status.h"

#define KVC_PROBLEM_BYTES 256u

struct kvc_problem {
	char detail[KVC_PROBLEM_BYTES];
};

/* Writes the text and returns the status. */
kvc_status kvc_problem_set(struct kvc_problem *problem, kvc_status status, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

#endif
