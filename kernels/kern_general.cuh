/* The general kernels: any parameters, any dimension, any source type, any length, raw slots. One team a tile, a row
 * in shared memory, a group in a thread. Written to be plainly right.
 *
 * The source is read twice, for means and for codes. Should it change meanwhile, the tile is some valid tile: what
 * is stored is checked for its own values. */
#ifndef KVC_KERN_GENERAL_CUH
#define KVC_KERN_GENERAL_CUH

#include "kernels/kern_raw.cuh"

#define GENERAL_TEAMS  3u
#define GENERAL_WINDOW 128u /* tokens whose addresses are held; a multiple of 8, the partial sums of a mean */
#define GENERAL_LIMIT  0x49800000u /* 2^20 */
#define GENERAL_COLUMNS (KVC_DIM_MAX / DEV_TEAM)

/* A team's part of the shared memory. */
struct general_layout {
	static constexpr unsigned means = 0;
	static constexpr unsigned rows = means + KVC_DIM_MAX * 4;
	static constexpr unsigned address = rows + DEV_TEAM_WARPS * KVC_DIM_MAX * 4;
	static constexpr unsigned parts = address + GENERAL_WINDOW * 8;
	static constexpr unsigned flags = parts + HASH_WINDOW * HASH_LANES * 8;
	static constexpr unsigned bytes = flags + 16;
};

struct general_shared {
	const uint64_t *secret;
	float *means;
	float *row; /* this warp's */
	uint64_t *address;
	uint64_t *parts;
	uint32_t *flag; /* two words, for team_any and raw_count */
	uint32_t *raw;
};

DEV struct general_shared general_shared_at(uint8_t *base)
{
	uint8_t *own = base + TILE_SHARED_FIXED + dev_team() * general_layout::bytes;
	struct general_shared shared;

	shared.secret = (const uint64_t *)base;
	shared.means = (float *)(own + general_layout::means);
	shared.row = (float *)(own + general_layout::rows) + dev_member() / DEV_WARP * KVC_DIM_MAX;
	shared.address = (uint64_t *)(own + general_layout::address);
	shared.parts = (uint64_t *)(own + general_layout::parts);
	shared.flag = (uint32_t *)(own + general_layout::flags);
	shared.raw = shared.flag + 2;
	return shared;
}

/* --- elements --- */

DEV float element_load(uint64_t row, uint32_t d, uint32_t dtype)
{
	if (dtype == KVC_DTYPE_FP32)
		return ((const float *)(uintptr_t)row)[d];
	if (dtype == KVC_DTYPE_FP16)
		return dev_f32_from_f16(((const uint16_t *)(uintptr_t)row)[d]);
	return dev_f32_from_bits((uint32_t)((const uint16_t *)(uintptr_t)row)[d] << 16);
}

DEV void element_store(uint64_t row, uint32_t d, uint32_t dtype, float x)
{
	if (dtype == KVC_DTYPE_FP32) {
		uint32_t bits = dev_f32_bits(x);

		((uint32_t *)(uintptr_t)row)[d] = (bits & F32_MAGNITUDE) > F32_INFINITY ? 0x7FC00000u : bits;
		return;
	}
	((uint16_t *)(uintptr_t)row)[d] = dtype == KVC_DTYPE_FP16 ? f16_saturate(x) : bf16_saturate(x);
}

/* Addresses of the tokens of a window. Ends with a barrier. */
DEV void window_find(const struct kern_task *task, const struct tile *tile, uint32_t first, uint64_t *address)
{
	uint32_t t = first + dev_member();

	dev_team_sync(dev_team());
	if (dev_member() < GENERAL_WINDOW && t < task->tokens)
		address[dev_member()] = token_address(&task->place, &task->pages, &tile->block, tile->origin, t);
	dev_team_sync(dev_team());
}

/* All page ids of the tile are in range. By a team. */
DEV bool pages_present(const struct kern_task *task, const struct tile *tile, uint32_t *flag)
{
	bool missing = false;

	for (uint32_t t = dev_member(); t < task->tokens; t += DEV_TEAM)
		missing |= token_address(&task->place, &task->pages, &tile->block, tile->origin, t) == 0;
	if (missing)
		result_error(tile->result, KVC_KERN_BAD_PAGE);
	return !team_any(missing, flag);
}

/* --- encode --- */

/* Partial sums of the thread's channels over a window; a token whose page has gone counts as 0. */
DEV void window_sums(const struct kern_task *task, uint32_t first, const uint64_t *address,
                     float p[GENERAL_COLUMNS][8])
{
	uint32_t count = task->tokens - first < GENERAL_WINDOW ? task->tokens - first : GENERAL_WINDOW;

	for (uint32_t i = 0; i < count; i += 8) {
#pragma unroll
		for (uint32_t j = 0; j < 8; j++) {
			if (i + j >= count || address[i + j] == 0)
				continue;
#pragma unroll
			for (uint32_t c = 0; c < GENERAL_COLUMNS; c++) {
				uint32_t d = c * DEV_TEAM + dev_member();

				if (d < task->dim)
					p[c][j] += element_load(address[i + j], d, task->dtype);
			}
		}
	}
}

/* Step 3: means to shared memory and to the slot; false if one overflows. */
DEV bool general_means(const struct kern_task *task, const struct tile *tile, const struct general_shared *shared)
{
	float p[GENERAL_COLUMNS][8] = {};
	float scale = dev_reciprocal((float)task->tokens);
	bool finite = true;

	for (uint32_t first = 0; first < task->tokens; first += GENERAL_WINDOW) {
		window_find(task, tile, first, shared->address);
		window_sums(task, first, shared->address, p);
	}
#pragma unroll
	for (uint32_t c = 0; c < GENERAL_COLUMNS; c++) {
		uint32_t d = c * DEV_TEAM + dev_member();
		float sum = ((p[c][0] + p[c][4]) + (p[c][2] + p[c][6])) + ((p[c][1] + p[c][5]) + (p[c][3] + p[c][7]));
		uint16_t half = dev_f16_from_f32(sum * scale);

		if (d >= task->dim)
			continue;
		shared->means[d] = dev_f32_from_f16(half);
		((uint16_t *)tile->slot)[d] = half;
		finite &= f16_finite(half);
	}
	return finite;
}

/* Step 4 on a row in shared memory, by a warp. */
DEV void rotate_row(const struct kern_task *task, float *row, float factor)
{
	for (uint32_t h = 1; h < 1u << task->run_log2; h *= 2) {
		for (uint32_t pair = dev_lane(); pair < task->dim / 2; pair += DEV_WARP) {
			uint32_t i = (pair & ~(h - 1)) * 2 | (pair & (h - 1));
			float a = row[i], b = row[i + h];

			row[i] = a + b;
			row[i + h] = a - b;
		}
		dev_warp_sync();
	}
	for (uint32_t d = dev_lane(); d < task->dim; d += DEV_WARP)
		row[d] *= factor;
	dev_warp_sync();
}

/* A row to shared memory, centred and rotated; false if an element is not finite or too large. */
DEV bool row_load(const struct kern_task *task, const struct general_shared *shared, uint64_t address)
{
	bool usable = true;

	for (uint32_t d = dev_lane(); d < task->dim; d += DEV_WARP) {
		float x = element_load(address, d, task->dtype);

		usable &= (dev_f32_bits(x) & F32_MAGNITUDE) < GENERAL_LIMIT;
		shared->row[d] = task->centred ? x - shared->means[d] : x;
	}
	dev_warp_sync();
	if (task->rotate)
		rotate_row(task, shared->row, 1.0f / (float)(1u << task->run_log2 / 2));
	return usable;
}

/* Position of an element in 1/256 of a level, within one more range to each side. */
DEV int32_t fine_position(float z, float levels)
{
	return (int32_t)rintf(fminf(fmaxf(z, -levels), 2.0f * levels) * 256.0f);
}

/* Codes of a group as a bit string, and the sums over it. */
DEV void group_codes(const struct kern_task *task, const float *x, float offset, float inverse, uint8_t *out,
                     struct quant_sums *sums)
{
	float levels = (float)((1u << task->bits) - 1);
	uint32_t window = 0, held = 0;

	*sums = {0, 0, 0, 0};
	for (uint32_t i = 0; i < 1u << task->group_log2; i++) {
		float z = (x[i] - offset) * inverse;
		uint32_t q = (uint32_t)rintf(fminf(fmaxf(z, 0.0f), levels));

		if (task->gain) {
			int32_t fine = fine_position(z, levels);

			sums->q += (int32_t)q;
			sums->z += fine;
			sums->qz += (int32_t)q * fine;
			sums->zz += (uint64_t)((int64_t)fine * fine);
		}
		window |= q << held;
		for (held += task->bits; held >= 8; held -= 8) {
			*out++ = (uint8_t)window;
			window >>= 8;
		}
	}
}

/* Steps 5 and 6 on one group, by a thread; false if a scale overflows. */
DEV bool general_group(const struct kern_task *task, const float *x, uint8_t *codes, uint32_t *pair)
{
	float inverse_levels = dev_reciprocal((float)((1u << task->bits) - 1));
	float least = x[0], most = x[0];
	struct quant_sums sums;
	struct quant_scale s;

	for (uint32_t i = 1; i < 1u << task->group_log2; i++) {
		least = fminf(least, x[i]);
		most = fmaxf(most, x[i]);
	}
	s = quant_range(least, most, inverse_levels, task->clip);
	if (!quant_scale_finite(s))
		return false;
	group_codes(task, x, dev_f32_from_f16(s.offset),
	            s.scale ? dev_reciprocal(dev_f32_from_f16(s.scale)) : 0.0f, codes, &sums);
	if (task->gain)
		s = quant_gain(s, sums, 1u << task->group_log2);
	*pair = s.scale | (uint32_t)s.offset << 16;
	return quant_scale_finite(s);
}

/* All groups of the warp's row; false if the tile must be stored raw. */
DEV bool row_encode(const struct kern_task *task, const struct tile *tile, const float *row, uint32_t t)
{
	uint32_t groups = task->dim >> task->group_log2;
	bool finite = true;

	for (uint32_t i = dev_lane(); i < groups; i += DEV_WARP) {
		uint64_t number = (uint64_t)t * groups + i;
		uint8_t *codes = tile->slot + task->codes + number * ((task->bits << task->group_log2) / 8);

		finite &= general_group(task, row + (i << task->group_log2), codes,
		                        (uint32_t *)(tile->slot + task->scales) + number);
	}
	return finite;
}

/* Padding of the planes of scales and codes. */
DEV void general_pad(const struct kern_task *task, const struct tile *tile)
{
	uint64_t elements = (uint64_t)task->tokens * task->dim;
	uint64_t scales_end = task->scales + (elements >> task->group_log2) * 4;
	uint64_t codes_end = task->codes + elements * task->bits / 8;

	if (scales_end + dev_member() < task->codes)
		tile->slot[scales_end + dev_member()] = 0;
	if (codes_end + dev_member() < task->slot_bytes)
		tile->slot[codes_end + dev_member()] = 0;
}

/* False if the tile must be stored raw. */
DEV bool general_code(const struct kern_task *task, const struct tile *tile, const struct general_shared *shared)
{
	uint32_t warp = dev_member() / DEV_WARP;
	bool coded = !task->centred || general_means(task, tile, shared);

	for (uint32_t first = 0; first < task->tokens; first += GENERAL_WINDOW) {
		window_find(task, tile, first, shared->address);
		for (uint32_t i = warp; i < GENERAL_WINDOW && first + i < task->tokens; i += DEV_TEAM_WARPS) {
			if (shared->address[i] == 0)
				continue;
			coded &= row_load(task, shared, shared->address[i]);
			coded &= row_encode(task, tile, shared->row, first + i);
			dev_warp_sync();
		}
	}
	general_pad(task, tile);
	return !team_any(!coded, shared->flag);
}

/* A slot of raw elements, padded. */
DEV void general_copy(const struct kern_task *task, const struct tile *tile)
{
	uint32_t bytes = task->raw_bytes[task->kind];

	raw_gather(&task->place, &task->pages, &tile->block, tile->result, tile->origin, task->tokens,
	           task->dim * task->element_bytes, tile->slot);
	if (bytes + dev_member() < task->slot_bytes)
		tile->slot[bytes + dev_member()] = 0;
}

DEV void general_encode_tile(const struct kern_task *task, const struct general_shared *shared, uint32_t index)
{
	struct tile tile = tile_find(task, index);
	bool raw = false;
	uint64_t sum;

	if (!block_usable(&tile.block, task->image_bytes) || !pages_present(task, &tile, shared->flag))
		return;
	if (task->bits == KVC_BITS_RAW)
		general_copy(task, &tile);
	else
		raw = !general_code(task, &tile, shared);
	if (raw) {
		for (uint32_t i = dev_member(); i < task->slot_bytes / 4; i += DEV_TEAM)
			((uint32_t *)tile.slot)[i] = 0;
	}
	sum = hash_team(shared->secret, tile.slot, task->slot_bytes, shared->parts);
	if (dev_member() != 0)
		return;
	*tile_sum(tile.image, task->sums, tile.number) = sum;
	if (raw)
		tile_note_raw(task, &tile);
}

DEV_KERNEL(GENERAL_TEAMS * DEV_TEAM) kern_encode_general(DEV_TASK(struct kern_task) task)
{
	struct general_shared shared = general_shared_at(dev_shared());
	uint32_t teams = blockDim.x / DEV_TEAM;

	hash_secret_load((uint64_t *)dev_shared());
	dev_block_sync();
	for (uint32_t index = blockIdx.x * teams + dev_team(); index < task.tiles; index += gridDim.x * teams)
		general_encode_tile(&task, &shared, index);
}

/* --- decode --- */

DEV uint32_t code_at(const uint8_t *codes, uint64_t index, uint32_t bits)
{
	uint64_t bit = index * bits;
	uint32_t window = codes[bit / 8];

	if (bit % 8 + bits > 8)
		window |= (uint32_t)codes[bit / 8 + 1] << 8;
	return window >> (bit % 8) & ((1u << bits) - 1);
}

/* Row `t` restored to the row's address, by a warp. */
DEV void row_decode(const struct kern_task *task, const struct tile *tile, float *row, uint32_t t, uint64_t address)
{
	const uint32_t *pairs = (const uint32_t *)(tile->slot + task->scales);
	const uint16_t *means = (const uint16_t *)tile->slot;

	for (uint32_t d = dev_lane(); d < task->dim; d += DEV_WARP) {
		uint64_t element = (uint64_t)t * task->dim + d;
		uint32_t pair = pairs[element >> task->group_log2];
		float q = (float)code_at(tile->slot + task->codes, element, task->bits);

		row[d] = fmaf(q, dev_f32_from_f16((uint16_t)pair), dev_f32_from_f16((uint16_t)(pair >> 16)));
	}
	dev_warp_sync();
	if (task->rotate)
		rotate_row(task, row, 1.0f / (float)(1u << (task->run_log2 + 1) / 2));
	for (uint32_t d = dev_lane(); d < task->dim; d += DEV_WARP)
		element_store(address, d, task->dtype, task->centred ? row[d] + dev_f32_from_f16(means[d]) : row[d]);
	dev_warp_sync();
}

DEV void general_restore(const struct kern_task *task, const struct tile *tile,
                         const struct general_shared *shared)
{
	uint32_t warp = dev_member() / DEV_WARP;

	for (uint32_t first = 0; first < task->tokens; first += GENERAL_WINDOW) {
		window_find(task, tile, first, shared->address);
		for (uint32_t i = warp; i < GENERAL_WINDOW && first + i < task->tokens; i += DEV_TEAM_WARPS) {
			if (shared->address[i])
				row_decode(task, tile, shared->row, first + i, shared->address[i]);
			else
				result_error(tile->result, KVC_KERN_BAD_PAGE);
		}
	}
}

DEV void general_decode_tile(const struct kern_task *task, const struct general_shared *shared, uint32_t index)
{
	struct tile tile = tile_find(task, index);
	uint64_t sum;

	if (!block_usable(&tile.block, task->image_bytes)) {
		result_error(tile.result, KVC_KERN_CORRUPT);
		return;
	}
	if (tile_is_raw(tile.image, task->raw_map, tile.number)) {
		raw_tile_restore(task, &tile, shared->secret, shared->parts, shared->flag);
		return;
	}
	sum = hash_team(shared->secret, tile.slot, task->slot_bytes, shared->parts);
	if (dev_member() == 0 && sum != *tile_sum(tile.image, task->sums, tile.number))
		result_error(tile.result, KVC_KERN_CORRUPT);
	if (task->bits == KVC_BITS_RAW)
		raw_scatter(task, &tile, tile.slot);
	else
		general_restore(task, &tile, shared);
}

DEV_KERNEL(GENERAL_TEAMS * DEV_TEAM) kern_decode_general(DEV_TASK(struct kern_task) task)
{
	struct general_shared shared = general_shared_at(dev_shared());
	uint32_t teams = blockDim.x / DEV_TEAM;

	hash_secret_load((uint64_t *)dev_shared());
	dev_block_sync();
	for (uint32_t index = blockIdx.x * teams + dev_team(); index < task.tiles; index += gridDim.x * teams)
		general_decode_tile(&task, &shared, index);
}

/* --- once a block --- */

/* Before all: clear results and, to encode, raw maps. */
DEV_KERNEL(DEV_TEAM) kern_clear(DEV_TASK(struct kern_block_task) task)
{
	for (uint32_t b = blockIdx.x; b < task.count; b += gridDim.x) {
		struct kvc_kern_block block = task.blocks[b];
		uint32_t *map = (uint32_t *)(uintptr_t)(block.image + task.raw_map);

		if (dev_member() == 0)
			task.results[b] = {};
		if (!task.encode || !block_usable(&block, task.image_bytes))
			continue;
		for (uint32_t i = dev_member(); i < (task.sums - task.raw_map) / 4; i += DEV_TEAM)
			map[i] = 0;
	}
}

/* Copy the raw tiles of a block behind its slots, in order. */
DEV void raw_tiles_place(const struct kern_block_task *task, const struct kvc_kern_block *block,
                         struct kvc_kern_result *result, const struct general_shared *shared)
{
	uint8_t *image = (uint8_t *)(uintptr_t)block->image;
	uint8_t *next = image + task->image_bytes;

	for (uint32_t i = 0; i < task->tiles; i++) {
		uint32_t kind = i % task->per_layer < task->heads ? KVC_KIND_KEY : KVC_KIND_VALUE;
		const struct kern_place *place = &task->place[kind];
		uint64_t sum;

		if (!tile_is_raw(image, task->raw_map, i))
			continue;
		raw_gather(place, &task->pages, block, result,
		           place_origin(place, i / task->per_layer, i % task->heads),
		           task->tokens, task->row_bytes[kind], next);
		sum = hash_team(shared->secret, next, task->raw_bytes[kind], shared->parts);
		if (dev_member() == 0)
			*tile_sum(image, task->sums, i) = sum;
		next += task->raw_bytes[kind];
	}
}

DEV void raw_place_block(const struct kern_block_task *task, const struct general_shared *shared, uint32_t b)
{
	struct kvc_kern_block block = task->blocks[b];
	struct kvc_kern_result *result = task->results + b;
	uint64_t bytes = task->image_bytes;
	uint32_t error = 0;

	if (!block_usable(&block, task->image_bytes)) {
		error = KVC_KERN_NO_SPACE;
	} else if (result->raw_tiles) {
		raw_count((const uint8_t *)(uintptr_t)block.image, task->raw_map, task->per_layer, task->heads,
		          task->tiles, shared->flag);
		bytes += (uint64_t)shared->flag[0] * task->raw_bytes[0] + (uint64_t)shared->flag[1] * task->raw_bytes[1];
		if (bytes >= task->raw_image_bytes) {
			bytes = task->raw_image_bytes;
			error = KVC_KERN_ALL_RAW;
		} else if (bytes > block.image_bytes) {
			error = KVC_KERN_NO_SPACE;
		} else {
			raw_tiles_place(task, &block, result, shared);
		}
	}
	if (dev_member() == 0) {
		result_error(result, error);
		result->image_bytes = bytes;
	}
}

/* After the tiles of an encoded batch: raw tiles and lengths. */
DEV_KERNEL(DEV_TEAM) kern_raw_place(DEV_TASK(struct kern_block_task) task)
{
	struct general_shared shared = general_shared_at(dev_shared());

	hash_secret_load((uint64_t *)dev_shared());
	dev_block_sync();
	for (uint32_t b = blockIdx.x; b < task.count; b += gridDim.x)
		raw_place_block(&task, &shared, b);
}

#endif
