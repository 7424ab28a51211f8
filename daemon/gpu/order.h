/* An order is one message of jobs: one operation, one plan, one pool. It owns its jobs and their page ids and
 * is gone when the last result has been told.
 *
 *   arrives --> GATED --the worker's mark has come--> in a lane's queue, job by job --> results
 *                 |--it does not come in time--------------------------------------------^
 *                 '--cancelled, job by job-----------------------------------------------^ */
#ifndef KVC_ORDER_H
#define KVC_ORDER_H

#include "daemon/engine/engine.h"
#include "daemon/gpu/worker_memory.h"

struct kvc_order_job {
	struct kvc_list node; /* in a lane's queue */
	struct kvc_order *order;
	struct kvc_gpu_job wish;
	const uint32_t *pages;             /* the order's */
	const struct kvc_image_plan *plan; /* the order's, or the job's own: another codec than the order's */
	bool cancelled;                    /* while its order was gated: it has ended */
	bool admitted;                     /* what follows is set */
	uint64_t image_bytes;              /* encode: capacity for the kernel. else: length */
	uint64_t staging_bytes;            /* that it takes of a batch's; 0: none */
};

struct kvc_order {
	struct kvc_list node;         /* while gated */
	struct kvc_worker_pool *pool; /* NULL: lower */
	enum kvc_engine_op op;
	struct kvc_image_plan plan;
	const _Atomic uint32_t *mark; /* of the worker, that must have come to `value` first; NULL: none */
	uint32_t value;
	uint64_t gated_ns;
	uint32_t count;
	uint32_t left; /* without a result */
	struct kvc_order_job jobs[];
};

/* Make one of a message of `bytes`. KVC_BAD_MESSAGE: sizes that do not add up; KVC_NO_MEMORY. The pool's
 * count of orders is raised. */
kvc_status kvc_order_open(const struct kvc_gpu_jobs *message, uint32_t bytes, struct kvc_worker_pool *pool,
                          struct kvc_order **order);

bool kvc_shapes_equal(const struct kvc_block_shape *a, const struct kvc_block_shape *b);
bool kvc_plans_equal(const struct kvc_image_plan *a, const struct kvc_image_plan *b);

/* What the whole order ends with before anything is begun, or KVC_OK: its shape, and that of its pool. */
kvc_status kvc_order_check(struct kvc_order *order, const struct kvc_gpu_jobs *message);

/* The same for one job: where its image is to be, how many pages it names. */
kvc_status kvc_order_job_check(const struct kvc_order_job *job, uint64_t arena_bytes, uint64_t vram_bytes);

/* The job goes on with another plan, which is copied. */
kvc_status kvc_order_job_plan_set(struct kvc_order_job *job, const struct kvc_image_plan *plan);

/* One result less to come; true if it was the last: close it then. */
bool kvc_order_job_end(struct kvc_order_job *job);
void kvc_order_close(struct kvc_order *order);

#endif
