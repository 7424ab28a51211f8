/* Raw tiles and elements of any kind: what must be right and need not be fast.
 *
 * Raw tiles lie behind the slots, in tile order: where one begins follows from the raw map before it. */
#ifndef KVC_KERN_RAW_CUH
#define KVC_KERN_RAW_CUH

#include "kernels/kern_hash.cuh"
#include "kernels/kern_quant.cuh"
#include "kernels/kern_tile.cuh"

#define F32_MAGNITUDE 0x7FFFFFFFu
#define F32_INFINITY  0x7F800000u

/* Round to binary16: what is finite stays finite, any NaN becomes the canonical one. */
DEV uint16_t f16_saturate(float x)
{
	uint32_t magnitude = dev_f32_bits(x) & F32_MAGNITUDE;

	if (magnitude > F32_INFINITY)
		return 0x7E00;
	if (magnitude == F32_INFINITY)
		return (uint16_t)(dev_f32_bits(x) >> 16 & 0x8000u) | F16_EXPONENT;
	return dev_f16_from_f32(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

/* Round to bfloat16 the same way. */
DEV uint16_t bf16_saturate(float x)
{
	uint32_t magnitude = dev_f32_bits(x) & F32_MAGNITUDE;
	uint32_t sign = dev_f32_bits(x) >> 16 & 0x8000u;

	if (magnitude > F32_INFINITY)
		return 0x7FC0;
	if (magnitude < F32_INFINITY && magnitude > 0x7F7F0000u)
		magnitude = 0x7F7F0000u;
	return (uint16_t)(sign | (magnitude + 0x7FFFu + (magnitude >> 16 & 1)) >> 16);
}

/* How many tiles below `end` have their bit set in the raw map, by kind. By a team; ends with a barrier. */
DEV void raw_count(const uint8_t *image, uint32_t raw_map, uint32_t per_layer, uint32_t heads, uint32_t end,
                   uint32_t counts[2])
{
	dev_team_sync(dev_team());
	if (dev_member() < 2)
		counts[dev_member()] = 0;
	dev_team_sync(dev_team());
	for (uint32_t i = dev_member(); i < end; i += DEV_TEAM) {
		if (tile_is_raw(image, raw_map, i))
			dev_add(&counts[i % per_layer < heads ? KVC_KIND_KEY : KVC_KIND_VALUE], 1);
	}
	dev_team_sync(dev_team());
}

/* Rows of a tile to where they belong, two bytes at a time. By a team. */
DEV void raw_scatter(const struct kern_task *task, const struct tile *tile, const uint8_t *from)
{
	uint32_t units = task->dim * task->element_bytes / 2;
	uint32_t warp = dev_member() / DEV_WARP;

	for (uint32_t t = warp; t < task->tokens; t += DEV_TEAM_WARPS) {
		uint64_t address = token_address(&task->place, &task->pages, &tile->block, tile->origin, t);
		uint16_t *to = (uint16_t *)(uintptr_t)address;

		if (address == 0) {
			result_error(tile->result, KVC_KERN_BAD_PAGE);
			continue;
		}
		for (uint32_t i = dev_lane(); i < units; i += DEV_WARP)
			to[i] = ((const uint16_t *)from)[(uint64_t)t * units + i];
	}
}

/* The reverse. */
DEV void raw_gather(const struct kern_place *place, const struct kern_pages *pages,
                    const struct kvc_kern_block *block, struct kvc_kern_result *result, uint64_t origin,
                    uint32_t tokens, uint32_t row_bytes, uint8_t *to)
{
	uint32_t warp = dev_member() / DEV_WARP;

	for (uint32_t t = warp; t < tokens; t += DEV_TEAM_WARPS) {
		uint64_t address = token_address(place, pages, block, origin, t);
		uint16_t *row = (uint16_t *)(to + (uint64_t)t * row_bytes);

		if (address == 0)
			result_error(result, KVC_KERN_BAD_PAGE);
		for (uint32_t i = dev_lane(); i < row_bytes / 2; i += DEV_WARP)
			row[i] = address ? ((const uint16_t *)(uintptr_t)address)[i] : (uint16_t)0;
	}
}

/* By a team: true in all its threads if one of them says so. `word` is shared by the team. */
DEV bool team_any(bool flag, uint32_t *word)
{
	bool any;

	dev_team_sync(dev_team());
	if (dev_member() == 0)
		*word = 0;
	dev_team_sync(dev_team());
	if (flag)
		*word = 1;
	dev_team_sync(dev_team());
	any = *word != 0;
	dev_team_sync(dev_team());
	return any;
}

DEV bool slot_is_zero(const struct kern_task *task, const struct tile *tile)
{
	uint32_t bits = 0;

	for (uint32_t i = dev_member(); i < task->slot_bytes / 4; i += DEV_TEAM)
		bits |= ((const uint32_t *)tile->slot)[i];
	return bits == 0;
}

/* Verify and restore a tile whose bit in the raw map is set. By a team; `counts` are two words of shared memory,
 * `parts` those of the hash. */
DEV_SLOW void raw_tile_restore(const struct kern_task *task, const struct tile *tile, const uint64_t *secret,
                               uint64_t *parts, uint32_t *counts)
{
	uint32_t bytes = task->raw_bytes[task->kind];
	const uint8_t *stored;
	uint64_t offset, sum;
	bool zero = slot_is_zero(task, tile);

	raw_count(tile->image, task->raw_map, task->per_layer, task->heads.divisor, tile->number, counts);
	offset = task->image_bytes + (uint64_t)counts[0] * task->raw_bytes[0] +
	         (uint64_t)counts[1] * task->raw_bytes[1];
	if (task->bits == KVC_BITS_RAW || offset + bytes > tile->block.image_bytes) {
		result_error(tile->result, KVC_KERN_CORRUPT);
		return;
	}
	stored = tile->image + offset;
	sum = hash_team(secret, stored, bytes, parts);
	if (!zero || (dev_member() == 0 && sum != *tile_sum(tile->image, task->sums, tile->number)))
		result_error(tile->result, KVC_KERN_CORRUPT);
	raw_scatter(task, tile, stored);
}

#endif
