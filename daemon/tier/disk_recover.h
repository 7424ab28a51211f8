/* What the files of the recovery share (disk_recover.c, disk_scan.c). */
#ifndef KVC_DISK_RECOVER_H
#define KVC_DISK_RECOVER_H

#include "daemon/tier/checkpoint.h"
#include "daemon/tier/disk_private.h"
#include "daemon/tier/summary.h"

enum scan_state { SCAN_IDLE, SCAN_READING, SCAN_FINISHED };

struct scan_record {
	struct kvc_record record;
	bool sound; /* false: its image failed the check, its place is only stepped over */
};

/* What looks through one segment at a time. */
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

	/* what was found: a summary, in the buffer, or records one by one */
	bool summarized;
	bool checkpointed; /* the summary is a section of the checkpoint */
	struct kvc_summary summary;
	struct scan_record *records;
	uint32_t record_count;
	uint32_t record_capacity;
	uint32_t reported;
};

struct disk_turn {
	uint64_t epoch;
	uint32_t number;
};

/* The head of a checkpoint, while it is looked at. */
struct disk_head {
	struct disk_recovery *recovery;
	struct kvc_io_req io;
	struct iovec iov;
	uint8_t *bytes;
};

enum recovery_phase { RECOVER_HEADERS, RECOVER_CHECKPOINT, RECOVER_RECORDS };

struct disk_recovery {
	struct kvc_disk *disk;
	void (*done)(void *context, kvc_status status);
	void *context;
	enum recovery_phase phase;
	struct kvc_task tick;
	bool stop;
	uint32_t busy;      /* reads in flight */
	uint32_t next;      /* HEADERS: segment. RECORDS: place in the order */
	uint32_t next_turn; /* to be reported */
	struct disk_turn *order;
	uint32_t order_count;
	struct disk_head heads[KVC_CHECKPOINT_FILES];
	struct kvc_checkpoint_section *sections; /* by segment; pages 0: there is none */
	struct scanner scanners[DISK_SCANNERS];
};

void kvc_disk_recover_tick(struct disk_recovery *recovery);

/* Buffers of a scanner. */
kvc_status kvc_disk_scanner_open(struct scanner *scanner);
void kvc_disk_scanner_close(struct scanner *scanner);

/* Begin with the next segment; false: none is left. */
bool kvc_disk_scan_header(struct scanner *scanner);
bool kvc_disk_scan_records(struct scanner *scanner);

/* --- disk_recover_checkpoint.c --- */

/* Read the heads, if there are any. Then, when recovery->busy is 0, choose. */
void kvc_disk_heads_start(struct disk_recovery *recovery);
void kvc_disk_heads_choose(struct disk_recovery *recovery);
void kvc_disk_heads_free(struct disk_recovery *recovery);

/* What the checkpoint has of a segment; NULL: nothing. */
const struct kvc_checkpoint_section *kvc_disk_section_of(const struct disk_recovery *recovery,
                                                         const struct disk_segment *segment);

static inline uint32_t disk_record_pages(const struct kvc_record *record)
{
	return (uint32_t)(kvc_record_bytes(record->image_bytes) / KVC_PAGE_BYTES);
}

#endif
