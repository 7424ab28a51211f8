/* What a session is told about tenants, and who may drop one: sessions of several users with a fake cache. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "tests/fake/session_world.h"
#include "tests/support/row.h"

enum { STRANGER = 54321 };

/* What a stats request brought: how many totals, and of which tenant by the length of its name. */
struct told {
	kvc_status status;
	unsigned totals;
	unsigned tenant; /* 0: none */
};

static struct told ask(int fd, const char *tenant)
{
	struct told told = {0};
	Kvcellar__StatsRequest request;
	Kvcellar__StatsReply *answer;
	struct kvc_test_reply reply;

	kvcellar__stats_request__init(&request);
	request.tenant = (char *)(uintptr_t)tenant;
	kvc_ses_send_request(fd, KVC_VERB_STATS, &request.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	told.status = (kvc_status)reply.frame.status;
	if (told.status != KVC_OK)
		return told;
	answer = kvcellar__stats_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(answer);
	for (size_t i = 0; i < answer->n_stats; i++) {
		if (strncmp(answer->stats[i]->name, "tenant.", 7) == 0)
			told.tenant = (unsigned)answer->stats[i]->value;
		else
			told.totals++;
	}
	kvcellar__stats_reply__free_unpacked(answer, NULL);
	return told;
}

static void assert_told(struct told told, kvc_status status, bool totals, unsigned tenant)
{
	assert_int_equal(told.status, status);
	assert_int_equal(told.totals > 0, totals);
	assert_int_equal(told.tenant, tenant);
}

static int client_as(uid_t uid, const char *tenant)
{
	int fd = kvc_ses_connect_as(uid);

	assert_true(fd >= 0);
	assert_int_equal(kvc_ses_hello(fd), KVC_OK);
	if (tenant)
		assert_int_equal(kvc_ses_open_ns_of(fd, 1, tenant), KVC_OK);
	return fd;
}

static void test_strangers_see_their_tenant_only(void **state)
{
	int fd = client_as(STRANGER, NULL);

	(void)state;
	KVC_ROW("H4");
	assert_told(ask(fd, ""), KVC_OK, false, 0);
	assert_told(ask(fd, "mine"), KVC_ACCESS, false, 0);
	assert_int_equal(kvc_ses_open_ns_of(fd, 1, "mine"), KVC_OK);
	assert_told(ask(fd, ""), KVC_OK, false, 4);
	assert_told(ask(fd, "mine"), KVC_OK, false, 4);
	assert_told(ask(fd, "another"), KVC_ACCESS, false, 0);
	assert_int_equal(kvc_ses_open_ns_of(fd, 2, "second"), KVC_OK);
	assert_told(ask(fd, ""), KVC_OK, false, 0); /* of which? */
	assert_told(ask(fd, "second"), KVC_OK, false, 6);
	kvc_row.injected += 4;
	close(fd);
}

static void test_privileged_see_all(void **state)
{
	uid_t privileged[] = {0, geteuid()};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		int fd = client_as(privileged[i], NULL);

		assert_told(ask(fd, ""), KVC_OK, true, 0);
		assert_told(ask(fd, "another"), KVC_OK, false, 7);
		assert_int_equal(kvc_ses_open_ns_of(fd, 1, "mine"), KVC_OK);
		assert_told(ask(fd, ""), KVC_OK, true, 4);
		close(fd);
	}
}

static void test_names_are_checked(void **state)
{
	char longest[66];
	int fd = client_as(geteuid(), NULL);

	(void)state;
	memset(longest, 'x', sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	assert_told(ask(fd, longest), KVC_INVALID, false, 0);
	longest[64] = 0;
	assert_told(ask(fd, longest), KVC_OK, false, 64);
	assert_told(ask(fd, "../up"), KVC_INVALID, false, 0);
	close(fd);
}

static kvc_status drop(int fd, const char *tenant, uint64_t *blocks)
{
	Kvcellar__DropTenantReply *answer;
	Kvcellar__DropTenant request;
	struct kvc_test_reply reply;

	kvcellar__drop_tenant__init(&request);
	request.tenant = (char *)(uintptr_t)tenant;
	kvc_ses_send_request(fd, KVC_VERB_DROP_TENANT, &request.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	if (reply.frame.status != KVC_OK)
		return (kvc_status)reply.frame.status;
	answer = kvcellar__drop_tenant_reply__unpack(NULL, reply.frame.body_bytes, reply.body);
	assert_non_null(answer);
	*blocks = answer->blocks;
	kvcellar__drop_tenant_reply__free_unpacked(answer, NULL);
	return KVC_OK;
}

static void test_drop_is_for_the_privileged(void **state)
{
	int own = client_as(geteuid(), NULL), stranger = client_as(STRANGER, "mine");
	uint64_t blocks = 0;

	(void)state;
	assert_int_equal(drop(own, "mine", &blocks), KVC_OK);
	assert_int_equal(blocks, 3);
	assert_int_equal(drop(own, "bad", &blocks), KVC_IO);
	assert_int_equal(drop(own, "", &blocks), KVC_INVALID);
	assert_int_equal(drop(stranger, "mine", &blocks), KVC_ACCESS);
	close(own);
	close(stranger);
}

static void test_client_leaves_during_a_drop(void **state)
{
	int fd = client_as(geteuid(), NULL);
	Kvcellar__DropTenant request;
	char tenant[] = "mine";

	(void)state;
	kvcellar__drop_tenant__init(&request);
	request.tenant = tenant;
	kvc_ses_send_request(fd, KVC_VERB_DROP_TENANT, &request.base, NULL, 0);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.inflight")), 0);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.connections")), 0);
}

static void test_drop_without_memory(void **state)
{
	uint64_t blocks = 0, needed;
	int fd = client_as(geteuid(), NULL);

	(void)state;
	assert_int_equal(drop(fd, "mine", &blocks), KVC_OK);
	needed = kvc_alloc_count();
	assert_int_equal(drop(fd, "mine", &blocks), KVC_OK);
	needed = kvc_alloc_count() - needed;
	assert_true(needed > 0);
	for (uint64_t n = 1; n <= needed; n++) {
		kvc_alloc_fail_at(n, 0);
		assert_int_equal(drop(fd, "mine", &blocks), KVC_NO_MEMORY);
		kvc_alloc_fail_at(0, 0);
	}
	close(fd);
}

/* Refused with the reason, before the payload of an inline put is taken in. */
static void test_above_the_rate(void **state)
{
	static uint8_t data[3 * KVC_TEST_BLOCK_BYTES];
	struct kvc_test_reply reply;
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();

	(void)state;
	KVC_ROW("H1");
	kvc_fake_quota(kvc_ses.cache, true);
	kvc_ses_transfer_init(&t, 3, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_QUOTA);
	assert_non_null(strstr(kvc_test_detail(&reply),
	                       "tenant 't' is above its put-rate of 1000 bytes a second; again in 7 ms"));
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_QUOTA);
	assert_non_null(strstr(kvc_test_detail(&reply), "get-rate"));
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.inline_bytes")), 0);
	kvc_fake_quota(kvc_ses.cache, false);
	kvc_ses_assert_blocks(fd, kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data),
	                      "000");
	kvc_row.injected += 2;
	close(fd);
}

static int64_t inflight(void)
{
	return kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.inflight"));
}

/* The refusal takes a moment, is one of the session's requests meanwhile, and goes with it. Without memory to
 * wait with it comes at once. */
static void test_refusal_takes_a_moment(void **state)
{
	struct kvc_test_reply reply;
	struct kvc_ses_transfer t;
	int fd = kvc_ses_client();

	(void)state;
	kvc_fake_quota(kvc_ses.cache, true);
	kvc_ses_transfer_init(&t, 1, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(inflight(), 1);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_QUOTA);
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_alloc_fail_at(1, 0); /* the request's; the next is the reply's */
	kvc_ses_settle();
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(inflight(), 0);
	assert_int_equal(kvc_ses_next(fd, &reply), KVC_TEST_REPLY);
	assert_int_equal(reply.frame.status, KVC_QUOTA);
	kvc_ses_send_request(fd, KVC_VERB_GET, &t.get.base, NULL, 0);
	kvc_ses_settle();
	assert_int_equal(inflight(), 1);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(inflight(), 0);
	assert_int_equal(kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.connections")), 0);
}

static int64_t inflight_blocks(void)
{
	return kvc_stat_get(kvc_stats_cell(kvc_ses.stats, "rpc.inflight_blocks"));
}

static uint64_t get_blocks(int fd, struct kvc_ses_transfer *t, uint32_t count)
{
	uint64_t id;

	kvc_ses_transfer_init(t, count, KVCELLAR__PLANE__PLANE_SHM);
	id = kvc_ses_send_request(fd, KVC_VERB_GET, &t->get.base, NULL, 0);
	kvc_ses_settle();
	return id;
}

/* A request holds the memory of all its blocks until it is answered, also those that are done: what is above
 * the bound is turned away before it takes any, and comes through later. */
static void test_blocks_of_unanswered_requests_are_bounded(void **state)
{
	struct kvc_ses_transfer t;
	uint64_t first, second;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_fake_held_max(kvc_ses.cache, 8);
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	first = get_blocks(fd, &t, 6);
	kvc_fake_release(kvc_ses.cache, 5);
	assert_int_equal(inflight_blocks(), 6);
	assert_int_equal(kvc_ses_next_status(fd, get_blocks(fd, &t, 3)), KVC_BUSY);
	assert_int_equal(kvc_fake_waiting(kvc_ses.cache), 1);
	second = get_blocks(fd, &t, 2);
	assert_int_equal(inflight_blocks(), 8);
	kvc_fake_release(kvc_ses.cache, 1);
	kvc_ses_assert_blocks(fd, first, "111111");
	assert_int_equal(inflight_blocks(), 2);
	kvc_fake_release(kvc_ses.cache, 2);
	kvc_ses_assert_blocks(fd, second, "11");
	first = get_blocks(fd, &t, 8);
	kvc_fake_release(kvc_ses.cache, 8);
	kvc_ses_assert_blocks(fd, first, "11111111");
	assert_int_equal(inflight_blocks(), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
	close(fd);
}

/* Whatever ends a request gives its part back: it cannot be built, its payload never comes whole, its client
 * goes. A refusal that takes a moment has none. */
static void test_blocks_are_given_back(void **state)
{
	static uint8_t data[2 * KVC_TEST_BLOCK_BYTES];
	struct kvc_ses_transfer t;
	uint8_t *memory;
	int fd = kvc_ses_client_with_region(&memory);

	(void)state;
	kvc_ses_transfer_init(&t, 2, KVCELLAR__PLANE__PLANE_SHM);
	t.blocks[1].key_offset = KVC_SES_REGION_BYTES;
	assert_int_equal(kvc_ses_call(fd, KVC_VERB_GET, &t.get.base), KVC_SHAPE);
	assert_int_equal(inflight_blocks(), 0);
	kvc_fake_quota(kvc_ses.cache, true);
	get_blocks(fd, &t, 2);
	assert_int_equal(inflight(), 1);
	assert_int_equal(inflight_blocks(), 0);
	kvc_fake_quota(kvc_ses.cache, false);
	kvc_fake_mode_set(kvc_ses.cache, KVC_FAKE_HOLD);
	get_blocks(fd, &t, 3);
	kvc_ses_transfer_init(&t, 2, KVCELLAR__PLANE__PLANE_INLINE);
	kvc_ses_send_request(fd, KVC_VERB_PUT, &t.put.base, data, sizeof data);
	kvc_ses_settle();
	assert_int_equal(inflight_blocks(), 5);
	close(fd);
	kvc_ses_settle();
	assert_int_equal(inflight_blocks(), 0);
	assert_int_equal(kvc_fake_held(kvc_ses.cache), 0);
	munmap(memory, KVC_SES_REGION_BYTES);
}

#define ROW(test) cmocka_unit_test_setup_teardown(test, kvc_ses_setup, kvc_ses_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        ROW(test_strangers_see_their_tenant_only),
	        ROW(test_privileged_see_all),
	        ROW(test_names_are_checked),
	        ROW(test_drop_is_for_the_privileged),
	        ROW(test_client_leaves_during_a_drop),
	        ROW(test_drop_without_memory),
	        ROW(test_above_the_rate),
	        ROW(test_refusal_takes_a_moment),
	        ROW(test_blocks_of_unanswered_requests_are_bounded),
	        ROW(test_blocks_are_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
