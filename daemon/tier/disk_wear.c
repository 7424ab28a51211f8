/* Keeping count of what the tier writes (wear.h), and the owner's note beside it, over restarts: put down
 * once a minute while something is written, after every GiB, and at the stop. A crash loses what came after.
 * It is never synced: the kernel may lose some more if the machine fails. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum { NOTE_MS = 60000 };

#define NOTE_BYTES (1ull << 30)

static void account(struct kvc_disk *disk, uint64_t bytes)
{
	struct disk_wear *wear = &disk->wear;
	uint64_t now_ms = kvc_loop_now_ms(disk->loop);

	kvc_wear_add(&wear->wear, now_ms - wear->since_ms, bytes);
	wear->since_ms = now_ms;
	kvc_stat_set(disk->count.wear_total, (int64_t)wear->wear.total_bytes);
	kvc_stat_set(disk->count.wear_day, (int64_t)kvc_wear_day_bytes(&wear->wear));
	kvc_stat_set(disk->count.wear_age, (int64_t)(wear->wear.age_ms / 1000));
}

static void note_done(struct kvc_io_req *io)
{
	struct disk_wear *wear = kvc_container_of(io, struct disk_wear, io);
	struct kvc_disk *disk = kvc_container_of(wear, struct kvc_disk, wear);

	wear->busy = false;
	if (io->status != KVC_OK)
		kvc_debug("disk tier: what was written cannot be noted: %s", kvc_status_text(io->status));
	kvc_disk_progress(disk);
}

/* Something was written since, or it is the last time. */
static bool due(const struct kvc_disk *disk)
{
	const struct disk_wear *wear = &disk->wear;

	return wear->noted != wear->wear.total_bytes || (disk->state == DISK_CLOSING && !wear->last);
}

bool kvc_disk_wear_note(struct kvc_disk *disk)
{
	struct disk_wear *wear = &disk->wear;

	account(disk, 0);
	if (wear->busy || wear->file.fd < 0 || !wear->page || !due(disk))
		return false;
	wear->last = disk->state == DISK_CLOSING;
	wear->noted = wear->wear.total_bytes;
	if (disk->events.note)
		disk->events.note(disk->events.context, &wear->wear.note);
	wear->wear.sequence++;
	kvc_wear_encode(&wear->wear, wear->page);
	wear->iov = (struct iovec){.iov_base = wear->page, .iov_len = KVC_PAGE_BYTES};
	wear->io = (struct kvc_io_req){
	        .op = KVC_IO_WRITE,
	        .file = &wear->file,
	        .offset = wear->wear.sequence % KVC_WEAR_SLOTS * KVC_PAGE_BYTES,
	        .iov = &wear->iov,
	        .iov_count = 1,
	        .done = note_done,
	};
	wear->busy = true;
	kvc_io_submit(disk->io, &wear->io);
	return true;
}

static void wear_fired(struct kvc_timer *timer)
{
	struct disk_wear *wear = kvc_container_of(timer, struct disk_wear, timer);
	struct kvc_disk *disk = kvc_container_of(wear, struct kvc_disk, wear);

	kvc_disk_wear_note(disk);
}

void kvc_disk_wrote(struct kvc_disk *disk, uint64_t bytes)
{
	account(disk, bytes);
	if (disk->wear.wear.total_bytes - disk->wear.noted >= NOTE_BYTES)
		(void)kvc_disk_wear_note(disk);
	/* Without a timer, for want of memory, the next write asks again. */
	if (disk->state == DISK_ON && !disk->wear.timer.heap_slot)
		(void)kvc_timer_start(disk->loop, &disk->wear.timer, NOTE_MS);
}

void kvc_disk_wear_open(struct kvc_disk *disk)
{
	struct disk_wear *wear = &disk->wear;
	kvc_status status = kvc_file_open(disk->dir_fd, "wear", O_RDWR | O_CREAT, &wear->file);
	uint8_t *slots = aligned_alloc(KVC_IO_ALIGN, KVC_WEAR_SLOTS * KVC_PAGE_BYTES);

	wear->timer.fire = wear_fired;
	wear->page = aligned_alloc(KVC_IO_ALIGN, KVC_PAGE_BYTES);
	wear->since_ms = kvc_loop_now_ms(disk->loop);
	if (status != KVC_OK) {
		kvc_warn("disk tier: its count of writes cannot be opened: %s", kvc_status_text(status));
		wear->file.fd = -1;
	} else if (slots) {
		memset(slots, 0, KVC_WEAR_SLOTS * KVC_PAGE_BYTES);
		if (pread(wear->file.fd, slots, KVC_WEAR_SLOTS * KVC_PAGE_BYTES, 0) > 0 &&
		    kvc_wear_decode(slots, &wear->wear) != KVC_OK)
			kvc_warn("disk tier: its count of writes is damaged and begins again");
	}
	free(slots);
	wear->noted = wear->wear.total_bytes;
	account(disk, 0);
}

void kvc_disk_wear_close(struct kvc_disk *disk)
{
	if (disk->wear.file.fd >= 0)
		kvc_file_close(&disk->wear.file);
	free(disk->wear.page);
}

void kvc_disk_wear(const struct kvc_tier *tier, struct kvc_wear *wear)
{
	*wear = ((const struct kvc_disk *)(const void *)tier)->wear.wear; /* base comes first */
}
