/* What clients say of the blocks that they put: priority, ephemeral, time to live.
 *
 * An ephemeral block is loose (internal.h) from its first moment on: so it is never written, by nobody, and
 * may be evicted at once.
 *
 * A time to live counts from the beginning of the put on the loop's clock. When it has passed the block is a
 * miss: whoever finds it forgets it (kvc_hints_expire), and a sweep forgets those that nobody asks for, some
 * at a time. What runs meanwhile ends as after a drop. A block that ends may rest on disk, in a record that
 * says so; no start takes such a record over, as a monotonic clock does not go on over one. */
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"

enum {
	SWEEP = 256,        /* blocks forgotten between two looks at the rest of the world */
	SWEEP_AGAIN_MS = 1, /* until the next of them */
};

static bool has_end(const struct kvc_entry *entry)
{
	return entry->hints & KVC_HINT_TTL;
}

/* ---- the sweep ----------------------------------------------------------------------------- */

static void sweep_fire(struct kvc_timer *timer);

/* Without memory for a timer, the next block with an end, or who finds this one, makes up for it. */
static void sweep_arm(struct kvc_cache *cache, uint64_t least_ms)
{
	uint64_t now_ms = kvc_loop_now_ms(cache->options.loop);
	struct kvc_timer *timer = &cache->expiry_timer;
	uint64_t ends_ms, delay_ms;

	if (kvc_expiry_first(&cache->expiry, &ends_ms) == KVC_EXPIRY_NONE ||
	    (timer->heap_slot && timer->due_ms <= ends_ms))
		return;
	delay_ms = ends_ms > now_ms ? ends_ms - now_ms : 0;
	timer->fire = sweep_fire;
	(void)kvc_timer_start(cache->options.loop, timer, delay_ms > least_ms ? delay_ms : least_ms);
}

static void sweep_fire(struct kvc_timer *timer)
{
	struct kvc_cache *cache = kvc_container_of(timer, struct kvc_cache, expiry_timer);
	uint64_t ends_ms;
	uint32_t id;

	for (unsigned n = 0; n < SWEEP; n++) {
		id = kvc_expiry_first(&cache->expiry, &ends_ms);
		if (id == KVC_EXPIRY_NONE || !kvc_hints_expire(cache, id))
			break;
	}
	sweep_arm(cache, SWEEP_AGAIN_MS);
	kvc_cache_check_stopped(cache);
}

/* ---- time to live -------------------------------------------------------------------------- */

static void count_expiring(struct kvc_cache *cache)
{
	kvc_stat_set(cache->count.expiring, cache->expiry.count);
	kvc_stat_set(cache->count.expiry_bytes, (int64_t)kvc_expiry_bytes(&cache->expiry));
}

bool kvc_hints_over(const struct kvc_cache *cache, uint32_t id)
{
	return has_end(kvc_index_entry(cache->index, id)) &&
	       kvc_expiry_get(&cache->expiry, id) <= kvc_loop_now_ms(cache->options.loop);
}

bool kvc_hints_expire(struct kvc_cache *cache, uint32_t id)
{
	if (!kvc_hints_over(cache, id))
		return false;
	kvc_stat_add(cache->count.expired, 1);
	kvc_entry_drop(cache, id);
	return true;
}

static void end_none(struct kvc_cache *cache, uint32_t id)
{
	kvc_expiry_remove(&cache->expiry, id);
	kvc_cache_entry(cache, id)->hints &= (uint8_t)~KVC_HINT_TTL;
	count_expiring(cache);
}

void kvc_hints_dropped(struct kvc_cache *cache, uint32_t id)
{
	if (has_end(kvc_cache_entry(cache, id)))
		end_none(cache, id);
}

void kvc_hints_stop(struct kvc_cache *cache)
{
	uint64_t ends_ms;
	uint32_t id;

	while ((id = kvc_expiry_first(&cache->expiry, &ends_ms)) != KVC_EXPIRY_NONE)
		kvc_entry_drop(cache, id);
}

/* ---- puts ---------------------------------------------------------------------------------- */

void kvc_hints_new(struct kvc_cache *cache, const struct kvc_op *op, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(op->hints.priority < KVC_PRIORITIES);
	entry->hints = op->hints.priority;
	if (!op->hints.ephemeral)
		return;
	entry->hints |= KVC_HINT_EPHEMERAL;
	entry->flags |= KVC_ENTRY_LOOSE;
}

kvc_status kvc_hints_commit(struct kvc_op *op)
{
	struct kvc_cache *cache = op->cache;

	if (!op->hints.ttl_ms)
		return KVC_OK;
	if (kvc_expiry_add(&cache->expiry, op->entry, op->ends_ms) != KVC_OK)
		return KVC_NO_MEMORY;
	kvc_cache_entry(cache, op->entry)->hints |= KVC_HINT_TTL;
	count_expiring(cache);
	sweep_arm(cache, 0);
	return KVC_OK;
}

static void end_merge(const struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;

	if (!has_end(kvc_cache_entry(cache, id)))
		return;
	if (!op->hints.ttl_ms)
		end_none(cache, id);
	else if (op->ends_ms > kvc_expiry_get(&cache->expiry, id))
		kvc_expiry_set(&cache->expiry, id, op->ends_ms);
}

/* low, normal, high */
static unsigned rank_of(unsigned priority)
{
	static const unsigned ranks[KVC_PRIORITIES] = {
	        [KVC_PRIORITY_LOW] = 0,
	        [KVC_PRIORITY_NORMAL] = 1,
	        [KVC_PRIORITY_HIGH] = 2,
	};

	return ranks[priority];
}

static void priority_merge(const struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	bool listed = kvc_policy_listed(&entry->node);

	if (rank_of(op->hints.priority) <= rank_of(entry->hints & KVC_HINT_PRIORITY))
		return;
	kvc_entry_unlist(cache, id);
	entry->hints = (uint8_t)((entry->hints & ~KVC_HINT_PRIORITY) | op->hints.priority);
	if (listed)
		kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
}

/* Someone may want the block on disk: as if it had come now. */
static void ephemeral_merge(const struct kvc_op *op, uint32_t id)
{
	struct kvc_cache *cache = op->cache;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	bool listed = kvc_policy_listed(&entry->node);

	if (!(entry->hints & KVC_HINT_EPHEMERAL) || op->hints.ephemeral)
		return;
	entry->hints &= (uint8_t)~KVC_HINT_EPHEMERAL;
	if (!cache->options.disk || !kvc_admission_again(cache, id))
		return;
	kvc_entry_unlist(cache, id);
	entry->flags &= (uint8_t)~KVC_ENTRY_LOOSE;
	if (listed)
		kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
}

void kvc_hints_merge(const struct kvc_op *op, uint32_t id)
{
	end_merge(op, id);
	priority_merge(op, id);
	ephemeral_merge(op, id);
}
