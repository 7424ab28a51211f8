/* A worker that lies: handles that are none, sizes beyond the allocation, page ids out of range.
 *
 * Each lie, sent as raw frames because the library would not, must be answered with an error that says what
 * is wrong and that is no use repeating; then a put and a get of an honest worker must work, with the same
 * engine: nothing of it sticks in its CUDA context. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/gpu/e2e/load.h"
#include "tests/support/wire.h"

/* The shape of kvc_test_open_ns, on pages of 16 tokens: 2 layers, 2 heads of 64 channels, (2, page, token,
 * head, dim).
 */
#define PAGES       32u
#define PAGE_BYTES  (16u * 2u * 64u * 2u)
#define LAYER_BYTES (2u * PAGES * PAGE_BYTES)
#define POOL_BYTES  (2u * LAYER_BYTES)
#define REGION      1u
#define POOL        2u

struct world {
	struct rig rig;
	struct load_oracle oracle;
	struct load_counts counts;
	struct load_user honest;
	uint64_t numbers; /* of honest blocks */
	pid_t engine;
	uint64_t memory; /* of the liar, on the device */
	uint8_t handle[64];
	uint8_t uuid[16];
	int fd; /* its connection */
};

static struct world world;

/* ---- frames -------------------------------------------------------------------------------- */

/* An honest attach: what a lie begins with. */
static void attach_init(Kvcellar__Attach *attach)
{
	kvcellar__attach__init(attach);
	attach->id = REGION;
	attach->plane = KVCELLAR__PLANE__PLANE_CUDA;
	attach->bytes = POOL_BYTES;
	attach->device = (ProtobufCBinaryData){.len = 16, .data = world.uuid};
	attach->handle = (ProtobufCBinaryData){.len = 64, .data = world.handle};
}

struct pool_frame {
	Kvcellar__Pool pool;
	Kvcellar__PoolStrides strides;
	Kvcellar__PoolBase bases[4];
	Kvcellar__PoolBase *keys[2];
	Kvcellar__PoolBase *values[2];
};

static void pool_init(struct pool_frame *frame)
{
	kvcellar__pool__init(&frame->pool);
	kvcellar__pool_strides__init(&frame->strides);
	frame->strides.page = PAGE_BYTES;
	frame->strides.token = 2 * 64 * 2;
	frame->strides.head = 64 * 2;
	for (unsigned i = 0; i < 4; i++) {
		kvcellar__pool_base__init(&frame->bases[i]);
		frame->bases[i].region = REGION;
		frame->bases[i].offset = i / 2 * LAYER_BYTES + i % 2 * (LAYER_BYTES / 2);
		*(i % 2 ? &frame->values[i / 2] : &frame->keys[i / 2]) = &frame->bases[i];
	}
	frame->pool.id = POOL;
	frame->pool.namespace_ = 1;
	frame->pool.pages = PAGES;
	frame->pool.page_tokens = 16;
	frame->pool.key_strides = frame->pool.value_strides = &frame->strides;
	frame->pool.n_key_bases = frame->pool.n_value_bases = 2;
	frame->pool.key_bases = frame->keys;
	frame->pool.value_bases = frame->values;
}

static kvc_status send_attach(const Kvcellar__Attach *attach, const int *fds, size_t count,
                              struct kvc_test_reply *reply)
{
	struct kvc_frame frame = {
	        .verb = KVC_VERB_ATTACH, .request_id = 900, .flags = count ? KVC_FRAME_FD : 0};
	uint8_t bytes[1 << 16];
	size_t length = kvc_test_frame(&frame, &attach->base, bytes);
	bool sent = count ? kvc_test_send_fds(world.fd, bytes, length, fds, count)
	                  : kvc_test_send(world.fd, bytes, length);

	if (!sent || kvc_test_receive(world.fd, reply) != KVC_TEST_REPLY)
		return KVC_DISCONNECTED;
	return (kvc_status)reply->frame.status;
}

static kvc_status send_pool(const struct pool_frame *frame, struct kvc_test_reply *reply)
{
	return kvc_test_call(world.fd, KVC_VERB_POOL, &frame->pool.base, reply);
}

/* ---- what must follow a lie ---------------------------------------------------------------- */

static bool is_clear(kvc_status status)
{
	return status != KVC_OK && status != KVC_DISCONNECTED && status != KVC_INTERNAL &&
	       status != KVC_ENGINE_LOST && !kvc_status_retryable(status);
}

static void expect_refused(kvc_status status, const struct kvc_test_reply *reply, const char *what)
{
	const char *detail = kvc_test_detail(reply);

	printf("%s: %s: %s\n", what, kvc_status_name(status), detail);
	if (!is_clear(status) || !*detail)
		fail_msg("%s: %s is no clear error", what, kvc_status_name(status));
}

static void expect_healthy(const char *what)
{
	uint64_t first = world.numbers;

	world.numbers += LOAD_BATCH;
	if (load_put(&world.honest, first, LOAD_BATCH, KVC_ACK_RAM) != LOAD_BATCH ||
	    load_get(&world.honest, first, LOAD_BATCH) != LOAD_BATCH)
		fail_msg("after %s: an honest put and get do not work", what);
	assert_int_equal(rig_engine(&world.rig), world.engine);
	assert_int_equal(rig_gpu(&world.rig, "restarts") > 0, 0);
}

/* ---- regions ------------------------------------------------------------------------------- */

static void lie_by_handle(Kvcellar__Attach *attach, const char *what)
{
	struct kvc_test_reply reply;

	expect_refused(send_attach(attach, NULL, 0, &reply), &reply, what);
	expect_healthy(what);
}

static void test_handles(void **state)
{
	uint8_t forged[64];
	Kvcellar__Attach attach;
	uint64_t seed = 5;

	(void)state;
	attach_init(&attach);
	attach.handle.data = forged;
	memset(forged, 0, sizeof forged);
	lie_by_handle(&attach, "a handle of zeros");
	memset(forged, 0xFF, sizeof forged);
	lie_by_handle(&attach, "a handle of ones");
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned j = 0; j < sizeof forged; j++)
			forged[j] = (uint8_t)kvc_sample_random(&seed);
		lie_by_handle(&attach, "a random handle");
	}
	attach_init(&attach);
	attach.handle.len = 63;
	lie_by_handle(&attach, "a short handle");
}

static void test_sizes(void **state)
{
	Kvcellar__Attach attach;

	(void)state;
	attach_init(&attach);
	attach.bytes = UINT64_C(1) << 30;
	lie_by_handle(&attach, "more bytes than the allocation has");
	attach.bytes = UINT64_MAX;
	lie_by_handle(&attach, "2^64 - 1 bytes");
	attach_init(&attach);
	attach.offset = UINT64_C(1) << 30;
	lie_by_handle(&attach, "an offset behind the allocation");
	attach.offset = UINT64_MAX - 4095;
	lie_by_handle(&attach, "an offset that wraps around");
	attach_init(&attach);
	attach.bytes = 0;
	lie_by_handle(&attach, "no bytes");
}

static void test_devices(void **state)
{
	uint8_t other[16] = {1, 2, 3};
	Kvcellar__Attach attach;

	(void)state;
	attach_init(&attach);
	attach.device.data = other;
	lie_by_handle(&attach, "a device that is not there");
	attach_init(&attach);
	attach.device.len = 15;
	lie_by_handle(&attach, "a short device id");
}

static void lie_by_descriptor(int fd, uint64_t bytes, const char *what)
{
	Kvcellar__Attach attach;
	struct kvc_test_reply reply;

	assert_true(fd >= 0);
	attach_init(&attach);
	attach.handle.len = 0;
	attach.n_chunk_bytes = 1;
	attach.chunk_bytes = &bytes;
	attach.bytes = bytes;
	expect_refused(send_attach(&attach, &fd, 1, &reply), &reply, what);
	close(fd);
	expect_healthy(what);
}

/* A memfd is what the stand-in has for device memory, so there it is too short instead. */
static void test_descriptors(void **state)
{
	int memfd = memfd_create("lie", MFD_CLOEXEC);
	struct driver_vmm vmm;
	int pipe_fds[2];

	(void)state;
	lie_by_descriptor(open("/dev/null", O_RDWR | O_CLOEXEC), UINT64_C(2) << 20,
	                  "/dev/null for device memory");
	assert_int_equal(pipe(pipe_fds), 0);
	close(pipe_fds[1]);
	lie_by_descriptor(pipe_fds[0], UINT64_C(2) << 20, "a pipe for device memory");
	assert_int_equal(ftruncate(memfd, 4096), 0);
	lie_by_descriptor(memfd, UINT64_C(2) << 20, "a file for device memory");
	driver_vmm_alloc(&vmm, UINT64_C(2) << 20, UINT64_C(2) << 20, true);
	lie_by_descriptor(driver_vmm_export(&vmm, 0), UINT64_C(64) << 20, "a chunk of 2 MiB for 64");
	driver_vmm_free(&vmm);
}

/* ---- pools --------------------------------------------------------------------------------- */

static void attach_honestly(void)
{
	Kvcellar__Attach attach;
	struct kvc_test_reply reply;
	kvc_status status;

	attach_init(&attach);
	status = send_attach(&attach, NULL, 0, &reply);
	if (status != KVC_OK)
		fail_msg("an honest attach: %s: %s", kvc_status_name(status), kvc_test_detail(&reply));
}

static void detach(uint32_t id)
{
	Kvcellar__Detach message;
	struct kvc_test_reply reply;

	kvcellar__detach__init(&message);
	message.id = id;
	assert_int_equal(kvc_test_call(world.fd, KVC_VERB_DETACH, &message.base, &reply), KVC_OK);
}

static void lie_by_pool(const struct pool_frame *frame, const char *what)
{
	struct kvc_test_reply reply;

	expect_refused(send_pool(frame, &reply), &reply, what);
	expect_healthy(what);
}

static void test_pools(void **state)
{
	struct pool_frame frame;

	(void)state;
	attach_honestly();
	pool_init(&frame);
	frame.pool.pages = PAGES + 1;
	lie_by_pool(&frame, "a page beyond the region");
	frame.pool.pages = UINT64_MAX / PAGE_BYTES;
	lie_by_pool(&frame, "2^51 pages");
	pool_init(&frame);
	frame.bases[3].offset = POOL_BYTES - 64;
	lie_by_pool(&frame, "a layer beyond the region");
	pool_init(&frame);
	frame.strides.page = UINT64_MAX / 4;
	lie_by_pool(&frame, "a stride beyond the region");
	pool_init(&frame);
	frame.pool.marks = 1u << 30;
	lie_by_pool(&frame, "2^30 marks");
	detach(REGION);
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* Status of the one block of a put or get, or that of the request. */
static kvc_status send_block(bool get, Kvcellar__Block *block, struct kvc_test_reply *reply)
{
	Kvcellar__Block *blocks[1] = {block};
	Kvcellar__BlocksReply *answer;
	Kvcellar__Put put;
	Kvcellar__Get ask;
	kvc_status status;

	kvcellar__put__init(&put);
	kvcellar__get__init(&ask);
	put.namespace_ = ask.namespace_ = 1;
	put.plane = ask.plane = KVCELLAR__PLANE__PLANE_CUDA;
	put.region = ask.region = POOL;
	put.ack = KVCELLAR__ACK__ACK_RAM;
	put.n_blocks = ask.n_blocks = 1;
	put.blocks = ask.blocks = blocks;
	status = get ? kvc_test_call(world.fd, KVC_VERB_GET, &ask.base, reply)
	             : kvc_test_call(world.fd, KVC_VERB_PUT, &put.base, reply);
	if (status != KVC_OK)
		return status;
	answer = kvcellar__blocks_reply__unpack(NULL, reply->frame.body_bytes, reply->body);
	assert_non_null(answer);
	assert_int_equal(answer->n_statuses, 1);
	status = (kvc_status)answer->statuses[0];
	kvcellar__blocks_reply__free_unpacked(answer, NULL);
	return status;
}

static void block_init(Kvcellar__Block *block, char *key, uint32_t *page)
{
	kvcellar__block__init(block);
	block->key = (ProtobufCBinaryData){.len = strlen(key), .data = (uint8_t *)key};
	block->tokens = 16;
	block->n_pages = 1;
	block->pages = page;
}

static void lie_by_block(bool get, Kvcellar__Block *block, const char *what)
{
	struct kvc_test_reply reply;
	kvc_status status = send_block(get, block, &reply);

	printf("%s of %s: %s\n", get ? "get" : "put", what, kvc_status_name(status));
	if (!is_clear(status))
		fail_msg("%s: %s is no clear error", what, kvc_status_name(status));
	expect_healthy(what);
}

static void lies_of_pages(bool get)
{
	char key[16] = "honest";
	uint32_t pages[4] = {PAGES, 0, 0, 0};
	Kvcellar__Block block;

	if (!get)
		snprintf(key, sizeof key, "lie");
	block_init(&block, key, pages);
	lie_by_block(get, &block, "a page id out of range");
	pages[0] = UINT32_MAX;
	lie_by_block(get, &block, "page id 2^32 - 1");
	pages[0] = 1;
	block.n_pages = 0;
	lie_by_block(get, &block, "no pages");
	block.n_pages = 1;
	block.first_token = 8;
	lie_by_block(get, &block, "too few pages");
	block.n_pages = 4;
	block.first_token = 0;
	lie_by_block(get, &block, "too many pages");
	block.n_pages = 1;
	block.first_token = UINT32_MAX;
	lie_by_block(get, &block, "a first token beyond the page");
}

static void test_page_ids(void **state)
{
	char key[16] = "honest";
	uint32_t page = 3;
	struct kvc_test_reply reply;
	struct pool_frame frame;
	Kvcellar__Block block;
	kvc_status status;

	(void)state;
	attach_honestly();
	pool_init(&frame);
	status = send_pool(&frame, &reply);
	if (status != KVC_OK)
		fail_msg("an honest pool: %s: %s", kvc_status_name(status), kvc_test_detail(&reply));
	block_init(&block, key, &page);
	assert_int_equal(send_block(false, &block, &reply), KVC_OK);
	lies_of_pages(false);
	lies_of_pages(true);
	assert_int_equal(send_block(true, &block, &reply), KVC_OK);
	detach(POOL);
	detach(REGION);
}

/* ---- all of them --------------------------------------------------------------------------- */

static int world_open(void **state)
{
	static const struct paged_form form = {.name = "honest", .order = PAGED_TWO_FIRST, .page_tokens = 16};

	(void)state;
	load_oracle_open(&world.oracle, LOAD_BATCH);
	if (!rig_open(&world.rig, &(struct rig_options){.vram = "32M"}) ||
	    !load_user_open(&world.honest, &world.oracle, world.rig.server.socket, &form, &world.counts))
		return -1;
	world.engine = rig_engine(&world.rig);
	world.memory = driver_alloc(POOL_BYTES);
	driver_fill(world.memory, 0x3C, POOL_BYTES);
	driver_ipc_handle(world.memory, world.handle);
	driver_uuid(world.uuid);
	world.fd = kvc_test_client(world.rig.server.socket);
	return world.fd >= 0 && kvc_test_open_ns(world.fd, "quality") == KVC_OK ? 0 : -1;
}

static int world_close(void **state)
{
	(void)state;
	close(world.fd);
	load_user_close(&world.honest);
	load_oracle_close(&world.oracle);
	driver_free(world.memory);
	return rig_close(&world.rig) ? 0 : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_handles), cmocka_unit_test(test_sizes),
	        cmocka_unit_test(test_devices), cmocka_unit_test(test_descriptors),
	        cmocka_unit_test(test_pools),   cmocka_unit_test(test_page_ids),
	};

	driver_open(1);
	return cmocka_run_group_tests(tests, world_open, world_close);
}
