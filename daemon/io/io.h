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

#define KVC_IO_ALIGN     4096u /* of offsets, lengths and buffers */
#define KVC_IO_DEPTH_MAX 4096u

struct kvc_io;

enum kvc_io_backend { KVC_IO_AUTO = 0, KVC_IO_URING = 1, KVC_IO_THREADS = 2 };

struct kvc_io_options {
	enum kvc_io_backend backend; /* AUTO: io_uring, else threads with a warning */
	uint32_t depth;              /* requests at the kernel at a time, up to KVC_IO_DEPTH_MAX */
};

/* KVC_UNSUPPORTED: io_uring was asked for and the kernel refuses it. */
kvc_status kvc_io_open(struct kvc_loop *loop, const struct kvc_io_options *options, struct kvc_stats *stats,
                       struct kvc_io **io);

/* Memory that many requests will use: the backend may prepare it, in the background, so that they cost less.
 * At most once; it must stay until kvc_io_close. piece_bytes: 0; tests say in which pieces (a power of two).
 */
void kvc_io_memory(struct kvc_io *io, void *base, uint64_t bytes, uint64_t piece_bytes);

/* All requests must be done. */
void kvc_io_close(struct kvc_io *io);

/* "io_uring" or "threads". */
const char *kvc_io_backend_name(const struct kvc_io *io);

struct kvc_file {
	int fd;
	bool direct; /* O_DIRECT is in force; cleared when the first transfer shows that it is not */
};

/* Open a regular file relative to a directory; never follows a symbolic link. flags: O_RDONLY, O_RDWR,
 * O_CREAT... (mode 0600). Synchronous: for start-up and segment switches. KVC_MISS: there is no such file.
 * KVC_ACCESS: not allowed, or not a regular file. */
kvc_status kvc_file_open(int dir_fd, const char *name, int flags, struct kvc_file *file);
void kvc_file_close(struct kvc_file *file);

enum kvc_io_op {
	KVC_IO_READ,
	KVC_IO_WRITE,
	KVC_IO_SYNC,     /* what was written before is on stable storage; no iov */
	KVC_IO_ALLOCATE, /* reserve space for [offset, offset + length of iov[0]), whose base is not used */
};

struct kvc_io_req {
	/* set by the caller */
	enum kvc_io_op op;
	struct kvc_file *file;
	uint64_t offset;
	struct iovec *iov; /* the caller's array; changed while the request runs */
	uint32_t iov_count;
	void (*done)(struct kvc_io_req *req);

	/* results */
	kvc_status status;    /* KVC_OK: everything was transferred. KVC_MISS: the file ends inside the range.
	                       * else of the errno */
	int error;            /* the errno behind status, 0 if there is none */
	uint64_t transferred; /* bytes */
	uint64_t since_ms;    /* the loop's time when it was submitted */

	/* private */
	struct kvc_io *io;
	struct kvc_list node;
	uint64_t wanted;
	struct iovec narrow; /* what is asked for at a time after the kernel could not take it at once */
	uint32_t retries;    /* since the last progress */
	bool direct;         /* so it went to the file; false: EINVAL is no matter of that */
	int32_t result;
};

void kvc_io_submit(struct kvc_io *io, struct kvc_io_req *req);

#endif
