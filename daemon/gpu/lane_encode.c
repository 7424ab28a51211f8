/* Pages of a worker's pool to images, in the arena or in VRAM.
 *
 * An image without raw tiles is as long as the plan says, so it is sent down before anybody has looked at the
 * results. Where the results tell of raw tiles, these follow in a second copy. A block that is to be stored
 * wholly raw is encoded again with such a plan. The header is written here, when the image is in the arena;
 * an image in VRAM has none. */
#include "daemon/gpu/lane.h"

static uint64_t lesser(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool is_for_vram(const struct kvc_order_job *job)
{
	return job->wish.vram != KVC_GPU_NOWHERE;
}

static kvc_status encode_admit(struct kvc_lane *lane, struct kvc_order_job *job, uint64_t *length)
{
	const struct kvc_image_plan *plan = job->plan;

	job->image_bytes = plan->image_bytes;
	job->staging_bytes = 0;
	if (is_for_vram(job))
		return KVC_OK;
	if (job->wish.image_bytes < plan->image_bytes) {
		*length = plan->image_bytes;
		return KVC_NO_SPACE;
	}
	if (plan->image_bytes > lane->slot_bytes)
		return KVC_LIMIT;
	job->image_bytes = lesser(lesser(job->wish.image_bytes, plan->raw_image_bytes),
	                          lane->slot_bytes & ~UINT64_C(255));
	job->staging_bytes = job->image_bytes;
	return KVC_OK;
}

/* Bytes [from, to) of the image to the arena. */
static kvc_status image_send(struct kvc_batch *batch, uint32_t i, uint64_t from, uint64_t to)
{
	struct kvc_lane_world *world = batch->lane->world;

	return kvc_pinner_copy_down(world->pinner, batch->jobs[i]->wish.image + from,
	                            kvc_batch_image(batch, i) + from, to - from, world->down);
}

static kvc_status images_send(struct kvc_batch *batch)
{
	struct kvc_lane_world *world = batch->lane->world;
	kvc_status status = kvc_dev_event_record(world->dev, batch->ready, batch->lane->compute);

	if (status == KVC_OK)
		status = kvc_dev_event_wait(world->dev, batch->ready, world->down);
	for (uint32_t i = 0; status == KVC_OK && i < batch->count; i++) {
		if (!is_for_vram(batch->jobs[i]))
			status = image_send(batch, i, 0, batch->plan->image_bytes);
	}
	return status;
}

static kvc_status encode_launch(struct kvc_batch *batch)
{
	struct kvc_dev_stream *last = batch->lane->compute;
	kvc_status status = kvc_batch_kernels(batch, true);

	if (status == KVC_OK && batch->staged) {
		last = batch->lane->world->down;
		status = images_send(batch);
	}
	if (status == KVC_OK)
		status = kvc_batch_results(batch, last);
	return status ? status : kvc_batch_done(batch, last);
}

/* --- results --- */

static bool has_tail(const struct kvc_batch *batch, uint32_t i)
{
	const struct kvc_kern_result *result = &batch->host->results[i];

	return result->errors == 0 && result->image_bytes > batch->jobs[i]->plan->image_bytes;
}

/* Send the raw tiles that nobody knew of; true if there are any. */
static bool tails_send(struct kvc_batch *batch)
{
	kvc_status status = KVC_OK;
	bool any = false;

	for (uint32_t i = 0; status == KVC_OK && i < batch->count; i++) {
		if (!has_tail(batch, i))
			continue;
		any = true;
		status = image_send(batch, i, batch->plan->image_bytes, batch->host->results[i].image_bytes);
	}
	if (any && status == KVC_OK)
		status = kvc_batch_done(batch, batch->lane->world->down);
	if (status)
		kvc_batch_fail(batch, status);
	return any;
}

/* Not even the raw block fits where it is to go: how much is needed. */
static kvc_status no_room(const struct kvc_order_job *job, uint64_t needed)
{
	if (!is_for_vram(job) && needed <= job->wish.image_bytes)
		return KVC_LIMIT; /* it was our staging that was too small */
	return KVC_NO_SPACE;
}

/* Back to the front of the queue with the plan of a raw block; KVC_OK if it went there. */
static kvc_status encode_again_raw(struct kvc_lane *lane, struct kvc_order_job *job)
{
	struct kvc_block_codec raw = {.key.bits = KVC_BITS_RAW, .value.bits = KVC_BITS_RAW};
	struct kvc_image_plan plan;
	kvc_status status = kvc_image_plan_init(&plan, &job->plan->shape, &raw);

	if (is_for_vram(job) || job->wish.image_bytes < plan.image_bytes ||
	    plan.image_bytes > lane->slot_bytes)
		return no_room(job, job->plan->raw_image_bytes);
	if (status == KVC_OK)
		status = kvc_order_job_plan_set(job, &plan);
	if (status)
		return status;
	job->admitted = false;
	kvc_list_push(lane->queue.next, &job->node);
	return KVC_OK;
}

static kvc_status image_finish(struct kvc_batch *batch, const struct kvc_order_job *job, uint64_t expected)
{
	uint64_t length;
	kvc_status status = KVC_OK;

	if (is_for_vram(job))
		return expected == job->plan->image_bytes ? KVC_OK : KVC_INTERNAL;
	status = kvc_kern_image_seal(job->plan, batch->lane->world->pinner->arena + job->wish.image,
	                             job->wish.image_bytes, &length);
	return status == KVC_OK && length == expected ? KVC_OK : KVC_INTERNAL;
}

static void job_finish(struct kvc_batch *batch, uint32_t i)
{
	struct kvc_lane *lane = batch->lane;
	struct kvc_order_job *job = batch->jobs[i];
	const struct kvc_kern_result *result = &batch->host->results[i];
	uint64_t length = result->image_bytes;
	kvc_status status;

	if (result->errors & KVC_KERN_BAD_PAGE) {
		status = KVC_INVALID;
	} else if (result->errors & KVC_KERN_ALL_RAW) {
		status = encode_again_raw(lane, job);
		if (status == KVC_OK)
			return;
		length = job->plan->raw_image_bytes;
	} else if (result->errors & KVC_KERN_NO_SPACE) {
		status = no_room(job, length);
	} else {
		status = image_finish(batch, job, length);
	}
	lane->world->done(lane->world->context, job, status, length);
}

static bool encode_finish(struct kvc_batch *batch)
{
	if (!batch->again && tails_send(batch)) {
		batch->again = true;
		return false;
	}
	for (uint32_t i = 0; i < batch->count; i++)
		job_finish(batch, i);
	return true;
}

const struct kvc_lane_ops kvc_lane_encode = {
        .admit = encode_admit, .launch = encode_launch, .finish = encode_finish};
