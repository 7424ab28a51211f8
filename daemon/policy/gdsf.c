/* GreedyDual-Size-Frequency (Cherkasova, 1998): the block goes whose
 *
 *   priority = age + uses x cost / bytes
 *
 * is least, where `age` is the priority of the last one that went, and cost that of recomputing it
 * (kvc_policy_cost). In the node: `stamp` is cost / bytes as a float, `hotter` the uses, `colder` the place
 * in the heap of its class. A block for which the heap cannot grow stands in a plain list, and goes first. */
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/policy/internal.h"

enum { HEAP_FIRST = 64, HEAP_SCAN = 2 * KVC_POLICY_SCAN };

/* ---- heap ---- */

static void item_put(struct kvc_policy *policy, struct heap *heap, uint32_t place, struct heap_item item)
{
	heap->items[place] = item;
	node_of(policy, item.id)->colder = place;
}

static void sift_up(struct kvc_policy *policy, struct heap *heap, uint32_t place)
{
	struct heap_item item = heap->items[place];

	while (place && heap->items[(place - 1) / 2].priority > item.priority) {
		item_put(policy, heap, place, heap->items[(place - 1) / 2]);
		place = (place - 1) / 2;
	}
	item_put(policy, heap, place, item);
}

static void sift_down(struct kvc_policy *policy, struct heap *heap, uint32_t place)
{
	struct heap_item item = heap->items[place];

	for (;;) {
		uint32_t least = 2 * place + 1;

		if (least + 1 < heap->count && heap->items[least + 1].priority < heap->items[least].priority)
			least++;
		if (least >= heap->count || heap->items[least].priority >= item.priority)
			break;
		item_put(policy, heap, place, heap->items[least]);
		place = least;
	}
	item_put(policy, heap, place, item);
}

static bool heap_room(struct heap *heap)
{
	uint32_t capacity = heap->capacity ? 2 * heap->capacity : HEAP_FIRST;
	struct heap_item *items;

	if (heap->count < heap->capacity)
		return true;
	items = kvc_realloc(heap->items, capacity, sizeof *items);
	if (!items)
		return false;
	heap->items = items;
	heap->capacity = capacity;
	return true;
}

static void heap_remove(struct kvc_policy *policy, struct heap *heap, uint32_t place)
{
	struct heap_item last = heap->items[--heap->count];

	if (place == heap->count)
		return;
	item_put(policy, heap, place, last);
	sift_up(policy, heap, place);
	sift_down(policy, heap, node_of(policy, last.id)->colder);
}

/* ---- blocks ---- */

static float worth_of(const struct kvc_policy_node *node)
{
	uint32_t bits = node->stamp;
	float worth;

	memcpy(&worth, &bits, sizeof worth);
	return worth;
}

static double priority_of(const struct kvc_policy *policy, const struct kvc_policy_node *node)
{
	return policy->age + (double)node->hotter * (double)worth_of(node);
}

static void worth_set(struct kvc_policy_node *node, const struct kvc_policy_block *block)
{
	float worth = (float)(kvc_policy_cost(block->first, block->tokens) / (double)block->bytes);
	uint32_t bits;

	memcpy(&bits, &worth, sizeof bits);
	node->stamp = bits;
}

static void gdsf_insert(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	struct kvc_policy_node *node = node_of(policy, id);
	struct heap *heap = &policy->heaps[kvc_policy_class(node)];
	struct kvc_policy_block block = block_of(policy, id);

	(void)parent;
	if (!heap_room(heap)) {
		kvc_order_push_hot(policy, id);
		return;
	}
	if (how != KVC_POLICY_BACK || !node->hotter)
		node->hotter = 1;
	worth_set(node, &block);
	node->where |= WHERE_LISTED | WHERE_HEAP;
	heap->bytes += block.bytes;
	heap->items[heap->count] = (struct heap_item){
	        .priority = how == KVC_POLICY_COLD ? policy->age : priority_of(policy, node),
	        .id = id,
	};
	sift_up(policy, heap, heap->count++);
}

static void gdsf_hit(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);
	struct heap *heap = &policy->heaps[kvc_policy_class(node)];

	if (!(node->where & WHERE_HEAP))
		return;
	if (node->hotter < UINT32_MAX)
		node->hotter++;
	heap->items[node->colder].priority = priority_of(policy, node);
	sift_down(policy, heap, node->colder);
}

static void gdsf_note(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);

	if (node->hotter < UINT32_MAX)
		node->hotter++;
}

static void gdsf_remove(struct kvc_policy *policy, uint32_t id)
{
	struct kvc_policy_node *node = node_of(policy, id);
	struct heap *heap = &policy->heaps[kvc_policy_class(node)];

	if (!(node->where & WHERE_HEAP)) {
		kvc_order_remove(policy, id);
		node->hotter = 0;
		return;
	}
	heap->bytes -= bytes_of(policy, id);
	heap_remove(policy, heap, node->colder);
	node->where &= (uint8_t) ~(WHERE_LISTED | WHERE_HEAP);
}

static void gdsf_evicted(struct kvc_policy *policy, uint32_t id)
{
	const struct kvc_policy_node *node = node_of(policy, id);

	if (node->where & WHERE_HEAP) {
		double priority = policy->heaps[kvc_policy_class(node)].items[node->colder].priority;

		if (priority > policy->age)
			policy->age = priority;
	}
	gdsf_remove(policy, id);
}

/* ---- victim ---- */

/* The least of a heap that may go. If its top may not, the least of the heap's first places: they hold small
 * priorities, if not exactly the smallest. */
static uint32_t heap_victim(const struct kvc_policy *policy, const struct heap *heap, double *priority,
                            bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t best = KVC_POLICY_NONE;

	for (uint32_t i = 0; i < heap->count && i < HEAP_SCAN; i++) {
		const struct heap_item *item = &heap->items[i];

		if (best != KVC_POLICY_NONE && item->priority >= *priority)
			continue;
		if (may_go && !may_go(policy->options.owner, item->id))
			continue;
		best = item->id;
		*priority = item->priority;
		if (i == 0)
			break;
	}
	return best;
}

static uint32_t gdsf_victim(struct kvc_policy *policy, unsigned kinds,
                            bool (*may_go)(void *owner, uint32_t id))
{
	uint32_t best = kvc_order_coldest(policy, 0, kinds, may_go);
	double least = 0;

	if (best != KVC_POLICY_NONE)
		return best;
	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++) {
		uint32_t id = KVC_POLICY_NONE;
		double priority;

		if (kinds >> kind & 1)
			id = heap_victim(policy, &policy->heaps[kind], &priority, may_go);
		if (id != KVC_POLICY_NONE && (best == KVC_POLICY_NONE || priority < least)) {
			best = id;
			least = priority;
		}
	}
	return best;
}

const struct policy_ops kvc_policy_gdsf = {
        .name = "gdsf",
        .insert = gdsf_insert,
        .hit = gdsf_hit,
        .note = gdsf_note,
        .remove = gdsf_remove,
        .evicted = gdsf_evicted,
        .victim = gdsf_victim,
};
