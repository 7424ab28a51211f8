/* See tenants.h. */
#include "tests/sim/tenants.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

void tenants_begin(struct tenants *t)
{
	struct kvc_ns_options options = ns_options("b");

	t->a = t->w.ns;
	assert_int_equal(kvc_ns_open(t->w.cache, &options, &t->b), KVC_OK);
}

void tenants_open(struct tenants *t, uint64_t seed, uint32_t disk_records)
{
	world_open(&t->w, seed, disk_records);
	tenants_begin(t);
}

void tenants_close(struct tenants *t)
{
	world_ns(&t->w, t->a);
	kvc_ns_close(t->b);
	settle(&t->w);
	world_close(&t->w);
}

void budgets(struct tenants *t, const struct kvc_tenant_budget *of, uint32_t count)
{
	kvc_cache_budgets_set(t->w.cache, &(struct kvc_tenant_budgets){.count = count, .of = of});
}

kvc_status put_as(struct tenants *t, struct kvc_ns *ns, uint32_t number)
{
	world_ns(&t->w, ns);
	return put(&t->w, number, number);
}

kvc_status get_as(struct tenants *t, struct kvc_ns *ns, uint32_t number)
{
	world_ns(&t->w, ns);
	return get(&t->w, number, number);
}

void puts_as(struct tenants *t, struct kvc_ns *ns, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(put_as(t, ns, first + i), KVC_OK);
}

uint32_t present(struct tenants *t, struct kvc_ns *ns, uint32_t first, uint32_t count)
{
	uint32_t there = 0;

	for (uint32_t i = 0; i < count; i++)
		there += get_as(t, ns, first + i) == KVC_OK;
	return there;
}

int64_t ram_of(struct tenants *t, const char *tenant)
{
	return tenant_stat(&t->w, tenant, "ram_bytes");
}

static void pass(struct kvc_timer *timer)
{
	(void)timer;
}

void time_passes(struct tenants *t, uint64_t ms)
{
	struct kvc_timer timer = {.fire = pass};

	assert_int_equal(kvc_timer_start(t->w.loop, &timer, ms), KVC_OK);
	settle(&t->w);
}
