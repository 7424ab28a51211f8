/* Block images: encode, seal, open, decode.
 *
 * What must hold of an image, beyond sizes (the checks of open and decode cite the numbers):
 *  1. Header and overrides are byte for byte what kvc_image_header_build() makes of them: fields that follow
 * from others agree, what is reserved is zero.
 *  2. No bit of the raw map is set for a tile that does not exist or whose codec is raw anyway.
 *  3. All padding is zero.
 *  4. The length is that of metadata, slots and raw tiles, and below that of the raw block, unless the whole
 * block is raw.
 *  5. The checksum of the metadata matches.
 *  6. The checksum of each tile matches what it stores: its slot, or, if its bit is set, its place among the
 * raw tiles; its slot is zero then. So equal blocks have equal images. With KVC_IMAGE_TRUSTED, 5 and 6 are
 * not looked at, and still nothing is read or written out of bounds. */
#include "kernels/image_internal.h"

#include <xxhash.h>

static struct kvc_rows tile_rows(const struct kvc_block_view *view, const struct kvc_image_tile *tile)
{
	bool key = tile->kind == KVC_KIND_KEY;
	const struct kvc_block_layout *layout = key ? &view->key_layout : &view->value_layout;
	uint8_t *base = key ? view->key : view->value;

	return (struct kvc_rows){
	        .base = base + (ptrdiff_t)tile->layer * layout->layer_stride +
	                (ptrdiff_t)tile->head * layout->head_stride,
	        .row_stride = layout->token_stride,
	};
}

static void raw_bit_write(uint8_t *raw_map, uint32_t number, bool raw)
{
	uint8_t mask = (uint8_t)(1u << (number % 8));

	raw_map[number / 8] = (uint8_t)(raw ? raw_map[number / 8] | mask : raw_map[number / 8] & ~mask);
}

static void sum_write(uint8_t *sums, uint32_t number, const uint8_t *stored, uint64_t bytes)
{
	uint64_t sum = XXH3_64bits(stored, bytes);

	memcpy(sums + 8 * (size_t)number, &sum, sizeof sum);
}

static bool sum_matches(const uint8_t *sums, uint32_t number, const uint8_t *stored, uint64_t bytes)
{
	uint64_t sum;

	memcpy(&sum, sums + 8 * (size_t)number, sizeof sum);
	return sum == XXH3_64bits(stored, bytes);
}

static bool all_zero(const uint8_t *bytes, uint64_t count)
{
	return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* --- encode --- */

/* False if the tile has to be stored raw, outside its slot. */
static bool encode_tile(const struct kvc_image_tile *tile, const struct kvc_codec *codec,
                        const struct kvc_rows *source, uint8_t *slot, void *scratch)
{
	if (tile->params->bits == KVC_BITS_RAW) {
		kvc_tile_raw_store(&tile->shape, source, slot);
		return true;
	}
	return codec->encode(tile->params, &tile->shape, source, slot, scratch);
}

void kvc_image_encode_tiles(const struct kvc_image_plan *plan, const struct kvc_codec *codec,
                            const struct kvc_block_view *source, uint8_t *image, uint32_t first,
                            uint32_t count, void *scratch)
{
	struct kvc_image_meta meta;

	assert(first <= plan->tiles && count <= plan->tiles - first);
	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	for (uint32_t i = first; i < first + count; i++) {
		struct kvc_image_tile tile;
		struct kvc_rows rows;
		uint8_t *slot;
		bool raw;

		kvc_image_tile_init(&tile, plan, i);
		rows = tile_rows(source, &tile);
		slot = image + tile.slot.offset;
		raw = !encode_tile(&tile, codec, &rows, slot, scratch);
		if (raw)
			memset(slot, 0, tile.slot.bytes);
		raw_bit_write(image + meta.raw_map, i, raw);
		sum_write(image + meta.sums, i, slot, tile.slot.bytes);
	}
}

/* --- seal --- */

struct raw_total {
	uint32_t tiles;
	uint64_t bytes;
};

/* Count the raw tiles before tile `end`. */
static struct raw_total raw_count(const struct kvc_image_plan *plan, const uint8_t *raw_map, uint32_t end)
{
	struct raw_total total = {0};

	for (uint32_t i = 0; i < end; i++) {
		struct kvc_image_tile tile;

		if (!kvc_image_raw_bit(raw_map, i))
			continue;
		kvc_image_tile_init(&tile, plan, i);
		total.tiles++;
		total.bytes += kvc_tile_raw_bytes(&tile.shape);
	}
	return total;
}

static_assert(KVC_DIM_STEP * 2 % KVC_PLANE_ALIGN == 0, "raw tiles need no padding");

void kvc_image_finish(const struct kvc_image_plan *plan, const struct kvc_image_meta *meta,
                      uint32_t raw_tiles, uint64_t image_bytes, uint8_t *image)
{
	size_t fixed = kvc_image_header_build(plan, raw_tiles, image_bytes, image);

	assert(fixed == meta->raw_map);
	if (plan->tiles % 8 != 0)
		image[meta->raw_map_end - 1] &= (uint8_t)((1u << plan->tiles % 8) - 1);
	memset(image + meta->raw_map_end, 0, meta->sums - meta->raw_map_end);
	memset(image + meta->sums_end, 0, meta->bytes - meta->sums_end);
	kvc_image_checksum(image, meta->bytes, image + offsetof(struct kvc_image_header, checksum));
}

/* Start over with every tile as it is. Its slots take all of the image, so no byte of what was there is left.
 */
static uint64_t seal_raw(const struct kvc_image_plan *plan, const struct kvc_block_view *source,
                         uint8_t *image)
{
	struct kvc_image_plan raw;
	struct kvc_image_meta meta;

	kvc_image_plan_raw(&raw, plan);
	kvc_image_meta_init(&meta, 0, raw.tiles);
	kvc_image_encode_tiles(&raw, NULL, source, image, 0, raw.tiles, NULL);
	kvc_image_finish(&raw, &meta, 0, raw.image_bytes, image);
	return raw.image_bytes;
}

/* The source is read again here, after encode: a tile that another process changed meanwhile is still stored
 * whole, under the checksum of what was stored. */
static void store_raw_tiles(const struct kvc_image_plan *plan, const struct kvc_image_meta *meta,
                            const struct kvc_block_view *source, uint8_t *image)
{
	uint8_t *next = image + plan->image_bytes;

	for (uint32_t i = 0; i < plan->tiles; i++) {
		struct kvc_image_tile tile;
		struct kvc_rows rows;
		size_t bytes;

		if (!kvc_image_raw_bit(image + meta->raw_map, i))
			continue;
		kvc_image_tile_init(&tile, plan, i);
		rows = tile_rows(source, &tile);
		bytes = kvc_tile_raw_bytes(&tile.shape);
		kvc_tile_raw_store(&tile.shape, &rows, next);
		sum_write(image + meta->sums, i, next, bytes);
		next += bytes;
	}
}

kvc_status kvc_image_seal(const struct kvc_image_plan *plan, const struct kvc_block_view *source,
                          uint8_t *image, uint64_t capacity, uint64_t *length)
{
	struct kvc_image_meta meta;
	struct raw_total raw;
	bool wholly_raw;
	uint64_t needed;

	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	raw = raw_count(plan, image + meta.raw_map, plan->tiles);
	needed = plan->image_bytes + raw.bytes;
	wholly_raw = raw.tiles > 0 && needed >= plan->raw_image_bytes;
	if (wholly_raw)
		needed = plan->raw_image_bytes;
	*length = needed;
	if (needed > capacity)
		return KVC_NO_SPACE;
	if (wholly_raw) {
		*length = seal_raw(plan, source, image);
		return KVC_OK;
	}
	store_raw_tiles(plan, &meta, source, image);
	kvc_image_finish(plan, &meta, raw.tiles, needed, image);
	return KVC_OK;
}

/* --- open --- */

/* Invariants 2 and 3: nothing is set in the metadata that means nothing. */
static bool meta_clean(const struct kvc_image_plan *plan, const struct kvc_image_meta *meta,
                       const uint8_t *image)
{
	const uint8_t *raw_map = image + meta->raw_map;

	if (plan->tiles % 8 != 0 && image[meta->raw_map_end - 1] >> plan->tiles % 8)
		return false;
	if (!all_zero(image + meta->raw_map_end, meta->sums - meta->raw_map_end) ||
	    !all_zero(image + meta->sums_end, meta->bytes - meta->sums_end))
		return false;
	for (uint32_t i = 0; i < plan->tiles; i++) {
		struct kvc_image_tile tile;

		if (!kvc_image_raw_bit(raw_map, i))
			continue;
		kvc_image_tile_init(&tile, plan, i);
		if (tile.params->bits == KVC_BITS_RAW)
			return false;
	}
	return true;
}

/* Invariants 1 and 4. */
static bool header_agrees(const struct kvc_image_plan *plan, const struct raw_total *raw,
                          const uint8_t *image, uint64_t length)
{
	const size_t field = offsetof(struct kvc_image_header, checksum);
	uint8_t expected[KVC_IMAGE_META_FIXED_MAX];
	size_t fixed = kvc_image_header_build(plan, raw->tiles, length, expected);

	if (length != plan->image_bytes + raw->bytes || (raw->tiles > 0 && length >= plan->raw_image_bytes))
		return false;
	return memcmp(image, expected, field) == 0 &&
	       memcmp(image + KVC_IMAGE_HEADER_BYTES, expected + KVC_IMAGE_HEADER_BYTES,
	              fixed - KVC_IMAGE_HEADER_BYTES) == 0;
}

/* Invariant 5. */
static bool checksum_matches(const uint8_t *image, uint32_t meta_bytes)
{
	uint8_t checksum[16];

	kvc_image_checksum(image, meta_bytes, checksum);
	return memcmp(image + offsetof(struct kvc_image_header, checksum), checksum, sizeof checksum) == 0;
}

kvc_status kvc_image_open(const void *bytes, uint64_t length, int flags, struct kvc_image *image)
{
	struct kvc_image_plan plan;
	struct kvc_image_meta meta;
	struct raw_total raw;

	if (kvc_image_header_parse(bytes, length, &plan) != KVC_OK || length < plan.image_bytes)
		return KVC_CORRUPT;
	kvc_image_meta_init(&meta, plan.codec.override_count, plan.tiles);
	if (!(flags & KVC_IMAGE_TRUSTED) && !checksum_matches(bytes, meta.bytes))
		return KVC_CORRUPT;
	raw = raw_count(&plan, (const uint8_t *)bytes + meta.raw_map, plan.tiles);
	if (!meta_clean(&plan, &meta, bytes) || !header_agrees(&plan, &raw, bytes, length))
		return KVC_CORRUPT;
	*image = (struct kvc_image){.bytes = bytes, .length = length, .plan = plan, .raw_tiles = raw.tiles};
	return KVC_OK;
}

/* --- decode --- */

/* Walks over tiles in order, keeping count of the raw ones. */
struct cursor {
	const struct kvc_image *image;
	struct kvc_image_meta meta;
	uint64_t raw_offset; /* of the next raw tile */
	struct kvc_image_tile tile;
	const uint8_t *stored; /* what the tile stores */
	uint64_t stored_bytes;
	bool raw; /* to be copied, not decoded */
};

static void cursor_init(struct cursor *cursor, const struct kvc_image *image, uint32_t first)
{
	const struct kvc_image_plan *plan = &image->plan;

	cursor->image = image;
	kvc_image_meta_init(&cursor->meta, plan->codec.override_count, plan->tiles);
	cursor->raw_offset = plan->image_bytes;
	if (image->raw_tiles > 0)
		cursor->raw_offset += raw_count(plan, image->bytes + cursor->meta.raw_map, first).bytes;
}

/* Invariant 6. */
static bool cursor_verify(const struct cursor *cursor, uint32_t number)
{
	const uint8_t *slot = cursor->image->bytes + cursor->tile.slot.offset;

	if (!sum_matches(cursor->image->bytes + cursor->meta.sums, number, cursor->stored,
	                 cursor->stored_bytes))
		return false;
	return cursor->stored == slot || all_zero(slot, cursor->tile.slot.bytes);
}

/* Move to tile `number`, the next one; false if it is damaged. */
static bool cursor_next(struct cursor *cursor, uint32_t number, int flags)
{
	const struct kvc_image *image = cursor->image;
	struct kvc_image_tile *tile = &cursor->tile;
	bool moved = kvc_image_raw_bit(image->bytes + cursor->meta.raw_map, number);

	kvc_image_tile_init(tile, &image->plan, number);
	cursor->raw = moved || tile->params->bits == KVC_BITS_RAW;
	cursor->stored = image->bytes + (moved ? cursor->raw_offset : tile->slot.offset);
	cursor->stored_bytes = moved ? kvc_tile_raw_bytes(&tile->shape) : tile->slot.bytes;
	if (moved) {
		/* Open has counted the bits; looked at again in case the bytes changed since. */
		if (cursor->stored_bytes > image->length - cursor->raw_offset)
			return false;
		cursor->raw_offset += cursor->stored_bytes;
	}
	return (flags & KVC_IMAGE_TRUSTED) || cursor_verify(cursor, number);
}

kvc_status kvc_image_decode_tiles(const struct kvc_image *image, const struct kvc_codec *codec,
                                  const struct kvc_block_view *dest, uint32_t first, uint32_t count,
                                  int flags, void *scratch)
{
	struct cursor cursor;

	assert(first <= image->plan.tiles && count <= image->plan.tiles - first);
	cursor_init(&cursor, image, first);
	for (uint32_t i = first; i < first + count; i++) {
		struct kvc_rows rows;

		if (!cursor_next(&cursor, i, flags))
			return KVC_CORRUPT;
		rows = tile_rows(dest, &cursor.tile);
		if (cursor.raw)
			kvc_tile_raw_load(&cursor.tile.shape, cursor.stored, &rows);
		else
			codec->decode(cursor.tile.params, &cursor.tile.shape, cursor.stored, &rows, scratch);
	}
	return KVC_OK;
}

kvc_status kvc_image_verify_tiles(const struct kvc_image *image, uint32_t first, uint32_t count)
{
	struct cursor cursor;

	assert(first <= image->plan.tiles && count <= image->plan.tiles - first);
	cursor_init(&cursor, image, first);
	for (uint32_t i = first; i < first + count; i++) {
		if (!cursor_next(&cursor, i, 0))
			return KVC_CORRUPT;
	}
	return KVC_OK;
}

kvc_status kvc_image_verify(const struct kvc_image *image)
{
	return kvc_image_verify_tiles(image, 0, image->plan.tiles);
}

/* --- parts of an image --- */

/* An opened image's fixed metadata is what its plan makes of it, so the header tells all of the codec. */
static bool header_is_of(const struct kvc_image *image, const struct kvc_image_plan *plan)
{
	uint8_t expected[KVC_IMAGE_META_FIXED_MAX];
	size_t fixed = kvc_image_header_build(plan, image->raw_tiles, image->length, expected);
	size_t field = offsetof(struct kvc_image_header, checksum);

	return image->plan.codec.override_count == plan->codec.override_count &&
	       memcmp(image->bytes, expected, field) == 0 &&
	       memcmp(image->bytes + KVC_IMAGE_HEADER_BYTES, expected + KVC_IMAGE_HEADER_BYTES,
	              fixed - KVC_IMAGE_HEADER_BYTES) == 0;
}

bool kvc_image_is_of(const struct kvc_image *image, const struct kvc_image_plan *plan)
{
	struct kvc_image_plan raw;

	if (header_is_of(image, plan))
		return true;
	kvc_image_plan_raw(&raw, plan);
	return header_is_of(image, &raw);
}

uint32_t kvc_image_meta_bytes(const void *header)
{
	uint32_t bytes;

	memcpy(&bytes, (const uint8_t *)header + offsetof(struct kvc_image_header, meta_bytes), sizeof bytes);
	return bytes;
}

/* Offset of a tile's slot, or the end of all slots. */
static uint64_t slot_offset(const struct kvc_image_plan *plan, uint32_t number)
{
	struct kvc_image_tile tile;

	if (number == plan->tiles)
		return plan->image_bytes;
	kvc_image_tile_init(&tile, plan, number);
	return tile.slot.offset;
}

struct kvc_image_extent kvc_image_extent(const struct kvc_image *image, uint32_t first, uint32_t count)
{
	const struct kvc_image_plan *plan = &image->plan;
	struct kvc_image_extent extent = {.slots.offset = slot_offset(plan, first),
	                                  .raw.offset = plan->image_bytes};
	struct kvc_image_meta meta;

	assert(first <= plan->tiles && count <= plan->tiles - first);
	extent.slots.bytes = slot_offset(plan, first + count) - extent.slots.offset;
	if (image->raw_tiles == 0)
		return extent;
	kvc_image_meta_init(&meta, plan->codec.override_count, plan->tiles);
	extent.raw.offset += raw_count(plan, image->bytes + meta.raw_map, first).bytes;
	extent.raw.bytes = plan->image_bytes +
	                   raw_count(plan, image->bytes + meta.raw_map, first + count).bytes -
	                   extent.raw.offset;
	return extent;
}
