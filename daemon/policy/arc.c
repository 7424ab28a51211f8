/* ARC (Megiddo and Modha, FAST 2003), in bytes instead of pages.
 *
 * ONCE holds what was used once, AGAIN what was used again, both by recency. Each has its ghosts. A block
 * that comes back while it is a ghost of ONCE says that ONCE is too small, so `target`, the bytes that ONCE
 * should have, grows by the block's bytes times the ratio of the ghost lists (at least 1); one of AGAIN says
 * the opposite. ONCE and its ghosts together stay within the capacity, all four within twice of it. */
#include "daemon/policy/internal.h"

enum { ONCE, AGAIN };

/* By how much the target moves when a ghost of `list` comes back. */
static uint64_t step(const struct kvc_policy *policy, unsigned list, uint64_t bytes)
{
	uint64_t own = kvc_ghosts_bytes(policy->ghosts, list) + bytes;
	uint64_t other = kvc_ghosts_bytes(policy->ghosts, !list);

	return other > own ? (uint64_t)((double)bytes * (double)other / (double)own) : bytes;
}

static void target_adapt(struct kvc_policy *policy, unsigned list, uint64_t bytes)
{
	uint64_t by = step(policy, list, bytes);
	uint64_t room = policy->options.capacity;

	if (list == ONCE)
		policy->target = by < room && policy->target < room - by ? policy->target + by : room;
	else
		policy->target = policy->target > by ? policy->target - by : 0;
}

static void ghosts_trim(struct kvc_policy *policy)
{
	uint64_t capacity = policy->options.capacity;
	uint64_t once = kvc_order_queue_bytes(policy, ONCE);
	uint64_t again = kvc_order_queue_bytes(policy, AGAIN);

	while (once + kvc_ghosts_bytes(policy->ghosts, ONCE) > capacity)
		if (!kvc_ghosts_drop_oldest(policy->ghosts, ONCE))
			break;
	while (once + again + kvc_ghosts_bytes(policy->ghosts, ONCE) +
	               kvc_ghosts_bytes(policy->ghosts, AGAIN) >
	       2 * capacity)
		if (!kvc_ghosts_drop_oldest(policy->ghosts, AGAIN))
			break;
}

static void arc_insert(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	struct kvc_policy_block block = block_of(policy, id);
	int ghost;

	(void)parent;
	if (how == KVC_POLICY_BACK) {
		kvc_order_push_stamp(policy, id);
		return;
	}
	ghost = kvc_ghosts_take(policy->ghosts, block.hash);
	if (ghost >= 0)
		target_adapt(policy, (unsigned)ghost, block.bytes);
	node_queue_set(node_of(policy, id), ghost >= 0 ? AGAIN : ONCE);
	if (how == KVC_POLICY_COLD)
		kvc_order_push_cold(policy, id);
	else
		kvc_order_push_hot(policy, id);
}

static void arc_hit(struct kvc_policy *policy, uint32_t id)
{
	kvc_order_remove(policy, id);
	node_queue_set(node_of(policy, id), AGAIN);
	kvc_order_push_hot(policy, id);
}

static void arc_note(struct kvc_policy *policy, uint32_t id)
{
	node_queue_set(node_of(policy, id), AGAIN);
	node_of(policy, id)->stamp = ++*policy->clock;
}

static void arc_remove(struct kvc_policy *policy, uint32_t id)
{
	kvc_order_remove(policy, id);
}

static void arc_evicted(struct kvc_policy *policy, uint32_t id)
{
	unsigned queue = node_queue(node_of(policy, id));
	struct kvc_policy_block block = block_of(policy, id);

	kvc_order_remove(policy, id);
	kvc_ghosts_add(policy->ghosts, queue, block.hash, block.bytes);
	ghosts_trim(policy);
}

static uint32_t arc_victim(struct kvc_policy *policy, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id))
{
	unsigned queue = kvc_order_queue_bytes(policy, ONCE) > policy->target ? ONCE : AGAIN;
	uint32_t id = kvc_order_coldest(policy, queue, kinds, may_go);

	return id == KVC_POLICY_NONE ? kvc_order_coldest(policy, !queue, kinds, may_go) : id;
}

const struct policy_ops kvc_policy_arc = {
        .name = "arc",
        .insert = arc_insert,
        .hit = arc_hit,
        .note = arc_note,
        .remove = arc_remove,
        .evicted = arc_evicted,
        .victim = arc_victim,
};
