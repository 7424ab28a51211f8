/* The checkpoint of the index: for each segment what a start needs to know of the records that were wanted
 * when it was written. One of two files that are written in turn.
 *
 *   head: 32 pages: magic, version, checksum, whose it is, then a table: segment, epoch, where its section is
 *   sections: each a block as a segment's summary (summary.h), checksummed by itself
 *
 * The head goes out last, behind a sync. It is a hint as summaries are: it binds segments by their epoch, and
 * a record counts when it is read. Version 2: every record's tenant is in it. Pure functions. */
#ifndef KVC_CHECKPOINT_H
#define KVC_CHECKPOINT_H

#include <stdint.h>

#include "daemon/tier/segment.h"
#include "proto/kvc_status.h"

#define KVC_CHECKPOINT_FILES        2u
#define KVC_CHECKPOINT_HEAD_PAGES   32u
#define KVC_CHECKPOINT_SECTIONS_MAX 5120u

struct kvc_checkpoint {
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint64_t sequence; /* of two files the higher one is in force */
	uint64_t segment_bytes;
	uint64_t generation; /* no record's is above */
	uint32_t count;      /* sections */
};

struct kvc_checkpoint_section {
	uint64_t epoch;
	uint32_t number; /* of the segment */
	uint32_t page;   /* in the file */
	uint32_t pages;
};

/* Note section i in a head that is being made. */
void kvc_checkpoint_put(uint8_t *head, uint32_t i, const struct kvc_checkpoint_section *section);

/* Close a head of KVC_CHECKPOINT_HEAD_PAGES pages. */
void kvc_checkpoint_seal(uint8_t *head, const struct kvc_checkpoint *checkpoint);

/* Check a head. KVC_MISS: there is none. KVC_VERSION: a sound one of a version that is not known.
 * KVC_CORRUPT. */
kvc_status kvc_checkpoint_open(const uint8_t *head, struct kvc_checkpoint *checkpoint);

/* Section i < count of a head that was checked. */
void kvc_checkpoint_get(const uint8_t *head, uint32_t i, struct kvc_checkpoint_section *section);

#endif
