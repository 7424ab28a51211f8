/* The fake CUDA driver (tests/fake/libcuda.c) in a test's own process, and pools of every layout in its
 * device memory. Everything here asserts. */
#ifndef KVC_TEST_FAKE_CUDA_H
#define KVC_TEST_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include "client/cuda_driver.h"
#include "kvcellar_cuda.h"

/* Load it, with its memory in that folder, which must stay; a context of GPU 0 is current then. Once for a
 * process; a thread of its own needs kvc_test_cuda_enter. */
const struct kvcc_cuda *kvc_test_cuda_open(const char *folder);
void kvc_test_cuda_enter(void);

/* A context of that GPU is current in this thread from now on ($KVC_FAKE_CUDA_DEVICES). */
void kvc_test_cuda_use(int device);

/* Files of device memory in the folder. */
unsigned kvc_test_cuda_files(const char *folder, const char *kind);

/* That function of the driver fails from now on; NULL: none. */
void kvc_test_cuda_fail(const char *function);

/* What streams are given from now on is never done, or is. */
void kvc_test_cuda_stall(bool stall);

/* What streams wrote to memory so far, all together. */
uint64_t kvc_test_cuda_writes(void);

/* ---- pools --------------------------------------------------------------------------------- */

enum kvc_test_arrangement {
	KVC_TEST_KV_FIRST,   /* (2, pages, tokens, heads, dim) a layer */
	KVC_TEST_PAGE_FIRST, /* (pages, 2, tokens, heads, dim) a layer */
	KVC_TEST_HEAD_FIRST, /* (2, pages, heads, tokens, dim) a layer */
	KVC_TEST_FUSED,      /* (pages, heads, tokens, 2 * dim) a layer */
	KVC_TEST_LATENT,     /* (pages, tokens, heads, dim) a layer, keys only */
	KVC_TEST_ARRANGEMENTS
};

enum kvc_test_backing {
	KVC_TEST_ALLOCATIONS, /* one a layer */
	KVC_TEST_ALLOCATION,  /* one for all */
	KVC_TEST_CHUNKS,      /* VMM chunks of 2 MiB, all layers one behind the other */
	KVC_TEST_PRIVATE,     /* the same, not exportable */
	KVC_TEST_BACKINGS
};

enum { KVC_TEST_POOL_LAYERS = 8 };

struct kvc_test_pool {
	enum kvc_test_arrangement arrangement;
	enum kvc_test_backing backing;
	uint32_t layers, heads, dim, page_tokens, pages;
	uint64_t layer_bytes;
	uint8_t *layer[KVC_TEST_POOL_LAYERS];
	const void *bases[2][KVC_TEST_POOL_LAYERS]; /* keys, values */
	struct kvc_pool_strides strides;
	uint64_t reserved_bytes; /* chunks */
};

/* Fill in layers, heads, dim, page_tokens, pages (bf16) before. */
void kvc_test_pool_make(struct kvc_test_pool *pool, enum kvc_test_arrangement arrangement,
                        enum kvc_test_backing backing);
void kvc_test_pool_free(struct kvc_test_pool *pool);

/* Row of `dim` elements; kind 0: keys, 1: values. */
uint16_t *kvc_test_pool_row(const struct kvc_test_pool *pool, unsigned kind, uint32_t layer, uint32_t page,
                            uint32_t token, uint32_t head);

struct kvc_pool_options kvc_test_pool_options(const struct kvc_test_pool *pool);

/* Between a block's pages and contiguous bytes, keys then values, each [layers][tokens][heads][dim]. */
void kvc_test_pool_copy(const struct kvc_test_pool *pool, const struct kvc_block *block, uint16_t *flat,
                        bool to_pool);

/* Elements of a block as kvc_test_pool_copy has them. */
size_t kvc_test_pool_elements(const struct kvc_test_pool *pool, uint32_t tokens);

#endif
