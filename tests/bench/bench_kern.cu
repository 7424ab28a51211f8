/* Throughput of the kernels: GB/s of source elements, and the share of the same run's device copy by bytes really
 * moved (source plus image), for 132, 32, 16 and 8 multiprocessors.
 *
 *   bench_kern [preset [blocks [once]]]
 *
 * Blocks of 32 layers, 8 heads, dimension 128, 128 tokens, bf16, on 16-token pages in random order, of a pool of
 * [layer][K or V][page][token][head][channel]. With `once`, each kernel runs once on all multiprocessors: for a
 * profiler. */
#include "kernels/kern_launch.cuh"
#include "tests/gpu/gpu.h"

#include <algorithm>
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define LAYERS      32u
#define HEADS       8u
#define DIM         128u
#define TOKENS      128u
#define PAGE_TOKENS 16u
#define REPEATS     11u

struct bench {
	struct kvc_image_plan plan;
	struct kvc_kern_pool pool;
	struct kvc_kern_job job;
	uint32_t blocks;
	uint64_t stride; /* of images */
	uint8_t *memory;
	uint8_t *images;
	uint8_t *ids;
};

static uint64_t rng_state = 88172645463325252u;

static uint32_t rng_next(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return (uint32_t)(rng_state >> 32);
}

/* Roughly Gaussian bf16. */
static uint16_t random_element(void)
{
	uint32_t r = rng_next();
	float x = (float)((r & 0xFF) + (r >> 8 & 0xFF) + (r >> 16 & 0xFF) + (r >> 24)) / 128.0f - 3.98f;
	uint32_t bits;

	memcpy(&bits, &x, sizeof bits);
	return (uint16_t)(bits >> 16);
}

/* Random data all over the pool, repeated after 64 MiB. */
static void memory_fill(uint8_t *memory, uint64_t bytes)
{
	uint64_t part = std::min<uint64_t>(bytes, UINT64_C(64) << 20);
	std::vector<uint16_t> data(part / 2);

	for (auto &x : data)
		x = random_element();
	for (uint64_t at = 0; at < bytes; at += part)
		gpu_put(memory + at, data.data(), std::min(part, bytes - at));
}

static uint8_t *ids_make(uint32_t pages)
{
	std::vector<int32_t> ids(pages);
	uint8_t *device = (uint8_t *)gpu_alloc(pages * sizeof ids[0]);

	for (uint32_t i = 0; i < pages; i++)
		ids[i] = (int32_t)i;
	for (uint32_t i = 0; i < pages; i++)
		std::swap(ids[i], ids[i + rng_next() % (pages - i)]);
	gpu_put(device, ids.data(), pages * sizeof ids[0]);
	return device;
}

static void blocks_make(struct bench *bench)
{
	std::vector<struct kvc_kern_block> blocks(bench->blocks);

	bench->stride = (bench->plan.raw_image_bytes + 4095) / 4096 * 4096;
	bench->images = (uint8_t *)gpu_alloc(bench->stride * bench->blocks);
	for (uint32_t b = 0; b < bench->blocks; b++) {
		blocks[b] = {};
		blocks[b].image = (uint64_t)(uintptr_t)bench->images + b * bench->stride;
		blocks[b].image_bytes = bench->plan.raw_image_bytes;
		blocks[b].ids = (uint64_t)(uintptr_t)bench->ids + b * (TOKENS / PAGE_TOKENS) * 4;
	}
	bench->job.blocks = (struct kvc_kern_block *)gpu_alloc(bench->blocks * sizeof blocks[0]);
	bench->job.results = (struct kvc_kern_result *)gpu_alloc(bench->blocks * sizeof(struct kvc_kern_result));
	gpu_put((void *)bench->job.blocks, blocks.data(), bench->blocks * sizeof blocks[0]);
}

static void place_make(struct kvc_kern_place *place, uint8_t *base, uint64_t bytes, uint64_t pages, uint32_t kinds)
{
	uint64_t row = DIM * 2;

	place->base = base;
	place->bytes = bytes;
	place->head_stride = row;
	place->token_stride = row * HEADS;
	place->page_stride = row * HEADS * PAGE_TOKENS;
	place->layer_stride = place->page_stride * pages * kinds;
}

/* Keys, values or, with value_dim, both; `codec` as for that. */
static void bench_make(struct bench *bench, const struct kvc_block_codec *codec, uint32_t blocks, uint32_t value_dim)
{
	struct kvc_block_shape shape = {LAYERS, HEADS, DIM, value_dim, TOKENS, KVC_DTYPE_BF16};
	uint32_t kinds = value_dim ? 2 : 1;
	uint64_t pages = (uint64_t)blocks * (TOKENS / PAGE_TOKENS);
	uint64_t part = pages * PAGE_TOKENS * HEADS * DIM * 2;
	uint64_t bytes = part * LAYERS * kinds;

	*bench = {};
	if (kvc_image_plan_init(&bench->plan, &shape, codec) != KVC_OK)
		exit(2);
	bench->blocks = blocks;
	bench->memory = (uint8_t *)gpu_alloc(bytes);
	memory_fill(bench->memory, bytes);
	bench->ids = ids_make((uint32_t)pages);
	blocks_make(bench);
	place_make(&bench->pool.key, bench->memory, bytes, pages, kinds);
	place_make(&bench->pool.value, bench->memory + part, bytes - part, pages, kinds);
	bench->pool.pages = pages;
	bench->pool.page_tokens = PAGE_TOKENS;
	bench->pool.id_bytes = 4;
	bench->job.plan = &bench->plan;
	bench->job.pool = &bench->pool;
	bench->job.count = blocks;
}

static void bench_free(struct bench *bench)
{
	gpu_free(bench->memory);
	gpu_free(bench->images);
	gpu_free(bench->ids);
	gpu_free((void *)bench->job.blocks);
	gpu_free(bench->job.results);
}

static void results_check(const struct bench *bench)
{
	std::vector<struct kvc_kern_result> results(bench->blocks);

	gpu_wait();
	gpu_get(results.data(), bench->job.results, bench->blocks * sizeof results[0]);
	for (auto &result : results) {
		if (result.errors || result.raw_tiles) {
			printf("FAILED: errors %u, raw tiles %u\n", result.errors, result.raw_tiles);
			exit(1);
		}
	}
}

static double median(std::vector<double> &values)
{
	std::sort(values.begin(), values.end());
	return values[values.size() / 2];
}

/* Median seconds of a launch. */
static double launch_time(struct bench *bench, bool encode)
{
	std::vector<double> times;

	for (uint32_t i = 0; i < REPEATS + 1; i++) {
		kvc_status status;

		gpu_timer_start();
		status = encode ? kvc_kern_encode(&bench->job) : kvc_kern_decode(&bench->job);
		if (status != KVC_OK)
			exit(2);
		if (double seconds = gpu_timer_stop(); i > 0)
			times.push_back(seconds);
	}
	results_check(bench);
	return median(times);
}

/* Bytes read and written a second by a copy within the device. */
static double copy_rate(void)
{
	const size_t bytes = UINT64_C(2) << 30;
	uint8_t *from = (uint8_t *)gpu_alloc(bytes), *to = (uint8_t *)gpu_alloc(bytes);
	std::vector<double> times;

	memory_fill(from, bytes);
	for (uint32_t i = 0; i < REPEATS; i++) {
		gpu_timer_start();
		gpu_copy(to, from, bytes);
		times.push_back(gpu_timer_stop());
	}
	gpu_free(from);
	gpu_free(to);
	return 2.0 * (double)bytes / median(times);
}

static void row_print(struct bench *bench, const char *what, bool encode, double copy)
{
	double source = (double)kvc_block_raw_bytes(&bench->plan.shape) * bench->blocks;
	double moved = source + (double)bench->plan.image_bytes * bench->blocks;
	double seconds = launch_time(bench, encode);

	printf("%-7s %-5s %4u %9.0f %9.0f %7.1f %9.3f\n", encode ? "encode" : "decode", what, bench->job.sms,
	       source / seconds / 1e9, moved / seconds / 1e9, 100 * moved / seconds / copy, seconds * 1e3);
}

static void kernel_print(const struct bench *bench, enum kvc_kind kind, bool encode)
{
	struct cudaFuncAttributes attributes;
	struct kern_choice choice;
	struct kern_task task;

	kern_task_init(&task, &bench->job, kind, 0);
	if (!kern_task_is_fast(&task))
		return;
	choice = encode ? kern_encode_choice(kern_fast_number(&task)) : kern_decode_choice(kern_fast_number(&task));
	if (cudaFuncGetAttributes(&attributes, (const void *)choice.kernel) != cudaSuccess)
		exit(2);
	printf("%s %s: %d registers, %zu bytes of local memory, %u threads and %u bytes of shared memory a "
	       "multiprocessor, %u of 64 warps\n",
	       encode ? "encode" : "decode", kind == KVC_KIND_KEY ? "keys" : "values", attributes.numRegs,
	       attributes.localSizeBytes, choice.teams * DEV_TEAM, choice.shared_bytes,
	       choice.teams * DEV_TEAM / 32);
}

static void table_print(struct bench *bench, const char *what, double copy)
{
	const uint32_t sms[] = {gpu_sms(), 32, 16, 8};

	for (bool encode : {true, false}) {
		for (uint32_t count : sms) {
			bench->job.sms = count;
			row_print(bench, what, encode, copy);
		}
	}
}

static void run_once(struct bench *bench)
{
	bench->job.sms = gpu_sms();
	if (kvc_kern_encode(&bench->job) != KVC_OK || kvc_kern_decode(&bench->job) != KVC_OK)
		exit(2);
	results_check(bench);
}

int main(int argc, char **argv)
{
	const char *preset = argc > 1 ? argv[1] : "quality";
	uint32_t blocks = argc > 2 ? (uint32_t)atoi(argv[2]) : 64;
	struct kvc_block_codec codec, values;
	struct bench bench;
	double copy;

	if (kvc_preset_get(preset, &codec) != KVC_OK || kvc_kern_load() != KVC_OK)
		return 2;
	values = codec;
	values.key = values.value;
	bench_make(&bench, &codec, blocks, DIM);
	if (argc > 3) {
		run_once(&bench);
		return 0;
	}
	copy = copy_rate();
	printf("%s, %u multiprocessors; device copy %.0f GB/s read and written\n", gpu_name(), gpu_sms(), copy / 1e9);
	printf("preset %s, %u blocks of 32 layers, 8 heads, dimension 128, 128 tokens, 16-token pages\n", preset, blocks);
	for (bool encode : {true, false}) {
		kernel_print(&bench, KVC_KIND_KEY, encode);
		kernel_print(&bench, KVC_KIND_VALUE, encode);
	}
	printf("%-7s %-5s %4s %9s %9s %7s %9s\n", "", "tiles", "SMs", "source", "moved", "share", "ms");
	printf("%-7s %-5s %4s %9s %9s %7s\n", "", "", "", "GB/s", "GB/s", "%");
	table_print(&bench, "K+V", copy);
	bench_free(&bench);
	bench_make(&bench, &codec, blocks * 2, 0);
	table_print(&bench, "K", copy);
	bench_free(&bench);
	bench_make(&bench, &values, blocks * 2, 0);
	table_print(&bench, "V", copy);
	bench_free(&bench);
	return 0;
}
