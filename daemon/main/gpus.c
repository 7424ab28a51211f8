/* The step that starts the GPU engines: all at once, and each must become ready. A GPU that was asked for and
 * cannot be used is an error: a daemon that went on without would be taken for one that is slow. */
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "daemon/main/daemon.h"

#define ENGINE_NAME "kvcellar-engine"

static_assert(KVC_CONF_GPUS_MAX == KVC_GPUS_MAX, "every configured number has its cells");

/* ---- the program --------------------------------------------------------------------------- */

static bool usable(const char *path)
{
	return access(path, X_OK) == 0;
}

/* In a folder relative to the one that kvcellard lies in. */
static bool find_beside(const char *folder, char *path, size_t bytes)
{
	char self[KVC_CONF_TEXT_BYTES];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);

	if (length <= 0)
		return false;
	self[length] = 0;
	return (size_t)snprintf(path, bytes, "%s/%s" ENGINE_NAME, dirname(self), folder) < bytes &&
	       usable(path);
}

static bool find_in_path(char *path, size_t bytes)
{
	const char *folders = getenv("PATH");

	while (folders && *folders) {
		int length = (int)strcspn(folders, ":");

		/* Never in the folder that we happen to be in. */
		if (*folders == '/' &&
		    (size_t)snprintf(path, bytes, "%.*s/" ENGINE_NAME, length, folders) < bytes &&
		    usable(path))
			return true;
		folders += length;
		folders += *folders == ':';
	}
	return false;
}

static kvc_status program_find(const struct kvc_conf *conf, char *path, size_t bytes)
{
	if (strcmp(conf->gpu_engine, "auto") != 0) {
		snprintf(path, bytes, "%s", conf->gpu_engine);
		return KVC_OK;
	}
	if (find_beside("", path, bytes) || find_beside("../libexec/", path, bytes) ||
	    find_in_path(path, bytes))
		return KVC_OK;
	kvc_error("gpus: " ENGINE_NAME " is not beside kvcellard, not in ../libexec from there and not in "
	          "PATH: install it (it is built where CUDA is), name it with --gpu-engine, or start with "
	          "--gpus none");
	return KVC_UNAVAILABLE;
}

/* ---- start --------------------------------------------------------------------------------- */

static uint32_t ordinal_of(const struct kvc_daemon *daemon, const struct kvc_gpu *gpu)
{
	uint32_t i = 0;

	while (daemon->gpus[i] != gpu)
		i++;
	return daemon->conf.gpus.ordinals[i];
}

static void verdict(void *context, struct kvc_gpu *gpu, kvc_status status, const char *detail)
{
	struct kvc_daemon *daemon = context;

	if (status != KVC_OK) {
		kvc_error("gpus: GPU %u cannot be used: %s (%s). Start without it, or with --gpus none",
		          ordinal_of(daemon, gpu), detail, kvc_status_text(status));
		daemon->gpus_status = status;
	}
	if (--daemon->gpus_pending == 0)
		kvc_daemon_step_done(daemon, daemon->gpus_status);
}

static kvc_status gpu_open(struct kvc_daemon *daemon, uint32_t ordinal, const char *program)
{
	const struct kvc_conf *conf = &daemon->conf;
	struct kvc_gpu_options options = {
	        .loop = daemon->loop,
	        .stats = daemon->stats,
	        .arena = daemon->arena,
	        .program = program,
	        .ordinal = ordinal,
	        .sms = (uint32_t)conf->gpu_sms,
	        .low_priority = conf->gpu_low_priority,
	        .vram_bytes = conf->vram,
	        .staging_bytes = conf->gpu_staging,
	        .hang_ms = (uint32_t)conf->gpu_hang_ms,
	};
	kvc_status status = kvc_gpu_open(&options, verdict, daemon, &daemon->gpus[daemon->gpu_count]);

	if (status != KVC_OK) {
		kvc_error("gpus: the engine of GPU %u cannot be set up: %s", ordinal,
		          kvc_status_text(status));
		return status;
	}
	daemon->gpu_count++;
	daemon->gpus_pending++;
	return KVC_OK;
}

kvc_status kvc_daemon_gpus_start(struct kvc_daemon *daemon)
{
	const struct kvc_conf_gpus *wanted = &daemon->conf.gpus;
	char program[KVC_CONF_TEXT_BYTES];
	kvc_status status;

	if (!wanted->count && wanted->automatic)
		kvc_info("gpus: auto: there is no NVIDIA device in /dev: CPU only");
	if (!wanted->count)
		return KVC_OK;
	status = program_find(&daemon->conf, program, sizeof program);
	for (uint32_t i = 0; status == KVC_OK && i < wanted->count; i++)
		status = gpu_open(daemon, wanted->ordinals[i], program);
	if (!daemon->gpus_pending)
		return status;
	/* Those that were begun are waited for in any case. */
	kvc_notify_status("starting the GPU engines");
	daemon->gpus_status = status;
	daemon->waiting = true;
	return KVC_OK;
}

/* ---- stop ---------------------------------------------------------------------------------- */

void kvc_daemon_gpus_give_up(struct kvc_daemon *daemon)
{
	if (!daemon->gpus_pending)
		return;
	daemon->gpus_pending = 0;
	kvc_daemon_step_done(daemon, KVC_OK);
}

static void gpu_closed(void *context)
{
	struct kvc_daemon *daemon = context;

	if (--daemon->gpu_count == 0)
		kvc_daemon_step_done(daemon, KVC_OK);
}

void kvc_daemon_gpus_stop(struct kvc_daemon *daemon)
{
	daemon->waiting = daemon->gpu_count > 0;
	for (uint32_t i = daemon->gpu_count; i > 0; i--)
		kvc_gpu_close(daemon->gpus[i - 1], gpu_closed, daemon);
}

/* ---- looking ------------------------------------------------------------------------------- */

void kvc_daemon_gpus_describe(const struct kvc_daemon *daemon, char *text, size_t bytes)
{
	size_t used = 0;

	*text = 0;
	for (uint32_t i = 0; i < daemon->gpu_count && used < bytes; i++)
		used += (size_t)snprintf(text + used, bytes - used, ", GPU %u (%s)",
		                         daemon->conf.gpus.ordinals[i], kvc_gpu_name(daemon->gpus[i]));
	if (used && used < bytes && daemon->conf.vram)
		snprintf(text + used, bytes - used, ", vram %llu MiB each",
		         (unsigned long long)(daemon->conf.vram >> 20));
}
