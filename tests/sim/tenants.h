/* Two tenants in the simulated world, and what they do there. Tenant a is the world's own. */
#ifndef KVC_SIM_TENANTS_H
#define KVC_SIM_TENANTS_H

#include "tests/sim/world.h"

enum {
	B_OWN = 60, /* blocks of the tenant that keeps to itself: a fifth of the arena or so */
	RECORD = 4096,
	FLOOD = 600, /* blocks: more than the arena holds */
};

struct tenants {
	struct world w;
	struct kvc_ns *a;
	struct kvc_ns *b;
};

void tenants_open(struct tenants *t, uint64_t seed, uint32_t disk_records);
void tenants_close(struct tenants *t);

/* Tenant b opens its namespace in a world that is there. */
void tenants_begin(struct tenants *t);

void budgets(struct tenants *t, const struct kvc_tenant_budget *of, uint32_t count);

/* From then on the world's jobs and keys are of that namespace. */
kvc_status put_as(struct tenants *t, struct kvc_ns *ns, uint32_t number);
kvc_status get_as(struct tenants *t, struct kvc_ns *ns, uint32_t number);
void puts_as(struct tenants *t, struct kvc_ns *ns, uint32_t first, uint32_t count);

/* How many of these blocks can be got. */
uint32_t present(struct tenants *t, struct kvc_ns *ns, uint32_t first, uint32_t count);

int64_t ram_of(struct tenants *t, const char *tenant);

/* Let simulated time pass. */
void time_passes(struct tenants *t, uint64_t ms);

#endif
