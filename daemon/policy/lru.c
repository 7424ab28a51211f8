/* Least recently used; and the same with the deepest block of a chain first.
 *
 * chain-lru: a block arrives as recent as its parent is then, and of two that are equally recent the deeper
 * one is the colder. Who uses a chain tells its last block first, so the first is the hottest. So within a
 * chain recency never rises with depth, and no block goes before those behind it. */
#include "daemon/policy/internal.h"

static void lru_insert(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	(void)parent;
	if (how == KVC_POLICY_BACK)
		kvc_order_push_stamp(policy, id);
	else if (how == KVC_POLICY_COLD)
		kvc_order_push_cold(policy, id);
	else
		kvc_order_push_hot(policy, id);
}

static void chain_arrive(struct kvc_policy *policy, uint32_t id, uint32_t parent)
{
	node_of(policy, id)->stamp =
	        parent == KVC_POLICY_NONE ? ++*policy->clock : node_of(policy, parent)->stamp;
}

static void chain_insert(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	if (how == KVC_POLICY_NEW)
		kvc_order_push_below(policy, id, parent);
	else
		lru_insert(policy, id, how == KVC_POLICY_READ ? KVC_POLICY_BACK : how, parent);
}

static void lru_note(struct kvc_policy *policy, uint32_t id)
{
	node_of(policy, id)->stamp = ++*policy->clock;
}

static void lru_hit(struct kvc_policy *policy, uint32_t id)
{
	kvc_order_remove(policy, id);
	kvc_order_push_hot(policy, id);
}

static void lru_remove(struct kvc_policy *policy, uint32_t id)
{
	kvc_order_remove(policy, id);
}

static uint32_t lru_victim(struct kvc_policy *policy, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id))
{
	return kvc_order_coldest(policy, 0, kinds, may_go);
}

const struct policy_ops kvc_policy_chain_lru = {
        .name = "chain-lru",
        .deepest_first = true,
        .by_recency = true,
        .arrive = chain_arrive,
        .insert = chain_insert,
        .hit = lru_hit,
        .note = lru_note,
        .remove = lru_remove,
        .evicted = lru_remove,
        .victim = lru_victim,
};

const struct policy_ops kvc_policy_lru = {
        .name = "lru",
        .by_recency = true,
        .insert = lru_insert,
        .hit = lru_hit,
        .note = lru_note,
        .remove = lru_remove,
        .evicted = lru_remove,
        .victim = lru_victim,
};
