/* Header of a block image: pure functions between struct kvc_image_plan and bytes. */
#include "kernels/half.h"
#include "kernels/image_internal.h"

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

static struct kvc_image_params params_pack(const struct kvc_codec_params *params)
{
	return (struct kvc_image_params){
	        .bits = params->bits,
	        .flags = (uint8_t)((params->centre ? KVC_IMAGE_FLAG_CENTRE : 0) |
	                           (params->rotate ? KVC_IMAGE_FLAG_ROTATE : 0) |
	                           (params->gain ? KVC_IMAGE_FLAG_GAIN : 0)),
	        .group = params->group,
	        .clip = kvc_f32_bits(params->clip),
	};
}

static struct kvc_codec_params params_unpack(const struct kvc_image_params *packed)
{
	return (struct kvc_codec_params){
	        .bits = packed->bits,
	        .centre = packed->flags & KVC_IMAGE_FLAG_CENTRE,
	        .rotate = packed->flags & KVC_IMAGE_FLAG_ROTATE,
	        .gain = packed->flags & KVC_IMAGE_FLAG_GAIN,
	        .group = packed->group,
	        .clip = kvc_f32_from_bits(packed->clip),
	};
}

static void header_pack(struct kvc_image_header *header, const struct kvc_image_plan *plan)
{
	*header = (struct kvc_image_header){
	        .version = KVC_IMAGE_VERSION,
	        .header_bytes = KVC_IMAGE_HEADER_BYTES,
	        .meta_bytes = plan->meta_bytes,
	        .payload_bytes = plan->payload_bytes,
	        .tiles = plan->tiles,
	        .layers = plan->shape.layers,
	        .heads = plan->shape.heads,
	        .key_dim = plan->shape.key_dim,
	        .value_dim = plan->shape.value_dim,
	        .tokens = plan->shape.tokens,
	        .dtype = (uint8_t)plan->shape.dtype,
	        .override_count = (uint8_t)plan->codec.override_count,
	        .key = params_pack(&plan->codec.key),
	        .value = params_pack(&plan->codec.value),
	};
	memcpy(header->magic, KVC_IMAGE_MAGIC, sizeof header->magic);
}

size_t kvc_image_header_build(const struct kvc_image_plan *plan, uint32_t raw_tiles, uint64_t image_bytes,
                              uint8_t *out)
{
	struct kvc_image_header header;
	uint8_t *next = out + sizeof header;

	header_pack(&header, plan);
	header.raw_tiles = raw_tiles;
	header.image_bytes = image_bytes;
	memcpy(out, &header, sizeof header);
	for (uint32_t i = 0; i < plan->codec.override_count; i++) {
		const struct kvc_layer_override *override = &plan->codec.overrides[i];
		struct kvc_image_override packed = {
		        .layer = override->layer,
		        .key = params_pack(&override->key),
		        .value = params_pack(&override->value),
		};

		memcpy(next, &packed, sizeof packed);
		next += sizeof packed;
	}
	return (size_t)(next - out);
}

static bool codec_unpack(struct kvc_block_codec *codec, const struct kvc_image_header *header,
                         const uint8_t *bytes, uint64_t length)
{
	size_t overrides = header->override_count * sizeof(struct kvc_image_override);

	if (header->override_count > KVC_OVERRIDES_MAX || length < sizeof *header + overrides)
		return false;
	*codec = (struct kvc_block_codec){
	        .key = params_unpack(&header->key),
	        .value = params_unpack(&header->value),
	        .override_count = header->override_count,
	};
	for (uint32_t i = 0; i < codec->override_count; i++) {
		struct kvc_image_override packed;

		memcpy(&packed, bytes + sizeof *header + i * sizeof packed, sizeof packed);
		codec->overrides[i] = (struct kvc_layer_override){
		        .layer = packed.layer,
		        .key = params_unpack(&packed.key),
		        .value = params_unpack(&packed.value),
		};
	}
	return true;
}

kvc_status kvc_image_header_parse(const uint8_t *bytes, uint64_t length, struct kvc_image_plan *plan)
{
	struct kvc_image_header header;
	struct kvc_block_codec codec;
	struct kvc_block_shape shape;

	if (length < sizeof header)
		return KVC_CORRUPT;
	memcpy(&header, bytes, sizeof header);
	if (memcmp(header.magic, KVC_IMAGE_MAGIC, sizeof header.magic) != 0 ||
	    header.version != KVC_IMAGE_VERSION || !codec_unpack(&codec, &header, bytes, length))
		return KVC_CORRUPT;
	shape = (struct kvc_block_shape){
	        .layers = header.layers,
	        .heads = header.heads,
	        .key_dim = header.key_dim,
	        .value_dim = header.value_dim,
	        .tokens = header.tokens,
	        .dtype = (enum kvc_dtype)header.dtype,
	};
	return kvc_image_plan_init(plan, &shape, &codec) == KVC_OK ? KVC_OK : KVC_CORRUPT;
}

void kvc_image_checksum(const uint8_t *image, uint32_t meta_bytes, uint8_t checksum[16])
{
	static const uint8_t zero[16];
	const size_t field = offsetof(struct kvc_image_header, checksum);
	const size_t after = field + sizeof zero;
	XXH3_state_t state;
	XXH128_hash_t hash;

	/* Without allocation and with valid pointers, none of these can fail. */
	XXH3_128bits_reset(&state);
	XXH3_128bits_update(&state, image, field);
	XXH3_128bits_update(&state, zero, sizeof zero);
	XXH3_128bits_update(&state, image + after, meta_bytes - after);
	hash = XXH3_128bits_digest(&state);
	memcpy(checksum, &hash.low64, 8);
	memcpy(checksum + 8, &hash.high64, 8);
}
