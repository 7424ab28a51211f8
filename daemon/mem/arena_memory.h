/* The memory of an arena: what arena.c manages. Apart from it, so that a simulation need not map any. */
#ifndef KVC_ARENA_MEMORY_H
#define KVC_ARENA_MEMORY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/stats/stats.h"
#include "proto/kvc_status.h"

struct kvc_arena_memory {
	uint64_t bytes;
	uint8_t *base;
	int fd;                 /* sealed against shrinking and growing */
	kvc_stat_cell *touched; /* borrowed; written by the toucher */
	pthread_t toucher;
	bool toucher_runs;
	atomic_bool stop; /* set by close, read by the toucher; the join orders the rest */
};

/* Map `bytes`, a multiple of the page size, zeroed, and begin to touch them in the background. *memory must
 * not move until it is closed. KVC_NO_MEMORY, with the reason in the log: more than the control group may
 * have, or than can be mapped. */
kvc_status kvc_arena_memory_open(uint64_t bytes, kvc_stat_cell *touched, struct kvc_arena_memory *memory);

void kvc_arena_memory_close(struct kvc_arena_memory *memory);

#endif
