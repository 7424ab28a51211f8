/* The Open request: tenant, model, shape, codec; and what else names a tenant. */
#include <string.h>

#include "daemon/rpc/convert_private.h"
#include "proto/frame.h"

enum {
	REQUEST_TENANT = 1,
	OPEN_TENANT = 2,
	OPEN_MODEL = 3,
	OPEN_CODEC = 12,
	CODEC_PRESET = 1
}; /* field numbers */

static kvc_status field_refuse(struct kvc_problem *problem, kvc_status status, const char *field,
                               uint64_t value, const char *expected)
{
	return kvc_problem_set(problem, status, "%s: %llu, expected %s", field, (unsigned long long)value,
	                       expected);
}

/* ---- names --------------------------------------------------------------------------------- */

static bool tenant_is_valid(const char *tenant)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t bytes = strlen(tenant);

	return bytes > 0 && bytes <= KVC_TENANT_BYTES_MAX && strspn(tenant, allowed) == bytes;
}

/* Bytes of the UTF-8 sequence at the start of the text: shortest form only, no surrogates, up to U+10FFFF, no
 * control characters (C0, DEL, C1). 0: not such a sequence. */
static size_t utf8_sequence(const uint8_t *text)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t bytes = text[0] < 0x80 ? 1 : text[0] < 0xC0 ? 0 : text[0] < 0xE0 ? 2 : text[0] < 0xF0 ? 3 : 4;
	uint32_t point;

	if (bytes == 0 || text[0] > 0xF4)
		return 0;
	point = bytes == 1 ? text[0] : text[0] & (0x7Fu >> bytes);
	for (size_t i = 1; i < bytes; i++) {
		if ((text[i] & 0xC0) != 0x80)
			return 0;
		point = point << 6 | (text[i] & 0x3Fu);
	}
	if (point < least[bytes] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000))
		return 0;
	return point < 0x20 || (point >= 0x7F && point < 0xA0) ? 0 : bytes;
}

static bool model_is_valid(const char *model)
{
	size_t bytes = strlen(model);

	if (bytes == 0 || bytes > KVC_MODEL_BYTES_MAX)
		return false;
	for (const uint8_t *at = (const uint8_t *)model; *at;) {
		size_t step = utf8_sequence(at);

		if (!step)
			return false;
		at += step;
	}
	return true;
}

static kvc_status tenant_check(struct kvc_body body, uint32_t field, const char *tenant,
                               struct kvc_problem *problem)
{
	if (!kvc_convert_has_zero(body, field) && tenant_is_valid(tenant))
		return KVC_OK;
	return kvc_problem_set(problem, KVC_INVALID, "tenant: expected 1 to %u of [A-Za-z0-9._-]",
	                       KVC_TENANT_BYTES_MAX);
}

static kvc_status names_check(const Kvcellar__Open *open, struct kvc_body body, struct kvc_problem *problem)
{
	if (tenant_check(body, OPEN_TENANT, open->tenant, problem) != KVC_OK)
		return KVC_INVALID;
	if (kvc_convert_has_zero(body, OPEN_MODEL) || !model_is_valid(open->model))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "model: expected 1 to %u bytes of printable UTF-8",
		                       KVC_MODEL_BYTES_MAX);
	return KVC_OK;
}

/* ---- shape --------------------------------------------------------------------------------- */

static bool dim_is_valid(uint32_t dim)
{
	return dim > 0 && dim <= KVC_DIM_MAX && dim % KVC_DIM_STEP == 0;
}

static kvc_status sizes_check(const Kvcellar__Open *open, struct kvc_problem *problem)
{
	if (open->layers == 0 || open->layers > KVC_LAYERS_MAX)
		return field_refuse(problem, KVC_SHAPE, "layers", open->layers, "1 to 512");
	if (open->heads == 0 || open->heads > KVC_HEADS_MAX)
		return field_refuse(problem, KVC_SHAPE, "heads", open->heads, "1 to 256");
	if (!dim_is_valid(open->key_dim))
		return field_refuse(problem, KVC_SHAPE, "key_dim", open->key_dim,
		                    "a multiple of 16 up to 1024");
	if (open->value_dim && !dim_is_valid(open->value_dim))
		return field_refuse(problem, KVC_SHAPE, "value_dim", open->value_dim,
		                    "0 (keys only) or a multiple of 16 up to 1024");
	if (open->block_tokens == 0 || open->block_tokens > KVC_TOKENS_MAX)
		return field_refuse(problem, KVC_SHAPE, "block_tokens", open->block_tokens, "1 to 4096");
	return KVC_OK;
}

static kvc_status shape_parse(const Kvcellar__Open *open, struct kvc_ns_options *options,
                              struct kvc_problem *problem)
{
	kvc_status status = sizes_check(open, problem);

	if (status != KVC_OK)
		return status;
	if (kvc_dtype_bytes((enum kvc_dtype)open->dtype) == 0)
		return field_refuse(problem, KVC_SHAPE, "dtype", (uint64_t)open->dtype,
		                    "1 (bf16), 2 (fp16) or 3 (fp32)");
	if (open->shards == 0 || open->shard >= open->shards)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "shard: %u of %u, expected a rank less than shards", open->shard,
		                       open->shards);
	options->shape = (struct kvc_block_shape){
	        .layers = open->layers,
	        .heads = open->heads,
	        .key_dim = open->key_dim,
	        .value_dim = open->value_dim,
	        .tokens = open->block_tokens,
	        .dtype = (enum kvc_dtype)open->dtype,
	};
	options->shard = open->shard;
	options->shards = open->shards;
	return kvc_block_shape_check(&options->shape) == KVC_OK
	               ? KVC_OK
	               : kvc_problem_set(problem, KVC_SHAPE,
	                                 "layers * heads * dims * tokens: the block is larger than %u bytes "
	                                 "or has more than %u tiles",
	                                 KVC_IMAGE_BYTES_MAX, KVC_TILES_MAX);
}

/* ---- codec --------------------------------------------------------------------------------- */

static kvc_status params_parse(const char *field, const Kvcellar__CodecParams *wire,
                               struct kvc_codec_params *params, struct kvc_problem *problem)
{
	if (!wire)
		return kvc_problem_set(problem, KVC_INVALID, "codec.%s: missing", field);
	if (wire->bits > UINT8_MAX)
		return kvc_problem_set(problem, KVC_INVALID, "codec.%s.bits: %u, expected 2 to 8, or 255",
		                       field, wire->bits);
	*params = (struct kvc_codec_params){
	        .bits = (uint8_t)wire->bits,
	        .centre = wire->centre,
	        .rotate = wire->rotate,
	        .gain = wire->gain,
	        .group = wire->group > UINT16_MAX ? UINT16_MAX : (uint16_t)wire->group,
	        .clip = wire->clip,
	};
	if (kvc_codec_params_check(params) == KVC_OK)
		return KVC_OK;
	return kvc_problem_set(
	        problem, KVC_INVALID,
	        "codec.%s: bits %u, group %u, clip %g, expected bits 2 to 8 or 255, group 16, 32, "
	        "64 or 128, clip 0 to 1",
	        field, wire->bits, wire->group, (double)wire->clip);
}

static kvc_status base_parse(const Kvcellar__Codec *wire, struct kvc_block_codec *codec,
                             struct kvc_problem *problem)
{
	kvc_status status;

	if (wire->preset[0] && (wire->key || wire->value))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "codec: expected a preset, or key and value parameters, not both");
	if (wire->preset[0])
		return kvc_preset_get(wire->preset, codec) == KVC_OK
		               ? KVC_OK
		               : kvc_problem_set(
		                         problem, KVC_INVALID,
		                         "codec.preset: unknown, expected quality, compact, plain, k8v4 "
		                         "or raw");
	*codec = (struct kvc_block_codec){0};
	status = params_parse("key", wire->key, &codec->key, problem);
	return status == KVC_OK ? params_parse("value", wire->value, &codec->value, problem) : status;
}

static kvc_status layers_parse(const Kvcellar__Open *open, struct kvc_block_codec *codec,
                               struct kvc_problem *problem)
{
	const Kvcellar__Codec *wire = open->codec;

	if (wire->n_layers > KVC_OVERRIDES_MAX)
		return field_refuse(problem, KVC_LIMIT, "codec.layers", wire->n_layers, "at most 16 entries");
	for (uint32_t i = 0; i < wire->n_layers; i++) {
		const Kvcellar__LayerCodec *layer = wire->layers[i];
		struct kvc_layer_override *override = &codec->overrides[i];
		kvc_status status;

		if (layer->layer >= open->layers || (i && layer->layer <= override[-1].layer))
			return field_refuse(problem, KVC_INVALID, "codec.layers.layer", layer->layer,
			                    "layers in ascending order, less than the number of layers");
		override->layer = layer->layer;
		status = params_parse("layers.key", layer->key, &override->key, problem);
		if (status == KVC_OK)
			status = params_parse("layers.value", layer->value, &override->value, problem);
		if (status != KVC_OK)
			return status;
	}
	codec->override_count = (uint32_t)wire->n_layers;
	return KVC_OK;
}

static bool preset_has_zero(struct kvc_body body)
{
	struct kvc_body codec;

	while (kvc_convert_field_next(&body, OPEN_CODEC, &codec)) {
		if (kvc_convert_has_zero(codec, CODEC_PRESET))
			return true;
	}
	return false;
}

static kvc_status codec_parse(const Kvcellar__Open *open, struct kvc_body body, struct kvc_block_codec *codec,
                              struct kvc_problem *problem)
{
	kvc_status status;

	if (!open->codec || preset_has_zero(body))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "codec: expected a preset, or key and value parameters");
	status = base_parse(open->codec, codec, problem);
	return status == KVC_OK ? layers_parse(open, codec, problem) : status;
}

kvc_status kvc_parse_open(struct kvc_convert *convert, struct kvc_body body, struct kvc_open_request *request,
                          struct kvc_problem *problem)
{
	const Kvcellar__Open *open = kvc_convert_unpack(convert, &kvcellar__open__descriptor, body, problem);
	struct kvc_open_request parsed = {0};
	kvc_status status;

	if (!open)
		return KVC_BAD_MESSAGE;
	if (open->id == 0)
		return kvc_problem_set(problem, KVC_INVALID, "id: not set, expected a number from 1");
	status = names_check(open, body, problem);
	if (status == KVC_OK)
		status = shape_parse(open, &parsed.options, problem);
	if (status == KVC_OK)
		status = codec_parse(open, body, &parsed.options.codec, problem);
	if (status != KVC_OK)
		return status;
	parsed.id = open->id;
	parsed.options.tenant = open->tenant;
	parsed.options.model = open->model;
	*request = parsed;
	return KVC_OK;
}

/* ---- a tenant alone ------------------------------------------------------------------------ */

kvc_status kvc_parse_drop_tenant(struct kvc_convert *convert, struct kvc_body body,
                                 struct kvc_tenant_request *request, struct kvc_problem *problem)
{
	const Kvcellar__DropTenant *message =
	        kvc_convert_unpack(convert, &kvcellar__drop_tenant__descriptor, body, problem);

	if (!message)
		return KVC_BAD_MESSAGE;
	if (tenant_check(body, REQUEST_TENANT, message->tenant, problem) != KVC_OK)
		return KVC_INVALID;
	static_assert(sizeof request->tenant == KVC_TENANT_BYTES_MAX + 1, "every name fits");
	memcpy(request->tenant, message->tenant, strlen(message->tenant) + 1);
	return KVC_OK;
}

kvc_status kvc_parse_stats(struct kvc_convert *convert, struct kvc_body body,
                           struct kvc_tenant_request *request, struct kvc_problem *problem)
{
	const Kvcellar__StatsRequest *message =
	        kvc_convert_unpack(convert, &kvcellar__stats_request__descriptor, body, problem);

	if (!message)
		return KVC_BAD_MESSAGE;
	if (!*message->tenant && !kvc_convert_has_zero(body, REQUEST_TENANT)) {
		request->tenant[0] = 0;
		return KVC_OK;
	}
	if (tenant_check(body, REQUEST_TENANT, message->tenant, problem) != KVC_OK)
		return KVC_INVALID;
	memcpy(request->tenant, message->tenant, strlen(message->tenant) + 1);
	return KVC_OK;
}
