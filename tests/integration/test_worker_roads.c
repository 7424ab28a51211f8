/* libkvcellar-cuda against the real daemon, over a fake GPU: what is put by one road is got by the other, bit
 * for bit, and the images that the daemon holds are the same; a daemon that dies; a pool larger than the
 * daemon's memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/kvcellar_worker.h"
#include "tests/fake/worker_device.h"
#include "tests/support/server.h"
#include "tests/support/worker_pool.h"

enum {
	READY_MS = 30000,
	DEADLINE_MS = 20000,
	KIND_BYTES = WORKER_LAYERS * WORKER_TOKENS * WORKER_HEADS * WORKER_ROW, /* of a full block */
	BLOCK_BYTES = 2 * KIND_BYTES,
};

static struct kvc_server server;
static struct kvc_worker *worker;
static struct prng prng;

/* The first road's namespace and memory are the worker's client's. */
static struct kvc_memory *memory;

/* --- life --- */

static void worker_open(const char *preset)
{
	struct kvc_worker_options options;
	struct kvc_client_options client;
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;
	kvc_status status;

	kvc_client_options_init(&client);
	client.socket_path = server.socket;
	client.deadline_ms = DEADLINE_MS * kvc_server_patience();
	worker_pool_options(&ns, &pool);
	ns.preset = preset;
	kvc_worker_options_init(&options);
	options.client = &client;
	options.ns = &ns;
	options.pool = &pool;
	options.slots = WORKER_BLOCKS;
	status = kvc_worker_create(&options, &worker);
	if (status != KVC_OK)
		fail_msg("%s: %s", kvc_status_name(status), kvc_worker_error());
	assert_int_equal(kvc_memory_create(kvc_worker_client(worker), WORKER_BLOCKS * BLOCK_BYTES, &memory),
	                 KVC_OK);
}

static int setup(void **state)
{
	(void)state;
	fake_gpu = (struct fake_gpu){0};
	worker_pool_fill(&prng);
	if (!kvc_server_init(&server))
		return -1;
	kvc_server_arg(&server, "--ram", "32M");
	kvc_server_arg(&server, "--threads", "2");
	return kvc_server_start(&server) && kvc_server_ready(&server, READY_MS * kvc_server_patience()) ? 0
	                                                                                                : -1;
}

static int teardown(void **state)
{
	(void)state;
	kvc_memory_destroy(memory);
	kvc_worker_destroy(worker);
	kvc_server_kill(&server);
	kvc_server_remove(&server);
	return fake_gpu.objects || fake_gpu.pinned ? -1 : 0;
}

/* --- the first road: elements in shared memory --- */

static uint8_t *flat_row(uint32_t block, uint32_t tensor, uint32_t token, uint32_t head, uint32_t tokens)
{
	uint64_t layer = tensor / 2, row = (layer * tokens + token) * WORKER_HEADS + head;

	return (uint8_t *)kvc_memory_data(memory) + block * BLOCK_BYTES + tensor % 2 * KIND_BYTES +
	       row * WORKER_ROW;
}

static void flat_copy(const struct kvc_block *block, uint32_t number, bool to_pool)
{
	for (uint32_t tensor = 0; tensor < WORKER_TENSORS; tensor++) {
		for (uint32_t i = 0; i < block->tokens * WORKER_HEADS; i++) {
			uint32_t token = i / WORKER_HEADS, head = i % WORKER_HEADS;
			uint8_t *flat = flat_row(number, tensor, token, head, block->tokens);
			uint8_t *row = worker_row(block, tensor, token, head);

			memcpy(to_pool ? row : flat, to_pool ? flat : row, WORKER_ROW);
		}
	}
}

static struct kvc_transfer flat_transfer(struct worker_batch *batch)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, memory);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++) {
		batch->blocks[i].key_offset = i * BLOCK_BYTES;
		batch->blocks[i].value_offset = i * BLOCK_BYTES + KIND_BYTES;
	}
	return transfer;
}

static void shm_put(struct worker_batch *batch)
{
	struct kvc_transfer transfer = flat_transfer(batch);

	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		flat_copy(&batch->blocks[i], i, false);
	assert_int_equal(kvc_put(kvc_worker_namespace(worker), &transfer, batch->blocks, WORKER_BLOCKS, NULL),
	                 KVC_OK);
}

static void shm_get(struct worker_batch *batch)
{
	struct kvc_transfer transfer = flat_transfer(batch);

	memset(kvc_memory_data(memory), 0, kvc_memory_bytes(memory));
	assert_int_equal(kvc_get(kvc_worker_namespace(worker), &transfer, batch->blocks, WORKER_BLOCKS, NULL),
	                 KVC_OK);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		flat_copy(&batch->blocks[i], i, true);
}

/* The image that the daemon holds, to the memory's start. */
static uint64_t image_get(struct worker_batch *batch, uint32_t i)
{
	struct kvc_transfer transfer;
	struct kvc_block *block = &batch->blocks[i];

	kvc_transfer_init(&transfer, memory);
	transfer.form = KVC_FORM_IMAGE;
	block->key_offset = 0;
	block->image_bytes = 2 * BLOCK_BYTES;
	assert_int_equal(kvc_get(kvc_worker_namespace(worker), &transfer, block, 1, NULL), KVC_OK);
	assert_int_equal(block->status, KVC_OK);
	return block->image_bytes;
}

static void all_ok(const struct worker_batch *batch)
{
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		assert_int_equal(batch->blocks[i].status, KVC_OK);
}

static void all_equal(const struct worker_batch *a, const struct worker_batch *b)
{
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		assert_true(worker_blocks_equal(&a->blocks[i], &b->blocks[i]));
}

/* Some raw tiles in block 1, many in block 2, nothing else in block 4. */
static void hard_elements(const struct worker_batch *batch)
{
	worker_row_infinite(&batch->blocks[1], 5, 3, 1);
	for (uint32_t tensor = 0; tensor < 8; tensor++)
		worker_row_infinite(&batch->blocks[2], tensor, 30, 0);
	for (uint32_t i = 0; i < WORKER_TENSORS * WORKER_HEADS; i++)
		worker_row_infinite(&batch->blocks[4], i / WORKER_HEADS, 7, i % WORKER_HEADS);
}

/* --- tests --- */

static void roads_agree(const char *preset)
{
	struct worker_batch mine, first, second;

	worker_open(preset);
	worker_batch_make(&mine, "second", 0);
	hard_elements(&mine);
	assert_int_equal(kvc_worker_put(worker, mine.blocks, WORKER_BLOCKS, KVC_ACK_RAM, NULL, NULL), KVC_OK);
	all_ok(&mine);
	worker_batch_make(&first, "first", 0);
	shm_put(&first);
	all_ok(&first);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++) {
		uint64_t bytes = image_get(&mine, i);
		uint8_t *copy = malloc(bytes);

		assert_non_null(copy);
		memcpy(copy, kvc_memory_data(memory), bytes);
		assert_int_equal(image_get(&first, i), bytes);
		assert_memory_equal(kvc_memory_data(memory), copy, bytes);
		free(copy);
	}
	/* second road's blocks by the first road, and the reverse */
	worker_batch_make(&first, "second", WORKER_PAGES / 2);
	shm_get(&first);
	all_ok(&first);
	worker_batch_make(&second, "first", 0);
	assert_int_equal(kvc_worker_get(worker, second.blocks, WORKER_BLOCKS, NULL, NULL), KVC_OK);
	all_ok(&second);
	all_equal(&first, &second);
}

static void test_roads_agree(void **state)
{
	(void)state;
	roads_agree("quality");
}

static void test_roads_agree_raw(void **state)
{
	(void)state;
	roads_agree("raw");
}

static void test_misses(void **state)
{
	struct worker_batch batch;
	struct kvc_outcome outcome;

	(void)state;
	worker_open("quality");
	worker_batch_make(&batch, "nobody", 0);
	assert_int_equal(kvc_worker_get(worker, batch.blocks, WORKER_BLOCKS, NULL, &outcome), KVC_OK);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++)
		assert_int_equal(batch.blocks[i].status, KVC_MISS);
	assert_int_equal(outcome.blocks_ok, 0);
}

/* Puts go on while earlier blocks are evicted: what comes back is what was put, or a miss. */
static void test_more_than_fits(void **state)
{
	struct worker_batch from, to;
	uint32_t here = 0, gone = 0;
	char name[16];

	(void)state;
	worker_open("raw");
	for (uint32_t round = 0; round < 16; round++) {
		snprintf(name, sizeof name, "r%u", round);
		worker_batch_make(&from, name, 0);
		assert_int_equal(kvc_worker_put(worker, from.blocks, WORKER_BLOCKS, KVC_ACK_RAM, NULL, NULL),
		                 KVC_OK);
		all_ok(&from);
	}
	for (uint32_t round = 0; round < 16; round++) {
		snprintf(name, sizeof name, "r%u", round);
		worker_batch_make(&to, name, WORKER_PAGES / 2);
		assert_int_equal(kvc_worker_get(worker, to.blocks, WORKER_BLOCKS, NULL, NULL), KVC_OK);
		for (uint32_t i = 0; i < WORKER_BLOCKS; i++) {
			kvc_status status = to.blocks[i].status;

			assert_true(status == KVC_OK || status == KVC_MISS);
			assert_true(status != KVC_OK || worker_blocks_equal(&to.blocks[i], &from.blocks[i]));
			here += status == KVC_OK;
			gone += status == KVC_MISS;
		}
	}
	print_message("%u here, %u gone\n", here, gone);
	assert_true(here > 0 && gone > 0);
}

/* Its requests fail at once; when it is back everything works again. */
static void test_daemon_dies(void **state)
{
	struct worker_batch batch;
	kvc_status status;

	(void)state;
	worker_open("quality");
	worker_batch_make(&batch, "key", 0);
	assert_int_equal(kvc_worker_put(worker, batch.blocks, WORKER_BLOCKS, KVC_ACK_RAM, NULL, NULL),
	                 KVC_OK);
	kvc_server_kill(&server);
	status = kvc_worker_get(worker, batch.blocks, WORKER_BLOCKS, NULL, NULL);
	assert_true(status == KVC_DISCONNECTED || status == KVC_UNAVAILABLE);
	assert_int_equal(batch.blocks[3].status, status);
	assert_true(kvc_server_start(&server) && kvc_server_ready(&server, READY_MS * kvc_server_patience()));
	assert_int_equal(kvc_worker_put(worker, batch.blocks, WORKER_BLOCKS, KVC_ACK_RAM, NULL, NULL),
	                 KVC_OK);
	all_ok(&batch);
	assert_int_equal(kvc_worker_get(worker, batch.blocks, WORKER_BLOCKS, NULL, NULL), KVC_OK);
	all_ok(&batch);
}

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

#define ROADS_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROADS_TEST(test_roads_agree),    ROADS_TEST(test_roads_agree_raw), ROADS_TEST(test_misses),
	        ROADS_TEST(test_more_than_fits), ROADS_TEST(test_daemon_dies),
	};

	prng.state = prng_seed("test_worker_roads");
	return cmocka_run_group_tests(tests, pool_make, pool_free);
}
