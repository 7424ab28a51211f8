/* See keyring.h. */
#include "daemon/tier/keyring.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define KEYRING_MAGIC     0x3130474E5243564Bull /* "KVCRNG01" */
#define KEYRING_VERSION   1u
#define KEYRING_ENCRYPTED 1u
#define ROW_HAS_KEY       1u

/* Frozen for all versions: magic, version and checksum, over as many pages as its rows take. */
struct head {
	uint64_t magic;
	uint32_t version;
	uint32_t count;
	uint8_t sum[16]; /* XXH3-128 of all behind it, seeded with magic, version and count */
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t sequence;
	uint32_t flags; /* KEYRING_ENCRYPTED */
	uint8_t check[KVC_WRAPPED_BYTES];
	uint64_t plain_below;
	uint8_t zero[128];
} __attribute__((packed));

struct row {
	uint8_t tenant[16];
	uint32_t incarnation;
	uint32_t flags; /* ROW_HAS_KEY */
	uint8_t wrapped[KVC_WRAPPED_BYTES];
	uint64_t drop;
	uint32_t before;
} __attribute__((packed));

static_assert(sizeof(struct head) == 256, "on disk");
static_assert(offsetof(struct head, plain_below) == 120, "on disk");
static_assert(sizeof(struct row) == 96, "on disk");
static_assert(offsetof(struct row, drop) == 84, "on disk");

enum { ROWS_FIRST = 8 };

/* --- the table ------------------------------------------------------------------------------------ */

void kvc_keyring_free(struct kvc_keyring *ring)
{
	kvc_free(ring->rows);
	*ring = (struct kvc_keyring){0};
}

static kvc_status room_make(struct kvc_keyring *ring, uint32_t count)
{
	uint32_t capacity = ring->capacity ? ring->capacity : ROWS_FIRST;
	struct kvc_keyring_row *grown;

	while (capacity < count)
		capacity *= 2;
	if (capacity == ring->capacity)
		return KVC_OK;
	grown = kvc_realloc(ring->rows, capacity, sizeof *grown);
	if (!grown)
		return KVC_NO_MEMORY;
	ring->rows = grown;
	ring->capacity = capacity;
	return KVC_OK;
}

kvc_status kvc_keyring_copy(const struct kvc_keyring *from, struct kvc_keyring *to)
{
	*to = *from;
	to->rows = NULL;
	to->capacity = 0;
	if (room_make(to, from->count + 1)) {
		*to = (struct kvc_keyring){0};
		return KVC_NO_MEMORY;
	}
	if (from->count)
		memcpy(to->rows, from->rows, from->count * sizeof *from->rows);
	return KVC_OK;
}

/* The first row that is not below the tenant. */
static uint32_t row_from(const struct kvc_keyring *ring, const uint8_t tenant[16])
{
	uint32_t low = 0, high = ring->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (memcmp(ring->rows[middle].tenant, tenant, 16) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct kvc_keyring_row *kvc_keyring_find(const struct kvc_keyring *ring, const uint8_t tenant[16])
{
	uint32_t i = row_from(ring, tenant);

	return i < ring->count && !memcmp(ring->rows[i].tenant, tenant, 16) ? &ring->rows[i] : NULL;
}

uint32_t kvc_keyring_incarnation(const struct kvc_keyring *ring, const uint8_t tenant[16])
{
	const struct kvc_keyring_row *row = kvc_keyring_find(ring, tenant);

	return row ? row->incarnation : 0;
}

static kvc_status row_have(struct kvc_keyring *ring, const uint8_t tenant[16], struct kvc_keyring_row **row)
{
	uint32_t i = row_from(ring, tenant);

	if (i == ring->count || memcmp(ring->rows[i].tenant, tenant, 16) != 0) {
		if (ring->count == KVC_KEYRING_TENANTS_MAX)
			return KVC_LIMIT;
		if (room_make(ring, ring->count + 1))
			return KVC_NO_MEMORY;
		memmove(&ring->rows[i + 1], &ring->rows[i], (ring->count - i) * sizeof ring->rows[0]);
		ring->count++;
		ring->rows[i] = (struct kvc_keyring_row){.incarnation = 0};
		memcpy(ring->rows[i].tenant, tenant, 16);
	}
	*row = &ring->rows[i];
	return KVC_OK;
}

kvc_status kvc_keyring_drop(struct kvc_keyring *ring, const uint8_t tenant[16], uint32_t incarnation,
                            uint64_t drop)
{
	struct kvc_keyring_row *row;
	kvc_status status = row_have(ring, tenant, &row);

	if (status != KVC_OK)
		return status;
	row->incarnation = incarnation;
	row->before = (uint32_t)row->drop;
	row->drop = drop;
	row->has_key = false;
	memset(row->wrapped, 0, sizeof row->wrapped);
	return KVC_OK;
}

/* --- bytes ---------------------------------------------------------------------------------------- */

uint32_t kvc_keyring_pages(uint32_t count)
{
	uint64_t bytes = sizeof(struct head) + (uint64_t)count * sizeof(struct row);

	return (uint32_t)((bytes + KVC_PAGE_BYTES - 1) / KVC_PAGE_BYTES);
}

static void sum_of(const uint8_t *bytes, const struct head *head, uint8_t sum[16])
{
	const size_t behind = offsetof(struct head, instance);
	size_t covered = (size_t)kvc_keyring_pages(head->count) * KVC_PAGE_BYTES - behind;
	uint64_t seed = head->magic ^ head->version ^ (uint64_t)head->count << 32;
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(bytes + behind, covered, seed));
	memcpy(sum, canonical.digest, 16);
}

void kvc_keyring_encode(const struct kvc_keyring *ring, uint8_t *bytes)
{
	struct head head = {
	        .magic = KEYRING_MAGIC,
	        .version = KEYRING_VERSION,
	        .count = ring->count,
	        .sequence = ring->sequence,
	        .flags = ring->encrypted ? KEYRING_ENCRYPTED : 0,
	        .plain_below = ring->plain_below,
	};

	memset(bytes, 0, (size_t)kvc_keyring_pages(ring->count) * KVC_PAGE_BYTES);
	memcpy(head.instance, ring->instance, sizeof head.instance);
	memcpy(head.check, ring->check, sizeof head.check);
	for (uint32_t i = 0; i < ring->count; i++) {
		const struct kvc_keyring_row *from = &ring->rows[i];
		struct row row = {
		        .incarnation = from->incarnation,
		        .flags = from->has_key ? ROW_HAS_KEY : 0,
		        .drop = from->drop,
		        .before = from->before,
		};

		memcpy(row.tenant, from->tenant, sizeof row.tenant);
		memcpy(row.wrapped, from->wrapped, sizeof row.wrapped);
		memcpy(bytes + sizeof head + i * sizeof row, &row, sizeof row);
	}
	memcpy(bytes, &head, sizeof head);
	sum_of(bytes, &head, head.sum);
	memcpy(bytes, &head, sizeof head);
}

static kvc_status rows_decode(const uint8_t *bytes, uint32_t count, struct kvc_keyring *ring)
{
	if (room_make(ring, count))
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_keyring_row *to = &ring->rows[i];
		struct row row;

		memcpy(&row, bytes + i * sizeof row, sizeof row);
		if (i && memcmp(to[-1].tenant, row.tenant, 16) >= 0)
			return KVC_CORRUPT;
		*to = (struct kvc_keyring_row){
		        .incarnation = row.incarnation,
		        .has_key = row.flags & ROW_HAS_KEY,
		        .drop = row.drop,
		        .before = row.before,
		};
		memcpy(to->tenant, row.tenant, sizeof to->tenant);
		memcpy(to->wrapped, row.wrapped, sizeof to->wrapped);
	}
	ring->count = count;
	return KVC_OK;
}

kvc_status kvc_keyring_decode(const uint8_t *bytes, uint32_t pages, struct kvc_keyring *ring)
{
	struct kvc_keyring found = {.count = 0};
	struct head head;
	uint8_t sum[16];
	kvc_status status;

	if (!pages)
		return KVC_CORRUPT;
	memcpy(&head, bytes, sizeof head);
	if (head.magic != KEYRING_MAGIC || head.version != KEYRING_VERSION ||
	    head.count > KVC_KEYRING_TENANTS_MAX || kvc_keyring_pages(head.count) > pages)
		return KVC_CORRUPT;
	sum_of(bytes, &head, sum);
	if (memcmp(sum, head.sum, sizeof sum) != 0)
		return KVC_CORRUPT;
	memcpy(found.instance, head.instance, sizeof found.instance);
	memcpy(found.check, head.check, sizeof found.check);
	found.sequence = head.sequence;
	found.encrypted = head.flags & KEYRING_ENCRYPTED;
	found.plain_below = head.plain_below;
	status = rows_decode(bytes + sizeof head, head.count, &found);
	if (status != KVC_OK)
		kvc_keyring_free(&found);
	else
		*ring = found;
	return status;
}

/* --- keys ----------------------------------------------------------------------------------------- */

/* What a wrapped key is bound to: its directory and tenant, and which one of that tenant's. */
struct binding {
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint8_t tenant[16]; /* of the disk's key: plain_below and zeros */
	uint32_t incarnation;
	uint32_t check; /* 1: of the disk's key itself */
} __attribute__((packed));

static struct binding binding_of(const uint8_t instance[KVC_INSTANCE_BYTES],
                                 const struct kvc_keyring_row *row)
{
	struct binding binding = {.incarnation = row->incarnation};

	memcpy(binding.instance, instance, sizeof binding.instance);
	memcpy(binding.tenant, row->tenant, sizeof binding.tenant);
	return binding;
}

static struct binding check_binding(const struct kvc_keyring *ring)
{
	struct binding binding = {.check = 1};

	memcpy(binding.instance, ring->instance, sizeof binding.instance);
	memcpy(binding.tenant, &ring->plain_below, sizeof ring->plain_below);
	return binding;
}

void kvc_keyring_under(const struct kvc_secret *disk_key, const uint8_t instance[KVC_INSTANCE_BYTES],
                       struct kvc_secret *under)
{
	kvc_secret_derive(disk_key, "keyring", instance, KVC_INSTANCE_BYTES, under);
}

kvc_status kvc_keyring_lock(struct kvc_keyring *ring, struct kvc_cipher *cipher,
                            const struct kvc_secret *under, uint64_t plain_below)
{
	static const struct kvc_secret zero;
	struct binding binding;
	kvc_status status;

	ring->plain_below = plain_below;
	binding = check_binding(ring);
	status = kvc_key_wrap(cipher, under, (struct kvc_cipher_context){&binding, sizeof binding}, &zero,
	                      ring->check);
	if (status == KVC_OK)
		ring->encrypted = true;
	return status;
}

kvc_status kvc_keyring_try(const struct kvc_keyring *ring, struct kvc_cipher *cipher,
                           const struct kvc_secret *under)
{
	const struct binding binding = check_binding(ring);
	struct kvc_secret zero;
	kvc_status status = kvc_key_unwrap(
	        cipher, under, (struct kvc_cipher_context){&binding, sizeof binding}, ring->check, &zero);

	return status == KVC_CORRUPT ? KVC_ACCESS : status;
}

kvc_status kvc_keyring_make_key(struct kvc_keyring *ring, struct kvc_cipher *cipher,
                                const struct kvc_secret *under, const uint8_t tenant[16])
{
	struct kvc_keyring_row *row;
	struct binding binding;
	struct kvc_secret key;
	kvc_status status = row_have(ring, tenant, &row);

	if (status != KVC_OK || row->has_key)
		return status;
	binding = binding_of(ring->instance, row);
	kvc_secret_random(&key);
	status = kvc_key_wrap(cipher, under, (struct kvc_cipher_context){&binding, sizeof binding}, &key,
	                      row->wrapped);
	row->has_key = status == KVC_OK;
	kvc_wipe(&key, sizeof key);
	return status;
}

kvc_status kvc_keyring_key(const uint8_t instance[KVC_INSTANCE_BYTES], const struct kvc_keyring_row *row,
                           struct kvc_cipher *cipher, const struct kvc_secret *under, struct kvc_secret *key)
{
	const struct binding binding = binding_of(instance, row);

	if (!row->has_key)
		return KVC_MISS;
	return kvc_key_unwrap(cipher, under, (struct kvc_cipher_context){&binding, sizeof binding},
	                      row->wrapped, key);
}
