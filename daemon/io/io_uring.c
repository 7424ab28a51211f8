/* The io_uring backend.
 *
 * The loop is woken through a registered eventfd: a ring's own descriptor does not become readable under all
 * set-up flags. A wake-up is a hint: the completion queue is drained until it is empty, and while anything is
 * in flight a slow timer looks too. Submission queue entries are filled as requests start and handed over
 * once a turn. What the kernel does not take at once stays in the queue for the retry timer. A transfer from
 * or to one piece of registered memory says so. */
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/io/io_fault.h"
#include "daemon/io/io_private.h"
#include "daemon/io/uring_memory.h"

enum { LOOK_MS = 250, RETRY_MS = 1 };

struct uring {
	struct kvc_io *io;
	struct io_uring ring;
	int event_fd;
	struct kvc_watch *watch;
	struct kvc_timer look;  /* runs while requests are in flight */
	struct kvc_timer retry; /* runs while the kernel did not take all */
	struct kvc_uring_memory memory;
};

static void uring_flush(struct kvc_io *io)
{
	struct uring *uring = io->backend;

	while (io_uring_sq_ready(&uring->ring) > 0) {
		int taken = kvc_io_fault_enter();

		if (!taken)
			taken = io_uring_submit(&uring->ring);
		if (taken == -EINTR)
			continue;
		if (taken <= 0) {
			kvc_stat_add(io->count.retries, 1);
			kvc_timer_start(io->loop, &uring->retry, RETRY_MS);
			break;
		}
	}
	kvc_stat_set(io->count.registered, (int64_t)kvc_uring_memory_bytes(&uring->memory));
	if (io->in_flight > 0 && !uring->look.heap_slot)
		kvc_timer_start(io->loop, &uring->look, LOOK_MS);
}

static void retry_fired(struct kvc_timer *timer)
{
	uring_flush(kvc_container_of(timer, struct uring, retry)->io);
}

static void uring_drain(struct uring *uring)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&uring->ring, &cqe)) {
		struct kvc_io_req *req = io_uring_cqe_get_data(cqe);
		int32_t result = cqe->res;

		io_uring_cqe_seen(&uring->ring, cqe);
		kvc_io_complete(uring->io, req, result);
	}
}

/* Also the second chance of submissions whose retry timer could not be had. */
static void look_fired(struct kvc_timer *timer)
{
	struct uring *uring = kvc_container_of(timer, struct uring, look);

	uring_drain(uring);
	uring_flush(uring->io);
}

static void event_ready(void *context, bool readable, bool writable)
{
	struct uring *uring = context;
	eventfd_t count;

	(void)readable;
	(void)writable;
	eventfd_read(uring->event_fd, &count); /* resets it; nothing to read is fine */
	uring_drain(uring);
}

/* False: not in registered memory. */
static bool fixed_prepare(struct uring *uring, struct io_uring_sqe *sqe, const struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	int piece = part.iov_count == 1 && part.iov->iov_len <= INT32_MAX
	                    ? kvc_uring_memory_piece(&uring->memory, part.iov)
	                    : -1;

	if (piece < 0)
		return false;
	if (req->op == KVC_IO_READ)
		io_uring_prep_read_fixed(sqe, req->file->fd, part.iov->iov_base, (unsigned)part.iov->iov_len,
		                         part.offset, piece);
	else
		io_uring_prep_write_fixed(sqe, req->file->fd, part.iov->iov_base, (unsigned)part.iov->iov_len,
		                          part.offset, piece);
	kvc_stat_add(uring->io->count.fixed, 1);
	return true;
}

static void transfer_prepare(struct uring *uring, struct io_uring_sqe *sqe, const struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);

	if (fixed_prepare(uring, sqe, req))
		return;
	if (req->op == KVC_IO_READ)
		io_uring_prep_readv(sqe, req->file->fd, part.iov, part.iov_count, part.offset);
	else
		io_uring_prep_writev(sqe, req->file->fd, part.iov, part.iov_count, part.offset);
}

static void uring_start(struct kvc_io *io, struct kvc_io_req *req)
{
	struct uring *uring = io->backend;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&uring->ring);
	struct kvc_io_part part = kvc_io_part(req);
	int fd = req->file->fd;

	KVC_INVARIANT(sqe); /* the queue is as long as io->depth */
	switch (req->op) {
	case KVC_IO_READ:
	case KVC_IO_WRITE:
		transfer_prepare(uring, sqe, req);
		break;
	case KVC_IO_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case KVC_IO_ALLOCATE:
		io_uring_prep_fallocate(sqe, fd, 0, (off_t)part.offset, (off_t)part.iov->iov_len);
		break;
	}
	io_uring_sqe_set_data(sqe, req);
}

/* --- life --------------------------------------------------------------------------------------- */

/* The completion queue holds more than can be in flight, so that it never overflows. */
static int ring_init(struct io_uring *ring, uint32_t depth)
{
	static const unsigned flags[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
	int error = -ENOSYS;

	for (unsigned i = 0; i < sizeof flags / sizeof flags[0]; i++) {
		struct io_uring_params params = {
		        .flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		        .cq_entries = 2 * depth,
		};

		error = io_uring_queue_init_params(depth, ring, &params);
		if (error != -EINVAL)
			break;
	}
	return error;
}

static kvc_status status_of_init(int error)
{
	switch (-error) {
	case ENOSYS:
	case EPERM:
	case EACCES:
	case EINVAL:
		return KVC_UNSUPPORTED;
	default:
		kvc_error("io_uring: %s", strerror(-error));
		return KVC_NO_MEMORY;
	}
}

static kvc_status wakeup_open(struct uring *uring, struct kvc_loop *loop)
{
	int error;

	uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (uring->event_fd < 0)
		return KVC_NO_MEMORY;
	error = io_uring_register_eventfd(&uring->ring, uring->event_fd);
	if (error) {
		kvc_warn("io_uring takes no eventfd: %s", strerror(-error));
		close(uring->event_fd);
		return KVC_UNSUPPORTED;
	}
	if (kvc_watch_open(loop, uring->event_fd, event_ready, uring, &uring->watch)) {
		close(uring->event_fd);
		return KVC_NO_MEMORY;
	}
	kvc_watch_set(uring->watch, true, false);
	return KVC_OK;
}

static kvc_status uring_open(struct kvc_io *io)
{
	struct uring *uring = kvc_calloc(1, sizeof *uring);
	kvc_status status;
	int error;

	if (!uring)
		return KVC_NO_MEMORY;
	error = ring_init(&uring->ring, io->depth);
	if (error) {
		status = status_of_init(error);
		goto free_uring;
	}
	status = wakeup_open(uring, io->loop);
	if (status)
		goto exit_ring;
	uring->io = io;
	uring->look.fire = look_fired;
	uring->retry.fire = retry_fired;
	io->backend = uring;
	return KVC_OK;

exit_ring:
	io_uring_queue_exit(&uring->ring);
free_uring:
	kvc_free(uring);
	return status;
}

static void uring_memory(struct kvc_io *io, void *base, uint64_t bytes, uint64_t piece_bytes)
{
	struct uring *uring = io->backend;

	kvc_uring_memory_start(&uring->memory, &uring->ring, base, bytes, piece_bytes);
}

static void uring_close(struct kvc_io *io)
{
	struct uring *uring = io->backend;

	kvc_timer_stop(&uring->look);
	kvc_timer_stop(&uring->retry);
	kvc_watch_close(uring->watch);
	close(uring->event_fd);
	kvc_uring_memory_stop(&uring->memory);
	io_uring_queue_exit(&uring->ring);
	kvc_free(uring);
}

const struct kvc_io_backend_ops kvc_io_uring_ops = {
        .name = "io_uring",
        .open = uring_open,
        .close = uring_close,
        .start = uring_start,
        .memory = uring_memory,
        .flush = uring_flush,
};
