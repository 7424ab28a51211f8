/* The scan at start: which segments hold what.
 *
 *   HEADERS   read the header of every segment; sort by epoch
 *   RECORDS   hop from record header to record header in up to DISK_SCANNERS segments at a time
 *   both      report the records, a segment at a time, oldest epoch first
 *
 * Only reads. It can be broken off anywhere and begun again, and finds the same. A record that does not
 * belong where it is found ends its segment's log (I2, I4). No segment is written again in the epoch in which
 * it was found, so that a page that a write of the last process may still reach is never read as something
 * else. */
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"
#include "kernels/image.h"

enum {
	CHUNK_PAGES = 64,     /* read at a time while records are small */
	SMALL_PAGES = 16,     /* records below this are small */
	REPORTS_A_TURN = 512, /* records reported between two looks at the rest of the world */
	RECORDS_AT_FIRST = 64,
};

enum scan_state { SCAN_IDLE, SCAN_READING, SCAN_FINISHED };

struct scan_record {
	struct kvc_record record;
	bool sound; /* false: its image failed the check, its place is only stepped over */
};

struct scanner {
	struct disk_recovery *recovery;
	enum scan_state state;
	struct disk_segment *segment;
	uint32_t turn; /* which segment in the order of epochs */
	struct kvc_io_req io;
	struct iovec iov;
	uint8_t *buffer;
	uint32_t buffer_pages;
	uint32_t read_page;  /* what the buffer holds: pages from here on, */
	uint32_t read_count; /* this many */
	uint32_t asked;      /* were asked for */
	uint32_t file_pages;
	uint32_t page; /* where the next record header is expected */
	uint32_t step; /* pages of the last record */
	struct scan_record *records;
	uint32_t record_count;
	uint32_t record_capacity;
	uint32_t reported;
};

struct disk_turn {
	uint64_t epoch;
	uint32_t number;
};

enum recovery_phase { RECOVER_HEADERS, RECOVER_RECORDS };

struct disk_recovery {
	struct kvc_disk *disk;
	void (*done)(void *context, kvc_status status);
	void *context;
	enum recovery_phase phase;
	struct kvc_task tick;
	bool stop;
	uint32_t busy;      /* scanners that read */
	uint32_t next;      /* HEADERS: segment. RECORDS: place in the order */
	uint32_t next_turn; /* to be reported */
	struct disk_turn *order;
	uint32_t order_count;
	struct scanner scanners[DISK_SCANNERS];
};

static void tick_soon(struct disk_recovery *recovery)
{
	kvc_loop_defer(recovery->disk->loop, &recovery->tick);
}

/* --- reading -------------------------------------------------------------------------------------- */

static void scan_read(struct scanner *scanner, uint32_t page, uint32_t pages,
                      void (*done)(struct kvc_io_req *io))
{
	KVC_PRE(page < scanner->file_pages);
	if (pages > scanner->file_pages - page)
		pages = scanner->file_pages - page;
	KVC_PRE(pages > 0 && pages <= scanner->buffer_pages);
	scanner->read_page = page;
	scanner->asked = pages;
	scanner->iov = (struct iovec){
	        .iov_base = scanner->buffer,
	        .iov_len = (size_t)pages * KVC_PAGE_BYTES,
	};
	scanner->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = &scanner->segment->file,
	        .offset = (uint64_t)page * KVC_PAGE_BYTES,
	        .iov = &scanner->iov,
	        .iov_count = 1,
	        .done = done,
	};
	scanner->state = SCAN_READING;
	scanner->recovery->busy++;
	kvc_io_submit(scanner->recovery->disk->io, &scanner->io);
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
	       header->number == scanner->segment->number && header->epoch > 0 &&
	       header->segment_bytes == disk->super.segment_bytes;
}

static void header_done(struct kvc_io_req *io)
{
	struct scanner *scanner = kvc_container_of(io, struct scanner, io);
	struct disk_recovery *recovery = scanner->recovery;
	struct kvc_segment_header header;

	scanner->state = SCAN_IDLE;
	if (scan_filled(scanner) && header_accepts(scanner, &header)) {
		kvc_disk_segment_reset(scanner->segment, header.epoch);
		scanner->segment->named = true; /* I3 */
		recovery->order[recovery->order_count++] =
		        (struct disk_turn){header.epoch, scanner->segment->number};
		if (header.epoch >= recovery->disk->next_epoch)
			recovery->disk->next_epoch = header.epoch + 1; /* I1, whatever the superblock says */
	} else {
		kvc_disk_segment_move(scanner->segment, DISK_FREE);
	}
	tick_soon(recovery);
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
static bool header_next(struct scanner *scanner)
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
	tick_soon(scanner->recovery);
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

static const uint8_t *scan_at(const struct scanner *scanner)
{
	return scanner->buffer + (size_t)(scanner->page - scanner->read_page) * KVC_PAGE_BYTES;
}

static bool image_sound(const struct scanner *scanner, const struct kvc_record *record)
{
	const uint8_t *image = scan_at(scanner) + KVC_RECORD_HEADER_BYTES;
	struct kvc_image opened;

	return kvc_image_open(image, record->image_bytes, 0, &opened) == KVC_OK &&
	       kvc_image_verify(&opened) == KVC_OK;
}

static uint32_t record_pages(const struct kvc_record *record)
{
	return (uint32_t)(kvc_record_bytes(record->image_bytes) / KVC_PAGE_BYTES);
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
	scanner->step = record_pages(record);
	scanner->page += scanner->step;
}

/* All of the record must be in the buffer for that. */
static void record_verify(struct scanner *scanner, const struct kvc_record *record)
{
	uint32_t pages = record_pages(record);
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
	const struct kvc_disk *disk = scanner->recovery->disk;
	struct kvc_segment_header header = {
	        .number = scanner->segment->number,
	        .epoch = scanner->segment->epoch,
	        .segment_bytes = disk->super.segment_bytes,
	};

	memcpy(header.instance, disk->super.instance, sizeof header.instance);
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
	else if (record_pages(&record) > scanner->file_pages - scanner->page)
		scan_damaged(scanner, "its file was cut");
	else if (scanner->recovery->disk->verify)
		record_verify(scanner, &record);
	else
		record_note(scanner, &record, true);
}

static void records_done(struct kvc_io_req *io)
{
	struct scanner *scanner = kvc_container_of(io, struct scanner, io);

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

/* False: no segment is left to scan. */
static bool records_next(struct scanner *scanner)
{
	struct disk_recovery *recovery = scanner->recovery;

	if (recovery->next == recovery->order_count)
		return false;
	scanner->turn = recovery->next;
	scanner->segment = &recovery->disk->segments[recovery->order[recovery->next++].number];
	scanner->file_pages = file_pages(scanner);
	scanner->page = 1;
	scanner->step = 1;
	scanner->record_count = 0;
	scan_more(scanner);
	return true;
}

/* --- reports -------------------------------------------------------------------------------------- */

/* The place is noted first, for which there may be no memory, then the owner is asked. */
static void record_report(struct kvc_disk *disk, struct disk_segment *segment,
                          const struct scan_record *found)
{
	uint32_t cookie;

	if (kvc_disk_segment_append(segment, DISK_NO_COOKIE, record_pages(&found->record)))
		return;
	if (!found->sound || !disk->events.recovered(disk->events.context, &found->record, &cookie))
		return;
	kvc_disk_segment_adopt(segment, cookie);
	kvc_stat_add(disk->count.recovered, 1);
}

static struct scanner *scanner_in_turn(struct disk_recovery *recovery)
{
	for (uint32_t i = 0; i < DISK_SCANNERS; i++) {
		struct scanner *scanner = &recovery->scanners[i];

		if (scanner->state == SCAN_FINISHED && scanner->turn == recovery->next_turn)
			return scanner;
	}
	return NULL;
}

/* False: there is nothing to report now. Behind a record that could not be noted the pages no longer fit, and
 * the rest of the segment is left out. */
static bool report_some(struct disk_recovery *recovery)
{
	struct scanner *scanner = scanner_in_turn(recovery);
	struct disk_segment *segment;

	if (!scanner)
		return false;
	segment = scanner->segment;
	for (uint32_t n = 0; n < REPORTS_A_TURN && scanner->reported < scanner->record_count; n++) {
		const struct scan_record *found = &scanner->records[scanner->reported++];

		if (found->record.place.page == segment->end_page)
			record_report(recovery->disk, segment, found);
	}
	if (scanner->reported == scanner->record_count) {
		kvc_disk_segment_move(segment, DISK_SEALED);
		kvc_disk_segment_settle(segment);
		scanner->state = SCAN_IDLE;
		recovery->next_turn++;
	}
	return true;
}

/* --- phases --------------------------------------------------------------------------------------- */

static int by_epoch(const void *a, const void *b)
{
	uint64_t first = ((const struct disk_turn *)a)->epoch;
	uint64_t second = ((const struct disk_turn *)b)->epoch;

	return (first > second) - (first < second);
}

static void recovery_end(struct disk_recovery *recovery)
{
	struct kvc_disk *disk = recovery->disk;
	void (*done)(void *context, kvc_status status) = recovery->done;
	void *context = recovery->context;
	bool stopped = recovery->stop;

	kvc_disk_recover_free(disk);
	if (stopped)
		kvc_disk_progress(disk);
	else
		kvc_disk_on(disk);
	done(context, stopped ? KVC_SHUTDOWN : KVC_OK);
}

/* Give idle scanners work. False: none is busy, and there is none to give. */
static bool scanners_start(struct disk_recovery *recovery)
{
	bool (*next)(struct scanner * scanner) =
	        recovery->phase == RECOVER_HEADERS ? header_next : records_next;

	for (uint32_t i = 0; i < DISK_SCANNERS; i++)
		if (recovery->scanners[i].state == SCAN_IDLE && !next(&recovery->scanners[i]))
			break;
	return recovery->busy > 0;
}

static void headers_tick(struct disk_recovery *recovery)
{
	if (scanners_start(recovery))
		return;
	qsort(recovery->order, recovery->order_count, sizeof *recovery->order, by_epoch);
	recovery->phase = RECOVER_RECORDS;
	recovery->next = 0;
	tick_soon(recovery);
}

static void records_tick(struct disk_recovery *recovery)
{
	bool reported = report_some(recovery);

	if (reported)
		tick_soon(recovery);
	if (!scanners_start(recovery) && !reported && recovery->next_turn == recovery->order_count)
		recovery_end(recovery);
}

static void recovery_tick(struct kvc_task *task)
{
	struct disk_recovery *recovery = kvc_container_of(task, struct disk_recovery, tick);

	if (recovery->stop && !recovery->busy)
		recovery_end(recovery);
	else if (recovery->stop)
		return;
	else if (recovery->phase == RECOVER_HEADERS)
		headers_tick(recovery);
	else
		records_tick(recovery);
}

/* --- life ----------------------------------------------------------------------------------------- */

void kvc_disk_recover_free(struct kvc_disk *disk)
{
	struct disk_recovery *recovery = disk->recovery;

	if (!recovery)
		return;
	for (uint32_t i = 0; i < DISK_SCANNERS; i++) {
		free(recovery->scanners[i].buffer);
		kvc_free(recovery->scanners[i].records);
	}
	kvc_free(recovery->order);
	kvc_free(recovery);
	disk->recovery = NULL;
}

kvc_status kvc_disk_recover_open(struct kvc_disk *disk)
{
	struct disk_recovery *recovery = kvc_calloc(1, sizeof *recovery);

	if (!recovery)
		return KVC_NO_MEMORY;
	disk->recovery = recovery;
	recovery->disk = disk;
	recovery->tick.run = recovery_tick;
	recovery->order = kvc_calloc(disk->segment_count, sizeof *recovery->order);
	if (!recovery->order)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < DISK_SCANNERS; i++) {
		recovery->scanners[i].recovery = recovery;
		if (buffer_grow(&recovery->scanners[i], CHUNK_PAGES))
			return KVC_NO_MEMORY;
	}
	return KVC_OK;
}

void kvc_disk_recover_start(struct kvc_disk *disk, void (*done)(void *context, kvc_status status),
                            void *context)
{
	struct disk_recovery *recovery = disk->recovery;

	recovery->done = done;
	recovery->context = context;
	tick_soon(recovery);
}

void kvc_disk_recover_stop(struct kvc_disk *disk)
{
	struct disk_recovery *recovery = disk->recovery;

	if (!recovery)
		return;
	if (!recovery->done) { /* it never began */
		kvc_disk_recover_free(disk);
		return;
	}
	recovery->stop = true;
	tick_soon(recovery);
}
