/* The fast encoder: one tile a team, 16-bit elements, dimension 64, 128 or 256, up to 128 tokens.
 *
 * Steps of a tile, with the team's barriers between them:
 *   1. rows arrive in shared memory (started while the tile before was hashed);
 *   2. partial channel sums, one warp for each of the format's eight, and the next tile's addresses;
 *   3. means;
 *   4. segments: centre, rotate, quantise, into the coded tile in shared memory;
 *   5. the next tile's loads start; the coded tile goes out and its hash is summed up in parts;
 *   6. the first warp finishes the hash, the others go on. */
#ifndef KVC_KERN_ENCODE_CUH
#define KVC_KERN_ENCODE_CUH

#include "kernels/kern_hash.cuh"
#include "kernels/kern_rows.cuh"

#define ENCODE_TEAMS 4u

/* Limits of what is coded, as 16-bit patterns without sign: 2^20 in bf16; infinity in binary16. */
#define LIMIT_BF16 0x4980u
#define LIMIT_F16  0x7C00u

/* A team's part of the shared memory. */
template <unsigned DIM, unsigned BITS> struct encode_layout {
	static constexpr unsigned coded = rows<DIM>::tile_bytes;
	static constexpr unsigned means = coded + coded_bytes_max<DIM, BITS>();
	static constexpr unsigned address = means + rows<DIM>::mean_bytes;
	static constexpr unsigned parts = address + 2 * rows<DIM>::address_bytes;
	static constexpr unsigned flags = parts + parts_bytes(coded_bytes_max<DIM, BITS>());
	static constexpr unsigned bytes = flags + 16;
	/* The partial sums lie where codes will, after the plane of means. */
	static constexpr unsigned sums = coded + 2 * DIM;

	static_assert(DEV_TEAM_WARPS * DIM * 4 + 2 * DIM <= coded_bytes_max<DIM, BITS>(), "sums fit");
	static_assert(bytes % 16 == 0, "the next team's part is aligned");
};

/* The same as pointers. */
struct encode_shared {
	const uint64_t *secret;
	uint8_t *source;
	uint8_t *coded;
	float *sums;
	float *means;
	uint64_t *address; /* of rows, by parity of the tile */
	uint64_t *parts;
	uint32_t *raw;     /* 1: the tile must be stored raw */
	uint32_t *missing; /* by parity of the tile; 1: a page id is out of range */
};

template <unsigned DIM, unsigned BITS> DEV struct encode_shared encode_shared_at(uint8_t *base)
{
	using layout = encode_layout<DIM, BITS>;
	uint8_t *own = base + TILE_SHARED_FIXED + dev_team() * layout::bytes;
	struct encode_shared shared;

	shared.secret = (const uint64_t *)base;
	shared.source = own;
	shared.coded = own + layout::coded;
	shared.sums = (float *)(own + layout::sums);
	shared.means = (float *)(own + layout::means);
	shared.address = (uint64_t *)(own + layout::address);
	shared.parts = (uint64_t *)(own + layout::parts);
	shared.raw = (uint32_t *)(own + layout::flags);
	shared.missing = shared.raw + 1;
	return shared;
}

/* Step 1. A thread takes the same chunk of rows that lie a multiple of four apart: its place in them is the same. */
template <unsigned DIM> DEV void load_begin(const struct kern_task *task, const uint64_t *address, uint8_t *source)
{
	constexpr unsigned step = DEV_TEAM / rows<DIM>::chunks;
	uint32_t chunk = dev_member() % rows<DIM>::chunks;
	uint32_t first = dev_member() / rows<DIM>::chunks;
	uint8_t *to = source + chunk_place(chunk, first) * CHUNK_BYTES;

	static_assert(step % 4 == 0, "chunk_place repeats after four rows");
#pragma unroll 4
	for (uint32_t row = first; row < task->tokens; row += step)
		dev_copy_async(to + row * rows<DIM>::bytes,
		               (const uint8_t *)(uintptr_t)address[row] + chunk * CHUNK_BYTES);
}

/* Step 2: warp j sums up tokens j, j + 8, ... of all channels, two, four or eight in a thread. */
template <unsigned DIM, bool BF16>
DEV void channel_sums(const struct kern_task *task, const struct encode_shared *shared)
{
	constexpr unsigned count = DIM / DEV_WARP;
	constexpr unsigned words = count / 2;
	uint32_t offset = dev_lane() * count * 2;
	uint32_t first = dev_member() / DEV_WARP;
	uint32_t place = chunk_place(offset / CHUNK_BYTES, first) * CHUNK_BYTES + offset % CHUNK_BYTES;
	float sum[count] = {};

	static_assert(DEV_TEAM_WARPS % 4 == 0, "chunk_place repeats after four rows");
#pragma unroll 4
	for (uint32_t t = first; t < task->tokens; t += DEV_TEAM_WARPS) {
		const uint32_t *from = (const uint32_t *)(shared->source + t * rows<DIM>::bytes + place);
		uint32_t word[words];

		if (words == 4)
			*(struct dev_vec *)word = *(const struct dev_vec *)from;
		if (words == 2)
			*(struct dev_pair *)word = *(const struct dev_pair *)from;
		if (words == 1)
			word[0] = *from;
#pragma unroll
		for (unsigned i = 0; i < words; i++) {
			sum[2 * i] += low_element<BF16>(word[i]);
			sum[2 * i + 1] += high_element<BF16>(word[i]);
		}
	}
#pragma unroll
	for (unsigned i = 0; i < count; i++)
		shared->sums[first * DIM + dev_lane() * count + i] = sum[i];
}

/* Step 3. A mean that overflows makes the tile raw. */
template <unsigned DIM> DEV void channel_means(const struct kern_task *task, const struct encode_shared *shared)
{
	uint32_t d = dev_member();
	const float *p = shared->sums + d;
	float sum;
	uint16_t half;

	if (d >= DIM)
		return;
	if (!task->centred) {
		*channel_mean(shared->means, d) = 0.0f;
		return;
	}
	sum = ((p[0] + p[4 * DIM]) + (p[2 * DIM] + p[6 * DIM])) +
	      ((p[1 * DIM] + p[5 * DIM]) + (p[3 * DIM] + p[7 * DIM]));
	half = dev_f16_from_f32(sum * dev_reciprocal((float)task->tokens));
	((uint16_t *)shared->coded)[d] = half;
	*channel_mean(shared->means, d) = dev_f32_from_f16(half);
	if (!f16_finite(half))
		*shared->raw = 1;
}

/* A thread's segment as binary32, centred; false if an element is not finite or too large. */
template <unsigned DIM, bool BF16>
DEV bool segment_load(const struct encode_shared *shared, uint32_t row, uint32_t segment, float x[SEGMENT])
{
	const float *means = segment_means(shared->means, segment);
	const uint8_t *from = shared->source + row * rows<DIM>::bytes;
	uint32_t place = segment_place(segment, row);
	uint32_t greatest = 0;

#pragma unroll
	for (unsigned c = 0; c < SEGMENT_CHUNKS; c++) {
		struct dev_vec chunk = ((const struct dev_vec *)from)[place ^ c];

#pragma unroll
		for (unsigned w = 0; w < 4; w++) {
			unsigned i = c * 8 + w * 2;

			greatest = dev_max_u16x2(greatest, chunk.word[w] & 0x7FFF7FFFu);
			x[i] = low_element<BF16>(chunk.word[w]) - means[i];
			x[i + 1] = high_element<BF16>(chunk.word[w]) - means[i + 1];
		}
	}
	greatest = dev_max_u16x2(greatest, greatest >> 16) & 0xFFFF;
	return greatest < (BF16 ? LIMIT_BF16 : LIMIT_F16);
}

/* Scale, offset and codes of a thread's segment to the coded tile. */
template <unsigned DIM, unsigned BITS>
DEV void segment_store(const struct kern_task *task, uint8_t *coded, uint32_t row, uint32_t segment,
                       struct quant_scale s, const uint32_t codes[BITS])
{
	uint32_t element = row * DIM + segment * SEGMENT;
	uint8_t *to = coded + task->codes + element * BITS / 8;

	if ((element & ((1u << task->group_log2) - 1)) == 0)
		((uint32_t *)(coded + task->scales))[element >> task->group_log2] =
		        s.scale | (uint32_t)s.offset << 16;
	if constexpr (BITS == 2) {
		*(struct dev_pair *)to = {{codes[0], codes[1]}};
	} else {
#pragma unroll
		for (unsigned w = 0; w < BITS; w += 4)
			((struct dev_vec *)to)[w / 4] = {{codes[w], codes[w + 1], codes[w + 2], codes[w + 3]}};
	}
}

/* Step 4. */
template <unsigned DIM, unsigned BITS, bool BF16>
DEV void encode_segments(const struct kern_task *task, const struct encode_shared *shared)
{
	constexpr unsigned lanes = rows<DIM>::lanes;
	uint32_t segment = dev_lane() % lanes;
	uint32_t row = dev_member() / lanes;
	struct quant quant;

	quant.factor = task->rotate ? 1.0f / (float)(1u << task->run_log2 / 2) : 1.0f;
	quant.clip = task->clip;
	quant.lanes = (1u << task->group_log2) / SEGMENT;
	quant.gain = task->gain;
	for (uint32_t first = 0; first < task->tokens; first += rows<DIM>::team_rows, row += rows<DIM>::team_rows) {
		bool real = row < task->tokens;
		float x[SEGMENT];
		uint32_t codes[BITS];
		struct quant_scale s;
		bool usable = segment_load<DIM, BF16>(shared, real ? row : 0, segment, x);

		if (task->rotate)
			rotate_segments<lanes>(x);
		s = quant_segment<BITS>(x, &quant, codes);
		if (!real)
			continue;
		segment_store<DIM, BITS>(task, shared->coded, row, segment, s, codes);
		if (!usable || !quant_scale_finite(s))
			*shared->raw = 1;
	}
}

/* The padding of the plane of scales. That of codes and means is empty: rows are multiples of 16 bytes. */
template <unsigned DIM> DEV void pad_scales(const struct kern_task *task, uint8_t *coded)
{
	uint32_t end = task->scales + (task->tokens * DIM >> task->group_log2) * 4 + dev_member() * 4;

	if (end < task->codes)
		*(uint32_t *)(coded + end) = 0;
}

/* A tile that must be stored raw has a slot of zeros. */
DEV void clear_coded(const struct kern_task *task, const struct encode_shared *shared)
{
	for (uint32_t i = dev_member(); i < task->slot_bytes / 16; i += DEV_TEAM)
		((struct dev_vec *)shared->coded)[i] = {};
	dev_team_sync(dev_team());
}

DEV void store_coded(const struct kern_task *task, const struct encode_shared *shared, uint8_t *slot)
{
	for (uint32_t i = dev_member(); i < task->slot_bytes / 16; i += DEV_TEAM)
		((struct dev_vec *)slot)[i] = ((const struct dev_vec *)shared->coded)[i];
}

/* Step 6, by the first warp. */
DEV void store_sum(const struct kern_task *task, const struct encode_shared *shared, const struct tile *tile)
{
	uint64_t sum = hash_finish(shared->secret, shared->coded, task->slot_bytes, shared->parts);

	if (dev_member() != 0)
		return;
	*tile_sum(tile->image, task->sums, tile->number) = sum;
	if (*shared->raw)
		tile_note_raw(task, tile);
}

/* Find the rows of tile `index`, if there is one, and whether all have an address. */
DEV void next_find(const struct kern_task *task, const struct encode_shared *shared, uint32_t index,
                   uint32_t parity)
{
	struct tile tile;

	if (index >= task->tiles)
		return;
	tile = tile_find(task, index);
	rows_find(task, &tile, shared->address + parity * KVC_KERN_FAST_TOKENS, shared->missing + parity);
}

template <unsigned DIM> DEV void next_load(const struct kern_task *task, const struct encode_shared *shared,
                                           uint32_t index, uint32_t parity)
{
	/* A tile with a page id out of range is not stored: what is coded then is of no matter. */
	if (index < task->tiles && !shared->missing[parity])
		load_begin<DIM>(task, shared->address + parity * KVC_KERN_FAST_TOKENS, shared->source);
}

/* One tile, whose rows are on their way. */
template <unsigned DIM, unsigned BITS, bool BF16>
DEV void encode_tile(const struct kern_task *task, const struct encode_shared *shared, uint32_t index,
                     uint32_t next, uint32_t parity)
{
	uint32_t team = dev_team();
	struct tile tile = tile_find(task, index);
	bool stored;

	dev_copy_wait();
	dev_team_sync(team);
	if (dev_member() == 0) {
		*shared->raw = 0;
		shared->missing[!parity] = 0;
	}
	if (task->centred)
		channel_sums<DIM, BF16>(task, shared);
	dev_team_sync(team);
	channel_means<DIM>(task, shared);
	next_find(task, shared, next, !parity);
	dev_team_sync(team);
	encode_segments<DIM, BITS, BF16>(task, shared);
	pad_scales<DIM>(task, shared->coded);
	dev_team_sync(team);
	next_load<DIM>(task, shared, next, !parity);
	if (*shared->raw)
		clear_coded(task, shared);
	stored = !shared->missing[parity] && block_usable(&tile.block, task->image_bytes);
	if (stored)
		store_coded(task, shared, tile.slot);
	hash_parts(shared->secret, shared->coded, task->slot_bytes, shared->parts);
	dev_team_sync(team);
	if (stored && dev_member() < DEV_WARP)
		store_sum(task, shared, &tile);
}

template <unsigned DIM, unsigned BITS, bool BF16>
DEV_KERNEL(ENCODE_TEAMS * DEV_TEAM)
kern_encode_fast(DEV_TASK(struct kern_task) task)
{
	uint8_t *base = dev_shared();
	uint32_t teams = blockDim.x / DEV_TEAM;
	uint32_t index = blockIdx.x * teams + dev_team();
	struct encode_shared shared = encode_shared_at<DIM, BITS>(base);
	uint32_t parity = 0;

	hash_secret_load((uint64_t *)base);
	if (dev_member() == 0)
		shared.missing[0] = 0;
	dev_block_sync();
	next_find(&task, &shared, index, 0);
	dev_team_sync(dev_team());
	next_load<DIM>(&task, &shared, index, 0);
	for (; index < task.tiles; index += gridDim.x * teams, parity ^= 1)
		encode_tile<DIM, BITS, BF16>(&task, &shared, index, index + gridDim.x * teams, parity);
}

#endif
