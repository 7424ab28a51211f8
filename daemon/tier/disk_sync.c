/* Syncs: one round at a time, for all requests that wait when it begins.
 *
 *   IDLE --> WRITES --> FILES --> IDLE
 *
 * WRITES lets the writes end that were in flight at the beginning. So when a round succeeds there is no gap
 * before anything that it covers, and a scan finds all of it (I4). FILES syncs each segment that has records
 * which are not yet on stable storage.
 *
 * A sync that fails is never tried again: the kernel may have forgotten which pages did not arrive. The
 * segment is retired and what it held beyond the last good sync is lost. Every request that was submitted
 * since the one before the loss learns of it: disk->sync.losses counts losses, and a request compares it with
 * the count at the submission of its predecessor. */
#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"

static uint32_t lower(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Where the records that may still be recovered end. */
static uint32_t sound_end(const struct disk_segment *segment)
{
	return lower(segment->end_page, segment->lost_page);
}

void kvc_disk_dirty_update(struct disk_segment *segment)
{
	if (segment->synced_page >= sound_end(segment))
		kvc_list_remove(&segment->dirty);
}

/* Before this page every write has ended. */
static uint32_t settled_end(const struct disk_segment *segment)
{
	uint32_t page = sound_end(segment);

	kvc_list_each (node, &segment->disk->writes.busy) {
		const struct disk_write *write = kvc_container_of(node, struct disk_write, node);

		if (write->segment == segment)
			page = lower(page, write->first_page);
	}
	return page;
}

/* --- a round -------------------------------------------------------------------------------------- */

static void round_end(struct kvc_disk *disk)
{
	struct kvc_list finished;
	struct kvc_list *node;

	disk->sync.step = DISK_SYNC_IDLE;
	kvc_list_init(&finished);
	kvc_list_splice(&finished, &disk->sync.current);
	while ((node = kvc_list_pop(&finished))) {
		struct kvc_tier_req *req = kvc_container_of(node, struct kvc_tier_req, node);

		req->status = req->segment == disk->sync.losses ? KVC_OK : KVC_IO;
		req->done(req);
	}
	kvc_disk_progress(disk);
}

static void file_synced(struct kvc_io_req *io)
{
	struct disk_segment *segment = kvc_container_of(io, struct disk_segment, sync);
	struct kvc_disk *disk = segment->disk;

	segment->sync_busy = false;
	if (io->status == KVC_OK) {
		kvc_stat_add(disk->count.syncs, 1);
		segment->synced_page = segment->syncing_page;
	} else {
		if (segment->state != DISK_RECLAIMING)
			kvc_disk_retire(segment, segment->synced_page);
		kvc_disk_write_failed(disk, disk->count.sync_errors, io);
	}
	kvc_disk_dirty_update(segment);
	kvc_disk_segment_settle(segment);
	if (--disk->sync.files_left == 0)
		round_end(disk);
	else
		kvc_disk_progress(disk);
}

static void file_sync(struct disk_segment *segment)
{
	struct kvc_disk *disk = segment->disk;

	segment->syncing_page = settled_end(segment);
	if (segment->syncing_page <= segment->synced_page)
		return; /* all that is new came after the round began */
	segment->sync_busy = true;
	segment->sync = (struct kvc_io_req){.op = KVC_IO_SYNC, .file = &segment->file, .done = file_synced};
	disk->sync.files_left++;
	kvc_io_submit(disk->io, &segment->sync);
}

static bool writes_ended(const struct kvc_disk *disk)
{
	kvc_list_each (node, &disk->writes.busy)
		if (kvc_container_of(node, struct disk_write, node)->sequence <= disk->sync.barrier)
			return false;
	return true;
}

static void files_start(struct kvc_disk *disk)
{
	disk->sync.step = DISK_SYNC_FILES;
	disk->sync.files_left = 0;
	disk->sync.since_ms = kvc_loop_now_ms(disk->loop);
	kvc_list_each (node, &disk->sync.dirty)
		file_sync(kvc_container_of(node, struct disk_segment, dirty));
	if (!disk->sync.files_left)
		round_end(disk);
}

void kvc_disk_sync_progress(struct kvc_disk *disk)
{
	if (disk->sync.step == DISK_SYNC_IDLE && !kvc_list_empty(&disk->sync.waiting)) {
		kvc_list_splice(&disk->sync.current, &disk->sync.waiting);
		disk->sync.barrier = disk->writes.sequence;
		disk->sync.step = DISK_SYNC_WRITES;
	}
	if (disk->sync.step == DISK_SYNC_WRITES && writes_ended(disk))
		files_start(disk);
}

void kvc_disk_sync_own(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	req->segment = disk->sync.losses;
	kvc_list_push(&disk->sync.waiting, &req->node);
	kvc_disk_progress(disk);
}

void kvc_disk_sync(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	req->segment = disk->sync.baseline;
	disk->sync.baseline = disk->sync.losses;
	kvc_list_push(&disk->sync.waiting, &req->node);
	kvc_disk_progress(disk);
}
