/* Child processes. libuv reaps them: it waits for each of its own by number, so others' are left alone.
 *
 * The object lives until the process has been reaped; nobody can let go of a child that runs. Every
 * descriptor of this process must carry O_CLOEXEC: libuv hands on those that are named here, and the kernel
 * closes the rest. */
#include "daemon/loop/child.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/errno.h"
#include "daemon/loop/loop_private.h"

enum { STANDARD_FDS = 3 };

struct kvc_child {
	uv_process_t uv;
	struct kvc_loop *loop;
	void (*ended)(void *context, const struct kvc_child_end *end);
	void *context;
};

static void child_closed(uv_handle_t *handle)
{
	kvc_free(kvc_container_of(handle, struct kvc_child, uv));
}

static void child_forget(struct kvc_child *child)
{
	child->loop->children--;
	uv_close((uv_handle_t *)&child->uv, child_closed);
}

static void child_exited(uv_process_t *uv, int64_t exit_code, int signal)
{
	struct kvc_child *child = kvc_container_of(uv, struct kvc_child, uv);
	struct kvc_child_end end = {(int)exit_code, signal};

	child->ended(child->context, &end);
	child_forget(child);
}

/* What the child's descriptors are: null, null, our stderr if there is one, and those that were asked for. */
static void stdio_fill(const struct kvc_child_options *options, uv_stdio_container_t *stdio)
{
	for (int i = 0; i < STANDARD_FDS; i++)
		stdio[i].flags = UV_IGNORE;
	if (fcntl(STDERR_FILENO, F_GETFD) >= 0) {
		stdio[STDERR_FILENO].flags = UV_INHERIT_FD;
		stdio[STDERR_FILENO].data.fd = STDERR_FILENO;
	}
	for (unsigned i = 0; i < options->fd_count; i++) {
		stdio[STANDARD_FDS + i].flags = UV_INHERIT_FD;
		stdio[STANDARD_FDS + i].data.fd = options->fds[i];
	}
}

static int spawn(struct kvc_child *child, const struct kvc_child_options *options)
{
	uv_stdio_container_t stdio[STANDARD_FDS + KVC_CHILD_FDS_MAX];
	uv_process_options_t uv = {
	        .exit_cb = child_exited,
	        .file = options->program,
	        .args = (char **)(uintptr_t)options->args, /* execvp's type; it writes nothing */
	        .stdio = stdio,
	        .stdio_count = STANDARD_FDS + (int)options->fd_count,
	};

	stdio_fill(options, stdio);
	return uv_spawn(&child->loop->uv, &child->uv, &uv);
}

kvc_status kvc_child_start(struct kvc_loop *loop, const struct kvc_child_options *options,
                           struct kvc_child **child)
{
	struct kvc_child *started;
	int error;

	kvc_loop_check_owner(loop);
	KVC_PRE(options->program && options->args && options->ended);
	KVC_PRE(options->fd_count <= KVC_CHILD_FDS_MAX);
	started = kvc_calloc(1, sizeof *started);
	if (!started) {
		errno = ENOMEM;
		return KVC_NO_MEMORY;
	}
	started->loop = loop;
	started->ended = options->ended;
	started->context = options->context;
	loop->children++;
	error = -spawn(started, options); /* libuv's numbers are negative errnos */
	if (error) {
		child_forget(started);
		errno = error;
		return kvc_status_of_errno(error);
	}
	*child = started;
	return KVC_OK;
}

void kvc_child_kill(struct kvc_child *child, int signal)
{
	kvc_loop_check_owner(child->loop);
	/* It can only have ended already; then `ended` is on its way. */
	uv_process_kill(&child->uv, signal);
}
