/* The KV cache in tests/data, and what the codec must make of it. */
#ifndef KVC_TEST_KV_SLICE_H
#define KVC_TEST_KV_SLICE_H

#include "kernels/codec.h"
#include "kernels/image.h"

#define KV_SLICE_LAYERS 8u
#define KV_SLICE_TOKENS 256u
#define KV_SLICE_HEADS  2u
#define KV_SLICE_DIM    128u
#define KV_SLICE_BYTES  (KV_SLICE_LAYERS * KV_SLICE_TOKENS * KV_SLICE_HEADS * KV_SLICE_DIM * 2u)
#define KV_SLICE_CASES  12u

/* Restored in blocks of `block_tokens`, the slice has this SHA-256. */
struct kv_slice_case {
	enum kvc_kind kind;
	uint32_t block_tokens;
	struct kvc_codec_params params;
	const char *sha256;
};

extern const struct kv_slice_case kv_slice_cases[KV_SLICE_CASES];

/* KV_SLICE_BYTES bytes, the caller's to free; ends the process with a message if the file cannot be read. Run
 * from the root of the repository. */
void *kv_slice_load(enum kvc_kind kind);

#endif
