/* Stores: waiting requests are gathered into large writes at the end of the open segment.
 *
 * A lone store goes out in the turn of the loop that brought it; several are shared out to a few writes.
 * While all DISK_WRITES writes are in flight, stores wait, and so gather. Records go from the slabs as they
 * are; only their headers are sealed here, when their place is known. In an encrypted directory they go
 * through the write's own memory, encrypted (disk_crypt.c): the write counts as in flight from before that.
 */
#include <errno.h>

#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"

enum { SHARE_MIN = 256 << 10 };

static struct kvc_tier_req *request_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_tier_req, node);
}

static uint32_t pages_of(const struct kvc_tier_req *req)
{
	return (uint32_t)(kvc_record_bytes(req->record.image_bytes) / KVC_PAGE_BYTES);
}

static bool fits(const struct disk_segment *segment, const struct kvc_tier_req *req)
{
	return kvc_disk_segment_fits(segment, pages_of(req));
}

/* --- gathering ------------------------------------------------------------------------------------ */

/* There is an open segment with room for the request afterwards, or false: one is being prepared. */
static bool segment_ready(struct kvc_disk *disk, const struct kvc_tier_req *req)
{
	if (disk->open && fits(disk->open, req))
		return true;
	if (disk->open)
		kvc_disk_seal(disk);
	if (!disk->ready) {
		kvc_disk_prepare(disk, true);
		return false;
	}
	disk->open = disk->ready;
	disk->ready = NULL;
	kvc_disk_segment_move(disk->open, DISK_OPEN);
	kvc_disk_summary_begin(disk->open);
	kvc_disk_prepare(disk, true); /* the next one, in reserve */
	return true;
}

static void record_add(struct disk_write *write, struct kvc_tier_req *req, uint32_t page)
{
	struct kvc_disk *disk = write->disk;
	struct iovec *iov = &write->iov[write->io.iov_count++];

	req->record.place = (struct kvc_place){write->segment->number, page};
	req->record.epoch = write->segment->epoch;
	memcpy(req->record.device, disk->super.instance, sizeof req->record.device);
	*iov = (struct iovec){.iov_base = req->slab, .iov_len = (size_t)pages_of(req) * KVC_PAGE_BYTES};
	if (disk->keyring.under) {
		write->rows[write->io.iov_count - 1] = *kvc_disk_keyring_row(disk, req->record.tenant);
		iov->iov_base = write->bounce + write->bytes;
	} else {
		kvc_record_seal(&req->record, req->slab);
	}
	kvc_disk_summary_add(write->segment, &req->record);
	if (req->record.generation > disk->generation)
		disk->generation = req->record.generation;
	write->bytes += iov->iov_len;
	kvc_list_push(&write->requests, &req->node);
}

static bool takes(const struct disk_write *write, const struct kvc_tier_req *req)
{
	const struct kvc_disk *disk = write->disk;
	uint64_t bytes = write->bytes + (uint64_t)pages_of(req) * KVC_PAGE_BYTES;

	return fits(write->segment, req) && write->io.iov_count < DISK_WRITE_IOV &&
	       (write->io.iov_count == 0 || bytes <= disk->write_share);
}

/* It waits no longer. KVC_OK: it is part of the write. */
static kvc_status record_place(struct disk_write *write, struct kvc_tier_req *req)
{
	const struct kvc_disk *disk = write->disk;
	uint64_t bytes = write->bytes + (uint64_t)pages_of(req) * KVC_PAGE_BYTES;
	uint32_t page = write->segment->end_page;
	kvc_status status = kvc_disk_keyring_judge(disk, &req->record);

	if (status != KVC_OK)
		return status;
	if (disk->keyring.under && !kvc_disk_keyring_row(disk, req->record.tenant))
		return KVC_UNAVAILABLE;
	if (disk->keyring.under && !kvc_disk_encrypt_room(write, bytes))
		return KVC_NO_MEMORY;
	status = kvc_disk_segment_append(write->segment, req->cookie, pages_of(req));
	if (status == KVC_OK)
		record_add(write, req, page);
	return status;
}

static void write_fill(struct disk_write *write)
{
	struct kvc_disk *disk = write->disk;

	while (!kvc_list_empty(&disk->stores)) {
		struct kvc_tier_req *req = request_of(disk->stores.next);
		kvc_status status;

		if (!takes(write, req))
			break;
		kvc_list_remove(&req->node);
		status = record_place(write, req);
		if (status != KVC_OK)
			kvc_disk_answer_later(disk, req, status);
	}
}

static void write_done(struct kvc_io_req *io);

static void write_start(struct kvc_disk *disk)
{
	struct disk_write *write =
	        kvc_container_of(kvc_list_pop(&disk->writes.idle), struct disk_write, node);

	write->segment = disk->open;
	write->first_page = disk->open->end_page;
	write->bytes = 0;
	write->io = (struct kvc_io_req){
	        .op = KVC_IO_WRITE,
	        .file = &disk->open->file,
	        .offset = (uint64_t)write->first_page * KVC_PAGE_BYTES,
	        .iov = write->iov,
	        .done = write_done,
	};
	write_fill(write);
	if (!write->io.iov_count) {
		kvc_list_push(&disk->writes.idle, &write->node);
		return;
	}
	write->sequence = ++disk->writes.sequence;
	write->segment->writes++;
	kvc_list_push(&disk->writes.busy, &write->node);
	kvc_stat_add(disk->count.writes, 1);
	if (disk->keyring.under)
		kvc_disk_encrypt(write);
	else
		kvc_disk_write_ready(write, KVC_OK);
}

void kvc_disk_write_ready(struct disk_write *write, kvc_status status)
{
	struct kvc_disk *disk = write->disk;

	if (status != KVC_OK) {
		write->io.status = status;
		write->io.error = ENOMEM;
		write_done(&write->io);
		return;
	}
	write->since_ms = kvc_loop_now_ms(disk->loop);
	kvc_io_submit(disk->io, &write->io);
	kvc_disk_watch(disk);
}

/* Copies come first, and do not wait for a segment that may be waiting for them. */
static void copies_refuse(struct kvc_disk *disk)
{
	while (!kvc_list_empty(&disk->stores)) {
		struct kvc_tier_req *req = request_of(disk->stores.next);

		if (!kvc_disk_keep_owns(req) || (disk->open && fits(disk->open, req)))
			return;
		kvc_list_remove(&req->node);
		kvc_disk_answer_later(disk, req, KVC_NO_SPACE);
	}
}

static bool store_ready(struct kvc_disk *disk)
{
	copies_refuse(disk);
	return !kvc_list_empty(&disk->stores) && !kvc_list_empty(&disk->writes.idle) &&
	       segment_ready(disk, request_of(disk->stores.next));
}

/* What waits is shared out to the writes that are to be had, so that a drive has several of them at a time,
 * but not in pieces that are not worth a request. */
static uint32_t share_of(const struct kvc_disk *disk)
{
	const uint64_t most = (uint64_t)DISK_WRITES * disk->write_bytes;
	uint64_t waiting = 0;

	kvc_list_each (node, &disk->stores) {
		waiting += (uint64_t)pages_of(kvc_container_of(node, struct kvc_tier_req, node)) *
		           KVC_PAGE_BYTES;
		if (waiting >= most)
			return disk->write_bytes;
	}
	waiting /= DISK_WRITES;
	if (waiting < SHARE_MIN)
		waiting = SHARE_MIN;
	return waiting < disk->write_bytes ? (uint32_t)waiting : disk->write_bytes;
}

void kvc_disk_gather(struct kvc_disk *disk)
{
	disk->write_share = share_of(disk);
	while (store_ready(disk))
		write_start(disk);
}

/* --- ends ----------------------------------------------------------------------------------------- */

/* A gap ends the epoch (I4): what this write held, and what lies behind it, is lost. */
static void write_account(struct disk_write *write)
{
	struct kvc_disk *disk = write->disk;

	if (write->io.status == KVC_OK) {
		kvc_disk_write_worked(disk);
		kvc_stat_add(disk->count.write_bytes, (int64_t)write->bytes);
		kvc_disk_wrote(disk, write->bytes);
		return;
	}
	kvc_disk_retire(write->segment, write->first_page);
	kvc_disk_write_failed(disk, disk->count.write_errors, &write->io);
}

static void write_done(struct kvc_io_req *io)
{
	struct disk_write *write = kvc_container_of(io, struct disk_write, io);
	struct kvc_disk *disk = write->disk;
	struct disk_segment *segment = write->segment;
	kvc_status failure = io->status == KVC_NO_SPACE ? KVC_NO_SPACE : KVC_IO;
	struct kvc_list requests;
	struct kvc_list *node;
	bool lost;

	disk->ended_ms = kvc_loop_now_ms(disk->loop);
	write_account(write);
	lost = write->first_page >= segment->lost_page;
	kvc_list_init(&requests);
	kvc_list_splice(&requests, &write->requests);
	while ((node = kvc_list_pop(&requests))) {
		struct kvc_tier_req *req = request_of(node);

		req->status = lost ? failure : KVC_OK;
		kvc_stat_add(disk->count.stores, !lost);
		req->done(req);
	}
	segment->writes--;
	kvc_disk_summary_progress(segment);
	kvc_list_remove(&write->node);
	kvc_list_push(&disk->writes.idle, &write->node);
	kvc_disk_segment_settle(segment);
	kvc_disk_progress(disk);
}

/* --- requests ------------------------------------------------------------------------------------- */

static kvc_status refusal(const struct kvc_disk *disk, const struct kvc_tier_req *req)
{
	if (disk->writing.off && disk->writing.cause == KVC_NO_SPACE)
		return KVC_NO_SPACE;
	if (!disk->base.writable)
		return KVC_UNAVAILABLE;
	if (kvc_record_bytes(req->record.image_bytes) > disk->super.segment_bytes - 2 * KVC_PAGE_BYTES)
		return KVC_NO_SPACE;
	return KVC_OK;
}

void kvc_disk_store(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	kvc_status status = refusal(disk, req);

	KVC_PRE(req->cookie != DISK_NO_COOKIE && (uintptr_t)req->slab % KVC_IO_ALIGN == 0);
	if (status) {
		kvc_disk_answer_later(disk, req, status);
		return;
	}
	if (kvc_disk_keyring_lacks(disk, &req->record)) {
		kvc_disk_keyring_await(disk, req);
		return;
	}
	kvc_list_push(&disk->stores, &req->node);
	kvc_disk_progress(disk);
}

static void all_answer(struct kvc_disk *disk, struct kvc_list *waiting, kvc_status status)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(waiting)))
		kvc_disk_answer_later(disk, request_of(node), status);
}

/* Also those that wait for a key of their tenant, of which nothing is in flight. */
void kvc_disk_fail_stores(struct kvc_disk *disk, kvc_status status)
{
	all_answer(disk, &disk->stores, status);
	all_answer(disk, &disk->keyring.stores, status);
	all_answer(disk, &disk->keyring.making, status);
}
