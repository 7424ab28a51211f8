/* Several tenants in the simulated world: who gives way to whom, and what each may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/tenants.h"

/* ---- shares -------------------------------------------------------------------------------- */

/* a puts what nobody will ever ask for; b keeps what it has, though it asks for it rarely. */
static void a_scan_takes_nothing_from_others(void **state)
{
	(void)state;
	for (unsigned policy = 0; policy < KVC_POLICIES; policy++) {
		for (unsigned disk = 0; disk < 2; disk++) {
			struct tenants t;

			world_policy((enum kvc_policy_kind)policy);
			tenants_open(&t, 7 + policy, disk ? 150 : 0);
			puts_as(&t, t.b, 0, B_OWN);
			puts_as(&t, t.a, 0, FLOOD);
			assert_int_equal(tenant_stat(&t.w, "b", "evicted"), 0);
			assert_true(tenant_stat(&t.w, "a", "evicted") > FLOOD / 4);
			assert_int_equal(present(&t, t.b, 0, B_OWN), B_OWN);
			assert_int_equal(tenant_stat(&t.w, "b", "hits"), B_OWN);
			assert_int_equal(tenant_stat(&t.w, "b", "misses"), 0);
			tenants_close(&t);
		}
	}
	world_policy(KVC_POLICY_CHAIN_LRU);
}

/* Nothing is kept for those who do not want it. */
static void room_goes_to_who_wants_it(void **state)
{
	struct tenants t;

	(void)state;
	tenants_open(&t, 3, 0);
	puts_as(&t, t.a, 0, FLOOD);
	assert_true(ram_of(&t, "a") > ARENA * 9 / 10);
	assert_int_equal(ram_of(&t, "a"), stat(&t.w, "ram.used_bytes"));
	puts_as(&t, t.b, 0, FLOOD); /* until it has its half, and no further */
	assert_in_range(ram_of(&t, "b"), ARENA * 45 / 100, ARENA * 55 / 100);
	assert_in_range(ram_of(&t, "a"), ARENA * 45 / 100, ARENA * 55 / 100);
	tenants_close(&t);
}

static void shares_follow_weights_and_guarantees(void **state)
{
	static const struct kvc_tenant_budget weights[] = {{.name = "a", .weight = 300},
	                                                   {.name = "*", .weight = 100}};
	static const struct kvc_tenant_budget kept[] = {{.name = "b", .ram = ARENA / 8}};
	struct tenants t;

	(void)state;
	tenants_open(&t, 4, 0);
	budgets(&t, weights, 2);
	for (uint32_t i = 0; i < FLOOD; i++) {
		puts_as(&t, t.a, i, 1);
		puts_as(&t, t.b, i, 1);
	}
	assert_in_range(ram_of(&t, "a"), ARENA * 70 / 100, ARENA * 80 / 100);
	assert_in_range(ram_of(&t, "b"), ARENA * 20 / 100, ARENA * 30 / 100);
	budgets(&t, kept, 1);
	puts_as(&t, t.a, FLOOD, FLOOD);
	assert_in_range(ram_of(&t, "b"), ARENA * 11 / 100, ARENA / 8);
	tenants_close(&t);
}

/* What nobody has used for ten minutes is nobody's to keep. */
static void idle_tenants_are_not_protected(void **state)
{
	struct tenants t;

	(void)state;
	tenants_open(&t, 5, 0);
	puts_as(&t, t.b, 0, B_OWN);
	puts_as(&t, t.a, 0, FLOOD);
	time_passes(&t, 9 * 60 * 1000);
	puts_as(&t, t.a, FLOOD, FLOOD);
	assert_int_equal(tenant_stat(&t.w, "b", "evicted"), 0);
	time_passes(&t, 60 * 1000);
	puts_as(&t, t.a, 2 * FLOOD, FLOOD);
	assert_int_equal(tenant_stat(&t.w, "b", "evicted"), B_OWN);
	assert_int_equal(ram_of(&t, "b"), 0);
	tenants_close(&t);
}

/* What is pinned frees no room however often it is used: whoever pins more than its share, and is never at
 * rest, does not keep others from the room of what is their own. */
static void pins_above_the_share_hold_up_nobody(void **state)
{
	enum { PINNED = ARENA / RECORD * 6 / 10, NEW = 20 };
	struct kvc_storage_key key;
	struct kvc_lease *lease;
	struct job readers[2], writer;
	struct tenants t;
	uint32_t done;

	(void)state;
	tenants_open(&t, 19, 0);
	assert_int_equal(kvc_lease_open(t.w.cache, PINNED, &lease), KVC_OK);
	for (uint32_t i = 0; i < PINNED; i++) {
		puts_as(&t, t.a, i, 1);
		key = storage_key(&t.w, i);
		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	puts_as(&t, t.b, 0, ARENA / RECORD - PINNED);
	world_ns(&t.w, t.a);
	get_submit(&t.w, &readers[0], 0);
	get_submit(&t.w, &readers[1], 0);
	for (uint32_t i = 0; i < NEW; i++) {
		world_ns(&t.w, t.b);
		put_submit(&t.w, &writer, 1000 + i, i, false);
		world_ns(&t.w, t.a);
		for (unsigned steps = 0; !writer.done && steps < 1000; steps++) {
			sim_step(t.w.loop);
			for (unsigned r = 0; r < 2; r++)
				if (readers[r].done)
					get_submit(&t.w, &readers[r], 0);
		}
		assert_true(writer.done && writer.op.status == KVC_OK);
	}
	settle(&t.w);
	assert_int_equal(present(&t, t.a, 0, PINNED), PINNED);
	assert_true(tenant_stat(&t.w, "b", "evicted") >= NEW);
	kvc_lease_close(lease);
	tenants_close(&t);
}

/* Pins leave no run of pages for a large block, though most of the arena is free. While it waits for what is
 * in use elsewhere others go on after a moment, and what they put stays. */
static void a_block_that_finds_no_run_holds_up_nobody(void **state)
{
	enum { ALL = ARENA / RECORD, STEP = 8, NEW = 20 };
	struct kvc_ns_options options = ns_options("a");
	struct kvc_storage_key key;
	struct kvc_lease *lease;
	struct job readers[2], writer, waiting;
	struct kvc_ns *large;
	struct tenants t;
	uint32_t done;

	(void)state;
	tenants_open(&t, 24, 0);
	options.shape.layers = 500;
	assert_int_equal(kvc_ns_open(t.w.cache, &options, &large), KVC_OK);
	assert_int_equal(kvc_lease_open(t.w.cache, ALL, &lease), KVC_OK);
	puts_as(&t, t.b, 0, 1);
	for (uint32_t i = 0; i < ALL - 1; i++) {
		puts_as(&t, t.a, i, 1);
		key = storage_key(&t.w, i);
		if (i % STEP == 0)
			assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	for (uint32_t i = 0; i < ALL - 1; i++) {
		key = storage_key(&t.w, i);
		if (i % STEP)
			assert_int_equal(kvc_cache_drop(t.w.cache, &key, 1), 1);
	}
	world_ns(&t.w, t.b);
	get_submit(&t.w, &readers[0], 0);
	get_submit(&t.w, &readers[1], 0);
	world_ns(&t.w, large);
	job_init(&t.w, &waiting, KVC_OP_PUT, 0);
	kvc_op_submit(t.w.cache, &waiting.op);
	sim_pass(t.w.loop, 200);
	world_ns(&t.w, t.b);
	for (uint32_t i = 0; i < NEW; i++) {
		put_submit(&t.w, &writer, 1000 + i, i, false);
		for (unsigned steps = 0; !writer.done && steps < 1000; steps++) {
			sim_step(t.w.loop);
			for (unsigned r = 0; r < 2; r++)
				if (readers[r].done)
					get_submit(&t.w, &readers[r], 0);
		}
		assert_true(writer.done && writer.op.status == KVC_OK);
	}
	assert_false(waiting.done);
	settle(&t.w);
	assert_true(waiting.done && waiting.op.status == KVC_NO_SPACE);
	assert_int_equal(tenant_stat(&t.w, "b", "evicted"), 0);
	kvc_lease_close(lease);
	kvc_ns_close(large);
	tenants_close(&t);
}

/* Who pins whatever it puts has more than its share before long, and cannot give up any of it: it takes
 * nothing of those within theirs for more. */
static void pins_take_nothing_from_others(void **state)
{
	struct kvc_storage_key key;
	struct kvc_lease *lease;
	struct tenants t;
	uint32_t done, pinned = 0;

	(void)state;
	tenants_open(&t, 26, 0);
	assert_int_equal(kvc_lease_open(t.w.cache, FLOOD, &lease), KVC_OK);
	puts_as(&t, t.b, 0, B_OWN);
	while (put_as(&t, t.a, pinned) == KVC_OK) {
		key = storage_key(&t.w, pinned++);
		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	assert_true(pinned >= ARENA / RECORD - B_OWN);
	assert_int_equal(tenant_stat(&t.w, "b", "evicted"), 0);
	puts_as(&t, t.b, 1000, 2 * B_OWN); /* of its own */
	assert_int_equal(present(&t, t.b, 1000 + B_OWN, B_OWN), B_OWN);
	kvc_lease_close(lease);
	tenants_close(&t);
}

/* Room that a tenant above its share has taken for loads which never end is not waited for by others: they
 * take what there is. */
static void a_disk_that_hangs_keeps_no_room_from_others(void **state)
{
	enum { LOADS = 16 };
	static const struct kvc_tenant_budget weights[] = {{.name = "a", .weight = 1}};
	struct job *gets = test_calloc(LOADS, sizeof *gets);
	struct job puts[2];
	struct tenants t;

	(void)state;
	tenants_open(&t, 25, 2000);
	budgets(&t, weights, 1);
	puts_as(&t, t.a, 0, LOADS);
	puts_as(&t, t.b, 0, FLOOD);
	assert_true(ram_of(&t, "a") < ARENA / 101); /* its share */
	t.w.disk->faults.hang = 1;
	world_ns(&t.w, t.a);
	for (uint32_t i = 0; i < LOADS; i++)
		get_submit(&t.w, &gets[i], i);
	settle(&t.w);
	assert_true(stat(&t.w, "move.load_pending") > 0);
	assert_true(ram_of(&t, "a") > ARENA / 101);
	world_ns(&t.w, t.b);
	for (uint32_t i = 0; i < 2; i++) {
		put_submit(&t.w, &puts[i], 1000 + i, i, false);
		sim_pass(t.w.loop, 1000);
		settle(&t.w);
	}
	assert_true(puts[0].done && puts[0].op.status == KVC_OK);
	assert_true(puts[1].done && puts[1].op.status == KVC_OK);
	t.w.disk->faults.hang = 0;
	sim_tier_release(t.w.disk);
	settle(&t.w);
	for (uint32_t i = 0; i < LOADS; i++)
		assert_true(gets[i].done && gets[i].op.status == KVC_OK);
	test_free(gets);
	tenants_close(&t);
}

/* ---- priorities ---------------------------------------------------------------------------- */

static kvc_status put_with(struct tenants *t, uint32_t number, enum kvc_priority priority)
{
	t->w.hints.priority = (uint8_t)priority;
	return put(&t->w, number, number);
}

static void low_priority_goes_first(void **state)
{
	struct tenants t;

	(void)state;
	tenants_open(&t, 6, 0);
	for (uint32_t i = 0; i < 100; i++) {
		assert_int_equal(put_with(&t, i, KVC_PRIORITY_NORMAL), KVC_OK);
		assert_int_equal(put_with(&t, 1000 + i, KVC_PRIORITY_HIGH), KVC_OK);
	}
	for (uint32_t i = 0; i < FLOOD; i++)
		assert_int_equal(put_with(&t, 2000 + i, KVC_PRIORITY_LOW), KVC_OK);
	assert_int_equal(present(&t, t.a, 0, 100), 100); /* though they are the oldest */
	for (uint32_t i = 0; i < FLOOD; i++)
		assert_int_equal(put_with(&t, 3000 + i, KVC_PRIORITY_NORMAL), KVC_OK);
	assert_int_equal(present(&t, t.a, 2000, FLOOD), 0);
	assert_int_equal(present(&t, t.a, 0, 100), 0);
	assert_int_equal(present(&t, t.a, 1000, 100), 100);
	tenants_close(&t);
}

/* Above half of the share high is normal: the oldest of them go, and normal ones have room. */
static void high_priority_has_half_at_most(void **state)
{
	struct tenants t;
	uint32_t there;

	(void)state;
	tenants_open(&t, 8, 0);
	for (uint32_t i = 0; i < FLOOD; i++)
		assert_int_equal(put_with(&t, i, KVC_PRIORITY_HIGH), KVC_OK);
	for (uint32_t i = 0; i < FLOOD; i++)
		assert_int_equal(put_with(&t, 1000 + i, KVC_PRIORITY_NORMAL), KVC_OK);
	there = present(&t, t.a, 0, FLOOD);
	print_message("%u of high priority stay, %lld bytes in all\n", there, (long long)ram_of(&t, "a"));
	assert_in_range(there, ARENA / RECORD * 48 / 100, ARENA / RECORD * 50 / 100);
	assert_true(ram_of(&t, "a") > ARENA * 9 / 10);
	tenants_close(&t);
}

/* ---- hard limits --------------------------------------------------------------------------- */

static void ram_max_is_kept(void **state)
{
	static const struct kvc_tenant_budget limits[] = {{.name = "a", .ram_max = ARENA / 4}};
	static const struct kvc_tenant_budget nothing[] = {{.name = "a", .ram_max = 1}};

	(void)state;
	for (unsigned disk = 0; disk < 2; disk++) {
		struct tenants t;

		tenants_open(&t, 9 + disk, disk ? 100 : 0);
		budgets(&t, limits, 1);
		puts_as(&t, t.b, 0, B_OWN);
		for (uint32_t i = 0; i < FLOOD; i++) {
			puts_as(&t, t.a, i, 1);
			assert_true(ram_of(&t, "a") <= ARENA / 4);
		}
		assert_int_equal(tenant_stat(&t.w, "b", "evicted"), 0);
		assert_int_equal(get_as(&t, t.a, FLOOD - 1), KVC_OK);
		budgets(&t, nothing, 1);
		assert_int_equal(put_as(&t, t.a, 5000), KVC_QUOTA);
		assert_true(tenant_stat(&t.w, "a", "refused") > 0);
		assert_int_equal(put_as(&t, t.b, 5000), KVC_OK);
		budgets(&t, NULL, 0);
		assert_int_equal(put_as(&t, t.a, 5000), KVC_OK);
		tenants_close(&t);
	}
}

/* A block that is larger than all that its tenant may have pushes nothing of it out. */
static void what_never_fits_pushes_nothing_out(void **state)
{
	static const struct kvc_tenant_budget limits[] = {{.name = "a", .ram_max = 20 * RECORD}};
	struct kvc_ns_options options = ns_options("a");
	struct kvc_ns *large;
	struct tenants t;

	(void)state;
	tenants_open(&t, 22, 0);
	budgets(&t, limits, 1);
	options.shape.layers = 500;
	assert_int_equal(kvc_ns_open(t.w.cache, &options, &large), KVC_OK);
	assert_true(kvc_ns_plan(large)->image_bytes > 20 * RECORD);
	puts_as(&t, t.a, 0, 15);
	assert_int_equal(put_as(&t, large, 1000), KVC_QUOTA);
	assert_int_equal(present(&t, t.a, 0, 15), 15);
	kvc_ns_close(large);
	tenants_close(&t);
}

/* What a client says is an image, and is longer than any of that block can be, pushes nothing out either. */
static void what_is_no_image_pushes_nothing_out(void **state)
{
	enum { LONG = ARENA / 2 };
	uint8_t *data = aligned_alloc(KVC_IMAGE_ALIGN, LONG);
	struct tenants t;
	struct job job;
	uint32_t blocks = 0;

	(void)state;
	tenants_open(&t, 23, 0);
	assert_non_null(data);
	memset(data, 1, LONG);
	while (!tenant_stat(&t.w, "a", "evicted"))
		puts_as(&t, t.a, blocks++, 1);
	world_form(&t.w, KVC_OP_IMAGE);
	job_init(&t.w, &job, KVC_OP_PUT, 5000);
	job.op.external = (struct kvc_image_view){data, LONG};
	kvc_op_submit(t.w.cache, &job.op);
	assert_int_equal(finish(&t.w, &job), KVC_SHAPE);
	assert_int_equal(tenant_stat(&t.w, "a", "evicted"), 1);
	assert_int_equal(tenant_stat(&t.w, "a", "blocks"), blocks - 1);
	free(data);
	tenants_close(&t);
}

/* One that waits for its own dirty blocks to be written does not hold up another. */
static void waiting_for_the_own_limit_holds_up_nobody(void **state)
{
	static const struct kvc_tenant_budget limits[] = {{.name = "a", .ram_max = 10 * RECORD}};
	struct job *jobs = test_calloc(40, sizeof *jobs);
	struct tenants t;
	uint32_t done = 0;

	(void)state;
	tenants_open(&t, 11, 100);
	budgets(&t, limits, 1);
	t.w.disk->faults.hang = 1; /* nothing is ever written */
	for (uint32_t i = 0; i < 40; i++)
		put_submit(&t.w, &jobs[i], i, i, false);
	settle(&t.w);
	for (uint32_t i = 0; i < 40; i++)
		done += jobs[i].done;
	assert_in_range(done, 5, 25);
	puts_as(&t, t.b, 0, B_OWN);
	t.w.disk->faults.hang = 0;
	sim_tier_release(t.w.disk);
	settle(&t.w);
	for (uint32_t i = 0; i < 40; i++)
		assert_true(jobs[i].done && jobs[i].op.status == KVC_OK);
	test_free(jobs);
	tenants_close(&t);
}

static void disk_max_is_kept(void **state)
{
	static const struct kvc_tenant_budget limits[] = {{.name = "a", .disk_max = 20 * RECORD}};
	static const struct kvc_tenant_budget nothing[] = {{.name = "a", .disk_max = 1}};
	struct tenants t;
	struct job job;

	(void)state;
	tenants_open(&t, 12, 2000); /* what is written is not bounded, only what is kept */
	budgets(&t, limits, 1);
	puts_as(&t, t.b, 0, 150);
	for (uint32_t i = 0; i < FLOOD; i++) {
		puts_as(&t, t.a, i, 1);
		assert_true(tenant_stat(&t.w, "a", "disk_bytes") <= 20 * RECORD);
	}
	assert_true(tenant_stat(&t.w, "a", "disk_bytes") > 5 * RECORD);
	assert_int_equal(present(&t, t.b, 0, 150), 150);
	world_ns(&t.w, t.a);
	for (uint32_t i = 0; i < 50; i++) { /* what is newer pushes out what was not used */
		put_submit(&t.w, &job, 1000 + i, 1000 + i, true);
		assert_int_equal(finish(&t.w, &job), KVC_OK);
		assert_true(tenant_stat(&t.w, "a", "disk_bytes") <= 20 * RECORD);
	}
	budgets(&t, nothing, 1);
	put_submit(&t.w, &job, 5000, 5000, true);
	assert_int_equal(finish(&t.w, &job), KVC_QUOTA);
	tenants_close(&t);
}

static void rates_are_kept(void **state)
{
	static const struct kvc_tenant_budget limits[] = {
	        {.name = "a", .put_rate = 20 * 2 * BYTES, .get_rate = 10 * 2 * BYTES}};
	struct tenants t;
	uint32_t taken = 0;

	(void)state;
	tenants_open(&t, 13, 0);
	budgets(&t, limits, 1);
	for (uint32_t i = 0; i < 200; i++) { /* ten times its quota */
		kvc_status status = put_as(&t, t.a, i);

		assert_true(status == KVC_OK || status == KVC_QUOTA);
		taken += status == KVC_OK;
		assert_int_equal(put_as(&t, t.b, i), KVC_OK);
	}
	assert_int_equal(taken, 20); /* a second's worth: the clock stands */
	assert_int_equal(tenant_stat(&t.w, "a", "refused"), 180);
	assert_int_equal(put_as(&t, t.a, 0), KVC_OK); /* is there: costs nothing */
	assert_int_equal(present(&t, t.a, 0, 200), 10);
	assert_int_equal(get_as(&t, t.a, 199), KVC_MISS);
	time_passes(&t, 500);
	assert_int_equal(present(&t, t.a, 0, 20), 5);
	assert_int_equal(put_as(&t, t.a, 300), KVC_OK);
	assert_int_equal(tenant_stat(&t.w, "a", "put_bytes"), 21 * 2 * BYTES);
	tenants_close(&t);
}

/* ---- turns --------------------------------------------------------------------------------- */

/* 64 operations may be under way (world.c): one tenant has them all, until another one comes. */
static void operations_are_shared(void **state)
{
	enum { JOBS = 80 };
	struct job *jobs = test_calloc(JOBS + 10, sizeof *jobs);
	uint32_t busy = 0;
	struct tenants t;

	(void)state;
	world_open(&t.w, 14, 0);
	for (unsigned round = 0; round < 2; round++) {
		if (round)
			tenants_begin(&t);
		for (uint32_t i = 0; i < JOBS; i++)
			put_submit(&t.w, &jobs[i], round * 1000 + i, i, false);
		if (round) {
			world_ns(&t.w, t.b);
			for (uint32_t i = 0; i < 10; i++)
				put_submit(&t.w, &jobs[JOBS + i], i, i, false);
			world_ns(&t.w, t.a);
		}
		settle(&t.w);
		busy = 0;
		for (uint32_t i = 0; i < JOBS; i++)
			busy += jobs[i].op.status == KVC_BUSY;
		assert_int_equal(busy, round ? JOBS - 48 : JOBS - 64);
	}
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(jobs[JOBS + i].op.status, KVC_OK);
	test_free(jobs);
	tenants_close(&t);
}

/* One block of b behind a long queue of a's: how many of a's are left when it is done. */
static uint32_t left_behind(struct tenants *t, bool get_it)
{
	enum { JOBS = 44 };
	struct job *jobs = test_calloc(JOBS + 1, sizeof *jobs);
	uint32_t left = 0;

	for (uint32_t i = 0; i < JOBS; i++) {
		world_ns(&t->w, t->a);
		if (get_it)
			get_submit(&t->w, &jobs[i], i);
		else
			put_submit(&t->w, &jobs[i], 20000 + i, i, false);
	}
	world_ns(&t->w, t->b);
	if (get_it)
		get_submit(&t->w, &jobs[JOBS], 0);
	else
		put_submit(&t->w, &jobs[JOBS], 20000, 0, false);
	assert_int_equal(finish(&t->w, &jobs[JOBS]), KVC_OK);
	for (uint32_t i = 0; i < JOBS; i++)
		left += !jobs[i].done;
	settle(&t->w);
	test_free(jobs);
	return left;
}

/* 16 moves run at a time (world.c), in random order: in the order of submission b would be among the last
 * 16 of 45, and leave 8 behind it on the average. */
static void queues_are_shared(void **state)
{
	(void)state;
	for (unsigned disk = 0; disk < 2; disk++) {
		uint32_t gets = 0, puts = 0;

		for (uint64_t seed = 1; seed <= 20; seed++) {
			struct tenants t;

			tenants_open(&t, seed, disk ? 400 : 0);
			puts_as(&t, t.a, 0, 44);
			puts_as(&t, t.b, 0, 1);
			gets += left_behind(&t, true);
			puts_as(&t, t.a, 1000, FLOOD);
			puts += left_behind(&t, false);
			tenants_close(&t);
		}
		print_message("disk %u: on the average %u gets, %u puts left\n", disk, gets / 20, puts / 20);
		assert_true(gets / 20 >= 16 && puts / 20 >= 16);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_scan_takes_nothing_from_others),
	        cmocka_unit_test(room_goes_to_who_wants_it),
	        cmocka_unit_test(shares_follow_weights_and_guarantees),
	        cmocka_unit_test(idle_tenants_are_not_protected),
	        cmocka_unit_test(pins_above_the_share_hold_up_nobody),
	        cmocka_unit_test(a_block_that_finds_no_run_holds_up_nobody),
	        cmocka_unit_test(pins_take_nothing_from_others),
	        cmocka_unit_test(a_disk_that_hangs_keeps_no_room_from_others),
	        cmocka_unit_test(low_priority_goes_first),
	        cmocka_unit_test(high_priority_has_half_at_most),
	        cmocka_unit_test(ram_max_is_kept),
	        cmocka_unit_test(what_never_fits_pushes_nothing_out),
	        cmocka_unit_test(what_is_no_image_pushes_nothing_out),
	        cmocka_unit_test(waiting_for_the_own_limit_holds_up_nobody),
	        cmocka_unit_test(disk_max_is_kept),
	        cmocka_unit_test(rates_are_kept),
	        cmocka_unit_test(operations_are_shared),
	        cmocka_unit_test(queues_are_shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
