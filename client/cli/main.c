/* kvcellar: the command line over libkvcellar. Finds the command and gives it its arguments; --socket and
 * --json may also stand before the command. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"
#include "kvcellar.h"

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
};

static const struct command commands[] = {
        {"ping", kvc_cmd_ping, "ask the daemon for a sign of life"},
        {"stats", kvc_cmd_stats, "print the daemon's counters and gauges"},
        {"put", kvc_cmd_put, "store the KV cache of a sequence from files"},
        {"get", kvc_cmd_get, "restore the KV cache of a sequence into files"},
        {"lookup", kvc_cmd_lookup, "say how much of a sequence is stored, and where"},
        {"drop", kvc_cmd_drop, "forget a sequence"},
        {"drop-tenant", kvc_cmd_drop_tenant, "forget everything of a tenant"},
        {"bench", kvc_cmd_bench, "measure put, get and look-up of the running daemon"},
        {"codec", kvc_cmd_codec, "put a file through the codec and back, without a daemon"},
        {"replay", kvc_cmd_replay, "try capacities and policies on a request trace, without a daemon"},
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *out)
{
	(void)fprintf(out,
	              "usage: kvcellar [--socket PATH] [--json] COMMAND [OPTIONS]\n\n"
	              "Store the KV cache of a language model in a running kvcellard and get it back.\n\n"
	              "commands:\n");
	for (size_t i = 0; i < COMMANDS; i++)
		(void)fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].help);
	(void)fprintf(
	        out,
	        "\n'kvcellar COMMAND --help' explains a command.\n\n"
	        "The daemon's socket is --socket, else $KVCELLAR_SOCKET, else %s.\n\n"
	        "exit codes: 0 done, 1 failed, 2 wrong arguments, 3 less was there than asked for\n\n"
	        "examples:\n"
	        "  kvcellar ping\n"
	        "  kvcellar put --model llama --layers 32 --heads 8 --dim 128 --dtype bf16 --tokens 2048 \\\n"
	        "      --keys keys.bf16 --values values.bf16 --sequence prompt-1\n"
	        "  kvcellar get --model llama --layers 32 --heads 8 --dim 128 --dtype bf16 --tokens 2048 \\\n"
	        "      --sequence prompt-1 --out-keys k.bf16 --out-values v.bf16\n",
	        kvc_default_socket());
}

static int usage_error(const char *what, const char *name)
{
	(void)fprintf(stderr, "kvcellar: %s%s%s: expected %sone of:", what, name[0] ? " " : "", name,
	              name[0] == '-' ? "--json, --socket PATH or " : "");
	for (size_t i = 0; i < COMMANDS; i++)
		(void)fprintf(stderr, " %s", commands[i].name);
	(void)fprintf(stderr, " (see 'kvcellar --help')\n");
	return KVC_EXIT_USAGE;
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

/* How many arguments from argv[1] on belong to all commands; -1: *wrong does not. */
static int common_arguments(int argc, char **argv, const char **wrong)
{
	int i = 1;

	while (i < argc && argv[i][0] == '-') {
		if (strcmp(argv[i], "--json") == 0 || strncmp(argv[i], "--socket=", 9) == 0) {
			i++;
		} else if (strcmp(argv[i], "--socket") == 0 && i + 1 < argc) {
			i += 2;
		} else {
			*wrong = argv[i];
			return -1;
		}
	}
	return i - 1;
}

/* The command's arguments: its name, what stood before it, the rest. */
static int dispatch(int argc, char **argv, int common)
{
	const struct command *command = find_command(argv[1 + common]);
	char **arguments;
	int result;

	if (!command)
		return usage_error("unknown command", argv[1 + common]);
	arguments = calloc((size_t)argc + 1, sizeof(*arguments));
	if (!arguments) {
		(void)fprintf(stderr, "kvcellar: out of memory\n");
		return KVC_EXIT_FAILURE;
	}
	arguments[0] = argv[1 + common];
	memcpy(arguments + 1, argv + 1, (size_t)common * sizeof(*argv));
	memcpy(arguments + 1 + common, argv + 2 + common, (size_t)(argc - 2 - common) * sizeof(*argv));
	result = command->run(argc - 1, arguments);
	free(arguments);
	return result;
}

static int run(int argc, char **argv)
{
	const char *wrong = NULL;
	int common;

	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		print_help(stdout);
		return KVC_EXIT_OK;
	}
	if (argc > 1 && strcmp(argv[1], "--version") == 0) {
		(void)printf("kvcellar %s\n", kvc_version());
		return KVC_EXIT_OK;
	}
	common = common_arguments(argc, argv, &wrong);
	if (common < 0)
		return strcmp(wrong, "--socket") == 0
		               ? usage_error("--socket before the command needs a value", "")
		               : usage_error("wrong option before the command:", wrong);
	if (1 + common >= argc)
		return usage_error("no command", "");
	return dispatch(argc, argv, common);
}

int main(int argc, char **argv)
{
	int result = run(argc, argv);

	if ((fflush(stdout) != 0 || ferror(stdout)) && (result == KVC_EXIT_OK || result == KVC_EXIT_SHORT)) {
		(void)fprintf(stderr, "kvcellar: cannot write to stdout\n");
		return KVC_EXIT_FAILURE;
	}
	return result;
}
