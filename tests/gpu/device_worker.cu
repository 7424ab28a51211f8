/* See device_worker.h. The child waits for commands: 'f' and two numbers. It ends with its parent. */
#include "tests/gpu/device_worker.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define POOL_BYTES  (64ull << 20)
#define SMALL_BYTES (1ull << 20)
#define CHUNK_WISH  (32ull << 20)

struct fill {
	uint32_t seed;
	uint32_t delay_ms;
};

struct memory {
	uint16_t *pool;
	uint16_t *small;
	uint16_t *chunks;
	CUdeviceptr mark;
};

static __device__ uint16_t element(uint64_t i, uint32_t seed)
{
	uint64_t hash = (i + 1) * 0x9E3779B97F4A7C15ull ^ (uint64_t)seed * 0xD1B54A32D192ED03ull;

	hash ^= hash >> 29;
	hash *= 0xBF58476D1CE4E5B9ull;
	return (uint16_t)(0x3E80u + (hash >> 40 & 0x1FF) + (hash >> 60 << 15 & 0x8000u));
}

static __global__ void fill_kernel(uint16_t *to, uint64_t count, uint32_t seed)
{
	uint64_t step = (uint64_t)gridDim.x * blockDim.x;

	for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
		to[i] = element(i, seed);
}

static __global__ void delay_kernel(uint32_t delay_ms)
{
	uint64_t start, now;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
	do {
		asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
	} while (now - start < delay_ms * 1000000ull);
}

static void must(int error, const char *what)
{
	if (error == 0)
		return;
	fprintf(stderr, "worker: %s: %s\n", what, cudaGetErrorString((cudaError_t)error));
	_exit(2);
}

static void *entry(const char *symbol)
{
	cudaDriverEntryPointQueryResult found;
	void *function = NULL;

	must(cudaGetDriverEntryPointByVersion(symbol, &function, 12000, cudaEnableDefault, &found), symbol);
	if (found != cudaDriverEntryPointSuccess)
		must(cudaErrorNotSupported, symbol);
	return function;
}

/* Two allocations, mapped one behind the other, exported as descriptors. */
static void chunks_make(struct worker *worker, struct memory *memory, int fds[WORKER_CHUNKS])
{
	CUmemAllocationProp properties = {};
	CUmemAccessDesc access = {};
	CUdeviceptr address;
	size_t step;

	properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	properties.location.type = access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	must(((PFN_cuMemGetAllocationGranularity_v10020)entry("cuMemGetAllocationGranularity"))(
	             &step, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
	     "granularity");
	printf("# granularity of VMM memory: %zu\n", step);
	fflush(stdout);
	worker->chunk_bytes = (CHUNK_WISH + step - 1) / step * step;
	must(((PFN_cuMemAddressReserve_v10020)entry("cuMemAddressReserve"))(
	             &address, WORKER_CHUNKS * worker->chunk_bytes, 0, 0, 0),
	     "reserve");
	for (int i = 0; i < WORKER_CHUNKS; i++) {
		CUmemGenericAllocationHandle handle;

		must(((PFN_cuMemCreate_v10020)entry("cuMemCreate"))(&handle, worker->chunk_bytes, &properties, 0), "create");
		must(((PFN_cuMemMap_v10020)entry("cuMemMap"))(address + i * worker->chunk_bytes, worker->chunk_bytes, 0,
		                                              handle, 0),
		     "map");
		must(((PFN_cuMemExportToShareableHandle_v10020)entry("cuMemExportToShareableHandle"))(
		             &fds[i], handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
		     "export");
	}
	must(((PFN_cuMemSetAccess_v10020)entry("cuMemSetAccess"))(address, WORKER_CHUNKS * worker->chunk_bytes, &access, 1),
	     "access");
	memory->chunks = (uint16_t *)address;
}

static void memory_make(struct worker *worker, struct memory *memory, int fds[WORKER_CHUNKS])
{
	cudaIpcMemHandle_t handle;
	void *mark;

	must(cudaSetDevice(0), "context");
	worker->pool_bytes = POOL_BYTES;
	worker->small_bytes = SMALL_BYTES;
	must(cudaMalloc((void **)&memory->pool, POOL_BYTES), "pool");
	must(cudaMalloc((void **)&memory->small, SMALL_BYTES), "small");
	must(cudaIpcGetMemHandle(&handle, memory->pool), "handle of the pool");
	memcpy(worker->pool, &handle, sizeof handle);
	must(cudaIpcGetMemHandle(&handle, memory->small), "handle of the small one");
	memcpy(worker->small, &handle, sizeof handle);
	must(cudaHostRegister(worker, sizeof *worker, cudaHostRegisterMapped), "the mark's page");
	must(cudaHostGetDevicePointer(&mark, &worker->mark, 0), "the mark on the device");
	memory->mark = (CUdeviceptr)mark;
	chunks_make(worker, memory, fds);
}

static void fill(const struct worker *worker, const struct memory *memory, const struct fill *command)
{
	if (command->delay_ms)
		delay_kernel<<<1, 1>>>(command->delay_ms);
	fill_kernel<<<256, 256>>>(memory->pool, worker->pool_bytes / 2, command->seed);
	fill_kernel<<<256, 256>>>(memory->small, worker->small_bytes / 2, command->seed);
	fill_kernel<<<256, 256>>>(memory->chunks, WORKER_CHUNKS * worker->chunk_bytes / 2, command->seed);
	must(((PFN_cuStreamWriteValue32_v11070)entry("cuStreamWriteValue32"))(0, memory->mark, command->seed, 0), "mark");
}

static void fds_send(int socket, const int fds[WORKER_CHUNKS])
{
	char byte = 0, control[CMSG_SPACE(sizeof(int) * WORKER_CHUNKS)] = {};
	struct iovec data = {&byte, 1};
	struct msghdr message = {};
	struct cmsghdr *header;

	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof control;
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int) * WORKER_CHUNKS);
	memcpy(CMSG_DATA(header), fds, sizeof(int) * WORKER_CHUNKS);
	if (sendmsg(socket, &message, 0) != 1)
		_exit(3);
}

static int fds_receive(int socket, int fds[WORKER_CHUNKS])
{
	char byte, control[CMSG_SPACE(sizeof(int) * WORKER_CHUNKS)];
	struct iovec data = {&byte, 1};
	struct msghdr message = {};
	struct cmsghdr *header;

	message.msg_iov = &data;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof control;
	if (recvmsg(socket, &message, 0) != 1)
		return -1;
	header = CMSG_FIRSTHDR(&message);
	if (!header || header->cmsg_len != CMSG_LEN(sizeof(int) * WORKER_CHUNKS))
		return -1;
	memcpy(fds, CMSG_DATA(header), sizeof(int) * WORKER_CHUNKS);
	return 0;
}

static void child(struct worker *worker, int socket)
{
	struct memory memory;
	struct fill command;
	int fds[WORKER_CHUNKS];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memory_make(worker, &memory, fds);
	fds_send(socket, fds);
	while (read(socket, &command, sizeof command) == (ssize_t)sizeof command) {
		fill(worker, &memory, &command);
		if (write(socket, "", 1) != 1)
			break;
	}
	_exit(0);
}

struct worker *worker_start(void)
{
	void *shared = mmap(NULL, sizeof(struct worker), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct worker *worker = (struct worker *)shared;
	int ends[2];
	pid_t pid; /* not in the shared struct, where the child would write its 0 */

	if (shared == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends))
		return NULL;
	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return NULL;
	if (pid == 0) {
		close(ends[0]);
		child(worker, ends[1]);
	}
	worker->pid = pid;
	close(ends[1]);
	worker->socket = ends[0];
	return fds_receive(worker->socket, worker->chunks) ? NULL : worker;
}

void worker_fill(struct worker *worker, uint32_t seed, uint32_t delay_ms)
{
	struct fill command = {seed, delay_ms};
	char byte;

	if (write(worker->socket, &command, sizeof command) != (ssize_t)sizeof command ||
	    read(worker->socket, &byte, 1) != 1) {
		fprintf(stderr, "the worker is gone\n");
		exit(2);
	}
}

void worker_kill(struct worker *worker)
{
	kill(worker->pid, SIGKILL);
	waitpid(worker->pid, NULL, 0);
}
