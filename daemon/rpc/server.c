/* The server: life, counters, the sweep over sessions whose clock runs, and the stop. */
#include "daemon/rpc/server.h"

#include <string.h>
#include <sys/resource.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/session.h"

enum { LOG_LINES_A_SECOND = 10, SWEEP_MAX_MS = 250, SWEEP_LATE_MS = 2000 };

/* ---- counters ------------------------------------------------------------------------------ */

static const char *const drop_names[KVC_DROP_COUNT] = {
#define KVC_DROP_NAME(name, counter) [KVC_DROP_##name] = (counter),
        KVC_DROP_TABLE(KVC_DROP_NAME)
#undef KVC_DROP_NAME
};

static const char *const refused_names[KVC_STATUS_COUNT] = {
#define KVC_REFUSED_NAME(name, number, text, retry) [number] = "rpc.refused." #name,
        KVC_STATUS_TABLE(KVC_REFUSED_NAME)
#undef KVC_REFUSED_NAME
};

static const char *const request_names[KVC_VERB_COUNT] = {
        [KVC_VERB_HELLO] = "rpc.requests.hello",   [KVC_VERB_PING] = "rpc.requests.ping",
        [KVC_VERB_OPEN] = "rpc.requests.open",     [KVC_VERB_CLOSE] = "rpc.requests.close",
        [KVC_VERB_ATTACH] = "rpc.requests.attach", [KVC_VERB_DETACH] = "rpc.requests.detach",
        [KVC_VERB_PUT] = "rpc.requests.put",       [KVC_VERB_GET] = "rpc.requests.get",
        [KVC_VERB_LOOKUP] = "rpc.requests.lookup", [KVC_VERB_PREFETCH] = "rpc.requests.prefetch",
        [KVC_VERB_PIN] = "rpc.requests.pin",       [KVC_VERB_UNPIN] = "rpc.requests.unpin",
        [KVC_VERB_DROP] = "rpc.requests.drop",     [KVC_VERB_STATS] = "rpc.requests.stats",
        [KVC_VERB_POOL] = "rpc.requests.pool",     [KVC_VERB_DROP_TENANT] = "rpc.requests.drop_tenant",
};

static void cells_open(struct kvc_rpc_cells *cells, struct kvc_stats *stats)
{
	cells->connections = kvc_stats_cell(stats, "rpc.connections");
	cells->accepted = kvc_stats_cell(stats, "rpc.accepted");
	cells->hangups = kvc_stats_cell(stats, "rpc.hangups");
	cells->inflight = kvc_stats_cell(stats, "rpc.inflight");
	cells->inflight_blocks = kvc_stats_cell(stats, "rpc.inflight_blocks");
	cells->bytes_in = kvc_stats_cell(stats, "rpc.received_bytes");
	cells->bytes_out = kvc_stats_cell(stats, "rpc.sent_bytes");
	cells->inline_bytes = kvc_stats_cell(stats, "rpc.inline_bytes");
	cells->region_bytes = kvc_stats_cell(stats, "rpc.region_bytes");
	cells->device_bytes = kvc_stats_cell(stats, "rpc.device_bytes");
	cells->deadlines = kvc_stats_cell(stats, "rpc.deadlines");
	for (unsigned i = 0; i < KVC_DROP_COUNT; i++)
		cells->dropped[i] = kvc_stats_cell(stats, drop_names[i]);
	for (unsigned i = KVC_OK + 1; i < KVC_STATUS_COUNT; i++)
		cells->refused[i] = kvc_stats_cell(stats, refused_names[i]);
	for (unsigned i = KVC_VERB_UNSET + 1; i < KVC_VERB_COUNT; i++)
		cells->requests[i] = kvc_stats_cell(stats, request_names[i]);
}

void kvc_rpc_count_drop(struct kvc_rpc *rpc, enum kvc_drop drop)
{
	kvc_stat_add(rpc->cells.dropped[drop], 1);
}

bool kvc_rpc_may_log(struct kvc_rpc *rpc)
{
	uint64_t second = kvc_loop_now_ms(rpc->loop) / 1000;

	if (second != rpc->log_second) {
		rpc->log_second = second;
		rpc->log_lines = 0;
	}
	return rpc->log_lines++ < LOG_LINES_A_SECOND;
}

/* ---- the sweep ----------------------------------------------------------------------------- */

static uint64_t sweep_ms(const struct kvc_rpc *rpc)
{
	uint64_t ms = rpc->limits.stall_ms / 4;

	return ms < 1 ? 1 : ms < SWEEP_MAX_MS ? ms : SWEEP_MAX_MS;
}

kvc_status kvc_rpc_sweep_start(struct kvc_rpc *rpc)
{
	kvc_status status;

	if (rpc->sweep.heap_slot)
		return KVC_OK;
	status = kvc_timer_start(rpc->loop, &rpc->sweep, sweep_ms(rpc));
	if (status == KVC_OK)
		rpc->sweep_due_ms = kvc_loop_now_ms(rpc->loop) + sweep_ms(rpc);
	return status;
}

/* After a pause of the whole process (a suspended machine, SIGSTOP) the clients are not to blame: their
 * clocks start again. */
static void sweep_fire(struct kvc_timer *timer)
{
	struct kvc_rpc *rpc = kvc_container_of(timer, struct kvc_rpc, sweep);
	uint64_t now_ms = kvc_loop_now_ms(rpc->loop);
	bool late = now_ms > rpc->sweep_due_ms + SWEEP_LATE_MS;

	kvc_list_each_safe (node, &rpc->paced) {
		struct kvc_session *session = kvc_container_of(node, struct kvc_session, paced_node);

		if (late)
			kvc_session_paces_restart(session, now_ms);
		else
			kvc_session_sweep(session, now_ms);
	}
	/* The timer's slot is free, so that this allocates nothing and cannot fail. */
	if (!kvc_list_empty(&rpc->paced))
		KVC_INVARIANT(kvc_rpc_sweep_start(rpc) == KVC_OK);
}

/* ---- life ---------------------------------------------------------------------------------- */

static kvc_status buffers_open(struct kvc_rpc *rpc)
{
	rpc->read_buffer = kvc_calloc(1, KVC_RPC_READ_BYTES);
	rpc->keys = kvc_calloc(KVC_RPC_BATCH_MAX, sizeof *rpc->keys);
	rpc->rest = kvc_calloc(KVC_RPC_BATCH_MAX, sizeof *rpc->rest);
	rpc->statuses = kvc_calloc(KVC_RPC_BATCH_MAX, sizeof *rpc->statuses);
	rpc->lengths = kvc_calloc(KVC_RPC_BATCH_MAX, sizeof *rpc->lengths);
	if (!rpc->read_buffer || !rpc->keys || !rpc->rest || !rpc->statuses || !rpc->lengths)
		return KVC_NO_MEMORY;
	return kvc_convert_open(&rpc->convert);
}

static void server_free(struct kvc_rpc *rpc)
{
	kvc_convert_close(rpc->convert);
	kvc_free(rpc->read_buffer);
	kvc_free(rpc->keys);
	kvc_free(rpc->rest);
	kvc_free(rpc->statuses);
	kvc_free(rpc->lengths);
	kvc_free(rpc);
}

/* Half of what the process may have open: the rest is for connections, and the disk. */
static uint32_t chunks_max(void)
{
	struct rlimit limit;
	rlim_t most = getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur / 2 : 0;

	return most < UINT32_MAX ? (uint32_t)most : UINT32_MAX;
}

kvc_status kvc_rpc_open(const struct kvc_rpc_options *options, struct kvc_rpc **rpc)
{
	struct kvc_rpc *opened = kvc_calloc(1, sizeof *opened);
	kvc_status status;

	if (!opened)
		return KVC_NO_MEMORY;
	opened->loop = options->loop;
	opened->stats = options->stats;
	opened->cache = options->cache;
	opened->gpus = options->gpus;
	opened->gpu_count = options->gpu_count;
	opened->version = options->version;
	memcpy(opened->boot_id, options->boot_id, sizeof opened->boot_id);
	opened->started_ms = kvc_loop_now_ms(options->loop);
	opened->listen_fd = opened->reserve_fd = -1;
	opened->session_number = 1;
	opened->chunks_max = chunks_max();
	opened->sweep.fire = sweep_fire;
	kvc_list_init(&opened->sessions);
	kvc_list_init(&opened->paced);
	kvc_rpc_limits_set(opened, &options->limits);
	cells_open(&opened->cells, options->stats);
	status = buffers_open(opened);
	if (status == KVC_OK)
		*rpc = opened;
	else
		server_free(opened);
	return status;
}

void kvc_rpc_limits_set(struct kvc_rpc *rpc, const struct kvc_rpc_limits *limits)
{
	KVC_PRE(limits->batch <= KVC_RPC_BATCH_MAX && limits->stall_ms > 0 && limits->inflight > 0);
	KVC_PRE(limits->uid_count <= KVC_RPC_IDS_MAX && limits->gid_count <= KVC_RPC_IDS_MAX);
	rpc->limits = *limits;
	kvc_list_each (node, &rpc->sessions)
		kvc_session_limits_change(kvc_container_of(node, struct kvc_session, node));
}

kvc_status kvc_rpc_serve(struct kvc_rpc *rpc, int listen_fd)
{
	kvc_status status;

	KVC_PRE(rpc->state == KVC_RPC_IDLE);
	status = kvc_accept_open(rpc, listen_fd);
	if (status == KVC_OK)
		rpc->state = KVC_RPC_SERVING;
	return status;
}

kvc_status kvc_rpc_adopt(struct kvc_rpc *rpc, int fd, uid_t uid)
{
	KVC_PRE(rpc->state <= KVC_RPC_SERVING);
	rpc->state = KVC_RPC_SERVING;
	return kvc_session_open(rpc, fd, uid);
}

/* ---- the stop ------------------------------------------------------------------------------ */

static void stopped_run(struct kvc_task *task)
{
	struct kvc_rpc *rpc = kvc_container_of(task, struct kvc_rpc, stopped);

	rpc->stop_done(rpc->stop_context);
}

static void stop_check(struct kvc_rpc *rpc)
{
	if (rpc->state != KVC_RPC_STOPPING || rpc->session_count)
		return;
	rpc->state = KVC_RPC_STOPPED;
	kvc_timer_stop(&rpc->stop_timer);
	kvc_timer_stop(&rpc->sweep);
	kvc_loop_defer(rpc->loop, &rpc->stopped);
}

void kvc_rpc_session_ended(struct kvc_rpc *rpc)
{
	KVC_INVARIANT(rpc->session_count > 0);
	rpc->session_count--;
	kvc_stat_set(rpc->cells.connections, rpc->session_count);
	stop_check(rpc);
}

static void stop_timeout(struct kvc_timer *timer)
{
	struct kvc_rpc *rpc = kvc_container_of(timer, struct kvc_rpc, stop_timer);

	kvc_list_each_safe (node, &rpc->sessions)
		kvc_session_drop(kvc_container_of(node, struct kvc_session, node), KVC_DROP_STOP_TIMEOUT,
		                 "its requests did not end before the stop timeout");
}

void kvc_rpc_stop(struct kvc_rpc *rpc, uint64_t timeout_ms, void (*done)(void *context), void *context)
{
	KVC_PRE(rpc->state < KVC_RPC_STOPPING);
	rpc->state = KVC_RPC_STOPPING;
	rpc->stop_done = done;
	rpc->stop_context = context;
	rpc->stopped.run = stopped_run;
	kvc_accept_close(rpc);
	rpc->stop_timer.fire = stop_timeout;
	if (kvc_timer_start(rpc->loop, &rpc->stop_timer, timeout_ms) != KVC_OK)
		stop_timeout(&rpc->stop_timer);
	kvc_list_each_safe (node, &rpc->sessions) {
		struct kvc_session *session = kvc_container_of(node, struct kvc_session, node);

		if (session->state == KVC_SESSION_HELLO)
			kvc_session_end(session);
		kvc_session_wake(session);
	}
	stop_check(rpc);
}

void kvc_rpc_close(struct kvc_rpc *rpc)
{
	KVC_PRE(rpc->session_count == 0 && rpc->state != KVC_RPC_STOPPING);
	kvc_accept_close(rpc);
	kvc_timer_stop(&rpc->sweep);
	server_free(rpc);
}
