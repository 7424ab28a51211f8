/* Lists, references and the end of entries. The states are drawn in internal.h. */
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

uint32_t kvc_cache_find(struct kvc_cache *cache, const struct kvc_storage_key *key)
{
	uint32_t id = kvc_index_find(cache->index, key);

	if (id == KVC_ENTRY_NONE || !(kvc_cache_entry(cache, id)->flags & KVC_ENTRY_VISIBLE))
		return KVC_ENTRY_NONE;
	return id;
}

uint8_t *kvc_entry_record(struct kvc_cache *cache, const struct kvc_entry *entry)
{
	KVC_PRE(entry->slab != KVC_EXTENT_NONE);
	return kvc_slab_data(cache->options.arena, entry->slab);
}

/* The list where an entry belongs now. */
static uint8_t list_kind(const struct kvc_entry *entry, enum kvc_heat heat)
{
	if (entry->flags & KVC_ENTRY_ON_DISK)
		return heat == KVC_DEMOTED ? KVC_LIST_DEMOTED : KVC_LIST_CLEAN;
	return entry->flags & KVC_ENTRY_LOOSE ? KVC_LIST_LOOSE : KVC_LIST_DIRTY;
}

static uint64_t slab_bytes(struct kvc_cache *cache, const struct kvc_entry *entry)
{
	return kvc_slab_bytes(cache->options.arena, entry->slab);
}

static bool listable(const struct kvc_entry *entry)
{
	return entry->slab != KVC_EXTENT_NONE && !entry->pins && !(entry->flags & KVC_ENTRY_DEAD);
}

void kvc_entry_list(struct kvc_cache *cache, uint32_t id, enum kvc_heat heat)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!listable(entry))
		return;
	entry->list = list_kind(entry, heat);
	if (heat == KVC_HOT)
		entry->stamp = ++cache->clock;
	if (heat == KVC_COLD)
		kvc_recency_push_cold(&cache->lists[entry->list], cache->index, id, slab_bytes(cache, entry));
	else
		kvc_recency_push_hot(&cache->lists[entry->list], cache->index, id, slab_bytes(cache, entry));
}

void kvc_entry_list_child(struct kvc_cache *cache, uint32_t id, const struct kvc_storage_key *parent)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	uint32_t anchor_id = kvc_index_find(cache->index, parent);
	const struct kvc_entry *anchor;

	if (anchor_id == KVC_ENTRY_NONE) {
		kvc_entry_list(cache, id, KVC_COLD);
		return;
	}
	anchor = kvc_cache_entry(cache, anchor_id);
	if (!listable(entry) || !(anchor->flags & KVC_ENTRY_LISTED) ||
	    anchor->list != list_kind(entry, KVC_HOT)) {
		kvc_entry_list(cache, id, KVC_HOT);
		return;
	}
	entry->list = anchor->list;
	entry->stamp = anchor->stamp;
	kvc_recency_push_after(&cache->lists[entry->list], cache->index, id, slab_bytes(cache, entry),
	                       anchor_id);
}

void kvc_entry_unlist(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (entry->flags & KVC_ENTRY_LISTED)
		kvc_recency_remove(&cache->lists[entry->list], cache->index, id, slab_bytes(cache, entry));
}

void kvc_entry_touch(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	entry->flags |= KVC_ENTRY_HIT;
	kvc_vram_touch(cache, id);
	if (!(entry->flags & KVC_ENTRY_LISTED))
		return;
	kvc_entry_unlist(cache, id);
	kvc_entry_list(cache, id, KVC_HOT);
}

static void slab_give_up(struct kvc_cache *cache, struct kvc_entry *entry)
{
	if (entry->slab == KVC_EXTENT_NONE)
		return;
	kvc_slab_release(cache->options.arena, entry->slab);
	entry->slab = KVC_EXTENT_NONE;
	kvc_space_wake(cache);
}

void kvc_entry_ref(struct kvc_cache *cache, uint32_t id)
{
	kvc_cache_entry(cache, id)->refs++;
}

static void entry_free(struct kvc_cache *cache, uint32_t id)
{
	slab_give_up(cache, kvc_cache_entry(cache, id));
	kvc_vram_detach(cache, id);
	kvc_index_free(cache->index, id);
}

void kvc_entry_unref(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(entry->refs > 0);
	if (--entry->refs == 0 && entry->flags & KVC_ENTRY_DEAD)
		entry_free(cache, id);
	else if (entry->refs == 0)
		kvc_space_wake(cache); /* it can be evicted now */
}

static void place_forget(struct kvc_cache *cache, struct kvc_entry *entry)
{
	struct kvc_record record = {
	        .key = entry->key,
	        .place = entry->place,
	        .epoch = entry->epoch,
	        .image_bytes = entry->image_bytes,
	};

	if (!(entry->flags & KVC_ENTRY_ON_DISK))
		return;
	entry->flags &= (uint8_t)~KVC_ENTRY_ON_DISK;
	cache->options.disk->ops->forget(cache->options.disk, &record);
}

void kvc_entry_drop(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(!(entry->flags & KVC_ENTRY_DEAD));
	kvc_entry_unlist(cache, id);
	place_forget(cache, entry);
	kvc_index_unlink(cache->index, id);
	entry->flags = (uint8_t)((entry->flags | KVC_ENTRY_DEAD) & ~KVC_ENTRY_VISIBLE);
	kvc_stat_add(cache->count.entries, -1);
	if (entry->refs == 0)
		entry_free(cache, id);
}

void kvc_entry_evict(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(entry->refs == 0 && !entry->pins);
	kvc_stat_add(cache->count.evicted, 1);
	if (!(entry->flags & KVC_ENTRY_ON_DISK) && !(entry->flags & KVC_ENTRY_IN_VRAM)) {
		kvc_stat_add(cache->count.lost, 1);
		kvc_entry_drop(cache, id);
		return;
	}
	kvc_entry_unlist(cache, id);
	slab_give_up(cache, entry);
}

void kvc_entry_lose_place(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	kvc_entry_unlist(cache, id);
	entry->flags &= (uint8_t)~KVC_ENTRY_ON_DISK;
	if (entry->slab == KVC_EXTENT_NONE && !(entry->flags & KVC_ENTRY_IN_VRAM) &&
	    entry->flight == KVC_FLIGHT_NONE) {
		kvc_stat_add(cache->count.lost, 1);
		kvc_entry_drop(cache, id);
		return;
	}
	/* Written again only if someone has used it since: else a full disk and RAM would hand blocks round
	 * forever. */
	if (!(entry->flags & KVC_ENTRY_HIT) || cache->state == KVC_CACHE_STOPPING)
		entry->flags |= KVC_ENTRY_LOOSE;
	kvc_entry_list(cache, id, KVC_COLD);
	kvc_space_wake(cache);
}
