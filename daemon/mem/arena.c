/* The RAM arena: a sealed memfd, mapped for the whole life of the process.
 *
 * The arena owns the descriptor, the mapping and the table of slabs; who reserved a slab owns its bytes. The
 * background thread only touches pages, so that the first use of a slab does not pay for zeroing them; it
 * stops early when memory gets short, and the rest is then touched by its first user. */
#include "daemon/mem/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/base/log.h"
#include "daemon/mem/memory_limit.h"

#define ARENA_BYTES_MIN (1ull << 20)
#define HUGE_BYTES      (2ull << 20)
#define TOUCH_BYTES     (64ull << 20)  /* touched at a time */
#define TOUCH_SPARE     (256ull << 20) /* left to the rest of the machine when touching */
#define MIB(bytes)      ((unsigned long long)((bytes) >> 20))

struct kvc_arena {
	uint64_t bytes;
	uint8_t *base;
	int fd;
	struct kvc_extents *extents;
	kvc_stat_cell *stat_used;
	kvc_stat_cell *stat_slabs;
	kvc_stat_cell *stat_touched; /* also written by the toucher */
	pthread_t toucher;
	bool toucher_runs;
	atomic_bool stop; /* set by close, read by the toucher; the join orders the rest */
};

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; refused before */
#endif

/* --- touching ---------------------------------------------------------------------------------- */

static bool touch_chunk(struct kvc_arena *arena, uint64_t offset, uint64_t bytes)
{
	if (kvc_memory_available() < bytes + TOUCH_SPARE) {
		kvc_warn("memory is short: %llu of %llu MiB of the RAM tier are in place, the rest comes "
		         "with use",
		         MIB(offset), MIB(arena->bytes));
		return false;
	}
	if (madvise(arena->base + offset, bytes, MADV_POPULATE_WRITE)) {
		kvc_warn("touching the RAM tier stopped at %llu of %llu MiB: %s", MIB(offset),
		         MIB(arena->bytes), strerror(errno));
		return false;
	}
	/* A wish: to ask for huge pages is not always enough (shmem_enabled), to ask for them here is. */
	(void)madvise(arena->base + offset, bytes, MADV_COLLAPSE);
	return true;
}

static void *toucher_main(void *context)
{
	struct kvc_arena *arena = context;

	for (uint64_t offset = 0; offset < arena->bytes; offset += TOUCH_BYTES) {
		uint64_t left = arena->bytes - offset;
		uint64_t bytes = left < TOUCH_BYTES ? left : TOUCH_BYTES;

		if (atomic_load_explicit(&arena->stop, memory_order_relaxed) ||
		    !touch_chunk(arena, offset, bytes))
			break;
		kvc_stat_set(arena->stat_touched, (int64_t)(offset + bytes));
	}
	return NULL;
}

/* Signals belong to the loop thread. Without a thread the pages come with use. */
static void toucher_start(struct kvc_arena *arena)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&arena->toucher, NULL, toucher_main, arena);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	arena->toucher_runs = !error;
	if (error)
		kvc_warn("no thread to touch the RAM tier: %s", strerror(error));
}

/* --- mapping ----------------------------------------------------------------------------------- */

static kvc_status limits_check(uint64_t bytes)
{
	uint64_t cgroup = kvc_memory_cgroup_max();
	uint64_t available = kvc_memory_available();

	if (bytes > cgroup) {
		kvc_error("the RAM tier's %llu MiB exceed the control group's memory.max of %llu MiB",
		          MIB(bytes), MIB(cgroup));
		return KVC_NO_MEMORY;
	}
	if (bytes > available)
		kvc_warn("the RAM tier's %llu MiB exceed the %llu MiB that are available now", MIB(bytes),
		         MIB(available));
	return KVC_OK;
}

/* A descriptor of the arena's size that nobody can resize. */
static int memory_create(uint64_t bytes)
{
	int fd = memfd_create("kvcellar-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Give back what was reserved before and behind. */
static void memory_trim(uint8_t *room, uint64_t before, uint64_t bytes)
{
	if (before)
		munmap(room, before);
	munmap(room + before + bytes, HUGE_BYTES - before);
}

/* Where huge pages can be mapped. MAP_FAILED, and errno. */
static void *memory_map(int fd, uint64_t bytes)
{
	uint8_t *room =
	        mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t before;
	void *base;

	if (room == MAP_FAILED)
		return MAP_FAILED;
	before = (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
	base = mmap(room + before, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (base == MAP_FAILED)
		munmap(room, bytes + HUGE_BYTES);
	else
		memory_trim(room, before, bytes);
	return base;
}

static kvc_status memory_open(struct kvc_arena *arena)
{
	void *base = MAP_FAILED;

	arena->fd = memory_create(arena->bytes);
	if (arena->fd >= 0)
		base = memory_map(arena->fd, arena->bytes);
	if (base == MAP_FAILED) {
		kvc_error("cannot map %llu MiB for the RAM tier: %s", MIB(arena->bytes), strerror(errno));
		if (arena->fd >= 0)
			close(arena->fd);
		return KVC_NO_MEMORY;
	}
	arena->base = base;
	/* Both are wishes: without huge pages it is slower, and a core dump is the administrator's to forbid.
	 */
	if (madvise(base, arena->bytes, MADV_HUGEPAGE))
		kvc_debug("no huge pages for the RAM tier: %s", strerror(errno));
	if (madvise(base, arena->bytes, MADV_DONTDUMP))
		kvc_warn("the RAM tier may end up in core dumps: %s", strerror(errno));
	return KVC_OK;
}

static void memory_close(struct kvc_arena *arena)
{
	munmap(arena->base, arena->bytes);
	close(arena->fd);
}

/* --- life -------------------------------------------------------------------------------------- */

static void stats_open(struct kvc_arena *arena, struct kvc_stats *stats)
{
	kvc_stat_set(kvc_stats_cell(stats, "ram.bytes"), (int64_t)arena->bytes);
	arena->stat_used = kvc_stats_cell(stats, "ram.used_bytes");
	arena->stat_slabs = kvc_stats_cell(stats, "ram.slabs");
	arena->stat_touched = kvc_stats_cell(stats, "ram.touched_bytes");
}

kvc_status kvc_arena_open(uint64_t bytes, struct kvc_stats *stats, struct kvc_arena **arena)
{
	struct kvc_arena *opened;
	kvc_status status = limits_check(bytes);

	if (status)
		return status;
	if (bytes < ARENA_BYTES_MIN || bytes / KVC_ARENA_PAGE >= KVC_EXTENT_NONE)
		return KVC_INVALID;
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened)
		return KVC_NO_MEMORY;
	opened->bytes = bytes - bytes % KVC_ARENA_PAGE;
	status = kvc_extents_open((uint32_t)(opened->bytes / KVC_ARENA_PAGE), &opened->extents);
	if (status)
		goto free_arena;
	status = memory_open(opened);
	if (status)
		goto close_extents;
	stats_open(opened, stats);
	toucher_start(opened);
	*arena = opened;
	return KVC_OK;

close_extents:
	kvc_extents_close(opened->extents);
free_arena:
	kvc_free(opened);
	return status;
}

void kvc_arena_close(struct kvc_arena *arena)
{
	atomic_store_explicit(&arena->stop, true, memory_order_relaxed);
	if (arena->toucher_runs)
		pthread_join(arena->toucher, NULL);
	memory_close(arena);
	kvc_extents_close(arena->extents);
	kvc_free(arena);
}

uint64_t kvc_arena_bytes(const struct kvc_arena *arena)
{
	return arena->bytes;
}

uint64_t kvc_arena_used_bytes(const struct kvc_arena *arena)
{
	return arena->bytes - (uint64_t)kvc_extents_free_pages(arena->extents) * KVC_ARENA_PAGE;
}

const uint8_t *kvc_arena_base(const struct kvc_arena *arena)
{
	return arena->base;
}

bool kvc_arena_touched(const struct kvc_arena *arena)
{
	return (uint64_t)kvc_stat_get(arena->stat_touched) >= arena->bytes;
}

int kvc_arena_fd(const struct kvc_arena *arena)
{
	return arena->fd;
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
	if (bytes > arena->bytes)
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
	return arena->base + (uint64_t)kvc_extent_first(arena->extents, slab) * KVC_ARENA_PAGE;
}

uint64_t kvc_slab_bytes(const struct kvc_arena *arena, uint32_t slab)
{
	return (uint64_t)kvc_extent_pages(arena->extents, slab) * KVC_ARENA_PAGE;
}
