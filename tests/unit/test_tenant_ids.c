/* Tenants and their numbers: the same one always has the same, and no memory is not a tenant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/cache/tenant_ids.h"

static void id_make(uint32_t i, uint8_t id[KVC_TENANT_ID_BYTES])
{
	memset(id, 0, KVC_TENANT_ID_BYTES);
	memcpy(id, &i, sizeof i);
}

static void test_numbers(void **state)
{
	uint8_t id[KVC_TENANT_ID_BYTES], back[KVC_TENANT_ID_BYTES];
	struct kvc_tenant_ids tenants = {0};

	(void)state;
	for (uint32_t round = 0; round < 2; round++)
		for (uint32_t i = 0; i < 300; i++) {
			id_make(i * 7919, id);
			assert_int_equal(kvc_tenant_ids_number(&tenants, id), i + 1);
			assert_true(kvc_tenant_ids_get(&tenants, (uint16_t)(i + 1), back));
			assert_memory_equal(back, id, sizeof back);
		}
	assert_false(kvc_tenant_ids_get(&tenants, 0, back));
	kvc_tenant_ids_close(&tenants);
	assert_int_equal(tenants.count, 0);
}

static void test_too_many(void **state)
{
	uint8_t id[KVC_TENANT_ID_BYTES] = {0};
	struct kvc_tenant_ids tenants = {0};

	(void)state;
	assert_int_equal(kvc_tenant_ids_number(&tenants, id), 1);
	tenants.ids = kvc_realloc(tenants.ids, UINT16_MAX, sizeof *tenants.ids);
	tenants.capacity = tenants.count = UINT16_MAX;
	memset(tenants.ids, 0, UINT16_MAX * sizeof *tenants.ids);
	id_make(77, id);
	assert_int_equal(kvc_tenant_ids_number(&tenants, id), 0);
	kvc_tenant_ids_close(&tenants);
}

static void test_no_memory(void **state)
{
	uint8_t id[KVC_TENANT_ID_BYTES] = {1};
	struct kvc_tenant_ids tenants = {0};

	(void)state;
	kvc_alloc_fail_at(1, 0);
	assert_int_equal(kvc_tenant_ids_number(&tenants, id), 0);
	kvc_alloc_fail_at(0, 0);
	assert_int_equal(kvc_tenant_ids_number(&tenants, id), 1);
	kvc_tenant_ids_close(&tenants);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_numbers),
	        cmocka_unit_test(test_too_many),
	        cmocka_unit_test(test_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
