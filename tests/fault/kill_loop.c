/* kill_loop: kills the daemon again and again under load, and looks whether it kept its word.
 *
 *   kill_loop [--kills N] [--seed S]
 *
 * Eight worker processes put, get and drop blocks (kill_worker.c). The supervisor, this file, sends SIGKILL:
 * at random moments, while the daemon starts and recovers, while it stops, and when it is seen from outside
 * to begin a segment or a checkpoint (kill_disk.c). It starts it again, and reads back blocks of its ledger:
 * what a worker was told is on stable storage, and has not begun to drop, must be there, exact, unless the
 * disk had to reclaim its segment. After CHECK_KILLS kills it stops in order once and reads back all of the
 * ledger, before and after. Workers check on their side that everything they are given is exact. Now and
 * then the workers and the directory are replaced by new ones.
 *
 * Ends with a line of counts; status 1 if anything was wrong. One test in TAP. */
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

#include "tests/fault/kill_loop.h"
#include "tests/support/row.h"

#define EPOCH_KILLS    300u
#define CHECK_KILLS    50u
#define PROGRESS_KILLS 250u
#define READY_MS       30000u
#define STOP_MS        20000u
#define STOP_US        30000u /* a stop takes about so long */
#define START_US       20000u /* a start, before any was measured */

/* How often a kill is aimed at what, and how long it may wait: a moment up to `us` after what is awaited, or
 * after `patience_us`. */
static const struct {
	unsigned weight;
	enum kill_awaited awaited;
	uint32_t us;
	uint32_t patience_us;
} aims[KILL_PHASES] = {
        [KILL_AT_START] = {.weight = 25},
        [KILL_SOON] = {.weight = 20, .us = 5000},
        [KILL_LOADED] = {.weight = 25, .us = 60000},
        [KILL_SWITCH] = {.weight = 15, .awaited = KILL_AWAIT_SWITCH, .us = 3000, .patience_us = 100000},
        [KILL_CHECKPOINT] = {.weight = 5,
                             .awaited = KILL_AWAIT_CHECKPOINT,
                             .us = 5000,
                             .patience_us = 500000},
        [KILL_STOP] = {.weight = 10, .us = 20000},
};

volatile sig_atomic_t kill_interrupted;

static void on_signal(int number)
{
	kill_interrupted = number;
}

uint64_t kill_pick(struct kill_loop *loop, uint64_t bound)
{
	return kvc_sample_random(&loop->random) % bound;
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- events -------------------------------------------------------------------------------- */

static void event_take(struct kill_loop *loop, const struct kill_event *event)
{
	switch (event->kind) {
	case KILL_ACKED:
	case KILL_DROPPING:
		if (!kill_ledger_take(&loop->ledger, event))
			abort();
		break;
	case KILL_WRONG:
		fprintf(stderr, "worker %u got wrong bytes for block %llx\n", (unsigned)(event->id >> 32),
		        (unsigned long long)event->id);
		loop->totals.wrong++;
		break;
	case KILL_SLOW:
		fprintf(stderr, "a call took %u ms\n", event->status);
		loop->totals.hangs++;
		break;
	default:
		fprintf(stderr, "block %llx: status %s\n", (unsigned long long)event->id,
		        kvc_status_name((kvc_status)event->status));
		loop->totals.bad_statuses++;
		break;
	}
}

bool kill_drain(struct kill_loop *loop)
{
	struct kill_event events[256];
	ssize_t got;

	while ((got = read(loop->pipe, events, sizeof events)) > 0) {
		for (size_t i = 0; i < (size_t)got / sizeof events[0]; i++)
			event_take(loop, &events[i]);
	}
	return got != 0;
}

/* Let the workers work for so long, or until the disk shows what is awaited. */
static bool work(struct kill_loop *loop, uint64_t us, enum kill_awaited awaited)
{
	uint64_t end = now_us() + us;

	for (;;) {
		struct pollfd watch[2] = {{.fd = loop->pipe, .events = POLLIN},
		                          {.fd = loop->disk.watch, .events = POLLIN}};
		uint64_t now = now_us();
		struct timespec left;

		if (now >= end || kill_interrupted)
			return false;
		left.tv_sec = (time_t)((end - now) / 1000000);
		left.tv_nsec = (long)((end - now) % 1000000 * 1000);
		ppoll(watch, 2, &left, NULL);
		if (!kill_drain(loop))
			return false;
		if (kill_disk_seen(&loop->disk, awaited))
			return true;
	}
}

/* ---- workers ------------------------------------------------------------------------------- */

static bool workers_start(struct kill_loop *loop)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) != 0)
		return false;
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	loop->pipe = ends[0];
	memset(loop->board, 0, sizeof *loop->board);
	kill_disk_clear(&loop->disk);
	for (unsigned i = 0; i < KILL_WORKERS; i++) {
		loop->workers[i] = fork();
		if (loop->workers[i] == 0)
			kill_worker_run(&loop->world, &loop->server, i, ends[1]);
	}
	close(ends[1]);
	return true;
}

/* Ask them to end; one that does not within its deadline and grace hangs. */
static void workers_stop(struct kill_loop *loop)
{
	uint64_t end = kvc_server_now_ms() + (KILL_DEADLINE_MS + 2 * KILL_GRACE_MS) * kvc_server_patience();
	int status;

	atomic_store(&loop->board->stop, 1);
	while (kill_drain(loop) && kvc_server_now_ms() < end)
		kvc_server_step();
	for (unsigned i = 0; i < KILL_WORKERS; i++) {
		if (waitpid(loop->workers[i], &status, WNOHANG) == 0 && kvc_server_now_ms() >= end) {
			fprintf(stderr, "worker %u hangs\n", i);
			loop->totals.hangs++;
			kill(loop->workers[i], SIGKILL);
		}
		if (waitpid(loop->workers[i], &status, 0) > 0 && status != 0) {
			fprintf(stderr, "worker %u ended with status 0x%x\n", i, (unsigned)status);
			loop->totals.bad_statuses++;
		}
	}
	close(loop->pipe);
	loop->totals.worker_verified += atomic_load(&loop->board->verified);
	loop->totals.worker_misses += atomic_load(&loop->board->misses);
	loop->totals.worker_failed_calls += atomic_load(&loop->board->failed_calls);
}

/* ---- one life ------------------------------------------------------------------------------ */

/* Start it; from now on a put is known to be newer than what is on the disk. */
static bool daemon_fork(struct kill_loop *loop)
{
	kill_disk_look(&loop->disk);
	atomic_store(&loop->board->mark, loop->disk.highest);
	return kvc_server_start(&loop->server);
}

static bool daemon_start(struct kill_loop *loop)
{
	uint64_t begun = now_us();

	if (daemon_fork(loop) && kvc_server_ready(&loop->server, READY_MS * kvc_server_patience())) {
		loop->start_us[loop->starts++] = (uint32_t)(now_us() - begun);
		return true;
	}
	fprintf(stderr, "the daemon did not start\n");
	kvc_server_show_log(&loop->server);
	loop->totals.failed_starts++;
	return false;
}

/* It runs until it is killed; one that is told to stop may have ended well before. */
static bool daemon_kill(struct kill_loop *loop, enum kill_phase phase)
{
	int status = 0;

	if (kvc_server_wait(&loop->server, 0, &status) && (phase != KILL_STOP || status != 0)) {
		fprintf(stderr, "the daemon ended by itself with status 0x%x\n", (unsigned)status);
		kvc_server_show_log(&loop->server);
		loop->totals.ends++;
		return false;
	}
	kvc_server_kill(&loop->server);
	loop->totals.kills++;
	loop->totals.by_phase[phase]++;
	if (loop->totals.kills % PROGRESS_KILLS == 0)
		fprintf(stderr, "%u kills, %llu acknowledged, %llu verified, %llu by workers\n",
		        loop->totals.kills, (unsigned long long)loop->ledger.acked,
		        (unsigned long long)loop->totals.verified,
		        (unsigned long long)loop->totals.worker_verified +
		                atomic_load(&loop->board->verified));
	return true;
}

/* A start takes about so long here and now. */
static uint64_t usual_start_us(const struct kill_loop *loop)
{
	return loop->starts ? loop->start_us[loop->starts - 1] : START_US * kvc_server_patience();
}

static bool kill_at_start(struct kill_loop *loop)
{
	if (!daemon_fork(loop))
		return false;
	work(loop, kill_pick(loop, usual_start_us(loop) * 3 / 2), KILL_AWAIT_NOTHING);
	return daemon_kill(loop, KILL_AT_START);
}

static enum kill_phase pick_phase(struct kill_loop *loop)
{
	uint64_t left = 0;
	unsigned phase = 0;

	for (unsigned i = 0; i < KILL_PHASES; i++)
		left += aims[i].weight;
	left = kill_pick(loop, left);
	while (left >= aims[phase].weight)
		left -= aims[phase++].weight;
	return (enum kill_phase)phase;
}

static bool kill_once(struct kill_loop *loop)
{
	enum kill_phase phase = pick_phase(loop);
	uint64_t patience = kvc_server_patience();

	if (phase == KILL_AT_START)
		return kill_at_start(loop);
	if (!daemon_start(loop))
		return false;
	if (kill_pick(loop, 2) == 0)
		kill_check(loop, false);
	kill_disk_watch(&loop->disk);
	if (aims[phase].awaited != KILL_AWAIT_NOTHING)
		work(loop, aims[phase].patience_us * patience, aims[phase].awaited);
	if (phase == KILL_STOP)
		kill(loop->server.pid, SIGTERM);
	work(loop, kill_pick(loop, aims[phase].us * patience), KILL_AWAIT_NOTHING);
	kill_disk_watch_end(&loop->disk);
	return daemon_kill(loop, phase);
}

/* A graceful end under load: everything that was in RAM only goes to disk, and all is there again. */
static bool stop_once(struct kill_loop *loop)
{
	if (!daemon_start(loop))
		return false;
	kill_check(loop, true);
	work(loop, aims[KILL_LOADED].us, KILL_AWAIT_NOTHING);
	loop->totals.stops++;
	if (!kvc_server_stop(&loop->server, STOP_MS * kvc_server_patience())) {
		kvc_server_show_log(&loop->server);
		loop->totals.failed_stops++;
		return false;
	}
	if (!daemon_start(loop))
		return false;
	kill_check(loop, true);
	return daemon_kill(loop, KILL_SOON);
}

/* ---- many ---------------------------------------------------------------------------------- */

/* New workers on an empty directory, and at most EPOCH_KILLS kills. */
static bool epoch(struct kill_loop *loop)
{
	unsigned end = loop->totals.kills + EPOCH_KILLS;
	bool ok = true;

	if (end > loop->kills_wanted)
		end = loop->kills_wanted;
	if (!kill_world_init(&loop->world, loop->random) || !workers_start(loop))
		return false;
	while (ok && !kill_interrupted && loop->totals.kills < end) {
		bool check =
		        loop->totals.kills % CHECK_KILLS == CHECK_KILLS - 1 || loop->totals.kills + 1 == end;

		ok = check ? stop_once(loop) : kill_once(loop);
	}
	workers_stop(loop);
	kvc_server_kill(&loop->server);
	kvc_server_wipe(&loop->server);
	kill_ledger_clear(&loop->ledger);
	return ok;
}

static void row_report(const struct kill_loop *loop, uint64_t seed)
{
	const struct kill_totals *totals = &loop->totals;

	kvc_row.injected = totals->kills;
	kvc_row.verified = totals->verified + totals->worker_verified;
	kvc_row.wrong = totals->wrong + totals->missing;
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

static bool setup(struct kill_loop *loop, uint64_t seed)
{
	static char disk_bytes[32];
	static char segment_bytes[32];

	snprintf(disk_bytes, sizeof disk_bytes, "%u", KILL_SEGMENTS * KILL_SEGMENT_BYTES);
	snprintf(segment_bytes, sizeof segment_bytes, "%u", KILL_SEGMENT_BYTES);
	loop->random = seed;
	loop->board =
	        mmap(NULL, sizeof *loop->board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* A stop in order makes two starts of one kill. */
	loop->start_us = calloc(2 * ((size_t)loop->kills_wanted + 1), sizeof *loop->start_us);
	if (loop->board == MAP_FAILED || !loop->start_us || !kvc_server_init(&loop->server))
		return false;
	loop->world.board = loop->board;
	kill_disk_init(&loop->disk, loop->server.disk);
	kvc_server_arg(&loop->server, "--ram", "8M");
	kvc_server_arg(&loop->server, "--disk", loop->server.disk);
	kvc_server_arg(&loop->server, "--disk-size", disk_bytes);
	kvc_server_arg(&loop->server, "--segment-size", segment_bytes);
	kvc_server_arg(&loop->server, "--threads", "2");
	return true;
}

int main(int argc, char **argv)
{
	static struct kill_loop loop;
	const struct sigaction action = {.sa_handler = on_signal};
	uint64_t seed;

	if (!arguments(argc, argv, &loop.kills_wanted, &seed)) {
		fprintf(stderr, "usage: %s [--kills N] [--seed S]\n", argv[0]);
		return 2;
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	printf("1..1\n# seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	KVC_ROW("A2");
	if (!setup(&loop, seed))
		return 1;
	while (loop.totals.kills < loop.kills_wanted && !kill_interrupted && epoch(&loop) &&
	       !kill_failed(&loop.totals))
		continue;
	kvc_server_remove(&loop.server);
	munmap(loop.board, sizeof *loop.board);
	kill_report(&loop, seed);
	free(loop.start_us);
	row_report(&loop, seed);
	return kill_failed(&loop.totals) || kill_interrupted ? 1 : 0;
}
