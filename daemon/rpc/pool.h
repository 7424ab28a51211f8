/* Checks of a pool that a client describes: where its pages lie in device memory. Pure but for the texts. */
#ifndef KVC_RPC_POOL_H
#define KVC_RPC_POOL_H

#include "daemon/rpc/convert.h"
#include "daemon/rpc/server.h"

/* The GPU with that UUID. KVC_UNSUPPORTED: this daemon has no engine for it. */
kvc_status kvc_pool_gpu_find(const struct kvc_rpc *rpc, const uint8_t uuid[KVC_UUID_BYTES],
                             struct kvc_gpu **gpu, struct kvc_problem *problem);

/* The pool's geometry for blocks of that shape, and the bytes from a base to behind the last element: of keys
 * and of values (0: none). KVC_SHAPE: another number of bases than layers, elements that overlap, strides
 * that are no multiples of an element, sizes over 2^64. */
kvc_status kvc_pool_geometry_make(const struct kvc_pool_request *request, const struct kvc_block_shape *shape,
                                  struct kvc_gpu_pool_geometry *geometry, uint64_t spans[2],
                                  struct kvc_problem *problem);

struct kvc_pool_place {
	uint64_t span;         /* bytes that the base's pages take */
	uint64_t region_bytes; /* that they must lie in */
	unsigned element;      /* bytes of one */
};

/* Whether a base's pages lie in its region. KVC_SHAPE. */
kvc_status kvc_pool_base_check(const struct kvc_pool_kind *kind, size_t layer,
                               const struct kvc_pool_place *place, struct kvc_problem *problem);

/* The pages of one block: enough of them, and ids below the pool's. KVC_SHAPE, KVC_INVALID. */
struct kvc_pool_pages {
	uint64_t pages; /* of the pool */
	uint32_t page_tokens;
};
kvc_status kvc_pool_pages_check(const struct kvc_pool_pages *pool, const struct kvc_wire_block *block,
                                uint32_t i, struct kvc_problem *problem);

#endif
