/* Rows of a tile in shared memory, as the fast kernels hold them: 16-byte chunks of eight 16-bit elements.
 *
 * A row is worked on by dim / 32 threads, each with a segment of four chunks; it is loaded and stored by threads
 * that take neighbouring chunks. So that both come without bank conflicts, a chunk lies where its number within
 * its segment is exchanged with bits of the segment's number and of the row's. */
#ifndef KVC_KERN_ROWS_CUH
#define KVC_KERN_ROWS_CUH

#include "kernels/kern_hash.cuh"
#include "kernels/kern_quant.cuh"
#include "kernels/kern_tile.cuh"

#define CHUNK_BYTES    16u
#define SEGMENT_CHUNKS 4u
#define MEAN_STRIDE    (SEGMENT + 4u) /* floats from one segment's means to the next one's: other banks */

/* Sizes that follow from the dimension. */
template <unsigned DIM> struct rows {
	static constexpr unsigned chunks = DIM / 8;               /* of a row */
	static constexpr unsigned lanes = DIM / SEGMENT;          /* threads of a row */
	static constexpr unsigned warp_rows = DEV_WARP / lanes;   /* rows that a warp works on at a time */
	static constexpr unsigned team_rows = warp_rows * DEV_TEAM_WARPS;
	static constexpr unsigned bytes = DIM * 2;
	static constexpr unsigned tile_bytes = bytes * KVC_KERN_FAST_TOKENS;
	static constexpr unsigned mean_bytes = lanes * MEAN_STRIDE * 4;
	static constexpr unsigned address_bytes = KVC_KERN_FAST_TOKENS * 8;
};

/* Most bytes of a coded tile: groups of 32, centred. */
template <unsigned DIM, unsigned BITS> DEV constexpr unsigned coded_bytes_max()
{
	return DIM * 2 + KVC_KERN_FAST_TOKENS * (DIM / 32 * 4 + DIM * BITS / 8);
}

/* Room for the sums of the hash's blocks, at least a window of them. */
DEV constexpr unsigned parts_bytes(unsigned coded_bytes)
{
	return (coded_bytes / HASH_BLOCK + 1 > HASH_WINDOW ? coded_bytes / HASH_BLOCK + 1 : HASH_WINDOW) *
	       HASH_LANES * 8;
}

/* Where chunk `chunk` of row `row` lies in the row. */
DEV uint32_t chunk_place(uint32_t chunk, uint32_t row)
{
	return chunk ^ (chunk >> 2 & 3) ^ (chunk >> 4 & 1) ^ (row & 3);
}

/* The same for chunk c of a segment: place segment_place() ^ c. */
DEV uint32_t segment_place(uint32_t segment, uint32_t row)
{
	return segment * SEGMENT_CHUNKS + ((segment ^ (segment >> 2 & 1) ^ row) & 3);
}

/* Addresses of all rows of a tile, 0 for those whose page id is out of range; *missing becomes 1 then. */
DEV void rows_find(const struct kern_task *task, const struct tile *tile, uint64_t *address, uint32_t *missing)
{
	for (uint32_t t = dev_member(); t < task->tokens; t += DEV_TEAM) {
		address[t] = token_address(&task->place, &task->pages, &tile->block, tile->origin, t);
		if (address[t] == 0) {
			*missing = 1;
			result_error(tile->result, KVC_KERN_BAD_PAGE);
		}
	}
}

/* Means of a thread's segment, from their padded place. */
DEV const float *segment_means(const float *means, uint32_t segment)
{
	return means + segment * MEAN_STRIDE;
}

DEV float *channel_mean(float *means, uint32_t channel)
{
	return means + channel / SEGMENT * MEAN_STRIDE + channel % SEGMENT;
}

/* The number in the lower and in the upper half of a word. */
template <bool BF16> DEV float low_element(uint32_t word)
{
	return BF16 ? dev_f32_from_bits(word << 16) : dev_f32_from_f16((uint16_t)word);
}

template <bool BF16> DEV float high_element(uint32_t word)
{
	return BF16 ? dev_f32_from_bits(word & 0xFFFF0000u) : dev_f32_from_f16((uint16_t)(word >> 16));
}

#endif
