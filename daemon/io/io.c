/* The engine of requests: order, depth, resuming and retrying. What goes to the kernel, and how, is the
 * backend's (io_uring.c, io_threads.c).
 *
 *   submit --> waiting (reads | writes) --> backend --> complete --> done
 *                 ^   ^                                    |
 *                 |   +---- short: the rest ---------------+
 *                 +-- retry timer <-- EAGAIN and the like -+
 *
 * Requests belong to their callers; this file owns the queues and the in-flight count. A result is never
 * better than what the kernel said: an error stays an error, also after retries. */
#include "daemon/io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "daemon/io/io_private.h"

enum {
	READS_IN_ROW = 8, /* then a waiting write gets its turn */
	RETRIES_MAX = 50, /* without progress */
	RETRY_MS = 2,
	NARROW_BYTES = 1 << 20,
};

static bool moves_data(const struct kvc_io_req *req)
{
	return req->op == KVC_IO_READ || req->op == KVC_IO_WRITE;
}

/* --- start -------------------------------------------------------------------------------------- */

static struct kvc_list *queue_of(struct kvc_io *io, const struct kvc_io_req *req)
{
	return req->op == KVC_IO_READ ? &io->reads : &io->writes;
}

static void start_soon(struct kvc_io *io)
{
	kvc_loop_defer(io->loop, &io->start);
}

/* Reads first, but writes do not wait for ever. */
static struct kvc_io_req *next_waiting(struct kvc_io *io)
{
	bool write = !kvc_list_empty(&io->writes);
	struct kvc_list *node = NULL;

	if (!write || io->reads_in_row < READS_IN_ROW)
		node = kvc_list_pop(&io->reads);
	io->reads_in_row = node && write ? io->reads_in_row + 1 : 0;
	if (!node)
		node = kvc_list_pop(&io->writes);
	return node ? kvc_container_of(node, struct kvc_io_req, node) : NULL;
}

static void in_flight_add(struct kvc_io *io, int32_t n)
{
	io->in_flight += (uint32_t)n;
	kvc_stat_set(io->count.in_flight, io->in_flight);
	if (io->in_flight > kvc_stat_get(io->count.depth_reached))
		kvc_stat_set(io->count.depth_reached, io->in_flight);
}

/* All that came together in this turn goes to the kernel together. */
static void start_run(struct kvc_task *task)
{
	struct kvc_io *io = kvc_container_of(task, struct kvc_io, start);
	struct kvc_io_req *req;

	while (io->in_flight < io->depth && (req = next_waiting(io))) {
		kvc_stat_add(io->count.queued, -1);
		if (kvc_io_fault_hold(req))
			continue;
		in_flight_add(io, 1);
		if (!kvc_io_fault_apply(io, req))
			io->ops->start(io, req);
	}
	io->ops->flush(io);
}

static void enqueue(struct kvc_io *io, struct kvc_io_req *req)
{
	kvc_list_push(queue_of(io, req), &req->node);
	kvc_stat_add(io->count.queued, 1);
	start_soon(io);
}

void kvc_io_requeue(struct kvc_io_req *req)
{
	enqueue(req->io, req);
}

static void req_check(const struct kvc_io_req *req)
{
	KVC_PRE(req->done && req->file);
	KVC_PRE(req->op == KVC_IO_SYNC ? req->iov_count == 0 : req->iov_count > 0 && req->iov_count <= 1024);
	KVC_PRE(req->offset % KVC_IO_ALIGN == 0);
	for (uint32_t i = 0; i < req->iov_count; i++) {
		KVC_PRE((uintptr_t)req->iov[i].iov_base % KVC_IO_ALIGN == 0);
		KVC_PRE(req->iov[i].iov_len % KVC_IO_ALIGN == 0 && req->iov[i].iov_len > 0);
	}
}

void kvc_io_submit(struct kvc_io *io, struct kvc_io_req *req)
{
	req_check(req);
	req->io = io;
	req->since_ms = kvc_loop_now_ms(io->loop);
	req->transferred = 0;
	req->wanted = 0;
	for (uint32_t i = 0; i < req->iov_count; i++)
		req->wanted += req->iov[i].iov_len;
	req->narrow.iov_len = 0;
	req->retries = 0;
	req->direct = req->file->direct;
	req->error = 0;
	enqueue(io, req);
}

struct kvc_io_part kvc_io_part(const struct kvc_io_req *req)
{
	bool narrow = req->narrow.iov_len > 0;

	return (struct kvc_io_part){
	        .iov = narrow ? &req->narrow : req->iov,
	        .iov_count = narrow ? 1 : req->iov_count,
	        .offset = req->offset + req->transferred,
	};
}

int32_t kvc_io_perform(const struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	int fd = req->file->fd;
	int count = (int)part.iov_count;
	off_t offset = (off_t)part.offset;
	ssize_t result = -1;

	switch (req->op) {
	case KVC_IO_READ:
		result = preadv(fd, part.iov, count, offset);
		break;
	case KVC_IO_WRITE:
		result = pwritev(fd, part.iov, count, offset);
		break;
	case KVC_IO_SYNC:
		result = fdatasync(fd);
		break;
	case KVC_IO_ALLOCATE:
		result = fallocate(fd, 0, offset, (off_t)part.iov->iov_len);
		break;
	}
	return result < 0 ? -errno : (int32_t)result;
}

/* --- complete ----------------------------------------------------------------------------------- */

static void finish(struct kvc_io_req *req, kvc_status status, int error)
{
	req->status = status;
	req->error = error;
	if (error)
		kvc_stat_add(req->io->count.errors, 1);
	req->done(req);
}

/* Ask for no more than 1 MiB at a time from now on: some kernels answer EAGAIN to what they would have to
 * split. */
static void narrow_set(struct kvc_io_req *req)
{
	if (!moves_data(req))
		return;
	req->narrow = *req->iov;
	if (req->narrow.iov_len > NARROW_BYTES)
		req->narrow.iov_len = NARROW_BYTES;
}

static void retry_fired(struct kvc_timer *timer)
{
	struct kvc_io *io = kvc_container_of(timer, struct kvc_io, retry);
	struct kvc_list *node;

	while ((node = kvc_list_pop(&io->again)))
		enqueue(io, kvc_container_of(node, struct kvc_io_req, node));
}

/* Without a timer, for want of memory, the retry comes at once. */
static void retry_later(struct kvc_io *io, struct kvc_io_req *req, int error)
{
	if (++req->retries > RETRIES_MAX) {
		finish(req, kvc_status_of_errno(error), error);
		return;
	}
	kvc_stat_add(io->count.retries, 1);
	narrow_set(req);
	kvc_list_push(&io->again, &req->node);
	if (!io->retry.heap_slot && kvc_timer_start(io->loop, &io->retry, RETRY_MS))
		retry_fired(&io->retry);
}

/* EINVAL for an aligned request: this file system takes no O_DIRECT after all. True: try again without;
 * others that were under way come here too. */
static bool direct_dropped(struct kvc_io *io, struct kvc_io_req *req)
{
	struct kvc_file *file = req->file;
	int flags = file->direct ? fcntl(file->fd, F_GETFL) : -1;

	if (!req->direct || (file->direct && (flags < 0 || fcntl(file->fd, F_SETFL, flags & ~O_DIRECT))))
		return false;
	kvc_stat_add(io->count.buffered_files, file->direct);
	file->direct = req->direct = false;
	return true;
}

static void failed(struct kvc_io *io, struct kvc_io_req *req, int error)
{
	switch (error) {
	case EAGAIN:
	case EBUSY:
	case EINTR:
	case ECANCELED: /* the kernel's worker went away, not the request */
		retry_later(io, req, error);
		break;
	case EINVAL:
		if (moves_data(req) && direct_dropped(io, req)) {
			enqueue(io, req);
			break;
		}
		/* fall through */
	default:
		finish(req, kvc_status_of_errno(error), error);
	}
}

/* Take `bytes` off the front of the rest. */
static void advance(struct kvc_io_req *req, uint64_t bytes)
{
	req->transferred += bytes;
	req->retries = 0;
	while (bytes > 0 && bytes >= req->iov->iov_len) {
		bytes -= req->iov->iov_len;
		req->iov++;
		req->iov_count--;
	}
	if (bytes > 0) {
		req->iov->iov_base = (uint8_t *)req->iov->iov_base + bytes;
		req->iov->iov_len -= bytes;
	}
	if (req->narrow.iov_len > 0 && req->iov_count > 0)
		narrow_set(req);
}

/* The rest must begin aligned: of a short transfer whole pages count, the torn one is transferred again. */
static void transferred(struct kvc_io *io, struct kvc_io_req *req, uint64_t bytes)
{
	uint64_t whole = bytes & ~(uint64_t)(KVC_IO_ALIGN - 1);

	KVC_INVARIANT(req->transferred + bytes <= req->wanted);
	if (req->transferred + bytes == req->wanted) {
		req->transferred = req->wanted;
		finish(req, KVC_OK, 0);
	} else if (whole > 0) {
		kvc_stat_add(io->count.short_transfers, req->narrow.iov_len == 0);
		advance(req, whole);
		enqueue(io, req);
	} else if (req->op == KVC_IO_READ) {
		req->transferred += bytes;
		finish(req, KVC_MISS, 0);
	} else {
		/* What stops a write inside a page without an error is a limit or a full disk. */
		retry_later(io, req, ENOSPC);
	}
}

void kvc_io_complete(struct kvc_io *io, struct kvc_io_req *req, int32_t result)
{
	KVC_INVARIANT(io->in_flight > 0);
	in_flight_add(io, -1);
	req->result = result;
	if (result < 0)
		failed(io, req, -result);
	else if (moves_data(req))
		transferred(io, req, (uint64_t)result);
	else
		finish(req, KVC_OK, 0);
	start_soon(io);
}

/* --- life --------------------------------------------------------------------------------------- */

static void stats_open(struct kvc_io *io, struct kvc_stats *stats)
{
	io->count.depth_reached = kvc_stats_cell(stats, "io.depth_reached");
	io->count.in_flight = kvc_stats_cell(stats, "io.in_flight");
	io->count.queued = kvc_stats_cell(stats, "io.queued");
	io->count.retries = kvc_stats_cell(stats, "io.retries");
	io->count.short_transfers = kvc_stats_cell(stats, "io.short_transfers");
	io->count.errors = kvc_stats_cell(stats, "io.errors");
	io->count.buffered_files = kvc_stats_cell(stats, "io.buffered_files");
	io->count.registered = kvc_stats_cell(stats, "io.registered_bytes");
	io->count.fixed = kvc_stats_cell(stats, "io.registered_requests");
	kvc_stat_set(kvc_stats_cell(stats, "io.depth"), io->depth);
	kvc_stat_set(kvc_stats_cell(stats, "io.uring"), io->ops == &kvc_io_uring_ops);
}

void kvc_io_memory(struct kvc_io *io, void *base, uint64_t bytes, uint64_t piece_bytes)
{
	if (io->ops->memory)
		io->ops->memory(io, base, bytes, piece_bytes);
}

static kvc_status backend_open(struct kvc_io *io, enum kvc_io_backend backend)
{
	kvc_status status;

	if (backend != KVC_IO_THREADS) {
		io->ops = &kvc_io_uring_ops;
		status = io->ops->open(io);
		if (status == KVC_OK || backend == KVC_IO_URING)
			return status;
		kvc_warn("no io_uring (%s): threads do the disk I/O", kvc_status_text(status));
	}
	io->ops = &kvc_io_threads_ops;
	return io->ops->open(io);
}

kvc_status kvc_io_open(struct kvc_loop *loop, const struct kvc_io_options *options, struct kvc_stats *stats,
                       struct kvc_io **io)
{
	struct kvc_io *opened = kvc_calloc(1, sizeof *opened);
	kvc_status status;

	KVC_PRE(options->depth > 0 && options->depth <= KVC_IO_DEPTH_MAX);
	if (!opened)
		return KVC_NO_MEMORY;
	opened->loop = loop;
	opened->depth = options->depth;
	opened->start.run = start_run;
	opened->retry.fire = retry_fired;
	kvc_list_init(&opened->reads);
	kvc_list_init(&opened->writes);
	kvc_list_init(&opened->again);
	status = backend_open(opened, options->backend);
	if (status) {
		kvc_free(opened);
		return status;
	}
	stats_open(opened, stats);
	*io = opened;
	return KVC_OK;
}

void kvc_io_close(struct kvc_io *io)
{
	KVC_PRE(!io->in_flight && kvc_list_empty(&io->reads) && kvc_list_empty(&io->writes));
	KVC_PRE(kvc_list_empty(&io->again));
	if (io->start.queued)
		kvc_list_remove(&io->start.node);
	io->ops->close(io);
	kvc_free(io);
}

const char *kvc_io_backend_name(const struct kvc_io *io)
{
	return io->ops->name;
}
