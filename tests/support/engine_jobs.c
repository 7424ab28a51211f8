/* See engine_jobs.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/engine_jobs.h"

void kvc_test_orders_init(struct kvc_test_orders *orders, const struct kvc_engine_test_pool *pool)
{
	memset(orders, 0, sizeof *orders);
	orders->rig = pool->rig;
	orders->pool = pool;
}

/* image: offset in the arena, of `bytes`; vram: offset; each or KVC_GPU_NOWHERE. */
void kvc_test_orders_add(struct kvc_test_orders *orders, const struct kvc_engine_test_block *block,
                         uint64_t image, uint64_t bytes, uint64_t vram)
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
void kvc_test_orders_send(const struct kvc_test_orders *orders, enum kvc_engine_op op, uint32_t first,
                          uint32_t count)
{
	static uint8_t packet[KVC_GPU_MESSAGE_BYTES];
	struct kvc_gpu_jobs head = {.header = {.type = KVC_GPU_JOBS, .id = orders->pool->id},
	                            .op = op,
	                            .count = count,
	                            .mark = op == KVC_ENGINE_LOWER ? (struct kvc_mark){0}
	                                                           : orders->pool->mark,
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
bool kvc_test_orders_await(struct kvc_test_orders *orders)
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

void kvc_test_orders_run(struct kvc_test_orders *orders, enum kvc_engine_op op)
{
	kvc_test_orders_send(orders, op, 0, orders->count);
	assert_true(kvc_test_orders_await(orders));
}

void kvc_test_orders_all(const struct kvc_test_orders *orders, kvc_status status)
{
	for (uint32_t i = 0; i < orders->count; i++)
		assert_int_equal(orders->status[i], status);
}

/* One job, its status. */
kvc_status kvc_test_one(const struct kvc_engine_test_pool *pool, enum kvc_engine_op op,
                        const struct kvc_engine_test_block *block, uint64_t image, uint64_t bytes,
                        uint64_t vram, uint64_t *length)
{
	struct kvc_test_orders orders;

	kvc_test_orders_init(&orders, pool);
	kvc_test_orders_add(&orders, block, image, bytes, vram);
	kvc_test_orders_run(&orders, op);
	if (length)
		*length = orders.length[0];
	return orders.status[0];
}

void kvc_test_plan_make(struct kvc_image_plan *plan, const char *preset, uint32_t layers, uint32_t heads,
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

uint64_t kvc_test_slot(const struct kvc_image_plan *plan)
{
	return (plan->raw_image_bytes + 4095) / 4096 * 4096;
}

/* --- the usual fixture: an engine, a small pool, a few blocks --- */

void kvc_test_fixture_open_with(struct kvc_test_fixture *fixture, int marks, struct prng *prng)
{
	struct kvc_image_plan plan;
	uint32_t next = 0;

	kvc_engine_rig_run(&fixture->rig);
	kvc_test_plan_make(&plan, "quality", 2, 2, 64, 64, 40, KVC_DTYPE_BF16);
	kvc_engine_test_pool_make(&fixture->pool, &fixture->rig, &plan, KVC_LAYOUT_SPLIT, 16, 40, 1, prng);
	assert_int_equal(kvc_engine_test_pool_open(&fixture->pool, 1, marks), KVC_OK);
	for (unsigned i = 0; i < 4; i++)
		kvc_engine_test_block_make(&fixture->pool, &next, 3 * i, &fixture->blocks[i]);
	fixture->image = aligned_alloc(64, kvc_test_slot(&plan));
}

void kvc_test_fixture_open(struct kvc_test_fixture *fixture, struct prng *prng)
{
	memset(fixture, 0, sizeof *fixture);
	kvc_engine_rig_init(&fixture->rig, KVC_TEST_ARENA_BYTES);
	kvc_test_fixture_open_with(fixture, -1, prng);
}

void kvc_test_fixture_drop(struct kvc_test_fixture *fixture)
{
	kvc_engine_test_pool_free(&fixture->pool);
	kvc_engine_rig_close(&fixture->rig);
	free(fixture->image);
}

void kvc_test_fixture_close(struct kvc_test_fixture *fixture)
{
	kvc_engine_test_pool_close(&fixture->pool);
	kvc_test_fixture_drop(fixture);
}

/* Block `i` is encoded and restored, as ever. */
void kvc_test_still_serves(struct kvc_test_fixture *fixture, unsigned i)
{
	uint64_t bytes = kvc_engine_test_image(&fixture->pool, &fixture->blocks[i], fixture->image), length;
	uint64_t room = kvc_test_slot(&fixture->pool.plan);

	assert_int_equal(kvc_test_one(&fixture->pool, KVC_ENGINE_ENCODE, &fixture->blocks[i], 0, room,
	                              KVC_GPU_NOWHERE, &length),
	                 KVC_OK);
	assert_int_equal(length, bytes);
	assert_memory_equal(fixture->rig.arena, fixture->image, bytes);
	kvc_engine_test_expect(&fixture->pool, &fixture->blocks[i], fixture->image, bytes);
	assert_int_equal(kvc_test_one(&fixture->pool, KVC_ENGINE_DECODE, &fixture->blocks[i], 0, bytes,
	                              KVC_GPU_NOWHERE, NULL),
	                 KVC_OK);
	assert_true(kvc_engine_test_pool_right(&fixture->pool));
}
