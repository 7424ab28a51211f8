/* Get: find, load if the block rests on disk, decode. A block that fails its checks is forgotten and answered
 * as a miss. */
#include "daemon/base/log.h"
#include "daemon/cache/internal.h"

static void get_miss(struct kvc_op *op)
{
	kvc_stat_add(op->cache->count.misses, 1);
	kvc_op_finish(op, KVC_MISS);
}

static void get_hit(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;

	kvc_stat_add(op->from == KVC_REST_DISK ? cache->count.hits_disk : cache->count.hits_ram, 1);
	op->image_bytes = op->move.length;
	kvc_op_finish(op, KVC_OK);
}

static void get_corrupt(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);

	kvc_stat_add(cache->count.corrupt, 1);
	kvc_warn("block %02x%02x%02x%02x... failed its checksum after %s, dropped", entry->key.bytes[0],
	         entry->key.bytes[1], entry->key.bytes[2], entry->key.bytes[3],
	         op->from == KVC_REST_DISK ? "a read from disk" : "resting in RAM");
	if (!(entry->flags & KVC_ENTRY_DEAD))
		kvc_entry_drop(cache, op->entry);
}

static void decode_done(struct kvc_move *move)
{
	struct kvc_op *op = kvc_container_of(move, struct kvc_op, move);

	if (move->status == KVC_CORRUPT)
		get_corrupt(op);
	kvc_entry_unref(op->cache, op->entry);
	if (move->status == KVC_OK)
		get_hit(op);
	else if (move->status == KVC_CORRUPT)
		get_miss(op);
	else
		kvc_op_finish(op, move->status == KVC_CANCELLED ? op->cancel_status : move->status);
}

static void get_decode(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);

	kvc_op_move(op, KVC_OP_DECODE);
	kvc_entry_ref(cache, op->entry);
	op->move = (struct kvc_move){
	        .kind = KVC_MOVE_DECODE,
	        .plan = op->plan,
	        .view = &op->view,
	        .slab = kvc_entry_record(cache, entry),
	        .image_bytes = entry->image_bytes,
	        .done = decode_done,
	};
	kvc_move_submit(cache->mover, &op->move);
}

void kvc_get_loaded(struct kvc_op *op, kvc_status status)
{
	op->from = KVC_REST_DISK;
	if (status == KVC_OK) {
		get_decode(op);
	} else if (status == KVC_NO_MEMORY || status == KVC_NO_SPACE) {
		kvc_op_finish(op, KVC_BUSY);
	} else {
		get_miss(op);
	}
}

static void get_load(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_flight *flight = kvc_entry_flight(cache, kvc_cache_entry(cache, op->entry));
	kvc_status status = KVC_OK;

	if (!flight)
		status = kvc_load_begin(cache, op->entry, true, &flight);
	if (status == KVC_OK)
		kvc_op_wait(op, flight, KVC_OP_LOAD);
	else
		kvc_op_finish(op, KVC_BUSY);
}

void kvc_get_start(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry;

	op->entry = kvc_cache_find(cache, &op->key);
	if (op->entry == KVC_ENTRY_NONE) {
		get_miss(op);
		return;
	}
	entry = kvc_cache_entry(cache, op->entry);
	if (entry->tokens != op->tokens) {
		kvc_op_finish(op, KVC_CONFLICT);
	} else if (entry->slab != KVC_EXTENT_NONE) {
		op->from = KVC_REST_RAM;
		get_decode(op);
	} else {
		get_load(op);
	}
}
