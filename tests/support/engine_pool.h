/* A worker's paged pool over the fake device, blocks on it, and what the CPU codec makes of them. */
#ifndef KVC_TEST_ENGINE_POOL_H
#define KVC_TEST_ENGINE_POOL_H

#include "kernels/image.h"
#include "tests/support/engine_rig.h"
#include "tests/support/prng.h"

enum kvc_gpu_pool_layout {
	KVC_LAYOUT_SPLIT, /* a layer: all keys, then all values: (2, pages, tokens, heads, dim) */
	KVC_LAYOUT_PAGED, /* (pages, 2, tokens, heads, dim) */
	KVC_LAYOUT_HEADS, /* (2, pages, heads, tokens, dim) */
	KVC_LAYOUT_FUSED, /* (pages, heads, tokens, key dim + value dim) */
	KVC_LAYOUT_APART, /* as split, but an allocation for each layer's keys and for its values */
	KVC_LAYOUTS,
};

#define KVC_TEST_REGIONS_MAX 64

struct kvc_engine_test_pool {
	struct kvc_engine_rig *rig;
	uint32_t id;
	struct kvc_mark mark; /* that jobs wait for */
	struct kvc_image_plan plan;
	struct kvc_gpu_pool_geometry geometry;
	struct kvc_gpu_base bases[KVC_TEST_REGIONS_MAX];
	uint32_t region_count;
	uint32_t first_region;
	struct kvc_engine_rig_memory regions[KVC_TEST_REGIONS_MAX];
	uint8_t *mirrors[KVC_TEST_REGIONS_MAX]; /* what must be in the regions */
};

struct kvc_engine_test_block {
	uint32_t pages[64];
	uint32_t page_count;
	uint32_t first_token;
};

/* Allocate and fill; regions are numbered from `first_region`. */
void kvc_engine_test_pool_make(struct kvc_engine_test_pool *pool, struct kvc_engine_rig *rig,
                               const struct kvc_image_plan *plan, enum kvc_gpu_pool_layout layout,
                               uint32_t page_tokens, uint32_t pages, uint32_t first_region,
                               struct prng *prng);

/* Import the regions, open the pool; its jobs wait for the word of `marks`, a descriptor that is kept, or -1.
 */
kvc_status kvc_engine_test_pool_open(struct kvc_engine_test_pool *pool, uint32_t id, int marks);

/* Close, and unimport. */
void kvc_engine_test_pool_close(struct kvc_engine_test_pool *pool);

void kvc_engine_test_pool_free(struct kvc_engine_test_pool *pool);

/* A block on pages of its own, the next ones after *next in a scattered order. */
void kvc_engine_test_block_make(const struct kvc_engine_test_pool *pool, uint32_t *next, uint32_t first_token,
                                struct kvc_engine_test_block *block);

/* Where an element's row is. */
uint8_t *kvc_engine_test_row(const struct kvc_engine_test_pool *pool,
                             const struct kvc_engine_test_block *block, enum kvc_kind kind, uint32_t layer,
                             uint32_t token, uint32_t head, bool mirror);

/* The block's image by the CPU codec, `raw_image_bytes` of room; returns its length. */
uint64_t kvc_engine_test_image(const struct kvc_engine_test_pool *pool,
                               const struct kvc_engine_test_block *block, uint8_t *image);

/* Decode the image by the CPU codec into the mirror of the block's pages. */
void kvc_engine_test_expect(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *block,
                            const uint8_t *image, uint64_t length);

/* All regions are as their mirrors. */
bool kvc_engine_test_pool_right(const struct kvc_engine_test_pool *pool);

#endif
