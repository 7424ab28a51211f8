/* Granting and making room. See space.h. */
#include "daemon/cache/internal.h"

enum { RUN_MS = 100 }; /* how long one holds up others for want of a run of pages */

static bool is_unused(void *cache, uint32_t id)
{
	return !kvc_cache_entry(cache, id)->refs;
}

/* Dirty blocks go only if they cannot be written. */
static unsigned evictable(const struct kvc_cache *cache)
{
	return KVC_POLICY_ALL & (kvc_cache_disk_writable(cache) ? ~(1u << KVC_LIST_DIRTY) : ~0u);
}

/* Evict a block of whoever is above its share. If what those have is in use or on its way to disk, that is
 * waited for, rather than taking from those within theirs; and who is above its own share never takes of
 * those.
 */
static bool evict_one(struct kvc_cache *cache, const struct kvc_tenant *wants)
{
	unsigned kinds = evictable(cache);
	uint32_t victim = kvc_tenants_victim(cache, kinds, false, is_unused);

	if (victim == KVC_POLICY_NONE && !kvc_tenant_is_over(cache, wants) && !kvc_tenants_over_busy(cache))
		victim = kvc_tenants_victim(cache, kinds, true, is_unused);
	if (victim == KVC_POLICY_NONE)
		return false;
	kvc_entry_evict(cache, victim);
	return true;
}

static uint32_t moves_pending(const struct kvc_cache *cache, enum kvc_move_kind kind)
{
	uint32_t pending = kvc_mover_pending(cache->mover, kind);

	for (uint32_t i = 0; i < cache->options.gpu_count; i++)
		pending += kvc_mover_pending(cache->gpu_movers[i], kind);
	return pending;
}

/* Whether something that runs now can make room when it ends. */
static bool hope(const struct kvc_cache *cache)
{
	if (cache->stores || kvc_listed_count(cache, KVC_LIST_DIRTY))
		return true;
	for (unsigned kind = 0; kind < KVC_MOVE_KINDS; kind++)
		if (kind != KVC_MOVE_SYNC && moves_pending(cache, kind))
			return true;
	return false;
}

/* ---- a tenant's own limit ---- */

static bool fits_never(const struct kvc_space_req *req)
{
	uint64_t most = req->tenant->budget.ram_max;

	return most && req->bytes > most;
}

/* With what it asks for, unless that never fits: then nothing has to go for it. */
static bool is_over(const struct kvc_space_req *req)
{
	uint64_t most = req->tenant->budget.ram_max;
	uint64_t asked = fits_never(req) ? 0 : req->bytes;

	return most && req->tenant->ram + asked > most;
}

static bool has_dirty(const struct kvc_cache *cache, const struct kvc_tenant *tenant)
{
	return kvc_cache_disk_writable(cache) && kvc_tenant_count(tenant, KVC_LIST_DIRTY);
}

/* Whether nothing that can go, or is on its way, brings the tenant within its limit. */
static bool is_hopeless(struct kvc_cache *cache, const struct kvc_space_req *req)
{
	struct kvc_tenant *tenant = req->tenant;

	if (fits_never(req))
		return true;
	return is_over(req) && !has_dirty(cache, tenant) && !kvc_tenant_is_stirring(tenant) &&
	       kvc_tenant_victim(cache, tenant, evictable(cache), is_unused) == KVC_POLICY_NONE;
}

/* KVC_OK: it is within its limit. KVC_BUSY: what is on its way will bring it there. KVC_QUOTA: nothing will.
 */
static kvc_status limit_keep(struct kvc_cache *cache, struct kvc_space_req *req)
{
	struct kvc_tenant *tenant = req->tenant;

	tenant->squeezed = false;
	while (is_over(req)) {
		uint32_t victim = kvc_tenant_victim(cache, tenant, evictable(cache), is_unused);

		if (victim == KVC_POLICY_NONE)
			break;
		kvc_entry_evict(cache, victim);
	}
	if (!is_over(req) && !fits_never(req))
		return KVC_OK;
	if (is_hopeless(cache, req)) {
		tenant->count.refused++;
		return KVC_QUOTA;
	}
	tenant->squeezed = has_dirty(cache, tenant);
	return KVC_BUSY;
}

/* ---- granting ---- */

/* Why a request was not granted, if it was not. */
enum trial { TRIAL_ENDED, TRIAL_NO_ROOM, TRIAL_NO_RUN, TRIAL_OWN_LIMIT };

static uint64_t granted_bytes(const struct kvc_cache *cache, const struct kvc_space_req *req)
{
	return kvc_slab_bytes(cache->options.arena, req->slab);
}

/* There would be room for it if the free pages were in one piece. */
static bool is_scattered(const struct kvc_cache *cache, const struct kvc_space_req *req)
{
	struct kvc_arena *arena = cache->options.arena;

	return kvc_arena_bytes(arena) - kvc_arena_used_bytes(arena) >= req->bytes;
}

/* It has held up others for want of a run, and everything that could go has gone, for long enough: what is in
 * use would have ended, and what is dirty would be written. What is pinned may stay for ever. */
static bool is_patient(const struct kvc_cache *cache, const struct kvc_space_req *req)
{
	return req->scattered && is_scattered(cache, req) &&
	       kvc_loop_now_ms(cache->options.loop) - req->scattered_ms >= RUN_MS;
}

static void run_timer_fired(struct kvc_timer *timer)
{
	kvc_space_wake(kvc_container_of(timer, struct kvc_cache, space_timer));
}

/* Without memory for the timer, whoever comes or goes next makes up for it. */
static void run_missed(struct kvc_cache *cache, struct kvc_space_req *req)
{
	struct kvc_timer *timer = &cache->space_timer;

	if (!req->scattered)
		req->scattered_ms = kvc_loop_now_ms(cache->options.loop);
	req->scattered = true;
	timer->fire = run_timer_fired;
	if (!timer->heap_slot)
		(void)kvc_timer_start(cache->options.loop, timer, RUN_MS);
}

static kvc_status reserve(struct kvc_cache *cache, struct kvc_space_req *req)
{
	kvc_status status;

	do
		status = kvc_slab_reserve(cache->options.arena, req->bytes, &req->slab);
	while (status == KVC_NO_SPACE && !is_patient(cache, req) && evict_one(cache, req->tenant));
	if (status == KVC_NO_SPACE && is_scattered(cache, req) && !is_patient(cache, req))
		run_missed(cache, req);
	return status;
}

/* TRIAL_ENDED: *status is KVC_OK, KVC_NO_SPACE (never), KVC_QUOTA (never) or KVC_NO_MEMORY. */
static enum trial try_reserve(struct kvc_cache *cache, struct kvc_space_req *req, kvc_status *status)
{
	*status = limit_keep(cache, req);
	if (*status != KVC_OK)
		return *status == KVC_BUSY ? TRIAL_OWN_LIMIT : TRIAL_ENDED;
	*status = reserve(cache, req);
	if (*status == KVC_OK) {
		kvc_tenant_ram_add(cache, req->tenant, granted_bytes(cache, req));
		req->tenant->coming += granted_bytes(cache, req);
	}
	if (*status != KVC_NO_SPACE || !hope(cache))
		return TRIAL_ENDED;
	return is_patient(cache, req) ? TRIAL_NO_RUN : TRIAL_NO_ROOM;
}

static struct kvc_list *queue_of(const struct kvc_space_req *req)
{
	return req->urgent ? &req->tenant->space_urgent : &req->tenant->space_normal;
}

/* A tenant's next request, or NULL. */
static struct kvc_space_req *next_of(const struct kvc_tenant *tenant)
{
	const struct kvc_list *queue =
	        kvc_list_empty(&tenant->space_urgent) ? &tenant->space_normal : &tenant->space_urgent;

	return kvc_list_empty(queue) ? NULL : kvc_container_of(queue->next, struct kvc_space_req, node);
}

/* Grant the next request of the tenant whose turn it is, of those that are not held up by a limit of their
 * own, or for want of a run; who waits for room beyond its share does not hold up those within theirs. False:
 * that is for later. */
static bool grant_next(struct kvc_cache *cache)
{
	struct kvc_fair_flow *turn = kvc_fair_first(&cache->space);
	bool within_only = false;

	for (; turn; turn = kvc_fair_next(&cache->space, turn)) {
		struct kvc_tenant *tenant = kvc_container_of(turn, struct kvc_tenant, space_turn);
		struct kvc_space_req *req = next_of(tenant);
		bool over = kvc_tenant_is_over(cache, tenant);
		enum trial trial;
		kvc_status status;

		if (within_only && over)
			continue;
		trial = try_reserve(cache, req, &status);
		if (trial == TRIAL_NO_ROOM && !over)
			return false;
		within_only = within_only || trial == TRIAL_NO_ROOM;
		if (trial != TRIAL_ENDED)
			continue;
		kvc_fair_charge(&cache->space, turn, req->bytes);
		kvc_space_cancel(cache, req);
		req->granted(req, status);
		return true;
	}
	return false;
}

static void space_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, space_task);

	kvc_cleaner_run(cache);
	while (grant_next(cache))
		;
	kvc_cleaner_run(cache);
}

kvc_status kvc_space_request(struct kvc_cache *cache, struct kvc_space_req *req)
{
	enum trial trial = TRIAL_NO_ROOM;
	kvc_status status;

	KVC_PRE(!req->queued && req->granted && req->tenant);
	if (req->bytes > kvc_arena_bytes(cache->options.arena))
		return KVC_NO_SPACE;
	if (!kvc_space_wanted(cache)) {
		trial = try_reserve(cache, req, &status);
	} else if (is_hopeless(cache, req)) { /* at once: who asks again when refused would never stop */
		req->tenant->count.refused++;
		return KVC_QUOTA;
	}
	if (trial == TRIAL_ENDED)
		return status;
	kvc_list_push(queue_of(req), &req->node);
	req->queued = true;
	kvc_fair_enter(&cache->space, &req->tenant->space_turn);
	kvc_space_wake(cache);
	return KVC_BUSY;
}

void kvc_space_cancel(struct kvc_cache *cache, struct kvc_space_req *req)
{
	(void)cache;
	KVC_PRE(req->queued);
	kvc_list_remove(&req->node);
	req->queued = false;
	if (!next_of(req->tenant)) {
		kvc_fair_leave(&req->tenant->space_turn);
		req->tenant->squeezed = false;
	}
}

void kvc_space_release(struct kvc_cache *cache, struct kvc_tenant *tenant, uint32_t slab)
{
	kvc_tenant_ram_sub(cache, tenant, kvc_slab_bytes(cache->options.arena, slab));
	kvc_slab_release(cache->options.arena, slab);
	kvc_space_wake(cache);
}

static void coming_sub(struct kvc_tenant *tenant, uint64_t bytes)
{
	KVC_INVARIANT(tenant->coming >= bytes);
	tenant->coming -= bytes;
}

void kvc_space_return(struct kvc_cache *cache, const struct kvc_space_req *req)
{
	coming_sub(req->tenant, granted_bytes(cache, req));
	kvc_space_release(cache, req->tenant, req->slab);
}

void kvc_space_shrink(struct kvc_cache *cache, const struct kvc_space_req *req, uint64_t bytes)
{
	uint64_t less = granted_bytes(cache, req);

	if (kvc_slab_shrink(cache->options.arena, req->slab, bytes) != KVC_OK)
		return;
	less -= granted_bytes(cache, req);
	coming_sub(req->tenant, less);
	kvc_tenant_ram_sub(cache, req->tenant, less);
}

void kvc_space_settle(struct kvc_cache *cache, const struct kvc_space_req *req)
{
	coming_sub(req->tenant, granted_bytes(cache, req));
}

void kvc_space_hurry(struct kvc_cache *cache, struct kvc_space_req *req)
{
	KVC_PRE(req->queued);
	if (req->urgent)
		return;
	kvc_list_remove(&req->node);
	req->urgent = true;
	kvc_list_push(queue_of(req), &req->node);
	kvc_space_wake(cache);
}

void kvc_space_wake(struct kvc_cache *cache)
{
	cache->space_task.run = space_run;
	kvc_loop_defer(cache->options.loop, &cache->space_task);
}

bool kvc_space_wanted(const struct kvc_cache *cache)
{
	return kvc_fair_first(&cache->space) != NULL;
}
