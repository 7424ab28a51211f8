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

#ifndef DECODE_TEAMS
#define DECODE_TEAMS 3u
#endif

template <unsigned DIM, unsigned BITS> struct decode_layout {
	static constexpr unsigned coded = 0; /* twice */
	static constexpr unsigned warps = coded + 2 * coded_bytes_max<DIM, BITS>();
	static constexpr unsigned warp_bytes = rows<DIM>::warp_rows * rows<DIM>::bytes;
	static constexpr unsigned means = warps + DEV_TEAM_WARPS * warp_bytes;
	static constexpr unsigned address = means + rows<DIM>::mean_bytes;
	static constexpr unsigned parts = address + 2 * rows<DIM>::address_bytes;
	static constexpr unsigned flags = parts + parts_bytes(coded_bytes_max<DIM, BITS>());
	static constexpr unsigned bytes = flags + 16;

	static_assert(bytes % 16 == 0, "the next team's part is aligned");
};

struct decode_shared {
	const uint64_t *secret;
	uint8_t *coded; /* by parity of the tile */
	uint8_t *warp; /* this warp's rows on their way out */
	float *means;
	uint64_t *address; /* of rows, by parity of the tile */
	uint64_t *parts;
	uint32_t *odd;     /* 1: a mean is not finite */
	uint32_t *missing; /* not used by the decoder beyond being told */
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
	shared.missing = shared.odd + 1;
	return shared;
}

/* Start loading tile `index`, if there is one, and find its rows. */
template <unsigned DIM, unsigned BITS>
DEV void decode_begin(const struct kern_task *task, const struct decode_shared *shared, uint32_t index,
                      uint32_t parity)
{
	uint8_t *coded = shared->coded + parity * coded_bytes_max<DIM, BITS>();
	struct tile tile;

	if (index >= task->tiles)
		return;
	tile = tile_find(task, index);
	if (block_usable(&tile.block, task->image_bytes)) {
		for (uint32_t i = dev_member() * 16; i < task->slot_bytes; i += DEV_TEAM * 16)
			dev_copy_async(coded + i, tile.slot + i);
	}
	rows_find(task, &tile, shared->address + parity * KVC_KERN_FAST_TOKENS, shared->missing);
}

/* Means as binary32. Without centring, the number that changes nothing, not even the sign of a zero. */
template <unsigned DIM>
DEV void decode_means(const struct kern_task *task, const struct decode_shared *shared, const uint8_t *coded)
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
		*shared->odd = 1;
}

/* Code `i` of a segment as a number. Where the code lies within the mantissa of a number of suitable exponent,
 * it needs no shift: 2^(23 - shift) is added and taken off. */
template <unsigned BITS> DEV float code_number(const uint32_t codes[BITS], unsigned i)
{
	constexpr uint32_t mask = (1u << BITS) - 1;
	unsigned shift = i * BITS % 32;
	uint32_t word = codes[i * BITS / 32];
	unsigned place = shift;
	uint32_t exponent;

	if (shift + BITS > 23) {
		word >>= 16;
		place = shift - 16;
	}
	exponent = (127 + 23 - place) << 23;
	return dev_f32_from_bits((word & mask << place) | exponent) - dev_f32_from_bits(exponent);
}

/* q S + M of a thread's segment; false if scale or offset is not finite. */
template <unsigned DIM, unsigned BITS>
DEV bool segment_dequantise(const struct kern_task *task, const uint8_t *coded, uint32_t row, uint32_t segment,
                            float y[SEGMENT])
{
	uint32_t element = row * DIM + segment * SEGMENT;
	uint32_t pair = *(const uint32_t *)(coded + task->scales + element / task->group * 4);
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
	for (unsigned i = 0; i < SEGMENT; i++)
		y[i] = fmaf(code_number<BITS>(codes, i), scale, offset);
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
	uint8_t *to = shared->warp + row * rows<DIM>::bytes;

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
		*(struct dev_vec *)(to + chunk_place(segment * SEGMENT_CHUNKS + c, row) * CHUNK_BYTES) = chunk;
	}
}

/* A warp's rows out, neighbouring chunks by neighbouring threads. `first` is the first row's token. */
template <unsigned DIM>
DEV void rows_scatter(const struct kern_task *task, const struct decode_shared *shared, const uint64_t *address,
                      uint32_t first)
{
#pragma unroll
	for (uint32_t i = 0; i < SEGMENT_CHUNKS; i++) {
		uint32_t number = i * DEV_WARP + dev_lane();
		uint32_t row = number / rows<DIM>::chunks;
		uint32_t chunk = number % rows<DIM>::chunks;
		const uint8_t *from = shared->warp + row * rows<DIM>::bytes + chunk_place(chunk, row) * CHUNK_BYTES;
		struct dev_vec *to;

		if (first + row >= task->tokens || address[first + row] == 0)
			continue;
		to = (struct dev_vec *)(uintptr_t)address[first + row];
		to[chunk] = *(const struct dev_vec *)from;
	}
}

template <unsigned DIM, unsigned BITS, bool BF16>
DEV void decode_segments(const struct kern_task *task, const struct decode_shared *shared, const uint8_t *coded,
                         const uint64_t *address)
{
	constexpr unsigned lanes = rows<DIM>::lanes;
	uint32_t segment = dev_lane() % lanes;
	uint32_t row = dev_lane() / lanes;
	uint32_t first = dev_member() / DEV_WARP * rows<DIM>::warp_rows;
	float factor = task->rotate ? 1.0f / (float)(1u << (task->run_log2 + 1) / 2) : 1.0f;

	for (; first < task->tokens; first += rows<DIM>::team_rows) {
		bool real = first + row < task->tokens;
		float y[SEGMENT];
		bool finite = segment_dequantise<DIM, BITS>(task, coded, real ? first + row : 0, segment, y);
		bool odd = dev_any(!finite) || *shared->odd;

		if (task->rotate)
			rotate_segments<lanes>(y);
		if (odd)
			segment_pack<DIM, BF16, true>(shared, row, segment, y, factor);
		else
			segment_pack<DIM, BF16, false>(shared, row, segment, y, factor);
		dev_warp_sync();
		rows_scatter<DIM>(task, shared, address, first);
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

/* One tile, on its way to shared memory. */
template <unsigned DIM, unsigned BITS, bool BF16>
DEV void decode_tile(const struct kern_task *task, const struct decode_shared *shared, uint32_t index,
                     uint32_t next, uint32_t parity)
{
	uint32_t team = dev_team();
	const uint8_t *coded = shared->coded + parity * coded_bytes_max<DIM, BITS>();
	struct tile tile = tile_find(task, index);
	bool usable = block_usable(&tile.block, task->image_bytes);

	dev_copy_wait();
	dev_team_sync(team);
	decode_begin<DIM, BITS>(task, shared, next, !parity);
	if (!usable) {
		result_error(tile.result, KVC_KERN_CORRUPT);
		return;
	}
	if (tile_is_raw(tile.image, task->raw_map, tile.number)) {
		raw_tile_restore(task, &tile, shared->secret, shared->parts, shared->odd);
		return;
	}
	if (dev_member() == 0)
		*shared->odd = 0;
	hash_parts(shared->secret, coded, task->slot_bytes, shared->parts);
	dev_team_sync(team);
	decode_means<DIM>(task, shared, coded);
	dev_team_sync(team);
	decode_segments<DIM, BITS, BF16>(task, shared, coded, shared->address + parity * KVC_KERN_FAST_TOKENS);
	if (dev_member() < DEV_WARP)
		decode_verify(task, shared, coded, &tile);
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
	dev_block_sync();
	decode_begin<DIM, BITS>(&task, &shared, index, 0);
	for (; index < task.tiles; index += gridDim.x * teams, parity ^= 1)
		decode_tile<DIM, BITS, BF16>(&task, &shared, index, index + gridDim.x * teams, parity);
}

#endif
