/* The table of requests. A slot's object is made once and kept with its frame buffer, so that a request on
 * the usual path costs no heap call. An id is the slot plus a serial number: an answer to an old use of
 * the slot is not found. */
#include <assert.h>

#include "client/internal.h"

#define KEPT_FRAME_BYTES 65536u /* larger frames carry payload: rare, given back */

static_assert((KVCC_SLOTS & (KVCC_SLOTS - 1)) == 0, "slots are the low bits of an id");

void kvcc_request_move(struct kvcc_request *request, enum kvcc_request_state to)
{
	static const unsigned legal[] = {
	        [KVCC_REQUEST_FREE] = 1u << KVCC_REQUEST_DRAFT,
	        [KVCC_REQUEST_DRAFT] = 1u << KVCC_REQUEST_QUEUED | 1u << KVCC_REQUEST_FREE,
	        [KVCC_REQUEST_QUEUED] =
	                1u << KVCC_REQUEST_SENDING | 1u << KVCC_REQUEST_DRAFT | 1u << KVCC_REQUEST_FREE,
	        [KVCC_REQUEST_SENDING] =
	                1u << KVCC_REQUEST_SENT | 1u << KVCC_REQUEST_QUEUED | 1u << KVCC_REQUEST_FREE,
	        [KVCC_REQUEST_SENT] = 1u << KVCC_REQUEST_QUEUED | 1u << KVCC_REQUEST_FREE,
	};

	KVCC_INVARIANT(legal[request->state] & 1u << to);
	request->state = to;
}

/* How many a caller may have unanswered. Small limits are shared half and half with the library's own. */
static unsigned allowed(const struct kvc_client *client, bool own)
{
	unsigned limit = client->limits.inflight < KVCC_SLOTS ? client->limits.inflight : KVCC_SLOTS;

	if (own)
		return limit;
	return limit > 2 * KVCC_SLOTS_RESERVED ? limit - KVCC_SLOTS_RESERVED : (limit + 1) / 2;
}

static struct kvcc_request *take_spare(struct kvc_client *client)
{
	struct kvcc_node *node = kvcc_list_take(&client->spare);
	struct kvcc_request *request;

	if (node)
		return KVCC_ENTRY(node, struct kvcc_request, node);
	KVCC_INVARIANT(client->slot_count < KVCC_SLOTS);
	request = kvcc_alloc_zero(1, sizeof(*request));
	if (!request)
		return NULL;
	kvcc_list_init(&request->node);
	request->slot = (uint16_t)client->slot_count;
	client->slots[client->slot_count++] = request;
	return request;
}

void kvcc_request_renumber(struct kvc_client *client, struct kvcc_request *request)
{
	request->id = ++client->id_serial * KVCC_SLOTS | request->slot;
}

kvc_status kvcc_request_new(struct kvc_client *client, uint16_t verb, bool own, struct kvcc_request **request)
{
	unsigned limit = allowed(client, own);
	struct kvcc_request *r;

	if (client->in_flight >= limit)
		return kvcc_fail(KVC_BUSY,
		                 "%u requests are unanswered, the daemon allows %u: take completions first",
		                 client->in_flight, client->limits.inflight);
	r = take_spare(client);
	if (!r)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a request");
	client->in_flight++;
	kvcc_request_move(r, KVCC_REQUEST_DRAFT);
	kvcc_request_renumber(client, r);
	r->verb = verb;
	r->tries = 0;
	r->images = false;
	r->count = 0;
	r->payload_bytes = 0;
	r->sent = 0;
	r->frame.length = 0;
	*request = r;
	return KVC_OK;
}

void kvcc_request_bind(struct kvcc_request *request, struct kvc_namespace *ns, struct kvcc_region *region)
{
	request->ns = ns;
	if (ns)
		ns->refs++;
	request->region = region;
	if (!region)
		return;
	kvcc_region_ref(region);
	region->holds[KVCC_HOLD_USER]++;
	request->hold = KVCC_HOLD_USER;
}

void kvcc_request_hold(struct kvc_client *client, struct kvcc_request *request, enum kvcc_hold hold)
{
	struct kvcc_region *region = request->region;

	if (!region)
		return;
	region->holds[request->hold]--;
	region->holds[hold]++;
	request->hold = hold;
	if (region->holds[KVCC_HOLD_USER] == 0 && region->waiter)
		kvcc_wake(client, region->waiter);
}

void kvcc_request_free(struct kvc_client *client, struct kvcc_request *request)
{
	KVCC_INVARIANT(!request->call);
	kvcc_request_move(request, KVCC_REQUEST_FREE);
	kvcc_list_remove(&request->node);
	kvcc_request_hold(client, request, KVCC_HOLD_NONE);
	if (request->region) {
		request->region->holds[KVCC_HOLD_NONE]--;
		kvcc_region_unref(client, request->region);
	}
	if (request->ns)
		kvcc_namespace_unref(client, request->ns);
	request->region = NULL;
	request->ns = NULL;
	if (request->frame.capacity > KEPT_FRAME_BYTES) {
		kvcc_free(request->frame.bytes);
		request->frame = (struct kvcc_buffer){NULL, 0, 0};
	}
	client->in_flight--;
	kvcc_list_append(&client->spare, &request->node);
}

struct kvcc_request *kvcc_request_find(struct kvc_client *client, uint64_t id)
{
	unsigned slot = (unsigned)(id % KVCC_SLOTS);
	struct kvcc_request *request = slot < client->slot_count ? client->slots[slot] : NULL;

	return request && request->id == id && request->state != KVCC_REQUEST_FREE ? request : NULL;
}
