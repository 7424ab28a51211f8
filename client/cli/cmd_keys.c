/* kvcellar lookup, kvcellar drop: a sequence by its keys, without its data. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/cmd.h"
#include "client/cli/job.h"
#include "client/cli/report.h"

#define GROUPS   (KVC_GROUP_COMMON | KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE)
#define REQUIRED (KVC_GROUP_SHAPE | KVC_GROUP_SEQUENCE)

static const struct kvc_usage lookup_usage = {
        .name = "lookup",
        .groups = GROUPS | KVC_GROUP_LOOKUP,
        .required = REQUIRED,
        .what = "Say how many tokens of a sequence are stored from its beginning, and how many blocks each "
                "tier\n"
                "holds. Options are those of the put. Exit code 3 if the sequence is not stored as a whole.",
        .examples = "  kvcellar lookup --model llama-3.1-8b --layers 32 --heads 8 --dim 128 --dtype bf16 \\\n"
                    "      --tokens 2048 --sequence prompt-1\n"
                    "  kvcellar lookup ... --prefetch\n",
};

static const struct kvc_usage drop_usage = {
        .name = "drop",
        .groups = GROUPS,
        .required = REQUIRED,
        .what = "Forget the blocks of a sequence in every tier. Options are those of the put.",
        .examples = "  kvcellar drop --model llama-3.1-8b --layers 32 --heads 8 --dim 128 --dtype bf16 \\\n"
                    "      --tokens 2048 --sequence prompt-1\n",
};

/* The job of the arguments and its keys. Returns -1 or an exit code. */
static int open_keys(const struct kvc_usage *usage, int argc, char **argv, struct kvc_settings *settings,
                     struct kvc_job *job, struct kvc_key **keys)
{
	int code = kvc_settings_parse(usage, argc, argv, settings);

	if (code >= 0)
		return code;
	if (!settings->sequence)
		return kvc_usage_error(usage->name,
		                       "--sequence is missing: the name that put was given or has printed");
	code = kvc_job_open(job, usage->name, settings, settings->sequence);
	if (code >= 0)
		return code;
	*keys = calloc(job->blocks, sizeof(**keys));
	if (!*keys) {
		kvc_job_close(job);
		return kvc_failure(usage->name, "out of memory");
	}
	for (size_t i = 0; i < job->blocks; i++)
		(*keys)[i] = (struct kvc_key){job->keys[i], KVC_BLOCK_KEY_BYTES};
	return -1;
}

static int print_lookup(const struct kvc_job *job, size_t prefix, const uint8_t *tiers)
{
	uint64_t tokens = prefix < job->blocks ? prefix * job->block_tokens : job->tokens;
	uint64_t held[KVC_TIER_DISK + 1] = {0};
	struct kvc_report report;

	for (size_t i = 0; i < job->blocks; i++)
		held[tiers[i]]++;
	kvc_report_init(&report);
	kvc_report_text(&report, "sequence", job->settings->sequence);
	kvc_report_count(&report, "tokens", tokens);
	kvc_report_count(&report, "tokens_asked", job->tokens);
	kvc_report_count(&report, "blocks", job->blocks);
	kvc_report_count(&report, "prefix_blocks", prefix);
	kvc_report_count(&report, "in_vram", held[KVC_TIER_VRAM]);
	kvc_report_count(&report, "in_ram", held[KVC_TIER_RAM]);
	kvc_report_count(&report, "on_disk", held[KVC_TIER_DISK]);
	kvc_report_count(&report, "absent", held[KVC_TIER_NONE]);
	return kvc_report_print(&report, job->settings->json,
	                        prefix < job->blocks ? KVC_EXIT_SHORT : KVC_EXIT_OK);
}

int kvc_cmd_lookup(int argc, char **argv)
{
	struct kvc_settings settings;
	struct kvc_key *keys;
	struct kvc_job job;
	uint8_t *tiers;
	size_t prefix;
	kvc_status status;
	int code = open_keys(&lookup_usage, argc, argv, &settings, &job, &keys);

	if (code >= 0)
		return code;
	tiers = calloc(job.blocks, 1);
	status = tiers ? kvc_lookup(job.ns, keys, job.blocks, 0, &prefix, tiers) : KVC_NO_MEMORY;
	code = status == KVC_OK ? print_lookup(&job, prefix, tiers)
	                        : kvc_job_failure(&job, "look-up", status);
	free(tiers);
	free(keys);
	kvc_job_close(&job);
	return code;
}

int kvc_cmd_drop(int argc, char **argv)
{
	struct kvc_settings settings;
	struct kvc_report report;
	struct kvc_key *keys;
	struct kvc_job job;
	size_t dropped;
	kvc_status status;
	int code = open_keys(&drop_usage, argc, argv, &settings, &job, &keys);

	if (code >= 0)
		return code;
	status = kvc_drop(job.ns, keys, job.blocks, 0, &dropped);
	if (status == KVC_OK) {
		kvc_report_init(&report);
		kvc_report_text(&report, "sequence", settings.sequence);
		kvc_report_count(&report, "blocks", job.blocks);
		kvc_report_count(&report, "dropped", dropped);
		code = kvc_report_print(&report, settings.json, KVC_EXIT_OK);
	} else {
		code = kvc_job_failure(&job, "drop", status);
	}
	free(keys);
	kvc_job_close(&job);
	return code;
}
