/* What libkvcellar-cuda needs of CUDA, in plain C. Two implementations: device_cuda.c, the library's only
 * file that includes CUDA, and one of the tests (tests/fake/worker_device.c). Streams are the caller's or
 * made here; both are cudaStream_t.
 *
 * Nothing here aborts or waits for a stream. A failure leaves its text with the thread (kvcw_device_why) and
 * no error with CUDA, unless it is one that sticks. */
#ifndef KVCW_DEVICE_H
#define KVCW_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kern.h"

struct kvcw_device;

/* The device that `address` lies on, its kernels loaded. KVC_INVALID: not device memory. KVC_UNSUPPORTED. */
kvc_status kvcw_device_open(const void *address, struct kvcw_device **device);
void kvcw_device_close(struct kvcw_device *device);
uint32_t kvcw_device_sms(const struct kvcw_device *device);

/* Make it the thread's current device; what was before, for leave. */
int kvcw_device_enter(const struct kvcw_device *device);
void kvcw_device_leave(int before);

/* What went wrong in this thread's last call that failed. */
const char *kvcw_device_why(void);

/* True if the address is device memory of this device. All below: the device is current. */
bool kvcw_device_has(const struct kvcw_device *device, const void *address);

kvc_status kvcw_device_alloc(uint64_t bytes, void **memory);
void kvcw_device_free(void *memory);

/* Pinned memory of the host, zeroed. */
kvc_status kvcw_host_alloc(uint64_t bytes, void **memory);
void kvcw_host_free(void *memory);

/* Pin memory that is there. */
kvc_status kvcw_host_pin(void *memory, uint64_t bytes);
void kvcw_host_unpin(void *memory);

kvc_status kvcw_stream_open(void **stream);
void kvcw_stream_close(void *stream);

kvc_status kvcw_event_open(void **event);
void kvcw_event_close(void *event);
kvc_status kvcw_event_record(void *event, void *stream);
/* What is enqueued on the stream later waits for the event as it was last recorded. */
kvc_status kvcw_event_wait(void *event, void *stream);
/* KVC_BUSY: not yet. Any error: what was before the event has failed. */
kvc_status kvcw_event_poll(void *event);

/* Between device memory and pinned memory. */
kvc_status kvcw_copy(void *to, const void *from, uint64_t bytes, void *stream);

/* kvc_kern_encode and kvc_kern_decode, with a text. */
kvc_status kvcw_encode(const struct kvc_kern_job *job);
kvc_status kvcw_decode(const struct kvc_kern_job *job);

#endif
