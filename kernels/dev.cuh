/* The processor under the kernels: what is CUDA's or PTX's own, under names that a CPU can stand in for
 * (tests/gpu/emu.cuh runs the same kernels there, one fibre a thread).
 *
 * A *team* is DEV_TEAM threads that work on one tile. A thread block is several teams, one block runs on each
 * multiprocessor, and teams of a block share nothing but the table of the hash's secret: each has its own named
 * barrier, so that one team's loads overlap with the others' arithmetic.
 *
 * Compiled with -fmad=false: an operation is contracted only where fmaf() is written. */
#ifndef KVC_DEV_CUH
#define KVC_DEV_CUH

#include <stdint.h>

#define DEV_WARP       32u
#define DEV_TEAM       256u
#define DEV_TEAM_WARPS (DEV_TEAM / DEV_WARP)
#define DEV_ALL_LANES  0xFFFFFFFFu

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEV static __device__ __forceinline__
#define DEV_SLOW static __device__ __noinline__
#define DEV_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
#define DEV_TASK(type) const __grid_constant__ type
#define DEV_CONST static __device__ const

DEV uint8_t *dev_shared()
{
	extern __shared__ __align__(16) uint8_t dev_shared_memory[];

	return dev_shared_memory;
}

/* Correctly rounded, as all arithmetic here. */
DEV float dev_reciprocal(float x)
{
	return __frcp_rn(x);
}

DEV float dev_quotient(float x, float y)
{
	return __fdiv_rn(x, y);
}

/* The same number, of which the compiler knows nothing. */
DEV float dev_opaque(float x)
{
	asm volatile("" : "+f"(x));
	return x;
}

DEV uint32_t dev_f32_bits(float x)
{
	return __float_as_uint(x);
}

DEV float dev_f32_from_bits(uint32_t bits)
{
	return __uint_as_float(bits);
}

/* Round to binary16; of no meaning for NaN. */
DEV uint16_t dev_f16_from_f32(float x)
{
	return __half_as_ushort(__float2half_rn(x));
}

DEV float dev_f32_from_f16(uint16_t h)
{
	return __half2float(__ushort_as_half(h));
}

/* Two finite numbers to two 16-bit ones that hold them, the first one low. */
DEV uint32_t dev_pack_bf16(float low, float high)
{
	uint32_t packed;

	asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
	return packed;
}

DEV uint32_t dev_pack_f16(float low, float high)
{
	uint32_t packed;

	asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
	return packed;
}

/* Greater of each pair of unsigned halves. */
DEV uint32_t dev_max_u16x2(uint32_t a, uint32_t b)
{
	return __vmaxu2(a, b);
}

DEV uint32_t dev_high_product32(uint32_t a, uint32_t b)
{
	return __umulhi(a, b);
}

/* Bytes of `b` (numbers 0 to 3) and `c` (4 to 7), chosen by the nibbles of `selector`. */
DEV uint32_t dev_bytes(uint32_t b, uint32_t c, uint32_t selector)
{
	return __byte_perm(b, c, selector);
}

DEV uint64_t dev_high_product(uint64_t a, uint64_t b)
{
	return __umul64hi(a, b);
}

DEV float dev_shuffle(float x, uint32_t mask)
{
	return __shfl_xor_sync(DEV_ALL_LANES, x, (int)mask);
}

DEV uint32_t dev_shuffle(uint32_t x, uint32_t mask)
{
	return __shfl_xor_sync(DEV_ALL_LANES, x, (int)mask);
}

DEV uint64_t dev_shuffle(uint64_t x, uint32_t mask)
{
	return __shfl_xor_sync(DEV_ALL_LANES, (unsigned long long)x, (int)mask);
}

DEV bool dev_any(bool flag)
{
	return __any_sync(DEV_ALL_LANES, flag);
}

DEV void dev_warp_sync()
{
	__syncwarp();
}

DEV void dev_block_sync()
{
	__syncthreads();
}

/* Barrier 0 is the block's. Whole warps come, so the aligned form will do. */
DEV void dev_team_sync(uint32_t team)
{
	asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(DEV_TEAM) : "memory");
}

/* Copy 16 bytes from global to shared memory in the background. */
DEV void dev_copy_async(void *to, const void *from)
{
	uint32_t shared = (uint32_t)__cvta_generic_to_shared(to);

	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
}

/* Until all background copies of this thread have arrived. */
DEV void dev_copy_wait()
{
	asm volatile("cp.async.wait_all;" ::: "memory");
}

DEV void dev_or(uint32_t *word, uint32_t bits)
{
	atomicOr(word, bits);
}

DEV void dev_add(uint32_t *word, uint32_t value)
{
	atomicAdd(word, value);
}

#else
#include "tests/gpu/emu.cuh"
#endif

/* 16 bytes at once. */
struct alignas(16) dev_vec {
	uint32_t word[4];
};

struct alignas(8) dev_pair {
	uint32_t word[2];
};

DEV uint32_t dev_lane()
{
	return threadIdx.x % DEV_WARP;
}

/* Number of this thread's team in its block. */
DEV uint32_t dev_team()
{
	return threadIdx.x / DEV_TEAM;
}

/* Number of this thread in its team. */
DEV uint32_t dev_member()
{
	return threadIdx.x % DEV_TEAM;
}

#endif
