/* Memory that the daemon can reach: a sealed memfd, mapped here and attached there under a region's id. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/internal.h"

#define MEMFD_NAME "kvcellar"

/* ---- regions ------------------------------------------------------------------------------- */

void kvcc_region_ref(struct kvcc_region *region)
{
	region->refs++;
}

void kvcc_region_unref(struct kvc_client *client, struct kvcc_region *region)
{
	KVCC_INVARIANT(region->refs > 0);
	if (--region->refs > 0)
		return;
	region->retired = true;
	client->chores = true;
	if (region->gone && region->gone->waiter) /* who waits for it does the chores */
		kvcc_wake(client, region->gone->waiter);
}

void kvcc_region_free(struct kvcc_region *region)
{
	kvcc_list_remove(&region->node);
	if (region->fd >= 0)
		(void)close(region->fd);
	for (unsigned i = 0; i < region->fd_count; i++)
		(void)close(region->fds[i]);
	kvcc_free(region->fds);
	kvcc_free(region->parts);
	kvcc_free(region->frame.bytes);
	if (region->gone)
		region->gone->left--;
	kvcc_free(region);
}

/* Takes fd, also on failure. */
static struct kvcc_region *region_new(int fd, uint64_t bytes)
{
	struct kvcc_region *region = kvcc_alloc_zero(1, sizeof(*region));

	if (!region) {
		(void)close(fd);
		return NULL;
	}
	kvcc_list_init(&region->node);
	region->refs = 1;
	region->fd = fd;
	region->bytes = bytes;
	return region;
}

/* ---- mapping ------------------------------------------------------------------------------- */

static kvc_status no_memory(const char *what, uint64_t bytes)
{
	return kvcc_fail(KVC_NO_MEMORY, "cannot %s %llu bytes of shared memory: %s", what,
	                 (unsigned long long)bytes, strerror(errno));
}

kvc_status kvcc_memfd_make(uint64_t bytes, int *fd)
{
	int f = memfd_create(MEMFD_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (f < 0)
		return no_memory("allocate", bytes);
	if (ftruncate(f, (off_t)bytes) == 0 && fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0) {
		*fd = f;
		return KVC_OK;
	}
	(void)no_memory("allocate", bytes);
	(void)close(f);
	return KVC_NO_MEMORY;
}

/* All pages at once: the first use of each would cost a fault here and one in the daemon, and if they are not
 * to be had that is said now, not by SIGBUS later. Huge pages where the system gives them. */
static kvc_status populate(int fd, void *data, uint64_t bytes)
{
	(void)madvise(data, bytes, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
	if (madvise(data, bytes, MADV_POPULATE_WRITE) == 0)
		return KVC_OK;
	if (errno != EINVAL)
		return no_memory("populate", bytes);
#endif
	return fallocate(fd, 0, 0, (off_t)bytes) == 0 ? KVC_OK : no_memory("populate", bytes);
}

/* at: NULL, or what to replace. NULL: the error text says why. */
static void *map(int fd, void *at, uint64_t bytes)
{
	void *mapped = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);

	if (mapped != MAP_FAILED)
		return mapped;
	(void)no_memory("map", bytes);
	return NULL;
}

/* ---- memories ------------------------------------------------------------------------------ */

static kvc_status round_up(uint64_t bytes, uint64_t *rounded)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	if (bytes == 0 || bytes > (uint64_t)INT64_MAX - page)
		return kvcc_fail(KVC_INVALID, "%llu bytes of memory: expected 1 to 2^63",
		                 (unsigned long long)bytes);
	*rounded = (bytes + page - 1) / page * page;
	return KVC_OK;
}

/* Takes fd and data, also on failure. */
static kvc_status memory_new(struct kvc_client *client, int fd, void *data, uint64_t bytes, bool imported,
                             struct kvc_memory **memory)
{
	struct kvc_memory *m = kvcc_alloc_zero(1, sizeof(*m));
	struct kvcc_region *region = region_new(fd, bytes);
	kvc_status status =
	        m && region ? kvcc_enter(client) : kvcc_fail(KVC_NO_MEMORY, "no memory for a memory");

	if (status != KVC_OK) {
		if (region)
			kvcc_region_free(region);
		kvcc_free(m);
		(void)munmap(data, bytes);
		return status;
	}
	m->client = client;
	m->data = data;
	m->bytes = bytes;
	m->region = region;
	region->id = client->next_id++;
	region->imported = imported;
	kvcc_list_append(&client->regions, &region->node);
	kvcc_list_append(&client->memories, &m->node);
	kvcc_leave(client);
	*memory = m;
	return KVC_OK;
}

kvc_status kvc_memory_create(struct kvc_client *client, uint64_t bytes, struct kvc_memory **memory)
{
	kvc_status status;
	void *data;
	int fd;

	if (!client || !memory)
		return kvcc_fail(KVC_INVALID, "kvc_memory_create: no client, or nowhere to put the memory");
	status = round_up(bytes, &bytes);
	if (status == KVC_OK)
		status = kvcc_memfd_make(bytes, &fd);
	if (status != KVC_OK)
		return status;
	data = map(fd, NULL, bytes);
	status = data ? populate(fd, data, bytes) : KVC_NO_MEMORY;
	if (status == KVC_OK)
		return memory_new(client, fd, data, bytes, false, memory);
	if (data)
		(void)munmap(data, bytes);
	(void)close(fd);
	return status;
}

static kvc_status check_memfd(int memfd, uint64_t bytes)
{
	int seals = fcntl(memfd, F_GET_SEALS);
	int mode = fcntl(memfd, F_GETFL);
	struct stat file;

	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return kvcc_fail(KVC_INVALID,
		                 "descriptor %d is no memfd sealed with F_SEAL_SHRINK: the daemon maps "
		                 "nothing that could be cut short",
		                 memfd);
	if ((mode & O_ACCMODE) != O_RDWR || seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return kvcc_fail(
		        KVC_INVALID,
		        "descriptor %d cannot be written: a get puts blocks there, so it must be open for "
		        "both, and have no seal against writing",
		        memfd);
	if (bytes == 0 || fstat(memfd, &file) != 0 || (uint64_t)file.st_size < bytes)
		return kvcc_fail(KVC_INVALID, "%llu bytes are not in descriptor %d",
		                 (unsigned long long)bytes, memfd);
	return KVC_OK;
}

kvc_status kvc_memory_import(struct kvc_client *client, int memfd, uint64_t bytes, struct kvc_memory **memory)
{
	kvc_status status;
	void *data;
	int fd;

	if (!client || !memory)
		return kvcc_fail(KVC_INVALID, "kvc_memory_import: no client, or nowhere to put the memory");
	status = check_memfd(memfd, bytes);
	if (status != KVC_OK)
		return status;
	fd = fcntl(memfd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return no_memory("import", bytes);
	data = map(fd, NULL, bytes);
	if (!data) {
		(void)close(fd);
		return KVC_NO_MEMORY;
	}
	return memory_new(client, fd, data, bytes, true, memory);
}

void *kvc_memory_data(struct kvc_memory *memory)
{
	return memory->data;
}

uint64_t kvc_memory_bytes(const struct kvc_memory *memory)
{
	return memory->bytes;
}

/* (L) The requests that are still unanswered keep the old region, and its pages, to themselves. */
static kvc_status renew(struct kvc_client *client, struct kvc_memory *memory, struct kvcc_region *region)
{
	struct kvcc_region *old = memory->region;

	if (old->holds[KVCC_HOLD_USER] > 0)
		return kvcc_fail(KVC_IN_USE,
		                 "%u requests on this memory are pending: renew it when they are complete",
		                 old->holds[KVCC_HOLD_USER]);
	if (!map(region->fd, memory->data, memory->bytes))
		return KVC_NO_MEMORY;
	region->id = client->next_id++;
	kvcc_list_append(&client->regions, &region->node);
	memory->region = region;
	kvcc_region_unref(client, old);
	return KVC_OK;
}

static kvc_status make_region(uint64_t bytes, struct kvcc_region **region)
{
	kvc_status status;
	void *data;
	int fd;

	status = kvcc_memfd_make(bytes, &fd);
	if (status != KVC_OK)
		return status;
	data = map(fd, NULL, bytes);
	status = data ? populate(fd, data, bytes) : KVC_NO_MEMORY;
	if (data)
		(void)munmap(data, bytes);
	if (status != KVC_OK) {
		(void)close(fd);
		return status;
	}
	*region = region_new(fd, bytes);
	return *region ? KVC_OK : kvcc_fail(KVC_NO_MEMORY, "no memory for a memory");
}

kvc_status kvc_memory_renew(struct kvc_memory *memory)
{
	struct kvcc_region *region;
	struct kvc_client *client;
	kvc_status status;

	if (!memory)
		return kvcc_fail(KVC_INVALID, "kvc_memory_renew: no memory");
	if (memory->region->imported)
		return kvcc_fail(KVC_UNSUPPORTED,
		                 "imported memory cannot be renewed: destroy it and import another");
	client = memory->client;
	status = make_region(memory->bytes, &region);
	if (status != KVC_OK)
		return status;
	status = kvcc_enter(client);
	if (status == KVC_OK) {
		status = renew(client, memory, region);
		kvcc_leave(client);
	}
	if (status != KVC_OK)
		kvcc_region_free(region);
	return status;
}

void kvcc_memory_free(struct kvc_memory *memory)
{
	kvcc_list_remove(&memory->node);
	(void)munmap(memory->data, memory->bytes);
	kvcc_free(memory);
}

void kvcc_region_wait_unused(struct kvc_client *client, struct kvcc_region *region)
{
	struct kvcc_waiter waiter;

	while (region->holds[KVCC_HOLD_USER] > 0) {
		kvcc_waiter_init(&waiter);
		region->waiter = &waiter;
		kvcc_wait(client, &client->waiters, &waiter, client->earliest_ns);
		region->waiter = NULL;
		kvcc_waiter_destroy(&waiter);
		kvcc_calls_expire(client, kvcc_now_ns());
	}
}

void kvc_memory_destroy(struct kvc_memory *memory)
{
	struct kvc_client *client;

	if (!memory)
		return;
	client = memory->client;
	if (kvcc_enter(client) != KVC_OK)
		return; /* a forked child: kvc_client_destroy frees it */
	kvcc_region_wait_unused(client, memory->region);
	kvcc_region_unref(client, memory->region);
	kvcc_memory_free(memory);
	kvcc_leave(client);
}
