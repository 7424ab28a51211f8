/* Where a block lies in memory that a client described: checks, and the view for the codec. Pure. */
#ifndef KVC_RPC_LAYOUT_H
#define KVC_RPC_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/rpc/problem.h"
#include "kernels/image.h"

/* As on the wire. All zero, or absent: contiguous [layers][tokens][heads][dim] of the block's tokens. */
struct kvc_wire_layout {
	int64_t layer_stride;
	int64_t token_stride;
	int64_t head_stride;
};

/* One direction of an array: `count` steps of `stride` bytes. */
struct kvc_axis {
	uint64_t count;
	uint64_t stride;
};

enum { KVC_AXES = 3 };

/* Bytes from the first element of an array of rows to behind its last; sorts the axes. False: elements
 * overlap, or the bytes do not fit 64 bits. */
bool kvc_axes_span(struct kvc_axis axes[KVC_AXES], uint64_t row_bytes, uint64_t *span);

/* Memory that the block must lie in. */
struct kvc_window {
	uint8_t *data;
	uint64_t bytes;
};

/* Tiles of one kind of a block: [layers][tokens][heads] rows of row_bytes. */
struct kvc_extent_shape {
	const char *field; /* "key" or "value", for the text of a problem */
	uint32_t layers;
	uint32_t tokens;
	uint32_t heads;
	uint64_t row_bytes;
};

/* KVC_OK if every element lies inside the window and no two overlap: strides are not negative, and each
 * spans what is nested in it. KVC_SHAPE if not; all arithmetic is checked. *strides is what to use. */
kvc_status kvc_layout_check(const struct kvc_extent_shape *shape, const struct kvc_wire_layout *layout,
                            uint64_t offset, uint64_t window_bytes, struct kvc_block_layout *strides,
                            struct kvc_problem *problem);

/* The shape of a block with that many tokens. */
struct kvc_block_shape kvc_layout_shape(const struct kvc_image_plan *plan, uint32_t tokens);

struct kvc_placement {
	const struct kvc_wire_layout *key_layout;
	const struct kvc_wire_layout *value_layout;
	uint64_t key_offset;
	uint64_t value_offset;
};

/* The view of a block of that shape inside the window. KVC_SHAPE. */
kvc_status kvc_layout_view(const struct kvc_block_shape *shape, const struct kvc_placement *placement,
                           const struct kvc_window *window, struct kvc_block_view *view,
                           struct kvc_problem *problem);

#endif
