/* XXH3-64, seed 0 and default secret, by a team: implemented from the algorithm's public specification
 * (doc/xxhash_spec.md of the xxHash project).
 *
 * For more than 240 bytes, eight 64-bit accumulators take in stripes of 64 bytes; after each block of 16
 * stripes they are scrambled. Within a block the accumulators are plain sums, so threads add up its
 * stripes side by side (hash_parts), and only the scrambles are a chain, over the blocks, by
 * one warp (hash_finish). Up to 240 bytes, one thread does it all.
 *
 * Lengths are multiples of 16, from 32 on; what is hashed is 16-byte aligned. */
#ifndef KVC_KERN_HASH_CUH
#define KVC_KERN_HASH_CUH

#include "kernels/dev.cuh"

#define HASH_STRIPE       64u
#define HASH_BLOCK        1024u
#define HASH_SHORT        240u
#define HASH_SECRET_WORDS 24u
#define HASH_LANES        8u
#define HASH_WINDOW       (DEV_TEAM / 16u) /* blocks summed up at a time */

#define HASH_PRIME32_1 0x9E3779B1u
#define HASH_PRIME32_2 0x85EBCA77u
#define HASH_PRIME32_3 0xC2B2AE3Du
#define HASH_PRIME64_1 0x9E3779B185EBCA87u
#define HASH_PRIME64_2 0xC2B2AE3D27D4EB4Fu
#define HASH_PRIME64_3 0x165667B19E3779F9u
#define HASH_PRIME64_4 0x85EBCA77C2B2AE63u
#define HASH_PRIME64_5 0x27D4EB2F165667C5u
#define HASH_PRIME_MX1 0x165667919E3779F9u

/* Offsets in the secret, from the specification. */
#define HASH_SECRET_SCRAMBLE 128u
#define HASH_SECRET_LAST     121u
#define HASH_SECRET_MERGE    11u
#define HASH_SECRET_MIDDLE   3u
#define HASH_SECRET_END      119u

/* The secret as little-endian words; copied to shared memory, where lanes read different words at once. */
DEV_CONST uint64_t hash_secret[HASH_SECRET_WORDS] = {
        0xbe4ba423396cfeb8, 0x1cad21f72c81017c, 0xdb979083e96dd4de, 0x1f67b3b7a4a44072,
        0x78e5c0cc4ee679cb, 0x2172ffcc7dd05a82, 0x8e2443f7744608b8, 0x4c263a81e69035e0,
        0xcb00c391bb52283c, 0xa32e531b8b65d088, 0x4ef90da297486471, 0xd8acdea946ef1938,
        0x3f349ce33f76faa8, 0x1d4f0bc7c7bbdcf9, 0x3159b4cd4be0518a, 0x647378d9c97e9fc8,
        0xc3ebd33483acc5ea, 0xeb6313faffa081c5, 0x49daf0b751dd0d17, 0x9e68d429265516d3,
        0xfca1477d58be162b, 0xce31d07ad1b8f88f, 0x280416958f3acb45, 0x7e404bbbcafbd7af,
};

/* What the accumulators begin with. */
DEV_CONST uint64_t hash_initial[HASH_LANES] = {
        HASH_PRIME32_3, HASH_PRIME64_1, HASH_PRIME64_2, HASH_PRIME64_3,
        HASH_PRIME64_4, HASH_PRIME32_2, HASH_PRIME64_5, HASH_PRIME32_1,
};

DEV void hash_secret_load(uint64_t *secret)
{
	if (threadIdx.x < HASH_SECRET_WORDS)
		secret[threadIdx.x] = hash_secret[threadIdx.x];
}

/* Eight bytes of the secret at any offset. */
DEV uint64_t hash_secret_at(const uint64_t *secret, uint32_t offset)
{
	uint32_t shift = offset % 8 * 8;
	uint64_t low = secret[offset / 8] >> shift;

	return shift ? low | secret[offset / 8 + 1] << (64 - shift) : low;
}

DEV uint64_t hash_avalanche(uint64_t h)
{
	h ^= h >> 37;
	h *= HASH_PRIME_MX1;
	return h ^ h >> 32;
}

DEV uint64_t hash_fold(uint64_t a, uint64_t b)
{
	return a * b ^ dev_high_product(a, b);
}

/* --- up to 240 bytes --- */

DEV uint64_t hash_mix(const uint64_t *secret, const uint8_t *data, uint32_t offset)
{
	const uint64_t *words = (const uint64_t *)data;

	return hash_fold(words[0] ^ hash_secret_at(secret, offset), words[1] ^ hash_secret_at(secret, offset + 8));
}

DEV_SLOW uint64_t hash_short(const uint64_t *secret, const uint8_t *data, uint32_t bytes)
{
	uint64_t h = bytes * HASH_PRIME64_1;

	if (bytes <= 128) {
		for (uint32_t i = 0; i <= (bytes - 1) / 32; i++) {
			h += hash_mix(secret, data + 16 * i, 32 * i);
			h += hash_mix(secret, data + bytes - 16 * (i + 1), 32 * i + 16);
		}
		return hash_avalanche(h);
	}
	for (uint32_t i = 0; i < 8; i++)
		h += hash_mix(secret, data + 16 * i, 16 * i);
	h = hash_avalanche(h);
	for (uint32_t i = 8; i < bytes / 16; i++)
		h += hash_mix(secret, data + 16 * i, 16 * (i - 8) + HASH_SECRET_MIDDLE);
	h += hash_mix(secret, data + bytes - 16, HASH_SECRET_END);
	return hash_avalanche(h);
}

/* --- above --- */

/* Blocks, the last one not scrambled after. */
DEV uint32_t hash_blocks(uint32_t bytes)
{
	return (bytes - 1) / HASH_BLOCK + 1;
}

/* What two neighbouring lanes add up over stripes. An accumulator also takes in the data of the other one. */
struct hash_sum {
	uint64_t even;
	uint64_t odd;
};

struct alignas(16) hash_words {
	uint64_t even;
	uint64_t odd;
};

DEV uint64_t hash_product(uint64_t mixed)
{
	return (uint64_t)(uint32_t)mixed * (mixed >> 32);
}

DEV void hash_accumulate(struct hash_sum *sum, struct hash_words data, uint64_t even_key, uint64_t odd_key)
{
	sum->even += hash_product(data.even ^ even_key) + data.odd;
	sum->odd += hash_product(data.odd ^ odd_key) + data.even;
}

/* Sums of the blocks from `first` on, at most HASH_WINDOW of them, to parts[block - first][lane]: 16 threads a
 * block, of which each four take two lanes each of every fourth stripe. The last stripe of all is left for the
 * end. */
DEV void hash_window(const uint64_t *secret, const uint8_t *data, uint32_t bytes, uint32_t first, uint64_t *parts)
{
	uint32_t lane = dev_member() % 4 * 2;
	uint32_t stripe = dev_member() / 4 % 4;
	uint32_t block = dev_member() / 16;
	uint32_t start = (first + block) * HASH_BLOCK;
	uint32_t stripes = start < bytes ? (bytes - 1 - start) / HASH_STRIPE : 0;
	const struct hash_words *words = (const struct hash_words *)(data + start) + lane / 2;
	struct hash_sum sum = {0, 0};

#pragma unroll
	for (uint32_t k = 0; k < 16; k += 4) {
		uint32_t i = k + stripe;

		if (i < stripes)
			hash_accumulate(&sum, words[i * 4], secret[i + lane], secret[i + lane + 1]);
	}
#pragma unroll
	for (uint32_t mask = 4; mask < 16; mask *= 2) {
		sum.even += dev_shuffle(sum.even, mask);
		sum.odd += dev_shuffle(sum.odd, mask);
	}
	if (stripe == 0 && start < bytes) {
		parts[block * HASH_LANES + lane] = sum.even;
		parts[block * HASH_LANES + lane + 1] = sum.odd;
	}
}

/* Sums of all blocks. */
DEV void hash_parts(const uint64_t *secret, const uint8_t *data, uint32_t bytes, uint64_t *parts)
{
	for (uint32_t first = 0; first < hash_blocks(bytes); first += HASH_WINDOW)
		hash_window(secret, data, bytes, first, parts + first * HASH_LANES);
}

/* One block into an accumulator, and the scramble after it. */
DEV uint64_t hash_scramble(uint64_t acc, uint64_t part, uint64_t key)
{
	acc += part;
	return (acc ^ acc >> 47 ^ key) * HASH_PRIME32_1;
}

/* The last stripe and the merge of the accumulators. */
DEV uint64_t hash_close(const uint64_t *secret, const uint8_t *data, uint32_t bytes, uint64_t acc)
{
	uint32_t lane = dev_lane() % HASH_LANES;
	const uint64_t *last = (const uint64_t *)(data + bytes - HASH_STRIPE);
	uint64_t h;

	acc += hash_product(last[lane] ^ hash_secret_at(secret, HASH_SECRET_LAST + 8 * lane)) + last[lane ^ 1];
	acc ^= hash_secret_at(secret, HASH_SECRET_MERGE + 8 * lane);
	h = hash_fold(acc, dev_shuffle(acc, 1));
	h += dev_shuffle(h, 2);
	h += dev_shuffle(h, 4);
	return hash_avalanche(h + bytes * HASH_PRIME64_1);
}

/* The hash, from the sums of all blocks, by one whole warp, of which each eight lanes do the same. */
DEV uint64_t hash_finish(const uint64_t *secret, const uint8_t *data, uint32_t bytes, const uint64_t *parts)
{
	uint32_t lane = dev_lane() % HASH_LANES;
	uint32_t last = hash_blocks(bytes) - 1;
	uint64_t key = secret[HASH_SECRET_SCRAMBLE / 8 + lane];
	uint64_t acc = hash_initial[lane];

	if (bytes <= HASH_SHORT)
		return hash_short(secret, data, bytes);
	for (uint32_t block = 0; block < last; block++)
		acc = hash_scramble(acc, parts[block * HASH_LANES + lane], key);
	return hash_close(secret, data, bytes, acc + parts[last * HASH_LANES + lane]);
}

/* The hash of bytes of any number, by a whole team, with parts for HASH_WINDOW blocks; of use in all lanes of the
 * first warp. Begins and ends with a barrier. */
DEV_SLOW uint64_t hash_team(const uint64_t *secret, const uint8_t *data, uint32_t bytes, uint64_t *parts)
{
	uint32_t lane = dev_lane() % HASH_LANES;
	uint32_t last = hash_blocks(bytes) - 1;
	uint64_t key = secret[HASH_SECRET_SCRAMBLE / 8 + lane];
	uint64_t acc = hash_initial[lane];

	for (uint32_t first = 0; first <= last; first += HASH_WINDOW) {
		dev_team_sync(dev_team());
		hash_window(secret, data, bytes, first, parts);
		dev_team_sync(dev_team());
		for (uint32_t block = first; block < last && block < first + HASH_WINDOW; block++)
			acc = hash_scramble(acc, parts[(block - first) * HASH_LANES + lane], key);
	}
	acc += parts[last % HASH_WINDOW * HASH_LANES + lane];
	dev_team_sync(dev_team());
	return bytes <= HASH_SHORT ? hash_short(secret, data, bytes) : hash_close(secret, data, bytes, acc);
}

#endif
