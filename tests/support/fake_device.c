/* See fake_device.h. */
#include "tests/support/fake_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MUST(holds) ((holds) ? (void)0 : broken(__LINE__, #holds))

static void broken(int line, const char *what)
{
	(void)fprintf(stderr, "fake_device.c:%d: %s: %s\n", line, what, strerror(errno));
	abort();
}

static uint8_t *map_at(void *at, uint64_t bytes, int fd)
{
	void *data = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);

	MUST(data != MAP_FAILED);
	return data;
}

static uint8_t *map_handle(const Kvcellar__Attach *attach)
{
	char path[4096];
	struct stat file;
	uint64_t bytes;
	uint8_t *data;
	int fd;

	MUST(attach->handle.len == 64 && memchr(attach->handle.data, 0, 56));
	(void)snprintf(path, sizeof path, "%s/%s", getenv("KVC_FAKE_CUDA_DIR"), (char *)attach->handle.data);
	memcpy(&bytes, attach->handle.data + 56, 8);
	fd = open(path, O_RDWR | O_CLOEXEC);
	MUST(fd >= 0 && fstat(fd, &file) == 0 && (uint64_t)file.st_size == bytes);
	MUST(attach->offset + attach->bytes <= bytes && attach->offset == 0);
	data = map_at(NULL, attach->bytes, fd);
	close(fd);
	return data;
}

uint8_t *fake_device_map(const Kvcellar__Attach *attach, const int *fds, unsigned fd_count)
{
	uint64_t at = 0;
	uint8_t *data;

	MUST(attach->device.len == 16 && memcmp(attach->device.data, "fake-gpu-0000000", 16) == 0);
	MUST(attach->n_chunk_bytes == fd_count);
	if (attach->handle.len)
		return map_handle(attach);
	data = mmap(NULL, attach->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(data != MAP_FAILED);
	for (unsigned i = 0; i < fd_count; i++) {
		struct stat file;

		MUST(fstat(fds[i], &file) == 0 && (uint64_t)file.st_size == attach->chunk_bytes[i]);
		map_at(data + at, attach->chunk_bytes[i], fds[i]);
		at += attach->chunk_bytes[i];
	}
	MUST(at == attach->bytes);
	return data;
}

static void strides_set(uint64_t out[3], const Kvcellar__PoolStrides *strides)
{
	memcpy(out, (uint64_t[]){strides->page, strides->token, strides->head}, 3 * sizeof *out);
}

struct fake_pool fake_pool_make(const Kvcellar__Pool *message, int fd,
                                uint8_t *(*base)(void *context, uint32_t region, uint64_t offset),
                                void *context)
{
	struct fake_pool pool = {.pages = message->pages, .page_tokens = message->page_tokens};

	MUST(message->n_key_bases <= FAKE_POOL_LAYERS && message->n_value_bases <= FAKE_POOL_LAYERS);
	MUST(message->marks == 16);
	pool.marks = (const uint32_t *)(void *)map_at(NULL, message->marks * sizeof *pool.marks, fd);
	strides_set(pool.strides[0], message->key_strides);
	for (size_t i = 0; i < message->n_key_bases; i++)
		pool.bases[0][i] =
		        base(context, message->key_bases[i]->region, message->key_bases[i]->offset);
	if (message->value_strides)
		strides_set(pool.strides[1], message->value_strides);
	for (size_t i = 0; i < message->n_value_bases; i++)
		pool.bases[1][i] =
		        base(context, message->value_bases[i]->region, message->value_bases[i]->offset);
	return pool;
}

bool fake_pool_has_come(const struct fake_pool *pool, const Kvcellar__Mark *mark)
{
	MUST(mark && mark->word < 16 && mark->value);
	return pool->marks[mark->word] - mark->value < UINT32_C(1) << 31;
}

uint8_t *fake_pool_row(const struct fake_pool *pool, const Kvcellar__Block *block, unsigned kind,
                       const uint32_t place[3])
{
	uint32_t token = block->first_token + place[1];
	uint32_t index = token / pool->page_tokens;

	MUST(index < block->n_pages && block->pages[index] < pool->pages);
	return pool->bases[kind][place[0]] + block->pages[index] * pool->strides[kind][0] +
	       token % pool->page_tokens * pool->strides[kind][1] + place[2] * pool->strides[kind][2];
}
