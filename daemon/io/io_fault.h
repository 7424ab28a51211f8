/* Faults for tests: a hook that is asked once for each part of a request that goes to the kernel. NULL in
 * production, where it costs one look at a pointer.
 *
 * A fault is carried out at once, by plain system calls on the loop thread, in place of the backend. */
#ifndef KVC_IO_FAULT_H
#define KVC_IO_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/io/io.h"

enum kvc_io_fault_kind {
	KVC_FAULT_NONE,
	KVC_FAULT_ERROR,     /* nothing is done; the kernel says -error */
	KVC_FAULT_LOST,      /* nothing is done; the kernel says that all went well */
	KVC_FAULT_SHORT,     /* the first `bytes` are transferred, and the kernel says so */
	KVC_FAULT_TORN,      /* write: the first `bytes` are written, the kernel says all */
	KVC_FAULT_FLIP,      /* all is transferred, but bit `bit` of byte `bytes` is turned over */
	KVC_FAULT_MISDIRECT, /* all is transferred, but at `offset` */
	KVC_FAULT_HOLD,      /* nothing happens until kvc_io_fault_release; then the hook is asked again */
};

struct kvc_io_fault {
	enum kvc_io_fault_kind kind;
	int error;
	uint64_t bytes;
	uint8_t bit;
	uint64_t offset;
};

/* Looks at req->op, file, offset + transferred, wanted, and sets *fault, which is KVC_FAULT_NONE at first. */
typedef void (*kvc_io_fault_hook)(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault);

/* hook NULL: no faults. What is held stays held. */
void kvc_io_fault_install(kvc_io_fault_hook hook, void *context);

/* Requests that are held. */
uint32_t kvc_io_fault_held(void);

/* Let all held requests go on. */
void kvc_io_fault_release(void);

/* The next `times` hand-overs of a turn's requests to io_uring fail with -error. */
void kvc_io_fault_enter_fails(int error, uint32_t times);

/* For io_uring.c: -errno if this hand-over must fail, else 0. */
int kvc_io_fault_enter(void);

/* For io.c: ask the hook. kvc_io_fault_hold: true if the request is held back. kvc_io_fault_apply: true if
 * the fault was carried out and the request completed. */
bool kvc_io_fault_hold(struct kvc_io_req *req);
bool kvc_io_fault_apply(struct kvc_io *io, struct kvc_io_req *req);

#endif
