/* The fault sheet's own eyes: what a test leaves behind is seen, and nothing where nothing is left. */
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/alloc.h"
#include "tests/support/row.h"

enum { ARENA = 1 << 20, HEAP = 4 << 20 };

/* The leaks that a row has after `begin` has been undone or not. */
static uint64_t leaks_now(void)
{
	kvc_row_end_here();
	return kvc_row.leaks;
}

static void nothing_is_no_leak(void **state)
{
	(void)state;
	KVC_ROW("selftest");
	kvc_free(kvc_calloc(1, 100));
	close(dup(0));
	assert_int_equal(leaks_now(), 0);
}

static void descriptors_are_seen(void **state)
{
	int left[4]; /* two are the libraries' to keep */

	(void)state;
	KVC_ROW("selftest");
	for (unsigned i = 0; i < 4; i++)
		left[i] = dup(0);
	assert_int_equal(leaks_now(), 4);
	for (unsigned i = 0; i < 4; i++)
		close(left[i]);
}

static void *wait_for_end(void *gate)
{
	pthread_mutex_lock(gate);
	pthread_mutex_unlock(gate);
	return NULL;
}

static void threads_are_seen(void **state)
{
	pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
	pthread_t thread;

	(void)state;
	pthread_mutex_lock(&gate);
	KVC_ROW("selftest");
	assert_int_equal(pthread_create(&thread, NULL, wait_for_end, &gate), 0);
	assert_true(leaks_now() >= 1);
	pthread_mutex_unlock(&gate);
	pthread_join(thread, NULL);
}

static void mappings_are_seen(void **state)
{
	void *left;

	(void)state;
	KVC_ROW("selftest");
	left = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(left != MAP_FAILED);
	assert_int_equal(leaks_now(), 1);
	munmap(left, ARENA);
}

static void objects_are_seen(void **state)
{
	void *left;

	(void)state;
	KVC_ROW("selftest");
	left = kvc_calloc(1, 100);
	assert_int_equal(leaks_now(), 1);
	kvc_free(left);
}

static void heap_is_seen(void **state)
{
	void *left[64];

	(void)state;
	if (mallinfo2().uordblks == 0)
		skip(); /* a sanitizer's heap does not tell; it looks for leaks itself */
	KVC_ROW("selftest");
	for (unsigned i = 0; i < 64; i++)
		left[i] = malloc(HEAP / 64);
	assert_int_equal(leaks_now(), 1);
	for (unsigned i = 0; i < 64; i++)
		free(left[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(nothing_is_no_leak), cmocka_unit_test(descriptors_are_seen),
	        cmocka_unit_test(threads_are_seen),   cmocka_unit_test(mappings_are_seen),
	        cmocka_unit_test(objects_are_seen),   cmocka_unit_test(heap_is_seen),
	};

	unsetenv("KVC_FAULT_SHEET"); /* these are no rows */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
