/* The index at scale: memory a block, and time an operation, from 10^4 blocks on.
 *
 *   bench_index [--most N]
 *
 * The index and the default policy over it, as the cache uses them: no loop, no payload. Storage keys are
 * pseudo-random, as they are in the daemon. Nanoseconds a block, of batches of 1,024 blocks picked at random
 * among all, each step the median of its batches:
 *
 *   insert     find that it is not there, insert, list; from the empty index to that size, growth included
 *   look-up    as the daemon does it for a batch from the wire: storage keys are derived from the client's
 * keys of 20 bytes, then found, fetched into the processor's cache some keys ahead found      the second half
 * of that absent     likewise, of keys that are not there hit        found, and the policy is told replace
 * the policy's victim goes, a new block comes
 *
 * Memory: what the index and the policy count, and what the process grew by. */
#include <malloc.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/cache/index.h"
#include "tests/bench/measure.h"

enum {
	BATCH = 1024,
	BATCHES = 400,
	AHEAD = 16,
	CLIENT_KEY_BYTES = 20,
	LEAST = 10000,
	MOST = 10000000,
	BLOCK_BYTES = 65536,
};

struct bench {
	struct kvc_index *index;
	struct kvc_policy *policy;
	uint64_t random;
	uint64_t last; /* blocks below were put */
	struct kvc_storage_key keys[BATCH];
	uint64_t found;
};

struct row {
	double blocks;
	double counted;
	double resident;
	double insert, lookup, found, absent, hit, replace;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_index: %s\n", what);
	exit(1);
}

static uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return z ^ z >> 31;
}

static struct kvc_storage_key key_of(uint64_t block)
{
	struct kvc_storage_key key;
	uint64_t words[4];

	for (uint64_t i = 0; i < 4; i++)
		words[i] = mix((4 * block + i + 1) * UINT64_C(0x9E3779B97F4A7C15));
	memcpy(key.bytes, words, sizeof key.bytes);
	return key;
}

static uint64_t next(struct bench *b)
{
	return mix(b->random += UINT64_C(0x9E3779B97F4A7C15));
}

static uint64_t resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	if (!file || fscanf(file, "%*u %lu", &pages) != 1)
		die("/proc/self/statm cannot be read");
	fclose(file);
	return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct kvc_policy_node *node_of(void *owner, uint32_t id)
{
	return &kvc_index_entry(((struct bench *)owner)->index, id)->node;
}

static struct kvc_policy_block block_of(void *owner, uint32_t id)
{
	const struct kvc_entry *entry = kvc_index_entry(((struct bench *)owner)->index, id);

	return (struct kvc_policy_block){kvc_storage_key_hash(&entry->key), BLOCK_BYTES, 0, 16};
}

/* ---- steps: each returns nanoseconds a block of one batch ---------------------------------- */

static void block_add(struct bench *b, const struct kvc_storage_key *key)
{
	uint32_t id;

	if (kvc_index_find(b->index, key) != KVC_ENTRY_NONE || kvc_index_insert(b->index, key, &id) != KVC_OK)
		die("a block cannot be inserted");
	kvc_policy_arrive(b->policy, id, KVC_POLICY_NONE);
	kvc_policy_insert(b->policy, id, 0, KVC_POLICY_NEW, KVC_POLICY_NONE);
}

static double insert_batch(struct bench *b)
{
	double begun;

	for (unsigned i = 0; i < BATCH; i++)
		b->keys[i] = key_of(b->last++);
	begun = bench_now_s();
	for (unsigned i = 0; i < BATCH; i++)
		block_add(b, &b->keys[i]);
	return (bench_now_s() - begun) * 1e9 / BATCH;
}

static void keys_pick(struct bench *b, bool present)
{
	for (unsigned i = 0; i < BATCH; i++)
		b->keys[i] = key_of(present ? next(b) % b->last : ~next(b) >> 1);
}

static double find_batch(struct bench *b, bool present, bool hit)
{
	double begun;

	keys_pick(b, present);
	begun = bench_now_s();
	for (unsigned i = BATCH; i-- > 0;) {
		uint32_t id;

		if (i >= 2 * AHEAD)
			kvc_index_prefetch(b->index, &b->keys[i - 2 * AHEAD]);
		if (i >= AHEAD)
			kvc_index_prefetch_entry(b->index, &b->keys[i - AHEAD]);
		id = kvc_index_find(b->index, &b->keys[i]);
		b->found += id != KVC_ENTRY_NONE;
		if (hit)
			kvc_policy_hit(b->policy, id, 0);
	}
	return (bench_now_s() - begun) * 1e9 / BATCH;
}

static double found_batch(struct bench *b)
{
	return find_batch(b, true, false);
}

/* The derived keys are thrown away: those that are looked up are the bench's own. */
static double lookup_batch(struct bench *b)
{
	static const struct kvc_secret secret = {{1}};
	static struct kvc_storage_key derived[BATCH];
	double begun = bench_now_s();
	double ns;

	for (uint64_t i = 0; i < BATCH; i++) {
		uint64_t words[3] = {i, next(b), 0};

		kvc_storage_key_derive(&secret, words, CLIENT_KEY_BYTES, &derived[i]);
	}
	ns = (bench_now_s() - begun) * 1e9 / BATCH;
	return ns + find_batch(b, true, false);
}

static double absent_batch(struct bench *b)
{
	return find_batch(b, false, false);
}

static double hit_batch(struct bench *b)
{
	return find_batch(b, true, true);
}

static double replace_batch(struct bench *b)
{
	double begun;

	for (unsigned i = 0; i < BATCH; i++)
		b->keys[i] = key_of(b->last++);
	begun = bench_now_s();
	for (unsigned i = 0; i < BATCH; i++) {
		uint32_t id = kvc_policy_victim(b->policy, KVC_POLICY_ALL, NULL);

		kvc_policy_evict(b->policy, id);
		kvc_index_unlink(b->index, id);
		kvc_index_free(b->index, id);
		block_add(b, &b->keys[i]);
	}
	return (bench_now_s() - begun) * 1e9 / BATCH;
}

static double median_of(struct bench *b, double (*step)(struct bench *b))
{
	static double ns[BATCHES];

	for (unsigned i = 0; i < BATCHES; i++)
		ns[i] = step(b);
	return bench_median(ns, BATCHES);
}

/* ---- one size ------------------------------------------------------------------------------ */

static void bench_open(struct bench *b, uint64_t blocks)
{
	struct kvc_policy_options options = {
	        .kind = KVC_POLICY_CHAIN_LRU,
	        .capacity = blocks * BLOCK_BYTES,
	        .node = node_of,
	        .block = block_of,
	        .owner = b,
	};

	*b = (struct bench){.random = 1};
	if (kvc_index_open(0, &b->index) != KVC_OK || kvc_policy_open(&options, &b->policy) != KVC_OK)
		die("no memory");
}

static void fill(struct bench *b, uint64_t blocks, struct row *row)
{
	double ns = 0;
	uint64_t batches = (blocks + BATCH - 1) / BATCH;
	uint64_t before = resident_bytes();

	for (uint64_t i = 0; i < batches; i++)
		ns += insert_batch(b);
	row->blocks = (double)(batches * BATCH);
	row->insert = ns / (double)batches;
	row->counted = (double)(kvc_index_bytes(b->index) + kvc_policy_memory(b->policy)) / row->blocks;
	row->resident = (double)(resident_bytes() - before) / row->blocks;
}

static struct row size_run(uint64_t blocks)
{
	static struct bench b;
	struct row row;

	bench_open(&b, blocks);
	fill(&b, blocks, &row);
	row.lookup = median_of(&b, lookup_batch);
	row.found = median_of(&b, found_batch);
	row.absent = median_of(&b, absent_batch);
	if (b.found != 2ull * BATCH * BATCHES)
		die("a look-up was wrong");
	row.hit = median_of(&b, hit_batch);
	row.replace = median_of(&b, replace_batch);
	kvc_policy_close(b.policy);
	kvc_index_close(b.index);
	malloc_trim(0);
	printf("%11.0f   %7.2f   %8.2f   %6.0f   %7.0f   %5.0f   %6.0f   %5.0f   %7.0f\n", row.blocks,
	       row.counted, row.resident, row.insert, row.lookup, row.found, row.absent, row.hit,
	       row.replace);
	return row;
}

int main(int argc, char **argv)
{
	uint64_t most = MOST;
	struct row least, row;

	if (argc == 3 && strcmp(argv[1], "--most") == 0)
		most = strtoull(argv[2], NULL, 0);
	else if (argc != 1)
		most = 0;
	if (most < LEAST) {
		fprintf(stderr, "usage: %s [--most N], N at least %d\n", argv[0], LEAST);
		return 2;
	}
	kvc_key_init();
	printf("     blocks   counted   resident   insert   look-up   found   absent     hit   replace\n"
	       "              bytes a block        nanoseconds a block\n");
	row = least = size_run(LEAST);
	for (uint64_t blocks = 10 * LEAST; blocks <= most; blocks *= 10)
		row = size_run(blocks);
	printf("look-up of %.0f blocks against %.0f: %.2f times   (insert %.2f, found %.2f, absent %.2f, hit "
	       "%.2f, "
	       "replace "
	       "%.2f)\n",
	       row.blocks, least.blocks, row.lookup / least.lookup, row.insert / least.insert,
	       row.found / least.found, row.absent / least.absent, row.hit / least.hit,
	       row.replace / least.replace);
	printf("10^8 blocks by calculation: %.1f GiB\n", row.counted * 1e8 / 1073741824.0);
	return 0;
}
