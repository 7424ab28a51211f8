/* The page of crashes: encoding, checks. See crashes.h. */
#include "daemon/tier/crashes.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define CRASHES_MAGIC   0x313048524343564Bull /* "KVCCRH01" */
#define CRASHES_VERSION 1u

struct entry {
	uint64_t epoch;
	uint32_t number;
	uint32_t times;
} __attribute__((packed));

struct page {
	uint64_t magic;
	uint32_t version;
	uint32_t count;
	uint8_t sum[16]; /* XXH3-128 of all behind it, seeded with magic, version and count */
	uint8_t instance[KVC_INSTANCE_BYTES];
	struct entry entries[KVC_CRASHES_MAX];
	uint8_t zero[3024];
} __attribute__((packed));

static_assert(sizeof(struct page) == KVC_PAGE_BYTES, "one page");

static void page_sum(const struct page *page, uint8_t sum[16])
{
	const uint8_t *bytes = (const uint8_t *)page;
	const size_t behind = offsetof(struct page, instance);
	uint64_t seed = page->magic ^ page->version ^ (uint64_t)page->count << 32;
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical,
	                         XXH3_128bits_withSeed(bytes + behind, sizeof *page - behind, seed));
	memcpy(sum, canonical.digest, 16);
}

void kvc_crashes_encode(const struct kvc_crashes *crashes, uint8_t bytes[KVC_PAGE_BYTES])
{
	struct page page = {
	        .magic = CRASHES_MAGIC,
	        .version = CRASHES_VERSION,
	        .count = crashes->count,
	};

	memcpy(page.instance, crashes->instance, sizeof page.instance);
	for (uint32_t i = 0; i < crashes->count; i++)
		page.entries[i] = (struct entry){
		        .epoch = crashes->of[i].epoch,
		        .number = crashes->of[i].number,
		        .times = crashes->of[i].times,
		};
	page_sum(&page, page.sum);
	memcpy(bytes, &page, sizeof page);
}

kvc_status kvc_crashes_decode(const uint8_t bytes[KVC_PAGE_BYTES], struct kvc_crashes *crashes)
{
	struct page page;
	uint8_t sum[16];

	memcpy(&page, bytes, sizeof page);
	page_sum(&page, sum);
	if (page.magic != CRASHES_MAGIC || page.version != CRASHES_VERSION || page.count > KVC_CRASHES_MAX ||
	    memcmp(sum, page.sum, sizeof sum) != 0)
		return KVC_CORRUPT;
	*crashes = (struct kvc_crashes){.count = page.count};
	memcpy(crashes->instance, page.instance, sizeof crashes->instance);
	for (uint32_t i = 0; i < page.count; i++)
		crashes->of[i] = (struct kvc_crash){
		        .epoch = page.entries[i].epoch,
		        .number = page.entries[i].number,
		        .times = page.entries[i].times,
		};
	return KVC_OK;
}

static uint32_t find(const struct kvc_crashes *crashes, uint32_t number, uint64_t epoch)
{
	uint32_t i = 0;

	while (i < crashes->count && (crashes->of[i].number != number || crashes->of[i].epoch != epoch))
		i++;
	return i;
}

uint32_t kvc_crashes_times(const struct kvc_crashes *crashes, uint32_t number, uint64_t epoch)
{
	uint32_t i = find(crashes, number, epoch);

	return i < crashes->count ? crashes->of[i].times : 0;
}

void kvc_crashes_add(struct kvc_crashes *crashes, uint32_t number, uint64_t epoch)
{
	uint32_t i = find(crashes, number, epoch);

	if (i < crashes->count) {
		crashes->of[i].times++;
		return;
	}
	if (crashes->count == KVC_CRASHES_MAX)
		memmove(crashes->of, crashes->of + 1, --crashes->count * sizeof crashes->of[0]);
	crashes->of[crashes->count++] = (struct kvc_crash){.epoch = epoch, .number = number, .times = 1};
}
