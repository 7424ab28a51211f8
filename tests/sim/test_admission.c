/* Admission to disk in the simulated world: what is written stays within the budget, and makes
 * prefixes without holes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/policy/admit.h"
#include "tests/sim/world.h"
#include "tests/support/row.h"

enum {
	RECORD = 4096,
	WINDOW = 200, /* records that the budget allows in an hour */
	HOUR_MS = 3600000,
	CHAINS = 40,
	LENGTH = 10,
	SINGLES = 180,
};

static void fired(struct kvc_timer *timer)
{
	(void)timer;
}

static void advance(struct world *w, uint64_t ms)
{
	uint64_t until = kvc_loop_now_ms(w->loop) + ms;
	struct kvc_timer timer = {.fire = fired};

	assert_int_equal(kvc_timer_start(w->loop, &timer, ms), KVC_OK);
	while (kvc_loop_now_ms(w->loop) < until)
		assert_true(sim_step(w->loop));
}

static void begin(struct world *w, uint64_t seed)
{
	world_budget(24ull * WINDOW * RECORD);
	world_open(w, seed, 2000);
	world_budget(0);
}

/* What the tier would put down now. */
static struct kvc_admit_state account(struct world *w)
{
	struct kvc_admit_state state;
	struct kvc_tier_note note;

	sim_tier_note(w->disk, &note);
	memcpy(&state, note.bytes, sizeof state);
	return state;
}

/* Stop, so that all that is to be written is, and start again over what is on disk. */
static void restart(struct world *w)
{
	settle(w);
	cache_stop(w, 1000);
	(void)account(w);
	cache_free(w);
	kvc_arena_close(w->arena);
	assert_int_equal(kvc_arena_open(ARENA, w->stats, &w->arena), KVC_OK);
	sim_tier_crash(w->disk, false);
	cache_begin(w);
	settle(w);
}

static void chain_put(struct world *w, uint32_t chain, uint64_t coin, bool durable)
{
	for (uint32_t i = 0; i < LENGTH; i++) {
		uint32_t number = chain * LENGTH + i;
		struct job job;

		job_init(w, &job, KVC_OP_PUT, number);
		content_fill(number, job.key, job.value);
		job.op.has_parent = i > 0;
		job.op.parent = storage_key(w, i ? number - 1 : 0);
		job.op.coin = coin;
		job.op.durable = durable;
		kvc_op_submit(w->cache, &job.op);
		assert_int_equal(finish(w, &job), KVC_OK);
	}
}

/* Blocks of a chain that are there; it has no hole. */
static uint32_t chain_length(struct world *w, uint32_t chain)
{
	uint32_t there = 0;

	while (there < LENGTH && get(w, chain * LENGTH + there, chain * LENGTH + there) == KVC_OK)
		there++;
	for (uint32_t i = there; i < LENGTH; i++)
		assert_int_equal(get(w, chain * LENGTH + i, chain * LENGTH + i), KVC_MISS);
	return there;
}

static void writes_stay_within_the_budget(void **state)
{
	uint32_t allowed = WINDOW / 2 + CHAINS * 30 * WINDOW / 3600;
	uint32_t begun = 0, there = 0;
	struct world w;

	(void)state;
	begin(&w, 1);
	for (uint32_t chain = 0; chain < CHAINS; chain++) {
		chain_put(&w, chain, sim_next(&w.random), false);
		advance(&w, 30000);
	}
	restart(&w);
	assert_in_range(w.disk->stores, allowed / 2, allowed);
	assert_int_equal(stat(&w, "disk.admitted_day_bytes"), (int64_t)w.disk->stores * RECORD);
	assert_true(stat(&w, "disk.wear_throttled") > 0);
	for (uint32_t chain = 0; chain < CHAINS; chain++) {
		uint32_t length = chain_length(&w, chain);

		there += length;
		begun += length > 0;
	}
	print_message("%u of %u blocks written, the head of %u of %u chains\n", there, CHAINS * LENGTH, begun,
	              CHAINS);
	assert_int_equal(there, w.disk->stores);
	assert_in_range(begun, 2 * there / LENGTH, CHAINS); /* rather than a few whole */
	world_close(&w);
}

/* So many at once that some are refused. */
static uint32_t singles_put(struct world *w)
{
	advance(w, HOUR_MS);
	for (uint32_t i = 0; i < SINGLES; i++) {
		struct job job;

		job_init(w, &job, KVC_OP_PUT, i);
		content_fill(i, job.key, job.value);
		job.op.coin = sim_next(&w->random);
		kvc_op_submit(w->cache, &job.op);
		assert_int_equal(finish(w, &job), KVC_OK);
	}
	return (uint32_t)stat(w, "disk.wear_throttled");
}

static void what_is_used_again_is_written(void **state)
{
	struct world w;
	uint32_t refused;

	(void)state;
	begin(&w, 2);
	refused = singles_put(&w);
	assert_in_range(refused, 10, 100);
	for (uint32_t i = 0; i < SINGLES; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	restart(&w);
	assert_int_equal(w.disk->stores, SINGLES);
	world_close(&w);
}

static void what_is_not_used_is_lost(void **state)
{
	struct world w;
	uint32_t refused;

	(void)state;
	begin(&w, 2);
	refused = singles_put(&w);
	restart(&w);
	assert_int_equal(w.disk->stores, SINGLES - refused);
	world_close(&w);
}

/* Refused, evicted for want of room, and put again: now it is written. */
static void what_comes_back_is_written(void **state)
{
	uint32_t lost[SINGLES], count = 0;
	struct world w;

	(void)state;
	begin(&w, 3);
	singles_put(&w);
	for (uint32_t chain = 30; chain < 30 + CHAINS; chain++)
		chain_put(&w, chain, sim_next(&w.random), false);
	for (uint32_t i = 0; i < SINGLES; i++)
		if (get(&w, i, i) == KVC_MISS)
			lost[count++] = i;
	assert_in_range(count, 10, SINGLES);
	advance(&w, HOUR_MS);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(put(&w, lost[i], lost[i]), KVC_OK);
	restart(&w);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(get(&w, lost[i], lost[i]), KVC_OK);
	world_close(&w);
}

/* What must be on disk is written, whatever the budget says, and others pay for it. */
static void durable_puts_are_charged(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 4);
	for (uint32_t chain = 0; chain < CHAINS / 2; chain++)
		chain_put(&w, chain, 0, true);
	assert_int_equal(w.disk->stores, CHAINS / 2 * LENGTH);
	assert_int_equal(stat(&w, "disk.wear_throttled"), 0);
	chain_put(&w, CHAINS, 0, false);
	assert_true(stat(&w, "disk.wear_throttled") > 0);
	restart(&w);
	assert_int_equal(w.disk->stores, CHAINS / 2 * LENGTH);
	world_close(&w);
}

/* A store that fails costs nothing. */
static void failed_stores_are_refunded(void **state)
{
	struct world w;

	(void)state;
	world_budget(24ull * 4 * WINDOW * RECORD); /* so much that the cleaner has to write */
	world_open(&w, 5, 2000);
	world_budget(0);
	w.disk->faults.store_error = 1;
	for (uint32_t chain = 0; chain < CHAINS; chain++)
		chain_put(&w, chain, 0, false);
	settle(&w);
	assert_true(w.disk->stores > 0);
	assert_int_equal(w.disk->errors, w.disk->stores);
	assert_int_equal(account(&w).written[0], 0);
	for (uint32_t chain = 0; chain < CHAINS; chain++)
		for (uint32_t i = 0; i < LENGTH; i++) {
			struct kvc_storage_key key = storage_key(&w, chain * LENGTH + i);

			kvc_cache_drop(w.cache, &key, 1);
		}
	assert_int_equal(account(&w).credit, 2 * WINDOW * RECORD); /* of blocks that were dropped, too */
	world_close(&w);
}

/* ---- blocks that cannot be coded ---- */

enum { RAW_HEADS = 4, RAW_DIM = 128, RAW_ELEMENTS = RAW_HEADS * RAW_DIM * TOKENS };

static struct kvc_ns *raw_ns(struct world *w)
{
	struct kvc_ns_options options = ns_options("a");
	struct kvc_ns *ns;

	options.shape.heads = RAW_HEADS;
	options.shape.key_dim = options.shape.value_dim = RAW_DIM;
	assert_int_equal(kvc_ns_open(w->cache, &options, &ns), KVC_OK);
	return ns;
}

/* A put of nothing but NaNs, whose image is as long as what it is made of. Bytes of its record. */
static uint64_t raw_put(struct world *w, uint32_t number)
{
	static uint16_t nans[RAW_ELEMENTS];
	struct job job;

	for (unsigned i = 0; i < RAW_ELEMENTS; i++)
		nans[i] = 0x7FC0;
	job_init(w, &job, KVC_OP_PUT, number);
	job.op.view.key = job.op.view.value = nans;
	kvc_op_submit(w->cache, &job.op);
	assert_int_equal(finish(w, &job), KVC_OK);
	return kvc_record_bytes(job.op.image_bytes);
}

/* What was charged before the size was known is made good when it is, and given back as that. */
static void what_cannot_be_coded_is_charged_for_its_size(void **state)
{
	struct kvc_storage_key key;
	struct kvc_ns *own, *raw;
	uint64_t credit, bytes;
	struct world w;
	uint32_t puts = 0;

	(void)state;
	begin(&w, 8);
	raw = raw_ns(&w);
	own = world_ns(&w, raw);
	credit = account(&w).credit;
	bytes = raw_put(&w, 0);
	assert_true(bytes > kvc_record_bytes(kvc_ns_plan(raw)->image_bytes));
	assert_int_equal(account(&w).credit, credit - bytes);
	key = storage_key(&w, 0);
	assert_int_equal(kvc_cache_drop(w.cache, &key, 1), 1);
	assert_int_equal(account(&w).credit, credit);
	while (stat(&w, "disk.wear_throttled") == 0) /* one whose whole size is not to be had is refused */
		raw_put(&w, puts++);
	assert_in_range(account(&w).credit, 0, credit - (puts - 1) * bytes);
	assert_int_equal(puts - 1, credit / bytes);
	world_ns(&w, own);
	kvc_ns_close(raw);
	restart(&w);
	assert_int_equal(w.disk->stores, puts - 1);
	world_close(&w);
}

static void the_account_outlives_a_restart(void **state)
{
	struct kvc_admit_state saved;
	struct world w;

	(void)state;
	begin(&w, 6);
	chain_put(&w, 0, 0, true);
	assert_int_equal(account(&w).credit, (WINDOW / 2 - LENGTH) * RECORD);
	restart(&w);
	saved = account(&w);
	assert_int_equal(saved.credit, (WINDOW / 2 - LENGTH) * RECORD);
	assert_int_equal(saved.written[0], LENGTH * RECORD);
	world_close(&w);
}

/* Far more than the budget is put for many hours: writes follow it, over restarts too, and reads, from RAM
 * and from disk, are as good as ever. */
static void an_exhausted_budget_shapes_writes_only(void **state)
{
	enum { HOURS = 30, PUTS = 60 };
	uint32_t allowed = WINDOW / 2 + HOURS * WINDOW;
	struct world w;

	(void)state;
	KVC_ROW("B28");
	begin(&w, 7);
	for (uint32_t hour = 0; hour < HOURS; hour++) {
		for (uint32_t i = 0; i < PUTS; i++) {
			uint32_t chain = hour * PUTS + i;

			chain_put(&w, chain, sim_next(&w.random), false);
			assert_int_equal(get(&w, chain * LENGTH, chain * LENGTH), KVC_OK);
			kvc_row.verified++;
			advance(&w, HOUR_MS / PUTS);
		}
		kvc_row.injected += (uint64_t)stat(&w, "disk.wear_throttled");
		if (hour % 10 == 9)
			restart(&w);
	}
	print_message("%u records written, %u allowed\n", w.disk->stores, allowed);
	assert_in_range(w.disk->stores, allowed * 8 / 10, allowed);
	assert_true(kvc_row.injected > 0);
	assert_in_range(stat(&w, "disk.admitted_day_bytes"), 1, 25 * WINDOW * RECORD);
	assert_int_equal(stat(&w, "disk.budget_day_bytes"), 24 * WINDOW * RECORD);
	assert_in_range(stat(&w, "disk.budget_credit_bytes"), 0, WINDOW * RECORD);
	for (uint32_t chain = 0; chain < HOURS * PUTS; chain++)
		kvc_row.verified += chain_length(&w, chain); /* right bytes, or a miss and no hole */
	assert_int_equal(w.disk->errors, 0);
	world_close(&w);
	kvc_row_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(writes_stay_within_the_budget),
	        cmocka_unit_test(what_is_used_again_is_written),
	        cmocka_unit_test(what_is_not_used_is_lost),
	        cmocka_unit_test(what_comes_back_is_written),
	        cmocka_unit_test(durable_puts_are_charged),
	        cmocka_unit_test(failed_stores_are_refunded),
	        cmocka_unit_test(what_cannot_be_coded_is_charged_for_its_size),
	        cmocka_unit_test(the_account_outlives_a_restart),
	        cmocka_unit_test(an_exhausted_budget_shapes_writes_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
