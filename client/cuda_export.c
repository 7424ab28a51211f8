/* Exporting device memory. cudaMalloc memory has an IPC handle for the whole allocation. VMM memory has none:
 * it is walked chunk by chunk, and each chunk gives a descriptor if it was created for that.
 *
 * Extents are taken in the order of their addresses, so each lies in the export made last, or goes on from
 * it, or needs a new one. One extent must lie in one export: a base has one region. */
#include "client/cuda_export.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/alloc.h"
#include "client/fail.h"

struct walk {
	const struct kvcc_cuda *cuda;
	struct kvcc_exports *exports;
	size_t room; /* of exports->items */
};

void kvcc_export_free(struct kvcc_export *item)
{
	for (uint32_t i = 0; i < item->chunks; i++)
		(void)close(item->fds[i]);
	kvcc_free(item);
}

void kvcc_exports_free(struct kvcc_exports *exports)
{
	for (size_t i = 0; i < exports->count; i++) {
		if (exports->items[i])
			kvcc_export_free(exports->items[i]);
	}
	kvcc_free(exports->items);
	*exports = (struct kvcc_exports){NULL, 0, 0};
}

/* ---- what an address is -------------------------------------------------------------------- */

kvc_status kvcc_export_device(const struct kvcc_cuda *cuda, kvcc_cu_address address, int *device)
{
	unsigned type = 0;

	if (cuda->pointer_attribute(&type, KVCC_CU_ATTRIBUTE_MEMORY_TYPE, address) != 0 ||
	    type != KVCC_CU_MEMORY_DEVICE ||
	    cuda->pointer_attribute(device, KVCC_CU_ATTRIBUTE_DEVICE_ORDINAL, address) != 0)
		return kvcc_fail(KVC_INVALID, "address 0x%llx is not in device memory of this process",
		                 address);
	return KVC_OK;
}

static bool is_ipc_capable(const struct kvcc_cuda *cuda, kvcc_cu_address address)
{
	int capable = 0;

	return cuda->pointer_attribute(&capable, KVCC_CU_ATTRIBUTE_IS_IPC_CAPABLE, address) == 0 && capable;
}

/* The mapping that holds an address: one chunk of VMM memory. Drivers before 11.8 do not tell mappings, but
 * their ranges are those. */
static bool mapping_at(const struct kvcc_cuda *cuda, kvcc_cu_address address, kvcc_cu_address *base,
                       uint64_t *bytes)
{
	size_t size = 0;

	*base = 0;
	if (cuda->pointer_attribute(base, KVCC_CU_ATTRIBUTE_MAPPING_BASE, address) != 0 ||
	    cuda->pointer_attribute(&size, KVCC_CU_ATTRIBUTE_MAPPING_SIZE, address) != 0) {
		if (cuda->address_range(base, &size, address) != 0)
			return false;
	}
	*bytes = size;
	return size > 0 && *base <= address && address - *base < size;
}

/* ---- exports ------------------------------------------------------------------------------- */

static kvc_status item_add(struct walk *walk, struct kvcc_export **item)
{
	struct kvcc_exports *exports = walk->exports;
	struct kvcc_export *added = kvcc_alloc_zero(1, sizeof(*added));

	KVCC_INVARIANT(exports->count < walk->room); /* one an extent */
	if (!added)
		return kvcc_fail(KVC_NO_MEMORY, "no memory to register a pool");
	exports->items[exports->count++] = added;
	*item = added;
	return KVC_OK;
}

static kvc_status export_allocation(struct walk *walk, const struct kvcc_extent *extent)
{
	const struct kvcc_cuda *cuda = walk->cuda;
	struct kvcc_export *item = NULL;
	kvcc_cu_address base = 0;
	size_t bytes = 0;
	kvcc_cu_result error = cuda->address_range(&base, &bytes, extent->address);
	kvc_status status;

	if (error != 0)
		return kvcc_cuda_fail(cuda, error, "cannot find the allocation of the pool");
	status = item_add(walk, &item);
	if (status != KVC_OK)
		return status;
	item->address = base;
	item->bytes = bytes;
	item->by_handle = true;
	error = cuda->ipc_memory(item->handle, base);
	return error == 0 ? KVC_OK : kvcc_cuda_fail(cuda, error, "cannot export the pool's memory");
}

static kvc_status not_exportable(kvcc_cu_address address)
{
	return kvcc_fail(
	        KVC_UNSUPPORTED,
	        "the memory at 0x%llx was not created exportable: use cudaMalloc, or cuMemCreate with "
	        "CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR (PyTorch: without expandable_segments, or "
	        "with a version that makes them exportable)",
	        address);
}

static kvc_status export_chunk(const struct kvcc_cuda *cuda, kvcc_cu_address address, int *fd)
{
	unsigned long long handle = 0;
	kvcc_cu_result error = cuda->retain_chunk(&handle, (void *)(uintptr_t)address);

	if (error != 0)
		return not_exportable(address);
	*fd = -1;
	error = cuda->export_chunk(fd, handle, KVCC_CU_HANDLE_POSIX, 0);
	(void)cuda->release_chunk(handle);
	return error == 0 && *fd >= 0 ? KVC_OK : not_exportable(address);
}

static void chunks_cut(struct kvcc_export *item, uint32_t count)
{
	while (item->chunks > count) {
		item->chunks--;
		(void)close(item->fds[item->chunks]);
		item->bytes -= item->chunk_bytes[item->chunks];
	}
}

/* Add chunks until the export reaches `end`. KVC_LIMIT: it would have too many; it is as it was then. */
static kvc_status chunks_extend(const struct kvcc_cuda *cuda, struct kvcc_export *item, kvcc_cu_address end)
{
	uint32_t before = item->chunks;

	while (item->address + item->bytes < end) {
		kvcc_cu_address next = item->address + item->bytes;
		kvcc_cu_address base;
		uint64_t bytes;
		kvc_status status;

		if (item->chunks == KVCC_CHUNKS_MAX) {
			chunks_cut(item, before);
			return KVC_LIMIT;
		}
		if (!mapping_at(cuda, next, &base, &bytes) || base != next)
			return kvcc_fail(KVC_SHAPE,
			                 "the pool's pages go beyond the memory that is mapped at 0x%llx",
			                 next);
		status = export_chunk(cuda, next, &item->fds[item->chunks]);
		if (status != KVC_OK)
			return status;
		item->chunk_bytes[item->chunks++] = bytes;
		item->bytes += bytes;
	}
	return KVC_OK;
}

static kvc_status export_chunks(struct walk *walk, const struct kvcc_extent *extent)
{
	kvcc_cu_address end = extent->address + extent->bytes;
	struct kvcc_export *item = NULL;
	kvcc_cu_address base;
	uint64_t bytes;
	kvc_status status;

	if (!mapping_at(walk->cuda, extent->address, &base, &bytes))
		return not_exportable(extent->address);
	status = item_add(walk, &item);
	if (status != KVC_OK)
		return status;
	item->address = base;
	status = chunks_extend(walk->cuda, item, end);
	if (status == KVC_LIMIT)
		return kvcc_fail(
		        KVC_UNSUPPORTED,
		        "the pages of one layer lie in more than %u chunks of VMM memory: use larger "
		        "chunks, or cudaMalloc",
		        KVCC_CHUNKS_MAX);
	return status;
}

/* ---- extents ------------------------------------------------------------------------------- */

static bool holds(const struct kvcc_export *item, const struct kvcc_extent *extent)
{
	return extent->address >= item->address && extent->address - item->address <= item->bytes &&
	       extent->bytes <= item->bytes - (extent->address - item->address);
}

/* Find or make the export of the extent; it is the last one then. */
static kvc_status extent_export(struct walk *walk, const struct kvcc_extent *extent)
{
	struct kvcc_exports *exports = walk->exports;
	struct kvcc_export *last = exports->count ? exports->items[exports->count - 1] : NULL;
	kvc_status status;

	if (last && holds(last, extent))
		return KVC_OK;
	if (is_ipc_capable(walk->cuda, extent->address))
		return export_allocation(walk, extent);
	if (last && !last->by_handle && extent->address <= last->address + last->bytes) {
		status = chunks_extend(walk->cuda, last, extent->address + extent->bytes);
		if (status != KVC_LIMIT)
			return status;
	}
	return export_chunks(walk, extent);
}

static kvc_status extent_place(struct walk *walk, struct kvcc_extent *extent)
{
	struct kvcc_exports *exports = walk->exports;
	const struct kvcc_export *item;
	int device = -1;
	kvc_status status = kvcc_export_device(walk->cuda, extent->address, &device);

	if (status == KVC_OK && device != exports->device)
		status = kvcc_fail(KVC_INVALID, "the pool lies on more than one GPU: %d and %d",
		                   exports->device, device);
	if (status == KVC_OK)
		status = extent_export(walk, extent);
	if (status != KVC_OK)
		return status;
	item = exports->items[exports->count - 1];
	if (!holds(item, extent))
		return kvcc_fail(KVC_SHAPE,
		                 "the pool's pages take %llu bytes from 0x%llx, the allocation has %llu from "
		                 "0x%llx",
		                 (unsigned long long)extent->bytes, extent->address,
		                 (unsigned long long)item->bytes, item->address);
	extent->region = exports->count - 1;
	extent->offset = extent->address - item->address;
	return KVC_OK;
}

static int by_address(const void *a, const void *b)
{
	const struct kvcc_extent *const *x = a;
	const struct kvcc_extent *const *y = b;

	return ((*x)->address > (*y)->address) - ((*x)->address < (*y)->address);
}

kvc_status kvcc_export(const struct kvcc_cuda *cuda, struct kvcc_extent *extents, size_t count,
                       struct kvcc_exports *exports)
{
	struct kvcc_extent **sorted = kvcc_alloc(count, sizeof(*sorted));
	struct walk walk = {cuda, exports, count};
	kvc_status status;

	*exports = (struct kvcc_exports){kvcc_alloc_zero(count, sizeof(*exports->items)), 0, -1};
	if (!sorted || !exports->items) {
		kvcc_free(sorted);
		kvcc_exports_free(exports);
		return kvcc_fail(KVC_NO_MEMORY, "no memory to register a pool");
	}
	for (size_t i = 0; i < count; i++)
		sorted[i] = &extents[i];
	qsort(sorted, count, sizeof(struct kvcc_extent *), by_address);
	status = kvcc_export_device(cuda, sorted[0]->address, &exports->device);
	for (size_t i = 0; status == KVC_OK && i < count; i++)
		status = extent_place(&walk, sorted[i]);
	kvcc_free(sorted);
	if (status != KVC_OK)
		kvcc_exports_free(exports);
	return status;
}
