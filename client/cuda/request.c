/* Requests: states are drawn in worker.h. */
#include "client/cuda/worker.h"

#include <stdlib.h>
#include <string.h>

/* --- life --- */

static void items_plan(const struct kvc_worker *worker, struct kvcw_request *request)
{
	for (uint32_t i = 0; i < request->count; i++) {
		struct kvc_image_plan *plan = &request->items[i].plan;
		struct kvc_block_shape shape = worker->shape;

		shape.tokens = request->blocks[i].tokens;
		if (shape.tokens == worker->shape.tokens)
			*plan = worker->plan;
		else
			(void)kvc_image_plan_init(plan, &shape, &worker->codec); /* fewer tokens: it fits */
	}
}

static kvc_status events_open(struct kvcw_request *request)
{
	kvc_status status = kvcw_event_open(&request->event[0]);

	if (status == KVC_OK)
		status = kvcw_event_open(&request->event[1]);
	return status == KVC_OK ? KVC_OK : kvcw_fail(status, "%s", kvcw_device_why());
}

kvc_status kvcw_request_new(struct kvc_worker *worker, bool put, struct kvc_block *blocks, size_t count,
                            struct kvcw_request **request)
{
	struct kvcw_request *made = calloc(1, sizeof *made + count * sizeof made->items[0]);
	kvc_status status;

	if (!made)
		return kvcw_fail(KVC_NO_MEMORY, "no memory for a request of %zu blocks", count);
	made->put = put;
	made->blocks = blocks;
	made->count = (uint32_t)count;
	made->wire = calloc(count, sizeof made->wire[0]);
	made->wire_item = calloc(count, sizeof made->wire_item[0]);
	status = made->wire && made->wire_item
	                 ? events_open(made)
	                 : kvcw_fail(KVC_NO_MEMORY, "no memory for a request of %zu blocks", count);
	if (status != KVC_OK) {
		kvcw_request_free(made);
		return status;
	}
	items_plan(worker, made);
	*request = made;
	return KVC_OK;
}

void kvcw_request_free(struct kvcw_request *request)
{
	kvcw_event_close(request->event[0]);
	kvcw_event_close(request->event[1]);
	free(request->wire);
	free(request->wire_item);
	free(request);
}

/* --- rounds --- */

void kvcw_item_end(struct kvcw_request *request, uint32_t item, kvc_status status)
{
	request->blocks[item].status = status;
	request->items[item].active = false;
	request->outcome.blocks_ok += status == KVC_OK;
}

/* The round fails as a whole. */
static void round_fail(struct kvcw_request *request, kvc_status status)
{
	for (uint32_t i = request->begin; i < request->end; i++) {
		if (request->items[i].active)
			kvcw_item_end(request, i, status);
	}
	if (request->status == KVC_OK)
		request->status = status;
}

static bool round_empty(const struct kvcw_request *request)
{
	for (uint32_t i = request->begin; i < request->end; i++) {
		if (request->items[i].active)
			return false;
	}
	return true;
}

static void round_begin(struct kvc_worker *worker, struct kvcw_request *request)
{
	for (uint32_t i = request->begin; i < request->end; i++)
		request->items[i].active = true;
	if (request->put) {
		kvcw_encode_begin(worker, request);
		request->state = KVCW_DEVICE;
	} else {
		request->state = KVCW_READY;
	}
}

/* Page ids, from the caller's memory to the slot. A block's own slot first, the spare one in a second round.
 */
static void ids_copy(struct kvc_worker *worker, const struct kvcw_request *request, uint32_t i)
{
	const struct kvc_block *block = &request->blocks[i];
	uint32_t count = (block->first_token + block->tokens - 1) / worker->pool.page_tokens + 1;

	memcpy(worker->host.ids + (uint64_t)request->items[i].slot * worker->ids_max, block->pages,
	       count * sizeof(uint32_t));
}

static void spare_ids_copy(struct kvc_worker *worker, uint32_t from, uint32_t to)
{
	memcpy(worker->host.ids + (uint64_t)to * worker->ids_max,
	       worker->host.ids + (uint64_t)from * worker->ids_max, worker->ids_max * sizeof(uint32_t));
}

void kvcw_request_begin(struct kvc_worker *worker, struct kvcw_request *request)
{
	for (uint32_t i = 0; i < request->count; i++) {
		request->items[i].slot = request->first_slot + i;
		ids_copy(worker, request, i);
	}
	request->begin = 0;
	request->end = request->count;
	round_begin(worker, request);
}

/* The round is over: on with the next block that needs the spare slot. */
static void round_end(struct kvc_worker *worker, struct kvcw_request *request)
{
	if (request->spare) {
		kvcw_slots_give(worker, worker->slot_count, 1, request->doubt);
		request->spare = false;
	}
	for (uint32_t i = 0; i < request->count; i++) {
		if (!request->items[i].again)
			continue;
		request->items[i].again = false;
		request->begin = i;
		request->end = i + 1;
		request->items[i].active = true;
		request->state = KVCW_SPARE;
		if (request->status == KVC_OK)
			return;
		round_fail(request, request->status);
	}
	request->state = KVCW_DONE;
}

static bool step_spare(struct kvc_worker *worker, struct kvcw_request *request)
{
	struct kvcw_slot *spare = &worker->slots[worker->slot_count];
	struct kvcw_item *item = &request->items[request->begin];

	if (spare->taken)
		return false;
	if (spare->doubt) {
		worker->fenced = true;
		round_fail(request, KVC_FENCED);
		round_end(worker, request);
		return true;
	}
	spare->taken = true;
	request->spare = true;
	spare_ids_copy(worker, item->slot, worker->slot_count);
	item->slot = worker->slot_count;
	round_begin(worker, request);
	return true;
}

/* --- the daemon --- */

static bool image_seal(struct kvc_worker *worker, struct kvcw_item *item)
{
	const struct kvcw_slot *slot = &worker->slots[item->slot];
	uint64_t length;

	return kvc_kern_image_seal(&item->plan, worker->shared + slot->offset, slot->capacity, &length) ==
	               KVC_OK &&
	       length == item->length;
}

static void images_seal(struct kvc_worker *worker, struct kvcw_request *request)
{
	for (uint32_t i = request->begin; i < request->end; i++) {
		if (request->items[i].active && !image_seal(worker, &request->items[i]))
			kvcw_item_end(request, i, KVC_CORRUPT);
	}
}

static void wire_make(struct kvc_worker *worker, struct kvcw_request *request)
{
	request->wire_count = 0;
	for (uint32_t i = request->begin; i < request->end; i++) {
		const struct kvcw_item *item = &request->items[i];
		const struct kvcw_slot *slot = &worker->slots[item->slot];
		struct kvc_block *wire = &request->wire[request->wire_count];

		if (!item->active)
			continue;
		*wire = request->blocks[i];
		wire->pages = NULL;
		wire->page_count = 0;
		wire->first_token = 0;
		wire->value_offset = 0;
		wire->key_offset = slot->offset;
		wire->image_bytes = request->put ? item->length : slot->capacity;
		request->wire_item[request->wire_count++] = i;
	}
}

static kvc_status wire_submit(struct kvc_worker *worker, struct kvcw_request *request)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, worker->memory);
	transfer.form = KVC_FORM_IMAGE;
	transfer.deadline_ms = worker->deadline_ms;
	if (!request->put)
		return kvc_get_submit(worker->ns, &transfer, request->wire, request->wire_count, request);
	transfer.ack = request->ack;
	transfer.ttl_ms = worker->ttl_ms;
	transfer.priority = worker->priority;
	transfer.ephemeral = worker->ephemeral;
	return kvc_put_submit(worker->ns, &transfer, request->wire, request->wire_count, request);
}

/* Another request is with the daemon: its end makes room. */
static bool others_sent(const struct kvc_worker *worker)
{
	for (const struct kvcw_request *r = worker->requests; r; r = r->next) {
		if (r->state == KVCW_SENT)
			return true;
	}
	return false;
}

static bool step_ready(struct kvc_worker *worker, struct kvcw_request *request)
{
	kvc_status status;

	if (round_empty(request)) {
		round_end(worker, request);
		return true;
	}
	wire_make(worker, request);
	status = wire_submit(worker, request);
	if (status == KVC_BUSY && others_sent(worker))
		return false;
	if (status == KVC_OK) {
		request->serial = ++worker->serial;
		request->state = KVCW_SENT;
		return true;
	}
	worker->fenced |= status == KVC_FENCED;
	(void)kvcw_fail(status, "%s", kvc_last_error());
	round_fail(request, status);
	round_end(worker, request);
	return true;
}

/* An image has come: is it what was asked for? Its tiles are checked on the device. */
static void image_arrived(struct kvc_worker *worker, struct kvcw_request *request, uint32_t i,
                          uint64_t length)
{
	struct kvcw_item *item = &request->items[i];
	const struct kvcw_slot *slot = &worker->slots[item->slot];
	struct kvc_image image;

	if (length > slot->capacity ||
	    kvc_image_open(worker->shared + slot->offset, length, 0, &image) != KVC_OK ||
	    !kvc_image_is_of(&image, &item->plan)) {
		kvcw_item_end(request, i, KVC_CORRUPT);
		return;
	}
	item->plan = image.plan;
	item->length = length;
}

static void block_answered(struct kvc_worker *worker, struct kvcw_request *request,
                           const struct kvc_block *wire, uint32_t i)
{
	struct kvcw_item *item = &request->items[i];
	bool too_large = !request->put && (wire->status == KVC_LIMIT || wire->status == KVC_NO_SPACE);

	if (too_large && !request->spare) {
		item->active = false;
		item->again = true;
	} else if (request->put || wire->status != KVC_OK) {
		kvcw_item_end(request, i, wire->status);
	} else {
		image_arrived(worker, request, i, wire->image_bytes);
	}
}

static void outcome_add(struct kvc_outcome *sum, const struct kvc_outcome *part)
{
	sum->stored_bytes += part->stored_bytes;
	sum->from_vram += part->from_vram;
	sum->from_ram += part->from_ram;
	sum->from_disk += part->from_disk;
}

/* The daemon may still read or write the request's slots: it was sent, and neither was answered nor ended the
 * connection. */
static bool doubtful(kvc_status status)
{
	return status != KVC_BUSY && status != KVC_FENCED && status != KVC_DISCONNECTED &&
	       status != KVC_UNAVAILABLE;
}

void kvcw_request_answered(struct kvc_worker *worker, struct kvcw_request *request,
                           const struct kvc_completion *completion)
{
	worker->fenced |= completion->status == KVC_FENCED;
	if (completion->status != KVC_OK) {
		request->doubt |= doubtful(completion->status);
		(void)kvcw_fail(completion->status, "%s", kvc_last_error());
		round_fail(request, completion->status);
		round_end(worker, request);
		return;
	}
	kvcw_slots_trust(worker, request->serial);
	outcome_add(&request->outcome, &completion->outcome);
	for (uint32_t i = 0; i < request->wire_count; i++)
		block_answered(worker, request, &request->wire[i], request->wire_item[i]);
	if (request->put || round_empty(request)) {
		round_end(worker, request);
		return;
	}
	kvcw_decode_begin(worker, request);
	request->state = KVCW_DEVICE;
}

/* --- steps --- */

/* Both device states: of a put's images, of a put's raw tiles, of a get's pages. */
static bool step_device(struct kvc_worker *worker, struct kvcw_request *request)
{
	kvc_status status = kvcw_round_poll(request);

	if (status == KVC_BUSY)
		return false;
	if (status != KVC_OK) {
		round_fail(request, status);
		round_end(worker, request);
	} else if (!request->put) {
		kvcw_decode_end(worker, request);
		round_end(worker, request);
	} else if (request->state == KVCW_DEVICE && kvcw_encode_end(worker, request)) {
		request->state = KVCW_TAILS;
	} else {
		images_seal(worker, request);
		request->state = KVCW_READY;
	}
	return true;
}

static bool step(struct kvc_worker *worker, struct kvcw_request *request)
{
	switch (request->state) {
	case KVCW_DEVICE:
	case KVCW_TAILS:
		return step_device(worker, request);
	case KVCW_READY:
		return step_ready(worker, request);
	case KVCW_SPARE:
		return step_spare(worker, request);
	case KVCW_SENT:
	case KVCW_DONE:
	default:
		return false;
	}
}

void kvcw_request_step(struct kvc_worker *worker, struct kvcw_request *request)
{
	while (step(worker, request))
		;
}
