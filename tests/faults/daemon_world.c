/* See daemon_world.h. */
#include "tests/faults/daemon_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { READY_MS = 30000, SETTLE_MS = 30000 };

static void space_init(struct kvc_sample_space *space)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "faults";
	options.layers = 2;
	options.heads = 1;
	options.key_dim = options.value_dim = 64;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 16;
	assert_int_equal(kvc_sample_space_init(space, &options, 5), KVC_OK);
	assert_true(kvc_sample_bytes_max(space) <= DW_STEP);
}

void dw_init(struct daemon_world *w, bool disk)
{
	memset(w, 0, sizeof *w);
	space_init(&w->space);
	assert_true(kvc_server_init(&w->server));
	kvc_server_use_agent(&w->server);
	kvc_server_arg(&w->server, "--ram", "8M");
	kvc_server_arg(&w->server, "--threads", "2");
	if (!disk)
		return;
	kvc_server_arg(&w->server, "--disk", w->server.disk);
	kvc_server_arg(&w->server, "--disk-size", "256M");
	kvc_server_arg(&w->server, "--segment-size", "1M"); /* each life begins a segment of its own */
}

void dw_spawn(struct daemon_world *w)
{
	assert_true(kvc_server_start(&w->server));
}

void dw_start(struct daemon_world *w)
{
	dw_spawn(w);
	if (!kvc_server_ready(&w->server, READY_MS * kvc_server_patience())) {
		kvc_server_show_log(&w->server);
		fail_msg("the daemon does not start");
	}
	if (!w->client)
		dw_connect(w);
}

void dw_connect(struct daemon_world *w)
{
	assert_int_equal(kvc_server_client(&w->server, DW_DEADLINE, &w->client), KVC_OK);
	assert_int_equal(kvc_namespace_open(w->client, &w->space.options, 0, &w->ns), KVC_OK);
	assert_int_equal(kvc_memory_create(w->client, DW_BLOCKS * DW_STEP, &w->memory), KVC_OK);
}

void dw_disconnect(struct daemon_world *w)
{
	kvc_client_destroy(w->client);
	w->client = NULL;
}

void dw_end(struct daemon_world *w)
{
	uint64_t leaks;
	bool ended;

	dw_disconnect(w);
	leaks = kvc_server_settle(&w->server);
	ended = kvc_server_stop(&w->server, SETTLE_MS * kvc_server_patience());
	if (!ended)
		kvc_server_show_log(&w->server);
	kvc_server_kill(&w->server);
	kvc_server_remove(&w->server);
	assert_true(ended);
	assert_int_equal(leaks, 0);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static uint8_t *data_of(const struct daemon_world *w, size_t i)
{
	return (uint8_t *)kvc_memory_data(w->memory) + i * DW_STEP;
}

static void blocks_init(struct daemon_world *w, uint64_t first, struct kvc_transfer *transfer)
{
	for (size_t i = 0; i < DW_BLOCKS; i++)
		kvc_sample_block(&w->space, first + i, i * DW_STEP, w->keys[i], &w->blocks[i]);
	kvc_transfer_init(transfer, w->memory);
	transfer->deadline_ms = w->deadline_ms;
}

unsigned dw_put(struct daemon_world *w, uint64_t first, uint32_t ack)
{
	struct kvc_transfer transfer;
	unsigned done = 0;

	blocks_init(w, first, &transfer);
	transfer.ack = ack;
	for (size_t i = 0; i < DW_BLOCKS; i++)
		kvc_sample_source(&w->space, first + i, data_of(w, i));
	if (kvc_put(w->ns, &transfer, w->blocks, DW_BLOCKS, NULL) != KVC_OK)
		return 0;
	for (size_t i = 0; i < DW_BLOCKS; i++)
		done += w->blocks[i].status == KVC_OK;
	return done;
}

static void block_check(const struct daemon_world *w, uint64_t id, size_t i)
{
	uint64_t sum;
	bool right;

	assert_true(kvc_sample_sum(&w->space, id, &sum));
	right = kvc_sample_sum_of(data_of(w, i), kvc_sample_bytes(&w->space, id)) == sum;
	kvc_row.verified += right;
	kvc_row.wrong += !right;
	assert_true(right);
}

unsigned dw_get(struct daemon_world *w, uint64_t first)
{
	struct kvc_transfer transfer;
	unsigned there = 0;

	blocks_init(w, first, &transfer);
	memset(data_of(w, 0), 0xDD, DW_BLOCKS * DW_STEP);
	if (kvc_get(w->ns, &transfer, w->blocks, DW_BLOCKS, NULL) != KVC_OK)
		return 0;
	for (size_t i = 0; i < DW_BLOCKS; i++) {
		if (w->blocks[i].status != KVC_OK)
			continue;
		block_check(w, first + i, i);
		there++;
	}
	return there;
}

/* ---- looking ------------------------------------------------------------------------------- */

struct agent_answer dw_agent(struct daemon_world *w, struct agent_command command)
{
	struct agent_answer answer = {0};

	assert_int_equal(write(w->server.agent, &command, sizeof command), sizeof command);
	if (command.what != AGENT_ABORT && command.what != AGENT_EAT)
		assert_int_equal(read(w->server.agent, &answer, sizeof answer), sizeof answer);
	return answer;
}

double dw_stat(struct daemon_world *w, const char *name)
{
	return kvc_server_stat(w->client, name);
}

void dw_await(struct daemon_world *w, const char *name, double least)
{
	uint64_t end = kvc_server_now_ms() + SETTLE_MS * kvc_server_patience();

	while (dw_stat(w, name) < least) {
		if (kvc_server_now_ms() > end)
			fail_msg("%s stays at %g", name, dw_stat(w, name));
		kvc_server_step();
	}
}
