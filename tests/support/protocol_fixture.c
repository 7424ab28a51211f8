/* See protocol_fixture.h. */
#include "tests/support/protocol_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/row.h"

struct kvc_test_daemon kvc_test_now;
struct kvc_test_fault kvc_test_fault_now;

const char *const kvc_test_usual[] = {"--ram",           "32M", "--threads", "2", "--inline-max", "1M",
                                      "--inline-budget", "4M",  NULL};

int kvc_test_start_with(const char *const *options)
{
	if (!kvc_test_daemon_start(&kvc_test_now, options))
		return 1;
	return kvc_test_fault_begin(&kvc_test_fault_now, &kvc_test_now) ? 0 : 1;
}

int kvc_test_setup(void **state)
{
	(void)state;
	return kvc_test_start_with(kvc_test_usual);
}

int kvc_test_teardown(void **state)
{
	bool ended;

	(void)state;
	kvc_test_fault_end(&kvc_test_fault_now);
	ended = kvc_test_daemon_end(&kvc_test_now);
	kvc_row_end();
	return ended ? 0 : 1;
}

int kvc_test_client_now(void)
{
	int fd = kvc_test_client(kvc_test_now.socket);

	assert_true(fd >= 0);
	return fd;
}

void kvc_test_assert_eof(int fd)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_receive(fd, &reply), KVC_TEST_EOF);
	close(fd);
}

void kvc_test_assert_pings(int fd)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_call(fd, KVC_VERB_PING, NULL, &reply), KVC_OK);
}

kvc_status kvc_test_hello(int fd, uint32_t min, uint32_t max)
{
	struct kvc_test_reply reply;
	Kvcellar__Hello message;

	kvcellar__hello__init(&message);
	message.protocol_min = min;
	message.protocol_max = max;
	return kvc_test_call(fd, KVC_VERB_HELLO, &message.base, &reply);
}

Kvcellar__Put kvc_test_put_of(Kvcellar__Block **blocks, Kvcellar__Block *block)
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

void kvc_test_put_refused(int fd, const Kvcellar__Put *put, kvc_status expected, const char *counter,
                          const char *detail)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_test_call(fd, KVC_VERB_PUT, &put->base, &reply), expected);
	print_message("%s\n", kvc_test_detail(&reply));
	assert_non_null(strstr(kvc_test_detail(&reply), detail));
	assert_true(kvc_test_fault_counted(&kvc_test_fault_now, counter, 1));
}

size_t kvc_test_inline_put(uint8_t *out)
{
	struct kvc_frame frame = {
	        .verb = KVC_VERB_PUT, .request_id = 3, .payload_bytes = KVC_TEST_BLOCK_BYTES};
	Kvcellar__Block *blocks[1];
	Kvcellar__Block block;
	Kvcellar__Put put = kvc_test_put_of(blocks, &block);
	size_t bytes;

	put.plane = KVCELLAR__PLANE__PLANE_INLINE;
	put.region = 0;
	bytes = kvc_test_frame(&frame, &put.base, out);
	for (size_t i = 0; i < KVC_TEST_BLOCK_BYTES; i++)
		out[bytes + i] = (uint8_t)(i * 7 % 61);
	return bytes + KVC_TEST_BLOCK_BYTES;
}

int kvc_test_sealed_memfd(uint64_t bytes, int seals)
{
	int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

size_t kvc_test_attach_frame(uint32_t id, uint64_t bytes, unsigned flags, uint8_t *out)
{
	struct kvc_frame frame = {.verb = KVC_VERB_ATTACH, .flags = (uint16_t)flags, .request_id = 5};
	Kvcellar__Attach attach;

	kvcellar__attach__init(&attach);
	attach.id = id;
	attach.plane = KVCELLAR__PLANE__PLANE_SHM;
	attach.bytes = bytes;
	return kvc_test_frame(&frame, &attach.base, out);
}

kvc_status kvc_test_attach(int fd, uint32_t id, int memfd, uint64_t bytes, struct kvc_test_reply *reply)
{
	uint8_t frame[256];
	size_t count = kvc_test_attach_frame(id, bytes, KVC_FRAME_FD, frame);

	if (!kvc_test_send_fds(fd, frame, count, &memfd, 1) || kvc_test_receive(fd, reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	return (kvc_status)reply->frame.status;
}

/* A client with namespace 1 and a region of 1 MiB as region 1. */
int kvc_test_client_with_region(int *memfd)
{
	struct kvc_test_reply reply;
	int fd = kvc_test_client_now();

	*memfd = kvc_test_sealed_memfd(1 << 20, F_SEAL_SHRINK);
	assert_int_equal(kvc_test_open_ns(fd, "raw"), KVC_OK);
	assert_int_equal(kvc_test_attach(fd, 1, *memfd, 1 << 20, &reply), KVC_OK);
	return fd;
}
