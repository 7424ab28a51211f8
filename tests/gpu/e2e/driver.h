/* The CUDA driver as far as tests and benches of the cuda plane play the worker: device memory, copies,
 * streams.
 *
 * Loaded with dlopen, so the programs build without CUDA and run against tests/fake/libcuda.so.1 too. Errors
 * end the program with a message: these are tests. A thread works on one device at a time, in its primary
 * context, which is also what kernels of the runtime API in the same program use: number 0, unless it says
 * otherwise. What was allocated on a device is used from there. */
#ifndef KVC_TESTS_GPU_DRIVER_H
#define KVC_TESTS_GPU_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Load the driver, and enter device 0. With fewer devices than `devices`, or no driver, the program ends with
 * the status of a skipped test. */
void driver_open(unsigned devices);

/* In each further thread, and to go on with another device. */
void driver_enter(unsigned device);

/* That this thread works on. */
unsigned driver_device(void);

/* Against the stand-in, where sizes and counts are small and times mean nothing. */
bool driver_is_fake(void);

const char *driver_name(void);

/* Of the whole device, as it says itself. */
uint64_t driver_free_bytes(void);

uint64_t driver_alloc(uint64_t bytes);
void driver_free(uint64_t address);

/* VMM memory in chunks of about `chunk_bytes` (rounded up to the device's granularity), mapped one behind the
 * other, as PyTorch's expandable segments are. */
struct driver_vmm {
	uint64_t address;
	uint64_t bytes;
	uint64_t chunk_bytes;
	uint64_t chunks;
	uint64_t *handles;
};

void driver_vmm_alloc(struct driver_vmm *vmm, uint64_t bytes, uint64_t chunk_bytes, bool exportable);
void driver_vmm_free(struct driver_vmm *vmm);

/* A descriptor of a chunk, the caller's to close. */
int driver_vmm_export(const struct driver_vmm *vmm, uint64_t chunk);

void driver_put(uint64_t to, const void *from, size_t bytes);
void driver_get(void *to, uint64_t from, size_t bytes);
void driver_fill(uint64_t to, uint8_t byte, size_t bytes);

/* A handle of 64 bytes, as workers export their memory with. */
void driver_ipc_handle(uint64_t address, uint8_t handle[64]);
void driver_uuid(uint8_t uuid[16]);

/* Pinned host memory, and copies that a stream makes; stream NULL is the default one. */
void *driver_pinned(uint64_t bytes);
void driver_pinned_free(void *memory);
void *driver_stream(bool low_priority);
void driver_stream_wait(void *stream);

/* Nothing that is given to the stream from now on is ever done. */
void driver_stream_stall(void *stream);
void driver_get_later(void *to, uint64_t from, size_t bytes, void *stream);
void driver_put_later(uint64_t to, const void *from, size_t bytes, void *stream);

#endif
