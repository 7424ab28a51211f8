/* Namespaces: an identity (a secret) and a plan. Two that differ in anything derive different secrets, hence
 * different storage keys for the same block key, and never meet in the index. */
#include "daemon/base/alloc.h"
#include "daemon/base/checked.h"
#include "daemon/cache/internal.h"

enum { DESCRIPTION_BYTES = 2048, BUCKETS_FIRST = 16 };

/* A namespace's options as bytes: fixed order, fixed widths, strings with their length. */
struct description {
	uint8_t bytes[DESCRIPTION_BYTES];
	size_t used;
};

static void put_bytes(struct description *d, const void *data, size_t bytes)
{
	KVC_INVARIANT(d->used + bytes <= sizeof d->bytes);
	memcpy(d->bytes + d->used, data, bytes);
	d->used += bytes;
}

static void put_u32(struct description *d, uint32_t value)
{
	uint8_t little[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
	                     (uint8_t)(value >> 24)};

	put_bytes(d, little, sizeof little);
}

static void put_string(struct description *d, const char *text)
{
	put_u32(d, (uint32_t)strlen(text));
	put_bytes(d, text, strlen(text));
}

static void put_params(struct description *d, const struct kvc_codec_params *params)
{
	uint32_t clip;

	memcpy(&clip, &params->clip, sizeof clip);
	put_u32(d, params->bits);
	if (params->bits == KVC_BITS_RAW)
		return;
	put_u32(d, params->group);
	put_u32(d, (uint32_t)params->centre | (uint32_t)params->rotate << 1 | (uint32_t)params->gain << 2);
	put_u32(d, clip);
}

static void put_codec(struct description *d, const struct kvc_block_codec *codec)
{
	put_params(d, &codec->key);
	put_params(d, &codec->value);
	put_u32(d, codec->override_count);
	for (uint32_t i = 0; i < codec->override_count; i++) {
		put_u32(d, codec->overrides[i].layer);
		put_params(d, &codec->overrides[i].key);
		put_params(d, &codec->overrides[i].value);
	}
}

static void describe(const struct kvc_ns_options *options, struct description *d)
{
	const struct kvc_block_shape *shape = &options->shape;

	d->used = 0;
	put_string(d, options->model);
	put_u32(d, shape->layers);
	put_u32(d, shape->heads);
	put_u32(d, shape->key_dim);
	put_u32(d, shape->value_dim);
	put_u32(d, shape->dtype);
	put_u32(d, shape->tokens);
	put_u32(d, options->shard);
	put_u32(d, options->shards);
	put_codec(d, &options->codec);
}

static void identify(struct kvc_cache *cache, const struct kvc_ns_options *options, struct kvc_ns *ns)
{
	struct kvc_secret tenant;
	struct description d;

	kvc_secret_derive(&cache->options.secret, "tenant", options->tenant, strlen(options->tenant),
	                  &tenant);
	describe(options, &d);
	kvc_secret_derive(&tenant, "namespace", d.bytes, d.used, &ns->root);
}

/* A tenant that was never dropped has the secrets that it always had. */
static void incarnate(struct kvc_ns *ns, const uint8_t tenant[KVC_TENANT_ID_BYTES])
{
	struct kvc_tier *disk = ns->cache->options.disk;
	struct description d = {.used = 0};

	ns->incarnation = disk && disk->ops->incarnation ? disk->ops->incarnation(disk, tenant) : 0;
	ns->secret = ns->root;
	if (!ns->incarnation)
		return;
	put_u32(&d, ns->incarnation);
	kvc_secret_derive(&ns->root, "incarnation", d.bytes, d.used, &ns->secret);
}

void kvc_ns_renew(struct kvc_cache *cache, const uint8_t tenant[16])
{
	const struct kvc_ns_table *table = &cache->namespaces;

	for (uint32_t i = 0; i < table->bucket_count; i++)
		for (struct kvc_ns *ns = table->buckets[i]; ns; ns = ns->next)
			if (!memcmp(ns->tenant->id, tenant, sizeof ns->tenant->id)) {
				incarnate(ns, tenant);
				ns->drops++;
			}
}

uint32_t kvc_ns_drops(const struct kvc_ns *ns)
{
	return ns->drops;
}

/* ---- the table ----------------------------------------------------------------------------- */

/* The root is a keyed hash already. */
static struct kvc_ns **bucket_of(const struct kvc_ns_table *table, const struct kvc_secret *root)
{
	uint32_t hash;

	memcpy(&hash, root->bytes, sizeof hash);
	return &table->buckets[hash & (table->bucket_count - 1)];
}

static void table_add(struct kvc_ns_table *table, struct kvc_ns *ns)
{
	struct kvc_ns **bucket = bucket_of(table, &ns->root);

	ns->next = *bucket;
	*bucket = ns;
	table->count++;
}

static void table_remove(struct kvc_ns_table *table, const struct kvc_ns *ns)
{
	struct kvc_ns **link = bucket_of(table, &ns->root);

	while (*link != ns)
		link = &(*link)->next;
	*link = ns->next;
	table->count--;
}

/* Room for one more. Without memory for more buckets those that there are do. */
static kvc_status table_reserve(struct kvc_ns_table *table)
{
	struct kvc_ns_table grown = {
	        .bucket_count = table->bucket_count ? 2 * table->bucket_count : BUCKETS_FIRST,
	};

	if (table->count < table->bucket_count)
		return KVC_OK;
	grown.buckets = kvc_calloc(grown.bucket_count, sizeof(struct kvc_ns *));
	if (!grown.buckets)
		return table->buckets ? KVC_OK : KVC_NO_MEMORY;
	for (uint32_t i = 0; i < table->bucket_count; i++) {
		while (table->buckets[i]) {
			struct kvc_ns *ns = table->buckets[i];

			table->buckets[i] = ns->next;
			table_add(&grown, ns);
		}
	}
	kvc_ns_table_close(table);
	*table = grown;
	return KVC_OK;
}

void kvc_ns_table_close(struct kvc_ns_table *table)
{
	kvc_free(table->buckets);
	*table = (struct kvc_ns_table){0};
}

static struct kvc_ns *ns_find(const struct kvc_cache *cache, const struct kvc_secret *root)
{
	struct kvc_ns *ns = cache->namespaces.count ? *bucket_of(&cache->namespaces, root) : NULL;

	while (ns && memcmp(ns->root.bytes, root->bytes, sizeof root->bytes) != 0)
		ns = ns->next;
	return ns;
}

/* ---- life ---------------------------------------------------------------------------------- */

static kvc_status tenant_open(struct kvc_cache *cache, const char *name, struct kvc_tenant **tenant)
{
	uint8_t id[KVC_TENANT_ID_BYTES];
	kvc_status status;

	kvc_tenant_id(cache, name, id);
	status = kvc_tenant_get(cache, id, tenant);
	if (status == KVC_OK)
		kvc_tenant_opened(cache, *tenant, name);
	return status;
}

kvc_status kvc_ns_open(struct kvc_cache *cache, const struct kvc_ns_options *options, struct kvc_ns **out)
{
	struct kvc_ns candidate = {.cache = cache, .refs = 1};
	struct kvc_ns *ns;
	kvc_status status = kvc_image_plan_init(&candidate.plan, &options->shape, &options->codec);

	if (status != KVC_OK)
		return status;
	if (kvc_record_bytes(candidate.plan.raw_image_bytes) > kvc_arena_bytes(cache->options.arena))
		return KVC_LIMIT;
	identify(cache, options, &candidate);
	ns = ns_find(cache, &candidate.root);
	if (ns) {
		ns->refs++;
		*out = ns;
		return KVC_OK;
	}
	if (table_reserve(&cache->namespaces) != KVC_OK)
		return KVC_NO_MEMORY;
	ns = kvc_calloc(1, sizeof *ns);
	if (!ns)
		return KVC_NO_MEMORY;
	status = tenant_open(cache, options->tenant, &candidate.tenant);
	if (status != KVC_OK) {
		kvc_free(ns);
		return status;
	}
	*ns = candidate;
	incarnate(ns, ns->tenant->id);
	table_add(&cache->namespaces, ns);
	*out = ns;
	return KVC_OK;
}

void kvc_ns_close(struct kvc_ns *ns)
{
	KVC_PRE(ns->refs > 0);
	if (--ns->refs)
		return;
	table_remove(&ns->cache->namespaces, ns);
	kvc_tenant_closed(ns->cache, ns->tenant);
	kvc_free(ns);
}

const struct kvc_image_plan *kvc_ns_plan(const struct kvc_ns *ns)
{
	return &ns->plan;
}

void kvc_ns_key(const struct kvc_ns *ns, const void *block_key, size_t bytes, struct kvc_storage_key *key)
{
	kvc_storage_key_derive(&ns->secret, block_key, bytes, key);
}
