/* Any bytes as the head of a checkpoint. Opening must stay in bounds, and what it accepts must be possible:
 * sections behind the head, apart, in order.
 *
 *   byte 0: bit 0: the checksum is set right first, so that what stands behind it is reached */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/tier/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_BYTES = KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES };

static void must(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "failed: %s\n", what);
	abort();
}

/* Bytes 16 to 31 cover all behind them, seeded with the 16 before. */
static void set_sum(uint8_t *bytes)
{
	XXH128_canonical_t sum;
	uint64_t magic;
	uint32_t version, count;

	memcpy(&magic, bytes, sizeof magic);
	memcpy(&version, bytes + 8, sizeof version);
	memcpy(&count, bytes + 12, sizeof count);
	XXH128_canonicalFromHash(&sum, XXH3_128bits_withSeed(bytes + 32, HEAD_BYTES - 32,
	                                                     magic ^ version ^ (uint64_t)count << 32));
	memcpy(bytes + 16, sum.digest, sizeof sum.digest);
}

static void head(const uint8_t *bytes)
{
	uint64_t page = KVC_CHECKPOINT_HEAD_PAGES;
	struct kvc_checkpoint checkpoint;

	if (kvc_checkpoint_open(bytes, &checkpoint) != KVC_OK)
		return;
	must(checkpoint.count <= KVC_CHECKPOINT_SECTIONS_MAX, "sections that fit the head");
	for (uint32_t i = 0; i < checkpoint.count; i++) {
		struct kvc_checkpoint_section section;

		kvc_checkpoint_get(bytes, i, &section);
		must(section.page >= page && section.pages > 0, "sections apart");
		page = (uint64_t)section.page + section.pages;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes;

	if (size < 1)
		return 0;
	bytes = calloc(1, HEAD_BYTES);
	if (!bytes)
		exit(1);
	memcpy(bytes, data + 1, size - 1 < HEAD_BYTES ? size - 1 : HEAD_BYTES);
	if (data[0] & 1)
		set_sum(bytes);
	head(bytes);
	free(bytes);
	return 0;
}
