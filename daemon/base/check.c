/* The end of a process whose contract was broken. */
#include "daemon/base/check.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void kvc_check_failed(const char *kind, const char *text, const char *file, int line)
{
	fprintf(stderr, "kvcellard: %s failed: %s (%s:%d)\n", kind, text, file, line);
	abort();
}
