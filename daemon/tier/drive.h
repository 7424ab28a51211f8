/* The health of the drive below a directory: read from its SMART log, or from a file that somebody else keeps
 * up to date, and judged.
 *
 * A file has one value a line, `name number`; blank lines and what follows a '#' do not count:
 *
 *   percentage_used 12            of the drive's rated life, may exceed 100
 *   critical_warning 0            the bits of NVMe's SMART log
 *   media_errors 0                that the drive could not correct, in all its life
 *   available_spare 100           percent
 *   available_spare_threshold 10  percent
 *
 * percentage_used must be there, the others count as 0 if they are not. */
#ifndef KVC_DRIVE_H
#define KVC_DRIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/kvc_status.h"

#define KVC_DRIVE_SMART_BYTES 512u
#define KVC_DRIVE_FILE_BYTES  4096u
#define KVC_DRIVE_NAME_BYTES  64u
#define KVC_DRIVES_MAX        16u
#define KVC_DRIVE_WORN        95u                   /* percent of the rated life */
#define KVC_DRIVE_QUIET_MS    (24ull * 3600 * 1000) /* without another media error */

struct kvc_drive_reading {
	uint32_t percentage_used;
	uint32_t critical_warning;
	uint64_t media_errors;
	uint32_t spare;
	uint32_t spare_threshold;
};

/* Log page 02h, as NVM Express Base Specification 2.0, figure 207, has it. */
void kvc_drive_decode_smart(const uint8_t page[KVC_DRIVE_SMART_BYTES], struct kvc_drive_reading *reading);

/* `text` ends with 0. KVC_INVALID: `why` (of why_bytes) names the line. *reading is written on KVC_OK only.
 */
kvc_status kvc_drive_parse(const char *text, struct kvc_drive_reading *reading, char *why, size_t why_bytes);

/* Of several drives below one directory: the worst of each. */
void kvc_drive_worst(struct kvc_drive_reading *all, const struct kvc_drive_reading *one);

/* What was read before. Zero-initialised: nothing. */
struct kvc_drive_history {
	bool known;
	uint64_t media_errors;
	bool rose;
	uint64_t rose_ms;
};

/* Why nothing should be written to it any more; NULL: it is well. Media errors count when there are more of
 * them than in the reading before, until KVC_DRIVE_QUIET_MS have passed without another one. */
const char *kvc_drive_judge(struct kvc_drive_history *history, const struct kvc_drive_reading *reading,
                            uint64_t now_ms);

/* The whole drives that a device number stands for, by the tree below `sys` ("/sys"): partitions and mapped
 * devices are followed down. Returns how many names were written; 0: not known. */
uint32_t kvc_drive_find(const char *sys, dev_t device, char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES]);

/* Read the health of the drives below `directory`: from a file, or, with `file` NULL, from themselves.
 * Blocks. On failure `why` says what is in the way: KVC_UNSUPPORTED (no NVMe drive), KVC_ACCESS, KVC_MISS,
 * KVC_INVALID (the file), KVC_IO. */
kvc_status kvc_drive_read(const char *directory, const char *file, struct kvc_drive_reading *reading,
                          char *why, size_t why_bytes);

#endif
