/* The RAM arena: memory (arena_memory.c) and a table of slabs. Who reserved a slab owns its bytes. */
#include "daemon/mem/arena.h"

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/mem/arena_memory.h"
#include "daemon/mem/extent.h"

#define ARENA_BYTES_MIN (1ull << 20)

struct kvc_arena {
	struct kvc_arena_memory memory;
	struct kvc_extents *extents;
	kvc_stat_cell *stat_used;
	kvc_stat_cell *stat_slabs;
};

/* --- life -------------------------------------------------------------------------------------- */

static void stats_open(struct kvc_arena *arena, struct kvc_stats *stats)
{
	kvc_stat_set(kvc_stats_cell(stats, "ram.bytes"), (int64_t)arena->memory.bytes);
	arena->stat_used = kvc_stats_cell(stats, "ram.used_bytes");
	arena->stat_slabs = kvc_stats_cell(stats, "ram.slabs");
}

kvc_status kvc_arena_open(uint64_t bytes, struct kvc_stats *stats, struct kvc_arena **arena)
{
	struct kvc_arena *opened;
	kvc_status status;

	if (bytes < ARENA_BYTES_MIN || bytes / KVC_ARENA_PAGE >= KVC_EXTENT_NONE)
		return KVC_INVALID;
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened)
		return KVC_NO_MEMORY;
	status = kvc_arena_memory_open(bytes - bytes % KVC_ARENA_PAGE,
	                               kvc_stats_cell(stats, "ram.touched_bytes"), &opened->memory);
	if (status)
		goto free_arena;
	status = kvc_extents_open((uint32_t)(bytes / KVC_ARENA_PAGE), &opened->extents);
	if (status)
		goto close_memory;
	stats_open(opened, stats);
	*arena = opened;
	return KVC_OK;

close_memory:
	kvc_arena_memory_close(&opened->memory);
free_arena:
	kvc_free(opened);
	return status;
}

void kvc_arena_close(struct kvc_arena *arena)
{
	kvc_arena_memory_close(&arena->memory);
	kvc_extents_close(arena->extents);
	kvc_free(arena);
}

uint64_t kvc_arena_bytes(const struct kvc_arena *arena)
{
	return arena->memory.bytes;
}

uint64_t kvc_arena_used_bytes(const struct kvc_arena *arena)
{
	return arena->memory.bytes - (uint64_t)kvc_extents_free_pages(arena->extents) * KVC_ARENA_PAGE;
}

const uint8_t *kvc_arena_base(const struct kvc_arena *arena)
{
	return arena->memory.base;
}

bool kvc_arena_touched(const struct kvc_arena *arena)
{
	return (uint64_t)kvc_stat_get(arena->memory.touched) >= arena->memory.bytes;
}

int kvc_arena_fd(const struct kvc_arena *arena)
{
	return arena->memory.fd;
}

/* --- slabs ------------------------------------------------------------------------------------- */

static uint32_t pages_of(uint64_t bytes)
{
	return (uint32_t)(kvc_round_up(bytes, KVC_ARENA_PAGE) / KVC_ARENA_PAGE);
}

static void used_update(struct kvc_arena *arena)
{
	kvc_stat_set(arena->stat_used, (int64_t)kvc_arena_used_bytes(arena));
}

kvc_status kvc_slab_reserve(struct kvc_arena *arena, uint64_t bytes, uint32_t *slab)
{
	kvc_status status;

	KVC_PRE(bytes > 0);
	if (bytes > arena->memory.bytes)
		return KVC_NO_SPACE;
	status = kvc_extent_reserve(arena->extents, pages_of(bytes), slab);
	if (status)
		return status;
	kvc_stat_add(arena->stat_slabs, 1);
	used_update(arena);
	return KVC_OK;
}

kvc_status kvc_slab_shrink(struct kvc_arena *arena, uint32_t slab, uint64_t bytes)
{
	kvc_status status;

	KVC_PRE(bytes > 0 && bytes <= kvc_slab_bytes(arena, slab));
	status = kvc_extent_shrink(arena->extents, slab, pages_of(bytes));
	used_update(arena);
	return status;
}

void kvc_slab_release(struct kvc_arena *arena, uint32_t slab)
{
	kvc_extent_release(arena->extents, slab);
	kvc_stat_add(arena->stat_slabs, -1);
	used_update(arena);
}

uint8_t *kvc_slab_data(const struct kvc_arena *arena, uint32_t slab)
{
	return arena->memory.base + (uint64_t)kvc_extent_first(arena->extents, slab) * KVC_ARENA_PAGE;
}

uint64_t kvc_slab_bytes(const struct kvc_arena *arena, uint32_t slab)
{
	return (uint64_t)kvc_extent_pages(arena->extents, slab) * KVC_ARENA_PAGE;
}
