/* A tier of numbered slots in memory. Slot n stands at segment n, page 1; its epoch grows with every use. */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"
#include "tests/sim/sim.h"

struct slot {
	uint8_t *bytes; /* of the record, NULL: empty */
	uint64_t length;
	uint32_t cookie;
	uint64_t epoch;
	uint32_t readers;
	bool synced;
	bool lost; /* given up while it is read */
};

struct tier_state {
	struct sim_tier sim;
	struct kvc_loop *loop;
	struct sim_random *random;
	struct kvc_tier_events events;
	struct slot *slots;
	uint32_t slot_count;
	uint32_t next;
	struct kvc_list hanging;
	struct kvc_tier_note note;
};

struct request_event {
	struct sim_event event;
	struct tier_state *state;
	struct kvc_tier_req *req;
};

static struct tier_state *state_of(struct kvc_tier *tier)
{
	return kvc_container_of(kvc_container_of(tier, struct sim_tier, tier), struct tier_state, sim);
}

static void slot_empty(struct slot *slot)
{
	free(slot->bytes);
	slot->bytes = NULL;
	slot->lost = false;
}

/* The next slot in turn that nobody reads; its record is given up first. */
static struct slot *slot_take(struct tier_state *state)
{
	for (uint32_t tries = 0; tries < state->slot_count; tries++) {
		uint32_t number = state->next++ % state->slot_count;
		struct slot *slot = &state->slots[number];

		if (slot->readers)
			continue;
		if (slot->bytes && state->events.reclaimed)
			state->events.reclaimed(state->events.context, slot->cookie,
			                        (struct kvc_place){.segment = number, .page = 1});
		slot_empty(slot);
		return slot;
	}
	return NULL;
}

static kvc_status store(struct tier_state *state, struct kvc_tier_req *req)
{
	struct slot *slot;

	state->sim.stores++;
	if (sim_one_in(state->random, state->sim.faults.store_error)) {
		state->sim.errors++;
		return KVC_IO;
	}
	slot = slot_take(state);
	if (!slot)
		return KVC_NO_SPACE;
	req->record.place = (struct kvc_place){.segment = (uint32_t)(slot - state->slots), .page = 1};
	req->record.epoch = ++slot->epoch;
	kvc_record_seal(&req->record, req->slab);
	slot->length = kvc_record_bytes(req->record.image_bytes);
	slot->bytes = malloc(slot->length);
	KVC_INVARIANT(slot->bytes);
	memcpy(slot->bytes, req->slab, slot->length);
	slot->cookie = req->cookie;
	slot->synced = false;
	return KVC_OK;
}

static kvc_status slot_read(struct tier_state *state, const struct slot *slot, struct kvc_tier_req *req)
{
	uint64_t length = kvc_record_bytes(req->record.image_bytes);

	if (sim_one_in(state->random, state->sim.faults.load_error)) {
		state->sim.errors++;
		return KVC_IO;
	}
	if (!slot->bytes || slot->length != length)
		return KVC_MISS;
	memcpy(req->slab, slot->bytes, length);
	if (sim_one_in(state->random, state->sim.faults.flip)) {
		uint64_t bit =
		        sim_next(state->random) % (8 * (KVC_RECORD_HEADER_BYTES + req->record.image_bytes));

		req->slab[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		state->sim.flips++;
	}
	return kvc_record_match(req->slab, length, &req->record);
}

static kvc_status load(struct tier_state *state, struct kvc_tier_req *req)
{
	struct slot *slot = &state->slots[req->record.place.segment];
	kvc_status status = slot_read(state, slot, req);

	state->sim.loads++;
	if (--slot->readers == 0 && slot->lost)
		slot_empty(slot);
	return status;
}

static kvc_status sync_all(struct tier_state *state)
{
	state->sim.syncs++;
	if (sim_one_in(state->random, state->sim.faults.sync_error)) {
		state->sim.errors++;
		return KVC_IO;
	}
	for (uint32_t i = 0; i < state->slot_count; i++)
		state->slots[i].synced = true;
	return KVC_OK;
}

static kvc_status request_carry_out(struct tier_state *state, struct kvc_tier_req *req)
{
	if (req->op == KVC_TIER_STORE)
		return store(state, req);
	return req->op == KVC_TIER_LOAD ? load(state, req) : sync_all(state);
}

static void request_run(struct sim_event *event)
{
	struct request_event *holder = kvc_container_of(event, struct request_event, event);
	struct kvc_tier_req *req = holder->req;

	req->status = request_carry_out(holder->state, req);
	free(holder);
	req->done(req);
}

static void tier_submit(struct kvc_tier *tier, struct kvc_tier_req *req)
{
	struct tier_state *state = state_of(tier);
	struct request_event *holder = calloc(1, sizeof *holder);

	KVC_INVARIANT(holder);
	*holder = (struct request_event){.event.run = request_run, .state = state, .req = req};
	if (req->op == KVC_TIER_LOAD)
		state->slots[req->record.place.segment].readers++;
	if (sim_one_in(state->random, state->sim.faults.hang))
		kvc_list_push(&state->hanging, &holder->event.node);
	else
		sim_event_add(state->loop, &holder->event);
}

void sim_tier_release(struct sim_tier *tier)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);
	struct kvc_list *node;

	while ((node = kvc_list_pop(&state->hanging)))
		sim_event_add(state->loop, kvc_container_of(node, struct sim_event, node));
}

static void slot_lose(struct tier_state *state, uint32_t number, bool readable)
{
	struct slot *slot = &state->slots[number];

	state->events.reclaimed(state->events.context, slot->cookie,
	                        (struct kvc_place){.segment = number, .page = 1});
	slot->lost = slot->readers && readable;
	if (!slot->lost)
		slot_empty(slot);
}

void sim_tier_lose(struct sim_tier *tier, const struct kvc_storage_key *key, bool readable)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);

	for (uint32_t i = 0; i < state->slot_count; i++) {
		const struct slot *slot = &state->slots[i];
		struct kvc_record record;

		if (slot->bytes && !slot->lost &&
		    kvc_record_parse(slot->bytes, slot->length, &record) == KVC_OK &&
		    !memcmp(&record.key, key, sizeof *key))
			slot_lose(state, i, readable);
	}
}

static void tier_forget(struct kvc_tier *tier, const struct kvc_record *record)
{
	struct slot *slot = &state_of(tier)->slots[record->place.segment];

	KVC_PRE(record->place.page == 1);
	if ((uint32_t)slot->epoch == (uint32_t)record->epoch && !slot->readers)
		slot_empty(slot);
}

static void tier_recover(struct kvc_tier *tier, const struct kvc_tier_events *events,
                         void (*done)(void *context, kvc_status status), void *context)
{
	struct tier_state *state = state_of(tier);

	state->events = *events;
	if (events->noted)
		events->noted(events->context, &state->note);
	for (uint32_t i = 0; i < state->slot_count; i++) {
		struct slot *slot = &state->slots[(state->next + i) % state->slot_count];
		struct kvc_record record;

		if (!slot->bytes || kvc_record_parse(slot->bytes, slot->length, &record) != KVC_OK)
			continue;
		if (state->sim.faults.no_tenants)
			memset(record.tenant, 0, sizeof record.tenant);
		if (!events->recovered(events->context, &record, &slot->cookie))
			slot_empty(slot);
	}
	done(context, KVC_OK);
}

static void tier_close(struct kvc_tier *tier, void (*done)(void *context), void *context)
{
	(void)tier;
	done(context);
}

kvc_status sim_tier_open(struct kvc_loop *loop, struct sim_random *random, uint32_t records,
                         struct sim_tier **tier)
{
	static const struct kvc_tier_ops ops = {
	        .name = "sim",
	        .submit = tier_submit,
	        .forget = tier_forget,
	        .recover = tier_recover,
	        .close = tier_close,
	};
	struct tier_state *state = kvc_calloc(1, sizeof *state);

	KVC_INVARIANT(state);
	state->sim.tier.ops = &ops;
	state->sim.tier.writable = true;
	state->loop = loop;
	state->random = random;
	state->slot_count = records;
	state->slots = kvc_calloc(records, sizeof *state->slots);
	KVC_INVARIANT(state->slots);
	kvc_list_init(&state->hanging);
	*tier = &state->sim;
	return KVC_OK;
}

void sim_tier_note(struct sim_tier *tier, struct kvc_tier_note *note)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);

	state->events.note(state->events.context, &state->note);
	*note = state->note;
}

uint32_t sim_tier_described(struct sim_tier *tier)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);
	uint32_t described = 0;

	for (uint32_t i = 0; i < state->slot_count; i++) {
		const struct slot *slot = &state->slots[i];
		struct kvc_record record = {.place = {.segment = i, .page = 1}, .epoch = slot->epoch};

		described +=
		        slot->bytes && state->events.describe(state->events.context, slot->cookie, &record);
	}
	return described;
}

void sim_tier_crash(struct sim_tier *tier, bool lose)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);

	for (uint32_t i = 0; i < state->slot_count; i++)
		if (lose && !state->slots[i].synced)
			slot_empty(&state->slots[i]);
	memset(&state->events, 0, sizeof state->events);
}

void sim_tier_free(struct sim_tier *tier)
{
	struct tier_state *state = kvc_container_of(tier, struct tier_state, sim);

	for (uint32_t i = 0; i < state->slot_count; i++)
		slot_empty(&state->slots[i]);
	kvc_free(state->slots);
	kvc_free(state);
}
