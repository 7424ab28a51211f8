/* The record header: encoding, checks. See record.h. */
#include "daemon/tier/record.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/check.h"
#include "daemon/base/checked.h"
#include "kernels/image.h"

#define RECORD_MAGIC     "KVCREC\r\n"
#define RECORD_VERSION   1u
#define RECORD_COPY      1u
#define RECORD_ENDS      2u
#define RECORD_ENCRYPTED 4u

struct header {
	uint8_t magic[8];
	uint16_t version;
	uint16_t header_bytes;
	uint32_t tokens;
	uint32_t depth;
	uint32_t segment;
	uint32_t page;
	uint32_t flags; /* RECORD_COPY, RECORD_ENDS, RECORD_ENCRYPTED; others: reserved, 0 */
	uint64_t epoch;
	uint64_t generation;
	uint64_t image_bytes;
	uint8_t device[16];
	uint8_t tenant[16];
	uint8_t key[KVC_STORAGE_KEY_BYTES];
	uint8_t parent[KVC_STORAGE_KEY_BYTES];
	uint8_t image_sum[KVC_IMAGE_SUM_BYTES]; /* as behind the header, where the image has its checksum, or
	                                         * in an encrypted one what it became: binds the image */
	uint32_t incarnation;                   /* of the tenant */
	uint8_t salt[KVC_RECORD_SALT_BYTES];    /* of an encrypted image, else 0 */
	uint8_t nonce[KVC_RECORD_NONCE_BYTES];
	uint8_t zero[8];
	uint8_t tag[KVC_RECORD_TAG_BYTES];
	uint8_t reserved[272]; /* 0 */
	uint8_t checksum[16];  /* XXH3-128 of all before */
} __attribute__((packed));

static_assert(sizeof(struct header) == KVC_RECORD_HEADER_BYTES, "on disk");
static_assert(offsetof(struct header, epoch) == 32, "on disk");
static_assert(offsetof(struct header, key) == 88, "on disk");
static_assert(offsetof(struct header, image_sum) == 152, "on disk");
static_assert(offsetof(struct header, incarnation) == 168, "on disk");
static_assert(offsetof(struct header, tag) == 208, "on disk");
static_assert(offsetof(struct header, checksum) == 496, "on disk");
static_assert(KVC_RECORD_IDENTITY_BYTES == offsetof(struct header, tag) - KVC_IMAGE_SUM_BYTES,
              "all before the tag but the image's checksum");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the packed struct is little-endian");

uint64_t kvc_record_bytes(uint64_t image_bytes)
{
	return kvc_round_up(KVC_RECORD_HEADER_BYTES + image_bytes, KVC_RECORD_ALIGN);
}

static void header_checksum(const void *header, uint8_t checksum[16])
{
	XXH128_hash_t hash = XXH3_128bits(header, offsetof(struct header, checksum));

	memcpy(checksum, &hash.low64, 8);
	memcpy(checksum + 8, &hash.high64, 8);
}

static void seal(const struct kvc_record *record, const struct kvc_envelope *envelope, uint8_t *bytes)
{
	uint64_t end = KVC_RECORD_HEADER_BYTES + record->image_bytes;
	struct header header = {
	        .magic = RECORD_MAGIC,
	        .version = RECORD_VERSION,
	        .header_bytes = KVC_RECORD_HEADER_BYTES,
	        .tokens = record->tokens,
	        .depth = record->depth,
	        .segment = record->place.segment,
	        .page = record->place.page,
	        .flags = (record->copy ? RECORD_COPY : 0) | (record->ends ? RECORD_ENDS : 0) |
	                 (envelope ? RECORD_ENCRYPTED : 0),
	        .epoch = record->epoch,
	        .generation = record->generation,
	        .image_bytes = record->image_bytes,
	        .incarnation = record->incarnation,
	};

	KVC_PRE(record->image_bytes >= KVC_IMAGE_HEADER_BYTES);
	memcpy(header.device, record->device, sizeof header.device);
	memcpy(header.tenant, record->tenant, sizeof header.tenant);
	memcpy(header.key, record->key.bytes, sizeof header.key);
	memcpy(header.parent, record->parent.bytes, sizeof header.parent);
	memcpy(header.image_sum, bytes + KVC_RECORD_HEADER_BYTES + KVC_IMAGE_SUM_OFFSET,
	       sizeof header.image_sum);
	if (envelope) {
		memcpy(header.salt, envelope->salt, sizeof header.salt);
		memcpy(header.nonce, envelope->nonce, sizeof header.nonce);
		memcpy(header.tag, envelope->tag, sizeof header.tag);
	}
	header_checksum(&header, header.checksum);
	memcpy(bytes, &header, sizeof header);
	memset(bytes + end, 0, kvc_record_bytes(record->image_bytes) - end);
}

void kvc_record_seal(const struct kvc_record *record, uint8_t *bytes)
{
	seal(record, NULL, bytes);
}

void kvc_record_seal_encrypted(const struct kvc_record *record, const struct kvc_envelope *envelope,
                               uint8_t *bytes)
{
	seal(record, envelope, bytes);
}

void kvc_record_envelope(const uint8_t bytes[KVC_RECORD_HEADER_BYTES], struct kvc_envelope *envelope)
{
	memcpy(envelope->salt, bytes + offsetof(struct header, salt), sizeof envelope->salt);
	memcpy(envelope->nonce, bytes + offsetof(struct header, nonce), sizeof envelope->nonce);
	memcpy(envelope->tag, bytes + offsetof(struct header, tag), sizeof envelope->tag);
}

void kvc_record_identity(const uint8_t bytes[KVC_RECORD_HEADER_BYTES],
                         uint8_t identity[KVC_RECORD_IDENTITY_BYTES])
{
	const size_t before = offsetof(struct header, image_sum),
	             behind = offsetof(struct header, incarnation);

	memcpy(identity, bytes, before);
	memcpy(identity + before, bytes + behind, offsetof(struct header, tag) - behind);
}

/* Sizes that a record can have, whatever its checksum says. */
static bool sizes_hold(const struct header *header, uint64_t available)
{
	return header->header_bytes == KVC_RECORD_HEADER_BYTES &&
	       header->image_bytes >= KVC_IMAGE_HEADER_BYTES && header->image_bytes <= KVC_IMAGE_BYTES_MAX &&
	       kvc_record_bytes(header->image_bytes) <= available && header->tokens >= 1 &&
	       header->tokens <= KVC_TOKENS_MAX;
}

kvc_status kvc_record_parse(const uint8_t bytes[KVC_RECORD_HEADER_BYTES], uint64_t available,
                            struct kvc_record *record)
{
	struct header header;
	uint8_t checksum[16];

	memcpy(&header, bytes, sizeof header);
	if (memcmp(header.magic, RECORD_MAGIC, sizeof header.magic) != 0)
		return KVC_MISS;
	header_checksum(&header, checksum);
	if (memcmp(checksum, header.checksum, sizeof checksum) != 0 || header.version != RECORD_VERSION ||
	    !sizes_hold(&header, available))
		return KVC_CORRUPT;
	*record = (struct kvc_record){
	        .place = {.segment = header.segment, .page = header.page},
	        .epoch = header.epoch,
	        .generation = header.generation,
	        .image_bytes = header.image_bytes,
	        .tokens = header.tokens,
	        .depth = header.depth,
	        .copy = header.flags & RECORD_COPY,
	        .encrypted = header.flags & RECORD_ENCRYPTED,
	        .incarnation = header.incarnation,
	        .ends = header.flags & RECORD_ENDS,
	};
	memcpy(record->key.bytes, header.key, sizeof header.key);
	memcpy(record->parent.bytes, header.parent, sizeof header.parent);
	memcpy(record->tenant, header.tenant, sizeof header.tenant);
	memcpy(record->device, header.device, sizeof header.device);
	return KVC_OK;
}

/* Same block at the same place in the same life of the segment. The index keeps the low half of an epoch
 * only; a segment would have to be written 2^32 times for that to matter. */
static bool same_record(const struct kvc_record *a, const struct kvc_record *b)
{
	return kvc_storage_key_equal(&a->key, &b->key) && !memcmp(a->device, b->device, sizeof a->device) &&
	       a->place.segment == b->place.segment && a->place.page == b->place.page &&
	       (uint32_t)a->epoch == (uint32_t)b->epoch && a->image_bytes == b->image_bytes &&
	       a->tokens == b->tokens;
}

bool kvc_record_binds(const uint8_t *bytes)
{
	const uint8_t *image = bytes + KVC_RECORD_HEADER_BYTES;

	return !memcmp(image + KVC_IMAGE_SUM_OFFSET, bytes + offsetof(struct header, image_sum),
	               KVC_IMAGE_SUM_BYTES);
}

kvc_status kvc_record_match(const uint8_t *bytes, uint64_t length, const struct kvc_record *expected)
{
	struct kvc_record found;

	if (length < KVC_RECORD_HEADER_BYTES + KVC_IMAGE_HEADER_BYTES ||
	    kvc_record_parse(bytes, length, &found) != KVC_OK || !same_record(&found, expected) ||
	    !kvc_record_binds(bytes))
		return KVC_CORRUPT;
	return KVC_OK;
}
