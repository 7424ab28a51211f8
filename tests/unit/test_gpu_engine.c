/* The engine process over the fake device, driven by the messages that the core sends: images and restored
 * elements bit for bit against the CPU codec, and everything that may be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/engine/engine.h"
#include "tests/support/engine_pool.h"

#define ARENA_BYTES (96ull << 20)
#define BLOCKS_MAX  32u

static struct prng prng;

/* Jobs as they are sent, and what came back for them. */
struct orders {
	struct kvc_engine_rig *rig;
	const struct kvc_engine_test_pool *pool;
	uint32_t count;
	struct kvc_gpu_job jobs[BLOCKS_MAX];
	const struct kvc_engine_test_block *blocks[BLOCKS_MAX];
	kvc_status status[BLOCKS_MAX];
	uint64_t length[BLOCKS_MAX];
};

static void orders_init(struct orders *orders, const struct kvc_engine_test_pool *pool)
{
	memset(orders, 0, sizeof *orders);
	orders->rig = pool->rig;
	orders->pool = pool;
}

/* image: offset in the arena, of `bytes`; vram: offset; each or KVC_GPU_NOWHERE. */
static void orders_add(struct orders *orders, const struct kvc_engine_test_block *block, uint64_t image,
                       uint64_t bytes, uint64_t vram)
{
	uint32_t i = orders->count++;

	orders->blocks[i] = block;
	orders->jobs[i] = (struct kvc_gpu_job){.seq = 1000 + i,
	                                       .image = image,
	                                       .image_bytes = bytes,
	                                       .vram = vram,
	                                       .first_token = block->first_token,
	                                       .page_count = block->page_count};
}

static uint8_t *put(uint8_t *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
	return to + bytes;
}

/* One message of the jobs [first, first + count). */
static void orders_send(const struct orders *orders, enum kvc_engine_op op, uint32_t first, uint32_t count)
{
	static uint8_t packet[KVC_GPU_MESSAGE_BYTES];
	struct kvc_gpu_jobs head = {.header = {.type = KVC_GPU_JOBS, .id = orders->pool->id},
	                            .op = op,
	                            .count = count,
	                            .shape = orders->pool->plan.shape,
	                            .codec = orders->pool->plan.codec};
	uint8_t *end = put(packet, &head, sizeof head);

	for (uint32_t i = first; i < first + count; i++) {
		struct kvc_gpu_job job = orders->jobs[i];

		job.page_count = op == KVC_ENGINE_LOWER ? 0 : job.page_count;
		end = put(end, &job, sizeof job);
	}
	for (uint32_t i = first; i < first + count && op != KVC_ENGINE_LOWER; i++)
		end = put(end, orders->blocks[i]->pages, orders->jobs[i].page_count * sizeof(uint32_t));
	kvc_engine_rig_send(orders->rig, packet, (size_t)(end - packet), NULL, 0);
}

/* Until there is a result for each. False: the pair was closed. */
static bool orders_await(struct orders *orders)
{
	uint32_t left = orders->count;

	for (uint32_t i = 0; i < orders->count; i++)
		orders->status[i] = KVC_STATUS_COUNT;
	while (left) {
		const struct kvc_gpu_header *header = (const void *)orders->rig->packet;
		const struct kvc_gpu_result *results = (const void *)(header + 1);
		size_t bytes = kvc_engine_rig_receive(orders->rig);

		if (bytes == 0)
			return false;
		assert_int_equal(header->type, KVC_GPU_DONE);
		assert_int_equal(bytes, sizeof *header + header->id * sizeof *results);
		assert_true(header->id <= left);
		for (uint32_t i = 0; i < header->id; i++) {
			uint64_t at = results[i].seq - 1000;

			assert_true(at < orders->count && orders->status[at] == KVC_STATUS_COUNT);
			orders->status[at] = (kvc_status)results[i].status;
			orders->length[at] = results[i].length;
			left--;
		}
	}
	return true;
}

static void orders_run(struct orders *orders, enum kvc_engine_op op)
{
	orders_send(orders, op, 0, orders->count);
	assert_true(orders_await(orders));
}

static void orders_all(const struct orders *orders, kvc_status status)
{
	for (uint32_t i = 0; i < orders->count; i++)
		assert_int_equal(orders->status[i], status);
}

/* One job, its status. */
static kvc_status one(const struct kvc_engine_test_pool *pool, enum kvc_engine_op op,
                      const struct kvc_engine_test_block *block, uint64_t image, uint64_t bytes,
                      uint64_t vram, uint64_t *length)
{
	struct orders orders;

	orders_init(&orders, pool);
	orders_add(&orders, block, image, bytes, vram);
	orders_run(&orders, op);
	if (length)
		*length = orders.length[0];
	return orders.status[0];
}

static void plan_make(struct kvc_image_plan *plan, const char *preset, uint32_t layers, uint32_t heads,
                      uint32_t key_dim, uint32_t value_dim, uint32_t tokens, enum kvc_dtype dtype)
{
	struct kvc_block_shape shape = {.layers = layers,
	                                .heads = heads,
	                                .key_dim = key_dim,
	                                .value_dim = value_dim,
	                                .tokens = tokens,
	                                .dtype = dtype};
	struct kvc_block_codec codec;

	assert_int_equal(kvc_preset_get(preset, &codec), KVC_OK);
	assert_int_equal(kvc_image_plan_init(plan, &shape, &codec), KVC_OK);
}

static uint64_t slot_of(const struct kvc_image_plan *plan)
{
	return (plan->raw_image_bytes + 4095) / 4096 * 4096;
}

/* --- the usual fixture: an engine, a small pool, a few blocks --- */

struct fixture {
	struct kvc_engine_rig rig;
	struct kvc_engine_test_pool pool;
	struct kvc_engine_test_block blocks[4];
	uint8_t *image;
};

static void fixture_open_with(struct fixture *fixture, const uint8_t *event)
{
	struct kvc_image_plan plan;
	uint32_t next = 0;

	kvc_engine_rig_run(&fixture->rig);
	plan_make(&plan, "quality", 2, 2, 64, 64, 40, KVC_DTYPE_BF16);
	kvc_engine_test_pool_make(&fixture->pool, &fixture->rig, &plan, KVC_LAYOUT_SPLIT, 16, 40, 1, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&fixture->pool, 1, event), KVC_OK);
	for (unsigned i = 0; i < 4; i++)
		kvc_engine_test_block_make(&fixture->pool, &next, 3 * i, &fixture->blocks[i]);
	fixture->image = aligned_alloc(64, slot_of(&plan));
}

static void fixture_open(struct fixture *fixture)
{
	memset(fixture, 0, sizeof *fixture);
	kvc_engine_rig_init(&fixture->rig, ARENA_BYTES);
	fixture_open_with(fixture, NULL);
}

static void fixture_drop(struct fixture *fixture)
{
	kvc_engine_test_pool_free(&fixture->pool);
	kvc_engine_rig_close(&fixture->rig);
	free(fixture->image);
}

static void fixture_close(struct fixture *fixture)
{
	kvc_engine_test_pool_close(&fixture->pool);
	fixture_drop(fixture);
}

/* Block `i` is encoded and restored, as ever. */
static void still_serves(struct fixture *fixture, unsigned i)
{
	uint64_t bytes = kvc_engine_test_image(&fixture->pool, &fixture->blocks[i], fixture->image), length;
	uint64_t room = slot_of(&fixture->pool.plan);

	assert_int_equal(one(&fixture->pool, KVC_ENGINE_ENCODE, &fixture->blocks[i], 0, room, KVC_GPU_NOWHERE,
	                     &length),
	                 KVC_OK);
	assert_int_equal(length, bytes);
	assert_memory_equal(fixture->rig.arena, fixture->image, bytes);
	kvc_engine_test_expect(&fixture->pool, &fixture->blocks[i], fixture->image, bytes);
	assert_int_equal(
	        one(&fixture->pool, KVC_ENGINE_DECODE, &fixture->blocks[i], 0, bytes, KVC_GPU_NOWHERE, NULL),
	        KVC_OK);
	assert_true(kvc_engine_test_pool_right(&fixture->pool));
}

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
	uint64_t slot = slot_of(&pool->plan);
	struct orders orders;

	orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		orders_add(&orders, &blocks[i], i * slot, slot, KVC_GPU_NOWHERE);
	orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	orders_send(&orders, KVC_ENGINE_ENCODE, 1, count - 2);
	orders_send(&orders, KVC_ENGINE_ENCODE, count - 1, 1);
	assert_true(orders_await(&orders));
	orders_all(&orders, KVC_OK);
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
	uint64_t slot = slot_of(&pool->plan), bytes = pool->plan.image_bytes;
	struct orders orders;

	orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++) {
		const struct kvc_engine_test_block *to = &blocks[(i + 1) % count];

		kvc_engine_test_expect(pool, to, pool->rig->arena + i * slot, bytes);
		orders_add(&orders, to, arena ? i * slot : KVC_GPU_NOWHERE, bytes,
		           vram ? i * slot : KVC_GPU_NOWHERE);
	}
	orders_run(&orders, KVC_ENGINE_DECODE);
	orders_all(&orders, KVC_OK);
	assert_true(kvc_engine_test_pool_right(pool));
}

/* To VRAM, and from there to the arena. */
static void trial_lower(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *blocks,
                        uint32_t count, uint8_t *image)
{
	uint64_t slot = slot_of(&pool->plan), bytes = pool->plan.image_bytes;
	struct orders orders;

	orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		orders_add(&orders, &blocks[i], KVC_GPU_NOWHERE, bytes, i * slot);
	orders_run(&orders, KVC_ENGINE_ENCODE);
	orders_all(&orders, KVC_OK);
	memset(pool->rig->arena, 0x77, count * slot);
	orders_init(&orders, pool);
	for (uint32_t i = 0; i < count; i++)
		orders_add(&orders, &blocks[i], i * slot, slot, i * slot);
	orders_run(&orders, KVC_ENGINE_LOWER);
	orders_all(&orders, KVC_OK);
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

	plan_make(&plan, wish->preset, wish->layers, wish->heads, wish->key_dim, wish->value_dim,
	          wish->tokens, wish->dtype);
	kvc_engine_test_pool_make(&pool, rig, &plan, layout, wish->page_tokens, 100, 7, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&pool, 2, NULL), KVC_OK);
	for (uint32_t i = 0; i < COUNT; i++)
		kvc_engine_test_block_make(&pool, &next, prng_below(&prng, wish->page_tokens), &blocks[i]);
	image = aligned_alloc(64, slot_of(&plan));
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
	kvc_engine_rig_init(&rig, ARENA_BYTES);
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
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture);
	assert_memory_equal(fixture.rig.ready.uuid, "fake-gpu-0000003", 16);
	assert_int_equal(fixture.rig.ready.wire, KVC_GPU_WIRE);
	assert_true(fixture.rig.ready.device_bytes >= (16 + 64) << 20);
	assert_int_equal(fixture.rig.ready.sms, 132);
	fixture_close(&fixture);
}

/* READY does not wait for the pinning, and blocks are served while it goes on. */
static void test_slow_pin(void **state)
{
	struct fixture fixture;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, ARENA_BYTES);
	kvc_engine_rig_fault(&fixture.rig, "slow-pin 100000");
	fixture_open_with(&fixture, NULL);
	still_serves(&fixture, 0);
	kvc_engine_test_pool_close(&fixture.pool);
	kill(fixture.rig.pid, SIGKILL);
	assert_int_equal(kvc_engine_rig_ended(&fixture.rig), 128 + SIGKILL);
	fixture_drop(&fixture);
}

static void test_no_pin(void **state)
{
	struct fixture fixture;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, ARENA_BYTES);
	kvc_engine_rig_fault(&fixture.rig, "pin-fails");
	fixture_open_with(&fixture, NULL);
	still_serves(&fixture, 0);
	fixture_close(&fixture);
}

/* --- raw tiles --- */

static void infinity_at(struct fixture *fixture, unsigned block, uint32_t layer, uint32_t head,
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
	struct fixture fixture;
	uint64_t room, length, bytes;

	(void)state;
	fixture_open(&fixture);
	infinity_at(&fixture, 1, 1, 0, KVC_KIND_VALUE);
	still_serves(&fixture, 1);
	bytes = kvc_engine_test_image(&fixture.pool, &fixture.blocks[1], fixture.image);
	/* No room for them: what is needed is told. */
	room = fixture.pool.plan.image_bytes;
	infinity_at(&fixture, 0, 0, 1, KVC_KIND_KEY);
	bytes = kvc_engine_test_image(&fixture.pool, &fixture.blocks[0], fixture.image);
	assert_true(bytes > room);
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, room, KVC_GPU_NOWHERE, &length),
	        KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], KVC_GPU_NOWHERE, room, 0, &length),
	        KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, bytes, KVC_GPU_NOWHERE, &length),
	        KVC_OK);
	assert_memory_equal(fixture.rig.arena, fixture.image, bytes);
	/* Such an image cannot stay in VRAM. */
	assert_int_equal(one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes, 0, NULL),
	                 KVC_INVALID);
	fixture_close(&fixture);
}

static void test_all_raw(void **state)
{
	struct fixture fixture;
	uint64_t room, length;

	(void)state;
	fixture_open(&fixture);
	for (unsigned i = 0; i < 8; i++)
		infinity_at(&fixture, 2, i & 1, i >> 1 & 1, (enum kvc_kind)(i >> 2));
	room = fixture.pool.plan.raw_image_bytes;
	assert_int_equal(one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[2], 0, room - 1,
	                     KVC_GPU_NOWHERE, &length),
	                 KVC_NO_SPACE);
	assert_int_equal(length, room);
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[2], KVC_GPU_NOWHERE, room, 0, &length),
	        KVC_NO_SPACE);
	assert_int_equal(length, room);
	still_serves(&fixture, 2); /* encoded again as a raw block, and decoded by that codec */
	fixture_close(&fixture);
}

/* Blocks of different codecs in one message of decodes, and good ones beside bad ones. */
static void test_mixed(void **state)
{
	struct fixture fixture;
	struct orders orders;
	uint64_t slot, bytes;

	(void)state;
	fixture_open(&fixture);
	for (unsigned i = 0; i < 8; i++)
		infinity_at(&fixture, 1, i & 1, i >> 1 & 1, (enum kvc_kind)(i >> 2));
	infinity_at(&fixture, 3, 0, 0, KVC_KIND_KEY);
	slot = slot_of(&fixture.pool.plan);
	orders_init(&orders, &fixture.pool);
	for (unsigned i = 0; i < 4; i++)
		orders_add(&orders, &fixture.blocks[i], i * slot, slot, KVC_GPU_NOWHERE);
	orders.jobs[2].first_token = 16; /* no token of a page of 16 */
	orders_run(&orders, KVC_ENGINE_ENCODE);
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
	orders_run(&orders, KVC_ENGINE_DECODE); /* the third image is none */
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(orders.status[i], i == 2 ? KVC_CORRUPT : KVC_OK);
	assert_true(kvc_engine_test_pool_right(&fixture.pool));
	fixture_close(&fixture);
}

/* --- damage --- */

static void test_corrupt(void **state)
{
	struct fixture fixture;
	uint64_t bytes;

	(void)state;
	fixture_open(&fixture);
	still_serves(&fixture, 0);
	bytes = fixture.pool.plan.image_bytes;
	for (uint64_t at = 0; at < bytes; at += 1 + prng_below(&prng, 400)) {
		fixture.rig.arena[at] ^= 0x10;
		assert_int_equal(one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes,
		                     KVC_GPU_NOWHERE, NULL),
		                 KVC_CORRUPT);
		fixture.rig.arena[at] ^= 0x10;
	}
	assert_int_equal(one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes - 64,
	                     KVC_GPU_NOWHERE, NULL),
	                 KVC_CORRUPT);
	assert_int_equal(one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes + 64,
	                     KVC_GPU_NOWHERE, NULL),
	                 KVC_CORRUPT);
	/* VRAM that holds no image. */
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], KVC_GPU_NOWHERE, bytes, 4096, NULL),
	        KVC_CORRUPT);
	fixture_close(&fixture);
}

/* An image of another shape is not decoded into this pool. */
static void test_other_shape(void **state)
{
	struct fixture fixture;
	struct kvc_engine_test_pool other;
	struct kvc_image_plan plan;
	struct kvc_engine_test_block block;
	uint32_t next = 0;
	uint64_t bytes;

	(void)state;
	fixture_open(&fixture);
	plan_make(&plan, "quality", 2, 2, 64, 64, 39, KVC_DTYPE_BF16);
	kvc_engine_test_pool_make(&other, &fixture.rig, &plan, KVC_LAYOUT_PAGED, 16, 10, 20, &prng);
	kvc_engine_test_block_make(&other, &next, 0, &block);
	bytes = kvc_engine_test_image(&other, &block, fixture.rig.arena);
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_DECODE, &fixture.blocks[0], 0, bytes, KVC_GPU_NOWHERE, NULL),
	        KVC_CORRUPT);
	assert_true(kvc_engine_test_pool_right(&fixture.pool));
	/* Jobs of a shape that is not the pool's. */
	assert_int_equal(kvc_engine_test_pool_open(&other, 9, NULL), KVC_OK);
	other.plan.shape.heads = 1;
	assert_int_equal(one(&other, KVC_ENGINE_ENCODE, &block, 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	                 KVC_SHAPE);
	other.plan.shape.heads = 100000;
	assert_int_equal(one(&other, KVC_ENGINE_ENCODE, &block, 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	                 KVC_SHAPE);
	kvc_engine_test_pool_close(&other);
	kvc_engine_test_pool_free(&other);
	fixture_close(&fixture);
}

/* --- wrong jobs --- */

static void test_bad_pages(void **state)
{
	static const uint32_t wrong[] = {40, 41, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};
	struct fixture fixture;
	struct kvc_engine_test_block block;
	uint64_t bytes;

	(void)state;
	fixture_open(&fixture);
	still_serves(&fixture, 1);
	bytes = fixture.pool.plan.image_bytes;
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		block = fixture.blocks[0];
		block.pages[i % block.page_count] = wrong[i];
		assert_int_equal(
		        one(&fixture.pool, KVC_ENGINE_ENCODE, &block, 1 << 20, bytes, KVC_GPU_NOWHERE, NULL),
		        KVC_INVALID);
		assert_int_equal(
		        one(&fixture.pool, KVC_ENGINE_ENCODE, &block, KVC_GPU_NOWHERE, bytes, 0, NULL),
		        KVC_INVALID);
		assert_int_equal(
		        one(&fixture.pool, KVC_ENGINE_DECODE, &block, 0, bytes, KVC_GPU_NOWHERE, NULL),
		        KVC_INVALID);
	}
	block = fixture.blocks[0];
	block.page_count--; /* fewer pages than tokens need */
	assert_int_equal(one(&fixture.pool, KVC_ENGINE_ENCODE, &block, 0, bytes, KVC_GPU_NOWHERE, NULL),
	                 KVC_INVALID);
	fixture_close(&fixture);
}

static void test_bad_places(void **state)
{
	struct fixture fixture;
	const struct kvc_engine_test_block *block = &fixture.blocks[0];
	const struct kvc_engine_test_pool *pool = &fixture.pool;
	uint64_t nowhere = KVC_GPU_NOWHERE, vram = 16 << 20, bytes, length;

	(void)state;
	fixture_open(&fixture);
	bytes = fixture.pool.plan.image_bytes;
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, ARENA_BYTES - bytes + 64, bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, UINT64_MAX - 63, bytes, nowhere, NULL),
	                 KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, 0, UINT64_MAX, nowhere, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, 32, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, nowhere, bytes, vram - 64, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, nowhere, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_DECODE, block, nowhere, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_LOWER, block, 0, bytes, nowhere, NULL), KVC_INVALID);
	assert_int_equal(one(pool, KVC_ENGINE_ENCODE, block, 0, bytes - 1, nowhere, &length), KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	assert_int_equal(one(pool, KVC_ENGINE_LOWER, block, 0, bytes - 1, 0, &length), KVC_NO_SPACE);
	assert_int_equal(length, bytes);
	still_serves(&fixture, 0);
	fixture_close(&fixture);
}

/* Images larger than a batch's staging: 512 KiB of it makes 64 KiB a batch. */
static void test_small_staging(void **state)
{
	struct fixture fixture;
	uint64_t room, length;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, ARENA_BYTES);
	fixture.rig.start.staging_bytes = 512 << 10;
	fixture_open_with(&fixture, NULL);
	still_serves(&fixture, 0); /* 15 KiB fit */
	for (unsigned i = 0; i < 8; i++)
		infinity_at(&fixture, 2, i & 1, i >> 1 & 1, (enum kvc_kind)(i >> 2));
	room = fixture.pool.plan.raw_image_bytes;
	assert_true(room > 64 << 10 || room < 64 << 10);
	fixture.pool.plan.codec.key.bits = fixture.pool.plan.codec.value.bits = 8;
	assert_int_equal(
	        one(&fixture.pool, KVC_ENGINE_ENCODE, &fixture.blocks[2], 0, room, KVC_GPU_NOWHERE, &length),
	        room > 64 << 10 ? KVC_LIMIT : KVC_OK);
	fixture_close(&fixture);
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
	kvc_engine_rig_init(&rig, ARENA_BYTES);
	rig.start.staging_bytes = 512 << 10;
	kvc_engine_rig_run(&rig);
	plan_make(&plan, "quality", 4, 4, 128, 128, 128, KVC_DTYPE_BF16);
	assert_true(plan.image_bytes > 64 << 10);
	kvc_engine_test_pool_make(&pool, &rig, &plan, KVC_LAYOUT_SPLIT, 16, 20, 1, &prng);
	assert_int_equal(kvc_engine_test_pool_open(&pool, 1, NULL), KVC_OK);
	kvc_engine_test_block_make(&pool, &next, 0, &block);
	assert_int_equal(one(&pool, KVC_ENGINE_ENCODE, &block, 0, slot_of(&plan), KVC_GPU_NOWHERE, NULL),
	                 KVC_LIMIT);
	length = kvc_engine_test_image(&pool, &block, rig.arena);
	assert_int_equal(one(&pool, KVC_ENGINE_DECODE, &block, 0, length, KVC_GPU_NOWHERE, NULL), KVC_LIMIT);
	/* VRAM needs no staging. */
	assert_int_equal(one(&pool, KVC_ENGINE_ENCODE, &block, KVC_GPU_NOWHERE, length, 0, NULL), KVC_OK);
	kvc_engine_test_expect(&pool, &block, rig.arena, length);
	assert_int_equal(one(&pool, KVC_ENGINE_DECODE, &block, 0, length, 1 << 20, NULL), KVC_OK);
	assert_true(kvc_engine_test_pool_right(&pool));
	kvc_engine_test_pool_close(&pool);
	kvc_engine_test_pool_free(&pool);
	kvc_engine_rig_close(&rig);
}

/* --- regions and pools --- */

static void test_regions(void **state)
{
	struct kvc_engine_rig rig;
	struct kvc_engine_rig_memory memory, forged;
	uint64_t size = 1 << 20;
	struct kvc_gpu_header header = {.type = KVC_GPU_UNIMPORT, .id = 77};

	(void)state;
	kvc_engine_rig_init(&rig, ARENA_BYTES);
	kvc_engine_rig_run(&rig);
	kvc_engine_rig_alloc(&rig, size, &memory);
	forged = memory;
	memset(forged.handle, 0, sizeof forged.handle);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	for (unsigned i = 0; i < sizeof forged.handle; i++)
		forged.handle[i] = (uint8_t)prng_next(&prng);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	forged = memory;
	forged.handle[56]++;
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &forged, 0, size), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, size + 1), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 1, size), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, UINT64_MAX, 2), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, 0), KVC_INVALID);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 4096, size - 4096), KVC_OK);
	assert_int_equal(kvc_engine_rig_import(&rig, 5, &memory, 0, size), KVC_CONFLICT);
	kvc_engine_rig_send(&rig, &header, sizeof header, NULL, 0);
	assert_int_equal(kvc_engine_rig_reply(&rig, KVC_GPU_UNIMPORT, 77), KVC_UNKNOWN_ID);
	kvc_engine_rig_free(&memory);
	kvc_engine_rig_close(&rig);
}

static int chunk_make(uint64_t bytes)
{
	int fd = memfd_create("chunk", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

static kvc_status chunks_import(struct kvc_engine_rig *rig, const int *fds, uint32_t sent, uint32_t said,
                                uint64_t chunk_bytes, uint64_t bytes)
{
	struct kvc_gpu_import import = {
	        .header = {.type = KVC_GPU_IMPORT, .id = 6}, .bytes = bytes, .chunks = said};

	for (uint32_t i = 0; i < said; i++)
		import.chunk_bytes[i] = chunk_bytes;
	kvc_engine_rig_send(rig, &import, sizeof import, fds, sent);
	return kvc_engine_rig_reply(rig, KVC_GPU_IMPORT, 6);
}

static void test_chunks(void **state)
{
	struct kvc_engine_rig rig;
	int fds[KVC_GPU_CHUNKS_MAX];
	uint64_t size = 64 << 10;
	struct kvc_gpu_header header = {.type = KVC_GPU_UNIMPORT, .id = 6};

	(void)state;
	kvc_engine_rig_init(&rig, ARENA_BYTES);
	kvc_engine_rig_run(&rig);
	for (unsigned i = 0; i < KVC_GPU_CHUNKS_MAX; i++)
		fds[i] = chunk_make(size);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, 2 * size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, size, 2 * size + 1), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, UINT64_MAX, size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 2, 2, 0, 0), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 1, 2, size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, 3, 2, size, 2 * size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, &rig.socket, 1, 1, size, size), KVC_INVALID);
	assert_int_equal(chunks_import(&rig, fds, KVC_GPU_CHUNKS_MAX, KVC_GPU_CHUNKS_MAX, size,
	                               KVC_GPU_CHUNKS_MAX * size),
	                 KVC_OK);
	kvc_engine_rig_send(&rig, &header, sizeof header, NULL, 0);
	assert_int_equal(kvc_engine_rig_reply(&rig, KVC_GPU_UNIMPORT, 6), KVC_OK);
	for (unsigned i = 0; i < KVC_GPU_CHUNKS_MAX; i++)
		close(fds[i]);
	kvc_engine_rig_close(&rig);
}

static kvc_status pool_wish(struct fixture *fixture, const struct kvc_gpu_pool_geometry *geometry,
                            const struct kvc_gpu_base *bases, uint32_t id, const char *event)
{
	struct {
		struct kvc_gpu_pool pool;
		struct kvc_gpu_base bases[KVC_TEST_REGIONS_MAX];
	} message = {.pool.header = {.type = KVC_GPU_POOL_OPEN, .id = id}, .pool.geometry = *geometry};
	uint32_t count = geometry->layers * (geometry->value_dim ? 2 : 1);

	if (event) {
		message.pool.has_event = 1;
		strcpy((char *)message.pool.event, event);
	}
	memcpy(message.bases, bases, count * sizeof bases[0]);
	kvc_engine_rig_send(&fixture->rig, &message, sizeof message.pool + count * sizeof bases[0], NULL, 0);
	return kvc_engine_rig_reply(&fixture->rig, KVC_GPU_POOL_OPEN, id);
}

static void test_pools_refused(void **state)
{
	struct fixture fixture;
	struct kvc_gpu_base bases[4];
	struct kvc_gpu_pool_geometry right, wrong;
	struct kvc_gpu_header header = {.type = KVC_GPU_UNIMPORT, .id = 1};

	(void)state;
	fixture_open(&fixture);
	right = fixture.pool.geometry;
	memcpy(bases, fixture.pool.bases, sizeof bases);
	assert_int_equal(pool_wish(&fixture, &right, bases, 1, NULL), KVC_CONFLICT);
	bases[3].offset += 2; /* by two bytes out of the region */
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, NULL), KVC_SHAPE);
	bases[3].offset = UINT64_MAX - 1;
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, NULL), KVC_SHAPE);
	bases[3] = fixture.pool.bases[3];
	bases[0].offset -= 1; /* elements of two bytes */
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, NULL), KVC_SHAPE);
	bases[0].region = 99;
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, NULL), KVC_UNKNOWN_ID);
	bases[0] = fixture.pool.bases[0];
	wrong = right;
	wrong.pages++;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, NULL), KVC_SHAPE);
	wrong.pages = 1ull << 60;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, NULL), KVC_SHAPE);
	wrong.pages = 0;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, NULL), KVC_SHAPE);
	wrong = right;
	wrong.dtype = 9;
	assert_int_equal(pool_wish(&fixture, &wrong, bases, 2, NULL), KVC_SHAPE);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, "event-0-0"), KVC_INVALID);
	assert_int_equal(pool_wish(&fixture, &right, bases, 2, "../../etc/passwd"), KVC_INVALID);
	kvc_engine_rig_send(&fixture.rig, &header, sizeof header, NULL, 0);
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_UNIMPORT, 1), KVC_IN_USE);
	assert_int_equal(
	        one(&(struct kvc_engine_test_pool){.rig = &fixture.rig, .id = 5, .plan = fixture.pool.plan},
	            KVC_ENGINE_ENCODE, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE, NULL),
	        KVC_UNKNOWN_ID);
	still_serves(&fixture, 0);
	fixture_close(&fixture);
}

/* Every table that there is, and again after they were given back. */
static void test_many_pools(void **state)
{
	struct fixture fixture;
	uint32_t opened = 0;
	kvc_status status = KVC_OK;

	(void)state;
	fixture_open(&fixture);
	for (unsigned round = 0; round < 2; round++) {
		for (opened = 0; status == KVC_OK; opened++)
			status = pool_wish(&fixture, &fixture.pool.geometry, fixture.pool.bases, 100 + opened,
			                   NULL);
		assert_int_equal(status, KVC_LIMIT);
		assert_int_equal(opened, 256); /* one is the fixture's */
		for (status = KVC_OK, opened--; opened; opened--) {
			struct kvc_gpu_header header = {.type = KVC_GPU_POOL_CLOSE, .id = 99 + opened};

			kvc_engine_rig_send(&fixture.rig, &header, sizeof header, NULL, 0);
			assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, header.id),
			                 KVC_OK);
		}
	}
	still_serves(&fixture, 3);
	fixture_close(&fixture);
}

/* --- the worker's event --- */

static void test_gate(void **state)
{
	struct fixture fixture;
	struct kvc_engine_test_pool other;
	uint8_t handle[KVC_GPU_HANDLE_BYTES];
	_Atomic uint64_t *event;
	struct orders orders;

	(void)state;
	memset(&fixture, 0, sizeof fixture);
	kvc_engine_rig_init(&fixture.rig, ARENA_BYTES);
	event = kvc_engine_rig_event(&fixture.rig, handle);
	fixture_open_with(&fixture, handle);
	still_serves(&fixture, 0);
	atomic_store(&event[1], 1);
	orders_init(&orders, &fixture.pool);
	orders_add(&orders, &fixture.blocks[1], 1 << 20, 1 << 20, KVC_GPU_NOWHERE);
	orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	/* Another pool is not held up: its answers come first. */
	other = fixture.pool;
	assert_int_equal(pool_wish(&fixture, &other.geometry, other.bases, 2, NULL), KVC_OK);
	other.id = 2;
	assert_int_equal(
	        one(&other, KVC_ENGINE_ENCODE, &fixture.blocks[2], 2 << 20, 1 << 20, KVC_GPU_NOWHERE, NULL),
	        KVC_OK);
	atomic_store(&event[1], 0);
	assert_true(orders_await(&orders));
	orders_all(&orders, KVC_OK);
	/* Closing waits for what is under way. */
	atomic_store(&event[1], 1);
	orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	kvc_engine_rig_send(&fixture.rig, &(struct kvc_gpu_header){.type = KVC_GPU_POOL_CLOSE, .id = 1},
	                    sizeof(struct kvc_gpu_header), NULL, 0);
	assert_int_equal(
	        one(&other, KVC_ENGINE_ENCODE, &fixture.blocks[2], 2 << 20, 1 << 20, KVC_GPU_NOWHERE, NULL),
	        KVC_OK);
	/* A worker that never comes to its event. */
	assert_int_equal(kvc_engine_rig_reply(&fixture.rig, KVC_GPU_POOL_CLOSE, 1), KVC_OK);
	assert_true(orders_await(&orders));
	orders_all(&orders, KVC_DEADLINE);
	fixture_drop(&fixture);
}

/* --- batches --- */

/* Many jobs while the device is slow: few launches. */
static void test_merge(void **state)
{
	struct fixture fixture;
	struct orders orders;
	struct kvc_gpu_gauges gauges = {0};
	uint64_t slot;

	(void)state;
	fixture_open(&fixture);
	slot = slot_of(&fixture.pool.plan);
	kvc_engine_rig_fault(&fixture.rig, "delay 200");
	orders_init(&orders, &fixture.pool);
	for (unsigned i = 0; i < BLOCKS_MAX; i++)
		orders_add(&orders, &fixture.blocks[i % 4], i * slot, slot, KVC_GPU_NOWHERE);
	for (unsigned i = 0; i < BLOCKS_MAX; i++)
		orders_send(&orders, KVC_ENGINE_ENCODE, i, 1);
	assert_true(orders_await(&orders));
	orders_all(&orders, KVC_OK);
	while (gauges.launched_blocks < BLOCKS_MAX) {
		assert_true(recv(fixture.rig.socket, &gauges, sizeof gauges, 0) == sizeof gauges);
		assert_int_equal(gauges.header.type, KVC_GPU_GAUGES);
	}
	assert_int_equal(gauges.launched_blocks, BLOCKS_MAX);
	assert_in_range(gauges.launches, 1, 8);
	fixture_close(&fixture);
}

/* --- how it ends --- */

static void test_closed_under_way(void **state)
{
	struct fixture fixture;
	struct orders orders;

	(void)state;
	fixture_open(&fixture);
	kvc_engine_rig_fault(&fixture.rig, "hang 0");
	orders_init(&orders, &fixture.pool);
	orders_add(&orders, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE);
	orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	fixture_drop(&fixture); /* checks that it ends with 0 */
}

static void test_illegal_address(void **state)
{
	struct fixture fixture;
	struct orders orders;

	(void)state;
	fixture_open(&fixture);
	still_serves(&fixture, 0);
	kvc_engine_rig_fault(&fixture.rig, "illegal-address 2");
	orders_init(&orders, &fixture.pool);
	orders_add(&orders, &fixture.blocks[0], 0, 1 << 20, KVC_GPU_NOWHERE);
	orders_send(&orders, KVC_ENGINE_ENCODE, 0, 1);
	assert_false(orders_await(&orders));
	assert_int_equal(kvc_engine_rig_ended(&fixture.rig), 3);
	close(fixture.rig.socket);
	/* The next one is well. */
	kvc_engine_test_pool_free(&fixture.pool);
	free(fixture.image);
	fixture_open_with(&fixture, NULL);
	still_serves(&fixture, 0);
	fixture_close(&fixture);
}

/* A copy that fails and does not stick: its batch fails, nothing else. */
static void test_copy_error(void **state)
{
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture);
	for (unsigned i = 0; i < 3; i++) {
		kvc_engine_rig_fault(&fixture.rig, "copy-error 0");
		assert_int_equal(one(&fixture.pool, i & 1 ? KVC_ENGINE_LOWER : KVC_ENGINE_ENCODE,
		                     &fixture.blocks[0], 0, 1 << 20, i & 1 ? 0 : KVC_GPU_NOWHERE, NULL),
		                 KVC_INTERNAL);
		still_serves(&fixture, i);
	}
	fixture_close(&fixture);
}

static void start_fails(const char *fault, const struct kvc_gpu_start *start, size_t bytes, bool arena,
                        kvc_status status)
{
	struct kvc_engine_rig rig;
	struct kvc_gpu_failed failed;

	kvc_engine_rig_init(&rig, ARENA_BYTES);
	if (fault)
		kvc_engine_rig_fault(&rig, fault);
	kvc_engine_rig_spawn(&rig);
	kvc_engine_rig_send(&rig, start ? start : &rig.start, bytes, &rig.arena_fd, arena);
	assert_int_equal(kvc_engine_rig_receive(&rig), sizeof failed);
	memcpy(&failed, rig.packet, sizeof failed);
	assert_int_equal(failed.header.type, KVC_GPU_FAILED);
	assert_int_equal(failed.status, status);
	assert_true(failed.detail[0] != 0);
	assert_int_equal(kvc_engine_rig_receive(&rig), 0);
	assert_int_equal(kvc_engine_rig_ended(&rig), 1);
	kvc_engine_rig_close(&rig);
}

static void test_start_fails(void **state)
{
	struct kvc_gpu_start right = {.header.type = KVC_GPU_START,
	                              .wire = KVC_GPU_WIRE,
	                              .vram_bytes = 1 << 20,
	                              .staging_bytes = 64 << 20,
	                              .arena_bytes = ARENA_BYTES};
	struct kvc_gpu_start wrong = right;

	(void)state;
	start_fails("no-device", NULL, sizeof right, true, KVC_UNSUPPORTED);
	start_fails("alloc-fails", NULL, sizeof right, true, KVC_NO_MEMORY);
	start_fails(NULL, &right, sizeof right - 8, true, KVC_VERSION);
	start_fails(NULL, &right, sizeof right, false, KVC_BAD_MESSAGE);
	wrong.wire++;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_VERSION);
	wrong = right;
	wrong.header.type = KVC_GPU_JOBS;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_VERSION);
	wrong = right;
	wrong.arena_bytes++;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_INVALID);
	wrong = right;
	wrong.vram_bytes = 1ull << 50;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_NO_MEMORY);
	wrong = right;
	wrong.staging_bytes = 1000;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_INVALID);
	wrong = right;
	wrong.ordinal = 1000;
	start_fails(NULL, &wrong, sizeof wrong, true, KVC_UNSUPPORTED);
}

/* What the core cannot have meant ends the engine, at once and with its own exit status. */
static void malformed(const void *packet, size_t bytes)
{
	struct kvc_engine_rig rig;

	kvc_engine_rig_init(&rig, 1 << 20);
	kvc_engine_rig_run(&rig);
	kvc_engine_rig_send(&rig, packet, bytes, NULL, 0);
	assert_int_equal(kvc_engine_rig_receive(&rig), 0);
	assert_int_equal(kvc_engine_rig_ended(&rig), 2);
	kvc_engine_rig_close(&rig);
}

static void test_malformed(void **state)
{
	static uint64_t big[KVC_GPU_MESSAGE_BYTES / 8 + 1];
	struct kvc_gpu_header header = {.type = 55};
	struct {
		struct kvc_gpu_jobs jobs;
		struct kvc_gpu_job job;
	} jobs = {.jobs = {.header.type = KVC_GPU_JOBS, .op = KVC_ENGINE_ENCODE, .count = 1}};
	struct kvc_gpu_import import = {.header.type = KVC_GPU_IMPORT, .chunks = KVC_GPU_CHUNKS_MAX + 1};
	struct kvc_gpu_pool pool = {.header.type = KVC_GPU_POOL_OPEN, .geometry.layers = 1};

	(void)state;
	malformed(&header, sizeof header);
	malformed(&header, 4);
	header.type = KVC_GPU_START;
	malformed(&header, sizeof header);
	header.type = KVC_GPU_UNIMPORT;
	malformed(&header, sizeof header - 1);
	header.type = KVC_GPU_POOL_CLOSE;
	malformed(&header, sizeof header - 1);
	malformed(&import, sizeof import);
	malformed(&import, sizeof import - 8);
	malformed(&pool, sizeof pool);
	malformed(&pool, 20);
	malformed(&jobs, sizeof jobs.jobs - 4);
	malformed(&jobs, sizeof jobs.jobs);
	jobs.job.page_count = 1;
	malformed(&jobs, sizeof jobs);
	jobs.job.page_count = KVC_GPU_PAGES_MAX + 1;
	malformed(&jobs, sizeof jobs);
	jobs.job.page_count = 0;
	jobs.jobs.count = UINT32_MAX;
	malformed(&jobs, sizeof jobs);
	jobs.jobs.count = 0;
	malformed(&jobs, sizeof jobs.jobs);
	jobs.jobs.count = 1;
	jobs.jobs.op = KVC_ENGINE_VERIFY;
	malformed(&jobs, sizeof jobs);
	big[0] = KVC_GPU_JOBS;
	malformed(big, sizeof big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_ready),           cmocka_unit_test(test_bits),
	        cmocka_unit_test(test_slow_pin),        cmocka_unit_test(test_no_pin),
	        cmocka_unit_test(test_raw_tiles),       cmocka_unit_test(test_all_raw),
	        cmocka_unit_test(test_mixed),           cmocka_unit_test(test_corrupt),
	        cmocka_unit_test(test_other_shape),     cmocka_unit_test(test_bad_pages),
	        cmocka_unit_test(test_bad_places),      cmocka_unit_test(test_small_staging),
	        cmocka_unit_test(test_large_image),     cmocka_unit_test(test_regions),
	        cmocka_unit_test(test_chunks),          cmocka_unit_test(test_pools_refused),
	        cmocka_unit_test(test_many_pools),      cmocka_unit_test(test_gate),
	        cmocka_unit_test(test_merge),           cmocka_unit_test(test_closed_under_way),
	        cmocka_unit_test(test_illegal_address), cmocka_unit_test(test_copy_error),
	        cmocka_unit_test(test_start_fails),     cmocka_unit_test(test_malformed),
	};

	prng.state = prng_seed("test_gpu_engine");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
