/* The device layer by CUDA: the runtime's API where it has what is needed, else the driver's, whose functions
 * are asked for at run time, so that nothing links libcuda.
 *
 * Errors. CUDA keeps the last error of each thread and hands it to whoever asks next: it is taken away here
 * after each failure, so that a forged handle leaves nothing behind. Whether it sticks is asked of CUDA
 * itself: in a context that is lost every call fails, so a query of an idle stream does. */
#include "daemon/gpu/device.h"

#include <assert.h>
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/checked.h"

struct driver {
	PFN_cuDeviceGet_v2000 device_get;
	PFN_cuDeviceGetUuid_v11040 device_uuid;
	PFN_cuMemGetAddressRange_v3020 address_range;
	PFN_cuMemAddressReserve_v10020 address_reserve;
	PFN_cuMemAddressFree_v10020 address_free;
	PFN_cuMemImportFromShareableHandle_v10020 import;
	PFN_cuMemGetAllocationPropertiesFromHandle_v10020 properties;
	PFN_cuMemMap_v10020 map;
	PFN_cuMemUnmap_v10020 unmap;
	PFN_cuMemSetAccess_v10020 set_access;
	PFN_cuMemRelease_v10020 release;
};

struct kvc_dev {
	int ordinal;
	struct driver driver;
	cudaStream_t probe;     /* nothing ever runs on it */
	atomic_bool lost;       /* set once, by any thread; orders nothing */
	uint64_t context_bytes; /* what the device's memory in use grew by when the context was made; a guess
	                         * if others allocated at that moment */
	uint64_t allocated;
};

struct kvc_dev_memory {
	void *ipc;            /* as opened; NULL: chunks */
	uint64_t address;     /* of the region. Chunks: of the reservation too */
	uint64_t reservation; /* bytes of it */
	uint32_t chunks;      /* mapped so far */
	uint64_t chunk_bytes[];
};

static _Thread_local char why[KVC_GPU_DETAIL_BYTES];

static_assert(sizeof(cudaIpcMemHandle_t) == KVC_GPU_HANDLE_BYTES, "on the wire");

/* --- errors --- */

const char *kvc_dev_why(void)
{
	return why;
}

bool kvc_dev_lost(const struct kvc_dev *dev)
{
	return atomic_load_explicit(&dev->lost, memory_order_relaxed);
}

/* Errors after which a context is of no use, should the probe not tell. */
static bool sticks(int error)
{
	switch (error) {
	case cudaErrorECCUncorrectable:
	case cudaErrorNvlinkUncorrectable:
	case cudaErrorContained:
	case cudaErrorIllegalAddress:
	case cudaErrorLaunchTimeout:
	case cudaErrorAssert:
	case cudaErrorHardwareStackError:
	case cudaErrorIllegalInstruction:
	case cudaErrorMisalignedAddress:
	case cudaErrorInvalidAddressSpace:
	case cudaErrorInvalidPc:
	case cudaErrorLaunchFailure:
	case cudaErrorMpsRpcFailure:
	case cudaErrorMpsClientTerminated:
		return true;
	default:
		return false;
	}
}

/* Driver and runtime number their errors alike. */
static kvc_status failed(struct kvc_dev *dev, int error, const char *what)
{
	snprintf(why, sizeof why, "%s: %s", what, cudaGetErrorString((cudaError_t)error));
	(void)cudaGetLastError();
	if (sticks(error) || (dev->probe && cudaStreamQuery(dev->probe) != cudaSuccess))
		atomic_store_explicit(&dev->lost, true, memory_order_relaxed);
	return kvc_dev_lost(dev) ? KVC_ENGINE_LOST : kvc_kern_status(error);
}

static kvc_status status_of(struct kvc_dev *dev, int error, const char *what)
{
	return error == cudaSuccess ? KVC_OK : failed(dev, error, what);
}

static kvc_status refuse(const char *text)
{
	snprintf(why, sizeof why, "%s", text);
	return KVC_INVALID;
}

/* --- what CUDA does not tell: memory in use before there is a context --- */

struct nvml_memory {
	unsigned long long total, free, used;
};

struct nvml {
	void *library;
	int (*init)(void);
	int (*device)(const char *bus_id, void **device);
	int (*memory)(void *device, struct nvml_memory *memory);
	int (*shutdown)(void);
};

static bool nvml_load(struct nvml *nvml)
{
	nvml->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!nvml->library)
		return false;
	*(void **)&nvml->init = dlsym(nvml->library, "nvmlInit_v2");
	*(void **)&nvml->device = dlsym(nvml->library, "nvmlDeviceGetHandleByPciBusId_v2");
	*(void **)&nvml->memory = dlsym(nvml->library, "nvmlDeviceGetMemoryInfo");
	*(void **)&nvml->shutdown = dlsym(nvml->library, "nvmlShutdown");
	return nvml->init && nvml->device && nvml->memory && nvml->shutdown;
}

/* Bytes of the device that are in use by anybody; 0 if that cannot be told. */
static uint64_t device_used(int ordinal)
{
	struct nvml nvml = {0};
	struct nvml_memory memory = {0};
	char bus_id[32];
	void *device;

	if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, ordinal) || !nvml_load(&nvml) || nvml.init())
		return 0;
	if (nvml.device(bus_id, &device) || nvml.memory(device, &memory))
		memory.used = 0;
	nvml.shutdown();
	return memory.used;
}

/* --- the device --- */

static kvc_status entry_point(struct kvc_dev *dev, const char *symbol, unsigned version, void **function)
{
	enum cudaDriverEntryPointQueryResult found;
	kvc_status status = status_of(
	        dev,
	        (int)cudaGetDriverEntryPointByVersion(symbol, function, version, cudaEnableDefault, &found),
	        symbol);

	if (status == KVC_OK && (found != cudaDriverEntryPointSuccess || !*function)) {
		snprintf(why, sizeof why, "the CUDA driver has no %s: it is too old", symbol);
		return KVC_UNSUPPORTED;
	}
	return status;
}

static kvc_status driver_load(struct kvc_dev *dev)
{
	struct driver *driver = &dev->driver;
	const struct {
		const char *symbol;
		unsigned version;
		void **function;
	} wanted[] = {
	        {"cuDeviceGet", 2000, (void **)&driver->device_get},
	        {"cuDeviceGetUuid", 11040, (void **)&driver->device_uuid},
	        {"cuMemGetAddressRange", 3020, (void **)&driver->address_range},
	        {"cuMemAddressReserve", 10020, (void **)&driver->address_reserve},
	        {"cuMemAddressFree", 10020, (void **)&driver->address_free},
	        {"cuMemImportFromShareableHandle", 10020, (void **)&driver->import},
	        {"cuMemGetAllocationPropertiesFromHandle", 10020, (void **)&driver->properties},
	        {"cuMemMap", 10020, (void **)&driver->map},
	        {"cuMemUnmap", 10020, (void **)&driver->unmap},
	        {"cuMemSetAccess", 10020, (void **)&driver->set_access},
	        {"cuMemRelease", 10020, (void **)&driver->release},
	};
	kvc_status status = KVC_OK;

	for (unsigned i = 0; status == KVC_OK && i < sizeof wanted / sizeof wanted[0]; i++)
		status = entry_point(dev, wanted[i].symbol, wanted[i].version, wanted[i].function);
	return status;
}

static kvc_status context_make(struct kvc_dev *dev)
{
	int count = 0;
	kvc_status status = status_of(dev, (int)cudaGetDeviceCount(&count), "count devices");

	if (status)
		return KVC_UNSUPPORTED; /* no driver, none that fits, no device: nothing to retry */
	if (dev->ordinal >= count) {
		snprintf(why, sizeof why, "device %d of %d", dev->ordinal, count);
		return KVC_UNSUPPORTED;
	}
	status = status_of(dev, (int)cudaSetDevice(dev->ordinal), "make a context");
	if (status == KVC_OK)
		status = status_of(dev, (int)cudaFree(NULL), "make a context");
	if (status == KVC_OK)
		status = status_of(dev, (int)cudaStreamCreateWithFlags(&dev->probe, cudaStreamNonBlocking),
		                   "make a stream");
	return status;
}

/* A driver that does not know the question does not share. */
static bool is_shared(const struct kvc_dev *dev)
{
	int shared = 0;

	if (cudaDeviceGetAttribute(&shared, cudaDevAttrMpsEnabled, dev->ordinal) != cudaSuccess)
		(void)cudaGetLastError();
	return shared != 0;
}

static kvc_status info_get(struct kvc_dev *dev, struct kvc_dev_info *info)
{
	struct cudaDeviceProp properties;
	CUdevice device;
	CUuuid uuid;
	kvc_status status =
	        status_of(dev, (int)cudaGetDeviceProperties(&properties, dev->ordinal), "ask the device");

	if (status == KVC_OK)
		status = status_of(dev, (int)dev->driver.device_get(&device, dev->ordinal), "ask the device");
	if (status == KVC_OK)
		status = status_of(dev, (int)dev->driver.device_uuid(&uuid, device), "ask the device");
	if (status)
		return status;
	*info = (struct kvc_dev_info){.sms = (uint32_t)properties.multiProcessorCount,
	                              .shared = is_shared(dev)};
	memcpy(info->uuid, uuid.bytes, sizeof info->uuid);
	snprintf(info->name, sizeof info->name, "%.63s", properties.name);
	return KVC_OK;
}

static kvc_status kernels_load(struct kvc_dev *dev)
{
	kvc_status status = kvc_kern_load();

	if (status)
		(void)failed(dev, (int)cudaPeekAtLastError(), "load the kernels");
	return status;
}

kvc_status kvc_dev_open(uint32_t ordinal, struct kvc_dev **dev, struct kvc_dev_info *info)
{
	struct kvc_dev *opened = kvc_calloc(1, sizeof *opened);
	uint64_t before, after;
	kvc_status status;

	if (!opened)
		return KVC_NO_MEMORY;
	opened->ordinal = (int)ordinal;
	before = device_used(opened->ordinal);
	status = context_make(opened);
	if (status == KVC_OK)
		status = driver_load(opened);
	if (status == KVC_OK)
		status = kernels_load(opened);
	if (status == KVC_OK)
		status = info_get(opened, info);
	if (status) {
		kvc_dev_close(opened);
		return status;
	}
	after = device_used(opened->ordinal);
	opened->context_bytes = before && after > before ? after - before : 0;
	*dev = opened;
	return KVC_OK;
}

void kvc_dev_close(struct kvc_dev *dev)
{
	if (dev->probe)
		(void)cudaStreamDestroy(dev->probe);
	(void)cudaGetLastError();
	kvc_free(dev);
}

uint64_t kvc_dev_bytes(const struct kvc_dev *dev)
{
	return dev->context_bytes + dev->allocated;
}

/* --- memory --- */

kvc_status kvc_dev_alloc(struct kvc_dev *dev, uint64_t bytes, uint64_t *address)
{
	void *memory;
	kvc_status status = status_of(dev, (int)cudaMalloc(&memory, bytes), "allocate device memory");

	if (status)
		return status;
	dev->allocated += bytes;
	*address = (uint64_t)(uintptr_t)memory;
	return KVC_OK;
}

/* For what is small or at the end: the bytes are not taken off again. */
void kvc_dev_free(struct kvc_dev *dev, uint64_t address)
{
	(void)status_of(dev, (int)cudaFree((void *)(uintptr_t)address), "free device memory");
}

kvc_status kvc_dev_host_alloc(struct kvc_dev *dev, uint64_t bytes, void **host)
{
	return status_of(dev, (int)cudaHostAlloc(host, bytes, cudaHostAllocDefault),
	                 "allocate pinned memory");
}

void kvc_dev_host_free(struct kvc_dev *dev, void *host)
{
	(void)status_of(dev, (int)cudaFreeHost(host), "free pinned memory");
}

/* Another thread may call: the device is a thread's own setting. */
kvc_status kvc_dev_pin(struct kvc_dev *dev, void *host, uint64_t bytes)
{
	kvc_status status = status_of(dev, (int)cudaSetDevice(dev->ordinal), "choose the device");

	if (status)
		return status;
	return status_of(dev, (int)cudaHostRegister(host, bytes, cudaHostRegisterDefault), "pin memory");
}

void kvc_dev_unpin(struct kvc_dev *dev, void *host)
{
	(void)status_of(dev, (int)cudaHostUnregister(host), "unpin memory");
}

/* --- streams and events --- */

static cudaStream_t stream_of(struct kvc_dev_stream *stream)
{
	return (cudaStream_t)(void *)stream;
}

static cudaEvent_t event_of(struct kvc_dev_event *event)
{
	return (cudaEvent_t)(void *)event;
}

kvc_status kvc_dev_stream_open(struct kvc_dev *dev, bool low_priority, struct kvc_dev_stream **stream)
{
	int least, greatest;
	cudaStream_t opened;
	kvc_status status = status_of(dev, (int)cudaDeviceGetStreamPriorityRange(&least, &greatest),
	                              "ask for priorities");

	if (status == KVC_OK)
		status = status_of(dev,
		                   (int)cudaStreamCreateWithPriority(&opened, cudaStreamNonBlocking,
		                                                     low_priority ? least : greatest),
		                   "make a stream");
	if (status == KVC_OK)
		*stream = (struct kvc_dev_stream *)(void *)opened;
	return status;
}

void kvc_dev_stream_close(struct kvc_dev *dev, struct kvc_dev_stream *stream)
{
	(void)status_of(dev, (int)cudaStreamDestroy(stream_of(stream)), "close a stream");
}

kvc_status kvc_dev_event_open(struct kvc_dev *dev, struct kvc_dev_event **event)
{
	cudaEvent_t opened;
	kvc_status status = status_of(dev, (int)cudaEventCreateWithFlags(&opened, cudaEventDisableTiming),
	                              "make an event");

	if (status == KVC_OK)
		*event = (struct kvc_dev_event *)(void *)opened;
	return status;
}

void kvc_dev_event_close(struct kvc_dev *dev, struct kvc_dev_event *event)
{
	(void)status_of(dev, (int)cudaEventDestroy(event_of(event)), "close an event");
}

kvc_status kvc_dev_event_record(struct kvc_dev *dev, struct kvc_dev_event *event,
                                struct kvc_dev_stream *stream)
{
	return status_of(dev, (int)cudaEventRecord(event_of(event), stream_of(stream)), "record an event");
}

kvc_status kvc_dev_event_wait(struct kvc_dev *dev, struct kvc_dev_event *event, struct kvc_dev_stream *stream)
{
	return status_of(dev,
	                 (int)cudaStreamWaitEvent(stream_of(stream), event_of(event), cudaEventWaitDefault),
	                 "wait for an event");
}

kvc_status kvc_dev_event_poll(struct kvc_dev *dev, struct kvc_dev_event *event)
{
	cudaError_t error = cudaEventQuery(event_of(event));

	if (error == cudaErrorNotReady) {
		(void)cudaGetLastError();
		return KVC_BUSY;
	}
	return status_of(dev, (int)error, "work on the device");
}

/* On a thread of CUDA's; may call nothing of CUDA. */
static void hint(void *context)
{
	int event_fd = (int)(intptr_t)context;
	uint64_t one = 1;

	/* If it does not go through the counter is full, so the reader is awake anyway. */
	if (write(event_fd, &one, sizeof one) < 0)
		return;
}

kvc_status kvc_dev_hint(struct kvc_dev *dev, struct kvc_dev_stream *stream, int event_fd)
{
	return status_of(dev, (int)cudaLaunchHostFunc(stream_of(stream), hint, (void *)(intptr_t)event_fd),
	                 "ask for a hint");
}

/* --- work --- */

kvc_status kvc_dev_copy_up(struct kvc_dev *dev, uint64_t to, const void *from, uint64_t bytes,
                           struct kvc_dev_stream *stream)
{
	return status_of(dev,
	                 (int)cudaMemcpyAsync((void *)(uintptr_t)to, from, bytes, cudaMemcpyHostToDevice,
	                                      stream_of(stream)),
	                 "copy to the device");
}

kvc_status kvc_dev_copy_down(struct kvc_dev *dev, void *to, uint64_t from, uint64_t bytes,
                             struct kvc_dev_stream *stream)
{
	return status_of(dev,
	                 (int)cudaMemcpyAsync(to, (const void *)(uintptr_t)from, bytes,
	                                      cudaMemcpyDeviceToHost, stream_of(stream)),
	                 "copy from the device");
}

/* The launchers have translated CUDA's error; only its text and whether it sticks are left to find out. */
static kvc_status launched(struct kvc_dev *dev, kvc_status status, const char *what)
{
	int error = status ? (int)cudaPeekAtLastError() : 0;

	if (error && failed(dev, error, what) == KVC_ENGINE_LOST)
		return KVC_ENGINE_LOST;
	if (status && !error)
		snprintf(why, sizeof why, "%s: %s", what, kvc_status_text(status));
	return status;
}

kvc_status kvc_dev_encode(struct kvc_dev *dev, const struct kvc_kern_job *job)
{
	return launched(dev, kvc_kern_encode(job), "launch the encoder");
}

kvc_status kvc_dev_decode(struct kvc_dev *dev, const struct kvc_kern_job *job)
{
	return launched(dev, kvc_kern_decode(job), "launch the decoder");
}

/* --- memory of other processes: by IPC handle --- */

static kvc_status range_check(struct kvc_dev *dev, uint64_t address, uint64_t offset, uint64_t bytes)
{
	CUdeviceptr base;
	size_t size;
	uint64_t end;
	kvc_status status = status_of(dev, (int)dev->driver.address_range(&base, &size, address),
	                              "ask for the allocation");

	if (status)
		return status;
	if (address < base || address - base > size)
		return refuse("the allocation is not where it was mapped");
	if (kvc_add_u64(offset, bytes, &end) && end <= size - (address - base))
		return KVC_OK;
	snprintf(why, sizeof why, "%llu bytes at offset %llu do not lie in the allocation of %llu bytes",
	         (unsigned long long)bytes, (unsigned long long)offset,
	         (unsigned long long)(size - (address - base)));
	return KVC_INVALID;
}

static kvc_status ipc_check(struct kvc_dev *dev, void *base, uint64_t offset, uint64_t bytes)
{
	struct cudaPointerAttributes attributes;
	kvc_status status =
	        status_of(dev, (int)cudaPointerGetAttributes(&attributes, base), "ask for the device");

	if (status)
		return status;
	if (attributes.device != dev->ordinal)
		return refuse("the memory is on another device");
	return range_check(dev, (uint64_t)(uintptr_t)base, offset, bytes);
}

kvc_status kvc_dev_import(struct kvc_dev *dev, const uint8_t handle[KVC_GPU_HANDLE_BYTES], uint64_t offset,
                          uint64_t bytes, struct kvc_dev_memory **memory)
{
	struct kvc_dev_memory *made = kvc_calloc(1, sizeof *made);
	cudaIpcMemHandle_t ipc;
	kvc_status status;

	if (!made)
		return KVC_NO_MEMORY;
	memcpy(&ipc, handle, sizeof ipc);
	status = status_of(dev, (int)cudaIpcOpenMemHandle(&made->ipc, ipc, cudaIpcMemLazyEnablePeerAccess),
	                   "open the IPC handle of the memory");
	if (status) {
		kvc_free(made);
		return status == KVC_INTERNAL || status == KVC_UNSUPPORTED ? KVC_INVALID : status;
	}
	status = ipc_check(dev, made->ipc, offset, bytes);
	if (status) {
		kvc_dev_unimport(dev, made);
		return status;
	}
	made->address = (uint64_t)(uintptr_t)made->ipc + offset;
	*memory = made;
	return KVC_OK;
}

/* --- memory of other processes: chunks --- */

/* True if the chunks hold `bytes`; *total is what they hold. */
static bool chunks_hold(const uint64_t *chunk_bytes, uint32_t chunks, uint64_t bytes, uint64_t *total)
{
	*total = 0;
	for (uint32_t i = 0; i < chunks; i++) {
		if (chunk_bytes[i] == 0 || !kvc_add_u64(*total, chunk_bytes[i], total))
			return false;
	}
	return *total >= bytes && *total > 0;
}

static kvc_status chunk_device_check(struct kvc_dev *dev, CUmemGenericAllocationHandle handle)
{
	CUmemAllocationProp properties;
	kvc_status status = status_of(dev, (int)dev->driver.properties(&properties, handle),
	                              "ask for the chunk's device");

	if (status)
		return status;
	if (properties.location.type != CU_MEM_LOCATION_TYPE_DEVICE || properties.location.id != dev->ordinal)
		return refuse("a chunk is on another device");
	return KVC_OK;
}

/* The mapping keeps the memory alive, so the handle is given back at once. */
static kvc_status chunk_map(struct kvc_dev *dev, struct kvc_dev_memory *memory, uint64_t at, int fd,
                            uint64_t bytes)
{
	CUmemGenericAllocationHandle handle;
	kvc_status status = status_of(dev,
	                              (int)dev->driver.import(&handle, (void *)(intptr_t)fd,
	                                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
	                              "import a chunk");

	if (status)
		return status;
	status = chunk_device_check(dev, handle);
	if (status == KVC_OK)
		status = status_of(dev, (int)dev->driver.map(at, bytes, 0, handle, 0),
		                   "map a chunk: it is smaller than was said, or its size is none of CUDA's");
	if (status == KVC_OK)
		memory->chunk_bytes[memory->chunks++] = bytes;
	(void)dev->driver.release(handle);
	return status;
}

static kvc_status chunks_map(struct kvc_dev *dev, struct kvc_dev_memory *memory, const int *fds,
                             const uint64_t *chunk_bytes, uint32_t chunks)
{
	CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = dev->ordinal},
	                          .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	uint64_t at = memory->address;
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < chunks; i++) {
		status = chunk_map(dev, memory, at, fds[i], chunk_bytes[i]);
		at += chunk_bytes[i];
	}
	if (status == KVC_OK)
		status = status_of(
		        dev, (int)dev->driver.set_access(memory->address, memory->reservation, &access, 1),
		        "get access to the chunks");
	return status;
}

kvc_status kvc_dev_import_chunks(struct kvc_dev *dev, const int *fds, const uint64_t *chunk_bytes,
                                 uint32_t chunks, uint64_t bytes, struct kvc_dev_memory **memory)
{
	struct kvc_dev_memory *made;
	uint64_t total;
	CUdeviceptr address;
	kvc_status status;

	if (!chunks_hold(chunk_bytes, chunks, bytes, &total))
		return refuse("the chunks do not hold the region");
	made = kvc_calloc(1, sizeof *made + chunks * sizeof made->chunk_bytes[0]);
	if (!made)
		return KVC_NO_MEMORY;
	status = status_of(dev, (int)dev->driver.address_reserve(&address, total, 0, 0, 0),
	                   "reserve addresses");
	if (status) {
		kvc_free(made);
		return status;
	}
	made->address = address;
	made->reservation = total;
	status = chunks_map(dev, made, fds, chunk_bytes, chunks);
	if (status) {
		kvc_dev_unimport(dev, made);
		return status == KVC_INTERNAL || status == KVC_UNSUPPORTED ? KVC_INVALID : status;
	}
	*memory = made;
	return KVC_OK;
}

static void chunks_unmap(struct kvc_dev *dev, const struct kvc_dev_memory *memory)
{
	uint64_t at = memory->address;

	for (uint32_t i = 0; i < memory->chunks; i++) {
		(void)status_of(dev, (int)dev->driver.unmap(at, memory->chunk_bytes[i]), "unmap a chunk");
		at += memory->chunk_bytes[i];
	}
	(void)status_of(dev, (int)dev->driver.address_free(memory->address, memory->reservation),
	                "give addresses back");
}

/* Keeps the text of what failed before: this is what failing imports end with. */
void kvc_dev_unimport(struct kvc_dev *dev, struct kvc_dev_memory *memory)
{
	char kept[sizeof why];

	memcpy(kept, why, sizeof why);
	if (memory->ipc)
		(void)status_of(dev, (int)cudaIpcCloseMemHandle(memory->ipc),
		                "close the IPC handle of memory");
	else
		chunks_unmap(dev, memory);
	memcpy(why, kept, sizeof why);
	kvc_free(memory);
}

uint64_t kvc_dev_memory_address(const struct kvc_dev_memory *memory)
{
	return memory->address;
}
