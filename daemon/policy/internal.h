/* What the policies share. Nothing outside includes this. */
#ifndef KVC_POLICY_INTERNAL_H
#define KVC_POLICY_INTERNAL_H

#include "daemon/policy/ghost.h"
#include "daemon/policy/policy.h"

enum { QUEUES = 2, USES_MAX = 3 };

/* Bits of kvc_policy_node.where. */
enum {
	WHERE_QUEUE = 0x03,
	WHERE_CLASS_SHIFT = KVC_POLICY_CLASS_SHIFT,
	WHERE_CLASS = KVC_POLICY_CLASS,
	WHERE_USES_SHIFT = 4,
	WHERE_USES = 0x30,
	WHERE_LISTED = KVC_POLICY_LISTED,
	WHERE_HEAP = 0x80, /* gdsf: in the heap, not in a list */
};

/* Blocks from cold to hot, linked through their nodes. Stamps never fall from cold to hot; of equal ones the
 * deepest is the coldest. */
struct order {
	uint32_t coldest;
	uint32_t hottest;
	uint32_t count;
	uint64_t bytes;
};

struct heap_item {
	double priority;
	uint32_t id;
};

/* The least first. */
struct heap {
	struct heap_item *items;
	uint32_t count;
	uint32_t capacity;
	uint64_t bytes;
};

struct policy_ops {
	const char *name;
	bool deepest_first;
	bool by_recency;
	bool stays; /* a hit does not move the block */
	void (*insert)(struct kvc_policy *policy, uint32_t id, enum kvc_policy_how how, uint32_t parent);
	void (*arrive)(struct kvc_policy *policy, uint32_t id, uint32_t parent); /* may be NULL */
	void (*hit)(struct kvc_policy *policy, uint32_t id);
	void (*note)(struct kvc_policy *policy, uint32_t id); /* a hit of a block that is not listed */
	void (*remove)(struct kvc_policy *policy, uint32_t id);
	void (*evicted)(struct kvc_policy *policy, uint32_t id);
	uint32_t (*victim)(struct kvc_policy *policy, unsigned kinds,
	                   bool (*may_go)(void *owner, uint32_t id));
	uint32_t (*peek)(struct kvc_policy *policy, unsigned kinds,
	                 bool (*may_go)(void *owner, uint32_t id)); /* NULL: victim moves nothing */
};

/* Every queue has a list for each class, so that no search passes blocks of another class; stamps tell which
 * of several lists' first blocks is the coldest. */
struct kvc_policy {
	const struct policy_ops *ops;
	struct kvc_policy_options options;
	uint32_t *clock;
	uint32_t own_clock;
	struct order lists[QUEUES][KVC_POLICY_CLASSES];
	struct kvc_ghosts *ghosts;             /* arc, s3-fifo */
	uint64_t target;                       /* arc: bytes that the first queue should have */
	struct heap heaps[KVC_POLICY_CLASSES]; /* gdsf */
	double age;                            /* gdsf: priority of the last block that went */
};

extern const struct policy_ops kvc_policy_chain_lru;
extern const struct policy_ops kvc_policy_lru;
extern const struct policy_ops kvc_policy_arc;
extern const struct policy_ops kvc_policy_s3_fifo;
extern const struct policy_ops kvc_policy_gdsf;

/* ---- nodes ---- */

static inline struct kvc_policy_node *node_of(const struct kvc_policy *policy, uint32_t id)
{
	return policy->options.node(policy->options.owner, id);
}

static inline struct kvc_policy_block block_of(const struct kvc_policy *policy, uint32_t id)
{
	return policy->options.block(policy->options.owner, id);
}

static inline uint64_t bytes_of(const struct kvc_policy *policy, uint32_t id)
{
	return block_of(policy, id).bytes;
}

static inline unsigned node_queue(const struct kvc_policy_node *node)
{
	return node->where & WHERE_QUEUE;
}

static inline unsigned node_uses(const struct kvc_policy_node *node)
{
	return (unsigned)(node->where & WHERE_USES) >> WHERE_USES_SHIFT;
}

static inline void node_kind_set(struct kvc_policy_node *node, unsigned kind)
{
	node->where = (uint8_t)((node->where & ~(unsigned)WHERE_CLASS) | kind << WHERE_CLASS_SHIFT);
}

static inline void node_queue_set(struct kvc_policy_node *node, unsigned queue)
{
	node->where = (uint8_t)((node->where & ~(unsigned)WHERE_QUEUE) | queue);
}

static inline void node_uses_set(struct kvc_policy_node *node, unsigned uses)
{
	node->where = (uint8_t)((node->where & ~(unsigned)WHERE_USES) | uses << WHERE_USES_SHIFT);
}

/* ---- order.c: lists. The node's queue and class say which; it must be in none. ---- */

void kvc_order_init(struct order *list);

/* With a new stamp, as the hottest. */
void kvc_order_push_hot(struct kvc_policy *policy, uint32_t id);

/* As the coldest of its queue. */
void kvc_order_push_cold(struct kvc_policy *policy, uint32_t id);

/* Where its stamp belongs; of equal ones the deepest is the coldest. Found from the hot end; after a thousand
 * steps where the search stands. */
void kvc_order_push_stamp(struct kvc_policy *policy, uint32_t id);

/* The same, found from `anchor` on if that is hotter and in the same list; and as the coldest if the place is
 * not near. */
void kvc_order_push_below(struct kvc_policy *policy, uint32_t id, uint32_t anchor);

void kvc_order_remove(struct kvc_policy *policy, uint32_t id);

/* The coldest of a queue, among these kinds, that may go. */
uint32_t kvc_order_coldest(struct kvc_policy *policy, unsigned queue, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id));

/* Bytes of a queue. */
uint64_t kvc_order_queue_bytes(const struct kvc_policy *policy, unsigned queue);

#endif
