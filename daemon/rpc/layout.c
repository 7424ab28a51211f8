/* Layout checks; see layout.h. */
#include "daemon/rpc/layout.h"

#include <inttypes.h>
#include <stddef.h>

#include "daemon/base/checked.h"

static bool layout_absent(const struct kvc_wire_layout *layout)
{
	return !layout->layer_stride && !layout->token_stride && !layout->head_stride;
}

static void layout_default(const struct kvc_extent_shape *shape, struct kvc_wire_layout *layout)
{
	uint64_t token_bytes = shape->heads * shape->row_bytes;

	layout->head_stride = (int64_t)shape->row_bytes;
	layout->token_stride = (int64_t)token_bytes;
	layout->layer_stride = (int64_t)(token_bytes * shape->tokens);
}

static void axes_sort(struct kvc_axis axes[KVC_AXES])
{
	for (int i = 1; i < KVC_AXES; i++) {
		for (int j = i; j > 0 && axes[j].stride < axes[j - 1].stride; j--) {
			struct kvc_axis swapped = axes[j];

			axes[j] = axes[j - 1];
			axes[j - 1] = swapped;
		}
	}
}

/* Innermost first: the bytes that the axes seen so far span. */
bool kvc_axes_span(struct kvc_axis axes[KVC_AXES], uint64_t row_bytes, uint64_t *span)
{
	uint64_t bytes = row_bytes;

	axes_sort(axes);
	for (int i = 0; i < KVC_AXES; i++) {
		uint64_t reach;

		if (axes[i].count == 1)
			continue;
		if (axes[i].stride < bytes || !kvc_mul_u64(axes[i].count - 1, axes[i].stride, &reach) ||
		    !kvc_add_u64(reach, bytes, &bytes))
			return false;
	}
	*span = bytes;
	return true;
}

static kvc_status refuse_layout(const struct kvc_extent_shape *shape, const struct kvc_wire_layout *layout,
                                const char *why, struct kvc_problem *problem)
{
	return kvc_problem_set(
	        problem, KVC_SHAPE,
	        "%s_layout: strides %" PRId64 ", %" PRId64 ", %" PRId64 " (layer, token, head): %s",
	        shape->field, layout->layer_stride, layout->token_stride, layout->head_stride, why);
}

kvc_status kvc_layout_check(const struct kvc_extent_shape *shape, const struct kvc_wire_layout *layout,
                            uint64_t offset, uint64_t window_bytes, struct kvc_block_layout *strides,
                            struct kvc_problem *problem)
{
	struct kvc_wire_layout used = *layout;
	struct kvc_axis axes[KVC_AXES];
	uint64_t span;

	if (layout_absent(layout))
		layout_default(shape, &used);
	if (used.layer_stride < 0 || used.token_stride < 0 || used.head_stride < 0)
		return refuse_layout(shape, layout, "must not be negative", problem);
	axes[0] = (struct kvc_axis){shape->layers, (uint64_t)used.layer_stride};
	axes[1] = (struct kvc_axis){shape->tokens, (uint64_t)used.token_stride};
	axes[2] = (struct kvc_axis){shape->heads, (uint64_t)used.head_stride};
	if (!kvc_axes_span(axes, shape->row_bytes, &span))
		return refuse_layout(shape, layout, "elements overlap, or the strides are too large",
		                     problem);
	if (span > window_bytes || offset > window_bytes - span)
		return kvc_problem_set(problem, KVC_SHAPE,
		                       "%s_offset: %" PRIu64 " bytes from %" PRIu64
		                       " do not lie within the memory's %" PRIu64,
		                       shape->field, span, offset, window_bytes);
	strides->layer_stride = (ptrdiff_t)used.layer_stride;
	strides->token_stride = (ptrdiff_t)used.token_stride;
	strides->head_stride = (ptrdiff_t)used.head_stride;
	return KVC_OK;
}

struct kvc_block_shape kvc_layout_shape(const struct kvc_image_plan *plan, uint32_t tokens)
{
	struct kvc_block_shape shape = plan->shape;

	shape.tokens = tokens;
	return shape;
}

static struct kvc_extent_shape extent_of(const struct kvc_block_shape *shape, const char *field, uint32_t dim)
{
	return (struct kvc_extent_shape){
	        .field = field,
	        .layers = shape->layers,
	        .tokens = shape->tokens,
	        .heads = shape->heads,
	        .row_bytes = (uint64_t)dim * kvc_dtype_bytes(shape->dtype),
	};
}

kvc_status kvc_layout_view(const struct kvc_block_shape *shape, const struct kvc_placement *placement,
                           const struct kvc_window *window, struct kvc_block_view *view,
                           struct kvc_problem *problem)
{
	struct kvc_extent_shape keys = extent_of(shape, "key", shape->key_dim);
	struct kvc_extent_shape values = extent_of(shape, "value", shape->value_dim);
	struct kvc_block_view made = {0};
	kvc_status status;

	status = kvc_layout_check(&keys, placement->key_layout, placement->key_offset, window->bytes,
	                          &made.key_layout, problem);
	if (status == KVC_OK && shape->value_dim)
		status = kvc_layout_check(&values, placement->value_layout, placement->value_offset,
		                          window->bytes, &made.value_layout, problem);
	if (status != KVC_OK)
		return status;
	made.key = window->data + placement->key_offset;
	if (shape->value_dim)
		made.value = window->data + placement->value_offset;
	*view = made;
	return KVC_OK;
}
