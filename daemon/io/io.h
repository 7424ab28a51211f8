/* Asynchronous file I/O on the loop: io_uring, or a thread pool where the kernel refuses io_uring.
 *
 * Files are opened with O_DIRECT where the file system has it. The engine of requests hides short transfers
 * (resubmits the rest), EAGAIN/EINTR (bounded retries), alignment (asserted) and depth (a bounded queue,
 * reads before writes). Loop thread only. A request lives in the caller's object; its buffers must stay until
 * `done`, which comes exactly once, never from inside kvc_io_submit. */
#ifndef KVC_IO_H
#define KVC_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "daemon/base/list.h"
#include "daemon/loop/loop.h"
#include "daemon/stats/stats.h"
#include "proto/kvc_status.h"

#define KVC_IO_ALIGN 4096u /* of offsets, lengths and buffers */

struct kvc_io;

enum kvc_io_backend { KVC_IO_AUTO = 0, KVC_IO_URING = 1, KVC_IO_THREADS = 2 };

struct kvc_io_options {
	enum kvc_io_backend backend; /* AUTO: io_uring, else threads with a warning */
	uint32_t depth;              /* requests at the kernel at a time */
};

kvc_status kvc_io_open(struct kvc_loop *loop, const struct kvc_io_options *options, struct kvc_stats *stats,
                       struct kvc_io **io);

/* All requests must be done. */
void kvc_io_close(struct kvc_io *io);

/* "io_uring" or "threads". */
const char *kvc_io_backend_name(const struct kvc_io *io);

struct kvc_file {
	int fd;
	bool direct; /* O_DIRECT is in force */
};

/* Open a regular file relative to a directory; never follows a symbolic link. flags: O_RDONLY, O_RDWR,
 * O_CREAT... Synchronous: for start-up and segment switches. */
kvc_status kvc_file_open(int dir_fd, const char *name, int flags, struct kvc_file *file);
void kvc_file_close(struct kvc_file *file);

enum kvc_io_op { KVC_IO_READ, KVC_IO_WRITE, KVC_IO_SYNC };

struct kvc_io_req {
	/* set by the caller */
	enum kvc_io_op op;
	const struct kvc_file *file;
	uint64_t offset;
	struct iovec *iov; /* the caller's array; may be changed while the request runs */
	uint32_t iov_count;
	void (*done)(struct kvc_io_req *req);

	/* results */
	kvc_status status; /* KVC_OK: everything was transferred. KVC_MISS: the file ends inside the range */
	uint64_t transferred; /* bytes */

	/* private */
	struct kvc_list node;
	uint64_t wanted;
	uint32_t retries;
	int32_t result;
};

void kvc_io_submit(struct kvc_io *io, struct kvc_io_req *req);

#endif
