/* Eviction policies against simple models: what is listed, which block goes, what is remembered, no memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/conf/conf.h"
#include "daemon/policy/ghost.h"
#include "daemon/policy/policy.h"
#include "tests/support/prng.h"

enum { BLOCKS = 400, STEPS = 40000, KIB = 1024 };

struct item {
	struct kvc_policy_node node;
	bool listed;
	bool held;
	unsigned kind;
	uint64_t bytes;
	uint32_t first;
	uint64_t used; /* turn of the model's clock, LRU's order */
};

struct shop {
	struct item items[BLOCKS];
	struct kvc_policy *policy;
	uint64_t clock;
};

static struct kvc_policy_node *node_of(void *owner, uint32_t id)
{
	return &((struct shop *)owner)->items[id].node;
}

static struct kvc_policy_block block_of(void *owner, uint32_t id)
{
	const struct item *item = &((struct shop *)owner)->items[id];

	return (struct kvc_policy_block){.hash = id * 0x9E3779B97F4A7C15ull,
	                                 .bytes = item->bytes,
	                                 .first = item->first,
	                                 .tokens = 512};
}

static bool may_go(void *owner, uint32_t id)
{
	return !((struct shop *)owner)->items[id].held;
}

static struct shop *shop_open(enum kvc_policy_kind kind, uint64_t capacity)
{
	struct shop *shop = test_calloc(1, sizeof *shop);
	struct kvc_policy_options options = {
	        .kind = kind,
	        .capacity = capacity,
	        .ghosts_max = BLOCKS,
	        .node = node_of,
	        .block = block_of,
	        .owner = shop,
	};

	for (unsigned i = 0; i < BLOCKS; i++)
		shop->items[i].bytes = KIB;
	assert_int_equal(kvc_policy_open(&options, &shop->policy), KVC_OK);
	return shop;
}

static void shop_close(struct shop *shop)
{
	kvc_policy_close(shop->policy);
	test_free(shop);
	assert_int_equal(kvc_alloc_live(), 0);
}

static void add(struct shop *shop, uint32_t id, uint32_t parent)
{
	kvc_policy_arrive(shop->policy, id, parent);
	kvc_policy_insert(shop->policy, id, 0, KVC_POLICY_NEW, parent);
}

static void use(struct shop *shop, uint32_t id)
{
	kvc_policy_hit(shop->policy, id, kvc_policy_class(&shop->items[id].node));
}

/* Evict one of any class and say which. */
static uint32_t evict(struct shop *shop)
{
	uint32_t id = kvc_policy_victim(shop->policy, KVC_POLICY_ALL, may_go);

	if (id != KVC_POLICY_NONE)
		kvc_policy_evict(shop->policy, id);
	return id;
}

/* ---- every policy: a random history against counts ---- */

static void totals_match(const struct shop *shop)
{
	for (unsigned kind = 0; kind < KVC_POLICY_CLASSES; kind++) {
		uint64_t bytes = 0;
		uint32_t count = 0;

		for (unsigned i = 0; i < BLOCKS; i++) {
			const struct item *item = &shop->items[i];

			assert_int_equal(kvc_policy_listed(&item->node), item->listed);
			if (!item->listed || item->kind != kind)
				continue;
			count++;
			bytes += item->bytes;
		}
		assert_int_equal(kvc_policy_count(shop->policy, kind), count);
		assert_int_equal(kvc_policy_bytes(shop->policy, kind), bytes);
	}
}

/* The one that LRU would take. */
static uint32_t oldest(const struct shop *shop, unsigned kinds)
{
	uint32_t best = KVC_POLICY_NONE;

	for (uint32_t i = 0; i < BLOCKS; i++) {
		const struct item *item = &shop->items[i];

		if (!item->listed || item->held || !(kinds >> item->kind & 1))
			continue;
		if (best == KVC_POLICY_NONE || item->used < shop->items[best].used)
			best = i;
	}
	return best;
}

static void random_victim(struct shop *shop, struct prng *prng, bool exact)
{
	unsigned kinds = 1 + prng_below(prng, KVC_POLICY_ALL);
	uint32_t expected = oldest(shop, kinds);
	uint32_t id = kvc_policy_victim(shop->policy, kinds, may_go);

	if (id == KVC_POLICY_NONE) {
		assert_int_equal(expected, KVC_POLICY_NONE); /* few are held: one is always found */
		return;
	}
	if (exact)
		assert_int_equal(id, expected);
	assert_true(shop->items[id].listed && !shop->items[id].held && kinds >> shop->items[id].kind & 1);
	if (prng_below(prng, 2)) {
		kvc_policy_evict(shop->policy, id);
		shop->items[id].listed = false;
	}
}

static void random_insert(struct shop *shop, struct prng *prng, uint32_t id)
{
	struct item *item = &shop->items[id];

	item->kind = prng_below(prng, KVC_POLICY_CLASSES);
	item->bytes = KIB * (1 + prng_below(prng, 8));
	item->first = prng_below(prng, 100000);
	item->used = ++shop->clock;
	item->listed = true;
	kvc_policy_arrive(shop->policy, id, KVC_POLICY_NONE);
	kvc_policy_insert(shop->policy, id, item->kind, KVC_POLICY_NEW, KVC_POLICY_NONE);
}

static void random_step(struct shop *shop, struct prng *prng, bool exact)
{
	uint32_t id = prng_below(prng, BLOCKS);
	struct item *item = &shop->items[id];

	item->held = prng_below(prng, 50) == 0;
	if (!item->listed) {
		random_insert(shop, prng, id);
		return;
	}
	switch (prng_below(prng, 6)) {
	case 0:
		kvc_policy_remove(shop->policy, id);
		item->listed = false;
		break;
	case 1:
		item->kind = prng_below(prng, KVC_POLICY_CLASSES);
		kvc_policy_reclass(shop->policy, id, item->kind);
		break;
	case 2:
	case 3:
		random_victim(shop, prng, exact);
		break;
	default:
		item->used = ++shop->clock;
		use(shop, id);
		break;
	}
}

static void random_history(enum kvc_policy_kind kind, struct prng *prng)
{
	struct shop *shop = shop_open(kind, 200 * KIB);
	bool exact = kind == KVC_POLICY_LRU || kind == KVC_POLICY_CHAIN_LRU;

	for (unsigned i = 0; i < STEPS; i++) {
		random_step(shop, prng, exact);
		if (i % 100 == 0)
			totals_match(shop);
		if (i % 5000 == 0)
			kvc_policy_capacity(shop->policy, (50 + prng_below(prng, 400)) * KIB);
	}
	shop_close(shop);
}

static void random_histories(void **state)
{
	struct prng prng = {prng_seed("policy histories")};

	(void)state;
	for (unsigned kind = 0; kind < KVC_POLICIES; kind++)
		random_history((enum kvc_policy_kind)kind, &prng);
}

/* ---- chain-lru ---- */

enum { CHAINS = 20, LENGTH = 20 };

/* A get of the chain up to `hits`, then a put of the rest, as the cache does it. */
static void chain_use(struct shop *shop, uint32_t chain, uint32_t hits)
{
	for (uint32_t i = hits; i-- > 0;)
		use(shop, chain * LENGTH + i);
	for (uint32_t i = hits; i < LENGTH; i++) {
		uint32_t id = chain * LENGTH + i;

		shop->items[id].listed = true;
		kvc_policy_arrive(shop->policy, id, i ? id - 1 : KVC_POLICY_NONE);
	}
	for (uint32_t i = LENGTH; i-- > hits;) /* complete in another order */
		kvc_policy_insert(shop->policy, chain * LENGTH + i, i < LENGTH / 2 ? 1 : 0, KVC_POLICY_NEW,
		                  KVC_POLICY_NONE);
}

static uint32_t chain_length(const struct shop *shop, uint32_t chain)
{
	uint32_t length = 0;

	while (length < LENGTH && shop->items[chain * LENGTH + length].listed)
		length++;
	return length;
}

/* Whatever is used and evicted, also when blocks of one chain are of several classes and change them. */
static void no_holes_in_chains(void **state)
{
	struct shop *shop = shop_open(KVC_POLICY_CHAIN_LRU, 200 * KIB);
	struct prng prng = {prng_seed("policy chains")};

	(void)state;
	for (uint32_t i = 0; i < BLOCKS; i++)
		shop->items[i].first = i % LENGTH;
	for (unsigned i = 0; i < STEPS / 10; i++) {
		uint32_t chain = prng_below(&prng, CHAINS);

		chain_use(shop, chain, chain_length(shop, chain));
		for (uint32_t n = prng_below(&prng, 40); n-- > 0;) {
			uint32_t id = evict(shop);

			if (id == KVC_POLICY_NONE)
				break;
			shop->items[id].listed = false;
			assert_int_equal(chain_length(shop, id / LENGTH), id % LENGTH);
			for (uint32_t k = id % LENGTH; k < LENGTH; k++)
				assert_false(shop->items[id - id % LENGTH + k].listed);
		}
		for (uint32_t k = 0; k < chain_length(shop, chain); k++)
			kvc_policy_reclass(shop->policy, chain * LENGTH + k, prng_below(&prng, 4));
	}
	shop_close(shop);
}

static void blocks_come_back_to_their_place(void **state)
{
	struct shop *shop = shop_open(KVC_POLICY_CHAIN_LRU, 200 * KIB);

	(void)state;
	for (uint32_t id = 0; id < 5; id++)
		add(shop, id, KVC_POLICY_NONE);
	kvc_policy_remove(shop->policy, 1);
	use(shop, 2);
	kvc_policy_insert(shop->policy, 1, 2, KVC_POLICY_BACK, KVC_POLICY_NONE);
	kvc_policy_insert(shop->policy, 9, 0, KVC_POLICY_COLD, KVC_POLICY_NONE);
	assert_int_equal(evict(shop), 9);
	assert_int_equal(evict(shop), 0);
	assert_int_equal(evict(shop), 1);
	assert_int_equal(evict(shop), 3);
	assert_int_equal(evict(shop), 4);
	assert_int_equal(evict(shop), 2);
	assert_int_equal(evict(shop), KVC_POLICY_NONE);
	shop_close(shop);
}

/* Blocks in use are passed over, but not without end. */
static void the_search_is_bounded(void **state)
{
	struct shop *shop = shop_open(KVC_POLICY_CHAIN_LRU, 200 * KIB);

	(void)state;
	for (uint32_t id = 0; id <= KVC_POLICY_SCAN; id++) {
		add(shop, id, KVC_POLICY_NONE);
		shop->items[id].held = id < KVC_POLICY_SCAN;
	}
	assert_int_equal(kvc_policy_victim(shop->policy, KVC_POLICY_ALL, may_go), KVC_POLICY_NONE);
	shop->items[KVC_POLICY_SCAN - 1].held = false;
	assert_int_equal(evict(shop), KVC_POLICY_SCAN - 1);
	shop_close(shop);
}

/* ---- the others ---- */

/* What was used twice survives any number of blocks that are used once. */
static void a_scan_passes(void **state)
{
	static const enum kvc_policy_kind kinds[] = {KVC_POLICY_ARC, KVC_POLICY_S3_FIFO};

	(void)state;
	for (unsigned k = 0; k < 2; k++) {
		struct shop *shop = shop_open(kinds[k], 20 * KIB);

		for (uint32_t id = 0; id < 10; id++)
			add(shop, id, KVC_POLICY_NONE);
		for (uint32_t id = 0; id < 10; id++)
			use(shop, id);
		for (uint32_t id = 10; id < BLOCKS; id++) {
			if (id >= 20)
				assert_in_range(evict(shop), 10, id - 1);
			add(shop, id, KVC_POLICY_NONE);
		}
		shop_close(shop);
	}
}

/* A block that comes back while it is a ghost is not new any more. */
static void ghosts_come_back(void **state)
{
	static const enum kvc_policy_kind kinds[] = {KVC_POLICY_ARC, KVC_POLICY_S3_FIFO};

	(void)state;
	for (unsigned k = 0; k < 2; k++) {
		struct shop *shop = shop_open(kinds[k], 20 * KIB);

		for (uint32_t id = 0; id < 20; id++)
			add(shop, id, KVC_POLICY_NONE);
		assert_int_equal(evict(shop), 0);
		add(shop, 0, KVC_POLICY_NONE);
		for (uint32_t id = 1; id < 18; id++)
			assert_int_equal(evict(shop), id);
		assert_int_equal(kvc_policy_count(shop->policy, 0), 3);
		shop_close(shop);
	}
}

/* Least uses x cost / bytes goes; what was not used for long enough goes in the end. */
static void gdsf_weighs(void **state)
{
	struct shop *shop = shop_open(KVC_POLICY_GDSF, 20 * KIB);

	(void)state;
	shop->items[0].bytes = 4 * KIB; /* large */
	shop->items[2].first = 1000000; /* costs much */
	for (uint32_t id = 0; id < 4; id++)
		add(shop, id, KVC_POLICY_NONE);
	use(shop, 3); /* used twice */
	assert_int_equal(evict(shop), 0);
	assert_int_equal(evict(shop), 1);
	assert_int_equal(evict(shop), 3);
	for (uint32_t id = 10; id < 150; id++) {
		add(shop, id, KVC_POLICY_NONE);
		if (evict(shop) == 2) {
			assert_in_range(id, 30, 150);
			shop_close(shop);
			return;
		}
	}
	fail_msg("an old block never goes");
}

static void cost_grows_with_position(void **state)
{
	(void)state;
	assert_true(kvc_policy_cost(0, 512) > 512 && kvc_policy_cost(0, 512) < 520);
	assert_true(kvc_policy_cost(30600 - 256, 512) > 1023.9 && kvc_policy_cost(30600 - 256, 512) < 1024.1);
}

/* ---- ghosts ---- */

static void ghosts_are_bounded(void **state)
{
	struct kvc_ghosts *ghosts;

	(void)state;
	assert_int_equal(kvc_ghosts_open(100, &ghosts), KVC_OK);
	for (uint64_t hash = 0; hash < 1000; hash++)
		kvc_ghosts_add(ghosts, hash % 2, hash, hash);
	assert_int_equal(kvc_ghosts_count(ghosts, 0) + kvc_ghosts_count(ghosts, 1), 100);
	assert_int_equal(kvc_ghosts_take(ghosts, 800), -1);
	assert_int_equal(kvc_ghosts_take(ghosts, 999), 1);
	assert_int_equal(kvc_ghosts_take(ghosts, 999), -1);
	kvc_ghosts_add(ghosts, 0, 901, 1); /* moves from the other list */
	assert_int_equal(kvc_ghosts_take(ghosts, 901), 0);
	for (unsigned list = 0; list < 2; list++) {
		while (kvc_ghosts_drop_oldest(ghosts, list))
			;
		assert_int_equal(kvc_ghosts_bytes(ghosts, list), 0);
	}
	kvc_ghosts_close(ghosts);
	assert_int_equal(kvc_ghosts_open(0, &ghosts), KVC_OK);
	kvc_ghosts_add(ghosts, 0, 1, 1);
	assert_int_equal(kvc_ghosts_count(ghosts, 0), 0);
	kvc_ghosts_close(ghosts);
	assert_int_equal(kvc_alloc_live(), 0);
}

/* ---- no memory ---- */

static void open_without_memory(void **state)
{
	struct kvc_policy_options options = {.node = node_of, .block = block_of};
	struct kvc_policy *policy;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_policy_open(&options, &policy), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_alloc_live(), 0);
}

/* Ghosts are not remembered, a heap that cannot grow becomes a list: nothing is lost or refused. */
static void work_without_memory(void **state)
{
	(void)state;
	for (unsigned kind = 0; kind < KVC_POLICIES; kind++) {
		struct shop *shop = shop_open((enum kvc_policy_kind)kind, 200 * KIB);
		uint32_t gone = 0;

		add(shop, 0, KVC_POLICY_NONE);
		kvc_alloc_fail_at(1, 1);
		for (uint32_t id = 1; id < BLOCKS; id++)
			add(shop, id, KVC_POLICY_NONE);
		for (uint32_t id = 0; id < BLOCKS; id++)
			use(shop, id);
		for (uint32_t id = 0; id < BLOCKS; id += 2)
			kvc_policy_reclass(shop->policy, id, 3);
		while (evict(shop) != KVC_POLICY_NONE)
			gone++;
		assert_int_equal(gone, BLOCKS);
		kvc_alloc_fail_at(0, 0);
		shop_close(shop);
	}
}

/* Also those of the daemon's option `policy`. */
static void names(void **state)
{
	enum kvc_policy_kind kind = KVC_POLICY_ARC;
	char error[KVC_CONF_ERROR_BYTES];
	enum kvc_conf_action action;
	struct kvc_conf conf;

	(void)state;
	for (unsigned i = 0; i < KVC_POLICIES; i++) {
		char flag[64], program[] = "kvcellard";
		char *flags[] = {program, flag, NULL};

		(void)snprintf(flag, sizeof flag, "--policy=%s", kvc_policy_name((enum kvc_policy_kind)i));
		assert_int_equal(kvc_conf_load(2, flags, &conf, &action, error), KVC_OK);
		assert_int_equal(conf.policy, i);
	}
	assert_int_equal(kvc_policy_parse("best", &kind), KVC_INVALID);
	assert_int_equal(kind, KVC_POLICY_ARC);
	for (unsigned i = 0; i < KVC_POLICIES; i++) {
		assert_int_equal(kvc_policy_parse(kvc_policy_name((enum kvc_policy_kind)i), &kind), KVC_OK);
		assert_int_equal(kind, i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(random_histories),
	        cmocka_unit_test(no_holes_in_chains),
	        cmocka_unit_test(blocks_come_back_to_their_place),
	        cmocka_unit_test(the_search_is_bounded),
	        cmocka_unit_test(a_scan_passes),
	        cmocka_unit_test(ghosts_come_back),
	        cmocka_unit_test(gdsf_weighs),
	        cmocka_unit_test(cost_grows_with_position),
	        cmocka_unit_test(ghosts_are_bounded),
	        cmocka_unit_test(open_without_memory),
	        cmocka_unit_test(work_without_memory),
	        cmocka_unit_test(names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
