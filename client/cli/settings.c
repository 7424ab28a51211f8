/* Options by table: getopt_long is fed from it, values are checked against it, help is printed from it. */
#include "client/cli/settings.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"
#include "client/cli/device_pool.h"
#include "kernels/preset.h"

int kvc_usage_error(const char *name, const char *format, ...)
{
	va_list arguments;

	(void)fprintf(stderr, "kvcellar %s: ", name);
	va_start(arguments, format);
	(void)vfprintf(stderr, format, arguments);
	va_end(arguments);
	(void)fprintf(stderr, " (see 'kvcellar %s --help')\n", name);
	return KVC_EXIT_USAGE;
}

int kvc_failure(const char *name, const char *format, ...)
{
	va_list arguments;

	(void)fprintf(stderr, "kvcellar %s: ", name);
	va_start(arguments, format);
	(void)vfprintf(stderr, format, arguments);
	va_end(arguments);
	(void)fputc('\n', stderr);
	return KVC_EXIT_FAILURE;
}

/* ---- the table ----------------------------------------------------------------------------- */

enum kind { FLAG, TEXT, NUMBER, CHOICE, TIME };

/* A word and the number it stands for. */
struct choice {
	const char *word;
	uint64_t number;
};

static const struct choice dtypes[] = {
        {"bf16", KVC_ELEMENT_BF16}, {"fp16", KVC_ELEMENT_FP16}, {"fp32", KVC_ELEMENT_FP32}, {NULL, 0}};
static const struct choice acks[] = {{"ram", KVC_ACK_RAM}, {"disk", KVC_ACK_DISK}, {NULL, 0}};
static const struct choice priorities[] = {
        {"low", KVC_PUT_LOW}, {"normal", KVC_PUT_NORMAL}, {"high", KVC_PUT_HIGH}, {NULL, 0}};
static const struct choice planes[] = {{"shm", KVC_CLI_SHM}, {"inline", KVC_CLI_INLINE}, {NULL, 0}};
static const struct choice bench_planes[] = {
        {"shm", KVC_CLI_SHM}, {"inline", KVC_CLI_INLINE}, {"cuda", KVC_CLI_CUDA}, {NULL, 0}};
static const struct choice layouts[] = {{"kv-first", KVC_LAYOUT_KV_FIRST},
                                        {"page-first", KVC_LAYOUT_PAGE_FIRST},
                                        {"head-first", KVC_LAYOUT_HEAD_FIRST},
                                        {"fused", KVC_LAYOUT_FUSED},
                                        {NULL, 0}};

struct option_row {
	const char *name;
	enum kind kind;
	unsigned groups;
	bool required;
	size_t offset; /* in struct kvc_settings */
	uint64_t least;
	uint64_t most;
	const struct choice *choices;
	const char *argument;
	const char *help;
};

#define AT(member) offsetof(struct kvc_settings, member)

static const struct option_row rows[] = {
        {"model", TEXT, KVC_GROUP_SHAPE, true, AT(model), 0, 0, NULL, "NAME",
         "model and revision, or their fingerprint"},
        {"layers", NUMBER, KVC_GROUP_SHAPE, true, AT(layers), 1, 512, NULL, "L", "layers"},
        {"heads", NUMBER, KVC_GROUP_SHAPE, true, AT(heads), 1, 256, NULL, "H", "KV heads of this shard"},
        {"dim", NUMBER, KVC_GROUP_SHAPE, true, AT(dim), 16, 1024, NULL, "D",
         "channels of a head, a multiple of 16"},
        {"value-dim", NUMBER, KVC_GROUP_SHAPE, false, AT(value_dim), 0, 1024, NULL, "D",
         "channels of a value head if they differ; 0: no values"},
        {"dtype", CHOICE, KVC_GROUP_SHAPE, true, AT(dtype), 0, 0, dtypes, "TYPE", "element type"},
        {"block-tokens", NUMBER, KVC_GROUP_SHAPE, false, AT(block_tokens), 1, 4096, NULL, "N",
         "tokens of a block (default 128)"},
        {"tenant", TEXT, KVC_GROUP_SHAPE, false, AT(tenant), 0, 0, NULL, "NAME",
         "whose blocks (default: default)"},
        {"tenant", TEXT, KVC_GROUP_TENANT, true, AT(whole_tenant), 0, 0, NULL, "NAME", "which tenant"},
        {"shard", NUMBER, KVC_GROUP_SHAPE, false, AT(shard), 0, 65535, NULL, "N",
         "rank of this shard (default 0)"},
        {"shards", NUMBER, KVC_GROUP_SHAPE, false, AT(shards), 1, 65536, NULL, "N",
         "number of shards (default 1)"},
        {"preset", TEXT, KVC_GROUP_SHAPE, false, AT(preset), 0, 0, NULL, "NAME",
         "codec settings (default quality)"},
        {"key-codec", TEXT, KVC_GROUP_SHAPE, false, AT(key_codec), 0, 0, NULL, "SPEC",
         "own settings for keys, with --value-codec: BITS,gGROUP[,centre][,rotate][,gain][,clip=R], or raw"},
        {"value-codec", TEXT, KVC_GROUP_SHAPE, false, AT(value_codec), 0, 0, NULL, "SPEC",
         "the same for values"},
        {"tokens", NUMBER, KVC_GROUP_SEQUENCE, true, AT(tokens), 1, 1u << 30, NULL, "T",
         "tokens of the sequence"},
        {"sequence", TEXT, KVC_GROUP_SEQUENCE, false, AT(sequence), 0, 0, NULL, "ID",
         "name of the sequence (put: default is a hash of the files)"},
        {"keys", TEXT, KVC_GROUP_PUT, true, AT(keys), 0, 0, NULL, "FILE",
         "keys, C order [layers][tokens][heads][dim]"},
        {"values", TEXT, KVC_GROUP_PUT, false, AT(values), 0, 0, NULL, "FILE", "values, likewise"},
        {"ack", CHOICE, KVC_GROUP_PUT, false, AT(ack), 0, 0, acks, "WHERE",
         "when a block counts as stored (default ram)"},
        {"ttl", TIME, KVC_GROUP_PUT, false, AT(ttl_ms), 1, UINT32_MAX, NULL, "TIME",
         "forget the blocks after so long (500ms, 30s, 10m, 2h, 1d), and at a restart; not with --ack disk"},
        {"priority", CHOICE, KVC_GROUP_PUT, false, AT(priority), 0, 0, priorities, "HOW",
         "which of the tenant's blocks are evicted first (default normal)"},
        {"ephemeral", FLAG, KVC_GROUP_PUT, false, AT(ephemeral), 0, 0, NULL, NULL,
         "never write the blocks to disk; not with --ack disk"},
        {"prefetch", FLAG, KVC_GROUP_LOOKUP, false, AT(prefetch), 0, 0, NULL, NULL,
         "begin to bring blocks that rest on disk into RAM"},
        {"out-keys", TEXT, KVC_GROUP_GET, true, AT(out_keys), 0, 0, NULL, "FILE", "where keys go"},
        {"out-values", TEXT, KVC_GROUP_GET, false, AT(out_values), 0, 0, NULL, "FILE", "where values go"},
        {"plane", CHOICE, KVC_GROUP_PLANE, false, AT(plane), 0, 0, planes, "HOW",
         "how blocks travel (default shm)"},
        {"plane", CHOICE, KVC_GROUP_BENCH, false, AT(plane), 0, 0, bench_planes, "HOW",
         "how blocks travel (default shm)"},
        {"depth", NUMBER, KVC_GROUP_PLANE | KVC_GROUP_BENCH, false, AT(depth), 1, 128, NULL, "N",
         "requests on their way at a time (default 4)"},
        {"blocks", NUMBER, KVC_GROUP_BENCH, false, AT(blocks), 1, 1u << 20, NULL, "N",
         "blocks to move (default 64)"},
        {"bytes", NUMBER, KVC_GROUP_BENCH, false, AT(bytes), 1, 1ull << 44, NULL, "N",
         "the same, as bytes before compression"},
        {"batch", NUMBER, KVC_GROUP_BENCH, false, AT(batch), 1, 1024, NULL, "N",
         "blocks of a request (default 1, cuda: 16); keys of a batched look-up are 64 times that, at most "
         "1024"},
        {"lookups", NUMBER, KVC_GROUP_BENCH, false, AT(lookups), 1, 1u << 24, NULL, "N",
         "look-ups to time (default 20000)"},
        {"gpu", NUMBER, KVC_GROUP_BENCH, false, AT(gpu), 0, 63, NULL, "N",
         "cuda: GPU that the pool is on (default 0)"},
        {"page-tokens", NUMBER, KVC_GROUP_BENCH, false, AT(page_tokens), 1, 4096, NULL, "N",
         "cuda: tokens of a page (default 16)"},
        {"layout", CHOICE, KVC_GROUP_BENCH, false, AT(layout), 0, 0, layouts, "HOW",
         "cuda: how a layer's pages lie (default kv-first)"},
        {"deadline-ms", NUMBER, KVC_GROUP_COMMON, false, AT(deadline_ms), 1, 3600000, NULL, "MS",
         "time for each request (default 10000)"},
        {"socket", TEXT, KVC_GROUP_COMMON, false, AT(socket), 0, 0, NULL, "PATH", "the daemon's socket"},
        {"json", FLAG, KVC_GROUP_COMMON, false, AT(json), 0, 0, NULL, NULL, "print the result as JSON"},
        {"help", FLAG, KVC_GROUP_COMMON, false, AT(help), 0, 0, NULL, NULL, "print this"},
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct kvc_settings defaults = {
        .deadline_ms = 10000,
        .tenant = "default",
        .value_dim = KVC_SETTING_UNSET,
        .block_tokens = 128,
        .shards = 1,
        .ack = KVC_ACK_RAM,
        .priority = KVC_PUT_NORMAL,
        .plane = KVC_CLI_SHM,
        .depth = 4,
        .blocks = 64,
        .lookups = 20000,
        .page_tokens = 16,
        .layout = KVC_LAYOUT_KV_FIRST,
};

/* ---- help ---------------------------------------------------------------------------------- */

static void print_choices(FILE *out, const struct choice *choices)
{
	for (const struct choice *choice = choices; choice->word; choice++)
		(void)fprintf(out, "%s%s", choice == choices ? "" : ", ", choice->word);
}

static void print_presets(FILE *out)
{
	for (unsigned i = 0; kvc_preset_name(i); i++)
		(void)fprintf(out, "%s%s", i ? ", " : "", kvc_preset_name(i));
}

static void print_option(const struct option_row *row, bool required)
{
	char left[64];

	(void)snprintf(left, sizeof(left), "--%s%s%s", row->name, row->argument ? " " : "",
	               row->argument ? row->argument : "");
	(void)printf("  %-20s %s", left, row->help);
	if (row->choices) {
		(void)printf(": ");
		print_choices(stdout, row->choices);
	}
	if (row->offset == AT(preset)) {
		(void)printf(": ");
		print_presets(stdout);
	}
	(void)printf("%s\n", required ? " (required)" : "");
}

static void print_usage(const struct kvc_usage *usage)
{
	(void)printf("usage: kvcellar %s [OPTIONS]\n\n%s\n\noptions:\n", usage->name, usage->what);
	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].groups & usage->groups)
			print_option(&rows[i], rows[i].required && rows[i].groups & usage->required);
	}
	(void)printf("\nexamples:\n%s", usage->examples);
}

/* ---- values -------------------------------------------------------------------------------- */

static void *field(struct kvc_settings *settings, const struct option_row *row)
{
	return (char *)settings + row->offset;
}

static int set_number(const char *name, const struct option_row *row, const char *text, uint64_t *out)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-' || number < row->least || number > row->most)
		return kvc_usage_error(name, "--%s %s: expected a number from %" PRIu64 " to %" PRIu64,
		                       row->name, text, row->least, row->most);
	*out = number;
	return -1;
}

/* A whole number and its unit, in milliseconds. */
static int set_time(const char *name, const struct option_row *row, const char *text, uint64_t *out)
{
	static const struct choice units[] = {{"ms", 1},      {"s", 1000},     {"m", 60000},
	                                      {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	for (const struct choice *unit = units; !errno && text[0] >= '0' && text[0] <= '9' && unit->word;
	     unit++) {
		if (strcmp(unit->word, end) != 0 || number > row->most / unit->number ||
		    number * unit->number < row->least)
			continue;
		*out = number * unit->number;
		return -1;
	}
	return kvc_usage_error(
	        name, "--%s %s: expected a time such as 500ms, 30s, 10m, 2h or 1d, at most %" PRIu64 "d",
	        row->name, text, row->most / 86400000);
}

static int set_choice(const char *name, const struct option_row *row, const char *text, uint64_t *out)
{
	for (const struct choice *choice = row->choices; choice->word; choice++) {
		if (strcmp(choice->word, text) == 0) {
			*out = choice->number;
			return -1;
		}
	}
	(void)fprintf(stderr, "kvcellar %s: --%s %s: expected one of: ", name, row->name, text);
	print_choices(stderr, row->choices);
	(void)fputc('\n', stderr);
	return KVC_EXIT_USAGE;
}

static int set_option(const char *name, const struct option_row *row, const char *text,
                      struct kvc_settings *settings)
{
	switch (row->kind) {
	case FLAG:
		*(uint64_t *)field(settings, row) = 1;
		return -1;
	case NUMBER:
		return set_number(name, row, text, field(settings, row));
	case TIME:
		return set_time(name, row, text, field(settings, row));
	case CHOICE:
		return set_choice(name, row, text, field(settings, row));
	case TEXT:
		break;
	}
	if (!text[0])
		return kvc_usage_error(name, "--%s is empty", row->name);
	*(const char **)field(settings, row) = text;
	return -1;
}

/* No required option has 0 or NULL as a value. */
static bool is_set(struct kvc_settings *settings, const struct option_row *row)
{
	if (row->kind == TEXT)
		return *(const char **)field(settings, row) != NULL;
	return *(uint64_t *)field(settings, row) != 0;
}

static int check_required(const struct kvc_usage *usage, struct kvc_settings *settings)
{
	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].required && rows[i].groups & usage->required && !is_set(settings, &rows[i]))
			return kvc_usage_error(usage->name, "--%s is missing: %s", rows[i].name,
			                       rows[i].help);
	}
	return -1;
}

/* ---- parsing ------------------------------------------------------------------------------- */

static size_t fill_options(const struct kvc_usage *usage, struct option *options)
{
	size_t count = 0;

	for (size_t i = 0; i < ROWS; i++) {
		if (rows[i].groups & usage->groups)
			options[count++] = (struct option){
			        rows[i].name, rows[i].kind == FLAG ? no_argument : required_argument, NULL,
			        (int)i + 1};
	}
	options[count] = (struct option){NULL, 0, NULL, 0};
	return count;
}

static int parse_options(const struct kvc_usage *usage, int argc, char **argv, struct kvc_settings *settings)
{
	struct option options[ROWS + 1];
	int which;

	(void)fill_options(usage, options);
	opterr = 0;
	optind = 1;
	while ((which = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		int result;

		if (which == ':')
			return kvc_usage_error(usage->name, "%s needs a value", argv[optind - 1]);
		if (which == '?')
			return kvc_usage_error(usage->name, "unknown option %s", argv[optind - 1]);
		result = set_option(usage->name, &rows[which - 1], optarg, settings);
		if (result >= 0)
			return result;
	}
	if (optind < argc)
		return kvc_usage_error(usage->name, "unexpected argument '%s': everything is an option",
		                       argv[optind]);
	return -1;
}

int kvc_settings_parse(const struct kvc_usage *usage, int argc, char **argv, struct kvc_settings *settings)
{
	int result;

	*settings = defaults;
	result = parse_options(usage, argc, argv, settings);
	if (result < 0 && settings->help) {
		print_usage(usage);
		return KVC_EXIT_OK;
	}
	return result < 0 ? check_required(usage, settings) : result;
}

/* ---- namespace ----------------------------------------------------------------------------- */

/* 0: none, which nothing here may be. */
static uint32_t small_number(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	return digits > 0 && digits <= 3 && !text[digits] ? (uint32_t)strtoul(text, NULL, 10) : 0;
}

/* One word of a codec's settings: "4", "g32", "centre", "clip=0.9", "raw". */
static bool set_coding(struct kvc_coding *coding, const char *word)
{
	char *end = NULL;

	if (strcmp(word, "raw") == 0)
		coding->bits = 255;
	else if (strcmp(word, "centre") == 0)
		coding->centre = 1;
	else if (strcmp(word, "rotate") == 0)
		coding->rotate = 1;
	else if (strcmp(word, "gain") == 0)
		coding->gain = 1;
	else if (strncmp(word, "clip=", 5) == 0)
		coding->clip = strtof(word + 5, &end);
	else if (word[0] == 'g')
		coding->group = small_number(word + 1);
	else
		coding->bits = small_number(word);
	return !end || (!*end && end != word);
}

static bool parse_coding(const char *name, const char *option, const char *spec, struct kvc_coding *coding)
{
	char copy[128];
	char *rest = NULL;
	bool good = strlen(spec) < sizeof(copy);

	*coding = (struct kvc_coding){.group = 64};
	(void)snprintf(copy, sizeof(copy), "%s", spec);
	for (char *word = strtok_r(copy, ",", &rest); good && word; word = strtok_r(NULL, ",", &rest))
		good = set_coding(coding, word);
	good = good && ((coding->bits >= 2 && coding->bits <= 8) || coding->bits == 255);
	good = good && coding->clip >= 0 && coding->clip <= 1;
	good = good &&
	       (coding->group == 16 || coding->group == 32 || coding->group == 64 || coding->group == 128);
	if (!good)
		(void)kvc_usage_error(
		        name,
		        "--%s %s: expected 'raw', or 2 to 8 bits, then g16, g32, g64 or g128 and any of "
		        "centre, rotate, gain, clip=0 to 1, such as 4,g32,centre,rotate,gain",
		        option, spec);
	return good;
}

static bool check_preset(const char *name, const char *preset)
{
	for (unsigned i = 0; kvc_preset_name(i); i++) {
		if (strcmp(kvc_preset_name(i), preset) == 0)
			return true;
	}
	(void)fprintf(stderr, "kvcellar %s: --preset %s: expected one of: ", name, preset);
	print_presets(stderr);
	(void)fputc('\n', stderr);
	return false;
}

static bool set_codec(const char *name, const struct kvc_settings *settings,
                      struct kvc_namespace_options *options)
{
	bool own = settings->key_codec || settings->value_codec;

	if (!own) {
		options->preset = settings->preset ? settings->preset : kvc_preset_name(0);
		return check_preset(name, options->preset);
	}
	if (!settings->key_codec || !settings->value_codec || settings->preset) {
		(void)kvc_usage_error(name,
		                      "--key-codec and --value-codec go together, and not with --preset");
		return false;
	}
	options->preset = NULL;
	return parse_coding(name, "key-codec", settings->key_codec, &options->key_coding) &&
	       parse_coding(name, "value-codec", settings->value_codec, &options->value_coding);
}

bool kvc_settings_namespace(const char *name, const struct kvc_settings *settings,
                            struct kvc_namespace_options *options)
{
	uint64_t value_dim = settings->value_dim == KVC_SETTING_UNSET ? settings->dim : settings->value_dim;

	kvc_namespace_options_init(options);
	if (settings->dim % KVC_DIM_STEP || value_dim % KVC_DIM_STEP) {
		(void)kvc_usage_error(name,
		                      "--%s %" PRIu64
		                      " is no multiple of %u: pad the heads, or give --dim as it is "
		                      "in the files",
		                      settings->dim % KVC_DIM_STEP ? "dim" : "value-dim",
		                      settings->dim % KVC_DIM_STEP ? settings->dim : value_dim, KVC_DIM_STEP);
		return false;
	}
	if (settings->shard >= settings->shards) {
		(void)kvc_usage_error(name, "--shard %" PRIu64 ": expected less than --shards %" PRIu64,
		                      settings->shard, settings->shards);
		return false;
	}
	options->tenant = settings->tenant;
	options->model = settings->model;
	options->layers = (uint32_t)settings->layers;
	options->heads = (uint32_t)settings->heads;
	options->key_dim = (uint32_t)settings->dim;
	options->value_dim = (uint32_t)value_dim;
	options->element = (uint32_t)settings->dtype;
	options->block_tokens = (uint32_t)settings->block_tokens;
	options->shard = (uint32_t)settings->shard;
	options->shards = (uint32_t)settings->shards;
	options->prefetch = (uint32_t)settings->prefetch;
	return set_codec(name, settings, options);
}
