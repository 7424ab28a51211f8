/* What every fault of a client must leave: an answer, one counter one higher, a daemon that serves others,
 * and no descriptor. */
#ifndef KVC_TEST_FAULT_CHECK_H
#define KVC_TEST_FAULT_CHECK_H

#include <stdbool.h>

#include "tests/support/daemon.h"
#include "tests/support/wire.h"

struct kvc_test_fault {
	struct kvc_test_daemon *daemon;
	int witness; /* a client that was there before */
	Kvcellar__StatsReply *before;
	int descriptors;
};

/* Note how things are. False: the daemon does not answer. */
bool kvc_test_fault_begin(struct kvc_test_fault *fault, struct kvc_test_daemon *daemon);

/* Among all counters of refusals and dropped or rejected connections exactly `counter` grew since begin or
 * the last call, by `times`. Says on stderr what grew instead. */
bool kvc_test_fault_counted(struct kvc_test_fault *fault, const char *counter, unsigned times);

/* The witness and a new client are served, and descriptors are as at the begin. */
bool kvc_test_fault_harmless(struct kvc_test_fault *fault);

void kvc_test_fault_end(struct kvc_test_fault *fault);

#endif
