/* S3-FIFO (Yang et al., SOSP 2023), in bytes.
 *
 * New blocks enter SMALL, a tenth of the capacity; those that leave it without another use go and become
 * ghosts, the others move to MAIN (one use is enough here). A block that comes back while it is a ghost
 * enters MAIN at once. MAIN goes round: a block that was used since its last turn stays, for one use less.
 * Ghosts stand for as many bytes as MAIN has. */
#include "daemon/policy/internal.h"

enum { SMALL, MAIN, SMALL_SHARE = 10, USES_TO_STAY = 1 };

static uint64_t small_target(const struct kvc_policy *policy)
{
	return policy->options.capacity / SMALL_SHARE;
}

static void s3_insert(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	struct kvc_policy_node *node = node_of(policy, id);
	uint64_t hash = block_of(policy, id).hash;

	(void)parent;
	if (how == KVC_POLICY_BACK) {
		kvc_order_push_stamp(policy, id);
		return;
	}
	node_queue_set(node, kvc_ghosts_take(policy->ghosts, hash) >= 0 ? MAIN : SMALL);
	node_uses_set(node, 0);
	if (how == KVC_POLICY_COLD)
		kvc_order_push_cold(policy, id);
	else
		kvc_order_push_hot(policy, id);
}

static void s3_hit(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);
	unsigned uses = node_uses(node);

	node_uses_set(node, uses < USES_MAX ? uses + 1 : USES_MAX);
}

static void s3_remove(struct kvc_policy *policy, uint32_t id)
{
	kvc_order_remove(policy, id);
}

static void s3_evicted(struct kvc_policy *policy, uint32_t id)
{
	bool was_small = node_queue(node_of(policy, id)) == SMALL;
	struct kvc_policy_block block = block_of(policy, id);
	uint64_t ghosts = policy->options.capacity - small_target(policy);

	kvc_order_remove(policy, id);
	if (was_small)
		kvc_ghosts_add(policy->ghosts, SMALL, block.hash, block.bytes);
	while (kvc_ghosts_bytes(policy->ghosts, SMALL) > ghosts)
		(void)kvc_ghosts_drop_oldest(policy->ghosts, SMALL);
}

/* To the hot end of MAIN. */
static void turn(struct kvc_policy *policy, uint32_t id, unsigned uses)
{
	struct kvc_policy_node *node = node_of(policy, id);

	kvc_order_remove(policy, id);
	node_queue_set(node, MAIN);
	node_uses_set(node, uses);
	kvc_order_push_hot(policy, id);
}

/* The first block of a queue that is to leave it; those before it that have earned it stay, in MAIN. Ends:
 * each turn takes a use away, or empties SMALL by one. */
static uint32_t queue_victim(struct kvc_policy *policy, unsigned queue, unsigned kinds,
                             bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t id;

	while ((id = kvc_order_coldest(policy, queue, kinds, may_go)) != KVC_POLICY_NONE) {
		unsigned uses = node_uses(node_of(policy, id));

		if (queue == SMALL && uses >= USES_TO_STAY)
			turn(policy, id, 0);
		else if (queue == MAIN && uses)
			turn(policy, id, uses - 1);
		else
			break;
	}
	return id;
}

static uint32_t s3_victim(struct kvc_policy *policy, unsigned kinds, bool (*may_go)(void *owner, uint32_t id))
{
	unsigned queue = kvc_order_queue_bytes(policy, SMALL) > small_target(policy) ? SMALL : MAIN;
	uint32_t id = queue_victim(policy, queue, kinds, may_go);

	return id == KVC_POLICY_NONE ? queue_victim(policy, !queue, kinds, may_go) : id;
}

static uint32_t s3_peek(struct kvc_policy *policy, unsigned kinds, bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t id = kvc_order_coldest(policy, SMALL, kinds, may_go);

	return id == KVC_POLICY_NONE ? kvc_order_coldest(policy, MAIN, kinds, may_go) : id;
}

const struct policy_ops kvc_policy_s3_fifo = {
        .name = "s3-fifo",
        .insert = s3_insert,
        .hit = s3_hit,
        .note = s3_hit,
        .remove = s3_remove,
        .evicted = s3_evicted,
        .victim = s3_victim,
        .peek = s3_peek,
        .stays = true,
};
