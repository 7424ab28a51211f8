/* Any bytes as the body of any request: unpacking, checking, and laying out what was accepted must stay in
 * bounds, allocate nothing, and accept nothing that reaches outside of its memory. The first byte chooses the
 * message. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/rpc/convert.h"
#include "daemon/rpc/pool.h"

enum { WINDOW_BYTES = 65536 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct kvc_convert *convert;
static struct kvc_image_plan plan;

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "failed: %s\n", what);
		abort();
	}
}

static void begin(void)
{
	struct kvc_block_shape shape = {2, 2, 64, 64, 16, KVC_DTYPE_BF16};
	struct kvc_block_codec codec;

	must(kvc_convert_open(&convert) == KVC_OK, "open");
	must(kvc_preset_get("quality", &codec) == KVC_OK, "preset");
	must(kvc_image_plan_init(&plan, &shape, &codec) == KVC_OK, "plan");
}

/* Touch the first and the last byte of every row: the sanitizer sees what lies outside. */
static void rows_touch(const struct kvc_block_shape *shape, uint32_t dim, uint8_t *base,
                       const struct kvc_block_layout *layout)
{
	size_t row_bytes = dim * kvc_dtype_bytes(shape->dtype);

	for (uint32_t row = 0; row < shape->layers * shape->tokens * shape->heads; row++) {
		uint8_t *at = base + row / shape->heads / shape->tokens * layout->layer_stride +
		              row / shape->heads % shape->tokens * layout->token_stride +
		              row % shape->heads * layout->head_stride;

		at[0] = at[row_bytes - 1] = 1;
	}
}

/* What is accepted names pages of the pool, and enough of them. */
static void pages_touch(const struct kvc_blocks_request *request, const struct kvc_wire_block *block,
                        uint32_t i)
{
	const struct kvc_pool_pages pool = {.pages = 1000, .page_tokens = 16};
	struct kvc_problem problem;

	if (request->form != KVC_OP_DEVICE) {
		must(block->page_count == 0, "pages on the cuda plane alone");
		must((request->form == KVC_OP_IMAGE) == (block->image_bytes > 0), "images have a length");
		return;
	}
	must(block->page_count <= KVC_GPU_PAGES_MAX, "bounded");
	if (kvc_pool_pages_check(&pool, block, i, &problem) != KVC_OK)
		return;
	must((uint64_t)block->page_count * 16 >= (uint64_t)block->first_token + block->tokens,
	     "enough pages");
	for (uint32_t p = 0; p < block->page_count; p++)
		must(block->pages[p] < 1000, "pages of the pool");
}

static void blocks_touch(const struct kvc_blocks_request *request)
{
	static uint8_t *window;
	struct kvc_problem problem;

	if (!window)
		window = malloc(WINDOW_BYTES);
	must(window != NULL, "memory");
	for (uint32_t i = 0; i < request->count; i++) {
		struct kvc_wire_block block = kvc_blocks_at(request, i);
		struct kvc_placement placement = {&request->key_layout, &request->value_layout,
		                                  block.key_offset, block.value_offset};
		struct kvc_window bounds = {window, WINDOW_BYTES};
		struct kvc_block_shape shape;
		struct kvc_block_view view;

		must(block.key.bytes >= 1 && block.key.bytes <= 64 && block.parent.bytes <= 64, "key length");
		pages_touch(request, &block, i);
		if (block.tokens > plan.shape.tokens || request->form != KVC_OP_HOST)
			continue;
		shape = kvc_layout_shape(&plan, block.tokens);
		if (kvc_layout_view(&shape, &placement, &bounds, &view, &problem) != KVC_OK)
			continue;
		rows_touch(&shape, shape.key_dim, view.key, &view.key_layout);
		rows_touch(&shape, shape.value_dim, view.value, &view.value_layout);
	}
}

/* What the cache takes for granted. */
static void hints_touch(const struct kvc_blocks_request *request)
{
	const struct kvc_hints *hints = &request->hints;

	must(hints->priority < KVC_PRIORITIES, "a priority");
	must(!request->durable || (!hints->ephemeral && !hints->ttl_ms), "what is promised stays");
}

static void keys_touch(const struct kvc_keys_request *request)
{
	static volatile uint8_t sink;

	for (uint32_t i = 0; i < request->count; i++) {
		struct kvc_bytes key = kvc_keys_at(request, i);

		must(key.bytes >= 1 && key.bytes <= 64, "key length");
		sink = key.data[key.bytes - 1];
	}
	(void)sink;
}

static void open_touch(const struct kvc_open_request *request)
{
	struct kvc_image_plan made;

	must(strlen(request->options.tenant) <= 64 && strlen(request->options.model) <= 256, "names");
	must(kvc_block_shape_check(&request->options.shape) == KVC_OK, "shape");
	kvc_image_plan_init(&made, &request->options.shape, &request->options.codec);
}

static void attach_touch(const struct kvc_attach_request *request)
{
	uint64_t sum = 0;

	must(request->bytes > 0, "a size");
	if (request->plane == KVC_PLANE_SHM)
		return;
	must(request->import.chunks <= KVC_GPU_CHUNKS_MAX && request->import.bytes == request->bytes,
	     "chunks");
	for (uint32_t i = 0; i < request->import.chunks; i++)
		sum += request->import.chunk_bytes[i];
	must(request->import.chunks == 0 || sum == request->bytes, "their sum");
	must(request->import.offset <= UINT64_MAX - request->bytes, "within 2^64");
}

/* The first and the last element of an accepted pool lie where the check says. */
static void pool_touch(const struct kvc_pool_request *request)
{
	struct kvc_gpu_pool_geometry geometry;
	uint64_t spans[2];
	struct kvc_problem problem;

	if (kvc_pool_geometry_make(request, &plan.shape, &geometry, spans, &problem) != KVC_OK)
		return;
	must(request->key.count == plan.shape.layers && request->value.count == plan.shape.layers, "bases");
	for (size_t i = 0; i < request->key.count; i++) {
		struct kvc_wire_base base = kvc_pool_base_at(&request->key, i);
		struct kvc_pool_place place = {spans[0], WINDOW_BYTES, 2};
		unsigned __int128 last = (unsigned __int128)geometry.key.page * (geometry.pages - 1) +
		                         (unsigned __int128)geometry.key.token * (geometry.page_tokens - 1) +
		                         (unsigned __int128)geometry.key.head * (geometry.heads - 1);

		if (kvc_pool_base_check(&request->key, i, &place, &problem) == KVC_OK)
			must(base.offset + last + geometry.key_dim * 2 <= WINDOW_BYTES, "in the region");
	}
}

static kvc_status parse(unsigned which, struct kvc_body body, struct kvc_problem *problem)
{
	static const struct kvc_rpc_limits limits = {
	        .batch = 1024, .deadline_ms_default = 1000, .deadline_ms_max = 60000};
	struct kvc_blocks_request blocks;
	struct kvc_attach_request attach;
	struct kvc_hello_request hello;
	struct kvc_keys_request keys;
	struct kvc_open_request open;
	struct kvc_pool_request pool;
	kvc_status status;
	uint32_t id;

	switch (which) {
	case 0:
		return kvc_parse_hello(convert, body, &hello, problem);
	case 1:
		status = kvc_parse_open(convert, body, &open, problem);
		if (status == KVC_OK)
			open_touch(&open);
		return status;
	case 2:
		status = kvc_parse_attach(convert, body, &attach, problem);
		if (status == KVC_OK)
			attach_touch(&attach);
		return status;
	case 3:
		status = kvc_parse_put(convert, body, &limits, &blocks, problem);
		if (status == KVC_OK)
			hints_touch(&blocks);
		if (status == KVC_OK)
			blocks_touch(&blocks);
		return status;
	case 4:
		status = kvc_parse_get(convert, body, &limits, &blocks, problem);
		if (status == KVC_OK)
			blocks_touch(&blocks);
		return status;
	case 5:
		status = kvc_parse_keys(convert, body, &limits, &keys, problem);
		if (status == KVC_OK)
			keys_touch(&keys);
		return status;
	case 6:
		return kvc_parse_close(convert, body, &id, problem);
	case 8:
		status = kvc_parse_pool(convert, body, &pool, problem);
		if (status == KVC_OK)
			pool_touch(&pool);
		return status;
	default:
		return kvc_parse_empty(convert, body, problem);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvc_problem problem = {{0}};
	uint64_t allocated;
	kvc_status status;

	if (!convert)
		begin();
	if (size == 0 || size - 1 > KVC_FRAME_BODY_MAX)
		return 0;
	allocated = kvc_alloc_count();
	status = parse(data[0] % 9, (struct kvc_body){data + 1, size - 1}, &problem);
	must(status == KVC_OK || problem.detail[0], "a refusal says why");
	must(memchr(problem.detail, 0, sizeof problem.detail) != NULL, "the text ends");
	must(kvc_alloc_count() == allocated, "nothing is allocated");
	return 0;
}
