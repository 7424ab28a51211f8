/* Every arrangement of a paged pool, end to end: what comes back is, bit for bit, what the CPU codec
 * restores.
 *
 * A case puts blocks from a pool on the device and reads them into other pages of it, into shared memory
 * (decoded on the CPU) and as images (equal to the CPU's own); then it puts blocks from shared memory
 * (encoded on the CPU) and reads them on the device. Every byte of the pool is compared, also those around
 * the blocks. The blocks are those of sample.h, strange ones included. All cases run with a VRAM tier and
 * without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gpu/e2e/paged.h"
#include "tests/gpu/e2e/rig.h"

#define BLOCKS 10u /* at most, from the device, and as many from memory */

struct layout_case {
	struct paged_form form;
	uint32_t layers;
	uint32_t heads;
	uint32_t key_dim;
	uint32_t value_dim;
	uint32_t element;
	uint32_t block_tokens;
	const char *preset;
};

#define BF KVC_ELEMENT_BF16
#define FP KVC_ELEMENT_FP16

static const struct layout_case layout_cases[] = {
        {{.name = "2-first", .order = PAGED_TWO_FIRST, .page_tokens = 16}, 3, 4, 128, 128, BF, 64, "quality"},
        {{.name = "2-first fp16", .order = PAGED_TWO_FIRST, .page_tokens = 16},
         3,
         4,
         128,
         128,
         FP,
         64,
         "quality"},
        {{.name = "2-first, page 32", .order = PAGED_TWO_FIRST, .page_tokens = 32},
         2,
         4,
         128,
         128,
         BF,
         64,
         "compact"},
        {{.name = "2-first, page 64", .order = PAGED_TWO_FIRST, .page_tokens = 64},
         2,
         4,
         128,
         128,
         BF,
         64,
         "plain"},
        {{.name = "2-second", .order = PAGED_TWO_SECOND, .page_tokens = 16},
         3,
         4,
         128,
         128,
         BF,
         128,
         "quality"},
        {{.name = "2-second fp16, 64 channels", .order = PAGED_TWO_SECOND, .page_tokens = 32},
         3,
         4,
         64,
         64,
         FP,
         128,
         "quality"},
        {{.name = "heads first", .order = PAGED_HEADS_FIRST, .page_tokens = 16},
         3,
         4,
         128,
         128,
         BF,
         64,
         "quality"},
        {{.name = "heads first, page 64, 256 channels", .order = PAGED_HEADS_FIRST, .page_tokens = 64},
         2,
         2,
         256,
         256,
         BF,
         128,
         "quality"},
        {{.name = "fused", .order = PAGED_FUSED, .page_tokens = 16}, 3, 4, 128, 128, BF, 64, "quality"},
        {{.name = "fused fp16, page 32, k8v4", .order = PAGED_FUSED, .page_tokens = 32},
         3,
         4,
         128,
         128,
         FP,
         64,
         "k8v4"},
        {{.name = "fused, unequal channels", .order = PAGED_FUSED, .page_tokens = 16},
         2,
         3,
         192,
         128,
         BF,
         64,
         "quality"},
        {{.name = "latents", .order = PAGED_KEY_ONLY, .page_tokens = 64}, 4, 1, 576, 0, BF, 64, "quality"},
        {{.name = "latents fp16, page 16", .order = PAGED_KEY_ONLY, .page_tokens = 16},
         4,
         1,
         512,
         0,
         FP,
         64,
         "quality"},
        {{.name = "an allocation a layer", .order = PAGED_TWO_FIRST, .page_tokens = 16, .per_layer = true},
         4,
         4,
         128,
         128,
         BF,
         64,
         "quality"},
        {{.name = "an allocation a layer, fused", .order = PAGED_FUSED, .page_tokens = 32, .per_layer = true},
         4,
         2,
         128,
         128,
         BF,
         64,
         "quality"},
        {{.name = "VMM", .order = PAGED_TWO_FIRST, .page_tokens = 16, .vmm = true},
         4,
         4,
         128,
         128,
         BF,
         128,
         "quality"},
        {{.name = "VMM, an allocation a layer",
          .order = PAGED_TWO_SECOND,
          .page_tokens = 16,
          .vmm = true,
          .per_layer = true},
         3,
         4,
         128,
         128,
         BF,
         128,
         "quality"},
        {{.name = "block within a page", .order = PAGED_TWO_FIRST, .page_tokens = 64},
         2,
         4,
         128,
         128,
         BF,
         16,
         "quality"},
        {{.name = "block from the middle of a page",
          .order = PAGED_TWO_SECOND,
          .page_tokens = 32,
          .first_token = 16},
         2,
         4,
         128,
         128,
         BF,
         64,
         "quality"},
        {{.name = "block from an odd token", .order = PAGED_HEADS_FIRST, .page_tokens = 16, .first_token = 5},
         2,
         4,
         128,
         128,
         BF,
         64,
         "quality"},
        {{.name = "raw", .order = PAGED_TWO_FIRST, .page_tokens = 16}, 2, 2, 128, 128, BF, 64, "raw"},
};

#define CASES (sizeof layout_cases / sizeof layout_cases[0])

static struct rig rig;

struct trial {
	const struct layout_case *what;
	struct kvc_sample_space space;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	struct paged paged;
	uint8_t keys[BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BLOCKS];
	size_t count;
	uint8_t *elements;             /* of one block */
	uint8_t *restored[2 * BLOCKS]; /* by number; made when it is asked for */
	uint64_t step;                 /* from block to block in the memory */
};

/* ---- set up -------------------------------------------------------------------------------- */

static void options_of(const struct layout_case *what, struct kvc_namespace_options *options)
{
	kvc_namespace_options_init(options);
	options->model = what->form.name;
	options->layers = what->layers;
	options->heads = what->heads;
	options->key_dim = what->key_dim;
	options->value_dim = what->value_dim;
	options->element = what->element;
	options->block_tokens = what->block_tokens;
	options->preset = what->preset;
}

static void trial_open(struct trial *trial, const struct layout_case *what)
{
	struct kvc_namespace_options options;
	uint64_t pages = (what->block_tokens + what->form.first_token + what->form.page_tokens - 1) /
	                 what->form.page_tokens;

	memset(trial, 0, sizeof *trial);
	trial->what = what;
	trial->count = rig_rounds(BLOCKS, 4) < BLOCKS ? rig_rounds(BLOCKS, 4) : BLOCKS;
	options_of(what, &options);
	assert_int_equal(kvc_sample_space_init(&trial->space, &options, 7), KVC_OK);
	assert_int_equal(kvc_namespace_open(rig.client, &options, 0, &trial->ns), KVC_OK);
	trial->step = (kvc_sample_bytes_max(&trial->space) + 65535) / 4096 * 4096;
	assert_int_equal(kvc_memory_create(rig.client, trial->count * trial->step, &trial->memory), KVC_OK);
	trial->elements = malloc(trial->step);
	assert_non_null(trial->elements);
	paged_open(&trial->paged, &options, &what->form, pages * trial->count + 5);
	if (paged_register(&trial->paged, trial->ns) != KVC_OK)
		fail_msg("%s: %s", what->form.name, kvc_last_error());
}

static void trial_close(struct trial *trial)
{
	paged_close(&trial->paged);
	kvc_memory_destroy(trial->memory);
	kvc_namespace_close(trial->ns);
	for (size_t i = 0; i < 2 * BLOCKS; i++)
		free(trial->restored[i]);
	free(trial->elements);
}

/* What must come back, by the scalar codec. */
static const uint8_t *restored(struct trial *trial, uint64_t id)
{
	uint8_t **slot = &trial->restored[id];

	if (*slot)
		return *slot;
	*slot = malloc(trial->step);
	assert_non_null(*slot);
	kvc_sample_source(&trial->space, id, *slot);
	assert_true(kvc_sample_restore(&trial->space, id, *slot, *slot));
	return *slot;
}

/* Blocks `first` and on, with pages of their own. */
static void blocks_init(struct trial *trial, uint64_t first)
{
	paged_reset(&trial->paged);
	for (size_t i = 0; i < trial->count; i++) {
		kvc_sample_block(&trial->space, first + i, i * trial->step, trial->keys[i],
		                 &trial->blocks[i]);
		paged_place(&trial->paged, &trial->blocks[i]);
	}
}

/* Other pages than last time. */
static void pages_turn(struct trial *trial)
{
	struct paged *paged = &trial->paged;

	for (uint64_t i = 0; i < paged->pages / 2; i++) {
		uint32_t swap = paged->ids[i];

		paged->ids[i] = paged->ids[paged->pages - 1 - i];
		paged->ids[paged->pages - 1 - i] = swap;
	}
}

static uint8_t *place_of(const struct trial *trial, size_t i)
{
	return (uint8_t *)kvc_memory_data(trial->memory) + i * trial->step;
}

static void expect_ok(const struct trial *trial, kvc_status status, const char *what)
{
	if (status != KVC_OK)
		fail_msg("%s, %s: %s: %s", trial->what->form.name, what, kvc_status_name(status),
		         kvc_last_error());
	for (size_t i = 0; i < trial->count; i++) {
		if (trial->blocks[i].status != KVC_OK)
			fail_msg("%s, %s: block %zu: %s", trial->what->form.name, what, i,
			         kvc_status_name(trial->blocks[i].status));
	}
}

/* ---- roads --------------------------------------------------------------------------------- */

static void device_put(struct trial *trial, uint64_t first)
{
	struct kvc_transfer transfer;

	blocks_init(trial, first);
	for (size_t i = 0; i < trial->count; i++) {
		kvc_sample_source(&trial->space, first + i, trial->elements);
		paged_write(&trial->paged, &trial->blocks[i], trial->elements);
	}
	paged_upload(&trial->paged);
	kvc_transfer_init(&transfer, NULL);
	transfer.pool = trial->paged.pool;
	expect_ok(trial, kvc_put(trial->ns, &transfer, trial->blocks, trial->count, NULL),
	          "put from the device");
	assert_int_equal(paged_differs(&trial->paged), 0);
}

static void device_get(struct trial *trial, uint64_t first)
{
	struct kvc_transfer transfer;

	pages_turn(trial);
	blocks_init(trial, first);
	paged_poison(&trial->paged);
	paged_upload(&trial->paged);
	kvc_transfer_init(&transfer, NULL);
	transfer.pool = trial->paged.pool;
	expect_ok(trial, kvc_get(trial->ns, &transfer, trial->blocks, trial->count, NULL),
	          "get to the device");
	for (size_t i = 0; i < trial->count; i++)
		paged_write(&trial->paged, &trial->blocks[i], restored(trial, first + i));
	assert_int_equal(paged_differs(&trial->paged), 0);
}

static void host_put(struct trial *trial, uint64_t first)
{
	struct kvc_transfer transfer;

	blocks_init(trial, first);
	for (size_t i = 0; i < trial->count; i++)
		kvc_sample_source(&trial->space, first + i, place_of(trial, i));
	kvc_transfer_init(&transfer, trial->memory);
	expect_ok(trial, kvc_put(trial->ns, &transfer, trial->blocks, trial->count, NULL), "put from memory");
}

static void host_get(struct trial *trial, uint64_t first)
{
	struct kvc_transfer transfer;

	blocks_init(trial, first);
	memset(kvc_memory_data(trial->memory), PAGED_POISON, trial->count * trial->step);
	kvc_transfer_init(&transfer, trial->memory);
	expect_ok(trial, kvc_get(trial->ns, &transfer, trial->blocks, trial->count, NULL), "get to memory");
	for (size_t i = 0; i < trial->count; i++)
		assert_memory_equal(place_of(trial, i), restored(trial, first + i),
		                    kvc_sample_bytes(&trial->space, first + i));
}

/* The image that the CPU makes; NULL: no memory. */
static uint8_t *cpu_image(const struct trial *trial, uint64_t id, uint64_t *length)
{
	struct kvc_image_plan plan;
	struct kvc_block_view view = {.key = trial->elements};
	const struct kvc_block_shape shape = {
	        .layers = trial->what->layers,
	        .heads = trial->what->heads,
	        .key_dim = trial->what->key_dim,
	        .value_dim = trial->what->value_dim,
	        .tokens = kvc_sample_tokens(&trial->space, id),
	        .dtype = (enum kvc_dtype)trial->what->element,
	};
	void *scratch;
	uint8_t *image;

	kvc_sample_source(&trial->space, id, trial->elements);
	assert_int_equal(kvc_image_plan_init(&plan, &shape, &trial->space.codec), KVC_OK);
	kvc_block_layout_default(&shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&shape, KVC_KIND_VALUE, &view.value_layout);
	if (shape.value_dim)
		view.value = trial->elements + kvc_sample_key_bytes(&trial->space, id);
	image = aligned_alloc(KVC_IMAGE_ALIGN, (plan.raw_image_bytes + 4095) / 4096 * 4096);
	scratch = aligned_alloc(64, (kvc_image_scratch_bytes(&plan) + 4095) / 4096 * 4096 + 4096);
	assert_non_null(image);
	assert_non_null(scratch);
	kvc_image_encode_tiles(&plan, kvc_codec_get(KVC_SIMD_SCALAR), &view, image, 0, plan.tiles, scratch);
	assert_int_equal(kvc_image_seal(&plan, &view, image, plan.raw_image_bytes, length), KVC_OK);
	free(scratch);
	return image;
}

static void image_get(struct trial *trial, uint64_t first)
{
	struct kvc_transfer transfer;

	blocks_init(trial, first);
	for (size_t i = 0; i < trial->count; i++)
		trial->blocks[i].image_bytes = trial->step;
	kvc_transfer_init(&transfer, trial->memory);
	transfer.form = KVC_FORM_IMAGE;
	expect_ok(trial, kvc_get(trial->ns, &transfer, trial->blocks, trial->count, NULL), "get of images");
	for (size_t i = 0; i < trial->count; i++) {
		uint64_t length = 0;
		uint8_t *image = cpu_image(trial, first + i, &length);

		assert_int_equal(trial->blocks[i].image_bytes, length);
		assert_memory_equal(place_of(trial, i), image, length);
		free(image);
	}
}

static void test_layout(void **state)
{
	struct trial trial;

	trial_open(&trial, *state);
	device_put(&trial, 0);
	device_get(&trial, 0);
	host_get(&trial, 0);
	image_get(&trial, 0);
	device_get(&trial, 0);
	host_put(&trial, trial.count);
	device_get(&trial, trial.count);
	host_get(&trial, trial.count);
	trial_close(&trial);
}

/* ---- with and without a VRAM tier ---------------------------------------------------------- */

static int open_without_vram(void **state)
{
	(void)state;
	return rig_open(&rig, &(struct rig_options){0}) ? 0 : -1;
}

static int open_with_vram(void **state)
{
	(void)state;
	return rig_open(&rig, &(struct rig_options){.vram = "64M"}) ? 0 : -1;
}

static int close_rig(void **state)
{
	(void)state;
	return rig_close(&rig) ? 0 : -1;
}

int main(void)
{
	struct CMUnitTest tests[CASES];
	int failed;

	driver_open(1);
	for (size_t i = 0; i < CASES; i++)
		tests[i] = (struct CMUnitTest){layout_cases[i].form.name, test_layout, NULL, NULL,
		                               (void *)(uintptr_t)&layout_cases[i]};
	failed = _cmocka_run_group_tests("without a VRAM tier", tests, CASES, open_without_vram, close_rig);
	return failed + _cmocka_run_group_tests("with a VRAM tier", tests, CASES, open_with_vram, close_rig);
}
