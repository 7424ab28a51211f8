/* Requests on blocks and keys. */
#include <inttypes.h>

#include "daemon/rpc/convert_private.h"
#include "proto/frame.h"

/* ---- what they share ----------------------------------------------------------------------- */

static kvc_status key_check(const char *field, size_t i, size_t bytes, struct kvc_problem *problem)
{
	if (bytes > 0 && bytes <= KVC_KEY_BYTES_MAX)
		return KVC_OK;
	return kvc_problem_set(problem, KVC_INVALID, "%s[%zu]: %zu bytes, expected 1 to %u", field, i, bytes,
	                       KVC_KEY_BYTES_MAX);
}

static kvc_status count_check(const char *field, size_t count, const struct kvc_rpc_limits *limits,
                              struct kvc_problem *problem)
{
	if (count == 0)
		return kvc_problem_set(problem, KVC_INVALID, "%s: empty, expected at least one", field);
	if (count > limits->batch)
		return kvc_problem_set(problem, KVC_LIMIT, "%s: %zu, expected at most %u (limits.batch)",
		                       field, count, limits->batch);
	return KVC_OK;
}

static kvc_status ns_check(uint32_t ns, struct kvc_problem *problem)
{
	return ns ? KVC_OK
	          : kvc_problem_set(problem, KVC_INVALID, "namespace: not set, expected an opened id");
}

/* One above the maximum is cut, not refused: the client may have been told of a larger one. */
static uint32_t deadline_ms(uint32_t ms, const struct kvc_rpc_limits *limits)
{
	if (!ms)
		return limits->deadline_ms_default;
	return ms < limits->deadline_ms_max ? ms : limits->deadline_ms_max;
}

/* ---- keys ---------------------------------------------------------------------------------- */

kvc_status kvc_parse_keys(struct kvc_convert *convert, struct kvc_body body,
                          const struct kvc_rpc_limits *limits, struct kvc_keys_request *request,
                          struct kvc_problem *problem)
{
	const Kvcellar__Keys *keys = kvc_convert_unpack(convert, &kvcellar__keys__descriptor, body, problem);
	kvc_status status;

	if (!keys)
		return KVC_BAD_MESSAGE;
	status = ns_check(keys->namespace_, problem);
	if (status == KVC_OK)
		status = count_check("keys", keys->n_keys, limits, problem);
	for (size_t i = 0; status == KVC_OK && i < keys->n_keys; i++)
		status = key_check("keys", i, keys->keys[i].len, problem);
	if (status != KVC_OK)
		return status;
	*request = (struct kvc_keys_request){keys->namespace_, (uint32_t)keys->n_keys, keys->keys,
	                                     keys->prefetch};
	return KVC_OK;
}

struct kvc_bytes kvc_keys_at(const struct kvc_keys_request *request, uint32_t i)
{
	const ProtobufCBinaryData *keys = request->keys;

	return (struct kvc_bytes){keys[i].data, keys[i].len};
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* What Put and Get have in common. */
struct blocks_fields {
	uint32_t ns;
	uint32_t deadline_ms;
	uint64_t expires_ns;
	Kvcellar__Plane plane;
	Kvcellar__Form form;
	uint32_t region;
	const Kvcellar__Mark *mark;
	const Kvcellar__Layout *key_layout;
	const Kvcellar__Layout *value_layout;
	size_t count;
	Kvcellar__Block **blocks;
};

static struct kvc_wire_layout layout_of(const Kvcellar__Layout *layout)
{
	if (!layout)
		return (struct kvc_wire_layout){0};
	return (struct kvc_wire_layout){layout->layer_stride, layout->token_stride, layout->head_stride};
}

/* A word that no pool can have stays one when 1 is added. */
static struct kvc_mark mark_of(const Kvcellar__Mark *mark)
{
	if (!mark)
		return (struct kvc_mark){0};
	return (struct kvc_mark){mark->word < KVC_GPU_MARKS_MAX ? mark->word + 1 : UINT32_MAX, mark->value};
}

/* What the plane does without. */
static kvc_status nothing_else_check(const char *what, const struct blocks_fields *fields,
                                     struct kvc_problem *problem)
{
	if (fields->key_layout || fields->value_layout)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "key_layout, value_layout: expected none with %s", what);
	if (fields->form != KVCELLAR__FORM__FORM_BLOCK && fields->plane != KVCELLAR__PLANE__PLANE_SHM)
		return kvc_problem_set(problem, KVC_INVALID, "form: %d, expected 0 (blocks) with %s",
		                       (int)fields->form, what);
	return KVC_OK;
}

static kvc_status region_check(const struct blocks_fields *fields, struct kvc_problem *problem)
{
	return fields->region
	               ? KVC_OK
	               : kvc_problem_set(problem, KVC_INVALID, "region: not set, expected an attached id");
}

static kvc_status form_check(const struct blocks_fields *fields, struct kvc_problem *problem)
{
	if (fields->form == KVCELLAR__FORM__FORM_BLOCK)
		return KVC_OK;
	if (fields->form == KVCELLAR__FORM__FORM_IMAGE)
		return nothing_else_check("images", fields, problem);
	return kvc_problem_set(problem, KVC_INVALID, "form: %d, expected 0 (blocks) or 1 (images)",
	                       (int)fields->form);
}

static kvc_status plane_check(const struct blocks_fields *fields, struct kvc_problem *problem)
{
	kvc_status status;

	switch (fields->plane) {
	case KVCELLAR__PLANE__PLANE_INLINE:
		if (fields->region)
			return kvc_problem_set(problem, KVC_INVALID,
			                       "region: %u, expected none with inline blocks",
			                       fields->region);
		return nothing_else_check("inline blocks", fields, problem);
	case KVCELLAR__PLANE__PLANE_SHM:
		status = region_check(fields, problem);
		return status == KVC_OK ? form_check(fields, problem) : status;
	case KVCELLAR__PLANE__PLANE_CUDA:
		status = region_check(fields, problem);
		return status == KVC_OK ? nothing_else_check("blocks of a pool", fields, problem) : status;
	default:
		return kvc_problem_set(problem, KVC_INVALID,
		                       "plane: %d, expected 1 (inline), 2 (shm) or 3 (cuda)",
		                       (int)fields->plane);
	}
}

static enum kvc_op_form form_of(const struct blocks_fields *fields)
{
	if (fields->plane == KVCELLAR__PLANE__PLANE_CUDA)
		return KVC_OP_DEVICE;
	return fields->form == KVCELLAR__FORM__FORM_IMAGE ? KVC_OP_IMAGE : KVC_OP_HOST;
}

static kvc_status pages_check(const Kvcellar__Block *block, size_t i, enum kvc_op_form form,
                              struct kvc_problem *problem)
{
	if (form != KVC_OP_DEVICE && (block->n_pages || block->first_token))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "blocks.pages[%zu], first_token: of the cuda plane, expected none", i);
	if (form == KVC_OP_DEVICE && (block->key_offset || block->value_offset))
		return kvc_problem_set(problem, KVC_INVALID,
		                       "blocks.key_offset[%zu], value_offset: expected none with pages", i);
	if (block->n_pages > KVC_GPU_PAGES_MAX)
		return kvc_problem_set(problem, KVC_LIMIT, "blocks.pages[%zu]: %zu ids, expected at most %u",
		                       i, block->n_pages, KVC_GPU_PAGES_MAX);
	return KVC_OK;
}

static kvc_status image_check(const Kvcellar__Block *block, size_t i, enum kvc_op_form form,
                              struct kvc_problem *problem)
{
	if (form != KVC_OP_IMAGE)
		return block->image_bytes ? kvc_problem_set(problem, KVC_INVALID,
		                                            "blocks.image_bytes[%zu]: %" PRIu64
		                                            ", expected none without form IMAGE",
		                                            i, block->image_bytes)
		                          : KVC_OK;
	if (block->image_bytes == 0 || block->image_bytes > KVC_IMAGE_BYTES_MAX)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "blocks.image_bytes[%zu]: %" PRIu64 ", expected 1 to %u", i,
		                       block->image_bytes, KVC_IMAGE_BYTES_MAX);
	if (block->key_offset % KVC_IMAGE_ALIGN || block->value_offset)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "blocks.key_offset[%zu]: %" PRIu64
		                       ", expected a multiple of %u for an image, and no value_offset",
		                       i, block->key_offset, KVC_IMAGE_ALIGN);
	return KVC_OK;
}

static kvc_status block_check(const Kvcellar__Block *block, size_t i, enum kvc_op_form form,
                              struct kvc_problem *problem)
{
	kvc_status status = key_check("blocks.key", i, block->key.len, problem);

	if (status == KVC_OK && block->parent.len)
		status = key_check("blocks.parent", i, block->parent.len, problem);
	if (status == KVC_OK && block->tokens == 0)
		status = kvc_problem_set(problem, KVC_SHAPE, "blocks.tokens[%zu]: not set", i);
	if (status == KVC_OK)
		status = pages_check(block, i, form, problem);
	if (status == KVC_OK)
		status = image_check(block, i, form, problem);
	return status;
}

static kvc_status blocks_parse(const struct blocks_fields *fields, const struct kvc_rpc_limits *limits,
                               struct kvc_blocks_request *request, struct kvc_problem *problem)
{
	struct kvc_deadline deadline = {deadline_ms(fields->deadline_ms, limits), fields->expires_ns};
	uint32_t page_count = 0; /* a frame of 64 KiB has no more */
	kvc_status status = ns_check(fields->ns, problem);

	if (status == KVC_OK)
		status = plane_check(fields, problem);
	if (status == KVC_OK)
		status = count_check("blocks", fields->count, limits, problem);
	for (size_t i = 0; status == KVC_OK && i < fields->count; i++) {
		status = block_check(fields->blocks[i], i, form_of(fields), problem);
		page_count += (uint32_t)fields->blocks[i]->n_pages;
	}
	if (status != KVC_OK)
		return status;
	*request = (struct kvc_blocks_request){
	        .ns = fields->ns,
	        .deadline = deadline,
	        .plane = (enum kvc_plane)fields->plane,
	        .form = form_of(fields),
	        .region = fields->region,
	        .mark = mark_of(fields->mark),
	        .key_layout = layout_of(fields->key_layout),
	        .value_layout = layout_of(fields->value_layout),
	        .count = (uint32_t)fields->count,
	        .page_count = page_count,
	        .blocks = fields->blocks,
	};
	return KVC_OK;
}

static kvc_status priority_parse(Kvcellar__Priority priority, uint8_t *out, struct kvc_problem *problem)
{
	switch (priority) {
	case KVCELLAR__PRIORITY__PRIORITY_LOW:
		*out = KVC_PRIORITY_LOW;
		return KVC_OK;
	case KVCELLAR__PRIORITY__PRIORITY_UNSET:
	case KVCELLAR__PRIORITY__PRIORITY_NORMAL:
		*out = KVC_PRIORITY_NORMAL;
		return KVC_OK;
	case KVCELLAR__PRIORITY__PRIORITY_HIGH:
		*out = KVC_PRIORITY_HIGH;
		return KVC_OK;
	default:
		return kvc_problem_set(problem, KVC_INVALID,
		                       "hints.priority: %d, expected 1 (low), 2 (normal) or 3 (high)",
		                       (int)priority);
	}
}

static kvc_status hints_parse(const Kvcellar__Put *put, struct kvc_hints *out, struct kvc_problem *problem)
{
	const Kvcellar__Hints *hints = put->hints;
	bool durable = put->ack == KVCELLAR__ACK__ACK_DISK;

	*out = (struct kvc_hints){0};
	if (!hints)
		return KVC_OK;
	if (durable && hints->ephemeral)
		return kvc_problem_set(
		        problem, KVC_INVALID,
		        "ack: 2 (disk), expected 1 (RAM) with hints.ephemeral: such a block is "
		        "never written to disk");
	if (durable && hints->ttl_ms)
		return kvc_problem_set(
		        problem, KVC_INVALID,
		        "ack: 2 (disk), expected 1 (RAM) with hints.ttl_ms: a block with a time "
		        "to live does not outlive a restart");
	out->ttl_ms = hints->ttl_ms;
	out->ephemeral = hints->ephemeral;
	return priority_parse(hints->priority, &out->priority, problem);
}

kvc_status kvc_parse_put(struct kvc_convert *convert, struct kvc_body body,
                         const struct kvc_rpc_limits *limits, struct kvc_blocks_request *request,
                         struct kvc_problem *problem)
{
	const Kvcellar__Put *put = kvc_convert_unpack(convert, &kvcellar__put__descriptor, body, problem);
	struct blocks_fields fields;
	struct kvc_hints hints;
	kvc_status status;

	if (!put)
		return KVC_BAD_MESSAGE;
	if (put->ack != KVCELLAR__ACK__ACK_RAM && put->ack != KVCELLAR__ACK__ACK_DISK)
		return kvc_problem_set(problem, KVC_INVALID, "ack: %d, expected 1 (RAM) or 2 (disk)",
		                       (int)put->ack);
	status = hints_parse(put, &hints, problem);
	if (status != KVC_OK)
		return status;
	fields = (struct blocks_fields){
	        .ns = put->namespace_,
	        .deadline_ms = put->deadline_ms,
	        .expires_ns = put->expires_ns,
	        .plane = put->plane,
	        .form = put->form,
	        .region = put->region,
	        .mark = put->mark,
	        .key_layout = put->key_layout,
	        .value_layout = put->value_layout,
	        .count = put->n_blocks,
	        .blocks = put->blocks,
	};
	status = blocks_parse(&fields, limits, request, problem);
	if (status != KVC_OK)
		return status;
	request->durable = put->ack == KVCELLAR__ACK__ACK_DISK;
	request->hints = hints;
	return KVC_OK;
}

kvc_status kvc_parse_get(struct kvc_convert *convert, struct kvc_body body,
                         const struct kvc_rpc_limits *limits, struct kvc_blocks_request *request,
                         struct kvc_problem *problem)
{
	const Kvcellar__Get *get = kvc_convert_unpack(convert, &kvcellar__get__descriptor, body, problem);
	struct blocks_fields fields;

	if (!get)
		return KVC_BAD_MESSAGE;
	fields = (struct blocks_fields){
	        .ns = get->namespace_,
	        .deadline_ms = get->deadline_ms,
	        .expires_ns = get->expires_ns,
	        .plane = get->plane,
	        .form = get->form,
	        .region = get->region,
	        .mark = get->mark,
	        .key_layout = get->key_layout,
	        .value_layout = get->value_layout,
	        .count = get->n_blocks,
	        .blocks = get->blocks,
	};
	return blocks_parse(&fields, limits, request, problem);
}

struct kvc_wire_block kvc_blocks_at(const struct kvc_blocks_request *request, uint32_t i)
{
	Kvcellar__Block *const *blocks = request->blocks;
	const Kvcellar__Block *block = blocks[i];

	return (struct kvc_wire_block){
	        .key = {block->key.data, block->key.len},
	        .parent = {block->parent.data, block->parent.len},
	        .tokens = block->tokens,
	        .key_offset = block->key_offset,
	        .value_offset = block->value_offset,
	        .image_bytes = block->image_bytes,
	        .first_token = block->first_token,
	        .page_count = (uint32_t)block->n_pages,
	        .pages = block->pages,
	};
}
