/* Malformed input, descriptors and misbehaving clients against the real daemon. The names of the tests are
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

#include "tests/support/fault_check.h"

static struct kvc_test_daemon daemon_now;
static struct kvc_test_fault fault;

static const char *const usual[] = {"--ram",           "32M", "--threads", "2", "--inline-max", "1M",
                                    "--inline-budget", "4M",  NULL};

static int start_with(const char *const *options)
{
	if (!kvc_test_daemon_start(&daemon_now, options))
		return 1;
	return kvc_test_fault_begin(&fault, &daemon_now) ? 0 : 1;
}

static int setup(void **state)
{
	(void)state;
	return start_with(usual);
}

static int teardown(void **state)
{
	(void)state;
	kvc_test_fault_end(&fault);
	return kvc_test_daemon_end(&daemon_now) ? 0 : 1;
}

static int client(void)
{
	int fd = kvc_test_client(daemon_now.socket);

	assert_true(fd >= 0);
	return fd;
}

static void assert_eof(int fd)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_EOF);
	close(fd);
}

static void assert_pings(int fd)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_call(fd, KVC_VERB_PING, NULL, &reply), KVC_OK);
}

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
	int fd = kvc_test_connect(daemon_now.socket);

	assert_true(fd >= 0);
	kvc_test_send(fd, bytes, count); /* may end in EPIPE half-way: that is the point */
	assert_eof(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.bad_frame", 1));
}

static void test_d7_foreign_protocols(void **state)
{
	static const uint8_t tls_hello[] = {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC, 0x03, 0x03};
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	static uint8_t zeros[1 << 20];

	(void)state;
	drop_within_one_frame(http, sizeof http - 1);
	drop_within_one_frame(tls_hello, sizeof tls_hello);
	drop_within_one_frame(zeros, sizeof zeros);
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d7_random_bytes(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t bytes[4096];

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	for (int round = 0; round < 50; round++) {
		size_t count = 8 + (size_t)rand() % (sizeof bytes - 8);

		for (size_t i = 0; i < count; i++)
			bytes[i] = (uint8_t)rand();
		bytes[0] = 0; /* surely no magic */
		drop_within_one_frame(bytes, count);
	}
	assert_true(kvc_test_fault_harmless(&fault));
}

/* A right magic with random bytes behind it: dropped or refused, never more. */
static void test_d7_random_headers(void **state)
{
	unsigned seed = (unsigned)time(NULL);
	uint8_t bytes[KVC_FRAME_HEADER_BYTES] = {'K', 'V', 'C', 'F'};

	(void)state;
	print_message("seed %u\n", seed);
	srand(seed);
	for (int round = 0; round < 500; round++) {
		int fd = client();

		for (size_t i = 4; i < sizeof bytes; i++)
			bytes[i] = rand() % 3 ? 0 : (uint8_t)rand();
		assert_true(kvc_test_send(fd, bytes, sizeof bytes));
		close(fd);
	}
	assert_true(kvc_test_fault_harmless(&fault));
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
	int fd = client();

	(void)state;
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, 0, &reply), KVC_OK);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, 1, &reply), KVC_BAD_MESSAGE);
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.BAD_MESSAGE", 1));
	filler(body, KVC_FRAME_BODY_MAX - 1);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, KVC_FRAME_BODY_MAX - 1, &reply), KVC_OK);
	filler(body, KVC_FRAME_BODY_MAX);
	assert_int_equal(call_raw(fd, KVC_VERB_PING, body, KVC_FRAME_BODY_MAX, &reply), KVC_OK);
	close(fd);
	for (size_t i = 0; i < sizeof over / sizeof over[0]; i++) {
		struct kvc_frame frame = {
		        .verb = KVC_VERB_PING, .request_id = 1, .body_bytes = (uint32_t)over[i]};
		uint8_t header[KVC_FRAME_HEADER_BYTES];

		fd = client();
		kvc_frame_encode(&frame, header);
		assert_true(kvc_test_send(fd, header, sizeof header));
		assert_eof(fd);
		assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.bad_frame", 1));
	}
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d8_payload_lengths(void **state)
{
	static const uint64_t over[] = {(1u << 20) + 1, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof over / sizeof over[0]; i++) {
		struct kvc_frame frame = {.verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = over[i]};
		uint8_t header[KVC_FRAME_HEADER_BYTES];
		struct kvc_test_reply reply;
		int fd = client();

		kvc_frame_encode(&frame, header);
		assert_true(kvc_test_send(fd, header, sizeof header));
		assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
		assert_int_equal(reply.frame.status, KVC_LIMIT);
		assert_eof(fd);
		assert_true(kvc_test_fault_counted(&fault, "rpc.refused.LIMIT", 1));
	}
	assert_true(kvc_test_fault_harmless(&fault));
}

/* A payload of a refused request is read away: the next frame is understood. */
static void test_d8_payload_of_refused_request_is_skipped(void **state)
{
	static uint8_t payload[100000];
	struct kvc_frame frame = {.verb = KVC_VERB_PUT, .request_id = 1, .payload_bytes = sizeof payload};
	uint8_t header[KVC_FRAME_HEADER_BYTES];
	struct kvc_test_reply reply;
	int fd = client();

	(void)state;
	kvc_frame_encode(&frame, header);
	assert_true(kvc_test_send(fd, header, sizeof header));
	assert_true(kvc_test_send(fd, payload, sizeof payload));
	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_INVALID);
	assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.INVALID", 1));
	assert_true(kvc_test_fault_harmless(&fault));
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
	int fd = client();

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		print_message("%s\n", cases[i].what);
		assert_int_equal(call_raw(fd, KVC_VERB_LOOKUP, cases[i].bytes, cases[i].count, &reply),
		                 KVC_BAD_MESSAGE);
		assert_true(kvc_test_fault_counted(&fault, "rpc.refused.BAD_MESSAGE", 1));
	}
	assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* 32 K empty blocks in 64 KiB: over the batch limit; what they unpack to is bounded. */
static void test_d9_many_empty_entries(void **state)
{
	static uint8_t body[KVC_FRAME_BODY_MAX] = {0x08, 1, 0x18, 1, 0x38, 1}; /* namespace, plane, ack */
	struct kvc_test_reply reply;
	int fd = client();

	(void)state;
	for (size_t i = 6; i + 1 < sizeof body; i += 2)
		body[i] = 0x42; /* Put.blocks, length 0 */
	assert_int_equal(call_raw(fd, KVC_VERB_PUT, body, sizeof body / 2 * 2, &reply), KVC_LIMIT);
	assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.LIMIT", 1));
	assert_true(kvc_test_fault_harmless(&fault));
}

/* Unknown fields are ignored; of a field given twice the last one counts. */
static void test_d9_unknown_and_repeated_fields(void **state)
{
	static const uint8_t body[] = {0x08, 0x07, 0x08, 0x01, 0x1A, 0x01, 'k', 0x7A, 0x02, 'x', 'y'};
	struct kvc_test_reply reply;
	int fd = client();

	(void)state;
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_int_equal(call_raw(fd, KVC_VERB_LOOKUP, body, sizeof body, &reply), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- D10, D11, D12: wrong values (the full tables are in unit/test_convert.c) --------------- */

static Kvcellar__Put put_of(Kvcellar__Block **blocks, Kvcellar__Block *block)
{
	Kvcellar__Put put;

	kvcellar__put__init(&put);
	kvcellar__block__init(block);
	block->key = (ProtobufCBinaryData){3, (uint8_t *)(uintptr_t) "key"};
	block->tokens = 16;
	blocks[0] = block;
	put.namespace_ = 1;
	put.plane = KVCELLAR__PLANE__PLANE_SHM;
	put.region = 1;
	put.ack = KVCELLAR__ACK__ACK_RAM;
	put.n_blocks = 1;
	put.blocks = blocks;
	return put;
}

static void refused(int fd, const Kvcellar__Put *put, kvc_status expected, const char *counter,
                    const char *detail)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_call(fd, KVC_VERB_PUT, &put->base, &reply), expected);
	print_message("%s\n", kvc_test_detail(&reply));
	assert_non_null(strstr(kvc_test_detail(&reply), detail));
	assert_true(kvc_test_fault_counted(&fault, counter, 1));
}

static int sealed_memfd(uint64_t bytes, int seals)
{
	int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static size_t attach_frame(uint32_t id, uint64_t bytes, unsigned flags, uint8_t *out)
{
	struct kvc_frame frame = {.verb = KVC_VERB_ATTACH, .flags = (uint16_t)flags, .request_id = 5};
	Kvcellar__Attach attach;

	kvcellar__attach__init(&attach);
	attach.id = id;
	attach.plane = KVCELLAR__PLANE__PLANE_SHM;
	attach.bytes = bytes;
	return kvc_test_frame(&frame, &attach.base, out);
}

static kvc_status attach(int fd, uint32_t id, int memfd, uint64_t bytes, struct kvc_test_reply *reply)
{
	uint8_t frame[256];
	size_t count = attach_frame(id, bytes, KVC_FRAME_FD, frame);

	if (!kvc_test_send_fds(fd, frame, count, &memfd, 1) || kvc_test_receive(fd, reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	return (kvc_status)reply->frame.status;
}

/* A client with namespace 1 and a region of 1 MiB as region 1. */
static int client_with_region(int *memfd)
{
	struct kvc_test_reply reply;
	int fd = client();

	*memfd = sealed_memfd(1 << 20, F_SEAL_SHRINK);
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_int_equal(attach(fd, 1, *memfd, 1 << 20, &reply), KVC_OK);
	return fd;
}

static void test_d10_unset_values(void **state)
{
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	int memfd;
	int fd = client_with_region(&memfd);

	(void)state;
	put = put_of(blocks, &block);
	put.ack = KVCELLAR__ACK__ACK_UNSET;
	refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "ack");
	put = put_of(blocks, &block);
	put.plane = KVCELLAR__PLANE__PLANE_UNSET;
	refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "plane");
	put = put_of(blocks, &block);
	put.namespace_ = 0;
	refused(fd, &put, KVC_INVALID, "rpc.refused.INVALID", "namespace");
	put = put_of(blocks, &block);
	block.tokens = 0;
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "tokens");
	put = put_of(blocks, &block);
	put.region = 9;
	refused(fd, &put, KVC_UNKNOWN_ID, "rpc.refused.UNKNOWN_ID", "region");
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d11_d12_layouts(void **state)
{
	Kvcellar__Layout layout;
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	int memfd;
	int fd = client_with_region(&memfd);

	(void)state;
	kvcellar__layout__init(&layout);
	put = put_of(blocks, &block);
	put.key_layout = &layout;
	layout = (Kvcellar__Layout){layout.base, INT64_MAX, INT64_MAX, INT64_MAX};
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "key_layout");
	layout = (Kvcellar__Layout){layout.base, -4096, 256, 128};
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "negative");
	layout = (Kvcellar__Layout){layout.base, 4096, 128, 128};
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "overlap");
	layout = (Kvcellar__Layout){layout.base, 4096, 256, 127};
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "overlap");
	put = put_of(blocks, &block);
	block.tokens = 17;
	refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "tokens");
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- E4: outside of the region ------------------------------------------------------------- */

static void test_e4_offsets(void **state)
{
	static const uint64_t bad[] = {(1 << 20) - 4095, 1 << 20, INT64_MAX, UINT64_MAX - 4095, UINT64_MAX};
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put;
	struct kvc_test_reply reply;
	int memfd;
	int fd = client_with_region(&memfd);

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		put = put_of(blocks, &block);
		block.key_offset = bad[i];
		refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "key_offset");
		put = put_of(blocks, &block);
		block.value_offset = bad[i];
		refused(fd, &put, KVC_SHAPE, "rpc.refused.SHAPE", "value_offset");
	}
	put = put_of(blocks, &block);
	block.value_offset = (1 << 20) - KVC_TEST_BLOCK_BYTES / 2; /* the last place that fits */
	assert_int_equal(kvc_test_call(fd, KVC_VERB_PUT, &put.base, &reply), KVC_OK);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_e4_region_larger_than_memfd(void **state)
{
	static const uint64_t sizes[] = {4097, 1 << 20, INT64_MAX, UINT64_MAX};
	struct kvc_test_reply reply;
	int memfd = sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = client();

	(void)state;
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		bool small = sizes[i] <= 1 << 20;

		assert_int_equal(attach(fd, 1, memfd, sizes[i], &reply), small ? KVC_INVALID : KVC_LIMIT);
		assert_true(kvc_test_fault_counted(&fault,
		                                   small ? "rpc.refused.INVALID" : "rpc.refused.LIMIT", 1));
	}
	assert_int_equal(attach(fd, 1, memfd, 4096, &reply), KVC_OK);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- E1, E2: what may be attached ---------------------------------------------------------- */

static void attach_refused(int fd, int memfd, const char *what)
{
	struct kvc_test_reply reply;

	print_message("%s: ", what);
	assert_true(memfd >= 0);
	assert_int_equal(attach(fd, 1, memfd, 4096, &reply), KVC_INVALID);
	print_message("%s\n", kvc_test_detail(&reply));
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.INVALID", 1));
	close(memfd);
}

static void test_e1_descriptors_that_are_no_sealed_memfd(void **state)
{
	char path[KVC_TEST_PATH_BYTES + 16];
	int pair[2];
	int fd = client();
	int memfd;

	(void)state;
	snprintf(path, sizeof path, "%s/file", daemon_now.directory);
	memfd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(memfd, 4096), 0);
	attach_refused(fd, memfd, "memfd without seals");
	memfd = memfd_create("unsealable", MFD_CLOEXEC);
	assert_int_equal(ftruncate(memfd, 4096), 0);
	attach_refused(fd, memfd, "memfd that cannot be sealed");
	attach_refused(fd, sealed_memfd(4096, F_SEAL_GROW), "memfd sealed against growing only");
	attach_refused(fd, sealed_memfd(4096, F_SEAL_SHRINK | F_SEAL_WRITE), "memfd sealed against writing");
	attach_refused(fd, sealed_memfd(4096, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), "future write seal");
	attach_refused(fd, open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), "regular file");
	attach_refused(fd, open(path, O_PATH | O_CLOEXEC), "O_PATH");
	attach_refused(fd, open("/dev/zero", O_RDWR | O_CLOEXEC), "device");
	attach_refused(fd, open(daemon_now.directory, O_RDONLY | O_CLOEXEC), "directory");
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	attach_refused(fd, pair[0], "pipe");
	close(pair[1]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	attach_refused(fd, pair[0], "socket");
	close(pair[1]);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_e2_attached_memory_cannot_be_truncated(void **state)
{
	int memfd;
	int fd = client_with_region(&memfd);

	(void)state;
	assert_int_equal(ftruncate(memfd, 0), -1);
	assert_pings(fd);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- E5: number of descriptors ------------------------------------------------------------- */

static void send_with_descriptors(size_t count, unsigned flags, const char *counter)
{
	int fds[253];
	uint8_t frame[256];
	size_t bytes = attach_frame(1, 4096, flags, frame);
	int memfd = sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = client();

	for (size_t i = 0; i < count; i++)
		fds[i] = memfd;
	if (count)
		assert_true(kvc_test_send_fds(fd, frame, bytes, fds, count));
	else
		assert_true(kvc_test_send(fd, frame, bytes));
	close(memfd);
	assert_eof(fd);
	assert_true(kvc_test_fault_counted(&fault, counter, 1));
}

static void test_e5_wrong_number_of_descriptors(void **state)
{
	(void)state;
	send_with_descriptors(0, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(2, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(4, KVC_FRAME_FD, "rpc.dropped.descriptor");
	send_with_descriptors(253, KVC_FRAME_FD, "rpc.dropped.descriptor");
	assert_true(kvc_test_fault_harmless(&fault));
}

/* With a frame that announces none, with a ping, in the middle of a frame. */
static void test_e5_descriptor_out_of_place(void **state)
{
	struct kvc_frame ping = {.verb = KVC_VERB_PING, .request_id = 1};
	struct kvc_test_reply reply;
	uint8_t frame[256];
	size_t bytes = kvc_test_frame(&ping, NULL, frame);
	int memfd = sealed_memfd(4096, F_SEAL_SHRINK);
	int fd = client();

	(void)state;
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	while (kvc_test_receive(fd, &reply) == KVC_TEST_REPLY) /* its reply, or not even that */
		;
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.descriptor", 1));

	fd = client();
	assert_true(kvc_test_send_fds(fd, frame, 1, &memfd, 1));
	assert_true(kvc_test_send(fd, frame + 1, bytes - 1));
	while (kvc_test_receive(fd, &reply) == KVC_TEST_REPLY)
		;
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.descriptor", 1));

	fd = client();
	assert_true(kvc_test_send_fds(fd, frame, 1, &memfd, 1));
	assert_true(kvc_test_send_fds(fd, frame + 1, 1, &memfd, 1));
	assert_eof(fd);
	close(memfd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.descriptor", 1));
	assert_true(kvc_test_fault_harmless(&fault));
}

/* Attach frames that are split and pipelined keep their own descriptors. */
static void test_e5_split_and_pipelined_attach(void **state)
{
	int memfd = sealed_memfd(4096, F_SEAL_SHRINK);
	struct kvc_test_reply reply;
	uint8_t frame[256];
	size_t bytes;
	int fd = client();

	(void)state;
	bytes = attach_frame(1, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, 5, &memfd, 1));
	assert_true(kvc_test_send(fd, frame + 5, bytes - 5));
	bytes = attach_frame(2, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	bytes = attach_frame(3, 4096, KVC_FRAME_FD, frame);
	assert_true(kvc_test_send_fds(fd, frame, bytes, &memfd, 1));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_REPLY);
		assert_int_equal(reply.frame.status, KVC_OK);
	}
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- D25, D26: versions and order ---------------------------------------------------------- */

static kvc_status hello(int fd, uint32_t min, uint32_t max)
{
	struct kvc_test_reply reply;
	Kvcellar__Hello message;

	kvcellar__hello__init(&message);
	message.protocol_min = min;
	message.protocol_max = max;
	return kvc_test_call(fd, KVC_VERB_HELLO, &message.base, &reply);
}

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
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		fd = kvc_test_connect(daemon_now.socket);
		assert_int_equal(hello(fd, cases[i].min, cases[i].max), cases[i].status);
		assert_eof(fd);
		assert_true(kvc_test_fault_counted(&fault, cases[i].counter, 1));
	}
	fd = kvc_test_connect(daemon_now.socket);
	assert_int_equal(hello(fd, 1, 1000), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d26_order(void **state)
{
	struct kvc_test_reply reply;
	int fd;

	(void)state;
	for (uint16_t verb = KVC_VERB_PING; verb < KVC_VERB_COUNT; verb++) {
		if (verb == KVC_VERB_ATTACH)
			continue; /* comes with a descriptor: E5 */
		fd = kvc_test_connect(daemon_now.socket);
		assert_int_equal(kvc_test_call(fd, (enum kvc_verb)verb, NULL, &reply), KVC_BAD_MESSAGE);
		assert_eof(fd);
		assert_true(kvc_test_fault_counted(&fault, "rpc.refused.BAD_MESSAGE", 1));
	}
	fd = client();
	assert_int_equal(hello(fd, 1, 1), KVC_BAD_MESSAGE);
	assert_pings(fd);
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.BAD_MESSAGE", 1));
	assert_true(kvc_test_fault_harmless(&fault));
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
	int fd = client_with_region(&memfd);

	(void)state;
	count = kvc_test_frame(&frame, NULL, bytes);
	pipeline(fd, bytes, count, 10000);
	frame.verb = KVC_VERB_PUT;
	put = put_of(blocks, &block);
	put.deadline_ms = 60000;
	count = kvc_test_frame(&frame, &put.base, bytes);
	pipeline(fd, bytes, count, 10000);
	close(memfd);
	close(fd);
	assert_true(kvc_test_fault_harmless(&fault));
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
	int fd = client();

	(void)state;
	memset(huge, 'a', sizeof huge);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(open_raw(fd, bad[i].name, bad[i].bytes, &reply), KVC_INVALID);
		assert_non_null(strstr(kvc_test_detail(&reply), "tenant"));
		assert_true(kvc_test_fault_counted(&fault, "rpc.refused.INVALID", 1));
	}
	assert_int_equal(open_raw(fd, huge, 65, &reply), KVC_INVALID);
	assert_int_equal(open_raw(fd, huge, sizeof huge, &reply), KVC_INVALID);
	assert_int_equal(open_raw(fd, huge, 64, &reply), KVC_OK);
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.refused.INVALID", 2));
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- D1: client dies in the middle of a put ------------------------------------------------ */

static size_t inline_put(uint8_t *out)
{
	struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .request_id = 3, .payload_bytes = KVC_TEST_BLOCK_BYTES};
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put = put_of(blocks, &block);
	size_t bytes;

	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.region = 0;
	bytes = kvc_test_frame(&frame, &put.base, out);
	for (size_t i = 0; i < KVC_TEST_BLOCK_BYTES; i++)
		out[bytes + i] = (uint8_t)(i * 7 % 61);
	return bytes + KVC_TEST_BLOCK_BYTES;
}

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
	size_t total = inline_put(bytes);
	size_t step = 1;

	(void)state;
	assert_int_equal(kvc_test_open_ns(fault.witness, "raw"), KVC_OK);
	for (size_t cut = 0; cut < total; cut += step) {
		int fd = client();

		step = cut < 200 ? 1 : 997;
		assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
		assert_true(kvc_test_send(fd, bytes, cut));
		close(fd);
		assert_int_equal(lookup_prefix(fault.witness), 0);
	}
	assert_true(kvc_test_send(fault.witness, bytes, total));
	assert_int_equal(kvc_test_receive(fault.witness, &(struct kvc_test_reply){0}), KVC_TEST_REPLY);
	assert_int_equal(lookup_prefix(fault.witness), 1);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- D4, D5: slow clients ------------------------------------------------------------------ */

static const char *const hasty[] = {"--ram", "32M", "--threads", "2", "--stall-timeout-ms", "400", NULL};

static int setup_hasty(void **state)
{
	(void)state;
	return start_with(hasty);
}

/* Replies pile up: the daemon stops reading, then gives up. */
static void test_d4_client_that_does_not_read(void **state)
{
	struct kvc_frame frame = {.verb = KVC_VERB_STATS, .request_id = 1};
	struct pollfd wait;
	uint8_t bytes[KVC_FRAME_HEADER_BYTES];
	int fd = client();

	(void)state;
	kvc_frame_encode(&frame, bytes);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	wait = (struct pollfd){.fd = fd, .events = POLLOUT};
	while (!(poll(&wait, 1, 30000) == 1 && wait.revents & (POLLHUP | POLLERR)))
		kvc_test_send(fd, bytes, sizeof bytes);
	close(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.slow_reader", 1));
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d5_frame_that_does_not_end(void **state)
{
	static uint8_t bytes[1 << 16];
	size_t total = inline_put(bytes);
	size_t cuts[] = {1, KVC_FRAME_HEADER_BYTES - 1, KVC_FRAME_HEADER_BYTES, 40, total - 1};

	(void)state;
	for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
		int fd = client();

		assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
		assert_true(kvc_test_send(fd, bytes, cuts[i]));
		assert_eof(fd);
		assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.slow_writer", 1));
	}
	assert_true(kvc_test_fault_harmless(&fault));
}

static void test_d5_no_hello(void **state)
{
	int fd = kvc_test_connect(daemon_now.socket);

	(void)state;
	assert_eof(fd);
	assert_true(kvc_test_fault_counted(&fault, "rpc.dropped.no_hello", 1));
	assert_true(kvc_test_fault_harmless(&fault));
}

/* An idle client that said hello stays, however long it is silent. */
static void test_d5_idle_client_stays(void **state)
{
	int idle = client();
	int fd = kvc_test_connect(daemon_now.socket);

	(void)state;
	assert_eof(fd); /* three stall times later at the earliest, this one has been dropped */
	assert_pings(idle);
	close(idle);
}

/* ---- D6, C5: many clients, few descriptors ------------------------------------------------- */

static const char *const crowded[] = {
        "--ram", "32M", "--threads", "2", "--connections", "20", "--connections-per-uid", "10", NULL};

static int setup_crowded(void **state)
{
	(void)state;
	return start_with(crowded);
}

static void test_d6_connection_flood(void **state)
{
	enum { FLOOD = 500, TAKEN = 9 }; /* the witness is the tenth */
	int fds[TAKEN];

	(void)state;
	for (int i = 0; i < TAKEN; i++)
		fds[i] = client();
	for (int i = 0; i < FLOOD; i++) {
		int fd = kvc_test_connect(daemon_now.socket);

		assert_true(fd >= 0);
		assert_eof(fd);
	}
	assert_true(kvc_test_fault_counted(&fault, "rpc.rejected.connections_per_uid", FLOOD));
	for (int i = 0; i < TAKEN; i++) {
		assert_pings(fds[i]);
		close(fds[i]);
	}
	assert_true(kvc_test_fault_harmless(&fault));
}

enum { FEW_DESCRIPTORS = 40 };

static int setup_few_descriptors(void **state)
{
	(void)state;
	daemon_now.descriptors_max = FEW_DESCRIPTORS;
	return start_with(usual);
}

static int teardown_few_descriptors(void **state)
{
	daemon_now.descriptors_max = 0;
	return teardown(state);
}

/* More clients than descriptors: those over are turned away at once, and later ones are served again. */
static void test_c5_no_descriptors_left(void **state)
{
	int fds[FEW_DESCRIPTORS];
	struct kvc_test_reply reply;
	int turned_away = 0;

	(void)state;
	for (int i = 0; i < FEW_DESCRIPTORS; i++) {
		fds[i] = kvc_test_connect(daemon_now.socket);
		assert_true(fds[i] >= 0);
		if (hello(fds[i], 1, 1) == KVC_OK)
			continue;
		turned_away++;
		close(fds[i]);
		fds[i] = -1;
	}
	assert_true(turned_away > 0 && turned_away < FEW_DESCRIPTORS);
	assert_int_equal(kvc_test_call(fault.witness, KVC_VERB_PING, NULL, &reply), KVC_OK);
	for (int i = 0; i < FEW_DESCRIPTORS; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	assert_true(kvc_test_fault_counted(&fault, "rpc.rejected.no_descriptors", (unsigned)turned_away));
	assert_true(kvc_test_fault_harmless(&fault));
}

/* A descriptor that the daemon cannot take in for want of a slot: the kernel says so, the client is dropped.
 */
static void test_c5_no_slot_for_a_descriptor(void **state)
{
	int memfd = sealed_memfd(4096, F_SEAL_SHRINK);
	int sender = client();
	int fds[FEW_DESCRIPTORS];
	uint8_t frame[256];
	size_t bytes = attach_frame(1, 4096, KVC_FRAME_FD, frame);
	int count = 0;

	(void)state;
	for (; count < FEW_DESCRIPTORS; count++) {
		fds[count] = kvc_test_connect(daemon_now.socket);
		if (hello(fds[count], 1, 1) != KVC_OK)
			break;
	}
	assert_true(kvc_test_send_fds(sender, frame, bytes, &memfd, 1));
	assert_eof(sender);
	close(memfd);
	for (int i = 0; i <= count && i < FEW_DESCRIPTORS; i++)
		close(fds[i]);
	assert_true(kvc_test_fault_harmless(&fault));
}

/* ---- H5: who may connect ------------------------------------------------------------------- */

static const char *const guarded[] = {
        "--ram", "32M",          "--threads", "2", "--socket-mode", "0666", "--allow-uids",
        "4711",  "--allow-gids", "4712",      NULL};

static int setup_guarded(void **state)
{
	(void)state;
	return start_with(guarded);
}

/* Connect as another user; whether hello is answered. */
static bool served_as(uid_t uid, gid_t gid)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (setgroups(0, NULL) || setgid(gid) || setuid(uid))
			_exit(2);
		_exit(kvc_test_client(daemon_now.socket) >= 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 2);
	return WEXITSTATUS(status) == 0;
}

static void test_h5_users(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("needs root to become other users\n");
		skip();
	}
	assert_int_equal(chmod(daemon_now.directory, 0711), 0);
	assert_true(served_as(4711, 1));
	assert_true(served_as(1234, 4712));
	assert_true(kvc_test_fault_counted(&fault, "rpc.rejected.user", 0));
	assert_false(served_as(1234, 1234));
	assert_true(kvc_test_fault_counted(&fault, "rpc.rejected.user", 1));
	assert_false(served_as(65534, 4712));
	assert_true(kvc_test_fault_counted(&fault, "rpc.rejected.user", 1));
	assert_true(kvc_test_fault_harmless(&fault));
}

#define ROW(test)         cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ROW_OF(test, own) cmocka_unit_test_setup_teardown(test, own, teardown)

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
	        ROW(test_d9_many_empty_entries),
	        ROW(test_d9_unknown_and_repeated_fields),
	        ROW(test_d10_unset_values),
	        ROW(test_d11_d12_layouts),
	        ROW(test_e4_offsets),
	        ROW(test_e4_region_larger_than_memfd),
	        ROW(test_e1_descriptors_that_are_no_sealed_memfd),
	        ROW(test_e2_attached_memory_cannot_be_truncated),
	        ROW(test_e5_wrong_number_of_descriptors),
	        ROW(test_e5_descriptor_out_of_place),
	        ROW(test_e5_split_and_pipelined_attach),
	        ROW(test_d25_versions),
	        ROW(test_d26_order),
	        ROW(test_d26_pipelined),
	        ROW(test_h7_tenant_names),
	        ROW(test_d1_client_dies_mid_put),
	        ROW_OF(test_d4_client_that_does_not_read, setup_hasty),
	        ROW_OF(test_d5_frame_that_does_not_end, setup_hasty),
	        ROW_OF(test_d5_no_hello, setup_hasty),
	        ROW_OF(test_d5_idle_client_stays, setup_hasty),
	        ROW_OF(test_d6_connection_flood, setup_crowded),
	        cmocka_unit_test_setup_teardown(test_c5_no_descriptors_left, setup_few_descriptors,
	                                        teardown_few_descriptors),
	        cmocka_unit_test_setup_teardown(test_c5_no_slot_for_a_descriptor, setup_few_descriptors,
	                                        teardown_few_descriptors),
	        ROW_OF(test_h5_users, setup_guarded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
