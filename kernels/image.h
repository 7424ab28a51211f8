/* The block image: how the coded tiles of one block lie in memory, on disk and on the wire.
 *
 *   header (256 bytes, little-endian, checksummed; covers the overrides, raw map and tile sums)
 *   overrides (24 bytes a layer that differs)
 *   raw map (1 bit a tile)
 *   tile checksums (8 bytes a tile, XXH3-64 of what the tile stores)
 *   --- padded to 64 bytes: payload ---
 *   tile slots: layer by layer, keys of all heads, then values of all heads; sizes are fixed by
 *               the header, so the offset of any (layer, K/V, head) is arithmetic
 *   raw tiles:  those whose bit is set in the raw map, in tile order; their slots are zero
 *
 * A tile number counts in slot order. If so many tiles are raw that the image would not be
 * smaller than the raw block, the whole block is stored raw (codec KVC_BITS_RAW).
 *
 * The caller owns all memory. Nothing here allocates. Encoding: plan, reserve plan.image_bytes,
 * encode tile ranges from any threads, then seal from one thread. Decoding: open, then decode tile
 * ranges from any threads; each verifies the checksum of the tile before it is decoded. */
#ifndef KVC_IMAGE_H
#define KVC_IMAGE_H

#include "kernels/codec.h"
#include "kernels/preset.h"

#define KVC_IMAGE_ALIGN        64u /* alignment that an image in memory must have */
#define KVC_IMAGE_HEADER_BYTES 256u
#define KVC_IMAGE_SUM_OFFSET   240u /* of the checksum that covers all of the image, in its header */
#define KVC_IMAGE_SUM_BYTES    16u
#define KVC_LAYERS_MAX         512u
#define KVC_HEADS_MAX          256u
#define KVC_TILES_MAX          65536u
#define KVC_IMAGE_BYTES_MAX    (1u << 30)

enum kvc_kind { KVC_KIND_KEY = 0, KVC_KIND_VALUE = 1 };

/* Shape of one block. */
struct kvc_block_shape {
	uint32_t layers;
	uint32_t heads;     /* KV heads */
	uint32_t key_dim;   /* channels of a key head */
	uint32_t value_dim; /* channels of a value head; 0: a key-only block (shared latent) */
	uint32_t tokens;
	enum kvc_dtype dtype;
};

/* KVC_OK, or KVC_SHAPE if any field or any product of them is out of bounds. */
kvc_status kvc_block_shape_check(const struct kvc_block_shape *shape);

/* Bytes of all elements of the block, K and V. The shape must have been checked. */
size_t kvc_block_raw_bytes(const struct kvc_block_shape *shape);

/* Where the elements of a block lie in a caller's memory. Byte strides; `dim` is contiguous. */
struct kvc_block_layout {
	ptrdiff_t layer_stride;
	ptrdiff_t token_stride;
	ptrdiff_t head_stride;
};

struct kvc_block_view {
	void *key;
	void *value; /* NULL for key-only blocks */
	struct kvc_block_layout key_layout;
	struct kvc_block_layout value_layout;
};

/* Contiguous C order [layers][tokens][heads][dim]. */
void kvc_block_layout_default(const struct kvc_block_shape *shape, enum kvc_kind kind,
                              struct kvc_block_layout *layout);

/* All that follows from shape and codec: sizes, offsets. Plain data, copyable. */
struct kvc_image_plan {
	struct kvc_block_shape shape;
	struct kvc_block_codec codec;
	uint32_t tiles;           /* tiles of the block */
	uint32_t meta_bytes;      /* header to payload */
	uint64_t payload_bytes;   /* tile slots, without raw tiles */
	uint64_t image_bytes;     /* meta + payload: what to reserve before encoding */
	uint64_t raw_image_bytes; /* size if the whole block is stored raw: the bound of any image */
};

/* Checks everything. KVC_SHAPE or KVC_INVALID, and *plan untouched, if out of bounds. */
kvc_status kvc_image_plan_init(struct kvc_image_plan *plan, const struct kvc_block_shape *shape,
                               const struct kvc_block_codec *codec);

/* Offset from the image's start of a tile's slot, and its size. Arithmetic, O(overrides). */
struct kvc_tile_slot {
	uint64_t offset;
	uint64_t bytes;
};
struct kvc_tile_slot kvc_image_slot(const struct kvc_image_plan *plan, uint32_t layer, enum kvc_kind kind,
                                    uint32_t head);

/* Scratch bytes (64-byte aligned) for encoding or decoding any tile of the plan. */
size_t kvc_image_scratch_bytes(const struct kvc_image_plan *plan);

/* Encode tiles [first, first + count) into `image` (plan->image_bytes long): slots and checksums;
 * raw tiles are only noted. Ranges of one image may run in parallel if each range starts at a multiple
 * of 8 (the raw map is written a byte at a time). */
void kvc_image_encode_tiles(const struct kvc_image_plan *plan, const struct kvc_codec *codec,
                            const struct kvc_block_view *source, uint8_t *image, uint32_t first,
                            uint32_t count, void *scratch);

/* After all tiles are encoded: copy raw tiles, write the header. `capacity` bytes are there.
 * KVC_OK: *length is the image's length. KVC_NO_SPACE: *length is what is needed; reserve that and
 * encode again from the start. May rewrite the image as wholly raw. */
kvc_status kvc_image_seal(const struct kvc_image_plan *plan, const struct kvc_block_view *source,
                          uint8_t *image, uint64_t capacity, uint64_t *length);

/* An opened image: borrowed bytes and their plan. */
struct kvc_image {
	const uint8_t *bytes;
	uint64_t length;
	struct kvc_image_plan plan;
	uint32_t raw_tiles;
};

enum { KVC_IMAGE_TRUSTED = 1 }; /* skip checksums: for fuzzing the decoder */

/* Check header, sizes and checksums of the metadata. KVC_CORRUPT if anything does not hold, and
 * *image untouched. The tiles themselves are checked when decoded. */
kvc_status kvc_image_open(const void *bytes, uint64_t length, int flags, struct kvc_image *image);

/* Verify and decode tiles [first, first + count) into dest. KVC_CORRUPT at the first bad tile
 * (what was decoded before it stays written). */
kvc_status kvc_image_decode_tiles(const struct kvc_image *image, const struct kvc_codec *codec,
                                  const struct kvc_block_view *dest, uint32_t first, uint32_t count,
                                  int flags, void *scratch);

/* Verify the checksums of all tiles, or of [first, first + count), without decoding. */
kvc_status kvc_image_verify(const struct kvc_image *image);
kvc_status kvc_image_verify_tiles(const struct kvc_image *image, uint32_t first, uint32_t count);

/* True if encoding under `plan` can make such an image: shape and codec are the plan's, or the shape is and
 * the whole block is raw. */
bool kvc_image_is_of(const struct kvc_image *image, const struct kvc_image_plan *plan);

/* To copy an image from where it may change meanwhile, each byte once: first the header, then the rest of the
 * metadata, then open the copy (this reads nothing else), then copy tiles, wherever, and verify them.
 *
 * Bytes of metadata that a header tells of; of KVC_IMAGE_HEADER_BYTES bytes that were not checked. An image
 * that opens has that many. */
uint32_t kvc_image_meta_bytes(const void *header);

/* Where tiles [first, first + count) of an image lie: their slots, and those of them that are raw, behind all
 * slots. All tiles' together are all that follows the metadata. */
struct kvc_image_extent {
	struct kvc_tile_slot slots;
	struct kvc_tile_slot raw;
};
struct kvc_image_extent kvc_image_extent(const struct kvc_image *image, uint32_t first, uint32_t count);

#endif
