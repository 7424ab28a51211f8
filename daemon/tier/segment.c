/* Superblock and segment header: encoding, decoding, and what a scan of a segment accepts. */
#include "daemon/tier/segment.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/check.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define SUPER_MAGIC   0x313050555343564Bull /* "KVCSUP01" */
#define SEGMENT_MAGIC 0x313047455343564Bull /* "KVCSEG01" */

/* Of a directory. 2: sealed segments end with a summary. 3: summaries and checkpoints know every record's
 * tenant and its incarnation. A directory of an older version is taken over: what it lacks is found by a
 * scan. */
#define SUPER_VERSION   3u
#define SEGMENT_VERSION 1u /* of a segment's header */

/* What every page begins with, in all versions. */
struct page_prefix {
	uint64_t magic;
	uint32_t version;
	uint32_t zero;
	uint8_t sum[16]; /* XXH3-128 of the page behind the prefix, then of magic and version */
} __attribute__((packed));

struct super_page {
	struct page_prefix prefix;
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t sequence;
	uint64_t segment_bytes;
	uint64_t epoch_limit;
	uint8_t zero[4024];
} __attribute__((packed));

struct segment_page {
	struct page_prefix prefix;
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint32_t number;
	uint32_t zero_number;
	uint64_t epoch;
	uint64_t segment_bytes;
	uint8_t zero[4024];
} __attribute__((packed));

static_assert(sizeof(struct page_prefix) == 32, "frozen");
static_assert(sizeof(struct super_page) == KVC_PAGE_BYTES, "one page");
static_assert(sizeof(struct segment_page) == KVC_PAGE_BYTES, "one page");

static void page_sum(const uint8_t page[KVC_PAGE_BYTES], uint8_t sum[16])
{
	const size_t prefix = sizeof(struct page_prefix);
	XXH128_canonical_t canonical;
	uint64_t magic;
	uint32_t version;

	memcpy(&magic, page + offsetof(struct page_prefix, magic), sizeof magic);
	memcpy(&version, page + offsetof(struct page_prefix, version), sizeof version);
	XXH128_canonicalFromHash(
	        &canonical, XXH3_128bits_withSeed(page + prefix, KVC_PAGE_BYTES - prefix, magic ^ version));
	memcpy(sum, canonical.digest, 16);
}

static void page_seal(uint8_t page[KVC_PAGE_BYTES], uint64_t magic, uint32_t version)
{
	struct page_prefix prefix = {.magic = magic, .version = version};

	memcpy(page, &prefix, sizeof prefix);
	page_sum(page, prefix.sum);
	memcpy(page, &prefix, sizeof prefix);
}

/* KVC_VERSION: sound, but of a newer version. */
static kvc_status page_check(const uint8_t page[KVC_PAGE_BYTES], uint64_t magic, uint32_t version)
{
	struct page_prefix prefix;
	uint8_t sum[16];

	memcpy(&prefix, page, sizeof prefix);
	page_sum(page, sum);
	if (prefix.magic != magic || prefix.zero || memcmp(sum, prefix.sum, sizeof sum))
		return KVC_CORRUPT;
	return prefix.version >= 1 && prefix.version <= version ? KVC_OK : KVC_VERSION;
}

/* --- superblock ----------------------------------------------------------------------------------- */

void kvc_super_encode(const struct kvc_super *super, uint8_t page[KVC_PAGE_BYTES])
{
	struct super_page image = {
	        .sequence = super->sequence,
	        .segment_bytes = super->segment_bytes,
	        .epoch_limit = super->epoch_limit,
	};

	memcpy(image.instance, super->instance, sizeof image.instance);
	memcpy(page, &image, sizeof image);
	page_seal(page, SUPER_MAGIC, SUPER_VERSION);
}

static void super_read(const uint8_t page[KVC_PAGE_BYTES], struct kvc_super *super)
{
	struct super_page image;

	memcpy(&image, page, sizeof image);
	memcpy(super->instance, image.instance, sizeof super->instance);
	super->sequence = image.sequence;
	super->segment_bytes = image.segment_bytes;
	super->epoch_limit = image.epoch_limit;
	super->version = image.prefix.version;
}

/* Whoever can write a checksum can write any number. */
static bool super_plausible(const struct kvc_super *super)
{
	return super->segment_bytes > 0 && super->segment_bytes % KVC_PAGE_BYTES == 0 &&
	       super->epoch_limit > 0 && super->epoch_limit < UINT64_MAX / 2;
}

kvc_status kvc_super_decode(const uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES], struct kvc_super *super)
{
	kvc_status status = KVC_CORRUPT;
	struct kvc_super newest = {.sequence = 0}, one;

	for (uint32_t i = 0; i < KVC_SUPER_SLOTS; i++) {
		const uint8_t *page = slots + i * KVC_PAGE_BYTES;
		kvc_status sound = page_check(page, SUPER_MAGIC, SUPER_VERSION);

		if (sound == KVC_VERSION)
			return KVC_VERSION;
		if (sound != KVC_OK)
			continue;
		super_read(page, &one);
		if (!super_plausible(&one) || (status == KVC_OK && one.sequence <= newest.sequence))
			continue;
		newest = one;
		status = KVC_OK;
	}
	if (status == KVC_OK)
		*super = newest;
	return status;
}

uint32_t kvc_super_slot(uint64_t sequence)
{
	return (uint32_t)(sequence % KVC_SUPER_SLOTS);
}

/* --- segment header ------------------------------------------------------------------------------- */

void kvc_segment_header_encode(const struct kvc_segment_header *header, uint8_t page[KVC_PAGE_BYTES])
{
	struct segment_page image = {
	        .number = header->number,
	        .epoch = header->epoch,
	        .segment_bytes = header->segment_bytes,
	};

	memcpy(image.instance, header->instance, sizeof image.instance);
	memcpy(page, &image, sizeof image);
	page_seal(page, SEGMENT_MAGIC, SEGMENT_VERSION);
}

kvc_status kvc_segment_header_decode(const uint8_t page[KVC_PAGE_BYTES], struct kvc_segment_header *header)
{
	struct segment_page image;

	if (page_check(page, SEGMENT_MAGIC, SEGMENT_VERSION) != KVC_OK)
		return KVC_CORRUPT;
	memcpy(&image, page, sizeof image);
	if (!image.epoch || image.epoch > KVC_EPOCH_MAX)
		return KVC_CORRUPT;
	memcpy(header->instance, image.instance, sizeof header->instance);
	header->number = image.number;
	header->epoch = image.epoch;
	header->segment_bytes = image.segment_bytes;
	return KVC_OK;
}

kvc_status kvc_segment_accept(const struct kvc_segment_header *header, uint32_t page,
                              const uint8_t bytes[KVC_PAGE_BYTES], struct kvc_record *record)
{
	uint64_t offset = (uint64_t)page * KVC_RECORD_ALIGN;
	struct kvc_record found;
	kvc_status status;

	KVC_PRE(page > 0);
	if (offset >= header->segment_bytes)
		return KVC_MISS;
	status = kvc_record_parse(bytes, header->segment_bytes - offset, &found);
	if (status)
		return status;
	if (memcmp(found.device, header->instance, sizeof found.device) || found.epoch != header->epoch)
		return KVC_MISS; /* what the segment held before */
	if (found.place.segment != header->number || found.place.page != page || !kvc_record_binds(bytes))
		return KVC_CORRUPT;
	*record = found;
	return KVC_OK;
}
