/* Looking at the daemon's segments from outside. */
#include "tests/fault/kill_disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "daemon/tier/segment.h"

void kill_disk_init(struct kill_disk *disk, const char *folder)
{
	memset(disk, 0, sizeof *disk);
	disk->folder = folder;
	disk->watch = -1;
}

void kill_disk_clear(struct kill_disk *disk)
{
	memset(disk->epochs, 0, sizeof disk->epochs);
	disk->highest = 0;
}

/* ---- epochs -------------------------------------------------------------------------------- */

/* 0: no file, or a header that is being written. */
static uint64_t epoch_read(const struct kill_disk *disk, unsigned number)
{
	uint8_t page[KVC_PAGE_BYTES];
	struct kvc_segment_header header;
	char path[KVC_SERVER_PATH_BYTES + 64];
	ssize_t got = -1;
	int fd;

	snprintf(path, sizeof path, "%s/segments/%u", disk->folder, number);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = pread(fd, page, sizeof page, 0);
		close(fd);
	}
	if (got != (ssize_t)sizeof page || kvc_segment_header_decode(page, &header) != KVC_OK)
		return 0;
	return header.epoch;
}

void kill_disk_look(struct kill_disk *disk)
{
	for (unsigned i = 0; i < KILL_SEGMENTS; i++) {
		uint64_t epoch = epoch_read(disk, i);

		if (epoch <= disk->epochs[i])
			continue;
		disk->renewed += disk->epochs[i] != 0;
		disk->epochs[i] = epoch;
		if (epoch > disk->highest)
			disk->highest = epoch;
	}
}

bool kill_disk_keeps(const struct kill_disk *disk, uint64_t mark)
{
	unsigned older = 0;

	for (unsigned i = 0; i < KILL_SEGMENTS; i++)
		older += disk->epochs[i] <= mark;
	return older >= KILL_SPARE;
}

/* ---- writes -------------------------------------------------------------------------------- */

void kill_disk_watch(struct kill_disk *disk)
{
	char segments[KVC_SERVER_PATH_BYTES + 64];

	snprintf(segments, sizeof segments, "%s/segments", disk->folder);
	disk->last[0] = '\0';
	disk->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (disk->watch < 0)
		return;
	disk->watch_segments = inotify_add_watch(disk->watch, segments, IN_MODIFY);
	inotify_add_watch(disk->watch, disk->folder, IN_MODIFY);
}

void kill_disk_watch_end(struct kill_disk *disk)
{
	if (disk->watch >= 0)
		close(disk->watch);
	disk->watch = -1;
}

static bool event_awaited(struct kill_disk *disk, const struct inotify_event *event,
                          enum kill_awaited awaited)
{
	bool other;

	if (event->wd != disk->watch_segments)
		return awaited == KILL_AWAIT_CHECKPOINT && strncmp(event->name, "checkpoint", 10) == 0;
	other = disk->last[0] && strncmp(event->name, disk->last, sizeof disk->last - 1) != 0;
	snprintf(disk->last, sizeof disk->last, "%s", event->name);
	return awaited == KILL_AWAIT_SWITCH && other;
}

bool kill_disk_seen(struct kill_disk *disk, enum kill_awaited awaited)
{
	_Alignas(struct inotify_event) char bytes[4096];
	bool seen = false;
	ssize_t got;

	while (disk->watch >= 0 && (got = read(disk->watch, bytes, sizeof bytes)) > 0) {
		for (ssize_t at = 0; at < got;) {
			const struct inotify_event *event = (const void *)(bytes + at);

			seen = event->len && event_awaited(disk, event, awaited) ? true : seen;
			at += (ssize_t)(sizeof *event + event->len);
		}
	}
	return seen;
}
