/* A CUDA driver without GPU: build/bin/tests/fake/libcuda.so.1, found by LD_LIBRARY_PATH. What it calls
 * device memory are shared files, so that the fake GPU engine can open what a worker exports:
 *
 *   cuMemAlloc     $KVC_FAKE_CUDA_DIR/mem-<pid>-<n>, as long as the allocation, mapped here; a device address
 *                  is the address of the mapping. Its IPC handle is that name, and the size in the last 8
 * bytes. cuMemCreate    a memfd; its shareable handle is its descriptor.
 *
 * Work is done when it is asked for, so streams and waiting are nothing. $KVC_FAKE_CUDA_DEVICES GPUs (default
 * 1) with UUIDs "fake-gpu-000000" and the digit. Without the folder there is no device. Any thread. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	OK = 0,
	INVALID_VALUE = 1,
	OUT_OF_MEMORY = 2,
	NOT_INITIALIZED = 3,
	NO_DEVICE = 100,
	INVALID_DEVICE = 101,
	INVALID_CONTEXT = 201,
	INVALID_HANDLE = 400,
	NOT_READY = 600,
	NOT_PERMITTED = 800,
};

enum { DEVICES = 8, OBJECTS = 4096, STACK = 16, GRANULARITY = 2 << 20, HANDLE_BYTES = 64, UUID_BYTES = 16 };

typedef int result;
typedef unsigned long long address;

/* With a prototype, and seen from outside. */
#define API(name, ...)            \
	result name(__VA_ARGS__); \
	__attribute__((visibility("default"))) result name(__VA_ARGS__)

struct context {
	int device;
};

/* An allocation, a mapped chunk, or pinned host memory. */
struct mapping {
	bool used;
	address base;
	size_t bytes;
	int device;
	int chunk; /* index, or -1: an allocation */
	bool host;
	char name[48];
};

struct chunk {
	unsigned refs; /* 0: free */
	int fd;
	size_t bytes;
	int device;
	bool exportable;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct context contexts[DEVICES];
static struct mapping mappings[OBJECTS];
static struct chunk chunks[OBJECTS];
static unsigned serial;
static int devices; /* 0: not initialised */
static _Thread_local struct context *stack[STACK];
static _Thread_local unsigned depth;

/* For who has loaded it: a function that fails, or NULL; and whether what streams are given from now on is
 * never done. */
extern const char *fake_failing;
extern bool fake_stalled;
__attribute__((visibility("default"))) const char *fake_failing;
__attribute__((visibility("default"))) bool fake_stalled;

static bool fails(const char *function)
{
	return fake_failing && strcmp(fake_failing, function) == 0;
}

static const char *folder(void)
{
	return secure_getenv("KVC_FAKE_CUDA_DIR");
}

static struct context *current(void)
{
	return depth ? stack[depth - 1] : NULL;
}

static int make_file(const char *kind, char name[48], size_t bytes)
{
	char path[4200];
	int fd;

	(void)snprintf(name, 48, "%s-%d-%u", kind, (int)getpid(), ++serial);
	(void)snprintf(path, sizeof path, "%s/%s", folder(), name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void remove_file(const char *name)
{
	char path[4200];

	(void)snprintf(path, sizeof path, "%s/%s", folder(), name);
	(void)unlink(path);
}

/* ---- devices and contexts ------------------------------------------------------------------ */

API(cuInit, unsigned flags)
{
	const char *count = secure_getenv("KVC_FAKE_CUDA_DEVICES");
	struct stat stat_of;

	if (flags)
		return INVALID_VALUE;
	if (!folder() || stat(folder(), &stat_of) != 0 || !S_ISDIR(stat_of.st_mode))
		return NO_DEVICE;
	devices = count ? atoi(count) : 1;
	if (devices < 1 || devices > DEVICES)
		return NO_DEVICE;
	for (int i = 0; i < devices; i++)
		contexts[i].device = i;
	return OK;
}

API(cuGetErrorString, result error, const char **text)
{
	switch (error) {
	case INVALID_VALUE:
		*text = "invalid argument";
		return OK;
	case OUT_OF_MEMORY:
		*text = "out of memory";
		return OK;
	case NO_DEVICE:
		*text = "no CUDA-capable device is detected";
		return OK;
	default:
		*text = "fake error";
		return OK;
	}
}

API(cuDeviceGetCount, int *count)
{
	*count = devices;
	return devices ? OK : NOT_INITIALIZED;
}

API(cuDeviceGet, int *device, int ordinal)
{
	if (ordinal < 0 || ordinal >= devices)
		return INVALID_DEVICE;
	*device = ordinal;
	return OK;
}

API(cuDeviceGetName, char *name, int bytes, int device)
{
	(void)snprintf(name, (size_t)bytes, "Fake GPU %d", device);
	return OK;
}

API(cuDeviceGetUuid_v2, uint8_t *uuid, int device)
{
	if (device < 0 || device >= devices)
		return INVALID_DEVICE;
	memcpy(uuid, "fake-gpu-000000", UUID_BYTES - 1);
	uuid[UUID_BYTES - 1] = (uint8_t)('0' + device);
	return OK;
}

API(cuDevicePrimaryCtxRetain, void **context, int device)
{
	if (device < 0 || device >= devices)
		return INVALID_DEVICE;
	*context = &contexts[device];
	return OK;
}

API(cuDevicePrimaryCtxRelease_v2, int device)
{
	return device < 0 || device >= devices ? INVALID_DEVICE : OK;
}

API(cuCtxGetCurrent, void **context)
{
	*context = current();
	return OK;
}

API(cuCtxGetDevice, int *device)
{
	if (!current())
		return INVALID_CONTEXT;
	*device = current()->device;
	return OK;
}

API(cuCtxPushCurrent_v2, void *context)
{
	if (!context || depth == STACK)
		return INVALID_CONTEXT;
	stack[depth++] = context;
	return OK;
}

API(cuCtxSetCurrent, void *context)
{
	if (!context)
		return INVALID_CONTEXT;
	if (!depth)
		depth = 1;
	stack[depth - 1] = context;
	return OK;
}

API(cuCtxPopCurrent_v2, void **context)
{
	if (!depth)
		return INVALID_CONTEXT;
	*context = stack[--depth];
	return OK;
}

/* ---- memory -------------------------------------------------------------------------------- */

static struct mapping *mapping_new(void)
{
	for (unsigned i = 0; i < OBJECTS; i++) {
		if (!mappings[i].used)
			return &mappings[i];
	}
	return NULL;
}

static struct mapping *mapping_find(address at)
{
	for (unsigned i = 0; i < OBJECTS; i++) {
		if (mappings[i].used && at >= mappings[i].base && at - mappings[i].base < mappings[i].bytes)
			return &mappings[i];
	}
	return NULL;
}

static result alloc_locked(address *out, size_t bytes)
{
	struct mapping *mapping = mapping_new();
	void *data;
	int fd;

	if (!mapping)
		return OUT_OF_MEMORY;
	fd = make_file("mem", mapping->name, bytes);
	if (fd < 0)
		return OUT_OF_MEMORY;
	data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (data == MAP_FAILED)
		return OUT_OF_MEMORY;
	mapping->used = true;
	mapping->base = (address)(uintptr_t)data;
	mapping->bytes = bytes;
	mapping->device = current()->device;
	mapping->chunk = -1;
	mapping->host = false;
	*out = mapping->base;
	return OK;
}

API(cuMemAlloc_v2, address *out, size_t bytes)
{
	result error;

	if (!current())
		return INVALID_CONTEXT;
	if (!bytes)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	error = alloc_locked(out, bytes);
	pthread_mutex_unlock(&lock);
	return error;
}

API(cuMemFree_v2, address at)
{
	struct mapping *mapping;

	pthread_mutex_lock(&lock);
	mapping = mapping_find(at);
	if (mapping && mapping->base == at && mapping->chunk < 0 && !mapping->host) {
		(void)munmap((void *)(uintptr_t)at, mapping->bytes);
		remove_file(mapping->name);
		mapping->used = false;
	} else {
		mapping = NULL;
	}
	pthread_mutex_unlock(&lock);
	return mapping ? OK : INVALID_VALUE;
}

API(cuMemHostAlloc, void **data, size_t bytes, unsigned flags)
{
	(void)flags;
	*data = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
	return *data ? OK : OUT_OF_MEMORY;
}

API(cuMemFreeHost, void *data)
{
	free(data);
	return OK;
}

static void *bytes_at(address at)
{
	return (void *)(uintptr_t)at;
}

static result range_check(address at, size_t bytes)
{
	result error = OK;

	pthread_mutex_lock(&lock);
	while (bytes && error == OK) {
		const struct mapping *mapping = mapping_find(at);
		size_t left = mapping ? (size_t)(mapping->base + mapping->bytes - at) : 0;

		error = mapping ? OK : INVALID_VALUE;
		left = left < bytes ? left : bytes;
		at += left;
		bytes -= left;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

API(cuMemcpyHtoD_v2, address to, const void *from, size_t bytes)
{
	if (range_check(to, bytes) != OK)
		return INVALID_VALUE;
	memcpy(bytes_at(to), from, bytes);
	return OK;
}

API(cuMemcpyDtoH_v2, void *to, address from, size_t bytes)
{
	if (range_check(from, bytes) != OK)
		return INVALID_VALUE;
	memcpy(to, bytes_at(from), bytes);
	return OK;
}

API(cuMemcpyHtoDAsync_v2, address to, const void *from, size_t bytes, void *stream)
{
	(void)stream;
	return cuMemcpyHtoD_v2(to, from, bytes);
}

API(cuMemcpyDtoHAsync_v2, void *to, address from, size_t bytes, void *stream)
{
	(void)stream;
	return cuMemcpyDtoH_v2(to, from, bytes);
}

API(cuMemsetD8_v2, address to, unsigned char value, size_t bytes)
{
	if (range_check(to, bytes) != OK)
		return INVALID_VALUE;
	memset(bytes_at(to), value, bytes);
	return OK;
}

/* ---- what a pointer is --------------------------------------------------------------------- */

static result attribute_locked(void *data, int attribute, address at)
{
	enum { MEMORY_TYPE = 2, ORDINAL = 9, IPC_CAPABLE = 10, ALLOWED = 14, MAP_SIZE = 18, MAP_BASE = 19 };
	const struct mapping *mapping = mapping_find(at);

	if (!mapping)
		return INVALID_VALUE;
	switch (attribute) {
	case MEMORY_TYPE:
		*(unsigned *)data = 2;
		return OK;
	case ORDINAL:
		*(int *)data = mapping->device;
		return OK;
	case IPC_CAPABLE:
		*(int *)data = mapping->chunk < 0;
		return OK;
	case ALLOWED:
		*(unsigned long long *)data = mapping->chunk >= 0 && chunks[mapping->chunk].exportable;
		return OK;
	case MAP_SIZE:
		*(size_t *)data = mapping->bytes;
		return OK;
	case MAP_BASE:
		*(address *)data = mapping->base;
		return OK;
	default:
		return INVALID_VALUE;
	}
}

API(cuPointerGetAttribute, void *data, int attribute, address at)
{
	result error;

	pthread_mutex_lock(&lock);
	error = attribute_locked(data, attribute, at);
	pthread_mutex_unlock(&lock);
	return error;
}

API(cuMemGetAddressRange_v2, address *base, size_t *bytes, address at)
{
	const struct mapping *mapping;

	pthread_mutex_lock(&lock);
	mapping = mapping_find(at);
	if (mapping) {
		*base = mapping->base;
		*bytes = mapping->bytes;
	}
	pthread_mutex_unlock(&lock);
	return mapping ? OK : INVALID_VALUE;
}

API(cuIpcGetMemHandle, uint8_t *handle, address at)
{
	const struct mapping *mapping;

	pthread_mutex_lock(&lock);
	mapping = mapping_find(at);
	if (mapping && mapping->chunk >= 0)
		mapping = NULL; /* as the driver: VMM memory has no such handle */
	if (mapping) {
		uint64_t bytes = mapping->bytes;

		memset(handle, 0, HANDLE_BYTES);
		(void)snprintf((char *)handle, HANDLE_BYTES - 8, "%s", mapping->name);
		memcpy(handle + HANDLE_BYTES - 8, &bytes, 8);
	}
	pthread_mutex_unlock(&lock);
	return mapping ? OK : INVALID_VALUE;
}

/* ---- VMM ----------------------------------------------------------------------------------- */

/* CUmemAllocationProp, so far as it is looked at. */
struct properties {
	int type;
	int handle_types;
	int location_type;
	int location;
	void *metadata;
	unsigned char flags[8];
};

API(cuMemGetAllocationGranularity, size_t *granularity, const struct properties *wanted, int option)
{
	(void)wanted;
	(void)option;
	*granularity = GRANULARITY;
	return OK;
}

API(cuMemCreate, unsigned long long *handle, size_t bytes, const struct properties *wanted,
    unsigned long long flags)
{
	result error = OUT_OF_MEMORY;

	if (flags || !bytes || bytes % GRANULARITY || wanted->type != 1 || wanted->location_type != 1 ||
	    wanted->location >= devices)
		return INVALID_VALUE;
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < OBJECTS; i++) {
		struct chunk *chunk = &chunks[i];

		if (chunk->refs)
			continue;
		chunk->fd = memfd_create("fake-chunk", MFD_CLOEXEC);
		if (chunk->fd < 0 || ftruncate(chunk->fd, (off_t)bytes) != 0)
			break;
		chunk->refs = 1;
		chunk->bytes = bytes;
		chunk->device = wanted->location;
		chunk->exportable = wanted->handle_types & 1;
		*handle = i + 1;
		error = OK;
		break;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

static struct chunk *chunk_of(unsigned long long handle)
{
	return handle && handle <= OBJECTS && chunks[handle - 1].refs ? &chunks[handle - 1] : NULL;
}

static void chunk_unref(struct chunk *chunk)
{
	if (--chunk->refs == 0)
		close(chunk->fd);
}

API(cuMemRelease, unsigned long long handle)
{
	struct chunk *chunk;

	pthread_mutex_lock(&lock);
	chunk = chunk_of(handle);
	if (chunk)
		chunk_unref(chunk);
	pthread_mutex_unlock(&lock);
	return chunk ? OK : INVALID_VALUE;
}

API(cuMemAddressReserve, address *out, size_t bytes, size_t alignment, address wanted,
    unsigned long long flags)
{
	void *data;

	if (flags || wanted || alignment > GRANULARITY || !bytes || bytes % GRANULARITY)
		return INVALID_VALUE;
	data = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (data == MAP_FAILED)
		return OUT_OF_MEMORY;
	*out = (address)(uintptr_t)data;
	return OK;
}

API(cuMemAddressFree, address at, size_t bytes)
{
	return munmap(bytes_at(at), bytes) == 0 ? OK : INVALID_VALUE;
}

static result map_locked(address at, size_t bytes, struct chunk *chunk)
{
	struct mapping *mapping = mapping_new();

	if (!mapping || mmap(bytes_at(at), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, chunk->fd,
	                     0) == MAP_FAILED)
		return OUT_OF_MEMORY;
	chunk->refs++;
	*mapping = (struct mapping){.used = true,
	                            .base = at,
	                            .bytes = bytes,
	                            .device = chunk->device,
	                            .chunk = (int)(chunk - chunks)};
	return OK;
}

API(cuMemMap, address at, size_t bytes, size_t offset, unsigned long long handle, unsigned long long flags)
{
	struct chunk *chunk;
	result error = INVALID_VALUE;

	pthread_mutex_lock(&lock);
	chunk = chunk_of(handle);
	if (chunk && !offset && !flags && bytes == chunk->bytes && !mapping_find(at))
		error = map_locked(at, bytes, chunk);
	pthread_mutex_unlock(&lock);
	return error;
}

/* Of whole mappings, one after the other. */
API(cuMemUnmap, address at, size_t bytes)
{
	result error = OK;

	pthread_mutex_lock(&lock);
	while (bytes && error == OK) {
		struct mapping *mapping = mapping_find(at);

		if (!mapping || mapping->chunk < 0 || mapping->base != at || mapping->bytes > bytes) {
			error = INVALID_VALUE;
			break;
		}
		(void)mmap(bytes_at(at), mapping->bytes, PROT_NONE,
		           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		chunk_unref(&chunks[mapping->chunk]);
		mapping->used = false;
		at += mapping->bytes;
		bytes -= mapping->bytes;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

API(cuMemSetAccess, address at, size_t bytes, const void *access, size_t count)
{
	(void)access;
	return count == 1 ? range_check(at, bytes) : INVALID_VALUE;
}

API(cuMemRetainAllocationHandle, unsigned long long *handle, void *at)
{
	const struct mapping *mapping;
	result error = INVALID_VALUE;

	pthread_mutex_lock(&lock);
	mapping = mapping_find((address)(uintptr_t)at);
	if (mapping && mapping->chunk >= 0) {
		chunks[mapping->chunk].refs++;
		*handle = (unsigned long long)mapping->chunk + 1;
		error = OK;
	}
	pthread_mutex_unlock(&lock);
	return error;
}

API(cuMemExportToShareableHandle, void *shareable, unsigned long long handle, int type,
    unsigned long long flags)
{
	const struct chunk *chunk;
	int fd = -1;

	pthread_mutex_lock(&lock);
	chunk = chunk_of(handle);
	if (chunk && type == 1 && !flags && chunk->exportable)
		fd = fcntl(chunk->fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&lock);
	if (fd < 0)
		return INVALID_VALUE;
	*(int *)shareable = fd;
	return OK;
}

/* ---- streams and events -------------------------------------------------------------------- */

API(cuStreamCreate, void **stream, unsigned flags)
{
	if (fails(__func__))
		return INVALID_VALUE;
	if (!current() || flags > 1)
		return INVALID_CONTEXT;
	*stream = malloc(1);
	return *stream ? OK : OUT_OF_MEMORY;
}

API(cuStreamSynchronize, void *stream)
{
	(void)stream;
	if (fails(__func__))
		return INVALID_VALUE;
	return OK;
}

API(cuStreamDestroy_v2, void *stream)
{
	free(stream);
	return OK;
}

/* A stall is kept in the event, as far as it was recorded before. */
struct event {
	bool never;
};

API(cuEventCreate, void **event, unsigned flags)
{
	enum { DISABLE_TIMING = 2 };

	if (fails(__func__))
		return INVALID_VALUE;
	if (!current())
		return INVALID_CONTEXT;
	if (flags & ~(unsigned)DISABLE_TIMING)
		return INVALID_VALUE;
	*event = calloc(1, sizeof(struct event));
	return *event ? OK : OUT_OF_MEMORY;
}

API(cuEventRecord, void *event, void *stream)
{
	(void)stream;
	if (fails(__func__))
		return INVALID_VALUE;
	if (!current() || !event)
		return INVALID_HANDLE;
	((struct event *)event)->never = fake_stalled;
	return OK;
}

API(cuEventQuery, void *event)
{
	if (!event)
		return INVALID_HANDLE;
	return ((struct event *)event)->never ? NOT_READY : OK;
}

extern uint64_t fake_stream_writes;
__attribute__((visibility("default"))) uint64_t fake_stream_writes;

API(cuStreamWriteValue32_v2, void *stream, address to, uint32_t value, unsigned flags)
{
	(void)stream;
	if (fails(__func__))
		return INVALID_VALUE;
	if (!current() || flags || to % sizeof value)
		return INVALID_VALUE;
	(void)__atomic_add_fetch(&fake_stream_writes, 1, __ATOMIC_RELAXED);
	if (!fake_stalled)
		__atomic_store_n((uint32_t *)(uintptr_t)to, value, __ATOMIC_RELEASE);
	return OK;
}

API(cuMemHostRegister_v2, void *data, size_t bytes, unsigned flags)
{
	enum { PORTABLE = 1, DEVICE_MAP = 2 };

	if (fails(__func__))
		return INVALID_VALUE;
	return current() && data && bytes && flags == (PORTABLE | DEVICE_MAP) ? OK : INVALID_VALUE;
}

API(cuMemHostUnregister, void *data)
{
	return current() && data ? OK : INVALID_VALUE;
}

API(cuMemHostGetDevicePointer_v2, address *at, void *data, unsigned flags)
{
	if (fails(__func__))
		return INVALID_VALUE;
	if (!current() || flags)
		return INVALID_VALUE;
	*at = (address)(uintptr_t)data;
	return OK;
}

/* Whatever the function does: no stream gets anywhere after it. */
API(cuLaunchHostFunc, void *stream, void (*function)(void *), void *data)
{
	(void)stream, (void)function, (void)data;
	fake_stalled = true;
	return OK;
}

API(cuStreamWaitEvent, void *stream, void *event, unsigned flags)
{
	(void)stream;
	if (fails(__func__))
		return INVALID_VALUE;
	return event && !flags ? OK : INVALID_HANDLE;
}

API(cuEventDestroy_v2, void *event)
{
	if (!event)
		return INVALID_HANDLE;
	free(event);
	return OK;
}
