/* From START to READY: the device, its memory, the arena. Pinning begins afterwards. Whatever fails ends in
 * one FAILED with a text for people: what was wrong, what to do. */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/gpu/executor.h"

#define SMS_BESIDE 32u

#define MIB(bytes)     ((unsigned long long)((bytes) >> 20))
#define SLOT_BYTES_MIN (64ull << 10)

static enum kvc_engine_exit failed(struct kvc_executor *executor, kvc_status status, const char *detail)
{
	struct kvc_gpu_failed message = {.header.type = KVC_GPU_FAILED, .status = (uint32_t)status};

	snprintf(message.detail, sizeof message.detail, "%s", detail);
	kvc_error("GPU %u: %s", executor->ordinal, message.detail);
	if (kvc_link_send(&executor->link, &message, sizeof message))
		kvc_warn("GPU %u: the core does not listen any more", executor->ordinal);
	return KVC_EXIT_FAILED;
}

static kvc_status streams_open(struct kvc_executor *executor, bool low_priority,
                               struct kvc_dev_stream **encode, struct kvc_dev_stream **decode)
{
	struct kvc_lane_world *world = &executor->world;
	struct kvc_dev_stream **wanted[] = {encode, decode, &world->up, &world->down, &world->hints};
	kvc_status status = KVC_OK;

	for (unsigned i = 0; status == KVC_OK && i < sizeof wanted / sizeof wanted[0]; i++)
		status = kvc_dev_stream_open(executor->dev, low_priority, wanted[i]);
	return status;
}

/* Staging is cut into equal parts: one a batch, of both directions. */
static kvc_status lanes_open(struct kvc_executor *executor, const struct kvc_gpu_start *start)
{
	uint64_t slot = start->staging_bytes / (2 * KVC_BATCHES) / 4096 * 4096;
	struct kvc_lane_world *world = &executor->world;
	struct kvc_dev_stream *encode, *decode;
	uint64_t staging;
	kvc_status status = streams_open(executor, start->low_priority, &encode, &decode);

	if (status == KVC_OK)
		status = kvc_dev_alloc(executor->dev, 2 * KVC_BATCHES * slot, &staging);
	if (status == KVC_OK)
		status = kvc_worker_memory_open(&executor->memory, executor->dev, world->up);
	if (status)
		return status;
	world->tables = executor->memory.arrived;
	status = kvc_lane_open(&executor->encode, world, &kvc_lane_encode, encode, staging, slot);
	if (status == KVC_OK)
		status = kvc_lane_open(&executor->decode, world, &kvc_lane_decode, decode,
		                       staging + KVC_BATCHES * slot, slot);
	if (status == KVC_OK)
		status = kvc_lane_open(&executor->lower, world, &kvc_lane_lower, NULL, 0, 0);
	return status;
}

static enum kvc_engine_exit memory_failed(struct kvc_executor *executor, const struct kvc_gpu_start *start,
                                          kvc_status status)
{
	char detail[KVC_GPU_DETAIL_BYTES];

	snprintf(detail, sizeof detail,
	         "no device memory for %llu MiB of VRAM tier and %llu MiB of staging: %.80s. Give this GPU's "
	         "other users less, or configure less",
	         MIB(start->vram_bytes), MIB(start->staging_bytes), kvc_dev_why());
	return failed(executor, status, detail);
}

static enum kvc_engine_exit memory_open(struct kvc_executor *executor, const struct kvc_gpu_start *start)
{
	kvc_status status = KVC_OK;

	if (start->staging_bytes < 2 * KVC_BATCHES * SLOT_BYTES_MIN)
		return failed(executor, KVC_INVALID, "less than 512 KiB of staging memory: configure more");
	if (start->vram_bytes)
		status = kvc_dev_alloc(executor->dev, start->vram_bytes, &executor->world.vram);
	executor->world.vram_bytes = start->vram_bytes;
	if (status == KVC_OK)
		status = lanes_open(executor, start);
	return status ? memory_failed(executor, start, status) : KVC_EXIT_DONE;
}

static enum kvc_engine_exit arena_open(struct kvc_executor *executor, const struct kvc_gpu_start *start)
{
	kvc_status status;

	if (executor->link.fd_count != 1)
		return failed(executor, KVC_BAD_MESSAGE, "the RAM tier's descriptor did not come with START");
	status = kvc_pinner_open(&executor->pinner, executor->dev, executor->link.fds[0], start->arena_bytes);
	kvc_link_fds_drop(&executor->link);
	if (status)
		return failed(executor, status,
		              "the RAM tier cannot be mapped: it is shorter than was said, or "
		              "there is no address space for it");
	return KVC_EXIT_DONE;
}

/* Where kernels of processes run in turn, ours are through the sooner the more of the device they take; where
 * they run side by side, a part is enough to fill PCIe and leaves the rest to the workers (figures in
 * docs/gpu.md). */
static uint32_t sms_choose(uint32_t wanted, const struct kvc_dev_info *info)
{
	uint32_t sms = wanted ? wanted : info->shared ? SMS_BESIDE : info->sms;

	return sms < info->sms ? sms : info->sms;
}

static enum kvc_engine_exit device_open(struct kvc_executor *executor, const struct kvc_gpu_start *start,
                                        struct kvc_dev_info *info)
{
	char detail[KVC_GPU_DETAIL_BYTES];
	kvc_status status = kvc_dev_open(start->ordinal, &executor->dev, info);

	if (status == KVC_OK) {
		executor->world.dev = executor->dev;
		executor->world.sms = sms_choose(start->sms, info);
		return KVC_EXIT_DONE;
	}
	snprintf(detail, sizeof detail,
	         "CUDA device %u cannot be opened: %.120s. See that the driver is loaded and the device is "
	         "visible (nvidia-smi)",
	         start->ordinal, kvc_dev_why());
	return failed(executor, status, detail);
}

static void ready_send(struct kvc_executor *executor, const struct kvc_dev_info *info)
{
	struct kvc_gpu_ready ready = {.header.type = KVC_GPU_READY,
	                              .wire = KVC_GPU_WIRE,
	                              .sms = info->sms,
	                              .device_bytes = kvc_dev_bytes(executor->dev)};

	memcpy(ready.uuid, info->uuid, sizeof ready.uuid);
	memcpy(ready.name, info->name, sizeof ready.name);
	kvc_info("GPU %u: %s, %u of %u multiprocessors%s, %llu MiB of device memory", executor->ordinal,
	         info->name, executor->world.sms, info->sms,
	         info->shared ? " beside other processes (MPS)" : "", MIB(ready.device_bytes));
	/* If the core is gone the loop is about to find out. */
	if (kvc_link_send(&executor->link, &ready, sizeof ready))
		kvc_warn("GPU %u: the core does not listen any more", executor->ordinal);
}

enum kvc_engine_exit kvc_executor_start(struct kvc_executor *executor, uint32_t bytes)
{
	struct kvc_gpu_start start;
	struct kvc_dev_info info;
	enum kvc_engine_exit end;

	memcpy(&start, executor->link.packet, sizeof start);
	if (bytes != sizeof start || start.header.type != KVC_GPU_START || start.wire != KVC_GPU_WIRE)
		return failed(executor, KVC_VERSION,
		              "kvcellard and kvcellar-engine are not of one build: install both anew");
	executor->ordinal = start.ordinal;
	executor->world.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (executor->world.wake < 0)
		return failed(executor, KVC_BUSY, "no descriptor for wake-ups");
	end = device_open(executor, &start, &info);
	if (end == KVC_EXIT_DONE)
		end = arena_open(executor, &start);
	executor->world.pinner = &executor->pinner;
	if (end == KVC_EXIT_DONE)
		end = memory_open(executor, &start);
	if (end != KVC_EXIT_DONE)
		return end;
	ready_send(executor, &info);
	kvc_pinner_start(&executor->pinner);
	return KVC_EXIT_DONE;
}
