/* See tenant_ids.h. */
#include "daemon/cache/tenant_ids.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

enum { IDS_FIRST = 8 };

void kvc_tenant_ids_close(struct kvc_tenant_ids *tenants)
{
	kvc_free(tenants->ids);
	*tenants = (struct kvc_tenant_ids){0};
}

static bool is(const struct kvc_tenant_ids *tenants, uint32_t i, const uint8_t *id)
{
	return i < tenants->count && !memcmp(tenants->ids[i].bytes, id, KVC_TENANT_ID_BYTES);
}

static bool room_made(struct kvc_tenant_ids *tenants)
{
	uint32_t capacity = tenants->capacity ? 2 * tenants->capacity : IDS_FIRST;
	struct kvc_tenant_id *grown;

	if (tenants->count == UINT16_MAX)
		return false;
	if (tenants->count < tenants->capacity)
		return true;
	grown = kvc_realloc(tenants->ids, capacity, sizeof *grown);
	if (!grown)
		return false;
	tenants->ids = grown;
	tenants->capacity = capacity;
	return true;
}

uint16_t kvc_tenant_ids_number(struct kvc_tenant_ids *tenants, const uint8_t id[KVC_TENANT_ID_BYTES])
{
	uint32_t i = 0;

	if (is(tenants, tenants->last, id))
		return (uint16_t)(tenants->last + 1);
	while (i < tenants->count && !is(tenants, i, id))
		i++;
	if (i == tenants->count) {
		if (!room_made(tenants))
			return 0;
		memcpy(tenants->ids[tenants->count++].bytes, id, KVC_TENANT_ID_BYTES);
	}
	tenants->last = i;
	return (uint16_t)(i + 1);
}

bool kvc_tenant_ids_get(const struct kvc_tenant_ids *tenants, uint16_t number,
                        uint8_t id[KVC_TENANT_ID_BYTES])
{
	KVC_PRE(number <= tenants->count);
	if (!number)
		return false;
	memcpy(id, tenants->ids[number - 1].bytes, KVC_TENANT_ID_BYTES);
	return true;
}
