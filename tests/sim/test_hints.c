/* Time to live, ephemeral blocks, leases on them and reading ahead, each by itself, in the simulated world of
 * sim.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "tests/sim/world.h"

enum { TTL = 1000, FILLER = 1000, FILLERS = 400 };

static const struct kvc_hints none;
static const struct kvc_hints ttl = {.ttl_ms = TTL};
static const struct kvc_hints ephemeral = {.ephemeral = true};

static void put_with(struct world *w, uint32_t number, struct kvc_hints hints)
{
	w->hints = hints;
	assert_int_equal(put(w, number, number), KVC_OK);
	w->hints = none;
}

static void put_durable(struct world *w, uint32_t number)
{
	struct job job;

	put_submit(w, &job, number, number, true);
	assert_int_equal(finish(w, &job), KVC_OK);
}

/* More blocks than RAM has room for, so that what was there before rests on disk alone. */
static void push_out(struct world *w)
{
	for (uint32_t i = FILLER; i < FILLER + FILLERS; i++)
		assert_int_equal(put(w, i, i), KVC_OK);
}

/* The process ends, or is killed, and another one finds what is on the disk. */
static void restart(struct world *w, bool stop)
{
	if (stop)
		cache_end(w, 1000);
	else
		cache_end(w, 0);
	kvc_arena_close(w->arena);
	assert_int_equal(kvc_arena_open(ARENA, w->stats, &w->arena), KVC_OK);
	sim_tier_crash(w->disk, false);
	cache_begin(w);
}

/* ---- time to live -------------------------------------------------------------------------- */

static void a_block_ends_to_the_millisecond(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 1, 0);
	put_with(&w, 1, ttl);
	put_with(&w, 2, none);
	assert_int_equal(stat(&w, "cache.expiring"), 1);
	assert_true(stat(&w, "cache.expiry_bytes") > 0);
	sim_pass(w.loop, TTL - 1);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	sim_pass(w.loop, 1);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	assert_int_equal(stat(&w, "cache.expired"), 1);
	assert_int_equal(stat(&w, "cache.expiring"), 0);
	assert_int_equal(stat(&w, "cache.blocks"), 1);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	world_close(&w);
}

/* Whoever asks first: each verb sees that the block is over. */
static void every_verb_sees_the_end(void **state)
{
	struct kvc_storage_key keys[4];
	struct kvc_lease *lease;
	struct world w;
	uint32_t done;

	(void)state;
	world_open(&w, 2, 0);
	for (uint32_t i = 0; i < 4; i++) {
		put_with(&w, i, ttl);
		keys[i] = storage_key(&w, i);
	}
	sim_pass(w.loop, TTL);
	assert_int_equal(kvc_lease_open(w.cache, 10, &lease), KVC_OK);
	assert_int_equal(kvc_cache_prefetch(w.cache, &keys[0], 1), 0);
	assert_int_equal(kvc_lease_pin(lease, &keys[1], 1, &done), KVC_OK);
	assert_int_equal(done, 0);
	assert_int_equal(kvc_cache_drop(w.cache, &keys[2], 1), 0);
	kvc_cache_touch(w.cache, &keys[3]);
	assert_int_equal(stat(&w, "cache.blocks"), 0);
	kvc_lease_close(lease);
	world_close(&w);
}

/* Nobody asks for them: in RAM and on disk they go by themselves, more than one sweep takes. */
static void what_nobody_asks_for_is_swept(void **state)
{
	enum { BLOCKS = 700 };
	struct world w;

	(void)state;
	world_open(&w, 3, 1000);
	for (uint32_t i = 0; i < BLOCKS; i++)
		put_with(&w, i, (struct kvc_hints){.ttl_ms = 100000 + i});
	assert_int_equal(stat(&w, "cache.expiring"), BLOCKS);
	settle(&w);
	assert_int_equal(stat(&w, "cache.expired"), BLOCKS);
	assert_int_equal(stat(&w, "cache.blocks"), 0);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	restart(&w, false);
	assert_int_equal(stat(&w, "cache.recovered"), 0);
	world_close(&w);
}

static void ends_while_it_is_filled(void **state)
{
	struct job first, second;
	struct world w;

	(void)state;
	world_open(&w, 4, 0);
	w.hints = ttl;
	put_submit(&w, &first, 1, 1, false);
	sim_pass(w.loop, TTL / 2);
	put_submit(&w, &second, 1, 2, false); /* waits for the first, which is over then: it puts its own */
	sim_pass(w.loop, TTL / 2);
	assert_int_equal(finish(&w, &first), KVC_OK);
	assert_int_equal(finish(&w, &second), KVC_OK);
	assert_int_equal(get(&w, 1, 2), KVC_OK);
	sim_pass(w.loop, TTL / 2);
	assert_int_equal(get(&w, 1, 2), KVC_MISS);
	world_close(&w);
}

static void ends_while_it_is_read(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open(&w, 5, 0);
	put_with(&w, 1, ttl);
	get_submit(&w, &reader, 1);
	sim_pass(w.loop, TTL);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 1));
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	world_close(&w);
}

static void ends_while_it_is_loaded(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open(&w, 6, 1000);
	put_with(&w, 1, ttl);
	push_out(&w);
	assert_int_equal(rest_of(&w, 1), KVC_REST_DISK);
	get_submit(&w, &reader, 1);
	sim_pass(w.loop, TTL);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	world_close(&w);
}

static void ends_while_it_is_stored(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 7, 1000);
	for (uint32_t i = 0; i < 40; i++)
		put_with(&w, i, ttl);
	w.disk->faults.hang = 1;
	for (uint32_t i = FILLER; stat(&w, "move.store_pending") < 8; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	sim_pass(w.loop, TTL);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(rest_of(&w, i), KVC_REST_NONE);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	settle(&w);
	restart(&w, false);
	for (uint32_t i = 0; i < 40; i++)
		assert_int_equal(rest_of(&w, i), KVC_REST_NONE);
	world_close(&w);
}

static void ends_in_vram(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open_gpu(&w, 8, 0, 8);
	put_with(&w, 1, ttl);
	put_with(&w, 2, ttl);
	assert_int_equal(stat(&w, "vram.blocks"), 2);
	world_form(&w, KVC_OP_HOST);
	get_submit(&w, &reader, 2); /* lowers it */
	sim_pass(w.loop, TTL);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(rest_of(&w, 2), KVC_REST_NONE);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	assert_int_equal(stat(&w, "vram.blocks"), 0);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	world_close(&w);
}

static void a_later_put_can_only_put_off_the_end(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 9, 0);
	put_with(&w, 1, ttl);
	put_with(&w, 2, ttl);
	put_with(&w, 3, ttl);
	put_with(&w, 4, none);
	sim_pass(w.loop, TTL / 2);
	put_with(&w, 1, ttl);                             /* later: 1.5 TTL */
	put_with(&w, 2, (struct kvc_hints){.ttl_ms = 1}); /* sooner: not so */
	put_with(&w, 3, none);                            /* not at all */
	put_with(&w, 4, ttl);                             /* has no end */
	assert_int_equal(stat(&w, "cache.expiring"), 2);
	sim_pass(w.loop, TTL / 2 - 1);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	sim_pass(w.loop, 1);
	assert_int_equal(get(&w, 2, 2), KVC_MISS);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	sim_pass(w.loop, TTL / 2);
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	sim_pass(w.loop, 1000 * TTL);
	assert_int_equal(get(&w, 3, 3), KVC_OK);
	assert_int_equal(get(&w, 4, 4), KVC_OK);
	world_close(&w);
}

static void no_memory_for_an_end_is_no_block(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open(&w, 10, 0);
	w.hints = ttl;
	put_submit(&w, &job, 1, 1, false);
	kvc_alloc_fail_at(1, 1);
	assert_int_equal(finish(&w, &job), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(put(&w, 1, 1), KVC_OK);
	world_close(&w);
}

/* ---- restarts ------------------------------------------------------------------------------ */

static void no_start_finds_a_block_that_ends(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 11, 1000);
	put_with(&w, 1, ttl);
	put_with(&w, 2, none);
	push_out(&w);
	assert_int_equal(rest_of(&w, 1), KVC_REST_DISK);
	assert_int_equal(rest_of(&w, 2), KVC_REST_DISK);
	restart(&w, false);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	world_close(&w);
}

static void a_stop_does_not_write_what_ends(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 12, 1000);
	put_with(&w, 1, ttl);
	put_with(&w, 2, none);
	restart(&w, true);
	assert_int_equal(w.disk->stores, 1);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	world_close(&w);
}

/* The record that is there says that it ends, or one that does is being written: a promise needs another. */
static void a_durable_put_outlives_an_earlier_end(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 13, 1000);
	put_with(&w, 1, ttl);
	put_with(&w, 2, ttl);
	push_out(&w);
	put_durable(&w, 1);
	put_with(&w, 2, none);
	put_durable(&w, 2);
	sim_pass(w.loop, TTL);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	restart(&w, false);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	world_close(&w);
}

/* ---- ephemeral ----------------------------------------------------------------------------- */

static void ephemeral_blocks_never_reach_the_disk(void **state)
{
	struct world w;
	uint32_t there = 0;

	(void)state;
	world_open(&w, 14, 1000);
	for (uint32_t i = 0; i < 600; i++)
		put_with(&w, i, ephemeral);
	for (uint32_t i = 0; i < 600; i++)
		there += get(&w, i, i) == KVC_OK;
	assert_true(there > 0 && there < 600);
	assert_true(stat(&w, "cache.lost") > 0);
	restart(&w, true);
	assert_int_equal(w.disk->stores, 0);
	assert_int_equal(stat(&w, "cache.recovered"), 0);
	world_close(&w);
}

static void ephemeral_blocks_go_from_vram_to_ram_only(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 15, 1000, 8);
	for (uint32_t i = 0; i < 12; i++)
		put_with(&w, i, ephemeral);
	settle(&w);
	for (uint32_t i = 0; i < 12; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	assert_true(stat(&w, "cache.lowered") > 0);
	cache_stop(&w, 1000);
	assert_int_equal(w.disk->stores, 0);
	cache_free(&w);
	world_close(&w);
}

static void with_a_budget_ephemeral_blocks_are_not_charged(void **state)
{
	struct world w;

	(void)state;
	world_budget(1ull << 40);
	world_open(&w, 16, 1000);
	world_budget(0);
	put_with(&w, 1, ephemeral);
	assert_int_equal(get(&w, 1, 1), KVC_OK); /* used again: it would be admitted now */
	put_with(&w, 1, ephemeral);
	restart(&w, true);
	assert_int_equal(w.disk->stores, 0);
	assert_int_equal(stat(&w, "disk.wear_throttled"), 0);
	world_close(&w);
}

static void a_later_put_can_allow_the_disk(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 17, 1000);
	for (uint32_t i = 1; i <= 3; i++)
		put_with(&w, i, ephemeral);
	put_with(&w, 1, none);
	put_durable(&w, 2);
	put_with(&w, 4, none);
	put_with(&w, 4, ephemeral); /* too late */
	restart(&w, true);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	assert_int_equal(get(&w, 3, 3), KVC_MISS);
	assert_int_equal(get(&w, 4, 4), KVC_OK);
	world_close(&w);
}

/* ---- priority ------------------------------------------------------------------------------ */

static void a_later_put_can_only_raise_the_priority(void **state)
{
	const struct kvc_hints low = {.priority = KVC_PRIORITY_LOW}, high = {.priority = KVC_PRIORITY_HIGH};
	struct world w;

	(void)state;
	world_open(&w, 24, 0);
	put_with(&w, 1, low);
	put_with(&w, 2, low);
	put_with(&w, 2, high); /* raised */
	put_with(&w, 3, high);
	put_with(&w, 3, low); /* not lowered */
	put_with(&w, 4, none);
	put_with(&w, 4, low);
	for (uint32_t i = FILLER; stat(&w, "cache.evicted") < 2; i++)
		put_with(&w, i, none);
	assert_int_equal(get(&w, 1, 1),
	                 KVC_MISS); /* the first to go, and then the oldest of the normal ones */
	assert_int_equal(get(&w, 4, 4), KVC_MISS);
	push_out(&w);
	assert_int_equal(get(&w, 2, 2), KVC_OK);
	assert_int_equal(get(&w, 3, 3), KVC_OK);
	world_close(&w);
}

/* ---- leases -------------------------------------------------------------------------------- */

/* A pin holds the block from eviction, not beyond its end, and not its memory then. */
static void a_pinned_block_ends_too(void **state)
{
	struct kvc_lease *lease;
	struct kvc_storage_key keys[4];
	struct world w;
	uint32_t done;

	(void)state;
	world_open(&w, 18, 0);
	for (uint32_t i = 0; i < 4; i++) {
		put_with(&w, i, i < 2 ? ttl : none);
		keys[i] = storage_key(&w, i);
	}
	assert_int_equal(kvc_lease_open(w.cache, 2, &lease), KVC_OK);
	assert_int_equal(kvc_lease_pin(lease, keys, 2, &done), KVC_OK);
	assert_int_equal(done, 2);
	push_out(&w);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	assert_int_equal(get(&w, 2, 2), KVC_MISS);
	for (uint32_t i = 2; i < 4; i++)
		put_with(&w, i, none);
	sim_pass(w.loop, TTL);
	done = (uint32_t)stat(&w, "ram.used_bytes");
	assert_int_equal(get(&w, 0, 0), KVC_MISS);
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	assert_true(stat(&w, "ram.used_bytes") < done);
	assert_int_equal(stat(&w, "cache.pins"), 0);
	assert_int_equal(kvc_lease_pin(lease, keys + 2, 2, &done), KVC_OK); /* they do not count any more */
	assert_int_equal(done, 2);
	assert_int_equal(stat(&w, "cache.pins"), 2);
	kvc_lease_close(lease);
	assert_int_equal(stat(&w, "cache.pins"), 0);
	world_close(&w);
}

/* The session that pinned it dies: the block can be evicted, and still ends. */
static void a_lease_that_ends_lets_go(void **state)
{
	struct kvc_lease *lease;
	struct kvc_storage_key key;
	struct world w;
	uint32_t done;

	(void)state;
	world_open(&w, 19, 0);
	put_with(&w, 1, ttl);
	key = storage_key(&w, 1);
	assert_int_equal(kvc_lease_open(w.cache, 2, &lease), KVC_OK);
	assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	kvc_lease_close(lease);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	push_out(&w);
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	assert_int_equal(stat(&w, "cache.expiring"), 0);
	world_close(&w);
}

/* ---- reading ahead ------------------------------------------------------------------------- */

enum { CHAIN = 200 };

/* A chain on disk, and RAM full of others. */
static void chain_on_disk(struct world *w, uint32_t length, struct kvc_storage_key *keys)
{
	for (uint32_t i = 0; i < length; i++) {
		put_with(w, i, none);
		keys[i] = storage_key(w, i);
	}
	push_out(w);
	settle(w);
	assert_int_equal(rest_of(w, 0), KVC_REST_DISK);
}

static void what_was_read_ahead_is_in_ram(void **state)
{
	enum { LENGTH = 10 };
	struct kvc_storage_key keys[LENGTH + 1];
	struct world w;

	(void)state;
	world_open(&w, 20, 1000);
	chain_on_disk(&w, LENGTH, keys);
	keys[LENGTH] = storage_key(&w, 999999);
	assert_int_equal(kvc_cache_read_ahead(w.cache, keys, LENGTH + 1), LENGTH);
	assert_int_equal(kvc_cache_read_ahead(w.cache, keys, LENGTH), LENGTH); /* they are on their way */
	assert_int_equal(stat(&w, "cache.read_ahead"), LENGTH);
	settle(&w);
	for (uint32_t i = 0; i < LENGTH; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	assert_int_equal(stat(&w, "cache.hits_ram"), LENGTH);
	assert_int_equal(stat(&w, "cache.hits_disk"), 0);
	world_close(&w);
}

/* As many as there may be moves; the room that others need is left to them; what has ended makes room. */
static void reading_ahead_is_bounded(void **state)
{
	enum { MOVES = 16 };
	struct kvc_storage_key keys[CHAIN];
	struct world w;
	struct job job;

	(void)state;
	world_open(&w, 21, 1000);
	chain_on_disk(&w, CHAIN, keys);
	assert_int_equal(kvc_cache_read_ahead(w.cache, keys, CHAIN), MOVES);
	assert_int_equal(kvc_cache_read_ahead(w.cache, keys, CHAIN), MOVES);
	get_submit(&w, &job, MOVES + 1);
	assert_int_equal(finish(&w, &job), KVC_OK);
	settle(&w);
	assert_int_equal(kvc_cache_read_ahead(w.cache, keys, CHAIN), 2 * MOVES + 1);
	settle(&w);
	world_close(&w);
}

/* What was begun for nobody waits behind the puts; when a get joins it, it goes before them. */
static void a_get_hurries_what_is_read_ahead(void **state)
{
	enum { PUTS = 20 };
	struct kvc_storage_key key;
	struct job *puts = test_calloc(PUTS, sizeof *puts);
	struct job reader, leaver;
	struct world w;
	uint32_t number = 0;

	(void)state;
	world_open(&w, 23, 1000);
	chain_on_disk(&w, 1, &key);
	w.disk->faults.hang = 1;
	do { /* until RAM is full of what cannot be written now */
		put_submit(&w, &puts[0], 2 * FILLER + number++, 0, false);
		settle(&w);
	} while (puts[0].done);
	for (uint32_t i = 1; i < PUTS; i++)
		put_submit(&w, &puts[i], 2 * FILLER + number++, 0, false);
	assert_int_equal(kvc_cache_read_ahead(w.cache, &key, 1), 1);
	settle(&w);
	assert_int_equal(stat(&w, "move.load_pending"), 0); /* no room for it */
	get_submit(&w, &leaver, 0);
	kvc_op_cancel(&leaver.op, KVC_DEADLINE); /* it stays on its way */
	assert_int_equal(finish(&w, &leaver), KVC_DEADLINE);
	get_submit(&w, &reader, 0);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 0));
	assert_false(puts[PUTS - 1].done);
	assert_int_equal(stat(&w, "move.load"), 1);
	settle(&w);
	for (uint32_t i = 0; i < PUTS; i++)
		assert_true(puts[i].done && puts[i].op.status == KVC_OK);
	world_close(&w);
	test_free(puts);
}

/* A chain that is longer than half of RAM: its beginning comes, and stays. */
static void a_long_chain_does_not_push_itself_out(void **state)
{
	struct kvc_storage_key keys[CHAIN];
	uint8_t rest[CHAIN];
	struct world w;
	uint32_t there = 0, before;

	(void)state;
	world_open(&w, 22, 1000);
	chain_on_disk(&w, CHAIN, keys);
	do {
		before = there;
		kvc_cache_lookup(w.cache, keys, CHAIN, rest);
		there = kvc_cache_read_ahead(w.cache, keys, CHAIN);
		settle(&w);
	} while (there > before);
	kvc_cache_lookup(w.cache, keys, CHAIN, rest);
	print_message("%u of %d blocks are read ahead\n", there, CHAIN);
	assert_true(there > CHAIN / 3 && there < CHAIN);
	for (uint32_t i = 0; i < there; i++)
		assert_int_equal(rest[i], KVC_REST_RAM);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_block_ends_to_the_millisecond),
	        cmocka_unit_test(every_verb_sees_the_end),
	        cmocka_unit_test(what_nobody_asks_for_is_swept),
	        cmocka_unit_test(ends_while_it_is_filled),
	        cmocka_unit_test(ends_while_it_is_read),
	        cmocka_unit_test(ends_while_it_is_loaded),
	        cmocka_unit_test(ends_while_it_is_stored),
	        cmocka_unit_test(ends_in_vram),
	        cmocka_unit_test(a_later_put_can_only_put_off_the_end),
	        cmocka_unit_test(no_memory_for_an_end_is_no_block),
	        cmocka_unit_test(no_start_finds_a_block_that_ends),
	        cmocka_unit_test(a_stop_does_not_write_what_ends),
	        cmocka_unit_test(a_durable_put_outlives_an_earlier_end),
	        cmocka_unit_test(ephemeral_blocks_never_reach_the_disk),
	        cmocka_unit_test(ephemeral_blocks_go_from_vram_to_ram_only),
	        cmocka_unit_test(with_a_budget_ephemeral_blocks_are_not_charged),
	        cmocka_unit_test(a_later_put_can_allow_the_disk),
	        cmocka_unit_test(a_later_put_can_only_raise_the_priority),
	        cmocka_unit_test(a_pinned_block_ends_too),
	        cmocka_unit_test(a_lease_that_ends_lets_go),
	        cmocka_unit_test(what_was_read_ahead_is_in_ram),
	        cmocka_unit_test(reading_ahead_is_bounded),
	        cmocka_unit_test(a_get_hurries_what_is_read_ahead),
	        cmocka_unit_test(a_long_chain_does_not_push_itself_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
