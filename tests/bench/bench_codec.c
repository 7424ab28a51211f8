/* Speed of the codec on one core, as GB/s of source and as a ratio to memcpy of the same run.
 *
 *   bench_codec [--rounds N] [--mib N] [--json]
 *
 * Source: the KV cache in tests/data, over and over, in buffers much larger than the caches: tiles of 128
 * tokens by 128 channels, rows of two heads apart. Each measurement follows a memcpy of such a buffer, and
 * its ratio is to that; figures are medians of the rounds, and the best. "tiles" is the codec alone; "image"
 * is whole blocks of 8 layers, keys and values, with checksums: plan to sealed image, and opened and verified
 * image to rows. The scalar reference, which is not made for speed, does a sixteenth of the work. */
#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/image.h"
#include "tests/bench/measure.h"
#include "tests/support/kv_slice.h"

#define ROUNDS_MAX   64u
#define BLOCK_TOKENS 128u
#define TOKEN_BYTES  (KV_SLICE_HEADS * KV_SLICE_DIM * 2u)
#define LAYER_BYTES  (KV_SLICE_TOKENS * TOKEN_BYTES)
#define SLICE_BLOCKS (KV_SLICE_TOKENS / BLOCK_TOKENS)

struct bench {
	size_t slices; /* a slice is KV_SLICE_BYTES of keys, and as much of values */
	unsigned rounds;
	bool json;
	uint8_t *source[2]; /* keys, values */
	uint8_t *dest[2];
	uint8_t *coded;
	size_t coded_bytes;
	void *scratch;
	json_t *results;
};

/* What one line is about. */
struct kase {
	const struct kvc_codec *codec;
	const char *preset;
	const char *what; /* "keys", "values", "image" */
	bool decode;
	size_t slices;
	uint64_t bytes; /* of source that one run handles */
	struct kvc_block_codec settings;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_codec: %s\n", what);
	exit(1);
}

static void *allocate(size_t bytes)
{
	void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);

	if (!memory)
		die("out of memory");
	memset(memory, 0, bytes); /* no page faults later */
	return memory;
}

static void bench_init(struct bench *bench)
{
	struct kvc_tile_shape shape = {.tokens = BLOCK_TOKENS, .dim = KV_SLICE_DIM, .dtype = KVC_DTYPE_BF16};

	for (int kind = 0; kind < 2; kind++) {
		uint8_t *slice = kv_slice_load((enum kvc_kind)kind);

		bench->source[kind] = allocate(bench->slices * KV_SLICE_BYTES);
		bench->dest[kind] = allocate(bench->slices * KV_SLICE_BYTES);
		for (size_t i = 0; i < bench->slices; i++)
			memcpy(bench->source[kind] + i * KV_SLICE_BYTES, slice, KV_SLICE_BYTES);
		free(slice);
	}
	/* Room for both kinds coded, whatever the preset. */
	bench->coded_bytes = 2 * bench->slices * (KV_SLICE_BYTES + 65536);
	bench->coded = allocate(bench->coded_bytes);
	bench->scratch = allocate(kvc_tile_scratch_bytes(&shape));
	bench->results = json_array();
	if (!bench->results)
		die("out of memory");
}

static void bench_free(struct bench *bench)
{
	for (int kind = 0; kind < 2; kind++) {
		free(bench->source[kind]);
		free(bench->dest[kind]);
	}
	free(bench->coded);
	free(bench->scratch);
	json_decref(bench->results);
}

/* --- the work --- */

static double measure_memcpy(const struct bench *bench)
{
	double start = bench_now_s();

	memcpy(bench->dest[0], bench->source[0], bench->slices * KV_SLICE_BYTES);
	return (double)(bench->slices * KV_SLICE_BYTES) / (bench_now_s() - start) * 1e-9;
}

static void run_tiles(const struct bench *bench, const struct kase *kase)
{
	int kind = strcmp(kase->what, "values") == 0;
	const struct kvc_codec_params *params = kind ? &kase->settings.value : &kase->settings.key;
	struct kvc_tile_shape shape = {.tokens = BLOCK_TOKENS, .dim = KV_SLICE_DIM, .dtype = KVC_DTYPE_BF16};
	uint8_t *memory = kase->decode ? bench->dest[kind] : bench->source[kind];
	size_t tile_bytes = kvc_tile_bytes(params, &shape);
	size_t tiles = kase->slices * KV_SLICE_LAYERS * SLICE_BLOCKS * KV_SLICE_HEADS;

	for (size_t i = 0; i < tiles; i++) {
		size_t head = i % KV_SLICE_HEADS;
		size_t block = i / KV_SLICE_HEADS;
		struct kvc_rows rows = {
		        .base = memory + block * BLOCK_TOKENS * TOKEN_BYTES + head * KV_SLICE_DIM * 2,
		        .row_stride = TOKEN_BYTES,
		};
		uint8_t *coded = bench->coded + i * tile_bytes;

		if (kase->decode)
			kase->codec->decode(params, &shape, coded, &rows, bench->scratch);
		else if (!kase->codec->encode(params, &shape, &rows, coded, bench->scratch))
			die("a tile is raw");
	}
}

static struct kvc_block_view view_of(const struct bench *bench, bool dest, size_t block)
{
	size_t offset =
	        block / SLICE_BLOCKS * KV_SLICE_BYTES + block % SLICE_BLOCKS * BLOCK_TOKENS * TOKEN_BYTES;
	struct kvc_block_layout layout = {
	        .layer_stride = LAYER_BYTES, .token_stride = TOKEN_BYTES, .head_stride = KV_SLICE_DIM * 2};

	return (struct kvc_block_view){
	        .key = (dest ? bench->dest : bench->source)[0] + offset,
	        .value = (dest ? bench->dest : bench->source)[1] + offset,
	        .key_layout = layout,
	        .value_layout = layout,
	};
}

static void encode_image(const struct bench *bench, const struct kase *kase,
                         const struct kvc_image_plan *plan, const struct kvc_block_view *view, uint8_t *image)
{
	uint64_t length;

	kvc_image_encode_tiles(plan, kase->codec, view, image, 0, plan->tiles, bench->scratch);
	if (kvc_image_seal(plan, view, image, plan->image_bytes, &length) != KVC_OK)
		die("an image cannot be sealed");
}

static void decode_image(const struct bench *bench, const struct kase *kase,
                         const struct kvc_image_plan *plan, const struct kvc_block_view *view,
                         const uint8_t *bytes)
{
	struct kvc_image image;

	if (kvc_image_open(bytes, plan->image_bytes, 0, &image) != KVC_OK ||
	    kvc_image_decode_tiles(&image, kase->codec, view, 0, plan->tiles, 0, bench->scratch) != KVC_OK)
		die("an image is damaged");
}

static void run_images(const struct bench *bench, const struct kase *kase)
{
	struct kvc_block_shape shape = {.layers = KV_SLICE_LAYERS,
	                                .heads = KV_SLICE_HEADS,
	                                .key_dim = KV_SLICE_DIM,
	                                .value_dim = KV_SLICE_DIM,
	                                .tokens = BLOCK_TOKENS,
	                                .dtype = KVC_DTYPE_BF16};
	struct kvc_image_plan plan;
	size_t stride;

	if (kvc_image_plan_init(&plan, &shape, &kase->settings) != KVC_OK)
		die("no plan");
	stride = (plan.image_bytes + KVC_IMAGE_ALIGN - 1) / KVC_IMAGE_ALIGN * KVC_IMAGE_ALIGN;
	for (size_t block = 0; block < kase->slices * SLICE_BLOCKS; block++) {
		struct kvc_block_view view = view_of(bench, kase->decode, block);
		uint8_t *image = bench->coded + block * stride;

		if (kase->decode)
			decode_image(bench, kase, &plan, &view, image);
		else
			encode_image(bench, kase, &plan, &view, image);
	}
}

static void run(const struct bench *bench, const struct kase *kase)
{
	if (strcmp(kase->what, "image") == 0)
		run_images(bench, kase);
	else
		run_tiles(bench, kase);
}

/* --- results --- */

static void print_result(struct bench *bench, const struct kase *kase, double best, double median,
                         double ratio, double copy)
{
	const char *op = kase->decode ? "decode" : "encode";

	if (!bench->json) {
		printf("%-6s %-7s %-6s %-6s  %7.3f GB/s median  %7.3f GB/s best  %6.3f of memcpy (%.2f "
		       "GB/s)\n",
		       kase->codec->name, kase->preset, kase->what, op, median, best, ratio, copy);
		fflush(stdout);
		return;
	}
	if (json_array_append_new(bench->results,
	                          json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "simd",
	                                    kase->codec->name, "preset", kase->preset, "what", kase->what,
	                                    "op", op, "gb_per_s", median, "best_gb_per_s", best,
	                                    "ratio_to_memcpy", ratio, "memcpy_gb_per_s", copy)) != 0)
		die("out of memory");
}

static void measure(struct bench *bench, const struct kase *kase)
{
	double speeds[ROUNDS_MAX], ratios[ROUNDS_MAX], copies[ROUNDS_MAX];

	run(bench, kase); /* does not count */
	for (unsigned i = 0; i < bench->rounds; i++) {
		double start;

		copies[i] = measure_memcpy(bench);
		start = bench_now_s();
		run(bench, kase);
		speeds[i] = (double)kase->bytes / (bench_now_s() - start) * 1e-9;
		ratios[i] = speeds[i] / copies[i];
	}
	print_result(bench, kase, bench_quantile(speeds, bench->rounds, 1.0),
	             bench_median(speeds, bench->rounds), bench_median(ratios, bench->rounds),
	             bench_median(copies, bench->rounds));
}

/* Encoding comes first, since decoding needs what it leaves. */
static void measure_preset(struct bench *bench, const struct kvc_codec *codec, const char *preset,
                           size_t slices)
{
	static const char *const subjects[] = {"keys", "values", "image"};
	struct kase kase = {.codec = codec, .preset = preset, .slices = slices};

	if (kvc_preset_get(preset, &kase.settings) != KVC_OK)
		die("no such preset");
	for (size_t i = 0; i < 3; i++) {
		kase.what = subjects[i];
		kase.bytes = slices * KV_SLICE_BYTES * (i == 2 ? 2 : 1);
		kase.decode = false;
		measure(bench, &kase);
		kase.decode = true;
		measure(bench, &kase);
	}
}

static void measure_all(struct bench *bench)
{
	static const char *const names[] = {"scalar", "avx2", "avx512"};

	for (int i = 0; i < 3; i++) {
		const struct kvc_codec *codec = kvc_codec_get((enum kvc_simd)(KVC_SIMD_SCALAR + i));
		size_t slices = i == 0 ? (bench->slices + 15) / 16 : bench->slices;

		if (!codec) {
			fprintf(stderr, "%s: this processor does not have it, skipped\n", names[i]);
			continue;
		}
		measure_preset(bench, codec, "quality", slices);
		measure_preset(bench, codec, "compact", slices);
	}
}

static unsigned long number(const char *text, unsigned long max)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || value < 1 || value > max) {
		fprintf(stderr, "bench_codec: %s: expected a number from 1 to %lu\n", text, max);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"rounds", required_argument, NULL, 'r'},
	                                        {"mib", required_argument, NULL, 'm'},
	                                        {"json", no_argument, NULL, 'j'},
	                                        {NULL, 0, NULL, 0}};
	struct bench bench = {.slices = 64, .rounds = 5};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'r') {
			bench.rounds = (unsigned)number(optarg, ROUNDS_MAX);
		} else if (option == 'm') {
			bench.slices = number(optarg, 4096);
		} else if (option == 'j') {
			bench.json = true;
		} else {
			fprintf(stderr, "usage: bench_codec [--rounds N] [--mib N] [--json]\n");
			return 2;
		}
	}
	bench_init(&bench);
	measure_all(&bench);
	if (bench.json) {
		json_dumpf(bench.results, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(4));
		putchar('\n');
	}
	bench_free(&bench);
	return 0;
}
