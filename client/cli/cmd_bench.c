/* kvcellar bench: how fast the running daemon is on this machine, next to memcpy of the same run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/bench_cuda.h"
#include "client/cli/cmd.h"
#include "client/cli/job.h"
#include "client/cli/pump.h"
#include "client/cli/report.h"

#define POOL_BYTES   (64u << 20) /* of synthetic data, used again and again */
#define MEMCPY_BYTES (256u << 20)

static const struct kvc_usage usage = {
        .name = "bench",
        .groups = KVC_GROUP_COMMON | KVC_GROUP_SHAPE | KVC_GROUP_BENCH,
        .what = "Measure the running daemon with synthetic blocks, which are dropped at the end. The shape "
                "is that of\n"
                "Llama-3.1-8B unless options say otherwise. Speeds count bytes as they come (uncompressed).\n"
                "With --plane cuda the blocks lie in a paged pool on a GPU, and every byte that comes back "
                "is "
                "compared.",
        .examples = "  kvcellar bench\n"
                    "  kvcellar bench --blocks 256 --depth 8 --json\n"
                    "  kvcellar bench --layers 28 --heads 4 --dim 128 --plane inline\n"
                    "  kvcellar bench --plane cuda --blocks 256 --gpu 0\n",
};

struct bench {
	struct kvc_job job;
	uint8_t *pool; /* blocks of synthetic data, packed */
	size_t pool_blocks;
	uint64_t block_bytes;
	struct kvc_pump_result put;
	struct kvc_pump_result get;
	double memcpy_gb_per_s;
	double lookup_p50_us;
	double lookup_p99_us;
	double lookup_keys_per_s;
	size_t lookup_batch;
};

static double now(void)
{
	struct timespec time;

	(void)clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- synthetic data ------------------------------------------------------------------------ */

/* xorshift64*: quick, and good enough to look like noise to a codec. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545F4914F6CDD1Du;
}

/* About normal: the sum of four uniform numbers, variance 1. */
static float noise(uint64_t *state)
{
	uint64_t r = next_random(state);
	uint64_t sum = (r & 0xFFFF) + (r >> 16 & 0xFFFF) + (r >> 32 & 0xFFFF) + (r >> 48);

	return ((float)sum / 65536.0F - 2.0F) * 1.7320508F;
}

/* Binary16 of a number of middling size, as all here are: truncated, tiny ones are zero. */
static uint16_t half_of(uint32_t bits)
{
	uint32_t exponent = bits >> 23 & 0xFF;

	if (exponent < 127 - 14)
		return 0;
	return (uint16_t)((bits >> 16 & 0x8000) | (exponent - 127 + 15) << 10 | (bits >> 13 & 0x3FF));
}

static void store_element(uint8_t *out, uint64_t dtype, float value)
{
	uint32_t bits;
	uint16_t half;

	memcpy(&bits, &value, sizeof(bits));
	half = dtype == KVC_ELEMENT_FP16 ? half_of(bits) : (uint16_t)(bits >> 16);
	if (dtype == KVC_ELEMENT_FP32)
		memcpy(out, &bits, sizeof(bits));
	else
		memcpy(out, &half, sizeof(half));
}

/* One kind of one layer: each channel has a mean of its own, as keys do, and noise around it. */
static uint8_t *fill_layer(uint8_t *out, const struct kvc_job *job, uint64_t row_bytes, uint64_t *random)
{
	unsigned element = job->settings->dtype == KVC_ELEMENT_FP32 ? 4 : 2;
	uint64_t channels = row_bytes / element;
	uint64_t seed = next_random(random) | 1;

	for (uint64_t token = 0; token < job->block_tokens; token++) {
		uint64_t mean = seed; /* the same sequence of means for each token */

		for (uint64_t channel = 0; channel < channels; channel++, out += element)
			store_element(out, job->settings->dtype, 2.0F * noise(&mean) + noise(random));
	}
	return out;
}

static bool fill_pool(struct bench *bench)
{
	const struct kvc_job *job = &bench->job;
	uint64_t random;
	uint8_t *out;

	bench->block_bytes = kvc_job_token_bytes(job) * job->block_tokens;
	bench->pool_blocks = (size_t)(POOL_BYTES / bench->block_bytes);
	bench->pool_blocks = bench->pool_blocks < 1 ? 1 : bench->pool_blocks;
	if (bench->pool_blocks > job->blocks)
		bench->pool_blocks = job->blocks;
	bench->pool = malloc(bench->pool_blocks * bench->block_bytes);
	if (!bench->pool)
		return false;
	randombytes_buf(&random, sizeof(random));
	random |= 1;
	out = bench->pool;
	for (size_t block = 0; block < bench->pool_blocks; block++) {
		for (unsigned kind = 0; kind < 2; kind++) {
			for (uint64_t layer = 0; job->row_bytes[kind] > 0 && layer < job->layers; layer++)
				out = fill_layer(out, job, job->row_bytes[kind], &random);
		}
	}
	return true;
}

/* Once for each place in the window, which is zero at first: copying is not what is measured. */
static bool give_block(void *data, size_t block, uint8_t *bytes)
{
	const struct bench *bench = data;
	uint64_t first;

	memcpy(&first, bytes, sizeof(first));
	if (first != 0)
		return true;
	memcpy(bytes, bench->pool + block % bench->pool_blocks * bench->block_bytes, bench->block_bytes);
	return true;
}

/* ---- measurements -------------------------------------------------------------------------- */

/* The machine's own copying, one thread, buffers larger than its caches. */
static bool measure_memcpy(struct bench *bench)
{
	uint8_t *from = malloc(MEMCPY_BYTES);
	uint8_t *to = malloc(MEMCPY_BYTES);
	double best = 0;

	if (from && to) {
		memset(from, 1, MEMCPY_BYTES);
		memset(to, 2, MEMCPY_BYTES);
		for (unsigned i = 0; i < 5; i++) {
			double start = now();
			double speed;

			memcpy(to, from, MEMCPY_BYTES);
			speed = MEMCPY_BYTES / (now() - start) / 1e9;
			best = speed > best ? speed : best;
			from[i] = to[i + 1]; /* so that no copy is removed */
		}
	}
	free(from);
	free(to);
	bench->memcpy_gb_per_s = best;
	return best > 0;
}

static int move(struct bench *bench, bool put, struct kvc_pump_result *result)
{
	struct kvc_pump pump = {
	        .job = &bench->job,
	        .put = put,
	        .blocks = bench->job.blocks,
	        .batch = (size_t)bench->job.settings->batch,
	        .step = put ? give_block : NULL,
	        .data = bench,
	};
	int code = kvc_pump_run(&pump, result);

	if (code < 0 && result->moved != bench->job.blocks)
		return kvc_failure(
		        "bench",
		        "%s: %zu of %zu blocks: %s (%s); use fewer --blocks, or give the daemon more memory",
		        put ? "put" : "get", result->moved, bench->job.blocks, kvc_status_text(result->other),
		        kvc_status_name(result->other));
	return code;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

/* One key at a time. */
static int measure_latency(struct bench *bench, const struct kvc_key *keys)
{
	size_t count = (size_t)bench->job.settings->lookups;
	double *times = calloc(count, sizeof(*times));
	size_t prefix;

	if (!times)
		return kvc_failure("bench", "out of memory");
	for (size_t i = 0; i < count; i++) {
		double start = now();

		if (kvc_lookup(bench->job.ns, &keys[i % bench->job.blocks], 1, 0, &prefix, NULL) != KVC_OK) {
			free(times);
			return kvc_failure("bench", "look-up: %s", kvc_last_error());
		}
		times[i] = (now() - start) * 1e6;
	}
	qsort(times, count, sizeof(*times), compare);
	bench->lookup_p50_us = times[count / 2];
	bench->lookup_p99_us = times[count - 1 - count / 100];
	free(times);
	return -1;
}

static int measure_batched(struct bench *bench, const struct kvc_key *keys)
{
	size_t batch = (size_t)bench->job.settings->batch * 64;
	size_t rounds;
	size_t prefix;
	double start;

	batch = batch > 1024 ? 1024 : batch;
	bench->lookup_batch = batch;
	rounds = (size_t)bench->job.settings->lookups / batch + 1;
	start = now();
	for (size_t i = 0; i < rounds; i++) {
		if (kvc_lookup(bench->job.ns, keys, batch, 0, &prefix, NULL) != KVC_OK)
			return kvc_failure("bench", "look-up: %s", kvc_last_error());
	}
	bench->lookup_keys_per_s = (double)(rounds * batch) / (now() - start);
	return -1;
}

static int measure_lookups(struct bench *bench)
{
	size_t count = bench->job.blocks > 1024 ? bench->job.blocks : 1024;
	struct kvc_key *keys = calloc(count, sizeof(*keys));
	int code;

	if (!keys)
		return kvc_failure("bench", "out of memory");
	for (size_t i = 0; i < count; i++)
		keys[i] = (struct kvc_key){bench->job.keys[i % bench->job.blocks], KVC_BLOCK_KEY_BYTES};
	code = measure_latency(bench, keys);
	if (code < 0)
		code = measure_batched(bench, keys);
	free(keys);
	return code;
}

static void drop_all(struct bench *bench)
{
	size_t dropped;

	for (size_t i = 0; i < bench->job.blocks; i++) {
		struct kvc_key key = {bench->job.keys[i], KVC_BLOCK_KEY_BYTES};

		if (kvc_drop(bench->job.ns, &key, 1, 0, &dropped) != KVC_OK)
			return; /* the daemon evicts them in time */
	}
}

/* ---- the command --------------------------------------------------------------------------- */

static int print_result(const struct bench *bench)
{
	double raw = (double)bench->block_bytes * (double)bench->job.blocks;
	double stored = (double)bench->put.outcome.stored_bytes;
	struct kvc_report report;

	kvc_report_init(&report);
	kvc_report_count(&report, "blocks", bench->job.blocks);
	kvc_report_count(&report, "block_bytes", bench->block_bytes);
	kvc_report_real(&report, "ratio", stored > 0 ? raw / stored : 0);
	kvc_report_real(&report, "put_gb_per_s", raw / bench->put.seconds / 1e9);
	kvc_report_real(&report, "get_gb_per_s", raw / bench->get.seconds / 1e9);
	kvc_report_real(&report, "memcpy_gb_per_s", bench->memcpy_gb_per_s);
	kvc_report_real(&report, "lookup_p50_us", bench->lookup_p50_us);
	kvc_report_real(&report, "lookup_p99_us", bench->lookup_p99_us);
	kvc_report_count(&report, "lookup_batch", bench->lookup_batch);
	kvc_report_real(&report, "lookup_keys_per_s", bench->lookup_keys_per_s);
	return kvc_report_print(&report, bench->job.settings->json, KVC_EXIT_OK);
}

/* A shape and a sequence that nothing else has. */
static void fill_settings(struct kvc_settings *settings)
{
	bool own = settings->layers || settings->heads || settings->dim;

	if (!own) {
		settings->layers = 32;
		settings->heads = 8;
		settings->dim = 128;
	}
	if (!settings->dtype)
		settings->dtype = KVC_ELEMENT_BF16;
	if (!settings->model)
		settings->model = "kvcellar-bench";
	if (!settings->batch)
		settings->batch = settings->plane == KVC_CLI_CUDA ? 16 : 1;
}

/* How many blocks, and so how long the sequence is. */
static void fill_length(struct kvc_settings *settings)
{
	struct kvc_job job = {.name = NULL};
	uint64_t block_bytes;

	kvc_job_shape(&job, settings);
	block_bytes = kvc_job_token_bytes(&job) * settings->block_tokens;
	if (settings->bytes)
		settings->blocks = settings->bytes < block_bytes ? 1 : settings->bytes / block_bytes;
	settings->tokens = settings->blocks * settings->block_tokens;
}

static int run_cuda(struct bench *bench)
{
	struct kvc_block_source source;
	struct kvc_report report;
	int code;

	if (!fill_pool(bench))
		return kvc_failure("bench", "out of memory");
	source = (struct kvc_block_source){bench->pool, bench->pool_blocks, bench->block_bytes};
	kvc_report_init(&report);
	code = kvc_bench_cuda(&bench->job, &source, &report);
	if (code < 0)
		return kvc_report_print(&report, bench->job.settings->json, KVC_EXIT_OK);
	json_decref(report.values);
	return code;
}

static int run(struct bench *bench)
{
	int code;

	if (!fill_pool(bench) || !measure_memcpy(bench))
		return kvc_failure("bench", "out of memory");
	code = move(bench, true, &bench->put);
	if (code < 0)
		code = move(bench, false, &bench->get);
	if (code < 0)
		code = measure_lookups(bench);
	drop_all(bench);
	return code < 0 ? print_result(bench) : code;
}

int kvc_cmd_bench(int argc, char **argv)
{
	struct kvc_settings settings;
	struct bench bench = {.pool = NULL};
	char sequence[33];
	uint8_t random[16];
	int code = kvc_settings_parse(&usage, argc, argv, &settings);

	if (code >= 0)
		return code;
	fill_settings(&settings);
	if (!settings.layers || !settings.heads || !settings.dim)
		return kvc_usage_error("bench", "--layers, --heads and --dim go together");
	fill_length(&settings);
	randombytes_buf(random, sizeof(random));
	(void)sodium_bin2hex(sequence, sizeof(sequence), random, sizeof(random));
	code = kvc_job_open(&bench.job, "bench", &settings, sequence);
	if (code >= 0)
		return code;
	code = settings.plane == KVC_CLI_CUDA ? run_cuda(&bench) : run(&bench);
	free(bench.pool);
	kvc_job_close(&bench.job);
	return code;
}
