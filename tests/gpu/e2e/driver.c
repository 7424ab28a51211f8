/* See driver.h. The types are the driver API's, by their sizes; symbols carry the version that the names in
 * cuda.h stand for. */
#include "tests/gpu/e2e/driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SKIP_STATUS 77
#define DEVICES_MAX 2
#define FAKE_BYTES  (UINT64_C(1) << 36) /* the stand-in does not count */

struct location {
	int type; /* 1: a device */
	int id;
};

struct vmm_properties {
	int type;    /* 1: pinned */
	int handles; /* 1: descriptor */
	struct location location;
	void *unused;
	uint8_t flags[8];
};

struct vmm_access {
	struct location location;
	int flags; /* 3: read and write */
};

static struct {
	void *library;
	void *contexts[DEVICES_MAX];
	char name[64];
	int (*init)(unsigned);
	int (*error_text)(int, const char **);
	int (*device_count)(int *);
	int (*device_name)(char *, int, int);
	int (*device_uuid)(uint8_t *, int);
	int (*context_retain)(void **, int);
	int (*context_set)(void *);
	int (*info)(size_t *, size_t *);
	int (*alloc)(uint64_t *, size_t);
	int (*free)(uint64_t);
	int (*put)(uint64_t, const void *, size_t);
	int (*get)(void *, uint64_t, size_t);
	int (*fill)(uint64_t, unsigned char, size_t);
	int (*ipc_handle)(void *, uint64_t);
	int (*granularity)(size_t *, const struct vmm_properties *, int);
	int (*create)(uint64_t *, size_t, const struct vmm_properties *, unsigned long long);
	int (*release)(uint64_t);
	int (*reserve)(uint64_t *, size_t, size_t, uint64_t, unsigned long long);
	int (*unreserve)(uint64_t, size_t);
	int (*map)(uint64_t, size_t, size_t, uint64_t, unsigned long long);
	int (*unmap)(uint64_t, size_t);
	int (*export)(void *, uint64_t, int, unsigned long long);
	int (*access)(uint64_t, size_t, const struct vmm_access *, size_t);
	int (*pinned)(void **, size_t, unsigned);
	int (*pinned_free)(void *);
	int (*priorities)(int *, int *);
	int (*stream)(void **, unsigned, int);
	int (*stream_wait)(void *);
	int (*host_function)(void *, void (*)(void *), void *);
	int (*get_later)(void *, uint64_t, size_t, void *);
	int (*put_later)(uint64_t, const void *, size_t, void *);
} cuda;

static _Thread_local int current; /* device */

static const struct {
	const char *name;
	void *slot;
} symbols[] = {
        {"cuInit", &cuda.init},
        {"cuGetErrorString", &cuda.error_text},
        {"cuDeviceGetCount", &cuda.device_count},
        {"cuDeviceGetName", &cuda.device_name},
        {"cuDeviceGetUuid_v2", &cuda.device_uuid},
        {"cuDevicePrimaryCtxRetain", &cuda.context_retain},
        {"cuCtxSetCurrent", &cuda.context_set},
        {"cuMemGetInfo_v2", &cuda.info},
        {"cuMemAlloc_v2", &cuda.alloc},
        {"cuMemFree_v2", &cuda.free},
        {"cuMemcpyHtoD_v2", &cuda.put},
        {"cuMemcpyDtoH_v2", &cuda.get},
        {"cuMemsetD8_v2", &cuda.fill},
        {"cuIpcGetMemHandle", &cuda.ipc_handle},
        {"cuMemGetAllocationGranularity", &cuda.granularity},
        {"cuMemCreate", &cuda.create},
        {"cuMemRelease", &cuda.release},
        {"cuMemAddressReserve", &cuda.reserve},
        {"cuMemAddressFree", &cuda.unreserve},
        {"cuMemMap", &cuda.map},
        {"cuMemUnmap", &cuda.unmap},
        {"cuMemExportToShareableHandle", &cuda.export},
        {"cuMemSetAccess", &cuda.access},
        {"cuMemHostAlloc", &cuda.pinned},
        {"cuMemFreeHost", &cuda.pinned_free},
        {"cuCtxGetStreamPriorityRange", &cuda.priorities},
        {"cuStreamCreateWithPriority", &cuda.stream},
        {"cuStreamSynchronize", &cuda.stream_wait},
        {"cuLaunchHostFunc", &cuda.host_function},
        {"cuMemcpyDtoHAsync_v2", &cuda.get_later},
        {"cuMemcpyHtoDAsync_v2", &cuda.put_later},
};

static void check(int error, const char *what)
{
	const char *text = NULL;

	if (error == 0)
		return;
	if (cuda.error_text)
		cuda.error_text(error, &text);
	fprintf(stderr, "%s: CUDA error %d: %s\n", what, error, text ? text : "?");
	exit(1);
}

static void skip(const char *why)
{
	printf("%s\n", why);
	exit(SKIP_STATUS);
}

/* What the stand-in lacks stays NULL; whoever needs it finds out by need(). */
static void load(void)
{
	cuda.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!cuda.library)
		skip("no CUDA driver (libcuda.so.1)");
	for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++)
		*(void **)symbols[i].slot = dlsym(cuda.library, symbols[i].name);
}

#define need(function)                                                              \
	do {                                                                        \
		if (!cuda.function) {                                               \
			fprintf(stderr, "this CUDA driver has no %s\n", #function); \
			exit(1);                                                    \
		}                                                                   \
	} while (0)

void driver_open(unsigned devices)
{
	int count = 0;

	load();
	need(init);
	if (cuda.init(0) != 0 || cuda.device_count(&count) != 0 || count == 0)
		skip("no CUDA device");
	if ((unsigned)count < devices)
		skip("not enough CUDA devices");
	for (unsigned i = 0; i < devices; i++)
		check(cuda.context_retain(&cuda.contexts[i], (int)i), "primary context");
	check(cuda.device_name(cuda.name, (int)sizeof cuda.name, 0), "name of the device");
	driver_enter(0);
}

void driver_enter(unsigned device)
{
	check(cuda.context_set(cuda.contexts[device]), "current context");
	current = (int)device;
}

unsigned driver_device(void)
{
	return (unsigned)current;
}

bool driver_is_fake(void)
{
	const char *folder = getenv("KVC_FAKE_CUDA_DIR");

	return folder && *folder;
}

const char *driver_name(void)
{
	return cuda.name;
}

uint64_t driver_free_bytes(void)
{
	size_t now = 0;
	size_t all = 0;

	if (driver_is_fake())
		return FAKE_BYTES;
	need(info);
	check(cuda.info(&now, &all), "free device memory");
	return now;
}

/* ---- memory -------------------------------------------------------------------------------- */

uint64_t driver_alloc(uint64_t bytes)
{
	uint64_t address = 0;

	check(cuda.alloc(&address, bytes), "device memory");
	return address;
}

void driver_free(uint64_t address)
{
	check(cuda.free(address), "free device memory");
}

static void vmm_chunk(struct driver_vmm *vmm, const struct vmm_properties *properties)
{
	uint64_t *handle = &vmm->handles[vmm->chunks];

	check(cuda.create(handle, vmm->chunk_bytes, properties, 0), "create VMM memory");
	check(cuda.map(vmm->address + vmm->chunks * vmm->chunk_bytes, vmm->chunk_bytes, 0, *handle, 0),
	      "map VMM memory");
	vmm->chunks++;
}

void driver_vmm_alloc(struct driver_vmm *vmm, uint64_t bytes, uint64_t chunk_bytes, bool exportable)
{
	struct vmm_properties properties = {.type = 1, .handles = exportable, .location = {1, current}};
	const struct vmm_access access = {.location = {1, current}, .flags = 3};
	size_t granularity = 0;
	uint64_t count;

	need(create);
	check(cuda.granularity(&granularity, &properties, 0), "granularity of VMM memory");
	*vmm = (struct driver_vmm){0};
	vmm->chunk_bytes = (chunk_bytes + granularity - 1) / granularity * granularity;
	count = (bytes + vmm->chunk_bytes - 1) / vmm->chunk_bytes;
	vmm->bytes = count * vmm->chunk_bytes;
	vmm->handles = calloc(count, sizeof *vmm->handles);
	if (!vmm->handles)
		abort();
	check(cuda.reserve(&vmm->address, vmm->bytes, 0, 0, 0), "reserve addresses");
	while (vmm->chunks < count)
		vmm_chunk(vmm, &properties);
	check(cuda.access(vmm->address, vmm->bytes, &access, 1), "access to VMM memory");
}

void driver_vmm_free(struct driver_vmm *vmm)
{
	check(cuda.unmap(vmm->address, vmm->bytes), "unmap VMM memory");
	for (uint64_t i = 0; i < vmm->chunks; i++)
		check(cuda.release(vmm->handles[i]), "release VMM memory");
	check(cuda.unreserve(vmm->address, vmm->bytes), "free addresses");
	free(vmm->handles);
}

int driver_vmm_export(const struct driver_vmm *vmm, uint64_t chunk)
{
	int fd = -1;

	need(export);
	check(cuda.export(&fd, vmm->handles[chunk], 1, 0), "export VMM memory");
	return fd;
}

/* The driver may return before the bytes are there, and the streams of driver_stream do not wait for them. */
static void arrived(void)
{
	check(cuda.stream_wait(NULL), "wait for the device");
}

void driver_put(uint64_t to, const void *from, size_t bytes)
{
	check(cuda.put(to, from, bytes), "copy to the device");
	arrived();
}

void driver_get(void *to, uint64_t from, size_t bytes)
{
	check(cuda.get(to, from, bytes), "copy from the device");
}

void driver_fill(uint64_t to, uint8_t byte, size_t bytes)
{
	need(fill);
	check(cuda.fill(to, byte, bytes), "fill device memory");
	arrived();
}

void driver_ipc_handle(uint64_t address, uint8_t handle[64])
{
	need(ipc_handle);
	check(cuda.ipc_handle(handle, address), "IPC handle");
}

void driver_uuid(uint8_t uuid[16])
{
	need(device_uuid);
	check(cuda.device_uuid(uuid, current), "UUID of the device");
}

/* ---- streams ------------------------------------------------------------------------------- */

void *driver_pinned(uint64_t bytes)
{
	void *memory = NULL;

	need(pinned);
	check(cuda.pinned(&memory, bytes, 0), "pinned memory");
	return memory;
}

void driver_pinned_free(void *memory)
{
	check(cuda.pinned_free(memory), "free pinned memory");
}

void *driver_stream(bool low_priority)
{
	void *stream = NULL;
	int lowest = 0;
	int highest = 0;

	if (driver_is_fake())
		return NULL;
	need(stream);
	check(cuda.priorities(&lowest, &highest), "priorities of streams");
	check(cuda.stream(&stream, 1 /* does not wait for the default stream */,
	                  low_priority ? lowest : highest),
	      "stream");
	return stream;
}

static void sleep_for_good(void *unused)
{
	(void)unused;
	for (;;)
		pause();
}

void driver_stream_stall(void *stream)
{
	check(cuda.host_function(stream, sleep_for_good, NULL), "stall a stream");
}

void driver_stream_wait(void *stream)
{
	need(stream_wait);
	check(cuda.stream_wait(stream), "wait for a stream");
}

void driver_get_later(void *to, uint64_t from, size_t bytes, void *stream)
{
	need(get_later);
	check(cuda.get_later(to, from, bytes, stream), "copy from the device");
}

void driver_put_later(uint64_t to, const void *from, size_t bytes, void *stream)
{
	need(put_later);
	check(cuda.put_later(to, from, bytes, stream), "copy to the device");
}
