/* See pinner.h. The thread first lets the kernel put the pages in place, which holds no lock of the driver's,
 * and then pins them, which does. */
#include "daemon/gpu/pinner.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "daemon/base/errno.h"
#include "daemon/base/log.h"

#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

kvc_status kvc_pinner_open(struct kvc_pinner *pinner, struct kvc_dev *dev, int fd, uint64_t bytes)
{
	struct stat stat;
	void *arena;

	if (fstat(fd, &stat))
		return kvc_status_of_errno(errno);
	if (bytes == 0 || (uint64_t)stat.st_size < bytes)
		return KVC_INVALID;
	arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (arena == MAP_FAILED)
		return kvc_status_of_errno(errno);
	/* Wishes: without huge pages pinning is slower. */
	(void)madvise(arena, bytes, MADV_HUGEPAGE);
	(void)madvise(arena, bytes, MADV_DONTDUMP);
	*pinner = (struct kvc_pinner){.dev = dev, .arena = arena, .bytes = bytes};
	return KVC_OK;
}

static uint64_t lesser(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool chunk_pin(struct kvc_pinner *pinner, uint64_t offset, uint64_t bytes)
{
	kvc_status status;

	/* If memory is short the pinning says so. */
	(void)madvise(pinner->arena + offset, bytes, MADV_POPULATE_WRITE);
	status = kvc_dev_pin(pinner->dev, pinner->arena + offset, bytes);
	if (status)
		kvc_warn("pinning stopped at %llu of %llu MiB of the RAM tier, copies to the rest are "
		         "slower: %s",
		         MIB(offset), MIB(pinner->bytes), kvc_dev_why());
	return status == KVC_OK;
}

static void *pinner_main(void *context)
{
	struct kvc_pinner *pinner = context;

	for (uint64_t offset = 0; offset < pinner->bytes; offset += KVC_PIN_BYTES) {
		uint64_t bytes = lesser(KVC_PIN_BYTES, pinner->bytes - offset);

		if (!chunk_pin(pinner, offset, bytes))
			break;
		atomic_store_explicit(&pinner->pinned, offset + bytes, memory_order_relaxed);
	}
	atomic_store_explicit(&pinner->ended, true, memory_order_relaxed);
	return NULL;
}

void kvc_pinner_start(struct kvc_pinner *pinner)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, pinner_main, pinner);

	if (error == 0) {
		(void)pthread_detach(thread); /* it is no other's, and joinable */
		return;
	}
	atomic_store_explicit(&pinner->ended, true, memory_order_relaxed);
	kvc_warn("no thread to pin the RAM tier, copies are slower: %s", strerror(error));
}

/* What can be copied at once of `bytes` from `offset`. */
static uint64_t part(uint64_t offset, uint64_t bytes)
{
	return lesser(bytes, KVC_PIN_BYTES - offset % KVC_PIN_BYTES);
}

kvc_status kvc_pinner_copy_up(struct kvc_pinner *pinner, uint64_t to, uint64_t offset, uint64_t bytes,
                              struct kvc_dev_stream *stream)
{
	kvc_status status = KVC_OK;

	while (status == KVC_OK && bytes) {
		uint64_t now = part(offset, bytes);

		status = kvc_dev_copy_up(pinner->dev, to, pinner->arena + offset, now, stream);
		to += now;
		offset += now;
		bytes -= now;
	}
	return status;
}

kvc_status kvc_pinner_copy_down(struct kvc_pinner *pinner, uint64_t offset, uint64_t from, uint64_t bytes,
                                struct kvc_dev_stream *stream)
{
	kvc_status status = KVC_OK;

	while (status == KVC_OK && bytes) {
		uint64_t now = part(offset, bytes);

		status = kvc_dev_copy_down(pinner->dev, pinner->arena + offset, from, now, stream);
		from += now;
		offset += now;
		bytes -= now;
	}
	return status;
}
