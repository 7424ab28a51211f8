/* Images in VRAM to the arena: copies, and the header that they lack. The tiles are not looked at: whoever
 * decodes them does. */
#include "daemon/gpu/lane.h"

static kvc_status lower_admit(struct kvc_lane *lane, struct kvc_order_job *job, uint64_t *length)
{
	(void)lane;
	job->image_bytes = job->plan->image_bytes;
	job->staging_bytes = 0;
	if (job->wish.image_bytes >= job->image_bytes)
		return KVC_OK;
	*length = job->image_bytes;
	return KVC_NO_SPACE;
}

static kvc_status lower_launch(struct kvc_batch *batch)
{
	struct kvc_lane_world *world = batch->lane->world;
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < batch->count; i++) {
		const struct kvc_order_job *job = batch->jobs[i];

		status = kvc_pinner_copy_down(world->pinner, job->wish.image, world->vram + job->wish.vram,
		                              job->image_bytes, world->down);
	}
	return status ? status : kvc_batch_done(batch, world->down);
}

static bool lower_finish(struct kvc_batch *batch)
{
	struct kvc_lane_world *world = batch->lane->world;

	for (uint32_t i = 0; i < batch->count; i++) {
		struct kvc_order_job *job = batch->jobs[i];
		uint64_t length = 0;
		kvc_status status = kvc_kern_image_seal(job->plan, world->pinner->arena + job->wish.image,
		                                        job->image_bytes, &length);

		world->done(world->context, job, status, length);
	}
	return true;
}

const struct kvc_lane_ops kvc_lane_lower = {
        .admit = lower_admit, .launch = lower_launch, .finish = lower_finish};
