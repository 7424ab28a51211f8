/* A worker's paged KV pool on the device, of any arrangement, with a copy of its bytes on the host.
 *
 * The copy (the mirror) holds what each byte of the device must be: paged_upload() makes it so,
 * paged_differs() looks whether it is. So a test sees a wrong byte of a block and a stray write beside it
 * alike. Errors of memory end the program. One thread at a time. */
#ifndef KVC_TESTS_GPU_PAGED_H
#define KVC_TESTS_GPU_PAGED_H

#include "client/kvcellar_cuda.h"
#include "tests/gpu/e2e/driver.h"
#include "tests/support/sample.h"

enum paged_order {
	PAGED_TWO_FIRST,   /* (2, page, token, head, dim) */
	PAGED_TWO_SECOND,  /* (page, 2, token, head, dim) */
	PAGED_HEADS_FIRST, /* (2, page, head, token, dim) */
	PAGED_FUSED,       /* (page, head, token, key dim + value dim) */
	PAGED_KEY_ONLY,    /* (page, token, head, dim) */
};

struct paged_form {
	const char *name;
	enum paged_order order;
	uint32_t page_tokens;
	uint32_t first_token; /* where in its first page each block begins */
	bool per_layer;       /* an allocation a layer; else one for all */
	bool vmm;             /* chunks of 2 MiB, exported as descriptors; else by IPC handle */
	bool bare;            /* no mirror: for benches */
};

struct paged_part {
	uint64_t address;
	uint64_t bytes;
	struct driver_vmm vmm;
	uint8_t *mirror;
};

struct paged {
	struct paged_form form;
	struct kvc_namespace_options shape;
	uint64_t pages;
	uint64_t layer_bytes;
	struct paged_part *parts;
	uint32_t part_count;
	uint64_t *key_bases; /* device addresses, one a layer */
	uint64_t *value_bases;
	struct kvc_pool_strides key;
	struct kvc_pool_strides value;
	uint32_t *ids; /* page ids in random order; the first `used` are given out */
	uint64_t used;
	struct kvc_pool *pool; /* NULL: not registered */
};

/* Allocate. The memory holds PAGED_POISON. */
#define PAGED_POISON 0xA5
void paged_open(struct paged *paged, const struct kvc_namespace_options *shape, const struct paged_form *form,
                uint64_t pages);

/* What kvc_pool_register, and a worker's own codec, take; borrows from the pool. */
void paged_options(const struct paged *paged, struct kvc_pool_options *options);
kvc_status paged_register(struct paged *paged, struct kvc_namespace *ns);
void paged_unregister(struct paged *paged);
void paged_close(struct paged *paged);

/* Pages that a block of so many tokens takes. */
uint32_t paged_needs(const struct paged *paged, uint32_t tokens);

/* Give the block pages of its own, and forget all that were given. */
void paged_place(struct paged *paged, struct kvc_block *block);
void paged_reset(struct paged *paged);

/* Between the contiguous elements of a block, [layer][token][head][dim] keys then values, and the mirror. */
void paged_write(struct paged *paged, const struct kvc_block *block, const void *elements);
void paged_read(const struct paged *paged, const struct kvc_block *block, void *elements);

/* All of the mirror. */
void paged_poison(struct paged *paged);
void paged_upload(const struct paged *paged);
void paged_download(struct paged *paged);

/* Bytes of the device that are not those of the mirror. */
uint64_t paged_differs(const struct paged *paged);

#endif
