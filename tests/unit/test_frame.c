/* The frame header and the reassembly of frames from a stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "client/stream.h"
#include "proto/frame.h"

static const struct kvc_frame good = {
        .verb = KVC_VERB_GET,
        .flags = KVC_FRAME_REPLY,
        .body_bytes = 0x1234,
        .status = 7,
        .request_id = 0x1122334455667788u,
        .payload_bytes = 0x99AABBCCDDEEFF01u,
};

static void assert_same(const struct kvc_frame *a, const struct kvc_frame *b)
{
	assert_int_equal(a->verb, b->verb);
	assert_int_equal(a->flags, b->flags);
	assert_int_equal(a->body_bytes, b->body_bytes);
	assert_int_equal(a->status, b->status);
	assert_true(a->request_id == b->request_id);
	assert_true(a->payload_bytes == b->payload_bytes);
}

static void test_layout(void **state)
{
	static const uint8_t expected[KVC_FRAME_HEADER_BYTES] = {
	        'K',  'V',  'C',  'F',  8,    0,    1,    0,    0x34, 0x12, 0,
	        0,    7,    0,    0,    0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
	        0x22, 0x11, 0x01, 0xFF, 0xEE, 0xDD, 0xCC, 0xBB, 0xAA, 0x99,
	};
	uint8_t bytes[KVC_FRAME_HEADER_BYTES];
	struct kvc_frame back;

	(void)state;
	kvc_frame_encode(&good, bytes);
	assert_memory_equal(bytes, expected, sizeof(bytes));
	assert_int_equal(kvc_frame_decode(bytes, &back, NULL), KVC_OK);
	assert_same(&back, &good);
}

static void test_lengths(void **state)
{
	static const struct {
		uint32_t body;
		kvc_status expected;
	} rows[] = {
	        {0, KVC_OK},
	        {1, KVC_OK},
	        {KVC_FRAME_BODY_MAX - 1, KVC_OK},
	        {KVC_FRAME_BODY_MAX, KVC_OK},
	        {KVC_FRAME_BODY_MAX + 1, KVC_LIMIT},
	        {0x7FFFFFFFu, KVC_LIMIT},
	        {0xFFFFFFFFu, KVC_LIMIT},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct kvc_frame frame = good;
		struct kvc_frame back = {.verb = 99};
		uint8_t bytes[KVC_FRAME_HEADER_BYTES];
		const char *why = NULL;

		frame.body_bytes = rows[i].body;
		frame.payload_bytes = UINT64_MAX; /* the caller's to judge */
		kvc_frame_encode(&frame, bytes);
		assert_int_equal(kvc_frame_decode(bytes, &back, &why), rows[i].expected);
		if (rows[i].expected == KVC_OK)
			assert_same(&back, &frame);
		else
			assert_int_equal(back.verb, 99);
		assert_true((why != NULL) == (rows[i].expected != KVC_OK));
	}
}

static void test_refused(void **state)
{
	struct kvc_frame rows[] = {good, good, good, good};
	uint8_t bytes[KVC_FRAME_HEADER_BYTES];
	struct kvc_frame back;

	(void)state;
	rows[0].verb = KVC_VERB_UNSET;
	rows[1].verb = KVC_VERB_COUNT;
	rows[2].flags = 4;
	rows[3].request_id = 0;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		kvc_frame_encode(&rows[i], bytes);
		assert_int_equal(kvc_frame_decode(bytes, &back, NULL), KVC_BAD_MESSAGE);
	}
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(kvc_frame_decode(bytes, &back, NULL), KVC_BAD_MESSAGE);
	memcpy(bytes, "GET / HTTP/1.1\r\nHost: localhost\r", sizeof(bytes));
	assert_int_equal(kvc_frame_decode(bytes, &back, NULL), KVC_BAD_MESSAGE);
}

/* Each bit of the header, flipped: refused, or read back as what the flipped bits say. */
static void test_every_bit(void **state)
{
	uint8_t original[KVC_FRAME_HEADER_BYTES];
	unsigned refused = 0;

	(void)state;
	kvc_frame_encode(&good, original);
	for (unsigned bit = 0; bit < 8 * KVC_FRAME_HEADER_BYTES; bit++) {
		uint8_t bytes[KVC_FRAME_HEADER_BYTES];
		uint8_t again[KVC_FRAME_HEADER_BYTES];
		struct kvc_frame frame;

		memcpy(bytes, original, sizeof(bytes));
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (kvc_frame_decode(bytes, &frame, NULL) != KVC_OK) {
			refused++;
			continue;
		}
		assert_true(bit >= 32); /* no bit of the magic is free */
		kvc_frame_encode(&frame, again);
		assert_memory_equal(again, bytes, sizeof(bytes));
	}
	assert_true(refused > 32 + 14 + 14);
}

static void test_names(void **state)
{
	(void)state;
	for (uint16_t verb = 1; verb < KVC_VERB_COUNT; verb++)
		assert_string_not_equal(kvc_verb_name(verb), "?");
	assert_string_equal(kvc_verb_name(KVC_VERB_PUT), "put");
	assert_string_equal(kvc_verb_name(KVC_VERB_UNSET), "?");
	assert_string_equal(kvc_verb_name(KVC_VERB_COUNT), "?");
	assert_string_equal(kvc_verb_name(65535), "?");
}

/* ---- stream -------------------------------------------------------------------------------- */

enum { FRAMES = 200, PAYLOAD_MAX = 300000 };

/* Contents that follow from frame and position, so that nothing need be kept. */
static uint8_t content(size_t frame, size_t at)
{
	return (uint8_t)((frame + 1) * 131 + at * 7);
}

static size_t build(size_t frame, const struct kvc_frame *header, uint8_t *out)
{
	size_t length = header->body_bytes + (size_t)header->payload_bytes;

	kvc_frame_encode(header, out);
	for (size_t i = 0; i < length; i++)
		out[KVC_FRAME_HEADER_BYTES + i] = content(frame, i);
	return KVC_FRAME_HEADER_BYTES + length;
}

static struct kvc_frame random_frame(size_t frame, unsigned seed)
{
	unsigned r = (unsigned)(frame * 2654435761u) ^ seed;

	return (struct kvc_frame){
	        .verb = KVC_VERB_GET,
	        .flags = KVC_FRAME_REPLY,
	        .body_bytes = r % 5 == 0   ? KVC_FRAME_BODY_MAX
	                      : r % 3 == 0 ? 0
	                                   : r % 700,
	        .request_id = frame + 1,
	        .payload_bytes = r % 7 == 0 ? PAYLOAD_MAX
	                         : r % 2    ? 0
	                                    : r % 1000,
	};
}

/* Takes all events there are; returns the number of the frame reached and checks what is in it. */
static void drain(struct kvcc_stream *stream, size_t *frame, size_t *at)
{
	const uint8_t *bytes = NULL;
	size_t length = 0;
	const char *why = NULL;

	for (;;) {
		enum kvcc_stream_event event = kvcc_stream_next(stream, &bytes, &length, &why);

		assert_int_not_equal(event, KVCC_STREAM_BAD);
		if (event == KVCC_STREAM_MORE)
			return;
		if (event == KVCC_STREAM_FRAME) {
			assert_int_equal(stream->frame.request_id, *frame + 1);
			assert_int_equal(length, stream->frame.body_bytes);
			*at = 0;
		}
		for (size_t i = 0; i < length; i++) {
			if (bytes[i] != content(*frame, *at + i))
				fail_msg("frame %zu: wrong byte %zu", *frame, *at + i);
		}
		*at += length;
		*frame += stream->payload_left == 0;
	}
}

static void test_stream(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t *all = malloc(FRAMES * (KVC_FRAME_HEADER_BYTES + KVC_FRAME_BODY_MAX + PAYLOAD_MAX));
	uint8_t *buffer = malloc(KVCC_STREAM_BYTES);
	struct kvcc_stream stream;
	size_t total = 0;
	size_t frame = 0;
	size_t at = 0;

	(void)state;
	print_message("seed %u\n", seed);
	for (size_t i = 0; i < FRAMES; i++) {
		struct kvc_frame header = random_frame(i, seed);

		total += build(i, &header, all + total);
	}
	kvcc_stream_init(&stream, buffer, PAYLOAD_MAX);
	srand(seed);
	for (size_t sent = 0; sent < total;) {
		size_t most;
		uint8_t *space = kvcc_stream_space(&stream, &most);
		size_t n = (size_t)rand() % (rand() % 4 ? 100 : KVCC_STREAM_BYTES) + 1;

		assert_true(most > 0);
		n = n < most ? n : most;
		n = n < total - sent ? n : total - sent;
		memcpy(space, all + sent, n);
		kvcc_stream_received(&stream, n);
		sent += n;
		drain(&stream, &frame, &at);
	}
	assert_int_equal(frame, FRAMES);
	free(all);
	free(buffer);
}

static void test_stream_refuses(void **state)
{
	struct kvc_frame frame = good;
	uint8_t *buffer = malloc(KVCC_STREAM_BYTES);
	struct kvcc_stream stream;
	const uint8_t *bytes;
	const char *why = NULL;
	size_t length;

	(void)state;
	frame.body_bytes = 0;
	frame.payload_bytes = 11;
	kvcc_stream_init(&stream, buffer, 10);
	kvc_frame_encode(&frame, kvcc_stream_space(&stream, &length));
	kvcc_stream_received(&stream, KVC_FRAME_HEADER_BYTES);
	assert_int_equal(kvcc_stream_next(&stream, &bytes, &length, &why), KVCC_STREAM_BAD);
	assert_non_null(strstr(why, "payload"));
	kvcc_stream_init(&stream, buffer, 11);
	kvcc_stream_received(&stream, KVC_FRAME_HEADER_BYTES);
	assert_int_equal(kvcc_stream_next(&stream, &bytes, &length, &why), KVCC_STREAM_FRAME);
	kvcc_stream_init(&stream, buffer, 11);
	buffer[0] = 'X';
	kvcc_stream_received(&stream, KVC_FRAME_HEADER_BYTES - 1);
	assert_int_equal(kvcc_stream_next(&stream, &bytes, &length, &why), KVCC_STREAM_MORE);
	kvcc_stream_received(&stream, 1);
	assert_int_equal(kvcc_stream_next(&stream, &bytes, &length, &why), KVCC_STREAM_BAD);
	free(buffer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_layout),         cmocka_unit_test(test_lengths),
	        cmocka_unit_test(test_refused),        cmocka_unit_test(test_every_bit),
	        cmocka_unit_test(test_names),          cmocka_unit_test(test_stream),
	        cmocka_unit_test(test_stream_refuses),
	};

	return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
