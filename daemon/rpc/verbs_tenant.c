/* Verbs about a tenant as a whole: what the daemon and a tenant have and do, and dropping a tenant.
 *
 * Totals of the daemon tell about others. So they are for privileged peers only (root, and the daemon's own
 * user); anyone else sees the tenants whose namespaces the connection has open. */
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/session.h"

static bool is_privileged(const struct kvc_session *session)
{
	return session->uid == 0 || session->uid == geteuid();
}

static const char *tenant_of(struct kvc_list *node)
{
	return kvc_ns_tenant(kvc_container_of(node, struct kvc_session_ns, node)->ns);
}

static bool has_open(struct kvc_session *session, const char *tenant)
{
	kvc_list_each (node, &session->namespaces)
		if (strcmp(tenant_of(node), tenant) == 0)
			return true;
	return false;
}

/* The tenant of all open namespaces, or NULL: there is none, or there are several. */
static const char *only_tenant(struct kvc_session *session)
{
	const char *tenant = NULL;

	kvc_list_each (node, &session->namespaces) {
		if (tenant && strcmp(tenant, tenant_of(node)) != 0)
			return NULL;
		tenant = tenant_of(node);
	}
	return tenant;
}

/* ---- statistics ---------------------------------------------------------------------------- */

static kvc_status stats_choose(struct kvc_session *session, const struct kvc_tenant_request *request,
                               struct kvc_stats_reply *reply, struct kvc_problem *problem)
{
	const char *tenant = request->tenant;

	if (*tenant && !is_privileged(session) && !has_open(session, tenant))
		return kvc_problem_set(problem, KVC_ACCESS,
		                       "tenant: no namespace of '%s' is open in this connection", tenant);
	if (!*tenant)
		tenant = only_tenant(session);
	if (!*request->tenant && is_privileged(session))
		reply->stats = session->rpc->stats;
	if (tenant)
		reply->tenant_count =
		        kvc_cache_tenant_stats(session->rpc->cache, tenant, reply->tenant_stats);
	return KVC_OK;
}

void kvc_verb_stats(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_rpc *rpc = session->rpc;
	struct kvc_stats_reply stats = {.version = rpc->version,
	                                .uptime_ms = kvc_loop_now_ms(rpc->loop) - rpc->started_ms};
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};
	struct kvc_tenant_request request;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_stats(rpc->convert, body, &request, &problem);
	uint8_t *room;

	if (status == KVC_OK)
		status = stats_choose(session, &request, &stats, &problem);
	if (status != KVC_OK) {
		kvc_session_refuse(session, frame, status, &problem);
		return;
	}
	room = kvc_session_reply_room(session, KVC_FRAME_BODY_MAX);
	if (!room)
		return;
	reply.body_bytes = kvc_pack_stats(rpc->convert, &stats, room);
	kvc_session_reply(session, &reply);
}

/* ---- drop ---------------------------------------------------------------------------------- */

struct dropping {
	struct kvc_tenant_drop drop;
	struct kvc_session *session;
	uint64_t request_id;
};

static void drop_answer(struct kvc_session *session, const struct dropping *dropping)
{
	struct kvc_frame frame = {.verb = KVC_VERB_DROP_TENANT, .request_id = dropping->request_id};
	struct kvc_reply reply = {.verb = frame.verb, .request_id = frame.request_id};
	const struct kvc_tenant_drop *drop = &dropping->drop;
	struct kvc_problem problem;
	uint8_t *room;

	if (drop->status != KVC_OK) {
		kvc_problem_set(&problem, drop->status,
		                "tenant '%s' is forgotten, but for what the disk keeps: %s", drop->tenant,
		                kvc_status_text(drop->status));
		kvc_session_refuse(session, &frame, drop->status, &problem);
		return;
	}
	room = kvc_session_reply_room(session, KVC_PACK_DROP_TENANT_MAX);
	if (!room)
		return;
	reply.body_bytes = kvc_pack_drop_tenant(drop->blocks, room);
	kvc_session_reply(session, &reply);
}

static void drop_done(struct kvc_tenant_drop *drop)
{
	struct dropping *dropping = kvc_container_of(drop, struct dropping, drop);
	struct kvc_session *session = dropping->session;

	if (kvc_session_can_answer(session))
		drop_answer(session, dropping);
	kvc_free(dropping);
	session->inflight--;
	kvc_stat_add(session->rpc->cells.inflight, -1);
	kvc_session_wake(session);
}

static kvc_status drop_begin(struct kvc_session *session, const struct kvc_frame *frame,
                             const struct kvc_tenant_request *request, struct kvc_problem *problem)
{
	struct dropping *dropping;

	if (!is_privileged(session))
		return kvc_problem_set(problem, KVC_ACCESS,
		                       "only root and the daemon's own user may drop a tenant");
	dropping = kvc_calloc(1, sizeof *dropping);
	if (!dropping)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	memcpy(dropping->drop.tenant, request->tenant, strlen(request->tenant) + 1);
	dropping->drop.done = drop_done;
	dropping->session = session;
	dropping->request_id = frame->request_id;
	session->inflight++;
	kvc_stat_add(session->rpc->cells.inflight, 1);
	kvc_cache_tenant_drop(session->rpc->cache, &dropping->drop);
	return KVC_OK;
}

void kvc_verb_drop_tenant(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_tenant_request request;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_drop_tenant(session->rpc->convert, body, &request, &problem);

	if (status == KVC_OK)
		status = drop_begin(session, frame, &request, &problem);
	if (status != KVC_OK)
		kvc_session_refuse(session, frame, status, &problem);
}
