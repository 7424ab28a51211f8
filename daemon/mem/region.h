/* A client's memory, mapped: a memfd that it created, sealed against shrinking, and passed to us once.
 *
 * Counted references: the session's own and one for each operation that reads or writes it; unmapped with the
 * last. Loop thread only, except the bytes themselves, which the client may change at any time: read each
 * once. */
#ifndef KVC_REGION_H
#define KVC_REGION_H

#include <stdint.h>

#include "proto/kvc_status.h"

struct kvc_region {
	uint8_t *data;
	uint64_t bytes;
	uint32_t refs;
};

/* Map `bytes` of the descriptor, which stays the caller's. Checks that it is a memfd of at least that size
 * with F_SEAL_SHRINK, readable and writable. KVC_INVALID (not a memfd, not sealed, too small), KVC_NO_MEMORY;
 * *why is a static text. */
kvc_status kvc_region_open(int memfd, uint64_t bytes, struct kvc_region **region, const char **why);

/* The same checks alone, for who has it mapped by another process. NULL: all is well; else a static text. */
const char *kvc_region_check(int memfd, uint64_t bytes);

struct kvc_region *kvc_region_ref(struct kvc_region *region);
void kvc_region_unref(struct kvc_region *region);

#endif
