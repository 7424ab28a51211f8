/* Jobs for an engine process, as the core sends them, and a small world to send them in. Failures are
 * cmocka's.
 */
#ifndef KVC_TEST_ENGINE_JOBS_H
#define KVC_TEST_ENGINE_JOBS_H

#include "daemon/engine/engine.h"
#include "tests/support/engine_pool.h"

#define KVC_TEST_ARENA_BYTES (96ull << 20)
#define KVC_TEST_ORDERS_MAX  32u

/* Jobs, and what came back for them. */
struct kvc_test_orders {
	struct kvc_engine_rig *rig;
	const struct kvc_engine_test_pool *pool;
	uint32_t count;
	struct kvc_gpu_job jobs[KVC_TEST_ORDERS_MAX];
	const struct kvc_engine_test_block *blocks[KVC_TEST_ORDERS_MAX];
	kvc_status status[KVC_TEST_ORDERS_MAX];
	uint64_t length[KVC_TEST_ORDERS_MAX];
};

void kvc_test_orders_init(struct kvc_test_orders *orders, const struct kvc_engine_test_pool *pool);

/* image: offset in the arena, of `bytes`; vram: offset; each or KVC_GPU_NOWHERE. */
void kvc_test_orders_add(struct kvc_test_orders *orders, const struct kvc_engine_test_block *block,
                         uint64_t image, uint64_t bytes, uint64_t vram);

/* One message of the jobs [first, first + count). */
void kvc_test_orders_send(const struct kvc_test_orders *orders, enum kvc_engine_op op, uint32_t first,
                          uint32_t count);

/* Until there is a result for each. False: the pair was closed. */
bool kvc_test_orders_await(struct kvc_test_orders *orders);

/* Send all as one message, await them. */
void kvc_test_orders_run(struct kvc_test_orders *orders, enum kvc_engine_op op);

void kvc_test_orders_all(const struct kvc_test_orders *orders, kvc_status status);

/* One job, its status. `length` may be NULL. */
kvc_status kvc_test_one(const struct kvc_engine_test_pool *pool, enum kvc_engine_op op,
                        const struct kvc_engine_test_block *block, uint64_t image, uint64_t bytes,
                        uint64_t vram, uint64_t *length);

void kvc_test_plan_make(struct kvc_image_plan *plan, const char *preset, uint32_t layers, uint32_t heads,
                        uint32_t key_dim, uint32_t value_dim, uint32_t tokens, enum kvc_dtype dtype);

/* Room for any image of the plan. */
uint64_t kvc_test_slot(const struct kvc_image_plan *plan);

/* An engine, a small pool, a few blocks. */
struct kvc_test_fixture {
	struct kvc_engine_rig rig;
	struct kvc_engine_test_pool pool;
	struct kvc_engine_test_block blocks[4];
	uint8_t *image;
};

void kvc_test_fixture_open(struct kvc_test_fixture *fixture, struct prng *prng);

/* The rig has been initialised, the rest is zero. */
void kvc_test_fixture_open_with(struct kvc_test_fixture *fixture, int marks, struct prng *prng);
void kvc_test_fixture_close(struct kvc_test_fixture *fixture);

/* The same, without closing the pool first. */
void kvc_test_fixture_drop(struct kvc_test_fixture *fixture);

/* Block `i` is encoded and restored, as ever. */
void kvc_test_still_serves(struct kvc_test_fixture *fixture, unsigned i);

#endif
