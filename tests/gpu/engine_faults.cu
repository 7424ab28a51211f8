/* Part of kvcellar-engine-faulty: on SIGUSR1 a kernel writes to an address that is nobody's, in the engine's own
 * context, as a broken kernel of the engine's would. */
#include <cuda_runtime.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static __global__ void illegal_kernel(uint64_t address)
{
	*(volatile uint32_t *)address = 1;
}

static void *wait_for_signal(void *context)
{
	const char *ordinal = getenv("KVC_FAULTY_ORDINAL");
	sigset_t *signals = (sigset_t *)context;
	int number;

	while (sigwait(signals, &number) == 0) {
		fprintf(stderr, "engine_faults: an illegal access\n");
		cudaSetDevice(ordinal ? atoi(ordinal) : 0);
		illegal_kernel<<<1, 1>>>(0x10);
	}
	return NULL;
}

/* Before main, so that all threads of the process inherit the mask. */
__attribute__((constructor)) static void engine_faults_start(void)
{
	static sigset_t signals;
	pthread_t thread;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	if (pthread_create(&thread, NULL, wait_for_signal, &signals))
		abort();
	pthread_detach(thread);
}
