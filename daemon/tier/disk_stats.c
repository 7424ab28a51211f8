/* The counters of a disk tier: "disk.NAME" of one that is alone, "diskN.NAME" of the N-th of several. */
#include <stdio.h>

#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"

#define CELL(member, text)                                    \
	{                                                     \
		offsetof(struct kvc_disk, count.member), text \
	}

static const struct {
	size_t offset; /* of a kvc_stat_cell * in struct kvc_disk */
	const char *name;
} cells[] = {
        CELL(used_bytes, "used_bytes"),
        CELL(records, "records"),
        CELL(segments, "segments"),
        CELL(free_segments, "free_segments"),
        CELL(retired_segments, "retired_segments"),
        CELL(stores, "stores"),
        CELL(writes, "writes"),
        CELL(write_bytes, "write_bytes"),
        CELL(loads, "loads"),
        CELL(reads, "reads"),
        CELL(read_bytes, "read_bytes"),
        CELL(syncs, "syncs"),
        CELL(errors, "errors"),
        CELL(read_errors, "read_errors"),
        CELL(write_errors, "write_errors"),
        CELL(sync_errors, "sync_errors"),
        CELL(no_space, "no_space"),
        CELL(crowded, "recycled_for_space"),
        CELL(corrupt, "corrupt"),
        CELL(missing, "missing"),
        CELL(reclaimed, "reclaimed_records"),
        CELL(lost, "lost_records"),
        CELL(recovered, "recovered_records"),
        CELL(damaged, "damaged_segments"),
        CELL(offs, "offs"),
        CELL(stalls, "stalls"),
        CELL(writable, "writable"),
        CELL(direct, "direct"),
        CELL(summaries, "summaries"),
        CELL(summary_bytes, "summary_bytes"),
        CELL(bad_summaries, "bad_summaries"),
        CELL(checkpoints, "checkpoints"),
        CELL(checkpoint_bytes, "checkpoint_bytes"),
        CELL(checkpoint_errors, "checkpoint_errors"),
        CELL(bad_checkpoints, "bad_checkpoints"),
        CELL(wear_total, "written_total_bytes"),
        CELL(wear_day, "written_day_bytes"),
        CELL(wear_age, "on_seconds"),
        CELL(drive_known, "drive_known"),
        CELL(drive_failing, "drive_failing"),
        CELL(drive_used, "drive_used_percent"),
        CELL(drive_warning, "drive_critical_warning"),
        CELL(drive_media, "drive_media_errors"),
        CELL(scrub_bytes, "scrub_bytes"),
        CELL(scrub_records, "scrub_records"),
        CELL(scrub_passes, "scrub_passes"),
        CELL(scrub_bad, "scrub_bad_records"),
        CELL(aside, "segments_aside"),
        CELL(kept, "kept_records"),
        CELL(kept_bytes, "kept_bytes"),
        CELL(by_checkpoint, "recovered_by_checkpoint"),
        CELL(by_summary, "recovered_by_summary"),
        CELL(by_scan, "recovered_by_scan"),
        CELL(encrypted, "encrypted"),
        CELL(keyring_updates, "keyring_updates"),
        CELL(keyring_errors, "keyring_errors"),
        CELL(forgotten, "forgotten_records"),
        CELL(bytes, "bytes"),
        CELL(segment_bytes, "segment_bytes"),
};

enum { CELLS = sizeof cells / sizeof cells[0], NAME_BYTES = 40 };

/* Names must outlive the tier. Row 0: of a tier that is alone, and of the sums. */
static char names[1 + KVC_DISKS_MAX][CELLS][NAME_BYTES];

static const char *name_of(uint32_t number, unsigned i)
{
	char *name = names[number][i];

	KVC_PRE(number <= KVC_DISKS_MAX);
	if (number)
		snprintf(name, NAME_BYTES, "disk%u.%s", number, cells[i].name);
	else
		snprintf(name, NAME_BYTES, "disk.%s", cells[i].name);
	return name;
}

static kvc_stat_cell **cell_of(struct kvc_disk *disk, unsigned i)
{
	return (kvc_stat_cell **)(void *)((char *)disk + cells[i].offset);
}

void kvc_disk_stats_open(struct kvc_disk *disk, struct kvc_stats *stats, uint32_t number)
{
	for (unsigned i = 0; i < CELLS; i++)
		*cell_of(disk, i) = kvc_stats_cell(stats, name_of(number, i));
}

void kvc_disk_stats_set(struct kvc_disk *disk)
{
	kvc_stat_set(disk->count.bytes, (int64_t)(disk->super.segment_bytes * disk->segment_count));
	kvc_stat_set(disk->count.segment_bytes, (int64_t)disk->super.segment_bytes);
	kvc_stat_set(disk->count.segments, disk->segment_count);
	kvc_stat_set(disk->count.free_segments, disk->segment_count);
	kvc_stat_set(disk->count.direct, disk->super_file.direct);
}

void kvc_disk_stats_sum(struct kvc_tier *const *tiers, uint32_t count, struct kvc_stats *stats)
{
	for (unsigned i = 0; i < CELLS; i++) {
		int64_t sum = 0;

		for (uint32_t n = 0; n < count; n++)
			sum += kvc_stat_get(*cell_of(disk_of(tiers[n]), i));
		kvc_stat_set(kvc_stats_cell(stats, name_of(0, i)), sum);
	}
}
