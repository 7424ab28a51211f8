/* The keyring's files (keyring.h), and what changes it: a tenant's first record makes its key, where the
 * directory is encrypted; dropping a tenant takes the key away; when the last plain segment is gone, none may
 * come back.
 *
 *   IDLE --> WRITE --> SYNC --> READ --> ERASE --> ERASE_SYNC --> IDLE
 *     ^                          `-- nothing ends with the old one ^
 *     `-- WRITE, SYNC or READ failed: the table stays as it was. If a tenant was to be dropped, what the file
 * says is in doubt: nothing is stored before the table was written again
 *
 * A changed table goes to the file that is not in force, and is in force when it was synced and read back.
 * Then, if a tenant was dropped, the other file is written over with it, so that the key is in neither; the
 * same if plain records were allowed for the last time. (A drive may keep what was written over, as flash
 * does; without the disk's key it is of no use.) What waits when an update begins shares it.
 *
 * Opening is synchronous: it also ends an update that was interrupted before ERASE. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

static const char *const names[KVC_KEYRING_FILES] = {"keyring.0", "keyring.1"};

static struct kvc_tier_req *request_of(struct kvc_list *node)
{
	return kvc_container_of(node, struct kvc_tier_req, node);
}

/* --- questions ------------------------------------------------------------------------------------ */

uint32_t kvc_disk_incarnation(struct kvc_tier *tier, const uint8_t tenant[16])
{
	return kvc_keyring_incarnation(&disk_of(tier)->keyring.ring, tenant);
}

bool kvc_disk_keyring_dropped(const struct kvc_disk *disk, const struct kvc_record *record)
{
	return kvc_keyring_incarnation(&disk->keyring.ring, record->tenant) != record->incarnation;
}

static kvc_status judge(const struct kvc_keyring *ring, const struct kvc_record *record)
{
	uint32_t now = kvc_keyring_incarnation(ring, record->tenant);

	if (record->incarnation == now)
		return KVC_OK;
	return record->incarnation < now ? KVC_CANCELLED : KVC_UNAVAILABLE;
}

kvc_status kvc_disk_keyring_judge(const struct kvc_disk *disk, const struct kvc_record *record)
{
	return judge(&disk->keyring.ring, record);
}

bool kvc_disk_keyring_lacks(const struct kvc_disk *disk, const struct kvc_record *record)
{
	return disk->keyring.doubt || kvc_disk_keyring_dropped(disk, record) ||
	       (disk->keyring.under && !kvc_disk_keyring_row(disk, record->tenant));
}

const struct kvc_keyring_row *kvc_disk_keyring_row(const struct kvc_disk *disk, const uint8_t tenant[16])
{
	const struct kvc_keyring_row *row = kvc_keyring_find(&disk->keyring.ring, tenant);

	return row && row->has_key ? row : NULL;
}

/* --- an update ------------------------------------------------------------------------------------ */

static void update_end(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;

	keyring->step = DISK_KEYRING_IDLE;
	keyring->no_plain = false;
	free(keyring->bytes);
	free(keyring->back);
	keyring->bytes = keyring->back = NULL;
	kvc_disk_progress(disk);
}

static void forgets_answer(struct kvc_disk *disk, kvc_status status)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(&disk->keyring.forgetting))) {
		struct kvc_tier_req *req = request_of(node);

		req->record.incarnation = kvc_keyring_incarnation(&disk->keyring.ring, req->record.tenant);
		kvc_disk_answer_later(disk, req, status);
	}
}

static void update_failed(struct kvc_disk *disk, kvc_status status)
{
	struct disk_keyring *keyring = &disk->keyring;
	struct kvc_list *node;

	kvc_stat_add(disk->count.keyring_errors, 1);
	kvc_warn("disk tier: the keyring cannot be written: %s", kvc_status_text(status));
	kvc_keyring_free(&keyring->next);
	forgets_answer(disk, status);
	while ((node = kvc_list_pop(&keyring->making)))
		kvc_disk_answer_later(disk, request_of(node), status);
	update_end(disk);
}

/* Nobody has asked for anything that could be done. */
static void update_dismiss(struct kvc_disk *disk)
{
	kvc_keyring_free(&disk->keyring.next);
	forgets_answer(disk, KVC_OK);
	update_end(disk);
}

static void io_done(struct kvc_io_req *io);

static void io_start(struct kvc_disk *disk, enum disk_keyring_step step, enum kvc_io_op op, uint32_t file)
{
	struct disk_keyring *keyring = &disk->keyring;

	keyring->step = step;
	keyring->iov = (struct iovec){
	        .iov_base = op == KVC_IO_READ ? keyring->back : keyring->bytes,
	        .iov_len = (size_t)keyring->pages * KVC_PAGE_BYTES,
	};
	keyring->io = (struct kvc_io_req){
	        .op = op,
	        .file = &keyring->files[file],
	        .iov = &keyring->iov,
	        .iov_count = op == KVC_IO_SYNC ? 0 : 1,
	        .done = io_done,
	};
	kvc_io_submit(disk->io, &keyring->io);
}

/* A tier that is closing takes no new stores, and this one is not new. */
static void store_again(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	if (disk->state == DISK_CLOSING && !disk->writing.off && !disk->reading.off)
		kvc_list_push(&disk->stores, &req->node);
	else
		kvc_disk_store(disk, req);
}

/* The new table is in force. */
static void update_take(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;
	struct kvc_list ready;
	struct kvc_list *node;

	kvc_keyring_free(&keyring->ring);
	keyring->ring = keyring->next;
	keyring->next = (struct kvc_keyring){0};
	keyring->in_force = 1 - keyring->in_force;
	keyring->doubt = false;
	kvc_stat_add(disk->count.keyring_updates, 1);
	kvc_disk_wrote(disk, (uint64_t)keyring->pages * KVC_PAGE_BYTES);
	kvc_list_init(&ready);
	kvc_list_splice(&ready, &keyring->making);
	while ((node = kvc_list_pop(&ready)))
		store_again(disk, request_of(node));
	if (kvc_list_empty(&keyring->forgetting) && !keyring->no_plain)
		update_end(disk);
	else
		io_start(disk, DISK_KEYRING_ERASE, KVC_IO_WRITE, 1 - keyring->in_force);
}

static void erase_failed(struct kvc_disk *disk, kvc_status status)
{
	kvc_warn("disk tier: the new keyring is in force, but the old one cannot be written over: %s",
	         kvc_status_text(status));
	kvc_stat_add(disk->count.keyring_errors, 1);
	forgets_answer(disk, status);
	update_end(disk);
}

/* Some of it may have arrived. */
static void write_failed(struct kvc_disk *disk, kvc_status status)
{
	struct disk_keyring *keyring = &disk->keyring;

	keyring->doubt = keyring->doubt || !kvc_list_empty(&keyring->forgetting);
	update_failed(disk, status);
}

static kvc_status failure_of(const struct kvc_io_req *io)
{
	return io->status == KVC_NO_SPACE ? KVC_NO_SPACE : KVC_IO;
}

static void io_failed(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status = failure_of(&keyring->io);

	if (keyring->step == DISK_KEYRING_READ)
		kvc_disk_read_failed(disk, keyring->io.error);
	else
		kvc_disk_write_failed(disk, disk->count.write_errors, &keyring->io);
	if (keyring->step == DISK_KEYRING_ERASE || keyring->step == DISK_KEYRING_ERASE_SYNC)
		erase_failed(disk, status);
	else
		write_failed(disk, status);
}

static void io_done(struct kvc_io_req *io)
{
	struct disk_keyring *keyring = kvc_container_of(io, struct disk_keyring, io);
	struct kvc_disk *disk = kvc_container_of(keyring, struct kvc_disk, keyring);
	uint32_t other = 1 - keyring->in_force;

	if (io->status != KVC_OK) {
		io_failed(disk);
		return;
	}
	switch (keyring->step) {
	case DISK_KEYRING_WRITE:
		io_start(disk, DISK_KEYRING_SYNC, KVC_IO_SYNC, other);
		break;
	case DISK_KEYRING_SYNC:
		io_start(disk, DISK_KEYRING_READ, KVC_IO_READ, other);
		break;
	case DISK_KEYRING_READ:
		if (memcmp(keyring->bytes, keyring->back, (size_t)keyring->pages * KVC_PAGE_BYTES) == 0)
			update_take(disk);
		else
			write_failed(disk, KVC_IO);
		break;
	case DISK_KEYRING_ERASE:
		io_start(disk, DISK_KEYRING_ERASE_SYNC, KVC_IO_SYNC, other);
		break;
	case DISK_KEYRING_ERASE_SYNC:
		forgets_answer(disk, KVC_OK);
		update_end(disk);
		break;
	case DISK_KEYRING_IDLE:
		break;
	}
}

/* --- what it changes ------------------------------------------------------------------------------ */

/* Move what can be done from `from` to `to`, and answer the rest. */
static void changes_make(struct kvc_disk *disk, struct kvc_list *from, struct kvc_list *to,
                         kvc_status (*change)(struct kvc_disk *disk, const struct kvc_tier_req *req))
{
	struct kvc_list waiting;
	struct kvc_list *node;

	kvc_list_init(&waiting);
	kvc_list_splice(&waiting, from);
	while ((node = kvc_list_pop(&waiting))) {
		struct kvc_tier_req *req = request_of(node);
		kvc_status status = change(disk, req);

		if (status == KVC_OK)
			kvc_list_push(to, &req->node);
		else
			kvc_disk_answer_later(disk, req, status);
	}
}

/* record.incarnation: the one that it shall have, by req->drop; 0: the next one. */
static kvc_status tenant_drop(struct kvc_disk *disk, const struct kvc_tier_req *req)
{
	struct kvc_keyring *next = &disk->keyring.next;
	uint32_t now = kvc_keyring_incarnation(next, req->record.tenant);
	uint32_t to = req->record.incarnation;
	uint64_t drop = req->drop;

	if (!to) {
		to = now + 1;
		kvc_random(&drop, sizeof drop);
	}
	return to > now ? kvc_keyring_drop(next, req->record.tenant, to, drop) : KVC_OK;
}

static kvc_status key_make(struct kvc_disk *disk, const struct kvc_tier_req *req)
{
	const struct kvc_record *record = &req->record;
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status = judge(&keyring->next, record);

	if (status != KVC_OK || !keyring->under)
		return status;
	return kvc_keyring_make_key(&keyring->next, keyring->cipher, keyring->under, record->tenant);
}

static void all_refuse(struct kvc_disk *disk, struct kvc_list *waiting, kvc_status status)
{
	struct kvc_list *node;

	while ((node = kvc_list_pop(waiting)))
		kvc_disk_answer_later(disk, request_of(node), status);
}

static kvc_status next_make(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status = KVC_OK;

	if (kvc_keyring_copy(&keyring->ring, &keyring->next))
		return KVC_NO_MEMORY;
	keyring->next.sequence = ++keyring->tried;
	if (keyring->no_plain)
		status = kvc_keyring_lock(&keyring->next, keyring->cipher, keyring->under, DISK_FIRST_EPOCH);
	if (status != KVC_OK)
		return status;
	changes_make(disk, &keyring->forgets, &keyring->forgetting, tenant_drop);
	changes_make(disk, &keyring->stores, &keyring->making, key_make);
	keyring->pages = kvc_keyring_pages(keyring->next.count);
	keyring->bytes = aligned_alloc(KVC_IO_ALIGN, (size_t)keyring->pages * KVC_PAGE_BYTES);
	keyring->back = aligned_alloc(KVC_IO_ALIGN, (size_t)keyring->pages * KVC_PAGE_BYTES);
	return keyring->bytes && keyring->back ? KVC_OK : KVC_NO_MEMORY;
}

void kvc_disk_keyring_progress(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status;

	if (keyring->step != DISK_KEYRING_IDLE || kvc_disk_keyring_quiet(disk))
		return;
	keyring->step = DISK_KEYRING_WRITE;
	status = next_make(disk);
	if (status != KVC_OK) {
		all_refuse(disk, &keyring->forgets, status);
		all_refuse(disk, &keyring->stores, status);
		update_failed(disk, status);
	} else if (kvc_list_empty(&keyring->making) && kvc_list_empty(&keyring->forgetting) &&
	           !keyring->no_plain) {
		update_dismiss(disk);
	} else {
		kvc_keyring_encode(&keyring->next, keyring->bytes);
		io_start(disk, DISK_KEYRING_WRITE, KVC_IO_WRITE, 1 - keyring->in_force);
	}
}

void kvc_disk_forget_tenant(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	kvc_list_push(&disk->keyring.forgets, &req->node);
	kvc_disk_progress(disk);
}

void kvc_disk_keyring_await(struct kvc_disk *disk, struct kvc_tier_req *req)
{
	kvc_list_push(&disk->keyring.stores, &req->node);
	kvc_disk_progress(disk);
}

bool kvc_disk_keyring_quiet(const struct kvc_disk *disk)
{
	const struct disk_keyring *keyring = &disk->keyring;

	return keyring->step == DISK_KEYRING_IDLE && kvc_list_empty(&keyring->stores) &&
	       kvc_list_empty(&keyring->forgets) && !keyring->no_plain;
}

/* Its header on disk, or what may still be read of it, is from before the directory took its key. */
static bool was_plain(const struct disk_segment *segment)
{
	uint64_t epoch = segment->epoch ? segment->epoch : segment->left_epoch;

	return epoch && epoch < segment->disk->keyring.ring.plain_below;
}

void kvc_disk_keyring_no_plain(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;

	if (!keyring->under || keyring->ring.plain_below <= DISK_FIRST_EPOCH ||
	    keyring->step != DISK_KEYRING_IDLE)
		return;
	for (uint32_t i = 0; i < disk->segment_count; i++)
		if (was_plain(&disk->segments[i]))
			return;
	keyring->no_plain = true;
	kvc_disk_progress(disk);
}

/* --- at open -------------------------------------------------------------------------------------- */

static kvc_status file_write(struct disk_keyring *keyring, uint32_t file, const uint8_t *bytes,
                             uint32_t pages)
{
	ssize_t length = (ssize_t)pages * (ssize_t)KVC_PAGE_BYTES;
	ssize_t written = pwrite(keyring->files[file].fd, bytes, (size_t)length, 0);

	if (written >= 0 && written != length)
		errno = ENOSPC;
	if (written != length || fdatasync(keyring->files[file].fd))
		return kvc_status_of_errno(errno);
	return KVC_OK;
}

/* Put the table into both files, the one in force last. */
static kvc_status both_write(struct disk_keyring *keyring)
{
	uint32_t pages = kvc_keyring_pages(keyring->ring.count);
	uint8_t *bytes = aligned_alloc(KVC_IO_ALIGN, (size_t)pages * KVC_PAGE_BYTES);
	kvc_status status;

	if (!bytes)
		return KVC_NO_MEMORY;
	keyring->ring.sequence++;
	keyring->tried = keyring->ring.sequence;
	kvc_keyring_encode(&keyring->ring, bytes);
	status = file_write(keyring, 1 - keyring->in_force, bytes, pages);
	if (status == KVC_OK)
		status = file_write(keyring, keyring->in_force, bytes, pages);
	free(bytes);
	return status;
}

/* KVC_CORRUPT: it holds nothing sound of this directory. KVC_IO and others: what it holds is not known. */
static kvc_status file_read(const struct kvc_disk *disk, uint32_t file, struct kvc_keyring *ring)
{
	int fd = disk->keyring.files[file].fd;
	uint32_t most = kvc_keyring_pages(KVC_KEYRING_TENANTS_MAX), pages;
	kvc_status status = KVC_IO;
	struct stat st;
	uint8_t *bytes;

	if (fstat(fd, &st))
		return kvc_status_of_errno(errno);
	pages = (uint64_t)st.st_size / KVC_PAGE_BYTES < most ? (uint32_t)(st.st_size / KVC_PAGE_BYTES) : most;
	if (!pages)
		return KVC_CORRUPT;
	bytes = aligned_alloc(KVC_IO_ALIGN, (size_t)pages * KVC_PAGE_BYTES);
	if (!bytes)
		return KVC_NO_MEMORY;
	if (pread(fd, bytes, (size_t)pages * KVC_PAGE_BYTES, 0) == (ssize_t)pages * (ssize_t)KVC_PAGE_BYTES)
		status = kvc_keyring_decode(bytes, pages, ring);
	free(bytes);
	if (status == KVC_OK && memcmp(ring->instance, disk->super.instance, sizeof ring->instance) != 0) {
		kvc_keyring_free(ring);
		status = KVC_CORRUPT;
	}
	return status;
}

static bool readable(kvc_status status)
{
	return status == KVC_OK || status == KVC_CORRUPT;
}

/* As long as one of them cannot be read, it may be the newer one. */
static kvc_status newest_read(struct kvc_disk *disk, bool *complete)
{
	struct disk_keyring *keyring = &disk->keyring;
	struct kvc_keyring found[KVC_KEYRING_FILES] = {{.count = 0}};
	kvc_status status[KVC_KEYRING_FILES];
	uint32_t newest;

	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++)
		status[i] = file_read(disk, i, &found[i]);
	newest = status[0] != KVC_OK || (status[1] == KVC_OK && found[1].sequence > found[0].sequence);
	*complete = status[0] == KVC_OK && status[1] == KVC_OK && found[0].sequence == found[1].sequence;
	kvc_keyring_free(&found[1 - newest]);
	keyring->ring = found[newest];
	keyring->tried = keyring->ring.sequence;
	keyring->in_force = newest;
	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++)
		if (!readable(status[i]))
			return status[i];
	return status[newest];
}

static kvc_status files_open(struct kvc_disk *disk, const char *directory, const struct disk_detail *detail)
{
	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++) {
		kvc_status status =
		        kvc_file_open(disk->dir_fd, names[i], O_RDWR | O_CREAT, &disk->keyring.files[i]);

		if (status != KVC_OK)
			return kvc_disk_fail(detail, status, "%s/%s cannot be opened: %s", directory,
			                     names[i], kvc_status_text(status));
	}
	return KVC_OK;
}

static kvc_status key_take(struct kvc_disk *disk, const struct kvc_disk_options *options)
{
	struct disk_keyring *keyring = &disk->keyring;

	KVC_PRE(options->engine);
	if (!keyring->under) {
		keyring->under = kvc_secret_new(); /* not in core dumps, nor swapped */
		if (!keyring->under)
			return KVC_NO_MEMORY;
	}
	memcpy(keyring->instance, disk->super.instance, sizeof keyring->instance);
	kvc_keyring_under(options->key, keyring->instance, keyring->under);
	return keyring->cipher ? KVC_OK : kvc_cipher_open(&keyring->cipher);
}

static kvc_status key_check(struct kvc_disk *disk, const struct kvc_disk_options *options,
                            const struct disk_detail *detail)
{
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status;

	if (!options->key)
		return kvc_disk_fail(detail, KVC_ACCESS, "%s is encrypted: give its key with disk-key",
		                     options->directory);
	status = key_take(disk, options);
	if (status == KVC_OK)
		status = kvc_keyring_try(&keyring->ring, keyring->cipher, keyring->under);
	if (status == KVC_ACCESS)
		return kvc_disk_fail(detail, status,
		                     "the key does not open %s: it was encrypted under another one",
		                     options->directory);
	return status;
}

/* One that takes a key from now on. What comes now has an epoch that none has had (I1), so what is plain in
 * those is forged. In a new directory nothing may be plain. */
static kvc_status key_begin(struct kvc_disk *disk, const struct kvc_disk_options *options)
{
	struct disk_keyring *keyring = &disk->keyring;
	uint64_t plain_below = disk->super.epoch_limit;
	kvc_status status = key_take(disk, options);

	if (status)
		return status;
	if (plain_below > DISK_FIRST_EPOCH)
		kvc_warn("%s was plain: what comes is encrypted, what is there stays as it is",
		         options->directory);
	return kvc_keyring_lock(&keyring->ring, keyring->cipher, keyring->under, plain_below);
}

kvc_status kvc_disk_keyring_open(struct kvc_disk *disk, const struct kvc_disk_options *options,
                                 const struct disk_detail *detail)
{
	struct disk_keyring *keyring = &disk->keyring;
	const char *directory = options->directory;
	bool complete, change = options->key != NULL;
	kvc_status status = files_open(disk, directory, detail);

	if (status == KVC_OK)
		status = newest_read(disk, &complete);
	if (status == KVC_CORRUPT && disk->super.version < KVC_SUPER_WITH_KEYRING)
		return kvc_disk_keyring_create(disk, options, detail);
	if (status == KVC_CORRUPT)
		return kvc_disk_fail(detail, status,
		                     "%s/keyring.0 and .1 are damaged: remove the directory to start empty",
		                     directory);
	if (status != KVC_OK && !*detail->text)
		return kvc_disk_fail(detail, status, "%s: its keyring cannot be read: %s", directory,
		                     kvc_status_text(status));
	if (status != KVC_OK)
		return status;
	if (keyring->ring.encrypted) {
		status = key_check(disk, options, detail);
		change = false;
	}
	if (status == KVC_OK && change)
		status = key_begin(disk, options);
	if (status == KVC_OK && (change || !complete))
		status = both_write(keyring);
	if (status != KVC_OK && !*detail->text)
		return kvc_disk_fail(detail, status, "%s: its keyring cannot be written: %s", directory,
		                     kvc_status_text(status));
	return status;
}

kvc_status kvc_disk_keyring_create(struct kvc_disk *disk, const struct kvc_disk_options *options,
                                   const struct disk_detail *detail)
{
	struct disk_keyring *keyring = &disk->keyring;
	kvc_status status = KVC_OK;

	if (keyring->files[0].fd < 0)
		status = files_open(disk, options->directory, detail);
	kvc_keyring_free(&keyring->ring);
	memcpy(keyring->ring.instance, disk->super.instance, sizeof keyring->ring.instance);
	if (status == KVC_OK && options->key)
		status = key_begin(disk, options);
	if (status == KVC_OK)
		status = both_write(keyring);
	if (status == KVC_OK && fsync(disk->dir_fd))
		status = kvc_status_of_errno(errno);
	if (status != KVC_OK && !*detail->text)
		return kvc_disk_fail(detail, status, "%s: its keyring cannot be written: %s",
		                     options->directory, kvc_status_text(status));
	return status;
}

void kvc_disk_keyring_init(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;

	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++)
		keyring->files[i].fd = -1;
	kvc_list_init(&keyring->stores);
	kvc_list_init(&keyring->making);
	kvc_list_init(&keyring->forgets);
	kvc_list_init(&keyring->forgetting);
}

void kvc_disk_keyring_close(struct kvc_disk *disk)
{
	struct disk_keyring *keyring = &disk->keyring;

	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++)
		if (keyring->files[i].fd >= 0)
			kvc_file_close(&keyring->files[i]);
	kvc_keyring_free(&keyring->ring);
	kvc_cipher_close(keyring->cipher);
	kvc_secret_free(keyring->under); /* wipes it */
}

/* --- several directories -------------------------------------------------------------------------- */

/* Whether who dropped a tenant last as `later` says knew of all drops that made `earlier`. What is not known
 * of is taken for missed. */
static bool follows(const struct kvc_keyring_row *later, const struct kvc_keyring_row *earlier)
{
	if (!earlier->incarnation || earlier->drop == later->drop)
		return true;
	return earlier->incarnation < later->incarnation && (uint32_t)earlier->drop == later->before;
}

/* What a tenant is to be in all of them: as in the one that has dropped it most often. If that one has missed
 * a drop of another one's, what is in it may have been dropped: it is another one. */
static struct kvc_keyring_row row_of_all(struct kvc_tier *const *tiers, uint32_t count,
                                         const uint8_t tenant[16])
{
	struct kvc_keyring_row most = {.incarnation = 0};
	const struct kvc_keyring_row *row;
	bool missed = false;

	for (uint32_t i = 0; i < count; i++) {
		row = kvc_keyring_find(&disk_of(tiers[i])->keyring.ring, tenant);
		if (row && row->incarnation > most.incarnation)
			most = *row;
	}
	for (uint32_t i = 0; i < count; i++) {
		row = kvc_keyring_find(&disk_of(tiers[i])->keyring.ring, tenant);
		missed |= row && !follows(&most, row);
	}
	if (missed) {
		most.incarnation++;
		kvc_random(&most.drop, sizeof most.drop);
	}
	return most;
}

/* Note in `all` what whom `from` knows is to be in all of them. */
static kvc_status rows_gather(struct kvc_tier *const *tiers, uint32_t count, const struct kvc_keyring *from,
                              struct kvc_keyring *all)
{
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < from->count; i++) {
		const uint8_t *tenant = from->rows[i].tenant;
		struct kvc_keyring_row row;

		if (kvc_keyring_find(all, tenant))
			continue;
		row = row_of_all(tiers, count, tenant);
		if (row.incarnation)
			status = kvc_keyring_drop(all, tenant, row.incarnation, row.drop);
	}
	return status;
}

/* Drop in `to` whom another one has dropped more often. */
static kvc_status rows_raise(const struct kvc_keyring *all, struct kvc_keyring *to, bool *changed)
{
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < all->count; i++) {
		const struct kvc_keyring_row *row = &all->rows[i];

		if (kvc_keyring_incarnation(to, row->tenant) >= row->incarnation)
			continue;
		status = kvc_keyring_drop(to, row->tenant, row->incarnation, row->drop);
		*changed = true;
	}
	return status;
}

kvc_status kvc_disk_agree(struct kvc_tier *const *tiers, uint32_t count)
{
	struct kvc_keyring all = {.count = 0};
	kvc_status status = KVC_OK;

	for (uint32_t i = 0; status == KVC_OK && i < count; i++)
		status = rows_gather(tiers, count, &disk_of(tiers[i])->keyring.ring, &all);
	for (uint32_t i = 0; status == KVC_OK && i < count; i++) {
		struct disk_keyring *to = &disk_of(tiers[i])->keyring;
		bool changed = false;

		status = rows_raise(&all, &to->ring, &changed);
		if (status == KVC_OK && changed)
			status = both_write(to);
	}
	kvc_keyring_free(&all);
	return status;
}
