/* Keys: from what a client names a block to what the store calls it.
 *
 *   master secret (32 random bytes, kept with the disk tier)
 *     -> tenant secret    = BLAKE2b-256(key: master secret, "tenant" || name)
 *     -> namespace secret = BLAKE2b-256(key: tenant secret, "namespace" || canonical description)
 *     -> storage key      = SipHash-2-4-128 under the first half of the namespace secret
 *                        || SipHash-2-4-128 under the second half, of the client's block key
 *
 * The storage key is a keyed pseudo-random function of (tenant, namespace, block key): who does not know the
 * secret can neither choose nor predict it, so 256 bits collide by chance only, and no tenant can name
 * another's block. */
#ifndef KVC_KEY_H
#define KVC_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KVC_SECRET_BYTES      32u
#define KVC_STORAGE_KEY_BYTES 32u

struct kvc_secret {
	uint8_t bytes[KVC_SECRET_BYTES];
};

struct kvc_storage_key {
	uint8_t bytes[KVC_STORAGE_KEY_BYTES];
};

/* Once, before any other function here. */
void kvc_key_init(void);

void kvc_secret_random(struct kvc_secret *secret);

/* Any number of random bytes. */
void kvc_random(void *bytes, size_t count);

/* Write zeros over what was secret; the compiler does not leave it out. */
void kvc_wipe(void *bytes, size_t count);

/* A secret in memory that is locked, guarded and left out of core dumps; NULL: there is none. Freeing wipes
 * it; NULL is nothing. */
struct kvc_secret *kvc_secret_new(void);
void kvc_secret_free(struct kvc_secret *secret);

/* From 2 * KVC_SECRET_BYTES hex digits; false: other ones. */
bool kvc_secret_parse(const char *hex, struct kvc_secret *secret);

/* label: "tenant" or "namespace". */
void kvc_secret_derive(const struct kvc_secret *from, const char *label, const void *data, size_t bytes,
                       struct kvc_secret *secret);

void kvc_storage_key_derive(const struct kvc_secret *ns, const void *block_key, size_t bytes,
                            struct kvc_storage_key *key);

/* 64 bits of the key: it is a hash already. */
static inline uint64_t kvc_storage_key_hash(const struct kvc_storage_key *key)
{
	uint64_t hash;

	memcpy(&hash, key->bytes, sizeof hash);
	return hash;
}

static inline bool kvc_storage_key_equal(const struct kvc_storage_key *a, const struct kvc_storage_key *b)
{
	return memcmp(a->bytes, b->bytes, KVC_STORAGE_KEY_BYTES) == 0;
}

#endif
