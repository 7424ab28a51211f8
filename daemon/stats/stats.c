/* The table of counters: a fixed array, so that a cell never moves and reading needs no lock.
 *
 * Cells are registered on the loop thread; the table owns them, names are the callers' static strings. */
#include "daemon/stats/stats.h"

#include <string.h>

#include "daemon/base/alloc.h"
#include "daemon/base/check.h"

struct stat_row {
	const char *name;
	kvc_stat_cell cell;
};

struct kvc_stats {
	uint32_t count;
	struct stat_row rows[KVC_STATS_MAX];
};

kvc_status kvc_stats_open(struct kvc_stats **stats)
{
	struct kvc_stats *opened = kvc_calloc(1, sizeof *opened);

	if (!opened)
		return KVC_NO_MEMORY;
	*stats = opened;
	return KVC_OK;
}

void kvc_stats_close(struct kvc_stats *stats)
{
	kvc_free(stats);
}

kvc_stat_cell *kvc_stats_cell(struct kvc_stats *stats, const char *name)
{
	for (uint32_t i = 0; i < stats->count; i++)
		if (!strcmp(stats->rows[i].name, name))
			return &stats->rows[i].cell;
	KVC_PRE(stats->count < KVC_STATS_MAX);
	stats->rows[stats->count].name = name;
	return &stats->rows[stats->count++].cell;
}

uint32_t kvc_stats_count(const struct kvc_stats *stats)
{
	return stats->count;
}

void kvc_stats_read(struct kvc_stats *stats, uint32_t i, const char **name, int64_t *value)
{
	KVC_PRE(i < stats->count);
	*name = stats->rows[i].name;
	*value = kvc_stat_get(&stats->rows[i].cell);
}
