/* Which ids end at some time, and when: a heap by time, and a map from ids into it. Costs memory for those
 * ids only: 20 bytes each and 16 to 32 of the map, in tables that double. Every call but `first` is O(log n).
 * Knows no clock. */
#ifndef KVC_EXPIRY_H
#define KVC_EXPIRY_H

#include <stdint.h>

#include "daemon/cache/idmap.h"
#include "proto/kvc_status.h"

#define KVC_EXPIRY_NONE 0xFFFFFFFFu

/* Zero-initialised: empty. */
struct kvc_expiry {
	struct kvc_expiry_cell *cells;
	uint32_t *heap; /* of cells; behind the first `count` the cells that are free */
	uint32_t count;
	uint32_t capacity;
	struct kvc_idmap by_id; /* its cell */
};

void kvc_expiry_close(struct kvc_expiry *expiry);

/* An id that is not there ends at that time. KVC_NO_MEMORY: nothing was done. */
kvc_status kvc_expiry_add(struct kvc_expiry *expiry, uint32_t id, uint64_t ends_ms);

/* Of an id that is there. */
uint64_t kvc_expiry_get(const struct kvc_expiry *expiry, uint32_t id);
void kvc_expiry_set(struct kvc_expiry *expiry, uint32_t id, uint64_t ends_ms);
void kvc_expiry_remove(struct kvc_expiry *expiry, uint32_t id);

/* The id that ends first, or KVC_EXPIRY_NONE. */
uint32_t kvc_expiry_first(const struct kvc_expiry *expiry, uint64_t *ends_ms);

/* Bytes of memory that it has taken. */
uint64_t kvc_expiry_bytes(const struct kvc_expiry *expiry);

#endif
