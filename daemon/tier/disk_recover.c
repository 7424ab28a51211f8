/* The recovery at start: which segments hold what.
 *
 *   HEADERS     read the header of every segment; sort by epoch
 *   CHECKPOINT  read what a checkpoint knows (disk_recover_checkpoint.c)
 *   RECORDS     look through up to DISK_SCANNERS segments at a time (disk_scan.c)
 *   both        report the records, a segment at a time, oldest epoch first
 *
 * Only reads. It can be broken off anywhere and begun again, and finds the same. No segment is written again
 * in the epoch in which it was found, so that a page that a write of the last process may still reach is
 * never read as something else. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_recover.h"

enum { REPORTS_A_TURN = 512 }; /* records reported between two looks at the rest of the world */

void kvc_disk_recover_tick(struct disk_recovery *recovery)
{
	kvc_loop_defer(recovery->disk->loop, &recovery->tick);
}

/* --- reports -------------------------------------------------------------------------------------- */

static uint32_t found_count(const struct scanner *scanner)
{
	return scanner->summarized ? scanner->summary.count : scanner->record_count;
}

static void found_get(const struct scanner *scanner, uint32_t i, struct scan_record *found)
{
	found->sound = true;
	if (scanner->summarized)
		kvc_summary_get(&scanner->summary, i, &found->record);
	else
		*found = scanner->records[i];
}

/* Pages that nobody wants lie before `page`. */
static void gap_note(struct disk_segment *segment, uint32_t page)
{
	if (segment->end_page < page)
		(void)kvc_disk_segment_append(segment, DISK_NO_COOKIE, page - segment->end_page);
}

/* The place is noted first, for which there may be no memory, then the owner is asked. */
static void record_report(struct kvc_disk *disk, struct disk_segment *segment,
                          const struct scan_record *found)
{
	uint32_t cookie;

	gap_note(segment, found->record.place.page);
	if (found->record.place.page != segment->end_page)
		return; /* for want of memory for one before: the rest of the segment is left out */
	if (kvc_disk_segment_append(segment, DISK_NO_COOKIE, disk_record_pages(&found->record)))
		return;
	if (kvc_disk_keyring_dropped(disk, &found->record)) {
		kvc_stat_add(disk->count.forgotten, 1);
		return;
	}
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

static void report_end(struct scanner *scanner)
{
	struct disk_segment *segment = scanner->segment;

	struct kvc_disk *disk = segment->disk;

	if (scanner->summarized)
		gap_note(segment, scanner->summary.end_page);
	if (scanner->checkpointed)
		kvc_stat_add(disk->count.by_checkpoint, 1);
	else if (found_count(scanner))
		kvc_stat_add(scanner->summarized ? disk->count.by_summary : disk->count.by_scan, 1);
	kvc_disk_segment_move(segment, DISK_SEALED);
	kvc_disk_segment_trim(segment);
	kvc_disk_segment_settle(segment);
	scanner->state = SCAN_IDLE;
	scanner->recovery->next_turn++;
}

/* False: there is nothing to report now. */
static bool report_some(struct disk_recovery *recovery)
{
	struct scanner *scanner = scanner_in_turn(recovery);

	if (!scanner)
		return false;
	kvc_disk_crashes_at(scanner->segment);
	for (uint32_t n = 0; n < REPORTS_A_TURN && scanner->reported < found_count(scanner); n++) {
		struct scan_record found;

		found_get(scanner, scanner->reported++, &found);
		record_report(recovery->disk, scanner->segment, &found);
	}
	if (scanner->reported == found_count(scanner))
		report_end(scanner);
	kvc_disk_crashes_at(NULL);
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

	kvc_disk_crashes_watch(false);
	if (!stopped)
		kvc_disk_crashes_clear(disk);
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
	        recovery->phase == RECOVER_HEADERS ? kvc_disk_scan_header : kvc_disk_scan_records;

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
	recovery->phase = RECOVER_CHECKPOINT;
	recovery->next = 0;
	kvc_disk_heads_start(recovery);
	kvc_disk_recover_tick(recovery);
}

static void checkpoint_tick(struct disk_recovery *recovery)
{
	if (recovery->busy)
		return;
	kvc_disk_heads_choose(recovery);
	recovery->phase = RECOVER_RECORDS;
	kvc_disk_recover_tick(recovery);
}

static void records_tick(struct disk_recovery *recovery)
{
	bool reported = report_some(recovery);

	if (reported)
		kvc_disk_recover_tick(recovery);
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
	else if (recovery->phase == RECOVER_CHECKPOINT)
		checkpoint_tick(recovery);
	else
		records_tick(recovery);
}

/* --- life ----------------------------------------------------------------------------------------- */

void kvc_disk_recover_free(struct kvc_disk *disk)
{
	struct disk_recovery *recovery = disk->recovery;

	if (!recovery)
		return;
	for (uint32_t i = 0; i < DISK_SCANNERS; i++)
		kvc_disk_scanner_close(&recovery->scanners[i]);
	kvc_disk_heads_free(recovery);
	kvc_free(recovery->sections);
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
	recovery->sections = kvc_calloc(disk->segment_count, sizeof *recovery->sections);
	if (!recovery->order || !recovery->sections)
		return KVC_NO_MEMORY;
	for (uint32_t i = 0; i < DISK_SCANNERS; i++) {
		recovery->scanners[i].recovery = recovery;
		if (kvc_disk_scanner_open(&recovery->scanners[i]))
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
	kvc_disk_crashes_watch(true);
	kvc_disk_recover_tick(recovery);
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
	kvc_disk_recover_tick(recovery);
}
