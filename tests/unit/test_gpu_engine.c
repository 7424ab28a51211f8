/* The engine process over the fake device, driven by the messages that the core sends: images and restored
 * elements bit for bit against the CPU codec, and jobs that are wrong. Failures of everything else:
 * test_gpu_engine_faults.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>

#include "tests/support/engine_jobs.h"

static struct prng prng;

/* --- bits --- */

struct shape_case {
	const char *preset;
	uint32_t layers, heads, key_dim, value_dim, tokens, page_tokens;
	enum kvc_dtype dtype;
};

static const struct shape_case shape_cases[] = {
        {"quality", 3, 2, 64, 64, 40, 16, KVC_DTYPE_BF16},
        {"compact", 2, 3, 128, 128, 128, 16, KVC_DTYPE_FP16},
        {"k8v4", 2, 2, 64, 128, 17, 32, KVC_DTYPE_BF16},
        {"plain", 1, 1, 576, 0, 64, 64, KVC_DTYPE_BF16},
        {"quality", 2, 2, 80, 80, 30, 16, KVC_DTYPE_FP32},
        {"raw", 2, 2, 64, 64, 20, 16, KVC_DTYPE_BF16},
};

/* Encode to the arena in three messages, which may be merged; each image is the CPU's. */
static void trial_encode(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *blocks,
                         uint32_t count, uint8_t *image)
{
	uint64_t slot = kvc_test_slot(&pool->plan);
	struct kvc_test_orders orders;

	kvc_test_orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		kvc_test_orders_add(&orders, &blocks[i], i * slot, slot, KVC_GPU_NOWHERE);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, 1, count - 2);
	kvc_test_orders_send(&orders, KVC_ENGINE_ENCODE, count - 1, 1);
	assert_true(kvc_test_orders_await(&orders));
	kvc_test_orders_all(&orders, KVC_OK);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t bytes = kvc_engine_test_image(pool, &blocks[i], image);

		assert_int_equal(orders.length[i], bytes);
		assert_memory_equal(pool->rig->arena + i * slot, image, bytes);
	}
}

/* Decode the i-th image into the pages of the one after it. */
static void trial_decode(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *blocks,
                         uint32_t count, bool arena, bool vram)
{
	uint64_t slot = kvc_test_slot(&pool->plan), bytes = pool->plan.image_bytes;
	struct kvc_test_orders orders;

	kvc_test_orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++) {
		const struct kvc_engine_test_block *to = &blocks[(i + 1) % count];

		kvc_engine_test_expect(pool, to, pool->rig->arena + i * slot, bytes);
		kvc_test_orders_add(&orders, to, arena ? i * slot : KVC_GPU_NOWHERE, bytes,
		                    vram ? i * slot : KVC_GPU_NOWHERE);
	}
	kvc_test_orders_run(&orders, KVC_ENGINE_DECODE);
	kvc_test_orders_all(&orders, KVC_OK);
	assert_true(kvc_engine_test_pool_right(pool));
}

/* To VRAM, and from there to the arena. */
static void trial_lower(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *blocks,
                        uint32_t count, uint8_t *image)
{
	uint64_t slot = kvc_test_slot(&pool->plan), bytes = pool->plan.image_bytes;
	struct kvc_test_orders orders;

	kvc_test_orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		kvc_test_orders_add(&orders, &blocks[i], KVC_GPU_NOWHERE, bytes, i * slot);
	kvc_test_orders_run(&orders, KVC_ENGINE_ENCODE);
	kvc_test_orders_all(&orders, KVC_OK);
	memset(pool->rig->arena, 0x77, count * slot);
	kvc_test_orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		kvc_test_orders_add(&orders, &blocks[i], i * slot, slot, i * slot);
	kvc_test_orders_run(&orders, KVC_ENGINE_LOWER);
	kvc_test_orders_all(&orders, KVC_OK);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(orders.length[i], bytes);
		assert_int_equal(kvc_engine_test_image(pool, &blocks[i], image), bytes);
		assert_memory_equal(pool->rig->arena + i * slot, image, bytes);
	}
}

static void trial(struct kvc_engine_rig *rig, const struct shape_case *wish, enum kvc_gpu_pool_layout layout)
{
	enum { COUNT = 5 };
	struct kvc_engine_test_block blocks[COUNT];
	struct kvc_engine_test_pool pool;
	struct kvc_image_plan plan;
	uint32_t next = prng_below(&prng, 100);
	uint8_t *image;

	kvc_test_plan_make(&plan, wish->preset, wish->layers, wish->heads, wish->key_dim, wish->value_dim,
	                   wish->tokens, wish->dtype);
	kvc_engine_test_pool_make(&pool, rig, &plan, layout, wish->page_tokens, 100, 7, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&pool, 2, -1), KVC_OK);
	for (uint32_t i = 0; i < COUNT; i++)
		kvc_engine_test_block_make(&pool, &next, prng_below(&prng, wish->page_tokens), &blocks[i]);
	image = aligned_alloc(64, kvc_test_slot(&plan));
	trial_encode(&pool, blocks, COUNT, image);
	trial_decode(&pool, blocks, COUNT, true, false);
	trial_lower(&pool, blocks, COUNT, image);
	trial_decode(&pool, blocks, COUNT, false, true); /* still in VRAM */
	trial_encode(&pool, blocks, COUNT, image);
	trial_decode(&pool, blocks, COUNT, true, true);  /* brought to VRAM */
	trial_decode(&pool, blocks, COUNT, false, true); /* and still there */
	kvc_engine_test_pool_close(&pool);
	kvc_engine_test_pool_free(&pool);
	free(image);
}

static void test_bits(void **state)
{
	struct kvc_engine_rig rig;

	(void)state;
	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	kvc_engine_rig_run(&rig);
	for (unsigned i = 0; i < sizeof shape_cases / sizeof shape_cases[0]; i++) {
		for (unsigned layout = 0; layout < KVC_LAYOUTS; layout++) {
			if (shape_cases[i].value_dim != shape_cases[i].key_dim && layout == KVC_LAYOUT_PAGED)
				continue; /* pages of two sizes are not side by side in any engine */
			trial(&rig, &shape_cases[i], (enum kvc_gpu_pool_layout)layout);
		}
	}
	kvc_engine_rig_close(&rig);
}

static void test_ready(void **state)
{
	struct kvc_test_fixture fixture;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	assert_memory_equal(fixture.rig.ready.uuid, "fake-gpu-0000003", 16);
	assert_int_equal(fixture.rig.ready.wire, KVC_GPU_WIRE);
	assert_true(fixture.rig.ready.device_bytes >= (16 + 64) << 20);
	assert_int_equal(fixture.rig.ready.sms, 132);
	kvc_test_fixture_close(&fixture);
}

/* READY does not wait for the pinning, and blocks are served while it goes on. */
static void test_slow_pin(void **state)
{
	struct kvc_test_fixture fixture;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, KVC_TEST_ARENA_BYTES);
	kvc_engine_rig_fault(&fixture.rig, "slow-pin 100000");
	kvc_test_fixture_open_with(&fixture, -1, &prng);
	kvc_test_still_serves(&fixture, 0);
	kvc_engine_test_pool_close(&fixture.pool);
	kill(fixture.rig.pid, SIGKILL);
	assert_int_equal(kvc_engine_rig_ended(&fixture.rig), 128 + SIGKILL);
	kvc_test_fixture_drop(&fixture);
}

static void test_no_pin(void **state)
{
	struct kvc_test_fixture fixture;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, KVC_TEST_ARENA_BYTES);
	kvc_engine_rig_fault(&fixture.rig, "pin-fails");
	kvc_test_fixture_open_with(&fixture, -1, &prng);
	kvc_test_still_serves(&fixture, 0);
	kvc_test_fixture_close(&fixture);
}

/* --- raw tiles --- */

static void infinity_at(struct kvc_test_fixture *fixture, unsigned block, uint32_t layer, uint32_t head,
                        enum kvc_kind kind)
{
	uint16_t infinite = 0x7F80;

	for (unsigned mirror = 0; mirror < 2; mirror++)
		memcpy(kvc_engine_test_row(&fixture->pool, &fixture->blocks[block], kind, layer, 7, head,
		                           mirror),
		       &infinite, sizeof infinite);
}

static void test_raw_tiles(void **state)
{
	struct kvc_test_fixture fixture;
	uint64_t room, length, bytes;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	infinity_at(&fixture, 1, 1, 0, KVC_KIND_VALUE);
	kvc_test_still_serves(&fixture, 1);
	bytes = kvc_engine_test_image(&fixture.pool, &fixture.blocks[1], fixture.image);
	/* No room for them: what is needed is told. */
	room = fixture.pool.plan.image_bytes;
	infinity_at(&fixture, 0, 0, 1, KVC_KIND_KEY);
	bytes = kvc_engine_test_image(&fixture.pool, &fixture.blocks[0], fixture.image);
	assert_true(bytes > room);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, room,
	                              KVC_GPU_NOWHERE, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], KVC_GPU_NOWHERE,
	                              room, 0, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, bytes,
	                              KVC_GPU_NOWHERE, &length),
	                 KVC_OK);
	assert_memory_equal(fixture.rig.arena, fixture.image, bytes);
	/* Such an image cannot stay in VRAM. */
	assert_int_equal(
	        kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes, 0, NULL),
	        KVC_INVALID);
	kvc_test_fixture_close(&fixture);
}

static void test_all_raw(void **state)
{
	struct kvc_test_fixture fixture;
	uint64_t room, length;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	for (unsigned i = 0; i < 8; i++)
		infinity_at(&fixture, 2, i & 1, i >> 1 & 1, (enum kvc_kind)(i >> 2));
	room = fixture.pool.plan.raw_image_bytes;
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[2], 0, room - 1,
	                              KVC_GPU_NOWHERE, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, room);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[2], KVC_GPU_NOWHERE,
	                              room, 0, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, room);
	kvc_test_still_serves(&fixture, 2); /* encoded again as a raw block, and decoded by that codec */
	kvc_test_fixture_close(&fixture);
}

/* Blocks of different codecs in one message of decodes, and good ones beside bad ones. */
static void test_mixed(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_test_orders orders;
	uint64_t slot, bytes;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	for (unsigned i = 0; i < 8; i++)
		infinity_at(&fixture, 1, i & 1, i >> 1 & 1, (enum kvc_kind)(i >> 2));
	infinity_at(&fixture, 3, 0, 0, KVC_KIND_KEY);
	slot = kvc_test_slot(&fixture.pool.plan);
	kvc_test_orders_init(&orders, &fixture.pool);
	for (unsigned i = 0; i < 4; i++)
		kvc_test_orders_add(&orders, &fixture.blocks[i], i * slot, slot, KVC_GPU_NOWHERE);
	orders.jobs[2].first_token = 16; /* no token of a page of 16 */
	kvc_test_orders_run(&orders, KVC_ENGINE_ENCODE);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(orders.status[i], i == 2 ? KVC_INVALID : KVC_OK);
		if (i == 2)
			continue;
		bytes = kvc_engine_test_image(&fixture.pool, &fixture.blocks[i], fixture.image);
		assert_int_equal(orders.length[i], bytes);
		assert_memory_equal(fixture.rig.arena + i * slot, fixture.image, bytes);
		kvc_engine_test_expect(&fixture.pool, &fixture.blocks[i], fixture.image, bytes);
		orders.jobs[i].image_bytes = bytes;
	}
	orders.jobs[2].first_token = fixture.blocks[2].first_token;
	kvc_test_orders_run(&orders, KVC_ENGINE_DECODE); /* the third image is none */
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(orders.status[i], i == 2 ? KVC_CORRUPT : KVC_OK);
	assert_true(kvc_engine_test_pool_right(&fixture.pool));
	kvc_test_fixture_close(&fixture);
}

/* --- damage --- */

static void test_corrupt(void **state)
{
	struct kvc_test_fixture fixture;
	uint64_t bytes;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	kvc_test_still_serves(&fixture, 0);
	bytes = fixture.pool.plan.image_bytes;
	for (uint64_t at = 0; at < bytes; at += 1 + prng_below(&prng, 400)) {
		fixture.rig.arena[at] ^= 0x10;
		assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes,
		                              KVC_GPU_NOWHERE, NULL),
		                 KVC_CORRUPT);
		fixture.rig.arena[at] ^= 0x10;
	}
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes - 64,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_CORRUPT);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes + 64,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_CORRUPT);
	/* VRAM that holds no image. */
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], KVC_GPU_NOWHERE,
	                              bytes, 4096, NULL),
	                 KVC_CORRUPT);
	kvc_test_fixture_close(&fixture);
}

/* An image of another shape is not decoded into this pool. */
static void test_other_shape(void **state)
{
	struct kvc_test_fixture fixture;
	struct kvc_engine_test_pool other;
	struct kvc_image_plan plan;
	struct kvc_engine_test_block block;
	uint32_t next = 0;
	uint64_t bytes;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	kvc_test_plan_make(&plan, "quality", 2, 2, 64, 64, 39, KVC_DTYPE_BF16);
	kvc_engine_test_pool_make(&other, &fixture.rig, &plan, KVC_LAYOUT_PAGED, 16, 10, 20, &prng);
	kvc_engine_test_block_make(&other, &next, 0, &block);
	bytes = kvc_engine_test_image(&other, &block, fixture.rig.arena);
	assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_CORRUPT);
	assert_true(kvc_engine_test_pool_right(&fixture.pool));
	/* Jobs of a shape that is not the pool's. */
	assert_int_equal(kvc_engine_test_pool_open(&other, 9, -1), KVC_OK);
	other.plan.shape.heads = 1;
	assert_int_equal(kvc_test_one(&other, KVC_ENGINE_ENCODE, &block, 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	                 KVC_SHAPE);
	other.plan.shape.heads = 100000;
	assert_int_equal(kvc_test_one(&other, KVC_ENGINE_ENCODE, &block, 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	                 KVC_SHAPE);
	kvc_engine_test_pool_close(&other);
	kvc_engine_test_pool_free(&other);
	kvc_test_fixture_close(&fixture);
}

/* --- wrong jobs --- */

static void test_bad_pages(void **state)
{
	static const uint32_t wrong[] = {40, 41, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};
	struct kvc_test_fixture fixture;
	struct kvc_engine_test_block block;
	uint64_t bytes;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	kvc_test_still_serves(&fixture, 1);
	bytes = fixture.pool.plan.image_bytes;
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		block = fixture.blocks[0];
		block.pages[i % block.page_count] = wrong[i];
		assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &block, 1 << 20, bytes,
		                              KVC_GPU_NOWHERE, NULL),
		                 KVC_INVALID);
		assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &block, KVC_GPU_NOWHERE,
		                              bytes, 0, NULL),
		                 KVC_INVALID);
		assert_int_equal(kvc_test_one(&fixture.pool, KVC_ENGINE_DECODE, &block, 0, bytes,
		                              KVC_GPU_NOWHERE, NULL),
		                 KVC_INVALID);
	}
	block = fixture.blocks[0];
	block.page_count--; /* fewer pages than tokens need */
	assert_int_equal(
	        kvc_test_one(&fixture.pool, KVC_ENGINE_ENCODE, &block, 0, bytes, KVC_GPU_NOWHERE, NULL),
	        KVC_INVALID);
	kvc_test_fixture_close(&fixture);
}

static void test_bad_places(void **state)
{
	struct kvc_test_fixture fixture;
	const struct kvc_engine_test_block *block = &fixture.blocks[0];
	const struct kvc_engine_test_pool *pool = &fixture.pool;
	uint64_t nowhere = KVC_GPU_NOWHERE, vram = 16 << 20, bytes, length;

	(void)state;
	kvc_test_fixture_open(&fixture, &prng);
	bytes = fixture.pool.plan.image_bytes;
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, KVC_TEST_ARENA_BYTES - bytes + 64,
	                              bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, UINT64_MAX - 63, bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, 0, UINT64_MAX, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, 32, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, nowhere, bytes, vram - 64, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, nowhere, bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_DECODE, block, nowhere, bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_LOWER, block, 0, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_ENCODE, block, 0, bytes - 1, nowhere, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(kvc_test_one(pool, KVC_ENGINE_LOWER, block, 0, bytes - 1, 0, &length), KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	kvc_test_still_serves(&fixture, 0);
	kvc_test_fixture_close(&fixture);
}

/* Raw tiles, and a raw block, for which a batch's staging is too small. */
static void test_raw_staging(void **state)
{
	struct kvc_engine_rig rig;
	struct kvc_engine_test_pool pool;
	struct kvc_image_plan plan;
	struct kvc_engine_test_block block;
	uint32_t next = 0;
	uint64_t room;

	(void)state;
	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	rig.start.staging_bytes = 512 << 10; /* 64 KiB a batch */
	kvc_engine_rig_run(&rig);
	kvc_test_plan_make(&plan, "quality", 4, 4, 64, 64, 40, KVC_DTYPE_BF16);
	room = kvc_test_slot(&plan);
	assert_in_range(plan.image_bytes, 36 << 10, 64 << 10);
	kvc_engine_test_pool_make(&pool, &rig, &plan, KVC_LAYOUT_HEADS, 16, 20, 1, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&pool, 1, -1), KVC_OK);
	kvc_engine_test_block_make(&pool, &next, 0, &block);
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_ENCODE, &block, 0, room, KVC_GPU_NOWHERE, NULL),
	                 KVC_OK);
	for (uint32_t i = 0; i < 32; i++) {
		uint16_t *row = (uint16_t *)(void *)kvc_engine_test_row(&pool, &block, (enum kvc_kind)(i & 1),
		                                                        i >> 1 & 3, 0, i >> 3, false);

		*row = 0x7F80;
		if (i == 7) /* 8 tiles of 5 KiB */
			assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_ENCODE, &block, 0, room,
			                              KVC_GPU_NOWHERE, NULL),
			                 KVC_LIMIT);
	}
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_ENCODE, &block, 0, room, KVC_GPU_NOWHERE, NULL),
	                 KVC_LIMIT);
	kvc_engine_test_pool_close(&pool);
	kvc_engine_test_pool_free(&pool);
	kvc_engine_rig_close(&rig);
}

static void test_large_image(void **state)
{
	struct kvc_engine_rig rig;
	struct kvc_engine_test_pool pool;
	struct kvc_image_plan plan;
	struct kvc_engine_test_block block;
	uint32_t next = 0;
	uint64_t length;

	(void)state;
	kvc_engine_rig_init(&rig, KVC_TEST_ARENA_BYTES);
	rig.start.staging_bytes = 512 << 10;
	kvc_engine_rig_run(&rig);
	kvc_test_plan_make(&plan, "quality", 4, 4, 128, 128, 128, KVC_DTYPE_BF16);
	assert_true(plan.image_bytes > 64 << 10);
	kvc_engine_test_pool_make(&pool, &rig, &plan, KVC_LAYOUT_SPLIT, 16, 20, 1, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&pool, 1, -1), KVC_OK);
	kvc_engine_test_block_make(&pool, &next, 0, &block);
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_ENCODE, &block, 0, kvc_test_slot(&plan),
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_LIMIT);
	length = kvc_engine_test_image(&pool, &block, rig.arena);
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_DECODE, &block, 0, length, KVC_GPU_NOWHERE, NULL),
	                 KVC_LIMIT);
	/* VRAM needs no staging. */
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_ENCODE, &block, KVC_GPU_NOWHERE, length, 0, NULL),
	                 KVC_OK);
	kvc_engine_test_expect(&pool, &block, rig.arena, length);
	assert_int_equal(kvc_test_one(&pool, KVC_ENGINE_DECODE, &block, 0, length, 1 << 20, NULL), KVC_OK);
	assert_true(kvc_engine_test_pool_right(&pool));
	kvc_engine_test_pool_close(&pool);
	kvc_engine_test_pool_free(&pool);
	kvc_engine_rig_close(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_bits),        cmocka_unit_test(test_ready),
	        cmocka_unit_test(test_slow_pin),    cmocka_unit_test(test_no_pin),
	        cmocka_unit_test(test_raw_tiles),   cmocka_unit_test(test_all_raw),
	        cmocka_unit_test(test_mixed),       cmocka_unit_test(test_corrupt),
	        cmocka_unit_test(test_other_shape), cmocka_unit_test(test_bad_pages),
	        cmocka_unit_test(test_bad_places),  cmocka_unit_test(test_raw_staging),
	        cmocka_unit_test(test_large_image),
	};

	prng.state = prng_seed("test_gpu_engine");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
