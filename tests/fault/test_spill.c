/* More data than RAM: everything that does not fit goes to disk and comes back exact, by io_uring and past
 * the page cache.
 *
 * Quick: 256 MiB of blocks stored as they are, through 64 MiB of RAM. KVC_TEST_FULL=1: 1 GiB of blocks in the
 * default coding, which are some 250 MiB of images. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/sample.h"
#include "tests/support/server.h"

#define BATCH    16u
#define READY_MS 30000u
#define LONG_MS  60000u

struct world {
	struct kvc_server server;
	struct kvc_sample_space space;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint64_t blocks;
	uint64_t step; /* bytes of a block */
	uint64_t *sums;
};

/* 1 MiB a block, as of a model of 8 layers. */
static void space_init(struct kvc_sample_space *space, bool full)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "spill";
	options.preset = full ? "quality" : "raw";
	options.layers = 8;
	options.heads = 2;
	options.key_dim = options.value_dim = 128;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 128;
	assert_int_equal(kvc_sample_space_init(space, &options, 5), KVC_OK);
}

static int world_open(void **state)
{
	struct world *w = calloc(1, sizeof *w);
	bool full = getenv("KVC_TEST_FULL") != NULL;

	assert_non_null(w);
	*state = w;
	space_init(&w->space, full);
	w->step = kvc_sample_bytes_max(&w->space);
	w->blocks = (full ? UINT64_C(1) << 30 : UINT64_C(256) << 20) / w->step;
	w->sums = calloc(w->blocks, sizeof *w->sums);
	assert_non_null(w->sums);
	assert_true(kvc_server_init(&w->server));
	kvc_server_arg(&w->server, "--ram", "64M");
	kvc_server_arg(&w->server, "--disk", w->server.disk);
	kvc_server_arg(&w->server, "--disk-size", "2G");
	assert_true(kvc_server_start(&w->server));
	if (!kvc_server_ready(&w->server, READY_MS * kvc_server_patience())) {
		kvc_server_show_log(&w->server);
		fail_msg("the daemon did not start");
	}
	assert_int_equal(kvc_server_client(&w->server, LONG_MS, &w->client), KVC_OK);
	assert_int_equal(kvc_namespace_open(w->client, &w->space.options, 0, &w->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(w->client, BATCH * w->step, &w->memory), KVC_OK);
	return 0;
}

static int world_close(void **state)
{
	struct world *w = *state;

	kvc_client_destroy(w->client);
	assert_true(kvc_server_stop(&w->server, READY_MS * kvc_server_patience()));
	kvc_server_remove(&w->server);
	free(w->sums);
	free(w);
	return 0;
}

static uint8_t *slot(const struct world *w, uint64_t i)
{
	return (uint8_t *)kvc_memory_data(w->memory) + i * w->step;
}

struct batch {
	uint8_t keys[BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BATCH];
	struct kvc_transfer transfer;
	struct kvc_outcome outcome;
};

static void batch_init(struct batch *batch, const struct world *w, uint64_t first)
{
	memset(batch, 0, sizeof *batch);
	for (uint64_t i = 0; i < BATCH; i++)
		kvc_sample_block(&w->space, first + i, i * w->step, batch->keys[i], &batch->blocks[i]);
	kvc_transfer_init(&batch->transfer, w->memory);
}

static void put_batch(struct world *w, uint64_t first)
{
	struct batch batch;

	batch_init(&batch, w, first);
	for (uint64_t i = 0; i < BATCH; i++)
		kvc_sample_source(&w->space, first + i, slot(w, i));
	assert_int_equal(kvc_put(w->ns, &batch.transfer, batch.blocks, BATCH, &batch.outcome), KVC_OK);
	assert_int_equal(batch.outcome.blocks_ok, BATCH);
	for (uint64_t i = 0; i < BATCH; i++) {
		size_t bytes = kvc_sample_bytes(&w->space, first + i);

		assert_true(kvc_sample_restore(&w->space, first + i, slot(w, i), slot(w, i)));
		w->sums[first + i] = kvc_sample_sum_of(slot(w, i), bytes);
	}
}

/* Blocks that came from disk. */
static uint64_t get_batch(struct world *w, uint64_t first)
{
	struct batch batch;

	batch_init(&batch, w, first);
	memset(slot(w, 0), 0x11, BATCH * w->step);
	assert_int_equal(kvc_get(w->ns, &batch.transfer, batch.blocks, BATCH, &batch.outcome), KVC_OK);
	for (uint64_t i = 0; i < BATCH; i++) {
		size_t bytes = kvc_sample_bytes(&w->space, first + i);

		assert_int_equal(batch.blocks[i].status, KVC_OK);
		assert_true(kvc_sample_sum_of(slot(w, i), bytes) == w->sums[first + i]);
	}
	return batch.outcome.from_disk;
}

static void everything_comes_back(void **state)
{
	struct world *w = *state;
	uint64_t from_disk = 0;

	for (uint64_t first = 0; first < w->blocks; first += BATCH)
		put_batch(w, first);
	for (uint64_t first = 0; first < w->blocks; first += BATCH)
		from_disk += get_batch(w, first);
	print_message("# %llu blocks of %llu bytes, %llu of them came from disk\n",
	              (unsigned long long)w->blocks, (unsigned long long)w->step,
	              (unsigned long long)from_disk);
	assert_true(from_disk > w->blocks / 2);
	assert_true(kvc_server_stat(w->client, "ram.used_bytes") <= 64 << 20);
	assert_true(kvc_server_stat(w->client, "cache.lost") == 0);
	assert_true(kvc_server_stat(w->client, "cache.corrupt") == 0);
	assert_true(kvc_server_stat(w->client, "io.errors") == 0);
}

static void by_io_uring(void **state)
{
	struct world *w = *state;

	if (kvc_server_stat(w->client, "io.uring") != 1) {
		print_message("# this kernel refuses io_uring\n");
		skip();
	}
	assert_true(kvc_server_stat(w->client, "io.depth_reached") >= 1);
}

/* Whether the file system takes O_DIRECT at all. */
static bool has_direct(const struct world *w)
{
	char path[256];
	int fd;

	snprintf(path, sizeof path, "%s/probe", w->server.folder);
	fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	unlink(path);
	return fd >= 0;
}

static void past_the_page_cache(void **state)
{
	struct world *w = *state;

	if (!has_direct(w)) {
		print_message("# the file system refuses O_DIRECT\n");
		assert_true(kvc_server_stat(w->client, "io.buffered_files") > 0);
		skip();
	}
	assert_true(kvc_server_stat(w->client, "io.buffered_files") == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(everything_comes_back),
	        cmocka_unit_test(by_io_uring),
	        cmocka_unit_test(past_the_page_cache),
	};

	return cmocka_run_group_tests(tests, world_open, world_close);
}
