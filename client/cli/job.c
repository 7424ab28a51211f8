/* Sequences in blocks. */
#include "client/cli/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cmd.h"

/* ---- connection ---------------------------------------------------------------------------- */

int kvc_job_connect(const char *name, const struct kvc_settings *settings, struct kvc_client **client)
{
	struct kvc_client_options options;

	kvc_client_options_init(&options);
	options.socket_path = settings->socket;
	options.name = "kvcellar";
	options.deadline_ms = (uint32_t)settings->deadline_ms;
	if (kvc_client_create(&options, client) != KVC_OK)
		return kvc_failure(name, "%s", kvc_last_error());
	return -1;
}

int kvc_job_failure(const struct kvc_job *job, const char *what, kvc_status status)
{
	return kvc_failure(job->name, "%s failed (%s): %s", what, kvc_status_name(status), kvc_last_error());
}

static unsigned element_bytes(uint64_t dtype)
{
	return dtype == KVC_ELEMENT_FP32 ? 4 : 2;
}

void kvc_job_shape(struct kvc_job *job, const struct kvc_settings *settings)
{
	uint64_t value_dim = settings->value_dim == KVC_SETTING_UNSET ? settings->dim : settings->value_dim;
	uint64_t head_element = settings->heads * element_bytes(settings->dtype);

	job->settings = settings;
	job->tokens = settings->tokens;
	job->block_tokens = settings->block_tokens;
	job->layers = settings->layers;
	job->row_bytes[0] = head_element * settings->dim;
	job->row_bytes[1] = head_element * value_dim;
	job->blocks = (size_t)((job->tokens + job->block_tokens - 1) / job->block_tokens);
}

uint64_t kvc_job_block_tokens(const struct kvc_job *job, size_t block)
{
	uint64_t left = job->tokens - block * job->block_tokens;

	return left < job->block_tokens ? left : job->block_tokens;
}

uint64_t kvc_job_token_bytes(const struct kvc_job *job)
{
	return job->layers * (job->row_bytes[0] + job->row_bytes[1]);
}

static int open_namespace(struct kvc_job *job)
{
	struct kvc_namespace_options options;
	kvc_status status;
	int result;

	if (!kvc_settings_namespace(job->name, job->settings, &options))
		return KVC_EXIT_USAGE;
	result = kvc_job_connect(job->name, job->settings, &job->client);
	if (result >= 0)
		return result;
	status = kvc_namespace_open(job->client, &options, 0, &job->ns);
	if (status == KVC_OK)
		return -1;
	result = kvc_failure(job->name, "%s", kvc_last_error());
	kvc_client_destroy(job->client);
	job->client = NULL;
	return result;
}

int kvc_job_open(struct kvc_job *job, const char *name, const struct kvc_settings *settings,
                 const char *sequence)
{
	int result;

	*job = (struct kvc_job){.name = name};
	kvc_job_shape(job, settings);
	result = open_namespace(job);
	if (result >= 0)
		return result;
	job->keys = calloc(job->blocks, sizeof(*job->keys));
	if (!job->keys) {
		kvc_job_close(job);
		return kvc_failure(name, "no memory for the keys of %zu blocks", job->blocks);
	}
	kvc_job_derive(job, sequence);
	return -1;
}

void kvc_job_close(struct kvc_job *job)
{
	kvc_namespace_close(job->ns);
	kvc_client_destroy(job->client);
	free(job->keys);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static void store64(uint8_t *out, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		out[i] = (uint8_t)(value >> (8 * i));
}

void kvc_job_derive(struct kvc_job *job, const char *sequence)
{
	uint8_t previous[KVC_BLOCK_KEY_BYTES] = {0};

	for (size_t i = 0; i < job->blocks; i++) {
		crypto_generichash_state state;
		uint8_t numbers[16];

		store64(numbers, i);
		store64(numbers + 8, kvc_job_block_tokens(job, i));
		(void)crypto_generichash_init(&state, NULL, 0, KVC_BLOCK_KEY_BYTES);
		(void)crypto_generichash_update(&state, previous, sizeof(previous));
		(void)crypto_generichash_update(&state, numbers, sizeof(numbers));
		(void)crypto_generichash_update(&state, (const uint8_t *)sequence, strlen(sequence));
		(void)crypto_generichash_final(&state, job->keys[i], KVC_BLOCK_KEY_BYTES);
		memcpy(previous, job->keys[i], sizeof(previous));
	}
}

static bool hash_file(const char *name, const char *path, crypto_generichash_state *state, uint8_t *buffer,
                      size_t bytes)
{
	FILE *file = fopen(path, "rb");
	bool good = file != NULL;
	size_t got;

	while (good && (got = fread(buffer, 1, bytes, file)) > 0)
		(void)crypto_generichash_update(state, buffer, got);
	if (!good || ferror(file)) {
		(void)kvc_failure(name, "cannot read %s: %s", path, strerror(errno));
		good = false;
	}
	if (file)
		(void)fclose(file);
	return good;
}

bool kvc_job_hash(const char *name, const char *const *paths, size_t count, char text[KVC_HASH_TEXT_BYTES])
{
	enum { BUFFER_BYTES = 1 << 20 };
	crypto_generichash_state state;
	uint8_t hash[KVC_BLOCK_KEY_BYTES];
	uint8_t *buffer = malloc(BUFFER_BYTES);
	bool good = buffer != NULL;

	(void)crypto_generichash_init(&state, NULL, 0, sizeof(hash));
	for (size_t i = 0; good && i < count; i++)
		good = hash_file(name, paths[i], &state, buffer, BUFFER_BYTES);
	(void)crypto_generichash_final(&state, hash, sizeof(hash));
	(void)sodium_bin2hex(text, KVC_HASH_TEXT_BYTES, hash, sizeof(hash));
	free(buffer);
	return good;
}
