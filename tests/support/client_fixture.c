/* Fixture of the client's tests. */
#include "tests/support/client_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void make_client(struct fixture *fixture)
{
	struct kvc_client_options options;

	kvc_client_options_init(&options);
	options.socket_path = fixture->path;
	options.name = "test";
	options.deadline_ms = 20000; /* tests that want a deadline name it; this one only ends a hang */
	assert_int_equal(kvc_client_create(&options, &fixture->client), KVC_OK);
}

void fixture_open_empty(struct fixture *fixture)
{
	int length;

	*fixture = (struct fixture){.daemon = NULL};
	kvc_test_temp_dir(fixture->folder);
	length = snprintf(fixture->path, sizeof(fixture->path), "%s/s", fixture->folder);
	assert_in_range(length, 3, sizeof(fixture->path) - 1);
	make_client(fixture);
}

struct kvc_namespace *fixture_namespace(struct fixture *fixture)
{
	struct kvc_namespace_options options;
	struct kvc_namespace *ns = NULL;
	kvc_status status;

	kvc_namespace_options_init(&options);
	options.model = "model";
	options.layers = FIXTURE_LAYERS;
	options.heads = FIXTURE_HEADS;
	options.key_dim = FIXTURE_DIM;
	options.value_dim = FIXTURE_DIM;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = FIXTURE_TOKENS;
	status = kvc_namespace_open(fixture->client, &options, 0, &ns);
	if (status != KVC_OK)
		fail_msg("open: %s: %s", kvc_status_name(status), kvc_last_error());
	return ns;
}

void fixture_open(struct fixture *fixture, const struct fake_limits *limits)
{
	fixture_open_empty(fixture);
	fixture_start_daemon(fixture, limits);
	fixture->ns = fixture_namespace(fixture);
	assert_int_equal(
	        kvc_memory_create(fixture->client, (uint64_t)FIXTURE_BLOCK * FIXTURE_SLOTS, &fixture->memory),
	        KVC_OK);
}

void fixture_start_daemon(struct fixture *fixture, const struct fake_limits *limits)
{
	fixture->daemon = fake_daemon_start(fixture->path, limits);
}

void fixture_stop_daemon(struct fixture *fixture)
{
	fake_daemon_stop(fixture->daemon);
	fixture->daemon = NULL;
}

void fixture_close(struct fixture *fixture)
{
	kvc_memory_destroy(fixture->memory);
	kvc_namespace_close(fixture->ns);
	kvc_client_destroy(fixture->client);
	if (fixture->daemon)
		fixture_stop_daemon(fixture);
	assert_int_equal(access(fixture->path, F_OK), -1); /* what made the socket has removed it */
	kvc_test_temp_dir_remove(fixture->folder);
}

void fixture_blocks(struct kvc_block *blocks, uint64_t *keys, size_t count, uint64_t first)
{
	for (size_t i = 0; i < count; i++) {
		keys[i] = first + i;
		blocks[i] = (struct kvc_block){
		        .key = &keys[i],
		        .key_bytes = sizeof(keys[i]),
		        .tokens = FIXTURE_TOKENS,
		        .key_offset = i % FIXTURE_SLOTS * FIXTURE_BLOCK,
		        .value_offset = i % FIXTURE_SLOTS * FIXTURE_BLOCK + FIXTURE_HALF,
		        .status = KVC_INTERNAL,
		};
	}
}

uint8_t fixture_byte(uint64_t key, size_t at)
{
	uint64_t x = (key + 1) * 0x9E3779B97F4A7C15u + at * 0xBF58476D1CE4E5B9u;

	return (uint8_t)(x >> 56);
}

void fixture_fill(struct kvc_memory *memory, size_t count, uint64_t first)
{
	uint8_t *data = kvc_memory_data(memory);

	for (size_t i = 0; i < count * FIXTURE_BLOCK; i++)
		data[i] = fixture_byte(first + i / FIXTURE_BLOCK, i % FIXTURE_BLOCK);
}

void fixture_expect(struct kvc_memory *memory, size_t count, uint64_t first)
{
	const uint8_t *data = kvc_memory_data(memory);

	for (size_t i = 0; i < count * FIXTURE_BLOCK; i++) {
		if (data[i] != fixture_byte(first + i / FIXTURE_BLOCK, i % FIXTURE_BLOCK))
			fail_msg("wrong byte %zu of block %zu", i % FIXTURE_BLOCK, i / FIXTURE_BLOCK);
	}
}

void fixture_clear(struct kvc_memory *memory)
{
	memset(kvc_memory_data(memory), 0, kvc_memory_bytes(memory));
}

static kvc_status move(struct fixture *fixture, int put, size_t count, uint64_t first, uint32_t deadline_ms)
{
	struct kvc_block *blocks = calloc(count, sizeof(*blocks));
	uint64_t *keys = calloc(count, sizeof(*keys));
	struct kvc_transfer transfer;
	kvc_status status;

	assert_non_null(blocks);
	assert_non_null(keys);
	kvc_transfer_init(&transfer, fixture->memory);
	transfer.deadline_ms = deadline_ms;
	fixture_blocks(blocks, keys, count, first);
	status = put ? kvc_put(fixture->ns, &transfer, blocks, count, NULL)
	             : kvc_get(fixture->ns, &transfer, blocks, count, NULL);
	for (size_t i = 0; i < count; i++) {
		if (status == KVC_OK && blocks[i].status != KVC_OK)
			status = blocks[i].status;
		else if (status != KVC_OK && status != KVC_MISS)
			assert_int_equal(blocks[i].status, status);
	}
	free(blocks);
	free(keys);
	return status;
}

kvc_status fixture_put(struct fixture *fixture, size_t count, uint64_t first, uint32_t deadline_ms)
{
	fixture_fill(fixture->memory, count, first);
	return move(fixture, 1, count, first, deadline_ms);
}

kvc_status fixture_get(struct fixture *fixture, size_t count, uint64_t first, uint32_t deadline_ms)
{
	return move(fixture, 0, count, first, deadline_ms);
}
