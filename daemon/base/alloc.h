/* Heap memory of control objects. Payload memory comes from daemon/mem.
 *
 * Every allocation can fail and every caller checks. Tests make the n-th one fail (kvc_alloc_fail_at). */
#ifndef KVC_ALLOC_H
#define KVC_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVC_HUGE_BYTES (2u << 20)

/* Zeroed memory of count * size bytes, NULL on overflow or when there is none. */
void *kvc_calloc(size_t count, size_t size);

/* As realloc, of count * size bytes; new bytes are not zeroed. */
void *kvc_realloc(void *memory, size_t count, size_t size);

void kvc_free(void *memory);

/* Large pieces, for what is reached in no order: at multiples of KVC_HUGE_BYTES, zeroed; with `huge` in huge
 * pages, where the system gives them, and then all of it is taken at the first use. `bytes` is a multiple of
 * KVC_HUGE_BYTES, and the same in all calls. NULL if there is no memory. */
void *kvc_huge_alloc(size_t bytes, bool huge);

/* All of a piece is in use: the system may lay it in huge pages when it comes round to it. */
void kvc_huge_settle(void *memory, size_t bytes);
void kvc_huge_free(void *memory, size_t bytes);

/* For tests: let the n-th allocation from now on (1: the next) fail, and all after it too if `forever`. 0
 * ends it. */
void kvc_alloc_fail_at(uint64_t n, int forever);

/* For tests: allocations so far, and how many are not yet freed. */
uint64_t kvc_alloc_count(void);
int64_t kvc_alloc_live(void);

#endif
