/* Client memory: checks of the descriptor, mapping, counted references. Loop thread.
 *
 * What makes a mapping safe to touch: F_SEAL_SHRINK, so that no page lies behind the end of the file, and
 * ordinary shmem pages. Huge pages of hugetlbfs are refused: their owner can punch a hole, and if the pool is
 * empty when we touch it the kernel answers with SIGBUS. Ordinary pages come back zeroed.
 *
 * Nothing is populated here. Populating all of a sparse file would allocate, on our account and on the loop
 * thread, memory that nobody may ever use; the pages of a block are mapped by the worker thread that first
 * codes it, and stay mapped for as long as the region is attached. */
#include "daemon/mem/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"

/* NULL if the seals allow the mapping, else what is wrong. */
static const char *seals_check(int memfd)
{
	int seals = fcntl(memfd, F_GET_SEALS);

	if (seals < 0)
		return "descriptor is not a memfd (memfd_create with MFD_ALLOW_SEALING)";
	if (!(seals & F_SEAL_SHRINK))
		return "memfd is not sealed against shrinking (F_ADD_SEALS, F_SEAL_SHRINK)";
	if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return "memfd is sealed against writing";
	return NULL;
}

static const char *kind_check(int memfd)
{
	struct statfs fs;
	int flags = fcntl(memfd, F_GETFL);

	if (flags < 0 || (flags & O_ACCMODE) != O_RDWR)
		return "memfd is not open for reading and writing";
	if (fstatfs(memfd, &fs) || (fs.f_type != TMPFS_MAGIC))
		return "memfd has huge pages of hugetlbfs (MFD_HUGETLB), which are not taken";
	return NULL;
}

static const char *size_check(int memfd, uint64_t bytes)
{
	struct stat stat;

	if (fstat(memfd, &stat) || !S_ISREG(stat.st_mode))
		return "descriptor is not a memfd";
	if (bytes == 0)
		return "size of the region is 0";
	if (stat.st_size < 0 || bytes > (uint64_t)stat.st_size || bytes > PTRDIFF_MAX)
		return "memfd is smaller than the region";
	return NULL;
}

/* Advice only: a kernel that does not take it is no failure. KV data does not belong into a core dump. */
static void advise(void *data, size_t bytes)
{
	(void)madvise(data, bytes, MADV_DONTDUMP);
	(void)madvise(data, bytes, MADV_HUGEPAGE);
}

static kvc_status map(int memfd, struct kvc_region *region, const char **why)
{
	void *data = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (data == MAP_FAILED) {
		*why = "memfd cannot be mapped";
		return kvc_status_of_errno(errno);
	}
	advise(data, region->bytes);
	region->data = data;
	return KVC_OK;
}

const char *kvc_region_check(int memfd, uint64_t bytes)
{
	const char *why = seals_check(memfd);

	if (!why)
		why = kind_check(memfd);
	return why ? why : size_check(memfd, bytes);
}

kvc_status kvc_region_open(int memfd, uint64_t bytes, struct kvc_region **region, const char **why)
{
	struct kvc_region *opened;
	kvc_status status;

	KVC_PRE(memfd >= 0);
	*why = kvc_region_check(memfd, bytes);
	if (*why)
		return KVC_INVALID;
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened) {
		*why = "out of memory";
		return KVC_NO_MEMORY;
	}
	*opened = (struct kvc_region){.bytes = bytes, .refs = 1};
	status = map(memfd, opened, why);
	if (status != KVC_OK)
		kvc_free(opened);
	else
		*region = opened;
	return status;
}

struct kvc_region *kvc_region_ref(struct kvc_region *region)
{
	KVC_PRE(region->refs > 0 && region->refs < UINT32_MAX);
	region->refs++;
	return region;
}

void kvc_region_unref(struct kvc_region *region)
{
	KVC_PRE(region->refs > 0);
	if (--region->refs)
		return;
	KVC_INVARIANT(munmap(region->data, region->bytes) == 0);
	kvc_free(region);
}
