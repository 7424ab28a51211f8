/* Limits read from /proc and the control group file system. What cannot be read limits nothing. */
#include "daemon/mem/memory_limit.h"

#include <stdio.h>
#include <string.h>

#define CGROUP_ROOT "/sys/fs/cgroup"

enum { LINE_BYTES = 512, PATH_BYTES = 4096 };

uint64_t kvc_memory_available(void)
{
	unsigned long long kib = 0;
	char line[LINE_BYTES];
	FILE *file = fopen("/proc/meminfo", "re");

	if (!file)
		return UINT64_MAX;
	while (fgets(line, sizeof line, file))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	fclose(file);
	return kib ? (uint64_t)kib * 1024 : UINT64_MAX;
}

static uint64_t limit_read(const char *group)
{
	char path[PATH_BYTES + sizeof CGROUP_ROOT + sizeof "/memory.max"];
	unsigned long long bytes;
	FILE *file;
	int found;

	snprintf(path, sizeof path, CGROUP_ROOT "%s/memory.max", group);
	file = fopen(path, "re");
	if (!file)
		return UINT64_MAX;
	found = fscanf(file, "%llu", &bytes); /* "max" is no number */
	fclose(file);
	return found == 1 ? bytes : UINT64_MAX;
}

/* The process's group below the root, "" for the root itself. */
static void group_read(char group[PATH_BYTES])
{
	char line[PATH_BYTES];
	FILE *file = fopen("/proc/self/cgroup", "re");

	group[0] = '\0';
	if (!file)
		return;
	while (fgets(line, sizeof line, file)) {
		if (strncmp(line, "0::/", 4))
			continue;
		line[strcspn(line, "\n")] = '\0';
		if (line[4])
			memcpy(group, line + 3, strlen(line + 3) + 1);
		break;
	}
	fclose(file);
}

uint64_t kvc_memory_cgroup_max(void)
{
	char group[PATH_BYTES];
	uint64_t lowest = UINT64_MAX;
	char *slash;

	group_read(group);
	do {
		uint64_t limit = limit_read(group);

		lowest = limit < lowest ? limit : lowest;
		slash = strrchr(group, '/');
		if (slash)
			*slash = '\0';
	} while (slash);
	return lowest;
}
