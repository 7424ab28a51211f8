/* See worker_device.h. */
#include "tests/fake/worker_device.h"

#include <stdlib.h>
#include <string.h>

#include "client/cuda/device.h"
#include "kernels/kern_task.h"

enum { RANGES_MAX = 64, SMS = 8 };

struct kvcw_device {
	int ordinal;
};

struct event {
	bool held;
};

struct fake_gpu fake_gpu;

static struct {
	const uint8_t *from;
	size_t bytes;
} ranges[RANGES_MAX];
static uint32_t range_count;

static kvc_status step(void)
{
	fake_gpu.calls++;
	return fake_gpu.fail_in && --fake_gpu.fail_in == 0 ? KVC_NO_MEMORY : KVC_OK;
}

void fake_gpu_memory_add(const void *memory, size_t bytes)
{
	if (range_count == RANGES_MAX)
		abort();
	ranges[range_count].from = memory;
	ranges[range_count++].bytes = bytes;
}

const char *kvcw_device_why(void)
{
	return "fake";
}

bool kvcw_device_has(const struct kvcw_device *device, const void *address)
{
	(void)device;
	if (range_count == 0)
		return address != NULL;
	for (uint32_t i = 0; i < range_count; i++) {
		if ((uintptr_t)address - (uintptr_t)ranges[i].from < ranges[i].bytes)
			return true;
	}
	return false;
}

/* --- objects --- */

static kvc_status make(size_t bytes, void **object)
{
	kvc_status status = step();

	if (status != KVC_OK)
		return status;
	*object = aligned_alloc(256, (bytes + 255) / 256 * 256);
	if (!*object)
		abort();
	memset(*object, 0, bytes);
	fake_gpu.objects++;
	return KVC_OK;
}

static void unmake(void *object)
{
	fake_gpu.objects -= object != NULL;
	free(object);
}

kvc_status kvcw_device_open(const void *address, struct kvcw_device **device)
{
	void *made;
	kvc_status status = kvcw_device_has(NULL, address) ? make(sizeof **device, &made) : KVC_INVALID;

	if (status == KVC_OK)
		*device = made;
	return status;
}

void kvcw_device_close(struct kvcw_device *device)
{
	unmake(device);
}

uint32_t kvcw_device_sms(const struct kvcw_device *device)
{
	(void)device;
	return SMS;
}

int kvcw_device_enter(const struct kvcw_device *device)
{
	return device->ordinal;
}

void kvcw_device_leave(int before)
{
	(void)before;
}

kvc_status kvcw_device_alloc(uint64_t bytes, void **memory)
{
	return make(bytes, memory);
}

void kvcw_device_free(void *memory)
{
	unmake(memory);
}

kvc_status kvcw_host_alloc(uint64_t bytes, void **memory)
{
	return make(bytes, memory);
}

void kvcw_host_free(void *memory)
{
	unmake(memory);
}

kvc_status kvcw_host_pin(void *memory, uint64_t bytes)
{
	kvc_status status = step();

	(void)memory;
	(void)bytes;
	fake_gpu.pinned += status == KVC_OK;
	return status;
}

void kvcw_host_unpin(void *memory)
{
	(void)memory;
	fake_gpu.pinned--;
}

kvc_status kvcw_stream_open(void **stream)
{
	return make(1, stream);
}

void kvcw_stream_close(void *stream)
{
	unmake(stream);
}

kvc_status kvcw_event_open(void **event)
{
	return make(sizeof(struct event), event);
}

void kvcw_event_close(void *event)
{
	unmake(event);
}

kvc_status kvcw_event_record(void *event, void *stream)
{
	kvc_status status = step();

	(void)stream;
	if (status == KVC_OK)
		((struct event *)event)->held = fake_gpu.hold;
	return status;
}

kvc_status kvcw_event_wait(void *event, void *stream)
{
	(void)event;
	(void)stream;
	return step();
}

kvc_status kvcw_event_poll(void *event)
{
	if (fake_gpu.lost)
		return KVC_INTERNAL;
	return ((struct event *)event)->held && fake_gpu.hold ? KVC_BUSY : KVC_OK;
}

kvc_status kvcw_copy(void *to, const void *from, uint64_t bytes, void *stream)
{
	kvc_status status = step();

	(void)stream;
	if (status != KVC_OK)
		return status;
	memcpy(to, from, bytes);
	if (fake_gpu.damage && bytes > KVC_IMAGE_HEADER_BYTES)
		((uint8_t *)to)[bytes - 1] ^= 4;
	return KVC_OK;
}

/* --- kernels --- */

/* One block as the CPU codec takes it. */
struct flat {
	struct kvc_block_view view;
	uint8_t *bytes;
	void *scratch;
};

static void *aligned(size_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);

	if (!memory)
		abort();
	return memory;
}

static void flat_make(struct flat *flat, const struct kvc_image_plan *plan)
{
	const struct kvc_block_shape *shape = &plan->shape;
	size_t bytes = kvc_block_raw_bytes(shape);

	flat->bytes = aligned(bytes);
	flat->scratch = aligned(kvc_image_scratch_bytes(plan));
	flat->view.key = flat->bytes;
	flat->view.value = flat->bytes + bytes / (shape->key_dim + shape->value_dim) * shape->key_dim;
	kvc_block_layout_default(shape, KVC_KIND_KEY, &flat->view.key_layout);
	kvc_block_layout_default(shape, KVC_KIND_VALUE, &flat->view.value_layout);
}

static void flat_free(struct flat *flat)
{
	free(flat->bytes);
	free(flat->scratch);
}

/* Rows of one kind, in order; false if a page id is out of range. */
static bool rows_move(const struct kvc_kern_job *job, const struct kvc_kern_block *block, enum kvc_kind kind,
                      uint8_t *row, bool gather)
{
	const struct kvc_block_shape *shape = &job->plan->shape;
	const struct kvc_kern_place *place = kind == KVC_KIND_KEY ? &job->pool->key : &job->pool->value;
	const uint32_t *ids = (const uint32_t *)(uintptr_t)block->ids;
	size_t bytes =
	        (kind == KVC_KIND_KEY ? shape->key_dim : shape->value_dim) * kvc_dtype_bytes(shape->dtype);

	for (uint32_t i = 0; i < shape->layers * shape->tokens * shape->heads; i++, row += bytes) {
		uint32_t head = i % shape->heads, token = i / shape->heads % shape->tokens;
		uint32_t layer = i / shape->heads / shape->tokens;
		uint32_t position = block->first_token + token;
		uint64_t id = ids[position / job->pool->page_tokens];
		uint8_t *at = (uint8_t *)(uintptr_t)place->layers[layer] + id * place->page_stride +
		              position % job->pool->page_tokens * place->token_stride +
		              head * place->head_stride;

		if (id >= job->pool->pages)
			return false;
		memcpy(gather ? row : at, gather ? at : row, bytes);
	}
	return true;
}

static bool block_move(const struct kvc_kern_job *job, const struct kvc_kern_block *block,
                       const struct flat *flat, bool gather)
{
	return rows_move(job, block, KVC_KIND_KEY, flat->view.key, gather) &&
	       (job->plan->shape.value_dim == 0 ||
	        rows_move(job, block, KVC_KIND_VALUE, flat->view.value, gather));
}

static uint32_t image_put(const struct kvc_kern_job *job, const struct kvc_kern_block *block,
                          const struct flat *flat, struct kvc_kern_result *result)
{
	const struct kvc_image_plan *plan = job->plan;
	uint8_t *made = aligned(plan->raw_image_bytes);
	struct kvc_image image;
	uint32_t errors = 0;

	kvc_image_encode_tiles(plan, kvc_codec_get(KVC_SIMD_SCALAR), &flat->view, made, 0, plan->tiles,
	                       flat->scratch);
	if (kvc_image_seal(plan, &flat->view, made, plan->raw_image_bytes, &result->image_bytes) != KVC_OK ||
	    kvc_image_open(made, result->image_bytes, 0, &image) != KVC_OK)
		abort();
	result->raw_tiles = image.raw_tiles;
	if (image.plan.image_bytes != plan->image_bytes)
		errors = KVC_KERN_ALL_RAW;
	else if (result->image_bytes > block->image_bytes)
		errors = KVC_KERN_NO_SPACE;
	else
		memcpy((uint8_t *)(uintptr_t)block->image + KVC_IMAGE_HEADER_BYTES,
		       made + KVC_IMAGE_HEADER_BYTES, result->image_bytes - KVC_IMAGE_HEADER_BYTES);
	free(made);
	return errors;
}

kvc_status kvcw_encode(const struct kvc_kern_job *job)
{
	kvc_status status = step();

	if (status == KVC_OK)
		status = kern_job_check(job);
	fake_gpu.launches++;
	for (uint32_t b = 0; status == KVC_OK && b < job->count; b++) {
		struct kvc_kern_result *result = &job->results[b];
		struct flat flat;

		*result = (struct kvc_kern_result){0};
		flat_make(&flat, job->plan);
		if (block_move(job, &job->blocks[b], &flat, true))
			result->errors = image_put(job, &job->blocks[b], &flat, result);
		else
			result->errors = KVC_KERN_BAD_PAGE;
		flat_free(&flat);
	}
	return status;
}

kvc_status kvcw_decode(const struct kvc_kern_job *job)
{
	kvc_status status = step();

	if (status == KVC_OK)
		status = kern_job_check(job);
	fake_gpu.launches++;
	for (uint32_t b = 0; status == KVC_OK && b < job->count; b++) {
		const struct kvc_kern_block *block = &job->blocks[b];
		struct kvc_kern_result *result = &job->results[b];
		struct kvc_image image;
		struct flat flat;

		*result = (struct kvc_kern_result){0};
		flat_make(&flat, job->plan);
		if (kvc_image_open((void *)(uintptr_t)block->image, block->image_bytes, 0, &image) !=
		            KVC_OK ||
		    kvc_image_decode_tiles(&image, kvc_codec_get(KVC_SIMD_SCALAR), &flat.view, 0,
		                           image.plan.tiles, 0, flat.scratch) != KVC_OK)
			result->errors = KVC_KERN_CORRUPT;
		else if (!block_move(job, block, &flat, false))
			result->errors = KVC_KERN_BAD_PAGE;
		flat_free(&flat);
	}
	return status;
}
