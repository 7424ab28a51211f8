/* See engine_pool.h. */
#include "tests/support/engine_pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t element_bytes(const struct kvc_engine_test_pool *pool)
{
	return kvc_dtype_bytes(pool->plan.shape.dtype);
}

/* A number of about 1, in the pool's type. */
static void element_write(uint8_t *to, enum kvc_dtype dtype, struct prng *prng)
{
	float value = prng_normal(prng);
	uint32_t bits;
	uint16_t half;

	memcpy(&bits, &value, sizeof bits);
	if (dtype == KVC_DTYPE_FP32) {
		memcpy(to, &bits, sizeof bits);
		return;
	}
	half = (uint16_t)(bits >> 16);
	if (dtype == KVC_DTYPE_FP16) /* sign, an exponent of 0.25 to 2, any mantissa */
		half = (uint16_t)((bits >> 16 & 0x8000) | (13 + (bits >> 5 & 3)) << 10 | (bits >> 7 & 0x3FF));
	memcpy(to, &half, sizeof half);
}

static void region_add(struct kvc_engine_test_pool *pool, uint64_t bytes, struct prng *prng)
{
	uint32_t i = pool->region_count++;
	size_t step = element_bytes(pool);

	kvc_engine_rig_alloc(pool->rig, bytes, &pool->regions[i]);
	for (uint64_t at = 0; at + step <= bytes; at += step)
		element_write(pool->regions[i].data + at, pool->plan.shape.dtype, prng);
	pool->mirrors[i] = malloc(bytes);
	memcpy(pool->mirrors[i], pool->regions[i].data, bytes);
}

static void base_set(struct kvc_engine_test_pool *pool, uint32_t i, uint32_t region, uint64_t offset)
{
	pool->bases[i] = (struct kvc_gpu_base){.region = pool->first_region + region, .offset = offset};
}

/* Strides of one kind where tokens come before heads. */
static struct kvc_gpu_strides strides_of(uint64_t row, uint32_t heads, uint32_t page_tokens)
{
	return (struct kvc_gpu_strides){.head = row, .token = row * heads, .page = row * heads * page_tokens};
}

static void geometry_split(struct kvc_engine_test_pool *pool, uint64_t key_row, uint64_t value_row,
                           bool heads_first)
{
	struct kvc_gpu_pool_geometry *geometry = &pool->geometry;

	geometry->key = strides_of(key_row, geometry->heads, geometry->page_tokens);
	geometry->value = strides_of(value_row, geometry->heads, geometry->page_tokens);
	if (!heads_first)
		return;
	geometry->key.token = key_row;
	geometry->key.head = key_row * geometry->page_tokens;
	geometry->value.token = value_row;
	geometry->value.head = value_row * geometry->page_tokens;
}

/* Keys of a layer, then its values, from `start` on in one region. */
static void bases_split(struct kvc_engine_test_pool *pool, uint64_t start, bool apart, struct prng *prng)
{
	const struct kvc_gpu_pool_geometry *geometry = &pool->geometry;
	uint64_t key_bytes = geometry->pages * geometry->key.page;
	uint64_t value_bytes = geometry->value_dim ? geometry->pages * geometry->value.page : 0;
	uint32_t layers = geometry->layers;

	if (!apart)
		region_add(pool, start + layers * (key_bytes + value_bytes), prng);
	for (uint32_t layer = 0; layer < layers; layer++) {
		uint64_t at = start + layer * (key_bytes + value_bytes);

		if (apart) {
			base_set(pool, layer, pool->region_count, 0);
			region_add(pool, key_bytes, prng);
			base_set(pool, layers + layer, pool->region_count, 64);
			region_add(pool, 64 + value_bytes, prng);
		} else {
			base_set(pool, layer, 0, at);
			base_set(pool, layers + layer, 0, at + key_bytes);
		}
	}
}

/* Keys and values of a page, or of a head, side by side: one set of strides. */
static void bases_joined(struct kvc_engine_test_pool *pool, uint64_t value_at, struct prng *prng)
{
	const struct kvc_gpu_pool_geometry *geometry = &pool->geometry;
	uint64_t layer_bytes = geometry->pages * geometry->key.page;

	region_add(pool, geometry->layers * layer_bytes, prng);
	for (uint32_t layer = 0; layer < geometry->layers; layer++) {
		base_set(pool, layer, 0, layer * layer_bytes);
		base_set(pool, geometry->layers + layer, 0, layer * layer_bytes + value_at);
	}
}

void kvc_engine_test_pool_make(struct kvc_engine_test_pool *pool, struct kvc_engine_rig *rig,
                               const struct kvc_image_plan *plan, enum kvc_gpu_pool_layout layout,
                               uint32_t page_tokens, uint32_t pages, uint32_t first_region, struct prng *prng)
{
	const struct kvc_block_shape *shape = &plan->shape;
	struct kvc_gpu_pool_geometry *geometry = &pool->geometry;
	uint64_t key_row = shape->key_dim * kvc_dtype_bytes(shape->dtype);
	uint64_t value_row = shape->value_dim * kvc_dtype_bytes(shape->dtype);

	memset(pool, 0, sizeof *pool);
	pool->rig = rig;
	pool->plan = *plan;
	pool->first_region = first_region;
	*geometry = (struct kvc_gpu_pool_geometry){.layers = shape->layers,
	                                           .page_tokens = page_tokens,
	                                           .pages = pages,
	                                           .heads = shape->heads,
	                                           .key_dim = shape->key_dim,
	                                           .value_dim = shape->value_dim,
	                                           .dtype = (uint32_t)shape->dtype};
	geometry_split(pool, key_row, value_row, layout == KVC_LAYOUT_HEADS);
	switch (layout) {
	case KVC_LAYOUT_PAGED:
		geometry->key.page += geometry->value.page;
		geometry->value.page = geometry->key.page;
		bases_joined(pool, key_row * shape->heads * page_tokens, prng);
		break;
	case KVC_LAYOUT_FUSED:
		geometry->key = strides_of(key_row + value_row, 1, page_tokens);
		geometry->key.head = geometry->key.page;
		geometry->key.page *= shape->heads;
		geometry->value = geometry->key;
		bases_joined(pool, key_row, prng);
		break;
	default:
		bases_split(pool, 256, layout == KVC_LAYOUT_APART, prng);
	}
}

void kvc_engine_test_pool_free(struct kvc_engine_test_pool *pool)
{
	for (uint32_t i = 0; i < pool->region_count; i++) {
		kvc_engine_rig_free(&pool->regions[i]);
		free(pool->mirrors[i]);
	}
}

kvc_status kvc_engine_test_pool_open(struct kvc_engine_test_pool *pool, uint32_t id, int marks)
{
	struct {
		struct kvc_gpu_pool pool;
		struct kvc_gpu_base bases[KVC_TEST_REGIONS_MAX];
	} message = {.pool.header = {.type = KVC_GPU_POOL_OPEN, .id = id}, .pool.geometry = pool->geometry};
	uint32_t bases = pool->geometry.layers * (pool->geometry.value_dim ? 2 : 1);

	for (uint32_t i = 0; i < pool->region_count; i++) {
		kvc_status status = kvc_engine_rig_import(pool->rig, pool->first_region + i,
		                                          &pool->regions[i], 0, pool->regions[i].bytes);

		if (status)
			return status;
	}
	pool->id = id;
	message.pool.marks = marks >= 0;
	pool->mark = (struct kvc_mark){.place = message.pool.marks};
	memcpy(message.bases, pool->bases, sizeof message.bases);
	kvc_engine_rig_send(pool->rig, &message, sizeof message.pool + bases * sizeof message.bases[0],
	                    &marks, message.pool.marks);
	return kvc_engine_rig_reply(pool->rig, KVC_GPU_POOL_OPEN, id);
}

void kvc_engine_test_pool_close(struct kvc_engine_test_pool *pool)
{
	struct kvc_gpu_header header = {.type = KVC_GPU_POOL_CLOSE, .id = pool->id};

	kvc_engine_rig_send(pool->rig, &header, sizeof header, NULL, 0);
	if (kvc_engine_rig_reply(pool->rig, KVC_GPU_POOL_CLOSE, pool->id))
		abort();
	for (uint32_t i = 0; i < pool->region_count; i++) {
		header = (struct kvc_gpu_header){.type = KVC_GPU_UNIMPORT, .id = pool->first_region + i};
		kvc_engine_rig_send(pool->rig, &header, sizeof header, NULL, 0);
		if (kvc_engine_rig_reply(pool->rig, KVC_GPU_UNIMPORT, header.id))
			abort();
	}
}

/* --- blocks --- */

/* Pages are taken in steps that no page count of the tests divides. */
void kvc_engine_test_block_make(const struct kvc_engine_test_pool *pool, uint32_t *next, uint32_t first_token,
                                struct kvc_engine_test_block *block)
{
	uint32_t page_tokens = pool->geometry.page_tokens;

	block->first_token = first_token;
	block->page_count = (first_token + pool->plan.shape.tokens + page_tokens - 1) / page_tokens;
	for (uint32_t i = 0; i < block->page_count; i++)
		block->pages[i] = (uint32_t)((*next)++ * 37ull % pool->geometry.pages);
}

uint8_t *kvc_engine_test_row(const struct kvc_engine_test_pool *pool,
                             const struct kvc_engine_test_block *block, enum kvc_kind kind, uint32_t layer,
                             uint32_t token, uint32_t head, bool mirror)
{
	const struct kvc_gpu_pool_geometry *geometry = &pool->geometry;
	const struct kvc_gpu_strides *strides = kind == KVC_KIND_KEY ? &geometry->key : &geometry->value;
	const struct kvc_gpu_base *base = &pool->bases[(kind == KVC_KIND_KEY ? 0 : geometry->layers) + layer];
	uint32_t position = block->first_token + token;
	uint32_t region = base->region - pool->first_region;
	uint8_t *start = mirror ? pool->mirrors[region] : pool->regions[region].data;

	return start + base->offset + block->pages[position / geometry->page_tokens] * strides->page +
	       position % geometry->page_tokens * strides->token + head * strides->head;
}

/* Between the pool and a contiguous block. */
static void kind_copy(const struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *block,
                      enum kvc_kind kind, uint8_t *rows, bool to_mirror)
{
	const struct kvc_block_shape *shape = &pool->plan.shape;
	size_t row_bytes = (kind == KVC_KIND_KEY ? shape->key_dim : shape->value_dim) * element_bytes(pool);
	uint64_t count = (uint64_t)shape->layers * shape->tokens * shape->heads;

	for (uint64_t i = 0; i < count; i++) {
		uint32_t head = (uint32_t)(i % shape->heads);
		uint32_t token = (uint32_t)(i / shape->heads % shape->tokens);
		uint32_t layer = (uint32_t)(i / shape->heads / shape->tokens);
		uint8_t *row = kvc_engine_test_row(pool, block, kind, layer, token, head, to_mirror);

		memcpy(to_mirror ? row : rows + i * row_bytes, to_mirror ? rows + i * row_bytes : row,
		       row_bytes);
	}
}

/* What a test needs of the CPU codec: rows, scratch. */
struct cpu {
	uint8_t *rows;
	void *scratch;
	struct kvc_block_view view;
};

static void cpu_open(struct cpu *cpu, const struct kvc_image_plan *plan)
{
	const struct kvc_block_shape *shape = &plan->shape;
	size_t raw = kvc_block_raw_bytes(shape);
	size_t keys = raw / (shape->key_dim + shape->value_dim) * shape->key_dim;

	cpu->rows = malloc(raw);
	cpu->scratch = aligned_alloc(64, (kvc_image_scratch_bytes(plan) + 127) / 64 * 64);
	cpu->view = (struct kvc_block_view){.key = cpu->rows,
	                                    .value = shape->value_dim ? cpu->rows + keys : NULL};
	kvc_block_layout_default(shape, KVC_KIND_KEY, &cpu->view.key_layout);
	kvc_block_layout_default(shape, KVC_KIND_VALUE, &cpu->view.value_layout);
}

static void cpu_close(struct cpu *cpu)
{
	free(cpu->rows);
	free(cpu->scratch);
}

uint64_t kvc_engine_test_image(const struct kvc_engine_test_pool *pool,
                               const struct kvc_engine_test_block *block, uint8_t *image)
{
	const struct kvc_image_plan *plan = &pool->plan;
	uint64_t length = 0;
	struct cpu cpu;

	cpu_open(&cpu, plan);
	kind_copy(pool, block, KVC_KIND_KEY, cpu.view.key, false);
	if (cpu.view.value)
		kind_copy(pool, block, KVC_KIND_VALUE, cpu.view.value, false);
	kvc_image_encode_tiles(plan, kvc_codec_get(KVC_SIMD_SCALAR), &cpu.view, image, 0, plan->tiles,
	                       cpu.scratch);
	if (kvc_image_seal(plan, &cpu.view, image, plan->raw_image_bytes, &length))
		abort();
	cpu_close(&cpu);
	return length;
}

void kvc_engine_test_expect(struct kvc_engine_test_pool *pool, const struct kvc_engine_test_block *block,
                            const uint8_t *image, uint64_t length)
{
	struct kvc_image opened;
	struct cpu cpu;

	cpu_open(&cpu, &pool->plan);
	if (kvc_image_open(image, length, 0, &opened) ||
	    kvc_image_decode_tiles(&opened, kvc_codec_get(KVC_SIMD_SCALAR), &cpu.view, 0, opened.plan.tiles,
	                           0, cpu.scratch))
		abort();
	kind_copy(pool, block, KVC_KIND_KEY, cpu.view.key, true);
	if (cpu.view.value)
		kind_copy(pool, block, KVC_KIND_VALUE, cpu.view.value, true);
	cpu_close(&cpu);
}

bool kvc_engine_test_pool_right(const struct kvc_engine_test_pool *pool)
{
	for (uint32_t i = 0; i < pool->region_count; i++) {
		if (memcmp(pool->regions[i].data, pool->mirrors[i], pool->regions[i].bytes) != 0)
			return false;
	}
	return true;
}
