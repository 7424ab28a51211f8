/* The objects of libkvcellar-cuda and what its parts offer each other. All of a worker is guarded by its
 * lock, which no call holds while it waits. */
#ifndef KVCW_WORKER_H
#define KVCW_WORKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "client/cuda/device.h"
#include "client/cuda/options.h"
#include "client/kvcellar_worker.h"

enum { KVCW_SLOTS_MAX = 1024 };

/* ---- slots: where an image is on its way, here and on the device ------------------------------- */

/* The last slot of all is the spare one: it holds any image of a block, the others what most need. */
struct kvcw_slot {
	uint64_t offset; /* in shared memory and in staging */
	uint64_t capacity;
	bool taken;
	uint64_t doubt; /* 0, or: the daemon may still use the slot for a request that it did not answer in
	                 * time, until one with a serial number above this one has been answered */
};

/* What kernels read and write beside images: an entry a slot. Twice: on the device and here, pinned. */
struct kvcw_tables {
	struct kvc_kern_block *blocks;
	struct kvc_kern_result *results;
	uint32_t *ids; /* ids_max a slot */
	void *memory;
};

/* ---- requests ------------------------------------------------------------------------------------ */

/* The first round of a request is over all of its blocks. One that needs the spare slot goes through a round
 * of its own then.
 *
 *   put: DEVICE (encode, images down) --> TAILS (raw tiles down) --> READY --> SENT --+--> next round, or
 * DONE get: READY --> SENT --> DEVICE (images up, decode) -------------------------------+ next round: SPARE
 * (until the spare slot is free) --> DEVICE or READY
 */
enum kvcw_state { KVCW_DEVICE, KVCW_TAILS, KVCW_READY, KVCW_SENT, KVCW_SPARE, KVCW_DONE };

struct kvcw_item {
	struct kvc_image_plan plan; /* of its image */
	uint64_t length;            /* of its image */
	uint32_t slot;
	bool active; /* takes part in this round, so far without an error */
	bool again;  /* in a round of its own */
};

struct kvcw_request {
	struct kvcw_request *next;
	enum kvcw_state state;
	bool put;
	bool waited; /* by a sync call: its completion is not for others */
	uint32_t ack;
	void *stream;
	void *tag;
	struct kvc_block *blocks; /* the caller's */
	uint32_t count;
	uint32_t first_slot;
	uint32_t begin; /* of this round */
	uint32_t end;
	bool spare;      /* holds the spare slot */
	void *event[2];  /* between streams; behind all */
	bool armed;      /* event[1] is recorded */
	bool doubt;      /* its slots are, when it is done */
	uint64_t serial; /* of its last submission to the daemon */
	kvc_status status;
	kvc_status device_status; /* of this round */
	struct kvc_outcome outcome;
	struct kvc_block *wire; /* what goes to the daemon */
	uint32_t *wire_item;
	uint32_t wire_count;
	struct kvcw_item items[];
};

/* ---- worker -------------------------------------------------------------------------------------- */

struct kvc_worker {
	pthread_mutex_t lock;
	struct kvcw_device *device;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint8_t *shared; /* the memory's bytes, pinned */
	bool pinned;
	uint8_t *staging;
	void *layers; /* tables of the pool's layers, on the device */
	struct kvc_block_shape shape;
	struct kvc_block_codec codec;
	struct kvc_image_plan plan; /* of a full block */
	struct kvc_kern_pool pool;
	struct kvcw_tables host;
	struct kvcw_tables on_device;
	uint32_t ids_max; /* pages of a block */
	uint32_t sms;
	uint32_t deadline_ms;
	uint32_t ttl_ms;
	uint32_t priority;
	uint32_t ephemeral;
	uint32_t batch;
	void *down; /* streams for images */
	void *up;
	struct kvcw_request *requests; /* in order of their submits */
	struct kvcw_request **last;
	uint64_t serial;
	bool fenced; /* the shared memory must be renewed before it is used */
	uint32_t slot_count;
	struct kvcw_slot slots[]; /* slot_count, then the spare one */
};

/* slots.c */
void kvcw_slots_init(struct kvc_worker *worker);
/* Bytes of all. */
uint64_t kvcw_slots_bytes(const struct kvc_worker *worker);
/* `count` neighbours; false: there are none. */
bool kvcw_slots_take(struct kvc_worker *worker, uint32_t count, uint32_t *first);
void kvcw_slots_give(struct kvc_worker *worker, uint32_t first, uint32_t count, bool doubt);
/* A request of that serial number was answered. */
void kvcw_slots_trust(struct kvc_worker *worker, uint64_t serial);
/* Some slot is in doubt. */
bool kvcw_slots_doubted(const struct kvc_worker *worker);

/* memory.c */
/* Needs client, device, plan, pool, slots. */
kvc_status kvcw_memory_open(struct kvc_worker *worker, const struct kvc_pool_options *pool);
void kvcw_memory_close(struct kvc_worker *worker);
/* No request is under way: pages that no earlier request reaches. */
kvc_status kvcw_memory_renew(struct kvc_worker *worker);

/* round.c: a request's round on the device. They end with event[1] armed, or with device_status set. */
void kvcw_encode_begin(struct kvc_worker *worker, struct kvcw_request *request);
/* KVC_BUSY: not yet. */
kvc_status kvcw_round_poll(struct kvcw_request *request);
/* Look at results; items with an error drop out. True: raw tiles are on their way, poll again. */
bool kvcw_encode_end(struct kvc_worker *worker, struct kvcw_request *request);
void kvcw_decode_begin(struct kvc_worker *worker, struct kvcw_request *request);
void kvcw_decode_end(struct kvc_worker *worker, struct kvcw_request *request);

/* request.c */
kvc_status kvcw_request_new(struct kvc_worker *worker, bool put, struct kvc_block *blocks, size_t count,
                            struct kvcw_request **request);
void kvcw_request_begin(struct kvc_worker *worker, struct kvcw_request *request);
void kvcw_request_free(struct kvcw_request *request);
/* Do what can be done now. */
void kvcw_request_step(struct kvc_worker *worker, struct kvcw_request *request);
/* The daemon has answered, or will not. */
void kvcw_request_answered(struct kvc_worker *worker, struct kvcw_request *request,
                           const struct kvc_completion *completion);
/* A block has its status and takes part no more. */
void kvcw_item_end(struct kvcw_request *request, uint32_t item, kvc_status status);

#endif
