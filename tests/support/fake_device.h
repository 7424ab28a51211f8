/* Device memory as the fake daemon opens it: the daemon's end of tests/fake/libcuda.c. Everything asserts. */
#ifndef KVC_TESTS_FAKE_DEVICE_H
#define KVC_TESTS_FAKE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kvcellar.pb-c.h"

#define FAKE_POOL_LAYERS 8u

struct fake_pool {
	uint64_t pages;
	uint32_t page_tokens;
	uint64_t strides[2][3]; /* page, token, head */
	uint8_t *bases[2][FAKE_POOL_LAYERS];
	const uint32_t *marks; /* mapped until the end of the process */
};

/* Map what the attach names; `fds` are its descriptors. */
uint8_t *fake_device_map(const Kvcellar__Attach *attach, const int *fds, unsigned fd_count);

/* base(context, region, offset): the address of that byte; `fd`: of the marks. */
struct fake_pool fake_pool_make(const Kvcellar__Pool *message, int fd,
                                uint8_t *(*base)(void *context, uint32_t region, uint64_t offset),
                                void *context);

/* The client's stream has come to the request. */
bool fake_pool_has_come(const struct fake_pool *pool, const Kvcellar__Mark *mark);

/* A row of a token of the block, counted from its first. */
uint8_t *fake_pool_row(const struct fake_pool *pool, const Kvcellar__Block *block, unsigned kind,
                       const uint32_t place[3]); /* layer, token, head */

#endif
