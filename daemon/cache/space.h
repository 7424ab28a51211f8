/* Room in the RAM arena: who waits for a slab, and who must give one up.
 *
 * Tenants take turns by bytes (daemon/base/fair.h); a tenant's requests are granted in order, loads (a client
 * waits for them) before puts. When there is no room, blocks of those above their share that can go at once
 * are evicted (tenant.h); if those that are left must be written to disk first, the cleaner (flight.c) is
 * already at it, and the request waits. One that waits though there are pages enough, since they do not lie
 * together, lets others pass after a moment. If nothing that runs can ever make room the request fails with
 * KVC_NO_SPACE.
 *
 * A tenant at its ram-max gives up blocks of its own first, or waits for its own to be written; others do not
 * wait for it. If nothing of its own can ever go: KVC_QUOTA. */
#ifndef KVC_SPACE_H
#define KVC_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "proto/kvc_status.h"

struct kvc_cache;
struct kvc_tenant;

struct kvc_space_req {
	uint64_t bytes;            /* of the slab */
	struct kvc_tenant *tenant; /* who is charged for it */
	bool urgent;
	uint32_t slab; /* result, if KVC_OK */
	void (*granted)(struct kvc_space_req *req, kvc_status status);

	/* private */
	struct kvc_list node;
	bool queued;
	bool scattered;        /* there were pages enough for it, but no run of them, */
	uint64_t scattered_ms; /* for the first time at that time */
};

/* KVC_OK: req->slab is there, `granted` is not called. KVC_BUSY: it waits, `granted` will be called.
 * KVC_NO_SPACE, KVC_QUOTA: it can never be had. */
kvc_status kvc_space_request(struct kvc_cache *cache, struct kvc_space_req *req);

/* Stop waiting; `granted` is not called. */
void kvc_space_cancel(struct kvc_cache *cache, struct kvc_space_req *req);

/* What becomes of a slab that was granted: it is given back; its end is; or it is a block's from now on. */
void kvc_space_return(struct kvc_cache *cache, const struct kvc_space_req *req);
void kvc_space_shrink(struct kvc_cache *cache, const struct kvc_space_req *req, uint64_t bytes);
void kvc_space_settle(struct kvc_cache *cache, const struct kvc_space_req *req);

/* Give back the slab of a block, that the tenant was charged for. */
void kvc_space_release(struct kvc_cache *cache, struct kvc_tenant *tenant, uint32_t slab);

/* Someone waits for it now: it goes before those that nobody waits for so. It is still waiting. */
void kvc_space_hurry(struct kvc_cache *cache, struct kvc_space_req *req);

/* Room may have come free: look again, later in this turn of the loop. */
void kvc_space_wake(struct kvc_cache *cache);

/* Whether anyone waits. */
bool kvc_space_wanted(const struct kvc_cache *cache);

#endif
