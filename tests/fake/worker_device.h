/* A GPU for tests of libkvcellar-cuda: device memory is this process's, what is enqueued happens at once, and
 * events come when the test says so. The codec is the CPU's. */
#ifndef KVC_TEST_WORKER_DEVICE_H
#define KVC_TEST_WORKER_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_gpu {
	bool hold;        /* events recorded from now on do not come until it is lifted */
	int fail_in;      /* the n-th call from now on fails; 0: none does */
	bool lost;        /* every event says so */
	uint32_t calls;   /* that can fail */
	uint32_t objects; /* that exist: memory, streams, events, devices */
	uint32_t launches;
	uint32_t pinned; /* ranges */
	bool damage;     /* a bit of every image that goes up is flipped on the way */
};

extern struct fake_gpu fake_gpu;

/* What kvcw_device_has finds; if nothing was added, all memory. */
void fake_gpu_memory_add(const void *memory, size_t bytes);

#endif
