/* The thin layer between kvcellar-engine and a GPU: what it needs of CUDA, in plain C. Two implementations:
 * device_cuda.c, the only file of the daemon that includes CUDA, and the one of the tests
 * (tests/fake/device_fake.c), whose device memory is files.
 *
 * Nothing here aborts or synchronises (but open, close, alloc, free and import may take their time). What is
 * enqueued on a stream runs in order; events order streams. Each failure leaves its text with the calling
 * thread (kvc_dev_why), and no error with CUDA: unless the error sticks. Then kvc_dev_lost says so, from any
 * thread, everything fails from then on, and only the end of the process helps.
 *
 * One thread owns the device and all of its objects. Only kvc_dev_pin, kvc_dev_unpin, kvc_dev_lost and
 * kvc_dev_why may be called from others. */
#ifndef KVC_DEVICE_H
#define KVC_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine/gpu_wire.h"
#include "kernels/kern.h"

struct kvc_dev;
struct kvc_dev_stream;
struct kvc_dev_event;
struct kvc_dev_memory; /* of another process, mapped here */

struct kvc_dev_info {
	uint8_t uuid[16];
	char name[64];
	uint32_t sms;
	bool shared; /* kernels of other processes run at the same time (MPS), not in turn */
};

/* --- the device --- */

/* Make the context and load all kernels. KVC_UNSUPPORTED: no such device, no driver, or kernels not for it.
 */
kvc_status kvc_dev_open(uint32_t ordinal, struct kvc_dev **dev, struct kvc_dev_info *info);
void kvc_dev_close(struct kvc_dev *dev);

/* An error stuck. */
bool kvc_dev_lost(const struct kvc_dev *dev);

/* What went wrong in this thread's last call that failed: valid until the next one fails. */
const char *kvc_dev_why(void);

/* Device memory that this process takes, as far as it is known: the context, what was allocated. */
uint64_t kvc_dev_bytes(const struct kvc_dev *dev);

/* --- memory --- */

kvc_status kvc_dev_alloc(struct kvc_dev *dev, uint64_t bytes, uint64_t *address);
void kvc_dev_free(struct kvc_dev *dev, uint64_t address);

/* Pinned memory of the host. */
kvc_status kvc_dev_host_alloc(struct kvc_dev *dev, uint64_t bytes, void **host);
void kvc_dev_host_free(struct kvc_dev *dev, void *host);

/* Pin a range of the host's memory, so that copies run at full speed and beside the caller. A copy must lie
 * in one such range or in none. */
kvc_status kvc_dev_pin(struct kvc_dev *dev, void *host, uint64_t bytes);
void kvc_dev_unpin(struct kvc_dev *dev, void *host);

/* --- streams and events --- */

kvc_status kvc_dev_stream_open(struct kvc_dev *dev, bool low_priority, struct kvc_dev_stream **stream);
/* What was enqueued still runs. */
void kvc_dev_stream_close(struct kvc_dev *dev, struct kvc_dev_stream *stream);

kvc_status kvc_dev_event_open(struct kvc_dev *dev, struct kvc_dev_event **event);
void kvc_dev_event_close(struct kvc_dev *dev, struct kvc_dev_event *event);
kvc_status kvc_dev_event_record(struct kvc_dev *dev, struct kvc_dev_event *event,
                                struct kvc_dev_stream *stream);

/* The stream waits for the work that the event was last recorded behind; for none if it never was. */
kvc_status kvc_dev_event_wait(struct kvc_dev *dev, struct kvc_dev_event *event,
                              struct kvc_dev_stream *stream);

/* KVC_OK: that work is done. KVC_BUSY: not yet. */
kvc_status kvc_dev_event_poll(struct kvc_dev *dev, struct kvc_dev_event *event);

/* Add 1 to the eventfd when the stream has come here: a hint, it may never come. */
kvc_status kvc_dev_hint(struct kvc_dev *dev, struct kvc_dev_stream *stream, int event_fd);

/* --- work --- */

kvc_status kvc_dev_copy_up(struct kvc_dev *dev, uint64_t to, const void *from, uint64_t bytes,
                           struct kvc_dev_stream *stream);
kvc_status kvc_dev_copy_down(struct kvc_dev *dev, void *to, uint64_t from, uint64_t bytes,
                             struct kvc_dev_stream *stream);

/* As kvc_kern_encode and kvc_kern_decode; job->stream is a struct kvc_dev_stream. */
kvc_status kvc_dev_encode(struct kvc_dev *dev, const struct kvc_kern_job *job);
kvc_status kvc_dev_decode(struct kvc_dev *dev, const struct kvc_kern_job *job);

/* --- memory of other processes --- */

/* Map the allocation of a CUDA IPC handle. [offset, offset + bytes) must lie in it, and it on this device.
 * KVC_INVALID: it does not, or the handle is none. */
kvc_status kvc_dev_import(struct kvc_dev *dev, const uint8_t handle[KVC_GPU_HANDLE_BYTES], uint64_t offset,
                          uint64_t bytes, struct kvc_dev_memory **memory);

/* Map chunks of VMM memory one behind the other; each is chunk_bytes[i] long, and they hold `bytes`. The
 * descriptors stay the caller's and may be closed afterwards. */
kvc_status kvc_dev_import_chunks(struct kvc_dev *dev, const int *fds, const uint64_t *chunk_bytes,
                                 uint32_t chunks, uint64_t bytes, struct kvc_dev_memory **memory);

/* Device address of the first of `bytes`. */
uint64_t kvc_dev_memory_address(const struct kvc_dev_memory *memory);

/* Nothing that was enqueued uses it. */
void kvc_dev_unimport(struct kvc_dev *dev, struct kvc_dev_memory *memory);

#endif
