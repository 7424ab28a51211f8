/* kvcellar put: files into the daemon. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"
#include "client/cli/files.h"
#include "client/cli/job.h"
#include "client/cli/pump.h"
#include "client/cli/report.h"

static const struct kvc_usage usage = {
        .name = "put",
        .groups = KVC_GROUP_COMMON | KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE | KVC_GROUP_PUT | KVC_GROUP_PLANE,
        .required = KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE | KVC_GROUP_PUT,
        .what = "Store the KV cache of one sequence. It is cut into blocks whose keys are chained, so that "
                "any\n"
                "beginning of the sequence can be found and restored.",
        .examples = "  kvcellar put --model llama-3.1-8b --layers 32 --heads 8 --dim 128 --dtype bf16 "
                    "--tokens 2048 \\\n"
                    "      --keys keys.bf16 --values values.bf16 --sequence prompt-1\n"
                    "  kvcellar put ... --preset compact --ack disk\n"
                    "  kvcellar put ... --ttl 10m --priority low --ephemeral\n",
};

static bool read_block(void *data, size_t block, uint8_t *bytes)
{
	return kvc_files_read(data, block, bytes);
}

/* What the daemon would refuse, in the words of the options. */
static int check_hints(const struct kvc_settings *settings)
{
	if (settings->ack == KVC_ACK_DISK && settings->ephemeral)
		return kvc_usage_error("put",
		                       "--ephemeral with --ack disk: expected --ack ram, as such blocks "
		                       "are never written to disk");
	if (settings->ack == KVC_ACK_DISK && settings->ttl_ms)
		return kvc_usage_error("put",
		                       "--ttl with --ack disk: expected --ack ram, as such blocks do not "
		                       "outlive a restart");
	return -1;
}

static int print_result(const struct kvc_job *job, const char *sequence, const struct kvc_pump_result *moved)
{
	double raw = (double)kvc_job_token_bytes(job) * (double)job->tokens;
	double stored = (double)moved->outcome.stored_bytes;
	bool whole = moved->moved == job->blocks;
	struct kvc_report report;

	kvc_report_init(&report);
	kvc_report_text(&report, "sequence", sequence);
	kvc_report_count(&report, "tokens", job->tokens);
	kvc_report_count(&report, "blocks", job->blocks);
	kvc_report_count(&report, "blocks_stored", moved->moved);
	kvc_report_count(&report, "bytes_in", (uint64_t)raw);
	kvc_report_count(&report, "bytes_stored", moved->outcome.stored_bytes);
	kvc_report_real(&report, "ratio", stored > 0 ? raw / stored : 0);
	kvc_report_real(&report, "seconds", moved->seconds);
	kvc_report_real(&report, "gb_per_s", raw / moved->seconds / 1e9);
	if (!whole)
		(void)kvc_failure(job->name,
		                  "%zu of %zu blocks were not stored; the first is block %zu: %s (%s)",
		                  job->blocks - moved->moved, job->blocks, moved->first_other,
		                  kvc_status_text(moved->other), kvc_status_name(moved->other));
	return kvc_report_print(&report, job->settings->json, whole ? KVC_EXIT_OK : KVC_EXIT_FAILURE);
}

/* The sequence's name: as given, else the hash of the files. False: an error was told. */
static bool name_sequence(const struct kvc_settings *settings, char text[KVC_HASH_TEXT_BYTES],
                          const char **sequence)
{
	const char *paths[] = {settings->keys, settings->values};

	*sequence = settings->sequence;
	if (*sequence)
		return true;
	*sequence = text;
	return kvc_job_hash("put", paths, settings->values ? 2 : 1, text);
}

static int put(const struct kvc_settings *settings, struct kvc_files *files, const char *sequence)
{
	struct kvc_pump_result moved;
	struct kvc_pump pump;
	struct kvc_job job;
	int code = kvc_job_open(&job, "put", settings, sequence);

	if (code >= 0)
		return code;
	files->job = &job;
	pump = (struct kvc_pump){
	        .job = &job, .put = true, .blocks = job.blocks, .step = read_block, .data = files};
	code = kvc_pump_run(&pump, &moved);
	if (code < 0)
		code = print_result(&job, sequence, &moved);
	kvc_job_close(&job);
	return code;
}

int kvc_cmd_put(int argc, char **argv)
{
	struct kvc_namespace_options ignored;
	struct kvc_job shape = {.name = "put"};
	struct kvc_settings settings;
	struct kvc_files files;
	char text[KVC_HASH_TEXT_BYTES];
	const char *sequence;
	int code = kvc_settings_parse(&usage, argc, argv, &settings);

	if (code < 0)
		code = check_hints(&settings);
	if (code >= 0)
		return code;
	if (!kvc_settings_namespace("put", &settings, &ignored))
		return KVC_EXIT_USAGE;
	kvc_job_shape(&shape, &settings);
	code = kvc_files_open(&files, &shape);
	if (code >= 0)
		return code;
	code = name_sequence(&settings, text, &sequence) ? put(&settings, &files, sequence)
	                                                 : KVC_EXIT_FAILURE;
	kvc_files_close(&files);
	return code;
}
