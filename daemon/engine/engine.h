/* Where codec work runs: a table of functions. engine_cpu is a pool of threads in this process; a GPU engine
 * is a child process behind the same table.
 *
 * A job is one block: encode it from a view of a client's memory into an image, or decode an image into a
 * view. The job lives in the caller's object. Submit never calls back; `done` comes exactly once, on the loop
 * thread, also after cancel. View and image must stay until then. */
#ifndef KVC_ENGINE_H
#define KVC_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "daemon/loop/loop.h"
#include "kernels/image.h"
#include "proto/kvc_status.h"

enum kvc_engine_op { KVC_ENGINE_ENCODE = 1, KVC_ENGINE_DECODE = 2, KVC_ENGINE_VERIFY = 3 };

struct kvc_engine;

enum kvc_engine_job_state {
	KVC_JOB_IDLE,     /* not submitted, or done */
	KVC_JOB_QUEUED,   /* nobody has begun */
	KVC_JOB_OPENING,  /* one worker looks at the image; not in the queue */
	KVC_JOB_RUNNING,  /* ranges of tiles are handed out; in the queue */
	KVC_JOB_DRAINING, /* nothing is left to hand out, workers are still at it */
	KVC_JOB_FINISHED, /* on its way to the loop */
};

struct kvc_engine_job {
	/* set by the caller */
	enum kvc_engine_op op;
	const struct kvc_image_plan *plan; /* encode: what to make. decode: the image must be of this shape,
	                                    * else KVC_CORRUPT. verify: ignored */
	struct kvc_block_view view;        /* source or destination; unused by verify */
	uint8_t *image;                    /* KVC_IMAGE_ALIGN aligned */
	uint64_t image_bytes;              /* encode: capacity. else: length */
	void (*done)(struct kvc_engine_job *job);

	/* results */
	kvc_status status; /* encode: as kvc_image_seal. decode, verify: KVC_OK or KVC_CORRUPT. All:
	                    * KVC_CANCELLED; KVC_NO_MEMORY, no scratch for tiles of this size */
	uint64_t length;   /* encode: of the image, or what is needed when KVC_NO_SPACE */

	/* private to the engine */
	struct kvc_task finished;
	struct kvc_list node;
	struct kvc_engine *engine;
	struct kvc_image opened;
	enum kvc_engine_job_state state;
	uint32_t next_tile;
	uint32_t range; /* tiles that one worker takes at a time */
	uint32_t parts_running;
	bool cancelled;
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
