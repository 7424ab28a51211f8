/* Tile by tile, so that any shape of file works; all clocks are of this thread's codec calls only. */
#include "client/cli/round_trip.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/half.h"

struct work {
	struct kvc_round_trip *trip;
	uint8_t *coded;
	void *scratch;
};

uint64_t kvc_round_trip_bytes(const struct kvc_round_trip *trip)
{
	return trip->layers * trip->tokens * trip->heads * trip->dim * kvc_dtype_bytes(trip->dtype);
}

static double now_seconds(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Returns true if the tile was coded, false if it is left as it is. */
static bool encode(struct work *work, const struct kvc_tile_shape *shape, const struct kvc_rows *source)
{
	struct kvc_round_trip *trip = work->trip;
	double start = now_seconds();
	bool coded = trip->codec->encode(&trip->params, shape, source, work->coded, work->scratch);

	trip->encode_seconds += now_seconds() - start;
	trip->tiles++;
	trip->raw_tiles += !coded;
	trip->coded_bytes += coded ? kvc_tile_bytes(&trip->params, shape) : kvc_tile_raw_bytes(shape);
	return coded;
}

static void decode(struct work *work, const struct kvc_tile_shape *shape, const struct kvc_rows *restored)
{
	double start = now_seconds();

	work->trip->codec->decode(&work->trip->params, shape, work->coded, restored, work->scratch);
	work->trip->decode_seconds += now_seconds() - start;
}

static void run_tile(struct work *work, const struct kvc_tile_shape *shape, uint8_t *source,
                     uint8_t *restored)
{
	size_t row_bytes = shape->dim * kvc_dtype_bytes(shape->dtype);
	ptrdiff_t stride = (ptrdiff_t)(work->trip->heads * row_bytes);
	struct kvc_rows from = {.base = source, .row_stride = stride};
	struct kvc_rows to = {.base = restored, .row_stride = stride};

	if (encode(work, shape, &from)) {
		decode(work, shape, &to);
		return;
	}
	for (uint32_t t = 0; t < shape->tokens; t++)
		memcpy(restored + (ptrdiff_t)t * stride, source + (ptrdiff_t)t * stride, row_bytes);
}

static void run_layer(struct work *work, uint8_t *source, uint8_t *restored)
{
	const struct kvc_round_trip *trip = work->trip;
	size_t row_bytes = trip->dim * kvc_dtype_bytes(trip->dtype);

	for (uint64_t t = 0; t < trip->tokens; t += trip->block_tokens) {
		uint64_t left = trip->tokens - t;
		struct kvc_tile_shape shape = {
		        .tokens = left < trip->block_tokens ? (uint32_t)left : trip->block_tokens,
		        .dim = trip->dim,
		        .dtype = trip->dtype,
		};

		for (uint32_t head = 0; head < trip->heads; head++) {
			size_t offset = (t * trip->heads + head) * row_bytes;

			run_tile(work, &shape, source + offset, restored + offset);
		}
	}
}

static double element(const uint8_t *from, enum kvc_dtype dtype)
{
	uint32_t bits;
	uint16_t half;

	if (dtype == KVC_DTYPE_FP32) {
		memcpy(&bits, from, sizeof(bits));
		return (double)kvc_f32_from_bits(bits);
	}
	memcpy(&half, from, sizeof(half));
	return (double)(dtype == KVC_DTYPE_FP16 ? kvc_f32_from_f16(half)
	                                        : kvc_f32_from_bits((uint32_t)half << 16));
}

static void compare(struct kvc_round_trip *trip, const uint8_t *source, const uint8_t *restored)
{
	size_t size = kvc_dtype_bytes(trip->dtype);
	uint64_t bytes = kvc_round_trip_bytes(trip);
	double errors = 0.0;
	double squares = 0.0;
	double products = 0.0;

	for (uint64_t i = 0; i < bytes; i += size) {
		double x = element(source + i, trip->dtype);
		double y = element(restored + i, trip->dtype);

		if (!isfinite(x))
			continue;
		errors += (y - x) * (y - x);
		squares += x * x;
		products += x * y;
	}
	/* All zeros are restored as zeros. */
	trip->nmse = squares > 0.0 ? errors / squares : 0.0;
	trip->gain = squares > 0.0 ? products / squares : 1.0;
}

static size_t round_up(size_t bytes)
{
	return (bytes + 63) / 64 * 64;
}

bool kvc_round_trip_run(struct kvc_round_trip *trip, uint8_t *source, uint8_t *restored)
{
	struct kvc_tile_shape shape = {.tokens = trip->block_tokens, .dim = trip->dim, .dtype = trip->dtype};
	uint64_t layer_bytes = kvc_round_trip_bytes(trip) / trip->layers;
	struct work work = {
	        .trip = trip,
	        .coded = aligned_alloc(64, round_up(kvc_tile_bytes(&trip->params, &shape))),
	        .scratch = aligned_alloc(64, round_up(kvc_tile_scratch_bytes(&shape))),
	};
	bool ready = work.coded && work.scratch;

	for (uint32_t layer = 0; ready && layer < trip->layers; layer++)
		run_layer(&work, source + layer * layer_bytes, restored + layer * layer_bytes);
	free(work.coded);
	free(work.scratch);
	if (ready)
		compare(trip, source, restored);
	return ready;
}
