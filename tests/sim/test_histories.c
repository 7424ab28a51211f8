/* Random histories of the cache and the mover in the simulated world of sim.h, against a model that knows
 * only which contents may be found under a key: those that were put, and not dropped since. KVC_TEST_SEED
 * replays a seed, KVC_TEST_SEEDS says how many are run; each takes the next policy. */
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

/* One operation at a time, which holds its namespace, as a request does. */
struct slot {
	struct job job;
	bool busy;
	unsigned tenant;
	uint8_t contents; /* get: that may be restored */
	bool over;        /* the block that a get asks for had ended when it began */
};

struct history {
	struct slot slots[JOBS];
	uint32_t numbers;       /* of block keys that are drawn */
	uint64_t ballast_bytes; /* of RAM that nobody has; 0: none */
	uint32_t ballast;
	uint8_t put[TENANTS][NUMBERS];      /* contents that a get may find from now on */
	uint64_t ends_ms[TENANTS][NUMBERS]; /* when the last of them ends */
	struct kvc_ns *ns[TENANTS];         /* NULL: closed, but for what slots hold */
	struct kvc_lease *lease;
	bool lost; /* the disk has just given up this block, which an operation is about; so is the next one
	            */
	uint32_t lost_number;
	unsigned lost_tenant;
	struct kvc_tenant_drop drop;
	bool drops;
	unsigned dropped;        /* the tenant */
	uint8_t doomed[NUMBERS]; /* contents of it, those of puts that were under way too, that are gone when
	                          * it has been dropped */
};

static struct kvc_ns *ns_get(struct world *w, struct history *history, unsigned tenant)
{
	struct kvc_ns_options options = ns_options(names[tenant]);

	if (!history->ns[tenant])
		assert_int_equal(kvc_ns_open(w->cache, &options, &history->ns[tenant]), KVC_OK);
	return history->ns[tenant];
}

static void ns_close(struct history *history, unsigned tenant)
{
	if (history->ns[tenant])
		kvc_ns_close(history->ns[tenant]);
	history->ns[tenant] = NULL;
}

/* Contents of puts of the block that are under way: though the block is dropped now, they may come. */
static uint8_t contents_coming(const struct history *history, unsigned tenant, uint32_t number)
{
	uint8_t contents = 0;

	for (unsigned j = 0; j < JOBS; j++) {
		const struct slot *slot = &history->slots[j];

		if (slot->busy && !slot->job.done && slot->job.op.kind == KVC_OP_PUT &&
		    slot->tenant == tenant && slot->job.number == number)
			contents |= slot->contents;
	}
	return contents;
}

/* Contents of different tenants differ. */
static uint32_t content_of(unsigned tenant, uint32_t number, uint32_t content)
{
	return (tenant * NUMBERS + number) * CONTENTS + content;
}

static void history_get(struct world *w, const struct slot *slot)
{
	uint32_t number = slot->job.number;
	uint8_t contents = slot->contents;

	if (slot->over)
		fail_msg("block %u was restored after its end", number);
	for (uint32_t content = 0; content < CONTENTS; content++)
		if (contents >> content & 1 &&
		    restored_is(w, &slot->job, content_of(slot->tenant, number, content)))
			return;
	fail_msg("block %u was restored as something that was never put, or was dropped", number);
}

/* Gets that are under way may find it too. */
static void history_put(struct world *w, struct history *history, struct slot *slot, uint32_t number)
{
	uint32_t content = (uint32_t)(sim_next(&w->random) % CONTENTS);
	unsigned tenant = slot->tenant;
	bool durable = hints_draw(w, number);

	slot->contents = (uint8_t)(1u << content);
	history->put[tenant][number] |= slot->contents;
	if (history->dropped == tenant)
		history->doomed[number] &= (uint8_t)~slot->contents;
	for (unsigned j = 0; j < JOBS; j++) {
		struct slot *other = &history->slots[j];

		if (other->busy && other->job.op.kind == KVC_OP_GET && other->tenant == tenant &&
		    other->job.number == number)
			other->contents |= slot->contents;
	}
	if (hints_end(w) > history->ends_ms[tenant][number])
		history->ends_ms[tenant][number] = hints_end(w);
	put_submit(w, &slot->job, number, content_of(tenant, number, content), durable);
}

/* What the next operation is about: what the disk has just lost, what another one is about, or anything. */
static uint32_t number_draw(struct world *w, struct history *history, unsigned *tenant)
{
	const struct slot *other = &history->slots[sim_next(&w->random) % JOBS];

	*tenant = (unsigned)(sim_next(&w->random) % TENANTS);
	if (history->lost) {
		history->lost = false;
		*tenant = history->lost_tenant;
		return history->lost_number;
	}
	if (other->busy && sim_one_in(&w->random, 4)) {
		*tenant = other->tenant;
		return other->job.number;
	}
	return (uint32_t)(sim_next(&w->random) % history->numbers);
}

static void history_submit(struct world *w, struct history *history, struct slot *slot)
{
	uint32_t number = number_draw(w, history, &slot->tenant);
	struct kvc_ns_options options = ns_options(names[slot->tenant]);
	struct kvc_ns *held;

	world_ns(w, ns_get(w, history, slot->tenant));
	assert_int_equal(kvc_ns_open(w->cache, &options, &held), KVC_OK);
	assert_ptr_equal(held, w->ns);
	if (w->gpu) {
		world_form(w, (enum kvc_op_form)(sim_next(&w->random) % (KVC_OP_IMAGE + 1)));
		w->pool = w->pools[sim_next(&w->random) % w->gpu_count];
	}
	slot->busy = true;
	slot->over = history->ends_ms[slot->tenant][number] <= kvc_loop_now_ms(w->loop);
	if (sim_one_in(&w->random, 2)) {
		history_put(w, history, slot, number);
	} else {
		slot->contents = history->put[slot->tenant][number];
		get_submit(w, &slot->job, number);
	}
}

static void dropped(struct kvc_tenant_drop *drop)
{
	struct history *history = kvc_container_of(drop, struct history, drop);

	assert_int_equal(drop->status, KVC_OK);
	history->drops = false;
	for (uint32_t number = 0; number < NUMBERS; number++)
		history->put[history->dropped][number] &= (uint8_t)~history->doomed[number];
}

static void tenant_drop(struct world *w, struct history *history)
{
	unsigned tenant = (unsigned)(sim_next(&w->random) % TENANTS);

	history->drop = (struct kvc_tenant_drop){.done = dropped};
	strcpy(history->drop.tenant, names[tenant]);
	history->drops = true;
	history->dropped = tenant;
	memcpy(history->doomed, history->put[tenant], sizeof history->doomed);
	kvc_cache_tenant_drop(w->cache, &history->drop);
}

/* One tenant is dropped; or all have other budgets from now on. */
static void tenants_other(struct world *w, struct history *history)
{
	struct kvc_tenant_budget of[TENANTS] = {{.name = "*"}};

	if (!history->drops && sim_one_in(&w->random, 2)) {
		tenant_drop(w, history);
		return;
	}
	for (unsigned i = 0; i < TENANTS; i++) {
		if (i)
			strcpy(of[i].name, names[i]);
		of[i].ram = sim_one_in(&w->random, 3) ? ARENA / 8 : 0;
		of[i].ram_max = sim_one_in(&w->random, 3) ? ARENA / 4 : 0;
		if (sim_one_in(&w->random, 5))
			of[i].ram_max = 1; /* nothing */
		of[i].disk_max = sim_one_in(&w->random, 3) ? 40 * 4096 : 0;
		of[i].put_rate = sim_one_in(&w->random, 8) ? 64 << 10 : 0;
		of[i].get_rate = sim_one_in(&w->random, 8) ? 64 << 10 : 0;
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

static void key_drop(struct world *w, struct history *history, unsigned tenant, uint32_t number)
{
	struct kvc_storage_key key = storage_key(w, number);

	kvc_cache_drop(w->cache, &key, 1);
	history->put[tenant][number] = contents_coming(history, tenant, number);
}

static void history_other(struct world *w, struct history *history)
{
	unsigned tenant;
	uint32_t done, number = number_draw(w, history, &tenant);
	struct kvc_storage_key key;
	uint8_t rest;

	world_ns(w, ns_get(w, history, tenant));
	key = storage_key(w, number);
	switch (sim_next(&w->random) % 7) {
	case 0:
		key_drop(w, history, tenant, number);
		break;
	case 1:
		assert_int_equal(kvc_lease_pin(history->lease, &key, 1, &done), KVC_OK);
		break;
	case 2:
	case 3:
		kvc_lease_unpin(history->lease, &key, 1);
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

static void history_step(struct world *w, struct history *history, struct slot *slot)
{
	const struct kvc_op *op = &slot->job.op;

	if (!slot->busy) {
		history_submit(w, history, slot);
	} else if (slot->job.done) {
		if (op->kind == KVC_OP_GET && op->status == KVC_OK)
			history_get(w, slot);
		assert_false(op->kind == KVC_OP_PUT && op->status == KVC_MISS);
		kvc_ns_close(op->ns);
		slot->busy = false;
	} else if (sim_one_in(&w->random, 30)) {
		kvc_op_cancel(&slot->job.op, KVC_DEADLINE);
	}
}

/* The disk gives up the place of a block that an operation is about, perhaps while it is read. */
static void place_lose(struct world *w, struct history *history, const struct slot *slot)
{
	if (!w->disk || !slot->busy || slot->job.done)
		return;
	sim_tier_lose(w->disk, &slot->job.op.key, sim_one_in(&w->random, 2));
	history->lost = true;
	history->lost_number = slot->job.number;
	history->lost_tenant = slot->tenant;
}

static struct slot *slot_draw(struct world *w, struct history *history)
{
	return &history->slots[sim_next(&w->random) % JOBS];
}

static struct slot *slot_free(struct world *w, struct history *history)
{
	struct slot *slot = slot_draw(w, history);

	for (uint32_t i = 0; i < JOBS && slot->busy; i++)
		slot = slot == &history->slots[JOBS - 1] ? history->slots : slot + 1;
	return slot;
}

/* A GPU stands still for a while, or is lost while it does; what VRAM there is is never exceeded. */
static void gpus_other(struct world *w)
{
	struct kvc_gpu *gpu = w->gpu ? w->gpus[sim_next(&w->random) % w->gpu_count] : NULL;

	if (!gpu)
		return;
	assert_true(stat(w, "vram.used_bytes") <= stat(w, "vram.bytes"));
	if (sim_one_in(&w->random, 50))
		sim_gpu_hang(gpu, sim_one_in(&w->random, 8));
	if (sim_one_in(&w->random, 400))
		sim_gpu_lose(gpu);
}

/* Another process finds neither what ends nor what is ephemeral. */
static void history_restart(struct world *w)
{
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

/* The GPUs and their VRAM, in blocks: 0 is none. */
static void gpus_open(struct world *w, uint64_t random, uint32_t records, uint32_t gpus, uint32_t vram_blocks)
{
	struct sim_gpu_faults faults = {.kill = 400, .flip = 40, .disorder = true};

	if (gpus == 2)
		world_open_gpus(w, random, records, vram_blocks);
	else if (gpus)
		world_open_gpu(w, random, records, vram_blocks);
	else
		world_open(w, random, records);
	for (uint32_t i = 0; i < w->gpu_count; i++)
		sim_gpu_faults_set(w->gpus[i], &faults);
}

/* With and without a disk, one GPU or two, and VRAM of them; few blocks or many; little RAM or enough. */
static void history_open(struct world *w, struct history *history, uint64_t seed)
{
	static const uint32_t numbers[] = {12, 40, NUMBERS}, vram_blocks[] = {0, 4, 12, 30, 60};
	struct sim_random draw = {.state = seed * 0x9E3779B97F4A7C15ull};
	uint32_t records = sim_one_in(&draw, 4) ? 0 : 150;

	history->dropped = TENANTS;
	history->numbers = numbers[sim_next(&draw) % 3];
	world_policy((enum kvc_policy_kind)(seed % KVC_POLICIES));
	world_budget(sim_one_in(&draw, 2) ? 0 : (sim_next(&draw) % 7) * (64ull << 20));
	gpus_open(w, draw.state, records, (uint32_t)(seed % 3), vram_blocks[sim_next(&draw) % 5]);
	if (w->disk)
		w->disk->faults = (struct sim_tier_faults){
		        .store_error = 50, .load_error = 50, .sync_error = 50, .flip = 20, .hang = 20};
	history->ns[0] = w->ns;
	history->ballast_bytes = ARENA - ((uint64_t)ARENA >> sim_next(&draw) % 4);
	if (history->ballast_bytes)
		assert_int_equal(kvc_slab_reserve(w->arena, history->ballast_bytes, &history->ballast),
		                 KVC_OK);
	assert_int_equal(kvc_lease_open(w->cache, 100, &history->lease), KVC_OK);
}

static void history_turn(struct world *w, struct history *history)
{
	struct slot *slot = slot_draw(w, history);

	history_step(w, history, slot);
	if (sim_one_in(&w->random, 5))
		history_other(w, history);
	if (sim_one_in(&w->random, 10))
		place_lose(w, history, slot);
	slot = slot_free(w, history);
	if (history->lost && !slot->busy)
		history_step(w, history, slot);
	if (sim_one_in(&w->random, 250))
		tenants_other(w, history);
	if (sim_one_in(&w->random, 30))
		ns_close(history, 1 + (unsigned)(sim_next(&w->random) % (TENANTS - 1)));
	gpus_other(w);
	if (w->disk && sim_one_in(&w->random, 100))
		sim_tier_release(w->disk);
	if (sim_one_in(&w->random, 10))
		sim_pass(w->loop, sim_next(&w->random) % 4);
	sim_step(w->loop);
}

static void slots_end(struct world *w, struct history *history)
{
	for (uint32_t j = 0; j < JOBS; j++) {
		struct slot *slot = &history->slots[j];

		assert_true(!slot->busy || slot->job.done);
		if (slot->busy)
			history_step(w, history, slot);
	}
}

static void nothing_hangs(struct world *w)
{
	for (uint32_t i = 0; i < w->gpu_count; i++)
		sim_gpu_hang(w->gpus[i], false);
	if (!w->disk)
		return;
	w->disk->faults.hang = 0;
	sim_tier_release(w->disk);
}

/* All that runs ends, and nothing is left over; sometimes the stop comes before that. */
static void history_end(struct world *w, struct history *history)
{
	bool in_order = sim_one_in(&w->random, 2);

	nothing_hangs(w);
	if (in_order)
		settle(w);
	else
		cache_stop(w, 1000);
	slots_end(w, history);
	kvc_lease_close(history->lease);
	settle(w);
	if (history->ballast_bytes)
		kvc_slab_release(w->arena, history->ballast);
	accounts_check(w);
	world_ns(w, history->ns[0]);
	for (unsigned i = 1; i < TENANTS; i++)
		ns_close(history, i);
	settle(w);
	if (in_order)
		cache_stop(w, 1000);
	cache_free(w);
}

static void history_run(uint64_t seed, uint32_t steps)
{
	struct history *history = test_calloc(1, sizeof *history);
	struct world w;

	history_open(&w, history, seed);
	for (uint32_t i = 0; i < steps; i++)
		history_turn(&w, history);
	history_end(&w, history);
	if (w.disk)
		history_restart(&w);
	world_close(&w);
	test_free(history);
}

static void random_histories(void **state)
{
	const char *count = getenv("KVC_TEST_SEEDS");
	uint64_t seeds = count ? strtoull(count, NULL, 0) : 40;
	uint64_t first = sim_seed(1);

	(void)state;
	for (uint64_t seed = first; seed < first + seeds; seed++) {
		print_message("\rseed %llu", (unsigned long long)seed);
		history_run(seed, 4000);
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
