/* The loop. While there is work it looks again and again, for SPIN_NS without sleeping, so that a single
 * block waits for nobody; then it sleeps a little at a time, until a hint or a message wakes it. Without work
 * it sleeps until the core has some. */
#include "daemon/gpu/executor.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/log.h"

#define SPIN_NS      (1000ull * 1000) /* of one core, and only while there is work */
#define NAP_NS       (500ull * 1000)  /* with work under way: hints may not come */
#define GAUGES_NS    (1000ull * 1000 * 1000)
#define MESSAGES_MAX 64u /* taken in before the device is looked at */

uint64_t kvc_executor_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* --- gauges --- */

static void gauges_take(const struct kvc_executor *executor, struct kvc_gpu_gauges *gauges)
{
	*gauges = (struct kvc_gpu_gauges){
	        .header.type = KVC_GPU_GAUGES,
	        .pinned_bytes = atomic_load_explicit(&executor->pinner.pinned, memory_order_relaxed),
	        .device_bytes = kvc_dev_bytes(executor->dev),
	        .launches = executor->world.launches,
	        .launched_blocks = executor->world.launched_blocks,
	};
}

static kvc_status gauges_tell(struct kvc_executor *executor, uint64_t now_ns)
{
	struct kvc_gpu_gauges gauges;

	if (now_ns - executor->told_ns < GAUGES_NS || kvc_link_has_waiting(&executor->link))
		return KVC_OK;
	executor->told_ns = now_ns;
	gauges_take(executor, &gauges);
	if (memcmp(&gauges, &executor->told, sizeof gauges) == 0)
		return KVC_OK;
	executor->told = gauges;
	return kvc_link_send(&executor->link, &gauges, sizeof gauges);
}

/* --- sleeping --- */

static bool is_busy(const struct kvc_executor *executor)
{
	return !kvc_lane_is_idle(&executor->encode) || !kvc_lane_is_idle(&executor->decode) ||
	       !kvc_lane_is_idle(&executor->lower) || !kvc_list_empty(&executor->gated);
}

/* Something that the gauges tell may change, or has. */
static bool gauges_due(const struct kvc_executor *executor)
{
	struct kvc_gpu_gauges gauges;

	gauges_take(executor, &gauges);
	return memcmp(&gauges, &executor->told, sizeof gauges) != 0 ||
	       !atomic_load_explicit(&executor->pinner.ended, memory_order_relaxed);
}

static void nap(struct kvc_executor *executor)
{
	struct pollfd fds[] = {
	        {.fd = executor->link.fd, .events = POLLIN},
	        {.fd = executor->world.wake, .events = POLLIN},
	};
	struct timespec most = {0};
	bool busy = is_busy(executor);
	uint64_t count;

	if (kvc_link_has_waiting(&executor->link))
		fds[0].events |= POLLOUT;
	if (busy)
		most.tv_nsec = NAP_NS;
	else
		most.tv_sec = GAUGES_NS / 1000000000;
	if (ppoll(fds, 2, busy || gauges_due(executor) ? &most : NULL, NULL) < 0 && errno != EINTR)
		kvc_warn("GPU %u: poll: %s", executor->ordinal, strerror(errno));
	/* Taken back before the device is looked at: a hint that comes later wakes again. */
	if (fds[1].revents && read(executor->world.wake, &count, sizeof count) < 0 && errno != EAGAIN)
		kvc_warn("GPU %u: wake-up: %s", executor->ordinal, strerror(errno));
}

/* --- a turn --- */

static kvc_status messages_take(struct kvc_executor *executor, bool *any)
{
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < MESSAGES_MAX; i++) {
		uint32_t bytes;

		status = kvc_link_receive(&executor->link, &bytes);
		if (status == KVC_OK) {
			*any = true;
			status = kvc_executor_message(executor, bytes);
		}
	}
	return status == KVC_BUSY ? KVC_OK : status;
}

static bool lanes_turn(struct kvc_executor *executor)
{
	struct kvc_lane *lanes[] = {&executor->decode, &executor->encode, &executor->lower};
	bool any = false;

	for (unsigned i = 0; i < sizeof lanes / sizeof lanes[0]; i++) {
		any |= kvc_lane_reap(lanes[i]);
		any |= kvc_lane_launch(lanes[i]);
	}
	return any;
}

/* Everything that can be done now; *any tells whether there was something. */
static kvc_status turn(struct kvc_executor *executor, bool *any)
{
	kvc_status status = messages_take(executor, any);

	if (status)
		return status;
	*any |= kvc_executor_gates_poll(executor);
	*any |= lanes_turn(executor);
	if (kvc_dev_lost(executor->dev))
		return KVC_ENGINE_LOST;
	status = kvc_link_flush(&executor->link);
	if (status == KVC_OK)
		status = kvc_executor_results_send(executor);
	return status;
}

static enum kvc_engine_exit end_of(struct kvc_executor *executor, kvc_status status)
{
	switch (status) {
	case KVC_DISCONNECTED:
		kvc_info("GPU %u: the core is gone", executor->ordinal);
		return KVC_EXIT_DONE;
	case KVC_ENGINE_LOST:
		kvc_error("GPU %u is lost to this process: %s", executor->ordinal, kvc_dev_why());
		return KVC_EXIT_LOST;
	default:
		kvc_error("GPU %u: a message from kvcellard: %s", executor->ordinal, kvc_status_text(status));
		return KVC_EXIT_MESSAGE;
	}
}

static kvc_status serve(struct kvc_executor *executor)
{
	uint64_t active_ns = kvc_executor_now_ns();
	kvc_status status = KVC_OK;

	while (status == KVC_OK) {
		bool any = false;
		uint64_t now_ns;

		status = turn(executor, &any);
		now_ns = kvc_executor_now_ns();
		if (status == KVC_OK)
			status = gauges_tell(executor, now_ns);
		if (any)
			active_ns = now_ns;
		else if (status == KVC_OK && (!is_busy(executor) || now_ns - active_ns > SPIN_NS))
			nap(executor);
	}
	return status;
}

/* START, which may take its time to come. */
static kvc_status first_message(struct kvc_executor *executor, uint32_t *bytes)
{
	struct pollfd fd = {.fd = executor->link.fd, .events = POLLIN};
	kvc_status status = kvc_link_receive(&executor->link, bytes);

	while (status == KVC_BUSY) {
		if (poll(&fd, 1, -1) < 0 && errno != EINTR)
			return KVC_IO;
		status = kvc_link_receive(&executor->link, bytes);
	}
	return status;
}

enum kvc_engine_exit kvc_executor_run(struct kvc_executor *executor, int fd)
{
	enum kvc_engine_exit end;
	uint32_t bytes;
	kvc_status status;

	kvc_link_open(&executor->link, fd);
	kvc_list_init(&executor->gated);
	executor->world.done = kvc_executor_result;
	executor->world.context = executor;
	status = first_message(executor, &bytes);
	if (status)
		return end_of(executor, status);
	end = kvc_executor_start(executor, bytes);
	if (end != KVC_EXIT_DONE)
		return end;
	return end_of(executor, serve(executor));
}
