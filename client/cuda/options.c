/* See options.h. */
#include "client/cuda/options.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

static_assert((int)KVC_ELEMENT_BF16 == (int)KVC_DTYPE_BF16 && (int)KVC_ELEMENT_FP16 == (int)KVC_DTYPE_FP16 &&
                      (int)KVC_ELEMENT_FP32 == (int)KVC_DTYPE_FP32,
              "the client's numbers are the codec's");

#define PAGES_MAX ((uint64_t)INT32_MAX) /* ids of 4 bytes, read as signed */

static _Thread_local char last_error[256];

const char *kvc_worker_error(void)
{
	return last_error;
}

kvc_status kvcw_fail(kvc_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(last_error, sizeof last_error, format, arguments);
	va_end(arguments);
	return status;
}

/* --- namespace --- */

static struct kvc_codec_params params_of(const struct kvc_coding *coding)
{
	return (struct kvc_codec_params){
	        .bits = coding->bits <= KVC_BITS_RAW ? (uint8_t)coding->bits : 0,
	        .centre = coding->centre != 0,
	        .rotate = coding->rotate != 0,
	        .gain = coding->gain != 0,
	        .group = coding->group <= UINT16_MAX ? (uint16_t)coding->group : 0,
	        .clip = coding->clip,
	};
}

static kvc_status layers_read(const struct kvc_namespace_options *options, struct kvc_block_codec *codec)
{
	if (options->layer_coding_count > KVC_OVERRIDES_MAX)
		return kvcw_fail(KVC_LIMIT, "%zu layers with a coding of their own, %u are possible",
		                 options->layer_coding_count, KVC_OVERRIDES_MAX);
	if (options->layer_coding_count && !options->layer_codings)
		return kvcw_fail(KVC_INVALID, "layer_coding_count without layer_codings");
	codec->override_count = (uint32_t)options->layer_coding_count;
	for (uint32_t i = 0; i < codec->override_count; i++)
		codec->overrides[i] = (struct kvc_layer_override){
		        .layer = options->layer_codings[i].layer,
		        .key = params_of(&options->layer_codings[i].key),
		        .value = params_of(&options->layer_codings[i].value),
		};
	return KVC_OK;
}

kvc_status kvcw_namespace_read(const struct kvc_namespace_options *options, struct kvc_block_shape *shape,
                               struct kvc_block_codec *codec)
{
	if (!options || options->size < sizeof *options)
		return kvcw_fail(KVC_INVALID, "namespace options not made by kvc_namespace_options_init");
	*shape = (struct kvc_block_shape){
	        .layers = options->layers,
	        .heads = options->heads,
	        .key_dim = options->key_dim,
	        .value_dim = options->value_dim,
	        .tokens = options->block_tokens,
	        .dtype = (enum kvc_dtype)options->element,
	};
	if (kvc_block_shape_check(shape) != KVC_OK)
		return kvcw_fail(
		        KVC_SHAPE, "%u layers, %u heads of %u and %u channels, %u tokens: no such block",
		        shape->layers, shape->heads, shape->key_dim, shape->value_dim, shape->tokens);
	*codec = (struct kvc_block_codec){.key = params_of(&options->key_coding),
	                                  .value = params_of(&options->value_coding)};
	if (options->preset && kvc_preset_get(options->preset, codec) != KVC_OK)
		return kvcw_fail(KVC_INVALID, "no preset '%s'", options->preset);
	return layers_read(options, codec);
}

/* --- pool --- */

static bool add_span(uint64_t *bytes, uint64_t count, uint64_t stride)
{
	uint64_t span;

	return !__builtin_mul_overflow(count, stride, &span) && !__builtin_add_overflow(*bytes, span, bytes);
}

/* False if the span of a layer's pages overflows, or a base is missing. */
static bool place_read(const struct kvc_pool_options *options, const struct kvc_pool_strides *strides,
                       const void *const *bases, uint64_t row_bytes, struct kvc_kern_place *place)
{
	uint64_t joint = 16;

	*place = (struct kvc_kern_place){
	        .page_stride = strides->page, .token_stride = strides->token, .head_stride = strides->head};
	place->bytes = row_bytes;
	for (uint32_t i = 0; i < options->layers; i++) {
		if (!bases[i])
			return false;
		joint |= (uintptr_t)bases[i];
	}
	place->layers_align = (uint32_t)(joint & -joint);
	return add_span(&place->bytes, options->pages - 1, strides->page) &&
	       add_span(&place->bytes, options->page_tokens - 1, strides->token);
}

static kvc_status places_read(const struct kvc_pool_options *options, const struct kvc_block_shape *shape,
                              struct kvc_kern_pool *pool)
{
	uint64_t element = kvc_dtype_bytes(shape->dtype);

	if (!options->key_bases || (shape->value_dim && !options->value_bases))
		return kvcw_fail(KVC_INVALID,
		                 "a pool needs the bases of keys, and of values if there are any");
	if (!place_read(options, &options->key_strides, options->key_bases, shape->key_dim * element,
	                &pool->key) ||
	    !add_span(&pool->key.bytes, shape->heads - 1, options->key_strides.head))
		return kvcw_fail(KVC_SHAPE, "keys: no base, or strides beyond any memory");
	if (shape->value_dim == 0)
		return KVC_OK;
	if (!place_read(options, &options->value_strides, options->value_bases, shape->value_dim * element,
	                &pool->value) ||
	    !add_span(&pool->value.bytes, shape->heads - 1, options->value_strides.head))
		return kvcw_fail(KVC_SHAPE, "values: no base, or strides beyond any memory");
	return KVC_OK;
}

kvc_status kvcw_pool_read(const struct kvc_pool_options *options, const struct kvc_block_shape *shape,
                          struct kvc_kern_pool *pool)
{
	if (!options || options->size < sizeof *options)
		return kvcw_fail(KVC_INVALID, "pool options not made by kvc_pool_options_init");
	if (options->layers != shape->layers)
		return kvcw_fail(KVC_SHAPE, "a pool of %u layers, the namespace has %u", options->layers,
		                 shape->layers);
	if (options->pages == 0 || options->pages > PAGES_MAX || options->page_tokens == 0)
		return kvcw_fail(KVC_SHAPE,
		                 "a pool of %llu pages of %u tokens: expected 1 to %llu, and 1 or more",
		                 (unsigned long long)options->pages, options->page_tokens,
		                 (unsigned long long)PAGES_MAX);
	*pool = (struct kvc_kern_pool){
	        .pages = options->pages, .page_tokens = options->page_tokens, .id_bytes = 4};
	return places_read(options, shape, pool);
}
