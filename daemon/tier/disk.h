/* The disk tier: a directory of append-only segment files.
 *
 *   lock          OFD write lock of the process that uses the directory
 *   super         two alternating 4 KiB superblocks: format version, instance id, geometry, epoch counter
 *   secret        32 random bytes from which tenants' secrets derive (mode 0600)
 *   segments/N    4 KiB header (instance, number, epoch), then records, each at a multiple of 4 KiB;
 *                 in its last pages, once it is full, a summary of them
 *   checkpoint.N  two that alternate: what a start needs to know of all segments
 *   crashes       segments that made a start crash
 *   wear          what was written, in all and in a day
 *   keyring.N     two that alternate: incarnations and data keys of tenants
 *
 * Records go to the open segment in large writes, several records each. When no segment is free the oldest is
 * reclaimed: its blocks are forgotten first, then it gets a new epoch. A record counts as present only after
 * its write completed; as durable only after a sync that began later. Any read that does not match what is
 * expected is a miss. */
#ifndef KVC_DISK_H
#define KVC_DISK_H

#include "daemon/base/key.h"
#include "daemon/engine/engine.h"
#include "daemon/io/io.h"
#include "daemon/stats/stats.h"
#include "daemon/tier/tier.h"
#include "daemon/tier/wear.h"

#define KVC_DISKS_MAX 16u /* directories of one process */

struct kvc_disk_options {
	const char *directory;
	uint64_t bytes;               /* of all segments together */
	uint64_t segment_bytes;       /* 0: as it is, or 1/16 of `bytes`, 4 to 256 MiB (more above 1 TiB) */
	uint32_t write_bytes;         /* most bytes of one write request; 0: 4 MiB */
	uint64_t scrub_rate;          /* bytes a second that are checked in idle time; 0: none */
	uint64_t health_ms;           /* how often the drive's health is read (drive.h); 0: never */
	const char *health_file;      /* from there; NULL: from the drive itself */
	uint32_t number;              /* 0: the only one; else which of several, from 1: for its counters */
	const struct kvc_secret *key; /* the disk's key; NULL: nothing is encrypted. Borrowed for the open */
	struct kvc_engine *engine;    /* what encrypts and decrypts; needed with a key */
	const struct kvc_secret *secret; /* NULL: as the directory has it. else it must have this one, or
	                                  * starts empty with it */
	bool verify_on_start;            /* also check the tiles of every recovered record */
};

/* Open or create the directory (mode 0700), take its lock, read the superblock and the secret. On failure
 * `detail` says what to do. KVC_IN_USE: another process holds it. KVC_ACCESS, KVC_VERSION, KVC_NO_SPACE,
 * KVC_CORRUPT, KVC_INVALID (sizes), KVC_IO. KVC_ACCESS also: it is
 * encrypted, and there is no key or another one. Nothing is recovered yet: that is recover(). */
kvc_status kvc_disk_open(struct kvc_loop *loop, struct kvc_io *io, struct kvc_stats *stats,
                         const struct kvc_disk_options *options, char *detail, size_t detail_bytes,
                         struct kvc_tier **tier);

/* Let the directories, which were opened and not recovered, agree on the incarnations of tenants: the highest
 * holds, or the next one if who has that missed another one's drop. KVC_IO, KVC_NO_SPACE, KVC_NO_MEMORY: one
 * could not be told. */
kvc_status kvc_disk_agree(struct kvc_tier *const *tiers, uint32_t count);

/* Let go of a tier that was opened and never recovered, at once. */
void kvc_disk_abandon(struct kvc_tier *tier);

/* What was written to the directory in all its life, and in the last day. */
void kvc_disk_wear(const struct kvc_tier *tier, struct kvc_wear *wear);

/* Set the counters "disk.*" to the sums of several tiers'. */
void kvc_disk_stats_sum(struct kvc_tier *const *tiers, uint32_t count, struct kvc_stats *stats);

void kvc_disk_secret(const struct kvc_tier *tier, struct kvc_secret *secret);

#endif
