/* See kern_trial.h. */
#include "tests/gpu/kern_trial.h"

#include "tests/gpu/gpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 64

struct crew {
	void (*call)(void *context, uint32_t i);
	void *context;
	uint32_t count;
	atomic_uint next;
};

static void *crew_work(void *context)
{
	struct crew *crew = context;
	uint32_t i;

	while ((i = atomic_fetch_add(&crew->next, 1)) < crew->count)
		crew->call(crew->context, i);
	return NULL;
}

void parallel(uint32_t count, void (*call)(void *context, uint32_t i), void *context)
{
	struct crew crew = {.call = call, .context = context, .count = count};
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[THREADS_MAX];
	int started = 0;

	while (started < THREADS_MAX && started < processors - 1 && (uint32_t)started + 1 < count) {
		if (pthread_create(&threads[started], NULL, crew_work, &crew) != 0)
			break;
		started++;
	}
	crew_work(&crew);
	while (started > 0)
		pthread_join(threads[--started], NULL);
}

void trial_make(struct trial *trial, const struct kvc_block_shape *shape, const struct kvc_block_codec *codec,
                uint32_t blocks, const struct pool_wish *wish, struct rng *rng)
{
	memset(trial, 0, sizeof *trial);
	if (kvc_image_plan_init(&trial->plan, shape, codec) != KVC_OK) {
		fprintf(stderr, "no such plan\n");
		exit(2);
	}
	pool_make(&trial->pool, shape, blocks, wish, rng);
	trial->stride = (trial->plan.raw_image_bytes + 4096) / KVC_IMAGE_ALIGN * KVC_IMAGE_ALIGN;
	trial->device_images = gpu_alloc(trial->stride * blocks);
	trial->device_blocks = gpu_alloc(blocks * sizeof *trial->blocks);
	trial->device_results = gpu_alloc(blocks * sizeof *trial->results);
	trial->images = aligned_alloc(KVC_IMAGE_ALIGN, trial->stride * blocks);
	trial->made = aligned_alloc(KVC_IMAGE_ALIGN, trial->stride * blocks);
	trial->lengths = calloc(blocks, sizeof *trial->lengths);
	trial->restored = malloc(trial->pool.block_bytes * blocks);
	trial->blocks = calloc(blocks, sizeof *trial->blocks);
	trial->results = calloc(blocks, sizeof *trial->results);
	for (uint32_t b = 0; b < blocks; b++) {
		trial->blocks[b] = (struct kvc_kern_block){
		        .image = (uint64_t)(uintptr_t)trial->device_images + b * trial->stride,
		        .image_bytes = trial->plan.raw_image_bytes,
		        .ids = (uint64_t)(uintptr_t)trial->pool.device_ids +
		               b * trial->pool.block_pages * wish->id_bytes,
		        .first_token = wish->first_token,
		};
	}
	trial->job = (struct kvc_kern_job){
	        .plan = &trial->plan,
	        .pool = &trial->pool.desc,
	        .blocks = (const struct kvc_kern_block *)trial->device_blocks,
	        .results = (struct kvc_kern_result *)trial->device_results,
	        .count = blocks,
	        .sms = gpu_sms(),
	};
}

void trial_free(struct trial *trial)
{
	pool_free(&trial->pool);
	gpu_free(trial->device_images);
	gpu_free(trial->device_blocks);
	gpu_free(trial->device_results);
	free(trial->images);
	free(trial->made);
	free(trial->lengths);
	free(trial->restored);
	free(trial->blocks);
	free(trial->results);
}

static void reference_block(void *context, uint32_t b)
{
	struct trial *trial = context;
	const struct kvc_codec *codec = kvc_codec_get(KVC_SIMD_SCALAR);
	const struct kvc_image_plan *plan = &trial->plan;
	struct kvc_block_view view = pool_view(&trial->pool, trial->pool.data, b);
	struct kvc_block_view to = pool_view(&trial->pool, trial->restored, b);
	uint8_t *bytes = trial->images + b * trial->stride;
	void *scratch = aligned_alloc(64, (kvc_image_scratch_bytes(plan) + 63) / 64 * 64);
	struct kvc_image image;

	memset(bytes, 0, trial->stride);
	kvc_image_encode_tiles(plan, codec, &view, bytes, 0, plan->tiles, scratch);
	if (kvc_image_seal(plan, &view, bytes, trial->stride, &trial->lengths[b]) != KVC_OK ||
	    kvc_image_open(bytes, trial->lengths[b], 0, &image) != KVC_OK ||
	    kvc_image_decode_tiles(&image, codec, &to, 0, plan->tiles, 0, scratch) != KVC_OK)
		abort();
	free(scratch);
}

void trial_reference(struct trial *trial)
{
	parallel(trial->pool.blocks, reference_block, trial);
}

static void results_get(struct trial *trial)
{
	gpu_wait();
	gpu_get(trial->results, trial->device_results, trial->job.count * sizeof *trial->results);
}

kvc_status trial_encode(struct trial *trial)
{
	kvc_status status;

	gpu_put(trial->device_blocks, trial->blocks, trial->job.count * sizeof *trial->blocks);
	gpu_fill(trial->device_results, 0xEE, trial->job.count * sizeof *trial->results);
	gpu_fill(trial->device_images, 0xEE, trial->stride * trial->pool.blocks);
	status = kvc_kern_encode(&trial->job);
	results_get(trial);
	gpu_get(trial->made, trial->device_images, trial->stride * trial->pool.blocks);
	return status;
}

void trial_images_upload(struct trial *trial)
{
	gpu_put(trial->device_images, trial->images, trial->stride * trial->pool.blocks);
}

kvc_status trial_decode(struct trial *trial)
{
	kvc_status status;

	for (uint32_t b = 0; b < trial->pool.blocks; b++)
		trial->blocks[b].image_bytes = trial->lengths[b];
	gpu_put(trial->device_blocks, trial->blocks, trial->job.count * sizeof *trial->blocks);
	gpu_fill(trial->device_results, 0xEE, trial->job.count * sizeof *trial->results);
	pool_fill(&trial->pool, 0x5A);
	status = kvc_kern_decode(&trial->job);
	results_get(trial);
	pool_download(&trial->pool);
	return status;
}

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t count)
{
	uint64_t i = 0;

	while (i < count && a[i] == b[i])
		i++;
	return i;
}

/* Why the image of a block is not what it should be; NULL if it is. */
static const char *image_fault(struct trial *trial, uint32_t b)
{
	const struct kvc_image_plan *plan = &trial->plan;
	const struct kvc_kern_result *result = &trial->results[b];
	uint8_t *made = trial->made + b * trial->stride;
	const uint8_t *expected = trial->images + b * trial->stride;
	struct kvc_image image;
	uint64_t length = 0;

	if (kvc_image_open(expected, trial->lengths[b], 0, &image) != KVC_OK)
		return "reference";
	if (image.plan.image_bytes != plan->image_bytes)
		return result->errors == KVC_KERN_ALL_RAW ? NULL : "not reported as wholly raw";
	if (result->errors != 0 || result->raw_tiles != image.raw_tiles)
		return "result";
	if (kvc_kern_image_seal(plan, made, trial->stride, &length) != KVC_OK ||
	    length != trial->lengths[b] || length != result->image_bytes)
		return "length";
	if (memcmp(made, expected, length) != 0)
		return "bytes";
	return made[length] == 0xEE ? NULL : "written beyond its end";
}

uint32_t trial_images_differ(struct trial *trial)
{
	uint32_t bad = 0;

	for (uint32_t b = 0; b < trial->pool.blocks; b++) {
		const char *fault = image_fault(trial, b);
		uint64_t at;

		if (fault == NULL)
			continue;
		at = first_difference(trial->made + b * trial->stride, trial->images + b * trial->stride,
		                      trial->lengths[b]);
		printf("  block %u: %s; first difference at %llu of %llu, metadata %u; errors %u, raw tiles "
		       "%u\n",
		       b, fault, (unsigned long long)at, (unsigned long long)trial->lengths[b],
		       trial->plan.meta_bytes, trial->results[b].errors, trial->results[b].raw_tiles);
		bad++;
	}
	return bad;
}

uint32_t trial_pool_differs(struct trial *trial)
{
	struct pool *pool = &trial->pool;
	uint8_t *made = malloc(pool->bytes);
	uint64_t at;

	memcpy(made, pool->host, pool->bytes);
	pool_spread(pool, trial->restored);
	at = first_difference(made, pool->host, pool->bytes);
	if (at < pool->bytes)
		printf("  pool: first difference at %llu of %llu: %02x, not %02x\n", (unsigned long long)at,
		       (unsigned long long)pool->bytes, made[at], pool->host[at]);
	free(made);
	return at < pool->bytes;
}
