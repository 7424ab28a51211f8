/* See proc.h. */
#include "tests/support/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

unsigned kvc_proc_entries(const char *folder, bool (*counts)(const char *folder, const char *name))
{
	DIR *listing = opendir(folder);
	const struct dirent *entry;
	unsigned count = 0;

	while (listing && (entry = readdir(listing)))
		count += entry->d_name[0] != '.' && (!counts || counts(folder, entry->d_name));
	if (listing)
		closedir(listing);
	return count;
}

bool kvc_proc_thread_counts(const char *folder, const char *name)
{
	char path[512], command[32] = "";
	int fd;

	snprintf(path, sizeof path, "%.256s/%.64s/comm", folder, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false; /* it has just ended */
	if (read(fd, command, sizeof command - 1) < 0)
		command[0] = '\0';
	close(fd);
	return strncmp(command, "iou-", 4) != 0;
}

uint64_t kvc_proc_shared_bytes(const char *path)
{
	FILE *maps = fopen(path, "re");
	unsigned long long from, to;
	char line[512], how[5];
	uint64_t bytes = 0;

	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%llx-%llx %4s", &from, &to, how) == 3 && how[3] == 's')
			bytes += to - from;
	if (maps)
		fclose(maps);
	return bytes;
}
