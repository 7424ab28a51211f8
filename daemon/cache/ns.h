/* What the cache keeps of a namespace: see ns.c. Inside daemon/cache only. */
#ifndef KVC_CACHE_NS_H
#define KVC_CACHE_NS_H

#include <stdint.h>

#include "daemon/base/key.h"
#include "kernels/image.h"

struct kvc_cache;
struct kvc_tenant;

/* A namespace that is open, shared by all who opened it. */
struct kvc_ns {
	struct kvc_cache *cache;
	struct kvc_ns *next; /* of its bucket */
	uint32_t refs;
	struct kvc_secret root; /* stands for all of the options: two namespaces with the same are the same */
	struct kvc_secret secret; /* of the tenant's present incarnation */
	uint32_t incarnation;
	uint32_t drops; /* of the tenant, while it is open */
	struct kvc_tenant *tenant;
	struct kvc_image_plan plan;
};

/* Those that are open, by root: clients may have tens of thousands. Zero-initialised: none. */
struct kvc_ns_table {
	struct kvc_ns **buckets;
	uint32_t bucket_count; /* a power of two, or 0 */
	uint32_t count;
};

/* None may be open. */
void kvc_ns_table_close(struct kvc_ns_table *table);

/* The tenant was dropped: its open namespaces are of its present incarnation, so that no key of theirs is one
 * that was used before. */
void kvc_ns_renew(struct kvc_cache *cache, const uint8_t tenant[16]);

#endif
