/* The little that tests and benches of the kernels need of a GPU's memory, in plain C. Two implementations:
 * CUDA (gpu_cuda.cu), and the emulated one on the CPU (gpu_emu.c). Errors end the program: these are tests.
 */
#ifndef KVC_TESTS_GPU_GPU_H
#define KVC_TESTS_GPU_GPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "emulated" or the device's name. */
const char *gpu_name(void);
int gpu_is_emulated(void);
uint32_t gpu_sms(void);

void *gpu_alloc(size_t bytes);
void gpu_free(void *memory);
void gpu_put(void *device, const void *host, size_t bytes);
void gpu_get(void *host, const void *device, size_t bytes);
void gpu_fill(void *device, int byte, size_t bytes);

/* Wait for all work; ends the program if some of it failed. */
void gpu_wait(void);

/* Seconds between two calls, measured by the device. */
void gpu_timer_start(void);
double gpu_timer_stop(void);

/* Copy within the device. */
void gpu_copy(void *to, const void *from, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
