/* A KV file through the codec and back, in memory, without a daemon. */
#ifndef KVC_CLI_ROUND_TRIP_H
#define KVC_CLI_ROUND_TRIP_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/codec.h"

/* C order [layers][tokens][heads][dim]; block b covers tokens block_tokens * b and on, of every layer. */
struct kvc_round_trip {
	uint32_t layers;
	uint32_t heads;
	uint32_t dim;
	enum kvc_dtype dtype;
	uint64_t tokens;
	uint32_t block_tokens;
	struct kvc_codec_params params;
	const struct kvc_codec *codec;

	/* results */
	uint64_t tiles;
	uint64_t raw_tiles;
	uint64_t coded_bytes;
	double encode_seconds;
	double decode_seconds;
	double nmse; /* sum of squared errors / sum of squares, of what is finite */
	double gain; /* <source, restored> / <source, source> */
};

/* Bytes of the file. */
uint64_t kvc_round_trip_bytes(const struct kvc_round_trip *trip);

/* Fill `restored` and the results. False: out of memory. */
bool kvc_round_trip_run(struct kvc_round_trip *trip, uint8_t *source, uint8_t *restored);

#endif
