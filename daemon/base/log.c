/* One write(2) a line, non-blocking in effect: the descriptor is polled for room first. */
#include "daemon/base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

_Atomic(enum kvc_log_level) kvc_log_level_now = KVC_LOG_INFO;

static atomic_uint_fast64_t lines_lost; /* a counter, orders nothing */

static const struct {
	const char *name;
	int syslog_priority;
} levels[] = {
        [KVC_LOG_ERROR] = {"error", 3}, [KVC_LOG_WARN] = {"warn", 4},   [KVC_LOG_INFO] = {"info", 6},
        [KVC_LOG_DEBUG] = {"debug", 7}, [KVC_LOG_TRACE] = {"trace", 7},
};

kvc_status kvc_log_level_parse(const char *text, enum kvc_log_level *level)
{
	for (unsigned i = 0; i < sizeof levels / sizeof levels[0]; i++) {
		if (strcmp(text, levels[i].name))
			continue;
		*level = (enum kvc_log_level)i;
		return KVC_OK;
	}
	return KVC_INVALID;
}

static int line_prefix(char *line, enum kvc_log_level level)
{
	if (getenv("JOURNAL_STREAM"))
		return snprintf(line, LINE_BYTES, "<%d>", levels[level].syslog_priority);
	return snprintf(line, LINE_BYTES, "kvcellard: %s: ", levels[level].name);
}

static void line_write(const char *line, size_t bytes)
{
	struct pollfd sink = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (poll(&sink, 1, 0) != 1 || write(STDERR_FILENO, line, bytes) != (ssize_t)bytes)
		atomic_fetch_add_explicit(&lines_lost, 1, memory_order_relaxed);
}

void kvc_log_write(enum kvc_log_level level, const char *format, ...)
{
	char line[LINE_BYTES];
	int saved_errno = errno;
	int used = line_prefix(line, level);
	size_t bytes;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line + used, sizeof line - (size_t)used - 1, format, arguments);
	va_end(arguments);
	bytes = strlen(line);
	line[bytes++] = '\n';
	line_write(line, bytes);
	errno = saved_errno;
}

uint64_t kvc_log_lost(void)
{
	return atomic_load_explicit(&lines_lost, memory_order_relaxed);
}
