/* The record: one block at rest, in RAM, on disk or in flight between them.
 *
 *   header (512 bytes, little-endian, checksummed), image (kernels/image.h), zeros up to a multiple of 4096
 *
 * The header carries its own address, so that a well-formed record in the wrong place is not taken for the
 * right one. It binds the image by the checksum in the image's header, which in turn covers every tile. Pure
 * functions. */
#ifndef KVC_RECORD_H
#define KVC_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/key.h"
#include "proto/kvc_status.h"

#define KVC_RECORD_HEADER_BYTES 512u
#define KVC_RECORD_ALIGN        4096u

#define KVC_RECORD_SALT_BYTES     16u
#define KVC_RECORD_NONCE_BYTES    12u
#define KVC_RECORD_TAG_BYTES      16u
#define KVC_RECORD_IDENTITY_BYTES 192u

/* Where a record lies in a tier; 0/0 with `bytes` 0: nowhere. */
struct kvc_place {
	uint32_t segment; /* of the tier */
	uint32_t page;    /* in the segment, of KVC_RECORD_ALIGN bytes */
};

struct kvc_record {
	struct kvc_storage_key key;
	struct kvc_storage_key parent; /* all zero: none */
	uint8_t tenant[16];   /* first half of BLAKE2b of the tenant's name under the master secret */
	uint32_t incarnation; /* of the tenant: how often it was dropped before this was put */
	uint8_t device[16];   /* instance id of the tier's directory */
	struct kvc_place place;
	uint64_t epoch;      /* of the segment: a reused segment has a new one */
	uint64_t generation; /* of the block: grows with every put of the process and over restarts */
	uint64_t image_bytes;
	uint32_t tokens;
	uint32_t depth; /* blocks before it in its sequence */
	bool copy;      /* written again from another place: whoever has one with that key keeps that */
	bool ends;      /* has a time to live: no start takes it over */
	bool encrypted; /* its image, as it stands behind its header */
};

/* What the header of an encrypted record says of that. */
struct kvc_envelope {
	uint8_t salt[KVC_RECORD_SALT_BYTES]; /* its key derives from the tenant's and this */
	uint8_t nonce[KVC_RECORD_NONCE_BYTES];
	uint8_t tag[KVC_RECORD_TAG_BYTES];
};

/* Bytes of a whole record with an image of that length. */
uint64_t kvc_record_bytes(uint64_t image_bytes);

/* Write the header of a record whose image stands at bytes + KVC_RECORD_HEADER_BYTES, and zero its padding.
 */
void kvc_record_seal(const struct kvc_record *record, uint8_t *bytes);

/* The same around an image that is encrypted. Everywhere below, what is said of an image then holds for its
 * bytes as they stand there, encrypted. */
void kvc_record_seal_encrypted(const struct kvc_record *record, const struct kvc_envelope *envelope,
                               uint8_t *bytes);

/* Of a sound header. The identity is all of it that is known before the image is encrypted: all but tag and
 * checksums. */
void kvc_record_envelope(const uint8_t header[KVC_RECORD_HEADER_BYTES], struct kvc_envelope *envelope);
void kvc_record_identity(const uint8_t header[KVC_RECORD_HEADER_BYTES],
                         uint8_t identity[KVC_RECORD_IDENTITY_BYTES]);

/* Read and check a header against itself: magic, version, sizes, checksum. `available` bytes of the header's
 * segment are left from here on. KVC_MISS: no record begins here (end of the log). KVC_CORRUPT: one did, and
 * it is damaged. */
kvc_status kvc_record_parse(const uint8_t header[KVC_RECORD_HEADER_BYTES], uint64_t available,
                            struct kvc_record *record);

/* Whether the image that stands behind a sound header is the one that was sealed with it, as far as the
 * image's own header tells. Looks at the first KVC_RECORD_ALIGN bytes of the record. */
bool kvc_record_binds(const uint8_t *bytes);

/* Whether a record that was read is the one expected: key, device, place, low half of the epoch, sizes, and
 * the image's own checksum as noted in the record. A segment's epoch is used once, so place and epoch name
 * one record for good. KVC_OK or KVC_CORRUPT. The tiles are checked when they are decoded. */
kvc_status kvc_record_match(const uint8_t *bytes, uint64_t length, const struct kvc_record *expected);

#endif
