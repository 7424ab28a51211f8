/* The CUDA driver, loaded when it is first needed: libkvcellar links no CUDA, and is built without its
 * headers. The types and numbers here are those of the driver's ABI (cuda.h). Any thread. */
#ifndef KVCC_CUDA_DRIVER_H
#define KVCC_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "kvc_status.h"

#define KVCC_CUDA_HANDLE_BYTES 64u /* of an IPC handle of memory */
#define KVCC_CUDA_UUID_BYTES   16u

typedef int kvcc_cu_result; /* 0: success */
typedef unsigned long long kvcc_cu_address;

enum {
	KVCC_CU_NOT_READY = 600,
	KVCC_CU_EVENT_DISABLE_TIMING = 2,
	KVCC_CU_STREAM_NON_BLOCKING = 1,
	KVCC_CU_HOST_PORTABLE = 1,
	KVCC_CU_HOST_DEVICE_MAP = 2,
	KVCC_CU_MEMORY_DEVICE = 2,
	KVCC_CU_HANDLE_POSIX = 1, /* type of a shareable handle: a descriptor */

	/* attributes of a pointer */
	KVCC_CU_ATTRIBUTE_MEMORY_TYPE = 2,
	KVCC_CU_ATTRIBUTE_DEVICE_ORDINAL = 9,
	KVCC_CU_ATTRIBUTE_IS_IPC_CAPABLE = 10,
	KVCC_CU_ATTRIBUTE_ALLOWED_HANDLES = 14,
	KVCC_CU_ATTRIBUTE_MAPPING_SIZE = 18,
	KVCC_CU_ATTRIBUTE_MAPPING_BASE = 19,
};

/* X(member, symbol, parameters): the functions used. */
#define KVCC_CUDA_TABLE(X)                                                                                  \
	X(init, "cuInit", (unsigned flags))                                                                 \
	X(error_string, "cuGetErrorString", (kvcc_cu_result error, const char **text))                      \
	X(device_count, "cuDeviceGetCount", (int *count))                                                   \
	X(device_get, "cuDeviceGet", (int *device, int ordinal))                                            \
	X(device_name, "cuDeviceGetName", (char *name, int bytes, int device))                              \
	X(device_uuid, "cuDeviceGetUuid_v2", (uint8_t * uuid, int device))                                  \
	X(primary_retain, "cuDevicePrimaryCtxRetain", (void **context, int device))                         \
	X(primary_release, "cuDevicePrimaryCtxRelease_v2", (int device))                                    \
	X(context_current, "cuCtxGetCurrent", (void **context))                                             \
	X(context_device, "cuCtxGetDevice", (int *device))                                                  \
	X(context_push, "cuCtxPushCurrent_v2", (void *context))                                             \
	X(context_pop, "cuCtxPopCurrent_v2", (void **context))                                              \
	X(pointer_attribute, "cuPointerGetAttribute", (void *data, int attribute, kvcc_cu_address address)) \
	X(address_range, "cuMemGetAddressRange_v2",                                                         \
	  (kvcc_cu_address * base, size_t * bytes, kvcc_cu_address address))                                \
	X(ipc_memory, "cuIpcGetMemHandle", (uint8_t * handle, kvcc_cu_address address))                     \
	X(retain_chunk, "cuMemRetainAllocationHandle", (unsigned long long *handle, void *address))         \
	X(export_chunk, "cuMemExportToShareableHandle",                                                     \
	  (void *shareable, unsigned long long handle, int type, unsigned long long flags))                 \
	X(release_chunk, "cuMemRelease", (unsigned long long handle))                                       \
	X(event_create, "cuEventCreate", (void **event, unsigned flags))                                    \
	X(event_record, "cuEventRecord", (void *event, void *stream))                                       \
	X(event_query, "cuEventQuery", (void *event))                                                       \
	X(event_destroy, "cuEventDestroy_v2", (void *event))                                                \
	X(stream_wait, "cuStreamWaitEvent", (void *stream, void *event, unsigned flags))                    \
	X(stream_create, "cuStreamCreate", (void **stream, unsigned flags))                                 \
	X(stream_write, "cuStreamWriteValue32_v2",                                                          \
	  (void *stream, kvcc_cu_address to, uint32_t value, unsigned flags))                               \
	X(stream_synchronize, "cuStreamSynchronize", (void *stream))                                        \
	X(stream_destroy, "cuStreamDestroy_v2", (void *stream))                                             \
	X(memory_alloc, "cuMemAlloc_v2", (kvcc_cu_address * address, size_t bytes))                         \
	X(memory_free, "cuMemFree_v2", (kvcc_cu_address address))                                           \
	X(host_alloc, "cuMemHostAlloc", (void **data, size_t bytes, unsigned flags))                        \
	X(host_free, "cuMemFreeHost", (void *data))                                                         \
	X(host_register, "cuMemHostRegister_v2", (void *data, size_t bytes, unsigned flags))                \
	X(host_unregister, "cuMemHostUnregister", (void *data))                                             \
	X(host_device_address, "cuMemHostGetDevicePointer_v2",                                              \
	  (kvcc_cu_address * address, void *data, unsigned flags))                                          \
	X(copy_to_device, "cuMemcpyHtoD_v2", (kvcc_cu_address to, const void *from, size_t bytes))          \
	X(copy_to_host, "cuMemcpyDtoH_v2", (void *to, kvcc_cu_address from, size_t bytes))                  \
	X(copy_to_device_async, "cuMemcpyHtoDAsync_v2",                                                     \
	  (kvcc_cu_address to, const void *from, size_t bytes, void *stream))                               \
	X(copy_to_host_async, "cuMemcpyDtoHAsync_v2",                                                       \
	  (void *to, kvcc_cu_address from, size_t bytes, void *stream))                                     \
	X(fill_bytes, "cuMemsetD8_v2", (kvcc_cu_address to, unsigned char value, size_t bytes))

struct kvcc_cuda {
#define KVCC_CUDA_MEMBER(member, symbol, parameters) kvcc_cu_result(*member) parameters;
	KVCC_CUDA_TABLE(KVCC_CUDA_MEMBER)
#undef KVCC_CUDA_MEMBER
};

/* Load and initialise the driver once for the process. KVC_UNSUPPORTED: there is none, or it does not work.
 */
kvc_status kvcc_cuda_load(const struct kvcc_cuda **cuda);

/* Set this thread's error text to "what: the driver's words" and return the status that stands for it: the
 * one place where the driver's errors are translated. */
kvc_status kvcc_cuda_fail(const struct kvcc_cuda *cuda, kvcc_cu_result error, const char *what);

#endif
