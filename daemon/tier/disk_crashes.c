/* A recovery that crashes, and what it was looking at then.
 *
 * While a recovery runs, a signal handler for what ends a program in the middle of its work (SIGSEGV, SIGBUS,
 * SIGILL, SIGFPE, SIGABRT: also a broken contract, and the watchdog of the service manager) writes down which
 * segment this thread was at, and lets the signal do its work. A SIGKILL says nothing of the data, and leaves
 * no trace. The next start scans such a segment, so that neither checkpoint nor summary can be to blame; the
 * one after a second crash sets it aside: it is neither read nor written until its file is removed.
 *
 * The handler and what it touches is for the whole process: `watched` counts the recoveries that run. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/crashes.h"
#include "daemon/tier/disk_private.h"

static const int deadly[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

enum { DEADLY = sizeof deadly / sizeof deadly[0] };

static struct sigaction before[DEADLY];
static unsigned watched;

/* What this thread is at; NULL: nothing. */
static _Thread_local struct disk_segment *volatile at;

void kvc_disk_crashes_at(struct disk_segment *segment)
{
	at = segment;
}

static int page_write(struct kvc_disk *disk)
{
	static uint8_t page[KVC_PAGE_BYTES];

	kvc_crashes_encode(&disk->crashes, page);
	return pwrite(disk->crashes_fd, page, sizeof page, 0) == sizeof page && !fsync(disk->crashes_fd) ? 0
	                                                                                                 : -1;
}

/* Only what is allowed in a handler: plain memory, pwrite, fsync, sigaction, raise. */
static void deadly_signal(int number)
{
	struct disk_segment *segment = at;

	at = NULL;
	if (segment && segment->disk->crashes_fd >= 0) {
		kvc_crashes_add(&segment->disk->crashes, segment->number, segment->epoch);
		(void)page_write(segment->disk);
	}
	for (unsigned i = 0; i < DEADLY; i++)
		if (deadly[i] == number)
			sigaction(number, &before[i], NULL);
	raise(number);
}

void kvc_disk_crashes_watch(bool on)
{
	struct sigaction action = {.sa_handler = deadly_signal, .sa_flags = SA_NODEFER};

	KVC_PRE(on || watched > 0);
	if (on ? watched++ > 0 : --watched > 0)
		return;
	sigemptyset(&action.sa_mask);
	for (unsigned i = 0; i < DEADLY; i++)
		if (on)
			sigaction(deadly[i], &action, &before[i]);
		else
			sigaction(deadly[i], &before[i], NULL);
}

uint32_t kvc_disk_crashes_of(const struct disk_segment *segment)
{
	return kvc_crashes_times(&segment->disk->crashes, segment->number, segment->epoch);
}

/* All went well: who was suspected only is cleared; what is not there any more is forgotten. */
void kvc_disk_crashes_clear(struct kvc_disk *disk)
{
	struct kvc_crashes *crashes = &disk->crashes;
	uint32_t kept = 0, count = crashes->count;

	for (uint32_t i = 0; i < count; i++) {
		const struct kvc_crash *crash = &crashes->of[i];

		if (crash->times >= DISK_CRASHES_MAX && crash->number < disk->segment_count &&
		    disk->segments[crash->number].aside)
			crashes->of[kept++] = *crash;
	}
	crashes->count = kept;
	if (kept != count && page_write(disk))
		kvc_warn("disk tier: its list of crashes cannot be written");
}

void kvc_disk_crashes_open(struct kvc_disk *disk)
{
	uint8_t page[KVC_PAGE_BYTES];
	kvc_status status = KVC_MISS;

	disk->crashes_fd =
	        openat(disk->dir_fd, "crashes", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	if (disk->crashes_fd < 0)
		kvc_warn("disk tier: its list of crashes cannot be opened");
	else if (pread(disk->crashes_fd, page, sizeof page, 0) == sizeof page)
		status = kvc_crashes_decode(page, &disk->crashes);
	if (status != KVC_OK ||
	    memcmp(disk->crashes.instance, disk->super.instance, sizeof disk->super.instance) != 0)
		disk->crashes = (struct kvc_crashes){.count = 0};
	memcpy(disk->crashes.instance, disk->super.instance, sizeof disk->crashes.instance);
}
