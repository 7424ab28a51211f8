/* A worker of the kill loop: puts, gets, looks up, pins and drops blocks, through kills of the daemon.
 *
 * It keeps about LIVE_RUNS runs of its own blocks alive and drops the oldest, but leaves one run in LEAVE for
 * the daemon to reclaim, so that the disk fills. It reads its own blocks and those of others, and looks
 * whether each is what the codec's reference restores. What it may not say by itself (what must be there) it
 * reports to the supervisor. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/fault/kill_world.h"

#define LIVE_RUNS    20u
#define LEAVE        4u
#define SCALAR_SHARE 8u

struct worker {
	const struct kill_world *world;
	struct kill_board *board;
	unsigned number;
	int pipe;
	uint64_t random;
	struct kvc_client *client;
	struct kvc_memory *memory;
	struct kvc_namespace *spaces[KILL_SPACES];
	uint8_t *expected; /* room for one block */
	const struct kvc_codec *fastest;
	uint64_t next;    /* run to put */
	uint64_t dropped; /* all runs below are dropped or left */
	unsigned pinned_owner;
	uint64_t pinned_run;
	uint64_t started_ms;
};

static uint64_t pick(struct worker *worker, uint64_t bound)
{
	return kvc_sample_random(&worker->random) % bound;
}

static void send_event(struct worker *worker, const struct kill_event *event)
{
	if (write(worker->pipe, event, sizeof *event) != (ssize_t)sizeof *event)
		_exit(1);
}

static void tell(struct worker *worker, enum kill_event_kind kind, uint32_t status, uint64_t id)
{
	send_event(worker, &(struct kill_event){.kind = kind, .status = status, .id = id});
}

/* ---- calls, timed -------------------------------------------------------------------------- */

static void call_begin(struct worker *worker)
{
	worker->started_ms = kvc_server_now_ms();
}

/* Note how the call ended; true if it was KVC_OK. */
static bool call_end(struct worker *worker, kvc_status status)
{
	uint64_t ms = kvc_server_now_ms() - worker->started_ms;

	atomic_fetch_add(&worker->board->beats[worker->number], 1);
	if (ms > KILL_DEADLINE_MS + KILL_GRACE_MS)
		tell(worker, KILL_SLOW, (uint32_t)ms, 0);
	if (!kill_status_expected(status)) {
		fprintf(stderr, "worker %u: %s: %s\n", worker->number, kvc_status_name(status),
		        kvc_last_error());
		tell(worker, KILL_STATUS, status, 0);
	}
	if (status == KVC_OK)
		return true;
	atomic_fetch_add(&worker->board->failed_calls, 1);
	if (status == KVC_FENCED)
		kvc_memory_renew(worker->memory);
	else
		kvc_server_step();
	return false;
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* The first `count` blocks of a run of `owner`. */
static void run_batch(struct worker *worker, struct kill_batch *batch, unsigned owner, uint64_t run,
                      size_t count)
{
	uint64_t first = kill_run_id(owner, run);

	kill_batch_init(worker->world, batch, first);
	for (size_t i = 0; i < count; i++)
		kill_batch_add(worker->world, batch, first + i);
}

static uint8_t *block_data(struct worker *worker, const struct kvc_block *block)
{
	return (uint8_t *)kvc_memory_data(worker->memory) + block->key_offset;
}

/* ---- what it does -------------------------------------------------------------------------- */

/* The source of a block, and the note of what must come back: by the scalar codec for some, for the others by
 * the fastest. A reader who finds something else than is noted asks the scalar one. */
static void block_make(struct worker *worker, const struct kill_batch *batch, size_t i)
{
	struct kvc_sample_space space = worker->world->spaces[batch->space];
	uint64_t id = batch->ids[i];
	uint8_t *source = block_data(worker, &batch->blocks[i]);

	if (id % SCALAR_SHARE != 0)
		space.restorer = worker->fastest;
	kvc_sample_source(&space, id, source);
	if (!kvc_sample_restore(&space, id, source, worker->expected))
		_exit(1);
	kill_sum_note(worker->world, id, kvc_sample_sum_of(worker->expected, kvc_sample_bytes(&space, id)));
}

static void put_ended(struct worker *worker, const struct kill_batch *batch, uint32_t ack, uint64_t mark)
{
	for (size_t i = 0; i < batch->count; i++) {
		kvc_status status = (kvc_status)batch->blocks[i].status;

		if (status == KVC_OK && ack == KVC_ACK_DISK)
			send_event(worker, &(struct kill_event){
			                           .kind = KILL_ACKED, .id = batch->ids[i], .mark = mark});
		else if (!kill_status_expected(status))
			tell(worker, KILL_STATUS, status, batch->ids[i]);
	}
}

/* A new run, or the beginning of one: what is left out is a miss for ever. */
static void do_put(struct worker *worker)
{
	struct kvc_transfer transfer;
	struct kill_batch batch;
	uint64_t mark = atomic_load(&worker->board->mark);

	run_batch(worker, &batch, worker->number, worker->next++, 1 + pick(worker, KILL_BATCH));
	for (size_t i = 0; i < batch.count; i++) {
		block_make(worker, &batch, i);
		if (i > 0) {
			batch.blocks[i].parent = batch.keys[i - 1];
			batch.blocks[i].parent_bytes = KVC_SAMPLE_KEY_BYTES;
		}
	}
	atomic_store(&worker->board->used[worker->number], worker->next);
	kvc_transfer_init(&transfer, worker->memory);
	transfer.ack = pick(worker, 2) ? KVC_ACK_DISK : KVC_ACK_RAM;
	call_begin(worker);
	if (call_end(worker,
	             kvc_put(worker->spaces[batch.space], &transfer, batch.blocks, batch.count, NULL)))
		put_ended(worker, &batch, transfer.ack, mark);
}

static void check_block(struct worker *worker, const struct kill_batch *batch, size_t i)
{
	const struct kvc_block *block = &batch->blocks[i];

	if (block->status == KVC_MISS)
		atomic_fetch_add(&worker->board->misses, 1);
	if (block->status != KVC_OK) {
		if (!kill_status_expected(block->status))
			tell(worker, KILL_STATUS, block->status, batch->ids[i]);
		return;
	}
	atomic_fetch_add(&worker->board->verified, 1);
	if (!kill_bytes_right(worker->world, batch->ids[i], block_data(worker, block)))
		tell(worker, KILL_WRONG, 0, batch->ids[i]);
}

/* Anyone's blocks, of the newest runs. */
static bool pick_blocks(struct worker *worker, struct kill_batch *batch)
{
	unsigned owner = (unsigned)pick(worker, KILL_WORKERS);
	uint64_t used = atomic_load(&worker->board->used[owner]);

	if (used == 0)
		return false;
	run_batch(worker, batch, owner, used - 1 - pick(worker, used < LIVE_RUNS ? used : LIVE_RUNS),
	          1 + pick(worker, KILL_BATCH));
	return true;
}

static void do_get(struct worker *worker)
{
	struct kvc_transfer transfer;
	struct kill_batch batch;

	if (!pick_blocks(worker, &batch))
		return;
	for (size_t i = 0; i < batch.count; i++)
		memset(block_data(worker, &batch.blocks[i]), 0xA5,
		       kvc_sample_bytes(&worker->world->spaces[batch.space], batch.ids[i]));
	kvc_transfer_init(&transfer, worker->memory);
	call_begin(worker);
	if (!call_end(worker,
	              kvc_get(worker->spaces[batch.space], &transfer, batch.blocks, batch.count, NULL)))
		return;
	for (size_t i = 0; i < batch.count; i++)
		check_block(worker, &batch, i);
}

/* Spaces 0 and 1 differ in their tenants only: what is in one must not be seen from the other. */
static void check_other_tenant(struct worker *worker, const struct kill_batch *batch)
{
	size_t prefix;
	uint8_t tier;

	call_begin(worker);
	if (call_end(worker,
	             kvc_lookup(worker->spaces[1 - batch->space], batch->names, 1, 0, &prefix, &tier)) &&
	    (prefix || tier))
		tell(worker, KILL_WRONG, 0, batch->ids[0]);
}

/* Pin these blocks, and no others any more: pins of all workers must not fill the daemon's memory. */
static void pin_instead(struct worker *worker, const struct kill_batch *batch)
{
	struct kill_batch old;
	size_t done;

	run_batch(worker, &old, worker->pinned_owner, worker->pinned_run, KILL_BATCH);
	call_end(worker, kvc_unpin(worker->spaces[old.space], old.names, old.count, 0, &done));
	worker->pinned_owner = (unsigned)(batch->ids[0] >> 32);
	worker->pinned_run = (batch->ids[0] & UINT32_MAX) / KILL_BATCH;
	call_begin(worker);
	call_end(worker, kvc_pin(worker->spaces[batch->space], batch->names, batch->count, 0, &done));
}

static void do_lookup(struct worker *worker)
{
	struct kill_batch batch;
	uint8_t tiers[KILL_BATCH];
	size_t done;
	struct kvc_namespace *space;

	if (!pick_blocks(worker, &batch))
		return;
	space = worker->spaces[batch.space];
	call_begin(worker);
	call_end(worker, kvc_lookup(space, batch.names, batch.count, 0, &done, tiers));
	if (batch.space < 2)
		check_other_tenant(worker, &batch);
	call_begin(worker);
	if (pick(worker, 2))
		call_end(worker, kvc_prefetch(space, batch.names, batch.count, 0, &done));
	else
		pin_instead(worker, &batch);
}

/* The oldest run, or leave it. */
static void do_drop(struct worker *worker)
{
	struct kill_batch batch;
	size_t done;

	run_batch(worker, &batch, worker->number, worker->dropped++, KILL_BATCH);
	if (pick(worker, LEAVE) == 0)
		return;
	for (size_t i = 0; i < batch.count; i++)
		tell(worker, KILL_DROPPING, KVC_OK, batch.ids[i]);
	call_begin(worker);
	call_end(worker, kvc_drop(worker->spaces[batch.space], batch.names, batch.count, 0, &done));
}

static void step(struct worker *worker)
{
	uint64_t what = pick(worker, 100);

	if (worker->next - worker->dropped > LIVE_RUNS)
		do_drop(worker);
	else if (what < 40)
		do_put(worker);
	else if (what < 80)
		do_get(worker);
	else
		do_lookup(worker);
}

static size_t expected_bytes(const struct kill_world *world)
{
	size_t most = 0;

	for (unsigned i = 0; i < KILL_SPACES; i++) {
		size_t bytes = kvc_sample_bytes_max(&world->spaces[i]);

		if (bytes > most)
			most = bytes;
	}
	return most;
}

void kill_worker_run(const struct kill_world *world, const struct kvc_server *server, unsigned number,
                     int pipe)
{
	struct worker worker = {.world = world, .board = world->board, .number = number, .pipe = pipe};
	kvc_status status = KVC_OK;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	worker.random = world->seed * 31 + number;
	worker.fastest = kvc_codec_get(KVC_SIMD_AUTO);
	worker.expected = malloc(expected_bytes(world));
	if (!worker.expected || kvc_server_client(server, KILL_DEADLINE_MS, &worker.client) != KVC_OK ||
	    kvc_memory_create(worker.client, KILL_REGION, &worker.memory) != KVC_OK)
		_exit(1);
	if (!kill_open_spaces(world, worker.client, worker.spaces, &status) &&
	    !kill_status_expected(status)) {
		fprintf(stderr, "worker %u: open: %s\n", number, kvc_last_error());
		tell(&worker, KILL_STATUS, status, 0);
	}
	while (!atomic_load(&world->board->stop))
		step(&worker);
	kvc_client_destroy(worker.client);
	free(worker.expected);
	_exit(0);
}
