/* The other two things at rest in a disk tier's directory: the superblock and the header of a segment. Each
 * is one page, little-endian, checksummed. Pure functions.
 *
 * Frozen for all versions: magic, version and checksum stand where they stand, so that a newer format is told
 * from a damaged page. */
#ifndef KVC_SEGMENT_H
#define KVC_SEGMENT_H

#include <stdint.h>

#include "daemon/tier/record.h"
#include "proto/kvc_status.h"

#define KVC_PAGE_BYTES     4096u
#define KVC_INSTANCE_BYTES 16u
#define KVC_SUPER_SLOTS    2u

#define KVC_EPOCH_MAX (UINT64_MAX / 4) /* of a segment's header; above, counting could not go on for long */

#define KVC_SUPER_WITH_KEYRING 3u /* from this version on a directory has one */

struct kvc_super {
	uint8_t instance[KVC_INSTANCE_BYTES]; /* random, made with the directory */
	uint64_t sequence;                    /* of two slots the higher one is in force */
	uint64_t segment_bytes;
	uint64_t epoch_limit; /* no epoch from here on has been used */
	uint32_t version;     /* decoded: of the directory's format */
};

void kvc_super_encode(const struct kvc_super *super, uint8_t page[KVC_PAGE_BYTES]);

/* The newest of both slots. KVC_VERSION: one is of a newer format. KVC_CORRUPT: none is sound. */
kvc_status kvc_super_decode(const uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES], struct kvc_super *super);

/* The slot that a superblock of that sequence number belongs in. */
uint32_t kvc_super_slot(uint64_t sequence);

struct kvc_segment_header {
	uint8_t instance[KVC_INSTANCE_BYTES];
	uint32_t number;
	uint64_t epoch;
	uint64_t segment_bytes;
};

void kvc_segment_header_encode(const struct kvc_segment_header *header, uint8_t page[KVC_PAGE_BYTES]);

/* KVC_CORRUPT: no sound header, or one of another version. An epoch that was read is 1 to KVC_EPOCH_MAX. */
kvc_status kvc_segment_header_decode(const uint8_t page[KVC_PAGE_BYTES], struct kvc_segment_header *header);

/* Whether the record that begins at `bytes` (a page of them), which is page `page` of the segment, belongs to
 * the segment as its header says. KVC_MISS: nothing of this epoch begins here: the log ends. KVC_CORRUPT:
 * something did, and it is damaged or astray: the log cannot be followed further. */
kvc_status kvc_segment_accept(const struct kvc_segment_header *header, uint32_t page,
                              const uint8_t bytes[KVC_PAGE_BYTES], struct kvc_record *record);

#endif
