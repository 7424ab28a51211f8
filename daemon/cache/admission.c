/* Asking for, paying for and counting writes. See admission.h. */
#include "daemon/cache/admission.h"

#include <assert.h>

#include "daemon/cache/internal.h"
#include "daemon/policy/admit.h"

enum { SEEN_MAX = 1 << 18 }; /* refused blocks that are remembered: a MiB */

#define MS_NS 1000000ull

static uint64_t now_ns(const struct kvc_cache *cache)
{
	return kvc_loop_now_ms(cache->options.loop) * MS_NS;
}

static bool has_budget(const struct kvc_cache *cache)
{
	return cache->admit && cache->options.disk_day_bytes;
}

static uint64_t record_bytes(const struct kvc_entry *entry)
{
	return kvc_record_bytes(entry->image_bytes);
}

kvc_status kvc_admission_open(struct kvc_cache *cache)
{
	struct kvc_admit_options options = {
	        .day_bytes = cache->options.disk_day_bytes,
	        .seen_max = cache->options.disk_day_bytes ? SEEN_MAX : 0,
	};

	if (!cache->options.disk)
		return KVC_OK;
	kvc_stat_set(cache->count.budget_day, (int64_t)options.day_bytes);
	return kvc_admit_open(&options, now_ns(cache), &cache->admit);
}

void kvc_admission_close(struct kvc_cache *cache)
{
	if (cache->admit)
		kvc_admit_close(cache->admit);
}

static_assert(sizeof(struct kvc_admit_state) <= KVC_TIER_NOTE_BYTES, "the account fits");

void kvc_admission_save(struct kvc_cache *cache, struct kvc_tier_note *note)
{
	struct kvc_admit_state state;

	kvc_admit_save(cache->admit, now_ns(cache), &state);
	memset(note, 0, sizeof *note);
	memcpy(note->bytes, &state, sizeof state);
}

static void show(struct kvc_cache *cache)
{
	kvc_stat_set(cache->count.admitted_day, (int64_t)kvc_admit_written_day(cache->admit, now_ns(cache)));
	if (has_budget(cache))
		kvc_stat_set(cache->count.credit, (int64_t)kvc_admit_credit(cache->admit, now_ns(cache)));
}

void kvc_admission_restore(struct kvc_cache *cache, const struct kvc_tier_note *note)
{
	struct kvc_admit_state state;

	memcpy(&state, note->bytes, sizeof state);
	kvc_admit_restore(cache->admit, &state);
	show(cache);
}

/* Whether the block before it is on disk, or will be: a chain with a hole is worth nothing. */
static bool parent_kept(struct kvc_cache *cache, bool has_parent, uint32_t parent)
{
	uint8_t flags;

	if (!has_parent)
		return true;
	if (parent == KVC_ENTRY_NONE)
		return false;
	flags = kvc_cache_entry(cache, parent)->flags;
	return flags & KVC_ENTRY_ON_DISK || !(flags & KVC_ENTRY_LOOSE);
}

static void refuse(struct kvc_cache *cache, struct kvc_entry *entry)
{
	show(cache);
	kvc_stat_add(cache->count.wear_throttled, 1);
	entry->flags |= KVC_ENTRY_LOOSE;
}

static bool ask(struct kvc_cache *cache, uint32_t id, const struct kvc_admit_block *block)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!kvc_admit_ask(cache->admit, now_ns(cache), block)) {
		refuse(cache, entry);
		return false;
	}
	entry->flags = (uint8_t)((entry->flags | KVC_ENTRY_PAID) & ~KVC_ENTRY_LOOSE);
	return true;
}

static bool ask_again(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_admit_block block = {.kind = KVC_ADMIT_AGAIN,
	                                      .bytes = record_bytes(kvc_cache_entry(cache, id))};

	return ask(cache, id, &block);
}

/* Tokens before it. Of a part of a block: more than any. */
static uint32_t first_of(const struct kvc_op *op, const struct kvc_entry *entry)
{
	uint32_t full = op->ns->plan.shape.tokens;

	return op->tokens < full ? KVC_ADMIT_DEEPEST : entry->depth * full;
}

void kvc_admission_arrive(struct kvc_cache *cache, const struct kvc_op *op, uint32_t id, uint32_t parent)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_admit_block block;
	bool again;

	if (!has_budget(cache) || op->durable || op->hints.ephemeral)
		return;
	entry->image_bytes = (uint32_t)op->plan->image_bytes; /* what is charged, until it is known */
	again = kvc_admit_came_back(cache->admit, kvc_storage_key_hash(&entry->key));
	if (!parent_kept(cache, op->has_parent, parent)) {
		entry->flags |= KVC_ENTRY_LOOSE;
		return;
	}
	block = (struct kvc_admit_block){.kind = again ? KVC_ADMIT_AGAIN : KVC_ADMIT_FRESH,
	                                 .first = first_of(op, entry),
	                                 .coin = op->coin,
	                                 .bytes = record_bytes(entry)};
	(void)ask(cache, id, &block);
}

/* Tiles that cannot be coded make the image longer. */
void kvc_admission_sized(struct kvc_cache *cache, uint32_t id, uint64_t image_bytes)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!(entry->flags & KVC_ENTRY_PAID) ||
	    kvc_admit_resize(cache->admit, record_bytes(entry), kvc_record_bytes(image_bytes)))
		return;
	entry->flags &= (uint8_t)~KVC_ENTRY_PAID;
	refuse(cache, entry);
}

/* The entry's parent is named by its record. */
static bool own_parent_kept(struct kvc_cache *cache, const struct kvc_entry *entry)
{
	static const struct kvc_storage_key none;
	uint64_t bytes = kvc_slab_bytes(cache->options.arena, entry->slab);
	struct kvc_record record;
	bool has_parent;

	if (kvc_record_parse(kvc_entry_record(cache, entry), bytes, &record) != KVC_OK)
		return false;
	has_parent = memcmp(&record.parent, &none, sizeof none) != 0;
	return parent_kept(cache, has_parent, kvc_index_find(cache->index, &record.parent));
}

void kvc_admission_use(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!has_budget(cache) || !(entry->flags & KVC_ENTRY_LOOSE) || entry->slab == KVC_EXTENT_NONE ||
	    entry->hints & KVC_HINT_EPHEMERAL || !kvc_cache_disk_writable(cache) ||
	    !own_parent_kept(cache, entry))
		return;
	if (ask_again(cache, id) && kvc_policy_listed(&entry->node))
		kvc_entry_reclass(cache, id);
}

bool kvc_admission_again(struct kvc_cache *cache, uint32_t id)
{
	return !has_budget(cache) || ask_again(cache, id);
}

static void refund(struct kvc_cache *cache, struct kvc_entry *entry)
{
	if (entry->flags & KVC_ENTRY_PAID)
		kvc_admit_refund(cache->admit, record_bytes(entry));
	entry->flags &= (uint8_t)~KVC_ENTRY_PAID;
}

void kvc_admission_stored(struct kvc_cache *cache, uint32_t id, kvc_status status)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (status != KVC_OK) {
		refund(cache, entry);
		return;
	}
	kvc_admit_wrote(cache->admit, now_ns(cache), record_bytes(entry), entry->flags & KVC_ENTRY_PAID);
	entry->flags &= (uint8_t)~KVC_ENTRY_PAID;
	show(cache);
}

void kvc_admission_copied(struct kvc_cache *cache, uint32_t id)
{
	kvc_admit_wrote(cache->admit, now_ns(cache), record_bytes(kvc_cache_entry(cache, id)), false);
	show(cache);
}

void kvc_admission_dropped(struct kvc_cache *cache, uint32_t id)
{
	refund(cache, kvc_cache_entry(cache, id));
}

void kvc_admission_evicted(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (has_budget(cache) && entry->flags & KVC_ENTRY_LOOSE && !(entry->hints & KVC_HINT_EPHEMERAL))
		kvc_admit_remember(cache->admit, kvc_storage_key_hash(&entry->key));
}
