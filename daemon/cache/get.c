/* Get: find, load if the block rests on disk (or in VRAM where it is of no use), decode. A block that fails
 * its checks is forgotten and answered as a miss. */
#include "daemon/base/log.h"
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

static void get_miss(struct kvc_op *op)
{
	kvc_stat_add(op->cache->count.misses, 1);
	op->ns->tenant->count.misses++;
	kvc_op_finish(op, KVC_MISS);
}

static void get_hit(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	kvc_stat_cell *hits[] = {
	        [KVC_REST_VRAM] = cache->count.hits_vram,
	        [KVC_REST_RAM] = cache->count.hits_ram,
	        [KVC_REST_DISK] = cache->count.hits_disk,
	};

	kvc_stat_add(hits[op->from], 1);
	op->ns->tenant->count.hits++;
	op->image_bytes = op->move.length;
	kvc_op_finish(op, KVC_OK);
}

/* Every tile of it was checked. */
static void get_sound(struct kvc_op *op)
{
	struct kvc_entry *entry = kvc_cache_entry(op->cache, op->entry);

	entry->flags &= (uint8_t)~KVC_ENTRY_UNREAD;
}

/* The copy that was read is damaged. One in VRAM may not be the only one; but while others read it, or lower
 * it, its room stays taken, and so the whole block goes. */
static void get_corrupt(struct kvc_op *op)
{
	static const char *const after[] = {
	        [KVC_REST_VRAM] = "resting in VRAM",
	        [KVC_REST_RAM] = "resting in RAM",
	        [KVC_REST_DISK] = "a read from disk",
	};
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);

	kvc_stat_add(cache->count.corrupt, 1);
	kvc_warn("block %02x%02x%02x%02x... failed its checksum after %s, dropped", entry->key.bytes[0],
	         entry->key.bytes[1], entry->key.bytes[2], entry->key.bytes[3], after[op->from]);
	if (entry->flags & KVC_ENTRY_DEAD)
		return;
	if (op->from == KVC_REST_VRAM && kvc_entry_used_by_one(entry) &&
	    (entry->slab != KVC_EXTENT_NONE || entry->flags & KVC_ENTRY_ON_DISK))
		kvc_vram_detach(cache, op->entry);
	else
		kvc_entry_drop(cache, op->entry);
}

/* What was brought up through VRAM stays there, unless the block is there by now, or gone. */
static void get_raised(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	struct kvc_record record;
	bool stays = op->move.status == KVC_OK && !(entry->flags & KVC_ENTRY_IN_VRAM) &&
	             entry->slab != KVC_EXTENT_NONE && !(entry->flags & KVC_ENTRY_DEAD) &&
	             kvc_gpu_is_up(kvc_vram_gpu(cache, op->cell));

	stays = stays &&
	        kvc_record_parse(kvc_entry_record(cache, entry),
	                         kvc_slab_bytes(cache->options.arena, entry->slab), &record) == KVC_OK;
	if (stays) {
		kvc_vram_attach(cache, op->cell, op->entry, op->ns, &record);
		kvc_stat_add(cache->count.raised, 1);
	} else {
		kvc_vram_release(cache, op->cell);
	}
	op->cell = KVC_CELL_NONE;
}

static void get_again(struct kvc_op *op)
{
	kvc_op_move(op, KVC_OP_IDLE);
	if (op->cancel_status != KVC_OK)
		kvc_op_finish(op, op->cancel_status);
	else
		kvc_get_start(op);
}

/* The copy in RAM is damaged, and what rests on disk may not be: a transfer may have gone wrong. */
static bool reread_helps(const struct kvc_op *op)
{
	const struct kvc_entry *entry = kvc_cache_entry(op->cache, op->entry);

	return !op->reread && op->from != KVC_REST_VRAM && entry->flags & KVC_ENTRY_ON_DISK &&
	       !(entry->flags & KVC_ENTRY_DEAD) && entry->slab != KVC_EXTENT_NONE && entry->refs == 1 &&
	       !entry->pins && !kvc_entry_in_flight(entry);
}

static void get_reread(struct kvc_op *op)
{
	op->reread = true;
	kvc_stat_add(op->cache->count.reread, 1);
	kvc_entry_unref(op->cache, op->entry);
	kvc_entry_evict(op->cache, op->entry);
	get_again(op);
}

static void decode_done(struct kvc_move *move)
{
	struct kvc_op *op = kvc_container_of(move, struct kvc_op, move);

	if (op->cell != KVC_CELL_NONE)
		get_raised(op);
	if (move->status == KVC_CORRUPT && reread_helps(op)) {
		get_reread(op);
		return;
	}
	if (move->status == KVC_CORRUPT)
		get_corrupt(op);
	else if (move->status == KVC_OK)
		get_sound(op);
	kvc_entry_unref(op->cache, op->entry);
	kvc_cleaner_run(op->cache);
	if (move->status == KVC_OK)
		get_hit(op);
	else if (move->status == KVC_CORRUPT && op->from == KVC_REST_VRAM)
		get_again(op);
	else if (move->status == KVC_CORRUPT)
		get_miss(op);
	else
		kvc_op_finish(op, op->cancel_status != KVC_OK ? op->cancel_status : move->status);
}

/* Ready to be submitted, but for what depends on where the image is. */
static void get_prepare(struct kvc_op *op)
{
	bool on_gpu = op->form == KVC_OP_DEVICE;
	const struct kvc_entry *entry = kvc_cache_entry(op->cache, op->entry);

	kvc_op_move(op, KVC_OP_DECODE);
	kvc_entry_ref(op->cache, op->entry);
	op->move = (struct kvc_move){
	        .kind = on_gpu ? KVC_MOVE_SCATTER : KVC_MOVE_DECODE,
	        .flow = &op->ns->tenant->moves,
	        .plan = op->plan,
	        .view = op->form == KVC_OP_HOST ? &op->view : NULL,
	        .external = op->form == KVC_OP_IMAGE ? &op->external : NULL,
	        .device = on_gpu ? &op->device : NULL,
	        .vram = KVC_VRAM_NONE,
	        .image_bytes = entry->image_bytes,
	        .done = decode_done,
	};
}

static void get_submit(struct kvc_op *op)
{
	if (op->form == KVC_OP_DEVICE)
		kvc_vram_move_submit(op->cache, op->ns->tenant, kvc_pool_gpu(op->device.pool), &op->move);
	else
		kvc_move_submit(op->cache->mover, &op->move);
}

static void get_from_ram(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	const struct kvc_entry *entry = kvc_cache_entry(cache, op->entry);
	bool may_stay = op->form == KVC_OP_DEVICE && op->plan == &op->ns->plan &&
	                !(entry->flags & KVC_ENTRY_IN_VRAM) && entry->image_bytes == op->plan->image_bytes;

	get_prepare(op);
	op->move.slab = kvc_entry_record(cache, entry);
	if (may_stay &&
	    kvc_vram_reserve(cache, kvc_pool_gpu(op->device.pool), entry->image_bytes, &op->cell) == KVC_OK)
		kvc_vram_name(cache, op->cell, &op->move);
	get_submit(op);
}

static void get_from_vram(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;

	op->from = KVC_REST_VRAM;
	get_prepare(op);
	kvc_vram_name(cache, kvc_vram_cell(cache, op->entry), &op->move);
	get_submit(op);
}

/* The copy in VRAM was lost or is damaged, and there is another. */
static bool rests_on_disk_yet(const struct kvc_op *op)
{
	const struct kvc_entry *entry = kvc_cache_entry(op->cache, op->entry);

	return op->from == KVC_REST_VRAM && entry->flags & KVC_ENTRY_ON_DISK &&
	       !(entry->flags & KVC_ENTRY_DEAD);
}

void kvc_get_arrived(struct kvc_op *op, kvc_status status)
{
	if (status == KVC_OK) {
		get_from_ram(op);
	} else if (status == KVC_NO_MEMORY || status == KVC_NO_SPACE) {
		kvc_op_finish(op, KVC_BUSY);
	} else if (status == KVC_QUOTA) {
		kvc_op_finish(op, status);
	} else if (status == KVC_CANCELLED || rests_on_disk_yet(op)) {
		get_again(op); /* cancelled: those for whom it began had left when this one came */
	} else {
		get_miss(op);
	}
}

/* Whether the block is to come from VRAM: not if that engine ends, and it rests on disk too. */
static bool lower_it(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	return entry->flags & KVC_ENTRY_IN_VRAM &&
	       (!(entry->flags & KVC_ENTRY_ON_DISK) ||
	        kvc_gpu_is_up(kvc_vram_gpu(cache, kvc_vram_cell(cache, id))));
}

/* Not where it can be decoded from: bring it into RAM. */
static void get_load(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_flight *flight = kvc_entry_flight(cache, op->entry);
	bool in_vram = lower_it(cache, op->entry);
	kvc_status status = KVC_OK;

	op->from = in_vram ? KVC_REST_VRAM : KVC_REST_DISK;
	if (!flight && in_vram)
		status = kvc_lower_begin(cache, op->entry, true, &flight);
	else if (!flight)
		status = kvc_load_begin(cache, op->entry, true, &flight);
	if (status == KVC_OK && flight->space.queued)
		kvc_space_hurry(cache, &flight->space); /* it may have begun for nobody */
	if (status == KVC_OK)
		kvc_op_wait(op, flight, KVC_OP_LOAD);
	else if (status == KVC_ENGINE_LOST)
		get_miss(op);
	else
		kvc_op_finish(op, status == KVC_QUOTA ? status : KVC_BUSY);
}

/* Whether the block rests in the VRAM of the GPU that wants it. */
static bool in_own_vram(const struct kvc_op *op, const struct kvc_entry *entry)
{
	return op->form == KVC_OP_DEVICE && entry->flags & KVC_ENTRY_IN_VRAM &&
	       kvc_vram_gpu(op->cache, kvc_vram_cell(op->cache, op->entry)) == kvc_pool_gpu(op->device.pool);
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
	kvc_tenant_adopt(cache, op->entry, op->ns->tenant);
	entry = kvc_cache_entry(cache, op->entry);
	if (entry->tokens != op->tokens) {
		kvc_op_finish(op, KVC_CONFLICT);
	} else if (kvc_tenant_get_pass(cache, op->ns->tenant, kvc_block_raw_bytes(&op->plan->shape)) !=
	           KVC_OK) {
		kvc_op_finish(op, KVC_QUOTA);
	} else if (in_own_vram(op, entry)) {
		get_from_vram(op);
	} else if (entry->slab != KVC_EXTENT_NONE) {
		op->from = KVC_REST_RAM;
		kvc_admission_use(op->cache, op->entry);
		get_from_ram(op);
	} else {
		get_load(op);
	}
}
