/* Stands in until the GPU engine is there: no GPU is ever opened, so nothing here is ever called. */
#include "daemon/base/check.h"
#include "daemon/engine/gpu.h"

const uint8_t *kvc_gpu_uuid(const struct kvc_gpu *gpu)
{
	KVC_PRE(!gpu);
	return NULL;
}

kvc_status kvc_device_region_open(struct kvc_gpu *gpu, const struct kvc_gpu_import *import, const int *fds,
                                  void (*done)(void *context, struct kvc_device_region *region,
                                               kvc_status status, const char *detail),
                                  void *context, struct kvc_device_region **region)
{
	(void)gpu, (void)import, (void)fds, (void)done, (void)context, (void)region;
	return KVC_UNSUPPORTED;
}

void kvc_device_region_close(struct kvc_device_region *region, void (*done)(void *context), void *context)
{
	(void)region, (void)done, (void)context;
}

kvc_status kvc_pool_open(struct kvc_gpu *gpu, const struct kvc_pool_options *options,
                         void (*done)(void *context, struct kvc_pool *pool, kvc_status status,
                                      const char *detail),
                         void *context, struct kvc_pool **pool)
{
	(void)gpu, (void)options, (void)done, (void)context, (void)pool;
	return KVC_UNSUPPORTED;
}

void kvc_pool_close(struct kvc_pool *pool, void (*done)(void *context), void *context)
{
	(void)pool, (void)done, (void)context;
}
