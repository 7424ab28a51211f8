/* What the core says, and what it is told. Sizes and types are checked: a message that cannot be ends the
 * process, because then the two ends are not of one build. Everything else in it is answered. */
#include <stdio.h>
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/gpu/executor.h"

#define GATE_NS (KVC_GPU_GATE_MS * 1000ull * 1000)

/* --- answers --- */

kvc_status kvc_executor_results_send(struct kvc_executor *executor)
{
	uint32_t count = executor->result_count;

	if (count == 0)
		return KVC_OK;
	executor->done.header = (struct kvc_gpu_header){.type = KVC_GPU_DONE, .id = count};
	executor->result_count = 0;
	return kvc_link_send(
	        &executor->link, &executor->done,
	        (uint32_t)(sizeof executor->done.header + count * sizeof executor->done.results[0]));
}

static void reply(struct kvc_executor *executor, const struct kvc_gpu_header *to, kvc_status status,
                  const char *detail)
{
	struct kvc_gpu_reply message = {
	        .header = {.type = KVC_GPU_REPLY, .id = to->id}, .to = to->type, .status = (uint32_t)status};

	snprintf(message.detail, sizeof message.detail, "%s", status ? detail : "");
	if (status)
		kvc_warn("GPU %u: %s %u: %s", executor->ordinal,
		         to->type == KVC_GPU_IMPORT || to->type == KVC_GPU_UNIMPORT ? "region" : "pool",
		         to->id, message.detail);
	/* If the core is gone the loop is about to find out. */
	if (kvc_link_send(&executor->link, &message, sizeof message))
		kvc_warn("GPU %u: an answer was lost", executor->ordinal);
}

static void pool_end(struct kvc_executor *executor, struct kvc_worker_pool *pool)
{
	struct kvc_gpu_header to = {.type = KVC_GPU_POOL_CLOSE, .id = pool->id};

	kvc_worker_pool_close(&executor->memory, pool);
	reply(executor, &to, KVC_OK, "");
	to.type = KVC_GPU_UNIMPORT;
	while (kvc_worker_region_left(&executor->memory, &to.id))
		reply(executor, &to, KVC_OK, "");
}

static void order_end(struct kvc_executor *executor, struct kvc_order *order)
{
	struct kvc_worker_pool *pool = order->pool;

	kvc_order_close(order);
	if (pool && pool->closing && pool->orders == 0)
		pool_end(executor, pool);
}

void kvc_executor_result(void *context, struct kvc_order_job *job, kvc_status status, uint64_t length)
{
	struct kvc_executor *executor = context;
	struct kvc_order *order = job->order;

	if (executor->result_count == KVC_EXECUTOR_RESULTS && kvc_executor_results_send(executor))
		kvc_warn("GPU %u: results were lost", executor->ordinal);
	executor->done.results[executor->result_count++] =
	        (struct kvc_gpu_result){.seq = job->wish.seq, .length = length, .status = (uint32_t)status};
	if (kvc_order_job_end(job))
		order_end(executor, order);
}

/* --- regions and pools --- */

static kvc_status message_import(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_import *import = (const void *)executor->link.packet;
	char detail[KVC_GPU_DETAIL_BYTES];
	kvc_status status;

	if (bytes != sizeof *import || import->chunks > KVC_GPU_CHUNKS_MAX)
		return KVC_BAD_MESSAGE;
	status = kvc_worker_region_open(&executor->memory, import, executor->link.fds,
	                                executor->link.fd_count, detail);
	reply(executor, &import->header, status, detail);
	return KVC_OK;
}

static kvc_status message_unimport(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_header *header = (const void *)executor->link.packet;
	char detail[KVC_GPU_DETAIL_BYTES];
	kvc_status status;

	if (bytes != sizeof *header)
		return KVC_BAD_MESSAGE;
	status = kvc_worker_region_close(&executor->memory, header->id, detail);
	if (status != KVC_BUSY)
		reply(executor, header, status, detail);
	return KVC_OK;
}

static kvc_status message_pool_open(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_pool *pool = (const void *)executor->link.packet;
	char detail[KVC_GPU_DETAIL_BYTES];
	uint64_t bases;
	kvc_status status;

	if (bytes < sizeof *pool)
		return KVC_BAD_MESSAGE;
	bases = (uint64_t)pool->geometry.layers * (pool->geometry.value_dim ? 2 : 1);
	if (bytes != sizeof *pool + bases * sizeof(struct kvc_gpu_base))
		return KVC_BAD_MESSAGE;
	status = kvc_worker_pool_open(&executor->memory, pool, (const void *)(pool + 1), executor->link.fds,
	                              executor->link.fd_count, detail);
	reply(executor, &pool->header, status, detail);
	return KVC_OK;
}

static kvc_status message_pool_close(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_header *header = (const void *)executor->link.packet;
	struct kvc_worker_pool *pool;

	if (bytes != sizeof *header)
		return KVC_BAD_MESSAGE;
	pool = kvc_worker_pool_find(&executor->memory, header->id);
	if (!pool) {
		reply(executor, header, KVC_UNKNOWN_ID, "there is no pool of this number");
	} else if (pool->orders == 0) {
		pool_end(executor, pool);
	} else {
		pool->closing = true;
	}
	return KVC_OK;
}

/* --- jobs --- */

static struct kvc_lane *lane_of(struct kvc_executor *executor, enum kvc_engine_op op)
{
	switch (op) {
	case KVC_ENGINE_ENCODE:
		return &executor->encode;
	case KVC_ENGINE_DECODE:
		return &executor->decode;
	default:
		return &executor->lower;
	}
}

/* The order lives at least until the last of its jobs has ended; that may happen in here. */
static void order_fail(struct kvc_executor *executor, struct kvc_order *order, kvc_status status)
{
	uint32_t left = order->left;

	for (uint32_t i = 0; left > 0; i++) {
		if (order->jobs[i].cancelled)
			continue;
		left--;
		kvc_executor_result(executor, &order->jobs[i], status, 0);
	}
}

static void order_enqueue(struct kvc_executor *executor, struct kvc_order *order)
{
	struct kvc_lane *lane = lane_of(executor, order->op);
	uint32_t left = order->left;

	for (uint32_t i = 0; left > 0; i++) {
		struct kvc_order_job *job = &order->jobs[i];
		kvc_status status;

		if (job->cancelled)
			continue;
		left--;
		status = kvc_order_job_check(job, executor->pinner.bytes, executor->world.vram_bytes);
		if (status)
			kvc_executor_result(executor, job, status, 0);
		else
			kvc_list_push(&lane->queue, &job->node);
	}
}

static void gate_open(struct kvc_executor *executor, struct kvc_order *order, kvc_status status)
{
	kvc_list_remove(&order->node);
	if (status == KVC_OK)
		order_enqueue(executor, order);
	else
		order_fail(executor, order, status);
}

/* The worker's stream has come to the request; what it wrote on the device before is there. The mark is
 * looked at, not waited for by a stream: that of a worker that died before never comes, and then no memory
 * could be unmapped any more, which waits for all streams. */
static bool mark_has_come(const struct kvc_order *order)
{
	uint32_t now = atomic_load_explicit(order->mark, memory_order_acquire);

	return now - order->value < UINT32_C(1) << 31;
}

static void order_begin(struct kvc_executor *executor, struct kvc_order *order)
{
	kvc_list_push(&executor->gated, &order->node);
	order->gated_ns = kvc_executor_now_ns();
	if (!order->mark || mark_has_come(order))
		gate_open(executor, order, KVC_OK);
}

/* True if the order waits no more. */
static bool gate_poll(struct kvc_executor *executor, struct kvc_order *order)
{
	if (mark_has_come(order)) {
		gate_open(executor, order, KVC_OK);
		return true;
	}
	if (kvc_executor_now_ns() - order->gated_ns < GATE_NS)
		return false;
	kvc_warn("GPU %u: pool %u: the worker's stream did not come to its mark within %u s",
	         executor->ordinal, order->pool->id, (unsigned)(GATE_NS / 1000000000));
	gate_open(executor, order, KVC_DEADLINE);
	return true;
}

static struct kvc_order_job *gated_job(const struct kvc_executor *executor, uint64_t seq)
{
	kvc_list_each (node, &executor->gated) {
		struct kvc_order *order = kvc_container_of(node, struct kvc_order, node);

		for (uint32_t i = 0; i < order->count; i++)
			if (order->jobs[i].wish.seq == seq && !order->jobs[i].cancelled)
				return &order->jobs[i];
	}
	return NULL;
}

/* The others of its order wait on, if there are any: they may be another request's. */
static void job_cancel(struct kvc_executor *executor, struct kvc_order_job *job)
{
	job->cancelled = true;
	if (job->order->left == 1)
		kvc_list_remove(&job->order->node);
	kvc_executor_result(executor, job, KVC_CANCELLED, 0);
}

static kvc_status message_cancel(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_header *header = (const void *)executor->link.packet;
	const uint64_t *seqs = (const void *)(header + 1);

	if (bytes != sizeof *header + header->id * sizeof *seqs)
		return KVC_BAD_MESSAGE;
	for (uint32_t i = 0; i < header->id; i++) {
		struct kvc_order_job *job = gated_job(executor, seqs[i]);

		if (job)
			job_cancel(executor, job);
	}
	return KVC_OK;
}

bool kvc_executor_gates_poll(struct kvc_executor *executor)
{
	bool any = false;

	kvc_list_each_safe (node, &executor->gated)
		any |= gate_poll(executor, kvc_container_of(node, struct kvc_order, node));
	return any;
}

static bool op_is_ours(uint32_t op)
{
	return op == KVC_ENGINE_ENCODE || op == KVC_ENGINE_DECODE || op == KVC_ENGINE_LOWER;
}

static kvc_status mark_set(struct kvc_order *order, const struct kvc_mark *mark)
{
	if (mark->place > order->pool->mark_count)
		return KVC_INVALID;
	if (mark->place) {
		order->mark = &order->pool->marks[mark->place - 1];
		order->value = mark->value;
	}
	return KVC_OK;
}

static kvc_status message_jobs(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_jobs *jobs = (const void *)executor->link.packet;
	struct kvc_worker_pool *pool = NULL;
	struct kvc_order *order;
	kvc_status status;

	if (bytes < sizeof *jobs || !op_is_ours(jobs->op))
		return KVC_BAD_MESSAGE;
	if (jobs->op != KVC_ENGINE_LOWER)
		pool = kvc_worker_pool_find(&executor->memory, jobs->header.id);
	status = kvc_order_open(jobs, bytes, pool, &order);
	if (status)
		return status;
	status = kvc_order_check(order, jobs);
	if (status == KVC_OK && pool)
		status = mark_set(order, &jobs->mark);
	if (status)
		order_fail(executor, order, status);
	else
		order_begin(executor, order);
	return KVC_OK;
}

/* --- dispatch --- */

kvc_status kvc_executor_message(struct kvc_executor *executor, uint32_t bytes)
{
	const struct kvc_gpu_header *header = (const void *)executor->link.packet;

	if (bytes < sizeof *header)
		return KVC_BAD_MESSAGE;
	switch ((enum kvc_gpu_type)header->type) {
	case KVC_GPU_IMPORT:
		return message_import(executor, bytes);
	case KVC_GPU_UNIMPORT:
		return message_unimport(executor, bytes);
	case KVC_GPU_POOL_OPEN:
		return message_pool_open(executor, bytes);
	case KVC_GPU_POOL_CLOSE:
		return message_pool_close(executor, bytes);
	case KVC_GPU_JOBS:
		return message_jobs(executor, bytes);
	case KVC_GPU_CANCEL:
		return message_cancel(executor, bytes);
	default:
		return KVC_BAD_MESSAGE;
	}
}
