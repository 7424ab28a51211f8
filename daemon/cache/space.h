/* Room in the RAM arena: who waits for a slab, and who must give one up.
 *
 * Requests are granted in order, loads (a client waits for them) before puts. When there is no room the
 * coldest blocks that can go at once are evicted; if those that are left must be written to disk first, the
 * cleaner (flight.c) is already at it, and the request waits. If nothing that runs can ever make room the
 * request fails with KVC_NO_SPACE. */
#ifndef KVC_SPACE_H
#define KVC_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "proto/kvc_status.h"

struct kvc_cache;

struct kvc_space_req {
	uint64_t bytes; /* of the slab */
	bool urgent;
	uint32_t slab; /* result, if KVC_OK */
	void (*granted)(struct kvc_space_req *req, kvc_status status);

	/* private */
	struct kvc_list node;
	bool queued;
};

/* KVC_OK: req->slab is there, `granted` is not called. KVC_BUSY: it waits, `granted` will be called.
 * KVC_NO_SPACE: it can never be had. */
kvc_status kvc_space_request(struct kvc_cache *cache, struct kvc_space_req *req);

/* Stop waiting; `granted` is not called. */
void kvc_space_cancel(struct kvc_cache *cache, struct kvc_space_req *req);

/* Someone waits for it now: it goes before those that nobody waits for so. It is still waiting. */
void kvc_space_hurry(struct kvc_cache *cache, struct kvc_space_req *req);

/* Room may have come free: look again, later in this turn of the loop. */
void kvc_space_wake(struct kvc_cache *cache);

/* Whether anyone waits. */
bool kvc_space_wanted(const struct kvc_cache *cache);

#endif
