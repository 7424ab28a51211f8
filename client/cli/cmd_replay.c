/* kvcellar replay: a request trace through the daemon's own policies, for every combination of preset,
 * capacity, policy and disk budget that was asked for. Asks no daemon. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/cmd.h"
#include "client/cli/replay.h"
#include "client/cli/replay_report.h"
#include "client/cli/settings.h"
#include "kernels/image.h"

#define NAME "replay"

enum { LIST_MAX = 32, ITEM_MAX = 64, PERCENT_MAX = 10000, RECORD_ALIGN = 4096, RECORD_HEADER = 512 };

struct model {
	const char *name;
	uint32_t layers, heads, dim, value_dim;
};

static const struct model models[] = {
        {"llama-3.1-8b", 32, 8, 128, 128},    {"llama-3.1-70b", 80, 8, 128, 128},
        {"llama-3.1-405b", 126, 8, 128, 128}, {"qwen3-32b", 64, 8, 128, 128},
        {"deepseek-v3", 61, 1, 576, 0},
};

#define MODELS (sizeof(models) / sizeof(models[0]))

struct list {
	char items[LIST_MAX][ITEM_MAX];
	unsigned count;
};

struct options {
	struct list capacities, policies, presets, budgets;
	const char *disk;
	bool promote_given;
	enum kvc_replay_promote promote;
	const struct model *model;
	const char *trace;
	bool json;
	bool help;
};

enum {
	OPTION_CAPACITY = 1000,
	OPTION_POLICY,
	OPTION_MODEL,
	OPTION_PRESET,
	OPTION_DISK,
	OPTION_BUDGET,
	OPTION_PROMOTE,
	OPTION_SOCKET,
	OPTION_JSON,
	OPTION_HELP
};

static void print_help(void)
{
	(void)printf("usage: kvcellar replay TRACE [OPTIONS]\n\n"
	             "Run the daemon's policies over a request trace; print how much of the prompts would "
	             "have been\n"
	             "found. TRACE: JSON lines with timestamp (ms), input_length, output_length, hash_ids "
	             "(of blocks\n"
	             "of 512 tokens), as published with Mooncake. All blocks count as full ones. No daemon "
	             "is asked.\n\n"
	             "options; a LIST is separated by commas:\n"
	             "  --capacity LIST  of RAM: bytes (256G) or part of the working set, that is of all "
	             "distinct\n"
	             "      blocks (5%%) (default: 1%%,2%%,5%%,10%%,20%%,30%%,50%%,100%%)\n"
	             "  --policy LIST  or 'all' (default: all), of:");
	for (unsigned i = 0; i < KVC_POLICIES; i++)
		(void)printf(" %s", kvc_policy_name((enum kvc_policy_kind)i));
	(void)printf("\n  --model NAME  that says how large a block is (default: %s), of:", models[0].name);
	for (size_t i = 0; i < MODELS; i++)
		(void)printf(" %s", models[i].name);
	(void)printf("\n  --preset LIST  of the codec (default: %s), of:", kvc_preset_name(0));
	for (unsigned i = 0; kvc_preset_name(i); i++)
		(void)printf(" %s", kvc_preset_name(i));
	(void)printf(
	        "\n  --disk CAPACITY  of a disk tier under RAM (default: none)\n"
	        "  --disk-budget LIST  what may be written to disk: 'all', bytes a day (500G), drive writes "
	        "a day\n"
	        "      (1dwpd), or part of what 'all' writes (33%%) (default: all)\n"
	        "  --promote HOW  which blocks that were found on disk are kept in RAM: always (as the "
	        "daemon "
	        "does), prefix\n"
	        "      (those behind others that are in RAM), again (at the second time), never (default: "
	        "always)\n"
	        "  --json  print JSON\n\n"
	        "exit codes: 0 done, 1 failed, 2 wrong arguments\n\n"
	        "examples:\n"
	        "  kvcellar replay tests/data/trace.jsonl --capacity 5%%,10%%,20%%\n"
	        "  kvcellar replay tests/data/trace.jsonl --capacity 2G,8G --preset raw,quality --policy "
	        "chain-lru\n"
	        "  kvcellar replay tests/data/trace.jsonl --capacity 5%% --policy chain-lru --disk 50%% \\\n"
	        "      --disk-budget all,33%%,1dwpd\n");
}

/* --- arguments --- */

static int list_parse(const char *option, const char *text, struct list *list)
{
	list->count = 0;
	while (*text) {
		size_t bytes = strcspn(text, ",");

		if (bytes == 0 || bytes >= ITEM_MAX || list->count == LIST_MAX)
			return kvc_usage_error(NAME, "%s %s: expected 1 to %d items separated by commas",
			                       option, text, LIST_MAX);
		memcpy(list->items[list->count], text, bytes);
		list->items[list->count++][bytes] = '\0';
		text += bytes;
		text += *text == ',';
	}
	if (list->count == 0)
		return kvc_usage_error(NAME, "%s needs a value", option);
	return -1;
}

static int model_parse(const char *text, const struct model **model)
{
	for (size_t i = 0; i < MODELS; i++) {
		if (strcmp(models[i].name, text) == 0) {
			*model = &models[i];
			return -1;
		}
	}
	return kvc_usage_error(NAME, "--model %s: expected one of those that --help lists, such as %s", text,
	                       models[0].name);
}

static int promote_parse(const char *text, struct options *options)
{
	static const char *const names[] = {
	        [KVC_PROMOTE_ALWAYS] = "always",
	        [KVC_PROMOTE_PREFIX] = "prefix",
	        [KVC_PROMOTE_AGAIN] = "again",
	        [KVC_PROMOTE_NEVER] = "never",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(names[i], text) == 0) {
			options->promote = (enum kvc_replay_promote)i;
			options->promote_given = true;
			return -1;
		}
	}
	return kvc_usage_error(NAME, "--promote %s: expected always, prefix, again or never", text);
}

static int set_option(int choice, const char *text, struct options *options)
{
	switch (choice) {
	case OPTION_CAPACITY:
		return list_parse("--capacity", text, &options->capacities);
	case OPTION_POLICY:
		return list_parse("--policy", text, &options->policies);
	case OPTION_PRESET:
		return list_parse("--preset", text, &options->presets);
	case OPTION_BUDGET:
		return list_parse("--disk-budget", text, &options->budgets);
	case OPTION_MODEL:
		return model_parse(text, &options->model);
	case OPTION_PROMOTE:
		return promote_parse(text, options);
	case OPTION_DISK:
		options->disk = text;
		return -1;
	case OPTION_JSON:
		options->json = true;
		return -1;
	case OPTION_SOCKET: /* of main; no daemon is asked */
		return -1;
	default:
		options->help = true;
		return -1;
	}
}

static int parse_options(int argc, char **argv, struct options *options)
{
	static const struct option table[] = {
	        {"capacity", required_argument, NULL, OPTION_CAPACITY},
	        {"policy", required_argument, NULL, OPTION_POLICY},
	        {"model", required_argument, NULL, OPTION_MODEL},
	        {"preset", required_argument, NULL, OPTION_PRESET},
	        {"disk", required_argument, NULL, OPTION_DISK},
	        {"disk-budget", required_argument, NULL, OPTION_BUDGET},
	        {"promote", required_argument, NULL, OPTION_PROMOTE},
	        {"socket", required_argument, NULL, OPTION_SOCKET},
	        {"json", no_argument, NULL, OPTION_JSON},
	        {"help", no_argument, NULL, OPTION_HELP},
	        {NULL, 0, NULL, 0},
	};
	int choice;

	opterr = 0;
	optind = 0;
	while ((choice = getopt_long(argc, argv, ":h", table, NULL)) != -1) {
		int code;

		if (choice == ':')
			code = kvc_usage_error(NAME, "%s needs a value", argv[optind - 1]);
		else if (choice == '?')
			code = kvc_usage_error(NAME, "unknown option %s", argv[optind - 1]);
		else
			code = set_option(choice, optarg, options);
		if (code >= 0)
			return code;
	}
	if (options->help)
		return -1;
	if (optind + 1 < argc)
		return kvc_usage_error(NAME, "unexpected argument %s", argv[optind + 1]);
	if (optind == argc)
		return kvc_usage_error(NAME, "TRACE is missing: a file of JSON lines, one request each");
	options->trace = argv[optind];
	if (options->budgets.count && !options->disk)
		return kvc_usage_error(NAME, "--disk-budget without --disk: how large is the disk tier?");
	if (options->promote_given && !options->disk)
		return kvc_usage_error(NAME, "--promote without --disk: how large is the disk tier?");
	return -1;
}

/* A number with a suffix of its own (*suffix points at it); false: none, or not above 0. */
static bool number_parse(const char *text, double *number, const char **suffix)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	*number = strtod(text, &end);
	*suffix = end;
	return end == text + strspn(text, "0123456789.") && *number > 0 && *number < 1e18;
}

/* Bytes with K, M, G or T; 0: not so. */
static uint64_t bytes_parse(const char *text)
{
	static const char units[] = "KMGT";
	const char *suffix, *unit;
	double number;

	if (!number_parse(text, &number, &suffix))
		return 0;
	if (*suffix == '\0')
		return (uint64_t)number;
	unit = strchr(units, *suffix);
	if (!unit || suffix[1] != '\0' || number >= 1e6)
		return 0;
	return (uint64_t)(number * (double)(1024ull << 10 * (unit - units)));
}

/* Returns -1, or an exit code. */
static int capacity_parse(const char *option, const char *text, uint64_t working_set, uint64_t *bytes)
{
	const char *suffix;
	double number;

	if (number_parse(text, &number, &suffix) && strcmp(suffix, "%") == 0 &&
	    number <= (double)PERCENT_MAX) {
		*bytes = (uint64_t)(number / 100 * (double)working_set);
		return -1;
	}
	*bytes = bytes_parse(text);
	if (*bytes)
		return -1;
	return kvc_usage_error(
	        NAME,
	        "%s %s: expected bytes, such as 256G, or part of the working set, such as 5%%, "
	        "up to %d%%",
	        option, text, PERCENT_MAX);
}

/* As many as can be counted: a short trace may stand for any number a day. */
static uint64_t bytes_of(double bytes)
{
	return bytes < 1e18 ? (uint64_t)bytes : UINT64_C(1000000000000000000);
}

/* Bytes a day; 0: no limit. `all_written`: bytes that a replay without limit writes. */
static int budget_parse(const char *text, const struct kvc_trace *trace, uint64_t disk_bytes,
                        uint64_t all_written, uint64_t *bytes)
{
	const char *suffix;
	double number;

	*bytes = 0;
	if (strcmp(text, "all") == 0)
		return -1;
	if (number_parse(text, &number, &suffix) && strcmp(suffix, "%") == 0)
		*bytes = bytes_of(number / 100 * kvc_replay_day(trace, all_written)) + 1;
	else if (number_parse(text, &number, &suffix) && strcmp(suffix, "dwpd") == 0)
		*bytes = bytes_of(number * (double)disk_bytes);
	else
		*bytes = bytes_parse(text);
	if (*bytes)
		return -1;
	return kvc_usage_error(
	        NAME,
	        "--disk-budget %s: expected 'all', bytes a day (500G), 1dwpd or part of all writes (33%%)",
	        text);
}

/* --- what is replayed --- */

/* Bytes of a block in RAM and on disk: its record. */
static int block_bytes(const struct model *model, const char *preset, uint64_t *bytes)
{
	struct kvc_block_shape shape = {
	        .layers = model->layers,
	        .heads = model->heads,
	        .key_dim = model->dim,
	        .value_dim = model->value_dim,
	        .tokens = KVC_TRACE_BLOCK_TOKENS,
	        .dtype = KVC_DTYPE_BF16,
	};
	struct kvc_block_codec codec;
	struct kvc_image_plan plan;

	if (kvc_preset_get(preset, &codec) != KVC_OK)
		return kvc_usage_error(NAME, "--preset %s: expected one of those that --help lists", preset);
	if (kvc_image_plan_init(&plan, &shape, &codec) != KVC_OK)
		return kvc_failure(NAME, "a block of %s is too large for the codec", model->name);
	*bytes = (RECORD_HEADER + plan.image_bytes + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
	return -1;
}

/* What is wrong is told before anything is replayed, which may take long. Returns -1, or an exit code. */
static int check_lists(const struct options *options, const struct kvc_trace *trace)
{
	enum kvc_policy_kind policy;
	uint64_t bytes;
	int code = -1;

	for (unsigned i = 0; i < options->policies.count; i++) {
		if (kvc_policy_parse(options->policies.items[i], &policy) != KVC_OK)
			return kvc_usage_error(NAME,
			                       "--policy %s: expected some of those that --help lists, or "
			                       "'all' alone",
			                       options->policies.items[i]);
	}
	for (unsigned i = 0; code < 0 && i < options->presets.count; i++)
		code = block_bytes(options->model, options->presets.items[i], &bytes);
	for (unsigned i = 0; code < 0 && i < options->capacities.count; i++)
		code = capacity_parse("--capacity", options->capacities.items[i], 1, &bytes);
	if (code < 0 && options->disk)
		code = capacity_parse("--disk", options->disk, 1, &bytes);
	for (unsigned i = 0; code < 0 && i < options->budgets.count; i++)
		code = budget_parse(options->budgets.items[i], trace, UINT64_C(1) << 40, 1, &bytes);
	return code;
}

/* The combinations, one after the other. */
struct progress {
	const struct options *options;
	const struct kvc_trace *trace;
	struct kvc_replay_report *report;
	unsigned done, all;
	bool shown;
};

static void show(struct progress *progress)
{
	progress->done++;
	if (progress->shown)
		(void)fprintf(stderr, "\r%u of %u replays", progress->done, progress->all);
	if (progress->shown && progress->done == progress->all)
		(void)fprintf(stderr, "\r\033[K");
}

static int replay(struct progress *progress, struct kvc_replay_row *row)
{
	if (!kvc_replay_run(progress->trace, &row->setup, &row->result))
		return kvc_failure(NAME, "out of memory");
	if (row->setup.budget_bytes == 0)
		row->all = row->result;
	return kvc_replay_report_add(progress->report, row) ? -1 : kvc_failure(NAME, "out of memory");
}

static int run_budgets(struct progress *progress, struct kvc_replay_row *row)
{
	const struct list *budgets = &progress->options->budgets;
	struct kvc_replay_setup all = row->setup;
	int code = -1;

	all.budget_bytes = 0;
	if (all.disk_bytes && !kvc_replay_run(progress->trace, &all, &row->all))
		return kvc_failure(NAME, "out of memory");
	for (unsigned i = 0; code < 0 && i < budgets->count; i++) {
		row->budget = budgets->items[i];
		code = budget_parse(row->budget, progress->trace, row->setup.disk_bytes, row->all.written,
		                    &row->setup.budget_bytes);
		if (code < 0)
			code = replay(progress, row);
		show(progress);
	}
	return code;
}

static int run_policies(struct progress *progress, struct kvc_replay_row *row)
{
	const struct list *policies = &progress->options->policies;
	int code = -1;

	for (unsigned i = 0; code < 0 && i < policies->count; i++) {
		(void)kvc_policy_parse(policies->items[i], &row->setup.policy);
		code = run_budgets(progress, row);
	}
	return code;
}

static int run_capacities(struct progress *progress, const char *preset)
{
	const struct options *options = progress->options;
	struct kvc_replay_row row = {.preset = preset, .setup.promote = options->promote};
	int code = block_bytes(options->model, preset, &row.setup.block_bytes);

	row.working_set = row.setup.block_bytes * progress->trace->distinct;
	if (code < 0 && options->disk)
		code = capacity_parse("--disk", options->disk, row.working_set, &row.setup.disk_bytes);
	for (unsigned i = 0; code < 0 && i < options->capacities.count; i++) {
		code = capacity_parse("--capacity", options->capacities.items[i], row.working_set,
		                      &row.setup.ram_bytes);
		if (code < 0)
			code = run_policies(progress, &row);
	}
	return code;
}

static int run(const struct options *options, const struct kvc_trace *trace)
{
	struct kvc_replay_report report = {
	        .trace = options->trace, .model = options->model->name, .requests = trace};
	struct progress progress = {
	        .options = options,
	        .trace = trace,
	        .report = &report,
	        .all = options->presets.count * options->capacities.count * options->policies.count *
	               options->budgets.count,
	        .shown = isatty(STDERR_FILENO) == 1,
	};
	int code = -1;

	for (unsigned i = 0; code < 0 && i < options->presets.count; i++)
		code = run_capacities(&progress, options->presets.items[i]);
	if (code < 0)
		code = kvc_replay_report_print(&report, options->json);
	kvc_replay_report_free(&report);
	return code;
}

/* 'all' is every policy; what was not given gets its default. */
static void set_defaults(struct options *options)
{
	static const char capacities[] = "1%,2%,5%,10%,20%,30%,50%,100%";

	if (!options->capacities.count)
		(void)list_parse("", capacities, &options->capacities);
	if (!options->presets.count)
		(void)list_parse("", kvc_preset_name(0), &options->presets);
	if (!options->budgets.count)
		(void)list_parse("", "all", &options->budgets);
	if (options->policies.count > 1 ||
	    (options->policies.count == 1 && strcmp(options->policies.items[0], "all") != 0))
		return;
	for (unsigned i = 0; i < KVC_POLICIES; i++)
		(void)snprintf(options->policies.items[i], ITEM_MAX, "%s",
		               kvc_policy_name((enum kvc_policy_kind)i));
	options->policies.count = KVC_POLICIES;
}

int kvc_cmd_replay(int argc, char **argv)
{
	struct options options = {.model = &models[0]};
	struct kvc_trace trace;
	int code = parse_options(argc, argv, &options);

	if (code < 0 && options.help) {
		print_help();
		return KVC_EXIT_OK;
	}
	if (code < 0)
		code = kvc_trace_read(NAME, options.trace, &trace);
	if (code >= 0)
		return code;
	set_defaults(&options);
	code = check_lists(&options, &trace);
	if (code < 0)
		code = run(&options, &trace);
	kvc_trace_free(&trace);
	return code;
}
