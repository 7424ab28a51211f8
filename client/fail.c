/* The thread's last error text, and broken invariants. */
#include "client/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kvcellar.h"

static _Thread_local char last_error[KVCC_DETAIL_BYTES];

const char *kvc_last_error(void)
{
	return last_error;
}

kvc_status kvcc_fail(kvc_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(last_error, sizeof(last_error), format, arguments);
	va_end(arguments);
	return status;
}

void kvcc_text_copy(char *out, size_t out_bytes, const char *text, size_t text_bytes)
{
	size_t n = text_bytes < out_bytes - 1 ? text_bytes : out_bytes - 1;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		out[i] = c < 0x20 || c == 0x7F ? '?' : (char)c;
	}
	out[n] = '\0';
}

void kvcc_broken(const char *file, int line, const char *what)
{
	(void)fprintf(stderr, "libkvcellar: %s:%d: broken invariant: %s\n", file, line, what);
	abort();
}
