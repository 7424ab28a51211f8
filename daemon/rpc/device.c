/* Device memory of a session: see device.h. */
#include "daemon/rpc/device.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/rpc/pool.h"

/* Device memory of one connection, all together: more than any machine has. */
#define DEVICE_BYTES_MAX ((uint64_t)1 << 44)

/* One connection has a quarter of the descriptors of all, or one region's. */
#define SESSION_CHUNKS_SHARE 4u

static void move(struct kvc_device *device, enum kvc_device_state to)
{
	static const uint8_t allowed[] = {
	        [KVC_DEVICE_OPENING] = 1u << KVC_DEVICE_OPEN | 1u << KVC_DEVICE_ABANDONED,
	        [KVC_DEVICE_ABANDONED] = 1u << KVC_DEVICE_CLOSING,
	        [KVC_DEVICE_OPEN] = 1u << KVC_DEVICE_RETIRED,
	        [KVC_DEVICE_RETIRED] = 1u << KVC_DEVICE_CLOSING,
	        [KVC_DEVICE_CLOSING] = 0,
	};

	KVC_INVARIANT(allowed[device->state] >> to & 1u);
	if (device->state == KVC_DEVICE_OPENING)
		device->session->opening--;
	device->state = to;
}

static struct kvc_device *device_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_device, node);
}

struct kvc_device *kvc_device_find(struct kvc_session *session, uint32_t id)
{
	kvc_list_each (node, &session->devices) {
		struct kvc_device *device = device_of(node);

		if (device->id == id &&
		    (device->state == KVC_DEVICE_OPENING || device->state == KVC_DEVICE_OPEN))
			return device;
	}
	return NULL;
}

/* ---- answers ------------------------------------------------------------------------------- */

static void request_begin(struct kvc_device *device, const struct kvc_frame *frame)
{
	device->request_id = frame->request_id;
	device->verb = frame->verb;
	device->session->inflight++;
	kvc_stat_add(device->session->rpc->cells.inflight, 1);
}

/* The request is over; its frame, for the answer. False: there is none. */
static bool request_end(struct kvc_device *device, struct kvc_frame *frame)
{
	struct kvc_session *session = device->session;

	if (!device->request_id)
		return false;
	*frame = (struct kvc_frame){.verb = device->verb, .request_id = device->request_id};
	device->request_id = 0;
	kvc_timer_stop(&device->timer);
	session->inflight--;
	kvc_stat_add(session->rpc->cells.inflight, -1);
	kvc_session_wake(session);
	return kvc_session_can_answer(session);
}

static void answer_done(struct kvc_device *device)
{
	struct kvc_session *session = device->session;
	struct kvc_frame frame;

	if (request_end(device, &frame) && kvc_session_reply_room(session, 0)) {
		struct kvc_reply reply = {.verb = frame.verb, .request_id = frame.request_id};

		kvc_session_reply(session, &reply);
	}
}

static void answer_problem(struct kvc_device *device, kvc_status status, const struct kvc_problem *problem)
{
	struct kvc_session *session = device->session;
	struct kvc_frame frame;

	if (request_end(device, &frame))
		kvc_session_refuse(session, &frame, status, problem);
}

/* ---- the end of one ------------------------------------------------------------------------ */

/* What a region holds counts from before it is opened until it is closed. */
static void region_note(struct kvc_device *device, uint64_t bytes, uint32_t chunks)
{
	struct kvc_session *session = device->session;

	device->bytes = bytes;
	device->chunks = chunks;
	session->device_bytes += bytes;
	session->chunks += chunks;
	session->rpc->chunks += chunks;
	kvc_stat_add(session->rpc->cells.device_bytes, (int64_t)bytes);
}

static void device_free(struct kvc_device *device)
{
	struct kvc_session *session = device->session;

	KVC_INVARIANT(device->users == 0 && device->part_count == 0 && !device->request_id);
	if (device->state == KVC_DEVICE_OPENING)
		session->opening--;
	kvc_list_remove(&device->node);
	session->region_count--;
	session->device_bytes -= device->bytes;
	session->chunks -= device->chunks;
	session->rpc->chunks -= device->chunks;
	kvc_stat_add(session->rpc->cells.device_bytes, -(int64_t)device->bytes);
	kvc_free(device);
	kvc_session_wake(session);
}

static void closed_run(struct kvc_task *task)
{
	struct kvc_device *device = kvc_container_of(task, struct kvc_device, closed);

	answer_done(device);
	device_free(device);
}

/* May come from inside the call that asked for it. */
static void device_closed(void *context)
{
	struct kvc_device *device = context;

	kvc_loop_defer(device->session->rpc->loop, &device->closed);
}

static void parts_release(struct kvc_device *pool);

/* Bounded depth: a region has no parts. */
static void close_begin(struct kvc_device *device)
{
	move(device, KVC_DEVICE_CLOSING);
	device->closed.run = closed_run;
	if (device->kind == KVC_DEVICE_REGION) {
		kvc_device_region_close(device->region, device_closed, device);
		return;
	}
	kvc_pool_close(device->pool, device_closed, device);
	parts_release(device);
}

static void parts_release(struct kvc_device *pool)
{
	for (uint32_t i = 0; i < pool->part_count; i++) {
		struct kvc_device *region = pool->parts[i];

		KVC_INVARIANT(region->users > 0);
		if (--region->users == 0 && region->state == KVC_DEVICE_RETIRED)
			close_begin(region);
	}
	pool->part_count = 0;
}

static void retire(struct kvc_device *device)
{
	move(device, KVC_DEVICE_RETIRED);
	if (device->users == 0)
		close_begin(device);
}

void kvc_device_ref(struct kvc_device *pool)
{
	KVC_PRE(pool->kind == KVC_DEVICE_POOL && pool->state == KVC_DEVICE_OPEN);
	pool->users++;
}

void kvc_device_unref(struct kvc_device *pool)
{
	KVC_PRE(pool->users > 0);
	if (--pool->users == 0 && pool->state == KVC_DEVICE_RETIRED)
		close_begin(pool);
}

/* ---- opening ------------------------------------------------------------------------------- */

static void opened(struct kvc_device *device, kvc_status status, const char *detail)
{
	struct kvc_problem problem;

	if (status != KVC_OK) {
		kvc_problem_set(&problem, status, "GPU engine: %s",
		                detail && detail[0] ? detail : kvc_status_text(status));
		answer_problem(device, status, &problem);
		parts_release(device);
		device_free(device);
	} else if (device->state == KVC_DEVICE_ABANDONED) {
		close_begin(device);
	} else {
		move(device, KVC_DEVICE_OPEN);
		answer_done(device);
	}
}

static void region_opened(void *context, struct kvc_device_region *region, kvc_status status,
                          const char *detail)
{
	(void)region;
	opened(context, status, detail);
}

static void pool_opened(void *context, struct kvc_pool *pool, kvc_status status, const char *detail)
{
	(void)pool;
	opened(context, status, detail);
}

static void deadline_passed(struct kvc_timer *timer)
{
	struct kvc_device *device = kvc_container_of(timer, struct kvc_device, timer);
	struct kvc_problem problem;

	kvc_stat_add(device->session->rpc->cells.deadlines, 1);
	move(device, KVC_DEVICE_ABANDONED);
	kvc_problem_set(&problem, KVC_DEADLINE, "the GPU engine did not answer within %u ms",
	                device->session->limits.deadline_ms_default);
	answer_problem(device, KVC_DEADLINE, &problem);
}

/* In the session's table, without a request. */
static struct kvc_device *device_make(struct kvc_session *session, enum kvc_device_kind kind, uint32_t id,
                                      size_t parts)
{
	struct kvc_device *device = kvc_calloc(1, sizeof *device + parts * sizeof(struct kvc_device *));

	if (!device)
		return NULL;
	device->session = session;
	device->kind = kind;
	device->id = id;
	device->timer.fire = deadline_passed;
	kvc_list_push(&session->devices, &device->node);
	session->region_count++;
	session->opening++;
	return device;
}

/* What the engine was asked for, if it was: wait for its answer, or forget the device. */
static kvc_status opening_begin(struct kvc_device *device, kvc_status status, const struct kvc_frame *frame,
                                struct kvc_problem *problem)
{
	struct kvc_rpc *rpc = device->session->rpc;

	if (status != KVC_OK) {
		parts_release(device);
		device_free(device);
		return kvc_problem_set(problem, status, "GPU engine: %s", kvc_status_text(status));
	}
	request_begin(device, frame);
	if (kvc_timer_start(rpc->loop, &device->timer, device->session->limits.deadline_ms_default) == KVC_OK)
		return KVC_OK;
	move(device, KVC_DEVICE_ABANDONED);
	request_end(device, &(struct kvc_frame){0});
	return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
}

static kvc_status room_check(struct kvc_session *session, uint32_t id, struct kvc_problem *problem)
{
	const struct kvc_rpc_limits *limits = &session->limits;

	if (kvc_session_id_is_used(session, id))
		return kvc_problem_set(problem, KVC_IN_USE, "id: %u is attached in this connection", id);
	if (session->region_count >= limits->regions)
		return kvc_problem_set(problem, KVC_LIMIT,
		                       "attached regions and pools: %u, the limit (limits.regions)",
		                       session->region_count);
	return KVC_OK;
}

/* ---- attach -------------------------------------------------------------------------------- */

static kvc_status chunks_check(const struct kvc_session *session, uint32_t chunks,
                               struct kvc_problem *problem)
{
	const struct kvc_rpc *rpc = session->rpc;
	uint32_t most = rpc->chunks_max / SESSION_CHUNKS_SHARE;

	if (most < KVC_GPU_CHUNKS_MAX)
		most = KVC_GPU_CHUNKS_MAX;
	if (chunks > most || session->chunks > most - chunks)
		return kvc_problem_set(problem, KVC_LIMIT,
		                       "chunk_bytes: %u descriptors with %u kept, expected at most %u of one "
		                       "connection (from the daemon's RLIMIT_NOFILE)",
		                       chunks, session->chunks, most);
	if (chunks > rpc->chunks_max || rpc->chunks > rpc->chunks_max - chunks)
		return kvc_problem_set(
		        problem, KVC_LIMIT,
		        "chunk_bytes: %u descriptors with %u kept of all connections, expected "
		        "at most %u (half of the daemon's RLIMIT_NOFILE)",
		        chunks, rpc->chunks, rpc->chunks_max);
	return KVC_OK;
}

static kvc_status region_check(struct kvc_session *session, const struct kvc_attach_request *request,
                               struct kvc_problem *problem)
{
	kvc_status status = room_check(session, request->id, problem);

	if (status != KVC_OK)
		return status;
	if (request->bytes > DEVICE_BYTES_MAX || session->device_bytes > DEVICE_BYTES_MAX - request->bytes)
		return kvc_problem_set(
		        problem, KVC_LIMIT, "bytes: %llu with %llu attached, expected at most %llu in all",
		        (unsigned long long)request->bytes, (unsigned long long)session->device_bytes,
		        (unsigned long long)DEVICE_BYTES_MAX);
	return chunks_check(session, request->import.chunks, problem);
}

static kvc_status region_open(struct kvc_session *session, const struct kvc_attach_request *request,
                              const struct kvc_frame *frame, struct kvc_problem *problem)
{
	const int *fds = session->fd_count ? session->fds[0]->fds : NULL;
	struct kvc_device *device;
	struct kvc_gpu *gpu;
	kvc_status status = kvc_pool_gpu_find(session->rpc, request->device, &gpu, problem);

	if (status == KVC_OK)
		status = region_check(session, request, problem);
	if (status != KVC_OK)
		return status;
	device = device_make(session, KVC_DEVICE_REGION, request->id, 0);
	if (!device)
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	device->gpu = gpu;
	region_note(device, request->bytes, request->import.chunks);
	status = kvc_device_region_open(gpu, &request->import, request->import.chunks ? fds : NULL,
	                                region_opened, device, &device->region);
	return opening_begin(device, status, frame, problem);
}

void kvc_device_attach(struct kvc_session *session, const struct kvc_frame *frame,
                       const struct kvc_attach_request *request)
{
	struct kvc_problem problem;
	kvc_status status = region_open(session, request, frame, &problem);

	if (status != KVC_OK)
		kvc_session_refuse(session, frame, status, &problem);
}

/* ---- pool ---------------------------------------------------------------------------------- */

/* Find the region that a base is in, and note it among the pool's parts. */
static kvc_status base_find(struct kvc_device *pool, const struct kvc_pool_kind *kind, size_t layer,
                            struct kvc_device **found, struct kvc_problem *problem)
{
	uint32_t id = kvc_pool_base_at(kind, layer).region;
	struct kvc_device *region = kvc_device_find(pool->session, id);

	if (!region || region->kind != KVC_DEVICE_REGION)
		return kvc_problem_set(problem, KVC_UNKNOWN_ID,
		                       "%s_bases[%zu].region: %u is no attached device memory", kind->field,
		                       layer, id);
	if (pool->gpu && region->gpu != pool->gpu)
		return kvc_problem_set(problem, KVC_INVALID,
		                       "%s_bases[%zu].region: %u is on another GPU than the bases before it",
		                       kind->field, layer, id);
	pool->gpu = region->gpu;
	*found = region;
	for (uint32_t i = 0; i < pool->part_count; i++) {
		if (pool->parts[i] == region)
			return KVC_OK;
	}
	region->users++;
	pool->parts[pool->part_count++] = region;
	return KVC_OK;
}

static kvc_status bases_find(struct kvc_device *pool, const struct kvc_pool_kind *kind, uint64_t span,
                             struct kvc_pool_base *bases, struct kvc_problem *problem)
{
	unsigned element = (unsigned)kvc_dtype_bytes(pool->shape.dtype);

	for (size_t i = 0; i < kind->count; i++) {
		struct kvc_wire_base wire = kvc_pool_base_at(kind, i);
		struct kvc_device *region = NULL;
		kvc_status status = base_find(pool, kind, i, &region, problem);

		if (status != KVC_OK)
			return status;
		status = kvc_pool_base_check(kind, i, &(struct kvc_pool_place){span, region->bytes, element},
		                             problem);
		if (status != KVC_OK)
			return status;
		bases[i] = (struct kvc_pool_base){region->region, wire.offset};
	}
	return KVC_OK;
}

static int marks_fd(const struct kvc_session *session)
{
	return session->fd_count ? session->fds[0]->fds[0] : -1;
}

static kvc_status pool_fill(struct kvc_device *pool, const struct kvc_pool_request *request,
                            struct kvc_pool_base *bases, struct kvc_problem *problem)
{
	const struct kvc_block_shape *shape = &pool->shape;
	struct kvc_pool_options options = {
	        .key = bases, .marks_fd = marks_fd(pool->session), .marks = request->marks};
	uint64_t spans[2] = {0, 0};
	kvc_status status = kvc_pool_geometry_make(request, shape, &options.geometry, spans, problem);

	if (status == KVC_OK)
		status = bases_find(pool, &request->key, spans[0], bases, problem);
	if (status == KVC_OK)
		status = bases_find(pool, &request->value, spans[1], bases + request->key.count, problem);
	if (status != KVC_OK)
		return status;
	pool->marks = request->marks;
	region_note(pool, 0, request->marks ? 1 : 0);
	if (shape->value_dim)
		options.value = bases + request->key.count;
	status = kvc_pool_open(pool->gpu, &options, pool_opened, pool, &pool->pool);
	return status == KVC_OK ? KVC_OK
	                        : kvc_problem_set(problem, status, "GPU engine: %s", kvc_status_text(status));
}

/* The engine will map it. */
static kvc_status marks_check(const struct kvc_session *session, uint32_t marks, struct kvc_problem *problem)
{
	const char *why;

	if (!marks)
		return KVC_OK;
	why = kvc_region_check(marks_fd(session), marks * sizeof(uint32_t));
	if (why)
		return kvc_problem_set(problem, KVC_INVALID, "marks: %u words: %s", marks, why);
	return chunks_check(session, 1, problem);
}

static kvc_status pool_open(struct kvc_session *session, const struct kvc_pool_request *request,
                            const struct kvc_frame *frame, struct kvc_problem *problem)
{
	size_t count = request->key.count + request->value.count;
	struct kvc_session_ns *ns = kvc_session_ns_find(session, request->ns);
	struct kvc_pool_base *bases;
	struct kvc_device *pool;
	kvc_status status = room_check(session, request->id, problem);

	if (status == KVC_OK && !ns)
		status = kvc_problem_set(problem, KVC_UNKNOWN_ID, "namespace: %u is not open", request->ns);
	if (status == KVC_OK)
		status = marks_check(session, request->marks, problem);
	if (status != KVC_OK)
		return status;
	bases = kvc_calloc(count + 1, sizeof *bases);
	pool = bases ? device_make(session, KVC_DEVICE_POOL, request->id, count) : NULL;
	if (!pool) {
		kvc_free(bases);
		return kvc_problem_set(problem, KVC_NO_MEMORY, "out of memory");
	}
	pool->shape = kvc_ns_plan(ns->ns)->shape;
	pool->pages = request->pages;
	pool->page_tokens = request->page_tokens;
	status = pool_fill(pool, request, bases, problem);
	kvc_free(bases);
	if (status == KVC_OK)
		return opening_begin(pool, status, frame, problem);
	parts_release(pool);
	device_free(pool);
	return status;
}

void kvc_verb_pool(struct kvc_session *session, const struct kvc_frame *frame, struct kvc_body body)
{
	struct kvc_pool_request request;
	struct kvc_problem problem;
	kvc_status status = kvc_parse_pool(session->rpc->convert, body, &request, &problem);

	if (status == KVC_OK && !kvc_session_fds_are(session, frame, request.marks ? 1 : 0))
		return;
	if (status == KVC_OK)
		status = pool_open(session, &request, frame, &problem);
	if (status != KVC_OK)
		kvc_session_refuse(session, frame, status, &problem);
}

/* ---- detach -------------------------------------------------------------------------------- */

/* A pool that can be named and lies in the region. */
static const struct kvc_device *pool_in(const struct kvc_device *region)
{
	kvc_list_each (node, &region->session->devices) {
		const struct kvc_device *pool = device_of(node);

		for (uint32_t i = 0; pool->state == KVC_DEVICE_OPEN && i < pool->part_count; i++) {
			if (pool->parts[i] == region)
				return pool;
		}
	}
	return NULL;
}

kvc_status kvc_device_detach(struct kvc_device *device, const struct kvc_frame *frame,
                             struct kvc_problem *problem)
{
	const struct kvc_device *pool = pool_in(device);

	KVC_PRE(device->state == KVC_DEVICE_OPEN); /* no frame is taken while one is OPENING */
	if (pool)
		return kvc_problem_set(problem, KVC_IN_USE,
		                       "id: pool %u lies in region %u, expected that it is detached before",
		                       pool->id, device->id);
	request_begin(device, frame);
	retire(device);
	return KVC_OK;
}

/* ---- the session's end --------------------------------------------------------------------- */

void kvc_devices_cancel(struct kvc_session *session)
{
	kvc_list_each (node, &session->devices) {
		struct kvc_device *device = device_of(node);

		request_end(device, &(struct kvc_frame){0});
		if (device->state == KVC_DEVICE_OPENING)
			move(device, KVC_DEVICE_ABANDONED);
	}
}

bool kvc_devices_close(struct kvc_session *session)
{
	KVC_PRE(session->inflight == 0);
	kvc_list_each (node, &session->devices) {
		struct kvc_device *pool = device_of(node);

		if (pool->kind == KVC_DEVICE_POOL && pool->state == KVC_DEVICE_OPEN)
			retire(pool);
	}
	kvc_list_each (other, &session->devices) {
		if (device_of(other)->state == KVC_DEVICE_OPEN)
			retire(device_of(other));
	}
	return kvc_list_empty(&session->devices);
}
