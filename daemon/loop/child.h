/* Child processes on the loop. */
#ifndef KVC_CHILD_H
#define KVC_CHILD_H

#include "daemon/loop/loop.h"

#define KVC_CHILD_FDS_MAX 8u

struct kvc_child;

struct kvc_child_end {
	int exit_code; /* unless a signal ended it */
	int signal;    /* 0: it ended by itself */
};

struct kvc_child_options {
	const char *program;     /* a path, or a name that is looked for in PATH */
	const char *const *args; /* its name first; NULL-terminated */
	const int *fds;          /* its descriptors from 3 on; the caller's stay the caller's */
	unsigned fd_count;

	/* The process is gone and reaped. Once, on the loop, not from inside of a call. */
	void (*ended)(void *context, const struct kvc_child_end *end);
	void *context;
};

/* Start it with our environment: nothing on its input and output, our stderr. KVC_OK: the program runs (its
 * exec succeeded). Else errno says why and `ended` does not come. */
kvc_status kvc_child_start(struct kvc_loop *loop, const struct kvc_child_options *options,
                           struct kvc_child **child);

/* Send a signal; before `ended` only. */
void kvc_child_kill(struct kvc_child *child, int signal);

#endif
