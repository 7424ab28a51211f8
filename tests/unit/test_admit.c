/* Admission to disk: what is admitted follows the budget, requests are admitted whole, restarts keep the
 * state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/policy/admit.h"
#include "tests/support/prng.h"

#define SECOND UINT64_C(1000000000)
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)
#define MIB    (UINT64_C(1) << 20)

enum { WINDOW_S = 3600, REQUEST = 32, FIRST = 1000 };

static const struct kvc_admit_options one_tib_a_day = {
        .day_bytes = MIB << 20, .window_s = WINDOW_S, .seen_max = 1000};

static struct kvc_admit *admit_open(const struct kvc_admit_state *state, uint64_t now)
{
	struct kvc_admit *admit;

	assert_int_equal(kvc_admit_open(&one_tib_a_day, now, &admit), KVC_OK);
	if (state)
		kvc_admit_restore(admit, state);
	return admit;
}

static bool ask_one(struct kvc_admit *admit, uint64_t now, enum kvc_admit_kind kind, uint32_t first,
                    uint64_t coin)
{
	const struct kvc_admit_block block = {.kind = kind, .first = first, .coin = coin, .bytes = MIB};

	return kvc_admit_ask(admit, now, &block);
}

/* A request of REQUEST blocks of a MiB, all as deep; returns how many were admitted. */
static unsigned ask(struct kvc_admit *admit, uint64_t now, enum kvc_admit_kind kind, uint64_t coin)
{
	unsigned admitted = 0;

	for (uint32_t i = 0; i < REQUEST; i++)
		admitted += ask_one(admit, now, kind, FIRST, coin);
	return admitted;
}

/* Offer so many times the budget, a part of it as blocks that came again; returns bytes admitted by kind. */
static void offer(struct kvc_admit *admit, struct prng *prng, uint64_t from, uint64_t to, double times,
                  uint32_t again_of_100, uint64_t bytes[2])
{
	double interval = 86400.0 * (double)REQUEST / (1 << 20) / times * (double)SECOND;

	for (double now = (double)from; now < (double)to; now += interval) {
		enum kvc_admit_kind kind =
		        prng_below(prng, 100) < again_of_100 ? KVC_ADMIT_AGAIN : KVC_ADMIT_FRESH;
		uint64_t more = ask(admit, (uint64_t)now, kind, prng_next(prng)) * MIB;

		bytes[kind] += more;
		if (more)
			kvc_admit_wrote(admit, (uint64_t)now, more, true);
	}
}

static void writes_follow_the_budget(void **state)
{
	static const double times[] = {1.5, 3, 10, 40};
	struct prng prng = {prng_seed("admission")};

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		struct kvc_admit *admit = admit_open(NULL, 0);
		uint64_t bytes[2] = {0};
		double part, again;

		offer(admit, &prng, 0, DAY, times[i], 20, bytes);
		part = (double)(bytes[0] + bytes[1]) / (double)one_tib_a_day.day_bytes;
		again = (double)bytes[KVC_ADMIT_AGAIN] / (double)one_tib_a_day.day_bytes;
		print_message("%.1f budgets offered: %.3f admitted, %.3f of it again\n", times[i], part,
		              again);
		assert_true(part > 0.95 && part < 1.05);
		assert_int_equal(kvc_admit_written_day(admit, DAY - HOUR / 2), bytes[0] + bytes[1]);
		if (0.2 * times[i] < 0.7)
			assert_true(again > 0.19 * times[i]); /* they come first */
		kvc_admit_close(admit);
	}
}

/* No burst, however long the pause before it, is more than a window. */
static void bursts_are_bounded(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	uint64_t window = one_tib_a_day.day_bytes / 24;
	uint64_t admitted = 0;

	(void)state;
	for (unsigned i = 0; i < 10000; i++)
		admitted += ask(admit, 10 * DAY, KVC_ADMIT_AGAIN, i) * MIB;
	assert_in_range(admitted, window - MIB, window);
	assert_int_equal(ask(admit, 10 * DAY, KVC_ADMIT_FRESH, 1), 0);
	kvc_admit_close(admit);
}

static void less_than_the_budget_is_all_admitted(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	struct prng prng = {prng_seed("admission")};
	uint64_t bytes[2] = {0};

	(void)state;
	offer(admit, &prng, 0, DAY, 0.5, 20, bytes);
	assert_true((double)(bytes[0] + bytes[1]) > 0.49 * (double)one_tib_a_day.day_bytes);
	kvc_admit_close(admit);
}

/* A fresh request is admitted from its first block on, up to some block: nothing after a hole. */
static void requests_have_no_holes(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	struct prng prng = {prng_seed("admission")};
	unsigned whole = 0, none = 0;

	(void)state;
	for (unsigned i = 0; i < 5000; i++) {
		uint64_t coin = prng_next(&prng);
		bool before = true;
		unsigned admitted = 0;

		for (unsigned b = 0; b < REQUEST; b++) {
			bool now = ask_one(admit, i * SECOND, KVC_ADMIT_FRESH, FIRST, coin);

			assert_true(before || !now);
			before = now;
			admitted += now;
		}
		whole += admitted == REQUEST;
		none += admitted == 0;
	}
	print_message("%u whole, %u not at all, %u in part\n", whole, none, 5000 - whole - none);
	assert_true(whole > 500 && 5000 - whole - none < 100);
	kvc_admit_close(admit);
}

/* Prompts of blocks of 512 tokens, several times what the budget allows: the shallow blocks are admitted, the
 * deep ones refused, and a part of a block too. */
static void heads_come_first(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	struct prng prng = {prng_seed("heads")};
	unsigned admitted[REQUEST + 1] = {0}, requests = 0;

	(void)state;
	for (uint64_t now = 0; now < DAY; now += SECOND) { /* of 33 MiB: 37 % of it are allowed */
		uint64_t coin = prng_next(&prng);

		requests += now >= DAY / 2;
		for (uint32_t b = 0; b <= REQUEST; b++) {
			uint32_t first = b < REQUEST ? b * 512 : KVC_ADMIT_DEEPEST;
			bool yes = ask_one(admit, now, KVC_ADMIT_FRESH, first, coin);

			admitted[b] += now >= DAY / 2 && yes;
		}
	}
	print_message("of %u: %u, %u, %u, %u blocks at 0, 4, 8, 16; %u parts\n", requests, admitted[0],
	              admitted[4], admitted[8], admitted[16], admitted[REQUEST]);
	assert_int_equal(admitted[0], requests);
	assert_true(admitted[4] > requests * 9 / 10);
	assert_int_equal(admitted[16], 0);
	assert_int_equal(admitted[REQUEST], 0);
	kvc_admit_close(admit);
}

/* There is room for all: nobody is refused for his depth. */
static void depth_costs_nothing_within_the_budget(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);

	(void)state;
	for (uint64_t now = 0; now < DAY; now += 100 * SECOND)
		for (uint32_t b = 0; b <= REQUEST; b++)
			assert_true(ask_one(admit, now, KVC_ADMIT_FRESH,
			                    b < REQUEST ? b * 512 : KVC_ADMIT_DEEPEST, now));
	kvc_admit_close(admit);
}

static void refused_blocks_are_remembered_once(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	unsigned back = 0;

	(void)state;
	assert_false(kvc_admit_came_back(admit, 77));
	for (uint64_t i = 0; i < 500; i++)
		kvc_admit_remember(admit, i * UINT64_C(0x9E3779B97F4A7C15));
	for (uint64_t i = 0; i < 500; i++)
		back += kvc_admit_came_back(admit, i * UINT64_C(0x9E3779B97F4A7C15));
	assert_true(back > 300); /* some share a place */
	assert_false(kvc_admit_came_back(admit, 3 * UINT64_C(0x9E3779B97F4A7C15)));
	kvc_admit_close(admit);
}

static void the_daily_figure_is_of_24_hours(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 5 * DAY);

	(void)state;
	for (uint64_t hour = 0; hour < 48; hour++)
		kvc_admit_wrote(admit, 5 * DAY + hour * HOUR, MIB, true);
	assert_int_equal(kvc_admit_written_day(admit, 5 * DAY + 47 * HOUR), 24 * MIB);
	assert_int_equal(kvc_admit_written_day(admit, 4 * DAY), 24 * MIB); /* a clock that goes back */
	assert_int_equal(kvc_admit_written_day(admit, 6 * DAY + 33 * HOUR), 14 * MIB);
	assert_int_equal(kvc_admit_written_day(admit, 900 * DAY), 0);
	kvc_admit_close(admit);
}

/* What is written without having been asked for is paid as well; what was not written is paid back. */
static void credit_is_charged_and_refunded(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);

	(void)state;
	kvc_admit_wrote(admit, 0, one_tib_a_day.day_bytes, false);
	assert_false(ask_one(admit, 0, KVC_ADMIT_AGAIN, 0, 0));
	kvc_admit_refund(admit, MIB);
	assert_true(ask_one(admit, 0, KVC_ADMIT_AGAIN, 0, 0));
	assert_false(ask_one(admit, 0, KVC_ADMIT_AGAIN, 0, 0));
	kvc_admit_close(admit);
}

/* Of a block that is longer than it was taken for the rest is paid too, or it is refused. */
static void a_longer_block_is_paid_or_refused(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	uint64_t credit = kvc_admit_credit(admit, 0);

	(void)state;
	assert_true(ask_one(admit, 0, KVC_ADMIT_AGAIN, 0, 0));
	assert_true(kvc_admit_resize(admit, MIB, 3 * MIB));
	assert_int_equal(kvc_admit_credit(admit, 0), credit - 3 * MIB);
	kvc_admit_refund(admit, 3 * MIB);
	assert_true(ask_one(admit, 0, KVC_ADMIT_AGAIN, 0, 0));
	assert_false(kvc_admit_resize(admit, MIB, credit + 1));
	assert_int_equal(kvc_admit_credit(admit, 0), credit);
	kvc_admit_close(admit);
}

static void a_restart_keeps_the_state(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 7 * DAY);
	struct kvc_admit_state saved, again;

	(void)state;
	kvc_admit_wrote(admit, 7 * DAY, 5 * MIB, false);
	kvc_admit_wrote(admit, 7 * DAY + HOUR, 3 * MIB, false);
	kvc_admit_save(admit, 7 * DAY + 2 * HOUR + 5, &saved);
	kvc_admit_close(admit);

	admit = admit_open(&saved, 3); /* another boot: its clock begins anew */
	assert_int_equal(kvc_admit_written_day(admit, 3), 8 * MIB);
	kvc_admit_save(admit, 3, &again);
	assert_memory_equal(&saved, &again, sizeof saved);
	assert_int_equal(kvc_admit_written_day(admit, 3 + 22 * HOUR), 3 * MIB);
	kvc_admit_close(admit);
}

/* Several directories keep the same account, and one of them was away for a while. */
static void the_longest_account_is_taken(void **state)
{
	struct kvc_admit *admit = admit_open(NULL, 0);
	struct kvc_admit_state early, late, now;

	(void)state;
	kvc_admit_wrote(admit, 0, MIB, false);
	kvc_admit_save(admit, HOUR, &early);
	kvc_admit_wrote(admit, 30 * HOUR, 5 * MIB, false);
	kvc_admit_save(admit, 30 * HOUR, &late);
	kvc_admit_close(admit);
	for (unsigned order = 0; order < 2; order++) {
		admit = admit_open(order ? &early : &late, 77);
		kvc_admit_restore(admit, order ? &late : &early);
		kvc_admit_save(admit, 77, &now);
		assert_memory_equal(&now, &late, sizeof now);
		kvc_admit_close(admit);
	}
	assert_int_equal(late.hours, 30);
}

static void a_state_that_makes_no_sense_is_none(void **state)
{
	static const struct kvc_admit_state bad[] = {
	        {.version = KVC_ADMIT_VERSION + 1, .written = {1}},
	        {.version = KVC_ADMIT_VERSION, .zero = 1, .written = {1}},
	        {.version = KVC_ADMIT_VERSION, .hour_ns = HOUR, .written = {1}},
	};
	struct kvc_admit_state much = {.version = KVC_ADMIT_VERSION, .credit = UINT64_MAX};

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct kvc_admit *admit = admit_open(&bad[i], 0);

		assert_int_equal(kvc_admit_written_day(admit, 0), 0);
		kvc_admit_close(admit);
	}
	struct kvc_admit *admit = admit_open(&much, 0);

	kvc_admit_save(admit, 0, &much);
	assert_int_equal(much.credit, one_tib_a_day.day_bytes / 24);
	kvc_admit_close(admit);
}

static void no_budget_admits_all(void **state)
{
	static const struct kvc_admit_options none = {.seen_max = 1};
	struct kvc_admit *admit;

	(void)state;
	assert_int_equal(kvc_admit_open(&none, 0, &admit), KVC_OK);
	for (unsigned i = 0; i < 1000; i++)
		assert_true(kvc_admit_ask(admit, 0,
		                          &(struct kvc_admit_block){.first = KVC_ADMIT_DEEPEST,
		                                                    .coin = i,
		                                                    .bytes = UINT64_MAX / 2}));
	kvc_admit_wrote(admit, 0, MIB, true);
	assert_int_equal(kvc_admit_written_day(admit, 0), MIB);
	kvc_admit_close(admit);
}

static void open_without_memory(void **state)
{
	struct kvc_admit *admit;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(kvc_admit_open(&one_tib_a_day, 0, &admit), KVC_NO_MEMORY);
	}
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_alloc_live(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(writes_follow_the_budget),
	        cmocka_unit_test(bursts_are_bounded),
	        cmocka_unit_test(less_than_the_budget_is_all_admitted),
	        cmocka_unit_test(requests_have_no_holes),
	        cmocka_unit_test(heads_come_first),
	        cmocka_unit_test(depth_costs_nothing_within_the_budget),
	        cmocka_unit_test(refused_blocks_are_remembered_once),
	        cmocka_unit_test(the_daily_figure_is_of_24_hours),
	        cmocka_unit_test(credit_is_charged_and_refunded),
	        cmocka_unit_test(a_longer_block_is_paid_or_refused),
	        cmocka_unit_test(a_restart_keeps_the_state),
	        cmocka_unit_test(the_longest_account_is_taken),
	        cmocka_unit_test(a_state_that_makes_no_sense_is_none),
	        cmocka_unit_test(no_budget_admits_all),
	        cmocka_unit_test(open_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
