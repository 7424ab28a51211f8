/* The listening socket; see listen.h. */
#include "daemon/rpc/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/errno.h"

enum { BACKLOG = 512 };

static const char lock_suffix[] = ".lock";

struct opening {
	struct kvc_listen *listen;
	char *detail;
	size_t detail_bytes;
};

__attribute__((format(printf, 3, 4))) static kvc_status refuse(struct opening *opening, kvc_status status,
                                                               const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(opening->detail, opening->detail_bytes, format, arguments);
	va_end(arguments);
	return status;
}

static kvc_status refuse_errno(struct opening *opening, const char *what)
{
	int number = errno;

	return refuse(opening, kvc_status_of_errno(number), "%s: cannot %s: %s", opening->listen->path, what,
	              strerror(number));
}

static struct sockaddr_un address_of(const struct kvc_listen *listen)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, listen->path, sizeof listen->path);
	return address;
}

/* ---- the lock ------------------------------------------------------------------------------ */

static void lock_path(const struct kvc_listen *listen, char path[KVC_LISTEN_PATH_BYTES + sizeof lock_suffix])
{
	snprintf(path, KVC_LISTEN_PATH_BYTES + sizeof lock_suffix, "%s%s", listen->path, lock_suffix);
}

/* The file that we locked may have been removed by the one that held it before. */
static bool lock_is_current(int fd, const char *path)
{
	struct stat ours;
	struct stat current;

	return fstat(fd, &ours) == 0 && lstat(path, &current) == 0 && ours.st_ino == current.st_ino &&
	       ours.st_dev == current.st_dev;
}

static kvc_status lock_take(struct opening *opening)
{
	char path[KVC_LISTEN_PATH_BYTES + sizeof lock_suffix];
	int fd;

	lock_path(opening->listen, path);
	for (;;) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return refuse_errno(opening, "create its lock file (PATH.lock)");
		if (flock(fd, LOCK_EX | LOCK_NB)) {
			close(fd);
			return refuse(opening, KVC_IN_USE,
			              "%s: another kvcellard uses this socket: stop it, or choose another "
			              "path with "
			              "--socket",
			              opening->listen->path);
		}
		if (lock_is_current(fd, path))
			break;
		close(fd);
	}
	opening->listen->lock_fd = fd;
	return KVC_OK;
}

static void lock_release(struct kvc_listen *listen)
{
	char path[KVC_LISTEN_PATH_BYTES + sizeof lock_suffix];

	lock_path(listen, path);
	(void)unlink(path); /* while it is held: whoever opened it meanwhile sees that it is gone */
	close(listen->lock_fd);
	listen->lock_fd = -1;
}

/* ---- the path ------------------------------------------------------------------------------ */

static kvc_status path_set(struct opening *opening, const char *path)
{
	size_t bytes = strlen(path);

	if (bytes == 0 || bytes >= KVC_LISTEN_PATH_BYTES)
		return refuse(opening, KVC_INVALID,
		              "%s: the path of a Unix socket has 1 to %u bytes, this has %zu", path,
		              KVC_LISTEN_PATH_BYTES - 1, bytes);
	memcpy(opening->listen->path, path, bytes + 1);
	return KVC_OK;
}

/* One level, readable by all: the socket's own mode decides who may connect. */
static kvc_status directory_make(struct opening *opening)
{
	char directory[KVC_LISTEN_PATH_BYTES];
	char *slash;

	memcpy(directory, opening->listen->path, sizeof directory);
	slash = strrchr(directory, '/');
	if (!slash || slash == directory)
		return KVC_OK;
	*slash = 0;
	if (mkdir(directory, 0755) == 0)
		return chmod(directory, 0755) ? refuse_errno(opening, "set the mode of its directory")
		                              : KVC_OK;
	return errno == EEXIST ? KVC_OK : refuse_errno(opening, "create its directory");
}

/* Somebody answers at a path whose lock is ours: no kvcellard, but not ours to remove either. */
static bool somebody_listens(const struct kvc_listen *listen)
{
	struct sockaddr_un address = address_of(listen);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool answered;

	if (fd < 0)
		return true;
	answered = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno != ECONNREFUSED;
	close(fd);
	return answered;
}

static kvc_status stale_remove(struct opening *opening)
{
	const char *path = opening->listen->path;
	struct stat stat;

	if (lstat(path, &stat))
		return errno == ENOENT ? KVC_OK : refuse_errno(opening, "look at the path");
	if (!S_ISSOCK(stat.st_mode))
		return refuse(opening, KVC_IN_USE,
		              "%s: is there and is not a socket: move it away, or choose another "
		              "path with --socket",
		              path);
	if (somebody_listens(opening->listen))
		return refuse(opening, KVC_IN_USE,
		              "%s: another program listens there: stop it, or choose another "
		              "path with --socket",
		              path);
	return unlink(path) ? refuse_errno(opening, "remove the stale socket") : KVC_OK;
}

/* The mode is set before listen(): until then nobody can connect. */
static kvc_status bind_path(struct opening *opening, mode_t mode)
{
	struct kvc_listen *listen = opening->listen;
	struct sockaddr_un address = address_of(listen);
	struct stat stat;

	listen->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listen->fd < 0)
		return refuse_errno(opening, "make a socket");
	if (bind(listen->fd, (struct sockaddr *)&address, sizeof address))
		return refuse_errno(opening, "bind");
	if (lstat(listen->path, &stat) == 0) {
		listen->device = stat.st_dev;
		listen->inode = stat.st_ino;
	}
	return chmod(listen->path, mode) ? refuse_errno(opening, "set its mode") : KVC_OK;
}

/* ---- life ---------------------------------------------------------------------------------- */

kvc_status kvc_listen_open(const char *path, mode_t mode, struct kvc_listen *listen, char *detail,
                           size_t detail_bytes)
{
	struct kvc_listen opened = {.fd = -1, .lock_fd = -1};
	struct opening opening = {&opened, detail, detail_bytes};
	kvc_status status = path_set(&opening, path);

	if (status == KVC_OK)
		status = directory_make(&opening);
	if (status == KVC_OK)
		status = lock_take(&opening);
	if (status == KVC_OK)
		status = stale_remove(&opening);
	if (status == KVC_OK)
		status = bind_path(&opening, mode);
	if (status == KVC_OK)
		*listen = opened;
	else
		kvc_listen_close(&opened);
	return status;
}

void kvc_listen_adopt(int fd, struct kvc_listen *listen)
{
	*listen = (struct kvc_listen){.fd = fd, .lock_fd = -1};
}

kvc_status kvc_listen_start(struct kvc_listen *kvc_listen)
{
	KVC_PRE(kvc_listen->fd >= 0);
	if (kvc_listen->lock_fd < 0) /* listens already */
		return KVC_OK;
	return listen(kvc_listen->fd, BACKLOG) ? kvc_status_of_errno(errno) : KVC_OK;
}

static void socket_remove(const struct kvc_listen *listen)
{
	struct stat stat;

	if (listen->inode && lstat(listen->path, &stat) == 0 && stat.st_dev == listen->device &&
	    stat.st_ino == listen->inode)
		(void)unlink(listen->path);
}

void kvc_listen_close(struct kvc_listen *listen)
{
	if (listen->fd >= 0)
		close(listen->fd);
	listen->fd = -1;
	if (listen->lock_fd < 0)
		return;
	socket_remove(listen);
	lock_release(listen);
}
