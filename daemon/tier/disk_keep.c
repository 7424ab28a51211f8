/* Keeping what was used: before the oldest segment is reclaimed, the records that its owner wants to keep are
 * written again, to the open segment.
 *
 *   IDLE --> ASKING <--> copies in flight --> sync (I9) --> IDLE, the segment may be reclaimed
 *
 * Bounded, so that reclaiming always gains room: at most a quarter of a segment is written again, and a copy
 * that does not fit the open segment is given up, as the next one may be waiting for this very reclaim. The
 * owner is told of a new place when the copy is complete; until then the old one serves. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum {
	KEEP_SHARE = 4, /* a segment's part that may be kept */
	ASKS_A_TURN =
	        512, /* records that the owner is asked for between two looks at the rest of the world */
};

static void tick_soon(struct kvc_disk *disk)
{
	kvc_loop_defer(disk->loop, &disk->keep.tick);
}

static void keep_end(struct kvc_disk *disk)
{
	struct disk_keep *keep = &disk->keep;
	struct disk_segment *segment = keep->segment;

	keep->segment = NULL;
	for (uint32_t i = 0; i < DISK_COPIES; i++) {
		free(keep->copies[i].req.slab);
		keep->copies[i].req.slab = NULL;
		keep->copies[i].slab_bytes = 0;
	}
	if (segment->epoch == keep->epoch)
		segment->kept = true;
	kvc_disk_prepare(disk, true);
	kvc_disk_progress(disk);
}

/* --- one copy ------------------------------------------------------------------------------------- */

static void copy_end(struct disk_copy *copy)
{
	copy->busy = false;
	copy->disk->keep.busy--;
	tick_soon(copy->disk);
}

static void copy_stored(struct kvc_tier_req *req)
{
	struct disk_copy *copy = kvc_container_of(req, struct disk_copy, req);
	struct kvc_disk *disk = copy->disk;

	if (req->status != KVC_OK) {
		kvc_debug("disk tier: a record is not kept: %s", kvc_status_text(req->status));
	} else if (disk->events.moved(disk->events.context, req->cookie, copy->from.place, &req->record)) {
		disk->keep.copied++;
		kvc_stat_add(disk->count.kept, 1);
		kvc_stat_add(disk->count.kept_bytes, (int64_t)kvc_record_bytes(req->record.image_bytes));
		kvc_disk_forget(disk, &copy->from);
	} else {
		kvc_disk_forget(disk, &req->record);
	}
	copy_end(copy);
}

/* A record that was plain, in a directory that is encrypted now, may be its tenant's first. */
static bool has_key(const struct kvc_disk *disk, const struct kvc_record *record)
{
	return !disk->keyring.under || kvc_disk_keyring_row(disk, record->tenant);
}

static void copy_store(struct disk_copy *copy, kvc_status status)
{
	struct kvc_disk *disk = copy->disk;
	struct kvc_record *record = &copy->req.record;

	copy->segment->loads--;
	kvc_disk_segment_settle(copy->segment); /* all of it may have been dropped meanwhile */
	if (status == KVC_OK)
		status = kvc_record_parse(copy->req.slab, kvc_record_bytes(copy->from.image_bytes), record);
	if (status == KVC_OK && !has_key(disk, record))
		status = KVC_MISS;
	record->copy = true;
	if (status != KVC_OK || disk->keep.cut || !disk->base.writable) {
		copy_end(copy);
		return;
	}
	copy->req.op = KVC_TIER_STORE;
	copy->req.done = copy_stored;
	kvc_list_push(disk->stores.next, &copy->req.node); /* before all others */
	kvc_disk_progress(disk);
}

void kvc_disk_copy_decrypted(struct disk_decrypt *decrypt, kvc_status status)
{
	copy_store(kvc_container_of(decrypt, struct disk_copy, decrypt), status);
}

static void copy_read(struct kvc_io_req *io)
{
	struct disk_copy *copy = kvc_container_of(io, struct disk_copy, io);
	struct kvc_disk *disk = copy->disk;
	kvc_status status = io->status;

	copy->reading = false;
	kvc_stat_add(disk->count.read_bytes, (int64_t)io->transferred);
	if (status == KVC_OK)
		status = kvc_record_match(copy->req.slab, copy->iov.iov_len, &copy->from);
	if (status == KVC_IO)
		kvc_disk_read_failed(disk, io->error);
	if (status != KVC_OK || !kvc_disk_decrypt(&copy->decrypt, copy->req.slab, copy->iov.iov_len, &status))
		copy_store(copy, status);
}

static bool copy_room(struct disk_copy *copy, uint64_t bytes)
{
	if (bytes <= copy->slab_bytes)
		return true;
	free(copy->req.slab);
	copy->req.slab = aligned_alloc(KVC_IO_ALIGN, bytes);
	copy->slab_bytes = copy->req.slab ? bytes : 0;
	return copy->req.slab;
}

static void copy_start(struct disk_copy *copy, const struct kvc_record *record, uint32_t cookie)
{
	struct kvc_disk *disk = copy->disk;
	uint64_t bytes = kvc_record_bytes(record->image_bytes);

	if (!copy_room(copy, bytes))
		return;
	copy->segment = disk->keep.segment;
	copy->from = *record;
	copy->req.cookie = cookie;
	copy->iov = (struct iovec){.iov_base = copy->req.slab, .iov_len = bytes};
	copy->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = &copy->segment->file,
	        .offset = (uint64_t)record->place.page * KVC_PAGE_BYTES,
	        .iov = &copy->iov,
	        .iov_count = 1,
	        .done = copy_read,
	};
	copy->busy = copy->reading = true;
	copy->segment->loads++;
	disk->keep.busy++;
	disk->keep.bytes += bytes;
	kvc_stat_add(disk->count.reads, 1);
	kvc_io_submit(disk->io, &copy->io);
	kvc_disk_watch(disk);
}

bool kvc_disk_keep_owns(const struct kvc_tier_req *req)
{
	return req->done == copy_stored;
}

/* --- one segment ---------------------------------------------------------------------------------- */

static struct disk_copy *copy_idle(struct disk_keep *keep)
{
	for (uint32_t i = 0; i < DISK_COPIES; i++)
		if (!keep->copies[i].busy)
			return &keep->copies[i];
	return NULL;
}

/* The record at the segment's next entry, if the owner wants to keep it. */
static bool entry_wanted(struct kvc_disk *disk, const struct disk_entry *entry, struct kvc_record *record)
{
	struct disk_keep *keep = &disk->keep;
	uint64_t left = disk->super.segment_bytes / KEEP_SHARE - keep->bytes;

	*record = (struct kvc_record){
	        .place = {keep->segment->number, entry->page},
	        .epoch = keep->epoch,
	};
	memcpy(record->device, disk->super.instance, sizeof record->device);
	return entry->cookie != DISK_NO_COOKIE &&
	       disk->events.keep(disk->events.context, entry->cookie, record) &&
	       kvc_record_bytes(record->image_bytes) <= left;
}

static void ask(struct kvc_disk *disk)
{
	struct disk_keep *keep = &disk->keep;
	struct disk_segment *segment = keep->segment;
	struct disk_copy *copy = copy_idle(keep);

	for (uint32_t n = 0; n < ASKS_A_TURN && copy && keep->entry < segment->entry_count; n++) {
		const struct disk_entry *entry = &segment->entries[keep->entry++];
		struct kvc_record record;

		if (!entry_wanted(disk, entry, &record))
			continue;
		copy_start(copy, &record, entry->cookie);
		copy = copy_idle(keep);
	}
	if (copy && keep->entry < segment->entry_count)
		tick_soon(disk);
}

static bool over(const struct kvc_disk *disk)
{
	const struct disk_keep *keep = &disk->keep;

	return keep->cut || disk->state != DISK_ON || !disk->base.writable ||
	       keep->segment->epoch != keep->epoch || keep->entry >= keep->segment->entry_count;
}

/* A failure has declared lost what it could not cover. */
static void sync_done(struct kvc_tier_req *req)
{
	struct disk_keep *keep = kvc_container_of(req, struct disk_keep, sync);
	struct kvc_disk *disk = kvc_container_of(keep, struct kvc_disk, keep);

	keep->copied = 0;
	keep->busy--;
	tick_soon(disk);
}

static void sync_start(struct kvc_disk *disk)
{
	struct disk_keep *keep = &disk->keep;

	keep->busy++;
	keep->sync = (struct kvc_tier_req){.op = KVC_TIER_SYNC, .done = sync_done};
	kvc_disk_sync_own(disk, &keep->sync);
}

static void keep_tick(struct kvc_task *task)
{
	struct disk_keep *keep = kvc_container_of(task, struct disk_keep, tick);
	struct kvc_disk *disk = kvc_container_of(keep, struct kvc_disk, keep);

	if (!keep->segment)
		return;
	if (!over(disk))
		ask(disk);
	if (!over(disk) || keep->busy)
		return;
	if (keep->copied)
		sync_start(disk);
	else
		keep_end(disk);
}

void kvc_disk_keep_init(struct kvc_disk *disk)
{
	disk->keep.tick.run = keep_tick;
	for (uint32_t i = 0; i < DISK_COPIES; i++)
		disk->keep.copies[i].disk = disk;
}

void kvc_disk_keep_cut(struct kvc_disk *disk)
{
	if (!disk->keep.segment || disk->keep.cut)
		return;
	disk->keep.cut = true;
	tick_soon(disk);
}

bool kvc_disk_keep_start(struct kvc_disk *disk, struct disk_segment *segment)
{
	struct disk_keep *keep = &disk->keep;

	if (segment->kept || !segment->live_records || segment->state != DISK_SEALED || !disk->open ||
	    !disk->events.keep || !disk->events.moved || disk->state != DISK_ON)
		return false;
	keep->segment = segment;
	keep->epoch = segment->epoch;
	keep->entry = 0;
	keep->bytes = 0;
	keep->copied = 0;
	keep->cut = false;
	tick_soon(disk);
	return true;
}
