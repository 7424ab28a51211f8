/* Turns by bytes, and token buckets: pure, so against small models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "daemon/base/fair.h"
#include "daemon/policy/rate.h"
#include "tests/support/prng.h"

enum { FLOWS = 4, PIECE = 1 << 20 };

struct flow {
	struct kvc_fair_flow turn;
	uint64_t served;
};

static struct flow *first(struct kvc_fair *fair)
{
	return kvc_container_of(kvc_fair_first(fair), struct flow, turn);
}

static uint64_t serve(struct kvc_fair *fair, uint64_t bytes)
{
	struct flow *flow = first(fair);

	kvc_fair_charge(fair, &flow->turn, bytes);
	flow->served += bytes;
	return bytes;
}

static void flows_open(struct kvc_fair *fair, struct flow *flows, const uint32_t *weights)
{
	kvc_fair_init(fair);
	for (unsigned i = 0; i < FLOWS; i++) {
		flows[i].served = 0;
		kvc_fair_flow_init(&flows[i].turn, weights[i]);
		kvc_fair_enter(fair, &flows[i].turn);
	}
}

/* Pieces of any size: no two flows are further apart, by weight, than their largest pieces. */
static void shares_follow_the_weights(void **state)
{
	static const uint32_t weights[FLOWS] = {100, 300, 0, 50};
	struct prng prng = {.state = prng_seed(__func__)};
	struct flow flows[FLOWS];
	struct kvc_fair fair;
	uint64_t all = 0;

	(void)state;
	flows_open(&fair, flows, weights);
	while (all < 4000ull * PIECE)
		all += serve(&fair, 1 + prng_below(&prng, PIECE));
	for (unsigned i = 0; i < FLOWS; i++) {
		double part = (double)flows[i].served / (double)all;
		double right = (weights[i] ? weights[i] : 100) / 550.0;

		print_message("weight %u: %.4f, expected %.4f\n", weights[i], part, right);
		assert_true(part > right * 0.99 && part < right * 1.01);
	}
}

/* What came late does not catch up, and what left does not lose what it owes. */
static void nobody_saves_up(void **state)
{
	static const uint32_t weights[FLOWS] = {0};
	struct flow flows[FLOWS];
	struct kvc_fair fair;

	(void)state;
	flows_open(&fair, flows, weights);
	for (unsigned i = 1; i < FLOWS; i++)
		kvc_fair_leave(&flows[i].turn);
	for (unsigned i = 0; i < 1000; i++)
		serve(&fair, PIECE);
	kvc_fair_enter(&fair, &flows[1].turn);
	kvc_fair_enter(&fair, &flows[1].turn); /* twice is once */
	flows[0].served = 0;
	for (unsigned i = 0; i < 100; i++)
		serve(&fair, PIECE);
	assert_in_range(flows[0].served / PIECE, 49, 51);
	assert_in_range(flows[1].served / PIECE, 49, 51);
	serve(&fair, 50 * PIECE);
	{
		struct flow *owes = flows[0].turn.due > flows[1].turn.due ? &flows[0] : &flows[1];
		struct flow *other = owes == &flows[0] ? &flows[1] : &flows[0];

		kvc_fair_leave(&owes->turn);
		kvc_fair_enter(&fair, &owes->turn);
		for (unsigned i = 0; i < 45; i++) {
			assert_ptr_equal(first(&fair), other);
			serve(&fair, PIECE);
		}
	}
	assert_null(kvc_fair_next(&fair, kvc_fair_next(&fair, kvc_fair_first(&fair))));
}

/* Small pieces are not free. */
static void tiny_pieces_count(void **state)
{
	static const uint32_t weights[FLOWS] = {0};
	struct flow flows[FLOWS];
	struct kvc_fair fair;

	(void)state;
	flows_open(&fair, flows, weights);
	for (unsigned i = 0; i < 400; i++)
		serve(&fair, 0);
	for (unsigned i = 0; i < FLOWS; i++)
		assert_int_equal(flows[i].turn.due, flows[0].turn.due);
}

static void rate_holds(void **state)
{
	struct prng prng = {.state = prng_seed(__func__)};

	(void)state;
	for (unsigned round = 0; round < 50; round++) {
		uint64_t per_s = 1 + prng_below(&prng, round % 2 ? 1000 : 100000000);
		uint64_t start = prng_below(&prng, 1000000), now = start, passed = 0, largest = 0;
		struct kvc_rate rate;

		kvc_rate_init(&rate, per_s, now);
		for (unsigned i = 0; i < 20000; i++) {
			uint64_t bytes = 1 + prng_below(&prng, (uint32_t)(3 * per_s));

			now += prng_below(&prng, 200);
			if (!kvc_rate_ready(&rate, now)) {
				assert_true(kvc_rate_wait_ms(&rate) > 0);
				continue;
			}
			assert_int_equal(kvc_rate_wait_ms(&rate), 0);
			kvc_rate_take(&rate, bytes);
			passed += bytes;
			largest = bytes > largest ? bytes : largest;
		}
		assert_true(passed <= per_s * (now - start + 1000) / 1000 + largest);
		assert_true(passed >= per_s * ((now - start) / 1000) / 2);
	}
}

static void rate_waits_as_long_as_it_says(void **state)
{
	struct kvc_rate rate;
	uint64_t wait;

	(void)state;
	kvc_rate_init(&rate, 1000, 5);
	kvc_rate_take(&rate, 3500);
	assert_false(kvc_rate_ready(&rate, 5));
	wait = kvc_rate_wait_ms(&rate);
	assert_in_range(wait, 2500, 2502);
	assert_false(kvc_rate_ready(&rate, 5 + 2499));
	assert_true(kvc_rate_ready(&rate, 5 + wait));
	kvc_rate_set(&rate, 10, 5 + wait); /* less: what was saved up goes */
	assert_true(rate.credit <= 10000);
	kvc_rate_set(&rate, 0, 5 + wait);
	kvc_rate_take(&rate, 1 << 30);
	assert_true(kvc_rate_ready(&rate, 5 + wait));
	kvc_rate_set(&rate, 7, 5 + wait); /* a limit begins with a full bucket */
	assert_true(kvc_rate_ready(&rate, 5 + wait));
	assert_int_equal(rate.credit, 7000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(shares_follow_the_weights),
	        cmocka_unit_test(nobody_saves_up),
	        cmocka_unit_test(tiny_pieces_count),
	        cmocka_unit_test(rate_holds),
	        cmocka_unit_test(rate_waits_as_long_as_it_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
