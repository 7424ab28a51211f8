/* The cuda plane end to end, against copying the same bytes raw: ratios first, then what they are made of.
 *
 *   bench_plane ram|vram|road2|latency...
 *
 *   ram      a worker's VRAM to the RAM tier and back by road 1 (the daemon's engine), 4 GiB of source in 256
 * blocks vram     the same to the VRAM tier road2    as ram, with the codec inside the worker latency  one
 * block at a time
 *
 * Raw is one contiguous copy of the same number of bytes between the device and pinned memory, in pieces of 1
 * GiB on one stream: the fastest that there is. A copy for each page is given beside it. Rounds alternate
 * between all of it; median, least and most of the rounds. Before it counts anything a block is put, read and
 * compared with the CPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/measure.h"
#include "tests/gpu/e2e/big.h"

#define ROUNDS      11u
#define PIECE       (UINT64_C(1) << 30)
#define GIB         1073741824.0
#define PIN_WAIT_MS 60000.0
#define SINGLES     400u

enum what { RAW_DOWN, RAW_UP, PAGES_DOWN, PUT, GET, WHATS };

static const char *const what_names[WHATS] = {"raw, down", "raw, up", "raw page by page, down", "put", "get"};

struct bench {
	struct rig rig;
	struct big big;
	struct road road;
	void *stream;
	uint8_t *pinned;
	uint64_t piece;
	double gbs[WHATS][ROUNDS]; /* GB/s of source */
	unsigned rounds;
	struct kvc_outcome outcome; /* of the gets */
};

static struct bench bench;

/* ---- raw ----------------------------------------------------------------------------------- */

static double raw_all(bool up)
{
	uint64_t address = bench.big.paged.parts[0].address;
	double started = bench_now_s();

	for (uint64_t at = 0; at < bench.big.bytes; at += bench.piece) {
		uint64_t some = bench.big.bytes - at < bench.piece ? bench.big.bytes - at : bench.piece;

		if (up)
			driver_put_later(address + at, bench.pinned, some, bench.stream);
		else
			driver_get_later(bench.pinned, address + at, some, bench.stream);
	}
	driver_stream_wait(bench.stream);
	return (double)bench.big.bytes / (bench_now_s() - started) / 1e9;
}

/* A sixteenth of the bytes: each page of each layer, keys and values, by a copy of its own. */
static double raw_pages(void)
{
	const struct paged *paged = &bench.big.paged;
	uint64_t page = paged->key.page;
	uint64_t pages = paged->pages / 16 ? paged->pages / 16 : 1;
	uint64_t done = 0;
	double started = bench_now_s();

	for (uint32_t layer = 0; layer < bench.big.options.layers; layer++) {
		for (uint64_t i = 0; i < pages; i++, done += 2 * page) {
			uint64_t at = done % (bench.piece - 2 * page);

			driver_get_later(bench.pinned + at, paged->key_bases[layer] + paged->ids[i] * page,
			                 page, bench.stream);
			driver_get_later(bench.pinned + at + page,
			                 paged->value_bases[layer] + paged->ids[i] * page, page,
			                 bench.stream);
		}
	}
	driver_stream_wait(bench.stream);
	return (double)done / (bench_now_s() - started) / 1e9;
}

/* ---- blocks -------------------------------------------------------------------------------- */

static double move_all(bool get)
{
	double started = bench_now_s();
	size_t ok = get ? road_get(&bench.road, bench.big.blocks, bench.big.count, &bench.outcome)
	                : road_put(&bench.road, bench.big.blocks, bench.big.count, NULL);
	double seconds = bench_now_s() - started;

	if (ok != bench.big.count) {
		for (size_t i = 0; i < bench.big.count; i++) {
			if (bench.big.blocks[i].status != KVC_OK)
				printf("block %zu: %s\n", i, kvc_status_name(bench.big.blocks[i].status));
		}
		kvc_server_show_log(&bench.rig.server);
		exit(1);
	}
	return (double)bench.big.bytes / seconds / 1e9;
}

/* Until the arena is pinned copies are slower: a state of the first seconds, not of the daemon. */
static void await_pinned(void)
{
	double ram = rig_stat(&bench.rig, "ram.bytes");
	double end = rig_now_ms() + PIN_WAIT_MS;

	while (rig_gpu(&bench.rig, "pinned_bytes") < ram && rig_now_ms() < end)
		kvc_server_step();
	printf("arena: %.0f of %.0f MiB pinned\n", rig_gpu(&bench.rig, "pinned_bytes") / 1048576,
	       ram / 1048576);
}

static bool part_open(unsigned road, const char *vram, size_t count, uint32_t tokens)
{
	bool small = driver_is_fake();

	memset(&bench, 0, sizeof bench);
	if (!rig_open(&bench.rig, &(struct rig_options){.ram = small ? "64M" : "6G", .vram = vram}))
		return false;
	big_open(&bench.big, count, tokens, false);
	bench.stream = driver_stream(false);
	bench.piece = bench.big.bytes < PIECE ? bench.big.bytes : PIECE;
	bench.pinned = driver_pinned(bench.piece);
	memset(bench.pinned, 1, bench.piece);
	await_pinned();
	if (!road_open(&bench.road, road, bench.rig.server.socket, &bench.big.options, &bench.big.paged, 0,
	               bench.stream))
		return false;
	if (tokens == 0 && !big_verify(&bench.big, &bench.road)) {
		printf("a block came back wrong\n");
		return false;
	}
	return true;
}

static void part_close(void)
{
	road_close(&bench.road);
	big_close(&bench.big);
	driver_pinned_free(bench.pinned);
	rig_close(&bench.rig);
}

/* ---- throughput ---------------------------------------------------------------------------- */

static void round_run(unsigned round, bool count)
{
	double now[WHATS];

	big_renew(&bench.big);
	now[RAW_DOWN] = raw_all(false);
	now[PUT] = move_all(false);
	now[RAW_UP] = raw_all(true);
	now[GET] = move_all(true);
	now[PAGES_DOWN] = raw_pages();
	road_drop(&bench.road, bench.big.blocks, bench.big.count);
	big_fill(&bench.big);
	for (unsigned i = 0; count && i < WHATS; i++)
		bench.gbs[i][round] = now[i];
}

static void report(const char *title, double target)
{
	double median[WHATS];

	for (unsigned i = 0; i < WHATS; i++)
		median[i] = bench_median(bench.gbs[i], bench.rounds);
	printf("\n%s: put %.2f x raw, get %.2f x raw (target %.1f); raw: contiguous copies of the same "
	       "bytes\n",
	       title, median[PUT] / median[RAW_DOWN], median[GET] / median[RAW_UP], target);
	printf("  %-24s %10s %10s %10s   GB/s of source, %u rounds\n", "", "median", "least", "most",
	       bench.rounds);
	for (unsigned i = 0; i < WHATS; i++)
		printf("  %-24s %10.1f %10.1f %10.1f\n", what_names[i], median[i],
		       bench_quantile(bench.gbs[i], bench.rounds, 0),
		       bench_quantile(bench.gbs[i], bench.rounds, 1));
	printf("  %zu blocks of %.1f MiB, requests of %u, %u under way; gets from VRAM %llu, RAM %llu, disk "
	       "%llu\n",
	       bench.big.count, (double)bench.big.block_bytes / 1048576, bench.road.batch, bench.road.depth,
	       (unsigned long long)bench.outcome.from_vram, (unsigned long long)bench.outcome.from_ram,
	       (unsigned long long)bench.outcome.from_disk);
	fflush(stdout);
}

static bool throughput(unsigned road, const char *vram, const char *title, double target)
{
	bool small = driver_is_fake();

	if (!part_open(road, vram, small ? 8 : 256, 0))
		return false;
	bench.rounds = small ? 2 : ROUNDS;
	round_run(0, false);
	memset(&bench.outcome, 0, sizeof bench.outcome);
	for (unsigned round = 0; round < bench.rounds; round++)
		round_run(round, true);
	report(title, target);
	part_close();
	return true;
}

/* ---- latency ------------------------------------------------------------------------------- */

static void latencies(const char *what, bool get)
{
	static double ms[SINGLES];
	unsigned count = driver_is_fake() ? 8 : SINGLES;

	for (unsigned i = 0; i < count; i++) {
		struct kvc_block *block = &bench.big.blocks[i % bench.big.count];
		double started = rig_now_ms();
		size_t ok =
		        get ? road_get(&bench.road, block, 1, NULL) : road_put(&bench.road, block, 1, NULL);

		ms[i] = rig_now_ms() - started;
		if (ok != 1)
			printf("%s: %s\n", what, kvc_status_name(block->status));
		if (!get && i % bench.big.count == bench.big.count - 1) {
			road_drop(&bench.road, bench.big.blocks, bench.big.count);
		}
	}
	printf("  %-24s %10.3f %10.3f %10.3f\n", what, bench_quantile(ms, count, 0.5),
	       bench_quantile(ms, count, 0.99), bench_quantile(ms, count, 1));
}

static void raw_latency(bool up)
{
	static double ms[SINGLES];
	unsigned count = driver_is_fake() ? 8 : SINGLES;

	for (unsigned i = 0; i < count; i++) {
		uint64_t from = bench.big.paged.parts[0].address;
		double started = rig_now_ms();

		if (up)
			driver_put_later(from, bench.pinned, bench.big.block_bytes, bench.stream);
		else
			driver_get_later(bench.pinned, from, bench.big.block_bytes, bench.stream);
		driver_stream_wait(bench.stream);
		ms[i] = rig_now_ms() - started;
	}
	printf("  %-24s %10.3f %10.3f %10.3f\n", up ? "raw, up" : "raw, down", bench_quantile(ms, count, 0.5),
	       bench_quantile(ms, count, 0.99), bench_quantile(ms, count, 1));
}

static bool latency_of(unsigned road, const char *vram, uint32_t tokens, const char *title)
{
	size_t count = driver_is_fake() ? 8 : 50;

	if (!part_open(road, vram, count, tokens))
		return false;
	printf("\nlatency of one block of %.1f MiB, %s\n  %-24s %10s %10s %10s   ms\n",
	       (double)bench.big.block_bytes / 1048576, title, "", "p50", "p99", "most");
	latencies("put", false);
	road_put(&bench.road, bench.big.blocks, count, NULL);
	latencies("get", true);
	raw_latency(false);
	raw_latency(true);
	fflush(stdout);
	part_close();
	return true;
}

static bool latency(void)
{
	const char *vram = driver_is_fake() ? "16M" : "2G";
	bool ok = latency_of(1, "0", 0, "RAM tier") && latency_of(1, "0", 16, "RAM tier") &&
	          latency_of(1, vram, 0, "VRAM tier");

	return ok && (driver_is_fake() || latency_of(2, "0", 0, "road 2, RAM tier"));
}

/* ---- all of them --------------------------------------------------------------------------- */

static bool run(const char *part)
{
	const char *vram = driver_is_fake() ? "16M" : "2G";

	if (strcmp(part, "ram") == 0)
		return throughput(1, "0", "RAM tier, road 1", 3.3);
	if (strcmp(part, "vram") == 0)
		return throughput(1, vram, "VRAM tier, road 1", 5.0);
	if (strcmp(part, "road2") == 0)
		return throughput(2, "0", "RAM tier, road 2", 3.3);
	if (strcmp(part, "latency") == 0)
		return latency();
	fprintf(stderr, "no part '%s': ram, vram, road2, latency\n", part);
	return false;
}

int main(int argc, char **argv)
{
	int failed = 0;

	driver_open(1);
	printf("device: %s\n", driver_name());
	for (int i = 1; i < argc; i++) {
		if (!run(argv[i])) {
			printf("FAILED: %s\n", argv[i]);
			failed = 1;
		}
	}
	return failed;
}
