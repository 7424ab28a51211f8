/* The cuda plane of real programs, over a fake driver and a fake engine: this process is the worker. Layouts,
 * lies and deaths of workers are in tests/gpu/e2e, which runs here too; this is what happens around pools:
 * daemons and engines that come back, many chunks, many threads, images, the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fake_cuda.h"
#include "tests/support/server.h"
#include "tests/support/temp_dir.h"

enum { START_MS = 30000, BLOCK_TOKENS = 32, TOKENS = 27, PAGE_TOKENS = 8, PAGES = 64, BLOCK_PAGES = 4 };

static struct kvc_server server;
static char device_folder[KVC_TEMP_DIR_BYTES];

struct worker {
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_test_pool memory;
	struct kvc_pool *pool;
	struct kvc_memory *host;
};

/* ---- set-up -------------------------------------------------------------------------------- */

static int group_setup(void **state)
{
	(void)state;
	kvc_test_temp_dir(device_folder);
	kvc_test_cuda_open(device_folder);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	assert_int_equal(kvc_test_cuda_files(device_folder, "mem-"), 0);
	kvc_test_temp_dir_remove(device_folder);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	if (!kvc_server_init(&server))
		return 1;
	kvc_server_fake_gpus(&server, "0");
	kvc_server_arg(&server, "--ram", "64M");
	return kvc_server_start(&server) && kvc_server_ready(&server, START_MS) ? 0 : 1;
}

static int teardown(void **state)
{
	bool ended = kvc_server_stop(&server, START_MS);

	(void)state;
	if (!ended)
		kvc_server_show_log(&server);
	kvc_server_remove(&server);
	return ended ? 0 : 1;
}

static struct kvc_namespace *open_ns(struct worker *worker)
{
	struct kvc_namespace_options options;
	struct kvc_namespace *ns = NULL;

	kvc_namespace_options_init(&options);
	options.model = "plane";
	options.layers = worker->memory.layers;
	options.heads = worker->memory.heads;
	options.key_dim = options.value_dim = worker->memory.dim;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = BLOCK_TOKENS;
	assert_int_equal(kvc_namespace_open(worker->client, &options, START_MS, &ns), KVC_OK);
	return ns;
}

static void must(kvc_status status, const char *what)
{
	if (status != KVC_OK)
		fail_msg("%s: %s: %s", what, kvc_status_name(status), kvc_last_error());
}

static void worker_register(struct worker *worker)
{
	struct kvc_pool_options options = kvc_test_pool_options(&worker->memory);

	must(kvc_pool_register(worker->ns, &options, &worker->pool), "register");
}

static void worker_open(struct worker *worker, enum kvc_test_arrangement arrangement,
                        enum kvc_test_backing backing)
{
	*worker = (struct worker){
	        .memory = {.layers = 4, .heads = 2, .dim = 64, .page_tokens = PAGE_TOKENS, .pages = PAGES}};
	must(kvc_server_client(&server, 10000, &worker->client), "client");
	kvc_test_pool_make(&worker->memory, arrangement, backing);
	worker->ns = open_ns(worker);
	worker_register(worker);
	must(kvc_memory_create(worker->client, 1 << 20, &worker->host), "memory");
}

static void worker_close(struct worker *worker)
{
	assert_int_equal(kvc_pool_destroy(worker->pool), KVC_OK);
	kvc_memory_destroy(worker->host);
	kvc_namespace_close(worker->ns);
	kvc_client_destroy(worker->client);
	kvc_test_pool_free(&worker->memory);
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* TOKENS tokens from token 3 of the first page: BLOCK_PAGES pages, which differ for each slot below 16. */
struct place {
	uint64_t key;
	uint32_t pages[BLOCK_PAGES];
	struct kvc_block block;
};

static struct kvc_block *place_init(struct place *place, uint64_t key, uint32_t slot)
{
	place->key = key;
	for (uint32_t i = 0; i < BLOCK_PAGES; i++)
		place->pages[i] = (slot * BLOCK_PAGES + i) * 7 % PAGES;
	place->block = (struct kvc_block){
	        .key = &place->key,
	        .key_bytes = sizeof place->key,
	        .tokens = TOKENS,
	        .first_token = 3,
	        .pages = place->pages,
	        .page_count = BLOCK_PAGES,
	};
	return &place->block;
}

static size_t block_bytes(const struct worker *worker)
{
	return kvc_test_pool_elements(&worker->memory, TOKENS) * 2;
}

/* Numbers of middling size, all their own. */
static void content_fill(const struct worker *worker, uint64_t key, uint16_t *flat)
{
	for (size_t i = 0; i < block_bytes(worker) / 2; i++)
		flat[i] = (uint16_t)(0x3C00 + ((i * 2654435761u + key * 40503u) >> 7) % 0x400 +
		                     (i % 2 ? 0x8000 : 0));
}

static kvc_status pool_move(struct worker *worker, bool put, uint64_t key, uint32_t slot)
{
	struct kvc_transfer transfer;
	struct place place;
	kvc_status status;

	kvc_transfer_init(&transfer, NULL);
	transfer.pool = worker->pool;
	place_init(&place, key, slot);
	status = put ? kvc_put(worker->ns, &transfer, &place.block, 1, NULL)
	             : kvc_get(worker->ns, &transfer, &place.block, 1, NULL);
	return status == KVC_OK ? place.block.status : status;
}

static void pool_write(struct worker *worker, uint64_t key, uint32_t slot, uint16_t *flat)
{
	struct place place;

	content_fill(worker, key, flat);
	kvc_test_pool_copy(&worker->memory, place_init(&place, key, slot), flat, true);
}

static void pool_read(struct worker *worker, uint32_t slot, uint16_t *flat)
{
	struct place place;

	kvc_test_pool_copy(&worker->memory, place_init(&place, 0, slot), flat, false);
}

/* What the daemon's CPU codec restores of the same block: into and out of shared memory under another key. */
static void expected_get(struct worker *worker, uint64_t key, uint16_t *flat)
{
	uint64_t other = key + 1000000;
	struct kvc_block block = {
	        .key = &other, .key_bytes = 8, .tokens = TOKENS, .value_offset = block_bytes(worker) / 2};
	struct kvc_transfer transfer;

	content_fill(worker, key, flat);
	memcpy(kvc_memory_data(worker->host), flat, block_bytes(worker));
	kvc_transfer_init(&transfer, worker->host);
	must(kvc_put(worker->ns, &transfer, &block, 1, NULL), "put from host memory");
	must(kvc_get(worker->ns, &transfer, &block, 1, NULL), "get into host memory");
	must(block.status, "get into host memory");
	memcpy(flat, kvc_memory_data(worker->host), block_bytes(worker));
}

static void assert_round_trip(struct worker *worker, uint64_t key, uint32_t slot)
{
	uint16_t *flat = malloc(block_bytes(worker));
	uint16_t *expected = malloc(block_bytes(worker));

	assert_true(flat && expected);
	pool_write(worker, key, slot, flat);
	must(pool_move(worker, true, key, slot), "put");
	pool_write(worker, key + 1, slot, flat); /* something else */
	must(pool_move(worker, false, key, slot), "get");
	pool_read(worker, slot, flat);
	expected_get(worker, key, expected);
	assert_memory_equal(flat, expected, block_bytes(worker));
	free(flat);
	free(expected);
}

static double stat_of(struct worker *worker, const char *name)
{
	return kvc_server_stat(worker->client, name);
}

/* ---- daemons and engines that come back ---------------------------------------------------- */

static pid_t engine_pid(void)
{
	char path[300];
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	assert_non_null(folder);
	while (!found && (entry = readdir(folder))) {
		char name[64] = "";
		int parent = 0;
		FILE *file;

		(void)snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
		file = atoi(entry->d_name) > 0 ? fopen(path, "re") : NULL;
		if (!file)
			continue;
		if (fscanf(file, "%*d (%63[^)]) %*c %d", name, &parent) == 2 && parent == server.pid)
			found = atoi(entry->d_name);
		(void)fclose(file);
	}
	(void)closedir(folder);
	return found;
}

/* The pool is set up again by the next request. */
static void test_daemon_restart(void **state)
{
	struct worker worker;

	(void)state;
	worker_open(&worker, KVC_TEST_KV_FIRST, KVC_TEST_CHUNKS);
	assert_round_trip(&worker, 1, 0);
	for (uint64_t i = 2; i < 5; i++) {
		kvc_status status;

		kvc_server_kill(&server);
		status = pool_move(&worker, false, i, 0);
		assert_true(status == KVC_DISCONNECTED || status == KVC_UNAVAILABLE);
		assert_int_equal(pool_move(&worker, false, i, 0), KVC_UNAVAILABLE);
		assert_true(kvc_server_start(&server) && kvc_server_ready(&server, START_MS));
		assert_round_trip(&worker, i * 10, 0);
	}
	worker_close(&worker);
}

/* Either the engine is back when the request comes, or it says that it may be sent again. */
static kvc_status move_until_answered(struct worker *worker, bool put, uint64_t key, unsigned *lost)
{
	kvc_status status;

	while ((status = pool_move(worker, put, key, 0)) == KVC_ENGINE_LOST)
		++*lost;
	return status;
}

static void test_engine_killed(void **state)
{
	uint16_t *flat;
	struct worker worker;
	unsigned lost = 0;

	(void)state;
	worker_open(&worker, KVC_TEST_FUSED, KVC_TEST_ALLOCATIONS);
	flat = malloc(block_bytes(&worker));
	assert_non_null(flat);
	for (uint64_t i = 1; i <= 5; i++) {
		pid_t pid = engine_pid();

		assert_true(pid > 0);
		assert_int_equal(kill(pid, SIGKILL), 0);
		pool_write(&worker, i, 0, flat);
		must(move_until_answered(&worker, true, i, &lost), "put");
		must(move_until_answered(&worker, false, i, &lost), "get");
		assert_round_trip(&worker, i * 10, 0);
	}
	print_message("%u requests were lost with their engine\n", lost);
	free(flat);
	worker_close(&worker);
}

/* A pool may come and go while there is no engine: an error that may be tried again, nothing left behind. */
static void test_register_without_engine(void **state)
{
	struct kvc_pool_options options;
	struct worker worker;
	unsigned refused = 0;

	(void)state;
	worker_open(&worker, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATION);
	options = kvc_test_pool_options(&worker.memory);
	for (unsigned i = 0; i < 5; i++) {
		struct kvc_pool *other = NULL;
		kvc_status status;

		assert_int_equal(kill(engine_pid(), SIGKILL), 0);
		while ((status = kvc_pool_register(worker.ns, &options, &other)) == KVC_ENGINE_LOST)
			refused++;
		must(status, "register");
		assert_int_equal(kvc_pool_destroy(other), KVC_OK);
	}
	print_message("%u registrations came while there was no engine\n", refused);
	assert_true(stat_of(&worker, "rpc.device_bytes") == (double)(worker.memory.layer_bytes * 4));
	worker_close(&worker);
}

/* ---- regions ------------------------------------------------------------------------------- */

/* When destroy returns, neither daemon nor engine has the memory. */
static void test_destroy(void **state)
{
	struct worker worker;

	(void)state;
	worker_open(&worker, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(stat_of(&worker, "gpu.0.regions") == 4);
		assert_true(stat_of(&worker, "rpc.device_bytes") == (double)(worker.memory.layer_bytes * 4));
		assert_int_equal(kvc_pool_destroy(worker.pool), KVC_OK);
		assert_true(stat_of(&worker, "rpc.device_bytes") == 0);
		assert_true(stat_of(&worker, "gpu.0.regions") == 0);
		assert_true(stat_of(&worker, "gpu.0.pools") == 0);
		worker_register(&worker);
	}
	worker_close(&worker);
}

/* More chunks than go with one frame. */
static void test_many_chunks(void **state)
{
	struct worker worker = {
	        .memory = {.layers = 4, .heads = 2, .dim = 64, .page_tokens = PAGE_TOKENS, .pages = 70000}};

	(void)state;
	must(kvc_server_client(&server, 10000, &worker.client), "client");
	kvc_test_pool_make(&worker.memory, KVC_TEST_HEAD_FIRST, KVC_TEST_CHUNKS); /* 69 chunks a base */
	worker.ns = open_ns(&worker);
	worker_register(&worker);
	must(kvc_memory_create(worker.client, 1 << 20, &worker.host), "memory");
	assert_true(stat_of(&worker, "gpu.0.regions") >= 2);
	assert_round_trip(&worker, 1, 3);
	worker_close(&worker);
}

/* ---- many threads -------------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 40 };

struct shift {
	struct worker *worker;
	uint32_t slot;
};

/* Each with its own pages and keys. */
static void *work(void *data)
{
	struct shift *shift = data;
	size_t bytes = block_bytes(shift->worker);
	uint16_t *flat = malloc(bytes);
	uint16_t *first = malloc(bytes);

	assert_true(flat && first);
	kvc_test_cuda_enter();
	for (uint64_t i = 0; i < ROUNDS; i++) {
		uint64_t key = shift->slot * 1000 + i;

		pool_write(shift->worker, key, shift->slot, flat);
		must(pool_move(shift->worker, true, key, shift->slot), "put");
		must(pool_move(shift->worker, false, key, shift->slot), "get");
		pool_read(shift->worker, shift->slot, first);
		pool_write(shift->worker, key + 1, shift->slot, flat);
		must(pool_move(shift->worker, false, key, shift->slot), "get again");
		pool_read(shift->worker, shift->slot, flat);
		assert_memory_equal(flat, first, bytes);
	}
	free(flat);
	free(first);
	return NULL;
}

static void test_threads(void **state)
{
	struct shift shifts[THREADS];
	pthread_t threads[THREADS];
	struct worker worker;

	(void)state;
	worker_open(&worker, KVC_TEST_PAGE_FIRST, KVC_TEST_CHUNKS);
	for (uint32_t i = 0; i < THREADS; i++) {
		shifts[i] = (struct shift){&worker, i};
		assert_int_equal(pthread_create(&threads[i], NULL, work, &shifts[i]), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	worker_close(&worker);
}

/* ---- images -------------------------------------------------------------------------------- */

/* From the pool to an image in shared memory, and that image under another key into the pool. */
static void test_images(void **state)
{
	uint64_t keys[2] = {7, 8};
	struct kvc_block block = {
	        .key = &keys[0], .key_bytes = 8, .tokens = TOKENS, .image_bytes = 512 << 10};
	struct kvc_transfer transfer;
	struct worker worker;
	uint16_t *flat, *expected;

	(void)state;
	worker_open(&worker, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	flat = malloc(block_bytes(&worker));
	expected = malloc(block_bytes(&worker));
	assert_true(flat && expected);
	pool_write(&worker, 7, 0, flat);
	must(pool_move(&worker, true, 7, 0), "put");
	kvc_transfer_init(&transfer, worker.host);
	transfer.form = KVC_FORM_IMAGE;
	must(kvc_get(worker.ns, &transfer, &block, 1, NULL), "get of an image");
	must(block.status, "get of an image");
	assert_in_range(block.image_bytes, 256, block_bytes(&worker));
	block.key = &keys[1];
	must(kvc_put(worker.ns, &transfer, &block, 1, NULL), "put of an image");
	must(block.status, "put of an image");
	must(pool_move(&worker, false, 8, 1), "get");
	pool_read(&worker, 1, flat);
	expected_get(&worker, 7, expected);
	assert_memory_equal(flat, expected, block_bytes(&worker));
	((uint8_t *)kvc_memory_data(worker.host))[300] ^= 1;
	keys[1] = 9;
	must(kvc_put(worker.ns, &transfer, &block, 1, NULL), "put of a damaged image");
	assert_int_not_equal(block.status, KVC_OK);
	assert_int_equal(pool_move(&worker, false, 9, 1), KVC_MISS);
	free(flat);
	free(expected);
	worker_close(&worker);
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_daemon_restart), ROW(test_engine_killed), ROW(test_register_without_engine),
	        ROW(test_destroy),        ROW(test_many_chunks),   ROW(test_threads),
	        ROW(test_images),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
