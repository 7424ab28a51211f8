/* Where things lie in a pool of equal pages: a good-fit allocator of runs of pages, O(1), pure. It does not
 * touch the pool's memory, so it serves RAM, VRAM or a file alike.
 *
 * Free runs hang in bins by size (8 steps a power of two); neighbours are known by handles, so that freeing
 * merges. */
#ifndef KVC_EXTENT_H
#define KVC_EXTENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kvc_status.h"

struct kvc_extents;

#define KVC_EXTENT_NONE 0xFFFFFFFFu

kvc_status kvc_extents_open(uint32_t pages, struct kvc_extents **extents);
void kvc_extents_close(struct kvc_extents *extents);

/* Reserve `pages` > 0 in one run. KVC_NO_SPACE: no run is that long (of free runs that are less than 1/8
 * longer, only the first 32 are looked at). KVC_NO_MEMORY: no node for it. */
kvc_status kvc_extent_reserve(struct kvc_extents *extents, uint32_t pages, uint32_t *handle);

/* Give back all but the first `pages` > 0 of a run. KVC_NO_MEMORY: nothing was done. */
kvc_status kvc_extent_shrink(struct kvc_extents *extents, uint32_t handle, uint32_t pages);

void kvc_extent_release(struct kvc_extents *extents, uint32_t handle);

uint32_t kvc_extent_first(const struct kvc_extents *extents, uint32_t handle);
uint32_t kvc_extent_pages(const struct kvc_extents *extents, uint32_t handle);

uint32_t kvc_extents_free_pages(const struct kvc_extents *extents);

/* Checks every link; for tests. */
bool kvc_extents_consistent(const struct kvc_extents *extents);

#endif
