/* Switching the tier off when it fails, and on again.
 *
 * Writing stops after WRITE_FAILURES failures in a row, at once when there is no space, or when something
 * hangs for STALL_MS that stores wait for; reads of what is there go on. Reading stops, and all else with it,
 * after READ_FAILURES failures within a minute, or when a load or a write hangs for STALL_MS: what is in
 * flight then keeps its memory until the kernel lets go of it, but nothing is added. After a pause, which
 * doubles each time, the tier is tried again; the first failure then stops it again. */
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

#define NEVER UINT64_MAX

enum {
	WRITE_FAILURES = 3,
	READ_FAILURES = 16,
	READ_WINDOW_MS = 60000,
	STALL_MS = 5000,
	WATCH_MS = 500,
	PAUSE_MIN_MS = 1000,
	PAUSE_MAX_MS = 60000,
};

/* What waits will not be started now. */
static void waiting_refuse(struct kvc_disk *disk, kvc_status cause)
{
	kvc_disk_fail_stores(disk, cause == KVC_NO_SPACE ? KVC_NO_SPACE : KVC_UNAVAILABLE);
	if (disk->reading.off)
		kvc_disk_fail_loads(disk, KVC_UNAVAILABLE);
}

/* Without a timer, for want of memory, nobody would switch it on again: it stays on. */
static void trip(struct kvc_disk *disk, struct disk_breaker *breaker, kvc_status cause, const char *why)
{
	if (breaker->off)
		return;
	if (kvc_timer_start(disk->loop, &breaker->timer, breaker->pause_ms) == KVC_OK) {
		kvc_warn("disk tier: %s stops for %u ms: %s", breaker->what, breaker->pause_ms, why);
		breaker->off = true;
		breaker->cause = cause;
		breaker->pause_ms =
		        breaker->pause_ms < PAUSE_MAX_MS / 2 ? 2 * breaker->pause_ms : PAUSE_MAX_MS;
		kvc_stat_add(disk->count.offs, 1);
		kvc_disk_update_writable(disk);
	}
	waiting_refuse(disk, cause);
}

static void resume(struct kvc_disk *disk, struct disk_breaker *breaker)
{
	kvc_info("disk tier: %s is tried again", breaker->what);
	breaker->off = false;
	kvc_disk_update_writable(disk);
	kvc_disk_progress(disk);
}

/* --- stalls --------------------------------------------------------------------------------------- */

/* Nothing has ended since this was submitted, and for STALL_MS. */
static bool hangs(const struct kvc_disk *disk, uint64_t since_ms)
{
	uint64_t quiet_since = since_ms > disk->ended_ms ? since_ms : disk->ended_ms;

	return kvc_loop_now_ms(disk->loop) - quiet_since >= STALL_MS;
}

/* The oldest of each kind heads its list. What the engine has is not the disk's. */
static bool stalled(const struct kvc_disk *disk)
{
	const struct disk_load *load = kvc_container_of(disk->loads.busy.next, struct disk_load, node);
	const struct disk_write *write = kvc_container_of(disk->writes.busy.next, struct disk_write, node);

	return (!kvc_list_empty(&disk->loads.busy) && !load->decrypting && hangs(disk, load->since_ms)) ||
	       (!kvc_list_empty(&disk->writes.busy) && !write->encrypting && hangs(disk, write->since_ms));
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* When the oldest was submitted of the tier's own jobs that stores come to wait for; NEVER: none is in
 * flight. */
static uint64_t job_since_ms(const struct kvc_disk *disk)
{
	uint64_t since_ms = NEVER;

	for (uint32_t i = 0; i < DISK_COPIES; i++)
		if (disk->keep.copies[i].reading)
			since_ms = earlier(since_ms, disk->keep.copies[i].io.since_ms);
	if (disk->prepare.step != DISK_PREPARE_IDLE)
		since_ms = earlier(since_ms, disk->prepare.io.since_ms);
	if (disk->keyring.step != DISK_KEYRING_IDLE)
		since_ms = earlier(since_ms, disk->keyring.io.since_ms);
	if (disk->sync.step == DISK_SYNC_FILES)
		since_ms = earlier(since_ms, disk->sync.since_ms);
	return since_ms;
}

/* Nothing else does its work: it is judged by itself, even while loads and writes end. */
static bool job_hangs(const struct kvc_disk *disk)
{
	uint64_t since_ms = job_since_ms(disk);

	return since_ms != NEVER && kvc_loop_now_ms(disk->loop) - since_ms >= STALL_MS;
}

static void stall(struct kvc_disk *disk, struct disk_breaker *breaker)
{
	if (breaker->off)
		return;
	kvc_stat_add(disk->count.stalls, 1);
	trip(disk, breaker, KVC_IO, "requests hang");
}

static void watchdog_fired(struct kvc_timer *timer)
{
	struct kvc_disk *disk = kvc_container_of(timer, struct kvc_disk, watchdog);

	if (stalled(disk))
		stall(disk, &disk->reading);
	if (job_hangs(disk))
		stall(disk, &disk->writing);
	kvc_disk_watch(disk);
}

/* A timer that cannot be had, for want of memory, is asked for again with the next request. */
void kvc_disk_watch(struct kvc_disk *disk)
{
	bool busy = !kvc_list_empty(&disk->loads.busy) || !kvc_list_empty(&disk->writes.busy) ||
	            job_since_ms(disk) != NEVER;

	if (busy && !disk->watchdog.heap_slot)
		(void)kvc_timer_start(disk->loop, &disk->watchdog, WATCH_MS);
}

/* --- writes --------------------------------------------------------------------------------------- */

/* A clean segment is the proof that writing works; making one is the try. */
static void writing_fired(struct kvc_timer *timer)
{
	struct disk_breaker *breaker = kvc_container_of(timer, struct disk_breaker, timer);
	struct kvc_disk *disk = kvc_container_of(breaker, struct kvc_disk, writing);

	breaker->failures = WRITE_FAILURES - 1;
	if (job_hangs(disk) && kvc_timer_start(disk->loop, timer, breaker->pause_ms) == KVC_OK)
		return; /* no use yet */
	if (breaker->cause == KVC_INTERNAL)
		for (uint32_t i = 0; i < disk->segment_count; i++)
			if (!disk->segments[i].aside)
				disk->segments[i].failures = 0;
	resume(disk, breaker);
	if (!disk->ready && !disk->open)
		kvc_disk_prepare(disk, true);
}

void kvc_disk_no_segment(struct kvc_disk *disk)
{
	trip(disk, &disk->writing, KVC_INTERNAL, "writes failed in every segment");
}

/* --- reads ---------------------------------------------------------------------------------------- */

static void reading_fired(struct kvc_timer *timer)
{
	struct disk_breaker *breaker = kvc_container_of(timer, struct disk_breaker, timer);
	struct kvc_disk *disk = kvc_container_of(breaker, struct kvc_disk, reading);

	breaker->failures = READ_FAILURES - 1;
	breaker->since_ms = kvc_loop_now_ms(disk->loop);
	if (stalled(disk) && kvc_timer_start(disk->loop, timer, breaker->pause_ms) == KVC_OK)
		return; /* no use yet */
	resume(disk, breaker);
}

void kvc_disk_health_init(struct kvc_disk *disk)
{
	disk->writing = (struct disk_breaker){
	        .what = "writing", .pause_ms = PAUSE_MIN_MS, .timer = {.fire = writing_fired}};
	disk->reading = (struct disk_breaker){
	        .what = "reading", .pause_ms = PAUSE_MIN_MS, .timer = {.fire = reading_fired}};
	disk->watchdog.fire = watchdog_fired;
}

void kvc_disk_write_failed(struct kvc_disk *disk, kvc_stat_cell *cell, const struct kvc_io_req *io)
{
	const char *why = strerror(io->error);

	kvc_stat_add(disk->count.errors, 1);
	kvc_stat_add(io->status == KVC_NO_SPACE ? disk->count.no_space : cell, 1);
	disk->writing.failures++;
	if (io->status == KVC_NO_SPACE || disk->writing.failures >= WRITE_FAILURES)
		trip(disk, &disk->writing, io->status, why);
	else
		kvc_warn("disk tier: a write failed: %s", why);
}

void kvc_disk_write_worked(struct kvc_disk *disk)
{
	disk->writing.failures = 0;
	disk->writing.pause_ms = PAUSE_MIN_MS;
}

void kvc_disk_read_failed(struct kvc_disk *disk, int error)
{
	struct disk_breaker *breaker = &disk->reading;
	uint64_t now = kvc_loop_now_ms(disk->loop);

	kvc_stat_add(disk->count.errors, 1);
	kvc_stat_add(disk->count.read_errors, 1);
	if (now - breaker->since_ms > READ_WINDOW_MS) {
		breaker->since_ms = now;
		breaker->failures = 0;
		breaker->pause_ms = PAUSE_MIN_MS;
	}
	if (++breaker->failures >= READ_FAILURES)
		trip(disk, breaker, KVC_IO, strerror(error));
}
