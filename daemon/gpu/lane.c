/* Queues and batches: what the three operations share. */
#include "daemon/gpu/lane.h"

#include <assert.h>
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/base/log.h"

#define STAGING_ALIGN 256u
#define SKIPPED_MAX   256u /* jobs of other batches that are passed over to fill one */

static_assert(KVC_BATCH_PAGES >= KVC_GPU_PAGES_MAX, "any block fits a batch");
static_assert(offsetof(struct kvc_batch_up, pages) % sizeof(uint64_t) == 0, "what follows is aligned");

/* --- life --- */

static kvc_status batch_open(struct kvc_lane *lane, struct kvc_batch *batch, uint64_t staging)
{
	struct kvc_dev *dev = lane->world->dev;
	void *host;
	kvc_status status = kvc_dev_event_open(dev, &batch->ready);

	batch->lane = lane;
	batch->staging = staging;
	if (status == KVC_OK)
		status = kvc_dev_event_open(dev, &batch->done);
	if (status || !lane->compute)
		return status;
	status = kvc_dev_alloc(dev, sizeof(struct kvc_batch_meta), &batch->meta);
	if (status == KVC_OK)
		status = kvc_dev_host_alloc(dev, sizeof(struct kvc_batch_meta), &host);
	if (status == KVC_OK)
		batch->host = host;
	return status;
}

kvc_status kvc_lane_open(struct kvc_lane *lane, struct kvc_lane_world *world, const struct kvc_lane_ops *ops,
                         struct kvc_dev_stream *compute, uint64_t staging, uint64_t slot_bytes)
{
	kvc_status status = KVC_OK;

	memset(lane, 0, sizeof *lane);
	lane->world = world;
	lane->ops = ops;
	lane->compute = compute;
	lane->slot_bytes = slot_bytes;
	kvc_list_init(&lane->queue);
	for (uint32_t i = 0; status == KVC_OK && i < KVC_BATCHES; i++)
		status = batch_open(lane, &lane->batches[i], staging + i * slot_bytes);
	return status;
}

/* --- filling a batch --- */

static void job_end(struct kvc_lane *lane, struct kvc_order_job *job, kvc_status status, uint64_t length)
{
	lane->world->done(lane->world->context, job, status, length);
}

/* False: it has ended. */
static bool admit(struct kvc_lane *lane, struct kvc_order_job *job)
{
	uint64_t length = 0;
	kvc_status status;

	if (job->admitted)
		return true;
	status = lane->ops->admit(lane, job, &length);
	if (status == KVC_OK) {
		job->staging_bytes = kvc_round_up(job->staging_bytes, STAGING_ALIGN);
		KVC_INVARIANT(job->staging_bytes <= lane->slot_bytes);
		return job->admitted = true;
	}
	kvc_list_remove(&job->node);
	job_end(lane, job, status, length);
	return false;
}

/* Not of this plan and pool: perhaps of the next batch. */
static bool is_kin(const struct kvc_batch *batch, const struct kvc_order_job *job)
{
	return batch->count == 0 ||
	       (job->order->pool == batch->pool && kvc_plans_equal(job->plan, batch->plan));
}

/* The fewer batches are under way, the smaller the next one, down to an eighth. */
static uint64_t bytes_limit(const struct kvc_lane *lane)
{
	return KVC_BATCH_BYTES >> (KVC_BATCHES - 1 - lane->under_way);
}

static bool has_room(const struct kvc_batch *batch, const struct kvc_order_job *job)
{
	if (batch->count == 0)
		return true;
	return batch->count < KVC_BATCH_BLOCKS && batch->pages + job->wish.page_count <= KVC_BATCH_PAGES &&
	       batch->staged + job->staging_bytes <= batch->lane->slot_bytes &&
	       batch->bytes + job->plan->image_bytes <= bytes_limit(batch->lane);
}

static void batch_add(struct kvc_batch *batch, struct kvc_order_job *job)
{
	struct kvc_kern_block *block;
	uint32_t i = batch->count++;

	kvc_list_remove(&job->node);
	batch->plan = i ? batch->plan : job->plan;
	batch->pool = job->order->pool;
	batch->jobs[i] = job;
	batch->bytes += job->plan->image_bytes;
	if (batch->host) {
		block = &batch->host->up.blocks[i];
		block->image = job->staging_bytes ? batch->staging + batch->staged
		                                  : batch->lane->world->vram + job->wish.vram;
		block->image_bytes = job->image_bytes;
		block->ids = batch->pages; /* becomes an address when all are there */
		block->first_token = job->wish.first_token;
		block->reserved = 0;
		memcpy(batch->host->up.pages + batch->pages, job->pages,
		       job->wish.page_count * sizeof *job->pages);
	}
	batch->pages += job->wish.page_count;
	batch->staged += job->staging_bytes;
}

static void batch_fill(struct kvc_batch *batch)
{
	struct kvc_lane *lane = batch->lane;
	uint32_t skipped = 0;

	batch->count = batch->pages = 0;
	batch->bytes = batch->staged = 0;
	batch->failed = KVC_OK;
	batch->again = false;
	kvc_list_each_safe (node, &lane->queue) {
		struct kvc_order_job *job = kvc_container_of(node, struct kvc_order_job, node);

		if (!admit(lane, job))
			continue;
		if (is_kin(batch, job)) {
			if (!has_room(batch, job))
				break;
			batch_add(batch, job);
		} else if (++skipped > SKIPPED_MAX) {
			break;
		}
	}
}

uint64_t kvc_batch_image(const struct kvc_batch *batch, uint32_t i)
{
	return batch->host->up.blocks[i].image;
}

/* --- running a batch --- */

/* Blocks and ids lie behind each other as far as they are used: the ids are moved up to the blocks. */
static kvc_status descriptors_send(struct kvc_batch *batch)
{
	struct kvc_batch_up *up = &batch->host->up;
	uint64_t blocks_bytes = batch->count * sizeof up->blocks[0];
	uint64_t at = batch->meta + offsetof(struct kvc_batch_meta, up);

	memmove((uint8_t *)up + blocks_bytes, up->pages, batch->pages * sizeof up->pages[0]);
	for (uint32_t i = 0; i < batch->count; i++)
		up->blocks[i].ids = at + blocks_bytes + up->blocks[i].ids * sizeof up->pages[0];
	return kvc_dev_copy_up(batch->lane->world->dev, at, up,
	                       blocks_bytes + batch->pages * sizeof up->pages[0], batch->lane->compute);
}

kvc_status kvc_batch_kernels(struct kvc_batch *batch, bool encode)
{
	struct kvc_lane_world *world = batch->lane->world;
	uint64_t results = batch->meta + offsetof(struct kvc_batch_meta, results);
	uint64_t blocks = batch->meta + offsetof(struct kvc_batch_meta, up);
	struct kvc_kern_job job = {
	        .plan = batch->plan,
	        .pool = &batch->pool->kern,
	        .blocks = (const struct kvc_kern_block *)(uintptr_t)blocks,
	        .results = (struct kvc_kern_result *)(uintptr_t)results,
	        .count = batch->count,
	        .sms = world->sms,
	        .stream = batch->lane->compute,
	};
	kvc_status status = descriptors_send(batch);

	if (status == KVC_OK)
		status = kvc_dev_event_wait(world->dev, world->tables, batch->lane->compute);
	if (status == KVC_OK)
		status = encode ? kvc_dev_encode(world->dev, &job) : kvc_dev_decode(world->dev, &job);
	world->launches++;
	world->launched_blocks += batch->count;
	return status;
}

kvc_status kvc_batch_results(struct kvc_batch *batch, struct kvc_dev_stream *stream)
{
	return kvc_dev_copy_down(batch->lane->world->dev, batch->host->results,
	                         batch->meta + offsetof(struct kvc_batch_meta, results),
	                         batch->count * sizeof batch->host->results[0], stream);
}

kvc_status kvc_batch_done(struct kvc_batch *batch, struct kvc_dev_stream *stream)
{
	struct kvc_lane_world *world = batch->lane->world;
	kvc_status status = kvc_dev_event_record(world->dev, batch->done, stream);

	if (status)
		return status;
	/* Hints may fail: the loop looks by itself now and then. */
	if (kvc_dev_event_wait(world->dev, batch->done, world->hints) == KVC_OK)
		(void)kvc_dev_hint(world->dev, world->hints, world->wake);
	return KVC_OK;
}

/* What was enqueued before the failure may still touch memory: the event comes behind it, on every stream. */
void kvc_batch_fail(struct kvc_batch *batch, kvc_status status)
{
	struct kvc_lane_world *world = batch->lane->world;
	struct kvc_dev_stream *streams[] = {world->up, batch->lane->compute, world->down};

	kvc_warn("a batch of %u blocks failed: %s", batch->count, kvc_dev_why());
	batch->failed = status;
	for (unsigned i = 0; i < sizeof streams / sizeof streams[0]; i++) {
		if (!streams[i])
			continue;
		(void)kvc_dev_event_record(world->dev, batch->ready, streams[i]);
		(void)kvc_dev_event_wait(world->dev, batch->ready, world->down);
	}
	(void)kvc_dev_event_record(world->dev, batch->done, world->down);
}

bool kvc_lane_launch(struct kvc_lane *lane)
{
	bool launched = false;

	while (lane->under_way < KVC_BATCHES && !kvc_list_empty(&lane->queue)) {
		struct kvc_batch *batch = &lane->batches[(lane->oldest + lane->under_way) % KVC_BATCHES];
		kvc_status status;

		batch_fill(batch);
		if (batch->count == 0)
			continue; /* all that were looked at have ended */
		status = lane->ops->launch(batch);
		if (status)
			kvc_batch_fail(batch, status);
		lane->under_way++;
		launched = true;
	}
	return launched;
}

static void batch_end_failed(struct kvc_batch *batch)
{
	for (uint32_t i = 0; i < batch->count; i++)
		job_end(batch->lane, batch->jobs[i], batch->failed, 0);
}

/* True if it is over. */
static bool batch_reap(struct kvc_batch *batch)
{
	kvc_status status = kvc_dev_event_poll(batch->lane->world->dev, batch->done);

	if (status == KVC_BUSY)
		return false;
	if (status && !batch->failed)
		batch->failed = status;
	if (batch->failed) {
		batch_end_failed(batch);
		return true;
	}
	return batch->lane->ops->finish(batch);
}

bool kvc_lane_reap(struct kvc_lane *lane)
{
	bool reaped = false;

	while (lane->under_way && batch_reap(&lane->batches[lane->oldest])) {
		lane->oldest = (lane->oldest + 1) % KVC_BATCHES;
		lane->under_way--;
		reaped = true;
	}
	return reaped;
}
