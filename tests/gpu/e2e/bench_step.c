/* Interference: what puts and gets cost a worker that generates tokens at full tilt.
 *
 *   bench_step LABEL [SECONDS [CASE...]]
 *
 * The worker's decode-like step (step.h) is timed alone, then while a thread of the same worker puts and gets
 * blocks of its pool without a pause: by road 1 with several caps on the multiprocessors that the daemon's
 * engine may occupy, with less load, and by road 2 in the worker itself. p50 and p99 of the step, and by how
 * much they grew; and what the load got done. A case is `road:sms:rate`: sms `-` is the default, rate is the
 * most GB/s of source, `-` no bound. MPS is the caller's (tests/gpu/bench_gpu.sh): LABEL says so in the
 * table. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/measure.h"
#include "tests/gpu/e2e/big.h"
#include "tests/gpu/e2e/step.h"

#define STEPS_MAX 20000u
#define STEP_MS   15.0
#define BLOCKS    64u

static const char *const usual_cases[] = {"1:-:-",  "1:-:20",  "1:-:5", "1:8:-", "1:16:-", "1:32:-",
                                          "1:64:-", "1:132:-", "2:-:-", "2:8:-", "2:32:-", "2:32:5"};

struct load {
	struct rig rig;
	struct big big;
	struct road road;
	double rate;
	atomic_bool stop;
	pthread_t thread;
	double put_bytes;
	double put_s;
	double get_bytes;
	double get_s;
	double all_s;
	size_t failed;
};

struct outcome {
	double p50;
	double p99;
	double most;
	size_t steps;
};

/* ---- load ---------------------------------------------------------------------------------- */

static void pause_ms(double ms)
{
	const struct timespec pause = {.tv_sec = (time_t)(ms / 1e3),
	                               .tv_nsec = (long)((ms - (double)(long)(ms / 1e3) * 1e3) * 1e6)};

	if (ms > 0)
		nanosleep(&pause, NULL);
}

/* One eviction and one restore: a quarter of the blocks each time when the rate is bound, so that it is even.
 */
static void load_once(struct load *load, size_t first, size_t count)
{
	double started = bench_now_s();
	double middle;
	double bytes = (double)(load->big.block_bytes * count);

	load->failed += count - road_put(&load->road, load->big.blocks + first, count, NULL);
	middle = bench_now_s();
	load->failed += count - road_get(&load->road, load->big.blocks + first, count, NULL);
	load->put_bytes += bytes;
	load->get_bytes += bytes;
	load->put_s += middle - started;
	load->get_s += bench_now_s() - middle;
	if (load->rate > 0)
		pause_ms(2 * bytes / load->rate / 1e6 - (bench_now_s() - started) * 1e3);
}

static void *load_run(void *argument)
{
	struct load *load = argument;
	size_t some = load->rate > 0 ? load->big.count / 16 : load->big.count;
	double started = bench_now_s();

	driver_enter(0);
	if (some == 0)
		some = 1;
	while (!atomic_load(&load->stop)) {
		big_renew(&load->big);
		for (size_t at = 0; at + some <= load->big.count && !atomic_load(&load->stop); at += some)
			load_once(load, at, some);
		road_drop(&load->road, load->big.blocks, load->big.count);
	}
	load->all_s = bench_now_s() - started;
	return NULL;
}

static bool load_open(struct load *load, unsigned road, const char *sms, double rate)
{
	bool small = driver_is_fake();

	memset(load, 0, sizeof *load);
	load->rate = rate;
	if (!rig_open(&load->rig,
	              &(struct rig_options){.ram = small ? "64M" : "2G", .sms = road == 1 ? sms : NULL}))
		return false;
	big_open(&load->big, small ? 4 : BLOCKS, 0, false);
	if (!road_open(&load->road, road, load->rig.server.socket, &load->big.options, &load->big.paged,
	               road == 2 && sms ? (uint32_t)strtoul(sms, NULL, 10) : 0, driver_stream(true)))
		return false;
	return pthread_create(&load->thread, NULL, load_run, load) == 0;
}

static void load_close(struct load *load)
{
	road_close(&load->road);
	big_close(&load->big);
	rig_close(&load->rig);
}

/* ---- steps --------------------------------------------------------------------------------- */

static void measure(struct step *step, double seconds, struct outcome *outcome)
{
	static double ms[STEPS_MAX];
	double end = bench_now_s() + seconds;
	size_t count = 0;

	for (unsigned i = 0; i < 5; i++)
		step_run(step);
	while (count < STEPS_MAX && bench_now_s() < end)
		ms[count++] = step_run(step);
	outcome->steps = count;
	outcome->p50 = bench_quantile(ms, count, 0.5);
	outcome->p99 = bench_quantile(ms, count, 0.99);
	outcome->most = bench_quantile(ms, count, 1);
}

static void print_row(const char *label, const char *what, const struct outcome *outcome,
                      const struct outcome *alone)
{
	printf("  %-8s %-30s %8.2f %8.2f %8.2f %8.1f%% %8.1f%%", label, what, outcome->p50, outcome->p99,
	       outcome->most, (outcome->p50 / alone->p50 - 1) * 100, (outcome->p99 / alone->p99 - 1) * 100);
}

/* Rates are of the time in which the load put, or got; the last column is both over all time. */
static void print_load(const struct load *load)
{
	printf(" %8.1f %8.1f %8.1f%s\n", load->put_bytes / load->put_s / 1e9,
	       load->get_bytes / load->get_s / 1e9, (load->put_bytes + load->get_bytes) / load->all_s / 1e9,
	       load->failed ? "  FAILED BLOCKS" : "");
	fflush(stdout);
}

static bool run_case(const char *label, struct step *step, double seconds, const char *text,
                     struct outcome *alone)
{
	static struct load load;
	struct outcome outcome;
	char sms[16];
	char rate[16];
	char what[64];
	unsigned road;

	if (sscanf(text, "%u:%15[^:]:%15s", &road, sms, rate) != 3) {
		fprintf(stderr, "'%s' is no case: road:sms:rate\n", text);
		return false;
	}
	if (!load_open(&load, road, strcmp(sms, "-") == 0 ? NULL : sms, strtod(rate, NULL))) {
		printf("  %-8s road %u, sms %s: not there\n", label, road, sms);
		return false;
	}
	pause_ms(500);
	measure(step, seconds, &outcome);
	atomic_store(&load.stop, true);
	pthread_join(load.thread, NULL);
	snprintf(what, sizeof what, "road %u, %s SMs, %s GB/s", road, strcmp(sms, "-") == 0 ? "default" : sms,
	         strcmp(rate, "-") == 0 ? "all" : rate);
	print_row(label, what, &outcome, alone);
	print_load(&load);
	load_close(&load);
	return load.failed == 0;
}

int main(int argc, char **argv)
{
	const char *label = argc > 1 ? argv[1] : "";
	double seconds = argc > 2 ? strtod(argv[2], NULL) : 6;
	struct outcome alone;
	struct step *step;
	int failed = 0;

	driver_open(1);
	step = step_open(driver_is_fake() ? 1 : STEP_MS);
	measure(step, seconds, &alone);
	printf("\nstep of %u kernels of %.0f MiB; ms, growth against alone, GB/s of source put, got, both "
	       "over all "
	       "time\n  %-8s %-30s %8s %8s %8s %9s %9s %8s %8s %8s\n",
	       step_launches(step), (double)step_launch_bytes(step) / 1048576, "", "", "p50", "p99", "most",
	       "p50 +", "p99 +", "put", "get", "both");
	print_row(label, "alone", &alone, &alone);
	printf("   (%zu steps)\n", alone.steps);
	fflush(stdout);
	for (int i = 3; i < argc; i++)
		failed |= !run_case(label, step, seconds, argv[i], &alone);
	for (size_t i = 0; argc <= 3 && i < sizeof usual_cases / sizeof usual_cases[0]; i++)
		failed |= !run_case(label, step, seconds, usual_cases[i], &alone);
	measure(step, seconds / 2, &alone);
	print_row(label, "alone again", &alone, &alone);
	printf("   (%zu steps)\n", alone.steps);
	step_close(step);
	return failed;
}
