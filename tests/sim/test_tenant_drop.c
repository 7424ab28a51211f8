/* Whose blocks are, and what is left of a tenant that is dropped, in the simulated world. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "tests/sim/tenants.h"

/* ---- who it is ----------------------------------------------------------------------------- */

/* After a restart blocks are their tenants' again, before anyone has opened a namespace. */
static void recovered_blocks_have_their_tenant(void **state)
{
	struct tenants t;

	(void)state;
	tenants_open(&t, 15, 400);
	puts_as(&t, t.a, 0, 30);
	puts_as(&t, t.b, 0, 20);
	world_ns(&t.w, t.a);
	kvc_ns_close(t.b);
	cache_end(&t.w, 1000);
	sim_tier_crash(t.w.disk, false);
	cache_begin(&t.w);
	settle(&t.w);
	assert_int_equal(tenant_stat(&t.w, "a", "blocks"), 30);
	assert_int_equal(tenant_stat(&t.w, "b", "blocks"), 20);
	assert_int_equal(tenant_stat(&t.w, "b", "disk_bytes"), 20 * RECORD);
	tenants_begin(&t);
	assert_int_equal(present(&t, t.b, 0, 20), 20);
	tenants_close(&t);
}

/* Records of an old directory do not say whose they are until they are read. */
static void nobodys_blocks_are_adopted(void **state)
{
	struct kvc_storage_key keys[20];
	struct tenants t;
	int64_t before;

	(void)state;
	tenants_open(&t, 16, 400);
	puts_as(&t, t.a, 0, 20);
	puts_as(&t, t.b, 0, 20);
	world_ns(&t.w, t.a);
	kvc_ns_close(t.b);
	cache_end(&t.w, 1000);
	sim_tier_crash(t.w.disk, false);
	t.w.disk->faults.no_tenants = 1;
	cache_begin(&t.w);
	settle(&t.w);
	tenants_begin(&t);
	before = stat(&t.w, "ram.used_bytes"); /* of the cache before */
	assert_int_equal(tenant_stat(&t.w, "a", "blocks"), 0);
	assert_int_equal(stat(&t.w, "cache.recovered"), 40);
	assert_int_equal(get_as(&t, t.a, 0), KVC_OK); /* by its namespace */
	assert_int_equal(tenant_stat(&t.w, "a", "blocks"), 1);
	assert_true(ram_of(&t, "a") > 0 && tenant_stat(&t.w, "a", "disk_bytes") > 0);
	world_ns(&t.w, t.b);
	for (uint32_t i = 0; i < 20; i++)
		keys[i] = storage_key(&t.w, i);
	for (uint32_t i = 0; i < 20; i += 10) { /* by its header */
		assert_int_equal(kvc_cache_prefetch(t.w.cache, &keys[i], 10), 10);
		settle(&t.w);
	}
	assert_int_equal(tenant_stat(&t.w, "b", "blocks"), 20);
	assert_int_equal(ram_of(&t, "a") + ram_of(&t, "b"), stat(&t.w, "ram.used_bytes") - before);
	tenants_close(&t);
}

/* Nobody's blocks that are written anew, and turn out to be b's meanwhile: what is on its way to disk is
 * nobody's to the end, and b's account is right after it. */
static void adopted_while_it_is_written(void **state)
{
	enum { BLOCKS = 4, DIRTY = ARENA / RECORD * 6 / 10 };
	static const struct kvc_tenant_budget limits[] = {{.name = "b", .disk_max = 100 * RECORD}};
	struct kvc_storage_key keys[BLOCKS];
	struct tenants t;
	struct job job;

	(void)state;
	tenants_open(&t, 20, 400);
	puts_as(&t, t.b, 0, BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		keys[i] = storage_key(&t.w, i);
	world_ns(&t.w, t.a);
	kvc_ns_close(t.b);
	cache_end(&t.w, 1000);
	kvc_arena_close(t.w.arena);
	assert_int_equal(kvc_arena_open(ARENA, t.w.stats, &t.w.arena), KVC_OK);
	sim_tier_crash(t.w.disk, false);
	t.w.disk->faults.no_tenants = 1;
	cache_begin(&t.w);
	settle(&t.w);
	assert_int_equal(kvc_cache_prefetch(t.w.cache, keys, BLOCKS), BLOCKS);
	kvc_alloc_fail_at(1, 1); /* the header names b, for whom there is no memory */
	settle(&t.w);
	kvc_alloc_fail_at(0, 0);
	for (uint32_t i = 0; i < BLOCKS; i++)
		sim_tier_lose(t.w.disk, &keys[i], false);
	t.w.disk->faults.hang = 1;
	for (uint32_t i = 0; i < DIRTY; i++)
		assert_int_equal(put(&t.w, i, i), KVC_OK);
	assert_true(stat(&t.w, "move.store_pending") > BLOCKS);
	tenants_begin(&t);
	assert_int_equal(present(&t, t.b, 0, BLOCKS), BLOCKS);
	t.w.disk->faults.hang = 0;
	sim_tier_release(t.w.disk);
	settle(&t.w);
	assert_int_equal(tenant_stat(&t.w, "b", "disk_bytes"), BLOCKS * RECORD);
	assert_int_equal(kvc_cache_drop(t.w.cache, keys, BLOCKS), BLOCKS);
	budgets(&t, limits, 1);
	put_submit(&t.w, &job, 5000, 5000, true);
	assert_int_equal(finish(&t.w, &job), KVC_OK);
	tenants_close(&t);
}

/* ---- drop ---------------------------------------------------------------------------------- */

struct dropping {
	struct kvc_tenant_drop drop;
	bool done;
};

static void dropped(struct kvc_tenant_drop *drop)
{
	struct dropping *dropping = kvc_container_of(drop, struct dropping, drop);

	assert_false(dropping->done);
	dropping->done = true;
}

static void drop_submit(struct world *w, struct dropping *dropping, const char *tenant)
{
	*dropping = (struct dropping){.drop.done = dropped};
	memcpy(dropping->drop.tenant, tenant, strlen(tenant) + 1);
	kvc_cache_tenant_drop(w->cache, &dropping->drop);
	assert_false(dropping->done);
}

static void drop_forgets_a_tenant(void **state)
{
	struct dropping drops[3];
	struct tenants t;

	(void)state;
	tenants_open(&t, 17, 400);
	puts_as(&t, t.a, 0, FLOOD / 2); /* some on disk only */
	puts_as(&t, t.b, 0, 30);
	drop_submit(&t.w, &drops[0], "a");
	drop_submit(&t.w, &drops[1], "nobody");
	drop_submit(&t.w, &drops[2], "a");
	settle(&t.w);
	for (unsigned i = 0; i < 3; i++)
		assert_true(drops[i].done && drops[i].drop.status == KVC_OK);
	assert_true(drops[0].drop.blocks > FLOOD / 4);
	assert_int_equal(drops[1].drop.blocks + drops[2].drop.blocks, 0);
	assert_int_equal(tenant_stat(&t.w, "a", "blocks"), 0);
	assert_int_equal(ram_of(&t, "a") + tenant_stat(&t.w, "a", "disk_bytes"), 0);
	assert_int_equal(present(&t, t.a, 0, FLOOD / 2), 0);
	assert_int_equal(present(&t, t.b, 0, 30), 30);
	puts_as(&t, t.a, 0, 10); /* it may begin anew */
	assert_int_equal(present(&t, t.a, 0, 10), 10);
	tenants_close(&t);
}

/* A checkpoint would give a block the incarnation that its tenant has when it is written: while the tenant is
 * being dropped, that is not the block's. */
static void drop_describes_nothing_of_it(void **state)
{
	struct dropping drop;
	struct tenants t;
	uint32_t all, meanwhile;

	(void)state;
	tenants_open(&t, 19, 400);
	puts_as(&t, t.b, 0, FLOOD / 4);
	puts_as(&t, t.a, 0, FLOOD / 4);
	settle(&t.w);
	all = sim_tier_described(t.w.disk);
	drop_submit(&t.w, &drop, "a");
	meanwhile = sim_tier_described(t.w.disk);
	settle(&t.w);
	assert_true(drop.done);
	assert_true(meanwhile > 0 && meanwhile < all);
	assert_int_equal(sim_tier_described(t.w.disk), meanwhile);
	tenants_close(&t);
}

/* Puts that are being encoded, that wait for these or for room, stores, loads and gets. */
static void drop_meets_what_is_under_way(void **state)
{
	enum { JOBS = 60 };
	struct job *jobs = test_calloc(JOBS, sizeof *jobs);

	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		struct dropping drop;
		struct tenants t;

		tenants_open(&t, seed, seed % 2 ? 100 : 0);
		puts_as(&t, t.a, 0, 30 + (uint32_t)(seed % 7) * 40);
		world_ns(&t.w, t.a);
		for (uint32_t i = 0; i < JOBS; i++) {
			uint32_t number = (uint32_t)(sim_next(&t.w.random) % 50);

			if (sim_one_in(&t.w.random, 3))
				get_submit(&t.w, &jobs[i], number);
			else
				put_submit(&t.w, &jobs[i], 500 + number, 500 + number,
				           seed % 2 && sim_one_in(&t.w.random, 3));
			if (sim_one_in(&t.w.random, 4))
				sim_step(t.w.loop);
		}
		drop_submit(&t.w, &drop, "a");
		settle(&t.w);
		assert_true(drop.done);
		for (uint32_t i = 0; i < JOBS; i++) {
			assert_true(jobs[i].done);
			if (jobs[i].op.kind == KVC_OP_GET && jobs[i].op.status == KVC_OK)
				assert_true(restored_is(&t.w, &jobs[i], jobs[i].number));
		}
		assert_int_equal(tenant_stat(&t.w, "a", "blocks"), 0);
		assert_int_equal(stat(&t.w, "ram.used_bytes"), 0);
		tenants_close(&t);
	}
	test_free(jobs);
}

/* A put that waits for another's of the same block began before the drop as that one did: it does not bring
 * the block back when that one fails. */
static void drop_meets_who_waits_for_a_put_that_fails(void **state)
{
	struct job *others = test_calloc(FLOOD, sizeof *others);
	struct job first, second;
	struct dropping drop;
	struct tenants t;
	uint32_t count = 0;

	(void)state;
	tenants_open(&t, 21, 1000);
	t.w.disk->faults.hang = 1; /* b's blocks stay in RAM */
	world_ns(&t.w, t.b);
	do {
		put_submit(&t.w, &others[count], count, count, false);
		settle(&t.w);
	} while (others[count++].done && count < FLOOD);
	world_ns(&t.w, t.a);
	put_submit(&t.w, &first, 0, 0, false);
	put_submit(&t.w, &second, 0, 0, false);
	settle(&t.w);
	assert_false(first.done || second.done);
	drop_submit(&t.w, &drop, "a");
	settle(&t.w);
	assert_true(drop.done);
	kvc_op_cancel(&first.op, KVC_DEADLINE);
	assert_int_equal(finish(&t.w, &first), KVC_DEADLINE);
	t.w.disk->faults.hang = 0;
	sim_tier_release(t.w.disk);
	settle(&t.w);
	assert_true(second.done && others[count - 1].done);
	assert_int_equal(second.op.status, KVC_CANCELLED);
	assert_int_equal(get_as(&t, t.a, 0), KVC_MISS);
	test_free(others);
	tenants_close(&t);
}

/* Nor does a durable put that waits for its block to be read, of which nothing is left then. */
static void drop_meets_a_durable_put_of_what_is_read(void **state)
{
	struct kvc_storage_key key;
	struct job reader, writer;
	struct dropping drop;
	struct tenants t;

	(void)state;
	tenants_open(&t, 22, 2000);
	puts_as(&t, t.a, 0, FLOOD);
	key = storage_key(&t.w, 0);
	t.w.disk->faults.hang = 1;
	get_submit(&t.w, &reader, 0);
	sim_tier_lose(t.w.disk, &key, true);
	put_submit(&t.w, &writer, 0, 0, true);
	settle(&t.w);
	assert_false(reader.done || writer.done);
	drop_submit(&t.w, &drop, "a");
	settle(&t.w);
	assert_true(drop.done);
	t.w.disk->faults.hang = 0;
	sim_tier_release(t.w.disk);
	settle(&t.w);
	assert_true(reader.done && writer.done);
	assert_int_equal(writer.op.status, KVC_CANCELLED);
	assert_int_equal(get_as(&t, t.a, 0), KVC_MISS);
	tenants_close(&t);
}

/* The cache stops when the drop is done, not before. */
static void drop_meets_a_stop(void **state)
{
	struct dropping drop;
	struct tenants t;

	(void)state;
	tenants_open(&t, 18, 400);
	puts_as(&t, t.a, 0, 50);
	world_ns(&t.w, t.a);
	kvc_ns_close(t.b);
	drop_submit(&t.w, &drop, "a");
	cache_stop(&t.w, 1000);
	assert_true(drop.done);
	cache_free(&t.w);
	world_close(&t.w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(recovered_blocks_have_their_tenant),
	        cmocka_unit_test(nobodys_blocks_are_adopted),
	        cmocka_unit_test(adopted_while_it_is_written),
	        cmocka_unit_test(drop_forgets_a_tenant),
	        cmocka_unit_test(drop_describes_nothing_of_it),
	        cmocka_unit_test(drop_meets_what_is_under_way),
	        cmocka_unit_test(drop_meets_who_waits_for_a_put_that_fails),
	        cmocka_unit_test(drop_meets_a_durable_put_of_what_is_read),
	        cmocka_unit_test(drop_meets_a_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
