/* The files of a cache: K and V, each C order [layers][tokens][heads][dim]. A block is a stripe through all
 * layers, read and written by position. Results go to temporary names and are renamed when complete. */
#ifndef KVC_CLI_FILES_H
#define KVC_CLI_FILES_H

#include "client/cli/job.h"

struct kvc_files {
	const struct kvc_job *job;
	const char *paths[2]; /* K, V; V is NULL for key-only caches */
	char temporary[2][4096];
	int fds[2];      /* -1: none */
	uint64_t tokens; /* that the files hold */
};

/* Open for reading and check both sizes. Returns -1, or an exit code after telling the error. */
int kvc_files_open(struct kvc_files *files, const struct kvc_job *job);

/* Make temporary files beside the paths. As above. */
int kvc_files_create(struct kvc_files *files, const struct kvc_job *job);

/* A block's bytes: K then V, each [layers][tokens][heads][dim]. False: an error was told. */
bool kvc_files_read(const struct kvc_files *files, size_t block, uint8_t *bytes);
bool kvc_files_write(const struct kvc_files *files, size_t block, const uint8_t *bytes);

/* The files are to hold so many tokens, what was written is of no use. False: an error was told. */
bool kvc_files_shrink(struct kvc_files *files, uint64_t tokens);

/* Give the temporary files their names. False: an error was told. */
bool kvc_files_commit(struct kvc_files *files);

/* Close, and remove what was not committed. */
void kvc_files_close(struct kvc_files *files);

#endif
