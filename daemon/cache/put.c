/* Put: reserve, encode, commit; then, if it must be durable, store and sync. Until the commit nobody can see
 * the block. The first writer wins: a put of a key that is there leaves it as it is. */
#include "daemon/cache/internal.h"

static void put_present(struct kvc_op *op, uint32_t id);

/* ---- durable: store and sync ---- */

static void put_sync(struct kvc_op *op)
{
	kvc_op_move(op, KVC_OP_SYNC);
	kvc_sync_join(op->cache, op);
}

static void put_store(struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_flight *flight = kvc_entry_flight(cache, entry);
	kvc_status status = KVC_OK;

	if (!kvc_cache_disk_writable(cache))
		status = cache->options.disk ? KVC_NO_SPACE : KVC_UNSUPPORTED;
	else if (!flight)
		status = kvc_store_begin(cache, id, false, &flight);
	if (status == KVC_OK)
		kvc_op_wait(op, flight, KVC_OP_STORE);
	else
		kvc_op_finish(op, status);
}

void kvc_put_stored(struct kvc_op *op, kvc_status status)
{
	if (status == KVC_OK)
		put_sync(op);
	else
		kvc_op_finish(op, status);
}

void kvc_put_synced(struct kvc_op *op, kvc_status status)
{
	kvc_op_finish(op, status);
}

/* The block is in RAM, complete: what is left to do for this operation. */
static void put_settle(struct kvc_op *op, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(op->cache, id);

	op->entry = id;
	op->image_bytes = entry->image_bytes;
	if (!op->durable)
		kvc_op_finish(op, KVC_OK);
	else if (entry->flags & KVC_ENTRY_ON_DISK)
		put_sync(op);
	else
		put_store(op, id);
}

/* ---- commit and failure ---- */

/* The puts that waited for this one look again: the block is there, or one of them makes it. */
static void waiters_again(struct kvc_list *waiters)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(waiters))) {
		struct kvc_op *op = kvc_container_of(node, struct kvc_op, wait_node);

		kvc_op_move(op, KVC_OP_IDLE);
		kvc_put_start(op);
	}
}

static void slab_release(struct kvc_op *op)
{
	kvc_slab_release(op->cache->options.arena, op->space.slab);
	kvc_space_wake(op->cache);
}

/* No block comes of this put; it holds no slab. */
void kvc_put_abandon(struct kvc_op *op, kvc_status status)
{
	struct kvc_cache *cache = op->cache;
	uint32_t id = op->entry;
	struct kvc_list waiters;

	kvc_entry_drop(cache, id);
	kvc_flight_end(kvc_entry_flight(cache, kvc_cache_entry(cache, id)), &waiters);
	kvc_op_finish(op, status);
	waiters_again(&waiters);
}

static void record_write(struct kvc_op *op, uint64_t image_bytes)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	struct kvc_record record = {
	        .key = op->key,
	        .generation = ++cache->generation,
	        .image_bytes = image_bytes,
	        .tokens = op->tokens,
	        .depth = entry->depth,
	};

	if (op->has_parent)
		record.parent = op->parent;
	memcpy(record.tenant, op->ns->tenant_id, sizeof record.tenant);
	kvc_record_seal(&record, kvc_slab_data(cache->options.arena, op->space.slab));
}

static void put_commit(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	struct kvc_list waiters;

	/* A slab that cannot shrink for want of a node only wastes its tail. */
	(void)kvc_slab_shrink(cache->options.arena, op->space.slab, kvc_record_bytes(op->move.length));
	record_write(op, op->move.length);
	entry->slab = op->space.slab;
	entry->image_bytes = (uint32_t)op->move.length;
	entry->flags |= KVC_ENTRY_VISIBLE;
	if (!cache->options.disk)
		entry->flags |= KVC_ENTRY_LOOSE;
	if (op->has_parent)
		kvc_entry_list_child(cache, op->entry, &op->parent);
	else
		kvc_entry_list(cache, op->entry, KVC_HOT);
	kvc_flight_end(kvc_entry_flight(cache, entry), &waiters);
	put_settle(op, op->entry);
	waiters_again(&waiters);
	kvc_cleaner_run(cache);
}

/* ---- reserve and encode ---- */

static void put_reserve(struct kvc_op *op, uint64_t image_bytes);

static void encode_done(struct kvc_move *move)
{
	struct kvc_op *op = kvc_container_of(move, struct kvc_op, move);
	bool dropped = kvc_cache_entry(op->cache, op->entry)->flags & KVC_ENTRY_DEAD;

	KVC_INVARIANT(!dropped); /* an invisible block cannot be dropped */
	if (move->status == KVC_OK && op->source_held && !op->source_held(op))
		move->status = KVC_DEADLINE;
	if (move->status == KVC_OK) {
		put_commit(op);
		return;
	}
	slab_release(op);
	if (move->status == KVC_NO_SPACE && op->cancel_status == KVC_OK)
		put_reserve(op, move->length);
	else
		kvc_put_abandon(op, op->cancel_status != KVC_OK ? op->cancel_status : move->status);
}

static void put_encode(struct kvc_op *op)
{
	kvc_op_move(op, KVC_OP_ENCODE);
	op->move = (struct kvc_move){
	        .kind = KVC_MOVE_ENCODE,
	        .plan = op->plan,
	        .view = &op->view,
	        .slab = kvc_slab_data(op->cache->options.arena, op->space.slab),
	        .image_bytes = op->space.bytes - KVC_RECORD_HEADER_BYTES,
	        .done = encode_done,
	};
	kvc_move_submit(op->cache->mover, &op->move);
}

static void space_granted(struct kvc_space_req *req, kvc_status status)
{
	struct kvc_op *op = kvc_container_of(req, struct kvc_op, space);

	if (status == KVC_OK)
		put_encode(op);
	else
		kvc_put_abandon(op, status);
}

static void put_reserve(struct kvc_op *op, uint64_t image_bytes)
{
	kvc_status status;

	op->space = (struct kvc_space_req){
	        .bytes = kvc_record_bytes(image_bytes),
	        .granted = space_granted,
	};
	status = kvc_space_request(op->cache, &op->space);
	if (status == KVC_OK)
		put_encode(op);
	else if (status == KVC_BUSY)
		kvc_op_move(op, KVC_OP_SPACE);
	else
		kvc_put_abandon(op, status);
}

/* ---- start ---- */

static uint16_t depth_of(struct kvc_op *op)
{
	uint32_t parent = op->has_parent ? kvc_cache_find(op->cache, &op->parent) : KVC_ENTRY_NONE;
	uint32_t depth = parent == KVC_ENTRY_NONE ? 0 : kvc_cache_entry(op->cache, parent)->depth + 1u;

	return depth > UINT16_MAX ? UINT16_MAX : (uint16_t)depth;
}

static void put_create(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_flight *flight;
	struct kvc_entry *entry;
	uint32_t id;
	kvc_status status = kvc_index_insert(cache->index, &op->key, &id);

	if (status != KVC_OK) {
		kvc_op_finish(op, status);
		return;
	}
	kvc_stat_add(cache->count.entries, 1);
	kvc_stat_set(cache->count.index_bytes, (int64_t)kvc_index_bytes(cache->index));
	entry = kvc_cache_entry(cache, id);
	entry->tokens = (uint16_t)op->tokens;
	entry->depth = depth_of(op);
	status = kvc_flight_begin(cache, id, KVC_FLIGHT_FILL, &flight);
	if (status != KVC_OK) {
		kvc_entry_drop(cache, id);
		kvc_op_finish(op, status);
		return;
	}
	op->entry = id;
	put_reserve(op, op->plan->image_bytes);
}

static void put_present(struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (entry->tokens != op->tokens) {
		kvc_op_finish(op, KVC_CONFLICT);
		return;
	}
	kvc_stat_add(cache->count.puts_present, 1);
	kvc_entry_touch(cache, id);
	put_settle(op, id);
}

void kvc_put_start(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	uint32_t id = kvc_index_find(cache->index, &op->key);

	if (op->cancel_status != KVC_OK) {
		kvc_op_finish(op, op->cancel_status);
	} else if (id == KVC_ENTRY_NONE) {
		put_create(op);
	} else if (kvc_cache_entry(cache, id)->flags & KVC_ENTRY_VISIBLE) {
		put_present(op, id);
	} else {
		op->entry = id;
		kvc_op_wait(op, kvc_entry_flight(cache, kvc_cache_entry(cache, id)), KVC_OP_FILL);
	}
}
