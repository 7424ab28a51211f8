/* Opening and closing files. O_DIRECT is a wish: where the file system refuses it the page cache does the
 * work, and the log says so once. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/errno.h"
#include "daemon/base/log.h"
#include "daemon/io/io.h"

static atomic_flag buffered_told = ATOMIC_FLAG_INIT; /* orders nothing */

/* O_NONBLOCK so that a FIFO in the file's place cannot hang the open; regular files ignore it. */
static int open_at(int dir_fd, const char *name, int flags)
{
	return openat(dir_fd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
}

static kvc_status status_of_open(int error)
{
	switch (error) {
	case ENOENT:
		return KVC_MISS;
	case ELOOP: /* a symbolic link */
	case EISDIR:
	case ENXIO: /* a FIFO or a socket */
		return KVC_ACCESS;
	default:
		return kvc_status_of_errno(error);
	}
}

static kvc_status regular_check(int fd, const char *name)
{
	struct stat st;

	if (fstat(fd, &st))
		return kvc_status_of_errno(errno);
	if (S_ISREG(st.st_mode))
		return KVC_OK;
	kvc_error("%s is not a regular file", name);
	return KVC_ACCESS;
}

static void buffered_tell(const char *name)
{
	if (!atomic_flag_test_and_set_explicit(&buffered_told, memory_order_relaxed))
		kvc_warn("%s: the file system has no O_DIRECT, the page cache is used", name);
}

kvc_status kvc_file_open(int dir_fd, const char *name, int flags, struct kvc_file *file)
{
	int fd = open_at(dir_fd, name, flags | O_DIRECT);
	bool direct = fd >= 0;
	kvc_status status;

	if (fd < 0 && errno == EINVAL)
		fd = open_at(dir_fd, name, flags);
	if (fd < 0)
		return status_of_open(errno);
	status = regular_check(fd, name);
	if (status) {
		close(fd);
		return status;
	}
	if (!direct)
		buffered_tell(name);
	file->fd = fd;
	file->direct = direct;
	return KVC_OK;
}

void kvc_file_close(struct kvc_file *file)
{
	close(file->fd);
	file->fd = -1;
}
