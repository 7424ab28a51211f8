/* A segment of the disk tier: what is known of it in memory. Private to the tier; the states are drawn in
 * disk_segment.c. */
#ifndef KVC_DISK_SEGMENT_H
#define KVC_DISK_SEGMENT_H

#include <assert.h>

#include "daemon/io/io.h"
#include "daemon/tier/record.h"

#define DISK_NO_COOKIE UINT32_MAX
#define DISK_NO_PAGE   UINT32_MAX
#define DISK_PAGE_BITS 24
#define DISK_PAGES_MAX (1u << DISK_PAGE_BITS) /* of a segment */

#define DISK_FAILURES_MAX 3u /* of writing; then a segment is not written any more */
#define DISK_CRASHES_MAX  2u /* of recoveries; then a segment is set aside */

struct kvc_disk;
struct disk_summary;
struct kvc_segment_header;

enum disk_segment_state {
	DISK_FREE,       /* holds nothing */
	DISK_PREPARING,  /* gets its header */
	DISK_READY,      /* clean, next to be opened */
	DISK_OPEN,       /* records are appended */
	DISK_SEALED,     /* full, or left over from before the start */
	DISK_RETIRED,    /* a write or sync failed; what is sound in it is still read */
	DISK_RECLAIMING, /* forgotten; loads are still in flight */
	DISK_SCANNING,   /* at start */
	DISK_SEGMENT_STATES,
};

/* A record's place and whom to tell when it is given up. In page order, without gaps: a record ends where the
 * next one begins. There is one for every block on disk: it is counted in bytes. */
struct disk_entry {
	uint32_t cookie; /* DISK_NO_COOKIE: nobody */
	uint32_t page : DISK_PAGE_BITS;
} __attribute__((packed));

static_assert(sizeof(struct disk_entry) == 7, "a block's share of the tier is part of what it costs in RAM");

struct disk_segment {
	struct kvc_disk *disk;
	uint32_t number;
	enum disk_segment_state state;
	struct kvc_file file;  /* fd -1: there is none yet */
	uint64_t epoch;        /* 0: holds nothing */
	uint64_t left_epoch;   /* all of it was given up, but its header may still be there; 0: none */
	uint32_t end_page;     /* where the next record goes */
	uint32_t synced_page;  /* what lies before is on stable storage */
	uint32_t syncing_page; /* what the running sync covers */
	uint32_t lost_page;    /* what lies from here on was declared lost */
	uint32_t loads;        /* in flight */
	uint32_t writes;       /* in flight */
	uint32_t failures;     /* in all its epochs */
	uint64_t live_bytes;
	uint32_t live_records;
	struct disk_entry *entries;
	uint32_t entry_count;
	uint32_t entry_capacity;
	struct disk_summary *summary; /* of an open one, and until it is written; NULL: there is none */
	struct kvc_list dirty;        /* in disk->sync.dirty while there may be something to sync */
	struct kvc_io_req sync;
	bool sync_busy;
	bool aside; /* it made recoveries crash */
	bool kept;  /* what is to be kept of it was written elsewhere */
	bool named; /* its directory entry is on stable storage */
};

void kvc_disk_segment_move(struct disk_segment *segment, enum disk_segment_state to);

/* Begin an epoch. */
void kvc_disk_segment_reset(struct disk_segment *segment, uint64_t epoch);

/* Note a record of `pages` at the end. KVC_NO_MEMORY: nothing was noted. */
kvc_status kvc_disk_segment_append(struct disk_segment *segment, uint32_t cookie, uint32_t pages);

/* No record will be appended in this epoch: keep no more memory than those that are there take. */
void kvc_disk_segment_trim(struct disk_segment *segment);

/* Whether a record of `pages` and the summary afterwards have room. */
bool kvc_disk_segment_fits(const struct disk_segment *segment, uint32_t pages);

/* The record that was appended last belongs to that cookie. */
void kvc_disk_segment_adopt(struct disk_segment *segment, uint32_t cookie);

/* The segment that holds a record, by place and epoch; NULL: given up. */
struct disk_segment *kvc_disk_holder(const struct kvc_disk *disk, const struct kvc_record *record);

/* Close the open segment for appending. */
void kvc_disk_seal(struct kvc_disk *disk);

/* What the segment is called on disk. */
void kvc_disk_segment_header(const struct disk_segment *segment, struct kvc_segment_header *header);

/* Begin a summary in a new epoch; note a record in it; write it if it is time; give it up. None can fail:
 * without memory there is no summary. */
void kvc_disk_summary_begin(struct disk_segment *segment);
void kvc_disk_summary_add(struct disk_segment *segment, const struct kvc_record *record);
void kvc_disk_summary_progress(struct disk_segment *segment);
void kvc_disk_summary_drop(struct disk_segment *segment);

/* A write or sync failed: no more is written in this epoch, and what lies from `page` on is lost. */
void kvc_disk_retire(struct disk_segment *segment, uint32_t page);

/* Forget all its records, telling the owner, and free it as soon as nothing is in flight on it. */
void kvc_disk_reclaim(struct disk_segment *segment);

/* Reclaim or free it if nothing wanted is left in it. */
void kvc_disk_segment_settle(struct disk_segment *segment);

/* The first record from a page on that somebody wants; false: there is none. */
bool kvc_disk_entry_next(const struct disk_segment *segment, uint32_t from, uint32_t *page, uint32_t *pages);

/* Give up the record at a page, if somebody wants it, and tell him. */
void kvc_disk_entry_lose(struct disk_segment *segment, uint32_t page);

void kvc_disk_forget(struct kvc_disk *disk, const struct kvc_record *record);

#endif
