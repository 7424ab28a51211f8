/* The kernels against the scalar reference: random and hostile tiles of all parameters, page layouts, forged
 * page ids, damaged images, room for raw tiles, arguments.
 *
 *   test_kern [tiles [seed [keys.bf16 values.bf16 | small]]]
 *
 * `tiles` is how many random tiles to go through, in small batches if asked for. With the two files, those
 * are restored, too, and if they are the whole ones, the digests of docs/codec.md are checked. */
#include "kernels/kern.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/kern_data.h"
#include "tests/gpu/kern_digest.h"
#include "tests/gpu/kern_trial.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t failures;

static void check(bool good, const char *what)
{
	if (good)
		return;
	failures++;
	printf("FAILED %s\n", what);
}

/* --- random trials --- */

static const uint32_t dims[] = {64, 80, 96, 128, 256, 576, 128, 64, 256, 128};

static uint32_t random_tokens(struct rng *rng)
{
	static const uint32_t usual[] = {128, 64, 16, 32, 100, 48};

	switch (rng_below(rng, 4)) {
	case 0:
		return usual[rng_below(rng, 6)];
	case 1:
		return 1 + rng_below(rng, 200);
	default:
		return 1 + rng_below(rng, 24);
	}
}

static struct kvc_codec_params random_params(struct rng *rng)
{
	struct kvc_codec_params params = {
	        .bits = (uint8_t)(2 + rng_below(rng, 7)),
	        .group = (uint16_t)(16u << rng_below(rng, 4)),
	        .centre = rng_below(rng, 2),
	        .rotate = rng_below(rng, 2),
	        .gain = rng_below(rng, 2),
	        .clip = rng_below(rng, 3) ? 0.0f : 0.3f + 0.1f * (float)rng_below(rng, 8),
	};

	if (rng_below(rng, 3) == 0)
		params.bits = (uint8_t)(2u << rng_below(rng, 3));
	if (rng_below(rng, 20) == 0)
		params.bits = KVC_BITS_RAW;
	return params;
}

static struct kvc_block_codec random_codec(struct rng *rng, uint32_t layers)
{
	struct kvc_block_codec codec;
	uint32_t preset = rng_below(rng, 10);

	if (preset < 4 && kvc_preset_get(kvc_preset_name(preset), &codec) == KVC_OK)
		return codec;
	codec = (struct kvc_block_codec){.key = random_params(rng), .value = random_params(rng)};
	if (rng_below(rng, 3) == 0) {
		codec.override_count = 1;
		codec.overrides[0].layer = rng_below(rng, layers);
		codec.overrides[0].key = random_params(rng);
		codec.overrides[0].value = random_params(rng);
	}
	return codec;
}

static struct kvc_block_shape random_shape(struct rng *rng)
{
	struct kvc_block_shape shape = {
	        .layers = 1 + rng_below(rng, 4),
	        .heads = 1 + rng_below(rng, 5),
	        .key_dim = dims[rng_below(rng, 10)],
	        .tokens = random_tokens(rng),
	        .dtype = (enum kvc_dtype)(1 + rng_below(rng, 5) % 3),
	};

	shape.value_dim = rng_below(rng, 3) ? shape.key_dim : dims[rng_below(rng, 10)];
	if (rng_below(rng, 6) == 0)
		shape.value_dim = 0;
	return shape;
}

static struct pool_wish random_wish(struct rng *rng)
{
	struct pool_wish wish = {
	        .layout = (enum pool_layout)rng_below(rng, POOL_LAYOUTS),
	        .page_tokens = rng_below(rng, 4) ? 16u << rng_below(rng, 3) : 1 + rng_below(rng, 70),
	        .id_bytes = rng_below(rng, 2) ? 4 : 8,
	        .spare_pages = rng_below(rng, 5),
	        .shift = rng_below(rng, 6) ? 0 : 4,
	        .order = rng_below(rng, 24),
	        .tables = rng_below(rng, 2),
	        .apart = rng_below(rng, 2),
	};

	wish.first_token = rng_below(rng, 2) ? rng_below(rng, wish.page_tokens) : 0;
	return wish;
}

static void random_data(struct pool *pool, struct rng *rng)
{
	const struct kvc_block_shape *shape = &pool->shape;
	size_t element = kvc_dtype_bytes(shape->dtype);

	for (uint32_t b = 0; b < pool->blocks; b++) {
		uint8_t *row = pool->data + b * pool->block_bytes;
		uint8_t *values = row + pool->key_bytes, *end = row + pool->block_bytes;
		uint32_t kind = data_kind(rng);

		while (row < end) {
			uint32_t dim = row < values ? shape->key_dim : shape->value_dim;

			if (rng_below(rng, 64) == 0)
				kind = data_kind(rng);
			data_row(rng, kind, shape->dtype, dim, row);
			row += dim * element;
		}
	}
}

static void trial_describe(const struct trial *trial)
{
	const struct kvc_block_shape *s = &trial->plan.shape;
	const struct kvc_codec_params *k = &trial->plan.codec.key, *v = &trial->plan.codec.value;

	printf("  layers %u heads %u dims %u %u tokens %u type %d blocks %u; keys %u bits g%u c%d r%d g%d "
	       "clip %g; "
	       "values %u bits g%u c%d r%d g%d clip %g; page %u first %u shift %llu, %u allocations%s\n",
	       s->layers, s->heads, s->key_dim, s->value_dim, s->tokens, s->dtype, trial->pool.blocks,
	       k->bits, k->group, k->centre, k->rotate, k->gain, (double)k->clip, v->bits, v->group,
	       v->centre, v->rotate, v->gain, (double)v->clip, trial->pool.desc.page_tokens,
	       trial->pool.first_token, (unsigned long long)trial->pool.offset[0], trial->pool.part_count,
	       trial->pool.device_layers ? " by table" : "");
}

/* Blocks that the plan cannot hold are restored as they are: their images have another plan. */
static void take_raw_blocks_out(struct trial *trial, struct trial *raw)
{
	uint32_t kept = 0, moved = 0;

	for (uint32_t b = 0; b < trial->pool.blocks; b++) {
		trial->blocks[b].image_bytes = trial->lengths[b];
		if (trial->results[b].errors == KVC_KERN_ALL_RAW)
			raw->blocks[moved++] = trial->blocks[b];
		else
			trial->blocks[kept++] = trial->blocks[b];
	}
	trial->job.count = kept;
	raw->job.count = moved;
}

/* Encode and decode blocks that are wholly raw, over the same pool and images. */
static bool raw_blocks_agree(struct trial *trial, struct trial *raw)
{
	uint8_t *again = malloc(trial->stride);
	bool good = true;

	gpu_put(raw->device_blocks, raw->blocks, raw->job.count * sizeof *raw->blocks);
	good = kvc_kern_encode(&raw->job) == KVC_OK;
	gpu_wait();
	for (uint32_t i = 0; good && i < raw->job.count; i++) {
		uint64_t offset = raw->blocks[i].image - (uint64_t)(uintptr_t)trial->device_images;
		uint64_t length = 0;

		gpu_get(again, trial->device_images + offset, trial->stride);
		good = kvc_kern_image_seal(&raw->plan, again, trial->stride, &length) == KVC_OK &&
		       length == trial->lengths[offset / trial->stride] &&
		       memcmp(again, trial->images + offset, length) == 0;
	}
	free(again);
	return good;
}

static bool results_clean(const struct trial *trial)
{
	for (uint32_t b = 0; b < trial->job.count; b++) {
		if (trial->results[b].errors != 0)
			return false;
	}
	return true;
}

/* Decode what can be under the plan; the rest under the raw plan, first. */
static bool decode_agrees(struct trial *trial)
{
	struct kvc_block_codec codec;
	struct trial raw = *trial;
	bool good = true;

	kvc_preset_get("raw", &codec);
	if (kvc_image_plan_init(&raw.plan, &trial->plan.shape, &codec) != KVC_OK)
		return false;
	raw.job.plan = &raw.plan;
	raw.blocks = calloc(trial->pool.blocks, sizeof *raw.blocks);
	take_raw_blocks_out(trial, &raw);
	if (raw.job.count > 0)
		good = raw_blocks_agree(trial, &raw);
	trial_images_upload(trial);
	pool_fill(&trial->pool, 0x5A);
	if (raw.job.count > 0)
		good &= kvc_kern_decode(&raw.job) == KVC_OK;
	gpu_wait();
	if (trial->job.count > 0) {
		gpu_put(trial->device_blocks, trial->blocks, trial->job.count * sizeof *trial->blocks);
		good &= kvc_kern_decode(&trial->job) == KVC_OK;
		gpu_wait();
		gpu_get(trial->results, trial->device_results, trial->job.count * sizeof *trial->results);
		good &= results_clean(trial);
	}
	pool_download(&trial->pool);
	free(raw.blocks);
	return !trial_pool_differs(trial) && good;
}

/* True if GPU and CPU agree on everything. */
static bool trial_agrees(struct trial *trial)
{
	pool_spread(&trial->pool, trial->pool.data);
	pool_upload(&trial->pool);
	trial_reference(trial);
	if (trial_encode(trial) != KVC_OK)
		return false;
	if (trial_images_differ(trial))
		return false;
	return decode_agrees(trial);
}

static uint64_t random_trial(struct rng *rng, uint32_t tiles)
{
	uint64_t seed = rng->state;
	struct kvc_block_shape shape = random_shape(rng);
	struct kvc_block_codec codec = random_codec(rng, shape.layers);
	struct pool_wish wish = random_wish(rng);
	uint32_t per_block = shape.layers * shape.heads * (shape.value_dim ? 2 : 1);
	uint32_t blocks = 1 + tiles / per_block;
	struct trial trial;
	uint64_t done;

	while (blocks > 1 && blocks * kvc_block_raw_bytes(&shape) > (UINT64_C(48) << 20))
		blocks /= 2;
	trial_make(&trial, &shape, &codec, blocks, &wish, rng);
	trial.job.sms = 1 + rng_below(rng, gpu_sms());
	random_data(&trial.pool, rng);
	if (!trial_agrees(&trial)) {
		printf("  seed of this trial %llu\n", (unsigned long long)seed);
		trial_describe(&trial);
		check(false, "random tiles");
	}
	done = (uint64_t)blocks * trial.plan.tiles;
	trial_free(&trial);
	return done;
}

static void test_random(uint64_t tiles, uint64_t seed, uint32_t batch)
{
	struct rng rng = {seed};
	uint64_t done = 0;
	uint32_t trials = 0;

	while (done < tiles && failures < 10) {
		done += random_trial(&rng, batch);
		trials++;
	}
	printf("random: %llu tiles in %u batches, seed %llu\n", (unsigned long long)done, trials,
	       (unsigned long long)seed);
}

/* --- faults --- */

static bool tables; /* of layers in the trials of faults */

/* A small batch of preset `quality` with some raw tiles if asked for. */
static void fault_trial(struct trial *trial, struct rng *rng, uint32_t dim, uint32_t blocks, bool raw)
{
	struct kvc_block_shape shape = {2, 2, dim, dim, 64, KVC_DTYPE_BF16};
	struct pool_wish wish = {
	        .layout = POOL_PAGED, .page_tokens = 16, .id_bytes = 4, .spare_pages = 3, .tables = tables};
	struct kvc_block_codec codec;
	uint16_t infinite = 0x7F80;

	kvc_preset_get("quality", &codec);
	trial_make(trial, &shape, &codec, blocks, &wish, rng);
	for (uint32_t row = 0; row < trial->pool.block_bytes * blocks / (2 * dim); row++)
		data_row(rng, 0, shape.dtype, dim, trial->pool.data + row * 2 * dim);
	if (raw)
		memcpy(trial->pool.data, &infinite, sizeof infinite);
	pool_spread(&trial->pool, trial->pool.data);
	pool_upload(&trial->pool);
	trial_reference(trial);
}

/* Exactly the blocks of `mask` have `error` in their results, the others none. */
static bool only_these(const struct trial *trial, uint32_t mask, uint32_t error)
{
	for (uint32_t b = 0; b < trial->pool.blocks; b++) {
		if (trial->results[b].errors != (mask >> b & 1 ? error : 0))
			return false;
	}
	return true;
}

static void id_forge(struct trial *trial, uint32_t index, int64_t id)
{
	if (trial->pool.desc.id_bytes == 4)
		gpu_put(trial->pool.device_ids + 4 * index, &(int32_t){(int32_t)id}, 4);
	else
		gpu_put(trial->pool.device_ids + 8 * index, &id, 8);
}

/* Ids just out of range, far out and negative: the block is reported, no other is touched. */
static void test_ids(struct rng *rng, uint32_t dim)
{
	const int64_t forged[] = {-1, INT32_MAX, INT32_MIN, 0};
	struct trial trial;

	for (uint32_t i = 0; i < 4; i++) {
		uint32_t index;

		fault_trial(&trial, rng, dim, 3, false);
		index = trial.pool.block_pages + rng_below(rng, trial.pool.block_pages);
		id_forge(&trial, index, forged[i] ? forged[i] : (int64_t)trial.pool.desc.pages);
		check(trial_encode(&trial) == KVC_OK && only_these(&trial, 2, KVC_KERN_BAD_PAGE),
		      "encode with a forged page id");
		trial_images_upload(&trial);
		check(trial_decode(&trial) == KVC_OK && only_these(&trial, 2, KVC_KERN_BAD_PAGE),
		      "decode with a forged page id");
		for (uint32_t p = 0; p < 16 * 2 * dim; p++)
			check(trial.pool.host[trial.pool.ids[index] *
			                              (int64_t)trial.pool.desc.key.page_stride +
			                      p] == 0x5A,
			      "page of a forged id is left alone");
		trial_free(&trial);
	}
	printf("page ids: dimension %u\n", dim);
}

/* One damaged bit anywhere but in the header, which is the host's, is noticed. */
static void test_damage(struct rng *rng, uint32_t dim)
{
	struct trial trial;

	fault_trial(&trial, rng, dim, 3, true);
	for (uint32_t i = 0; i < 40; i++) {
		uint32_t b = i < 20 ? 0 : 1;
		uint64_t from = i % 4 ? trial.plan.meta_bytes : KVC_IMAGE_HEADER_BYTES;
		uint64_t span = i % 4 ? trial.lengths[b] - from : 8 * trial.plan.tiles;
		uint64_t at = from + (i % 4 ? 0 : 8) + rng_next(rng) % span;
		uint8_t *byte = trial.images + b * trial.stride + at;
		uint8_t bit = (uint8_t)(1u << rng_below(rng, 8));

		*byte ^= bit;
		trial_images_upload(&trial);
		*byte ^= bit;
		check(trial_decode(&trial) == KVC_OK && only_these(&trial, 1u << b, KVC_KERN_CORRUPT),
		      "damaged image is reported");
	}
	trial.images[trial.stride + KVC_IMAGE_HEADER_BYTES] ^= 4; /* raw map of block 1 */
	trial_images_upload(&trial);
	check(trial_decode(&trial) == KVC_OK && only_these(&trial, 2, KVC_KERN_CORRUPT),
	      "forged raw map is reported");
	trial_free(&trial);
	printf("damage: dimension %u\n", dim);
}

/* Room for raw tiles: too little is told, with what would do. */
static void test_room(struct rng *rng, uint32_t dim)
{
	struct trial trial;

	fault_trial(&trial, rng, dim, 3, true);
	trial.blocks[0].image_bytes = trial.lengths[0] - 1;
	check(trial_encode(&trial) == KVC_OK && only_these(&trial, 1, KVC_KERN_NO_SPACE) &&
	              trial.results[0].image_bytes == trial.lengths[0],
	      "raw tiles without room");
	trial.blocks[0].image_bytes = trial.lengths[0];
	trial.blocks[1].image_bytes = trial.plan.image_bytes - 1;
	check(trial_encode(&trial) == KVC_OK && only_these(&trial, 2, KVC_KERN_NO_SPACE),
	      "image without room");
	trial_free(&trial);
	printf("room: dimension %u\n", dim);
}

/* --- arguments --- */

static void test_arguments(struct rng *rng)
{
	struct kvc_kern_pool *desc;
	struct trial trial;

	fault_trial(&trial, rng, 128, 1, false);
	desc = &trial.pool.desc;
	desc->key.bytes -= trial.pool.offset[1]; /* the values of the last page */
	check(trial_encode(&trial) == KVC_OK && only_these(&trial, 0, 0), "keys that end with their region");
	desc->key.bytes--;
	check(kvc_kern_encode(&trial.job) == KVC_SHAPE, "keys beyond their region");
	desc->key.bytes = trial.pool.bytes;
	desc->value.bytes--;
	check(kvc_kern_decode(&trial.job) == KVC_SHAPE, "values beyond their region");
	desc->value.bytes++;
	desc->pages = UINT64_MAX;
	check(kvc_kern_decode(&trial.job) == KVC_SHAPE, "more pages than memory");
	desc->pages = 0;
	check(kvc_kern_decode(&trial.job) == KVC_INVALID, "no page");
	desc->pages = 1;
	desc->value.head_stride++;
	check(kvc_kern_decode(&trial.job) == KVC_SHAPE, "an odd stride");
	desc->value.head_stride--;
	desc->id_bytes = 2;
	check(kvc_kern_encode(&trial.job) == KVC_INVALID, "ids of two bytes");
	desc->id_bytes = 4;
	trial.job.sms = 0;
	check(kvc_kern_encode(&trial.job) == KVC_INVALID, "no multiprocessor");
	gpu_wait();
	trial_free(&trial);
	printf("arguments\n");
}

/* What is asked of a table of layers, and that one of little alignment does. */
static void test_tables(struct rng *rng)
{
	struct kvc_kern_place *keys;
	struct trial trial;

	tables = true;
	fault_trial(&trial, rng, 128, 2, true);
	tables = false;
	keys = &trial.pool.desc.key;
	keys->bytes -= trial.pool.offset[1];
	check(trial_encode(&trial) == KVC_OK && !trial_images_differ(&trial),
	      "keys that end with their layer");
	keys->bytes--;
	check(kvc_kern_encode(&trial.job) == KVC_SHAPE, "keys beyond their layer");
	keys->bytes++;
	keys->layers_align = 2;
	check(trial_encode(&trial) == KVC_OK && !trial_images_differ(&trial), "a table of little alignment");
	for (uint32_t i = 0; i < 3; i++) {
		keys->layers_align = i * 3 / 2; /* 0, 1, 3 */
		check(kvc_kern_decode(&trial.job) == KVC_SHAPE, "layers out of alignment");
	}
	keys->layers_align = 16;
	keys->layers = (const uint64_t *)((uintptr_t)keys->layers + 4);
	check(kvc_kern_decode(&trial.job) == KVC_SHAPE, "a table out of alignment");
	gpu_wait();
	trial_free(&trial);
	printf("tables\n");
}

static void test_faults(struct rng *rng, uint32_t dim)
{
	for (uint32_t i = 0; i < 2; i++) {
		tables = i;
		test_ids(rng, dim);
		test_damage(rng, dim);
		test_room(rng, dim);
	}
	tables = false;
}

int main(int argc, char **argv)
{
	uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : gpu_is_emulated() ? 300 : 1000000;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 20250214;
	bool small = gpu_is_emulated() || argc == 4;
	struct rng rng = {seed};

	printf("device: %s\n", gpu_name());
	check(kvc_kern_load() == KVC_OK, "kernels load");
	test_arguments(&rng);
	test_tables(&rng);
	test_faults(&rng, 128);
	test_faults(&rng, 80);
	test_random(count, seed, small ? 8 : 4000);
	if (argc > 4)
		failures += digests_differ(argv[3], argv[4]);
	printf("%s\n", failures ? "FAILED" : "ok");
	return failures ? 1 : 0;
}
