/* The codec on a GPU: launchers of the CUDA kernels, in plain C.
 *
 * A launch encodes or decodes a batch of blocks that share one plan (shape and codec) and lie in one paged
 * pool. What it writes is the block image of image.h, bit for bit: an image encoded here opens and decodes on
 * a CPU, and the reverse. Two things of an image are the host's: the header (kvc_kern_image_seal, once the
 * image is in host memory) and its check (kvc_image_open, before the image goes to the GPU).
 *
 * Launchers check their arguments, enqueue on the stream and return. They never allocate, synchronise or
 * abort, and are thread-safe. All memory is the caller's and stays until the stream has passed the launch.
 *
 * Bounds. The pool's geometry is checked here against the bytes of its regions before anything is launched.
 * Page ids lie in device memory and are checked there, each one when it is read and before it is used:
 * nothing is read or written through an id out of range, and the block's result says KVC_KERN_BAD_PAGE.
 * Tables of layers lie in device memory too; what they say is the caller's word. */
#ifndef KVC_KERN_H
#define KVC_KERN_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/image.h"

/* Where the keys, or the values, of a pool lie. An element is at
 *   base + page * page_stride + layer * layer_stride + (token in page) * token_stride + head * head_stride
 * plus its channel; the channels of a head are contiguous. Byte strides, in any order, never negative. Fused
 * layouts are two places with the same strides and different bases.
 *
 * With a table of layers, layers[layer] stands for base + layer * layer_stride: engines allocate a tensor a
 * layer. Keys and values may share such tensors or not; then `bytes` bounds each layer by itself. That every
 * entry is the address of that many bytes, and a multiple of layers_align, is the caller's word: the kernels
 * read the entries, one a tile, and check nothing of them. */
struct kvc_kern_place {
	void *base;             /* device address; ignored with a table */
	const uint64_t *layers; /* device address of the table, one entry a layer; NULL: none */
	uint32_t layers_align;  /* with a table: a power of two, at least an element's bytes. Below 16 the
	                         * general kernels do the work */
	uint64_t bytes;         /* from base, or from each layer's: the region that all pages must lie in */
	uint64_t page_stride;
	uint64_t layer_stride; /* ignored with a table */
	uint64_t token_stride;
	uint64_t head_stride;
};

struct kvc_kern_pool {
	struct kvc_kern_place key;
	struct kvc_kern_place value; /* ignored for key-only blocks */
	uint64_t pages;              /* valid ids are below this */
	uint32_t page_tokens;
	uint32_t id_bytes; /* of a page id: 4 or 8 */
};

/* One block of a batch; read by the kernels, so in device or mapped host memory. */
struct kvc_kern_block {
	uint64_t image;       /* device address of the image, KVC_IMAGE_ALIGN aligned */
	uint64_t image_bytes; /* encode: capacity, at least plan.image_bytes. decode: length of the image */
	uint64_t ids;         /* device address of the id of the page that holds the first token */
	uint32_t first_token; /* where in that page the block begins */
	uint32_t reserved;    /* 0 */
};

enum {
	KVC_KERN_BAD_PAGE = 1, /* a page id is out of range: the block is incomplete */
	KVC_KERN_CORRUPT =
	        2, /* decode: a checksum or the raw map does not hold; what was restored is no answer */
	KVC_KERN_NO_SPACE =
	        4, /* encode: the raw tiles do not fit into image_bytes; image_bytes tells what would do */
	KVC_KERN_ALL_RAW = 8, /* encode: so many raw tiles that the block must be encoded with preset `raw` */
};

/* What became of a block; written by the kernels. */
struct kvc_kern_result {
	uint32_t errors; /* KVC_KERN_*; 0: complete */
	uint32_t raw_tiles;
	uint64_t image_bytes; /* encode: length of the image */
};

struct kvc_kern_job {
	const struct kvc_image_plan *plan;   /* host; read before the launcher returns */
	const struct kvc_kern_pool *pool;    /* host; read before the launcher returns */
	const struct kvc_kern_block *blocks; /* device or mapped host memory, `count` of them */
	struct kvc_kern_result *results;     /* device or mapped host memory, `count` of them */
	uint32_t count;
	uint32_t sms; /* most multiprocessors to occupy: one thread block runs on each */
	void *stream; /* cudaStream_t; its priority is the launch's */
};

/* Load all kernels into the current context, so that no launch does. May allocate and synchronise. */
kvc_status kvc_kern_load(void);

/* Gather, encode, checksum: image without header in each block's image, result in results.
 * KVC_SHAPE: the pool's geometry does not fit its regions or the plan, or its alignment not the elements.
 * KVC_INVALID: any other argument. */
kvc_status kvc_kern_encode(const struct kvc_kern_job *job);

/* Verify, decode, scatter. Where a result says KVC_KERN_CORRUPT or KVC_KERN_BAD_PAGE, part of the block may
 * have been written, never anything outside it. */
kvc_status kvc_kern_decode(const struct kvc_kern_job *job);

/* Write the header of an image that kvc_kern_encode made without an error, when it is in host memory.
 * *length is the image's length. KVC_CORRUPT if `capacity` is below it. */
kvc_status kvc_kern_image_seal(const struct kvc_image_plan *plan, uint8_t *image, uint64_t capacity,
                               uint64_t *length);

/* The status that stands for a cudaError_t: the one place where these are translated. */
kvc_status kvc_kern_status(int cuda_error);

#ifdef __cplusplus
}
#endif

#endif
