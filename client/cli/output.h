/* A file of results: written under a temporary name beside its own, which it gets when it is complete. So
 * what had the name before stays until then. Nothing is left of one that is not completed, neither when the
 * program is ended by SIGINT, SIGTERM or SIGHUP. One thread. */
#ifndef KVC_CLI_OUTPUT_H
#define KVC_CLI_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#define KVC_OUTPUTS_MAX 2u /* at a time */

struct kvc_output {
	const char *command; /* for messages */
	const char *path;    /* NULL: not open */
	char temporary[4096];
	int fd;
};

/* What kinds of files may have the name already. */
enum kvc_output_kind {
	KVC_OUTPUT_REGULAR, /* regular ones only: it is written by position */
	KVC_OUTPUT_ANY,     /* what else can be written to is, as it is: a device, a pipe */
};

/* Both strings are kept. Returns -1, or an exit code after telling the error. */
int kvc_output_create(struct kvc_output *output, const char *command, const char *path,
                      enum kvc_output_kind kind);

/* From where the descriptor stands. False: an error was told. */
bool kvc_output_write(const struct kvc_output *output, const uint8_t *bytes, uint64_t length);

/* Closes it. False: an error was told, and it is discarded. */
bool kvc_output_commit(struct kvc_output *output);

/* Does nothing if it is not open. */
void kvc_output_discard(struct kvc_output *output);

#endif
