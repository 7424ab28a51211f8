/* kvcellar ping, stats, drop-tenant: about the daemon itself, and a tenant as a whole. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client/cli/cmd.h"
#include "client/cli/job.h"
#include "client/cli/report.h"

static const struct kvc_usage ping_usage = {
        .name = "ping",
        .groups = KVC_GROUP_COMMON,
        .what = "Ask the daemon for a sign of life; say which it is and how long that took.",
        .examples = "  kvcellar ping\n  kvcellar ping --socket /run/kvcellar/kvcellar.sock --json\n",
};

static double now_us(void)
{
	struct timespec time;

	(void)clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int print_ping(const struct kvc_settings *settings, const struct kvc_daemon_info *info,
                      double microseconds)
{
	struct kvc_report report;
	char boot_id[2 * sizeof(info->boot_id) + 1];

	(void)sodium_bin2hex(boot_id, sizeof(boot_id), info->boot_id, sizeof(info->boot_id));
	kvc_report_init(&report);
	kvc_report_text(&report, "version", info->version);
	kvc_report_count(&report, "protocol", info->protocol);
	kvc_report_text(&report, "boot_id", boot_id);
	kvc_report_flag(&report, "shm_plane", info->planes & 1u << 2);
	kvc_report_flag(&report, "cuda_plane", info->planes & 1u << 3);
	kvc_report_count(&report, "batch", info->batch);
	kvc_report_count(&report, "inflight", info->inflight);
	kvc_report_real(&report, "round_trip_us", microseconds);
	return kvc_report_print(&report, settings->json, KVC_EXIT_OK);
}

int kvc_cmd_ping(int argc, char **argv)
{
	struct kvc_daemon_info info = {.size = sizeof(info)};
	struct kvc_settings settings;
	struct kvc_client *client;
	int code = kvc_settings_parse(&ping_usage, argc, argv, &settings);
	double start;

	if (code < 0)
		code = kvc_job_connect("ping", &settings, &client);
	if (code >= 0)
		return code;
	if (kvc_client_info(client, &info, 0) !=
	    KVC_OK) { /* connects; the second round trip is the measured one */
		code = kvc_failure("ping", "%s", kvc_last_error());
		goto out;
	}
	start = now_us();
	if (kvc_ping(client, 0) == KVC_OK)
		code = print_ping(&settings, &info, now_us() - start);
	else
		code = kvc_failure("ping", "%s", kvc_last_error());
out:
	kvc_client_destroy(client);
	return code;
}

static const struct kvc_usage stats_usage = {
        .name = "stats",
        .groups = KVC_GROUP_COMMON | KVC_GROUP_TENANT,
        .what = "Print the daemon's counters and gauges, or those of one tenant. The last word of a name is "
                "its\n"
                "unit. For root and the daemon's own user: others are told how long it runs, and exit code "
                "3.",
        .examples = "  kvcellar stats\n  kvcellar stats --json | jq '.\"ram.used_bytes\"'\n"
                    "  kvcellar stats --tenant research\n",
};

/* To others the daemon says only how long it runs. */
static bool has_counters(const struct kvc_stat *stats, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (strchr(stats[i].name, '.'))
			return true;
	}
	return false;
}

int kvc_cmd_stats(int argc, char **argv)
{
	struct kvc_settings settings;
	struct kvc_client *client;
	struct kvc_report report;
	struct kvc_stat *stats;
	kvc_status status;
	size_t count;
	int code = kvc_settings_parse(&stats_usage, argc, argv, &settings);

	if (code < 0)
		code = kvc_job_connect("stats", &settings, &client);
	if (code >= 0)
		return code;
	status = settings.whole_tenant ? kvc_tenant_stats(client, settings.whole_tenant, 0, &stats, &count)
	                               : kvc_stats(client, 0, &stats, &count);
	if (status != KVC_OK) {
		kvc_client_destroy(client);
		return kvc_failure("stats", "%s", kvc_last_error());
	}
	kvc_report_init(&report);
	for (size_t i = 0; i < count; i++) {
		double value = stats[i].value;

		if (value >= 0 && value < 9e15 && value == (double)(uint64_t)value)
			kvc_report_count(&report, stats[i].name, (uint64_t)value);
		else
			kvc_report_real(&report, stats[i].name, value);
	}
	if (has_counters(stats, count)) {
		code = KVC_EXIT_OK;
	} else {
		(void)kvc_failure("stats", "counters are told to root and the daemon's own user only");
		code = KVC_EXIT_SHORT;
	}
	kvc_stats_free(stats);
	kvc_client_destroy(client);
	return kvc_report_print(&report, settings.json, code);
}

static const struct kvc_usage drop_tenant_usage = {
        .name = "drop-tenant",
        .groups = KVC_GROUP_COMMON | KVC_GROUP_TENANT,
        .required = KVC_GROUP_TENANT,
        .what = "Forget every block of a tenant in every tier. For root and the daemon's own user.",
        .examples = "  kvcellar drop-tenant --tenant research\n",
};

int kvc_cmd_drop_tenant(int argc, char **argv)
{
	struct kvc_settings settings;
	struct kvc_client *client;
	struct kvc_report report;
	uint64_t dropped;
	int code = kvc_settings_parse(&drop_tenant_usage, argc, argv, &settings);

	if (code < 0)
		code = kvc_job_connect("drop-tenant", &settings, &client);
	if (code >= 0)
		return code;
	if (kvc_tenant_drop(client, settings.whole_tenant, 0, &dropped) == KVC_OK) {
		kvc_report_init(&report);
		kvc_report_text(&report, "tenant", settings.whole_tenant);
		kvc_report_count(&report, "dropped", dropped);
		code = kvc_report_print(&report, settings.json, KVC_EXIT_OK);
	} else {
		code = kvc_failure("drop-tenant", "%s", kvc_last_error());
	}
	kvc_client_destroy(client);
	return code;
}
