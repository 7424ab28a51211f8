/* Any bytes as what rests in a disk tier's directory: superblocks, a segment's header, its records. Decoding
 * must stay in bounds, and what it accepts must be possible.
 *
 *   byte 0: bit 0: superblocks; bit 2: the list of crashes; bit 3: wear; bit 4: a keyring; else a segment;
 * bit 1: checksums of records and keyrings are set right first, so that what stands behind them is reached */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/tier/crashes.h"
#include "daemon/tier/keyring.h"
#include "daemon/tier/record.h"
#include "daemon/tier/segment.h"
#include "daemon/tier/wear.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SUM_OFFSET = 496 }; /* of a record's header checksum, which covers all before */

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

/* A copy that ends where its memory ends, padded with zeros. */
static uint8_t *copy(const uint8_t *data, size_t size, size_t bytes)
{
	uint8_t *exact = calloc(1, bytes);

	if (!exact)
		exit(1);
	memcpy(exact, data, size < bytes ? size : bytes);
	return exact;
}

static void supers(const uint8_t *data, size_t size)
{
	uint8_t *slots = copy(data, size, KVC_SUPER_SLOTS * KVC_PAGE_BYTES);
	struct kvc_super super;

	if (kvc_super_decode(slots, &super) == KVC_OK)
		must(super.segment_bytes > 0 && super.epoch_limit > 0, "a plausible superblock");
	free(slots);
}

/* Bytes 16 to 31 cover all behind them, seeded with the 16 before. */
static void crashes(const uint8_t *data, size_t size, bool trusted)
{
	uint8_t *page = copy(data, size, KVC_PAGE_BYTES);
	struct kvc_crashes list;
	XXH128_canonical_t sum;
	uint64_t magic;
	uint32_t version, count;

	memcpy(&magic, page, sizeof magic);
	memcpy(&version, page + 8, sizeof version);
	memcpy(&count, page + 12, sizeof count);
	XXH128_canonicalFromHash(&sum, XXH3_128bits_withSeed(page + 32, KVC_PAGE_BYTES - 32,
	                                                     magic ^ version ^ (uint64_t)count << 32));
	if (trusted)
		memcpy(page + 16, sum.digest, sizeof sum.digest);
	if (kvc_crashes_decode(page, &list) == KVC_OK) {
		must(list.count <= KVC_CRASHES_MAX, "a list that fits");
		for (uint32_t i = 0; i < 2 * KVC_CRASHES_MAX; i++)
			kvc_crashes_add(&list, i, i);
		must(list.count == KVC_CRASHES_MAX, "a list that stays in its bounds");
	}
	free(page);
}

static void wear(const uint8_t *data, size_t size)
{
	uint8_t *slots = copy(data, size, KVC_WEAR_SLOTS * KVC_PAGE_BYTES);
	struct kvc_wear wear;

	if (kvc_wear_decode(slots, &wear) == KVC_OK) {
		kvc_wear_add(&wear, 1, 1);
		must(wear.age_ms - wear.day_ms < KVC_WEAR_DAY_MS, "a day that is not over");
	}
	free(slots);
}

/* Bytes 16 to 31 cover all behind them, of as many pages as the rows take. */
static void keyring_sum(uint8_t *bytes, uint32_t pages)
{
	XXH128_canonical_t sum;
	uint64_t magic;
	uint32_t version, count;

	memcpy(&magic, bytes, sizeof magic);
	memcpy(&version, bytes + 8, sizeof version);
	memcpy(&count, bytes + 12, sizeof count);
	if (count > KVC_KEYRING_TENANTS_MAX || kvc_keyring_pages(count) > pages)
		return;
	XXH128_canonicalFromHash(&sum,
	                         XXH3_128bits_withSeed(bytes + 32,
	                                               (size_t)kvc_keyring_pages(count) * KVC_PAGE_BYTES - 32,
	                                               magic ^ version ^ (uint64_t)count << 32));
	memcpy(bytes + 16, sum.digest, sizeof sum.digest);
}

static void keyring(const uint8_t *data, size_t size, bool trusted)
{
	uint32_t pages = (uint32_t)((size + KVC_PAGE_BYTES - 1) / KVC_PAGE_BYTES);
	struct kvc_keyring ring;
	uint8_t *bytes;

	if (!pages || pages > 64)
		return;
	bytes = copy(data, size, (size_t)pages * KVC_PAGE_BYTES);
	if (trusted)
		keyring_sum(bytes, pages);
	if (kvc_keyring_decode(bytes, pages, &ring) == KVC_OK) {
		for (uint32_t i = 0; i < ring.count; i++)
			must(kvc_keyring_find(&ring, ring.rows[i].tenant) == &ring.rows[i],
			     "each tenant once");
		kvc_keyring_free(&ring);
	}
	free(bytes);
}

static void set_sum(uint8_t *page)
{
	XXH128_hash_t sum = XXH3_128bits(page, SUM_OFFSET);

	memcpy(page + SUM_OFFSET, &sum.low64, 8);
	memcpy(page + SUM_OFFSET + 8, &sum.high64, 8);
}

/* Hop from record to record as the scan at start does. */
static void segment(const uint8_t *data, size_t size, bool trusted)
{
	uint32_t pages = (uint32_t)(size / KVC_PAGE_BYTES);
	struct kvc_segment_header header = {.number = 3, .epoch = 99};
	uint32_t page = 1;

	if (pages < 2)
		return;
	if (kvc_segment_header_decode(data, &header) != KVC_OK)
		memset(header.instance, 0x44, sizeof header.instance);
	header.segment_bytes = (uint64_t)pages * KVC_PAGE_BYTES;
	while (page < pages) {
		uint8_t *bytes = copy(data + (size_t)page * KVC_PAGE_BYTES, KVC_PAGE_BYTES, KVC_PAGE_BYTES);
		struct kvc_record record;
		kvc_status status;

		if (trusted)
			set_sum(bytes);
		status = kvc_segment_accept(&header, page, bytes, &record);
		free(bytes);
		if (status != KVC_OK)
			break;
		must(record.place.page == page && record.epoch == header.epoch, "a record of this place");
		must(kvc_record_bytes(record.image_bytes) <= (uint64_t)(pages - page) * KVC_PAGE_BYTES,
		     "a record that ends in its segment");
		page += (uint32_t)(kvc_record_bytes(record.image_bytes) / KVC_PAGE_BYTES);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	if (data[0] & 16)
		keyring(data + 1, size - 1, data[0] & 2);
	else if (data[0] & 8)
		wear(data + 1, size - 1);
	else if (data[0] & 4)
		crashes(data + 1, size - 1, data[0] & 2);
	else if (data[0] & 1)
		supers(data + 1, size - 1);
	else
		segment(data + 1, size - 1, data[0] & 2);
	return 0;
}
