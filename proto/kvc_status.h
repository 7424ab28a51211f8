/* Result codes of kvcellar: one table for the wire, the client library, the daemon and the codec.
 *
 * Zero is success. The numbers are part of the protocol: never reuse or renumber one.
 * X(name, wire number, text, 1 if the same call may be sent again as it is) */
#ifndef KVC_STATUS_H
#define KVC_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define KVC_STATUS_TABLE(X)                                                             \
	X(OK, 0, "ok", 0)                                                               \
	X(MISS, 1, "not present", 0)                                                    \
	X(BUSY, 2, "over a limit of queued work or memory, nothing was done", 1)        \
	X(DEADLINE, 3, "deadline passed", 1)                                            \
	X(CANCELLED, 4, "cancelled", 1)                                                 \
	X(DISCONNECTED, 5, "connection to the daemon was lost", 1)                      \
	X(UNAVAILABLE, 6, "daemon cannot be reached", 1)                                \
	X(VERSION, 7, "no common protocol version", 0)                                  \
	X(BAD_MESSAGE, 8, "malformed message", 0)                                       \
	X(INVALID, 9, "invalid argument", 0)                                            \
	X(SHAPE, 10, "shape, data type or layout does not fit", 0)                      \
	X(CONFLICT, 11, "present with other properties", 0)                             \
	X(UNKNOWN_ID, 12, "no such namespace or memory region in this session", 0)      \
	X(LIMIT, 13, "larger than a limit announced by the daemon", 0)                  \
	X(QUOTA, 14, "over the tenant's quota", 1)                                      \
	X(NO_MEMORY, 15, "out of memory", 1)                                            \
	X(NO_SPACE, 16, "no space in the tier", 1)                                      \
	X(ACCESS, 17, "permission denied", 0)                                           \
	X(CORRUPT, 18, "stored data failed its checks", 0)                              \
	X(IO, 19, "input/output error", 1)                                              \
	X(UNSUPPORTED, 20, "not supported here", 0)                                     \
	X(FENCED, 21, "memory region may still be written by an unanswered request", 1) \
	X(SHUTDOWN, 22, "daemon is stopping", 1)                                        \
	X(IN_USE, 23, "already in use", 0)                                              \
	X(INTERNAL, 24, "internal error", 0)                                            \
	X(ENGINE_LOST, 25, "the GPU engine was lost or is not there", 1)

typedef enum {
#define KVC_STATUS_ENUM(name, number, text, retry) KVC_##name = number,
	KVC_STATUS_TABLE(KVC_STATUS_ENUM)
#undef KVC_STATUS_ENUM
	        KVC_STATUS_COUNT
} kvc_status;

/* Static English text of a status; never NULL, also for numbers that are no status. */
const char *kvc_status_text(kvc_status status);

/* Name without prefix ("BUSY"); never NULL. */
const char *kvc_status_name(kvc_status status);

/* 1 if the same request may be sent again unchanged with a chance of success, else 0. */
int kvc_status_retryable(kvc_status status);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
