/* A GPU engine without process or GPU: gpu.h in memory, under the test's control. Linked instead of the real
 * one into the tests of daemon/rpc. It runs no jobs: those belong to the cache. */
#ifndef KVC_TEST_FAKE_GPU_H
#define KVC_TEST_FAKE_GPU_H

#include "daemon/engine/gpu.h"

/* GPU n; its UUID is "fake-gpu-000000" and the digit. */
struct kvc_gpu *kvc_fake_gpu_open(struct kvc_loop *loop, unsigned n);

/* Everything that was opened at it must be closed. */
void kvc_fake_gpu_close(struct kvc_gpu *gpu);

/* Hold answers back until kvc_fake_gpu_release. */
void kvc_fake_gpu_hold(struct kvc_gpu *gpu, bool hold);

/* Answer the oldest held one; false: there is none. */
bool kvc_fake_gpu_release(struct kvc_gpu *gpu);
unsigned kvc_fake_gpu_held(const struct kvc_gpu *gpu);

/* What opens from now on ends with this status (KVC_OK: it works), or is refused at once if `at_once`. */
void kvc_fake_gpu_fail(struct kvc_gpu *gpu, kvc_status status, bool at_once);

/* Open now, also those whose close is held. */
unsigned kvc_fake_gpu_regions(const struct kvc_gpu *gpu);
unsigned kvc_fake_gpu_pools(const struct kvc_gpu *gpu);

/* What the last region and pool were opened with. */
const struct kvc_gpu_import *kvc_fake_gpu_import(const struct kvc_gpu *gpu);
const struct kvc_pool_options *kvc_fake_gpu_pool(const struct kvc_gpu *gpu); /* bases are gone */
unsigned kvc_fake_gpu_bases(const struct kvc_gpu *gpu);

#endif
