/* kvcellar-engine: the child of kvcellard for one GPU. Speaks with it over descriptor 3 and ends with it.
 *
 * Signals that end a process are ignored: a terminal and systemd send them to the whole group, and the core
 * still needs its engines while it stops. It closes the pair when it does not. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "daemon/base/log.h"
#include "daemon/gpu/executor.h"

static void usage(FILE *out)
{
	fputs("kvcellar-engine " KVCELLAR_VERSION "\n"
	      "Serves one GPU for kvcellard, which starts it: there is nothing to do with it by hand.\n",
	      out);
}

/* The levels of the core: it passes its own on. */
static void log_level_set(void)
{
	const char *level = getenv("KVCELLAR_LOG_LEVEL");
	enum kvc_log_level parsed;

	if (level && kvc_log_level_parse(level, &parsed) == KVC_OK)
		kvc_log_level_now = parsed;
}

static void signals_ignore(void)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
}

static int is_pair(int fd)
{
	int type;
	socklen_t bytes = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
	struct kvc_executor *executor;

	if (argc == 2 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "--help"))) {
		usage(stdout);
		return 0;
	}
	if (!is_pair(KVC_GPU_FD)) {
		usage(stderr);
		return KVC_EXIT_USAGE;
	}
	signals_ignore();
	log_level_set();
	executor = kvc_calloc(1, sizeof *executor);
	if (!executor) {
		kvc_error("no memory to start");
		return KVC_EXIT_FAILED;
	}
	/* At once: no thread is waited for, no memory given back, nothing called of a device that is lost. */
	_exit((int)kvc_executor_run(executor, KVC_GPU_FD));
}
