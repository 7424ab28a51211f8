/* See worker_pool.h. */
#include "tests/support/worker_pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *worker_tensors[WORKER_TENSORS];
const void *worker_bases[2][WORKER_LAYERS];

bool worker_pool_make(void)
{
	for (uint32_t i = 0; i < WORKER_TENSORS; i++) {
		worker_tensors[i] = aligned_alloc(256, WORKER_TENSOR_BYTES);
		if (!worker_tensors[i])
			return false;
	}
	return true;
}

void worker_pool_free(void)
{
	for (uint32_t i = 0; i < WORKER_TENSORS; i++)
		free(worker_tensors[i]);
}

void worker_pool_fill(struct prng *prng)
{
	for (uint32_t i = 0; i < WORKER_TENSORS; i++) {
		for (uint32_t at = 0; at < WORKER_TENSOR_BYTES; at += 2) {
			float x = prng_normal(prng);

			memcpy(worker_tensors[i] + at, (uint8_t *)&x + 2, 2);
		}
	}
}

void worker_pool_options(struct kvc_namespace_options *ns, struct kvc_pool_options *pool)
{
	const struct kvc_pool_strides strides = {WORKER_PAGE_BYTES, WORKER_HEADS * WORKER_ROW, WORKER_ROW};

	*ns = (struct kvc_namespace_options){
	        .size = sizeof *ns,
	        .tenant = "test",
	        .model = "model",
	        .layers = WORKER_LAYERS,
	        .heads = WORKER_HEADS,
	        .key_dim = WORKER_DIM,
	        .value_dim = WORKER_DIM,
	        .element = KVC_ELEMENT_BF16,
	        .block_tokens = WORKER_TOKENS,
	        .shards = 1,
	        .preset = "quality",
	};
	*pool = (struct kvc_pool_options){
	        .size = sizeof *pool,
	        .layers = WORKER_LAYERS,
	        .page_tokens = WORKER_PAGE_TOKENS,
	        .pages = WORKER_PAGES,
	        .key_bases = worker_bases[0],
	        .value_bases = worker_bases[1],
	        .key_strides = strides,
	        .value_strides = strides,
	};
	for (uint32_t i = 0; i < WORKER_TENSORS; i++)
		worker_bases[i % 2][i / 2] = worker_tensors[i];
}

void worker_batch_make(struct worker_batch *batch, const char *name, uint32_t first)
{
	memset(batch, 0, sizeof *batch);
	for (uint32_t i = 0; i < WORKER_BLOCKS; i++) {
		struct kvc_block *block = &batch->blocks[i];

		snprintf(batch->keys[i], sizeof batch->keys[i], "%s-%u", name, i);
		for (uint32_t p = 0; p < WORKER_BLOCK_PAGES; p++)
			batch->pages[i][p] = first + (i * WORKER_BLOCK_PAGES + p) * 7 %
			                                     (WORKER_BLOCKS * WORKER_BLOCK_PAGES);
		*block = (struct kvc_block){.key = batch->keys[i],
		                            .key_bytes = strlen(batch->keys[i]),
		                            .tokens = i % 4 == 3 ? 17 : WORKER_TOKENS,
		                            .first_token = i % 3 * 5,
		                            .pages = batch->pages[i],
		                            .page_count = WORKER_BLOCK_PAGES,
		                            .status = KVC_INTERNAL};
	}
}

uint8_t *worker_row(const struct kvc_block *block, uint32_t tensor, uint32_t token, uint32_t head)
{
	uint32_t position = block->first_token + token;

	return worker_tensors[tensor] + block->pages[position / WORKER_PAGE_TOKENS] * WORKER_PAGE_BYTES +
	       (position % WORKER_PAGE_TOKENS * WORKER_HEADS + head) * WORKER_ROW;
}

void worker_row_infinite(const struct kvc_block *block, uint32_t tensor, uint32_t token, uint32_t head)
{
	uint16_t bits = 0x7F80;

	memcpy(worker_row(block, tensor, token, head), &bits, sizeof bits);
}

bool worker_blocks_equal(const struct kvc_block *a, const struct kvc_block *b)
{
	for (uint32_t tensor = 0; tensor < WORKER_TENSORS; tensor++) {
		for (uint32_t i = 0; i < a->tokens * WORKER_HEADS; i++) {
			if (memcmp(worker_row(a, tensor, i / WORKER_HEADS, i % WORKER_HEADS),
			           worker_row(b, tensor, i / WORKER_HEADS, i % WORKER_HEADS), WORKER_ROW))
				return false;
		}
	}
	return true;
}
