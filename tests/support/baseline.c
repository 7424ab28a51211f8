/* See baseline.h. */
#include "tests/support/baseline.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/fault/agent.h"
#include "tests/support/proc.h"
#include "tests/support/row.h"
#include "tests/support/server.h"

#define SETTLE_MS 10000u
#define TOUCH_MS  1000u /* memory that is short is never touched: then it is not waited for */

enum { CALL_MS = 10000, LOOKS = 25, PATH_BYTES = 512 };

/* ---- /proc --------------------------------------------------------------------------------- */

static bool descriptor_counts(const char *folder, const char *name)
{
	char path[PATH_BYTES], target[PATH_BYTES];
	ssize_t length;

	snprintf(path, sizeof path, "%.256s/%.64s", folder, name);
	length = readlink(path, target, sizeof target - 1);
	target[length > 0 ? length : 0] = '\0';
	return length > 0 && !strstr(target, "/segments/");
}

static bool file_counts(const char *folder, const char *name)
{
	(void)folder;
	return strcmp(name, "segments") != 0;
}

static uint64_t anonymous_of(pid_t pid)
{
	unsigned long long kib = 0;
	char path[64], line[PATH_BYTES];
	FILE *status;

	snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof line, status))
		if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib * 1024;
}

/* ---- one look ------------------------------------------------------------------------------ */

/* What the daemon says of itself. */
struct said {
	bool answered;
	double connections;
	double index_bytes;
	double untouched_bytes; /* of the arena, on which a thread is at work */
	double segments;        /* that hold something, and so have a table */
};

static struct said ask(struct kvc_client *probe)
{
	struct said said = {0};
	struct kvc_stat *stats;
	size_t count;

	if (kvc_stats(probe, 0, &stats, &count) != KVC_OK)
		return said;
	said.answered = true;
	for (size_t i = 0; i < count; i++) {
		const char *name = stats[i].name;

		if (!strcmp(name, "rpc.connections"))
			said.connections = stats[i].value;
		else if (!strcmp(name, "cache.index_bytes") || !strcmp(name, "cache.expiry_bytes"))
			said.index_bytes += stats[i].value;
		else if (!strcmp(name, "ram.bytes"))
			said.untouched_bytes += stats[i].value;
		else if (!strcmp(name, "ram.touched_bytes"))
			said.untouched_bytes -= stats[i].value;
		else if (!strcmp(name, "disk.segments"))
			said.segments += stats[i].value;
		else if (!strcmp(name, "disk.free_segments"))
			said.segments -= stats[i].value;
	}
	kvc_stats_free(stats);
	return said;
}

static int64_t objects_of(int agent, const struct said *said)
{
	struct agent_command command = {.what = AGENT_ALLOC};
	struct agent_answer answer;

	if (agent < 0 || write(agent, &command, sizeof command) != (ssize_t)sizeof command ||
	    read(agent, &answer, sizeof answer) != (ssize_t)sizeof answer)
		return -1;
	return answer.live - (int64_t)said->segments;
}

/* A sanitizer's heap keeps what was freed, and says nothing. */
static uint64_t heap_of(const struct kvc_baseline_of *of, const struct said *said)
{
	uint64_t bytes = anonymous_of(of->pid);

	if (kvc_server_patience() > 1 || bytes < (uint64_t)said->index_bytes)
		return 0;
	return bytes - (uint64_t)said->index_bytes;
}

static struct kvc_baseline look(const struct kvc_baseline_of *of, const struct said *said)
{
	struct kvc_baseline now = {.taken = true};
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/fd", (int)of->pid);
	now.descriptors = kvc_proc_entries(path, descriptor_counts);
	snprintf(path, sizeof path, "/proc/%d/task", (int)of->pid);
	now.threads = kvc_proc_entries(path, kvc_proc_thread_counts);
	now.files = kvc_proc_entries(of->disk, file_counts);
	snprintf(path, sizeof path, "/proc/%d/maps", (int)of->pid);
	now.shared = kvc_proc_shared_bytes(path);
	now.objects = objects_of(of->agent, said);
	now.heap = now.objects < 0 ? heap_of(of, said) : 0;
	return now;
}

static struct kvc_client *probe_open(const struct kvc_baseline_of *of)
{
	struct kvc_client_options options;
	struct kvc_client *probe;

	kvc_client_options_init(&options);
	options.socket_path = of->socket;
	options.deadline_ms = CALL_MS;
	return kvc_client_create(&options, &probe) == KVC_OK ? probe : NULL;
}

/* ---- the baseline -------------------------------------------------------------------------- */

/* Threads that begin with the daemon and end soon, and what they open, do not belong to it. */
static void take_least(struct kvc_baseline *least, const struct kvc_baseline_of *of, const struct said *said)
{
	*least = look(of, said);
	for (unsigned i = 1; i < LOOKS; i++) {
		struct kvc_baseline now;

		kvc_server_step();
		now = look(of, said);
		least->descriptors =
		        now.descriptors < least->descriptors ? now.descriptors : least->descriptors;
		least->threads = now.threads < least->threads ? now.threads : least->threads;
		least->objects = now.objects < least->objects ? now.objects : least->objects;
	}
}

static uint64_t settle_end(const struct kvc_baseline_of *of)
{
	return kvc_server_now_ms() + (of->settle_ms ? of->settle_ms : SETTLE_MS * kvc_server_patience());
}

bool kvc_baseline_take(struct kvc_baseline *baseline, const struct kvc_baseline_of *of)
{
	uint64_t patience = kvc_server_now_ms() + (uint64_t)TOUCH_MS * kvc_server_patience();
	uint64_t end = settle_end(of);
	struct kvc_client *probe = probe_open(of);
	struct said said = {0};

	while (probe && !baseline->taken && kvc_server_now_ms() < end) {
		said = ask(probe);
		if (said.answered && said.connections == 1 &&
		    (said.untouched_bytes <= 0 || kvc_server_now_ms() >= patience))
			take_least(baseline, of, &said);
		else
			kvc_server_step();
	}
	kvc_client_destroy(probe);
	if (!baseline->taken)
		fprintf(stderr, "# no baseline of process %d: answered %d, %g connections\n", (int)of->pid,
		        said.answered, said.connections);
	return baseline->taken;
}

static uint64_t over(const char *what, int64_t now, int64_t before, int64_t allowed, bool tell)
{
	if (now <= before + allowed)
		return 0;
	if (tell)
		fprintf(stderr, "# the daemon is left with %lld %s, before %lld, and %lld more are allowed\n",
		        (long long)now, what, (long long)before, (long long)allowed);
	return (uint64_t)(now - before - allowed);
}

static uint64_t leaks_of(const struct kvc_baseline *before, const struct kvc_baseline *now, bool tell)
{
	uint64_t leaks = 0;

	leaks += over("descriptors", now->descriptors, before->descriptors, 0, tell);
	leaks += over("threads", now->threads, before->threads, 0, tell);
	leaks += over("files besides segments", now->files, before->files, 0, tell);
	leaks += over("bytes of shared mappings", (int64_t)now->shared, (int64_t)before->shared, 0, tell) > 0;
	if (before->objects >= 0 && now->objects >= 0)
		leaks += over("objects of its heap", now->objects, before->objects, KVC_BASELINE_OBJECTS,
		              tell);
	if (before->heap && now->heap)
		leaks += over("bytes of private memory", (int64_t)now->heap, (int64_t)before->heap,
		              KVC_BASELINE_HEAP_BYTES, tell) > 0;
	return leaks;
}

static uint64_t compare_with(const struct kvc_baseline *before, const struct kvc_baseline_of *of,
                             struct kvc_client *probe)
{
	uint64_t end = settle_end(of);
	struct kvc_baseline now;
	uint64_t leaks;
	bool last;

	do {
		struct said said = ask(probe);

		last = kvc_server_now_ms() >= end;
		if (!said.answered) {
			fprintf(stderr, "# the daemon does not answer at the end: %s\n", kvc_last_error());
			return 1;
		}
		now = look(of, &said);
		leaks = said.connections > 1 ? (uint64_t)said.connections - 1 : 0;
		if (leaks && last)
			fprintf(stderr, "# the daemon still has %g connections, one of which asks\n",
			        said.connections);
		leaks += leaks_of(before, &now, last);
		if (leaks && !last)
			kvc_server_step();
	} while (leaks && !last);
	return leaks;
}

uint64_t kvc_baseline_compare(const struct kvc_baseline *before, const struct kvc_baseline_of *of)
{
	struct kvc_client *probe = probe_open(of);
	uint64_t leaks = probe && before->taken ? compare_with(before, of, probe) : 1;

	kvc_client_destroy(probe);
	if (!before->taken)
		fprintf(stderr, "# there is no baseline of the daemon to compare with\n");
	kvc_row.baselines++;
	kvc_row.leaks += leaks;
	return leaks;
}
