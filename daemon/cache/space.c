/* Granting and making room. See space.h. */
#include "daemon/cache/internal.h"

enum { EVICT_SCAN = 64 }; /* entries in use that eviction looks past before it gives up */

/* The coldest entry of a list that nothing refers to, KVC_ENTRY_NONE if there is none near its cold end. */
static uint32_t coldest_unused(struct kvc_cache *cache, enum kvc_list_kind kind)
{
	uint32_t id = cache->lists[kind].coldest;

	for (unsigned i = 0; i < EVICT_SCAN && id != KVC_ENTRY_NONE; i++) {
		const struct kvc_entry *entry = kvc_cache_entry(cache, id);

		if (!entry->refs)
			return id;
		id = entry->hotter;
	}
	return KVC_ENTRY_NONE;
}

static bool colder(struct kvc_cache *cache, uint32_t a, uint32_t b)
{
	if (a == KVC_ENTRY_NONE || b == KVC_ENTRY_NONE)
		return b == KVC_ENTRY_NONE;
	return (int32_t)(kvc_cache_entry(cache, a)->stamp - kvc_cache_entry(cache, b)->stamp) < 0;
}

/* Evict the coldest entry of all lists; dirty ones only if they cannot be written. */
static bool evict_one(struct kvc_cache *cache)
{
	enum kvc_list_kind first = kvc_cache_disk_writable(cache) ? KVC_LIST_DEMOTED : KVC_LIST_DIRTY;
	uint32_t victim = KVC_ENTRY_NONE;

	for (unsigned kind = first; kind < KVC_LISTS; kind++) {
		uint32_t id = coldest_unused(cache, (enum kvc_list_kind)kind);

		if (colder(cache, id, victim))
			victim = id;
	}
	if (victim == KVC_ENTRY_NONE)
		return false;
	kvc_entry_evict(cache, victim);
	return true;
}

/* Whether something that runs now can make room when it ends. */
static bool hope(const struct kvc_cache *cache)
{
	if (cache->stores || cache->lists[KVC_LIST_DIRTY].count)
		return true;
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++)
		if (kind != KVC_MOVE_SYNC && kvc_mover_pending(cache->mover, kind))
			return true;
	return false;
}

/* KVC_OK, KVC_BUSY (wait), KVC_NO_SPACE (never) or KVC_NO_MEMORY. */
static kvc_status try_reserve(struct kvc_cache *cache, struct kvc_space_req *req)
{
	kvc_status status;

	if (req->bytes > kvc_arena_bytes(cache->options.arena))
		return KVC_NO_SPACE;
	do
		status = kvc_slab_reserve(cache->options.arena, req->bytes, &req->slab);
	while (status == KVC_NO_SPACE && evict_one(cache));
	if (status != KVC_NO_SPACE)
		return status;
	return hope(cache) ? KVC_BUSY : KVC_NO_SPACE;
}

static struct kvc_list *queue_of(struct kvc_cache *cache, const struct kvc_space_req *req)
{
	return req->urgent ? &cache->space_urgent : &cache->space_normal;
}

static void grant_queue(struct kvc_cache *cache, struct kvc_list *queue)
{
	while (!kvc_list_empty(queue)) {
		struct kvc_space_req *req = kvc_container_of(queue->next, struct kvc_space_req, node);
		kvc_status status = try_reserve(cache, req);

		if (status == KVC_BUSY)
			return;
		kvc_space_cancel(cache, req);
		req->granted(req, status);
	}
}

static void space_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, space_task);

	kvc_cleaner_run(cache);
	grant_queue(cache, &cache->space_urgent);
	if (kvc_list_empty(&cache->space_urgent))
		grant_queue(cache, &cache->space_normal);
	kvc_cleaner_run(cache);
}

kvc_status kvc_space_request(struct kvc_cache *cache, struct kvc_space_req *req)
{
	kvc_status status = KVC_BUSY;

	KVC_PRE(!req->queued && req->granted);
	if (!kvc_space_wanted(cache))
		status = try_reserve(cache, req);
	if (status != KVC_BUSY)
		return status;
	kvc_list_push(queue_of(cache, req), &req->node);
	req->queued = true;
	kvc_space_wake(cache);
	return KVC_BUSY;
}

void kvc_space_cancel(struct kvc_cache *cache, struct kvc_space_req *req)
{
	(void)cache;
	KVC_PRE(req->queued);
	kvc_list_remove(&req->node);
	req->queued = false;
}

void kvc_space_wake(struct kvc_cache *cache)
{
	cache->space_task.run = space_run;
	kvc_loop_defer(cache->options.loop, &cache->space_task);
}

bool kvc_space_wanted(const struct kvc_cache *cache)
{
	return !kvc_list_empty(&cache->space_urgent) || !kvc_list_empty(&cache->space_normal);
}
