/* Any bytes as a summary, in a segment or in a checkpoint. Opening must stay in bounds, and what it accepts
 * must be possible: records in order, apart, inside the segment.
 *
 *   byte 0: bit 0: the checksum is set right first, so that what stands behind it is reached */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/tier/summary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

/* The last 16 bytes cover all before, seeded with the first 12 bytes of the footer. */
static void set_sum(uint8_t *bytes, size_t size)
{
	const uint8_t *footer = bytes + size - KVC_SUMMARY_FOOTER_BYTES;
	XXH128_canonical_t sum;
	uint64_t magic;
	uint32_t version;

	memcpy(&magic, footer, sizeof magic);
	memcpy(&version, footer + 8, sizeof version);
	XXH128_canonicalFromHash(&sum, XXH3_128bits_withSeed(bytes, size - 16, magic ^ version));
	memcpy(bytes + size - 16, sum.digest, sizeof sum.digest);
}

static void summary(const uint8_t *bytes, uint32_t pages)
{
	struct kvc_segment_header header = {.number = 3, .epoch = 99, .segment_bytes = 1 << 20};
	uint64_t page = 1;
	struct kvc_summary opened;
	uint32_t probed;

	memset(header.instance, 0x44, sizeof header.instance);
	if (kvc_summary_probe(&header, bytes + (size_t)(pages - 1) * KVC_PAGE_BYTES, &probed) == KVC_OK)
		must(probed > 0 && probed < 256, "pages that a segment has");
	if (kvc_summary_open(&header, bytes, pages, &opened) != KVC_OK)
		return;
	must(opened.end_page <= 256, "an end in the segment");
	for (uint32_t i = 0; i < opened.count; i++) {
		struct kvc_record record;

		kvc_summary_get(&opened, i, &record);
		must(record.place.page >= page, "records apart");
		page = record.place.page + kvc_record_bytes(record.image_bytes) / KVC_PAGE_BYTES;
	}
	must(page <= opened.end_page, "records before the end");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t pages = size > 1 ? (size - 1 + KVC_PAGE_BYTES - 1) / KVC_PAGE_BYTES : 0;
	uint8_t *bytes;

	if (!pages || pages > 64)
		return 0;
	bytes = calloc(pages, KVC_PAGE_BYTES);
	if (!bytes)
		exit(1);
	/* What there is stands at the end, where the footer is. */
	memcpy(bytes + pages * KVC_PAGE_BYTES - (size - 1), data + 1, size - 1);
	if (data[0] & 1)
		set_sum(bytes, pages * KVC_PAGE_BYTES);
	summary(bytes, (uint32_t)pages);
	free(bytes);
	return 0;
}
