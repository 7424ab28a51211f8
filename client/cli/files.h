/* The files of a cache: K and V, each C order [layers][tokens][heads][dim]. A block is a stripe through all
 * layers, read and written by position. */
#ifndef KVC_CLI_FILES_H
#define KVC_CLI_FILES_H

#include "client/cli/job.h"
#include "client/cli/output.h"

struct kvc_files {
	const struct kvc_job *job;
	const char *paths[2];         /* K, V; V is NULL for key-only caches */
	struct kvc_output outputs[2]; /* of a get */
	int fds[2];                   /* -1: none; an output's is its own */
	uint64_t tokens;              /* that the files hold */
};

/* Open for reading and check both sizes. Returns -1, or an exit code after telling the error. */
int kvc_files_open(struct kvc_files *files, const struct kvc_job *job);

/* Begin the outputs. As above. */
int kvc_files_create(struct kvc_files *files, const struct kvc_job *job);

/* A block's bytes: K then V, each [layers][tokens][heads][dim]. False: an error was told. */
bool kvc_files_read(const struct kvc_files *files, size_t block, uint8_t *bytes);
bool kvc_files_write(const struct kvc_files *files, size_t block, const uint8_t *bytes);

/* The files are to hold so many tokens, what was written is of no use. False: an error was told. */
bool kvc_files_shrink(struct kvc_files *files, uint64_t tokens);

/* Complete the outputs. False: an error was told. */
bool kvc_files_commit(struct kvc_files *files);

/* Close, and remove what was not committed. */
void kvc_files_close(struct kvc_files *files);

#endif
