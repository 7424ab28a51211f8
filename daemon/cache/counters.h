/* What the cache counts: "cache.*" of the daemon's statistics. Inside daemon/cache only. */
#ifndef KVC_CACHE_COUNTERS_H
#define KVC_CACHE_COUNTERS_H

#include "daemon/stats/stats.h"

struct kvc_cache_counters {
	kvc_stat_cell *entries;
	kvc_stat_cell *index_bytes;
	kvc_stat_cell *puts;
	kvc_stat_cell *puts_present;
	kvc_stat_cell *gets;
	kvc_stat_cell *hits_vram;
	kvc_stat_cell *hits_ram;
	kvc_stat_cell *hits_disk;
	kvc_stat_cell *misses;
	kvc_stat_cell *corrupt;
	kvc_stat_cell *reread;
	kvc_stat_cell *lookups;
	kvc_stat_cell *lookup_keys;
	kvc_stat_cell *evicted;
	kvc_stat_cell *lost;
	kvc_stat_cell *demoted;
	kvc_stat_cell *promoted;
	kvc_stat_cell *read_ahead;
	kvc_stat_cell *lowered;
	kvc_stat_cell *raised;
	kvc_stat_cell *recovered;
	kvc_stat_cell *busy;
	kvc_stat_cell *pins;
	kvc_stat_cell *expiring;
	kvc_stat_cell *expiry_bytes;
	kvc_stat_cell *expired;
	kvc_stat_cell *wear_throttled;
	kvc_stat_cell *admitted_day;
	kvc_stat_cell *budget_day;
	kvc_stat_cell *credit;
	kvc_stat_cell *scrub_bytes;
	kvc_stat_cell *scrub_bad;
	kvc_stat_cell *scrub_passes;
};

#endif
