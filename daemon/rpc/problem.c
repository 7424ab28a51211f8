/* Texts of failures. */
#include "daemon/rpc/problem.h"

#include <stdarg.h>
#include <stdio.h>

kvc_status kvc_problem_set(struct kvc_problem *problem, kvc_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(problem->detail, sizeof problem->detail, format, arguments);
	va_end(arguments);
	return status;
}
