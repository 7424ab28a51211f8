/* What workers have registered: regions (their allocations, mapped here) and pools (where in them keys and
 * values lie), by the core's numbers. A pool is checked against its regions when it opens, so that no page id
 * below its count leads out of them. */
#ifndef KVC_WORKER_MEMORY_H
#define KVC_WORKER_MEMORY_H

#include "daemon/base/list.h"
#include "daemon/gpu/device.h"

#define KVC_WORKER_POOLS_MAX 256u

struct kvc_worker_region {
	struct kvc_list node;
	uint32_t id;
	uint32_t users; /* bases of pools */
	bool closing;   /* as soon as there are none */
	uint64_t bytes;
	struct kvc_dev_memory *memory;
};

struct kvc_worker_pool {
	struct kvc_list node;
	uint32_t id;
	uint32_t orders; /* under way */
	bool closing;    /* as soon as there are none */
	uint32_t table;  /* number of its table of base addresses */
	struct kvc_gpu_pool_geometry geometry;
	struct kvc_kern_pool kern;
	const _Atomic uint32_t *marks; /* the worker's, mapped; the GPU writes them */
	uint32_t mark_count;
	uint32_t region_count;
	struct kvc_worker_region *regions[]; /* one a base */
};

struct kvc_worker_memory {
	struct kvc_dev *dev;
	struct kvc_dev_stream *stream; /* tables travel on it */
	struct kvc_dev_event *arrived; /* of the last table */
	struct kvc_list regions;
	struct kvc_list pools;
	uint64_t *tables_host; /* pinned */
	uint64_t tables;       /* device address */
	bool table_taken[KVC_WORKER_POOLS_MAX];
};

/* The stream is borrowed. */
kvc_status kvc_worker_memory_open(struct kvc_worker_memory *memory, struct kvc_dev *dev,
                                  struct kvc_dev_stream *stream);

/* `detail` (KVC_GPU_DETAIL_BYTES) says what is wrong when it is not KVC_OK. */
kvc_status kvc_worker_region_open(struct kvc_worker_memory *memory, const struct kvc_gpu_import *import,
                                  const int *fds, uint32_t fd_count, char *detail);

/* KVC_BUSY: pools lie in it. It is closed when the last of them is, and said by kvc_worker_region_left. */
kvc_status kvc_worker_region_close(struct kvc_worker_memory *memory, uint32_t id, char *detail);

/* After the end of a pool: a region whose close waited for that. False: there is none. */
bool kvc_worker_region_left(struct kvc_worker_memory *memory, uint32_t *id);

/* `bases`: count as the geometry says; the caller has checked. The launches that use the pool must wait for
 * memory->arrived. */
kvc_status kvc_worker_pool_open(struct kvc_worker_memory *memory, const struct kvc_gpu_pool *wish,
                                const struct kvc_gpu_base *bases, const int *fds, uint32_t fd_count,
                                char *detail);

/* No order uses it. */
void kvc_worker_pool_close(struct kvc_worker_memory *memory, struct kvc_worker_pool *pool);

/* NULL if there is none, or if it is closing. */
struct kvc_worker_pool *kvc_worker_pool_find(const struct kvc_worker_memory *memory, uint32_t id);

#endif
