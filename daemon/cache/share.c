/* Shares, budgets, and whose block goes. See tenant.h.
 *
 * With one tenant in RAM there is nothing to compare, and everything is as its policy says. With several, the
 * shares are reckoned anew when something changed, and every quarter of a second, since activity ages; a
 * victim is then looked for among the tenants that use RAM, the one most above its share first. */
#include "daemon/cache/internal.h"

enum {
	SHARES_MS = 250,
	RANK_STEPS = 8,   /* blocks of high priority that are counted as normal, a search */
	HAND_STEPS = 512, /* entries that are looked at for room on disk, a call */
};

#define ALONE UINT64_MAX /* of shares_until_ms: one tenant has all of the RAM in use */

/* ---- budgets ------------------------------------------------------------------------------- */

static const struct kvc_tenant_budget *budget_find(const struct kvc_cache *cache,
                                                   const struct kvc_tenant *tenant)
{
	const struct kvc_tenants *tenants = &cache->tenants;
	const struct kvc_tenant_budget *others = NULL;

	for (uint32_t i = 0; i < tenants->budget_count; i++) {
		const struct kvc_tenant_budget *budget = &tenants->budgets[i];

		if (strcmp(budget->name, "*") == 0)
			others = budget;
		else if (!memcmp(tenants->budget_ids[i], tenant->id, sizeof tenant->id))
			return budget;
	}
	return others;
}

/* Blocks that are nobody's have no limits: what they are charged for is settled when they are someone's. */
void kvc_tenant_budget_take(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	const struct kvc_tenant_budget *budget = tenant->number ? budget_find(cache, tenant) : NULL;
	uint64_t now_ms = kvc_loop_now_ms(cache->options.loop);

	tenant->budget = budget ? *budget : (struct kvc_tenant_budget){0};
	if (!tenant->budget.weight)
		tenant->budget.weight = KVC_FAIR_WEIGHT;
	kvc_rate_set(&tenant->put_rate, tenant->budget.put_rate, now_ms);
	kvc_rate_set(&tenant->get_rate, tenant->budget.get_rate, now_ms);
	tenant->space_turn.weight = tenant->budget.weight;
	kvc_move_flow_weight(&tenant->moves, tenant->budget.weight);
	for (uint32_t i = 0; i < tenant->gpu_count; i++)
		kvc_move_flow_weight(&tenant->gpu_moves[i], tenant->budget.weight);
}

void kvc_cache_budgets_set(struct kvc_cache *cache, const struct kvc_tenant_budgets *budgets)
{
	struct kvc_tenants *tenants = &cache->tenants;

	KVC_PRE(budgets->count <= KVC_TENANT_BUDGETS_MAX);
	if (budgets->idle_ms)
		tenants->idle_ms = budgets->idle_ms;
	tenants->budget_count = budgets->count;
	for (uint32_t i = 0; i < budgets->count; i++) {
		tenants->budgets[i] = budgets->of[i];
		kvc_tenant_id(cache, budgets->of[i].name, tenants->budget_ids[i]);
	}
	tenants->serving_weight = 0;
	for (uint32_t i = 0; i < tenants->count; i++) {
		struct kvc_tenant *tenant = tenants->of[i];

		if (!tenant)
			continue;
		kvc_tenant_budget_take(cache, tenant);
		tenants->serving_weight += tenant->namespaces ? tenant->budget.weight : 0;
	}
	kvc_tenants_stale(cache);
	kvc_space_wake(cache);
}

/* ---- shares -------------------------------------------------------------------------------- */

void kvc_tenants_stale(struct kvc_cache *cache)
{
	cache->tenants.shares_until_ms = 0;
}

static bool is_active(const struct kvc_cache *cache, const struct kvc_tenant *tenant)
{
	uint64_t now_ms = kvc_loop_now_ms(cache->options.loop);

	return tenant->number && now_ms - tenant->active_ms < cache->tenants.idle_ms;
}

/* What is left of the arena for those without a `ram` of their own, and their weights together. */
static void shares_rest(const struct kvc_cache *cache, uint64_t *rest, uint64_t *weights)
{
	const struct kvc_tenants *tenants = &cache->tenants;

	*rest = kvc_arena_bytes(cache->options.arena);
	*weights = 0;
	for (uint32_t i = 1; i < tenants->count; i++) {
		const struct kvc_tenant *tenant = tenants->of[i];

		if (!tenant || !is_active(cache, tenant))
			continue;
		if (tenant->budget.ram)
			*rest -= tenant->budget.ram < *rest ? tenant->budget.ram : *rest;
		else
			*weights += tenant->budget.weight;
	}
}

static uint64_t share_of(const struct kvc_cache *cache, const struct kvc_tenant *tenant, uint64_t rest,
                         uint64_t weights)
{
	uint64_t most = tenant->budget.ram_max;
	uint64_t share = tenant->budget.ram;

	if (!is_active(cache, tenant))
		return 0;
	if (!share)
		share = (uint64_t)((double)rest * tenant->budget.weight / (double)weights);
	return most && most < share ? most : share;
}

/* What an adaptive policy takes for the room that its tenant has: all, for one that is alone. */
static void policies_fit(struct kvc_tenant *tenant, uint64_t bytes)
{
	for (unsigned i = 0; i < KVC_PRIORITIES; i++)
		if (tenant->policies[i])
			kvc_policy_capacity(tenant->policies[i], bytes);
}

/* The others have left: everything is for this one. */
static void alone_fit(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	if (cache->tenants.shares_until_ms == ALONE)
		return;
	cache->tenants.shares_until_ms = ALONE;
	policies_fit(tenant, kvc_arena_bytes(cache->options.arena));
}

static void shares_update(struct kvc_cache *cache)
{
	struct kvc_tenants *tenants = &cache->tenants;
	uint64_t now_ms = kvc_loop_now_ms(cache->options.loop);
	uint64_t rest, weights;

	if (now_ms < tenants->shares_until_ms && tenants->shares_until_ms != ALONE)
		return;
	tenants->shares_until_ms = now_ms + SHARES_MS;
	shares_rest(cache, &rest, &weights);
	for (uint32_t i = 0; i < tenants->count; i++) {
		struct kvc_tenant *tenant = tenants->of[i];

		if (!tenant)
			continue;
		tenant->share = share_of(cache, tenant, rest, weights);
		policies_fit(tenant, tenant->share ? tenant->share : kvc_arena_bytes(cache->options.arena));
	}
}

/* ---- victims ------------------------------------------------------------------------------- */

static bool is_alone(const struct kvc_cache *cache)
{
	const struct kvc_list *in_ram = &cache->tenants.in_ram;

	return in_ram->next->next == in_ram; /* none, or one */
}

static struct kvc_tenant *tenant_of_node(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_tenant, ram_node);
}

uint32_t kvc_tenant_count(const struct kvc_tenant *tenant, unsigned kind)
{
	uint32_t count = 0;

	for (unsigned i = 0; i < KVC_PRIORITIES; i++)
		if (tenant->policies[i])
			count += kvc_policy_count(tenant->policies[i], kind);
	return count;
}

static bool has_any(const struct kvc_tenant *tenant, unsigned kinds)
{
	for (unsigned kind = 0; kind < KVC_LISTS; kind++)
		if (kinds >> kind & 1 && kvc_tenant_count(tenant, kind))
			return true;
	return false;
}

/* How often its share it uses. */
static double over(const struct kvc_tenant *tenant)
{
	return (double)tenant->ram / (tenant->share ? (double)tenant->share : 1e-3);
}

static uint64_t policy_bytes(const struct kvc_policy *policy)
{
	uint64_t bytes = 0;

	for (unsigned kind = 0; kind < KVC_LISTS; kind++)
		bytes += kvc_policy_bytes(policy, kind);
	return bytes;
}

/* High priority holds at most half of the share: of what is above, the blocks that would go first are listed
 * with the normal ones. */
static void high_bound(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	struct kvc_policy *high = tenant->policies[KVC_PRIORITY_HIGH];
	struct kvc_policy *normal = tenant->policies[KVC_PRIORITY_NORMAL];
	uint64_t most = is_alone(cache) ? kvc_arena_bytes(cache->options.arena) : tenant->share;

	for (unsigned i = 0; high && i < RANK_STEPS && policy_bytes(high) > most / 2; i++) {
		uint32_t id = kvc_policy_peek(high, KVC_POLICY_ALL, NULL);
		struct kvc_entry *entry;

		if (id == KVC_POLICY_NONE)
			return;
		entry = kvc_cache_entry(cache, id);
		kvc_policy_remove(high, id);
		entry->hints |= KVC_HINT_AS_NORMAL;
		kvc_policy_insert(normal, id, kvc_policy_class(&entry->node), KVC_POLICY_BACK,
		                  KVC_POLICY_NONE);
	}
}

typedef uint32_t (*policy_search)(struct kvc_policy *policy, unsigned kinds,
                                  bool (*may_go)(void *owner, uint32_t id));

static uint32_t search(const struct kvc_tenant *tenant, unsigned kinds, policy_search find,
                       bool (*may_go)(void *cache, uint32_t id))
{
	static const enum kvc_priority order[] = {KVC_PRIORITY_LOW, KVC_PRIORITY_NORMAL, KVC_PRIORITY_HIGH};
	uint32_t id = KVC_POLICY_NONE;

	for (unsigned i = 0; i < KVC_PRIORITIES && id == KVC_POLICY_NONE; i++)
		if (tenant->policies[order[i]])
			id = find(tenant->policies[order[i]], kinds, may_go);
	return id;
}

uint32_t kvc_tenant_victim(struct kvc_cache *cache, struct kvc_tenant *tenant, unsigned kinds,
                           bool (*may_go)(void *cache, uint32_t id))
{
	high_bound(cache, tenant);
	return search(tenant, kinds, kvc_policy_victim, may_go);
}

/* The one most above its share, of those that this search has not asked and that have such blocks. */
static struct kvc_tenant *most_over(struct kvc_cache *cache, unsigned kinds, bool within)
{
	struct kvc_tenant *most = NULL;

	kvc_list_each (node, &cache->tenants.in_ram) {
		struct kvc_tenant *tenant = tenant_of_node(node);

		if (tenant->tried == cache->tenants.search || (!within && tenant->ram <= tenant->share))
			continue;
		if ((!most || over(tenant) > over(most)) && has_any(tenant, kinds))
			most = tenant;
	}
	return most;
}

uint32_t kvc_tenants_victim(struct kvc_cache *cache, unsigned kinds, bool within,
                            bool (*may_go)(void *cache, uint32_t id))
{
	struct kvc_list *in_ram = &cache->tenants.in_ram;
	struct kvc_tenant *tenant;

	if (kvc_list_empty(in_ram))
		return KVC_POLICY_NONE;
	if (is_alone(cache)) {
		alone_fit(cache, tenant_of_node(in_ram->next));
		return kvc_tenant_victim(cache, tenant_of_node(in_ram->next), kinds, may_go);
	}
	shares_update(cache);
	cache->tenants.search++;
	while ((tenant = most_over(cache, kinds, within))) {
		uint32_t id = kvc_tenant_victim(cache, tenant, kinds, may_go);

		if (id != KVC_POLICY_NONE)
			return id;
		tenant->tried = cache->tenants.search;
	}
	return KVC_POLICY_NONE;
}

bool kvc_tenant_is_over(struct kvc_cache *cache, const struct kvc_tenant *tenant)
{
	if (is_alone(cache))
		return false;
	shares_update(cache);
	return tenant->ram > tenant->share;
}

/* Bytes of RAM that can go, now or when what runs has ended: all but what is pinned, or dropped and still in
 * use. */
static uint64_t movable(const struct kvc_tenant *tenant)
{
	uint64_t bytes = tenant->coming + tenant->storing;

	for (unsigned i = 0; i < KVC_PRIORITIES; i++)
		if (tenant->policies[i])
			bytes += policy_bytes(tenant->policies[i]);
	return bytes;
}

bool kvc_tenants_over_busy(struct kvc_cache *cache)
{
	bool writable = kvc_cache_disk_writable(cache);

	if (is_alone(cache))
		return true;
	if (kvc_disk_hangs(cache))
		return false;
	shares_update(cache);
	kvc_list_each (node, &cache->tenants.in_ram) {
		const struct kvc_tenant *tenant = tenant_of_node(node);

		if (movable(tenant) > tenant->share &&
		    (kvc_tenant_is_stirring(tenant) ||
		     (writable && kvc_tenant_count(tenant, KVC_LIST_DIRTY))))
			return true;
	}
	return false;
}

/* One whose own waiters need it goes first; else whoever gives up blocks next. */
uint32_t kvc_tenants_to_clean(struct kvc_cache *cache, bool (*may_go)(void *cache, uint32_t id))
{
	struct kvc_list *in_ram = &cache->tenants.in_ram;
	struct kvc_tenant *tenant;
	uint32_t id = KVC_POLICY_NONE;

	kvc_list_each (node, in_ram) {
		tenant = tenant_of_node(node);
		if (tenant->squeezed && id == KVC_POLICY_NONE)
			id = search(tenant, 1u << KVC_LIST_DIRTY, kvc_policy_peek, may_go);
	}
	if (id != KVC_POLICY_NONE)
		return id;
	shares_update(cache);
	cache->tenants.search++;
	while ((tenant = most_over(cache, 1u << KVC_LIST_DIRTY, true))) {
		id = search(tenant, 1u << KVC_LIST_DIRTY, kvc_policy_peek, may_go);
		if (id != KVC_POLICY_NONE)
			return id;
		tenant->tried = cache->tenants.search;
	}
	return KVC_POLICY_NONE;
}

/* ---- disk ---------------------------------------------------------------------------------- */

/* The hand goes round over all entries; what was used since it came by last is passed over once. */
static void hand_step(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	uint32_t ids = kvc_index_high(cache->index);
	uint32_t id = tenant->disk_hand < ids ? tenant->disk_hand : 0;
	struct kvc_entry *entry = kvc_cache_entry(cache, id);

	tenant->disk_hand = id + 1;
	if (entry->tenant != tenant->number || entry->flags & KVC_ENTRY_DEAD ||
	    !(entry->flags & KVC_ENTRY_ON_DISK) || entry->refs || kvc_entry_in_flight(entry))
		return;
	if (entry->flags & KVC_ENTRY_HIT) {
		entry->flags &= (uint8_t)~KVC_ENTRY_HIT;
		if (kvc_policy_listed(&entry->node))
			kvc_entry_reclass(cache, id);
		return;
	}
	kvc_sync_lost(cache, id);
	kvc_entry_forget_place(cache, id);
}

bool kvc_tenant_disk_room(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes)
{
	uint64_t most = tenant->budget.disk_max;

	bytes += tenant->storing;
	if (!most || tenant->disk + bytes <= most)
		return true;
	for (unsigned i = 0; i < HAND_STEPS && bytes <= most && tenant->disk + bytes > most; i++)
		hand_step(cache, tenant);
	return tenant->disk + bytes <= most;
}
