/* daemon/mem/arena_memory.h without mappings and threads: a history opens several arenas, and what it
 * simulates begins with the slabs. What an arena leaves behind is not there in the next one. */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/check.h"
#include "daemon/mem/arena.h"
#include "daemon/mem/arena_memory.h"
#include "tests/sim/world.h"

enum { POISON = 0xA5 };

static _Alignas(KVC_ARENA_PAGE) uint8_t room[ARENA]; /* of one arena; others come from the heap */
static bool room_taken;

kvc_status kvc_arena_memory_open(uint64_t bytes, kvc_stat_cell *touched, struct kvc_arena_memory *memory)
{
	bool fits = bytes <= sizeof room && !room_taken;
	uint8_t *base = fits ? room : aligned_alloc(KVC_ARENA_PAGE, bytes);

	KVC_INVARIANT(base);
	room_taken = room_taken || fits;
	memset(base, POISON, bytes);
	*memory = (struct kvc_arena_memory){.bytes = bytes, .base = base, .fd = -1, .touched = touched};
	return KVC_OK;
}

void kvc_arena_memory_close(struct kvc_arena_memory *memory)
{
	if (memory->base == room)
		room_taken = false;
	else
		free(memory->base);
}
