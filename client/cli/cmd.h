/* The commands of the program `kvcellar`. Each gets its own arguments (argv[0] is its name) and returns the
 * exit code; messages go to stderr, results to stdout. */
#ifndef KVC_CLI_CMD_H
#define KVC_CLI_CMD_H

enum kvc_exit {
	KVC_EXIT_OK = 0,
	KVC_EXIT_FAILURE = 1, /* it was tried and did not work */
	KVC_EXIT_USAGE = 2,   /* the arguments are wrong, nothing was tried */
	KVC_EXIT_SHORT = 3,   /* less was there than asked for */
};

int kvc_cmd_ping(int argc, char **argv);
int kvc_cmd_stats(int argc, char **argv);
int kvc_cmd_put(int argc, char **argv);
int kvc_cmd_get(int argc, char **argv);
int kvc_cmd_lookup(int argc, char **argv);
int kvc_cmd_drop(int argc, char **argv);
int kvc_cmd_drop_tenant(int argc, char **argv);
int kvc_cmd_bench(int argc, char **argv);
int kvc_cmd_codec(int argc, char **argv);
int kvc_cmd_replay(int argc, char **argv);

#endif
