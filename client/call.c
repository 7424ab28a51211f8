/* Calls: what a caller waits for, and the one place where that ends. */
#include <stdio.h>

#include "client/internal.h"

static void call_move(struct kvcc_call *call, enum kvcc_call_state to)
{
	KVCC_INVARIANT(to == (call->state + 1) % (KVCC_CALL_DONE + 1));
	call->state = to;
}

void kvcc_call_begin(struct kvc_client *client, struct kvcc_call *call, struct kvcc_request *request)
{
	call_move(call, KVCC_CALL_PENDING);
	call->request = request;
	request->call = call;
	if (call->waiter || call->expire_ns >= client->earliest_ns)
		return;
	client->earliest_ns = call->expire_ns;
	kvcc_wake_takers(client); /* they sleep until a later time */
}

/* The request lives on without its caller only if the daemon may have seen it. */
static void part(struct kvc_client *client, struct kvcc_call *call)
{
	struct kvcc_request *request = call->request;

	if (!request)
		return;
	kvcc_request_hold(client, request, kvcc_request_on_wire(request) ? KVCC_HOLD_FENCE : KVCC_HOLD_NONE);
	request->call = NULL;
	call->request = NULL;
}

void kvcc_call_end(struct kvc_client *client, struct kvcc_call *call, kvc_status status, const char *text)
{
	part(client, call);
	call_move(call, KVCC_CALL_DONE);
	call->status = status;
	(void)snprintf(call->detail, sizeof(call->detail), "%s", status == KVC_OK ? "" : text);
	for (size_t i = 0; status != KVC_OK && call->to.blocks && i < call->to.count; i++)
		call->to.blocks[i].status = status;
	if (call->waiter) {
		kvcc_wake(client, call->waiter);
		return;
	}
	kvcc_list_append(&client->completions, &call->node);
	kvcc_wake_takers(client);
}

void kvcc_call_expire(struct kvc_client *client, struct kvcc_call *call)
{
	struct kvcc_request *request = call->request;
	char text[KVCC_DETAIL_BYTES];

	(void)snprintf(text, sizeof(text),
	               "no answer to %s within %u ms from the daemon at %s: it is overloaded or hangs",
	               kvc_verb_name(request->verb), call->deadline_ms, client->address.sun_path);
	kvcc_call_end(client, call, KVC_DEADLINE, text);
	if (request->state != KVCC_REQUEST_QUEUED)
		return;
	client->conn->output_bytes -= request->frame.length;
	kvcc_request_free(client, request);
}

void kvcc_calls_expire(struct kvc_client *client, uint64_t now_ns)
{
	uint64_t earliest = KVCC_NEVER;

	if (now_ns < client->earliest_ns)
		return;
	for (unsigned i = 0; i < client->slot_count; i++) {
		struct kvcc_call *call = client->slots[i]->call;

		if (!call || call->waiter)
			continue;
		if (call->expire_ns <= now_ns)
			kvcc_call_expire(client, call);
		else if (call->expire_ns < earliest)
			earliest = call->expire_ns;
	}
	client->earliest_ns = earliest;
}

kvc_status kvcc_call_take_async(struct kvc_client *client, struct kvcc_call **call)
{
	struct kvcc_node *node;
	struct kvcc_call *taken;

	if (client->async_calls >= KVCC_UNTAKEN_MAX)
		return kvcc_fail(KVC_BUSY, "%u completions wait to be taken: call kvc_client_next",
		                 client->async_calls);
	node = kvcc_list_take(&client->call_pool);
	taken = node ? KVCC_ENTRY(node, struct kvcc_call, node) : kvcc_alloc_zero(1, sizeof(*taken));
	if (!taken)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a request");
	*taken = (struct kvcc_call){.state = KVCC_CALL_IDLE};
	kvcc_list_init(&taken->node);
	client->async_calls++;
	*call = taken;
	return KVC_OK;
}

void kvcc_call_give_async(struct kvc_client *client, struct kvcc_call *call)
{
	if (call->state == KVCC_CALL_DONE)
		call_move(call, KVCC_CALL_IDLE);
	client->async_calls--;
	kvcc_list_remove(&call->node);
	kvcc_list_append(&client->call_pool, &call->node);
}
