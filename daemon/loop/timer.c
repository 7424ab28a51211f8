/* One-shot timers: a binary heap over a single libuv timer, so that starting and stopping costs no system
 * call and no allocation once the heap has grown to the working set.
 *
 * A timer knows its place in the heap (heap_slot), hence stop is O(log n). The libuv timer is armed at the
 * end of a turn only. */
#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/loop/loop_private.h"

enum { TIMERS_AT_START = 256 };

static bool earlier(const struct kvc_timer *a, const struct kvc_timer *b)
{
	return a->due_ms < b->due_ms;
}

static void place(struct kvc_loop *loop, uint32_t slot, struct kvc_timer *timer)
{
	loop->timers[slot - 1] = timer;
	timer->heap_slot = slot;
}

static void sift_up(struct kvc_loop *loop, struct kvc_timer *timer)
{
	uint32_t slot = timer->heap_slot;

	while (slot > 1 && earlier(timer, loop->timers[slot / 2 - 1])) {
		place(loop, slot, loop->timers[slot / 2 - 1]);
		slot /= 2;
	}
	place(loop, slot, timer);
}

static void sift_down(struct kvc_loop *loop, struct kvc_timer *timer)
{
	uint32_t slot = timer->heap_slot;
	uint32_t child;

	while ((child = 2 * slot) <= loop->timer_count) {
		if (child < loop->timer_count && earlier(loop->timers[child], loop->timers[child - 1]))
			child++;
		if (!earlier(loop->timers[child - 1], timer))
			break;
		place(loop, slot, loop->timers[child - 1]);
		slot = child;
	}
	place(loop, slot, timer);
}

static kvc_status heap_grow(struct kvc_loop *loop, uint32_t capacity)
{
	struct kvc_timer **grown = kvc_realloc(loop->timers, capacity, sizeof(struct kvc_timer *));

	if (!grown)
		return KVC_NO_MEMORY;
	loop->timers = grown;
	loop->timer_capacity = capacity;
	return KVC_OK;
}

kvc_status kvc_loop_open_timers(struct kvc_loop *loop)
{
	return heap_grow(loop, TIMERS_AT_START);
}

kvc_status kvc_timer_start(struct kvc_loop *loop, struct kvc_timer *timer, uint64_t delay_ms)
{
	KVC_PRE(timer->fire);
	kvc_loop_check_owner(loop);
	kvc_timer_stop(timer);
	if (loop->timer_count == loop->timer_capacity && heap_grow(loop, 2 * loop->timer_capacity))
		return KVC_NO_MEMORY;
	timer->loop = loop;
	timer->due_ms = uv_now(&loop->uv) + delay_ms;
	place(loop, ++loop->timer_count, timer);
	sift_up(loop, timer);
	return KVC_OK;
}

void kvc_timer_stop(struct kvc_timer *timer)
{
	struct kvc_loop *loop = timer->loop;
	uint32_t slot = timer->heap_slot;
	struct kvc_timer *last;

	if (!slot)
		return;
	kvc_loop_check_owner(loop);
	last = loop->timers[--loop->timer_count];
	timer->heap_slot = 0;
	if (last == timer)
		return;
	place(loop, slot, last);
	sift_up(loop, last);
	sift_down(loop, last);
}

/* At most as many as were there at first, so that a timer that restarts itself with no delay cannot keep the
 * loop from its descriptors. */
static void timers_fired(uv_timer_t *uv)
{
	struct kvc_loop *loop = uv->loop->data;
	uint64_t now = uv_now(&loop->uv);

	loop->timer_armed_ms = 0;
	for (uint32_t left = loop->timer_count; left && loop->timer_count; left--) {
		struct kvc_timer *timer = loop->timers[0];

		if (timer->due_ms > now)
			break;
		kvc_timer_stop(timer);
		timer->fire(timer);
	}
}

void kvc_loop_arm_timers(struct kvc_loop *loop)
{
	uint64_t now = uv_now(&loop->uv);
	uint64_t due = loop->timer_count ? loop->timers[0]->due_ms : 0;

	if (due == loop->timer_armed_ms)
		return;
	loop->timer_armed_ms = due;
	if (!due)
		uv_timer_stop(&loop->timer);
	else
		uv_timer_start(&loop->timer, timers_fired, due > now ? due - now : 0, 0);
}
