/* The client library doing its work: every verb, sync and async, from one thread and many. Faults are in
 * test_client_faults.c. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"

#define assert_ok(call) expect_status(call, KVC_OK, #call)

static void expect_status(kvc_status status, kvc_status expected, const char *what)
{
	if (status != expected)
		fail_msg("%s: %s, expected %s: %s", what, kvc_status_name(status), kvc_status_name(expected),
		         kvc_last_error());
}

/* ---- sync ---------------------------------------------------------------------------------- */

static void test_about_the_daemon(void **state)
{
	struct kvc_daemon_info info = {.size = sizeof(info)};
	struct kvc_stat *stats;
	struct fixture f;
	size_t count;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(kvc_ping(f.client, 0));
	assert_ok(kvc_client_info(f.client, &info, 0));
	assert_string_equal(info.version, "fake");
	assert_memory_equal(info.boot_id, "fake boot id 16", 16);
	assert_int_equal(info.batch, 1024);
	assert_int_equal(info.connects, 1);
	assert_ok(kvc_stats(f.client, 0, &stats, &count));
	assert_int_equal(count, 2);
	assert_string_equal(stats[1].name, "ram.used_bytes");
	assert_true(stats[1].value > 41 && stats[1].value < 43);
	kvc_stats_free(stats);
	assert_int_equal(kvc_namespace_raw_bytes(f.ns), FIXTURE_BLOCK);
	assert_int_equal(kvc_namespace_image_bytes(f.ns), FIXTURE_BLOCK + 256);
	fixture_close(&f);
}

static void test_round_trip(void **state)
{
	struct kvc_block blocks[20];
	uint64_t keys[20];
	struct kvc_transfer transfer;
	struct kvc_outcome outcome;
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	kvc_transfer_init(&transfer, f.memory);
	fixture_blocks(blocks, keys, 20, 100);
	fixture_fill(f.memory, 20, 100);
	assert_ok(kvc_put(f.ns, &transfer, blocks, 17, &outcome));
	assert_int_equal(outcome.blocks_ok, 17);
	assert_int_equal(outcome.stored_bytes, 17 * FIXTURE_BLOCK);
	fixture_clear(f.memory);
	assert_ok(kvc_get(f.ns, &transfer, blocks, 20, &outcome));
	fixture_expect(f.memory, 17, 100);
	assert_int_equal(outcome.blocks_ok, 17);
	assert_int_equal(outcome.from_ram, 17);
	for (size_t i = 0; i < 20; i++)
		assert_int_equal(blocks[i].status, i < 17 ? KVC_OK : KVC_MISS);
	assert_ok(kvc_put(f.ns, &transfer, blocks, 0, NULL));
	fixture_close(&f);
}

/* Layers far apart, heads before tokens: what comes back through another layout is the same element. */
static void test_layout(void **state)
{
	const int64_t row = FIXTURE_DIM * 2;
	struct kvc_layout layout = {
	        .layer_stride = 4096, .token_stride = row, .head_stride = FIXTURE_TOKENS * row};
	struct kvc_block block;
	struct kvc_transfer transfer;
	struct fixture f;
	uint8_t *data;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	fixture_blocks(&block, &key, 1, 7);
	kvc_transfer_init(&transfer, f.memory);
	fixture_fill(f.memory, 1, 7);
	assert_ok(kvc_put(f.ns, &transfer, &block, 1, NULL));
	fixture_clear(f.memory);
	transfer.key_layout = layout;
	transfer.value_layout = layout;
	block.value_offset = 8192;
	assert_ok(kvc_get(f.ns, &transfer, &block, 1, NULL));
	data = kvc_memory_data(f.memory);
	for (size_t i = 0; i < FIXTURE_BLOCK; i++) {
		size_t in = i % FIXTURE_HALF;
		size_t line = in / (size_t)row;
		size_t at = line / FIXTURE_HEADS / FIXTURE_TOKENS * 4096 +
		            line / FIXTURE_HEADS % FIXTURE_TOKENS * (size_t)row +
		            line % FIXTURE_HEADS * FIXTURE_TOKENS * (size_t)row + in % (size_t)row;

		assert_int_equal(data[at + (i < FIXTURE_HALF ? 0 : 8192)], fixture_byte(7, i));
	}
	fixture_close(&f);
}

static void test_inline(void **state)
{
	const struct fake_limits limits = {
	        .batch = 1024, .inflight = 256, .inline_bytes = 300 * FIXTURE_BLOCK};
	const size_t count = 700; /* more than one request */
	struct kvc_block *blocks = calloc(count, sizeof(*blocks));
	uint64_t *keys = calloc(count, sizeof(*keys));
	uint8_t *data = malloc(count * FIXTURE_BLOCK);
	struct kvc_transfer transfer;
	struct kvc_outcome outcome;
	struct fixture f;

	(void)state;
	fixture_open(&f, &limits);
	fixture_blocks(blocks, keys, count, 0);
	kvc_transfer_init(&transfer, NULL);
	for (size_t i = 0; i < count * FIXTURE_BLOCK; i++)
		data[i] = fixture_byte(i / FIXTURE_BLOCK, i % FIXTURE_BLOCK);
	assert_ok(kvc_put_inline(f.ns, &transfer, blocks, count, data, count * FIXTURE_BLOCK, NULL));
	assert_int_equal(fake_daemon_blocks(f.daemon), count);
	memset(data, 0xEE, count * FIXTURE_BLOCK);
	for (size_t i = 0; i < count; i += 3)
		keys[i] += 1000000; /* these are missed, their place is left alone */
	assert_ok(kvc_get_inline(f.ns, &transfer, blocks, count, data, count * FIXTURE_BLOCK, &outcome));
	for (size_t i = 0; i < count * FIXTURE_BLOCK; i++) {
		size_t block = i / FIXTURE_BLOCK;

		assert_int_equal(blocks[block].status, block % 3 ? KVC_OK : KVC_MISS);
		assert_int_equal(data[i], block % 3 ? fixture_byte(block, i % FIXTURE_BLOCK) : 0xEE);
	}
	expect_status(kvc_get_inline(f.ns, &transfer, blocks, 2, data, 5, NULL), KVC_SHAPE,
	              "5 bytes for 2 blocks");
	fixture_close(&f);
	free(blocks);
	free(keys);
	free(data);
}

static void test_inline_too_large(void **state)
{
	const struct fake_limits limits = {.batch = 8, .inflight = 8, .inline_bytes = FIXTURE_BLOCK - 1};
	struct kvc_transfer transfer;
	struct kvc_block block;
	uint8_t data[FIXTURE_BLOCK];
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, &limits);
	fixture_blocks(&block, &key, 1, 0);
	kvc_transfer_init(&transfer, NULL);
	expect_status(kvc_get_inline(f.ns, &transfer, &block, 1, data, sizeof(data), NULL), KVC_LIMIT,
	              "too large");
	assert_int_equal(block.status, KVC_LIMIT);
	fixture_close(&f);
}

static void test_keys(void **state)
{
	uint64_t numbers[12];
	struct kvc_key keys[12];
	uint8_t tiers[12];
	struct fixture f;
	size_t n;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(fixture_put(&f, 10, 50, 0));
	for (size_t i = 0; i < 12; i++) {
		numbers[i] = 50 + i;
		keys[i] = (struct kvc_key){&numbers[i], sizeof(numbers[i])};
	}
	assert_ok(kvc_lookup(f.ns, keys, 12, 0, &n, tiers));
	assert_int_equal(n, 10);
	for (size_t i = 0; i < 12; i++)
		assert_int_equal(tiers[i], i < 10 ? KVC_TIER_RAM : KVC_TIER_NONE);
	assert_ok(kvc_prefetch(f.ns, keys, 12, 0, &n));
	assert_int_equal(n, 10);
	assert_ok(kvc_pin(f.ns, keys, 12, 0, &n));
	assert_ok(kvc_unpin(f.ns, keys, 12, 0, &n));
	assert_ok(kvc_drop(f.ns, keys + 4, 2, 0, &n));
	assert_int_equal(n, 2);
	assert_ok(kvc_lookup(f.ns, keys, 12, 0, &n, NULL));
	assert_int_equal(n, 4);
	assert_ok(kvc_lookup(f.ns, keys, 0, 0, &n, NULL));
	assert_int_equal(n, 0);
	fixture_close(&f);
}

/* Requests larger than a limit: of the daemon's batch, and of a frame's 64 KiB. */
static void test_split(void **state)
{
	enum { COUNT = 3000 };
	const struct fake_limits limits[] = {{7, 16, 1 << 20, 0, 0}, {4096, 256, 1 << 20, 0, 0}};
	uint8_t(*bytes)[KVC_KEY_BYTES_MAX] = calloc(COUNT, sizeof(*bytes));
	struct kvc_key *keys = calloc(COUNT, sizeof(*keys));
	struct kvc_block *blocks = calloc(COUNT, sizeof(*blocks));
	uint8_t *tiers = calloc(COUNT, 1);
	uint64_t *numbers = calloc(COUNT, sizeof(*numbers));

	(void)state;
	for (size_t l = 0; l < 2; l++) {
		struct kvc_transfer transfer;
		struct kvc_outcome outcome;
		struct fixture f;
		size_t count = l == 0 ? 100 : COUNT;
		size_t n;

		fixture_open(&f, &limits[l]);
		assert_ok(kvc_ping(f.client, 0)); /* so that the limits are known */
		fixture_blocks(blocks, numbers, count, 0);
		kvc_transfer_init(&transfer, f.memory);
		for (size_t i = 0; i < count; i++) {
			memcpy(bytes[i], &i, sizeof(i));
			blocks[i].key = bytes[i];
			blocks[i].key_bytes = sizeof(bytes[i]);
			blocks[i].parent = i ? bytes[i - 1] : NULL;
			blocks[i].parent_bytes = sizeof(bytes[i]);
			keys[i] = (struct kvc_key){bytes[i], sizeof(bytes[i])};
		}
		assert_ok(kvc_put(f.ns, &transfer, blocks, count, &outcome));
		assert_int_equal(outcome.blocks_ok, count);
		assert_true(fake_daemon_seen(f.daemon, KVC_VERB_PUT) > 1);
		assert_ok(kvc_drop(f.ns, &keys[count - 2], 1, 0, &n));
		assert_ok(kvc_lookup(f.ns, keys, count, 0, &n, tiers));
		assert_int_equal(n, count - 2);
		assert_int_equal(tiers[count - 2], KVC_TIER_NONE);
		assert_int_equal(tiers[count - 1], KVC_TIER_RAM);
		assert_true(fake_daemon_seen(f.daemon, KVC_VERB_LOOKUP) > 1);
		fixture_close(&f);
	}
	free(bytes);
	free(keys);
	free(blocks);
	free(tiers);
	free(numbers);
}

/* ---- bad arguments ------------------------------------------------------------------------- */

static void test_bad_blocks(void **state)
{
	uint8_t long_key[KVC_KEY_BYTES_MAX + 1] = {1};
	struct kvc_transfer transfer;
	struct fixture f;
	uint64_t number = 1;
	const struct kvc_block good = {
	        .key = &number, .key_bytes = 8, .tokens = 1, .value_offset = FIXTURE_HALF};
	struct kvc_block bad[6];

	(void)state;
	for (size_t i = 0; i < 6; i++)
		bad[i] = good;
	bad[0].key = NULL;
	bad[1].key_bytes = 0;
	bad[2] = (struct kvc_block){.key = long_key, .key_bytes = sizeof(long_key), .tokens = 1};
	bad[3].tokens = 0;
	bad[4].tokens = FIXTURE_TOKENS + 1;
	bad[5].parent = long_key;
	bad[5].parent_bytes = sizeof(long_key);
	fixture_open(&f, NULL);
	kvc_transfer_init(&transfer, f.memory);
	for (size_t i = 0; i < 6; i++) {
		kvc_status expected = i == 3 || i == 4 ? KVC_SHAPE : KVC_INVALID;

		expect_status(kvc_put(f.ns, &transfer, &bad[i], 1, NULL), expected, "bad block");
		assert_int_equal(bad[i].status, expected);
		assert_non_null(strstr(kvc_last_error(), "block 0"));
	}
	transfer.ack = 9;
	bad[0] = good;
	expect_status(kvc_put(f.ns, &transfer, bad, 1, NULL), KVC_INVALID, "ack 9");
	for (unsigned i = 0; i < 4; i++) {
		static const char *const why[] = {"priority 0: expected 1", "priority 4: expected 1",
		                                  "ack 2 (disk) of ephemeral blocks",
		                                  "ack 2 (disk) of blocks with a time to live"};

		kvc_transfer_init(&transfer, f.memory);
		transfer.priority = i == 0 ? 0 : i == 1 ? 4 : KVC_PUT_HIGH;
		transfer.ack = i < 2 ? KVC_ACK_RAM : KVC_ACK_DISK;
		transfer.ephemeral = i == 2;
		transfer.ttl_ms = i == 3;
		expect_status(kvc_put(f.ns, &transfer, bad, 1, NULL), KVC_INVALID, why[i]);
		assert_non_null(strstr(kvc_last_error(), why[i]));
	}
	kvc_transfer_init(&transfer, NULL);
	expect_status(kvc_get(f.ns, &transfer, bad, 1, NULL), KVC_INVALID, "no memory");
	transfer.size = 4;
	expect_status(kvc_get(f.ns, &transfer, bad, 1, NULL), KVC_INVALID, "no size");
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_PUT) + fake_daemon_seen(f.daemon, KVC_VERB_GET),
	                 0);
	fixture_close(&f);
}

static void test_bad_clients(void **state)
{
	struct kvc_client_options options;
	struct kvc_client *client;
	char path[200];

	(void)state;
	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	kvc_client_options_init(&options);
	options.socket_path = path;
	expect_status(kvc_client_create(&options, &client), KVC_INVALID, "long path");
	assert_non_null(strstr(kvc_last_error(), "199 bytes"));
	options.size = 1;
	expect_status(kvc_client_create(&options, &client), KVC_INVALID, "no size");
	assert_string_equal(kvc_version(), KVCELLAR_VERSION);
}

static void test_bad_namespaces(void **state)
{
	struct kvc_namespace_options good;
	struct kvc_namespace_options bad[6];
	struct kvc_namespace *ns;
	char name[300];
	struct fixture f;

	(void)state;
	memset(name, 'm', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	kvc_namespace_options_init(&good);
	good.model = "m";
	good.element = KVC_ELEMENT_FP16;
	for (size_t i = 0; i < 6; i++)
		bad[i] = good;
	bad[0].model = NULL;
	bad[1].model = name;
	bad[2].tenant = name;
	bad[3].element = 0;
	bad[4].layer_coding_count = 1;
	bad[5].size = 3;
	fixture_open(&f, NULL);
	for (size_t i = 0; i < 6; i++)
		assert_int_not_equal(kvc_namespace_open(f.client, &bad[i], 0, &ns), KVC_OK);
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_OPEN), 1);
	fixture_close(&f);
}

/* ---- memory -------------------------------------------------------------------------------- */

static void test_import_of_what_cannot_be_written(void **state)
{
	int memfd = memfd_create("read-only", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char path[64];
	struct kvc_memory *memory;
	struct fixture f;
	int reading;

	(void)state;
	fixture_open_empty(&f);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	reading = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(memfd, 65536) | fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	expect_status(kvc_memory_import(f.client, reading, 65536, &memory), KVC_INVALID,
	              "opened for reading");
	assert_int_equal(fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE), 0);
	expect_status(kvc_memory_import(f.client, memfd, 65536, &memory), KVC_INVALID, "sealed");
	(void)(close(reading) | close(memfd));
	fixture_close(&f);
}

static void test_import(void **state)
{
	char folder[KVC_TEMP_DIR_BYTES];
	int plain = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int unsealable = memfd_create("unsealable", MFD_CLOEXEC);
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct kvc_memory *own;
	struct fixture f;
	int file;

	(void)state;
	kvc_test_temp_dir(folder);
	file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	fixture_open(&f, NULL);
	own = f.memory;
	assert_int_equal(ftruncate(plain, 65536) | ftruncate(sealed, FIXTURE_BLOCK) | ftruncate(file, 65536),
	                 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	expect_status(kvc_memory_import(f.client, plain, 65536, &f.memory), KVC_INVALID, "no seal");
	expect_status(kvc_memory_import(f.client, unsealable, 65536, &f.memory), KVC_INVALID, "not sealable");
	expect_status(kvc_memory_import(f.client, file, 65536, &f.memory), KVC_INVALID, "a file");
	expect_status(kvc_memory_import(f.client, -1, 65536, &f.memory), KVC_INVALID, "nothing");
	expect_status(kvc_memory_import(f.client, sealed, FIXTURE_BLOCK + 1, &f.memory), KVC_INVALID,
	              "too long");
	expect_status(kvc_memory_import(f.client, sealed, 0, &f.memory), KVC_INVALID, "0 bytes");
	assert_ok(kvc_memory_import(f.client, sealed, FIXTURE_BLOCK, &f.memory));
	(void)close(sealed); /* the library has its own */
	assert_ok(fixture_put(&f, 1, 3, 0));
	fixture_clear(f.memory);
	assert_ok(fixture_get(&f, 1, 3, 0));
	fixture_expect(f.memory, 1, 3);
	expect_status(kvc_memory_renew(f.memory), KVC_UNSUPPORTED, "renew of imported memory");
	kvc_memory_destroy(f.memory);
	f.memory = own;
	fixture_close(&f);
	(void)close(plain);
	(void)close(unsealable);
	(void)close(file);
	kvc_test_temp_dir_remove(folder);
}

static void test_memory_life(void **state)
{
	struct kvc_memory *memory;
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	expect_status(kvc_memory_create(f.client, 0, &memory), KVC_INVALID, "0 bytes");
	expect_status(kvc_memory_create(f.client, UINT64_MAX, &memory), KVC_INVALID, "2^64 - 1 bytes");
	assert_ok(kvc_memory_create(f.client, 1, &memory));
	assert_true(kvc_memory_bytes(memory) >= 4096);
	assert_ok(fixture_put(&f, 2, 0, 0));
	kvc_memory_destroy(memory);
	memory = f.memory;
	assert_ok(kvc_memory_create(f.client, kvc_memory_bytes(memory), &f.memory));
	kvc_memory_destroy(memory);
	fake_daemon_await(f.daemon, KVC_VERB_DETACH,
	                  1); /* of the one that was attached; the other never was */
	assert_ok(fixture_get(&f, 2, 0, 0));
	fixture_expect(f.memory, 2, 0);
	assert_ok(kvc_memory_renew(f.memory)); /* zeroed, and works */
	assert_int_equal(*(uint8_t *)kvc_memory_data(f.memory), 0);
	assert_ok(fixture_get(&f, 2, 0, 0));
	fixture_expect(f.memory, 2, 0);
	fixture_close(&f);
}

/* ---- async --------------------------------------------------------------------------------- */

static size_t take(struct kvc_client *client, struct kvc_completion *completions, size_t max,
                   uint32_t timeout_ms)
{
	size_t count = 0;

	assert_ok(kvc_client_next(client, completions, max, timeout_ms, &count));
	return count;
}

/* Submit until all are through, whatever is refused for now; each tag comes back once. */
static void test_deep(void **state)
{
	enum { COUNT = 10000 };
	struct kvc_completion completions[64];
	struct kvc_key *keys = calloc(COUNT, sizeof(*keys));
	uint64_t *numbers = calloc(COUNT, sizeof(*numbers));
	uint8_t *done = calloc(COUNT, 1);
	size_t submitted = 0;
	size_t completed = 0;
	size_t busy = 0;
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(fixture_put(&f, 8, 0, 0));
	while (completed < COUNT) {
		kvc_status status = KVC_OK;
		size_t n;

		while (submitted < COUNT && status == KVC_OK) {
			numbers[submitted] = submitted % 16;
			keys[submitted] = (struct kvc_key){&numbers[submitted], 8};
			status = kvc_lookup_submit(f.ns, &keys[submitted], 1, 0, NULL, &keys[submitted]);
			submitted += status == KVC_OK;
		}
		if (status != KVC_OK)
			expect_status(status, KVC_BUSY, "submit");
		busy += status == KVC_BUSY;
		n = take(f.client, completions, 64, 10000);
		for (size_t i = 0; i < n; i++) {
			size_t which = (size_t)((const struct kvc_key *)completions[i].tag - keys);

			assert_int_equal(completions[i].status, KVC_OK);
			assert_int_equal(completions[i].prefix, numbers[which] < 8);
			assert_int_equal(done[which]++, 0);
		}
		completed += n;
		assert_true(submitted - completed <= 256 + 8192); /* on the wire, and not taken */
	}
	assert_true(busy > 0);
	assert_int_equal(take(f.client, completions, 64, 0), 0);
	fixture_close(&f);
	free(keys);
	free(numbers);
	free(done);
}

static void test_bad_submits(void **state)
{
	struct kvc_block *blocks = calloc(2000, sizeof(*blocks));
	uint64_t *keys = calloc(2000, sizeof(*keys));
	struct kvc_transfer transfer;
	struct kvc_completion completion;
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	kvc_transfer_init(&transfer, f.memory);
	fixture_blocks(blocks, keys, 2000, 0);
	expect_status(kvc_put_submit(f.ns, &transfer, blocks, 1025, NULL), KVC_LIMIT, "over the batch");
	expect_status(kvc_put_submit(f.ns, &transfer, blocks, 0, NULL), KVC_INVALID, "no blocks");
	expect_status(kvc_lookup_submit(f.ns, NULL, 0, 0, NULL, NULL), KVC_INVALID, "no keys");
	assert_int_equal(take(f.client, &completion, 1, 0), 0);
	assert_int_equal(take(f.client, &completion, 1, 5), 0);
	fixture_close(&f);
	free(blocks);
	free(keys);
}

/* Only poll() on the descriptor and kvc_client_next(0), as an event loop does. */
static void test_event_loop(void **state)
{
	enum { COUNT = 1000, DEPTH = 16 };
	struct kvc_block blocks[DEPTH];
	uint64_t keys[DEPTH];
	struct kvc_completion completion;
	struct kvc_transfer transfer;
	struct pollfd polled = {.events = POLLIN};
	struct fixture f;
	size_t submitted = 0;
	size_t idle = 0;

	(void)state;
	fixture_open(&f, NULL);
	kvc_transfer_init(&transfer, f.memory);
	fixture_fill(f.memory, DEPTH, 0);
	fixture_blocks(blocks, keys, DEPTH, 0);
	polled.fd = kvc_client_fd(f.client);
	assert_true(polled.fd >= 0);
	assert_int_equal(poll(&polled, 1, 0), 0);
	for (; submitted < DEPTH; submitted++)
		assert_ok(kvc_put_submit(f.ns, &transfer, &blocks[submitted], 1, &blocks[submitted]));
	for (size_t completed = 0; completed < COUNT;) {
		size_t n;

		assert_int_equal(poll(&polled, 1, 10000), 1);
		n = take(f.client, &completion, 1, 0);
		idle += n == 0;
		completed += n;
		if (n == 0)
			continue;
		assert_int_equal(completion.status, KVC_OK);
		if (submitted++ < COUNT)
			assert_ok(kvc_get_submit(f.ns, &transfer, completion.tag, 1, completion.tag));
	}
	assert_int_equal(take(f.client, &completion, 1, 0), 0);
	assert_int_equal(poll(&polled, 1, 0), 0); /* nothing to do: not readable */
	assert_true(idle < COUNT / 2);
	fixture_expect(f.memory, DEPTH, 0);
	fixture_close(&f);
}

/* A sync call of another thread reads the answer to an async one: the descriptor must tell. */
static void test_event_loop_beside_sync(void **state)
{
	struct kvc_completion completion;
	struct pollfd polled = {.events = POLLIN};
	struct kvc_key key = {"x", 1};
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	polled.fd = kvc_client_fd(f.client);
	for (unsigned i = 0; i < 100; i++) {
		assert_ok(kvc_lookup_submit(f.ns, &key, 1, 0, NULL, &key));
		assert_ok(kvc_ping(f.client, 0)); /* its answer comes behind, so the first is read too */
		assert_int_equal(poll(&polled, 1, 0), 1);
		assert_int_equal(take(f.client, &completion, 1, 0), 1);
		assert_ptr_equal(completion.tag, &key);
		assert_int_equal(take(f.client, &completion, 1, 0), 0);
		assert_int_equal(poll(&polled, 1, 0), 0);
	}
	fixture_close(&f);
}

/* What is pending is cancelled, and all is freed though nothing was closed. */
static void test_destroy_with_pending(void **state)
{
	struct kvc_transfer transfer;
	struct kvc_block blocks[3];
	struct kvc_key key = {"x", 1};
	struct fixture f;
	uint64_t keys[3];

	(void)state;
	fixture_open(&f, NULL);
	fixture_blocks(blocks, keys, 3, 0);
	kvc_transfer_init(&transfer, f.memory);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD});
	assert_ok(kvc_put_submit(f.ns, &transfer, blocks, 2, NULL));
	assert_ok(kvc_lookup_submit(f.ns, &key, 1, 0, NULL, NULL));
	assert_ok(kvc_ping(f.client, 0)); /* the look-up is complete, and never taken */
	assert_ok(kvc_put_submit(f.ns, &transfer, &blocks[2], 1, NULL));
	kvc_client_destroy(f.client);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(blocks[i].status, KVC_CANCELLED);
	f.client = NULL;
	f.ns = NULL;
	f.memory = NULL;
	fixture_close(&f);
}

/* Memory goes when the last request on it is complete: by its deadline, or earlier. */
static void test_destroy_used_memory(void **state)
{
	struct kvc_completion completion;
	struct kvc_transfer transfer;
	struct kvc_block block;
	struct fixture f;
	uint64_t key;

	(void)state;
	fixture_open(&f, NULL);
	fixture_blocks(&block, &key, 1, 0);
	kvc_transfer_init(&transfer, f.memory);
	assert_ok(kvc_get_submit(f.ns, &transfer, &block, 1, &block));
	kvc_memory_destroy(f.memory); /* drives the connection itself */
	assert_int_equal(block.status, KVC_MISS);
	assert_int_equal(take(f.client, &completion, 1, 0), 1);
	assert_ok(kvc_memory_create(f.client, FIXTURE_BLOCK, &f.memory));
	kvc_transfer_init(&transfer, f.memory);
	transfer.deadline_ms = 20;
	fake_daemon_rule(f.daemon, KVC_VERB_GET, (struct fake_rule){.action = FAKE_HOLD});
	assert_ok(kvc_get_submit(f.ns, &transfer, &block, 1, &block));
	kvc_memory_destroy(f.memory);
	assert_int_equal(block.status, KVC_DEADLINE);
	f.memory = NULL;
	fixture_close(&f);
}

/* ---- threads ------------------------------------------------------------------------------- */

enum { THREADS = 8, ROUNDS = 300 };

struct worker {
	struct fixture *f;
	unsigned number;
	kvc_status status;
	pthread_t thread;
};

static kvc_status sync_round(const struct worker *worker, struct kvc_memory *memory, uint64_t key)
{
	struct kvc_block block;
	struct kvc_transfer transfer;
	struct kvc_key one = {&key, sizeof(key)};
	kvc_status status;
	uint8_t tier;
	size_t prefix;

	kvc_transfer_init(&transfer, memory);
	fixture_blocks(&block, &key, 1, key);
	fixture_fill(memory, 1, key);
	status = kvc_put(worker->f->ns, &transfer, &block, 1, NULL);
	if (status == KVC_OK)
		status = kvc_lookup(worker->f->ns, &one, 1, 0, &prefix, &tier);
	if (status == KVC_OK && (prefix != 1 || tier != KVC_TIER_RAM))
		status = KVC_INTERNAL;
	memset(kvc_memory_data(memory), 0, FIXTURE_BLOCK);
	if (status == KVC_OK)
		status = kvc_get(worker->f->ns, &transfer, &block, 1, NULL);
	for (size_t i = 0; status == KVC_OK && i < FIXTURE_BLOCK; i++) {
		if (((uint8_t *)kvc_memory_data(memory))[i] != fixture_byte(key, i))
			status = KVC_CORRUPT;
	}
	return status;
}

static void *sync_worker(void *data)
{
	struct worker *worker = data;
	struct kvc_memory *memory;

	worker->status = kvc_memory_create(worker->f->client, FIXTURE_BLOCK, &memory);
	for (uint64_t i = 0; worker->status == KVC_OK && i < ROUNDS; i++)
		worker->status = sync_round(worker, memory, worker->number * 1000u + i);
	kvc_memory_destroy(memory);
	return NULL;
}

/* Several threads submit and take: a thread takes as many as it has submitted, whoever's they are. */
static void *async_worker(void *data)
{
	struct worker *worker = data;
	struct kvc_completion completions[8];
	struct kvc_key key = {"absent", 6};
	size_t pending = 0;

	for (size_t i = 0; i < ROUNDS * 3 || pending > 0;) {
		size_t taken = 0;

		for (; i < ROUNDS * 3 && pending < 8; i++, pending++) {
			worker->status = kvc_lookup_submit(worker->f->ns, &key, 1, 0, NULL, &key);
			if (worker->status != KVC_OK)
				return NULL;
		}
		worker->status = kvc_client_next(worker->f->client, completions, pending, 20000, &taken);
		if (worker->status != KVC_OK || taken == 0)
			return NULL;
		pending -= taken;
	}
	return NULL;
}

static void test_threads(void **state)
{
	struct worker workers[THREADS];
	struct fixture f;

	(void)state;
	fixture_open(&f, NULL);
	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.f = &f, .number = i, .status = KVC_OK};
		assert_int_equal(pthread_create(&workers[i].thread, NULL,
		                                i % 4 == 3 ? async_worker : sync_worker, &workers[i]),
		                 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
		expect_status(workers[i].status, KVC_OK, "worker");
	}
	fixture_close(&f);
}

static void test_fork(void **state)
{
	struct fixture f;
	int result = -1;
	pid_t child;

	(void)state;
	fixture_open(&f, NULL);
	assert_ok(fixture_put(&f, 1, 0, 0));
	child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		kvc_status ping = kvc_ping(f.client, 0);
		kvc_status put = fixture_put(&f, 1, 1, 0);

		kvc_client_destroy(
		        f.client); /* frees the child's copies and leaves the parent's connection alone */
		_exit(ping == KVC_INVALID && put == KVC_INVALID ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &result, 0), child);
	assert_int_equal(result, 0);
	assert_ok(fixture_get(&f, 1, 0, 0));
	assert_int_equal(fake_daemon_connections(f.daemon), 1);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_about_the_daemon),
	        cmocka_unit_test(test_round_trip),
	        cmocka_unit_test(test_layout),
	        cmocka_unit_test(test_inline),
	        cmocka_unit_test(test_inline_too_large),
	        cmocka_unit_test(test_keys),
	        cmocka_unit_test(test_split),
	        cmocka_unit_test(test_bad_blocks),
	        cmocka_unit_test(test_bad_clients),
	        cmocka_unit_test(test_bad_namespaces),
	        cmocka_unit_test(test_import_of_what_cannot_be_written),
	        cmocka_unit_test(test_import),
	        cmocka_unit_test(test_memory_life),
	        cmocka_unit_test(test_deep),
	        cmocka_unit_test(test_bad_submits),
	        cmocka_unit_test(test_event_loop),
	        cmocka_unit_test(test_event_loop_beside_sync),
	        cmocka_unit_test(test_destroy_with_pending),
	        cmocka_unit_test(test_destroy_used_memory),
	        cmocka_unit_test(test_threads),
	        cmocka_unit_test(test_fork),
	};

	return cmocka_run_group_tests_name("client", tests, NULL, NULL);
}
