/* See row.h. What a leak is: more descriptors or more live objects of the daemon's heap than before main(),
 * or a C heap that grew by more than the tests' own bookkeeping. */
#include "tests/support/row.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/alloc.h"

enum { LINE_BYTES = 1024, HEAP_SLACK = 1 << 20, LIBRARY_DESCRIPTORS = 2 };

struct kvc_row kvc_row;

static const char *row_ids; /* NULL: no row has begun */
static const char *row_test;
static struct baseline {
	unsigned descriptors;
	int64_t live; /* objects of the daemon's heap */
	size_t heap;
} at_start, at_begin;

static unsigned descriptors_now(void)
{
	DIR *listing = opendir("/proc/self/fd");
	unsigned count = 0;

	while (listing && readdir(listing))
		count++;
	if (listing)
		closedir(listing);
	return count;
}

static struct baseline baseline_now(void)
{
	return (struct baseline){descriptors_now(), kvc_alloc_live(), mallinfo2().uordblks};
}

__attribute__((constructor)) static void baseline_take(void)
{
	at_start = baseline_now();
}

static uint64_t leaks_since(const struct baseline *before)
{
	struct baseline now = baseline_now();
	uint64_t leaks = 0;

	if (now.descriptors > before->descriptors)
		leaks += now.descriptors - before->descriptors;
	if (now.live > before->live)
		leaks += (uint64_t)(now.live - before->live);
	if (now.heap > at_begin.heap + HEAP_SLACK)
		leaks++;
	if (leaks)
		fprintf(stderr,
		        "# %s: descriptors %u, before %u; objects %lld, before %lld; heap %zu, before %zu\n",
		        row_test, now.descriptors, before->descriptors, (long long)now.live,
		        (long long)before->live, now.heap, at_begin.heap);
	return leaks;
}

/* One write a line: several programs may share the file. */
static void line_write(const char *line)
{
	const char *path = getenv("KVC_FAULT_SHEET");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
	size_t bytes = strlen(line);

	if (fd >= 0 && write(fd, line, bytes) != (ssize_t)bytes)
		fprintf(stderr, "# the fault sheet cannot be written: %s\n", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void row_write(const char *id, size_t id_bytes, const char *state)
{
	char line[LINE_BYTES];

	snprintf(line, sizeof line,
	         "{\"row\": \"%.*s\", \"program\": \"%s\", \"test\": \"%s\", \"state\": \"%s\", "
	         "\"injected\": %llu, "
	         "\"points\": %llu, \"points_total\": %llu, \"verified\": %llu, \"wrong\": %llu, \"leaks\": "
	         "%llu, "
	         "\"seed\": %llu}\n",
	         (int)id_bytes, id, program_invocation_name, row_test, state,
	         (unsigned long long)kvc_row.injected, (unsigned long long)kvc_row.points,
	         (unsigned long long)kvc_row.points_total, (unsigned long long)kvc_row.verified,
	         (unsigned long long)kvc_row.wrong, (unsigned long long)kvc_row.leaks,
	         (unsigned long long)kvc_row.seed);
	line_write(line);
}

static void rows_write(const char *state)
{
	const char *id = row_ids;

	while (*id) {
		size_t bytes = strcspn(id, " ");

		row_write(id, bytes, state);
		id += bytes + strspn(id + bytes, " ");
	}
}

void kvc_row_begin(const char *ids, const char *test)
{
	kvc_row = (struct kvc_row){0};
	row_ids = ids;
	row_test = test;
	at_begin = baseline_now();
	rows_write("begin");
}

/* Libraries open at their first use what they keep until the end: libuv the pipe of its signals. */
static void libraries_allow(struct baseline *before)
{
	static unsigned allowed = LIBRARY_DESCRIPTORS;
	unsigned now = descriptors_now();

	if (now > before->descriptors && now <= before->descriptors + allowed) {
		allowed -= now - before->descriptors;
		before->descriptors = now;
	}
}

static void row_end(struct baseline *before)
{
	if (!row_ids)
		return;
	libraries_allow(before);
	kvc_row.leaks += leaks_since(before);
	rows_write("end");
	row_ids = NULL;
}

void kvc_row_end(void)
{
	row_end(&at_start);
}

void kvc_row_end_here(void)
{
	row_end(&at_begin);
}
