/* Where codec work runs: a table of functions. engine_cpu is a pool of threads in this process; a GPU engine
 * (gpu.h) is a child process behind the same table.
 *
 * A job is one block: encode it from a client's memory into an image, or decode an image into it. The job
 * lives in the caller's object. Submit never calls back; `done` comes exactly once, on the loop thread, also
 * after cancel. Client's memory and image must stay until then. */
#ifndef KVC_ENGINE_H
#define KVC_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/fair.h"
#include "daemon/base/list.h"
#include "daemon/engine/mark.h"
#include "daemon/loop/loop.h"
#include "kernels/image.h"
#include "proto/kvc_status.h"

enum kvc_engine_op {
	KVC_ENGINE_ENCODE = 1, /* client's memory -> image */
	KVC_ENGINE_DECODE = 2, /* image -> client's memory */
	KVC_ENGINE_VERIFY = 3, /* image; CPU only */
	KVC_ENGINE_LOWER = 4,  /* image in VRAM -> image in host memory; GPU only */
	KVC_ENGINE_TAKE = 5,   /* image in the client's memory -> image, copied, then checked; CPU only */
	KVC_ENGINE_GIVE = 6,   /* image -> image in the client's memory, checked; CPU only */
	KVC_ENGINE_WORK = 7,   /* whatever `work` does, on one worker; CPU only */
};

struct kvc_engine;
struct kvc_pool;

#define KVC_VRAM_NONE UINT64_MAX

/* A block in a client's paged pool in device memory. */
struct kvc_device_view {
	struct kvc_pool *pool;
	const uint32_t *pages; /* ids of its pages, in order */
	uint32_t page_count;
	uint32_t first_token; /* where in the first page it begins */
	struct kvc_mark mark; /* waited for before the pages are touched */
};

/* An image in a client's host memory. */
struct kvc_image_view {
	uint8_t *data;
	uint64_t bytes; /* take: length. give: capacity */
};

enum kvc_engine_job_state {
	KVC_JOB_IDLE,     /* not submitted, or done */
	KVC_JOB_QUEUED,   /* nobody has begun */
	KVC_JOB_OPENING,  /* one worker looks at the image; not in the queue */
	KVC_JOB_RUNNING,  /* ranges of tiles are handed out; in the queue */
	KVC_JOB_DRAINING, /* nothing is left to hand out, workers are still at it */
	KVC_JOB_FINISHED, /* on its way to the loop */
};

/* Whose jobs share the CPU engine with those of other flows: by the work in them, not by their number. The
 * owner's; in use while one of its jobs is. */
struct kvc_engine_flow {
	struct kvc_fair_flow turn; /* under the engine's lock */
	struct kvc_list jobs;      /* that have work to hand out, in order; likewise */
	uint32_t running;          /* threads that are at its work; likewise */
	uint32_t weight;           /* as in fair.h; the loop's */
};

static inline void kvc_engine_flow_init(struct kvc_engine_flow *flow)
{
	kvc_fair_flow_init(&flow->turn, 0);
	kvc_list_init(&flow->jobs);
	flow->running = 0;
	flow->weight = 0;
}

struct kvc_engine_job {
	/* set by the caller */
	enum kvc_engine_op op;
	struct kvc_engine_flow *flow; /* NULL: of nobody in particular */
	bool shared; /* CPU engine: other flows are about, leave a quarter of the threads (at least one) to
	              * them: holds for all jobs until the next one of a flow is submitted */
	const struct kvc_image_plan *plan; /* encode: what to make. decode: the image must be of this shape,
	                                    * else KVC_CORRUPT. verify: ignored */
	union {
		struct kvc_block_view view;     /* CPU engine: encode, decode */
		struct kvc_device_view device;  /* GPU engine: encode, decode */
		struct kvc_image_view external; /* CPU engine: take, give */
	};
	uint8_t *image;       /* KVC_IMAGE_ALIGN aligned; GPU engine: in the arena. NULL: in VRAM only */
	uint64_t image_bytes; /* encode, take: capacity. else: length */
	uint64_t vram; /* GPU engine: offset in its VRAM pool, or KVC_VRAM_NONE. Encode: the image stays
	                * there and `image` is NULL. Decode: it is there already if `image` is NULL, else
	                * it is brought there and stays. Such an image is plan->image_bytes long */
	uint32_t life; /* with vram: the engine's, kvc_gpu_life, of which that offset is */
	/* work: called on a worker; what it returns is the job's status. Only this, done and op are set then
	 */
	kvc_status (*work)(struct kvc_engine_job *job);
	void (*done)(struct kvc_engine_job *job);

	/* results */
	kvc_status
	        status;  /* encode: as kvc_image_seal. decode, verify, lower: KVC_OK or KVC_CORRUPT. take:
	                  * KVC_OK,  KVC_CORRUPT (checks), KVC_SHAPE (not of the plan), KVC_NO_SPACE. give:
	                  * KVC_OK,  KVC_CORRUPT, KVC_LIMIT (does not fit). All: KVC_CANCELLED; KVC_NO_MEMORY,
	                  * no  scratch for tiles of this size. GPU: KVC_ENGINE_LOST, KVC_INVALID (page id out
	                  * of  range), KVC_LIMIT (larger than the engine's staging) */
	uint64_t length; /* encode, take, give: of the image, or what is needed when KVC_NO_SPACE */

	/* private to the engine */
	struct kvc_task finished;
	struct kvc_list node;
	struct kvc_engine *engine;
	struct kvc_image opened;
	enum kvc_engine_job_state state;
	uint32_t next_tile;
	uint32_t range; /* tiles that one worker takes at a time */
	uint32_t parts_running;
	uint32_t slot; /* GPU engine: of what it has been sent */
	bool cancelled;
	bool prompt; /* CPU engine: when it came, its flow had no other */
	kvc_status part_status;
};

struct kvc_engine_ops {
	const char *name;
	void (*submit)(struct kvc_engine *engine, struct kvc_engine_job *job);

	/* Ask for an early end: a job that has not begun ends with KVC_CANCELLED, one that runs stops at the
	 * next tile range (KVC_CANCELLED) or ends as if nothing had been asked. `done` still comes. */
	void (*cancel)(struct kvc_engine *engine, struct kvc_engine_job *job);

	/* All jobs must be done. */
	void (*close)(struct kvc_engine *engine);
};

/* First member of every engine. */
struct kvc_engine {
	const struct kvc_engine_ops *ops;
};

static inline void kvc_engine_submit(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	engine->ops->submit(engine, job);
}

static inline void kvc_engine_cancel(struct kvc_engine *engine, struct kvc_engine_job *job)
{
	engine->ops->cancel(engine, job);
}

static inline void kvc_engine_close(struct kvc_engine *engine)
{
	engine->ops->close(engine);
}

/* The CPU engine with `threads` >= 1 workers and the given codec level. */
kvc_status kvc_engine_cpu_open(struct kvc_loop *loop, uint32_t threads, enum kvc_simd simd,
                               struct kvc_engine **engine);

#endif
