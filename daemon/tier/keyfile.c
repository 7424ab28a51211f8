/* See keyfile.h. */
#include "daemon/tier/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/errno.h"

#define CREDENTIAL "credential:"

enum {
	HEX_DIGITS = 2 * (int)KVC_SECRET_BYTES,
	TEXT_BYTES = HEX_DIGITS + 3, /* with the end of a line; one more is one too many */
	OTHERS = 077,
	/* systemd lets the service's user read a credential by an access list, which shows as the group's
	   bits. */
	OTHERS_OF_CREDENTIAL = 007,
};

struct source {
	const char *path;
	mode_t others;
	char *detail;
	size_t detail_bytes;
};

static kvc_status refused(const struct source *source, kvc_status status, const char *why)
{
	snprintf(source->detail, source->detail_bytes, "disk-key: %s %s", source->path, why);
	return status;
}

static kvc_status refused_errno(const struct source *source, const char *what)
{
	int error = errno;

	snprintf(source->detail, source->detail_bytes, "disk-key: %s %s: %s", source->path, what,
	         strerror(error));
	return error == ENOENT ? KVC_MISS : kvc_status_of_errno(error);
}

static kvc_status file_check(const struct source *source, int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return refused_errno(source, "cannot be examined");
	if (!S_ISREG(st.st_mode))
		return refused(source, KVC_ACCESS, "is not a regular file");
	if (st.st_mode & source->others)
		return refused(source, KVC_ACCESS, "is open to other users: chmod go= it");
	return KVC_OK;
}

/* Without the end of its line. */
static size_t line_bytes(const char *text, size_t length)
{
	if (length && text[length - 1] == '\n')
		length--;
	if (length && text[length - 1] == '\r')
		length--;
	return length;
}

static kvc_status text_parse(const struct source *source, const char *text, size_t length,
                             struct kvc_secret *key)
{
	if (length == KVC_SECRET_BYTES) {
		memcpy(key->bytes, text, KVC_SECRET_BYTES);
		return KVC_OK;
	}
	if (line_bytes(text, length) == HEX_DIGITS && kvc_secret_parse(text, key))
		return KVC_OK;
	return refused(source, KVC_INVALID, "must hold 32 bytes or 64 hex digits, and nothing else");
}

static kvc_status source_read(const struct source *source, struct kvc_secret *key)
{
	int fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char text[TEXT_BYTES];
	kvc_status status;
	ssize_t length;

	if (fd < 0)
		return refused_errno(source, "cannot be opened");
	status = file_check(source, fd);
	if (status == KVC_OK) {
		length = read(fd, text, sizeof text);
		status = length < 0 ? refused_errno(source, "cannot be read")
		                    : text_parse(source, text, (size_t)length, key);
		kvc_wipe(text, sizeof text);
	}
	close(fd);
	return status;
}

kvc_status kvc_keyfile_read(const char *where, struct kvc_secret *key, char *detail, size_t detail_bytes)
{
	struct source source = {where, OTHERS, detail, detail_bytes};
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	char path[PATH_MAX];

	if (strncmp(where, CREDENTIAL, strlen(CREDENTIAL)) != 0)
		return source_read(&source, key);
	if (!directory)
		return refused(&source, KVC_MISS,
		               "needs $CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=");
	if ((size_t)snprintf(path, sizeof path, "%s/%s", directory, where + strlen(CREDENTIAL)) >=
	    sizeof path)
		return refused(&source, KVC_INVALID, "is too long");
	source.path = path;
	source.others = OTHERS_OF_CREDENTIAL;
	return source_read(&source, key);
}
