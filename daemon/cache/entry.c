/* Lists, references and the end of entries. The states are drawn in internal.h. */
#include "daemon/cache/admission.h"
#include "daemon/cache/internal.h"
#include "daemon/cache/vram.h"

uint32_t kvc_cache_find(struct kvc_cache *cache, const struct kvc_storage_key *key)
{
	uint32_t id = kvc_index_find(cache->index, key);

	if (id == KVC_ENTRY_NONE || !(kvc_cache_entry(cache, id)->flags & KVC_ENTRY_VISIBLE) ||
	    kvc_hints_expire(cache, id))
		return KVC_ENTRY_NONE;
	return id;
}

uint8_t *kvc_entry_record(struct kvc_cache *cache, const struct kvc_entry *entry)
{
	KVC_PRE(entry->slab != KVC_EXTENT_NONE);
	return kvc_slab_data(cache->options.arena, entry->slab);
}

/* The class of an entry in RAM. */
static unsigned list_kind(const struct kvc_entry *entry)
{
	if (entry->flags & KVC_ENTRY_ON_DISK)
		return entry->flags & KVC_ENTRY_HIT ? KVC_LIST_CLEAN : KVC_LIST_DEMOTED;
	return entry->flags & KVC_ENTRY_LOOSE ? KVC_LIST_LOOSE : KVC_LIST_DIRTY;
}

static bool listable(const struct kvc_entry *entry)
{
	return entry->slab != KVC_EXTENT_NONE && !entry->pins && !(entry->flags & KVC_ENTRY_DEAD);
}

/* What is listed, of all tenants. Called before and after whatever the policy does with the entry. */
static void listed_add(struct kvc_cache *cache, const struct kvc_entry *entry, int sign)
{
	unsigned kind = kvc_policy_class(&entry->node);
	uint64_t bytes;

	if (!kvc_policy_listed(&entry->node))
		return;
	bytes = kvc_slab_bytes(cache->options.arena, entry->slab);
	cache->listed[kind] += (uint32_t)sign;
	cache->listed_bytes[kind] += (uint64_t)sign * bytes;
}

void kvc_entry_list(struct kvc_cache *cache, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_policy *policy;

	if (!listable(entry))
		return;
	policy = kvc_tenant_policy_make(cache, entry);
	if (parent != KVC_ENTRY_NONE && kvc_tenant_policy(cache, kvc_cache_entry(cache, parent)) != policy)
		parent = KVC_ENTRY_NONE; /* it is in another list */
	kvc_policy_insert(policy, id, list_kind(entry), how, parent);
	listed_add(cache, entry, 1);
}

void kvc_entry_unlist(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!kvc_policy_listed(&entry->node))
		return;
	listed_add(cache, entry, -1);
	kvc_policy_remove(kvc_tenant_policy(cache, entry), id);
}

void kvc_entry_reclass(struct kvc_cache *cache, uint32_t id)
{
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(kvc_policy_listed(&entry->node));
	listed_add(cache, entry, -1);
	kvc_policy_reclass(kvc_tenant_policy(cache, entry), id, list_kind(entry));
	listed_add(cache, entry, 1);
}

void kvc_entry_touch(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	entry->flags |= KVC_ENTRY_HIT;
	kvc_vram_touch(cache, id);
	listed_add(cache, entry, -1);
	kvc_policy_hit(kvc_tenant_policy(cache, entry), id, list_kind(entry));
	listed_add(cache, entry, 1);
}

static void slab_give_up(struct kvc_cache *cache, struct kvc_entry *entry)
{
	if (entry->slab == KVC_EXTENT_NONE)
		return;
	kvc_space_release(cache, kvc_entry_tenant(cache, entry), entry->slab);
	entry->slab = KVC_EXTENT_NONE;
}

void kvc_entry_ref(struct kvc_cache *cache, uint32_t id)
{
	kvc_cache_entry(cache, id)->refs++;
}

static void entry_free(struct kvc_cache *cache, uint32_t id)
{
	slab_give_up(cache, kvc_cache_entry(cache, id));
	kvc_vram_detach(cache, id);
	kvc_tenant_entry_gone(cache, id);
	kvc_index_free(cache->index, id);
}

void kvc_entry_unref(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(entry->refs > 0);
	entry->refs--;
	if (!(entry->flags & KVC_ENTRY_DEAD) && entry->refs == entry->pins)
		kvc_space_wake(cache); /* it can be evicted now; or, if not, who waits for that may hear so */
	else if (!entry->refs)
		entry_free(cache, id);
}

void kvc_entry_placed(struct kvc_cache *cache, uint32_t id, const struct kvc_record *record)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	if (!(entry->flags & KVC_ENTRY_ON_DISK))
		kvc_entry_tenant(cache, entry)->disk += kvc_record_bytes(entry->image_bytes);
	entry->flags |= KVC_ENTRY_ON_DISK;
	entry->place = record->place;
	entry->epoch = (uint32_t)record->epoch;
}

static void place_gone(struct kvc_cache *cache, struct kvc_entry *entry)
{
	if (entry->flags & KVC_ENTRY_ON_DISK)
		kvc_entry_tenant(cache, entry)->disk -= kvc_record_bytes(entry->image_bytes);
	entry->flags &= (uint8_t)~KVC_ENTRY_ON_DISK;
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
	place_gone(cache, entry);
	cache->options.disk->ops->forget(cache->options.disk, &record);
}

void kvc_entry_drop(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(!(entry->flags & KVC_ENTRY_DEAD));
	kvc_entry_unlist(cache, id);
	kvc_admission_dropped(cache, id);
	kvc_hints_dropped(cache, id);
	place_forget(cache, entry);
	kvc_index_unlink(cache->index, id);
	entry->flags = (uint8_t)((entry->flags | KVC_ENTRY_DEAD) & ~KVC_ENTRY_VISIBLE);
	kvc_stat_add(cache->count.entries, -1);
	kvc_pins_dropped(cache, id);
	if (!entry->refs)
		entry_free(cache, id);
}

void kvc_entry_evict(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	KVC_PRE(entry->refs == 0 && !entry->pins);
	kvc_stat_add(cache->count.evicted, 1);
	kvc_entry_tenant(cache, entry)->count.evicted++;
	listed_add(cache, entry, -1);
	if (!(entry->flags & KVC_ENTRY_ON_DISK) && !(entry->flags & KVC_ENTRY_IN_VRAM)) {
		kvc_stat_add(cache->count.lost, 1);
		kvc_entry_tenant(cache, entry)->count.lost++;
		kvc_admission_evicted(cache, id);
		kvc_policy_evict(kvc_tenant_policy(cache, entry), id);
		kvc_entry_drop(cache, id);
		return;
	}
	kvc_policy_evict(kvc_tenant_policy(cache, entry), id);
	slab_give_up(cache, entry);
}

void kvc_entry_lose_place(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	place_gone(cache, entry);
	if (entry->slab == KVC_EXTENT_NONE && !(entry->flags & KVC_ENTRY_IN_VRAM) &&
	    !kvc_entry_in_flight(entry)) {
		kvc_stat_add(cache->count.lost, 1);
		kvc_entry_tenant(cache, entry)->count.lost++;
		kvc_entry_drop(cache, id);
		return;
	}
	/* Written again only if someone has used it since: else a full disk and RAM would hand blocks round
	 * forever. */
	if (!(entry->flags & KVC_ENTRY_HIT) || cache->state == KVC_CACHE_STOPPING ||
	    !kvc_admission_again(cache, id))
		entry->flags |= KVC_ENTRY_LOOSE;
	if (kvc_policy_listed(&entry->node))
		kvc_entry_reclass(cache, id);
	kvc_space_wake(cache);
}

void kvc_entry_forget_place(struct kvc_cache *cache, uint32_t id)
{
	place_forget(cache, kvc_cache_entry(cache, id));
	kvc_entry_lose_place(cache, id);
}
