/* Which block goes when room is short. Pure decisions: no I/O, no clock, no threads; the only effects are on
 * the policy's own memory and on the nodes that the owner keeps for it.
 *
 * The owner (the cache, or a replay) numbers its blocks and keeps one kvc_policy_node in each; the policy
 * reaches it through `node`. A block that is handed over with kvc_policy_insert is listed until it is removed
 * or evicted; only listed blocks are offered as victims. The owner divides its blocks into classes (such as:
 * must be written first, may go at once); a victim is asked for among some of them.
 *
 * Every policy is O(1) or O(log n) a call; kvc_policy_victim looks past at most KVC_POLICY_SCAN blocks that
 * the owner holds back, in each list. What is remembered of blocks that went (ghosts) is bounded.
 *
 *   chain-lru  least recently used; of a chain the deepest block first, so that no prefix gets a hole
 *   lru        least recently used
 *   arc        two LRU lists, used once and used again, whose shares follow the hits on their ghosts
 *   s3-fifo    a small FIFO queue that most new blocks do not survive, and a main one
 *   gdsf       least (clock at last use + uses x cost of recomputing / bytes) */
#ifndef KVC_POLICY_H
#define KVC_POLICY_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

#define KVC_POLICY_NONE    0xFFFFFFFFu
#define KVC_POLICY_CLASSES 4u
#define KVC_POLICY_ALL     ((1u << KVC_POLICY_CLASSES) - 1)
#define KVC_POLICY_SCAN    64u

enum kvc_policy_kind {
	KVC_POLICY_CHAIN_LRU, /* the default */
	KVC_POLICY_LRU,
	KVC_POLICY_ARC,
	KVC_POLICY_S3_FIFO,
	KVC_POLICY_GDSF,
	KVC_POLICIES
};

/* What a block carries for its policy. Zeroed by the owner before the first insert; otherwise the policy's.
 * Packed, so that the byte at the end does not cost four. */
struct kvc_policy_node {
	uint32_t colder; /* neighbours in its list; gdsf: place in the heap, number of uses */
	uint32_t hotter;
	uint32_t stamp; /* turn of the policy's clock at the last use; gdsf: a float, what one use is worth */
	uint8_t where;  /* queue, class, uses, listed: see internal.h */
} __attribute__((packed));

static_assert(sizeof(struct kvc_policy_node) == 13, "a block's share of the index is counted in bytes");

/* What the owner knows of a block. */
struct kvc_policy_block {
	uint64_t hash;  /* of its key: how a ghost is recognised */
	uint64_t bytes; /* that it takes: the same as long as it is listed */
	uint32_t first; /* tokens before it in its sequence */
	uint32_t tokens;
};

/* Some bits of kvc_policy_node.where; the others are in internal.h. */
enum { KVC_POLICY_CLASS_SHIFT = 2, KVC_POLICY_CLASS = 0x0C, KVC_POLICY_LISTED = 0x40 };

struct kvc_policy_options {
	enum kvc_policy_kind kind;
	uint64_t capacity;   /* bytes that the blocks may take together */
	uint32_t ghosts_max; /* blocks that went and are remembered, at most */
	uint32_t *clock;     /* shared by policies between which blocks change; NULL: its own */
	struct kvc_policy_node *(*node)(void *owner, uint32_t id);
	struct kvc_policy_block (*block)(void *owner, uint32_t id);
	void *owner;
};

enum kvc_policy_how {
	KVC_POLICY_NEW,  /* was not there; it was announced with kvc_policy_arrive */
	KVC_POLICY_READ, /* comes up from another tier, because it is used */
	KVC_POLICY_BACK, /* was listed before, and returns to its place */
	KVC_POLICY_COLD, /* nobody can reach it: first to go */
};

struct kvc_policy;

/* Names as in the table above. KVC_INVALID, *kind untouched, for anything else. */
kvc_status kvc_policy_parse(const char *name, enum kvc_policy_kind *kind);
const char *kvc_policy_name(enum kvc_policy_kind kind);

kvc_status kvc_policy_open(const struct kvc_policy_options *options, struct kvc_policy **policy);
void kvc_policy_close(struct kvc_policy *policy);

/* Whether a chain that is used is to be told last block first. The others want it first block first. */
bool kvc_policy_deepest_first(const struct kvc_policy *policy);

/* Whether only the time of the last use counts. The others count uses, and should not be told of a look-up
 * before the get that follows it. */
bool kvc_policy_by_recency(const struct kvc_policy *policy);

/* The bytes that the blocks may take have changed. */
void kvc_policy_capacity(struct kvc_policy *policy, uint64_t bytes);

/* A block will be inserted as new, behind `parent` in its chain (KVC_POLICY_NONE: it is the first). Blocks
 * may be inserted in another order than they arrived. */
void kvc_policy_arrive(struct kvc_policy *policy, uint32_t id, uint32_t parent);

/* List a block that is not. `parent`: the block before it in its chain, or KVC_POLICY_NONE; if it is listed,
 * the place is found at once. */
void kvc_policy_insert(struct kvc_policy *policy, uint32_t id, unsigned kind, enum kvc_policy_how how,
                       uint32_t parent);

/* A block was used. If it is listed, and the policy moves it for that, it is of class `kind` from now on; if
 * it is not listed, this shows when it is again. */
void kvc_policy_hit(struct kvc_policy *policy, uint32_t id, unsigned kind);

/* A listed block is of another class from now on; it keeps its place. */
void kvc_policy_reclass(struct kvc_policy *policy, uint32_t id, unsigned kind);

/* Take a listed block off: for a while (then insert it with KVC_POLICY_BACK), or because it is gone. */
void kvc_policy_remove(struct kvc_policy *policy, uint32_t id);

/* Take a listed block off because room was short: some policies remember it. */
void kvc_policy_evict(struct kvc_policy *policy, uint32_t id);

/* The block of these classes (bits) that is to go first, of those that may go; KVC_POLICY_NONE: none was
 * found. It stays listed. `may_go` NULL: all may. */
uint32_t kvc_policy_victim(struct kvc_policy *policy, unsigned kinds,
                           bool (*may_go)(void *owner, uint32_t id));

/* As kvc_policy_victim, but asked only to know what will be wanted next: nothing moves. */
uint32_t kvc_policy_peek(struct kvc_policy *policy, unsigned kinds, bool (*may_go)(void *owner, uint32_t id));

static inline bool kvc_policy_listed(const struct kvc_policy_node *node)
{
	return node->where & KVC_POLICY_LISTED;
}

/* The class of a block that is listed, or was. */
static inline unsigned kvc_policy_class(const struct kvc_policy_node *node)
{
	return (unsigned)(node->where & KVC_POLICY_CLASS) >> KVC_POLICY_CLASS_SHIFT;
}

/* Listed blocks of a class, and their bytes. */
uint32_t kvc_policy_count(const struct kvc_policy *policy, unsigned kind);
uint64_t kvc_policy_bytes(const struct kvc_policy *policy, unsigned kind);

/* Memory that the policy has taken, without the nodes. */
uint64_t kvc_policy_memory(const struct kvc_policy *policy);

/* What recomputing a block costs, in units of a token at the start of a sequence: a token costs the weights
 * once, and attention over all tokens before it. Weights: 2 P operations for P parameters; attention: 4 L D x
 * (tokens before) for L layers of D query channels (Llama-3.1-8B: 32 x 4096, 8.0e9 parameters). Both are
 * equal at P / (2 L D) = 30,600 tokens; so
 *
 *   cost = tokens x (1 + (first + tokens / 2) / 30600) */
double kvc_policy_cost(uint32_t first, uint32_t tokens);

#endif
