/* The keyrings of several directories: a tenant that is dropped is dropped in all of them, whatever one of
 * them misses or cannot write. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/keyring_files.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

enum { BLOCKS = 40, TENANTS = 4, SIZE = 1, WRITES = 8 /* in flight */ };

static struct rig rig;
static char second[KVC_TEMP_DIR_BYTES];
static char both[2 * KVC_TEMP_DIR_BYTES];

static int setup(void **state)
{
	(void)state;
	rig_encrypted = true;
	rig_init(&rig);
	kvc_test_temp_dir(second);
	snprintf(both, sizeof both, "%s,%s", rig.directory, second);
	rig.options.directory = both;
	rig.options.bytes = 32u << 20;
	rig.striped = true;
	kvc_log_level_now = KVC_LOG_ERROR;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	rig_destroy(&rig);
	kvc_test_temp_dir_remove(second);
	kvc_row_end();
	return 0;
}

static void store_some(void)
{
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
}

static void test_dropped_in_all_directories(void **state)
{
	uint8_t wrapped[2][KVC_WRAPPED_BYTES];

	(void)state;
	rig_start(&rig);
	store_some();
	assert_int_equal(rig_store(&rig, BLOCKS, SIZE), KVC_OK);
	store_some(); /* each block in the other one now */
	rig_wrapped_get(rig.directory, rig.blocks[1].record.tenant, wrapped[0]);
	rig_wrapped_get(second, rig.blocks[1].record.tenant, wrapped[1]);
	assert_memory_not_equal(wrapped[0], wrapped[1], KVC_WRAPPED_BYTES);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), 1 + BLOCKS - BLOCKS / TENANTS);
	rig_restart_scanning(&rig);
	assert_int_equal(rig.incarnation[1], 1);
	assert_int_equal(rig_check_all(&rig, false), 1 + BLOCKS - BLOCKS / TENANTS);
	assert_int_equal(rig_found_in(rig.directory, wrapped[0], KVC_WRAPPED_BYTES), 0);
	assert_int_equal(rig_found_in(second, wrapped[1], KVC_WRAPPED_BYTES), 0);
}

/* One that was elsewhere when the tenant was dropped learns of it before any record of it counts. */
static void test_directory_that_missed_a_drop(void **state)
{
	static const char *const names[] = {"keyring.0", "keyring.1"};
	uint8_t wrapped[KVC_WRAPPED_BYTES];
	uint8_t *old[2];
	size_t bytes[2];

	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	store_some();
	rig_wrapped_get(second, rig.blocks[1].record.tenant, wrapped);
	for (uint32_t i = 0; i < 2; i++)
		old[i] = rig_file_get(second, names[i], &bytes[i]);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	rig_stop(&rig);
	for (uint32_t i = 0; i < 2; i++) {
		rig_file_put(second, names[i], old[i], bytes[i]);
		free(old[i]);
		kvc_row.injected++;
	}
	rig_restart_scanning(&rig);
	assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
	assert_int_equal(rig.incarnation[1], 1);
	assert_int_equal(rig_found_in(second, wrapped, KVC_WRAPPED_BYTES), 0);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
	store_some();
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

static void start_with(const char *directories)
{
	rig_stop(&rig);
	rig.options.directory = directories;
	rig.options.bytes = directories == both ? 32u << 20 : 16u << 20;
	rig_start(&rig);
}

/* Each was elsewhere at one of two drops, so that both have dropped the tenant once: what it has put into the
 * first one in between is dropped too. */
static void test_each_directory_missed_a_drop(void **state)
{
	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	store_some();
	start_with(rig.directory);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
	start_with(second);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	kvc_row.injected++;
	start_with(both);
	assert_int_equal(rig.incarnation[1], 2);
	assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS - BLOCKS / TENANTS);
	store_some();
	start_with(both); /* they agree now */
	assert_int_equal(rig.incarnation[1], 2);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* The first one has dropped the tenant twice, and does not know of the last drop, which was the second one's
 * only one: what it has put into the first one before that is dropped too. */
static void test_missed_drop_of_one_that_dropped_less_often(void **state)
{
	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	store_some();
	start_with(rig.directory);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
	start_with(second);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	kvc_row.injected++;
	start_with(both);
	assert_int_equal(rig.incarnation[1], 3);
	assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
	store_some();
	start_with(both); /* they agree now */
	assert_int_equal(rig.incarnation[1], 3);
	assert_int_equal(rig_check_all(&rig, false), BLOCKS);
}

/* The second one has missed a drop, and none was its own: what was put since stays. */
static void test_missed_drop_takes_nothing_newer(void **state)
{
	(void)state;
	KVC_ROW("B25");
	rig_start(&rig);
	store_some();
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	start_with(rig.directory);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig_store(&rig, 1, SIZE), KVC_OK);
	kvc_row.injected++;
	start_with(both);
	assert_int_equal(rig.incarnation[1], 2);
	assert_int_equal(rig.recovered, 1 + BLOCKS - BLOCKS / TENANTS);
	assert_int_equal(rig_check_all(&rig, false), 1 + BLOCKS - BLOCKS / TENANTS);
}

/* One of them cannot write its keyring: the drop holds, as the tenant has another incarnation, and is not
 * told as complete. The next one is. */
static void test_one_directory_cannot_drop(void **state)
{
	(void)state;
	KVC_ROW("B9");
	rig_start(&rig);
	store_some();
	rig_keyring_fault(KVC_IO_WRITE, 3, EIO); /* one writes twice, then the other's first one has worked */
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_IO);
	assert_int_equal(rig_keyring_faults(), 1);
	kvc_row.injected += rig_keyring_faults();
	assert_int_equal(rig.incarnation[1], 1);
	kvc_io_fault_install(NULL, NULL);
	assert_int_equal(rig_drop_tenant(&rig, 1), KVC_OK);
	assert_int_equal(rig.incarnation[1], 2);
	rig_restart_scanning(&rig);
	assert_int_equal(rig.incarnation[1], 2);
	assert_int_equal(rig.recovered, BLOCKS - BLOCKS / TENANTS);
}

/* Writes to the second directory stand still: all, or those of records. */
static bool keyring_too;

static void on_second(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	char path[RIG_PATH_BYTES];

	(void)context;
	rig_fd_path(req->file->fd, path);
	if (req->op == KVC_IO_WRITE && !strncmp(path, second, strlen(second)) &&
	    (keyring_too || strstr(path, "/segments/")))
		*fault = (struct kvc_io_fault){.kind = KVC_FAULT_HOLD};
}

static uint32_t held_before;

static bool done_or_held(void *context)
{
	return ((const struct rig_request *)context)->done || kvc_io_fault_held() > held_before;
}

static bool the_first_has_dropped(void *context)
{
	return rig.tier->ops->incarnation(rig.tier, context) == 1;
}

/* One that goes to the first directory ends, one that goes to the second may stand still. */
static struct rig_request *store_and_see(uint32_t block)
{
	struct rig_request *store = rig_store_begin(&rig, block, 0); /* they fit the open segment */

	held_before = kvc_io_fault_held();
	assert_true(kvc_test_run_until(rig.loop, done_or_held, store, 20000));
	return store;
}

/* A store for the tenant as it will be waits in a directory that knows it as it was, while that hears of the
 * drop. */
static void test_store_while_one_directory_has_dropped(void **state)
{
	struct rig_request *stores[2 * WRITES + 2], *drop;
	uint32_t count = 0;

	(void)state;
	rig_start(&rig);
	store_some();
	keyring_too = true;
	kvc_io_fault_install(on_second, NULL);
	for (; kvc_io_fault_held() < WRITES; count++) {
		assert_true(count < 2 * WRITES);
		stores[count] = store_and_see(BLOCKS + 3 + 4 * count);
	}
	drop = rig_drop_tenant_begin(&rig, 1);
	assert_true(kvc_test_run_until(rig.loop, the_first_has_dropped, rig.blocks[1].record.tenant, 20000));
	rig.incarnation[1] = 1;
	for (uint32_t i = 0; i < 2; i++)
		stores[count++] = rig_store_begin(&rig, 401 + 4 * i, 0);
	keyring_too = false;
	kvc_io_fault_release();
	assert_int_equal(rig_end(drop), KVC_OK);
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(rig_end(stores[i]), KVC_OK);
	rig_check_all(&rig, false);
	rig_restart_scanning(&rig);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

#define KEYRING_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        KEYRING_TEST(test_dropped_in_all_directories),
	        KEYRING_TEST(test_directory_that_missed_a_drop),
	        KEYRING_TEST(test_each_directory_missed_a_drop),
	        KEYRING_TEST(test_missed_drop_of_one_that_dropped_less_often),
	        KEYRING_TEST(test_missed_drop_takes_nothing_newer),
	        KEYRING_TEST(test_one_directory_cannot_drop),
	        KEYRING_TEST(test_store_while_one_directory_has_dropped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
