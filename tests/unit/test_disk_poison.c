/* A record that makes the recovery crash: the second start reads it another way, the third sets its segment
 * aside and serves the rest. A recovery that is killed from outside blames nobody. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/tier/crashes.h"
#include "tests/support/disk_rig.h"
#include "tests/support/row.h"

enum { BLOCKS = 60, POISON = 17 };

static struct rig rig;

static int setup(void **state)
{
	(void)state;
	rig_init(&rig);
	kvc_log_level_now = KVC_LOG_ERROR;
	rig_start(&rig);
	for (uint32_t i = 0; i < BLOCKS; i++)
		assert_int_equal(rig_store(&rig, i, 2), KVC_OK);
	rig_stop(&rig);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	rig_stop(&rig);
	rig_destroy(&rig);
	kvc_row_end();
	return 0;
}

/* The owner cannot stand one of the blocks. */
static bool poisoned(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	uint32_t number;

	memcpy(&number, record->key.bytes, sizeof number);
	if (number == POISON)
		raise(*(int *)context);
	*cookie = number;
	return true;
}

static void reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
}

static void recover_done(void *context, kvc_status status)
{
	(void)context;
	_exit(status == KVC_OK ? 0 : 1);
}

/* In a process of its own: what is left behind is what a crash leaves behind. */
static int start_and_die(int number)
{
	struct kvc_tier_events events = {poisoned, reclaimed, .context = &number};
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (!child) {
		const struct rlimit none = {0, 0};

		setrlimit(RLIMIT_CORE, &none);
		for (int deadly = 1; deadly < 32; deadly++)
			signal(deadly, SIG_DFL); /* not what the test's own frame does with them */
		if (rig_open(&rig) != KVC_OK)
			_exit(2);
		rig.tier->ops->recover(rig.tier, &events, recover_done, NULL);
		kvc_loop_run(rig.loop);
		_exit(3);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void test_is_set_aside(void **state)
{
	static const int deadly[] = {SIGABRT, SIGSEGV, SIGBUS};

	(void)state;
	KVC_ROW("A12");
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(start_and_die(deadly[i]), deadly[i]);
	kvc_row.injected += 2;
	assert_int_equal(start_and_die(deadly[2]), 0); /* it does not see the block any more */
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segments_aside"), 1);
	assert_false(rig.blocks[POISON].stored);
	assert_true(rig.recovered >= BLOCKS - 8 && rig.recovered < BLOCKS);
	rig_check_all(&rig, false);
	/* Its room is not used, also not a round later, nor after another start. */
	for (uint32_t i = 0; i < 150; i++)
		assert_int_equal(rig_store(&rig, 1000 + i, 2), KVC_OK);
	rig_check_all(&rig, false);
	rig_stop(&rig);
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segments_aside"), 1);
	assert_int_equal(rig_check_all(&rig, false), rig.recovered);
	kvc_row.verified += rig.recovered;
}

/* Once is not enough, and a start that goes well clears it. */
static void test_once(void **state)
{
	(void)state;
	assert_int_equal(start_and_die(SIGSEGV), SIGSEGV);
	for (uint32_t i = 0; i < 3; i++) {
		rig_start(&rig);
		assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), i ? 0 : 1);
		assert_int_equal(rig_check_all(&rig, false), BLOCKS);
		rig_stop(&rig);
	}
	assert_int_equal(start_and_die(SIGSEGV), SIGSEGV);
	rig_start(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
}

static void test_killed_from_outside(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(start_and_die(SIGKILL), SIGKILL);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(start_and_die(SIGTERM), SIGTERM);
	rig_start(&rig);
	assert_int_equal(rig.recovered, BLOCKS);
	assert_int_equal(rig_stat(&rig, "disk.recovered_by_scan"), 0);
}

/* A file that is removed takes the verdict with it. */
static void test_removed(void **state)
{
	char path[512];

	(void)state;
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(start_and_die(SIGABRT), SIGABRT);
	for (uint32_t i = 0; i < 16; i++) {
		snprintf(path, sizeof path, "%s/segments/%u", rig.directory, i);
		(void)unlink(path);
	}
	rig_start(&rig);
	assert_int_equal(rig_stat(&rig, "disk.segments_aside"), 0);
	assert_int_equal(rig.recovered, 0);
}

/* --- the page ------------------------------------------------------------------------------------- */

static void test_page(void **state)
{
	struct kvc_crashes crashes = {.count = 0}, back;
	uint8_t page[KVC_PAGE_BYTES];

	(void)state;
	for (uint32_t i = 0; i < KVC_CRASHES_MAX + 3; i++)
		kvc_crashes_add(&crashes, i, 100 + i);
	kvc_crashes_add(&crashes, 9, 109);
	assert_int_equal(crashes.count, KVC_CRASHES_MAX);
	kvc_crashes_encode(&crashes, page);
	assert_int_equal(kvc_crashes_decode(page, &back), KVC_OK);
	assert_int_equal(kvc_crashes_times(&back, 9, 109), 2);
	assert_int_equal(kvc_crashes_times(&back, 10, 110), 1);
	assert_int_equal(kvc_crashes_times(&back, 9, 110), 0);
	assert_int_equal(kvc_crashes_times(&back, 0, 100), 0);
	for (uint32_t bit = 0; bit < 8 * KVC_PAGE_BYTES; bit++) {
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(kvc_crashes_decode(page, &back), KVC_CORRUPT);
		page[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

#define POISON_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        POISON_TEST(test_is_set_aside),        POISON_TEST(test_once),
	        POISON_TEST(test_killed_from_outside), POISON_TEST(test_removed),
	        cmocka_unit_test(test_page),
	};

	return RIG_RUN_BOTH(tests);
}
