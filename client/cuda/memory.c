/* A worker's memory: shared with the daemon and pinned, staging on the device, tables on both sides. */
#include "client/cuda/worker.h"

#include <unistd.h>

static kvc_status why(kvc_status status)
{
	return kvcw_fail(status, "%s", kvcw_device_why());
}

/* --- shared memory --- */

static kvc_status shared_pin(struct kvc_worker *worker)
{
	kvc_status status = kvcw_host_pin(worker->shared, kvc_memory_bytes(worker->memory));

	worker->pinned = status == KVC_OK;
	return status == KVC_OK ? KVC_OK : why(status);
}

static void shared_unpin(struct kvc_worker *worker)
{
	if (worker->pinned)
		kvcw_host_unpin(worker->shared);
	worker->pinned = false;
}

static kvc_status shared_open(struct kvc_worker *worker)
{
	kvc_status status = kvc_memory_create(worker->client, kvcw_slots_bytes(worker), &worker->memory);

	if (status != KVC_OK)
		return kvcw_fail(status, "shared memory: %s", kvc_last_error());
	worker->shared = kvc_memory_data(worker->memory);
	return shared_pin(worker);
}

/* Pinned pages cannot be replaced. */
kvc_status kvcw_memory_renew(struct kvc_worker *worker)
{
	kvc_status status;

	shared_unpin(worker);
	status = kvc_memory_renew(worker->memory);
	if (status != KVC_OK) {
		(void)kvcw_fail(status, "shared memory cannot be renewed: %s", kvc_last_error());
		(void)kvcw_host_pin(worker->shared, kvc_memory_bytes(worker->memory));
		worker->pinned = true;
		return status;
	}
	status = shared_pin(worker);
	if (status != KVC_OK)
		return status;
	worker->fenced = false;
	kvcw_slots_trust(worker, UINT64_MAX);
	return KVC_OK;
}

/* --- tables --- */

static uint64_t tables_bytes(const struct kvc_worker *worker)
{
	uint64_t entry = sizeof(struct kvc_kern_block) + sizeof(struct kvc_kern_result) +
	                 worker->ids_max * sizeof(uint32_t);

	return (worker->slot_count + 1) * entry;
}

static void tables_lay(const struct kvc_worker *worker, struct kvcw_tables *tables)
{
	uint32_t count = worker->slot_count + 1;

	tables->blocks = tables->memory;
	tables->results = (struct kvc_kern_result *)(void *)(tables->blocks + count);
	tables->ids = (uint32_t *)(void *)(tables->results + count);
}

static kvc_status tables_open(struct kvc_worker *worker)
{
	kvc_status status = kvcw_host_alloc(tables_bytes(worker), &worker->host.memory);

	if (status == KVC_OK)
		status = kvcw_device_alloc(tables_bytes(worker), &worker->on_device.memory);
	if (status != KVC_OK)
		return why(status);
	tables_lay(worker, &worker->host);
	tables_lay(worker, &worker->on_device);
	return KVC_OK;
}

/* --- layers --- */

/* The addresses of a kind's layers; each with all that the pages of a layer span must be this device's. */
static kvc_status layers_check(const struct kvc_worker *worker, const void *const *bases, uint64_t bytes,
                               const char *kind)
{
	for (uint32_t i = 0; i < worker->shape.layers; i++) {
		const uint8_t *base = bases[i];

		if (!kvcw_device_has(worker->device, base))
			return kvcw_fail(KVC_INVALID, "%s, layer %u: %p is not memory of the pool's device",
			                 kind, i, bases[i]);
		if (!kvcw_device_has(worker->device, base + bytes - 1))
			return kvcw_fail(KVC_SHAPE,
			                 "%s, layer %u: %llu bytes from %p on leave the device's memory",
			                 kind, i, (unsigned long long)bytes, bases[i]);
	}
	return KVC_OK;
}

/* To the device, from pinned memory; waits. */
static kvc_status layers_upload(struct kvc_worker *worker, const void *pinned, uint64_t bytes)
{
	void *event;
	kvc_status status = kvcw_event_open(&event);

	if (status != KVC_OK)
		return status;
	status = kvcw_copy(worker->layers, pinned, bytes, worker->up);
	if (status == KVC_OK)
		status = kvcw_event_record(event, worker->up);
	if (status == KVC_OK) {
		while ((status = kvcw_event_poll(event)) == KVC_BUSY)
			usleep(50);
	}
	kvcw_event_close(event);
	return status;
}

static void layers_lay(struct kvc_kern_place *place, const void *const *bases, uint32_t count,
                       uint64_t *pinned, const uint64_t *on_device)
{
	for (uint32_t i = 0; i < count; i++)
		pinned[i] = (uintptr_t)bases[i];
	place->layers = on_device;
}

/* Tables of both kinds in one piece. */
static kvc_status layers_open(struct kvc_worker *worker, const struct kvc_pool_options *pool)
{
	uint32_t count = worker->shape.layers;
	uint64_t bytes = 2 * count * sizeof(uint64_t);
	void *pinned = NULL;
	kvc_status status = kvcw_device_alloc(bytes, &worker->layers);

	if (status == KVC_OK)
		status = kvcw_host_alloc(bytes, &pinned);
	if (status == KVC_OK) {
		uint64_t *here = pinned, *there = worker->layers;

		layers_lay(&worker->pool.key, pool->key_bases, count, here, there);
		if (worker->shape.value_dim)
			layers_lay(&worker->pool.value, pool->value_bases, count, here + count,
			           there + count);
		status = layers_upload(worker, pinned, bytes);
	}
	kvcw_host_free(pinned);
	return status == KVC_OK ? KVC_OK : why(status);
}

/* --- all --- */

static kvc_status device_open(struct kvc_worker *worker)
{
	void *staging;
	kvc_status status = kvcw_stream_open(&worker->up);

	if (status == KVC_OK)
		status = kvcw_stream_open(&worker->down);
	if (status == KVC_OK)
		status = kvcw_device_alloc(kvcw_slots_bytes(worker), &staging);
	if (status != KVC_OK)
		return why(status);
	worker->staging = staging;
	return KVC_OK;
}

kvc_status kvcw_memory_open(struct kvc_worker *worker, const struct kvc_pool_options *pool)
{
	kvc_status status = layers_check(worker, pool->key_bases, worker->pool.key.bytes, "keys");

	if (status == KVC_OK && worker->shape.value_dim)
		status = layers_check(worker, pool->value_bases, worker->pool.value.bytes, "values");
	if (status == KVC_OK)
		status = device_open(worker);
	if (status == KVC_OK)
		status = layers_open(worker, pool);
	if (status == KVC_OK)
		status = tables_open(worker);
	return status == KVC_OK ? shared_open(worker) : status;
}

/* The shared memory itself goes with the client. */
void kvcw_memory_close(struct kvc_worker *worker)
{
	shared_unpin(worker);
	kvcw_host_free(worker->host.memory);
	kvcw_device_free(worker->on_device.memory);
	kvcw_device_free(worker->layers);
	kvcw_device_free(worker->staging);
	kvcw_stream_close(worker->down);
	kvcw_stream_close(worker->up);
}
