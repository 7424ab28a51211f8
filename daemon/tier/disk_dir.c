/* The tier's directory: everything that happens to it before the first scan. Synchronous system calls; it
 * runs once, before the process serves anybody.
 *
 * Order of creation: lock, secret, keyring, superblock. A directory whose superblock is missing is empty,
 * whatever else is in it: its segments carry another instance id, and so do not count (I2). One that is
 * refused stays as it was. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

#define SEGMENTS     "segments"
#define MIB          (1ull << 20)
#define SEGMENT_MIN  (64ull << 10) /* of what an administrator may ask for */
#define SEGMENT_MAX  ((unsigned long long)DISK_PAGES_MAX * KVC_PAGE_BYTES)
#define SEGMENTS_MIN 4u
#define SEGMENTS_MAX 4096u
#define EPOCHS_AHEAD 64u

kvc_status kvc_disk_fail(const struct disk_detail *detail, kvc_status status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(detail->text, detail->bytes, format, arguments);
	va_end(arguments);
	return status;
}

static kvc_status fail_errno(const struct disk_detail *detail, const char *directory, const char *what)
{
	int error = errno;

	return kvc_disk_fail(detail, kvc_status_of_errno(error), "%s: %s: %s", directory, what,
	                     strerror(error));
}

/* --- directories and lock ------------------------------------------------------------------------- */

/* Ours alone: what rests here are other people's prompts. */
static kvc_status private_check(int fd, const char *path, const struct disk_detail *detail)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail_errno(detail, path, "cannot be examined");
	if (st.st_mode & 077)
		return kvc_disk_fail(detail, KVC_ACCESS,
		                     "%s is open to other users (mode %03o): chmod go= it", path,
		                     st.st_mode & 0777u);
	if (st.st_uid != geteuid())
		return kvc_disk_fail(detail, KVC_ACCESS,
		                     "%s belongs to user %u, not to user %u who runs this", path, st.st_uid,
		                     geteuid());
	return KVC_OK;
}

/* Its entry in the directory above is on stable storage when this returns. */
static int parent_sync(int fd)
{
	int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int failed = parent < 0 || fsync(parent);

	if (parent >= 0)
		close(parent);
	return failed;
}

/* In another directory of the tier: never through a link. */
static int inner_open(int at, const char *path)
{
	return openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* The tier's own, as the administrator names it: through a link too (StateDirectory= with DynamicUser= is
 * one) if root or we ourselves made that. What it leads to is looked at like any other directory. */
static int outer_open(const char *path)
{
	struct stat link;
	bool is_link = !lstat(path, &link) && S_ISLNK(link.st_mode);

	if (is_link && link.st_uid != 0 && link.st_uid != geteuid()) {
		errno = ELOOP;
		return -1;
	}
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (is_link ? 0 : O_NOFOLLOW));
}

/* Make it if it is missing. `at`: the directory it is in, or AT_FDCWD for the tier's own. */
static kvc_status directory_open(int at, const char *path, const struct disk_detail *detail, int *fd)
{
	bool made = !mkdirat(at, path, 0700);
	kvc_status status;
	int opened;

	if (!made && errno != EEXIST)
		return fail_errno(detail, path, "cannot be created");
	opened = at == AT_FDCWD ? outer_open(path) : inner_open(at, path);
	if (opened < 0 && errno == ENOTDIR)
		return kvc_disk_fail(detail, KVC_ACCESS, "%s is not a directory%s", path,
		                     at == AT_FDCWD ? "" : ", or is a symbolic link");
	if (opened < 0 && errno == ELOOP)
		return kvc_disk_fail(detail, KVC_ACCESS, "%s is a symbolic link that another user made",
		                     path);
	if (opened < 0)
		return fail_errno(detail, path, "cannot be opened");
	status = private_check(opened, path, detail);
	if (status == KVC_OK && made && parent_sync(opened))
		status = fail_errno(detail, path, "cannot be made durable");
	if (status) {
		close(opened);
		return status;
	}
	*fd = opened;
	return KVC_OK;
}

static kvc_status lock_take(struct kvc_disk *disk, const char *directory, const struct disk_detail *detail)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	disk->lock_fd =
	        openat(disk->dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (disk->lock_fd < 0 && errno == ELOOP)
		return kvc_disk_fail(detail, KVC_ACCESS, "%s/lock is a symbolic link", directory);
	if (disk->lock_fd < 0)
		return fail_errno(detail, directory, "its lock cannot be opened");
	if (!fcntl(disk->lock_fd, F_OFD_SETLK, &lock))
		return KVC_OK;
	if (errno == EAGAIN || errno == EACCES)
		return kvc_disk_fail(detail, KVC_IN_USE, "%s is in use by another process, or named twice",
		                     directory);
	return fail_errno(detail, directory, "cannot be locked");
}

/* --- small files ---------------------------------------------------------------------------------- */

/* A whole file appears under its name at once, and is on stable storage when this returns. */
static int file_create(int dir_fd, const char *name, const void *bytes, size_t length)
{
	const char *scratch = "new";
	int fd = openat(dir_fd, scratch, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK,
	                0600);
	ssize_t written;

	if (fd < 0)
		return -1;
	written = pwrite(fd, bytes, length, 0);
	if (written >= 0 && written != (ssize_t)length)
		errno = ENOSPC;
	if (written != (ssize_t)length || fsync(fd)) {
		close(fd);
		return -1;
	}
	close(fd);
	return renameat(dir_fd, scratch, dir_fd, name) || fsync(dir_fd) ? -1 : 0;
}

/* KVC_MISS: there is none. KVC_CORRUPT: not of that length. */
static kvc_status file_read(int dir_fd, const char *name, void *bytes, size_t length)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	kvc_status status = KVC_OK;
	struct stat st;

	if (fd < 0 && errno == ELOOP)
		return KVC_ACCESS;
	if (fd < 0)
		return errno == ENOENT ? KVC_MISS : kvc_status_of_errno(errno);
	if (fstat(fd, &st))
		status = kvc_status_of_errno(errno);
	else if (!S_ISREG(st.st_mode) || st.st_mode & 077)
		status = KVC_ACCESS;
	else if (st.st_size != (off_t)length || pread(fd, bytes, length, 0) != (ssize_t)length)
		status = KVC_CORRUPT;
	close(fd);
	return status;
}

static kvc_status secret_write(const struct kvc_disk *disk, const char *directory,
                               const struct disk_detail *detail)
{
	if (file_create(disk->dir_fd, "secret", disk->secret.bytes, sizeof disk->secret.bytes))
		return fail_errno(detail, directory, "its secret cannot be written");
	return KVC_OK;
}

/* *fresh: it has another one from now on, which is not written yet: nothing that was stored before can be
 * found again. */
static kvc_status secret_open(struct kvc_disk *disk, const struct kvc_disk_options *options,
                              const struct disk_detail *detail, bool *fresh)
{
	const char *directory = options->directory;
	kvc_status status = file_read(disk->dir_fd, "secret", disk->secret.bytes, sizeof disk->secret.bytes);

	if (status == KVC_OK && options->secret &&
	    memcmp(&disk->secret, options->secret, sizeof disk->secret) != 0)
		status = KVC_MISS;
	*fresh = status == KVC_MISS;
	if (status == KVC_OK)
		return KVC_OK;
	if (status == KVC_ACCESS)
		return kvc_disk_fail(detail, status, "%s/secret must be a regular file of mode 600",
		                     directory);
	if (status != KVC_MISS)
		return kvc_disk_fail(detail, status, "%s/secret cannot be read: remove it to start empty",
		                     directory);
	if (options->secret)
		disk->secret = *options->secret;
	else
		kvc_secret_random(&disk->secret);
	return KVC_OK;
}

/* --- geometry ------------------------------------------------------------------------------------- */

static uint64_t segment_bytes_for(uint64_t bytes)
{
	uint64_t segment = 256 * MIB;

	while (segment > 4 * MIB && segment > bytes / 16)
		segment /= 2;
	while (bytes / segment > SEGMENTS_MAX)
		segment *= 2;
	return segment;
}

/* The directory's own segment size stays, unless another one is asked for or it no longer fits. */
static kvc_status geometry_choose(struct kvc_disk *disk, const struct kvc_disk_options *options, bool exists,
                                  const struct disk_detail *detail, bool *changed)
{
	uint64_t wanted = options->segment_bytes;
	uint64_t segment = wanted ? wanted : segment_bytes_for(options->bytes);
	uint64_t have = disk->super.segment_bytes;

	if (exists && !wanted && options->bytes / have >= SEGMENTS_MIN &&
	    options->bytes / have <= SEGMENTS_MAX)
		segment = have;
	if (segment % KVC_PAGE_BYTES || segment < SEGMENT_MIN || segment > SEGMENT_MAX)
		return kvc_disk_fail(
		        detail, KVC_INVALID,
		        "a segment cannot have %llu bytes: expected a multiple of %u, %llu to %llu",
		        (unsigned long long)segment, KVC_PAGE_BYTES, SEGMENT_MIN, SEGMENT_MAX);
	if (options->bytes / segment < SEGMENTS_MIN || options->bytes / segment > SEGMENTS_MAX)
		return kvc_disk_fail(
		        detail, KVC_INVALID, "%llu bytes make %llu segments; there must be %u to %u",
		        (unsigned long long)options->bytes, (unsigned long long)(options->bytes / segment),
		        SEGMENTS_MIN, SEGMENTS_MAX);
	*changed = exists && segment != have;
	disk->super.segment_bytes = segment;
	disk->segment_pages = (uint32_t)(segment / KVC_PAGE_BYTES);
	disk->segment_count = (uint32_t)(options->bytes / segment);
	return KVC_OK;
}

/* --- superblock ----------------------------------------------------------------------------------- */

static kvc_status super_read(struct kvc_disk *disk, const char *directory, const struct disk_detail *detail)
{
	uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES];
	kvc_status status = file_read(disk->dir_fd, "super", slots, sizeof slots);

	if (status == KVC_OK)
		status = kvc_super_decode(slots, &disk->super);
	switch (status) {
	case KVC_OK:
	case KVC_MISS:
		return status;
	case KVC_VERSION:
		return kvc_disk_fail(detail, status,
		                     "%s was made by a newer version: use that one, or another directory",
		                     directory);
	case KVC_ACCESS:
		return kvc_disk_fail(detail, status, "%s/super must be a regular file of mode 600",
		                     directory);
	default:
		return kvc_disk_fail(detail, KVC_CORRUPT,
		                     "%s/super is damaged: remove the directory to start empty", directory);
	}
}

/* A new directory, or an old one that starts empty: a new instance id voids all that lies there. The keyring
 * comes before the superblock, which promises one; the old superblock goes before all else, as the old
 * keyring ends with the first write of the new one, and what lies there is not to be found under another
 * secret. */
static kvc_status super_create(struct kvc_disk *disk, const struct kvc_disk_options *options, bool fresh,
                               const struct disk_detail *detail)
{
	uint8_t slots[KVC_SUPER_SLOTS * KVC_PAGE_BYTES] = {0};
	struct kvc_secret random;
	kvc_status status;

	kvc_secret_random(&random);
	memcpy(disk->super.instance, random.bytes, sizeof disk->super.instance);
	disk->super.sequence = 0;
	disk->super.epoch_limit = DISK_FIRST_EPOCH;
	if ((unlinkat(disk->dir_fd, "super", 0) && errno != ENOENT) || fsync(disk->dir_fd))
		return fail_errno(detail, options->directory, "its old superblock cannot be removed");
	status = fresh ? secret_write(disk, options->directory, detail) : KVC_OK;
	if (status == KVC_OK)
		status = kvc_disk_keyring_create(disk, options, detail);
	if (status != KVC_OK)
		return status;
	kvc_super_encode(&disk->super, slots);
	if (file_create(disk->dir_fd, "super", slots, sizeof slots))
		return fail_errno(detail, options->directory, "its superblock cannot be written");
	return KVC_OK;
}

/* Take the next epochs (I1), in the slot that is not in force (I6). */
static kvc_status super_advance(struct kvc_disk *disk, const char *directory,
                                const struct disk_detail *detail)
{
	struct kvc_super next = disk->super;
	kvc_status status = kvc_file_open(disk->dir_fd, "super", O_RDWR, &disk->super_file);
	uint8_t *page = disk->prepare.page;

	if (status)
		return kvc_disk_fail(detail, status, "%s/super cannot be opened: %s", directory,
		                     kvc_status_text(status));
	disk->next_epoch = next.epoch_limit;
	next.epoch_limit += EPOCHS_AHEAD;
	next.sequence++;
	kvc_super_encode(&next, page);
	if (pwrite(disk->super_file.fd, page, KVC_PAGE_BYTES,
	           (off_t)kvc_super_slot(next.sequence) * KVC_PAGE_BYTES) != KVC_PAGE_BYTES ||
	    fdatasync(disk->super_file.fd))
		return fail_errno(detail, directory, "its superblock cannot be written");
	disk->super = next;
	return KVC_OK;
}

/* --- segment files -------------------------------------------------------------------------------- */

void kvc_disk_segment_name(uint32_t number, char name[DISK_NAME_BYTES])
{
	snprintf(name, DISK_NAME_BYTES, "%u", number);
}

/* True: a segment's file of that number or above. */
static bool surplus(const char *name, uint32_t first)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);

	return *name >= '0' && *name <= '9' && !*end && number >= first;
}

/* Remove the files of segments from `first` on: the tier has become smaller, or starts empty. */
static kvc_status segments_remove(const struct kvc_disk *disk, uint32_t first)
{
	int fd = openat(disk->segments_dir.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *listing = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!listing) {
		if (fd >= 0)
			close(fd);
		return KVC_IO;
	}
	while ((entry = readdir(listing)))
		if (surplus(entry->d_name, first) && unlinkat(fd, entry->d_name, 0))
			kvc_warn("segment %s cannot be removed: %s", entry->d_name, strerror(errno));
	closedir(listing);
	return KVC_OK;
}

static kvc_status segments_open(struct kvc_disk *disk, const char *directory,
                                const struct disk_detail *detail)
{
	disk->segments = kvc_calloc(disk->segment_count, sizeof *disk->segments);
	if (!disk->segments)
		return kvc_disk_fail(detail, KVC_NO_MEMORY, "no memory for %u segments", disk->segment_count);
	for (uint32_t i = 0; i < disk->segment_count; i++) {
		disk->segments[i].disk = disk;
		disk->segments[i].number = i;
		disk->segments[i].file.fd = -1;
		kvc_list_init(&disk->segments[i].dirty);
	}
	for (uint32_t i = 0; i < disk->segment_count; i++) {
		char name[DISK_NAME_BYTES];
		kvc_status status;

		kvc_disk_segment_name(i, name);
		status = kvc_file_open(disk->segments_dir.fd, name, O_RDWR, &disk->segments[i].file);
		if (status != KVC_OK && status != KVC_MISS)
			return kvc_disk_fail(detail, status, "%s/" SEGMENTS "/%u cannot be opened: %s",
			                     directory, i, kvc_status_text(status));
	}
	return KVC_OK;
}

/* Without them there is no checkpoint, and the start is slower: nothing to fail for. */
static void checkpoints_open(struct kvc_disk *disk)
{
	static const char *const names[KVC_CHECKPOINT_FILES] = {"checkpoint.0", "checkpoint.1"};

	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++) {
		kvc_status status =
		        kvc_file_open(disk->dir_fd, names[i], O_RDWR | O_CREAT, &disk->checkpoint_files[i]);

		if (status == KVC_OK)
			continue;
		kvc_warn("disk tier: %s cannot be opened: %s", names[i], kvc_status_text(status));
		disk->checkpoint_files[i].fd = -1;
	}
}

/* --- all of it ------------------------------------------------------------------------------------ */

static kvc_status super_open(struct kvc_disk *disk, const struct kvc_disk_options *options, bool fresh,
                             const struct disk_detail *detail)
{
	const char *directory = options->directory;
	kvc_status status = super_read(disk, directory, detail);
	bool exists = status == KVC_OK;
	bool changed = false;

	if (status != KVC_OK && status != KVC_MISS)
		return status;
	status = KVC_OK;
	if (exists)
		status = kvc_disk_keyring_open(disk, options, detail);
	if (status == KVC_OK)
		status = geometry_choose(disk, options, exists, detail, &changed);
	if (status)
		return status;
	if (exists && !fresh && !changed) {
		status = segments_remove(disk, disk->segment_count);
	} else {
		if (exists)
			kvc_warn("%s starts empty: its %s changed", directory,
			         fresh ? "secret" : "segment size");
		status = segments_remove(disk, 0);
		if (status == KVC_OK)
			status = super_create(disk, options, fresh, detail);
	}
	return status ? status : super_advance(disk, directory, detail);
}

kvc_status kvc_disk_dir_open(struct kvc_disk *disk, const struct kvc_disk_options *options,
                             const struct disk_detail *detail)
{
	const char *directory = options->directory;
	kvc_status status = directory_open(AT_FDCWD, directory, detail, &disk->dir_fd);
	bool fresh = false;

	if (status == KVC_OK)
		status = lock_take(disk, directory, detail);
	if (status == KVC_OK)
		status = directory_open(disk->dir_fd, SEGMENTS, detail, &disk->segments_dir.fd);
	if (status == KVC_OK)
		status = secret_open(disk, options, detail, &fresh);
	if (status == KVC_OK)
		status = super_open(disk, options, fresh, detail);
	if (status == KVC_OK)
		status = segments_open(disk, directory, detail);
	if (status == KVC_OK) {
		checkpoints_open(disk);
		kvc_disk_crashes_open(disk);
		kvc_disk_wear_open(disk);
	}
	return status;
}

void kvc_disk_dir_close(struct kvc_disk *disk)
{
	for (uint32_t i = 0; disk->segments && i < disk->segment_count; i++) {
		kvc_disk_summary_drop(&disk->segments[i]);
		kvc_free(disk->segments[i].entries);
		if (disk->segments[i].file.fd >= 0)
			kvc_file_close(&disk->segments[i].file);
	}
	kvc_free(disk->segments);
	for (uint32_t i = 0; i < KVC_CHECKPOINT_FILES; i++)
		if (disk->checkpoint_files[i].fd >= 0)
			kvc_file_close(&disk->checkpoint_files[i]);
	if (disk->super_file.fd >= 0)
		kvc_file_close(&disk->super_file);
	if (disk->segments_dir.fd >= 0)
		kvc_file_close(&disk->segments_dir);
	kvc_disk_wear_close(disk);
	kvc_disk_keyring_close(disk);
	if (disk->crashes_fd >= 0)
		close(disk->crashes_fd);
	if (disk->lock_fd >= 0)
		close(disk->lock_fd);
	if (disk->dir_fd >= 0)
		close(disk->dir_fd);
}
