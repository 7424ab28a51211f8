/* What is planted in a daemon is found when it is compared with its baseline, and named; and a row in whose
 * time nobody has looked does not pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fault/agent.h"
#include "tests/support/row.h"
#include "tests/support/server.h"

enum { READY_MS = 30000, SETTLE_MS = 300 };

static struct kvc_server server;

static int setup(void **state)
{
	(void)state;
	if (!kvc_server_init(&server))
		return 1;
	kvc_server_use_agent(&server);
	kvc_server_arg(&server, "--ram", "8M");
	kvc_server_arg(&server, "--threads", "2");
	kvc_server_arg(&server, "--disk", server.disk);
	kvc_server_arg(&server, "--disk-size", "64M");
	KVC_ROW("none");
	return kvc_server_start(&server) && kvc_server_ready(&server, READY_MS * kvc_server_patience()) ? 0
	                                                                                                : 1;
}

static int teardown(void **state)
{
	bool ended = kvc_server_stop(&server, READY_MS * kvc_server_patience());

	(void)state;
	kvc_server_remove(&server);
	kvc_row_end();
	return ended ? 0 : 1;
}

static uint64_t compare(void)
{
	struct kvc_baseline_of of = {server.pid, server.socket, server.disk, server.agent, SETTLE_MS};

	return kvc_baseline_compare(&server.baseline, &of);
}

static void plant(enum agent_leak kind, uint32_t times)
{
	struct agent_command command = {.what = AGENT_LEAK, .leak = kind, .times = times};
	struct agent_answer answer;

	assert_int_equal(write(server.agent, &command, sizeof command), sizeof command);
	assert_int_equal(read(server.agent, &answer, sizeof answer), sizeof answer);
}

static void expect_found(enum agent_leak kind, uint32_t times, uint64_t leaks)
{
	assert_true(server.baseline.taken);
	assert_int_equal(compare(), 0);
	plant(kind, times);
	assert_int_equal(compare(), leaks);
	assert_int_equal(kvc_row.leaks, leaks);
	assert_int_equal(kvc_row.baselines, 2);
}

static void descriptor_is_found(void **state)
{
	(void)state;
	expect_found(AGENT_LEAK_DESCRIPTOR, 1, 1);
}

static void thread_is_found(void **state)
{
	(void)state;
	expect_found(AGENT_LEAK_THREAD, 2, 2);
}

static void mapping_is_found(void **state)
{
	(void)state;
	expect_found(AGENT_LEAK_MAPPING, 1, 1);
}

/* The connection of the one who asks comes and goes, and with it some objects. */
static void objects_are_found(void **state)
{
	(void)state;
	assert_true(server.baseline.taken && server.baseline.objects > 0);
	assert_int_equal(compare(), 0);
	plant(AGENT_LEAK_OBJECT, 2 * KVC_BASELINE_OBJECTS);
	assert_true(compare() >= KVC_BASELINE_OBJECTS);
}

static void client_is_found(void **state)
{
	struct kvc_client *client;

	(void)state;
	assert_int_equal(kvc_server_client(&server, READY_MS, &client), KVC_OK);
	assert_int_equal(kvc_ping(client, 0), KVC_OK);
	assert_true(compare() >= 2); /* a connection, and its descriptor */
	kvc_client_destroy(client);
	assert_int_equal(compare(), 0);
}

static void file_is_found(void **state)
{
	char path[sizeof server.disk + 16];
	FILE *file;

	(void)state;
	snprintf(path, sizeof path, "%s/super.new", server.disk);
	file = fopen(path, "we");
	assert_non_null(file);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(compare(), 1);
}

static void killed_daemon_is_started_to_be_compared(void **state)
{
	(void)state;
	plant(AGENT_LEAK_DESCRIPTOR, 1); /* is gone with it */
	kvc_server_kill(&server);
	assert_int_equal(kvc_server_settle(&server), 0);
	assert_true(server.pid > 0);
	assert_int_equal(kvc_row.baselines, 1);
}

static void row_without_a_look_fails(void **state)
{
	(void)state;
	KVC_ROW("none");
	assert_int_equal(compare(), 0);
	kvc_row_end_here();
	assert_int_equal(kvc_row.leaks, 0);
	KVC_ROW("none");
	kvc_row_end_here();
	assert_int_equal(kvc_row.leaks, 1);
}

#define PLANTED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        PLANTED(descriptor_is_found),
	        PLANTED(thread_is_found),
	        PLANTED(mapping_is_found),
	        PLANTED(objects_are_found),
	        PLANTED(client_is_found),
	        PLANTED(file_is_found),
	        PLANTED(killed_daemon_is_started_to_be_compared),
	        PLANTED(row_without_a_look_fails),
	};

	unsetenv("KVC_FAULT_SHEET"); /* what fails here is meant to */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
