/* Sessions over a socketpair, with a fake cache: what is answered when, what is let go when, and what happens
 * when memory runs out at any point. One thread: the test turns the kvc_ses.loop. */
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
#include <time.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "tests/fake/session_world.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

static void test_shm_round_trip(void **state)
{
	static uint8_t expected[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_ses_fill(expected, sizeof expected, 1);
	memcpy(memory, expected, sizeof expected);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0), "000");
	memset(memory, 0, sizeof expected);
	kvc_ses_transfer_init(&t, 4, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0), "0001");
	assert_memory_equal(memory, expected, sizeof expected);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* Only blocks that came are in the payload, in order and without gaps. */
static void test_inline_round_trip(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_test_reply reply;
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();

	(void)state;
	kvc_ses_fill(data, sizeof data, 2);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data),
	                      "000");
	t.keys[1] = 'z';
	t.blocks[0].tokens = 15; /* present with 16 */
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_string_equal(kvc_ses_block_statuses(&reply), "b10");
	assert_int_equal(reply.frame.payload_bytes, KVC_TEST_BLOCK_BYTES);
	assert_memory_equal(reply.payload, data + 2 * KVC_TEST_BLOCK_BYTES, KVC_TEST_BLOCK_BYTES);
	free(reply.payload);
	close(fd);
}

static void test_inline_payload_must_fit_the_blocks(void **state)
{
	static uint8_t data[KVC_TEST_BLOCK_BYTES + 1];
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();

	(void)state;
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_INLINE);
	for (size_t bytes = sizeof data - 2; bytes <= sizeof data; bytes++) {
		uint64_t id = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, bytes);

		assert_int_equal(kvc_ses_next_status(fd, id),
		                 bytes == KVC_TEST_BLOCK_BYTES ? KVC_OK : KVC_INVALID);
	}
	kvc_ses_transfer_init(&t, 7, KVCELLAR__PLANE__PLANE_INLINE); /* 112 KiB asked for, 100,000 allowed */
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_GET, &t.get.base), KVC_LIMIT);
	close(fd);
}

/* ---- when a reply comes -------------------------------------------------------------------- */

static void sleep_ms(unsigned ms)
{
	nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000}, NULL);
}

static void test_reply_waits_for_the_last_block(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_SHM);
	id = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	assert_true(kvc_ses_silent(fd));
	kvc_fake_release(kvc_ses.cache, 2);
	assert_true(kvc_ses_silent(fd));
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "000");
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static void test_deadline_cancels(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_SHM);
	t.get.deadline_ms = 300;
	id = kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "133");
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.deadlines")), 1);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* The deadline passed, but the operation cannot let the memory go yet: no reply before it does. */
static void test_deadline_does_not_answer_for_a_running_operation(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	t.get.deadline_ms = 10;
	id = kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	sleep_ms(30);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.deadlines")), 1);
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "3");
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void test_request_that_expired_does_not_begin(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	t.put.expires_ns = t.get.expires_ns = now_ns() - 1;
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_PUT, &t.put.base), KVC_DEADLINE);
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_GET, &t.get.base), KVC_DEADLINE);
	assert_int_equal(kvc_fake_blocks(kvc_ses.cache), 0);
	t.put.expires_ns = now_ns() + 60000000000u;
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0), "0");
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* The daemon was frozen while the put was running, and the source has changed meanwhile: the block must not
 * stay, although the put itself succeeded. */
static void test_put_read_after_it_expired_is_forgotten(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	t.put.expires_ns = now_ns() + 40000000;
	id = kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 1);
	sleep_ms(60); /* no turn of the loop: its timers do not fire */
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "3");
	assert_int_equal(kvc_fake_blocks(kvc_ses.cache), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* ---- who is let go when -------------------------------------------------------------------- */

static bool is_mapped(const void *address)
{
	unsigned char page;

	return mincore((void *)((uintptr_t)address & ~(uintptr_t)4095), 1, &page) == 0;
}

/* The end of the connection is the promise that nobody touches the client's memory: after a violation it
 * comes only when the operations are done. */
static void test_e_socket_closes_after_the_last_operation(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	const uint8_t *mapped;

	(void)state;
	KVC_ROW("D27");
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	assert_true(kvc_test_send(fd, "garbage!", 8));
	kvc_row.injected++;
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.dropped.bad_frame")), 1);
	mapped = kvc_fake_oldest_view(kvc_ses.cache)->key;
	assert_true(is_mapped(mapped));
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_ends(fd);
	assert_false(is_mapped(mapped));
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static void test_hangup_cancels_and_releases(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	KVC_ROW("D2 D27");
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 5, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 5);
	close(fd);
	kvc_row.injected++;
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 0);
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 0);
	assert_int_equal(kvc_fake_blocks(kvc_ses.cache), 0);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.connections")), 0);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.region_bytes")), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
}

/* The put is read to its end although it was cancelled, and its client, which waits for nothing, may write
 * the source again: what was read must not stay. */
static void test_put_whose_client_has_gone_is_forgotten(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	const struct kvc_op *op;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_STUCK);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	t.put.expires_ns = now_ns() + 60000000000u;
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	op = kvc_fake_oldest(kvc_ses.cache);
	assert_true(op->source_held(op));
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	assert_false(op->source_held(op)); /* nor before the loop has seen it */
	close(fd);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 1);
	assert_false(op->source_held(op));
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
}

static void test_detach_waits_until_unused(void **state)
{
	Kvcellar__Detach detach;
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t get_id;
	uint64_t detach_id;

	(void)state;
	kvcellar__detach__init(&detach);
	detach.id = 1;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 2, KVCELLAR__PLANE__PLANE_SHM);
	get_id = kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	detach_id = kvc_ses_send_request(fd, KVC_VERB_DETACH, &detach.base, NULL, 0);
	assert_true(kvc_ses_silent(fd));
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_GET, &t.get.base),
	                 KVC_UNKNOWN_ID); /* gone for new requests */
	kvc_fake_release(kvc_ses.cache, 1);
	assert_true(kvc_ses_silent(fd));
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, get_id, "11");
	assert_int_equal(kvc_ses_next_status(fd, detach_id), KVC_OK);
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_DETACH, &detach.base), KVC_UNKNOWN_ID);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static void test_namespace_closed_while_in_use(void **state)
{
	Kvcellar__Close message;
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvcellar__close__init(&message);
	message.id = 1;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	id = kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_CLOSE, &message.base), KVC_OK);
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 1);
	assert_int_equal(kvc_ses_open_ns(fd, 1), KVC_OK);
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 2);
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, id, "1");
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 1);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* ---- limits -------------------------------------------------------------------------------- */

static void test_d26_inflight_cap(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	KVC_ROW("D26");
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	for (int i = 0; i < 20; i++)
		kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_row.injected += 20 - 8; /* over the cap */
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 8);
	kvc_fake_release(kvc_ses.cache, 3);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 8);
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_AT_ONCE);
	kvc_fake_release(kvc_ses.cache, 8);
	for (int i = 0; i < 20; i++) {
		struct kvc_test_reply reply;

		assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
		assert_string_equal(kvc_ses_block_statuses(&reply), "1");
	}
	assert_true(kvc_ses_silent(fd));
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

static void test_inline_budget(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_ses_transfer t;
	int first = kvc_ses_client();
	int second = kvc_ses_client();
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 6, KVCELLAR__PLANE__PLANE_INLINE); /* 98,304 of 100,000 bytes */
	id = kvc_ses_send_request(first, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	assert_int_equal(kvc_ses_next_status(second, kvc_ses_send_request(second, KVC_VERB_PUT, &t.put.base,
	                                                                  data, sizeof data)),
	                 KVC_BUSY);
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_AT_ONCE);
	kvc_fake_release(kvc_ses.cache, 6);
	kvc_ses_assert_blocks(first, id, "111111");
	kvc_ses_assert_blocks(
	        second, kvc_ses_send_request(second, KVC_VERB_PUT, &t.put.base, data, sizeof data), "000");
	kvc_ses_settle();
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.inline_bytes")), 0);
	close(first);
	close(second);
}

static void test_objects_are_limited(void **state)
{
	int memfd = kvc_ses_sealed_memfd();
	int fd = kvc_ses_client();

	(void)state;
	assert_int_equal(kvc_ses_open_ns(fd, 1), KVC_IN_USE);
	assert_int_equal(kvc_ses_open_ns(fd, 2), KVC_OK);
	assert_int_equal(kvc_ses_open_ns(fd, 3), KVC_LIMIT);
	assert_int_equal(kvc_ses_attach(fd, 1, memfd), KVC_OK);
	assert_int_equal(kvc_ses_attach(fd, 1, memfd), KVC_IN_USE);
	assert_int_equal(kvc_ses_attach(fd, 2, memfd), KVC_OK);
	assert_int_equal(kvc_ses_attach(fd, 3, memfd), KVC_LIMIT);
	close(memfd);
	close(fd);
}

/* Less than the session was told of, all of it. */
static void limits_shrink(void)
{
	struct kvc_rpc_limits less = kvc_ses.limits;

	less.batch = 2;
	less.namespaces = less.regions = 1;
	less.region_bytes = 4096;
	less.inline_bytes = less.inline_budget = 2 * KVC_TEST_BLOCK_BYTES;
	less.deadline_ms_default = less.deadline_ms_max = 20;
	kvc_rpc_limits_set(kvc_ses.rpc, &less);
}

/* A connection keeps what its hello announced when the limits shrink, and gets more when they grow. */
static void test_reload_takes_nothing_from_a_connection(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_ses_transfer t;
	int memfd = kvc_ses_sealed_memfd();
	int old = kvc_ses_client();
	int fresh;

	(void)state;
	limits_shrink();
	assert_int_equal(kvc_ses_open_ns(old, 2), KVC_OK);
	assert_int_equal(kvc_ses_attach(old, 1, memfd), KVC_OK);
	assert_int_equal(kvc_ses_attach(old, 2, memfd), KVC_OK);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_assert_blocks(old, kvc_ses_send_request(old, KVC_VERB_PUT, &t.put.base, data, sizeof data),
	                      "000");
	kvc_ses_assert_blocks(old, kvc_ses_send_request(old, KVC_VERB_GET, &t.get.base, NULL, 0), "000");
	fresh = kvc_ses_client();
	assert_int_equal(kvc_ses_open_ns(fresh, 2), KVC_LIMIT);
	assert_int_equal(kvc_ses_attach(fresh, 1, memfd), KVC_LIMIT);
	assert_int_equal(kvc_ses_call(fresh, KVC_VERB_GET, &t.get.base), KVC_LIMIT);
	kvc_rpc_limits_set(kvc_ses.rpc, &kvc_ses.limits);
	assert_int_equal(kvc_ses_open_ns(fresh, 2), KVC_OK);
	assert_int_equal(kvc_ses_attach(fresh, 1, memfd), KVC_OK);
	kvc_ses_assert_blocks(fresh, kvc_ses_send_request(fresh, KVC_VERB_GET, &t.get.base, NULL, 0), "000");
	close(fresh);
	close(memfd);
	close(old);
}

/* One that the client may have been told of is above the maximum by now: it is cut to that. */
static void test_long_deadlines_are_cut(void **state)
{
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();
	uint64_t id;

	(void)state;
	limits_shrink();
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_INLINE);
	t.get.deadline_ms = kvc_ses.limits.deadline_ms_max; /* longer than the test waits */
	id = kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_assert_blocks(fd, id, "3");
	close(fd);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static bool keys_prefetch;

static uint32_t keys_call(int fd, enum kvc_verb verb, const char *keys, uint8_t *tiers)
{
	ProtobufCBinaryData data[64];
	Kvcellar__KeysReply *answer;
	struct kvc_test_reply reply;
	Kvcellar__Keys message;
	uint32_t prefix;

	kvcellar__keys__init(&message);
	message.namespace_ = 1;
	message.prefetch = keys_prefetch;
	message.keys = data;
	for (; keys[message.n_keys]; message.n_keys++)
		data[message.n_keys] = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t)&keys[message.n_keys]};
	kvc_ses_send_request(fd, verb, &message.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_OK);
	answer = kvcellar__keys_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(answer);
	assert_int_equal(answer->tiers.len, verb == KVC_VERB_LOOKUP ? message.n_keys : 0);
	if (tiers)
		memcpy(tiers, answer->tiers.data, answer->tiers.len);
	prefix = answer->prefix;
	kvcellar__keys_reply__free_unpacked(answer, NULL);
	return prefix;
}

static void test_keys(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	static const uint8_t expected[] = {2, 2, 0, 2};
	struct kvc_ses_transfer t;
	uint8_t tiers[4];
	int fd = kvc_ses_client();

	(void)state;
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data),
	                      "000");
	assert_int_equal(keys_call(fd, KVC_VERB_LOOKUP, "abzc", tiers), 2);
	assert_memory_equal(tiers, expected, sizeof tiers);
	assert_int_equal(kvc_fake_read_ahead(kvc_ses.cache), 0);
	assert_int_equal(keys_call(fd, KVC_VERB_PREFETCH, "abc", NULL), 3);
	assert_int_equal(keys_call(fd, KVC_VERB_UNPIN, "abc", NULL), 0);
	assert_int_equal(keys_call(fd, KVC_VERB_PIN, "abz", NULL), 2);
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 2);
	assert_int_equal(keys_call(fd, KVC_VERB_UNPIN, "ab", NULL), 2);
	assert_int_equal(keys_call(fd, KVC_VERB_DROP, "azb", NULL), 2);
	assert_int_equal(keys_call(fd, KVC_VERB_LOOKUP, "abc", tiers), 0);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 0);
}

static void test_lookup_reads_ahead(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_ses_transfer t;
	uint8_t tiers[4];
	int fd = kvc_ses_client();

	(void)state;
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data),
	                      "000");
	keys_prefetch = true;
	assert_int_equal(keys_call(fd, KVC_VERB_LOOKUP, "abzc", tiers), 2);
	keys_prefetch = false;
	assert_int_equal(kvc_fake_read_ahead(kvc_ses.cache), 2); /* the leading ones */
	close(fd);
	kvc_ses_settle();
}

/* Every block of a put has its hints. */
static void test_put_hints(void **state)
{
	static uint8_t data[2 * KVC_TEST_BLOCK_BYTES];
	Kvcellar__Hints hints = KVCELLAR__HINTS__INIT;
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();

	(void)state;
	kvc_ses_transfer_init(&t, 2, KVCELLAR__PLANE__PLANE_INLINE);
	hints.ttl_ms = 1234;
	hints.priority = KVCELLAR__PRIORITY__PRIORITY_HIGH;
	hints.ephemeral = true;
	t.put.hints = &hints;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data);
	for (unsigned left = 2; left; left--) {
		const struct kvc_op *op;

		kvc_ses_settle();
		assert_int_equal(kvc_fake_waiting(kvc_ses.cache), left);
		op = kvc_fake_oldest(kvc_ses.cache);
		assert_int_equal(op->hints.ttl_ms, 1234);
		assert_int_equal(op->hints.priority, KVC_PRIORITY_HIGH);
		assert_true(op->hints.ephemeral);
		kvc_fake_release(kvc_ses.cache, 1);
	}
	close(fd);
	kvc_ses_settle();
}

/* ---- stop ---------------------------------------------------------------------------------- */

static void test_stop_lets_requests_finish(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int idle = kvc_ses_client();
	int greeting = kvc_ses_connect_raw();
	int busy = kvc_ses_client_with_region(&memory);
	uint64_t id;

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	id = kvc_ses_send_request(busy, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	kvc_rpc_stop(kvc_ses.rpc, 60000, kvc_ses_on_stopped, &kvc_ses.stopped);
	kvc_ses_assert_ends(idle);
	kvc_ses_assert_ends(greeting);
	assert_int_equal(kvc_ses_call(busy, KVC_VERB_PING, NULL), KVC_SHUTDOWN);
	assert_false(kvc_ses.stopped);
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(busy, id, "0");
	kvc_ses_assert_ends(busy);
	assert_true(kvc_test_run_until_set(kvc_ses.loop, &kvc_ses.stopped));
	munmap(memory, KVC_SES_REGION_BYTES);
	close(idle);
	close(greeting);
	close(busy);
}

static void test_stop_timeout_cancels(void **state)
{
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	kvc_ses_settle();
	kvc_ses_stop(20);
	kvc_ses_assert_ends(fd);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.dropped.stop_timeout")), 1);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* ---- C1: no memory ------------------------------------------------------------------------- */

/* Everything once; each step may fail, the session may be dropped at any. */
static void script(void)
{
	static uint8_t data[KVC_TEST_BLOCK_BYTES];
	struct kvc_test_reply reply;
	struct kvc_ses_transfer t;
	int memfd = kvc_ses_sealed_memfd();
	int fd = kvc_ses_connect_raw();

	if (fd < 0 || kvc_ses_hello(fd) == KVC_DISCONNECTED || kvc_ses_open_ns(fd, 1) == KVC_DISCONNECTED ||
	    kvc_ses_attach(fd, 1, memfd) == KVC_DISCONNECTED)
		goto out;
	kvc_ses_transfer_init(&t, 2, KVCELLAR__PLANE__PLANE_SHM);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, NULL, 0);
	if (kvc_ses_next(fd, &reply) != KVC_TEST_REPLY)
		goto out;
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data);
	if (kvc_ses_next(fd, &reply) != KVC_TEST_REPLY)
		goto out;
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	if (kvc_ses_next(fd, &reply) != KVC_TEST_REPLY)
		goto out;
	free(reply.payload);
	kvc_ses_call(fd, KVC_VERB_STATS, NULL);
out:
	if (fd >= 0)
		close(fd);
	close(memfd);
	kvc_ses_settle();
}

static void test_c1_every_allocation_fails_once(void **state)
{
	uint64_t needed;

	(void)state;
	KVC_ROW("C1 C2");
	script(); /* what is allocated once and kept is there now */
	needed = kvc_alloc_count();
	script();
	needed = kvc_alloc_count() - needed;
	assert_true(needed > 5);
	for (int forever = 0; forever < 2; forever++) {
		for (uint64_t n = 1; n <= needed; n++) {
			int64_t live = kvc_alloc_live();

			kvc_alloc_fail_at(n, forever);
			script();
			kvc_alloc_fail_at(0, 0);
			kvc_row.injected++;
			kvc_row.points++;
			kvc_row.points_total++;
			kvc_ses_settle();
			assert_int_equal(kvc_alloc_live(), live);
			assert_int_equal(kvc_fake_open_objects(kvc_ses.cache), 0);
		}
	}
	print_message("%llu allocations\n", (unsigned long long)needed);
	script();
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, kvc_ses_setup, kvc_ses_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_shm_round_trip),
	        ROW(test_inline_round_trip),
	        ROW(test_inline_payload_must_fit_the_blocks),
	        ROW(test_reply_waits_for_the_last_block),
	        ROW(test_deadline_cancels),
	        ROW(test_deadline_does_not_answer_for_a_running_operation),
	        ROW(test_request_that_expired_does_not_begin),
	        ROW(test_put_read_after_it_expired_is_forgotten),
	        ROW(test_e_socket_closes_after_the_last_operation),
	        ROW(test_hangup_cancels_and_releases),
	        ROW(test_put_whose_client_has_gone_is_forgotten),
	        ROW(test_detach_waits_until_unused),
	        ROW(test_namespace_closed_while_in_use),
	        ROW(test_d26_inflight_cap),
	        ROW(test_inline_budget),
	        ROW(test_objects_are_limited),
	        ROW(test_reload_takes_nothing_from_a_connection),
	        ROW(test_long_deadlines_are_cut),
	        ROW(test_keys),
	        ROW(test_lookup_reads_ahead),
	        ROW(test_put_hints),
	        ROW(test_stop_lets_requests_finish),
	        ROW(test_stop_timeout_cancels),
	        ROW(test_c1_every_allocation_fails_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
