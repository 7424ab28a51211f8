/* One batch of blocks through the kernels, beside the CPU codec: images must be equal byte for byte, and so
 * must all memory of the pool after a decode. */
#ifndef KVC_TESTS_GPU_KERN_TRIAL_H
#define KVC_TESTS_GPU_KERN_TRIAL_H

#include "kernels/kern.h"
#include "tests/gpu/kern_pool.h"

struct trial {
	struct kvc_image_plan plan;
	struct pool pool;
	uint64_t stride; /* from one image to the next one: room for any image of a block */
	uint8_t *device_images;
	uint8_t *device_blocks;
	uint8_t *device_results;
	uint8_t *images;                 /* of the CPU codec */
	uint64_t *lengths;               /* of them */
	uint8_t *made;                   /* of the GPU */
	uint8_t *restored;               /* data, by the CPU codec */
	struct kvc_kern_block *blocks;   /* all of them, in order */
	struct kvc_kern_result *results; /* of the last launch */
	struct kvc_kern_job job;         /* over all blocks */
};

void trial_make(struct trial *trial, const struct kvc_block_shape *shape, const struct kvc_block_codec *codec,
                uint32_t blocks, const struct pool_wish *wish, struct rng *rng);
void trial_free(struct trial *trial);

/* Images and restored data of the CPU codec, all blocks, from pool.data. */
void trial_reference(struct trial *trial);

/* Poison all images on the device, encode, fetch results and images. */
kvc_status trial_encode(struct trial *trial);

/* The CPU's images to the device. */
void trial_images_upload(struct trial *trial);

/* Poison the pool on the device, decode, fetch results and the pool to pool.host. */
kvc_status trial_decode(struct trial *trial);

/* The number of blocks for which something is wrong; each is told. Blocks that the CPU stores wholly raw must
 * be reported as such. */
uint32_t trial_images_differ(struct trial *trial);

/* 1 if the pool is not as the CPU's restored data would have it. */
uint32_t trial_pool_differs(struct trial *trial);

/* Run call(context, i) for i below count, on all processors. */
void parallel(uint32_t count, void (*call)(void *context, uint32_t i), void *context);

#endif
