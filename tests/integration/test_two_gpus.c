/* Two GPUs of one daemon, real programs over a fake driver and fake engines. A worker on each puts and gets
 * the same blocks, which rest in the VRAM of whoever came first, while the engine of one GPU dies or stands
 * still. The other's worker hears nothing of that but misses, and nobody ever gets a wrong byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/fake_cuda.h"
#include "tests/support/prng.h"
#include "tests/support/server.h"
#include "tests/support/temp_dir.h"

enum {
	START_MS = 30000,
	BLOCK_TOKENS = 32,
	PAGE_TOKENS = 8,
	PAGES = 16,
	BLOCK_PAGES = 4,
	KEYS = 48, /* more than VRAM holds */
	KILLS = 4,
	HITS = 100, /* of each worker between two deaths */
};

struct worker {
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_test_pool memory;
	struct kvc_pool *pool;
	struct prng prng;
	int gpu;
	atomic_uint hits;
	unsigned lost;
	atomic_bool failed; /* the thread has ended, and says why: */
	char wrong[200];
};

static struct kvc_server server;
static char device_folder[KVC_TEMP_DIR_BYTES];
static struct worker workers[2];
static uint16_t *expected[KEYS];
static atomic_bool over;

/* ---- set-up -------------------------------------------------------------------------------- */

static int setup(void **state)
{
	(void)state;
	kvc_test_temp_dir(device_folder);
	setenv("KVC_FAKE_CUDA_DEVICES", "2", 1);
	kvc_test_cuda_open(device_folder);
	if (!kvc_server_init(&server))
		return 1;
	kvc_server_fake_gpus(&server, "0,1");
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
	kvc_test_temp_dir_remove(device_folder);
	return ended ? 0 : 1;
}

static void must(kvc_status status, const char *what)
{
	if (status != KVC_OK)
		fail_msg("%s: %s: %s", what, kvc_status_name(status), kvc_last_error());
}

static void worker_open(struct worker *worker, int gpu)
{
	struct kvc_namespace_options ns;
	struct kvc_pool_options pool;

	*worker = (struct worker){
	        .gpu = gpu,
	        .prng = {.state = (uint64_t)gpu + 1},
	        .memory = {.layers = 4, .heads = 2, .dim = 64, .page_tokens = PAGE_TOKENS, .pages = PAGES}};
	must(kvc_server_client(&server, 10000, &worker->client), "client");
	kvc_namespace_options_init(&ns);
	ns.model = "two";
	ns.layers = worker->memory.layers;
	ns.heads = worker->memory.heads;
	ns.key_dim = ns.value_dim = worker->memory.dim;
	ns.element = KVC_ELEMENT_BF16;
	ns.block_tokens = BLOCK_TOKENS;
	must(kvc_namespace_open(worker->client, &ns, START_MS, &worker->ns), "namespace");
	kvc_test_cuda_use(gpu);
	kvc_test_pool_make(&worker->memory, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	pool = kvc_test_pool_options(&worker->memory);
	must(kvc_pool_register(worker->ns, &pool, &worker->pool), "register");
}

static void worker_close(struct worker *worker)
{
	kvc_pool_destroy(worker->pool);
	kvc_namespace_close(worker->ns);
	kvc_client_destroy(worker->client);
	kvc_test_pool_free(&worker->memory);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static size_t block_bytes(const struct worker *worker)
{
	return kvc_test_pool_elements(&worker->memory, BLOCK_TOKENS) * 2;
}

static void content_fill(const struct worker *worker, uint64_t key, uint16_t *flat)
{
	for (size_t i = 0; i < block_bytes(worker) / 2; i++)
		flat[i] = (uint16_t)(0x3C00 + ((i * 2654435761u + key * 40503u) >> 7) % 0x400 +
		                     (i % 2 ? 0x8000 : 0));
}

/* One block, in the pool's first pages. */
static kvc_status block_move(struct worker *worker, bool put, uint64_t key, uint16_t *flat)
{
	static const uint32_t pages[BLOCK_PAGES] = {3, 0, 9, 6};
	struct kvc_block block = {.key = &key,
	                          .key_bytes = sizeof key,
	                          .tokens = BLOCK_TOKENS,
	                          .pages = pages,
	                          .page_count = BLOCK_PAGES};
	struct kvc_transfer transfer;
	kvc_status status;

	kvc_transfer_init(&transfer, NULL);
	transfer.pool = worker->pool;
	kvc_test_pool_copy(&worker->memory, &block, flat, true);
	status = put ? kvc_put(worker->ns, &transfer, &block, 1, NULL)
	             : kvc_get(worker->ns, &transfer, &block, 1, NULL);
	kvc_test_pool_copy(&worker->memory, &block, flat, false);
	return status == KVC_OK ? block.status : status;
}

/* What the codec makes of each block; under keys of their own. */
static void expected_make(struct worker *worker)
{
	for (uint64_t key = 0; key < KEYS; key++) {
		expected[key] = malloc(block_bytes(worker));
		assert_non_null(expected[key]);
		content_fill(worker, key, expected[key]);
		must(block_move(worker, true, key + 1000, expected[key]), "put");
		memset(expected[key], 0xEE, block_bytes(worker));
		must(block_move(worker, false, key + 1000, expected[key]), "get");
	}
}

/* ---- the workers --------------------------------------------------------------------------- */

static void complain(struct worker *worker, const char *what, uint64_t key, kvc_status status)
{
	(void)snprintf(worker->wrong, sizeof worker->wrong, "worker %d: %s of %llu: %s: %s", worker->gpu,
	               what, (unsigned long long)key, kvc_status_name(status), kvc_last_error());
	worker->failed = true;
}

/* Only the worker on GPU 0 may hear that an engine is lost. */
static bool is_right(const struct worker *worker, bool put, kvc_status status)
{
	return status == KVC_OK || (!put && status == KVC_MISS) ||
	       (worker->gpu == 0 && status == KVC_ENGINE_LOST);
}

static void round_run(struct worker *worker, uint16_t *flat)
{
	uint64_t key = prng_below(&worker->prng, KEYS);
	bool put = prng_chance(&worker->prng, 3);
	kvc_status status;

	if (put)
		content_fill(worker, key, flat);
	else
		memset(flat, 0xEE, block_bytes(worker));
	status = block_move(worker, put, key, flat);
	worker->lost += status == KVC_ENGINE_LOST;
	if (!is_right(worker, put, status))
		complain(worker, put ? "put" : "get", key, status);
	if (put || status != KVC_OK)
		return;
	worker->hits++;
	if (memcmp(flat, expected[key], block_bytes(worker)) != 0)
		complain(worker, "wrong bytes", key, status);
}

static void *work(void *data)
{
	struct worker *worker = data;
	uint16_t *flat = malloc(block_bytes(worker));

	kvc_test_cuda_use(worker->gpu);
	while (flat && !over && !worker->failed)
		round_run(worker, flat);
	free(flat);
	return NULL;
}

/* Until both, or the one on GPU 1 alone, have got so many blocks more. */
static void hits_wait(bool both)
{
	unsigned first[2] = {workers[0].hits, workers[1].hits};
	uint64_t until_ms = kvc_server_now_ms() + 120000;

	for (int i = both ? 0 : 1; i < 2; i++) {
		while (workers[i].hits - first[i] < HITS && !workers[i].failed) {
			if (kvc_server_now_ms() >= until_ms)
				fail_msg("worker %d gets nothing any more", i);
			kvc_server_step();
		}
	}
}

/* ---- engines ------------------------------------------------------------------------------- */

/* The parent of a process, and what its command line ends with. */
static bool is_engine_of(const char *pid, const char *gpu)
{
	char path[300], text[4096] = "";
	int parent = 0;
	size_t length;
	FILE *file;

	(void)snprintf(path, sizeof path, "/proc/%s/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (fscanf(file, "%*d (%*[^)]) %*c %d", &parent) != 1)
		parent = 0;
	(void)fclose(file);
	(void)snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
	file = parent == server.pid ? fopen(path, "re") : NULL;
	if (!file)
		return false;
	length = fread(text, 1, sizeof text - 1, file);
	(void)fclose(file);
	return length > 2 && strcmp(text + length - 2, gpu) == 0;
}

/* 0: there is none just now. */
static pid_t engine_pid(const char *gpu)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	pid_t found = 0;

	assert_non_null(folder);
	while (!found && (entry = readdir(folder)))
		if (atoi(entry->d_name) > 0 && is_engine_of(entry->d_name, gpu))
			found = atoi(entry->d_name);
	(void)closedir(folder);
	return found;
}

static void engine_signal(int number)
{
	pid_t pid;

	while (!(pid = engine_pid("0")))
		kvc_server_step();
	assert_int_equal(kill(pid, number), 0);
}

static void test_one_engine_dies_beside_another(void **state)
{
	pthread_t threads[2];

	(void)state;
	for (int i = 0; i < 2; i++)
		worker_open(&workers[i], i);
	expected_make(&workers[1]);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	for (unsigned i = 0; i < KILLS; i++) {
		hits_wait(true);
		engine_signal(SIGKILL);
	}
	hits_wait(true);
	engine_signal(SIGSTOP); /* killed when that has been seen */
	hits_wait(false);
	hits_wait(true);
	over = true;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (int i = 0; i < 2; i++) {
		print_message("GPU %d: %u hits, %u lost\n", i, workers[i].hits, workers[i].lost);
		if (workers[i].failed)
			fail_msg("%s", workers[i].wrong);
	}
	assert_true(kvc_server_stat(workers[1].client, "gpu.0.restarts") > KILLS);
	assert_true(kvc_server_stat(workers[1].client, "gpu.0.hangs") > 0);
	assert_true(kvc_server_stat(workers[1].client, "gpu.1.restarts") == 0);
	assert_true(kvc_server_stat(workers[1].client, "cache.lowered") > 0);
	assert_true(kvc_server_stat(workers[1].client, "vram.used_bytes") <=
	            kvc_server_stat(workers[1].client, "vram.bytes"));
	for (int i = 0; i < 2; i++)
		worker_close(&workers[i]);
	for (unsigned key = 0; key < KEYS; key++)
		free(expected[key]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_one_engine_dies_beside_another, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
