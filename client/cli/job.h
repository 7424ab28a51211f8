/* A sequence in blocks: the daemon's namespace it lies in, the keys of its blocks, the files it comes from or
 * goes to. Shared by put, get, lookup, drop and bench. One thread. */
#ifndef KVC_CLI_JOB_H
#define KVC_CLI_JOB_H

#include <sodium.h>

#include "client/cli/settings.h"

#define KVC_BLOCK_KEY_BYTES 32u
#define KVC_HASH_TEXT_BYTES (2 * KVC_BLOCK_KEY_BYTES + 1)

struct kvc_job {
	const char *name; /* of the command, for messages */
	const struct kvc_settings *settings;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	uint64_t tokens;
	uint64_t block_tokens;
	uint64_t layers;
	uint64_t row_bytes[2]; /* one token of one layer: K, V */
	size_t blocks;
	uint8_t (*keys)[KVC_BLOCK_KEY_BYTES];
};

/* Connect and open the namespace; keys are derived from `sequence`. Returns -1, or an exit code after telling
 * the error; nothing need be closed then. */
int kvc_job_open(struct kvc_job *job, const char *name, const struct kvc_settings *settings,
                 const char *sequence);
void kvc_job_close(struct kvc_job *job);

/* A client only, with the settings' socket. Returns -1 or an exit code. */
int kvc_job_connect(const char *name, const struct kvc_settings *settings, struct kvc_client **client);

/* Tell what the library's last error was. */
int kvc_job_failure(const struct kvc_job *job, const char *what, kvc_status status);

/* Sizes that follow from the settings alone. */
void kvc_job_shape(struct kvc_job *job, const struct kvc_settings *settings);
uint64_t kvc_job_block_tokens(const struct kvc_job *job, size_t block);
uint64_t kvc_job_token_bytes(const struct kvc_job *job);

/* ---- block keys ---------------------------------------------------------------------------- */

/* key i = BLAKE2b-256(key i-1 | i | tokens of block i | sequence), integers as 8 bytes little-endian, the key
 * before the first being zero. So equal beginnings of one sequence share blocks, a block's key says
 * what lies before it, and a block of another length is another block. */
void kvc_job_derive(struct kvc_job *job, const char *sequence);

/* Hash of files, read block-wise, as hex. False: an error was told. */
bool kvc_job_hash(const char *name, const char *const *paths, size_t count, char text[KVC_HASH_TEXT_BYTES]);

#endif
