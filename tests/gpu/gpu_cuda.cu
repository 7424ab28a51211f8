/* gpu.h by CUDA. */
#include "tests/gpu/gpu.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

static cudaEvent_t timer[2];

static void must(cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return;
	fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
	exit(2);
}

static const struct cudaDeviceProp *properties(void)
{
	static struct cudaDeviceProp prop;

	if (prop.multiProcessorCount == 0)
		must(cudaGetDeviceProperties(&prop, 0), "properties of the device");
	return &prop;
}

const char *gpu_name(void)
{
	return properties()->name;
}

int gpu_is_emulated(void)
{
	return 0;
}

uint32_t gpu_sms(void)
{
	return (uint32_t)properties()->multiProcessorCount;
}

void *gpu_alloc(size_t bytes)
{
	void *memory;

	must(cudaMalloc(&memory, bytes), "device memory");
	return memory;
}

void gpu_free(void *memory)
{
	must(cudaFree(memory), "free device memory");
}

void gpu_put(void *device, const void *host, size_t bytes)
{
	must(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}

void gpu_get(void *host, const void *device, size_t bytes)
{
	must(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}

void gpu_fill(void *device, int byte, size_t bytes)
{
	must(cudaMemset(device, byte, bytes), "fill device memory");
}

void gpu_wait(void)
{
	must(cudaDeviceSynchronize(), "work on the device");
}

void gpu_timer_start(void)
{
	for (int i = 0; i < 2; i++) {
		if (timer[i] == NULL)
			must(cudaEventCreate(&timer[i]), "event");
	}
	must(cudaEventRecord(timer[0], 0), "start of the timer");
}

double gpu_timer_stop(void)
{
	float ms;

	must(cudaEventRecord(timer[1], 0), "stop of the timer");
	must(cudaEventSynchronize(timer[1]), "work on the device");
	must(cudaEventElapsedTime(&ms, timer[0], timer[1]), "timer");
	return ms / 1e3;
}

void gpu_copy(void *to, const void *from, size_t bytes)
{
	must(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, 0), "copy within the device");
}
