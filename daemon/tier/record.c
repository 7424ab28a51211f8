/* The record header: packed, little-endian, checksummed with XXH3-128 over all that comes before the sum.
 *
 * Pure functions over borrowed bytes. */
#include "daemon/tier/record.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/check.h"
#include "daemon/base/checked.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define RECORD_MAGIC   0x313043455243564Bull /* "KVCREC01" */
#define RECORD_VERSION 1u

/* The image's first bytes, its own checksummed header, are what binds it to the record. */
#define IMAGE_BOUND_BYTES 256u

struct record_header {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes;
	uint8_t key[KVC_STORAGE_KEY_BYTES];
	uint8_t parent[KVC_STORAGE_KEY_BYTES];
	uint8_t tenant[16];
	uint8_t device[16];
	uint32_t segment;
	uint32_t page;
	uint64_t epoch;
	uint64_t generation;
	uint64_t image_bytes;
	uint32_t tokens;
	uint32_t depth;
	uint8_t image_sum[16]; /* of the image's first IMAGE_BOUND_BYTES, or of all of a shorter one */
	uint8_t zero[328];
	uint8_t sum[16];
} __attribute__((packed));

static_assert(sizeof(struct record_header) == KVC_RECORD_HEADER_BYTES, "header size is part of the format");
static_assert(offsetof(struct record_header, sum) == KVC_RECORD_HEADER_BYTES - 16, "the sum comes last");

static void sum_of(const void *bytes, size_t length, uint8_t sum[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
	memcpy(sum, canonical.digest, 16);
}

static void header_sum(const struct record_header *header, uint8_t sum[16])
{
	sum_of(header, offsetof(struct record_header, sum), sum);
}

static void image_sum(const uint8_t *image, uint64_t image_bytes, uint8_t sum[16])
{
	sum_of(image, image_bytes < IMAGE_BOUND_BYTES ? image_bytes : IMAGE_BOUND_BYTES, sum);
}

uint64_t kvc_record_bytes(uint64_t image_bytes)
{
	KVC_PRE(image_bytes < UINT64_MAX / 2);
	return kvc_round_up(KVC_RECORD_HEADER_BYTES + image_bytes, KVC_RECORD_ALIGN);
}

void kvc_record_seal(const struct kvc_record *record, uint8_t *bytes)
{
	struct record_header header = {
	        .magic = RECORD_MAGIC,
	        .version = RECORD_VERSION,
	        .header_bytes = KVC_RECORD_HEADER_BYTES,
	        .segment = record->place.segment,
	        .page = record->place.page,
	        .epoch = record->epoch,
	        .generation = record->generation,
	        .image_bytes = record->image_bytes,
	        .tokens = record->tokens,
	        .depth = record->depth,
	};
	uint64_t used = KVC_RECORD_HEADER_BYTES + record->image_bytes;

	memcpy(header.key, record->key.bytes, sizeof header.key);
	memcpy(header.parent, record->parent.bytes, sizeof header.parent);
	memcpy(header.tenant, record->tenant, sizeof header.tenant);
	memcpy(header.device, record->device, sizeof header.device);
	image_sum(bytes + KVC_RECORD_HEADER_BYTES, record->image_bytes, header.image_sum);
	header_sum(&header, header.sum);
	memcpy(bytes, &header, sizeof header);
	memset(bytes + used, 0, kvc_record_bytes(record->image_bytes) - used);
}

static bool header_sound(const struct record_header *header, uint64_t available)
{
	static const uint8_t zero[sizeof header->zero];
	uint8_t sum[16];

	header_sum(header, sum);
	return !memcmp(sum, header->sum, sizeof sum) && header->version == RECORD_VERSION &&
	       header->header_bytes == KVC_RECORD_HEADER_BYTES && !memcmp(header->zero, zero, sizeof zero) &&
	       header->image_bytes > 0 && header->image_bytes <= available &&
	       kvc_record_bytes(header->image_bytes) <= available;
}

kvc_status kvc_record_parse(const uint8_t bytes[KVC_RECORD_HEADER_BYTES], uint64_t available,
                            struct kvc_record *record)
{
	struct record_header header;

	memcpy(&header, bytes, sizeof header);
	if (header.magic != RECORD_MAGIC)
		return KVC_MISS;
	if (!header_sound(&header, available))
		return KVC_CORRUPT;
	memcpy(record->key.bytes, header.key, sizeof header.key);
	memcpy(record->parent.bytes, header.parent, sizeof header.parent);
	memcpy(record->tenant, header.tenant, sizeof header.tenant);
	memcpy(record->device, header.device, sizeof header.device);
	record->place = (struct kvc_place){header.segment, header.page};
	record->epoch = header.epoch;
	record->generation = header.generation;
	record->image_bytes = header.image_bytes;
	record->tokens = header.tokens;
	record->depth = header.depth;
	return KVC_OK;
}

bool kvc_record_binds(const uint8_t *bytes)
{
	struct record_header header;
	uint8_t sum[16];

	memcpy(&header, bytes, sizeof header);
	image_sum(bytes + KVC_RECORD_HEADER_BYTES, header.image_bytes, sum);
	return !memcmp(sum, header.image_sum, sizeof sum);
}

static bool same_record(const struct kvc_record *a, const struct kvc_record *expected)
{
	return kvc_storage_key_equal(&a->key, &expected->key) &&
	       !memcmp(a->device, expected->device, sizeof a->device) &&
	       a->place.segment == expected->place.segment && a->place.page == expected->place.page &&
	       a->epoch == expected->epoch && a->image_bytes == expected->image_bytes &&
	       (!expected->generation || a->generation == expected->generation);
}

kvc_status kvc_record_match(const uint8_t *bytes, uint64_t length, const struct kvc_record *expected)
{
	struct kvc_record record;

	KVC_PRE(length >= KVC_RECORD_ALIGN);
	if (kvc_record_parse(bytes, length, &record) || !same_record(&record, expected) ||
	    !kvc_record_binds(bytes))
		return KVC_CORRUPT;
	return KVC_OK;
}
