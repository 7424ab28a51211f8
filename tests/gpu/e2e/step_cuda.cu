/* See step.h. */
#include "tests/gpu/e2e/step.h"

#include <chrono>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#define WEIGHT_BYTES (UINT64_C(4) << 30)
#define LAUNCH_BYTES (UINT64_C(128) << 20)
#define THREADS      512u
#define VECTORS      4u /* of 16 bytes, loaded by a thread before it uses one */

struct step {
	cudaStream_t stream;
	uint4 *weights;
	float *out;
	uint32_t launches;
	uint32_t blocks;
};

static void check(cudaError_t error, const char *what)
{
	if (error == cudaSuccess)
		return;
	fprintf(stderr, "step: %s: %s\n", what, cudaGetErrorString(error));
	exit(1);
}

/* Two bf16 of a weight times two numbers that stand for the vector. */
static __device__ float pair_times(uint32_t pair, float x, float y)
{
	return __uint_as_float(pair << 16) * x + __uint_as_float(pair & 0xFFFF0000u) * y;
}

static __global__ void __launch_bounds__(THREADS) matrix_vector(const uint4 *weights, uint64_t count, float *out)
{
	uint64_t stride = (uint64_t)gridDim.x * THREADS;
	uint64_t at = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
	float x = (float)(threadIdx.x & 7) * 0.125f;
	float sum = 0;

	for (; at + (VECTORS - 1) * stride < count; at += VECTORS * stride) {
		uint4 w[VECTORS];

		for (uint32_t i = 0; i < VECTORS; i++)
			w[i] = __ldcs(weights + at + i * stride);
		for (uint32_t i = 0; i < VECTORS; i++)
			sum += pair_times(w[i].x, x, 1.0f) + pair_times(w[i].y, x, -1.0f) +
			       pair_times(w[i].z, x, 0.5f) + pair_times(w[i].w, x, 2.0f);
	}
	for (uint32_t lane = 16; lane > 0; lane /= 2)
		sum += __shfl_xor_sync(0xFFFFFFFFu, sum, lane);
	if (threadIdx.x % 32 == 0)
		atomicAdd(out + blockIdx.x, sum);
}

double step_run(struct step *step)
{
	auto started = std::chrono::steady_clock::now();

	for (uint32_t i = 0; i < step->launches; i++) {
		uint64_t at = i * LAUNCH_BYTES % WEIGHT_BYTES;

		matrix_vector<<<step->blocks, THREADS, 0, step->stream>>>(step->weights + at / sizeof(uint4),
		                                                          LAUNCH_BYTES / sizeof(uint4), step->out);
	}
	check(cudaGetLastError(), "launch");
	check(cudaStreamSynchronize(step->stream), "wait");
	return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
}

static void weights_fill(struct step *step)
{
	check(cudaMalloc(&step->weights, WEIGHT_BYTES), "weights");
	check(cudaMalloc(&step->out, step->blocks * sizeof(float)), "sums");
	check(cudaMemset(step->weights, 0x3C, WEIGHT_BYTES), "weights");
	check(cudaMemset(step->out, 0, step->blocks * sizeof(float)), "sums");
}

struct step *step_open(double ms)
{
	struct step *step = (struct step *)calloc(1, sizeof *step);
	int lowest;
	int highest;
	int sms;

	if (!step)
		abort();
	check(cudaSetDevice(0), "device");
	check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
	check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "priorities");
	check(cudaStreamCreateWithPriority(&step->stream, cudaStreamNonBlocking, highest), "stream");
	step->blocks = (uint32_t)sms * 4;
	weights_fill(step);
	step->launches = 64;
	step_run(step);
	step->launches = (uint32_t)(64 * ms / step_run(step)) + 1;
	return step;
}

void step_close(struct step *step)
{
	check(cudaStreamDestroy(step->stream), "stream");
	check(cudaFree(step->weights), "weights");
	check(cudaFree(step->out), "sums");
	free(step);
}

uint32_t step_launches(const struct step *step)
{
	return step->launches;
}

uint64_t step_launch_bytes(const struct step *)
{
	return LAUNCH_BYTES;
}
