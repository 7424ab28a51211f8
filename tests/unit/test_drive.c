/* The health of drives: what is read, how it is judged, which drives lie below a directory, and what the tier
 * makes of it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/tier/drive.h"
#include "tests/support/disk_rig.h"
#include "tests/support/loop_run.h"
#include "tests/support/row.h"

static char why[256];

/* --- reading -------------------------------------------------------------------------------------- */

static void test_smart_page(void **state)
{
	uint8_t page[KVC_DRIVE_SMART_BYTES];
	struct kvc_drive_reading reading;

	(void)state;
	memset(page, 0xEE, sizeof page);
	page[0] = 0x05;
	page[3] = 91;
	page[4] = 10;
	page[5] = 97;
	for (unsigned i = 0; i < 16; i++)
		page[160 + i] = i < 2 ? (uint8_t)(0x34 - 0x22 * i) : 0;
	kvc_drive_decode_smart(page, &reading);
	assert_int_equal(reading.critical_warning, 5);
	assert_int_equal(reading.spare, 91);
	assert_int_equal(reading.spare_threshold, 10);
	assert_int_equal(reading.percentage_used, 97);
	assert_int_equal(reading.media_errors, 0x1234);
}

static void test_file_format(void **state)
{
	static const char *const wrong[] = {
	        "",
	        "critical_warning 0\n",
	        "percentage_used\n",
	        "percentage_used -1\n",
	        "percentage_used 1 2\n",
	        "percentage_used 10001\n",
	        "percentage_used 1\npercentage_used 1\n",
	        "percentage_used 1\nnonsense 3\n",
	        "percentage_used 1\ncritical_warning 256\n",
	        "percentage_used 1\nmedia_errors 18446744073709551616\n",
	        "percentage_used = 1\n",
	};
	struct kvc_drive_reading reading;
	char text[512];

	(void)state;
	assert_int_equal(kvc_drive_parse("# by an agent\n\n percentage_used\t12 # of 100\r\nmedia_errors 7\n"
	                                 "critical_warning 2\navailable_spare 100\n"
	                                 "available_spare_threshold 10",
	                                 &reading, why, sizeof why),
	                 KVC_OK);
	assert_int_equal(reading.percentage_used, 12);
	assert_int_equal(reading.media_errors, 7);
	assert_int_equal(reading.critical_warning, 2);
	assert_int_equal(reading.spare, 100);
	assert_int_equal(reading.spare_threshold, 10);
	for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		why[0] = 0;
		assert_int_equal(kvc_drive_parse(wrong[i], &reading, why, sizeof why), KVC_INVALID);
		print_message("%s\n", why);
		assert_true(strstr(why, "line") || strstr(why, "percentage_used"));
	}
	snprintf(text, sizeof text, "percentage_used 1\n%0400d\n", 0);
	assert_int_equal(kvc_drive_parse(text, &reading, why, sizeof why), KVC_INVALID);
	assert_string_equal(why, "line 2 is too long");
}

static void test_judging(void **state)
{
	static const struct {
		struct kvc_drive_reading reading;
		const char *why; /* NULL: well */
	} cases[] = {
	        {{.percentage_used = 94}, NULL},
	        {{.percentage_used = 95}, "rated life"},
	        {{.percentage_used = 255}, "rated life"},
	        {{.critical_warning = 2}, NULL}, /* hot */
	        {{.critical_warning = 1}, "spare"},
	        {{.spare = 9, .spare_threshold = 10}, "spare"},
	        {{.spare = 10, .spare_threshold = 10}, NULL},
	        {{.critical_warning = 4}, "reliable"},
	        {{.critical_warning = 8}, "read-only"},
	        {{.media_errors = 100000}, NULL}, /* old ones */
	};

	(void)state;
	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct kvc_drive_history history = {0};
		const char *got = kvc_drive_judge(&history, &cases[i].reading, 1);

		if (cases[i].why)
			assert_non_null(got ? strstr(got, cases[i].why) : NULL);
		else
			assert_null(got);
	}
}

/* New media errors count for a day; they may be corrected downwards by another drive. */
static void test_media_errors_rise(void **state)
{
	struct kvc_drive_history history = {0};
	struct kvc_drive_reading reading = {.media_errors = 5};
	uint64_t now = 1000;

	(void)state;
	assert_null(kvc_drive_judge(&history, &reading, now));
	reading.media_errors = 6;
	assert_non_null(kvc_drive_judge(&history, &reading, now += 1000));
	assert_non_null(kvc_drive_judge(&history, &reading, now + KVC_DRIVE_QUIET_MS - 1));
	reading.media_errors = 7;
	assert_non_null(kvc_drive_judge(&history, &reading, now += KVC_DRIVE_QUIET_MS - 1));
	assert_null(kvc_drive_judge(&history, &reading, now += KVC_DRIVE_QUIET_MS));
	reading.media_errors = 0;
	assert_null(kvc_drive_judge(&history, &reading, now + 1));
}

static void test_worst_of_several(void **state)
{
	struct kvc_drive_reading all = {
	        .percentage_used = 5, .spare = 50, .spare_threshold = 10, .media_errors = 1};
	const struct kvc_drive_reading one = {.percentage_used = 7,
	                                      .critical_warning = 8,
	                                      .spare = 90,
	                                      .spare_threshold = 89,
	                                      .media_errors = 2};

	(void)state;
	kvc_drive_worst(&all, &one);
	assert_int_equal(all.percentage_used, 7);
	assert_int_equal(all.critical_warning, 8);
	assert_int_equal(all.spare, 90);
	assert_int_equal(all.spare_threshold, 89);
	assert_int_equal(all.media_errors, 3);
}

/* --- finding -------------------------------------------------------------------------------------- */

static char tree[KVC_TEMP_DIR_BYTES];

static void folder(const char *name)
{
	char path[512];

	snprintf(path, sizeof path, "%s/%s", tree, name);
	assert_int_equal(mkdir(path, 0700), 0);
}

static void file(const char *name, const char *text)
{
	char path[512];
	FILE *out;

	snprintf(path, sizeof path, "%s/%s", tree, name);
	out = fopen(path, "we");
	assert_non_null(out);
	(void)fputs(text, out);
	(void)fclose(out);
}

static void to(const char *name, const char *target)
{
	char path[512];

	snprintf(path, sizeof path, "%s/%s", tree, name);
	assert_int_equal(symlink(target, path), 0);
}

/* A volume (253:0) of a partition and of a whole drive, as sysfs shows it. */
static void tree_make(void)
{
	kvc_test_temp_dir(tree);
	folder("dev");
	folder("dev/block");
	folder("devices");
	folder("devices/nvme0n1");
	folder("devices/nvme0n1/nvme0n1p2");
	folder("devices/nvme1n1");
	folder("devices/dm-0");
	folder("devices/dm-0/slaves");
	file("devices/nvme0n1/nvme0n1p2/partition", "2\n");
	to("devices/dm-0/slaves/nvme0n1p2", "../../nvme0n1/nvme0n1p2");
	to("devices/dm-0/slaves/nvme1n1", "../../nvme1n1");
	to("dev/block/253:0", "../../devices/dm-0");
	to("dev/block/259:2", "../../devices/nvme0n1/nvme0n1p2");
	to("dev/block/259:3", "../../devices/nvme1n1");
}

static void test_finding(void **state)
{
	char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES];

	(void)state;
	tree_make();
	assert_int_equal(kvc_drive_find(tree, makedev(259, 2), names), 1);
	assert_string_equal(names[0], "nvme0n1");
	assert_int_equal(kvc_drive_find(tree, makedev(259, 3), names), 1);
	assert_string_equal(names[0], "nvme1n1");
	assert_int_equal(kvc_drive_find(tree, makedev(253, 0), names), 2);
	assert_string_not_equal(names[0], names[1]);
	assert_int_equal(kvc_drive_find(tree, makedev(0, 44), names), 0); /* no device: tmpfs, btrfs, NFS */
	kvc_test_temp_dir_remove(tree);
}

/* A device that is made of itself: cannot be, and does not hang. */
static void test_finding_in_a_circle(void **state)
{
	char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES];

	(void)state;
	tree_make();
	to("devices/dm-0/slaves/dm-0", "../../dm-0");
	assert_in_range(kvc_drive_find(tree, makedev(253, 0), names), 0, 2);
	kvc_test_temp_dir_remove(tree);
}

static void test_what_cannot_be_read(void **state)
{
	struct kvc_drive_reading reading;
	char path[512];

	(void)state;
	kvc_test_temp_dir(tree);
	snprintf(path, sizeof path, "%s/none", tree);
	assert_int_equal(kvc_drive_read(tree, path, &reading, why, sizeof why), KVC_IO);
	assert_non_null(strstr(why, path));
	assert_int_equal(kvc_drive_read(tree, tree, &reading, why, sizeof why), KVC_ACCESS);
	assert_non_null(strstr(why, "not a regular file"));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(kvc_drive_read(tree, path, &reading, why, sizeof why), KVC_ACCESS);
	snprintf(path, sizeof path, "%s/large", tree);
	file("large", "");
	assert_int_equal(truncate(path, KVC_DRIVE_FILE_BYTES + 1), 0);
	assert_int_equal(kvc_drive_read(tree, path, &reading, why, sizeof why), KVC_INVALID);
	file("large", "percentage_used 5\n"); /* zeros behind it, as a power failure leaves them */
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(kvc_drive_read(tree, path, &reading, why, sizeof why), KVC_INVALID);
	assert_non_null(strstr(why, "zero byte"));
	snprintf(path, sizeof path, "%s/gone", tree);
	assert_int_equal(kvc_drive_read(path, NULL, &reading, why, sizeof why), KVC_IO);
	assert_true(kvc_drive_read("/proc", NULL, &reading, why, sizeof why) != KVC_OK);
	print_message("%s\n", why);
	kvc_test_temp_dir_remove(tree);
}

/* --- the tier ------------------------------------------------------------------------------------- */

static struct rig rig;
static char health[512];

static void health_write(const char *text)
{
	char fresh[600];
	FILE *out;

	snprintf(fresh, sizeof fresh, "%s.new", health);
	out = fopen(fresh, "we");
	assert_non_null(out);
	(void)fputs(text, out);
	(void)fclose(out);
	assert_int_equal(rename(fresh, health), 0);
}

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	snprintf(health, sizeof health, "%s-health", rig.directory);
	rig.options.health_file = health;
	rig.options.health_ms = 10;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_stop(&rig);
	rig_destroy(&rig);
	(void)unlink(health);
	kvc_row_end();
	return 0;
}

static bool failing(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk.drive_failing") == 1;
}

static bool well(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk.drive_known") == 1 && rig_stat(&rig, "disk.drive_failing") == 0;
}

static bool not_known(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk.drive_known") == 0;
}

static void wait_for(bool (*what)(void *context))
{
	assert_true(kvc_test_run_until(rig.loop, what, NULL, 20000));
}

/* Whatever is wrong with the drive: no stores, all loads, and back when it says so. */
static void test_failing_drive_is_read_only(void **state)
{
	static const char *const bad[] = {
	        "percentage_used 95\n",
	        "percentage_used 1\ncritical_warning 1\n",
	        "percentage_used 1\ncritical_warning 8\n",
	        "percentage_used 1\navailable_spare 5\navailable_spare_threshold 10\n",
	};

	(void)state;
	KVC_ROW("B29");
	health_write("percentage_used 10\n");
	rig_start(&rig);
	wait_for(well);
	assert_int_equal(rig_stat(&rig, "disk.drive_used_percent"), 10);
	for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(rig_store(&rig, i, 1), KVC_OK);
		health_write(bad[i]);
		wait_for(failing);
		kvc_row.injected++;
		assert_false(rig.tier->writable);
		assert_int_equal(rig_store(&rig, 100, 1), KVC_UNAVAILABLE);
		assert_int_equal(rig_sync(&rig), KVC_OK);
		assert_int_equal(rig_check_all(&rig, false), i + 1);
		kvc_row.verified += i + 1;
		health_write("percentage_used 10\n");
		wait_for(well);
		assert_true(rig.tier->writable);
	}
	assert_int_equal(rig_store(&rig, 200, 1), KVC_OK);
}

static void test_rising_media_errors(void **state)
{
	(void)state;
	KVC_ROW("B29");
	health_write("percentage_used 10\nmedia_errors 3\n");
	rig_start(&rig);
	wait_for(well);
	assert_int_equal(rig_store(&rig, 0, 1), KVC_OK);
	health_write("percentage_used 10\nmedia_errors 4\n");
	wait_for(failing);
	kvc_row.injected++;
	assert_int_equal(rig_stat(&rig, "disk.drive_media_errors"), 4);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_UNAVAILABLE);
	assert_int_equal(rig_load(&rig, 0), RIG_RIGHT);
	kvc_row.verified++;
}

/* What is not known changes nothing: neither at first, nor what was decided before. */
static void test_unknown_health(void **state)
{
	(void)state;
	rig_start(&rig);
	assert_true(rig.tier->writable);
	health_write("percentage_used 99\n");
	wait_for(failing);
	health_write("nonsense\n");
	wait_for(not_known);
	assert_int_equal(rig_stat(&rig, "disk.drive_failing"), 1);
	assert_false(rig.tier->writable);
	assert_int_equal(rig_store(&rig, 1, 1), KVC_UNAVAILABLE);
}

static bool second_failing(void *context)
{
	(void)context;
	return rig_stat(&rig, "disk2.drive_failing") == 1;
}

/* Of two directories one is failing: the other takes all stores. */
static void test_one_of_two(void **state)
{
	static char directories[600], files[600], sound[512];

	(void)state;
	KVC_ROW("B29");
	snprintf(sound, sizeof sound, "%s", health);
	rig.striped = true;
	snprintf(directories, sizeof directories, "%s/a,%s/b", rig.directory, rig.directory);
	snprintf(files, sizeof files, "%s-health , %s-bad", rig.directory, rig.directory);
	rig.options.directory = directories;
	rig.options.health_file = files;
	health_write("percentage_used 3\n");
	snprintf(health, sizeof health, "%s-bad", rig.directory);
	health_write("percentage_used 99\n");
	rig_start(&rig);
	assert_true(kvc_test_run_until(rig.loop, second_failing, NULL, 20000));
	kvc_row.injected++;
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(rig_store(&rig, i, 1), KVC_OK);
		assert_int_equal(rig.blocks[i].record.place.segment >> 16, 0);
	}
	kvc_row.verified += rig_check_all(&rig, false);
	rig_stop(&rig);
	snprintf(files, sizeof files, "a,b,c");
	assert_int_equal(rig_open(&rig), KVC_INVALID);
	assert_non_null(strstr(rig.detail, "one for each directory"));
	(void)unlink(health);
	snprintf(health, sizeof health, "%s", sound);
}

#define TIER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_smart_page),
	        cmocka_unit_test(test_file_format),
	        cmocka_unit_test(test_judging),
	        cmocka_unit_test(test_media_errors_rise),
	        cmocka_unit_test(test_worst_of_several),
	        cmocka_unit_test(test_finding),
	        cmocka_unit_test(test_finding_in_a_circle),
	        cmocka_unit_test(test_what_cannot_be_read),
	        TIER_TEST(test_failing_drive_is_read_only),
	        TIER_TEST(test_rising_media_errors),
	        TIER_TEST(test_unknown_health),
	        TIER_TEST(test_one_of_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
