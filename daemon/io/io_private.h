/* What the files of this module share. Nobody else includes it. */
#ifndef KVC_IO_PRIVATE_H
#define KVC_IO_PRIVATE_H

#include "daemon/io/io.h"

struct kvc_io_backend_ops;

struct kvc_io {
	const struct kvc_io_backend_ops *ops;
	void *backend;
	struct kvc_loop *loop;
	uint32_t depth;
	uint32_t in_flight;    /* at the backend */
	uint32_t reads_in_row; /* reads started while a write waited */
	struct kvc_list reads; /* waiting */
	struct kvc_list writes;
	struct kvc_list again; /* waiting for the retry timer */
	struct kvc_task start;
	struct kvc_timer retry;
	struct {
		kvc_stat_cell *depth_reached;
		kvc_stat_cell *in_flight;
		kvc_stat_cell *queued;
		kvc_stat_cell *retries;
		kvc_stat_cell *short_transfers;
		kvc_stat_cell *errors;
		kvc_stat_cell *buffered_files;
		kvc_stat_cell *registered;
		kvc_stat_cell *fixed;
	} count;
};

/* A way to the kernel. At most io->depth requests are started at a time. */
struct kvc_io_backend_ops {
	const char *name;
	kvc_status (*open)(struct kvc_io *io);
	void (*close)(struct kvc_io *io);

	/* Take one request, without calling back. The part to transfer is kvc_io_part(). */
	void (*start)(struct kvc_io *io, struct kvc_io_req *req);

	/* Prepare memory; NULL: it makes no difference. */
	void (*memory)(struct kvc_io *io, void *base, uint64_t bytes, uint64_t piece_bytes);

	/* Hand what was started to the kernel. */
	void (*flush)(struct kvc_io *io);
};

extern const struct kvc_io_backend_ops kvc_io_uring_ops;
extern const struct kvc_io_backend_ops kvc_io_threads_ops;

/* What to transfer now: the rest of the request, or a narrow piece of it. */
struct kvc_io_part {
	const struct iovec *iov;
	uint32_t iov_count;
	uint64_t offset;
};
struct kvc_io_part kvc_io_part(const struct kvc_io_req *req);

/* A backend's request came back: bytes or -errno. */
void kvc_io_complete(struct kvc_io *io, struct kvc_io_req *req, int32_t result);

/* Put a request that was held back into its queue. */
void kvc_io_requeue(struct kvc_io_req *req);

/* Do a request at once, in this thread: bytes or -errno. */
int32_t kvc_io_perform(const struct kvc_io_req *req);

#endif
