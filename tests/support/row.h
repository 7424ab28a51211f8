/* Rows of the fault sheet, reported by the tests that inject the faults.
 *
 * A test begins with KVC_ROW("B10 B9"): it shows these rows. Its helpers count what they do in kvc_row. After
 * everything is closed, normally in the test's teardown, kvc_row_end() compares descriptors, threads and
 * memory with the start of the program and writes one line of JSON for each row to the file that
 * KVC_FAULT_SHEET names; without it nothing is written. A row that began and did not end crashed or hung.
 * tests/faults/sheet.py makes the sheet of these lines and of what the runner says of the tests.
 *
 * One test at a time; the counters are for the thread that runs it. */
#ifndef KVC_TEST_ROW_H
#define KVC_TEST_ROW_H

#include <stdint.h>

struct kvc_row {
	uint64_t injected; /* faults that were really carried out */
	uint64_t points;   /* of a sweep: places where the fault was put */
	uint64_t points_total;
	uint64_t verified; /* reads whose bytes were compared and right */
	uint64_t wrong;    /* reads with bytes that were never stored */
	uint64_t leaks;    /* besides those that kvc_row_end finds */
	uint64_t seed;     /* 0: nothing was random */
};

extern struct kvc_row kvc_row;

#define KVC_ROW(ids) kvc_row_begin(ids, __func__)

/* Counters are zero from here on. `ids` and `test` are borrowed until the end. */
void kvc_row_begin(const char *ids, const char *test);

/* Everything that the program opened is closed. Without a row that began it does nothing, so that a teardown
 * can serve all tests of a program. */
void kvc_row_end(void);

/* The same for a test whose fixture lives on: leaks count from KVC_ROW. */
void kvc_row_end_here(void);

#endif
