/* The checkpoint at start: both heads are read, the newer sound one of this instance is in force, and says
 * for which segments it has a section. A segment that was written again since has another epoch and is not
 * meant. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_recover.h"

void kvc_disk_heads_free(struct disk_recovery *recovery)
{
	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++) {
		free(recovery->heads[i].bytes);
		recovery->heads[i].bytes = NULL;
	}
}

static void head_done(struct kvc_io_req *io)
{
	struct disk_head *head = kvc_container_of(io, struct disk_head, io);

	head->recovery->busy--;
	kvc_disk_recover_tick(head->recovery);
}

static void head_read(struct disk_head *head, struct kvc_file *file)
{
	head->bytes = aligned_alloc(KVC_IO_ALIGN, KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES);
	if (!head->bytes)
		return;
	head->iov = (struct iovec){
	        .iov_base = head->bytes,
	        .iov_len = KVC_CHECKPOINT_HEAD_PAGES * KVC_PAGE_BYTES,
	};
	head->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = file,
	        .iov = &head->iov,
	        .iov_count = 1,
	        .done = head_done,
	};
	head->recovery->busy++;
	kvc_io_submit(head->recovery->disk->io, &head->io);
}

/* What was read is a sound head of this directory. */
static bool head_sound(const struct disk_head *head, struct kvc_checkpoint *checkpoint)
{
	const struct kvc_disk *disk = head->recovery->disk;
	kvc_status status = KVC_MISS;

	if (head->bytes && head->io.status == KVC_OK)
		status = kvc_checkpoint_open(head->bytes, checkpoint);
	if (status == KVC_CORRUPT || status == KVC_VERSION) {
		kvc_warn("disk tier: a checkpoint is not usable: %s", kvc_status_text(status));
		kvc_stat_add(disk->count.bad_checkpoints, 1);
	}
	return status == KVC_OK && checkpoint->segment_bytes == disk->super.segment_bytes &&
	       !memcmp(checkpoint->instance, disk->super.instance, sizeof checkpoint->instance);
}

static void sections_note(struct disk_recovery *recovery, const uint8_t *bytes, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_checkpoint_section section;

		kvc_checkpoint_get(bytes, i, &section);
		if (section.number < recovery->disk->segment_count)
			recovery->sections[section.number] = section;
	}
}

void kvc_disk_heads_start(struct disk_recovery *recovery)
{
	struct kvc_disk *disk = recovery->disk;

	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++) {
		recovery->heads[i].recovery = recovery;
		/* A start that verifies reads all records, and knows it better. */
		if (!disk->verify && disk->checkpoint_files[i].fd >= 0)
			head_read(&recovery->heads[i], &disk->checkpoint_files[i]);
	}
}

void kvc_disk_heads_choose(struct disk_recovery *recovery)
{
	struct kvc_disk *disk = recovery->disk;
	struct kvc_checkpoint newest = {.sequence = 0}, one;
	const uint8_t *bytes = NULL;

	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++) {
		if (!head_sound(&recovery->heads[i], &one) || one.sequence <= newest.sequence)
			continue;
		newest = one;
		bytes = recovery->heads[i].bytes;
	}
	if (bytes) {
		sections_note(recovery, bytes, newest.count);
		disk->checkpoint_sequence = newest.sequence;
		if (newest.generation > disk->generation)
			disk->generation = newest.generation;
	}
	kvc_disk_heads_free(recovery);
}

const struct kvc_checkpoint_section *kvc_disk_section_of(const struct disk_recovery *recovery,
                                                         const struct disk_segment *segment)
{
	const struct kvc_checkpoint_section *section = &recovery->sections[segment->number];

	return section->pages && section->epoch == segment->epoch ? section : NULL;
}
