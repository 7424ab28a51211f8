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

enum { NUMBERS = 300, CONTENTS = 4, JOBS = 24, TENANTS = 3 };

static const char *const names[TENANTS] = {"a", "b", "c"}; /* the first is the world's own */

/* What the model knows of a block key: the contents that a put was ever begun with since its tenant was
 * dropped last, or since a drop that is not done began, and when the last of them ends. */
struct history {
	uint8_t put[TENANTS][NUMBERS];
	uint8_t fresh[TENANTS][NUMBERS];
	uint64_t ends_ms[TENANTS][NUMBERS];
	uint8_t could[JOBS]; /* what a get could find when it began */
	bool over[JOBS];     /* the block that it asks for had ended then */
	struct kvc_ns *ns[TENANTS];
	bool lost; /* the disk has just given up this block, which an operation is about; so is the next one
	            */
	uint32_t lost_number;
	unsigned lost_tenant;
	struct kvc_tenant_drop drop;
	bool drops;
	unsigned dropped;
};

static unsigned tenant_of(const struct history *history, const struct kvc_ns *ns)
{
	unsigned i = 0;

	while (history->ns[i] != ns)
		i++;
	return i;
}

/* Contents of different tenants differ. */
static uint32_t content_of(unsigned tenant, uint32_t number, uint32_t content)
{
	return (tenant * NUMBERS + number) * CONTENTS + content;
}

static void history_get(struct world *w, const struct history *history, const struct job *job, uint32_t j)
{
	unsigned tenant = tenant_of(history, job->op.ns);
	unsigned contents = history->put[tenant][job->number] | history->could[j];

	if (history->over[j])
		fail_msg("block %u was restored after its end", job->number);
	for (uint32_t content = 0; content < CONTENTS; content++)
		if (contents >> content & 1 && restored_is(w, job, content_of(tenant, job->number, content)))
			return;
	fail_msg("block %u was restored as something that was never put", job->number);
}

static void history_put(struct world *w, struct history *history, struct job *job, uint32_t number,
                        uint32_t content)
{
	unsigned tenant = tenant_of(history, w->ns);
	bool durable = hints_draw(w, number);

	history->put[tenant][number] |= (uint8_t)(1u << content);
	history->fresh[tenant][number] |= (uint8_t)(1u << content);
	if (hints_end(w) > history->ends_ms[tenant][number])
		history->ends_ms[tenant][number] = hints_end(w);
	put_submit(w, job, number, content_of(tenant, number, content), durable);
}

static void history_submit(struct world *w, struct history *history, struct job *job, uint32_t j)
{
	uint32_t number = (uint32_t)(sim_next(&w->random) % NUMBERS);
	uint32_t content = (uint32_t)(sim_next(&w->random) % CONTENTS);
	unsigned tenant = (unsigned)(sim_next(&w->random) % TENANTS);

	if (history->lost) {
		number = history->lost_number;
		tenant = history->lost_tenant;
		history->lost = false;
	}
	world_ns(w, history->ns[tenant]);
	if (w->gpu)
		world_form(w, (enum kvc_op_form)(sim_next(&w->random) % (KVC_OP_IMAGE + 1)));
	history->over[j] = history->ends_ms[tenant][number] <= kvc_loop_now_ms(w->loop);
	history->could[j] = history->put[tenant][number];
	if (sim_one_in(&w->random, 2))
		history_put(w, history, job, number, content);
	else
		get_submit(w, job, number);
}

static void dropped(struct kvc_tenant_drop *drop)
{
	struct history *history = kvc_container_of(drop, struct history, drop);

	assert_int_equal(drop->status, KVC_OK);
	history->drops = false;
	memcpy(history->put[history->dropped], history->fresh[history->dropped], sizeof history->put[0]);
}

/* One tenant is dropped; or all have other budgets from now on. */
static void tenants_other(struct world *w, struct history *history)
{
	struct kvc_tenant_budget of[TENANTS] = {{.name = "*"}};

	if (!history->drops && sim_one_in(&w->random, 2)) {
		history->drop = (struct kvc_tenant_drop){.done = dropped};
		history->dropped = (unsigned)(sim_next(&w->random) % TENANTS);
		strcpy(history->drop.tenant, names[history->dropped]);
		memset(history->fresh[history->dropped], 0, sizeof history->fresh[0]);
		history->drops = true;
		kvc_cache_tenant_drop(w->cache, &history->drop);
		return;
	}
	for (unsigned i = 0; i < TENANTS; i++) {
		if (i)
			strcpy(of[i].name, names[i]);
		of[i].ram = sim_one_in(&w->random, 3) ? ARENA / 8 : 0;
		of[i].ram_max = sim_one_in(&w->random, 3) ? ARENA / 4 : 0;
		of[i].disk_max = sim_one_in(&w->random, 3) ? 40 * 4096 : 0;
		of[i].put_rate = sim_one_in(&w->random, 3) ? 64 << 10 : 0;
		of[i].get_rate = sim_one_in(&w->random, 3) ? 64 << 10 : 0;
		of[i].weight = (uint32_t)(sim_next(&w->random) % 300);
	}
	kvc_cache_budgets_set(w->cache, &(struct kvc_tenant_budgets){.count = TENANTS, .of = of});
}

/* All that is used is someone's. */
static void accounts_check(struct world *w)
{
	int64_t blocks = 0, ram = 0, vram = 0;

	for (unsigned i = 0; i < TENANTS; i++) {
		blocks += tenant_stat(w, names[i], "blocks");
		ram += tenant_stat(w, names[i], "ram_bytes");
		vram += tenant_stat(w, names[i], "vram_bytes");
	}
	assert_int_equal(blocks, stat(w, "cache.blocks"));
	assert_int_equal(ram, stat(w, "ram.used_bytes"));
	assert_int_equal(vram, stat(w, "vram.used_bytes"));
}

static void history_other(struct world *w, struct history *history, struct kvc_lease *lease)
{
	struct kvc_storage_key key;
	uint32_t done;
	uint8_t rest;

	world_ns(w, history->ns[sim_next(&w->random) % TENANTS]);
	key = storage_key(w, (uint32_t)(sim_next(&w->random) % NUMBERS));
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
		history_submit(w, history, job, j);
		*busy = true;
	} else if (job->done) {
		if (job->op.kind == KVC_OP_GET && job->op.status == KVC_OK)
			history_get(w, history, job, j);
		assert_false(job->op.kind == KVC_OP_PUT && job->op.status == KVC_MISS);
		*busy = false;
	} else if (sim_one_in(&w->random, 30)) {
		kvc_op_cancel(&job->op, KVC_DEADLINE);
	}
}

/* The disk gives up the place of a block that an operation is about, perhaps while it is read. */
static void place_lose(struct world *w, struct history *history, const struct job *job)
{
	if (!w->disk || job->done)
		return;
	sim_tier_lose(w->disk, &job->op.key, sim_one_in(&w->random, 2));
	history->lost = true;
	history->lost_number = job->number;
	history->lost_tenant = tenant_of(history, job->op.ns);
}

static uint32_t job_free(struct world *w, const bool busy[JOBS])
{
	uint32_t j = (uint32_t)(sim_next(&w->random) % JOBS);

	for (uint32_t i = 0; i < JOBS && busy[j]; i++)
		j = (j + 1) % JOBS;
	return j;
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

static void namespaces_open(struct world *w, struct history *history)
{
	history->ns[0] = w->ns;
	for (unsigned i = 1; i < TENANTS; i++) {
		struct kvc_ns_options options = ns_options(names[i]);

		assert_int_equal(kvc_ns_open(w->cache, &options, &history->ns[i]), KVC_OK);
	}
}

static void namespaces_close(struct world *w, struct history *history)
{
	world_ns(w, history->ns[0]);
	for (unsigned i = 1; i < TENANTS; i++)
		kvc_ns_close(history->ns[i]);
	settle(w);
}

/* With and without a disk, a GPU, and VRAM of it. */
static void history_open(struct world *w, uint64_t seed)
{
	uint64_t random = seed * 0x9E3779B97F4A7C15ull;
	uint32_t records = seed % 4 ? 150 : 0;

	world_policy((enum kvc_policy_kind)(seed / 5 % KVC_POLICIES));
	world_budget(seed % 2 ? 0 : (seed % 7) * (64ull << 20));
	if (seed % 3)
		world_open_gpu(w, random, records, (uint32_t)(seed % 5) * 15);
	else
		world_open(w, random, records);
}

static void history_run(uint64_t seed, uint32_t steps)
{
	struct job *jobs = test_calloc(JOBS, sizeof *jobs);
	struct history history = {.drops = false};
	bool busy[JOBS] = {false};
	struct kvc_lease *lease;
	struct world w;

	history_open(&w, seed);
	if (w.gpu)
		sim_gpu_faults_set(w.gpu, &(struct sim_gpu_faults){.kill = 400, .flip = 40});
	if (w.disk)
		w.disk->faults = (struct sim_tier_faults){
		        .store_error = 50, .load_error = 50, .sync_error = 50, .flip = 20, .hang = 20};
	assert_int_equal(kvc_lease_open(w.cache, 100, &lease), KVC_OK);
	namespaces_open(&w, &history);
	for (uint32_t i = 0; i < steps; i++) {
		uint32_t j = (uint32_t)(sim_next(&w.random) % JOBS);

		history_step(&w, &history, jobs, j, &busy[j]);
		if (sim_one_in(&w.random, 5))
			history_other(&w, &history, lease);
		if (busy[j] && sim_one_in(&w.random, 10))
			place_lose(&w, &history, &jobs[j]);
		j = job_free(&w, busy);
		if (history.lost && !busy[j])
			history_step(&w, &history, jobs, j, &busy[j]);
		if (sim_one_in(&w.random, 100))
			tenants_other(&w, &history);
		if (sim_one_in(&w.random, 10))
			sim_pass(w.loop, sim_next(&w.random) % 4);
		if (w.disk && sim_one_in(&w.random, 100))
			sim_tier_release(w.disk);
		sim_step(w.loop);
	}
	if (w.disk) {
		w.disk->faults.hang = 0;
		sim_tier_release(w.disk);
	}
	settle(&w);
	for (uint32_t j = 0; j < JOBS; j++)
		assert_true(!busy[j] || jobs[j].done);
	kvc_lease_close(lease);
	settle(&w);
	accounts_check(&w);
	namespaces_close(&w, &history);
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
