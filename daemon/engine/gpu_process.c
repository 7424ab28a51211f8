/* Life of an engine's process.
 *
 *              .------------------------ back-off -------------------------.
 *              v                                                           |
 *   DOWN --> STARTING --READY--> RESTORING --all answered--> UP            |
 *              |                     |                        |            |
 *              '--------- failed, hung, broken, ended --------'            |
 *                                    v                                     |
 *                                 ENDING --reaped--> DOWN -----------------'
 *
 *   any --kvc_gpu_close--> CLOSING --reaped--> freed
 *
 * A process counts as gone when it has been reaped, and not before: until then it may write the arena and
 * clients' device memory, so its jobs stay its own. One that ignores SIGKILL (it sits in the driver) keeps
 * them; deadlines of clients pass, and the client library fences what they name.
 *
 * One timer serves all states, and is armed all the time: so starting it never fails for want of memory. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/engine/gpu_private.h"

enum {
	READY_MS = 30000,
	END_MS = 1000,            /* one that has closed its end of the pair has so long to be gone */
	KILL_MS = 10000,          /* then SIGKILL has not helped, and somebody should know */
	CLOSE_MS = 2000,          /* an engine that is let go has so long to clear up */
	BACKOFF_MS = 100,         /* doubled each time */
	BACKOFF_UP_MS = 500,      /* at most, if it had become ready */
	BACKOFF_START_MS = 30000, /* at most, if it fails at start: a GPU that is gone stays gone */
	STEADY_MS = 10000,        /* up for so long: what was before is forgotten */
	IDLE_MS = 3600000,
};

static const uint8_t moves[] = {
        [GPU_DOWN] = 1 << GPU_STARTING | 1 << GPU_CLOSING,
        [GPU_STARTING] = 1 << GPU_RESTORING | 1 << GPU_ENDING | 1 << GPU_CLOSING,
        [GPU_RESTORING] = 1 << GPU_UP | 1 << GPU_ENDING | 1 << GPU_CLOSING,
        [GPU_UP] = 1 << GPU_ENDING | 1 << GPU_CLOSING,
        [GPU_ENDING] = 1 << GPU_DOWN | 1 << GPU_CLOSING,
        [GPU_CLOSING] = 0,
};

/* The timer runs, or has just fired and left its place: the heap need not grow. */
static void timer_set(struct kvc_gpu *gpu, uint64_t delay_ms)
{
	KVC_INVARIANT(kvc_timer_start(gpu->options.loop, &gpu->timer, delay_ms) == KVC_OK);
}

static void move(struct kvc_gpu *gpu, enum gpu_state to, uint64_t delay_ms)
{
	KVC_INVARIANT(moves[gpu->state] & 1 << to);
	gpu->state = to;
	kvc_stat_set(gpu->cells[GPU_CELL_UP], to == GPU_UP);
	timer_set(gpu, delay_ms);
}

static uint64_t now_ms(const struct kvc_gpu *gpu)
{
	return kvc_loop_now_ms(gpu->options.loop);
}

/* How often a running engine is looked at. */
static uint64_t look_ms(const struct kvc_gpu *gpu)
{
	uint64_t ms = gpu->options.hang_ms / 4;

	return ms ? ms : 1;
}

void kvc_gpu_progress(struct kvc_gpu *gpu)
{
	gpu->progress_ms = now_ms(gpu);
}

/* ---- the end ------------------------------------------------------------------------------- */

static bool runs(const struct kvc_gpu *gpu)
{
	return gpu->state == GPU_STARTING || gpu->state == GPU_RESTORING || gpu->state == GPU_UP;
}

void kvc_gpu_fail(struct kvc_gpu *gpu, kvc_status status, const char *format, ...)
{
	va_list arguments;

	if (!runs(gpu))
		return;
	va_start(arguments, format);
	vsnprintf(gpu->detail, sizeof gpu->detail, format, arguments);
	va_end(arguments);
	gpu->why = status;
	gpu->killed = true;
	kvc_watch_set(gpu->watch, false, false);
	move(gpu, GPU_ENDING, KILL_MS);
	if (gpu->child)
		kvc_child_kill(gpu->child, SIGKILL);
}

void kvc_gpu_ended(struct kvc_gpu *gpu)
{
	if (!runs(gpu))
		return;
	snprintf(gpu->detail, sizeof gpu->detail, "the process ended");
	gpu->why = KVC_ENGINE_LOST;
	gpu->killed = false;
	kvc_watch_set(gpu->watch, false, false);
	move(gpu, GPU_ENDING, END_MS);
}

/* One that had become ready is needed soon. One that does not come up is not pressed. */
static void backoff_grow(struct kvc_gpu *gpu, bool was_up)
{
	uint64_t most = was_up ? BACKOFF_UP_MS : BACKOFF_START_MS;

	if (was_up && now_ms(gpu) - gpu->up_ms >= STEADY_MS)
		gpu->backoff_ms = 0;
	gpu->backoff_ms = gpu->backoff_ms ? 2 * gpu->backoff_ms : BACKOFF_MS;
	if (gpu->backoff_ms > most)
		gpu->backoff_ms = most;
}

static void judge(struct kvc_gpu *gpu, kvc_status status, const char *detail)
{
	gpu->judged = true;
	gpu->condemned = status != KVC_OK;
	gpu->verdict(gpu->verdict_context, gpu, status, detail);
}

/* Who relied on it hears of it before any of its jobs ends: so nobody takes what it held for there. */
static void down(struct kvc_gpu *gpu)
{
	bool was_up = gpu->announced;

	gpu->announced = false;
	gpu->life++;
	backoff_grow(gpu, was_up);
	move(gpu, GPU_DOWN, gpu->backoff_ms);
	if (gpu->judged)
		kvc_error("GPU %u: engine lost: %s; starting it again in %llu ms", gpu->options.ordinal,
		          gpu->detail, (unsigned long long)gpu->backoff_ms);
	else
		judge(gpu, gpu->why, gpu->detail);
	if (was_up && gpu->events.down)
		gpu->events.down(gpu->events.context, gpu);
	kvc_gpu_jobs_lose(gpu);
	kvc_gpu_memory_lose(gpu);
}

static void end_describe(struct kvc_gpu *gpu, const struct kvc_child_end *end)
{
	size_t used = strlen(gpu->detail);
	char *room = gpu->detail + used;

	if (end->signal && !gpu->killed)
		snprintf(room, sizeof gpu->detail - used, " (signal %d)", end->signal);
	else if (!end->signal)
		snprintf(room, sizeof gpu->detail - used, " (exit status %d)", end->exit_code);
}

static void close_begin(struct kvc_gpu *gpu)
{
	kvc_gpu_memory_lose(gpu);
	kvc_loop_defer(gpu->options.loop, &gpu->close_task);
}

/* What it said before it ended still holds. */
static void process_ended(void *context, const struct kvc_child_end *end)
{
	struct kvc_gpu *gpu = context;

	gpu->child = NULL;
	if (runs(gpu)) {
		kvc_gpu_link_drain(gpu);
		kvc_gpu_ended(gpu);
	}
	kvc_gpu_link_close(gpu);
	if (gpu->state == GPU_CLOSING) {
		close_begin(gpu);
		return;
	}
	end_describe(gpu, end);
	down(gpu);
}

/* ---- the start ----------------------------------------------------------------------------- */

static kvc_status child_start(struct kvc_gpu *gpu, int theirs)
{
	char ordinal[16];
	const char *args[] = {gpu->program, "--gpu", ordinal, NULL};
	struct kvc_child_options options = {
	        .program = gpu->program,
	        .args = args,
	        .fds = &theirs,
	        .fd_count = 1,
	        .ended = process_ended,
	        .context = gpu,
	};

	snprintf(ordinal, sizeof ordinal, "%u", gpu->options.ordinal);
	return kvc_child_start(gpu->options.loop, &options, &gpu->child);
}

static void start_send(struct kvc_gpu *gpu)
{
	const struct kvc_gpu_options *options = &gpu->options;
	struct kvc_gpu_start start = {
	        .header = {.type = KVC_GPU_START},
	        .wire = KVC_GPU_WIRE,
	        .ordinal = options->ordinal,
	        .sms = options->sms,
	        .low_priority = options->low_priority,
	        .vram_bytes = options->vram_bytes,
	        .staging_bytes = options->staging_bytes,
	        .arena_bytes = kvc_arena_bytes(options->arena),
	};
	int arena = kvc_arena_fd(options->arena);

	memcpy(gpu->out, &start, sizeof start);
	/* What does not fit into an empty socket was for one that is gone already, or never comes: in either
	 * case it does not become ready. */
	if (kvc_gpu_link_send(gpu, sizeof start, &arena, 1) == KVC_BUSY)
		kvc_watch_set(gpu->watch, true, false);
}

static kvc_status process_start(struct kvc_gpu *gpu)
{
	kvc_status status;
	int theirs;

	status = kvc_gpu_link_open(gpu, &theirs);
	if (status != KVC_OK) {
		snprintf(gpu->detail, sizeof gpu->detail, "no socket pair for it: %s",
		         kvc_status_text(status));
		return status;
	}
	status = child_start(gpu, theirs);
	if (status != KVC_OK)
		snprintf(gpu->detail, sizeof gpu->detail, "cannot start %.150s: %s", gpu->program,
		         strerror(errno));
	close(theirs);
	return status;
}

static void start(struct kvc_gpu *gpu)
{
	kvc_status status;

	move(gpu, GPU_STARTING, gpu->options.ready_ms);
	status = process_start(gpu);
	if (status == KVC_OK) {
		start_send(gpu);
		return;
	}
	kvc_gpu_link_close(gpu);
	gpu->why = status;
	move(gpu, GPU_ENDING, KILL_MS);
	down(gpu);
}

void kvc_gpu_ready(struct kvc_gpu *gpu, const struct kvc_gpu_ready *ready)
{
	if (ready->wire != KVC_GPU_WIRE) {
		kvc_gpu_fail(gpu, KVC_VERSION,
		             "%.150s is of another build: it speaks version %u, this daemon %u", gpu->program,
		             ready->wire, KVC_GPU_WIRE);
		return;
	}
	if (gpu->known && memcmp(gpu->uuid, ready->uuid, sizeof gpu->uuid) != 0) {
		kvc_gpu_fail(gpu, KVC_CONFLICT, "number %u is another device now: %s", gpu->options.ordinal,
		             ready->name);
		return;
	}
	memcpy(gpu->uuid, ready->uuid, sizeof gpu->uuid);
	memcpy(gpu->name, ready->name, sizeof gpu->name);
	gpu->known = true;
	kvc_stat_set(gpu->cells[GPU_CELL_DEVICE],
	             ready->device_bytes < INT64_MAX ? (int64_t)ready->device_bytes : INT64_MAX);
	move(gpu, GPU_RESTORING, look_ms(gpu));
	kvc_gpu_progress(gpu);
	kvc_gpu_memory_restore(gpu);
}

void kvc_gpu_announce(struct kvc_gpu *gpu)
{
	bool again = gpu->judged;

	move(gpu, GPU_UP, look_ms(gpu));
	gpu->up_ms = now_ms(gpu);
	gpu->announced = true;
	kvc_info("GPU %u: engine is up: %s", gpu->options.ordinal, gpu->name);
	if (again)
		kvc_stat_add(gpu->cells[GPU_CELL_RESTARTS], 1);
	else
		judge(gpu, KVC_OK, "");
	if (gpu->state == GPU_UP && gpu->events.up)
		gpu->events.up(gpu->events.context, gpu);
}

/* ---- the timer ----------------------------------------------------------------------------- */

/* Whether it owes an answer. */
static bool owes(const struct kvc_gpu *gpu)
{
	return !kvc_list_empty(&gpu->awaited) || !kvc_list_empty(&gpu->requests) ||
	       !kvc_list_empty(&gpu->sent) || !kvc_list_empty(&gpu->queue);
}

/* When the oldest of what it owes was sent. */
static uint64_t oldest_ms(const struct kvc_gpu *gpu)
{
	uint64_t job = kvc_gpu_jobs_oldest_ms(gpu);
	uint64_t request = kvc_gpu_memory_oldest_ms(gpu);

	return job < request ? job : request;
}

/* Two bounds. Nothing at all is answered for hang_ms: it hangs. Others are answered but one is not, for
 * several times as long: that one never will be. */
static bool hangs(const struct kvc_gpu *gpu)
{
	uint64_t oldest = oldest_ms(gpu);
	uint64_t now = now_ms(gpu);

	return now - gpu->progress_ms >= gpu->options.hang_ms ||
	       (oldest < now && now - oldest >= 8ull * gpu->options.hang_ms);
}

static void look(struct kvc_gpu *gpu)
{
	uint64_t oldest;

	if (!owes(gpu))
		kvc_gpu_progress(gpu);
	if (hangs(gpu)) /* or it is we who stood still, and its answers lie here */
		kvc_gpu_link_drain(gpu);
	if (!runs(gpu))
		return;
	if (!hangs(gpu)) {
		kvc_gpu_pump(gpu);
		timer_set(gpu, look_ms(gpu));
		return;
	}
	kvc_stat_add(gpu->cells[GPU_CELL_HANGS], 1);
	oldest = oldest_ms(gpu);
	if (oldest > gpu->progress_ms)
		oldest = gpu->progress_ms;
	kvc_gpu_fail(gpu, KVC_ENGINE_LOST, "it hangs: no answer for %llu ms",
	             (unsigned long long)(now_ms(gpu) - oldest));
}

static void kill_again(struct kvc_gpu *gpu, const char *what)
{
	kvc_warn("GPU %u: engine %s", gpu->options.ordinal, what);
	gpu->killed = true;
	kvc_child_kill(gpu->child, SIGKILL);
	timer_set(gpu, KILL_MS);
}

static void timer_fired(struct kvc_timer *timer)
{
	struct kvc_gpu *gpu = kvc_container_of(timer, struct kvc_gpu, timer);

	switch (gpu->state) {
	case GPU_DOWN:
		if (gpu->condemned)
			timer_set(gpu, IDLE_MS);
		else
			start(gpu);
		return;
	case GPU_STARTING:
		kvc_gpu_fail(gpu, KVC_DEADLINE, "%.150s did not become ready within %u ms", gpu->program,
		             gpu->options.ready_ms);
		return;
	case GPU_RESTORING:
	case GPU_UP:
		look(gpu);
		return;
	case GPU_ENDING:
		kill_again(gpu, gpu->killed ? "was killed and is not gone: the driver holds it"
		                            : "ended and is not gone: killed");
		return;
	case GPU_CLOSING:
		kill_again(gpu, "does not end by itself: killed");
		return;
	}
}

/* ---- open and close ------------------------------------------------------------------------ */

static void closed_run(struct kvc_task *task)
{
	struct kvc_gpu *gpu = kvc_container_of(task, struct kvc_gpu, close_task);
	void (*closed)(void *context) = gpu->closed;
	void *context = gpu->closed_context;

	KVC_INVARIANT(kvc_list_empty(&gpu->regions) && kvc_list_empty(&gpu->pools) && !gpu->pump.queued);
	kvc_timer_stop(&gpu->timer);
	kvc_gpu_jobs_close(gpu);
	kvc_free(gpu);
	closed(context);
}

static kvc_status options_take(struct kvc_gpu *gpu, const struct kvc_gpu_options *options)
{
	gpu->options = *options;
	if (!gpu->options.ready_ms)
		gpu->options.ready_ms = READY_MS;
	if ((size_t)snprintf(gpu->program, sizeof gpu->program, "%s", options->program) >=
	    sizeof gpu->program)
		return KVC_INVALID;
	gpu->options.program = gpu->program;
	kvc_list_init(&gpu->regions);
	kvc_list_init(&gpu->pools);
	kvc_list_init(&gpu->requests);
	kvc_list_init(&gpu->awaited);
	gpu->fd = -1;
	gpu->timer.fire = timer_fired;
	gpu->close_task.run = closed_run;
	return KVC_OK;
}

kvc_status kvc_gpu_open(const struct kvc_gpu_options *options,
                        void (*verdict)(void *context, struct kvc_gpu *gpu, kvc_status status,
                                        const char *detail),
                        void *context, struct kvc_gpu **gpu)
{
	struct kvc_gpu *opened;
	kvc_status status;

	KVC_PRE(options->ordinal < KVC_GPUS_MAX && options->hang_ms && verdict);
	opened = kvc_calloc(1, sizeof *opened);
	if (!opened)
		return KVC_NO_MEMORY;
	status = options_take(opened, options);
	if (status == KVC_OK)
		status = kvc_gpu_jobs_open(opened);
	if (status != KVC_OK)
		goto free_gpu;
	status = kvc_timer_start(options->loop, &opened->timer, 0); /* the first start comes with it */
	if (status != KVC_OK)
		goto close_jobs;
	opened->verdict = verdict;
	opened->verdict_context = context;
	kvc_gpu_stats_open(opened);
	*gpu = opened;
	return KVC_OK;

close_jobs:
	kvc_gpu_jobs_close(opened);
free_gpu:
	kvc_free(opened);
	return status;
}

/* Its end of the pair closed, an engine ends by itself, and gives back what it holds in order. */
void kvc_gpu_close(struct kvc_gpu *gpu, void (*done)(void *context), void *context)
{
	bool running = gpu->child != NULL;

	KVC_PRE(gpu->state != GPU_CLOSING && done);
	KVC_PRE(kvc_list_empty(&gpu->queue) && kvc_list_empty(&gpu->sent) && kvc_gpu_memory_closed(gpu));
	gpu->closed = done;
	gpu->closed_context = context;
	move(gpu, GPU_CLOSING, CLOSE_MS);
	kvc_gpu_link_close(gpu);
	if (!running)
		close_begin(gpu);
}

void kvc_gpu_events_set(struct kvc_gpu *gpu, const struct kvc_gpu_events *events)
{
	gpu->events = *events;
}

/* ---- looking ------------------------------------------------------------------------------- */

bool kvc_gpu_is_up(const struct kvc_gpu *gpu)
{
	return gpu->state == GPU_UP;
}

uint32_t kvc_gpu_life(const struct kvc_gpu *gpu)
{
	return gpu->life;
}

const uint8_t *kvc_gpu_uuid(const struct kvc_gpu *gpu)
{
	return gpu->uuid;
}

const char *kvc_gpu_name(const struct kvc_gpu *gpu)
{
	return gpu->name;
}

uint64_t kvc_gpu_vram_bytes(const struct kvc_gpu *gpu)
{
	return gpu->options.vram_bytes;
}
