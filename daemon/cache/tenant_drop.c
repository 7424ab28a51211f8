/* Dropping a tenant: a walk over all entries, a bounded part of them in each turn of the loop, then the disk
 * tier's part. One drop at a time; the others wait. */
#include "daemon/cache/internal.h"

enum { WALK_STEPS = 4096 };

static struct kvc_tenant_drop *drop_first(struct kvc_cache *cache)
{
	struct kvc_list *drops = &cache->tenants.drops;

	return kvc_list_empty(drops) ? NULL : kvc_container_of(drops->next, struct kvc_tenant_drop, node);
}

static void drop_end(struct kvc_tenant_drop *drop, kvc_status status)
{
	struct kvc_cache *cache = drop->cache;

	kvc_list_remove(&drop->node);
	cache->tenants.drop_walks = false;
	drop->status = status;
	if (drop_first(cache))
		kvc_loop_defer(cache->options.loop, &cache->tenants.drop_task);
	drop->done(drop);
	kvc_cache_check_stopped(cache);
}

static void disk_forgot(void *context, kvc_status status)
{
	drop_end(context, status);
}

/* What the index knew is gone; the answer comes when what the disk needs to read it is, too. */
static void drop_on_disk(struct kvc_tenant_drop *drop)
{
	struct kvc_tier *disk = drop->cache->options.disk;

	if (disk && disk->ops->forget_tenant)
		disk->ops->forget_tenant(disk, drop->id, disk_forgot, drop);
	else
		drop_end(drop, KVC_OK);
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

static void drop_run(struct kvc_task *task)
{
	struct kvc_cache *cache = kvc_container_of(task, struct kvc_cache, tenants.drop_task);
	struct kvc_tenants *tenants = &cache->tenants;
	struct kvc_tenant_drop *drop = drop_first(cache);
	const struct kvc_tenant *tenant = kvc_tenant_find(cache, drop->id);

	if (!tenants->drop_walks)
		tenants->drop_next = 0;
	tenants->drop_walks = true;
	for (unsigned i = 0; i < WALK_STEPS && tenants->drop_next < kvc_index_high(cache->index); i++)
		walk_step(drop, tenant, tenants->drop_next++);
	if (tenants->drop_next < kvc_index_high(cache->index))
		kvc_loop_defer(cache->options.loop, task);
	else
		drop_on_disk(drop);
}

void kvc_cache_tenant_drop(struct kvc_cache *cache, struct kvc_tenant_drop *drop)
{
	KVC_PRE(drop->done && cache->state >= KVC_CACHE_READY && cache->state < KVC_CACHE_STOPPED);
	drop->cache = cache;
	drop->blocks = 0;
	kvc_tenant_id(cache, drop->tenant, drop->id);
	cache->tenants.drop_task.run = drop_run;
	if (!drop_first(cache))
		kvc_loop_defer(cache->options.loop, &cache->tenants.drop_task);
	kvc_list_push(&cache->tenants.drops, &drop->node);
}
