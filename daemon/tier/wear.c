/* Wear: sums and their two pages. See wear.h. */
#include "daemon/tier/wear.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define WEAR_MAGIC   0x313041455743564Bull /* "KVCWEA01" */
#define WEAR_VERSION 1u

struct page {
	uint64_t magic;
	uint32_t version;
	uint32_t zero;
	uint8_t sum[16]; /* XXH3-128 of all behind it, seeded with magic and version */
	uint64_t sequence;
	uint64_t age_ms;
	uint64_t day_ms;
	uint64_t total_bytes;
	uint64_t today_bytes;
	uint64_t yesterday_bytes;
	struct kvc_tier_note note;
	uint8_t rest[3504]; /* 0 */
} __attribute__((packed));

static_assert(sizeof(struct page) == KVC_PAGE_BYTES, "one page");

void kvc_wear_add(struct kvc_wear *wear, uint64_t elapsed_ms, uint64_t bytes)
{
	uint64_t days;

	wear->age_ms += elapsed_ms;
	days = (wear->age_ms - wear->day_ms) / KVC_WEAR_DAY_MS;
	if (days) {
		wear->yesterday_bytes = days == 1 ? wear->today_bytes : 0;
		wear->today_bytes = 0;
		wear->day_ms += days * KVC_WEAR_DAY_MS;
	}
	wear->today_bytes += bytes;
	wear->total_bytes += bytes;
}

uint64_t kvc_wear_day_bytes(const struct kvc_wear *wear)
{
	uint64_t gone_ms = wear->age_ms - wear->day_ms;
	double left = (double)(KVC_WEAR_DAY_MS - gone_ms) / (double)KVC_WEAR_DAY_MS;

	return wear->today_bytes + (uint64_t)((double)wear->yesterday_bytes * left);
}

static void page_sum(const struct page *page, uint8_t sum[16])
{
	const uint8_t *bytes = (const uint8_t *)page;
	const size_t behind = offsetof(struct page, sequence);
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(bytes + behind, sizeof *page - behind,
	                                                           page->magic ^ page->version));
	memcpy(sum, canonical.digest, 16);
}

void kvc_wear_encode(const struct kvc_wear *wear, uint8_t bytes[KVC_PAGE_BYTES])
{
	struct page page = {
	        .magic = WEAR_MAGIC,
	        .version = WEAR_VERSION,
	        .sequence = wear->sequence,
	        .age_ms = wear->age_ms,
	        .day_ms = wear->day_ms,
	        .total_bytes = wear->total_bytes,
	        .today_bytes = wear->today_bytes,
	        .yesterday_bytes = wear->yesterday_bytes,
	        .note = wear->note,
	};

	page_sum(&page, page.sum);
	memcpy(bytes, &page, sizeof page);
}

static bool page_sound(const struct page *page)
{
	uint8_t sum[16];

	page_sum(page, sum);
	return page->magic == WEAR_MAGIC && page->version == WEAR_VERSION && !page->zero &&
	       !memcmp(sum, page->sum, sizeof sum) && page->day_ms <= page->age_ms &&
	       page->age_ms - page->day_ms < KVC_WEAR_DAY_MS && page->age_ms < UINT64_MAX / 2;
}

kvc_status kvc_wear_decode(const uint8_t slots[KVC_WEAR_SLOTS * KVC_PAGE_BYTES], struct kvc_wear *wear)
{
	kvc_status status = KVC_CORRUPT;

	for (uint32_t i = 0; i < KVC_WEAR_SLOTS; i++) {
		struct page page;

		memcpy(&page, slots + i * KVC_PAGE_BYTES, sizeof page);
		if (!page_sound(&page) || (status == KVC_OK && page.sequence <= wear->sequence))
			continue;
		*wear = (struct kvc_wear){
		        .sequence = page.sequence,
		        .age_ms = page.age_ms,
		        .day_ms = page.day_ms,
		        .total_bytes = page.total_bytes,
		        .today_bytes = page.today_bytes,
		        .yesterday_bytes = page.yesterday_bytes,
		        .note = page.note,
		};
		status = KVC_OK;
	}
	return status;
}
