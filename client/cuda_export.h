/* From device addresses to what another process can open: the allocations in which a pool lies. */
#ifndef KVCC_CUDA_EXPORT_H
#define KVCC_CUDA_EXPORT_H

#include <stdbool.h>

#include "client/cuda_driver.h"

#define KVCC_CHUNKS_MAX 240u /* descriptors of one region: the daemon takes so many with a frame */

/* Device memory under one id: an allocation by its IPC handle, or chunks of VMM memory that lie one behind
 * the other, by descriptors. */
struct kvcc_export {
	kvcc_cu_address address;
	uint64_t bytes;
	bool by_handle;
	uint8_t handle[KVCC_CUDA_HANDLE_BYTES];
	uint32_t chunks;
	int fds[KVCC_CHUNKS_MAX];
	uint64_t chunk_bytes[KVCC_CHUNKS_MAX];
};

/* A run of bytes to be reached, and where it is found. */
struct kvcc_extent {
	kvcc_cu_address address;
	uint64_t bytes;
	size_t region; /* out: index of its export */
	uint64_t offset;
};

struct kvcc_exports {
	struct kvcc_export **items;
	size_t count;
	int device; /* that all of it is on */
};

/* Export all that the extents lie in, each allocation once. KVC_INVALID (no device memory, or of more than
 * one GPU), KVC_SHAPE (beyond an allocation), KVC_UNSUPPORTED (not created exportable; too many chunks),
 * KVC_NO_MEMORY; nothing is left to free then. A context of the device must be current. */
kvc_status kvcc_export(const struct kvcc_cuda *cuda, struct kvcc_extent *extents, size_t count,
                       struct kvcc_exports *exports);

/* Closes the descriptors of those still there. */
void kvcc_exports_free(struct kvcc_exports *exports);
void kvcc_export_free(struct kvcc_export *item);

/* The GPU that an address is on. KVC_INVALID: it is no device memory. */
kvc_status kvcc_export_device(const struct kvcc_cuda *cuda, kvcc_cu_address address, int *device);

#endif
