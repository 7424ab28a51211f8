/* Granting and making room. See space.h. */
#include "daemon/cache/internal.h"

static bool is_unused(void *cache, uint32_t id)
{
	return !kvc_cache_entry(cache, id)->refs;
}

/* Evict what the policy says; dirty blocks only if they cannot be written. */
static bool evict_one(struct kvc_cache *cache)
{
	unsigned kinds = kvc_cache_disk_writable(cache) ? ~(1u << KVC_LIST_DIRTY) : ~0u;
	uint32_t victim = kvc_policy_victim(cache->policy, kinds & KVC_POLICY_ALL, is_unused);

	if (victim == KVC_POLICY_NONE)
		return false;
	kvc_entry_evict(cache, victim);
	return true;
}

/* Whether something that runs now can make room when it ends. */
static bool hope(const struct kvc_cache *cache)
{
	if (cache->stores || kvc_listed_count(cache, KVC_LIST_DIRTY))
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

void kvc_space_hurry(struct kvc_cache *cache, struct kvc_space_req *req)
{
	KVC_PRE(req->queued);
	if (req->urgent)
		return;
	kvc_list_remove(&req->node);
	req->urgent = true;
	kvc_list_push(queue_of(cache, req), &req->node);
	kvc_space_wake(cache);
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
