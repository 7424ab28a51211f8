/* Codec format v1: one tile in, one coded tile out, and back.
 *
 * A tile is one (layer, K or V, head) of a block: `tokens` rows of `dim` channels. What a coded
 * tile holds, and the order of every rounding, is defined in docs/codec.md and by the scalar
 * reference codec_scalar.c; the AVX2, AVX-512 and CUDA versions restore the same bits.
 *
 * Nothing here allocates, blocks, logs or keeps state. All functions are thread-safe. The
 * floating-point control word of the calling thread is set by the tile functions for their
 * duration (round to nearest even, subnormals kept) and restored. */
#ifndef KVC_CODEC_H
#define KVC_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kvc_status.h"

#define KVC_DIM_STEP          16u   /* head dimensions are multiples of this */
#define KVC_DIM_MAX           1024u /* largest head dimension */
#define KVC_TOKENS_MAX        4096u /* most tokens of a block */
#define KVC_GROUP_MIN         16u
#define KVC_GROUP_MAX         128u
#define KVC_BITS_MIN          2u
#define KVC_BITS_MAX          8u
#define KVC_BITS_RAW          0xFFu /* params.bits of tiles that are stored as they are */
#define KVC_CENTRE_TOKENS_MIN 64u   /* shorter tiles are not centred */
#define KVC_PLANE_ALIGN       16u   /* planes of a coded tile (means, scales, codes) are padded to this */

/* Source element types; the numbers are on the wire and on disk. */
enum kvc_dtype {
	KVC_DTYPE_UNSET = 0,
	KVC_DTYPE_BF16 = 1,
	KVC_DTYPE_FP16 = 2,
	KVC_DTYPE_FP32 = 3,
};

/* Bytes of one element, 0 for an invalid type. */
size_t kvc_dtype_bytes(enum kvc_dtype dtype);

/* How tiles of one kind (K or V) are coded. `gain` and `clip` matter to the encoder only. */
struct kvc_codec_params {
	uint8_t bits;   /* 2 to 8, or KVC_BITS_RAW: all else is ignored then */
	bool centre;    /* subtract each channel's mean over the tokens (if tokens >= 64) */
	bool rotate;    /* Walsh-Hadamard rotation of the channels */
	bool gain;      /* correct each group's mean and gain after clipping (bits <= 4) */
	uint16_t group; /* channels that share a scale: power of two, 16 to 128 */
	float clip;     /* range ratio: 0 = the format's table, 1 = min/max, else in (0, 1] */
};

/* KVC_OK, or KVC_INVALID if a field is out of range. */
kvc_status kvc_codec_params_check(const struct kvc_codec_params *params);

/* Rows of a tile in memory: `dim` contiguous elements each, rows `row_stride` bytes apart.
 * The base needs only byte alignment. */
struct kvc_rows {
	void *base;
	ptrdiff_t row_stride;
};

struct kvc_tile_shape {
	uint32_t tokens; /* 1 to KVC_TOKENS_MAX */
	uint32_t dim;    /* multiple of KVC_DIM_STEP, up to KVC_DIM_MAX */
	enum kvc_dtype dtype;
};

/* Bytes of a coded tile (multiple of 16). For KVC_BITS_RAW: the raw tile padded to 16. */
size_t kvc_tile_bytes(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape);

/* Bytes of the tile's elements as they come, unpadded. */
size_t kvc_tile_raw_bytes(const struct kvc_tile_shape *shape);

/* Bytes of 64-byte-aligned scratch memory that encode and decode of such a tile need. */
size_t kvc_tile_scratch_bytes(const struct kvc_tile_shape *shape);

enum kvc_simd {
	KVC_SIMD_AUTO = 0, /* the best that this processor has */
	KVC_SIMD_SCALAR = 1,
	KVC_SIMD_AVX2 = 2,
	KVC_SIMD_AVX512 = 3,
};

/* One implementation of the codec. All implementations are interchangeable bit for bit. */
struct kvc_codec {
	const char *name; /* "scalar", "avx2", "avx512" */

	/* Encode. `out` has kvc_tile_bytes() bytes, 16-byte aligned; every byte is written.
	 * The source is read once into scratch (it may be memory that another process writes).
	 * Returns true if coded, false if the tile must be stored raw (non-finite, magnitude of 2^20
	 * and above, or a scale that overflows binary16); `out` is undefined then. */
	bool (*encode)(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
	               const struct kvc_rows *source, uint8_t *out, void *scratch);

	/* Decode any bytes of the right length: never fails, never reads or writes out of bounds. */
	void (*decode)(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
	               const uint8_t *coded, const struct kvc_rows *dest, void *scratch);
};

/* The implementation of that name, or NULL if this processor (or this build) lacks it. */
const struct kvc_codec *kvc_codec_get(enum kvc_simd simd);

/* Copy a raw tile out of, or into, rows. */
void kvc_tile_raw_store(const struct kvc_tile_shape *shape, const struct kvc_rows *source, uint8_t *out);
void kvc_tile_raw_load(const struct kvc_tile_shape *shape, const uint8_t *raw, const struct kvc_rows *dest);

#endif
