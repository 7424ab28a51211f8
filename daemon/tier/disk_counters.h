/* The counters and gauges of a disk tier. disk_stats.c names them. */
#ifndef KVC_DISK_COUNTERS_H
#define KVC_DISK_COUNTERS_H

#include <stdint.h>

#include "daemon/stats/stats.h"

struct kvc_disk;

struct disk_counters {
	kvc_stat_cell *bytes, *segment_bytes, *used_bytes, *records, *segments, *free_segments,
	        *retired_segments;
	kvc_stat_cell *stores, *writes, *write_bytes, *loads, *reads, *read_bytes, *syncs;
	kvc_stat_cell *errors, *read_errors, *write_errors, *sync_errors, *no_space, *crowded, *corrupt,
	        *missing;
	kvc_stat_cell *reclaimed, *lost, *recovered, *damaged, *offs, *stalls, *writable, *direct;
	kvc_stat_cell *summaries, *summary_bytes, *bad_summaries, *checkpoints, *checkpoint_bytes,
	        *checkpoint_errors, *bad_checkpoints, *kept, *kept_bytes, *aside;
	kvc_stat_cell *scrub_bytes, *scrub_records, *scrub_passes, *scrub_bad;
	kvc_stat_cell *wear_total, *wear_day, *wear_age;
	kvc_stat_cell *drive_known, *drive_failing, *drive_used, *drive_warning, *drive_media;
	kvc_stat_cell *by_checkpoint, *by_summary, *by_scan;
	kvc_stat_cell *encrypted, *keyring_updates, *keyring_errors, *forgotten;
};

/* --- disk_stats.c --- */

/* number: as in the options. */
void kvc_disk_stats_open(struct kvc_disk *disk, struct kvc_stats *stats, uint32_t number);
void kvc_disk_stats_set(struct kvc_disk *disk);

#endif
