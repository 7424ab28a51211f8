/* A disk tier for tests, with blocks whose right bytes are known: each block is a real image, made from the
 * seed of its number, so that what is loaded can be told to be right, damaged in a way that the checks find,
 * or wrong. */
#ifndef KVC_TEST_DISK_RIG_H
#define KVC_TEST_DISK_RIG_H

#include "daemon/io/io.h"
#include "daemon/tier/disks.h"
#include "tests/support/temp_dir.h"

#define RIG_BLOCKS 4096u

enum rig_answer {
	RIG_RIGHT,   /* the very bytes that were stored */
	RIG_MISSING, /* a miss or an error */
	RIG_DAMAGED, /* the tier took it, the image's own checks do not */
	RIG_WRONG,   /* the checks took it, and it is something else */
};

struct rig_block {
	bool stored;   /* the tier said so, and has not taken it back */
	bool synced;   /* a sync that began later succeeded */
	uint32_t size; /* class, 0 to RIG_SIZES - 1 */
	bool used;     /* to be kept when its segment is reclaimed */
	struct kvc_record record;
};

#define RIG_SIZES 4u

struct rig {
	char directory[KVC_TEMP_DIR_BYTES];
	struct kvc_disk_options options;
	struct kvc_io_options io_options;
	struct kvc_secret secret;
	bool striped;            /* several directories */
	bool no_checkpoint;      /* the owner does not describe its blocks */
	struct kvc_secret key;   /* of the disk, if options.key points to it */
	uint32_t incarnation[4]; /* of each tenant: blocks are theirs in turn */
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_engine *engine;
	struct kvc_io *io;
	struct kvc_tier *tier; /* NULL: not open */
	char detail[256];
	uint64_t generation;
	struct kvc_tier_note note;  /* to be kept */
	struct kvc_tier_note noted; /* what was kept, of the last recovery */
	uint32_t reclaimed;         /* events */
	uint32_t moved;             /* events */
	uint32_t recovered;         /* events */
	uint64_t recovered_epoch;   /* of the last one: must not fall */
	struct rig_block blocks[RIG_BLOCKS];
};

/* One request in flight, with a slab of its own. */
struct rig_request {
	struct rig *rig;
	struct kvc_tier_req req;
	uint32_t block;
	bool done;
};

/* Rigs made from now on are encrypted. Run a program's tests once plain and once so. */
extern bool rig_encrypted;
#define RIG_RUN_BOTH(tests)                           \
	(cmocka_run_group_tests(tests, NULL, NULL) || \
	 (rig_encrypted = true, cmocka_run_group_tests(tests, NULL, NULL)))

/* Fills in defaults: a directory of its own, 16 MiB in segments of 1 MiB. Frees nothing of the rig itself. */
void rig_init(struct rig *rig);
void rig_destroy(struct rig *rig);

/* Open the loop, I/O and the tier. */
kvc_status rig_open(struct rig *rig);

/* Recover what is there; blocks that are not reported are no longer `stored`. */
void rig_recover(struct rig *rig);

/* Open and recover, both of which must succeed. */
void rig_start(struct rig *rig);

/* Close the tier, if it is open, and all below it. */
void rig_stop(struct rig *rig);

/* Stop, and start by a scan of all records, whatever the checkpoint and the summaries say. */
void rig_restart_scanning(struct rig *rig);

/* Length of the image of a block of that size class, and of its record. */
uint64_t rig_image_bytes(uint32_t size);
uint64_t rig_record_bytes(uint32_t size);

/* Begin a request; rig_end waits for it, takes in what it means and frees it. */
struct rig_request *rig_store_begin(struct rig *rig, uint32_t block, uint32_t size);
struct rig_request *rig_load_begin(struct rig *rig, uint32_t block);
struct rig_request *rig_sync_begin(struct rig *rig);
kvc_status rig_end(struct rig_request *request);

/* The same at once. */
kvc_status rig_store(struct rig *rig, uint32_t block, uint32_t size);
kvc_status rig_sync(struct rig *rig);
enum rig_answer rig_load(struct rig *rig, uint32_t block);

/* As rig_end of a load, and a look at the bytes. */
enum rig_answer rig_load_end(struct rig_request *request);

/* Drop a block that is stored. */
/* Drop the tenant of blocks number % 4; what was stored of it is gone if that succeeds. */
kvc_status rig_drop_tenant(struct rig *rig, uint32_t number);
struct rig_request *rig_drop_tenant_begin(struct rig *rig, uint32_t number);

void rig_forget(struct rig *rig, uint32_t block);

int64_t rig_stat(struct rig *rig, const char *name);

/* Load every block that counts as stored. Each must be RIG_RIGHT, unless `faulty`, where RIG_MISSING and
 * RIG_DAMAGED are as good. Returns how many were right. */
uint32_t rig_check_all(struct rig *rig, bool faulty);

#endif
