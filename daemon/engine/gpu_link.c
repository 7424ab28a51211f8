/* The pair between core and engine: packets out of what wants to be sent, checked packets in.
 *
 * Nothing is queued here: the socket is the only buffer, and the pump makes the next packet when there is
 * room for it. So what waits stays with its owner, where it can still be cancelled. Requests for regions and
 * pools go before jobs. A packet that breaks the rules ends the engine: it may be out of its mind. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/engine/gpu_private.h"

enum { PACKETS_A_TURN = 64 };

/* ---- out ----------------------------------------------------------------------------------- */

/* A peer that is gone is found by reading, after all that it said before. Lack of kernel memory passes: the
 * timer of gpu_process.c pumps again. */
static kvc_status send_failed(struct kvc_gpu *gpu)
{
	switch (errno) {
	case EAGAIN:
		kvc_watch_set(gpu->watch, true, true);
		return KVC_BUSY;
	case EPIPE:
	case ECONNRESET:
	case ENOBUFS:
	case ENOMEM:
	case ETOOMANYREFS:
		return KVC_BUSY;
	default:
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "cannot send to it: %s", strerror(errno));
		return KVC_ENGINE_LOST;
	}
}

kvc_status kvc_gpu_link_send(struct kvc_gpu *gpu, size_t bytes, const int *fds, uint32_t fd_count)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(KVC_GPU_CHUNKS_MAX * sizeof(int))];
	} control = {.room = {0}};
	struct iovec piece = {gpu->out, bytes};
	struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
	ssize_t sent;

	KVC_PRE(fd_count <= KVC_GPU_CHUNKS_MAX && bytes <= sizeof gpu->out);
	if (fd_count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(&control.header), fds, fd_count * sizeof(int));
	}
	do
		sent = sendmsg(gpu->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent < 0 ? send_failed(gpu) : KVC_OK;
}

static void pump_run(struct kvc_task *task)
{
	struct kvc_gpu *gpu = kvc_container_of(task, struct kvc_gpu, pump);
	kvc_status status = KVC_OK;

	if (kvc_list_empty(&gpu->sent) && kvc_list_empty(&gpu->awaited))
		kvc_gpu_progress(gpu); /* its time begins now */
	while (status == KVC_OK && (gpu->state == GPU_RESTORING || gpu->state == GPU_UP)) {
		status = kvc_gpu_memory_send(gpu);
		if (status == KVC_MISS)
			status = kvc_gpu_cancels_send(gpu);
		if (status == KVC_MISS)
			status = kvc_gpu_jobs_send(gpu);
	}
	if (status == KVC_MISS)
		kvc_watch_set(gpu->watch, true, false);
}

void kvc_gpu_pump(struct kvc_gpu *gpu)
{
	if (gpu->state == GPU_RESTORING || gpu->state == GPU_UP)
		kvc_loop_defer(gpu->options.loop, &gpu->pump);
}

/* ---- in ------------------------------------------------------------------------------------ */

/* Text of the engine, for our log: ended, and nothing in it that a terminal would obey. */
static void text_clean(char *text, size_t bytes)
{
	text[bytes - 1] = 0;
	for (; *text; text++) {
		if ((unsigned char)*text < 0x20 || (unsigned char)*text == 0x7F)
			*text = '?';
	}
}

static kvc_status status_of(uint32_t number)
{
	return number > 0 && number < KVC_STATUS_COUNT ? (kvc_status)number : KVC_INTERNAL;
}

/* False: it is no such message, and the engine is being ended. */
static bool fits(struct kvc_gpu *gpu, size_t bytes, size_t right)
{
	if (bytes == right)
		return true;
	kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it sent a message of %zu bytes where %zu are right", bytes,
	             right);
	return false;
}

static void take_ready(struct kvc_gpu *gpu, size_t bytes)
{
	struct kvc_gpu_ready *ready = (struct kvc_gpu_ready *)(void *)gpu->in;

	/* Of another build it may have another size: its version comes first in every one. */
	if ((bytes < offsetof(struct kvc_gpu_ready, sms) || ready->wire == KVC_GPU_WIRE) &&
	    !fits(gpu, bytes, sizeof *ready))
		return;
	if (bytes == sizeof *ready)
		text_clean(ready->name, sizeof ready->name);
	kvc_gpu_ready(gpu, ready);
}

static void take_failed(struct kvc_gpu *gpu, size_t bytes)
{
	struct kvc_gpu_failed *failed = (struct kvc_gpu_failed *)(void *)gpu->in;

	if (!fits(gpu, bytes, sizeof *failed))
		return;
	text_clean(failed->detail, sizeof failed->detail);
	kvc_gpu_fail(gpu, status_of(failed->status), "%s", failed->detail);
}

static void take_reply(struct kvc_gpu *gpu, size_t bytes)
{
	struct kvc_gpu_reply *reply = (struct kvc_gpu_reply *)(void *)gpu->in;

	if (!fits(gpu, bytes, sizeof *reply))
		return;
	text_clean(reply->detail, sizeof reply->detail);
	kvc_gpu_memory_reply(gpu, reply);
}

static void take_done(struct kvc_gpu *gpu, size_t bytes)
{
	const struct kvc_gpu_header *header = (const struct kvc_gpu_header *)(void *)gpu->in;
	size_t right = sizeof *header + (size_t)header->id * sizeof(struct kvc_gpu_result);

	if (fits(gpu, bytes, right))
		kvc_gpu_jobs_results(gpu, (const struct kvc_gpu_result *)(const void *)(header + 1),
		                     header->id);
}

static void gauge_set(struct kvc_gpu *gpu, enum gpu_cell cell, uint64_t value)
{
	kvc_stat_set(gpu->cells[cell], value < INT64_MAX ? (int64_t)value : INT64_MAX);
}

static void take_gauges(struct kvc_gpu *gpu, size_t bytes)
{
	const struct kvc_gpu_gauges *gauges = (const struct kvc_gpu_gauges *)(void *)gpu->in;

	if (!fits(gpu, bytes, sizeof *gauges))
		return;
	gauge_set(gpu, GPU_CELL_PINNED, gauges->pinned_bytes);
	gauge_set(gpu, GPU_CELL_DEVICE, gauges->device_bytes);
	gauge_set(gpu, GPU_CELL_LAUNCHES, gauges->launches);
	gauge_set(gpu, GPU_CELL_LAUNCHED_BLOCKS, gauges->launched_blocks);
}

/* What an engine that starts may say is whether it can; all else comes after. */
static void take(struct kvc_gpu *gpu, size_t bytes)
{
	const struct kvc_gpu_header *header = (const struct kvc_gpu_header *)(void *)gpu->in;
	bool ready = gpu->state == GPU_RESTORING || gpu->state == GPU_UP;
	uint32_t type = bytes >= sizeof *header ? header->type : 0;

	if (type == KVC_GPU_FAILED)
		take_failed(gpu, bytes);
	else if (type == KVC_GPU_READY && !ready)
		take_ready(gpu, bytes);
	else if (type == KVC_GPU_REPLY && ready)
		take_reply(gpu, bytes);
	else if (type == KVC_GPU_DONE && ready)
		take_done(gpu, bytes);
	else if (type == KVC_GPU_GAUGES && ready)
		take_gauges(gpu, bytes);
	else
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it sent a message of type %u, %zu bytes, at a wrong time",
		             type, bytes);
}

static bool listens(const struct kvc_gpu *gpu)
{
	return gpu->state == GPU_STARTING || gpu->state == GPU_RESTORING || gpu->state == GPU_UP;
}

/* One packet; false: there is none. A reset is told before the packets that came before it, and only once. */
static bool receive(struct kvc_gpu *gpu)
{
	ssize_t bytes = recv(gpu->fd, gpu->in, sizeof gpu->in, MSG_DONTWAIT | MSG_TRUNC);

	if (bytes > (ssize_t)sizeof gpu->in)
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it sent a message of %zd bytes", bytes);
	else if (bytes > 0)
		take(gpu, (size_t)bytes);
	else if (bytes == 0)
		kvc_gpu_ended(gpu);
	else if (errno != EINTR && errno != ECONNRESET && errno != EAGAIN)
		kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "cannot receive from it: %s", strerror(errno));
	else
		return errno != EAGAIN;
	return listens(gpu);
}

void kvc_gpu_link_drain(struct kvc_gpu *gpu)
{
	while (listens(gpu) && receive(gpu))
		;
}

static void link_ready(void *context, bool readable, bool writable)
{
	struct kvc_gpu *gpu = context;

	for (int i = 0; readable && i < PACKETS_A_TURN && listens(gpu); i++)
		readable = receive(gpu);
	if (writable)
		kvc_gpu_pump(gpu);
}

/* ---- life ---------------------------------------------------------------------------------- */

kvc_status kvc_gpu_link_open(struct kvc_gpu *gpu, int *theirs)
{
	int pair[2];
	kvc_status status;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return kvc_status_of_errno(errno);
	status = kvc_watch_open(gpu->options.loop, pair[0], link_ready, gpu, &gpu->watch);
	if (status != KVC_OK) {
		close(pair[0]);
		close(pair[1]);
		return status;
	}
	gpu->pump.run = pump_run;
	gpu->fd = pair[0];
	*theirs = pair[1];
	kvc_watch_set(gpu->watch, true, false);
	return KVC_OK;
}

void kvc_gpu_link_close(struct kvc_gpu *gpu)
{
	if (gpu->fd < 0)
		return;
	kvc_watch_close(gpu->watch);
	close(gpu->fd);
	gpu->fd = -1;
	gpu->watch = NULL;
}
