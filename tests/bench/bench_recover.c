/* How long a start takes: bench_recover DIRECTORY [RECORDS [ROUNDS]].
 *
 * The tier is filled with RECORDS records of 4 KiB, stopped, and started: from the checkpoint, from summaries
 * (the checkpoint is deleted), and by a scan (the summaries are damaged). The owner puts every record into
 * the index, as the cache does. Each line: seconds (median, 99th percentile of the rounds, worst), seconds of
 * processor time (median: what a busy machine cannot take away), what was read in MiB, and how many times
 * longer than reading the same bytes with O_DIRECT, 1 MiB at a time. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/cache/index.h"
#include "daemon/io/io.h"
#include "daemon/tier/disk.h"
#include "daemon/tier/summary.h"
#include "tests/bench/measure.h"
#include "tests/support/loop_run.h"
#include "tests/support/prng.h"

enum { DEPTH = 64, RECORD = 4096, ROUNDS = 3, ROUNDS_MAX = 1000, CHUNK = 1 << 20, PATH = 512 };

enum mode { BY_CHECKPOINT, BY_SUMMARY, BY_SCAN, MODES };

static const char *const mode_names[MODES] = {"checkpoint", "summaries", "scan"};

struct slot {
	struct bench *bench;
	struct kvc_tier_req req;
};

struct bench {
	const char *directory;
	uint32_t records;
	unsigned rounds;
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_io *io;
	struct kvc_tier *tier;
	struct kvc_index *index;
	uint32_t begun;
	uint32_t ended;
	bool flag;
	struct slot slots[DEPTH];
};

static const uint8_t tenant[16] = {1};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "bench_recover: %s: %s\n", what, why);
	exit(1);
}

/* --- the owner ------------------------------------------------------------------------------------ */

static bool take(struct bench *bench, const struct kvc_record *record, uint32_t *id)
{
	struct kvc_entry *entry;

	if (kvc_index_find(bench->index, &record->key) != KVC_ENTRY_NONE ||
	    kvc_index_insert(bench->index, &record->key, id) != KVC_OK)
		return false;
	entry = kvc_index_entry(bench->index, *id);
	entry->place = record->place;
	entry->epoch = (uint32_t)record->epoch;
	entry->image_bytes = (uint32_t)record->image_bytes;
	entry->tokens = (uint16_t)record->tokens;
	return true;
}

static bool recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	return take(context, record, cookie);
}

static void reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
	fail("the tier", "reclaims what is to be found again");
}

static bool describe(void *context, uint32_t cookie, struct kvc_record *record)
{
	struct bench *bench = context;
	const struct kvc_entry *entry = kvc_index_entry(bench->index, cookie);

	record->key = entry->key;
	record->image_bytes = entry->image_bytes;
	record->tokens = entry->tokens;
	memcpy(record->tenant, tenant, sizeof record->tenant);
	return entry->place.segment == record->place.segment && entry->place.page == record->place.page;
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

/* --- life of the tier ----------------------------------------------------------------------------- */

/* Seconds from opening to the end of the recovery. */
static double start(struct bench *bench)
{
	struct kvc_io_options io = {.backend = KVC_IO_AUTO, .depth = 64};
	struct kvc_disk_options disk = {
	        .directory = bench->directory,
	        .bytes = (uint64_t)bench->records * RECORD * 5 / 4 + (1ull << 30),
	        .segment_bytes = 256u << 20,
	};
	struct kvc_tier_events events = {
	        .recovered = recovered, .reclaimed = reclaimed, .describe = describe, .context = bench};
	double begin = bench_now_s();
	char detail[256];

	if (kvc_loop_open(&bench->loop) || kvc_stats_open(&bench->stats) ||
	    kvc_io_open(bench->loop, &io, bench->stats, &bench->io) || kvc_index_open(0, &bench->index))
		fail("start", "no memory");
	if (kvc_disk_open(bench->loop, bench->io, bench->stats, &disk, detail, sizeof detail, &bench->tier))
		fail(bench->directory, detail);
	bench->flag = false;
	bench->tier->ops->recover(bench->tier, &events, recover_done, &bench->flag);
	if (!kvc_test_run_until_set(bench->loop, &bench->flag))
		fail("recovery", "does not end");
	return bench_now_s() - begin;
}

static double stop(struct bench *bench)
{
	double begin = bench_now_s();

	bench->flag = false;
	bench->tier->ops->close(bench->tier, close_done, &bench->flag);
	if (!kvc_test_run_until_set(bench->loop, &bench->flag))
		fail("close", "does not end");
	kvc_io_close(bench->io);
	kvc_stats_close(bench->stats);
	kvc_loop_close(bench->loop);
	kvc_index_close(bench->index);
	return bench_now_s() - begin;
}

/* --- filling -------------------------------------------------------------------------------------- */

static void slot_begin(struct slot *slot)
{
	struct bench *bench = slot->bench;
	struct prng prng = {.state = bench->begun++};
	struct kvc_record *record = &slot->req.record;

	*record = (struct kvc_record){
	        .generation = bench->begun,
	        .image_bytes = RECORD - KVC_RECORD_HEADER_BYTES,
	        .tokens = 16,
	};
	memcpy(record->tenant, tenant, sizeof record->tenant);
	for (unsigned i = 0; i < KVC_STORAGE_KEY_BYTES; i += 8) {
		uint64_t word = prng_next(&prng);

		memcpy(record->key.bytes + i, &word, sizeof word);
	}
	if (kvc_index_insert(bench->index, &record->key, &slot->req.cookie))
		fail("index", "no memory");
	slot->req.op = KVC_TIER_STORE;
	bench->tier->ops->submit(bench->tier, &slot->req);
}

static void slot_done(struct kvc_tier_req *req)
{
	struct slot *slot = kvc_container_of(req, struct slot, req);
	struct bench *bench = slot->bench;
	struct kvc_entry *entry = kvc_index_entry(bench->index, req->cookie);

	if (req->status)
		fail("store", kvc_status_text(req->status));
	entry->place = req->record.place;
	entry->epoch = (uint32_t)req->record.epoch;
	entry->image_bytes = (uint32_t)req->record.image_bytes;
	entry->tokens = 16;
	bench->ended++;
	if (bench->begun < bench->records)
		slot_begin(slot);
}

static bool all_ended(void *context)
{
	const struct bench *bench = context;

	return bench->ended == bench->records;
}

static void fill(struct bench *bench)
{
	for (uint32_t i = 0; i < DEPTH; i++) {
		uint8_t *slab = aligned_alloc(KVC_IO_ALIGN, RECORD);

		if (!slab)
			fail("memory", "not enough");
		memset(slab, 0x5A, RECORD);
		bench->slots[i] = (struct slot){.bench = bench, .req = {.slab = slab, .done = slot_done}};
		slot_begin(&bench->slots[i]);
	}
	if (!kvc_test_run_until(bench->loop, all_ended, bench, 600000))
		fail("stores", "do not end");
	for (uint32_t i = 0; i < DEPTH; i++)
		free(bench->slots[i].req.slab);
}

/* --- what the modes find, and the reference -------------------------------------------------------- */

static void footer_damage(const char *path)
{
	static const uint8_t zero[KVC_PAGE_BYTES];
	int fd = open(path, O_WRONLY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) ||
	    pwrite(fd, zero, sizeof zero, st.st_size - (off_t)sizeof zero) != sizeof zero || fsync(fd))
		fail(path, "cannot be damaged");
	close(fd);
}

/* Seconds to read the last `bytes` of a file, or all of it. */
static double read_file(const char *path, uint64_t bytes, uint64_t *total)
{
	static _Alignas(4096) uint8_t chunk[CHUNK];
	int fd = open(path, O_RDONLY | O_DIRECT);
	double begin = bench_now_s();
	struct stat st;
	ssize_t n = 1;

	if (fd < 0 || fstat(fd, &st))
		fail(path, "cannot be read");
	for (off_t at = bytes < (uint64_t)st.st_size ? st.st_size - (off_t)bytes : 0; n > 0; at += n) {
		n = pread(fd, chunk, sizeof chunk, at);
		*total += n > 0 ? (uint64_t)n : 0;
	}
	close(fd);
	return bench_now_s() - begin;
}

/* Every segment's file in turn. */
static double each_segment(const struct bench *bench, enum mode mode, uint64_t *total)
{
	uint64_t tail = (uint64_t)kvc_summary_pages((256u << 20) / RECORD) * KVC_PAGE_BYTES;
	char path[PATH];
	double seconds = 0;

	for (uint32_t i = 0; i < 4096; i++) {
		snprintf(path, sizeof path, "%s/segments/%u", bench->directory, i);
		if (access(path, R_OK))
			continue;
		if (total)
			seconds += read_file(path, mode == BY_SCAN ? UINT64_MAX : tail, total);
		else
			footer_damage(path);
	}
	return seconds;
}

static double reference(const struct bench *bench, enum mode mode, uint64_t *total)
{
	char paths[2][PATH];
	struct stat st[2] = {{0}};

	if (mode != BY_CHECKPOINT)
		return each_segment(bench, mode, total);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(paths[i], PATH, "%s/checkpoint.%u", bench->directory, i);
		if (stat(paths[i], &st[i]))
			fail(paths[i], "cannot be examined");
	}
	return read_file(paths[st[1].st_size > st[0].st_size], UINT64_MAX, total);
}

static void prepare(const struct bench *bench, enum mode mode)
{
	char path[PATH];

	for (unsigned i = 0; i < 2 && mode != BY_CHECKPOINT; i++) {
		snprintf(path, sizeof path, "%s/checkpoint.%u", bench->directory, i);
		unlink(path);
	}
	if (mode == BY_SCAN)
		each_segment(bench, mode, NULL);
}

/* Of all threads. */
static double cpu_s(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void measure(struct bench *bench, enum mode mode)
{
	static double seconds[ROUNDS_MAX], cpu[ROUNDS_MAX], plain[ROUNDS_MAX];
	double stopped = 0, median;
	uint64_t total = 0;

	for (unsigned round = 0; round < bench->rounds; round++) {
		prepare(bench, mode);
		total = 0;
		plain[round] = reference(bench, mode, &total);
		cpu[round] = -cpu_s();
		seconds[round] = start(bench);
		cpu[round] += cpu_s();
		if (kvc_index_count(bench->index) != bench->records)
			fail(mode_names[mode], "not all records were found");
		stopped = stop(bench);
	}
	median = bench_median(seconds, bench->rounds);
	printf("%u records by %s: %.3f s (p99 %.3f, worst %.3f of %u), CPU %.3f s, %.2f us each, %llu MiB, "
	       "%.1f times "
	       "reading them, "
	       "stop %.3f s\n",
	       bench->records, mode_names[mode], median, bench_quantile(seconds, bench->rounds, 0.99),
	       bench_quantile(seconds, bench->rounds, 1), bench->rounds, bench_median(cpu, bench->rounds),
	       median / bench->records * 1e6, (unsigned long long)(total >> 20),
	       median / bench_median(plain, bench->rounds), stopped);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static struct bench bench;

	if (argc < 2)
		fail("usage", "bench_recover DIRECTORY [RECORDS [ROUNDS]]");
	kvc_log_level_now = KVC_LOG_ERROR;
	kvc_key_init();
	bench.directory = argv[1];
	bench.records = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 100000;
	bench.rounds = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : ROUNDS;
	if (bench.records < DEPTH || bench.rounds < 1 || bench.rounds > ROUNDS_MAX)
		fail("usage", "a number is out of range");
	start(&bench);
	fill(&bench);
	printf("%u records written, stop %.3f s\n", bench.records, stop(&bench));
	for (int mode = 0; mode < MODES; mode++)
		measure(&bench, (enum mode)mode);
	return 0;
}
