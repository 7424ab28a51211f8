/* What a put may say of its blocks, from the wire to the core. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/rpc/convert.h"
#include "proto/kvcellar.pb-c.h"
#include "tests/support/row.h"

static struct kvc_convert *convert;
static struct kvc_problem problem;
static const struct kvc_rpc_limits limits = {
        .batch = 100, .deadline_ms_default = 1000, .deadline_ms_max = 60000};

static Kvcellar__Hints hints;
static Kvcellar__Block block;
static Kvcellar__Block *blocks[] = {&block};
static Kvcellar__Put put;

static int setup(void **state)
{
	(void)state;
	return kvc_convert_open(&convert) == KVC_OK ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	kvc_convert_close(convert);
	kvc_row_end();
	return 0;
}

/* A good put with hints that say nothing. */
static void put_reset(void)
{
	static uint8_t key[3];

	kvcellar__block__init(&block);
	block.key = (ProtobufCBinaryData){sizeof key, key};
	block.tokens = 1;
	kvcellar__hints__init(&hints);
	kvcellar__put__init(&put);
	put.namespace_ = 1;
	put.plane = KVCELLAR__PLANE__PLANE_SHM;
	put.region = 2;
	put.ack = KVCELLAR__ACK__ACK_RAM;
	put.hints = &hints;
	put.n_blocks = 1;
	put.blocks = blocks;
}

static kvc_status parse(struct kvc_blocks_request *request)
{
	uint8_t bytes[256];

	assert_true(kvcellar__put__get_packed_size(&put) <= sizeof bytes);
	return kvc_parse_put(convert, (struct kvc_body){bytes, kvcellar__put__pack(&put, bytes)}, &limits,
	                     request, &problem);
}

static void refused(const char *why)
{
	struct kvc_blocks_request request;

	assert_int_equal(parse(&request), KVC_INVALID);
	if (!strstr(problem.detail, why))
		fail_msg("'%s' is not in '%s'", why, problem.detail);
	kvc_row.injected++;
	put_reset();
}

static void hints_are(struct kvc_hints expected)
{
	struct kvc_blocks_request request;

	assert_int_equal(parse(&request), KVC_OK);
	assert_int_equal(request.hints.ttl_ms, expected.ttl_ms);
	assert_int_equal(request.hints.priority, expected.priority);
	assert_int_equal(request.hints.ephemeral, expected.ephemeral);
}

static void test_hints(void **state)
{
	static const uint8_t priorities[] = {KVC_PRIORITY_NORMAL, KVC_PRIORITY_LOW, KVC_PRIORITY_NORMAL,
	                                     KVC_PRIORITY_HIGH};

	(void)state;
	put_reset();
	hints_are((struct kvc_hints){0});
	for (unsigned i = 0; i < 4; i++) {
		hints.priority = (Kvcellar__Priority)i;
		hints.ttl_ms = UINT32_MAX;
		hints.ephemeral = i % 2;
		hints_are((struct kvc_hints){priorities[i], i % 2, UINT32_MAX});
	}
	put.hints = NULL;
	hints_are((struct kvc_hints){0});
}

/* What can be kept whatever happens goes with a promise. */
static void test_durable(void **state)
{
	(void)state;
	put_reset();
	put.ack = KVCELLAR__ACK__ACK_DISK;
	hints.priority = KVCELLAR__PRIORITY__PRIORITY_HIGH;
	hints_are((struct kvc_hints){.priority = KVC_PRIORITY_HIGH});
}

static void test_d10_refused(void **state)
{
	(void)state;
	KVC_ROW("D10");
	put_reset();
	hints.priority = (Kvcellar__Priority)4;
	refused("hints.priority: 4, expected 1 (low), 2 (normal) or 3 (high)");
	hints.priority = (Kvcellar__Priority)-1;
	refused("hints.priority: -1");
	hints.ephemeral = true;
	put.ack = KVCELLAR__ACK__ACK_DISK;
	refused("ack: 2 (disk), expected 1 (RAM) with hints.ephemeral");
	hints.ttl_ms = 1;
	put.ack = KVCELLAR__ACK__ACK_DISK;
	refused("ack: 2 (disk), expected 1 (RAM) with hints.ttl_ms");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_hints),
	        TEST(test_durable),
	        TEST(test_d10_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
