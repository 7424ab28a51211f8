/* A worker of the kill loop: puts, gets, looks up, pins and drops blocks, through kills of the daemon.
 *
 * It keeps LIVE_RUNS runs of its own blocks alive, dropping the oldest, so that the supervisor's check after
 * each kill stays short. It reads its own blocks and those of others, and compares each with what the codec's
 * reference restores. What it may not say by itself (what must be there) it reports to the supervisor. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/fault/kill_world.h"

#define LIVE_RUNS 40u /* 10 where a sanitizer makes the codec slow */

struct worker {
	const struct kill_world *world;
	struct kill_board *board;
	unsigned number;
	int pipe;
	uint64_t random;
	struct kvc_client *client;
	struct kvc_memory *memory;
	struct kvc_namespace *spaces[KILL_SPACES];
	uint8_t *expected; /* of one block */
	uint64_t next;     /* run to put */
	uint64_t dropped;  /* all runs below are dropped */
	uint64_t started_ms;
};

static uint64_t live_runs(void)
{
	return kvc_server_patience() > 1 ? LIVE_RUNS / 4 : LIVE_RUNS;
}

static uint64_t pick(struct worker *worker, uint64_t bound)
{
	return kvc_sample_random(&worker->random) % bound;
}

static void tell(struct worker *worker, enum kill_event_kind kind, uint32_t status, uint64_t id)
{
	struct kill_event event = {.kind = kind, .status = status, .id = id};

	if (write(worker->pipe, &event, sizeof event) != (ssize_t)sizeof event)
		_exit(1);
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

/* ---- batches ------------------------------------------------------------------------------- */

struct batch {
	unsigned space;
	size_t count;
	uint64_t ids[KILL_BATCH];
	uint8_t keys[KILL_BATCH][KVC_SAMPLE_KEY_BYTES];
	struct kvc_block blocks[KILL_BATCH];
	struct kvc_key names[KILL_BATCH];
};

static void batch_add(struct worker *worker, struct batch *batch, uint64_t id)
{
	const struct kvc_sample_space *space = &worker->world->spaces[batch->space];
	size_t i = batch->count++;
	uint64_t step = (kvc_sample_bytes_max(space) + 63) / 64 * 64;

	batch->ids[i] = id;
	kvc_sample_block(space, id, i * step, batch->keys[i], &batch->blocks[i]);
	batch->names[i] = (struct kvc_key){.data = batch->keys[i], .bytes = KVC_SAMPLE_KEY_BYTES};
}

/* The first `count` blocks of a run of `owner`. */
static void batch_init(struct worker *worker, struct batch *batch, unsigned owner, uint64_t run, size_t count)
{
	uint64_t first = kill_run_id(owner, run);

	batch->count = 0;
	batch->space = kill_space_of(worker->world, first);
	for (size_t i = 0; i < count; i++)
		batch_add(worker, batch, first + i);
}

static uint8_t *block_data(struct worker *worker, const struct kvc_block *block)
{
	return (uint8_t *)kvc_memory_data(worker->memory) + block->key_offset;
}

/* ---- what it does -------------------------------------------------------------------------- */

/* A new run, or the beginning of one: what is left out is a miss for ever. */
static void do_put(struct worker *worker)
{
	struct kvc_transfer transfer;
	struct batch batch;

	batch_init(worker, &batch, worker->number, worker->next++, 1 + pick(worker, KILL_BATCH));
	atomic_store(&worker->board->used[worker->number], worker->next);
	for (size_t i = 0; i < batch.count; i++) {
		kvc_sample_source(&worker->world->spaces[batch.space], batch.ids[i],
		                  block_data(worker, &batch.blocks[i]));
		if (i > 0) {
			batch.blocks[i].parent = batch.keys[i - 1];
			batch.blocks[i].parent_bytes = KVC_SAMPLE_KEY_BYTES;
		}
	}
	kvc_transfer_init(&transfer, worker->memory);
	transfer.ack = pick(worker, 2) ? KVC_ACK_DISK : KVC_ACK_RAM;
	call_begin(worker);
	if (!call_end(worker,
	              kvc_put(worker->spaces[batch.space], &transfer, batch.blocks, batch.count, NULL)))
		return;
	for (size_t i = 0; i < batch.count; i++) {
		if (batch.blocks[i].status == KVC_OK && transfer.ack == KVC_ACK_DISK)
			tell(worker, KILL_ACKED, KVC_OK, batch.ids[i]);
		else if (!kill_status_expected(batch.blocks[i].status))
			tell(worker, KILL_STATUS, batch.blocks[i].status, batch.ids[i]);
	}
}

static void check_block(struct worker *worker, const struct batch *batch, size_t i)
{
	const struct kvc_sample_space *space = &worker->world->spaces[batch->space];
	const struct kvc_block *block = &batch->blocks[i];
	size_t bytes = kvc_sample_bytes(space, batch->ids[i]);

	if (block->status == KVC_MISS)
		atomic_fetch_add(&worker->board->misses, 1);
	if (block->status != KVC_OK) {
		if (!kill_status_expected(block->status))
			tell(worker, KILL_STATUS, block->status, batch->ids[i]);
		return;
	}
	kvc_sample_source(space, batch->ids[i], worker->expected);
	if (!kvc_sample_restore(space, batch->ids[i], worker->expected, worker->expected))
		_exit(1);
	atomic_fetch_add(&worker->board->verified, 1);
	if (memcmp(worker->expected, block_data(worker, block), bytes) != 0)
		tell(worker, KILL_WRONG, 0, batch->ids[i]);
}

/* Anyone's blocks, of the newest runs. */
static bool pick_blocks(struct worker *worker, struct batch *batch)
{
	unsigned owner = (unsigned)pick(worker, KILL_WORKERS);
	uint64_t used = atomic_load(&worker->board->used[owner]);

	if (used == 0)
		return false;
	batch_init(worker, batch, owner, used - 1 - pick(worker, used < live_runs() ? used : live_runs()),
	           1 + pick(worker, KILL_BATCH));
	return true;
}

static void do_get(struct worker *worker)
{
	struct kvc_transfer transfer;
	struct batch batch;

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
static void check_other_tenant(struct worker *worker, const struct batch *batch)
{
	size_t prefix;
	uint8_t tier;

	call_begin(worker);
	if (call_end(worker,
	             kvc_lookup(worker->spaces[1 - batch->space], batch->names, 1, 0, &prefix, &tier)) &&
	    (prefix || tier))
		tell(worker, KILL_WRONG, 0, batch->ids[0]);
}

static void do_lookup(struct worker *worker)
{
	struct batch batch;
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
	switch (pick(worker, 3)) {
	case 0:
		call_end(worker, kvc_prefetch(space, batch.names, batch.count, 0, &done));
		break;
	case 1:
		call_end(worker, kvc_pin(space, batch.names, batch.count, 0, &done));
		break;
	default:
		call_end(worker, kvc_unpin(space, batch.names, batch.count, 0, &done));
		break;
	}
}

/* The oldest run. */
static void do_drop(struct worker *worker)
{
	struct batch batch;
	size_t done;

	batch_init(worker, &batch, worker->number, worker->dropped++, KILL_BATCH);
	for (size_t i = 0; i < batch.count; i++)
		tell(worker, KILL_DROPPING, KVC_OK, batch.ids[i]);
	call_begin(worker);
	call_end(worker, kvc_drop(worker->spaces[batch.space], batch.names, batch.count, 0, &done));
}

static void step(struct worker *worker)
{
	uint64_t what = pick(worker, 100);

	if (worker->next - worker->dropped > live_runs())
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
