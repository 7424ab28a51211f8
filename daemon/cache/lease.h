/* What the cache keeps of pins: see lease.c. Inside daemon/cache only. */
#ifndef KVC_CACHE_LEASE_H
#define KVC_CACHE_LEASE_H

#include <stdint.h>

#include "daemon/cache/idmap.h"

struct kvc_cache;
struct kvc_lease;

/* One lease's hold on one entry. */
struct kvc_pin {
	struct kvc_lease *lease;
	uint32_t prev; /* of the same entry; KVC_IDMAP_NONE: none */
	uint32_t next; /* also of those that are free */
};

struct kvc_pins {
	struct kvc_pin *of; /* `room` of them */
	uint32_t room;
	uint32_t used;          /* numbers ever used */
	uint32_t free;          /* list through next */
	struct kvc_idmap first; /* pin of each entry that has any */
};

/* The entry is dropped: its pins end, and their references with them. */
void kvc_pins_dropped(struct kvc_cache *cache, uint32_t id);

void kvc_pins_close(struct kvc_pins *pins);

#endif
