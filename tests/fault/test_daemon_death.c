/* A daemon that dies, freezes or stops under its clients: every pending call ends in time with a clear error,
 * and calls work again soon after it is back.
 *
 * Times are asserted because they are the requirement; where a sanitizer slows everything down they are
 * stretched by kvc_server_patience(). */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tests/support/row.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define BLOCKS          8u
#define STEP_BYTES      32768u /* between blocks in memory, at least a block */
#define LONG_MS         60000u /* a deadline that only the daemon's death can beat */
#define ERROR_WITHIN_MS 1000u
#define BACK_WITHIN_MS  1000u
#define SETTLE_MS       30000u

struct world {
	struct kvc_server server;
	struct kvc_sample_space space;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
};

static uint64_t now_ms(void)
{
	return kvc_server_now_ms();
}

static uint64_t bound(uint64_t ms)
{
	return ms * kvc_server_patience();
}

static void space_init(struct kvc_sample_space *space)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "daemon-death";
	options.layers = 2;
	options.heads = 2;
	options.key_dim = options.value_dim = 64;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 16;
	assert_int_equal(kvc_sample_space_init(space, &options, 7), KVC_OK);
	assert_true(kvc_sample_bytes_max(space) <= STEP_BYTES);
}

static void start(struct world *w)
{
	assert_true(kvc_server_start(&w->server));
	if (kvc_server_ready(&w->server, (uint32_t)bound(SETTLE_MS)))
		return;
	kvc_server_show_log(&w->server);
	fail_msg("the daemon did not start");
}

static int world_open(void **state)
{
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	*state = w;
	space_init(&w->space);
	assert_true(kvc_server_init(&w->server));
	kvc_server_use_agent(&w->server);
	kvc_server_arg(&w->server, "--ram", "16M");
	kvc_server_arg(&w->server, "--threads", "2");
	kvc_server_arg(&w->server, "--disk", w->server.disk);
	kvc_server_arg(&w->server, "--disk-size", "1G");
	start(w);
	assert_int_equal(kvc_server_client(&w->server, LONG_MS, &w->client), KVC_OK);
	assert_int_equal(kvc_namespace_open(w->client, &w->space.options, 0, &w->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(w->client, (uint64_t)BLOCKS * STEP_BYTES, &w->memory), KVC_OK);
	return 0;
}

static int world_close(void **state)
{
	struct world *w = *state;

	kvc_client_destroy(w->client);
	assert_int_equal(kvc_server_settle(&w->server), 0);
	kvc_server_remove(&w->server);
	free(w);
	kvc_row_end();
	return 0;
}

/* ---- blocks -------------------------------------------------------------------------------- */

struct batch {
	uint64_t first;
	uint8_t keys[BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BLOCKS];
	struct kvc_key names[BLOCKS];
	struct kvc_transfer transfer;
};

static void batch_init(struct batch *batch, const struct world *w, struct kvc_memory *memory, uint64_t first)
{
	batch->first = first;
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_block(&w->space, first + i, i * STEP_BYTES, batch->keys[i], &batch->blocks[i]);
		batch->names[i] = (struct kvc_key){.data = batch->keys[i], .bytes = KVC_SAMPLE_KEY_BYTES};
	}
	kvc_transfer_init(&batch->transfer, memory);
}

static void batch_fill(const struct batch *batch, const struct world *w, struct kvc_memory *memory)
{
	for (size_t i = 0; i < BLOCKS; i++)
		kvc_sample_source(&w->space, batch->first + i,
		                  (uint8_t *)kvc_memory_data(memory) + i * STEP_BYTES);
}

static void batch_expect(const struct batch *batch, const struct world *w, struct kvc_memory *memory)
{
	for (size_t i = 0; i < BLOCKS; i++) {
		const uint8_t *data = (uint8_t *)kvc_memory_data(memory) + i * STEP_BYTES;
		uint64_t id = batch->first + i;
		uint64_t sum;

		assert_int_equal(batch->blocks[i].status, KVC_OK);
		assert_true(kvc_sample_sum(&w->space, id, &sum));
		assert_true(kvc_sample_sum_of(data, kvc_sample_bytes(&w->space, id)) == sum);
		kvc_row.verified++;
	}
}

static void put_all(struct world *w, struct batch *batch, uint32_t ack)
{
	batch_fill(batch, w, w->memory);
	batch->transfer.ack = ack;
	assert_int_equal(kvc_put(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL), KVC_OK);
	for (size_t i = 0; i < BLOCKS; i++)
		assert_int_equal(batch->blocks[i].status, KVC_OK);
}

static void get_all(struct world *w, struct batch *batch)
{
	memset(kvc_memory_data(w->memory), 0x5A, (size_t)BLOCKS * STEP_BYTES);
	assert_int_equal(kvc_get(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL), KVC_OK);
	batch_expect(batch, w, w->memory);
}

/* ---- pending calls ------------------------------------------------------------------------- */

enum verb { PING, PUT, GET, LOOKUP, PREFETCH, PIN, DROP, STATS, OPEN, INLINE_GET, VERBS };

struct caller {
	struct world *w;
	enum verb verb;
	struct kvc_memory *memory; /* of its own */
	atomic_int begun;
	kvc_status status;
	char error[512];
	uint64_t ended_ms;
};

static kvc_status call(struct caller *c)
{
	struct kvc_namespace_options options = c->w->space.options;
	struct kvc_namespace *ns = c->w->ns;
	struct kvc_namespace *other;
	struct kvc_stat *stats;
	struct batch batch;
	uint8_t data[STEP_BYTES];
	size_t count;

	batch_init(&batch, c->w, c->memory, 100 * (uint64_t)c->verb);
	switch (c->verb) {
	case PING:
		return kvc_ping(c->w->client, 0);
	case PUT:
		batch_fill(&batch, c->w, c->memory);
		return kvc_put(ns, &batch.transfer, batch.blocks, BLOCKS, NULL);
	case GET:
		return kvc_get(ns, &batch.transfer, batch.blocks, BLOCKS, NULL);
	case LOOKUP:
		return kvc_lookup(ns, batch.names, BLOCKS, 0, &count, NULL);
	case PREFETCH:
		return kvc_prefetch(ns, batch.names, BLOCKS, 0, &count);
	case PIN:
		return kvc_pin(ns, batch.names, BLOCKS, 0, &count);
	case DROP:
		return kvc_drop(ns, batch.names, BLOCKS, 0, &count);
	case STATS:
		return kvc_stats(c->w->client, 0, &stats, &count);
	case OPEN:
		options.model = "another";
		return kvc_namespace_open(c->w->client, &options, 0, &other);
	default:
		return kvc_get_inline(ns, &batch.transfer, batch.blocks, 1, data,
		                      kvc_sample_bytes(&c->w->space, batch.first), NULL);
	}
}

static void *caller_run(void *argument)
{
	struct caller *c = argument;

	atomic_store(&c->begun, 1);
	c->status = call(c);
	c->ended_ms = now_ms();
	snprintf(c->error, sizeof c->error, "%s", kvc_last_error());
	return NULL;
}

static void callers_start(struct world *w, struct caller callers[VERBS], pthread_t threads[VERBS])
{
	for (unsigned i = 0; i < VERBS; i++) {
		memset(&callers[i], 0, sizeof callers[i]);
		callers[i].w = w;
		callers[i].verb = (enum verb)i;
		assert_int_equal(
		        kvc_memory_create(w->client, (uint64_t)BLOCKS * STEP_BYTES, &callers[i].memory),
		        KVC_OK);
		assert_int_equal(pthread_create(&threads[i], NULL, caller_run, &callers[i]), 0);
	}
	for (unsigned i = 0; i < VERBS; i++) {
		while (!atomic_load(&callers[i].begun))
			kvc_server_step();
	}
}

static void assert_gone(kvc_status status)
{
	if (status != KVC_DISCONNECTED && status != KVC_UNAVAILABLE)
		fail_msg("%s, where DISCONNECTED or UNAVAILABLE was expected", kvc_status_name(status));
}

#define ASYNC_REQUESTS 24u

static void async_submit(struct world *w, struct batch *batch, unsigned i)
{
	kvc_status status;

	batch_init(batch, w, w->memory, 5000 + 10 * (uint64_t)i);
	if (i % 3 == 0)
		status = kvc_put_submit(w->ns, &batch->transfer, batch->blocks, BLOCKS, batch);
	else if (i % 3 == 1)
		status = kvc_get_submit(w->ns, &batch->transfer, batch->blocks, BLOCKS, batch);
	else
		status = kvc_lookup_submit(w->ns, batch->names, BLOCKS, 0, NULL, batch);
	assert_int_equal(status, KVC_OK);
}

/* All completions, each exactly once, by `end_ms`. */
static void async_expect_gone(struct world *w, struct batch *batches, uint64_t end_ms)
{
	bool seen[ASYNC_REQUESTS] = {false};
	size_t count = 0;

	while (count < ASYNC_REQUESTS) {
		struct kvc_completion completions[4];
		size_t got = 0;

		assert_int_equal(kvc_client_next(w->client, completions, 4, 100, &got), KVC_OK);
		for (size_t i = 0; i < got; i++) {
			size_t which = (size_t)((struct batch *)completions[i].tag - batches);

			assert_true(which < ASYNC_REQUESTS && !seen[which]);
			seen[which] = true;
			assert_gone(completions[i].status);
		}
		count += got;
		assert_true(now_ms() <= end_ms);
	}
}

static void pending_calls_end_at_once(void **state)
{
	static struct caller callers[VERBS];
	pthread_t threads[VERBS];
	struct world *w = *state;
	struct batch *batches = calloc(ASYNC_REQUESTS, sizeof *batches);
	uint64_t killed_ms;

	KVC_ROW("A6");
	assert_non_null(batches);
	kill(w->server.pid, SIGSTOP); /* so that nothing is answered any more */
	callers_start(w, callers, threads);
	for (unsigned i = 0; i < ASYNC_REQUESTS; i++)
		async_submit(w, &batches[i], i);
	killed_ms = now_ms();
	kvc_server_kill(&w->server);
	kvc_row.injected++;
	async_expect_gone(w, batches, killed_ms + bound(ERROR_WITHIN_MS));
	for (unsigned i = 0; i < VERBS; i++) {
		pthread_join(threads[i], NULL);
		print_message("# verb %u: %s after %lld ms: %s\n", i, kvc_status_name(callers[i].status),
		              (long long)(callers[i].ended_ms - killed_ms), callers[i].error);
		assert_gone(callers[i].status);
		assert_true(strlen(callers[i].error) > 0);
		assert_true(callers[i].ended_ms <= killed_ms + bound(ERROR_WITHIN_MS));
		kvc_memory_destroy(callers[i].memory);
	}
	free(batches);
}

static void calls_without_daemon_fail_at_once(void **state)
{
	struct world *w = *state;
	uint64_t begun_ms;

	kvc_server_kill(&w->server);
	for (unsigned i = 0; i < 20; i++) {
		begun_ms = now_ms();
		assert_gone(kvc_ping(w->client, 0));
		assert_true(now_ms() - begun_ms <= bound(ERROR_WITHIN_MS));
		assert_non_null(strstr(kvc_last_error(), w->server.socket));
	}
}

static void works_again_after_restart(void **state)
{
	struct world *w = *state;
	struct kvc_daemon_info before = {.size = sizeof before};
	struct kvc_daemon_info after = {.size = sizeof after};
	struct batch batch;
	kvc_status status;
	uint64_t started_ms;

	KVC_ROW("A6");
	batch_init(&batch, w, w->memory, 1000);
	put_all(w, &batch, KVC_ACK_DISK);
	assert_int_equal(kvc_client_info(w->client, &before, 0), KVC_OK);
	kvc_server_kill(&w->server);
	kvc_row.injected++;
	assert_gone(kvc_get(w->ns, &batch.transfer, batch.blocks, BLOCKS, NULL));
	started_ms = now_ms();
	assert_true(kvc_server_start(&w->server));
	while ((status = kvc_get(w->ns, &batch.transfer, batch.blocks, BLOCKS, NULL)) != KVC_OK) {
		assert_gone(status);
		assert_true(now_ms() - started_ms <= bound(BACK_WITHIN_MS));
		kvc_server_step();
	}
	print_message("# works again %llu ms after the start\n", (unsigned long long)(now_ms() - started_ms));
	assert_true(now_ms() - started_ms <= bound(BACK_WITHIN_MS));
	batch_expect(&batch, w, w->memory);
	assert_int_equal(kvc_client_info(w->client, &after, 0), KVC_OK);
	assert_memory_not_equal(before.boot_id, after.boot_id, sizeof before.boot_id);
	assert_true(after.connects > before.connects);
}

/* Killed and started over and over, in the same client. */
static void many_restarts(void **state)
{
	struct world *w = *state;
	struct batch batch;

	KVC_ROW("A10");
	batch_init(&batch, w, w->memory, 2000);
	put_all(w, &batch, KVC_ACK_DISK);
	for (unsigned i = 0; i < 5; i++) {
		kvc_server_kill(&w->server);
		kvc_row.injected++;
		start(w);
		get_all(w, &batch);
	}
}

/* ---- frozen -------------------------------------------------------------------------------- */

static void expect_deadline(struct world *w, struct batch *batch)
{
	uint64_t begun_ms = now_ms();

	batch->transfer.deadline_ms = 300;
	assert_int_equal(kvc_get(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL), KVC_DEADLINE);
	assert_in_range(now_ms() - begun_ms, 300 - 1, 300 + bound(ERROR_WITHIN_MS));
	assert_int_equal(kvc_get(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL), KVC_FENCED);
	assert_int_equal(kvc_put(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL), KVC_FENCED);
	batch->transfer.deadline_ms = 0;
}

/* The fence falls by itself, when the late answer comes or the connection ends: a client that does nothing
 * but ask again gets on. */
static void get_when_unfenced(struct world *w, struct batch *batch)
{
	uint64_t begun_ms = now_ms();
	kvc_status status;

	while ((status = kvc_get(w->ns, &batch->transfer, batch->blocks, BLOCKS, NULL)) != KVC_OK) {
		assert_int_equal(status, KVC_FENCED);
		assert_true(now_ms() - begun_ms <= bound(ERROR_WITHIN_MS));
		kvc_server_step();
	}
}

static void frozen_daemon_fences_memory(void **state)
{
	struct world *w = *state;
	struct batch batch;
	uint64_t begun_ms;

	KVC_ROW("G2");
	batch_init(&batch, w, w->memory, 3000);
	put_all(w, &batch, KVC_ACK_RAM);
	kill(w->server.pid, SIGSTOP);
	kvc_row.injected++;
	expect_deadline(w, &batch);
	begun_ms = now_ms();
	assert_int_equal(kvc_ping(w->client, 200), KVC_DEADLINE);
	assert_true(now_ms() - begun_ms <= 200 + bound(ERROR_WITHIN_MS));
	kill(w->server.pid, SIGCONT);
	get_when_unfenced(w, &batch);
	batch_expect(&batch, w, w->memory);
}

static void renewed_memory_is_out_of_reach(void **state)
{
	struct world *w = *state;
	struct batch batch;
	uint8_t *data = kvc_memory_data(w->memory);

	batch_init(&batch, w, w->memory, 3000);
	put_all(w, &batch, KVC_ACK_RAM);
	kill(w->server.pid, SIGSTOP);
	expect_deadline(w, &batch);
	assert_int_equal(kvc_memory_renew(w->memory), KVC_OK);
	memset(data, 0x77, (size_t)BLOCKS * STEP_BYTES);
	kill(w->server.pid, SIGCONT);
	/* When this ping is answered, the late get before it has ended too. */
	assert_int_equal(kvc_ping(w->client, 0), KVC_OK);
	for (size_t i = 0; i < (size_t)BLOCKS * STEP_BYTES; i++)
		assert_int_equal(data[i], 0x77);
	get_all(w, &batch);
}

static void killed_while_fenced(void **state)
{
	struct world *w = *state;
	struct batch batch;

	KVC_ROW("A6");
	batch_init(&batch, w, w->memory, 4000);
	put_all(w, &batch, KVC_ACK_DISK);
	kill(w->server.pid, SIGSTOP);
	expect_deadline(w, &batch);
	kvc_server_kill(&w->server);
	kvc_row.injected++;
	start(w);
	get_when_unfenced(w, &batch);
	batch_expect(&batch, w, w->memory);
}

/* ---- stopped ------------------------------------------------------------------------------- */

#define WRITERS   3u
#define WRITE_MAX 400u

struct writer {
	struct world *w;
	unsigned number;
	atomic_uint batches; /* complete in RAM, by the daemon's word */
	kvc_status last;
};

/* Puts with ACK_RAM until the daemon is gone. */
static void *writer_run(void *argument)
{
	struct writer *writer = argument;
	struct world *w = writer->w;
	struct kvc_memory *memory;
	struct batch batch;
	unsigned n = 0;

	if (kvc_memory_create(w->client, (uint64_t)BLOCKS * STEP_BYTES, &memory) != KVC_OK)
		return NULL;
	while (n < WRITE_MAX) {
		bool all = true;

		batch_init(&batch, w, memory, 100000 * (uint64_t)(writer->number + 1) + n * (uint64_t)BLOCKS);
		batch_fill(&batch, w, memory);
		writer->last = kvc_put(w->ns, &batch.transfer, batch.blocks, BLOCKS, NULL);
		for (size_t i = 0; i < BLOCKS; i++)
			all = all && batch.blocks[i].status == KVC_OK;
		if (writer->last != KVC_OK || !all)
			break;
		atomic_store(&writer->batches, ++n);
	}
	kvc_memory_destroy(memory);
	return NULL;
}

static void await_batches(struct writer *writers, unsigned wanted)
{
	uint64_t end = now_ms() + bound(SETTLE_MS);

	for (unsigned i = 0; i < WRITERS; i++) {
		while (atomic_load(&writers[i].batches) < wanted) {
			assert_true(now_ms() < end);
			kvc_server_step();
		}
	}
}

static void sigterm_under_load_keeps_everything(void **state)
{
	struct world *w = *state;
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	struct batch batch;
	unsigned total = 0;

	KVC_ROW("A5");
	memset(writers, 0, sizeof writers);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].w = w;
		writers[i].number = i;
		assert_int_equal(pthread_create(&threads[i], NULL, writer_run, &writers[i]), 0);
	}
	await_batches(writers, 5);
	if (!kvc_server_stop(&w->server, (uint32_t)bound(SETTLE_MS))) {
		kvc_server_show_log(&w->server);
		fail_msg("no clean stop");
	}
	kvc_row.injected++;
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	start(w);
	for (unsigned i = 0; i < WRITERS; i++) {
		unsigned count = atomic_load(&writers[i].batches);

		for (unsigned n = 0; n < count; n++) {
			batch_init(&batch, w, w->memory, 100000 * (uint64_t)(i + 1) + n * (uint64_t)BLOCKS);
			get_all(w, &batch);
		}
		total += count;
	}
	print_message("# %u blocks, acknowledged in RAM, were there after the stop\n", total * BLOCKS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(pending_calls_end_at_once, world_open, world_close),
	        cmocka_unit_test_setup_teardown(calls_without_daemon_fail_at_once, world_open, world_close),
	        cmocka_unit_test_setup_teardown(works_again_after_restart, world_open, world_close),
	        cmocka_unit_test_setup_teardown(many_restarts, world_open, world_close),
	        cmocka_unit_test_setup_teardown(frozen_daemon_fences_memory, world_open, world_close),
	        cmocka_unit_test_setup_teardown(renewed_memory_is_out_of_reach, world_open, world_close),
	        cmocka_unit_test_setup_teardown(killed_while_fenced, world_open, world_close),
	        cmocka_unit_test_setup_teardown(sigterm_under_load_keeps_everything, world_open, world_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
