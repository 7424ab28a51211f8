/* Tenants: what each has and does, what it may, and whose block goes when room is short.
 *
 * A tenant is known by the 16 bytes that its blocks' records carry, and by its name as soon as a namespace of
 * it is opened. It lives as long as entries or namespaces refer to it; one that nothing refers to, which is
 * vacant, is kept for its statistics until it has been idle for a while and another one is made, or until
 * there are so many that another one has no other place. Then the one that was vacant for longest goes, but
 * not one that the configuration names: it would come back with full token buckets.
 *
 *   used    bytes of slabs in the arena that hold, or will hold, its blocks
 *   share   what it is promised: its `ram`, else its part by weight of what those with one leave, of all
 *           tenants that were active lately; 0 for one that was not
 *
 * Whoever has most above its share, in proportion, gives up a block first; a tenant within its share gives up
 * none while those above theirs can. So all of the arena may be used by whoever wants it, until the others
 * come. Within a tenant the lowest priority goes first; of the high one what is above half of the share
 * counts as normal. Which block of these goes is the policy's to say; each tenant has one for each priority
 * that it uses.
 *
 * Number 0 is for blocks whose tenant is not known: an old directory's, until they are read. */
#ifndef KVC_CACHE_TENANT_H
#define KVC_CACHE_TENANT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/fair.h"
#include "daemon/cache/cache.h"
#include "daemon/cache/index.h"
#include "daemon/policy/rate.h"

#define KVC_TENANT_ID_BYTES 16u
#define KVC_TENANTS_MAX     4096u

/* How many bytes pass in a second, of late. */
struct kvc_tenant_pace {
	uint64_t bytes; /* since began_ms */
	uint64_t began_ms;
	uint64_t per_s; /* before it */
};

struct kvc_tenant_counts {
	uint64_t puts;
	uint64_t gets;
	uint64_t hits;
	uint64_t misses;
	uint64_t refused; /* KVC_QUOTA, or KVC_BUSY for its share of operations, or of blocks */
	uint64_t evicted;
	uint64_t lost;
	uint64_t put_bytes; /* of sources */
	uint64_t get_bytes;
};

struct kvc_tenant {
	uint16_t number;
	uint16_t chain; /* next one of the bucket, 0: none */
	uint8_t id[KVC_TENANT_ID_BYTES];
	char name[KVC_TENANT_NAME_BYTES]; /* empty: not known yet */
	struct kvc_tenant_budget budget;
	uint32_t namespaces; /* open */
	uint32_t blocks;     /* entries */
	uint32_t ops;        /* admitted and unfinished */
	uint64_t held;       /* blocks of its requests that are not answered */
	uint64_t payload;    /* bytes of memory for what travels through sockets */
	uint64_t ram;
	uint64_t coming; /* of that, granted and no block's yet */
	uint64_t disk;
	uint64_t storing; /* bytes on their way there */
	uint64_t vram;
	uint64_t share;
	uint64_t active_ms;          /* at the last operation */
	struct kvc_list ram_node;    /* in cache->tenants.in_ram */
	struct kvc_list vacant_node; /* in cache->tenants.vacant */
	uint32_t tried;              /* the search for a victim that asked it */
	uint32_t disk_hand;          /* the entry at which the search for what it gives up on disk goes on */
	uint64_t lower_refused;      /* the last run of lower.c in which it had no room for a block */
	bool squeezed;               /* someone waits for room that its own dirty blocks must make */
	struct kvc_policy *policies[KVC_PRIORITIES];
	struct kvc_rate put_rate;
	struct kvc_rate get_rate;
	struct kvc_fair_flow space_turn; /* waits for room: see space.c */
	struct kvc_list space_urgent;
	struct kvc_list space_normal;
	struct kvc_move_flow moves; /* but those of GPUs */
	struct kvc_tenant_counts count;
	struct kvc_tenant_pace put_pace;
	struct kvc_tenant_pace get_pace;
	uint32_t gpu_count;
	struct kvc_move_flow gpu_moves[];
};

/* Whether any of its moves but syncs is queued or runs. */
static inline bool kvc_tenant_is_stirring(const struct kvc_tenant *tenant)
{
	bool stirring = tenant->moves.stirring > 0;

	for (uint32_t i = 0; i < tenant->gpu_count; i++)
		stirring = stirring || tenant->gpu_moves[i].stirring > 0;
	return stirring;
}

enum { KVC_TENANT_BUCKETS = 1024 };

/* A part of struct kvc_cache. */
struct kvc_tenants {
	struct kvc_tenant **of;   /* by number, `count` of them; NULL: a number that is free */
	uint32_t count;           /* numbers ever used */
	uint32_t present;         /* tenants that there are */
	uint32_t serving;         /* of them, with open namespaces */
	uint64_t serving_weight;  /* of those */
	struct kvc_list in_ram;   /* those that use RAM */
	struct kvc_list vacant;   /* those that nothing refers to, for longest first */
	uint64_t shares_until_ms; /* how long the shares may stay as they are; 0: no longer */
	uint32_t search;          /* for a victim, the last one */
	uint32_t clock;           /* of all policies */
	uint64_t idle_ms;
	uint32_t budget_count;
	struct kvc_tenant_budget budgets[KVC_TENANT_BUDGETS_MAX];
	uint8_t budget_ids[KVC_TENANT_BUDGETS_MAX][KVC_TENANT_ID_BYTES];
	struct kvc_list drops; /* struct kvc_tenant_drop, unfinished */
	struct kvc_task drop_task;
	uint32_t drop_next; /* entry at which the walk goes on */
	uint16_t buckets[KVC_TENANT_BUCKETS];
};

kvc_status kvc_tenants_open(struct kvc_cache *cache);
void kvc_tenants_close(struct kvc_cache *cache);

/* The id of a name. */
void kvc_tenant_id(const struct kvc_cache *cache, const char *name, uint8_t id[KVC_TENANT_ID_BYTES]);

/* The tenant with that id, made if there is none. KVC_LIMIT: there are KVC_TENANTS_MAX, and none can go;
 * KVC_NO_MEMORY. */
kvc_status kvc_tenant_get(struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES],
                          struct kvc_tenant **tenant);

/* NULL: there is none. */
struct kvc_tenant *kvc_tenant_find(const struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES]);

/* It is being dropped: of which incarnation a block of it is cannot be told by its entry. */
bool kvc_tenant_dropping(const struct kvc_cache *cache, const uint8_t id[KVC_TENANT_ID_BYTES]);

/* A namespace of it was opened, or closed. */
void kvc_tenant_opened(struct kvc_cache *cache, struct kvc_tenant *tenant, const char *name);
void kvc_tenant_closed(struct kvc_cache *cache, struct kvc_tenant *tenant);

static inline struct kvc_tenant *kvc_tenant_unknown(const struct kvc_tenants *tenants)
{
	return tenants->of[0];
}

/* ---- entries ------------------------------------------------------------------------------- */

/* A new entry is the tenant's; it is until kvc_tenant_entry_gone. */
void kvc_tenant_entry_new(struct kvc_cache *cache, uint32_t id, struct kvc_tenant *tenant);
void kvc_tenant_entry_gone(struct kvc_cache *cache, uint32_t id);

/* The entry was nobody's yet, and is this tenant's as it turns out. Nothing happens if it is someone's. */
void kvc_tenant_adopt(struct kvc_cache *cache, uint32_t id, struct kvc_tenant *tenant);

/* The same by the tenant's id, as a record has it. */
void kvc_tenant_adopt_id(struct kvc_cache *cache, uint32_t id, const uint8_t tenant[KVC_TENANT_ID_BYTES]);

/* It uses so many bytes more, or less. */
void kvc_tenant_ram_add(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes);
void kvc_tenant_ram_sub(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes);

/* The policy that an entry is listed with, or would be. */
struct kvc_policy *kvc_tenant_policy(struct kvc_cache *cache, const struct kvc_entry *entry);

/* The same for one that is about to be listed: made if it is the first of its priority. */
struct kvc_policy *kvc_tenant_policy_make(struct kvc_cache *cache, struct kvc_entry *entry);

/* ---- operations ---------------------------------------------------------------------------- */

/* It did something. */
void kvc_tenant_active(struct kvc_cache *cache, struct kvc_tenant *tenant);

/* Whether it may have one more operation under way: where others have namespaces open, a quarter of all
 * operations is kept for those that are within their share of them. */
bool kvc_tenant_op_fits(const struct kvc_cache *cache, const struct kvc_tenant *tenant);

/* So many bytes of its blocks are put, or got: KVC_OK, or KVC_QUOTA, counted. */
kvc_status kvc_tenant_put_pass(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes);
kvc_status kvc_tenant_get_pass(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes);

/* ---- share.c: shares and victims ----------------------------------------------------------- */

/* Budgets or tenants have changed. */
void kvc_tenants_stale(struct kvc_cache *cache);

/* The budget of a tenant is what the configuration says. */
void kvc_tenant_budget_take(struct kvc_cache *cache, struct kvc_tenant *tenant);

/* The block of these classes that is to go first, of all, or of this tenant; KVC_POLICY_NONE: none was found.
 * `within`: also blocks of those that are within their share. */
uint32_t kvc_tenants_victim(struct kvc_cache *cache, unsigned kinds, bool within,
                            bool (*may_go)(void *cache, uint32_t id));
uint32_t kvc_tenant_victim(struct kvc_cache *cache, struct kvc_tenant *tenant, unsigned kinds,
                           bool (*may_go)(void *cache, uint32_t id));

/* The dirty block that is to be written next, or KVC_POLICY_NONE. */
uint32_t kvc_tenants_to_clean(struct kvc_cache *cache, bool (*may_go)(void *cache, uint32_t id));

/* Listed blocks of a class. */
uint32_t kvc_tenant_count(const struct kvc_tenant *tenant, unsigned kind);

/* Whether it has more than its share, and there are others in RAM. */
bool kvc_tenant_is_over(struct kvc_cache *cache, const struct kvc_tenant *tenant);

/* Whether blocks of those that are above their share, not counting what they have pinned, will be free to go
 * when what runs has ended, and the disk does not hang; or there is one tenant only. */
bool kvc_tenants_over_busy(struct kvc_cache *cache);

/* Room for a block on disk under the tenant's disk-max: what it has there that was not used lately is
 * forgotten, as far as a bounded search finds it. False: there is none. */
bool kvc_tenant_disk_room(struct kvc_cache *cache, struct kvc_tenant *tenant, uint64_t bytes);

#endif
