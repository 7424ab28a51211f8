/* The CPU engine against the codec called directly: bytes, cancelling, many jobs, damage, no memory. */
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/engine/engine.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"

enum { THREADS = 4, JOBS = 64 };

static struct kvc_loop *loop;
static struct kvc_engine *engine;
static struct prng prng;
static struct kvc_engine_flow *flow; /* of jobs from now on; NULL: none */

/* A block, its right image, and room for another image. */
struct block {
	struct kvc_image_plan plan;
	struct kvc_block_view view;
	uint8_t *raw;
	uint8_t *right;
	uint64_t right_bytes;
	uint8_t *image;
	uint64_t capacity;
	struct kvc_engine_job job;
	bool done;
	uint32_t order; /* it was done after so many others */
};

static uint32_t done_count;

static int setup(void **state)
{
	(void)state;
	return kvc_loop_open(&loop) || kvc_engine_cpu_open(loop, THREADS, KVC_SIMD_AUTO, &engine);
}

static int teardown(void **state)
{
	(void)state;
	kvc_engine_close(engine);
	kvc_loop_close(loop);
	return 0;
}

static void *aligned(uint64_t bytes)
{
	return aligned_alloc(KVC_IMAGE_ALIGN,
	                     (bytes + KVC_IMAGE_ALIGN - 1) / KVC_IMAGE_ALIGN * KVC_IMAGE_ALIGN);
}

static void view_set(struct block *block, uint8_t *raw)
{
	size_t bytes = kvc_block_raw_bytes(&block->plan.shape);

	block->view.key = raw;
	block->view.value = raw + bytes / 2;
	kvc_block_layout_default(&block->plan.shape, KVC_KIND_KEY, &block->view.key_layout);
	kvc_block_layout_default(&block->plan.shape, KVC_KIND_VALUE, &block->view.value_layout);
}

static void image_right(struct block *block)
{
	void *scratch = aligned(kvc_image_scratch_bytes(&block->plan) + 64);

	kvc_image_encode_tiles(&block->plan, kvc_codec_get(KVC_SIMD_SCALAR), &block->view, block->right, 0,
	                       block->plan.tiles, scratch);
	assert_int_equal(kvc_image_seal(&block->plan, &block->view, block->right, block->capacity,
	                                &block->right_bytes),
	                 KVC_OK);
	free(scratch);
}

static void block_open(struct block *block, uint32_t layers, uint32_t tokens, const char *preset)
{
	struct kvc_block_shape shape = {
	        .layers = layers,
	        .heads = 8,
	        .key_dim = 128,
	        .value_dim = 128,
	        .tokens = tokens,
	        .dtype = KVC_DTYPE_FP32,
	};
	struct kvc_block_codec codec;
	size_t bytes;

	memset(block, 0, sizeof *block);
	assert_int_equal(kvc_preset_get(preset, &codec), KVC_OK);
	assert_int_equal(kvc_image_plan_init(&block->plan, &shape, &codec), KVC_OK);
	bytes = kvc_block_raw_bytes(&shape);
	block->raw = malloc(bytes);
	for (size_t i = 0; i < bytes; i += sizeof(float)) {
		float element = prng_normal(&prng);

		memcpy(block->raw + i, &element, sizeof element);
	}
	block->capacity = block->plan.raw_image_bytes;
	block->right = aligned(block->capacity);
	block->image = aligned(block->capacity);
	view_set(block, block->raw);
	image_right(block);
}

static void block_close(struct block *block)
{
	free(block->raw);
	free(block->right);
	free(block->image);
}

static void job_done(struct kvc_engine_job *job)
{
	struct block *block = kvc_container_of(job, struct block, job);

	assert_false(block->done);
	block->done = true;
	block->order = done_count++;
}

static void submit(struct block *block, enum kvc_engine_op op, uint8_t *image, uint64_t bytes)
{
	block->done = false;
	block->job = (struct kvc_engine_job){
	        .op = op,
	        .flow = flow,
	        .plan = op == KVC_ENGINE_VERIFY ? NULL : &block->plan,
	        .view = block->view,
	        .image = image,
	        .image_bytes = bytes,
	        .done = job_done,
	};
	kvc_engine_submit(engine, &block->job);
	assert_false(block->done);
}

static kvc_status finish(struct block *block)
{
	assert_true(kvc_test_run_until_set(loop, &block->done));
	return block->job.status;
}

static kvc_status run(struct block *block, enum kvc_engine_op op, uint8_t *image, uint64_t bytes)
{
	submit(block, op, image, bytes);
	return finish(block);
}

/* The same image as the scalar codec's, byte for byte, and back the same elements. */
static void round_trip(uint32_t layers, uint32_t tokens, const char *preset)
{
	struct block block;
	uint8_t *direct, *back;
	size_t bytes;

	block_open(&block, layers, tokens, preset);
	bytes = kvc_block_raw_bytes(&block.plan.shape);
	direct = malloc(bytes);
	back = malloc(bytes);
	assert_int_equal(run(&block, KVC_ENGINE_ENCODE, block.image, block.capacity), KVC_OK);
	assert_int_equal(block.job.length, block.right_bytes);
	assert_memory_equal(block.image, block.right, block.right_bytes);
	assert_int_equal(run(&block, KVC_ENGINE_VERIFY, block.image, block.right_bytes), KVC_OK);
	view_set(&block, back);
	assert_int_equal(run(&block, KVC_ENGINE_DECODE, block.image, block.right_bytes), KVC_OK);
	view_set(&block, direct);
	{
		void *scratch = aligned(kvc_image_scratch_bytes(&block.plan) + 64);
		struct kvc_image opened;

		assert_int_equal(kvc_image_open(block.right, block.right_bytes, 0, &opened), KVC_OK);
		assert_int_equal(kvc_image_decode_tiles(&opened, kvc_codec_get(KVC_SIMD_SCALAR), &block.view,
		                                        0, opened.plan.tiles, 0, scratch),
		                 KVC_OK);
		free(scratch);
	}
	assert_memory_equal(back, direct, bytes);
	free(direct);
	free(back);
	block_close(&block);
}

static void test_round_trip(void **state)
{
	(void)state;
	for (unsigned i = 0; kvc_preset_name(i); i++) {
		round_trip(1, 16, kvc_preset_name(i));
		round_trip(5, 64, kvc_preset_name(i));
	}
	round_trip(33, 16, "raw"); /* many ranges */
	round_trip(33, 64, kvc_preset_name(0));
}

static void test_many_jobs(void **state)
{
	static struct block blocks[JOBS];

	(void)state;
	for (uint32_t i = 0; i < JOBS; i++)
		block_open(&blocks[i], 1 + i % 9, 1 + i % 40, kvc_preset_name(i % 3));
	for (uint32_t i = 0; i < JOBS; i++)
		submit(&blocks[i], KVC_ENGINE_ENCODE, blocks[i].image, blocks[i].capacity);
	for (uint32_t i = 0; i < JOBS; i++) {
		assert_int_equal(finish(&blocks[i]), KVC_OK);
		assert_memory_equal(blocks[i].image, blocks[i].right, blocks[i].right_bytes);
	}
	for (uint32_t i = 0; i < JOBS; i++)
		submit(&blocks[i], i % 2 ? KVC_ENGINE_VERIFY : KVC_ENGINE_DECODE, blocks[i].image,
		       blocks[i].right_bytes);
	for (uint32_t i = 0; i < JOBS; i++) {
		assert_int_equal(finish(&blocks[i]), KVC_OK);
		block_close(&blocks[i]);
	}
}

/* Work that lasts until the test opens the gate, and tells that it has begun. */
static sem_t begun, gate;

static kvc_status work_at_gate(struct kvc_engine_job *job)
{
	(void)job;
	sem_post(&begun);
	while (sem_wait(&gate)) {
	}
	return KVC_OK;
}

static void submit_work(struct block *block, kvc_status (*work)(struct kvc_engine_job *job))
{
	block->done = false;
	block->job = (struct kvc_engine_job){
	        .op = KVC_ENGINE_WORK,
	        .flow = flow,
	        .shared = true,
	        .work = work,
	        .done = job_done,
	};
	kvc_engine_submit(engine, &block->job);
}

static kvc_status work_nothing(struct kvc_engine_job *job)
{
	(void)job;
	return KVC_OK;
}

static void gate_init(void)
{
	sem_init(&begun, 0, 0);
	sem_init(&gate, 0, 0);
}

static void gate_wait_begun(uint32_t count)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += 60;
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(sem_timedwait(&begun, &end), 0);
}

static void gate_open(uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		sem_post(&gate);
}

static void gate_destroy(void)
{
	sem_destroy(&begun);
	sem_destroy(&gate);
}

/* An only thread is held up until jobs of one flow, and then one of another, are in the queues. In the order
 * of submission that one would be done last; taking turns by range, it is done with one of the others. */
static void test_flows_take_turns(void **state)
{
	enum { COUNT = 16 };
	static struct block blocks[COUNT + 1];
	struct kvc_engine *pool = engine;
	struct kvc_engine_flow flows[2];
	struct block held;

	(void)state;
	assert_int_equal(kvc_engine_cpu_open(loop, 1, KVC_SIMD_AUTO, &engine), KVC_OK);
	gate_init();
	kvc_engine_flow_init(&flows[0]);
	kvc_engine_flow_init(&flows[1]);
	submit_work(&held, work_at_gate);
	gate_wait_begun(1);
	for (uint32_t i = 0; i <= COUNT; i++) {
		block_open(&blocks[i], 1, 256, kvc_preset_name(0));
		flow = &flows[i == COUNT];
		submit(&blocks[i], KVC_ENGINE_ENCODE, blocks[i].image, blocks[i].capacity);
	}
	flow = NULL;
	gate_open(1);
	assert_int_equal(finish(&held), KVC_OK);
	assert_int_equal(finish(&blocks[COUNT]), KVC_OK);
	print_message("it was done after %u of %u others\n", blocks[COUNT].order - held.order - 1,
	              (unsigned)COUNT);
	assert_true(blocks[COUNT].order - held.order - 1 <= 1);
	for (uint32_t i = 0; i <= COUNT; i++) {
		assert_int_equal(finish(&blocks[i]), KVC_OK);
		assert_memory_equal(blocks[i].image, blocks[i].right, blocks[i].right_bytes);
		block_close(&blocks[i]);
	}
	gate_destroy();
	kvc_engine_close(engine);
	engine = pool;
}

/* One flow has more than enough to do, and none of it ends; what another one brings is done all the same. */
static void test_a_thread_is_kept(void **state)
{
	struct kvc_engine_flow flows[2];
	struct block held[2 * THREADS], other;

	(void)state;
	gate_init();
	kvc_engine_flow_init(&flows[0]);
	kvc_engine_flow_init(&flows[1]);
	flow = &flows[0];
	for (uint32_t i = 0; i < 2 * THREADS; i++)
		submit_work(&held[i], work_at_gate);
	gate_wait_begun(THREADS - 1);
	flow = &flows[1];
	submit_work(&other, work_nothing);
	assert_int_equal(finish(&other), KVC_OK);
	assert_int_equal(sem_trywait(&begun), -1);
	gate_open(2 * THREADS);
	for (uint32_t i = 0; i < 2 * THREADS; i++)
		assert_int_equal(finish(&held[i]), KVC_OK);
	flow = NULL;
	gate_destroy();
}

/* Two flows that are busy have all threads between them: as long as each has more to do, which is longer than
 * the rounds last, whoever's turn it is. */
static void test_two_busy_flows_have_all_threads(void **state)
{
	struct kvc_engine_flow flows[2];
	struct block held[JOBS];

	(void)state;
	gate_init();
	kvc_engine_flow_init(&flows[0]);
	kvc_engine_flow_init(&flows[1]);
	for (uint32_t i = 0; i < JOBS; i++) {
		flow = &flows[i % 2];
		submit_work(&held[i], work_at_gate);
	}
	for (unsigned round = 0; round < 3;
	     round++) { /* also those that had been taken by who takes new ones first */
		gate_wait_begun(THREADS);
		gate_open(THREADS);
	}
	gate_open(JOBS - 3 * THREADS);
	for (uint32_t i = 0; i < JOBS; i++)
		assert_int_equal(finish(&held[i]), KVC_OK);
	flow = NULL;
	gate_destroy();
}

/* What the thread that is kept has begun, and may not go on with, another one takes over: nothing else comes
 * that would wake it. */
static void test_kept_thread_hands_over(void **state)
{
	struct kvc_engine *pool = engine;
	struct kvc_engine_flow one;
	struct block held[3];

	(void)state;
	assert_int_equal(kvc_engine_cpu_open(loop, 2, KVC_SIMD_AUTO, &engine), KVC_OK);
	for (unsigned round = 0; round < 20; round++) {
		gate_init();
		kvc_engine_flow_init(&one);
		flow = &one;
		for (uint32_t i = 0; i < 3; i++)
			submit_work(&held[i], work_at_gate);
		gate_wait_begun(1);
		assert_int_equal(sem_trywait(&begun), -1);
		gate_open(3);
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(finish(&held[i]), KVC_OK);
		flow = NULL;
		gate_destroy();
	}
	kvc_engine_close(engine);
	engine = pool;
}

/* A cancelled job ends once, soon, with KVC_CANCELLED or as if nothing had been asked. */
static void test_cancel(void **state)
{
	static struct block blocks[JOBS];
	uint32_t cancelled = 0;

	(void)state;
	for (uint32_t i = 0; i < JOBS; i++)
		block_open(&blocks[i], 8, 16, kvc_preset_name(0));
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < JOBS; i++)
			submit(&blocks[i], round == 2 ? KVC_ENGINE_DECODE : KVC_ENGINE_ENCODE,
			       round == 2 ? blocks[i].right : blocks[i].image,
			       round == 2 ? blocks[i].right_bytes : blocks[i].capacity);
		for (uint32_t i = 0; i < JOBS; i++)
			kvc_engine_cancel(engine, &blocks[JOBS - 1 - i].job);
		for (uint32_t i = 0; i < JOBS; i++) {
			kvc_status status = finish(&blocks[i]);

			assert_true(status == KVC_CANCELLED || status == KVC_OK);
			cancelled += status == KVC_CANCELLED;
			if (status == KVC_OK && round < 2)
				assert_memory_equal(blocks[i].image, blocks[i].right, blocks[i].right_bytes);
		}
	}
	print_message("%u of %u cancelled\n", cancelled, 3 * JOBS);
	assert_true(cancelled > 0);
	for (uint32_t i = 0; i < JOBS; i++)
		block_close(&blocks[i]);
}

/* Any damage to the image, and an image of another shape. */
static void test_damage(void **state)
{
	struct block block, other;

	(void)state;
	block_open(&block, 9, 32, kvc_preset_name(0));
	block_open(&other, 9, 31, kvc_preset_name(0));
	for (uint32_t i = 0; i < 200; i++) {
		uint64_t at = prng_next(&prng) % block.right_bytes;
		kvc_status decoded, verified;

		memcpy(block.image, block.right, block.right_bytes);
		block.image[at] ^= (uint8_t)(1u << prng_below(&prng, 8));
		decoded = run(&block, KVC_ENGINE_DECODE, block.image, block.right_bytes);
		verified = run(&block, KVC_ENGINE_VERIFY, block.image, block.right_bytes);
		/* The padding between tiles and the end of the metadata is nobody's. */
		assert_true(decoded == KVC_CORRUPT || decoded == KVC_OK);
		assert_int_equal(decoded, verified);
		if (at < KVC_IMAGE_HEADER_BYTES)
			assert_int_equal(decoded, KVC_CORRUPT);
	}
	assert_int_equal(run(&other, KVC_ENGINE_DECODE, block.right, block.right_bytes), KVC_CORRUPT);
	assert_int_equal(run(&block, KVC_ENGINE_DECODE, block.right, block.right_bytes - 64), KVC_CORRUPT);
	assert_int_equal(run(&block, KVC_ENGINE_DECODE, block.right, block.right_bytes), KVC_OK);
	block_close(&block);
	block_close(&other);
}

static void test_no_scratch(void **state)
{
	struct block block;

	(void)state;
	block_open(&block, 2, 16, kvc_preset_name(0));
	kvc_alloc_fail_at(1, 1);
	assert_int_equal(run(&block, KVC_ENGINE_ENCODE, block.image, block.capacity), KVC_NO_MEMORY);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(run(&block, KVC_ENGINE_ENCODE, block.image, block.capacity), KVC_OK);
	assert_memory_equal(block.image, block.right, block.right_bytes);
	block_close(&block);
}

/* Tiles that cannot be coded need more room than was planned; the engine says how much. */
static void test_needs_more_room(void **state)
{
	struct block block;
	uint32_t infinite = 0x7F800000;

	(void)state;
	block_open(&block, 4, 64, kvc_preset_name(0));
	memcpy(block.raw, &infinite, sizeof infinite);
	image_right(&block);
	assert_true(block.right_bytes > block.plan.image_bytes);
	assert_int_equal(run(&block, KVC_ENGINE_ENCODE, block.image, block.plan.image_bytes), KVC_NO_SPACE);
	assert_int_equal(block.job.length, block.right_bytes);
	assert_int_equal(run(&block, KVC_ENGINE_ENCODE, block.image, block.right_bytes), KVC_OK);
	assert_memory_equal(block.image, block.right, block.right_bytes);
	block_close(&block);
}

#define ENGINE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ENGINE_TEST(test_round_trip),
	        ENGINE_TEST(test_many_jobs),
	        ENGINE_TEST(test_flows_take_turns),
	        ENGINE_TEST(test_a_thread_is_kept),
	        ENGINE_TEST(test_kept_thread_hands_over),
	        ENGINE_TEST(test_two_busy_flows_have_all_threads),
	        ENGINE_TEST(test_cancel),
	        ENGINE_TEST(test_damage),
	        ENGINE_TEST(test_no_scratch),
	        ENGINE_TEST(test_needs_more_room),
	};

	prng.state = prng_seed("test_engine");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
