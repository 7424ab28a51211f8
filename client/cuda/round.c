/* A request's round on the device: tables and images up and down, kernels, results.
 *
 * What is enqueued cannot be taken back, so a round whose enqueueing fails half-way is waited for like any
 * other: only then are its slots free. */
#include "client/cuda/worker.h"

static uint8_t *device_image(const struct kvc_worker *worker, const struct kvcw_item *item)
{
	return worker->staging + worker->slots[item->slot].offset;
}

static uint8_t *shared_image(const struct kvc_worker *worker, const struct kvcw_item *item)
{
	return worker->shared + worker->slots[item->slot].offset;
}

/* --- tables: a round's slots are neighbours --- */

static void block_describe(const struct kvc_worker *worker, const struct kvcw_request *request, uint32_t i)
{
	const struct kvcw_item *item = &request->items[i];
	uint64_t room = worker->slots[item->slot].capacity;
	const uint32_t *ids = worker->on_device.ids + (uint64_t)item->slot * worker->ids_max;

	worker->host.blocks[item->slot] = (struct kvc_kern_block){
	        .image = (uintptr_t)device_image(worker, item),
	        .image_bytes = request->put ? room : item->length,
	        .ids = (uintptr_t)ids,
	        .first_token = request->blocks[i].first_token,
	};
}

static kvc_status tables_up(struct kvc_worker *worker, const struct kvcw_request *request)
{
	uint32_t first = request->items[request->begin].slot, count = request->end - request->begin;
	uint64_t id = (uint64_t)first * worker->ids_max;
	kvc_status status;

	for (uint32_t i = request->begin; i < request->end; i++)
		block_describe(worker, request, i);
	status = kvcw_copy(worker->on_device.blocks + first, worker->host.blocks + first,
	                   count * sizeof(struct kvc_kern_block), request->stream);
	if (status != KVC_OK)
		return status;
	return kvcw_copy(worker->on_device.ids + id, worker->host.ids + id,
	                 (uint64_t)count * worker->ids_max * sizeof(uint32_t), request->stream);
}

static kvc_status results_down(struct kvc_worker *worker, const struct kvcw_request *request, void *stream)
{
	uint32_t first = request->items[request->begin].slot, count = request->end - request->begin;

	return kvcw_copy(worker->host.results + first, worker->on_device.results + first,
	                 count * sizeof(struct kvc_kern_result), stream);
}

/* --- launches --- */

static bool same_plan(const struct kvcw_item *a, const struct kvcw_item *b)
{
	return a->plan.shape.tokens == b->plan.shape.tokens &&
	       a->plan.codec.key.bits == b->plan.codec.key.bits &&
	       a->plan.codec.value.bits == b->plan.codec.value.bits &&
	       a->plan.image_bytes == b->plan.image_bytes;
}

static kvc_status launch(struct kvc_worker *worker, const struct kvcw_request *request, uint32_t first,
                         uint32_t count)
{
	const struct kvcw_item *item = &request->items[first];
	struct kvc_kern_job job = {
	        .plan = &item->plan,
	        .pool = &worker->pool,
	        .blocks = worker->on_device.blocks + item->slot,
	        .results = worker->on_device.results + item->slot,
	        .count = count,
	        .sms = worker->sms,
	        .stream = request->stream,
	};

	return request->put ? kvcw_encode(&job) : kvcw_decode(&job);
}

/* A launch for each run of blocks that share a plan: usually one. */
static kvc_status launch_all(struct kvc_worker *worker, const struct kvcw_request *request)
{
	const struct kvcw_item *items = request->items;
	kvc_status status = KVC_OK;

	for (uint32_t i = request->begin; status == KVC_OK && i < request->end;) {
		uint32_t next = i + 1;

		while (items[i].active && next < request->end && items[next].active &&
		       same_plan(&items[i], &items[next]))
			next++;
		if (items[i].active)
			status = launch(worker, request, i, next - i);
		i = next;
	}
	return status;
}

/* --- rounds --- */

/* Between streams: what is enqueued on `to` later comes after what is on `from` now. */
static kvc_status hand_over(struct kvcw_request *request, void *from, void *to)
{
	kvc_status status = kvcw_event_record(request->event[0], from);

	return status == KVC_OK ? kvcw_event_wait(request->event[0], to) : status;
}

/* Note the outcome of enqueueing. The last stream comes after the other, also when something failed. */
static void round_armed(struct kvcw_request *request, kvc_status status, void *stream)
{
	request->device_status = status;
	if (status != KVC_OK)
		(void)kvcw_fail(status, "%s", kvcw_device_why());
	request->armed = kvcw_event_record(request->event[1], stream) == KVC_OK;
	if (!request->armed && status == KVC_OK)
		request->device_status = kvcw_fail(KVC_INTERNAL, "%s", kvcw_device_why());
}

static kvc_status images_move(struct kvc_worker *worker, const struct kvcw_request *request)
{
	kvc_status status = KVC_OK;

	for (uint32_t i = request->begin; status == KVC_OK && i < request->end; i++) {
		const struct kvcw_item *item = &request->items[i];
		uint8_t *here = shared_image(worker, item), *there = device_image(worker, item);

		if (!item->active)
			continue;
		if (request->put)
			status = kvcw_copy(here, there, item->plan.image_bytes, worker->down);
		else
			status = kvcw_copy(there, here, item->length, worker->up);
	}
	return status;
}

void kvcw_encode_begin(struct kvc_worker *worker, struct kvcw_request *request)
{
	kvc_status status = tables_up(worker, request), handed;

	if (status == KVC_OK)
		status = launch_all(worker, request);
	handed = hand_over(request, request->stream, worker->down);
	if (status == KVC_OK)
		status = handed;
	if (status == KVC_OK)
		status = results_down(worker, request, worker->down);
	if (status == KVC_OK)
		status = images_move(worker, request);
	round_armed(request, status, worker->down);
}

void kvcw_decode_begin(struct kvc_worker *worker, struct kvcw_request *request)
{
	kvc_status status = images_move(worker, request);
	kvc_status handed = hand_over(request, worker->up, request->stream);

	if (status == KVC_OK)
		status = handed;
	if (status == KVC_OK)
		status = tables_up(worker, request);
	if (status == KVC_OK)
		status = launch_all(worker, request);
	if (status == KVC_OK)
		status = results_down(worker, request, request->stream);
	round_armed(request, status, request->stream);
}

kvc_status kvcw_round_poll(struct kvcw_request *request)
{
	kvc_status status = request->armed ? kvcw_event_poll(request->event[1]) : KVC_OK;

	if (status == KVC_BUSY)
		return KVC_BUSY;
	if (status != KVC_OK && request->device_status == KVC_OK)
		request->device_status = kvcw_fail(KVC_INTERNAL, "%s", kvcw_device_why());
	request->armed = false;
	return request->device_status;
}

/* --- results --- */

/* The plan of the same block, wholly raw. */
static void plan_raw(struct kvc_image_plan *plan)
{
	struct kvc_block_shape shape = plan->shape;
	struct kvc_block_codec codec;

	(void)kvc_preset_get("raw", &codec);
	(void)kvc_image_plan_init(plan, &shape, &codec);
}

/* False: the item drops out of this round. */
static bool encoded_well(struct kvc_worker *worker, struct kvcw_request *request, uint32_t i)
{
	struct kvcw_item *item = &request->items[i];
	const struct kvc_kern_result *result = &worker->host.results[item->slot];

	if (result->errors == 0) {
		item->length = result->image_bytes;
		return true;
	}
	item->active = false;
	if (result->errors & KVC_KERN_BAD_PAGE) {
		kvcw_item_end(request, i, KVC_INVALID);
	} else if (request->spare) {
		kvcw_item_end(request, i, KVC_INTERNAL);
	} else {
		item->again = true;
		if (result->errors & KVC_KERN_ALL_RAW)
			plan_raw(&item->plan);
	}
	return false;
}

/* Raw tiles lie behind what has come down already. */
static kvc_status tail_down(struct kvc_worker *worker, const struct kvcw_item *item)
{
	uint64_t from = item->plan.image_bytes;

	return kvcw_copy(shared_image(worker, item) + from, device_image(worker, item) + from,
	                 item->length - from, worker->down);
}

bool kvcw_encode_end(struct kvc_worker *worker, struct kvcw_request *request)
{
	kvc_status status = KVC_OK;
	bool tails = false;

	for (uint32_t i = request->begin; i < request->end; i++) {
		struct kvcw_item *item = &request->items[i];

		if (!item->active || !encoded_well(worker, request, i) ||
		    item->length <= item->plan.image_bytes)
			continue;
		if (status == KVC_OK)
			status = tail_down(worker, item);
		tails = true;
	}
	if (tails)
		round_armed(request, status, worker->down);
	return tails;
}

void kvcw_decode_end(struct kvc_worker *worker, struct kvcw_request *request)
{
	for (uint32_t i = request->begin; i < request->end; i++) {
		struct kvcw_item *item = &request->items[i];
		uint32_t errors = worker->host.results[item->slot].errors;

		if (!item->active)
			continue;
		if (errors & KVC_KERN_BAD_PAGE)
			kvcw_item_end(request, i, KVC_INVALID);
		else
			kvcw_item_end(request, i, errors ? KVC_CORRUPT : KVC_OK);
	}
}
