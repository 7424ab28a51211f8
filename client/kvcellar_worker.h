/* libkvcellar-cuda: the codec inside the worker. The same kernels as the daemon's GPU engine, on the worker's
 * own stream: a put encodes from the paged KV pool and sends the image through shared memory to the daemon, a
 * get brings it back and decodes it into the pool. Against the road of kvcellar_cuda.h it needs no engine
 * process, no IPC and no MPS, and costs the worker device memory for staging, kernels in its own time, and
 * CUDA in its address space. docs/gpu.md says when which road wins.
 *
 * A worker object has a connection of its own to the daemon. It is thread-safe; calls exclude each other. It
 * works on the device that the pool is on and leaves the caller's current device as it was.
 *
 * How a request goes
 *  - put: on the caller's stream page ids go up and the blocks are encoded into staging; on a stream of the
 *    worker's own the images come down into shared memory. When kvc_worker_next finds them there, they are
 *    sealed and sent to the daemon.
 *  - get: the daemon copies images into shared memory. kvc_worker_next checks them, sends them up, and
 * enqueues the decode on the caller's stream. Nothing waits for a stream. Somebody must call kvc_worker_next
 * for requests to go on.
 *
 * The pages of a put must hold the block, and stay, until its completion; those of a get must not be touched
 * until then, and what is enqueued on its stream later than the completion sees the block. A stream must live
 * until the completions of its requests, and must not be under capture.
 *
 * Rules of kvcellar.h hold, but for the text: kvc_worker_error() says why. An error of a request leaves no
 * CUDA error behind. A block that cannot be decoded is KVC_CORRUPT: take it for a miss.
 *
 * Link with -lkvcellar-cuda (pkg-config kvcellar-cuda). */
#ifndef KVCELLAR_WORKER_H
#define KVCELLAR_WORKER_H

#include "kvcellar.h"
#include "kvcellar_cuda.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct kvc_worker;

/* What went wrong in this thread's last failed call of kvc_worker_*, for people: never NULL. */
const char *kvc_worker_error(void);

struct kvc_worker_options {
	size_t size;
	const struct kvc_client_options *client; /* NULL: defaults */
	const struct kvc_namespace_options *ns;  /* required: shape and codec of the blocks */
	const struct kvc_pool_options
	        *pool;  /* required: where they lie. Its memory must stay until destroy */
	uint32_t slots; /* blocks in flight, 1 to 1024; init: 64. Each takes about 1.2 times the size of an
	                 * image in device memory and as much in shared, pinned memory; one more takes the
	                 * size of a raw block */
	uint32_t sms;   /* most multiprocessors of a launch; init: 0, all */
	uint32_t deadline_ms; /* of requests, from the submit to the daemon on; init: 0, the client's default
	                       */
	uint32_t ttl_ms;      /* of all puts: as in struct kvc_transfer, with its defaults */
	uint32_t priority;
	uint32_t ephemeral;
};

void kvc_worker_options_init(struct kvc_worker_options *options);

/* Connect, open the namespace, allocate and pin: seconds for gigabytes. Everything passed is copied. Errors:
 * KVC_INVALID (also: not device memory), KVC_SHAPE (the pool is not of the namespace's shape, or goes beyond
 * its memory), KVC_UNSUPPORTED (no such GPU, kernels not for it), KVC_NO_MEMORY, and those of the client's
 * calls. */
kvc_status kvc_worker_create(const struct kvc_worker_options *options, struct kvc_worker **worker);

/* Waits for what is on the device and drops the rest: completions that were not taken never come. */
void kvc_worker_destroy(struct kvc_worker *worker);

/* The connection, for lookup, prefetch, pin, drop: owned by the worker. Its asynchronous completions are the
 * worker's: submit nothing on it. */
struct kvc_namespace *kvc_worker_namespace(struct kvc_worker *worker);
struct kvc_client *kvc_worker_client(struct kvc_worker *worker);

/* Most blocks of one request: the slots, or the daemon's limit. */
uint32_t kvc_worker_batch(const struct kvc_worker *worker);

/* Queue a request for up to kvc_worker_batch blocks; of a block, key, parent, tokens, first_token, pages and
 * page_count count. Keys stay borrowed until the completion; page ids are copied. `stream`: cudaStream_t or
 * CUstream of the pool's device. KVC_OK: exactly one completion follows, and each block's status is set then.
 * KVC_BUSY: too few free slots, take completions first. KVC_INVALID: a page id out of range, too few ids, a
 * bad length; blocks are untouched then. */
kvc_status kvc_worker_put_submit(struct kvc_worker *worker, struct kvc_block *blocks, size_t count,
                                 uint32_t ack, void *stream, void *tag);
kvc_status kvc_worker_get_submit(struct kvc_worker *worker, struct kvc_block *blocks, size_t count,
                                 void *stream, void *tag);

/* Drive all requests and take up to `max` completions, waiting at most timeout_ms for the first one (0: not
 * at all). A request that failed as a whole has that status in all of its blocks. */
kvc_status kvc_worker_next(struct kvc_worker *worker, struct kvc_completion *completions, size_t max,
                           uint32_t timeout_ms, size_t *count);

/* The same in one call. Other requests go on meanwhile, their completions stay to be taken. outcome may be
 * NULL. */
kvc_status kvc_worker_put(struct kvc_worker *worker, struct kvc_block *blocks, size_t count, uint32_t ack,
                          void *stream, struct kvc_outcome *outcome);
kvc_status kvc_worker_get(struct kvc_worker *worker, struct kvc_block *blocks, size_t count, void *stream,
                          struct kvc_outcome *outcome);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
