/* Workers are made and ended. */
#include "client/cuda/worker.h"

#include <stdlib.h>
#include <unistd.h>

enum { DEVICE_WAIT_US = 20 };

/* --- create --- */

void kvc_worker_options_init(struct kvc_worker_options *options)
{
	*options =
	        (struct kvc_worker_options){.size = sizeof *options, .slots = 64, .priority = KVC_PUT_NORMAL};
}

static kvc_status options_check(const struct kvc_worker_options *options)
{
	if (!options || options->size < sizeof *options)
		return kvcw_fail(KVC_INVALID, "worker options not made by kvc_worker_options_init");
	if (!options->ns || !options->pool)
		return kvcw_fail(KVC_INVALID, "a worker needs the options of a namespace and of a pool");
	if (options->slots == 0 || options->slots > KVCW_SLOTS_MAX)
		return kvcw_fail(KVC_INVALID, "%u slots: expected 1 to %u", options->slots, KVCW_SLOTS_MAX);
	if (options->priority < KVC_PUT_LOW || options->priority > KVC_PUT_HIGH)
		return kvcw_fail(KVC_INVALID, "priority %u: expected 1 (low), 2 (normal) or 3 (high)",
		                 options->priority);
	return KVC_OK;
}

/* Everything that follows from the options alone. */
static kvc_status worker_plan(struct kvc_worker *worker, const struct kvc_worker_options *options)
{
	kvc_status status = kvcw_namespace_read(options->ns, &worker->shape, &worker->codec);

	if (status == KVC_OK)
		status = kvcw_pool_read(options->pool, &worker->shape, &worker->pool);
	if (status != KVC_OK)
		return status;
	status = kvc_image_plan_init(&worker->plan, &worker->shape, &worker->codec);
	if (status != KVC_OK)
		return kvcw_fail(status, "the codec's settings are out of bounds, or do not fit the shape");
	worker->ids_max =
	        (worker->pool.page_tokens - 1 + worker->shape.tokens - 1) / worker->pool.page_tokens + 1;
	worker->slot_count = options->slots;
	worker->deadline_ms = options->deadline_ms;
	worker->ttl_ms = options->ttl_ms;
	worker->priority = options->priority;
	worker->ephemeral = options->ephemeral;
	kvcw_slots_init(worker);
	return KVC_OK;
}

static kvc_status worker_connect(struct kvc_worker *worker, const struct kvc_worker_options *options)
{
	struct kvc_daemon_info info = {.size = sizeof info};
	kvc_status status = kvc_client_create(options->client, &worker->client);

	if (status == KVC_OK)
		status = kvc_namespace_open(worker->client, options->ns, options->deadline_ms, &worker->ns);
	if (status == KVC_OK)
		status = kvc_client_info(worker->client, &info, options->deadline_ms);
	if (status != KVC_OK)
		return kvcw_fail(status, "%s", kvc_last_error());
	worker->batch = info.batch < worker->slot_count ? info.batch : worker->slot_count;
	return KVC_OK;
}

static kvc_status worker_device(struct kvc_worker *worker, const struct kvc_worker_options *options)
{
	kvc_status status = kvcw_device_open(options->pool->key_bases[0], &worker->device);
	int before;

	if (status != KVC_OK)
		return kvcw_fail(status, "%s", kvcw_device_why());
	worker->sms = kvcw_device_sms(worker->device);
	if (options->sms && options->sms < worker->sms)
		worker->sms = options->sms;
	before = kvcw_device_enter(worker->device);
	status = kvcw_memory_open(worker, options->pool);
	kvcw_device_leave(before);
	return status;
}

kvc_status kvc_worker_create(const struct kvc_worker_options *options, struct kvc_worker **worker)
{
	kvc_status status = options_check(options);
	struct kvc_worker *made;

	if (status != KVC_OK)
		return status;
	made = calloc(1, sizeof *made + (options->slots + 1) * sizeof made->slots[0]);
	if (!made)
		return kvcw_fail(KVC_NO_MEMORY, "no memory for a worker");
	pthread_mutex_init(&made->lock, NULL);
	made->last = &made->requests;
	status = worker_plan(made, options);
	if (status == KVC_OK)
		status = worker_connect(made, options);
	if (status == KVC_OK)
		status = worker_device(made, options);
	if (status != KVC_OK) {
		kvc_worker_destroy(made);
		return status;
	}
	*worker = made;
	return KVC_OK;
}

/* --- destroy --- */

/* What is on the device, to its end. */
static void device_drain(struct kvc_worker *worker)
{
	for (struct kvcw_request *request = worker->requests; request; request = request->next) {
		while (kvcw_round_poll(request) == KVC_BUSY)
			usleep(DEVICE_WAIT_US);
	}
}

static void requests_free(struct kvc_worker *worker)
{
	while (worker->requests) {
		struct kvcw_request *request = worker->requests;

		worker->requests = request->next;
		kvcw_request_free(request);
	}
}

/* The client's end takes the shared memory and what is with the daemon; only then are requests nobody's. */
static void device_end(struct kvc_worker *worker)
{
	int before = kvcw_device_enter(worker->device);

	device_drain(worker);
	kvcw_memory_close(worker);
	kvc_client_destroy(worker->client);
	worker->client = NULL;
	requests_free(worker);
	kvcw_device_leave(before);
	kvcw_device_close(worker->device);
}

void kvc_worker_destroy(struct kvc_worker *worker)
{
	if (!worker)
		return;
	if (worker->device)
		device_end(worker);
	kvc_client_destroy(worker->client);
	pthread_mutex_destroy(&worker->lock);
	free(worker);
}

/* --- simple calls --- */

struct kvc_namespace *kvc_worker_namespace(struct kvc_worker *worker)
{
	return worker->ns;
}

struct kvc_client *kvc_worker_client(struct kvc_worker *worker)
{
	return worker->client;
}

uint32_t kvc_worker_batch(const struct kvc_worker *worker)
{
	return worker->batch;
}
