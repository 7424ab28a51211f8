/* The index at scale, from 10^4 blocks to 10^7: what a block that rests on disk costs in RAM, how long a
 * look-up takes, and how long the index's own steps do.
 *
 *   bench_index [--most N]
 *
 * First the daemon's cache, with a tier below that keeps for every record what the disk tier keeps
 * (tests/support/resting.h). Bytes a block: what the index counts, what the tier took for its segments and
 * records, both together, and what the process grew by. Nanoseconds a key of requests of 1,000 keys of 20
 * bytes, each of a random block that is there, from the bytes of the message to the bytes of the reply, as
 * the daemon goes about it: parse, derive the storage keys, look up (which marks as used), pack. The sizes
 * take turns, so that all have the same machine; what a turn finds cold is not counted. Medians.
 *
 * Then the index and the default policy alone. Nanoseconds a block, of batches of 1,024 blocks picked at
 * random among all, each step the median of its batches:
 *
 *   insert   find that it is not there, insert, list; from the empty index to that size, growth included
 *   found    kvc_index_find of what is there, fetched into the processor's cache some keys ahead
 *   absent   likewise, of keys that are not there
 *   hit      found, and the policy moves it to the hot end of its list
 *   replace  the policy's victim goes, a new block comes */
#include <malloc.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/cache/index.h"
#include "daemon/rpc/convert.h"
#include "proto/frame.h"
#include "proto/kvcellar.pb-c.h"
#include "tests/bench/measure.h"
#include "tests/support/resting.h"

enum {
	BATCH = 1024,
	BATCHES = 400,
	AHEAD = 8,
	REQUEST = 1000, /* keys */
	TURNS = 10,
	TURN = 200, /* requests */
	TURN_COLD = 100,
	SIZES = 5,
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
	double insert, found, absent, hit, replace;
};

static _Noreturn void die(const char *what)
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

static uint64_t random_next(uint64_t *state)
{
	return mix(*state += UINT64_C(0x9E3779B97F4A7C15));
}

static uint64_t next(struct bench *b)
{
	return random_next(&b->random);
}

/* A line of the process's smaps_rollup: without what is shared, as the arena is. */
static uint64_t memory_bytes(const char *name)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "re");
	unsigned long kib = 0;
	char line[128];

	if (!file)
		die("/proc/self/smaps_rollup cannot be read");
	while (fgets(line, sizeof line, file))
		if (strncmp(line, name, strlen(name)) == 0)
			kib = strtoul(line + strlen(name), NULL, 10);
	fclose(file);
	return (uint64_t)kib << 10;
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
	return (bench_now_s() - begun) * 1e9 / (double)BATCH;
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

		for (unsigned step = 0; step < KVC_INDEX_STEPS; step++) {
			unsigned before = (KVC_INDEX_STEPS - step) * AHEAD;

			if (i >= before)
				kvc_index_prefetch(b->index, &b->keys[i - before], step);
		}
		id = kvc_index_find(b->index, &b->keys[i]);
		b->found += id != KVC_ENTRY_NONE;
		if (hit)
			kvc_policy_hit(b->policy, id, 0);
	}
	return (bench_now_s() - begun) * 1e9 / (double)BATCH;
}

static double found_batch(struct bench *b)
{
	return find_batch(b, true, false);
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
	return (bench_now_s() - begun) * 1e9 / (double)BATCH;
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

	for (uint64_t i = 0; i < batches; i++)
		ns += insert_batch(b);
	row->blocks = (double)(batches * BATCH);
	row->insert = ns / (double)batches;
}

static struct row size_run(uint64_t blocks)
{
	static struct bench b;
	struct row row;

	bench_open(&b, blocks);
	fill(&b, blocks, &row);
	row.found = median_of(&b, found_batch);
	row.absent = median_of(&b, absent_batch);
	if (b.found != (uint64_t)BATCH * BATCHES)
		die("a look-up was wrong");
	row.hit = median_of(&b, hit_batch);
	row.replace = median_of(&b, replace_batch);
	kvc_policy_close(b.policy);
	kvc_index_close(b.index);
	malloc_trim(0);
	printf("%10.0f   %6.0f   %5.0f   %6.0f   %5.0f   %7.0f\n", row.blocks, row.insert, row.found,
	       row.absent, row.hit, row.replace);
	return row;
}

static void index_measure(uint64_t most)
{
	struct row least = size_run(LEAST), row = least;

	for (uint64_t blocks = 10 * LEAST; blocks <= most; blocks *= 10)
		row = size_run(blocks);
	printf("index alone, %.0f blocks against %.0f: insert %.2f times, found %.2f, absent %.2f, hit %.2f, "
	       "replace %.2f\n",
	       row.blocks, least.blocks, row.insert / least.insert, row.found / least.found,
	       row.absent / least.absent, row.hit / least.hit, row.replace / least.replace);
}

/* ---- requests to the cache ------------------------------------------------------------------ */

struct size {
	uint64_t blocks;
	struct kvc_resting *resting;
	double request[TURNS * (TURN - TURN_COLD)]; /* nanoseconds a key */
	double lookup[TURNS * (TURN - TURN_COLD)];  /* of that, kvc_cache_lookup */
	double bytes;                               /* a block, counted */
};

struct requests {
	struct kvc_convert *convert;
	uint64_t random;
	uint8_t body[KVC_FRAME_BODY_MAX];
	size_t body_bytes;
	struct kvc_storage_key keys[REQUEST];
	uint8_t rest[REQUEST];
	uint8_t reply[64 + REQUEST];
};

static void size_open(struct size *size, uint64_t blocks)
{
	uint64_t before = memory_bytes("Anonymous:");
	uint64_t huge = memory_bytes("AnonHugePages:");
	double index, tier, grown;

	size->blocks = blocks;
	if (kvc_resting_open((uint32_t)blocks, &size->resting) != KVC_OK)
		die("the cache cannot be opened");
	grown = (double)(memory_bytes("Anonymous:") - before) / (double)blocks;
	huge = memory_bytes("AnonHugePages:") - huge;
	index = (double)kvc_resting_index_bytes(size->resting) / (double)blocks;
	tier = (double)kvc_resting_tier_bytes(size->resting) / (double)blocks;
	size->bytes = index + tier;
	printf("%10.0f   %6.2f   %5.2f   %6.2f   %8.2f   %5.0f\n", (double)blocks, index, tier, size->bytes,
	       grown, (double)(huge >> 20));
	fflush(stdout);
}

static void message_make(struct requests *r, const struct size *size)
{
	static uint8_t bytes[REQUEST][KVC_RESTING_KEY_BYTES];
	static ProtobufCBinaryData keys[REQUEST];
	Kvcellar__Keys message = KVCELLAR__KEYS__INIT;

	for (unsigned i = 0; i < REQUEST; i++) {
		kvc_resting_key(random_next(&r->random) % size->blocks, bytes[i]);
		keys[i] = (ProtobufCBinaryData){KVC_RESTING_KEY_BYTES, bytes[i]};
	}
	message.namespace_ = 1;
	message.n_keys = REQUEST;
	message.keys = keys;
	r->body_bytes = kvcellar__keys__pack(&message, r->body);
}

static void request_run(struct requests *r, const struct size *size, double *request_ns, double *lookup_ns)
{
	static const struct kvc_rpc_limits limits = {.batch = REQUEST, .deadline_ms_default = 1000};
	struct kvc_body body = {r->body, r->body_bytes};
	struct kvc_keys_reply reply = {.count = REQUEST, .tiers = r->rest};
	struct kvc_keys_request request;
	struct kvc_problem problem;
	double begun = bench_now_s(), parsed, found;

	if (kvc_parse_keys(r->convert, body, &limits, &request, &problem) != KVC_OK)
		die("a request was refused");
	for (uint32_t i = 0; i < request.count; i++) {
		struct kvc_bytes key = kvc_keys_at(&request, i);

		kvc_ns_key(kvc_resting_ns(size->resting), key.data, key.bytes, &r->keys[i]);
	}
	parsed = bench_now_s();
	reply.prefix = kvc_cache_lookup(kvc_resting_cache(size->resting), r->keys, request.count, r->rest);
	found = bench_now_s();
	(void)kvc_pack_keys(&reply, r->reply);
	if (reply.prefix != REQUEST)
		die("a look-up was wrong");
	*request_ns = (bench_now_s() - begun) * 1e9 / (double)REQUEST;
	*lookup_ns = (found - parsed) * 1e9 / (double)REQUEST;
}

static void turn_run(struct requests *r, struct size *size, unsigned turn)
{
	double cold;

	for (unsigned i = 0; i < TURN; i++) {
		unsigned at = turn * (TURN - TURN_COLD) + i - TURN_COLD;

		message_make(r, size);
		if (i < TURN_COLD)
			request_run(r, size, &cold, &cold);
		else
			request_run(r, size, &size->request[at], &size->lookup[at]);
	}
}

static void sizes_print(struct size *sizes, unsigned count)
{
	double request[SIZES], lookup[SIZES];

	printf("    blocks   request   look-up   (nanoseconds a key; the look-up is a part of the "
	       "request)\n");
	for (unsigned i = 0; i < count; i++) {
		request[i] = bench_median(sizes[i].request, TURNS * (TURN - TURN_COLD));
		lookup[i] = bench_median(sizes[i].lookup, TURNS * (TURN - TURN_COLD));
		printf("%10.0f   %7.0f   %7.0f\n", (double)sizes[i].blocks, request[i], lookup[i]);
	}
	printf("look-up request, %.0f blocks against %.0f: %.2f times   (of that kvc_cache_lookup %.2f)\n",
	       (double)sizes[count - 1].blocks, (double)sizes[0].blocks, request[count - 1] / request[0],
	       lookup[count - 1] / lookup[0]);
	printf("10^8 blocks by calculation: %.1f GiB\n", sizes[count - 1].bytes * 1e8 / 1073741824.0);
}

static void cache_measure(uint64_t most)
{
	static struct size sizes[SIZES];
	static struct requests r = {.random = 1};
	unsigned count = 0;

	if (kvc_convert_open(&r.convert) != KVC_OK)
		die("no memory");
	printf("    blocks    index    tier   counted   resident   huge MiB   (bytes a block that rests on "
	       "disk)\n");
	for (uint64_t blocks = LEAST; blocks <= most && count < SIZES; blocks *= 10)
		size_open(&sizes[count++], blocks);
	for (unsigned turn = 0; turn < TURNS; turn++)
		for (unsigned i = 0; i < count; i++)
			turn_run(&r, &sizes[i], turn);
	sizes_print(sizes, count);
	for (unsigned i = 0; i < count; i++)
		kvc_resting_close(sizes[i].resting);
	kvc_convert_close(r.convert);
	malloc_trim(0);
}

int main(int argc, char **argv)
{
	uint64_t most = MOST;

	if (argc == 3 && strcmp(argv[1], "--most") == 0)
		most = strtoull(argv[2], NULL, 0);
	else if (argc != 1)
		most = 0;
	if (most < LEAST) {
		fprintf(stderr, "usage: %s [--most N], N at least %d\n", argv[0], LEAST);
		return 2;
	}
	kvc_log_level_now = KVC_LOG_ERROR;
	kvc_key_init();
	cache_measure(most);
	printf("    blocks   insert   found   absent     hit   replace   (the index alone, nanoseconds a "
	       "block)\n");
	index_measure(most);
	return 0;
}
