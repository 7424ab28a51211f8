/* The cuda plane of a session over a socketpair, with a fake cache and fake GPUs: what is refused and why,
 * what is answered when the engine has answered, what is let go when, and in which order.
 *
 * Long because all tests share the requests that are made at the top. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/rpc/problem.h"
#include "tests/fake/session_world.h"
#include "tests/support/loop_run.h"

/* The namespace has 2 layers, 2 heads of 64 channels, bf16: a page of 8 tokens of one layer and kind has 2
 * KiB, and the pool's 16 pages 32 KiB. */
enum { PAGE_TOKENS = 8, PAGES = 16, KIND_BYTES = 2048 * PAGES, REGION_BYTES = 4 * KIND_BYTES, FDS = 250 };

static uint8_t uuid[] = "fake-gpu-0000000";
static uint8_t handle[64] = "mem-1-1";
static char detail[KVC_PROBLEM_BYTES];

/* ---- requests ------------------------------------------------------------------------------ */

static struct kvc_gpu *gpu(void)
{
	return kvc_ses.gpus[0];
}

static int64_t stat_of(const char *name)
{
	return kvc_stat_get(kvc_stats_cell(kvc_ses.stats, name));
}

static Kvcellar__Attach attach_of(uint32_t id)
{
	Kvcellar__Attach attach = KVCELLAR__ATTACH__INIT;

	attach.id = id;
	attach.plane = KVCELLAR__PLANE__PLANE_CUDA;
	attach.bytes = REGION_BYTES;
	attach.device = (ProtobufCBinaryData){16, uuid};
	attach.handle = (ProtobufCBinaryData){sizeof handle, handle};
	return attach;
}

struct pool_parts {
	Kvcellar__Pool pool;
	Kvcellar__PoolStrides strides[2];
	Kvcellar__PoolBase bases[4];
	Kvcellar__PoolBase *pointers[4];
};

/* (2, layers, pages, tokens, heads, dim) in region 1. */
static void pool_init(struct pool_parts *parts, uint32_t id)
{
	kvcellar__pool__init(&parts->pool);
	for (unsigned i = 0; i < 2; i++) {
		kvcellar__pool_strides__init(&parts->strides[i]);
		parts->strides[i].page = 2048;
		parts->strides[i].token = 256;
		parts->strides[i].head = 128;
	}
	for (unsigned i = 0; i < 4; i++) {
		kvcellar__pool_base__init(&parts->bases[i]);
		parts->bases[i].region = 1;
		parts->bases[i].offset = (uint64_t)i * KIND_BYTES;
		parts->pointers[i] = &parts->bases[i];
	}
	parts->pool.id = id;
	parts->pool.namespace_ = 1;
	parts->pool.pages = PAGES;
	parts->pool.page_tokens = PAGE_TOKENS;
	parts->pool.key_strides = &parts->strides[0];
	parts->pool.value_strides = &parts->strides[1];
	parts->pool.n_key_bases = parts->pool.n_value_bases = 2;
	parts->pool.key_bases = parts->pointers;
	parts->pool.value_bases = parts->pointers + 2;
}

/* Status of the next reply; a failure's text goes to `detail`. */
static kvc_status next(int fd, uint64_t id)
{
	struct kvc_test_reply reply;
	Kvcellar__Failure *failure;

	if (kvc_ses_next(fd, &reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	assert_int_equal(reply.frame.request_id, id);
	detail[0] = 0;
	if (reply.frame.status != KVC_OK) {
		failure = kvcellar__failure__unpack(NULL, reply.frame.body_bytes, reply.body);
		assert_non_null(failure);
		strncpy(detail, failure->detail, sizeof detail - 1);
		kvcellar__failure__free_unpacked(failure, NULL);
	}
	free(reply.payload);
	return (kvc_status)reply.frame.status;
}

static kvc_status call(int fd, enum kvc_verb verb, const ProtobufCMessage *message)
{
	return next(fd, kvc_ses_send_request(fd, verb, message, NULL, 0));
}

static kvc_status detach(int fd, uint32_t id)
{
	Kvcellar__Detach message = KVCELLAR__DETACH__INIT;

	message.id = id;
	return call(fd, KVC_VERB_DETACH, &message.base);
}

static uint64_t send_detach(int fd, uint32_t id)
{
	Kvcellar__Detach message = KVCELLAR__DETACH__INIT;

	message.id = id;
	return kvc_ses_send_request(fd, KVC_VERB_DETACH, &message.base, NULL, 0);
}

static kvc_status attach(int fd, uint32_t id)
{
	Kvcellar__Attach message = attach_of(id);

	return call(fd, KVC_VERB_ATTACH, &message.base);
}

/* With so many words of marks, and descriptors of a memfd of one page. */
static uint64_t send_pool(int fd, uint32_t id, uint32_t marks, int seals, size_t descriptors)
{
	struct kvc_frame frame = {.verb = KVC_VERB_POOL, .request_id = kvc_ses_request_id()};
	int memfd = memfd_create("marks", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	const int fds[2] = {memfd, memfd};
	static uint8_t out[8192];
	struct pool_parts parts;
	size_t bytes;

	assert_true(memfd >= 0 && ftruncate(memfd, 4096) == 0 && fcntl(memfd, F_ADD_SEALS, seals) == 0);
	pool_init(&parts, id);
	parts.pool.marks = marks;
	frame.flags = descriptors ? KVC_FRAME_FD : 0;
	bytes = kvc_test_frame(&frame, &parts.pool.base, out);
	assert_true(descriptors ? kvc_test_send_fds(fd, out, bytes, fds, descriptors)
	                        : kvc_test_send(fd, out, bytes));
	close(memfd);
	return frame.request_id;
}

static kvc_status pool(int fd, uint32_t id)
{
	return next(fd, send_pool(fd, id, 1, F_SEAL_SHRINK, 1));
}

/* Region 1, pool 2. */
static int client_with_pool(void)
{
	int fd = kvc_ses_client();

	assert_int_equal(attach(fd, 1), KVC_OK);
	assert_int_equal(pool(fd, 2), KVC_OK);
	return fd;
}

/* Blocks of 16 tokens: pages 2i and 2i + 1. */
static uint32_t page_ids[64][3];

static void transfer_init(struct kvc_ses_transfer *t, uint32_t count)
{
	kvc_ses_transfer_init(t, count, KVCELLAR__PLANE__PLANE_CUDA);
	for (uint32_t i = 0; i < count; i++) {
		page_ids[i][0] = 2 * i;
		page_ids[i][1] = 2 * i + 1;
		t->blocks[i].key_offset = t->blocks[i].value_offset = 0;
		t->blocks[i].n_pages = 2;
		t->blocks[i].pages = page_ids[i];
	}
	t->put.region = t->get.region = 2;
}

static void release_all(void)
{
	while (kvc_fake_gpu_release(gpu()))
		kvc_ses_settle();
	kvc_ses_settle();
}

static void assert_refused(kvc_status status, kvc_status expected, const char *text)
{
	if (status != expected || !strstr(detail, text))
		print_error("%s: status %d, '%s'\n", text, status, detail);
	assert_int_equal(status, expected);
	assert_non_null(strstr(detail, text));
}

/* ---- the road ------------------------------------------------------------------------------ */

static void test_put_and_get(void **state)
{
	int fd = client_with_pool();
	struct kvc_ses_transfer t;
	const struct kvc_op *op;
	uint64_t id;

	(void)state;
	assert_memory_equal(kvc_fake_gpu_import(gpu())->handle, handle, sizeof handle);
	assert_int_equal(kvc_fake_gpu_import(gpu())->bytes, REGION_BYTES);
	assert_int_equal(kvc_fake_gpu_pool(gpu())->geometry.layers, 2);
	assert_int_equal(kvc_fake_gpu_pool(gpu())->geometry.key.page, 2048);
	assert_int_equal(kvc_fake_gpu_bases(gpu()), 4);
	assert_int_equal(stat_of("rpc.device_bytes"), REGION_BYTES);
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	transfer_init(&t, 3);
	id = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	assert_true(kvc_ses_silent(fd));
	op = kvc_fake_oldest(kvc_ses.cache);
	assert_int_equal(op->form, KVC_OP_DEVICE);
	assert_ptr_equal(kvc_pool_gpu(op->device.pool), gpu());
	assert_int_equal(op->device.page_count, 2);
	assert_int_equal(op->device.pages[1], 1);
	kvc_fake_release(kvc_ses.cache, 3);
	kvc_ses_assert_blocks(fd, id, "000");
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_AT_ONCE);
	transfer_init(&t, 4);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0), "0001");
	assert_int_equal(detach(fd, 2), KVC_OK);
	assert_int_equal(detach(fd, 1), KVC_OK);
	assert_int_equal(stat_of("rpc.device_bytes"), 0);
	close(fd);
}

/* Page ids take memory until the answer, too: here that of one block. */
static void test_pages_count_as_blocks(void **state)
{
	enum { COUNT = 64 };
	static const uint32_t some[3] = {0, 1, 2};
	int fd = client_with_pool();
	struct kvc_ses_transfer t;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	transfer_init(&t, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		memcpy(page_ids[i], some, sizeof some);
		t.blocks[i].first_token = 1;
		t.blocks[i].n_pages = 3;
	}
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), COUNT);
	assert_int_equal(stat_of("rpc.inflight_blocks"), COUNT + 1);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(stat_of("rpc.inflight_blocks"), 0);
}

/* Nothing is waited for between the frames: the session takes the next when the engine has answered. */
static void test_pipelined(void **state)
{
	Kvcellar__Attach message = attach_of(1);
	int fd = kvc_ses_client();
	struct kvc_ses_transfer t;
	struct pool_parts parts;
	uint64_t ids[3];

	(void)state;
	pool_init(&parts, 2);
	transfer_init(&t, 2);
	kvc_fake_gpu_hold(gpu(), true);
	ids[0] = kvc_ses_send_request(fd, KVC_VERB_ATTACH, &message.base, NULL, 0);
	ids[1] = kvc_ses_send_request(fd, KVC_VERB_POOL, &parts.pool.base, NULL, 0);
	ids[2] = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_fake_gpu_regions(gpu()), 1);
	assert_int_equal(kvc_fake_gpu_pools(gpu()), 0);
	assert_true(kvc_fake_gpu_release(gpu()));
	assert_int_equal(next(fd, ids[0]), KVC_OK);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_fake_gpu_pools(gpu()), 1);
	kvc_fake_gpu_hold(gpu(), false);
	assert_true(kvc_fake_gpu_release(gpu()));
	assert_int_equal(next(fd, ids[1]), KVC_OK);
	kvc_ses_assert_blocks(fd, ids[2], "00");
	close(fd);
}

static uint64_t send_chunks(int fd, uint32_t id, size_t chunks, size_t descriptors)
{
	struct kvc_frame frame = {.verb = KVC_VERB_ATTACH, .request_id = kvc_ses_request_id()};
	Kvcellar__Attach message = attach_of(id);
	static uint64_t sizes[FDS];
	static uint8_t out[8192];
	int fds[FDS];

	message.handle.len = 0;
	message.n_chunk_bytes = chunks;
	message.chunk_bytes = sizes;
	message.bytes = chunks * 65536;
	for (size_t i = 0; i < FDS; i++) {
		sizes[i] = 65536;
		fds[i] = 0; /* any descriptor does for the fake */
	}
	frame.flags = descriptors ? KVC_FRAME_FD : 0;
	assert_true(descriptors <= FDS);
	if (descriptors)
		assert_true(kvc_test_send_fds(fd, out, kvc_test_frame(&frame, &message.base, out), fds,
		                              descriptors));
	else
		assert_true(kvc_test_send(fd, out, kvc_test_frame(&frame, &message.base, out)));
	return frame.request_id;
}

static unsigned descriptors_open(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* FAULTS E5: as many descriptors as chunks, or the end. */
static void test_e5_chunks(void **state)
{
	static const struct {
		size_t chunks, descriptors;
		kvc_status expected;
	} rows[] = {
	        {1, 1, KVC_OK},
	        {240, 240, KVC_OK},
	        {3, 2, KVC_DISCONNECTED},
	        {3, 4, KVC_DISCONNECTED},
	        {1, 0, KVC_DISCONNECTED},
	        {241, 241, KVC_DISCONNECTED},
	        {240, 250, KVC_DISCONNECTED},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		int64_t dropped = stat_of("rpc.dropped.descriptor");
		int fd = kvc_ses_client();
		unsigned before = descriptors_open();

		assert_int_equal(next(fd, send_chunks(fd, 1, rows[i].chunks, rows[i].descriptors)),
		                 rows[i].expected);
		assert_int_equal(stat_of("rpc.dropped.descriptor") - dropped, rows[i].expected != KVC_OK);
		if (rows[i].expected == KVC_OK) {
			assert_int_equal(kvc_fake_gpu_import(gpu())->chunks, rows[i].chunks);
			assert_int_equal(detach(fd, 1), KVC_OK);
			assert_int_equal(descriptors_open(), before);
		}
		close(fd);
		kvc_ses_settle();
	}
}

/* Without a GPU nobody may send more than one descriptor. */
static int setup_few_descriptors(void **state)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = 1000;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	return kvc_ses_setup_gpus(state);
}

/* FAULTS E5: a pool's marks come in a memfd that cannot shrink, or not at all. */
static void test_e5_marks(void **state)
{
	static const struct {
		uint32_t marks;
		size_t descriptors;
		int seals;
		kvc_status expected;
	} rows[] = {
	        {0, 0, F_SEAL_SHRINK, KVC_OK},           {1024, 1, F_SEAL_SHRINK, KVC_OK},
	        {16, 1, F_SEAL_SHRINK, KVC_OK},          {16, 1, F_SEAL_GROW, KVC_INVALID},
	        {1025, 1, F_SEAL_SHRINK, KVC_INVALID},   {16, 0, F_SEAL_SHRINK, KVC_DISCONNECTED},
	        {0, 1, F_SEAL_SHRINK, KVC_DISCONNECTED}, {16, 2, F_SEAL_SHRINK, KVC_DISCONNECTED},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		int64_t dropped = stat_of("rpc.dropped.descriptor");
		int fd = kvc_ses_client();
		unsigned before = descriptors_open();

		assert_int_equal(attach(fd, 1), KVC_OK);
		assert_int_equal(
		        next(fd, send_pool(fd, 2, rows[i].marks, rows[i].seals, rows[i].descriptors)),
		        rows[i].expected);
		assert_int_equal(stat_of("rpc.dropped.descriptor") - dropped,
		                 rows[i].expected == KVC_DISCONNECTED);
		if (rows[i].expected == KVC_OK) {
			assert_int_equal(kvc_fake_gpu_pool(gpu())->marks, rows[i].marks);
			assert_int_equal(detach(fd, 2), KVC_OK);
		}
		if (rows[i].expected != KVC_DISCONNECTED)
			assert_int_equal(descriptors_open(), before);
		close(fd);
		kvc_ses_settle();
	}
}

/* Half of the process's descriptors are for regions in chunks; of one connection those of one region at
 * least. What was detached, or left with its client, counts no more. */
static void test_descriptors_are_bounded(void **state)
{
	int first = kvc_ses_client(), second = kvc_ses_client(), third = kvc_ses_client();
	unsigned before = descriptors_open();

	(void)state;
	assert_int_equal(next(first, send_chunks(first, 1, 200, 200)), KVC_OK);
	assert_refused(next(first, send_chunks(first, 2, 41, 41)), KVC_LIMIT, "of one connection");
	assert_int_equal(next(first, send_chunks(first, 2, 40, 40)), KVC_OK);
	assert_int_equal(next(second, send_chunks(second, 1, 240, 240)), KVC_OK);
	assert_refused(next(third, send_chunks(third, 1, 21, 21)), KVC_LIMIT, "of all connections");
	assert_int_equal(next(third, send_chunks(third, 1, 20, 20)), KVC_OK);
	assert_int_equal(detach(first, 2), KVC_OK);
	assert_int_equal(next(third, send_chunks(third, 2, 40, 40)), KVC_OK);
	assert_int_equal(descriptors_open(), before);
	close(second);
	kvc_ses_settle();
	assert_int_equal(next(third, send_chunks(third, 3, 180, 180)), KVC_OK);
	close(first);
	close(third);
}

static void test_e5_no_gpu(void **state)
{
	int fd = kvc_ses_client();

	(void)state;
	assert_int_equal(next(fd, send_chunks(fd, 1, 2, 2)), KVC_DISCONNECTED);
	assert_int_equal(stat_of("rpc.dropped.descriptor"), 1);
	close(fd);
	fd = kvc_ses_client();
	assert_int_equal(attach(fd, 1), KVC_UNSUPPORTED);
	assert_non_null(strstr(detail, "it has none; start kvcellard with --gpus"));
	close(fd);
}

static void test_hello_planes(void **state)
{
	Kvcellar__Hello message;
	struct kvc_test_reply reply;
	Kvcellar__HelloReply *hello;
	int fd = kvc_ses_connect_raw();

	(void)state;
	kvcellar__hello__init(&message);
	message.protocol_min = message.protocol_max = 1;
	kvc_ses_send_request(fd, KVC_VERB_HELLO, &message.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	hello = kvcellar__hello_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(hello);
	assert_int_equal(hello->planes, kvc_ses.gpus[0] ? 14 : 6);
	kvcellar__hello_reply__free_unpacked(hello, NULL);
	close(fd);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void test_attach_refused(void **state)
{
	Kvcellar__Attach message = attach_of(1);
	int fd = kvc_ses_client();

	(void)state;
	uuid[15] = 'x';
	assert_refused(call(fd, KVC_VERB_ATTACH, &message.base), KVC_UNSUPPORTED,
	               "no engine for GPU GPU-66616b65-2d67-7075-2d30-303030303078; it has "
	               "GPU-66616b65-2d67-7075-2d30-303030303030 and others; start kvcellard with --gpus");
	uuid[15] = '0';
	message.bytes = UINT64_MAX;
	assert_refused(call(fd, KVC_VERB_ATTACH, &message.base), KVC_LIMIT, "bytes");
	assert_int_equal(attach(fd, 1), KVC_OK);
	assert_refused(attach(fd, 1), KVC_IN_USE, "id: 1");
	for (uint32_t id = 2; id <= 8; id++)
		assert_int_equal(attach(fd, id), KVC_OK);
	assert_refused(attach(fd, 9), KVC_LIMIT, "limits.regions");
	assert_refused(detach(fd, 9), KVC_UNKNOWN_ID, "id: 9");
	close(fd);
}

/* Host and device memory share ids. */
static void test_ids_are_shared(void **state)
{
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	int memfd = kvc_ses_sealed_memfd();
	struct kvc_ses_transfer t;

	(void)state;
	assert_refused(attach(fd, 1), KVC_IN_USE, "id: 1");
	assert_int_equal(attach(fd, 5), KVC_OK);
	assert_int_equal(kvc_ses_attach(fd, 5, memfd), KVC_IN_USE);
	transfer_init(&t, 1);
	t.put.region = 5;
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_UNKNOWN_ID, "5 is no pool");
	t.put.region = 1;
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_UNKNOWN_ID, "1 is no pool");
	munmap(memory, KVC_SES_REGION_BYTES);
	close(memfd);
	close(fd);
}

static void pool_refused(int fd, struct pool_parts *parts, kvc_status expected, const char *text)
{
	assert_refused(call(fd, KVC_VERB_POOL, &parts->pool.base), expected, text);
	assert_int_equal(kvc_fake_gpu_pools(gpu()), 0);
	pool_init(parts, 2);
}

static void test_pool_refused(void **state)
{
	Kvcellar__Attach other = attach_of(3);
	struct pool_parts parts;
	int fd = kvc_ses_client();

	(void)state;
	assert_int_equal(attach(fd, 1), KVC_OK);
	uuid[15] = '1';
	assert_int_equal(call(fd, KVC_VERB_ATTACH, &other.base), KVC_OK);
	uuid[15] = '0';
	pool_init(&parts, 2);
	parts.pool.namespace_ = 7;
	pool_refused(fd, &parts, KVC_UNKNOWN_ID, "namespace: 7");
	parts.pool.n_key_bases = 1;
	pool_refused(fd, &parts, KVC_SHAPE, "key_bases: 1, expected 2");
	parts.pool.n_value_bases = 0;
	parts.pool.value_strides = NULL;
	pool_refused(fd, &parts, KVC_SHAPE, "value_bases: 0, expected 2");
	parts.bases[1].region = 9;
	pool_refused(fd, &parts, KVC_UNKNOWN_ID, "key_bases[1].region: 9");
	parts.bases[2].region = 3;
	pool_refused(fd, &parts, KVC_INVALID, "value_bases[0].region: 3 is on another GPU");
	parts.bases[3].offset += 2;
	pool_refused(fd, &parts, KVC_SHAPE, "value_bases[1].offset: the pages take 32768 bytes");
	parts.bases[3].offset = UINT64_MAX - 1;
	pool_refused(fd, &parts, KVC_SHAPE, "value_bases[1].offset");
	parts.bases[0].offset = 1;
	pool_refused(fd, &parts, KVC_SHAPE, "key_bases[0].offset: 1, expected a multiple of 2");
	parts.pool.marks = 1025;
	pool_refused(fd, &parts, KVC_INVALID, "marks: 1025, expected at most 1024");
	parts.pool.pages = 0;
	pool_refused(fd, &parts, KVC_INVALID, "pages: 0");
	close(fd);
}

static void test_pool_strides_refused(void **state)
{
	static const struct {
		uint64_t page, token, head, pages;
	} rows[] = {
	        {2048, 256, 127, PAGES},        {2047, 256, 128, PAGES},
	        {2048, 255, 128, PAGES},        {2046, 256, 128, PAGES},
	        {2048, 254, 128, PAGES},        {0, 256, 128, PAGES},
	        {UINT64_MAX - 1, 256, 128, 16}, {1ull << 60, 256, 128, 1ull << 32},
	};
	struct pool_parts parts;
	int fd = kvc_ses_client();

	(void)state;
	assert_int_equal(attach(fd, 1), KVC_OK);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		pool_init(&parts, 2);
		parts.strides[1].page = rows[i].page;
		parts.strides[1].token = rows[i].token;
		parts.strides[1].head = rows[i].head;
		parts.pool.pages = rows[i].pages;
		if (rows[i].pages != PAGES) /* the keys' fit */
			parts.strides[0].page = 0;
		assert_refused(call(fd, KVC_VERB_POOL, &parts.pool.base), KVC_SHAPE, "_strides: ");
	}
	close(fd);
}

static void put_refused(int fd, struct kvc_ses_transfer *t, kvc_status expected, const char *text)
{
	assert_refused(call(fd, KVC_VERB_PUT, &t->put.base), expected, text);
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 0);
	transfer_init(t, 3);
}

static void test_blocks_refused(void **state)
{
	static uint32_t many[KVC_GPU_PAGES_MAX + 1];
	Kvcellar__Mark mark = KVCELLAR__MARK__INIT;
	int fd = client_with_pool();
	struct kvc_ses_transfer t;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	transfer_init(&t, 3);
	t.blocks[2].n_pages = 1;
	put_refused(fd, &t, KVC_SHAPE, "blocks.pages[2]: 1 ids, expected 2");
	t.blocks[2].n_pages = 3;
	put_refused(fd, &t, KVC_SHAPE, "blocks.pages[2]: 3 ids, expected 2");
	t.blocks[1].first_token = 1;
	put_refused(fd, &t, KVC_SHAPE, "blocks.pages[1]: 2 ids, expected 3");
	t.blocks[1].first_token = PAGE_TOKENS;
	put_refused(fd, &t, KVC_SHAPE, "blocks.first_token[1]: 8, expected less than");
	t.blocks[1].first_token = UINT32_MAX;
	put_refused(fd, &t, KVC_SHAPE, "blocks.first_token[1]");
	page_ids[2][1] = PAGES;
	put_refused(fd, &t, KVC_INVALID, "blocks.pages[2]: page id 16, expected less than");
	page_ids[2][1] = UINT32_MAX;
	put_refused(fd, &t, KVC_INVALID, "blocks.pages[2]: page id 4294967295");
	t.blocks[0].pages = many;
	t.blocks[0].n_pages = KVC_GPU_PAGES_MAX + 1;
	put_refused(fd, &t, KVC_LIMIT, "blocks.pages[0]: 4097 ids");
	t.blocks[0].key_offset = 64;
	put_refused(fd, &t, KVC_INVALID, "blocks.key_offset[0]");
	mark.word = 1;
	t.put.mark = &mark;
	put_refused(fd, &t, KVC_INVALID, "mark.word: not one of the 1 words that pool 2 has");
	mark.word = UINT32_MAX;
	t.put.mark = &mark;
	put_refused(fd, &t, KVC_INVALID, "mark.word: not one of the 1 words that pool 2 has");
	t.put.form = KVCELLAR__FORM__FORM_IMAGE;
	put_refused(fd, &t, KVC_INVALID, "form: 1");
	t.blocks[1].tokens = 17;
	put_refused(fd, &t, KVC_SHAPE, "blocks.tokens[1]: 17");
	close(fd);
}

/* A namespace of another shape has no business in the pool; one of the same shape may use it. */
static void test_other_namespace(void **state)
{
	int fd = client_with_pool();
	struct kvc_ses_transfer t;
	char text[] = "t";
	char preset[] = "raw";
	Kvcellar__Codec codec;
	Kvcellar__Open open;

	(void)state;
	kvcellar__codec__init(&codec);
	kvcellar__open__init(&open);
	codec.preset = preset;
	open.id = 2;
	open.tenant = open.model = text;
	open.layers = 2;
	open.heads = 1;
	open.key_dim = open.value_dim = 64;
	open.dtype = KVCELLAR__DTYPE__DTYPE_BF16;
	open.block_tokens = 16;
	open.shards = 1;
	open.codec = &codec;
	assert_int_equal(call(fd, KVC_VERB_OPEN, &open.base), KVC_OK);
	transfer_init(&t, 1);
	t.put.namespace_ = 2;
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_SHAPE, "pool 2 is of another shape");
	close(fd);
}

/* ---- the engine fails ---------------------------------------------------------------------- */

static void test_engine_refuses(void **state)
{
	int fd = kvc_ses_client();

	(void)state;
	kvc_fake_gpu_fail(gpu(), KVC_INVALID, false);
	assert_refused(attach(fd, 1), KVC_INVALID, "GPU engine: as the test wants it");
	kvc_fake_gpu_fail(gpu(), KVC_ENGINE_LOST, true);
	assert_refused(attach(fd, 1), KVC_ENGINE_LOST, "GPU engine");
	kvc_fake_gpu_fail(gpu(), KVC_OK, false);
	assert_int_equal(attach(fd, 1), KVC_OK);
	kvc_fake_gpu_fail(gpu(), KVC_SHAPE, false);
	assert_refused(pool(fd, 2), KVC_SHAPE, "as the test wants it");
	kvc_fake_gpu_fail(gpu(), KVC_NO_MEMORY, true);
	assert_refused(pool(fd, 2), KVC_NO_MEMORY, "GPU engine");
	kvc_fake_gpu_fail(gpu(), KVC_OK, false);
	assert_int_equal(pool(fd, 2), KVC_OK);
	close(fd);
}

/* The engine does not answer in time: the id is free again, and what it answers late is closed. */
static void test_deadline(void **state)
{
	Kvcellar__Attach message = attach_of(1);
	int fd = kvc_ses_client();
	uint64_t id;

	(void)state;
	kvc_fake_gpu_hold(gpu(), true);
	id = kvc_ses_send_request(fd, KVC_VERB_ATTACH, &message.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(next(fd, id), KVC_DEADLINE);
	assert_int_equal(stat_of("rpc.deadlines"), 1);
	kvc_fake_gpu_hold(gpu(), false);
	assert_int_equal(attach(fd, 1), KVC_OK);
	assert_int_equal(kvc_fake_gpu_regions(gpu()), 2);
	assert_true(kvc_fake_gpu_release(gpu()));
	kvc_ses_settle();
	assert_int_equal(kvc_fake_gpu_regions(gpu()), 1);
	close(fd);
}

/* ---- detach -------------------------------------------------------------------------------- */

static void test_detach_waits_for_requests_and_engine(void **state)
{
	int fd = client_with_pool();
	struct kvc_ses_transfer t;
	uint64_t put, out;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	transfer_init(&t, 2);
	put = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	assert_refused(detach(fd, 1), KVC_IN_USE, "pool 2 lies in region 1");
	out = send_detach(fd, 2);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_fake_gpu_pools(gpu()), 1);
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_UNKNOWN_ID, "2 is no pool");
	kvc_fake_gpu_hold(gpu(), true);
	kvc_fake_release(kvc_ses.cache, 2);
	kvc_ses_assert_blocks(fd, put, "00");
	assert_true(kvc_ses_silent(fd)); /* the engine has not closed it */
	assert_true(kvc_fake_gpu_release(gpu()));
	assert_int_equal(next(fd, out), KVC_OK);
	kvc_fake_gpu_hold(gpu(), false);
	assert_int_equal(detach(fd, 1), KVC_OK);
	close(fd);
}

/* A client need not wait between the two. */
static void test_detach_pipelined(void **state)
{
	int fd = client_with_pool();
	uint64_t ids[2];

	(void)state;
	kvc_fake_gpu_hold(gpu(), true);
	ids[0] = send_detach(fd, 2);
	ids[1] = send_detach(fd, 1);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_fake_gpu_held(gpu()), 2);
	assert_true(kvc_fake_gpu_release(gpu()));
	assert_int_equal(next(fd, ids[0]), KVC_OK);
	assert_true(kvc_fake_gpu_release(gpu()));
	assert_int_equal(next(fd, ids[1]), KVC_OK);
	close(fd);
}

/* ---- the client goes ----------------------------------------------------------------------- */

/* Operations end first, then the engine lets go, then the socket is closed. */
static void test_client_goes_mid_put(void **state)
{
	int fd = client_with_pool();
	struct kvc_ses_transfer t;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	kvc_fake_gpu_hold(gpu(), true);
	transfer_init(&t, 2);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	close(fd);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_gpu_held(gpu()), 0);
	kvc_fake_release(kvc_ses.cache, 2);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_gpu_held(gpu()), 2);
	assert_int_equal(stat_of("rpc.connections"), 1);
	release_all();
	assert_int_equal(kvc_fake_gpu_regions(gpu()) + kvc_fake_gpu_pools(gpu()), 0);
	assert_int_equal(stat_of("rpc.connections"), 0);
	assert_int_equal(stat_of("rpc.device_bytes"), 0);
}

/* While attach, pool and detach are under way. */
static void test_client_goes_while_opening(void **state)
{
	struct pool_parts parts;

	(void)state;
	for (unsigned step = 0; step < 4; step++) {
		Kvcellar__Attach message = attach_of(1);
		int fd = kvc_ses_client();

		if (step > 0)
			assert_int_equal(attach(fd, 1), KVC_OK);
		if (step > 1)
			assert_int_equal(pool(fd, 2), KVC_OK);
		kvc_fake_gpu_hold(gpu(), true);
		pool_init(&parts, 2);
		if (step == 0)
			kvc_ses_send_request(fd, KVC_VERB_ATTACH, &message.base, NULL, 0);
		else if (step == 1)
			kvc_ses_send_request(fd, KVC_VERB_POOL, &parts.pool.base, NULL, 0);
		else if (step == 2)
			send_detach(fd, 2);
		kvc_ses_settle();
		close(fd);
		kvc_ses_settle();
		assert_int_equal(stat_of("rpc.connections"), 1);
		kvc_fake_gpu_fail(gpu(), KVC_OK, false);
		release_all();
		assert_int_equal(kvc_fake_gpu_regions(gpu()) + kvc_fake_gpu_pools(gpu()), 0);
		assert_int_equal(stat_of("rpc.connections"), 0);
		assert_int_equal(stat_of("rpc.inflight"), 0);
		kvc_fake_gpu_hold(gpu(), false);
	}
}

/* The stop of the server releases what idle clients hold. */
static void test_stop(void **state)
{
	int fd = client_with_pool();

	(void)state;
	kvc_ses_stop(0);
	assert_int_equal(kvc_fake_gpu_regions(gpu()) + kvc_fake_gpu_pools(gpu()), 0);
	close(fd);
}

/* ---- deadlines of puts --------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Pages may change after the caller's deadline: what was read later does not stay. */
static void test_late_put_does_not_stay(void **state)
{
	int fd = client_with_pool();
	struct kvc_ses_transfer t;
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	transfer_init(&t, 1);
	t.put.expires_ns = now_ns() + 50000000;
	id = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	while (now_ns() < t.put.expires_ns)
		kvc_ses_settle();
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "3");
	assert_int_equal(kvc_fake_blocks(kvc_ses.cache), 0);
	close(fd);
}

/* ---- images -------------------------------------------------------------------------------- */

static void image_init(struct kvc_ses_transfer *t, uint64_t offset, uint64_t bytes)
{
	kvc_ses_transfer_init(t, 1, KVCELLAR__PLANE__PLANE_SHM);
	t->put.form = t->get.form = KVCELLAR__FORM__FORM_IMAGE;
	t->blocks[0].key_offset = offset;
	t->blocks[0].value_offset = 0;
	t->blocks[0].image_bytes = bytes;
}

static void test_images(void **state)
{
	struct kvc_ses_transfer t;
	struct kvc_test_reply reply;
	Kvcellar__BlocksReply *blocks;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_ses_fill(memory, 1000, 3);
	image_init(&t, 0, 1000);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0), "0");
	image_init(&t, 4096, 999);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0), "d");
	image_init(&t, 4096, 2000);
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	blocks = kvcellar__blocks_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_int_equal(blocks->n_image_bytes, 1);
	assert_int_equal(blocks->image_bytes[0], 1000);
	kvcellar__blocks_reply__free_unpacked(blocks, NULL);
	assert_memory_equal(memory + 4096, memory, 1000);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static void test_images_refused(void **state)
{
	static const struct {
		uint64_t offset, bytes;
		kvc_status expected;
		const char *text;
	} rows[] = {
	        {32, 1000, KVC_INVALID, "blocks.key_offset[0]: 32"},
	        {0, 0, KVC_INVALID, "blocks.image_bytes[0]: 0"},
	        {0, (1u << 30) + 1, KVC_INVALID, "blocks.image_bytes[0]"},
	        {KVC_SES_REGION_BYTES - 64, 65, KVC_SHAPE, "blocks.key_offset[0]: 65 bytes"},
	        {UINT64_MAX - 63, 64, KVC_SHAPE, "blocks.key_offset[0]"},
	};
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		image_init(&t, rows[i].offset, rows[i].bytes);
		assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), rows[i].expected, rows[i].text);
	}
	image_init(&t, 0, 64);
	t.put.form = KVCELLAR__FORM__FORM_BLOCK;
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_INVALID, "blocks.image_bytes[0]");
	t.put.form = (Kvcellar__Form)2;
	assert_refused(call(fd, KVC_VERB_PUT, &t.put.base), KVC_INVALID, "form: 2");
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* The n-th allocation of attach, pool and put fails: an error, or the end, and nothing is left. */
static bool run_failing(uint64_t n)
{
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();
	bool whole = false;

	transfer_init(&t, 3);
	kvc_alloc_fail_at(n, 0);
	if (attach(fd, 1) == KVC_OK && pool(fd, 2) == KVC_OK)
		whole = call(fd, KVC_VERB_PUT, &t.put.base) == KVC_OK;
	kvc_alloc_fail_at(0, 0);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(stat_of("rpc.connections"), 0);
	assert_int_equal(kvc_fake_gpu_regions(gpu()) + kvc_fake_gpu_pools(gpu()), 0);
	return whole;
}

static void test_allocations_fail(void **state)
{
	uint64_t n = 1;

	(void)state;
	while (!run_failing(n))
		n++;
	print_message("%llu allocations\n", (unsigned long long)n - 1);
	assert_true(n > 4);
}

#define GPUS(test)   cmocka_unit_test_setup_teardown(test, kvc_ses_setup_gpus, kvc_ses_teardown)
#define NO_GPU(test) cmocka_unit_test_setup_teardown(test, kvc_ses_setup, kvc_ses_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        GPUS(test_put_and_get),
	        GPUS(test_pages_count_as_blocks),
	        GPUS(test_pipelined),
	        GPUS(test_e5_chunks),
	        NO_GPU(test_e5_no_gpu),
	        cmocka_unit_test_setup_teardown(test_descriptors_are_bounded, setup_few_descriptors,
	                                        kvc_ses_teardown),
	        GPUS(test_hello_planes),
	        NO_GPU(test_hello_planes),
	        GPUS(test_attach_refused),
	        GPUS(test_ids_are_shared),
	        GPUS(test_pool_refused),
	        GPUS(test_e5_marks),
	        GPUS(test_pool_strides_refused),
	        GPUS(test_blocks_refused),
	        GPUS(test_other_namespace),
	        GPUS(test_engine_refuses),
	        GPUS(test_deadline),
	        GPUS(test_detach_waits_for_requests_and_engine),
	        GPUS(test_detach_pipelined),
	        GPUS(test_client_goes_mid_put),
	        GPUS(test_client_goes_while_opening),
	        GPUS(test_stop),
	        GPUS(test_late_put_does_not_stay),
	        GPUS(test_images),
	        GPUS(test_images_refused),
	        GPUS(test_allocations_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
