/* Finding the drives below a directory, and asking them. Blocking system calls: not for the loop's thread.
 *
 * The block device of the directory's file system is followed to whole drives: a partition to what it is part
 * of, a mapped device (dm, md) to those it is made of. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/base/errno.h"
#include "daemon/tier/drive.h"

enum {
	DEVICES_MAX = 64, /* that are looked at, of one directory */
	ADMIN_GET_LOG_PAGE = 0x02,
	LOG_SMART = 0x02,
	ADMIN_TIMEOUT_MS = 10000,
};

/* Devices to be looked at: folders of the tree below /sys, as real paths. */
struct search {
	char *todo[DEVICES_MAX];
	uint32_t count;
	uint32_t seen;
};

/* --- finding -------------------------------------------------------------------------------------- */

static void search_add(struct search *search, const char *path)
{
	char *folder = search->seen < DEVICES_MAX ? realpath(path, NULL) : NULL;

	if (!folder)
		return;
	search->seen++;
	search->todo[search->count++] = folder;
}

static bool exists_in(const char *folder, const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	return (size_t)snprintf(path, sizeof path, "%s/%s", folder, name) < sizeof path && !stat(path, &st);
}

/* How many devices this one is made of. */
static uint32_t slaves_add(struct search *search, const char *folder)
{
	char path[PATH_MAX];
	struct dirent *entry;
	uint32_t count = 0;
	DIR *slaves;

	if ((size_t)snprintf(path, sizeof path, "%s/slaves", folder) >= sizeof path)
		return 0;
	slaves = opendir(path);
	while (slaves && (entry = readdir(slaves))) {
		char slave[PATH_MAX];

		if (entry->d_name[0] == '.' ||
		    (size_t)snprintf(slave, sizeof slave, "%s/%s", path, entry->d_name) >= sizeof slave)
			continue;
		search_add(search, slave);
		count++;
	}
	if (slaves)
		closedir(slaves);
	return count;
}

/* The folder that a partition's lies in is that of its drive. */
static void parent_add(struct search *search, const char *folder)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof path, "%s/..", folder) < sizeof path)
		search_add(search, path);
}

static bool known_already(char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES], uint32_t count, const char *name)
{
	for (uint32_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return true;
	return false;
}

uint32_t kvc_drive_find(const char *sys, dev_t device, char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES])
{
	struct search search = {.count = 0};
	char path[PATH_MAX];
	uint32_t count = 0;

	snprintf(path, sizeof path, "%s/dev/block/%u:%u", sys, major(device), minor(device));
	search_add(&search, path);
	while (search.count) {
		char *folder = search.todo[--search.count];
		const char *name = strrchr(folder, '/') + 1;

		if (exists_in(folder, "partition"))
			parent_add(&search, folder);
		else if (!slaves_add(&search, folder) && count < KVC_DRIVES_MAX &&
		         strlen(name) < KVC_DRIVE_NAME_BYTES && !known_already(names, count, name))
			strcpy(names[count++], name);
		free(folder);
	}
	return count;
}

/* --- asking --------------------------------------------------------------------------------------- */

static kvc_status fail_errno(const char *what, char *why, size_t why_bytes)
{
	int error = errno;

	snprintf(why, why_bytes, "%s: %s", what, strerror(error));
	return kvc_status_of_errno(error);
}

/* Of a namespace's block device, nvme0n1; its controller answers. */
static kvc_status smart_read(const char *name, struct kvc_drive_reading *reading, char *why, size_t why_bytes)
{
	uint8_t page[KVC_DRIVE_SMART_BYTES] = {0};
	struct nvme_admin_cmd command = {
	        .opcode = ADMIN_GET_LOG_PAGE,
	        .nsid = UINT32_MAX,
	        .addr = (uint64_t)(uintptr_t)page,
	        .data_len = sizeof page,
	        .cdw10 = (sizeof page / 4 - 1) << 16 | LOG_SMART,
	        .timeout_ms = ADMIN_TIMEOUT_MS,
	};
	char path[KVC_DRIVE_NAME_BYTES + 8];
	int fd, result;

	snprintf(path, sizeof path, "/dev/%.*s", (int)KVC_DRIVE_NAME_BYTES, name);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fail_errno(path, why, why_bytes);
	result = ioctl(fd, NVME_IOCTL_ADMIN_CMD, &command);
	if (result < 0) {
		kvc_status status = fail_errno(path, why, why_bytes);

		close(fd);
		return status;
	}
	close(fd);
	if (result > 0) {
		snprintf(why, why_bytes, "%s: NVMe status %#x", path, (unsigned)result);
		return KVC_IO;
	}
	kvc_drive_decode_smart(page, reading);
	return KVC_OK;
}

static kvc_status drives_read(const char *directory, struct kvc_drive_reading *reading, char *why,
                              size_t why_bytes)
{
	char names[KVC_DRIVES_MAX][KVC_DRIVE_NAME_BYTES];
	uint32_t count;
	struct stat st;

	if (stat(directory, &st))
		return fail_errno(directory, why, why_bytes);
	count = kvc_drive_find("/sys", st.st_dev, names);
	if (!count) {
		snprintf(why, why_bytes, "no block device is known for its file system");
		return KVC_UNSUPPORTED;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct kvc_drive_reading one;
		kvc_status status;

		if (strncmp(names[i], "nvme", 4) != 0) {
			snprintf(why, why_bytes, "%s is no NVMe drive", names[i]);
			return KVC_UNSUPPORTED;
		}
		status = smart_read(names[i], &one, why, why_bytes);
		if (status != KVC_OK)
			return status;
		if (i == 0)
			*reading = one;
		else
			kvc_drive_worst(reading, &one);
	}
	return KVC_OK;
}

static kvc_status file_read(const char *path, struct kvc_drive_reading *reading, char *why, size_t why_bytes)
{
	char text[KVC_DRIVE_FILE_BYTES + 1];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t bytes;
	struct stat st;

	if (fd < 0)
		return fail_errno(path, why, why_bytes);
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		snprintf(why, why_bytes, "%s is not a regular file", path);
		return KVC_ACCESS;
	}
	bytes = pread(fd, text, sizeof text, 0);
	close(fd);
	if (bytes < 0)
		return fail_errno(path, why, why_bytes);
	if ((size_t)bytes == sizeof text) {
		snprintf(why, why_bytes, "%s has more than %u bytes", path, KVC_DRIVE_FILE_BYTES);
		return KVC_INVALID;
	}
	if (memchr(text, 0, (size_t)bytes)) { /* what lies behind it would not count */
		snprintf(why, why_bytes, "%s has a zero byte", path);
		return KVC_INVALID;
	}
	text[bytes] = 0;
	return kvc_drive_parse(text, reading, why, why_bytes);
}

kvc_status kvc_drive_read(const char *directory, const char *file, struct kvc_drive_reading *reading,
                          char *why, size_t why_bytes)
{
	if (file)
		return file_read(file, reading, why, why_bytes);
	return drives_read(directory, reading, why, why_bytes);
}
