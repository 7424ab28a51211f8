/* The scrubber: reads what rests on disk, a record at a time and at most so many bytes a second, and checks
 * every tile. What is bad twice in a row is forgotten and its owner told, before someone asks for it.
 *
 *   timer --> nothing else to do? --> read --> check --> timer
 *                `-- later                `-- bad: read again --> bad: lost
 *
 * It goes through the segments by number, and begins again. It yields to loads and writes, but not for ever.
 */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"
#include "kernels/image.h"

enum {
	YIELD_MS = 20,
	YIELDS_MAX = 50,    /* in a row */
	PASS_MIN_MS = 1000, /* from one beginning to the next, however little there is */
};

static void timer_start(struct kvc_disk *disk, uint64_t delay_ms)
{
	/* The timer that fired last has left its slot; without memory the scrubber rests until a restart. */
	if (disk->state == DISK_ON && kvc_timer_start(disk->loop, &disk->scrub.timer, delay_ms) != KVC_OK)
		kvc_warn("disk tier: no memory for the scrubber's timer");
}

/* --- one record ----------------------------------------------------------------------------------- */

static void record_read(struct kvc_disk *disk);

/* Whether what was read is a record of that place, of just that length. */
static bool record_belongs(const struct disk_scrub *scrub, struct kvc_record *record)
{
	struct kvc_segment_header header;

	kvc_disk_segment_header(scrub->segment, &header);
	return kvc_segment_accept(&header, scrub->page, scrub->buffer, record) == KVC_OK &&
	       kvc_record_bytes(record->image_bytes) == scrub->iov_bytes;
}

static bool record_sound(const struct disk_scrub *scrub)
{
	struct kvc_record record;
	struct kvc_image image;

	return record_belongs(scrub, &record) &&
	       kvc_image_open(scrub->buffer + KVC_RECORD_HEADER_BYTES, record.image_bytes, 0, &image) ==
	               KVC_OK &&
	       kvc_image_verify(&image) == KVC_OK;
}

static void record_end(struct kvc_disk *disk)
{
	struct disk_scrub *scrub = &disk->scrub;
	struct disk_segment *segment = scrub->segment;

	scrub->busy = false;
	scrub->segment = NULL;
	segment->loads--;
	kvc_disk_segment_settle(segment);
	timer_start(disk, scrub->iov_bytes * 1000 / scrub->rate + 1);
	kvc_disk_progress(disk);
}

static void record_bad(struct kvc_disk *disk)
{
	struct disk_scrub *scrub = &disk->scrub;

	kvc_warn("disk tier: the record at page %u of segment %u rests damaged: forgotten", scrub->page,
	         scrub->segment->number);
	kvc_stat_add(disk->count.scrub_bad, 1);
	kvc_stat_add(disk->count.corrupt, 1);
	kvc_disk_entry_lose(scrub->segment, scrub->page);
}

/* status: of reading and decrypting it. */
static void record_judge(struct kvc_disk *disk, kvc_status status)
{
	struct disk_scrub *scrub = &disk->scrub;
	bool here = scrub->segment->epoch == scrub->epoch; /* not reclaimed meanwhile */

	if (here && (status != KVC_OK || !record_sound(scrub))) {
		if (!scrub->again) {
			scrub->again = true;
			record_read(disk);
			return;
		}
		record_bad(disk);
	}
	kvc_stat_add(disk->count.scrub_records, 1);
	record_end(disk);
}

/* A record whose key is gone, or for whose decryption there is no memory, is not damaged. */
void kvc_disk_scrub_decrypted(struct disk_decrypt *decrypt, kvc_status status)
{
	struct kvc_disk *disk = decrypt->disk;

	if (status == KVC_OK || status == KVC_CORRUPT)
		record_judge(disk, status);
	else
		record_end(disk);
}

static void read_done(struct kvc_io_req *io)
{
	struct disk_scrub *scrub = kvc_container_of(io, struct disk_scrub, io);
	struct kvc_disk *disk = kvc_container_of(scrub, struct kvc_disk, scrub);
	kvc_status status = io->status == KVC_MISS ? KVC_CORRUPT : io->status; /* the file is cut */
	struct kvc_record record;

	kvc_stat_add(disk->count.scrub_bytes, (int64_t)io->transferred);
	if (status != KVC_OK && status != KVC_CORRUPT) {
		kvc_disk_read_failed(disk, io->error);
		record_end(disk);
		return;
	}
	if (status == KVC_OK &&
	    !record_belongs(scrub, &record)) /* what a lost write left, of whatever length */
		status = KVC_CORRUPT;
	if (status != KVC_OK || !kvc_disk_decrypt(&scrub->decrypt, scrub->buffer, scrub->iov_bytes, &status))
		kvc_disk_scrub_decrypted(&scrub->decrypt, status);
}

static void record_read(struct kvc_disk *disk)
{
	struct disk_scrub *scrub = &disk->scrub;

	scrub->iov = (struct iovec){.iov_base = scrub->buffer, .iov_len = scrub->iov_bytes};
	scrub->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = &scrub->segment->file,
	        .offset = (uint64_t)scrub->page * KVC_PAGE_BYTES,
	        .iov = &scrub->iov,
	        .iov_count = 1,
	        .done = read_done,
	};
	kvc_io_submit(disk->io, &scrub->io);
}

static bool buffer_room(struct disk_scrub *scrub, uint64_t bytes)
{
	if (bytes <= scrub->buffer_bytes)
		return true;
	free(scrub->buffer);
	scrub->buffer = aligned_alloc(KVC_IO_ALIGN, bytes);
	scrub->buffer_bytes = scrub->buffer ? bytes : 0;
	return scrub->buffer;
}

/* --- which ---------------------------------------------------------------------------------------- */

static bool resting(const struct disk_segment *segment)
{
	return (segment->state == DISK_SEALED || segment->state == DISK_RETIRED) && segment->live_records &&
	       !segment->writes;
}

/* The next record that somebody wants; false: the last one was seen. */
static bool record_next(struct kvc_disk *disk, struct disk_segment **segment, uint32_t *page, uint32_t *pages)
{
	struct disk_scrub *scrub = &disk->scrub;

	for (; scrub->next < disk->segment_count; scrub->next++, scrub->next_page = 0) {
		*segment = &disk->segments[scrub->next];
		if (resting(*segment) && kvc_disk_entry_next(*segment, scrub->next_page, page, pages)) {
			scrub->next_page = *page + *pages;
			return true;
		}
	}
	return false;
}

static bool others_wait(const struct kvc_disk *disk)
{
	return !kvc_list_empty(&disk->loads.busy) || !kvc_list_empty(&disk->loads.waiting) ||
	       !kvc_list_empty(&disk->writes.busy) || !kvc_list_empty(&disk->stores);
}

static void pass_end(struct kvc_disk *disk)
{
	struct disk_scrub *scrub = &disk->scrub;

	kvc_stat_add(disk->count.scrub_passes, 1);
	scrub->next = scrub->next_page = 0;
	timer_start(disk, PASS_MIN_MS);
}

static void scrub_fired(struct kvc_timer *timer)
{
	struct disk_scrub *scrub = kvc_container_of(timer, struct disk_scrub, timer);
	struct kvc_disk *disk = kvc_container_of(scrub, struct kvc_disk, scrub);
	struct disk_segment *segment;
	uint32_t page, pages;

	KVC_INVARIANT(!scrub->busy);
	if (disk->reading.off || (others_wait(disk) && scrub->yields++ < YIELDS_MAX)) {
		timer_start(disk, YIELD_MS);
		return;
	}
	scrub->yields = 0;
	if (!record_next(disk, &segment, &page, &pages)) {
		pass_end(disk);
		return;
	}
	scrub->iov_bytes = (uint64_t)pages * KVC_PAGE_BYTES;
	if (!buffer_room(scrub, scrub->iov_bytes)) {
		timer_start(disk, PASS_MIN_MS);
		return;
	}
	scrub->segment = segment;
	scrub->epoch = segment->epoch;
	scrub->page = page;
	scrub->again = false;
	scrub->busy = true;
	segment->loads++;
	record_read(disk);
}

void kvc_disk_scrub_start(struct kvc_disk *disk)
{
	disk->scrub.timer.fire = scrub_fired;
	if (disk->scrub.rate)
		timer_start(disk, PASS_MIN_MS);
}

void kvc_disk_scrub_stop(struct kvc_disk *disk)
{
	kvc_timer_stop(&disk->scrub.timer);
}
