/* The allocator hook. One pointer, set by tests only, read without a lock: see alloc.h. */
#include "client/alloc.h"

#include <stdlib.h>
#include <string.h>

static const struct kvcc_allocator heap = {malloc, free};
static const struct kvcc_allocator *current = &heap;

void kvcc_alloc_set(const struct kvcc_allocator *allocator)
{
	current = allocator ? allocator : &heap;
}

void *kvcc_alloc(size_t count, size_t bytes)
{
	size_t total;

	if (__builtin_mul_overflow(count, bytes, &total))
		return NULL;
	return current->alloc(total ? total : 1);
}

void *kvcc_alloc_zero(size_t count, size_t bytes)
{
	void *memory = kvcc_alloc(count, bytes);

	if (memory)
		memset(memory, 0, count * bytes);
	return memory;
}

void kvcc_free(void *memory)
{
	current->release(memory);
}
