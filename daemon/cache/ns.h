/* What the cache keeps of a namespace: see ns.c. Inside daemon/cache only. */
#ifndef KVC_CACHE_NS_H
#define KVC_CACHE_NS_H

#include <stdint.h>

#include "daemon/base/key.h"
#include "daemon/base/list.h"
#include "kernels/image.h"

struct kvc_cache;
struct kvc_tenant;

/* A namespace that is open, shared by all who opened it. */
struct kvc_ns {
	struct kvc_cache *cache;
	struct kvc_list node;
	uint32_t refs;
	struct kvc_secret
	        secret; /* stands for all of the options: two namespaces with the same are the same */
	struct kvc_tenant *tenant;
	struct kvc_image_plan plan;
};

#endif
