/* The fast decoder: one tile a team, 16-bit elements, dimension 64, 128 or 256, up to 128 tokens.
 *
 * While a team works on one coded tile in shared memory, the next one arrives beside it. The hash is summed up by
 * the whole team; the first warp finishes it after its rows. So a damaged tile is written, within its bounds like
 * any other, and its block is flagged. */
#ifndef KVC_KERN_DECODE_CUH
#define KVC_KERN_DECODE_CUH

#include "kernels/kern_hash.cuh"
#include "kernels/kern_raw.cuh"
#include "kernels/kern_rows.cuh"

#define DECODE_TEAMS 4u

template <unsigned DIM, unsigned BITS> struct decode_layout {
	static constexpr unsigned coded = 0; /* twice */
	static constexpr unsigned warps = coded + 2 * coded_bytes_max<DIM, BITS>();
	static constexpr unsigned warp_bytes = rows<DIM>::warp_rows * rows<DIM>::bytes;
	static constexpr unsigned means = warps + DEV_TEAM_WARPS * warp_bytes;
	static constexpr unsigned address = means + rows<DIM>::mean_bytes;
	static constexpr unsigned parts = address + 2 * rows<DIM>::address_bytes;
	static constexpr unsigned flags = parts + parts_bytes(coded_bytes_max<DIM, BITS>());
	static constexpr unsigned bytes = flags + 32;

	static_assert(bytes % 16 == 0, "the next team's part is aligned");
};

struct decode_shared {
	const uint64_t *secret;
	uint8_t *coded; /* by parity of the tile */
	uint8_t *warp; /* this warp's rows on their way out */
	float *means;
	uint64_t *address; /* of rows, by parity of the tile */
	uint64_t *parts;
	uint32_t *odd;     /* by parity of the tile; 1: a mean is not finite */
	uint32_t *missing; /* by parity of the tile; 1: a page id was out of range, in this or an earlier one */
	uint32_t *counts;  /* for raw tiles */
};

template <unsigned DIM, unsigned BITS> DEV struct decode_shared decode_shared_at(uint8_t *base)
{
	using layout = decode_layout<DIM, BITS>;
	uint8_t *own = base + TILE_SHARED_FIXED + dev_team() * layout::bytes;
	struct decode_shared shared;

	shared.secret = (const uint64_t *)base;
	shared.coded = own + layout::coded;
	shared.warp = own + layout::warps + dev_member() / DEV_WARP * layout::warp_bytes;
	shared.means = (float *)(own + layout::means);
	shared.address = (uint64_t *)(own + layout::address);
	shared.parts = (uint64_t *)(own + layout::parts);
	shared.odd = (uint32_t *)(own + layout::flags);
	shared.missing = shared.odd + 2;
	shared.counts = shared.odd + 4;
	return shared;
}

/* Start loading a tile and find its rows. */
template <unsigned DIM, unsigned BITS>
DEV void decode_begin(const struct kern_task *task, const struct decode_shared *shared, const struct tile *tile,
                      uint32_t parity)
{
	uint8_t *coded = shared->coded + parity * coded_bytes_max<DIM, BITS>();

	if (block_usable(&tile->block, task->image_bytes)) {
		for (uint32_t i = dev_member() * 16; i < task->slot_bytes; i += DEV_TEAM * 16)
			dev_copy_async(coded + i, tile->slot + i);
	}
	rows_find(task, tile, shared->address + parity * KVC_KERN_FAST_TOKENS, shared->missing + parity);
}

/* Means as binary32. Without centring, the number that changes nothing, not even the sign of a zero. */
template <unsigned DIM>
DEV void decode_means(const struct kern_task *task, const struct decode_shared *shared, const uint8_t *coded,
                      uint32_t *odd)
{
	uint32_t d = dev_member();
	uint16_t half;

	if (d >= DIM)
		return;
	if (!task->centred) {
		*channel_mean(shared->means, d) = -0.0f;
		return;
	}
	half = ((const uint16_t *)coded)[d];
	*channel_mean(shared->means, d) = dev_f32_from_f16(half);
	if (!f16_finite(half))
		*odd = 1;
}

/* The codes of a word as numbers: each is put into the low byte of 2^23, which is then taken off. */
template <unsigned BITS> DEV void code_numbers(uint32_t word, float number[32 / BITS])
{
	const uint32_t mask = BITS == 8 ? 0xFFFFFFFFu : BITS == 4 ? 0x0F0F0F0Fu : 0x03030303u;
	const uint32_t base = 0x4B000000u; /* 2^23 */

#pragma unroll
	for (unsigned k = 0; k < 8 / BITS; k++) {
		uint32_t bytes = word >> k * BITS & mask;

#pragma unroll
		for (unsigned i = 0; i < 4; i++)
			number[i * (8 / BITS) + k] = dev_f32_from_bits(dev_bytes(bytes, base, 0x7650 | i)) - 8388608.0f;
	}
}

/* q S + M of a thread's segment; false if scale or offset is not finite. */
template <unsigned DIM, unsigned BITS>
DEV bool segment_dequantise(const struct kern_task *task, const uint8_t *coded, uint32_t row, uint32_t segment,
                            float y[SEGMENT])
{
	uint32_t element = row * DIM + segment * SEGMENT;
	uint32_t pair = ((const uint32_t *)(coded + task->scales))[element >> task->group_log2];
	const uint8_t *from = coded + task->codes + element * BITS / 8;
	float scale = dev_f32_from_f16((uint16_t)pair);
	float offset = dev_f32_from_f16((uint16_t)(pair >> 16));
	uint32_t codes[BITS];

	if constexpr (BITS == 2) {
		*(struct dev_pair *)codes = *(const struct dev_pair *)from;
	} else {
#pragma unroll
		for (unsigned w = 0; w < BITS; w += 4)
			*(struct dev_vec *)(codes + w) = *(const struct dev_vec *)(from + 4 * w);
	}
#pragma unroll
	for (unsigned w = 0; w < BITS; w++)
		code_numbers<BITS>(codes[w], y + w * (32 / BITS));
#pragma unroll
	for (unsigned i = 0; i < SEGMENT; i++)
		y[i] = fmaf(y[i], scale, offset);
	return f16_finite((uint16_t)pair) && f16_finite((uint16_t)(pair >> 16));
}

/* Two numbers of any kind to the source type. */
DEV_SLOW uint32_t pack_any(float low, float high, bool bf16)
{
	if (bf16)
		return bf16_saturate(low) | (uint32_t)bf16_saturate(high) << 16;
	return f16_saturate(low) | (uint32_t)f16_saturate(high) << 16;
}

/* Two finite ones. Those restored from finite scales are far below the greatest bf16, but not below the greatest
 * binary16. */
template <bool BF16> DEV uint32_t pack_finite(float low, float high)
{
	const float most = 65504.0f;

	if (BF16)
		return dev_pack_bf16(low, high);
	return dev_pack_f16(fminf(fmaxf(low, -most), most), fminf(fmaxf(high, -most), most));
}

/* A thread's segment, with means, to its warp's rows. The product with the rotation's factor is exact: what is
 * restored from binary16 numbers is a multiple of 2^-24. ODD: it may not be finite. */
template <unsigned DIM, bool BF16, bool ODD>
DEV void segment_pack(const struct decode_shared *shared, uint32_t row, uint32_t segment, const float y[SEGMENT],
                      float factor)
{
	const float *means = segment_means(shared->means, segment);
	struct dev_vec *to = (struct dev_vec *)(shared->warp + row * rows<DIM>::bytes);
	uint32_t place = segment_place(segment, row);

#pragma unroll
	for (unsigned c = 0; c < SEGMENT_CHUNKS; c++) {
		struct dev_vec chunk;

#pragma unroll
		for (unsigned w = 0; w < 4; w++) {
			unsigned i = c * 8 + w * 2;
			float low = fmaf(y[i], factor, means[i]);
			float high = fmaf(y[i + 1], factor, means[i + 1]);

			chunk.word[w] = ODD ? pack_any(low, high, BF16) : pack_finite<BF16>(low, high);
		}
		to[place ^ c] = chunk;
	}
}

/* A warp's rows out, neighbouring chunks by neighbouring threads. `first` is the first row's token. WHOLE: all rows
 * are there and have addresses. */
template <unsigned DIM, bool WHOLE>
DEV void rows_scatter(const struct kern_task *task, const struct decode_shared *shared, const uint64_t *address,
                      uint32_t first)
{
	constexpr unsigned step = rows<DIM>::warp_rows / SEGMENT_CHUNKS;
	uint32_t chunk = dev_lane() % rows<DIM>::chunks;
	uint32_t row = dev_lane() / rows<DIM>::chunks;

#pragma unroll
	for (uint32_t i = 0; i < SEGMENT_CHUNKS; i++, row += step) {
		const struct dev_vec *from = (const struct dev_vec *)(shared->warp + row * rows<DIM>::bytes);
		struct dev_vec *to;

		if (!WHOLE && (first + row >= task->tokens || address[first + row] == 0))
			continue;
		to = (struct dev_vec *)(uintptr_t)address[first + row];
		to[chunk] = from[chunk_place(chunk, row)];
	}
}

template <unsigned DIM, unsigned BITS, bool BF16>
DEV void decode_segments(const struct kern_task *task, const struct decode_shared *shared, const uint8_t *coded,
                         uint32_t parity)
{
	const uint64_t *address = shared->address + parity * KVC_KERN_FAST_TOKENS;
	bool missing = shared->missing[parity], odd_mean = shared->odd[parity];
	constexpr unsigned lanes = rows<DIM>::lanes;
	uint32_t segment = dev_lane() % lanes;
	uint32_t row = dev_lane() / lanes;
	uint32_t first = dev_member() / DEV_WARP * rows<DIM>::warp_rows;
	float factor = task->rotate ? 1.0f / (float)(1u << (task->run_log2 + 1) / 2) : 1.0f;

	for (; first < task->tokens; first += rows<DIM>::team_rows) {
		bool real = first + row < task->tokens;
		float y[SEGMENT];
		bool finite = segment_dequantise<DIM, BITS>(task, coded, real ? first + row : 0, segment, y);
		bool odd = dev_any(!finite) || odd_mean;

		if (task->rotate)
			rotate_segments<lanes>(y);
		if (odd)
			segment_pack<DIM, BF16, true>(shared, row, segment, y, factor);
		else
			segment_pack<DIM, BF16, false>(shared, row, segment, y, factor);
		dev_warp_sync();
		if (first + rows<DIM>::warp_rows <= task->tokens && !missing)
			rows_scatter<DIM, true>(task, shared, address, first);
		else
			rows_scatter<DIM, false>(task, shared, address, first);
		dev_warp_sync();
	}
}

/* By the first warp. */
DEV void decode_verify(const struct kern_task *task, const struct decode_shared *shared, const uint8_t *coded,
                       const struct tile *tile)
{
	uint64_t sum = hash_finish(shared->secret, coded, task->slot_bytes, shared->parts);

	if (dev_member() == 0 && sum != *tile_sum(tile->image, task->sums, tile->number))
		result_error(tile->result, KVC_KERN_CORRUPT);
}

/* One tile, in shared memory: verify, decode, scatter. */
template <unsigned DIM, unsigned BITS, bool BF16>
DEV void decode_tile(const struct kern_task *task, const struct decode_shared *shared, const struct tile *tile,
                     uint32_t parity)
{
	const uint8_t *coded = shared->coded + parity * coded_bytes_max<DIM, BITS>();

	dev_team_sync(dev_team());
	decode_segments<DIM, BITS, BF16>(task, shared, coded, parity);
	if (dev_member() < DEV_WARP)
		decode_verify(task, shared, coded, tile);
}

/* A tile that is not decoded from its slot. */
DEV void decode_otherwise(const struct kern_task *task, const struct decode_shared *shared, const struct tile *tile)
{
	if (block_usable(&tile->block, task->image_bytes))
		raw_tile_restore(task, tile, shared->secret, shared->parts, shared->counts);
	else
		result_error(tile->result, KVC_KERN_CORRUPT);
}

/* What the team does for tile `index`, which is on its way, and the one after it. */
template <unsigned DIM, unsigned BITS, bool BF16>
DEV void decode_step(const struct kern_task *task, const struct decode_shared *shared, uint32_t index, uint32_t next,
                     uint32_t parity)
{
	const uint8_t *coded = shared->coded + parity * coded_bytes_max<DIM, BITS>();
	bool more = next < task->tiles;
	struct tile tile = tile_find(task, index);
	struct tile after = tile_find(task, more ? next : index);
	bool usable = block_usable(&tile.block, task->image_bytes);
	bool slot = usable && !tile_is_raw(tile.image, task->raw_map, tile.number);

	dev_copy_wait();
	dev_team_sync(dev_team());
	if (dev_member() == 0)
		shared->odd[!parity] = 0;
	if (slot) {
		decode_means<DIM>(task, shared, coded, shared->odd + parity);
		hash_parts(shared->secret, coded, task->slot_bytes, shared->parts);
	}
	if (more)
		decode_begin<DIM, BITS>(task, shared, &after, !parity);
	if (slot)
		decode_tile<DIM, BITS, BF16>(task, shared, &tile, parity);
	else
		decode_otherwise(task, shared, &tile);
}

template <unsigned DIM, unsigned BITS, bool BF16>
DEV_KERNEL(DECODE_TEAMS * DEV_TEAM)
kern_decode_fast(DEV_TASK(struct kern_task) task)
{
	uint8_t *base = dev_shared();
	uint32_t teams = blockDim.x / DEV_TEAM;
	uint32_t index = blockIdx.x * teams + dev_team();
	struct decode_shared shared = decode_shared_at<DIM, BITS>(base);
	uint32_t parity = 0;

	hash_secret_load((uint64_t *)base);
	if (dev_member() < 4)
		shared.odd[dev_member()] = 0;
	dev_block_sync();
	if (index < task.tiles) {
		struct tile tile = tile_find(&task, index);

		decode_begin<DIM, BITS>(&task, &shared, &tile, 0);
	}
	for (; index < task.tiles; index += gridDim.x * teams, parity ^= 1)
		decode_step<DIM, BITS, BF16>(&task, &shared, index, index + gridDim.x * teams, parity);
}

#endif
