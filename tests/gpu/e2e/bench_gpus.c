/* Two GPUs at once: does the daemon carry both links? Ratios first.
 *
 * A worker on each of two GPUs puts and gets 2 GiB of source in blocks of a Llama-3.1-8B shape, RAM tier:
 * first each alone, then both at the same moment. Beside it, by the same threads, contiguous copies of the
 * same bytes between device and pinned memory, alone and both at once. Rounds alternate between all of it;
 * medians. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/bench/measure.h"
#include "tests/gpu/e2e/big.h"

#define GPUS        2u
#define ROUNDS      9u
#define PIN_WAIT_MS 60000.0
#define PIECE       (UINT64_C(1) << 30)

enum what { RAW_DOWN, PUT, RAW_UP, GET, WHATS };

static const char *const what_names[WHATS] = {"raw, down", "put", "raw, up", "get"};

struct worker {
	unsigned gpu;
	struct big big;
	struct road road;
	void *stream;
	uint8_t *pinned;
	uint64_t piece;
	enum what what; /* to be done */
	bool ok;
};

static struct rig rig;
static struct worker workers[GPUS];
static pthread_barrier_t start;
static double gbs[WHATS][2][ROUNDS]; /* GB/s of source of both, one after the other and at once */

static void raw(struct worker *worker, bool up)
{
	uint64_t address = worker->big.paged.parts[0].address;

	for (uint64_t at = 0; at < worker->big.bytes; at += worker->piece) {
		if (up)
			driver_put_later(address + at, worker->pinned, worker->piece, worker->stream);
		else
			driver_get_later(worker->pinned, address + at, worker->piece, worker->stream);
	}
	driver_stream_wait(worker->stream);
}

static void work(struct worker *worker)
{
	struct big *big = &worker->big;

	worker->ok = true;
	if (worker->what == RAW_DOWN || worker->what == RAW_UP)
		raw(worker, worker->what == RAW_UP);
	else if (worker->what == PUT)
		worker->ok = road_put(&worker->road, big->blocks, big->count, NULL) == big->count;
	else
		worker->ok = road_get(&worker->road, big->blocks, big->count, NULL) == big->count;
}

static void *work_at_once(void *argument)
{
	struct worker *worker = argument;

	driver_enter(worker->gpu);
	pthread_barrier_wait(&start);
	work(worker);
	return NULL;
}

/* Seconds that both take. */
static double both(bool at_once)
{
	pthread_t threads[GPUS];
	double started;

	if (!at_once) {
		started = bench_now_s();
		for (unsigned i = 0; i < GPUS; i++) {
			driver_enter(i);
			work(&workers[i]);
		}
		return bench_now_s() - started;
	}
	for (unsigned i = 0; i < GPUS; i++) {
		if (pthread_create(&threads[i], NULL, work_at_once, &workers[i]) != 0)
			return 0;
	}
	started = bench_now_s();
	pthread_barrier_wait(&start);
	for (unsigned i = 0; i < GPUS; i++)
		pthread_join(threads[i], NULL);
	return bench_now_s() - started;
}

static void forget(void)
{
	for (unsigned i = 0; i < GPUS; i++) {
		driver_enter(i);
		road_drop(&workers[i].road, workers[i].big.blocks, workers[i].big.count);
		big_renew(&workers[i].big);
		big_fill(&workers[i].big);
	}
}

static bool round_run(unsigned at_once, unsigned round)
{
	double bytes = (double)(workers[0].big.bytes + workers[1].big.bytes);

	for (unsigned what = 0; what < WHATS; what++) {
		for (unsigned i = 0; i < GPUS; i++)
			workers[i].what = what;
		gbs[what][at_once][round] = bytes / both(at_once) / 1e9;
		for (unsigned i = 0; i < GPUS; i++) {
			if (!workers[i].ok) {
				printf("FAILED: %s on GPU %u\n", what_names[what], i);
				return false;
			}
		}
	}
	forget();
	return true;
}

static void report(unsigned rounds)
{
	double median[WHATS][2];

	for (unsigned what = 0; what < WHATS; what++)
		for (unsigned at_once = 0; at_once < 2; at_once++)
			median[what][at_once] = bench_median(gbs[what][at_once], rounds);
	printf("\ntwo GPUs at once: put %.2f, get %.2f times one alone (raw copies: %.2f, %.2f); put %.2f x "
	       "raw, get %.2f x raw of both at once\n",
	       median[PUT][1] / median[PUT][0], median[GET][1] / median[GET][0],
	       median[RAW_DOWN][1] / median[RAW_DOWN][0], median[RAW_UP][1] / median[RAW_UP][0],
	       median[PUT][1] / median[RAW_DOWN][1], median[GET][1] / median[RAW_UP][1]);
	printf("  %-12s %10s %10s   GB/s of source, %u rounds\n", "", "alone", "at once", rounds);
	for (unsigned what = 0; what < WHATS; what++)
		printf("  %-12s %10.1f %10.1f\n", what_names[what], median[what][0], median[what][1]);
}

static void await_pinned(void)
{
	double ram = rig_stat(&rig, "ram.bytes");
	double end = rig_now_ms() + PIN_WAIT_MS;

	while ((rig_gpu_of(&rig, 0, "pinned_bytes") < ram || rig_gpu_of(&rig, 1, "pinned_bytes") < ram) &&
	       rig_now_ms() < end)
		kvc_server_step();
	printf("arena of %.0f MiB, pinned: %.0f and %.0f\n", ram / 1048576,
	       rig_gpu_of(&rig, 0, "pinned_bytes") / 1048576, rig_gpu_of(&rig, 1, "pinned_bytes") / 1048576);
}

/* Namespaces of both have one name: the second one's keys must be others. */
static bool worker_open(struct worker *worker, unsigned gpu, size_t count)
{
	driver_enter(gpu);
	worker->gpu = gpu;
	big_open(&worker->big, count, 0, false);
	worker->big.round += (uint64_t)gpu << 32;
	big_renew(&worker->big);
	worker->stream = driver_stream(false);
	worker->piece = worker->big.bytes < PIECE ? worker->big.bytes : PIECE;
	worker->pinned = driver_pinned(worker->piece);
	memset(worker->pinned, 1, worker->piece);
	return road_open(&worker->road, 1, rig.server.socket, &worker->big.options, &worker->big.paged, 0,
	                 worker->stream) &&
	       big_verify(&worker->big, &worker->road);
}

static void worker_close(struct worker *worker)
{
	driver_enter(worker->gpu);
	road_close(&worker->road);
	big_close(&worker->big);
	driver_pinned_free(worker->pinned);
}

int main(void)
{
	bool small;
	unsigned rounds;
	bool ok = true;

	driver_open(GPUS);
	small = driver_is_fake();
	rounds = small ? 2 : ROUNDS;
	if (!rig_open(&rig, &(struct rig_options){.gpus = "0,1", .ram = small ? "64M" : "6G"}) ||
	    pthread_barrier_init(&start, NULL, GPUS + 1) != 0)
		return 1;
	for (unsigned i = 0; i < GPUS; i++) {
		if (!worker_open(&workers[i], i, small ? 8 : 128))
			return 1;
	}
	await_pinned();
	for (unsigned at_once = 0; ok && at_once < 2; at_once++)
		ok = round_run(at_once, 0);
	for (unsigned round = 0; ok && round < rounds; round++)
		ok = round_run(0, round) && round_run(1, round);
	if (ok)
		report(rounds);
	else
		kvc_server_show_log(&rig.server);
	for (unsigned i = 0; i < GPUS; i++)
		worker_close(&workers[i]);
	pthread_barrier_destroy(&start);
	return rig_close(&rig) && ok ? 0 : 1;
}
