/* Linked into the test build of kvcellard (kvcellard_agent): lets a test make the daemon's allocations fail.
 *
 * A thread reads commands from the descriptor named in KVC_TEST_AGENT_FD, carries them out and answers each.
 * KVC_TEST_FAIL_START=N lets the N-th allocation of the start fail. */
#include "tests/fault/agent.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/base/alloc.h"

static void *agent_run(void *argument)
{
	int fd = *(int *)argument;
	struct agent_command command;
	struct agent_answer answer;

	while (read(fd, &command, sizeof command) == (ssize_t)sizeof command) {
		if (command.set)
			kvc_alloc_fail_at(command.fail_at, command.forever);
		answer.count = kvc_alloc_count();
		answer.live = kvc_alloc_live();
		if (write(fd, &answer, sizeof answer) != (ssize_t)sizeof answer)
			break;
	}
	return NULL;
}

__attribute__((constructor)) static void agent_start(void)
{
	static int fd;
	const char *descriptor = getenv("KVC_TEST_AGENT_FD");
	const char *start = getenv("KVC_TEST_FAIL_START");
	pthread_t thread;

	if (start)
		kvc_alloc_fail_at(strtoull(start, NULL, 10), 0);
	if (!descriptor)
		return;
	fd = atoi(descriptor);
	if (pthread_create(&thread, NULL, agent_run, &fd) != 0)
		abort();
	pthread_detach(thread);
}
