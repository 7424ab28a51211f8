/* Key derivation over libsodium. */
#include "daemon/base/key.h"

#include <assert.h>
#include <sodium.h>

#include "daemon/base/check.h"

static_assert(crypto_shorthash_siphashx24_KEYBYTES == KVC_SECRET_BYTES / 2, "half a secret keys one hash");
static_assert(crypto_shorthash_siphashx24_BYTES == KVC_STORAGE_KEY_BYTES / 2, "two hashes make a key");

void kvc_key_init(void)
{
	KVC_INVARIANT(sodium_init() >= 0);
}

void kvc_secret_random(struct kvc_secret *secret)
{
	randombytes_buf(secret->bytes, sizeof secret->bytes);
}

void kvc_random(void *bytes, size_t count)
{
	randombytes_buf(bytes, count);
}

void kvc_wipe(void *bytes, size_t count)
{
	sodium_memzero(bytes, count);
}

struct kvc_secret *kvc_secret_new(void)
{
	return sodium_malloc(sizeof(struct kvc_secret));
}

void kvc_secret_free(struct kvc_secret *secret)
{
	sodium_free(secret);
}

bool kvc_secret_parse(const char *hex, struct kvc_secret *secret)
{
	size_t done;

	return !sodium_hex2bin(secret->bytes, sizeof secret->bytes, hex, 2 * sizeof secret->bytes, NULL,
	                       &done, NULL) &&
	       done == sizeof secret->bytes;
}

void kvc_secret_derive(const struct kvc_secret *from, const char *label, const void *data, size_t bytes,
                       struct kvc_secret *secret)
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, from->bytes, sizeof from->bytes, sizeof secret->bytes);
	crypto_generichash_update(&state, (const uint8_t *)label, strlen(label) + 1);
	crypto_generichash_update(&state, data, bytes);
	crypto_generichash_final(&state, secret->bytes, sizeof secret->bytes);
}

void kvc_storage_key_derive(const struct kvc_secret *ns, const void *block_key, size_t bytes,
                            struct kvc_storage_key *key)
{
	const size_t half = KVC_STORAGE_KEY_BYTES / 2;

	crypto_shorthash_siphashx24(key->bytes, block_key, bytes, ns->bytes);
	crypto_shorthash_siphashx24(key->bytes + half, block_key, bytes, ns->bytes + half);
}
