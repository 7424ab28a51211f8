/* Decode-like work on the GPU: what a step of token generation looks like to whoever shares the device.
 *
 * A step is many kernels, one behind the other on one stream, each of which reads its part of some gigabytes
 * of weights with all multiprocessors (a matrix times a vector, bound by memory), and then the host waits, as
 * an engine does for its sampled tokens. Two implementations: kernels (step_cuda.cu), and a pause
 * (step_fake.c). */
#ifndef KVC_TESTS_GPU_STEP_H
#define KVC_TESTS_GPU_STEP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct step;

/* About `ms` long when alone: it is measured. In the current context, on a stream of the highest priority. */
struct step *step_open(double ms);
void step_close(struct step *step);

/* Kernels of a step, and bytes that one reads. */
uint32_t step_launches(const struct step *step);
uint64_t step_launch_bytes(const struct step *step);

/* One step; returns when it is done. Milliseconds by the host's clock. */
double step_run(struct step *step);

#ifdef __cplusplus
}
#endif

#endif
