/* Registering memory with a ring. See uring_memory.h. */
#include "daemon/io/uring_memory.h"

#include <signal.h>
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"

#define PIECE_BYTES (256ull << 20) /* by default: few blocks lie across two, and pinning one is quick */
#define PIECE_MAX   (1ull << 30)   /* of the kernel */
#define PIECES_MAX  16384u         /* likewise */

static uint64_t length_of(const struct kvc_uring_memory *memory, uint32_t piece)
{
	uint64_t offset = piece * memory->piece_bytes;
	uint64_t left = memory->bytes - offset;

	return left < memory->piece_bytes ? left : memory->piece_bytes;
}

static uint32_t pieces_of(const struct kvc_uring_memory *memory)
{
	uint64_t pieces = (memory->bytes + memory->piece_bytes - 1) / memory->piece_bytes;

	return pieces < PIECES_MAX ? (uint32_t)pieces : PIECES_MAX;
}

static void *memory_main(void *context)
{
	struct kvc_uring_memory *memory = context;
	uint32_t pieces = pieces_of(memory);

	for (uint32_t i = 0; i < pieces && !atomic_load_explicit(&memory->stop, memory_order_relaxed); i++) {
		struct iovec piece = {memory->base + i * memory->piece_bytes, length_of(memory, i)};
		int result = io_uring_register_buffers_update_tag(memory->ring, i, &piece, NULL, 1);

		if (result != 1) {
			kvc_warn("%u of %u MiB of RAM are registered for disk requests, which cost more "
			         "processor "
			         "time without: %s",
			         (unsigned)(i * memory->piece_bytes >> 20), (unsigned)(memory->bytes >> 20),
			         strerror(-result));
			break;
		}
		atomic_store_explicit(&memory->ready, i + 1, memory_order_release);
	}
	return NULL;
}

/* Signals stay with the loop thread. */
static int thread_start(struct kvc_uring_memory *memory)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&memory->thread, NULL, memory_main, memory);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

void kvc_uring_memory_start(struct kvc_uring_memory *memory, struct io_uring *ring, void *base,
                            uint64_t bytes, uint64_t piece_bytes)
{
	int error;

	KVC_PRE(!memory->runs && bytes > 0 && (piece_bytes & (piece_bytes - 1)) == 0);
	memory->ring = ring;
	memory->base = base;
	memory->bytes = bytes;
	memory->piece_bytes = piece_bytes ? piece_bytes : PIECE_BYTES;
	while (memory->piece_bytes < PIECE_MAX && bytes / memory->piece_bytes >= PIECES_MAX)
		memory->piece_bytes *= 2;
	error = -io_uring_register_buffers_sparse(ring, pieces_of(memory));
	if (!error)
		error = thread_start(memory);
	memory->runs = !error;
	if (error)
		kvc_info("no RAM is registered for disk requests: %s", strerror(error));
}

void kvc_uring_memory_stop(struct kvc_uring_memory *memory)
{
	if (!memory->runs)
		return;
	atomic_store_explicit(&memory->stop, true, memory_order_relaxed);
	pthread_join(memory->thread, NULL);
	memory->runs = false;
}

int kvc_uring_memory_piece(const struct kvc_uring_memory *memory, const struct iovec *part)
{
	uint32_t ready = atomic_load_explicit(&memory->ready, memory_order_acquire);
	uintptr_t offset = (uintptr_t)part->iov_base - (uintptr_t)memory->base;
	uint64_t piece;

	if (!ready || (uintptr_t)part->iov_base < (uintptr_t)memory->base || offset >= memory->bytes)
		return -1;
	piece = offset / memory->piece_bytes;
	if (piece >= ready ||
	    part->iov_len > length_of(memory, (uint32_t)piece) - offset % memory->piece_bytes)
		return -1;
	return (int)piece;
}

uint64_t kvc_uring_memory_bytes(const struct kvc_uring_memory *memory)
{
	uint64_t bytes = atomic_load_explicit(&memory->ready, memory_order_acquire) * memory->piece_bytes;

	return bytes < memory->bytes ? bytes : memory->bytes;
}
