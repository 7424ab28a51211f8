/* daemon/loop/loop.h without time and threads. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "tests/sim/sim.h"

struct kvc_loop {
	struct sim_random *random;
	struct kvc_list deferred;
	struct kvc_list events;
	struct kvc_timer *timers[64];
	uint32_t timer_count;
	uint64_t now_ms;
};

uint64_t sim_next(struct sim_random *random)
{
	random->state ^= random->state << 13;
	random->state ^= random->state >> 7;
	random->state ^= random->state << 17;
	return random->state;
}

bool sim_one_in(struct sim_random *random, uint32_t n)
{
	return n && sim_next(random) % n == 0;
}

uint64_t sim_seed(uint64_t fallback)
{
	const char *seed = getenv("KVC_TEST_SEED");

	return seed ? strtoull(seed, NULL, 0) : fallback;
}

kvc_status sim_loop_open(struct sim_random *random, struct kvc_loop **out)
{
	struct kvc_loop *loop = kvc_calloc(1, sizeof *loop);

	if (!loop)
		return KVC_NO_MEMORY;
	loop->random = random;
	kvc_list_init(&loop->deferred);
	kvc_list_init(&loop->events);
	*out = loop;
	return KVC_OK;
}

void kvc_loop_close(struct kvc_loop *loop)
{
	KVC_PRE(kvc_list_empty(&loop->deferred) && kvc_list_empty(&loop->events) && !loop->timer_count);
	kvc_free(loop);
}

uint64_t kvc_loop_now_ms(const struct kvc_loop *loop)
{
	return loop->now_ms;
}

void kvc_loop_defer(struct kvc_loop *loop, struct kvc_task *task)
{
	if (task->queued)
		return;
	task->queued = true;
	kvc_list_push(&loop->deferred, &task->node);
}

/* Nothing in the simulation has threads. */
void kvc_loop_post(struct kvc_loop *loop, struct kvc_task *task)
{
	KVC_PRE(!task->queued);
	kvc_loop_defer(loop, task);
}

kvc_status kvc_timer_start(struct kvc_loop *loop, struct kvc_timer *timer, uint64_t delay_ms)
{
	kvc_timer_stop(timer);
	KVC_PRE(loop->timer_count < sizeof loop->timers / sizeof loop->timers[0]);
	timer->loop = loop;
	timer->due_ms = loop->now_ms + delay_ms;
	loop->timers[loop->timer_count++] = timer;
	timer->heap_slot = loop->timer_count;
	return KVC_OK;
}

void kvc_timer_stop(struct kvc_timer *timer)
{
	struct kvc_loop *loop = timer->loop;
	uint32_t slot = timer->heap_slot;

	if (!slot)
		return;
	loop->timers[slot - 1] = loop->timers[--loop->timer_count];
	loop->timers[slot - 1]->heap_slot = slot;
	timer->heap_slot = 0;
}

void sim_event_add(struct kvc_loop *loop, struct sim_event *event)
{
	kvc_list_push(&loop->events, &event->node);
}

static bool deferred_run(struct kvc_loop *loop)
{
	struct kvc_list *node;
	bool ran = false;

	while ((node = kvc_list_pop(&loop->deferred))) {
		struct kvc_task *task = kvc_container_of(node, struct kvc_task, node);

		task->queued = false;
		task->run(task);
		ran = true;
	}
	return ran;
}

/* One of the first few events: enough disorder, and nothing waits forever. */
static bool event_run(struct kvc_loop *loop)
{
	struct kvc_list *node = loop->events.next;

	if (kvc_list_empty(&loop->events))
		return false;
	for (uint64_t skip = sim_next(loop->random) % 4; skip && node->next != &loop->events; skip--)
		node = node->next;
	kvc_list_remove(node);
	struct sim_event *event = kvc_container_of(node, struct sim_event, node);
	event->run(event);
	return true;
}

static bool timer_run(struct kvc_loop *loop)
{
	struct kvc_timer *next = NULL;

	for (uint32_t i = 0; i < loop->timer_count; i++)
		if (!next || loop->timers[i]->due_ms < next->due_ms)
			next = loop->timers[i];
	if (!next)
		return false;
	if (next->due_ms > loop->now_ms)
		loop->now_ms = next->due_ms;
	kvc_timer_stop(next);
	next->fire(next);
	return true;
}

void sim_pass(struct kvc_loop *loop, uint64_t ms)
{
	loop->now_ms += ms;
}

bool sim_step(struct kvc_loop *loop)
{
	bool ran = deferred_run(loop);

	ran = event_run(loop) || ran || timer_run(loop);
	return deferred_run(loop) || ran;
}
