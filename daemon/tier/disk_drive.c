/* Watching the health of the drive (drive.h): once at the start, then rarely. What is read decides whether
 * the tier takes stores; loads go on in any case.
 *
 * Reading may block for long, so that each time a thread of its own does it, on a job of its own:
 *
 *   RUNNING --(thread: read)--> ANSWERED --> the job's task, on the loop
 *      `------(loop: given up at a stop)--> ABANDONED, the thread frees the job
 *
 * Whoever moves the job out of RUNNING decides; the exchange is the only thing that both sides touch. A
 * health that cannot be read changes nothing: what was decided before stays. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/tier/disk_private.h"

enum { PATIENCE_MS = 2000, WHY_BYTES = 256 };

enum job_state { JOB_RUNNING, JOB_ANSWERED, JOB_ABANDONED };

struct disk_drive_job {
	struct kvc_task task; /* on the loop, at the end */
	struct kvc_disk *disk;
	struct kvc_loop *loop;
	pthread_t thread;       /* the loop's to join, or to detach */
	_Atomic uint32_t state; /* acq_rel: what the thread wrote into the job is seen by the loop */
	const char *directory;  /* copies, behind the struct */
	const char *file;
	kvc_status status;
	struct kvc_drive_reading reading;
	char why[WHY_BYTES];
	char text[];
};

static bool job_move(struct disk_drive_job *job, enum job_state to)
{
	uint32_t running = JOB_RUNNING;

	return atomic_compare_exchange_strong_explicit(&job->state, &running, to, memory_order_acq_rel,
	                                               memory_order_acquire);
}

static void *job_main(void *context)
{
	struct disk_drive_job *job = context;

	job->status = kvc_drive_read(job->directory, job->file, &job->reading, job->why, sizeof job->why);
	if (job_move(job, JOB_ANSWERED))
		kvc_loop_post(job->loop, &job->task);
	else
		kvc_free(job);
	return NULL;
}

/* --- what follows of it --------------------------------------------------------------------------- */

static void failing_set(struct kvc_disk *disk, const char *why)
{
	struct disk_drive *drive = &disk->drive;

	if (drive->failing == (why != NULL))
		return;
	drive->failing = why != NULL;
	kvc_stat_set(disk->count.drive_failing, drive->failing);
	if (why) {
		kvc_error("disk tier: the drive of %s is failing: %s. Nothing more is written to it; replace "
		          "it",
		          drive->directory, why);
		kvc_disk_update_writable(disk);
		kvc_disk_keep_cut(disk);
		kvc_disk_fail_stores(disk, KVC_UNAVAILABLE);
		return;
	}
	kvc_info("disk tier: the drive of %s is well again", drive->directory);
	kvc_disk_update_writable(disk);
	kvc_disk_prepare(disk, false);
	kvc_disk_progress(disk);
}

static void unknown(struct kvc_disk *disk, const char *why)
{
	struct disk_drive *drive = &disk->drive;

	kvc_stat_set(disk->count.drive_known, 0);
	if (!drive->told)
		kvc_info("disk tier: the health of the drive of %s is not known: %s", drive->directory, why);
	drive->told = true;
}

static void take(struct kvc_disk *disk, const struct kvc_drive_reading *reading)
{
	struct disk_drive *drive = &disk->drive;

	drive->told = false;
	kvc_stat_set(disk->count.drive_known, 1);
	kvc_stat_set(disk->count.drive_used, reading->percentage_used);
	kvc_stat_set(disk->count.drive_warning, reading->critical_warning);
	kvc_stat_set(disk->count.drive_media, (int64_t)reading->media_errors);
	failing_set(disk, kvc_drive_judge(&drive->history, reading, kvc_loop_now_ms(disk->loop)));
}

/* Without a timer, for want of memory, what was read last holds until a restart. */
static void again_later(struct kvc_disk *disk)
{
	(void)kvc_timer_start(disk->loop, &disk->drive.timer, disk->drive.interval_ms);
}

static void job_run(struct kvc_task *task)
{
	struct disk_drive_job *job = kvc_container_of(task, struct disk_drive_job, task);
	struct kvc_disk *disk = job->disk;

	/* It may still be about to wake the loop, which must not be closed before. */
	(void)pthread_join(job->thread, NULL);
	disk->drive.job = NULL;
	if (disk->state == DISK_ON) {
		if (job->status == KVC_OK)
			take(disk, &job->reading);
		else
			unknown(disk, job->why);
		again_later(disk);
	}
	kvc_free(job);
	kvc_disk_progress(disk);
}

/* --- reading -------------------------------------------------------------------------------------- */

static struct disk_drive_job *job_new(struct kvc_disk *disk)
{
	const struct disk_drive *drive = &disk->drive;
	size_t directory = strlen(drive->directory) + 1;
	size_t file = drive->file ? strlen(drive->file) + 1 : 0;
	struct disk_drive_job *job = kvc_calloc(1, sizeof *job + directory + file);

	if (!job)
		return NULL;
	job->task.run = job_run;
	job->disk = disk;
	job->loop = disk->loop;
	job->directory = memcpy(job->text, drive->directory, directory);
	job->file = file ? memcpy(job->text + directory, drive->file, file) : NULL;
	return job;
}

/* Signals stay with the loop thread. */
static int thread_start(struct disk_drive_job *job)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&job->thread, NULL, job_main, job);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

static void read_start(struct kvc_disk *disk)
{
	struct disk_drive_job *job = job_new(disk);

	if (job && !thread_start(job)) {
		disk->drive.job = job;
		return;
	}
	kvc_free(job);
	unknown(disk, "no memory or no thread to ask for it");
	again_later(disk);
}

static void drive_fired(struct kvc_timer *timer)
{
	struct disk_drive *drive = kvc_container_of(timer, struct disk_drive, timer);
	struct kvc_disk *disk = kvc_container_of(drive, struct kvc_disk, drive);
	pthread_t thread;

	if (disk->state == DISK_ON) {
		read_start(disk);
		return;
	}
	/* A stop waited long enough. Too late: its task is on the way. */
	if (drive->job)
		thread = drive->job->thread;
	if (drive->job && job_move(drive->job, JOB_ABANDONED)) {
		(void)pthread_detach(thread); /* the job may be gone by now */
		kvc_warn("disk tier: the drive of %s does not say how it is", drive->directory);
		drive->job = NULL;
	}
	kvc_disk_progress(disk);
}

/* --- life ----------------------------------------------------------------------------------------- */

kvc_status kvc_disk_drive_open(struct kvc_disk *disk, const struct kvc_disk_options *options)
{
	struct disk_drive *drive = &disk->drive;
	size_t directory = strlen(options->directory) + 1;
	size_t file = options->health_file ? strlen(options->health_file) + 1 : 0;
	char *text;

	drive->timer.fire = drive_fired;
	drive->interval_ms = options->health_ms;
	text = kvc_calloc(1, directory + file);
	if (!text)
		return KVC_NO_MEMORY;
	drive->directory = memcpy(text, options->directory, directory);
	drive->file = file ? memcpy(text + directory, options->health_file, file) : NULL;
	return KVC_OK;
}

void kvc_disk_drive_start(struct kvc_disk *disk)
{
	if (disk->drive.interval_ms)
		read_start(disk);
}

void kvc_disk_drive_stop(struct kvc_disk *disk)
{
	kvc_timer_stop(&disk->drive.timer);
	if (disk->drive.job && kvc_timer_start(disk->loop, &disk->drive.timer, PATIENCE_MS))
		drive_fired(&disk->drive.timer);
}

void kvc_disk_drive_close(struct kvc_disk *disk)
{
	KVC_PRE(!disk->drive.job);
	kvc_timer_stop(&disk->drive.timer);
	kvc_free(disk->drive.directory);
}
