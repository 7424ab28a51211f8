/* A put, a get or a detach that waits for something: from its arrival to its reply.
 *
 *   FILLING (inline put: the payload arrives) -> RUNNING (operations at the cache) -> answered and freed
 *   REFUSED (its tenant is above its rate: a moment) ---------------------------> answered and freed
 *   WAITING (detach of host memory in use)    ----------------------------------> answered and freed
 *
 * A request, its operations and their page ids are one allocation, owned by the session. It holds references
 * to its namespace and region or pool, and owns its payload. What all of them together take is bounded, and
 * no tenant may have all of it (kvc_ns_blocks_hold). The reply is sent when the last operation is done,
 * because only then is the client's memory let go; the deadline cancels operations, it does not answer for
 * them. Loop thread. */
#ifndef KVC_RPC_REQUEST_H
#define KVC_RPC_REQUEST_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "daemon/cache/cache.h"
#include "daemon/rpc/session.h"

enum kvc_request_state { KVC_REQUEST_FILLING, KVC_REQUEST_RUNNING, KVC_REQUEST_WAITING, KVC_REQUEST_REFUSED };

struct kvc_request_op {
	struct kvc_op op;
	struct kvc_request *request;
	uint32_t *pages;    /* cuda: its own part of the request's */
	uint64_t raw_bytes; /* of the block in client form */
	bool finished;
};

struct kvc_request {
	struct kvc_list node; /* in session->requests or ->detaches */
	struct kvc_session *session;
	uint64_t id;
	uint16_t verb;
	enum kvc_request_state state;
	uint64_t due_ms;     /* of the loop's clock */
	uint64_t expires_ns; /* of CLOCK_MONOTONIC: a put that was read later must not stay; 0: none */
	struct kvc_timer timer;
	struct kvc_session_ns *ns;
	struct kvc_region *region;   /* shm, detach */
	struct kvc_device *pool;     /* cuda */
	struct kvc_payload *payload; /* inline */
	struct kvc_problem *refusal; /* refused */
	uint32_t held;               /* its memory, in blocks: see kvc_ns_blocks_hold */
	uint32_t drops;              /* kvc_ns_drops, when its keys were derived */
	uint32_t count;
	uint32_t unfinished;
	uint32_t *pages; /* cuda: ids of all blocks, behind the operations */
	struct kvc_request_op ops[];
};

void kvc_verb_put(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_get(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);
void kvc_verb_detach(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body);

/* Payload of the request that is being filled. Copies what belongs to it, and starts it when complete.
 * Returns how many bytes were taken. */
size_t kvc_request_fill(struct kvc_request *request, const uint8_t *data, size_t bytes);

/* The same without a copy: where the rest goes, and that so many bytes were put there. */
struct iovec kvc_request_fill_room(struct kvc_request *request);
void kvc_request_filled(struct kvc_request *request, size_t bytes);

/* The session answers nothing any more: cancel what runs, forget what waits. */
void kvc_requests_cancel(struct kvc_session *session);

#endif
