/* The client's encoders: what fits a frame, and what becomes of a put that came too late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client/alloc.h"
#include "client/wire.h"
#include "proto/kvcellar.pb-c.h"

enum { MOST = 3000 };

static uint8_t bytes[MOST][KVC_KEY_BYTES_MAX];
static struct kvc_block blocks[MOST];
static struct kvc_key keys[MOST];

/* Keys of any length, offsets of any size: all lengths of varints. */
static void fill(void)
{
	for (size_t i = 0; i < MOST; i++) {
		for (size_t at = 0; at < KVC_KEY_BYTES_MAX; at++)
			bytes[i][at] = (uint8_t)rand();
		keys[i] = (struct kvc_key){bytes[i], (size_t)rand() % KVC_KEY_BYTES_MAX + 1};
		blocks[i] = (struct kvc_block){
		        .key = bytes[i],
		        .key_bytes = keys[i].bytes,
		        .parent = rand() % 2 ? bytes[0] : NULL,
		        .parent_bytes = (size_t)rand() % KVC_KEY_BYTES_MAX + 1,
		        .tokens = (uint32_t)rand() % 4096 + 1,
		        .key_offset = (uint64_t)rand() << (rand() % 33),
		        .value_offset = (uint64_t)rand() << (rand() % 33),
		};
	}
}

static struct kvcc_wire_blocks request_of(uint16_t verb, const struct kvc_transfer *transfer)
{
	return (struct kvcc_wire_blocks){
	        .verb = verb,
	        .ns = UINT32_MAX,
	        .deadline_ms = UINT32_MAX,
	        .expires_ns = rand() % 2 ? UINT64_MAX : 0,
	        .region = rand() % 2 ? UINT32_MAX : 0,
	        .transfer = transfer,
	        .blocks = blocks,
	        .count = MOST,
	};
}

static unsigned seeded(void)
{
	unsigned seed = (unsigned)time(NULL);

	print_message("seed %u\n", seed);
	srand(seed);
	return seed;
}

/* What is said to fit does, and not much more would. */
static void test_fit(void **state)
{
	struct kvcc_buffer frame = {NULL, 0, 0};
	struct kvc_transfer transfer;

	(void)state;
	(void)seeded();
	kvc_transfer_init(&transfer, NULL);
	transfer.key_layout = (struct kvc_layout){INT64_MIN, INT64_MAX, -1};
	transfer.value_layout = transfer.key_layout;
	transfer.ttl_ms = UINT32_MAX;
	transfer.priority = KVC_PUT_HIGH;
	transfer.ephemeral = 1;
	for (unsigned round = 0; round < 50; round++) {
		struct kvcc_wire_blocks request =
		        request_of(round % 2 ? KVC_VERB_PUT : KVC_VERB_GET, &transfer);
		size_t fit;

		fill();
		fit = kvcc_wire_blocks_fit(&request);
		assert_in_range(fit, 300, MOST);
		request.count = fit;
		assert_int_equal(kvcc_wire_blocks(&request, &frame), KVC_OK);
		assert_true(frame.length <= KVC_FRAME_HEADER_BYTES + KVC_FRAME_BODY_MAX);
		assert_true(fit == MOST || frame.length > KVC_FRAME_BODY_MAX - 500);
		request.count = fit + 10 < MOST ? fit + 10 : MOST;
		if (fit + 10 <= MOST)
			assert_int_equal(kvcc_wire_blocks(&request, &frame), KVC_LIMIT);
		fit = kvcc_wire_keys_fit(keys, MOST);
		assert_int_equal(
		        kvcc_wire_keys(&(struct kvcc_wire_keys){UINT32_MAX, UINT32_MAX, true, keys, fit},
		                       &frame),
		        KVC_OK);
		assert_true(fit == MOST || frame.length > KVC_FRAME_BODY_MAX - 100);
	}
	kvcc_free(frame.bytes);
}

static void hints_packed(const struct kvc_transfer *transfer, bool expected)
{
	struct kvcc_wire_blocks request = request_of(KVC_VERB_PUT, transfer);
	struct kvcc_buffer frame = {NULL, 0, 0};
	Kvcellar__Put *put;

	request.count = 1;
	assert_int_equal(kvcc_wire_blocks(&request, &frame), KVC_OK);
	put = kvcellar__put__unpack(NULL, frame.length - KVC_FRAME_HEADER_BYTES,
	                            frame.bytes + KVC_FRAME_HEADER_BYTES);
	assert_non_null(put);
	assert_true(!put->hints == !expected);
	if (put->hints) {
		assert_int_equal(put->hints->ttl_ms, transfer->ttl_ms);
		assert_int_equal(put->hints->priority, transfer->priority);
		assert_int_equal(put->hints->ephemeral, transfer->ephemeral);
	}
	kvcellar__put__free_unpacked(put, NULL);
	kvcc_free(frame.bytes);
}

/* What says nothing is not sent. */
static void test_hints(void **state)
{
	struct kvc_transfer transfer;

	(void)state;
	(void)seeded();
	fill();
	kvc_transfer_init(&transfer, NULL);
	hints_packed(&transfer, false);
	transfer.ttl_ms = 1;
	hints_packed(&transfer, true);
	transfer.ttl_ms = 0;
	transfer.ephemeral = 1;
	hints_packed(&transfer, true);
	transfer.ephemeral = 0;
	transfer.priority = KVC_PUT_LOW;
	hints_packed(&transfer, true);
	transfer.priority = KVC_PUT_HIGH;
	hints_packed(&transfer, true);
}

static void check_drop(const struct kvcc_buffer *frame, const uint32_t *statuses, size_t count, size_t kept)
{
	Kvcellar__Keys *drop = kvcellar__keys__unpack(NULL, frame->length - KVC_FRAME_HEADER_BYTES,
	                                              frame->bytes + KVC_FRAME_HEADER_BYTES);
	size_t next = 0;

	assert_non_null(drop);
	assert_int_equal(drop->namespace_, UINT32_MAX);
	assert_int_equal(drop->deadline_ms, 0);
	assert_int_equal(drop->n_keys, kept);
	for (size_t i = 0; i < count; i++) {
		if (statuses && statuses[i] != KVC_OK)
			continue;
		assert_int_equal(drop->keys[next].len, blocks[i].key_bytes);
		assert_memory_equal(drop->keys[next].data, blocks[i].key, blocks[i].key_bytes);
		next++;
	}
	assert_int_equal(next, kept);
	kvcellar__keys__free_unpacked(drop, NULL);
}

static void test_put_to_drop(void **state)
{
	uint32_t statuses[MOST];
	struct kvcc_buffer frame = {NULL, 0, 0};
	struct kvc_transfer transfer;

	(void)state;
	(void)seeded();
	kvc_transfer_init(&transfer, NULL);
	transfer.key_layout.token_stride = -12345678;
	for (unsigned round = 0; round < 200; round++) {
		struct kvcc_wire_blocks request = request_of(KVC_VERB_PUT, &transfer);
		bool all = rand() % 4 == 0;
		size_t expected = 0;
		size_t kept;

		fill();
		request.count = (size_t)rand() % (round % 2 ? 400 : 4) + 1;
		for (size_t i = 0; i < request.count; i++) {
			statuses[i] = (uint32_t)(rand() % 3);
			expected += all || statuses[i] == KVC_OK;
		}
		assert_int_equal(kvcc_wire_blocks(&request, &frame), KVC_OK);
		kept = kvcc_wire_put_to_drop(&frame, all ? NULL : statuses, request.count);
		assert_int_equal(kept, expected);
		check_drop(&frame, all ? NULL : statuses, request.count, kept);
	}
	kvcc_free(frame.bytes);
}

/* ---- replies ------------------------------------------------------------------------------- */

/* A reply of so many statistics. */
static size_t build_stats(size_t count, size_t name_bytes, uint8_t *out)
{
	Kvcellar__StatsReply reply;
	Kvcellar__Stat *stats = calloc(count, sizeof(*stats));
	Kvcellar__Stat **pointers = calloc(count, sizeof(*pointers));
	char name[100];
	size_t length;

	memset(name, 'n', sizeof(name));
	name[name_bytes] = '\0';
	kvcellar__stats_reply__init(&reply);
	for (size_t i = 0; i < count; i++) {
		kvcellar__stat__init(&stats[i]);
		stats[i].name = name;
		stats[i].value = (double)i;
		pointers[i] = &stats[i];
	}
	reply.stats = pointers;
	reply.n_stats = count;
	length = kvcellar__stats_reply__get_packed_size(&reply);
	assert_true(length <= KVC_FRAME_BODY_MAX);
	(void)kvcellar__stats_reply__pack(&reply, out);
	free(stats);
	free(pointers);
	return length;
}

static kvc_status decode_stats(const uint8_t *body, size_t length, struct kvcc_reply *reply, const char **why)
{
	static struct kvcc_arena arena;
	const struct kvcc_expected expected = {.verb = KVC_VERB_STATS};
	kvc_status status;

	kvcc_arena_init(&arena);
	status = kvcc_reply_decode(&expected, KVC_OK, body, length, &arena, reply, why);
	assert_true(arena.total <= KVCC_ARENA_BYTES_MAX);
	kvcc_arena_reset(&arena);
	return status;
}

static void test_large_stats(void **state)
{
	static uint8_t body[KVC_FRAME_BODY_MAX];
	size_t length = build_stats(700, 70, body);
	struct kvcc_reply reply;
	const char *why;

	(void)state;
	assert_int_equal(decode_stats(body, length, &reply, &why), KVC_OK);
	assert_int_equal(reply.stats.count, 701);
	assert_int_equal(strlen(reply.stats.stats[700].name), 63); /* cut to what the struct holds */
	kvc_stats_free(reply.stats.stats);
}

/* A frame full of empty entries would need 48 times its size: refused, not allocated. */
static void test_empty_entries(void **state)
{
	static uint8_t body[KVC_FRAME_BODY_MAX];
	struct kvcc_reply reply;
	const char *why = NULL;

	(void)state;
	for (size_t i = 0; i + 2 <= sizeof(body); i += 2)
		body[i] = 3 << 3 | 2;
	assert_int_equal(decode_stats(body, sizeof(body), &reply, &why), KVC_BAD_MESSAGE);
	assert_non_null(why);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_fit),           cmocka_unit_test(test_hints),
	        cmocka_unit_test(test_put_to_drop),   cmocka_unit_test(test_large_stats),
	        cmocka_unit_test(test_empty_entries),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
