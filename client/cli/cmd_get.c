/* kvcellar get: the longest stored beginning of a sequence into files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"
#include "client/cli/files.h"
#include "client/cli/job.h"
#include "client/cli/pump.h"
#include "client/cli/report.h"

static const struct kvc_usage usage = {
        .name = "get",
        .groups = KVC_GROUP_COMMON | KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE | KVC_GROUP_GET | KVC_GROUP_PLANE,
        .required = KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE | KVC_GROUP_GET,
        .what = "Restore the KV cache of one sequence, or as much of its beginning as is stored: then the "
                "files hold\n"
                "[layers][restored tokens][heads][dim] and the exit code is 3. If a block that is stored "
                "cannot be had, the\n"
                "same holds for what comes before it, and the exit code is 1. Options are those of the put.",
        .examples = "  kvcellar get --model llama-3.1-8b --layers 32 --heads 8 --dim 128 --dtype bf16 "
                    "--tokens 2048 \\\n"
                    "      --sequence prompt-1 --out-keys k.bf16 --out-values v.bf16\n",
};

static bool write_block(void *data, size_t block, uint8_t *bytes)
{
	return kvc_files_write(data, block, bytes);
}

static uint64_t tokens_of(const struct kvc_job *job, size_t blocks)
{
	return blocks < job->blocks ? blocks * job->block_tokens : job->tokens;
}

/* Some of the sequence did not come: it is not there, or that failed. Returns the exit code. */
static int tell_short(const struct kvc_job *job, uint64_t tokens, bool failed)
{
	(void)fprintf(stderr, "kvcellar get: only %llu of %llu tokens %s%s\n", (unsigned long long)tokens,
	              (unsigned long long)job->tokens, failed ? "were restored" : "are stored",
	              tokens ? ": the files hold those" : ", no files written");
	return failed ? KVC_EXIT_FAILURE : KVC_EXIT_SHORT;
}

/* end: why the block after those did not come. */
static int print_result(const struct kvc_job *job, size_t blocks, kvc_status end,
                        const struct kvc_pump_result *moved)
{
	uint64_t tokens = tokens_of(job, blocks);
	double raw = (double)kvc_job_token_bytes(job) * (double)tokens;
	struct kvc_report report;
	int code = KVC_EXIT_OK;

	kvc_report_init(&report);
	kvc_report_text(&report, "sequence", job->settings->sequence);
	kvc_report_count(&report, "tokens", tokens);
	kvc_report_count(&report, "tokens_asked", job->tokens);
	kvc_report_count(&report, "blocks", blocks);
	kvc_report_count(&report, "from_vram", moved->outcome.from_vram);
	kvc_report_count(&report, "from_ram", moved->outcome.from_ram);
	kvc_report_count(&report, "from_disk", moved->outcome.from_disk);
	kvc_report_count(&report, "bytes_out", (uint64_t)raw);
	kvc_report_count(&report, "bytes_read", moved->outcome.stored_bytes);
	kvc_report_real(&report, "seconds", moved->seconds);
	kvc_report_real(&report, "gb_per_s", moved->seconds > 0 ? raw / moved->seconds / 1e9 : 0);
	if (tokens < job->tokens)
		code = tell_short(job, tokens, end != KVC_MISS);
	return kvc_report_print(&report, job->settings->json, code);
}

/* How many leading blocks are there now. Returns -1 or an exit code. */
static int find_prefix(const struct kvc_job *job, size_t *blocks)
{
	struct kvc_key *keys = calloc(job->blocks, sizeof(*keys));
	kvc_status status;

	if (!keys)
		return kvc_failure("get", "out of memory");
	for (size_t i = 0; i < job->blocks; i++)
		keys[i] = (struct kvc_key){job->keys[i], KVC_BLOCK_KEY_BYTES};
	status = kvc_lookup(job->ns, keys, job->blocks, 0, blocks, NULL);
	free(keys);
	return status == KVC_OK ? -1 : kvc_job_failure(job, "look-up", status);
}

/* Restore `*blocks` blocks. One that has gone since the look-up makes the prefix shorter, and as the files'
 * layout depends on that, they are written again: at most so often as blocks disappear. So does one that
 * cannot be had; *end is then why. */
static int restore(struct kvc_job *job, struct kvc_files *files, size_t *blocks, kvc_status *end,
                   struct kvc_pump_result *moved)
{
	struct kvc_pump pump = {.job = job, .put = false, .step = write_block, .data = files};
	int code = -1;

	while (code < 0 && *blocks > 0) {
		pump.blocks = *blocks;
		files->tokens = tokens_of(job, *blocks);
		code = kvc_pump_run(&pump, moved);
		if (code >= 0 || moved->first_other == *blocks)
			break;
		if (moved->other != KVC_MISS)
			(void)kvc_failure("get", "block %zu: %s (%s), stopping before it", moved->first_other,
			                  kvc_status_text(moved->other), kvc_status_name(moved->other));
		*blocks = moved->first_other;
		*end = moved->other;
		if (!kvc_files_shrink(files, tokens_of(job, *blocks)))
			code = KVC_EXIT_FAILURE;
	}
	return code;
}

static int get(const struct kvc_settings *settings, struct kvc_files *files)
{
	struct kvc_pump_result moved = {.seconds = 0};
	struct kvc_job job;
	kvc_status end = KVC_MISS;
	size_t blocks = 0;
	int code = kvc_job_open(&job, "get", settings, settings->sequence);

	if (code >= 0)
		return code;
	files->job = &job;
	code = find_prefix(&job, &blocks);
	if (code < 0)
		code = restore(&job, files, &blocks, &end, &moved);
	if (code < 0 && blocks > 0 && !kvc_files_commit(files))
		code = KVC_EXIT_FAILURE;
	if (code < 0)
		code = print_result(&job, blocks, end, &moved);
	kvc_job_close(&job);
	return code;
}

int kvc_cmd_get(int argc, char **argv)
{
	struct kvc_namespace_options ignored;
	struct kvc_job shape = {.name = "get"};
	struct kvc_settings settings;
	struct kvc_files files;
	int code = kvc_settings_parse(&usage, argc, argv, &settings);

	if (code >= 0)
		return code;
	if (!settings.sequence)
		return kvc_usage_error("get",
		                       "--sequence is missing: the name that put was given or has printed");
	if (!kvc_settings_namespace("get", &settings, &ignored))
		return KVC_EXIT_USAGE;
	kvc_job_shape(&shape, &settings);
	code = kvc_files_create(&files, &shape);
	if (code >= 0)
		return code;
	code = get(&settings, &files);
	kvc_files_close(&files);
	return code;
}
