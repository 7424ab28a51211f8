/* Heap memory of control objects. Payload memory comes from daemon/mem.
 *
 * Every allocation can fail and every caller checks. Tests make the n-th one fail (kvc_alloc_fail_at). */
#ifndef KVC_ALLOC_H
#define KVC_ALLOC_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed memory of count * size bytes, NULL on overflow or when there is none. */
void *kvc_calloc(size_t count, size_t size);

/* As realloc, of count * size bytes; new bytes are not zeroed. */
void *kvc_realloc(void *memory, size_t count, size_t size);

void kvc_free(void *memory);

/* For tests: let the n-th allocation from now on (1: the next) fail, and all after it too if `forever`. 0
 * ends it. */
void kvc_alloc_fail_at(uint64_t n, int forever);

/* For tests: allocations so far, and how many are not yet freed. */
uint64_t kvc_alloc_count(void);
int64_t kvc_alloc_live(void);

#endif
