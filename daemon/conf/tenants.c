/* [tenant NAME]: what one tenant may. A table of its own, since there is a set of values for each tenant; in
 * the file only. */
#include <assert.h>
#include <string.h>

#include "daemon/conf/table.h"

#define MIB (1024ull * 1024ull)
#define TIB (1024ull * 1024ull * MIB)

#define AT(field) .offset = offsetof(struct kvc_conf_tenant, field)

const struct kvc_option kvc_tenant_options[] = {
        {.section = KVC_TENANT_SECTION,
         .name = "ram",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(ram),
         .max = 64 * TIB,
         .initial = "0",
         .help = "Memory that is kept for the tenant while it is active; unused, others may have it. 0: its "
                 "part, by weight, of what is not kept for others."},
        {.section = KVC_TENANT_SECTION,
         .name = "ram-max",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(ram_max),
         .max = 64 * TIB,
         .initial = "0",
         .help = "Memory that its blocks may take; above, they push each other out. 0: no limit."},
        {.section = KVC_TENANT_SECTION,
         .name = "disk-max",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(disk_max),
         .max = 4096 * TIB,
         .initial = "0",
         .help = "Bytes on disk that its blocks may take; above, those that were not used lately go. 0: no "
                 "limit."},
        {.section = KVC_TENANT_SECTION,
         .name = "put-rate",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(put_rate),
         .max = 1024 * TIB,
         .initial = "0",
         .help = "Bytes a second that are taken from it, as they come; above, puts are answered with quota. "
                 "0: no limit."},
        {.section = KVC_TENANT_SECTION,
         .name = "get-rate",
         .type = KVC_OPTION_SIZE,
         .live = true,
         AT(get_rate),
         .max = 1024 * TIB,
         .initial = "0",
         .help = "Bytes a second that are restored for it, likewise. 0: no limit."},
        {.section = KVC_TENANT_SECTION,
         .name = "weight",
         .type = KVC_OPTION_COUNT,
         .live = true,
         AT(weight),
         .min = 1,
         .max = 10000,
         .initial = "100",
         .help = "Its part of memory and of turns where several tenants want more than there is."},
};

const unsigned kvc_tenant_option_count = sizeof kvc_tenant_options / sizeof kvc_tenant_options[0];

static_assert(sizeof kvc_tenant_options / sizeof kvc_tenant_options[0] <= sizeof(struct kvc_option_seen),
              "a bit for every option");

const struct kvc_option *kvc_tenant_option_find(const char *name)
{
	for (unsigned i = 0; i < kvc_tenant_option_count; i++)
		if (strcmp(kvc_tenant_options[i].name, name) == 0)
			return &kvc_tenant_options[i];
	return NULL;
}

bool kvc_tenant_section(const char *section, const char **name)
{
	size_t bytes = strlen(KVC_TENANT_SECTION);

	if (strncmp(section, KVC_TENANT_SECTION, bytes) != 0 || (section[bytes] && section[bytes] != ' '))
		return false;
	*name = section + bytes + strspn(section + bytes, " ");
	return true;
}

static bool name_is_valid(const char *name)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t bytes = strlen(name);

	return strcmp(name, "*") == 0 ||
	       (bytes && bytes < sizeof((struct kvc_conf_tenant *)0)->name && strspn(name, allowed) == bytes);
}

struct kvc_conf_tenant *kvc_tenant_add(struct kvc_conf *conf, const char *name, char *error, size_t bytes)
{
	struct kvc_conf_tenant *tenant = &conf->tenants[conf->tenant_count];
	char expected[256];

	*error = 0;
	if (!name_is_valid(name))
		snprintf(error, bytes,
		         "section [tenant %.80s]: expected a name of 1 to 64 of [A-Za-z0-9._-], or * for all "
		         "others",
		         name);
	for (uint32_t i = 0; i < conf->tenant_count; i++)
		if (strcmp(conf->tenants[i].name, name) == 0)
			snprintf(error, bytes, "section [tenant %s] is there twice", name);
	if (!*error && conf->tenant_count == KVC_CONF_TENANTS_MAX)
		snprintf(error, bytes, "more than %u sections [tenant NAME]", KVC_CONF_TENANTS_MAX);
	if (*error)
		return NULL;
	memset(tenant, 0, sizeof *tenant);
	memcpy(tenant->name, name, strlen(name) + 1);
	for (unsigned i = 0; i < kvc_tenant_option_count; i++)
		(void)kvc_option_parse(&kvc_tenant_options[i], kvc_tenant_options[i].initial, tenant,
		                       expected, sizeof expected);
	conf->tenant_count++;
	return tenant;
}

kvc_status kvc_tenants_check(const struct kvc_conf *conf, char *error, size_t bytes)
{
	uint64_t left = conf->ram;

	for (uint32_t i = 0; i < conf->tenant_count; i++) {
		const struct kvc_conf_tenant *tenant = &conf->tenants[i];

		if (tenant->ram_max && tenant->ram > tenant->ram_max) {
			snprintf(error, bytes, "[tenant %s]: ram is larger than ram-max", tenant->name);
			return KVC_INVALID;
		}
		if (tenant->ram > left) {
			snprintf(error, bytes,
			         "[tenant %s]: ram: more is kept for tenants together than there is (ram)",
			         tenant->name);
			return KVC_INVALID;
		}
		left -= tenant->ram;
	}
	return KVC_OK;
}
