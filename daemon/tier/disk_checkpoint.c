/* Writing a checkpoint (checkpoint.h): when the tier closes, and after so many sealed segments.
 *
 *   IDLE --> ROWS <--> SECTION --> BODY_SYNC --> HEAD --> HEAD_SYNC --> IDLE
 *     ^        any failure: back to IDLE, what is there stays in force
 *
 * ROWS asks the owner what each record of one segment is, some at a time; SECTION writes them. Only segments
 * that are sealed and at rest, or given up, are taken, and only if the owner knows every record that is his:
 * a record whose store ends later is never left out of a segment that the checkpoint speaks for (I8). */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/checkpoint.h"
#include "daemon/tier/disk_private.h"
#include "daemon/tier/summary.h"

enum {
	ROWS_A_TURN = 512,  /* between two looks at the rest of the world */
	SEALED_MIN = 4,     /* segments between two checkpoints, */
	SEALED_SHARE = 8,   /* at least this part of all, */
	WRITTEN_TIMES = 32, /* and so many times a checkpoint's bytes */
};

static void tick_soon(struct kvc_disk *disk)
{
	kvc_loop_defer(disk->loop, &disk->checkpoint.tick);
}

static void job_end(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;

	job->step = DISK_CHECKPOINT_IDLE;
	free(job->head);
	free(job->rows);
	job->head = job->rows = NULL;
	job->rows_pages = 0;
	kvc_disk_progress(disk);
}

static void job_failed(struct kvc_disk *disk, const char *why)
{
	kvc_warn("disk tier: no checkpoint: %s", why);
	kvc_stat_add(disk->count.checkpoint_errors, 1);
	job_end(disk);
}

/* --- input and output ----------------------------------------------------------------------------- */

static void io_done(struct kvc_io_req *io)
{
	struct disk_checkpoint *job = kvc_container_of(io, struct disk_checkpoint, io);
	struct kvc_disk *disk = kvc_container_of(job, struct kvc_disk, checkpoint);

	if (io->status == KVC_OK)
		tick_soon(disk);
	else
		job_failed(disk, kvc_status_text(io->status));
}

static void io_start(struct kvc_disk *disk, enum disk_checkpoint_step step, enum kvc_io_op op, uint8_t *bytes,
                     uint32_t page, uint32_t pages)
{
	struct disk_checkpoint *job = &disk->checkpoint;

	job->step = step;
	job->iov = (struct iovec){.iov_base = bytes, .iov_len = (size_t)pages * KVC_PAGE_BYTES};
	job->io = (struct kvc_io_req){
	        .op = op,
	        .file = &disk->checkpoint_files[job->sequence % KVC_CHECKPOINT_FILES],
	        .offset = (uint64_t)page * KVC_PAGE_BYTES,
	        .iov = &job->iov,
	        .iov_count = op == KVC_IO_SYNC ? 0 : 1,
	        .done = io_done,
	};
	kvc_io_submit(disk->io, &job->io);
}

/* --- rows ----------------------------------------------------------------------------------------- */

/* The epoch that a section can speak of; 0: none. Where all was given up it says so, with no row: the header
 * is still there. While records are written again the owner knows their new places, which may not be on
 * stable storage (I9). */
static uint64_t epoch_at_rest(const struct disk_segment *segment)
{
	if (segment == segment->disk->keep.segment)
		return 0;
	if (!segment->epoch)
		return segment->left_epoch;
	return segment->state == DISK_SEALED && segment->live_records && !segment->writes ? segment->epoch
	                                                                                  : 0;
}

static bool rows_room(struct disk_checkpoint *job, uint32_t pages)
{
	if (pages <= job->rows_pages)
		return true;
	free(job->rows);
	job->rows = aligned_alloc(KVC_IO_ALIGN, (size_t)pages * KVC_PAGE_BYTES);
	job->rows_pages = job->rows ? pages : 0;
	return job->rows;
}

/* False: all segments were looked at. */
static bool segment_next(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;

	for (; job->next < disk->segment_count; job->next++) {
		struct disk_segment *segment = &disk->segments[job->next];
		uint64_t epoch = epoch_at_rest(segment);

		if (!epoch || !rows_room(job, kvc_summary_pages(segment->live_records)))
			continue;
		job->segment = segment;
		job->epoch = epoch;
		job->entry = 0;
		job->count = 0;
		job->capacity = kvc_summary_capacity(job->rows_pages);
		job->next++;
		return true;
	}
	return false;
}

/* False: the owner does not know it (yet): the checkpoint cannot speak for this segment. */
static bool row_add(struct kvc_disk *disk, const struct disk_entry *entry)
{
	struct disk_checkpoint *job = &disk->checkpoint;
	struct kvc_record record = {
	        .place = {job->segment->number, entry->page},
	        .epoch = job->epoch,
	};

	if (entry->cookie == DISK_NO_COOKIE)
		return true;
	if (job->count == job->capacity ||
	    !disk->events.describe(disk->events.context, entry->cookie, &record))
		return false;
	record.incarnation = kvc_keyring_incarnation(&disk->keyring.ring, record.tenant);
	kvc_summary_put(job->rows, job->count++, &record);
	return true;
}

static void section_write(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;
	uint32_t pages = kvc_summary_pages(job->count);
	struct kvc_checkpoint_section section = {
	        .epoch = job->epoch,
	        .number = job->segment->number,
	        .page = job->page,
	        .pages = pages,
	};
	struct kvc_segment_header header;

	kvc_disk_segment_header(job->segment, &header);
	header.epoch = job->epoch;
	kvc_summary_seal(job->rows, &header, job->count, job->segment->end_page, disk->generation);
	kvc_checkpoint_put(job->head, job->sections++, &section);
	job->segment = NULL;
	job->page += pages;
	io_start(disk, DISK_CHECKPOINT_SECTION, KVC_IO_WRITE, job->rows, section.page, pages);
}

/* Some rows of the segment, or the end of it. */
static void rows_tick(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;
	struct disk_segment *segment = job->segment;

	if (segment && (epoch_at_rest(segment) != job->epoch || job->entry > segment->entry_count))
		segment = job->segment = NULL; /* reclaimed meanwhile, or about to be */
	for (uint32_t n = 0; segment && n < ROWS_A_TURN && job->entry < segment->entry_count; n++)
		if (!row_add(disk, &segment->entries[job->entry++]))
			segment = job->segment = NULL;
	if (segment && job->entry == segment->entry_count)
		section_write(disk);
	else if (segment || segment_next(disk))
		tick_soon(disk);
	else
		io_start(disk, DISK_CHECKPOINT_BODY_SYNC, KVC_IO_SYNC, NULL, 0, 0);
}

/* --- head ----------------------------------------------------------------------------------------- */

static void head_write(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;
	struct kvc_checkpoint checkpoint = {
	        .sequence = job->sequence,
	        .segment_bytes = disk->super.segment_bytes,
	        .generation = disk->generation,
	        .count = job->sections,
	};

	memcpy(checkpoint.instance, disk->super.instance, sizeof checkpoint.instance);
	kvc_checkpoint_seal(job->head, &checkpoint);
	io_start(disk, DISK_CHECKPOINT_HEAD, KVC_IO_WRITE, job->head, 0, KVC_CHECKPOINT_HEAD_PAGES);
}

static void job_finish(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;

	kvc_debug("disk tier: checkpoint of %u segments, %u pages", job->sections, job->page);
	disk->checkpoint_sequence = job->sequence;
	kvc_stat_add(disk->count.checkpoints, 1);
	kvc_stat_add(disk->count.checkpoint_bytes, (int64_t)job->page * KVC_PAGE_BYTES);
	kvc_disk_wrote(disk, (uint64_t)job->page * KVC_PAGE_BYTES);
	job_end(disk);
}

static void checkpoint_tick(struct kvc_task *task)
{
	struct disk_checkpoint *job = kvc_container_of(task, struct disk_checkpoint, tick);
	struct kvc_disk *disk = kvc_container_of(job, struct kvc_disk, checkpoint);

	switch (job->step) {
	case DISK_CHECKPOINT_SECTION:
		job->step = DISK_CHECKPOINT_ROWS;
		rows_tick(disk);
		break;
	case DISK_CHECKPOINT_ROWS:
		rows_tick(disk);
		break;
	case DISK_CHECKPOINT_BODY_SYNC:
		head_write(disk);
		break;
	case DISK_CHECKPOINT_HEAD:
		io_start(disk, DISK_CHECKPOINT_HEAD_SYNC, KVC_IO_SYNC, NULL, 0, 0);
		break;
	case DISK_CHECKPOINT_HEAD_SYNC:
		job_finish(disk);
		break;
	case DISK_CHECKPOINT_IDLE:
		break;
	}
}

/* --- start ---------------------------------------------------------------------------------------- */

void kvc_disk_checkpoint_init(struct kvc_disk *disk)
{
	disk->checkpoint.tick.run = checkpoint_tick;
}

bool kvc_disk_checkpoint_start(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;

	if (job->step != DISK_CHECKPOINT_IDLE || !disk->events.describe || !job->armed || disk->writing.off ||
	    disk->reading.off || disk->checkpoint_files[0].fd < 0 || disk->checkpoint_files[1].fd < 0)
		return false;
	job->head = aligned_alloc(KVC_IO_ALIGN, KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES);
	if (!job->head)
		return false;
	job->step = DISK_CHECKPOINT_ROWS;
	job->sequence = disk->checkpoint_sequence + 1; /* the other file: what is in force stays */
	job->segment = NULL;
	job->next = 0;
	job->sections = 0;
	job->page = KVC_CHECKPOINT_HEAD_PAGES;
	job->sealed = 0;
	tick_soon(disk);
	return true;
}

void kvc_disk_checkpoint_sealed(struct kvc_disk *disk)
{
	struct disk_checkpoint *job = &disk->checkpoint;
	uint64_t written = ++job->sealed * disk->super.segment_bytes;
	uint64_t cost = (uint64_t)kvc_stat_get(disk->count.records) * KVC_SUMMARY_ROW_BYTES;

	if (disk->state == DISK_ON && job->sealed >= SEALED_MIN &&
	    job->sealed >= disk->segment_count / SEALED_SHARE && written >= cost * WRITTEN_TIMES)
		kvc_disk_checkpoint_start(disk);
}
