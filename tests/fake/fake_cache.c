/* See fake_cache.h. Its own memory comes from malloc, so that tests can count and fail the daemon's. */
#include "tests/fake/fake_cache.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/check.h"

enum { BLOCKS = 256 };

struct fake_block {
	bool present;
	struct kvc_storage_key key;
	uint32_t tokens;
	uint8_t *data;
	size_t bytes;
};

struct kvc_cache {
	struct kvc_loop *loop;
	enum kvc_fake_mode mode;
	struct kvc_list waiting;
	unsigned objects;
	bool above_rate;
	unsigned held;
	uint64_t payload;
	unsigned held_max;
	struct kvc_tenant_drop *drop; /* that runs */
	struct kvc_task drop_task;
	unsigned read_ahead;
	struct fake_block blocks[BLOCKS];
};

struct kvc_ns {
	struct kvc_cache *cache;
	struct kvc_image_plan plan;
	struct kvc_secret secret;
	char tenant[KVC_TENANT_NAME_BYTES];
};

struct kvc_lease {
	struct kvc_cache *cache;
};

/* ---- control ------------------------------------------------------------------------------- */

struct kvc_cache *kvc_fake_cache_open(struct kvc_loop *loop)
{
	struct kvc_cache *cache = calloc(1, sizeof *cache);

	KVC_INVARIANT(cache);
	cache->loop = loop;
	cache->held_max = UINT_MAX;
	kvc_list_init(&cache->waiting);
	return cache;
}

void kvc_fake_cache_close(struct kvc_cache *cache)
{
	KVC_INVARIANT(kvc_list_empty(&cache->waiting) && cache->objects == 0);
	KVC_INVARIANT(cache->held == 0);
	for (unsigned i = 0; i < BLOCKS; i++)
		free(cache->blocks[i].data);
	free(cache);
}

void kvc_fake_mode_set(struct kvc_cache *cache, enum kvc_fake_mode mode)
{
	cache->mode = mode;
}

unsigned kvc_fake_waiting(const struct kvc_cache *cache)
{
	unsigned count = 0;

	kvc_list_each (node, &cache->waiting)
		count++;
	return count;
}

const struct kvc_block_view *kvc_fake_oldest_view(const struct kvc_cache *cache)
{
	return &kvc_fake_oldest(cache)->view;
}

const struct kvc_op *kvc_fake_oldest(const struct kvc_cache *cache)
{
	return kvc_container_of(cache->waiting.next, struct kvc_op, wait_node);
}

unsigned kvc_fake_open_objects(const struct kvc_cache *cache)
{
	return cache->objects;
}

unsigned kvc_fake_blocks(const struct kvc_cache *cache)
{
	unsigned count = 0;

	for (unsigned i = 0; i < BLOCKS; i++)
		count += cache->blocks[i].present;
	return count;
}

/* ---- blocks -------------------------------------------------------------------------------- */

static struct fake_block *block_find(struct kvc_cache *cache, const struct kvc_storage_key *key)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (cache->blocks[i].present && kvc_storage_key_equal(&cache->blocks[i].key, key))
			return &cache->blocks[i];
	}
	return NULL;
}

static struct fake_block *block_new(struct kvc_cache *cache)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (!cache->blocks[i].present)
			return &cache->blocks[i];
	}
	return NULL;
}

/* Rows between the view and contiguous memory, in either direction. */
static uint8_t *rows_copy(const struct kvc_block_shape *shape, uint32_t dim, void *base,
                          const struct kvc_block_layout *layout, uint8_t *flat, bool to_flat)
{
	size_t bytes = dim * kvc_dtype_bytes(shape->dtype);

	for (uint32_t row = 0; row < shape->layers * shape->tokens * shape->heads; row++) {
		uint8_t *at = (uint8_t *)base + row / shape->heads / shape->tokens * layout->layer_stride +
		              row / shape->heads % shape->tokens * layout->token_stride +
		              row % shape->heads * layout->head_stride;

		memcpy(to_flat ? flat : at, to_flat ? at : flat, bytes);
		flat += bytes;
	}
	return flat;
}

static void view_copy(const struct kvc_op *op, uint8_t *flat, bool to_flat)
{
	struct kvc_block_shape shape = op->ns->plan.shape;

	shape.tokens = op->tokens;
	flat = rows_copy(&shape, shape.key_dim, op->view.key, &op->view.key_layout, flat, to_flat);
	if (shape.value_dim)
		rows_copy(&shape, shape.value_dim, op->view.value, &op->view.value_layout, flat, to_flat);
}

/* Of a pool's pages the fake keeps the ids: what a session makes of a message is what is looked at. */
static size_t bytes_of(const struct kvc_op *op)
{
	struct kvc_block_shape shape = op->ns->plan.shape;

	shape.tokens = op->tokens;
	if (op->form == KVC_OP_DEVICE)
		return op->device.page_count * sizeof *op->device.pages;
	return op->form == KVC_OP_IMAGE ? op->external.bytes : kvc_block_raw_bytes(&shape);
}

static void take(struct kvc_op *op, uint8_t *data)
{
	if (op->form == KVC_OP_DEVICE)
		memcpy(data, op->device.pages, bytes_of(op));
	else if (op->form == KVC_OP_IMAGE)
		memcpy(data, op->external.data, op->external.bytes);
	else
		view_copy(op, data, true);
}

static kvc_status give(struct kvc_op *op, const struct fake_block *block)
{
	if (op->form == KVC_OP_DEVICE)
		return memcmp(block->data, op->device.pages, block->bytes) == 0 ? KVC_OK : KVC_ENGINE_LOST;
	if (op->form == KVC_OP_HOST) {
		view_copy(op, block->data, false);
		return KVC_OK;
	}
	if (block->bytes > op->external.bytes)
		return KVC_LIMIT;
	memcpy(op->external.data, block->data, block->bytes);
	return KVC_OK;
}

static kvc_status put(struct kvc_op *op)
{
	struct fake_block *block = block_find(op->cache, &op->key);

	if (block)
		return KVC_OK;
	if (op->source_held && !op->source_held(op))
		return KVC_DEADLINE;
	block = block_new(op->cache);
	if (!block)
		return KVC_NO_SPACE;
	free(block->data);
	*block = (struct fake_block){true, op->key, op->tokens, NULL, bytes_of(op)};
	block->data = malloc(block->bytes);
	KVC_INVARIANT(block->data);
	take(op, block->data);
	op->image_bytes = block->bytes;
	return KVC_OK;
}

static kvc_status get(struct kvc_op *op)
{
	const struct fake_block *block = block_find(op->cache, &op->key);

	if (!block)
		return KVC_MISS;
	if (block->tokens != op->tokens)
		return KVC_CONFLICT;
	op->image_bytes = block->bytes;
	op->from = KVC_REST_RAM;
	return give(op, block);
}

/* ---- operations ---------------------------------------------------------------------------- */

static void finished_run(struct kvc_task *task)
{
	struct kvc_op *op = kvc_container_of(task, struct kvc_op, finished);

	op->done(op);
}

static void finish(struct kvc_op *op, kvc_status status)
{
	op->status = status;
	kvc_loop_defer(op->cache->loop, &op->finished);
}

static void carry_out(struct kvc_op *op)
{
	if (op->cancel_status != KVC_OK)
		finish(op, op->cancel_status);
	else
		finish(op, op->kind == KVC_OP_PUT ? put(op) : get(op));
}

void kvc_op_submit(struct kvc_cache *cache, struct kvc_op *op)
{
	op->cache = cache;
	op->cancel_status = KVC_OK;
	op->finished = (struct kvc_task){.run = finished_run};
	kvc_list_init(&op->wait_node);
	if (cache->mode == KVC_FAKE_AT_ONCE)
		carry_out(op);
	else
		kvc_list_push(&cache->waiting, &op->wait_node);
}

void kvc_op_cancel(struct kvc_op *op, kvc_status status)
{
	if (kvc_list_empty(&op->wait_node)) /* on its way */
		return;
	op->cancel_status = status;
	if (op->cache->mode == KVC_FAKE_STUCK)
		return;
	kvc_list_remove(&op->wait_node);
	finish(op, status);
}

void kvc_fake_release(struct kvc_cache *cache, unsigned count)
{
	struct kvc_list *node;

	while (count-- && (node = kvc_list_pop(&cache->waiting)))
		carry_out(kvc_container_of(node, struct kvc_op, wait_node));
}

/* ---- namespaces and keys ------------------------------------------------------------------- */

kvc_status kvc_ns_open(struct kvc_cache *cache, const struct kvc_ns_options *options, struct kvc_ns **ns)
{
	struct kvc_secret zero = {0};
	struct kvc_ns *opened = calloc(1, sizeof *opened);
	kvc_status status;

	KVC_INVARIANT(opened);
	status = kvc_image_plan_init(&opened->plan, &options->shape, &options->codec);
	if (status != KVC_OK) {
		free(opened);
		return status;
	}
	opened->cache = cache;
	strncpy(opened->tenant, options->tenant, sizeof opened->tenant - 1);
	kvc_secret_derive(&zero, "tenant", options->tenant, strlen(options->tenant), &opened->secret);
	cache->objects++;
	*ns = opened;
	return KVC_OK;
}

void kvc_ns_close(struct kvc_ns *ns)
{
	ns->cache->objects--;
	free(ns);
}

uint32_t kvc_ns_drops(const struct kvc_ns *ns)
{
	(void)ns;
	return 0;
}

const char *kvc_ns_tenant(const struct kvc_ns *ns)
{
	return ns->tenant;
}

kvc_status kvc_ns_may_begin(struct kvc_ns *ns, bool put, uint64_t *rate, uint64_t *wait_ms)
{
	(void)put;
	*rate = 1000;
	*wait_ms = 7;
	return ns->cache->above_rate ? KVC_QUOTA : KVC_OK;
}

kvc_status kvc_ns_blocks_hold(struct kvc_ns *ns, uint32_t blocks)
{
	if (ns->cache->held + blocks > ns->cache->held_max)
		return KVC_BUSY;
	ns->cache->held += blocks;
	return KVC_OK;
}

void kvc_ns_blocks_let_go(struct kvc_ns *ns, uint32_t blocks)
{
	KVC_INVARIANT(ns->cache->held >= blocks);
	ns->cache->held -= blocks;
}

kvc_status kvc_ns_payload_hold(struct kvc_ns *ns, uint64_t bytes, uint64_t most)
{
	if (ns->cache->payload && ns->cache->payload + bytes > most)
		return KVC_BUSY;
	ns->cache->payload += bytes;
	return KVC_OK;
}

void kvc_ns_payload_let_go(struct kvc_ns *ns, uint64_t bytes)
{
	KVC_INVARIANT(ns->cache->payload >= bytes);
	ns->cache->payload -= bytes;
}

void kvc_fake_held_max(struct kvc_cache *cache, unsigned blocks)
{
	cache->held_max = blocks;
}

unsigned kvc_fake_held(const struct kvc_cache *cache)
{
	return cache->held;
}

void kvc_fake_quota(struct kvc_cache *cache, bool above)
{
	cache->above_rate = above;
}

/* Says whose they are by the length of the name. */
uint32_t kvc_cache_tenant_stats(struct kvc_cache *cache, const char *tenant,
                                struct kvc_tenant_stat stats[KVC_TENANT_STATS])
{
	(void)cache;
	stats[0] = (struct kvc_tenant_stat){"tenant.blocks", (int64_t)strlen(tenant)};
	return 1;
}

static void dropped(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, drop_task);
	struct kvc_tenant_drop *drop = cache->drop;

	cache->drop = NULL;
	drop->done(drop);
}

/* Fails for the tenant "bad". */
void kvc_cache_tenant_drop(struct kvc_cache *cache, struct kvc_tenant_drop *drop)
{
	KVC_INVARIANT(!cache->drop);
	drop->status = strcmp(drop->tenant, "bad") == 0 ? KVC_IO : KVC_OK;
	drop->blocks = 3;
	cache->drop = drop;
	cache->drop_task.run = dropped;
	kvc_loop_defer(cache->loop, &cache->drop_task);
}

const struct kvc_image_plan *kvc_ns_plan(const struct kvc_ns *ns)
{
	return &ns->plan;
}

void kvc_ns_key(const struct kvc_ns *ns, const void *block_key, size_t bytes, struct kvc_storage_key *key)
{
	kvc_storage_key_derive(&ns->secret, block_key, bytes, key);
}

uint32_t kvc_cache_lookup(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count,
                          uint8_t *rest)
{
	uint32_t prefix = count;

	for (uint32_t i = count; i-- > 0;) {
		rest[i] = block_find(cache, &keys[i]) ? KVC_REST_RAM : KVC_REST_NONE;
		prefix = rest[i] ? prefix : i;
	}
	return prefix;
}

static uint32_t leading(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	uint32_t i = 0;

	while (i < count && block_find(cache, &keys[i]))
		i++;
	return i;
}

uint32_t kvc_cache_read_ahead(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	cache->read_ahead += count;
	return leading(cache, keys, count);
}

unsigned kvc_fake_read_ahead(const struct kvc_cache *cache)
{
	return cache->read_ahead;
}

uint32_t kvc_cache_prefetch(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	return leading(cache, keys, count);
}

uint32_t kvc_cache_drop(struct kvc_cache *cache, const struct kvc_storage_key *keys, uint32_t count)
{
	uint32_t dropped = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct fake_block *block = block_find(cache, &keys[i]);

		if (!block)
			continue;
		block->present = false;
		dropped++;
	}
	return dropped;
}

void kvc_cache_touch(struct kvc_cache *cache, const struct kvc_storage_key *key)
{
	(void)cache;
	(void)key;
}

/* ---- leases -------------------------------------------------------------------------------- */

kvc_status kvc_lease_open(struct kvc_cache *cache, uint32_t pins_max, struct kvc_lease **lease)
{
	(void)pins_max;
	*lease = calloc(1, sizeof **lease);
	KVC_INVARIANT(*lease);
	(*lease)->cache = cache;
	cache->objects++;
	return KVC_OK;
}

void kvc_lease_close(struct kvc_lease *lease)
{
	lease->cache->objects--;
	free(lease);
}

kvc_status kvc_lease_pin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count,
                         uint32_t *done)
{
	*done = leading(lease->cache, keys, count);
	return KVC_OK;
}

uint32_t kvc_lease_unpin(struct kvc_lease *lease, const struct kvc_storage_key *keys, uint32_t count)
{
	return leading(lease->cache, keys, count);
}
