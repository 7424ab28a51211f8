/* Files of results. See output.h. */
#include "client/cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cmd.h"
#include "client/cli/settings.h"

/* What a signal removes. Written with the signals blocked, so a handler sees whole names. */
static struct kvc_output *temporaries[KVC_OUTPUTS_MAX];

static const int fatal[] = {SIGINT, SIGTERM, SIGHUP};

#define FATAL (sizeof(fatal) / sizeof(fatal[0]))

static void remove_temporaries(int signal)
{
	for (unsigned i = 0; i < KVC_OUTPUTS_MAX; i++) {
		if (temporaries[i])
			(void)unlink(temporaries[i]->temporary);
	}
	(void)raise(signal); /* by default now, when this returns: it ends the program */
}

/* Signals that are ignored, as under nohup, stay so. */
static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = remove_temporaries, .sa_flags = (int)SA_RESETHAND};
	struct sigaction now;

	for (size_t i = 0; i < FATAL; i++) {
		if (sigaction(fatal[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
			(void)sigaction(fatal[i], &action, NULL);
	}
}

static void block_signals(sigset_t *before)
{
	sigset_t set;

	(void)sigemptyset(&set);
	for (size_t i = 0; i < FATAL; i++)
		(void)sigaddset(&set, fatal[i]);
	(void)sigprocmask(SIG_BLOCK, &set, before);
}

static void unblock_signals(const sigset_t *before)
{
	(void)sigprocmask(SIG_SETMASK, before, NULL);
}

/* In the place of `from`: NULL is a free one. */
static void note(const struct kvc_output *from, struct kvc_output *to)
{
	unsigned i = 0;

	while (i < KVC_OUTPUTS_MAX - 1 && temporaries[i] != from)
		i++;
	temporaries[i] = to;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int cannot_write(const struct kvc_output *output)
{
	return kvc_failure(output->command, "cannot write %s: %s", output->path, strerror(errno));
}

/* With the rights that a new file has. */
static int make_temporary(struct kvc_output *output)
{
	mode_t mask = umask(0);
	sigset_t before;

	(void)umask(mask);
	if (snprintf(output->temporary, sizeof(output->temporary), "%s.XXXXXX", output->path) >=
	    (int)sizeof(output->temporary))
		return kvc_failure(output->command, "the name of %s is too long", output->path);
	catch_signals();
	block_signals(&before);
	output->fd = mkostemp(output->temporary, O_CLOEXEC);
	if (output->fd >= 0)
		note(NULL, output);
	unblock_signals(&before);
	if (output->fd < 0)
		return cannot_write(output);
	(void)fchmod(output->fd, 0666 & ~mask);
	return -1;
}

static int open_special(struct kvc_output *output, enum kvc_output_kind kind, const struct stat *file)
{
	if (kind == KVC_OUTPUT_REGULAR || S_ISDIR(file->st_mode))
		return kvc_failure(output->command,
		                   "cannot write %s: it is no regular file; expected one, or a name that is "
		                   "free",
		                   output->path);
	output->fd = open(output->path, O_WRONLY | O_CLOEXEC);
	return output->fd >= 0 ? -1 : cannot_write(output);
}

int kvc_output_create(struct kvc_output *output, const char *command, const char *path,
                      enum kvc_output_kind kind)
{
	struct stat file;
	int code;

	*output = (struct kvc_output){.command = command, .path = path, .fd = -1};
	if (stat(path, &file) == 0 && !S_ISREG(file.st_mode))
		code = open_special(output, kind, &file);
	else
		code = make_temporary(output);
	if (code >= 0)
		output->path = NULL;
	return code;
}

/* ---- the rest ------------------------------------------------------------------------------ */

bool kvc_output_write(const struct kvc_output *output, const uint8_t *bytes, uint64_t length)
{
	while (length > 0) {
		ssize_t n = write(output->fd, bytes, length);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			(void)cannot_write(output);
			return false;
		}
		bytes += n;
		length -= (uint64_t)n;
	}
	return true;
}

/* False: errno says why. */
static bool finish(struct kvc_output *output, bool keep)
{
	bool good = close(output->fd) == 0;
	sigset_t before;
	int error = errno;

	block_signals(&before);
	if (output->temporary[0]) {
		if (good && keep) {
			good = rename(output->temporary, output->path) == 0;
			error = errno;
		}
		if (!good || !keep)
			(void)unlink(output->temporary);
		note(output, NULL);
	}
	unblock_signals(&before);
	errno = error;
	return good;
}

bool kvc_output_commit(struct kvc_output *output)
{
	bool good = finish(output, true);

	if (!good)
		(void)kvc_failure(output->command, "cannot complete %s: %s", output->path, strerror(errno));
	output->path = NULL;
	return good;
}

void kvc_output_discard(struct kvc_output *output)
{
	if (output->path)
		(void)finish(output, false);
	output->path = NULL;
}
