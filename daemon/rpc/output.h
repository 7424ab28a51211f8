/* What a session has still to send: control bytes in one buffer, payloads between them.
 *
 * Replies are encoded straight into the buffer (reserve, write, commit); a payload is queued behind what was
 * committed before it. One send is one sendmsg over both. Pure but for the send; loop thread. */
#ifndef KVC_RPC_OUTPUT_H
#define KVC_RPC_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/base/list.h"
#include "proto/kvc_status.h"

struct kvc_rpc;
struct kvc_session_ns;

/* Memory for the blocks of one inline request, counted against the inline budget. */
struct kvc_payload {
	struct kvc_list node;
	struct kvc_rpc *rpc;
	struct kvc_session_ns *ns; /* whose tenant has it, held */
	uint8_t *data;
	uint64_t bytes; /* reserved */
	uint64_t used;  /* received so far, or to be sent */
	uint64_t sent;
	uint64_t at; /* control bytes of the session before it */
};

/* KVC_BUSY: over the budget, or its part of that. KVC_NO_MEMORY. The bytes are not zeroed. */
kvc_status kvc_payload_open(struct kvc_rpc *rpc, struct kvc_session_ns *ns, uint64_t bytes,
                            struct kvc_payload **payload);
void kvc_payload_close(struct kvc_payload *payload);

struct kvc_output {
	uint8_t *data;
	size_t head; /* first byte not sent */
	size_t tail; /* end of what was committed */
	size_t capacity;
	uint64_t committed; /* control bytes ever */
	struct kvc_list payloads;
};

void kvc_output_init(struct kvc_output *output);
void kvc_output_close(struct kvc_output *output);

/* Room for `bytes`; NULL if there is no memory. */
uint8_t *kvc_output_reserve(struct kvc_output *output, size_t bytes);

/* The first `bytes` of what was reserved are to be sent. */
void kvc_output_commit(struct kvc_output *output, size_t bytes);

/* Send the payload's `used` bytes next. Taken. */
void kvc_output_payload(struct kvc_output *output, struct kvc_payload *payload);

bool kvc_output_empty(const struct kvc_output *output);

/* Control bytes that wait. */
size_t kvc_output_pending(const struct kvc_output *output);

/* One sendmsg. Bytes sent; 0: the socket takes nothing now; negative: -errno. */
ssize_t kvc_output_send(struct kvc_output *output, int fd);

#endif
