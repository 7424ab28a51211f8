/* gpu.h for the emulated GPU: its memory is this process's. */
#include "tests/gpu/gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct timespec started;

const char *gpu_name(void)
{
	return "emulated";
}

int gpu_is_emulated(void)
{
	return 1;
}

uint32_t gpu_sms(void)
{
	return 2;
}

void *gpu_alloc(size_t bytes)
{
	void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);

	if (memory == NULL) {
		fprintf(stderr, "no memory\n");
		exit(2);
	}
	return memory;
}

void gpu_free(void *memory)
{
	free(memory);
}

void gpu_put(void *device, const void *host, size_t bytes)
{
	memcpy(device, host, bytes);
}

void gpu_get(void *host, const void *device, size_t bytes)
{
	memcpy(host, device, bytes);
}

void gpu_fill(void *device, int byte, size_t bytes)
{
	memset(device, byte, bytes);
}

void gpu_wait(void)
{
}

void gpu_timer_start(void)
{
	clock_gettime(CLOCK_MONOTONIC, &started);
}

double gpu_timer_stop(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - started.tv_sec) + (double)(now.tv_nsec - started.tv_nsec) / 1e9;
}

void gpu_copy(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
}
