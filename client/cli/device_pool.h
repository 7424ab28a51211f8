/* A paged KV pool on a GPU, as an inference engine has one, for kvcellar bench: one allocation a layer, pages
 * given to blocks in random order. One thread. */
#ifndef KVC_CLI_DEVICE_POOL_H
#define KVC_CLI_DEVICE_POOL_H

#include "client/cli/job.h"
#include "client/cuda_driver.h"
#include "kvcellar_cuda.h"

enum kvc_pool_layout {
	KVC_LAYOUT_KV_FIRST = 1,   /* (2, pages, tokens, heads, dim) */
	KVC_LAYOUT_PAGE_FIRST = 2, /* (pages, 2, tokens, heads, dim) */
	KVC_LAYOUT_HEAD_FIRST = 3, /* (2, pages, heads, tokens, dim) */
	KVC_LAYOUT_FUSED = 4,      /* (pages, heads, tokens, 2 * dim); dims must be equal */
};

struct kvc_device_pool {
	const struct kvc_job *job;
	const struct kvcc_cuda *cuda;
	char gpu[96]; /* name */
	int device;
	void *context;
	uint64_t page_tokens;
	uint64_t block_pages; /* pages of a block */
	uint64_t pages;
	uint64_t layer_bytes;
	uint64_t value_offset; /* of the values' base from the keys' */
	struct kvc_pool_strides strides[2];
	kvcc_cu_address *layers;
	const void **bases[2];
	uint32_t *ids;    /* block_pages for each block */
	uint8_t *staging; /* one layer */
	struct kvc_pool *pool;
};

/* Allocate, and register with the daemon. Returns -1 or an exit code; close in both cases. */
int kvc_device_pool_open(struct kvc_device_pool *pool, struct kvc_job *job);
void kvc_device_pool_close(struct kvc_device_pool *pool);

/* Blocks as the bench has them: packed, keys then values, each [layers][tokens][heads][dim]; used in turn. */
struct kvc_block_source {
	uint8_t *blocks;
	size_t count;
	uint64_t block_bytes;
};

/* Write them to the device; look whether the device holds them. Returns -1 or an exit code. */
int kvc_device_pool_fill(struct kvc_device_pool *pool, const struct kvc_block_source *source);
int kvc_device_pool_compare(struct kvc_device_pool *pool, const struct kvc_block_source *expected);

/* Overwrite all of it with a byte. */
int kvc_device_pool_poison(struct kvc_device_pool *pool);

/* Copy all pages to pinned memory and back, each once: GB/s. */
int kvc_device_pool_copy(struct kvc_device_pool *pool, double *out_gb_per_s, double *in_gb_per_s);

void kvc_device_pool_block(const struct kvc_device_pool *pool, size_t block, struct kvc_block *out);

#endif
