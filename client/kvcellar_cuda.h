/* libkvcellar, device memory: store blocks straight from a worker's paged KV pool on an NVIDIA GPU, and
 * restore them into it. The daemon's GPU engine gathers the pages, compresses, and keeps or moves only the
 * image.
 *
 * Needs a daemon with a GPU engine on the same machine (kvcellard --gpus) and, in this process, the CUDA
 * driver (libcuda.so.1, of CUDA 11.7 or newer), which is loaded by the first call. The library links no CUDA
 * and makes no context: the calling thread's current context is used, or else the primary context of the
 * device that the memory is on. Daemon and worker may be different users, with a /dev/shm, network and System
 * V IPC each, unless MPS runs, which serves one user at a time.
 *
 * A pool is registered once. Then kvc_put and kvc_get take it in kvc_transfer.pool, with the stream whose
 * work must be done before the daemon touches the pages, and each block names its pages. When the call
 * completes the pages may be reused (put) or hold the block, verified (get). Everything said in kvcellar.h
 * holds: after a deadline that the daemon did not answer the pool is fenced (KVC_FENCED) until it has, or
 * until the end of the connection, because its pages may still be touched. The pool's memory must not be
 * freed before kvc_pool_destroy, and kvc_client_destroy does not wait for it: destroy pools first.
 *
 * The stream is of the pool's GPU and is not being captured into a graph. Several threads may use one pool
 * with a stream each. A pool of VMM memory keeps a descriptor for each of its chunks open, here and in the
 * daemon. */
#ifndef KVCELLAR_CUDA_H
#define KVCELLAR_CUDA_H

#include "kvcellar.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* Byte strides of one kind of tile in the pool; the channels of a head are contiguous. */
struct kvc_pool_strides {
	uint64_t page;
	uint64_t token;
	uint64_t head;
};

/* Where the elements lie. Layouts are described, not named: an element of page p, token t of it, head h is at
 * base[layer] + p * page + t * token + h * head. Examples with one tensor a layer: P pages of T tokens, H
 * heads, D channels of 2 bytes.
 *
 *   tensor             page        token      head       value base - key base
 *   (2, P, T, H, D)    2*T*H*D     2*H*D      2*D        2*P*T*H*D
 *   (P, 2, T, H, D)    4*T*H*D     2*H*D      2*D        2*T*H*D
 *   (2, P, H, T, D)    2*T*H*D     2*D        2*T*D      2*P*T*H*D
 *   (P, H, T, 2*D)     4*T*H*D     4*D        4*T*D      2*D
 *   (P, T, D), latent  2*T*D       2*D        0          none */
struct kvc_pool_options {
	size_t size;
	uint32_t layers;                /* as the namespace's */
	uint32_t page_tokens;           /* tokens of a page */
	uint64_t pages;                 /* page ids are below it */
	const void *const *key_bases;   /* device addresses, one a layer */
	const void *const *value_bases; /* likewise; NULL for key-only blocks */
	struct kvc_pool_strides key_strides;
	struct kvc_pool_strides value_strides;
	uint32_t deadline_ms; /* of the registration; init: 0, the client's default */
};

void kvc_pool_options_init(struct kvc_pool_options *options);

/* Register a pool for blocks of the shape of `ns` (other namespaces of the same shape may use it too). The
 * allocations that hold it are found and exported: cudaMalloc memory by CUDA IPC, VMM memory (cuMemCreate;
 * PyTorch's expandable segments) as descriptors, if it was created exportable. Errors: KVC_UNSUPPORTED (no
 * driver; the daemon has no engine for this GPU; memory that cannot be exported), KVC_INVALID (not device
 * memory), KVC_SHAPE (pages beyond the allocation), and those of every call. After KVC_DEADLINE the daemon
 * may still map the memory, but reads and writes nothing of it. Set up again by itself after the daemon or
 * its engine has restarted. */
kvc_status kvc_pool_register(struct kvc_namespace *ns, const struct kvc_pool_options *options,
                             struct kvc_pool **pool);

/* Waits for requests that use it (each ends by its deadline), then, for as long as the client's default
 * deadline, until the daemon has unmapped the memory on every connection on which it had it, or is gone.
 * KVC_OK: so it is, the pool is freed, and the memory is the caller's alone. KVC_DEADLINE: the daemon may
 * still write to the memory, which must neither be freed nor used for anything else; no request can use the
 * pool any more, and this call is to be repeated. KVC_INVALID: in a process forked from the client's. */
kvc_status kvc_pool_destroy(struct kvc_pool *pool);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
