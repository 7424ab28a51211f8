/* AES-256-GCM, of OpenSSL, for what rests on disk: data keys under the disk's key, images under a key of
 * their own. A context is used by one thread at a time; nothing is allocated after it was opened. */
#ifndef KVC_CIPHER_H
#define KVC_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/key.h"
#include "daemon/tier/record.h"
#include "proto/kvc_status.h"

#define KVC_NONCE_BYTES   KVC_RECORD_NONCE_BYTES
#define KVC_TAG_BYTES     KVC_RECORD_TAG_BYTES
#define KVC_WRAPPED_BYTES (KVC_NONCE_BYTES + KVC_SECRET_BYTES + KVC_TAG_BYTES)

struct kvc_cipher;

/* KVC_NO_MEMORY; KVC_UNSUPPORTED: OpenSSL has no AES-256-GCM here. */
kvc_status kvc_cipher_open(struct kvc_cipher **cipher);
void kvc_cipher_close(struct kvc_cipher *cipher);

/* What goes along with the data in the clear, and must be the same when they are opened. */
struct kvc_cipher_context {
	const void *data;
	size_t bytes;
};

/* A data key, encrypted: nonce, key, tag. The nonce is random. KVC_NO_MEMORY. */
kvc_status kvc_key_wrap(struct kvc_cipher *cipher, const struct kvc_secret *under,
                        struct kvc_cipher_context with, const struct kvc_secret *key,
                        uint8_t wrapped[KVC_WRAPPED_BYTES]);

/* KVC_CORRUPT: not wrapped under that key, with that context; *key is zero then. */
kvc_status kvc_key_unwrap(struct kvc_cipher *cipher, const struct kvc_secret *under,
                          struct kvc_cipher_context with, const uint8_t wrapped[KVC_WRAPPED_BYTES],
                          struct kvc_secret *key);

/* Write at `to`, kvc_record_bytes long, the encrypted record of an image, header and padding too. Its key is
 * derived from the tenant's and a random salt, its nonce is random; the header's identity is authenticated.
 * The image may be read by others meanwhile. KVC_NO_MEMORY. */
kvc_status kvc_record_encrypt(struct kvc_cipher *cipher, const struct kvc_secret *tenant,
                              const struct kvc_record *record, const uint8_t *image, uint8_t *to);

/* Make the encrypted record at `bytes`, of which `length` are there, the plain one, header too. KVC_CORRUPT:
 * it is not what was encrypted under that tenant's key at that place, the image is spoiled then; or it says
 * that it is longer. KVC_NO_MEMORY. */
kvc_status kvc_record_decrypt(struct kvc_cipher *cipher, const struct kvc_secret *tenant, uint8_t *bytes,
                              uint64_t length);

#endif
