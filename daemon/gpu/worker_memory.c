/* See worker_memory.h. Tables of base addresses lie in one allocation made at start, because freeing device
 * memory waits for all work on the device. */
#include "daemon/gpu/worker_memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "daemon/base/log.h"

#define TABLE_ENTRIES   (2u * KVC_LAYERS_MAX)
#define TABLE_BYTES     (TABLE_ENTRIES * sizeof(uint64_t))
#define PAGE_TOKENS_MAX (1u << 20)
#define ALIGN_MAX       16u /* more brings the kernels nothing */

kvc_status kvc_worker_memory_open(struct kvc_worker_memory *memory, struct kvc_dev *dev,
                                  struct kvc_dev_stream *stream)
{
	void *host;
	kvc_status status;

	*memory = (struct kvc_worker_memory){.dev = dev, .stream = stream};
	kvc_list_init(&memory->regions);
	kvc_list_init(&memory->pools);
	status = kvc_dev_event_open(dev, &memory->arrived);
	if (status == KVC_OK)
		status = kvc_dev_alloc(dev, KVC_WORKER_POOLS_MAX * TABLE_BYTES, &memory->tables);
	if (status == KVC_OK)
		status = kvc_dev_host_alloc(dev, KVC_WORKER_POOLS_MAX * TABLE_BYTES, &host);
	if (status == KVC_OK)
		memory->tables_host = host;
	return status;
}

static kvc_status refuse(char *detail, kvc_status status, const char *text)
{
	snprintf(detail, KVC_GPU_DETAIL_BYTES, "%s", text);
	return status;
}

/* --- regions --- */

static struct kvc_worker_region *region_find(const struct kvc_worker_memory *memory, uint32_t id)
{
	kvc_list_each (node, &memory->regions) {
		struct kvc_worker_region *region = kvc_container_of(node, struct kvc_worker_region, node);

		if (region->id == id)
			return region;
	}
	return NULL;
}

static kvc_status region_import(struct kvc_worker_memory *memory, const struct kvc_gpu_import *import,
                                const int *fds, struct kvc_dev_memory **mapped)
{
	if (import->chunks == 0)
		return kvc_dev_import(memory->dev, import->handle, import->offset, import->bytes, mapped);
	return kvc_dev_import_chunks(memory->dev, fds, import->chunk_bytes, import->chunks, import->bytes,
	                             mapped);
}

kvc_status kvc_worker_region_open(struct kvc_worker_memory *memory, const struct kvc_gpu_import *import,
                                  const int *fds, uint32_t fd_count, char *detail)
{
	struct kvc_worker_region *region;
	kvc_status status;

	if (import->bytes == 0 || import->chunks != fd_count || (import->chunks && import->offset))
		return refuse(detail, KVC_INVALID, "an empty region, or descriptors that do not match it");
	if (region_find(memory, import->header.id))
		return refuse(detail, KVC_CONFLICT, "there is a region of this number");
	region = kvc_calloc(1, sizeof *region);
	if (!region)
		return refuse(detail, KVC_NO_MEMORY, "no memory for the region");
	status = region_import(memory, import, fds, &region->memory);
	if (status) {
		kvc_free(region);
		return refuse(detail, status, kvc_dev_why());
	}
	region->id = import->header.id;
	region->bytes = import->bytes;
	kvc_list_push(&memory->regions, &region->node);
	return KVC_OK;
}

static void region_end(struct kvc_worker_memory *memory, struct kvc_worker_region *region)
{
	kvc_list_remove(&region->node);
	kvc_dev_unimport(memory->dev, region->memory);
	kvc_free(region);
}

kvc_status kvc_worker_region_close(struct kvc_worker_memory *memory, uint32_t id, char *detail)
{
	struct kvc_worker_region *region = region_find(memory, id);

	if (!region || region->closing)
		return refuse(detail, KVC_UNKNOWN_ID, "there is no region of this number");
	region->closing = true;
	if (region->users)
		return KVC_BUSY;
	region_end(memory, region);
	return KVC_OK;
}

bool kvc_worker_region_left(struct kvc_worker_memory *memory, uint32_t *id)
{
	kvc_list_each (node, &memory->regions) {
		struct kvc_worker_region *region = kvc_container_of(node, struct kvc_worker_region, node);

		if (!region->closing || region->users)
			continue;
		*id = region->id;
		region_end(memory, region);
		return true;
	}
	return false;
}

/* --- pools: checks --- */

static bool product_add(uint64_t *total, uint64_t count, uint64_t stride)
{
	uint64_t product;

	return kvc_mul_u64(count, stride, &product) && kvc_add_u64(*total, product, total);
}

/* Bytes from a base to the end of the last element of the last page, token and head. */
static bool extent_of(const struct kvc_gpu_pool_geometry *geometry, const struct kvc_gpu_strides *strides,
                      uint32_t dim, uint64_t *extent)
{
	*extent = dim * (uint64_t)kvc_dtype_bytes((enum kvc_dtype)geometry->dtype);
	return product_add(extent, geometry->pages - 1, strides->page) &&
	       product_add(extent, geometry->page_tokens - 1, strides->token) &&
	       product_add(extent, geometry->heads - 1, strides->head);
}

static bool geometry_sane(const struct kvc_gpu_pool_geometry *geometry)
{
	return geometry->layers > 0 && geometry->layers <= KVC_LAYERS_MAX && geometry->page_tokens > 0 &&
	       geometry->page_tokens <= PAGE_TOKENS_MAX && geometry->pages > 0 && geometry->heads > 0 &&
	       geometry->heads <= KVC_HEADS_MAX && geometry->key_dim > 0 &&
	       geometry->key_dim <= KVC_DIM_MAX && geometry->value_dim <= KVC_DIM_MAX &&
	       kvc_dtype_bytes((enum kvc_dtype)geometry->dtype) > 0;
}

/* Addresses of one kind's bases into the table, each checked against its region; *bits collects the address
 * bits that are set in any of them. */
static kvc_status bases_resolve(struct kvc_worker_memory *memory, struct kvc_worker_pool *pool,
                                const struct kvc_gpu_base *bases, uint64_t extent, uint64_t *table,
                                uint64_t *bits, char *detail)
{
	for (uint32_t layer = 0; layer < pool->geometry.layers; layer++) {
		const struct kvc_gpu_base *base = &bases[layer];
		struct kvc_worker_region *region = region_find(memory, base->region);

		if (!region || region->closing)
			return refuse(detail, KVC_UNKNOWN_ID, "there is no region of that number");
		if (base->offset > region->bytes || extent > region->bytes - base->offset) {
			snprintf(detail, KVC_GPU_DETAIL_BYTES,
			         "layer %u: pages of %llu bytes from offset %llu do not lie in the region "
			         "of %llu bytes",
			         layer, (unsigned long long)extent, (unsigned long long)base->offset,
			         (unsigned long long)region->bytes);
			return KVC_SHAPE;
		}
		table[layer] = kvc_dev_memory_address(region->memory) + base->offset;
		*bits |= table[layer];
		pool->regions[pool->region_count++] = region;
	}
	return KVC_OK;
}

static uint32_t alignment_of(uint64_t bits)
{
	return (uint32_t)1 << __builtin_ctzll(bits | ALIGN_MAX);
}

/* One kind: its extent, its half of the table, its place for the kernels. */
static kvc_status place_make(struct kvc_worker_memory *memory, struct kvc_worker_pool *pool,
                             enum kvc_kind kind, const struct kvc_gpu_base *bases, char *detail)
{
	const struct kvc_gpu_pool_geometry *geometry = &pool->geometry;
	const struct kvc_gpu_strides *strides = kind == KVC_KIND_KEY ? &geometry->key : &geometry->value;
	uint32_t dim = kind == KVC_KIND_KEY ? geometry->key_dim : geometry->value_dim;
	uint64_t first = pool->table * TABLE_ENTRIES + (kind == KVC_KIND_KEY ? 0 : KVC_LAYERS_MAX);
	uint64_t extent, bits = 0;
	kvc_status status;

	if (!extent_of(geometry, strides, dim, &extent))
		return refuse(detail, KVC_SHAPE, "the pool's strides times its pages exceed 64 bits");
	status = bases_resolve(memory, pool, bases, extent, memory->tables_host + first, &bits, detail);
	if (status)
		return status;
	*(kind == KVC_KIND_KEY ? &pool->kern.key : &pool->kern.value) = (struct kvc_kern_place){
	        .layers = (const uint64_t *)(uintptr_t)(memory->tables + first * sizeof(uint64_t)),
	        .layers_align = alignment_of(bits),
	        .bytes = extent,
	        .page_stride = strides->page,
	        .token_stride = strides->token,
	        .head_stride = strides->head,
	};
	if (alignment_of(bits) < kvc_dtype_bytes((enum kvc_dtype)geometry->dtype))
		return refuse(detail, KVC_SHAPE, "a base is not aligned to the elements");
	return KVC_OK;
}

/* --- pools --- */

static bool table_take(struct kvc_worker_memory *memory, uint32_t *table)
{
	for (*table = 0; *table < KVC_WORKER_POOLS_MAX; (*table)++) {
		if (!memory->table_taken[*table])
			return memory->table_taken[*table] = true;
	}
	return false;
}

static kvc_status table_send(struct kvc_worker_memory *memory, uint32_t table, char *detail)
{
	uint64_t at = (uint64_t)table * TABLE_BYTES;
	kvc_status status =
	        kvc_dev_copy_up(memory->dev, memory->tables + at, memory->tables_host + table * TABLE_ENTRIES,
	                        TABLE_BYTES, memory->stream);

	if (status == KVC_OK)
		status = kvc_dev_event_record(memory->dev, memory->arrived, memory->stream);
	return status ? refuse(detail, status, kvc_dev_why()) : KVC_OK;
}

/* The core has looked at the seals: no page of it goes away. */
static kvc_status marks_map(struct kvc_worker_pool *pool, uint32_t marks, const int *fds, uint32_t fd_count,
                            char *detail)
{
	struct stat stat;
	void *words;

	if (fd_count != (marks ? 1 : 0) || marks > KVC_GPU_MARKS_MAX)
		return refuse(detail, KVC_INVALID, "the pool's marks came without their descriptor");
	if (!marks)
		return KVC_OK;
	if (fstat(fds[0], &stat) || (uint64_t)stat.st_size < marks * sizeof *pool->marks)
		return refuse(detail, KVC_INVALID, "the pool's marks are longer than their memory");
	words = mmap(NULL, marks * sizeof *pool->marks, PROT_READ, MAP_SHARED, fds[0], 0);
	if (words == MAP_FAILED)
		return refuse(detail, KVC_NO_MEMORY, "the pool's marks cannot be mapped");
	pool->marks = words;
	pool->mark_count = marks;
	return KVC_OK;
}

static void marks_unmap(struct kvc_worker_pool *pool)
{
	if (pool->marks)
		(void)munmap((void *)(uintptr_t)pool->marks, pool->mark_count * sizeof *pool->marks);
}

static kvc_status pool_set_up(struct kvc_worker_memory *memory, struct kvc_worker_pool *pool,
                              const struct kvc_gpu_base *bases, char *detail)
{
	kvc_status status = place_make(memory, pool, KVC_KIND_KEY, bases, detail);

	if (status == KVC_OK && pool->geometry.value_dim)
		status = place_make(memory, pool, KVC_KIND_VALUE, bases + pool->geometry.layers, detail);
	if (status == KVC_OK)
		status = table_send(memory, pool->table, detail);
	return status;
}

static struct kvc_worker_pool *pool_make(const struct kvc_gpu_pool *wish)
{
	uint32_t bases = wish->geometry.layers * (wish->geometry.value_dim ? 2 : 1);
	struct kvc_worker_pool *pool = kvc_calloc(1, sizeof *pool + bases * sizeof(void *));

	if (!pool)
		return NULL;
	kvc_list_init(&pool->node);
	pool->id = wish->header.id;
	pool->geometry = wish->geometry;
	pool->kern.pages = wish->geometry.pages;
	pool->kern.page_tokens = wish->geometry.page_tokens;
	pool->kern.id_bytes = sizeof(uint32_t);
	return pool;
}

kvc_status kvc_worker_pool_open(struct kvc_worker_memory *memory, const struct kvc_gpu_pool *wish,
                                const struct kvc_gpu_base *bases, const int *fds, uint32_t fd_count,
                                char *detail)
{
	struct kvc_worker_pool *pool;
	kvc_status status;
	uint32_t table;

	if (!geometry_sane(&wish->geometry))
		return refuse(detail, KVC_SHAPE, "the pool's geometry is out of bounds");
	if (kvc_worker_pool_find(memory, wish->header.id))
		return refuse(detail, KVC_CONFLICT, "there is a pool of this number");
	if (!table_take(memory, &table))
		return refuse(detail, KVC_LIMIT, "too many pools");
	pool = pool_make(wish);
	if (!pool) {
		memory->table_taken[table] = false;
		return refuse(detail, KVC_NO_MEMORY, "no memory for the pool");
	}
	pool->table = table;
	status = marks_map(pool, wish->marks, fds, fd_count, detail);
	if (status == KVC_OK)
		status = pool_set_up(memory, pool, bases, detail);
	for (uint32_t i = 0; i < pool->region_count; i++)
		pool->regions[i]->users++;
	if (status)
		kvc_worker_pool_close(memory, pool);
	else
		kvc_list_push(&memory->pools, &pool->node);
	return status;
}

void kvc_worker_pool_close(struct kvc_worker_memory *memory, struct kvc_worker_pool *pool)
{
	KVC_PRE(pool->orders == 0);
	kvc_list_remove(&pool->node);
	for (uint32_t i = 0; i < pool->region_count; i++)
		pool->regions[i]->users--;
	marks_unmap(pool);
	memory->table_taken[pool->table] = false;
	kvc_free(pool);
}

struct kvc_worker_pool *kvc_worker_pool_find(const struct kvc_worker_memory *memory, uint32_t id)
{
	kvc_list_each (node, &memory->pools) {
		struct kvc_worker_pool *pool = kvc_container_of(node, struct kvc_worker_pool, node);

		if (pool->id == id && !pool->closing)
			return pool;
	}
	return NULL;
}
