/* Looking through a segment at start: its header, then what the checkpoint has of it, else its summary, else
 * its records, hopping from header to header.
 *
 *   RECORDS:  section of the checkpoint --> FINISHED
 *               `-- none, or not sound --> tail --> summary's pages --> FINISHED
 *                                            `----------`-- none, or not sound --> chunk, chunk, ... -->
 * FINISHED
 *
 * Only reads. A record that does not belong where it is found ends its segment's log (I2, I4). */
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_recover.h"
#include "kernels/image.h"

enum {
	CHUNK_PAGES = 64, /* read at a time while records are small */
	SMALL_PAGES = 16, /* records below this are small */
	TAIL_PAGES = 16,  /* read at first where a summary may be: it holds about 600 records */
	RECORDS_AT_FIRST = 64,
};

/* --- reading -------------------------------------------------------------------------------------- */

static void read_start(struct scanner *scanner, struct kvc_file *file, uint32_t page, uint32_t pages,
                       void (*done)(struct kvc_io_req *io))
{
	KVC_PRE(pages > 0 && pages <= scanner->buffer_pages);
	scanner->read_page = page;
	scanner->asked = pages;
	scanner->iov = (struct iovec){
	        .iov_base = scanner->buffer,
	        .iov_len = (size_t)pages * KVC_PAGE_BYTES,
	};
	scanner->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = file,
	        .offset = (uint64_t)page * KVC_PAGE_BYTES,
	        .iov = &scanner->iov,
	        .iov_count = 1,
	        .done = done,
	};
	scanner->state = SCAN_READING;
	scanner->recovery->busy++;
	kvc_io_submit(scanner->recovery->disk->io, &scanner->io);
}

static void scan_read(struct scanner *scanner, uint32_t page, uint32_t pages,
                      void (*done)(struct kvc_io_req *io))
{
	KVC_PRE(page < scanner->file_pages);
	if (pages > scanner->file_pages - page)
		pages = scanner->file_pages - page;
	read_start(scanner, &scanner->segment->file, page, pages, done);
}

/* Take in what was read. False: nothing, for an error. */
static bool scan_filled(struct scanner *scanner)
{
	struct disk_recovery *recovery = scanner->recovery;

	recovery->busy--;
	scanner->read_count = (uint32_t)(scanner->io.transferred / KVC_PAGE_BYTES);
	if (scanner->io.status == KVC_OK || scanner->io.status == KVC_MISS)
		return true;
	kvc_warn("disk tier: segment %u cannot be read at page %u: %s", scanner->segment->number,
	         scanner->read_page, kvc_status_text(scanner->io.status));
	kvc_disk_read_failed(recovery->disk, scanner->io.error);
	return false;
}

/* Look at what was read, under the eyes of disk_crashes.c. */
static void taken_by(struct kvc_io_req *io, void (*take)(struct scanner *scanner))
{
	struct scanner *scanner = kvc_container_of(io, struct scanner, io);

	kvc_disk_crashes_at(scanner->segment);
	take(scanner);
	kvc_disk_crashes_at(NULL);
}

static kvc_status buffer_grow(struct scanner *scanner, uint32_t pages)
{
	uint8_t *grown;

	if (pages <= scanner->buffer_pages)
		return KVC_OK;
	grown = aligned_alloc(KVC_IO_ALIGN, (size_t)pages * KVC_PAGE_BYTES);
	if (!grown)
		return KVC_NO_MEMORY;
	free(scanner->buffer);
	scanner->buffer = grown;
	scanner->buffer_pages = pages;
	scanner->read_count = 0;
	return KVC_OK;
}

/* --- headers -------------------------------------------------------------------------------------- */

static bool header_accepts(const struct scanner *scanner, struct kvc_segment_header *header)
{
	const struct kvc_disk *disk = scanner->recovery->disk;

	return scanner->read_count > 0 && kvc_segment_header_decode(scanner->buffer, header) == KVC_OK &&
	       !memcmp(header->instance, disk->super.instance, sizeof header->instance) &&
	       header->number == scanner->segment->number &&
	       header->segment_bytes == disk->super.segment_bytes;
}

/* The segment has made recoveries crash in this epoch: leave it alone, for someone to look at. */
static bool set_aside(struct disk_segment *segment, const struct kvc_segment_header *header)
{
	struct kvc_disk *disk = segment->disk;

	kvc_disk_segment_reset(segment, header->epoch);
	if (kvc_disk_crashes_of(segment) < DISK_CRASHES_MAX)
		return false;
	kvc_error("disk tier: segment %u made recoveries crash and is set aside: remove its file to use its "
	          "room again",
	          segment->number);
	kvc_stat_add(disk->count.aside, 1);
	segment->aside = true;
	segment->failures = DISK_FAILURES_MAX;
	kvc_disk_segment_reset(segment, 0);
	if (header->epoch >= disk->next_epoch)
		disk->next_epoch = header->epoch + 1; /* I1 */
	return true;
}

static void header_done(struct kvc_io_req *io)
{
	struct scanner *scanner = kvc_container_of(io, struct scanner, io);
	struct disk_recovery *recovery = scanner->recovery;
	struct kvc_segment_header header;

	scanner->state = SCAN_IDLE;
	if (scan_filled(scanner) && header_accepts(scanner, &header) &&
	    !set_aside(scanner->segment, &header)) {
		scanner->segment->named = true; /* I3 */
		recovery->order[recovery->order_count++] =
		        (struct disk_turn){header.epoch, scanner->segment->number};
		if (header.epoch >= recovery->disk->next_epoch)
			recovery->disk->next_epoch = header.epoch + 1; /* I1, whatever the superblock says */
	} else {
		kvc_disk_segment_move(scanner->segment, DISK_FREE);
	}
	kvc_disk_recover_tick(recovery);
}

/* Whole pages of the segment's file; one that was cut is no longer than it is. */
static uint32_t file_pages(const struct scanner *scanner)
{
	uint32_t pages = scanner->recovery->disk->segment_pages;
	struct stat st;

	if (fstat(scanner->segment->file.fd, &st))
		return 0;
	return (uint64_t)st.st_size / KVC_PAGE_BYTES < pages ? (uint32_t)(st.st_size / KVC_PAGE_BYTES)
	                                                     : pages;
}

/* False: no segment is left to look at. */
bool kvc_disk_scan_header(struct scanner *scanner)
{
	struct disk_recovery *recovery = scanner->recovery;
	struct kvc_disk *disk = recovery->disk;

	while (recovery->next < disk->segment_count) {
		scanner->segment = &disk->segments[recovery->next++];
		scanner->file_pages = scanner->segment->file.fd < 0 ? 0 : file_pages(scanner);
		if (!scanner->file_pages)
			continue;
		kvc_disk_segment_move(scanner->segment, DISK_SCANNING);
		scan_read(scanner, 0, 1, header_done);
		return true;
	}
	return false;
}

/* --- records -------------------------------------------------------------------------------------- */

static void records_done(struct kvc_io_req *io);

static void scan_finish(struct scanner *scanner)
{
	scanner->state = SCAN_FINISHED;
	scanner->reported = 0;
	kvc_disk_recover_tick(scanner->recovery);
}

/* The log ends where it should not. */
static void scan_damaged(struct scanner *scanner, const char *why)
{
	kvc_warn("disk tier: segment %u ends at page %u: %s", scanner->segment->number, scanner->page, why);
	kvc_stat_add(scanner->recovery->disk->count.damaged, 1);
	scan_finish(scanner);
}

static void scan_more(struct scanner *scanner)
{
	if (scanner->page >= scanner->file_pages)
		scan_finish(scanner);
	else
		scan_read(scanner, scanner->page, scanner->step < SMALL_PAGES ? CHUNK_PAGES : 1,
		          records_done);
}

static uint8_t *scan_at(const struct scanner *scanner)
{
	return scanner->buffer + (size_t)(scanner->page - scanner->read_page) * KVC_PAGE_BYTES;
}

/* On this thread: nobody is served yet. */
static bool image_sound(const struct scanner *scanner, const struct kvc_record *record)
{
	uint64_t length = (uint64_t)disk_record_pages(record) * KVC_PAGE_BYTES;
	uint8_t *bytes = scan_at(scanner);
	const uint8_t *image = bytes + KVC_RECORD_HEADER_BYTES;
	struct kvc_image opened;

	if (kvc_disk_keyring_dropped(scanner->recovery->disk, record))
		return true; /* nobody will see it */
	return kvc_disk_decrypt_now(scanner->recovery->disk, bytes, length) == KVC_OK &&
	       kvc_image_open(image, record->image_bytes, 0, &opened) == KVC_OK &&
	       kvc_image_verify(&opened) == KVC_OK;
}

static kvc_status records_grow(struct scanner *scanner)
{
	uint32_t capacity = scanner->record_capacity ? 2 * scanner->record_capacity : RECORDS_AT_FIRST;
	struct scan_record *grown;

	if (scanner->record_count < scanner->record_capacity)
		return KVC_OK;
	grown = kvc_realloc(scanner->records, capacity, sizeof *grown);
	if (!grown)
		return KVC_NO_MEMORY;
	scanner->records = grown;
	scanner->record_capacity = capacity;
	return KVC_OK;
}

static void record_note(struct scanner *scanner, const struct kvc_record *record, bool sound)
{
	if (records_grow(scanner)) {
		scan_damaged(scanner, "no memory for its records");
		return;
	}
	scanner->records[scanner->record_count++] = (struct scan_record){*record, sound};
	if (record->generation > scanner->recovery->disk->generation)
		scanner->recovery->disk->generation = record->generation;
	scanner->step = disk_record_pages(record);
	scanner->page += scanner->step;
}

/* All of the record must be in the buffer for that. */
static void record_verify(struct scanner *scanner, const struct kvc_record *record)
{
	uint32_t pages = disk_record_pages(record);
	bool sound;

	if (scanner->page - scanner->read_page + pages > scanner->read_count) {
		if (scanner->page == scanner->read_page && scanner->asked >= pages)
			scan_damaged(scanner, "its file was cut meanwhile");
		else if (buffer_grow(scanner, pages))
			scan_damaged(scanner, "no memory to check a record");
		else
			scan_read(scanner, scanner->page, pages, records_done);
		return;
	}
	sound = image_sound(scanner, record);
	kvc_stat_add(scanner->recovery->disk->count.corrupt, !sound);
	record_note(scanner, record, sound);
}

static kvc_status record_read(const struct scanner *scanner, struct kvc_record *record)
{
	struct kvc_segment_header header;

	kvc_disk_segment_header(scanner->segment, &header);
	return kvc_segment_accept(&header, scanner->page, scan_at(scanner), record);
}

/* Take the record at scanner->page, which is in the buffer, or end the scan. */
static void record_take(struct scanner *scanner)
{
	struct kvc_record record;
	kvc_status status = record_read(scanner, &record);

	if (status == KVC_MISS)
		scan_finish(scanner);
	else if (status != KVC_OK)
		scan_damaged(scanner, "a record's header is damaged");
	else if (disk_record_pages(&record) > scanner->file_pages - scanner->page)
		scan_damaged(scanner, "its file was cut");
	else if (scanner->recovery->disk->verify)
		record_verify(scanner, &record);
	else
		record_note(scanner, &record, true);
}

static void records_take(struct scanner *scanner)
{

	scanner->state = SCAN_IDLE;
	if (!scan_filled(scanner)) {
		scan_finish(scanner);
		return;
	}
	if (scanner->read_count == 0) {
		scan_damaged(scanner, "its file was cut meanwhile");
		return;
	}
	while (scanner->state == SCAN_IDLE && scanner->page - scanner->read_page < scanner->read_count)
		record_take(scanner);
	if (scanner->state == SCAN_IDLE)
		scan_more(scanner);
}

static void records_done(struct kvc_io_req *io)
{
	taken_by(io, records_take);
}

static void scan_begin(struct scanner *scanner)
{
	scanner->page = 1;
	scanner->step = 1;
	scanner->read_count = 0;
	scan_more(scanner);
}

/* --- summary -------------------------------------------------------------------------------------- */

static void tail_done(struct kvc_io_req *io);

static void summary_damaged(struct scanner *scanner)
{
	kvc_warn("disk tier: the summary of segment %u is damaged: it is scanned", scanner->segment->number);
	kvc_stat_add(scanner->recovery->disk->count.bad_summaries, 1);
	scan_begin(scanner);
}

/* The buffer ends with `pages` of summary. */
static void summary_take(struct scanner *scanner, uint32_t pages)
{
	const uint8_t *bytes = scanner->buffer + (size_t)(scanner->read_count - pages) * KVC_PAGE_BYTES;
	struct kvc_disk *disk = scanner->recovery->disk;
	struct kvc_segment_header header;

	kvc_disk_segment_header(scanner->segment, &header);
	if (kvc_summary_open(&header, bytes, pages, &scanner->summary)) {
		summary_damaged(scanner);
		return;
	}
	scanner->summarized = true;
	if (scanner->summary.generation > disk->generation)
		disk->generation = scanner->summary.generation;
	scan_finish(scanner);
}

/* What is wanted lies at the segment's end. */
static void tail_read(struct scanner *scanner, uint32_t pages)
{
	if (buffer_grow(scanner, pages))
		scan_begin(scanner);
	else
		scan_read(scanner, scanner->file_pages - pages, pages, tail_done);
}

static void tail_take(struct scanner *scanner)
{
	struct kvc_segment_header header;
	const uint8_t *last;
	uint32_t pages;
	kvc_status status;

	scanner->state = SCAN_IDLE;
	if (!scan_filled(scanner) || scanner->read_count < scanner->asked) {
		scan_begin(scanner);
		return;
	}
	last = scanner->buffer + (size_t)(scanner->read_count - 1) * KVC_PAGE_BYTES;
	kvc_disk_segment_header(scanner->segment, &header);
	status = kvc_summary_probe(&header, last, &pages);
	if (status == KVC_MISS)
		scan_begin(scanner);
	else if (status != KVC_OK)
		summary_damaged(scanner);
	else if (pages > scanner->read_count)
		tail_read(scanner, pages);
	else
		summary_take(scanner, pages);
}

static void tail_done(struct kvc_io_req *io)
{
	taken_by(io, tail_take);
}

/* A summary says nothing of the tiles, and lies at the end of a whole file. */
static bool summary_helps(const struct scanner *scanner)
{
	const struct kvc_disk *disk = scanner->recovery->disk;

	return !disk->verify && scanner->file_pages == disk->segment_pages &&
	       !kvc_disk_crashes_of(scanner->segment);
}

static void tail_begin(struct scanner *scanner)
{
	uint32_t most = scanner->recovery->disk->segment_pages - 1;

	if (summary_helps(scanner))
		tail_read(scanner, most < TAIL_PAGES ? most : TAIL_PAGES);
	else
		scan_begin(scanner);
}

/* --- section of the checkpoint -------------------------------------------------------------------- */

/* Without it: the summary, or a scan. */
static void section_fails(struct scanner *scanner)
{
	kvc_stat_add(scanner->recovery->disk->count.bad_checkpoints, 1);
	tail_begin(scanner);
}

static void section_take(struct scanner *scanner)
{
	struct kvc_segment_header header;

	scanner->state = SCAN_IDLE;
	kvc_disk_segment_header(scanner->segment, &header);
	if (!scan_filled(scanner) || scanner->read_count < scanner->asked ||
	    kvc_summary_open(&header, scanner->buffer, scanner->read_count, &scanner->summary)) {
		section_fails(scanner);
		return;
	}
	scanner->summarized = scanner->checkpointed = true;
	scan_finish(scanner);
}

static void section_done(struct kvc_io_req *io)
{
	taken_by(io, section_take);
}

static void section_read(struct scanner *scanner, const struct kvc_checkpoint_section *section)
{
	struct kvc_disk *disk = scanner->recovery->disk;
	uint32_t file = disk->checkpoint_sequence % KVC_CHECKPOINT_FILES;

	if (buffer_grow(scanner, section->pages))
		tail_begin(scanner);
	else
		read_start(scanner, &disk->checkpoint_files[file], section->page, section->pages,
		           section_done);
}

bool kvc_disk_scan_records(struct scanner *scanner)
{
	struct disk_recovery *recovery = scanner->recovery;
	const struct kvc_checkpoint_section *section;

	if (recovery->next == recovery->order_count)
		return false;
	scanner->turn = recovery->next;
	scanner->segment = &recovery->disk->segments[recovery->order[recovery->next++].number];
	scanner->file_pages = file_pages(scanner);
	scanner->record_count = 0;
	scanner->summarized = scanner->checkpointed = false;
	section = kvc_disk_section_of(recovery, scanner->segment);
	if (section && !kvc_disk_crashes_of(scanner->segment))
		section_read(scanner, section);
	else
		tail_begin(scanner);
	return true;
}

/* --- life ----------------------------------------------------------------------------------------- */

kvc_status kvc_disk_scanner_open(struct scanner *scanner)
{
	return buffer_grow(scanner, CHUNK_PAGES);
}

void kvc_disk_scanner_close(struct scanner *scanner)
{
	free(scanner->buffer);
	kvc_free(scanner->records);
}
