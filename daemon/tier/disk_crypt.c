/* Encrypting what is written and decrypting what was read, on the threads of the engine. Each write, load,
 * copy and the scrubber has a context of its own, made at open. A job carries its tenant's wrapped key; the
 * key itself is on a worker's stack for as long as it works. */
#include <stdlib.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/tier/disk_private.h"

/* --- writes, on a worker -------------------------------------------------------------------------- */

static bool same_row(const struct kvc_keyring_row *a, const struct kvc_keyring_row *b)
{
	return !memcmp(a->tenant, b->tenant, sizeof a->tenant) &&
	       !memcmp(a->wrapped, b->wrapped, sizeof a->wrapped);
}

/* All records of a write, from the slabs to its own memory. Neither changes meanwhile. */
static kvc_status write_encrypt(struct kvc_engine_job *job)
{
	struct disk_write *write = kvc_container_of(job, struct disk_write, job);
	const struct kvc_disk *disk = write->disk;
	const struct kvc_keyring_row *row = NULL;
	struct kvc_secret key;
	kvc_status status = KVC_OK;
	uint32_t i = 0;

	kvc_list_each (node, &write->requests) {
		const struct kvc_tier_req *req = kvc_container_of(node, struct kvc_tier_req, node);

		if (!row || !same_row(row, &write->rows[i])) {
			row = &write->rows[i];
			status = kvc_keyring_key(disk->keyring.instance, row, write->cipher,
			                         disk->keyring.under, &key);
		}
		if (status == KVC_OK)
			status = kvc_record_encrypt(write->cipher, &key, &req->record,
			                            req->slab + KVC_RECORD_HEADER_BYTES,
			                            write->iov[i].iov_base);
		if (status != KVC_OK)
			break;
		i++;
	}
	kvc_wipe(&key, sizeof key);
	return status;
}

static void write_encrypted(struct kvc_engine_job *job)
{
	struct disk_write *write = kvc_container_of(job, struct disk_write, job);

	memset(write->rows, 0, write->io.iov_count * sizeof *write->rows);
	write->encrypting = false;
	kvc_disk_write_ready(write, job->status);
}

void kvc_disk_encrypt(struct disk_write *write)
{
	write->encrypting = true;
	write->job.op = KVC_ENGINE_WORK;
	write->job.work = write_encrypt;
	write->job.done = write_encrypted;
	kvc_engine_submit(write->disk->engine, &write->job);
}

bool kvc_disk_encrypt_room(struct disk_write *write, uint64_t bytes)
{
	uint8_t *grown;

	if (bytes <= write->bounce_bytes)
		return true;
	if (write->bytes) /* what is in it already points there */
		return false;
	grown = aligned_alloc(KVC_IO_ALIGN, bytes);
	if (!grown)
		return false;
	free(write->bounce);
	write->bounce = grown;
	write->bounce_bytes = bytes;
	return true;
}

/* --- what was read -------------------------------------------------------------------------------- */

static kvc_status record_decrypt(struct kvc_engine_job *job)
{
	struct disk_decrypt *decrypt = kvc_container_of(job, struct disk_decrypt, job);
	const struct kvc_disk *disk = decrypt->disk;
	struct kvc_secret key;
	kvc_status status = kvc_keyring_key(disk->keyring.instance, &decrypt->row, decrypt->cipher,
	                                    disk->keyring.under, &key);

	if (status == KVC_OK)
		status = kvc_record_decrypt(decrypt->cipher, &key, decrypt->bytes, decrypt->length);
	kvc_wipe(&key, sizeof key);
	return status;
}

static void record_decrypted(struct kvc_engine_job *job)
{
	struct disk_decrypt *decrypt = kvc_container_of(job, struct disk_decrypt, job);
	kvc_status status = job->status == KVC_NO_MEMORY ? KVC_UNAVAILABLE : job->status;

	kvc_wipe(&decrypt->row, sizeof decrypt->row);
	decrypt->done(decrypt, status);
}

static bool may_be_plain(const struct kvc_disk *disk, const struct kvc_record *record)
{
	return !disk->keyring.under || record->epoch < disk->keyring.ring.plain_below;
}

/* The row of an encrypted record's tenant. */
static kvc_status row_for(const struct kvc_disk *disk, const uint8_t *bytes, uint64_t length,
                          const struct kvc_keyring_row **row)
{
	struct kvc_record record;

	*row = NULL;
	if (kvc_record_parse(bytes, length, &record) != KVC_OK)
		return KVC_CORRUPT;
	if (kvc_disk_keyring_dropped(disk, &record))
		return KVC_MISS;
	if (!record.encrypted)
		return may_be_plain(disk, &record) ? KVC_OK : KVC_CORRUPT;
	*row = disk->keyring.under ? kvc_disk_keyring_row(disk, record.tenant) : NULL;
	return *row ? KVC_OK : KVC_MISS;
}

bool kvc_disk_decrypt(struct disk_decrypt *decrypt, uint8_t *bytes, uint64_t length, kvc_status *status)
{
	const struct kvc_keyring_row *row;

	*status = row_for(decrypt->disk, bytes, length, &row);
	if (!row)
		return false;
	decrypt->row = *row;
	decrypt->bytes = bytes;
	decrypt->length = length;
	decrypt->job.op = KVC_ENGINE_WORK;
	decrypt->job.work = record_decrypt;
	decrypt->job.done = record_decrypted;
	kvc_engine_submit(decrypt->disk->engine, &decrypt->job);
	return true;
}

kvc_status kvc_disk_decrypt_now(struct kvc_disk *disk, uint8_t *bytes, uint64_t length)
{
	const struct kvc_keyring_row *row;
	struct kvc_secret key;
	kvc_status status = row_for(disk, bytes, length, &row);

	if (!row)
		return status;
	status =
	        kvc_keyring_key(disk->keyring.instance, row, disk->keyring.cipher, disk->keyring.under, &key);
	if (status == KVC_OK)
		status = kvc_record_decrypt(disk->keyring.cipher, &key, bytes, length);
	kvc_wipe(&key, sizeof key);
	return status;
}

/* --- life ----------------------------------------------------------------------------------------- */

static kvc_status decrypt_open(struct kvc_disk *disk, struct disk_decrypt *decrypt,
                               void (*done)(struct disk_decrypt *decrypt, kvc_status status))
{
	decrypt->disk = disk;
	decrypt->done = done;
	return disk->keyring.under ? kvc_cipher_open(&decrypt->cipher) : KVC_OK;
}

static kvc_status write_open(struct disk_write *write)
{
	write->rows = kvc_calloc(DISK_WRITE_IOV, sizeof *write->rows);
	if (!write->rows || !kvc_disk_encrypt_room(write, write->disk->write_bytes))
		return KVC_NO_MEMORY;
	return kvc_cipher_open(&write->cipher);
}

kvc_status kvc_disk_crypt_open(struct kvc_disk *disk)
{
	kvc_status status = decrypt_open(disk, &disk->scrub.decrypt, kvc_disk_scrub_decrypted);

	for (uint32_t i = 0; status == KVC_OK && i < DISK_LOADS; i++)
		status = decrypt_open(disk, &disk->loads.all[i].decrypt, kvc_disk_load_decrypted);
	for (uint32_t i = 0; status == KVC_OK && i < DISK_COPIES; i++)
		status = decrypt_open(disk, &disk->keep.copies[i].decrypt, kvc_disk_copy_decrypted);
	for (uint32_t i = 0; status == KVC_OK && disk->keyring.under && i < DISK_WRITES; i++)
		status = write_open(&disk->writes.all[i]);
	return status;
}

void kvc_disk_crypt_close(struct kvc_disk *disk)
{
	kvc_cipher_close(disk->scrub.decrypt.cipher);
	for (uint32_t i = 0; disk->loads.all && i < DISK_LOADS; i++)
		kvc_cipher_close(disk->loads.all[i].decrypt.cipher);
	for (uint32_t i = 0; i < DISK_COPIES; i++)
		kvc_cipher_close(disk->keep.copies[i].decrypt.cipher);
	for (uint32_t i = 0; disk->writes.all && i < DISK_WRITES; i++) {
		struct disk_write *write = &disk->writes.all[i];

		kvc_cipher_close(write->cipher);
		kvc_free(write->rows);
		free(write->bounce);
	}
}
