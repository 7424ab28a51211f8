/* Put: reserve, encode, commit; then, if it must be durable, store and sync. Until the commit nobody can see
 * the block. The first writer wins: a put of a key that is there leaves it as it is. */
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

static void put_present(struct kvc_op *op, uint32_t id);
static void put_settle(struct kvc_op *op, uint32_t id);

/* ---- durable: store and sync ---- */

static void put_sync(struct kvc_op *op)
{
	op->lost = false;
	kvc_op_move(op, KVC_OP_SYNC);
	kvc_sync_join(op->cache, op);
}

static void put_store(struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_flight *flight = kvc_entry_flight(cache, id);
	bool in_ram = entry->slab != KVC_EXTENT_NONE;
	kvc_status status = KVC_OK;

	if (!kvc_cache_disk_writable(cache))
		status = cache->options.disk ? KVC_NO_SPACE : KVC_UNSUPPORTED;
	else if (!flight &&
	         !kvc_tenant_disk_room(cache, op->ns->tenant, kvc_record_bytes(entry->image_bytes)))
		status = KVC_QUOTA;
	else if (!flight && in_ram)
		status = kvc_store_begin(cache, id, &flight);
	else if (!flight)
		status = kvc_lower_begin(cache, id, true, &flight);
	if (status == KVC_OK)
		kvc_op_wait(op, flight, in_ram ? KVC_OP_STORE : KVC_OP_LOAD);
	else
		kvc_op_finish(op, status);
}

/* The block that rested in VRAM only, or whose place on disk was lost while it was loaded, is in RAM; or it
 * is gone: then it is put anew. */
void kvc_put_arrived(struct kvc_op *op, kvc_status status)
{
	if (status == KVC_OK) {
		put_settle(op, op->entry);
	} else if (status == KVC_NO_SPACE || status == KVC_NO_MEMORY || status == KVC_QUOTA) {
		kvc_op_finish(op, status);
	} else {
		kvc_op_move(op, KVC_OP_IDLE);
		kvc_put_start(op);
	}
}

void kvc_put_stored(struct kvc_op *op, kvc_status status)
{
	if (status == KVC_OK)
		put_sync(op);
	else
		kvc_op_finish(op, status);
}

/* The tier's own answer tells of losses since the submission of the sync before this one. That one may have
 * waited for a slot of the mover after this put joined: hence `lost`. */
void kvc_put_synced(struct kvc_op *op, kvc_status status)
{
	kvc_op_finish(op, status == KVC_OK && op->lost ? KVC_IO : status);
}

/* The block is there, complete: what is left to do for this operation. */
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

/* Where the image would have come to lie. */
static void room_release(struct kvc_op *op)
{
	if (op->cell != KVC_CELL_NONE) {
		kvc_vram_release(op->cache, op->cell);
		op->cell = KVC_CELL_NONE;
		return;
	}
	kvc_space_return(op->cache, &op->space);
}

/* Its tenant was dropped meanwhile. */
static bool is_doomed(const struct kvc_op *op)
{
	return kvc_cache_entry(op->cache, op->entry)->hints & KVC_HINT_DOOMED;
}

/* No block comes of this put; it holds no room. */
void kvc_put_abandon(struct kvc_op *op, kvc_status status)
{
	struct kvc_cache *cache = op->cache;
	uint32_t id = op->entry;
	struct kvc_list waiters;

	kvc_entry_drop(cache, id);
	kvc_flight_end(kvc_entry_flight(cache, id), &waiters);
	kvc_op_finish(op, status);
	waiters_again(&waiters);
}

static struct kvc_record record_of(const struct kvc_op *op, uint64_t image_bytes)
{
	struct kvc_record record = {
	        .key = op->key,
	        .generation = ++op->cache->generation,
	        .image_bytes = image_bytes,
	        .tokens = op->tokens,
	        .depth = kvc_cache_entry(op->cache, op->entry)->depth,
	};

	if (op->has_parent)
		record.parent = op->parent;
	memcpy(record.tenant, op->ns->tenant->id, sizeof record.tenant);
	record.incarnation = op->ns->incarnation;
	return record;
}

static void commit_in_ram(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	struct kvc_record record = record_of(op, op->move.length);
	uint32_t parent = KVC_ENTRY_NONE;

	/* A slab that cannot shrink for want of a node only wastes its tail. */
	kvc_space_shrink(cache, &op->space, kvc_record_bytes(op->move.length));
	kvc_record_seal(&record, kvc_slab_data(cache->options.arena, op->space.slab));
	entry->slab = op->space.slab;
	kvc_space_settle(cache, &op->space);
	if (!cache->options.disk)
		entry->flags |= KVC_ENTRY_LOOSE;
	if (op->has_parent)
		parent = kvc_index_find(cache->index, &op->parent);
	kvc_entry_list(cache, op->entry,
	               op->has_parent && parent == KVC_ENTRY_NONE ? KVC_POLICY_COLD : KVC_POLICY_NEW, parent);
}

static void commit_in_vram(struct kvc_op *op)
{
	struct kvc_record record = record_of(op, op->move.length);

	kvc_vram_attach(op->cache, op->cell, op->entry, op->ns, &record);
	op->cell = KVC_CELL_NONE;
}

static void put_commit(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	struct kvc_list waiters;

	kvc_admission_sized(cache, op->entry, op->move.length);
	entry->image_bytes = (uint32_t)op->move.length;
	entry->flags |= KVC_ENTRY_VISIBLE;
	if (op->cell != KVC_CELL_NONE)
		commit_in_vram(op);
	else
		commit_in_ram(op);
	kvc_flight_end(kvc_entry_flight(cache, op->entry), &waiters);
	put_settle(op, op->entry);
	waiters_again(&waiters);
	kvc_cleaner_run(cache);
}

/* ---- reserve and encode ---- */

static void put_reserve(struct kvc_op *op, uint64_t image_bytes);

/* What the engine made of the client's image, for the client. */
static kvc_status encode_status(const struct kvc_op *op)
{
	if (op->cancel_status != KVC_OK && op->move.status != KVC_OK)
		return op->cancel_status;
	return op->move.status == KVC_CORRUPT ? KVC_INVALID : op->move.status;
}

static void encode_done(struct kvc_move *move)
{
	struct kvc_op *op = kvc_container_of(move, struct kvc_op, move);
	bool dropped = kvc_cache_entry(op->cache, op->entry)->flags & KVC_ENTRY_DEAD;

	KVC_INVARIANT(!dropped); /* an invisible block cannot be dropped */
	if (move->status == KVC_OK && op->source_held && !op->source_held(op))
		move->status = KVC_DEADLINE;
	if (move->status == KVC_OK && !is_doomed(op))
		move->status = kvc_hints_commit(op);
	if (move->status == KVC_OK && !is_doomed(op)) {
		put_commit(op);
		return;
	}
	room_release(op);
	if (is_doomed(op))
		kvc_put_abandon(op, KVC_CANCELLED);
	else if (move->status == KVC_NO_SPACE && op->cancel_status == KVC_OK)
		put_reserve(op, move->length);
	else
		kvc_put_abandon(op, encode_status(op));
}

static void put_encode(struct kvc_op *op)
{
	bool on_gpu = op->form == KVC_OP_DEVICE;
	bool in_vram = op->cell != KVC_CELL_NONE;
	struct kvc_tenant *tenant = op->ns->tenant;

	kvc_op_move(op, KVC_OP_ENCODE);
	op->move = (struct kvc_move){
	        .kind = on_gpu ? KVC_MOVE_GATHER : KVC_MOVE_ENCODE,
	        .flow = &tenant->moves,
	        .plan = op->plan,
	        .view = op->form == KVC_OP_HOST ? &op->view : NULL,
	        .external = op->form == KVC_OP_IMAGE ? &op->external : NULL,
	        .device = on_gpu ? &op->device : NULL,
	        .vram = KVC_VRAM_NONE,
	        .slab = in_vram ? NULL : kvc_slab_data(op->cache->options.arena, op->space.slab),
	        .image_bytes = in_vram ? op->plan->image_bytes : op->space.bytes - KVC_RECORD_HEADER_BYTES,
	        .done = encode_done,
	};
	if (in_vram)
		kvc_vram_name(op->cache, op->cell, &op->move);
	if (on_gpu)
		kvc_vram_move_submit(op->cache, tenant, kvc_pool_gpu(op->device.pool), &op->move);
	else
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
	        .tenant = op->ns->tenant,
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

/* The image goes to VRAM if the block comes from a GPU with room, is a full one, and need not be on disk at
 * once; else to RAM. */
static void put_make_room(struct kvc_op *op)
{
	bool in_vram = op->form == KVC_OP_DEVICE && !op->durable && op->plan == &op->ns->plan &&
	               kvc_vram_reserve(op->cache, kvc_pool_gpu(op->device.pool), op->plan->image_bytes,
	                                &op->cell) == KVC_OK;

	if (in_vram)
		put_encode(op);
	else
		put_reserve(op, op->form == KVC_OP_IMAGE ? op->external.bytes : op->plan->image_bytes);
}

/* ---- start ---- */

/* One more than the parent's, which may still be on its way too. */
static uint16_t depth_of(struct kvc_op *op, uint32_t parent)
{
	uint32_t depth = parent == KVC_ENTRY_NONE ? 0 : kvc_cache_entry(op->cache, parent)->depth + 1u;

	return depth > UINT16_MAX ? UINT16_MAX : (uint16_t)depth;
}

/* Whether the put may make a block. A drop of its tenant meets the blocks that there are then, so a put that
 * began before it makes none after it, whatever it has waited for. Room is made for as much as the client
 * says its image has: no more than one can have. */
static kvc_status put_pass(const struct kvc_op *op)
{
	if (op->drops != kvc_ns_drops(op->ns))
		return KVC_CANCELLED;
	if (op->form == KVC_OP_IMAGE && op->external.bytes > op->plan->raw_image_bytes)
		return KVC_SHAPE;
	return kvc_tenant_put_pass(op->cache, op->ns->tenant, kvc_block_raw_bytes(&op->plan->shape));
}

static void put_create(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_flight *flight;
	struct kvc_entry *entry;
	uint32_t id, parent = KVC_ENTRY_NONE;
	kvc_status status = put_pass(op);

	if (status == KVC_OK)
		status = kvc_index_insert(cache->index, &op->key, &id);
	if (status != KVC_OK) {
		kvc_op_finish(op, status);
		return;
	}
	kvc_stat_add(cache->count.entries, 1);
	kvc_stat_set(cache->count.index_bytes, (int64_t)kvc_index_bytes(cache->index));
	entry = kvc_cache_entry(cache, id);
	kvc_tenant_entry_new(cache, id, op->ns->tenant);
	entry->tokens = (uint16_t)op->tokens;
	if (op->has_parent)
		parent = kvc_index_find(cache->index, &op->parent);
	entry->depth = depth_of(op, parent);
	kvc_hints_new(cache, op, id);
	kvc_policy_arrive(kvc_tenant_policy(cache, entry), id, parent);
	kvc_admission_arrive(cache, op, id, parent);
	status = kvc_flight_begin(cache, id, KVC_FLIGHT_FILL, &flight);
	if (status != KVC_OK) {
		kvc_entry_drop(cache, id);
		kvc_op_finish(op, status);
		return;
	}
	op->entry = id;
	put_make_room(op);
}

static void put_present(struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (entry->tokens != op->tokens) {
		kvc_op_finish(op, KVC_CONFLICT);
		return;
	}
	/* What was torn by the crash may look whole until it is restored, and what was to end is not found
	 * after a restart: no promise can be made for it. */
	if ((op->durable && entry->flags & KVC_ENTRY_UNREAD) ||
	    (op->durable && entry->hints & (KVC_HINT_TTL | KVC_HINT_MARKED))) {
		kvc_entry_drop(cache, id);
		put_create(op);
		return;
	}
	kvc_stat_add(cache->count.puts_present, 1);
	kvc_tenant_adopt(cache, id, op->ns->tenant);
	kvc_hints_merge(op, id);
	kvc_admission_use(cache, id);
	put_settle(op, id);
}

void kvc_put_start(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	uint32_t id = kvc_index_find(cache->index, &op->key);

	if (id != KVC_ENTRY_NONE && kvc_hints_expire(cache, id))
		id = KVC_ENTRY_NONE;
	if (op->cancel_status != KVC_OK) {
		kvc_op_finish(op, op->cancel_status);
	} else if (id == KVC_ENTRY_NONE) {
		put_create(op);
	} else if (kvc_cache_entry(cache, id)->flags & KVC_ENTRY_VISIBLE) {
		put_present(op, id);
	} else {
		op->entry = id;
		kvc_op_wait(op, kvc_entry_flight(cache, id), KVC_OP_FILL);
	}
}
