/* The table of named codec settings. */
#include "kernels/preset.h"

#include <string.h>

struct preset {
	const char *name;
	struct kvc_codec_params key;
	struct kvc_codec_params value;
};

/* The first is the default. clip 0: the format's table. */
static const struct preset presets[] = {
        {
                .name = "quality",
                .key = {.bits = 4, .group = 32, .centre = true, .rotate = true, .gain = true},
                .value = {.bits = 2, .group = 64, .centre = true, .gain = true},
        },
        {
                .name = "compact",
                .key = {.bits = 4, .group = 128, .centre = true, .rotate = true, .gain = true},
                .value = {.bits = 2, .group = 128, .centre = true, .rotate = true, .gain = true},
        },
        {
                .name = "plain", /* the recipe as published: min/max, keys rotated */
                .key = {.bits = 4, .group = 32, .rotate = true, .clip = 1.0f},
                .value = {.bits = 2, .group = 64, .clip = 1.0f},
        },
        {
                .name = "k8v4",
                .key = {.bits = 8, .group = 32, .centre = true, .rotate = true, .gain = true},
                .value = {.bits = 4, .group = 64, .centre = true, .gain = true},
        },
        {
                .name = "raw",
                .key = {.bits = KVC_BITS_RAW},
                .value = {.bits = KVC_BITS_RAW},
        },
};

#define PRESET_COUNT (sizeof presets / sizeof presets[0])

kvc_status kvc_preset_get(const char *name, struct kvc_block_codec *codec)
{
	for (size_t i = 0; i < PRESET_COUNT; i++) {
		if (strcmp(presets[i].name, name) != 0)
			continue;
		*codec = (struct kvc_block_codec){.key = presets[i].key, .value = presets[i].value};
		return KVC_OK;
	}
	return KVC_INVALID;
}

const char *kvc_preset_name(unsigned i)
{
	return i < PRESET_COUNT ? presets[i].name : NULL;
}
