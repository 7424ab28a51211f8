/* Shared by the implementations of the codec: what follows from parameters and shape. Not for users of it. */
#ifndef KVC_CODEC_INTERNAL_H
#define KVC_CODEC_INTERNAL_H

#include "kernels/codec.h"

#include <assert.h>

/* Elements that the SIMD implementations handle at once, and elements to which they pad a tile in scratch. */
#define KVC_CHUNK 128u
#define KVC_BATCH 512u

/* A source element whose magnitude has bits of 2^20 or above makes its tile raw: sums cannot overflow then.
 */
#define KVC_MAGNITUDE_LIMIT_BITS 0x49800000u

static_assert(KVC_CHUNK >= KVC_GROUP_MAX, "a group lies in one chunk");

struct kvc_tile_layout {
	uint32_t group; /* g: channels that share a scale */
	uint32_t run;   /* R: channels rotated together, a power of two */
	unsigned run_log2;
	bool centred;  /* the plane of means is there, at offset 0 */
	size_t scales; /* offset of the (S, M) pairs */
	size_t codes;  /* offset of the codes */
	size_t bytes;  /* of all three planes, padded */
};

/* `params` must not be raw; both must have been checked. */
void kvc_tile_layout_init(struct kvc_tile_layout *layout, const struct kvc_codec_params *params,
                          const struct kvc_tile_shape *shape);

/* Step 5: the range ratio that the encoder uses, from the parameters or the format's table. */
float kvc_clip_ratio(const struct kvc_codec_params *params, uint32_t group);

static inline size_t kvc_round_up_to(size_t value, size_t step)
{
	return (value + step - 1) / step * step;
}

static inline const uint8_t *kvc_row_const(const struct kvc_rows *rows, uint32_t token)
{
	return (const uint8_t *)rows->base + (ptrdiff_t)token * rows->row_stride;
}

static inline uint8_t *kvc_row(const struct kvc_rows *rows, uint32_t token)
{
	return (uint8_t *)rows->base + (ptrdiff_t)token * rows->row_stride;
}

extern const struct kvc_codec kvc_codec_scalar;
extern const struct kvc_codec kvc_codec_avx2;
extern const struct kvc_codec kvc_codec_avx512;

#endif
