/* What a session holds open: namespaces and memory regions, by the ids that the client chose. Few of each, so
 * lists are searched. */
#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/device.h"
#include "daemon/rpc/session.h"

static void reply_empty(struct kvc_session *session, const struct kvc_frame *frame)
{
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};

	if (kvc_session_reply_room(session, 0))
		kvc_session_reply(session, &reply);
}

/* ---- namespaces ---------------------------------------------------------------------------- */

struct kvc_session_ns *kvc_session_ns_find(struct kvc_session *session, uint32_t id)
{
	kvc_list_each (node, &session->namespaces) {
		struct kvc_session_ns *ns = kvc_container_of(node, struct kvc_session_ns, node);

		if (ns->id == id)
			return ns;
	}
	return NULL;
}

void kvc_session_ns_unref(struct kvc_session_ns *ns)
{
	KVC_PRE(ns->refs > 0);
	if (--ns->refs)
		return;
	kvc_ns_close(ns->ns);
	kvc_free(ns);
}

static void ns_remove(struct kvc_session *session, struct kvc_session_ns *ns)
{
	kvc_list_remove(&ns->node);
	session->namespace_count--;
	kvc_session_ns_unref(ns);
}

static kvc_status open_check(struct kvc_session *session, uint32_t id, struct kvc_problem *problem)
{
	const struct kvc_rpc_limits *limits = &session->limits;

	if (kvc_session_ns_find(session, id))
		return kvc_problem_set(problem, KVC_IN_USE, "id: %u is open in this connection", id);
	if (session->namespace_count >= limits->namespaces)
		return kvc_problem_set(problem, KVC_LIMIT,
		                       "open namespaces: %u, the limit (limits.namespaces)",
		                       session->namespace_count);
	return KVC_OK;
}

static kvc_status ns_open(struct kvc_session *session, const struct kvc_open_request *request,
                          struct kvc_session_ns **opened, struct kvc_problem *problem)
{
	struct kvc_session_ns *ns = kvc_calloc(1, sizeof *ns);
	kvc_status status;

	if (!ns)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	status = kvc_ns_open(session->rpc->cache, &request->options, &ns->ns);
	if (status != KVC_OK) {
		kvc_free(ns);
		return kvc_problem_set(problem, status, "the namespace cannot be opened: %s",
		                       kvc_status_text(status));
	}
	ns->id = request->id;
	ns->refs = 1;
	kvc_list_push(&session->namespaces, &ns->node);
	session->namespace_count++;
	*opened = ns;
	return KVC_OK;
}

void kvc_verb_open(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_reply reply = {.verb = frame->verb, .request_id = frame->request_id};
	const struct kvc_image_plan *plan;
	struct kvc_session_ns *ns = NULL;
	struct kvc_open_request request;
	struct kvc_problem problem;
	kvc_status status;
	uint8_t *room;

	status = kvc_parse_open(session->rpc->convert, body, &request, &problem);
	if (status == KVC_OK)
		status = open_check(session, request.id, &problem);
	if (status == KVC_OK)
		status = ns_open(session, &request, &ns, &problem);
	if (status != KVC_OK) {
		kvc_session_refuse(session, frame, status, &problem);
		return;
	}
	plan = kvc_ns_plan(ns->ns);
	room = kvc_session_reply_room(session, KVC_PACK_OPEN_MAX);
	if (!room)
		return;
	reply.body_bytes = kvc_pack_open(kvc_block_raw_bytes(&plan->shape), plan->image_bytes, room);
	kvc_session_reply(session, &reply);
}

void kvc_verb_close(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_session_ns *ns = NULL;
	struct kvc_problem problem;
	kvc_status status;
	uint32_t id;

	status = kvc_parse_close(session->rpc->convert, body, &id, &problem);
	if (status == KVC_OK)
		ns = kvc_session_ns_find(session, id);
	if (status == KVC_OK && !ns)
		status = kvc_problem_set(&problem, KVC_UNKNOWN_ID, "id: %u is no open namespace", id);
	if (status != KVC_OK) {
		kvc_session_refuse(session, frame, status, &problem);
		return;
	}
	ns_remove(session, ns);
	reply_empty(session, frame);
}

/* ---- regions ------------------------------------------------------------------------------- */

struct kvc_session_region *kvc_session_region_find(struct kvc_session *session, uint32_t id)
{
	kvc_list_each (node, &session->regions) {
		struct kvc_session_region *entry = kvc_container_of(node, struct kvc_session_region, node);

		if (entry->id == id)
			return entry;
	}
	return NULL;
}

bool kvc_session_id_is_used(struct kvc_session *session, uint32_t id)
{
	return kvc_session_region_find(session, id) || kvc_device_find(session, id);
}

struct kvc_region *kvc_session_region_take(struct kvc_session *session, struct kvc_session_region *entry)
{
	struct kvc_region *region = entry->region;

	kvc_list_remove(&entry->node);
	kvc_free(entry);
	session->region_count--;
	session->region_bytes -= region->bytes;
	kvc_stat_add(session->rpc->cells.region_bytes, -(int64_t)region->bytes);
	return region;
}

static kvc_status attach_check(struct kvc_session *session, const struct kvc_attach_request *request,
                               struct kvc_problem *problem)
{
	const struct kvc_rpc_limits *limits = &session->limits;

	if (kvc_session_id_is_used(session, request->id))
		return kvc_problem_set(problem, KVC_IN_USE, "id: %u is attached in this connection",
		                       request->id);
	if (session->region_count >= limits->regions)
		return kvc_problem_set(problem, KVC_LIMIT, "attached regions: %u, the limit (limits.regions)",
		                       session->region_count);
	if (request->bytes > limits->region_bytes ||
	    session->region_bytes > limits->region_bytes - request->bytes)
		return kvc_problem_set(problem, KVC_LIMIT,
		                       "bytes: %llu with %llu attached, expected at most %llu in all "
		                       "(limits.region_bytes)",
		                       (unsigned long long)request->bytes,
		                       (unsigned long long)session->region_bytes,
		                       (unsigned long long)limits->region_bytes);
	return KVC_OK;
}

static kvc_status region_attach(struct kvc_session *session, const struct kvc_attach_request *request,
                                struct kvc_problem *problem)
{
	struct kvc_session_region *entry = kvc_calloc(1, sizeof *entry);
	const char *why;
	kvc_status status;

	if (!entry)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	status = kvc_region_open(session->fds[0]->fds[0], request->bytes, &entry->region, &why);
	if (status != KVC_OK) {
		kvc_free(entry);
		return kvc_problem_set(problem, status, "descriptor: %s", why);
	}
	entry->id = request->id;
	kvc_list_push(&session->regions, &entry->node);
	session->region_count++;
	session->region_bytes += request->bytes;
	kvc_stat_add(session->rpc->cells.region_bytes, (int64_t)request->bytes);
	return KVC_OK;
}

static void memory_attach(struct kvc_session *session, const struct kvc_frame *frame,
                          const struct kvc_attach_request *request)
{
	struct kvc_problem problem;
	kvc_status status = attach_check(session, request, &problem);

	if (status == KVC_OK)
		status = region_attach(session, request, &problem);
	if (status == KVC_OK)
		reply_empty(session, frame);
	else
		kvc_session_refuse(session, frame, status, &problem);
}

/* The mapping stays; the descriptors are closed by the caller. */
void kvc_verb_attach(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_attach_request request;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_attach(session->rpc->convert, body, &request, &problem);

	if (status == KVC_OK && request.plane == KVC_PLANE_SHM && !(frame->flags & KVC_FRAME_FD))
		status = kvc_problem_set(&problem, KVC_BAD_MESSAGE,
		                         "attach on the shm plane comes with a descriptor");
	if (status != KVC_OK)
		kvc_session_refuse(session, frame, status, &problem);
	else if (!kvc_session_fds_are(session, frame,
	                              request.plane == KVC_PLANE_SHM ? 1 : request.import.chunks))
		return;
	else if (request.plane == KVC_PLANE_SHM)
		memory_attach(session, frame, &request);
	else
		kvc_device_attach(session, frame, &request);
}

/* ---- the end ------------------------------------------------------------------------------- */

void kvc_session_objects_close(struct kvc_session *session)
{
	KVC_PRE(session->inflight == 0);
	if (session->lease)
		kvc_lease_close(session->lease);
	session->lease = NULL;
	while (!kvc_list_empty(&session->namespaces))
		ns_remove(session, kvc_container_of(session->namespaces.next, struct kvc_session_ns, node));
	while (!kvc_list_empty(&session->regions))
		kvc_region_unref(kvc_session_region_take(
		        session, kvc_container_of(session->regions.next, struct kvc_session_region, node)));
}
