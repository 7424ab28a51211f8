/* A drive that never says how it is does not keep the tier from stopping. This program has its own
 * kvc_drive_read, which waits. */
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/tier/drive.h"
#include "tests/support/disk_rig.h"

static sem_t asked, released;

kvc_status kvc_drive_read(const char *directory, const char *file, struct kvc_drive_reading *reading,
                          char *why, size_t why_bytes)
{
	(void)directory;
	(void)file;
	(void)reading;
	(void)sem_post(&asked);
	while (sem_wait(&released))
		;
	snprintf(why, why_bytes, "too late");
	return KVC_IO;
}

static void test_a_stop_does_not_wait(void **state)
{
	static struct rig rig;

	(void)state;
	kvc_log_level_now = KVC_LOG_ERROR;
	assert_int_equal(sem_init(&asked, 0, 0), 0);
	assert_int_equal(sem_init(&released, 0, 0), 0);
	rig_init(&rig);
	rig.options.health_ms = 1000;
	rig_start(&rig);
	while (sem_wait(&asked))
		;
	assert_int_equal(rig_store(&rig, 1, 1), KVC_OK);
	rig_stop(&rig);
	assert_int_equal(kvc_alloc_live(), 1); /* the thread's */
	assert_int_equal(sem_post(&released), 0);
	while (kvc_alloc_live())
		(void)sched_yield();
	rig_destroy(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_a_stop_does_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
