/* A daemon whose drive wears out: the account of what may be written goes on after a restart, and a drive
 * that is failing is not written, whoever says so in the configured file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "tests/faults/daemon_world.h"

static struct daemon_world w;
static char health[KVC_SERVER_PATH_BYTES + 16];

static int setup(void **state)
{
	(void)state;
	dw_init(&w, true);
	snprintf(health, sizeof health, "%s/health", w.server.folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dw_end(&w);
	kvc_row_end();
	return 0;
}

static void health_write(const char *text)
{
	char fresh[sizeof health + 8];
	FILE *out;

	snprintf(fresh, sizeof fresh, "%s.new", health);
	out = fopen(fresh, "we");
	assert_non_null(out);
	(void)fputs(text, out);
	(void)fclose(out);
	assert_int_equal(rename(fresh, health), 0);
}

static void stop_and_start(void)
{
	dw_disconnect(&w);
	assert_true(kvc_server_stop(&w.server, 30000));
	dw_start(&w);
}

/* Half an hour of the budget is soon used up. */
static void the_account_outlives_the_daemon(void **state)
{
	double admitted, credit;

	(void)state;
	KVC_ROW("B28");
	kvc_server_arg(&w.server, "--disk-budget", "0.05dwpd");
	dw_start(&w);
	assert_int_equal(dw_stat(&w, "disk.budget_day_bytes"), (256 << 20) / 20);
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(dw_put(&w, i * DW_BLOCKS, KVC_ACK_RAM), DW_BLOCKS);
	dw_await(&w, "disk.wear_throttled", 1);
	kvc_row.injected += (uint64_t)dw_stat(&w, "disk.wear_throttled");
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(dw_get(&w, i * DW_BLOCKS), DW_BLOCKS);
	stop_and_start();
	admitted = dw_stat(&w, "disk.admitted_day_bytes");
	credit = dw_stat(&w, "disk.budget_credit_bytes");
	print_message("%.0f bytes admitted, %.0f of credit\n", admitted, credit);
	assert_true(admitted > 0 && admitted <= (256 << 20) / 20 / 24);
	assert_true(credit < (256 << 20) / 20 / 48);
	stop_and_start();
	assert_true(dw_stat(&w, "disk.admitted_day_bytes") == admitted);
}

static void a_failing_drive_is_not_written(void **state)
{
	(void)state;
	KVC_ROW("B29");
	health_write("percentage_used 1\n");
	kvc_server_arg(&w.server, "--disk-health", health);
	kvc_server_arg(&w.server, "--disk-health-ms", "10");
	dw_start(&w);
	dw_await(&w, "disk.drive_known", 1);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	health_write("percentage_used 96\n");
	dw_await(&w, "disk.drive_failing", 1);
	kvc_row.injected++;
	assert_int_equal(dw_put(&w, DW_BLOCKS, KVC_ACK_DISK), 0);
	assert_int_equal(dw_put(&w, 2ul * DW_BLOCKS, KVC_ACK_RAM), DW_BLOCKS);
	stop_and_start(); /* what is on disk is served, also by the next daemon */
	dw_await(&w, "disk.drive_failing", 1);
	assert_int_equal(dw_get(&w, 0), DW_BLOCKS);
	health_write("percentage_used 1\n");
	dw_await(&w, "disk.writable", 1);
	assert_int_equal(dw_put(&w, 3ul * DW_BLOCKS, KVC_ACK_DISK), DW_BLOCKS);
}

/* The drive itself is asked by default, which a daemon without rights may not: it says so and serves. */
static void a_drive_that_cannot_be_asked(void **state)
{
	(void)state;
	dw_start(&w);
	assert_int_equal(dw_put(&w, 0, KVC_ACK_DISK), DW_BLOCKS);
	assert_true(dw_stat(&w, "disk.drive_failing") == 0);
}

#define WEAR_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        WEAR_TEST(the_account_outlives_the_daemon),
	        WEAR_TEST(a_failing_drive_is_not_written),
	        WEAR_TEST(a_drive_that_cannot_be_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
