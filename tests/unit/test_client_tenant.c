/* A tenant as a whole: its statistics, and dropping it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/client_fixture.h"

#define assert_done(call) assert_int_equal(call, KVC_OK)

static void test_tenants(void **state)
{
	static const char *const wrong[] = {
	        NULL, "", "a b", "../a",
	        "a-name-of-sixty-five-bytes-which-is-one-more-than-a-tenant-may-have"};
	struct kvc_stat *stats;
	uint64_t dropped = 0;
	struct fixture f;
	size_t count;

	(void)state;
	fixture_open(&f, NULL);
	assert_done(kvc_tenant_stats(f.client, "some", 0, &stats, &count));
	assert_int_equal(count, 2);
	kvc_stats_free(stats);
	assert_done(kvc_tenant_drop(f.client, "some", 0, &dropped));
	assert_int_equal(dropped, 7);
	assert_done(kvc_tenant_drop(f.client, "some", 0, NULL));
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_equal(kvc_tenant_drop(f.client, wrong[i], 0, NULL), KVC_INVALID);
		assert_int_equal(kvc_tenant_stats(f.client, wrong[i], 0, &stats, &count), KVC_INVALID);
	}
	assert_int_equal(kvc_tenant_drop(NULL, "some", 0, NULL), KVC_INVALID);
	assert_int_equal(kvc_tenant_stats(f.client, "some", 0, NULL, &count), KVC_INVALID);
	fake_daemon_rule(f.daemon, KVC_VERB_DROP_TENANT,
	                 (struct fake_rule){.action = FAKE_FAIL, .number = KVC_ACCESS});
	assert_int_equal(kvc_tenant_drop(f.client, "some", 0, &dropped), KVC_ACCESS);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_tenants),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
