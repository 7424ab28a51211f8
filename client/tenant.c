/* A tenant as a whole: its statistics, and dropping it. */
#include <string.h>

#include "client/internal.h"

static kvc_status check_tenant(const struct kvc_client *client, const char *call, const char *tenant)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t bytes = tenant ? strlen(tenant) : 0;

	if (!client)
		return kvcc_fail(KVC_INVALID, "%s: no client", call);
	if (bytes == 0 || bytes > KVC_TENANT_BYTES_MAX || strspn(tenant, allowed) != bytes)
		return kvcc_fail(KVC_INVALID, "tenant: expected 1 to %u of [A-Za-z0-9._-]",
		                 KVC_TENANT_BYTES_MAX);
	return KVC_OK;
}

static kvc_status encode_tenant(const struct kvcc_work *work, struct kvcc_request *request)
{
	return kvcc_wire_tenant(work->verb, work->what, &request->frame);
}

static kvc_status run(struct kvc_client *client, uint16_t verb, const char *tenant, uint32_t deadline_ms,
                      struct kvcc_call *call)
{
	struct kvcc_work work = {
	        .verb = verb,
	        .deadline_ms = deadline_ms,
	        .deadline_ns = kvcc_deadline(client, deadline_ms),
	        .encode = encode_tenant,
	        .what = tenant,
	};

	return kvcc_run(client, &work, call);
}

kvc_status kvc_tenant_stats(struct kvc_client *client, const char *tenant, uint32_t deadline_ms,
                            struct kvc_stat **stats, size_t *count)
{
	struct kvcc_call call = {.status = KVC_OK};
	kvc_status status = check_tenant(client, "kvc_tenant_stats", tenant);

	if (status == KVC_OK && (!stats || !count))
		status = kvcc_fail(KVC_INVALID, "kvc_tenant_stats: nowhere to put the answer");
	if (status == KVC_OK)
		status = run(client, KVC_VERB_STATS, tenant, deadline_ms, &call);
	if (status != KVC_OK)
		return status;
	*stats = call.stats.stats;
	*count = call.stats.count;
	return KVC_OK;
}

kvc_status kvc_tenant_drop(struct kvc_client *client, const char *tenant, uint32_t deadline_ms,
                           uint64_t *dropped)
{
	struct kvcc_call call = {.status = KVC_OK};
	kvc_status status = check_tenant(client, "kvc_tenant_drop", tenant);

	if (status == KVC_OK)
		status = run(client, KVC_VERB_DROP_TENANT, tenant, deadline_ms, &call);
	if (status == KVC_OK && dropped)
		*dropped = call.prefix;
	return status;
}
