/* See order.h. One allocation an order: jobs, then page ids. */
#include "daemon/gpu/order.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

static const struct kvc_gpu_job *jobs_of(const struct kvc_gpu_jobs *message)
{
	return (const struct kvc_gpu_job *)(const void *)(message + 1);
}

/* Page ids of all jobs, if the message is as long as it says. */
static kvc_status pages_count(const struct kvc_gpu_jobs *message, uint32_t bytes, uint32_t *pages)
{
	uint64_t expected = sizeof *message + message->count * (uint64_t)sizeof(struct kvc_gpu_job);

	if (message->count == 0 || bytes < expected)
		return KVC_BAD_MESSAGE;
	*pages = 0;
	for (uint32_t i = 0; i < message->count; i++) {
		if (jobs_of(message)[i].page_count > KVC_GPU_PAGES_MAX)
			return KVC_BAD_MESSAGE;
		*pages += jobs_of(message)[i].page_count;
	}
	return bytes == expected + *pages * sizeof(uint32_t) ? KVC_OK : KVC_BAD_MESSAGE;
}

static void jobs_fill(struct kvc_order *order, const struct kvc_gpu_jobs *message, uint32_t pages)
{
	uint32_t *next = (uint32_t *)(void *)(order->jobs + order->count);

	memcpy(next, jobs_of(message) + message->count, pages * sizeof *next);
	for (uint32_t i = 0; i < order->count; i++) {
		struct kvc_order_job *job = &order->jobs[i];

		kvc_list_init(&job->node);
		job->order = order;
		job->wish = jobs_of(message)[i];
		job->pages = next;
		job->plan = &order->plan;
		next += job->wish.page_count;
	}
}

kvc_status kvc_order_open(const struct kvc_gpu_jobs *message, uint32_t bytes, struct kvc_worker_pool *pool,
                          struct kvc_order **order)
{
	struct kvc_order *opened;
	uint32_t pages;
	kvc_status status = pages_count(message, bytes, &pages);

	if (status)
		return status;
	opened = kvc_calloc(1, sizeof *opened + message->count * sizeof opened->jobs[0] +
	                               pages * sizeof(uint32_t));
	if (!opened)
		return KVC_NO_MEMORY;
	kvc_list_init(&opened->node);
	opened->pool = pool;
	opened->op = (enum kvc_engine_op)message->op;
	opened->count = opened->left = message->count;
	jobs_fill(opened, message, pages);
	if (pool)
		pool->orders++;
	*order = opened;
	return KVC_OK;
}

/* --- plans: field by field, their padding says nothing --- */

bool kvc_shapes_equal(const struct kvc_block_shape *a, const struct kvc_block_shape *b)
{
	return a->layers == b->layers && a->heads == b->heads && a->key_dim == b->key_dim &&
	       a->value_dim == b->value_dim && a->tokens == b->tokens && a->dtype == b->dtype;
}

static bool params_equal(const struct kvc_codec_params *a, const struct kvc_codec_params *b)
{
	return a->bits == b->bits && a->centre == b->centre && a->rotate == b->rotate && a->gain == b->gain &&
	       a->group == b->group && memcmp(&a->clip, &b->clip, sizeof a->clip) == 0;
}

bool kvc_plans_equal(const struct kvc_image_plan *a, const struct kvc_image_plan *b)
{
	const struct kvc_block_codec *x = &a->codec, *y = &b->codec;

	if (a == b)
		return true;
	if (!kvc_shapes_equal(&a->shape, &b->shape) || !params_equal(&x->key, &y->key) ||
	    !params_equal(&x->value, &y->value) || x->override_count != y->override_count)
		return false;
	for (uint32_t i = 0; i < x->override_count; i++) {
		if (x->overrides[i].layer != y->overrides[i].layer ||
		    !params_equal(&x->overrides[i].key, &y->overrides[i].key) ||
		    !params_equal(&x->overrides[i].value, &y->overrides[i].value))
			return false;
	}
	return true;
}

/* --- checks --- */

static bool pool_fits(const struct kvc_gpu_pool_geometry *geometry, const struct kvc_block_shape *shape)
{
	return geometry->layers == shape->layers && geometry->heads == shape->heads &&
	       geometry->key_dim == shape->key_dim && geometry->value_dim == shape->value_dim &&
	       geometry->dtype == (uint32_t)shape->dtype;
}

kvc_status kvc_order_check(struct kvc_order *order, const struct kvc_gpu_jobs *message)
{
	kvc_status status = kvc_image_plan_init(&order->plan, &message->shape, &message->codec);

	if (status)
		return status;
	if (order->op == KVC_ENGINE_LOWER)
		return KVC_OK;
	if (!order->pool)
		return KVC_UNKNOWN_ID;
	return pool_fits(&order->pool->geometry, &message->shape) ? KVC_OK : KVC_SHAPE;
}

static bool lies_in(uint64_t offset, uint64_t bytes, uint64_t end)
{
	return offset % KVC_IMAGE_ALIGN == 0 && offset <= end && bytes <= end - offset;
}

/* Named places must be there, and those that the operation needs be named. */
static bool places_right(const struct kvc_order_job *job, uint64_t arena_bytes, uint64_t vram_bytes)
{
	const struct kvc_gpu_job *wish = &job->wish;
	bool image = wish->image != KVC_GPU_NOWHERE;
	bool vram = wish->vram != KVC_GPU_NOWHERE;

	if (image && !lies_in(wish->image, wish->image_bytes, arena_bytes))
		return false;
	if (vram && !lies_in(wish->vram, job->plan->image_bytes, vram_bytes))
		return false;
	switch (job->order->op) {
	case KVC_ENGINE_ENCODE:
		return image != vram;
	case KVC_ENGINE_DECODE:
		return image || vram;
	default:
		return image && vram;
	}
}

kvc_status kvc_order_job_check(const struct kvc_order_job *job, uint64_t arena_bytes, uint64_t vram_bytes)
{
	const struct kvc_worker_pool *pool = job->order->pool;
	uint64_t end;

	if (!places_right(job, arena_bytes, vram_bytes))
		return KVC_INVALID;
	if (!pool)
		return KVC_OK;
	if (job->wish.first_token >= pool->geometry.page_tokens)
		return KVC_INVALID;
	end = (uint64_t)job->wish.first_token + job->plan->shape.tokens;
	return end <= (uint64_t)job->wish.page_count * pool->geometry.page_tokens ? KVC_OK : KVC_INVALID;
}

static void own_plan_drop(struct kvc_order_job *job)
{
	union {
		const void *kept;
		void *freed;
	} plan = {.kept = job->plan};

	if (job->plan != &job->order->plan)
		kvc_free(plan.freed);
	job->plan = &job->order->plan;
}

kvc_status kvc_order_job_plan_set(struct kvc_order_job *job, const struct kvc_image_plan *plan)
{
	struct kvc_image_plan *own = kvc_calloc(1, sizeof *own);

	if (!own)
		return KVC_NO_MEMORY;
	*own = *plan;
	own_plan_drop(job);
	job->plan = own;
	return KVC_OK;
}

bool kvc_order_job_end(struct kvc_order_job *job)
{
	KVC_PRE(job->order->left > 0);
	own_plan_drop(job);
	return --job->order->left == 0;
}

void kvc_order_close(struct kvc_order *order)
{
	KVC_PRE(order->left == 0);
	if (order->pool)
		order->pool->orders--;
	kvc_free(order);
}
