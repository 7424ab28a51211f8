/* See session_world.h. */
#include "tests/fake/session_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

enum { WAIT_MS = 10000, SETTLE_TURNS = 20 };

struct kvc_session_world kvc_ses;

static int64_t live_before;
static uint64_t request_id;

static struct kvc_rpc_options options_of(void)
{
	return (struct kvc_rpc_options){
	        .loop = kvc_ses.loop,
	        .stats = kvc_ses.stats,
	        .cache = kvc_ses.cache,
	        .gpus = kvc_ses.gpus,
	        .gpu_count = kvc_ses.gpus[0] ? 2 : 0,
	        .version = "test",
	        .limits = {.connections = 10,
	                   .connections_per_uid = 10,
	                   .inflight = 8,
	                   .batch = 64,
	                   .namespaces = 2,
	                   .regions = kvc_ses.gpus[0] ? 8 : 2,
	                   .pins = 10,
	                   .region_bytes = 2 * KVC_SES_REGION_BYTES,
	                   .inline_bytes = 100000,
	                   .inline_budget = 100000,
	                   .deadline_ms_default = 5000,
	                   .deadline_ms_max = 60000,
	                   .stall_ms = 60000},
	};
}

uint64_t kvc_ses_request_id(void)
{
	return ++request_id;
}

static int setup(bool gpus)
{
	struct kvc_rpc_options options;

	live_before = kvc_alloc_live();
	kvc_ses.stopped = false;
	kvc_key_init();
	if (kvc_loop_open(&kvc_ses.loop) || kvc_stats_open(&kvc_ses.stats))
		return 1;
	kvc_ses.cache = kvc_fake_cache_open(kvc_ses.loop);
	for (unsigned i = 0; i < 2; i++)
		kvc_ses.gpus[i] = gpus ? kvc_fake_gpu_open(kvc_ses.loop, i) : NULL;
	options = options_of();
	kvc_ses.limits = options.limits;
	return kvc_rpc_open(&options, &kvc_ses.rpc) != KVC_OK;
}

int kvc_ses_setup(void **state)
{
	(void)state;
	return setup(false);
}

int kvc_ses_setup_gpus(void **state)
{
	(void)state;
	return setup(true);
}

void kvc_ses_on_stopped(void *context)
{
	*(bool *)context = true;
}

void kvc_ses_stop(uint64_t timeout_ms)
{
	kvc_rpc_stop(kvc_ses.rpc, timeout_ms, kvc_ses_on_stopped, &kvc_ses.stopped);
	assert_true(kvc_test_run_until_set(kvc_ses.loop, &kvc_ses.stopped));
}

int kvc_ses_teardown(void **state)
{
	(void)state;
	if (!kvc_ses.stopped)
		kvc_ses_stop(0);
	kvc_rpc_close(kvc_ses.rpc);
	kvc_fake_cache_close(kvc_ses.cache);
	for (unsigned i = 0; i < 2 && kvc_ses.gpus[i]; i++)
		kvc_fake_gpu_close(kvc_ses.gpus[i]);
	kvc_stats_close(kvc_ses.stats);
	kvc_loop_close(kvc_ses.loop);
	kvc_row_end();
	return kvc_alloc_live() != live_before;
}

/* ---- the client's side --------------------------------------------------------------------- */

int kvc_ses_connect_raw(void)
{
	return kvc_ses_connect_as(getuid());
}

int kvc_ses_connect_as(uid_t uid)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fcntl(pair[1], F_SETFL, O_NONBLOCK);
	if (kvc_rpc_adopt(kvc_ses.rpc, pair[1], uid) != KVC_OK) {
		close(pair[1]);
		close(pair[0]);
		return -1;
	}
	return pair[0];
}

static bool readable(void *context)
{
	struct pollfd wait = {.fd = *(int *)context, .events = POLLIN};

	return poll(&wait, 1, 0) == 1;
}

uint64_t kvc_ses_send_request(int fd, enum kvc_verb verb, const ProtobufCMessage *message,
                              const void *payload, size_t bytes)
{
	struct kvc_frame frame = {.verb = (uint16_t)verb, .request_id = ++request_id, .payload_bytes = bytes};
	static uint8_t out[1 << 16];
	size_t count = kvc_test_frame(&frame, message, out);

	/* Small enough for the socket's buffer: nobody reads while the test writes. */
	assert_true(kvc_test_send(fd, out, count));
	if (bytes)
		assert_true(kvc_test_send(fd, payload, bytes));
	return frame.request_id;
}

/* Turn the loop until there is a reply or the end. */
enum kvc_test_event kvc_ses_next(int fd, struct kvc_test_reply *reply)
{
	if (!kvc_test_run_until(kvc_ses.loop, readable, &fd, WAIT_MS))
		return KVC_TEST_TIMEOUT;
	return kvc_test_receive(fd, reply);
}

kvc_status kvc_ses_next_status(int fd, uint64_t id)
{
	struct kvc_test_reply reply;

	if (kvc_ses_next(fd, &reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	free(reply.payload);
	assert_int_equal(reply.frame.request_id, id);
	return (kvc_status)reply.frame.status;
}

kvc_status kvc_ses_call(int fd, enum kvc_verb verb, const ProtobufCMessage *message)
{
	return kvc_ses_next_status(fd, kvc_ses_send_request(fd, verb, message, NULL, 0));
}

static void nothing(struct kvc_task *task)
{
	(void)task;
}

/* A turn that has run a task does not wait. What was sent is in the socket: a few turns are enough for all
 * that follows from it. */
void kvc_ses_settle(void)
{
	struct kvc_task nudge = {.run = nothing};

	for (int turn = 0; turn < SETTLE_TURNS; turn++) {
		kvc_loop_defer(kvc_ses.loop, &nudge);
		kvc_loop_turn(kvc_ses.loop);
	}
}

bool kvc_ses_silent(int fd)
{
	kvc_ses_settle();
	return !readable(&fd);
}

void kvc_ses_assert_ends(int fd)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_EOF);
}

kvc_status kvc_ses_hello(int fd)
{
	Kvcellar__Hello message;

	kvcellar__hello__init(&message);
	message.protocol_min = message.protocol_max = 1;
	return kvc_ses_call(fd, KVC_VERB_HELLO, &message.base);
}

kvc_status kvc_ses_open_ns(int fd, uint32_t id)
{
	return kvc_ses_open_ns_of(fd, id, "t");
}

kvc_status kvc_ses_open_ns_of(int fd, uint32_t id, const char *tenant)
{
	char preset[] = "raw";
	Kvcellar__Codec codec;
	Kvcellar__Open open;

	kvcellar__open__init(&open);
	kvcellar__codec__init(&codec);
	codec.preset = preset;
	open.id = id;
	open.tenant = open.model = (char *)(uintptr_t)tenant;
	open.layers = open.heads = 2;
	open.key_dim = open.value_dim = 64;
	open.dtype = KVCELLAR__DTYPE__DTYPE_BF16;
	open.block_tokens = 16;
	open.shards = 1;
	open.codec = &codec;
	return kvc_ses_call(fd, KVC_VERB_OPEN, &open.base);
}

kvc_status kvc_ses_attach(int fd, uint32_t id, int memfd)
{
	struct kvc_frame frame = {.verb = KVC_VERB_ATTACH, .flags = KVC_FRAME_FD, .request_id = ++request_id};
	Kvcellar__Attach message;
	uint8_t out[256];

	kvcellar__attach__init(&message);
	message.id = id;
	message.plane = KVCELLAR__PLANE__PLANE_SHM;
	message.bytes = KVC_SES_REGION_BYTES;
	assert_true(kvc_test_send_fds(fd, out, kvc_test_frame(&frame, &message.base, out), &memfd, 1));
	return kvc_ses_next_status(fd, frame.request_id);
}

int kvc_ses_sealed_memfd(void)
{
	int fd = memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(ftruncate(fd, KVC_SES_REGION_BYTES), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	return fd;
}

int kvc_ses_client(void)
{
	int fd = kvc_ses_connect_raw();

	assert_true(fd >= 0);
	assert_int_equal(kvc_ses_hello(fd), KVC_OK);
	assert_int_equal(kvc_ses_open_ns(fd, 1), KVC_OK);
	return fd;
}

int kvc_ses_client_with_region(uint8_t **memory)
{
	int memfd = kvc_ses_sealed_memfd();
	int fd = kvc_ses_client();

	assert_int_equal(kvc_ses_attach(fd, 1, memfd), KVC_OK);
	*memory = mmap(NULL, KVC_SES_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_ptr_not_equal(*memory, MAP_FAILED);
	close(memfd);
	return fd;
}

/* ---- puts and gets ------------------------------------------------------------------------- */

void kvc_ses_transfer_init(struct kvc_ses_transfer *t, uint32_t count, Kvcellar__Plane plane)
{
	kvcellar__put__init(&t->put);
	kvcellar__get__init(&t->get);
	for (uint32_t i = 0; i < count; i++) {
		kvcellar__block__init(&t->blocks[i]);
		t->keys[i] = (char)('a' + i);
		t->blocks[i].key = (ProtobufCBinaryData){1, (uint8_t *)&t->keys[i]};
		t->blocks[i].tokens = 16;
		t->blocks[i].key_offset = (uint64_t)i * KVC_TEST_BLOCK_BYTES;
		t->blocks[i].value_offset = t->blocks[i].key_offset + KVC_TEST_BLOCK_BYTES / 2;
		t->pointers[i] = &t->blocks[i];
	}
	t->put.namespace_ = t->get.namespace_ = 1;
	t->put.plane = t->get.plane = plane;
	t->put.region = t->get.region = plane == KVCELLAR__PLANE__PLANE_SHM;
	t->put.ack = KVCELLAR__ACK__ACK_RAM;
	t->put.n_blocks = t->get.n_blocks = count;
	t->put.blocks = t->get.blocks = t->pointers;
}

/* Statuses of the reply's blocks, as a string of digits in base 36. */
const char *kvc_ses_block_statuses(const struct kvc_test_reply *reply)
{
	static char text[65];
	Kvcellar__BlocksReply *blocks =
	        kvcellar__blocks_reply__unpack(NULL, reply->frame.body_bytes, reply->body);
	size_t count = 0;

	assert_non_null(blocks);
	for (; count < blocks->n_statuses && count < 64; count++)
		text[count] = "0123456789abcdefghijklmnopqrstuvwxyz"[blocks->statuses[count]];
	text[count] = 0;
	kvcellar__blocks_reply__free_unpacked(blocks, NULL);
	return text;
}

void kvc_ses_assert_blocks(int fd, uint64_t id, const char *statuses)
{
	struct kvc_test_reply reply;

	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.request_id, id);
	assert_int_equal(reply.frame.status, KVC_OK);
	assert_string_equal(kvc_ses_block_statuses(&reply), statuses);
	free(reply.payload);
}

void kvc_ses_fill(uint8_t *data, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		data[i] = (uint8_t)(i * 31 + i / 251 + seed);
}
