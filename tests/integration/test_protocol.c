/* Malformed input against the real daemon. The names of the tests are
 * rows of the fault sheet; each asserts the answer, the one counter that grew, that others are served, and
 * that no descriptor stayed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/protocol_fixture.h"
#include "tests/support/row.h"

/* Send a frame with these bytes as body; status of its reply. */
static kvc_status call_raw(int fd, enum kvc_verb verb, const void *body, size_t bytes,
                           struct kvc_test_reply *reply)
{
	struct kvc_frame frame = {.verb = (uint16_t)verb, .request_id = 77, .body_bytes = (uint32_t)bytes};
	uint8_t header[KVC_FRAME_HEADER_BYTES];

	kvc_frame_encode(&frame, header);
	if (!kvc_test_send(fd, header, sizeof header) || !kvc_test_send(fd, body, bytes) ||
	    kvc_test_receive(fd, reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	return (kvc_status)reply->frame.status;
}

/* ---- D7: something else than our protocol -------------------------------------------------- */

static void drop_within_one_frame(const void *bytes, size_t count)
{
	int fd = kvc_test_connect(kvc_test_now.socket);

	assert_true(fd >= 0);
	kvc_test_send(fd, bytes, count); /* may end in EPIPE half-way: that is the point */
	kvc_test_assert_eof(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.bad_frame", 1));
}

static void test_d7_foreign_protocols(void **state)
{
	static const uint8_t tls_hello[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03};
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	static uint8_t zeros[1 << 20];

	(void)state;
	KVC_ROW("D7");
	drop_within_one_frame(http, sizeof http - 1);
	drop_within_one_frame(tls_hello, sizeof tls_hello);
	drop_within_one_frame(zeros, sizeof zeros);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d7_random_bytes(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t bytes[4096];

	(void)state;
	KVC_ROW("D7");
	print_message("seed %u\n", seed);
	srand(seed);
	for (int round = 0; round < 50; round++) {
		size_t count = 8 + (size_t)rand() % (sizeof bytes - 8);

		for (size_t i = 0; i < count; i++)
			bytes[i] = (uint8_t)rand();
		bytes[0] = 0; /* surely no magic */
		drop_within_one_frame(bytes, count);
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* A right magic with random bytes behind it: dropped or refused, never more. */
static void test_d7_random_headers(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t bytes[KVC_FRAME_HEADER_BYTES] = {'K', 'V', 'C', 'F'};

	(void)state;
	KVC_ROW("D7");
	print_message("seed %u\n", seed);
	srand(seed);
	for (int round = 0; round < 500; round++) {
		int fd = kvc_test_client_now();

		for (size_t i = 4; i < sizeof bytes; i++)
			bytes[i] = rand() % 3 ? 0 : (uint8_t)rand();
		assert_true(kvc_test_send(fd, bytes, sizeof bytes));
		close(fd);
		kvc_row.injected++;
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D8: lengths --------------------------------------------------------------------------- */

/* A ping body of that length: one unknown field that fills it. */
static size_t filler(uint8_t *body, size_t bytes)
{
	size_t content = bytes - 4;

	memset(body, 0, bytes);
	body[0] = 0x7A; /* field 15, bytes */
	body[1] = (uint8_t)(0x80 | (content & 0x7F));
	body[2] = (uint8_t)(0x80 | (content >> 7 & 0x7F));
	body[3] = (uint8_t)(content >> 14);
	return bytes;
}

static void test_d8_body_lengths(void **state)
{
	static const uint64_t over[] = {KVC_FRAME_BODY_MAX + 1, INT32_MAX, UINT32_MAX};
	static uint8_t body[KVC_FRAME_BODY_MAX];
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("D8");
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, 0, &reply), KVC_OK);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, 1, &reply), KVC_BAD_MESSAGE);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.BAD_MESSAGE", 1));
	filler(body, KVC_FRAME_BODY_MAX - 1);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, KVC_FRAME_BODY_MAX - 1, &reply), KVC_OK);
	filler(body, KVC_FRAME_BODY_MAX);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, KVC_FRAME_BODY_MAX, &reply), KVC_OK);
	close(fd);
	for (size_t i = 0; i < sizeof over / sizeof over[0]; i++) {
		struct kvc_frame frame = {
		        .verb = KVC_VERB_PING, .request_id = 1, .body_bytes = (uint32_t)over[i]};
		uint8_t header[KVC_FRAME_HEADER_BYTES];

		fd = kvc_test_client_now();
		kvc_frame_encode(&frame, header);
		assert_true(kvc_test_send(fd, header, sizeof header));
		kvc_test_assert_eof(fd);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.dropped.bad_frame", 1));
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d8_payload_lengths(void **state)
{
	static const uint64_t over[] = {(1u << 20) + 1, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};

	(void)state;
	KVC_ROW("D8");
	for (size_t i = 0; i < sizeof over / sizeof over[0]; i++) {
		struct kvc_frame frame = {.verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = over[i]};
		uint8_t header[KVC_FRAME_HEADER_BYTES];
		struct kvc_test_reply reply;
		int fd = kvc_test_client_now();

		kvc_frame_encode(&frame, header);
		assert_true(kvc_test_send(fd, header, sizeof header));
		assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
		assert_int_equal(reply.frame.status, KVC_LIMIT);
		kvc_test_assert_eof(fd);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.LIMIT", 1));
	}
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* A payload of a refused request is read away: the next frame is understood. */
static void test_d8_payload_of_refused_request_is_skipped(void **state)
{
	static uint8_t payload[100000];
	struct kvc_frame frame = {.verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = sizeof payload};
	uint8_t header[KVC_FRAME_HEADER_BYTES];
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	kvc_frame_encode(&frame, header);
	assert_true(kvc_test_send(fd, header, sizeof header));
	assert_true(kvc_test_send(fd, payload, sizeof payload));
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_INVALID);
	kvc_test_assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.INVALID", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D9: malformed messages ---------------------------------------------------------------- */

struct malformed {
	const char *what;
	uint8_t bytes[12];
	size_t count;
};

static void test_d9_malformed_messages(void **state)
{
	static const struct malformed cases[] = {
	        {"truncated varint", {0x08, 0xFF}, 2},
	        {"varint over 64 bits",
	         {0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1},
	         12},
	        {"tag 0", {0x00, 0x00}, 2},
	        {"wrong wire type of a known field", {0x0A, 0x01, 0x00}, 3},
	        {"string longer than the message", {0x1A, 0x7F, 0x00}, 3},
	        {"string length 2^32-1", {0x1A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}, 6},
	        {"group", {0x0B, 0x0C}, 2},
	        {"wire type 7", {0x0F, 0x00}, 2},
	};
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("D9");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		print_message("%s\n", cases[i].what);
		assert_int_equal(call_raw(fd, KVC_VERB_LOOKUP, cases[i].bytes, cases[i].count, &reply),
		                 KVC_BAD_MESSAGE);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.BAD_MESSAGE", 1));
	}
	kvc_test_assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* Messages in messages, as deep as a frame allows: each level a field 8 (blocks) or 12 (codec) with the rest
 * of the frame as its content; and groups, which nest without lengths. */
static size_t nested(uint8_t *body, size_t room, uint8_t tag)
{
	size_t used = 0;

	while (used + 4 < room) {
		size_t rest = room - used - 4;

		body[used++] = tag;
		body[used++] = (uint8_t)(0x80 | (rest & 0x7F));
		body[used++] = (uint8_t)(0x80 | (rest >> 7 & 0x7F));
		body[used++] = (uint8_t)(rest >> 14);
	}
	return used;
}

static void test_c9_nested_messages(void **state)
{
	static const uint8_t tags[] = {0x42, 0x3A, 0x62, 0x2A, 0x22, 0x0A, 0x7A};
	static uint8_t body[KVC_FRAME_BODY_MAX];
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("C9");
	for (uint16_t verb = KVC_VERB_OPEN; verb < KVC_VERB_COUNT; verb++) {
		if (verb == KVC_VERB_ATTACH)
			continue; /* comes with a descriptor */
		for (size_t i = 0; i < sizeof tags; i++) {
			size_t bytes = nested(body, sizeof body - 64, tags[i]);

			assert_int_not_equal(call_raw(fd, (enum kvc_verb)verb, body, bytes, &reply),
			                     KVC_DISCONNECTED);
			free(reply.payload);
			kvc_row.injected++;
		}
		memset(body, 0x0B, sizeof body);
		assert_int_not_equal(call_raw(fd, (enum kvc_verb)verb, body, sizeof body, &reply), KVC_OK);
		free(reply.payload);
		kvc_row.injected++;
	}
	kvc_test_assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* 32 K empty blocks in 64 KiB: over the batch limit; what they unpack to is bounded. */
static void test_d9_many_empty_entries(void **state)
{
	static uint8_t body[KVC_FRAME_BODY_MAX] = {0x08, 1, 0x18, 1, 0x38, 1}; /* namespace, plane, ack */
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("D9");
	for (size_t i = 6; i + 1 < sizeof body; i += 2)
		body[i] = 0x42; /* Put.blocks, length 0 */
	assert_int_equal(call_raw(fd, KVC_VERB_PUT, body, sizeof body / 2 * 2, &reply), KVC_LIMIT);
	kvc_test_assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.LIMIT", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* Unknown fields are ignored; of a field given twice the last one counts. */
static void test_d9_unknown_and_repeated_fields(void **state)
{
	static const uint8_t body[] = {0x08, 0x07, 0x08, 0x01, 0x1A, 0x01, 'k', 0x7A, 0x02, 'x', 'y'};
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("D9");
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_int_equal(call_raw(fd, KVC_VERB_LOOKUP, body, sizeof body, &reply), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D10, D11, D12: wrong values (the full tables are in unit/test_convert.c) --------------- */

static void test_d10_unset_values(void **state)
{
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	int memfd;
	int fd = kvc_test_client_with_region(&memfd);

	(void)state;
	KVC_ROW("D10");
	put = kvc_test_put_of(blocks, &block);
	put.ack = KVCELLAR__ACK__ACK_UNSET;
	kvc_test_put_refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "ack");
	put = kvc_test_put_of(blocks, &block);
	put.plane = KVCELLAR__PLANE__PLANE_UNSET;
	kvc_test_put_refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "plane");
	put = kvc_test_put_of(blocks, &block);
	put.namespace_ = 0;
	kvc_test_put_refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "namespace");
	put = kvc_test_put_of(blocks, &block);
	block.tokens = 0;
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "tokens");
	put = kvc_test_put_of(blocks, &block);
	put.region = 9;
	kvc_test_put_refused(fd, &put, KVC_UNKNOWN_ID, "rpc.refused.UNKNOWN_ID", "region");
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d11_d12_layouts(void **state)
{
	Kvcellar__Layout layout;
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	int memfd;
	int fd = kvc_test_client_with_region(&memfd);

	(void)state;
	KVC_ROW("D11 D12");
	kvcellar__layout__init(&layout);
	put = kvc_test_put_of(blocks, &block);
	put.key_layout = &layout;
	layout = (Kvcellar__Layout){layout.base, INT64_MAX, INT64_MAX, INT64_MAX};
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "key_layout");
	layout = (Kvcellar__Layout){layout.base, -4096, 256, 128};
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "negative");
	layout = (Kvcellar__Layout){layout.base, 4096, 128, 128};
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "overlap");
	layout = (Kvcellar__Layout){layout.base, 4096, 256, 127};
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "overlap");
	put = kvc_test_put_of(blocks, &block);
	block.tokens = 17;
	kvc_test_put_refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "tokens");
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D25, D26: versions and order ---------------------------------------------------------- */

static void test_d25_versions(void **state)
{
	static const struct {
		uint32_t min, max;
		kvc_status status;
		const char *counter;
	} cases[] = {
	        {2, 3, KVC_VERSION, "rpc.refused.VERSION"},
	        {UINT32_MAX, UINT32_MAX, KVC_VERSION, "rpc.refused.VERSION"},
	        {0, 0, KVC_INVALID, "rpc.refused.INVALID"},
	        {0, 1, KVC_INVALID, "rpc.refused.INVALID"},
	        {3, 1, KVC_INVALID, "rpc.refused.INVALID"},
	};
	int fd;

	(void)state;
	KVC_ROW("D25");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		fd = kvc_test_connect(kvc_test_now.socket);
		assert_int_equal(kvc_test_hello(fd, cases[i].min, cases[i].max), cases[i].status);
		kvc_test_assert_eof(fd);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, cases[i].counter, 1));
	}
	fd = kvc_test_connect(kvc_test_now.socket);
	assert_int_equal(kvc_test_hello(fd, 1, 1000), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

static void test_d26_order(void **state)
{
	struct kvc_test_reply reply;
	int fd;

	(void)state;
	KVC_ROW("D26");
	for (uint16_t verb = KVC_VERB_PING; verb < KVC_VERB_COUNT; verb++) {
		if (verb == KVC_VERB_ATTACH)
			continue; /* comes with a descriptor: E5 */
		fd = kvc_test_connect(kvc_test_now.socket);
		assert_int_equal(kvc_test_call(fd, (enum kvc_verb)verb, NULL, &reply), KVC_BAD_MESSAGE);
		kvc_test_assert_eof(fd);
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.BAD_MESSAGE", 1));
	}
	fd = kvc_test_client_now();
	assert_int_equal(kvc_test_hello(fd, 1, 1), KVC_BAD_MESSAGE);
	kvc_test_assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.BAD_MESSAGE", 1));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* 10,000 requests are sent by one process and their replies read by another, so that neither waits. */
static void pipeline(int fd, const uint8_t *frame, size_t bytes, int count)
{
	pid_t sender = fork();
	struct kvc_test_reply reply;
	int status;

	if (sender == 0) {
		for (int i = 0; i < count; i++) {
			if (!kvc_test_send(fd, frame, bytes))
				_exit(1);
		}
		_exit(0);
	}
	for (int i = 0; i < count; i++) {
		assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
		assert_int_equal(reply.frame.status, KVC_OK);
		free(reply.payload);
	}
	assert_int_equal(waitpid(sender, &status, 0), sender);
	assert_int_equal(status, 0);
}

static void test_d26_pipelined(void **state)
{
	struct kvc_frame frame = {.verb = KVC_VERB_PING, .request_id = 9};
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	uint8_t bytes[4096];
	size_t count;
	int memfd;
	int fd = kvc_test_client_with_region(&memfd);

	(void)state;
	KVC_ROW("D26");
	kvc_row.injected = 20000;
	count = kvc_test_frame(&frame, NULL, bytes);
	pipeline(fd, bytes, count, 10000);
	frame.verb = KVC_VERB_PUT;
	put = kvc_test_put_of(blocks, &block);
	put.deadline_ms = 60000;
	count = kvc_test_frame(&frame, &put.base, bytes);
	pipeline(fd, bytes, count, 10000);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- H7: names ----------------------------------------------------------------------------- */

static kvc_status open_raw(int fd, const char *tenant, size_t bytes, struct kvc_test_reply *reply)
{
	static const uint8_t rest[] = {0x1A, 1,    'm', 0x20, 2, 0x28, 2, 0x30, 64, 0x38, 64,  0x40,
	                               1,    0x48, 16,  0x58, 1, 0x62, 5, 0x0A, 3,  'r',  'a', 'w'};
	static uint8_t body[KVC_FRAME_BODY_MAX];
	size_t used = 0;

	body[used++] = 0x08;
	body[used++] = 7;
	body[used++] = 0x12;
	body[used++] = (uint8_t)(0x80 | (bytes & 0x7F));
	body[used++] = (uint8_t)(0x80 | (bytes >> 7 & 0x7F));
	body[used++] = (uint8_t)(bytes >> 14);
	memcpy(body + used, tenant, bytes);
	memcpy(body + used + bytes, rest, sizeof rest);
	return call_raw(fd, KVC_VERB_OPEN, body, used + bytes + sizeof rest, reply);
}

static void test_h7_tenant_names(void **state)
{
	static const struct {
		const char *name;
		size_t bytes;
	} bad[] = {{"", 0},     {"a\0b", 3}, {"\0", 1},   {"../x", 4},     {"a/b", 3},
	           {"a\nb", 3}, {"a b", 3},  {"\xFF", 1}, {"\xC3\xA4", 2}, {"tenant\0", 7}};
	static char huge[60000];
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	(void)state;
	KVC_ROW("H7");
	memset(huge, 'a', sizeof huge);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(open_raw(fd, bad[i].name, bad[i].bytes, &reply), KVC_INVALID);
		assert_non_null(strstr(kvc_test_detail(&reply), "tenant"));
		assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.INVALID", 1));
	}
	assert_int_equal(open_raw(fd, huge, 65, &reply), KVC_INVALID);
	assert_int_equal(open_raw(fd, huge, sizeof huge, &reply), KVC_INVALID);
	assert_int_equal(open_raw(fd, huge, 64, &reply), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, "rpc.refused.INVALID", 2));
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* ---- D1: client dies in the middle of a put ------------------------------------------------ */

static uint32_t lookup_prefix(int fd)
{
	ProtobufCBinaryData key = {3, (uint8_t *)(uintptr_t) "key"};
	struct kvc_test_reply reply;
	Kvcellar__KeysReply *answer;
	Kvcellar__Keys keys;
	uint32_t prefix;

	kvcellar__keys__init(&keys);
	keys.namespace_ = 1;
	keys.n_keys = 1;
	keys.keys = &key;
	assert_int_equal(kvc_test_call(fd, KVC_VERB_LOOKUP, &keys.base, &reply), KVC_OK);
	answer = kvcellar__keys_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(answer);
	prefix = answer->prefix;
	kvcellar__keys_reply__free_unpacked(answer, NULL);
	return prefix;
}

/* Every offset of the control frame, then of the payload in steps. */
static void test_d1_client_dies_mid_put(void **state)
{
	static uint8_t bytes[1 << 16];
	size_t total = kvc_test_inline_put(bytes);
	size_t step = 1;

	(void)state;
	KVC_ROW("D1");
	assert_int_equal(kvc_test_open_ns(kvc_test_fault_now.witness, "raw"), KVC_OK);
	for (size_t cut = 0; cut < total; cut += step) {
		int fd = kvc_test_client_now();

		step = cut < 200 ? 1 : 997;
		assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
		assert_true(kvc_test_send(fd, bytes, cut));
		close(fd);
		kvc_row.injected++;
		kvc_row.points++;
		kvc_row.points_total++;
		assert_int_equal(lookup_prefix(kvc_test_fault_now.witness), 0);
	}
	assert_true(kvc_test_send(kvc_test_fault_now.witness, bytes, total));
	assert_int_equal(kvc_test_receive(kvc_test_fault_now.witness, &(struct kvc_test_reply){0}),
	                 KVC_TEST_REPLY);
	assert_int_equal(lookup_prefix(kvc_test_fault_now.witness), 1);
	assert_true(kvc_test_fault_harmless(&kvc_test_fault_now));
}

/* A put whose payload is still on its way when its tenant is dropped is one of those that are dropped. */
static void test_drop_meets_a_payload_that_arrives(void **state)
{
	static uint8_t bytes[1 << 16];
	size_t total = kvc_test_inline_put(bytes);
	char tenant[] = "tenant"; /* of kvc_test_open_ns */
	Kvcellar__DropTenant drop;
	int witness = kvc_test_fault_now.witness;
	int fd = kvc_test_client_now();
	struct kvc_test_reply reply;

	(void)state;
	assert_int_equal(kvc_test_open_ns(witness, "raw"), KVC_OK);
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_true(kvc_test_send(fd, bytes, total - 1));
	kvc_test_assert_pings(witness);
	kvcellar__drop_tenant__init(&drop);
	drop.tenant = tenant;
	assert_int_equal(kvc_test_call(witness, KVC_VERB_DROP_TENANT, &drop.base, &reply), KVC_OK);
	assert_true(kvc_test_send(fd, bytes + total - 1, 1));
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_CANCELLED);
	assert_int_equal(lookup_prefix(witness), 0);
	assert_true(kvc_test_send(fd, bytes, total));
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_OK);
	assert_int_equal(lookup_prefix(witness), 1);
	close(fd);
}

/* A put of 1 MiB, of which the payload does not come. */
static void put_without_payload(int fd)
{
	enum { BLOCKS = (1 << 20) / KVC_TEST_BLOCK_BYTES };
	static uint8_t bytes[1 << 16];
	struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .request_id = 9, .payload_bytes = BLOCKS * KVC_TEST_BLOCK_BYTES};
	Kvcellar__Block *blocks[BLOCKS];
	Kvcellar__Block block;
	Kvcellar__Put put = kvc_test_put_of(blocks, &block);

	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.region = 0;
	put.n_blocks = BLOCKS;
	for (unsigned i = 0; i < BLOCKS; i++)
		blocks[i] = &block;
	assert_true(kvc_test_send(fd, bytes, kvc_test_frame(&frame, &put.base, bytes)));
}

/* Memory for payloads is for 4 MiB: a tenant that has begun so many puts leaves a quarter of it to others. */
static void test_payloads_that_do_not_come_hold_up_no_other_tenant(void **state)
{
	static uint8_t bytes[1 << 16];
	size_t total = kvc_test_inline_put(bytes);
	int other = kvc_test_client_now();
	struct kvc_test_reply reply;
	int fds[4];

	(void)state;
	assert_int_equal(kvc_test_open_ns_of(other, "other", "raw"), KVC_OK);
	for (unsigned i = 0; i < 4; i++) {
		fds[i] = kvc_test_client_now();
		assert_int_equal(kvc_test_open_ns(fds[i], "raw"), KVC_OK);
		put_without_payload(fds[i]);
	}
	kvc_test_assert_pings(other);
	assert_true(kvc_test_send(other, bytes, total));
	assert_int_equal(kvc_test_receive(other, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_OK);
	assert_int_equal(lookup_prefix(other), 1);
	for (unsigned i = 0; i < 4; i++)
		close(fds[i]);
	close(other);
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, kvc_test_setup, kvc_test_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_d7_foreign_protocols),
	        ROW(test_d7_random_bytes),
	        ROW(test_d7_random_headers),
	        ROW(test_d8_body_lengths),
	        ROW(test_d8_payload_lengths),
	        ROW(test_d8_payload_of_refused_request_is_skipped),
	        ROW(test_d9_malformed_messages),
	        ROW(test_c9_nested_messages),
	        ROW(test_d9_many_empty_entries),
	        ROW(test_d9_unknown_and_repeated_fields),
	        ROW(test_d10_unset_values),
	        ROW(test_d11_d12_layouts),
	        ROW(test_d25_versions),
	        ROW(test_d26_order),
	        ROW(test_d26_pipelined),
	        ROW(test_h7_tenant_names),
	        ROW(test_d1_client_dies_mid_put),
	        ROW(test_drop_meets_a_payload_that_arrives),
	        ROW(test_payloads_that_do_not_come_hold_up_no_other_tenant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
