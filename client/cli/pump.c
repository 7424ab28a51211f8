/* The pump. A unit is the part of the window that one request uses, and goes round
 *
 *   FREE -> SENT -> FREE     done
 *             `---> WAITING  the daemon was busy: sent again a little later
 *
 * In the window the blocks of a unit lie one behind the other, keys then values: the same as the payload of
 * the inline plane, so both planes share this. */
#include "client/cli/pump.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/cmd.h"

#define UNIT_BYTES     (8u << 20) /* a request should be worth its round trip */
#define BUSY_PAUSE_MS  5u
#define PROGRESS_AFTER 1.0 /* seconds */

struct unit {
	enum { FREE, SENT, WAITING } state;
	size_t first;
	size_t count;
	size_t offset; /* in the window */
	unsigned tries;
	struct kvc_block *blocks;
};

struct pump {
	const struct kvc_pump *plan;
	struct kvc_pump_result *result;
	struct kvc_memory *memory;
	struct kvc_transfer transfer;
	struct unit *units;
	struct kvc_block *blocks;
	size_t unit_count;
	size_t unit_blocks;
	size_t next; /* block not yet in a unit */
	size_t done;
	double start;
	double shown;
};

static double now(void)
{
	struct timespec time;

	(void)clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void show_progress(struct pump *pump, bool last)
{
	double t = now();

	if (!isatty(STDERR_FILENO) || t - pump->start < PROGRESS_AFTER)
		return;
	if (last)
		(void)fprintf(stderr, "\r\033[K");
	else if (t - pump->shown > 0.1)
		(void)fprintf(stderr, "\r%s: %zu of %zu blocks\033[K", pump->plan->job->name, pump->done,
		              pump->plan->blocks);
	pump->shown = t;
}

/* ---- set-up -------------------------------------------------------------------------------- */

static int pump_open(struct pump *pump)
{
	const struct kvc_job *job = pump->plan->job;
	uint64_t block_bytes = kvc_job_token_bytes(job) * job->block_tokens;
	size_t depth = job->settings->depth;
	kvc_status status;

	pump->unit_blocks = pump->plan->batch ? pump->plan->batch : (size_t)(UNIT_BYTES / block_bytes);
	pump->unit_blocks = pump->unit_blocks < 1 ? 1 : pump->unit_blocks > 512 ? 512 : pump->unit_blocks;
	if (pump->unit_blocks > pump->plan->blocks)
		pump->unit_blocks = pump->plan->blocks;
	pump->unit_count = (pump->plan->blocks + pump->unit_blocks - 1) / pump->unit_blocks;
	pump->unit_count = pump->unit_count < depth ? pump->unit_count : depth;
	status = kvc_memory_create(job->client, block_bytes * pump->unit_blocks * pump->unit_count,
	                           &pump->memory);
	if (status != KVC_OK)
		return kvc_job_failure(job, "the window of shared memory", status);
	kvc_transfer_init(&pump->transfer, pump->memory);
	pump->transfer.ack = (uint32_t)job->settings->ack;
	pump->transfer.ttl_ms = (uint32_t)job->settings->ttl_ms;
	pump->transfer.priority = (uint32_t)job->settings->priority;
	pump->transfer.ephemeral = (uint32_t)job->settings->ephemeral;
	pump->units = calloc(pump->unit_count, sizeof(*pump->units));
	pump->blocks = calloc(pump->unit_count * pump->unit_blocks, sizeof(*pump->blocks));
	if (!pump->units || !pump->blocks)
		return kvc_failure(job->name, "out of memory");
	for (size_t i = 0; i < pump->unit_count; i++) {
		pump->units[i].offset = i * block_bytes * pump->unit_blocks;
		pump->units[i].blocks = pump->blocks + i * pump->unit_blocks;
	}
	return -1;
}

static void pump_close(struct pump *pump)
{
	kvc_memory_destroy(pump->memory);
	free(pump->units);
	free(pump->blocks);
}

/* ---- units --------------------------------------------------------------------------------- */

static uint8_t *window(const struct pump *pump, uint64_t offset)
{
	return (uint8_t *)kvc_memory_data(pump->memory) + offset;
}

/* The next blocks into a free unit. */
static void unit_load(struct pump *pump, struct unit *unit)
{
	const struct kvc_job *job = pump->plan->job;
	uint64_t at = unit->offset;

	unit->first = pump->next;
	unit->tries = 0;
	for (unit->count = 0; unit->count < pump->unit_blocks && pump->next < pump->plan->blocks;
	     unit->count++) {
		uint64_t tokens = kvc_job_block_tokens(job, pump->next);

		unit->blocks[unit->count] = (struct kvc_block){
		        .key = job->keys[pump->next],
		        .key_bytes = KVC_BLOCK_KEY_BYTES,
		        .parent = pump->plan->put && pump->next > 0 ? job->keys[pump->next - 1] : NULL,
		        .parent_bytes = KVC_BLOCK_KEY_BYTES,
		        .tokens = (uint32_t)tokens,
		        .key_offset = at,
		        .value_offset = at + job->layers * job->row_bytes[0] * tokens,
		};
		at += kvc_job_token_bytes(job) * tokens;
		pump->next++;
	}
}

static uint64_t unit_bytes(const struct pump *pump, const struct unit *unit)
{
	uint64_t tokens = 0;

	for (size_t i = 0; i < unit->count; i++)
		tokens += unit->blocks[i].tokens;
	return tokens * kvc_job_token_bytes(pump->plan->job);
}

/* Hand blocks to, or take them from, the caller. */
static bool unit_step(const struct pump *pump, const struct unit *unit)
{
	for (size_t i = 0; pump->plan->step && i < unit->count; i++) {
		if (!pump->plan->put && unit->blocks[i].status != KVC_OK)
			continue;
		if (!pump->plan->step(pump->plan->data, unit->first + i,
		                      window(pump, unit->blocks[i].key_offset)))
			return false;
	}
	return true;
}

static bool unit_busy(const struct unit *unit)
{
	for (size_t i = 0; i < unit->count; i++) {
		if (unit->blocks[i].status == KVC_BUSY)
			return true;
	}
	return false;
}

static void add_outcome(struct kvc_outcome *sum, const struct kvc_outcome *part)
{
	sum->blocks_ok += part->blocks_ok;
	sum->stored_bytes += part->stored_bytes;
	sum->from_vram += part->from_vram;
	sum->from_ram += part->from_ram;
	sum->from_disk += part->from_disk;
}

/* Account for a unit whose answer is there. False: an error was told. */
static bool unit_done(struct pump *pump, struct unit *unit, kvc_status status,
                      const struct kvc_outcome *outcome)
{
	struct kvc_pump_result *result = pump->result;
	uint64_t most = pump->plan->job->settings->deadline_ms / BUSY_PAUSE_MS;

	if ((status == KVC_BUSY || (status == KVC_OK && unit_busy(unit))) && unit->tries++ < most) {
		unit->state = WAITING;
		return true;
	}
	if (status != KVC_OK) {
		(void)kvc_job_failure(pump->plan->job, pump->plan->put ? "put" : "get", status);
		return false;
	}
	add_outcome(&result->outcome, outcome);
	for (size_t i = 0; i < unit->count; i++) {
		result->moved += unit->blocks[i].status == KVC_OK;
		if (unit->blocks[i].status == KVC_OK || unit->first + i > result->first_other)
			continue;
		result->first_other = unit->first + i;
		result->other = unit->blocks[i].status;
	}
	unit->state = FREE;
	pump->done += unit->count;
	show_progress(pump, false);
	return pump->plan->put || unit_step(pump, unit);
}

/* ---- sending ------------------------------------------------------------------------------- */

static bool send_inline(struct pump *pump, struct unit *unit)
{
	struct kvc_outcome outcome = {0};
	uint8_t *data = window(pump, unit->offset);
	uint64_t bytes = unit_bytes(pump, unit);
	kvc_status status;

	if (pump->plan->put)
		status = kvc_put_inline(pump->plan->job->ns, &pump->transfer, unit->blocks, unit->count, data,
		                        bytes, &outcome);
	else
		status = kvc_get_inline(pump->plan->job->ns, &pump->transfer, unit->blocks, unit->count, data,
		                        bytes, &outcome);
	return unit_done(pump, unit, status, &outcome);
}

static bool send_unit(struct pump *pump, struct unit *unit)
{
	struct kvc_outcome none = {0};
	kvc_status status;

	if (pump->plan->job->settings->plane == KVC_CLI_INLINE)
		return send_inline(pump, unit);
	if (pump->plan->put)
		status =
		        kvc_put_submit(pump->plan->job->ns, &pump->transfer, unit->blocks, unit->count, unit);
	else
		status =
		        kvc_get_submit(pump->plan->job->ns, &pump->transfer, unit->blocks, unit->count, unit);
	unit->state = SENT;
	return status == KVC_OK || unit_done(pump, unit, status, &none);
}

/* Load and send what can be. */
static bool send_all(struct pump *pump)
{
	for (size_t i = 0; i < pump->unit_count; i++) {
		struct unit *unit = &pump->units[i];

		if (unit->state == SENT || (unit->state == FREE && pump->next >= pump->plan->blocks))
			continue;
		if (unit->state == FREE) {
			unit_load(pump, unit);
			if (pump->plan->put && !unit_step(pump, unit))
				return false;
		}
		if (!send_unit(pump, unit))
			return false;
	}
	return true;
}

static bool take_some(struct pump *pump)
{
	struct kvc_completion completions[16];
	struct timespec pause = {.tv_nsec = BUSY_PAUSE_MS * 1000000};
	bool waiting = false;
	bool sent = false;
	size_t count = 0;

	for (size_t i = 0; i < pump->unit_count; i++) {
		waiting |= pump->units[i].state == WAITING;
		sent |= pump->units[i].state == SENT;
	}
	if (!sent) {
		if (waiting)
			(void)nanosleep(&pause, NULL);
		return true;
	}
	if (kvc_client_next(pump->plan->job->client, completions, 16, waiting ? BUSY_PAUSE_MS : 1000,
	                    &count) != KVC_OK) {
		(void)kvc_failure(pump->plan->job->name, "%s", kvc_last_error());
		return false;
	}
	for (size_t i = 0; i < count; i++) {
		if (!unit_done(pump, completions[i].tag, completions[i].status, &completions[i].outcome))
			return false;
	}
	return true;
}

int kvc_pump_run(const struct kvc_pump *plan, struct kvc_pump_result *result)
{
	struct pump pump = {.plan = plan, .result = result, .start = now()};
	int code;

	*result = (struct kvc_pump_result){.first_other = plan->blocks, .other = KVC_OK};
	code = pump_open(&pump);
	pump.start = now();
	while (code < 0 && pump.done < plan->blocks) {
		if (!send_all(&pump) || !take_some(&pump))
			code = KVC_EXIT_FAILURE;
	}
	result->seconds = now() - pump.start;
	show_progress(&pump, true);
	pump_close(&pump);
	return code;
}
