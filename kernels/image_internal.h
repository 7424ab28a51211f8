/* The block image inside: packed header, and where things lie. Shared by image_plan.c, image_header.c,
 * image.c. */
#ifndef KVC_IMAGE_INTERNAL_H
#define KVC_IMAGE_INTERNAL_H

#include "kernels/image.h"

#include <assert.h>
#include <string.h>

#define KVC_IMAGE_VERSION     1u
#define KVC_IMAGE_MAGIC       "KVCBLK\r\n" /* 8 bytes; a text-mode transfer damages it */
#define KVC_IMAGE_FLAG_CENTRE 1u
#define KVC_IMAGE_FLAG_ROTATE 2u
#define KVC_IMAGE_FLAG_GAIN   4u

/* Codec of one kind. Raw: bits 0xFF, all else zero. */
struct kvc_image_params {
	uint8_t bits;
	uint8_t flags;
	uint16_t group;
	uint32_t clip; /* bits of a binary32; of interest to encoders only */
} __attribute__((packed));

struct kvc_image_override {
	uint32_t layer;
	uint32_t reserved; /* 0 */
	struct kvc_image_params key;
	struct kvc_image_params value;
} __attribute__((packed));

struct kvc_image_header {
	uint8_t magic[8];
	uint16_t version;
	uint16_t header_bytes;
	uint32_t meta_bytes;
	uint64_t payload_bytes;
	uint64_t image_bytes; /* with the raw tiles */
	uint32_t tiles;
	uint32_t raw_tiles;
	uint32_t layers;
	uint32_t heads;
	uint32_t key_dim;
	uint32_t value_dim;
	uint32_t tokens;
	uint8_t dtype;
	uint8_t override_count;
	uint16_t scale_kind; /* 0: scale and offset are two binary16; no other kind yet */
	struct kvc_image_params key;
	struct kvc_image_params value;
	uint8_t reserved[160]; /* 0 */
	uint8_t checksum[16];  /* XXH3-128 of all metadata with this field zero: low half, high half */
} __attribute__((packed));

static_assert(sizeof(struct kvc_image_params) == 8, "on disk");
static_assert(sizeof(struct kvc_image_override) == 24, "on disk");
static_assert(sizeof(struct kvc_image_header) == KVC_IMAGE_HEADER_BYTES, "on disk");
static_assert(offsetof(struct kvc_image_header, payload_bytes) == 16, "on disk");
static_assert(offsetof(struct kvc_image_header, tiles) == 32, "on disk");
static_assert(offsetof(struct kvc_image_header, layers) == 40, "on disk");
static_assert(offsetof(struct kvc_image_header, dtype) == 60, "on disk");
static_assert(offsetof(struct kvc_image_header, key) == 64, "on disk");
static_assert(offsetof(struct kvc_image_header, reserved) == 80, "on disk");
static_assert(offsetof(struct kvc_image_header, checksum) == KVC_IMAGE_SUM_OFFSET, "on disk");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the packed structs are little-endian");

#define KVC_IMAGE_META_FIXED_MAX \
	(KVC_IMAGE_HEADER_BYTES + KVC_OVERRIDES_MAX * sizeof(struct kvc_image_override))

/* Where the parts of the metadata start. */
struct kvc_image_meta {
	uint32_t raw_map;
	uint32_t raw_map_end; /* without padding */
	uint32_t sums;
	uint32_t sums_end;
	uint32_t bytes;
};

void kvc_image_meta_init(struct kvc_image_meta *meta, uint32_t override_count, uint32_t tiles);

/* One tile by its number. */
struct kvc_image_tile {
	uint32_t layer;
	uint32_t head;
	enum kvc_kind kind;
	const struct kvc_codec_params *params; /* in the plan */
	struct kvc_tile_shape shape;
	struct kvc_tile_slot slot;
};

void kvc_image_tile_init(struct kvc_image_tile *tile, const struct kvc_image_plan *plan, uint32_t number);

/* The same block, wholly raw. */
void kvc_image_plan_raw(struct kvc_image_plan *raw, const struct kvc_image_plan *plan);

/* What the header and the overrides of such an image are, checksum zero: KVC_IMAGE_META_FIXED_MAX bytes at
 * most, the length is returned. */
size_t kvc_image_header_build(const struct kvc_image_plan *plan, uint32_t raw_tiles, uint64_t image_bytes,
                              uint8_t *out);

/* The plan that a header tells of, with everything in bounds; KVC_CORRUPT otherwise. `length` bytes may be
 * read. Fields that follow from the others are not looked at: compare with kvc_image_header_build(). */
kvc_status kvc_image_header_parse(const uint8_t *bytes, uint64_t length, struct kvc_image_plan *plan);

/* Header, padding and checksum, when slots, raw tiles, raw map and tile checksums are in place. */
void kvc_image_finish(const struct kvc_image_plan *plan, const struct kvc_image_meta *meta,
                      uint32_t raw_tiles, uint64_t image_bytes, uint8_t *image);

/* Checksum of all metadata. */
void kvc_image_checksum(const uint8_t *image, uint32_t meta_bytes, uint8_t checksum[16]);

static inline bool kvc_image_raw_bit(const uint8_t *raw_map, uint32_t number)
{
	return raw_map[number / 8] >> (number % 8) & 1;
}

#endif
