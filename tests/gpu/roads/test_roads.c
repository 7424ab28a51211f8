/* Both roads on a GPU: what is put by the daemon's engine, by the codec inside the worker, or from shared
 * memory is got by each of them, and is, bit for bit, what the scalar codec restores. Every byte of the pool
 * is compared, also those around the blocks. Blocks are those of sample.h, strange ones included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/kvcellar_worker.h"
#include "tests/gpu/e2e/paged.h"
#include "tests/gpu/e2e/rig.h"

#define BLOCKS 24u
#define SLOTS  16u /* fewer than blocks: in parts */

enum road { ROAD_ENGINE, ROAD_WORKER, ROAD_MEMORY, ROADS };

static const char *const road_names[ROADS] = {"engine", "worker", "memory"};

struct roads_case {
	struct paged_form form;
	uint32_t key_dim;
	uint32_t value_dim;
	const char *preset;
};

static const struct roads_case roads_cases[] = {
        {{.name = "one allocation", .order = PAGED_TWO_FIRST, .page_tokens = 16}, 128, 128, "quality"},
        {{.name = "an allocation a layer", .order = PAGED_TWO_SECOND, .page_tokens = 16, .per_layer = true},
         128,
         128,
         "quality"},
        {{.name = "fused, from an odd token",
          .order = PAGED_FUSED,
          .page_tokens = 32,
          .first_token = 5,
          .per_layer = true},
         64,
         64,
         "compact"},
        {{.name = "keys only", .order = PAGED_KEY_ONLY, .page_tokens = 64}, 576, 0, "quality"},
        {{.name = "VMM, a layer each",
          .order = PAGED_HEADS_FIRST,
          .page_tokens = 16,
          .vmm = true,
          .per_layer = true},
         256,
         256,
         "k8v4"},
        {{.name = "raw", .order = PAGED_TWO_FIRST, .page_tokens = 16}, 128, 128, "raw"},
};

#define CASES (sizeof roads_cases / sizeof roads_cases[0])

static struct rig rig;

struct trial {
	const struct roads_case *what;
	struct kvc_sample_space space;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	struct kvc_worker *worker;
	void *stream;
	struct paged paged;
	uint8_t keys[BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BLOCKS];
	uint8_t *elements;
	uint64_t step; /* from block to block in the memory */
};

/* ---- set up -------------------------------------------------------------------------------- */

static void worker_open(struct trial *trial, const struct kvc_namespace_options *ns)
{
	struct kvc_pool_options pool;
	struct kvc_client_options client;
	struct kvc_worker_options options;

	kvc_client_options_init(&client);
	client.socket_path = rig.server.socket;
	client.deadline_ms = 20000;
	paged_options(&trial->paged, &pool);
	kvc_worker_options_init(&options);
	options.client = &client;
	options.ns = ns;
	options.pool = &pool;
	options.slots = SLOTS;
	if (kvc_worker_create(&options, &trial->worker) != KVC_OK)
		fail_msg("%s: %s", trial->what->form.name, kvc_worker_error());
}

static void trial_open(struct trial *trial, const struct roads_case *what)
{
	struct kvc_namespace_options options;

	memset(trial, 0, sizeof *trial);
	trial->what = what;
	kvc_namespace_options_init(&options);
	options.model = what->form.name;
	options.layers = 4;
	options.heads = 4;
	options.key_dim = what->key_dim;
	options.value_dim = what->value_dim;
	options.element = KVC_ELEMENT_BF16;
	options.preset = what->preset;
	assert_int_equal(kvc_sample_space_init(&trial->space, &options, 11), KVC_OK);
	assert_int_equal(kvc_namespace_open(rig.client, &options, 0, &trial->ns), KVC_OK);
	trial->step = (kvc_sample_bytes_max(&trial->space) + 65535) / 4096 * 4096;
	assert_int_equal(kvc_memory_create(rig.client, BLOCKS * trial->step, &trial->memory), KVC_OK);
	trial->elements = malloc(trial->step);
	assert_non_null(trial->elements);
	paged_open(&trial->paged, &options, &what->form, BLOCKS * (options.block_tokens / 16 + 1) + 5);
	if (paged_register(&trial->paged, trial->ns) != KVC_OK)
		fail_msg("%s: %s", what->form.name, kvc_last_error());
	trial->stream = driver_stream(false);
	worker_open(trial, &options);
}

static void trial_close(struct trial *trial)
{
	kvc_worker_destroy(trial->worker);
	paged_close(&trial->paged);
	kvc_memory_destroy(trial->memory);
	kvc_namespace_close(trial->ns);
	free(trial->elements);
}

/* ---- roads --------------------------------------------------------------------------------- */

static void blocks_init(struct trial *trial, uint64_t first)
{
	paged_reset(&trial->paged);
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_block(&trial->space, first + i, i * trial->step, trial->keys[i],
		                 &trial->blocks[i]);
		paged_place(&trial->paged, &trial->blocks[i]);
	}
}

static uint8_t *place_of(const struct trial *trial, size_t i)
{
	return (uint8_t *)kvc_memory_data(trial->memory) + i * trial->step;
}

static kvc_status by_worker(struct trial *trial, bool put)
{
	kvc_status status = KVC_OK;
	size_t most = kvc_worker_batch(trial->worker);

	for (size_t i = 0; status == KVC_OK && i < BLOCKS; i += most) {
		size_t count = BLOCKS - i < most ? BLOCKS - i : most;

		status = put ? kvc_worker_put(trial->worker, trial->blocks + i, count, KVC_ACK_RAM,
		                              trial->stream, NULL)
		             : kvc_worker_get(trial->worker, trial->blocks + i, count, trial->stream, NULL);
	}
	return status;
}

static void go(struct trial *trial, enum road road, bool put)
{
	struct kvc_transfer transfer;
	kvc_status status;

	kvc_transfer_init(&transfer, road == ROAD_MEMORY ? trial->memory : NULL);
	transfer.pool = road == ROAD_ENGINE ? trial->paged.pool : NULL;
	if (road == ROAD_WORKER)
		status = by_worker(trial, put);
	else if (put)
		status = kvc_put(trial->ns, &transfer, trial->blocks, BLOCKS, NULL);
	else
		status = kvc_get(trial->ns, &transfer, trial->blocks, BLOCKS, NULL);
	if (status != KVC_OK)
		fail_msg("%s, %s by %s: %s: %s", trial->what->form.name, put ? "put" : "get",
		         road_names[road], kvc_status_name(status),
		         road == ROAD_WORKER ? kvc_worker_error() : kvc_last_error());
	for (size_t i = 0; i < BLOCKS; i++) {
		if (trial->blocks[i].status != KVC_OK)
			fail_msg("%s, %s by %s: block %zu: %s", trial->what->form.name, put ? "put" : "get",
			         road_names[road], i, kvc_status_name(trial->blocks[i].status));
	}
}

static void put(struct trial *trial, enum road road, uint64_t first)
{
	blocks_init(trial, first);
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_source(&trial->space, first + i, place_of(trial, i));
		paged_write(&trial->paged, &trial->blocks[i], place_of(trial, i));
	}
	paged_upload(&trial->paged);
	go(trial, road, true);
	assert_int_equal(paged_differs(&trial->paged), 0);
}

static void get(struct trial *trial, enum road road, uint64_t first)
{
	blocks_init(trial, first);
	paged_poison(&trial->paged);
	paged_upload(&trial->paged);
	memset(kvc_memory_data(trial->memory), PAGED_POISON, BLOCKS * trial->step);
	go(trial, road, false);
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_source(&trial->space, first + i, trial->elements);
		assert_true(kvc_sample_restore(&trial->space, first + i, trial->elements, trial->elements));
		if (road == ROAD_MEMORY)
			assert_memory_equal(place_of(trial, i), trial->elements,
			                    kvc_sample_bytes(&trial->space, first + i));
		else
			paged_write(&trial->paged, &trial->blocks[i], trial->elements);
	}
	assert_int_equal(paged_differs(&trial->paged), 0);
}

static void test_roads(void **state)
{
	struct trial trial;

	(void)state;
	for (size_t c = 0; c < CASES; c++) {
		trial_open(&trial, &roads_cases[c]);
		for (enum road from = 0; from < ROADS; from++) {
			put(&trial, from, from * 100);
			for (enum road to = 0; to < ROADS; to++)
				get(&trial, to, from * 100);
		}
		trial_close(&trial);
		print_message("%s\n", roads_cases[c].form.name);
	}
}

/* Errors are the worker's own: its CUDA goes on, and so does the library. */
static void test_refused(void **state)
{
	struct trial trial;
	uint32_t page;

	(void)state;
	trial_open(&trial, &roads_cases[1]);
	blocks_init(&trial, 1000);
	page = (uint32_t)trial.paged.pages;
	trial.blocks[0].pages = &page;
	assert_int_equal(kvc_worker_put(trial.worker, trial.blocks, 1, KVC_ACK_RAM, trial.stream, NULL),
	                 KVC_INVALID);
	put(&trial, ROAD_WORKER, 1000);
	get(&trial, ROAD_WORKER, 1000);
	trial_close(&trial);
}

static int group_open(void **state)
{
	(void)state;
	driver_open(1);
	return rig_open(&rig, &(struct rig_options){.vram = "64M"}) ? 0 : -1;
}

static int group_close(void **state)
{
	(void)state;
	return rig_close(&rig) ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_roads), cmocka_unit_test(test_refused)};

	return cmocka_run_group_tests(tests, group_open, group_close);
}
