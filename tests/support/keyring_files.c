/* See keyring_files.h. */
#include "tests/support/keyring_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/io/io_fault.h"

void rig_fd_path(int fd, char path[RIG_PATH_BYTES])
{
	char link[64];
	ssize_t length;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, RIG_PATH_BYTES - 1);
	path[length < 0 ? 0 : length] = '\0';
}

uint8_t *rig_file_get(const char *directory, const char *name, size_t *bytes)
{
	char path[1024];
	struct stat st;
	uint8_t *all;
	int fd;

	snprintf(path, sizeof path, "%s/%s", directory, name);
	fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	all = malloc((size_t)st.st_size + 1);
	assert_int_equal(pread(fd, all, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	*bytes = (size_t)st.st_size;
	return all;
}

void rig_file_put(const char *directory, const char *name, const uint8_t *bytes, size_t length)
{
	char path[1024];
	int fd;

	snprintf(path, sizeof path, "%s/%s", directory, name);
	fd = open(path, O_WRONLY);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, length, 0), length);
	close(fd);
}

uint32_t rig_found_in(const char *directory, const void *needle, size_t needle_bytes)
{
	DIR *listing = opendir(directory);
	const struct dirent *entry;
	uint32_t found = 0;

	assert_non_null(listing);
	while ((entry = readdir(listing))) {
		size_t bytes;
		uint8_t *all;

		if (entry->d_type != DT_REG)
			continue;
		all = rig_file_get(directory, entry->d_name, &bytes);
		found += memmem(all, bytes, needle, needle_bytes) != NULL;
		free(all);
	}
	closedir(listing);
	return found;
}

/* The newer of both keyrings of a directory. */
static void keyring_get(const char *directory, struct kvc_keyring *ring)
{
	struct kvc_keyring one[KVC_KEYRING_FILES] = {{.count = 0}};
	uint32_t newer;

	for (uint32_t i = 0; i < KVC_KEYRING_FILES; i++) {
		size_t bytes;
		uint8_t *all = rig_file_get(directory, i ? "keyring.1" : "keyring.0", &bytes);

		assert_int_equal(kvc_keyring_decode(all, (uint32_t)(bytes / KVC_PAGE_BYTES), &one[i]),
		                 KVC_OK);
		free(all);
	}
	newer = one[1].sequence > one[0].sequence;
	*ring = one[newer];
	kvc_keyring_free(&one[1 - newer]);
}

void rig_wrapped_get(const char *directory, const uint8_t tenant[16], uint8_t wrapped[KVC_WRAPPED_BYTES])
{
	const struct kvc_keyring_row *row;
	struct kvc_keyring ring;

	keyring_get(directory, &ring);
	row = kvc_keyring_find(&ring, tenant);
	assert_non_null(row);
	assert_true(row->has_key);
	memcpy(wrapped, row->wrapped, KVC_WRAPPED_BYTES);
	kvc_keyring_free(&ring);
}

static struct {
	enum kvc_io_op op;
	uint32_t skip;
	int error;
	uint32_t met;
} plan;

static void on_keyring(void *context, const struct kvc_io_req *req, struct kvc_io_fault *fault)
{
	char path[RIG_PATH_BYTES];

	(void)context;
	rig_fd_path(req->file->fd, path);
	if (!strstr(path, "/keyring.") || req->op != plan.op)
		return;
	if (plan.skip) {
		plan.skip--;
		return;
	}
	plan.met++;
	*fault = (struct kvc_io_fault){.kind = KVC_FAULT_ERROR, .error = plan.error};
}

void rig_keyring_fault(enum kvc_io_op op, uint32_t skip, int error)
{
	plan.op = op;
	plan.skip = skip;
	plan.error = error;
	plan.met = 0;
	kvc_io_fault_install(on_keyring, NULL);
}

uint32_t rig_keyring_faults(void)
{
	return plan.met;
}
