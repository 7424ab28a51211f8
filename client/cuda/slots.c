/* Slots. A request's lie beside each other, so that its tables travel in one copy. */
#include "client/cuda/worker.h"

#define SLOT_STEP 4096u

static uint64_t round_up(uint64_t bytes)
{
	return (bytes + SLOT_STEP - 1) / SLOT_STEP * SLOT_STEP;
}

/* Room for an eighth more than an image without raw tiles; what needs more takes the spare slot. */
void kvcw_slots_init(struct kvc_worker *worker)
{
	uint64_t most = round_up(worker->plan.raw_image_bytes);
	uint64_t usual = round_up(worker->plan.image_bytes + worker->plan.image_bytes / 8);

	if (usual > most)
		usual = most;
	for (uint32_t i = 0; i <= worker->slot_count; i++)
		worker->slots[i] = (struct kvcw_slot){.offset = i * usual,
		                                      .capacity = i < worker->slot_count ? usual : most};
}

uint64_t kvcw_slots_bytes(const struct kvc_worker *worker)
{
	const struct kvcw_slot *spare = &worker->slots[worker->slot_count];

	return spare->offset + spare->capacity;
}

bool kvcw_slots_take(struct kvc_worker *worker, uint32_t count, uint32_t *first)
{
	uint32_t run = 0;

	for (uint32_t i = 0; i < worker->slot_count && run < count; i++) {
		bool free = !worker->slots[i].taken && !worker->slots[i].doubt;

		run = free ? run + 1 : 0;
		*first = i + 1 - run;
	}
	if (run < count)
		return false;
	for (uint32_t i = 0; i < count; i++)
		worker->slots[*first + i].taken = true;
	return true;
}

void kvcw_slots_give(struct kvc_worker *worker, uint32_t first, uint32_t count, bool doubt)
{
	for (uint32_t i = first; i < first + count; i++) {
		worker->slots[i].taken = false;
		worker->slots[i].doubt = doubt ? worker->serial : 0;
	}
}

void kvcw_slots_trust(struct kvc_worker *worker, uint64_t serial)
{
	for (uint32_t i = 0; i <= worker->slot_count; i++) {
		if (worker->slots[i].doubt < serial)
			worker->slots[i].doubt = 0;
	}
}

bool kvcw_slots_doubted(const struct kvc_worker *worker)
{
	for (uint32_t i = 0; i <= worker->slot_count; i++) {
		if (worker->slots[i].doubt)
			return true;
	}
	return false;
}
