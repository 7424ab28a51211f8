/* Carrying out of faults. Loop thread only; the state is the process's, as tests have one. */
#include "daemon/io/io_fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/io/io_private.h"

static kvc_io_fault_hook fault_hook;
static void *fault_context;
static struct kvc_io_fault fault_next; /* what the hook said about the request that is starting */
static struct kvc_list held = {&held, &held};
static int enter_error;
static uint32_t enter_times;

void kvc_io_fault_install(kvc_io_fault_hook hook, void *context)
{
	fault_hook = hook;
	fault_context = context;
	fault_next.kind = KVC_FAULT_NONE;
}

uint32_t kvc_io_fault_held(void)
{
	uint32_t count = 0;

	kvc_list_each (node, &held)
		count++;
	return count;
}

void kvc_io_fault_release(void)
{
	struct kvc_list released;
	struct kvc_list *node;

	kvc_list_init(&released);
	kvc_list_splice(&released, &held);
	while ((node = kvc_list_pop(&released)))
		kvc_io_requeue(kvc_container_of(node, struct kvc_io_req, node));
}

bool kvc_io_fault_hold(struct kvc_io_req *req)
{
	if (!fault_hook)
		return false;
	fault_next = (struct kvc_io_fault){.kind = KVC_FAULT_NONE};
	fault_hook(fault_context, req, &fault_next);
	if (fault_next.kind != KVC_FAULT_HOLD)
		return false;
	kvc_list_push(&held, &req->node);
	return true;
}

void kvc_io_fault_enter_fails(int error, uint32_t times)
{
	enter_error = error;
	enter_times = times;
}

int kvc_io_fault_enter(void)
{
	if (!enter_times)
		return 0;
	enter_times--;
	return -enter_error;
}

/* --- transfers ------------------------------------------------------------------------------------ */

static uint64_t part_bytes(const struct kvc_io_part *part)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < part->iov_count; i++)
		bytes += part->iov[i].iov_len;
	return bytes;
}

/* Copy between a flat buffer and the part's memory. */
static void part_copy(const struct kvc_io_part *part, uint8_t *flat, uint64_t bytes, bool to_flat)
{
	for (uint32_t i = 0; i < part->iov_count && bytes; i++) {
		uint64_t n = part->iov[i].iov_len < bytes ? part->iov[i].iov_len : bytes;

		if (to_flat)
			memcpy(flat, part->iov[i].iov_base, n);
		else
			memcpy(part->iov[i].iov_base, flat, n);
		flat += n;
		bytes -= n;
	}
}

/* Write `bytes` of a flat buffer, which has room for whole pages; what the file holds behind them in the last
 * page stays. */
static int32_t flat_write(int fd, uint8_t *flat, uint64_t bytes, uint64_t offset)
{
	static _Alignas(KVC_IO_ALIGN) uint8_t page[KVC_IO_ALIGN];
	uint64_t torn = bytes % KVC_IO_ALIGN;
	uint64_t whole = bytes - torn;

	if (torn) {
		memset(page, 0, sizeof page);
		if (pread(fd, page, sizeof page, (off_t)(offset + whole)) < 0)
			return -errno;
		memcpy(flat + whole + torn, page + torn, KVC_IO_ALIGN - torn);
	}
	if (bytes && pwrite(fd, flat, kvc_round_up(bytes, KVC_IO_ALIGN), (off_t)offset) < 0)
		return -errno;
	return (int32_t)bytes;
}

static void flip(uint8_t *flat, uint64_t bytes)
{
	if (fault_next.kind == KVC_FAULT_FLIP && fault_next.bytes < bytes)
		flat[fault_next.bytes] = (uint8_t)(flat[fault_next.bytes] ^ 1u << fault_next.bit);
}

/* Transfer the first `bytes` of the part through a copy. */
static int32_t transfer(const struct kvc_io_req *req, uint64_t bytes, uint64_t offset)
{
	struct kvc_io_part part = kvc_io_part(req);
	uint8_t *flat = aligned_alloc(KVC_IO_ALIGN, kvc_round_up(bytes + 1, KVC_IO_ALIGN));
	int32_t result;

	KVC_INVARIANT(flat);
	if (req->op == KVC_IO_WRITE) {
		part_copy(&part, flat, bytes, true);
		flip(flat, bytes);
		result = flat_write(req->file->fd, flat, bytes, offset);
	} else {
		ssize_t n = pread(req->file->fd, flat, kvc_round_up(bytes, KVC_IO_ALIGN), (off_t)offset);

		result = n < 0 ? -errno : (int32_t)((uint64_t)n < bytes ? (uint64_t)n : bytes);
		flip(flat, bytes);
		part_copy(&part, flat, result > 0 ? (uint64_t)result : 0, false);
	}
	free(flat);
	return result;
}

/* --- faults --------------------------------------------------------------------------------------- */

static int32_t carry_out(const struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	bool moves = req->op == KVC_IO_READ || req->op == KVC_IO_WRITE;
	uint64_t all = moves ? part_bytes(&part) : 0;
	uint64_t some = fault_next.bytes < all ? fault_next.bytes : all;
	int32_t result;

	switch (fault_next.kind) {
	case KVC_FAULT_ERROR:
		return -fault_next.error;
	case KVC_FAULT_LOST:
		return (int32_t)all;
	case KVC_FAULT_SHORT:
		return transfer(req, some, part.offset);
	case KVC_FAULT_TORN:
		result = transfer(req, some, part.offset);
		return result < 0 ? result : (int32_t)all;
	case KVC_FAULT_FLIP:
		return transfer(req, all, part.offset);
	case KVC_FAULT_MISDIRECT:
		return transfer(req, all, fault_next.offset);
	case KVC_FAULT_NONE:
	case KVC_FAULT_HOLD:
		break;
	}
	return kvc_io_perform(req);
}

bool kvc_io_fault_apply(struct kvc_io *io, struct kvc_io_req *req)
{
	if (!fault_hook || fault_next.kind == KVC_FAULT_NONE)
		return false;
	kvc_io_complete(io, req, carry_out(req));
	return true;
}
