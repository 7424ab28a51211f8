/* What the kernel says of a thread's turns after they were set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/base/turn.h"

enum { POLICY = 1, RUNTIME = 3, WORDS = 6 };

/* Of struct sched_attr, as first published: size and policy, flags, nice and priority, runtime, deadline,
 * period. */
struct said {
	uint32_t policy;
	int32_t nice;
	uint64_t runtime; /* nanoseconds; 0: a kernel that does not know turns */
};

static struct said ask(void)
{
	uint64_t words[WORDS] = {0};
	uint32_t halves[2 * WORDS];

	assert_int_equal(syscall(SYS_sched_getattr, 0, words, sizeof words, 0), 0);
	memcpy(halves, words, sizeof halves);
	return (struct said){halves[POLICY], (int32_t)halves[4], words[RUNTIME]};
}

static void turns_are_as_set(void **state)
{
	struct said before = ask();

	(void)state;
	if (before.runtime == 0)
		skip(); /* Linux before 6.12 */
	kvc_turn_set(10000);
	assert_int_equal(ask().runtime, 10000000);
	kvc_turn_set(300);
	assert_int_equal(ask().runtime, 300000);
	kvc_turn_set(1); /* the kernel's least */
	assert_int_equal(ask().runtime, 100000);
}

static void the_rest_stays(void **state)
{
	(void)state;
	assert_int_equal(setpriority(PRIO_PROCESS, 0, 3), 0);
	kvc_turn_set(300);
	assert_int_equal(ask().policy, SCHED_OTHER);
	assert_int_equal(ask().nice, 3);
}

/* A thread that an administrator has put elsewhere is left there. */
static void other_policies_are_left_alone(void **state)
{
	const struct sched_param none = {0};
	struct said before;

	(void)state;
	assert_int_equal(sched_setscheduler(0, SCHED_IDLE, &none), 0);
	before = ask();
	kvc_turn_set(300);
	assert_int_equal(ask().policy, SCHED_IDLE);
	assert_int_equal(ask().runtime, before.runtime);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(turns_are_as_set),
	        cmocka_unit_test(the_rest_stays),
	        cmocka_unit_test(other_policies_are_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
