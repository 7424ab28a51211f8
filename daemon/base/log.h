/* The log: lines on stderr, with syslog priority prefixes ("<3>") when the journal reads them.
 *
 * error: a person must act. warn: handled but unexpected. info: one line per life-cycle event. debug: per
 * object. trace: per request. Each line names the exact cause and the object. Thread-safe. A sink that does
 * not take a line at once loses it (counted): logging never blocks the data path. */
#ifndef KVC_LOG_H
#define KVC_LOG_H

#include <stdint.h>

#include "proto/kvc_status.h"

enum kvc_log_level {
	KVC_LOG_ERROR = 0,
	KVC_LOG_WARN = 1,
	KVC_LOG_INFO = 2,
	KVC_LOG_DEBUG = 3,
	KVC_LOG_TRACE = 4,
};

/* Atomic: a reload changes it while other threads log. It orders nothing. */
extern _Atomic(enum kvc_log_level) kvc_log_level_now;

/* "error", "warn", ... to a level. KVC_INVALID, *level untouched, for anything else. */
kvc_status kvc_log_level_parse(const char *text, enum kvc_log_level *level);

void kvc_log_write(enum kvc_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Lines that the sink did not take. */
uint64_t kvc_log_lost(void);

#define kvc_log(level, ...)                                  \
	do {                                                 \
		if ((level) <= kvc_log_level_now)            \
			kvc_log_write((level), __VA_ARGS__); \
	} while (0)
#define kvc_error(...) kvc_log(KVC_LOG_ERROR, __VA_ARGS__)
#define kvc_warn(...)  kvc_log(KVC_LOG_WARN, __VA_ARGS__)
#define kvc_info(...)  kvc_log(KVC_LOG_INFO, __VA_ARGS__)
#define kvc_debug(...) kvc_log(KVC_LOG_DEBUG, __VA_ARGS__)
#define kvc_trace(...) kvc_log(KVC_LOG_TRACE, __VA_ARGS__)

#endif
