/* Writing a segment's summary (summary.h): its rows are noted while the segment is open, and it goes to the
 * segment's last pages when the segment is sealed and the last write in it has ended.
 *
 * The summary counts as a write of its segment, so that the segment is not reclaimed under it. It is never
 * needed: without memory for it, or if its write fails, the next start scans the segment. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"
#include "daemon/tier/summary.h"

struct disk_summary {
	struct disk_segment *segment;
	uint8_t *bytes;
	uint32_t pages; /* of memory */
	uint32_t count;
	bool broken; /* some record is not in it */
	bool busy;   /* being written */
	struct kvc_io_req io;
	struct iovec iov;
};

void kvc_disk_segment_header(const struct disk_segment *segment, struct kvc_segment_header *header)
{
	const struct kvc_super *super = &segment->disk->super;

	*header = (struct kvc_segment_header){
	        .number = segment->number,
	        .epoch = segment->epoch,
	        .segment_bytes = super->segment_bytes,
	};
	memcpy(header->instance, super->instance, sizeof header->instance);
}

bool kvc_disk_segment_fits(const struct disk_segment *segment, uint32_t pages)
{
	uint64_t end = (uint64_t)segment->end_page + pages + kvc_summary_pages(segment->entry_count + 1);

	return end <= segment->disk->segment_pages;
}

void kvc_disk_summary_drop(struct disk_segment *segment)
{
	struct disk_summary *summary = segment->summary;

	if (!summary || summary->busy)
		return;
	segment->summary = NULL;
	free(summary->bytes);
	kvc_free(summary);
}

/* --- noting --------------------------------------------------------------------------------------- */

void kvc_disk_summary_begin(struct disk_segment *segment)
{
	KVC_PRE(!segment->summary);
	segment->summary = kvc_calloc(1, sizeof *segment->summary);
	if (segment->summary)
		segment->summary->segment = segment;
}

static bool room_made(struct disk_summary *summary)
{
	uint32_t pages = summary->pages ? 2 * summary->pages : 1;
	uint8_t *grown;

	if (kvc_summary_pages(summary->count + 1) <= summary->pages)
		return true;
	grown = aligned_alloc(KVC_IO_ALIGN, (size_t)pages * KVC_PAGE_BYTES);
	if (!grown)
		return false;
	if (summary->count)
		memcpy(grown, summary->bytes, (size_t)summary->count * KVC_SUMMARY_ROW_BYTES);
	free(summary->bytes);
	summary->bytes = grown;
	summary->pages = pages;
	return true;
}

void kvc_disk_summary_add(struct disk_segment *segment, const struct kvc_record *record)
{
	struct disk_summary *summary = segment->summary;

	if (!summary || summary->broken)
		return;
	if (room_made(summary))
		kvc_summary_put(summary->bytes, summary->count++, record);
	else
		summary->broken = true;
}

/* --- writing -------------------------------------------------------------------------------------- */

static void summary_done(struct kvc_io_req *io)
{
	struct disk_summary *summary = kvc_container_of(io, struct disk_summary, io);
	struct disk_segment *segment = summary->segment;
	struct kvc_disk *disk = segment->disk;

	if (io->status == KVC_OK) {
		kvc_stat_add(disk->count.summaries, 1);
		kvc_stat_add(disk->count.summary_bytes, (int64_t)io->transferred);
		kvc_disk_wrote(disk, io->transferred);
	} else {
		kvc_warn("disk tier: the summary of segment %u cannot be written: the next start scans it",
		         segment->number);
		kvc_disk_write_failed(disk, disk->count.write_errors, io);
	}
	summary->busy = false;
	kvc_disk_summary_drop(segment);
	disk->summaries_busy--;
	segment->writes--;
	kvc_disk_segment_settle(segment);
	kvc_disk_progress(disk);
}

static void summary_write(struct disk_summary *summary)
{
	struct disk_segment *segment = summary->segment;
	struct kvc_disk *disk = segment->disk;
	uint32_t pages = kvc_summary_pages(summary->count);
	struct kvc_segment_header header;

	KVC_INVARIANT(segment->end_page + pages <= disk->segment_pages);
	kvc_disk_segment_header(segment, &header);
	kvc_summary_seal(summary->bytes, &header, summary->count, segment->end_page, disk->generation);
	summary->iov = (struct iovec){
	        .iov_base = summary->bytes,
	        .iov_len = (size_t)pages * KVC_PAGE_BYTES,
	};
	summary->io = (struct kvc_io_req){
	        .op = KVC_IO_WRITE,
	        .file = &segment->file,
	        .offset = (uint64_t)(disk->segment_pages - pages) * KVC_PAGE_BYTES,
	        .iov = &summary->iov,
	        .iov_count = 1,
	        .done = summary_done,
	};
	summary->busy = true;
	segment->writes++;
	disk->summaries_busy++;
	kvc_io_submit(disk->io, &summary->io);
}

void kvc_disk_summary_progress(struct disk_segment *segment)
{
	struct disk_summary *summary = segment->summary;

	if (!summary || summary->busy || segment->writes || segment->state == DISK_OPEN)
		return;
	if (segment->state != DISK_SEALED || summary->broken || summary->count != segment->entry_count ||
	    !segment->live_records || segment->disk->writing.off)
		kvc_disk_summary_drop(segment);
	else
		summary_write(summary);
}
