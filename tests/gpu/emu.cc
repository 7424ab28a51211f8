/* Fibres, barriers and exchanges of the emulated GPU: see emu.cuh. One thread block runs at a time; its threads run
 * in turn, each until it waits. A round in which no thread gets on is a deadlock, and ends the program. */
#include "tests/gpu/emu.cuh"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#define THREADS_MAX  1024u
#define BARRIERS     16u
#define STACK_BYTES  65536u
#define SHARED_BYTES 232448u

struct emu_index threadIdx, blockIdx, blockDim, gridDim;

/* Threads that have come, and how often all had. */
struct gate {
	uint32_t come;
	uint64_t round;
};

/* A warp may be one exchange ahead of its slowest thread, so words are kept for two. */
struct warp {
	struct gate gate;
	uint64_t word[2][32];
};

struct fibre {
	jmp_buf here;
	ucontext_t start;
	const struct gate *waits; /* runs when this gate's round is no longer `round` */
	uint64_t round;
	uint64_t exchanges;
	bool begun;
	bool ended;
};

static struct fibre fibres[THREADS_MAX];
static struct warp warps[THREADS_MAX / 32];
static struct gate barriers[BARRIERS];
static struct fibre *current;
static jmp_buf scheduler;
static uint8_t *stacks;
static void (*entry)(void *);
static void *entry_context;
alignas(128) static uint8_t shared_memory[SHARED_BYTES];

uint8_t *dev_shared()
{
	return shared_memory;
}

static void gate_pass(struct gate *gate, uint32_t count)
{
	if (++gate->come == count) {
		gate->come = 0;
		gate->round++;
		return;
	}
	current->waits = gate;
	current->round = gate->round;
	if (_setjmp(current->here) == 0)
		_longjmp(scheduler, 1);
}

void emu_barrier(uint32_t id, uint32_t count)
{
	gate_pass(&barriers[id], count);
}

uint64_t emu_exchange(uint64_t value, uint32_t mask)
{
	struct warp *warp = &warps[threadIdx.x / 32];
	uint32_t lane = threadIdx.x % 32;
	uint64_t *words = warp->word[current->exchanges++ % 2];

	words[lane] = value;
	gate_pass(&warp->gate, 32);
	return words[lane ^ mask];
}

static void fibre_main()
{
	entry(entry_context);
	current->ended = true;
	_longjmp(scheduler, 1);
}

static void fibre_start(struct fibre *fibre, uint32_t number)
{
	fibre->begun = true;
	getcontext(&fibre->start);
	fibre->start.uc_stack.ss_sp = stacks + (size_t)number * STACK_BYTES;
	fibre->start.uc_stack.ss_size = STACK_BYTES;
	fibre->start.uc_link = NULL;
	makecontext(&fibre->start, fibre_main, 0);
	setcontext(&fibre->start);
}

/* Run a thread until it waits or ends; false if it cannot run. */
static bool fibre_step(uint32_t number)
{
	struct fibre *fibre = &fibres[number];

	if (fibre->ended || (fibre->waits && fibre->waits->round == fibre->round))
		return false;
	current = fibre;
	fibre->waits = NULL;
	threadIdx.x = number;
	if (_setjmp(scheduler) != 0)
		return true;
	if (!fibre->begun)
		fibre_start(fibre, number);
	_longjmp(fibre->here, 1);
}

static bool all_ended(uint32_t threads)
{
	for (uint32_t i = 0; i < threads; i++) {
		if (!fibres[i].ended)
			return false;
	}
	return true;
}

static void block_run(uint32_t threads)
{
	memset((void *)fibres, 0, sizeof fibres);
	memset((void *)warps, 0, sizeof warps);
	memset(barriers, 0, sizeof barriers);
	memset(shared_memory, 0xA5, sizeof shared_memory);
	while (!all_ended(threads)) {
		bool moved = false;

		for (uint32_t i = 0; i < threads; i++)
			moved |= fibre_step(i);
		if (!moved) {
			fprintf(stderr, "emulated GPU: threads wait for ever\n");
			abort();
		}
	}
}

void emu_run(void (*call)(void *context), void *context, uint32_t blocks, uint32_t threads, uint32_t shared_bytes)
{
	if (stacks == NULL) {
		stacks = (uint8_t *)mmap(NULL, (size_t)THREADS_MAX * STACK_BYTES, PROT_READ | PROT_WRITE,
		                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (stacks == MAP_FAILED)
			abort();
	}
	if (threads > THREADS_MAX || threads % 32 || shared_bytes > SHARED_BYTES)
		abort();
	entry = call;
	entry_context = context;
	blockDim.x = threads;
	gridDim.x = blocks;
	for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
		block_run(threads);
}

extern "C" kvc_status kvc_kern_status(int cuda_error)
{
	return cuda_error ? KVC_INTERNAL : KVC_OK;
}
