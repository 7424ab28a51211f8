/* Images, in the arena or in VRAM, to pages of a worker's pool.
 *
 * An image in the arena is opened first, so that its header is checked before anything of it travels; it may
 * tell of another codec than the job (a block that was stored raw), and is then decoded by that. Its tiles
 * are checked by the kernels. An image in VRAM has no header: its plan is the job's, its tiles are checked
 * alike. */
#include "daemon/gpu/lane.h"

static bool is_in_arena(const struct kvc_order_job *job)
{
	return job->wish.image != KVC_GPU_NOWHERE;
}

/* What the image says it is. */
static kvc_status image_open(const struct kvc_lane *lane, struct kvc_order_job *job)
{
	struct kvc_image image;
	kvc_status status = kvc_image_open(lane->world->pinner->arena + job->wish.image,
	                                   job->wish.image_bytes, 0, &image);

	if (status)
		return status;
	if (!kvc_shapes_equal(&image.plan.shape, &job->plan->shape))
		return KVC_CORRUPT;
	if (kvc_plans_equal(&image.plan, job->plan))
		return KVC_OK;
	return kvc_order_job_plan_set(job, &image.plan);
}

static kvc_status decode_admit(struct kvc_lane *lane, struct kvc_order_job *job, uint64_t *length)
{
	bool stays = job->wish.vram != KVC_GPU_NOWHERE;
	kvc_status status;

	*length = 0;
	job->image_bytes = job->plan->image_bytes;
	job->staging_bytes = 0;
	if (!is_in_arena(job))
		return KVC_OK;
	status = image_open(lane, job);
	if (status)
		return status;
	job->image_bytes = job->wish.image_bytes;
	if (stays) /* only an image that follows from the job's plan can be decoded without its header */
		return job->plan == &job->order->plan && job->image_bytes == job->plan->image_bytes
		               ? KVC_OK
		               : KVC_INVALID;
	job->staging_bytes = job->image_bytes;
	return job->image_bytes > (lane->slot_bytes & ~UINT64_C(255)) ? KVC_LIMIT : KVC_OK;
}

/* What is not in VRAM yet; *any tells whether there was something. */
static kvc_status images_fetch(struct kvc_batch *batch, bool *any)
{
	struct kvc_lane_world *world = batch->lane->world;
	kvc_status status = KVC_OK;

	*any = false;
	for (uint32_t i = 0; status == KVC_OK && i < batch->count; i++) {
		const struct kvc_order_job *job = batch->jobs[i];

		if (!is_in_arena(job))
			continue;
		*any = true;
		status = kvc_pinner_copy_up(world->pinner, kvc_batch_image(batch, i), job->wish.image,
		                            job->image_bytes, world->up);
	}
	return status;
}

static kvc_status decode_launch(struct kvc_batch *batch)
{
	struct kvc_lane_world *world = batch->lane->world;
	bool any;
	kvc_status status = images_fetch(batch, &any);

	if (status == KVC_OK && any) {
		status = kvc_dev_event_record(world->dev, batch->ready, world->up);
		if (status == KVC_OK)
			status = kvc_dev_event_wait(world->dev, batch->ready, batch->lane->compute);
	}
	if (status == KVC_OK)
		status = kvc_batch_kernels(batch, false);
	if (status == KVC_OK)
		status = kvc_batch_results(batch, batch->lane->compute);
	return status ? status : kvc_batch_done(batch, batch->lane->compute);
}

static kvc_status result_status(const struct kvc_kern_result *result)
{
	if (result->errors & KVC_KERN_BAD_PAGE)
		return KVC_INVALID;
	return result->errors ? KVC_CORRUPT : KVC_OK;
}

static bool decode_finish(struct kvc_batch *batch)
{
	struct kvc_lane_world *world = batch->lane->world;

	for (uint32_t i = 0; i < batch->count; i++) {
		struct kvc_order_job *job = batch->jobs[i];

		world->done(world->context, job, result_status(&batch->host->results[i]), job->image_bytes);
	}
	return true;
}

const struct kvc_lane_ops kvc_lane_decode = {
        .admit = decode_admit, .launch = decode_launch, .finish = decode_finish};
