/* Several directories as one tier: all are used, each finds its own again, and one that fails takes nothing
 * else along. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"

enum { DIRECTORIES = 3, PATH = 300, SIZE = 2 };

static struct rig rig;
static char paths[DIRECTORIES][PATH];
static char list[DIRECTORIES * (PATH + 2)];

static int setup(void **state)
{
	size_t at = 0;

	(void)state;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	for (unsigned i = 0; i < DIRECTORIES; i++) {
		snprintf(paths[i], PATH, "%s/d%u", rig.directory, i);
		at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", paths[i]);
	}
	rig.striped = true;
	rig.options.directory = list;
	rig.options.bytes = DIRECTORIES * (16u << 20);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	kvc_io_fault_install(NULL, NULL);
	kvc_io_fault_release();
	rig_destroy(&rig);
	return 0;
}

static void store_some(uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
}

static void test_shared_out(void **state)
{
	int64_t records = 0;

	(void)state;
	rig_start(&rig);
	store_some(0, 90);
	assert_int_equal(rig_sync(&rig), KVC_OK);
	assert_int_equal(rig_check_all(&rig, false), 90);
	for (unsigned i = 1; i <= DIRECTORIES; i++) {
		char name[32];

		snprintf(name, sizeof name, "disk%u.records", i);
		assert_int_equal(rig_stat(&rig, name), 30);
		records += rig_stat(&rig, name);
	}
	assert_int_equal(records, 90);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 90);
	assert_int_equal(rig_stat(&rig, "disk.records"), 90); /* the sum */
	assert_int_equal(rig_check_all(&rig, false), 90);
	for (uint32_t i = 0; i < 90; i += 2)
		rig_forget(&rig, i);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 45);
	assert_int_equal(rig_check_all(&rig, false), 45);
}

/* Several times round, with blocks that are kept. */
static void test_goes_round(void **state)
{
	(void)state;
	rig_start(&rig);
	for (uint32_t i = 0; i < 900; i++) {
		assert_int_equal(rig_store(&rig, i, SIZE), KVC_OK);
		rig.blocks[i].used = i % 9 == 0;
	}
	assert_true(rig.reclaimed > 100);
	assert_true(rig.moved > 5);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
}

/* A directory that is new, at whatever place of the list, gets the others' secret; they keep what they have.
 */
static void test_added_and_removed(void **state)
{
	char two[2 * (PATH + 2)];
	struct kvc_secret secret;

	(void)state;
	snprintf(two, sizeof two, "%s,%s", paths[1], paths[2]);
	rig.options.directory = two;
	rig.options.bytes = 2 * (16u << 20);
	rig_start(&rig);
	store_some(0, 60);
	secret = rig.secret;
	rig_stop(&rig);
	rig.options.directory = list;
	rig.options.bytes = DIRECTORIES * (16u << 20);
	rig_start(&rig);
	assert_memory_equal(&secret, &rig.secret, sizeof secret);
	assert_int_equal(rig_check_all(&rig, false), 60);
	store_some(100, 30);
	rig_stop(&rig);
	rig.options.directory = two;
	rig.options.bytes = 2 * (16u << 20);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 80);
	assert_memory_equal(&secret, &rig.secret, sizeof secret);
}

/* --- one fails ------------------------------------------------------------------------------------ */

/* Everything on files below the broken directory. */
static bool is_broken(const struct kvc_io_req *req)
{
	char link[64], path[512];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", req->file->fd);
	length = readlink(link, path, sizeof path - 1);
	path[length < 0 ? 0 : length] = '\0';
	return strstr(path, "/d1/");
}

static void on_broken(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	(void)context;
	if (is_broken(req))
		*fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = EIO};
}

static bool all_writable(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk2.writable");
}

/* While one directory fails every request the others take all stores; then it comes back. */
static void test_one_fails(void **state)
{
	(void)state;
	rig_start(&rig);
	store_some(0, 30);
	kvc_io_fault_install(on_broken, NULL);
	store_some(100, 60);
	assert_true(rig.tier->writable);
	assert_int_equal(rig_stat(&rig, "disk2.writable"), 0);
	assert_true(rig_check_all(&rig, true) >= 80 - 10);
	kvc_io_fault_install(NULL, NULL);
	assert_true(kvc_test_run_until(rig.loop, all_writable, NULL, 20000));
	store_some(300, 30);
	assert_true(rig_check_all(&rig, true) >= 100);
	rig_stop(&rig);
	rig_start(&rig);
	rig_check_all(&rig, true);
}

/* A directory whose superblock is damaged is left out; one that is open to others stops the start. */
static void test_one_does_not_open(void **state)
{
	char path[PATH + 16];

	(void)state;
	rig_start(&rig);
	store_some(0, 90);
	rig_stop(&rig);
	snprintf(path, sizeof path, "%s/super", paths[0]);
	assert_int_equal(truncate(path, 100), 0);
	rig_start(&rig);
	assert_int_equal(rig_check_all(&rig, false), 60);
	store_some(100, 20);
	rig_stop(&rig);
	assert_int_equal(chmod(paths[2], 0755), 0);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	assert_non_null(strstr(rig.detail, "d2"));
}

/* A directory of another tier, which would start empty here, stops the start as its key is another one: it is
 * left as it was. */
static void test_refused_directory_keeps_its_secret(void **state)
{
	struct kvc_secret secret, other_key = {{9}};
	char two[2 * (PATH + 2)];

	(void)state;
	rig.options.bytes = 16u << 20;
	rig.options.directory = paths[1];
	rig.options.key = &other_key;
	rig_start(&rig);
	store_some(0, 10);
	secret = rig.secret;
	rig_stop(&rig);
	snprintf(two, sizeof two, "%s,%s", paths[0], paths[1]);
	rig.options.directory = paths[0];
	rig.options.key = &rig.key;
	rig_start(&rig);
	rig_stop(&rig);
	rig.options.directory = two;
	rig.options.bytes = 2 * (16u << 20);
	assert_int_equal(rig_open(&rig), KVC_ACCESS);
	rig.options.directory = paths[1];
	rig.options.bytes = 16u << 20;
	rig.options.key = &other_key;
	rig_start(&rig);
	assert_memory_equal(&secret, &rig.secret, sizeof secret);
	assert_int_equal(rig_check_all(&rig, false), 10);
}

/* The first one is of another tier, as a mount point that was used while nothing was mounted: it starts
 * empty, and not the two that belong together. */
static void test_stranger_in_the_first_place(void **state)
{
	char two[2 * (PATH + 2)];
	struct kvc_secret secret;

	(void)state;
	rig.options.directory = paths[0];
	rig.options.bytes = 16u << 20;
	rig_start(&rig);
	store_some(100, 10);
	rig_stop(&rig);
	snprintf(two, sizeof two, "%s,%s", paths[1], paths[2]);
	rig.options.directory = two;
	rig.options.bytes = 2 * (16u << 20);
	rig_start(&rig);
	store_some(0, 60);
	secret = rig.secret;
	rig_stop(&rig);
	rig.options.directory = list;
	rig.options.bytes = DIRECTORIES * (16u << 20);
	rig_start(&rig);
	assert_memory_equal(&secret, &rig.secret, sizeof secret);
	assert_int_equal(rig.recovered, 60);
	assert_int_equal(rig_check_all(&rig, false), 60);
}

static void test_bad_lists(void **state)
{
	static const char *const lists[] = {"a,,b", ",", "a, ", " "};

	(void)state;
	for (unsigned i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		rig.options.directory = lists[i];
		assert_int_equal(rig_open(&rig), KVC_INVALID);
		assert_true(rig.detail[0]);
	}
}

static void test_close_at_once(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		int64_t live = kvc_alloc_live();

		assert_int_equal(rig_open(&rig), KVC_OK);
		rig_stop(&rig);
		assert_int_equal(kvc_alloc_live(), live);
	}
}

#define STRIPE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        STRIPE_TEST(test_shared_out),
	        STRIPE_TEST(test_goes_round),
	        STRIPE_TEST(test_added_and_removed),
	        STRIPE_TEST(test_one_fails),
	        STRIPE_TEST(test_one_does_not_open),
	        STRIPE_TEST(test_refused_directory_keeps_its_secret),
	        STRIPE_TEST(test_stranger_in_the_first_place),
	        STRIPE_TEST(test_bad_lists),
	        STRIPE_TEST(test_close_at_once),
	};

	return RIG_RUN_BOTH(tests);
}
