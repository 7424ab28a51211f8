/* Elements for tests of the codec: plausible, and as hostile as the format allows. */
#ifndef KVC_TESTS_GPU_KERN_DATA_H
#define KVC_TESTS_GPU_KERN_DATA_H

#include "kernels/codec.h"
#include "tests/gpu/kern_pool.h"

/* One row's elements of a random kind; `kind` from data_kind(). */
uint32_t data_kind(struct rng *rng);
void data_row(struct rng *rng, uint32_t kind, enum kvc_dtype dtype, uint32_t dim, uint8_t *row);

#endif
