/* A tier that blocks rest in below RAM: a table of functions. One directory is one (disk.h), several are
 * (stripe.h).
 *
 * Requests live in the caller's object; `done` comes exactly once on the loop thread, never from inside
 * submit. Buffers are slabs of the RAM arena and must stay until then. */
#ifndef KVC_TIER_H
#define KVC_TIER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/list.h"
#include "daemon/loop/loop.h"
#include "daemon/tier/record.h"
#include "proto/kvc_status.h"

enum kvc_tier_op {
	KVC_TIER_STORE, /* write a record; on success `record.place` and `.epoch` say where */
	KVC_TIER_LOAD,  /* read a record from `record.place` and check that it is `record` */
	KVC_TIER_SYNC,  /* everything stored before is on stable storage */

	/* Drop the tenant `record.tenant`: its data key is gone, if there was one, and it has another
	 * incarnation, so that nothing that was stored for it counts any more. Durable when it succeeds. */
	KVC_TIER_FORGET_TENANT,
};

struct kvc_tier;

struct kvc_tier_req {
	/* set by the caller */
	enum kvc_tier_op op;
	struct kvc_record record;
	uint8_t *slab; /* kvc_record_bytes(record.image_bytes) long; a store seals the header in it */
	uint32_t
	        cookie; /* store: handed to `reclaimed` when the record's place is given up; not UINT32_MAX */
	void (*done)(struct kvc_tier_req *req);

	/* forget: KVC_OK, KVC_IO and KVC_NO_SPACE (`incarnation` says whether it took effect), KVC_NO_MEMORY,
	 * KVC_LIMIT (too many tenants), KVC_UNAVAILABLE; `record.incarnation` is the tenant's present one.
	 * store: KVC_CANCELLED: its tenant was dropped since, KVC_LIMIT: too many tenants for their keys.
	 * store KVC_OK, KVC_NO_SPACE, KVC_IO, KVC_UNAVAILABLE (tier off). load KVC_OK, KVC_CORRUPT,
	 * KVC_MISS, KVC_IO, KVC_UNAVAILABLE. sync KVC_OK, KVC_IO: something stored since the submission of
	 * the sync before this one was lost; `reclaimed` said what */
	kvc_status status;

	/* private to the tier */
	struct kvc_task deferred;
	struct kvc_list node;
	uint32_t segment;
	struct kvc_tier *front;                  /* a tier that passed it on, */
	void (*outer)(struct kvc_tier_req *req); /* whom that one answers, */
	uint32_t child;                          /* to which of its tiers, */
	uint32_t tries;                          /* at the how manieth try */
	uint64_t drop;                           /* of a tenant: which one that is, to all of them */
};

/* A few bytes of the owner's that rest with the tier's count of what it wrote. */
#define KVC_TIER_NOTE_BYTES 512u

struct kvc_tier_note {
	uint8_t bytes[KVC_TIER_NOTE_BYTES];
};

/* What the tier tells its owner. All on the loop thread. */
struct kvc_tier_events {
	/* At start: a valid record was found; its tenant is known, its parent and generation if they are in
	 * what it was found by (a checkpoint has neither). The owner returns the cookie, or false to ignore
	 * the record. */
	bool (*recovered)(void *context, const struct kvc_record *record, uint32_t *cookie);

	/* The place of a record is about to be overwritten, or was lost by a failed write or sync: forget it
	 * now if it is still at this place. Must not submit a request. */
	void (*reclaimed)(void *context, uint32_t cookie, struct kvc_place place);

	/* What the owner keeps under a cookie: fills in key, tenant, sizes, depth and what else it knows of
	 * the record at record->place. False: that is not where he has it (yet), or its tenant is being
	 * dropped: the record's incarnation is the tenant's present one. For a checkpoint, from a
	 * task of the tier's own. NULL: there are no checkpoints. */
	bool (*describe)(void *context, uint32_t cookie, struct kvc_record *record);

	/* The segment of the record at record->place will be reclaimed. True: it was used since it was
	 * written and is nowhere else: write it again; fills in as describe does. NULL: nothing is kept. */
	bool (*keep)(void *context, uint32_t cookie, struct kvc_record *record);

	/* It was written again and rests at record->place now. False: the owner does not have it at `from`
	 * any more and does not want it. */
	bool (*moved)(void *context, uint32_t cookie, struct kvc_place from, const struct kvc_record *record);

	/* At start, before the first record: the note that was kept last; zeros, if there is none. Of several
	 * directories each tells its own. NULL: nobody wants it. */
	void (*noted)(void *context, const struct kvc_tier_note *note);

	/* Fill in the note. Asked once a minute while something is written, after every GiB, and at the stop.
	 * It is not synced: a crash may bring back an older one. NULL: there is none. */
	void (*note)(void *context, struct kvc_tier_note *note);

	void *context;
};

struct kvc_tier;

struct kvc_tier_ops {
	const char *name;
	void (*submit)(struct kvc_tier *tier, struct kvc_tier_req *req);

	/* The record at this place is no longer wanted (dropped or found corrupt). */
	void (*forget)(struct kvc_tier *tier, const struct kvc_record *record);

	/* How often the tenant was dropped, so far: what its records have to say. NULL: tenants cannot be
	 * dropped here. */
	uint32_t (*incarnation)(struct kvc_tier *tier, const uint8_t tenant[16]);

	/* Report every valid record that rests here, oldest first, then done(context). Requests are refused
	 * before. The events are copied and stay in force. */
	void (*recover)(struct kvc_tier *tier, const struct kvc_tier_events *events,
	                void (*done)(void *context, kvc_status status), void *context);

	/* Of a tier in front of others: one of them may be writable now, or not any more. */
	void (*child_changed)(struct kvc_tier *tier);

	/* Stop taking requests, wait for those in flight, write what makes the next start quick; then
	 * done(context). The owner must stay for so long: he is still asked to describe. */
	void (*close)(struct kvc_tier *tier, void (*done)(void *context), void *context);
};

/* First member of every tier. */
struct kvc_tier {
	const struct kvc_tier_ops *ops;
	struct kvc_tier *front; /* a tier in front of it that wants to know of `writable`; NULL: none */
	bool writable; /* false: stores are refused (tier off, read-only, full); loads may still work */
};

#endif
