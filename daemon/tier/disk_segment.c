/* The life of a segment:
 *
 *                        prepare                    gather          full
 *   FREE ------> PREPARING ------> READY ------> OPEN ------> SEALED
 *    ^  ^  <------- failed |                       | \          | |
 *    |  |                                    error |  `---.     | | reclaimed, or nothing
 *    |  |                                          v      error | | in it is wanted
 *    |  `---- no loads in flight -- RECLAIMING <- RETIRED <-----' |
 *    |                                   ^------------------------'
 *    `-- SCANNING (start) --> SEALED
 *
 * A segment owns the list of its records: place and cookie, in page order. live_* count those that the owner
 * has neither forgotten nor lost. */
#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum { ENTRIES_AT_FIRST = 16 };

static void states_count(struct kvc_disk *disk, enum disk_segment_state state, int64_t n)
{
	if (state == DISK_FREE)
		kvc_stat_add(disk->count.free_segments, n);
	else if (state == DISK_RETIRED)
		kvc_stat_add(disk->count.retired_segments, n);
}

void kvc_disk_segment_move(struct disk_segment *segment, enum disk_segment_state to)
{
	static const uint32_t moves[DISK_SEGMENT_STATES] = {
	        [DISK_FREE] = 1u << DISK_PREPARING | 1u << DISK_SCANNING,
	        [DISK_PREPARING] = 1u << DISK_READY | 1u << DISK_FREE,
	        [DISK_READY] = 1u << DISK_OPEN,
	        [DISK_OPEN] = 1u << DISK_SEALED | 1u << DISK_RETIRED,
	        [DISK_SEALED] = 1u << DISK_RETIRED | 1u << DISK_RECLAIMING,
	        [DISK_RETIRED] = 1u << DISK_RECLAIMING,
	        [DISK_RECLAIMING] = 1u << DISK_FREE,
	        [DISK_SCANNING] = 1u << DISK_SEALED | 1u << DISK_FREE,
	};

	KVC_INVARIANT(moves[segment->state] & 1u << to);
	states_count(segment->disk, segment->state, -1);
	segment->state = to;
	states_count(segment->disk, to, 1);
}

static void live_add(struct disk_segment *segment, int64_t bytes, int64_t records)
{
	struct kvc_disk *disk = segment->disk;

	segment->live_bytes += (uint64_t)bytes;
	segment->live_records += (uint32_t)records;
	kvc_stat_add(disk->count.used_bytes, bytes);
	kvc_stat_add(disk->count.records, records);
}

static void live_clear(struct disk_segment *segment)
{
	live_add(segment, -(int64_t)segment->live_bytes, -(int64_t)segment->live_records);
}

void kvc_disk_segment_reset(struct disk_segment *segment, uint64_t epoch)
{
	KVC_PRE(!segment->loads && !segment->writes && !segment->live_records);
	segment->epoch = epoch;
	segment->end_page = 1; /* behind the header */
	segment->synced_page = 1;
	segment->syncing_page = 1;
	segment->lost_page = DISK_NO_PAGE;
	segment->entry_count = 0;
	segment->kept = false;
}

/* --- records -------------------------------------------------------------------------------------- */

static kvc_status entries_ready(struct disk_segment *segment)
{
	uint32_t capacity = segment->entry_capacity ? 2 * segment->entry_capacity : ENTRIES_AT_FIRST;
	struct disk_entry *grown;

	if (segment->entry_count < segment->entry_capacity)
		return KVC_OK;
	grown = kvc_realloc(segment->entries, capacity, sizeof *grown);
	if (!grown)
		return KVC_NO_MEMORY;
	segment->entries = grown;
	segment->entry_capacity = capacity;
	return KVC_OK;
}

kvc_status kvc_disk_segment_append(struct disk_segment *segment, uint32_t cookie, uint32_t pages)
{
	struct kvc_disk *disk = segment->disk;

	KVC_PRE(segment->state == DISK_OPEN || segment->state == DISK_SCANNING);
	KVC_PRE(pages > 0 && pages <= disk->segment_pages - segment->end_page);
	if (entries_ready(segment))
		return KVC_NO_MEMORY;
	segment->entries[segment->entry_count++] =
	        (struct disk_entry){.cookie = cookie, .page = segment->end_page & (DISK_PAGES_MAX - 1)};
	segment->end_page += pages;
	if (kvc_list_empty(&segment->dirty))
		kvc_list_push(&disk->sync.dirty, &segment->dirty);
	if (cookie != DISK_NO_COOKIE)
		live_add(segment, (int64_t)pages * KVC_PAGE_BYTES, 1);
	return KVC_OK;
}

void kvc_disk_segment_adopt(struct disk_segment *segment, uint32_t cookie)
{
	struct disk_entry *last = &segment->entries[segment->entry_count - 1];

	KVC_PRE(segment->entry_count > 0 && last->cookie == DISK_NO_COOKIE && cookie != DISK_NO_COOKIE);
	last->cookie = cookie;
	live_add(segment, (int64_t)(segment->end_page - last->page) * KVC_PAGE_BYTES, 1);
}

void kvc_disk_segment_trim(struct disk_segment *segment)
{
	struct disk_entry *trimmed;

	if (segment->entry_count == segment->entry_capacity || !segment->entry_count)
		return;
	trimmed = kvc_realloc(segment->entries, segment->entry_count, sizeof *trimmed);
	if (!trimmed)
		return; /* they stay where they are */
	segment->entries = trimmed;
	segment->entry_capacity = segment->entry_count;
}

static uint32_t entry_pages(const struct disk_segment *segment, uint32_t i)
{
	uint32_t end = i + 1 < segment->entry_count ? segment->entries[i + 1].page : segment->end_page;

	return end - segment->entries[i].page;
}

/* Tell the owner, for the last time. */
static void entry_give_up(struct disk_segment *segment, uint32_t i)
{
	struct kvc_disk *disk = segment->disk;
	struct kvc_place place = {segment->number, segment->entries[i].page};
	uint32_t cookie = segment->entries[i].cookie;

	if (cookie == DISK_NO_COOKIE)
		return;
	segment->entries[i].cookie = DISK_NO_COOKIE;
	disk->events.reclaimed(disk->events.context, cookie, place);
}

/* The first entry from a page on, or entry_count. */
static uint32_t entry_from(const struct disk_segment *segment, uint32_t page)
{
	uint32_t low = 0, high = segment->entry_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (segment->entries[middle].page < page)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* --- ends ----------------------------------------------------------------------------------------- */

void kvc_disk_seal(struct kvc_disk *disk)
{
	struct disk_segment *segment = disk->open;

	disk->open = NULL;
	kvc_disk_segment_move(segment, DISK_SEALED);
	kvc_disk_segment_trim(segment);
	kvc_disk_summary_progress(segment);
	kvc_disk_segment_settle(segment);
	kvc_disk_checkpoint_sealed(disk);
}

/* Declare lost what lies from a page on. The owner may forget other records meanwhile, which can empty the
 * segment: hence the look at entry_count each time. */
static void lose(struct disk_segment *segment, uint32_t page)
{
	struct kvc_disk *disk = segment->disk;
	uint32_t first = entry_from(segment, page);

	disk->sync.losses++;
	if (page >= segment->lost_page)
		return;
	segment->lost_page = page;
	for (uint32_t i = first; i < segment->entry_count; i++) {
		if (segment->entries[i].cookie == DISK_NO_COOKIE)
			continue;
		live_add(segment, -(int64_t)entry_pages(segment, i) * KVC_PAGE_BYTES, -1);
		kvc_stat_add(disk->count.lost, 1);
	}
	kvc_disk_dirty_update(segment);
	for (uint32_t i = first; i < segment->entry_count; i++)
		entry_give_up(segment, i);
}

void kvc_disk_retire(struct disk_segment *segment, uint32_t page)
{
	struct kvc_disk *disk = segment->disk;

	if (segment == disk->open)
		disk->open = NULL;
	if (segment->state == DISK_OPEN || segment->state == DISK_SEALED) {
		kvc_warn("disk tier: segment %u is retired, its records from page %u on are lost",
		         segment->number, page);
		segment->failures++;
		kvc_disk_segment_move(segment, DISK_RETIRED);
		kvc_disk_summary_drop(segment);
	}
	lose(segment, page);
}

/* The last load has let go, or there was none. */
static void reclaim_end(struct disk_segment *segment)
{
	if (segment->state != DISK_RECLAIMING || segment->loads || segment->writes || segment->sync_busy)
		return;
	kvc_disk_summary_drop(segment);
	kvc_free(segment->entries);
	segment->entries = NULL;
	segment->entry_capacity = 0;
	kvc_disk_segment_reset(segment, 0);
	kvc_disk_segment_move(segment, DISK_FREE);
}

void kvc_disk_reclaim(struct disk_segment *segment)
{
	struct kvc_disk *disk = segment->disk;

	KVC_PRE(!segment->writes);
	kvc_disk_segment_move(segment, DISK_RECLAIMING);
	kvc_stat_add(disk->count.reclaimed, segment->live_records);
	live_clear(segment);
	segment->left_epoch = segment->epoch;
	segment->epoch = 0; /* no load finds it any more */
	kvc_list_remove(&segment->dirty);
	for (uint32_t i = 0; i < segment->entry_count; i++)
		entry_give_up(segment, i);
	reclaim_end(segment);
}

void kvc_disk_segment_settle(struct disk_segment *segment)
{
	bool closed = segment->state == DISK_SEALED || segment->state == DISK_RETIRED;

	if (closed && !segment->live_records && !segment->writes)
		kvc_disk_reclaim(segment);
	else
		reclaim_end(segment);
}

/* --- forgetting ----------------------------------------------------------------------------------- */

struct disk_segment *kvc_disk_holder(const struct kvc_disk *disk, const struct kvc_record *record)
{
	struct disk_segment *segment;

	if (record->place.segment >= disk->segment_count)
		return NULL;
	segment = &disk->segments[record->place.segment];
	if (!segment->epoch || (uint32_t)segment->epoch != (uint32_t)record->epoch ||
	    record->place.page >= segment->end_page || record->place.page >= segment->lost_page)
		return NULL;
	return segment;
}

bool kvc_disk_entry_next(const struct disk_segment *segment, uint32_t from, uint32_t *page, uint32_t *pages)
{
	uint32_t i = entry_from(segment, from);

	while (i < segment->entry_count && segment->entries[i].cookie == DISK_NO_COOKIE)
		i++;
	if (i == segment->entry_count)
		return false;
	*page = segment->entries[i].page;
	*pages = entry_pages(segment, i);
	return true;
}

void kvc_disk_entry_lose(struct disk_segment *segment, uint32_t page)
{
	uint32_t i = entry_from(segment, page);

	if (i == segment->entry_count || segment->entries[i].page != page ||
	    segment->entries[i].cookie == DISK_NO_COOKIE)
		return;
	live_add(segment, -(int64_t)entry_pages(segment, i) * KVC_PAGE_BYTES, -1);
	kvc_stat_add(segment->disk->count.lost, 1);
	entry_give_up(segment, i);
}

void kvc_disk_forget(struct kvc_disk *disk, const struct kvc_record *record)
{
	struct disk_segment *segment = kvc_disk_holder(disk, record);
	uint32_t i;

	if (!segment)
		return; /* given up already */
	i = entry_from(segment, record->place.page);
	if (i == segment->entry_count || segment->entries[i].page != record->place.page ||
	    segment->entries[i].cookie == DISK_NO_COOKIE)
		return;
	segment->entries[i].cookie = DISK_NO_COOKIE;
	live_add(segment, -(int64_t)entry_pages(segment, i) * KVC_PAGE_BYTES, -1);
	kvc_disk_segment_settle(segment);
}
