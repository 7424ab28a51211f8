/* The VRAM tier and the other forms of a block (a GPU's pool, an image), in the simulated world of sim.h. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/sim/world.h"

static void not_stopped(void *context)
{
	(void)context;
}

static void a_put_rests_in_vram(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 1, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_VRAM);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.hits_vram"), 1);
	assert_int_equal(stat(&w, "vram.blocks"), 1);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	world_close(&w);
}

static void without_a_tier_it_rests_in_ram(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 2, 0, 0);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_RAM);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.hits_ram"), 1);
	world_close(&w);
}

static void host_gets_lower_it(void **state)
{
	struct world w;
	struct job readers[3];

	(void)state;
	world_open_gpu(&w, 3, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	for (unsigned i = 0; i < 3; i++)
		get_submit(&w, &readers[i], 1);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(finish(&w, &readers[i]), KVC_OK);
		assert_true(restored_is(&w, &readers[i], 11));
	}
	assert_int_equal(stat(&w, "cache.lowered"), 1);
	assert_int_equal(rest_of(&w, 1), KVC_REST_VRAM);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.lowered"), 1);
	world_close(&w);
}

static void under_pressure_nothing_is_lost(void **state)
{
	enum { BLOCKS = 60 };
	struct world w;

	(void)state;
	world_open_gpu(&w, 4, 0, 8);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		assert_int_equal(put(&w, i, i), KVC_OK);
		assert_true(stat(&w, "vram.used_bytes") <= stat(&w, "vram.bytes"));
	}
	settle(&w);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	assert_int_equal(stat(&w, "cache.lost"), 0);
	assert_true(stat(&w, "vram.evicted") > 0);
	world_close(&w);
}

static void a_hit_in_ram_is_raised(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 5, 0, 8);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.raised"), 1);
	assert_int_equal(rest_of(&w, 1), KVC_REST_VRAM);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.hits_vram"), 1);
	world_close(&w);
}

static void two_gets_raise_once(void **state)
{
	struct world w;
	struct job readers[2];

	(void)state;
	world_open_gpu(&w, 6, 0, 8);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	for (unsigned i = 0; i < 2; i++)
		get_submit(&w, &readers[i], 1);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(finish(&w, &readers[i]), KVC_OK);
		assert_true(restored_is(&w, &readers[i], 11));
	}
	assert_int_equal(stat(&w, "cache.raised"), 1);
	assert_int_equal(stat(&w, "vram.blocks"), 1);
	world_close(&w);
}

static void a_lost_engine_loses_what_was_only_there(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 7, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(get(&w, 2, 22), KVC_OK);
	sim_gpu_kill(w.gpu);
	settle(&w);
	assert_int_equal(stat(&w, "vram.blocks"), 0);
	assert_int_equal(stat(&w, "vram.used_bytes"), 0);
	assert_int_equal(stat(&w, "cache.lost"), 1);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(get(&w, 1, 11), KVC_MISS);
	assert_int_equal(get(&w, 2, 22), KVC_OK);
	assert_int_equal(put(&w, 1, 12), KVC_OK);
	assert_int_equal(get(&w, 1, 12), KVC_OK);
	world_close(&w);
}

static void what_runs_fails_retryably(void **state)
{
	struct world w;
	struct job writer, second, reader;

	(void)state;
	world_open_gpu(&w, 8, 0, 8);
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	put_submit(&w, &writer, 1, 11, false);
	put_submit(&w, &second, 1, 12, false);
	get_submit(&w, &reader, 2);
	sim_gpu_kill(w.gpu);
	assert_int_equal(finish(&w, &writer), KVC_ENGINE_LOST);
	assert_int_equal(finish(&w, &reader), KVC_ENGINE_LOST);
	assert_true(kvc_status_retryable(KVC_ENGINE_LOST));
	finish(&w, &second);
	assert_int_equal(get(&w, 1, 12), second.op.status == KVC_OK ? KVC_OK : KVC_MISS);
	settle(&w);
	assert_int_equal(stat(&w, "vram.used_bytes"), stat(&w, "vram.blocks") * 4096);
	world_close(&w);
}

static void lost_while_it_is_lowered(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open_gpu(&w, 9, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	get_submit(&w, &reader, 1);
	sim_gpu_kill(w.gpu);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	settle(&w);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	world_close(&w);
}

/* While it waits for room to be lowered the block is lost in VRAM, and then on disk: it is nowhere. */
static void lost_everywhere_while_it_is_lowered(void **state)
{
	enum { FILL = 500 };
	struct kvc_storage_key key;
	struct job reader, writer;
	uint32_t number = 2000;
	struct world w;

	(void)state;
	world_open_gpu(&w, 21, 1000, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	put_submit(&w, &writer, 1, 11, true);
	assert_int_equal(finish(&w, &writer), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	for (uint32_t i = 1000; i < 1000 + FILL; i++) /* it goes from RAM, not from VRAM */
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_VRAM);
	w.disk->faults.hang = 1; /* what is dirty stays in RAM, which is soon full of it */
	do {
		put_submit(&w, &writer, number, number, false);
		number++;
		settle(&w);
	} while (writer.done);
	get_submit(&w, &reader, 1);
	settle(&w);
	assert_false(reader.done);
	sim_gpu_kill(w.gpu);
	key = storage_key(&w, 1);
	sim_tier_lose(w.disk, &key, false);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	assert_int_equal(get(&w, 1, 11), KVC_MISS);
	assert_int_equal(put(&w, 1, 12), KVC_OK);
	assert_int_equal(get(&w, 1, 12), KVC_OK);
	world_close(&w);
}

/* The engine still sees the plan of a block that it lowers when everybody has closed the namespace, and the
 * block is gone with the engine. */
static void lost_while_it_is_lowered_for_nobody(void **state)
{
	enum { BLOCKS = 8 };
	struct kvc_ns_options options = ns_options("b");
	struct kvc_ns *own, *other;
	struct world w;

	(void)state;
	(void)mallopt(M_PERTURB, 0xDB); /* what is freed is not as it was */
	world_open_gpu(&w, 25, 0, BLOCKS);
	assert_int_equal(kvc_ns_open(w.cache, &options, &other), KVC_OK);
	own = world_ns(&w, other);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	world_ns(&w, own);
	kvc_ns_close(other);
	sim_gpu_kill(w.gpu);
	settle(&w);
	assert_true(stat(&w, "move.lower") > stat(&w, "cache.lowered"));
	world_close(&w);
	(void)mallopt(M_PERTURB, 0);
}

static void dropped_while_it_is_lowered(void **state)
{
	struct kvc_storage_key key;
	struct world w;
	struct job reader;

	(void)state;
	world_open_gpu(&w, 10, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	get_submit(&w, &reader, 1);
	key = storage_key(&w, 1);
	assert_int_equal(kvc_cache_drop(w.cache, &key, 1), 1);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	settle(&w);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	assert_int_equal(stat(&w, "vram.used_bytes"), 0);
	world_close(&w);
}

static void durable_goes_to_disk(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 11, 100, 8);
	put_submit(&w, &job, 1, 11, true);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_RAM);
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	assert_int_equal(rest_of(&w, 2), KVC_REST_VRAM);
	put_submit(&w, &job, 2, 22, true);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(stat(&w, "cache.lowered"), 1);
	assert_int_equal(w.disk->stores, 2);
	assert_true(w.disk->syncs >= 2);
	sim_gpu_kill(w.gpu);
	settle(&w);
	assert_int_equal(get(&w, 2, 22), KVC_OK);
	world_close(&w);
}

static void durable_put_of_a_block_lost_while_lowered(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 12, 100, 8);
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	put_submit(&w, &job, 2, 22, true);
	sim_gpu_kill(w.gpu);
	assert_int_equal(finish(&w, &job), KVC_ENGINE_LOST);
	settle(&w);
	put_submit(&w, &job, 2, 22, true);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(get(&w, 2, 22), KVC_OK);
	world_close(&w);
}

/* A tile with a NaN cannot be coded: the image is longer than VRAM blocks are. */
static void raw_tiles_rest_in_ram(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 13, 0, 8);
	job_init(&w, &job, KVC_OP_PUT, 1);
	content_fill(1, sim_pool_key(w.pool, job.page), sim_pool_value(w.pool, job.page));
	((uint16_t *)sim_pool_key(w.pool, job.page))[5] = 0x7FC0;
	kvc_op_submit(w.cache, &job.op);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_RAM);
	assert_int_equal(stat(&w, "vram.used_bytes"), 0);
	get_submit(&w, &job, 1);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(job.key[5], 0x7FC0);
	assert_int_equal(stat(&w, "cache.raised"), 0);
	world_close(&w);
}

static void a_part_of_a_block_rests_in_ram(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 14, 0, 8);
	job_init(&w, &job, KVC_OP_PUT, 1);
	content_fill(1, sim_pool_key(w.pool, job.page), sim_pool_value(w.pool, job.page));
	job.op.tokens = 3;
	kvc_op_submit(w.cache, &job.op);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_RAM);
	world_close(&w);
}

static void a_flip_in_vram_is_a_miss(void **state)
{
	struct sim_gpu_faults flip = {.flip = 1};
	struct world w;

	(void)state;
	world_open_gpu(&w, 15, 0, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	sim_gpu_faults_set(w.gpu, &flip);
	assert_int_equal(get(&w, 1, 11), KVC_MISS);
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	assert_int_equal(stat(&w, "vram.blocks"), 0);
	world_close(&w);
}

static void a_flip_in_vram_with_a_copy_in_ram(void **state)
{
	struct sim_gpu_faults flip = {.flip = 1};
	struct world w;

	(void)state;
	world_open_gpu(&w, 16, 0, 8);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	sim_gpu_faults_set(w.gpu, &flip);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	assert_int_equal(stat(&w, "cache.hits_ram"), 2);
	world_close(&w);
}

/* A second get still reads the damaged copy: nobody else gets its room before that is done. */
static void a_flip_in_vram_while_another_reads(void **state)
{
	struct sim_gpu_faults flip = {.flip = 1};
	struct job readers[2], writer;
	struct world w;

	(void)state;
	world_open_gpu(&w, 22, 0, 1);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	sim_gpu_faults_set(w.gpu, &flip);
	for (unsigned i = 0; i < 2; i++)
		get_submit(&w, &readers[i], 1);
	while (stat(&w, "cache.corrupt") == 0)
		assert_true(sim_step(w.loop));
	assert_false(readers[1].done);
	put_submit(&w, &writer, 2, 22, false);
	assert_int_equal(finish(&w, &writer), KVC_OK);
	assert_int_equal(rest_of(&w, 2), KVC_REST_RAM);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(finish(&w, &readers[i]), KVC_MISS);
	assert_int_equal(stat(&w, "vram.used_bytes"), 0);
	assert_int_equal(put(&w, 1, 12), KVC_OK);
	world_close(&w);
}

/* A lease keeps the block and reads nothing: the sound copy is left to it. */
static void a_flip_in_vram_of_a_pinned_block(void **state)
{
	struct sim_gpu_faults flip = {.flip = 1};
	struct kvc_storage_key key;
	struct kvc_lease *lease;
	struct world w;
	uint32_t done;

	(void)state;
	world_open_gpu(&w, 23, 0, 8);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(kvc_lease_open(w.cache, 10, &lease), KVC_OK);
	key = storage_key(&w, 1);
	assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	sim_gpu_faults_set(w.gpu, &flip);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	kvc_lease_close(lease);
	world_close(&w);
}

/* At a stop a block leaves VRAM as soon as it has been lowered, but not while a get reads it there. */
static void what_is_read_stays_in_vram_at_a_stop(void **state)
{
	struct job lowering, reader;
	struct world w;

	(void)state;
	world_open_gpu(&w, 24, 100, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	get_submit(&w, &lowering, 1);
	world_form(&w, KVC_OP_DEVICE);
	get_submit(&w, &reader, 1);
	kvc_cache_stop(w.cache, 1000, not_stopped, NULL);
	while (stat(&w, "cache.lowered") == 0)
		assert_true(sim_step(w.loop));
	assert_false(reader.done);
	assert_int_equal(stat(&w, "vram.blocks"), 1);
	assert_int_equal(finish(&w, &lowering), KVC_OK);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 11));
	settle(&w);
	assert_int_equal(w.disk->stores, 1);
	cache_free(&w);
	world_close(&w);
}

static void stop_flushes_vram_and_recovery_finds(void **state)
{
	enum { BLOCKS = 20 };
	struct world w;

	(void)state;
	world_open_gpu(&w, 17, 100, BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	cache_end(&w, 1000);
	cache_begin(&w);
	settle(&w);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	assert_true(stat(&w, "cache.hits_disk") > 0);
	world_close(&w);
}

/* Puts of a tenant "b" that may have nothing in RAM, as the coldest blocks in VRAM. */
static void puts_without_ram(struct world *w, uint32_t first, uint32_t count)
{
	static const struct kvc_tenant_budget budget = {.name = "b", .ram_max = 1};
	struct kvc_ns_options options = ns_options("b");
	struct kvc_ns *own, *other;

	kvc_cache_budgets_set(w->cache, &(struct kvc_tenant_budgets){.count = 1, .of = &budget});
	assert_int_equal(kvc_ns_open(w->cache, &options, &other), KVC_OK);
	own = world_ns(w, other);
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(put(w, i, i), KVC_OK);
	world_ns(w, own);
	kvc_ns_close(other);
}

/* Of `theirs` of the VRAM's blocks. */
static void others_go_on(uint32_t vram_blocks, uint32_t theirs)
{
	enum { BLOCKS = 60 };
	struct world w;

	world_open_gpu(&w, 27, 0, vram_blocks);
	puts_without_ram(&w, 100, theirs);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	settle(&w);
	assert_true(stat(&w, "cache.lowered") > 0);
	assert_true(stat(&w, "vram.evicted") > 0);
	assert_int_equal(rest_of(&w, BLOCKS - 1), KVC_REST_VRAM);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	assert_int_equal(tenant_stat(&w, "b", "lost"), 0);
	world_close(&w);
}

static void a_tenant_without_ram_holds_up_no_other(void **state)
{
	(void)state;
	others_go_on(8, 3);
	others_go_on(100, 80); /* more than a search for room looks at */
}

static void a_tenant_without_ram_holds_up_no_stop(void **state)
{
	enum { BLOCKS = 5 };
	struct world w;

	(void)state;
	world_open_gpus(&w, 28, 100, 8);
	puts_without_ram(&w, 100, 2);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		w.pool = w.pools[i % 2];
		assert_int_equal(put(&w, i, i), KVC_OK);
	}
	puts_without_ram(&w, 102, 1);
	cache_end(&w, 1000);
	assert_int_equal(w.disk->stores, BLOCKS);
	cache_begin(&w);
	settle(&w);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	world_close(&w);
}

/* While one tenant waits for its own dirty blocks to be written, the blocks in VRAM of another that may have
 * nothing in RAM are tried in vain, and not again at once, for ever. */
static void a_tenant_without_ram_does_not_spin_while_another_waits(void **state)
{
	static const struct kvc_tenant_budget of[] = {{.name = "b", .ram_max = 1},
	                                              {.name = "a", .ram_max = 40 * 4096}};
	struct kvc_ns_options options = ns_options("b");
	struct kvc_ns *own, *other;
	struct job writers[64];
	uint32_t count = 0;
	struct world w;

	(void)state;
	world_open_gpu(&w, 29, 1000, 8);
	kvc_cache_budgets_set(w.cache, &(struct kvc_tenant_budgets){.count = 2, .of = of});
	w.disk->faults.hang = 1;
	world_form(&w, KVC_OP_HOST);
	do {
		put_submit(&w, &writers[count], count, count, false);
		settle(&w);
	} while (writers[count++].done);
	assert_int_equal(kvc_ns_open(w.cache, &options, &other), KVC_OK);
	own = world_ns(&w, other);
	world_form(&w, KVC_OP_DEVICE);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(put(&w, 100 + i, i), KVC_OK);
	settle(&w);
	assert_false(writers[count - 1].done);
	world_ns(&w, own);
	kvc_ns_close(other);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	assert_int_equal(finish(&w, &writers[count - 1]), KVC_OK);
	world_close(&w);
}

/* Blocks in VRAM of two tenants that wait for room in RAM, when what could have made some has ended: neither
 * asks again behind the other for ever. */
static void those_for_whom_there_is_no_room_do_not_spin(void **state)
{
	enum { BLOCKS = 8 };
	struct kvc_ns_options options = ns_options("b");
	struct job jobs[BLOCKS];
	struct kvc_ns *of[2];
	uint32_t ballast;
	struct world w;

	(void)state;
	world_open_gpu(&w, 30, 0, BLOCKS);
	of[0] = w.ns;
	assert_int_equal(kvc_ns_open(w.cache, &options, &of[1]), KVC_OK);
	assert_int_equal(kvc_slab_reserve(w.arena, ARENA, &ballast), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		world_ns(&w, of[i % 2]);
		put_submit(&w, &jobs[i], i, i, false);
	}
	settle(&w);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(jobs[i].op.status, KVC_OK);
	world_ns(&w, of[0]);
	kvc_ns_close(of[1]);
	kvc_slab_release(w.arena, ballast);
	world_close(&w);
}

static void pinned_blocks_stay_in_vram(void **state)
{
	struct kvc_lease *lease;
	struct kvc_storage_key key;
	struct world w;
	uint32_t done;

	(void)state;
	world_open_gpu(&w, 18, 0, 8);
	assert_int_equal(put(&w, 1, 1), KVC_OK);
	assert_int_equal(kvc_lease_open(w.cache, 10, &lease), KVC_OK);
	key = storage_key(&w, 1);
	assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	for (uint32_t i = 2; i < 80; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(rest_of(&w, 1), KVC_REST_VRAM);
	kvc_lease_close(lease);
	world_close(&w);
}

/* More cold blocks are pinned than a search for room looks at. */
static void pinned_blocks_hold_up_no_other(void **state)
{
	enum { PINNED = 80, ROOM = 20, OTHERS = 100 };
	struct kvc_lease *lease;
	struct world w;
	uint32_t done;

	(void)state;
	world_open_gpu(&w, 36, 0, PINNED + ROOM);
	assert_int_equal(kvc_lease_open(w.cache, PINNED, &lease), KVC_OK);
	for (uint32_t i = 0; i < PINNED; i++) {
		struct kvc_storage_key key = storage_key(&w, i);

		assert_int_equal(put(&w, i, i), KVC_OK);
		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	for (uint32_t i = PINNED; i < PINNED + OTHERS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	settle(&w);
	assert_int_equal(rest_of(&w, PINNED + OTHERS - 1), KVC_REST_VRAM);
	assert_true(stat(&w, "vram.evicted") > 0);
	kvc_lease_close(lease);
	world_close(&w);
}

static void images_come_and_go(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 19, 0, 8);
	world_form(&w, KVC_OP_IMAGE);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_HOST);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	world_form(&w, KVC_OP_IMAGE);
	assert_int_equal(get(&w, 2, 22), KVC_OK);
	job_init(&w, &job, KVC_OP_GET, 2);
	job.op.external.bytes = 512;
	kvc_op_submit(w.cache, &job.op);
	assert_int_equal(finish(&w, &job), KVC_LIMIT);
	world_close(&w);
}

static void a_damaged_image_is_refused(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open_gpu(&w, 20, 0, 8);
	world_form(&w, KVC_OP_IMAGE);
	put_submit(&w, &job, 1, 11, false);
	job_image(&job)[job.op.external.bytes - 1] ^= 1;
	assert_int_equal(finish(&w, &job), KVC_INVALID);
	assert_int_equal(rest_of(&w, 1), KVC_REST_NONE);
	settle(&w);
	assert_int_equal(stat(&w, "ram.used_bytes"), 0);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(a_put_rests_in_vram),
	        cmocka_unit_test(without_a_tier_it_rests_in_ram),
	        cmocka_unit_test(host_gets_lower_it),
	        cmocka_unit_test(under_pressure_nothing_is_lost),
	        cmocka_unit_test(a_hit_in_ram_is_raised),
	        cmocka_unit_test(two_gets_raise_once),
	        cmocka_unit_test(a_lost_engine_loses_what_was_only_there),
	        cmocka_unit_test(what_runs_fails_retryably),
	        cmocka_unit_test(lost_while_it_is_lowered),
	        cmocka_unit_test(lost_while_it_is_lowered_for_nobody),
	        cmocka_unit_test(lost_everywhere_while_it_is_lowered),
	        cmocka_unit_test(dropped_while_it_is_lowered),
	        cmocka_unit_test(durable_goes_to_disk),
	        cmocka_unit_test(durable_put_of_a_block_lost_while_lowered),
	        cmocka_unit_test(raw_tiles_rest_in_ram),
	        cmocka_unit_test(a_part_of_a_block_rests_in_ram),
	        cmocka_unit_test(a_flip_in_vram_is_a_miss),
	        cmocka_unit_test(a_flip_in_vram_with_a_copy_in_ram),
	        cmocka_unit_test(a_flip_in_vram_while_another_reads),
	        cmocka_unit_test(a_flip_in_vram_of_a_pinned_block),
	        cmocka_unit_test(what_is_read_stays_in_vram_at_a_stop),
	        cmocka_unit_test(stop_flushes_vram_and_recovery_finds),
	        cmocka_unit_test(a_tenant_without_ram_holds_up_no_other),
	        cmocka_unit_test(a_tenant_without_ram_holds_up_no_stop),
	        cmocka_unit_test(a_tenant_without_ram_does_not_spin_while_another_waits),
	        cmocka_unit_test(those_for_whom_there_is_no_room_do_not_spin),
	        cmocka_unit_test(pinned_blocks_stay_in_vram),
	        cmocka_unit_test(pinned_blocks_hold_up_no_other),
	        cmocka_unit_test(images_come_and_go),
	        cmocka_unit_test(a_damaged_image_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
