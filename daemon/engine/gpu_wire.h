/* What the core and kvcellar-engine say to each other: plain structs over one SOCK_SEQPACKET pair, one
 * message a packet. Both ends come from one build: KVC_GPU_WIRE is compared in the first message, and nothing
 * else is negotiated. The engine trusts the core; the core bounds every number that the engine sends.
 *
 * Descriptor 3 of the engine is its end of the pair. The engine ends when the pair is closed.
 *
 * A packet begins with struct kvc_gpu_header; what follows is said beside its type. Sizes are of the whole
 * packet and checked by the receiver. */
#ifndef KVC_GPU_WIRE_H
#define KVC_GPU_WIRE_H

#include <assert.h>
#include <stdint.h>

#include "daemon/engine/mark.h"
#include "kernels/image.h"

#define KVC_GPU_WIRE          1u
#define KVC_GPU_FD            3      /* of the engine */
#define KVC_GPU_MESSAGE_BYTES 65536u /* longest packet */
#define KVC_GPU_HANDLE_BYTES  64u    /* of a CUDA IPC handle of memory */
#define KVC_GPU_MARKS_MAX     1024u  /* words of one pool */
#define KVC_GPU_CHUNKS_MAX    240u   /* descriptors of one region: the kernel passes 253 at a time */
#define KVC_GPU_DETAIL_BYTES  256u
#define KVC_GPU_PAGES_MAX     4096u /* pages of one block */
#define KVC_GPU_GATE_MS       2000u /* that a worker's stream may take to come to its mark */

enum kvc_gpu_type {
	/* core to engine */
	KVC_GPU_START = 1, /* kvc_gpu_start, and the arena's descriptor. First. Answered by READY or FAILED */
	KVC_GPU_IMPORT,    /* kvc_gpu_import, and its descriptors. Answered by REPLY */
	KVC_GPU_UNIMPORT,  /* header.id: region. Answered by REPLY, when no pool lies in it any more */
	KVC_GPU_POOL_OPEN, /* kvc_gpu_pool, its bases. Answered by REPLY */
	KVC_GPU_POOL_CLOSE, /* header.id: pool. Answered by REPLY */
	KVC_GPU_JOBS,       /* kvc_gpu_jobs, jobs, page ids. Answered by DONE, in any order */
	KVC_GPU_CANCEL, /* header.id: how many numbers of jobs, uint64_t, follow. Those that wait for their
	                 * worker's mark end now */

	/* engine to core */
	KVC_GPU_READY = 64, /* kvc_gpu_ready */
	KVC_GPU_FAILED,     /* kvc_gpu_failed; the engine ends after it */
	KVC_GPU_REPLY,      /* kvc_gpu_reply */
	KVC_GPU_DONE,       /* header.id: how many results; kvc_gpu_result each */
	KVC_GPU_GAUGES,     /* kvc_gpu_gauges: now and then */
};

struct kvc_gpu_header {
	uint32_t type;
	uint32_t id; /* of the region or pool that it is about; numbers are the core's */
};

struct kvc_gpu_start {
	struct kvc_gpu_header header;
	uint32_t wire;
	uint32_t ordinal;
	uint32_t sms; /* 0: the engine decides */
	uint32_t low_priority;
	uint64_t vram_bytes;
	uint64_t staging_bytes;
	uint64_t arena_bytes;
};

struct kvc_gpu_ready {
	struct kvc_gpu_header header;
	uint32_t wire;
	uint32_t sms; /* of the device */
	uint8_t uuid[16];
	char name[64];
	uint64_t device_bytes; /* that the process took: context, pools, staging */
};

struct kvc_gpu_failed {
	struct kvc_gpu_header header;
	uint32_t status; /* kvc_status */
	uint32_t reserved;
	char detail[KVC_GPU_DETAIL_BYTES];
};

struct kvc_gpu_reply {
	struct kvc_gpu_header header;
	uint32_t to;     /* type of the message that it answers */
	uint32_t status; /* kvc_status */
	char detail[KVC_GPU_DETAIL_BYTES];
};

/* A worker's allocation: by CUDA IPC handle, or as chunks of VMM memory, mapped one behind the other. */
struct kvc_gpu_import {
	struct kvc_gpu_header header;
	uint64_t offset; /* of the region in the allocation (IPC); 0 for chunks */
	uint64_t bytes;  /* of the region; checked against the allocation */
	uint32_t chunks; /* descriptors that travel with it; 0: by IPC handle */
	uint32_t reserved;
	uint8_t handle[KVC_GPU_HANDLE_BYTES];
	uint64_t chunk_bytes[KVC_GPU_CHUNKS_MAX];
};

/* Byte strides of one kind; the channels of a head are contiguous. */
struct kvc_gpu_strides {
	uint64_t page;
	uint64_t token;
	uint64_t head;
};

struct kvc_gpu_pool_geometry {
	uint32_t layers;
	uint32_t page_tokens;
	uint64_t pages; /* valid ids are below this */
	uint32_t heads;
	uint32_t key_dim;
	uint32_t value_dim; /* 0: key-only */
	uint32_t dtype;     /* enum kvc_dtype */
	struct kvc_gpu_strides key;
	struct kvc_gpu_strides value;
};

struct kvc_gpu_base {
	uint32_t region;
	uint32_t reserved;
	uint64_t offset;
};

/* Its marks travel along as a descriptor, if it has any: a memfd of so many words or more, sealed against
 * shrinking. Followed by `layers` bases of keys, and as many of values unless value_dim is 0. */
struct kvc_gpu_pool {
	struct kvc_gpu_header header;
	uint32_t marks; /* words */
	uint32_t reserved;
	struct kvc_gpu_pool_geometry geometry;
};

/* Jobs of one operation, plan and pool; then `count` kvc_gpu_job, then the page ids of all, in order. */
struct kvc_gpu_jobs {
	struct kvc_gpu_header header; /* id: pool; 0: lower */
	uint32_t op;                  /* enum kvc_engine_op: encode, decode, lower */
	uint32_t count;
	struct kvc_block_shape shape;
	struct kvc_block_codec codec;
	struct kvc_mark mark; /* to wait for first */
	uint32_t reserved;
};

#define KVC_GPU_NOWHERE UINT64_MAX

struct kvc_gpu_job {
	uint64_t seq;         /* the core's number of it */
	uint64_t image;       /* offset in the arena, or KVC_GPU_NOWHERE */
	uint64_t image_bytes; /* as in kvc_engine_job */
	uint64_t vram;        /* offset in the VRAM pool, or KVC_GPU_NOWHERE */
	uint32_t first_token;
	uint32_t page_count;
};

struct kvc_gpu_result {
	uint64_t seq;
	uint64_t length; /* as in kvc_engine_job */
	uint32_t status; /* kvc_status */
	uint32_t reserved;
};

struct kvc_gpu_gauges {
	struct kvc_gpu_header header;
	uint64_t pinned_bytes; /* of the arena, so far */
	uint64_t device_bytes;
	uint64_t launches;
	uint64_t launched_blocks;
};

static_assert(sizeof(struct kvc_gpu_jobs) % 8 == 0 && sizeof(struct kvc_gpu_job) == 40, "aligned, packed");
static_assert(sizeof(struct kvc_gpu_header) == 8 && sizeof(struct kvc_gpu_result) == 24, "aligned, packed");
static_assert(sizeof(struct kvc_gpu_pool) % 8 == 0 && sizeof(struct kvc_gpu_base) == 16, "aligned, packed");

#endif
