/* Every heap allocation of the client library. Goes to malloc, calloc and free unless a test has put its own
 * functions in place, which it does before any client exists and while no other thread is in the library. */
#ifndef KVCC_ALLOC_H
#define KVCC_ALLOC_H

#include <stddef.h>

struct kvcc_allocator {
	void *(*alloc)(size_t bytes);  /* as malloc */
	void (*release)(void *memory); /* as free */
};

/* NULL if there is no memory, or if count * bytes overflows. Contents are undefined. */
void *kvcc_alloc(size_t count, size_t bytes);

/* The same, zeroed. */
void *kvcc_alloc_zero(size_t count, size_t bytes);

/* NULL is allowed. */
void kvcc_free(void *memory);

/* For tests: NULL puts malloc and free back. Borrowed until the next call. */
void kvcc_alloc_set(const struct kvcc_allocator *allocator);

#endif
