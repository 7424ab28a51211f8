/* Pools of device memory in the client library, with the fake CUDA driver and a fake daemon that opens what
 * it is told: every layout and backing, order of set-up and take-back, reconnects, fences, splits, wrong
 * arguments, no memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <pthread.h>
#include <unistd.h>

#include "client/alloc.h"
#include "tests/support/client_fixture.h"
#include "tests/support/fake_cuda.h"

enum { PAGE_TOKENS = 4, PAGES = 32, TOKENS = 10, BLOCK_TOKENS = 16, ELEMENTS_MAX = 1 << 16 };

static struct fixture f;
static char device_folder[KVC_TEMP_DIR_BYTES];
static const struct kvcc_cuda *cuda;

struct rig {
	struct kvc_test_pool memory;
	struct kvc_namespace *ns;
	struct kvc_pool *pool;
};

/* ---- rig ----------------------------------------------------------------------------------- */

static int group_setup(void **state)
{
	(void)state;
	kvc_test_temp_dir(device_folder);
	cuda = kvc_test_cuda_open(device_folder);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	assert_int_equal(kvc_test_cuda_files(device_folder, "mem-"), 0);
	kvc_test_temp_dir_remove(device_folder);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	fixture_open(&f, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fixture_close(&f);
	return 0;
}

static struct kvc_namespace *open_ns(const struct kvc_test_pool *memory, const char *model)
{
	struct kvc_namespace_options options;
	struct kvc_namespace *ns = NULL;

	kvc_namespace_options_init(&options);
	options.model = model;
	options.layers = memory->layers;
	options.heads = memory->heads;
	options.key_dim = memory->dim;
	options.value_dim = memory->arrangement == KVC_TEST_LATENT ? 0 : memory->dim;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = BLOCK_TOKENS;
	assert_int_equal(kvc_namespace_open(f.client, &options, 0, &ns), KVC_OK);
	return ns;
}

static kvc_status rig_try(struct rig *rig, enum kvc_test_arrangement arrangement,
                          enum kvc_test_backing backing)
{
	struct kvc_pool_options options;

	*rig = (struct rig){
	        .memory = {.layers = 3, .heads = 2, .dim = 16, .page_tokens = PAGE_TOKENS, .pages = PAGES}};
	kvc_test_pool_make(&rig->memory, arrangement, backing);
	rig->ns = open_ns(&rig->memory, "pool");
	options = kvc_test_pool_options(&rig->memory);
	return kvc_pool_register(rig->ns, &options, &rig->pool);
}

static void rig_open(struct rig *rig, enum kvc_test_arrangement arrangement, enum kvc_test_backing backing)
{
	kvc_status status = rig_try(rig, arrangement, backing);

	if (status != KVC_OK)
		fail_msg("register: %s: %s", kvc_status_name(status), kvc_last_error());
}

static void rig_close(struct rig *rig)
{
	assert_int_equal(kvc_pool_destroy(rig->pool), KVC_OK);
	kvc_namespace_close(rig->ns);
	kvc_test_pool_free(&rig->memory);
}

struct place {
	uint64_t key;
	uint32_t pages[4];
	struct kvc_block block;
};

/* TOKENS tokens from token 3 of scattered pages: 4 pages. */
static struct kvc_block *place_init(struct place *place, uint64_t key)
{
	place->key = key;
	for (uint32_t i = 0; i < 4; i++)
		place->pages[i] = (uint32_t)(key * 4 + i * 7) % PAGES;
	place->block = (struct kvc_block){
	        .key = &place->key,
	        .key_bytes = sizeof place->key,
	        .tokens = TOKENS,
	        .first_token = 3,
	        .pages = place->pages,
	        .page_count = 4,
	};
	return &place->block;
}

static struct kvc_transfer transfer_of(const struct rig *rig)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, NULL);
	transfer.pool = rig->pool;
	return transfer;
}

static uint16_t content[ELEMENTS_MAX];
static uint16_t got[ELEMENTS_MAX];

static void content_fill(const struct rig *rig, uint16_t seed)
{
	size_t count = kvc_test_pool_elements(&rig->memory, TOKENS);

	assert_true(count <= ELEMENTS_MAX);
	for (size_t i = 0; i < count; i++)
		content[i] = (uint16_t)(i * 40503u + seed);
}

/* Put, overwrite, get: the same. */
static void assert_round_trip(struct rig *rig, uint64_t key)
{
	struct kvc_transfer transfer = transfer_of(rig);
	size_t bytes = kvc_test_pool_elements(&rig->memory, TOKENS) * 2;
	struct place place;
	struct kvc_block *block = place_init(&place, key);

	content_fill(rig, (uint16_t)key);
	kvc_test_pool_copy(&rig->memory, block, content, true);
	assert_int_equal(kvc_put(rig->ns, &transfer, block, 1, NULL), KVC_OK);
	assert_int_equal(block->status, KVC_OK);
	memset(got, 0x55, bytes);
	kvc_test_pool_copy(&rig->memory, block, got, true);
	assert_int_equal(kvc_get(rig->ns, &transfer, block, 1, NULL), KVC_OK);
	assert_int_equal(block->status, KVC_OK);
	kvc_test_pool_copy(&rig->memory, block, got, false);
	assert_memory_equal(got, content, bytes);
}

static unsigned descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(dir);
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* ---- the road ------------------------------------------------------------------------------ */

static void test_every_layout_and_backing(void **state)
{
	(void)state;
	for (int arrangement = 0; arrangement < KVC_TEST_ARRANGEMENTS; arrangement++) {
		for (int backing = 0; backing < KVC_TEST_PRIVATE; backing++) {
			unsigned before = descriptors();
			struct rig rig;

			rig_open(&rig, (enum kvc_test_arrangement)arrangement,
			         (enum kvc_test_backing)backing);
			assert_round_trip(&rig, 1 + (uint64_t)arrangement * 10 + (uint64_t)backing);
			rig_close(&rig);
			assert_int_equal(descriptors(), before);
		}
	}
}

/* An allocation is attached once, whatever bases lie in it. */
static void test_regions(void **state)
{
	static const unsigned expected[] = {3, 1, 1};

	(void)state;
	for (int backing = 0; backing < KVC_TEST_PRIVATE; backing++) {
		unsigned attached = fake_daemon_seen(f.daemon, KVC_VERB_ATTACH);
		unsigned detached = fake_daemon_seen(f.daemon, KVC_VERB_DETACH);
		struct rig rig;

		rig_open(&rig, KVC_TEST_KV_FIRST, (enum kvc_test_backing)backing);
		assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_ATTACH) - attached, expected[backing]);
		rig_close(&rig);
		assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_DETACH) - detached,
		                 expected[backing] + 1);
	}
}

/* More chunks than travel with a frame: regions that each hold whole bases. */
static void test_many_chunks(void **state)
{
	struct rig rig = {.memory = {.layers = 4, .heads = 8, .dim = 128, .page_tokens = 64, .pages = 2000}};
	struct kvc_pool_options options;
	unsigned attached = fake_daemon_seen(f.daemon, KVC_VERB_ATTACH);

	(void)state;
	kvc_test_pool_make(&rig.memory, KVC_TEST_KV_FIRST, KVC_TEST_CHUNKS); /* 125 chunks a base */
	rig.ns = open_ns(&rig.memory, "pool");
	options = kvc_test_pool_options(&rig.memory);
	assert_int_equal(kvc_pool_register(rig.ns, &options, &rig.pool), KVC_OK);
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_ATTACH) - attached, 8);
	rig.memory.page_tokens = 64;
	kvc_pool_destroy(rig.pool);
	options.pages = 4000; /* 250 chunks */
	assert_int_equal(kvc_pool_register(rig.ns, &options, &rig.pool), KVC_UNSUPPORTED);
	assert_non_null(strstr(kvc_last_error(), "more than 240 chunks"));
	kvc_namespace_close(rig.ns);
	kvc_test_pool_free(&rig.memory);
}

/* Each request has a mark of its own, which its stream writes before the request is sent: the fake daemon
 * looks. One that a stream has not come to is left alone when the pool goes. */
static void test_streams_write_marks(void **state)
{
	struct kvc_transfer transfer;
	struct rig rig;
	void *stream = NULL;
	struct place place;
	uint64_t before;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	transfer = transfer_of(&rig);
	assert_int_equal(cuda->stream_create(&stream, KVCC_CU_STREAM_NON_BLOCKING), 0);
	transfer.stream = stream;
	before = kvc_test_cuda_writes();
	for (unsigned i = 1; i <= 20; i++) { /* more than there are words */
		assert_int_equal(kvc_put(rig.ns, &transfer, place_init(&place, 1), 1, NULL), KVC_OK);
		assert_int_equal(kvc_get(rig.ns, &transfer, place_init(&place, 1), 1, NULL), KVC_OK);
		assert_int_equal(kvc_test_cuda_writes() - before, 2 * i);
	}
	assert_int_equal(cuda->stream_destroy(stream), 0);
	rig_close(&rig);
}

/* From a thread that has no context. */
static void *other_thread(void *data)
{
	struct rig *rig = data;
	struct kvc_transfer transfer = transfer_of(rig);
	struct place place;
	void *current = data;

	assert_int_equal(kvc_put(rig->ns, &transfer, place_init(&place, 1), 1, NULL), KVC_OK);
	assert_int_equal(cuda->context_current(&current), 0);
	assert_null(current);
	rig_close(rig);
	rig_open(rig, KVC_TEST_FUSED, KVC_TEST_CHUNKS);
	assert_int_equal(cuda->context_current(&current), 0);
	assert_null(current);
	return NULL;
}

static void *make_and_hand_on(void *data)
{
	kvc_test_cuda_enter(); /* the fake allocates in the current context */
	rig_open(data, KVC_TEST_FUSED, KVC_TEST_ALLOCATION);
	return NULL;
}

static void test_other_threads(void **state)
{
	pthread_t thread;
	struct rig rig;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, make_and_hand_on, &rig), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, other_thread, &rig), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	rig_close(&rig);
}

static void test_async(void **state)
{
	struct kvc_completion done[2];
	struct kvc_transfer transfer;
	struct place places[2];
	struct rig rig;
	size_t taken = 0;

	(void)state;
	rig_open(&rig, KVC_TEST_PAGE_FIRST, KVC_TEST_CHUNKS);
	transfer = transfer_of(&rig);
	for (size_t i = 0; i < 2; i++)
		assert_int_equal(kvc_put_submit(rig.ns, &transfer, place_init(&places[i], i), 1, &places[i]),
		                 KVC_OK);
	while (taken < 2) {
		size_t count = 0;

		assert_int_equal(kvc_client_next(f.client, done, 2 - taken, 20000, &count), KVC_OK);
		for (size_t i = 0; i < count; i++)
			assert_int_equal(done[i].status, KVC_OK);
		taken += count;
	}
	assert_int_equal(places[0].block.status + places[1].block.status, KVC_OK);
	rig_close(&rig);
}

/* A batch whose page ids do not fit one frame goes in several. */
static void test_split_by_page_ids(void **state)
{
	enum { BLOCKS = 12, IDS = 4096 };
	static uint32_t ids[IDS];
	static struct kvc_block blocks[BLOCKS];
	static uint64_t keys[BLOCKS];
	struct rig rig = {.memory = {.layers = 1, .heads = 1, .dim = 16, .page_tokens = 1, .pages = 70000}};
	struct kvc_namespace_options shape;
	struct kvc_pool_options options;
	struct kvc_transfer transfer;
	unsigned puts = fake_daemon_seen(f.daemon, KVC_VERB_PUT);

	(void)state;
	kvc_test_pool_make(&rig.memory, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATION);
	kvc_namespace_options_init(&shape);
	shape.model = "long";
	shape.layers = shape.heads = 1;
	shape.key_dim = shape.value_dim = 16;
	shape.element = KVC_ELEMENT_BF16;
	shape.block_tokens = IDS;
	assert_int_equal(kvc_namespace_open(f.client, &shape, 0, &rig.ns), KVC_OK);
	options = kvc_test_pool_options(&rig.memory);
	assert_int_equal(kvc_pool_register(rig.ns, &options, &rig.pool), KVC_OK);
	for (uint32_t i = 0; i < IDS; i++)
		ids[i] = 69999 - i; /* 3 bytes each: 12 KiB a block, 5 blocks a frame */
	for (uint64_t i = 0; i < BLOCKS; i++) {
		keys[i] = i;
		blocks[i] = (struct kvc_block){
		        .key = &keys[i], .key_bytes = 8, .tokens = IDS, .pages = ids, .page_count = IDS};
	}
	transfer = transfer_of(&rig);
	assert_int_equal(kvc_put(rig.ns, &transfer, blocks, BLOCKS, NULL), KVC_OK);
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_PUT) - puts, 3);
	assert_int_equal(blocks[BLOCKS - 1].status, KVC_OK);
	assert_int_equal(kvc_put_submit(rig.ns, &transfer, blocks, BLOCKS, NULL), KVC_LIMIT);
	rig_close(&rig);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void test_not_exportable(void **state)
{
	struct rig rig;

	(void)state;
	assert_int_equal(rig_try(&rig, KVC_TEST_KV_FIRST, KVC_TEST_PRIVATE), KVC_UNSUPPORTED);
	assert_non_null(strstr(kvc_last_error(), "was not created exportable: use cudaMalloc"));
	rig_close(&rig);
}

static void options_refused(struct rig *rig, const struct kvc_pool_options *options, kvc_status expected,
                            const char *text)
{
	struct kvc_pool *pool = NULL;

	assert_int_equal(kvc_pool_register(rig->ns, options, &pool), expected);
	if (!strstr(kvc_last_error(), text))
		fail_msg("'%s' is not in '%s'", text, kvc_last_error());
	assert_null(pool);
}

static void test_wrong_options(void **state)
{
	struct kvc_pool_options good, options;
	const void *bases[3];
	char here[64];
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	good = options = kvc_test_pool_options(&rig.memory);
	options.size = 1;
	options_refused(&rig, &options, KVC_INVALID, "kvc_pool_options_init");
	options = good;
	options.layers = 2;
	options_refused(&rig, &options, KVC_SHAPE, "2 layers, the namespace has 3");
	options = good;
	options.value_bases = NULL;
	options_refused(&rig, &options, KVC_SHAPE, "value_bases");
	options = good;
	options.page_tokens = 0;
	options_refused(&rig, &options, KVC_SHAPE, "pages of 0 tokens");
	options = good;
	options.pages = PAGES + 1;
	options_refused(&rig, &options, KVC_SHAPE, "the allocation has");
	options.pages = 1ull << 33;
	options_refused(&rig, &options, KVC_SHAPE, "pages");
	options = good;
	options.key_strides.page = UINT64_MAX / 2;
	options_refused(&rig, &options, KVC_SHAPE, "beyond 2^64");
	options = good;
	memcpy(bases, good.key_bases, sizeof bases);
	bases[1] = here;
	options.key_bases = bases;
	options_refused(&rig, &options, KVC_INVALID, "is not in device memory");
	rig_close(&rig);
}

static void test_wrong_blocks(void **state)
{
	struct kvc_transfer transfer;
	struct place place;
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	transfer = transfer_of(&rig);
	place_init(&place, 1)->page_count = 3;
	assert_int_equal(kvc_put(rig.ns, &transfer, &place.block, 1, NULL), KVC_SHAPE);
	place_init(&place, 1)->first_token = PAGE_TOKENS;
	assert_int_equal(kvc_get(rig.ns, &transfer, &place.block, 1, NULL), KVC_SHAPE);
	place_init(&place, 1);
	place.pages[3] = PAGES;
	assert_int_equal(kvc_put(rig.ns, &transfer, &place.block, 1, NULL), KVC_INVALID);
	assert_non_null(strstr(kvc_last_error(), "page id 32, expected less than 32"));
	place_init(&place, 1)->pages = NULL;
	assert_int_equal(kvc_put(rig.ns, &transfer, &place.block, 1, NULL), KVC_SHAPE);
	place_init(&place, 1);
	transfer.memory = f.memory;
	assert_int_equal(kvc_put(rig.ns, &transfer, &place.block, 1, NULL), KVC_INVALID);
	transfer = transfer_of(&rig);
	transfer.form = KVC_FORM_IMAGE;
	assert_int_equal(kvc_put(rig.ns, &transfer, &place.block, 1, NULL), KVC_INVALID);
	transfer = transfer_of(&rig);
	place.block.tokens = FIXTURE_TOKENS;
	assert_int_equal(kvc_put(f.ns, &transfer, &place.block, 1, NULL), KVC_SHAPE); /* another shape */
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_PUT), 0);
	rig_close(&rig);
}

/* What the daemon says of an attach is what the registration fails with. */
static void test_daemon_refuses(void **state)
{
	struct rig rig;

	(void)state;
	fake_daemon_rule(
	        f.daemon, KVC_VERB_ATTACH,
	        (struct fake_rule){.action = FAKE_FAIL, .number = KVC_UNSUPPORTED, .skip = 1, .times = 1});
	assert_int_equal(rig_try(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS), KVC_UNSUPPORTED);
	assert_non_null(strstr(kvc_last_error(), "as the test wants it"));
	assert_null(rig.pool);
	rig_close(&rig);
	fake_daemon_rule(f.daemon, KVC_VERB_POOL,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_ENGINE_LOST, .times = 1});
	assert_int_equal(rig_try(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS), KVC_ENGINE_LOST);
	rig_close(&rig);
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	assert_round_trip(&rig, 1);
	rig_close(&rig);
}

/* ---- reconnects ---------------------------------------------------------------------------- */

static void test_reconnect(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_HEAD_FIRST, KVC_TEST_CHUNKS);
	assert_round_trip(&rig, 1);
	for (uint64_t i = 2; i < 5; i++) {
		unsigned pools = fake_daemon_seen(f.daemon, KVC_VERB_POOL);

		fake_daemon_disconnect(f.daemon);
		assert_round_trip(&rig, i);
		assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_POOL) - pools, 1);
	}
	rig_close(&rig);
}

/* A daemon that does not take the pool back at once: the put fails with its reason, the next one works. */
static void test_refused_at_reconnect(void **state)
{
	static const uint16_t verbs[] = {KVC_VERB_ATTACH, KVC_VERB_POOL};
	struct kvc_transfer transfer;
	struct place place;
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	transfer = transfer_of(&rig);
	for (size_t i = 0; i < 2; i++) {
		fake_daemon_disconnect(f.daemon);
		fake_daemon_rule(
		        f.daemon, verbs[i],
		        (struct fake_rule){.action = FAKE_FAIL, .number = KVC_ENGINE_LOST, .times = 1});
		assert_int_equal(kvc_put(rig.ns, &transfer, place_init(&place, 99), 1, NULL),
		                 KVC_ENGINE_LOST);
		assert_round_trip(&rig, i + 1);
	}
	rig_close(&rig);
}

/* ---- fences and the end -------------------------------------------------------------------- */

static void test_fence(void **state)
{
	struct kvc_transfer transfer;
	struct place place;
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATION);
	transfer = transfer_of(&rig);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	transfer.deadline_ms = 50;
	assert_int_equal(kvc_put(rig.ns, &transfer, place_init(&place, 1), 1, NULL), KVC_DEADLINE);
	transfer.deadline_ms = 0;
	assert_int_equal(kvc_put(rig.ns, &transfer, place_init(&place, 2), 1, NULL), KVC_FENCED);
	fake_daemon_release(f.daemon);
	while (kvc_put(rig.ns, &transfer, place_init(&place, 2), 1, NULL) == KVC_FENCED)
		assert_int_equal(kvc_ping(f.client, 0), KVC_OK);
	assert_int_equal(place.block.status, KVC_OK);
	assert_int_equal(fake_daemon_seen(f.daemon, KVC_VERB_DROP), 1); /* of what the late put stored */
	rig_close(&rig);
}

struct destroying {
	struct rig *rig;
	bool done;
};

static void *destroy(void *data)
{
	struct destroying *destroying = data;

	assert_int_equal(kvc_pool_destroy(destroying->rig->pool), KVC_OK);
	__atomic_store_n(&destroying->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Not before the daemon has said that the memory is unmapped. */
static void test_destroy_waits(void **state)
{
	struct destroying destroying = {.done = false};
	pthread_t thread;
	struct rig rig;

	(void)state;
	for (int released = 0; released < 2; released++) {
		unsigned detached = fake_daemon_seen(f.daemon, KVC_VERB_DETACH);

		rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
		fake_daemon_rule(f.daemon, KVC_VERB_DETACH,
		                 (struct fake_rule){.action = FAKE_HOLD, .times = 4});
		destroying = (struct destroying){&rig, false};
		assert_int_equal(pthread_create(&thread, NULL, destroy, &destroying), 0);
		fake_daemon_await(f.daemon, KVC_VERB_DETACH, detached + 4);
		assert_int_equal(kvc_ping(f.client, 0), KVC_OK);
		assert_false(__atomic_load_n(&destroying.done, __ATOMIC_ACQUIRE));
		if (released)
			fake_daemon_release(f.daemon);
		else
			fake_daemon_disconnect(f.daemon); /* the end of the connection says the same */
		assert_int_equal(pthread_join(thread, NULL), 0);
		rig.pool = NULL;
		rig_close(&rig);
	}
}

static void test_destroy_without_daemon(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_ALLOCATIONS);
	fixture_stop_daemon(&f);
	rig_close(&rig);
	fixture_start_daemon(&f, NULL);
}

/* The client's end frees pools that are still there. */
static void test_client_destroy(void **state)
{
	struct rig rig;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_CHUNKS);
	kvc_client_destroy(f.client);
	kvc_test_pool_free(&rig.memory);
	f.client = NULL;
	f.ns = NULL;
	f.memory = NULL;
}

/* ---- images -------------------------------------------------------------------------------- */

static void test_images(void **state)
{
	uint8_t *data = kvc_memory_data(f.memory);
	struct kvc_transfer transfer;
	struct kvc_block block = {.key = "image", .key_bytes = 5, .tokens = 2, .image_bytes = 300};

	(void)state;
	kvc_transfer_init(&transfer, f.memory);
	transfer.form = KVC_FORM_IMAGE;
	for (unsigned i = 0; i < 300; i++)
		data[i] = (uint8_t)(i * 7);
	assert_int_equal(kvc_put(f.ns, &transfer, &block, 1, NULL), KVC_OK);
	block.key_offset = 640;
	block.image_bytes = 512;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_OK);
	assert_int_equal(block.status, KVC_OK);
	assert_int_equal(block.image_bytes, 300);
	assert_memory_equal(data + 640, data, 300);
	block.image_bytes = 299;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_OK);
	assert_int_equal(block.status, KVC_LIMIT);
	assert_int_equal(block.image_bytes, 299);
	block.key_offset = 32;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_INVALID);
	block.key_offset = kvc_memory_bytes(f.memory) - 64;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_SHAPE);
	transfer.form = 2;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_INVALID);
}

/* A daemon that claims an image longer than the room for it is not believed. */
static void test_image_longer_than_room(void **state)
{
	static uint8_t raw[KVC_FRAME_HEADER_BYTES + 7];
	struct kvc_frame frame = {
	        .verb = KVC_VERB_GET, .flags = KVC_FRAME_REPLY, .body_bytes = 7, .request_id = 1};
	static const uint8_t body[7] = {0x0A, 1, 0, 0x32, 2, 0x81, 0x04}; /* statuses: 0; image_bytes: 513 */
	struct kvc_block block = {.key = "image", .key_bytes = 5, .tokens = 2, .image_bytes = 512};
	struct kvc_transfer transfer;

	(void)state;
	kvc_frame_encode(&frame, raw);
	memset(raw + 16, 0, 8);
	memcpy(raw + KVC_FRAME_HEADER_BYTES, body, sizeof body);
	fake_daemon_rule(
	        f.daemon, KVC_VERB_GET,
	        (struct fake_rule){.action = FAKE_RAW, .bytes = raw, .length = sizeof raw, .times = 1});
	kvc_transfer_init(&transfer, f.memory);
	transfer.form = KVC_FORM_IMAGE;
	assert_int_equal(kvc_get(f.ns, &transfer, &block, 1, NULL), KVC_DISCONNECTED);
	assert_non_null(strstr(kvc_last_error(), "an image longer than the room"));
}

/* ---- memory -------------------------------------------------------------------------------- */

static size_t allocations;
static size_t failing_at;

static void *failing_alloc(size_t bytes)
{
	return __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED) == failing_at ? NULL : malloc(bytes);
}

static const struct kvcc_allocator failing = {failing_alloc, free};

/* Each allocation of register, put and destroy fails once: an error, and nothing is left open. */
static void test_allocations_fail(void **state)
{
	struct kvc_pool_options options;
	struct kvc_transfer transfer;
	struct place place;
	struct rig rig;
	unsigned before;

	(void)state;
	rig_open(&rig, KVC_TEST_KV_FIRST, KVC_TEST_CHUNKS);
	kvc_pool_destroy(rig.pool);
	options = kvc_test_pool_options(&rig.memory);
	assert_int_equal(kvc_ping(f.client, 0), KVC_OK);
	before = descriptors();
	for (failing_at = 1;; failing_at++) {
		kvc_status status;

		allocations = 0;
		kvcc_alloc_set(&failing);
		rig.pool = NULL;
		status = kvc_pool_register(rig.ns, &options, &rig.pool);
		transfer = transfer_of(&rig);
		if (status == KVC_OK) {
			(void)kvc_put(rig.ns, &transfer, place_init(&place, 1), 1, NULL);
			assert_int_equal(kvc_pool_destroy(rig.pool), KVC_OK);
		}
		kvcc_alloc_set(NULL);
		assert_true(status == KVC_OK || status == KVC_NO_MEMORY);
		assert_int_equal(descriptors(), before);
		if (allocations < failing_at)
			break;
	}
	print_message("%zu allocations\n", failing_at - 1);
	assert_true(failing_at > 8);
	kvc_namespace_close(rig.ns);
	kvc_test_pool_free(&rig.memory);
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_every_layout_and_backing),
	        ROW(test_regions),
	        ROW(test_many_chunks),
	        ROW(test_streams_write_marks),
	        ROW(test_other_threads),
	        ROW(test_async),
	        ROW(test_split_by_page_ids),
	        ROW(test_not_exportable),
	        ROW(test_wrong_options),
	        ROW(test_wrong_blocks),
	        ROW(test_daemon_refuses),
	        ROW(test_reconnect),
	        ROW(test_refused_at_reconnect),
	        ROW(test_fence),
	        ROW(test_destroy_waits),
	        ROW(test_destroy_without_daemon),
	        ROW(test_client_destroy),
	        ROW(test_images),
	        ROW(test_image_longer_than_room),
	        ROW(test_allocations_fail),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
