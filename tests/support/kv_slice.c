/* The KV cache in tests/data. The sums are of what the scalar codec restored, after it had restored the whole
 * text of 2048 tokens to the sums of docs/codec.md. */
#include "tests/support/kv_slice.h"

#include <stdio.h>
#include <stdlib.h>

const struct kv_slice_case kv_slice_cases[KV_SLICE_CASES] = {
        {KVC_KIND_KEY,
         128,
         {.bits = 4, .group = 32, .centre = true, .rotate = true, .gain = true},
         "ef5edce6c75a75b8d9b67e07e52f756ffd8abeb125f0b4bf2494cd22865d563f"},
        {KVC_KIND_VALUE,
         128,
         {.bits = 2, .group = 64, .centre = true, .rotate = false, .gain = true},
         "582484040ac419ccbf0b19907b632d916c1ea0fcfc6089f0558b9bb4ece7355e"},
        {KVC_KIND_KEY,
         128,
         {.bits = 4, .group = 128, .centre = true, .rotate = true, .gain = true},
         "2682600bde713aa5016f7477b4b9f5be9d274006cc644cc8d6851b0f64f07067"},
        {KVC_KIND_VALUE,
         128,
         {.bits = 2, .group = 128, .centre = true, .rotate = true, .gain = true},
         "0ca3e317de616dd4855442158df77931fb3f0ce202bc9822d631b6429e8bd7d9"},
        {KVC_KIND_KEY,
         100,
         {.bits = 4, .group = 32, .centre = true, .rotate = true, .gain = true},
         "f309d852462041e20b4311639525714085be6bdf70c6048e8614e9ecae882989"},
        {KVC_KIND_VALUE,
         100,
         {.bits = 2, .group = 64, .centre = true, .rotate = false, .gain = true},
         "66e1374d44b7c10f0560e03869d1635a2dfca021b9e07877bebe9e76a68166a1"},
        {KVC_KIND_KEY,
         16,
         {.bits = 4, .group = 32, .centre = true, .rotate = true, .gain = true},
         "2083f51ed6c4267989a4305af79758f97051b68d85be023a9e9cb9ad93fce5c6"},
        {KVC_KIND_VALUE,
         16,
         {.bits = 2, .group = 64, .centre = true, .rotate = false, .gain = true},
         "33ad64af3d923285cd104a20b96c4de83ff0ede2c0c840fe52b279132258ffad"},
        {KVC_KIND_KEY,
         128,
         {.bits = 2, .group = 32, .centre = true, .rotate = true, .gain = true},
         "f46d689e4809b302ad3386c414350bcaa246c935f52d0174171e7b3001d6cc16"},
        {KVC_KIND_KEY,
         128,
         {.bits = 3, .group = 64, .centre = true, .rotate = true, .gain = true},
         "d7c980a88f832a1b663484e21dfa638e4791a861cdf54643e3f6493fd0d4e85c"},
        {KVC_KIND_KEY,
         128,
         {.bits = 8, .group = 32, .centre = true, .rotate = true, .gain = true},
         "05ff9ac7f7892d33fafea155aee4f1b1ee9c3fdb4070159e99fb9301ffc83db7"},
        {KVC_KIND_VALUE,
         128,
         {.bits = 4, .group = 64, .centre = true, .rotate = false, .gain = true},
         "70820601254885db960ec3f50509ab96447e1c5670cf2308a7258c0f5d0718db"},
};

void *kv_slice_load(enum kvc_kind kind)
{
	const char *path = kind == KVC_KIND_KEY ? "tests/data/keys.bf16" : "tests/data/values.bf16";
	void *bytes = malloc(KV_SLICE_BYTES);
	FILE *file = fopen(path, "rb");

	if (!bytes || !file || fread(bytes, 1, KV_SLICE_BYTES, file) != KV_SLICE_BYTES) {
		fprintf(stderr, "%s: cannot read %u bytes (run from the root of the repository)\n", path,
		        KV_SLICE_BYTES);
		exit(1);
	}
	fclose(file);
	return bytes;
}
