/* See big.h. */
#include "tests/gpu/e2e/big.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART (UINT64_C(64) << 20)

static void *memory_take(uint64_t bytes)
{
	void *memory = calloc(1, bytes);

	if (!memory) {
		fprintf(stderr, "out of memory: %llu bytes\n", (unsigned long long)bytes);
		exit(1);
	}
	return memory;
}

static void options_init(struct kvc_namespace_options *options)
{
	bool small = driver_is_fake();

	kvc_namespace_options_init(options);
	options->model = "bench";
	options->layers = small ? 2 : 32;
	options->heads = small ? 2 : 8;
	options->key_dim = options->value_dim = 128;
	options->element = KVC_ELEMENT_BF16;
	options->block_tokens = 128;
}

void big_open(struct big *big, size_t count, uint32_t tokens, bool vmm)
{
	const struct paged_form form = {
	        .name = "bench", .order = PAGED_TWO_FIRST, .page_tokens = 16, .vmm = vmm, .bare = true};
	const struct kvc_namespace_options *options = &big->options;

	memset(big, 0, sizeof *big);
	options_init(&big->options);
	big->count = count;
	big->tokens = tokens ? tokens : options->block_tokens;
	big->block_bytes = (uint64_t)options->layers * options->heads *
	                   (options->key_dim + options->value_dim) * 2 * big->tokens;
	big->bytes = big->block_bytes * count;
	big->blocks = memory_take(count * sizeof *big->blocks);
	big->keys = memory_take(count * sizeof *big->keys);
	paged_open(&big->paged, options, &form, count * ((big->tokens + 15) / 16));
	for (size_t i = 0; i < count; i++) {
		big->blocks[i].tokens = big->tokens;
		paged_place(&big->paged, &big->blocks[i]);
	}
	big_renew(big);
	big_fill(big);
}

void big_close(struct big *big)
{
	paged_close(&big->paged);
	free(big->blocks);
	free(big->keys);
}

void big_renew(struct big *big)
{
	big->round++;
	for (size_t i = 0; i < big->count; i++) {
		const uint64_t words[2] = {big->round, i};

		memcpy(big->keys[i], words, sizeof words);
		big->blocks[i].key = big->keys[i];
		big->blocks[i].key_bytes = BIG_KEY_BYTES;
	}
}

/* The sum of four bytes: near enough to normal. */
static uint16_t element(uint64_t random)
{
	float x = (float)((random & 0xFF) + (random >> 8 & 0xFF) + (random >> 16 & 0xFF) +
	                  (random >> 24 & 0xFF)) /
	                  128.0f -
	          3.98f;
	uint32_t bits;

	memcpy(&bits, &x, sizeof bits);
	return (uint16_t)(bits >> 16);
}

void big_fill(struct big *big)
{
	uint64_t bytes = big->paged.parts[0].bytes;
	uint64_t part = bytes < PART ? bytes : PART;
	uint16_t *elements = memory_take(part);
	uint64_t state = 17;

	for (uint64_t i = 0; i < part / 2; i++)
		elements[i] = element(kvc_sample_random(&state));
	for (uint64_t at = 0; at < bytes; at += part)
		driver_put(big->paged.parts[0].address + at, elements, bytes - at < part ? bytes - at : part);
	free(elements);
}

static void read_kind(const struct big *big, const struct kvc_block *block, const uint64_t *bases,
                      uint8_t **to)
{
	uint64_t page_bytes = big->paged.key.page;

	for (uint32_t layer = 0; layer < big->options.layers; layer++) {
		for (size_t i = 0; i < block->page_count; i++) {
			driver_get(*to, bases[layer] + block->pages[i] * page_bytes, page_bytes);
			*to += page_bytes;
		}
	}
}

void big_read(const struct big *big, size_t block, void *elements)
{
	uint8_t *to = elements;

	read_kind(big, &big->blocks[block], big->paged.key_bases, &to);
	read_kind(big, &big->blocks[block], big->paged.value_bases, &to);
}

/* A number whose block in sample.h is a full one: that is all that matters of it here. */
static uint64_t full_id(const struct kvc_sample_space *space)
{
	uint64_t id = 0;

	while (kvc_sample_tokens(space, id) != space->options.block_tokens)
		id++;
	return id;
}

bool big_verify(struct big *big, struct road *road)
{
	size_t last = big->count - 1;
	uint8_t *expected = memory_take(big->block_bytes);
	uint8_t *seen = memory_take(big->block_bytes);
	struct kvc_sample_space space;
	bool ok;

	big_renew(big);
	big_read(big, last, expected);
	ok = kvc_sample_space_init(&space, &big->options, 1) == KVC_OK &&
	     road_put(road, &big->blocks[last], 1, NULL) == 1;
	driver_fill(big->paged.parts[0].address, PAGED_POISON, big->paged.parts[0].bytes);
	ok = ok && road_get(road, &big->blocks[last], 1, NULL) == 1 &&
	     kvc_sample_restore(&space, full_id(&space), expected, expected);
	big_read(big, last, seen);
	ok = ok && memcmp(seen, expected, big->block_bytes) == 0;
	road_drop(road, &big->blocks[last], 1);
	big_fill(big);
	free(expected);
	free(seen);
	return ok;
}
