/* The table of tenants, their lives and their accounts. See tenant.h. */
#include "daemon/cache/tenant.h"

#include "daemon/base/alloc.h"
#include "daemon/cache/internal.h"

enum { NUMBERS_FIRST = 8, PACE_MS = 1000 };

/* Ghosts of the policies that have them: one for so many bytes of the arena, at some 40 bytes each; of the
 * first tenant. Each further one has fewer. */
#define GHOST_BYTES (16ull << 10)
#define GHOSTS_MAX  (1u << 20)

#define IDLE_MS (10ull * 60 * 1000)

static uint64_t now_ms(const struct kvc_cache *cache)
{
	return kvc_loop_now_ms(cache->options.loop);
}

/* ---- policies ------------------------------------------------------------------------------ */

static struct kvc_policy_node *policy_node(void *cache, uint32_t id)
{
	return &kvc_cache_entry(cache, id)->node;
}

static struct kvc_policy_block policy_block(void *owner, uint32_t id)
{
	struct kvc_cache *cache = owner;
	const struct kvc_entry *entry = kvc_cache_entry(cache, id);

	return (struct kvc_policy_block){
	        .hash = kvc_storage_key_hash(&entry->key),
	        .bytes = kvc_slab_bytes(cache->options.arena, entry->slab),
	        .first = (uint32_t)entry->depth * entry->tokens,
	        .tokens = entry->tokens,
	};
}

static kvc_status policy_open(struct kvc_cache *cache, struct kvc_policy **policy)
{
	uint64_t bytes = kvc_arena_bytes(cache->options.arena);
	uint64_t ghosts = bytes / GHOST_BYTES;
	uint32_t others = cache->tenants.present > 2 ? cache->tenants.present - 1 : 1;
	struct kvc_policy_options options = {
	        .kind = cache->options.policy,
	        .capacity = bytes,
	        .ghosts_max = (ghosts < GHOSTS_MAX ? (uint32_t)ghosts : GHOSTS_MAX) / others,
	        .clock = &cache->tenants.clock,
	        .node = policy_node,
	        .block = policy_block,
	        .owner = cache,
	};

	return kvc_policy_open(&options, policy);
}

static unsigned listed_priority(const struct kvc_entry *entry)
{
	return entry->hints & KVC_HINT_AS_NORMAL ? KVC_PRIORITY_NORMAL : entry->hints & KVC_HINT_PRIORITY;
}

struct kvc_policy *kvc_tenant_policy(struct kvc_cache *cache, const struct kvc_entry *entry)
{
	const struct kvc_tenant *tenant = cache->tenants.of[entry->tenant];
	struct kvc_policy *policy = tenant->policies[listed_priority(entry)];

	return policy ? policy : tenant->policies[KVC_PRIORITY_NORMAL];
}

/* Without memory for one of its own the block is a normal one. */
struct kvc_policy *kvc_tenant_policy_make(struct kvc_cache *cache, struct kvc_entry *entry)
{
	struct kvc_tenant *tenant = cache->tenants.of[entry->tenant];
	struct kvc_policy **policy = &tenant->policies[entry->hints & KVC_HINT_PRIORITY];

	KVC_PRE((entry->hints & KVC_HINT_PRIORITY) < KVC_PRIORITIES);
	entry->hints &= (uint8_t)~KVC_HINT_AS_NORMAL;
	if (*policy || policy_open(cache, policy) == KVC_OK)
		return *policy;
	entry->hints |= KVC_HINT_AS_NORMAL;
	return tenant->policies[KVC_PRIORITY_NORMAL];
}

/* ---- the table ----------------------------------------------------------------------------- */

void kvc_tenant_id(const struct kvc_cache *cache, const char *name, uint8_t id[KVC_TENANT_ID_BYTES])
{
	struct kvc_secret secret;

	kvc_secret_derive(&cache->options.secret, "tenant id", name, strlen(name), &secret);
	memcpy(id, secret.bytes, KVC_TENANT_ID_BYTES);
}

/* The id is a keyed hash already. */
static uint16_t *bucket_of(struct kvc_tenants *tenants, const uint8_t id[KVC_TENANT_ID_BYTES])
{
	return &tenants->buckets[(id[0] | id[1] << 8) % KVC_TENANT_BUCKETS];
}

struct kvc_tenant *kvc_tenant_find(const struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES])
{
	const struct kvc_tenants *tenants = &cache->tenants;
	uint16_t number = tenants->buckets[(id[0] | id[1] << 8) % KVC_TENANT_BUCKETS];

	for (; number; number = tenants->of[number]->chain)
		if (!memcmp(tenants->of[number]->id, id, KVC_TENANT_ID_BYTES))
			return tenants->of[number];
	return NULL;
}

/* It has got something, or lost it. */
static void vacancy_update(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	bool vacant = tenant->number && !tenant->blocks && !tenant->namespaces;

	if (vacant == !kvc_list_empty(&tenant->vacant_node))
		return;
	if (vacant)
		kvc_list_push(&cache->tenants.vacant, &tenant->vacant_node);
	else
		kvc_list_remove(&tenant->vacant_node);
}

static void tenant_free(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	KVC_PRE(!tenant->blocks && !tenant->namespaces && !tenant->ops && !tenant->ram && !tenant->vram);
	KVC_PRE(!kvc_tenant_is_stirring(tenant) && !tenant->held && !tenant->payload);
	for (unsigned i = 0; i < KVC_PRIORITIES; i++)
		if (tenant->policies[i])
			kvc_policy_close(tenant->policies[i]);
	cache->tenants.of[tenant->number] = NULL;
	cache->tenants.present--;
	kvc_free(tenant);
}

static bool is_idle(const struct kvc_cache *cache, const struct kvc_tenant *tenant)
{
	return now_ms(cache) - tenant->active_ms >= cache->tenants.idle_ms;
}

static bool is_named(const struct kvc_tenant *tenant)
{
	return tenant->budget.name[0] && strcmp(tenant->budget.name, "*") != 0;
}

static void tenant_forget(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	struct kvc_tenants *tenants = &cache->tenants;
	uint16_t *link = bucket_of(tenants, tenant->id);

	while (*link != tenant->number)
		link = &tenants->of[*link]->chain;
	*link = tenant->chain;
	kvc_list_remove(&tenant->vacant_node);
	tenant_free(cache, tenant);
}

static struct kvc_tenant *tenant_of_vacant(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_tenant, vacant_node);
}

/* Vacant ones that did nothing for long, as far as the first that did; and if all numbers are taken, one
 * more. At most KVC_TENANT_BUDGETS_MAX are named. */
static void tenants_sweep(struct kvc_cache *cache)
{
	struct kvc_tenants *tenants = &cache->tenants;

	while (!kvc_list_empty(&tenants->vacant) && is_idle(cache, tenant_of_vacant(tenants->vacant.next)))
		tenant_forget(cache, tenant_of_vacant(tenants->vacant.next));
	if (tenants->present < KVC_TENANTS_MAX)
		return;
	kvc_list_each (node, &tenants->vacant) {
		if (is_named(tenant_of_vacant(node)))
			continue;
		tenant_forget(cache, tenant_of_vacant(node));
		return;
	}
}

/* A number that is free, with its place in the table. */
static kvc_status number_take(struct kvc_tenants *tenants, uint16_t *number)
{
	uint32_t i = 0;

	while (i < tenants->count && tenants->of[i])
		i++;
	KVC_INVARIANT(i < KVC_TENANTS_MAX);
	if (i == tenants->count && (i < NUMBERS_FIRST ? i == 0 : !(i & (i - 1)))) {
		uint32_t room = i ? 2 * i : NUMBERS_FIRST;
		struct kvc_tenant **of = kvc_realloc(tenants->of, room, sizeof(struct kvc_tenant *));

		if (!of)
			return KVC_NO_MEMORY;
		tenants->of = of;
	}
	if (i == tenants->count) {
		tenants->of[i] = NULL;
		tenants->count++;
	}
	*number = (uint16_t)i;
	return KVC_OK;
}

static kvc_status tenant_make(struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES],
                              struct kvc_tenant **made)
{
	struct kvc_tenants *tenants = &cache->tenants;
	uint32_t gpus = cache->options.gpu_count;
	struct kvc_tenant *tenant = kvc_calloc(1, sizeof *tenant + gpus * sizeof tenant->gpu_moves[0]);
	kvc_status status = tenant ? number_take(tenants, &tenant->number) : KVC_NO_MEMORY;

	if (status == KVC_OK)
		status = policy_open(cache, &tenant->policies[KVC_PRIORITY_NORMAL]);
	if (status != KVC_OK) {
		kvc_free(tenant);
		return status;
	}
	memcpy(tenant->id, id, KVC_TENANT_ID_BYTES);
	tenant->active_ms = now_ms(cache);
	kvc_list_init(&tenant->ram_node);
	kvc_list_init(&tenant->vacant_node);
	kvc_list_init(&tenant->space_urgent);
	kvc_list_init(&tenant->space_normal);
	kvc_fair_flow_init(&tenant->space_turn, 0);
	kvc_move_flow_init(&tenant->moves, 0);
	for (tenant->gpu_count = 0; tenant->gpu_count < gpus; tenant->gpu_count++)
		kvc_move_flow_init(&tenant->gpu_moves[tenant->gpu_count], 0);
	tenants->of[tenant->number] = tenant;
	tenants->present++;
	kvc_tenant_budget_take(cache, tenant);
	*made = tenant;
	return KVC_OK;
}

kvc_status kvc_tenant_get(struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES],
                          struct kvc_tenant **tenant)
{
	struct kvc_tenants *tenants = &cache->tenants;
	kvc_status status;

	*tenant = kvc_tenant_find(cache, id);
	if (*tenant)
		return KVC_OK;
	tenants_sweep(cache);
	if (tenants->present >= KVC_TENANTS_MAX) /* soon told: a start may ask for each of its blocks */
		return KVC_LIMIT;
	status = tenant_make(cache, id, tenant);
	if (status != KVC_OK)
		return status;
	(*tenant)->chain = *bucket_of(tenants, id);
	*bucket_of(tenants, id) = (*tenant)->number;
	vacancy_update(cache, *tenant);
	kvc_tenants_stale(cache);
	return KVC_OK;
}

kvc_status kvc_tenants_open(struct kvc_cache *cache)
{
	static const uint8_t nobody[KVC_TENANT_ID_BYTES];
	struct kvc_tenants *tenants = &cache->tenants;
	struct kvc_tenant *unknown;
	kvc_status status;

	tenants->idle_ms = IDLE_MS;
	kvc_list_init(&tenants->in_ram);
	kvc_list_init(&tenants->vacant);
	kvc_list_init(&tenants->drops);
	status = tenant_make(cache, nobody, &unknown);
	if (status != KVC_OK)
		kvc_free(tenants->of);
	return status;
}

void kvc_tenants_close(struct kvc_cache *cache)
{
	struct kvc_tenants *tenants = &cache->tenants;

	KVC_PRE(kvc_list_empty(&tenants->drops) && !tenants->drop_task.queued);
	for (uint32_t i = 0; i < tenants->count; i++) {
		struct kvc_tenant *tenant = tenants->of[i];

		if (!tenant)
			continue;
		for (unsigned k = 0; k < KVC_PRIORITIES; k++)
			if (tenant->policies[k])
				kvc_policy_close(tenant->policies[k]);
		kvc_free(tenant);
	}
	kvc_free(tenants->of);
}

void kvc_tenant_opened(struct kvc_cache *cache, struct kvc_tenant *tenant, const char *name)
{
	memcpy(tenant->name, name, strnlen(name, sizeof tenant->name - 1));
	kvc_tenant_active(cache, tenant);
	if (tenant->namespaces++)
		return;
	vacancy_update(cache, tenant);
	cache->tenants.serving++;
	cache->tenants.serving_weight += tenant->budget.weight;
}

void kvc_tenant_closed(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	KVC_PRE(tenant->namespaces > 0);
	if (--tenant->namespaces)
		return;
	vacancy_update(cache, tenant);
	cache->tenants.serving--;
	cache->tenants.serving_weight -= tenant->budget.weight;
}

/* ---- entries ------------------------------------------------------------------------------- */

void kvc_tenant_entry_new(struct kvc_cache *cache, uint32_t id, struct kvc_tenant *tenant)
{
	kvc_cache_entry(cache, id)->tenant = tenant->number;
	tenant->blocks++;
	vacancy_update(cache, tenant);
}

void kvc_tenant_entry_gone(struct kvc_cache *cache, uint32_t id)
{
	struct kvc_tenant *tenant = cache->tenants.of[kvc_cache_entry(cache, id)->tenant];

	KVC_PRE(tenant->blocks > 0);
	tenant->blocks--;
	vacancy_update(cache, tenant);
}

void kvc_tenant_ram_add(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes)
{
	if (!tenant->ram && bytes) {
		kvc_list_push(&cache->tenants.in_ram, &tenant->ram_node);
		kvc_tenants_stale(cache);
	}
	tenant->ram += bytes;
}

void kvc_tenant_ram_sub(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes)
{
	(void)cache;
	KVC_PRE(tenant->ram >= bytes);
	tenant->ram -= bytes;
	if (!tenant->ram)
		kvc_list_remove(&tenant->ram_node);
}

void kvc_tenant_adopt(struct kvc_cache *cache, uint32_t id, struct kvc_tenant *tenant)
{
	struct kvc_entry *entry = kvc_cache_entry(cache, id);
	struct kvc_tenant *nobody = kvc_tenant_unknown(&cache->tenants);
	bool listed = kvc_policy_listed(&entry->node);
	uint64_t bytes = 0;

	if (entry->tenant || tenant == nobody)
		return;
	if (entry->slab != KVC_EXTENT_NONE)
		bytes = kvc_slab_bytes(cache->options.arena, entry->slab);
	kvc_entry_unlist(cache, id);
	kvc_tenant_ram_sub(cache, nobody, bytes);
	kvc_tenant_ram_add(cache, tenant, bytes);
	kvc_tenant_entry_gone(cache, id);
	kvc_tenant_entry_new(cache, id, tenant);
	if (entry->flags & KVC_ENTRY_ON_DISK) {
		nobody->disk -= kvc_record_bytes(entry->image_bytes);
		tenant->disk += kvc_record_bytes(entry->image_bytes);
	}
	if (listed)
		kvc_entry_list(cache, id, KVC_POLICY_BACK, KVC_ENTRY_NONE);
}

void kvc_tenant_adopt_id(struct kvc_cache *cache, uint32_t id, const uint8_t tenant_id[KVC_TENANT_ID_BYTES])
{
	static const uint8_t nobody[KVC_TENANT_ID_BYTES];
	struct kvc_tenant *tenant;

	if (kvc_cache_entry(cache, id)->tenant || !memcmp(tenant_id, nobody, sizeof nobody))
		return;
	if (kvc_tenant_get(cache, tenant_id, &tenant) == KVC_OK)
		kvc_tenant_adopt(cache, id, tenant);
}

/* ---- operations ---------------------------------------------------------------------------- */

/* A tenant that comes back gets its share back at once. */
void kvc_tenant_active(struct kvc_cache *cache, struct kvc_tenant *tenant)
{
	if (is_idle(cache, tenant))
		kvc_tenants_stale(cache);
	tenant->active_ms = now_ms(cache);
}

/* Of `most` that all may have, and have `all`, the tenant has `mine` and wants `more`. */
struct claim {
	uint64_t most;
	uint64_t all;
	uint64_t mine;
	uint64_t more;
};

/* The last quarter is for those that stay within their part; a first piece that is larger is let through. */
static bool claim_fits(const struct kvc_tenants *tenants, const struct kvc_tenant *tenant, struct claim claim)
{
	uint64_t left = claim.most > claim.all ? claim.most - claim.all : 0;

	if (claim.more > left)
		return false;
	if (tenants->serving < 2 || left - claim.more >= claim.most / 4 || !claim.mine)
		return true;
	return claim.mine + claim.more <= claim.most * tenant->budget.weight / tenants->serving_weight;
}

bool kvc_tenant_op_fits(const struct kvc_cache *cache, const struct kvc_tenant *tenant)
{
	struct claim claim = {cache->options.ops_max, cache->admitted, tenant->ops, 1};

	return claim_fits(&cache->tenants, tenant, claim);
}

static kvc_status claim_refused(struct kvc_ns *ns)
{
	ns->tenant->count.refused++;
	kvc_stat_add(ns->cache->count.busy, 1);
	return KVC_BUSY;
}

kvc_status kvc_ns_blocks_hold(struct kvc_ns *ns, uint32_t blocks)
{
	struct kvc_cache *cache = ns->cache;
	struct kvc_tenant *tenant = ns->tenant;
	uint64_t most = (uint64_t)KVC_BLOCKS_HELD * cache->options.ops_max;
	struct claim claim = {most, cache->held, tenant->held, blocks};

	if (claim.most < KVC_BLOCKS_HELD_MIN)
		claim.most = KVC_BLOCKS_HELD_MIN;
	if (!claim_fits(&cache->tenants, tenant, claim))
		return claim_refused(ns);
	cache->held += blocks;
	tenant->held += blocks;
	return KVC_OK;
}

void kvc_ns_blocks_let_go(struct kvc_ns *ns, uint32_t blocks)
{
	KVC_PRE(ns->tenant->held >= blocks && ns->cache->held >= blocks);
	ns->tenant->held -= blocks;
	ns->cache->held -= blocks;
}

kvc_status kvc_ns_payload_hold(struct kvc_ns *ns, uint64_t bytes, uint64_t most)
{
	struct kvc_cache *cache = ns->cache;
	struct kvc_tenant *tenant = ns->tenant;
	struct claim claim = {most, cache->payload, tenant->payload, bytes};

	if (cache->payload && !claim_fits(&cache->tenants, tenant, claim))
		return claim_refused(ns);
	cache->payload += bytes;
	tenant->payload += bytes;
	return KVC_OK;
}

void kvc_ns_payload_let_go(struct kvc_ns *ns, uint64_t bytes)
{
	KVC_PRE(ns->tenant->payload >= bytes && ns->cache->payload >= bytes);
	ns->tenant->payload -= bytes;
	ns->cache->payload -= bytes;
}

static uint64_t pace_now(const struct kvc_tenant_pace *pace, uint64_t now)
{
	uint64_t gone_ms = now - pace->began_ms;

	return gone_ms < PACE_MS ? pace->per_s : pace->bytes * 1000 / gone_ms;
}

static void pace_add(struct kvc_tenant_pace *pace, uint64_t now, uint64_t bytes)
{
	if (now - pace->began_ms >= PACE_MS)
		*pace = (struct kvc_tenant_pace){.began_ms = now, .per_s = pace_now(pace, now)};
	pace->bytes += bytes;
}

static kvc_status pass(struct kvc_cache *cache, struct kvc_tenant *tenant, struct kvc_rate *rate,
                       uint64_t bytes)
{
	if (!kvc_rate_ready(rate, now_ms(cache))) {
		tenant->count.refused++;
		return KVC_QUOTA;
	}
	kvc_rate_take(rate, bytes);
	return KVC_OK;
}

kvc_status kvc_tenant_put_pass(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes)
{
	kvc_status status = pass(cache, tenant, &tenant->put_rate, bytes);

	if (status == KVC_OK) {
		tenant->count.put_bytes += bytes;
		pace_add(&tenant->put_pace, now_ms(cache), bytes);
	}
	return status;
}

kvc_status kvc_tenant_get_pass(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes)
{
	kvc_status status = pass(cache, tenant, &tenant->get_rate, bytes);

	if (status == KVC_OK) {
		tenant->count.get_bytes += bytes;
		pace_add(&tenant->get_pace, now_ms(cache), bytes);
	}
	return status;
}

kvc_status kvc_ns_may_begin(struct kvc_ns *ns, bool put, uint64_t *per_s, uint64_t *wait_ms)
{
	struct kvc_tenant *tenant = ns->tenant;
	struct kvc_rate *rate = put ? &tenant->put_rate : &tenant->get_rate;

	if (kvc_rate_ready(rate, now_ms(ns->cache)))
		return KVC_OK;
	tenant->count.refused++;
	kvc_tenant_active(ns->cache, tenant);
	*per_s = rate->per_s;
	*wait_ms = kvc_rate_wait_ms(rate);
	return KVC_QUOTA;
}

const char *kvc_ns_tenant(const struct kvc_ns *ns)
{
	return ns->tenant->name;
}

/* ---- statistics ---------------------------------------------------------------------------- */

uint32_t kvc_cache_tenant_stats(struct kvc_cache *cache, const char *name,
                                struct kvc_tenant_stat stats[KVC_TENANT_STATS])
{
	static const struct kvc_tenant nobody;
	uint64_t now = now_ms(cache);
	uint8_t id[KVC_TENANT_ID_BYTES];
	const struct kvc_tenant *t;

	kvc_tenant_id(cache, name, id);
	t = kvc_tenant_find(cache, id);
	if (!t)
		t = &nobody;
	const struct kvc_tenant_stat now_they_are[] = {
	        {"tenant.blocks", t->blocks},
	        {"tenant.ram_bytes", (int64_t)t->ram},
	        {"tenant.disk_bytes", (int64_t)t->disk},
	        {"tenant.vram_bytes", (int64_t)t->vram},
	        {"tenant.puts", (int64_t)t->count.puts},
	        {"tenant.gets", (int64_t)t->count.gets},
	        {"tenant.hits", (int64_t)t->count.hits},
	        {"tenant.misses", (int64_t)t->count.misses},
	        {"tenant.refused", (int64_t)t->count.refused},
	        {"tenant.evicted", (int64_t)t->count.evicted},
	        {"tenant.lost", (int64_t)t->count.lost},
	        {"tenant.put_bytes", (int64_t)t->count.put_bytes},
	        {"tenant.get_bytes", (int64_t)t->count.get_bytes},
	        {"tenant.put_rate_bytes", (int64_t)pace_now(&t->put_pace, now)},
	        {"tenant.get_rate_bytes", (int64_t)pace_now(&t->get_pace, now)},
	        {"tenant.limit.ram_bytes", (int64_t)t->budget.ram_max},
	        {"tenant.limit.disk_bytes", (int64_t)t->budget.disk_max},
	        {"tenant.limit.put_rate_bytes", (int64_t)t->put_rate.per_s},
	        {"tenant.limit.get_rate_bytes", (int64_t)t->get_rate.per_s},
	};

	static_assert(sizeof now_they_are <= KVC_TENANT_STATS * sizeof *stats, "room for all");
	memcpy(stats, now_they_are, sizeof now_they_are);
	return sizeof now_they_are / sizeof *now_they_are;
}
