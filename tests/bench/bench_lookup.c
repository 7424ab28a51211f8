/* Look-ups next to Redis: is a key there?
 *
 *   bench_lookup [--redis SOCKET --redis-pid PID] [--calls N] [--seconds S]
 *
 * Depth 1: kvc_lookup of one present key, and EXISTS of one present key over Redis's Unix socket by a client
 * that does nothing but write and read, in turns of CHUNK calls, first a turn that does not count. Both have
 * the same number of keys of the same length. Batches: look-ups of 1,000 present keys for S seconds; keys a
 * second by the clock, and by the processor time that the server took (a core's worth). */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/bench/measure.h"
#include "tests/support/sample.h"
#include "tests/support/server.h"

#define KEYS         20000u
#define PUT_BATCH    500u
#define BATCH        1000u
#define CHUNK        500u
#define TARGET_KEYS  2e6
#define COMMAND_ROOM (64 + BATCH * 40)

struct bench {
	struct kvc_sample_space space;
	struct kvc_server server;
	struct kvc_client *client;
	struct kvc_namespace *ns;
	uint8_t (*keys)[KVC_SAMPLE_KEY_BYTES];
	int redis; /* -1: none */
	int redis_pid;
	size_t calls;
	double seconds;
	uint64_t random;
};

static void die(const char *what)
{
	fprintf(stderr, "bench_lookup: %s: %s\n", what, kvc_last_error());
	exit(1);
}

static size_t pick(struct bench *b, size_t bound)
{
	return (size_t)(kvc_sample_random(&b->random) % bound);
}

/* ---- redis --------------------------------------------------------------------------------- */

static void redis_open(struct bench *b, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	b->redis = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (b->redis < 0 || connect(b->redis, (const struct sockaddr *)&address, sizeof address) != 0) {
		perror("bench_lookup: redis");
		exit(1);
	}
}

static size_t command_begin(char *out, size_t arguments, const char *verb)
{
	return (size_t)sprintf(out, "*%zu\r\n$%zu\r\n%s\r\n", arguments, strlen(verb), verb);
}

static size_t command_add(char *out, const void *data, size_t bytes)
{
	size_t length = (size_t)sprintf(out, "$%zu\r\n", bytes);

	memcpy(out + length, data, bytes);
	memcpy(out + length + bytes, "\r\n", 2);
	return length + bytes + 2;
}

/* One command, one line of answer. */
static void redis_call(const struct bench *b, const char *command, size_t bytes, const char *expected)
{
	char answer[64];
	size_t length = strlen(expected);
	size_t got = 0;

	if (send(b->redis, command, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
		die("redis: send");
	while (got < length) {
		ssize_t n = recv(b->redis, answer + got, sizeof answer - got, 0);

		if (n <= 0)
			die("redis: receive");
		got += (size_t)n;
	}
	if (got != length || memcmp(answer, expected, length) != 0) {
		fprintf(stderr, "bench_lookup: redis answered %.*s\n", (int)got, answer);
		exit(1);
	}
}

static void redis_fill(const struct bench *b)
{
	char command[256];

	for (size_t i = 0; i < KEYS; i++) {
		size_t bytes = command_begin(command, 3, "SET");

		bytes += command_add(command + bytes, b->keys[i], KVC_SAMPLE_KEY_BYTES);
		bytes += command_add(command + bytes, "present", 7);
		redis_call(b, command, bytes, "+OK\r\n");
	}
}

static void redis_exists(const struct bench *b, const size_t *which, size_t count)
{
	static char command[COMMAND_ROOM];
	char expected[16];
	size_t bytes = command_begin(command, count + 1, "EXISTS");

	for (size_t i = 0; i < count; i++)
		bytes += command_add(command + bytes, b->keys[which[i]], KVC_SAMPLE_KEY_BYTES);
	snprintf(expected, sizeof expected, ":%zu\r\n", count);
	redis_call(b, command, bytes, expected);
}

/* ---- kvcellar ------------------------------------------------------------------------------ */

static void cellar_open(struct bench *b)
{
	struct kvc_namespace_options options;

	kvc_namespace_options_init(&options);
	options.model = "lookup";
	options.layers = options.heads = 1;
	options.key_dim = options.value_dim = 16;
	options.element = KVC_ELEMENT_BF16;
	options.block_tokens = 1;
	if (kvc_sample_space_init(&b->space, &options, 1) != KVC_OK || !kvc_server_init(&b->server))
		die("set up");
	kvc_server_arg(&b->server, "--ram", "256M");
	if (!kvc_server_start(&b->server) || !kvc_server_ready(&b->server, 60000)) {
		kvc_server_show_log(&b->server);
		die("daemon");
	}
	if (kvc_server_client(&b->server, 60000, &b->client) != KVC_OK ||
	    kvc_namespace_open(b->client, &options, 0, &b->ns) != KVC_OK)
		die("client");
}

static void cellar_fill(struct bench *b)
{
	struct kvc_block *blocks = calloc(PUT_BATCH, sizeof *blocks);
	struct kvc_memory *memory = NULL;
	struct kvc_transfer transfer;
	struct kvc_outcome outcome;

	if (!blocks || kvc_memory_create(b->client, PUT_BATCH * 64, &memory) != KVC_OK)
		die("memory");
	kvc_transfer_init(&transfer, memory);
	for (size_t first = 0; first < KEYS; first += PUT_BATCH) {
		for (size_t i = 0; i < PUT_BATCH; i++)
			kvc_sample_block(&b->space, first + i, i * 64, b->keys[first + i], &blocks[i]);
		if (kvc_put(b->ns, &transfer, blocks, PUT_BATCH, &outcome) != KVC_OK ||
		    outcome.blocks_ok != PUT_BATCH)
			die("put");
	}
	kvc_memory_destroy(memory);
	free(blocks);
}

static void cellar_lookup(struct bench *b, const size_t *which, size_t count)
{
	static struct kvc_key keys[BATCH];
	size_t prefix = 0;

	for (size_t i = 0; i < count; i++)
		keys[i] = (struct kvc_key){.data = b->keys[which[i]], .bytes = KVC_SAMPLE_KEY_BYTES};
	if (kvc_lookup(b->ns, keys, count, 0, &prefix, NULL) != KVC_OK || prefix != count)
		die("lookup");
}

/* ---- depth 1 ------------------------------------------------------------------------------- */

typedef void (*lookup_fn)(struct bench *b, const size_t *which, size_t count);

static void redis_lookup(struct bench *b, const size_t *which, size_t count)
{
	redis_exists(b, which, count);
}

static void chunk_run(struct bench *b, lookup_fn lookup, double *us)
{
	for (size_t i = 0; i < CHUNK; i++) {
		size_t which = pick(b, KEYS);
		double begun = bench_now_s();

		lookup(b, &which, 1);
		us[i] = (bench_now_s() - begun) * 1e6;
	}
}

static void depth_one(struct bench *b)
{
	size_t count = (b->calls + CHUNK - 1) / CHUNK * CHUNK;
	double *ours = calloc(count, sizeof *ours);
	double *theirs = calloc(count, sizeof *theirs);

	if (!ours || !theirs)
		abort();
	chunk_run(b, cellar_lookup, ours);
	if (b->redis >= 0)
		chunk_run(b, redis_lookup, theirs);
	for (size_t i = 0; i < count; i += CHUNK) {
		chunk_run(b, cellar_lookup, ours + i);
		if (b->redis >= 0)
			chunk_run(b, redis_lookup, theirs + i);
	}
	for (unsigned i = 0; i < 2; i++) {
		double part = i ? 0.99 : 0.5;
		double mine = bench_quantile(ours, count, part);
		double other = bench_quantile(theirs, count, part);

		printf("lookup of one key, %s   %6.1f us", i ? "p99" : "p50", mine);
		if (b->redis >= 0)
			printf("   redis EXISTS %6.1f us   ratio %.2f   target not above 1%s", other,
			       mine / other, mine > other ? "  MISSED" : "");
		printf("\n");
	}
	free(ours);
	free(theirs);
}

/* ---- batches ------------------------------------------------------------------------------- */

static void batches(struct bench *b, const char *what, lookup_fn lookup, int pid, double target)
{
	static size_t which[BATCH];
	double cpu = bench_cpu_s(pid);
	double begun = bench_now_s();
	double keys = 0;
	double wall;

	do {
		size_t first = pick(b, KEYS);

		for (size_t i = 0; i < BATCH; i++)
			which[i] = (first + i * 7919) % KEYS;
		lookup(b, which, BATCH);
		keys += BATCH;
	} while (bench_now_s() - begun < b->seconds);
	wall = bench_now_s() - begun;
	cpu = bench_cpu_s(pid) - cpu;
	printf("%s of %u keys   %.2f M keys/s   %.2f M keys/s and core of the server", what, BATCH,
	       keys / wall / 1e6, keys / cpu / 1e6);
	if (target > 0)
		printf("   target %.0f M%s", target / 1e6, keys / cpu < target ? "  MISSED" : "");
	printf("\n");
}

static bool arguments(int argc, char **argv, struct bench *b, const char **redis)
{
	b->calls = 50000;
	b->seconds = 3;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--redis") == 0)
			*redis = argv[i + 1];
		else if (strcmp(argv[i], "--redis-pid") == 0)
			b->redis_pid = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--calls") == 0)
			b->calls = strtoul(argv[i + 1], NULL, 0);
		else if (strcmp(argv[i], "--seconds") == 0)
			b->seconds = strtod(argv[i + 1], NULL);
		else
			return false;
	}
	return argc % 2 == 1 && b->calls > 0 && b->seconds > 0;
}

int main(int argc, char **argv)
{
	static struct bench bench = {.redis = -1, .random = 1};
	const char *redis = NULL;

	if (!arguments(argc, argv, &bench, &redis)) {
		fprintf(stderr, "usage: %s [--redis SOCKET --redis-pid PID] [--calls N] [--seconds S]\n",
		        argv[0]);
		return 2;
	}
	bench.keys = calloc(KEYS, sizeof *bench.keys);
	if (!bench.keys)
		abort();
	cellar_open(&bench);
	cellar_fill(&bench);
	if (redis) {
		redis_open(&bench, redis);
		redis_fill(&bench);
	}
	depth_one(&bench);
	batches(&bench, "lookup", cellar_lookup, (int)bench.server.pid, TARGET_KEYS);
	if (redis && bench.redis_pid)
		batches(&bench, "redis EXISTS", redis_lookup, bench.redis_pid, 0);
	kvc_client_destroy(bench.client);
	kvc_server_stop(&bench.server, 20000);
	kvc_server_remove(&bench.server);
	free(bench.keys);
	return 0;
}
