/* A lane does all jobs of one operation: encode, decode or lower. Jobs wait in its queue; those of one plan
 * and pool become a batch, which is one launch and its copies, enqueued without waiting for anything; batches
 * are done in the order of their launch and are looked at when their event says so.
 *
 *            encode                     decode                      lower
 *   compute  gather, encode             verify, decode, scatter
 *   copies   images to the arena        images from the arena       images from VRAM to the arena
 *   host     seal the images' headers   check them, before          seal
 *
 * A batch has staging memory of its own, so that the next one is encoded while this one crosses PCIe. Images
 * that stay in VRAM need none. When nothing is under way a batch is launched with what is there, and small,
 * so that the copies begin early; the more is under way, the larger it may be. */
#ifndef KVC_LANE_H
#define KVC_LANE_H

#include "daemon/gpu/order.h"
#include "daemon/gpu/pinner.h"

#define KVC_BATCHES      4u /* under way in one lane */
#define KVC_BATCH_BLOCKS 256u
#define KVC_BATCH_PAGES  65536u
#define KVC_BATCH_BYTES  (64ull << 20) /* of images; more gains nothing and delays the first answer */

struct kvc_lane;

/* What the kernels read and write beside images. One copy brings blocks and page ids up. */
struct kvc_batch_up {
	struct kvc_kern_block blocks[KVC_BATCH_BLOCKS];
	uint32_t pages[KVC_BATCH_PAGES];
};

struct kvc_batch_meta {
	struct kvc_kern_result results[KVC_BATCH_BLOCKS];
	struct kvc_batch_up up;
};

struct kvc_batch {
	struct kvc_lane *lane;
	const struct kvc_image_plan *plan; /* its first job's */
	struct kvc_worker_pool *pool;
	uint32_t count;
	uint32_t pages;
	uint64_t bytes;              /* of images */
	uint64_t staged;             /* bytes of staging in use */
	uint64_t staging;            /* device address */
	uint64_t meta;               /* device address of a struct kvc_batch_meta */
	struct kvc_batch_meta *host; /* the same in pinned memory */
	struct kvc_dev_event *ready; /* the copies up, or the launch: what the other stream waits for */
	struct kvc_dev_event *done;
	kvc_status failed; /* something was not enqueued: no job of it is right */
	bool again;        /* copies that the results showed to be missing are under way */
	struct kvc_order_job *jobs[KVC_BATCH_BLOCKS];
};

/* What all lanes of an engine share. Borrowed. */
struct kvc_lane_world {
	struct kvc_dev *dev;
	struct kvc_pinner *pinner;
	uint64_t vram; /* device address */
	uint64_t vram_bytes;
	uint32_t sms;
	int wake; /* eventfd for hints */
	struct kvc_dev_stream *up;
	struct kvc_dev_stream *down;
	struct kvc_dev_stream *hints; /* waits for what is to be hinted at, so that no work waits for hints */
	struct kvc_dev_event *tables; /* launches wait for it: tables of pools have arrived */
	uint64_t launches;            /* counted here */
	uint64_t launched_blocks;
	void (*done)(void *context, struct kvc_order_job *job, kvc_status status, uint64_t length);
	void *context;
};

/* The three operations. A failed admit ends the job. */
struct kvc_lane_ops {
	/* Check it, set image_bytes and staging_bytes, perhaps the plan. */
	kvc_status (*admit)(struct kvc_lane *lane, struct kvc_order_job *job, uint64_t *length);
	kvc_status (*launch)(struct kvc_batch *batch);

	/* The event has come. False: something was enqueued, come again when the event has. */
	bool (*finish)(struct kvc_batch *batch);
};

struct kvc_lane {
	struct kvc_lane_world *world;
	const struct kvc_lane_ops *ops;
	struct kvc_dev_stream *compute; /* NULL: lower */
	struct kvc_list queue;
	uint64_t slot_bytes; /* of each batch's staging */
	uint32_t oldest;     /* of the batches under way */
	uint32_t under_way;
	struct kvc_batch batches[KVC_BATCHES];
};

extern const struct kvc_lane_ops kvc_lane_encode;
extern const struct kvc_lane_ops kvc_lane_decode;
extern const struct kvc_lane_ops kvc_lane_lower;

/* staging: device memory of KVC_BATCHES * slot_bytes, 0 for lower; compute likewise. */
kvc_status kvc_lane_open(struct kvc_lane *lane, struct kvc_lane_world *world, const struct kvc_lane_ops *ops,
                         struct kvc_dev_stream *compute, uint64_t staging, uint64_t slot_bytes);

/* Launch what can be; true if something was. */
bool kvc_lane_launch(struct kvc_lane *lane);

/* End what is done; true if something was. */
bool kvc_lane_reap(struct kvc_lane *lane);

static inline bool kvc_lane_is_idle(const struct kvc_lane *lane)
{
	return lane->under_way == 0 && kvc_list_empty(&lane->queue);
}

/* --- for the operations --- */

/* Where the i-th job's image is while the batch runs. */
uint64_t kvc_batch_image(const struct kvc_batch *batch, uint32_t i);

/* Blocks and page ids up, the kernels, on the stream; enqueued behind what the stream waits for. */
kvc_status kvc_batch_kernels(struct kvc_batch *batch, bool encode);

/* The kernels' results down. */
kvc_status kvc_batch_results(struct kvc_batch *batch, struct kvc_dev_stream *stream);

/* Record `done` behind the stream and ask for a hint. */
kvc_status kvc_batch_done(struct kvc_batch *batch, struct kvc_dev_stream *stream);

/* Something could not be enqueued: all jobs end with `status` when nothing touches their memory any more. */
void kvc_batch_fail(struct kvc_batch *batch, kvc_status status);

#endif
