/* What went wrong, for people: the text behind kvc_last_error. */
#ifndef KVCC_FAIL_H
#define KVCC_FAIL_H

#include <stddef.h>

#include "kvc_status.h"

#define KVCC_DETAIL_BYTES 320u /* of one error text, with its end */

/* Set this thread's text and return the status. */
kvc_status kvcc_fail(kvc_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Copy text that came from outside: bounded, control characters replaced. */
void kvcc_text_copy(char *out, size_t out_bytes, const char *text, size_t text_bytes);

/* A programmer's error in this library: says what does not hold, and aborts. */
void kvcc_broken(const char *file, int line, const char *what) __attribute__((noreturn));

#define KVCC_INVARIANT(holds) ((holds) ? (void)0 : kvcc_broken(__FILE__, __LINE__, #holds))

#endif
