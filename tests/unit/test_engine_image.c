/* Images of clients through the CPU engine: taken and given byte for byte, refused when they are anything but
 * an image of the plan, and never torn by a client that changes them meanwhile (a process of its own, as
 * clients are). */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/engine/engine.h"
#include "kernels/image_internal.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"

enum { THREADS = 4, GUARD = 0xA7, BUSY_BYTES = 1 << 22 };

static struct kvc_loop *loop;
static struct kvc_engine *engine;
static struct prng prng;

/* What a block is made of. */
struct recipe {
	uint32_t layers;
	uint32_t tokens;
	uint32_t value_dim;
	const char *preset;
	uint32_t odd; /* elements that are not finite: 0 none, 1 one, 2 all */
};

/* An image, and the two sides of a job: a client's memory and a slab, both with a byte to guard their end. */
struct fixture {
	struct kvc_image_plan plan;
	uint8_t *right;
	uint64_t length;
	uint64_t capacity;
	uint8_t *client;
	uint8_t *slab;
	struct kvc_engine_job job;
	bool done;
};

static int setup(void **state)
{
	(void)state;
	return kvc_loop_open(&loop) || kvc_engine_cpu_open(loop, THREADS, KVC_SIMD_AUTO, &engine);
}

static int teardown(void **state)
{
	(void)state;
	kvc_engine_close(engine);
	kvc_loop_close(loop);
	return 0;
}

static void *aligned(uint64_t bytes)
{
	void *memory =
	        aligned_alloc(KVC_IMAGE_ALIGN, (bytes + KVC_IMAGE_ALIGN) / KVC_IMAGE_ALIGN * KVC_IMAGE_ALIGN);

	assert_non_null(memory);
	return memory;
}

/* --- a block's image, by the scalar codec --- */

static uint8_t *elements_make(const struct recipe *recipe, size_t bytes)
{
	uint16_t infinite = 0x7F80;
	uint8_t *raw = malloc(bytes);

	assert_non_null(raw);
	for (size_t i = 0; i < bytes; i += 2) {
		float x = prng_normal(&prng);

		memcpy(raw + i, (uint8_t *)&x + 2, 2);
		if (recipe->odd == 2)
			memcpy(raw + i, &infinite, 2);
	}
	if (recipe->odd)
		memcpy(raw + bytes / 3 / 2 * 2, &infinite, 2);
	return raw;
}

static void image_make(struct fixture *fixture, uint8_t *raw)
{
	const struct kvc_block_shape *shape = &fixture->plan.shape;
	size_t per_dim = kvc_block_raw_bytes(shape) / (shape->key_dim + shape->value_dim);
	struct kvc_block_view view = {.key = raw,
	                              .value = shape->value_dim ? raw + per_dim * shape->key_dim : NULL};
	void *scratch = aligned(kvc_image_scratch_bytes(&fixture->plan));

	kvc_block_layout_default(shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(shape, KVC_KIND_VALUE, &view.value_layout);
	kvc_image_encode_tiles(&fixture->plan, kvc_codec_get(KVC_SIMD_SCALAR), &view, fixture->right, 0,
	                       fixture->plan.tiles, scratch);
	assert_int_equal(
	        kvc_image_seal(&fixture->plan, &view, fixture->right, fixture->capacity, &fixture->length),
	        KVC_OK);
	free(scratch);
}

static void fixture_open(struct fixture *fixture, const struct recipe *recipe)
{
	struct kvc_block_shape shape = {recipe->layers, 8, 128, recipe->value_dim, recipe->tokens,
	                                KVC_DTYPE_BF16};
	struct kvc_block_codec codec;
	uint8_t *raw;

	memset(fixture, 0, sizeof *fixture);
	assert_int_equal(kvc_preset_get(recipe->preset, &codec), KVC_OK);
	assert_int_equal(kvc_image_plan_init(&fixture->plan, &shape, &codec), KVC_OK);
	fixture->capacity = fixture->plan.raw_image_bytes;
	fixture->right = aligned(fixture->capacity);
	fixture->client = aligned(fixture->capacity + 1);
	fixture->slab = aligned(fixture->capacity + 1);
	raw = elements_make(recipe, kvc_block_raw_bytes(&shape));
	image_make(fixture, raw);
	free(raw);
}

static void fixture_close(struct fixture *fixture)
{
	free(fixture->right);
	free(fixture->client);
	free(fixture->slab);
}

/* --- jobs --- */

static void job_done(struct kvc_engine_job *job)
{
	struct fixture *fixture = kvc_container_of(job, struct fixture, job);

	assert_false(fixture->done);
	fixture->done = true;
}

static void submit(struct fixture *fixture, enum kvc_engine_op op, uint64_t client_bytes, uint64_t slab_bytes)
{
	fixture->done = false;
	fixture->job = (struct kvc_engine_job){
	        .op = op,
	        .plan = &fixture->plan,
	        .external = {fixture->client, client_bytes},
	        .image = fixture->slab,
	        .image_bytes = slab_bytes,
	        .done = job_done,
	};
	kvc_engine_submit(engine, &fixture->job);
	assert_false(fixture->done);
}

static kvc_status finish(struct fixture *fixture)
{
	assert_true(kvc_test_run_until_set(loop, &fixture->done));
	return fixture->job.status;
}

/* Take what `client` holds. */
static kvc_status take(struct fixture *fixture, uint64_t bytes, uint64_t room)
{
	memset(fixture->slab, GUARD, fixture->capacity + 1);
	submit(fixture, KVC_ENGINE_TAKE, bytes, room);
	return finish(fixture);
}

/* Give what `slab` holds. */
static kvc_status give(struct fixture *fixture, uint64_t bytes, uint64_t room)
{
	memset(fixture->client, GUARD, fixture->capacity + 1);
	submit(fixture, KVC_ENGINE_GIVE, room, bytes);
	return finish(fixture);
}

static bool guarded(const uint8_t *memory, uint64_t from, uint64_t to)
{
	while (from < to && memory[from] == GUARD)
		from++;
	return from == to;
}

static void both_ways(const struct recipe *recipe)
{
	struct fixture fixture;

	fixture_open(&fixture, recipe);
	memcpy(fixture.client, fixture.right, fixture.length);
	assert_int_equal(take(&fixture, fixture.length, fixture.capacity), KVC_OK);
	assert_int_equal(fixture.job.length, fixture.length);
	assert_memory_equal(fixture.slab, fixture.right, fixture.length);
	assert_true(guarded(fixture.slab, fixture.length, fixture.capacity + 1));
	assert_int_equal(take(&fixture, fixture.length, fixture.length), KVC_OK);
	assert_int_equal(give(&fixture, fixture.length, fixture.length), KVC_OK);
	assert_int_equal(fixture.job.length, fixture.length);
	assert_memory_equal(fixture.client, fixture.right, fixture.length);
	assert_true(guarded(fixture.client, fixture.length, fixture.capacity + 1));
	assert_memory_equal(fixture.slab, fixture.right, fixture.length);
	fixture_close(&fixture);
}

/* All presets; one range and many; raw tiles among others, and blocks that are wholly raw. */
static void test_both_ways(void **state)
{
	(void)state;
	for (unsigned i = 0; kvc_preset_name(i); i++) {
		both_ways(&(struct recipe){1, 16, 128, kvc_preset_name(i), 0});
		both_ways(&(struct recipe){7, 64, 64, kvc_preset_name(i), 1});
		both_ways(&(struct recipe){3, 17, 0, kvc_preset_name(i), 0});
		both_ways(&(struct recipe){2, 33, 128, kvc_preset_name(i), 2});
	}
	both_ways(&(struct recipe){33, 64, 128, "quality", 1});
}

static void test_room(void **state)
{
	const struct recipe recipe = {4, 32, 128, "quality", 1};
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture, &recipe);
	memcpy(fixture.client, fixture.right, fixture.length);
	assert_int_equal(take(&fixture, fixture.length, fixture.length - 1), KVC_NO_SPACE);
	assert_int_equal(fixture.job.length, fixture.length);
	assert_true(guarded(fixture.slab, 0, fixture.capacity + 1));
	memcpy(fixture.slab, fixture.right, fixture.length);
	for (uint32_t i = 0; i < 3; i++) {
		uint64_t room = i == 0 ? 0 : i == 1 ? KVC_IMAGE_HEADER_BYTES : fixture.length - 1;

		assert_int_equal(give(&fixture, fixture.length, room), KVC_LIMIT);
		assert_int_equal(fixture.job.length, fixture.length);
		assert_true(guarded(fixture.client, 0, fixture.capacity + 1));
	}
	fixture_close(&fixture);
}

/* No scratch is needed. */
static void test_no_memory(void **state)
{
	const struct recipe recipe = {4, 32, 128, "quality", 1};
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture, &recipe);
	memcpy(fixture.client, fixture.right, fixture.length);
	kvc_alloc_fail_at(1, 1000);
	assert_int_equal(take(&fixture, fixture.length, fixture.length), KVC_OK);
	assert_int_equal(give(&fixture, fixture.length, fixture.length), KVC_OK);
	kvc_alloc_fail_at(0, 0);
	fixture_close(&fixture);
}

/* --- what is no image of the plan --- */

/* Valid images, but of something else: of another shape, or coded otherwise. Wholly raw ones are welcome. */
static void test_other_plan(void **state)
{
	const struct recipe mine = {4, 32, 128, "quality", 0};
	const struct recipe others[] = {{4, 31, 128, "quality", 0}, {3, 32, 128, "quality", 0},
	                                {4, 32, 64, "quality", 0},  {4, 32, 0, "quality", 0},
	                                {4, 32, 128, "compact", 0}, {4, 32, 128, "k8v4", 0},
	                                {4, 31, 128, "raw", 0},     {4, 32, 128, "raw", 0}};
	const uint32_t count = sizeof others / sizeof others[0];
	struct fixture fixture, other;

	(void)state;
	fixture_open(&fixture, &mine);
	for (uint32_t i = 0; i < count; i++) {
		bool welcome = i == count - 1;

		fixture_open(&other, &others[i]);
		other.plan = fixture.plan;
		memcpy(other.client, other.right, other.length);
		assert_int_equal(take(&other, other.length, other.capacity), welcome ? KVC_OK : KVC_SHAPE);
		memcpy(other.slab, other.right, other.length);
		assert_int_equal(give(&other, other.length, other.capacity), welcome ? KVC_OK : KVC_CORRUPT);
		assert_true(welcome || guarded(other.client, 0, other.capacity + 1));
		fixture_close(&other);
	}
	fixture_close(&fixture);
}

/* One layer with a codec of its own. */
static void test_other_layer(void **state)
{
	const struct recipe recipe = {4, 32, 128, "quality", 0};
	struct fixture fixture;
	struct kvc_block_codec codec;

	(void)state;
	fixture_open(&fixture, &recipe);
	codec = fixture.plan.codec;
	codec.override_count = 1;
	codec.overrides[0] = (struct kvc_layer_override){.layer = 2, .key = codec.key, .value = codec.value};
	codec.overrides[0].key.bits = 8;
	assert_int_equal(kvc_image_plan_init(&fixture.plan, &fixture.plan.shape, &codec), KVC_OK);
	memcpy(fixture.client, fixture.right, fixture.length);
	assert_int_equal(take(&fixture, fixture.length, fixture.capacity), KVC_SHAPE);
	fixture_close(&fixture);
}

static void test_lengths(void **state)
{
	const struct recipe recipe = {4, 32, 128, "quality", 1};
	const uint64_t wrong[] = {0, 1, 8, KVC_IMAGE_HEADER_BYTES - 1, KVC_IMAGE_HEADER_BYTES, 1000};
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture, &recipe);
	memcpy(fixture.client, fixture.right, fixture.length);
	for (uint32_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		assert_int_equal(take(&fixture, wrong[i], fixture.capacity), KVC_CORRUPT);
	for (uint32_t i = 1; i < 200; i += 7) {
		assert_int_equal(take(&fixture, fixture.length - i, fixture.capacity), KVC_CORRUPT);
		assert_int_equal(take(&fixture, fixture.length + i, fixture.capacity), KVC_CORRUPT);
	}
	fixture_close(&fixture);
}

/* A field of the header at `at` that says `value`, under a checksum that holds. */
static kvc_status take_forged(struct fixture *fixture, size_t at, uint64_t value, size_t bytes)
{
	memcpy(fixture->client, fixture->right, fixture->length);
	memcpy(fixture->client + at, &value, bytes);
	kvc_image_checksum(fixture->client, fixture->plan.meta_bytes, fixture->client + KVC_IMAGE_SUM_OFFSET);
	return take(fixture, fixture->length, fixture->capacity);
}

static void test_hostile_headers(void **state)
{
	const struct recipe recipe = {4, 32, 128, "quality", 1};
	const uint64_t values[] = {0, 1, 64, 255, 256, 257, 1u << 20, INT32_MAX, UINT32_MAX, UINT64_MAX};
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture, &recipe);
	assert_int_equal(take_forged(&fixture, 0, 0, 0), KVC_OK);
	for (size_t at = 0; at + 8 <= KVC_IMAGE_SUM_OFFSET; at += 4) {
		for (uint32_t i = 0; i < sizeof values / sizeof values[0]; i++) {
			size_t bytes = i % 2 ? 4 : 8;

			kvc_status status = take_forged(&fixture, at, values[i], bytes);

			if (memcmp(fixture.client, fixture.right, fixture.length) != 0)
				assert_true(status == KVC_CORRUPT || status == KVC_SHAPE);
		}
	}
	for (uint32_t i = 0; i < 2000; i++)
		assert_int_not_equal(take_forged(&fixture, 8 + 4 * prng_below(&prng, 18),
		                                 prng_next(&prng) >> prng_below(&prng, 60) | 1u << 31, 4),
		                     KVC_OK);
	fixture_close(&fixture);
}

/* Any damaged byte, on the way in and on the way out. */
static void test_damage(void **state)
{
	const struct recipe recipe = {9, 32, 128, "quality", 1};
	struct fixture fixture;

	(void)state;
	fixture_open(&fixture, &recipe);
	for (uint32_t i = 0; i < 300; i++) {
		uint64_t span = i % 3 ? fixture.length : fixture.plan.meta_bytes;
		uint64_t at = prng_next(&prng) % span;
		uint8_t bit = (uint8_t)(1u << prng_below(&prng, 8));

		memcpy(fixture.client, fixture.right, fixture.length);
		fixture.client[at] ^= bit;
		assert_int_equal(take(&fixture, fixture.length, fixture.capacity), KVC_CORRUPT);
		memcpy(fixture.slab, fixture.right, fixture.length);
		fixture.slab[at] ^= bit;
		assert_int_equal(give(&fixture, fixture.length, fixture.capacity), KVC_CORRUPT);
	}
	fixture_close(&fixture);
}

static uint32_t cancel_all(struct fixture *fixtures)
{
	const struct recipe recipe = {16, 32, 128, "quality", 0};
	uint32_t cancelled = 0;

	for (uint32_t i = 0; i < 16; i++) {
		fixture_open(&fixtures[i], &recipe);
		memcpy(fixtures[i].client, fixtures[i].right, fixtures[i].length);
		memcpy(fixtures[i].slab, fixtures[i].right, fixtures[i].length);
	}
	for (uint32_t i = 0; i < 16; i++)
		submit(&fixtures[i], i % 2 ? KVC_ENGINE_TAKE : KVC_ENGINE_GIVE, fixtures[i].length,
		       fixtures[i].length);
	for (uint32_t i = 16; i-- > 0;)
		kvc_engine_cancel(engine, &fixtures[i].job);
	for (uint32_t i = 0; i < 16; i++) {
		kvc_status status = finish(&fixtures[i]);

		assert_true(status == KVC_CANCELLED || status == KVC_OK);
		cancelled += status == KVC_CANCELLED;
		fixture_close(&fixtures[i]);
	}
	return cancelled;
}

/* All may be done before this thread runs again, if the machine is busy: then once more. */
static void test_cancel(void **state)
{
	static struct fixture fixtures[16];
	uint32_t cancelled = 0;

	(void)state;
	for (unsigned round = 0; round < 100 && !cancelled; round++)
		cancelled = cancel_all(fixtures);
	print_message("%u of 16 cancelled\n", cancelled);
	assert_true(cancelled > 0);
}

/* --- a client that changes its memory meanwhile --- */

/* Shared with the client's process. It writes both images over each other, and single bytes. */
struct busy {
	atomic_uint on;
	uint64_t bytes;
	uint8_t image[2][BUSY_BYTES];
	uint8_t memory[BUSY_BYTES];
};

static struct busy *busy;
static pid_t busy_client;

static void client_scribble(struct prng *own)
{
	uint32_t which = prng_below(own, 2);

	switch (prng_below(own, 3)) {
	case 0:
		memcpy(busy->memory, busy->image[which], busy->bytes);
		break;
	case 1: {
		uint64_t at = prng_next(own) % busy->bytes;

		busy->memory[at] ^= 1;
		memcpy(busy->memory + at, busy->image[which] + at, busy->bytes - at);
		break;
	}
	default:
		*(volatile uint32_t *)(void *)(busy->memory + 4 * prng_below(own, 16)) =
		        (uint32_t)prng_next(own);
		memcpy(busy->memory, busy->image[which], KVC_IMAGE_HEADER_BYTES);
	}
}

/* Before there are threads. */
static void client_start(void)
{
	struct prng own = {1};

	busy = mmap(NULL, sizeof *busy, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (busy == MAP_FAILED || (busy_client = fork()) < 0)
		exit(2);
	if (busy_client > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (atomic_load(&busy->on))
			client_scribble(&own);
		else
			usleep(1000);
	}
}

/* What is taken is one of the two images that the client has, whole, or nothing. */
static void test_changing_client(void **state)
{
	const struct recipe recipe = {8, 32, 128, "quality", 1};
	uint32_t whole = 0, torn = 0;
	struct fixture one, two;
	uint8_t *own;

	(void)state;
	fixture_open(&one, &recipe);
	fixture_open(&two, &recipe);
	assert_int_equal(one.length, two.length);
	assert_true(one.length <= BUSY_BYTES);
	memcpy(busy->image[0], one.right, one.length);
	memcpy(busy->image[1], two.right, two.length);
	memcpy(busy->memory, one.right, one.length);
	busy->bytes = one.length;
	atomic_store(&busy->on, 1);
	own = one.client;
	one.client = busy->memory;
	for (uint32_t i = 0; i < 2000; i++) {
		kvc_status status = take(&one, one.length, one.capacity);

		assert_true(status == KVC_OK || status == KVC_CORRUPT || status == KVC_SHAPE);
		assert_true(status != KVC_OK || memcmp(one.slab, one.right, one.length) == 0 ||
		            memcmp(one.slab, two.right, one.length) == 0);
		whole += status == KVC_OK;
		torn += status != KVC_OK;
	}
	atomic_store(&busy->on, 0);
	print_message("%u whole, %u torn and refused\n", whole, torn);
	assert_true(torn > 0);
	one.client = own;
	fixture_close(&one);
	fixture_close(&two);
}

#define ENGINE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ENGINE_TEST(test_both_ways),       ENGINE_TEST(test_room),        ENGINE_TEST(test_no_memory),
	        ENGINE_TEST(test_other_plan),      ENGINE_TEST(test_other_layer), ENGINE_TEST(test_lengths),
	        ENGINE_TEST(test_hostile_headers), ENGINE_TEST(test_damage),      ENGINE_TEST(test_cancel),
	        ENGINE_TEST(test_changing_client),
	};
	int failed;

	prng.state = prng_seed("test_engine_image");
	client_start();
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	kill(busy_client, SIGKILL);
	waitpid(busy_client, NULL, 0);
	return failed;
}
