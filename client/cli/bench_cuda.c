/* The bench of the cuda plane. The reference for speed is a copy of the same bytes between the device and
 * pinned memory in the same run; the reference for bytes is what the daemon's CPU codec restores of the same
 * blocks. */
#include "client/cli/bench_cuda.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/cmd.h"

#define SINGLES_MAX 256u /* blocks put and got one at a time */

struct run {
	struct kvc_job *job;
	struct kvc_device_pool pool;
	struct kvc_transfer transfer;
	struct kvc_block *blocks; /* one for each of the job's */
	double *times;
};

struct moved {
	struct kvc_outcome outcome;
	double seconds;
};

static double now(void)
{
	struct timespec time;

	(void)clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static const char *verb(bool put)
{
	return put ? "put" : "get";
}

/* ---- what the CPU codec makes of the blocks ------------------------------------------------ */

/* Through shared memory, under a key of its own each. */
static int restore_one(struct kvc_job *job, struct kvc_memory *memory, uint8_t *bytes, uint64_t length)
{
	uint8_t key[KVC_BLOCK_KEY_BYTES];
	struct kvc_block block = {.key = key,
	                          .key_bytes = sizeof(key),
	                          .tokens = (uint32_t)job->block_tokens,
	                          .value_offset = job->layers * job->row_bytes[0] * job->block_tokens};
	struct kvc_key dropped = {key, sizeof(key)};
	struct kvc_transfer transfer;
	kvc_status status;
	size_t done;

	randombytes_buf(key, sizeof(key));
	kvc_transfer_init(&transfer, memory);
	memcpy(kvc_memory_data(memory), bytes, length);
	status = kvc_put(job->ns, &transfer, &block, 1, NULL);
	if (status == KVC_OK && block.status == KVC_OK)
		status = kvc_get(job->ns, &transfer, &block, 1, NULL);
	if (status != KVC_OK || block.status != KVC_OK)
		return kvc_job_failure(job, "restoring a block on the CPU",
		                       status != KVC_OK ? status : block.status);
	memcpy(bytes, kvc_memory_data(memory), length);
	(void)kvc_drop(job->ns, &dropped, 1, 0, &done); /* else the daemon evicts it in time */
	return -1;
}

/* expected: a copy of the source. */
static int restore_all(struct kvc_job *job, const struct kvc_block_source *expected)
{
	struct kvc_memory *memory = NULL;
	int code = -1;

	if (kvc_memory_create(job->client, expected->block_bytes, &memory) != KVC_OK)
		return kvc_failure(job->name, "%s", kvc_last_error());
	for (size_t i = 0; code < 0 && i < expected->count; i++)
		code = restore_one(job, memory, expected->blocks + i * expected->block_bytes,
		                   expected->block_bytes);
	kvc_memory_destroy(memory);
	return code;
}

/* ---- batches ------------------------------------------------------------------------------- */

static size_t batch_at(const struct run *run, size_t first)
{
	size_t left = run->job->blocks - first;
	size_t batch = (size_t)run->job->settings->batch;

	return left < batch ? left : batch;
}

static kvc_status batch_submit(struct run *run, bool put, size_t first)
{
	size_t count = batch_at(run, first);
	void *tag = &run->blocks[first];

	return put ? kvc_put_submit(run->job->ns, &run->transfer, tag, count, tag)
	           : kvc_get_submit(run->job->ns, &run->transfer, tag, count, tag);
}

static int batch_check(struct run *run, bool put, const struct kvc_completion *done)
{
	const struct kvc_block *blocks = done->tag;
	size_t first = (size_t)(blocks - run->blocks);

	if (done->status != KVC_OK)
		return kvc_job_failure(run->job, verb(put), done->status);
	for (size_t i = 0; i < batch_at(run, first); i++) {
		if (blocks[i].status != KVC_OK)
			return kvc_failure(run->job->name,
			                   "%s of block %zu: %s (%s); use fewer --blocks, or give the daemon "
			                   "more memory",
			                   verb(put), first + i, kvc_status_text(blocks[i].status),
			                   kvc_status_name(blocks[i].status));
	}
	return -1;
}

static void outcome_add(struct kvc_outcome *sum, const struct kvc_outcome *part)
{
	sum->blocks_ok += part->blocks_ok;
	sum->stored_bytes += part->stored_bytes;
	sum->from_vram += part->from_vram;
	sum->from_ram += part->from_ram;
	sum->from_disk += part->from_disk;
}

/* Take what is there, at least one. */
static int batches_take(struct run *run, bool put, size_t *pending, struct moved *moved)
{
	struct kvc_completion done[16];
	size_t count = 0;
	int code = -1;

	if (kvc_client_next(run->job->client, done, 16, (uint32_t)run->job->settings->deadline_ms, &count) !=
	    KVC_OK)
		return kvc_job_failure(run->job, verb(put), KVC_INTERNAL);
	*pending -= count;
	for (size_t i = 0; code < 0 && i < count; i++) {
		code = batch_check(run, put, &done[i]);
		outcome_add(&moved->outcome, &done[i].outcome);
	}
	return code;
}

/* All blocks, `depth` requests on their way at a time. After an error what is on its way is waited for: it
 * uses the blocks. */
static int move_all(struct run *run, bool put, struct moved *moved)
{
	size_t depth = (size_t)run->job->settings->depth;
	double start = now();
	size_t pending = 0;
	size_t next = 0;
	int code = -1;

	*moved = (struct moved){.seconds = 0};
	while (pending > 0 || (code < 0 && next < run->job->blocks)) {
		if (code < 0 && next < run->job->blocks && pending < depth) {
			kvc_status status = batch_submit(run, put, next);

			if (status != KVC_OK)
				code = kvc_job_failure(run->job, verb(put), status);
			pending += status == KVC_OK;
			next += batch_at(run, next);
		} else {
			int taken = batches_take(run, put, &pending, moved);

			code = code < 0 ? taken : code;
		}
	}
	moved->seconds = now() - start;
	return code;
}

/* ---- one at a time ------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return (x > y) - (x < y);
}

static size_t singles(const struct run *run)
{
	return run->job->blocks < SINGLES_MAX ? run->job->blocks : SINGLES_MAX;
}

static int move_singly(struct run *run, bool put)
{
	for (size_t i = 0; i < singles(run); i++) {
		struct kvc_block *block = &run->blocks[i];
		double start = now();
		kvc_status status = put ? kvc_put(run->job->ns, &run->transfer, block, 1, NULL)
		                        : kvc_get(run->job->ns, &run->transfer, block, 1, NULL);

		run->times[i] = (now() - start) * 1e6;
		if (status != KVC_OK || block->status != KVC_OK)
			return kvc_job_failure(run->job, verb(put),
			                       status != KVC_OK ? status : block->status);
	}
	qsort(run->times, singles(run), sizeof(*run->times), compare);
	return -1;
}

static int drop_all(struct run *run)
{
	size_t dropped;

	for (size_t i = 0; i < run->job->blocks; i++) {
		struct kvc_key key = {run->job->keys[i], KVC_BLOCK_KEY_BYTES};

		if (kvc_drop(run->job->ns, &key, 1, 0, &dropped) != KVC_OK)
			return kvc_failure(run->job->name, "drop: %s", kvc_last_error());
	}
	return -1;
}

static void report_times(const struct run *run, bool put, struct kvc_report *report)
{
	size_t count = singles(run);

	kvc_report_real(report, put ? "put_p50_us" : "get_p50_us", run->times[count / 2]);
	kvc_report_real(report, put ? "put_p99_us" : "get_p99_us", run->times[count - 1 - count / 100]);
}

static int measure_singles(struct run *run, struct kvc_report *report)
{
	int code = drop_all(run);

	if (code < 0)
		code = move_singly(run, true);
	if (code < 0)
		report_times(run, true, report);
	if (code < 0)
		code = move_singly(run, false);
	if (code < 0)
		report_times(run, false, report);
	return code;
}

/* ---- the bench ----------------------------------------------------------------------------- */

static void report_speeds(const struct run *run, const struct moved moved[2], const double raw[2],
                          struct kvc_report *report)
{
	double bytes = (double)kvc_job_token_bytes(run->job) * (double)run->job->block_tokens *
	               (double)run->job->blocks;
	double put = bytes / moved[0].seconds / 1e9;
	double get = bytes / moved[1].seconds / 1e9;
	double stored = (double)moved[0].outcome.stored_bytes;

	kvc_report_text(report, "gpu", run->pool.gpu);
	kvc_report_count(report, "blocks", run->job->blocks);
	kvc_report_count(report, "block_bytes", kvc_job_token_bytes(run->job) * run->job->block_tokens);
	kvc_report_real(report, "ratio", stored > 0 ? bytes / stored : 0);
	kvc_report_real(report, "put_gb_per_s", put);
	kvc_report_real(report, "get_gb_per_s", get);
	kvc_report_real(report, "raw_out_gb_per_s", raw[0]);
	kvc_report_real(report, "raw_in_gb_per_s", raw[1]);
	kvc_report_real(report, "put_vs_raw", put / raw[0]);
	kvc_report_real(report, "get_vs_raw", get / raw[1]);
	kvc_report_count(report, "from_vram", moved[1].outcome.from_vram);
	kvc_report_count(report, "from_ram", moved[1].outcome.from_ram);
	kvc_report_count(report, "from_disk", moved[1].outcome.from_disk);
}

/* Put what the pool holds, get it into cleared pages, and look at every byte. */
static int measure(struct run *run, const struct kvc_block_source *source,
                   const struct kvc_block_source *expected, struct kvc_report *report)
{
	struct moved moved[2];
	double raw[2];
	int code = kvc_device_pool_copy(&run->pool, &raw[0], &raw[1]);

	if (code < 0)
		code = kvc_device_pool_fill(&run->pool, source);
	if (code < 0)
		code = move_all(run, true, &moved[0]);
	if (code < 0)
		code = kvc_device_pool_poison(&run->pool);
	if (code < 0)
		code = move_all(run, false, &moved[1]);
	if (code < 0)
		code = kvc_device_pool_compare(&run->pool, expected);
	if (code < 0) {
		report_speeds(run, moved, raw, report);
		kvc_report_count(report, "blocks_verified", run->job->blocks);
		code = measure_singles(run, report);
	}
	(void)drop_all(run);
	return code;
}

static int run_open(struct run *run, struct kvc_job *job)
{
	int code = kvc_device_pool_open(&run->pool, job);

	run->job = job;
	if (code >= 0)
		return code;
	run->blocks = calloc(job->blocks, sizeof(*run->blocks));
	run->times = calloc(SINGLES_MAX, sizeof(*run->times));
	if (!run->blocks || !run->times)
		return kvc_failure(job->name, "out of memory");
	for (size_t i = 0; i < job->blocks; i++)
		kvc_device_pool_block(&run->pool, i, &run->blocks[i]);
	kvc_transfer_init(&run->transfer, NULL);
	run->transfer.pool = run->pool.pool;
	return -1;
}

int kvc_bench_cuda(struct kvc_job *job, const struct kvc_block_source *source, struct kvc_report *report)
{
	struct kvc_block_source expected = *source;
	struct run run = {.blocks = NULL};
	int code = run_open(&run, job);

	expected.blocks = malloc(source->count * source->block_bytes);
	if (code < 0 && !expected.blocks)
		code = kvc_failure(job->name, "out of memory");
	if (code < 0) {
		memcpy(expected.blocks, source->blocks, source->count * source->block_bytes);
		code = restore_all(job, &expected);
	}
	if (code < 0)
		code = measure(&run, source, &expected, report);
	free(expected.blocks);
	free(run.blocks);
	free(run.times);
	kvc_device_pool_close(&run.pool);
	return code;
}
