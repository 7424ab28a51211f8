/* The summary of a segment: what a start needs to know of each of its records, so that it need not read them.
 *
 *   rows (108 bytes each, in page order), zeros, and in the last bytes of the last page a footer: magic,
 *   version, checksum of all of it, and whose summary it is (instance, segment, epoch)
 *
 * It ends where the segment ends, so that it is found from there. It is a hint: a record counts when it is
 * read and matches. The same block, elsewhere, is a section of the checkpoint. Pure functions. */
#ifndef KVC_SUMMARY_H
#define KVC_SUMMARY_H

#include <stdint.h>

#include "daemon/tier/record.h"
#include "daemon/tier/segment.h"
#include "proto/kvc_status.h"

#define KVC_SUMMARY_ROW_BYTES    108u
#define KVC_SUMMARY_FOOTER_BYTES 128u

/* A summary that was checked. Borrows the bytes. */
struct kvc_summary {
	struct kvc_segment_header segment;
	uint32_t count;
	uint32_t end_page;   /* where the records end */
	uint64_t generation; /* no record's is above */
	const uint8_t *rows;
};

/* Pages of a summary of so many records. */
uint32_t kvc_summary_pages(uint32_t count);

/* Records that so many pages hold. */
uint32_t kvc_summary_capacity(uint32_t pages);

/* Row i of a summary that is being made. */
void kvc_summary_put(uint8_t *bytes, uint32_t i, const struct kvc_record *record);

/* Close a summary of `count` rows, which has kvc_summary_pages(count) pages. Its segment's records end at
 * end_page. */
void kvc_summary_seal(uint8_t *bytes, const struct kvc_segment_header *segment, uint32_t count,
                      uint32_t end_page, uint64_t generation);

/* How many pages the summary has that ends with this page. KVC_MISS: none of this epoch ends here.
 * KVC_CORRUPT: it cannot be one. Nothing else is known of it yet. */
kvc_status kvc_summary_probe(const struct kvc_segment_header *segment, const uint8_t last[KVC_PAGE_BYTES],
                             uint32_t *pages);

/* Check all of a summary: checksum, whose it is, and that its records are possible and do not overlap.
 * KVC_MISS: of another epoch. KVC_CORRUPT. */
kvc_status kvc_summary_open(const struct kvc_segment_header *segment, const uint8_t *bytes, uint32_t pages,
                            struct kvc_summary *summary);

void kvc_summary_get(const struct kvc_summary *summary, uint32_t i, struct kvc_record *record);

#endif
