/* Bytes to frames: one recvmsg a wake-up, descriptors taken in, frames handled where they lie.
 *
 * Bytes are received into the server's buffer, shared by all sessions, and handled there; only what is no
 * whole frame, or more than the session may take now, is kept in a buffer of the session's own. So an idle
 * connection holds no buffer.
 *
 * Descriptors belong to the frame whose flag says so, the oldest to the first. The kernel hands over the
 * descriptors of one send with its first bytes and stops reading after it: so one read brings those of one
 * frame at most, and once all whole frames are handled, only the frame that is not complete can still claim
 * some. More than one comes only where there is a GPU: chunks of device memory. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/request.h"
#include "daemon/rpc/session.h"

enum {
	OUTPUT_SOFT_BYTES = 64 * 1024, /* replies that wait: above, no requests are taken */
	INPUT_MIN_BYTES = 4096,
	DESCRIPTORS = KVC_GPU_CHUNKS_MAX, /* taken in at a time; the kernel discards more, and says so */
};

bool kvc_session_may_take(const struct kvc_session *session)
{
	return session->inflight < session->limits.inflight && session->opening == 0 &&
	       kvc_output_pending(&session->out) < OUTPUT_SOFT_BYTES;
}

bool kvc_session_wants_input(const struct kvc_session *session)
{
	return session->filling || session->skip_bytes || kvc_session_may_take(session);
}

static void fds_close(const int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

bool kvc_session_fds_are(struct kvc_session *session, const struct kvc_frame *frame, uint32_t expected)
{
	uint32_t came = frame->flags & KVC_FRAME_FD ? session->fds[0]->count : 0;

	if (came == expected)
		return true;
	kvc_session_drop(session, KVC_DROP_DESCRIPTOR,
	                 "a request with another number of descriptors than it says");
	return false;
}

void kvc_session_fd_done(struct kvc_session *session)
{
	struct kvc_fds *oldest = session->fds[0];

	KVC_PRE(session->fd_count > 0);
	fds_close(oldest->fds, oldest->count);
	kvc_free(oldest);
	session->fds[0] = session->fds[1];
	session->fd_count--;
}

void kvc_session_input_close(struct kvc_session *session)
{
	while (session->fd_count)
		kvc_session_fd_done(session);
	kvc_free(session->in.data);
	session->in = (struct kvc_input){0};
	session->skip_bytes = 0;
}

/* ---- what is kept -------------------------------------------------------------------------- */

static bool input_reserve(struct kvc_input *in, size_t bytes)
{
	uint8_t *data;

	if (bytes <= in->capacity)
		return true;
	bytes = bytes > INPUT_MIN_BYTES ? bytes : INPUT_MIN_BYTES;
	data = kvc_realloc(in->data, 1, bytes);
	if (!data)
		return false;
	in->data = data;
	in->capacity = bytes;
	return true;
}

/* Length of the frame that begins there, as far as it is known: what the buffer must hold to go on. */
static size_t frame_bytes(const uint8_t *data, size_t bytes)
{
	struct kvc_frame frame;

	if (bytes < KVC_FRAME_HEADER_BYTES || kvc_frame_decode(data, &frame, NULL) != KVC_OK)
		return INPUT_MIN_BYTES;
	return KVC_FRAME_HEADER_BYTES + frame.body_bytes;
}

/* Keep the rest of what was received. `data` may lie in the session's own buffer. */
static void keep(struct kvc_session *session, const uint8_t *data, size_t bytes)
{
	struct kvc_input *in = &session->in;
	bool own = in->data != NULL;
	size_t needed = frame_bytes(data, bytes);

	if (bytes == 0) {
		kvc_free(in->data);
		*in = (struct kvc_input){0};
		return;
	}
	if (own)
		memmove(in->data, data, bytes);
	if (!input_reserve(in, needed > bytes ? needed : bytes)) {
		kvc_session_drop(session, KVC_DROP_NO_MEMORY, "no memory for its message");
		return;
	}
	if (!own)
		memcpy(in->data, data, bytes);
	in->used = bytes;
}

/* ---- handling ------------------------------------------------------------------------------ */

/* Bytes of a payload: into the buffer of the request that it is for, or nowhere. */
static size_t payload_take(struct kvc_session *session, const uint8_t *data, size_t bytes)
{
	if (session->filling)
		return kvc_request_fill(session->filling, data, bytes);
	bytes = bytes < session->skip_bytes ? bytes : (size_t)session->skip_bytes;
	session->skip_bytes -= bytes;
	return bytes;
}

/* As early as possible: a client that speaks something else is told so by the end of the connection. */
static bool magic_is_wrong(const uint8_t *data, size_t bytes)
{
	static const uint8_t magic[4] = {'K', 'V', 'C', 'F'};

	return memcmp(data, magic, bytes < sizeof magic ? bytes : sizeof magic) != 0;
}

/* Handle the frame at the start. 0: it is not complete, or was a violation. */
static size_t frame_take(struct kvc_session *session, const uint8_t *data, size_t bytes)
{
	const char *why = "bad magic: not a kvcellar frame";
	struct kvc_frame frame;
	size_t needed;

	if (magic_is_wrong(data, bytes)) {
		kvc_session_drop(session, KVC_DROP_BAD_FRAME, why);
		return 0;
	}
	if (bytes < KVC_FRAME_HEADER_BYTES)
		return 0;
	if (kvc_frame_decode(data, &frame, &why) != KVC_OK) {
		kvc_session_drop(session, KVC_DROP_BAD_FRAME, why);
		return 0;
	}
	if (frame.flags & KVC_FRAME_REPLY || frame.status) {
		kvc_session_drop(session, KVC_DROP_BAD_FRAME, "a reply where a request was expected");
		return 0;
	}
	needed = KVC_FRAME_HEADER_BYTES + frame.body_bytes;
	if (bytes < needed)
		return 0;
	kvc_session_frame(session, &frame,
	                  (struct kvc_body){data + KVC_FRAME_HEADER_BYTES, frame.body_bytes});
	return needed;
}

/* Handle all that is whole; returns how far that went. */
static size_t handle(struct kvc_session *session, const uint8_t *data, size_t bytes)
{
	size_t done = 0;

	while (done < bytes && kvc_session_is_open(session)) {
		size_t step;

		if (session->filling || session->skip_bytes)
			step = payload_take(session, data + done, bytes - done);
		else if (kvc_session_may_take(session))
			step = frame_take(session, data + done, bytes - done);
		else
			break;
		if (step == 0)
			break;
		done += step;
	}
	return done;
}

/* A descriptor that waits must be for the frame that is not complete yet. */
static bool descriptor_is_wrong(const struct kvc_session *session, const uint8_t *rest, size_t bytes)
{
	struct kvc_frame frame;

	if (session->fd_count == 0 || !kvc_session_wants_input(session))
		return false;
	if (session->fd_count > 1 || bytes == 0)
		return true;
	return bytes >= KVC_FRAME_HEADER_BYTES && kvc_frame_decode(rest, &frame, NULL) == KVC_OK &&
	       !(frame.flags & KVC_FRAME_FD);
}

/* The clock runs while something that began is not complete, unless it is we who do not take it. */
static void pace_update(struct kvc_session *session, bool began)
{
	bool waiting =
	        began || session->filling || session->skip_bytes || session->state == KVC_SESSION_HELLO;

	if (!waiting || !kvc_session_wants_input(session))
		kvc_session_pace_stop(session, &session->in_pace);
	else if (!session->in_pace.due_ms)
		kvc_session_pace_start(session, &session->in_pace);
}

static void handle_and_keep(struct kvc_session *session, const uint8_t *data, size_t bytes)
{
	size_t done = handle(session, data, bytes);

	if (!kvc_session_is_open(session))
		return;
	if (done && session->state == KVC_SESSION_READY && !session->filling && !session->skip_bytes)
		kvc_session_pace_stop(session, &session->in_pace); /* what began before is complete */
	if (descriptor_is_wrong(session, data + done, bytes - done)) {
		kvc_session_drop(session, KVC_DROP_DESCRIPTOR,
		                 "a descriptor without a frame that announces it");
		return;
	}
	keep(session, data + done, bytes - done);
	if (kvc_session_is_open(session))
		pace_update(session, session->in.used > 0);
}

void kvc_session_resume(struct kvc_session *session)
{
	if (session->in.used && kvc_session_wants_input(session))
		handle_and_keep(session, session->in.data, session->in.used);
}

/* ---- receiving ----------------------------------------------------------------------------- */

/* Descriptors of one send. More than a frame may have, or some while those of two frames wait, is a
 * violation: all are closed. */
static const char *descriptors_take(struct kvc_session *session, const int *fds, size_t count)
{
	size_t most = session->rpc->gpu_count ? KVC_GPU_CHUNKS_MAX : 1;
	struct kvc_fds *taken = NULL;

	if (count >= 1 && count <= most && session->fd_count < KVC_SESSION_FDS)
		taken = kvc_calloc(1, sizeof *taken + count * sizeof *fds);
	if (!taken) {
		fds_close(fds, count);
		return "more descriptors with a frame than can be taken in";
	}
	taken->count = (uint32_t)count;
	memcpy(taken->fds, fds, count * sizeof *fds);
	session->fds[session->fd_count++] = taken;
	return NULL;
}

static const char *control_take(struct kvc_session *session, struct msghdr *message)
{
	const char *wrong = NULL;

	for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control;
	     control = CMSG_NXTHDR(message, control)) {
		int fds[DESCRIPTORS];
		size_t bytes = control->cmsg_len - CMSG_LEN(0);
		const char *found;

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
			continue;
		KVC_INVARIANT(bytes <= sizeof fds);
		memcpy(fds, CMSG_DATA(control), bytes);
		found = descriptors_take(session, fds, bytes / sizeof(int));
		wrong = wrong ? wrong : found;
	}
	return message->msg_flags & MSG_CTRUNC ? "descriptors that could not be taken in" : wrong;
}

/* Where the next bytes go: first the rest of a payload or of a frame, then the shared buffer. */
static size_t targets(struct kvc_session *session, struct iovec iov[2])
{
	struct kvc_input *in = &session->in;
	size_t count = 0;

	if (in->used) {
		KVC_INVARIANT(!session->filling && in->used < in->capacity);
		iov[0] = (struct iovec){in->data + in->used, in->capacity - in->used};
		return 1;
	}
	if (session->filling)
		iov[count++] = kvc_request_fill_room(session->filling);
	iov[count++] = (struct iovec){session->rpc->read_buffer, KVC_RPC_READ_BYTES};
	return count;
}

static ssize_t receive(struct kvc_session *session, struct iovec *iov, size_t count, const char **wrong)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS)];
	} control;
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = count, .msg_control = &control};
	ssize_t received;

	message.msg_controllen = CMSG_LEN(sizeof(int) * DESCRIPTORS);
	do
		received = recvmsg(session->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (received < 0 && errno == EINTR);
	if (received >= 0)
		*wrong = control_take(session, &message);
	return received;
}

/* `bytes` lie in the targets: the payload's own part first, if one is being filled. */
static void received_handle(struct kvc_session *session, const struct iovec *iov, size_t count, size_t bytes)
{
	if (session->in.used) {
		session->in.used += bytes;
		handle_and_keep(session, session->in.data, session->in.used);
		return;
	}
	if (count == 2) {
		size_t filled = bytes < iov[0].iov_len ? bytes : iov[0].iov_len;

		kvc_session_pace_progress(session, &session->in_pace, filled);
		kvc_request_filled(session->filling, filled);
		bytes -= filled;
	} else if (session->skip_bytes) {
		kvc_session_pace_progress(session, &session->in_pace, bytes);
	}
	handle_and_keep(session, session->rpc->read_buffer, bytes);
}

void kvc_session_read(struct kvc_session *session)
{
	struct iovec iov[2];
	const char *wrong = NULL;
	size_t count;
	ssize_t received;

	kvc_session_resume(session); /* so that what is kept is the begin of one frame */
	if (!kvc_session_is_open(session) || !kvc_session_wants_input(session))
		return;
	count = targets(session, iov);
	received = receive(session, iov, count, &wrong);
	if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return;
	if (received < 0 && errno != ECONNRESET) {
		kvc_session_drop(session, KVC_DROP_SOCKET, strerror(errno));
		return;
	}
	if (received <= 0) {
		kvc_session_hangup(session);
		return;
	}
	kvc_stat_add(session->rpc->cells.bytes_in, received);
	if (wrong) {
		kvc_session_drop(session, KVC_DROP_DESCRIPTOR, wrong);
		return;
	}
	received_handle(session, iov, count, (size_t)received);
}
