/* What `auto` stands for on this machine, contradictions between options, and the reload of a running
 * daemon. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/conf/table.h"

#define MIB     (1024ull * 1024ull)
#define RAM_MAX (4096ull * MIB) /* of `auto` */
#define RAM_MIN (16ull * MIB)

static kvc_status refuse(char *error, const char *what)
{
	snprintf(error, KVC_CONF_ERROR_BYTES, "%s", what);
	return KVC_INVALID;
}

/* ---- memory -------------------------------------------------------------------------------- */

static uint64_t meminfo_available(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	char line[128];
	unsigned long long kib = 0;

	if (!file)
		return 0;
	while (fgets(line, sizeof line, file)) {
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	}
	fclose(file);
	return kib * 1024;
}

/* A limit in a one-line file; none ("max", or no file) is UINT64_MAX. */
static uint64_t limit_read(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long long bytes;
	int fields;

	if (!file)
		return UINT64_MAX;
	fields = fscanf(file, "%llu", &bytes);
	fclose(file);
	return fields == 1 ? bytes : UINT64_MAX;
}

/* The tightest memory.max of this process's cgroup and those above it (cgroup v2). */
static uint64_t cgroup_limit(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	uint64_t least = UINT64_MAX;
	char group[512] = "";
	char path[640];

	if (!file)
		return least;
	if (fscanf(file, "0::%511s", group) != 1)
		group[0] = 0;
	fclose(file);
	for (char *end = group + strlen(group);; *end = 0) {
		uint64_t limit;

		snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
		limit = limit_read(path);
		least = limit < least ? limit : least;
		end = strrchr(group, '/');
		if (!end)
			return least;
	}
}

static uint64_t ram_auto(void)
{
	uint64_t available = meminfo_available();
	uint64_t limit = cgroup_limit();
	uint64_t ram = (limit < available ? limit : available) / 4;

	ram = ram < RAM_MAX ? ram : RAM_MAX;
	ram = ram > RAM_MIN ? ram : RAM_MIN;
	return ram / MIB * MIB;
}

/* ---- the rest ------------------------------------------------------------------------------ */

static uint64_t threads_auto(void)
{
	cpu_set_t set;
	int count;

	if (sched_getaffinity(0, sizeof set, &set))
		return 1;
	count = CPU_COUNT(&set);
	return count < 1 ? 1 : count > 256 ? 256 : (uint64_t)count;
}

static kvc_status socket_auto(struct kvc_conf *conf, char *error)
{
	const char *directory = getenv("XDG_RUNTIME_DIR");
	int bytes;

	if (geteuid() == 0) {
		snprintf(conf->socket, sizeof conf->socket, "/run/kvcellar/kvcellar.sock");
		return KVC_OK;
	}
	if (!directory || directory[0] != '/')
		return refuse(
		        error,
		        "socket: XDG_RUNTIME_DIR is not set, so there is no default: use --socket PATH");
	bytes = snprintf(conf->socket, sizeof conf->socket, "%s/kvcellar.sock", directory);
	if (bytes < (int)sizeof conf->socket)
		return KVC_OK;
	return refuse(error, "socket: XDG_RUNTIME_DIR is too long: use --socket PATH");
}

static kvc_status contradictions(const struct kvc_conf *conf, char *error)
{
	if (conf->deadline_default_ms > conf->deadline_max_ms)
		return refuse(error, "deadline-default-ms is larger than deadline-max-ms");
	if (conf->inline_max > conf->inline_budget)
		return refuse(error, "inline-max is larger than inline-budget");
	if (conf->segment_size && conf->segment_size > conf->disk_size / 4)
		return refuse(error, "segment-size is larger than a quarter of disk-size");
	return KVC_OK;
}

kvc_status kvc_conf_resolve(struct kvc_conf *conf, char *error)
{
	if (conf->ram == 0)
		conf->ram = ram_auto();
	if (conf->threads == 0)
		conf->threads = threads_auto();
	if (conf->socket[0] == 0)
		return refuse(error, "socket: the path is empty");
	if (strcmp(conf->socket, "auto") == 0 && socket_auto(conf, error) != KVC_OK)
		return KVC_INVALID;
	return contradictions(conf, error);
}

void kvc_conf_reload(struct kvc_conf *now, const struct kvc_conf *fresh, char *ignored, size_t bytes)
{
	size_t used = 0;

	*ignored = 0;
	for (unsigned i = 0; i < kvc_option_count; i++) {
		const struct kvc_option *option = &kvc_options[i];
		const void *value = kvc_option_value_const(option, fresh);
		size_t value_bytes = kvc_option_value_bytes(option);

		if (memcmp(kvc_option_value(option, now), value, value_bytes) == 0)
			continue;
		if (option->live)
			memcpy(kvc_option_value(option, now), value, value_bytes);
		else if (used < bytes)
			used += (size_t)snprintf(ignored + used, bytes - used, "%s%s", used ? ", " : "",
			                         option->name);
	}
}
