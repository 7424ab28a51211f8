/* The connection: made by the first request that needs it, with everything that depends on it queued in one
 * go, and ended in one place.
 *
 *   HELLO --hello answered--> READY
 *     `------> CLOSED <---------'
 *
 * A connection that was READY may have died unnoticed while nobody used it. So requests of which no byte was
 * sent move to a new connection instead of failing; if the lost one never got READY they fail, else a
 * daemon that closes at once would keep the client connecting for ever.
 *
 * A connection that this side gives up says nothing of the daemon, which may be at work on device memory that
 * the client's owner will use again. So if such memory was attached, the socket is kept half-open, and is an
 * ending until the daemon has closed it too: it does that last (daemon/rpc/session.h). */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"

#define ENDINGS_MAX 4u /* each costs a descriptor and a buffer */

static void conn_move(struct kvcc_conn *conn, enum kvcc_conn_state to)
{
	static const unsigned legal[] = {
	        [KVCC_CONN_HELLO] = 1u << KVCC_CONN_READY | 1u << KVCC_CONN_CLOSED,
	        [KVCC_CONN_READY] = 1u << KVCC_CONN_CLOSED,
	        [KVCC_CONN_CLOSED] = 0,
	};

	KVCC_INVARIANT(legal[conn->state] & 1u << to);
	conn->state = to;
}

/* ---- making one ---------------------------------------------------------------------------- */

static kvc_status connect_failure(const struct kvc_client *client, int error)
{
	const char *path = client->address.sun_path;

	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
		return kvcc_fail(KVC_UNAVAILABLE,
		                 "no daemon at %s (%s): start kvcellard, or name its socket with --socket or "
		                 "KVCELLAR_SOCKET",
		                 path, strerror(error));
	case EACCES:
	case EPERM:
		return kvcc_fail(KVC_ACCESS,
		                 "not allowed to connect to %s (%s): the socket and its folder must be "
		                 "accessible to this user or one of its groups",
		                 path, strerror(error));
	case EAGAIN:
		return kvcc_fail(KVC_UNAVAILABLE,
		                 "the daemon at %s does not accept connections: it hangs or is "
		                 "flooded",
		                 path);
	case ENOMEM:
	case ENOBUFS:
	case EMFILE:
	case ENFILE:
		return kvcc_fail(KVC_NO_MEMORY, "cannot connect to %s: %s", path, strerror(error));
	default:
		return kvcc_fail(KVC_UNAVAILABLE, "cannot connect to %s: %s", path, strerror(error));
	}
}

/* Never blocks: a Unix socket is connected or refused at once. */
static kvc_status conn_socket(const struct kvc_client *client, int *fd)
{
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	kvc_status status;

	if (s < 0)
		return connect_failure(client, errno);
	if (connect(s, (const struct sockaddr *)&client->address, sizeof(client->address)) != 0) {
		status = connect_failure(client, errno);
		(void)close(s);
		return status;
	}
	*fd = s;
	return KVC_OK;
}

static struct kvcc_conn *conn_new(const struct kvc_client *client)
{
	struct kvcc_conn *conn = kvcc_alloc_zero(1, sizeof(*conn));
	uint8_t *buffer = conn ? kvcc_alloc(1, KVCC_STREAM_BYTES) : NULL;

	if (!buffer) {
		kvcc_free(conn);
		return NULL;
	}
	conn->state = KVCC_CONN_HELLO;
	conn->fd = -1;
	conn->serial = client->connects + 1;
	kvcc_list_init(&conn->output);
	kvcc_list_init(&conn->node);
	kvcc_stream_init(&conn->stream, buffer, 0);
	return conn;
}

void kvcc_conn_free(struct kvcc_conn *conn)
{
	if (conn->fd >= 0)
		(void)close(conn->fd);
	kvcc_free(conn->stream.buffer);
	kvcc_free(conn);
}

void kvcc_conn_release(struct kvcc_conn *conn)
{
	if (conn->users == 0 && conn->state == KVCC_CONN_CLOSED && !conn->awaited)
		kvcc_conn_free(conn);
}

static kvc_status draft_hello(struct kvc_client *client, struct kvcc_request **request)
{
	kvc_status status = kvcc_request_new(client, KVC_VERB_HELLO, true, request);

	if (status != KVC_OK)
		return status;
	status = kvcc_wire_hello(client->name, &(*request)->frame);
	if (status == KVC_OK)
		return KVC_OK;
	kvcc_request_free(client, *request);
	return kvcc_fail(status, "no memory for a connection");
}

/* A daemon that never lets go must not be given more and more. */
static kvc_status check_endings(const struct kvc_client *client)
{
	unsigned count = 0;

	for (struct kvcc_node *node = client->endings.next; node != &client->endings; node = node->next)
		count++;
	if (count < ENDINGS_MAX)
		return KVC_OK;
	return kvcc_fail(KVC_UNAVAILABLE,
	                 "the daemon at %s has not ended %u connections that failed and may still have "
	                 "device memory of theirs: it hangs",
	                 client->address.sun_path, count);
}

static kvc_status conn_ensure(struct kvc_client *client)
{
	struct kvcc_request *hello;
	struct kvcc_conn *conn;
	kvc_status status;

	if (client->conn)
		return KVC_OK;
	status = check_endings(client);
	if (status != KVC_OK)
		return status;
	conn = conn_new(client);
	if (!conn)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a connection");
	status = conn_socket(client, &conn->fd);
	if (status != KVC_OK)
		goto free_conn;
	status = draft_hello(client, &hello);
	if (status != KVC_OK)
		goto free_conn;
	client->connects++;
	client->conn = conn;
	kvcc_conn_queue(client, hello);
	return KVC_OK;

free_conn:
	kvcc_conn_free(conn);
	return status;
}

void kvcc_conn_ready(struct kvc_client *client, const struct kvcc_hello_reply *hello)
{
	struct kvc_daemon_info *info = &client->info;

	conn_move(client->conn, KVCC_CONN_READY);
	client->conn->stream.payload_max = hello->limits.inline_bytes;
	client->limits = hello->limits;
	memcpy(info->boot_id, hello->boot_id, sizeof(info->boot_id));
	memcpy(info->version, hello->version, sizeof(info->version));
	info->protocol = hello->protocol;
	info->planes = hello->planes;
	info->batch = hello->limits.batch;
	info->inflight = hello->limits.inflight;
	info->inline_bytes = hello->limits.inline_bytes;
	info->region_bytes = hello->limits.region_bytes;
	info->connects = client->connects;
}

/* ---- queueing ------------------------------------------------------------------------------ */

void kvcc_conn_queue(struct kvc_client *client, struct kvcc_request *request)
{
	struct kvcc_conn *conn = client->conn;
	struct kvc_frame frame = {
	        .verb = request->verb,
	        .flags = kvcc_request_passes(request) ? KVC_FRAME_FD : 0,
	        .body_bytes =
	                (uint32_t)(request->frame.length - KVC_FRAME_HEADER_BYTES - request->payload_bytes),
	        .request_id = request->id,
	        .payload_bytes = request->payload_bytes,
	};

	kvcc_request_move(request, KVCC_REQUEST_QUEUED);
	kvc_frame_encode(&frame, request->frame.bytes);
	request->sent = 0;
	kvcc_list_append(&conn->output, &request->node);
	conn->output_bytes += request->frame.length;
}

/* Attach memory, or open a pool whose parts are attached. */
static kvc_status queue_region(struct kvc_client *client, struct kvcc_region *region)
{
	bool pool = region->kind == KVCC_REGION_POOL;
	struct kvcc_request *request;
	kvc_status status = kvcc_request_new(client, pool ? KVC_VERB_POOL : KVC_VERB_ATTACH, true, &request);

	if (status != KVC_OK)
		return status;
	status = region->kind == KVCC_REGION_MEMORY
	                 ? kvcc_wire_attach(region->id, region->bytes, &request->frame)
	                 : kvcc_buffer_copy(&request->frame, &region->frame);
	if (status != KVC_OK) {
		kvcc_request_free(client, request);
		return kvcc_fail(status, "no memory to attach memory");
	}
	kvcc_request_bind(request, NULL, region);
	kvcc_request_hold(client, request, KVCC_HOLD_NONE);
	kvcc_conn_queue(client, request);
	region->serial = client->conn->serial;
	return KVC_OK;
}

static kvc_status queue_open(struct kvc_client *client, struct kvc_namespace *ns)
{
	struct kvcc_request *request;
	kvc_status status = kvcc_request_new(client, KVC_VERB_OPEN, true, &request);

	if (status != KVC_OK)
		return status;
	status = kvcc_buffer_copy(&request->frame, &ns->open_frame);
	if (status != KVC_OK) {
		kvcc_request_free(client, request);
		return kvcc_fail(status, "no memory to open a namespace");
	}
	kvcc_request_bind(request, ns, NULL);
	kvcc_conn_queue(client, request);
	ns->serial = client->conn->serial;
	return KVC_OK;
}

static kvc_status prepare_namespace(struct kvc_client *client, struct kvc_namespace *ns)
{
	return ns->serial == client->conn->serial ? KVC_OK : queue_open(client, ns);
}

/* What a region depends on: of a pool, its parts and its namespace. */
static kvc_status prepare_parts(struct kvc_client *client, struct kvcc_region *region)
{
	kvc_status status = region->ns ? prepare_namespace(client, region->ns) : KVC_OK;

	for (size_t i = 0; status == KVC_OK && i < region->part_count; i++) {
		if (region->parts[i]->serial != client->conn->serial)
			status = queue_region(client, region->parts[i]);
	}
	return status;
}

static kvc_status prepare_region(struct kvc_client *client, struct kvcc_region *region, bool itself)
{
	kvc_status status;

	if (region->serial == client->conn->serial)
		return KVC_OK;
	status = prepare_parts(client, region);
	return status == KVC_OK && itself ? queue_region(client, region) : status;
}

/* Bring the daemon to where it can carry out the request: connected, memory attached, namespace open. */
static kvc_status prepare(struct kvc_client *client, struct kvcc_request *request)
{
	kvc_status status = conn_ensure(client);

	if (status == KVC_OK && request->region)
		status = prepare_region(client, request->region, request->verb != KVC_VERB_POOL);
	if (status == KVC_OK && request->ns && request->verb != KVC_VERB_OPEN)
		status = prepare_namespace(client, request->ns);
	return status;
}

static bool fenced(const struct kvcc_region *region)
{
	return region->holds[KVCC_HOLD_FENCE] > 0 || region->lost || region->lost_serial;
}

void kvcc_conn_refresh(struct kvc_client *client, const struct kvcc_request *request)
{
	const struct kvcc_conn *conn = client->conn;

	if (!request->region || !fenced(request->region))
		return;
	if (!kvcc_list_empty(&client->endings))
		kvcc_chores(client);
	if (conn && conn->state != KVCC_CONN_CLOSED && !conn->reading)
		kvcc_receive(client, NULL, 0);
}

kvc_status kvcc_conn_post(struct kvc_client *client, struct kvcc_request *request)
{
	const struct kvcc_conn *conn = client->conn;
	kvc_status status;

	if (request->region && fenced(request->region))
		return kvcc_fail(KVC_FENCED,
		                 "an earlier request on this memory was never answered and the daemon may "
		                 "still use it%s",
		                 request->region->kind == KVCC_REGION_POOL
		                         ? ""
		                         : ": kvc_memory_renew gives it new pages");
	if (conn && conn->output_bytes > 0 &&
	    conn->output_bytes + request->frame.length > KVCC_OUTPUT_BYTES_MAX)
		return kvcc_fail(KVC_BUSY, "%zu bytes wait for the daemon to read its socket",
		                 conn->output_bytes);
	status = prepare(client, request);
	if (status != KVC_OK)
		return status;
	kvcc_conn_queue(client, request);
	if (request->verb == KVC_VERB_OPEN)
		request->ns->serial = client->conn->serial;
	if (request->verb == KVC_VERB_POOL)
		request->region->serial = client->conn->serial;
	return KVC_OK;
}

/* ---- the end ------------------------------------------------------------------------------- */

/* Out of the table of requests: those that another connection may carry, in order, into *again; all others
 * are freed and their calls end. */
static void sort_out(struct kvc_client *client, bool was_ready, kvc_status status, const char *text,
                     struct kvcc_node *again)
{
	struct kvcc_node *output = &client->conn->output;
	struct kvcc_node *node;

	while ((node = kvcc_list_take(output))) {
		struct kvcc_request *request = KVCC_ENTRY(node, struct kvcc_request, node);

		if (request->state != KVCC_REQUEST_QUEUED || !request->call || !was_ready)
			continue;
		kvcc_request_move(request, KVCC_REQUEST_DRAFT);
		kvcc_list_append(again, &request->node);
	}
	for (unsigned i = 0; i < client->slot_count; i++) {
		struct kvcc_request *request = client->slots[i];
		struct kvcc_call *call = request->call;

		if (request->state == KVCC_REQUEST_FREE || request->state == KVCC_REQUEST_DRAFT)
			continue;
		request->call = NULL;
		kvcc_request_free(client, request);
		if (!call)
			continue;
		call->request = NULL;
		kvcc_call_end(client, call, status, text);
	}
}

static void post_again(struct kvc_client *client, struct kvcc_node *again)
{
	struct kvcc_node *node;

	while ((node = kvcc_list_take(again))) {
		struct kvcc_request *request = KVCC_ENTRY(node, struct kvcc_request, node);
		struct kvcc_call *call = request->call;
		kvc_status status = kvcc_conn_post(client, request);

		if (status == KVC_OK)
			continue;
		kvcc_call_end(client, call, status, kvc_last_error());
		kvcc_request_free(client, request);
	}
}

/* Wakes the leader, and lets nobody use the socket any more. One that is shut down for receiving would look
 * as if the daemon had closed it, so an ending is shut down for sending only: then the leader must be told.
 */
static void stop_using(struct kvc_client *client, struct kvcc_conn *conn)
{
	(void)shutdown(conn->fd, conn->awaited ? SHUT_WR : SHUT_RDWR);
	if (conn->awaited)
		kvcc_kick(client);
	conn->users++;
	while (conn->sending ||                     /* the frames that are freed next */
	       (conn->awaited && client->poller)) { /* nobody else can have got the kick, until he goes on */
		(void)pthread_cond_wait(&client->sent, &client->lock);
	}
	conn->users--;
}

/* Whether the daemon may have device memory that was attached on this connection. */
static bool has_device(const struct kvc_client *client, const struct kvcc_conn *conn)
{
	for (struct kvcc_node *node = client->regions.next; node != &client->regions; node = node->next) {
		const struct kvcc_region *region = KVCC_ENTRY(node, struct kvcc_region, node);

		if (region->kind != KVCC_REGION_MEMORY && region->serial == conn->serial)
			return true;
	}
	return false;
}

void kvcc_conn_lost(struct kvc_client *client, kvc_status status, const char *text)
{
	struct kvcc_conn *conn = client->conn;
	bool was_ready = conn->state == KVCC_CONN_READY;
	struct kvcc_node again;

	if (conn->state == KVCC_CONN_CLOSED)
		return; /* another thread is at it, below */
	conn_move(conn, KVCC_CONN_CLOSED);
	stop_using(client, conn);
	kvcc_list_init(&again);
	sort_out(client, was_ready, status, text, &again);
	kvcc_events_remove(client, conn);
	client->conn = NULL;
	if (conn->awaited) {
		kvcc_list_append(&client->endings, &conn->node);
		client->chores = true;
	}
	kvcc_conn_release(conn);
	post_again(client, &again);
}

static void lose(struct kvcc_conn *conn, struct kvcc_region *region)
{
	if (region->kind == KVCC_REGION_MEMORY) {
		region->lost = true;
		return;
	}
	region->lost_serial = conn->serial;
	conn->awaited = true;
}

void kvcc_conn_abandon(struct kvc_client *client, kvc_status status, const char *text)
{
	struct kvcc_conn *conn = client->conn;

	if (conn->state == KVCC_CONN_CLOSED)
		return; /* another thread is at it, in kvcc_conn_lost */
	conn->awaited = has_device(client, conn);
	for (unsigned i = 0; i < client->slot_count; i++) {
		const struct kvcc_request *request = client->slots[i];

		if (request->region && request->hold != KVCC_HOLD_NONE && kvcc_request_on_wire(request))
			lose(conn, request->region);
	}
	kvcc_conn_lost(client, status, text);
}

void kvcc_conn_broken(struct kvc_client *client, const char *why)
{
	char text[KVCC_DETAIL_BYTES];

	(void)snprintf(text, sizeof(text), "connection closed: daemon sent %s", why);
	kvcc_conn_abandon(client, KVC_DISCONNECTED, text);
}

/* ---- chores -------------------------------------------------------------------------------- */

/* Tell the daemon to forget an id. False: not now. */
static bool queue_close(struct kvc_client *client, uint16_t verb, uint32_t id)
{
	struct kvcc_request *request;

	if (kvcc_request_new(client, verb, true, &request) != KVC_OK)
		return false;
	if (kvcc_wire_close(id, &request->frame) != KVC_OK) {
		kvcc_request_free(client, request);
		return false;
	}
	kvcc_conn_queue(client, request);
	return true;
}

static bool chore_done(struct kvc_client *client, uint64_t serial, uint16_t verb, uint32_t id)
{
	bool known =
	        client->conn && client->conn->state != KVCC_CONN_CLOSED && client->conn->serial == serial;

	return !known || queue_close(client, verb, id);
}

/* The daemon's answer to the detach keeps the region: it is retired again, and freed, when it has come. */
static bool queue_detach(struct kvc_client *client, struct kvcc_region *region)
{
	struct kvcc_request *request;

	if (kvcc_request_new(client, KVC_VERB_DETACH, true, &request) != KVC_OK)
		return false;
	if (kvcc_wire_close(region->id, &request->frame) != KVC_OK) {
		kvcc_request_free(client, request);
		return false;
	}
	region->retired = false;
	region->detached = true;
	kvcc_request_bind(request, NULL, region);
	kvcc_request_hold(client, request, KVCC_HOLD_NONE);
	kvcc_conn_queue(client, request);
	return true;
}

/* What a pool depends on may go after it. */
static void dismiss_parts(struct kvc_client *client, struct kvcc_region *region)
{
	while (region->part_count > 0)
		kvcc_region_unref(client, region->parts[--region->part_count]);
	if (region->ns)
		kvcc_namespace_unref(client, region->ns);
	region->ns = NULL;
}

/* False: not now. */
static bool retire_region(struct kvc_client *client, struct kvcc_region *region)
{
	bool device = region->kind != KVCC_REGION_MEMORY;
	bool known = client->conn && client->conn->state != KVCC_CONN_CLOSED &&
	             client->conn->serial == region->serial;

	if (device && known && !region->detached) {
		if (!queue_detach(client, region))
			return false;
		dismiss_parts(client, region);
		return true;
	}
	if (!device && !chore_done(client, region->serial, KVC_VERB_DETACH, region->id))
		return false;
	dismiss_parts(client, region);
	kvcc_region_free(region);
	return true;
}

static bool retire_regions(struct kvc_client *client, bool pools)
{
	struct kvcc_node *node = client->regions.next;
	bool all = true;

	while (node != &client->regions) {
		struct kvcc_region *region = KVCC_ENTRY(node, struct kvcc_region, node);

		node = node->next;
		if (region->retired && (region->kind == KVCC_REGION_POOL) == pools)
			all = retire_region(client, region) && all;
	}
	return all;
}

static bool retire_namespaces(struct kvc_client *client)
{
	struct kvcc_node *node = client->namespaces.next;
	bool all = true;

	while (node != &client->namespaces) {
		struct kvc_namespace *ns = KVCC_ENTRY(node, struct kvc_namespace, node);

		node = node->next;
		if (!ns->retired)
			continue;
		if (chore_done(client, ns->serial, KVC_VERB_CLOSE, ns->id))
			kvcc_namespace_free(ns);
		else
			all = false;
	}
	return all;
}

/* Whether the daemon has closed it. What it still sends is of no use to anybody, but would keep it. */
static bool ended(struct kvcc_conn *conn)
{
	ssize_t got = recv(conn->fd, conn->stream.buffer, KVCC_STREAM_BYTES, MSG_DONTWAIT);

	return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

static void lift_fences(struct kvc_client *client, uint64_t serial)
{
	for (struct kvcc_node *node = client->regions.next; node != &client->regions; node = node->next) {
		struct kvcc_region *region = KVCC_ENTRY(node, struct kvcc_region, node);

		if (region->lost_serial == serial)
			region->lost_serial = 0;
	}
}

static bool retire_endings(struct kvc_client *client)
{
	struct kvcc_node *node = client->endings.next;

	while (node != &client->endings) {
		struct kvcc_conn *conn = KVCC_ENTRY(node, struct kvcc_conn, node);

		node = node->next;
		if (conn->users > 0 || !ended(conn))
			continue;
		kvcc_list_remove(&conn->node);
		lift_fences(client, conn->serial);
		kvcc_conn_free(conn);
	}
	return kvcc_list_empty(&client->endings);
}

/* Pools before their parts and their namespaces. */
void kvcc_chores(struct kvc_client *client)
{
	bool pools = retire_regions(client, true);
	bool regions = retire_regions(client, false);
	bool namespaces = retire_namespaces(client);
	bool endings = retire_endings(client);

	client->chores = !pools || !regions || !namespaces || !endings;
}
