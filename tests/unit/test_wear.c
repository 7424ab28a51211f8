/* Counting what is written: days by the monotonic clock, pages at rest, and over restarts of the tier. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/tier/wear.h"
#include "tests/support/disk_rig.h"

#define DAY KVC_WEAR_DAY_MS

static void test_days(void **state)
{
	struct kvc_wear wear = {0};

	(void)state;
	kvc_wear_add(&wear, DAY / 2, 1000);
	assert_int_equal(kvc_wear_day_bytes(&wear), 1000);
	kvc_wear_add(&wear, DAY / 2, 10); /* a new day begins with these */
	assert_int_equal(wear.today_bytes, 10);
	assert_int_equal(wear.yesterday_bytes, 1000);
	assert_int_equal(kvc_wear_day_bytes(&wear), 1010);
	kvc_wear_add(&wear, DAY / 2, 0);
	assert_int_equal(kvc_wear_day_bytes(&wear), 510);
	kvc_wear_add(&wear, 3 * DAY, 7); /* nothing for days */
	assert_int_equal(kvc_wear_day_bytes(&wear), 7);
	assert_int_equal(wear.total_bytes, 1017);
	assert_int_equal(wear.age_ms, 4 * DAY + DAY / 2);
}

static void test_pages(void **state)
{
	uint8_t slots[KVC_WEAR_SLOTS * KVC_PAGE_BYTES] = {0};
	struct kvc_wear wear = {.sequence = 4}, back;

	(void)state;
	assert_int_equal(kvc_wear_decode(slots, &back), KVC_CORRUPT);
	kvc_wear_add(&wear, 12345, 678);
	kvc_wear_encode(&wear, slots);
	wear.sequence = 5;
	kvc_wear_add(&wear, 1, 2);
	wear.note.bytes[0] = 1;
	kvc_wear_encode(&wear, slots + KVC_PAGE_BYTES);
	assert_int_equal(kvc_wear_decode(slots, &back), KVC_OK);
	assert_memory_equal(&back, &wear, sizeof back);
	for (uint32_t bit = 0; bit < 8 * KVC_PAGE_BYTES; bit++) {
		slots[KVC_PAGE_BYTES + bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_wear_decode(slots, &back), KVC_OK);
		assert_int_equal(back.sequence, 4);
		slots[KVC_PAGE_BYTES + bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

/* All that is written counts, and goes on counting after a stop; a new directory's content does not end it.
 */
static void test_over_restarts(void **state)
{
	static struct rig rig;
	int64_t first, second;
	char path[512];

	(void)state;
	kvc_log_level_now = KVC_LOG_ERROR;
	rig_init(&rig);
	rig_start(&rig);
	assert_int_equal(rig.noted.bytes[KVC_TIER_NOTE_BYTES - 1], 0);
	rig.note.bytes[KVC_TIER_NOTE_BYTES - 1] = 77;
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	first = rig_stat(&rig, "disk.written_total_bytes");
	assert_true(first >= 20 * (int64_t)rig_record_bytes(2));
	assert_int_equal(first, rig_stat(&rig, "disk.write_bytes") + rig_stat(&rig, "disk.summary_bytes"));
	rig_stop(&rig);
	rig_start(&rig);
	second = rig_stat(&rig, "disk.written_total_bytes");
	assert_int_equal(rig.noted.bytes[KVC_TIER_NOTE_BYTES - 1], 77);
	assert_true(second > first); /* a summary and a checkpoint at the stop */
	assert_int_equal(rig_stat(&rig, "disk.written_day_bytes"), second);
	rig_stop(&rig);
	snprintf(path, sizeof path, "%s/super", rig.directory);
	assert_int_equal(unlink(path), 0);
	rig_start(&rig);
	assert_int_equal(rig.recovered, 0);
	assert_int_equal(rig.noted.bytes[KVC_TIER_NOTE_BYTES - 1], 77);
	assert_true(rig_stat(&rig, "disk.written_total_bytes") >= second);
	rig_destroy(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_days),
	        cmocka_unit_test(test_pages),
	        cmocka_unit_test(test_over_restarts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
