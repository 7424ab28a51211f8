/* Random histories of the real cache, mover and disk tier over a simulated disk: several lives of a daemon,
 * each of which ends by a stop, a kill or a power failure, some of them during recovery.
 *
 * The model knows of each block which contents a put was ever begun with, and whether one was acknowledged as
 * being on stable storage and not dropped since. A get must restore one of the former; where the disk is
 * honest and large enough, after a start the latter must be there. It knows too when each block ends: none is
 * restored later, and no start finds one that ends or is ephemeral.
 *
 * Of two directories one may be missing in a life. What is dropped then is dropped for good when both are
 * there again: until that, one that is alone may have it.
 *
 * KVC_TEST_SEED says with which seed to begin, KVC_TEST_SEEDS how many are run; a failure prints its seed. */
#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/base/log.h"
#include "daemon/tier/disks.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/world.h"
#include "tests/support/row.h"
#include "tests/support/temp_dir.h"

enum {
	NUMBERS = 400,
	CONTENTS = 2,
	JOBS = 16,
	LIVES = 3,
	LIVES_OF_TWO = 7, /* of two directories */
	STEPS = 700,
	SEGMENT_BYTES = 64 << 10,
	ROOMY = 64, /* segments: nothing is reclaimed */
	TIGHT = 8,
	DIRECTORIES = 2,
	HEAP_KEPT = 32 << 20,
};

/* What is counted as injected. */
enum injected { FAULTS, CRASHES, RECOVERIES, ABSENCES /* of one of two directories, at a start */ };

/* What the disk does in a history. */
struct profile {
	const char *name;
	const char *rows; /* of the fault sheet */
	uint32_t segments;
	bool honest; /* it tells of its failures: what was acknowledged as durable stays */
	enum injected injected;
	uint32_t one_in[SIM_DISK_FAULTS];
};

static const struct profile profiles[] = {
        {"crashes", "A1 A8 A9", ROOMY, true, CRASHES, {0}},
        {"broken_off_recoveries", "A3", ROOMY, true, RECOVERIES, {0}},
        {"crashes_of_a_full_disk", "A8 D20", TIGHT, true, CRASHES, {0}},
        {"missing_directories", "B25", ROOMY, true, ABSENCES, {0}},
        {"torn_writes", "B1", ROOMY, false, FAULTS, {[SIM_WRITE_TORN] = 15}},
        {"writes_with_holes", "B2", ROOMY, false, FAULTS, {[SIM_WRITE_HOLES] = 15}},
        {"flipped_bits",
         "B3",
         ROOMY,
         false,
         FAULTS,
         {[SIM_READ_FLIP] = 15, [SIM_ROT] = 15, [SIM_WRITE_FLIP] = 15}},
        {"misdirected_writes", "B5", ROOMY, false, FAULTS, {[SIM_WRITE_MISDIRECT] = 15}},
        {"misdirected_reads", "B6", ROOMY, false, FAULTS, {[SIM_READ_MISDIRECT] = 10}},
        {"lost_writes", "B7", ROOMY, false, FAULTS, {[SIM_WRITE_LOST] = 10}},
        {"read_errors", "B8", ROOMY, false, FAULTS, {[SIM_READ_ERROR] = 15}},
        {"write_errors", "B9", ROOMY, true, FAULTS, {[SIM_WRITE_ERROR] = 20}},
        {"sync_errors", "B10", ROOMY, true, FAULTS, {[SIM_SYNC_ERROR] = 10}},
        {"no_space", "B11", ROOMY, true, FAULTS, {[SIM_FULL] = 15}},
        {"short_transfers", "B13", ROOMY, true, FAULTS, {[SIM_SHORT] = 6}},
        {"busy_disk", "B15", ROOMY, true, FAULTS, {[SIM_AGAIN] = 6}},
        {"slow_disk", "B19", ROOMY, true, FAULTS, {[SIM_SLOW] = 30}},
        {"hung_disk", "B20 D27", ROOMY, true, FAULTS, {[SIM_HANG] = 60}},
        {"honest_trouble",
         NULL,
         ROOMY,
         true,
         FAULTS,
         {[SIM_WRITE_ERROR] = 60,
          [SIM_SYNC_ERROR] = 40,
          [SIM_FULL] = 100,
          [SIM_SHORT] = 20,
          [SIM_AGAIN] = 20,
          [SIM_SLOW] = 200,
          [SIM_HANG] = 300}},
        {"everything",
         NULL,
         TIGHT,
         false,
         FAULTS,
         {[SIM_READ_ERROR] = 60,
          [SIM_READ_FLIP] = 40,
          [SIM_READ_MISDIRECT] = 40,
          [SIM_ROT] = 60,
          [SIM_WRITE_ERROR] = 60,
          [SIM_WRITE_TORN] = 60,
          [SIM_WRITE_HOLES] = 60,
          [SIM_WRITE_LOST] = 60,
          [SIM_WRITE_FLIP] = 60,
          [SIM_WRITE_MISDIRECT] = 60,
          [SIM_SYNC_ERROR] = 60,
          [SIM_FULL] = 100,
          [SIM_SHORT] = 30,
          [SIM_AGAIN] = 30,
          [SIM_SLOW] = 200,
          [SIM_HANG] = 300}},
};

enum { PROFILES = sizeof profiles / sizeof profiles[0] };

struct history {
	struct world world;
	const struct profile *profile;
	char directories[DIRECTORIES][KVC_TEMP_DIR_BYTES];
	uint32_t there;                    /* which of them, in this life, by bit */
	uint64_t knows[DIRECTORIES];       /* the last of tenant_drops */
	uint32_t drops_apart[DIRECTORIES]; /* of the tenant, tried since they agreed */
	bool unsure[DIRECTORIES];          /* it may have missed one of those */
	struct kvc_io *io;
	struct job *jobs;
	bool busy[JOBS];
	uint8_t put_ever[NUMBERS];  /* contents that a put was ever begun with */
	uint8_t put_since[NUMBERS]; /* since the last drop of the tenant began */
	uint8_t put[NUMBERS];       /* what may be there: of put_ever, but what a drop of the tenant ended */
	struct kvc_tenant_drop tenant_drop;
	bool tenant_dropping;
	bool crashed;          /* what ends now has no one who hears of it */
	uint64_t tenant_drops; /* that succeeded */
	uint64_t tenant_drops_at[JOBS];
	uint32_t encrypted_from;   /* life; before, the directory is plain */
	uint64_t ends_ms[NUMBERS]; /* the last of them */
	bool over[JOBS];           /* the block had ended when the job began */
	uint8_t durable[NUMBERS];  /* life in which it was acknowledged as such; dropped since, or never: 0 */
	uint8_t life;              /* from 1 */
	uint64_t sync_errors;      /* before this life */
	uint64_t drops[NUMBERS];   /* so far */
	uint64_t drops_at[JOBS];   /* of the block, when the job began */
	/* Checks images at each start. The same in all lives: a torn record that one start sets aside shadows
	 * an older sound one at the next start if that one does not look. */
	bool verify;
	bool refused; /* the directory is damaged so that a person must act */
	uint64_t crashes;
	uint64_t lost_recoveries; /* broken off */
	uint64_t absences;        /* of a directory, at a start */
};

static uint64_t seed_now;

static uint64_t below(struct history *h, uint64_t bound)
{
	return sim_next(&h->world.random) % bound;
}

/* --- model ---------------------------------------------------------------------------------------- */

/* `of`: by number, the contents that it may have. */
static void restored_check(struct history *h, const struct job *job, const uint8_t *of)
{
	for (uint32_t content = 0; content < CONTENTS; content++)
		if (of[job->number] >> content & 1 &&
		    restored_is(&h->world, job, job->number * CONTENTS + content))
			return;
	kvc_row.wrong++;
	fail_msg("block %u was restored as something that was never put, or dropped", job->number);
}

/* A directory is there that knows of all drops of the tenant that succeeded. */
static bool drops_known(const struct history *h)
{
	for (uint32_t i = 0; i < DIRECTORIES; i++)
		if (h->there >> i & 1 && h->knows[i] == h->tenant_drops)
			return true;
	return false;
}

static bool all_there(const struct history *h)
{
	return h->profile->injected != ABSENCES || h->there == (1u << DIRECTORIES) - 1;
}

/* Where a drop may have been missed, what is put may be dropped when it is heard of. */
static bool promised(const struct history *h)
{
	return all_there(h) || !h->unsure[h->there == 2];
}

static void job_harvest(struct history *h, uint32_t j)
{
	struct job *job = &h->jobs[j];

	if (!h->busy[j] || !job->done)
		return;
	h->busy[j] = false;
	if (job->op.status != KVC_OK)
		return;
	if (job->op.kind == KVC_OP_GET && h->over[j])
		fail_msg("block %u was restored after its end", job->number);
	else if (job->op.kind == KVC_OP_GET)
		restored_check(h, job,
		               h->tenant_drops_at[j] == h->tenant_drops && drops_known(h) ? h->put
		                                                                          : h->put_ever);
	else if (job->op.durable && h->drops_at[j] == h->drops[job->number] && promised(h))
		h->durable[job->number] = h->life;
}

static void jobs_harvest(struct history *h)
{
	for (uint32_t j = 0; j < JOBS; j++)
		job_harvest(h, j);
}

/* --- clients -------------------------------------------------------------------------------------- */

static void job_begin(struct history *h, uint32_t j)
{
	uint32_t number = (uint32_t)below(h, NUMBERS);
	uint32_t content = (uint32_t)below(h, CONTENTS);
	bool durable;

	h->busy[j] = true;
	h->drops_at[j] = h->drops[number];
	h->tenant_drops_at[j] = h->tenant_drops;
	h->over[j] = h->ends_ms[number] <= kvc_loop_now_ms(h->world.loop);
	if (below(h, 2)) {
		get_submit(&h->world, &h->jobs[j], number);
		return;
	}
	h->put[number] |= (uint8_t)(1u << content);
	h->put_ever[number] |= h->put[number];
	h->put_since[number] |= (uint8_t)(1u << content);
	durable = hints_draw(&h->world, number);
	if (hints_end(&h->world) > h->ends_ms[number])
		h->ends_ms[number] = hints_end(&h->world);
	put_submit(&h->world, &h->jobs[j], number, number * CONTENTS + content, durable);
}

static void block_drop(struct history *h)
{
	uint32_t number = (uint32_t)below(h, NUMBERS);
	struct kvc_storage_key key = storage_key(&h->world, number);

	h->drops[number]++;
	h->durable[number] = 0;
	kvc_cache_drop(h->world.cache, &key, 1);
}

/* From its beginning on no promise holds; none that was made meanwhile holds at its end. */
static void promises_end(struct history *h)
{
	for (uint32_t number = 0; number < NUMBERS; number++) {
		h->drops[number]++;
		h->durable[number] = 0;
	}
}

/* Once it has succeeded, what was put before is never seen again by who begins to ask then. */
static void tenant_dropped(struct kvc_tenant_drop *drop)
{
	struct history *h = kvc_container_of(drop, struct history, tenant_drop);

	h->tenant_dropping = false;
	promises_end(h);
	if (drop->status != KVC_OK || h->crashed)
		return;
	h->tenant_drops++;
	for (uint32_t i = 0; i < DIRECTORIES; i++) {
		if (h->there >> i & 1)
			h->knows[i] = h->tenant_drops;
		if (all_there(h))
			h->drops_apart[i] = h->unsure[i] = 0;
	}
	memcpy(h->put, h->put_since, sizeof h->put);
}

static void tenant_drop(struct history *h)
{
	for (uint32_t i = 0; i < DIRECTORIES; i++) {
		h->drops_apart[i] += h->there >> i & 1;
		h->unsure[i] |= h->there != 1u << i; /* until it has succeeded in both */
	}
	h->tenant_dropping = true;
	promises_end(h);
	memset(h->put_since, 0, sizeof h->put_since);
	h->tenant_drop = (struct kvc_tenant_drop){.done = tenant_dropped};
	snprintf(h->tenant_drop.tenant, sizeof h->tenant_drop.tenant, "%s", ns_options("a").tenant);
	kvc_cache_tenant_drop(h->world.cache, &h->tenant_drop);
}

static void client_step(struct history *h)
{
	uint32_t j = (uint32_t)below(h, JOBS);

	if (!h->busy[j])
		job_begin(h, j);
	else if (h->jobs[j].done)
		job_harvest(h, j);
	else if (below(h, 60) == 0)
		kvc_op_cancel(&h->jobs[j].op, KVC_DEADLINE);
	if (below(h, 25) == 0)
		block_drop(h);
	if (!h->tenant_dropping && below(h, 400) == 0)
		tenant_drop(h);
	if (below(h, 40) == 0)
		sim_disk_release();
	if (below(h, 10) == 0)
		sim_pass(h->world.loop, below(h, 4));
}

/* --- lives ---------------------------------------------------------------------------------------- */

/* Both directories meet. What was put since may have been dropped if each may have missed a drop, or one
 * cannot tell any more. */
static void drops_meet(struct history *h)
{
	if (h->drops_apart[0] + h->drops_apart[1] > 1)
		promises_end(h);
	for (uint32_t i = 0; i < DIRECTORIES; i++) {
		h->knows[i] = h->tenant_drops;
		h->drops_apart[i] = h->unsure[i] = 0;
	}
}

/* Say which directories are there now, in `list`; returns how many. At first both, so that they are of one
 * tier. */
static uint32_t directories_choose(struct history *h, char list[DIRECTORIES * KVC_TEMP_DIR_BYTES])
{
	static const uint32_t choices[] = {1, 2, 3, 3};

	h->there = h->profile->injected == ABSENCES ? choices[h->life ? below(h, 4) : 3] : 1;
	snprintf(list, DIRECTORIES * KVC_TEMP_DIR_BYTES, "%s%s%s", h->there & 1 ? h->directories[0] : "",
	         h->there == 3 ? "," : "", h->there & 2 ? h->directories[1] : "");
	h->absences += !all_there(h);
	if (h->there == 3)
		drops_meet(h);
	return h->there == 3 ? 2 : 1;
}

static bool tier_open(struct history *h)
{
	static const struct kvc_secret disk_key = {{7}};
	char list[DIRECTORIES * KVC_TEMP_DIR_BYTES];
	uint32_t count = directories_choose(h, list);
	struct kvc_io_options io_options = {.backend = KVC_IO_AUTO, .depth = 16};
	struct kvc_secret secret; /* the world has its own */
	struct kvc_disk_options options = {
	        .directory = list,
	        .bytes = (uint64_t)count * h->profile->segments * SEGMENT_BYTES,
	        .segment_bytes = SEGMENT_BYTES,
	        .verify_on_start = h->verify,
	        .key = h->life >= h->encrypted_from ? &disk_key : NULL,
	        .engine = h->world.engine,
	};
	char detail[256];
	kvc_status status;

	sim_disk_new_process();
	assert_int_equal(kvc_io_open(h->world.loop, &io_options, h->world.stats, &h->io), KVC_OK);
	status = kvc_disks_open(h->world.loop, h->io, h->world.stats, &options, detail, sizeof detail,
	                        &secret, &h->world.tier);
	h->world.endless = count > 1;
	if (status == KVC_OK)
		return true;
	kvc_io_close(h->io);
	h->world.tier = NULL;
	if (status != KVC_CORRUPT || h->profile->honest)
		fail_msg("the directory is refused: %s: %s", kvc_status_name(status), detail);
	h->refused = true;
	return false;
}

static void flag_set(void *context)
{
	*(bool *)context = true;
}

static void tier_close(struct history *h)
{
	bool closed = false;

	h->world.tier->ops->close(h->world.tier, flag_set, &closed);
	settle(&h->world);
	assert_true(closed);
	kvc_io_close(h->io);
	h->world.tier = NULL;
}

/* Every record is wanted: a segment of which none is may be overwritten. */
static bool recovered_keep(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	(void)context;
	(void)record;
	*cookie = 0;
	return true;
}

static void reclaimed_ignore(void *context, uint32_t cookie, struct kvc_place place)
{
	(void)context;
	(void)cookie;
	(void)place;
}

static void recovery_end_ignore(void *context, kvc_status status)
{
	(void)context;
	(void)status;
}

static enum sim_loss loss_pick(struct history *h)
{
	static const enum sim_loss losses[] = {SIM_PROCESS, SIM_POWER, SIM_POWER, SIM_POWER_ALL};

	return losses[below(h, 4)];
}

/* A start that does not get to its end. */
static void recovery_break_off(struct history *h)
{
	struct kvc_tier_events events = {.recovered = recovered_keep, .reclaimed = reclaimed_ignore};

	if (!tier_open(h))
		return;
	h->world.tier->ops->recover(h->world.tier, &events, recovery_end_ignore, NULL);
	for (uint64_t steps = below(h, 60); steps; steps--)
		sim_step(h->world.loop);
	sim_disk_crash();
	tier_close(h);
	sim_disk_restart(loss_pick(h));
	h->lost_recoveries++;
}

static void faults_begin(struct history *h)
{
	for (uint32_t i = 0; i < SIM_DISK_FAULTS; i++)
		sim_disk_fault_set((enum sim_disk_fault)i, h->profile->one_in[i]);
}

static bool life_begin(struct history *h)
{
	if (!tier_open(h))
		return false;
	cache_begin(&h->world);
	settle_until(&h->world, &h->world.recovered);
	return true;
}

static void get_wait(struct history *h, struct job *job, uint32_t number)
{
	get_submit(&h->world, job, number);
	for (unsigned i = 0; !job->done; i++) {
		assert_true(i < STEPS_MAX);
		if (!sim_step(h->world.loop) || i % 1000 == 999) /* timers never end while one hangs */
			sim_disk_release();
	}
}

/* What must be there is; what else is there is right: some of it, so that not all comes into RAM. A disk that
 * may lie does so here too. */
static void life_check(struct history *h)
{
	bool strict = h->profile->honest && all_there(h) && stat(&h->world, "disk.reclaimed_records") == 0;
	struct job *job = &h->jobs[0];

	if (!h->profile->honest)
		faults_begin(h);
	for (uint32_t number = 0; number < NUMBERS; number++) {
		if (!h->put_ever[number] || (!h->durable[number] && below(h, 4)))
			continue;
		get_wait(h, job, number);
		if (job->op.status == KVC_OK && block_class(number) <= BLOCK_EPHEMERAL)
			fail_msg("block %u, which ends or is ephemeral, was found at a start", number);
		if (job->op.status == KVC_OK)
			restored_check(h, job, drops_known(h) ? h->put : h->put_ever);
		else if (strict && h->durable[number])
			fail_msg("block %u, acknowledged as durable, is not there: %s", number,
			         kvc_status_name(job->op.status));
		else if (all_there(h))
			h->durable[number] = 0;
	}
}

/* In the daemon's order: the tier may ask the cache until it is closed. */
static void daemon_stop(struct history *h, uint64_t flush_ms)
{
	cache_stop(&h->world, flush_ms);
	tier_close(h);
	cache_free(&h->world);
	kvc_arena_close(h->world.arena);
	assert_int_equal(kvc_arena_open(ARENA, h->world.stats, &h->world.arena), KVC_OK);
}

static void life_stop(struct history *h)
{
	sim_disk_fault_set(SIM_HANG, 0);
	sim_disk_release();
	daemon_stop(h, 100000);
	jobs_harvest(h);
}

static void life_crash(struct history *h)
{
	jobs_harvest(h);
	h->crashed = true;
	sim_disk_crash();
	sim_disk_faults_clear();
	daemon_stop(h, 0);
	h->crashed = false;
	memset(h->busy, 0, sizeof h->busy);
	sim_disk_restart(loss_pick(h));
	h->crashes++;
}

/* After a start the tier does not know what was synced before. When a sync fails, it gives up all that the
 * segment held at the start. */
static void older_promises_end(struct history *h)
{
	for (uint32_t number = 0; number < NUMBERS; number++)
		if (h->durable[number] < h->life)
			h->durable[number] = 0;
}

static void life_end(struct history *h)
{
	if (below(h, 4) == 0)
		life_stop(h);
	else
		life_crash(h);
	if (sim_disk_count(SIM_SYNC_ERROR) > h->sync_errors)
		older_promises_end(h);
	h->sync_errors = sim_disk_count(SIM_SYNC_ERROR);
	sim_disk_faults_clear();
	while (!h->refused && below(h, 3) == 0)
		recovery_break_off(h);
}

static void life(struct history *h)
{
	uint64_t steps = STEPS / 4 + below(h, STEPS);

	h->life++;
	faults_begin(h);
	while (steps--) {
		client_step(h);
		sim_step(h->world.loop);
	}
	life_end(h);
}

/* --- histories ------------------------------------------------------------------------------------ */

static void history_open(struct history *h, const struct profile *profile, uint64_t seed)
{
	memset(h, 0, sizeof *h);
	kvc_key_init();
	h->profile = profile;
	world_open_bare(&h->world, seed * 0x9E3779B97F4A7C15ull);
	sim_disk_open(&h->world.random);
	for (uint32_t i = 0; i < DIRECTORIES; i++)
		kvc_test_temp_dir(h->directories[i]);
	h->jobs = test_calloc(JOBS, sizeof *h->jobs);
	h->verify = below(h, 4) == 0;
	h->encrypted_from = below(h, 3) ? (uint32_t)below(h, LIVES) : UINT32_MAX;
}

static void history_close(struct history *h)
{
	world_close(&h->world);
	sim_disk_close();
	test_free(h->jobs);
	for (uint32_t i = 0; i < DIRECTORIES; i++)
		kvc_test_temp_dir_remove(h->directories[i]);
}

static void history_count(const struct history *h)
{
	switch (h->profile->injected) {
	case CRASHES:
		kvc_row.injected += h->crashes;
		break;
	case RECOVERIES:
		kvc_row.injected += h->lost_recoveries;
		break;
	case ABSENCES:
		kvc_row.injected += h->absences;
		break;
	case FAULTS:
		for (uint32_t i = 0; i < SIM_DISK_FAULTS; i++)
			kvc_row.injected += sim_disk_count((enum sim_disk_fault)i);
		break;
	}
}

static void history_run(const struct profile *profile, uint64_t seed)
{
	static struct history h;
	uint32_t most = profile->injected == ABSENCES ? LIVES_OF_TWO : LIVES;

	seed_now = seed;
	history_open(&h, profile, seed);
	for (uint32_t lives = 0; lives <= most && !h.refused && life_begin(&h); lives++) {
		life_check(&h);
		if (lives < most)
			life(&h);
		else
			life_stop(&h);
	}
	history_count(&h);
	history_close(&h);
	seed_now = 0;
}

/* --- tests ---------------------------------------------------------------------------------------- */

static uint64_t seeds_wanted(void)
{
	const char *count = getenv("KVC_TEST_SEEDS");

	return count ? strtoull(count, NULL, 0) : 40;
}

/* A few seeds of one kind of trouble, for the fault sheet. */
static void profile_run(void **state)
{
	const struct profile *profile = *state;
	uint64_t seeds = seeds_wanted() / 10 + 2;
	uint64_t first = sim_seed(1);

	kvc_row_begin(profile->rows, profile->name);
	kvc_row.seed = first;
	for (uint64_t seed = first; seed < first + seeds; seed++)
		history_run(profile, seed);
}

/* Each seed names its profile. */
static void random_histories(void **state)
{
	uint64_t first = sim_seed(1);

	(void)state;
	for (uint64_t seed = first; seed < first + seeds_wanted(); seed++)
		history_run(&profiles[seed % PROFILES], seed);
}

static void seed_tell(void)
{
	char line[96];
	int length = snprintf(line, sizeof line, "# failed: KVC_TEST_SEED=%llu KVC_TEST_SEEDS=1 replays it\n",
	                      (unsigned long long)seed_now);

	if (seed_now && write(STDERR_FILENO, line, (size_t)length) != length)
		_exit(2);
}

static int teardown(void **state)
{
	(void)state;
	seed_tell();
	kvc_row_end();
	return 0;
}

/* A contract that was broken ends the process: with the seed, and nothing left behind. */
static void on_abort(int number)
{
	seed_tell();
	signal(number, SIG_DFL);
}

int main(void)
{
	struct CMUnitTest tests[PROFILES + 1] = {
	        {"random_histories", random_histories, NULL, teardown, NULL}};
	size_t count = 1;
	int failed;

	for (size_t i = 0; i < PROFILES && !getenv("KVC_TEST_RANDOM_ONLY"); i++)
		if (profiles[i].rows)
			tests[count++] = (struct CMUnitTest){profiles[i].name, profile_run, NULL, teardown,
			                                     (void *)(uintptr_t)&profiles[i]};
	/* Memory of one history serves the next: given back in between, it would be zeroed page by page. */
	mallopt(M_TRIM_THRESHOLD, HEAP_KEPT);
	mallopt(M_MMAP_THRESHOLD, HEAP_KEPT);
	kvc_log_level_now = getenv("KVC_TEST_LOG") ? KVC_LOG_DEBUG : KVC_LOG_ERROR;
	signal(SIGABRT, on_abort);
	failed = _cmocka_run_group_tests("disk histories", tests, count, NULL, NULL);
	return failed;
}
