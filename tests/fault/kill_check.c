/* Reading back, after a start, what the ledger says must be there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fault/kill_loop.h"

#define TRIES_MS    30000u
#define NEWEST_RUNS 3u /* of each worker, in a check that is not of all */
#define OTHER_RUNS  1u

struct check {
	struct kill_loop *loop;
	struct kvc_client *client;
	struct kvc_memory *memory;
	struct kvc_namespace *spaces[KILL_SPACES];
};

/* A block that is gone may be so if a worker has begun to drop it (it says so before it does), or if the disk
 * has had to reclaim its segment. */
static void block_gone(struct kill_loop *loop, uint64_t id, kvc_status status)
{
	uint64_t mark;

	kill_drain(loop);
	if (!kill_ledger_has(&loop->ledger, id, &mark))
		return;
	if (kill_disk_keeps(&loop->disk, mark))
		kill_disk_look(&loop->disk);
	if (!kill_disk_keeps(&loop->disk, mark)) {
		loop->totals.reclaimed++;
		kill_ledger_forget(&loop->ledger, id);
		return;
	}
	fprintf(stderr, "block %llx, acknowledged as on disk, is not there: %s\n", (unsigned long long)id,
	        kvc_status_name(status));
	loop->totals.missing++;
}

static void block_check(struct check *check, const struct kill_batch *batch, size_t i)
{
	struct kill_loop *loop = check->loop;
	const struct kvc_block *block = &batch->blocks[i];

	if (block->status != KVC_OK) {
		block_gone(loop, batch->ids[i], block->status);
		return;
	}
	loop->totals.verified++;
	if (kill_bytes_right(&loop->world, batch->ids[i],
	                     (uint8_t *)kvc_memory_data(check->memory) + block->key_offset))
		return;
	fprintf(stderr, "block %llx: wrong bytes\n", (unsigned long long)batch->ids[i]);
	loop->totals.wrong++;
}

/* Those blocks of a run that must be there. */
static void run_batch(struct kill_loop *loop, struct kill_batch *batch, unsigned worker, uint64_t run)
{
	uint64_t first = kill_run_id(worker, run);
	uint64_t mark;

	kill_batch_init(&loop->world, batch, first);
	for (uint64_t id = first; id < first + KILL_BATCH; id++)
		if (kill_ledger_has(&loop->ledger, id, &mark))
			kill_batch_add(&loop->world, batch, id);
}

/* Get all blocks; those that are refused for a reason that passes are asked for again. */
static kvc_status batch_get(struct check *check, struct kill_batch *batch)
{
	uint64_t end = kvc_server_now_ms() + TRIES_MS * kvc_server_patience();
	struct kvc_transfer transfer;
	kvc_status status;
	bool again;

	kvc_transfer_init(&transfer, check->memory);
	do {
		status = kvc_get(check->spaces[batch->space], &transfer, batch->blocks, batch->count, NULL);
		again = status == KVC_BUSY || status == KVC_DEADLINE;
		if (status == KVC_FENCED || status == KVC_DEADLINE)
			kvc_memory_renew(check->memory);
		for (size_t i = 0; status == KVC_OK && i < batch->count; i++)
			again = again || batch->blocks[i].status == KVC_BUSY ||
			        batch->blocks[i].status == KVC_DEADLINE;
	} while (again && !kill_interrupted && kvc_server_now_ms() < end);
	return status;
}

static bool run_check(struct check *check, unsigned worker, uint64_t run)
{
	struct kill_loop *loop = check->loop;
	struct kill_batch batch;
	kvc_status status;

	kill_drain(loop);
	run_batch(loop, &batch, worker, run);
	if (batch.count == 0)
		return true;
	status = batch_get(check, &batch);
	if (status != KVC_OK) {
		fprintf(stderr, "cannot read back: %s: %s\n", kvc_status_name(status), kvc_last_error());
		loop->totals.bad_statuses++;
		return false;
	}
	for (size_t i = 0; i < batch.count; i++)
		block_check(check, &batch, i);
	return true;
}

/* The last runs of a worker before this one's end that have blocks in the ledger, and some others. */
static bool page_sample(struct check *check, unsigned worker)
{
	const struct kill_page *page = &check->loop->ledger.pages[worker];
	uint64_t first = page->begin / KILL_BATCH;
	uint64_t end = (page->end + KILL_BATCH - 1) / KILL_BATCH;
	bool ok = true;

	for (unsigned i = 0; ok && i < NEWEST_RUNS && end > first + i; i++)
		ok = run_check(check, worker, end - 1 - i);
	for (unsigned i = 0; ok && i < OTHER_RUNS && end > first; i++)
		ok = run_check(check, worker, first + kill_pick(check->loop, end - first));
	return ok;
}

static bool page_all(struct check *check, unsigned worker)
{
	const struct kill_page *page = &check->loop->ledger.pages[worker];
	bool ok = true;

	for (uint64_t run = page->begin / KILL_BATCH; ok && run * KILL_BATCH < page->end; run++)
		ok = !kill_interrupted && run_check(check, worker, run);
	return ok;
}

/* How this daemon came to what it knows. */
static void recovery_note(struct check *check)
{
	struct kill_totals *totals = &check->loop->totals;
	struct kvc_stat *stats;
	size_t count;

	if (kvc_stats(check->client, 0, &stats, &count) != KVC_OK)
		return;
	for (size_t i = 0; i < count; i++) {
		uint64_t value = (uint64_t)stats[i].value;

		if (strcmp(stats[i].name, "disk.recovered_by_checkpoint") == 0)
			totals->by_checkpoint += value;
		else if (strcmp(stats[i].name, "disk.recovered_by_summary") == 0)
			totals->by_summary += value;
		else if (strcmp(stats[i].name, "disk.recovered_by_scan") == 0)
			totals->by_scan += value;
		else if (strcmp(stats[i].name, "disk.recovered_records") == 0)
			totals->recovered += value;
	}
	totals->told++;
	kvc_stats_free(stats);
}

void kill_check(struct kill_loop *loop, bool all)
{
	struct check check = {.loop = loop};
	kvc_status status = KVC_OK;
	bool ok = true;

	if (kvc_server_client(&loop->server, 10000, &check.client) != KVC_OK ||
	    kvc_memory_create(check.client, KILL_REGION, &check.memory) != KVC_OK)
		abort();
	if (kill_open_spaces(&loop->world, check.client, check.spaces, &status)) {
		recovery_note(&check);
		for (unsigned i = 0; ok && i < KILL_WORKERS; i++)
			ok = all ? page_all(&check, i) : page_sample(&check, i);
	} else {
		fprintf(stderr, "cannot open namespaces: %s\n", kvc_last_error());
		loop->totals.bad_statuses++;
	}
	kvc_client_destroy(check.client);
}
