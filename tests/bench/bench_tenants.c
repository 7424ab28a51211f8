/* Two tenants on one daemon: what a quiet one has while another one floods and scans.
 *
 *   bench_tenants [--seconds S] [--threads N] [--rate BYTES] [--flood-nice N]
 *
 * --rate gives the flood a budget, of puts and of gets, beyond which it is refused. --flood-nice is the
 * priority of the flood's own process, which on a machine with few processors takes time from everyone: that
 * is not the daemon's to share out.
 *
 * The quiet tenant works on a set of blocks that takes a fifth of the RAM tier (128 MiB, no disk): seven gets
 * of one block, picked at random, then a put of one that it has not; a get that misses is followed by a put,
 * as a worker would do that has to compute it again. Three phases of S seconds each:
 *
 *   alone   nothing else runs
 *   burn    beside it a process that only burns processor time, with as many threads as the flood keeps busy
 *           (the codec's and its own)
 *   flood   beside it a tenant with two connections: one puts blocks that nobody asks for again, the other
 *           gets each of them once, both with 64 requests under way, as fast as they are taken
 *
 * Printed: 50th and 99th percentiles of the quiet tenant's gets and puts, its hit rate, and the flood's
 * figures against those of the other phases. Targets: the 99th percentile at most doubles against `alone`,
 * and the hit rate loses less than 5 points. */
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/measure.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

enum {
	SET = 200,         /* blocks of the quiet tenant */
	OPS_MAX = 1 << 20, /* that are measured in a phase */
	GETS = 7,          /* for each put of a new block */
	DEPTH = 64,        /* requests of the flood under way, on each connection */
	DEADLINE_MS = 20000,
	SPIN = 1 << 16,
};

#define FIRST (1ull << 40) /* block of the flood */

enum phase { ALONE, BURN, FLOOD, PHASES };

static const char *const phase_names[PHASES] = {"alone", "burn", "flood"};

struct figures {
	double get[2]; /* 50th and 99th percentile, microseconds */
	double put[2];
	double hits; /* of gets, in percent */
	size_t gets;
	size_t puts;
};

struct bench {
	unsigned threads;
	double seconds;
	const char *rate; /* NULL: none */
	int flood_nice;
	struct kvc_sample_space space;
	size_t block_bytes;
	struct kvc_server server;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	uint64_t random;
	uint64_t fresh; /* id of the next block that nobody has */
	double *gets;
	double *puts;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_tenants: %s: %s\n", what, kvc_last_error());
	exit(1);
}

/* ---- a client ------------------------------------------------------------------------------ */

static void client_open(const struct bench *b, const char *tenant, size_t blocks, struct kvc_client **client,
                        struct kvc_namespace **ns, struct kvc_memory **memory)
{
	struct kvc_namespace_options options = b->space.options;

	options.tenant = tenant;
	if (kvc_server_client(&b->server, DEADLINE_MS, client) != KVC_OK ||
	    kvc_namespace_open(*client, &options, 0, ns) != KVC_OK ||
	    kvc_memory_create(*client, blocks * b->block_bytes, memory) != KVC_OK)
		die("a client cannot be made");
	for (size_t i = 0; i < blocks; i++)
		kvc_sample_source(&b->space, i, (uint8_t *)kvc_memory_data(*memory) + i * b->block_bytes);
}

static void block_init(const struct bench *b, uint64_t id, size_t place, uint8_t *key,
                       struct kvc_block *block)
{
	kvc_sample_block(&b->space, id, place * b->block_bytes, key, block);
	block->tokens = b->space.options.block_tokens;
	block->value_offset = place * b->block_bytes + b->block_bytes / 2;
}

/* ---- the flood ----------------------------------------------------------------------------- */

/* One request of the flood, reused as soon as it is complete. */
struct slot {
	uint8_t key[KVC_SAMPLE_KEY_BYTES];
	struct kvc_block block;
};

static void flood_submit(const struct bench *b, struct kvc_namespace *ns, struct kvc_memory *memory, bool put,
                         uint64_t id, struct slot *slot, size_t place)
{
	struct kvc_transfer transfer;

	kvc_transfer_init(&transfer, memory);
	block_init(b, id, place, slot->key, &slot->block);
	if ((put ? kvc_put_submit : kvc_get_submit)(ns, &transfer, &slot->block, 1, slot) != KVC_OK)
		die("the flood");
}

/* How far the puts have got. */
static _Atomic uint64_t flooded = FIRST;

/* The next block to put; or to get, if possible one whose put is complete, and that was not got before. */
static uint64_t flood_next(bool put, uint64_t *got)
{
	uint64_t end;

	if (put)
		return atomic_fetch_add(&flooded, 1);
	end = atomic_load(&flooded) - DEPTH;
	if (*got >= end)
		*got = end > FIRST + DEPTH ? end - DEPTH : FIRST;
	return (*got)++;
}

/* Ends with its process. */
static void flood_run(const struct bench *b, bool put)
{
	struct slot *slots = calloc(DEPTH, sizeof *slots);
	struct kvc_completion completions[DEPTH];
	struct kvc_namespace *ns;
	struct kvc_memory *memory;
	struct kvc_client *client;
	uint64_t got = FIRST;

	if (!slots)
		abort();
	client_open(b, "flood", DEPTH, &client, &ns, &memory);
	for (size_t i = 0; i < DEPTH; i++)
		flood_submit(b, ns, memory, put, flood_next(put, &got), &slots[i], i);
	for (;;) {
		size_t count;

		if (kvc_client_next(client, completions, DEPTH, 1000, &count) != KVC_OK)
			die("the flood");
		for (size_t i = 0; i < count; i++) {
			struct slot *slot = completions[i].tag;

			flood_submit(b, ns, memory, put, flood_next(put, &got), slot, (size_t)(slot - slots));
		}
	}
}

static void *scan_run(void *bench)
{
	flood_run(bench, false);
	return NULL;
}

static void thread_start(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, run, argument) != 0)
		abort();
}

static void *burn_run(void *unused)
{
	volatile uint64_t sum = 0;

	(void)unused;
	for (;;)
		for (unsigned i = 0; i < SPIN; i++)
			sum = sum + i; /* read: else it would go */
	return NULL;
}

static void burn(unsigned threads)
{
	for (unsigned i = 1; i < threads; i++)
		thread_start(burn_run, NULL);
	burn_run(NULL);
}

static pid_t child_start(struct bench *b, enum phase phase)
{
	pid_t pid = fork();

	if (pid < 0)
		abort();
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (phase == BURN)
		burn(b->threads + 2);
	if (nice(b->flood_nice) < 0 && b->flood_nice < 0)
		die("nice");
	thread_start(scan_run, b);
	flood_run(b, true);
	_exit(1);
}

static void child_end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- the quiet tenant ---------------------------------------------------------------------- */

/* Microseconds that it took. */
static double transfer_one(struct bench *b, bool put, uint64_t id, kvc_status *status)
{
	uint8_t key[KVC_SAMPLE_KEY_BYTES];
	struct kvc_transfer transfer;
	struct kvc_block block;
	double begun;

	kvc_transfer_init(&transfer, b->memory);
	block_init(b, id, put ? 0 : 1, key, &block);
	begun = bench_now_s();
	*status = (put ? kvc_put : kvc_get)(b->ns, &transfer, &block, 1, NULL);
	if (*status == KVC_OK)
		*status = block.status;
	if (*status != KVC_OK && *status != KVC_MISS)
		die(put ? "put" : "get");
	return (bench_now_s() - begun) * 1e6;
}

static void quiet_run(struct bench *b, double seconds, struct figures *figures)
{
	double end = bench_now_s() + seconds;
	size_t hits = 0;
	kvc_status status;

	*figures = (struct figures){.hits = 0};
	while (bench_now_s() < end && figures->gets + GETS < OPS_MAX) {
		for (unsigned i = 0; i < GETS; i++) {
			uint64_t id = kvc_sample_random(&b->random) % SET;
			double took = transfer_one(b, false, id, &status);

			figures->gets++;
			if (status == KVC_OK)
				b->gets[hits++] = took;
			else
				transfer_one(b, true, id, &status);
		}
		b->puts[figures->puts++] = transfer_one(b, true, b->fresh++, &status);
	}
	figures->hits = 100.0 * (double)hits / (double)figures->gets;
	for (unsigned i = 0; i < 2; i++) {
		figures->get[i] = bench_quantile(b->gets, hits, i ? 0.99 : 0.5);
		figures->put[i] = bench_quantile(b->puts, figures->puts, i ? 0.99 : 0.5);
	}
}

static void phase_run(struct bench *b, enum phase phase, struct figures *figures)
{
	struct figures warm;
	pid_t child = phase == ALONE ? 0 : child_start(b, phase);
	kvc_status status;

	for (uint64_t id = 0; id < SET; id++)
		transfer_one(b, true, id, &status);
	quiet_run(b, b->seconds / 4, &warm);
	quiet_run(b, b->seconds, figures);
	if (child)
		child_end(child);
	printf("%-6s get p50 %7.0f us p99 %7.0f us   put p50 %7.0f us p99 %7.0f us   hit rate %5.1f %%   "
	       "%zu gets, %zu puts\n",
	       phase_names[phase], figures->get[0], figures->get[1], figures->put[0], figures->put[1],
	       figures->hits, figures->gets, figures->puts);
}

static double tenant_stat(struct bench *b, const char *tenant, const char *name)
{
	struct kvc_stat *stats;
	double value = 0;
	size_t count;

	if (kvc_tenant_stats(b->client, tenant, 0, &stats, &count) != KVC_OK)
		die("statistics");
	for (size_t i = 0; i < count; i++)
		if (strcmp(stats[i].name, name) == 0)
			value = stats[i].value;
	kvc_stats_free(stats);
	return value;
}

static void report(struct bench *b, const struct figures *figures)
{
	const struct figures *flood = &figures[FLOOD];

	printf("flood: %.1f GB taken from it, %.1f GB given to it, %.0f of its blocks evicted; of the quiet "
	       "tenant's "
	       "%.0f\n",
	       tenant_stat(b, "flood", "tenant.put_bytes") / 1e9,
	       tenant_stat(b, "flood", "tenant.get_bytes") / 1e9, tenant_stat(b, "flood", "tenant.evicted"),
	       tenant_stat(b, "quiet", "tenant.evicted"));
	for (unsigned phase = ALONE; phase < FLOOD; phase++) {
		const struct figures *other = &figures[phase];
		bool reference = phase == ALONE;
		bool missed = flood->get[1] > 2 * other->get[1] || flood->put[1] > 2 * other->put[1];

		printf("flood / %-5s  get p50 %.2f p99 %.2f   put p50 %.2f p99 %.2f   hit rate %+.1f "
		       "points%s\n",
		       phase_names[phase], flood->get[0] / other->get[0], flood->get[1] / other->get[1],
		       flood->put[0] / other->put[0], flood->put[1] / other->put[1],
		       flood->hits - other->hits,
		       !reference                                  ? ""
		       : missed || flood->hits - other->hits <= -5 ? "   target 2, -5  MISSED"
		                                                   : "   target 2, -5");
	}
}

/* ---- life ---------------------------------------------------------------------------------- */

/* Of the flood: so many bytes a second of puts, and as many of gets. */
static void budget_write(struct bench *b)
{
	static char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof path, "%s/tenants.conf", b->server.folder);
	file = fopen(path, "we");
	if (!file || fprintf(file, "[tenant flood]\nput-rate = %s\nget-rate = %s\n", b->rate, b->rate) < 0 ||
	    fclose(file))
		die(path);
	kvc_server_arg(&b->server, "--config", path);
}

static void bench_open(struct bench *b)
{
	struct kvc_namespace_options options;
	static char threads[16];

	kvc_namespace_options_init(&options);
	options.model = "bench";
	options.layers = 8;
	options.heads = 4;
	options.key_dim = options.value_dim = 64;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 64;
	snprintf(threads, sizeof threads, "%u", b->threads);
	if (kvc_sample_space_init(&b->space, &options, 9) != KVC_OK || !kvc_server_init(&b->server))
		die("set-up");
	b->block_bytes = kvc_sample_bytes_max(&b->space);
	kvc_server_arg(&b->server, "--ram", "128M");
	kvc_server_arg(&b->server, "--threads", threads);
	if (b->rate)
		budget_write(b);
	b->gets = calloc(OPS_MAX, sizeof *b->gets);
	b->puts = calloc(OPS_MAX, sizeof *b->puts);
	if (!b->gets || !b->puts || !kvc_server_start(&b->server) || !kvc_server_ready(&b->server, 30000))
		die("the daemon does not start");
	b->random = 1;
	b->fresh = 1u << 20;
	client_open(b, "quiet", 2, &b->client, &b->ns, &b->memory);
}

static void bench_close(struct bench *b)
{
	kvc_client_destroy(b->client);
	kvc_server_stop(&b->server, 30000);
	kvc_server_kill(&b->server);
	kvc_server_remove(&b->server);
	free(b->gets);
	free(b->puts);
}

static bool arguments(int argc, char **argv, struct bench *b)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	b->threads = cores > 0 ? (unsigned)cores : 1;
	b->seconds = 10;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--seconds") == 0)
			b->seconds = strtod(argv[i + 1], NULL);
		else if (strcmp(argv[i], "--threads") == 0)
			b->threads = (unsigned)strtoul(argv[i + 1], NULL, 0);
		else if (strcmp(argv[i], "--rate") == 0)
			b->rate = argv[i + 1];
		else if (strcmp(argv[i], "--flood-nice") == 0)
			b->flood_nice = (int)strtol(argv[i + 1], NULL, 0);
		else
			return false;
	}
	return argc % 2 == 1 && b->seconds > 0 && b->threads >= 1 && b->threads <= 256;
}

int main(int argc, char **argv)
{
	static struct bench bench;
	struct figures figures[PHASES];

	if (!arguments(argc, argv, &bench)) {
		fprintf(stderr, "usage: %s [--seconds S] [--threads N] [--rate BYTES] [--flood-nice N]\n",
		        argv[0]);
		return 2;
	}
	bench_open(&bench);
	printf("%u codec threads, %u blocks of %zu bytes, phases of %.0f s\n", bench.threads, (unsigned)SET,
	       bench.block_bytes, bench.seconds);
	for (unsigned phase = ALONE; phase < PHASES; phase++)
		phase_run(&bench, (enum phase)phase, &figures[phase]);
	report(&bench, figures);
	bench_close(&bench);
	return 0;
}
