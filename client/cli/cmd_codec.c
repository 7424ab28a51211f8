/* kvcellar codec: one file of keys or values through the codec and back, to see what a setting costs and
 * keeps. Asks no daemon. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cmd.h"
#include "client/cli/output.h"
#include "client/cli/report.h"
#include "client/cli/round_trip.h"
#include "client/cli/settings.h"
#include "kernels/image.h"

#define NAME       "codec"
#define TOKENS_MAX (UINT64_C(1) << 31)

struct options {
	const char *in;
	const char *out;
	const char *dtype;
	const char *simd;
	const char *clip;
	const char *socket; /* of main; not used */
	uint64_t layers, tokens, heads, dim, block_tokens, bits, group, centre, rotate, gain;
	bool json;
	bool help;
};

/* An option with a value: a number within bounds, or a text (max 0). Numbers without default are required. */
struct row {
	const char *name;
	size_t offset; /* in struct options */
	uint64_t min, max;
	uint64_t fallback; /* KVC_SETTING_UNSET: required */
	const char *help;
};

#define ROW(name, field, min, max, fallback, help)                              \
	{                                                                       \
		name, offsetof(struct options, field), min, max, fallback, help \
	}

static const struct row rows[] = {
        ROW("in", in, 0, 0, KVC_SETTING_UNSET, "FILE  what to restore: C order [layers][tokens][heads][dim]"),
        ROW("out", out, 0, 0, 0, "FILE  where to write what was restored (default: nowhere)"),
        ROW("layers", layers, 1, KVC_LAYERS_MAX, KVC_SETTING_UNSET, "N"),
        ROW("tokens", tokens, 1, TOKENS_MAX, KVC_SETTING_UNSET, "N"),
        ROW("heads", heads, 1, KVC_HEADS_MAX, KVC_SETTING_UNSET, "N  key-value heads"),
        ROW("dim", dim, KVC_DIM_STEP, KVC_DIM_MAX, KVC_SETTING_UNSET,
            "N  channels of a head, a multiple of 16"),
        ROW("dtype", dtype, 0, 0, 0, "bf16|fp16|fp32  (default: bf16)"),
        ROW("block-tokens", block_tokens, 1, KVC_TOKENS_MAX, 128, "N  tokens of a block (default: 128)"),
        ROW("bits", bits, KVC_BITS_MIN, KVC_BITS_MAX, KVC_SETTING_UNSET, "N  of a code, 2 to 8"),
        ROW("group", group, KVC_GROUP_MIN, KVC_GROUP_MAX, 32,
            "N  channels that share a scale: 16, 32, 64 or 128 (default: 32)"),
        ROW("centre", centre, 0, 1, 1, "0|1  subtract channel means (default: 1)"),
        ROW("rotate", rotate, 0, 1, 1, "0|1  rotate the channels (default: 1)"),
        ROW("gain", gain, 0, 1, 1, "0|1  correct mean and gain of groups (default: 1)"),
        ROW("clip", clip, 0, 0, 0,
            "R  part of the range that is used, above 0 up to 1 (default: the format's)"),
        ROW("simd", simd, 0, 0, 0, "scalar|avx2|avx512  (default: the best that this processor has)"),
        ROW("socket", socket, 0, 0, 0, "PATH  not used: no daemon is asked"),
};

#define ROWS ((int)(sizeof(rows) / sizeof(rows[0])))

enum { OPTION_JSON = 1000, OPTION_HELP };

static void print_help(void)
{
	(void)printf("usage: kvcellar codec --in FILE [--out FILE] --layers N --tokens N --heads N --dim N "
	             "--bits N "
	             "[OPTIONS]\n\n"
	             "Put a file of keys or of values through the codec and back; print what it costs and "
	             "keeps.\n\n"
	             "options:\n");
	for (int i = 0; i < ROWS; i++)
		(void)printf("  --%s %s\n", rows[i].name, rows[i].help);
	(void)printf(
	        "  --json  print JSON\n\n"
	        "exit codes: 0 done, 1 failed, 2 wrong arguments\n\n"
	        "examples:\n"
	        "  kvcellar codec --in tests/data/keys.bf16 --layers 8 --tokens 256 --heads 2 --dim 128 \\\n"
	        "      --bits 4 --group 32 --out restored.bf16\n"
	        "  kvcellar codec --in tests/data/values.bf16 --layers 8 --tokens 256 --heads 2 --dim 128 "
	        "\\\n"
	        "      --bits 2 --group 64 --rotate 0\n");
}

/* --- arguments --- */

static int parse_number(const struct row *row, const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 10);
	if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0' || *number < row->min ||
	    *number > row->max)
		return kvc_usage_error(NAME, "--%s %s: expected a number from %" PRIu64 " to %" PRIu64,
		                       row->name, text, row->min, row->max);
	return -1;
}

static int set_option(const struct row *row, const char *text, struct options *options)
{
	void *field = (char *)options + row->offset;

	if (row->max > 0)
		return parse_number(row, text, field);
	if (!text[0])
		return kvc_usage_error(NAME, "--%s is empty", row->name);
	memcpy(field, &text, sizeof(text));
	return -1;
}

static void set_defaults(struct options *options)
{
	*options = (struct options){.dtype = "bf16"};
	for (int i = 0; i < ROWS; i++) {
		if (rows[i].max > 0)
			memcpy((char *)options + rows[i].offset, &rows[i].fallback, sizeof(uint64_t));
	}
}

/* Returns -1, or an exit code. */
static int check_required(const struct options *options)
{
	if (!options->in)
		return kvc_usage_error(NAME, "--in is missing: the file to put through the codec");
	for (int i = 0; i < ROWS; i++) {
		uint64_t number;

		if (rows[i].max == 0)
			continue;
		memcpy(&number, (const char *)options + rows[i].offset, sizeof(number));
		if (number == KVC_SETTING_UNSET)
			return kvc_usage_error(
			        NAME, "--%s is missing: expected a number from %" PRIu64 " to %" PRIu64,
			        rows[i].name, rows[i].min, rows[i].max);
	}
	return -1;
}

static int parse_options(int argc, char **argv, struct options *options)
{
	struct option table[sizeof(rows) / sizeof(rows[0]) + 3] = {0};
	int choice;

	for (int i = 0; i < ROWS; i++)
		table[i] = (struct option){rows[i].name, required_argument, NULL, i};
	table[ROWS] = (struct option){"json", no_argument, NULL, OPTION_JSON};
	table[ROWS + 1] = (struct option){"help", no_argument, NULL, OPTION_HELP};
	set_defaults(options);
	opterr = 0;
	optind = 0;
	while ((choice = getopt_long(argc, argv, ":h", table, NULL)) != -1) {
		int code = -1;

		if (choice == OPTION_HELP || choice == 'h')
			options->help = true;
		else if (choice == OPTION_JSON)
			options->json = true;
		else if (choice == ':')
			code = kvc_usage_error(NAME, "%s needs a value", argv[optind - 1]);
		else if (choice == '?')
			code = kvc_usage_error(NAME, "unknown option %s", argv[optind - 1]);
		else
			code = set_option(&rows[choice], optarg, options);
		if (code >= 0)
			return code;
	}
	if (options->help)
		return -1;
	if (optind < argc)
		return kvc_usage_error(NAME, "unexpected argument %s", argv[optind]);
	return check_required(options);
}

static int set_dtype(const struct options *options, enum kvc_dtype *dtype)
{
	static const char *const words[] = {"bf16", "fp16", "fp32"};

	for (size_t i = 0; i < 3; i++) {
		if (strcmp(options->dtype, words[i]) == 0) {
			*dtype = (enum kvc_dtype)(KVC_DTYPE_BF16 + i);
			return -1;
		}
	}
	return kvc_usage_error(NAME, "--dtype %s: expected bf16, fp16 or fp32", options->dtype);
}

static int set_clip(const struct options *options, float *clip)
{
	char *end;

	*clip = 0.0f;
	if (!options->clip)
		return -1;
	*clip = strtof(options->clip, &end);
	if (end == options->clip || *end != '\0' || !(*clip > 0.0f && *clip <= 1.0f))
		return kvc_usage_error(NAME, "--clip %s: expected a number above 0 and up to 1",
		                       options->clip);
	return -1;
}

static int set_codec(const struct options *options, const struct kvc_codec **codec)
{
	static const char *const words[] = {"scalar", "avx2", "avx512"};

	*codec = kvc_codec_get(KVC_SIMD_AUTO);
	if (!options->simd)
		return -1;
	for (size_t i = 0; i < 3; i++) {
		if (strcmp(options->simd, words[i]) != 0)
			continue;
		*codec = kvc_codec_get((enum kvc_simd)(KVC_SIMD_SCALAR + i));
		if (*codec)
			return -1;
		return kvc_failure(NAME, "--simd %s: this processor does not have it", options->simd);
	}
	return kvc_usage_error(NAME, "--simd %s: expected scalar, avx2 or avx512", options->simd);
}

/* Returns -1, or an exit code. */
static int make_trip(const struct options *options, struct kvc_round_trip *trip)
{
	int code;

	*trip = (struct kvc_round_trip){
	        .layers = (uint32_t)options->layers,
	        .heads = (uint32_t)options->heads,
	        .dim = (uint32_t)options->dim,
	        .tokens = options->tokens,
	        .block_tokens = (uint32_t)options->block_tokens,
	        .params = {.bits = (uint8_t)options->bits,
	                   .group = (uint16_t)options->group,
	                   .centre = options->centre,
	                   .rotate = options->rotate,
	                   .gain = options->gain},
	};
	if (options->dim % KVC_DIM_STEP != 0)
		return kvc_usage_error(NAME, "--dim %" PRIu64 ": expected a multiple of %u", options->dim,
		                       KVC_DIM_STEP);
	code = set_dtype(options, &trip->dtype);
	if (code < 0)
		code = set_clip(options, &trip->params.clip);
	if (code < 0 && kvc_codec_params_check(&trip->params) != KVC_OK)
		code = kvc_usage_error(NAME, "--group %" PRIu64 ": expected 16, 32, 64 or 128",
		                       options->group);
	return code < 0 ? set_codec(options, &trip->codec) : code;
}

/* --- files --- */

/* Read a file that must have so many bytes into new memory. Returns -1, or an exit code. */
static int load_open_file(const char *path, FILE *file, uint64_t bytes, uint8_t **memory)
{
	struct stat status;

	if (fstat(fileno(file), &status) != 0)
		return kvc_failure(NAME, "%s: %s", path, strerror(errno));
	if (!S_ISREG(status.st_mode))
		return kvc_failure(NAME, "%s: expected a regular file", path);
	if ((uint64_t)status.st_size != bytes)
		return kvc_failure(NAME,
		                   "%s has %jd bytes, expected %" PRIu64
		                   ": layers x tokens x heads x dim x bytes of an element",
		                   path, (intmax_t)status.st_size, bytes);
	*memory = malloc(bytes);
	if (!*memory)
		return kvc_failure(NAME, "out of memory for %" PRIu64 " bytes", bytes);
	if (fread(*memory, 1, bytes, file) == bytes)
		return -1;
	free(*memory);
	return kvc_failure(NAME, "%s: %s", path,
	                   ferror(file) ? strerror(errno) : "it became shorter while it was read");
}

static int load_file(const char *path, uint64_t bytes, uint8_t **memory)
{
	int fd =
	        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* so that a pipe is refused, not waited for */
	FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;
	int code;

	if (!file) {
		code = kvc_failure(NAME, "cannot open %s: %s", path, strerror(errno));
		if (fd >= 0)
			(void)close(fd);
		return code;
	}
	code = load_open_file(path, file, bytes, memory);
	(void)fclose(file);
	return code;
}

static int write_file(const char *path, uint64_t bytes, const uint8_t *memory)
{
	struct kvc_output output;
	int code = kvc_output_create(&output, NAME, path, KVC_OUTPUT_ANY);

	if (code < 0 && (!kvc_output_write(&output, memory, bytes) || !kvc_output_commit(&output)))
		code = KVC_EXIT_FAILURE;
	kvc_output_discard(&output);
	return code;
}

/* --- the command --- */

static double per_second(uint64_t bytes, double seconds)
{
	return seconds > 0.0 ? (double)bytes / seconds * 1e-9 : 0.0;
}

static int print_results(const struct options *options, const struct kvc_round_trip *trip)
{
	uint64_t bytes = kvc_round_trip_bytes(trip);
	struct kvc_report report;

	kvc_report_init(&report);
	kvc_report_text(&report, "simd", trip->codec->name);
	kvc_report_real(&report, "nmse", trip->nmse);
	kvc_report_real(&report, "gain", trip->gain);
	kvc_report_real(&report, "ratio", (double)bytes / (double)trip->coded_bytes);
	kvc_report_count(&report, "tiles", trip->tiles);
	kvc_report_count(&report, "raw_tiles", trip->raw_tiles);
	kvc_report_count(&report, "source_bytes", bytes);
	kvc_report_count(&report, "coded_bytes", trip->coded_bytes);
	kvc_report_real(&report, "encode_gb_per_s", per_second(bytes, trip->encode_seconds));
	kvc_report_real(&report, "decode_gb_per_s", per_second(bytes, trip->decode_seconds));
	return kvc_report_print(&report, options->json, KVC_EXIT_OK);
}

static int run(const struct options *options, struct kvc_round_trip *trip, uint8_t *source)
{
	uint64_t bytes = kvc_round_trip_bytes(trip);
	uint8_t *restored = malloc(bytes);
	int code = -1;

	if (!restored)
		return kvc_failure(NAME, "out of memory for %" PRIu64 " bytes", bytes);
	memset(restored, 0, bytes); /* so that page faults are not measured */
	if (!kvc_round_trip_run(trip, source, restored))
		code = kvc_failure(NAME, "out of memory");
	if (code < 0 && options->out)
		code = write_file(options->out, bytes, restored);
	free(restored);
	return code < 0 ? print_results(options, trip) : code;
}

int kvc_cmd_codec(int argc, char **argv)
{
	struct options options;
	struct kvc_round_trip trip;
	uint8_t *source = NULL;
	int code = parse_options(argc, argv, &options);

	if (code < 0 && options.help) {
		print_help();
		return KVC_EXIT_OK;
	}
	if (code < 0)
		code = make_trip(&options, &trip);
	if (code < 0)
		code = load_file(options.in, kvc_round_trip_bytes(&trip), &source);
	if (code >= 0)
		return code;
	code = run(&options, &trip, source);
	free(source);
	return code;
}
