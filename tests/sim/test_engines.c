/* Engines that end, hang or damage what they hold, and what the other GPUs and tiers do meanwhile; in the
 * simulated world of sim.h. */
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

/* A process that was killed may be long in going: the driver keeps it. What it is asked it refuses at once,
 * and it is not asked again and again. */
static void an_engine_that_ends_is_asked_to_lower_nothing(void **state)
{
	enum { BLOCKS = 8, FILL = 300 };
	struct world w;
	int64_t lowers;

	(void)state;
	world_open_gpu(&w, 30, 0, BLOCKS);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	sim_gpu_end(w.gpu);
	lowers = stat(&w, "move.lower");
	world_form(&w, KVC_OP_HOST);
	for (uint32_t i = 100; i < 100 + FILL; i++) /* copies in RAM go, and are wanted again */
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(stat(&w, "move.lower"), lowers);
	sim_gpu_reap(w.gpu);
	settle(&w);
	assert_int_equal(stat(&w, "vram.blocks"), 0);
	assert_int_equal(get(&w, 99 + FILL, 99 + FILL), KVC_OK);
	world_close(&w);
}

/* Until it is reaped the block counts as there: a put that is to be durable is refused, not tried again and
 * again. */
static void an_engine_that_ends_fails_durable_puts(void **state)
{
	struct world w;
	struct job writer;

	(void)state;
	world_open_gpu(&w, 32, 100, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	sim_gpu_end(w.gpu);
	world_form(&w, KVC_OP_HOST);
	put_submit(&w, &writer, 1, 11, true);
	assert_int_equal(finish(&w, &writer), KVC_ENGINE_LOST);
	assert_int_equal(get(&w, 1, 11), KVC_MISS);
	sim_gpu_reap(w.gpu);
	settle(&w);
	put_submit(&w, &writer, 1, 12, true);
	assert_int_equal(finish(&w, &writer), KVC_OK);
	assert_int_equal(get(&w, 1, 12), KVC_OK);
	world_close(&w);
}

/* A block that rests in VRAM and on disk. */
static void put_to_vram_and_disk(struct world *w, uint32_t number, uint32_t content)
{
	enum { FILL = 300 };
	struct job writer;

	assert_int_equal(put(w, number, content), KVC_OK);
	put_submit(w, &writer, number, content, true);
	assert_int_equal(finish(w, &writer), KVC_OK);
	world_form(w, KVC_OP_HOST);
	for (uint32_t i = 1000; i < 1000 + FILL; i++) /* its copy in RAM goes */
		assert_int_equal(put(w, i, i), KVC_OK);
	settle(w);
	world_form(w, KVC_OP_DEVICE);
	assert_int_equal(rest_of(w, number), KVC_REST_VRAM);
}

static void what_is_on_disk_too_outlives_an_engine_that_ends(void **state)
{
	struct world w;

	(void)state;
	world_open_gpus(&w, 33, 1000, 8);
	put_to_vram_and_disk(&w, 1, 11);
	sim_gpu_end(w.gpu);
	w.pool = w.pools[1];
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(stat(&w, "cache.hits_disk"), 1);
	sim_gpu_reap(w.gpu);
	settle(&w);
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	world_close(&w);
}

static void what_is_on_disk_too_outlives_a_death_while_it_is_lowered(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open_gpus(&w, 34, 1000, 8);
	put_to_vram_and_disk(&w, 1, 11);
	w.pool = w.pools[1];
	get_submit(&w, &reader, 1);
	sim_gpu_kill(w.gpu);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 11));
	assert_int_equal(stat(&w, "cache.hits_disk"), 1);
	world_close(&w);
}

static void what_is_on_disk_too_outlives_damage_in_vram(void **state)
{
	struct world w;
	struct job reader;

	(void)state;
	world_open_gpus(&w, 35, 1000, 8);
	put_to_vram_and_disk(&w, 1, 11);
	sim_gpu_spoil(w.gpu);
	w.pool = w.pools[1];
	get_submit(&w, &reader, 1);
	assert_int_equal(finish(&w, &reader), KVC_OK);
	assert_true(restored_is(&w, &reader, 11));
	world_close(&w);
}

static void an_engine_that_ends_holds_up_no_stop(void **state)
{
	struct world w;

	(void)state;
	world_open_gpu(&w, 31, 100, 8);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	sim_gpu_end(w.gpu);
	kvc_cache_stop(w.cache, 1000, not_stopped, NULL);
	settle(&w);
	assert_int_equal(stat(&w, "move.lower"), 0);
	sim_gpu_reap(w.gpu);
	settle(&w);
	cache_free(&w);
	world_close(&w);
}

/* More operations than there are slots wait for a GPU that hangs, and keep them until its process is gone:
 * which may be never. */
static void a_gpu_that_hangs_holds_up_no_other(void **state)
{
	enum { WAITING = 600 };
	struct job *waiting = calloc(WAITING, sizeof *waiting);
	struct world w;

	(void)state;
	world_open_gpus(&w, 26, 0, 4);
	assert_int_equal(put(&w, 1, 11), KVC_OK);
	w.pool = w.pools[1];
	assert_int_equal(put(&w, 2, 22), KVC_OK);
	sim_gpu_hang(w.gpus[1], true);
	for (unsigned i = 0; i < WAITING; i++)
		get_submit(&w, &waiting[i], 2);
	settle(&w);
	sim_gpu_end(w.gpus[1]);
	w.pool = w.pools[0];
	assert_int_equal(get(&w, 1, 11), KVC_OK);
	assert_int_equal(put(&w, 3, 33), KVC_OK);
	assert_int_equal(get(&w, 3, 33), KVC_OK);
	assert_false(waiting[0].done);
	sim_gpu_reap(w.gpus[1]);
	for (unsigned i = 0; i < WAITING; i++)
		finish(&w, &waiting[i]);
	settle(&w);
	world_close(&w);
	free(waiting);
}

static void a_gpu_that_hangs_keeps_no_other_from_lowering(void **state)
{
	enum { ROOM = 40, FILL = 300 };
	struct world w;

	(void)state;
	world_open_gpus(&w, 37, 0, ROOM);
	w.pool = w.pools[1];
	for (uint32_t i = 0; i < ROOM; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	settle(&w);
	sim_gpu_hang(w.gpus[1], true);
	world_form(&w, KVC_OP_HOST);
	for (uint32_t i = 1000; i < 1000 + FILL; i++) /* copies in RAM go, and are wanted again */
		assert_int_equal(put(&w, i, i), KVC_OK);
	world_form(&w, KVC_OP_DEVICE);
	w.pool = w.pools[0];
	for (uint32_t i = 2000; i < 2000 + 3 * ROOM; i++)
		assert_int_equal(put(&w, i, i), KVC_OK);
	assert_int_equal(rest_of(&w, 1999 + 3 * ROOM), KVC_REST_VRAM);
	sim_gpu_hang(w.gpus[1], false);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(an_engine_that_ends_is_asked_to_lower_nothing),
	        cmocka_unit_test(an_engine_that_ends_fails_durable_puts),
	        cmocka_unit_test(what_is_on_disk_too_outlives_an_engine_that_ends),
	        cmocka_unit_test(what_is_on_disk_too_outlives_a_death_while_it_is_lowered),
	        cmocka_unit_test(what_is_on_disk_too_outlives_damage_in_vram),
	        cmocka_unit_test(an_engine_that_ends_holds_up_no_stop),
	        cmocka_unit_test(a_gpu_that_hangs_holds_up_no_other),
	        cmocka_unit_test(a_gpu_that_hangs_keeps_no_other_from_lowering),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
