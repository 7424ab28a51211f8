/* The mover's order, over an engine that does nothing until it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/mover/mover.h"

enum { MOVES = 40, CLASS_BYTES = 1 << 20, SLOTS = 16, PART = CLASS_BYTES / SLOTS };

struct rig {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_mover *mover;
	struct kvc_engine engine;
	struct kvc_tier tier;
	struct kvc_engine_job *jobs[MOVES + 1]; /* that run, in order */
	unsigned running;
	struct kvc_tier_req *requests[MOVES + 1]; /* likewise, of the tier */
	unsigned requested;
};

static struct rig rig;

static void engine_submit(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	(void)engine;
	rig.jobs[rig.running++] = job;
}

static void engine_cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	(void)engine;
	(void)job;
}

static void engine_close(struct kvc_engine *engine)
{
	(void)engine;
}

static const struct kvc_engine_ops engine_ops = {
        .name = "idle",
        .submit = engine_submit,
        .cancel = engine_cancel,
        .close = engine_close,
};

/* A tier that does nothing until it is told. */
static void tier_submit(struct kvc_tier *tier, struct kvc_tier_req *request)
{
	(void)tier;
	rig.requests[rig.requested++] = request;
}

static const struct kvc_tier_ops tier_ops = {.name = "idle", .submit = tier_submit};

static int open_with(uint32_t slots)
{
	struct kvc_mover_options options = {
	        .engine = &rig.engine, .disk = &rig.tier, .slots = slots, .class_bytes = CLASS_BYTES};

	rig = (struct rig){.engine = {&engine_ops}, .tier = {.ops = &tier_ops, .writable = true}};
	if (kvc_loop_open(&rig.loop) != KVC_OK || kvc_stats_open(&rig.stats) != KVC_OK)
		return 1;
	options.loop = rig.loop;
	options.stats = rig.stats;
	return kvc_mover_open(&options, &rig.mover) != KVC_OK;
}

static int setup(void **state)
{
	(void)state;
	return open_with(1);
}

static int setup_many(void **state)
{
	(void)state;
	return open_with(SLOTS);
}

static int teardown(void **state)
{
	(void)state;
	kvc_mover_close(rig.mover);
	kvc_stats_close(rig.stats);
	kvc_loop_close(rig.loop);
	return 0;
}

static void move_done(struct kvc_move *move)
{
	assert_int_equal(move->status, KVC_OK);
}

static void submit_bytes(struct kvc_move *move, struct kvc_move_flow *flow, enum kvc_move_kind kind,
                         uint64_t bytes)
{
	static struct kvc_record record;

	*move = (struct kvc_move){
	        .kind = kind, .flow = flow, .record = &record, .image_bytes = bytes, .done = move_done};
	kvc_move_submit(rig.mover, move);
}

static void submit(struct kvc_move *move, struct kvc_move_flow *flow, enum kvc_move_kind kind)
{
	submit_bytes(move, flow, kind, 1);
}

/* The operation of the job that has run longest, which ends now. */
static enum kvc_engine_op next(void)
{
	struct kvc_engine_job *job = rig.jobs[0];
	enum kvc_engine_op op = job->op;

	memmove(rig.jobs, rig.jobs + 1, --rig.running * sizeof rig.jobs[0]);
	job->status = KVC_OK;
	job->done(job);
	return op;
}

static void urgent_goes_first(void **state)
{
	struct kvc_move moves[3];
	struct kvc_move_flow flow;

	(void)state;
	kvc_move_flow_init(&flow, 0);
	submit(&moves[0], &flow, KVC_MOVE_ENCODE);
	submit(&moves[1], &flow, KVC_MOVE_ENCODE);
	submit(&moves[2], &flow, KVC_MOVE_DECODE);
	assert_int_equal(next(), KVC_ENGINE_ENCODE); /* it ran already */
	assert_int_equal(next(), KVC_ENGINE_DECODE);
	assert_int_equal(next(), KVC_ENGINE_ENCODE);
	assert_int_equal(rig.running, 0);
}

/* Gets that never end do not keep a put of the same flow from its turn. */
static void what_waits_has_its_turn(void **state)
{
	struct kvc_move gets[MOVES], puts[3];
	struct kvc_move_flow flow;
	unsigned since_put = 0, seen = 0;

	(void)state;
	kvc_move_flow_init(&flow, 0);
	for (unsigned i = 0; i < MOVES; i++)
		submit(&gets[i], &flow, KVC_MOVE_DECODE);
	for (unsigned i = 0; i < 3; i++)
		submit(&puts[i], &flow, KVC_MOVE_ENCODE);
	while (rig.running) {
		bool put = next() == KVC_ENGINE_ENCODE;

		seen += put;
		since_put = put ? 0 : since_put + 1;
		assert_true(seen == 3 || since_put <= 9); /* the first get ran before there was a put */
		assert_true(!put || seen == 1 || kvc_mover_pending(rig.mover, KVC_MOVE_DECODE) > 0);
	}
	assert_int_equal(seen, 3);
}

/* The same of the tier's requests. */
static enum kvc_tier_op tier_next(void)
{
	struct kvc_tier_req *request = rig.requests[0];
	enum kvc_tier_op op = request->op;

	memmove(rig.requests, rig.requests + 1, --rig.requested * sizeof rig.requests[0]);
	request->status = KVC_OK;
	request->done(request);
	return op;
}

/* Loads that never end do not keep a store of the same flow from its turn either. */
static void what_can_wait_has_its_turn(void **state)
{
	struct kvc_move loads[MOVES], store;
	struct kvc_move_flow flow;
	unsigned before = 0;

	(void)state;
	kvc_move_flow_init(&flow, 0);
	for (unsigned i = 0; i < MOVES; i++)
		submit(&loads[i], &flow, KVC_MOVE_LOAD);
	submit(&store, &flow, KVC_MOVE_STORE);
	while (tier_next() != KVC_TIER_STORE)
		before++;
	assert_true(before <= 10);
	while (rig.requested)
		tier_next();
}

/* A tier whose requests do not end has its own slots full, and nobody else's. */
static void the_tier_holds_up_no_engine(void **state)
{
	struct kvc_move loads[2], get, put;
	struct kvc_move_flow flow;

	(void)state;
	kvc_move_flow_init(&flow, 0);
	submit(&loads[0], &flow, KVC_MOVE_LOAD);
	submit(&loads[1], &flow, KVC_MOVE_LOAD);
	submit(&get, &flow, KVC_MOVE_DECODE);
	submit(&put, &flow, KVC_MOVE_ENCODE);
	assert_int_equal(next(), KVC_ENGINE_DECODE);
	assert_int_equal(next(), KVC_ENGINE_ENCODE);
	assert_int_equal(rig.requested, 1);
	tier_next();
	tier_next();
}

/* A flow's large block, which waits until there is room for it, is not held up for ever by small ones of
 * another. */
static void large_ones_find_room(void **state)
{
	struct kvc_move small[MOVES], large;
	struct kvc_move_flow flows[2];
	unsigned before = 0;

	(void)state;
	kvc_move_flow_init(&flows[0], 0);
	kvc_move_flow_init(&flows[1], 0);
	for (unsigned i = 0; i < MOVES; i++)
		submit_bytes(&small[i], &flows[0], KVC_MOVE_DECODE, PART);
	submit_bytes(&large, &flows[1], KVC_MOVE_DECODE, CLASS_BYTES / 2);
	for (; large.state == KVC_MOVE_QUEUED; before++)
		next();
	print_message("%u of %u small ones before it\n", before, (unsigned)MOVES);
	assert_true(before <= SLOTS);
	while (rig.running)
		next();
}

/* Two flows that have as much to do take turns, whoever came first. */
static void flows_take_turns(void **state)
{
	struct kvc_move moves[2][MOVES / 2];
	struct kvc_move_flow flows[2];
	struct kvc_engine_flow *last = NULL;
	unsigned changes = 0;

	(void)state;
	for (unsigned f = 0; f < 2; f++) {
		kvc_move_flow_init(&flows[f], 0);
		for (unsigned i = 0; i < MOVES / 2; i++)
			submit(&moves[f][i], &flows[f], KVC_MOVE_DECODE);
	}
	while (rig.running) {
		changes += rig.jobs[0]->flow != last;
		last = rig.jobs[0]->flow;
		next();
	}
	assert_true(changes >= MOVES - 2);
}

#define MOVER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define WITH_SLOTS(test) cmocka_unit_test_setup_teardown(test, setup_many, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        MOVER_TEST(urgent_goes_first),          MOVER_TEST(what_waits_has_its_turn),
	        MOVER_TEST(what_can_wait_has_its_turn), MOVER_TEST(the_tier_holds_up_no_engine),
	        MOVER_TEST(flows_take_turns),           WITH_SLOTS(large_ones_find_room),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
