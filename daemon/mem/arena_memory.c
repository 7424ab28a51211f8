/* A sealed memfd, mapped for the whole life of the process.
 *
 * The background thread only touches pages, so that the first use of a slab does not pay for zeroing them; it
 * stops early when memory gets short, and the rest is then touched by its first user. */
#include "daemon/mem/arena_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/mem/memory_limit.h"

#define HUGE_BYTES  (2ull << 20)
#define TOUCH_BYTES (64ull << 20)  /* touched at a time */
#define TOUCH_SPARE (256ull << 20) /* left to the rest of the machine when touching */
#define MIB(bytes)  ((unsigned long long)((bytes) >> 20))

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; refused before */
#endif

/* --- touching ---------------------------------------------------------------------------------- */

static bool touch_chunk(struct kvc_arena_memory *memory, uint64_t offset, uint64_t bytes)
{
	if (kvc_memory_available() < bytes + TOUCH_SPARE) {
		kvc_warn("memory is short: %llu of %llu MiB of the RAM tier are in place, the rest comes "
		         "with use",
		         MIB(offset), MIB(memory->bytes));
		return false;
	}
	if (madvise(memory->base + offset, bytes, MADV_POPULATE_WRITE)) {
		kvc_warn("touching the RAM tier stopped at %llu of %llu MiB: %s", MIB(offset),
		         MIB(memory->bytes), strerror(errno));
		return false;
	}
	/* A wish: to ask for huge pages is not always enough (shmem_enabled), to ask for them here is. */
	(void)madvise(memory->base + offset, bytes, MADV_COLLAPSE);
	return true;
}

static void *toucher_main(void *context)
{
	struct kvc_arena_memory *memory = context;

	for (uint64_t offset = 0; offset < memory->bytes; offset += TOUCH_BYTES) {
		uint64_t left = memory->bytes - offset;
		uint64_t bytes = left < TOUCH_BYTES ? left : TOUCH_BYTES;

		if (atomic_load_explicit(&memory->stop, memory_order_relaxed) ||
		    !touch_chunk(memory, offset, bytes))
			break;
		kvc_stat_set(memory->touched, (int64_t)(offset + bytes));
	}
	return NULL;
}

/* Signals belong to the loop thread. Without a thread the pages come with use. */
static void toucher_start(struct kvc_arena_memory *memory)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&memory->toucher, NULL, toucher_main, memory);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	memory->toucher_runs = !error;
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
static void map_trim(uint8_t *room, uint64_t before, uint64_t bytes)
{
	if (before)
		munmap(room, before);
	munmap(room + before + bytes, HUGE_BYTES - before);
}

/* Where huge pages can be mapped. MAP_FAILED, and errno. */
static void *map_aligned(int fd, uint64_t bytes)
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
		map_trim(room, before, bytes);
	return base;
}

static kvc_status map_open(struct kvc_arena_memory *memory)
{
	void *base = MAP_FAILED;

	memory->fd = memory_create(memory->bytes);
	if (memory->fd >= 0)
		base = map_aligned(memory->fd, memory->bytes);
	if (base == MAP_FAILED) {
		kvc_error("cannot map %llu MiB for the RAM tier: %s", MIB(memory->bytes), strerror(errno));
		if (memory->fd >= 0)
			close(memory->fd);
		return KVC_NO_MEMORY;
	}
	memory->base = base;
	/* Both are wishes: without huge pages it is slower, and a core dump is the administrator's to forbid.
	 */
	if (madvise(base, memory->bytes, MADV_HUGEPAGE))
		kvc_debug("no huge pages for the RAM tier: %s", strerror(errno));
	if (madvise(base, memory->bytes, MADV_DONTDUMP))
		kvc_warn("the RAM tier may end up in core dumps: %s", strerror(errno));
	return KVC_OK;
}

void kvc_arena_memory_close(struct kvc_arena_memory *memory)
{
	atomic_store_explicit(&memory->stop, true, memory_order_relaxed);
	if (memory->toucher_runs)
		pthread_join(memory->toucher, NULL);
	munmap(memory->base, memory->bytes);
	close(memory->fd);
}

kvc_status kvc_arena_memory_open(uint64_t bytes, kvc_stat_cell *touched, struct kvc_arena_memory *memory)
{
	kvc_status status = limits_check(bytes);

	if (status)
		return status;
	*memory = (struct kvc_arena_memory){.bytes = bytes, .touched = touched};
	status = map_open(memory);
	if (status == KVC_OK)
		toucher_start(memory);
	return status;
}
