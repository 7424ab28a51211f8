/* Runs a loop in a test until a condition holds, within a bound. */
#ifndef KVC_TEST_LOOP_RUN_H
#define KVC_TEST_LOOP_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/loop/loop.h"

/* Turn the loop until condition(context). False: it did not hold within timeout_ms. */
bool kvc_test_run_until(struct kvc_loop *loop, bool (*condition)(void *context), void *context,
                        uint64_t timeout_ms);

/* Turn the loop until *flag is set, for at most 120 s. */
bool kvc_test_run_until_set(struct kvc_loop *loop, const bool *flag);

#endif
