/* Files of a cache, by position. */
#include "client/cli/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cmd.h"

static const char *const kinds[2] = {"keys", "values"};

static void init(struct kvc_files *files, const struct kvc_job *job, const char *keys, const char *values)
{
	*files = (struct kvc_files){
	        .job = job, .paths = {keys, values}, .fds = {-1, -1}, .tokens = job->tokens};
}

/* Values are given if and only if the cache has some. Returns -1 or an exit code. */
static int check_kinds(const struct kvc_job *job, const char *option, const char *values)
{
	if (job->row_bytes[1] > 0 && !values)
		return kvc_usage_error(job->name, "--%s is missing; a cache of keys only says --value-dim 0",
		                       option);
	if (job->row_bytes[1] == 0 && values)
		return kvc_usage_error(job->name,
		                       "--%s given, but --value-dim 0 says that there are no values", option);
	return -1;
}

/* ---- reading ------------------------------------------------------------------------------- */

static int size_error(const struct kvc_job *job, unsigned kind, const char *path, uint64_t got,
                      uint64_t expected)
{
	const struct kvc_settings *settings = job->settings;
	uint64_t dim =
	        kind == 0 || settings->value_dim == KVC_SETTING_UNSET ? settings->dim : settings->value_dim;

	return kvc_failure(job->name,
	                   "%s is %" PRIu64 " bytes long, expected %" PRIu64 " = %" PRIu64
	                   " layers x %" PRIu64 " tokens x %" PRIu64 " heads x %" PRIu64
	                   " dim x %u bytes: check these options against the "
	                   "file",
	                   path, got, expected, settings->layers, settings->tokens, settings->heads, dim,
	                   settings->dtype == KVC_ELEMENT_FP32 ? 4u : 2u);
}

static int open_one(struct kvc_files *files, unsigned kind)
{
	const struct kvc_job *job = files->job;
	const char *path = files->paths[kind];
	uint64_t expected = job->layers * job->tokens * job->row_bytes[kind];
	struct stat file;
	int fd =
	        open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* so that a pipe is refused, not waited for */

	if (fd < 0 || fstat(fd, &file) != 0) {
		if (fd >= 0)
			(void)close(fd);
		return kvc_failure(job->name, "cannot read %s file %s: %s", kinds[kind], path,
		                   strerror(errno));
	}
	files->fds[kind] = fd;
	if (!S_ISREG(file.st_mode))
		return kvc_failure(job->name, "%s is no regular file: blocks are read by position", path);
	if ((uint64_t)file.st_size != expected)
		return size_error(job, kind, path, (uint64_t)file.st_size, expected);
	return -1;
}

int kvc_files_open(struct kvc_files *files, const struct kvc_job *job)
{
	int result = check_kinds(job, "values", job->settings->values);

	init(files, job, job->settings->keys, job->settings->values);
	for (unsigned kind = 0; result < 0 && kind < 2 && files->paths[kind]; kind++)
		result = open_one(files, kind);
	if (result >= 0)
		kvc_files_close(files);
	return result;
}

/* One layer's part of a block, whole. */
static bool transfer(const struct kvc_files *files, unsigned kind, bool writing, uint8_t *bytes,
                     uint64_t length, uint64_t at)
{
	while (length > 0) {
		ssize_t n = writing ? pwrite(files->fds[kind], bytes, length, (off_t)at)
		                    : pread(files->fds[kind], bytes, length, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			(void)kvc_failure(files->job->name, "cannot %s %s at byte %" PRIu64 ": %s",
			                  writing ? "write" : "read", files->paths[kind], at,
			                  n < 0 ? strerror(errno) : "it has become shorter");
			return false;
		}
		bytes += n;
		length -= (uint64_t)n;
		at += (uint64_t)n;
	}
	return true;
}

static bool transfer_block(const struct kvc_files *files, size_t block, bool writing, uint8_t *bytes)
{
	const struct kvc_job *job = files->job;
	uint64_t tokens = kvc_job_block_tokens(job, block);

	for (unsigned kind = 0; kind < 2; kind++) {
		uint64_t row = job->row_bytes[kind];

		for (uint64_t layer = 0; row > 0 && layer < job->layers; layer++) {
			uint64_t at = (layer * files->tokens + block * job->block_tokens) * row;

			if (!transfer(files, kind, writing, bytes, tokens * row, at))
				return false;
			bytes += tokens * row;
		}
	}
	return true;
}

bool kvc_files_read(const struct kvc_files *files, size_t block, uint8_t *bytes)
{
	return transfer_block(files, block, false, bytes);
}

/* ---- writing ------------------------------------------------------------------------------- */

static int create_one(struct kvc_files *files, unsigned kind)
{
	struct kvc_output *output = &files->outputs[kind];
	int code = kvc_output_create(output, files->job->name, files->paths[kind], KVC_OUTPUT_REGULAR);

	files->fds[kind] = output->fd;
	return code;
}

static bool folder_of(const char *path, size_t bytes, struct stat *folder)
{
	char name[4096];

	if (bytes == 0)
		return stat(".", folder) == 0;
	return snprintf(name, sizeof(name), "%.*s", (int)bytes, path) < (int)sizeof(name) &&
	       stat(name, folder) == 0;
}

/* Whether both name one entry of one folder, which need not be there yet. */
static bool same_place(const char *a, const char *b)
{
	const char *slash_a = strrchr(a, '/');
	const char *slash_b = strrchr(b, '/');
	size_t bytes_a = slash_a ? (size_t)(slash_a - a) + 1 : 0;
	size_t bytes_b = slash_b ? (size_t)(slash_b - b) + 1 : 0;
	struct stat folder_a, folder_b;

	return strcmp(a + bytes_a, b + bytes_b) == 0 && folder_of(a, bytes_a, &folder_a) &&
	       folder_of(b, bytes_b, &folder_b) && folder_a.st_dev == folder_b.st_dev &&
	       folder_a.st_ino == folder_b.st_ino;
}

/* One would replace the other. Returns -1 or an exit code. */
static int check_places(const struct kvc_job *job, const char *keys, const char *values)
{
	if (!values || !same_place(keys, values))
		return -1;
	return kvc_usage_error(job->name, "--out-keys %s and --out-values %s are the same file, expected two",
	                       keys, values);
}

int kvc_files_create(struct kvc_files *files, const struct kvc_job *job)
{
	int result = check_kinds(job, "out-values", job->settings->out_values);

	if (result < 0)
		result = check_places(job, job->settings->out_keys, job->settings->out_values);
	init(files, job, job->settings->out_keys, job->settings->out_values);
	for (unsigned kind = 0; result < 0 && kind < 2 && files->paths[kind]; kind++)
		result = create_one(files, kind);
	if (result >= 0)
		kvc_files_close(files);
	return result;
}

bool kvc_files_write(const struct kvc_files *files, size_t block, const uint8_t *bytes)
{
	/* Only read: pwrite's part of transfer() does not write there. */
	return transfer_block(files, block, true, (uint8_t *)(uintptr_t)bytes);
}

bool kvc_files_shrink(struct kvc_files *files, uint64_t tokens)
{
	const struct kvc_job *job = files->job;

	files->tokens = tokens;
	for (unsigned kind = 0; kind < 2 && files->paths[kind]; kind++) {
		if (ftruncate(files->fds[kind], (off_t)(job->layers * tokens * job->row_bytes[kind])) != 0) {
			(void)kvc_failure(job->name, "cannot shorten %s: %s", files->paths[kind],
			                  strerror(errno));
			return false;
		}
	}
	return true;
}

bool kvc_files_commit(struct kvc_files *files)
{
	bool good = true;

	for (unsigned kind = 0; good && kind < 2 && files->paths[kind]; kind++) {
		files->fds[kind] = -1;
		good = kvc_output_commit(&files->outputs[kind]);
	}
	return good;
}

void kvc_files_close(struct kvc_files *files)
{
	for (unsigned kind = 0; kind < 2; kind++) {
		if (files->outputs[kind].path)
			kvc_output_discard(&files->outputs[kind]);
		else if (files->fds[kind] >= 0)
			(void)close(files->fds[kind]);
		files->fds[kind] = -1;
	}
}
