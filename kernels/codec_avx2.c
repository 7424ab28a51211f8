/* The codec with AVX2: on pairs of 256-bit registers. Only called where the processor has them. */
#include "kernels/simd_decode.h"
#include "kernels/simd_encode.h"

static bool encode(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
                   const struct kvc_rows *source, uint8_t *out, void *scratch)
{
	struct kvc_fpenv env;
	bool coded;

	kvc_fpenv_enter(&env);
	coded = encode_tile(params, shape, source, out, scratch);
	kvc_fpenv_leave(&env);
	return coded;
}

static void decode(const struct kvc_codec_params *params, const struct kvc_tile_shape *shape,
                   const uint8_t *coded, const struct kvc_rows *dest, void *scratch)
{
	struct kvc_fpenv env;

	kvc_fpenv_enter(&env);
	decode_tile(params, shape, coded, dest, scratch);
	kvc_fpenv_leave(&env);
}

const struct kvc_codec kvc_codec_avx2 = {.name = "avx2", .encode = encode, .decode = decode};
