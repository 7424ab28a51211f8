/* Requests about device memory, and attach in general. Sizes and counts are checked here; what needs the
 * session (ids, the namespace's shape, the daemon's GPUs) is checked in device.c. */
#include <inttypes.h>
#include <string.h>

#include "daemon/base/checked.h"
#include "daemon/rpc/convert_private.h"

static kvc_status id_check(uint32_t id, struct kvc_problem *problem)
{
	return id ? KVC_OK : kvc_problem_set(problem, KVC_INVALID, "id: not set, expected a number from 1");
}

static kvc_status length_check(const char *field, size_t bytes, size_t expected, struct kvc_problem *problem)
{
	return bytes == expected ? KVC_OK
	                         : kvc_problem_set(problem, KVC_INVALID, "%s: %zu bytes, expected %zu", field,
	                                           bytes, expected);
}

/* ---- attach -------------------------------------------------------------------------------- */

static kvc_status shm_check(const Kvcellar__Attach *attach, struct kvc_problem *problem)
{
	if (attach->device.len || attach->handle.len || attach->offset || attach->n_chunk_bytes)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "device, handle, offset, chunk_bytes: of the cuda plane, expected "
		                       "none with PLANE_SHM");
	return KVC_OK;
}

/* A region at a CUDA IPC handle's allocation. Elements must not end up unaligned: 4 is the largest. */
static kvc_status handle_parse(const Kvcellar__Attach *attach, struct kvc_gpu_import *import,
                               struct kvc_problem *problem)
{
	enum { ELEMENT_MAX = 4 };
	uint64_t end;
	kvc_status status = length_check("handle", attach->handle.len, KVC_GPU_HANDLE_BYTES, problem);

	if (status != KVC_OK)
		return status;
	if (attach->n_chunk_bytes)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "chunk_bytes: %zu entries with a handle, expected none",
		                       attach->n_chunk_bytes);
	if (attach->offset % ELEMENT_MAX)
		return kvc_problem_set(problem, KVC_INVALID, "offset: %" PRIu64 ", expected a multiple of %d",
		                       attach->offset, ELEMENT_MAX);
	if (!kvc_add_u64(attach->offset, attach->bytes, &end))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "offset: %" PRIu64 ", with bytes %" PRIu64
		                       " over 2^64, expected a place in the allocation",
		                       attach->offset, attach->bytes);
	memcpy(import->handle, attach->handle.data, KVC_GPU_HANDLE_BYTES);
	import->offset = attach->offset;
	return KVC_OK;
}

static kvc_status chunks_parse(const Kvcellar__Attach *attach, struct kvc_gpu_import *import,
                               struct kvc_problem *problem)
{
	size_t count = attach->n_chunk_bytes;
	uint64_t sum = 0;

	if (count == 0 || count > KVC_GPU_CHUNKS_MAX)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "chunk_bytes: %zu entries without a handle, expected 1 to %u", count,
		                       KVC_GPU_CHUNKS_MAX);
	if (attach->offset)
		return kvc_problem_set(problem, KVC_INVALID, "offset: %" PRIu64 ", expected 0 with chunks",
		                       attach->offset);
	for (size_t i = 0; i < count; i++) {
		import->chunk_bytes[i] = attach->chunk_bytes[i];
		if (!attach->chunk_bytes[i] || !kvc_add_u64(sum, attach->chunk_bytes[i], &sum))
			return kvc_problem_set(problem, KVC_INVALID,
			                       "chunk_bytes[%zu]: %" PRIu64
			                       ", expected sizes above 0 with a sum below 2^64",
			                       i, attach->chunk_bytes[i]);
	}
	if (sum != attach->bytes)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "chunk_bytes: %" PRIu64 " in all, expected %" PRIu64 " (bytes)", sum,
		                       attach->bytes);
	import->chunks = (uint32_t)count;
	return KVC_OK;
}

static kvc_status cuda_parse(const Kvcellar__Attach *attach, struct kvc_attach_request *request,
                             struct kvc_problem *problem)
{
	struct kvc_gpu_import *import = &request->import;
	kvc_status status = length_check("device", attach->device.len, KVC_UUID_BYTES, problem);

	memset(import, 0, sizeof *import);
	import->bytes = attach->bytes;
	if (status == KVC_OK)
		status = attach->handle.len ? handle_parse(attach, import, problem)
		                            : chunks_parse(attach, import, problem);
	if (status == KVC_OK)
		memcpy(request->device, attach->device.data, KVC_UUID_BYTES);
	return status;
}

kvc_status kvc_parse_attach(struct kvc_convert *convert, struct kvc_body body,
                            struct kvc_attach_request *request, struct kvc_problem *problem)
{
	const Kvcellar__Attach *attach =
	        kvc_convert_unpack(convert, &kvcellar__attach__descriptor, body, problem);
	bool cuda;

	if (!attach)
		return KVC_BAD_MESSAGE;
	if (id_check(attach->id, problem) != KVC_OK)
		return KVC_INVALID;
	cuda = attach->plane == KVCELLAR__PLANE__PLANE_CUDA;
	if (!cuda && attach->plane != KVCELLAR__PLANE__PLANE_SHM)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "plane: %d, expected PLANE_SHM (%d) or PLANE_CUDA (%d)",
		                       (int)attach->plane, (int)KVCELLAR__PLANE__PLANE_SHM,
		                       (int)KVCELLAR__PLANE__PLANE_CUDA);
	if (attach->bytes == 0)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "bytes: not set, expected the size of the memory");
	request->id = attach->id;
	request->plane = (enum kvc_plane)attach->plane;
	request->bytes = attach->bytes;
	return cuda ? cuda_parse(attach, request, problem) : shm_check(attach, problem);
}

/* ---- pool ---------------------------------------------------------------------------------- */

static kvc_status bases_check(const char *field, Kvcellar__PoolBase *const *bases, size_t count,
                              struct kvc_problem *problem)
{
	for (size_t i = 0; i < count; i++) {
		if (!bases[i]->region)
			return kvc_problem_set(problem, KVC_INVALID,
			                       "%s[%zu].region: not set, expected an attached id", field, i);
	}
	return KVC_OK;
}

static kvc_status pool_sizes_check(const Kvcellar__Pool *pool, struct kvc_problem *problem)
{
	const uint64_t ids = (uint64_t)UINT32_MAX + 1;

	if (!pool->namespace_)
		return kvc_problem_set(problem, KVC_INVALID, "namespace: not set, expected an opened id");
	if (pool->pages == 0 || pool->pages > ids)
		return kvc_problem_set(problem, KVC_INVALID, "pages: %" PRIu64 ", expected 1 to 2^32",
		                       pool->pages);
	if (pool->page_tokens == 0 || pool->page_tokens > KVC_PAGE_TOKENS_MAX)
		return kvc_problem_set(problem, KVC_INVALID, "page_tokens: %u, expected 1 to %u",
		                       pool->page_tokens, KVC_PAGE_TOKENS_MAX);
	if (!pool->key_strides)
		return kvc_problem_set(problem, KVC_INVALID, "key_strides: missing");
	if (!pool->value_strides != !pool->n_value_bases)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "value_strides, value_bases: expected both, or none for key-only "
		                       "blocks");
	return KVC_OK;
}

static struct kvc_gpu_strides strides_of(const Kvcellar__PoolStrides *strides)
{
	return strides ? (struct kvc_gpu_strides){strides->page, strides->token, strides->head}
	               : (struct kvc_gpu_strides){0};
}

static kvc_status marks_check(uint32_t marks, struct kvc_problem *problem)
{
	if (marks <= KVC_GPU_MARKS_MAX)
		return KVC_OK;
	return kvc_problem_set(problem, KVC_INVALID, "marks: %u, expected at most %u", marks,
	                       KVC_GPU_MARKS_MAX);
}

kvc_status kvc_parse_pool(struct kvc_convert *convert, struct kvc_body body, struct kvc_pool_request *request,
                          struct kvc_problem *problem)
{
	const Kvcellar__Pool *pool = kvc_convert_unpack(convert, &kvcellar__pool__descriptor, body, problem);
	kvc_status status;

	if (!pool)
		return KVC_BAD_MESSAGE;
	status = id_check(pool->id, problem);
	if (status == KVC_OK)
		status = pool_sizes_check(pool, problem);
	if (status == KVC_OK)
		status = marks_check(pool->marks, problem);
	if (status == KVC_OK)
		status = bases_check("key_bases", pool->key_bases, pool->n_key_bases, problem);
	if (status == KVC_OK)
		status = bases_check("value_bases", pool->value_bases, pool->n_value_bases, problem);
	if (status != KVC_OK)
		return status;
	*request = (struct kvc_pool_request){
	        .id = pool->id,
	        .ns = pool->namespace_,
	        .pages = pool->pages,
	        .page_tokens = pool->page_tokens,
	        .key = {"key", strides_of(pool->key_strides), pool->n_key_bases, pool->key_bases},
	        .value = {"value", strides_of(pool->value_strides), pool->n_value_bases, pool->value_bases},
	        .marks = pool->marks,
	};
	return KVC_OK;
}

struct kvc_wire_base kvc_pool_base_at(const struct kvc_pool_kind *kind, size_t layer)
{
	Kvcellar__PoolBase *const *bases = kind->bases;

	return (struct kvc_wire_base){bases[layer]->region, bases[layer]->offset};
}
