/* The keyring of a disk tier's directory: what is to be known of its tenants. For each one its incarnation,
 * which is how often it was dropped, and, where the directory is encrypted, its data key, wrapped under the
 * disk's key.
 *
 *   head (256 bytes): magic, version, checksum, whose it is, sequence, a check of the disk's key, the epoch
 * from which on nothing is plain rows (96 bytes each), by tenant; zeros up to a whole page
 *
 * Two files that are written in turn; of the sound ones the newer is in force. Here are the bytes and the
 * table in memory: pure functions, but for randomness. disk_keyring.c keeps the files. */
#ifndef KVC_KEYRING_H
#define KVC_KEYRING_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/tier/cipher.h"
#include "daemon/tier/segment.h"
#include "proto/kvc_status.h"

#define KVC_KEYRING_FILES       2u
#define KVC_KEYRING_TENANTS_MAX 16384u

struct kvc_keyring_row {
	uint8_t tenant[16];
	uint32_t incarnation;
	uint64_t drop;   /* the one that made this incarnation, at random: another directory may have come to
	                    the same incarnation by another one; 0: none */
	uint32_t before; /* low half of the drop that came before it here; 0: none, or not known */
	bool has_key;
	uint8_t wrapped[KVC_WRAPPED_BYTES]; /* zeros: none */
};

struct kvc_keyring {
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t sequence;    /* of two files the higher one is in force */
	bool encrypted;       /* whatever is stored */
	uint64_t plain_below; /* of an encrypted one: only records of epochs below may be plain, from before
	                         it took a key; 1: none, or none any more */
	uint8_t check[KVC_WRAPPED_BYTES]; /* a key of zeros, wrapped: tells whether a disk key is the right
	                                     one */
	uint32_t count;
	uint32_t capacity;
	struct kvc_keyring_row *rows; /* in the order of tenants */
};

void kvc_keyring_free(struct kvc_keyring *ring);

/* A copy with room for one more row. KVC_NO_MEMORY. */
kvc_status kvc_keyring_copy(const struct kvc_keyring *from, struct kvc_keyring *to);

/* Pages of a keyring with so many rows, and of the largest. */
uint32_t kvc_keyring_pages(uint32_t count);

/* bytes: kvc_keyring_pages(ring->count) pages. */
void kvc_keyring_encode(const struct kvc_keyring *ring, uint8_t *bytes);

/* KVC_CORRUPT: not a sound keyring. KVC_NO_MEMORY. Pages behind its own do not matter. */
kvc_status kvc_keyring_decode(const uint8_t *bytes, uint32_t pages, struct kvc_keyring *ring);

/* The row of a tenant; NULL: there is none, its incarnation is 0 and it has no key. */
const struct kvc_keyring_row *kvc_keyring_find(const struct kvc_keyring *ring, const uint8_t tenant[16]);
uint32_t kvc_keyring_incarnation(const struct kvc_keyring *ring, const uint8_t tenant[16]);

/* Drop a tenant: no key, and that incarnation. KVC_NO_MEMORY, KVC_LIMIT (too many tenants). */
kvc_status kvc_keyring_drop(struct kvc_keyring *ring, const uint8_t tenant[16], uint32_t incarnation,
                            uint64_t drop);

/* --- under the disk's key, of which `under` is derived for this directory --- */

void kvc_keyring_under(const struct kvc_secret *disk_key, const uint8_t instance[KVC_INSTANCE_BYTES],
                       struct kvc_secret *under);

/* From now on it is encrypted; records of epochs below plain_below may be plain. KVC_NO_MEMORY. */
kvc_status kvc_keyring_lock(struct kvc_keyring *ring, struct kvc_cipher *cipher,
                            const struct kvc_secret *under, uint64_t plain_below);

/* Whether that is the key of an encrypted one, and plain_below as it was set under it: KVC_OK, KVC_ACCESS
 * (no), KVC_NO_MEMORY. */
kvc_status kvc_keyring_try(const struct kvc_keyring *ring, struct kvc_cipher *cipher,
                           const struct kvc_secret *under);

/* Give a tenant that has none a data key. KVC_NO_MEMORY, KVC_LIMIT. */
kvc_status kvc_keyring_make_key(struct kvc_keyring *ring, struct kvc_cipher *cipher,
                                const struct kvc_secret *under, const uint8_t tenant[16]);

/* The data key in a row. KVC_MISS: it has none. KVC_CORRUPT: what is there is not its key. KVC_NO_MEMORY. */
kvc_status kvc_keyring_key(const uint8_t instance[KVC_INSTANCE_BYTES], const struct kvc_keyring_row *row,
                           struct kvc_cipher *cipher, const struct kvc_secret *under, struct kvc_secret *key);

#endif
