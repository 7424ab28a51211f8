/* Several clients at the same keys: the same bytes twice, other bytes under a taken key, puts that race,
 * drops during gets. Whatever happens, a get gives exactly what one put wrote, or a miss; never a mix.
 *
 * Blocks come in two versions of the same key and shape, A and B, with other contents: which of them is there
 * can be told from what comes back, tile by tile. KVC_TEST_FULL=1: more of it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/row.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define BATCH      64u
#define STEP_BYTES 4096u
#define READY_MS   30000u

enum version { A, B, VERSIONS };

struct world {
	struct kvc_server server;
	struct kvc_sample_space spaces[VERSIONS]; /* the same namespace, other contents */
	uint64_t next_id;
};

/* One client and its memory. */
struct peer {
	struct world *w;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint8_t keys[BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BATCH];
};

static void space_init(struct kvc_sample_space *space, uint64_t seed)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "races";
	options.layers = 2;
	options.heads = 2;
	options.key_dim = options.value_dim = 64;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 1; /* every block is full: the versions have the same shape */
	assert_int_equal(kvc_sample_space_init(space, &options, seed), KVC_OK);
	assert_true(kvc_sample_bytes_max(space) <= STEP_BYTES);
}

static int world_open(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	*state = w;
	for (unsigned i = 0; i < VERSIONS; i++)
		space_init(&w->spaces[i], 100 + i);
	w->next_id = 1;
	assert_true(kvc_server_init(&w->server));
	kvc_server_use_agent(&w->server);
	kvc_server_arg(&w->server, "--ram", "64M");
	kvc_server_arg(&w->server, "--threads", "2");
	assert_true(kvc_server_start(&w->server));
	assert_true(kvc_server_ready(&w->server, READY_MS * kvc_server_patience()));
	return 0;
}

static int world_close(void **state)
{
	struct world *w = *state;

	assert_true(kvc_server_stop(&w->server, READY_MS * kvc_server_patience()));
	kvc_server_remove(&w->server);
	free(w);
	return 0;
}

static void peer_open(struct peer *peer, struct world *w)
{
	memset(peer, 0, sizeof *peer);
	peer->w = w;
	assert_int_equal(kvc_server_client(&w->server, READY_MS, &peer->client), KVC_OK);
	assert_int_equal(kvc_namespace_open(peer->client, &w->spaces[A].options, 0, &peer->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(peer->client, (uint64_t)BATCH * STEP_BYTES, &peer->memory),
	                 KVC_OK);
}

static void peer_close(struct peer *peer)
{
	kvc_client_destroy(peer->client);
}

static uint8_t *slot(const struct peer *peer, size_t i)
{
	return (uint8_t *)kvc_memory_data(peer->memory) + i * STEP_BYTES;
}

/* ---- calls --------------------------------------------------------------------------------- */

static void blocks_init(struct peer *peer, uint64_t first, size_t count, bool backwards)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t id = first + (backwards ? count - 1 - i : i);

		kvc_sample_block(&peer->w->spaces[A], id, i * STEP_BYTES, peer->keys[i], &peer->blocks[i]);
	}
}

static void put(struct peer *peer, enum version version, uint64_t first, size_t count, bool backwards)
{
	struct kvc_transfer transfer;

	blocks_init(peer, first, count, backwards);
	for (size_t i = 0; i < count; i++)
		kvc_sample_source(&peer->w->spaces[version], first + (backwards ? count - 1 - i : i),
		                  slot(peer, i));
	kvc_transfer_init(&transfer, peer->memory);
	assert_int_equal(kvc_put(peer->ns, &transfer, peer->blocks, count, NULL), KVC_OK);
	for (size_t i = 0; i < count; i++)
		assert_int_equal(peer->blocks[i].status, KVC_OK);
}

static void get(struct peer *peer, uint64_t first, size_t count)
{
	struct kvc_transfer transfer;

	blocks_init(peer, first, count, false);
	memset(slot(peer, 0), 0xDD, count * STEP_BYTES);
	kvc_transfer_init(&transfer, peer->memory);
	assert_int_equal(kvc_get(peer->ns, &transfer, peer->blocks, count, NULL), KVC_OK);
}

static size_t drop(struct peer *peer, uint64_t first, size_t count)
{
	uint8_t bytes[BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_key keys[BATCH];
	size_t done;

	for (size_t i = 0; i < count; i++) {
		kvc_sample_key(first + i, bytes[i]);
		keys[i] = (struct kvc_key){.data = bytes[i], .bytes = KVC_SAMPLE_KEY_BYTES};
	}
	assert_int_equal(kvc_drop(peer->ns, keys, count, 0, &done), KVC_OK);
	return done;
}

static enum version version_verified(enum version version)
{
	kvc_row.verified++;
	return version;
}

/* The version that lies in a slot; anything else fails. */
static enum version version_of(const struct peer *peer, uint64_t id, size_t i)
{
	for (unsigned v = A; v < VERSIONS; v++) {
		const struct kvc_sample_space *space = &peer->w->spaces[v];
		uint64_t sum;

		assert_true(kvc_sample_sum(space, id, &sum));
		if (kvc_sample_sum_of(slot(peer, i), kvc_sample_bytes(space, id)) == sum)
			return version_verified((enum version)v);
	}
	fail_msg("block %llu is neither of the two that were put", (unsigned long long)id);
	return VERSIONS;
}

/* ---- one client after the other ------------------------------------------------------------ */

static void same_key_same_bytes_is_one_block(void **state)
{
	struct world *w = *state;
	struct peer one;
	struct peer two;
	uint64_t first = w->next_id;
	double used;

	KVC_ROW("D17");
	w->next_id += BATCH;
	peer_open(&one, w);
	peer_open(&two, w);
	put(&one, A, first, BATCH, false);
	used = kvc_server_stat(one.client, "ram.used_bytes");
	assert_true(used > 0);
	put(&one, A, first, BATCH, false);
	put(&two, A, first, BATCH, true);
	assert_true(kvc_server_stat(one.client, "ram.used_bytes") == used);
	get(&two, first, BATCH);
	for (size_t i = 0; i < BATCH; i++) {
		assert_int_equal(two.blocks[i].status, KVC_OK);
		assert_int_equal(version_of(&two, first + i, i), A);
	}
	assert_int_equal(drop(&one, first, BATCH), BATCH);
	kvc_row.injected += 2 * BATCH;
	peer_close(&one);
	peer_close(&two);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_row_end_here();
}

static void first_writer_wins(void **state)
{
	struct world *w = *state;
	struct peer one;
	struct peer two;
	uint64_t first = w->next_id;

	KVC_ROW("D18");
	w->next_id += BATCH;
	peer_open(&one, w);
	peer_open(&two, w);
	put(&one, A, first, BATCH, false);
	put(&two, B, first, BATCH, false);
	get(&two, first, BATCH);
	for (size_t i = 0; i < BATCH; i++)
		assert_int_equal(version_of(&two, first + i, i), A);
	assert_int_equal(drop(&two, first, BATCH), BATCH);
	put(&two, B, first, BATCH, false);
	get(&one, first, BATCH);
	for (size_t i = 0; i < BATCH; i++)
		assert_int_equal(version_of(&one, first + i, i), B);
	drop(&one, first, BATCH);
	kvc_row.injected += BATCH;
	peer_close(&one);
	peer_close(&two);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_row_end_here();
}

/* The same key in one request. */
static void twice_in_one_batch(void **state)
{
	struct world *w = *state;
	struct peer one;
	struct kvc_transfer transfer;
	uint64_t id = w->next_id++;

	KVC_ROW("D17 D18");
	peer_open(&one, w);
	kvc_sample_block(&w->spaces[A], id, 0, one.keys[0], &one.blocks[0]);
	kvc_sample_block(&w->spaces[B], id, STEP_BYTES, one.keys[1], &one.blocks[1]);
	kvc_sample_source(&w->spaces[A], id, slot(&one, 0));
	kvc_sample_source(&w->spaces[B], id, slot(&one, 1));
	kvc_transfer_init(&transfer, one.memory);
	assert_int_equal(kvc_put(one.ns, &transfer, one.blocks, 2, NULL), KVC_OK);
	assert_int_equal(one.blocks[0].status, KVC_OK);
	assert_int_equal(one.blocks[1].status, KVC_OK);
	get(&one, id, 1);
	assert_int_equal(one.blocks[0].status, KVC_OK);
	version_of(&one, id, 0);
	assert_int_equal(drop(&one, id, 1), 1);
	kvc_row.injected++;
	peer_close(&one);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_row_end_here();
}

/* ---- races --------------------------------------------------------------------------------- */

struct racer {
	struct peer peer;
	enum version version;
	pthread_barrier_t *barrier;
	uint64_t first;
	unsigned rounds;
};

static void *racer_run(void *argument)
{
	struct racer *racer = argument;

	for (unsigned i = 0; i < racer->rounds; i++) {
		pthread_barrier_wait(racer->barrier);
		put(&racer->peer, racer->version, racer->first + (uint64_t)i * BATCH, BATCH,
		    racer->version == B);
		pthread_barrier_wait(racer->barrier);
		pthread_barrier_wait(racer->barrier);
	}
	return NULL;
}

/* Both have been told that their put is done: both must see the same, one of the two. */
static void race_check(struct racer racers[VERSIONS], uint64_t first, unsigned wins[VERSIONS])
{
	enum version seen[BATCH];

	get(&racers[A].peer, first, BATCH);
	for (size_t i = 0; i < BATCH; i++) {
		assert_int_equal(racers[A].peer.blocks[i].status, KVC_OK);
		seen[i] = version_of(&racers[A].peer, first + i, i);
		wins[seen[i]]++;
	}
	get(&racers[B].peer, first, BATCH);
	for (size_t i = 0; i < BATCH; i++)
		assert_int_equal(version_of(&racers[B].peer, first + i, i), seen[i]);
	assert_int_equal(drop(&racers[A].peer, first, BATCH), BATCH);
}

static void two_puts_of_one_key_race(void **state)
{
	static struct racer racers[VERSIONS];
	struct world *w = *state;
	unsigned rounds = getenv("KVC_TEST_FULL") ? 200000 / BATCH : 400 / kvc_server_patience();
	pthread_barrier_t barrier;
	pthread_t threads[VERSIONS];
	unsigned wins[VERSIONS] = {0, 0};
	uint64_t first = w->next_id;

	KVC_ROW("D19");
	w->next_id += (uint64_t)rounds * BATCH;
	pthread_barrier_init(&barrier, NULL, VERSIONS + 1);
	for (unsigned v = A; v < VERSIONS; v++) {
		peer_open(&racers[v].peer, w);
		racers[v].version = (enum version)v;
		racers[v].barrier = &barrier;
		racers[v].first = first;
		racers[v].rounds = rounds;
		assert_int_equal(pthread_create(&threads[v], NULL, racer_run, &racers[v]), 0);
	}
	for (unsigned i = 0; i < rounds; i++) {
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		race_check(racers, first + (uint64_t)i * BATCH, wins);
		pthread_barrier_wait(&barrier);
	}
	for (unsigned v = A; v < VERSIONS; v++) {
		pthread_join(threads[v], NULL);
		peer_close(&racers[v].peer);
	}
	pthread_barrier_destroy(&barrier);
	kvc_row.injected += (uint64_t)rounds * BATCH;
	print_message("# %u races, won %u to %u\n", rounds * BATCH, wins[A], wins[B]);
	assert_true(wins[A] > 0 && wins[B] > 0);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_row_end_here();
}

/* ---- drops during gets --------------------------------------------------------------------- */

struct churner {
	struct peer peer;
	uint64_t first;
	atomic_int stop;
	unsigned rounds;
};

/* Puts one version, drops it, puts the other, and so on. */
static void *churner_run(void *argument)
{
	struct churner *churner = argument;

	while (!atomic_load(&churner->stop)) {
		put(&churner->peer, churner->rounds % 2 ? B : A, churner->first, BATCH, false);
		drop(&churner->peer, churner->first, BATCH);
		churner->rounds++;
	}
	return NULL;
}

static void drop_during_get(void **state)
{
	static struct churner churner;
	struct world *w = *state;
	struct peer reader;
	pthread_t thread;
	unsigned gets = (getenv("KVC_TEST_FULL") ? 20000u : 1600u) / kvc_server_patience();
	unsigned exact = 0;
	unsigned misses = 0;

	KVC_ROW("D20 D24");
	peer_open(&reader, w);
	peer_open(&churner.peer, w);
	churner.first = w->next_id;
	w->next_id += BATCH;
	assert_int_equal(pthread_create(&thread, NULL, churner_run, &churner), 0);
	for (unsigned n = 0; n < gets || exact == 0 || misses == 0; n++) {
		get(&reader, churner.first, BATCH);
		for (size_t i = 0; i < BATCH; i++) {
			if (reader.blocks[i].status == KVC_MISS) {
				misses++;
				continue;
			}
			assert_int_equal(reader.blocks[i].status, KVC_OK);
			version_of(&reader, churner.first + i, i);
			exact++;
		}
	}
	atomic_store(&churner.stop, 1);
	pthread_join(thread, NULL);
	kvc_row.injected += churner.rounds;
	print_message("# %u gets during %u puts and drops: %u exact blocks, %u misses\n", gets,
	              churner.rounds, exact, misses);
	peer_close(&reader);
	peer_close(&churner.peer);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_row_end_here();
}

static void nothing_is_left(void **state)
{
	struct world *w = *state;
	struct peer peer;
	uint64_t end = kvc_server_now_ms() + READY_MS;

	peer_open(&peer, w);
	while (kvc_server_stat(peer.client, "ram.used_bytes") != 0) {
		assert_true(kvc_server_now_ms() < end);
		kvc_server_step();
	}
	peer_close(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(same_key_same_bytes_is_one_block),
	        cmocka_unit_test(first_writer_wins),
	        cmocka_unit_test(twice_in_one_batch),
	        cmocka_unit_test(two_puts_of_one_key_race),
	        cmocka_unit_test(drop_during_get),
	        cmocka_unit_test(nothing_is_left),
	};

	return cmocka_run_group_tests(tests, world_open, world_close);
}
