/* The disk tier's keyring at work (disk_keyring.c), and the encrypting and decrypting of records
 * (disk_crypt.c). Private to the tier. */
#ifndef KVC_DISK_KEYRING_H
#define KVC_DISK_KEYRING_H

#include "daemon/tier/disk.h"
#include "daemon/tier/disk_jobs.h"

struct kvc_disk;
struct disk_detail;

/* --- disk_keyring.c --- */

void kvc_disk_keyring_init(struct kvc_disk *disk);
void kvc_disk_keyring_close(struct kvc_disk *disk);

/* Read it and try the key; or make a new one, for the instance in disk->super. A directory of a version
 * without one gets it when it is opened. It may have one all the same, if the superblock that says otherwise
 * is the one of before, as the newer one was damaged: that counts. */
kvc_status kvc_disk_keyring_open(struct kvc_disk *disk, const struct kvc_disk_options *options,
                                 const struct disk_detail *detail);
kvc_status kvc_disk_keyring_create(struct kvc_disk *disk, const struct kvc_disk_options *options,
                                   const struct disk_detail *detail);

uint32_t kvc_disk_incarnation(struct kvc_tier *tier, const uint8_t tenant[16]);

/* Whether a record may be stored: KVC_OK. KVC_CANCELLED: its tenant was dropped since it was put.
 * KVC_UNAVAILABLE: it was dropped in other directories, and this one has not heard of it. */
kvc_status kvc_disk_keyring_judge(const struct kvc_disk *disk, const struct kvc_record *record);

/* The record's tenant was dropped since it was put. */
bool kvc_disk_keyring_dropped(const struct kvc_disk *disk, const struct kvc_record *record);

/* The row of a tenant that has a key, else NULL. */
const struct kvc_keyring_row *kvc_disk_keyring_row(const struct kvc_disk *disk, const uint8_t tenant[16]);

/* A store that has to wait for the keyring: its tenant has no key yet; its tenant is being dropped here, and
 * was elsewhere already; or it is not known what is on stable storage. */
bool kvc_disk_keyring_lacks(const struct kvc_disk *disk, const struct kvc_record *record);
void kvc_disk_keyring_await(struct kvc_disk *disk, struct kvc_tier_req *req);
void kvc_disk_forget_tenant(struct kvc_disk *disk, struct kvc_tier_req *req);
void kvc_disk_keyring_progress(struct kvc_disk *disk);

/* A segment was written anew, or all were seen at start: if none is left that was plain, nothing may be plain
 * any more. A failure is told in the log; it is tried again the next time. */
void kvc_disk_keyring_no_plain(struct kvc_disk *disk);
bool kvc_disk_keyring_quiet(const struct kvc_disk *disk);

/* --- disk_crypt.c --- */

kvc_status kvc_disk_crypt_open(struct kvc_disk *disk);
void kvc_disk_crypt_close(struct kvc_disk *disk);

/* Room for so many bytes of records in the write's own memory. False: none. */
bool kvc_disk_encrypt_room(struct disk_write *write, uint64_t bytes);

/* Encrypt all records of a write to where its iov points; then kvc_disk_write_ready. */
void kvc_disk_encrypt(struct disk_write *write);
void kvc_disk_write_ready(struct disk_write *write, kvc_status status);

/* Decrypt the record at `bytes`, of which `length` are there, if it is encrypted. That it is the one that was
 * asked for is for the caller to know. True: `done` will be called, with KVC_OK, KVC_CORRUPT, KVC_MISS (there
 * is no key) or KVC_UNAVAILABLE (no memory). False: *status is KVC_OK, there was nothing to do; KVC_MISS,
 * there is no key or the tenant was dropped; or KVC_CORRUPT, its header is not sound, it is longer,
 * or it is plain where nothing may be. */
bool kvc_disk_decrypt(struct disk_decrypt *decrypt, uint8_t *bytes, uint64_t length, kvc_status *status);

/* The same on this thread, at start. */
kvc_status kvc_disk_decrypt_now(struct kvc_disk *disk, uint8_t *bytes, uint64_t length);

void kvc_disk_load_decrypted(struct disk_decrypt *decrypt, kvc_status status);
void kvc_disk_copy_decrypted(struct disk_decrypt *decrypt, kvc_status status);
void kvc_disk_scrub_decrypted(struct disk_decrypt *decrypt, kvc_status status);

#endif
