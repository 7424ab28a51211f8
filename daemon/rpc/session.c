/* The life of a connection: see session.h. This file moves it between states, sends what is queued, and
 * watches the socket for what the session can use. */
#include "daemon/rpc/session.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/device.h"
#include "daemon/rpc/request.h"

/* Progress that restarts a pace: 256 KiB. */
#define PACE_BYTES (256u * 1024u)

/* ---- states -------------------------------------------------------------------------------- */

void kvc_session_move(struct kvc_session *session, enum kvc_session_state to)
{
	static const uint8_t allowed[] = {
	        [KVC_SESSION_HELLO] =
	                1u << KVC_SESSION_READY | 1u << KVC_SESSION_ENDING | 1u << KVC_SESSION_DRAINING,
	        [KVC_SESSION_READY] = 1u << KVC_SESSION_ENDING | 1u << KVC_SESSION_DRAINING,
	        [KVC_SESSION_ENDING] = 1u << KVC_SESSION_DRAINING,
	        [KVC_SESSION_DRAINING] = 1u << KVC_SESSION_CLOSED,
	        [KVC_SESSION_CLOSED] = 0,
	};

	KVC_INVARIANT(allowed[session->state] >> to & 1u);
	session->state = to;
}

void kvc_session_wake(struct kvc_session *session)
{
	kvc_loop_defer(session->rpc->loop, &session->tick);
}

/* Nothing is read or sent any more: stop the clocks, forget what was not handled, cancel what runs. */
static void drain(struct kvc_session *session)
{
	kvc_session_move(session, KVC_SESSION_DRAINING);
	kvc_watch_close(session->watch);
	session->watch = NULL;
	kvc_session_pace_stop(session, &session->in_pace);
	kvc_session_pace_stop(session, &session->out_pace);
	kvc_session_input_close(session);
	kvc_output_close(&session->out);
	kvc_requests_cancel(session);
	kvc_devices_cancel(session);
	kvc_session_wake(session);
}

void kvc_session_drop(struct kvc_session *session, enum kvc_drop drop, const char *why)
{
	if (session->state >= KVC_SESSION_DRAINING)
		return;
	kvc_rpc_count_drop(session->rpc, drop);
	kvc_rpc_warn(session->rpc, "connection %llu of uid %u dropped: %s",
	             (unsigned long long)session->number, (unsigned)session->uid, why);
	drain(session);
}

void kvc_session_hangup(struct kvc_session *session)
{
	if (session->state >= KVC_SESSION_DRAINING)
		return;
	kvc_stat_add(session->rpc->cells.hangups, 1);
	kvc_debug("connection %llu of uid %u closed by the client", (unsigned long long)session->number,
	          (unsigned)session->uid);
	drain(session);
}

void kvc_session_end(struct kvc_session *session)
{
	if (!kvc_session_is_open(session))
		return;
	kvc_session_move(session, KVC_SESSION_ENDING);
	kvc_session_pace_stop(session, &session->in_pace);
	kvc_session_input_close(session);
	kvc_session_wake(session);
}

/* ---- paces --------------------------------------------------------------------------------- */

static bool paced(const struct kvc_session *session)
{
	return session->in_pace.due_ms || session->out_pace.due_ms;
}

void kvc_session_pace_start(struct kvc_session *session, struct kvc_pace *pace)
{
	struct kvc_rpc *rpc = session->rpc;

	if (!paced(session))
		kvc_list_push(&rpc->paced, &session->paced_node);
	*pace = (struct kvc_pace){.due_ms = kvc_loop_now_ms(rpc->loop) + rpc->limits.stall_ms};
	if (kvc_rpc_sweep_start(rpc) != KVC_OK)
		kvc_session_drop(session, KVC_DROP_NO_MEMORY, "no memory for its timer");
}

void kvc_session_pace_progress(struct kvc_session *session, struct kvc_pace *pace, uint64_t bytes)
{
	if (!pace->due_ms)
		return;
	pace->bytes += bytes;
	if (pace->bytes >= PACE_BYTES)
		kvc_session_pace_start(session, pace);
}

void kvc_session_pace_stop(struct kvc_session *session, struct kvc_pace *pace)
{
	if (!pace->due_ms)
		return;
	pace->due_ms = 0;
	if (!paced(session))
		kvc_list_remove(&session->paced_node);
}

void kvc_session_sweep(struct kvc_session *session, uint64_t now_ms)
{
	if (session->out_pace.due_ms && session->out_pace.due_ms <= now_ms)
		kvc_session_drop(session, KVC_DROP_SLOW_READER, "it does not read its replies");
	else if (session->in_pace.due_ms && session->in_pace.due_ms <= now_ms)
		kvc_session_drop(
		        session,
		        session->state == KVC_SESSION_HELLO ? KVC_DROP_NO_HELLO : KVC_DROP_SLOW_WRITER,
		        session->state == KVC_SESSION_HELLO ? "no hello in time"
		                                            : "a message that began did not come in time");
}

void kvc_session_paces_restart(struct kvc_session *session, uint64_t now_ms)
{
	uint64_t due_ms = now_ms + session->rpc->limits.stall_ms;

	if (session->in_pace.due_ms)
		session->in_pace.due_ms = due_ms;
	if (session->out_pace.due_ms)
		session->out_pace.due_ms = due_ms;
}

/* ---- limits -------------------------------------------------------------------------------- */

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Requests in flight are not refused above their limit and deadlines are cut: those follow the server's. */
void kvc_session_limits_change(struct kvc_session *session)
{
	const struct kvc_rpc_limits had = session->limits;
	struct kvc_rpc_limits *limits = &session->limits;

	*limits = session->rpc->limits;
	limits->batch = (uint32_t)larger(limits->batch, had.batch);
	limits->namespaces = (uint32_t)larger(limits->namespaces, had.namespaces);
	limits->regions = (uint32_t)larger(limits->regions, had.regions);
	limits->region_bytes = larger(limits->region_bytes, had.region_bytes);
	limits->inline_bytes = larger(limits->inline_bytes, had.inline_bytes);
}

/* ---- replies ------------------------------------------------------------------------------- */

uint8_t *kvc_session_reply_room(struct kvc_session *session, size_t body_bytes)
{
	uint8_t *room;

	KVC_PRE(kvc_session_can_answer(session));
	room = kvc_output_reserve(&session->out, KVC_FRAME_HEADER_BYTES + body_bytes);
	if (!room) {
		kvc_session_drop(session, KVC_DROP_NO_MEMORY, "no memory for its reply");
		return NULL;
	}
	return room + KVC_FRAME_HEADER_BYTES;
}

void kvc_session_reply(struct kvc_session *session, const struct kvc_reply *reply)
{
	struct kvc_output *out = &session->out;
	struct kvc_frame frame = {
	        .verb = reply->verb,
	        .flags = KVC_FRAME_REPLY,
	        .body_bytes = (uint32_t)reply->body_bytes,
	        .status = (uint32_t)reply->status,
	        .request_id = reply->request_id,
	        .payload_bytes = reply->payload ? reply->payload->used : 0,
	};

	KVC_PRE(reply->body_bytes <= KVC_FRAME_BODY_MAX);
	kvc_frame_encode(&frame, out->data + out->tail);
	kvc_output_commit(out, KVC_FRAME_HEADER_BYTES + reply->body_bytes);
	if (reply->payload)
		kvc_output_payload(out, reply->payload);
}

void kvc_session_refuse(struct kvc_session *session, const struct kvc_frame *frame, kvc_status status,
                        const struct kvc_problem *problem)
{
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id, .status = status};
	uint8_t *room = kvc_session_reply_room(session, KVC_PACK_FAILURE_MAX);

	KVC_PRE(status != KVC_OK);
	kvc_stat_add(session->rpc->cells.refused[status], 1);
	kvc_debug("connection %llu: %s refused with %s: %s", (unsigned long long)session->number,
	          kvc_verb_name(frame->verb), kvc_status_name(status), problem->detail);
	if (!room)
		return;
	reply.body_bytes = kvc_pack_failure(problem, room);
	kvc_session_reply(session, &reply);
}

/* ---- sending and watching ------------------------------------------------------------------ */

/* One attempt a turn: what the socket does not take waits until it is writable. */
static void flush(struct kvc_session *session)
{
	ssize_t sent;

	if (!kvc_session_can_answer(session) || kvc_output_empty(&session->out))
		return;
	sent = kvc_output_send(&session->out, session->fd);
	if (sent == -EPIPE || sent == -ECONNRESET) {
		kvc_session_hangup(session);
		return;
	}
	if (sent < 0) {
		kvc_session_drop(session, KVC_DROP_SOCKET, strerror((int)-sent));
		return;
	}
	kvc_stat_add(session->rpc->cells.bytes_out, sent);
	if (kvc_output_empty(&session->out))
		kvc_session_pace_stop(session, &session->out_pace);
	else if (!session->out_pace.due_ms)
		kvc_session_pace_start(session, &session->out_pace);
	else
		kvc_session_pace_progress(session, &session->out_pace, (uint64_t)sent);
}

/* Ask for what can be used only: every change costs a system call. */
static void watch_update(struct kvc_session *session)
{
	bool readable = kvc_session_is_open(session) && kvc_session_wants_input(session);
	bool writable = !kvc_output_empty(&session->out);

	if (readable == session->watch_read && writable == session->watch_write)
		return;
	session->watch_read = readable;
	session->watch_write = writable;
	kvc_watch_set(session->watch, readable, writable);
}

static void session_free(struct kvc_session *session)
{
	struct kvc_rpc *rpc = session->rpc;

	kvc_session_move(session, KVC_SESSION_CLOSED);
	kvc_session_objects_close(session);
	close(session->fd); /* last: see the top of session.h */
	kvc_list_remove(&session->node);
	kvc_free(session);
	kvc_rpc_session_ended(rpc);
}

/* Whether the server, or a refusal, lets the session go now that all is answered. */
static bool finished(const struct kvc_session *session)
{
	if (session->inflight || !kvc_output_empty(&session->out))
		return false;
	return session->state == KVC_SESSION_ENDING || session->rpc->state == KVC_RPC_STOPPING;
}

/* Everything that follows from a change, in one place. May free the session. */
static void look_after(struct kvc_session *session)
{
	if (kvc_session_is_open(session))
		kvc_session_resume(session);
	flush(session);
	if (session->state < KVC_SESSION_DRAINING && finished(session))
		drain(session);
	if (session->state < KVC_SESSION_DRAINING)
		watch_update(session);
	else if (session->inflight == 0 && kvc_devices_close(session) && !session->tick.queued)
		session_free(session);
}

static void tick_run(struct kvc_task *task)
{
	look_after(kvc_container_of(task, struct kvc_session, tick));
}

static void socket_event(void *context, bool readable, bool writable)
{
	struct kvc_session *session = context;

	(void)writable; /* looking after it sends */
	if (readable && kvc_session_is_open(session))
		kvc_session_read(session);
	look_after(session);
}

/* ---- begin --------------------------------------------------------------------------------- */

static struct kvc_session *session_make(struct kvc_rpc *rpc, int fd, uid_t uid)
{
	struct kvc_session *session = kvc_calloc(1, sizeof *session);

	if (!session)
		return NULL;
	session->rpc = rpc;
	session->fd = fd;
	session->uid = uid;
	session->limits = rpc->limits;
	session->tick.run = tick_run;
	kvc_list_init(&session->node);
	kvc_list_init(&session->paced_node);
	kvc_list_init(&session->requests);
	kvc_list_init(&session->detaches);
	kvc_list_init(&session->namespaces);
	kvc_list_init(&session->regions);
	kvc_list_init(&session->devices);
	kvc_output_init(&session->out);
	return session;
}

kvc_status kvc_session_open(struct kvc_rpc *rpc, int fd, uid_t uid)
{
	struct kvc_session *session = session_make(rpc, fd, uid);
	kvc_status status;

	if (!session)
		return KVC_NO_MEMORY;
	status = kvc_watch_open(rpc->loop, fd, socket_event, session, &session->watch);
	if (status == KVC_OK && kvc_rpc_sweep_start(rpc) != KVC_OK) {
		kvc_watch_close(session->watch);
		status = KVC_NO_MEMORY;
	}
	if (status != KVC_OK) {
		kvc_free(session);
		return status;
	}
	session->number = rpc->session_number++;
	session->watch_read = true;
	kvc_watch_set(session->watch, true, false);
	kvc_list_push(&rpc->sessions, &session->node);
	rpc->session_count++;
	kvc_stat_set(rpc->cells.connections, rpc->session_count);
	kvc_stat_add(rpc->cells.accepted, 1);
	kvc_session_pace_start(session, &session->in_pace); /* for the hello */
	kvc_debug("connection %llu of uid %u opened", (unsigned long long)session->number, (unsigned)uid);
	return KVC_OK;
}
