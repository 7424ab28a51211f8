/* Tiles as the kernels see them: which block, which slot, where each row of elements is, and how a result is
 * told. Page ids are checked here, where they are read. */
#ifndef KVC_KERN_TILE_CUH
#define KVC_KERN_TILE_CUH

#include "kernels/dev.cuh"
#include "kernels/kern_task.h"

/* Shared memory begins with the secret of the hash; the teams' parts follow. */
#define TILE_SHARED_FIXED 256u

struct tile {
	struct kvc_kern_block block;
	struct kvc_kern_result *result;
	uint32_t number; /* in the block */
	uint64_t origin; /* of the elements: all but page and token */
	uint8_t *image;
	uint8_t *slot;
};

DEV uint32_t quotient(uint32_t n, const struct kern_divisor *divisor)
{
	return (dev_high_product32(n, divisor->factor) + n) >> divisor->shift;
}

/* Where the elements of a layer and head begin; layers count from the place's first one. */
DEV uint64_t place_origin(const struct kern_place *place, uint32_t layer, uint32_t head)
{
	uint64_t base = place->layers ? place->layers[layer] : place->base + layer * place->layer_stride;

	return base + head * place->head_stride;
}

/* Heads vary fastest, so that teams that run together read rows that lie together. */
DEV struct tile tile_find(const struct kern_task *task, uint32_t index)
{
	uint32_t row = quotient(index, &task->heads);
	uint32_t block = quotient(row, &task->layers);
	uint32_t head = index - row * task->heads.divisor;
	uint32_t layer = row - block * task->layers.divisor;
	struct tile tile;

	tile.block = task->blocks[block];
	tile.result = task->results + block;
	tile.number = task->first + layer * task->per_layer + head;
	tile.origin = place_origin(&task->place, layer, head);
	tile.image = (uint8_t *)(uintptr_t)tile.block.image;
	tile.slot = tile.image + task->slot + layer * task->layer_slots + (uint64_t)head * task->slot_bytes;
	return tile;
}

/* The image is there and can be accessed 16 bytes at a time; positions in pages fit 31 bits. */
DEV bool block_usable(const struct kvc_kern_block *block, uint64_t image_bytes)
{
	return block->image % KVC_IMAGE_ALIGN == 0 && block->image_bytes >= image_bytes &&
	       block->first_token < KVC_KERN_FIRST_MAX;
}

/* Address of the elements of token `token`; 0 if its page id is out of range. */
DEV uint64_t token_address(const struct kern_place *place, const struct kern_pages *pages,
                           const struct kvc_kern_block *block, uint64_t origin, uint32_t token)
{
	uint32_t position = block->first_token + token;
	uint32_t page = quotient(position, &pages->page_tokens);
	uint64_t id;

	if (pages->id_bytes == 4)
		id = (uint64_t)(int64_t)((const int32_t *)(uintptr_t)block->ids)[page];
	else
		id = ((const uint64_t *)(uintptr_t)block->ids)[page];
	if (id >= pages->pages)
		return 0;
	return origin + id * place->page_stride + (uint64_t)(position - page * pages->page_tokens.divisor) * place->token_stride;
}

DEV void result_error(struct kvc_kern_result *result, uint32_t error)
{
	dev_or(&result->errors, error);
}

DEV uint32_t *tile_raw_word(const uint8_t *image, uint32_t raw_map, uint32_t number)
{
	return (uint32_t *)(image + raw_map) + number / 32;
}

DEV bool tile_is_raw(const uint8_t *image, uint32_t raw_map, uint32_t number)
{
	return *tile_raw_word(image, raw_map, number) >> number % 32 & 1;
}

DEV uint64_t *tile_sum(const uint8_t *image, uint32_t sums, uint32_t number)
{
	return (uint64_t *)(image + sums) + number;
}

/* Note a tile that has to be stored raw, outside its slot; once a tile. */
DEV void tile_note_raw(const struct kern_task *task, const struct tile *tile)
{
	dev_or(tile_raw_word(tile->image, task->raw_map, tile->number), 1u << tile->number % 32);
	dev_add(&tile->result->raw_tiles, 1);
}

DEV uint32_t round_up(uint32_t value, uint32_t step)
{
	return (value + step - 1) / step * step;
}

#endif
