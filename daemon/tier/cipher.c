/* See cipher.h. After each use the key schedule in OpenSSL's context is written over with that of a key of
 * zeros, so that no key outlives its tenant there. */
#include "daemon/tier/cipher.h"

#include <assert.h>
#include <openssl/evp.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

#define STEP_BYTES (1u << 24) /* EVP counts in int */

struct kvc_cipher {
	EVP_CIPHER *algorithm;
	EVP_CIPHER_CTX *context;
};

/* One message. */
struct message {
	const struct kvc_secret *key;
	const uint8_t *nonce;
	struct kvc_cipher_context with;
	const uint8_t *from;
	uint8_t *to;
	uint64_t bytes;
};

kvc_status kvc_cipher_open(struct kvc_cipher **out)
{
	struct kvc_cipher *cipher = kvc_calloc(1, sizeof *cipher);

	if (!cipher)
		return KVC_NO_MEMORY;
	cipher->algorithm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	cipher->context = EVP_CIPHER_CTX_new();
	if (!cipher->algorithm || !cipher->context ||
	    EVP_CipherInit_ex2(cipher->context, cipher->algorithm, NULL, NULL, 1, NULL) != 1) {
		kvc_cipher_close(cipher);
		return KVC_UNSUPPORTED;
	}
	*out = cipher;
	return KVC_OK;
}

void kvc_cipher_close(struct kvc_cipher *cipher)
{
	if (!cipher)
		return;
	EVP_CIPHER_CTX_free(cipher->context);
	EVP_CIPHER_free(cipher->algorithm);
	kvc_free(cipher);
}

static void key_wipe(struct kvc_cipher *cipher)
{
	static const uint8_t zero[KVC_SECRET_BYTES];

	(void)EVP_CipherInit_ex2(cipher->context, NULL, zero, zero, 1, NULL);
}

static bool feed(struct kvc_cipher *cipher, uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	while (bytes) {
		int step = bytes < STEP_BYTES ? (int)bytes : (int)STEP_BYTES;
		int done;

		if (EVP_CipherUpdate(cipher->context, to, &done, from, step) != 1 || done != step)
			return false;
		from += step;
		to = to ? to + step : NULL;
		bytes -= (uint64_t)step;
	}
	return true;
}

static bool message_run(struct kvc_cipher *cipher, const struct message *message, int encrypt)
{
	return EVP_CipherInit_ex2(cipher->context, NULL, message->key->bytes, message->nonce, encrypt,
	                          NULL) == 1 &&
	       feed(cipher, NULL, message->with.data, message->with.bytes) &&
	       feed(cipher, message->to, message->from, message->bytes);
}

static kvc_status message_encrypt(struct kvc_cipher *cipher, const struct message *message,
                                  uint8_t tag[KVC_TAG_BYTES])
{
	uint8_t rest[EVP_MAX_BLOCK_LENGTH];
	int done;
	bool ok = message_run(cipher, message, 1) && EVP_CipherFinal_ex(cipher->context, rest, &done) == 1 &&
	          EVP_CIPHER_CTX_ctrl(cipher->context, EVP_CTRL_AEAD_GET_TAG, KVC_TAG_BYTES, tag) == 1;

	key_wipe(cipher);
	return ok ? KVC_OK : KVC_NO_MEMORY;
}

static kvc_status message_decrypt(struct kvc_cipher *cipher, const struct message *message,
                                  uint8_t tag[KVC_TAG_BYTES])
{
	uint8_t rest[EVP_MAX_BLOCK_LENGTH];
	kvc_status status = KVC_NO_MEMORY;
	int done;

	if (message_run(cipher, message, 0) &&
	    EVP_CIPHER_CTX_ctrl(cipher->context, EVP_CTRL_AEAD_SET_TAG, KVC_TAG_BYTES, tag) == 1)
		status = EVP_CipherFinal_ex(cipher->context, rest, &done) == 1 ? KVC_OK : KVC_CORRUPT;
	key_wipe(cipher);
	return status;
}

/* --- keys ----------------------------------------------------------------------------------------- */

kvc_status kvc_key_wrap(struct kvc_cipher *cipher, const struct kvc_secret *under,
                        struct kvc_cipher_context with, const struct kvc_secret *key,
                        uint8_t wrapped[KVC_WRAPPED_BYTES])
{
	const struct message message = {
	        .key = under,
	        .nonce = wrapped,
	        .with = with,
	        .from = key->bytes,
	        .to = wrapped + KVC_NONCE_BYTES,
	        .bytes = KVC_SECRET_BYTES,
	};

	kvc_random(wrapped, KVC_NONCE_BYTES);
	return message_encrypt(cipher, &message, wrapped + KVC_NONCE_BYTES + KVC_SECRET_BYTES);
}

kvc_status kvc_key_unwrap(struct kvc_cipher *cipher, const struct kvc_secret *under,
                          struct kvc_cipher_context with, const uint8_t wrapped[KVC_WRAPPED_BYTES],
                          struct kvc_secret *key)
{
	const struct message message = {
	        .key = under,
	        .nonce = wrapped,
	        .with = with,
	        .from = wrapped + KVC_NONCE_BYTES,
	        .to = key->bytes,
	        .bytes = KVC_SECRET_BYTES,
	};
	uint8_t tag[KVC_TAG_BYTES];
	kvc_status status;

	memcpy(tag, wrapped + KVC_NONCE_BYTES + KVC_SECRET_BYTES, sizeof tag);
	status = message_decrypt(cipher, &message, tag);
	if (status != KVC_OK)
		kvc_wipe(key, sizeof *key);
	return status;
}

/* --- records -------------------------------------------------------------------------------------- */

static void record_key(const struct kvc_secret *tenant, const struct kvc_envelope *envelope,
                       struct kvc_secret *key)
{
	kvc_secret_derive(tenant, "record", envelope->salt, sizeof envelope->salt, key);
}

kvc_status kvc_record_encrypt(struct kvc_cipher *cipher, const struct kvc_secret *tenant,
                              const struct kvc_record *record, const uint8_t *image, uint8_t *to)
{
	uint8_t identity[KVC_RECORD_IDENTITY_BYTES];
	struct kvc_envelope envelope = {.tag = {0}};
	struct kvc_secret key;
	const struct message message = {
	        .key = &key,
	        .nonce = envelope.nonce,
	        .with = {identity, sizeof identity},
	        .from = image,
	        .to = to + KVC_RECORD_HEADER_BYTES,
	        .bytes = record->image_bytes,
	};
	kvc_status status;

	kvc_random(envelope.salt, sizeof envelope.salt);
	kvc_random(envelope.nonce, sizeof envelope.nonce);
	record_key(tenant, &envelope, &key);
	kvc_record_seal_encrypted(record, &envelope, to);
	kvc_record_identity(to, identity);
	status = message_encrypt(cipher, &message, envelope.tag);
	kvc_record_seal_encrypted(record, &envelope, to); /* with the tag, around what stands there now */
	kvc_wipe(&key, sizeof key);
	return status;
}

kvc_status kvc_record_decrypt(struct kvc_cipher *cipher, const struct kvc_secret *tenant, uint8_t *bytes,
                              uint64_t length)
{
	uint8_t identity[KVC_RECORD_IDENTITY_BYTES];
	struct kvc_envelope envelope;
	struct kvc_record record;
	struct kvc_secret key;
	struct message message = {
	        .key = &key,
	        .nonce = envelope.nonce,
	        .with = {identity, sizeof identity},
	        .from = bytes + KVC_RECORD_HEADER_BYTES,
	        .to = bytes + KVC_RECORD_HEADER_BYTES,
	};
	kvc_status status;

	if (kvc_record_parse(bytes, length, &record) != KVC_OK || !record.encrypted)
		return KVC_CORRUPT;
	kvc_record_envelope(bytes, &envelope);
	kvc_record_identity(bytes, identity);
	record_key(tenant, &envelope, &key);
	message.bytes = record.image_bytes;
	status = message_decrypt(cipher, &message, envelope.tag);
	kvc_wipe(&key, sizeof key);
	record.encrypted = false;
	if (status == KVC_OK)
		kvc_record_seal(&record, bytes);
	return status;
}
