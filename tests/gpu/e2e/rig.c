/* See rig.h. */
#include "tests/gpu/e2e/rig.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/measure.h"
#include "tests/gpu/e2e/driver.h"

#define START_MS  30000u
#define STOP_MS   20000u
#define CLIENT_MS 2000u

/* The stand-in, or what the caller or $KVC_TEST_ENGINE wants; the daemon finds its own else. */
static bool engine_path(struct rig *rig, const char *wanted)
{
	const char *given = getenv("KVC_TEST_ENGINE");
	const char *slash = strrchr(rig->server.program, '/');

	if (driver_is_fake())
		wanted = "tests/fake/kvcellar-engine-fake";
	if (given && *given && !wanted)
		return snprintf(rig->engine, sizeof rig->engine, "%s", given) < (int)sizeof rig->engine;
	if (!wanted)
		wanted = "kvcellar-engine";
	return slash &&
	       snprintf(rig->engine, sizeof rig->engine, "%.*s/%s", (int)(slash - rig->server.program),
	                rig->server.program, wanted) < (int)sizeof rig->engine;
}

bool rig_prepare(struct rig *rig, const struct rig_options *options)
{
	memset(rig, 0, sizeof *rig);
	if (!kvc_server_init(&rig->server) || !engine_path(rig, options->engine))
		return false;
	kvc_server_arg(&rig->server, "--gpus", options->gpus ? options->gpus : "0");
	kvc_server_arg(&rig->server, "--gpu-engine", rig->engine);
	kvc_server_arg(&rig->server, "--ram", options->ram ? options->ram : "256M");
	kvc_server_arg(&rig->server, "--vram", options->vram ? options->vram : "0");
	if (options->sms)
		kvc_server_arg(&rig->server, "--gpu-sms", options->sms);
	if (options->disk) {
		kvc_server_arg(&rig->server, "--disk", rig->server.disk);
		kvc_server_arg(&rig->server, "--disk-size", "1G");
	}
	return true;
}

bool rig_start(struct rig *rig)
{
	if (!kvc_server_start(&rig->server) || !kvc_server_answers(&rig->server, START_MS) ||
	    kvc_server_client(&rig->server, CLIENT_MS, &rig->client) != KVC_OK)
		return false;
	return rig_engine_await(rig, 0, START_MS) != 0;
}

bool rig_open(struct rig *rig, const struct rig_options *options)
{
	if (rig_prepare(rig, options) && rig_start(rig))
		return true;
	kvc_server_show_log(&rig->server);
	return false;
}

bool rig_close(struct rig *rig)
{
	bool ok;

	kvc_client_destroy(rig->client);
	rig->client = NULL;
	ok = kvc_server_stop(&rig->server, STOP_MS);
	if (!ok)
		kvc_server_show_log(&rig->server);
	kvc_server_remove(&rig->server);
	return ok;
}

/* ---- what it says -------------------------------------------------------------------------- */

double rig_stat(struct rig *rig, const char *name)
{
	return kvc_server_stat(rig->client, name);
}

double rig_gpu_of(struct rig *rig, unsigned gpu, const char *name)
{
	char full[64];

	snprintf(full, sizeof full, "gpu.%u.%s", gpu, name);
	return rig_stat(rig, full);
}

double rig_gpu(struct rig *rig, const char *name)
{
	return rig_gpu_of(rig, 0, name);
}

/* Parent and name of a process, from /proc; a zombie counts as gone. */
static bool is_engine(long pid, pid_t parent)
{
	char path[64];
	char name[32];
	char state;
	int of;
	FILE *file;
	bool ok;

	snprintf(path, sizeof path, "/proc/%ld/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	ok = fscanf(file, "%*d (%31[^)]) %c %d", name, &state, &of) == 3 && of == parent && state != 'Z' &&
	     strncmp(name, "kvcellar-engine", 15) == 0;
	fclose(file);
	return ok;
}

unsigned rig_engines(const struct rig *rig, pid_t *pids, unsigned most)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	unsigned found = 0;

	while (folder && found < most && (entry = readdir(folder)) != NULL) {
		long pid = strtol(entry->d_name, NULL, 10);

		if (pid > 0 && is_engine(pid, rig->server.pid))
			pids[found++] = (pid_t)pid;
	}
	if (folder)
		closedir(folder);
	return found;
}

pid_t rig_engine(const struct rig *rig)
{
	pid_t pid;

	return rig_engines(rig, &pid, 1) ? pid : 0;
}

pid_t rig_engine_await(struct rig *rig, pid_t before, uint32_t timeout_ms)
{
	uint64_t end = kvc_server_now_ms() + timeout_ms;
	pid_t pid;

	do {
		pid = rig_engine(rig);
		if (pid != 0 && pid != before && rig_gpu(rig, "up") == 1)
			return pid;
		kvc_server_step();
	} while (kvc_server_now_ms() < end);
	return 0;
}

/* ---- figures ------------------------------------------------------------------------------- */

double rig_now_ms(void)
{
	return bench_now_s() * 1e3;
}

void rig_times_add(struct rig_times *times, double ms)
{
	if (times->count < RIG_TIMES_MAX)
		times->ms[times->count++] = ms;
}

double rig_times_most(const struct rig_times *times)
{
	double most = 0;

	for (size_t i = 0; i < times->count; i++)
		most = times->ms[i] > most ? times->ms[i] : most;
	return most;
}

void rig_times_print(struct rig_times *times, const char *what)
{
	if (times->count == 0) {
		printf("# %s: none\n", what);
		return;
	}
	printf("# %s: %zu times, median %.1f ms, 90th percentile %.1f, most %.1f\n", what, times->count,
	       bench_median(times->ms, times->count), bench_quantile(times->ms, times->count, 0.9),
	       rig_times_most(times));
}

unsigned rig_rounds(unsigned full, unsigned small)
{
	const char *given = getenv("KVC_TEST_ROUNDS");

	if (given && *given)
		return (unsigned)strtoul(given, NULL, 10);
	return driver_is_fake() ? small : full;
}
