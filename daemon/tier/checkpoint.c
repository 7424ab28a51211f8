/* The head of a checkpoint: encoding, checks. See checkpoint.h. */
#include "daemon/tier/checkpoint.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/check.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes at rest");

#define CHECKPOINT_MAGIC   0x313054504B43564Bull /* "KVCKPT01" */
#define CHECKPOINT_VERSION 2u

/* Frozen for all versions: magic, version and checksum, over this many pages. */
struct head {
	uint64_t magic;
	uint32_t version;
	uint32_t count;
	uint8_t sum[16]; /* XXH3-128 of all of the head behind it, seeded with magic, version and count */
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t sequence;
	uint64_t segment_bytes;
	uint64_t generation;
	uint8_t zero[56];
} __attribute__((packed));

struct entry {
	uint64_t epoch;
	uint32_t number;
	uint32_t page;
	uint32_t pages;
	uint32_t zero;
} __attribute__((packed));

static_assert(sizeof(struct head) == 128, "on disk");
static_assert(sizeof(struct entry) == 24, "on disk");
static_assert(sizeof(struct head) + KVC_CHECKPOINT_SECTIONS_MAX * sizeof(struct entry) <=
                      (size_t)KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES,
              "the head holds its table");

enum { HEAD_BYTES = (int)(KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES) };

static void head_sum(const uint8_t *bytes, const struct head *head, uint8_t sum[16])
{
	const size_t behind = offsetof(struct head, instance);
	uint64_t seed = head->magic ^ head->version ^ (uint64_t)head->count << 32;
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical,
	                         XXH3_128bits_withSeed(bytes + behind, HEAD_BYTES - behind, seed));
	memcpy(sum, canonical.digest, 16);
}

void kvc_checkpoint_put(uint8_t *head, uint32_t i, const struct kvc_checkpoint_section *section)
{
	struct entry entry = {
	        .epoch = section->epoch,
	        .number = section->number,
	        .page = section->page,
	        .pages = section->pages,
	};

	KVC_PRE(i < KVC_CHECKPOINT_SECTIONS_MAX);
	memcpy(head + sizeof(struct head) + i * sizeof entry, &entry, sizeof entry);
}

void kvc_checkpoint_seal(uint8_t *bytes, const struct kvc_checkpoint *checkpoint)
{
	size_t used = sizeof(struct head) + checkpoint->count * sizeof(struct entry);
	struct head head = {
	        .magic = CHECKPOINT_MAGIC,
	        .version = CHECKPOINT_VERSION,
	        .count = checkpoint->count,
	        .sequence = checkpoint->sequence,
	        .segment_bytes = checkpoint->segment_bytes,
	        .generation = checkpoint->generation,
	};

	KVC_PRE(checkpoint->count <= KVC_CHECKPOINT_SECTIONS_MAX);
	memcpy(head.instance, checkpoint->instance, sizeof head.instance);
	memset(bytes + used, 0, HEAD_BYTES - used);
	memcpy(bytes, &head, sizeof head);
	head_sum(bytes, &head, head.sum);
	memcpy(bytes, &head, sizeof head);
}

void kvc_checkpoint_get(const uint8_t *head, uint32_t i, struct kvc_checkpoint_section *section)
{
	struct entry entry;

	KVC_PRE(i < KVC_CHECKPOINT_SECTIONS_MAX);
	memcpy(&entry, head + sizeof(struct head) + i * sizeof entry, sizeof entry);
	*section = (struct kvc_checkpoint_section){
	        .epoch = entry.epoch,
	        .number = entry.number,
	        .page = entry.page,
	        .pages = entry.pages,
	};
}

/* Sections behind the head, one behind the other. Whoever can write a checksum can write any number. */
static bool sections_hold(const uint8_t *bytes, const struct head *head)
{
	uint64_t page = KVC_CHECKPOINT_HEAD_PAGES;

	for (uint32_t i = 0; i < head->count; i++) {
		struct kvc_checkpoint_section section;

		kvc_checkpoint_get(bytes, i, &section);
		if (section.page < page || !section.pages ||
		    section.pages >= head->segment_bytes / KVC_PAGE_BYTES)
			return false;
		page = (uint64_t)section.page + section.pages;
	}
	return page <= UINT32_MAX;
}

kvc_status kvc_checkpoint_open(const uint8_t *bytes, struct kvc_checkpoint *checkpoint)
{
	struct head head;
	uint8_t sum[16];

	memcpy(&head, bytes, sizeof head);
	if (head.magic != CHECKPOINT_MAGIC)
		return KVC_MISS;
	head_sum(bytes, &head, sum);
	if (memcmp(sum, head.sum, sizeof sum) != 0)
		return KVC_CORRUPT;
	if (head.version != CHECKPOINT_VERSION)
		return KVC_VERSION;
	if (head.count > KVC_CHECKPOINT_SECTIONS_MAX || !sections_hold(bytes, &head))
		return KVC_CORRUPT;
	*checkpoint = (struct kvc_checkpoint){
	        .sequence = head.sequence,
	        .segment_bytes = head.segment_bytes,
	        .generation = head.generation,
	        .count = head.count,
	};
	memcpy(checkpoint->instance, head.instance, sizeof checkpoint->instance);
	return KVC_OK;
}
