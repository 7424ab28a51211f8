/* Making a clean segment, while records still go to the open one, so that stores do not wait for it.
 *
 *   IDLE --> ALLOCATE --> DIRECTORY --> SUPER --> SUPER_SYNC --> HEADER --> HEADER_SYNC --> IDLE, disk->ready
 * is set |  `--(named already)---^ |                      ^ |                         `--(epochs are
 * left)---'
 *                 `-- any failure: IDLE, the segment is FREE again
 *
 * A new file that finds no space is given up for one that is there: the oldest is reclaimed instead.
 *
 * The order is what I1 and I3 ask for. A crash at any point leaves a segment that is void or, if the header
 * arrived, empty. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum { EPOCHS_AHEAD = 64, STAT_BLOCK_BYTES = 512 };

static void prepare_tick(struct kvc_disk *disk);

/* --- a file system that is smaller than the tier --------------------------------------------------- */

enum { CROWDED_MS = 60000 };

/* A segment that has its space can be had, now or when what is in flight on it has ended. */
static bool has_others(const struct kvc_disk *disk)
{
	for (uint32_t i = 0; i < disk->segment_count; i++) {
		const struct disk_segment *segment = &disk->segments[i];
		bool closed = segment->state == DISK_SEALED || segment->state == DISK_RETIRED ||
		              segment->state == DISK_RECLAIMING;

		if (segment->failures < DISK_FAILURES_MAX &&
		    (closed || (segment->state == DISK_FREE && segment->named)))
			return true;
	}
	return false;
}

/* There was no space for another file a short time ago: those that are there are recycled meanwhile, as long
 * as there is one that can be. */
static bool crowded(const struct kvc_disk *disk)
{
	return kvc_loop_now_ms(disk->loop) < disk->crowded_until_ms && has_others(disk);
}

/* True: do without the new segment. */
static bool make_do(struct kvc_disk *disk, const struct disk_segment *segment, kvc_status status)
{
	if (status != KVC_NO_SPACE || segment->named || !has_others(disk))
		return false;
	if (!disk->crowded_until_ms)
		kvc_warn("disk tier: the file system has no space for segment %u: older ones are recycled",
		         segment->number);
	disk->crowded_until_ms = kvc_loop_now_ms(disk->loop) + CROWDED_MS;
	kvc_stat_add(disk->count.no_space, 1);
	kvc_stat_add(disk->count.crowded, 1);
	return true;
}

/* --- choosing ------------------------------------------------------------------------------------- */

static struct disk_segment *pick_free(struct kvc_disk *disk)
{
	bool only_named = crowded(disk);

	for (uint32_t i = 0; i < disk->segment_count; i++)
		if (disk->segments[i].state == DISK_FREE && disk->segments[i].failures < DISK_FAILURES_MAX &&
		    (disk->segments[i].named || !only_named))
			return &disk->segments[i];
	return NULL;
}

/* The oldest that nothing is in flight on. */
static struct disk_segment *pick_oldest(struct kvc_disk *disk)
{
	struct disk_segment *oldest = NULL;

	for (uint32_t i = 0; i < disk->segment_count; i++) {
		struct disk_segment *segment = &disk->segments[i];
		bool closed = segment->state == DISK_SEALED || segment->state == DISK_RETIRED;

		if (!closed || segment->failures >= DISK_FAILURES_MAX || segment->loads || segment->writes ||
		    segment->sync_busy)
			continue;
		if (!oldest || segment->epoch < oldest->epoch)
			oldest = segment;
	}
	return oldest;
}

/* One may be written, now or when what is in flight on it has ended. */
static bool any_usable(const struct kvc_disk *disk)
{
	for (uint32_t i = 0; i < disk->segment_count; i++)
		if (disk->segments[i].failures < DISK_FAILURES_MAX)
			return true;
	return false;
}

static struct disk_segment *pick(struct kvc_disk *disk, bool reclaim)
{
	struct disk_segment *segment = pick_free(disk);

	if (segment || !reclaim)
		return segment;
	segment = pick_oldest(disk);
	if (!segment) {
		if (!any_usable(disk))
			kvc_disk_no_segment(disk);
		return NULL; /* what is in flight will end, and ask again */
	}
	if (kvc_disk_keep_start(disk, segment))
		return NULL;
	kvc_debug("disk tier: segment %u is reclaimed, %u records", segment->number, segment->live_records);
	kvc_disk_reclaim(segment);
	return segment;
}

/* --- steps ---------------------------------------------------------------------------------------- */

static void prepare_end(struct kvc_disk *disk)
{
	disk->prepare.step = DISK_PREPARE_IDLE;
	disk->prepare.segment = NULL;
	kvc_disk_progress(disk);
}

static void prepare_failed(struct kvc_disk *disk)
{
	struct disk_prepare *prepare = &disk->prepare;
	struct disk_segment *segment = prepare->segment;

	if (prepare->step == DISK_PREPARE_HEADER || prepare->step == DISK_PREPARE_HEADER_SYNC)
		segment->failures++;
	/* Part of a new file may have been allocated; the others on this file system can use it. */
	if (prepare->step == DISK_PREPARE_ALLOCATE && !segment->named && ftruncate(segment->file.fd, 0))
		kvc_debug("disk tier: segment %u keeps its space", segment->number);
	kvc_disk_segment_reset(segment, 0);
	kvc_disk_segment_move(segment, DISK_FREE);
	if (prepare->step == DISK_PREPARE_ALLOCATE && make_do(disk, segment, prepare->io.status)) {
		prepare_end(disk);
		kvc_disk_prepare(disk, prepare->reclaim);
		return;
	}
	kvc_disk_write_failed(disk, disk->count.write_errors, &prepare->io);
	prepare_end(disk);
}

/* File systems that cannot allocate ahead get a sparse file. */
static bool allocated(struct disk_prepare *prepare)
{
	const struct kvc_disk *disk = prepare->segment->disk;

	return prepare->io.error == EOPNOTSUPP &&
	       !ftruncate(prepare->segment->file.fd, (off_t)disk->super.segment_bytes);
}

static void io_done(struct kvc_io_req *io)
{
	struct disk_prepare *prepare = kvc_container_of(io, struct disk_prepare, io);
	struct kvc_disk *disk = kvc_container_of(prepare, struct kvc_disk, prepare);

	if (io->status == KVC_OK || (prepare->step == DISK_PREPARE_ALLOCATE && allocated(prepare)))
		prepare_tick(disk);
	else
		prepare_failed(disk);
}

static void io_start(struct kvc_disk *disk, enum disk_prepare_step step, enum kvc_io_op op,
                     struct kvc_file *file, uint64_t offset)
{
	struct disk_prepare *prepare = &disk->prepare;
	bool allocate = op == KVC_IO_ALLOCATE;

	prepare->step = step;
	prepare->iov = (struct iovec){
	        .iov_base = allocate ? NULL : prepare->page,
	        .iov_len = allocate ? disk->super.segment_bytes : KVC_PAGE_BYTES,
	};
	prepare->io = (struct kvc_io_req){
	        .op = op,
	        .file = file,
	        .offset = offset,
	        .iov = &prepare->iov,
	        .iov_count = op == KVC_IO_SYNC ? 0 : 1,
	        .done = io_done,
	};
	kvc_io_submit(disk->io, &prepare->io);
	kvc_disk_watch(disk);
}

/* I6: the slot of the next sequence number is not the one in force, also after a failed try. */
static void super_write(struct kvc_disk *disk)
{
	struct kvc_super *super = &disk->prepare.super;

	*super = disk->super;
	super->sequence++;
	super->epoch_limit = disk->next_epoch + EPOCHS_AHEAD;
	kvc_super_encode(super, disk->prepare.page);
	io_start(disk, DISK_PREPARE_SUPER, KVC_IO_WRITE, &disk->super_file,
	         (uint64_t)kvc_super_slot(super->sequence) * KVC_PAGE_BYTES);
}

static void header_write(struct kvc_disk *disk)
{
	struct disk_segment *segment = disk->prepare.segment;
	struct kvc_segment_header header = {
	        .number = segment->number,
	        .epoch = disk->next_epoch++,
	        .segment_bytes = disk->super.segment_bytes,
	};

	KVC_INVARIANT(header.epoch < disk->super.epoch_limit); /* I1 */
	memcpy(header.instance, disk->super.instance, sizeof header.instance);
	kvc_disk_segment_reset(segment, header.epoch);
	kvc_segment_header_encode(&header, disk->prepare.page);
	io_start(disk, DISK_PREPARE_HEADER, KVC_IO_WRITE, &segment->file, 0);
}

static void header_or_super_write(struct kvc_disk *disk)
{
	if (disk->next_epoch < disk->super.epoch_limit)
		header_write(disk);
	else
		super_write(disk);
}

/* A step is over. */
static void prepare_tick(struct kvc_disk *disk)
{
	struct disk_prepare *prepare = &disk->prepare;

	KVC_INVARIANT(prepare->step != DISK_PREPARE_IDLE);
	switch (prepare->step) {
	case DISK_PREPARE_ALLOCATE:
		if (!prepare->segment->named)
			io_start(disk, DISK_PREPARE_DIRECTORY, KVC_IO_SYNC, &disk->segments_dir, 0);
		else
			header_or_super_write(disk);
		break;
	case DISK_PREPARE_DIRECTORY:
		prepare->segment->named = true;
		header_or_super_write(disk);
		break;
	case DISK_PREPARE_SUPER:
		io_start(disk, DISK_PREPARE_SUPER_SYNC, KVC_IO_SYNC, &disk->super_file, 0);
		break;
	case DISK_PREPARE_SUPER_SYNC:
		disk->super = prepare->super;
		header_write(disk);
		break;
	case DISK_PREPARE_HEADER:
		io_start(disk, DISK_PREPARE_HEADER_SYNC, KVC_IO_SYNC, &prepare->segment->file, 0);
		break;
	case DISK_PREPARE_HEADER_SYNC:
		kvc_disk_segment_move(prepare->segment, DISK_READY);
		disk->ready = prepare->segment;
		kvc_disk_keyring_no_plain(disk);
		prepare_end(disk);
		break;
	case DISK_PREPARE_IDLE:
		break;
	}
}

/* --- start ---------------------------------------------------------------------------------------- */

static kvc_status file_ready(struct kvc_disk *disk, struct disk_segment *segment)
{
	char name[DISK_NAME_BYTES];

	if (segment->file.fd >= 0)
		return KVC_OK;
	kvc_disk_segment_name(segment->number, name);
	return kvc_file_open(disk->segments_dir.fd, name, O_RDWR | O_CREAT, &segment->file);
}

/* It was used before; all its blocks are its own, so that a full file system does not matter to it. */
static bool has_space(const struct disk_segment *segment)
{
	uint64_t bytes = segment->disk->super.segment_bytes;
	struct stat st;

	return segment->named && !fstat(segment->file.fd, &st) && (uint64_t)st.st_size >= bytes &&
	       (uint64_t)st.st_blocks * STAT_BLOCK_BYTES >= bytes;
}

static void open_failed(struct kvc_disk *disk, const struct disk_segment *segment, kvc_status status)
{
	struct disk_prepare *prepare = &disk->prepare;

	if (make_do(disk, segment, status)) {
		kvc_disk_progress(disk); /* asks again if a store waits */
		return;
	}
	kvc_warn("disk tier: segment %u cannot be opened: %s", segment->number, kvc_status_text(status));
	prepare->io.status = status;
	prepare->io.error = status == KVC_NO_SPACE ? ENOSPC : EIO;
	kvc_disk_write_failed(disk, disk->count.write_errors, &prepare->io);
	kvc_disk_progress(disk);
}

void kvc_disk_prepare(struct kvc_disk *disk, bool reclaim)
{
	struct disk_prepare *prepare = &disk->prepare;
	struct disk_segment *segment;
	kvc_status status;

	if (disk->ready || prepare->step != DISK_PREPARE_IDLE || disk->writing.off || disk->drive.failing)
		return;
	if (disk->keep.segment) {
		if (!disk->open) /* stores wait */
			kvc_disk_keep_cut(disk);
		return;
	}
	segment = pick(disk, reclaim);
	if (!segment || segment->state != DISK_FREE)
		return;
	status = file_ready(disk, segment);
	if (status) {
		open_failed(disk, segment, status);
		return;
	}
	kvc_disk_segment_move(segment, DISK_PREPARING);
	prepare->segment = segment;
	prepare->reclaim = reclaim;
	if (has_space(segment)) {
		prepare->step = DISK_PREPARE_ALLOCATE;
		prepare_tick(disk);
		return;
	}
	io_start(disk, DISK_PREPARE_ALLOCATE, KVC_IO_ALLOCATE, &segment->file, 0);
}
