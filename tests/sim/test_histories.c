/* Random histories of the cache and the mover in the simulated world of sim.h, against a model that knows
 * only which contents were ever put under a key. KVC_TEST_SEED replays a seed, KVC_TEST_SEEDS says how many
 * are run; each takes the next policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/world.h"

enum { NUMBERS = 300, CONTENTS = 4, JOBS = 24 };

/* What the model knows of a block key: the contents that a put was ever begun with, and when the last of them
 * ends. */
struct history {
	uint8_t put[NUMBERS];
	uint64_t ends_ms[NUMBERS];
	bool over[JOBS]; /* the block that a get asks for had ended when it began */
};

static void history_get(struct world *w, const struct history *history, const struct job *job, bool over)
{
	uint8_t contents = history->put[job->number];

	if (over)
		fail_msg("block %u was restored after its end", job->number);
	for (uint32_t content = 0; content < CONTENTS; content++)
		if (contents >> content & 1 && restored_is(w, job, job->number * CONTENTS + content))
			return;
	fail_msg("block %u was restored as something that was never put", job->number);
}

static void history_put(struct world *w, struct history *history, struct job *job, uint32_t number,
                        uint32_t content)
{
	bool durable = hints_draw(w, number);

	history->put[number] |= (uint8_t)(1u << content);
	if (hints_end(w) > history->ends_ms[number])
		history->ends_ms[number] = hints_end(w);
	put_submit(w, job, number, number * CONTENTS + content, durable);
}

static void history_submit(struct world *w, struct history *history, struct job *job, bool *over)
{
	uint32_t number = (uint32_t)(sim_next(&w->random) % NUMBERS);
	uint32_t content = (uint32_t)(sim_next(&w->random) % CONTENTS);

	if (w->gpu)
		world_form(w, (enum kvc_op_form)(sim_next(&w->random) % (KVC_OP_IMAGE + 1)));
	*over = history->ends_ms[number] <= kvc_loop_now_ms(w->loop);
	if (sim_one_in(&w->random, 2))
		history_put(w, history, job, number, content);
	else
		get_submit(w, job, number);
}

static void history_other(struct world *w, struct kvc_lease *lease)
{
	struct kvc_storage_key key = storage_key(w, (uint32_t)(sim_next(&w->random) % NUMBERS));
	uint32_t done;
	uint8_t rest;

	switch (sim_next(&w->random) % 7) {
	case 0:
		kvc_cache_drop(w->cache, &key, 1);
		break;
	case 1:
		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
		break;
	case 2:
	case 3:
		kvc_lease_unpin(lease, &key, 1);
		break;
	case 4:
		kvc_cache_prefetch(w->cache, &key, 1);
		break;
	case 5:
		kvc_cache_read_ahead(w->cache, &key, 1);
		break;
	default:
		kvc_cache_lookup(w->cache, &key, 1, &rest);
		break;
	}
}

static void history_step(struct world *w, struct history *history, struct job *jobs, uint32_t j, bool *busy)
{
	struct job *job = &jobs[j];

	if (!*busy) {
		history_submit(w, history, job, &history->over[j]);
		*busy = true;
	} else if (job->done) {
		if (job->op.kind == KVC_OP_GET && job->op.status == KVC_OK)
			history_get(w, history, job, history->over[j]);
		*busy = false;
	} else if (sim_one_in(&w->random, 30)) {
		kvc_op_cancel(&job->op, KVC_DEADLINE);
	}
}

/* Another process finds neither what ends nor what is ephemeral. */
static void history_restart(struct world *w)
{
	cache_end(w, 1000);
	kvc_arena_close(w->arena);
	assert_int_equal(kvc_arena_open(ARENA, w->stats, &w->arena), KVC_OK);
	w->disk->faults = (struct sim_tier_faults){0};
	sim_tier_crash(w->disk, false);
	cache_begin(w);
	for (uint32_t number = 0; number < NUMBERS; number++) {
		struct kvc_storage_key key = storage_key(w, number);
		enum block_class class = block_class(number);
		uint8_t rest;

		if ((class == BLOCK_ENDS || class == BLOCK_EPHEMERAL) &&
		    kvc_cache_lookup(w->cache, &key, 1, &rest))
			fail_msg("block %u was found after a restart", number);
	}
}

static void history_run(uint64_t seed, uint32_t steps)
{
	struct job *jobs = test_calloc(JOBS, sizeof *jobs);
	struct history history = {.put = {0}};
	bool busy[JOBS] = {false};
	struct kvc_lease *lease;
	struct world w;

	world_policy((enum kvc_policy_kind)(seed / 5 % KVC_POLICIES));
	world_budget(seed % 2 ? 0 : (seed % 7) * (64ull << 20));
	world_open_gpu(&w, seed * 0x9E3779B97F4A7C15ull, seed % 4 ? 150 : 0,
	               seed % 3 ? (uint32_t)(seed % 5) * 15 : UINT32_MAX);
	if (w.gpu)
		sim_gpu_faults_set(w.gpu, &(struct sim_gpu_faults){.kill = 400, .flip = 40});
	if (w.disk)
		w.disk->faults = (struct sim_tier_faults){
		        .store_error = 50, .load_error = 50, .sync_error = 50, .flip = 20};
	assert_int_equal(kvc_lease_open(w.cache, 100, &lease), KVC_OK);
	for (uint32_t i = 0; i < steps; i++) {
		uint32_t j = (uint32_t)(sim_next(&w.random) % JOBS);

		history_step(&w, &history, jobs, j, &busy[j]);
		if (sim_one_in(&w.random, 5))
			history_other(&w, lease);
		if (sim_one_in(&w.random, 10))
			sim_pass(w.loop, sim_next(&w.random) % 4);
		sim_step(w.loop);
	}
	settle(&w);
	for (uint32_t j = 0; j < JOBS; j++)
		assert_true(!busy[j] || jobs[j].done);
	kvc_lease_close(lease);
	settle(&w);
	if (w.disk)
		history_restart(&w);
	world_close(&w);
	test_free(jobs);
}

static void random_histories(void **state)
{
	const char *count = getenv("KVC_TEST_SEEDS");
	uint64_t seeds = count ? strtoull(count, NULL, 0) : 40;
	uint64_t first = sim_seed(1);

	(void)state;
	for (uint64_t seed = first; seed < first + seeds; seed++) {
		print_message("\rseed %llu", (unsigned long long)seed);
		history_run(seed, 3000);
	}
	print_message("\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(random_histories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
