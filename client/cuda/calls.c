/* The worker's calls: submit, drive, wait. */
#include "client/cuda/worker.h"

#include <poll.h>
#include <time.h>
#include <unistd.h>

enum {
	COMPLETIONS = 16, /* taken from the client at a time */
	DEVICE_WAIT_US = 20,
	CLIENT_WAIT_MS = 2, /* at most; another thread may take what was waited for */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Lock, and make the device current; what was before, for leave. */
static int enter(struct kvc_worker *worker)
{
	pthread_mutex_lock(&worker->lock);
	return kvcw_device_enter(worker->device);
}

static void leave(struct kvc_worker *worker, int before)
{
	kvcw_device_leave(before);
	pthread_mutex_unlock(&worker->lock);
}

/* --- submit --- */

static kvc_status block_check(const struct kvc_worker *worker, const struct kvc_block *block, size_t number)
{
	const struct kvc_kern_pool *pool = &worker->pool;
	uint64_t needed;

	if (block->tokens == 0 || block->tokens > worker->shape.tokens)
		return kvcw_fail(KVC_SHAPE, "block %zu: %u tokens, expected 1 to %u", number, block->tokens,
		                 worker->shape.tokens);
	if (block->first_token >= pool->page_tokens)
		return kvcw_fail(KVC_INVALID, "block %zu: begins at token %u of a page of %u", number,
		                 block->first_token, pool->page_tokens);
	needed = ((uint64_t)block->first_token + block->tokens - 1) / pool->page_tokens + 1;
	if (!block->pages || block->page_count < needed)
		return kvcw_fail(KVC_INVALID, "block %zu: %zu page ids, it needs %llu", number,
		                 block->pages ? block->page_count : 0, (unsigned long long)needed);
	for (uint64_t i = 0; i < needed; i++) {
		if (block->pages[i] >= pool->pages)
			return kvcw_fail(KVC_INVALID, "block %zu: page %u of a pool of %llu", number,
			                 block->pages[i], (unsigned long long)pool->pages);
	}
	return KVC_OK;
}

static kvc_status blocks_check(const struct kvc_worker *worker, const struct kvc_block *blocks, size_t count)
{
	kvc_status status = KVC_OK;

	if (!blocks || count == 0)
		return kvcw_fail(KVC_INVALID, "a request needs at least one block");
	if (count > worker->batch)
		return kvcw_fail(KVC_LIMIT, "%zu blocks: kvc_worker_batch is %u", count, worker->batch);
	for (size_t i = 0; status == KVC_OK && i < count; i++)
		status = block_check(worker, &blocks[i], i);
	return status;
}

/* Slots, if need be after the memory has been renewed. */
static kvc_status slots_find(struct kvc_worker *worker, uint32_t count, uint32_t *first)
{
	bool idle = worker->requests == NULL;

	if (worker->fenced && !idle)
		return kvcw_fail(KVC_BUSY, "the daemon did not answer in time: take all completions first");
	if (!worker->fenced && kvcw_slots_take(worker, count, first))
		return KVC_OK;
	if (idle && (worker->fenced || kvcw_slots_doubted(worker))) {
		kvc_status status = kvcw_memory_renew(worker);

		if (status != KVC_OK)
			return status;
		if (kvcw_slots_take(worker, count, first))
			return KVC_OK;
	}
	return kvcw_fail(KVC_BUSY, "%u free slots beside each other: take completions first", count);
}

static kvc_status submit(struct kvc_worker *worker, bool put, struct kvc_block *blocks, size_t count,
                         struct kvcw_request **request)
{
	kvc_status status = blocks_check(worker, blocks, count);
	uint32_t first;

	if (status == KVC_OK)
		status = slots_find(worker, (uint32_t)count, &first);
	if (status != KVC_OK)
		return status;
	status = kvcw_request_new(worker, put, blocks, count, request);
	if (status != KVC_OK) {
		kvcw_slots_give(worker, first, (uint32_t)count, false);
		return status;
	}
	(*request)->first_slot = first;
	*worker->last = *request;
	worker->last = &(*request)->next;
	return KVC_OK;
}

static void begin(struct kvc_worker *worker, struct kvcw_request *request, uint32_t ack, void *stream,
                  void *tag)
{
	request->ack = ack;
	request->stream = stream;
	request->tag = tag;
	kvcw_request_begin(worker, request);
	kvcw_request_step(worker, request);
}

kvc_status kvc_worker_put_submit(struct kvc_worker *worker, struct kvc_block *blocks, size_t count,
                                 uint32_t ack, void *stream, void *tag)
{
	int before = enter(worker);
	struct kvcw_request *request;
	kvc_status status = submit(worker, true, blocks, count, &request);

	if (status == KVC_OK)
		begin(worker, request, ack, stream, tag);
	leave(worker, before);
	return status;
}

kvc_status kvc_worker_get_submit(struct kvc_worker *worker, struct kvc_block *blocks, size_t count,
                                 void *stream, void *tag)
{
	int before = enter(worker);
	struct kvcw_request *request;
	kvc_status status = submit(worker, false, blocks, count, &request);

	if (status == KVC_OK)
		begin(worker, request, 0, stream, tag);
	leave(worker, before);
	return status;
}

/* --- drive --- */

static void drive(struct kvc_worker *worker)
{
	struct kvc_completion completions[COMPLETIONS];
	size_t count = COMPLETIONS;

	while (count == COMPLETIONS) {
		if (kvc_client_next(worker->client, completions, COMPLETIONS, 0, &count) != KVC_OK)
			break;
		for (size_t i = 0; i < count; i++)
			kvcw_request_answered(worker, completions[i].tag, &completions[i]);
	}
	for (struct kvcw_request *request = worker->requests; request; request = request->next)
		kvcw_request_step(worker, request);
}

/* Some request waits for the device. */
static bool device_busy(const struct kvc_worker *worker)
{
	for (const struct kvcw_request *request = worker->requests; request; request = request->next) {
		if (request->state == KVCW_DEVICE || request->state == KVCW_TAILS)
			return true;
	}
	return false;
}

/* Wait a little for whatever comes first. Without the lock. */
static void rest(struct kvc_worker *worker, bool device, uint64_t until_ns)
{
	struct pollfd fd = {.fd = kvc_client_fd(worker->client), .events = POLLIN};
	uint64_t now = now_ns();

	if (now >= until_ns)
		return;
	if (device || fd.fd < 0)
		usleep(DEVICE_WAIT_US);
	else
		(void)poll(&fd, 1, CLIENT_WAIT_MS);
}

static void completion_of(const struct kvcw_request *request, struct kvc_completion *completion)
{
	*completion = (struct kvc_completion){
	        .tag = request->tag, .status = request->status, .outcome = request->outcome};
}

/* Out of the list, slots free. */
static void request_remove(struct kvc_worker *worker, struct kvcw_request **link)
{
	struct kvcw_request *request = *link;

	*link = request->next;
	if (worker->last == &request->next)
		worker->last = link;
	kvcw_slots_give(worker, request->first_slot, request->count, request->doubt);
	kvcw_request_free(request);
}

static size_t completions_take(struct kvc_worker *worker, struct kvc_completion *completions, size_t max)
{
	struct kvcw_request **link = &worker->requests;
	size_t count = 0;

	while (*link && count < max) {
		if ((*link)->state == KVCW_DONE && !(*link)->waited) {
			completion_of(*link, &completions[count++]);
			request_remove(worker, link);
		} else {
			link = &(*link)->next;
		}
	}
	return count;
}

kvc_status kvc_worker_next(struct kvc_worker *worker, struct kvc_completion *completions, size_t max,
                           uint32_t timeout_ms, size_t *count)
{
	uint64_t until_ns = now_ns() + timeout_ms * UINT64_C(1000000);

	for (;;) {
		int before = enter(worker);
		bool device;

		drive(worker);
		*count = completions_take(worker, completions, max);
		device = device_busy(worker);
		leave(worker, before);
		if (*count > 0 || now_ns() >= until_ns)
			return KVC_OK;
		rest(worker, device, until_ns);
	}
}

/* --- in one call --- */

/* True, and it is removed, if the request is done. */
static bool wait_over(struct kvc_worker *worker, struct kvcw_request *request,
                      struct kvc_completion *completion)
{
	struct kvcw_request **link = &worker->requests;

	drive(worker);
	if (request->state != KVCW_DONE)
		return false;
	while (*link != request)
		link = &(*link)->next;
	completion_of(request, completion);
	request_remove(worker, link);
	return true;
}

/* Entered; leaves. */
static kvc_status finish(struct kvc_worker *worker, struct kvcw_request *request, int before,
                         struct kvc_outcome *outcome)
{
	struct kvc_completion completion;

	request->waited = true;
	while (!wait_over(worker, request, &completion)) {
		bool device = device_busy(worker);

		leave(worker, before);
		rest(worker, device, UINT64_MAX);
		before = enter(worker);
	}
	leave(worker, before);
	if (completion.status == KVC_OK && outcome)
		*outcome = completion.outcome;
	return completion.status;
}

kvc_status kvc_worker_put(struct kvc_worker *worker, struct kvc_block *blocks, size_t count, uint32_t ack,
                          void *stream, struct kvc_outcome *outcome)
{
	int before = enter(worker);
	struct kvcw_request *request;
	kvc_status status = submit(worker, true, blocks, count, &request);

	if (status != KVC_OK) {
		leave(worker, before);
		return status;
	}
	begin(worker, request, ack, stream, NULL);
	return finish(worker, request, before, outcome);
}

kvc_status kvc_worker_get(struct kvc_worker *worker, struct kvc_block *blocks, size_t count, void *stream,
                          struct kvc_outcome *outcome)
{
	int before = enter(worker);
	struct kvcw_request *request;
	kvc_status status = submit(worker, false, blocks, count, &request);

	if (status != KVC_OK) {
		leave(worker, before);
		return status;
	}
	begin(worker, request, 0, stream, NULL);
	return finish(worker, request, before, outcome);
}
