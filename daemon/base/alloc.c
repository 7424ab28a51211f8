/* Counted, failable heap. The counters are relaxed atomics: they order nothing. */
#include "daemon/base/alloc.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

static atomic_uint_fast64_t count_total;
static atomic_int_fast64_t count_live;
static atomic_uint_fast64_t fail_at; /* ordinal of the allocation that fails, 0: none */
static atomic_int fail_forever;

static bool must_fail(void)
{
	uint64_t n = atomic_fetch_add_explicit(&count_total, 1, memory_order_relaxed) + 1;
	uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);

	return at && (n == at || (n > at && atomic_load_explicit(&fail_forever, memory_order_relaxed)));
}

static void *counted(void *memory)
{
	if (memory)
		atomic_fetch_add_explicit(&count_live, 1, memory_order_relaxed);
	return memory;
}

void *kvc_calloc(size_t count, size_t size)
{
	return must_fail() ? NULL : counted(calloc(count, size));
}

void *kvc_realloc(void *memory, size_t count, size_t size)
{
	size_t bytes;
	void *grown;

	if (must_fail() || __builtin_mul_overflow(count, size, &bytes))
		return NULL;
	grown = realloc(memory, bytes);
	return memory ? grown : counted(grown);
}

void kvc_free(void *memory)
{
	if (!memory)
		return;
	atomic_fetch_sub_explicit(&count_live, 1, memory_order_relaxed);
	free(memory);
}

/* What was mapped around an aligned piece goes back. */
static void *trimmed(uint8_t *room, size_t bytes)
{
	size_t before = (KVC_HUGE_BYTES - (uintptr_t)room % KVC_HUGE_BYTES) % KVC_HUGE_BYTES;

	if (before)
		munmap(room, before);
	munmap(room + before + bytes, KVC_HUGE_BYTES - before);
	return room + before;
}

void *kvc_huge_alloc(size_t bytes, bool huge)
{
	void *room = MAP_FAILED;
	void *memory;

	if (!must_fail())
		room = mmap(NULL, bytes + KVC_HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		            -1, 0);
	if (room == MAP_FAILED)
		return NULL;
	memory = trimmed(room, bytes);
	if (huge)
		kvc_huge_settle(memory, bytes);
	return counted(memory);
}

/* A wish. Not MADV_COLLAPSE, for which the caller would wait milliseconds. */
void kvc_huge_settle(void *memory, size_t bytes)
{
	(void)madvise(memory, bytes, MADV_HUGEPAGE);
}

void kvc_huge_free(void *memory, size_t bytes)
{
	if (!memory)
		return;
	atomic_fetch_sub_explicit(&count_live, 1, memory_order_relaxed);
	munmap(memory, bytes);
}

void kvc_alloc_fail_at(uint64_t n, int forever)
{
	uint64_t now = atomic_load_explicit(&count_total, memory_order_relaxed);

	atomic_store_explicit(&fail_forever, forever, memory_order_relaxed);
	atomic_store_explicit(&fail_at, n ? now + n : 0, memory_order_relaxed);
}

uint64_t kvc_alloc_count(void)
{
	return atomic_load_explicit(&count_total, memory_order_relaxed);
}

int64_t kvc_alloc_live(void)
{
	return atomic_load_explicit(&count_live, memory_order_relaxed);
}
