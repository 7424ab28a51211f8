/* The vectors of the SIMD codec: those of AVX-512 in a file compiled for it, else those of AVX2. */
#ifndef KVC_VEC_H
#define KVC_VEC_H

#if defined(__AVX512VNNI__)
#include "kernels/vec_avx512_across.h"
#else
#include "kernels/vec_avx2_across.h"
#endif

#endif
