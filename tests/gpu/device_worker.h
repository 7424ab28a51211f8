/* The worker's side of test_device: a process of its own that owns device memory and exports it. */
#ifndef KVC_TESTS_GPU_DEVICE_WORKER_H
#define KVC_TESTS_GPU_DEVICE_WORKER_H

#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WORKER_CHUNKS 2

/* What the worker tells; in memory that both share. */
struct worker {
	pid_t pid;
	int socket; /* the test's end: one byte is a command, answered by one byte */
	uint64_t pool_bytes;
	uint64_t small_bytes;
	uint64_t chunk_bytes;
	uint8_t pool[64];          /* IPC handles */
	uint8_t small[64];         /* of an allocation that is less than CUDA allocates at a time */
	uint32_t mark;             /* the seed of the last fill that its stream has come behind */
	int chunks[WORKER_CHUNKS]; /* descriptors, the test's */
};

/* Fork it. Before the first CUDA call of this process. NULL if it could not set itself up. */
struct worker *worker_start(void);

/* Fill the pool and the chunks with worker_element(i, seed), after `delay_ms` of its stream; the mark is
 * written behind. Returns when this is enqueued. */
void worker_fill(struct worker *worker, uint32_t seed, uint32_t delay_ms);

/* What element i of the pool is, a bfloat16. */
static inline uint16_t worker_element(uint64_t i, uint32_t seed)
{
	uint64_t hash = (i + 1) * 0x9E3779B97F4A7C15ull ^ (uint64_t)seed * 0xD1B54A32D192ED03ull;

	hash ^= hash >> 29;
	hash *= 0xBF58476D1CE4E5B9ull;
	return (uint16_t)(0x3E80u + (hash >> 40 & 0x1FF) + (hash >> 60 << 15 & 0x8000u));
}

void worker_kill(struct worker *worker);

#ifdef __cplusplus
}
#endif

#endif
