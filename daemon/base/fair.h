/* Whose turn it is: start-time fair queueing over flows of work of different sizes.
 *
 * Each flow has a virtual time, at which its next piece is due: what it was given so far, divided by its
 * weight. The flow that is due first goes first; one that had nothing to do for a while begins at the present
 * and cannot save up. So while several flows have work, each gets its share of the bytes, up to one piece;
 * while only one has, it gets everything. What a flow's work is, and in which order, is its owner's business.
 * O(1) for a flow that keeps its place among few, at most O(flows). Pure. */
#ifndef KVC_FAIR_H
#define KVC_FAIR_H

#include <stdint.h>

#include "daemon/base/list.h"

#define KVC_FAIR_WEIGHT 100u /* of a flow that nothing is said about */

struct kvc_fair {
	struct kvc_list flows; /* that have work, the first due first */
	uint64_t now;
};

struct kvc_fair_flow {
	struct kvc_list node;
	uint64_t due;
	uint32_t weight; /* may change at any time; 0: KVC_FAIR_WEIGHT */
};

void kvc_fair_init(struct kvc_fair *fair);
void kvc_fair_flow_init(struct kvc_fair_flow *flow, uint32_t weight);

/* The flow has work from now on, or has none any more. Nothing happens if that was known. */
void kvc_fair_enter(struct kvc_fair *fair, struct kvc_fair_flow *flow);
void kvc_fair_leave(struct kvc_fair_flow *flow);

/* A piece of the flow's work was taken: it is due later. */
void kvc_fair_charge(struct kvc_fair *fair, struct kvc_fair_flow *flow, uint64_t bytes);

/* The flow that is due first, and the next one after a flow; NULL: none. */
struct kvc_fair_flow *kvc_fair_first(const struct kvc_fair *fair);
struct kvc_fair_flow *kvc_fair_next(const struct kvc_fair *fair, const struct kvc_fair_flow *flow);

#endif
