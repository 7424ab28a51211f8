/* Each behaviour of the cache and the mover by itself, in the simulated world of sim.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "tests/sim/world.h"
#include "tests/support/row.h"

static void put_then_get(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 1, 0);
	assert_int_equal(get(&w, 1, 0), KVC_MISS);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(get(&w, 2, 0), KVC_MISS);
	assert_int_equal(stat(&w, "cache.hits_ram"), 1);
	assert_int_equal(stat(&w, "cache.misses"), 2);
	world_close(&w);
}

static void first_writer_wins(void **state)
{
	struct world w;
	struct job jobs[8];

	(void)state;
	KVC_ROW("D18");
	world_open(&w, 2, 0);
	for (uint32_t i = 0; i < 8; i++)
		put_submit(&w, &jobs[i], 1, i, false);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(finish(&w, &jobs[i]), KVC_OK);
	assert_int_equal(get(&w, 1, 0), KVC_OK);
	assert_int_equal(put(&w, 1, 5), KVC_OK);
	assert_int_equal(get(&w, 1, 0), KVC_OK);
	assert_int_equal(stat(&w, "cache.blocks"), 1);
	assert_int_equal(stat(&w, "move.encode"), 1);
	kvc_row.injected += 7;
	world_close(&w);
	kvc_row_end();
}

static void second_writer_after_a_cancelled_first(void **state)
{
	struct world w;
	struct job first, second;

	(void)state;
	world_open(&w, 3, 0);
	put_submit(&w, &first, 1, 1, false);
	put_submit(&w, &second, 1, 2, false);
	kvc_op_cancel(&first.op, KVC_DEADLINE);
	assert_int_equal(finish(&w, &first), KVC_DEADLINE);
	assert_int_equal(finish(&w, &second), KVC_OK);
	assert_int_equal(get(&w, 1, 2), KVC_OK);
	world_close(&w);
}

static bool let_go(const struct kvc_op *op)
{
	(void)op;
	return false;
}

static void put_from_a_source_let_go_is_no_block(void **state)
{
	struct world w;
	struct job first, second;

	(void)state;
	world_open(&w, 23, 0);
	put_submit(&w, &first, 1, 1, false);
	first.op.source_held = let_go;
	put_submit(&w, &second, 1, 2, false);
	assert_int_equal(finish(&w, &first), KVC_DEADLINE);
	assert_int_equal(finish(&w, &second), KVC_OK);
	assert_int_equal(get(&w, 1, 2), KVC_OK);
	world_close(&w);
}

static void half_a_put_is_a_miss(void **state)
{
	struct world w;
	struct job writer;
	uint8_t rest;

	(void)state;
	world_open(&w, 4, 0);
	put_submit(&w, &writer, 1, 1, false);
	struct kvc_storage_key key = storage_key(&w, 1);
	assert_int_equal(kvc_cache_lookup(w.cache, &key, 1, &rest), 0);
	assert_int_equal(rest, KVC_REST_NONE);
	assert_int_equal(kvc_cache_drop(w.cache, &key, 1), 0);
	struct job reader;
	get_submit(&w, &reader, 1);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	assert_int_equal(finish(&w, &writer), KVC_OK);
	assert_int_equal(kvc_cache_lookup(w.cache, &key, 1, &rest), 1);
	assert_int_equal(rest, KVC_REST_RAM);
	world_close(&w);
}

static void other_token_count_is_a_conflict(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	KVC_ROW("D13");
	world_open(&w, 5, 0);
	job_init(&w, &job, KVC_OP_PUT, 1);
	job.op.tokens = 3;
	content_fill(1, job.key, job.value);
	kvc_op_submit(w.cache, &job.op);
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(put(&w, 1, 1), KVC_CONFLICT);
	assert_int_equal(get(&w, 1, 1), KVC_CONFLICT);
	kvc_row.injected += 2;
	world_close(&w);
	kvc_row_end();
}

/* Many more blocks than the arena holds: without a disk the coldest are lost, with one none is. */
static void overflow(uint32_t disk_records, bool all_there)
{
	enum { BLOCKS = 600 };
	struct world w;
	uint32_t present = 0;

	world_open(&w, 6, disk_records);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	for (uint32_t i = 0; i < BLOCKS; i++)
		present += get(&w, i, i) == KVC_OK;
	print_message("%u of %u blocks present, %ld evicted, %ld lost\n", present, BLOCKS,
	              (long)stat(&w, "cache.evicted"), (long)stat(&w, "cache.lost"));
	assert_true(stat(&w, "cache.evicted") > 0);
	if (all_there)
		assert_int_equal(present, BLOCKS);
	else
		assert_true(present > 0 && present < BLOCKS);
	world_close(&w);
}

static void overflow_without_disk_loses_the_cold(void **state)
{
	(void)state;
	overflow(0, false);
}

static void overflow_to_disk_loses_nothing(void **state)
{
	(void)state;
	overflow(1000, true);
}

static void full_disk_gives_up_the_oldest(void **state)
{
	(void)state;
	overflow(200, false);
}

static void chain_loses_its_deepest_first(void **state)
{
	enum { BLOCKS = 400 };
	struct world w;
	struct job job;
	bool gone = false;

	(void)state;
	world_open(&w, 7, 0);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		job_init(&w, &job, KVC_OP_PUT, i);
		content_fill(i, job.key, job.value);
		job.op.has_parent = i > 0;
		job.op.parent = storage_key(&w, i ? i - 1 : 0);
		kvc_op_submit(w.cache, &job.op);
		assert_int_equal(finish(&w, &job), KVC_OK);
	}
	assert_true(stat(&w, "cache.lost") > 0);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		bool here = get(&w, i, i) == KVC_OK;

		assert_false(gone && here &&
		             i < BLOCKS - 1); /* what is left is a prefix, and the newest block */
		gone = gone || !here;
	}
	world_close(&w);
}

static void durable_put_is_synced(void **state)
{
	struct world w;
	struct job jobs[4];

	(void)state;
	world_open(&w, 8, 100);
	for (uint32_t i = 0; i < 4; i++)
		put_submit(&w, &jobs[i], i, i, true);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(finish(&w, &jobs[i]), KVC_OK);
	assert_int_equal(w.disk->stores, 4);
	assert_true(w.disk->syncs >= 1);
	world_close(&w);
}

static void durable_put_without_disk_says_so(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open(&w, 9, 0);
	put_submit(&w, &job, 1, 1, true);
	assert_int_equal(finish(&w, &job), KVC_UNSUPPORTED);
	world_close(&w);
}

static void failed_write_keeps_the_block_in_ram(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open(&w, 10, 100);
	w.disk->faults.store_error = 1;
	put_submit(&w, &job, 1, 1, true);
	assert_int_equal(finish(&w, &job), KVC_IO);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	w.disk->faults.store_error = 0;
	world_close(&w);
}

static void failed_sync_is_no_success(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	KVC_ROW("B10");
	world_open(&w, 11, 100);
	w.disk->faults.sync_error = 1;
	put_submit(&w, &job, 1, 1, true);
	assert_int_equal(finish(&w, &job), KVC_IO);
	w.disk->faults.sync_error = 0;
	kvc_row.injected += w.disk->errors;
	world_close(&w);
	kvc_row_end();
}

/* Put enough blocks that block 0 rests on disk only. */
static void push_out(struct world *w)
{
	struct kvc_storage_key key = storage_key(w, 0);
	uint8_t rest = KVC_REST_NONE;

	assert_int_equal(put(w, 0, 0), KVC_OK);
	for (uint32_t i = 1000; i < 1400; i++)
		assert_int_equal(put(w, i, i), KVC_OK);
	assert_int_equal(kvc_cache_lookup(w->cache, &key, 1, &rest), 1);
	assert_int_equal(rest, KVC_REST_DISK);
}

static void damaged_record_is_a_miss(void **state)
{
	struct world w;
	uint32_t loads;

	(void)state;
	KVC_ROW("B3");
	world_open(&w, 12, 1000);
	push_out(&w);
	w.disk->faults.flip = 1;
	assert_int_equal(get(&w, 0, 0), KVC_MISS);
	w.disk->faults.flip = 0;
	assert_int_equal(w.disk->flips, 2); /* it was read a second time */
	assert_int_equal(stat(&w, "cache.reread"), 1);
	kvc_row.injected++;
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	loads = w.disk->loads;
	assert_int_equal(get(&w, 0, 0), KVC_MISS);
	assert_int_equal(w.disk->loads, loads); /* it is gone: no third time */
	world_close(&w);
	kvc_row_end();
}

/* The copy in RAM is damaged, what rests on disk is sound: it is read again. */
static void damaged_copy_is_read_again(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	world_open(&w, 12, 1000);
	push_out(&w);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	get_submit(&w, &job, 0);
	job.op.move.slab[KVC_RECORD_HEADER_BYTES + 600] ^= 1; /* before the engine reads it */
	assert_int_equal(finish(&w, &job), KVC_OK);
	assert_int_equal(job.op.from, KVC_REST_DISK);
	assert_int_equal(stat(&w, "cache.reread"), 1);
	assert_int_equal(stat(&w, "cache.corrupt"), 0);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	world_close(&w);
}

static void damaged_slab_is_a_miss(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	KVC_ROW("C8");
	world_open(&w, 13, 0);
	assert_int_equal(put(&w, 1, 1), KVC_OK);
	get_submit(&w, &job, 1);
	job.op.move.slab[KVC_RECORD_HEADER_BYTES + 600] ^= 1; /* before the engine reads it */
	kvc_row.injected++;
	assert_int_equal(finish(&w, &job), KVC_MISS);
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	assert_int_equal(stat(&w, "cache.blocks"), 0);
	world_close(&w);
	kvc_row_end();
}

/* One bit of the image, where it rests in RAM. */
static void damage_resting(struct world *w, uint32_t number)
{
	struct job job;
	uint8_t *slab;

	get_submit(w, &job, number);
	slab = job.op.move.slab;
	assert_int_equal(finish(w, &job), KVC_OK);
	assert_int_equal(job.op.from, KVC_REST_RAM);
	slab[KVC_RECORD_HEADER_BYTES + 600] ^= 1;
}

static bool scrubbed(struct world *w, int64_t passes)
{
	while (stat(w, "cache.scrub_passes") < passes)
		if (!sim_step(w->loop))
			return false;
	return true;
}

/* Nobody asks for it: the scrubber finds it within one pass, drops it if there is no other copy, and else
 * only what is damaged. */
static void scrubber_finds_damage_in_ram(void **state)
{
	struct world w;

	(void)state;
	KVC_ROW("C8");
	world_scrub(1u << 20);
	world_open(&w, 31, 0);
	world_scrub(0);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_true(scrubbed(&w, 1));
	assert_int_equal(stat(&w, "cache.scrub_bad_blocks"), 0);
	damage_resting(&w, 7);
	kvc_row.injected++;
	assert_true(scrubbed(&w, 3));
	assert_int_equal(stat(&w, "cache.scrub_bad_blocks"), 1);
	assert_int_equal(stat(&w, "cache.blocks"), 19);
	for (uint32_t i = 0; i < 20; i++) {
		assert_int_equal(get(&w, i, i), i == 7 ? KVC_MISS : KVC_OK);
		kvc_row.verified += i != 7;
	}
	world_close(&w);
	kvc_row_end();
}

static void scrubber_leaves_the_copy_on_disk(void **state)
{
	struct world w;
	struct job job;

	(void)state;
	KVC_ROW("C8");
	world_scrub(1u << 20);
	world_open(&w, 32, 1000);
	world_scrub(0);
	put_submit(&w, &job, 3, 3, true);
	assert_int_equal(finish(&w, &job), KVC_OK);
	damage_resting(&w, 3);
	kvc_row.injected++;
	assert_true(scrubbed(&w, 2));
	assert_int_equal(stat(&w, "cache.scrub_bad_blocks"), 1);
	assert_int_equal(stat(&w, "cache.blocks"), 1);
	assert_int_equal(get(&w, 3, 3), KVC_OK);
	kvc_row.verified++;
	assert_int_equal(stat(&w, "cache.corrupt"), 1);
	assert_true(w.disk->loads > 0);
	world_close(&w);
	kvc_row_end();
}

static void read_error_is_a_miss(void **state)
{
	struct world w;

	(void)state;
	KVC_ROW("B8");
	world_open(&w, 14, 1000);
	push_out(&w);
	w.disk->faults.load_error = 1;
	assert_int_equal(get(&w, 0, 0), KVC_MISS);
	w.disk->faults.load_error = 0;
	kvc_row.injected += w.disk->errors;
	world_close(&w);
	kvc_row_end();
}

static void hung_disk_ends_by_the_deadline(void **state)
{
	struct world w;
	struct job reader, writer;

	(void)state;
	KVC_ROW("B20 D27");
	world_open(&w, 15, 1000);
	push_out(&w);
	w.disk->faults.hang = 1;
	get_submit(&w, &reader, 0);
	put_submit(&w, &writer, 1, 1, true);
	settle(&w);
	assert_false(reader.done || writer.done);
	kvc_row.injected += 2;
	kvc_op_cancel(&reader.op, KVC_DEADLINE);
	kvc_op_cancel(&writer.op, KVC_DEADLINE);
	assert_int_equal(finish(&w, &reader), KVC_DEADLINE);
	assert_int_equal(finish(&w, &writer), KVC_DEADLINE);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	settle(&w);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	world_close(&w);
	kvc_row_end();
}

/* Blocks from `first` on that rest on disk only. */
static void on_disk_only(struct world *w, uint32_t first, uint32_t *numbers, uint32_t count)
{
	for (uint32_t number = first; count; number++) {
		struct kvc_storage_key key = storage_key(w, number);
		uint8_t rest;

		(void)kvc_cache_lookup(w->cache, &key, 1, &rest);
		assert_int_not_equal(rest, KVC_REST_NONE);
		if (rest != KVC_REST_DISK)
			continue;
		*numbers++ = number;
		count--;
	}
}

/* Loads that never end hold up other loads, but nothing that needs no disk; and those that have not begun
 * hold no room any longer than someone waits for them. */
static void hung_loads_leave_ram_to_others(void **state)
{
	enum { READERS = 40, SLOTS = 16 };
	struct job *readers = test_calloc(READERS, sizeof *readers);
	uint32_t numbers[READERS];
	struct job job, late;
	struct world w;

	(void)state;
	KVC_ROW("B20 D27");
	world_open(&w, 33, 1000);
	push_out(&w);
	on_disk_only(&w, 1000, numbers, READERS);
	w.disk->faults.hang = 1;
	for (uint32_t i = 0; i < READERS; i++)
		get_submit(&w, &readers[i], numbers[i]);
	settle(&w);
	kvc_row.injected += SLOTS;
	get_submit(&w, &job, 1399);
	settle(&w);
	assert_true(job.done && job.op.status == KVC_OK && job.op.from == KVC_REST_RAM);
	put_submit(&w, &job, 2000, 2000, false);
	settle(&w);
	assert_true(job.done && job.op.status == KVC_OK);
	assert_int_equal(stat(&w, "move.load_pending"), READERS);
	for (uint32_t i = 0; i < READERS; i++)
		kvc_op_cancel(&readers[i].op, KVC_DEADLINE);
	get_submit(&w, &late, numbers[READERS - 1]); /* of which the load is just being given up */
	settle(&w);
	for (uint32_t i = 0; i < READERS; i++)
		assert_true(readers[i].done && readers[i].op.status == KVC_DEADLINE);
	assert_int_equal(stat(&w, "move.load_pending"), SLOTS + 1);
	w.disk->faults.hang = 0;
	sim_tier_release(w.disk);
	assert_int_equal(finish(&w, &late), KVC_OK);
	assert_true(restored_is(&w, &late, numbers[READERS - 1]));
	for (uint32_t i = 0; i < READERS; i++)
		assert_int_equal(get(&w, numbers[i], numbers[i]), KVC_OK);
	test_free(readers);
	world_close(&w);
	kvc_row_end();
}

static void concurrent_gets_share_one_load(void **state)
{
	struct world w;
	struct job jobs[5];
	uint32_t loads;

	(void)state;
	world_open(&w, 16, 1000);
	push_out(&w);
	loads = w.disk->loads;
	for (unsigned i = 0; i < 5; i++)
		get_submit(&w, &jobs[i], 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(finish(&w, &jobs[i]), KVC_OK);
		assert_int_equal(jobs[i].op.from, KVC_REST_DISK);
		assert_true(restored_is(&w, &jobs[i], 0));
	}
	assert_int_equal(w.disk->loads, loads + 1);
	world_close(&w);
}

static void drop_during_get_and_load(void **state)
{
	struct world w;
	struct job reader;
	struct kvc_storage_key key;

	(void)state;
	KVC_ROW("D24");
	world_open(&w, 17, 1000);
	assert_int_equal(put(&w, 1, 1), KVC_OK);
	key = storage_key(&w, 1);
	get_submit(&w, &reader, 1);
	assert_int_equal(kvc_cache_drop(w.cache, &key, 1), 1);
	kvc_row.injected++;
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 1));
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	push_out(&w);
	key = storage_key(&w, 0);
	get_submit(&w, &reader, 0);
	assert_int_equal(kvc_cache_drop(w.cache, &key, 1), 1);
	assert_int_equal(finish(&w, &reader), KVC_MISS);
	world_close(&w);
	kvc_row_end();
}

/* The place is given up while a get loads the block, and a durable put of it comes: it must be a put's end,
 * of a block that is on disk. */
static void durable_put_of_a_block_lost_while_loaded(void **state)
{
	(void)state;
	for (unsigned readable = 0; readable < 2; readable++) {
		struct job reader, writer;
		struct kvc_storage_key key;
		struct world w;

		world_open(&w, 33, 1000);
		push_out(&w);
		key = storage_key(&w, 0);
		get_submit(&w, &reader, 0);
		sim_tier_lose(w.disk, &key, readable);
		put_submit(&w, &writer, 0, 0, true);
		assert_int_equal(finish(&w, &reader), readable ? KVC_OK : KVC_MISS);
		assert_int_equal(finish(&w, &writer), KVC_OK);
		settle(&w);
		cache_end(&w, 0);
		kvc_arena_close(w.arena);
		assert_int_equal(kvc_arena_open(ARENA, w.stats, &w.arena), KVC_OK);
		sim_tier_crash(w.disk, true);
		cache_begin(&w);
		assert_int_equal(get(&w, 0, 0), KVC_OK);
		world_close(&w);
	}
}

static void pinned_blocks_stay(void **state)
{
	struct world w;
	struct kvc_lease *lease;
	struct kvc_storage_key keys[3];
	uint32_t done;

	(void)state;
	world_open(&w, 18, 0);
	for (uint32_t i = 0; i < 3; i++) {
		keys[i] = storage_key(&w, i);
		assert_int_equal(put(&w, i, i), KVC_OK);
	}
	keys[2] = storage_key(&w, 99);
	assert_int_equal(kvc_lease_open(w.cache, 2, &lease), KVC_OK);
	assert_int_equal(kvc_lease_pin(lease, keys, 3, &done), KVC_OK);
	assert_int_equal(done, 2);
	assert_int_equal(kvc_lease_pin(lease, keys, 2, &done), KVC_OK); /* twice counts once */
	assert_int_equal(stat(&w, "cache.pins"), 2);
	for (uint32_t i = 1000; i < 1400; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(get(&w, 0, 0), KVC_OK);
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	assert_int_equal(get(&w, 2, 2), KVC_MISS);
	keys[2] = storage_key(&w, 1399);
	assert_int_equal(kvc_lease_pin(lease, keys, 3, &done), KVC_LIMIT);
	assert_int_equal(kvc_lease_unpin(lease, keys, 1), 1);
	assert_int_equal(kvc_lease_unpin(lease, keys, 1), 0);
	kvc_lease_close(lease);
	assert_int_equal(stat(&w, "cache.pins"), 0);
	for (uint32_t i = 2000; i < 2400; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(get(&w, 0, 0), KVC_MISS);
	world_close(&w);
}

static void all_pinned_is_no_space(void **state)
{
	struct world w;
	struct kvc_lease *lease;
	uint32_t done, i = 0;

	(void)state;
	world_open(&w, 19, 0);
	assert_int_equal(kvc_lease_open(w.cache, 1000, &lease), KVC_OK);
	while (put(&w, i, i) == KVC_OK) {
		struct kvc_storage_key key = storage_key(&w, i++);

		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	assert_true(i > 100);
	assert_int_equal(put(&w, i, i), KVC_NO_SPACE);
	kvc_lease_close(lease);
	assert_int_equal(put(&w, i, i), KVC_OK);
	world_close(&w);
}

/* A put waits for what runs, which may free room; when that is done and has freed none, it hears so. */
static void all_pinned_and_read_is_no_space(void **state)
{
	struct world w;
	struct kvc_lease *lease;
	struct job reader, writer;
	uint32_t done, i = 0;

	(void)state;
	world_open(&w, 34, 0);
	assert_int_equal(kvc_lease_open(w.cache, 1000, &lease), KVC_OK);
	while (put(&w, i, i) == KVC_OK) {
		struct kvc_storage_key key = storage_key(&w, i++);

		assert_int_equal(kvc_lease_pin(lease, &key, 1, &done), KVC_OK);
	}
	get_submit(&w, &reader, 0);
	put_submit(&w, &writer, i, i, false);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_int_equal(finish(&w, &writer), KVC_NO_SPACE);
	kvc_lease_close(lease);
	world_close(&w);
}

static void stop_flushes_and_recovery_finds(void **state)
{
	struct world w;

	(void)state;
	world_open(&w, 20, 1000);
	for (uint32_t i = 0; i < 50; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	cache_end(&w, 1000);
	kvc_arena_close(w.arena);
	assert_int_equal(kvc_arena_open(ARENA, w.stats, &w.arena), KVC_OK);
	sim_tier_crash(w.disk, true);
	cache_begin(&w);
	for (uint32_t i = 0; i < 50; i++)
		assert_int_equal(get(&w, i, i), KVC_OK);
	world_close(&w);
}

static void operations_over_the_limit_are_busy(void **state)
{
	enum { MANY = 80 };
	struct world w;
	struct job *jobs = test_calloc(MANY, sizeof *jobs);
	unsigned busy = 0;

	(void)state;
	world_open(&w, 21, 0);
	for (uint32_t i = 0; i < MANY; i++)
		put_submit(&w, &jobs[i], i, i, false);
	for (uint32_t i = 0; i < MANY; i++)
		busy += finish(&w, &jobs[i]) == KVC_BUSY;
	assert_int_equal(busy, MANY - 64);
	assert_int_equal(stat(&w, "cache.busy"), busy);
	test_free(jobs);
	world_close(&w);
}

/* Of tiny blocks no more are known than there is room for, at a page each, in RAM and on disk. */
static void tiny_blocks_fill_no_more_than_their_room(void **state)
{
	enum { RECORDS = 200, BLOCKS = 10000 };
	struct world w;
	int64_t live;

	(void)state;
	KVC_ROW("C10");
	world_open(&w, 24, RECORDS);
	for (uint32_t i = 0; i < BLOCKS / 10; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	live = kvc_alloc_live();
	for (uint32_t i = BLOCKS / 10; i < BLOCKS; i++) {
		assert_int_equal(put(&w, i, i), KVC_OK);
		assert_true(stat(&w, "cache.blocks") <= ARENA / 4096 + RECORDS);
		kvc_row.injected++;
	}
	assert_true(kvc_alloc_live() <= live + 16);
	assert_int_equal(get(&w, BLOCKS - 1, BLOCKS - 1), KVC_OK);
	world_close(&w);
	kvc_row_end();
}

static void tenants_do_not_meet(void **state)
{
	struct kvc_ns_options options = ns_options("b");
	struct kvc_ns *own, *other, *again;
	struct world w;

	(void)state;
	KVC_ROW("D22");
	world_open(&w, 22, 0);
	own = w.ns;
	assert_int_equal(put(&w, 1, 1), KVC_OK);
	assert_int_equal(kvc_ns_open(w.cache, &options, &other), KVC_OK);
	assert_int_equal(kvc_ns_open(w.cache, &options, &again), KVC_OK);
	assert_ptr_equal(other, again);
	w.ns = other;
	assert_int_equal(get(&w, 1, 1), KVC_MISS);
	kvc_row.injected++;
	w.ns = own;
	assert_int_equal(get(&w, 1, 1), KVC_OK);
	kvc_ns_close(other);
	kvc_ns_close(again);
	world_close(&w);
	kvc_row_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(put_then_get),
	        cmocka_unit_test(first_writer_wins),
	        cmocka_unit_test(second_writer_after_a_cancelled_first),
	        cmocka_unit_test(put_from_a_source_let_go_is_no_block),
	        cmocka_unit_test(half_a_put_is_a_miss),
	        cmocka_unit_test(other_token_count_is_a_conflict),
	        cmocka_unit_test(overflow_without_disk_loses_the_cold),
	        cmocka_unit_test(overflow_to_disk_loses_nothing),
	        cmocka_unit_test(full_disk_gives_up_the_oldest),
	        cmocka_unit_test(chain_loses_its_deepest_first),
	        cmocka_unit_test(durable_put_is_synced),
	        cmocka_unit_test(durable_put_without_disk_says_so),
	        cmocka_unit_test(failed_write_keeps_the_block_in_ram),
	        cmocka_unit_test(failed_sync_is_no_success),
	        cmocka_unit_test(damaged_record_is_a_miss),
	        cmocka_unit_test(damaged_copy_is_read_again),
	        cmocka_unit_test(damaged_slab_is_a_miss),
	        cmocka_unit_test(scrubber_finds_damage_in_ram),
	        cmocka_unit_test(scrubber_leaves_the_copy_on_disk),
	        cmocka_unit_test(read_error_is_a_miss),
	        cmocka_unit_test(hung_disk_ends_by_the_deadline),
	        cmocka_unit_test(hung_loads_leave_ram_to_others),
	        cmocka_unit_test(concurrent_gets_share_one_load),
	        cmocka_unit_test(drop_during_get_and_load),
	        cmocka_unit_test(durable_put_of_a_block_lost_while_loaded),
	        cmocka_unit_test(pinned_blocks_stay),
	        cmocka_unit_test(all_pinned_is_no_space),
	        cmocka_unit_test(all_pinned_and_read_is_no_space),
	        cmocka_unit_test(stop_flushes_and_recovery_finds),
	        cmocka_unit_test(operations_over_the_limit_are_busy),
	        cmocka_unit_test(tiny_blocks_fill_no_more_than_their_room),
	        cmocka_unit_test(tenants_do_not_meet),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
