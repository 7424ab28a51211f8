/* The table of policies, and what they have in common. See policy.h. */
#include "daemon/policy/policy.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/policy/internal.h"

/* Tokens before a block at which attention to them costs as much as the weights: see policy.h. */
#define BALANCE_TOKENS 30600.0

static const struct policy_ops *const table[KVC_POLICIES] = {
        [KVC_POLICY_CHAIN_LRU] = &kvc_policy_chain_lru,
        [KVC_POLICY_LRU] = &kvc_policy_lru,
        [KVC_POLICY_ARC] = &kvc_policy_arc,
        [KVC_POLICY_S3_FIFO] = &kvc_policy_s3_fifo,
        [KVC_POLICY_GDSF] = &kvc_policy_gdsf,
};

kvc_status kvc_policy_parse(const char *name, enum kvc_policy_kind *kind)
{
	for (unsigned i = 0; i < KVC_POLICIES; i++) {
		if (strcmp(table[i]->name, name) == 0) {
			*kind = (enum kvc_policy_kind)i;
			return KVC_OK;
		}
	}
	return KVC_INVALID;
}

const char *kvc_policy_name(enum kvc_policy_kind kind)
{
	return table[kind]->name;
}

kvc_status kvc_policy_open(const struct kvc_policy_options *options, struct kvc_policy **out)
{
	struct kvc_policy *policy = kvc_calloc(1, sizeof *policy);

	KVC_PRE((unsigned)options->kind < KVC_POLICIES && options->node && options->block);
	if (!policy)
		return KVC_NO_MEMORY;
	if (kvc_ghosts_open(options->ghosts_max, &policy->ghosts) != KVC_OK) {
		kvc_free(policy);
		return KVC_NO_MEMORY;
	}
	policy->ops = table[options->kind];
	policy->options = *options;
	policy->clock = options->clock ? options->clock : &policy->own_clock;
	for (unsigned queue = 0; queue < QUEUES; queue++)
		for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++)
			kvc_order_init(&policy->lists[queue][kind]);
	*out = policy;
	return KVC_OK;
}

void kvc_policy_close(struct kvc_policy *policy)
{
	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++)
		kvc_free(policy->heaps[kind].items);
	kvc_ghosts_close(policy->ghosts);
	kvc_free(policy);
}

bool kvc_policy_deepest_first(const struct kvc_policy *policy)
{
	return policy->ops->deepest_first;
}

bool kvc_policy_by_recency(const struct kvc_policy *policy)
{
	return policy->ops->by_recency;
}

void kvc_policy_capacity(struct kvc_policy *policy, uint64_t bytes)
{
	policy->options.capacity = bytes;
	if (policy->target > bytes)
		policy->target = bytes;
}

void kvc_policy_arrive(struct kvc_policy *policy, uint32_t id, uint32_t parent)
{
	KVC_PRE(!kvc_policy_listed(node_of(policy, id)));
	if (policy->ops->arrive)
		policy->ops->arrive(policy, id, parent);
}

void kvc_policy_insert(struct kvc_policy *policy, uint32_t id, unsigned kind, enum kvc_policy_how how,
                       uint32_t parent)
{
	struct kvc_policy_node *node = node_of(policy, id);

	KVC_PRE(kind < KVC_POLICY_CLASSES && !kvc_policy_listed(node));
	node_kind_set(node, kind);
	policy->ops->insert(policy, id, how, parent);
}

void kvc_policy_hit(struct kvc_policy *policy, uint32_t id, unsigned kind)
{
	if (!kvc_policy_listed(node_of(policy, id))) {
		policy->ops->note(policy, id);
		return;
	}
	policy->ops->hit(policy, id);
	if (!policy->ops->stays)
		kvc_policy_reclass(policy, id, kind);
}

void kvc_policy_reclass(struct kvc_policy *policy, uint32_t id, unsigned kind)
{
	if (kvc_policy_class(node_of(policy, id)) == kind)
		return;
	kvc_policy_remove(policy, id);
	kvc_policy_insert(policy, id, kind, KVC_POLICY_BACK, KVC_POLICY_NONE);
}

void kvc_policy_remove(struct kvc_policy *policy, uint32_t id)
{
	KVC_PRE(kvc_policy_listed(node_of(policy, id)));
	policy->ops->remove(policy, id);
}

void kvc_policy_evict(struct kvc_policy *policy, uint32_t id)
{
	KVC_PRE(kvc_policy_listed(node_of(policy, id)));
	policy->ops->evicted(policy, id);
}

uint32_t kvc_policy_victim(struct kvc_policy *policy, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id))
{
	return policy->ops->victim(policy, kinds, may_go);
}

uint32_t kvc_policy_peek(struct kvc_policy *policy, unsigned kinds, bool (*may_go)(void *owner, uint32_t id))
{
	const struct policy_ops *ops = policy->ops;

	return (ops->peek ? ops->peek : ops->victim)(policy, kinds, may_go);
}

uint32_t kvc_policy_count(const struct kvc_policy *policy, unsigned kind)
{
	uint32_t count = policy->heaps[kind].count;

	for (unsigned queue = 0; queue < QUEUES; queue++)
		count += policy->lists[queue][kind].count;
	return count;
}

uint64_t kvc_policy_bytes(const struct kvc_policy *policy, unsigned kind)
{
	uint64_t bytes = policy->heaps[kind].bytes;

	for (unsigned queue = 0; queue < QUEUES; queue++)
		bytes += policy->lists[queue][kind].bytes;
	return bytes;
}

uint64_t kvc_policy_memory(const struct kvc_policy *policy)
{
	uint64_t bytes = sizeof *policy + kvc_ghosts_memory(policy->ghosts);

	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++)
		bytes += policy->heaps[kind].capacity * sizeof(struct heap_item);
	return bytes;
}

double kvc_policy_cost(uint32_t first, uint32_t tokens)
{
	return tokens * (1.0 + (first + 0.5 * tokens) / BALANCE_TOKENS);
}
