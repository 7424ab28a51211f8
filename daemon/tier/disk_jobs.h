/* What the disk tier has under way: writes, loads, and its own jobs. Each belongs to the file that is named
 * after it; struct kvc_disk holds them. */
#ifndef KVC_DISK_JOBS_H
#define KVC_DISK_JOBS_H

#include "daemon/engine/engine.h"
#include "daemon/tier/disk_segment.h"
#include "daemon/tier/drive.h"
#include "daemon/tier/keyring.h"
#include "daemon/tier/segment.h"
#include "daemon/tier/tier.h"
#include "daemon/tier/wear.h"

enum {
	DISK_WRITES = 8,      /* writes in flight */
	DISK_WRITE_IOV = 256, /* records of one write */
	DISK_LOADS = 128,     /* loads in flight */
	DISK_COPIES = 4,      /* records written again at a time */
	DISK_SCANNERS = 16,   /* segments that are scanned at a time */
};

struct disk_write {
	struct kvc_io_req io;
	struct kvc_list node; /* disk->writes.idle or .busy */
	struct kvc_disk *disk;
	struct disk_segment *segment;
	uint64_t sequence;
	uint32_t first_page;
	uint64_t bytes;
	struct kvc_list requests;
	uint64_t since_ms; /* when it was submitted */
	struct iovec iov[DISK_WRITE_IOV];

	/* of an encrypted directory */
	bool encrypting;
	struct kvc_engine_job job;
	struct kvc_cipher *cipher;
	struct kvc_keyring_row *rows; /* of each record's tenant */
	uint8_t *bounce;              /* what is written instead of the slabs */
	uint64_t bounce_bytes;
};

/* A record that was read, and is decrypted where it stands. */
struct disk_decrypt {
	struct kvc_disk *disk;
	struct kvc_engine_job job;
	struct kvc_cipher *cipher; /* NULL: of a directory that is not encrypted */
	struct kvc_keyring_row row;
	uint8_t *bytes;
	uint64_t length;
	void (*done)(struct disk_decrypt *decrypt, kvc_status status);
};

struct disk_load {
	struct kvc_io_req io;
	struct kvc_list node;
	struct kvc_disk *disk;
	struct disk_segment *segment;
	struct kvc_tier_req *request;
	uint64_t since_ms; /* when it was submitted */
	bool again;        /* read a second time after a mismatch */
	bool decrypting;
	struct iovec iov;
	struct disk_decrypt decrypt;
};

/* A record on its way from a segment that is to be reclaimed. */
struct disk_copy {
	struct kvc_disk *disk;
	struct disk_segment *segment; /* where it lies */
	bool busy;
	bool reading;
	struct kvc_record from;
	struct kvc_io_req io;
	struct iovec iov;
	struct kvc_tier_req req; /* of its store */
	uint64_t slab_bytes;
	struct disk_decrypt decrypt;
};

struct disk_keep {
	struct disk_segment *segment; /* NULL: idle */
	uint64_t epoch;
	uint32_t entry;  /* next to ask for */
	uint64_t bytes;  /* copied so far */
	uint32_t busy;   /* copies */
	uint32_t copied; /* records, that are not yet synced */
	bool cut;        /* no more of it: the room is wanted now */
	struct kvc_tier_req sync;
	struct kvc_task tick;
	struct disk_copy copies[DISK_COPIES];
};

enum disk_prepare_step {
	DISK_PREPARE_IDLE,
	DISK_PREPARE_ALLOCATE,
	DISK_PREPARE_DIRECTORY,
	DISK_PREPARE_SUPER,
	DISK_PREPARE_SUPER_SYNC,
	DISK_PREPARE_HEADER,
	DISK_PREPARE_HEADER_SYNC,
};

struct disk_prepare {
	enum disk_prepare_step step;
	struct disk_segment *segment;
	bool reclaim;           /* as kvc_disk_prepare was asked */
	struct kvc_super super; /* what is being written */
	struct kvc_io_req io;
	struct iovec iov;
	uint8_t *page;
};

/* One way of failing, and the pause that follows. */
struct disk_breaker {
	const char *what; /* "reading", "writing" */
	bool off;
	kvc_status cause;
	uint32_t failures; /* writes: in a row. reads: since since_ms */
	uint64_t since_ms;
	uint32_t pause_ms; /* of the next time */
	struct kvc_timer timer;
};

enum disk_checkpoint_step {
	DISK_CHECKPOINT_IDLE,
	DISK_CHECKPOINT_ROWS,
	DISK_CHECKPOINT_SECTION,
	DISK_CHECKPOINT_BODY_SYNC,
	DISK_CHECKPOINT_HEAD,
	DISK_CHECKPOINT_HEAD_SYNC,
};

/* A checkpoint that is being written. */
struct disk_checkpoint {
	enum disk_checkpoint_step step;
	struct kvc_task tick;
	struct kvc_io_req io;
	struct iovec iov;
	uint64_t sequence;
	uint8_t *head;
	uint8_t *rows; /* of one segment */
	uint32_t rows_pages;
	uint32_t capacity; /* rows */
	uint32_t count;
	uint32_t entry;               /* the segment's next */
	struct disk_segment *segment; /* NULL: the next one is to be found */
	uint64_t epoch;
	uint32_t next;     /* segment */
	uint32_t sections; /* so far */
	uint32_t page;     /* where the next one goes */
	uint32_t sealed;   /* segments since the last one began */
	bool armed;        /* the recovery is over */
};

struct disk_wear {
	struct kvc_wear wear;
	uint64_t since_ms; /* loop's time at the last account */
	uint64_t noted;    /* total at rest */
	bool busy;
	bool last; /* it was put down at the stop */
	struct kvc_file file;
	struct kvc_timer timer;
	struct kvc_io_req io;
	struct iovec iov;
	uint8_t *page;
};

struct disk_scrub {
	uint64_t rate; /* bytes a second; 0: off */
	struct kvc_timer timer;
	uint32_t yields; /* in a row */
	uint32_t next;   /* segment */
	uint32_t next_page;
	bool busy;
	bool again; /* read a second time after a mismatch */
	struct disk_segment *segment;
	uint64_t epoch;
	uint32_t page;
	struct kvc_io_req io;
	struct iovec iov;
	uint64_t iov_bytes;
	uint8_t *buffer;
	uint64_t buffer_bytes;
	struct disk_decrypt decrypt;
};

enum disk_keyring_step {
	DISK_KEYRING_IDLE,
	DISK_KEYRING_WRITE,
	DISK_KEYRING_SYNC,
	DISK_KEYRING_READ,
	DISK_KEYRING_ERASE,
	DISK_KEYRING_ERASE_SYNC,
};

struct disk_keyring {
	struct kvc_keyring ring; /* in force */
	struct kvc_keyring next; /* being written */
	enum disk_keyring_step step;
	struct kvc_file files[KVC_KEYRING_FILES];
	uint32_t in_force;        /* file */
	uint64_t tried;           /* highest sequence that was ever written */
	bool doubt;               /* a drop that was refused may have reached the disk all the same */
	struct kvc_secret *under; /* what data keys are wrapped under; NULL: the directory is not encrypted */
	uint8_t instance[KVC_INSTANCE_BYTES]; /* with it: the directory's, which workers read, as it never
	                                         changes */
	struct kvc_cipher *cipher;            /* of the loop thread */
	struct kvc_list stores;               /* wait for a key of their tenant */
	struct kvc_list making;               /* in the update that runs */
	bool no_plain;                        /* wanted: nothing may be plain any more */
	struct kvc_list forgets;              /* wait */
	struct kvc_list forgetting;
	struct kvc_io_req io;
	struct iovec iov;
	uint8_t *bytes;
	uint8_t *back; /* what was read again */
	uint32_t pages;
};

struct disk_drive_job;

struct disk_drive {
	char *directory;
	char *file;                 /* behind it; NULL: the drive is asked itself */
	uint64_t interval_ms;       /* 0: never */
	struct disk_drive_job *job; /* being read; NULL: none */
	struct kvc_timer timer;
	struct kvc_drive_history history;
	bool failing; /* nothing is written any more */
	bool told;    /* that it is not known */
};

enum disk_sync_step {
	DISK_SYNC_IDLE,
	DISK_SYNC_WRITES, /* waits for the writes that were in flight when it began */
	DISK_SYNC_FILES,  /* waits for the files */
};

/* --- disk_keep.c --- */

void kvc_disk_keep_init(struct kvc_disk *disk);

/* Begin to write again what is to be kept of a segment; kvc_disk_prepare is called at the end. False: there
 * is nothing to do, or no way to do it. */
bool kvc_disk_keep_start(struct kvc_disk *disk, struct disk_segment *segment);

/* The room is wanted now: leave the rest. */
void kvc_disk_keep_cut(struct kvc_disk *disk);

/* Whether a store is one of these copies, which must not wait for a segment. */
bool kvc_disk_keep_owns(const struct kvc_tier_req *req);

#endif
