/* See kern_digest.h. The files hold [8 layers][tokens][2 heads][128] bf16; the blocks are those of whole
 * sequences, spread over 16-token pages in random order. Encoded and decoded on the GPU, and decoded on the
 * CPU. */
#include "tests/gpu/kern_digest.h"

#include "tests/gpu/kern_trial.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS    8u
#define TOKENS    2048u /* of the files that the digests are of */
#define HEADS     2u
#define DIM       128u
#define ROW_BYTES (HEADS * DIM * 2u)

struct file {
	uint8_t *bytes;
	size_t length;
	uint32_t tokens;
};

struct digest {
	bool keys;
	uint32_t tokens;
	uint8_t bits;
	uint16_t group;
	bool rotate;
	const char *sha256;
};

static const struct digest digests[] = {
        {true, 128, 4, 32, true, "694a71bb80696b300878e8cfbc402d44e3729a0ee870acb1fcdaee2db593e00a"},
        {false, 128, 2, 64, false, "9bef39ab8450031297c8ad484ff22ded707cefacb94fd9a681c1848b2e8c445f"},
        {true, 128, 4, 128, true, "1f4e6a5f5e05840cae8a67a207f4a3f3fb53092e9b35e06ef8177fc72f837448"},
        {false, 128, 2, 128, true, "a490a0a24fe47ceba08491ceeb0cb612185af07d9baa781c308f5a2ecd5cd466"},
        {true, 100, 4, 32, true, "6b00cdaecaf94a6b19e7e2ae1ee866a1ca395ba9c471d1f808970c10fd4734b1"},
        {false, 100, 2, 64, false, "9b3b353ef4902857b2dacde1f665e70b9f53b0ab1da1096be84d2cfdd865c189"},
        {true, 16, 4, 32, true, "d88377120d005d39fec7d9c07feea02abddf3844830bbb55a431eb142003a316"},
        {false, 16, 2, 64, false, "2717e078e670fe7bb97c55f82ce267a596ccf09c857101a42949e58b000dac68"},
        {true, 128, 2, 32, true, "54c8df46d7d7d9a4a7790406cf2fae1149909f039f32d5dccbd394bcbce055c5"},
        {true, 128, 3, 64, true, "ba8b18699b825afbcb0811bbb499b6ee69dc2acd78283c7096f916313367f1a0"},
        {true, 128, 8, 32, true, "0ca73f4e195aee5b1f93922af7760bc9bec09953db8ea1d1b9c7c10718bc3254"},
        {false, 128, 4, 64, false, "95c5e8b2ff3c6076cf6d46356b0c48ab3208d769feb89c455f7841718a809d40"},
};

/* Rows of blocks between the file's order and that of a pool's data: each layer's tokens of block b. */
static void rows_copy(uint8_t *data, uint8_t *file, uint32_t all, uint32_t first, uint32_t blocks,
                      uint32_t tokens, bool to_file)
{
	size_t part = (size_t)tokens * ROW_BYTES;

	for (uint32_t b = 0; b < blocks; b++) {
		for (uint32_t layer = 0; layer < LAYERS; layer++) {
			uint8_t *inner = data + (b * LAYERS + layer) * part;
			uint8_t *outer = file + ((size_t)layer * all + first + b * tokens) * ROW_BYTES;

			memcpy(to_file ? outer : inner, to_file ? inner : outer, part);
		}
	}
}

/* The data of the pool's blocks as the mirror has it. */
static void pool_collect(struct pool *pool, uint8_t *data)
{
	uint8_t *mirror = malloc(pool->bytes);
	const struct kvc_kern_place *place = &pool->desc.key;

	memcpy(mirror, pool->host, pool->bytes);
	for (uint32_t b = 0; b < pool->blocks; b++) {
		for (uint32_t i = 0; i < LAYERS * pool->shape.tokens * HEADS; i++) {
			uint32_t layer = i / HEADS / pool->shape.tokens, t = i / HEADS % pool->shape.tokens;
			uint32_t position = pool->first_token + t;
			uint64_t page =
			        (uint64_t)
			                pool->ids[b * pool->block_pages + position / pool->desc.page_tokens];
			const uint8_t *row = mirror + pool->offset[0] + page * place->page_stride +
			                     layer * pool->layer_stride[0] +
			                     position % pool->desc.page_tokens * place->token_stride +
			                     i % HEADS * place->head_stride;

			memcpy(data + b * pool->block_bytes + i * DIM * 2ul, row, DIM * 2);
		}
	}
	free(mirror);
}

/* Restore `blocks` blocks of `tokens` tokens from token `first` on; false on any error. */
static bool restore(const struct digest *digest, const struct file *file, uint8_t *on_gpu, uint8_t *on_cpu,
                    uint32_t first, uint32_t blocks, uint32_t tokens)
{
	struct kvc_block_shape shape = {LAYERS, HEADS, DIM, 0, tokens, KVC_DTYPE_BF16};
	struct pool_wish wish = {
	        .layout = POOL_SPLIT, .page_tokens = 16, .id_bytes = 8, .first_token = first % 16};
	struct kvc_codec_params params = {.bits = digest->bits,
	                                  .group = digest->group,
	                                  .centre = true,
	                                  .rotate = digest->rotate,
	                                  .gain = true};
	struct kvc_block_codec codec = {.key = params, .value = params};
	struct rng rng = {first + 1};
	struct trial trial;
	bool good;

	trial_make(&trial, &shape, &codec, blocks, &wish, &rng);
	rows_copy(trial.pool.data, file->bytes, file->tokens, first, blocks, tokens, false);
	pool_spread(&trial.pool, trial.pool.data);
	pool_upload(&trial.pool);
	trial_reference(&trial);
	good = trial_encode(&trial) == KVC_OK && trial_images_differ(&trial) == 0;
	memcpy(trial.images, trial.made, trial.stride * blocks);
	trial_images_upload(&trial);
	good = good && trial_decode(&trial) == KVC_OK;
	pool_collect(&trial.pool, trial.pool.data);
	rows_copy(trial.pool.data, on_gpu, file->tokens, first, blocks, tokens, true);
	rows_copy(trial.restored, on_cpu, file->tokens, first, blocks, tokens, true);
	trial_free(&trial);
	return good;
}

static bool digest_is(const uint8_t *bytes, size_t length, const char *expected)
{
	uint8_t hash[crypto_hash_sha256_BYTES];
	char text[2 * sizeof hash + 1];

	crypto_hash_sha256(hash, bytes, length);
	sodium_bin2hex(text, sizeof text, hash, sizeof hash);
	return strcmp(text, expected) == 0;
}

static bool digest_agrees(const struct digest *digest, const struct file *file)
{
	uint8_t *on_gpu = calloc(1, file->length), *on_cpu = calloc(1, file->length);
	uint32_t blocks = file->tokens / digest->tokens, rest = file->tokens % digest->tokens;
	bool good = restore(digest, file, on_gpu, on_cpu, 0, blocks, digest->tokens);

	if (rest)
		good = restore(digest, file, on_gpu, on_cpu, file->tokens - rest, 1, rest) && good;
	good = good && memcmp(on_gpu, on_cpu, file->length) == 0;
	if (file->tokens == TOKENS)
		good = good && digest_is(on_gpu, file->length, digest->sha256);
	printf("%s: %s, %u tokens, %u bits, g%u, %s: %s\n", file->tokens == TOKENS ? "digest" : "slice",
	       digest->keys ? "keys" : "values", digest->tokens, digest->bits, digest->group,
	       digest->rotate ? "rotated" : "not rotated", good ? "ok" : "DIFFERS");
	free(on_gpu);
	free(on_cpu);
	return good;
}

static struct file file_read(const char *path)
{
	struct file read = {.bytes = malloc(LAYERS * TOKENS * ROW_BYTES)};
	FILE *file = fopen(path, "rb");

	if (file != NULL) {
		read.length = fread(read.bytes, 1, LAYERS * TOKENS * ROW_BYTES, file);
		fclose(file);
	}
	read.tokens = (uint32_t)(read.length / (LAYERS * ROW_BYTES));
	if (read.tokens == 0 || read.length % (LAYERS * ROW_BYTES) != 0) {
		fprintf(stderr, "cannot read %s\n", path);
		exit(2);
	}
	return read;
}

uint32_t digests_differ(const char *keys_path, const char *values_path)
{
	struct file keys = file_read(keys_path), values = file_read(values_path);
	uint32_t bad = 0;

	for (size_t i = 0; i < sizeof digests / sizeof digests[0]; i++)
		bad += !digest_agrees(&digests[i], digests[i].keys ? &keys : &values);
	free(keys.bytes);
	free(values.bytes);
	return bad;
}
