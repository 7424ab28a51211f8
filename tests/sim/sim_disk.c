/* See sim_disk.h. */
#include "tests/sim/sim_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/io/io_private.h"

enum { FILES_MAX = 256, PATH_BYTES = 512 };

/* A file that was seen. The descriptor is this module's own: the tier's end with it. */
struct file {
	ino_t inode;
	int fd;
	bool named; /* its directory entry survives */
};

/* A write that the drive may still forget: what was there before it. */
struct unsynced {
	uint32_t file;
	uint64_t sequence;
	uint64_t offset;
	uint64_t bytes;
	uint8_t *before;
	bool *over;  /* by sector: a later write of it was synced */
	bool doomed; /* a sync of it failed: no later one helps */
};

struct request {
	struct sim_event event;
	struct kvc_timer timer; /* of a slow one */
	struct kvc_list node;   /* disk.hanging */
	struct kvc_list under_way;
	struct kvc_io *io;
	struct kvc_io_req *req;
	uint64_t sequence; /* of the journal when it began */
};

static struct {
	struct sim_random *random;
	uint32_t one_in[SIM_DISK_FAULTS];
	uint64_t counts[SIM_DISK_FAULTS];
	struct file files[FILES_MAX];
	uint32_t file_count;
	struct unsynced *journal;
	uint32_t journal_count;
	uint32_t journal_room;
	uint64_t sequence;
	struct kvc_list under_way;
	struct kvc_list hanging;
	bool crashed;
} disk;

static bool hits(enum sim_disk_fault fault)
{
	if (disk.crashed || !sim_one_in(disk.random, disk.one_in[fault]))
		return false;
	disk.counts[fault]++;
	return true;
}

static uint64_t below(uint64_t bound)
{
	return sim_next(disk.random) % bound;
}

/* --- files ---------------------------------------------------------------------------------------- */

/* The path of an open file; false: it has none any more. */
static bool path_of(int fd, char path[PATH_BYTES])
{
	char link[64];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, PATH_BYTES - 1);
	path[length > 0 ? length : 0] = '\0';
	return length > 0 && !strstr(path, " (deleted)");
}

/* Segments come into being while the tier runs; what it makes at its start it syncs itself. */
static bool is_segment(int fd)
{
	char path[PATH_BYTES];

	return path_of(fd, path) && strstr(path, "/segments/");
}

static uint32_t file_number(struct kvc_file *file)
{
	struct stat st;

	KVC_INVARIANT(!fstat(file->fd, &st));
	for (uint32_t i = 0; i < disk.file_count; i++)
		if (disk.files[i].inode == st.st_ino)
			return i;
	KVC_INVARIANT(disk.file_count < FILES_MAX);
	disk.files[disk.file_count] =
	        (struct file){.inode = st.st_ino, .fd = dup(file->fd), .named = !is_segment(file->fd)};
	/* Sectors are moved one by one, from any memory. The flag is the open file's: for the tier too. */
	KVC_INVARIANT(!fcntl(file->fd, F_SETFL, fcntl(file->fd, F_GETFL) & ~O_DIRECT));
	return disk.file_count++;
}

/* --- journal -------------------------------------------------------------------------------------- */

static void journal_add(uint32_t file, uint64_t offset, uint64_t bytes)
{
	struct unsynced *entry;
	ssize_t got;

	if (disk.journal_count == disk.journal_room) {
		disk.journal_room = disk.journal_room ? 2 * disk.journal_room : 64;
		disk.journal = realloc(disk.journal, disk.journal_room * sizeof *disk.journal);
		KVC_INVARIANT(disk.journal);
	}
	entry = &disk.journal[disk.journal_count++];
	*entry = (struct unsynced){.file = file,
	                           .sequence = ++disk.sequence,
	                           .offset = offset,
	                           .bytes = bytes,
	                           .before = calloc(1, bytes),
	                           .over = calloc(bytes / SIM_SECTOR, sizeof(bool))};
	KVC_INVARIANT(entry->before && entry->over);
	got = pread(disk.files[file].fd, entry->before, bytes, (off_t)offset);
	KVC_INVARIANT(got >= 0);
}

static void entry_free(struct unsynced *entry)
{
	free(entry->before);
	free(entry->over);
}

/* What a write that was synced covers of the `count` older ones is settled. */
static void older_settle(const struct unsynced *synced, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct unsynced *entry = &disk.journal[i];

		for (uint64_t at = 0; entry->file == synced->file && at < entry->bytes; at += SIM_SECTOR)
			if (entry->offset + at >= synced->offset &&
			    entry->offset + at < synced->offset + synced->bytes)
				entry->over[at / SIM_SECTOR] = true;
	}
}

/* A sync of a file that began when the journal was at `sequence` has ended. */
static void journal_sync(uint32_t file, uint64_t sequence, bool worked)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < disk.journal_count; i++) {
		struct unsynced entry = disk.journal[i];
		bool covered = entry.file == file && entry.sequence <= sequence;

		if (covered && !worked)
			entry.doomed = true;
		if (covered && worked && !entry.doomed) {
			older_settle(&entry, kept);
			entry_free(&entry);
		} else {
			disk.journal[kept++] = entry;
		}
	}
	disk.journal_count = kept;
}

static void entry_take_back(const struct unsynced *entry, enum sim_loss loss)
{
	for (uint64_t at = 0; at < entry->bytes; at += SIM_SECTOR) {
		off_t offset = (off_t)(entry->offset + at);

		if (!entry->over[at / SIM_SECTOR] && (loss == SIM_POWER_ALL || below(2)))
			KVC_INVARIANT(pwrite(disk.files[entry->file].fd, entry->before + at, SIM_SECTOR,
			                     offset) == (ssize_t)SIM_SECTOR);
	}
}

static void journal_take_back(enum sim_loss loss)
{
	while (disk.journal_count) {
		struct unsynced *entry = &disk.journal[--disk.journal_count];

		if (loss != SIM_PROCESS)
			entry_take_back(entry, loss);
		entry_free(entry);
	}
}

/* --- transfers ------------------------------------------------------------------------------------ */

struct flat {
	uint8_t *bytes;
	uint64_t length;
};

static struct flat flat_open(const struct kvc_io_part *part)
{
	struct flat flat = {.length = 0};

	for (uint32_t i = 0; i < part->iov_count; i++)
		flat.length += part->iov[i].iov_len;
	flat.bytes = malloc(flat.length);
	KVC_INVARIANT(flat.bytes);
	return flat;
}

static void flat_copy(const struct kvc_io_part *part, const struct flat *flat, bool to_flat)
{
	uint8_t *at = flat->bytes;

	for (uint32_t i = 0; i < part->iov_count; i++) {
		if (to_flat)
			memcpy(at, part->iov[i].iov_base, part->iov[i].iov_len);
		else
			memcpy(part->iov[i].iov_base, at, part->iov[i].iov_len);
		at += part->iov[i].iov_len;
	}
}

static void flip(uint8_t *bytes, uint64_t length)
{
	uint64_t bit = below(8 * length);

	bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* Whole sectors of it arrive at `offset`. */
static void apply(uint32_t file, const uint8_t *bytes, uint64_t length, uint64_t offset)
{
	if (!length)
		return;
	journal_add(file, offset, length);
	KVC_INVARIANT(pwrite(disk.files[file].fd, bytes, length, (off_t)offset) == (ssize_t)length);
}

static void apply_some(uint32_t file, const struct flat *flat, uint64_t offset)
{
	for (uint64_t at = 0; at < flat->length; at += SIM_SECTOR)
		if (below(2))
			apply(file, flat->bytes + at, SIM_SECTOR, offset + at);
}

static uint64_t first_sectors(const struct flat *flat)
{
	return below(flat->length / SIM_SECTOR) * SIM_SECTOR;
}

/* Another page of the file where all of it fits. */
static uint64_t elsewhere(uint32_t file, uint64_t length)
{
	struct stat st;

	KVC_INVARIANT(!fstat(disk.files[file].fd, &st));
	if ((uint64_t)st.st_size <= length)
		return 0;
	return below(((uint64_t)st.st_size - length) / KVC_IO_ALIGN + 1) * KVC_IO_ALIGN;
}

/* Lies: the drive says that all is well. False: it does what it should. */
static bool write_lie(uint32_t file, struct flat *flat, uint64_t offset)
{
	if (hits(SIM_WRITE_LOST))
		return true;
	if (hits(SIM_WRITE_TORN))
		apply(file, flat->bytes, first_sectors(flat), offset);
	else if (hits(SIM_WRITE_HOLES))
		apply_some(file, flat, offset);
	else if (hits(SIM_WRITE_MISDIRECT))
		apply(file, flat->bytes, flat->length, elsewhere(file, flat->length));
	else
		return false;
	return true;
}

static int32_t write_flat(uint32_t file, struct flat *flat, uint64_t offset)
{
	uint64_t some;

	if (hits(SIM_WRITE_ERROR)) {
		apply(file, flat->bytes, below(2) ? first_sectors(flat) : 0, offset);
		return -EIO;
	}
	if (hits(SIM_SHORT)) {
		some = first_sectors(flat);
		apply(file, flat->bytes, some, offset);
		return (int32_t)some;
	}
	if (write_lie(file, flat, offset))
		return (int32_t)flat->length;
	if (hits(SIM_WRITE_FLIP))
		flip(flat->bytes, flat->length);
	apply(file, flat->bytes, flat->length, offset);
	return (int32_t)flat->length;
}

static int32_t write_run(struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	struct flat flat = flat_open(&part);
	int32_t result = (int32_t)flat.length;

	if (!disk.crashed) {
		flat_copy(&part, &flat, true);
		result = write_flat(file_number(req->file), &flat, part.offset);
	}
	free(flat.bytes);
	return result;
}

static void rot(uint32_t file, uint64_t offset, uint64_t length)
{
	uint8_t byte;
	off_t at = (off_t)(offset + below(length));

	if (pread(disk.files[file].fd, &byte, 1, at) != 1)
		return;
	flip(&byte, 1);
	KVC_INVARIANT(pwrite(disk.files[file].fd, &byte, 1, at) == 1);
}

static int32_t read_run(struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	struct flat flat = flat_open(&part);
	uint32_t file = file_number(req->file);
	uint64_t offset = part.offset;
	int32_t result = -EIO;

	if (!hits(SIM_READ_ERROR)) {
		if (hits(SIM_ROT))
			rot(file, offset, flat.length);
		if (hits(SIM_READ_MISDIRECT))
			offset = elsewhere(file, flat.length);
		memset(flat.bytes, 0, flat.length);
		result = (int32_t)pread(disk.files[file].fd, flat.bytes, flat.length, (off_t)offset);
		KVC_INVARIANT(result >= 0);
		if (result > 0 && hits(SIM_READ_FLIP))
			flip(flat.bytes, (uint64_t)result);
		if (result > 0 && hits(SIM_SHORT))
			result = (int32_t)below((uint64_t)result + 1);
		flat_copy(&part, &flat, false);
	}
	free(flat.bytes);
	return result;
}

static int32_t sync_run(const struct request *request)
{
	struct kvc_file *file = request->req->file;
	uint32_t number;
	struct stat st;

	KVC_INVARIANT(!fstat(file->fd, &st));
	if (disk.crashed)
		return 0;
	if (hits(SIM_SYNC_ERROR)) {
		if (!S_ISDIR(st.st_mode))
			journal_sync(file_number(file), request->sequence, false);
		return -EIO;
	}
	if (S_ISDIR(st.st_mode)) {
		for (uint32_t i = 0; i < disk.file_count; i++)
			disk.files[i].named = true;
		return 0;
	}
	number = file_number(file);
	journal_sync(number, request->sequence, true);
	return 0;
}

static int32_t allocate_run(struct kvc_io_req *req)
{
	if (disk.crashed)
		return 0;
	(void)file_number(req->file);
	return kvc_io_perform(req);
}

/* --- requests ------------------------------------------------------------------------------------- */

static int32_t carry_out(const struct request *request)
{
	struct kvc_io_req *req = request->req;

	if (hits(SIM_AGAIN))
		return -EAGAIN;
	if ((req->op == KVC_IO_WRITE || req->op == KVC_IO_ALLOCATE) && hits(SIM_FULL))
		return -ENOSPC;
	switch (req->op) {
	case KVC_IO_READ:
		return read_run(req);
	case KVC_IO_WRITE:
		return write_run(req);
	case KVC_IO_SYNC:
		return sync_run(request);
	case KVC_IO_ALLOCATE:
		break;
	}
	return allocate_run(req);
}

static void request_run(struct sim_event *event)
{
	struct request *request = kvc_container_of(event, struct request, event);
	int32_t result = carry_out(request);
	struct kvc_io_req *req = request->req;
	struct kvc_io *io = request->io;

	kvc_list_remove(&request->under_way);
	free(request);
	kvc_io_complete(io, req, result);
}

static void slow_fired(struct kvc_timer *timer)
{
	struct request *request = kvc_container_of(timer, struct request, timer);

	sim_event_add(request->io->loop, &request->event);
}

static void slow_start(struct request *request)
{
	static const uint64_t delays_ms[] = {1000, 10000, 60000};

	request->timer.fire = slow_fired;
	KVC_INVARIANT(kvc_timer_start(request->io->loop, &request->timer, delays_ms[below(3)]) == KVC_OK);
}

static void disk_start(struct kvc_io *io, struct kvc_io_req *req)
{
	struct request *request = calloc(1, sizeof *request);

	KVC_INVARIANT(request);
	request->event.run = request_run;
	request->io = io;
	request->req = req;
	request->sequence = disk.sequence;
	kvc_list_push(&disk.under_way, &request->under_way);
	if (hits(SIM_HANG))
		kvc_list_push(&disk.hanging, &request->node);
	else if (hits(SIM_SLOW))
		slow_start(request);
	else
		sim_event_add(io->loop, &request->event);
}

static kvc_status disk_backend_open(struct kvc_io *io)
{
	(void)io;
	return KVC_OK;
}

static void disk_backend_nothing(struct kvc_io *io)
{
	(void)io;
}

/* In the place of both real ones. */
const struct kvc_io_backend_ops kvc_io_uring_ops = {
        .name = "simulated",
        .open = disk_backend_open,
        .close = disk_backend_nothing,
        .start = disk_start,
        .flush = disk_backend_nothing,
};

const struct kvc_io_backend_ops kvc_io_threads_ops = {
        .name = "simulated",
        .open = disk_backend_open,
        .close = disk_backend_nothing,
        .start = disk_start,
        .flush = disk_backend_nothing,
};

/* --- life and death ------------------------------------------------------------------------------- */

void sim_disk_open(struct sim_random *random)
{
	memset(&disk, 0, sizeof disk);
	disk.random = random;
	kvc_list_init(&disk.under_way);
	kvc_list_init(&disk.hanging);
}

void sim_disk_close(void)
{
	journal_take_back(SIM_PROCESS);
	free(disk.journal);
	disk.journal = NULL;
	for (uint32_t i = 0; i < disk.file_count; i++)
		close(disk.files[i].fd);
	disk.file_count = 0;
}

void sim_disk_new_process(void)
{
	for (uint32_t i = 0; i < disk.journal_count; i++)
		disk.journal[i].doomed = false;
}

void sim_disk_fault_set(enum sim_disk_fault fault, uint32_t one_in)
{
	disk.one_in[fault] = one_in;
}

void sim_disk_faults_clear(void)
{
	memset(disk.one_in, 0, sizeof disk.one_in);
}

uint64_t sim_disk_count(enum sim_disk_fault fault)
{
	return disk.counts[fault];
}

uint32_t sim_disk_unsynced(void)
{
	return disk.journal_count;
}

void sim_disk_release(void)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(&disk.hanging))) {
		struct request *request = kvc_container_of(node, struct request, node);

		sim_event_add(request->io->loop, &request->event);
	}
}

/* Of what is under way at the end any part may still arrive. */
static void last_moment(struct kvc_io_req *req)
{
	struct kvc_io_part part = kvc_io_part(req);
	struct flat flat;

	if (req->op != KVC_IO_WRITE || below(3) == 0)
		return;
	flat = flat_open(&part);
	flat_copy(&part, &flat, true);
	apply(file_number(req->file), flat.bytes, below(2) ? flat.length : first_sectors(&flat), part.offset);
	free(flat.bytes);
}

void sim_disk_crash(void)
{
	kvc_list_each (node, &disk.under_way) {
		struct request *request = kvc_container_of(node, struct request, under_way);

		last_moment(request->req);
		if (request->timer.heap_slot) {
			kvc_timer_stop(&request->timer);
			sim_event_add(request->io->loop, &request->event);
		}
	}
	disk.crashed = true;
	sim_disk_release();
}

/* A file whose directory entry was not synced may be gone. */
static void files_lose(enum sim_loss loss)
{
	char path[PATH_BYTES];

	for (uint32_t i = 0; i < disk.file_count; i++) {
		struct file *file = &disk.files[i];

		if (loss != SIM_PROCESS && !file->named && path_of(file->fd, path) &&
		    (loss == SIM_POWER_ALL || below(2)))
			KVC_INVARIANT(!unlink(path));
		file->named = true;
	}
}

void sim_disk_restart(enum sim_loss loss)
{
	KVC_PRE(kvc_list_empty(&disk.under_way));
	journal_take_back(loss);
	files_lose(loss);
	disk.crashed = false;
}
