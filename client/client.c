/* The client object: made, entered, left, destroyed; and the calls about the daemon itself. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/internal.h"
#include "client/pool.h"

const char *kvc_version(void)
{
	return KVCELLAR_VERSION;
}

const char *kvc_default_socket(void)
{
	static _Thread_local char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	const char *folder = getuid() == 0 ? NULL : secure_getenv("XDG_RUNTIME_DIR");
	int length;

	if (!folder || !folder[0])
		return "/run/kvcellar/kvcellar.sock";
	length = snprintf(path, sizeof(path), "%s/kvcellar.sock", folder);
	return length < (int)sizeof(path) ? path : "/run/kvcellar/kvcellar.sock";
}

void kvc_client_options_init(struct kvc_client_options *options)
{
	*options = (struct kvc_client_options){.size = sizeof(*options), .deadline_ms = 1000};
}

static kvc_status set_path(struct kvc_client *client, const char *path)
{
	if (!path)
		path = secure_getenv("KVCELLAR_SOCKET");
	if (!path || !path[0])
		path = kvc_default_socket();
	if (strlen(path) >= sizeof(client->address.sun_path))
		return kvcc_fail(KVC_INVALID,
		                 "socket path '%.120s' is %zu bytes long, a Unix socket's has at most %zu",
		                 path, strlen(path), sizeof(client->address.sun_path) - 1);
	client->address.sun_family = AF_UNIX;
	memcpy(client->address.sun_path, path, strlen(path) + 1);
	return KVC_OK;
}

static void init_state(struct kvc_client *client, const struct kvc_client_options *options)
{
	const char *name = options->name ? options->name : program_invocation_short_name;

	client->pid = getpid();
	client->deadline_ms = options->deadline_ms ? options->deadline_ms : 1000;
	kvcc_text_copy(client->name, sizeof(client->name), name, strlen(name));
	client->limits = (struct kvcc_limits){.batch = KVCC_BATCH_DEFAULT, .inflight = KVCC_INFLIGHT_DEFAULT};
	client->earliest_ns = KVCC_NEVER;
	client->epoll_fd = -1;
	client->timer_fd = -1;
	client->event_fd = -1;
	client->next_id = 1;
	kvcc_list_init(&client->endings);
	kvcc_list_init(&client->spare);
	kvcc_list_init(&client->namespaces);
	kvcc_list_init(&client->memories);
	kvcc_list_init(&client->pools);
	kvcc_list_init(&client->regions);
	kvcc_list_init(&client->waiters);
	kvcc_list_init(&client->takers);
	kvcc_list_init(&client->completions);
	kvcc_list_init(&client->call_pool);
	kvcc_arena_init(&client->arena);
	/* Cannot fail with default attributes on Linux. */
	(void)pthread_mutex_init(&client->lock, NULL);
	(void)pthread_cond_init(&client->sent, NULL);
}

kvc_status kvc_client_create(const struct kvc_client_options *options, struct kvc_client **client)
{
	struct kvc_client_options defaults;
	struct kvc_client *c;
	kvc_status status;

	kvc_client_options_init(&defaults);
	if (!options)
		options = &defaults;
	if (!client || options->size < sizeof(*options))
		return kvcc_fail(KVC_INVALID,
		                 "kvc_client_create: options not made by kvc_client_options_init");
	c = kvcc_alloc_zero(1, sizeof(*c));
	if (!c)
		return kvcc_fail(KVC_NO_MEMORY, "no memory for a client");
	status = set_path(c, options->socket_path);
	if (status != KVC_OK)
		goto free_client;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0) {
		status = kvcc_fail(KVC_NO_MEMORY, "cannot make an eventfd: %s", strerror(errno));
		goto free_client;
	}
	init_state(c, options);
	*client = c;
	return KVC_OK;

free_client:
	kvcc_free(c);
	return status;
}

kvc_status kvcc_enter(struct kvc_client *client)
{
	if (client->pid != getpid())
		return kvcc_fail(KVC_INVALID,
		                 "this client was made by process %d: after fork() make a new one",
		                 (int)client->pid);
	(void)pthread_mutex_lock(&client->lock);
	return KVC_OK;
}

void kvcc_leave(struct kvc_client *client)
{
	if (client->chores)
		kvcc_chores(client);
	kvcc_flush(client);
	kvcc_events_update(client);
	kvcc_hand_on(client);
	(void)pthread_mutex_unlock(&client->lock);
}

/* ---- destroy ------------------------------------------------------------------------------- */

/* Blocks of what is pending say so; nobody takes completions any more. Sync calls can only be there in a
 * forked child, on stacks of threads that do not exist in it. */
static void cancel_pending(struct kvc_client *client)
{
	for (unsigned i = 0; i < client->slot_count; i++) {
		struct kvcc_call *call = client->slots[i]->call;

		if (call && !call->waiter) {
			for (size_t b = 0; call->to.blocks && b < call->to.count; b++)
				call->to.blocks[b].status = KVC_CANCELLED;
			kvcc_free(call);
		}
		kvcc_free(client->slots[i]->frame.bytes);
		kvcc_free(client->slots[i]);
	}
}

static void free_calls(struct kvcc_node *list)
{
	struct kvcc_node *node;

	while ((node = kvcc_list_take(list)))
		kvcc_free(KVCC_ENTRY(node, struct kvcc_call, node));
}

static void free_objects(struct kvc_client *client)
{
	struct kvcc_node *node;

	while ((node = kvcc_list_take(&client->namespaces)))
		kvcc_namespace_free(KVCC_ENTRY(node, struct kvc_namespace, node));
	while ((node = kvcc_list_take(&client->memories)))
		kvcc_memory_free(KVCC_ENTRY(node, struct kvc_memory, node));
	while ((node = kvcc_list_take(&client->regions))) /* before the pools, which count theirs */
		kvcc_region_free(KVCC_ENTRY(node, struct kvcc_region, node));
	while ((node = kvcc_list_take(&client->pools)))
		kvcc_pool_free(KVCC_ENTRY(node, struct kvc_pool, node), client->pid != getpid());
	while ((node = kvcc_list_take(&client->endings)))
		kvcc_conn_free(KVCC_ENTRY(node, struct kvcc_conn, node));
}

static void close_all(const struct kvc_client *client)
{
	const int fds[] = {client->wake_fd, client->epoll_fd, client->timer_fd, client->event_fd};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0)
			(void)close(fds[i]);
	}
}

/* When the last request expires that the daemon may be carrying out on memory that outlives the client; 0:
 * there is none. A call whose deadline has passed is not waited for: no put read after it stays. */
static uint64_t imported_until(const struct kvc_client *client)
{
	uint64_t until_ns = 0;

	for (unsigned i = 0; i < client->slot_count; i++) {
		const struct kvcc_request *request = client->slots[i];

		if (request->call && kvcc_request_on_wire(request) && request->region &&
		    request->region->imported && request->call->expire_ns > until_ns)
			until_ns = request->call->expire_ns;
	}
	return until_ns;
}

/* The daemon closes its end when it touches nothing of this client any more. Shut down, because a forked
 * child may have the socket too: closed here only, it would stay open. */
static void end_conn(const struct kvc_client *client)
{
	uint64_t until_ns = imported_until(client);

	if (until_ns > 0)
		kvcc_conn_await_end(client->conn, until_ns);
	(void)shutdown(client->conn->fd, SHUT_RDWR);
}

/* Also in a forked child, so: no lock, and there the connection is left alone. */
void kvc_client_destroy(struct kvc_client *client)
{
	if (!client)
		return;
	if (client->conn && client->pid == getpid())
		end_conn(client);
	cancel_pending(client);
	free_calls(&client->completions);
	free_calls(&client->call_pool);
	free_objects(client);
	if (client->conn)
		kvcc_conn_free(client->conn);
	close_all(client);
	kvcc_arena_reset(&client->arena);
	(void)pthread_cond_destroy(&client->sent);
	(void)pthread_mutex_destroy(&client->lock);
	kvcc_free(client);
}

/* ---- the daemon ---------------------------------------------------------------------------- */

kvc_status kvc_ping(struct kvc_client *client, uint32_t deadline_ms)
{
	struct kvcc_call call = {.status = KVC_OK};

	if (!client)
		return kvcc_fail(KVC_INVALID, "kvc_ping: no client");
	return kvcc_run_empty(client, KVC_VERB_PING, deadline_ms, &call);
}

/* Connects if there is no connection; *info if not NULL. */
static kvc_status get_info(struct kvc_client *client, uint32_t deadline_ms, struct kvc_daemon_info *info,
                           struct kvcc_limits *limits)
{
	kvc_status status = kvcc_enter(client);
	bool ready;

	if (status != KVC_OK)
		return status;
	ready = client->conn && client->conn->state == KVCC_CONN_READY;
	kvcc_leave(client);
	if (!ready)
		status = kvc_ping(client, deadline_ms);
	if (status != KVC_OK)
		return status;
	status = kvcc_enter(client);
	if (status != KVC_OK)
		return status;
	*info = client->info;
	*limits = client->limits;
	kvcc_leave(client);
	return KVC_OK;
}

kvc_status kvc_client_info(struct kvc_client *client, struct kvc_daemon_info *info, uint32_t deadline_ms)
{
	struct kvcc_limits limits;
	struct kvc_daemon_info copy;
	kvc_status status;

	if (!client || !info || info->size < sizeof(*info))
		return kvcc_fail(KVC_INVALID, "kvc_client_info: no client, or info->size is not set");
	status = get_info(client, deadline_ms, &copy, &limits);
	if (status != KVC_OK)
		return status;
	copy.size = sizeof(copy);
	*info = copy;
	return KVC_OK;
}

kvc_status kvcc_limits_get(struct kvc_client *client, bool connect, uint32_t deadline_ms,
                           struct kvcc_limits *limits)
{
	struct kvc_daemon_info info;
	kvc_status status;

	if (connect)
		return get_info(client, deadline_ms, &info, limits);
	status = kvcc_enter(client);
	if (status != KVC_OK)
		return status;
	*limits = client->limits;
	kvcc_leave(client);
	return KVC_OK;
}

kvc_status kvc_stats(struct kvc_client *client, uint32_t deadline_ms, struct kvc_stat **stats, size_t *count)
{
	struct kvcc_call call = {.status = KVC_OK};
	kvc_status status;

	if (!client || !stats || !count)
		return kvcc_fail(KVC_INVALID, "kvc_stats: no client, or nowhere to put the answer");
	status = kvcc_run_empty(client, KVC_VERB_STATS, deadline_ms, &call);
	if (status != KVC_OK)
		return status;
	*stats = call.stats.stats;
	*count = call.stats.count;
	return KVC_OK;
}

void kvc_stats_free(struct kvc_stat *stats)
{
	kvcc_free(stats);
}
