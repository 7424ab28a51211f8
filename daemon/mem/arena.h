/* The RAM arena: one memfd, mapped once, cut into slabs by daemon/mem/extent. A slab holds one record
 * (daemon/tier/ record.h), so that it goes to disk and to a GPU without a copy.
 *
 * Reserved at start: the size is checked against RLIMIT and the cgroup, huge pages are asked for, and a
 * background thread touches all pages, so that no request pays for them. Loop thread only, except the memory
 * itself. */
#ifndef KVC_ARENA_H
#define KVC_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/mem/extent.h"
#include "daemon/stats/stats.h"
#include "proto/kvc_status.h"

#define KVC_ARENA_PAGE 4096u

struct kvc_arena;

/* bytes: rounded down to pages, at least 1 MiB. */
kvc_status kvc_arena_open(uint64_t bytes, struct kvc_stats *stats, struct kvc_arena **arena);
void kvc_arena_close(struct kvc_arena *arena);

uint64_t kvc_arena_bytes(const struct kvc_arena *arena);
uint64_t kvc_arena_used_bytes(const struct kvc_arena *arena);
/* Where it is mapped: slabs lie behind this. */
const uint8_t *kvc_arena_base(const struct kvc_arena *arena);
/* All pages are in place. Without enough memory to spare it never becomes true. */
bool kvc_arena_touched(const struct kvc_arena *arena);
int kvc_arena_fd(const struct kvc_arena *arena);

/* As the functions of daemon/mem/extent.h, in bytes. */
kvc_status kvc_slab_reserve(struct kvc_arena *arena, uint64_t bytes, uint32_t *slab);
kvc_status kvc_slab_shrink(struct kvc_arena *arena, uint32_t slab, uint64_t bytes);
void kvc_slab_release(struct kvc_arena *arena, uint32_t slab);
uint8_t *kvc_slab_data(const struct kvc_arena *arena, uint32_t slab);
uint64_t kvc_slab_bytes(const struct kvc_arena *arena, uint32_t slab);

#endif
