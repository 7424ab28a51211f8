/* See fake_cuda.h. */
#include "tests/support/fake_cuda.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 2 << 20 };

#define MUST(holds) ((holds) ? (void)0 : broken(__LINE__, #holds))

static void broken(int line, const char *what)
{
	(void)fprintf(stderr, "fake_cuda.c:%d: %s: %s\n", line, what, kvc_last_error());
	abort();
}

static const struct kvcc_cuda *driver;
static void *context;

/* ---- the driver ---------------------------------------------------------------------------- */

/* Loaded by its path, it is what the name stands for from then on. */
static void load_beside(void)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 64);
	char *bin;

	MUST(length > 0);
	path[length] = 0;
	bin = strstr(path, "/tests/");
	MUST(bin);
	(void)strcpy(bin, "/tests/fake/libcuda.so.1");
	if (!dlopen(path, RTLD_NOW)) {
		(void)fprintf(stderr, "%s\n", dlerror());
		abort();
	}
}

void kvc_test_cuda_enter(void)
{
	MUST(driver->context_push(context) == 0);
}

void kvc_test_cuda_use(int device)
{
	void *other;

	MUST(driver->primary_retain(&other, device) == 0);
	MUST(driver->context_push(other) == 0);
}

const struct kvcc_cuda *kvc_test_cuda_open(const char *folder)
{
	MUST(setenv("KVC_FAKE_CUDA_DIR", folder, 1) == 0);
	load_beside();
	MUST(kvcc_cuda_load(&driver) == KVC_OK);
	MUST(driver->primary_retain(&context, 0) == 0);
	kvc_test_cuda_enter();
	return driver;
}

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

unsigned kvc_test_cuda_files(const char *folder, const char *kind)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	unsigned count = 0;

	MUST(dir);
	while ((entry = readdir(dir)))
		count += begins(entry->d_name, kind);
	closedir(dir);
	return count;
}

/* ---- VMM memory ---------------------------------------------------------------------------- */

struct properties {
	int type;
	int handle_types;
	int location_type;
	int location;
	void *metadata;
	unsigned char flags[8];
};

struct access_ {
	int location_type;
	int location;
	int flags;
};

static void *symbol(const char *name)
{
	void *found = dlsym(dlopen("libcuda.so.1", RTLD_NOW), name);

	MUST(found);
	return found;
}

void kvc_test_cuda_fail(const char *function)
{
	*(const char **)symbol("fake_failing") = function;
}

void kvc_test_cuda_stall(bool stall)
{
	*(bool *)symbol("fake_stalled") = stall;
}

uint64_t kvc_test_cuda_writes(void)
{
	return *(uint64_t *)symbol("fake_stream_writes");
}

static uint8_t *chunks_map(uint64_t bytes, bool exportable)
{
	struct properties properties = {.type = 1, .handle_types = exportable, .location_type = 1};
	struct access_ access = {1, 0, 3};
	int (*reserve)(kvcc_cu_address *, size_t, size_t, kvcc_cu_address, unsigned long long);
	int (*create)(unsigned long long *, size_t, const struct properties *, unsigned long long);
	int (*map)(kvcc_cu_address, size_t, size_t, unsigned long long, unsigned long long);
	int (*set_access)(kvcc_cu_address, size_t, const struct access_ *, size_t);
	kvcc_cu_address base = 0;

	*(void **)&reserve = symbol("cuMemAddressReserve");
	*(void **)&create = symbol("cuMemCreate");
	*(void **)&map = symbol("cuMemMap");
	*(void **)&set_access = symbol("cuMemSetAccess");
	MUST(reserve(&base, bytes, 0, 0, 0) == 0);
	for (uint64_t at = 0; at < bytes; at += CHUNK_BYTES) {
		unsigned long long chunk;

		MUST(create(&chunk, CHUNK_BYTES, &properties, 0) == 0);
		MUST(map(base + at, CHUNK_BYTES, 0, chunk, 0) == 0);
		MUST(driver->release_chunk(chunk) == 0);
	}
	MUST(set_access(base, bytes, &access, 1) == 0);
	return (uint8_t *)(uintptr_t)base;
}

static void chunks_unmap(uint8_t *base, uint64_t bytes)
{
	int (*unmap)(kvcc_cu_address, size_t);
	int (*address_free)(kvcc_cu_address, size_t);

	*(void **)&unmap = symbol("cuMemUnmap");
	*(void **)&address_free = symbol("cuMemAddressFree");
	MUST(unmap((uintptr_t)base, bytes) == 0);
	MUST(address_free((uintptr_t)base, bytes) == 0);
}

/* ---- pools --------------------------------------------------------------------------------- */

static uint8_t *allocate(uint64_t bytes)
{
	kvcc_cu_address address = 0;

	MUST(driver->memory_alloc(&address, bytes) == 0);
	return (uint8_t *)(uintptr_t)address;
}

static void memory_make(struct kvc_test_pool *pool)
{
	uint64_t bytes = pool->layer_bytes * pool->layers;
	bool chunks = pool->backing == KVC_TEST_CHUNKS || pool->backing == KVC_TEST_PRIVATE;

	pool->reserved_bytes = (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES * CHUNK_BYTES;
	if (chunks)
		pool->layer[0] = chunks_map(pool->reserved_bytes, pool->backing == KVC_TEST_CHUNKS);
	else if (pool->backing == KVC_TEST_ALLOCATION)
		pool->layer[0] = allocate(bytes);
	for (uint32_t i = 0; i < pool->layers; i++)
		pool->layer[i] = pool->backing == KVC_TEST_ALLOCATIONS
		                         ? allocate(pool->layer_bytes)
		                         : pool->layer[0] + i * pool->layer_bytes;
}

void kvc_test_pool_make(struct kvc_test_pool *pool, enum kvc_test_arrangement arrangement,
                        enum kvc_test_backing backing)
{
	uint64_t row = pool->dim * 2u;
	uint64_t page = row * pool->heads * pool->page_tokens;
	uint64_t value_offset = page;

	MUST(pool->layers <= KVC_TEST_POOL_LAYERS);
	pool->arrangement = arrangement;
	pool->backing = backing;
	pool->strides = (struct kvc_pool_strides){page, row * pool->heads, row};
	if (arrangement == KVC_TEST_KV_FIRST || arrangement == KVC_TEST_HEAD_FIRST)
		value_offset = page * pool->pages;
	if (arrangement == KVC_TEST_HEAD_FIRST)
		pool->strides = (struct kvc_pool_strides){page, row, row * pool->page_tokens};
	if (arrangement == KVC_TEST_PAGE_FIRST)
		pool->strides.page = 2 * page;
	if (arrangement == KVC_TEST_FUSED) {
		value_offset = row;
		pool->strides = (struct kvc_pool_strides){2 * page, 2 * row, 2 * row * pool->page_tokens};
	}
	pool->layer_bytes = (arrangement == KVC_TEST_LATENT ? 1 : 2) * page * pool->pages;
	memory_make(pool);
	for (uint32_t i = 0; i < pool->layers; i++) {
		pool->bases[0][i] = pool->layer[i];
		pool->bases[1][i] = pool->layer[i] + value_offset;
	}
}

void kvc_test_pool_free(struct kvc_test_pool *pool)
{
	if (pool->backing == KVC_TEST_CHUNKS || pool->backing == KVC_TEST_PRIVATE) {
		chunks_unmap(pool->layer[0], pool->reserved_bytes);
		return;
	}
	for (uint32_t i = 0; i < (pool->backing == KVC_TEST_ALLOCATION ? 1 : pool->layers); i++)
		MUST(driver->memory_free((uintptr_t)pool->layer[i]) == 0);
}

uint16_t *kvc_test_pool_row(const struct kvc_test_pool *pool, unsigned kind, uint32_t layer, uint32_t page,
                            uint32_t token, uint32_t head)
{
	const uint8_t *base = pool->bases[kind][layer];

	return (uint16_t *)(uintptr_t)(base + page * pool->strides.page + token * pool->strides.token +
	                               head * pool->strides.head);
}

struct kvc_pool_options kvc_test_pool_options(const struct kvc_test_pool *pool)
{
	struct kvc_pool_options options;

	kvc_pool_options_init(&options);
	options.layers = pool->layers;
	options.page_tokens = pool->page_tokens;
	options.pages = pool->pages;
	options.key_bases = pool->bases[0];
	options.key_strides = options.value_strides = pool->strides;
	if (pool->arrangement != KVC_TEST_LATENT)
		options.value_bases = pool->bases[1];
	return options;
}

size_t kvc_test_pool_elements(const struct kvc_test_pool *pool, uint32_t tokens)
{
	size_t kinds = pool->arrangement == KVC_TEST_LATENT ? 1 : 2;

	return kinds * pool->layers * tokens * pool->heads * pool->dim;
}

void kvc_test_pool_copy(const struct kvc_test_pool *pool, const struct kvc_block *block, uint16_t *flat,
                        bool to_pool)
{
	uint32_t rows = pool->layers * block->tokens * pool->heads;
	unsigned kinds = pool->arrangement == KVC_TEST_LATENT ? 1 : 2;

	for (uint32_t i = 0; i < kinds * rows; i++, flat += pool->dim) {
		uint32_t token = block->first_token + i % rows / pool->heads % block->tokens;
		uint16_t *row = kvc_test_pool_row(pool, i / rows, i % rows / pool->heads / block->tokens,
		                                  block->pages[token / pool->page_tokens],
		                                  token % pool->page_tokens, i % pool->heads);

		memcpy(to_pool ? row : flat, to_pool ? flat : row, pool->dim * 2u);
	}
}
