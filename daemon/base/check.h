/* Contracts. On in release builds too; for errors of the programmer only, never for anything that a client, a
 * disk or a device can cause. */
#ifndef KVC_CHECK_H
#define KVC_CHECK_H

/* Prints what failed and where, and aborts. */
_Noreturn void kvc_check_failed(const char *kind, const char *text, const char *file, int line);

/* What the caller must hold on entry. */
#define KVC_PRE(condition) \
	((condition) ? (void)0 : kvc_check_failed("precondition", #condition, __FILE__, __LINE__))

/* What must hold inside. */
#define KVC_INVARIANT(condition) \
	((condition) ? (void)0 : kvc_check_failed("invariant", #condition, __FILE__, __LINE__))

#endif
