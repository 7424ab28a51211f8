/* Counters and gauges by name. Registered once at start; updated by plain stores of the loop thread, or by
 * relaxed atomics from other threads; read by the stats verb. */
#ifndef KVC_STATS_H
#define KVC_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "proto/kvc_status.h"

#define KVC_STATS_MAX 512u

struct kvc_stats;

/* A number with a name. Relaxed atomics throughout: a statistic orders nothing. */
typedef atomic_int_fast64_t kvc_stat_cell;

kvc_status kvc_stats_open(struct kvc_stats **stats);
void kvc_stats_close(struct kvc_stats *stats);

/* The cell of that name, made if it is new; the name is borrowed and must be static ("ram.used_bytes"). Never
 * NULL: over KVC_STATS_MAX an assertion fails. */
kvc_stat_cell *kvc_stats_cell(struct kvc_stats *stats, const char *name);

static inline void kvc_stat_add(kvc_stat_cell *cell, int64_t n)
{
	atomic_fetch_add_explicit(cell, n, memory_order_relaxed);
}

static inline void kvc_stat_set(kvc_stat_cell *cell, int64_t n)
{
	atomic_store_explicit(cell, n, memory_order_relaxed);
}

static inline int64_t kvc_stat_get(kvc_stat_cell *cell)
{
	return atomic_load_explicit(cell, memory_order_relaxed);
}

/* All cells in the order of registration. */
uint32_t kvc_stats_count(const struct kvc_stats *stats);
void kvc_stats_read(struct kvc_stats *stats, uint32_t i, const char **name, int64_t *value);

#endif
