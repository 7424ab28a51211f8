/* The client library without memory: a script of every verb runs with each of its allocations failing, one by
 * one and all from one on. It may fail, with an honest status; it must not crash, hang, leak or give wrong
 * bytes. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/alloc.h"
#include "tests/support/client_fixture.h"

static struct {
	pthread_mutex_t lock;
	size_t until; /* allocations that succeed */
	bool all;     /* then all fail, not just one */
	size_t made;
	size_t live;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *failing_alloc(size_t bytes)
{
	void *memory = NULL;
	bool fails;

	(void)pthread_mutex_lock(&heap.lock);
	fails = heap.all ? heap.made >= heap.until : heap.made == heap.until;
	heap.made++;
	if (!fails)
		memory = malloc(bytes);
	heap.live += memory != NULL;
	(void)pthread_mutex_unlock(&heap.lock);
	return memory;
}

static void counting_free(void *memory)
{
	(void)pthread_mutex_lock(&heap.lock);
	heap.live -= memory != NULL;
	(void)pthread_mutex_unlock(&heap.lock);
	free(memory);
}

static const struct kvcc_allocator failing = {failing_alloc, counting_free};

static void inline_get(struct fixture *f)
{
	uint8_t data[FIXTURE_BLOCK];
	struct kvc_transfer transfer;
	struct kvc_block block;
	uint64_t key;

	kvc_transfer_init(&transfer, NULL);
	fixture_blocks(&block, &key, 1, 1);
	if (kvc_get_inline(f->ns, &transfer, &block, 1, data, sizeof(data), NULL) != KVC_OK ||
	    block.status != KVC_OK)
		return;
	for (size_t i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], fixture_byte(1, i));
}

/* Every verb once, as far as it gets; what comes back must be an honest status. */
static void script(const struct fixture *outer)
{
	struct fixture f = *outer;
	struct kvc_completion completion;
	struct kvc_client_options options;
	struct kvc_namespace_options shape;
	struct kvc_key key = {"key", 3};
	struct kvc_stat *stats = NULL;
	size_t n = 0;

	kvc_client_options_init(&options);
	options.socket_path = f.path;
	f.client = NULL;
	f.ns = NULL;
	f.memory = NULL;
	if (kvc_client_create(&options, &f.client) != KVC_OK)
		return;
	kvc_namespace_options_init(&shape);
	shape.model = "model";
	shape.layers = FIXTURE_LAYERS;
	shape.heads = FIXTURE_HEADS;
	shape.key_dim = FIXTURE_DIM;
	shape.value_dim = FIXTURE_DIM;
	shape.element = KVC_ELEMENT_BF16;
	shape.block_tokens = FIXTURE_TOKENS;
	(void)kvc_client_fd(f.client);
	if (kvc_namespace_open(f.client, &shape, 0, &f.ns) == KVC_OK &&
	    kvc_memory_create(f.client, 40 * FIXTURE_BLOCK, &f.memory) == KVC_OK) {
		if (fixture_put(&f, 30, 0, 0) == KVC_OK) {
			fixture_clear(f.memory);
			if (fixture_get(&f, 30, 0, 0) == KVC_OK)
				fixture_expect(f.memory, 30, 0);
		}
		(void)kvc_lookup(f.ns, &key, 1, 0, &n, NULL);
		if (kvc_lookup_submit(f.ns, &key, 1, 0, NULL, NULL) == KVC_OK) {
			do
				assert_int_equal(kvc_client_next(f.client, &completion, 1, 10000, &n),
				                 KVC_OK);
			while (n == 0);
		}
		inline_get(&f);
		(void)kvc_memory_renew(f.memory);
		(void)kvc_drop(f.ns, &key, 1, 0, &n);
	}
	if (kvc_stats(f.client, 0, &stats, &n) == KVC_OK)
		kvc_stats_free(stats);
	kvc_memory_destroy(f.memory);
	kvc_namespace_close(f.ns);
	kvc_client_destroy(f.client);
}

static void sweep(bool all, const struct fake_limits *limits)
{
	struct fixture f;
	size_t points = 0;

	fixture_open_empty(&f);
	fixture_start_daemon(&f, limits);
	kvc_client_destroy(f.client);
	f.client = NULL;
	kvcc_alloc_set(&failing);
	for (heap.until = 0;; heap.until++, points++) {
		heap.all = all;
		heap.made = 0;
		heap.live = 0;
		script(&f);
		assert_int_equal(heap.live, 0);
		if (heap.made <= heap.until)
			break; /* nothing failed: every allocation was swept */
	}
	kvcc_alloc_set(NULL);
	print_message("%zu allocations failed\n", points);
	assert_true(points > 15);
	fixture_close(&f);
}

static void test_no_memory_once(void **state)
{
	(void)state;
	sweep(false, NULL);
}

static void test_no_memory_any_more(void **state)
{
	(void)state;
	sweep(true, NULL);
}

/* Answers so long that they need the heap to be read. */
static const struct fake_limits long_answers = {1024, 256, 16u << 20, 0, 40000};

static void test_no_memory_to_read_once(void **state)
{
	(void)state;
	sweep(false, &long_answers);
}

static void test_no_memory_to_read_any_more(void **state)
{
	(void)state;
	sweep(true, &long_answers);
}

/* The late answer to a put cannot be read: then it counts as stored, and all of it is dropped. */
static void test_no_memory_for_late_put(void **state)
{
	struct fixture f;
	size_t n;

	(void)state;
	fixture_open(&f, &long_answers);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_int_equal(fixture_put(&f, 3, 0, 20), KVC_DEADLINE);
	fake_daemon_release(f.daemon);
	assert_int_equal(fake_daemon_blocks(f.daemon), 3);
	heap.until = 0;
	heap.all = true;
	kvcc_alloc_set(&failing);
	assert_int_equal(kvc_client_next(f.client, NULL, 0, 0, &n), KVC_OK);
	kvcc_alloc_set(NULL);
	fake_daemon_await(f.daemon, KVC_VERB_DROP, 1);
	assert_int_equal(kvc_ping(f.client, 0), KVC_OK);
	assert_int_equal(fake_daemon_blocks(f.daemon), 0);
	assert_int_equal(fixture_put(&f, 3, 0, 0), KVC_OK);
	fixture_close(&f);
}

static kvc_status submit_put(struct fixture *f, struct kvc_block *block, uint64_t *key)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, f->memory);
	fixture_blocks(block, key, 1, 0);
	return kvc_put_submit(f->ns, &transfer, block, 1, NULL);
}

/* A payload that cannot be read ends the connection, while the daemon is at work on memory for somebody else.
 */
static void test_no_memory_for_payload(void **state)
{
	struct kvc_completion completion;
	struct kvc_block block;
	struct fixture f;
	uint64_t key;
	size_t n;

	(void)state;
	fixture_open(&f, &long_answers);
	assert_int_equal(fixture_put(&f, 2, 0, 0), KVC_OK);
	fake_daemon_rule(f.daemon, KVC_VERB_PUT, (struct fake_rule){.action = FAKE_HOLD, .times = 1});
	assert_int_equal(submit_put(&f, &block, &key), KVC_OK);
	fake_daemon_await(f.daemon, KVC_VERB_PUT, 2);
	heap.all = true;
	for (heap.until = 0; !strstr(kvc_last_error(), "a reply with a payload"); heap.until++) {
		heap.made = 0;
		kvcc_alloc_set(&failing);
		inline_get(&f);
		kvcc_alloc_set(NULL);
		assert_true(heap.until < 1000);
	}
	assert_int_equal(kvc_client_next(f.client, &completion, 1, 10000, &n), KVC_OK);
	assert_int_equal(n, 1);
	assert_int_equal(completion.status, KVC_NO_MEMORY);
	assert_int_equal(fixture_get(&f, 1, 0, 0), KVC_FENCED);
	assert_int_equal(kvc_memory_renew(f.memory), KVC_OK);
	assert_int_equal(fixture_get(&f, 1, 0, 0), KVC_OK);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_no_memory_once),
	        cmocka_unit_test(test_no_memory_any_more),
	        cmocka_unit_test(test_no_memory_to_read_once),
	        cmocka_unit_test(test_no_memory_to_read_any_more),
	        cmocka_unit_test(test_no_memory_for_late_put),
	        cmocka_unit_test(test_no_memory_for_payload),
	};

	return cmocka_run_group_tests_name("client_memory", tests, NULL, NULL);
}
