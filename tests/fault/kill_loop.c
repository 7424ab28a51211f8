/* kill_loop: kills the daemon again and again under load, and looks whether it kept its word.
 *
 *   kill_loop [--kills N] [--seed S]
 *
 * Four worker processes put, get and drop blocks (kill_worker.c). The supervisor, this file, sends SIGKILL at
 * random moments, some of them while the daemon is starting and recovering, starts it again, and reads back
 * every block of its ledger: what a worker was told is on stable storage, and has not begun to drop, must be
 * there, exact. Workers check on their side that everything they are given is exact. Nothing may be reclaimed
 * for space meanwhile, so after EPOCH_KILLS the workers and the directory are replaced by new ones.
 *
 * Ends with a line of counts; status 1 if anything was wrong. One test in TAP. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/fault/kill_world.h"
#include "tests/support/row.h"

#define EPOCH_KILLS     60u
#define READY_MS        30000u
#define STOP_MS         20000u
#define VERIFY_TRIES_MS 30000u

struct ledger_page {
	uint8_t *acked; /* by number: 1 if it must be there */
	uint64_t *sums; /* of the restored bytes, 0: not computed yet */
	uint64_t room;
	uint64_t end;   /* numbers below may be set */
	uint64_t begin; /* numbers below are dropped */
};

struct totals {
	unsigned kills;
	unsigned kills_at_start;
	uint64_t acked;
	uint64_t verified;
	uint64_t worker_verified;
	uint64_t worker_misses;
	uint64_t worker_failed_calls;
	unsigned wrong;
	unsigned missing;
	unsigned failed_starts;
	unsigned failed_stops;
	unsigned hangs;
	unsigned bad_statuses;
	unsigned reclaimed;
};

struct supervisor {
	struct kvc_server server;
	struct kill_world world;
	struct kill_board *board;
	struct ledger_page ledger[KILL_WORKERS];
	pid_t workers[KILL_WORKERS];
	int pipe; /* events of all workers */
	uint64_t random;
	unsigned kills_wanted;
	struct totals totals;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	interrupted = number;
}

static uint64_t pick(struct supervisor *sup, uint64_t bound)
{
	return kvc_sample_random(&sup->random) % bound;
}

static bool failed(const struct totals *t)
{
	return t->wrong || t->missing || t->failed_starts || t->failed_stops || t->hangs || t->bad_statuses ||
	       t->reclaimed || t->verified == 0 || t->acked == 0;
}

/* ---- ledger -------------------------------------------------------------------------------- */

static bool page_reserve(struct ledger_page *page, uint64_t number)
{
	uint64_t room = page->room ? page->room : 4096;
	uint8_t *acked;
	uint64_t *sums;

	if (number < page->room)
		return true;
	while (room <= number)
		room *= 2;
	acked = realloc(page->acked, room);
	if (acked)
		page->acked = acked;
	sums = realloc(page->sums, room * sizeof *sums);
	if (sums)
		page->sums = sums;
	if (!acked || !sums)
		return false;
	memset(acked + page->room, 0, room - page->room);
	memset(sums + page->room, 0, (room - page->room) * sizeof *sums);
	page->room = room;
	return true;
}

static void ledger_apply(struct supervisor *sup, const struct kill_event *event)
{
	struct ledger_page *page = &sup->ledger[event->id >> 32];
	uint64_t number = event->id & UINT32_MAX;

	if (!page_reserve(page, number))
		abort();
	page->acked[number] = event->kind == KILL_ACKED;
	if (event->kind == KILL_ACKED) {
		sup->totals.acked++;
		if (number >= page->end)
			page->end = number + 1;
	} else {
		page->begin = number;
	}
}

static void event_take(struct supervisor *sup, const struct kill_event *event)
{
	switch (event->kind) {
	case KILL_ACKED:
	case KILL_DROPPING:
		ledger_apply(sup, event);
		break;
	case KILL_WRONG:
		fprintf(stderr, "worker %u got wrong bytes for block %llx\n", (unsigned)(event->id >> 32),
		        (unsigned long long)event->id);
		sup->totals.wrong++;
		break;
	case KILL_SLOW:
		fprintf(stderr, "a call took %u ms\n", event->status);
		sup->totals.hangs++;
		break;
	default:
		fprintf(stderr, "block %llx: status %s\n", (unsigned long long)event->id,
		        kvc_status_name((kvc_status)event->status));
		sup->totals.bad_statuses++;
		break;
	}
}

/* Take all events that are there. False: the workers are gone. */
static bool drain(struct supervisor *sup)
{
	struct kill_event events[256];
	ssize_t got;

	while ((got = read(sup->pipe, events, sizeof events)) > 0) {
		for (size_t i = 0; i < (size_t)got / sizeof events[0]; i++)
			event_take(sup, &events[i]);
	}
	return got != 0;
}

/* Let the workers work for so long. */
static void drain_for(struct supervisor *sup, uint64_t us)
{
	struct timespec now;
	struct timespec left;
	uint64_t end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000 + us;
	for (;;) {
		struct pollfd watch = {.fd = sup->pipe, .events = POLLIN};
		uint64_t at;

		clock_gettime(CLOCK_MONOTONIC, &now);
		at = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
		if (at >= end || interrupted)
			return;
		left.tv_sec = (time_t)((end - at) / 1000000);
		left.tv_nsec = (long)((end - at) % 1000000 * 1000);
		ppoll(&watch, 1, &left, NULL);
		if (!drain(sup))
			return;
	}
}

/* ---- workers ------------------------------------------------------------------------------- */

static bool workers_start(struct supervisor *sup)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		return false;
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	sup->pipe = ends[0];
	memset(sup->board, 0, sizeof *sup->board);
	for (unsigned i = 0; i < KILL_WORKERS; i++) {
		sup->workers[i] = fork();
		if (sup->workers[i] == 0)
			kill_worker_run(&sup->world, &sup->server, i, ends[1]);
	}
	close(ends[1]);
	return true;
}

/* Ask them to end; one that does not within its deadline and grace hangs. */
static void workers_stop(struct supervisor *sup)
{
	uint64_t end = kvc_server_now_ms() + (KILL_DEADLINE_MS + 2 * KILL_GRACE_MS) * kvc_server_patience();
	int status;

	atomic_store(&sup->board->stop, 1);
	while (drain(sup) && kvc_server_now_ms() < end)
		kvc_server_step();
	for (unsigned i = 0; i < KILL_WORKERS; i++) {
		if (waitpid(sup->workers[i], &status, WNOHANG) == 0 && kvc_server_now_ms() >= end) {
			fprintf(stderr, "worker %u hangs\n", i);
			sup->totals.hangs++;
			kill(sup->workers[i], SIGKILL);
		}
		if (waitpid(sup->workers[i], &status, 0) > 0 && status != 0) {
			fprintf(stderr, "worker %u ended with status 0x%x\n", i, (unsigned)status);
			sup->totals.bad_statuses++;
		}
	}
	close(sup->pipe);
	sup->totals.worker_verified += atomic_load(&sup->board->verified);
	sup->totals.worker_misses += atomic_load(&sup->board->misses);
	sup->totals.worker_failed_calls += atomic_load(&sup->board->failed_calls);
}

/* ---- verification -------------------------------------------------------------------------- */

struct verifier {
	struct supervisor *sup;
	struct kvc_client *client;
	struct kvc_memory *memory;
	struct kvc_namespace *spaces[KILL_SPACES];
};

struct reading {
	unsigned space;
	size_t count;
	uint64_t ids[KILL_BATCH];
	uint8_t keys[KILL_BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[KILL_BATCH];
};

static bool must_be_there(const struct supervisor *sup, uint64_t id)
{
	const struct ledger_page *page = &sup->ledger[id >> 32];
	uint64_t number = id & UINT32_MAX;

	return number < page->room && page->acked[number];
}

static void reading_init(struct supervisor *sup, struct reading *reading, unsigned worker, uint64_t run)
{
	uint64_t first = kill_run_id(worker, run);
	const struct kvc_sample_space *space;

	reading->space = kill_space_of(&sup->world, first);
	reading->count = 0;
	space = &sup->world.spaces[reading->space];
	for (uint64_t id = first; id < first + KILL_BATCH; id++) {
		size_t i = reading->count;

		if (!must_be_there(sup, id))
			continue;
		reading->ids[i] = id;
		kvc_sample_block(space, id, i * ((kvc_sample_bytes_max(space) + 63) / 64 * 64),
		                 reading->keys[i], &reading->blocks[i]);
		reading->count++;
	}
}

/* Get all blocks; those that are refused for a reason that passes are asked for again. */
static kvc_status reading_get(struct verifier *v, struct reading *reading)
{
	uint64_t end = kvc_server_now_ms() + VERIFY_TRIES_MS;
	struct kvc_transfer transfer;
	kvc_status status;
	bool again;

	kvc_transfer_init(&transfer, v->memory);
	do {
		status = kvc_get(v->spaces[reading->space], &transfer, reading->blocks, reading->count, NULL);
		again = status == KVC_BUSY || status == KVC_DEADLINE;
		if (status == KVC_FENCED || status == KVC_DEADLINE)
			kvc_memory_renew(v->memory);
		for (size_t i = 0; status == KVC_OK && i < reading->count; i++)
			again = again || reading->blocks[i].status == KVC_BUSY ||
			        reading->blocks[i].status == KVC_DEADLINE;
	} while (again && kvc_server_now_ms() < end);
	return status;
}

static void block_check(struct verifier *v, const struct reading *reading, size_t i)
{
	struct supervisor *sup = v->sup;
	uint64_t id = reading->ids[i];
	const struct kvc_sample_space *space = &sup->world.spaces[reading->space];
	uint64_t *sum = &sup->ledger[id >> 32].sums[id & UINT32_MAX];
	const uint8_t *data = (uint8_t *)kvc_memory_data(v->memory) + reading->blocks[i].key_offset;

	if (reading->blocks[i].status != KVC_OK) {
		drain(sup); /* a worker may have begun to drop it since: it said so before it did */
		if (!must_be_there(sup, id))
			return;
		fprintf(stderr, "block %llx, acknowledged as on disk, is not there: %s\n",
		        (unsigned long long)id, kvc_status_name(reading->blocks[i].status));
		sup->totals.missing++;
		return;
	}
	sup->totals.verified++;
	if (*sum == 0 && !kvc_sample_sum(space, id, sum))
		abort();
	if (kvc_sample_sum_of(data, kvc_sample_bytes(space, id)) == *sum)
		return;
	fprintf(stderr, "block %llx: wrong bytes\n", (unsigned long long)id);
	sup->totals.wrong++;
}

static void page_check(struct verifier *v, unsigned worker)
{
	struct ledger_page *page = &v->sup->ledger[worker];
	struct reading reading;

	for (uint64_t run = page->begin / KILL_BATCH; run * KILL_BATCH < page->end && !interrupted; run++) {
		kvc_status status;

		drain(v->sup);
		reading_init(v->sup, &reading, worker, run);
		if (reading.count == 0)
			continue;
		status = reading_get(v, &reading);
		if (status != KVC_OK) {
			fprintf(stderr, "cannot read back: %s: %s\n", kvc_status_name(status),
			        kvc_last_error());
			v->sup->totals.bad_statuses++;
			return;
		}
		for (size_t i = 0; i < reading.count; i++)
			block_check(v, &reading, i);
	}
}

static void verify(struct supervisor *sup)
{
	struct verifier v = {.sup = sup};
	kvc_status status = KVC_OK;

	if (kvc_server_client(&sup->server, 10000, &v.client) != KVC_OK ||
	    kvc_memory_create(v.client, KILL_REGION, &v.memory) != KVC_OK)
		abort();
	if (kill_open_spaces(&sup->world, v.client, v.spaces, &status)) {
		for (unsigned i = 0; i < KILL_WORKERS; i++)
			page_check(&v, i);
		if (kvc_server_stat(v.client, "disk.segments_reclaimed") > 0)
			sup->totals.reclaimed++;
	} else {
		fprintf(stderr, "cannot open namespaces: %s\n", kvc_last_error());
		sup->totals.bad_statuses++;
	}
	kvc_client_destroy(v.client);
}

/* ---- kills --------------------------------------------------------------------------------- */

static void daemon_kill(struct supervisor *sup)
{
	kvc_server_kill(&sup->server);
	sup->totals.kills++;
	if (sup->totals.kills % 25 == 0)
		fprintf(stderr, "%u kills, %llu verified reads\n", sup->totals.kills,
		        (unsigned long long)sup->totals.verified);
}

static bool daemon_start(struct supervisor *sup)
{
	if (kvc_server_start(&sup->server) &&
	    kvc_server_ready(&sup->server, READY_MS * kvc_server_patience()))
		return true;
	fprintf(stderr, "the daemon did not start\n");
	kvc_server_show_log(&sup->server);
	sup->totals.failed_starts++;
	return false;
}

/* In the middle of its start: before, during or just after recovery. */
static bool kill_at_start(struct supervisor *sup)
{
	int status;

	if (!kvc_server_start(&sup->server))
		return false;
	drain_for(sup, pick(sup, 60000) * kvc_server_patience());
	if (kvc_server_wait(&sup->server, 0, &status)) {
		fprintf(stderr, "the daemon ended by itself with status 0x%x\n", (unsigned)status);
		kvc_server_show_log(&sup->server);
		sup->totals.failed_starts++;
		return false;
	}
	daemon_kill(sup);
	sup->totals.kills_at_start++;
	return true;
}

/* Soon after the start as a rule, sometimes when much has happened. */
static uint64_t pick_delay_us(struct supervisor *sup)
{
	static const uint64_t bounds[] = {10000, 100000, 100000, 400000, 400000, 1200000};

	return pick(sup, bounds[pick(sup, sizeof bounds / sizeof bounds[0])]);
}

static bool kill_once(struct supervisor *sup)
{
	if (pick(sup, 4) == 0)
		return kill_at_start(sup);
	if (!daemon_start(sup))
		return false;
	if (pick(sup, 4) != 0)
		verify(sup);
	drain_for(sup, pick_delay_us(sup));
	daemon_kill(sup);
	return true;
}

/* A graceful end under load: everything that was in RAM only goes to disk, and all is there again. */
static bool stop_once(struct supervisor *sup)
{
	if (!daemon_start(sup))
		return false;
	verify(sup);
	drain_for(sup, 200000);
	if (!kvc_server_stop(&sup->server, STOP_MS * kvc_server_patience())) {
		kvc_server_show_log(&sup->server);
		sup->totals.failed_stops++;
		return false;
	}
	if (!daemon_start(sup))
		return false;
	verify(sup);
	return true;
}

static void ledger_clear(struct supervisor *sup)
{
	for (unsigned i = 0; i < KILL_WORKERS; i++) {
		free(sup->ledger[i].acked);
		free(sup->ledger[i].sums);
	}
	memset(sup->ledger, 0, sizeof sup->ledger);
}

/* New workers on an empty directory, and at most EPOCH_KILLS kills. */
static bool epoch(struct supervisor *sup)
{
	unsigned end = sup->totals.kills + EPOCH_KILLS;
	bool ok = true;

	if (end > sup->kills_wanted)
		end = sup->kills_wanted;
	if (!kill_world_init(&sup->world, sup->random) || !workers_start(sup))
		return false;
	while (ok && !interrupted && sup->totals.kills < end)
		ok = kill_once(sup);
	if (ok && !interrupted)
		ok = stop_once(sup);
	workers_stop(sup);
	kvc_server_kill(&sup->server);
	kvc_server_wipe(&sup->server);
	ledger_clear(sup);
	return ok;
}

static void report(const struct totals *t, uint64_t seed)
{
	printf("# kills %u (%u of them at start), acknowledged as on disk %llu, verified reads %llu "
	       "(+ %llu by workers, with %llu misses and %llu failed calls), wrong bytes %u, "
	       "missing acknowledged %u, failed starts %u, failed stops %u, hangs %u, bad statuses %u, "
	       "segments reclaimed %u, seed %llu\n",
	       t->kills, t->kills_at_start, (unsigned long long)t->acked, (unsigned long long)t->verified,
	       (unsigned long long)t->worker_verified, (unsigned long long)t->worker_misses,
	       (unsigned long long)t->worker_failed_calls, t->wrong, t->missing, t->failed_starts,
	       t->failed_stops, t->hangs, t->bad_statuses, t->reclaimed, (unsigned long long)seed);
	printf("%sok 1 - %u kills\n", failed(t) ? "not " : "", t->kills);
}

static void row_report(const struct totals *t, uint64_t seed)
{
	kvc_row.injected = t->kills;
	kvc_row.verified = t->verified + t->worker_verified;
	kvc_row.wrong = t->wrong + t->missing;
	kvc_row.seed = seed;
	kvc_row_end();
}

static bool arguments(int argc, char **argv, unsigned *kills, uint64_t *seed)
{
	const char *text = getenv("KVC_TEST_SEED");

	*kills = 10;
	*seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--kills") == 0)
			*kills = (unsigned)strtoul(argv[i + 1], NULL, 0);
		else if (strcmp(argv[i], "--seed") == 0)
			*seed = strtoull(argv[i + 1], NULL, 0);
		else
			return false;
	}
	return argc % 2 == 1 && *kills > 0;
}

int main(int argc, char **argv)
{
	static struct supervisor sup;
	const struct sigaction action = {.sa_handler = on_signal};
	uint64_t seed;

	if (!arguments(argc, argv, &sup.kills_wanted, &seed)) {
		fprintf(stderr, "usage: %s [--kills N] [--seed S]\n", argv[0]);
		return 2;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	printf("1..1\n# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	KVC_ROW("A2");
	sup.random = seed;
	sup.board = mmap(NULL, sizeof *sup.board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sup.board == MAP_FAILED || !kvc_server_init(&sup.server))
		return 1;
	sup.world.board = sup.board;
	kvc_server_arg(&sup.server, "--ram", "24M");
	kvc_server_arg(&sup.server, "--disk", sup.server.disk);
	kvc_server_arg(&sup.server, "--disk-size", "4G");
	kvc_server_arg(&sup.server, "--threads", "2");
	while (sup.totals.kills < sup.kills_wanted && !interrupted && epoch(&sup) && !failed(&sup.totals))
		continue;
	kvc_server_remove(&sup.server);
	munmap(sup.board, sizeof *sup.board);
	report(&sup.totals, seed);
	row_report(&sup.totals, seed);
	return failed(&sup.totals) || interrupted ? 1 : 0;
}
