/* Put and get through the daemon, next to the codec alone: how much of the codec's speed arrives at a client.
 *
 *   bench_daemon [--threads N] [--mib M] [--rounds R]
 *
 * One client, shared memory, RAM tier. The same blocks (32 layers, 8 heads of 128, 128 tokens: 16 MiB) are
 * coded in turn by N threads of this process and by a kvcellard with N threads; first a round that does not
 * count. Each round gives one ratio; what is printed is the median. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/image.h"
#include "tests/bench/measure.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define THREADS_MAX 256u
#define ROUNDS_MAX  64u
#define TARGET      0.80

enum phase { ENCODE, DECODE };

struct bench {
	unsigned threads;
	unsigned rounds;
	size_t blocks;
	struct kvc_sample_space space;
	struct kvc_image_plan plan;
	uint64_t raw_bytes;   /* of a block */
	uint64_t image_bytes; /* of an image, rounded up to pages */
	uint8_t *images;
	uint64_t *lengths;
	struct kvc_server server;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *source;
	struct kvc_memory *dest;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_daemon: %s: %s\n", what, kvc_last_error());
	exit(1);
}

/* ---- the codec alone ----------------------------------------------------------------------- */

struct team {
	struct bench *bench;
	enum phase phase;
	atomic_size_t next; /* block to take */
};

static struct kvc_block_view view_of(const struct bench *b, uint8_t *data)
{
	struct kvc_block_view view = {.key = data, .value = data + b->raw_bytes / 2};

	kvc_block_layout_default(&b->plan.shape, KVC_KIND_KEY, &view.key_layout);
	kvc_block_layout_default(&b->plan.shape, KVC_KIND_VALUE, &view.value_layout);
	return view;
}

static void encode_block(struct bench *b, size_t i, void *scratch)
{
	struct kvc_block_view view = view_of(b, (uint8_t *)kvc_memory_data(b->source) + i * b->raw_bytes);
	uint8_t *image = b->images + i * b->image_bytes;

	kvc_image_encode_tiles(&b->plan, kvc_codec_get(KVC_SIMD_AUTO), &view, image, 0, b->plan.tiles,
	                       scratch);
	if (kvc_image_seal(&b->plan, &view, image, b->image_bytes, &b->lengths[i]) != KVC_OK)
		abort();
}

static void decode_block(struct bench *b, size_t i, void *scratch)
{
	struct kvc_block_view view = view_of(b, (uint8_t *)kvc_memory_data(b->dest) + i * b->raw_bytes);
	struct kvc_image image;

	if (kvc_image_open(b->images + i * b->image_bytes, b->lengths[i], 0, &image) != KVC_OK ||
	    kvc_image_decode_tiles(&image, kvc_codec_get(KVC_SIMD_AUTO), &view, 0, b->plan.tiles, 0,
	                           scratch) != KVC_OK)
		abort();
}

static void *team_run(void *argument)
{
	struct team *team = argument;
	struct bench *b = team->bench;
	void *scratch = aligned_alloc(64, (kvc_image_scratch_bytes(&b->plan) + 63) / 64 * 64);
	size_t i;

	if (!scratch)
		abort();
	while ((i = atomic_fetch_add(&team->next, 1)) < b->blocks) {
		if (team->phase == ENCODE)
			encode_block(b, i, scratch);
		else
			decode_block(b, i, scratch);
	}
	free(scratch);
	return NULL;
}

static double codec_seconds(struct bench *b, enum phase phase)
{
	struct team team = {.bench = b, .phase = phase};
	pthread_t threads[THREADS_MAX];
	double begun = bench_now_s();

	for (unsigned i = 0; i < b->threads; i++) {
		if (pthread_create(&threads[i], NULL, team_run, &team) != 0)
			abort();
	}
	for (unsigned i = 0; i < b->threads; i++)
		pthread_join(threads[i], NULL);
	return bench_now_s() - begun;
}

/* ---- the daemon ---------------------------------------------------------------------------- */

struct batch {
	uint8_t (*keys)[KVC_SAMPLE_KEY_BYTES];
	struct kvc_block *blocks;
	struct kvc_key *names;
};

static void batch_init(const struct bench *b, struct batch *batch)
{
	batch->keys = calloc(b->blocks, sizeof *batch->keys);
	batch->blocks = calloc(b->blocks, sizeof *batch->blocks);
	batch->names = calloc(b->blocks, sizeof *batch->names);
	if (!batch->keys || !batch->blocks || !batch->names)
		abort();
	for (size_t i = 0; i < b->blocks; i++) {
		kvc_sample_block(&b->space, i, i * b->raw_bytes, batch->keys[i], &batch->blocks[i]);
		batch->blocks[i].tokens = b->space.options.block_tokens;
		batch->blocks[i].value_offset = i * b->raw_bytes + b->raw_bytes / 2;
		batch->names[i] = (struct kvc_key){.data = batch->keys[i], .bytes = KVC_SAMPLE_KEY_BYTES};
	}
}

static void batch_free(struct batch *batch)
{
	free(batch->keys);
	free(batch->blocks);
	free(batch->names);
}

static double daemon_seconds(struct bench *b, enum phase phase, struct batch *batch)
{
	struct kvc_transfer transfer;
	struct kvc_outcome outcome;
	double begun = bench_now_s();
	kvc_status status;

	kvc_transfer_init(&transfer, phase == ENCODE ? b->source : b->dest);
	status = phase == ENCODE ? kvc_put(b->ns, &transfer, batch->blocks, b->blocks, &outcome)
	                         : kvc_get(b->ns, &transfer, batch->blocks, b->blocks, &outcome);
	if (status != KVC_OK || outcome.blocks_ok != b->blocks)
		die(phase == ENCODE ? "put" : "get");
	return bench_now_s() - begun;
}

static void drop_all(struct bench *b, struct batch *batch)
{
	size_t done;

	if (kvc_drop(b->ns, batch->names, b->blocks, 0, &done) != KVC_OK || done != b->blocks)
		die("drop");
}

/* ---- set up -------------------------------------------------------------------------------- */

static void space_open(struct bench *b)
{
	struct kvc_namespace_options options;
	struct kvc_block_shape shape;

	kvc_namespace_options_init(&options);
	options.model = "bench";
	options.layers = 32;
	options.heads = 8;
	options.key_dim = options.value_dim = 128;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 128;
	shape = (struct kvc_block_shape){32, 8, 128, 128, 128, KVC_DTYPE_BF16};
	if (kvc_sample_space_init(&b->space, &options, 1) != KVC_OK ||
	    kvc_image_plan_init(&b->plan, &shape, &b->space.codec) != KVC_OK)
		abort();
	b->raw_bytes = kvc_sample_bytes_max(&b->space);
	b->image_bytes = (b->plan.image_bytes + 4095) / 4096 * 4096;
}

static void server_open(struct bench *b)
{
	static char threads[16];
	static char ram[32];

	snprintf(threads, sizeof threads, "%u", b->threads);
	snprintf(ram, sizeof ram, "%lluM",
	         (unsigned long long)(b->blocks * b->image_bytes * 5 / 4 >> 20) + 64);
	if (!kvc_server_init(&b->server))
		die("temporary folder");
	kvc_server_arg(&b->server, "--ram", ram);
	kvc_server_arg(&b->server, "--threads", threads);
	if (!kvc_server_start(&b->server) || !kvc_server_ready(&b->server, 60000)) {
		kvc_server_show_log(&b->server);
		die("daemon");
	}
}

static void client_open(struct bench *b)
{
	uint64_t bytes = b->blocks * b->raw_bytes;

	if (kvc_server_client(&b->server, 60000, &b->client) != KVC_OK ||
	    kvc_namespace_open(b->client, &b->space.options, 0, &b->ns) != KVC_OK ||
	    kvc_memory_create(b->client, bytes, &b->source) != KVC_OK ||
	    kvc_memory_create(b->client, bytes, &b->dest) != KVC_OK)
		die("client");
}

/* Full blocks of model-like noise: the first is generated, the others are it, a little further on. */
static void source_fill(struct bench *b)
{
	uint8_t *data = kvc_memory_data(b->source);
	uint64_t id = 0;

	while (kvc_sample_bytes(&b->space, id) != b->raw_bytes)
		id++;
	kvc_sample_source(&b->space, id, data);
	for (size_t i = 1; i < b->blocks; i++) {
		uint64_t shift = i * 256 * 1031 % b->raw_bytes;

		memcpy(data + i * b->raw_bytes, data + shift, b->raw_bytes - shift);
		memcpy(data + (i + 1) * b->raw_bytes - shift, data, shift);
	}
}

static void bench_open(struct bench *b, size_t mib)
{
	space_open(b);
	b->blocks = (mib << 20) / b->raw_bytes;
	if (b->blocks == 0)
		b->blocks = 1;
	b->images = aligned_alloc(4096, b->blocks * b->image_bytes);
	b->lengths = calloc(b->blocks, sizeof *b->lengths);
	if (!b->images || !b->lengths)
		abort();
	server_open(b);
	client_open(b);
	source_fill(b);
}

static void bench_close(struct bench *b)
{
	kvc_client_destroy(b->client);
	kvc_server_stop(&b->server, 20000);
	kvc_server_remove(&b->server);
	free(b->images);
	free(b->lengths);
}

/* ---- rounds -------------------------------------------------------------------------------- */

struct figures {
	double codec[ROUNDS_MAX];
	double daemon[ROUNDS_MAX];
	double ratio[ROUNDS_MAX];
};

/* Who begins changes from round to round. */
static void measure(struct bench *b, enum phase phase, unsigned round, struct batch *batch, double *codec,
                    double *daemon)
{
	if (round % 2)
		*daemon = daemon_seconds(b, phase, batch);
	*codec = codec_seconds(b, phase);
	if (round % 2 == 0)
		*daemon = daemon_seconds(b, phase, batch);
}

static void round_run(struct bench *b, unsigned round, struct figures figures[2])
{
	double bytes = (double)(b->blocks * b->raw_bytes);
	struct batch batch;

	batch_init(b, &batch);
	for (unsigned phase = ENCODE; phase <= DECODE; phase++) {
		double codec;
		double daemon = 0;

		measure(b, (enum phase)phase, round, &batch, &codec, &daemon);
		if (round == 0)
			continue;
		figures[phase].codec[round - 1] = bytes / codec / 1e9;
		figures[phase].daemon[round - 1] = bytes / daemon / 1e9;
		figures[phase].ratio[round - 1] = codec / daemon;
	}
	drop_all(b, &batch);
	batch_free(&batch);
}

static void report(const struct bench *b, const char *what, struct figures *figures)
{
	double least = bench_quantile(figures->ratio, b->rounds, 0);
	double most = bench_quantile(figures->ratio, b->rounds, 1);
	double median = bench_median(figures->ratio, b->rounds);

	printf("daemon %-4s %2u threads  %6.2f GB/s   codec alone %6.2f GB/s   ratio %.2f (%.2f to %.2f)   "
	       "target %.2f%s\n",
	       what, b->threads, bench_median(figures->daemon, b->rounds),
	       bench_median(figures->codec, b->rounds), median, least, most, TARGET,
	       median < TARGET ? "  MISSED" : "");
}

static bool arguments(int argc, char **argv, struct bench *b, size_t *mib)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	b->threads = cores > 0 ? (unsigned)cores : 1;
	b->rounds = 5;
	*mib = 1024;
	for (int i = 1; i + 1 < argc; i += 2) {
		unsigned long value = strtoul(argv[i + 1], NULL, 0);

		if (strcmp(argv[i], "--threads") == 0)
			b->threads = (unsigned)value;
		else if (strcmp(argv[i], "--mib") == 0)
			*mib = value;
		else if (strcmp(argv[i], "--rounds") == 0)
			b->rounds = (unsigned)value;
		else
			return false;
	}
	return argc % 2 == 1 && b->threads >= 1 && b->threads <= THREADS_MAX && *mib >= 1 && b->rounds >= 1 &&
	       b->rounds <= ROUNDS_MAX;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	static struct figures figures[2];
	size_t mib;

	if (!arguments(argc, argv, &bench, &mib)) {
		fprintf(stderr, "usage: %s [--threads N] [--mib M] [--rounds R]\n", argv[0]);
		return 2;
	}
	bench_open(&bench, mib);
	for (unsigned round = 0; round <= bench.rounds; round++)
		round_run(&bench, round, figures);
	report(&bench, "put", &figures[ENCODE]);
	report(&bench, "get", &figures[DECODE]);
	bench_close(&bench);
	return 0;
}
