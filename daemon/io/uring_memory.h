/* Memory that is registered with a ring, so that the kernel does not look up and pin its pages at every
 * request.
 *
 * It is done piece by piece by a thread of its own, since pinning takes its time; pieces are of use from the
 * moment they are done. It is a favour: where the kernel refuses (its limit on locked memory, its age),
 * requests do without. Loop thread, but for that thread. */
#ifndef KVC_URING_MEMORY_H
#define KVC_URING_MEMORY_H

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct kvc_uring_memory {
	struct io_uring *ring;
	uint8_t *base;
	uint64_t bytes;
	uint64_t piece_bytes;   /* a power of two */
	_Atomic uint32_t ready; /* pieces; release and acquire: a piece is registered before it is counted */
	atomic_bool stop;       /* relaxed: the join orders the rest */
	bool runs;
	pthread_t thread;
};

/* Begin. piece_bytes: 0 for the default. Nothing can fail: without a thread or memory nothing is registered.
 * The memory must stay until the stop. */
void kvc_uring_memory_start(struct kvc_uring_memory *memory, struct io_uring *ring, void *base,
                            uint64_t bytes, uint64_t piece_bytes);

/* Before the ring goes. */
void kvc_uring_memory_stop(struct kvc_uring_memory *memory);

/* Which registered piece holds all of this memory; -1: none. */
int kvc_uring_memory_piece(const struct kvc_uring_memory *memory, const struct iovec *part);

uint64_t kvc_uring_memory_bytes(const struct kvc_uring_memory *memory);

#endif
