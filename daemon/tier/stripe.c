/* Several disk tiers behind the table of one. See stripe.h.
 *
 * A request passes through: its place is made the child's on the way in and ours on the way out, and `outer`
 * keeps whom to answer. A sync, or to forget a tenant, is one request to each child; there is one round of
 * each at a time, later ones wait. */
#include "daemon/tier/stripe.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "daemon/base/log.h"

enum { CHILD_SHIFT = 16, SUM_MS = 500 };

struct child {
	struct kvc_stripe *stripe;
	struct kvc_tier *tier;
	uint32_t number;
	struct kvc_tier_req sync;
	struct kvc_tier_req forget;
};

struct kvc_stripe {
	struct kvc_tier base;
	struct kvc_loop *loop;
	struct kvc_stats *stats;
	struct kvc_tier_events events;
	struct kvc_timer sum_timer;
	uint32_t count;
	uint32_t next;       /* child that the next store goes to */
	uint32_t recovering; /* children */
	uint32_t closing;
	kvc_status recover_status;
	void (*recovered)(void *context, kvc_status status);
	void (*closed)(void *context);
	void *recover_context;
	void *close_context;
	struct {
		struct kvc_list waiting; /* requests */
		struct kvc_list current;
		uint32_t left; /* children */
		bool lost;
	} sync;
	struct {
		struct kvc_list waiting;      /* requests */
		struct kvc_tier_req *current; /* NULL: none */
		uint32_t left;                /* children */
	} forget;
	struct kvc_tier *tiers[KVC_DISKS_MAX];
	struct child children[KVC_DISKS_MAX];
};

static struct kvc_stripe *stripe_of(struct kvc_tier *tier)
{
	return kvc_container_of(tier, struct kvc_stripe, base);
}

static uint32_t child_of(const struct kvc_place *place)
{
	return place->segment >> CHILD_SHIFT;
}

static void place_in(struct kvc_place *place)
{
	place->segment &= (1u << CHILD_SHIFT) - 1;
}

static void place_out(struct kvc_place *place, uint32_t child)
{
	place->segment |= child << CHILD_SHIFT;
}

static void answer_run(struct kvc_task *task)
{
	struct kvc_tier_req *req = kvc_container_of(task, struct kvc_tier_req, deferred);

	req->done(req);
}

static void answer_later(struct kvc_stripe *stripe, struct kvc_tier_req *req, kvc_status status)
{
	req->status = status;
	req->deferred = (struct kvc_task){.run = answer_run};
	kvc_loop_defer(stripe->loop, &req->deferred);
}

static void changed(struct kvc_tier *tier)
{
	struct kvc_stripe *stripe = stripe_of(tier);

	tier->writable = false;
	for (uint32_t i = 0; i < stripe->count; i++)
		tier->writable |= stripe->tiers[i] && stripe->tiers[i]->writable;
}

/* --- stores and loads ----------------------------------------------------------------------------- */

/* The next one that is writable, or just the next one. */
static uint32_t child_next(struct kvc_stripe *stripe)
{
	uint32_t first = stripe->next++ % stripe->count;

	for (uint32_t i = 0; i < stripe->count; i++)
		if (stripe->tiers[(first + i) % stripe->count]->writable)
			return (first + i) % stripe->count;
	return first;
}

static void pass_on(struct kvc_stripe *stripe, struct kvc_tier_req *req)
{
	struct kvc_tier *child = stripe->tiers[req->child];

	child->ops->submit(child, req);
}

static void pass_back(struct kvc_tier_req *req)
{
	place_out(&req->record.place, req->child);
	req->done = req->outer;
	req->done(req);
}

static bool may_try_again(const struct kvc_stripe *stripe, const struct kvc_tier_req *req)
{
	return req->op == KVC_TIER_STORE && req->tries < stripe->count && stripe->base.writable &&
	       (req->status == KVC_UNAVAILABLE || req->status == KVC_NO_SPACE || req->status == KVC_IO);
}

static void try_again(struct kvc_task *task)
{
	struct kvc_tier_req *req = kvc_container_of(task, struct kvc_tier_req, deferred);
	struct kvc_stripe *stripe = stripe_of(req->front);

	req->tries++;
	req->child = child_next(stripe);
	pass_on(stripe, req);
}

/* A store that one child refuses may suit another. Never from inside a child's callback. */
static void child_done(struct kvc_tier_req *req)
{
	struct kvc_stripe *stripe = stripe_of(req->front);

	if (!may_try_again(stripe, req)) {
		pass_back(req);
		return;
	}
	req->deferred = (struct kvc_task){.run = try_again};
	kvc_loop_defer(stripe->loop, &req->deferred);
}

/* --- syncs ---------------------------------------------------------------------------------------- */

static void round_start(struct kvc_stripe *stripe);

static void sync_done(struct kvc_tier_req *req)
{
	struct child *child = kvc_container_of(req, struct child, sync);
	struct kvc_stripe *stripe = child->stripe;
	struct kvc_list finished;
	struct kvc_list *node;
	bool lost;

	stripe->sync.lost |= req->status != KVC_OK;
	if (--stripe->sync.left)
		return;
	lost = stripe->sync.lost;
	kvc_list_init(&finished);
	kvc_list_splice(&finished, &stripe->sync.current);
	if (!kvc_list_empty(&stripe->sync.waiting))
		round_start(stripe);
	while ((node = kvc_list_pop(&finished)))
		answer_later(stripe, kvc_container_of(node, struct kvc_tier_req, node),
		             lost ? KVC_IO : KVC_OK);
}

static void round_start(struct kvc_stripe *stripe)
{
	kvc_list_splice(&stripe->sync.current, &stripe->sync.waiting);
	stripe->sync.left = stripe->count;
	stripe->sync.lost = false;
	for (uint32_t i = 0; i < stripe->count; i++) {
		struct kvc_tier_req *sync = &stripe->children[i].sync;

		*sync = (struct kvc_tier_req){.op = KVC_TIER_SYNC, .done = sync_done};
		stripe->tiers[i]->ops->submit(stripe->tiers[i], sync);
	}
}

/* --- tenants -------------------------------------------------------------------------------------- */

/* Of the child that has dropped it most often: what one has not heard of is void all the same. */
static uint32_t stripe_incarnation(struct kvc_tier *tier, const uint8_t tenant[16])
{
	const struct kvc_stripe *stripe = stripe_of(tier);
	uint32_t most = 0;

	for (uint32_t i = 0; i < stripe->count; i++) {
		struct kvc_tier *child = stripe->tiers[i];
		uint32_t one = child ? child->ops->incarnation(child, tenant) : 0;

		most = one > most ? one : most;
	}
	return most;
}

static void forget_next(struct kvc_stripe *stripe);

static void forget_done(struct kvc_tier_req *req)
{
	struct child *child = kvc_container_of(req, struct child, forget);
	struct kvc_stripe *stripe = child->stripe;
	struct kvc_tier_req *outer = stripe->forget.current;

	if (req->status != KVC_OK)
		outer->status = req->status;
	if (--stripe->forget.left)
		return;
	stripe->forget.current = NULL;
	outer->record.incarnation = stripe_incarnation(&stripe->base, outer->record.tenant);
	answer_later(stripe, outer, outer->status);
	forget_next(stripe);
}

/* All children go to the same incarnation, which none has had. */
static void forget_next(struct kvc_stripe *stripe)
{
	struct kvc_list *node = stripe->forget.current ? NULL : kvc_list_pop(&stripe->forget.waiting);
	struct kvc_tier_req *outer;
	uint64_t drop;
	uint32_t to;

	if (!node)
		return;
	outer = kvc_container_of(node, struct kvc_tier_req, node);
	outer->status = KVC_OK;
	stripe->forget.current = outer;
	stripe->forget.left = stripe->count;
	to = stripe_incarnation(&stripe->base, outer->record.tenant) + 1;
	kvc_random(&drop, sizeof drop);
	for (uint32_t i = 0; i < stripe->count; i++) {
		struct kvc_tier_req *req = &stripe->children[i].forget;

		*req = (struct kvc_tier_req){
		        .op = KVC_TIER_FORGET_TENANT,
		        .done = forget_done,
		        .drop = drop,
		};
		memcpy(req->record.tenant, outer->record.tenant, sizeof req->record.tenant);
		req->record.incarnation = to;
		stripe->tiers[i]->ops->submit(stripe->tiers[i], req);
	}
}

/* --- the table ------------------------------------------------------------------------------------ */

static void stripe_submit(struct kvc_tier *tier, struct kvc_tier_req *req)
{
	struct kvc_stripe *stripe = stripe_of(tier);

	if (req->op == KVC_TIER_SYNC) {
		kvc_list_push(&stripe->sync.waiting, &req->node);
		if (!stripe->sync.left)
			round_start(stripe);
		return;
	}
	if (req->op == KVC_TIER_FORGET_TENANT) {
		kvc_list_push(&stripe->forget.waiting, &req->node);
		forget_next(stripe);
		return;
	}
	req->front = tier;
	req->outer = req->done;
	req->done = child_done;
	req->tries = 1;
	req->child = req->op == KVC_TIER_STORE ? child_next(stripe) : child_of(&req->record.place);
	if (req->child >= stripe->count) {
		req->done = req->outer;
		answer_later(stripe, req, KVC_MISS);
		return;
	}
	place_in(&req->record.place);
	pass_on(stripe, req);
}

static void stripe_forget(struct kvc_tier *tier, const struct kvc_record *record)
{
	const struct kvc_stripe *stripe = stripe_of(tier);
	uint32_t child = child_of(&record->place);
	struct kvc_record inner = *record;

	if (child >= stripe->count)
		return;
	place_in(&inner.place);
	stripe->tiers[child]->ops->forget(stripe->tiers[child], &inner);
}

/* --- events --------------------------------------------------------------------------------------- */

static bool child_recovered(void *context, const struct kvc_record *record, uint32_t *cookie)
{
	struct child *child = context;
	const struct kvc_tier_events *events = &child->stripe->events;
	struct kvc_record outer = *record;

	place_out(&outer.place, child->number);
	return events->recovered(events->context, &outer, cookie);
}

static void child_reclaimed(void *context, uint32_t cookie, struct kvc_place place)
{
	struct child *child = context;
	const struct kvc_tier_events *events = &child->stripe->events;

	place_out(&place, child->number);
	events->reclaimed(events->context, cookie, place);
}

/* What the owner fills in belongs to the place that was asked for. */
static bool asked(const struct child *child, bool (*ask)(void *, uint32_t, struct kvc_record *),
                  uint32_t cookie, struct kvc_record *record)
{
	struct kvc_place inner = record->place;
	bool yes;

	place_out(&record->place, child->number);
	yes = ask(child->stripe->events.context, cookie, record);
	record->place = inner;
	return yes;
}

static bool child_describe(void *context, uint32_t cookie, struct kvc_record *record)
{
	struct child *child = context;

	return asked(child, child->stripe->events.describe, cookie, record);
}

static bool child_keep(void *context, uint32_t cookie, struct kvc_record *record)
{
	struct child *child = context;

	return asked(child, child->stripe->events.keep, cookie, record);
}

static bool child_moved(void *context, uint32_t cookie, struct kvc_place from,
                        const struct kvc_record *record)
{
	struct child *child = context;
	const struct kvc_tier_events *events = &child->stripe->events;
	struct kvc_record outer = *record;

	place_out(&from, child->number);
	place_out(&outer.place, child->number);
	return events->moved(events->context, cookie, from, &outer);
}

static void child_noted(void *context, const struct kvc_tier_note *note)
{
	const struct kvc_tier_events *events = &((struct child *)context)->stripe->events;

	events->noted(events->context, note);
}

static void child_note(void *context, struct kvc_tier_note *note)
{
	const struct kvc_tier_events *events = &((struct child *)context)->stripe->events;

	events->note(events->context, note);
}

/* --- recovery and end ----------------------------------------------------------------------------- */

static void sums_fired(struct kvc_timer *timer)
{
	struct kvc_stripe *stripe = kvc_container_of(timer, struct kvc_stripe, sum_timer);

	kvc_disk_stats_sum(stripe->tiers, stripe->count, stripe->stats);
	/* The slot that just fired is free, so that this cannot fail. */
	(void)kvc_timer_start(stripe->loop, timer, SUM_MS);
}

static void child_recover_done(void *context, kvc_status status)
{
	struct child *child = context;
	struct kvc_stripe *stripe = child->stripe;

	if (status != KVC_OK)
		stripe->recover_status = status;
	if (--stripe->recovering)
		return;
	if (!stripe->closing)
		sums_fired(&stripe->sum_timer);
	stripe->recovered(stripe->recover_context, stripe->recover_status);
}

static void stripe_recover(struct kvc_tier *tier, const struct kvc_tier_events *events,
                           void (*done)(void *context, kvc_status status), void *context)
{
	struct kvc_stripe *stripe = stripe_of(tier);

	stripe->events = *events;
	stripe->recovered = done;
	stripe->recover_context = context;
	stripe->recovering = stripe->count;
	for (uint32_t i = 0; i < stripe->count; i++) {
		struct child *child = &stripe->children[i];
		const struct kvc_tier_events inner = {
		        .recovered = child_recovered,
		        .reclaimed = child_reclaimed,
		        .describe = events->describe ? child_describe : NULL,
		        .keep = events->keep ? child_keep : NULL,
		        .moved = events->moved ? child_moved : NULL,
		        .noted = events->noted ? child_noted : NULL,
		        .note = events->note ? child_note : NULL,
		        .context = child,
		};

		child->tier->ops->recover(child->tier, &inner, child_recover_done, child);
	}
}

static void child_closed(void *context)
{
	struct child *child = context;
	struct kvc_stripe *stripe = child->stripe;
	void (*done)(void *closed_context) = stripe->closed;
	void *done_context = stripe->close_context;

	stripe->tiers[child->number] = NULL;
	if (--stripe->closing)
		return;
	kvc_free(stripe);
	done(done_context);
}

static void stripe_close(struct kvc_tier *tier, void (*done)(void *context), void *context)
{
	struct kvc_stripe *stripe = stripe_of(tier);

	KVC_PRE(!stripe->sync.left && !stripe->forget.current);
	kvc_timer_stop(&stripe->sum_timer);
	stripe->closed = done;
	stripe->close_context = context;
	stripe->closing = stripe->count;
	for (uint32_t i = 0; i < stripe->count; i++)
		stripe->tiers[i]->ops->close(stripe->tiers[i], child_closed, &stripe->children[i]);
}

static const struct kvc_tier_ops stripe_ops = {
        .name = "stripe",
        .submit = stripe_submit,
        .forget = stripe_forget,
        .incarnation = stripe_incarnation,
        .recover = stripe_recover,
        .child_changed = changed,
        .close = stripe_close,
};

kvc_status kvc_stripe_open(struct kvc_loop *loop, struct kvc_stats *stats, struct kvc_tier *const *children,
                           uint32_t count, struct kvc_tier **tier)
{
	struct kvc_stripe *stripe = kvc_calloc(1, sizeof *stripe);

	KVC_PRE(count >= 1 && count <= KVC_DISKS_MAX);
	if (!stripe)
		return KVC_NO_MEMORY;
	stripe->base.ops = &stripe_ops;
	stripe->loop = loop;
	stripe->stats = stats;
	stripe->count = count;
	stripe->sum_timer.fire = sums_fired;
	kvc_list_init(&stripe->sync.waiting);
	kvc_list_init(&stripe->sync.current);
	kvc_list_init(&stripe->forget.waiting);
	for (uint32_t i = 0; i < count; i++) {
		stripe->tiers[i] = children[i];
		stripe->tiers[i]->front = &stripe->base;
		stripe->children[i] = (struct child){.stripe = stripe, .tier = children[i], .number = i};
	}
	kvc_disk_stats_sum(stripe->tiers, count, stats);
	*tier = &stripe->base;
	return KVC_OK;
}
