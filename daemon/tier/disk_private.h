/* What the files of the disk tier share. Nobody else includes it.
 *
 *   disk.c          the tier's table of functions, its states, starting and stopping
 *   disk_dir.c      the directory: lock, superblock, secret, files. Synchronous, at open
 *   disk_segment.c  the life of a segment, its records, reclaiming
 *   disk_prepare.c  making the next segment ready    disk_keep.c  writing again what was used
 *   disk_write.c    stores    disk_read.c  loads    disk_sync.c  syncs
 *   disk_scrub.c    looking for damage in idle time
 *   disk_wear.c     counting what is written    disk_drive.c  watching the health of the drive
 *   disk_keyring.c  incarnations and keys of tenants    disk_crypt.c    encrypting and decrypting
 *   disk_health.c   switching off and on again after errors
 *   disk_summary.c  the summary of a sealed segment    disk_checkpoint.c  the checkpoint of the index
 *   disk_recover.c  what there is at start    disk_scan.c  how a segment is looked through for that
 *   disk_crashes.c  segments that make it crash
 *
 * What holds of the directory at any moment, also after a crash in which any subset of the pages that were
 * not yet synced arrived:
 *
 *   I1  An epoch is given to one segment, once. Before an epoch is used, a superblock whose epoch_limit is
 *       above it is on stable storage.
 *   I2  A record counts only in the segment, at the page and in the epoch that it names, and the epoch is the
 *       one in the segment's header. So what a segment held before its header changed is void from then on,
 *       wherever it lies, and what was written for a header that did not arrive is void too.
 *   I3  The header of a new epoch, and the file's directory entry, are on stable storage before any record of
 * that epoch is submitted. So where an old header is found, nothing it stands for was overwritten. I4 Records
 * of an epoch lie without gaps from page 1 on. A write that fails ends the segment's epoch: what lies behind
 * the gap is declared lost, since a scan will not find it. I5  A page of an epoch is written once. I6  The
 * superblock that is in force is never overwritten: a newer one goes to the other slot. I7  A summary is
 * submitted after every write of its segment ended well, and names instance, segment and epoch; it is
 * believed in that segment and epoch only. It says where records may be, not that they are: after a power
 * failure it can be there without them. A record counts when it is read (I2). I8  A checkpoint names instance
 * and epochs as a summary does, and speaks for a segment only if it lists every record that was stored there
 * and is still wanted. The one in force is not overwritten; its sections are on stable storage before its
 * head is submitted.
 *   I10 One of the keyring's files is sound at any time, and what it says is on stable storage: a data key
 * before the first record that needs it, an incarnation before the drop that made it is answered. I9  A
 * record that is written again says that it is a copy, and is on stable storage before the segment of the
 * first one is reclaimed. So if both are found, the first one is whole (I3), and is the one to take.
 */
#ifndef KVC_DISK_PRIVATE_H
#define KVC_DISK_PRIVATE_H

#include <string.h>

#include "daemon/tier/checkpoint.h"
#include "daemon/tier/crashes.h"
#include "daemon/tier/disk.h"
#include "daemon/tier/disk_counters.h"
#include "daemon/tier/disk_jobs.h"
#include "daemon/tier/disk_keyring.h"
#include "daemon/tier/disk_segment.h"
#include "daemon/tier/segment.h"

#define DISK_FIRST_EPOCH 1u

enum disk_state {
	DISK_COLD, /* open, not recovered */
	DISK_RECOVERING,
	DISK_ON,
	DISK_CLOSING,
	DISK_CLOSED,
};

struct disk_recovery;

struct kvc_disk {
	struct kvc_tier base;
	enum disk_state state;
	struct kvc_loop *loop;
	struct kvc_io *io;
	struct kvc_engine *engine; /* NULL: there is no key */
	struct kvc_tier_events events;

	int dir_fd;
	int lock_fd;
	struct kvc_file segments_dir; /* for syncing it */
	struct kvc_file super_file;
	struct kvc_super super; /* the one in force on stable storage */
	struct kvc_secret secret;
	int crashes_fd;
	struct kvc_crashes crashes;
	uint64_t next_epoch;
	uint64_t generation; /* the highest of any record */

	uint32_t segment_pages;
	uint32_t segment_count;
	struct disk_segment *segments;
	struct disk_segment *open;  /* NULL: none */
	struct disk_segment *ready; /* NULL: none */
	struct disk_prepare prepare;
	uint64_t crowded_until_ms; /* no new files before; 0: there was always space */
	struct disk_keep keep;
	struct disk_scrub scrub;
	struct disk_wear wear;
	struct disk_keyring keyring;
	struct disk_drive drive;
	struct kvc_file checkpoint_files[KVC_CHECKPOINT_FILES];
	uint64_t checkpoint_sequence; /* of the one in force; 0: there is none */
	struct disk_checkpoint checkpoint;

	uint32_t write_bytes;
	uint32_t write_share;    /* most bytes of a write that is gathered now */
	uint32_t summaries_busy; /* being written */
	struct kvc_list stores;  /* wait for a write */
	struct kvc_task progress;
	struct {
		struct disk_write *all;
		struct kvc_list idle;
		struct kvc_list busy;
		uint64_t sequence;
	} writes;
	struct {
		struct disk_load *all;
		struct kvc_list idle;
		struct kvc_list busy;    /* oldest first */
		struct kvc_list waiting; /* requests */
	} loads;
	struct {
		struct kvc_list waiting; /* requests */
		struct kvc_list current;
		struct kvc_list dirty; /* segments */
		enum disk_sync_step step;
		uint32_t files_left;
		uint64_t since_ms; /* when they were submitted */
		uint64_t barrier;  /* writes up to this one must end first */
		uint32_t losses;   /* times that something was declared lost */
		uint32_t baseline; /* losses when the last sync was submitted */
	} sync;

	struct disk_breaker reading;
	struct disk_breaker writing;
	struct kvc_timer watchdog; /* runs while anything is in flight that could hang */
	uint64_t ended_ms;         /* when one of them ended last */

	struct disk_recovery *recovery;
	bool verify;
	struct kvc_tier_req last_sync; /* before closing */
	enum disk_last_sync {
		DISK_LAST_NONE,
		DISK_LAST_CHECKPOINT,
		DISK_LAST_RUNNING,
		DISK_LAST_DONE
	} last_step;
	struct kvc_task closed_task;
	void (*closed)(void *context);
	void *closed_context;

	struct disk_counters count;
};

static inline struct kvc_disk *disk_of(struct kvc_tier *tier)
{
	return kvc_container_of(tier, struct kvc_disk, base);
}

/* --- disk.c --- */

/* End a request, but not from here. */
void kvc_disk_answer_later(struct kvc_disk *disk, struct kvc_tier_req *req, kvc_status status);

/* Something came or ended: soon, let what waits go on, and see whether a stop is complete. */
void kvc_disk_progress(struct kvc_disk *disk);

/* The scan is over: take requests. */
void kvc_disk_on(struct kvc_disk *disk);

/* Set base.writable from all that bears on it. */
void kvc_disk_update_writable(struct kvc_disk *disk);

/* --- disk_dir.c --- */

struct disk_detail {
	char *text;
	size_t bytes;
};

/* Say what is wrong; returns `status`. */
__attribute__((format(printf, 3, 4))) kvc_status kvc_disk_fail(const struct disk_detail *detail,
                                                               kvc_status status, const char *format, ...);

/* All of the directory that is needed before a scan. */
kvc_status kvc_disk_dir_open(struct kvc_disk *disk, const struct kvc_disk_options *options,
                             const struct disk_detail *detail);
void kvc_disk_dir_close(struct kvc_disk *disk);

/* The name of a segment's file. */
#define DISK_NAME_BYTES 16
void kvc_disk_segment_name(uint32_t number, char name[DISK_NAME_BYTES]);

/* --- disk_prepare.c --- */

/* Have a clean segment in reserve. `reclaim`: also at the price of the oldest one. */
void kvc_disk_prepare(struct kvc_disk *disk, bool reclaim);

/* --- disk_write.c, disk_read.c, disk_sync.c --- */

void kvc_disk_store(struct kvc_disk *disk, struct kvc_tier_req *req);
void kvc_disk_gather(struct kvc_disk *disk);
void kvc_disk_fail_stores(struct kvc_disk *disk, kvc_status status);
void kvc_disk_load(struct kvc_disk *disk, struct kvc_tier_req *req);
void kvc_disk_fail_loads(struct kvc_disk *disk, kvc_status status);
void kvc_disk_sync(struct kvc_disk *disk, struct kvc_tier_req *req);

/* A sync of the tier's own, which does not count as one of the owner's. */
void kvc_disk_sync_own(struct kvc_disk *disk, struct kvc_tier_req *req);
void kvc_disk_sync_progress(struct kvc_disk *disk);

/* Take the segment off the list of dirty ones if nothing in it is left to sync. */
void kvc_disk_dirty_update(struct disk_segment *segment);

/* --- disk_health.c --- */

void kvc_disk_health_init(struct kvc_disk *disk);

/* A write, sync or allocation failed; `cell` counts its kind. */
void kvc_disk_write_failed(struct kvc_disk *disk, kvc_stat_cell *cell, const struct kvc_io_req *io);

/* No segment is left that may be written. */
void kvc_disk_no_segment(struct kvc_disk *disk);

void kvc_disk_write_worked(struct kvc_disk *disk);
void kvc_disk_read_failed(struct kvc_disk *disk, int error);

/* Something was submitted: see that it does not hang. */
void kvc_disk_watch(struct kvc_disk *disk);

/* --- disk_crashes.c --- */

/* Read the list, or begin one. */
void kvc_disk_crashes_open(struct kvc_disk *disk);

/* From now on, or no longer, a crash is written down. */
void kvc_disk_crashes_watch(bool on);

/* This thread looks at that segment; NULL: at none. */
void kvc_disk_crashes_at(struct disk_segment *segment);

/* How many recoveries it made crash. */
uint32_t kvc_disk_crashes_of(const struct disk_segment *segment);

/* The recovery is complete. */
void kvc_disk_crashes_clear(struct kvc_disk *disk);

/* --- disk_checkpoint.c --- */

void kvc_disk_checkpoint_init(struct kvc_disk *disk);

/* Begin one; false: not now. kvc_disk_progress tells of its end. */
bool kvc_disk_checkpoint_start(struct kvc_disk *disk);

/* A segment was sealed: is it time for one? */
void kvc_disk_checkpoint_sealed(struct kvc_disk *disk);

/* --- disk_scrub.c --- */

void kvc_disk_scrub_start(struct kvc_disk *disk);
void kvc_disk_scrub_stop(struct kvc_disk *disk);

/* --- disk_wear.c --- */

void kvc_disk_wear_open(struct kvc_disk *disk);
void kvc_disk_wear_close(struct kvc_disk *disk);

/* So much was written. */
void kvc_disk_wrote(struct kvc_disk *disk, uint64_t bytes);

/* Put it down; false: there is nothing new. kvc_disk_progress tells of its end. */
bool kvc_disk_wear_note(struct kvc_disk *disk);

/* --- disk_drive.c --- */

/* Keeps copies of the names. */
kvc_status kvc_disk_drive_open(struct kvc_disk *disk, const struct kvc_disk_options *options);
void kvc_disk_drive_close(struct kvc_disk *disk);

void kvc_disk_drive_start(struct kvc_disk *disk);

/* No more; kvc_disk_progress tells when what was under way has ended or was given up. */
void kvc_disk_drive_stop(struct kvc_disk *disk);

/* --- disk_recover.c --- */

/* All memory that it needs but for the records. What was had is freed by kvc_disk_recover_free. */
kvc_status kvc_disk_recover_open(struct kvc_disk *disk);
void kvc_disk_recover_free(struct kvc_disk *disk);

void kvc_disk_recover_start(struct kvc_disk *disk, void (*done)(void *context, kvc_status status),
                            void *context);

/* Stop the scan; done(KVC_SHUTDOWN) comes when no read is in flight. */
void kvc_disk_recover_stop(struct kvc_disk *disk);

#endif
