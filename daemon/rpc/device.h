/* What a session holds of its client's device memory: regions (allocations that an engine maps) and pools
 * (where in them keys and values lie), by the ids that the client chose, shared with those of host memory.
 *
 *   OPENING --engine: done--> OPEN --detach, end--> RETIRED --unused--> CLOSING --engine: done--> freed
 *     |  `---engine: failed--> freed                                      ^
 *     `--deadline, end--> ABANDONED --engine: done------------------------'
 *                             `------engine: failed--> freed
 *
 * The engine is never asked to close what it has not answered for. While something is OPENING the session
 * takes no frames, so that a client may send what depends on it without waiting. Only OPENING and OPEN ones
 * can be named by their id. A pool is used by requests, a region by its pools. Loop thread only. */
#ifndef KVC_RPC_DEVICE_H
#define KVC_RPC_DEVICE_H

#include "daemon/engine/gpu.h"
#include "daemon/rpc/session.h"

enum kvc_device_kind { KVC_DEVICE_REGION, KVC_DEVICE_POOL };

enum kvc_device_state {
	KVC_DEVICE_OPENING,
	KVC_DEVICE_ABANDONED,
	KVC_DEVICE_OPEN,
	KVC_DEVICE_RETIRED,
	KVC_DEVICE_CLOSING,
};

struct kvc_device {
	struct kvc_list node; /* in session->devices */
	struct kvc_session *session;
	enum kvc_device_kind kind;
	enum kvc_device_state state;
	uint32_t id;
	uint32_t users;
	struct kvc_gpu *gpu;

	/* The request to be answered: attach, pool or detach; 0: none. */
	uint64_t request_id;
	uint16_t verb;
	struct kvc_timer timer; /* its deadline, while OPENING */
	struct kvc_task closed;

	/* region */
	struct kvc_device_region *region;
	uint64_t bytes;
	uint32_t chunks;

	/* pool */
	struct kvc_pool *pool;
	struct kvc_block_shape shape; /* but for its tokens */
	uint64_t pages;
	uint32_t page_tokens;
	uint32_t marks;
	uint32_t part_count;
	struct kvc_device *parts[]; /* its regions, each once */
};

/* An attach on the cuda plane. Answers, now or later. */
void kvc_device_attach(struct kvc_session *session, const struct kvc_frame *frame,
                       const struct kvc_attach_request *request);

void kvc_verb_pool(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

/* A region or pool that can be named, or NULL. */
struct kvc_device *kvc_device_find(struct kvc_session *session, uint32_t id);

/* A request uses the pool. */
void kvc_device_ref(struct kvc_device *pool);
void kvc_device_unref(struct kvc_device *pool);

/* A detach of it: answered when the engine has let it go. KVC_IN_USE: a pool that is not detached uses it. */
kvc_status kvc_device_detach(struct kvc_device *device, const struct kvc_frame *frame,
                             struct kvc_problem *problem);

/* Nothing is answered any more. */
void kvc_devices_cancel(struct kvc_session *session);

/* No request is left: close all that is open. True: nothing is left; else the session is woken when there is
 * something new. */
bool kvc_devices_close(struct kvc_session *session);

#endif
