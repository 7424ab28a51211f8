/* The launchers: check, choose kernels, enqueue. Nothing here allocates, synchronises or aborts. */
#include "kernels/kern_launch.cuh"

#include "kernels/kern_general.cuh"

#ifdef __CUDACC__
#include <cuda_runtime.h>

template <typename Task>
static kvc_status launch(void (*kernel)(Task), const Task *task, uint32_t blocks, uint32_t threads,
                         uint32_t shared_bytes, void *stream)
{
	void *arguments[] = {(void *)task};

	return kvc_kern_status(cudaLaunchKernel((const void *)kernel, dim3(blocks), dim3(threads), arguments,
	                                        shared_bytes, (cudaStream_t)stream));
}

template <typename Task> static kvc_status load(void (*kernel)(Task), uint32_t shared_bytes)
{
	struct cudaFuncAttributes attributes;
	kvc_status status = kvc_kern_status(cudaFuncGetAttributes(&attributes, (const void *)kernel));

	if (status != KVC_OK)
		return status;
	return kvc_kern_status(cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
	                                            (int)shared_bytes));
}

kvc_status kvc_kern_status(int cuda_error)
{
	switch (cuda_error) {
	case cudaSuccess:
		return KVC_OK;
	case cudaErrorMemoryAllocation:
		return KVC_NO_MEMORY;
	case cudaErrorInvalidValue:
	case cudaErrorInvalidDevicePointer:
	case cudaErrorInvalidResourceHandle:
		return KVC_INVALID;
	case cudaErrorNoDevice:
	case cudaErrorInsufficientDriver:
	case cudaErrorNoKernelImageForDevice:
	case cudaErrorUnsupportedPtxVersion:
		return KVC_UNSUPPORTED;
	case cudaErrorNotReady:
		return KVC_BUSY;
	default:
		return KVC_INTERNAL; /* most of these end the context */
	}
}
#endif

#define GENERAL_SHARED (TILE_SHARED_FIXED + general_layout::bytes) /* of one team */

static struct kern_choice encode_general()
{
	return kern_choice_make(kern_encode_general, GENERAL_TEAMS, general_layout::bytes);
}

static struct kern_choice decode_general()
{
	return kern_choice_make(kern_decode_general, GENERAL_TEAMS, general_layout::bytes);
}

static kvc_status load_choice(struct kern_choice choice)
{
	return load(choice.kernel, choice.shared_bytes);
}

kvc_status kvc_kern_load(void)
{
	kvc_status status = load_choice(encode_general());

	if (status == KVC_OK)
		status = load_choice(decode_general());
	if (status == KVC_OK)
		status = load(kern_clear, 0);
	if (status == KVC_OK)
		status = load(kern_raw_place, GENERAL_SHARED);
	for (unsigned i = 0; status == KVC_OK && i < KERN_FAST_COUNT; i++) {
		status = load_choice(kern_encode_choice(i));
		if (status == KVC_OK)
			status = load_choice(kern_decode_choice(i));
	}
	return status;
}

static uint32_t lesser(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static kvc_status launch_choice(const struct kvc_kern_job *job, const struct kern_task *task,
                                struct kern_choice choice)
{
	uint32_t blocks = lesser(job->sms, (task->tiles + choice.teams - 1) / choice.teams);

	return launch(choice.kernel, task, blocks, choice.teams * DEV_TEAM, choice.shared_bytes, job->stream);
}

static kvc_status launch_tiles(const struct kvc_kern_job *job, const struct kern_task *task, bool encode)
{
	bool fast = kern_task_is_fast(task);

	if (encode)
		return launch_choice(job, task, fast ? kern_encode_choice(kern_fast_number(task)) : encode_general());
	return launch_choice(job, task, fast ? kern_decode_choice(kern_fast_number(task)) : decode_general());
}

/* All runs of layers, keys and values. */
static kvc_status launch_runs(const struct kvc_kern_job *job, bool encode)
{
	const struct kvc_block_shape *shape = &job->plan->shape;
	kvc_status status = KVC_OK;
	struct kern_task task;

	for (uint32_t layer = 0; status == KVC_OK && layer < shape->layers; layer += task.layers.divisor) {
		kern_task_init(&task, job, KVC_KIND_KEY, layer);
		status = launch_tiles(job, &task, encode);
		if (status != KVC_OK || shape->value_dim == 0)
			continue;
		kern_task_init(&task, job, KVC_KIND_VALUE, layer);
		status = launch_tiles(job, &task, encode);
	}
	return status;
}

static kvc_status launch_clear(const struct kvc_kern_job *job, struct kern_block_task *task, bool encode)
{
	task->encode = encode;
	return launch(kern_clear, task, lesser(job->sms, job->count), DEV_TEAM, 0, job->stream);
}

kvc_status kvc_kern_encode(const struct kvc_kern_job *job)
{
	kvc_status status = kern_job_check(job);
	struct kern_block_task task;

	if (status != KVC_OK)
		return status;
	kern_block_task_init(&task, job);
	status = launch_clear(job, &task, true);
	if (status == KVC_OK)
		status = launch_runs(job, true);
	if (status == KVC_OK)
		status = launch(kern_raw_place, &task, lesser(job->sms, job->count), DEV_TEAM, GENERAL_SHARED,
		                job->stream);
	return status;
}

kvc_status kvc_kern_decode(const struct kvc_kern_job *job)
{
	kvc_status status = kern_job_check(job);
	struct kern_block_task task;

	if (status != KVC_OK)
		return status;
	kern_block_task_init(&task, job);
	status = launch_clear(job, &task, false);
	return status == KVC_OK ? launch_runs(job, false) : status;
}
