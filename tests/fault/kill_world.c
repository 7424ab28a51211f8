/* Spaces of the kill loop: several shapes, codecs and tenants; two of them differ in the tenant only. */
#include "tests/fault/kill_world.h"

#include <stdlib.h>
#include <string.h>

struct space_row {
	const char *tenant;
	const char *preset;
	uint32_t layers;
	uint32_t heads;
	uint32_t key_dim;
	uint32_t value_dim;
	uint32_t element;
	uint32_t block_tokens;
};

/* Small, so that the codec's scalar reference has little to do. */
static const struct space_row rows[KILL_SPACES] = {
        {"alpha", "quality", 1, 1, 64, 64, KVC_ELEMENT_BF16, 16},
        {"beta", "quality", 1, 1, 64, 64, KVC_ELEMENT_BF16, 16},
        {"alpha", "compact", 2, 2, 64, 64, KVC_ELEMENT_FP16, 16},
        {"alpha", "quality", 1, 1, 128, 128, KVC_ELEMENT_BF16, 32},
        {"gamma", "k8v4", 1, 1, 576, 0, KVC_ELEMENT_BF16, 16},
        {"beta", "raw", 1, 2, 96, 80, KVC_ELEMENT_FP32, 8},
};

bool kill_world_init(struct kill_world *world, uint64_t seed)
{
	struct kvc_namespace_options options;

	world->seed = seed;
	for (unsigned i = 0; i < KILL_SPACES; i++) {
		kvc_namespace_options_init(&options);
		options.tenant = rows[i].tenant;
		options.model = "kill-loop";
		options.preset = rows[i].preset;
		options.layers = rows[i].layers;
		options.heads = rows[i].heads;
		options.key_dim = rows[i].key_dim;
		options.value_dim = rows[i].value_dim;
		options.element = rows[i].element;
		options.block_tokens = rows[i].block_tokens;
		if (kvc_sample_space_init(&world->spaces[i], &options, seed + i) != KVC_OK)
			return false;
	}
	return true;
}

unsigned kill_space_of(const struct kill_world *world, uint64_t id)
{
	uint64_t state = world->seed ^ id / KILL_BATCH;

	return (unsigned)(kvc_sample_random(&state) % KILL_SPACES);
}

/* ---- batches ------------------------------------------------------------------------------- */

void kill_batch_init(const struct kill_world *world, struct kill_batch *batch, uint64_t id)
{
	batch->space = kill_space_of(world, id);
	batch->count = 0;
}

void kill_batch_add(const struct kill_world *world, struct kill_batch *batch, uint64_t id)
{
	const struct kvc_sample_space *space = &world->spaces[batch->space];
	size_t i = batch->count++;
	uint64_t step = (kvc_sample_bytes_max(space) + 63) / 64 * 64;

	batch->ids[i] = id;
	kvc_sample_block(space, id, i * step, batch->keys[i], &batch->blocks[i]);
	batch->names[i] = (struct kvc_key){.data = batch->keys[i], .bytes = KVC_SAMPLE_KEY_BYTES};
}

/* ---- what must come back ------------------------------------------------------------------- */

static atomic_uint_fast64_t *sum_of(const struct kill_world *world, uint64_t id)
{
	return &world->board->sums[id >> 32][(id & UINT32_MAX) % KILL_SUMS];
}

/* A sum as it is noted: it tells for which of the blocks that share the place. */
static uint64_t note_of(uint64_t id, uint64_t sum)
{
	return sum ^ kvc_sample_random(&id);
}

void kill_sum_note(const struct kill_world *world, uint64_t id, uint64_t sum)
{
	atomic_store_explicit(sum_of(world, id), note_of(id, sum), memory_order_relaxed);
}

bool kill_bytes_right(const struct kill_world *world, uint64_t id, const void *data)
{
	const struct kvc_sample_space *space = &world->spaces[kill_space_of(world, id)];
	uint64_t sum = kvc_sample_sum_of(data, kvc_sample_bytes(space, id));
	uint64_t expected;

	if (note_of(id, sum) == atomic_load_explicit(sum_of(world, id), memory_order_relaxed))
		return true;
	if (!kvc_sample_sum(space, id, &expected))
		abort();
	return sum == expected;
}

/* ---- calls --------------------------------------------------------------------------------- */

bool kill_status_expected(kvc_status status)
{
	switch (status) {
	case KVC_OK:
	case KVC_MISS:
	case KVC_BUSY:
	case KVC_DEADLINE:
	case KVC_DISCONNECTED:
	case KVC_UNAVAILABLE:
	case KVC_SHUTDOWN:
	case KVC_FENCED:
		return true;
	default:
		return false;
	}
}

bool kill_open_spaces(const struct kill_world *world, struct kvc_client *client,
                      struct kvc_namespace *spaces[KILL_SPACES], kvc_status *status)
{
	for (unsigned i = 0; i < KILL_SPACES;) {
		if (atomic_load(&world->board->stop))
			return false;
		*status = kvc_namespace_open(client, &world->spaces[i].options, 0, &spaces[i]);
		if (*status == KVC_OK)
			i++;
		else if (!kill_status_expected(*status))
			return false;
		else
			kvc_server_step();
	}
	return true;
}
