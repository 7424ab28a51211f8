/* The disk tier seen from above: its table of functions, and starting and stopping.
 *
 *   COLD --> RECOVERING --> ON --> CLOSING --> CLOSED
 *     `-----------`---------------^
 *
 * Loop thread only. The tier owns the directory's descriptors and all memory but the requests and the slabs.
 * What is read or written, and when, is in the other files; disk_private.h lists them, and what holds on
 * disk. */
#include "daemon/tier/disk.h"

#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum { WRITE_BYTES = 4 << 20 };

static void state_move(struct kvc_disk *disk, enum disk_state to)
{
	static const uint32_t moves[] = {
	        [DISK_COLD] = 1u << DISK_RECOVERING | 1u << DISK_CLOSING,
	        [DISK_RECOVERING] = 1u << DISK_ON | 1u << DISK_CLOSING,
	        [DISK_ON] = 1u << DISK_CLOSING,
	        [DISK_CLOSING] = 1u << DISK_CLOSED,
	        [DISK_CLOSED] = 0,
	};

	KVC_INVARIANT(moves[disk->state] & 1u << to);
	disk->state = to;
	kvc_disk_update_writable(disk);
}

void kvc_disk_update_writable(struct kvc_disk *disk)
{
	disk->base.writable =
	        disk->state == DISK_ON && !disk->writing.off && !disk->reading.off && !disk->drive.failing;
	kvc_stat_set(disk->count.writable, disk->base.writable);
	if (disk->base.front)
		disk->base.front->ops->child_changed(disk->base.front);
}

/* --- requests ------------------------------------------------------------------------------------- */

static void answer_run(struct kvc_task *task)
{
	struct kvc_tier_req *req = kvc_container_of(task, struct kvc_tier_req, deferred);

	req->done(req);
}

void kvc_disk_answer_later(struct kvc_disk *disk, struct kvc_tier_req *req, kvc_status status)
{
	req->status = status;
	req->deferred.run = answer_run;
	kvc_loop_defer(disk->loop, &req->deferred);
}

static void disk_submit(struct kvc_tier *tier, struct kvc_tier_req *req)
{
	struct kvc_disk *disk = disk_of(tier);

	KVC_PRE(req->done);
	req->deferred = (struct kvc_task){.run = answer_run};
	if (disk->state != DISK_ON) {
		kvc_disk_answer_later(disk, req, KVC_UNAVAILABLE);
		return;
	}
	switch (req->op) {
	case KVC_TIER_STORE:
		kvc_disk_store(disk, req);
		break;
	case KVC_TIER_LOAD:
		kvc_disk_load(disk, req);
		break;
	case KVC_TIER_SYNC:
		kvc_disk_sync(disk, req);
		break;
	case KVC_TIER_FORGET_TENANT:
		kvc_disk_forget_tenant(disk, req);
		break;
	}
}

static void disk_forget(struct kvc_tier *tier, const struct kvc_record *record)
{
	kvc_disk_forget(disk_of(tier), record);
}

static void disk_recover(struct kvc_tier *tier, const struct kvc_tier_events *events,
                         void (*done)(void *context, kvc_status status), void *context)
{
	struct kvc_disk *disk = disk_of(tier);

	disk->events = *events;
	if (events->noted)
		events->noted(events->context, &disk->wear.wear.note);
	state_move(disk, DISK_RECOVERING);
	kvc_disk_recover_start(disk, done, context);
}

void kvc_disk_on(struct kvc_disk *disk)
{
	state_move(disk, DISK_ON);
	disk->checkpoint.armed = true;
	kvc_disk_keyring_no_plain(disk);
	kvc_info("disk tier: %lld records in %lld of %u segments of %llu MiB (%s, %s)",
	         (long long)kvc_stat_get(disk->count.records),
	         (long long)(disk->segment_count - kvc_stat_get(disk->count.free_segments)),
	         disk->segment_count, (unsigned long long)(disk->super.segment_bytes >> 20),
	         kvc_io_backend_name(disk->io), disk->super_file.direct ? "O_DIRECT" : "page cache");
	kvc_disk_prepare(disk, false);
	kvc_disk_scrub_start(disk);
	kvc_disk_drive_start(disk);
}

/* --- stopping ------------------------------------------------------------------------------------- */

static void last_sync_done(struct kvc_tier_req *req)
{
	struct kvc_disk *disk = kvc_container_of(req, struct kvc_disk, last_sync);

	disk->last_step = DISK_LAST_DONE;
	kvc_disk_progress(disk);
}

static void last_sync_start(struct kvc_disk *disk)
{
	disk->last_step = DISK_LAST_RUNNING;
	disk->last_sync = (struct kvc_tier_req){.op = KVC_TIER_SYNC, .done = last_sync_done};
	kvc_disk_sync(disk, &disk->last_sync);
}

static bool quiet(const struct kvc_disk *disk)
{
	return !disk->recovery && kvc_list_empty(&disk->stores) && kvc_list_empty(&disk->writes.busy) &&
	       kvc_list_empty(&disk->loads.busy) && kvc_list_empty(&disk->loads.waiting) &&
	       !disk->summaries_busy && disk->checkpoint.step == DISK_CHECKPOINT_IDLE &&
	       !disk->keep.segment && !disk->scrub.busy && !disk->wear.busy && !disk->drive.job &&
	       disk->sync.step == DISK_SYNC_IDLE && kvc_list_empty(&disk->sync.waiting) &&
	       disk->prepare.step == DISK_PREPARE_IDLE && kvc_disk_keyring_quiet(disk);
}

static void disk_free(struct kvc_disk *disk)
{
	kvc_disk_recover_free(disk);
	kvc_disk_crypt_close(disk);
	kvc_disk_drive_close(disk);
	kvc_disk_dir_close(disk);
	kvc_free(disk->writes.all);
	kvc_free(disk->loads.all);
	free(disk->prepare.page);
	free(disk->scrub.buffer);
	kvc_free(disk);
}

static void closed_run(struct kvc_task *task)
{
	struct kvc_disk *disk = kvc_container_of(task, struct kvc_disk, closed_task);
	void (*done)(void *context) = disk->closed;
	void *context = disk->closed_context;

	kvc_info("disk tier: closed");
	disk_free(disk);
	done(context);
}

static void close_progress(struct kvc_disk *disk)
{
	if (disk->state != DISK_CLOSING || !quiet(disk))
		return;
	if (disk->open) {
		kvc_disk_seal(disk); /* its summary saves the next start a scan */
		kvc_disk_progress(disk);
		return;
	}
	if (disk->last_step == DISK_LAST_NONE) {
		disk->last_step = DISK_LAST_CHECKPOINT;
		if (kvc_disk_checkpoint_start(disk))
			return;
	}
	if (disk->last_step == DISK_LAST_CHECKPOINT) {
		last_sync_start(disk);
		return;
	}
	if (kvc_disk_wear_note(disk))
		return;
	kvc_timer_stop(&disk->wear.timer);
	kvc_timer_stop(&disk->drive.timer);
	kvc_timer_stop(&disk->writing.timer);
	kvc_timer_stop(&disk->reading.timer);
	kvc_timer_stop(&disk->watchdog);
	state_move(disk,
	           DISK_CLOSED); /* from here on kvc_disk_progress queues nothing behind the last task */
	disk->closed_task.run = closed_run;
	kvc_loop_defer(disk->loop, &disk->closed_task);
}

static void disk_close(struct kvc_tier *tier, void (*done)(void *context), void *context)
{
	struct kvc_disk *disk = disk_of(tier);

	disk->closed = done;
	disk->closed_context = context;
	state_move(disk, DISK_CLOSING);
	kvc_disk_recover_stop(disk);
	kvc_disk_keep_cut(disk);
	kvc_disk_scrub_stop(disk);
	kvc_disk_drive_stop(disk);
	kvc_disk_progress(disk);
}

/* --- progress ------------------------------------------------------------------------------------- */

static void progress_run(struct kvc_task *task)
{
	struct kvc_disk *disk = kvc_container_of(task, struct kvc_disk, progress);

	kvc_disk_keyring_progress(disk);
	kvc_disk_gather(disk);
	kvc_disk_sync_progress(disk);
	kvc_disk_watch(disk);
	close_progress(disk);
}

void kvc_disk_progress(struct kvc_disk *disk)
{
	if (disk->state != DISK_CLOSED)
		kvc_loop_defer(disk->loop, &disk->progress);
}

/* --- starting ------------------------------------------------------------------------------------- */

static const struct kvc_tier_ops disk_ops = {
        .name = "disk",
        .submit = disk_submit,
        .forget = disk_forget,
        .incarnation = kvc_disk_incarnation,
        .recover = disk_recover,
        .close = disk_close,
};

static kvc_status pools_open(struct kvc_disk *disk)
{
	disk->writes.all = kvc_calloc(DISK_WRITES, sizeof *disk->writes.all);
	disk->loads.all = kvc_calloc(DISK_LOADS, sizeof *disk->loads.all);
	disk->prepare.page = aligned_alloc(KVC_IO_ALIGN, KVC_PAGE_BYTES);
	if (!disk->writes.all || !disk->loads.all || !disk->prepare.page)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < DISK_WRITES; i++) {
		disk->writes.all[i].disk = disk;
		kvc_list_init(&disk->writes.all[i].requests);
		kvc_list_push(&disk->writes.idle, &disk->writes.all[i].node);
	}
	for (uint32_t i = 0; i < DISK_LOADS; i++) {
		disk->loads.all[i].disk = disk;
		kvc_list_push(&disk->loads.idle, &disk->loads.all[i].node);
	}
	return KVC_OK;
}

static void lists_init(struct kvc_disk *disk)
{
	kvc_list_init(&disk->stores);
	kvc_list_init(&disk->writes.idle);
	kvc_list_init(&disk->writes.busy);
	kvc_list_init(&disk->loads.idle);
	kvc_list_init(&disk->loads.busy);
	kvc_list_init(&disk->loads.waiting);
	kvc_list_init(&disk->sync.waiting);
	kvc_list_init(&disk->sync.current);
	kvc_list_init(&disk->sync.dirty);
}

kvc_status kvc_disk_open(struct kvc_loop *loop, struct kvc_io *io, struct kvc_stats *stats,
                         const struct kvc_disk_options *options, char *detail, size_t detail_bytes,
                         struct kvc_tier **tier)
{
	const struct disk_detail told = {detail, detail_bytes};
	struct kvc_disk *disk = kvc_calloc(1, sizeof *disk);
	kvc_status status;

	KVC_PRE(detail_bytes > 0);
	detail[0] = '\0';
	if (!disk)
		return KVC_NO_MEMORY;
	disk->base.ops = &disk_ops;
	disk->loop = loop;
	disk->io = io;
	disk->engine = options->engine;
	disk->wear.file.fd = disk->dir_fd = disk->crashes_fd = disk->lock_fd = disk->segments_dir.fd =
	        disk->super_file.fd = -1;
	disk->write_bytes = options->write_bytes ? options->write_bytes : WRITE_BYTES;
	disk->verify = options->verify_on_start;
	disk->scrub.rate = options->scrub_rate;
	disk->progress.run = progress_run;
	lists_init(disk);
	kvc_disk_stats_open(disk, stats, options->number);
	kvc_disk_health_init(disk);
	kvc_disk_checkpoint_init(disk);
	kvc_disk_keep_init(disk);
	kvc_disk_keyring_init(disk);
	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++)
		disk->checkpoint_files[i].fd = -1;
	status = pools_open(disk);
	if (status == KVC_OK)
		status = kvc_disk_drive_open(disk, options);
	if (status == KVC_OK)
		status = kvc_disk_dir_open(disk, options, &told);
	if (status == KVC_OK)
		status = kvc_disk_crypt_open(disk);
	if (status == KVC_OK)
		status = kvc_disk_recover_open(disk);
	if (status) {
		disk_free(disk);
		return status;
	}
	kvc_disk_stats_set(disk);
	kvc_stat_set(disk->count.encrypted, disk->keyring.under != NULL);
	*tier = &disk->base;
	return KVC_OK;
}

void kvc_disk_abandon(struct kvc_tier *tier)
{
	struct kvc_disk *disk = disk_of(tier);

	KVC_PRE(disk->state == DISK_COLD && !disk->progress.queued);
	disk_free(disk);
}

void kvc_disk_secret(const struct kvc_tier *tier, struct kvc_secret *secret)
{
	*secret = ((const struct kvc_disk *)(const void *)tier)->secret; /* base comes first */
}
