/* Flows in the order in which they are due. See fair.h. */
#include "daemon/base/fair.h"

#include <stdbool.h>

enum { PIECE_MIN = 4096 }; /* what the smallest piece counts as: nothing is free of charge */

void kvc_fair_init(struct kvc_fair *fair)
{
	kvc_list_init(&fair->flows);
	fair->now = 0;
}

void kvc_fair_flow_init(struct kvc_fair_flow *flow, uint32_t weight)
{
	kvc_list_init(&flow->node);
	flow->due = 0;
	flow->weight = weight;
}

static struct kvc_fair_flow *flow_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_fair_flow, node);
}

static bool waits(const struct kvc_fair_flow *flow)
{
	return !kvc_list_empty(&flow->node);
}

/* Behind all that are due as early. */
static void place(struct kvc_fair *fair, struct kvc_fair_flow *flow)
{
	struct kvc_list *before = fair->flows.prev;

	while (before != &fair->flows && flow_of(before)->due > flow->due)
		before = before->prev;
	kvc_list_push(before->next, &flow->node);
}

void kvc_fair_enter(struct kvc_fair *fair, struct kvc_fair_flow *flow)
{
	if (waits(flow))
		return;
	if (flow->due < fair->now)
		flow->due = fair->now;
	place(fair, flow);
}

void kvc_fair_leave(struct kvc_fair_flow *flow)
{
	kvc_list_remove(&flow->node);
}

void kvc_fair_charge(struct kvc_fair *fair, struct kvc_fair_flow *flow, uint64_t bytes)
{
	uint32_t weight = flow->weight ? flow->weight : KVC_FAIR_WEIGHT;

	if (fair->now < flow->due)
		fair->now = flow->due;
	bytes = bytes < PIECE_MIN ? PIECE_MIN : bytes;
	flow->due += bytes * KVC_FAIR_WEIGHT / weight;
	if (!waits(flow))
		return;
	kvc_list_remove(&flow->node);
	place(fair, flow);
}

struct kvc_fair_flow *kvc_fair_first(const struct kvc_fair *fair)
{
	return kvc_list_empty(&fair->flows) ? NULL : flow_of(fair->flows.next);
}

struct kvc_fair_flow *kvc_fair_next(const struct kvc_fair *fair, const struct kvc_fair_flow *flow)
{
	return flow->node.next == &fair->flows ? NULL : flow_of(flow->node.next);
}
