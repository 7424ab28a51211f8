/* C4: a control group that has no more memory; the kernel ends the daemon. Needs a group that may be made: as
 * root, outside of a container that forbids it. Skipped elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/faults/daemon_world.h"

enum { LIMIT_MIB = 32, EAT_MIB = 4 * LIMIT_MIB, PATH_BYTES = 256, REMOVE_TRIES = 1000 };

/* The two kinds of control groups. */
struct hierarchy {
	const char *root;
	const char *limit;
	const char *events; /* has a line "oom_kill N" */
};

static const struct hierarchy hierarchies[] = {
        {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"},
        {"/sys/fs/cgroup", "memory.max", "memory.events"},
};

static struct daemon_world w;
static char group[PATH_BYTES]; /* empty: there is none */
static const struct hierarchy *kind;

static bool group_write(const char *file, long number)
{
	char path[2 * PATH_BYTES];
	FILE *out;
	bool written;

	snprintf(path, sizeof path, "%s/%s", group, file);
	out = fopen(path, "we");
	written = out && fprintf(out, "%ld\n", number) > 0;
	return out && fclose(out) == 0 && written;
}

/* -1: it does not tell. */
static long group_kills(void)
{
	char path[2 * PATH_BYTES], line[PATH_BYTES];
	long kills = -1;
	FILE *in;

	snprintf(path, sizeof path, "%s/%s", group, kind->events);
	in = fopen(path, "re");
	while (in && fgets(line, sizeof line, in))
		sscanf(line, "oom_kill %ld", &kills);
	if (in)
		fclose(in);
	return kills;
}

static void group_remove(void)
{
	for (unsigned i = 0; group[0] && rmdir(group) && i < REMOVE_TRIES; i++)
		kvc_server_step(); /* who was in it is still on the way out */
	group[0] = '\0';
}

static bool group_make(const struct hierarchy *hierarchy)
{
	kind = hierarchy;
	snprintf(group, sizeof group, "%s/kvcellar-test-%d", kind->root, (int)getpid());
	if (mkdir(group, 0755) != 0) {
		group[0] = '\0';
		return false;
	}
	if (group_write(kind->limit, (long)LIMIT_MIB << 20) && group_kills() >= 0)
		return true;
	group_remove();
	return false;
}

static int setup(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof hierarchies / sizeof hierarchies[0] && !group[0]; i++)
		group_make(&hierarchies[i]);
	dw_init(&w, true);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dw_end(&w);
	group_remove();
	kvc_row_end();
	return 0;
}

/* As after any kill: what was acknowledged to be on disk is there, and right. */
static void kernel_ends_it_for_memory(void **state)
{
	unsigned rounds = getenv("KVC_TEST_FULL") ? 10 : 2;
	int status;

	(void)state;
	KVC_ROW("C4");
	dw_start(&w);
	if (!group[0]) {
		print_message("# no control group for memory can be made here\n");
		skip();
	}
	for (uint64_t i = 0; i < rounds; i++) {
		assert_int_equal(dw_put(&w, i * DW_BLOCKS, KVC_ACK_DISK), DW_BLOCKS);
		assert_true(group_write("cgroup.procs", w.server.pid));
		dw_agent(&w, (struct agent_command){.what = AGENT_EAT, .times = EAT_MIB});
		assert_true(kvc_server_wait(&w.server, 20000, &status));
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		assert_int_equal(group_kills(), i + 1);
		kvc_row.injected++;
		dw_disconnect(&w);
		dw_start(&w);
		for (uint64_t j = 0; j <= i; j++)
			assert_int_equal(dw_get(&w, j * DW_BLOCKS), DW_BLOCKS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(kernel_ends_it_for_memory, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
