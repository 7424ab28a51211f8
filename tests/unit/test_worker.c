/* libkvcellar-cuda over a fake GPU and a fake daemon: rounds of puts and gets, raw tiles, what does not fit,
 * what is damaged, a daemon that does not answer, calls of CUDA that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/kvcellar_worker.h"
#include "kernels/image.h"
#include "tests/fake/fake_store.h"
#include "tests/fake/worker_device.h"
#include "tests/support/prng.h"
#include "tests/support/worker_pool.h"

static struct prng prng;
static struct kvc_worker *worker;

static int pool_make(void **state)
{
	(void)state;
	if (!worker_pool_make())
		return -1;
	for (uint32_t i = 0; i < WORKER_TENSORS; i++)
		fake_gpu_memory_add(worker_tensors[i], WORKER_TENSOR_BYTES);
	return 0;
}

static int pool_free(void **state)
{
	(void)state;
	worker_pool_free();
	return 0;
}

/* --- worker --- */

struct wish {
	const char *preset;
	uint32_t slots;
};

static void options_make(const struct wish *wish, struct kvc_worker_options *options,
                         struct kvc_namespace_options *ns, struct kvc_pool_options *pool)
{
	worker_pool_options(ns, pool);
	ns->preset = wish->preset;
	kvc_worker_options_init(options);
	options->slots = wish->slots;
	options->ns = ns;
	options->pool = pool;
}

static kvc_status open_worker(const struct wish *wish)
{
	struct kvc_worker_options options;
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;

	options_make(wish, &options, &ns, &pool);
	return kvc_worker_create(&options, &worker);
}

static int setup(void **state)
{
	(void)state;
	fake_store_clear();
	fake_gpu = (struct fake_gpu){0};
	worker_pool_fill(&prng);
	worker = NULL;
	return 0;
}

/* Nothing is left. */
static int teardown(void **state)
{
	(void)state;
	kvc_worker_destroy(worker);
	fake_store_clear();
	return fake_gpu.objects || fake_gpu.pinned || fake_store.clients ? -1 : 0;
}

static void all_are(const struct worker_batch *batch, uint32_t count, kvc_status status)
{
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(batch->blocks[i].status, status);
}

static void put_all(struct worker_batch *batch, uint32_t count)
{
	struct kvc_outcome outcome = {0};

	assert_int_equal(kvc_worker_put(worker, batch->blocks, count, KVC_ACK_RAM, NULL, &outcome), KVC_OK);
	all_are(batch, count, KVC_OK);
	assert_int_equal(outcome.blocks_ok, count);
}

static void get_all(struct worker_batch *batch, uint32_t count)
{
	struct kvc_outcome outcome = {0};

	assert_int_equal(kvc_worker_get(worker, batch->blocks, count, NULL, &outcome), KVC_OK);
	all_are(batch, count, KVC_OK);
	assert_int_equal(outcome.blocks_ok, count);
	assert_true(outcome.from_ram >= count);
}

/* --- tests --- */

/* Preset `raw` gives back every bit, wherever the pages are. */
static void test_round_trip(void **state)
{
	struct worker_batch from, to;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"raw", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	put_all(&from, WORKER_BLOCKS);
	get_all(&to, WORKER_BLOCKS);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		assert_true(worker_blocks_equal(&from.blocks[i], &to.blocks[i]));
}

/* What the daemon holds is the codec's own image; blocks of the same length share a launch. */
static void test_images(void **state)
{
	struct worker_batch from, to;
	uint64_t bytes;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	put_all(&from, WORKER_BLOCKS);
	assert_int_equal(fake_gpu.launches, 4);
	assert_non_null(fake_store_image("key-3", &bytes));
	get_all(&to, WORKER_BLOCKS);
	worker_batch_make(&from, "again", WORKER_PAGES / 2);
	put_all(&from, WORKER_BLOCKS);
	get_all(&to, WORKER_BLOCKS);
}

/* In one request: a raw tile that fits beside the others, some that do not, a block of nothing else. */
static void test_raw_tiles(void **state)
{
	struct worker_batch from, to;
	uint64_t plain, some, more, all;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	worker_row_infinite(&from.blocks[1], 5, 3, 1);
	for (uint32_t tensor = 0; tensor < 8; tensor++)
		worker_row_infinite(&from.blocks[2], tensor, 30, 0);
	for (uint32_t i = 0; i < WORKER_TENSORS * WORKER_HEADS; i++) {
		worker_row_infinite(&from.blocks[4], i / WORKER_HEADS, 7, i % WORKER_HEADS);
		worker_row_infinite(&from.blocks[5], i / WORKER_HEADS, 7, i % WORKER_HEADS);
	}
	put_all(&from, WORKER_BLOCKS);
	fake_store_image("key-0", &plain);
	fake_store_image("key-1", &some);
	fake_store_image("key-2", &more);
	fake_store_image("key-4", &all);
	assert_true(plain < some && some < more && more < all);
	get_all(&to, WORKER_BLOCKS);
	assert_true(worker_blocks_equal(&from.blocks[4], &to.blocks[4]));
	assert_true(worker_blocks_equal(&from.blocks[5], &to.blocks[5]));
	assert_false(worker_blocks_equal(&from.blocks[0], &to.blocks[0]));
	assert_memory_equal(worker_row(&from.blocks[1], 5, 3, 1), worker_row(&to.blocks[1], 5, 3, 1),
	                    WORKER_ROW);
	assert_memory_equal(worker_row(&from.blocks[2], 7, 9, 0), worker_row(&to.blocks[2], 7, 9, 0),
	                    WORKER_ROW);
}

static size_t completions(struct kvc_completion *done)
{
	size_t count;

	assert_int_equal(kvc_worker_next(worker, done, 4, 0, &count), KVC_OK);
	return count;
}

/* Nothing waits: each step comes when the device and the daemon are ready. */
static void test_steps(void **state)
{
	struct kvc_completion done[4];
	struct worker_batch from, to;
	int tags[2];

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	worker_row_infinite(&from.blocks[1], 5, 3, 1);
	fake_gpu.hold = fake_store.silent = true;
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 4, KVC_ACK_DISK, NULL, &tags[0]), KVC_OK);
	assert_int_equal(kvc_worker_get_submit(worker, to.blocks, 4, NULL, &tags[1]), KVC_OK);
	assert_int_equal(completions(done), 0);
	assert_int_equal(fake_store.pending, 1); /* the get */
	fake_gpu.hold = false;
	assert_int_equal(completions(done), 0);
	assert_int_equal(fake_store.pending, 2);
	fake_store.silent = false;
	assert_int_equal(completions(done), 2);
	assert_ptr_equal(done[0].tag, &tags[0]);
	assert_ptr_equal(done[1].tag, &tags[1]);
	assert_int_equal(done[0].status, KVC_OK);
	all_are(&from, 4, KVC_OK);
	all_are(&to, 4, KVC_MISS);
	fake_gpu.hold = true;
	assert_int_equal(kvc_worker_get_submit(worker, to.blocks, 4, NULL, &tags[1]), KVC_OK);
	assert_int_equal(completions(done), 0);
	assert_int_equal(fake_store.pending, 0);
	fake_gpu.hold = false;
	assert_int_equal(completions(done), 1);
	all_are(&to, 4, KVC_OK);
}

/* A sync call leaves other completions where they are. */
static void test_sync_among_others(void **state)
{
	struct kvc_completion done[4];
	struct worker_batch from, to;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "other", WORKER_PAGES / 2);
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 4, KVC_ACK_RAM, NULL, &from), KVC_OK);
	put_all(&to, 4);
	assert_int_equal(completions(done), 1);
	assert_ptr_equal(done[0].tag, &from);
	assert_int_equal(completions(done), 0);
}

static uint8_t *swapped;
static uint64_t swapped_bytes;

static uint8_t *swap(uint64_t *bytes)
{
	*bytes = swapped_bytes;
	return swapped;
}

/* Damage in metadata is seen here, in tiles by the kernels; an image of other length is not what was asked.
 */
static void test_damage(void **state)
{
	struct worker_batch from, to;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	put_all(&from, WORKER_BLOCKS);
	fake_store.damage = true;
	assert_int_equal(kvc_worker_get(worker, to.blocks, WORKER_BLOCKS, NULL, NULL), KVC_OK);
	all_are(&to, WORKER_BLOCKS, KVC_CORRUPT);
	fake_store.damage = false;
	fake_gpu.damage = true;
	assert_int_equal(kvc_worker_get(worker, to.blocks, 3, NULL, NULL), KVC_OK);
	all_are(&to, 3, KVC_CORRUPT);
	fake_gpu.damage = false;
	swapped = (uint8_t *)(uintptr_t)fake_store_image("key-3", &swapped_bytes); /* 17 tokens */
	fake_store.swap = swap;
	assert_int_equal(kvc_worker_get(worker, to.blocks, 1, NULL, NULL), KVC_OK);
	all_are(&to, 1, KVC_CORRUPT);
	swapped_bytes = UINT32_MAX;
	swapped = NULL;
	fake_store.swap = NULL;
	get_all(&to, WORKER_BLOCKS);
}

/* Too few slots, and a daemon with too much to do. */
static void test_busy(void **state)
{
	struct kvc_completion done[4];
	struct worker_batch from, to;

	(void)state;
	fake_store.batch = 3;
	assert_int_equal(open_worker(&(struct wish){"quality", 4}), KVC_OK);
	assert_int_equal(kvc_worker_batch(worker), 3);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL), KVC_LIMIT);
	fake_store.silent = true;
	assert_int_equal(kvc_worker_get_submit(worker, to.blocks, 2, NULL, NULL), KVC_OK);
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 3, KVC_ACK_RAM, NULL, NULL), KVC_BUSY);
	fake_store.submit = KVC_BUSY;
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 2, KVC_ACK_RAM, NULL, NULL), KVC_OK);
	assert_int_equal(completions(done), 0);
	fake_store.submit = KVC_OK;
	fake_store.silent = false;
	assert_int_equal(completions(done) + completions(done), 2);
	all_are(&from, 2, KVC_OK);
	fake_store.submit = KVC_BUSY;
	assert_int_equal(kvc_worker_put(worker, from.blocks, 2, KVC_ACK_RAM, NULL, NULL), KVC_BUSY);
	all_are(&from, 2, KVC_BUSY);
}

/* A request that was not answered in time may still touch its slots. They are left alone until a later one
 * has been answered, or get new pages. */
static void test_deadline(void **state)
{
	struct kvc_completion done[4];
	struct worker_batch from, to;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"raw", 4}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	fake_store.answer = KVC_DEADLINE;
	assert_int_equal(kvc_worker_put(worker, from.blocks, 2, KVC_ACK_RAM, NULL, NULL), KVC_DEADLINE);
	all_are(&from, 2, KVC_DEADLINE);
	fake_store.answer = KVC_OK;
	fake_store.silent = true;
	assert_int_equal(kvc_worker_get_submit(worker, to.blocks, 2, NULL, NULL),
	                 KVC_OK); /* the other two slots */
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 1, KVC_ACK_RAM, NULL, NULL), KVC_BUSY);
	fake_store.silent = false;
	assert_int_equal(completions(done), 1);
	put_all(&from, 4); /* all four again */
	assert_int_equal(fake_store.renewals, 0);
	fake_store.answer = KVC_DEADLINE;
	assert_int_equal(kvc_worker_get(worker, to.blocks, 4, NULL, NULL), KVC_DEADLINE);
	fake_store.answer = KVC_OK;
	get_all(&to, 4);
	assert_int_equal(fake_store.renewals, 1);
	assert_true(worker_blocks_equal(&from.blocks[0], &to.blocks[0]));
}

static void test_fenced(void **state)
{
	struct kvc_completion done[4];
	struct worker_batch from;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	fake_gpu.hold = true;
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 1, KVC_ACK_RAM, NULL, NULL), KVC_OK);
	fake_store.fenced = true;
	assert_int_equal(kvc_worker_get(worker, from.blocks + 1, 1, NULL, NULL), KVC_FENCED);
	assert_int_equal(kvc_worker_get_submit(worker, from.blocks + 1, 1, NULL, NULL), KVC_BUSY);
	fake_gpu.hold = false;
	assert_int_equal(completions(done), 1);
	assert_int_equal(done[0].status, KVC_FENCED);
	put_all(&from, WORKER_BLOCKS);
	assert_int_equal(fake_store.renewals, 1);
	assert_int_equal(fake_gpu.pinned, 1);
}

static void test_daemon_gone(void **state)
{
	struct worker_batch from;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", 4}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	fake_store.answer = KVC_DISCONNECTED;
	assert_int_equal(kvc_worker_put(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL), KVC_DISCONNECTED);
	fake_store.answer = KVC_OK;
	fake_store.submit = KVC_UNAVAILABLE;
	assert_int_equal(kvc_worker_put(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL), KVC_UNAVAILABLE);
	fake_store.submit = KVC_OK;
	put_all(&from, 4);
	assert_int_equal(fake_store.renewals, 0);
}

/* --- arguments --- */

static void test_blocks(void **state)
{
	struct worker_batch from;
	struct kvc_block *block = &from.blocks[0];

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", 4}), KVC_OK);
	for (uint32_t i = 0; i < 7; i++) {
		worker_batch_make(&from, "key", 0);
		switch (i) {
		case 0:
			block->tokens = 0;
			break;
		case 1:
			block->tokens = WORKER_TOKENS + 1;
			break;
		case 2:
			block->first_token = WORKER_PAGE_TOKENS;
			break;
		case 3:
			block->page_count = 1;
			break;
		case 4:
			block->pages = NULL;
			break;
		case 5:
			from.pages[0][1] = WORKER_PAGES;
			break;
		default:
			from.pages[0][0] = UINT32_MAX;
		}
		assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 1, KVC_ACK_RAM, NULL, NULL),
		                 i < 2 ? KVC_SHAPE : KVC_INVALID);
		assert_true(strlen(kvc_worker_error()) > 10);
		assert_int_equal(block->status, KVC_INTERNAL);
	}
	assert_int_equal(kvc_worker_get_submit(worker, from.blocks, 0, NULL, NULL), KVC_INVALID);
	worker_batch_make(&from, "key", 0);
	put_all(&from, 4);
}

static void test_options(void **state)
{
	struct kvc_worker_options options;
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;
	uint8_t elsewhere[64];

	(void)state;
	for (uint32_t i = 0; i < 13; i++) {
		static const kvc_status expected[] = {KVC_INVALID, KVC_INVALID, KVC_INVALID, KVC_INVALID,
		                                      KVC_SHAPE,   KVC_SHAPE,   KVC_INVALID, KVC_SHAPE,
		                                      KVC_SHAPE,   KVC_SHAPE,   KVC_SHAPE,   KVC_SHAPE,
		                                      KVC_INVALID};

		options_make(&(struct wish){"quality", 4}, &options, &ns, &pool);
		options.size -= i == 0;
		options.slots = i == 1 ? 0 : i == 2 ? 5000 : 4;
		ns.preset = i == 3 ? "best" : ns.preset;
		pool.layers -= i == 4;
		pool.pages = i == 5 ? 0 : pool.pages;
		worker_bases[1][3] = i == 6 ? elsewhere : worker_bases[1][3];
		pool.pages += i == 7;
		pool.key_strides.page *= i == 8 ? UINT64_MAX / 4 : 1;
		ns.layers = i == 9 ? 0 : ns.layers;
		worker_bases[0][2] = i == 10 ? NULL : worker_bases[0][2];
		pool.page_tokens = i == 11 ? 0 : pool.page_tokens;
		options.priority = i == 12 ? 4 : options.priority;
		assert_int_equal(kvc_worker_create(&options, &worker), expected[i]);
		assert_true(strlen(kvc_worker_error()) > 3);
		assert_int_equal(fake_gpu.objects, 0);
		assert_int_equal(fake_store.clients, 0);
	}
}

/* What is known of a worker's blocks goes with each of its puts. */
static void test_hints(void **state)
{
	struct kvc_worker_options options;
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;
	struct worker_batch from;

	(void)state;
	options_make(&(struct wish){"raw", WORKER_BLOCKS}, &options, &ns, &pool);
	options.ttl_ms = 1234;
	options.priority = KVC_PUT_HIGH;
	options.ephemeral = 1;
	assert_int_equal(kvc_worker_create(&options, &worker), KVC_OK);
	worker_batch_make(&from, "key", 0);
	put_all(&from, WORKER_BLOCKS);
	assert_int_equal(fake_store.last_put.ttl_ms, 1234);
	assert_int_equal(fake_store.last_put.priority, KVC_PUT_HIGH);
	assert_int_equal(fake_store.last_put.ephemeral, 1);
}

/* Codec settings by hand, and layers of their own: the same plan as the daemon's. */
static void test_codings(void **state)
{
	struct kvc_layer_coding layer = {3, {8, 32, 1, 1, 0, 0}, {255, 0, 0, 0, 0, 0}};
	struct kvc_worker_options options;
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;
	struct kvc_image image;
	struct worker_batch from;
	const uint8_t *bytes;
	uint64_t length;

	(void)state;
	options_make(&(struct wish){NULL, 4}, &options, &ns, &pool);
	ns.key_coding = (struct kvc_coding){4, 64, 1, 1, 1, 0};
	ns.value_coding = (struct kvc_coding){3, 32, 0, 0, 1, 0.5f};
	ns.layer_codings = &layer;
	ns.layer_coding_count = 1;
	assert_int_equal(kvc_worker_create(&options, &worker), KVC_OK);
	worker_batch_make(&from, "key", 0);
	put_all(&from, 4);
	bytes = fake_store_image("key-0", &length);
	assert_int_equal(kvc_image_open(bytes, length, 0, &image), KVC_OK);
	assert_int_equal(image.plan.codec.value.bits, 3);
	assert_int_equal(image.plan.codec.override_count, 1);
	assert_int_equal(image.plan.codec.overrides[0].value.bits, KVC_BITS_RAW);
	get_all(&from, 4);
	kvc_worker_destroy(worker);
	worker = NULL;
	ns.key_coding.bits = 256 + 4;
	assert_int_not_equal(kvc_worker_create(&options, &worker), KVC_OK);
	ns.layer_coding_count = 17;
	assert_int_equal(kvc_worker_create(&options, &worker), KVC_LIMIT);
}

/* --- failures --- */

/* Each call of CUDA fails once. Nothing is lost but the request, and nothing is left behind. */
static void test_device_failures(void **state)
{
	struct worker_batch from, to;
	uint32_t failed = 0;

	(void)state;
	for (int n = 1;; n++) {
		fake_gpu.fail_in = n;
		if (open_worker(&(struct wish){"quality", 4}) == KVC_OK)
			break;
		assert_int_equal(fake_gpu.objects, 0);
		assert_int_equal(fake_gpu.pinned, 0);
		failed++;
	}
	assert_true(failed > 8);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	worker_row_infinite(&from.blocks[1], 5, 3, 1);
	for (int n = 1; n < 60; n++) {
		kvc_status status;

		fake_gpu.fail_in = n;
		status = kvc_worker_put(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL);
		failed += status != KVC_OK;
		fake_gpu.fail_in = 0;
		put_all(&from, 4);
		fake_gpu.fail_in = n;
		status = kvc_worker_get(worker, to.blocks, 4, NULL, NULL);
		failed += status != KVC_OK;
		fake_gpu.fail_in = 0;
		get_all(&to, 4);
	}
	print_message("%u calls failed\n", failed);
	assert_true(failed > 20);
}

static void test_device_lost(void **state)
{
	struct worker_batch from;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", 4}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	fake_gpu.lost = true;
	assert_int_equal(kvc_worker_put(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL), KVC_INTERNAL);
	all_are(&from, 4, KVC_INTERNAL);
}

/* Destroyed in the middle of everything. */
static void test_destroy(void **state)
{
	struct worker_batch from, to;

	(void)state;
	assert_int_equal(open_worker(&(struct wish){"quality", WORKER_BLOCKS}), KVC_OK);
	worker_batch_make(&from, "key", 0);
	worker_batch_make(&to, "key", WORKER_PAGES / 2);
	fake_store.silent = true;
	assert_int_equal(kvc_worker_put_submit(worker, from.blocks, 4, KVC_ACK_RAM, NULL, NULL), KVC_OK);
	assert_int_equal(kvc_worker_get_submit(worker, to.blocks, 4, NULL, NULL), KVC_OK);
}

#define WORKER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WORKER_TEST(test_round_trip),      WORKER_TEST(test_hints),
	        WORKER_TEST(test_images),          WORKER_TEST(test_raw_tiles),
	        WORKER_TEST(test_steps),           WORKER_TEST(test_sync_among_others),
	        WORKER_TEST(test_damage),          WORKER_TEST(test_busy),
	        WORKER_TEST(test_deadline),        WORKER_TEST(test_fenced),
	        WORKER_TEST(test_daemon_gone),     WORKER_TEST(test_blocks),
	        WORKER_TEST(test_options),         WORKER_TEST(test_codings),
	        WORKER_TEST(test_device_failures), WORKER_TEST(test_device_lost),
	        WORKER_TEST(test_destroy),
	};

	prng.state = prng_seed("test_worker");
	return cmocka_run_group_tests(tests, pool_make, pool_free);
}
