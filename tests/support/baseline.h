/* What a running daemon holds, so that a test can tell after its faults that nothing stayed.
 *
 * Taken when the daemon serves and only the one who looks is connected; compared when that is so again. What
 * may differ is what blocks that are stored take, by nature: segments' files stay open, and the heap has
 * their namespaces and tables, as far as KVC_BASELINE_OBJECTS and KVC_BASELINE_HEAP_BYTES go.
 *
 * Needs /proc of the daemon, and a connection to it. One thread at a time. */
#ifndef KVC_TEST_BASELINE_H
#define KVC_TEST_BASELINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Tables that are made when first needed: of a namespace, a tenant, what a policy remembers, the summary of a
 * segment. The tables of segments that hold something are counted, and not part of it. */
#define KVC_BASELINE_OBJECTS 24

/* Where objects cannot be counted: the 8 MiB that the daemon has from the start to unpack messages in, which
 * the first large one touches, and what the C library keeps of freed memory. */
#define KVC_BASELINE_HEAP_BYTES (10ull << 20)

/* Where to look. Paths are borrowed. */
struct kvc_baseline_of {
	pid_t pid;
	const char *socket;
	const char *disk;   /* directory of the disk tier, which need not exist */
	int agent;          /* connected to tests/fault/agent.c, which counts the heap; -1: none */
	uint32_t settle_ms; /* how long to wait; 0: 10 s, longer under a sanitizer */
};

struct kvc_baseline {
	bool taken;
	unsigned descriptors; /* without the files of segments */
	unsigned threads;     /* without the kernel's */
	unsigned files;       /* in the disk tier's directory, without segments */
	uint64_t shared;      /* bytes of shared mappings: the arena, rings, clients' memory */
	int64_t objects;      /* of the daemon's heap, without a table a segment; -1: not known */
	uint64_t heap;        /* bytes of private memory without the index; 0: not known */
};

/* Waits until the daemon is alone with the caller. False, with a line on stderr: that did not happen. */
bool kvc_baseline_take(struct kvc_baseline *baseline, const struct kvc_baseline_of *of);

/* Waits until there is no more than in `before`. What is left then, in things, each named on stderr; 1 if the
 * daemon does not answer. Counts the comparison in kvc_row.baselines, and what is left in kvc_row.leaks. */
uint64_t kvc_baseline_compare(const struct kvc_baseline *before, const struct kvc_baseline_of *of);

#endif
