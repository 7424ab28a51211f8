/* What `auto` and relative values stand for on this machine, contradictions between options, and the reload
 * of a running daemon. */
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

static uint64_t ram_auto(uint64_t available)
{
	uint64_t ram = available / 4;

	ram = ram < RAM_MAX ? ram : RAM_MAX;
	ram = ram > RAM_MIN ? ram : RAM_MIN;
	return ram / MIB * MIB;
}

/* Drive writes a day: at most 1000 times 4096T, so that it cannot overflow. */
static uint64_t budget_bytes(const struct kvc_conf *conf)
{
	uint64_t thousandths = conf->disk_budget & ~KVC_CONF_DWPD;

	return conf->disk_size / 1000 * thousandths + conf->disk_size % 1000 * thousandths / 1000;
}

static uint64_t threads_auto(void)
{
	cpu_set_t set;
	int count;

	if (sched_getaffinity(0, sizeof set, &set))
		return 1;
	count = CPU_COUNT(&set);
	return count < 1 ? 1 : count > 256 ? 256 : (uint64_t)count;
}

/* Under a service manager in the folder that it made ($RUNTIME_DIRECTORY), for root where clients look by
 * default, else in the user's own. */
static kvc_status socket_auto(struct kvc_conf *conf, char *error)
{
	const char *service = getenv("RUNTIME_DIRECTORY");
	const char *own = getenv("XDG_RUNTIME_DIR");
	const char *directory = service && *service == '/' ? service : geteuid() == 0 ? "/run/kvcellar" : own;

	if (getenv("LISTEN_FDS"))
		return KVC_OK; /* the service manager passes the socket, the path is not used */
	if (!directory || *directory != '/')
		return refuse(
		        error,
		        "socket: XDG_RUNTIME_DIR is not set, so there is no default: use --socket PATH");
	if ((size_t)snprintf(conf->socket, sizeof conf->socket, "%s/kvcellar.sock", directory) >=
	    sizeof conf->socket)
		return refuse(error, "socket: the default directory is too long: use --socket PATH");
	return KVC_OK;
}

static kvc_status gpu_contradictions(const struct kvc_conf *conf, char *error)
{
	bool none = !conf->gpus.count && !conf->gpus.automatic;

	if (none && conf->vram)
		return refuse(error, "vram needs a GPU: name them with --gpus 0,1 or --gpus auto");
	if (none && strcmp(conf->gpu_engine, "auto") != 0)
		return refuse(error, "gpu-engine needs a GPU: name them with --gpus 0,1 or --gpus auto");
	if (conf->gpu_engine[0] == 0)
		return refuse(error, "gpu-engine: the path is empty");
	return KVC_OK;
}

static kvc_status contradictions(const struct kvc_conf *conf, char *error)
{
	if (conf->deadline_default_ms > conf->deadline_max_ms)
		return refuse(error, "deadline-default-ms is larger than deadline-max-ms");
	if (conf->inline_max > conf->inline_budget)
		return refuse(error, "inline-max is larger than inline-budget");
	if (conf->segment_size && conf->segment_size > conf->disk_size / 4)
		return refuse(error, "segment-size is larger than a quarter of disk-size");
	if (kvc_tenants_check(conf, error, KVC_CONF_ERROR_BYTES) != KVC_OK)
		return KVC_INVALID;
	if (conf->disk_health[0] == 0)
		return refuse(error, "disk-health: the path is empty: expected auto, none or a file");
	return gpu_contradictions(conf, error);
}

kvc_status kvc_conf_resolve(struct kvc_conf *conf, uint64_t memory_bytes, char *error)
{
	if (conf->ram == 0)
		conf->ram = ram_auto(memory_bytes);
	if (conf->threads == 0)
		conf->threads = threads_auto();
	if (conf->disk_budget & KVC_CONF_DWPD)
		conf->disk_budget = budget_bytes(conf);
	if (conf->gpus.automatic)
		kvc_conf_gpus_detect("/dev", getenv("CUDA_VISIBLE_DEVICES"), &conf->gpus);
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
	now->tenant_count = fresh->tenant_count;
	memcpy(now->tenants, fresh->tenants, sizeof now->tenants);
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

kvc_status kvc_conf_renew(struct kvc_conf *now, const struct kvc_conf *given, uint64_t memory_bytes,
                          char *error)
{
	char ignored[KVC_CONF_ERROR_BYTES];
	struct kvc_conf fresh = *given;
	struct kvc_conf renewed = *now;
	kvc_status status;

	if (!fresh.ram)
		fresh.ram = now->ram;
	status = kvc_conf_resolve(&fresh, memory_bytes, error);
	if (status != KVC_OK)
		return status;
	kvc_conf_reload(&renewed, &fresh, ignored, sizeof ignored);
	status = contradictions(&renewed, error);
	if (status == KVC_OK)
		*now = renewed;
	return status;
}
