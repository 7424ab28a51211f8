/* kvcellard: command line, process settings, reload. The daemon itself is steps.c. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "daemon/base/key.h"
#include "daemon/base/log.h"
#include "daemon/main/daemon.h"
#include "daemon/mem/memory_limit.h"

enum { EXIT_USAGE = 2 };

static_assert(KVC_CONF_IDS_MAX <= KVC_RPC_IDS_MAX, "a configured list fits the service's");

/* ---- process ------------------------------------------------------------------------------- */

/* Each connection is a descriptor: take as many as the hard limit lets us. */
static void descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		kvc_warn("RLIMIT_NOFILE cannot be raised to its hard limit");
}

/* Nobody else reads what this process makes, and no core dump holds what clients stored (the arena and the
 * clients' regions are left out of dumps besides). */
static void process_protect(void)
{
	const struct rlimit none = {0, 0};

	umask(077);
	if (setrlimit(RLIMIT_CORE, &none))
		kvc_warn("core dumps cannot be turned off");
}

/* ---- configuration ------------------------------------------------------------------------- */

void kvc_daemon_limits(const struct kvc_conf *conf, struct kvc_rpc_limits *limits)
{
	*limits = (struct kvc_rpc_limits){
	        .connections = (uint32_t)conf->connections,
	        .connections_per_uid = (uint32_t)conf->connections_per_uid,
	        .inflight = (uint32_t)conf->inflight,
	        .batch = (uint32_t)conf->batch,
	        .namespaces = (uint32_t)conf->namespaces,
	        .regions = (uint32_t)conf->regions,
	        .pins = (uint32_t)conf->pins,
	        .region_bytes = conf->region_max,
	        .inline_bytes = conf->inline_max,
	        .inline_budget = conf->inline_budget,
	        .deadline_ms_default = (uint32_t)conf->deadline_default_ms,
	        .deadline_ms_max = (uint32_t)conf->deadline_max_ms,
	        .stall_ms = (uint32_t)conf->stall_timeout_ms,
	        .uid_count = conf->allow_uids.count,
	        .gid_count = conf->allow_gids.count,
	};
	memcpy(limits->uids, conf->allow_uids.ids, sizeof conf->allow_uids.ids);
	memcpy(limits->gids, conf->allow_gids.ids, sizeof conf->allow_gids.ids);
}

void kvc_daemon_budgets(const struct kvc_conf *conf, struct kvc_cache *cache)
{
	struct kvc_tenant_budget of[KVC_TENANT_BUDGETS_MAX];
	struct kvc_tenant_budgets budgets = {
	        .idle_ms = conf->tenant_idle_ms, .count = conf->tenant_count, .of = of};

	static_assert(KVC_CONF_TENANTS_MAX <= KVC_TENANT_BUDGETS_MAX, "the cache takes them all");
	for (uint32_t i = 0; i < conf->tenant_count; i++) {
		const struct kvc_conf_tenant *tenant = &conf->tenants[i];

		of[i] = (struct kvc_tenant_budget){
		        .ram = tenant->ram,
		        .ram_max = tenant->ram_max,
		        .disk_max = tenant->disk_max,
		        .put_rate = tenant->put_rate,
		        .get_rate = tenant->get_rate,
		        .weight = (uint32_t)tenant->weight,
		};
		memcpy(of[i].name, tenant->name, sizeof of[i].name);
	}
	kvc_cache_budgets_set(cache, &budgets);
}

static uint64_t memory_bytes(void)
{
	uint64_t available = kvc_memory_available();
	uint64_t cgroup = kvc_memory_cgroup_max();

	return cgroup < available ? cgroup : available;
}

static kvc_status conf_take(int argc, char *const argv[], struct kvc_conf *given, struct kvc_conf *conf,
                            enum kvc_conf_action *action, char *error)
{
	kvc_status status = kvc_conf_load(argc, argv, given, action, error);

	if (status != KVC_OK)
		return status;
	*conf = *given;
	return *action == KVC_CONF_RUN ? kvc_conf_resolve(conf, memory_bytes(), error) : KVC_OK;
}

void kvc_daemon_reload(struct kvc_daemon *daemon)
{
	char error[KVC_CONF_ERROR_BYTES];
	char ignored[KVC_CONF_ERROR_BYTES];
	enum kvc_conf_action action;
	struct kvc_rpc_limits limits;
	struct kvc_conf given;

	if (daemon->stop_wanted || daemon->stopping)
		return;
	if (daemon->ready)
		kvc_notify("RELOADING=1");
	if (kvc_conf_load(daemon->argc, daemon->argv, &given, &action, error) != KVC_OK ||
	    kvc_conf_renew(&daemon->conf, &given, memory_bytes(), error) != KVC_OK) {
		kvc_error("reload: nothing is changed: %s", error);
	} else {
		kvc_conf_reload(&daemon->given, &given, ignored, sizeof ignored);
		kvc_log_level_now = (enum kvc_log_level)daemon->conf.log_level;
		kvc_daemon_limits(&daemon->conf, &limits);
		if (daemon->rpc)
			kvc_rpc_limits_set(daemon->rpc, &limits);
		if (daemon->cache)
			kvc_daemon_budgets(&daemon->conf, daemon->cache);
		kvc_info("configuration reloaded");
		if (*ignored)
			kvc_warn("reload: these options need a restart and stay as they are: %s", ignored);
	}
	if (daemon->ready)
		kvc_notify("READY=1");
}

/* ---- main ---------------------------------------------------------------------------------- */

static int act(enum kvc_conf_action action, const struct kvc_conf *given)
{
	if (action == KVC_CONF_HELP)
		kvc_conf_help(stdout);
	else if (action == KVC_CONF_VERSION)
		puts("kvcellard " KVCELLAR_VERSION);
	else
		kvc_conf_print(given, stdout);
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char *argv[])
{
	static struct kvc_daemon daemon;
	char error[KVC_CONF_ERROR_BYTES];
	enum kvc_conf_action action;

	if (conf_take(argc, argv, &daemon.given, &daemon.conf, &action, error) != KVC_OK) {
		fprintf(stderr, "kvcellard: %s\n", error);
		return EXIT_USAGE;
	}
	if (action != KVC_CONF_RUN)
		return act(action, &daemon.given);
	daemon.argc = argc;
	daemon.argv = argv;
	kvc_log_level_now = (enum kvc_log_level)daemon.conf.log_level;
	process_protect();
	descriptors_raise();
	kvc_key_init();
	return kvc_daemon_run(&daemon);
}
