/* device.h by CUDA's runtime, linked statically: it shares the process's primary context with whatever
 * runtime the worker itself uses, and keeps the last error of its own. */
#include "client/cuda/device.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

struct kvcw_device {
	int ordinal;
	uint32_t sms;
};

static _Thread_local char why[160];

const char *kvcw_device_why(void)
{
	return why;
}

/* Translate, note the text, and forget the error, so that nobody else finds it. */
static kvc_status outcome(cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return KVC_OK;
	(void)cudaGetLastError();
	if (error != cudaErrorNotReady)
		(void)snprintf(why, sizeof why, "%s: %s", what, cudaGetErrorString(error));
	return kvc_kern_status((int)error);
}

/* The ordinal of the device that holds the memory; -1: none. */
static int device_of(const void *address)
{
	struct cudaPointerAttributes attributes;

	if (outcome(cudaPointerGetAttributes(&attributes, address), "pointer") != KVC_OK ||
	    (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged))
		return -1;
	return attributes.device;
}

static kvc_status device_prepare(struct kvcw_device *device)
{
	int before = kvcw_device_enter(device), sms = 0;
	kvc_status status =
	        outcome(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device->ordinal),
	                "multiprocessors");

	if (status == KVC_OK) {
		status = kvc_kern_load();
		if (status != KVC_OK) {
			(void)cudaGetLastError();
			(void)snprintf(why, sizeof why, "kernels cannot be loaded on device %d: %s",
			               device->ordinal, kvc_status_text(status));
		}
	}
	device->sms = (uint32_t)sms;
	kvcw_device_leave(before);
	return status;
}

kvc_status kvcw_device_open(const void *address, struct kvcw_device **device)
{
	int ordinal = device_of(address), count = 0;
	struct kvcw_device *made;
	kvc_status status = outcome(cudaGetDeviceCount(&count), "devices");

	if (status != KVC_OK)
		return status;
	if (ordinal < 0) {
		(void)snprintf(why, sizeof why, "%p is not device memory", address);
		return KVC_INVALID;
	}
	made = calloc(1, sizeof *made);
	if (!made) {
		(void)snprintf(why, sizeof why, "no memory");
		return KVC_NO_MEMORY;
	}
	made->ordinal = ordinal;
	status = device_prepare(made);
	if (status != KVC_OK) {
		free(made);
		return status;
	}
	*device = made;
	return KVC_OK;
}

void kvcw_device_close(struct kvcw_device *device)
{
	free(device);
}

uint32_t kvcw_device_sms(const struct kvcw_device *device)
{
	return device->sms;
}

int kvcw_device_enter(const struct kvcw_device *device)
{
	int before = device->ordinal;

	(void)outcome(cudaGetDevice(&before), "current device");
	if (before != device->ordinal)
		(void)outcome(cudaSetDevice(device->ordinal), "change of device");
	return before;
}

void kvcw_device_leave(int before)
{
	int now = before;

	(void)outcome(cudaGetDevice(&now), "current device");
	if (now != before)
		(void)outcome(cudaSetDevice(before), "change of device");
}

bool kvcw_device_has(const struct kvcw_device *device, const void *address)
{
	return device_of(address) == device->ordinal;
}

kvc_status kvcw_device_alloc(uint64_t bytes, void **memory)
{
	return outcome(cudaMalloc(memory, bytes), "device memory");
}

void kvcw_device_free(void *memory)
{
	if (memory)
		(void)outcome(cudaFree(memory), "free device memory");
}

kvc_status kvcw_host_alloc(uint64_t bytes, void **memory)
{
	kvc_status status = outcome(cudaHostAlloc(memory, bytes, cudaHostAllocDefault), "pinned memory");

	if (status == KVC_OK)
		for (uint64_t i = 0; i < bytes; i++)
			((uint8_t *)*memory)[i] = 0;
	return status;
}

void kvcw_host_free(void *memory)
{
	if (memory)
		(void)outcome(cudaFreeHost(memory), "free pinned memory");
}

kvc_status kvcw_host_pin(void *memory, uint64_t bytes)
{
	return outcome(cudaHostRegister(memory, bytes, cudaHostRegisterDefault), "pin shared memory");
}

void kvcw_host_unpin(void *memory)
{
	(void)outcome(cudaHostUnregister(memory), "unpin shared memory");
}

kvc_status kvcw_stream_open(void **stream)
{
	cudaStream_t made;
	kvc_status status = outcome(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "stream");

	if (status == KVC_OK)
		*stream = made;
	return status;
}

void kvcw_stream_close(void *stream)
{
	if (stream)
		(void)outcome(cudaStreamDestroy(stream), "end of a stream");
}

kvc_status kvcw_event_open(void **event)
{
	cudaEvent_t made;
	kvc_status status = outcome(cudaEventCreateWithFlags(&made, cudaEventDisableTiming), "event");

	if (status == KVC_OK)
		*event = made;
	return status;
}

void kvcw_event_close(void *event)
{
	if (event)
		(void)outcome(cudaEventDestroy(event), "end of an event");
}

kvc_status kvcw_event_record(void *event, void *stream)
{
	return outcome(cudaEventRecord(event, stream), "record an event");
}

kvc_status kvcw_event_wait(void *event, void *stream)
{
	return outcome(cudaStreamWaitEvent(stream, event, 0), "wait for an event");
}

kvc_status kvcw_event_poll(void *event)
{
	return outcome(cudaEventQuery(event), "work on the device");
}

kvc_status kvcw_copy(void *to, const void *from, uint64_t bytes, void *stream)
{
	return outcome(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy");
}

static kvc_status launched(kvc_status status, const char *what)
{
	if (status == KVC_OK)
		return KVC_OK;
	(void)cudaGetLastError();
	(void)snprintf(why, sizeof why, "%s: %s", what, kvc_status_text(status));
	return status;
}

kvc_status kvcw_encode(const struct kvc_kern_job *job)
{
	return launched(kvc_kern_encode(job), "encode");
}

kvc_status kvcw_decode(const struct kvc_kern_job *job)
{
	return launched(kvc_kern_decode(job), "decode");
}
