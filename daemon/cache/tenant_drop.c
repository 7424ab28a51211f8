/* Dropping a tenant: first the disk tier's part, with which what rests there ends to count, then a walk over
 * all entries, a bounded part of them in each turn of the loop. One drop at a time; the others wait.
 *
 * Its open namespaces change their keys between the two: what is put from then on is never found by who knew
 * the tenant before, nor the other way round. What is put while the walk lasts may be dropped with the rest.
 */
#include "daemon/cache/internal.h"

enum { WALK_STEPS = 4096 };

static struct kvc_tenant_drop *drop_first(const struct kvc_cache *cache)
{
	const struct kvc_list *drops = &cache->tenants.drops;

	return kvc_list_empty(drops) ? NULL : kvc_container_of(drops->next, struct kvc_tenant_drop, node);
}

bool kvc_tenant_dropping(const struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES])
{
	const struct kvc_tenant_drop *drop = drop_first(cache);

	return drop && !memcmp(drop->id, id, sizeof drop->id);
}

static void drop_begin(struct kvc_cache *cache);

static void drop_end(struct kvc_tenant_drop *drop, kvc_status status)
{
	struct kvc_cache *cache = drop->cache;

	kvc_list_remove(&drop->node);
	drop->status = status;
	if (drop_first(cache))
		drop_begin(cache);
	drop->done(drop);
	kvc_cache_check_stopped(cache);
}

/* A block that is being put ends when that is done: it cannot be dropped before. */
static void walk_step(struct kvc_tenant_drop *drop, const struct kvc_tenant *tenant, uint32_t id)
{
	struct kvc_entry *entry = kvc_cache_entry(drop->cache, id);

	if (entry->flags & KVC_ENTRY_DEAD || (entry->tenant && (!tenant || entry->tenant != tenant->number)))
		return;
	if (entry->flags & KVC_ENTRY_VISIBLE) {
		kvc_entry_drop(drop->cache, id);
		drop->blocks++;
	} else {
		entry->hints |= KVC_HINT_DOOMED;
	}
}

static void walk_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, tenants.drop_task);
	struct kvc_tenants *tenants = &cache->tenants;
	struct kvc_tenant_drop *drop = drop_first(cache);
	const struct kvc_tenant *tenant = kvc_tenant_find(cache, drop->id);

	for (unsigned i = 0; i < WALK_STEPS && tenants->drop_next < kvc_index_high(cache->index); i++)
		walk_step(drop, tenant, tenants->drop_next++);
	if (tenants->drop_next < kvc_index_high(cache->index))
		kvc_loop_defer(cache->options.loop, task);
	else
		drop_end(drop, drop->forget.status);
}

static void walk_start(struct kvc_tenant_drop *drop)
{
	struct kvc_cache *cache = drop->cache;

	kvc_ns_renew(cache, drop->id);
	cache->tenants.drop_next = 0;
	cache->tenants.drop_task.run = walk_run;
	kvc_loop_defer(cache->options.loop, &cache->tenants.drop_task);
}

static void disk_forgot(struct kvc_tier_req *req)
{
	walk_start(kvc_container_of(req, struct kvc_tenant_drop, forget));
}

static void drop_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, tenants.drop_task);
	struct kvc_tenant_drop *drop = drop_first(cache);
	struct kvc_tier *disk = cache->options.disk;

	drop->forget = (struct kvc_tier_req){.op = KVC_TIER_FORGET_TENANT, .done = disk_forgot};
	memcpy(drop->forget.record.tenant, drop->id, sizeof drop->id);
	if (disk && disk->ops->incarnation)
		disk->ops->submit(disk, &drop->forget);
	else
		walk_start(drop);
}

static void drop_begin(struct kvc_cache *cache)
{
	cache->tenants.drop_task.run = drop_run;
	kvc_loop_defer(cache->options.loop, &cache->tenants.drop_task);
}

void kvc_cache_tenant_drop(struct kvc_cache *cache, struct kvc_tenant_drop *drop)
{
	KVC_PRE(drop->done && cache->state >= KVC_CACHE_READY && cache->state < KVC_CACHE_STOPPED);
	drop->cache = cache;
	drop->blocks = 0;
	kvc_tenant_id(cache, drop->tenant, drop->id);
	if (!drop_first(cache))
		drop_begin(cache);
	kvc_list_push(&cache->tenants.drops, &drop->node);
}
