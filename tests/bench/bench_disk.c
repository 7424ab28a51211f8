/* The disk tier by itself: stores, then loads, of one size at a given depth, and how fast that was.
 *
 *   bench_disk DIRECTORY [REQUEST_KIB [DEPTH [TOTAL_MIB [REGISTERED [ENCRYPTED]]]]]
 *
 * One line a direction, made to be read by disk_vs_fio.sh and disk_encrypted.sh: what, GB/s, seconds of
 * processor time for a GB, the depth that was really reached (io.depth_reached), requests over registered
 * memory, whether O_DIRECT and io_uring were in use. Stores end with a sync, which is part of their time.
 * REGISTERED 0: memory is not registered with the ring. ENCRYPTED 1: the directory is. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/engine/engine.h"
#include "daemon/io/io.h"
#include "daemon/mem/arena.h"
#include "daemon/tier/disk.h"
#include "tests/bench/measure.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"

enum { DEPTH_MAX = 256 };

struct slot {
	struct bench *bench;
	struct kvc_tier_req req;
};

struct bench {
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_engine *engine;
	struct kvc_io *io;
	struct kvc_tier *tier;
	uint64_t request_bytes;
	uint32_t depth;
	uint32_t requests;
	enum kvc_tier_op op;
	uint32_t begun;
	uint32_t ended;
	uint32_t failed;
	bool flag;
	bool registered;
	struct kvc_arena *arena; /* a slab for each slot */
	struct kvc_record *records;
	struct slot slots[DEPTH_MAX];
};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "bench_disk: %s: %s\n", what, why);
	exit(1);
}

static bool recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	(void)context;
	(void)record;
	(void)cookie;
	return false;
}

static void reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
	fail("the tier", "reclaims what is to be read");
}

static void recover_done(void *context, kvc_status status)
{
	if (status)
		fail("recovery", kvc_status_text(status));
	*(bool *)context = true;
}

static void close_done(void *context)
{
	*(bool *)context = true;
}

/* --- requests ------------------------------------------------------------------------------------- */

static void slot_begin(struct slot *slot)
{
	struct bench *bench = slot->bench;
	uint32_t i = bench->begun++;

	slot->req.op = bench->op;
	if (bench->op == KVC_TIER_STORE) {
		slot->req.cookie = i;
		slot->req.record = (struct kvc_record){
		        .generation = i + 1,
		        .image_bytes = bench->request_bytes - KVC_RECORD_HEADER_BYTES,
		        .tokens = 16,
		};
		memcpy(slot->req.record.key.bytes, &i, sizeof i);
	} else {
		slot->req.record = bench->records[i];
	}
	bench->tier->ops->submit(bench->tier, &slot->req);
}

static void slot_done(struct kvc_tier_req *req)
{
	struct slot *slot = kvc_container_of(req, struct slot, req);
	struct bench *bench = slot->bench;

	bench->ended++;
	bench->failed += req->status != KVC_OK;
	if (req->op == KVC_TIER_STORE)
		bench->records[req->cookie] = req->record;
	if (bench->begun < bench->requests)
		slot_begin(slot);
}

static bool all_ended(void *context)
{
	const struct bench *bench = context;

	return bench->ended == bench->requests;
}

static void sync_done(struct kvc_tier_req *req)
{
	if (req->status)
		fail("sync", kvc_status_text(req->status));
	req->cookie = 1;
}

static bool sync_ended(void *context)
{
	return ((const struct kvc_tier_req *)context)->cookie != 0;
}

/* Of all threads. */
static double cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void phase(struct bench *bench, enum kvc_tier_op op, const char *name)
{
	struct kvc_tier_req sync = {.op = KVC_TIER_SYNC, .done = sync_done};
	kvc_stat_cell *depth = kvc_stats_cell(bench->stats, "io.depth_reached");
	kvc_stat_cell *fixed = kvc_stats_cell(bench->stats, "io.registered_requests");
	double gb = (double)bench->request_bytes * bench->requests * 1e-9;
	double start, seconds, cpu;

	bench->op = op;
	bench->begun = bench->ended = 0;
	kvc_stat_set(depth, 0);
	kvc_stat_set(fixed, 0);
	cpu = cpu_s();
	start = bench_now_s();
	while (bench->begun < bench->depth && bench->begun < bench->requests)
		slot_begin(&bench->slots[bench->begun]);
	if (!kvc_test_run_until(bench->loop, all_ended, bench, 600000))
		fail(name, "does not end");
	if (op == KVC_TIER_STORE) {
		bench->tier->ops->submit(bench->tier, &sync);
		if (!kvc_test_run_until(bench->loop, sync_ended, &sync, 600000))
			fail("sync", "does not end");
	}
	seconds = bench_now_s() - start;
	if (bench->failed)
		fail(name, "some requests failed");
	printf("%s GBps=%.3f cpu_s_per_GB=%.4f depth_reached=%lld registered=%lld direct=%lld backend=%s "
	       "seconds=%.2f\n",
	       name, gb / seconds, (cpu_s() - cpu) / gb, (long long)kvc_stat_get(depth),
	       (long long)kvc_stat_get(fixed),
	       (long long)kvc_stat_get(kvc_stats_cell(bench->stats, "disk.direct")),
	       kvc_io_backend_name(bench->io), seconds);
}

/* --- life ----------------------------------------------------------------------------------------- */

static uint8_t *memory_of(const struct bench *bench)
{
	return (uint8_t *)(uintptr_t)kvc_arena_base(bench->arena);
}

static void slots_open(struct bench *bench)
{
	struct prng prng = {.state = 1};

	if (kvc_arena_open(bench->depth * bench->request_bytes, bench->stats, &bench->arena))
		fail("memory", "not enough");
	for (uint32_t i = 0; i < bench->depth; i++) {
		uint8_t *slab = memory_of(bench) + i * bench->request_bytes;

		for (uint64_t at = 0; at < bench->request_bytes; at += sizeof(uint64_t)) {
			uint64_t word = prng_next(&prng);

			memcpy(slab + at, &word, sizeof word);
		}
		bench->slots[i].bench = bench;
		bench->slots[i].req = (struct kvc_tier_req){.slab = slab, .done = slot_done};
	}
	bench->records = calloc(bench->requests, sizeof *bench->records);
	if (!bench->records)
		fail("memory", "not enough");
}

static bool touched(void *context)
{
	return kvc_arena_touched(((const struct bench *)context)->arena);
}

static void bench_open(struct bench *bench, const char *directory, bool encrypted)
{
	static const struct kvc_secret key = {{1}};
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	struct kvc_io_options io = {.backend = KVC_IO_AUTO, .depth = 64};
	uint64_t total = bench->request_bytes * bench->requests;
	struct kvc_disk_options disk = {.directory = directory, .bytes = total + total / 4 + (1ull << 30)};
	struct kvc_tier_events events = {.recovered = recovered, .reclaimed = reclaimed};
	char detail[256];

	if (kvc_loop_open(&bench->loop) || kvc_stats_open(&bench->stats) ||
	    kvc_io_open(bench->loop, &io, bench->stats, &bench->io) ||
	    kvc_engine_cpu_open(bench->loop, processors > 0 ? (uint32_t)processors : 1, KVC_SIMD_SCALAR,
	                        &bench->engine))
		fail("start", "no memory");
	disk.engine = bench->engine;
	disk.key = encrypted ? &key : NULL;
	slots_open(bench);
	if (kvc_disk_open(bench->loop, bench->io, bench->stats, &disk, detail, sizeof detail, &bench->tier))
		fail(directory, detail);
	bench->tier->ops->recover(bench->tier, &events, recover_done, &bench->flag);
	if (!kvc_test_run_until_set(bench->loop, &bench->flag))
		fail("recovery", "does not end");
	if (!kvc_test_run_until(bench->loop, touched, bench, 60000))
		fail("memory", "not enough to spare");
	if (bench->registered)
		kvc_io_memory(bench->io, memory_of(bench), bench->depth * bench->request_bytes, 0);
}

static void bench_close(struct bench *bench)
{
	bench->flag = false;
	bench->tier->ops->close(bench->tier, close_done, &bench->flag);
	if (!kvc_test_run_until_set(bench->loop, &bench->flag))
		fail("close", "does not end");
	kvc_engine_close(bench->engine);
	kvc_io_close(bench->io);
	kvc_arena_close(bench->arena);
	kvc_stats_close(bench->stats);
	kvc_loop_close(bench->loop);
	free(bench->records);
}

static uint32_t number(int argc, char **argv, int i, uint32_t otherwise)
{
	return argc > i ? (uint32_t)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
	static struct bench bench;

	if (argc < 2)
		fail("usage",
		     "bench_disk DIRECTORY [REQUEST_KIB [DEPTH [TOTAL_MIB [REGISTERED [ENCRYPTED]]]]]");
	kvc_log_level_now = KVC_LOG_WARN;
	kvc_key_init();
	bench.request_bytes = (uint64_t)number(argc, argv, 2, 4096) * 1024;
	bench.depth = number(argc, argv, 3, 8);
	bench.registered = number(argc, argv, 5, 1) != 0;
	bench.requests = (uint32_t)(((uint64_t)number(argc, argv, 4, 1024) << 20) / bench.request_bytes);
	if (bench.request_bytes < KVC_RECORD_ALIGN || bench.depth < 1 || bench.depth > DEPTH_MAX ||
	    !bench.requests)
		fail("usage", "a number is out of range");
	bench_open(&bench, argv[1], number(argc, argv, 6, 0) != 0);
	phase(&bench, KVC_TIER_STORE, "write");
	phase(&bench, KVC_TIER_LOAD, "read");
	bench_close(&bench);
	return 0;
}
