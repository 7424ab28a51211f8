/* The frozen part of a page, written down once more: magic, version, zero, checksum. */
#include "tests/support/super_version.h"

#include <string.h>
#include <xxhash.h>

void kvc_test_super_version(uint8_t page[KVC_PAGE_BYTES], uint32_t version)
{
	XXH128_canonical_t sum;
	uint64_t magic;

	memcpy(&magic, page, sizeof magic);
	memcpy(page + 8, &version, sizeof version);
	XXH128_canonicalFromHash(&sum,
	                         XXH3_128bits_withSeed(page + 32, KVC_PAGE_BYTES - 32, magic ^ version));
	memcpy(page + 16, sum.digest, sizeof sum.digest);
}
