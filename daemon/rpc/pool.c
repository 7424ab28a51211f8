/* Geometry of pools: see pool.h. */
#include "daemon/rpc/pool.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- GPUs ---------------------------------------------------------------------------------- */

enum { UUID_TEXT = 41 }; /* GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, as nvidia-smi writes it */

static void uuid_print(const uint8_t uuid[KVC_UUID_BYTES], char text[UUID_TEXT])
{
	int at = snprintf(text, UUID_TEXT, "GPU-");

	for (unsigned i = 0; i < KVC_UUID_BYTES; i++) {
		bool dash = i == 4 || i == 6 || i == 8 || i == 10;

		at += snprintf(text + at, (size_t)(UUID_TEXT - at), "%s%02x", dash ? "-" : "", uuid[i]);
	}
}

kvc_status kvc_pool_gpu_find(const struct kvc_rpc *rpc, const uint8_t uuid[KVC_UUID_BYTES],
                             struct kvc_gpu **gpu, struct kvc_problem *problem)
{
	char asked[UUID_TEXT];
	char first[UUID_TEXT] = "none";

	for (uint32_t i = 0; i < rpc->gpu_count; i++) {
		if (memcmp(kvc_gpu_uuid(rpc->gpus[i]), uuid, KVC_UUID_BYTES) == 0) {
			*gpu = rpc->gpus[i];
			return KVC_OK;
		}
	}
	uuid_print(uuid, asked);
	if (rpc->gpu_count)
		uuid_print(kvc_gpu_uuid(rpc->gpus[0]), first);
	return kvc_problem_set(
	        problem, KVC_UNSUPPORTED,
	        "this daemon has no engine for GPU %s; it has %s%s; start kvcellard with --gpus", asked,
	        first, rpc->gpu_count > 1 ? " and others" : "");
}

/* ---- geometry ------------------------------------------------------------------------------ */

static kvc_status strides_check(const struct kvc_pool_kind *kind, unsigned element,
                                struct kvc_problem *problem)
{
	const struct kvc_gpu_strides *strides = &kind->strides;

	if (strides->page % element == 0 && strides->token % element == 0 && strides->head % element == 0)
		return KVC_OK;
	return kvc_problem_set(problem, KVC_SHAPE,
	                       "%s_strides: %" PRIu64 ", %" PRIu64 ", %" PRIu64
	                       " (page, token, head), expected multiples of %u, the bytes of an element",
	                       kind->field, strides->page, strides->token, strides->head, element);
}

static kvc_status kind_span(const struct kvc_pool_request *request, const struct kvc_pool_kind *kind,
                            const struct kvc_block_shape *shape, uint32_t dim, uint64_t *span,
                            struct kvc_problem *problem)
{
	unsigned element = (unsigned)kvc_dtype_bytes(shape->dtype);
	const struct kvc_gpu_strides *strides = &kind->strides;
	struct kvc_axis axes[KVC_AXES] = {
	        {request->pages, strides->page},
	        {request->page_tokens, strides->token},
	        {shape->heads, strides->head},
	};
	uint32_t bases = dim ? shape->layers : 0;

	if (kind->count != bases)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "%s_bases: %zu, expected %u, one a layer of the namespace",
		                       kind->field, kind->count, bases);
	*span = 0;
	if (!dim)
		return KVC_OK;
	if (strides_check(kind, element, problem) != KVC_OK)
		return KVC_SHAPE;
	if (kvc_axes_span(axes, (uint64_t)dim * element, span))
		return KVC_OK;
	return kvc_problem_set(problem, KVC_SHAPE,
	                       "%s_strides: %" PRIu64 ", %" PRIu64 ", %" PRIu64
	                       " (page, token, head): elements overlap, or lie beyond 2^64",
	                       kind->field, strides->page, strides->token, strides->head);
}

kvc_status kvc_pool_geometry_make(const struct kvc_pool_request *request, const struct kvc_block_shape *shape,
                                  struct kvc_gpu_pool_geometry *geometry, uint64_t spans[2],
                                  struct kvc_problem *problem)
{
	kvc_status status = kind_span(request, &request->key, shape, shape->key_dim, &spans[0], problem);

	if (status == KVC_OK)
		status = kind_span(request, &request->value, shape, shape->value_dim, &spans[1], problem);
	if (status != KVC_OK)
		return status;
	*geometry = (struct kvc_gpu_pool_geometry){
	        .layers = shape->layers,
	        .page_tokens = request->page_tokens,
	        .pages = request->pages,
	        .heads = shape->heads,
	        .key_dim = shape->key_dim,
	        .value_dim = shape->value_dim,
	        .dtype = (uint32_t)shape->dtype,
	        .key = request->key.strides,
	        .value = request->value.strides,
	};
	return KVC_OK;
}

kvc_status kvc_pool_base_check(const struct kvc_pool_kind *kind, size_t layer,
                               const struct kvc_pool_place *place, struct kvc_problem *problem)
{
	uint64_t offset = kvc_pool_base_at(kind, layer).offset;

	if (offset % place->element)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "%s_bases[%zu].offset: %" PRIu64 ", expected a multiple of %u",
		                       kind->field, layer, offset, place->element);
	if (place->span > place->region_bytes || offset > place->region_bytes - place->span)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "%s_bases[%zu].offset: the pages take %" PRIu64 " bytes from %" PRIu64
		                       ", expected within the region's %" PRIu64,
		                       kind->field, layer, place->span, offset, place->region_bytes);
	return KVC_OK;
}

/* ---- pages of a block ---------------------------------------------------------------------- */

kvc_status kvc_pool_pages_check(const struct kvc_pool_pages *pool, const struct kvc_wire_block *block,
                                uint32_t i, struct kvc_problem *problem)
{
	uint64_t tokens = (uint64_t)block->first_token + block->tokens;
	uint64_t expected = (tokens + pool->page_tokens - 1) / pool->page_tokens;

	if (block->first_token >= pool->page_tokens)
		return kvc_problem_set(
		        problem, KVC_SHAPE,
		        "blocks.first_token[%u]: %u, expected less than the pool's page_tokens, %u", i,
		        block->first_token, pool->page_tokens);
	if (block->page_count != expected)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "blocks.pages[%u]: %u ids, expected %" PRIu64
		                       " for %u tokens from token %u of a page of %u",
		                       i, block->page_count, expected, block->tokens, block->first_token,
		                       pool->page_tokens);
	for (uint32_t p = 0; p < block->page_count; p++) {
		if (block->pages[p] >= pool->pages)
			return kvc_problem_set(problem, KVC_INVALID,
			                       "blocks.pages[%u]: page id %u, expected less than the pool's "
			                       "pages, %" PRIu64,
			                       i, block->pages[p], pool->pages);
	}
	return KVC_OK;
}
