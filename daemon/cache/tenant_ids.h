/* Tenants by small numbers, so that an entry of the index can name its own. Numbers are given out in turn and
 * never taken back: there are as many tenants as an administrator names. */
#ifndef KVC_TENANT_IDS_H
#define KVC_TENANT_IDS_H

#include <stdbool.h>
#include <stdint.h>

#define KVC_TENANT_ID_BYTES 16u

struct kvc_tenant_id {
	uint8_t bytes[KVC_TENANT_ID_BYTES];
};

/* Zero-initialised: empty. */
struct kvc_tenant_ids {
	uint32_t count;
	uint32_t capacity;
	uint32_t last; /* that was asked for: most questions come in runs */
	struct kvc_tenant_id *ids;
};

void kvc_tenant_ids_close(struct kvc_tenant_ids *tenants);

/* The number of that tenant, 1 or above, given now if it has none. 0: there is no memory for it, or it is one
 * too many. */
uint16_t kvc_tenant_ids_number(struct kvc_tenant_ids *tenants, const uint8_t id[KVC_TENANT_ID_BYTES]);

/* The tenant of that number; false: of 0. */
bool kvc_tenant_ids_get(const struct kvc_tenant_ids *tenants, uint16_t number,
                        uint8_t id[KVC_TENANT_ID_BYTES]);

#endif
