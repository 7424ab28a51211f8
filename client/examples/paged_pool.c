/* Offload blocks of a paged KV pool on a GPU, and restore them: what a worker does. Needs no CUDA headers. */
#include <kvcellar_cuda.h>
#include <stdio.h>

enum { LAYERS = 32, HEADS = 8, DIM = 128, PAGE_TOKENS = 16, BLOCK_PAGES = 8 };

/* Once: layers[i] is one tensor (2, pages, PAGE_TOKENS, HEADS, DIM) of bf16, as vLLM has it. */
struct kvc_pool *pool_of(struct kvc_namespace *ns, const void *const layers[LAYERS], uint64_t pages)
{
	const uint64_t page_bytes = PAGE_TOKENS * HEADS * DIM * 2;
	const void *values[LAYERS];
	struct kvc_pool_options options;
	struct kvc_pool *pool = NULL;

	for (int i = 0; i < LAYERS; i++)
		values[i] = (const char *)layers[i] + pages * page_bytes;
	kvc_pool_options_init(&options);
	options.layers = LAYERS;
	options.page_tokens = PAGE_TOKENS;
	options.pages = pages;
	options.key_bases = layers;
	options.value_bases = values;
	options.key_strides.page = options.value_strides.page = page_bytes;
	options.key_strides.token = options.value_strides.token = HEADS * DIM * 2;
	options.key_strides.head = options.value_strides.head = DIM * 2;
	if (kvc_pool_register(ns, &options, &pool) != KVC_OK)
		fprintf(stderr, "%s\n", kvc_last_error());
	return pool;
}

/* Store the 128 tokens that lie in these pages, when the stream has got to here. The pages are free after it.
 */
kvc_status offload(struct kvc_namespace *ns, struct kvc_pool *pool, void *stream, const void *hash,
                   const uint32_t pages[BLOCK_PAGES])
{
	struct kvc_block block = {.key = hash, .key_bytes = 32, .tokens = BLOCK_PAGES * PAGE_TOKENS};
	struct kvc_transfer transfer;
	kvc_status status;

	block.pages = pages;
	block.page_count = BLOCK_PAGES;
	kvc_transfer_init(&transfer, NULL);
	transfer.pool = pool;
	transfer.stream = stream;
	status = kvc_put(ns, &transfer, &block, 1, NULL); /* kvc_get(...) restores into the pages */
	return status == KVC_OK ? block.status : status;
}
