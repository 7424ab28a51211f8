/* Buffered output; see output.h. */
#include "daemon/rpc/output.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/session.h"

enum {
	CAPACITY_MIN = 1024,
	CAPACITY_KEPT = 64 * 1024, /* an empty buffer larger than this is given back */
	PIECES = 16,
};

/* ---- payloads ------------------------------------------------------------------------------ */

kvc_status kvc_payload_open(struct kvc_rpc *rpc, struct kvc_session_ns *ns, uint64_t bytes,
                            struct kvc_payload **payload)
{
	struct kvc_payload *opened;

	KVC_PRE(bytes > 0);
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened)
		return KVC_NO_MEMORY;
	*opened = (struct kvc_payload){.rpc = rpc, .ns = ns, .bytes = bytes};
	kvc_list_init(&opened->node);
	if (kvc_ns_payload_hold(ns->ns, bytes, rpc->limits.inline_budget) != KVC_OK) {
		kvc_free(opened);
		return KVC_BUSY;
	}
	opened->data = kvc_realloc(NULL, 1, bytes);
	if (!opened->data) {
		kvc_ns_payload_let_go(ns->ns, bytes);
		kvc_free(opened);
		return KVC_NO_MEMORY;
	}
	ns->refs++;
	kvc_stat_add(rpc->cells.inline_bytes, (int64_t)bytes);
	*payload = opened;
	return KVC_OK;
}

void kvc_payload_close(struct kvc_payload *payload)
{
	if (!payload)
		return;
	kvc_stat_add(payload->rpc->cells.inline_bytes, -(int64_t)payload->bytes);
	kvc_ns_payload_let_go(payload->ns->ns, payload->bytes);
	kvc_session_ns_unref(payload->ns);
	kvc_list_remove(&payload->node);
	kvc_free(payload->data);
	kvc_free(payload);
}

static struct kvc_payload *payload_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_payload, node);
}

/* ---- control bytes ------------------------------------------------------------------------- */

void kvc_output_init(struct kvc_output *output)
{
	memset(output, 0, sizeof *output);
	kvc_list_init(&output->payloads);
}

void kvc_output_close(struct kvc_output *output)
{
	kvc_list_each_safe (node, &output->payloads)
		kvc_payload_close(payload_of(node));
	kvc_free(output->data);
	kvc_output_init(output);
}

static bool grow(struct kvc_output *output, size_t needed)
{
	size_t capacity = output->capacity ? output->capacity : CAPACITY_MIN;
	uint8_t *data;

	while (capacity < needed)
		capacity *= 2;
	data = kvc_realloc(output->data, 1, capacity);
	if (!data)
		return false;
	output->data = data;
	output->capacity = capacity;
	return true;
}

uint8_t *kvc_output_reserve(struct kvc_output *output, size_t bytes)
{
	size_t pending = kvc_output_pending(output);

	if (output->head && output->capacity - output->tail < bytes) {
		memmove(output->data, output->data + output->head, pending);
		output->head = 0;
		output->tail = pending;
	}
	if (output->capacity - output->tail < bytes && !grow(output, pending + bytes))
		return NULL;
	return output->data + output->tail;
}

void kvc_output_commit(struct kvc_output *output, size_t bytes)
{
	KVC_PRE(bytes <= output->capacity - output->tail);
	output->tail += bytes;
	output->committed += bytes;
}

void kvc_output_payload(struct kvc_output *output, struct kvc_payload *payload)
{
	KVC_PRE(payload->used > 0 && payload->sent == 0);
	payload->at = output->committed;
	kvc_list_push(&output->payloads, &payload->node);
}

bool kvc_output_empty(const struct kvc_output *output)
{
	return output->head == output->tail && kvc_list_empty(&output->payloads);
}

size_t kvc_output_pending(const struct kvc_output *output)
{
	return output->tail - output->head;
}

/* ---- sending ------------------------------------------------------------------------------- */

struct pieces {
	struct iovec iov[PIECES];
	size_t count;
};

static void piece_add(struct pieces *pieces, void *data, size_t bytes)
{
	if (bytes == 0 || pieces->count == PIECES)
		return;
	pieces->iov[pieces->count++] = (struct iovec){data, bytes};
}

/* Control bytes up to each payload, the payload, ..., the rest of the control bytes; as far as there is room.
 */
static void pieces_collect(struct kvc_output *output, struct pieces *pieces)
{
	uint64_t position = output->committed - kvc_output_pending(output);
	size_t head = output->head;

	pieces->count = 0;
	kvc_list_each (node, &output->payloads) {
		struct kvc_payload *payload = payload_of(node);
		size_t before = (size_t)(payload->at - position);

		if (pieces->count + 2 > PIECES)
			return;
		piece_add(pieces, output->data + head, before);
		piece_add(pieces, payload->data + payload->sent, payload->used - payload->sent);
		head += before;
		position += before;
	}
	piece_add(pieces, output->data + head, output->tail - head);
}

static size_t control_advance(struct kvc_output *output, uint64_t until, size_t sent)
{
	uint64_t position = output->committed - kvc_output_pending(output);
	size_t bytes = (size_t)(until - position);

	bytes = bytes < sent ? bytes : sent;
	output->head += bytes;
	return sent - bytes;
}

static size_t payload_advance(struct kvc_payload *payload, size_t sent)
{
	uint64_t left = payload->used - payload->sent;
	size_t bytes = left < sent ? (size_t)left : sent;

	payload->sent += bytes;
	if (payload->sent == payload->used)
		kvc_payload_close(payload);
	return sent - bytes;
}

static void advance(struct kvc_output *output, size_t sent)
{
	while (sent && !kvc_list_empty(&output->payloads)) {
		struct kvc_payload *first = payload_of(output->payloads.next);

		sent = control_advance(output, first->at, sent);
		sent = sent ? payload_advance(first, sent) : 0;
	}
	sent = control_advance(output, output->committed, sent);
	KVC_INVARIANT(sent == 0);
	if (output->head < output->tail)
		return;
	output->head = output->tail = 0;
	if (output->capacity > CAPACITY_KEPT) {
		kvc_free(output->data);
		output->data = NULL;
		output->capacity = 0;
	}
}

ssize_t kvc_output_send(struct kvc_output *output, int fd)
{
	struct pieces pieces;
	struct msghdr message = {.msg_iov = pieces.iov};
	ssize_t sent;

	pieces_collect(output, &pieces);
	KVC_PRE(pieces.count > 0);
	message.msg_iovlen = pieces.count;
	do
		sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);
	if (sent < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
	advance(output, (size_t)sent);
	return sent;
}
