/* A worker's paged KV pool for tests of libkvcellar-cuda, in this process's memory: a tensor a layer and
 * kind, [page][token][head][channel] of bf16, and blocks that lie on its pages. */
#ifndef KVC_TEST_WORKER_POOL_H
#define KVC_TEST_WORKER_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "client/kvcellar_cuda.h"
#include "tests/support/prng.h"

enum {
	WORKER_LAYERS = 16,
	WORKER_HEADS = 2,
	WORKER_DIM = 128,
	WORKER_TOKENS = 32,
	WORKER_PAGE_TOKENS = 16,
	WORKER_PAGES = 64,
	WORKER_BLOCK_PAGES = 3,
	WORKER_BLOCKS = 8,
	WORKER_ROW = WORKER_DIM * 2,
	WORKER_PAGE_BYTES = WORKER_PAGE_TOKENS * WORKER_HEADS * WORKER_ROW,
	WORKER_TENSOR_BYTES = WORKER_PAGES * WORKER_PAGE_BYTES,
	WORKER_TENSORS = 2 * WORKER_LAYERS, /* key, value, key, ... */
};

extern uint8_t *worker_tensors[WORKER_TENSORS];
extern const void *worker_bases[2][WORKER_LAYERS]; /* of keys, of values */

/* A request's blocks with their keys and pages. */
struct worker_batch {
	struct kvc_block blocks[WORKER_BLOCKS];
	char keys[WORKER_BLOCKS][16];
	uint32_t pages[WORKER_BLOCKS][WORKER_BLOCK_PAGES];
};

bool worker_pool_make(void);
void worker_pool_free(void);
void worker_pool_fill(struct prng *prng);

/* Namespace (tenant "test", preset `quality`) and pool; the bases are set again. */
void worker_pool_options(struct kvc_namespace_options *ns, struct kvc_pool_options *pool);

/* Blocks on pages from `first` on, in a mixed order, of 32 and of 17 tokens, at the beginning of a page and
 * in it; keys "name-0", "name-1". */
void worker_batch_make(struct worker_batch *batch, const char *name, uint32_t first);

uint8_t *worker_row(const struct kvc_block *block, uint32_t tensor, uint32_t token, uint32_t head);

/* An element that no code is exact for: its tile is stored raw. */
void worker_row_infinite(const struct kvc_block *block, uint32_t tensor, uint32_t token, uint32_t head);

/* The rows of two blocks of the same length are alike. */
bool worker_blocks_equal(const struct kvc_block *a, const struct kvc_block *b);

#endif
