/* See paged.h. */
#include "tests/gpu/e2e/paged.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VMM_CHUNK (UINT64_C(2) << 20)

static uint64_t element_bytes(const struct paged *paged)
{
	return paged->shape.element == KVC_ELEMENT_FP32 ? 4 : 2;
}

static void *memory_take(size_t count, size_t bytes)
{
	void *memory = calloc(count ? count : 1, bytes);

	if (!memory) {
		fprintf(stderr, "out of memory: %zu times %zu bytes\n", count, bytes);
		exit(1);
	}
	return memory;
}

/* ---- where elements lie -------------------------------------------------------------------- */

/* Strides, and where values begin behind keys. */
static uint64_t arrange(struct paged *paged)
{
	uint64_t tokens = paged->form.page_tokens;
	uint64_t heads = paged->shape.heads;
	uint64_t key_row = paged->shape.key_dim * element_bytes(paged);
	uint64_t value_row = paged->shape.value_dim * element_bytes(paged);
	uint64_t both = key_row + value_row;

	switch (paged->form.order) {
	case PAGED_TWO_SECOND:
		paged->key = (struct kvc_pool_strides){tokens * heads * both, heads * key_row, key_row};
		paged->value = (struct kvc_pool_strides){tokens * heads * both, heads * value_row, value_row};
		return tokens * heads * key_row;
	case PAGED_HEADS_FIRST:
		paged->key = (struct kvc_pool_strides){tokens * heads * key_row, key_row, tokens * key_row};
		paged->value =
		        (struct kvc_pool_strides){tokens * heads * value_row, value_row, tokens * value_row};
		return paged->pages * tokens * heads * key_row;
	case PAGED_FUSED:
		paged->key = (struct kvc_pool_strides){tokens * heads * both, both, tokens * both};
		paged->value = paged->key;
		return key_row;
	case PAGED_TWO_FIRST:
	case PAGED_KEY_ONLY:
		break;
	}
	paged->key = (struct kvc_pool_strides){tokens * heads * key_row, heads * key_row, key_row};
	paged->value = (struct kvc_pool_strides){tokens * heads * value_row, heads * value_row, value_row};
	return paged->pages * tokens * heads * key_row;
}

/* The part that a device address of a layer lies in. */
static struct paged_part *part_of(const struct paged *paged, uint32_t layer)
{
	return &paged->parts[paged->form.per_layer ? layer : 0];
}

struct row {
	uint64_t address;
	uint64_t bytes;
};

static struct row row_of(const struct paged *paged, const struct kvc_block *block, bool value, uint32_t layer,
                         uint32_t token, uint32_t head)
{
	const struct kvc_pool_strides *strides = value ? &paged->value : &paged->key;
	const uint64_t *bases = value ? paged->value_bases : paged->key_bases;
	uint32_t at = block->first_token + token;
	uint64_t page = block->pages[at / paged->form.page_tokens];

	return (struct row){
	        .address = bases[layer] + page * strides->page +
	                   at % paged->form.page_tokens * strides->token + head * strides->head,
	        .bytes = (value ? paged->shape.value_dim : paged->shape.key_dim) * element_bytes(paged),
	};
}

typedef void row_visit(const struct paged *paged, const struct row *row, uint32_t layer, uint8_t *elements);

static void visit_kind(const struct paged *paged, const struct kvc_block *block, bool value,
                       uint8_t **elements, row_visit *visit)
{
	for (uint32_t layer = 0; layer < paged->shape.layers; layer++) {
		for (uint32_t i = 0; i < block->tokens * paged->shape.heads; i++) {
			struct row row = row_of(paged, block, value, layer, i / paged->shape.heads,
			                        i % paged->shape.heads);

			visit(paged, &row, layer, *elements);
			*elements += row.bytes;
		}
	}
}

/* Keys of all layers, then values, as sample.h has the elements of a block. */
static void visit_rows(const struct paged *paged, const struct kvc_block *block, void *elements,
                       row_visit *visit)
{
	uint8_t *at = elements;

	visit_kind(paged, block, false, &at, visit);
	if (paged->shape.value_dim)
		visit_kind(paged, block, true, &at, visit);
}

/* ---- life ---------------------------------------------------------------------------------- */

static void part_open(struct paged *paged, struct paged_part *part, uint64_t bytes)
{
	part->bytes = bytes;
	if (paged->form.vmm) {
		driver_vmm_alloc(&part->vmm, bytes, VMM_CHUNK, true);
		part->address = part->vmm.address;
	} else {
		part->address = driver_alloc(bytes);
	}
	if (!paged->form.bare)
		part->mirror = memory_take(bytes, 1);
}

/* Fisher and Yates. */
static void shuffle(uint32_t *ids, uint64_t count)
{
	uint64_t state = count;

	for (uint64_t i = 0; i < count; i++)
		ids[i] = (uint32_t)i;
	for (uint64_t i = 0; i + 1 < count; i++) {
		uint64_t j = i + kvc_sample_random(&state) % (count - i);
		uint32_t swap = ids[i];

		ids[i] = ids[j];
		ids[j] = swap;
	}
}

static void bases_fill(struct paged *paged, uint64_t value_offset)
{
	for (uint32_t layer = 0; layer < paged->shape.layers; layer++) {
		uint64_t base = part_of(paged, layer)->address;

		if (!paged->form.per_layer)
			base += layer * paged->layer_bytes;
		paged->key_bases[layer] = base;
		paged->value_bases[layer] = base + value_offset;
	}
}

void paged_open(struct paged *paged, const struct kvc_namespace_options *shape, const struct paged_form *form,
                uint64_t pages)
{
	uint64_t value_offset;

	memset(paged, 0, sizeof *paged);
	paged->form = *form;
	paged->shape = *shape;
	paged->pages = pages;
	value_offset = arrange(paged);
	paged->layer_bytes = pages * form->page_tokens * shape->heads * (shape->key_dim + shape->value_dim) *
	                     element_bytes(paged);
	paged->part_count = form->per_layer ? shape->layers : 1;
	paged->parts = memory_take(paged->part_count, sizeof *paged->parts);
	for (uint32_t i = 0; i < paged->part_count; i++)
		part_open(paged, &paged->parts[i],
		          form->per_layer ? paged->layer_bytes : paged->layer_bytes * shape->layers);
	paged->key_bases = memory_take(shape->layers, sizeof *paged->key_bases);
	paged->value_bases = memory_take(shape->layers, sizeof *paged->value_bases);
	bases_fill(paged, value_offset);
	paged->ids = memory_take(pages, sizeof *paged->ids);
	shuffle(paged->ids, pages);
	if (!form->bare) {
		paged_poison(paged);
		paged_upload(paged);
	}
}

void paged_options(const struct paged *paged, struct kvc_pool_options *options)
{
	static_assert(sizeof(void *) == sizeof(uint64_t), "device addresses are passed as pointers");
	kvc_pool_options_init(options);
	options->layers = paged->shape.layers;
	options->page_tokens = paged->form.page_tokens;
	options->pages = paged->pages;
	options->key_bases = (const void *const *)(uintptr_t)paged->key_bases;
	if (paged->shape.value_dim)
		options->value_bases = (const void *const *)(uintptr_t)paged->value_bases;
	options->key_strides = paged->key;
	options->value_strides = paged->value;
}

kvc_status paged_register(struct paged *paged, struct kvc_namespace *ns)
{
	struct kvc_pool_options options;

	paged_options(paged, &options);
	return kvc_pool_register(ns, &options, &paged->pool);
}

void paged_unregister(struct paged *paged)
{
	while (kvc_pool_destroy(paged->pool) == KVC_DEADLINE) /* an engine of a busy GPU may take its time */
		continue;
	paged->pool = NULL;
}

void paged_close(struct paged *paged)
{
	paged_unregister(paged);
	for (uint32_t i = 0; i < paged->part_count; i++) {
		if (paged->form.vmm)
			driver_vmm_free(&paged->parts[i].vmm);
		else
			driver_free(paged->parts[i].address);
		free(paged->parts[i].mirror);
	}
	free(paged->parts);
	free(paged->key_bases);
	free(paged->value_bases);
	free(paged->ids);
}

/* ---- blocks -------------------------------------------------------------------------------- */

uint32_t paged_needs(const struct paged *paged, uint32_t tokens)
{
	return (paged->form.first_token + tokens + paged->form.page_tokens - 1) / paged->form.page_tokens;
}

void paged_place(struct paged *paged, struct kvc_block *block)
{
	block->first_token = paged->form.first_token;
	block->page_count = paged_needs(paged, block->tokens);
	block->pages = paged->ids + paged->used;
	paged->used += block->page_count;
	if (paged->used > paged->pages) {
		fprintf(stderr, "%s: more blocks than pages\n", paged->form.name);
		exit(1);
	}
}

void paged_reset(struct paged *paged)
{
	paged->used = 0;
}

static uint8_t *mirrored(const struct paged *paged, const struct row *row, uint32_t layer)
{
	const struct paged_part *part = part_of(paged, layer);

	return part->mirror + (row->address - part->address);
}

static void row_write(const struct paged *paged, const struct row *row, uint32_t layer, uint8_t *elements)
{
	memcpy(mirrored(paged, row, layer), elements, row->bytes);
}

static void row_read(const struct paged *paged, const struct row *row, uint32_t layer, uint8_t *elements)
{
	memcpy(elements, mirrored(paged, row, layer), row->bytes);
}

void paged_write(struct paged *paged, const struct kvc_block *block, const void *elements)
{
	visit_rows(paged, block, (void *)(uintptr_t)elements, row_write);
}

void paged_read(const struct paged *paged, const struct kvc_block *block, void *elements)
{
	visit_rows(paged, block, elements, row_read);
}

void paged_poison(struct paged *paged)
{
	for (uint32_t i = 0; i < paged->part_count; i++)
		memset(paged->parts[i].mirror, PAGED_POISON, paged->parts[i].bytes);
}

void paged_upload(const struct paged *paged)
{
	for (uint32_t i = 0; i < paged->part_count; i++)
		driver_put(paged->parts[i].address, paged->parts[i].mirror, paged->parts[i].bytes);
}

void paged_download(struct paged *paged)
{
	for (uint32_t i = 0; i < paged->part_count; i++)
		driver_get(paged->parts[i].mirror, paged->parts[i].address, paged->parts[i].bytes);
}

uint64_t paged_differs(const struct paged *paged)
{
	uint64_t count = 0;

	for (uint32_t i = 0; i < paged->part_count; i++) {
		const struct paged_part *part = &paged->parts[i];
		uint8_t *seen = memory_take(part->bytes, 1);

		driver_get(seen, part->address, part->bytes);
		if (memcmp(seen, part->mirror, part->bytes) != 0) {
			for (uint64_t at = 0; at < part->bytes; at++)
				count += seen[at] != part->mirror[at];
		}
		free(seen);
	}
	return count;
}
