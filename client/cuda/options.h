/* From options to what the kernels take: shape and codec, geometry of the pool. Pure functions. */
#ifndef KVCW_OPTIONS_H
#define KVCW_OPTIONS_H

#include "client/kvcellar_worker.h"
#include "kernels/kern.h"

/* Shape of a full block, and codec. KVC_SHAPE, KVC_INVALID, KVC_LIMIT; kvcw_fail says why. */
kvc_status kvcw_namespace_read(const struct kvc_namespace_options *options, struct kvc_block_shape *shape,
                               struct kvc_block_codec *codec);

/* Geometry of the pool; tables of layers are still NULL, with the alignment that they will have. `bytes` is
 * what the pages of a layer span. */
kvc_status kvcw_pool_read(const struct kvc_pool_options *options, const struct kvc_block_shape *shape,
                          struct kvc_kern_pool *pool);

/* Note why; returns the status. */
kvc_status kvcw_fail(kvc_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
