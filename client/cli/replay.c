/* The simulation behind `kvcellar replay`. See replay.h. */
#include "client/cli/replay.h"

#include <stdlib.h>

#include "daemon/policy/admit.h"

#define MS_NS 1000000ull

enum {
	IN_RAM = 1,
	ON_DISK = 2,
	ADMITTED = 4, /* to disk, when it leaves RAM */
	USED = 8,     /* since it was written */
	READ = 16,    /* from disk, likewise */
};

enum {
	GHOSTS_MAX = 1 << 20,
	SEEN_MAX = 1 << 20,
	WINDOWS = 24, /* the trace stands for a day: an hour of it is the admission's window */
};

struct block {
	struct kvc_policy_node node;
	uint8_t flags;
	uint16_t depth; /* blocks before it */
	uint32_t turn;  /* of the request that used it last */
};

/* Block numbers in the order they were written. */
struct ring {
	uint32_t *blocks;
	uint32_t capacity;
	uint32_t first;
	uint32_t count;
};

struct world {
	const struct kvc_trace *trace;
	const struct kvc_replay_setup *setup;
	struct kvc_replay_result *result;
	struct block *blocks;
	struct ring disk;
	struct kvc_policy *policy;
	struct kvc_admit *admit;
	uint64_t ram_used;
	uint32_t part; /* block that the request at hand ends within; KVC_POLICY_NONE: none */
	uint64_t now_ns;
	uint32_t turn; /* number of the request */
};

/* --- what the policy asks --- */

static uint64_t hash_of(uint32_t block)
{
	uint64_t hash = (block + 1) * 0x9E3779B97F4A7C15ull;

	hash ^= hash >> 29;
	hash *= 0xBF58476D1CE4E5B9ull;
	return hash ^ hash >> 32;
}

static struct kvc_policy_node *node_of(void *owner, uint32_t id)
{
	const struct world *world = owner;

	return &world->blocks[id].node;
}

static struct kvc_policy_block block_of(void *owner, uint32_t id)
{
	const struct world *world = owner;

	return (struct kvc_policy_block){
	        .hash = hash_of(id),
	        .bytes = world->setup->block_bytes,
	        .first = world->blocks[id].depth * KVC_TRACE_BLOCK_TOKENS,
	        .tokens = KVC_TRACE_BLOCK_TOKENS,
	};
}

/* --- disk --- */

static bool ask(const struct world *world, enum kvc_admit_kind kind, uint32_t first, uint64_t coin)
{
	const struct kvc_admit_block block = {
	        .kind = kind, .first = first, .coin = coin, .bytes = world->setup->block_bytes};

	return kvc_admit_ask(world->admit, world->now_ns, &block);
}

/* The oldest write goes. A block that is in RAM and was used since may be written again when it leaves. */
static void disk_reclaim(struct world *world)
{
	struct ring *disk = &world->disk;
	struct block *block = &world->blocks[disk->blocks[disk->first]];

	disk->first = (disk->first + 1) % disk->capacity;
	disk->count--;
	block->flags &= (uint8_t)~ON_DISK;
	if (block->flags & IN_RAM && block->flags & USED && ask(world, KVC_ADMIT_AGAIN, 0, 0))
		block->flags |= ADMITTED;
}

static void disk_write(struct world *world, uint32_t id)
{
	struct ring *disk = &world->disk;
	struct block *block = &world->blocks[id];

	if (disk->count == disk->capacity)
		disk_reclaim(world);
	disk->blocks[(disk->first + disk->count++) % disk->capacity] = id;
	block->flags = (uint8_t)((block->flags | ON_DISK) & ~(ADMITTED | USED | READ));
	world->result->written += world->setup->block_bytes;
	kvc_admit_wrote(world->admit, world->now_ns, world->setup->block_bytes, true);
}

/* --- RAM --- */

static void ram_leave(struct world *world, uint32_t id)
{
	struct block *block = &world->blocks[id];

	kvc_policy_evict(world->policy, id);
	world->ram_used -= world->setup->block_bytes;
	block->flags &= (uint8_t)~IN_RAM;
	if (!world->disk.capacity || block->flags & ON_DISK)
		return;
	if (block->flags & ADMITTED)
		disk_write(world, id);
	else
		kvc_admit_remember(world->admit, hash_of(id));
}

/* false: the block does not go into RAM at all */
static bool ram_enter(struct world *world, uint32_t id, enum kvc_policy_how how, uint32_t parent)
{
	const struct kvc_replay_setup *setup = world->setup;
	struct kvc_replay_result *result = world->result;

	while (world->ram_used + setup->block_bytes > setup->ram_bytes) {
		uint32_t victim = kvc_policy_victim(world->policy, KVC_POLICY_ALL, NULL);

		if (victim == KVC_POLICY_NONE)
			return false;
		ram_leave(world, victim);
	}
	kvc_policy_insert(world->policy, id, 0, how, parent);
	world->blocks[id].flags |= IN_RAM;
	world->ram_used += setup->block_bytes;
	if (world->ram_used > result->ram_peak)
		result->ram_peak = world->ram_used;
	return true;
}

/* --- admission --- */

/* Whether the block before it will be on disk when it is: a chain with a hole is worth nothing. */
static bool parent_kept(const struct world *world, uint32_t parent)
{
	return parent == KVC_POLICY_NONE || world->blocks[parent].flags & (ON_DISK | ADMITTED);
}

static void admission(struct world *world, uint32_t id, uint32_t parent, enum kvc_admit_kind kind,
                      uint64_t coin)
{
	struct block *block = &world->blocks[id];
	uint32_t first = id == world->part ? KVC_ADMIT_DEEPEST : block->depth * KVC_TRACE_BLOCK_TOKENS;

	if (!world->disk.capacity || block->flags & (ON_DISK | ADMITTED) || !parent_kept(world, parent))
		return;
	if (ask(world, kind, first, coin))
		block->flags |= ADMITTED;
}

/* --- requests --- */

static uint32_t parent_of(const uint32_t *chain, uint32_t i)
{
	return i ? chain[i - 1] : KVC_POLICY_NONE;
}

/* Leading blocks that are stored. */
static uint32_t prefix_of(const struct world *world, const uint32_t *chain, uint32_t count)
{
	uint32_t hits = 0;

	while (hits < count && world->blocks[chain[hits]].flags & (IN_RAM | ON_DISK))
		hits++;
	return hits;
}

static void use(struct world *world, uint32_t id)
{
	struct block *block = &world->blocks[id];

	block->flags |= USED;
	block->turn = world->turn;
	kvc_policy_hit(world->policy, id, 0);
}

/* Whether the request has no block before this one that is not in RAM, and needs to lose none of its own. */
static bool prefix_stays(const struct world *world, const uint32_t *chain, uint32_t i)
{
	const struct kvc_replay_setup *setup = world->setup;
	uint32_t victim;

	if (i && !(world->blocks[chain[i - 1]].flags & IN_RAM))
		return false;
	if (world->ram_used + setup->block_bytes <= setup->ram_bytes)
		return true;
	victim = kvc_policy_peek(world->policy, KVC_POLICY_ALL, NULL);
	return victim != KVC_POLICY_NONE && world->blocks[victim].turn != world->turn;
}

static bool promotes(const struct world *world, const uint32_t *chain, uint32_t i)
{
	switch (world->setup->promote) {
	case KVC_PROMOTE_PREFIX:
		return prefix_stays(world, chain, i);
	case KVC_PROMOTE_AGAIN:
		return world->blocks[chain[i]].flags & READ;
	case KVC_PROMOTE_NEVER:
		return false;
	case KVC_PROMOTE_ALWAYS:
		break;
	}
	return true;
}

static void load(struct world *world, const uint32_t *chain, uint32_t i)
{
	struct block *block = &world->blocks[chain[i]];
	bool stays;

	if (block->flags & IN_RAM)
		return;
	stays = promotes(world, chain, i);
	block->flags |= USED | READ;
	block->turn = world->turn;
	world->result->read += world->setup->block_bytes;
	/* It may be reclaimed while room is made for it: then it comes too late. */
	if (stays)
		(void)ram_enter(world, chain[i], KVC_POLICY_READ, parent_of(chain, i));
}

static void get(struct world *world, const uint32_t *chain, uint32_t hits)
{
	struct kvc_replay_result *result = world->result;

	for (uint32_t i = 0; i < hits; i++) {
		if (world->blocks[chain[i]].flags & IN_RAM) {
			result->hits_ram++;
			admission(world, chain[i], parent_of(chain, i), KVC_ADMIT_AGAIN, 0);
		} else {
			result->hits_disk++;
		}
	}
	if (kvc_policy_deepest_first(world->policy)) {
		for (uint32_t i = hits; i-- > 0;)
			use(world, chain[i]);
		for (uint32_t i = 0; i < hits; i++)
			load(world, chain, i);
		return;
	}
	for (uint32_t i = 0; i < hits; i++) {
		if (world->blocks[chain[i]].flags & IN_RAM)
			use(world, chain[i]);
		else
			load(world, chain, i);
	}
}

static void put(struct world *world, const uint32_t *chain, uint32_t i, uint64_t coin)
{
	uint32_t id = chain[i];
	struct block *block = &world->blocks[id];
	enum kvc_admit_kind kind = KVC_ADMIT_FRESH;

	if (block->flags & (IN_RAM | ON_DISK)) {
		use(world, id);
		return;
	}
	block->flags = 0;
	block->depth = i < UINT16_MAX ? (uint16_t)i : UINT16_MAX;
	kvc_policy_arrive(world->policy, id, parent_of(chain, i));
	if (!ram_enter(world, id, KVC_POLICY_NEW, parent_of(chain, i)))
		return;
	if (kvc_admit_came_back(world->admit, hash_of(id)))
		kind = KVC_ADMIT_AGAIN;
	admission(world, id, parent_of(chain, i), kind, coin);
}

static void request(struct world *world, const struct kvc_trace_request *request)
{
	const uint32_t *chain = world->trace->blocks + request->first;
	uint32_t hits = prefix_of(world, chain, request->count);

	world->now_ns = (uint64_t)(request->time_ms * (double)MS_NS);
	world->result->blocks += request->count;
	world->turn++;
	world->part = KVC_POLICY_NONE;
	if (request->count && request->input_tokens < (uint64_t)request->count * KVC_TRACE_BLOCK_TOKENS)
		world->part = chain[request->count - 1];
	get(world, chain, hits);
	for (uint32_t i = hits; i < request->count; i++)
		put(world, chain, i, hash_of(chain[hits]));
}

/* --- set-up --- */

static bool world_open(struct world *world)
{
	const struct kvc_replay_setup *setup = world->setup;
	uint64_t fits = setup->disk_bytes / setup->block_bytes;
	struct kvc_policy_options policy = {
	        .kind = setup->policy,
	        .capacity = setup->ram_bytes,
	        .ghosts_max = GHOSTS_MAX,
	        .node = node_of,
	        .block = block_of,
	        .owner = world,
	};
	struct kvc_admit_options admit = {
	        .day_bytes = setup->budget_bytes,
	        .window_s = (uint64_t)(world->trace->duration_ms / 1000 / (double)WINDOWS) + 1,
	        .seen_max = SEEN_MAX,
	};

	world->disk.capacity = fits < world->trace->distinct ? (uint32_t)fits : world->trace->distinct;
	world->blocks = calloc(world->trace->distinct, sizeof(*world->blocks));
	world->disk.blocks = calloc((size_t)world->disk.capacity + 1, sizeof(*world->disk.blocks));
	return world->blocks && world->disk.blocks && kvc_policy_open(&policy, &world->policy) == KVC_OK &&
	       kvc_admit_open(&admit, 0, &world->admit) == KVC_OK;
}

static void world_close(struct world *world)
{
	if (world->policy)
		kvc_policy_close(world->policy);
	if (world->admit)
		kvc_admit_close(world->admit);
	free(world->disk.blocks);
	free(world->blocks);
}

bool kvc_replay_run(const struct kvc_trace *trace, const struct kvc_replay_setup *setup,
                    struct kvc_replay_result *result)
{
	struct world world = {.trace = trace, .setup = setup, .result = result};
	bool good;

	*result = (struct kvc_replay_result){0};
	good = world_open(&world);
	for (uint32_t i = 0; good && i < trace->request_count; i++)
		request(&world, &trace->requests[i]);
	result->disk_peak = result->written;
	if (result->disk_peak > world.disk.capacity * setup->block_bytes)
		result->disk_peak = world.disk.capacity * setup->block_bytes;
	world_close(&world);
	return good;
}
