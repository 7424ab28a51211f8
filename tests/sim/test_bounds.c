/* What clients hold open, however much it is, makes the cache neither slow nor full for others: pins,
 * namespaces, tenants, requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/cache/internal.h"
#include "tests/sim/world.h"

/* ---- pins ---------------------------------------------------------------------------------- */

/* Pins end with the block, in every lease that has it, whichever was first: nothing of them has to be looked
 * for when a lease is full. What one lease lets go the others keep. */
static void pins_end_with_a_drop(void **state)
{
	struct kvc_lease *leases[3];
	struct kvc_storage_key keys[4];
	struct world w;
	uint32_t done;

	(void)state;
	world_open(&w, 20, 0);
	for (uint32_t i = 0; i < 4; i++) {
		keys[i] = storage_key(&w, i);
		assert_int_equal(put(&w, i, i), KVC_OK);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(kvc_lease_open(w.cache, 3, &leases[i]), KVC_OK);
		assert_int_equal(kvc_lease_pin(leases[i], keys, 3, &done), KVC_OK);
		assert_int_equal(kvc_lease_pin(leases[i], keys + 3, 1, &done), KVC_LIMIT);
	}
	assert_int_equal(stat(&w, "cache.pins"), 9);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(kvc_lease_unpin(leases[i], keys + i, 1), 1);
	assert_int_equal(stat(&w, "cache.pins"), 6);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(kvc_cache_drop(w.cache, keys + i, 1), 1);
		assert_int_equal(stat(&w, "cache.pins"), 4 - 2 * i);
	}
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(put(&w, i, 10 + i), KVC_OK); /* another block */
		assert_int_equal(kvc_lease_unpin(leases[i], keys + i, 1), 0);
		assert_int_equal(kvc_lease_pin(leases[i], keys, i + 1, &done), KVC_OK);
		assert_int_equal(stat(&w, "cache.pins"), (i + 1) * (i + 2) / 2);
	}
	kvc_lease_close(leases[1]);
	assert_int_equal(stat(&w, "cache.pins"), 4);
	assert_int_equal(kvc_cache_drop(w.cache, keys, 3), 3);
	assert_int_equal(stat(&w, "cache.pins"), 0);
	kvc_lease_close(leases[0]);
	kvc_lease_close(leases[2]);
	world_close(&w);
}

/* A pin for which there is no memory changes nothing. */
static void a_pin_without_memory(void **state)
{
	struct kvc_storage_key key;
	struct kvc_lease *lease;
	struct world w;
	uint32_t done;

	(void)state;
	world_open(&w, 21, 0);
	key = storage_key(&w, 0);
	assert_int_equal(put(&w, 0, 0), KVC_OK);
	for (uint64_t n = 1; n <= 4; n++) {
		assert_int_equal(kvc_lease_open(w.cache, 1, &lease), KVC_OK);
		kvc_alloc_fail_at(n, 0); /* the lease's, the entries', the pins */
		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), n < 4 ? KVC_NO_MEMORY : KVC_OK);
		kvc_alloc_fail_at(0, 0);
		assert_int_equal(stat(&w, "cache.pins"), n == 4);
		kvc_lease_close(lease);
	}
	world_close(&w);
}

/* ---- namespaces ---------------------------------------------------------------------------- */

/* The longest way to a namespace. */
static unsigned longest_bucket(const struct kvc_ns_table *table)
{
	unsigned longest = 0;

	for (uint32_t i = 0; i < table->bucket_count; i++) {
		unsigned length = 0;

		for (const struct kvc_ns *ns = table->buckets[i]; ns; ns = ns->next)
			length++;
		longest = length > longest ? length : longest;
	}
	return longest;
}

/* One is found among thousands without a walk over all, each by its own options, in whatever order they come
 * and go. */
static void many_namespaces_are_open(void **state)
{
	enum { MANY = 4096 };
	static struct kvc_ns *ns[MANY];
	struct kvc_ns_options options = ns_options("many");
	struct kvc_ns *again;
	struct world w;

	(void)state;
	world_open(&w, 23, 0);
	for (uint32_t i = 0; i < MANY; i++) {
		options.shards = i + 1;
		assert_int_equal(kvc_ns_open(w.cache, &options, &ns[i]), KVC_OK);
	}
	assert_in_range(longest_bucket(&w.cache->namespaces), 1, 12);
	for (uint32_t i = 0; i < MANY; i++) {
		options.shards = i + 1;
		assert_int_equal(kvc_ns_open(w.cache, &options, &again), KVC_OK);
		assert_ptr_equal(again, ns[i]);
		kvc_ns_close(again);
	}
	for (uint32_t i = 0; i < MANY; i++)
		kvc_ns_close(ns[(i * 5 + 1) % MANY]);
	assert_int_equal(w.cache->namespaces.count, 1); /* the world's own */
	world_close(&w);
}

/* Without memory for more buckets namespaces are opened all the same. */
static void namespaces_without_memory_for_a_larger_table(void **state)
{
	enum { FEW = 64 };
	struct kvc_ns_options options = ns_options("few");
	struct kvc_ns *ns[FEW];
	uint32_t buckets;
	struct world w;

	(void)state;
	world_open(&w, 24, 0);
	buckets = w.cache->namespaces.bucket_count;
	for (uint32_t i = 0; i < FEW; i++) {
		options.shards = i + 1;
		kvc_alloc_fail_at(w.cache->namespaces.count < buckets ? 0 : 1, 0);
		assert_int_equal(kvc_ns_open(w.cache, &options, &ns[i]), KVC_OK);
		kvc_alloc_fail_at(0, 0);
	}
	assert_int_equal(w.cache->namespaces.bucket_count, buckets);
	for (uint32_t i = 0; i < FEW; i++) {
		struct kvc_ns *again;

		options.shards = i + 1;
		assert_int_equal(kvc_ns_open(w.cache, &options, &again), KVC_OK);
		assert_ptr_equal(again, ns[i]);
		kvc_ns_close(again);
		kvc_ns_close(ns[i]);
	}
	world_close(&w);
}

/* ---- tenants ------------------------------------------------------------------------------- */

enum { OTHERS = KVC_TENANTS_MAX - 2 }; /* than nobody, and the world's own */

static kvc_status ns_of(struct world *w, const char *tenant, struct kvc_ns **ns)
{
	struct kvc_ns_options options = ns_options(tenant);

	return kvc_ns_open(w->cache, &options, ns);
}

/* Open the namespaces of that many tenants, each another, and close them again unless there is a place for
 * them. */
static void tenants_come(struct world *w, uint32_t first, uint32_t count, struct kvc_ns **kept)
{
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_ns *ns;
		char name[16];

		snprintf(name, sizeof name, "t%u", first + i);
		assert_int_equal(ns_of(w, name, &ns), KVC_OK);
		if (kept)
			kept[i] = ns;
		else
			kvc_ns_close(ns);
	}
}

/* A put or a get of a block by that tenant. */
static kvc_status by(kvc_status (*operate)(struct world *w, uint32_t number, uint32_t content),
                     struct world *w, const char *tenant, uint32_t number)
{
	struct kvc_ns *ns, *own;
	kvc_status status;

	assert_int_equal(ns_of(w, tenant, &ns), KVC_OK);
	own = world_ns(w, ns);
	status = operate(w, number, number);
	world_ns(w, own);
	kvc_ns_close(ns);
	return status;
}

static void drop_by(struct world *w, const char *tenant, uint32_t number)
{
	struct kvc_storage_key key;
	struct kvc_ns *ns, *own;

	assert_int_equal(ns_of(w, tenant, &ns), KVC_OK);
	own = world_ns(w, ns);
	key = storage_key(w, number);
	world_ns(w, own);
	assert_int_equal(kvc_cache_drop(w->cache, &key, 1), 1);
	kvc_ns_close(ns);
}

/* Of those that have nothing the one goes that has had nothing for longest; none that has a block, or a
 * namespace open. */
static void names_that_are_only_opened_keep_nobody_out(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 25, 0);
	assert_int_equal(put(&w, 0, 0), KVC_OK);
	assert_int_equal(by(put, &w, "owner", 1), KVC_OK);
	assert_int_equal(by(get, &w, "old", 0), KVC_MISS);
	assert_int_equal(by(get, &w, "young", 0), KVC_MISS);
	assert_int_equal(by(get, &w, "old", 0), KVC_MISS);
	tenants_come(&w, 0, OTHERS - 3, NULL);
	assert_int_equal(tenant_stat(&w, "young", "misses"), 1);
	tenants_come(&w, OTHERS - 3, 1, NULL);
	assert_int_equal(tenant_stat(&w, "young", "misses"), 0);
	assert_int_equal(tenant_stat(&w, "old", "misses"), 2);
	tenants_come(&w, OTHERS, 2 * OTHERS, NULL);
	assert_int_equal(tenant_stat(&w, "old", "misses"), 0);
	assert_int_equal(tenant_stat(&w, "owner", "puts"), 1);
	assert_int_equal(by(get, &w, "owner", 1), KVC_OK);
	assert_int_equal(by(put, &w, "new", 2), KVC_OK);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	world_close(&w);
}

/* The limit itself: it holds as long as all have something. */
static void tenants_have_a_limit(void **state)
{
	static struct kvc_ns *kept[OTHERS];
	struct kvc_ns *ns;
	uint64_t allocated;
	struct world w;

	(void)state;
	world_open(&w, 26, 0);
	assert_int_equal(by(put, &w, "owner", 1), KVC_OK);
	tenants_come(&w, 0, OTHERS - 1, kept);
	allocated = kvc_alloc_count();
	assert_int_equal(ns_of(&w, "new", &ns), KVC_LIMIT);
	assert_int_equal(kvc_alloc_count(), allocated + 1); /* a namespace, no tenant */
	assert_int_equal(by(get, &w, "owner", 1), KVC_OK);
	kvc_ns_close(kept[0]);
	assert_int_equal(ns_of(&w, "new", &kept[0]), KVC_OK);
	assert_int_equal(ns_of(&w, "newer", &ns), KVC_LIMIT);
	for (uint32_t i = 0; i < OTHERS - 1; i++)
		kvc_ns_close(kept[i]);
	world_close(&w);
}

/* Who is in debt to its rate cannot have itself forgotten, if it has a section of its own. */
static void a_named_tenant_is_not_crowded_out(void **state)
{
	const struct kvc_tenant_budget of[] = {{.name = "named", .put_rate = 1},
	                                       {.name = "*", .put_rate = 1000}};
	const struct kvc_tenant_budgets budgets = {.count = 2, .of = of};
	struct world w;

	(void)state;
	world_open(&w, 27, 0);
	kvc_cache_budgets_set(w.cache, &budgets);
	assert_int_equal(by(put, &w, "named", 0), KVC_OK);
	assert_int_equal(by(put, &w, "named", 1), KVC_QUOTA);
	drop_by(&w, "named", 0);
	assert_int_equal(tenant_stat(&w, "named", "blocks"), 0);
	tenants_come(&w, 0, 2 * OTHERS, NULL);
	assert_int_equal(tenant_stat(&w, "named", "puts"), 2);
	assert_int_equal(by(put, &w, "named", 1), KVC_QUOTA);
	world_close(&w);
}

/* ---- requests ------------------------------------------------------------------------------ */

enum { REQUEST = 1024, MOST = KVC_BLOCKS_HELD_MIN };

static uint32_t requests_begin(struct kvc_ns *ns, uint32_t blocks)
{
	uint32_t count = 0;

	while (kvc_ns_blocks_hold(ns, blocks) == KVC_OK)
		count++;
	return count;
}

static void requests_end(struct kvc_ns *ns, uint32_t blocks, uint32_t count)
{
	while (count--)
		kvc_ns_blocks_let_go(ns, blocks);
}

/* Alone a tenant may hold all that may be held; with others three quarters, so that there is room for theirs,
 * also for one that is larger than a part. */
static void held_blocks_are_shared(void **state)
{
	struct kvc_ns *ns[15];
	struct world w;

	(void)state;
	world_open(&w, 28, 0);
	assert_int_equal(requests_begin(w.ns, REQUEST), MOST / REQUEST);
	assert_int_equal(tenant_stat(&w, "a", "refused"), 1);
	requests_end(w.ns, REQUEST, MOST / REQUEST);
	tenants_come(&w, 0, 1, ns);
	assert_int_equal(requests_begin(w.ns, REQUEST), MOST / REQUEST * 3 / 4);
	assert_int_equal(requests_begin(ns[0], REQUEST), MOST / REQUEST / 4);
	requests_end(ns[0], REQUEST, MOST / REQUEST / 4);
	tenants_come(&w, 1, 14, ns + 1);
	assert_int_equal(requests_begin(ns[0], REQUEST), 1); /* a sixteenth of all */
	assert_int_equal(requests_begin(ns[1], REQUEST + 1), 1);
	assert_int_equal(requests_begin(ns[1], 1), 0);
	assert_int_equal(requests_begin(ns[2], 1), REQUEST);
	assert_int_equal(stat(&w, "cache.busy"), 7);
	requests_end(w.ns, REQUEST, MOST / REQUEST * 3 / 4);
	requests_end(ns[0], REQUEST, 1);
	requests_end(ns[1], REQUEST + 1, 1);
	requests_end(ns[2], 1, REQUEST);
	for (unsigned i = 0; i < 15; i++)
		kvc_ns_close(ns[i]);
	assert_int_equal(requests_begin(w.ns, 1), MOST);
	requests_end(w.ns, 1, MOST);
	world_close(&w);
}

static uint32_t payloads_begin(struct kvc_ns *ns, uint64_t bytes, uint64_t most)
{
	uint32_t count = 0;

	while (kvc_ns_payload_hold(ns, bytes, most) == KVC_OK)
		count++;
	return count;
}

static void payloads_end(struct kvc_ns *ns, uint64_t bytes, uint32_t count)
{
	while (count--)
		kvc_ns_payload_let_go(ns, bytes);
}

/* Who takes in replies slowly has memory for them all the while: alone all of it, with others three quarters.
 */
static void memory_for_payloads_is_shared(void **state)
{
	enum { MEMORY = 16 };
	struct kvc_ns *ns[1];
	struct world w;

	(void)state;
	world_open(&w, 29, 0);
	assert_int_equal(payloads_begin(w.ns, 1, MEMORY), MEMORY);
	payloads_end(w.ns, 1, MEMORY);
	tenants_come(&w, 0, 1, ns);
	assert_int_equal(payloads_begin(w.ns, 1, MEMORY), MEMORY * 3 / 4);
	assert_int_equal(payloads_begin(ns[0], MEMORY / 4, MEMORY), 1);
	assert_int_equal(payloads_begin(w.ns, 1, MEMORY), 0);
	assert_int_equal(tenant_stat(&w, "a", "refused"), 3);
	payloads_end(ns[0], MEMORY / 4, 1);
	payloads_end(w.ns, 1, MEMORY * 3 / 4);
	assert_int_equal(kvc_ns_payload_hold(w.ns, 2 * MEMORY, MEMORY), KVC_OK); /* there is nothing else */
	assert_int_equal(kvc_ns_payload_hold(ns[0], 1, MEMORY), KVC_BUSY);
	payloads_end(w.ns, 2 * MEMORY, 1);
	kvc_ns_close(ns[0]);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(pins_end_with_a_drop),
	        cmocka_unit_test(a_pin_without_memory),
	        cmocka_unit_test(many_namespaces_are_open),
	        cmocka_unit_test(namespaces_without_memory_for_a_larger_table),
	        cmocka_unit_test(names_that_are_only_opened_keep_nobody_out),
	        cmocka_unit_test(tenants_have_a_limit),
	        cmocka_unit_test(a_named_tenant_is_not_crowded_out),
	        cmocka_unit_test(held_blocks_are_shared),
	        cmocka_unit_test(memory_for_payloads_is_shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
