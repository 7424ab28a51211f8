/* Loads: one read each, into the slab. What comes back must be the record that was asked for; if it is not,
 * it is read once more, as a transfer may have gone wrong, and then reported corrupt. An encrypted one is
 * decrypted there before anybody sees it. */
#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"

static void load_done(struct kvc_io_req *io);

static void load_read(struct disk_load *load)
{
	const struct kvc_record *record = &load->request->record;

	load->iov = (struct iovec){
	        .iov_base = load->request->slab,
	        .iov_len = kvc_record_bytes(record->image_bytes),
	};
	load->io = (struct kvc_io_req){
	        .op = KVC_IO_READ,
	        .file = &load->segment->file,
	        .offset = (uint64_t)record->place.page * KVC_PAGE_BYTES,
	        .iov = &load->iov,
	        .iov_count = 1,
	        .done = load_done,
	};
	kvc_stat_add(load->disk->count.reads, 1);
	kvc_io_submit(load->disk->io, &load->io);
}

/* False: the record is not there, the request was answered. */
static bool load_find(struct kvc_disk *disk, struct kvc_tier_req *req, struct disk_segment **segment)
{
	uint64_t pages = kvc_record_bytes(req->record.image_bytes) / KVC_PAGE_BYTES;

	*segment = kvc_disk_holder(disk, &req->record);
	if (*segment && pages <= (*segment)->end_page - req->record.place.page)
		return true;
	kvc_stat_add(disk->count.missing, 1);
	kvc_disk_answer_later(disk, req, KVC_MISS);
	return false;
}

/* Start what can be started. */
static void loads_start(struct kvc_disk *disk)
{
	while (!kvc_list_empty(&disk->loads.waiting) && !kvc_list_empty(&disk->loads.idle)) {
		struct kvc_list *node = kvc_list_pop(&disk->loads.waiting);
		struct kvc_tier_req *req = kvc_container_of(node, struct kvc_tier_req, node);
		struct disk_segment *segment;
		struct disk_load *load;

		if (!load_find(disk, req, &segment))
			continue;
		load = kvc_container_of(kvc_list_pop(&disk->loads.idle), struct disk_load, node);
		load->segment = segment;
		load->request = req;
		load->again = false;
		load->since_ms = kvc_loop_now_ms(disk->loop);
		memcpy(req->record.device, disk->super.instance, sizeof req->record.device);
		segment->loads++;
		kvc_list_push(&disk->loads.busy, &load->node);
		load_read(load);
		kvc_disk_watch(disk);
	}
}

static kvc_status load_judge(const struct disk_load *load)
{
	const struct kvc_tier_req *req = load->request;

	if (load->io.status == KVC_OK)
		return kvc_record_match(req->slab, kvc_record_bytes(req->record.image_bytes), &req->record);
	return load->io.status == KVC_MISS ? KVC_MISS : KVC_IO;
}

static void load_count(struct disk_load *load, kvc_status status)
{
	struct kvc_disk *disk = load->disk;

	kvc_stat_add(disk->count.read_bytes, (int64_t)load->io.transferred);
	switch (status) {
	case KVC_OK:
		kvc_stat_add(disk->count.loads, 1);
		break;
	case KVC_CORRUPT:
		kvc_stat_add(disk->count.corrupt, 1);
		break;
	case KVC_MISS:
		kvc_stat_add(disk->count.missing, 1);
		break;
	case KVC_UNAVAILABLE:
		break;
	default:
		kvc_disk_read_failed(disk, load->io.error);
	}
}

static void load_end(struct disk_load *load, kvc_status status)
{
	struct kvc_disk *disk = load->disk;
	struct disk_segment *segment = load->segment;
	struct kvc_tier_req *req = load->request;

	if (status == KVC_CORRUPT && !load->again) {
		load->again = true;
		load_read(load);
		return;
	}
	disk->ended_ms = kvc_loop_now_ms(disk->loop);
	load_count(load, status);
	kvc_list_remove(&load->node);
	kvc_list_push(&disk->loads.idle, &load->node);
	segment->loads--;
	req->status = status;
	req->done(req);
	kvc_disk_segment_settle(segment);
	loads_start(disk);
	kvc_disk_progress(disk);
}

static void load_done(struct kvc_io_req *io)
{
	struct disk_load *load = kvc_container_of(io, struct disk_load, io);
	kvc_status status = load_judge(load);

	load->decrypting = status == KVC_OK &&
	                   kvc_disk_decrypt(&load->decrypt, load->request->slab, load->iov.iov_len, &status);
	if (!load->decrypting)
		load_end(load, status);
}

void kvc_disk_load_decrypted(struct disk_decrypt *decrypt, kvc_status status)
{
	struct disk_load *load = kvc_container_of(decrypt, struct disk_load, decrypt);

	load->decrypting = false;
	load_end(load, status);
}

void kvc_disk_load(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	KVC_PRE((uintptr_t)req->slab % KVC_IO_ALIGN == 0);
	if (disk->reading.off) {
		kvc_disk_answer_later(disk, req, KVC_UNAVAILABLE);
		return;
	}
	kvc_list_push(&disk->loads.waiting, &req->node);
	loads_start(disk);
}

void kvc_disk_fail_loads(struct kvc_disk *disk, kvc_status status)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(&disk->loads.waiting)))
		kvc_disk_answer_later(disk, kvc_container_of(node, struct kvc_tier_req, node), status);
}
