/* Who is evicted, in the simulated world: chains keep their beginnings, whatever is put, got and pinned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/world.h"

enum { CHAINS = 20, LENGTH = 30, STEPS = 1500, PINS = 40 };

struct chains {
	struct world w;
	struct kvc_lease *leases[3];
};

static void chain_keys(struct world *w, uint32_t chain, struct kvc_storage_key *keys)
{
	for (uint32_t i = 0; i < LENGTH; i++)
		keys[i] = storage_key(w, chain * LENGTH + i);
}

/* Put a chain as a session does: what is there is touched, last block first, then all are put at once. */
static void chain_put(struct world *w, uint32_t chain, uint32_t length)
{
	struct kvc_storage_key keys[LENGTH];
	struct job *jobs = test_calloc(LENGTH, sizeof *jobs);

	chain_keys(w, chain, keys);
	for (uint32_t i = length; i-- > 0;)
		kvc_cache_touch(w->cache, &keys[i]);
	for (uint32_t i = 0; i < length; i++) {
		job_init(w, &jobs[i], KVC_OP_PUT, chain * LENGTH + i);
		content_fill(chain * LENGTH + i, jobs[i].key, jobs[i].value);
		jobs[i].op.has_parent = i > 0;
		jobs[i].op.parent = keys[i ? i - 1 : 0];
		kvc_op_submit(w->cache, &jobs[i].op);
	}
	settle(w);
	for (uint32_t i = 0; i < length; i++)
		assert_true(jobs[i].done && jobs[i].op.status == KVC_OK);
	test_free(jobs);
}

/* Blocks of the chain that are there; after the first that is not there must be none. */
static uint32_t chain_check(struct world *w, uint32_t chain)
{
	struct kvc_storage_key keys[LENGTH];
	uint8_t rest[LENGTH];
	uint32_t prefix;

	chain_keys(w, chain, keys);
	prefix = kvc_cache_lookup(w->cache, keys, LENGTH, rest);
	for (uint32_t i = prefix; i < LENGTH; i++)
		assert_int_equal(rest[i], KVC_REST_NONE);
	return prefix;
}

static void chain_step(struct chains *c)
{
	struct kvc_storage_key keys[LENGTH];
	struct sim_random *random = &c->w.random;
	uint32_t chain = (uint32_t)(sim_next(random) % CHAINS);
	uint32_t length = 1 + (uint32_t)(sim_next(random) % LENGTH);
	struct kvc_lease **lease = &c->leases[sim_next(random) % 3];
	uint32_t done;

	chain_keys(&c->w, chain, keys);
	switch (sim_next(random) % 8) {
	case 0:
		(void)kvc_lease_pin(*lease, keys, length, &done); /* or over the lease's limit */
		break;
	case 1:
		kvc_lease_unpin(*lease, keys, LENGTH);
		break;
	case 2:
		kvc_lease_close(*lease);
		assert_int_equal(kvc_lease_open(c->w.cache, PINS, lease), KVC_OK);
		break;
	case 3:
		chain_check(&c->w, chain);
		break;
	default:
		chain_put(&c->w, chain, length);
		break;
	}
}

static void chains_keep_their_beginnings(void **state)
{
	uint64_t first = sim_seed(1);

	(void)state;
	for (uint64_t seed = first; seed < first + 4; seed++) {
		struct chains c;
		uint32_t there = 0;

		world_open(&c.w, seed, 0);
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(kvc_lease_open(c.w.cache, PINS, &c.leases[i]), KVC_OK);
		for (unsigned i = 0; i < STEPS; i++)
			chain_step(&c);
		for (uint32_t chain = 0; chain < CHAINS; chain++)
			there += chain_check(&c.w, chain);
		print_message("seed %llu: %u blocks there, %lld lost\n", (unsigned long long)seed, there,
		              (long long)stat(&c.w, "cache.lost"));
		assert_true(stat(&c.w, "cache.lost") > 1000);
		for (unsigned i = 0; i < 3; i++)
			kvc_lease_close(c.leases[i]);
		settle(&c.w);
		world_close(&c.w);
	}
}

/* A sequence that is used again outlives a flood of others. */
static void what_is_used_stays(void **state)
{
	(void)state;
	for (unsigned policy = 0; policy < KVC_POLICIES; policy++) {
		struct world w;

		print_message("%s\n", kvc_policy_name((enum kvc_policy_kind)policy));
		world_policy((enum kvc_policy_kind)policy);
		world_open(&w, 3, 0);
		chain_put(&w, 0, LENGTH);
		for (uint32_t i = 0; i < 200; i++) {
			assert_int_equal(get(&w, i % LENGTH, i % LENGTH), KVC_OK);
			for (uint32_t k = 0; k < LENGTH; k++) {
				struct kvc_storage_key key = storage_key(&w, k);

				kvc_cache_touch(w.cache, &key);
			}
			chain_put(&w, 1 + i, LENGTH / 2);
		}
		assert_true(stat(&w, "cache.lost") > 1000);
		world_close(&w);
	}
	world_policy(KVC_POLICY_CHAIN_LRU);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(chains_keep_their_beginnings),
	        cmocka_unit_test(what_is_used_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
