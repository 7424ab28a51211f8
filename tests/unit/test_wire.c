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
		assert_int_equal(kvcc_wire_keys(UINT32_MAX, UINT32_MAX, keys, fit, &frame), KVC_OK);
		assert_true(fit == MOST || frame.length > KVC_FRAME_BODY_MAX - 100);
	}
	kvcc_free(frame.bytes);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_fit),
	        cmocka_unit_test(test_put_to_drop),
	};

	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
