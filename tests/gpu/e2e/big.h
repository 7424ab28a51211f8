/* The blocks of the end-to-end benches: a Llama-3.1-8B shape in a large pool on the device.
 *
 * 32 layers, 8 heads of 128 channels, bf16, blocks of 128 tokens on pages of 16 tokens in random order: 16
 * MiB of source a block. Against the stand-in everything is small. Roughly normal elements, repeated after 64
 * MiB. */
#ifndef KVC_TESTS_GPU_BIG_H
#define KVC_TESTS_GPU_BIG_H

#include "tests/gpu/e2e/road.h"

#define BIG_KEY_BYTES 16u

struct big {
	struct kvc_namespace_options options;
	struct paged paged;
	size_t count;
	uint64_t block_bytes;
	uint64_t bytes; /* of all blocks */
	uint32_t tokens;
	uint64_t round; /* part of the keys */
	struct kvc_block *blocks;
	uint8_t (*keys)[BIG_KEY_BYTES];
};

/* `tokens` of each block; 0: full ones. `vmm`: as PyTorch's expandable segments. */
void big_open(struct big *big, size_t count, uint32_t tokens, bool vmm);
void big_close(struct big *big);

/* New keys; the pages stay. */
void big_renew(struct big *big);

/* Source elements, again. */
void big_fill(struct big *big);

/* Take the block's pages to the host, contiguous keys then values, by whole pages. */
void big_read(const struct big *big, size_t block, void *elements);

/* Put one block, poison its pages, get it, and compare with what the CPU restores. */
bool big_verify(struct big *big, struct road *road);

#endif
