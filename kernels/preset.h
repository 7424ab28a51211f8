/* Named codec settings: what `quality`, `compact`, `plain`, `k8v4` and `raw` stand for, and
 * per-layer overrides. Pure functions. */
#ifndef KVC_PRESET_H
#define KVC_PRESET_H

#include "kernels/codec.h"

#define KVC_OVERRIDES_MAX 16u

struct kvc_layer_override {
	uint32_t layer;
	struct kvc_codec_params key;
	struct kvc_codec_params value;
};

/* Codec of a whole block: keys, values, and the layers that differ (ascending, distinct). */
struct kvc_block_codec {
	struct kvc_codec_params key;
	struct kvc_codec_params value;
	uint32_t override_count;
	struct kvc_layer_override overrides[KVC_OVERRIDES_MAX];
};

/* Fill *codec with the preset of that name, without overrides. KVC_INVALID if there is none. */
kvc_status kvc_preset_get(const char *name, struct kvc_block_codec *codec);

/* Name of the i-th preset, NULL past the last. The first is the default. */
const char *kvc_preset_name(unsigned i);

#endif
