/* A GPU for machines that have none: the kernels compiled as C++ for the CPU, one fibre a thread, thread blocks one
 * after the other. It stands in for what kernels/dev.cuh takes from CUDA, so that every line of the kernels runs and
 * can be compared bit for bit. It finds wrong results and missing arrivals at barriers, not races or bad timing.
 *
 * Fibres switch only where threads wait for each other: barriers, shuffles, votes. */
#ifndef KVC_TESTS_GPU_EMU_CUH
#define KVC_TESTS_GPU_EMU_CUH

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"
#include "proto/kvc_status.h"

#define DEV        static inline
#define DEV_SLOW   static inline
#define DEV_KERNEL(threads) void
#define DEV_TASK(type) const type
#define DEV_CONST static const

struct emu_index {
	uint32_t x;
};

extern struct emu_index threadIdx, blockIdx, blockDim, gridDim;

uint8_t *dev_shared();

/* Wait for `count` threads at barrier `id`. */
void emu_barrier(uint32_t id, uint32_t count);

/* All 32 threads of a warp exchange a word: the word of the thread whose lane differs by `mask`. */
uint64_t emu_exchange(uint64_t value, uint32_t mask);

/* Run a kernel to its end. */
void emu_run(void (*call)(void *context), void *context, uint32_t blocks, uint32_t threads, uint32_t shared_bytes);

static inline float dev_reciprocal(float x)
{
	return 1.0f / x;
}

static inline float dev_quotient(float x, float y)
{
	return x / y;
}

static inline float dev_opaque(float x)
{
	return x;
}

static inline uint32_t dev_f32_bits(float x)
{
	return kvc_f32_bits(x);
}

static inline float dev_f32_from_bits(uint32_t bits)
{
	return kvc_f32_from_bits(bits);
}

static inline uint16_t dev_f16_from_f32(float x)
{
	return kvc_f16_from_f32(x);
}

static inline float dev_f32_from_f16(uint16_t h)
{
	return kvc_f32_from_f16(h);
}

static inline uint32_t dev_pack_bf16(float low, float high)
{
	return kvc_bf16_saturate(low) | (uint32_t)kvc_bf16_saturate(high) << 16;
}

static inline uint32_t dev_pack_f16(float low, float high)
{
	return kvc_f16_from_f32(low) | (uint32_t)kvc_f16_from_f32(high) << 16;
}

static inline uint32_t dev_max_u16x2(uint32_t a, uint32_t b)
{
	uint32_t low = (a & 0xFFFF) > (b & 0xFFFF) ? a & 0xFFFF : b & 0xFFFF;
	uint32_t high = a >> 16 > b >> 16 ? a >> 16 : b >> 16;

	return low | high << 16;
}

static inline uint32_t dev_high_product32(uint32_t a, uint32_t b)
{
	return (uint32_t)((uint64_t)a * b >> 32);
}

static inline uint32_t dev_bytes(uint32_t b, uint32_t c, uint32_t selector)
{
	uint64_t bytes = (uint64_t)c << 32 | b;
	uint32_t chosen = 0;

	for (uint32_t i = 0; i < 4; i++)
		chosen |= (uint32_t)(bytes >> (selector >> 4 * i & 7) * 8 & 0xFF) << 8 * i;
	return chosen;
}

static inline uint64_t dev_high_product(uint64_t a, uint64_t b)
{
	return (uint64_t)((unsigned __int128)a * b >> 64);
}

static inline uint32_t dev_shuffle(uint32_t x, uint32_t mask)
{
	return (uint32_t)emu_exchange(x, mask);
}

static inline float dev_shuffle(float x, uint32_t mask)
{
	return kvc_f32_from_bits((uint32_t)emu_exchange(kvc_f32_bits(x), mask));
}

static inline uint64_t dev_shuffle(uint64_t x, uint32_t mask)
{
	return emu_exchange(x, mask);
}

static inline bool dev_any(bool flag)
{
	uint64_t any = flag;

	for (uint32_t mask = 1; mask < 32; mask *= 2)
		any |= emu_exchange(any, mask);
	return any != 0;
}

static inline void dev_warp_sync()
{
	emu_exchange(0, 1);
}

static inline void dev_block_sync()
{
	emu_barrier(0, blockDim.x);
}

static inline void dev_team_sync(uint32_t team)
{
	emu_barrier(team + 1, 256);
}

static inline void dev_copy_async(void *to, const void *from)
{
	memcpy(to, from, 16);
}

static inline void dev_copy_wait()
{
}

static inline void dev_or(uint32_t *word, uint32_t bits)
{
	*word |= bits;
}

static inline void dev_add(uint32_t *word, uint32_t value)
{
	*word += value;
}

template <typename Task> struct emu_call {
	void (*kernel)(Task);
	const Task *task;

	static void run(void *self)
	{
		((struct emu_call *)self)->kernel(*((struct emu_call *)self)->task);
	}
};

template <typename Task>
kvc_status launch(void (*kernel)(Task), const Task *task, uint32_t blocks, uint32_t threads, uint32_t shared_bytes,
                  void *)
{
	struct emu_call<Task> call = {kernel, task};

	emu_run(emu_call<Task>::run, &call, blocks, threads, shared_bytes);
	return KVC_OK;
}

template <typename Task> kvc_status load(void (*)(Task), uint32_t)
{
	return KVC_OK;
}

#endif
