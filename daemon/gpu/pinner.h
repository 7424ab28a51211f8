/* The RAM arena as the GPU's copies see it: pinned in the background, chunk by chunk, by a thread that the
 * owner starts when it is ready for work. What is not pinned yet is copied all the same, slower; a copy never
 * crosses from one chunk into another, because CUDA refuses that. */
#ifndef KVC_PINNER_H
#define KVC_PINNER_H

#include <stdatomic.h>
#include <stdint.h>

#include "daemon/gpu/device.h"

#define KVC_PIN_BYTES (64ull << 20)

struct kvc_pinner {
	struct kvc_dev *dev;
	uint8_t *arena;
	uint64_t bytes;
	_Atomic uint64_t
	        pinned;     /* from the front; written by the thread, read for the gauges: orders nothing */
	_Atomic bool ended; /* the thread pins no more */
};

/* Map the arena; the descriptor stays the caller's. KVC_INVALID: it is shorter. */
kvc_status kvc_pinner_open(struct kvc_pinner *pinner, struct kvc_dev *dev, int fd, uint64_t bytes);

/* Start the thread. Nobody waits for it: it may run until the end of the process. */
void kvc_pinner_start(struct kvc_pinner *pinner);

/* Copies of the arena's bytes at `offset`. */
kvc_status kvc_pinner_copy_up(struct kvc_pinner *pinner, uint64_t to, uint64_t offset, uint64_t bytes,
                              struct kvc_dev_stream *stream);
kvc_status kvc_pinner_copy_down(struct kvc_pinner *pinner, uint64_t offset, uint64_t from, uint64_t bytes,
                                struct kvc_dev_stream *stream);

#endif
