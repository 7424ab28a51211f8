/* The summary of a segment: encoding, checks. See summary.h. */
#include "daemon/tier/summary.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/check.h"
#include "kernels/image.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define SUMMARY_MAGIC   0x314D555343564Bull /* "KVCSUM1" */
#define SUMMARY_VERSION 2u
#define ROW_COPY        1u
#define ROW_ENDS        2u

struct row {
	uint8_t key[KVC_STORAGE_KEY_BYTES];
	uint8_t parent[KVC_STORAGE_KEY_BYTES];
	uint8_t tenant[16];
	uint64_t generation;
	uint32_t image_bytes;
	uint32_t page;
	uint16_t tokens;
	uint16_t flags; /* ROW_COPY, ROW_ENDS; others: reserved, 0 */
	uint32_t depth;
	uint32_t incarnation; /* of the tenant */
} __attribute__((packed));

/* Frozen for all versions: magic, version and checksum. */
struct footer {
	uint64_t magic;
	uint32_t version;
	uint32_t pages;
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t epoch;
	uint64_t segment_bytes;
	uint64_t generation;
	uint32_t number;
	uint32_t count;
	uint32_t end_page;
	uint8_t zero[44];
	uint8_t sum[16]; /* XXH3-128 of all before, seeded with magic and version */
} __attribute__((packed));

static_assert(sizeof(struct row) == KVC_SUMMARY_ROW_BYTES, "on disk");
static_assert(sizeof(struct footer) == KVC_SUMMARY_FOOTER_BYTES, "on disk");
static_assert(KVC_IMAGE_BYTES_MAX <= UINT32_MAX, "an image's length fits a row");

uint32_t kvc_summary_pages(uint32_t count)
{
	uint64_t bytes = (uint64_t)count * KVC_SUMMARY_ROW_BYTES + KVC_SUMMARY_FOOTER_BYTES;

	return (uint32_t)((bytes + KVC_PAGE_BYTES - 1) / KVC_PAGE_BYTES);
}

uint32_t kvc_summary_capacity(uint32_t pages)
{
	uint64_t bytes = (uint64_t)pages * KVC_PAGE_BYTES;

	return bytes ? (uint32_t)((bytes - KVC_SUMMARY_FOOTER_BYTES) / KVC_SUMMARY_ROW_BYTES) : 0;
}

/* --- making --------------------------------------------------------------------------------------- */

void kvc_summary_put(uint8_t *bytes, uint32_t i, const struct kvc_record *record)
{
	struct row row = {
	        .generation = record->generation,
	        .image_bytes = (uint32_t)record->image_bytes,
	        .page = record->place.page,
	        .tokens = (uint16_t)record->tokens,
	        .flags = (uint16_t)((record->copy ? ROW_COPY : 0) | (record->ends ? ROW_ENDS : 0)),
	        .depth = record->depth,
	        .incarnation = record->incarnation,
	};

	KVC_PRE(record->image_bytes <= KVC_IMAGE_BYTES_MAX && record->tokens <= UINT16_MAX);
	memcpy(row.key, record->key.bytes, sizeof row.key);
	memcpy(row.parent, record->parent.bytes, sizeof row.parent);
	memcpy(row.tenant, record->tenant, sizeof row.tenant);
	memcpy(bytes + (size_t)i * sizeof row, &row, sizeof row);
}

static void sum_of(const uint8_t *bytes, uint32_t pages, const struct footer *footer, uint8_t sum[16])
{
	size_t covered = (size_t)pages * KVC_PAGE_BYTES - sizeof footer->sum;
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical,
	                         XXH3_128bits_withSeed(bytes, covered, footer->magic ^ footer->version));
	memcpy(sum, canonical.digest, sizeof footer->sum);
}

void kvc_summary_seal(uint8_t *bytes, const struct kvc_segment_header *segment, uint32_t count,
                      uint32_t end_page, uint64_t generation)
{
	uint32_t pages = kvc_summary_pages(count);
	size_t rows = (size_t)count * KVC_SUMMARY_ROW_BYTES;
	size_t end = (size_t)pages * KVC_PAGE_BYTES - sizeof(struct footer);
	struct footer footer = {
	        .magic = SUMMARY_MAGIC,
	        .version = SUMMARY_VERSION,
	        .pages = pages,
	        .epoch = segment->epoch,
	        .segment_bytes = segment->segment_bytes,
	        .generation = generation,
	        .number = segment->number,
	        .count = count,
	        .end_page = end_page,
	};

	memcpy(footer.instance, segment->instance, sizeof footer.instance);
	memset(bytes + rows, 0, end - rows);
	memcpy(bytes + end, &footer, sizeof footer);
	sum_of(bytes, pages, &footer, footer.sum);
	memcpy(bytes + end, &footer, sizeof footer);
}

/* --- reading -------------------------------------------------------------------------------------- */

static void footer_read(const uint8_t last[KVC_PAGE_BYTES], struct footer *footer)
{
	memcpy(footer, last + KVC_PAGE_BYTES - sizeof *footer, sizeof *footer);
}

static bool same_segment(const struct footer *footer, const struct kvc_segment_header *segment)
{
	return !memcmp(footer->instance, segment->instance, sizeof footer->instance) &&
	       footer->epoch == segment->epoch && footer->number == segment->number &&
	       footer->segment_bytes == segment->segment_bytes;
}

kvc_status kvc_summary_probe(const struct kvc_segment_header *segment, const uint8_t last[KVC_PAGE_BYTES],
                             uint32_t *pages)
{
	struct footer footer;

	footer_read(last, &footer);
	if (footer.magic != SUMMARY_MAGIC || footer.version != SUMMARY_VERSION ||
	    !same_segment(&footer, segment))
		return KVC_MISS;
	if (!footer.pages || footer.pages >= segment->segment_bytes / KVC_PAGE_BYTES)
		return KVC_CORRUPT;
	*pages = footer.pages;
	return KVC_OK;
}

static void row_read(const uint8_t *rows, uint32_t i, struct row *row)
{
	memcpy(row, rows + (size_t)i * sizeof *row, sizeof *row);
}

/* Whoever can write a checksum can write any number. */
static bool rows_hold(const uint8_t *bytes, const struct footer *footer)
{
	uint64_t limit = footer->segment_bytes / KVC_PAGE_BYTES;
	uint64_t page = 1; /* behind the segment's header */

	if (footer->end_page > limit)
		return false;
	for (uint32_t i = 0; i < footer->count; i++) {
		struct row row;

		row_read(bytes, i, &row);
		if (row.page < page || row.image_bytes < KVC_IMAGE_HEADER_BYTES ||
		    row.image_bytes > KVC_IMAGE_BYTES_MAX || row.tokens < 1 || row.tokens > KVC_TOKENS_MAX)
			return false;
		page = row.page + kvc_record_bytes(row.image_bytes) / KVC_RECORD_ALIGN;
	}
	return page <= footer->end_page;
}

kvc_status kvc_summary_open(const struct kvc_segment_header *segment, const uint8_t *bytes, uint32_t pages,
                            struct kvc_summary *summary)
{
	struct footer footer;
	uint8_t sum[16];

	KVC_PRE(pages > 0);
	footer_read(bytes + (size_t)(pages - 1) * KVC_PAGE_BYTES, &footer);
	if (footer.magic != SUMMARY_MAGIC || footer.version != SUMMARY_VERSION || footer.pages != pages)
		return KVC_CORRUPT;
	sum_of(bytes, pages, &footer, sum);
	if (memcmp(sum, footer.sum, sizeof sum) != 0 || footer.count > kvc_summary_capacity(pages))
		return KVC_CORRUPT;
	if (!same_segment(&footer, segment))
		return KVC_MISS;
	if (!rows_hold(bytes, &footer))
		return KVC_CORRUPT;
	*summary = (struct kvc_summary){
	        .segment = *segment,
	        .count = footer.count,
	        .end_page = footer.end_page,
	        .generation = footer.generation,
	        .rows = bytes,
	};
	return KVC_OK;
}

void kvc_summary_get(const struct kvc_summary *summary, uint32_t i, struct kvc_record *record)
{
	struct row row;

	KVC_PRE(i < summary->count);
	row_read(summary->rows, i, &row);
	*record = (struct kvc_record){
	        .place = {.segment = summary->segment.number, .page = row.page},
	        .epoch = summary->segment.epoch,
	        .generation = row.generation,
	        .image_bytes = row.image_bytes,
	        .tokens = row.tokens,
	        .depth = row.depth,
	        .copy = row.flags & ROW_COPY,
	        .incarnation = row.incarnation,
	        .ends = row.flags & ROW_ENDS,
	};
	memcpy(record->key.bytes, row.key, sizeof row.key);
	memcpy(record->parent.bytes, row.parent, sizeof row.parent);
	memcpy(record->tenant, row.tenant, sizeof row.tenant);
	memcpy(record->device, summary->segment.instance, sizeof record->device);
}
