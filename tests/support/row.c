/* See row.h. What a leak is: more descriptors, threads, bytes of shared mappings (arenas, clients' regions,
 * rings) or live objects of the daemon's heap than before main(), or a C heap that grew by more than the
 * tests' own bookkeeping. Threads of the kernel's (io_uring) come and go as it likes, and do not count. */
#include "tests/support/row.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/alloc.h"
#include "tests/support/proc.h"

enum { LINE_BYTES = 1024, HEAP_SLACK = 1 << 20, LIBRARY_DESCRIPTORS = 2, THREAD_LOOKS = 1000 };

#if defined(__SANITIZE_THREAD__)
#define SANITIZER_THREADS 1u
#else
#define SANITIZER_THREADS 0u
#endif

struct kvc_row kvc_row;

static const char *row_ids; /* NULL: no row has begun */
static const char *row_test;
static bool daemons_started;
static struct baseline {
	unsigned descriptors;
	unsigned threads;
	uint64_t shared; /* bytes that are mapped so */
	int64_t live;    /* objects of the daemon's heap */
	size_t heap;
} at_start, at_begin;

static unsigned descriptors_now(void)
{
	return kvc_proc_entries("/proc/self/fd", NULL);
}

/* One that was joined is listed for a moment longer: it is gone when the kernel says so. */
static unsigned threads_now(unsigned most)
{
	const struct timespec step = {.tv_nsec = 1000000};
	unsigned count = kvc_proc_entries("/proc/self/task", kvc_proc_thread_counts);

	for (unsigned i = 0; count > most && i < THREAD_LOOKS; i++) {
		nanosleep(&step, NULL);
		count = kvc_proc_entries("/proc/self/task", kvc_proc_thread_counts);
	}
	return count;
}

static struct baseline baseline_now(unsigned threads)
{
	return (struct baseline){
	        .descriptors = descriptors_now(),
	        .threads = threads_now(threads),
	        .shared = kvc_proc_shared_bytes("/proc/self/maps"),
	        .live = kvc_alloc_live(),
	        .heap = mallinfo2().uordblks,
	};
}

static void *thread_end(void *nothing)
{
	return nothing;
}

/* The thread sanitizer starts one of its own with the program's first: it belongs to the baseline. */
__attribute__((constructor)) static void baseline_take(void)
{
	pthread_t first;

	if (pthread_create(&first, NULL, thread_end, NULL) == 0)
		pthread_join(first, NULL);
	at_start = baseline_now(1 + SANITIZER_THREADS);
}

static uint64_t leaks_since(const struct baseline *before)
{
	struct baseline now = baseline_now(before->threads);
	uint64_t leaks = 0;

	if (now.descriptors > before->descriptors)
		leaks += now.descriptors - before->descriptors;
	if (now.threads > before->threads)
		leaks += now.threads - before->threads;
	if (now.shared > before->shared)
		leaks++;
	if (now.live > before->live)
		leaks += (uint64_t)(now.live - before->live);
	if (now.heap > at_begin.heap + HEAP_SLACK)
		leaks++;
	if (leaks)
		fprintf(stderr,
		        "# %s: descriptors %u, before %u; threads %u, before %u; bytes shared %llu, before "
		        "%llu; objects %lld, before %lld; heap %zu, before %zu\n",
		        row_test, now.descriptors, before->descriptors, now.threads, before->threads,
		        (unsigned long long)now.shared, (unsigned long long)before->shared,
		        (long long)now.live, (long long)before->live, now.heap, at_begin.heap);
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
	at_begin = baseline_now(UINT_MAX);
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

void kvc_row_daemon_started(void)
{
	daemons_started = true;
}

static void row_end(struct baseline *before)
{
	if (!row_ids)
		return;
	libraries_allow(before);
	kvc_row.leaks += leaks_since(before);
	if (daemons_started && kvc_row.baselines == 0) {
		fprintf(stderr, "# %s: no daemon was compared with its baseline\n", row_test);
		kvc_row.leaks++;
	}
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
