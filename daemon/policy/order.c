/* Lists from cold to hot. See internal.h. */
#include <stddef.h>

#include "daemon/base/check.h"
#include "daemon/policy/internal.h"

enum { STAMP_SEARCH = 1024 }; /* steps from the hot end: the length of a long chain */

void kvc_order_init(struct order *list)
{
	*list = (struct order){.coldest = KVC_POLICY_NONE, .hottest = KVC_POLICY_NONE};
}

/* Whether `a` is to go before `b`: it was used earlier; or, put under a parent that had not been used since,
 * it is deeper. Stamps are turns of a clock that wraps; those of listed blocks lie within half of its range.
 */
static bool colder_than(const struct kvc_policy *policy, uint32_t a, uint32_t b)
{
	uint32_t age = node_of(policy, b)->stamp - node_of(policy, a)->stamp;

	return age ? (int32_t)age > 0 : block_of(policy, a).first > block_of(policy, b).first;
}

static struct order *list_of(struct kvc_policy *policy, const struct kvc_policy_node *node)
{
	return &policy->lists[node_queue(node)][kvc_policy_class(node)];
}

/* Link between two neighbours, either of which may be none. */
static void link_between(struct kvc_policy *policy, uint32_t id, uint32_t colder, uint32_t hotter)
{
	struct kvc_policy_node *node = node_of(policy, id);
	struct order *list = list_of(policy, node);

	KVC_PRE(!(node->where & WHERE_LISTED));
	node->colder = colder;
	node->hotter = hotter;
	node->where |= WHERE_LISTED;
	if (colder == KVC_POLICY_NONE)
		list->coldest = id;
	else
		node_of(policy, colder)->hotter = id;
	if (hotter == KVC_POLICY_NONE)
		list->hottest = id;
	else
		node_of(policy, hotter)->colder = id;
	list->count++;
	list->bytes += bytes_of(policy, id);
}

void kvc_order_push_hot(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);

	node->stamp = ++*policy->clock;
	link_between(policy, id, list_of(policy, node)->hottest, KVC_POLICY_NONE);
}

void kvc_order_push_cold(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);
	uint32_t coldest = kvc_order_coldest(policy, node_queue(node), KVC_POLICY_ALL, NULL);

	node->stamp = coldest == KVC_POLICY_NONE ? ++*policy->clock : node_of(policy, coldest)->stamp - 1;
	link_between(policy, id, KVC_POLICY_NONE, list_of(policy, node)->coldest);
}

static bool is_above(struct kvc_policy *policy, uint32_t anchor, uint32_t id)
{
	const struct kvc_policy_node *node = node_of(policy, anchor);

	return node->where & WHERE_LISTED && list_of(policy, node) == list_of(policy, node_of(policy, id)) &&
	       colder_than(policy, id, anchor);
}

/* The neighbour that is to be colder than the block, by stamp and depth. Looks at no more than STAMP_SEARCH;
 * false: the one where it stopped is still as hot. */
static bool place_find(struct kvc_policy *policy, uint32_t id, uint32_t anchor, uint32_t *colder,
                       uint32_t *hotter)
{
	*hotter = anchor;
	*colder = anchor == KVC_POLICY_NONE ? list_of(policy, node_of(policy, id))->hottest
	                                    : node_of(policy, anchor)->colder;
	for (unsigned i = 0; *colder != KVC_POLICY_NONE; i++) {
		if (colder_than(policy, *colder, id))
			return true;
		if (i == STAMP_SEARCH)
			return false;
		*hotter = *colder;
		*colder = node_of(policy, *colder)->colder;
	}
	return true;
}

void kvc_order_push_stamp(struct kvc_policy *policy, uint32_t id)
{
	uint32_t colder, hotter;

	if (!place_find(policy, id, KVC_POLICY_NONE, &colder, &hotter))
		node_of(policy, id)->stamp = node_of(policy, colder)->stamp;
	link_between(policy, id, colder, hotter);
}

void kvc_order_push_below(struct kvc_policy *policy, uint32_t id, uint32_t anchor)
{
	uint32_t colder, hotter;

	if (anchor != KVC_POLICY_NONE && !is_above(policy, anchor, id))
		anchor = KVC_POLICY_NONE;
	if (place_find(policy, id, anchor, &colder, &hotter))
		link_between(policy, id, colder, hotter);
	else
		kvc_order_push_cold(policy, id);
}

void kvc_order_remove(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);
	struct order *list = list_of(policy, node);
	uint64_t bytes = bytes_of(policy, id);

	KVC_PRE(node->where & WHERE_LISTED && list->count > 0 && list->bytes >= bytes);
	if (node->colder == KVC_POLICY_NONE)
		list->coldest = node->hotter;
	else
		node_of(policy, node->colder)->hotter = node->hotter;
	if (node->hotter == KVC_POLICY_NONE)
		list->hottest = node->colder;
	else
		node_of(policy, node->hotter)->colder = node->colder;
	node->where &= (uint8_t)~WHERE_LISTED;
	list->count--;
	list->bytes -= bytes;
}

/* The coldest of a list that may go. */
static uint32_t list_coldest(struct kvc_policy *policy, const struct order *list,
                             bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t id = list->coldest;

	for (unsigned i = 0; i < KVC_POLICY_SCAN && id != KVC_POLICY_NONE; i++) {
		if (!may_go || may_go(policy->options.owner, id))
			return id;
		id = node_of(policy, id)->hotter;
	}
	return KVC_POLICY_NONE;
}

uint32_t kvc_order_coldest(struct kvc_policy *policy, unsigned queue, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t best = KVC_POLICY_NONE;

	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++) {
		uint32_t id = KVC_POLICY_NONE;

		if (kinds >> kind & 1)
			id = list_coldest(policy, &policy->lists[queue][kind], may_go);
		if (id == KVC_POLICY_NONE)
			continue;
		if (best == KVC_POLICY_NONE || colder_than(policy, id, best))
			best = id;
	}
	return best;
}

uint64_t kvc_order_queue_bytes(const struct kvc_policy *policy, unsigned queue)
{
	uint64_t bytes = 0;

	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++)
		bytes += policy->lists[queue][kind].bytes;
	return bytes;
}
