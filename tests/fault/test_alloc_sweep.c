/* Every allocation fails once, and then with all that follow: in the daemon while a client works through a
 * script, in the daemon's start, and in the client library. Nothing may crash, hang or leak, no answer may be
 * wrong, and afterwards everything works.
 *
 * The daemon is a test build of kvcellard with an agent in it (agent.c); the client library takes its memory
 * through functions of this file. */
#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/alloc.h"
#include "tests/fault/agent.h"
#include "tests/support/row.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define BLOCKS     4u
#define STEP_BYTES 8192u
#define READY_MS   30000u
#define SETTLE_MS  20000u
#define DEADLINE   20000u

/* ---- the client's heap --------------------------------------------------------------------- */

static atomic_uint_fast64_t heap_count;
static atomic_int_fast64_t heap_live;
static atomic_uint_fast64_t heap_fail_at; /* 0: none */
static atomic_int heap_forever;

static void *heap_alloc(size_t bytes)
{
	uint64_t n = atomic_fetch_add(&heap_count, 1) + 1;
	uint64_t at = atomic_load(&heap_fail_at);
	void *memory;

	if (at && (n == at || (n > at && atomic_load(&heap_forever))))
		return NULL;
	memory = malloc(bytes);
	if (memory)
		atomic_fetch_add(&heap_live, 1);
	return memory;
}

static void heap_release(void *memory)
{
	if (memory)
		atomic_fetch_sub(&heap_live, 1);
	free(memory);
}

static void heap_fail(uint64_t n, int forever)
{
	atomic_store(&heap_forever, forever);
	atomic_store(&heap_fail_at, n ? atomic_load(&heap_count) + n : 0);
}

/* ---- world --------------------------------------------------------------------------------- */

struct world {
	struct kvc_server server;
	struct kvc_sample_space space;
	uint64_t next_id;
	unsigned failures; /* calls that said so, in the script that runs */
};

static struct agent_answer agent_call(const struct world *w, struct agent_command command)
{
	struct agent_answer answer = {0};

	if (write(w->server.agent, &command, sizeof command) != (ssize_t)sizeof command ||
	    read(w->server.agent, &answer, sizeof answer) != (ssize_t)sizeof answer)
		fail_msg("the daemon is gone");
	return answer;
}

static struct agent_answer agent_ask(const struct world *w)
{
	return agent_call(w, (struct agent_command){0});
}

static void agent_fail(const struct world *w, uint64_t n, int forever)
{
	agent_call(w, (struct agent_command){.set = 1, .fail_at = n, .forever = forever});
}

static void server_open(struct kvc_server *server)
{
	assert_true(kvc_server_init(server));
	kvc_server_use_agent(server);
	kvc_server_arg(server, "--ram", "8M");
	kvc_server_arg(server, "--threads", "2");
	kvc_server_arg(server, "--disk", server->disk);
	kvc_server_arg(server, "--disk-size", "1G");
}

static void space_init(struct kvc_sample_space *space)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "alloc-sweep";
	options.layers = 2;
	options.heads = 1;
	options.key_dim = options.value_dim = 64;
	options.element = KVC_ELEMENT_FP16;
	options.block_tokens = 16;
	assert_int_equal(kvc_sample_space_init(space, &options, 11), KVC_OK);
	assert_true(kvc_sample_bytes_max(space) <= STEP_BYTES);
}

static int world_open(void **state)
{
	static const struct kvcc_allocator allocator = {heap_alloc, heap_release};
	struct world *w = calloc(1, sizeof *w);

	assert_non_null(w);
	*state = w;
	kvcc_alloc_set(&allocator);
	space_init(&w->space);
	server_open(&w->server);
	assert_true(kvc_server_start(&w->server));
	w->next_id = 1;
	assert_true(kvc_server_ready(&w->server, READY_MS * kvc_server_patience()));
	return 0;
}

static int world_close(void **state)
{
	struct world *w = *state;

	assert_int_equal(kvc_server_settle(&w->server), 0);
	if (!kvc_server_stop(&w->server, SETTLE_MS * kvc_server_patience()))
		kvc_server_show_log(&w->server);
	kvc_server_remove(&w->server);
	free(w);
	kvcc_alloc_set(NULL);
	kvc_row_end();
	return 0;
}

/* ---- the script ---------------------------------------------------------------------------- */

struct script {
	struct world *w;
	struct kvc_client *client;
	struct kvc_memory *memory;
	struct kvc_namespace *ns;
	uint64_t first;
	uint8_t keys[BLOCKS][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[BLOCKS];
	struct kvc_key names[BLOCKS];
};

/* How a call may end when there is no memory somewhere. Not by its deadline: that would be a request that was
 * forgotten. */
static bool passed(struct script *s, kvc_status status, const char *what)
{
	switch (status) {
	case KVC_OK:
		return true;
	case KVC_NO_MEMORY:
	case KVC_BUSY:
	case KVC_MISS:
	case KVC_DISCONNECTED:
	case KVC_UNAVAILABLE:
		s->w->failures++;
		return false;
	default:
		fail_msg("%s: %s: %s", what, kvc_status_name(status), kvc_last_error());
		return false;
	}
}

#define CALL(s, call) passed((s), (call), #call)

static uint8_t *data_of(const struct script *s, size_t i)
{
	return (uint8_t *)kvc_memory_data(s->memory) + i * STEP_BYTES;
}

static void fill(struct script *s)
{
	for (size_t i = 0; i < BLOCKS; i++)
		kvc_sample_source(&s->w->space, s->first + i, data_of(s, i));
}

static void check(const struct script *s, size_t i, const void *data)
{
	uint64_t sum;

	assert_true(kvc_sample_sum(&s->w->space, s->first + i, &sum));
	assert_true(kvc_sample_sum_of(data, kvc_sample_bytes(&s->w->space, s->first + i)) == sum);
	kvc_row.verified++;
}

static bool script_open(struct script *s, struct world *w)
{
	memset(s, 0, sizeof *s);
	s->w = w;
	s->first = w->next_id;
	w->next_id += BLOCKS;
	for (size_t i = 0; i < BLOCKS; i++) {
		kvc_sample_block(&w->space, s->first + i, i * STEP_BYTES, s->keys[i], &s->blocks[i]);
		s->names[i] = (struct kvc_key){.data = s->keys[i], .bytes = KVC_SAMPLE_KEY_BYTES};
		if (i > 0) {
			s->blocks[i].parent = s->keys[i - 1];
			s->blocks[i].parent_bytes = KVC_SAMPLE_KEY_BYTES;
		}
	}
	return CALL(s, kvc_server_client(&w->server, DEADLINE, &s->client)) &&
	       CALL(s, kvc_memory_create(s->client, BLOCKS * STEP_BYTES, &s->memory)) &&
	       CALL(s, kvc_namespace_open(s->client, &w->space.options, 0, &s->ns));
}

static void script_blocks(struct script *s, uint32_t ack)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, s->memory);
	transfer.ack = ack;
	fill(s);
	if (CALL(s, kvc_put(s->ns, &transfer, s->blocks, BLOCKS, NULL))) {
		for (size_t i = 0; i < BLOCKS; i++)
			CALL(s, s->blocks[i].status);
	}
	memset(data_of(s, 0), 0xCC, (size_t)BLOCKS * STEP_BYTES);
	if (!CALL(s, kvc_get(s->ns, &transfer, s->blocks, BLOCKS, NULL)))
		return;
	for (size_t i = 0; i < BLOCKS; i++) {
		if (CALL(s, s->blocks[i].status))
			check(s, i, data_of(s, i));
	}
}

static void script_inline(struct script *s)
{
	struct kvc_transfer transfer;
	uint8_t data[STEP_BYTES];
	uint64_t bytes = kvc_sample_bytes(&s->w->space, s->first);

	kvc_transfer_init(&transfer, NULL);
	kvc_sample_source(&s->w->space, s->first, data);
	if (CALL(s, kvc_put_inline(s->ns, &transfer, s->blocks, 1, data, bytes, NULL)))
		CALL(s, s->blocks[0].status);
	memset(data, 0xCC, sizeof data);
	if (CALL(s, kvc_get_inline(s->ns, &transfer, s->blocks, 1, data, bytes, NULL)) &&
	    CALL(s, s->blocks[0].status))
		check(s, 0, data);
}

static void script_keys(struct script *s)
{
	struct kvc_stat *stats;
	uint8_t tiers[BLOCKS];
	size_t count;

	CALL(s, kvc_lookup(s->ns, s->names, BLOCKS, 0, &count, tiers));
	CALL(s, kvc_prefetch(s->ns, s->names, BLOCKS, 0, &count));
	CALL(s, kvc_pin(s->ns, s->names, BLOCKS, 0, &count));
	CALL(s, kvc_unpin(s->ns, s->names, BLOCKS, 0, &count));
	if (CALL(s, kvc_stats(s->client, 0, &stats, &count)))
		kvc_stats_free(stats);
}

static void script_async(struct script *s)
{
	struct kvc_transfer transfer;
	struct kvc_completion completions[2];
	uint8_t tiers[BLOCKS];
	size_t submitted = 0;
	size_t got;

	kvc_transfer_init(&transfer, s->memory);
	fill(s);
	submitted += CALL(s, kvc_put_submit(s->ns, &transfer, s->blocks, BLOCKS, s));
	submitted += CALL(s, kvc_lookup_submit(s->ns, s->names, BLOCKS, 0, tiers, s));
	while (submitted > 0) {
		if (!CALL(s, kvc_client_next(s->client, completions, 2, 1000, &got)))
			continue;
		assert_true(got <= submitted);
		submitted -= got;
		for (size_t i = 0; i < got; i++)
			CALL(s, completions[i].status);
	}
}

static void script_drop(struct script *s)
{
	size_t count;

	CALL(s, kvc_drop(s->ns, s->names, BLOCKS, 0, &count));
}

/* Everything once; true if every call was KVC_OK. */
static bool script_run(struct world *w)
{
	struct script s;

	w->failures = 0;
	if (script_open(&s, w)) {
		script_blocks(&s, KVC_ACK_DISK);
		script_drop(&s);
		script_blocks(&s, KVC_ACK_RAM);
		script_drop(&s);
		script_inline(&s);
		script_async(&s);
		script_keys(&s);
		script_drop(&s);
		kvc_namespace_close(s.ns);
	}
	kvc_memory_destroy(s.memory);
	kvc_client_destroy(s.client);
	return w->failures == 0;
}

/* With memory again: the whole script passes. A part of the daemon may have switched itself off for a moment,
 * so it is tried until it does. */
static void expect_recovery(struct world *w)
{
	uint64_t end = kvc_server_now_ms() + SETTLE_MS;

	while (!script_run(w)) {
		if (kvc_server_now_ms() > end)
			fail_msg("does not work again");
		kvc_server_step();
	}
}

/* Everything is as it was without clients. The blocks of scripts that were cut short may be left in the
 * cache: they are not leaks, so only what clients hold is looked at. */
static void expect_live(struct world *w, int64_t live)
{
	uint64_t end = kvc_server_now_ms() + SETTLE_MS;
	int64_t now;

	while ((now = agent_ask(w).live) > live) {
		if (kvc_server_now_ms() > end)
			fail_msg("%lld allocations are live, %lld were", (long long)now, (long long)live);
		kvc_server_step();
	}
}

/* ---- tests --------------------------------------------------------------------------------- */

static void script_passes(void **state)
{
	assert_true(script_run(*state));
	assert_int_equal(atomic_load(&heap_live), 0);
}

/* Allocations that one script makes in the daemon, and the fewest that are live while no client is there. */
static uint64_t daemon_measure(struct world *w, int64_t *live)
{
	uint64_t before;
	uint64_t count;

	for (unsigned i = 0; i < 5; i++)
		assert_true(script_run(w));
	before = agent_ask(w).count;
	assert_true(script_run(w));
	count = agent_ask(w).count - before;
	assert_true(count > 0);
	*live = INT64_MAX;
	for (unsigned i = 0; i < 100; i++) {
		int64_t now = agent_ask(w).live;

		*live = now < *live ? now : *live;
		kvc_server_step();
	}
	return count;
}

static void sweep_count(void)
{
	kvc_row.injected++;
	kvc_row.points++;
	kvc_row.points_total++;
}

static void daemon_sweep(struct world *w, int forever)
{
	int64_t live;
	uint64_t count = daemon_measure(w, &live);
	unsigned felt = 0;

	for (uint64_t n = 1; n <= count + 2; n++) {
		agent_fail(w, n, forever);
		felt += !script_run(w);
		agent_fail(w, 0, 0);
		sweep_count();
		expect_recovery(w);
		expect_live(w, live);
	}
	print_message("# %llu allocations of the daemon, %u of the failures were felt by the client\n",
	              (unsigned long long)count, felt);
	assert_true(felt > 0);
}

static void each_allocation_of_the_daemon_fails(void **state)
{
	KVC_ROW("C1");
	daemon_sweep(*state, 0);
}

static void all_later_allocations_of_the_daemon_fail(void **state)
{
	KVC_ROW("C2");
	daemon_sweep(*state, 1);
}

static void client_sweep(struct world *w, int forever)
{
	uint64_t before = atomic_load(&heap_count);
	uint64_t count;
	unsigned felt = 0;

	assert_true(script_run(w));
	count = atomic_load(&heap_count) - before;
	assert_true(count > 0);
	for (uint64_t n = 1; n <= count + 2; n++) {
		heap_fail(n, forever);
		felt += !script_run(w);
		heap_fail(0, 0);
		sweep_count();
		assert_int_equal(atomic_load(&heap_live), 0);
		assert_true(script_run(w));
		assert_int_equal(atomic_load(&heap_live), 0);
	}
	print_message("# %llu allocations of the client, %u of the failures were felt\n",
	              (unsigned long long)count, felt);
	assert_true(felt > 0);
}

static void each_allocation_of_the_client_fails(void **state)
{
	KVC_ROW("C1");
	client_sweep(*state, 0);
}

static void all_later_allocations_of_the_client_fail(void **state)
{
	KVC_ROW("C2");
	client_sweep(*state, 1);
}

/* A client that lives through a time without memory. */
static void one_client_survives(void **state)
{
	struct world *w = *state;
	struct script s;

	assert_true(script_open(&s, w));
	for (uint64_t n = 1; n <= 40; n++) {
		heap_fail(n, 1);
		script_blocks(&s, KVC_ACK_RAM);
		script_keys(&s);
		script_async(&s);
		heap_fail(0, 0);
		w->failures = 0;
		script_blocks(&s, KVC_ACK_RAM);
		script_keys(&s);
		script_async(&s);
		assert_int_equal(w->failures, 0);
	}
	kvc_client_destroy(s.client);
	assert_int_equal(atomic_load(&heap_live), 0);
}

/* The daemon either starts, or ends with a status and a reason. */
static void start_once(struct kvc_server *server, unsigned n, bool *started, bool *felt)
{
	char number[16];
	int status = 0;

	snprintf(number, sizeof number, "%u", n);
	setenv("KVC_TEST_FAIL_START", number, 1);
	assert_true(kvc_server_start(server));
	unsetenv("KVC_TEST_FAIL_START");
	*started = kvc_server_ready(server, READY_MS * kvc_server_patience());
	*felt = !*started;
	if (*started) {
		assert_true(kvc_server_stop(server, SETTLE_MS * kvc_server_patience()));
		return;
	}
	if (server->pid && !kvc_server_wait(server, SETTLE_MS, &status))
		fail_msg("allocation %u of the start: neither started nor ended", n);
	if (WIFSIGNALED(status)) {
		kvc_server_show_log(server);
		fail_msg("allocation %u of the start: ended by signal %d", n, WTERMSIG(status));
	}
}

static void each_allocation_of_the_start_fails(void **state)
{
	struct kvc_server server;
	unsigned unfelt = 0;
	unsigned failed = 0;

	(void)state;
	server_open(&server);
	/* When several in a row are not felt, the start is over. */
	for (unsigned n = 1; n <= 400 && unfelt < 12; n++) {
		bool started;
		bool felt;

		start_once(&server, n, &started, &felt);
		unfelt = felt ? 0 : unfelt + 1;
		failed += felt;
	}
	print_message("# %u allocations of the start, each of which ends it\n", failed);
	assert_true(failed > 0);
	kvc_server_remove(&server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(script_passes, world_open, world_close),
	        cmocka_unit_test_setup_teardown(each_allocation_of_the_daemon_fails, world_open, world_close),
	        cmocka_unit_test_setup_teardown(all_later_allocations_of_the_daemon_fail, world_open,
	                                        world_close),
	        cmocka_unit_test_setup_teardown(each_allocation_of_the_client_fails, world_open, world_close),
	        cmocka_unit_test_setup_teardown(all_later_allocations_of_the_client_fail, world_open,
	                                        world_close),
	        cmocka_unit_test_setup_teardown(one_client_survives, world_open, world_close),
	        cmocka_unit_test(each_allocation_of_the_start_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
