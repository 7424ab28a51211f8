/* Paged pools for tests of the kernels: a layout of any kind, blocks on random pages, and the same blocks as
 * the CPU codec takes them. */
#ifndef KVC_TESTS_GPU_KERN_POOL_H
#define KVC_TESTS_GPU_KERN_POOL_H

#include "kernels/kern.h"

/* A random number generator that repeats. */
struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *rng);
uint32_t rng_below(struct rng *rng, uint32_t bound);

enum pool_layout {
	POOL_SPLIT = 0, /* all keys, then all values; layers, pages, tokens and heads in any order */
	POOL_PAGED = 1, /* keys and values of a page together */
	POOL_FUSED = 2, /* key and value of a head together */
	POOL_LAYOUTS = 3,
};

/* An allocation of device memory and its part of the mirror. */
struct pool_part {
	uint8_t *device;
	size_t at; /* in the mirror */
	size_t bytes;
};

#define POOL_PARTS_MAX 64u

struct pool {
	struct kvc_kern_pool desc; /* device bases */
	struct kvc_block_shape shape;
	uint32_t blocks;
	uint32_t first_token;
	uint32_t block_pages; /* pages of one block */
	size_t offset[2];     /* of the places in the mirror, by kind */
	size_t layer_stride[2];
	size_t bytes;
	uint8_t *host; /* mirror of all parts, one behind the other */
	struct pool_part parts[POOL_PARTS_MAX];
	uint32_t part_count;
	uint8_t *device_layers; /* tables of keys, then of values; NULL: none */
	int64_t *ids;           /* blocks * block_pages, distinct */
	uint8_t *device_ids;
	uint8_t *data; /* the blocks as the CPU codec takes them: [block] keys, values */
	size_t block_bytes;
	size_t key_bytes; /* of a block */
};

struct pool_wish {
	enum pool_layout layout;
	uint32_t page_tokens;
	uint32_t id_bytes;
	uint32_t first_token;
	uint32_t spare_pages; /* that belong to no block */
	uint32_t shift;       /* bytes by which the region is out of 16-byte alignment */
	uint32_t order;       /* of layers, pages, tokens, heads: 0 to 23 */
	bool tables;          /* an allocation a layer, found by tables of layers */
	bool apart;           /* POOL_SPLIT: keys and values in different allocations */
};

void pool_make(struct pool *pool, const struct kvc_block_shape *shape, uint32_t blocks,
               const struct pool_wish *wish, struct rng *rng);
void pool_free(struct pool *pool);

/* The block as the CPU codec takes it. */
struct kvc_block_view pool_view(const struct pool *pool, uint8_t *data, uint32_t block);

/* Put the blocks' data into the mirror, or compare the mirror with it; all else of the mirror is `poison`. */
void pool_spread(struct pool *pool, const uint8_t *data);

/* Mirror to device, device to mirror, and all of the device's parts set to a byte. */
void pool_upload(struct pool *pool);
void pool_download(struct pool *pool);
void pool_fill(struct pool *pool, int byte);

#endif
