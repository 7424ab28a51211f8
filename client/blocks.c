/* Put and get. A sync call sends one request after the other, each as large as the daemon's limits and a
 * frame allow; usually that is one. */
#include <string.h>

#include "client/internal.h"
#include "client/pool.h"

void kvc_transfer_init(struct kvc_transfer *transfer, struct kvc_memory *memory)
{
	*transfer = (struct kvc_transfer){
	        .size = sizeof(*transfer),
	        .memory = memory,
	        .ack = KVC_ACK_RAM,
	        .priority = KVC_PUT_NORMAL,
	};
}

/* ---- checks -------------------------------------------------------------------------------- */

static kvc_status check_block(const struct kvc_namespace *ns, const struct kvc_block *block, size_t i)
{
	if (!block->key || block->key_bytes == 0 || block->key_bytes > KVC_KEY_BYTES_MAX)
		return kvcc_fail(KVC_INVALID, "block %zu: a key of %zu bytes, expected 1 to %u", i,
		                 block->key ? block->key_bytes : 0, KVC_KEY_BYTES_MAX);
	if (block->parent && (block->parent_bytes == 0 || block->parent_bytes > KVC_KEY_BYTES_MAX))
		return kvcc_fail(KVC_INVALID, "block %zu: a parent key of %zu bytes, expected 1 to %u", i,
		                 block->parent_bytes, KVC_KEY_BYTES_MAX);
	if (block->tokens == 0 || block->tokens > ns->block_tokens)
		return kvcc_fail(KVC_SHAPE, "block %zu: %u tokens, expected 1 to the namespace's %u", i,
		                 block->tokens, ns->block_tokens);
	return KVC_OK;
}

static kvc_status check_put(const struct kvc_transfer *transfer)
{
	if (transfer->ack != KVC_ACK_RAM && transfer->ack != KVC_ACK_DISK)
		return kvcc_fail(KVC_INVALID, "ack %u: expected 1 (RAM) or 2 (disk)", transfer->ack);
	if (transfer->priority < KVC_PUT_LOW || transfer->priority > KVC_PUT_HIGH)
		return kvcc_fail(KVC_INVALID, "priority %u: expected 1 (low), 2 (normal) or 3 (high)",
		                 transfer->priority);
	if (transfer->ack == KVC_ACK_DISK && transfer->ephemeral)
		return kvcc_fail(KVC_INVALID,
		                 "ack 2 (disk) of ephemeral blocks: these are never written to disk");
	if (transfer->ack == KVC_ACK_DISK && transfer->ttl_ms)
		return kvcc_fail(
		        KVC_INVALID,
		        "ack 2 (disk) of blocks with a time to live: these do not outlive a restart");
	return KVC_OK;
}

static kvc_status check_transfer(const struct kvc_namespace *ns, uint16_t verb,
                                 const struct kvc_transfer *transfer, const struct kvc_block *blocks,
                                 size_t count)
{
	kvc_status status = KVC_OK;

	if (!ns || !transfer || transfer->size < sizeof(*transfer) || (count > 0 && !blocks))
		return kvcc_fail(KVC_INVALID,
		                 "%s: no namespace, no blocks, or a transfer not made by "
		                 "kvc_transfer_init",
		                 kvc_verb_name(verb));
	if (verb == KVC_VERB_PUT)
		status = check_put(transfer);
	for (size_t i = 0; status == KVC_OK && i < count; i++)
		status = check_block(ns, &blocks[i], i);
	return status;
}

static kvc_status check_pool(const struct kvc_namespace *ns, const struct kvc_transfer *transfer)
{
	const struct kvc_pool *pool = transfer->pool;

	if (pool->client != ns->client || transfer->memory || transfer->form != KVC_FORM_BLOCK)
		return kvcc_fail(
		        KVC_INVALID,
		        "a transfer with a pool: expected one of this client, no memory, and form BLOCK");
	if (!pool->region)
		return kvcc_fail(KVC_INVALID, "the pool is being destroyed");
	if (memcmp(&pool->shape, &ns->shape, sizeof(pool->shape)) != 0)
		return kvcc_fail(
		        KVC_SHAPE,
		        "the pool was registered for another shape (layers, heads, dimensions, type) "
		        "than the namespace's");
	return KVC_OK;
}

static kvc_status check_pages(const struct kvc_pool *pool, const struct kvc_block *block, size_t i)
{
	uint64_t tokens = (uint64_t)block->first_token + block->tokens;
	uint64_t pages = (tokens + pool->page_tokens - 1) / pool->page_tokens;

	if (block->first_token >= pool->page_tokens)
		return kvcc_fail(KVC_SHAPE, "block %zu: first_token %u, pages have %u tokens", i,
		                 block->first_token, pool->page_tokens);
	if (block->page_count != pages || !block->pages)
		return kvcc_fail(KVC_SHAPE, "block %zu: %zu pages, expected %llu for %u tokens from token %u",
		                 i, block->pages ? block->page_count : 0, (unsigned long long)pages,
		                 block->tokens, block->first_token);
	for (size_t p = 0; p < block->page_count; p++) {
		if (block->pages[p] >= pool->pages)
			return kvcc_fail(KVC_INVALID, "block %zu: page id %u, expected less than %llu", i,
			                 block->pages[p], (unsigned long long)pool->pages);
	}
	return KVC_OK;
}

static kvc_status check_image(const struct kvc_memory *memory, const struct kvc_block *block, size_t i)
{
	enum { ALIGN = 64 };

	if (block->key_offset % ALIGN)
		return kvcc_fail(KVC_INVALID, "block %zu: an image at %llu, expected a multiple of %d", i,
		                 (unsigned long long)block->key_offset, ALIGN);
	if (block->image_bytes == 0 || block->image_bytes > memory->bytes ||
	    block->key_offset > memory->bytes - block->image_bytes)
		return kvcc_fail(KVC_SHAPE, "block %zu: %llu bytes at %llu do not lie in the memory's %llu",
		                 i, (unsigned long long)block->image_bytes,
		                 (unsigned long long)block->key_offset, (unsigned long long)memory->bytes);
	return KVC_OK;
}

/* Where the blocks are: in a pool, or in memory, as elements or as images. */
static kvc_status check_place(const struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                              const struct kvc_block *blocks, size_t count)
{
	kvc_status status = KVC_OK;

	if (transfer->pool)
		status = check_pool(ns, transfer);
	else if (!transfer->memory || transfer->memory->client != ns->client)
		status = kvcc_fail(KVC_INVALID, "the transfer has no memory, or one of another client");
	else if (transfer->form > KVC_FORM_IMAGE)
		status = kvcc_fail(KVC_INVALID, "form %u: expected 0 (blocks) or 1 (images)", transfer->form);
	for (size_t i = 0; status == KVC_OK && i < count; i++) {
		if (transfer->pool)
			status = check_pages(transfer->pool, &blocks[i], i);
		else if (transfer->form == KVC_FORM_IMAGE)
			status = check_image(transfer->memory, &blocks[i], i);
	}
	return status;
}

/* ---- requests ------------------------------------------------------------------------------ */

struct blocks_what {
	const struct kvc_transfer *transfer;
	const struct kvc_block *blocks;
};

static struct kvcc_wire_blocks wire_blocks(const struct kvcc_work *work, uint32_t region)
{
	const struct blocks_what *what = work->what;

	return (struct kvcc_wire_blocks){
	        .verb = work->verb,
	        .ns = work->ns->id,
	        .deadline_ms = work->wire_deadline_ms,
	        .expires_ns = region ? work->deadline_ns : 0,
	        .region = region,
	        .transfer = what->transfer,
	        .blocks = what->blocks,
	        .count = work->count,
	};
}

static kvc_status encode_blocks(const struct kvcc_work *work, struct kvcc_request *request)
{
	struct kvcc_wire_blocks wire = wire_blocks(work, request->region ? request->region->id : 0);
	const struct kvc_transfer *transfer = wire.transfer;
	kvc_status status = KVC_OK;

	request->images = request->region && transfer->form == KVC_FORM_IMAGE;
	if (request->region && transfer->pool)
		status = kvcc_pool_note(transfer->pool, transfer->stream, &wire.mark);
	return status == KVC_OK ? kvcc_wire_blocks(&wire, &request->frame) : status;
}

static void work_place(struct kvcc_work *work, const struct kvc_transfer *transfer)
{
	work->memory = transfer->memory;
	work->region = transfer->pool ? transfer->pool->region : NULL;
}

static struct kvcc_work blocks_work(struct kvc_namespace *ns, uint16_t verb, const struct blocks_what *what)
{
	return (struct kvcc_work){
	        .verb = verb,
	        .ns = ns,
	        .deadline_ms = what->transfer->deadline_ms,
	        .deadline_ns = kvcc_deadline(ns->client, what->transfer->deadline_ms),
	        .grace_ns = KVCC_GRACE_NS,
	        .encode = encode_blocks,
	        .what = what,
	};
}

/* ---- sync ---------------------------------------------------------------------------------- */

/* A put or get on its way through its parts. */
struct run {
	struct kvcc_work work;
	struct blocks_what what;
	struct kvc_block *blocks;
	size_t count;
	uint8_t *data; /* inline */
	struct kvcc_limits limits;
	struct kvc_outcome outcome;
};

/* Blocks of the next part, from `first`, and their bytes. */
static size_t next_part(const struct run *run, size_t first, uint64_t *bytes)
{
	struct kvcc_work work = run->work;
	struct blocks_what what = {run->what.transfer, run->blocks + first};
	struct kvcc_wire_blocks wire;
	size_t fit;

	work.what = &what;
	work.count = run->count - first < run->limits.batch ? run->count - first : run->limits.batch;
	wire = wire_blocks(&work, run->data ? 0 : UINT32_MAX);
	fit = kvcc_wire_blocks_fit(&wire);
	*bytes = 0;
	for (size_t i = 0; run->data && i < fit; i++) {
		uint64_t more = work.ns->token_bytes * what.blocks[i].tokens;

		if (more > run->limits.inline_bytes - *bytes)
			return i;
		*bytes += more;
	}
	return fit;
}

static void add_outcome(struct kvc_outcome *sum, const struct kvc_outcome *part)
{
	sum->blocks_ok += part->blocks_ok;
	sum->stored_bytes += part->stored_bytes;
	sum->from_vram += part->from_vram;
	sum->from_ram += part->from_ram;
	sum->from_disk += part->from_disk;
}

static kvc_status run_part(struct run *run, size_t first, size_t *count)
{
	struct kvcc_call call = {.status = KVC_OK};
	uint64_t bytes;
	kvc_status status;

	*count = next_part(run, first, &bytes);
	if (*count == 0)
		return kvcc_fail(
		        KVC_LIMIT,
		        "block %zu is larger than the daemon takes at a time: %llu bytes on the inline "
		        "plane, 64 KiB of page ids",
		        first, (unsigned long long)run->limits.inline_bytes);
	run->what.blocks = run->blocks + first;
	run->work.what = &run->what;
	run->work.count = *count;
	call.to = (struct kvcc_answer){.blocks = run->blocks + first, .count = *count};
	if (run->work.verb == KVC_VERB_PUT) {
		run->work.payload = run->data;
		run->work.payload_bytes = bytes;
	} else {
		call.to.data = run->data;
	}
	status = kvcc_run(run->work.ns->client, &run->work, &call);
	if (status == KVC_OK)
		add_outcome(&run->outcome, &call.outcome);
	if (run->data)
		run->data += bytes;
	return status;
}

static kvc_status run_blocks(struct run *run, struct kvc_outcome *outcome)
{
	kvc_status status = KVC_OK;
	size_t part = 0;

	for (size_t done = 0; status == KVC_OK && done < run->count; done += part)
		status = run_part(run, done, &part);
	for (size_t i = 0; status != KVC_OK && i < run->count; i++)
		run->blocks[i].status = status;
	if (status == KVC_OK && outcome)
		*outcome = run->outcome;
	return status;
}

static kvc_status transfer_blocks(struct kvc_namespace *ns, uint16_t verb,
                                  const struct kvc_transfer *transfer, struct kvc_block *blocks, size_t count,
                                  struct kvc_outcome *outcome)
{
	struct run run = {.what = {transfer, blocks}, .blocks = blocks, .count = count};
	kvc_status status = check_transfer(ns, verb, transfer, blocks, count);

	if (status == KVC_OK)
		status = check_place(ns, transfer, blocks, count);
	if (status == KVC_OK)
		status = kvcc_limits_get(ns->client, false, 0, &run.limits);
	if (status != KVC_OK)
		goto failed;
	run.work = blocks_work(ns, verb, &run.what);
	work_place(&run.work, transfer);
	return run_blocks(&run, outcome);

failed:
	for (size_t i = 0; blocks && i < count; i++)
		blocks[i].status = status;
	return status;
}

kvc_status kvc_put(struct kvc_namespace *ns, const struct kvc_transfer *transfer, struct kvc_block *blocks,
                   size_t count, struct kvc_outcome *outcome)
{
	return transfer_blocks(ns, KVC_VERB_PUT, transfer, blocks, count, outcome);
}

kvc_status kvc_get(struct kvc_namespace *ns, const struct kvc_transfer *transfer, struct kvc_block *blocks,
                   size_t count, struct kvc_outcome *outcome)
{
	return transfer_blocks(ns, KVC_VERB_GET, transfer, blocks, count, outcome);
}

/* ---- inline -------------------------------------------------------------------------------- */

static kvc_status check_data(const struct kvc_namespace *ns, const struct kvc_block *blocks, size_t count,
                             const void *data, uint64_t bytes)
{
	uint64_t expected = 0;

	for (size_t i = 0; i < count; i++) {
		if (__builtin_add_overflow(expected, ns->token_bytes * blocks[i].tokens, &expected))
			return kvcc_fail(KVC_SHAPE, "the blocks are larger than 2^64 bytes");
	}
	if (bytes != expected || (bytes > 0 && !data))
		return kvcc_fail(KVC_SHAPE, "%llu bytes of data for blocks of %llu",
		                 (unsigned long long)bytes, (unsigned long long)expected);
	return KVC_OK;
}

static kvc_status transfer_inline(struct kvc_namespace *ns, uint16_t verb,
                                  const struct kvc_transfer *transfer, struct run *run, uint64_t bytes,
                                  struct kvc_outcome *outcome)
{
	kvc_status status = check_transfer(ns, verb, transfer, run->blocks, run->count);

	if (status == KVC_OK)
		status = check_data(ns, run->blocks, run->count, run->data, bytes);
	if (status == KVC_OK)
		status = kvcc_limits_get(ns->client, true, transfer->deadline_ms, &run->limits);
	if (status != KVC_OK)
		goto failed;
	run->what = (struct blocks_what){transfer, run->blocks};
	run->work = blocks_work(ns, verb, &run->what);
	return run_blocks(run, outcome);

failed:
	for (size_t i = 0; run->blocks && i < run->count; i++)
		run->blocks[i].status = status;
	return status;
}

kvc_status kvc_put_inline(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, const void *data, uint64_t bytes,
                          struct kvc_outcome *outcome)
{
	/* Only read: run_part takes it as a put's payload. */
	struct run run = {.blocks = blocks, .count = count, .data = (uint8_t *)(uintptr_t)data};

	return transfer_inline(ns, KVC_VERB_PUT, transfer, &run, bytes, outcome);
}

kvc_status kvc_get_inline(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *data, uint64_t bytes,
                          struct kvc_outcome *outcome)
{
	struct run run = {.blocks = blocks, .count = count, .data = data};

	return transfer_inline(ns, KVC_VERB_GET, transfer, &run, bytes, outcome);
}

/* ---- async --------------------------------------------------------------------------------- */

static kvc_status submit_blocks(struct kvc_namespace *ns, uint16_t verb, const struct kvc_transfer *transfer,
                                struct kvc_block *blocks, size_t count, void *tag)
{
	struct kvcc_answer to = {.blocks = blocks, .count = count};
	struct blocks_what what = {transfer, blocks};
	struct kvcc_work work;
	kvc_status status = check_transfer(ns, verb, transfer, blocks, count);

	if (status == KVC_OK)
		status = check_place(ns, transfer, blocks, count);
	if (status == KVC_OK && count == 0)
		status = kvcc_fail(KVC_INVALID, "a request needs at least one block");
	if (status != KVC_OK)
		return status;
	work = blocks_work(ns, verb, &what);
	work_place(&work, transfer);
	work.count = count;
	return kvcc_submit(ns->client, &work, &to, tag);
}

kvc_status kvc_put_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag)
{
	return submit_blocks(ns, KVC_VERB_PUT, transfer, blocks, count, tag);
}

kvc_status kvc_get_submit(struct kvc_namespace *ns, const struct kvc_transfer *transfer,
                          struct kvc_block *blocks, size_t count, void *tag)
{
	return submit_blocks(ns, KVC_VERB_GET, transfer, blocks, count, tag);
}
