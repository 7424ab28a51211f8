/* Taking completions. Drives the connection as a sync call does: whoever waits may be the leader. */
#include "client/internal.h"

/* (L) (U) What can be done without waiting. */
static void drive(struct kvc_client *client)
{
	struct kvcc_conn *conn = client->conn;

	if (conn && conn->state != KVCC_CONN_CLOSED) {
		conn->blocked = false; /* perhaps: the socket says so again if it is */
		kvcc_flush(client);
	}
	conn = client->conn;
	if (conn && conn->state != KVCC_CONN_CLOSED && !conn->reading)
		kvcc_receive(client, NULL, 0);
	kvcc_calls_expire(client, kvcc_now_ns());
}

/* (L) (U) */
static void wait_completion(struct kvc_client *client, uint64_t until_ns)
{
	struct kvcc_waiter waiter;

	while (kvcc_list_empty(&client->completions) && kvcc_now_ns() < until_ns) {
		kvcc_waiter_init(&waiter);
		kvcc_wait(client, &client->takers, &waiter,
		          until_ns < client->earliest_ns ? until_ns : client->earliest_ns);
		kvcc_waiter_destroy(&waiter);
		kvcc_calls_expire(client, kvcc_now_ns());
	}
}

static size_t take(struct kvc_client *client, struct kvc_completion *completions, size_t max)
{
	size_t taken = 0;

	while (taken < max && !kvcc_list_empty(&client->completions)) {
		struct kvcc_call *call = KVCC_ENTRY(client->completions.next, struct kvcc_call, node);

		completions[taken++] = (struct kvc_completion){
		        .tag = call->tag,
		        .status = call->status,
		        .prefix = call->prefix,
		        .outcome = call->outcome,
		};
		if (call->status != KVC_OK)
			(void)kvcc_fail(call->status, "%s", call->detail);
		kvcc_call_give_async(client, call);
	}
	return taken;
}

kvc_status kvc_client_next(struct kvc_client *client, struct kvc_completion *completions, size_t max,
                           uint32_t timeout_ms, size_t *count)
{
	kvc_status status;

	if (!client || !count || (max > 0 && !completions))
		return kvcc_fail(KVC_INVALID, "kvc_client_next: no client, or nowhere to put completions");
	status = kvcc_enter(client);
	if (status != KVC_OK)
		return status;
	drive(client);
	if (timeout_ms > 0 && max > 0)
		wait_completion(client, kvcc_now_ns() + timeout_ms * KVCC_NS_PER_MS);
	*count = take(client, completions, max);
	kvcc_leave(client);
	return KVC_OK;
}
