/* Bounded turns of a loop: a guard timer both ends the wait and wakes a loop to which nothing happens. */
#include "tests/support/loop_run.h"

struct guard {
	struct kvc_timer timer;
	bool expired;
};

static void guard_fired(struct kvc_timer *timer)
{
	kvc_container_of(timer, struct guard, timer)->expired = true;
}

bool kvc_test_run_until(struct kvc_loop *loop, bool (*condition)(void *context), void *context,
                        uint64_t timeout_ms)
{
	struct guard guard = {.timer = {.fire = guard_fired}};
	bool held;

	if (kvc_timer_start(loop, &guard.timer, timeout_ms))
		return false;
	while (!(held = condition(context)) && !guard.expired)
		kvc_loop_turn(loop);
	kvc_timer_stop(&guard.timer);
	return held;
}

static bool flag_is_set(void *context)
{
	return *(const bool *)context;
}

bool kvc_test_run_until_set(struct kvc_loop *loop, const bool *flag)
{
	union {
		const bool *constant;
		void *context;
	} pointer = {.constant = flag};

	return kvc_test_run_until(loop, flag_is_set, pointer.context, 120000);
}
